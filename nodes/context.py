"""A node as its own parts see it: where it stands between construction and close, and what it has while it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from peerfabric.discovery.locks import Lock, Rank
from peerfabric.engine import Engine
from peerfabric.errors import ForkedNode, NodeClosed, Undelivered, WrongLoop
from peerfabric.nodes.closing import Closing
from peerfabric.nodes.handlers import Handlers
from peerfabric.nodes.handles import Handles
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.waiting import Blocking, Suspending, Waiting, complete, running_loop
from peerfabric.nodes.life import Life
from peerfabric.nodes.membership import Membership
from peerfabric.nodes.settings import Settings
from peerfabric.nodes.signals import Ending
from peerfabric.nodes.starting import Starting

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

    from peerfabric.nodes.storage.disk_thread import Disk

_log = logging.getLogger("peerfabric")


class NodeContext:
    """What the handles of a node and its rooms share.

    Users hold the front of it, which may go before it: whatever still works for the node refers to this.

    Args:
        front: What users call it, for texts.
        waiting: How its calls wait.
    """

    def __init__(self, settings: Settings, front: str, waiting: Waiting) -> None:
        self.settings = settings
        self.waiting = waiting
        self.life = Life.NEW
        self.life_lock = Lock(Rank.LIFE)
        self.loop: AbstractEventLoop | None = None
        """The event loop that an `AsyncNode` belongs to once it starts."""
        self.starter: Task[Any] | None = None
        """The task of that loop which started it."""
        self.engine: Engine = None  # type: ignore[assignment]  # this one and the next, until it starts
        self.pump: Pump = None  # type: ignore[assignment]
        self.disk: Disk | None = None
        """Of a node with a spool, when it has started."""
        self.membership: Membership | None = None
        self.started_at = 0.0
        self.handlers = Handlers(self)
        self.handles = Handles(self)
        self.starting = Starting(self)
        self.closing = Closing(self)
        self.ending = Ending(self)
        self._front = front

    @property
    def is_running(self) -> bool:
        """Whether the pump is there; also while closing."""
        return self.life in (Life.RUNNING, Life.CLOSING)

    @property
    def handing_out(self) -> bool:
        """Whether consumers and subscribers may take."""
        return self.life in (Life.RUNNING, Life.CLOSING, Life.NEW)

    @property
    def is_closed(self) -> bool:
        return self.life is Life.CLOSED

    @property
    def spares_loop(self) -> bool:
        """Whether an event loop shall not wait for a disk, nor for a lock under which another thread waits for one."""
        return isinstance(self.waiting, Suspending)

    def ensure(self, *, closing: bool = False) -> None:
        """Start the node if it is new, and refuse what cannot be.

        Raises:
            NodeClosed, ForkedNode, WrongLoop: As they say; with `closing`, and for handlers that finish, a node
                that is closing will do.
        """
        life = self.life
        if life is not Life.RUNNING:
            if life is Life.NEW:
                self.starting.start()
            elif life is Life.FORKED:
                raise ForkedNode
            elif life is Life.CLOSED or not (closing or self.handlers.is_current()):
                raise NodeClosed
        if self.loop is not None and running_loop() not in (self.loop, None):
            raise WrongLoop

    async def started(self, *, closing: bool = False) -> None:
        """As `ensure`; the part of a start that waits for the disk is done beside the event loop.

        Cancelled, the start is undone, unless another call waits for it, too.
        """
        while self.life is Life.NEW and self.starting.needs_thread():
            await self.starting.start_beside()
        self.ensure(closing=closing)

    def enter_loop(self) -> None:
        """Belong to the event loop of this thread.

        Raises:
            WrongLoop: There is none, or the node belongs to another one.
        """
        loop = running_loop()
        if loop is None:
            raise WrongLoop("an AsyncNode starts in a running event loop; use it in a coroutine, or use Node")
        if self.loop not in (None, loop):
            raise WrongLoop
        import asyncio

        self.loop, self.starter = loop, asyncio.current_task()

    # In the life of the process

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""
        self.life = Life.FORKED
        self.life_lock = Lock(Rank.LIFE)
        for handle in self.handles:
            handle.forked()
        self.pump.abandon()
        if self.disk is not None:
            self.disk.abandon()

    def drain_at_exit(self) -> None:
        """The program is over, and its event loop if it had one: closing blocks the thread."""
        self.waiting = Blocking()
        self.loop = None
        try:
            complete(self.closing.close(self.settings.options.drain_timeout))
        except Undelivered as undelivered:
            _log.error("%s", undelivered)

    def __repr__(self) -> str:
        return f"<{self._front} {self.settings.name} in {self.settings.fabric}: {self.life.value}>"
