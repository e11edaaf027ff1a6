"""Requests for each operation and status, out of the files `answers_NAME.py`, one for each file of operations."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import httpx


class Ask(NamedTuple):
    """A request that the operation `name` answers with `status`; `ask` is given the `Gate`."""

    name: str
    status: int
    ask: Callable[[Any], httpx.Response]


def all_asks() -> list[Ask]:
    """Those of all files."""
    found: list[Ask] = []
    for path in sorted(Path(__file__).parent.glob("answers_*.py")):
        found += import_module(f"tests.gateway.{path.stem}").ASKS
    return found


def consuming(gate: Any, queue: str) -> None:
    """Have the gateway's own node process all that comes to `queue`."""

    async def handle(body: Any) -> None:
        pass

    gate.call(lambda: gate.node.on_message(queue, concurrency=1)(handle))
