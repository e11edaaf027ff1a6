"""Requests to which the operations that act answer with each status that they promise."""

from __future__ import annotations

from tests.gateway.answering import Ask

ASKS = [
    Ask("listDeadLetters", 200, lambda gate: gate.client.get("/v1/dead?limit=3")),
    Ask("listDeadLettersOfQueue", 200, lambda gate: gate.client.get("/v1/dead/orders")),
    Ask("retryDeadLetters", 200, lambda gate: gate.client.post("/v1/dead/orders:retry", json={"ids": ["no"]})),
    Ask("dropDeadLetters", 200, lambda gate: gate.client.post("/v1/dead/orders:drop", json={"all": True})),
    Ask("pauseQueue", 200, lambda gate: gate.client.post("/v1/queues/orders:pause", json={})),
    Ask("resumeQueue", 200, lambda gate: gate.client.post("/v1/queues/orders:resume", json={})),
    Ask("purgeQueue", 200, lambda gate: gate.client.post("/v1/queues/orders:purge", json={})),
]
