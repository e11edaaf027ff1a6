/** Application: takes orders over HTTP, and answers as soon as an order cannot be lost any more. */

import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";

import { type Gateway, NotAccepted } from "./gateway.js";

export interface Order {
  /** Chosen by the client; the same order may be sent again under it. */
  id: string;
  dish: string;
  count: number;
}

export function application(gateway: Pick<Gateway, "send">): Hono {
  const app = new Hono();

  app.post("/process-order", bodyLimit({ maxSize: 64 * 1024 }), async (c) => {
    const order = orderOf(await c.req.json().catch(() => undefined));
    if (typeof order === "string") return c.json({ error: order }, 400);
    try {
      const { id, state } = await gateway.send("orders", order.id, order);
      return c.json({ order: order.id, message: id, state }, 202);
    } catch (error) {
      if (!(error instanceof NotAccepted)) throw error;
      // Of keys, tokens and the gateway the client knows nothing; who runs this wants to.
      console.error(`order ${order.id}: ${error.message}`);
      if (error.type === KEY_USED) {
        return c.json({ error: `id: order ${order.id} was sent before, and was another one; give this one its own` }, 409);
      }
      if (error.status === 503) {
        c.header("retry-after", "2");
        return c.json({ error: "orders are not taken just now; send it again, with the same id" }, 503);
      }
      if (error.status === 502) return c.json({ error: "orders cannot be taken here; tell who runs this" }, 502);
      return c.json({ error: `the order is refused: ${error.message}` }, error.status);
    }
  });

  app.get("/healthz", (c) => c.text("ok"));
  return app;
}

/** The type of the gateway's refusal of an order whose id was used for another one. */
const KEY_USED = "urn:peerfabric:problem:key-used-before";

/** The order in a body, or what is wrong with it. */
function orderOf(body: unknown): Order | string {
  if (typeof body !== "object" || body === null) return "the body is no JSON object; send an order";
  const { id, dish, count = 1 } = body as Record<string, unknown>;
  if (typeof id !== "string" || !/^[\w.-]{1,64}$/.test(id)) return "id: give 1 to 64 letters, digits, '.', '_' or '-'";
  if (typeof dish !== "string" || dish === "") return "dish: give the name of one, as text";
  if (typeof count !== "number" || !Number.isInteger(count) || count < 1) return "count: give a whole number from 1, or leave it out";
  return { id, dish, count };
}
