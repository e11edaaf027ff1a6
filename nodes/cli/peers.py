"""`peerfabric peers`: who is there, as a node that has just joined sees it, and what changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.door import is_stopped
from peerfabric.nodes.cli.host.present import pids
from peerfabric.nodes.cli.output import INDENT, Form, print_line, print_made, printable, table, to_json, wrapped
from peerfabric.reports import PeerView

COLUMNS: Final = (
    "name",
    "pid",
    "state",
    "reason",
    "endpoint",
    "consumes",
    "produces",
    "subscribes",
    "publishes",
    "serves",
)
FIXED: Final = 5
"""Of these, those before the lists."""
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
        found = seen(node.peers())
        fabric = node.fabric
    if settings.output is Form.JSON:
        for peer in found:
            print_line(to_json(peer))
    elif found:
        console = Console()
        # Without a terminal a line for each, however long.
        made = _laid_out(found, console.width) if console.is_terminal else _table(found)
        if isinstance(made, Table):
            print_made("", made)
        else:
            for line in made:
                print_line(line)
    if not found:
        raise Failure(
            f"nobody else is in fabric {fabric!r}; start a node, name another --fabric, or name one of its nodes "
            f"with --peer; `peerfabric doctor` finds out why one that runs is not seen",
            Exit.NOTHING,
        )


class Seen(PeerView, frozen=True, kw_only=True):
    """A peer, and its process if that is one of this user's on this host, else 0; `reason` may be "stopped", too."""

    pid: int = 0


def seen(found: Iterable[PeerView]) -> list[Seen]:
    """Peers by name, with what the system says of their processes."""
    there = pids()
    result = []
    for peer in found:
        pid = there.get(peer.node_id, 0)
        fields = msgspec.structs.asdict(peer)
        if pid and peer.state not in ("up", "idle") and is_stopped(pid):
            fields["reason"] = "stopped"
        result.append(Seen(**fields, pid=pid))
    return sorted(result, key=lambda peer: (peer.name, peer.node_id))


def _watch(node: Node, form: Form) -> None:
    """Show who is there until somebody ends it."""
    if form is Form.JSON or not Console().is_terminal:
        for text in watched(lambda: _next_look(node), form):
            print_line(text)
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            made = _laid_out(seen(node.peers()), live.console.width)
            shown = made if isinstance(made, Table) else Text("\n".join(made) or "nobody yet")
            live.update(shown, refresh=True)
            time.sleep(LOOK_EVERY)


def _next_look(node: Node) -> list[Seen]:
    time.sleep(LOOK_EVERY)
    return seen(node.peers())


def watched(look: Callable[[], Iterable[Seen]], form: Form) -> Iterator[str]:
    """A line for each change between two looks: JSON objects with `event` "came", "changed" or "went", or texts."""
    before: dict[str, Seen] = {}
    while True:
        # An endpoint in peers= that has not answered is there without an id.
        now = {peer.node_id or peer.endpoint: peer for peer in look()}
        for key, peer in now.items():
            if peer != before.get(key):
                yield _change("changed" if key in before else "came", peer, form)
        for key, peer in before.items():
            if key not in now:
                yield _change("went", peer, form)
        before = now


def _change(event: str, peer: Seen, form: Form) -> str:
    if form is Form.JSON:
        return to_json({"event": event, "peer": peer})
    return "  ".join(cell for cell in (event, *_row(peer)) if cell)


def _laid_out(found: Sequence[Seen], width: int) -> Table | list[str]:
    """A table where it fits, else some lines for each: no name is split."""
    made = _table(found)
    if not found or Console(width=1000).measure(made).maximum <= width:
        return made if found else []
    lines = []
    for row, peer in zip(_rows(found), found, strict=True):
        head = [f"{row[0]} ({peer.pid})" if peer.pid else row[0], *row[2:FIXED]]
        lines += wrapped("  ".join(cell for cell in head if cell), width, after=INDENT)
        for column, cell in zip(COLUMNS[FIXED:], row[FIXED:], strict=True):
            if cell:
                lines += wrapped(f"{column}: {cell}", width, INDENT, 2 * INDENT)
    return lines


def _table(found: Sequence[Seen]) -> Table:
    """Without columns that are empty, so that it fits a terminal."""
    rows = _rows(found)
    shown = [place for place in range(len(COLUMNS)) if place in (0, 2) or any(row[place] for row in rows)]
    return table([COLUMNS[place] for place in shown], [[row[place] for place in shown] for row in rows])


def _rows(found: Sequence[Seen]) -> list[list[str]]:
    """Cells; nodes of one name that are not told apart by their processes are by their ids."""
    names = Counter((peer.name, peer.pid) for peer in found)
    rows = []
    for peer in found:
        row = _row(peer)
        if names[peer.name, peer.pid] > 1:
            row[0] += f" {peer.node_id[:8]}"
        rows.append(row)
    return rows


def _row(peer: Seen) -> list[str]:
    lists = (peer.consumes, peer.produces, peer.subscribes, peer.publishes, peer.serves)
    reason = {
        "one-way": f"cannot reach {peer.endpoint}",
        "stopped": f"it is stopped: kill -CONT {peer.pid}",
    }.get(peer.reason, peer.reason)
    endpoint = "ipc" if peer.endpoint.startswith("ipc:") else peer.endpoint  # its path tells nobody anything
    cells = [peer.name, str(peer.pid or ""), peer.state, reason, endpoint, *(" ".join(names) for names in lists)]
    return [printable(cell) for cell in cells]
