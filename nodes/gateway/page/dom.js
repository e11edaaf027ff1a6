// Elements, numbers for people, sparklines, tables. Whatever comes from outside is set as text only.

/** `h("b.class", { attribute: … }, child, …)`; attributes that are functions are listeners. */
const maker = (create) => (selector, ...children) => {
	const [tag, classes] = selector.split(".");
	const [first] = children;
	const attributes = first && Object.getPrototypeOf(first) === Object.prototype ? children.shift() : {};
	const element = create(tag);
	for (const [name, value] of Object.entries({ class: classes, ...attributes })) {
		if (typeof value === "function") element.addEventListener(name, value);
		else if (value) element.setAttribute(name, value === true ? "" : value);
	}
	element.append(...children.flat(2).filter(Boolean));
	return element;
};
export const h = maker((tag) => document.createElement(tag));
const svg = maker((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));

export const button = (text, click, kind) => h("button", { type: "button", class: kind, click }, text);
export const part = (title, { element }) => h("section.part", h("h2", title), element);

export const detail = (back, head, ...body) =>
	h("section.detail", h("div.head", h("a.back", { href: `#/${back.toLowerCase()}` }, back), head), body);

/** Set the text, or the classes, of an element if they change. */
export function say(element, text) {
	if (element.shown !== text) element.textContent = element.shown = text;
}

export function mark(element, classes) {
	if (element.marked !== classes) element.setAttribute("class", (element.marked = classes));
}

export function fit(elements, size, add) {
	while (elements.length < size) elements.push(add());
	while (elements.length > size) elements.pop().remove();
}

/** `step`, done once in the next frame. */
export function framed(step) {
	let asked = 0;
	const draw = () => {
		asked = 0;
		step();
	};
	return () => (asked ||= requestAnimationFrame(draw));
}

// numbers

const thousands = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
export const count = (n) => (n < 1e7 ? thousands.format(n) : `${thousands.format(n / 1e6)} M`);
export const many = (n, what, end = "s") => `${count(n)} ${what}${n === 1 ? "" : end}`;

/** A dot is quieter than a column of zeros. */
const some = (n) => (n ? count(n) : "·");
const speeds = (n) => (n && n < 10 ? n.toFixed(1) : some(n));
export const rate = (n) => (n ? speeds(n) : "0");
export const names = (list) =>
	list.length > 6 ? `${list.slice(0, 6).join(", ")} and ${list.length - 6} more` : list.join(", ");

export function age(s) {
	if (s == null) return "·";
	if (s < 1) return `${Math.max(0, Math.round(s * 1000))} ms`;
	if (s < 100) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
	const minutes = Math.floor(s / 60);
	const hours = Math.floor(minutes / 60);
	if (minutes < 60) return minutes < 10 ? `${minutes}m ${Math.floor(s % 60)}s` : `${minutes} min`;
	return hours < 48 ? `${hours}h ${minutes % 60}m` : `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

export function bytes(n) {
	if (!n) return "·";
	let unit = 0;
	for (; n >= 1000 && unit < 5; unit += 1) n /= 1024;
	return `${n.toFixed(unit && n < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** "In flight" is the field in_flight, "In / s" in. */
export const field = (title) => title.toLowerCase().replace(" / s", "").replaceAll(" ", "_");

/** Titles with the fields of a record that are called so. */
export function fieldsOf(attributes) {
	const values = new Map();
	const element = h("dl", attributes);

	function show(titles, record, of = field) {
		for (const title of titles) {
			const value = record[of(title)];
			let cell = values.get(title);
			if (!cell) {
				values.set(title, (cell = h("dd", value instanceof Element && value)));
				element.append(h("div", h("dt", title), cell));
			}
			if (!cell.firstElementChild) say(cell, typeof value === "number" ? count(value) : value || "·");
		}
		return element;
	}

	return { element, values, show };
}

/** Rates in (a line) and out (an area) of a history; `show` returns the highest. */
export function sparkline(width, height, points) {
	const [line, area] = [svg("path.in"), svg("path.out")];
	const element = svg("svg.spark", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" }, area, line);

	/** From where something is known. */
	function path(values, top, filled) {
		const from = values.findIndex((value) => value >= 0);
		if (from < 0) return "";
		const x = (n) => ((n / (values.length - 1)) * width).toFixed(1);
		const y = (value) => (height - 1 - (value / (top || 1)) * (height - 3)).toFixed(1);
		const line = values.slice(from).map((value, n) => `L${x(from + n)} ${y(value)}`).join("");
		return filled ? `M${x(from)} ${height}${line}L${width} ${height}Z` : `M${line.slice(1)}`;
	}

	function show(history) {
		const [given, taken] = ["in", "out"].map((side) => (history ? history.means(history[side], points) : []));
		const top = given.concat(taken).reduce((a, b) => (b > a ? b : a), 0);
		line.setAttribute("d", path(given, top, false));
		area.setAttribute("d", path(taken, top, true));
		return top;
	}

	return { element, show };
}

// tables

/**
 * Columns: title, then the field (or a function of the row) if it is not called as the title, then options: `bad`,
 * `warn`, `faint` (true: if it is not 0; or a function of the row), `text(row)`, `hint`, `badges(row)`: [text, kind].
 */
const column = (kind, format) => (title, ...more) => {
	const options = typeof more.at(-1) === "object" ? more.pop() : {};
	const [wanted = field(title)] = more;
	const path = String(wanted).split(".");
	const get = typeof wanted === "function" ? wanted : (row) => path.reduce((found, key) => found[key], row);
	return { title, kind, get, text: (row) => format(get(row)), ...options };
};
const formats = [some, speeds, age, bytes, String];
export const [number, speed, time, size, amount] = formats.map((format) => column("number", format));
export const words = column("text", String);
export const code = column("text code", String);
export const name = column("name", String);
/** A title alone is a number. */
const whole = (column) => (typeof column === "string" ? number(column) : column);
/** Left out on small screens. */
export const low = (...columns) => columns.map(whole).map((each) => ({ ...each, kind: `${each.kind} low` }));

const WINDOWED = 80; // rows from which on only those in sight exist
const AHEAD = 12; // beyond the edges
const within = (low, n, high) => Math.max(low, Math.min(n, high));

/** A table. Options: `open(row)`: its link, `empty`: a text, `sort`: a column, `rows(row)`: class if it is old. */
export function tableOf(id, columns, { open, empty, sort = 0, down = false, rows = () => "", key = (row) => row.key }) {
	columns = columns.flat().map(whole);
	const kept = `peerfabric.order.${id}`;
	const order = JSON.parse(localStorage.getItem(kept)) || [];
	if (columns[order[0]]) [sort, down] = order;
	let [height, held, places, sorted] = [0, false, new Map(), []];
	const pool = []; // elements of rows in sight
	const heads = columns.map(({ title, hint, kind, get }, n) => {
		const click = () => sortBy(n);
		const keydown = (event) => event.key === "Enter" && click();
		return h(`th.${kind}`, { title: hint, ...(get && { tabindex: "0", click, keydown }) }, title);
	});
	const [before, after] = [0, 1].map(() => h("tr.space", h("td")));
	// Rows do not change their places under the pointer.
	const pointerenter = (event) => (held = event.pointerType === "mouse");
	const pointerleave = () => (held = false);
	const body = h("tbody", { pointerenter, pointerleave }, before, after);
	const none = h("p.none", empty);
	const table = h(`table.t-${id}`, h("thead", h("tr", heads)), body);

	function sortBy(n) {
		down = sort === n ? !down : columns[n].kind.startsWith("number");
		sort = n;
		held = false;
		localStorage.setItem(kept, JSON.stringify([sort, down]));
		show(sorted);
	}

	function show(found) {
		// In the order of the last time, which is nearly that of this time.
		const known = new Array(places.size);
		for (const row of found) {
			const id = key(row);
			known[places.get(id) ?? known.length] = { row, id };
		}
		const ordered = known.filter(Boolean);
		if (!held) {
			const up = down ? -1 : 1;
			for (const each of ordered) each.value = columns[sort].get(each.row) ?? -Infinity;
			ordered.sort((a, b) => (a.value < b.value ? -up : a.value > b.value ? up : a.id < b.id ? -1 : 1));
		}
		places = new Map(ordered.map(({ id }, place) => [id, place]));
		sorted = ordered.map(({ row }) => row);
		none.hidden = found.length > 0;
		table.hidden = !found.length;
		const order = down ? "descending" : "ascending";
		heads.forEach((head, n) => head.setAttribute("aria-sort", n === sort ? order : "none"));
		draw();
	}

	function add() {
		const cells = columns.map(({ kind, title }) => h(`td.${kind}`, { "data-title": title }));
		const click = ({ target }) => {
			if (open && !target.closest("a, button") && !String(getSelection())) location.hash = open(element.row);
		};
		const element = Object.assign(h("tr", { click }, cells), { fields: cells });
		cells[0].append((cells[0].inner = h(open ? "a" : "span")));
		after.before(element);
		return element;
	}

	/** Rows in sight; `resized`: their height may be another. */
	function draw(resized) {
		let [from, to] = [0, sorted.length];
		if (resized) height = 0;
		if (to > WINDOWED) {
			const top = -body.getBoundingClientRect().top;
			if (height) from = within(0, Math.floor(top / height) - AHEAD, to - 1);
			to = height ? within(from + 1, Math.ceil((top + innerHeight) / height) + AHEAD, to) : WINDOWED;
		}
		fit(pool, to - from, add);
		before.firstChild.style.height = `${from * height}px`;
		after.firstChild.style.height = `${(sorted.length - to) * height}px`;
		pool.forEach((element, n) => put(element, sorted[from + n]));
		if (!height && sorted.length > WINDOWED && (height = pool[0].offsetHeight)) draw();
	}

	function put(element, row) {
		element.row = row;
		const kind = rows(row);
		mark(element, `${open ? "opens " : ""}${kind}`);
		columns.forEach((column, n) => {
			const cell = element.fields[n];
			const old = kind && column.kind.startsWith("number") && column.title !== "Pid";
			const is = (kind) => !old && column[kind] && (column[kind] === true ? column.get : column[kind])(row);
			mark(cell, `${column.kind} ${["bad", "warn", "faint"].find(is) || ""}`);
			if (column.draw) column.draw(cell, row);
			else say(cell.inner || cell, old ? "·" : column.text(row));
			if (cell.inner && column.badges) badge(cell, column.badges(row));
		});
		const { inner } = element.fields[0];
		const to = open && open(row);
		if (to && inner.to !== to) inner.setAttribute("href", (inner.to = to));
	}

	function badge(cell, badges) {
		const found = badges.filter((each) => each?.[0]);
		if (cell.badges === String(found)) return;
		cell.badges = String(found);
		cell.replaceChildren(cell.inner, ...found.map(([text, kind = ""]) => h(`i.badge ${kind}`, text)));
	}

	return { element: h("div.table", table, none), columns, show, draw };
}
