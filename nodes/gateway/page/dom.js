// Elements, numbers for people, sparklines, tables of any length. Whatever comes from outside is set as text only.

/** `h("span.title", { title: … }, child, …)`: attributes may be left out; functions among them are listeners. */
const maker = (create) => (selector, ...children) => {
  const [tag, classes] = selector.split(".");
  const [first] = children;
  const attributes = first && Object.getPrototypeOf(first) === Object.prototype ? children.shift() : {};
  const element = create(tag);
  for (const [name, value] of Object.entries({ class: classes, ...attributes })) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value || value === 0) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((each) => each || each === 0));
  return element;
};
export const h = maker((tag) => document.createElement(tag));
const svg = maker((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));

export const button = (text, click, kind) => h("button", { type: "button", class: kind, click }, text);
export const part = (title, { element }) => h("section.part", h("h2", title), element);

/** A view of one thing, with the way back to the list it is in. */
export const detail = (back, head, ...body) =>
  h("section.detail", h("div.head", h("a.back", { href: `#/${back.toLowerCase()}` }, back), head), body);

/** Set the text, or the classes, of an element if they are others. */
export function say(element, text) {
  if (element.shown !== text) element.textContent = element.shown = text;
}

export function mark(element, classes) {
  if (element.marked !== classes) element.setAttribute("class", (element.marked = classes));
}

/** As many elements as are needed: `add()` makes one more at the end. */
export function fit(elements, size, add) {
  while (elements.length < size) elements.push(add());
  while (elements.length > size) elements.pop().remove();
}

/** `step` in the next frame, and once, however often it is asked for until then. */
export function framed(step) {
  let asked = false;
  return () => {
    if (!asked)
      requestAnimationFrame(() => {
        asked = false;
        step();
      });
    asked = true;
  };
}

// ---- numbers ----

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const count = (n) =>
  n < 1e7 ? whole.format(n) : n < 1e9 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e9).toFixed(1)} G`;

/** A count of which nothing is the usual: a dot is quieter than a column of zeros. */
const some = (n) => (n ? count(n) : "·");
const speeds = (n) => (n && n < 10 ? n.toFixed(1) : some(n));
export const rate = (n) => (n ? speeds(n) : "0");
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

/** The field that is called as a title: "In flight" in_flight, "In / s" in. */
export const field = (title) => title.toLowerCase().replace(" / s", "").replaceAll(" ", "_");

/** Titles with what they are called after: the fields of `record`, of which a number is a count. */
export class Fields {
  constructor(attributes) {
    this.element = h("dl", attributes);
    this.values = new Map();
  }

  show(titles, record, of = field) {
    for (const title of titles) {
      const value = record[of(title)];
      let cell = this.values.get(title);
      if (!cell) {
        this.values.set(title, (cell = h("dd", value instanceof Element && value)));
        this.element.append(h("div", h("dt", title), cell));
      }
      if (!cell.firstElementChild) say(cell, typeof value === "number" ? count(value) : value || "·");
    }
    return this.element;
  }
}

/** Rates in (a line) and out (an area) of one history. */
export class Sparkline {
  constructor(width, height, points) {
    Object.assign(this, { width, height, points, in: svg("path.in"), out: svg("path.out") });
    const shape = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" };
    this.element = svg("svg.spark", shape, this.out, this.in);
  }

  /** Returns the highest of what it shows. */
  show(history) {
    const [given, taken] = ["in", "out"].map((side) => (history ? history.means(history[side], this.points) : []));
    const top = given.concat(taken).reduce((a, b) => (b > a ? b : a), 0);
    this.in.setAttribute("d", this.path(given, top, false));
    this.out.setAttribute("d", this.path(taken, top, true));
    return top;
  }

  /** A line with gaps where nothing is known; each stretch of it closed along the ground, if it is an `area`. */
  path(values, top, area) {
    const { width, height } = this;
    return values.map((value, n) => {
      if (Number.isNaN(value)) return "";
      const x = ((n / (values.length - 1)) * width).toFixed(1);
      const at = `${x} ${(height - 1 - (value / (top || 1)) * (height - 3)).toFixed(1)}`;
      const [first, last] = [n - 1, n + 1].map((next) => !(values[next] >= 0));
      return (first ? `M${area ? `${x} ${height}L` : ""}` : "L") + at + (area && last ? `L${x} ${height}Z` : "");
    }).join("");
  }
}

// ---- tables ----

/**
 * Columns of a table: title, what it shows and is sorted by (`get(row)`, or the name of a field, which may be left out
 * if the title is it), and further: `bad`, `warn`, `faint`: it is to be seen as that, if not 0, or if a function of the
 * row says so; `text(row)`; `hint`; `badges(row)`: [text, kind] each; `draw(cell, row)` for what is no text.
 */
const column = (kind, format) => (title, ...more) => {
  const options = more.length && typeof more.at(-1) === "object" ? more.pop() : {};
  const [wanted = field(title)] = more;
  const path = String(wanted).split(".");
  const get = typeof wanted === "function" ? wanted : (row) => path.reduce((found, key) => found[key], row);
  return { title, kind, get, text: (row) => format(get(row)), ...options };
};
export const number = column("number", some);
export const speed = column("number", speeds);
export const time = column("number", age);
export const size = column("number", bytes);
export const amount = column("number", String);
export const words = column("text", String);
export const code = column("text code", String);
export const name = column("name", String);
/** Left out on small screens. */
export const low = (...columns) => columns.map((column) => ({ ...column, low: true }));

const WINDOWED = 80; // rows from which on only those in sight are drawn
const AHEAD = 12; // and so many beyond the edges

/**
 * A table of which only the rows in sight exist. Options: `open(row)` its link, `empty` a text, `sort` a column,
 * `down`, `rows(row)` classes, `key(row)`.
 */
export class Table {
  constructor(id, columns, { open, empty, sort = 0, down = false, rows, key = (row) => row.key }) {
    this.columns = columns.flat().map((column) => ({
      ...column,
      classes: `${column.kind}${column.low ? " low" : ""}${column.get ? " sorts" : ""}`,
      marks: ["bad", "warn", "faint"].filter((kind) => column[kind]),
    }));
    Object.assign(this, { kept: `peerfabric.sort.${id}`, key, open, rows, sorted: [], pool: [] });
    Object.assign(this, { places: new Map(), height: 0 });
    const kept = /^(\d+)([+-])$/.exec(localStorage.getItem(this.kept));
    [this.column, this.down] = kept && this.columns[kept[1]] ? [Number(kept[1]), kept[2] === "-"] : [sort, down];
    this.heads = this.columns.map(({ title, hint, classes, get }, n) => {
      const click = () => this.sortBy(n);
      const keydown = (event) => event.key === "Enter" && click();
      return h("th", { class: classes, title: hint, ...(get && { tabindex: 0, click, keydown }) }, title);
    });
    [this.before, this.after] = [0, 1].map(() => h("tr.space", h("td", { colspan: this.columns.length })));
    // Rows do not change their places under the pointer.
    const pointerenter = (event) => (this.held = event.pointerType === "mouse");
    const pointerleave = () => (this.held = false);
    this.body = h("tbody", { pointerenter, pointerleave }, this.before, this.after);
    this.none = h("p.none", empty);
    this.table = h(`table.t-${id}`, h("thead", h("tr", this.heads)), this.body);
    this.element = h("div.table", this.table, this.none);
  }

  sortBy(n) {
    this.down = this.column === n ? !this.down : this.columns[n].kind === "number";
    this.column = n;
    this.held = false;
    localStorage.setItem(this.kept, `${n}${this.down ? "-" : "+"}`);
    this.show(this.sorted);
  }

  show(rows) {
    // In the order of the last time, which is nearly the one of this time.
    const known = new Array(this.places.size);
    for (const row of rows) {
      const key = this.key(row);
      known[this.places.get(key) ?? known.length] = { row, key };
    }
    const ordered = known.filter(Boolean);
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
    const order = this.down ? "descending" : "ascending";
    this.heads.forEach((head, n) => head.setAttribute("aria-sort", n === this.column ? order : "none"));
    this.draw();
  }

  /** One more element for a row. */
  add() {
    const click = (event) => {
      if (this.open && !event.target.closest("a, button") && !String(getSelection()))
        location.hash = this.open(element.row);
    };
    const cells = this.columns.map(({ classes, title }) => h("td", { class: classes, "data-title": title }));
    const element = h("tr", { click }, cells);
    element.list = cells;
    cells[0].append((cells[0].inner = h(this.open ? "a" : "span")));
    this.after.before(element);
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
    fit(pool, to - from, () => this.add());
    this.before.firstChild.style.height = `${from * this.height}px`;
    this.after.firstChild.style.height = `${(sorted.length - to) * this.height}px`;
    pool.forEach((element, n) => this.put(element, sorted[from + n]));
    if (!this.height && sorted.length > WINDOWED && (this.height = pool[0].offsetHeight)) this.draw();
  }

  put(element, row) {
    element.row = row;
    mark(element, `${this.open ? "opens " : ""}${this.rows ? this.rows(row) : ""}`);
    this.columns.forEach((column, n) => {
      const cell = element.list[n];
      const { classes, marks, get } = column;
      const is = (kind) => (column[kind] === true ? get : column[kind])(row);
      if (marks.length) mark(cell, `${classes} ${marks.find(is) || ""}`);
      if (column.draw) column.draw(cell, row);
      else say(cell.inner || cell, column.text(row));
      if (column.badges) this.badge(cell, column.badges(row));
    });
    const { inner } = element.list[0];
    const to = this.open && this.open(row);
    if (to && inner.to !== to) inner.setAttribute("href", (inner.to = to));
  }

  /** What is out of the ordinary, in a word each. */
  badge(cell, badges) {
    const found = badges.filter((each) => each && each[0]);
    if (cell.badges === String(found)) return;
    cell.badges = String(found);
    cell.replaceChildren(cell.inner, ...found.map(([text, kind]) => h(`i.badge ${kind}`, text)));
  }
}
