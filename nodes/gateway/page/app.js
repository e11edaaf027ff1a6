// The page: one stream of looks at the hosts, shown as queues, nodes, topics, services, spools and flow.

import {
  Sparkline,
  Table,
  age,
  button,
  count,
  field,
  h,
  low,
  mark,
  name,
  names,
  number,
  rate,
  say,
  size,
  speed,
  time,
  words,
} from "./dom.js";
import { Model, nodeLink, queueKey, queueLink } from "./model.js";
import { NodeView, isWell } from "./node.js";
import { QueueView } from "./queue.js";
import { events, keepToken, takeToken } from "./stream.js";
import { Tap } from "./tap.js";

const model = new Model();
const $ = (id) => document.getElementById(id);
const main = $("main");

// ---- sums and warnings, which are always there ----

const SUMS = ["In / s", "Out / s", "Last 5 min", "Waiting", "In flight", "On disk", "Running", "Dead"];

class Strip {
  constructor() {
    this.spark = new Sparkline(260, 30, 100);
    this.values = new Map(SUMS.map((title) => [field(title), h("b", "–")]));
    this.values.set("last_5_min", this.spark.element);
    this.element = h(
      "section",
      { id: "strip" },
      SUMS.map((title) =>
        h("div", { class: `sum s-${field(title)}` }, h("span.title", title), this.values.get(field(title))),
      ),
    );
  }

  show() {
    for (const [id, value] of Object.entries(model.total))
      say(this.values.get(id), (id === "in" || id === "out" ? rate : count)(value).replace("·", "0"));
    mark(this.values.get("dead"), model.total.dead ? "bad" : "");
    this.spark.show(model.history);
  }
}

const GRAVE = ["no-answer", "no-gateway", "disk", "late", "stranded"];
const FIRST = 4; // warnings that are shown until somebody asks for all

class Warnings {
  constructor() {
    Object.assign(this, { all: false, items: [] });
    this.list = h("ul");
    this.more = button(
      "",
      () => {
        this.all = !this.all;
        this.show();
      },
      "quiet",
    );
    this.element = h("section", { id: "warnings" }, this.list, this.more);
  }

  show() {
    const grave = (each) => GRAVE.includes(each.code);
    const found = [...model.warnings].sort((a, b) => grave(b) - grave(a) || b.since - a.since);
    const shown = this.all ? found : found.slice(0, FIRST);
    while (this.items.length < shown.length) {
      const parts = [h("b"), h("a"), h("span"), h("span.who")];
      parts.item = h("li", parts[0], h("span.words", parts[1], parts[2]), parts[3]);
      this.list.append(parts.item);
      this.items.push(parts);
    }
    while (this.items.length > shown.length) this.items.pop().item.remove();
    shown.forEach((each, n) => {
      const [code, queue, text, who] = this.items[n];
      mark(this.items[n].item, grave(each) ? "grave" : "");
      say(code, each.code);
      say(queue, each.queue);
      queue.setAttribute("href", queueLink(each.fabric, each.queue));
      say(text, each.text.replace(`queue '${each.queue}': `, ""));
      say(
        who,
        (each.names.length > 2 ? `${each.names.length} nodes` : each.names.join(", ")) +
          (each.since ? ` · ${age(each.since)}` : ""),
      );
    });
    this.element.hidden = !found.length;
    this.more.hidden = found.length <= FIRST;
    say(this.more, this.all ? "fewer" : `${found.length - FIRST} more warnings`);
  }
}

// ---- lists ----

/** A name, and in a word each what is out of the ordinary. */
const badged = (title, badges) =>
  name(title, (row) => row.name, {
    draw: (cell, row) => {
      const found = [model.fabrics.size > 1 && [row.fabric, ""], ...badges(row)].filter((each) => each && each[0]);
      const target = cell.link || cell;
      const all = `${row.name}\n${found.join("\n")}`;
      if (cell.all === all) return;
      cell.all = all;
      const marks = found.map(([text, kind]) => h("i", { class: `badge ${kind}` }, text));
      if (cell.link) {
        say(target, row.name);
        cell.replaceChildren(target, ...marks);
      } else cell.replaceChildren(row.name, ...marks);
    },
  });

const chart = {
  title: "5 min",
  kind: "draws",
  low: true,
  hint: "In: line. Out: area.",
  draw: (cell, row) => {
    if (!cell.spark) cell.append((cell.spark = new Sparkline(100, 20, 50)).element);
    cell.spark.show(row.history);
  },
};

const QUEUES = [
  badged("Queue", (q) => [
    q.paused && ["paused", "warn"],
    q.warned && ["warned", "warn"],
    q.blocked && [`blocked ${q.blocked}`, "warn"],
  ]),
  number("Waiting", undefined, { mark: (q) => q.waiting && !q.takers && !q.remote && "warn" }),
  time("Oldest", undefined, {
    hint: "Age of the oldest that could be sent now",
    mark: (q) => q.oldest > 300 && "warn",
  }),
  speed("In / s"),
  speed("Out / s"),
  chart,
  low(number("In flight")),
  low(number("On disk")),
  low(number("Running", undefined, { hint: "Messages that handlers have now" })),
  low(time("Longest", (q) => q.longest || null, { hint: "Age of the oldest of these" })),
  number("Consumers", (q) => q.takers, {
    text: (q) => (q.takers ? count(q.takers) : q.remote ? "remote" : "none"),
    mark: (q) => !q.takers && !q.remote && (q.waiting + q.on_disk ? "warn" : "faint"),
  }),
  low(number("Redelivered")),
  number("Dead", undefined, { mark: (q) => q.dead && "bad" }),
];

const state = ({ node, process }) =>
  process.silent
    ? "no answer"
    : node.engine || (node.adopted === null ? node.state || "running" : `adopted slot ${node.adopted}`);

const NODES = [
  badged("Node", (n) => [[n.process.source, ""]]),
  words("State", state, { mark: (n) => (n.process.silent ? "bad" : n.node.engine && "warn") }),
  words("Pid", (n) => n.process.pid, { kind: "number" }),
  low(time("Up", (n) => n.node.uptime)),
  time("Pump late", (n) => (n.node.pump_late > 0.1 ? n.node.pump_late : null), {
    hint: "How long its I/O thread has been due",
    mark: (n) => n.node.pump_late > 1 && "warn",
  }),
  number("CPU", (n) => (n.process.silent ? null : n.system.load), {
    text: (n) => (n.process.silent || !n.system.load ? "·" : `${(n.system.load * 100).toFixed(1)} %`),
  }),
  size("Memory", (n) => n.system.rss),
  low(number("Threads", (n) => n.system.threads)),
  low(number("Files", (n) => n.system.descriptors, { hint: "Descriptors" })),
  low(number("Peers", (n) => n.node.peers.length, { mark: (n) => !n.node.peers.every(isWell) && "warn" })),
  low(number("Sends to", (n) => n.node.sends.length, { hint: "Queues" })),
  low(number("Consumes", (n) => n.node.takes.length, { hint: "Queues" })),
];

/** All nodes, and processes that have not told of theirs. */
function nodeRows() {
  const unknown = { fabric: "", uptime: null, pump_late: 0, peers: [], sends: [], takes: [] };
  const unseen = [...model.processes.values()].filter((each) => each.silent && !each.nodes.length);
  return [
    ...model.nodes,
    ...unseen.map((process) => ({ key: process.key, node: { ...unknown, name: `process ${process.pid}` }, process })),
  ].map((row) => ({
    ...row,
    name: row.node.name,
    fabric: row.node.fabric,
    system: row.process.status ? row.process.status.process : {},
  }));
}

const TOPICS = [
  badged("Topic or pattern", () => []),
  speed("Published / s", (t) => t.in),
  speed("Received / s", (t) => t.out),
  number("Publishers", (t) => t.from.length),
  number("Subscribers", (t) => t.to.length),
  low(number("Published")),
  low(number("Received")),
  number("Missed", undefined, { mark: (t) => t.missed && "warn" }),
  low(number("Late")),
  low(size("Behind", undefined, { hint: "What subscribers have not taken yet" })),
];

const SERVICES = [
  badged("Service", () => []),
  speed("Answers / s", (s) => s.out),
  number("Running"),
  number("Capacity", undefined, { hint: "Calls that may run at once" }),
  number("Waiting", undefined, { mark: (s) => s.waiting && "warn" }),
  low(number("Answered")),
  low(number("Refused")),
  low(number("Dropped")),
  low(words("Served by", (s) => names(s.to))),
];

const SLOTS = [
  name("Slot", (s) => `${s.folder} : ${s.slot}`),
  words("State", undefined, { mark: (s) => (s.state === "left" ? "warn" : s.state !== "running" && "faint") }),
  words("Pid", (s) => s.pid || "·", { kind: "number" }),
  words("Name"),
  number("Messages", (s) => s.left),
  number("Dead", (s) => s.letters, { mark: (s) => s.letters && "bad" }),
  size("Used", undefined, { mark: (s) => s.used > 0.8 * s.limit && "bad" }),
  low(size("Limit")),
  low(size("Disk free")),
  low(time("Last sync")),
];

/** All slots of all folders: what a node says of its own one counts most. */
function slotRows() {
  const rows = new Map();
  const put = (source, folder, slot, fields) => {
    const key = `${source} ${folder} ${String(slot).padStart(4, "0")}`;
    rows.set(key, { key, folder, slot, used: 0, limit: 0, disk_free: 0, last_sync: null, ...rows.get(key), ...fields });
  };
  const spooled = model.nodes.filter(({ node }) => node.spool);
  for (const {
    node: { spool },
    process,
  } of spooled)
    for (const each of spool.slots) put(process.source, spool.folder, each.slot, each);
  for (const { node, process } of spooled) {
    const { folder, slot, used, limit, disk_free, last_sync, letters } = node.spool;
    const left = node.sends.reduce(
      (sum, { account }) => sum + account.waiting + account.in_flight + account.on_disk,
      0,
    );
    put(process.source, folder, slot, {
      state: node.adopted === null ? "running" : "adopted",
      pid: process.pid,
      name: node.name,
      left,
      letters,
      used,
      limit,
      disk_free,
      last_sync,
    });
  }
  return [...rows.values()];
}

const FLOW = [
  words("From", (f) => names(f.from) || "nobody", { mark: (f) => !f.from.length && "faint" }),
  words("By", (f) => f.name, { kind: "text code" }),
  words("To", (f) => names(f.to) || "nobody", { mark: (f) => !f.to.length && (f.waits ? "warn" : "faint") }),
  speed("Rate / s"),
];

function flowRows() {
  const rows = new Map();
  const row = (kind, fabric, called) => {
    const key = `${kind} ${queueKey(fabric, called)}`;
    if (!rows.has(key))
      rows.set(key, { key, name: `${kind} ${called}`, from: new Set(), to: new Set(), rate: 0, waits: false });
    return rows.get(key);
  };
  for (const { node } of model.nodes) {
    for (const [list, side, others] of [
      ["sends", "from", "consumers"],
      ["takes", "to", "producers"],
    ]) {
      for (const each of node[list]) {
        const found = row("queue", node.fabric, each.queue);
        const { waiting, out } = model.queues.get(queueKey(node.fabric, each.queue));
        found[side].add(node.name);
        each[others].forEach((other) => found[side === "from" ? "to" : "from"].add(other));
        Object.assign(found, { waits: waiting > 0, rate: out });
      }
    }
  }
  for (const { fabric, name: called, from, to, ...topic } of model.topics.values())
    Object.assign(row("topic", fabric, called), { from: new Set(from), to: new Set(to), rate: topic.in || topic.out });
  return [...rows.values()].map((each) => ({ ...each, from: [...each.from].sort(), to: [...each.to].sort() }));
}

const LISTS = {
  queues: [
    "Queues",
    QUEUES,
    () => [...model.queues.values()],
    { open: (q) => queueLink(q.fabric, q.name), empty: "No queue is sent to or consumed here." },
  ],
  nodes: [
    "Nodes",
    NODES,
    nodeRows,
    {
      open: (n) => nodeLink(n.key),
      empty: "No node answers. Do they run as the same user, with the same runtime folder?",
      rows: (n) => (n.process.silent ? "silent" : ""),
    },
  ],
  topics: [
    "Topics",
    TOPICS,
    () => [...model.topics.values()],
    { open: (t) => `#/tap/${encodeURIComponent(t.name)}`, empty: "No topic is published or subscribed here." },
  ],
  services: ["Services", SERVICES, () => [...model.services.values()], { empty: "No service runs here." }],
  spools: ["Spools", SLOTS, slotRows, { empty: "No node here has a spool." }],
  flow: ["Flow", FLOW, flowRows, { sort: 1, empty: "Nobody sends anything to anybody." }],
};

let wanted = "";

class List {
  constructor(id) {
    const [, columns, rows, options] = LISTS[id];
    this.rows = rows;
    this.columns = columns.filter((column) => column.kind !== "number" && column.get);
    this.table = new Table(id, columns, (row) => row.key, options);
    this.search = h("input", {
      type: "search",
      placeholder: "Filter  /",
      "aria-label": "Filter",
      value: wanted,
      input: () => {
        wanted = this.search.value.trim().toLowerCase();
        this.show();
      },
    });
    this.sizes = new Map(Object.keys(LISTS).map((each) => [each, h("span")]));
    const tab = (each) =>
      h("a", { href: `#/${each}`, "aria-current": each === id && "page" }, LISTS[each][0], " ", this.sizes.get(each));
    this.element = h(
      "section.list",
      h("nav", h("div.tabs", Object.keys(LISTS).map(tab)), this.search),
      this.table.element,
    );
  }

  show() {
    const sizes = {
      queues: model.queues.size,
      nodes: model.nodes.length,
      topics: model.topics.size,
      services: model.services.size,
    };
    for (const [id, size] of Object.entries(sizes)) say(this.sizes.get(id), size ? count(size) : "");
    const rows = this.rows();
    this.table.show(
      wanted
        ? rows.filter((row) => this.columns.some((column) => String(column.get(row)).toLowerCase().includes(wanted)))
        : rows,
    );
  }

  scrolled(resized) {
    this.table.draw(resized);
  }
}

// ---- which view ----

const strip = new Strip();
const warnings = new Warnings();
let view = null;
let framed = false;

function route() {
  if (takeToken()) start();
  const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (view && view.close) view.close();
  if (kind === "queue" && rest.length === 2) view = new QueueView(model, ...rest, note);
  else if (kind === "node" && rest.length === 1) view = new NodeView(model, rest[0]);
  else if (kind === "tap" && rest.length === 1) view = new Tap(rest[0]);
  else view = new List(LISTS[kind] ? kind : "queues");
  if (signIn.isConnected) return;
  main.replaceChildren(
    ...(model.at ? [strip.element, warnings.element, view.element] : [h("p.first", "Waiting for the first look …")]),
  );
  scrollTo(0, 0);
  if (model.at) draw();
}

function draw() {
  const since = performance.now();
  strip.show();
  warnings.show();
  view.show();
  document.title = view.title ? `${view.title} · peerfabric` : "peerfabric";
  const silent = [...model.processes.values()].filter((each) => each.silent).length;
  say($("where"), [model.host, ...model.sources.slice(1).map((each) => each.name)].join(", "));
  say(
    $("foot"),
    [
      model.fabrics.size > 1 ? `${model.fabrics.size} fabrics` : `fabric ${[...model.fabrics][0] || "–"}`,
      `${model.processes.size} processes`,
      silent && `${silent} without an answer`,
      model.left && `${count(model.left)} queues left out`,
      `look ${age(model.took)}`,
      `page ${pace().toFixed(1)} ms`,
    ]
      .filter(Boolean)
      .join(" · "),
  );
  spent(performance.now() - since);
}

function show() {
  if (framed || signIn.isConnected) return;
  framed = true;
  requestAnimationFrame(() => {
    framed = false;
    if (view.element.isConnected) draw();
    else route();
  });
}

// ---- looks, taken in small pieces, so that no frame waits for them ----

const channel = new MessageChannel();
const turn = () =>
  new Promise((done) => {
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  });
const LOOKS = 60;
let longest = [0]; // piece of each of the last looks, in ms
let heard = 0;

function spent(ms) {
  longest.push(Math.max(longest.pop(), ms));
}

/** How long this page keeps a frame waiting: of most looks the longest piece is no longer. */
const pace = () => [...longest].sort((a, b) => a - b)[longest.length >> 1];

function told(text, kind) {
  say($("state"), text);
  mark($("state"), kind);
}

/** Reading waits for this: what comes faster than it can be shown stays with the gateway. */
async function take(event, data) {
  await turn();
  let since = performance.now();
  const steps = model[event](JSON.parse(data));
  if (steps) {
    while (!steps.next().done) {
      spent(performance.now() - since);
      await turn();
      since = performance.now();
    }
    heard = since;
    longest = [...longest.slice(-LOOKS), 0];
    told("live", "live");
    show();
  }
  spent(performance.now() - since);
}

let abort = new AbortController();

async function start() {
  abort.abort();
  const { signal } = (abort = new AbortController());
  let wait = 500;
  while (!signal.aborted) {
    try {
      await events("v1/status/events", signal, take, () => {
        wait = 500;
        if (signIn.isConnected) {
          signIn.remove();
          route();
        }
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 403) return ask(error.message);
    }
    told("no connection, tries again", "lost");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.6, 5000);
  }
}

setInterval(() => {
  const seconds = (performance.now() - heard) / 1000;
  if ($("state").marked !== "lost" && heard && seconds > 5) told(`last look ${age(seconds)} ago`, "lost old");
}, 1000);

// ---- token, notes, keys ----

const token = h("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
const why = h("p.bad");
const signIn = h(
  "form",
  {
    id: "sign-in",
    submit: (event) => {
      event.preventDefault();
      keepToken(token.value.trim());
      token.value = "";
      start();
    },
  },
  h("h1", "Token"),
  h("p", "The gateway says at its start where it is; ", h("code", "peerfabric ui"), " opens this page with it."),
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
  setTimeout(() => element.remove(), bad ? 12000 : 5000);
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest("input");
  if (typing && event.key === "Escape") typing.blur();
  if (typing || event.key !== "/" || !view.search) return;
  event.preventDefault();
  view.search.focus();
});
let moving = false;
function moved(resized) {
  if (moving || !view.scrolled || !view.element.isConnected || !model.whole) return;
  moving = true;
  requestAnimationFrame(() => {
    moving = false;
    if (view.scrolled) view.scrolled(resized);
  });
}
addEventListener("scroll", () => moved(false), { passive: true });
addEventListener("resize", () => moved(true));
addEventListener("hashchange", route);
takeToken();
route();
start();
