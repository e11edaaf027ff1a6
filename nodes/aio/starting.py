"""Start of a node beside an event loop, which must not wait for a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peerfabric.discovery.remarks import later
from peerfabric.errors import NodeClosed
from peerfabric.nodes import process
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.aio.opened import Opened
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.storage.offload import beside

if TYPE_CHECKING:
    from asyncio import Task


class StartBeside:
    """Starts one node, with all that waits for the disk done by another thread.

    Args:
        make: What is to be opened.
        go_on: Makes all the rest and sets it going. Called with the life lock held.
    """

    def __init__(
        self, node: NodeContext, handles: Handles, make: Callable[[], Opened], go_on: Callable[[Opened], None]
    ) -> None:
        self._node, self._handles, self._make, self._go_on = node, handles, make, go_on
        self._task: Task[None] | None = None
        """The newest start."""
        self._wanted = 0
        """Calls that wait for it."""

    async def start(self) -> None:
        """Start. Calls that come meanwhile wait for the same.

        Cancelled, the start is undone, unless another call waits for it, too.
        """
        import asyncio

        with process.starting():  # else the task would have begun to open files before it is refused
            if self._task is None or self._task.done():
                process.refuse_foreign_threads()
                self._node.enter_loop()
                self._task = asyncio.get_running_loop().create_task(self._run())
                self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._wanted += 1
            try:
                await asyncio.shield(self._task)
            finally:
                self._wanted -= 1

    async def given_up(self) -> None:
        """The node is closed: return when a start that was under way has given back what it opened."""
        if self._task is not None and not self._task.done():
            import asyncio

            await asyncio.wait([self._task])

    async def _run(self) -> None:
        import asyncio

        node, handles, opened = self._node, self._handles, self._make()
        name = f"{node.settings.name}-start"

        def read() -> None:
            opened.read(handles.producers, handles.consumers)

        try:
            while True:
                await beside(node.waiting, read, lambda _: opened.close(), name)
                with later(), node.life_lock:
                    if node.life is not Life.NEW:
                        raise NodeClosed
                    if not self._wanted:
                        break  # all calls that wanted it were cancelled
                    if opened.has_all(handles.producers, handles.consumers):
                        self._go_on(opened)
                        return
                    # Else handles were made meanwhile.
        except asyncio.CancelledError:
            node.loop = None  # the loop ends, and `beside` closes what it opened
            raise
        except BaseException:
            node.loop = None
            await beside(node.waiting, opened.close, None, name)
            raise
        node.loop = None
        await beside(node.waiting, opened.close, None, name)
