// What is published on a topic, or on those of a pattern, as it comes.

import { h, say } from "./dom.js";
import { events } from "./stream.js";

const KEPT = 200;

export class Tap {
  constructor(pattern) {
    this.title = pattern;
    this.abort = new AbortController();
    this.seen = 0;
    this.fresh = [];
    this.number = h("span", { class: "faint" });
    this.stop = h("button", { type: "button", click: () => this.toggle() }, "Hold");
    this.rows = h("ol", { class: "tapped" });
    this.element = h("section", { class: "detail" },
      h("div", { class: "head" }, h("a", { href: "#/topics", class: "back" }, "Topics"), h("h1", null, pattern), this.number, h("div", { class: "acts" }, this.stop)),
      h("section", { class: "part" }, h("h2", null, "Messages from now on, newest first"), this.rows));
    this.held = false;
    this.state = "waits for messages";
    this.read(pattern);
  }

  async read(pattern) {
    let wait = 500;
    while (!this.abort.signal.aborted) {
      try {
        await events(`v1/topics/${encodeURIComponent(pattern)}/events`, this.abort.signal, (event, data) => this.take(event, data), () => { wait = 500; });
      } catch (error) {
        if (this.abort.signal.aborted) return;
        this.state = error.message;
        if (error.status) return;
      }
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, 5000);
    }
  }

  take(event, data) {
    this.seen += 1;
    this.state = "";
    if (this.held) return;
    this.fresh.push([event, data]);
    if (this.fresh.length > KEPT) this.fresh.shift();
    if (this.fresh.length === 1) requestAnimationFrame(() => this.draw());
  }

  draw() {
    const now = new Date().toLocaleTimeString("sv");
    const rows = this.fresh.splice(0).map(([event, data]) => {
      let topic = "";
      let text = data;
      try {
        const found = JSON.parse(data);
        if (event === "gap") text = `${found.missed ?? "some"} were missed`;
        else if (found && typeof found === "object" && "body" in found) {
          topic = found.topic ?? "";
          text = typeof found.body === "string" ? found.body : JSON.stringify(found.body);
        }
      } catch { /* it is shown as it came */ }
      return h("li", { class: event === "gap" ? "gap" : null }, h("time", null, now), h("b", null, topic), h("span", { class: "text" }, text.slice(0, 2000)));
    });
    this.rows.prepend(...rows.reverse());
    while (this.rows.childElementCount > KEPT) this.rows.lastChild.remove();
  }

  show() {
    say(this.number, this.seen ? `${this.seen} received${this.held ? ", held" : ""}` : this.state);
  }

  toggle() {
    this.held = !this.held;
    say(this.stop, this.held ? "Go on" : "Hold");
    this.show();
  }

  close() {
    this.abort.abort();
  }
}
