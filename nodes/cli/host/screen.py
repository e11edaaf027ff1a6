"""Screen of `peerfabric top`: what is seen of a fabric, laid out for one terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from peerfabric.errors import counted
from peerfabric.nodes.cli.host.look import Look
from peerfabric.nodes.cli.host.queues import COLUMNS, queue_cells
from peerfabric.nodes.cli.host.rows import HandRow, NodeRow, Place, QueueRow, hand_rows, node_rows, queue_rows
from peerfabric.nodes.cli.host.text import clipped, short_age, short_bytes, short_number
from peerfabric.nodes.cli.output import number_table, printable, wrapped

T = TypeVar("T")

NODE_COLUMNS: Final = ("node", "state", "pid", "cpu", "rss", "up", "peers", "waiting", "running", "warn")
SHOWN: Final = 3
"""Silent processes, warnings, and messages in hand that are shown; one of each in a terminal that is not `ROOMY`."""
ROOMY: Final = 24
TIGHT: Final = 14
"""Lines below which no message in hand is shown."""
HANDS_AFTER: Final = 1.0
"""Seconds in hand until a message is worth a line of the screen."""


class Order(NamedTuple):
    """One order of queues: its name, and what comes first."""

    name: str
    key: Callable[[QueueRow], float]


ORDERS: Final = (
    Order("waiting", lambda row: row.depth),
    Order("oldest", lambda row: row.oldest or 0.0),
    Order("longest", lambda row: row.longest),
    Order("in/s", lambda row: row.in_rate or 0.0),
    Order("out/s", lambda row: row.out_rate or 0.0),
    Order("dead", lambda row: row.dead),
    Order("name", lambda row: 0.0),
)


class View(msgspec.Struct):
    """How somebody looks: the order of queues, and what their names and those of nodes must have in them."""

    order: int = 0
    filter: str = ""
    typing: bool = False
    """A filter is being typed."""


class Seen(NamedTuple):
    """What a screen is made of."""

    look: Look
    before: Sequence[Place] | None
    warnings: Sequence[str]
    """Of other hosts that cannot be asked, and the like."""


def chosen_queues(seen: Seen, view: View) -> list[QueueRow]:
    """The queues in their order, without those that the filter leaves out."""
    rows = [row for row in queue_rows(seen.look.places, seen.before) if view.filter in row.queue]
    return sorted(rows, key=lambda row: (-ORDERS[view.order].key(row), row.fabric, row.queue))


def chosen_nodes(seen: Seen, view: View) -> list[NodeRow]:
    """The nodes; if the filter is of one, only it, and if it is not, those that use what it is of."""
    rows = node_rows(seen.look.places, seen.before)
    return [row for row in rows if view.filter in row.name] or rows


def screen(seen: Seen, view: View, width: int, height: int) -> RenderableType:
    """The screen, at most `height` lines of `width` columns: what is wrong first, then queues, then nodes."""
    most = SHOWN if height >= ROOMY else 1
    head = [_title(seen, view, width), *_silent(seen, width, most), *_warnings(seen, width, most)]
    hands = _hands(seen, view, width, most) if height >= TIGHT else []
    queues, nodes = chosen_queues(seen, view), chosen_nodes(seen, view)
    several = seen.look.several_fabrics
    # Above each table is an empty line, and the line of its columns; the last line of all is that of the keys.
    room = max(height - len(head) - len(hands) - 5, 0)
    for_nodes = min(len(nodes), max(room // 3, room - len(queues)))
    parts: list[RenderableType] = list(head)
    if queues:
        rows = [queue_cells(row, several_fabrics=several) for row in _fitting(queues, room - for_nodes)]
        parts += ["", number_table(COLUMNS, rows, width=width), *_cut(len(queues) - len(rows), "queue")]
    elif seen.look.places:
        parts += ["", Text("no queues" + (f" with {view.filter!r} in their names" if view.filter else ""), "dim")]
    if not seen.look.places:
        parts += ["", *(Text(line) for line in wrapped(seen.look.nobody_text(), width))]
    parts += hands
    if nodes:
        cells = [node_cells(row, several_fabrics=several) for row in _fitting(nodes, for_nodes)]
        parts += ["", number_table(NODE_COLUMNS, cells, 2, width=width), *_cut(len(nodes) - len(cells), "node")]
    parts.append(_keys(view, width))
    return Group(*parts)


def _fitting(rows: list[T], lines: int) -> list[T]:
    """As many as there are lines; of more one fewer, since a line says how many more."""
    return rows if len(rows) <= lines else rows[: max(lines - 1, 0)]


def _cut(left: int, one: str, many: str = "") -> list[Text]:
    return [Text(f"… and {counted(left, 'more ' + one, many and f'more {many}')}", "dim")] if left > 0 else []


def _title(seen: Seen, view: View, width: int) -> Text:
    look = seen.look
    fabric = look.fabric or next(iter({place.node.fabric for place in look.places}), "")
    of = f"fabric {fabric}" if fabric and not look.several_fabrics else "all fabrics"
    heard = f"{counted(len(look.heard), 'process', 'processes')}, {counted(len(look.places), 'node')}"
    parts = [time.strftime("%H:%M:%S"), of, heard, f"by {ORDERS[view.order].name}"]
    if view.filter:
        parts.insert(0, f"only {view.filter!r}")
    return Text(clipped(f"peerfabric  {'  '.join(parts)}", width), "bold")


def _silent(seen: Seen, width: int, most: int) -> list[Text]:
    texts = [printable(f"{each.title}: {each.problem}") for each in seen.look.silent]
    lines = [Text(clipped(text, width), "bold red") for text in texts[:most]]
    return [*lines, *_cut(len(texts) - len(lines), "silent process", "silent processes")]


def _warnings(seen: Seen, width: int, most: int) -> list[Text]:
    texts = [printable(text) for text in seen.warnings]
    texts += [f"{printable(name)}: {printable(warned.text)}" for name, warned in seen.look.warnings()]
    lines = [Text(clipped(text, width), "yellow") for text in texts[:most]]
    return [*lines, *_cut(len(texts) - len(lines), "warning")]


def _hands(seen: Seen, view: View, width: int, most: int) -> list[Text]:
    """What user code has had for longest, and where it is."""
    rows = [row for row in hand_rows(seen.look.places) if row.message.age >= HANDS_AFTER and view.filter in row.queue]
    lines = [Text(clipped(hand_line(row), width)) for row in rows[:most]]
    return [Text(""), Text("in hand for longest", "bold"), *lines] if lines else []


def hand_line(row: HandRow) -> str:
    """A message in hand on one line: for how long, of which queue, at whom, and in which line of user code."""
    message = row.message
    where = " ".join(part for part in (message.handler, message.line) if part) or message.thread
    attempt = f", attempt {message.attempt}" if message.attempt > 1 else ""
    return printable(f"{short_age(message.age):>6}  {row.queue} at {row.node}: {where}{attempt}")


def node_cells(row: NodeRow, *, several_fabrics: bool) -> list[str]:
    """A row of a table with `NODE_COLUMNS`."""
    name = f"{row.fabric}/{row.name}" if several_fabrics else row.name
    if row.adopted is not None:
        name += f" (slot {row.adopted})"
    state = f"{row.state} {short_age(row.pump_late)}" if row.state == "late" else row.state
    return [
        printable(name),
        printable(state),
        str(row.pid),
        "" if row.cpu is None else f"{row.cpu * 100:.0f}%",
        short_bytes(row.rss),
        short_age(row.uptime),
        str(row.peers_up) if row.peers_up == row.peers else f"{row.peers_up}/{row.peers}",
        short_number(row.waiting),
        short_number(row.running),
        str(row.warnings) if row.warnings else "",
    ]


def _keys(view: View, width: int) -> Text:
    if view.typing:
        return Text(clipped(f"filter: {view.filter}▏  Enter keeps it, Esc takes it away", width), "reverse")
    return Text(clipped("q quit   s S sort   f or / filter", width), "dim")
