// The page: one stream of looks at the hosts, shown as queues, nodes, topics, services, spools and flow.

import { Fields, Sparkline, Table, age, button, count, fit, framed, h, low, mark, name, names, number } from "./dom.js";
import { rate, say, size, speed, time, words } from "./dom.js";
import { Model, nodeLink, queueLink } from "./model.js";
import { NodeView, isWell } from "./node.js";
import { QueueView } from "./queue.js";
import { events, keepToken, takeToken } from "./stream.js";
import { Tap } from "./tap.js";

const model = new Model();
const $ = (id) => document.getElementById(id);
const main = $("main");

// ---- sums and warnings, which are always there ----

const strip = new Fields({ id: "strip" });
const course = new Sparkline(260, 30, 100);
const SUMS = ["In / s", "Out / s", "Last 5 min", "Waiting", "In flight", "On disk", "Running", "Dead"];

function showSums() {
  const { total, history } = model;
  strip.show(SUMS, { ...total, in: rate(total.in), out: rate(total.out), last_5_min: course.element });
  mark(strip.values.get("Dead"), total.dead ? "bad" : "");
  course.show(history);
}

const GRAVE = ["no-answer", "no-gateway", "disk", "late", "stranded"];
const FIRST = 4; // warnings that are shown until somebody asks for all

class Warnings {
  constructor() {
    Object.assign(this, { all: false, items: [], list: h("ul") });
    const turn = () => {
      this.all = !this.all;
      this.show();
    };
    this.more = button("", turn, "quiet");
    this.element = h("section", { id: "warnings" }, this.list, this.more);
  }

  add() {
    const parts = [h("b"), h("a"), h("span"), h("span.who")];
    const [code, queue, text, who] = parts;
    const item = h("li", code, h("span.words", queue, text), who);
    this.list.append(item);
    return Object.assign(item, { parts });
  }

  show() {
    const grave = (each) => GRAVE.includes(each.code);
    const found = [...model.warnings].sort((a, b) => grave(b) - grave(a) || b.since - a.since);
    const shown = this.all ? found : found.slice(0, FIRST);
    fit(this.items, shown.length, () => this.add());
    shown.forEach((each, n) => {
      const nodes = each.names.length > 2 ? `${each.names.length} nodes` : each.names.join(", ");
      const texts = [each.code, each.queue, each.text.replace(`queue '${each.queue}': `, "")];
      texts.push(nodes + (each.since ? ` · ${age(each.since)}` : ""));
      mark(this.items[n], grave(each) ? "grave" : "");
      texts.forEach((text, k) => say(this.items[n].parts[k], text));
      this.items[n].parts[1].setAttribute("href", queueLink(each.fabric, each.queue));
    });
    this.element.hidden = !found.length;
    this.more.hidden = found.length <= FIRST;
    say(this.more, this.all ? "fewer" : `${found.length - FIRST} more warnings`);
  }
}

// ---- lists ----

/** The column of names, with the fabric where there are several. */
const called = (title, badges = () => []) =>
  name(title, {
    get: (row) => row.name,
    badges: (row) => [model.fabrics.size > 1 && [row.fabric, ""], ...badges(row)],
  });

const chart = {
  title: "5 min",
  kind: "draws",
  hint: "In: line. Out: area.",
  draw: (cell, row) => {
    if (!cell.spark) cell.append((cell.spark = new Sparkline(100, 20, 50)).element);
    cell.spark.show(row.history);
  },
};

const unserved = (queue) => !queue.takes.length && !queue.remote;

const QUEUES = [
  called("Queue", (q) => [
    q.paused && ["paused", "warn"],
    q.warned && ["warned", "warn"],
    q.blocked && [`blocked ${q.blocked}`, "warn"],
  ]),
  number("Waiting", { warn: (q) => q.waiting && unserved(q) }),
  time("Oldest", { hint: "Age of the oldest that could be sent now", warn: (q) => q.oldest > 300 }),
  speed("In / s"),
  speed("Out / s"),
  low(
    chart,
    number("In flight"),
    number("On disk"),
    number("Running", { hint: "Messages that handlers have now" }),
    time("Longest", { get: (q) => q.longest || null, hint: "Age of the oldest of these" }),
  ),
  number("Consumers", {
    get: (q) => q.takes.length,
    text: (q) => (unserved(q) ? "none" : q.takes.length ? count(q.takes.length) : "remote"),
    warn: (q) => unserved(q) && q.waiting + q.on_disk,
    faint: unserved,
  }),
  low(number("Redelivered")),
  number("Dead", { bad: (q) => q.dead }),
];

function stateOf({ node, process }) {
  if (process.silent) return "no answer";
  return node.engine || (node.adopted === null ? node.state || "running" : `adopted slot ${node.adopted}`);
}

const NODES = [
  called("Node", (n) => [[n.process.source, ""]]),
  words("State", { get: stateOf, bad: (n) => n.process.silent, warn: (n) => n.node.engine }),
  words("Pid", { get: (n) => n.process.pid, kind: "number" }),
  low(time("Up", (n) => n.node.uptime)),
  time("Pump late", {
    get: (n) => (n.node.pump_late > 0.1 ? n.node.pump_late : null),
    hint: "How long its I/O thread has been due",
    warn: (n) => n.node.pump_late > 1,
  }),
  number("CPU", {
    get: (n) => (n.process.silent ? null : n.system.load),
    text: (n) => (n.process.silent || !n.system.load ? "·" : `${(n.system.load * 100).toFixed(1)} %`),
  }),
  size("Memory", (n) => n.system.rss),
  low(
    number("Threads", (n) => n.system.threads),
    number("Files", { get: (n) => n.system.descriptors, hint: "Descriptors" }),
    number("Peers", { get: (n) => n.node.peers.length, warn: (n) => !n.node.peers.every(isWell) }),
    number("Sends to", { get: (n) => n.node.sends.length, hint: "Queues" }),
    number("Consumes", { get: (n) => n.node.takes.length, hint: "Queues" }),
  ),
];

/** All nodes, and processes that have not told of theirs. */
function nodeRows() {
  const unseen = [...model.processes.values()].filter((each) => each.silent && !each.nodes.length);
  const unknown = ({ pid }) => ({ name: `process ${pid}`, fabric: "", peers: [], sends: [], takes: [] });
  const rows = model.nodes.concat(unseen.map((process) => ({ key: process.key, node: unknown(process), process })));
  return rows.map((row) => {
    const { name, fabric } = row.node;
    return { ...row, name, fabric, system: row.process.status?.process || {} };
  });
}

const TOPICS = [
  called("Topic or pattern"),
  speed("Published / s", (t) => t.in),
  speed("Received / s", (t) => t.out),
  number("Publishers", (t) => t.from.length),
  number("Subscribers", (t) => t.to.length),
  low(number("Published"), number("Received")),
  number("Missed", { warn: (t) => t.missed }),
  low(number("Late"), size("Behind", { hint: "What subscribers have not taken yet" })),
];

const SERVICES = [
  called("Service"),
  speed("Answers / s", (s) => s.out),
  number("Running"),
  number("Capacity", { hint: "Calls that may run at once" }),
  number("Waiting", { warn: (s) => s.waiting }),
  low(number("Answered"), number("Refused"), number("Dropped"), words("Served by", (s) => names(s.to))),
];

const SLOTS = [
  name("Slot", (s) => `${s.folder} : ${s.slot}`),
  words("State", { warn: (s) => s.state === "left", faint: (s) => s.state !== "running" }),
  words("Pid", { get: (s) => s.pid || "·", kind: "number" }),
  words("Name"),
  number("Messages", (s) => s.left),
  number("Dead", { get: (s) => s.letters, bad: (s) => s.letters }),
  size("Used", { bad: (s) => s.used > 0.8 * s.limit }),
  low(size("Limit"), size("Disk free"), time("Last sync")),
];

/** All slots of all folders: what a node says of its own one counts most. */
function slotRows() {
  const rows = new Map();
  const put = ({ source }, { folder }, told) => {
    const key = `${source} ${folder} ${String(told.slot).padStart(4, "0")}`;
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

/** Names of the nodes at the ends of a queue or topic; those of other hosts, too, of which the ones here tell. */
const once = (all) => (all.length > 1 ? [...new Set(all)].sort() : all);
const nodesOf = (list) => list.map((each) => each.at.node.name);
const from = (f) => once(f.from || nodesOf(f.sends).concat(...f.takes.map((each) => each.producers)));
const to = (f) => once(f.to || nodesOf(f.takes).concat(...f.sends.map((each) => each.consumers)));

const FLOW = [
  words("From", { get: (f) => names(from(f)) || "nobody", faint: (f) => !from(f).length }),
  words("By", { kind: "text code" }),
  words("To", {
    get: (f) => names(to(f)) || "nobody",
    warn: (f) => f.waiting && !to(f).length,
    faint: (f) => !to(f).length,
  }),
  speed("Rate / s", (f) => (f.kind === "topic" && f.in) || f.out),
];

/** By id: `get()` the rows, if they are not what the model has under it, and the options of the table. */
const LISTS = {
  queues: {
    columns: QUEUES,
    open: (q) => queueLink(q.fabric, q.name),
    empty: "No queue is sent to or consumed here.",
  },
  nodes: {
    columns: NODES,
    get: nodeRows,
    open: (n) => nodeLink(n.key),
    rows: (n) => (n.process.silent ? "silent" : ""),
    empty: "No node answers. Do they run as the same user, with the same runtime folder?",
  },
  topics: {
    columns: TOPICS,
    open: (t) => `#/tap/${encodeURIComponent(t.name)}`,
    empty: "No topic is published or subscribed here.",
  },
  services: { columns: SERVICES, empty: "No service runs here." },
  spools: { columns: SLOTS, get: slotRows, empty: "No node here has a spool." },
  flow: {
    columns: FLOW,
    get: () => [...model.queues.values(), ...model.topics.values()],
    sort: 1,
    empty: "Nobody sends anything to anybody.",
  },
};

let wanted = "";

class List {
  constructor(id) {
    const { columns, get = () => [...model[id].values()], ...options } = LISTS[id];
    this.get = get;
    this.table = new Table(id, columns, options);
    this.tables = [this.table];
    this.searched = this.table.columns.filter((column) => column.kind !== "number" && column.get);
    const input = () => {
      wanted = this.search.value.trim().toLowerCase();
      this.show();
    };
    const filter = { type: "search", placeholder: "Filter  /", "aria-label": "Filter", value: wanted };
    this.search = h("input", { ...filter, input });
    this.sizes = {};
    const tabs = Object.keys(LISTS).map((each) => {
      const title = each[0].toUpperCase() + each.slice(1);
      this.sizes[each] = h("span");
      return h("a", { href: `#/${each}`, "aria-current": each === id && "page" }, `${title} `, this.sizes[each]);
    });
    this.element = h("section.list", h("nav", h("div.tabs", tabs), this.search), this.table.element);
  }

  show() {
    for (const each of ["queues", "nodes", "topics", "services"])
      say(this.sizes[each], count(model[each].size ?? model[each].length).replace(/^0$/, ""));
    const rows = this.get();
    const found = (row) => this.searched.some((column) => String(column.get(row)).toLowerCase().includes(wanted));
    this.table.show(wanted ? rows.filter(found) : rows);
  }
}

// ---- which view ----

const warnings = new Warnings();
let view = null;

function route() {
  if (takeToken()) start();
  const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (view && view.close) view.close();
  if (kind === "queue" && rest.length === 2) view = new QueueView(model, ...rest, note);
  else if (kind === "node" && rest.length === 1) view = new NodeView(model, rest[0]);
  else if (kind === "tap" && rest.length === 1) view = new Tap(rest[0]);
  else view = new List(Object.hasOwn(LISTS, kind) ? kind : "queues");
  if (signIn.isConnected) return;
  if (model.at) main.replaceChildren(strip.element, warnings.element, view.element);
  else main.replaceChildren(h("p.first", "Waiting for the first look …"));
  scrollTo(0, 0);
  if (model.at) draw();
}

function draw() {
  const since = performance.now();
  showSums();
  warnings.show();
  view.show();
  document.title = view.title ? `${view.title} · peerfabric` : "peerfabric";
  const silent = [...model.processes.values()].filter((each) => each.silent).length;
  say($("where"), [model.host, ...model.sources.slice(1).map((each) => each.name)].join(", "));
  const parts = [
    model.fabrics.size > 1 ? `${model.fabrics.size} fabrics` : `fabric ${[...model.fabrics][0] || "–"}`,
    `${model.processes.size} processes`,
    silent && `${silent} without an answer`,
    model.left && `${count(model.left)} queues left out`,
    `look ${age(model.took)}`,
    `page ${pace().toFixed(1)} ms`,
  ];
  say($("foot"), parts.filter(Boolean).join(" · "));
  spent(performance.now() - since);
}

const show = framed(() => {
  if (signIn.isConnected) return;
  if (view.element.isConnected) draw();
  else route();
});

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
  while (steps && !steps.next().done) {
    spent(performance.now() - since);
    await turn();
    since = performance.now();
  }
  if (steps) {
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
  const opened = () => {
    wait = 500;
    if (!signIn.isConnected) return;
    signIn.remove();
    route();
  };
  while (!signal.aborted) {
    try {
      await events("v1/status/events", signal, take, opened);
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

function moved(resized) {
  if (!view.element.isConnected || !model.whole) return;
  for (const table of view.tables || []) table.draw(resized);
}
addEventListener("scroll", framed(() => moved(false)), { passive: true });
addEventListener("resize", framed(() => moved(true)));
addEventListener("hashchange", route);
takeToken();
route();
start();
