// Elements, numbers for people, sparklines, tables of any length. Whatever comes from outside is set as text only.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** Set the text of an element, if it is another one. */
export function say(element, text) {
  if (element.shown !== text) {
    element.shown = text;
    element.textContent = text;
  }
}

export function mark(element, classes) {
  if (element.marked !== classes) {
    element.marked = classes;
    element.setAttribute("class", classes);
  }
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(n) {
  if (n < 10_000_000) return whole.format(n);
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e9).toFixed(1)} G`;
}

/** A count of which nothing is the usual: a dot is quieter than a column of zeros. */
export const some = (n) => (n ? count(n) : "·");

export function perSecond(n) {
  if (!n) return "·";
  return n < 10 ? n.toFixed(1) : count(n);
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "·";
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function bytes(n) {
  if (!n) return "·";
  let unit = 0;
  for (; n >= 1000 && unit < 5; unit += 1) n /= 1024;
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

function line(values, width, height, top) {
  let path = "";
  let pen = "M";
  values.forEach((value, n) => {
    if (value !== value) { pen = "M"; return; }
    const x = (n / (values.length - 1)) * width;
    path += `${pen}${x.toFixed(1)} ${(height - 1 - (value / top) * (height - 3)).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

/** Rates in (a line) and out (an area) of one history. */
export class Sparkline {
  constructor(width, height, points) {
    Object.assign(this, { width, height, points });
    this.out = svg("path", { class: "out" });
    this.in = svg("path", { class: "in" });
    this.element = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": true }, this.out, this.in);
    this.shown = "";
  }

  /** Returns the highest of what it shows. */
  show(history) {
    if (!history) {
      if (this.shown !== "none") {
        this.shown = "none";
        this.in.setAttribute("d", "");
        this.out.setAttribute("d", "");
      }
      return 0;
    }
    const given = history.means(history.in, this.points);
    const taken = history.means(history.out, this.points);
    let top = 0;
    for (const value of given) if (value > top) top = value;
    for (const value of taken) if (value > top) top = value;
    const scale = top || 1;
    const area = line(taken, this.width, this.height, scale);
    // Each stretch without a gap is closed along the ground.
    const closed = area.replace(/M([\d.]+) ([^M]*)/g, (part, x) => {
      const last = /([\d.]+) [\d.-]+$/.exec(part);
      return `${part}L${last ? last[1] : x} ${this.height}L${x} ${this.height}Z`;
    });
    this.shown = "some";
    this.in.setAttribute("d", line(given, this.width, this.height, scale));
    this.out.setAttribute("d", closed);
    return top;
  }
}

const AHEAD = 12; // rows that are drawn beyond the edges of the window

/**
 * A table of which only the rows in sight exist.
 *
 * A column has `title`, `text(row)`, and perhaps: `by(row)` what it is sorted by; `mark(row)` classes of its cell;
 * `kind` "name", "text" or nothing, for numbers; `hint`; `draw(cell, row)` for what is no text; `low`: left out on small screens.
 */
export class Table {
  constructor(id, columns, { key, open, empty = "None.", sort = 0, order = null, rows = null }) {
    Object.assign(this, { id, columns, key, open, empty, rowClass: rows });
    this.keys = new Map();
    this.pool = [];
    this.sorted = [];
    this.held = false;
    const kept = /^(\d+)([+-])$/.exec(localStorage.getItem(`peerfabric.sort.${id}`) || "");
    this.column = kept && columns[kept[1]] ? Number(kept[1]) : sort;
    this.down = kept ? kept[2] === "-" : (order ?? columns[sort].kind === undefined);
    this.heads = columns.map((column, n) => h("th", {
      class: this.classes(column), scope: "col", title: column.hint,
      click: () => this.sortBy(n), keydown: (event) => { if (event.key === "Enter") this.sortBy(n); },
      tabindex: column.by ? 0 : null,
    }, column.title));
    this.before = h("tr", { class: "space" }, h("td", { colspan: columns.length }));
    this.after = h("tr", { class: "space" }, h("td", { colspan: columns.length }));
    this.body = h("tbody", {
      // Rows do not change their places under the pointer.
      pointerenter: (event) => { this.held = event.pointerType === "mouse"; },
      pointerleave: () => { this.held = false; },
    }, this.before, this.after);
    this.none = h("p", { class: "none" }, empty);
    this.table = h("table", { class: `t-${id}` }, h("thead", null, h("tr", null, this.heads)), this.body);
    this.element = h("div", { class: "table" }, this.table, this.none);
    this.arrows();
  }

  classes(column) {
    return [column.kind ?? "number", column.low && "low", column.by && "sorts"].filter(Boolean).join(" ");
  }

  sortBy(n) {
    if (!this.columns[n].by) return;
    this.down = this.column === n ? !this.down : this.columns[n].kind === undefined;
    this.column = n;
    this.held = false;
    localStorage.setItem(`peerfabric.sort.${this.id}`, `${n}${this.down ? "-" : "+"}`);
    this.arrows();
    this.show(this.sorted);
  }

  arrows() {
    this.heads.forEach((head, n) => {
      if (n === this.column && this.columns[n].by) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  show(rows) {
    const { by } = this.columns[this.column];
    const places = this.keys;
    // In the order of the last time, which is nearly the one of this time.
    const known = new Array(places.size);
    const fresh = [];
    for (const row of rows) {
      const key = this.key(row);
      const place = places.get(key);
      if (place === undefined) fresh.push({ row, key, value: null });
      else known[place] = { row, key, value: null };
    }
    const ordered = known.filter(Boolean).concat(fresh);
    if (by && !this.held) {
      for (const each of ordered) each.value = by(each.row);
      const sign = this.down ? -1 : 1;
      ordered.sort((a, b) => {
        if (a.value !== b.value) {
          if (a.value === null) return 1;
          if (b.value === null) return -1;
          return a.value < b.value ? -sign : sign;
        }
        return a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
      });
    }
    this.keys = new Map(ordered.map((each, place) => [each.key, place]));
    this.sorted = ordered.map((each) => each.row);
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    this.draw();
  }

  row() {
    const cells = this.columns.map((column) => {
      const cell = h("td", { class: this.classes(column), "data-title": column.title });
      cell.plain = this.classes(column);
      return cell;
    });
    if (this.open) {
      const link = h("a", null);
      cells[0].append(link);
      cells[0].link = link;
    }
    const element = h("tr", {
      class: this.open ? "opens" : null,
      click: (event) => {
        if (this.open && element.data && !event.target.closest("a, button") && !String(getSelection())) location.hash = this.open(element.data);
      },
    }, cells);
    element.list = cells;
    return element;
  }

  /** Draw the rows that are in sight. */
  draw() {
    const { sorted, pool } = this;
    let from = 0;
    let to = sorted.length;
    if (sorted.length > 80) {
      if (!this.height) this.height = pool.length && pool[0].offsetHeight;
      if (this.height) {
        const top = -this.body.getBoundingClientRect().top;
        from = Math.max(0, Math.min(sorted.length - 1, Math.floor(top / this.height) - AHEAD));
        to = Math.min(sorted.length, Math.ceil((top + innerHeight) / this.height) + AHEAD);
        to = Math.max(to, from + 1);
      } else to = 40;
    }
    while (pool.length < to - from) {
      const row = this.row();
      pool.push(row);
      this.after.before(row);
    }
    while (pool.length > to - from) pool.pop().remove();
    const spaces = [from * (this.height || 0), (sorted.length - to) * (this.height || 0)];
    [this.before, this.after].forEach((space, n) => {
      space.hidden = !spaces[n];
      space.firstChild.style.height = `${spaces[n]}px`;
    });
    pool.forEach((element, n) => this.put(element, sorted[from + n]));
  }

  put(element, row) {
    element.data = row;
    if (this.rowClass) mark(element, `${this.open ? "opens " : ""}${this.rowClass(row)}`);
    this.columns.forEach((column, n) => {
      const cell = element.list[n];
      if (column.mark) mark(cell, `${cell.plain} ${column.mark(row) || ""}`);
      if (column.draw) column.draw(cell, row);
      else say(cell.link || cell, column.text(row));
      if (cell.link) {
        const to = this.open(row);
        if (cell.link.to !== to) cell.link.setAttribute("href", (cell.link.to = to));
      }
    });
  }

  resized() {
    this.height = 0;
  }
}
