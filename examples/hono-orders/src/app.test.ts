/** Tests of the application and of its client, without a gateway: `npm test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { application } from "./app.js";
import { Gateway, NotAccepted } from "./gateway.js";

type Answer = Response | Error;

/** A client whose requests get these answers, one after the other; what it asked and how long it paused. */
function client(...answers: Answer[]) {
  const asked: Request[] = [];
  const paused: number[] = [];
  const gateway = new Gateway({
    url: "http://gateway",
    token: "secret",
    patience: 5_000,
    fetch: async (input, init) => {
      asked.push(new Request(input, init));
      const answer = answers.shift() ?? new Error("nobody answers any more");
      if (answer instanceof Error) throw answer;
      return answer;
    },
    pause: async (milliseconds) => void paused.push(milliseconds),
  });
  return { gateway, asked, paused };
}

const accepted = () => Response.json({ id: "n:1:orders/1", state: "stored" }, { status: 202 });
const problem = (status: number, headers = {}) => Response.json({ detail: "why not" }, { status, headers });

test("an order is sent with its key, its token and its type", async () => {
  const { gateway, asked } = client(accepted());
  assert.deepEqual(await gateway.send("orders", "A-1", { dish: "tea" }), { id: "n:1:orders/1", state: "stored" });
  const [request] = asked;
  assert.ok(request);
  assert.equal(request.url, "http://gateway/v1/queues/orders/messages");
  assert.equal(request.headers.get("authorization"), "Bearer secret");
  assert.equal(request.headers.get("content-type"), "application/json");
  assert.equal(request.headers.get("idempotency-key"), "A-1");
  assert.deepEqual(await request.json(), { dish: "tea" });
});

test("what may succeed the next time is repeated with the same key, no sooner than was asked", async () => {
  const { gateway, asked, paused } = client(
    new Error("connection refused"),
    problem(503, { "retry-after": "2" }),
    problem(409),
    accepted(),
  );
  await gateway.send("orders", "A-1", {});
  assert.deepEqual(new Set(asked.map((request) => request.headers.get("idempotency-key"))), new Set(["A-1"]));
  assert.equal(paused.length, 3);
  assert.ok((paused[1] ?? 0) >= 2_000);
});

test("what cannot succeed is not repeated", async () => {
  for (const [status, answered] of [[400, 400], [413, 413], [422, 422], [401, 502], [403, 502], [404, 502]] as const) {
    const { gateway, asked } = client(problem(status));
    await assert.rejects(
      gateway.send("orders", "A-1", {}),
      (error) => error instanceof NotAccepted && error.status === answered && error.message === "why not",
    );
    assert.equal(asked.length, 1);
  }
});

test("patience ends", async () => {
  const { gateway } = client(problem(503, { "retry-after": "60" }));
  await assert.rejects(gateway.send("orders", "A-1", {}), (error) => error instanceof NotAccepted && error.status === 503);
});

async function post(app: ReturnType<typeof application>, body: string) {
  const response = await app.request("/process-order", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown>, response };
}

test("an accepted order is answered with 202 and where it is", async () => {
  const { gateway, asked } = client(accepted());
  const { status, body } = await post(application(gateway), '{"id": "A-1", "dish": "tea"}');
  assert.equal(status, 202);
  assert.deepEqual(body, { order: "A-1", message: "n:1:orders/1", state: "stored" });
  assert.deepEqual(await asked[0]?.json(), { id: "A-1", dish: "tea", count: 1 });
});

test("a bad order is refused here", async () => {
  for (const body of ["", "[]", "{}", '{"id": 1, "dish": "tea"}', '{"id": "a b", "dish": "tea"}', '{"id": "A"}',
    '{"id": "A", "dish": "tea", "count": 0}', '{"id": "A", "dish": "tea", "count": 1.5}']) {
    const { gateway, asked } = client();
    assert.equal((await post(application(gateway), body)).status, 400);
    assert.equal(asked.length, 0);
  }
});

test("an order that was not accepted says so, and when to come again", async () => {
  const { gateway } = client(problem(503, { "retry-after": "60" }));
  const { status, body, response } = await post(application(gateway), '{"id": "A-1", "dish": "tea"}');
  assert.equal(status, 503);
  assert.equal(response.headers.get("retry-after"), "2");
  assert.deepEqual(body, { error: "orders are not taken just now; send it again, with the same id" });
});

test("the client hears nothing of keys, tokens and the gateway", async () => {
  const used = { type: "urn:peerfabric:problem:key-used-before", detail: "the Idempotency-Key was used before" };
  for (const [answer, status] of [
    [new Error("fetch failed"), 503],
    [problem(401), 502],
    [Response.json(used, { status: 422 }), 409],
  ] as const) {
    const gateway = new Gateway({
      url: "http://gateway",
      token: "secret",
      patience: 0,
      fetch: async () => {
        if (answer instanceof Error) throw answer;
        return answer;
      },
    });
    const found = await post(application(gateway), '{"id": "A-1", "dish": "tea"}');
    assert.equal(found.status, status);
    assert.doesNotMatch(String(found.body.error), /gateway|key|token|fetch/i);
  }
});

test("what is missing is said by its name", async () => {
  const { gateway } = client();
  assert.match(String((await post(application(gateway), '{"id": "A"}')).body.error), /^dish: give /);
});

test("why nobody answers is said as the network has it", async () => {
  const refused = new Gateway({
    url: "http://gateway", token: "secret", patience: 0,
    fetch: async () => { throw new TypeError("fetch failed", { cause: { code: "ECONNREFUSED" } }); },
  });
  await assert.rejects(refused.send("orders", "A-1", {}), /http:\/\/gateway does not answer: ECONNREFUSED; look/);
});
