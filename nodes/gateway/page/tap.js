// What is published on a topic, or on those of a pattern, as it comes.

import { button, detail, framed, h, part, say } from "./dom.js";
import { events } from "./stream.js";

const KEPT = 200;

export class Tap {
  constructor(pattern) {
    Object.assign(this, { title: pattern, abort: new AbortController(), seen: 0, fresh: [], held: false });
    this.state = "Waits for messages.";
    this.number = h("span.faint");
    this.hold = button("Hold", () => {
      this.held = !this.held;
      say(this.hold, this.held ? "Go on" : "Hold");
    });
    this.rows = h("ol.tapped");
    this.draw = framed(() => this.show());
    this.element = detail(
      "Topics",
      [h("h1", pattern), this.number, h("div.acts", this.hold)],
      part("Messages from now on, newest first", { element: this.rows }),
    );
    this.read(`v1/topics/${encodeURIComponent(pattern)}/events`);
  }

  async read(path) {
    const { signal } = this.abort;
    while (!signal.aborted) {
      try {
        await events(path, signal, (event, data) => this.take(event, data));
      } catch (error) {
        this.state = error.message;
        if (error.status) return this.show();
      }
      await new Promise((done) => setTimeout(done, 2000));
    }
  }

  take(event, data) {
    this.seen += 1;
    if (this.held) return;
    if (this.fresh.push([event, data]) > KEPT) this.fresh.shift();
    this.draw();
  }

  show() {
    const now = new Date().toLocaleTimeString("sv");
    const rows = this.fresh.splice(0).map(([event, data]) => {
      const found = JSON.parse(data);
      const body = event === "gap" ? `${found.missed ?? "some"} were missed` : (found.body ?? found);
      const text = typeof body === "string" ? body : JSON.stringify(body);
      return h("li", { class: event }, h("time", now), h("b", found.topic), h("span.text", text.slice(0, 2000)));
    });
    this.rows.prepend(...rows.reverse());
    while (this.rows.childElementCount > KEPT) this.rows.lastChild.remove();
    say(this.number, this.seen ? `${this.seen} received` : this.state);
  }

  close() {
    this.abort.abort();
  }
}
