"""Dispatch: which link gets the next messages of a queue, and in which frames."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from math import inf
from operator import attrgetter

from peerfabric.link.link import Link
from peerfabric.link.sending import ProducerCredit, Sent
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Run
from peerfabric.wire.bodies import join
from peerfabric.wire.frames import ALONE, DURABLE, Data, Extra, encode_frame

_outstanding = attrgetter("outstanding")


class Candidate:
    """A link that could take messages of one queue now."""

    __slots__ = ("bytes", "credit", "link", "messages", "outstanding", "peer")

    def __init__(self, peer: str, link: Link, credit: ProducerCredit, outstanding: int) -> None:
        self.peer, self.link, self.credit, self.outstanding = peer, link, credit, outstanding
        self.messages, self.bytes = credit.available()


def candidates(end: OutgoingQueue, links: Mapping[str, Link], now: float) -> list[Candidate]:
    """The links with credit for this queue and room in their pipe, whose consumers do not rest."""
    found = []
    for peer in end.consumers:
        link = links.get(peer)
        if link is None or not link.has_room():
            continue
        credit = link.sending.credit(end.queue)
        if now < credit.rests_until:
            continue
        table = end.in_flight.tables.get(peer)
        able = Candidate(peer, link, credit, table.count - table.ran if table is not None else 0)
        if able.bytes < 1:  # the byte limit never forbids the only outstanding message; see `pick`
            able.messages, able.bytes = min(able.messages, 0 if able.outstanding else 1), 1
        if able.messages > 0:
            found.append(able)
    return found


def choose(end: OutgoingQueue, able: list[Candidate]) -> tuple[Candidate, int, int]:
    """The link with the least outstanding work, and how many messages and bytes it should get in one frame.

    What waits is shared evenly among those who could take it: so a handful of slow jobs spreads one by one,
    while a backlog of fast ones leaves in frames of full size.
    """
    best = min(able, key=_outstanding)
    share = -(-end.pending.count // len(able))
    return best, min(best.messages, share), best.bytes


def data_frames(
    end: OutgoingQueue, links: Mapping[str, Link], now: float
) -> Generator[tuple[int, list[bytes]], None, Sequence[Candidate]]:
    """Everything of this queue that should leave now, as (wire, frames); returned is to whom it could.

    A wire may refuse one before the next is made.
    """
    able = candidates(end, links, now)
    all_able = tuple(able)
    while able and end.pending.count:
        best, messages, size = choose(end, able)
        body_max = best.link.frame_bytes_max - 1024
        run = end.pick(best.peer, messages, size, body_max, now)
        if run is None:
            able.remove(best)
            continue
        frame = data_frame(best, end, run, now)
        best.messages -= len(run.bodies)
        best.bytes -= run.cost
        best.outstanding += len(run.bodies)
        yield best.link.wire, frame
        if best.messages < 1 or best.bytes < 1 or not best.link.has_room():
            able.remove(best)
    return all_able


def data_frame(to: Candidate, end: OutgoingQueue, run: Run, now: float) -> list[bytes]:
    """Put `run` in flight at the peer of `to`, and return the frame that carries it there."""
    link, credit, numbering = to.link, to.credit, end.numbering
    credit.spend(len(run.bodies), run.cost, outstanding=to.outstanding)
    end.sent(to.peer, run)
    echo = link.in_number
    number = link.next_number()
    body, codec = join(run.bodies, end.codec if run.codec is None else run.codec)
    if run.first > numbering.base:
        stream, sequence, floor = end.stream, run.first - numbering.base, max(1, end.safe_floor - numbering.base)
    else:
        stream, sequence = numbering.name(run.first)
        floor = numbering.floor(stream, end.safe_floor)
    data = Data(
        link.out_id,
        number,
        echo,
        stream,
        end.queue,
        sequence,
        len(run.bodies),
        floor,
        run.attempt,
        codec,
        (ALONE if run.alone else 0) | (DURABLE if end.backlog is not None else 0),
        run.sent_ms,
        end.waiting_for(to.peer) if end.pending.count else 0,
        credit.sent_messages,
        credit.sent_bytes,
        link.sending.acks_settled,
    )
    if run.extras:
        data.extras = [Extra(n - run.first, e.headers, e.origin) for n, e in sorted(run.extras.items())]
    if run.kind is not None:
        expires, data.depth = run.kind
        if expires != inf:
            data.ttl_ms = max(1, int((expires - now) * 1000))
    link.data_sent(Sent(number, run.cost, end.queue, run.first, run.first + len(run.bodies)))
    return [encode_frame(data), body]
