// The page: one stream of looks at the hosts, shown as queues, nodes, topics, services, spools and flow.

import { Fields, Sparkline, Table, age, button, count, fit, framed, h, low, mark, name, names, number } from "./dom.js";
import { amount, code, rate, say, size, speed, time, words } from "./dom.js";
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
  all = false;
  items = [];
  list = h("ul");
  more = button("", () => this.show(!this.all), "quiet");
  element = h("section", { id: "warnings" }, this.list, this.more);

  add() {
    const parts = [h("b"), h("a"), h("span"), h("span.who")];
    const item = h("li", parts[0], h("span.words", parts[1], parts[2]), parts[3]);
    this.list.append(item);
    return Object.assign(item, { parts });
  }

  show(all = this.all) {
    const grave = (each) => GRAVE.includes(each.code);
    const found = [...model.warnings].sort((a, b) => grave(b) - grave(a) || b.since - a.since);
    const shown = all ? found : found.slice(0, FIRST);
    fit(this.items, shown.length, () => this.add());
    shown.forEach((each, n) => {
      const { code, queue, text, fabric, names, since } = each;
      const who = names.length > 2 ? `${names.length} nodes` : names.join(", ");
      const texts = [code, queue, text.replace(`queue '${queue}': `, ""), who + (since ? ` · ${age(since)}` : "")];
      const { parts } = this.items[n];
      texts.forEach((each, k) => say(parts[k], each));
      parts[1].setAttribute("href", queueLink(fabric, queue));
      mark(this.items[n], grave(each) ? "grave" : "");
    });
    this.all = all;
    this.element.hidden = !found.length;
    this.more.hidden = found.length <= FIRST;
    say(this.more, all ? "fewer" : `${found.length - FIRST} more warnings`);
  }
}

// ---- lists ----

/** The column of names, with the fabric where there are several. */
const called = (title, badges = () => []) =>
  name(title, "name", { badges: (row) => [model.fabrics.size > 1 && [row.fabric, ""], ...badges(row)] });

const chart = {
  title: "5 min",
  kind: "draws",
  hint: "In: line. Out: area.",
  draw: (cell, row) => {
    if (!cell.spark) cell.append((cell.spark = new Sparkline(100, 20, 50)).element);
    cell.spark.show(row.history);
  },
};

const unserved = (queue) => !queue.to.length && !queue.remote;

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
    time("Longest", (q) => q.longest || null, { hint: "Age of the oldest of these" }),
  ),
  number("Consumers", "to.length", {
    text: (q) => (unserved(q) ? "none" : q.to.length ? count(q.to.length) : "remote"),
    warn: (q) => unserved(q) && q.waiting + q.on_disk,
    faint: unserved,
  }),
  low(number("Redelivered")),
  number("Dead", { bad: true }),
];

function stateOf({ node, process }) {
  if (process.silent) return "no answer";
  return node.engine || (node.adopted === null ? node.state || "running" : `adopted slot ${node.adopted}`);
}

const late = (n) => (n.pump_late > 0.1 ? n.pump_late : null);
const load = (n) => (n.process.silent ? 0 : n.load);

const NODES = [
  called("Node", (n) => [[n.process.source, ""]]),
  words("State", stateOf, { bad: (n) => n.process.silent, warn: (n) => n.engine }),
  amount("Pid"),
  low(time("Up", "uptime")),
  time("Pump late", late, { hint: "How long its I/O thread has been due", warn: (n) => late(n) > 1 }),
  number("CPU", load, { text: (n) => (load(n) ? `${(load(n) * 100).toFixed(1)} %` : "·") }),
  size("Memory", "rss"),
  low(
    number("Threads"),
    number("Files", "descriptors", { hint: "Descriptors" }),
    number("Peers", "peers.length", { warn: (n) => !n.peers.every(isWell) }),
    number("Sends to", "sends.length", { hint: "Queues" }),
    number("Consumes", "takes.length", { hint: "Queues" }),
  ),
];

/** All nodes, and processes that have not told of theirs. */
function nodeRows() {
  const unseen = [...model.processes.values()].filter((each) => each.silent && !each.nodes.length);
  const unknown = { fabric: "", peers: [], sends: [], takes: [] };
  const rows = unseen.map((process) => ({ key: process.key, process, node: { ...process, ...unknown } }));
  for (const row of rows) row.node.name = `process ${row.process.pid}`;
  return model.nodes.concat(rows).map((row) => ({ ...row.process.status?.process, ...row.node, ...row }));
}

const TOPICS = [
  called("Topic or pattern"),
  speed("Published / s", "in"),
  speed("Received / s", "out"),
  number("Publishers", "from.length"),
  number("Subscribers", "to.length"),
  low(number("Published"), number("Received")),
  number("Missed", { warn: true }),
  low(number("Late"), size("Behind", { hint: "What subscribers have not taken yet" })),
];

const SERVICES = [
  called("Service"),
  speed("Answers / s", "out"),
  number("Running"),
  number("Capacity", { hint: "Calls that may run at once" }),
  number("Waiting", { warn: true }),
  low(number("Answered"), number("Refused"), number("Dropped"), words("Served by", (s) => names(to(s)))),
];

const SLOTS = [
  name("Slot", (s) => `${s.folder} : ${s.slot}`),
  words("State", { warn: (s) => s.state === "left", faint: (s) => s.state !== "running" }),
  amount("Pid", (s) => s.pid || "·"),
  words("Name"),
  number("Messages", "left"),
  number("Dead", "letters", { bad: true }),
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

/** Names of the nodes at one side; those of other hosts, too, of which the ones at the other side tell. */
function ends(here, there, others) {
  const found = here.map((each) => each.at.node.name).concat(...there.map((each) => each[others] || []));
  return found.length > 1 ? [...new Set(found)].sort() : found;
}
const from = (row) => ends(row.from, row.to, "producers");
const to = (row) => ends(row.to, row.from, "consumers");

const FLOW = [
  words("From", (f) => names(from(f)) || "nobody", { faint: (f) => !from(f).length }),
  code("By"),
  words("To", (f) => names(to(f)) || "nobody", { warn: (f) => f.waiting && !to(f)[0], faint: (f) => !to(f)[0] }),
  speed("Rate / s", (f) => (f.history === undefined && f.in) || f.out),
];
const flowRows = () => [...model.queues.values(), ...model.topics.values()];

/** By id: columns, the rows if they are not what the model has under that id, and options of the table. */
const LISTS = {
  queues: [QUEUES, null, { open: (q) => queueLink(q.fabric, q.name), empty: "No queue is sent to or consumed here." }],
  nodes: [
    NODES,
    nodeRows,
    {
      open: (n) => nodeLink(n.key),
      rows: (n) => (n.process.silent ? "silent" : ""),
      empty: "No node answers. Do they run as the same user, with the same runtime folder?",
    },
  ],
  topics: [
    TOPICS,
    null,
    { open: (t) => `#/tap/${encodeURIComponent(t.name)}`, empty: "No topic is published or subscribed here." },
  ],
  services: [SERVICES, null, { empty: "No service runs here." }],
  spools: [SLOTS, slotRows, { empty: "No node here has a spool." }],
  flow: [FLOW, flowRows, { sort: 1, empty: "Nobody sends anything to anybody." }],
};

let wanted = "";

class List {
  constructor(id) {
    const [columns, get, options] = LISTS[id];
    this.get = get || (() => [...model[id].values()]);
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
  const { fabrics, processes, left } = model;
  const silent = [...processes.values()].filter((each) => each.silent).length;
  const parts = [
    fabrics.size > 1 ? `${fabrics.size} fabrics` : `fabric ${[...fabrics][0] || "–"}`,
    `${processes.size} processes`,
    silent && `${silent} without an answer`,
    left && `${count(left)} queues left out`,
    `look ${age(model.took)} · page ${pace().toFixed(1)} ms`,
  ];
  say($("foot"), parts.filter(Boolean).join(" · "));
  say($("where"), [model.host, ...model.sources.slice(1).map((each) => each.name)].join(", "));
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
