"""Running: one call whose handler runs in a thread or task, and what its own calls ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from peerfabric.errors import Cancelled
from peerfabric.nodes.io.waiting import Waiter, clock

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall


class Pool(Protocol):
    """The threads or tasks of one service."""

    def rest(self, call: ServedCall) -> None:
        """The handler of `call` waits: another one may run meanwhile."""

    def resume(self, call: ServedCall) -> None:
        """It goes on."""


class Running:
    """The `answering` of the thread or task in which the handler runs, and of whatever copies its context."""

    __slots__ = ("_pool", "_waits", "call", "depth", "ends_at", "over", "stop", "waiters")

    def __init__(self, pool: Pool, call: ServedCall) -> None:
        self._pool, self.call = pool, call
        self.ends_at, self.depth = call.ends_at, call.depth
        self.over = False
        """The handler has returned; what it has started besides may still run, and is bound by nothing: `ends_at` is
        inf by then."""
        self.waiters: list[Waiter] = []
        """How it waits now, in the calls of ours that it makes, or for room for its next part."""
        self._waits = 0
        self.stop: Callable[[], object] | None = None
        """Of a task: ends it, when nobody waits for the reply any more."""

    def check(self) -> None:
        """Refuse what waits.

        Raises:
            Cancelled: Nobody waits for the reply any more.
        """
        if not self.over and (self.call.cancelled or clock() >= self.ends_at):
            raise Cancelled

    def rest(self, waiter: Waiter) -> None:
        """It waits by `waiter`. What it has started besides may wait at the same time."""
        if self.over:
            return
        self.waiters.append(waiter)
        self._waits += 1
        if self._waits == 1:
            self._pool.rest(self.call)

    def resume(self, waiter: Waiter) -> None:
        """That wait is over."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            return  # it had returned before that began
        self._waits -= 1
        if not self._waits and not self.over:
            self._pool.resume(self.call)

    def wake(self) -> None:
        """Let it look again, wherever it waits: it is cancelled, or may send another part."""
        for waiter in list(self.waiters):
            waiter.wake()
        if self.stop is not None and self.call.cancelled:
            self.stop()
