// Elements, numbers for people, sparklines, tables of any length. Whatever comes from outside is set as text only.

/** `h("span.title", { title: … }, child, …)`: attributes may be left out; functions among them are listeners. */
function make(element, classes, children) {
  const [first] = children;
  const attributes = first && Object.getPrototypeOf(first) === Object.prototype ? children.shift() : {};
  if (classes) element.setAttribute("class", classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value || value === 0) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((each) => each || each === 0));
  return element;
}

export function h(selector, ...children) {
  const [tag, classes] = selector.split(".");
  return make(document.createElement(tag), classes, children);
}
const svg = (tag, classes, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), classes, children);
export const button = (text, click, kind) => h("button", { type: "button", class: kind, click }, text);
export const part = (title, ...body) => h("section.part", h("h2", title), body);
export const head = (back, ...body) => h("div.head", h("a.back", { href: `#/${back.toLowerCase()}` }, back), body);

/** Set the text, or the classes, of an element if they are others. */
export function say(element, text) {
  if (element.shown !== text) element.textContent = element.shown = text;
}

export function mark(element, classes) {
  if (element.marked !== classes) element.setAttribute("class", (element.marked = classes));
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const count = (n) =>
  n < 1e7 ? whole.format(n) : n < 1e9 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e9).toFixed(1)} G`;

/** A count of which nothing is the usual: a dot is quieter than a column of zeros. */
export const some = (n) => (n ? count(n) : "·");
export const rate = (n) => (n && n < 10 ? n.toFixed(1) : some(n));
export const names = (list) =>
  list.length > 6 ? `${list.slice(0, 6).join(", ")} and ${list.length - 6} more` : list.join(", ");

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "·";
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes}m ${Math.floor(seconds % 60)}s` : `${minutes} min`;
  return hours < 48 ? `${hours}h ${minutes % 60}m` : `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

export function bytes(n) {
  if (!n) return "·";
  let unit = 0;
  for (; n >= 1000 && unit < 5; unit += 1) n /= 1024;
  return `${n.toFixed(unit && n < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** Rates in (a line) and out (an area) of one history. */
export class Sparkline {
  constructor(width, height, points) {
    Object.assign(this, { width, height, points });
    this.out = svg("path", "out");
    this.in = svg("path", "in");
    this.element = svg(
      "svg",
      "spark",
      { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" },
      this.out,
      this.in,
    );
  }

  /** Returns the highest of what it shows. */
  show(history) {
    const given = history ? history.means(history.in, this.points) : [];
    const taken = history ? history.means(history.out, this.points) : [];
    const top = given.concat(taken).reduce((a, b) => (b > a ? b : a), 0);
    this.in.setAttribute("d", this.path(given, top, false));
    this.out.setAttribute("d", this.path(taken, top, true));
    return top;
  }

  /** A line with gaps where nothing is known; each stretch of it closed along the ground, if it is an `area`. */
  path(values, top, area) {
    const { width, height } = this;
    let path = "";
    let first = null;
    let last = null;
    const close = () => {
      if (area && first !== null) path += `L${last} ${height}L${first} ${height}Z`;
      first = null;
    };
    values.forEach((value, n) => {
      if (value !== value) {
        close();
        return;
      }
      last = ((n / (values.length - 1)) * width).toFixed(1);
      path += `${first === null ? "M" : "L"}${last} ${(height - 1 - (value / (top || 1)) * (height - 3)).toFixed(1)}`;
      first ??= last;
    });
    close();
    return path;
  }
}

/** The field that is called as a title: "In flight" in_flight, "In / s" in. */
export const field = (title) => title.toLowerCase().replace(" / s", "").replaceAll(" ", "_");

/**
 * Columns of a table: `get(row)` is what it is sorted by, without it the field that is called as the title. `more` may
 * have `mark(row)`, classes of the cell; `draw(cell, row)` for what is no text; `text(row)`; `hint`; `kind`.
 */
const maker =
  (kind, format) =>
  (title, get = (row) => row[field(title)], more = {}) => ({
    title,
    get,
    text: (row) => format(get(row)),
    kind,
    ...more,
  });
export const number = maker("number", some);
export const speed = maker("number", rate);
export const time = maker("number", age);
export const size = maker("number", bytes);
export const words = maker("text", String);
export const name = maker("name", String);
/** Left out on small screens. */
export const low = (column) => ({ ...column, low: true });

const WINDOWED = 80; // rows from which on only those in sight are drawn
const AHEAD = 12; // and so many beyond the edges

/**
 * A table of which only the rows in sight exist. Options: `open(row)` its link, `empty` a text, `sort` a column,
 * `down`, `rows(row)` classes.
 */
export class Table {
  constructor(id, columns, key, { open, empty = "None.", sort = 0, down = false, rows } = {}) {
    Object.assign(this, { id, columns, key, open, rows, sorted: [], pool: [], places: new Map(), held: false });
    const kept = /^(\d+)([+-])$/.exec(localStorage.getItem(`peerfabric.sort.${id}`));
    this.column = kept && columns[kept[1]] ? Number(kept[1]) : sort;
    this.down = kept ? kept[2] === "-" : down;
    this.heads = columns.map((column, n) =>
      h(
        "th",
        {
          class: this.classes(column),
          title: column.hint,
          tabindex: column.get && 0,
          click: () => this.sortBy(n),
          keydown: (event) => event.key === "Enter" && this.sortBy(n),
        },
        column.title,
      ),
    );
    const space = () => h("tr.space", h("td", { colspan: columns.length }));
    this.before = space();
    this.after = space();
    this.body = h(
      "tbody",
      {
        // Rows do not change their places under the pointer.
        pointerenter: (event) => {
          this.held = event.pointerType === "mouse";
        },
        pointerleave: () => {
          this.held = false;
        },
      },
      this.before,
      this.after,
    );
    this.none = h("p.none", empty);
    this.table = h(`table.t-${id}`, h("thead", h("tr", this.heads)), this.body);
    this.element = h("div.table", this.table, this.none);
    this.arrows();
  }

  classes({ kind, low, get }) {
    return `${kind}${low ? " low" : ""}${get ? " sorts" : ""}`;
  }

  sortBy(n) {
    const { get, kind } = this.columns[n];
    if (!get) return;
    this.down = this.column === n ? !this.down : kind === "number";
    this.column = n;
    this.held = false;
    localStorage.setItem(`peerfabric.sort.${this.id}`, `${n}${this.down ? "-" : "+"}`);
    this.arrows();
    this.show(this.sorted);
  }

  arrows() {
    this.heads.forEach((head, n) => {
      if (n === this.column) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  show(rows) {
    // In the order of the last time, which is nearly the one of this time.
    const known = new Array(this.places.size);
    const fresh = [];
    for (const row of rows) {
      const key = this.key(row);
      const place = this.places.get(key);
      if (place === undefined) fresh.push({ row, key });
      else known[place] = { row, key };
    }
    const ordered = known.filter(Boolean).concat(fresh);
    if (!this.held) {
      const { get } = this.columns[this.column];
      const sign = this.down ? -1 : 1;
      for (const each of ordered) each.value = get(each.row) ?? -Infinity;
      ordered.sort((a, b) => (a.value < b.value ? -sign : a.value > b.value ? sign : a.key < b.key ? -1 : 1));
    }
    this.places = new Map(ordered.map((each, place) => [each.key, place]));
    this.sorted = ordered.map((each) => each.row);
    this.none.hidden = rows.length > 0;
    this.table.hidden = !rows.length;
    this.draw();
  }

  row() {
    const cells = this.columns.map((column) => h("td", { class: this.classes(column), "data-title": column.title }));
    const element = h(
      "tr",
      {
        click: (event) => {
          if (this.open && !event.target.closest("a, button") && !String(getSelection()))
            location.hash = this.open(element.row);
        },
      },
      cells,
    );
    if (this.open) cells[0].append((cells[0].link = h("a")));
    element.list = cells;
    return element;
  }

  /** Draw the rows that are in sight; `resized`: they may have another height than before. */
  draw(resized) {
    const { sorted, pool } = this;
    let [from, to] = [0, sorted.length];
    if (resized) this.height = 0;
    if (to > WINDOWED) {
      to = WINDOWED;
      if (this.height) {
        const top = -this.body.getBoundingClientRect().top;
        from = Math.max(0, Math.min(sorted.length - 1, Math.floor(top / this.height) - AHEAD));
        to = Math.max(from + 1, Math.min(sorted.length, Math.ceil((top + innerHeight) / this.height) + AHEAD));
      }
    }
    while (pool.length < to - from) {
      pool.push(this.row());
      this.after.before(pool.at(-1));
    }
    while (pool.length > to - from) pool.pop().remove();
    for (const [space, left] of [
      [this.before, from],
      [this.after, sorted.length - to],
    ]) {
      space.hidden = !left;
      space.firstChild.style.height = `${left * (this.height || 0)}px`;
    }
    pool.forEach((element, n) => this.put(element, sorted[from + n]));
    if (!this.height && sorted.length > WINDOWED && (this.height = pool[0].offsetHeight)) this.draw();
  }

  put(element, row) {
    element.row = row;
    mark(element, `${this.open ? "opens " : ""}${this.rows ? this.rows(row) : ""}`);
    this.columns.forEach((column, n) => {
      const cell = element.list[n];
      if (column.mark) mark(cell, `${this.classes(column)} ${column.mark(row) || ""}`);
      if (column.draw) column.draw(cell, row);
      else say(cell.link || cell, column.text(row));
    });
    const { link } = element.list[0];
    const to = link && this.open(row);
    if (link && link.to !== to) link.setAttribute("href", (link.to = to));
  }
}
