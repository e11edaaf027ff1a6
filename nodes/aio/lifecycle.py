"""Lifecycle of one node: it starts, composes its handles and handlers, drains, parts from its peers, and shuts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar

from peerfabric.arguments import check_timeout
from peerfabric.discovery.backends import build_backends
from peerfabric.discovery.host import FabricFolder
from peerfabric.discovery.locks import Lock, OwnThread, Rank, importing, refuse_in_own_thread
from peerfabric.discovery.remarks import later, remark
from peerfabric.engine import Engine
from peerfabric.errors import IdentityInUse, SpoolError, TimedOut, Undelivered, WouldDeadlock, counted
from peerfabric.nodes import process
from peerfabric.nodes.aio import reports
from peerfabric.nodes.aio.binding import bind, curve_of
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.aio.opened import Opened
from peerfabric.nodes.aio.starting import StartBeside
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.door.fabric_status import FabricStatus
from peerfabric.nodes.handler_context import return_in_hand
from peerfabric.nodes.handlers import Handlers
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.reachability import Reachability
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.io.waiting import (
    Blocking,
    Suspending,
    Waiting,
    Working,
    clock,
    complete,
    in_event_loop,
    wait_until,
)
from peerfabric.nodes.membership import Membership
from peerfabric.nodes.message import DeadMessage
from peerfabric.nodes.settings import Settings
from peerfabric.nodes.signals import Ending
from peerfabric.nodes.storage.offload import beside
from peerfabric.reports import PeerView, ServiceView, Statistics
from peerfabric.wire.frames import HEADER_BYTES_MAX, Address

if TYPE_CHECKING:
    from peerfabric.nodes.aio.outside import Outside
    from peerfabric.nodes.rekeying import Rekeying
    from peerfabric.nodes.service.calls import Calls
    from peerfabric.nodes.service.service import Service
    from peerfabric.nodes.storage.adoption import Adoption
    from peerfabric.spool import Spool
    from peerfabric.status import InHand

F = TypeVar("F", bound=Callable[..., Any])

PARTING_MAX: Final = 1.5
DISCOVERY_TIME: Final = 1.0
"""Seconds after the start in which consumers may still turn up; a spool that nobody reads is not waited for longer."""

_log = logging.getLogger("peerfabric")


class Lifecycle:
    """Start and end of one node, and all that it is made of.

    Users hold the front of it, which may go before it.

    Args:
        front: What users call it, for texts.
        waiting: How its calls wait.
        reread: Finds the settings anew, for who may come in; None: they are always these.
        slot: Of an adopted node, number and spool of its slot, which is closed with it; None: it takes one itself.
    """

    def __init__(
        self,
        settings: Settings,
        front: str,
        waiting: Waiting,
        reread: Callable[[], Settings] | None = None,
        slot: tuple[int, Spool] | None = None,
    ) -> None:
        node = self.node = NodeContext(settings, waiting)
        self.handlers = Handlers(node)
        self.handles = Handles(node, self.handlers.of)
        self._beside = StartBeside(node, self.handles, self._to_open, self._open)
        node.start, node.start_beside, node.needs_thread = self.start, self._beside.start, self.needs_thread
        node.is_handler = self.handlers.is_current
        node.ending = Ending(
            settings.name,
            suspends=isinstance(waiting, Suspending),
            is_handler=node.is_handler,
            wake=self._wake,
        )
        self.calls: Calls | None = None
        """Of a node that has called a service."""
        self.undelivered = (0, 0)
        """What no spool keeps and was not settled when nothing counted any more: waiting, in flight."""
        self._last: Statistics | None = None
        """The statistics of that instant."""
        self._membership: Membership | None = None
        self._adoptions: list[Adoption] = []
        """Of a node that adopts orphans, when it has started: one for each folder."""
        self._slot = slot
        self.is_adopted = slot is not None
        self._reread = reread or (lambda: settings)
        self._failed = False
        """Whether the node has stopped by itself, and nobody has closed it yet."""
        self._rekeying: Rekeying | None = None
        """Of a node with a secret, when it has started."""
        self._front = front

    def __repr__(self) -> str:
        settings = self.node.settings
        return f"<{self._front} {settings.name} in {settings.fabric}: {self.node.life.value}>"

    def open_calls(self) -> Calls:
        """What the calls of the node go through, made with the first of them."""
        from peerfabric.nodes.service.calls import Calls

        with self.node.life_lock:
            if self.calls is None:
                self.calls = Calls(self.node)
        return self.calls

    def serve(
        self, service: Service[Any, Any] | str, concurrency: int | None, waiting: int | None, stall: float
    ) -> Callable[[F], F]:
        """As `AsyncNode.serve`."""
        from peerfabric.nodes.service.decorating import decorator

        return decorator(self.node, self.handlers, service, concurrency, waiting, stall)

    def services(self) -> list[ServiceView]:
        """The services that this node knows of; this starts it, unless that takes a thread."""
        node = self.node
        if node.life is Life.NEW and self.needs_thread():
            return []
        node.ensure(closing=True)
        with node.pump.lock:
            return reports.services(node)

    def _wake(self) -> None:
        """Let all calls that wait look again."""
        self.handles.changed()
        if self.calls is not None:
            self.calls.wake()
        self.node.pump.turned.open()

    def _end_calls(self, *, handlers: bool) -> None:
        """End the calls of services that programs wait for; with `handlers` those of handlers, too."""
        if self.calls is not None:
            self.calls.close(handlers=handlers)

    # In the life of the process

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""
        node = self.node
        node.enter(Life.FORKED)
        node.life_lock = Lock(Rank.LIFE)
        for handle in self.handles:
            handle.forked()
        node.pump.abandon()
        if node.disk is not None:
            node.disk.abandon()

    def drain_at_exit(self) -> None:
        """The program is over, and its event loop if it had one: closing blocks the thread."""
        node = self.node
        node.waiting = Blocking()
        node.loop = None
        try:
            complete(self.close(node.settings.options.drain_timeout))
        except (Undelivered, IdentityInUse) as error:
            _log.error("%s", error)

    # Reports

    def outside(self) -> Outside:
        """The node as others than its program see it, once it has started."""
        with importing:
            from peerfabric.nodes.aio.outside import Outside  # when somebody looks

        return Outside(self.node, self.handles, self.handlers, self._adoptions, adopted=self.is_adopted)

    def told_of(self) -> list[Any]:
        """What peers are told of: this node, and those of this process that have its settings and no peers of users."""
        mine = self.node.settings

        def is_mine(other: NodeContext) -> bool:
            settings = other.settings
            return (settings.fabric, settings.secrets) == (mine.fabric, mine.secrets)

        adopted = [each for each in process.residents() if each.is_adopted and is_mine(each.node)]
        return [self, *(each for each in adopted if each is not self)]

    def peers(self) -> list[PeerView]:
        """Every node that this one knows of; this starts it, unless that takes a thread."""
        node = self.node
        if node.life is Life.NEW and self.needs_thread():
            return []
        node.ensure(closing=True)
        with node.pump.lock:
            return node.engine.view()

    def look_at_all(self, on: bool) -> None:
        """Link with every node to see what it uses; this starts the node, unless that takes a thread."""
        node = self.node
        if node.life is Life.NEW and self.needs_thread():
            return
        node.ensure(closing=True)
        with node.pump.lock:
            node.engine.look_at_all(on, clock())
        node.pump.wake()

    def statistics(self) -> Statistics:
        """Counters and depths; of a closed node, its last ones. This starts it, unless that takes a thread."""
        node = self.node
        if node.life is Life.NEW and self.needs_thread():
            return Statistics(node_id="", name=node.settings.name)
        if node.life is not Life.CLOSED or not hasattr(node, "engine"):
            node.ensure(closing=True)
        with node.pump.lock:
            found = self._last or reports.snapshot(node, self.handles.producers)
        return reports.with_others(found, list(self._adoptions))

    async def dead_letters(self, queue: str) -> list[DeadMessage[Any]]:
        """The messages of `queue` that this node has given up, oldest first, and then those of other slots."""
        node = self.node
        await node.started(closing=True)
        found = reports.dead_letters(node, self.handles.producers, queue)
        for adoption in list(self._adoptions):
            found += await reports.dead_letters_elsewhere(node, self.handles.producers, queue, adoption)
        return found

    # Slots of processes that are gone

    def adopt(self, folder: str, limit: int, *, serves_after: float | None = None) -> Adoption:
        """Adopt the orphans of a folder while this node runs; with `serves_after` it is there for nothing else, and
        they are free for so many seconds before.

        Nothing is begun yet: `Adoption.start` does that, and closing this node ends it.
        """
        from peerfabric.nodes.aio.adopted import adoption_of  # with what only nodes with a spool need

        made = adoption_of(self.node, folder, limit, self._begin_adopted, serves_after)
        self._adoptions.append(made)
        return made

    def _adopt_orphans(self) -> None:
        """Adopt the orphans in the folder of the spool."""
        settings = self.node.settings
        options = settings.options
        if options.adopted_max:
            self.adopt(str(settings.spool), options.adopted_max).start()

    def _begin_adopted(self, slot: tuple[int, Spool], settings: Settings) -> tuple[NodeContext, Handles, Any]:
        begun = Lifecycle(settings, "adopted node", Working(), self._reread, slot)
        return begun.node, begun.handles, begun.end

    async def reload(self) -> None:
        """Read the secrets and the lists of who may come in again, and return when they are in use.

        Raises:
            ConfigError: One of them cannot be used; everything stays as it was.
        """
        node = self.node
        await node.started()
        rekeying = self._rekeying
        if rekeying is None:
            return
        name = f"{node.settings.name}-reload"
        is_done = await beside(node.waiting, rekeying.reload, None, name)
        await wait_until(
            node.waiting,
            node.pump.turned,
            lambda: is_done() or node.is_closed or None,
            None,
            lambda: "waiting for the I/O thread to use the new secrets",
        )

    # Starting: in the thread that asks for it, or beside an event loop that a disk would keep waiting

    def start(self) -> None:
        """Open sockets, start the I/O thread, tell the world. Does nothing if the node runs.

        Whatever this raises, the node stays new, and nothing of the start is left.

        Raises:
            EndpointInUse, ConfigError: It cannot listen there, or threads are none.
            SpoolError: The spool, or a ledger, cannot be used.
            NodeClosed: The program is ending.
        """
        node = self.node
        with process.starting(), later(), node.life_lock:
            if node.life is not Life.NEW:
                return
            process.refuse_foreign_threads()
            if isinstance(node.waiting, Suspending):
                node.enter_loop()
            opened = self._to_open()
            try:
                opened.read(self.handles.producers, self.handles.consumers)
                self._open(opened)
            except BaseException:
                node.loop = None
                opened.close()
                raise

    def needs_thread(self) -> bool:
        """Whether starting here would keep an event loop waiting for a disk."""
        node, settings = self.node, self.node.settings
        has_files = settings.spool is not None or settings.identity is not None or self.handles.have_ledger()
        return node.spares_loop and in_event_loop() and has_files

    def _to_open(self) -> Opened:
        return Opened(self.node.settings, self._slot)

    # What waits for no disk. The caller holds the life lock, for which everybody waits who would use the node.

    def _open(self, opened: Opened) -> None:
        """Make all the rest and set it going. If some of it fails, none of it is there, and `opened` is still open."""
        node, settings = self.node, self.node.settings
        with ExitStack() as undo:
            undo.callback(self._forget_disk)
            curve = curve_of(opened, settings)
            sockets = Sockets(
                frame_bytes_max=max(settings.options.message_bytes_max + 1024, HEADER_BYTES_MAX),
                peers_max=settings.options.peers_max,
                curve=curve,
                exposed=settings.reach == "lan",
            )
            undo.callback(sockets.close)
            address, announced = bind(sockets, opened, settings)
            sockets.self_test()
            self._make_machines(address, opened)
            node.engine.handle_digest_keys([each.key for each in opened.announce_keys], node.started_at)
            backends = build_backends(
                fabric=settings.fabric,
                discovery=settings.discovery,
                peers=settings.peers,
                keys=opened.announce_keys,
                reach=settings.reach,
                folder=settings.folder,
                interfaces=announced.multicast_at if announced is not None else None,
            )
            pump = node.pump = Pump(node.engine, sockets, settings.name)
            membership = self._membership = Membership(
                address, settings.fabric, settings.options.peers_max, node.engine, pump, backends
            )
            home = None
            if settings.listen == "auto" or settings.reach == "lan":
                home = FabricFolder(settings.fabric, opened.first_key_id)
            reachability = Reachability(
                settings.name, address, sockets, home, membership.moved, announced, membership.settle
            )
            if settings.signals:
                pump.look_after(node.ending.look)
            pump.look_after(reachability.look)
            pump.look_after(process.look_after_door)
            if node.disk is not None and self._slot is None:
                from peerfabric.nodes.storage.room_watch import RoomWatch  # with what only nodes with a spool need

                pump.look_after(RoomWatch(node.disk, node.engine, settings.options.spool_bytes).look)
            pump.on_disconnected, pump.on_superseded = reachability.disconnected, self.superseded
            if curve is not None:
                from peerfabric.nodes.rekeying import look_after_keys  # with what only nodes with a secret need

                ports = announced.ports if announced is not None else None
                self._rekeying = look_after_keys(
                    node, self._reread, opened.secrets, curve, sockets, ports, membership, reachability
                )
            self._set_going(membership, undo)
            self._begin()
            undo.pop_all()
        if settings.signals:
            node.ending.listen()
        if not self.is_adopted:
            remark(logging.INFO, "%s started in fabric %s", settings.name, settings.fabric)

    def _make_machines(self, address: Address, opened: Opened) -> None:
        node, settings = self.node, self.node.settings
        now = node.started_at = clock()
        node.engine = Engine(address, settings.fabric, settings.options, random.Random(), now)
        node.engine.pings.unix_ms = node.engine.producers.trends.unix_ms = lambda: time.time_ns() // 1_000_000
        node.engine.consumers.where = _where
        if opened.spool is not None:
            from peerfabric.nodes.storage.disk_thread import (
                Disk,  # a start without a spool does without what belongs to it
            )

            node.slot = opened.slot
            node.disk = Disk(opened.spool, node.engine.producers, settings.name)
            opened.resume(node.disk, node.engine, self.handles.producers, now)

    def _forget_disk(self) -> None:
        self.node.disk = None

    def _set_going(self, membership: Membership, undo: ExitStack) -> None:
        """Start all threads, and tell the world; what `undo` calls is prepared before each of them."""
        pump, disk = self.node.pump, self.node.disk
        if disk is not None:
            disk.pump, pump.disk = pump, disk
        undo.callback(process.forget, self)
        process.remember(self)
        undo.callback(pump.stop)
        pump.start()
        undo.callback(membership.leave)
        membership.join()
        undo.callback(self.handlers.give_up)
        self.handlers.start()
        if disk is not None and self._slot is None:
            undo.callback(self._end_adoptions)
            self._adopt_orphans()
        if disk is not None:
            disk.start()  # the last that can fail: ending this thread would wait for the disk

    def _begin(self) -> None:
        """Let users in, all at once: of what is accepted from here on nothing could be undone, and nothing fails."""
        node, pump = self.node, self.node.pump
        with pump.lock:
            pump.attach(FabricStatus(node, self.told_of))
            for handle in self.handles:
                handle.start(node.engine, node.started_at)
                pump.attach(handle)
            node.enter(Life.RUNNING)
        pump.wake()

    # Closing

    async def close(self, timeout: float | None) -> None:
        """Drain for `timeout` seconds, part and shut, if the node runs; a new one is closed at once.

        Raises:
            Undelivered: Accepted messages were not settled by then; the node is closed all the same.
            WouldDeadlock: It is a handler that asks.
            IdentityInUse: It has stopped, as another copy of it runs; this call has closed what was left.
            TypeError, ValueError: `timeout` is not a finite number, nor None. The node goes on.
        """
        timeout = check_timeout(timeout)
        if self.node.life is Life.FORKED:
            return
        if self.handlers.is_current():
            raise WouldDeadlock(
                "close() was called by a handler, which it would wait for; call it from another thread or task"
            )
        refuse_in_own_thread()
        await self.end(timeout)

    async def end(self, timeout: float | None) -> None:
        """As `close`, whoever asks, and with a `timeout` that was checked."""
        node = self.node
        with node.life_lock:
            begun = node.life is Life.RUNNING
            failed, self._failed = self._failed, False
            if begun:
                node.enter(Life.CLOSING)
            elif node.life is Life.NEW:
                node.enter(Life.CLOSED)
        for adoption in self._adoptions:
            adoption.leave()
        if failed and node.failure is not None:
            await self._shut()
            raise node.refusal()
        if not begun:
            await self._beside.given_up()
            return
        try:
            await self._drain(timeout)
            await self._part()
        finally:
            await self._shut()
        if node.failure is not None:
            raise node.refusal()
        if any(self.undelivered):
            raise Undelivered(*self.undelivered)

    # Stopping, because another copy of this node runs

    def superseded(self, endpoint: str) -> None:
        """Stop, as fast as that goes: whatever this one still says could be taken for what the other one says.

        Called in the pump's thread, which another one has to end.
        """
        OwnThread(
            target=self._stop_for, args=(IdentityInUse(endpoint),), name=f"{self.node.settings.name}-stop", daemon=True
        ).start()

    def _stop_for(self, error: IdentityInUse) -> None:
        node = self.node
        with node.life_lock:
            if node.life not in (Life.RUNNING, Life.CLOSING):
                return
            self._failed = node.life is Life.RUNNING  # else the call that closes it comes to its end by itself
            node.failure = error
            node.enter(Life.CLOSED)
        _log.error("%s stops: %s", node.settings.name, error)
        for handle in self.handles:
            handle.stop()
        node.closed.open()
        for adoption in self._adoptions:
            adoption.leave()
        self._wake()
        node.pump.stop()
        node.pump.turned.open()
        if self._membership is not None:
            self._membership.leave()

    # Draining

    async def _drain(self, timeout: float | None) -> None:
        """Let what was accepted be settled."""
        node = self.node
        engine, pump = node.engine, node.pump
        ends_at = None if timeout is None else clock() + timeout
        await self._await_turns(self._recorded, ends_at)
        given_back = return_in_hand(self.handles.consumers.values())
        with pump.lock:
            engine.drain(clock())
        self._end_calls(handlers=False)
        for queue, count in given_back.items():
            text = "queue %r: %s taken and not settled, given back to the producer. Use `with message as body:`"
            _log.warning(text, queue, counted(count, "message"))
        pump.wake()
        # Handlers that run may still send what they have made of their message, or it would fail for our sake.
        await self._await_turns(lambda: not self.handlers.busy, ends_at)
        self._end_calls(handlers=True)
        await self._await_turns(self._recorded, ends_at)
        for handle in self.handles:
            handle.stop()
        await self._await_turns(self._handed_over, ends_at)
        with pump.lock:
            self._take_over(clock())
            engine.topics.finish(clock())
        pump.wake()
        await self._await_turns(self._settled, ends_at)
        await self._await_turns(self._handed_on, ends_at)

    def _handed_on(self) -> bool:
        """Whether what is settled by now, here or at another node of this process, is known to the acks that wait."""
        return self._recorded() and not any(c.handing_on for c in list(self.handles.consumers.values()))

    def _recorded(self) -> bool:
        """Whether what was acked is in the ledgers, and known to its deliveries."""
        return not any(consumer.recording for consumer in list(self.handles.consumers.values()))

    def _handed_over(self) -> bool:
        """Whether the engine has all that was accepted and published."""
        node = self.node
        if node.disk is not None and node.disk.has_calls:
            return False
        if any(producer.storing for producer in list(self.handles.producers.values())):
            return False
        with node.pump.lock:  # within a turn a handle is not alerted any more, and the engine may not have it yet
            return not any(handle.alerted for handle in self.handles)

    def _take_over(self, now: float) -> None:
        """Give the engine at once what was handed over, however late the pump is. The caller holds its lock."""
        node = self.node
        for handle in self.handles:
            if handle.end is not None:
                handle.hand_over(node.engine, now)

    def _settled(self) -> bool:
        """Whether what was accepted has become of something; also what is on its way to the engine."""
        node = self.node
        if not self._handed_over():
            return False
        with node.pump.lock:
            return node.engine.settled(waits_for_consumers=clock() - node.started_at < DISCOVERY_TIME)

    async def _await_turns(self, condition: Callable[[], bool], ends_at: float | None) -> None:
        """Return when `condition` holds, tried after each turn of the pump, or at `ends_at`."""
        node = self.node

        def unsettled() -> tuple[int, int]:
            with node.pump.lock:
                return node.engine.producers.unsettled()

        def what() -> str:
            waiting, in_flight = unsettled()
            there = counted(waiting, "message")
            return f"closing, with {there} waiting and {in_flight:,} in flight; start a consumer, if none is there"

        left = None if ends_at is None else max(0.0, ends_at - clock())
        holds = lambda: condition() or node.failure is not None or None  # noqa: E731
        try:
            await wait_until(node.waiting, node.pump.turned, holds, left, what, moved=unsettled)
        except TimedOut:
            pass

    # Parting

    async def _part(self) -> None:
        node = self.node
        with node.pump.lock:
            node.engine.say_bye(clock())
        node.pump.wake()
        try:
            await wait_until(
                node.waiting, node.pump.turned, self._parted, PARTING_MAX, lambda: "waiting for peers to say goodbye"
            )
        except TimedOut:
            pass

    def _parted(self) -> bool | None:
        with self.node.pump.lock:
            return True if self.node.engine.finished(clock()) or self.node.failure is not None else None

    # Shutting

    async def _shut(self) -> None:
        node, name = self.node, self.node.settings.name
        with node.life_lock:  # from here on no handle comes that would be left open
            node.enter(Life.CLOSED)
        for handle in self.handles:
            handle.stop()
        node.closed.open()
        try:
            if isinstance(node.waiting, Suspending):
                await self.handlers.finish()
        finally:
            try:
                # Cancelled while this runs beside the loop, it goes on to its end.
                await beside(node.waiting, self._let_go, None, f"{name}-close")
            finally:
                node.ending.stop()
        if not self.is_adopted:
            _log.info("%s closed", name)

    def _let_go(self) -> None:
        """End all threads and close all files."""
        node = self.node
        with ExitStack() as last:  # in reverse order, each also if one before it fails
            for consumer in list(self.handles.consumers.values()):
                last.callback(consumer.close_ledger)
            for handler in self.handlers:
                last.callback(handler.join, 1.0)
            last.callback(process.forget, self)
            last.callback(node.pump.stop)
            last.callback(self._count)
            last.callback(self._end_disk)
            if self._membership is not None:
                last.callback(self._membership.leave)
            last.callback(self._end_adoptions)

    def _end_adoptions(self) -> None:
        while self._adoptions:
            self._adoptions.pop().join()

    def _count(self) -> None:
        """Count, once, what became of all that was accepted, and leave the rest as it is.

        By now nobody can hand anything over, nothing is stored any more, and acks have come until a moment ago. With a
        spool the disk's thread does this between its last messages and its last cursors.
        """
        node = self.node
        if self._last is not None:
            return
        for producer in list(self.handles.producers.values()):
            producer.seal()
        if node.disk is not None:
            node.disk.take_stock()
        with node.pump.lock:
            self._take_over(clock())
            producers = node.engine.producers
            self.undelivered = producers.unsettled()
            kept, letters = producers.kept_on_disk(), producers.dead_letters_in_memory()
            producers.leave()
            self._last = reports.snapshot(node, self.handles.producers)
        if kept:
            _log.info("%s: the spool keeps %s for the next start", node.settings.name, counted(kept, "message"))
        for queue, count in letters.items():
            _log.warning("queue %r: dead letters that end with this node: %d; a spool would keep them", queue, count)

    def _end_disk(self) -> None:
        node = self.node
        try:
            if node.disk is not None:
                node.disk.stop(self._count)
        except SpoolError as error:
            _log.error("%s: the spool was not closed in order: %s", node.settings.name, error)
        finally:
            for producer in list(self.handles.producers.values()):
                producer.disk_ended()


def _where(found: Sequence[InHand]) -> list[str]:
    with importing:
        from peerfabric.nodes.whereabouts import of_all  # with what only those need who look

    return of_all(found)
