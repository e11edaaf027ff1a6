// One queue: its course, who sends and consumes it, what runs, its dead letters, and the acts on it.

import { Fields, Sparkline, Table, age, button, count, detail, h, low, mark, name, number } from "./dom.js";
import { amount, code, part, rate, say, speed, time, words } from "./dom.js";
import { nodeLink, queueKey } from "./model.js";
import { get, post } from "./stream.js";

const BOUNDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 300];
const LETTERS = 100; // that are read and shown

/** The bucket in which the middle one of a histogram lies. */
function median(buckets) {
  const half = buckets.reduce((a, b) => a + b, 0) / 2;
  let sum = 0;
  const n = buckets.findIndex((each) => (sum += each) >= half);
  if (!half) return "·";
  return n < BOUNDS.length ? `≤ ${age(BOUNDS[n])}` : `> ${age(BOUNDS.at(-1))}`;
}

const PRODUCERS = [
  name("Producer", "node.name"),
  ...[speed("In / s"), number("Waiting"), time("Oldest", "oldest_waiting"), number("In flight")],
  low(
    number("On disk"),
    number("Accepted", (p) => p.accepted + p.recovered + p.retried),
    number("Acked"),
    number("Redelivered"),
    number("Credit", "credit_free", { hint: "How many more its consumers would take now" }),
  ),
  number("Blocked", "blocked_senders", {
    hint: "Calls of send that wait for room",
    warn: true,
  }),
];

const CONSUMERS = [
  name("Consumer", "node.name"),
  words("State", { bad: (c) => c.process.silent, warn: (c) => c.paused, faint: () => true }),
  speed("Out / s"),
  low(number("Takers", { hint: "Threads or tasks that take from it now" })),
  ...[number("Buffered"), number("Running", "started"), time("Longest", (c) => c.longest_running || null)],
  low(
    amount("Median", (c) => median(c.seconds), { hint: "Half of all took no longer" }),
    ...["Processed", "Nacked", "Window"].map((title) => number(title)),
    time("Last taken", { hint: "How long ago" }),
  ),
];

const RUNNING = [
  words("Handler"),
  time("Age", { warn: (r) => r.age > 30 }),
  ...[time("Lease left"), number("Attempt"), code("Line")],
  low(words("At", (r) => `${r.node.name} ${r.thread}`), code("Message", "id")),
];

const FIELDS = ["Waiting", "Oldest", "In flight", "On disk", "Running", "Redelivered", "Expired", "Dropped", "Dead"];

/** Ask for what cannot be undone, `done()`: the name of the queue has to be typed. */
function typed(wanted, title, text, done) {
  const go = h("button.danger", { disabled: true }, title);
  const input = () => (go.disabled = field.value !== wanted);
  const field = h("input", { autocomplete: "off", spellcheck: "false", input });
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

export class QueueView {
  constructor(model, fabric, queue, note) {
    Object.assign(this, { model, fabric, queue, note, title: queue, key: queueKey(fabric, queue), read: -1 });
    this.rates = new Fields({ class: "rates" });
    this.chart = new Sparkline(600, 96, 300);
    this.top = h("span.top");
    this.state = h("span");
    this.fields = new Fields({ class: "fields" });
    this.pause = button("Pause", () => this.act("pause"));
    this.resume = button("Resume", () => this.act("resume"));
    const purge = "What waits at all producers on these hosts is dropped; what consumers have goes on.";
    const purging = () => typed(queue, "Purge", purge, () => this.act("purge"));
    this.acts = h("div.acts", this.pause, this.resume, button("Purge …", purging, "danger"));
    const drop = "All dead letters of this queue on these hosts are removed.";
    const dropping = () => typed(queue, "Drop all", drop, () => this.settle("drop", { all: true }));
    const retrying = () => this.settle("retry", { all: true });
    this.all = h("span.acts", button("Retry all", retrying), button("Drop all …", dropping, "danger"));
    this.list = h("div.letters");
    this.none = h("p.none");
    const open = (row) => nodeLink(row.key);
    const rows = (row) => (row.process.silent ? "silent" : "");
    this.producers = new Table("producers", PRODUCERS, { open, empty: "Nobody on these hosts sends to it." });
    this.consumers = new Table("consumers", CONSUMERS, { open, rows, empty: "Nobody on these hosts consumes it." });
    const key = (r) => `${r.id} ${r.node.name}`;
    this.running = new Table("running", RUNNING, { key, sort: 1, down: true, empty: "No handler has a message now." });
    this.tables = [this.producers, this.consumers, this.running];
    this.element = detail(
      "Queues",
      [h("h1", queue), this.state, this.acts],
      h(
        "div.course",
        this.rates.element,
        h("div.graph", this.top, this.chart.element, h("div.axis", h("span", "5 min ago"), h("span", "now"))),
      ),
      this.fields.element,
      part("Producers", this.producers),
      part("Consumers", this.consumers),
      part("Running", this.running),
      h("section.part", { id: "dead" }, h("h2", "Dead letters", this.all), this.list, this.none),
    );
  }

  show() {
    const queue = this.model.queues.get(this.key);
    const may = this.model.can.includes("admin");
    const { from = [], to = [], paused = 0, dead = 0 } = queue || {};
    this.acts.hidden = !may || !queue;
    this.all.hidden = !may || !dead;
    say(this.state, !queue ? "Not known here now." : paused ? `paused at ${paused} of ${to.length}` : "");
    mark(this.state, paused ? "badge warn" : "faint");
    this.pause.disabled = paused >= to.length;
    this.resume.disabled = !paused;
    if (queue) {
      this.fields.show(FIELDS, { ...queue, oldest: age(queue.oldest) });
      this.rates.show(["In / s", "Out / s"], { in: rate(queue.in), out: rate(queue.out) });
      const top = this.chart.show(queue.history);
      say(this.top, top ? `${rate(top)} / s` : "");
    }
    const row = (each) => ({ ...each.account, ...each, ...each.at });
    const consumers = to.map(row);
    for (const each of consumers)
      each.state = each.process.silent ? "no answer" : each.paused ? "paused" : each.node.engine || "takes";
    this.producers.show(from.map(row));
    this.consumers.show(consumers);
    this.running.show(consumers.flatMap(({ node, running }) => running.map((each) => ({ ...each, node }))));
    this.letters(dead, may);
  }

  path(kind, verb) {
    return `v1/${kind}/${encodeURIComponent(this.queue)}${verb}?fabric=${encodeURIComponent(this.fabric)}`;
  }

  async ask(path, body, told) {
    try {
      const answer = await post(path, body);
      this.note(told(answer));
      const refused = (answer.outcomes || []).filter((each) => !each.done).map((each) => each.problem);
      const problems = answer.problems.concat(refused);
      if (problems.length) this.note(problems.slice(0, 5).join("\n"), true);
    } catch (error) {
      this.note(error.message, true);
    }
  }

  act(verb) {
    const consumers = (n) => `${count(n)} ${n === 1 ? "consumer" : "consumers"}`;
    const told = {
      pause: ({ done }) => `paused at ${consumers(done)}`,
      resume: ({ done }) => `resumed at ${consumers(done)}`,
      purge: ({ purged }) => `purged of ${count(purged)} messages`,
    }[verb];
    this.ask(this.path("queues", `:${verb}`), {}, (answer) => `${this.queue}: ${told(answer)}`);
  }

  async settle(verb, which) {
    const told = ({ done }) => `${count(done)} ${verb === "retry" ? "sent again" : "dropped"}`;
    await this.ask(this.path("dead", `:${verb}`), which, told);
    this.read = -1;
  }

  /** Read the dead letters again when their number has changed. */
  async letters(dead, may) {
    if (this.read === dead || this.reading) return;
    this.reading = true;
    this.read = dead;
    try {
      const found = dead ? await get(`${this.path("dead", "")}&limit=${LETTERS}`) : { letters: [], problems: [] };
      this.list.replaceChildren(...found.letters.map((letter) => this.letter(letter, may)));
      const more = dead > LETTERS && `These are the oldest ${LETTERS}.`;
      say(this.none, [more, ...found.problems].filter(Boolean).join(" ") || (found.letters.length ? "" : "None."));
    } catch (error) {
      say(this.none, error.message);
    }
    this.reading = false;
  }

  letter({ id, body, cut, reason, error, attempts, headers, node, slot, deaths, source, sent_at: sent }, may) {
    const act = (text, verb, kind) => {
      const click = (event) => {
        event.preventDefault();
        this.settle(verb, { ids: [id] });
      };
      return button(text, click, kind);
    };
    const at = [source, node].filter(Boolean).join(" ");
    const fields = { Id: id, At: at, Slot: slot, Deaths: deaths, ...headers };
    const told = Object.keys(fields).filter((title) => fields[title] || fields[title] === 0);
    return h(
      "details",
      h(
        "summary",
        h("time", new Date(sent * 1000).toLocaleString("sv")),
        h("i.badge bad", reason),
        h("span.text", error),
        h("span.faint", `${attempts} attempts`),
        may && h("span.acts", act("Retry", "retry"), act("Drop", "drop", "danger")),
      ),
      new Fields().show(told, fields, String),
      h("pre", typeof body === "string" ? body : JSON.stringify(body, null, 2), cut && `\n… of ${count(cut)} bytes`),
    );
  }
}
