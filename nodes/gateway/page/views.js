// Views of one thing: a queue with its acts and dead letters, a node, a topic that is tapped.

import {
	age, amount, button, bytes, code, count, detail, fieldsOf, framed, h, low, many, mark, name, names, number, part,
	rate, say, sparkline, speed, tableOf, time, words,
} from "./dom.js";
import { encoded, nodeLink, queueKey, queueLink } from "./model.js";
import { events, get, passed, post } from "./stream.js";

// a queue

const BOUNDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 300];
const LETTERS = 100; // that are read and shown

/** The bucket in which the middle one of a histogram lies. */
function median(buckets) {
	const half = buckets.reduce((a, b) => a + b, 0) / 2;
	let sum = 0;
	const n = buckets.findIndex((each) => (sum += each) >= half);
	return !half ? "·" : n < BOUNDS.length ? `≤ ${age(BOUNDS[n])}` : `> ${age(BOUNDS.at(-1))}`;
}

export const silent = ({ process }) => (process.silent ? "silent" : "");

const PRODUCERS = [
	name("Producer", "node.name"),
	speed("In / s"), "Waiting", time("Oldest", "oldest_waiting"), "In flight",
	low(
		"On disk",
		number("Accepted", (p) => p.accepted + p.recovered + p.retried),
		"Acked",
		"Redelivered",
		number("Credit", "credit_free", { hint: "How many more its consumers would take now" }),
	),
	number("Blocked", "blocked_senders", { hint: "Calls of send that wait for room", warn: true }),
];

const CONSUMERS = [
	name("Consumer", "node.name"),
	words("State", (c) => (c.process.silent ? "no answer" : c.paused ? "paused" : c.node.engine || "takes"), {
		bad: (c) => c.process.silent,
		warn: (c) => c.paused,
		faint: () => true,
	}),
	speed("Out / s"),
	low(number("Takers", { hint: "Threads or tasks that take from it now" })),
	"Buffered", number("Running", "started"), time("Longest", (c) => c.longest_running || null),
	low(
		amount("Median", (c) => median(c.seconds), { hint: "Half of all took no longer" }),
		"Processed", "Nacked", "Window",
		time("Last taken", { hint: "How long ago" }),
	),
];

const RUNNING = [
	words("Handler"),
	time("Age", { warn: (r) => r.age > 30 }),
	time("Lease left"), "Attempt", code("Line"),
	low(words("At", (r) => `${r.node.name} ${r.thread}`), code("Message", "id")),
];

const FIELDS = ["Waiting", "Oldest", "In flight", "On disk", "Running", "Redelivered", "Expired", "Dropped", "Dead"];

/** Ask for what cannot be undone, `done()`, by a name to be typed. */
function typed(wanted, title, text, done) {
	const go = h("button.danger", { disabled: true }, title);
	const input = () => (go.disabled = field.value !== wanted);
	const field = h("input", { autocomplete: "off", input });
	const close = () => dialog.remove();
	const submit = (event) => {
		event.preventDefault();
		if (input()) return;
		close();
		done();
	};
	const label = h("label", "Type ", h("code", wanted), " to go on", field);
	const acts = h("div.acts", button("Cancel", close), go);
	const form = h("form", { submit }, h("h2", title), h("p", `${text} This cannot be undone.`), label, acts);
	const dialog = h("dialog", { cancel: close }, form);
	document.body.append(dialog);
	dialog.showModal();
	field.focus();
}

export function queueView(model, fabric, queue, note) {
	const path = (kind, verb = "") => `v1/${kind}/${encoded(queue)}${verb}?fabric=${encoded(fabric)}`;
	let read = -1; // dead letters, as many as there were then
	let may = false;

	async function act(path, body, told) {
		try {
			const answer = await post(path, body);
			note(told(answer));
			const refused = (answer.outcomes || []).filter((each) => !each.done).map((each) => each.problem);
			const problems = answer.problems.concat(refused);
			if (problems.length) note(problems.slice(0, 5).join("\n"), true);
		} catch (error) {
			note(error.message, true);
		}
	}

	const consumers = ({ done }) => `at ${many(done, "consumer")}`;
	const messages = ({ purged }) => `of ${many(purged, "message")}`;
	const turn = (verb, of) => act(path("queues", `:${verb}`), {}, (answer) => `${queue}: ${verb}d ${of(answer)}`);

	async function settle(verb, which = { all: true }) {
		const told = ({ done }) => `${count(done)} ${verb === "retry" ? "sent again" : "dropped"}`;
		await act(path("dead", `:${verb}`), which, told);
		read = -1;
	}

	function letterOf({ id, body, cut, reason, error, attempts, headers, node, slot, deaths, source, sent_at: sent }) {
		const one = (text, verb, kind) => button(text, () => settle(verb, { ids: [id] }), kind);
		const fields = { Id: id, At: [source, node].filter(Boolean).join(" "), Slot: slot, Deaths: deaths, ...headers };
		const told = Object.keys(fields).filter((title) => fields[title] || fields[title] === 0);
		const summary = h(
			"summary",
			h("time", new Date(sent * 1000).toLocaleString("sv")),
			h("i.badge bad", reason),
			h("span.text", error),
			h("span.faint", `${many(attempts, "attempt")} · …${id.slice(-8)}`),
			may && h("span.acts", one("Retry", "retry"), one("Drop", "drop", "danger")),
		);
		const text = typeof body === "string" ? body : JSON.stringify(body, null, 2);
		const rest = cut && `\n… of ${count(cut)} bytes`;
		return h("details", summary, fieldsOf({ class: "fields small" }).show(told, fields, String), h("pre", text, rest));
	}

	const letters = h("div.letters");
	const none = h("p.none");

	/** Read them again when their number has changed. */
	async function readLetters(dead) {
		if (read === dead) return;
		read = dead;
		try {
			const found = dead ? await get(`${path("dead")}&limit=${LETTERS}`) : { letters: [], problems: [] };
			if (read !== dead) return;
			letters.replaceChildren(...found.letters.map(letterOf));
			const more = dead > LETTERS && `These are the oldest ${LETTERS}.`;
			say(none, [more, ...found.problems].filter(Boolean).join(" ") || (found.letters.length ? "" : "None."));
		} catch (error) {
			say(none, error.message);
		}
	}

	const goes = "What waits at all producers on these hosts is dropped; what consumers have goes on.";
	const lost = "All dead letters of this queue on these hosts are removed.";
	const pause = button("Pause", () => turn("pause", consumers));
	const resume = button("Resume", () => turn("resume", consumers));
	const purge = () => typed(queue, "Purge", goes, () => turn("purge", messages));
	const drop = () => typed(queue, "Drop all", lost, () => settle("drop"));
	const acts = h("div.acts", pause, resume, button("Purge …", purge, "danger"));
	const retry = button("Retry all", () => settle("retry"));
	const all = h("span.acts", retry, button("Drop all …", drop, "danger"));

	const state = h("span");
	const rates = fieldsOf({ class: "rates" });
	const fields = fieldsOf({ class: "fields" });
	const chart = sparkline(600, 96, 300);
	const top = h("span.top");
	const open = (row) => nodeLink(row.key);
	const key = (r) => `${r.id} ${r.node.name}`;
	const tables = [
		tableOf("producers", PRODUCERS, { open, rows: silent, empty: "Nobody who answers sends to it." }),
		tableOf("consumers", CONSUMERS, { open, rows: silent, empty: "Nobody who answers consumes it." }),
		tableOf("running", RUNNING, { key, sort: 1, down: true, empty: "No handler has a message now." }),
	];
	const axis = h("div.axis", h("span", "5 min ago"), h("span", "now"));
	const element = detail(
		"Queues",
		[h("h1", queue), state, acts],
		h("div.course", rates.element, h("div.graph", top, chart.element, axis)),
		fields.element,
		["Producers", "Consumers", "Running"].map((title, n) => part(title, tables[n])),
		h("section.part", { id: "dead" }, h("h2", "Dead letters", all), letters, none),
	);

	function show() {
		const found = model.queues.get(queueKey(fabric, queue));
		const { from = [], to = [], paused = 0, dead = 0 } = found || {};
		may = model.can.includes("admin");
		acts.hidden = !may || !found;
		all.hidden = !may || !dead;
		say(state, !found ? "Not known here now." : paused ? `paused at ${paused} of ${to.length}` : "");
		mark(state, paused ? "badge warn" : "faint");
		pause.disabled = paused >= to.length;
		resume.disabled = !paused;
		if (found) {
			fields.show(FIELDS, { ...found, oldest: age(found.oldest) });
			rates.show(["In / s", "Out / s"], { in: rate(found.in), out: rate(found.out) });
			const highest = chart.show(found.history);
			say(top, highest ? `${rate(highest)} / s` : "");
		}
		const row = (each) => ({ ...each.account, ...each, ...each.at });
		const took = to.map(row);
		const running = took.flatMap((each) => each.running.map((one) => ({ ...one, node: each.node })));
		[from.map(row), took, running].forEach((each, n) => tables[n].show(each));
		readLetters(dead);
	}

	return { title: queue, element, tables, show };
}

// a node

const PEERS = [
	name("Peer", (p) => p.name || p.node_id),
	words("State", (p) => (p.reason ? `${p.state}: ${p.reason}` : p.state), { warn: (p) => !isWell(p) }),
	number("Round trip", "rtt", { text: (p) => (p.rtt === null ? "·" : `${(p.rtt * 1000).toFixed(2)} ms`) }),
	low(code("Endpoint"), words("Consumes", (p) => names(p.consumes)), words("Produces", (p) => names(p.produces))),
];

const OF_NODE = [
	name("Queue"),
	words("Does"),
	speed("Rate / s"), "Waiting", "In flight", "Running",
	low(words("With", (q) => names(q.others))),
];

const NODE_FIELDS = [
	"Program", "Pid", "Up", "Fabric", "Node id", "Host", "peerfabric", "Python", "User", "Memory",
	"Threads", "Files", "Pump late", "Endpoints", "Spool",
];

export const isWell = (peer) => ["up", "idle", "connecting"].includes(peer.state);

export function nodeView(model, key) {
	const title = h("h1", "node");
	const state = h("span");
	const fields = fieldsOf({ class: "fields small" });
	const counters = fieldsOf({ class: "fields small" });
	const peers = tableOf("peers", PEERS, { key: (p) => p.node_id + p.endpoint, empty: "It knows no other node." });
	const queues = tableOf("node-queues", OF_NODE, {
		key: (q) => `${q.queue} ${q.does}`,
		open: (q) => queueLink(view.fabric, q.queue),
		empty: "It neither sends nor consumes.",
	});
	const parts = [part("Queues", queues), part("Peers", peers), part("Counters", counters)];
	const view = { element: detail("Nodes", [title, state], fields.element, parts), tables: [queues, peers], show };

	function show() {
		const row = model.nodes.find((each) => each.key === key);
		const process = row ? row.process : model.processes.get(key);
		const said = process && (process.silent ? process.problem : row ? row.node.engine || row.node.state : "");
		say(state, said ?? "It has ended.");
		mark(state, process?.silent ? "badge bad" : "faint");
		if (!row) return;
		const { node } = row;
		const { spool } = node;
		const system = process.status.process;
		view.fabric = node.fabric;
		say(title, (view.title = node.name));
		fields.show(NODE_FIELDS, {
			...system,
			...node,
			program: system.argv0,
			pid: String(process.pid),
			up: age(node.uptime),
			peerfabric: system.version,
			memory: bytes(system.rss),
			files: `${system.descriptors} of ${count(system.descriptors_max)}`,
			pump_late: age(node.pump_late),
			endpoints: node.endpoints.join(" "),
			spool: spool && `${spool.folder} : ${spool.slot}${node.adopted === null ? "" : ", adopted"}`,
		});
		const sends = node.sends.map(({ account, in: rate, consumers: others }) => {
			return { ...account, does: "sends to", rate, waiting: account.waiting + account.on_disk, others };
		});
		const takes = node.takes.map(({ queue, account, out: rate, producers: others, paused }) => {
			const does = paused ? "consumes, paused" : "consumes";
			return { queue, does, rate, waiting: account.buffered, running: account.started, others };
		});
		queues.show(sends.concat(takes));
		peers.show(node.peers);
		const counted = Object.keys(node.counters).filter((each) => node.counters[each]);
		counters.show(counted.map((each) => each.replaceAll("_", " ")), node.counters);
	}

	return view;
}

// a topic, or those of a pattern, as it comes

const TAPPED = 200;

export function tapView(pattern) {
	const abort = new AbortController();
	const fresh = [];
	let [seen, held, state] = [0, false, "Waits for messages."];
	const number = h("span.faint");
	const hold = button("Hold", () => {
		held = !held;
		say(hold, held ? "Go on" : "Hold");
	});
	const element = h("ol.tapped");
	const list = part("Messages from now on, newest first", { element });

	function show() {
		const now = new Date().toLocaleTimeString("sv");
		const rows = fresh.splice(0).map(([event, data]) => {
			const found = JSON.parse(data);
			const body = event === "gap" ? `${found.missed ?? "some"} missed` : (found.body ?? found);
			const text = typeof body === "string" ? body : JSON.stringify(body);
			return h("li", { class: event }, h("time", now), h("b", found.topic), h("span.text", text.slice(0, 2000)));
		});
		element.prepend(...rows.reverse());
		while (element.childElementCount > TAPPED) element.lastChild.remove();
		say(number, seen ? `${seen} received` : state);
	}
	const draw = framed(show);

	function take(event, data) {
		seen += 1;
		if (held) return;
		if (fresh.push([event, data]) > TAPPED) fresh.shift();
		draw();
	}

	async function read() {
		while (!abort.signal.aborted) {
			try {
				await events(`v1/topics/${encoded(pattern)}/events`, abort.signal, take);
			} catch (error) {
				state = error.message;
				if (error.status) return show();
			}
			await passed(2000);
		}
	}

	read();
	const head = [h("h1", pattern), number, h("div.acts", hold)];
	return { title: pattern, element: detail("Topics", head, list), show, close: () => abort.abort() };
}
