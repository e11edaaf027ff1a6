// One node: where it runs, its peers, what it sends and consumes.

import { Fields, Table, age, bytes, count, detail, h, low, mark, name, names, number, part, say } from "./dom.js";
import { code, speed, words } from "./dom.js";
import { queueLink } from "./model.js";

const PEERS = [
  name("Peer", (p) => p.name || p.node_id),
  words("State", (p) => (p.reason ? `${p.state}: ${p.reason}` : p.state), { warn: (p) => !isWell(p) }),
  number("Round trip", "rtt", {
    text: (p) => (p.rtt === null ? "·" : `${(p.rtt * 1000).toFixed(2)} ms`),
  }),
  low(
    code("Endpoint"),
    words("Consumes", (p) => names(p.consumes)),
    words("Produces", (p) => names(p.produces)),
  ),
];

const QUEUES = [
  name("Queue"),
  words("Does"),
  ...[speed("Rate / s"), number("Waiting"), number("In flight"), number("Running")],
  low(words("With", (q) => names(q.others))),
];

const FIELDS = ["Program", "Pid", "Up", "Fabric", "Node id", "Host", "peerfabric", "Python", "User", "Processor time"];
FIELDS.push("Memory", "Threads", "Files", "Pump late", "Calls open", "Endpoints", "Spool", "Left out");

export const isWell = (peer) => ["up", "idle", "connecting"].includes(peer.state);

export class NodeView {
  constructor(model, key) {
    Object.assign(this, { model, key, name: h("h1", "node"), state: h("span") });
    this.fields = new Fields({ class: "fields small" });
    this.counters = new Fields({ class: "fields small" });
    this.peers = new Table("peers", PEERS, { key: (p) => p.node_id + p.endpoint, empty: "It knows no other node." });
    this.queues = new Table("node-queues", QUEUES, {
      key: (q) => `${q.queue} ${q.does}`,
      open: (q) => queueLink(q.fabric, q.queue),
      empty: "It neither sends nor consumes.",
    });
    this.tables = [this.queues, this.peers];
    this.element = detail(
      "Nodes",
      [this.name, this.state],
      this.fields.element,
      part("Queues", this.queues),
      part("Peers", this.peers),
      part("Counters", this.counters),
    );
  }

  show() {
    const row = this.model.nodes.find((each) => each.key === this.key);
    const process = row ? row.process : this.model.processes.get(this.key);
    const state = process && (process.silent ? process.problem : row ? row.node.engine || row.node.state : "");
    say(this.state, state ?? "It has ended.");
    mark(this.state, process?.silent ? "badge bad" : "faint");
    if (!row) return;
    const { node } = row;
    const { fabric, spool, calls } = node;
    const system = process.status.process;
    say(this.name, (this.title = node.name));
    this.fields.show(FIELDS, {
      ...system,
      ...node,
      program: system.argv0,
      pid: String(process.pid),
      up: age(node.uptime),
      peerfabric: system.version,
      processor_time: age(system.cpu),
      memory: bytes(system.rss),
      files: `${system.descriptors} of ${count(system.descriptors_max)}`,
      pump_late: age(node.pump_late),
      calls_open: `${calls.open} of ${count(calls.started)}`,
      endpoints: node.endpoints.join(" "),
      spool: spool && `${spool.folder} : ${spool.slot}${node.adopted === null ? "" : ", adopted"}`,
      left_out: node.more > 0 && `${count(node.more)} queues`,
    });
    const sends = node.sends.map(({ queue, account, in: rate, consumers: others }) => {
      const waiting = account.waiting + account.on_disk;
      return { fabric, queue, does: "sends to", rate, waiting, in_flight: account.in_flight, others };
    });
    const takes = node.takes.map(({ queue, account, out: rate, producers: others, paused }) => {
      const does = paused ? "consumes, paused" : "consumes";
      return { fabric, queue, does, rate, waiting: account.buffered, running: account.started, others };
    });
    this.queues.show(sends.concat(takes));
    this.peers.show(node.peers);
    const counted = Object.keys(node.counters).filter((each) => node.counters[each]);
    this.counters.show(counted, node.counters, String);
  }
}
