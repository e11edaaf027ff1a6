"""Control frames on their way out: numbered, queued on their links, held back while a socket takes no more.

A link is *due* when it may have something to say besides DATA. Frames get their numbers as they are queued, so they
leave in that order, and DATA is made for a link only when none of them waits there (`Link.has_room`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from peerfabric.link.link import Link
from peerfabric.wire.frames import (
    Ack,
    Bye,
    Cancel,
    Drain,
    Grant,
    Interest,
    More,
    Ping,
    Pong,
    Release,
    Result,
    encode_frame,
)

ACK_RANGES_MAX: Final = 4096
ACK_NACKS_MAX: Final = 256
"""Each with a text of 1,000 bytes: a header has at most 4 MiB, and a peer may read much else meanwhile."""


class Control:
    """Which links are due, what waits on them, and whose sockets are full.

    Args:
        due: Links that may have something to say, in the order in which they became due.
    """

    def __init__(self, due: dict[Link, None] | None = None) -> None:
        self.due = due if due is not None else {}
        self.blocked: set[int] = set()
        """Wires whose sockets would have blocked and are not writable yet."""

    # Who has something to say

    def note(self, link: Link) -> None:
        """`link` may have something to say."""
        self.due[link] = None

    def take_due(self) -> Iterable[Link]:
        """Those links, in the order in which they became due; from now on none is."""
        taken = list(self.due)
        self.due.clear()
        return taken

    # What it says

    def put(self, link: Link, frame: Interest | Ack | Release | Ping | Pong | More | Cancel | Drain | Bye) -> None:
        """Number a control frame and queue it on its link."""
        if not link.up:
            return
        frame.link, frame.number, frame.echo = link.out_id, link.out_number + 1, link.in_number
        header = encode_frame(frame)  # before the number is taken: one that is missing at the peer ends the link
        link.next_number()
        link.outbound.append([header])
        self.note(link)

    def put_ack(self, link: Link, results: list[Result], grants: list[Grant]) -> None:
        """Tell what became of messages, and what more may come."""
        ack = link.next_ack()
        for result in results:
            if max(len(result.done), len(result.returned), len(result.ran)) > 2 or result.nacks:
                *parts, results = list(_split(results))
                for part in parts:
                    # Only the last part confirms this ACK: until it is applied the results may be asked for again.
                    self.put(link, Ack(b"", 0, 0, ack - 1, part))
                break
        self.put(link, Ack(b"", 0, 0, ack, results, grants))

    def transmit(self, link: Link, send: Callable[[int, list[bytes]], bool]) -> None:
        """Give `send` what waits on `link`, the frame kept first, for as long as its socket takes it."""
        wire, outbound = link.wire, link.outbound
        while wire not in self.blocked:
            if link.kept is not None:
                frames, link.kept = link.kept, None
            elif outbound:
                frames = outbound.popleft()
            else:
                self.due.pop(link, None)  # `put` left it there, and all is said
                return
            if not send(wire, frames):
                self.keep(link, frames)
        self.due[link] = None

    # What sockets take

    def keep(self, link: Link, frames: list[bytes]) -> None:
        """The socket of `link` did not take `frames`: they go first once it is writable."""
        link.kept = frames
        self.blocked.add(link.wire)

    def unblock(self, wire: int) -> None:
        """The socket of `wire` takes frames again, or is not used any more."""
        self.blocked.discard(wire)


def _split(results: list[Result]) -> Iterator[list[Result]]:
    """Parts of at most 4,096 ranges and 256 nacks each, so that no ACK grows without bound."""
    step = 2 * ACK_RANGES_MAX
    for result in results:
        longest = max(len(result.done), len(result.returned), len(result.ran))
        for part in range(max(1, -(-longest // step), -(-len(result.nacks) // ACK_NACKS_MAX))):
            at, nack = part * step, part * ACK_NACKS_MAX
            yield [
                Result(
                    result.stream,
                    result.queue,
                    result.done[at : at + step],
                    result.returned[at : at + step],
                    result.nacks[nack : nack + ACK_NACKS_MAX],
                    result.ran[at : at + step],
                )
            ]
