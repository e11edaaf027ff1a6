"""Node context: where a node stands in its life, and the engine, pump, disk and settings that its parts share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from enum import Enum
from typing import TYPE_CHECKING, Any

from peerfabric.discovery.locks import Lock, Rank
from peerfabric.errors import FabricError, ForkedNode, NodeClosed, WrongLoop
from peerfabric.nodes.io.waiting import Gate, Suspending, Waiting, running_loop
from peerfabric.nodes.settings import Settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from peerfabric.engine import Engine
    from peerfabric.nodes.io.pump import Pump
    from peerfabric.nodes.signals import Ending
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.taps import Taps


class Life(Enum):
    """Where a node stands between construction and close.

    NEW ──start──▶ RUNNING ──close──▶ CLOSING ──▶ CLOSED
     └───────────────────close──────────────────────▲

    FORKED: in a child of the process in which it ran.
    """

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"
    FORKED = "forked"


class NodeContext:
    """The ground of one node. It knows nothing of handles and handlers; what it asks of them, they hand in.

    Args:
        waiting: How the calls of the node wait.
    """

    engine: Engine
    """This one and the next are there from the start on."""
    pump: Pump
    ending: Ending

    start: Callable[[], None]
    """Start the node, in this thread. This and the next three are handed in by its lifecycle."""
    start_beside: Callable[[], Coroutine[Any, Any, None]]
    """Start the node, with all that waits for the disk done beside the event loop."""
    needs_thread: Callable[[], bool]
    """Whether `start` would keep an event loop waiting for a disk."""
    is_handler: Callable[[], bool]
    """Whether it is a thread or task of a handler that asks."""

    def __init__(self, settings: Settings, waiting: Waiting) -> None:
        self.settings = settings
        self.waiting = waiting
        self.enter(Life.NEW)
        self.life_lock = Lock(Rank.LIFE)
        self.closed = Gate()
        """Opens when the node is closed."""
        self.loop: AbstractEventLoop | None = None
        """The event loop that an `AsyncNode` belongs to once it starts."""
        self.current_loop: Callable[[], AbstractEventLoop | None] = lambda: None
        """The event loop of the calling thread, once the node belongs to one."""
        self.disk: Disk | None = None
        """Of a node with a spool, when it has started."""
        self.slot: int | None = None
        """The number of its slot in the spool's folder, then."""
        self.started_at = 0.0
        self.taps: Taps | None = None
        """Of a node at whose messages somebody looks as they are accepted."""
        self.failure: FabricError | None = None
        """Why a node that was not told to close has stopped."""

    def enter(self, life: Life) -> None:
        """Go on to the next stage."""
        self.life = life
        self.is_running = life is Life.RUNNING or life is Life.CLOSING
        """Whether the pump is there; also while closing."""
        self.handing_out = self.is_running or life is Life.NEW
        """Whether consumers and subscribers may take."""
        self.is_closed = life is Life.CLOSED

    @property
    def spares_loop(self) -> bool:
        """Whether an event loop shall not wait for a disk, nor for a lock under which another thread waits for one."""
        return isinstance(self.waiting, Suspending)

    def ensure(self, *, closing: bool = False) -> None:
        """Start the node if it is new, and refuse what cannot be.

        Raises:
            NodeClosed, ForkedNode, WrongLoop: As they say; with `closing`, and for handlers that finish, a node
                that is closing will do.
            IdentityInUse: It has stopped, as another copy of it runs.
        """
        life = self.life
        if life is not Life.RUNNING:
            if life is Life.NEW:
                self.start()
            elif life is Life.FORKED:
                raise ForkedNode
            elif life is Life.CLOSED or not (closing or self.is_handler()):
                raise self.refusal()
        if self.loop is not None and self.current_loop() not in (self.loop, None):
            raise WrongLoop

    def refusal(self, what: str = "this node") -> FabricError:
        """The error of a call that comes when `what` is closed, or why the node has stopped."""
        return copy(self.failure) if self.failure is not None else NodeClosed(what)

    async def started(self, *, closing: bool = False) -> None:
        """As `ensure`; the part of a start that waits for the disk is done beside the event loop.

        Cancelled, the start is undone, unless another call waits for it, too.
        """
        while self.life is Life.NEW and self.needs_thread():
            await self.start_beside()
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

        self.current_loop = asyncio._get_running_loop
        self.loop, self.ending.starter = loop, asyncio.current_task()
