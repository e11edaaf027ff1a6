"""Requests to which the operations of the page's files answer with each status that they promise."""

from __future__ import annotations

from tests.gateway.answering import Ask

ASKS = [
    Ask("getPage", 200, lambda gate: gate.client_of(None).get("/")),
    Ask("getPageFile", 200, lambda gate: gate.client_of(None).get("/page/app.js")),
]
