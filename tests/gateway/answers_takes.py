"""Requests to which the operations of takes answer with each status that they promise."""

from __future__ import annotations

from typing import Any

from tests.gateway.answering import Ask

ASKED = {"wait": 30, "max": 5, "lease": 60}


def _take(gate: Any) -> Any:
    gate.send("orders", {"order": 7})
    return gate.client.post("/v1/queues/orders/take", json=ASKED)


def _taken(gate: Any) -> Any:
    answer = _take(gate)
    gate.client.post("/v1/receipts:settle", json={"ack": [each["receipt"] for each in answer.json()]})
    return answer


def _settled(gate: Any) -> Any:
    [message] = _take(gate).json()
    asked = {"ack": [message["receipt"]], "nack": [{"receipt": "none"}], "reject": ["none"]}
    return gate.client.post("/v1/receipts:settle", json=asked)


def _extended(gate: Any) -> Any:
    [message] = _take(gate).json()
    asked = {"receipts": [message["receipt"], "none"], "lease": 90}
    answer = gate.client.post("/v1/receipts:extend", json=asked)
    gate.client.post("/v1/receipts:settle", json={"ack": asked["receipts"]})
    return answer


ASKS = [
    Ask("takeMessages", 200, _taken),
    Ask("takeMessages", 204, lambda gate: gate.client.post("/v1/queues/empty/take", json={"wait": 0})),
    Ask("settleMessages", 200, _settled),
    Ask("extendLeases", 200, _extended),
]
