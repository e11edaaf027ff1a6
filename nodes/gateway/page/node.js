// One node: where it runs, its peers, what it sends and consumes.

import { Table, age, bytes, count, h, mark, perSecond, say, some } from "./dom.js";
import { queueLink } from "./model.js";

const PEERS = [
  { title: "Peer", kind: "name", by: (p) => p.name, text: (p) => p.name || p.node_id.slice(0, 12) },
  { title: "State", kind: "text", by: (p) => p.state, text: (p) => (p.reason ? `${p.state}: ${p.reason}` : p.state), mark: (p) => (["up", "idle", "connecting"].includes(p.state) ? "" : "warn") },
  { title: "Round trip", by: (p) => p.rtt, text: (p) => (p.rtt === null ? "·" : `${(p.rtt * 1000).toFixed(p.rtt < 0.01 ? 2 : 0)} ms`) },
  { title: "Endpoint", kind: "text code", low: true, by: (p) => p.endpoint, text: (p) => p.endpoint },
  { title: "Consumes", kind: "text", low: true, text: (p) => p.consumes.join(", ") },
  { title: "Produces", kind: "text", low: true, text: (p) => p.produces.join(", ") },
];

const QUEUES = [
  { title: "Queue", kind: "name", by: (q) => q.queue, text: (q) => q.queue },
  { title: "Does", kind: "text", by: (q) => q.does, text: (q) => q.does },
  { title: "/ s", by: (q) => q.rate, text: (q) => perSecond(q.rate) },
  { title: "Waiting", by: (q) => q.waiting, text: (q) => some(q.waiting) },
  { title: "In flight", by: (q) => q.inFlight, text: (q) => some(q.inFlight) },
  { title: "Running", by: (q) => q.running, text: (q) => some(q.running) },
  { title: "With", kind: "text", low: true, text: (q) => q.others.join(", ") },
];

export class NodeView {
  constructor(model, key) {
    Object.assign(this, { model, key });
    this.name = h("h1");
    this.state = h("span");
    this.fields = h("dl", { class: "fields small" });
    this.values = new Map();
    this.peers = new Table("peers", PEERS, { key: (p) => p.node_id + p.endpoint, empty: "It knows no other node." });
    this.queues = new Table("node-queues", QUEUES, { key: (q) => `${q.queue} ${q.does}`, open: (q) => queueLink(q.fabric, q.queue), empty: "It neither sends nor consumes.", order: false });
    this.counters = h("dl", { class: "fields small" });
    this.counts = new Map();
    const part = (title, ...body) => h("section", { class: "part" }, h("h2", null, title), body);
    this.element = h("section", { class: "detail" },
      h("div", { class: "head" }, h("a", { href: "#/nodes", class: "back" }, "Nodes"), this.name, this.state), this.fields,
      part("Queues", this.queues.element), part("Peers", this.peers.element), part("Counters", this.counters));
  }

  put(list, values, entries) {
    for (const [title, text] of entries) {
      if (!values.has(title)) {
        const value = h("dd");
        values.set(title, value);
        list.append(h("div", null, h("dt", null, title), value));
      }
      say(values.get(title), text || "·");
    }
  }

  show() {
    const row = this.model.nodes.find((each) => each.key === this.key);
    if (!row) {
      const silent = this.model.processes.get(this.key);
      say(this.name, silent ? `process ${silent.pid}` : this.name.shown || "node");
      say(this.state, silent ? silent.problem : "It has ended.");
      mark(this.state, silent ? "badge bad" : "faint");
      return;
    }
    const { node, process } = row;
    const system = process.status.process;
    this.title = node.name;
    say(this.name, node.name);
    const state = process.silent ? process.problem : node.engine || (node.adopted === null ? node.state : `runs slot ${node.adopted} of a process that is gone`);
    say(this.state, state || "running");
    mark(this.state, process.silent ? "badge bad" : node.engine ? "badge warned" : "faint");
    this.put(this.fields, this.values, [
      ["Program", system.argv0], ["Pid", String(process.pid)], ["Up", age(node.uptime)], ["Fabric", node.fabric], ["Node id", node.node_id], ["Host", node.host || process.source],
      ["peerfabric", system.version], ["Python", system.python], ["User", system.user], ["Processor time", age(system.cpu)], ["Memory", bytes(system.rss)], ["Threads", count(system.threads)],
      ["Files", `${system.descriptors} of ${count(system.descriptors_max)}`], ["Pump late", age(node.pump_late)], ["Endpoints", node.endpoints.join(" ")],
      ["Calls open", `${node.calls.open} of ${count(node.calls.started)}`], ["Spool", node.spool ? `${node.spool.folder} : ${node.spool.slot}` : "none"],
    ]);
    const { fabric } = node;
    this.queues.show([
      ...node.sends.map((s) => ({ fabric, queue: s.queue, does: "sends to", rate: s.in, waiting: s.account.waiting + s.account.on_disk, inFlight: s.account.in_flight, running: 0, others: s.consumers })),
      ...node.takes.map((t) => ({ fabric, queue: t.queue, does: t.paused ? "consumes, paused" : "consumes", rate: t.out, waiting: t.account.buffered, inFlight: 0, running: t.account.started, others: t.producers })),
    ]);
    this.peers.show([...node.peers]);
    this.put(this.counters, this.counts, Object.entries(node.counters).filter(([, n]) => n).map(([name, n]) => [name.replaceAll("_", " "), count(n)]));
  }

  scrolled(resized) {
    for (const table of [this.queues, this.peers]) {
      if (resized) table.resized();
      table.draw();
    }
  }
}


