// The page: one stream of looks at the host, shown as queues, nodes, topics, services, spools and flow.

import { Sparkline, Table, age, bytes, count, h, mark, perSecond, say, some } from "./dom.js";
import { Model, nodeLink, queueLink } from "./model.js";
import { events, keepToken, takeToken } from "./stream.js";
import { NodeView } from "./node.js";
import { QueueView } from "./queue.js";
import { Tap } from "./tap.js";

const model = new Model();
const $ = (id) => document.getElementById(id);
const main = $("main");

// ---- what is always there: sums, warnings ----

class Strip {
  constructor() {
    this.values = {};
    const cell = (id, title, spark) => h("div", { class: `sum ${id}` }, h("span", { class: "title" }, title), (this.values[id] = h("b", null, "–")), spark);
    this.spark = new Sparkline(260, 34, 100);
    this.element = h("section", { id: "strip", "aria-label": "Sums" },
      cell("in", "In / s"), cell("out", "Out / s"),
      h("div", { class: "sum chart" }, h("span", { class: "title" }, "last 5 min"), this.spark.element),
      cell("waiting", "Waiting"), cell("inFlight", "In flight"), cell("onDisk", "On disk"), cell("running", "Running"), cell("dead", "Dead"));
  }

  show() {
    const { total } = model;
    for (const id of ["in", "out"]) say(this.values[id], total[id] ? perSecond(total[id]) : "0");
    for (const id of ["waiting", "inFlight", "onDisk", "running", "dead"]) say(this.values[id], count(total[id]));
    mark(this.values.dead, total.dead ? "bad" : "");
    this.spark.show(model.history);
  }
}

const GRAVE = new Set(["no-answer", "no-gateway", "disk", "late", "stranded"]);
const FIRST = 4; // warnings that are shown until somebody asks for all

class Warnings {
  constructor() {
    this.list = h("ul");
    this.more = h("button", { type: "button", class: "quiet", click: () => { this.all = !this.all; this.show(); } });
    this.element = h("section", { id: "warnings", "aria-label": "Warnings" }, this.list, this.more);
    this.all = false;
    this.items = [];
  }

  show() {
    const rank = (each) => (GRAVE.has(each.code) ? 0 : 1);
    const found = [...model.warnings].sort((a, b) => rank(a) - rank(b) || b.since - a.since);
    const shown = this.all ? found : found.slice(0, FIRST);
    while (this.items.length < shown.length) {
      const parts = { code: h("b"), queue: h("a"), text: h("span", { class: "text" }), who: h("span", { class: "who" }) };
      parts.element = h("li", null, parts.code, h("span", { class: "words" }, parts.queue, parts.text), parts.who);
      this.list.append(parts.element);
      this.items.push(parts);
    }
    while (this.items.length > shown.length) this.items.pop().element.remove();
    shown.forEach((warning, n) => {
      const parts = this.items[n];
      mark(parts.element, GRAVE.has(warning.code) ? "grave" : "");
      say(parts.code, warning.code);
      parts.queue.hidden = !warning.queue;
      if (warning.queue) {
        say(parts.queue, warning.queue);
        parts.queue.setAttribute("href", queueLink(warning.fabric, warning.queue));
      }
      say(parts.text, warning.text);
      const names = warning.nodes.length > 2 ? `${warning.nodes.length} nodes` : warning.nodes.join(", ");
      say(parts.who, warning.since ? `${names} · ${age(warning.since)}` : names);
    });
    this.element.hidden = !found.length;
    this.more.hidden = found.length <= FIRST;
    say(this.more, this.all ? "fewer" : `${found.length - FIRST} more warnings`);
  }
}

// ---- lists ----

const spark = { title: "5 min", kind: "draws", low: true, hint: "In: line. Out: area.", draw: (cell, row) => {
  if (!cell.spark) cell.append((cell.spark = new Sparkline(100, 20, 50)).element);
  cell.spark.show(row.history);
} };

/** Its name, and what is out of the ordinary in a word. */
function badges(cell, row, words) {
  say(cell.link, row.name);
  const wanted = words.filter(Boolean).join("\n");
  if (cell.words === wanted) return;
  cell.words = wanted;
  cell.replaceChildren(cell.link, ...words.filter(Boolean).map((each) => h("i", { class: `badge ${each.split(" ")[0]}` }, each)));
}

const several = (fabric) => (model.fabrics.length > 1 ? fabric : "");

const QUEUES = [
  { title: "Queue", kind: "name", by: (q) => q.name, draw: (cell, q) => badges(cell, q, [several(q.fabric), q.paused && "paused", q.warned && "warned", q.blocked && `blocked ${q.blocked}`]) },
  { title: "Waiting", by: (q) => q.waiting, text: (q) => some(q.waiting), mark: (q) => (q.waiting && !q.takers && !q.remote ? "warn" : "") },
  { title: "Oldest", hint: "Age of the oldest that could be sent now", by: (q) => q.oldest, text: (q) => age(q.oldest), mark: (q) => (q.oldest > 300 ? "warn" : "") },
  { title: "In / s", by: (q) => q.in, text: (q) => perSecond(q.in) },
  { title: "Out / s", by: (q) => q.out, text: (q) => perSecond(q.out) },
  spark,
  { title: "In flight", low: true, by: (q) => q.inFlight, text: (q) => some(q.inFlight) },
  { title: "On disk", low: true, by: (q) => q.onDisk, text: (q) => some(q.onDisk) },
  { title: "Running", low: true, hint: "Messages that handlers have now", by: (q) => q.running, text: (q) => some(q.running) },
  { title: "Longest", low: true, hint: "The handler that has run for longest", by: (q) => q.longest, text: (q) => (q.longest ? age(q.longest) : "·") },
  { title: "Consumers", by: (q) => q.takers, text: (q) => (q.takers ? count(q.takers) : q.remote ? "remote" : "none"), mark: (q) => (q.takers || q.remote ? "" : q.waiting + q.onDisk ? "warn" : "faint") },
  { title: "Redelivered", low: true, by: (q) => q.redelivered, text: (q) => some(q.redelivered) },
  { title: "Dead", by: (q) => q.dead, text: (q) => some(q.dead), mark: (q) => (q.dead ? "bad" : "") },
];

function nodeState({ node, process }) {
  if (process.silent) return "no answer";
  if (node.engine) return node.engine;
  if (node.adopted !== null) return `adopted slot ${node.adopted}`;
  return node.state || "running";
}

const NODES = [
  { title: "Node", kind: "name", by: (n) => n.name, draw: (cell, n) => badges(cell, n, [several(n.node.fabric), n.process.source !== "" && n.process.source]) },
  { title: "State", kind: "text", by: nodeState, text: nodeState, mark: (n) => (n.process.silent ? "bad" : n.node.engine ? "warn" : "") },
  { title: "Pid", by: (n) => n.process.pid, text: (n) => String(n.process.pid) },
  { title: "Up", low: true, by: (n) => n.node.uptime, text: (n) => age(n.node.uptime) },
  { title: "Pump late", hint: "How long its I/O thread has been due", by: (n) => n.node.pump_late, text: (n) => (n.node.pump_late >= 0.1 ? age(n.node.pump_late) : "·"), mark: (n) => (n.node.pump_late > 1 ? "warn" : "") },
  { title: "CPU", by: (n) => n.cpu, text: (n) => (n.cpu === null ? "·" : `${(n.cpu * 100).toFixed(n.cpu < 0.1 ? 1 : 0)} %`) },
  { title: "Memory", by: (n) => n.rss, text: (n) => bytes(n.rss) },
  { title: "Threads", low: true, by: (n) => n.threads, text: (n) => some(n.threads) },
  { title: "Files", low: true, hint: "Descriptors", by: (n) => n.files, text: (n) => some(n.files) },
  { title: "Peers up", low: true, by: (n) => n.up, text: (n) => `${n.up} of ${n.node.peers.length}`, mark: (n) => (n.unwell ? "warn" : "") },
  { title: "Sends to", low: true, hint: "Queues", by: (n) => n.node.sends.length, text: (n) => some(n.node.sends.length) },
  { title: "Consumes", low: true, hint: "Queues", by: (n) => n.node.takes.length, text: (n) => some(n.node.takes.length) },
];

function nodeRow({ key, node, process }) {
  const system = process.status ? process.status.process : {};
  const up = node.peers.filter((peer) => peer.state === "up").length;
  const unwell = node.peers.some((peer) => peer.state !== "up" && peer.state !== "idle" && peer.state !== "connecting");
  return { key, name: node.name, node, process, cpu: process.silent ? null : system.load, rss: system.rss, threads: system.threads, files: system.descriptors, up, unwell };
}

/** A process without a node that we have seen is a row all the same. */
function nodeRows() {
  const rows = model.nodes.map(nodeRow);
  for (const process of model.processes.values()) {
    if (process.nodes.length || (process.status && !process.silent)) continue;
    const node = { fabric: "", uptime: null, pump_late: 0, peers: [], sends: [], takes: [], engine: "", adopted: null, state: "" };
    rows.push({ key: process.key, name: `process ${process.pid}`, node, process, cpu: null, rss: 0, threads: 0, files: 0, up: 0, unwell: false });
  }
  return rows;
}

const TOPICS = [
  { title: "Topic or pattern", kind: "name", by: (t) => t.name, draw: (cell, t) => badges(cell, t, [several(t.fabric)]) },
  { title: "Published / s", by: (t) => t.in, text: (t) => perSecond(t.in) },
  { title: "Received / s", by: (t) => t.out, text: (t) => perSecond(t.out) },
  { title: "Publishers", by: (t) => t.publishers, text: (t) => some(t.publishers) },
  { title: "Subscribers", by: (t) => t.subscribers, text: (t) => some(t.subscribers) },
  { title: "Published", low: true, by: (t) => t.published, text: (t) => some(t.published) },
  { title: "Received", low: true, by: (t) => t.received, text: (t) => some(t.received) },
  { title: "Missed", by: (t) => t.missed, text: (t) => some(t.missed), mark: (t) => (t.missed ? "warn" : "") },
  { title: "Late", low: true, by: (t) => t.late, text: (t) => some(t.late) },
  { title: "Behind", low: true, hint: "What subscribers have not taken yet", by: (t) => t.behind, text: (t) => bytes(t.behind) },
];

const SERVICES = [
  { title: "Service", kind: "name", by: (s) => s.name, draw: (cell, s) => { say(cell, s.name + (several(s.fabric) && `  (${s.fabric})`)); } },
  { title: "Answers / s", by: (s) => s.rate, text: (s) => perSecond(s.rate) },
  { title: "Running", by: (s) => s.running, text: (s) => some(s.running) },
  { title: "At once", hint: "How many calls may run at once", by: (s) => s.capacity, text: (s) => some(s.capacity) },
  { title: "Waiting", by: (s) => s.waiting, text: (s) => some(s.waiting), mark: (s) => (s.waiting ? "warn" : "") },
  { title: "Answered", low: true, by: (s) => s.answered, text: (s) => some(s.answered) },
  { title: "Refused", low: true, by: (s) => s.refused, text: (s) => some(s.refused) },
  { title: "Dropped", low: true, by: (s) => s.dropped, text: (s) => some(s.dropped) },
  { title: "Served by", kind: "text", low: true, by: (s) => s.servers.length, text: (s) => s.servers.join(", ") },
];

const SLOTS = [
  { title: "Slot", kind: "name", by: (s) => s.key, text: (s) => `${s.folder} : ${s.slot}` },
  { title: "State", kind: "text", by: (s) => s.state, text: (s) => s.state, mark: (s) => (s.state === "left" ? "warn" : s.state === "running" ? "" : "faint") },
  { title: "Pid", by: (s) => s.pid, text: (s) => (s.pid ? String(s.pid) : "·") },
  { title: "Name", kind: "text", by: (s) => s.name, text: (s) => s.name },
  { title: "Messages", by: (s) => s.left, text: (s) => some(s.left) },
  { title: "Dead", by: (s) => s.letters, text: (s) => some(s.letters), mark: (s) => (s.letters ? "bad" : "") },
  { title: "Used", by: (s) => s.used, text: (s) => bytes(s.used), mark: (s) => (s.limit && s.used > 0.8 * s.limit ? "bad" : "") },
  { title: "Limit", low: true, by: (s) => s.limit, text: (s) => bytes(s.limit) },
  { title: "Disk free", low: true, by: (s) => s.free, text: (s) => bytes(s.free) },
  { title: "Last sync", low: true, by: (s) => s.sync, text: (s) => age(s.sync) },
];

/** All slots of all folders: each node knows its own best. */
function slotRows() {
  const rows = new Map();
  for (const { node, process } of model.nodes) {
    if (!node.spool) continue;
    const { spool } = node;
    const place = `${process.source}${spool.folder}`;
    const row = (slot) => {
      const key = `${place}:${String(slot).padStart(4, "0")}`;
      if (!rows.has(key)) rows.set(key, { key, folder: spool.folder, slot, state: "running", pid: 0, name: "", left: 0, letters: 0, used: 0, limit: 0, free: 0, sync: null });
      return rows.get(key);
    };
    for (const each of spool.slots) Object.assign(row(each.slot), each);
    const own = node.sends.reduce((sum, each) => sum + each.account.waiting + each.account.in_flight + each.account.on_disk, 0);
    Object.assign(row(spool.slot), { state: node.adopted === null ? "running" : "adopted", pid: process.pid, name: node.name, left: own, letters: spool.letters, used: spool.used, limit: spool.limit, free: spool.disk_free, sync: spool.last_sync });
  }
  return [...rows.values()];
}

const brief = (names) => (names.length > 6 ? `${names.slice(0, 6).join(", ")} and ${names.length - 6} more` : names.join(", "));

const FLOW = [
  { title: "From", kind: "text", by: (f) => f.from.join(), text: (f) => brief(f.from) || "nobody", mark: (f) => (f.from.length ? "" : "faint") },
  { title: "By", kind: "text via", by: (f) => f.name, text: (f) => f.name },
  { title: "To", kind: "text", by: (f) => f.to.join(), text: (f) => brief(f.to) || "nobody", mark: (f) => (f.to.length ? "" : f.waits ? "warn" : "faint") },
  { title: "/ s", by: (f) => f.rate, text: (f) => perSecond(f.rate) },
];

function flowRows() {
  const rows = new Map();
  const row = (kind, fabric, name) => {
    const key = `${kind} ${fabric}/${name}`;
    if (!rows.has(key)) rows.set(key, { key, name: `${kind} ${name}`, from: new Set(), to: new Set(), rate: 0, waits: false });
    return rows.get(key);
  };
  for (const { node } of model.nodes) {
    for (const each of node.sends) {
      const found = row("queue", node.fabric, each.queue);
      found.from.add(node.name);
      found.waits ||= each.account.waiting > 0;
      each.consumers.forEach((name) => found.to.add(name));
    }
    for (const each of node.takes) {
      const found = row("queue", node.fabric, each.queue);
      found.to.add(node.name);
      each.producers.forEach((name) => found.from.add(name));
    }
  }
  for (const [key, queue] of model.queues) if (rows.has(`queue ${key}`)) rows.get(`queue ${key}`).rate = queue.out;
  for (const topic of model.topics.values()) {
    const found = row("topic", topic.fabric, topic.name);
    topic.from.forEach((name) => found.from.add(name));
    topic.to.forEach((name) => found.to.add(name));
    found.rate = topic.in || topic.out;
  }
  return [...rows.values()].map((each) => ({ ...each, from: [...each.from].sort(), to: [...each.to].sort() }));
}

const searched = (...texts) => !wanted || texts.some((text) => text.toLowerCase().includes(wanted));

const LISTS = {
  queues: { title: "Queues", columns: QUEUES, rows: () => [...model.queues.values()].filter((q) => searched(q.name)), size: () => model.queues.size, options: { open: (q) => queueLink(q.fabric, q.name), empty: "No queue is sent to or consumed here.", order: false } },
  nodes: { title: "Nodes", columns: NODES, rows: () => nodeRows().filter((n) => searched(n.name, String(n.process.pid), nodeState(n))), size: () => model.nodes.length, options: { open: (n) => nodeLink(n.key), empty: "No node answers. Do they run as the same user, and with the same runtime folder?", rows: (n) => (n.process.silent ? "silent" : "") } },
  topics: { title: "Topics", columns: TOPICS, rows: () => [...model.topics.values()].filter((t) => searched(t.name)), size: () => model.topics.size, options: { open: (t) => `#/tap/${encodeURIComponent(t.name)}`, empty: "No topic is published or subscribed here." } },
  services: { title: "Services", columns: SERVICES, rows: () => [...model.services.values()].filter((s) => searched(s.name, ...s.servers)), size: () => model.services.size, options: { empty: "No service runs here." } },
  spools: { title: "Spools", columns: SLOTS, rows: () => slotRows().filter((s) => searched(s.folder, s.name)), size: () => slotRows().length, options: { empty: "No node here has a spool." } },
  flow: { title: "Flow", columns: FLOW, rows: () => flowRows().filter((f) => searched(f.name, ...f.from, ...f.to)), size: null, options: { sort: 1, order: false, empty: "Nothing is sent from anybody to anybody." } },
};

let wanted = "";

class List {
  constructor(id) {
    const { columns, options } = LISTS[id];
    this.id = id;
    this.table = new Table(id, columns, { key: (row) => row.key, ...options });
    this.search = h("input", { type: "search", placeholder: "Filter  /", "aria-label": "Filter", input: () => { wanted = this.search.value.trim().toLowerCase(); this.show(); } });
    this.search.value = wanted;
    this.tabs = Object.entries(LISTS).map(([name, { title }]) => {
      const size = h("span");
      const link = h("a", { href: `#/${name}`, "aria-current": name === id ? "page" : null }, title, " ", size);
      link.size = size;
      link.list = name;
      return link;
    });
    this.element = h("section", { class: "list" }, h("nav", null, h("div", { class: "tabs" }, this.tabs), this.search), this.table.element);
  }

  show() {
    for (const tab of this.tabs) if (LISTS[tab.list].size) say(tab.size, String(LISTS[tab.list].size() || ""));
    this.table.show(LISTS[this.id].rows());
  }

  scrolled(resized) {
    if (resized) this.table.resized();
    this.table.draw();
  }
}

// ---- which view ----

const strip = new Strip();
const warnings = new Warnings();
let view = null;

function route() {
  if (takeToken()) start();
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (view && view.close) view.close();
  if (name === "queue" && rest.length === 2) view = new QueueView(model, ...rest, note);
  else if (name === "node" && rest.length === 1) view = new NodeView(model, rest[0]);
  else if (name === "tap" && rest.length === 1) view = new Tap(rest[0]);
  else view = new List(LISTS[name] ? name : "queues");
  main.replaceChildren(strip.element, warnings.element, view.element);
  document.title = view.title ? `${view.title} · peerfabric` : "peerfabric";
  scrollTo(0, 0);
  if (model.at) show();
  else main.replaceChildren(h("p", { class: "none first" }, "Waiting for the first look …"));
}

let framed = false;
function show() {
  if (framed || !view || signIn.isConnected) return;
  framed = true;
  requestAnimationFrame(() => {
    framed = false;
    const since = performance.now();
    if (!strip.element.isConnected) main.replaceChildren(strip.element, warnings.element, view.element);
    strip.show();
    warnings.show();
    view.show();
    say($("where"), model.host + (model.sources.length > 1 ? ` and ${model.sources.length - 1} more` : ""));
    spent(performance.now() - since);
    const silent = [...model.processes.values()].filter((each) => each.silent).length;
    const fabrics = model.fabrics.length > 1 ? `${model.fabrics.length} fabrics` : `fabric ${model.fabrics[0] || "–"}`;
    say($("foot"), `${fabrics} · ${model.processes.size} processes${silent ? `, ${silent} without an answer` : ""} · look ${age(model.took)} · page ${slowest().toFixed(1)} ms`);
  });
}

// ---- looks, taken in small pieces, so that no frame waits for them ----

const SLICE = 6; // ms that pieces may take together before the page may draw
const pieces = [];
const channel = new MessageChannel();
let times = [];
let running = false;

function spent(ms) {
  times.push(ms);
  if (times.length > 600) times = times.slice(-300);
}

/** The longest that this page kept a frame waiting, of late, in ms. */
const slowest = () => times.slice(-300).reduce((a, b) => Math.max(a, b), 0);

channel.port1.onmessage = () => {
  const since = performance.now();
  do pieces.shift()(); while (pieces.length && performance.now() - since < SLICE);
  spent(performance.now() - since);
  running = pieces.length > 0;
  if (running) channel.port2.postMessage(0);
};

function later(piece) {
  pieces.push(piece);
  if (!running) {
    running = true;
    channel.port2.postMessage(0);
  }
}

function took(event, data) {
  if (event === "begin") later(() => model.begin(JSON.parse(data)));
  else if (event === "process") later(() => model.process(JSON.parse(data)));
  else if (event === "end") {
    return new Promise((done) => {
      later(() => { model.end(); say($("state"), "live"); mark($("state"), "live"); heard = performance.now(); show(); done(); });
    });
  }
  return undefined;
}

let abort = null;
let heard = 0;

async function start() {
  if (abort) abort.abort();
  const own = (abort = new AbortController());
  let wait = 500;
  while (!own.signal.aborted) {
    try {
      await events("v1/status/events", own.signal, took, () => { wait = 500; if (signIn.isConnected) { signIn.remove(); route(); } });
      if (own.signal.aborted) return;
    } catch (error) {
      if (own.signal.aborted) return;
      if (error.status === 401 || error.status === 403) return ask(error.message);
    }
    say($("state"), "no connection; tries again");
    mark($("state"), "lost");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.6, 5000);
  }
}

setInterval(() => {
  if ($("state").marked === "live" && performance.now() - heard > 5000) {
    say($("state"), `last look ${age((performance.now() - heard) / 1000)} ago`);
    mark($("state"), "live old");
  }
}, 1000);

// ---- token, theme, notes, keys ----

const token = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", "aria-label": "Token" });
const why = h("p", { class: "why" });
const signIn = h("form", { id: "sign-in", submit: (event) => { event.preventDefault(); keepToken(token.value.trim()); token.value = ""; start(); } },
  h("h1", null, "Token"), h("p", null, "The gateway prints it when it starts, and ", h("code", null, "peerfabric ui"), " opens this page with it."),
  h("div", null, token, h("button", { type: "submit" }, "Open")), why);

function ask(text) {
  say($("state"), "");
  mark($("state"), "");
  say(why, sessionStorage.length ? text : "");
  main.replaceChildren(signIn);
  token.focus();
}

function note(text, bad = false) {
  const element = h("p", { class: bad ? "bad" : "" }, text);
  $("notes").append(element);
  setTimeout(() => element.remove(), bad ? 12000 : 5000);
}

const THEMES = ["auto", "light", "dark"];
let theme = localStorage.getItem("peerfabric.theme") || "auto";
function paint() {
  document.documentElement.setAttribute("data-theme", theme);
  say($("theme"), theme);
}
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % 3];
  localStorage.setItem("peerfabric.theme", theme);
  paint();
});
paint();

addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, dialog")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/" && view.search) {
    event.preventDefault();
    view.search.focus();
  }
});
let scrolling = false;
function moved(resized) {
  if (scrolling || !view || !view.scrolled || signIn.isConnected) return;
  scrolling = true;
  requestAnimationFrame(() => { scrolling = false; if (view.scrolled) view.scrolled(resized); });
}
addEventListener("scroll", () => moved(false), { passive: true });
addEventListener("resize", () => moved(true));
addEventListener("hashchange", route);
takeToken();
route();
start();
