"""How a node starts: it opens what it has on disk and its sockets, makes its machines and threads, and is announced."""

from __future__ import annotations

import logging
import random
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

from peerfabric.discovery.backends import build_backends
from peerfabric.discovery.host import FabricFolder, host_id
from peerfabric.discovery.remarks import later, remark
from peerfabric.engine import Engine
from peerfabric.errors import NodeClosed
from peerfabric.nodes import process
from peerfabric.nodes.io.listening import endpoints
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.reachability import Reachability
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.io.waiting import Suspending, clock, in_event_loop
from peerfabric.nodes.life import Life
from peerfabric.nodes.membership import Membership
from peerfabric.nodes.storage.offload import beside
from peerfabric.nodes.storage.opened import Opened, epoch_counter
from peerfabric.wire.frames import HEADER_BYTES_MAX, Address

if TYPE_CHECKING:
    from asyncio import Task

    from peerfabric.nodes.context import NodeContext


class Starting:
    """The start of one node: in the thread that asks for it, or beside an event loop that a disk would keep waiting."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._task: Task[None] | None = None
        """The newest start beside the event loop."""
        self._wanted = 0
        """Calls that wait for it."""

    def start(self) -> None:
        """Open sockets, start the I/O thread, tell the world. Does nothing if the node runs.

        Whatever this raises, the node stays new, and nothing of the start is left.

        Raises:
            EndpointInUse, ConfigError: It cannot listen there, or threads are none.
            SpoolError: The spool, or a ledger, cannot be used.
            NodeClosed: The program is ending.
        """
        node = self._node
        with process.starting(), later(), node.life_lock:
            if node.life is not Life.NEW:
                return
            process.refuse_green_threads()
            if isinstance(node.waiting, Suspending):
                node.enter_loop()
            opened = self._to_open()
            try:
                opened.read(node.handles.producers, node.handles.consumers)
                self._open(opened)
            except BaseException:
                node.loop = None
                opened.close()
                raise

    def needs_thread(self) -> bool:
        """Whether starting here would keep an event loop waiting for a disk."""
        node = self._node
        return node.spares_loop and in_event_loop() and (node.settings.spool is not None or node.handles.have_ledger())

    async def start_beside(self) -> None:
        """Start, with all that waits for the disk done by another thread. Calls that come meanwhile wait for the same.

        Cancelled, the start is undone, unless another call waits for it, too.
        """
        import asyncio

        if self._task is None or self._task.done():
            process.refuse_green_threads()
            self._node.enter_loop()
            self._task = asyncio.get_running_loop().create_task(self._run_beside())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._wanted += 1
        try:
            with process.starting():
                await asyncio.shield(self._task)
        finally:
            self._wanted -= 1

    async def given_up(self) -> None:
        """The node is closed: return when a start that was under way has given back what it opened."""
        if self._task is not None and not self._task.done():
            import asyncio

            await asyncio.wait([self._task])

    async def _run_beside(self) -> None:
        import asyncio

        node, opened = self._node, self._to_open()
        name = f"{node.settings.name}-start"

        def read() -> None:
            opened.read(node.handles.producers, node.handles.consumers)

        try:
            while True:
                await beside(node.waiting, read, lambda _: opened.close(), name)
                with later(), node.life_lock:
                    if node.life is not Life.NEW:
                        raise NodeClosed
                    if not self._wanted:
                        break  # all calls that wanted it were cancelled
                    if opened.has_all(node.handles.producers, node.handles.consumers):
                        self._open(opened)
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

    def _to_open(self) -> Opened:
        settings = self._node.settings
        return Opened(settings.spool, settings.fsync, settings.options.spool_bytes)

    # What waits for no disk. The caller holds the life lock, for which everybody waits who would use the node.

    def _open(self, opened: Opened) -> None:
        """Make all the rest and set it going. If some of it fails, none of it is there, and `opened` is still open."""
        node, settings = self._node, self._node.settings
        with ExitStack() as undo:
            undo.callback(self._forget_disk)
            sockets = Sockets(
                frame_bytes_max=max(settings.options.message_bytes_max + 1024, HEADER_BYTES_MAX),
                peers_max=settings.options.peers_max,
            )
            undo.callback(sockets.close)
            address = self._bind(sockets, opened)
            self._make_machines(address, opened)
            backends = build_backends(
                fabric=settings.fabric, discovery=settings.discovery, peers=settings.peers, rng=random.Random()
            )
            node.pump = Pump(node.engine, sockets, settings.name)
            node.membership = Membership(
                address, settings.fabric, settings.options.peers_max, node.engine, node.pump, backends
            )
            self._set_going(node.membership, undo)
            home = FabricFolder(settings.fabric) if settings.listen == "auto" else None
            node.pump.look_after(Reachability(settings.name, address, sockets, home, node.membership.moved).look)
            self._begin()
            undo.pop_all()
        node.ending.listen()
        remark(logging.INFO, "%s started in fabric %s", settings.name, settings.fabric)

    def _bind(self, sockets: Sockets, opened: Opened) -> Address:
        """Listen, in a new epoch, and under a new id if no spool keeps one."""
        settings = self._node.settings
        if opened.spool is not None:
            node_id, epoch = opened.spool.node_id, opened.spool.epoch
        else:
            node_id, epoch = secrets.token_hex(8), (epoch_counter() << 20) | secrets.randbits(20)
        tcp_too = settings.discovery != "auto" and "mdns" in settings.discovery
        inbox, outbox = sockets.bind(*endpoints(settings.listen, settings.fabric, node_id, tcp_too=tcp_too))
        return Address(node_id, epoch, settings.name, host_id(), inbox, outbox)

    def _make_machines(self, address: Address, opened: Opened) -> None:
        node, settings = self._node, self._node.settings
        now = node.started_at = clock()
        node.engine = Engine(address, settings.fabric, settings.options, random.Random(), now)
        if opened.spool is not None:
            from peerfabric.nodes.storage.disk_thread import (
                Disk,  # a start without a spool does without what belongs to it
            )

            node.disk = Disk(opened.spool, node.engine.producers, settings.name)
            opened.resume(node.disk, node.engine, node.handles.producers, now)

    def _forget_disk(self) -> None:
        self._node.disk = None

    def _set_going(self, membership: Membership, undo: ExitStack) -> None:
        """Start all threads, and tell the world; what `undo` calls is prepared before each of them."""
        node, pump, disk = self._node, self._node.pump, self._node.disk
        if disk is not None:
            disk.pump, pump.disk = pump, disk
        undo.callback(process.forget, node)
        process.remember(node)
        undo.callback(pump.stop)
        pump.start()
        undo.callback(membership.leave)
        membership.join()
        undo.callback(node.handlers.give_up)
        node.handlers.start()
        if disk is not None:
            disk.start()  # the last that can fail: ending this thread would wait for the disk

    def _begin(self) -> None:
        """Let users in, all at once: of what is accepted from here on nothing could be undone, and nothing fails."""
        node, pump = self._node, self._node.pump
        with pump.lock:
            for handle in node.handles:
                handle.start(node.engine, node.started_at)
                pump.attach(handle)
            node.life = Life.RUNNING
        pump.wake()
