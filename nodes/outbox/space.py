"""Space in the spool: whether a send that was refused for lack of it waits, and when it may try again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from peerfabric.errors import QueueFull, SpoolFull, TimedOut
from peerfabric.nodes.handler_context import Patience
from peerfabric.nodes.io.waiting import Gate, wait_until

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext

R = TypeVar("R")


class Space:
    """The room in a node's spool, as the sends of one producer see it; `gate` is the producer's."""

    def __init__(self, node: NodeContext, queue: str, on_full: str, gate: Gate) -> None:
        self._node, self._queue, self._on_full, self._gate = node, queue, on_full, gate

    def is_waited_for(self, full: SpoolFull, size: int) -> bool:
        """Whether a send that was refused for `full` waits until the spool has drained, as `on_full` says.

        A disk that is full has other causes than our messages, and is nothing to wait for.
        """
        from peerfabric.spool.format import RECORD_BYTES  # it is loaded, as there is a spool

        return self._on_full == "block" and full.limit is not None and size + RECORD_BYTES <= full.limit

    async def when_free(self, size: int, patience: Patience, call: Callable[[], Awaitable[R]]) -> R:
        """What `call` returns; as long as the spool is at its limit it is made again when there may be space.

        Raises:
            SpoolFull: There is none, and `on_full` or `patience` says to wait no more.
        """
        refused: SpoolFull | None = None
        while True:
            used = self._used_bytes()
            try:
                return await call()
            except SpoolFull as full:
                if not self.is_waited_for(full, size):
                    raise
                refused = full
            except QueueFull:
                if refused is not None:  # what this call has waited for
                    raise refused from None
                raise
            await self._wait(refused, size, used, patience)

    async def _wait(self, full: SpoolFull, size: int, used: int, patience: Patience) -> None:
        limit = full.limit or 0

        def attempt() -> bool | None:
            nonlocal used
            self._node.ensure()
            self._node.ending.check()
            # The first look wants less to be used than before the attempt that failed. A later one, after a turn of the
            # pump, is content with what may be enough: what a record costs besides is known only when it is written.
            before, used = used, limit + 1
            return True if self._used_bytes() + size <= limit and self._used_bytes() < before else None

        def what() -> str:
            return (
                f"queue {self._queue!r}: the spool is at its limit of {limit:,} bytes; "
                f"start consumers so that it drains, or raise Options(spool_bytes=)"
            )

        # The space may be freed by other queues. After writing cursors the disk's thread lets the pump make a turn.
        turned, relay = self._node.pump.turned, _Relay(self._gate)
        turned.enter(relay)
        try:
            await wait_until(self._node.waiting, self._gate, attempt, patience.left, what)
        except TimedOut:
            raise full from None
        finally:
            turned.leave(relay)

    def _used_bytes(self) -> int:
        return self._node.disk.spool.used_bytes if self._node.disk is not None else 0


class _Relay:
    """Opens a gate each time another one opens."""

    def __init__(self, gate: Gate) -> None:
        self.wake = gate.open
