// The page: one stream of looks at the hosts, shown as queues, nodes, topics, services, spools and flow.

import {
	age, amount, button, bytes, code, count, fieldsOf, fit, framed, h, low, many, mark, name, names, number, rate, say,
	size, sparkline, speed, tableOf, time, words,
} from "./dom.js";
import { Model, encoded, nodeLink, queueLink } from "./model.js";
import { events, keepToken, keptToken, passed, takeToken } from "./stream.js";
import { isWell, nodeView, queueView, silent, tapView } from "./views.js";

const model = new Model();
const $ = (id) => document.getElementById(id);
const main = $("main");

// sums and warnings

const strip = fieldsOf({ id: "strip" });
const course = sparkline(260, 30, 100);
const SUMS = ["In / s", "Out / s", "Last 5 min", "Waiting", "In flight", "On disk", "Running", "Dead"];

const GRAVE = ["no-answer", "no-gateway", "disk", "late", "stranded"];
const FIRST = 4; // warnings that are shown until somebody asks for all

const items = [];
const list = h("ul");
const more = button("", () => showWarnings(!all), "quiet");
const warnings = h("section", { id: "warnings" }, list, more);
let all = false;

function addWarning() {
	const parts = [h("b"), h("a"), h("span"), h("span.who")];
	const item = h("li", parts[0], h("span.words", parts[1], parts[2]), parts[3]);
	list.append(item);
	return Object.assign(item, { parts });
}

function showWarnings(wanted = all) {
	all = wanted;
	const grave = (each) => GRAVE.includes(each.code);
	const found = [...model.warnings.values()].sort((a, b) => grave(b) - grave(a) || b.since - a.since);
	const shown = all ? found : found.slice(0, FIRST);
	fit(items, shown.length, addWarning);
	shown.forEach((each, n) => {
		const { code, queue, text, fabric, names, since } = each;
		const who = names.length > 2 ? `${names.length} nodes` : names.join(", ");
		const texts = [code, queue, text.replace(`queue '${queue}': `, ""), who + (since ? ` · ${age(since)}` : "")];
		texts.forEach((each, k) => say(items[n].parts[k], each));
		items[n].parts[1].setAttribute("href", queueLink(fabric, queue));
		mark(items[n], grave(each) ? "grave" : "");
	});
	warnings.hidden = !found.length;
	more.hidden = found.length <= FIRST;
	say(more, more.hidden ? "" : all ? "fewer" : many(found.length - FIRST, "more warning"));
}

// lists

/** Names, with the fabric where there are several. */
const tag = (row) => [[model.fabrics.size > 1 && row.fabric]];
const called = (title, badges = () => [], kind) =>
	name(title, "name", { badges: (row) => tag(row).concat(badges(row).map((each) => [each, kind])) });

const chart = {
	title: "5 min",
	kind: "draws",
	hint: "In: line. Out: area.",
	draw: (cell, row) => {
		if (!cell.spark) cell.append((cell.spark = sparkline(100, 20, 50)).element);
		cell.spark.show(row.history);
	},
};

const unserved = (queue) => !queue.to.length && !queue.remote;

/** Of consumers that only producers tell of: who is reached by a file is on this host. */
const unseen = ({ from }) => {
	const local = ({ at, consumers }) =>
		at.node.peers.some((p) => p.endpoint.startsWith("ipc:") && consumers.includes(p.name));
	return from.some(local) ? "no answer" : "remote";
};

const QUEUES = [
	called("Queue", (q) => [q.paused && "paused", q.warned && "warned", q.blocked && `blocked ${q.blocked}`], "warn"),
	number("Waiting", { warn: (q) => q.waiting && unserved(q) }),
	time("Oldest", { hint: "Age of the oldest that could be sent now", warn: (q) => q.oldest > 300 }),
	speed("In / s"),
	speed("Out / s"),
	low(
		chart,
		"In flight",
		"On disk",
		number("Running", { hint: "Messages that handlers have now" }),
		time("Longest", (q) => q.longest || null, { hint: "Age of the oldest of these" }),
	),
	number("Consumers", "to.length", {
		text: (q) => (unserved(q) ? "none" : q.to.length ? count(q.to.length) : unseen(q)),
		warn: (q) => unserved(q) && q.waiting + q.on_disk,
		faint: unserved,
	}),
	low("Redelivered"),
	number("Dead", { bad: true }),
];

function stateOf({ node, process }) {
	if (process.silent) return "no answer";
	return node.engine || (node.adopted === null ? node.state || "running" : `adopted slot ${node.adopted}`);
}

const late = (n) => (n.pump_late > 0.1 ? n.pump_late : null);

const NODES = [
	called("Node", (n) => [n.process.source]),
	words("State", stateOf, { bad: (n) => n.process.silent, warn: (n) => n.engine }),
	amount("Pid"),
	low(time("Up", "uptime")),
	time("Pump late", late, { hint: "How long its I/O thread has been due", warn: (n) => late(n) > 1 }),
	number("CPU", "load", { text: ({ load }) => (load ? `${(load * 100).toFixed(1)} %` : "·") }),
	size("Memory", "rss"),
	low(
		"Threads",
		number("Files", "descriptors"),
		number("Peers", "peers.length", { warn: (n) => !n.peers.every(isWell) }),
		number("Sends to", "sends.length"),
		number("Consumes", "takes.length"),
	),
];

/** With silent processes. */
function nodeRows() {
	const nameless = [...model.processes.values()].filter((each) => each.silent && !each.nodes.length);
	const rows = nameless.map((process) => {
		const name = process.program || `process ${process.pid}`;
		return { ...process, process, name, fabric: "", peers: [], sends: [], takes: [] };
	});
	return model.nodes.concat(rows).map((row) => ({ ...row.process.status?.process, ...row.node, ...row }));
}

const TOPICS = [
	called("Topic or pattern"),
	speed("Published / s", "in"),
	speed("Received / s", "out"),
	number("Publishers", "from.length"),
	number("Subscribers", "to.length"),
	low("Published", "Received"),
	number("Missed", { warn: true }),
	low("Late", size("Behind", { hint: "What subscribers have not taken yet" })),
];

const SERVICES = [
	called("Service"),
	speed("Answers / s", "out"),
	"Running",
	number("Capacity", { hint: "Calls that may run at once" }),
	number("Waiting", { warn: true }),
	low("Answered", "Refused", "Dropped", words("Served by", (s) => names(to(s)))),
];

const SLOTS = [
	name("Slot", (s) => `${s.folder} : ${s.slot}`),
	words("State", { warn: (s) => s.state === "left", faint: (s) => s.state !== "running" }),
	amount("Pid", (s) => s.pid || "·"),
	words("Name"),
	number("Messages", "left"),
	number("Dead", "letters", { bad: true }),
	size("Used", { bad: (s) => s.limit && s.used > 0.8 * s.limit }),
	low(size("Limit", { text: (s) => (s.limit === 0 ? "no limit" : bytes(s.limit)) })),
	low(size("Disk free"), time("Last sync")),
];

/** All slots of all folders: what a node says of its own one counts most. */
function slotRows() {
	const rows = new Map();
	const put = ({ source }, { folder }, told) => {
		const key = `${source} ${folder} ${told.slot}`;
		rows.set(key, { ...rows.get(key), ...told, folder, key });
	};
	const spooled = model.nodes.filter(({ node }) => node.spool);
	for (const { node, process } of spooled) for (const each of node.spool.slots) put(process, node.spool, each);
	for (const { node, process } of spooled) {
		const { spool, adopted, name, sends } = node;
		const left = sends.reduce((sum, { account: a }) => sum + a.waiting + a.in_flight + a.on_disk, 0);
		put(process, spool, { ...spool, state: adopted === null ? "running" : "adopted", pid: process.pid, name, left });
	}
	return [...rows.values()];
}

/** Names of nodes at one side, also on other hosts, of which the other side tells. */
function ends(here, there, others) {
	const found = here.map((each) => each.at.node.name).concat(...there.map((each) => each[others] || []));
	return found.length > 1 ? [...new Set(found)].sort() : found;
}
const from = (row) => ends(row.from, row.to, "producers");
const to = (row) => ends(row.to, row.from, "consumers");

const side = (title, of, far) =>
	words(title, (f) => names(of(f)) || (f[far] ? "remote" : "nobody"), {
		badges: tag, warn: (f) => f.waiting && !of(f)[0], faint: (f) => !of(f)[0],
	});

const FLOW = [
	side("From", from, "received"),
	code("By"),
	side("To", to, "subscribers"),
	speed("Rate / s", (f) => (f.history === undefined && f.in) || f.out),
];
const every = (of) => () => [...model[of].values()];

/** By id: columns, rows, what is said of none, options of the table. */
const LISTS = {
	queues: [QUEUES, every("queues"), "No queue is used here.", { open: (q) => queueLink(q.fabric, q.name) }],
	nodes: [
		NODES,
		nodeRows,
		"No node answers. Is it the same user, the same runtime folder?",
		{ open: (n) => nodeLink(n.key), rows: silent },
	],
	topics: [
		TOPICS,
		every("topics"),
		"No topic is published or subscribed here.",
		{ open: (t) => `#/tap/${encoded(t.name)}` },
	],
	services: [SERVICES, every("services"), "No service runs here."],
	spools: [SLOTS, slotRows, "No node here has a spool."],
	flow: [
		FLOW,
		() => [...every("queues")(), ...every("topics")().filter((row) => !row.matched)],
		"Nobody sends anything to anybody.",
		{ sort: 1 },
	],
};

let wanted = "";

function listView(id) {
	const [columns, get, empty, options] = LISTS[id];
	const table = tableOf(id, columns, { empty, ...options });
	const searched = table.columns.filter((column) => column.get && !column.kind.startsWith("number"));
	const input = () => filter();
	const search = h("input", { type: "search", placeholder: "Filter  /", "aria-label": "Filter", value: wanted, input });
	const filter = () => {
		wanted = search.value.trim().toLowerCase();
		show();
	};
	const sizes = {};
	const tabs = Object.keys(LISTS).map((each) => {
		sizes[each] = h("span");
		const link = { href: `#/${each}`, "aria-current": each === id && "page" };
		return h("a", link, `${each[0].toUpperCase()}${each.slice(1)} `, sizes[each]);
	});

	function show() {
		for (const each of ["queues", "nodes", "topics", "services"])
			say(sizes[each], count(LISTS[each][1]().length).replace(/^0$/, ""));
		const found = (row) => searched.some((column) => String(column.get(row)).toLowerCase().includes(wanted));
		table.show(wanted ? get().filter(found) : get());
	}

	const element = h("section.list", h("nav", h("div.tabs", tabs), search), table.element);
	return { element, tables: [table], search, show };
}

// which view

let view = null;

function route() {
	if (takeToken()) start();
	const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
	view?.close?.();
	if (kind === "queue" && rest[1]) view = queueView(model, ...rest, note);
	else if (kind === "node" && rest[0]) view = nodeView(model, rest[0]);
	else if (kind === "tap" && rest[0]) view = tapView(rest[0]);
	else view = listView(Object.hasOwn(LISTS, kind) ? kind : "queues");
	if (signIn.isConnected) return;
	scrollTo(0, 0);
	if (!model.at) return main.replaceChildren(h("p.first", "Waiting for the first look …"));
	main.replaceChildren(strip.element, warnings, view.element);
	draw();
}

function draw() {
	const { fabrics, history, left, processes, total } = model;
	strip.show(SUMS, { ...total, in: rate(total.in), out: rate(total.out), last_5_min: course.element });
	mark(strip.values.get("Dead"), total.dead ? "bad" : "");
	course.show(history);
	showWarnings();
	view.show();
	document.title = view.title ? `${view.title} · peerfabric` : "peerfabric";
	const mute = [...processes.values()].filter((each) => each.silent).length;
	const parts = [
		fabrics.size > 1 ? `${fabrics.size} fabrics` : `fabric ${[...fabrics][0] || "–"}`,
		many(processes.size, "process", "es"),
		mute && `${mute} without an answer`,
		left && `${many(left, "queue")} left out`,
	];
	say($("foot"), parts.filter(Boolean).join(" · "));
	say($("where"), [model.host, ...model.sources.slice(1).map((each) => each.name)].join(", "));
}

const show = framed(() => {
	if (signIn.isConnected) return;
	if (view.element.isConnected) draw();
	else route();
});

// looks, taken in small pieces, so that no frame waits for them

const channel = new MessageChannel();
const turn = () =>
	new Promise((done) => {
		channel.port1.onmessage = done;
		channel.port2.postMessage(0);
	});
let heard = 0;

function told(text, kind) {
	say($("state"), text);
	mark($("state"), kind);
}

/** Reading waits for this: what comes faster than it can be shown stays with the gateway. */
async function take(event, data) {
	await turn();
	const steps = model[event](JSON.parse(data));
	if (!steps) return;
	while (!steps.next().done) await turn();
	heard = performance.now();
	told("live", "live");
	show();
}

let abort = new AbortController();

async function start() {
	abort.abort();
	const { signal } = (abort = new AbortController());
	const opened = () => {
		if (!signIn.isConnected) return;
		signIn.remove();
		route();
	};
	while (!signal.aborted) {
		try {
			await events("v1/status/events", signal, take, opened);
		} catch (error) {
			if (signal.aborted) return;
			if ([401, 403].includes(error.status)) return ask(keptToken() ? error.message : "");
		}
		told("no connection, tries again", "lost");
		await passed(2000);
	}
}

setInterval(() => {
	const seconds = (performance.now() - heard) / 1000;
	if ($("state").marked !== "lost" && heard && seconds > 5) told(`last look ${age(seconds)} ago`, "lost old");
}, 1000);

// token, notes, keys

const token = h("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
const why = h("p.bad");

function submit(event) {
	event.preventDefault();
	keepToken(token.value.trim());
	token.value = "";
	start();
}

const signIn = h(
	"form",
	{ id: "sign-in", submit },
	h("h1", "Token"),
	h("p", "Paste the gateway's token. It lies in the file that ", h("code", "peerfabric gateway"),
		" names at its start: ~gateway-token in the runtime folder, or the end of a line of --token-file. ",
		h("code", "peerfabric ui"), " needs none."),
	h("div", token, h("button", "Open")),
	why,
);

function ask(text) {
	told("", "");
	say(why, text);
	main.replaceChildren(signIn);
	token.focus();
}

function note(text, bad = false) {
	const element = h("p", { class: bad && "bad" }, text);
	$("notes").append(element);
	setTimeout(() => element.remove(), 9000);
}

addEventListener("keydown", (event) => {
	if (event.target.closest("input") || event.key !== "/" || !view.search) return;
	event.preventDefault();
	view.search.focus();
});

const moved = (resized) =>
	framed(() => {
		if (!view.element.isConnected || !model.whole) return;
		for (const table of view.tables || []) table.draw(resized);
	});
addEventListener("scroll", moved(false), { passive: true });
addEventListener("resize", moved(true));
addEventListener("hashchange", route);
takeToken();
route();
start();
