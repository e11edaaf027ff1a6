// What is known of the fabric: looks as they come in, rates by subtraction, 5 minutes of history, sums over all nodes.

export const SAMPLES = 300; // one each second
const HISTORIES = 4000; // queues that have one; beyond it they go without
const WARNINGS = 500;
const STEP = 10; // nodes that are added up in one go

export const nodeKey = (node) => `${node.node_id}.${node.epoch}`;
export const queueKey = (fabric, name) => `${fabric}/${name}`;
export const queueLink = (fabric, name) => `#/queue/${[fabric, name].map(encodeURIComponent).join("/")}`;
export const nodeLink = (key) => `#/node/${encodeURIComponent(key)}`;

/** Two rates over the last 5 minutes, in messages a second; not a number where nothing is known. */
class History {
  constructor(at) {
    this.in = new Float32Array(SAMPLES).fill(NaN);
    this.out = new Float32Array(SAMPLES).fill(NaN);
    this.at = Math.floor(at) - 1;
  }

  add(at, given, taken) {
    const now = Math.floor(at);
    if (now - this.at > SAMPLES) this.at = now - SAMPLES;
    while (this.at < now) {
      // a look that came late stands for the seconds before it, too
      this.at += 1;
      this.in[this.at % SAMPLES] = given;
      this.out[this.at % SAMPLES] = taken;
    }
  }

  /** `count` means of one side, oldest first. */
  means(side, count) {
    const every = SAMPLES / count;
    return Array.from({ length: count }, (_, n) => {
      let [sum, known] = [0, 0];
      for (let k = 0; k < every; k += 1) {
        const value = side[(this.at + 1 + n * every + k) % SAMPLES];
        if (Number.isNaN(value)) continue;
        sum += value;
        known += 1;
      }
      return known ? sum / known : NaN;
    });
  }
}

const zeros = (...names) => Object.fromEntries(names.map((name) => [name, 0]));
const ACCOUNT = ["waiting", "in_flight", "on_disk", "redelivered", "expired", "dropped"];
const FLOWS = ["given", "taken", "received", "processed"];
const OF_QUEUE = ["running", "longest", "paused", "blocked", "dead", "warned"];
const ZERO = { ...zeros(...ACCOUNT, ...FLOWS, ...OF_QUEUE), oldest: null, remote: false };
const SUMS = ["in", "out", "waiting", "in_flight", "on_disk", "running", "dead"];
const OF_TOPIC = ["received", "missed", "late", "behind"];
const TOPIC = zeros("published", ...OF_TOPIC);
const OF_SERVICE = ["capacity", "running", "waiting", "answered", "refused", "dropped"];
const SERVICE = zeros(...OF_SERVICE);

function add(sum, each, names) {
  for (const name of names) sum[name] += each[name];
}

/** Of which lists what comes in and what goes out is counted. */
const COUNTED = [
  ["sends", "queue", ({ account }) => account.accepted + account.retried, ({ account }) => account.acked],
  ["takes", "queue", ({ account }) => account.received, ({ account }) => account.processed],
  ["publishes", "topic", (each) => each.published],
  ["subscribes", "pattern", (each) => each.received],
  ["serves", "service", (each) => each.received, (each) => each.answered],
];

function addRates(node, before, seconds) {
  for (const [list, name, given, taken] of COUNTED) {
    const old = new Map(before ? before[list].map((each) => [each[name], each]) : []);
    for (const each of node[list]) {
      const was = old.get(each[name]);
      const rate = (count) => (was && count && seconds > 0 ? Math.max(0, (count(each) - count(was)) / seconds) : 0);
      each.in = rate(given);
      each.out = rate(taken);
    }
  }
}

export class Model {
  constructor() {
    Object.assign(this, { processes: new Map(), queues: new Map(), histories: 0 });
    Object.assign(this, { whole: true, at: 0, took: 0, host: "", can: [], sources: [] });
    this.clear();
  }

  clear() {
    Object.assign(this, { nodes: [], warnings: [], left: 0, total: zeros(...SUMS) });
    Object.assign(this, { topics: new Map(), services: new Map(), fabrics: new Set() });
    for (const queue of this.queues.values()) {
      Object.assign(queue, ZERO);
      queue.sends.length = queue.takes.length = 0;
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
    // Who does not answer is shown as it was last.
    const { status, nodes } = silent ? before : { status: answer.status, nodes: answer.status.nodes };
    if (!silent) {
      const seconds = this.next.at - before.at;
      const old = new Map(before.nodes.map((node) => [nodeKey(node), node]));
      for (const node of nodes) addRates(node, old.get(nodeKey(node)), seconds);
      status.process.load =
        before.status && seconds > 0 ? (status.process.cpu - before.status.process.cpu) / seconds : null;
    }
    this.processes.set(key, { ...answer, key, status, nodes, silent, at: silent ? before.at : this.next.at });
  }

  /** The look is at its end: what is shown is made of it in short steps, until the last of which it is not `whole`. */
  *end() {
    Object.assign(this, this.next, { whole: false });
    this.clear();
    yield;
    for (const key of this.processes.keys()) if (!this.seen.has(key)) this.processes.delete(key);
    for (const { name, problem } of this.sources)
      if (problem) this.warn("no-gateway", "", `${name}: ${problem}`, 0, "", name);
    const known = new Set();
    for (const process of this.processes.values()) {
      if (process.silent) {
        const names = process.nodes.map((node) => node.name).join(", ") || process.source || "not seen before";
        this.warn("no-answer", "", `process ${process.pid}: ${process.problem}`, 0, "", names);
      }
      for (const node of process.nodes) {
        const key = nodeKey(node);
        if (known.has(key)) continue; // two gateways tell of one host
        known.add(key);
        this.add({ key, node, process });
        if (this.nodes.length % STEP === 0) yield;
      }
    }
    yield;
    this.sum();
    this.whole = true;
  }

  warn(code, queue, text, since, fabric, name) {
    const same = this.warnings.find(
      (each) => each.code === code && each.queue === queue && each.fabric === fabric && (queue || each.text === text),
    );
    if (same) {
      same.names.push(name);
      same.since = Math.max(same.since, since);
    } else if (this.warnings.length < WARNINGS) this.warnings.push({ code, queue, text, since, fabric, names: [name] });
  }

  /** The row of that name in `map`, made if there is none. */
  row(map, kind, fabric, name, fields) {
    const key = queueKey(fabric, name);
    let row = map.get(key);
    if (row) return row;
    row = { key: `${kind} ${key}`, kind, by: `${kind} ${name}`, fabric, name, in: 0, out: 0, ...fields() };
    map.set(key, row);
    return row;
  }

  add(at) {
    const { node, process } = at;
    const { fabric, name } = node;
    const flows = process.silent ? 0 : 1; // what was counted last is no rate of now
    const of = (map, kind, called, fields) => this.row(map, kind, fabric, called, fields);
    const empty = () => ({ ...ZERO, history: null, sends: [], takes: [] });
    const queue = (called) => of(this.queues, "queue", called, empty);
    const topic = (called) => of(this.topics, "topic", called, () => ({ ...TOPIC, from: [], to: [] }));
    const service = (called) => of(this.services, "service", called, () => ({ ...SERVICE, to: [] }));
    this.nodes.push(at);
    this.fabrics.add(fabric);
    this.left += node.more;
    for (const each of node.warnings) this.warn(each.code, each.queue, each.text, each.since, fabric, name);
    for (const each of node.sends) {
      const row = queue(each.queue);
      each.at = at;
      row.sends.push(each);
      add(row, each.account, ACCOUNT);
      row.dead += each.letters.count;
      row.blocked += each.blocked_senders;
      row.given += flows * each.in;
      row.taken += flows * each.out;
      row.remote ||= each.consumers.length > 0;
      if (each.oldest_waiting !== null) row.oldest = Math.max(row.oldest, each.oldest_waiting);
    }
    for (const each of node.takes) {
      const row = queue(each.queue);
      each.at = at;
      row.takes.push(each);
      row.running += each.account.started;
      row.longest = Math.max(row.longest, each.longest_running);
      row.paused += each.paused;
      row.received += flows * each.in;
      row.processed += flows * each.out;
    }
    for (const each of node.publishes) {
      const row = topic(each.topic);
      row.from.push(name);
      row.published += each.published;
      row.in += flows * each.in;
    }
    for (const each of node.subscribes) {
      const row = topic(each.pattern);
      row.to.push(name);
      row.out += flows * each.in;
      add(row, each, OF_TOPIC);
    }
    for (const each of node.serves) {
      const row = service(each.service);
      row.to.push(name);
      row.out += flows * each.out;
      add(row, each, OF_SERVICE);
    }
  }

  sum() {
    for (const { queue, fabric } of this.warnings) {
      const found = queue && this.queues.get(queueKey(fabric, queue));
      if (found) found.warned += 1;
    }
    for (const [key, queue] of this.queues) {
      if (!queue.sends.length && !queue.takes.length) {
        if (queue.history) this.histories -= 1;
        this.queues.delete(key);
        continue;
      }
      // Without a producer on these hosts, what consumers say is all there is.
      queue.in = queue.sends.length ? queue.given : queue.received;
      queue.out = queue.sends.length ? queue.taken : queue.processed;
      add(this.total, queue, SUMS);
      if (!queue.history && (queue.in || queue.out) && this.histories < HISTORIES) {
        queue.history = new History(this.at);
        this.histories += 1;
      }
      if (queue.history) queue.history.add(this.at, queue.in, queue.out);
    }
    this.history ||= new History(this.at);
    this.history.add(this.at, this.total.in, this.total.out);
  }
}
