// What is known of the fabric: looks as they come in, rates by subtraction, 5 minutes of history, queues over all nodes.

export const SAMPLES = 300; // one each second
const HISTORIES = 4000; // queues with traffic that have one; beyond it they go without

const processKey = (answer) => `${answer.source}\n${answer.pid}\n${answer.started}`;
export const nodeKey = (node) => `${node.node_id}.${node.epoch}`;
export const queueKey = (fabric, name) => `${fabric}/${name}`;
export const queueLink = (fabric, name) => `#/queue/${encodeURIComponent(fabric)}/${encodeURIComponent(name)}`;
export const nodeLink = (key) => `#/node/${encodeURIComponent(key)}`;

/** Two rates over the last 5 minutes, in messages a second; not a number where nothing is known. */
export class History {
  constructor(at) {
    this.in = new Float32Array(SAMPLES).fill(NaN);
    this.out = new Float32Array(SAMPLES).fill(NaN);
    this.at = Math.floor(at);
  }

  add(at, given, taken) {
    const now = Math.floor(at);
    if (now - this.at > SAMPLES) this.at = now - SAMPLES;
    // A look that came late stands for the seconds before it, too.
    while (this.at < now) {
      this.at += 1;
      this.in[this.at % SAMPLES] = given;
      this.out[this.at % SAMPLES] = taken;
    }
  }

  /** `count` means of each, oldest first. */
  means(side, count) {
    const every = SAMPLES / count;
    const found = [];
    for (let n = 0; n < count; n += 1) {
      let sum = 0;
      let known = 0;
      for (let k = 0; k < every; k += 1) {
        const value = side[(this.at + 1 + n * every + k) % SAMPLES];
        if (value === value) { sum += value; known += 1; }
      }
      found.push(known ? sum / known : NaN);
    }
    return found;
  }
}

class Queue {
  constructor(fabric, name) {
    this.fabric = fabric;
    this.name = name;
    this.key = queueKey(fabric, name);
    this.history = null;
    this.clear();
  }

  clear() {
    this.senders = this.takers = this.threads = this.paused = 0;
    this.waiting = this.inFlight = this.onDisk = this.blocked = 0;
    this.given = this.taken = this.received = this.processed = 0;
    this.running = this.longest = this.redelivered = this.expired = this.dropped = this.dead = 0;
    this.oldest = null;
    this.remote = false;
    this.warned = 0;
  }
}

const rate = (now, before, seconds) => (before === undefined || seconds <= 0 ? 0 : Math.max(0, (now - before) / seconds));

export class Model {
  constructor() {
    this.processes = new Map();
    this.queues = new Map();
    this.topics = new Map();
    this.services = new Map();
    this.nodes = [];
    this.warnings = [];
    this.sources = [];
    this.fabrics = [];
    this.can = [];
    this.host = "";
    this.at = 0;
    this.took = 0;
    this.total = { in: 0, out: 0, waiting: 0, inFlight: 0, onDisk: 0, dead: 0, running: 0 };
    this.history = null;
    this.histories = 0;
    this.seen = new Set();
  }

  begin(look) {
    this.next = look;
    this.seen = new Set();
  }

  /** One process of the look that has begun. */
  process(answer) {
    const key = processKey(answer);
    this.seen.add(key);
    const before = this.processes.get(key);
    if (!answer.status) {
      // It is shown as it was last, and that it does not answer.
      this.processes.set(key, { ...answer, key, nodes: before ? before.nodes : [], status: before ? before.status : null, silent: true });
      return;
    }
    const seconds = before && before.status ? this.next.at - before.at : 0;
    const old = new Map();
    if (before) for (const node of before.nodes) old.set(nodeKey(node), node);
    const process = answer.status.process;
    process.load = before && before.status ? rate(process.cpu, before.status.process.cpu, seconds) : null;
    for (const node of answer.status.nodes) this.rates(node, old.get(nodeKey(node)), seconds);
    this.processes.set(key, { ...answer, key, nodes: answer.status.nodes, at: this.next.at, silent: false });
  }

  rates(node, before, seconds) {
    const by = (list, name) => new Map(before ? before[list].map((each) => [each[name], each]) : []);
    const sends = by("sends", "queue");
    for (const each of node.sends) {
      const old = sends.get(each.queue);
      const { account } = each;
      each.in = rate(account.accepted + account.retried, old && old.account.accepted + old.account.retried, seconds);
      each.out = rate(account.acked, old && old.account.acked, seconds);
    }
    const takes = by("takes", "queue");
    for (const each of node.takes) {
      const old = takes.get(each.queue);
      each.in = rate(each.account.received, old && old.account.received, seconds);
      each.out = rate(each.account.processed, old && old.account.processed, seconds);
    }
    const publishes = by("publishes", "topic");
    for (const each of node.publishes) {
      const old = publishes.get(each.topic);
      each.rate = rate(each.published, old && old.published, seconds);
    }
    const subscribes = by("subscribes", "pattern");
    for (const each of node.subscribes) {
      const old = subscribes.get(each.pattern);
      each.rate = rate(each.received, old && old.received, seconds);
    }
    const serves = by("serves", "service");
    for (const each of node.serves) {
      const old = serves.get(each.service);
      each.rate = rate(each.answered, old && old.answered, seconds);
    }
  }

  /** The look is whole: what is shown is made of it. */
  end() {
    const { at, took, sources, can, host } = this.next;
    Object.assign(this, { at, took, sources, can, host });
    for (const key of this.processes.keys()) if (!this.seen.has(key)) this.processes.delete(key);
    this.nodes = [];
    this.topics = new Map();
    this.services = new Map();
    this.warnings = [];
    const seen = new Map();
    const fabrics = new Set();
    for (const queue of this.queues.values()) queue.clear();
    for (const source of sources) {
      if (source.problem) this.warn("no-gateway", "", source.problem, 0, source.name, "");
    }
    for (const process of this.processes.values()) {
      if (process.silent) {
        const name = process.nodes.map((node) => node.name).join(", ") || `process ${process.pid}`;
        this.warn("no-answer", "", `process ${process.pid}: ${process.problem}`, 0, name, "");
      }
      for (const node of process.nodes) {
        const key = nodeKey(node);
        if (seen.has(key)) continue; // by another gateway of the same host
        const row = { key, node, process };
        seen.set(key, row);
        this.nodes.push(row);
        fabrics.add(node.fabric);
        this.add(row);
      }
    }
    this.fabrics = [...fabrics].sort();
    this.sum();
  }

  warn(code, queue, text, since, node, fabric) {
    const same = this.warnings.find((each) => each.code === code && each.queue === queue && each.fabric === fabric && (queue || each.text === text));
    if (same) {
      same.nodes.push(node);
      same.since = Math.max(same.since, since);
    } else if (this.warnings.length < 500) this.warnings.push({ code, queue, text, since, nodes: [node], fabric });
  }

  queue(fabric, name) {
    const key = queueKey(fabric, name);
    let queue = this.queues.get(key);
    if (!queue) this.queues.set(key, (queue = new Queue(fabric, name)));
    return queue;
  }

  add({ node, process }) {
    for (const { code, queue, text, since } of node.warnings) this.warn(code, queue, text, since, node.name, node.fabric);
    for (const each of node.sends) {
      const queue = this.queue(node.fabric, each.queue);
      const { account } = each;
      queue.senders += 1;
      queue.waiting += account.waiting;
      queue.inFlight += account.in_flight;
      queue.onDisk += account.on_disk;
      queue.redelivered += account.redelivered;
      queue.expired += account.expired;
      queue.dropped += account.dropped;
      queue.dead += each.letters.count;
      queue.blocked += each.blocked_senders;
      if (!process.silent) {
        queue.given += each.in;
        queue.taken += each.out;
      }
      if (each.oldest_waiting !== null) queue.oldest = Math.max(queue.oldest ?? 0, each.oldest_waiting);
      if (each.consumers.length) queue.remote = true;
    }
    for (const each of node.takes) {
      const queue = this.queue(node.fabric, each.queue);
      queue.takers += 1;
      queue.threads += each.takers;
      queue.running += each.account.started;
      queue.longest = Math.max(queue.longest, each.longest_running);
      if (each.paused) queue.paused += 1;
      if (!process.silent) {
        queue.received += each.in;
        queue.processed += each.out;
      }
    }
    const topic = (name) => {
      const key = queueKey(node.fabric, name);
      let found = this.topics.get(key);
      if (!found) this.topics.set(key, (found = { key, fabric: node.fabric, name, publishers: 0, subscribers: 0, published: 0, received: 0, in: 0, out: 0, missed: 0, late: 0, behind: 0, from: [], to: [] }));
      return found;
    };
    for (const each of node.publishes) {
      const row = topic(each.topic);
      row.publishers += 1;
      row.published += each.published;
      row.in += each.rate;
      row.from.push(node.name);
    }
    for (const each of node.subscribes) {
      const row = topic(each.pattern);
      row.subscribers += 1;
      row.received += each.received;
      row.out += each.rate;
      row.missed += each.missed;
      row.late += each.late;
      row.behind += each.behind;
      row.to.push(node.name);
    }
    for (const each of node.serves) {
      const key = queueKey(node.fabric, each.service);
      let row = this.services.get(key);
      if (!row) this.services.set(key, (row = { key, fabric: node.fabric, name: each.service, servers: [], rate: 0, capacity: 0, running: 0, waiting: 0, answered: 0, refused: 0, dropped: 0, left: 0 }));
      row.servers.push(node.name);
      for (const field of ["rate", "capacity", "running", "waiting", "answered", "refused", "dropped", "left"]) row[field] += each[field];
    }
  }

  sum() {
    const total = { in: 0, out: 0, waiting: 0, inFlight: 0, onDisk: 0, dead: 0, running: 0 };
    for (const queue of this.queues.values()) {
      if (!queue.senders && !queue.takers) {
        if (queue.history) this.histories -= 1;
        this.queues.delete(queue.key);
        continue;
      }
      // Without a producer on these hosts, what consumers say is all there is.
      queue.in = queue.senders ? queue.given : queue.received;
      queue.out = queue.senders ? queue.taken : queue.processed;
      total.in += queue.in;
      total.out += queue.out;
      total.waiting += queue.waiting;
      total.inFlight += queue.inFlight;
      total.onDisk += queue.onDisk;
      total.dead += queue.dead;
      total.running += queue.running;
      if (!queue.history && (queue.in || queue.out) && this.histories < HISTORIES) {
        queue.history = new History(this.at - 1);
        this.histories += 1;
      }
      if (queue.history) queue.history.add(this.at, queue.in, queue.out);
    }
    for (const { code, queue, fabric } of this.warnings) {
      const found = queue && this.queues.get(queueKey(fabric, queue));
      if (found) found.warned += 1;
    }
    this.total = total;
    if (!this.history) this.history = new History(this.at - 1);
    this.history.add(this.at, total.in, total.out);
  }
}
