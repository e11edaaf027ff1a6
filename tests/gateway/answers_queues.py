"""Requests to which the operations of queues answer with each status that they promise."""

from __future__ import annotations

from typing import Any

from tests.gateway.answering import Ask, consuming

LINES = {"content-type": "application/x-ndjson"}


def _processed(gate: Any) -> Any:
    consuming(gate, "done")
    return gate.client.post("/v1/queues/done/messages?confirm=processed&timeout=30", json={"order": 7})


ASKS = [
    Ask("sendMessage", 202, lambda gate: gate.client.post("/v1/queues/orders/messages", json={"order": 7})),
    Ask("sendMessage", 200, _processed),
    Ask(
        "sendBatch",
        202,
        lambda gate: gate.client.post("/v1/queues/orders/messages:batch", content=b"1\n2\nx\n", headers=LINES),
    ),
]
