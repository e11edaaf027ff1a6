// One queue: its course, who sends and consumes it, what runs, its dead letters, and the acts on it.

import { Sparkline, Table, age, bytes, count, h, mark, perSecond, say, some } from "./dom.js";
import { nodeLink, queueKey } from "./model.js";
import { get, post } from "./stream.js";

const BOUNDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 300];

/** The bucket in which the middle one of a histogram lies. */
function median(buckets) {
  const half = buckets.reduce((a, b) => a + b, 0) / 2;
  let sum = 0;
  for (let n = 0; n < buckets.length; n += 1) {
    sum += buckets[n];
    if (half && sum >= half) return n < BOUNDS.length ? `≤ ${age(BOUNDS[n])}` : `> ${age(BOUNDS[n - 1])}`;
  }
  return "·";
}

const PRODUCERS = [
  { title: "Producer", kind: "name", by: (p) => p.node.name, text: (p) => p.node.name },
  { title: "In / s", by: (p) => p.in, text: (p) => perSecond(p.in) },
  { title: "Waiting", by: (p) => p.account.waiting, text: (p) => some(p.account.waiting) },
  { title: "Oldest", by: (p) => p.oldest_waiting, text: (p) => age(p.oldest_waiting) },
  { title: "In flight", by: (p) => p.account.in_flight, text: (p) => some(p.account.in_flight) },
  { title: "On disk", low: true, by: (p) => p.account.on_disk, text: (p) => some(p.account.on_disk) },
  { title: "Accepted", low: true, by: (p) => p.account.accepted, text: (p) => some(p.account.accepted + p.account.recovered) },
  { title: "Acked", low: true, by: (p) => p.account.acked, text: (p) => some(p.account.acked) },
  { title: "Redelivered", low: true, by: (p) => p.account.redelivered, text: (p) => some(p.account.redelivered) },
  { title: "Credit", low: true, hint: "How many more its consumers would take now", by: (p) => p.credit_free, text: (p) => some(p.credit_free) },
  { title: "Blocked", hint: "Calls of send that wait for room", by: (p) => p.blocked_senders, text: (p) => some(p.blocked_senders), mark: (p) => (p.blocked_senders ? "warn" : "") },
];

const CONSUMERS = [
  { title: "Consumer", kind: "name", by: (c) => c.node.name, text: (c) => c.node.name },
  { title: "State", kind: "text", by: (c) => c.state, text: (c) => c.state, mark: (c) => (c.silent ? "bad" : c.paused ? "warn" : "faint") },
  { title: "Done / s", by: (c) => c.out, text: (c) => perSecond(c.out) },
  { title: "Takers", low: true, hint: "Threads or tasks that take from it now", by: (c) => c.takers, text: (c) => some(c.takers) },
  { title: "Buffered", by: (c) => c.account.buffered, text: (c) => some(c.account.buffered) },
  { title: "Running", by: (c) => c.account.started, text: (c) => some(c.account.started) },
  { title: "Longest", by: (c) => c.longest_running, text: (c) => (c.longest_running ? age(c.longest_running) : "·") },
  { title: "Middle", low: true, hint: "Half of all took no longer", text: (c) => median(c.seconds) },
  { title: "Processed", low: true, by: (c) => c.account.processed, text: (c) => some(c.account.processed) },
  { title: "Nacked", low: true, by: (c) => c.account.nacked, text: (c) => some(c.account.nacked) },
  { title: "Window", low: true, by: (c) => c.account.window, text: (c) => some(c.account.window) },
  { title: "Last taken", low: true, by: (c) => c.last_taken, text: (c) => (c.last_taken === null ? "never" : `${age(c.last_taken)} ago`) },
];

const RUNNING = [
  { title: "Message", kind: "name", by: (r) => r.id, text: (r) => r.id },
  { title: "Age", by: (r) => r.age, text: (r) => age(r.age), mark: (r) => (r.age > 30 ? "warn" : "") },
  { title: "Lease left", by: (r) => r.lease_left, text: (r) => age(r.lease_left) },
  { title: "Attempt", by: (r) => r.attempt, text: (r) => String(r.attempt), mark: (r) => (r.attempt > 1 ? "warn" : "") },
  { title: "Handler", kind: "text", by: (r) => r.handler, text: (r) => r.handler },
  { title: "Line", kind: "text code", by: (r) => r.line, text: (r) => r.line },
  { title: "At", kind: "text", low: true, by: (r) => r.at, text: (r) => r.at },
];

const FIELDS = [
  ["Waiting", (q) => count(q.waiting)], ["Oldest", (q) => age(q.oldest)], ["In flight", (q) => count(q.inFlight)], ["On disk", (q) => count(q.onDisk)],
  ["Running", (q) => count(q.running)], ["Redelivered", (q) => count(q.redelivered)], ["Expired", (q) => count(q.expired)], ["Dropped", (q) => count(q.dropped)], ["Dead", (q) => count(q.dead)],
];

/** Asks for what cannot be undone: the name of the queue has to be typed. */
function typed(name, title, text) {
  return new Promise((done) => {
    const go = h("button", { type: "submit", class: "danger", disabled: true }, title);
    const field = h("input", { type: "text", autocomplete: "off", spellcheck: "false", "aria-label": "Name of the queue", input: () => { go.disabled = field.value !== name; } });
    const close = () => { dialog.remove(); done(false); };
    const dialog = h("dialog", { cancel: close },
      h("form", { method: "dialog", submit: (event) => { event.preventDefault(); if (field.value === name) { dialog.remove(); done(true); } } },
        h("h2", null, title), h("p", null, text), h("label", null, "Type ", h("code", null, name), " to go on", field),
        h("div", { class: "acts" }, h("button", { type: "button", click: close }, "Cancel"), go)));
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}

export class QueueView {
  constructor(model, fabric, name, note) {
    Object.assign(this, { model, fabric, name, note, title: name, key: queueKey(fabric, name) });
    this.values = FIELDS.map(() => h("b", null, "–"));
    this.rates = { in: h("b", null, "–"), out: h("b", null, "–") };
    this.chart = new Sparkline(600, 110, 300);
    this.top = h("span", { class: "top" });
    this.state = h("span");
    const button = (text, act, danger) => h("button", { type: "button", class: danger && "danger", click: () => act.call(this) }, text);
    this.pause = button("Pause", () => this.act("pause"));
    this.resume = button("Resume", () => this.act("resume"));
    this.purge = button("Purge …", this.purgeAll, true);
    this.acts = h("div", { class: "acts" }, this.pause, this.resume, this.purge);
    const open = (row) => nodeLink(row.nodeKey);
    this.producers = new Table("producers", PRODUCERS, { key: (p) => p.nodeKey, open, empty: "Nobody on these hosts sends to it." });
    this.consumers = new Table("consumers", CONSUMERS, { key: (c) => c.nodeKey, open, empty: "Nobody on these hosts consumes it.", rows: (c) => (c.silent ? "silent" : "") });
    this.running = new Table("running", RUNNING, { key: (r) => `${r.id} ${r.at}`, empty: "No handler runs now.", sort: 1 });
    this.letters = new Letters(this);
    const part = (title, body, more) => h("section", { class: "part" }, h("h2", null, title, more), body);
    this.element = h("section", { class: "detail" },
      h("div", { class: "head" }, h("a", { href: "#/queues", class: "back" }, "Queues"), h("h1", null, name), this.state, this.acts),
      h("div", { class: "course" },
        h("div", { class: "rates" },
          h("div", null, h("span", { class: "title key-in" }, "In / s"), this.rates.in),
          h("div", null, h("span", { class: "title key-out" }, "Out / s"), this.rates.out)),
        h("div", { class: "graph" }, this.top, this.chart.element, h("span", { class: "axis" }, h("span", null, "5 min ago"), h("span", null, "now")))),
      h("dl", { class: "fields" }, FIELDS.map(([title], n) => h("div", null, h("dt", null, title), h("dd", null, this.values[n])))),
      part("Producers", this.producers.element), part("Consumers", this.consumers.element), part("Running", this.running.element),
      this.letters.element);
  }

  show() {
    const queue = this.model.queues.get(this.key);
    const may = this.model.can.includes("admin");
    this.acts.hidden = !may || !queue;
    say(this.state, !queue ? "Not known here now." : queue.paused ? `paused at ${queue.paused} of ${queue.takers}` : "");
    mark(this.state, queue && queue.paused ? "badge paused" : "faint");
    if (queue) {
      FIELDS.forEach(([, of], n) => say(this.values[n], of(queue)));
      say(this.rates.in, queue.in ? perSecond(queue.in) : "0");
      say(this.rates.out, queue.out ? perSecond(queue.out) : "0");
      const top = this.chart.show(queue.history);
      say(this.top, top ? `${perSecond(top)} / s` : "");
      this.pause.disabled = queue.paused >= queue.takers;
      this.resume.disabled = !queue.paused;
    }
    const producers = [];
    const consumers = [];
    const running = [];
    for (const row of this.model.nodes) {
      if (row.node.fabric !== this.fabric) continue;
      for (const each of row.node.sends) if (each.queue === this.name) producers.push({ ...each, node: row.node, nodeKey: row.key });
      for (const each of row.node.takes) {
        if (each.queue !== this.name) continue;
        const { silent } = row.process;
        const state = silent ? "no answer" : each.paused ? "paused" : row.node.engine || "takes";
        consumers.push({ ...each, node: row.node, nodeKey: row.key, silent, state });
        for (const one of each.running) running.push({ ...one, at: `${row.node.name} ${one.thread}`.trim() });
      }
    }
    this.producers.show(producers);
    this.consumers.show(consumers);
    this.running.show(running);
    this.letters.changed(queue ? queue.dead : 0, may);
  }

  path(what, verb) {
    return `v1/${what}/${encodeURIComponent(this.name)}${verb}?fabric=${encodeURIComponent(this.fabric)}`;
  }

  async act(verb) {
    try {
      const answer = await post(this.path("queues", `:${verb}`), {});
      this.note(verb === "purge" ? `${count(answer.dropped)} dropped from ${this.name}` : `${this.name}: ${verb}d at ${answer.nodes} of its consumers`);
      if (answer.problems && answer.problems.length) this.note(answer.problems.join(" · "), true);
    } catch (error) {
      this.note(error.message, true);
    }
  }

  async purgeAll() {
    const text = "What waits in this queue at all its producers on these hosts is dropped. What consumers have now is not. This cannot be undone.";
    if (await typed(this.name, "Purge", text)) await this.act("purge");
  }

  close() {
    this.letters.closed = true;
  }
}

const SHOWN = 100;

/** Dead letters of one queue, read when their number changes. */
class Letters {
  constructor(view) {
    this.view = view;
    this.shown = -1;
    this.busy = false;
    this.body = h("div", { class: "letters" });
    this.none = h("p", { class: "none" }, "None.");
    this.all = h("span", { class: "acts" },
      h("button", { type: "button", click: () => this.act("retry", { all: true }) }, "Retry all"),
      h("button", { type: "button", class: "danger", click: () => this.dropAll() }, "Drop all …"));
    this.more = h("p", { class: "faint" });
    this.element = h("section", { class: "part", id: "dead" }, h("h2", null, "Dead letters", this.all), this.body, this.more, this.none);
    this.all.hidden = true;
  }

  changed(number, may) {
    this.may = may;
    this.all.hidden = !may || !number;
    if (number !== this.shown && !this.busy) this.load(number);
  }

  async load(number) {
    this.busy = true;
    this.shown = number;
    try {
      const found = number ? await get(`${this.view.path("dead", "")}&limit=${SHOWN}`) : { letters: [], problems: [] };
      if (this.closed) return;
      this.list(found.letters);
      say(this.none, found.problems.length ? found.problems.join(" · ") : "None.");
      this.none.hidden = found.letters.length > 0 && !found.problems.length;
      say(this.more, number > found.letters.length && found.letters.length ? `The first ${found.letters.length} of ${count(number)}.` : "");
    } catch (error) {
      if (this.closed) return;
      say(this.none, error.message);
      this.none.hidden = false;
    } finally {
      this.busy = false;
    }
  }

  list(letters) {
    const open = new Set([...this.body.querySelectorAll("details[open]")].map((each) => each.id));
    this.body.replaceChildren(...letters.map((letter) => {
      const id = `letter-${letter.id}`;
      const button = (text, verb, danger) => h("button", { type: "button", class: danger && "danger", click: (event) => { event.preventDefault(); this.act(verb, { ids: [letter.id] }); } }, text);
      const field = (title, value) => value !== "" && value !== null && value !== undefined && [h("dt", null, title), h("dd", null, String(value))];
      const headers = Object.entries(letter.headers || {});
      return h("details", { id, open: open.has(id) },
        h("summary", null,
          h("time", { title: letter.id }, new Date(letter.sent_at * 1000).toLocaleString("sv")),
          h("i", { class: "badge bad" }, letter.reason),
          h("span", { class: "text" }, letter.error || "No error was given."),
          h("span", { class: "faint" }, `${letter.attempts} attempt${letter.attempts === 1 ? "" : "s"}`),
          this.may && h("span", { class: "acts" }, button("Retry", "retry"), button("Drop", "drop", true))),
        h("dl", null, field("Id", letter.id), field("At", letter.node), field("Size", bytes(letter.size)), field("Deaths", letter.deaths || ""), field("Slot", letter.slot), field("Was", letter.origin),
          headers.map(([key, value]) => field(key, value))),
        h("pre", null, letter.text));
    }));
  }

  async dropAll() {
    if (await typed(this.view.name, "Drop all", "All dead letters of this queue on these hosts are removed. This cannot be undone.")) await this.act("drop", { all: true });
  }

  async act(verb, what) {
    try {
      const answer = await post(this.view.path("dead", `:${verb}`), what);
      const done = verb === "retry" ? "sent again" : "dropped";
      this.view.note(`${count(answer.done)} ${done}`);
      if (answer.problems.length) this.view.note(answer.problems.join(" · "), true);
      this.shown = -1;
    } catch (error) {
      this.view.note(error.message, true);
    }
  }
}
