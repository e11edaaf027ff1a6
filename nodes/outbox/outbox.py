"""Outbox of one producer: what is accepted and not yet taken by the pump, and how much more may be.

Any thread puts messages in, and the pump takes them out once a turn, in the order of their sequences. Ctrl-C comes
after calls only, so what changes together stands without one in between: either all of it has happened or nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeVar

from peerfabric.discovery.locks import Lock
from peerfabric.engine import Engine
from peerfabric.errors import NodeClosed, QueueFull, TimedOut
from peerfabric.nodes.handler_context import Patience
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.io.waiting import Gate, wait_until
from peerfabric.options import MiB
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import MESSAGE_OVERHEAD, Kind, joins
from peerfabric.receipt import Receipt
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import Extra

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.taps import Taps

R = TypeVar("R")

HANDOVER_BYTES_MAX: Final = 1 * MiB
"""What may wait for the pump. A sender that is faster waits until its turn has ended. Otherwise the interpreter's lock,
which the pump needs back after each call of ZeroMQ, would come to it once in 5 ms only."""
LARGE_HANDOVER: Final = 16
"""Messages that may wait for the pump however large they are: what an ACK makes room for, in a stream of them."""
UNDERWAY_MUCH: Final = 8 * MiB
"""With so much handed over and not yet settled, what follows has to wait its turn anyway, and is not urgent."""


CLOSED: Final = "this producer is closed; node.producer({!r}, …) opens it again"


class Progress:
    """How many messages of one call are accepted, and in `ranges`, if that is asked for, with which sequences."""

    __slots__ = ("accepted", "ranges")

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self.accepted = 0
        self.ranges = ranges


class Bodies:
    """Consecutive messages of one kind: what some have besides a body, and whether only memory has them though there is
    a spool."""

    __slots__ = ("bodies", "extras", "kind", "volatile")

    def __init__(
        self, bodies: list[bytes], extras: dict[int, Extra] | None, kind: Kind | None, *, volatile: bool
    ) -> None:
        self.bodies, self.extras, self.kind, self.volatile = bodies, extras, kind, volatile


class Retry:
    """A dead letter to be sent again, in its place among the sends."""

    __slots__ = ("letter",)

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter


Segment = Bodies | Retry | int
"""Something to hand over; a number is of messages that were accepted and dropped at once."""


class Outbox:
    """The handle of a producer as the pump sees it, and the way of its messages into memory.

    Args:
        node: Whose pump takes what is put in.
        encode: Makes bytes of a body.
        queue: For errors.
        on_full: What to do when memory is full.
        buffer_bytes: What may be accepted and not settled, in bytes.
        gate: Opened when there may be more room.
    """

    spooled = False
    """The disk has room for what memory has not."""

    def __init__(
        self,
        node: NodeContext,
        encode: Callable[[Any], bytes],
        queue: str,
        on_full: str,
        buffer_bytes: int,
        gate: Gate,
    ) -> None:
        self.alerted = False
        self.end: OutgoingQueue = None  # type: ignore[assignment]  # until the node starts
        self.count = 0
        """The sequence of the newest message that is accepted."""
        self._letters = 0
        """How many retried letters were put in."""
        self.volatile = False
        """Of `on_full="spool"`: what is put in stays in memory."""
        self._node = node
        self._encode = encode
        self.queue, self._on_full, self._buffer_bytes = queue, on_full, buffer_bytes
        self._gate = gate
        self._lock = Lock()
        self._open = False
        self.retired = False
        """Its producer is closed, or about to be."""
        self._stream = ""
        self._bodies: list[bytes] = []
        self._extras: dict[int, Extra] | None = None
        self._kind: Kind | None = None
        """Of the messages in `_bodies`."""
        self._segments: list[Segment] = []
        # room = bytes that may be accepted without looking; it was room_at when accepted and handed were counted
        self._room = self._room_at = 0
        self._accepted_cost = self._pending_cost = self._taken_cost = 0
        self._lacking = 0
        """The smallest that found no room, or 0."""
        self.blocked: set[object] = set()
        """Something of each call that waits for room. A set, as that changes in one step of the interpreter."""

    @property
    def is_open(self) -> bool:
        """Whether something may be accepted."""
        return self._open

    def open(self) -> None:
        """The node has started, and `end` is there."""
        self._stream = self.end.stream
        self.count = self.end.next - 1 - self.end.numbering.base
        self._open = True

    def retire(self) -> None:
        """The producer is closed: nothing more is accepted. What another thread is just sending is, or is not."""
        self.retired = True
        self.close()
        self.finish_underway()

    def finish_underway(self) -> None:
        """Return when what another thread was just storing is handed over."""

    def reopen(self) -> None:
        """More is accepted after `retire`."""
        self.retired, self._open = False, bool(self._stream)

    def close(self) -> None:
        """Nothing is accepted any more."""
        with self._lock:
            self._open = False
            self._recount()
            self._room = self._room_at = 0  # so that the quick way, which looks at this only, is closed too
        self._gate.open()

    def ensure(self) -> None:
        """Refuse a call that would send.

        Raises:
            NodeClosed, ForkedNode, WrongLoop: The node, or this producer, is closed, or as they say.
        """
        self._node.ensure()
        if self.retired:
            raise NodeClosed(text=CLOSED.format(self.queue))

    def seal(self) -> None:
        """After `close`: return when also what another thread was just storing is handed over."""

    def disk_ended(self) -> None:
        """The node is closed, and its disk's thread has ended: nothing more is stored."""

    def forked(self) -> None:
        """In a child process, where another thread of the parent may hold a lock for ever."""
        self._lock = Lock()
        self.close()

    @property
    def idle(self) -> bool:
        """Whether no messages are on their way to the disk."""
        return True

    def is_stored(self, number: int) -> bool:
        """Whether the message of that number, which is not settled, is or will be on disk."""
        return False

    @property
    def last(self) -> int:
        """The number of the newest message that is accepted, retried letters included."""
        return self.end.numbering.base + self.count

    def so_far(self) -> tuple[int, int]:
        """`last`, and how many of those were retried letters, at one instant."""
        with self._lock:
            return self.last, self._letters

    # The pump's side

    def hand_over(self, engine: Engine, now: float) -> None:
        """Give the engine what was put in. The caller holds its lock. What it fails to take stays here."""
        with self._lock:
            self._close_segment()
            segments, self._segments = self._segments, []
            self._recount()
            self._taken_cost = self._pending_cost
        sent_ms = time.time_ns() // 1_000_000
        given = 0
        try:
            for segment in segments:
                match segment:
                    case int():
                        self.end.accept_dropped(segment)
                    case Retry():
                        self.end.retry(segment.letter)
                    case Bodies():
                        engine.producers.accept(
                            self.end,
                            segment.bodies,
                            sent_ms,
                            segment.extras,
                            volatile=segment.volatile,
                            kind=segment.kind,
                        )
                        if self._node.taps is not None:
                            self._show(self._node.taps, segment, sent_ms)
                given += 1
        finally:
            if given < len(segments):
                with self._lock:
                    self._segments[:0] = segments[given:]
        watch = self.end.watch
        if watch is not None and watch.fresh:  # of another node of this process
            engine.producers.touched[self.end] = None

    def _show(self, taps: Taps, accepted: Bodies, sent_ms: int) -> None:
        """Somebody looks at what is accepted."""
        end = self.end
        first = end.next - len(accepted.bodies)

        def named(index: int) -> dict[str, str]:
            return {"id": "{}/{}".format(*end.numbering.name(first + index))}

        taps.accepted("queue", end.queue, accepted.bodies, accepted.extras, end.codec, sent_ms, named)

    def handed_over(self) -> None:
        if self._node.taps is not None:
            self._node.taps.flush()
        with self._lock:
            self._recount()
            self._pending_cost -= self._taken_cost
            self._taken_cost = 0
            self._make_room()
            helps = self.spooled or self._on_full != "block"
            if not helps and self._lacking:  # a sender that waits for acks, and not for us, is woken by those alone
                helps = self._has_room(self._lacking)
        if helps:
            self.changed()

    def changed(self) -> None:
        """There may be room again, or something else that calls wait for."""
        self._lacking = 0  # whoever still finds no room says so again
        self._gate.open()

    def alert(self) -> None:
        """There is something to hand over, for which somebody waits."""
        self._node.pump.wake(self)

    def alert_if_urgent(self) -> None:
        """There is something to hand over.

        It is urgent if somebody consumes, or if little more has room, unless much is under way before it, and only acks
        make room.
        """
        underway = self._accepted_cost - self._pending_cost - self.end.released_cost
        settles = underway < UNDERWAY_MUCH or self.spooled
        if settles and (self.end.consumers or self._room < HANDOVER_BYTES_MAX // 2):
            self._node.pump.wake(self)
        else:
            self._node.pump.wake_soon(self)

    # Room

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes, all counted, may be put in now; only the caller puts any in meanwhile."""
        if size <= self._room:
            return True
        with self._lock:
            return self._has_room(size)

    def _has_room(self, size: int) -> bool:
        """Look again, closely. The caller holds the lock."""
        if not self._open:
            return False
        self._recount()
        self._make_room()
        if size > self._room:
            held = self._accepted_cost - self.end.released_cost
            # One message is always allowed: a limit below its size would mean never. A few large ones may wait for
            # the pump, so that it need not wait for them.
            fits = self.spooled or held <= 0 or held + size <= self._buffer_bytes
            if fits and not self._is_full(size):
                self._room = self._room_at = size
        if size > self._room:
            self._lacking = min(size, self._lacking or size)
            return False
        return True

    def _is_full(self, size: int) -> bool:
        """Whether the pump must come before `size` bytes more may wait for it. The caller holds the lock."""
        return self._pending_cost + size > max(HANDOVER_BYTES_MAX, LARGE_HANDOVER * size)

    def what_fits(self, encoded: list[bytes], start: int) -> tuple[list[bytes], int]:
        """What there is room for from `start` on, and what it costs."""
        with self._lock:
            return self._what_fits(encoded, start)

    def _what_fits(self, encoded: list[bytes], start: int) -> tuple[list[bytes], int]:
        if not self._open:
            return [], 0
        self._recount()
        self._make_room()
        # As many as fit if all are like the next one; counted exactly below.
        likely = self._room // (len(encoded[start]) + MESSAGE_OVERHEAD) if start < len(encoded) else 0
        part = encoded[start : start + max(1, likely)]
        total = sum(map(len, part)) + MESSAGE_OVERHEAD * len(part)
        if total > self._room:
            costs = list(accumulate(len(data) + MESSAGE_OVERHEAD for data in part))
            count = bisect_right(costs, self._room)
            if count == 0 and part and self._has_room(costs[0]):
                count = 1
            part = part[:count]
            total = costs[count - 1] if count else 0
        return part, total

    def _recount(self) -> None:
        spent = self._room_at - self._room
        self._accepted_cost += spent
        self._pending_cost += spent
        self._room_at = self._room

    def _make_room(self) -> None:
        """Work out how much may be accepted now. The caller holds the lock and has recounted."""
        room = HANDOVER_BYTES_MAX - self._pending_cost
        if not self.spooled:  # with a spool the disk has room for what memory has not
            held = self._accepted_cost - self.end.released_cost
            room = min(self._buffer_bytes - held, room)
        self._room = self._room_at = max(0, room) if self._open else 0

    def overflow(self, size: int) -> Receipt | None:
        """Do what `on_full` says when memory has no room; return the receipt of a message that was dropped at once.

        None: wait.

        Raises:
            QueueFull: `on_full="error"`, or nothing is waiting that could be dropped.
            SystemExit: It would wait, and a signal says that the node ends.
        """
        if self._on_full == "drop_oldest":
            with self._node.pump.lock:  # which comes before ours
                return self._overflow(size)
        return self._overflow(size)

    def _overflow(self, size: int) -> Receipt | None:
        with self._lock:
            if self._has_room(size):  # since the caller looked
                self._gate.open()
                return None
            if not self._open:
                return None
            if self._pending_cost and (self._on_full != "block" or self._is_full(size)):
                # Only the hand-over is full, or what could be dropped is still in it: the pump is about to come.
                self._node.pump.wake(self)
                return None
            match self._on_full:
                case "block":
                    self._node.ending.check()
                    return None
                case "drop_newest":
                    self._close_segment()
                    self._segments.append(1)
                    self.count += 1
                    receipt = Receipt(self._stream, self.count)
                case "drop_oldest":
                    freed = self.end.drop_oldest(size)
                    if freed < size and not self._has_room(size):
                        raise QueueFull(self.queue, self._buffer_bytes)
                    self._gate.open()  # for this very caller: there is room now
                    return None
                case _:
                    raise QueueFull(self.queue, self._buffer_bytes)
        self._node.pump.wake(self)
        return receipt

    # Putting in

    def try_send(self, body: Any, headers: dict[str, str] | None, kind: Kind | None = None) -> Receipt | None:
        """Accept `body` if there is room; None: there is none, and nothing was accepted.

        Raises:
            EncodeError: It cannot be sent.
        """
        data = self._encode(body)
        size = len(data) + MESSAGE_OVERHEAD
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            if size > self._room and not self._has_room(size):
                return None
            if kind is not self._kind:
                self._turn_to(kind)
            if extra is not None:
                self._add_extra(extra)
            # With a call at the end, either all of this has happened or nothing.
            self._room -= size
            self.count = sequence = self.count + 1
            self._bodies.append(data)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        if not self.alerted or self._room < HANDOVER_BYTES_MAX // 2:
            self.alert_if_urgent()
        return Receipt(self._stream, sequence)

    def try_extend(self, encoded: list[bytes], progress: Progress, kind: Kind | None = None) -> None:
        """As `extend`; if there is no space on disk for which is waited, nothing is accepted."""
        self.extend(encoded, progress, kind)

    def extend(self, encoded: list[bytes], progress: Progress, kind: Kind | None = None) -> None:
        """Accept what there is room for of those that are not accepted yet."""
        with self._lock:
            part, total = self._what_fits(encoded, progress.accepted)
            count = len(part)
            if kind is not self._kind:
                self._turn_to(kind)
            # No call in these: Ctrl-C comes before or after.
            self._room -= total
            self.count += count
            self._bodies += part
            progress.accepted += count
            if progress.ranges is not None:
                progress.ranges.append((self.count - count + 1, self.count + 1))
        if part:
            self.alert_if_urgent()

    async def send_when_room(
        self, body: Any, headers: dict[str, str] | None, patience: Patience, kind: Kind | None = None
    ) -> Receipt:
        """Accept `body` as soon as there is room.

        Raises:
            QueueFull, NodeClosed, SystemExit: It is not accepted.
        """
        size = len(self._encode(body)) + MESSAGE_OVERHEAD

        def attempt() -> Receipt | None:
            self.ensure()
            return self.try_send(body, headers, kind) or self.overflow(size)

        return await self._wait_for_room(attempt, patience)

    async def extend_when_room(
        self, encoded: list[bytes], progress: Progress, patience: Patience, kind: Kind | None = None
    ) -> None:
        """Accept some more of those that are not accepted yet, as soon as there is room.

        Raises:
            QueueFull, NodeClosed, SystemExit: No more of them are accepted.
        """

        def attempt() -> bool | None:
            self.ensure()
            before = progress.accepted
            self.extend(encoded, progress, kind)
            if progress.accepted == before:
                if self.overflow(len(encoded[before]) + MESSAGE_OVERHEAD) is None:
                    return None
                progress.accepted += 1
            return True

        await self._wait_for_room(attempt, patience)

    async def _wait_for_room(self, attempt: Callable[[], R | None], patience: Patience) -> R:
        def what() -> str:
            consumers = len(self.end.consumers)
            return (
                f"queue {self.queue!r}: its buffer of {self._buffer_bytes:,} bytes is full and {consumers} "
                f"consumers are known; start consumers, or raise buffer_bytes="
            )

        try:
            self.blocked.add(attempt)
            return await wait_until(self._node.waiting, self._gate, attempt, patience.left, what)
        except TimedOut:
            raise QueueFull(self.queue, self._buffer_bytes, waited=patience.limit) from None
        finally:
            self.blocked.discard(attempt)

    def finish_interrupted(self, progress: Progress) -> None:
        """The call of `progress` was interrupted: what it has accepted is counted."""

    def put_many(
        self, bodies: list[bytes], total: int, extra: Extra | None, progress: Progress, kind: Kind | None
    ) -> int:
        """Accept messages that have room; return the sequence of the last. `extra` is of the first."""
        with self._lock:
            count = len(bodies)
            if kind is not self._kind:
                self._turn_to(kind)
            if extra is not None and count:
                self._add_extra(extra)
            # No call in these: Ctrl-C comes before or after.
            self._room -= total
            self.count += count
            self._bodies += bodies
            progress.accepted += count
            if progress.ranges is not None:
                progress.ranges.append((self.count - count + 1, self.count + 1))
            return self.count

    def retry(self, letter: DeadLetter) -> None:
        """Send a dead letter that was taken again, in order with the other sends.

        Raises:
            NodeClosed: The node closes; the letter is back in its place.
            SpoolError: The disk did not take it; the letter is back in its place.
        """
        if not self._put_letter(letter, counted=False):
            self._restore(letter)
            raise NodeClosed

    def _put_letter(self, letter: DeadLetter, *, counted: bool) -> bool:
        """Send a dead letter again, unless the node closes; it may be counted, as it is stored."""
        with self._lock:
            if not (self._open or counted):
                return False
            self._close_segment()
            self._segments.append(Retry(letter))
            self.count += not counted
            self._letters += 1
        self.alert()
        return True

    def _restore(self, letter: DeadLetter) -> None:
        with self._node.pump.lock:
            self.end.restore_dead_letter(letter)

    def drop(self, identity: str) -> None:
        """A dead letter was dropped: take it off the disk.

        Raises:
            SpoolError: It is there still, and comes back at a restart.
        """

    def _add_extra(self, extra: Extra | None) -> None:
        """What the message has that is put into `_bodies` next. One that is interrupted leaves it to be replaced."""
        at = len(self._bodies)
        if self._extras is None:
            self._extras = {}
        self._extras[at] = extra  # type: ignore[assignment]

    def _turn_to(self, kind: Kind | None) -> None:
        """What is put into `_bodies` next is of `kind`. The caller holds the lock."""
        if not self._bodies:
            self._kind = kind
        elif not joins(self._kind, kind):
            self._close_segment()
            self._kind = kind

    def _close_segment(self) -> None:
        if self._bodies:
            self._segments.append(Bodies(self._bodies, self._extras, self._kind, volatile=self.volatile))
            self._bodies, self._extras = [], None
