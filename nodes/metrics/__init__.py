"""Metrics: what nodes tell of themselves as text for Prometheus, made when somebody asks."""

from __future__ import annotations

from typing import Final, Literal

from peerfabric.metrics.families import FAMILIES, Family
from peerfabric.metrics.samples import QUEUES_MAX, Answered, samples_of
from peerfabric.metrics.text import render

__all__ = ["CONTENT_TYPE", "FAMILIES", "QUEUES_MAX", "Answered", "Family", "dashboard", "render", "samples_of", "text"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `text` returns, for the header of a response."""

_ALL_QUEUES: Final = 10_000
"""More than a node can have: those that are left out of the text are still summed."""


def text(scope: Literal["process", "host"] = "process", *, timeout: float = 1.0) -> str:
    """Return the metrics of the nodes of this process, or of all processes of this user on this host.

    In scope "host" any process answers for all, so that it does not matter which worker of a web server is scraped. A
    process that is stopped shows as `peerfabric_process_answers 0` and costs `timeout` seconds, not more for many of
    them. It blocks for so long: in a coroutine, `await asyncio.to_thread(text, "host")`.

    Raises:
        ConfigError: The runtime folder cannot be used.
    """
    from peerfabric import admin

    if scope == "process":
        return render([Answered.of(admin.here(queues=_ALL_QUEUES))])
    found = admin.processes(timeout, queues=_ALL_QUEUES)
    return render([Answered(each.pid, each.status) for each in found], by_pid=True)


def dashboard() -> str:
    """Return the dashboard for Grafana, as JSON to import there."""
    from importlib.resources import files

    return files("peerfabric.metrics").joinpath("grafana.json").read_text()
