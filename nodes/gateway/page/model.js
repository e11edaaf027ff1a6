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
      let sum = 0;
      let known = 0;
      for (let k = 0; k < every; k += 1) {
        const value = side[(this.at + 1 + n * every + k) % SAMPLES];
        if (value === value) {
          sum += value;
          known += 1;
        }
      }
      return known ? sum / known : NaN;
    });
  }
}

const ZERO = {
  senders: 0,
  takers: 0,
  paused: 0,
  waiting: 0,
  in_flight: 0,
  on_disk: 0,
  blocked: 0,
  given: 0,
  taken: 0,
  received: 0,
  processed: 0,
  running: 0,
  longest: 0,
  redelivered: 0,
  expired: 0,
  dropped: 0,
  dead: 0,
  warned: 0,
  oldest: null,
  remote: false,
};
const ACCOUNT = ["waiting", "in_flight", "on_disk", "redelivered", "expired", "dropped"];
const SUMS = ["in", "out", "waiting", "in_flight", "on_disk", "running", "dead"];

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
    this.processes = new Map();
    this.queues = new Map();
    this.histories = 0;
    Object.assign(this, { whole: true, at: 0, took: 0, host: "", can: [], sources: [] });
    this.clear();
  }

  clear() {
    this.nodes = [];
    this.warnings = [];
    this.topics = new Map();
    this.services = new Map();
    this.fabrics = new Set();
    this.left = 0;
    this.total = Object.fromEntries(SUMS.map((name) => [name, 0]));
    for (const queue of this.queues.values()) Object.assign(queue, ZERO);
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
        const names = process.nodes.map((node) => node.name).join(", ");
        this.warn(
          "no-answer",
          "",
          `process ${process.pid}: ${process.problem}`,
          0,
          "",
          names || process.source || "not seen before",
        );
      }
      for (const node of process.nodes) {
        const key = nodeKey(node);
        if (known.has(key)) continue; // two gateways tell of one host
        known.add(key);
        this.nodes.push({ key, node, process });
        this.add(node, process);
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

  queue(fabric, name) {
    const key = queueKey(fabric, name);
    let queue = this.queues.get(key);
    if (!queue) this.queues.set(key, (queue = { key, fabric, name, history: null, ...ZERO }));
    return queue;
  }

  add(node, { silent }) {
    const { fabric, name } = node;
    const named = (map, called, fields) => {
      const key = queueKey(fabric, called);
      if (!map.has(key)) map.set(key, { key, fabric, name: called, from: [], to: [], in: 0, out: 0, ...fields });
      return map.get(key);
    };
    const flows = silent ? 0 : 1; // what was counted last is no rate of now
    this.fabrics.add(fabric);
    this.left += node.more;
    for (const each of node.warnings) this.warn(each.code, each.queue, each.text, each.since, fabric, name);
    for (const each of node.sends) {
      const queue = this.queue(fabric, each.queue);
      for (const title of ACCOUNT) queue[title] += each.account[title];
      queue.senders += 1;
      queue.dead += each.letters.count;
      queue.blocked += each.blocked_senders;
      queue.given += flows * each.in;
      queue.taken += flows * each.out;
      queue.remote ||= each.consumers.length > 0;
      if (each.oldest_waiting !== null) queue.oldest = Math.max(queue.oldest, each.oldest_waiting);
    }
    for (const each of node.takes) {
      const queue = this.queue(fabric, each.queue);
      queue.takers += 1;
      queue.running += Math.max(each.account.started, each.running.length);
      queue.longest = Math.max(queue.longest, each.longest_running);
      queue.paused += each.paused;
      queue.received += flows * each.in;
      queue.processed += flows * each.out;
    }
    const topic = (called) => named(this.topics, called, { published: 0, received: 0, missed: 0, late: 0, behind: 0 });
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
      for (const field of ["received", "missed", "late", "behind"]) row[field] += each[field];
    }
    for (const each of node.serves) {
      const row = named(this.services, each.service, {
        capacity: 0,
        running: 0,
        waiting: 0,
        answered: 0,
        refused: 0,
        dropped: 0,
      });
      row.to.push(name);
      row.out += flows * each.out;
      for (const field of ["capacity", "running", "waiting", "answered", "refused", "dropped"])
        row[field] += each[field];
    }
  }

  sum() {
    for (const { queue, fabric } of this.warnings) {
      const found = queue && this.queues.get(queueKey(fabric, queue));
      if (found) found.warned += 1;
    }
    for (const queue of this.queues.values()) {
      if (!queue.senders && !queue.takers) {
        if (queue.history) this.histories -= 1;
        this.queues.delete(queue.key);
        continue;
      }
      // Without a producer on these hosts, what consumers say is all there is.
      queue.in = queue.senders ? queue.given : queue.received;
      queue.out = queue.senders ? queue.taken : queue.processed;
      for (const name of SUMS) this.total[name] += queue[name];
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
