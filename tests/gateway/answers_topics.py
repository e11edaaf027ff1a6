"""Requests to which the operations of topics answer with each status that they promise."""

from __future__ import annotations

from typing import Any

from tests.gateway.answering import Ask


def _read(gate: Any) -> Any:
    with gate.client.stream("GET", "/v1/topics/prices.*/events") as answer:
        assert next(answer.iter_lines()) == "retry: 2000"
    return answer


ASKS = [
    Ask("publish", 202, lambda gate: gate.client.post("/v1/topics/prices.eur", json={"bid": 1.5})),
    Ask("readTopics", 200, _read),
]
