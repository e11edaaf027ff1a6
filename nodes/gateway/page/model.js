// The looks as they come in, rates by subtraction, 5 minutes of history, sums over all nodes.

import { age } from "./dom.js";

const SAMPLES = 300; // one each second
const HISTORIES = 4000; // queues that have one; beyond it they go without
const WARNINGS = 500;
const STEP = 10; // nodes that are added up at once

export const encoded = encodeURIComponent;
const nodeKey = (node) => `${node.node_id}.${node.epoch}`;
export const queueKey = (fabric, name) => `${fabric}/${name}`;
export const queueLink = (fabric, name) => `#/queue/${[fabric, name].map(encoded).join("/")}`;
export const nodeLink = (key) => `#/node/${encoded(key)}`;

/** Rates of the last 5 minutes, a second each, oldest first; not a number where nothing is known. */
class History {
	constructor(at) {
		[this.in, this.out] = [0, 1].map(() => new Float32Array(SAMPLES).fill(NaN));
		this.at = Math.floor(at) - 1;
	}

	/** A look that came late stands for the seconds before it, too. */
	add(at, given, taken) {
		const passed = Math.min(SAMPLES, Math.max(0, Math.floor(at) - this.at));
		this.at = Math.floor(at);
		this.in.copyWithin(0, passed).fill(given, SAMPLES - passed);
		this.out.copyWithin(0, passed).fill(taken, SAMPLES - passed);
	}

	means(side, count) {
		const every = SAMPLES / count;
		return Array.from({ length: count }, (_, n) => {
			let [sum, known] = [0, 0];
			for (let k = n * every; k < (n + 1) * every; k += 1) {
				if (!(side[k] >= 0)) continue;
				sum += side[k];
				known += 1;
			}
			return sum / known;
		});
	}
}

const zeros = (...names) => Object.fromEntries(names.map((name) => [name, 0]));
const ACCOUNT = ["waiting", "in_flight", "on_disk", "redelivered", "expired", "dropped"];
const SUMS = ["in", "out", "waiting", "in_flight", "on_disk", "running", "dead"];
const ZERO = { ...zeros(...SUMS, ...ACCOUNT, "longest", "paused", "blocked", "warned"), oldest: null, remote: false };

const SERVICE = ["capacity", "running", "waiting", "answered", "refused", "dropped"];

function add(sum, each, names) {
	for (const name of names) sum[name] = (sum[name] || 0) + each[name];
}

const sends = (row, each) => {
	add(row, each.account, ACCOUNT);
	row.dead += each.letters.count;
	row.blocked += each.blocked_senders;
	row.remote ||= each.consumers.length > 0;
	if (each.oldest_waiting !== null) row.oldest = Math.max(row.oldest, each.oldest_waiting);
};
const takes = (row, each) => {
	row.running += Math.max(each.account.started, each.running.length);
	row.longest = Math.max(row.longest, each.longest_running);
	row.paused += each.paused;
};
const sums = (...fields) => (row, each) => add(row, each, ["in", "out", ...fields]);
const none = () => 0;

/** Whether a topic is one of a pattern: `*` is one part, a last `>` all the rest. */
function matches(pattern, topic) {
	const [wanted, parts] = [pattern.split("."), topic.split(".")];
	const further = parts.length - wanted.length;
	if (wanted.at(-1) === ">" ? further < 0 : further) return false;
	return wanted.every((each, n) => ["*", ">", parts[n]].includes(each));
}

/** Lists of a node: the name in them, rows they are an end of, counts of in and out, what is added up. */
const ENDS = [
	["sends", "queue", "queues", "from", (s) => s.account.accepted + s.account.retried, (s) => s.account.acked, sends],
	["takes", "queue", "queues", "to", (t) => t.account.received, (t) => t.account.processed, takes],
	["publishes", "topic", "topics", "from", (p) => p.published, none, sums("published", "subscribers")],
	["subscribes", "pattern", "topics", "to", none, (s) => s.received, sums("received", "missed", "late", "behind")],
	["serves", "service", "services", "to", none, (s) => s.answered, sums(...SERVICE)],
];

function addRates(node, before, seconds) {
	for (const [list, by, , , given, taken] of ENDS) {
		const old = new Map(before && before[list].map((each) => [each[by], each]));
		for (const each of node[list]) {
			const was = old.get(each[by]);
			const rate = (count) => (was && seconds > 0 ? Math.max(0, (count(each) - count(was)) / seconds) : 0);
			each.in = rate(given);
			each.out = rate(taken);
		}
	}
}

export class Model {
	processes = new Map();
	queues = new Map();
	can = [];
	sources = [];

	constructor() {
		this.clear();
	}

	clear() {
		Object.assign(this, { nodes: [], warnings: new Map(), left: 0, total: zeros(...SUMS) });
		Object.assign(this, { topics: new Map(), services: new Map(), fabrics: new Set() });
		for (const queue of this.queues.values()) {
			Object.assign(queue, ZERO);
			queue.from.length = queue.to.length = 0;
		}
	}

	begin(look) {
		this.next = look;
		this.seen = new Set();
	}

	/** One process of the look that has begun. */
	process(answer) {
		const key = `${answer.source} ${answer.pid} ${answer.started}`;
		const before = this.processes.get(key) || { nodes: [], status: null };
		const silent = !answer.status;
		this.seen.add(key);
		// Who does not answer is shown as it was last, but nothing flows.
		const status = answer.status || before.status;
		const nodes = status ? status.nodes : [];
		const at = silent ? before.at : this.next.at;
		const old = new Map(silent ? [] : before.nodes.map((node) => [nodeKey(node), node]));
		for (const node of nodes) addRates(node, old.get(nodeKey(node)), at - before.at);
		if (!silent && before.status)
			status.process.load = (status.process.cpu - before.status.process.cpu) / (at - before.at) || 0;
		this.processes.set(key, { ...answer, key, status, nodes, silent, at });
	}

	/** Make what is shown of the look, in short steps; it is not `whole` until the last. */
	*end() {
		Object.assign(this, this.next, { whole: false });
		this.clear();
		yield;
		for (const key of this.processes.keys()) if (!this.seen.has(key)) this.processes.delete(key);
		for (const { name, problem } of this.sources)
			if (problem) this.warn({ code: "no-gateway", text: `${name}: ${problem}` }, name);
		const known = new Set();
		for (const process of this.processes.values()) {
			const { silent, nodes, pid, problem, program, source, started } = process;
			const since = () => `started ${age(this.at - started / 1000)} ago`;
			const names = nodes.map((node) => node.name).join(", ") || program || source || since();
			if (silent) this.warn({ code: "no-answer", text: `process ${pid}: ${problem}` }, names);
			for (const node of nodes) {
				const key = nodeKey(node);
				if (known.has(key)) continue; // two gateways tell of one host
				known.add(key);
				this.add({ key, node, process });
				if (this.nodes.length % STEP === 0) yield;
			}
		}
		yield;
		yield* this.match();
		this.sum();
		this.whole = true;
	}

	warn({ code, queue = "", text, since = 0 }, name, fabric = "") {
		const key = [code, fabric, queue || text].join(" ");
		const same = this.warnings.get(key);
		if (same) {
			same.names.push(name);
			same.since = Math.max(same.since, since);
		} else if (this.warnings.size < WARNINGS) this.warnings.set(key, { code, queue, text, since, fabric, names: [name] });
	}

	row(map, fabric, name) {
		const key = queueKey(fabric, name);
		let row = this[map].get(key);
		if (row) return row;
		const kind = map.slice(0, -1);
		row = { key: `${kind} ${key}`, by: `${kind} ${name}`, fabric, name, from: [], to: [] };
		if (map === "queues") Object.assign(row, ZERO, { history: null });
		this[map].set(key, row);
		return row;
	}

	add(at) {
		const { fabric, name, more, warnings } = at.node;
		this.nodes.push(at);
		this.fabrics.add(fabric);
		this.left += more;
		for (const each of warnings) this.warn(each, name, fabric);
		for (const [list, by, map, side, , , sum] of ENDS) {
			for (const each of at.node[list]) {
				const row = this.row(map, fabric, each[by]);
				each.at = at;
				row[side].push(each);
				sum(row, each);
			}
		}
	}

	/** Topics have the subscribers of patterns, and those their publishers. */
	*match() {
		const rows = [...this.topics.values()];
		const topics = rows.filter((row) => row.from.length);
		for (const row of rows.filter((each) => /[*>]/.test(each.name))) {
			for (const topic of topics) {
				if (topic.fabric !== row.fabric || !matches(row.name, topic.name)) continue;
				topic.to.push(...row.to);
				row.from.push(...topic.from);
				row.matched = true; // it is shown with them
			}
			yield;
		}
	}

	sum() {
		for (const { queue, fabric } of this.warnings.values()) {
			const found = queue && this.queues.get(queueKey(fabric, queue));
			if (found) found.warned += 1;
		}
		let histories = 0;
		for (const [key, queue] of this.queues) {
			// Without a producer on these hosts, what consumers say is all there is.
			const ends = queue.from.length ? queue.from : queue.to;
			if (!ends.length) {
				this.queues.delete(key);
				continue;
			}
			for (const each of ends) add(queue, each, ["in", "out"]);
			add(this.total, queue, SUMS);
			if (histories < HISTORIES && (queue.in || queue.out)) queue.history ||= new History(this.at);
			if (!queue.history) continue;
			histories += 1;
			queue.history.add(this.at, queue.in, queue.out);
		}
		this.history ||= new History(this.at);
		this.history.add(this.at, this.total.in, this.total.out);
	}
}
