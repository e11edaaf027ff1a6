"""Requests to which the operations about the gateway itself answer with each status that they promise."""

from __future__ import annotations

from tests.gateway.answering import Ask

ASKS = [Ask("getOpenApi", 200, lambda gate: gate.client.get("/openapi.json"))]
