"""Requests to which the operations of services answer with each status that they promise."""

from __future__ import annotations

from typing import Any

from tests.gateway.answering import Ask


def _called(gate: Any) -> Any:
    async def double(number: int) -> int:
        return 2 * number

    gate.call(lambda: gate.node.serve("double")(double))
    return gate.client.post("/v1/services/double?timeout=30", json=21)


ASKS = [Ask("callService", 200, _called)]
