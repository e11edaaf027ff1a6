"""Outside of one node: what others than its program may see of it and do with it.

Loaded when somebody looks, and what is done seldom when it is done: who looks at a host for the first time waits until
all of its processes have loaded this. Its calls are made in threads that are neither the program's nor the node's, and
none of them waits for the engine longer than it is told to: a node that hangs is the one that somebody looks at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from peerfabric.discovery.locks import Lock, importing
from peerfabric.discovery.log import log as _log
from peerfabric.errors import SpoolError, TimedOut, counted
from peerfabric.names import queue_of
from peerfabric.node_status import AT_ONCE, choose, overview, sends_of, takes_of
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.aio.reports import with_handed_over
from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.handlers import Handlers
from peerfabric.nodes.io.waiting import Blocking, clock, complete, wait_until
from peerfabric.queue.in_hand import RUNNING_MAX
from peerfabric.status import NodeStatus, Sending, SlotStatus, SpoolStatus, Taking

if TYPE_CHECKING:
    from peerfabric.nodes.aio.letters import Letters
    from peerfabric.nodes.storage.adoption import Adoption
    from peerfabric.nodes.storage.offload import Offloaded
    from peerfabric.spool.slots import SlotSight

QUEUES: Final = 200
WAIT: Final = 1.0
"""Seconds that the engine is waited for, unless somebody says otherwise."""
DISK_TIME: Final = 5.0
"""Seconds that is waited for a spool's disk to note what was done; it is noted later all the same."""


class Busy(TimedOut):
    """The engine of a node could not be had in time; nothing was done."""


class Outside:
    """One node as seen from outside of its program. Any thread that holds no lock of ours.

    Args:
        adoptions: Those of the node, which come and go.
        adopted: It runs the slot of a process that is gone, for another node of this process.
    """

    def __init__(
        self, node: NodeContext, handles: Handles, handlers: Handlers, adoptions: list[Adoption], *, adopted: bool
    ) -> None:
        self._node, self._handles, self._handlers = node, handles, handlers
        self._adoptions, self._adopted = adoptions, adopted
        self.name, self.fabric = node.settings.name, node.settings.fabric
        self.node_id = node.engine.address.node_id

    # Status

    def status(self, queues: int = QUEUES, wait: float = WAIT) -> NodeStatus:
        """How the node is now.

        If its engine cannot be had within `wait` seconds in all, what was found until then, with `engine` saying so.

        Args:
            queues: How many are shown on each side at most, the deepest.
        """
        node = self._node
        now, ends_at = clock(), clock() + wait
        found = self._from_without(now)
        sends: list[Sending] = []
        takes: list[Taking] = []
        try:
            with self._engine_within(ends_at):
                now = clock()
                known = overview(node.engine, queues, now)
                chosen = choose(node.engine, queues)
            found = _joined(
                found, replace(known, counters={**known.counters, **node.pump.counters}, more=chosen.more, limit=queues)
            )
            for at in range(0, len(chosen.sends), AT_ONCE):
                with self._engine_within(ends_at):
                    sends += self._sends(chosen.sends[at : at + AT_ONCE])
            for at in range(0, len(chosen.takes), AT_ONCE):
                with self._engine_within(ends_at):
                    takes += takes_of(node.engine, chosen.takes[at : at + AT_ONCE], clock())
        except Busy:
            found = replace(found, engine=f"busy {wait:.1f} s")
        return replace(
            found, sends=tuple(sends), takes=tuple(map(self._used, self._placed(takes))), spool=self._spool()
        )

    def _from_without(self, now: float) -> NodeStatus:
        """What can be told without the engine's lock."""
        node = self._node
        address = node.engine.address
        return NodeStatus(
            node_id=address.node_id,
            name=address.name,
            fabric=node.settings.fabric,
            epoch=address.epoch,
            host=address.host,
            state=node.life.value,
            adopted=node.slot if self._adopted else None,
            uptime=now - node.started_at,
            pump_late=node.pump.late(now),
        )

    def _sends(self, queues: list[str]) -> list[Sending]:
        """The caller holds the engine's lock."""
        engine, producers = self._node.engine, self._handles.producers
        found = []
        for each in sends_of(engine, queues, time.time_ns() // 1_000_000):
            handle = producers.get(each.queue)
            if handle is not None and handle.opened:
                following = engine.producers.by_queue[each.queue].next
                each = replace(
                    each,
                    account=with_handed_over(each.account, following, *handle.so_far()),
                    blocked_senders=handle.blocked,
                    on_full=handle.options.on_full,
                )
            found.append(each)
        return found

    def _placed(self, takes: list[Taking]) -> list[Taking]:
        """Say where in the program messages are in hand."""
        if not any(each.running for each in takes):
            return takes
        with importing:
            from peerfabric.nodes.whereabouts import Whereabouts
        whereabouts, found = Whereabouts(), []
        for each in takes:
            handler = self._handlers.of(self._handles.consumers.get(each.queue)) or ""
            running = []
            for message in each.running:
                stream, _, sequence = message.id.rpartition("/")
                place = whereabouts.of(stream, int(sequence))
                if place is not None:
                    message = replace(message, thread=place.thread, line=place.line)
                elif message.lease_left < 0.0:
                    continue  # its lease is over, and whoever had it has forgotten it
                running.append(replace(message, handler=handler))
            oldest = running[0].age if running else 0.0
            found.append(replace(each, running=tuple(running[:RUNNING_MAX]), longest_running=oldest))
        return found

    def _used(self, taking: Taking) -> Taking:
        """Say what only the handle knows."""
        handle = self._handles.consumers.get(taking.queue)
        if handle is None:
            return taking
        return replace(taking, takers=handle.takers, seconds=tuple(handle.seconds), seconds_sum=handle.seconds_sum)

    def _spool(self) -> SpoolStatus | None:
        node = self._node
        disk, folder = node.disk, node.settings.spool
        if disk is None or folder is None or node.slot is None:
            return None
        spool = disk.spool
        letters = sum(len(store.end.dead) for store in list(disk.stores.values()) if store.end is not None)
        found = SpoolStatus(
            folder=str(folder),
            slot=node.slot,
            used=spool.used_bytes,
            limit=spool.limit_bytes or 0,
            spare_ok=spool.spare_ok,
            last_sync=disk.last_sync,
            letters=letters,
            parked=sum(adoption.parked for adoption in list(self._adoptions)),
        )
        from peerfabric.nodes.storage.shared import SharedSpool  # it is there, as there is a spool

        try:
            system = os.statvfs(folder)
            size, free = system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize
            found = replace(found, disk_size=size, disk_free=free)
            if not self._adopted:
                slots = SharedSpool(node.settings).slots.sights(everything=True)
                found = replace(found, slots=tuple(map(_slot, slots)))
        except (OSError, SpoolError):
            pass  # somebody has removed the folder; what is left is what memory knows
        return found

    # Acts, which have a line in the log each

    def pause(self, queue: str) -> bool:
        """Hand out nothing more of `queue` until `resume` or the end of this node; what was not started goes back.

        Returns False if the node does not consume it.

        Raises:
            Busy: Nothing was done.
        """
        return self._set_paused(queue, paused=True)

    def resume(self, queue: str) -> bool:
        """Take of `queue` again; as `pause`."""
        return self._set_paused(queue, paused=False)

    def _set_paused(self, queue: str, *, paused: bool) -> bool:
        node = self._node
        with self._engine():
            consumers = node.engine.consumers
            done = (consumers.pause if paused else consumers.resume)(queue, clock())
        if done:
            node.pump.wake()
            text = "%s: somebody has paused queue %r here; nothing of it is taken before it is resumed, or a restart"
            _log.warning(text if paused else "%s: queue %r is resumed", self.name, queue)
        return done

    def purge(self, queue: str) -> int:
        """Drop what waits in `queue`, also on disk; return how many messages that were, which count as dropped.

        What consumers have goes on, and so do dead letters.

        Raises:
            Busy: Nothing was done.
            SpoolError, TimedOut: It is dropped, and should this process end now, some of it may come back.
        """
        node = self._node
        with self._engine():
            end = node.engine.producers.by_queue.get(queue)
            if end is None:
                return 0
            handle = self._handles.producers.get(queue)
            if handle is not None and handle.opened:
                handle.hand_over(node.engine, clock())
            count = end.purge()
            node.engine.changed.add(end)
            call: Offloaded[None] | None = None
            if count and end.backlog is not None and node.disk is not None:
                node.engine.producers.for_disk[end] = None  # before the pump's next turn says so
                call = node.disk.write_cursors()
        node.pump.wake()
        if count:
            _log.warning("%s: somebody has purged queue %r: %s dropped", self.name, queue, counted(count, "message"))
        if call is not None:
            self._wait_for(call)
        return count

    def _wait_for(self, call: Offloaded[None]) -> None:
        node = self._node

        def over() -> bool | None:
            return call.is_over or node.is_closed or None

        complete(wait_until(Blocking(), node.pump.turned, over, DISK_TIME, lambda: "waiting for the spool's disk"))
        if call.error is not None:
            raise call.error

    def dead(self, queue: str | None, limit: int) -> list[dict[str, Any]]:
        """The dead letters of the node and of slots of its folder that nobody has, at most `limit`."""
        return self._letters().all(queue, limit)

    def retry(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Send those of these letters again that the node has, or a slot of its folder that nobody has."""
        return self._letters().settle(ids, retry=True)

    def drop(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Forget them; as `retry`."""
        return self._letters().settle(ids, retry=False)

    def _letters(self) -> Letters:
        with importing:
            from peerfabric.nodes.aio.letters import Letters
        return Letters(self._node, self._handles, self._adoptions, lambda lock: held(lock, clock() + WAIT))

    def trace(self, id: str) -> list[dict[str, Any]]:
        """Where the message of that id is, as the node knows it: as its producer, as a consumer, as both, or nothing.

        Each has `side`, "producer" or "consumer", `queue` and `state`; see `peerfabric.queue.trace`.
        """
        with importing:
            from peerfabric.nodes.whereabouts import Whereabouts
            from peerfabric.queue.trace import trace_received, trace_sent
        stream, _, digits = id.rpartition("/")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            return []
        queue, sequence, node = queue_of(stream), int(digits), self._node
        with self._engine():
            engine, now, links = node.engine, clock(), node.engine.links.by_peer
            sender, receiver = engine.producers.by_queue.get(queue), engine.consumers.by_queue.get(queue)
            sent = trace_sent(sender, stream, sequence, links, now) if sender is not None else {}
            received = trace_received(receiver, stream, sequence, now) if receiver is not None else {}
        if received.get("state") == "in hand":
            received["handler"] = self._handlers.of(self._handles.consumers.get(queue)) or ""
            place = Whereabouts().of(stream, sequence)
            if place is not None:
                received |= place._asdict()
        sides = {"producer": sent, "consumer": received}
        return [{"side": side, "queue": queue, **found} for side, found in sides.items() if found]

    def tap(self, name: str, put: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Give `put` a copy of each message that the node accepts for a queue, or publishes on a topic, of that name.

        At most 100 each second; of the others it gets the number. It is called in the node's I/O thread, and must not
        wait. Returned is what ends it.

        Args:
            name: Of a queue or topic, or a pattern of names.

        Raises:
            BadName: It is none.
        """
        with importing:
            from peerfabric.nodes.taps import Taps
        node = self._node
        with self._engine():
            taps = node.taps or Taps()
            end = taps.add(name, put)
            if node.taps is None:
                node.pump.look_after(taps.look)
            node.taps = taps

        def ended() -> None:
            end()
            with suppress(Busy), self._engine():  # else it costs a little, and the next one uses it
                if not taps and node.taps is taps:
                    node.taps = None
                    node.pump.look_no_more(taps.look)

        return ended

    # The engine

    def _engine(self) -> AbstractContextManager[None]:
        return held(self._node.pump.lock, clock() + WAIT)

    def _engine_within(self, ends_at: float) -> AbstractContextManager[None]:
        return held(self._node.pump.lock, ends_at)


@contextmanager
def held(lock: Lock, ends_at: float) -> Iterator[None]:
    """Hold a lock of the node.

    Raises:
        Busy: Somebody else holds it until `ends_at`.
    """
    if lock.is_ours():
        raise lock.refusal()
    try:
        if not lock.acquire(timeout=max(0.0, ends_at - clock())):
            raise Busy("the node is busy, or hangs; look at its stacks")
        yield
    finally:
        try:
            lock.release()
        except RuntimeError:
            pass  # it was not taken


def _joined(found: NodeStatus, known: NodeStatus) -> NodeStatus:
    """What the engine knows, with what `found` says of the node's life."""
    return replace(known, state=found.state, adopted=found.adopted, uptime=found.uptime, pump_late=found.pump_late)


def _slot(sight: SlotSight) -> SlotStatus:
    sheet = sight.sheet
    if sheet is None:
        return SlotStatus(slot=sight.number, state="running" if sight.held else "left")
    if sight.held or (sight.held is None and sheet.pid):
        state = "adopted" if sheet.adopted else "running"
        return SlotStatus(slot=sight.number, state=state, pid=sheet.pid, name=sheet.name)
    state = "left" if sheet.pid or sheet.left else "parked" if sheet.letters else "empty"
    return SlotStatus(slot=sight.number, state=state, name=sheet.name, left=sheet.left, letters=sheet.letters)
