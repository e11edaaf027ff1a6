"""Looks at the running nodes of this host, and with `--lan` at those that other hosts have in the same fabric."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click
import msgspec

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, output_option
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.exits import Exit, Failure, at_the_terminal
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import QUEUES_MAX, Heard
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.host.rows import Place, places, sent_queues, taken_queues
from peerfabric.nodes.cli.offline import warn
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.settings import FABRIC_VARIABLE
from peerfabric.status import Status, Warned

LINKED_WITHIN: Final = 1.0
"""Seconds for nodes of other hosts to be found, before they are asked."""
LAN_TIMEOUT: Final = 2.0
"""Seconds for them to answer."""


class Look:
    """What was seen at one time.

    Args:
        fabric: Whose nodes are looked at; None: of all.
        heard: The processes of this host.
        others: Statuses of other hosts, each with the time when it came.
        without: The id of the node that asks them, which is no part of what is looked at.
    """

    def __init__(
        self,
        fabric: str | None,
        heard: Sequence[Heard],
        others: Sequence[tuple[Status, float]] = (),
        without: str = "",
    ) -> None:
        self.fabric = fabric
        self.heard = sorted(heard, key=lambda each: (each.pid, each.started))
        self.silent = [each for each in self.heard if each.status is None]
        self.statuses = [*((each.status, each.at) for each in self.heard if each.status is not None), *others]
        self.places: list[Place] = [each for each in places(self.statuses, fabric) if each.node.node_id != without]

    @property
    def several_fabrics(self) -> bool:
        return len({node.fabric for _, node, _ in self.places}) > 1

    @property
    def left_out(self) -> int:
        """Queues that nodes have left out of their answers."""
        return sum(node.more for _, node, _ in self.places)

    def warnings(self) -> list[tuple[str, Warned]]:
        """What nodes warn of, with their names, the longest first."""
        found = [
            (node.name, msgspec.structs.replace(warned, text=at_the_terminal(warned.text)))
            for _, node, _ in self.places
            for warned in node.warnings
        ]
        return sorted(found, key=lambda pair: -pair[1].since)

    def tell(self, *, of_queues: bool = True) -> None:
        """Say on standard error what is missing in this look.

        Args:
            of_queues: It is about all queues, so those matter that nodes have left out.
        """
        for each in self.silent:
            warn(f"{each.title}: {each.problem}; what it has is not shown")
        for _, node, _ in self.places:
            if node.engine:
                warn(f"node {node.name}: {node.engine}; what it has is not shown: `peerfabric stacks`")
        if of_queues and self.left_out:
            warn(f"{self.left_out:,} queues are not shown, the shallowest of nodes with more than {QUEUES_MAX:,}")

    def nobody_text(self) -> str:
        """What is said where no node was seen."""
        fabrics = sorted({node.fabric for status, _ in self.statuses for node in status.nodes} - {self.fabric})
        if self.fabric is not None and fabrics:
            there = ", ".join(map(repr, fabrics))
            near = did_you_mean(self.fabric, fabrics)
            return f"no node of fabric {self.fabric!r} answers here{near}; there are nodes of {there}"
        return (
            "no node of this user answers on this host; start one, or see `peerfabric doctor`: it may have another "
            "runtime folder, or PEERFABRIC_ADMIN=off"
        )

    def those_with(self, queue: str, *, takes: bool) -> list[Heard]:
        """The processes whose nodes consume a queue, or else send to it; those that were not heard may, too."""
        return [each for each in self.heard if each.status is None or self._has(each.status, queue, takes=takes)]

    def _has(self, status: Status, queue: str, *, takes: bool) -> bool:
        return any(
            node.more or node.engine or queue in (taken_queues(node) if takes else sent_queues(node))
            for _, node, _ in places([(status, 0.0)], self.fabric)
        )

    def one_fabric(self, queue: str) -> str:
        """The fabric in which a queue is to be changed.

        Raises:
            UsageError: It is in several, and none was named.
        """
        found = {node.fabric for _, node, _ in self.places if queue in taken_queues(node) | sent_queues(node)}
        if len(found) > 1:
            raise click.UsageError(f"queue {queue!r} is in fabrics {', '.join(sorted(found))}; name one with --fabric")
        return self.fabric or next(iter(found), "")


class Looking:
    """How a command looks: at which fabric, and how far."""

    def __init__(self, settings: Settings, *, lan: bool = False) -> None:
        self.output: Form = settings.output
        self.fabric = settings.fabric or os.environ.get(FABRIC_VARIABLE) or None
        self.lan = lan
        self._settings = settings
        self._node: Node | None = None
        self.own_id = ""
        """Of the node that asks other hosts, with `--lan`."""

    @contextmanager
    def joined(self) -> Iterator[Looking]:
        """With `--lan`: as a node of the fabric, which asks the others there."""
        if not self.lan:
            yield self
            return
        with self._settings.node() as node:
            self.fabric = node.fabric
            node.look_at_all()
            self._node, self.own_id = node, node.statistics().node_id
            time.sleep(LINKED_WITHIN)
            yield self

    def look(self, queues: int = QUEUES_MAX) -> Look:
        """Ask once, and wait until all have answered or are silent."""
        others = beside(self.others) if self._node is not None else None
        heard = list(door.answers(queues=queues))
        return Look(self.fabric, heard, others.result() if others is not None else (), self.own_id)

    def others(self) -> list[tuple[Status, float]]:
        """What nodes of the fabric answer, and when; those of this host are among them."""
        from peerfabric import admin

        assert self._node is not None
        found = admin.fabric_status(self._node, LAN_TIMEOUT)
        at = clock()
        return [(status, at) for status in found]

    def nobody(self, look: Look) -> NoReturn:
        """End since no node was seen.

        Raises:
            Failure: Always; it says what can be done.
        """
        look.tell()
        raise Failure(look.nobody_text(), Exit.NOTHING)


_fabric_option = click.option(
    "--fabric", metavar="NAME", help="Only its nodes.  [default: $PEERFABRIC_FABRIC, else of all fabrics]"
)


def looks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a look at this host, and call it with the `Looking` made of them."""

    @_fabric_option
    @output_option
    @functools.wraps(command)
    def wrapped(*args: Any, fabric: str | None, output: str, **rest: Any) -> None:
        settings = Settings(fabric=fabric, peers=(), name=None, output=Form(output))
        command(*args, looking=Looking(settings), **rest)

    return wrapped


def looks_around(command: Callable[..., None]) -> Callable[..., None]:
    """As `looks`, and those of a look at other hosts."""

    @_fabric_option
    @click.option("--lan", is_flag=True, help="Join the fabric, and ask its nodes on other hosts, too.")
    @click.option("--peer", "peers", metavar="ENDPOINT", multiple=True, help="With --lan: one to dial; repeatable.")
    @click.option("--config", metavar="PATH", help="With --lan: a TOML file.  [default: $PEERFABRIC_CONFIG]")
    @click.option("--identity", metavar="PATH", help="With --lan: a key, where not every node is let in.")
    @output_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        fabric: str | None,
        lan: bool,
        peers: tuple[str, ...],
        config: str | None,
        identity: str | None,
        output: str,
        **rest: Any,
    ) -> None:
        settings = Settings(
            fabric=fabric, peers=peers, name=None, output=Form(output), config=config, identity=identity
        )
        command(*args, looking=Looking(settings, lan=lan), **rest)

    return wrapped
