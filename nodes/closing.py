"""How a node closes: it drains what it has accepted, parts from its peers, and shuts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from peerfabric.arguments import check_timeout
from peerfabric.discovery.locks import refuse_in_own_thread
from peerfabric.errors import SpoolError, TimedOut, Undelivered, WouldDeadlock
from peerfabric.nodes import process
from peerfabric.nodes.handler_context import in_hand
from peerfabric.nodes.io.waiting import Gate, Suspending, clock, wait_until
from peerfabric.nodes.life import Life
from peerfabric.nodes.reports import snapshot
from peerfabric.nodes.storage.offload import beside
from peerfabric.reports import Statistics

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext

PARTING_MAX: Final = 1.5
DISCOVERY_TIME: Final = 1.0
"""Seconds after the start in which consumers may still turn up; a spool that nobody reads is not waited for longer."""

_log = logging.getLogger("peerfabric")


class Closing:
    """The end of one node."""

    def __init__(self, node: NodeContext) -> None:
        self.done = Gate()
        """Opens when the node is closed."""
        self.statistics: Statistics | None = None
        """The last ones: of the instant from which on nothing counts any more."""
        self.undelivered = (0, 0)
        """What no spool keeps and was not settled at that instant: waiting, in flight."""
        self._node = node

    async def close(self, timeout: float | None) -> None:
        """Drain for `timeout` seconds, part and shut, if the node runs; a new one is closed at once.

        Raises:
            Undelivered: Accepted messages were not settled by then; the node is closed all the same.
            WouldDeadlock: It is a handler that asks.
            TypeError, ValueError: `timeout` is not a finite number, nor None. The node goes on.
        """
        timeout = check_timeout(timeout)
        node = self._node
        if node.life is Life.FORKED:
            return
        if node.handlers.is_current():
            raise WouldDeadlock(
                "close() was called by a handler, which it would wait for; call it from another thread or task"
            )
        refuse_in_own_thread()
        with node.life_lock:
            begun = node.life is Life.RUNNING
            if begun:
                node.life = Life.CLOSING
            elif node.life is Life.NEW:
                node.life = Life.CLOSED
        if not begun:
            await node.starting.given_up()
            return
        try:
            await self._drain(timeout)
            await self._part()
        finally:
            await self._shut()
        if any(self.undelivered):
            raise Undelivered(*self.undelivered)

    # Draining

    async def _drain(self, timeout: float | None) -> None:
        """Let what was accepted be settled."""
        node = self._node
        engine, pump = node.engine, node.pump
        ends_at = None if timeout is None else clock() + timeout
        await self._await_turns(self._recorded, ends_at)
        with pump.lock:
            given_back = self._give_back_own()
            engine.drain(clock())
        for queue, count in given_back:
            text = "queue %r: %d messages were taken and not settled; they go back. Use `with message as body:`"
            _log.warning(text, queue, count)
        pump.wake()
        # Handlers that run may still send what they have made of their message, or it would fail for our sake.
        await self._await_turns(lambda: not node.handlers.busy, ends_at)
        await self._await_turns(self._recorded, ends_at)
        for handle in node.handles:
            handle.stop()
        await self._await_turns(self._handed_over, ends_at)
        with pump.lock:
            self._take_over(clock())
            engine.topics.finish(clock())
        pump.wake()
        await self._await_turns(self._settled, ends_at)

    def _recorded(self) -> bool:
        """Whether what was acked is in the ledgers, and known to its deliveries."""
        return not any(consumer.recording for consumer in list(self._node.handles.consumers.values()))

    def _handed_over(self) -> bool:
        """Whether the engine has all that was accepted and published."""
        node = self._node
        if node.disk is not None and node.disk.has_errands:
            return False
        if any(producer.storing for producer in list(node.handles.producers.values())):
            return False
        with node.pump.lock:  # within a turn a handle is not alerted any more, and the engine may not have it yet
            return not any(handle.alerted for handle in node.handles)

    def _take_over(self, now: float) -> None:
        """Give the engine at once what was handed over, however late the pump is. The caller holds its lock."""
        node = self._node
        for handle in node.handles:
            if handle.end is not None:
                handle.hand_over(node.engine, now)

    def _settled(self) -> bool:
        """Whether what was accepted has become of something; also what is on its way to the engine."""
        node = self._node
        if not self._handed_over():
            return False
        with node.pump.lock:
            return node.engine.settled(waits_for_consumers=clock() - node.started_at < DISCOVERY_TIME)

    async def _await_turns(self, condition: Callable[[], bool], ends_at: float | None) -> None:
        """Return when `condition` holds, tried after each turn of the pump, or at `ends_at`."""
        node = self._node

        def what() -> str:
            with node.pump.lock:
                waiting, in_flight = node.engine.producers.unsettled()
            return f"closing, with {waiting:,} messages waiting and {in_flight:,} in flight; start a consumer for them"

        left = None if ends_at is None else max(0.0, ends_at - clock())
        try:
            await wait_until(node.waiting, node.pump.turned, lambda: condition() or None, left, what)
        except TimedOut:
            pass

    def _give_back_own(self) -> list[tuple[str, int]]:
        """What the closing thread or task took and did not settle, nobody will settle any more: return how much."""
        given = [(delivery.queue, end.give_back_started(delivery)) for end, delivery in in_hand()]
        return [(queue, count) for queue, count in given if count]

    # Parting

    async def _part(self) -> None:
        node = self._node
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
        with self._node.pump.lock:
            return True if self._node.engine.finished(clock()) else None

    # Shutting

    async def _shut(self) -> None:
        node, name = self._node, self._node.settings.name
        with node.life_lock:  # from here on no handle comes that would be left open
            node.life = Life.CLOSED
        for handle in node.handles:
            handle.stop()
        self.done.open()
        try:
            if isinstance(node.waiting, Suspending):
                await node.handlers.finish()
        finally:
            try:
                # Cancelled while this runs beside the loop, it goes on to its end.
                await beside(node.waiting, self._let_go, None, f"{name}-close")
            finally:
                node.ending.stop()
        _log.info("%s closed", name)

    def _let_go(self) -> None:
        """End all threads and close all files."""
        node = self._node
        with ExitStack() as last:  # in reverse order, each also if one before it fails
            for consumer in list(node.handles.consumers.values()):
                last.callback(consumer.close_ledger)
            for handler in node.handlers:
                last.callback(handler.join, 1.0)
            last.callback(process.forget, node)
            last.callback(node.pump.stop)
            last.callback(self._count)
            last.callback(self._end_disk)
            if node.membership is not None:
                last.callback(node.membership.leave)

    def _count(self) -> None:
        """Count, once, what became of all that was accepted, and leave the rest as it is.

        By now nobody can hand anything over, nothing is stored any more, and acks have come until a moment ago. With a
        spool the disk's thread does this between its last messages and its last cursors.
        """
        node = self._node
        if self.statistics is not None:
            return
        for producer in list(node.handles.producers.values()):
            producer.seal()
        if node.disk is not None:
            node.disk.take_stock()
        with node.pump.lock:
            self._take_over(clock())
            producers = node.engine.producers
            self.undelivered = producers.unsettled()
            kept, letters = producers.kept_on_disk(), producers.letters_in_memory()
            producers.leave()
            self.statistics = snapshot(node)
        if kept:
            _log.info("%s: the spool keeps %d messages for the next start", node.settings.name, kept)
        for queue, count in letters.items():
            _log.warning("queue %r: dead letters that end with this node: %d; a spool would keep them", queue, count)

    def _end_disk(self) -> None:
        node = self._node
        try:
            if node.disk is not None:
                node.disk.stop(self._count)
        except SpoolError as error:
            _log.error("%s: the spool was not closed in order: %s", node.settings.name, error)
        finally:
            for producer in list(node.handles.producers.values()):
                producer.disk_ended()
