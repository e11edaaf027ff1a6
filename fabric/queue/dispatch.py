"""Dispatch: what waits in a queue becomes DATA frames on the links that may take it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from peerfabric.link.link import Link, Sent
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Run
from peerfabric.wire.batch import join
from peerfabric.wire.frames import ALONE, DURABLE, Data, Extra, encode_frame


class Candidate:
    """A link that could take messages of one queue now."""

    __slots__ = ("bytes", "link", "messages", "outstanding")

    def __init__(self, link: Link, messages: int, size: int, outstanding: int) -> None:
        self.link, self.messages, self.bytes, self.outstanding = link, messages, size, outstanding


def candidates(end: OutgoingQueue, links: Mapping[str, Link]) -> list[Candidate]:
    """The links with credit for this queue and room in their pipe."""
    found = []
    for holder in end.consumers:
        link = links.get(holder)
        if link is None or not link.has_room():
            continue
        messages, size = link.credit(end.queue).available()
        outstanding = end.held_by(holder)
        if messages < 1 or (size < 1 and outstanding):
            continue  # the byte limit never forbids the only outstanding message
        found.append(Candidate(link, messages if size >= 1 else 1, max(1, size), outstanding))  # see `pick`
    return found


def choose(end: OutgoingQueue, able: list[Candidate]) -> tuple[Candidate, int, int]:
    """The link with the least outstanding work, and how many messages and bytes it should get in one frame.

    What waits is shared evenly among those who could take it: so a handful of slow jobs spreads one by one,
    while a backlog of fast ones leaves in frames of full size.
    """
    best = min(able, key=lambda candidate: candidate.outstanding)
    share = -(-end.waiting_count // len(able))
    return best, min(best.messages, share), best.bytes


def data_frames(end: OutgoingQueue, links: Mapping[str, Link]) -> Iterator[tuple[int, list[bytes]]]:
    """Everything of this queue that should leave now, as (wire, frames).

    A wire may refuse one before the next is made.
    """
    able = candidates(end, links)
    while able and end.waiting_count:
        best, messages, size = choose(end, able)
        body_max = best.link.frame_bytes_max - 1024
        run = end.pick(best.link.holder, messages, size, body_max)
        if run is None:
            able.remove(best)
            continue
        yield best.link.wire, data_frame(best.link, end, run)
        best.messages -= len(run.bodies)
        best.bytes -= run.cost
        best.outstanding += len(run.bodies)
        if best.messages < 1 or best.bytes < 1 or not best.link.has_room():
            able.remove(best)


def data_frame(link: Link, end: OutgoingQueue, run: Run) -> list[bytes]:
    """Put `run` in flight at the peer of `link`, and return the frame that carries it there."""
    credit = link.credit(end.queue)
    credit.spend(len(run.bodies), run.cost, outstanding=end.held_by(link.holder))
    end.sent(link.holder, run)
    echo = link.in_number
    number = link.next_number()
    body, codec = join(run.bodies, end.codec if run.codec is None else run.codec)
    stream, sequence = end.numbering.name(run.first)
    data = Data(
        link.out_id,
        number,
        echo,
        stream,
        end.queue,
        sequence,
        len(run.bodies),
        end.numbering.floor(stream, end.safe_floor),
        run.attempt,
        codec,
        (ALONE if run.solo else 0) | (DURABLE if end.backlog is not None else 0),
        run.sent_ms,
        end.waiting_for(link.holder),
        credit.sent_messages,
        credit.sent_bytes,
        link.acks_settled,
    )
    if run.extras:
        data.extras = [Extra(n - run.first, e.headers, e.origin) for n, e in sorted(run.extras.items())]
    link.data_sent(Sent(number, run.cost, end.queue, run.first, run.stop))
    return [encode_frame(data), body]
