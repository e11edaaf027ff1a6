"""`peerfabric peers`: who is there, as a node that has just joined sees it, and what changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.output import Form, print_line, print_made, printable, table, to_json
from peerfabric.reports import PeerView

COLUMNS = ("name", "state", "reason", "endpoint", "consumes", "produces", "subscribes", "publishes", "serves")
LOOK_EVERY: Final = 0.25
"""Seconds between two looks of `--watch`."""


@click.command()
@click.option(
    "--timeout",
    "--wait",
    "wait",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="How long to look around.",
)
@click.option("--watch", is_flag=True, help="Go on and on; with -o json a line for each change.")
@joins_fabric
def peers(wait: float, watch: bool, settings: Settings) -> None:
    """List the other nodes of the fabric, and what each consumes, produces, subscribes to, publishes and serves.

    The reason says why there is no link with a node, if that is known; `peerfabric doctor` says what to do about it.
    """
    with settings.node() as node:
        node.look_at_all()
        if watch:
            _watch(node, settings.output)
            return
        time.sleep(wait)
        found = _sorted(node.peers())
        fabric = node.fabric
    if settings.output is Form.JSON:
        for peer in found:
            print_line(to_json(peer))
    elif found:
        print_made("", _table(found))
    if not found:
        raise Failure(
            f"nobody else is in fabric {fabric!r}; start a node, name another --fabric, or name one of its nodes "
            f"with --peer; `peerfabric doctor` finds out why one that runs is not seen",
            Exit.NOTHING,
        )


def _watch(node: Node, form: Form) -> None:
    """Show who is there until somebody ends it."""
    if form is Form.JSON or not Console().is_terminal:
        for text in watched(lambda: _next_look(node), form):
            print_line(text)
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            found = _sorted(node.peers())
            live.update(_table(found) if found else "nobody yet", refresh=True)
            time.sleep(LOOK_EVERY)


def _next_look(node: Node) -> list[PeerView]:
    time.sleep(LOOK_EVERY)
    return node.peers()


def watched(look: Callable[[], Iterable[PeerView]], form: Form) -> Iterator[str]:
    """A line for each change between two looks: JSON objects with `event` "came", "changed" or "went", or texts."""
    before: dict[str, PeerView] = {}
    while True:
        # An endpoint in peers= that has not answered is there without an id.
        now = {peer.node_id or peer.endpoint: peer for peer in _sorted(look())}
        for key, peer in now.items():
            if peer != before.get(key):
                yield _change("changed" if key in before else "came", peer, form)
        for key, peer in before.items():
            if key not in now:
                yield _change("went", peer, form)
        before = now


def _change(event: str, peer: PeerView, form: Form) -> str:
    if form is Form.JSON:
        return to_json({"event": event, "peer": peer})
    return "  ".join(cell for cell in (event, *_row(peer)) if cell)


def _sorted(found: Iterable[PeerView]) -> list[PeerView]:
    return sorted(found, key=lambda peer: (peer.name, peer.node_id))


def _table(found: Sequence[PeerView]) -> Table:
    """Without columns that are empty, so that it fits a terminal."""
    rows = [_row(peer) for peer in found]
    shown = [place for place in range(len(COLUMNS)) if place < 2 or any(row[place] for row in rows)]
    return table([COLUMNS[place] for place in shown], [[row[place] for place in shown] for row in rows])


def _row(peer: PeerView) -> list[str]:
    lists = (peer.consumes, peer.produces, peer.subscribes, peer.publishes, peer.serves)
    reason = f"cannot reach {peer.endpoint}" if peer.reason == "one-way" else peer.reason
    endpoint = "ipc" if peer.endpoint.startswith("ipc:") else peer.endpoint  # its path tells nobody anything
    cells = [peer.name, peer.state, reason, endpoint, *(" ".join(names) for names in lists)]
    return [printable(cell) for cell in cells]
