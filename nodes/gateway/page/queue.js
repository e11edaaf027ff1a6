// One queue: its course, who sends and consumes it, what runs, its dead letters, and the acts on it.

import {
  Sparkline,
  Table,
  age,
  button,
  count,
  field,
  h,
  head,
  low,
  mark,
  name,
  number,
  part,
  rate,
  say,
  speed,
  time,
  words,
} from "./dom.js";
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
  name("Producer", (p) => p.node.name),
  speed("In / s"),
  number("Waiting"),
  time("Oldest", (p) => p.oldest_waiting),
  number("In flight"),
  low(number("On disk")),
  low(number("Accepted", (p) => p.accepted + p.recovered + p.retried)),
  low(number("Acked")),
  low(number("Redelivered")),
  low(number("Credit", (p) => p.credit_free, { hint: "How many more its consumers would take now" })),
  number("Blocked", (p) => p.blocked_senders, {
    hint: "Calls of send that wait for room",
    mark: (p) => p.blocked_senders && "warn",
  }),
];

const CONSUMERS = [
  name("Consumer", (c) => c.node.name),
  words("State", undefined, { mark: (c) => (c.process.silent ? "bad" : c.paused ? "warn" : "faint") }),
  speed("Out / s"),
  low(number("Takers", undefined, { hint: "Threads or tasks that take from it now" })),
  number("Buffered"),
  number("Running", (c) => Math.max(c.started, c.running.length)),
  time("Longest", (c) => c.longest_running || null),
  low(words("Median", (c) => median(c.seconds), { kind: "number", hint: "Half of all took no longer" })),
  low(number("Processed")),
  low(number("Nacked")),
  low(number("Window")),
  low(time("Last taken", undefined, { hint: "How long ago" })),
];

const RUNNING = [
  words("Handler"),
  time("Age", undefined, { mark: (r) => r.age > 30 && "warn" }),
  time("Lease left"),
  number("Attempt"),
  words("Line", undefined, { kind: "text code" }),
  low(words("At", (r) => `${r.node.name} ${r.thread}`)),
  low(words("Message", (r) => r.id, { kind: "text code" })),
];

const FIELDS = ["Waiting", "Oldest", "In flight", "On disk", "Running", "Redelivered", "Expired", "Dropped", "Dead"];

/** Ask for what cannot be undone: the name of the queue has to be typed. */
function typed(wanted, title, text) {
  return new Promise((done) => {
    const go = h("button", { class: "danger", disabled: true }, title);
    const field = h("input", {
      autocomplete: "off",
      spellcheck: "false",
      input: () => {
        go.disabled = field.value !== wanted;
      },
    });
    const end = (answer) => {
      dialog.remove();
      done(answer);
    };
    const submit = (event) => {
      event.preventDefault();
      if (field.value === wanted) end(true);
    };
    const dialog = h(
      "dialog",
      { cancel: () => end(false) },
      h(
        "form",
        { submit },
        h("h2", title),
        h("p", text),
        h("label", "Type ", h("code", wanted), " to go on", field),
        h(
          "div.acts",
          button("Cancel", () => end(false)),
          go,
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}

export class QueueView {
  constructor(model, fabric, queue, note) {
    Object.assign(this, { model, fabric, queue, note, title: queue, key: queueKey(fabric, queue), read: -1 });
    this.values = FIELDS.map(() => h("dd"));
    this.rates = [h("b"), h("b")];
    this.chart = new Sparkline(600, 96, 300);
    this.top = h("span.top");
    this.state = h("span");
    this.pause = button("Pause", () => this.act("pause"));
    this.resume = button("Resume", () => this.act("resume"));
    this.acts = h(
      "div.acts",
      this.pause,
      this.resume,
      button("Purge …", () => this.purge(), "danger"),
    );
    const open = (row) => nodeLink(row.nodeKey);
    this.producers = new Table("producers", PRODUCERS, (p) => p.nodeKey, {
      open,
      empty: "Nobody on these hosts sends to it.",
    });
    this.consumers = new Table("consumers", CONSUMERS, (c) => c.nodeKey, {
      open,
      empty: "Nobody on these hosts consumes it.",
      rows: (c) => (c.process.silent ? "silent" : ""),
    });
    this.running = new Table("running", RUNNING, (r) => `${r.id} ${r.node.name}`, {
      empty: "No handler has a message now.",
      sort: 1,
      down: true,
    });
    this.list = h("div.letters");
    this.none = h("p.none");
    this.all = h(
      "span.acts",
      button("Retry all", () => this.settle("retry", { all: true })),
      button("Drop all …", () => this.dropAll(), "danger"),
    );
    const side = (title, n) =>
      h("div", h("span", { class: `title ${n ? "key-out" : "key-in"}` }, title), this.rates[n]);
    this.element = h(
      "section",
      { class: "detail" },
      head("Queues", h("h1", queue), this.state, this.acts),
      h(
        "div.course",
        h("div.rates", side("In / s", 0), side("Out / s", 1)),
        h("div.graph", this.top, this.chart.element, h("div.axis", h("span", "5 min ago"), h("span", "now"))),
      ),
      h(
        "dl.fields",
        FIELDS.map((title, n) => h("div", h("dt", title), this.values[n])),
      ),
      part("Producers", this.producers.element),
      part("Consumers", this.consumers.element),
      part("Running", this.running.element),
      h("section", { class: "part", id: "dead" }, h("h2", "Dead letters", this.all), this.list, this.none),
    );
  }

  show() {
    const queue = this.model.queues.get(this.key);
    const may = this.model.can.includes("admin");
    this.acts.hidden = !may || !queue;
    this.all.hidden = !may || !queue || !queue.dead;
    say(
      this.state,
      !queue ? "Not known here now." : queue.paused ? `paused at ${queue.paused} of ${queue.takers}` : "",
    );
    mark(this.state, queue && queue.paused ? "badge warn" : "faint");
    if (queue) {
      FIELDS.forEach((title, n) => say(this.values[n], (title === "Oldest" ? age : count)(queue[field(title)])));
      [queue.in, queue.out].forEach((value, n) => say(this.rates[n], rate(value).replace("·", "0")));
      const top = this.chart.show(queue.history);
      say(this.top, top ? `${rate(top)} / s` : "");
      this.pause.disabled = queue.paused >= queue.takers;
      this.resume.disabled = !queue.paused;
    }
    const here = (list) =>
      this.model.nodes
        .filter(({ node }) => node.fabric === this.fabric)
        .flatMap(({ key, node, process }) =>
          node[list]
            .filter((each) => each.queue === this.queue)
            .map((each) => ({ ...each.account, ...each, node, process, nodeKey: key })),
        );
    const consumers = here("takes");
    for (const each of consumers)
      each.state = each.process.silent ? "no answer" : each.paused ? "paused" : each.node.engine || "takes";
    this.producers.show(here("sends"));
    this.consumers.show(consumers);
    this.running.show(consumers.flatMap(({ node, running }) => running.map((each) => ({ ...each, node }))));
    this.letters(queue ? queue.dead : 0, may);
  }

  path(kind, verb) {
    return `v1/${kind}/${encodeURIComponent(this.queue)}${verb}?fabric=${encodeURIComponent(this.fabric)}`;
  }

  async ask(path, body, told) {
    try {
      const answer = await post(path, body);
      this.note(told(answer));
      const problems = answer.problems.concat(
        (answer.outcomes || []).filter((each) => !each.done).map((each) => each.problem),
      );
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
    return this.ask(this.path("queues", `:${verb}`), {}, (answer) => `${this.queue}: ${told(answer)}`);
  }

  async purge() {
    if (
      await typed(
        this.queue,
        "Purge",
        "What waits at all producers on these hosts is dropped; what consumers have goes on. This cannot be undone.",
      )
    )
      this.act("purge");
  }

  async dropAll() {
    if (
      await typed(
        this.queue,
        "Drop all",
        "All dead letters of this queue on these hosts are removed. This cannot be undone.",
      )
    )
      this.settle("drop", { all: true });
  }

  async settle(verb, which) {
    await this.ask(
      this.path("dead", `:${verb}`),
      which,
      (answer) => `${count(answer.done)} ${verb === "retry" ? "sent again" : "dropped"}`,
    );
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

  letter(letter, may) {
    const act = (text, verb, kind) =>
      button(
        text,
        (event) => {
          event.preventDefault();
          this.settle(verb, { ids: [letter.id] });
        },
        kind,
      );
    const { id, body, reason, error, attempts, headers, node, slot, deaths, source, sent_at: sent } = letter;
    const fields = Object.entries({
      Id: id,
      At: [source, node].filter(Boolean).join(" "),
      Slot: slot,
      Deaths: deaths,
      ...headers,
    });
    return h(
      "details",
      null,
      h(
        "summary",
        h("time", new Date(sent * 1000).toLocaleString("sv")),
        h("i", { class: "badge bad" }, reason),
        h("span.text", error),
        h("span.faint", `${attempts} attempts`),
        may && h("span.acts", act("Retry", "retry"), act("Drop", "drop", "danger")),
      ),
      h(
        "dl",
        fields
          .filter(([, value]) => value || value === 0)
          .map(([title, value]) => [h("dt", title), h("dd", String(value))]),
      ),
      h(
        "pre",
        typeof body === "string" ? body : JSON.stringify(body, null, 2),
        letter.cut && `\n… of ${count(letter.cut)} bytes`,
      ),
    );
  }
}
