"""`peerfabric ping`: round trips with one peer, over the link that messages take."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import click
import msgspec

from peerfabric.discovery.resolving import addresses_of, endpoint_of, is_numeric
from peerfabric.errors import TimedOut
from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, joins_fabric, timeout_option
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.exits import Exit, Failure, at_the_terminal
from peerfabric.nodes.cli.host.completion import nodes_there
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json

ANSWER_MAX: Final = 2.0
"""Seconds after which a question counts as lost: a peer that is silent for so long is suspect."""


class Trips(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips with one peer, in milliseconds."""

    peer: str
    answers: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@click.command()
@click.argument("peer", shell_complete=nodes_there)
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="How many.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=0.2,
    show_default=True,
    help="The pause between them.",
)
@timeout_option("5", "To wait for a link with the peer; 'none': for ever.")
@joins_fabric
def ping(peer: str, count: int, interval: float, timeout: float | None, settings: Settings) -> None:
    """Measure round trips with PEER: a node's name, its id, or HOST:PORT where it listens.

    They take the way of messages: over the link, through the I/O threads of both processes. If some stay without an
    answer it is exit code 1, and 3 without any link.
    """
    names, endpoints = _meant(peer)
    with settings.node(*endpoints) as node:
        try:
            found = _first(node, names, timeout)
        except TimedOut as error:
            near = did_you_mean(peer, (each.name for each in node.peers()))
            if not near:
                raise
            raise Failure(f"{at_the_terminal(str(error))}{near}", Exit.NOTHING) from None
        trips: list[float] = []
        lost = 0
        for number in range(count):
            if number:
                time.sleep(interval)
            try:
                trips.append(node.ping(found, ANSWER_MAX) * 1e3)
            except TimedOut:
                lost += 1
                _say(settings, f"{printable(peer)}: no answer in {ANSWER_MAX:g} s")
            else:
                _say(settings, f"{printable(peer)}: {trips[-1]:.2f} ms")
    if not trips:
        raise Failure(f"{peer!r} answered none of {lost:,}; see `peerfabric doctor`", Exit.NOTHING)
    _print(summary(peer, trips, lost), settings.output)
    if lost:
        raise Failure(f"{lost:,} of {count:,} were not answered in {ANSWER_MAX:g} s; see `peerfabric doctor`")


def _meant(peer: str) -> tuple[list[str], list[str]]:
    """What PEER may be called by `Node.ping`, and the endpoints to dial for it.

    Raises:
        Failure: It is a host that nobody knows, or has no port.
    """
    if peer.startswith("ipc://"):
        return [peer], [peer]
    host, colon, port = peer.removeprefix("tcp://").rpartition(":")
    if is_numeric(peer.removeprefix("tcp://").strip("[]")):
        raise Failure(f"{peer!r} has no port; give HOST:PORT, of the peer's inbox", Exit.USAGE)
    if not colon:
        return [peer], []
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Failure(f"{peer!r} has no port that can be; give HOST:PORT, of the peer's inbox", Exit.USAGE)
    try:
        addresses = beside(partial(addresses_of, host.strip("[]"), int(port))).result()
    except (OSError, UnicodeError) as error:
        raise Failure(f"{host!r} cannot be resolved ({error}); give an address, or see `peerfabric doctor`") from None
    endpoints = [endpoint_of(each, int(port)) for each in addresses]
    return endpoints, endpoints


def _first(node: Node, names: list[str], timeout: float | None) -> str:
    """The one of `names` with which there is a link; waits for the first answer, which no figure contains.

    Raises:
        TimedOut: None has.
    """
    ends_at = None if timeout is None else time.monotonic() + timeout
    while True:
        for name in names:
            left = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            try:
                node.ping(name, left if len(names) == 1 else min(0.25, left if left is not None else 0.25))
            except TimedOut:
                if ends_at is not None and time.monotonic() >= ends_at:
                    raise
            else:
                return name


def summary(peer: str, trips: list[float], lost: int) -> Trips:
    """The figures of `trips`, milliseconds each, of which there is at least one."""
    ordered = sorted(trips)
    at = len(ordered) - 1
    return Trips(
        peer=peer,
        answers=len(ordered),
        lost=lost,
        p50_ms=ordered[at // 2],
        p99_ms=ordered[-(-at * 99 // 100)],
        max_ms=ordered[at],
    )


def _say(settings: Settings, text: str) -> None:
    if settings.output is Form.TABLE:
        print_line(text)


def _print(trips: Trips, form: Form) -> None:
    if form is Form.JSON:
        print_line(to_json(trips))
    else:
        print_line(
            f"{trips.answers:,} answers, {trips.lost:,} lost; "
            f"p50 {trips.p50_ms:.2f} ms, p99 {trips.p99_ms:.2f} ms, max {trips.max_ms:.2f} ms"
        )
