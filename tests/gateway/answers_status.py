"""Requests to which the operations about the status answer with each status that they promise."""

from __future__ import annotations

from typing import Any

import httpx

from tests.gateway.answering import Ask


def _first_look(gate: Any) -> httpx.Response:
    """The answer of a stream, which is left after its first look."""
    with gate.client.stream("GET", "/v1/status/events") as response:
        for line in response.iter_lines():
            if line == "event: end":
                break
    return httpx.Response(response.status_code, headers=response.headers)


ASKS = [
    Ask("getStatus", 200, lambda gate: gate.client.get("/v1/status")),
    Ask("watchStatus", 200, _first_look),
    Ask("getMetrics", 200, lambda gate: gate.client.get("/metrics")),
    Ask("getHealth", 200, lambda gate: gate.client_of(None).get("/healthz")),
    Ask("getReadiness", 200, lambda gate: gate.client_of(None).get("/readyz")),
]
