// One node: where it runs, its peers, what it sends and consumes.

import { Table, age, bytes, count, h, head, low, mark, name, names, number, part, say, speed, words } from "./dom.js";
import { queueLink } from "./model.js";

const WELL = ["up", "idle", "connecting"];

const PEERS = [
  name("Peer", (p) => p.name || p.node_id),
  words("State", (p) => (p.reason ? `${p.state}: ${p.reason}` : p.state), { mark: (p) => !isWell(p) && "warn" }),
  number("Round trip", (p) => p.rtt, { text: (p) => (p.rtt === null ? "·" : `${(p.rtt * 1000).toFixed(2)} ms`) }),
  low(words("Endpoint", undefined, { kind: "text code" })),
  low(words("Consumes", (p) => names(p.consumes))),
  low(words("Produces", (p) => names(p.produces))),
];

const QUEUES = [
  name("Queue"),
  words("Does"),
  speed("Rate / s"),
  number("Waiting"),
  number("In flight"),
  number("Running"),
  low(words("With", (q) => names(q.others))),
];

export const isWell = (peer) => WELL.includes(peer.state);

export class NodeView {
  constructor(model, key) {
    Object.assign(this, { model, key, values: new Map() });
    this.name = h("h1", "node");
    this.state = h("span");
    this.fields = h("dl", { class: "fields small" });
    this.counters = h("dl", { class: "fields small" });
    this.peers = new Table("peers", PEERS, (p) => p.node_id + p.endpoint, { empty: "It knows no other node." });
    this.queues = new Table("node-queues", QUEUES, (q) => `${q.queue} ${q.does}`, {
      open: (q) => queueLink(q.fabric, q.queue),
      empty: "It neither sends nor consumes.",
    });
    this.element = h(
      "section",
      { class: "detail" },
      head("Nodes", this.name, this.state),
      this.fields,
      part("Queues", this.queues.element),
      part("Peers", this.peers.element),
      part("Counters", this.counters),
    );
  }

  put(list, entries) {
    for (const [title, text] of Object.entries(entries)) {
      if (!this.values.has(title)) {
        this.values.set(title, h("dd"));
        list.append(h("div", h("dt", title), this.values.get(title)));
      }
      say(this.values.get(title), text || "·");
    }
  }

  show() {
    const row = this.model.nodes.find((each) => each.key === this.key);
    const process = row ? row.process : this.model.processes.get(this.key);
    say(
      this.state,
      !process ? "It has ended." : process.silent ? process.problem : row ? row.node.engine || row.node.state : "",
    );
    mark(this.state, process && process.silent ? "badge bad" : "faint");
    if (!row) return;
    const { node } = row;
    const { fabric, spool } = node;
    const system = process.status.process;
    say(this.name, (this.title = node.name));
    this.put(this.fields, {
      Program: system.argv0,
      Pid: String(process.pid),
      Up: age(node.uptime),
      Fabric: fabric,
      "Node id": node.node_id,
      Host: node.host,
      peerfabric: system.version,
      Python: system.python,
      User: system.user,
      "Processor time": age(system.cpu),
      Memory: bytes(system.rss),
      Threads: count(system.threads),
      Files: `${system.descriptors} of ${count(system.descriptors_max)}`,
      "Pump late": age(node.pump_late),
      "Calls open": `${node.calls.open} of ${count(node.calls.started)}`,
      Endpoints: node.endpoints.join(" "),
      Spool: spool && `${spool.folder} : ${spool.slot}${node.adopted === null ? "" : ", adopted"}`,
      "Left out": node.more && `${count(node.more)} queues`,
    });
    this.queues.show([
      ...node.sends.map((s) => ({
        fabric,
        queue: s.queue,
        does: "sends to",
        rate: s.in,
        waiting: s.account.waiting + s.account.on_disk,
        in_flight: s.account.in_flight,
        running: 0,
        others: s.consumers,
      })),
      ...node.takes.map((t) => ({
        fabric,
        queue: t.queue,
        does: t.paused ? "consumes, paused" : "consumes",
        rate: t.out,
        waiting: t.account.buffered,
        in_flight: 0,
        running: Math.max(t.account.started, t.running.length),
        others: t.producers,
      })),
    ]);
    this.peers.show(node.peers);
    this.put(
      this.counters,
      Object.fromEntries(
        Object.entries(node.counters)
          .filter(([, n]) => n)
          .map(([title, n]) => [title.replaceAll("_", " "), count(n)]),
      ),
    );
  }

  scrolled(resized) {
    this.queues.draw(resized);
    this.peers.draw(resized);
  }
}
