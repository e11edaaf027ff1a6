"""Served: one service at this node, with the calls that wait and run there.

A call is WAITING, then RUNNING, then ENDED: answered, or dropped if it was cancelled or the life of its link is over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from math import inf
from typing import Any, Final

from peerfabric.link.link import Link
from peerfabric.reports import ServiceAccount
from peerfabric.service.call import CALL_OVERHEAD, PARTS_AHEAD, PARTS_BYTES_AHEAD, Buffer

RESTING_MAX: Final = 64
"""Handlers beyond the capacity that may run while as many others wait in calls of ours: each may be a thread."""
MEAN_OF: Final = 8
"""The mean time of a call is that of about so many."""


class Served:
    """One service: what its handlers may start, and who waits for one of them.

    Args:
        service: Its name.
        capacity: Calls that may run at once.
        waiting_max: Calls that may wait besides, and `waiting_bytes_max` bytes of them.
        stall: Seconds for which a stream may wait for its reader.
    """

    # received = refused + dropped + answered + waiting + running + left
    # running - resting <= capacity when a call starts;  running <= capacity + RESTING_MAX;  left <= capacity

    def __init__(self, service: str, capacity: int, waiting_max: int, waiting_bytes_max: int, stall: float) -> None:
        self.service, self.capacity = service, capacity
        self.waiting_max, self.waiting_bytes_max, self.stall = waiting_max, waiting_bytes_max, stall
        self.started: deque[ServedCall] = deque()
        """Calls whose handlers are to be run; any thread may take them from the left, without a lock."""
        self.news: deque[ServedCall] = deque()
        """Running calls that were cancelled, or may send again; taken in the same way."""
        self.closed = False
        """It takes no new calls."""
        self.waiting: OrderedDict[ServedCall, None] = OrderedDict()
        self.waiting_bytes = 0
        self.running: dict[ServedCall, None] = {}
        self.left: dict[ServedCall, None] = {}
        """Cancelled ones whose handlers still run."""
        self.resting = 0
        self.received = self.refused = self.dropped = self.answered = 0
        self.mean_time = 0.05
        """Seconds that a call runs, about."""

    @property
    def load(self) -> int:
        """How many calls run and wait."""
        return len(self.running) + len(self.waiting)

    @property
    def has_slot(self) -> bool:
        """Whether another call may start."""
        running = len(self.running)
        return running - self.resting < self.capacity and running < self.capacity + RESTING_MAX

    def has_room(self, size: int) -> bool:
        """Whether another call of so many bytes may wait, or start."""
        free = max(0, self.capacity - len(self.running) + self.resting)
        waits = len(self.waiting) - free
        return waits < 0 or (waits < self.waiting_max and self.waiting_bytes + size <= self.waiting_bytes_max)

    def wait(self, call: ServedCall) -> None:
        """Let `call` wait for a slot."""
        self.waiting[call] = None
        self.waiting_bytes += call.size

    def take_waiting(self) -> ServedCall:
        """The call that has waited longest; it waits no more."""
        call, _ = self.waiting.popitem(last=False)
        self.waiting_bytes -= call.size
        return call

    def run(self, call: ServedCall, now: float) -> None:
        """The handler of `call` is to be run."""
        call.stage, call.started_at = Stage.RUNNING, now
        self.running[call] = None
        self.started.append(call)

    def ended(self, call: ServedCall, now: float) -> bool:
        """The handler of `call` has ended; whether somebody waits for what came of it."""
        wanted = call.stage is Stage.RUNNING and not call.cancelled
        if call.stage is Stage.RUNNING:
            del self.running[call]
            if call.resting:
                self.rest(call, resting=False)
            self.mean_time += (now - call.started_at - self.mean_time) / MEAN_OF
        elif call.stage is Stage.LEFT:
            del self.left[call]
        else:
            return False
        call.stage = Stage.ENDED
        if wanted:
            self.answered += 1
        else:
            self.dropped += 1
        return wanted

    def cancel(self, call: ServedCall) -> bool:
        """Nobody waits for `call` any more; whether that freed a slot."""
        call.cancelled = True
        if call.stage is Stage.WAITING:
            del self.waiting[call]
            self.waiting_bytes -= call.size
            self.drop(call)
            return False
        if call.stage is not Stage.RUNNING:
            return False
        self.news.append(call)
        if len(self.left) >= self.capacity:
            return False  # too many are left behind: it keeps its slot until it has ended
        if call.resting:
            self.rest(call, resting=False)
        del self.running[call]
        call.stage = Stage.LEFT
        self.left[call] = None
        return True

    def drop(self, call: ServedCall) -> None:
        """`call`, which waited, is not run."""
        call.stage = Stage.ENDED
        self.dropped += 1

    def rest(self, call: ServedCall, *, resting: bool) -> None:
        """The handler of `call` needs no slot, or needs one again."""
        if call.stage is Stage.RUNNING and call.resting is not resting:
            call.resting = resting
            self.resting += 1 if resting else -1

    def retry_ms(self, jitter: float) -> int:
        """When there is probably room again; `jitter` is in [0, 1)."""
        return max(1, int(1000 * len(self.waiting) * self.mean_time / self.capacity * (0.5 + jitter)))

    def account(self) -> ServiceAccount:
        """Counters and depths."""
        return ServiceAccount(
            service=self.service,
            received=self.received,
            refused=self.refused,
            dropped=self.dropped,
            answered=self.answered,
            waiting=len(self.waiting),
            running=len(self.running),
            left=len(self.left),
            capacity=self.capacity,
        )

    def check(self) -> None:
        """Assert the invariants."""
        ended = self.refused + self.dropped + self.answered
        assert self.received == ended + len(self.waiting) + len(self.running) + len(self.left), "a call is unaccounted"
        assert self.resting == sum(call.resting for call in self.running), "resting calls"
        assert self.waiting_bytes == sum(call.size for call in self.waiting), "bytes of waiting calls"
        assert len(self.running) <= self.capacity + RESTING_MAX, "too many calls run"
        assert len(self.left) <= self.capacity, "too many calls are left behind"
        for stage, calls in ((Stage.WAITING, self.waiting), (Stage.RUNNING, self.running), (Stage.LEFT, self.left)):
            for call in calls:
                assert call.stage is stage, "a call is in two places"
                assert call.sent_parts <= call.allowed_parts, "more parts than the caller allows"


class Stage(Enum):
    """Where a call stands at its server."""

    WAITING = "waiting"
    RUNNING = "running"
    LEFT = "left"  # cancelled, and its handler still runs; its slot is free
    ENDED = "ended"


class ServedCall:
    """One call that a service of this node got. The machine alone writes it, under the engine's lock.

    Threads of handlers read `cancelled`, `may_send` and what came with it without one.
    """

    # sent_parts <= allowed_parts;  sent_bytes <= allowed_bytes, and one part

    __slots__ = (
        "allowed_bytes",
        "allowed_parts",
        "body",
        "cancelled",
        "codec",
        "depth",
        "ends_at",
        "headers",
        "id",
        "link",
        "owner",
        "resting",
        "sent_bytes",
        "sent_parts",
        "served",
        "size",
        "stage",
        "started_at",
        "stream",
    )

    def __init__(
        self,
        served: Served,
        link: Link,
        number: int,
        body: Buffer,
        codec: int,
        ends_at: float,
        depth: int,
        headers: dict[str, str] | None,
        *,
        stream: bool,
    ) -> None:
        self.served, self.link, self.id, self.body, self.codec = served, link, number, body, codec
        """`body` is a frame body with one element: `Codec.decode_batch(call.body, call.codec)[0]`."""
        self.ends_at = ends_at
        """When nobody waits for it any more, by the driver's clock; inf: its caller waits for as long as it lives."""
        self.depth, self.headers, self.stream = depth, headers, stream
        self.size = len(body) + CALL_OVERHEAD
        self.stage = Stage.WAITING
        self.cancelled = False
        """Nobody waits for the answer: the caller has said so, is gone, or lets a stream stall."""
        self.resting = False
        """Its handler waits in a call of ours, and needs no slot."""
        self.started_at = inf
        self.allowed_parts, self.allowed_bytes = (PARTS_AHEAD, PARTS_BYTES_AHEAD) if stream else (0, 0)
        self.sent_parts = self.sent_bytes = 0
        self.owner: Any = None
        """Whatever the edge wants to find with it."""

    @property
    def caller_id(self) -> str:
        """The node id of who asks."""
        return self.link.node_id

    @property
    def caller_name(self) -> str:
        """The name of who asks, for people."""
        return self.link.name

    @property
    def may_send(self) -> bool:
        """Whether the caller allows another part."""
        return self.sent_parts < self.allowed_parts and self.sent_bytes < self.allowed_bytes


__all__ = ["Served", "ServedCall", "Stage"]
