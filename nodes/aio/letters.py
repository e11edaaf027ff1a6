"""Dead letters of one node for who looks from outside of its program, and who retries or drops them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from peerfabric.errors import FabricError, NodeClosed, TimedOut
from peerfabric.names import queue_of
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.io.waiting import Blocking, Gate, clock, complete, wait_until
from peerfabric.nodes.taps import shown_body
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.reports import DeadLetter

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from peerfabric.discovery.locks import Lock
    from peerfabric.nodes.storage.adoption import Adoption

SLOT_TIME: Final = 10.0
"""Seconds that a slot which nobody has is waited for: it is opened, adopted, and its disk written to."""

Hold = Callable[["Lock"], "AbstractContextManager[None]"]
"""Hold a lock; raises if it cannot be had soon."""


class Letters:
    """The dead letters that one node has, and those in slots of its spool's folder that nobody has.

    Args:
        adoptions: Those of the node. What it has adopted shows its letters by itself.
    """

    def __init__(self, node: NodeContext, handles: Handles, adoptions: Sequence[Adoption], hold: Hold) -> None:
        self._node, self._handles, self._adoptions, self._hold = node, handles, adoptions, hold

    def all(self, queue: str | None, limit: int) -> list[dict[str, Any]]:
        """Those of `queue`, or of all queues, the oldest of each first, at most `limit`; the node's own come first."""
        found = list(islice(self._own(queue), limit))
        shown = [self._shown(letter, self._node.slot) for letter in found]
        for adoption in list(self._adoptions):
            parked = islice(adoption.parked_letters(queue), limit - len(shown))
            shown += [self._shown(letter, number) for number, letter in parked]
        return shown

    def _own(self, queue: str | None) -> Iterator[DeadLetter]:
        with self._hold(self._node.pump.lock):
            ends = self._node.engine.producers.by_queue
            names = sorted(ends) if queue is None else [queue]
            lists = [ends[name].letters() for name in names if name in ends and len(ends[name].dead)]
        for letters in lists:
            yield from letters

    @staticmethod
    def _shown(letter: DeadLetter, slot: int | None) -> dict[str, Any]:
        return {
            "id": letter.id,
            "queue": letter.queue,
            "reason": letter.reason,
            "error": letter.error,
            "attempts": letter.attempts,
            "deaths": letter.deaths,
            "sent_at": letter.sent_ms / 1000,
            "headers": letter.headers or {},
            "origin": letter.origin,
            "body": shown_body(letter.data, letter.codec),
            "slot": slot,
        }

    # Acts

    def settle(self, ids: Sequence[str], *, retry: bool) -> list[dict[str, Any]]:
        """Send these again, or forget them; what came of each that the node, or a slot of its folder, has or had.

        `done` is False if it was retried or dropped before; then, and if it could not be done, `problem` says more.
        """
        outcomes = []
        # Found before the first of them is settled, for which its slot is adopted, and is a node of its own then.
        parked = self._parked(ids)
        for identity in dict.fromkeys(ids):
            try:
                if identity in parked:
                    done: bool | None = self._ask(*parked[identity], retry=retry)
                else:
                    done = self._settle(identity, retry=retry)
                problem = "" if done else "it is no dead letter any more"
            except FabricError as error:
                done, problem = False, str(error)
            if done is not None:
                outcomes.append({"id": identity, "done": done, "problem": problem})
        return outcomes

    def _settle(self, identity: str, *, retry: bool) -> bool | None:
        """Whether it was there; None: it is not of this node."""
        stream, _, sequence = identity.rpartition("/")
        if not (sequence.isascii() and sequence.isdigit()):
            return None
        with self._hold(self._node.pump.lock):
            end = self._node.engine.producers.by_queue.get(queue_of(stream))
            if end is not None and not any(end.numbers(stream, [int(sequence), int(sequence) + 1])):
                end = None
        if end is None:
            return None
        handle = self._handles.producers.get(end.queue)
        if handle is not None and handle.opened:
            return handle.retry_letter(identity) if retry else handle.drop_letter(identity)
        return self._settle_alone(end, identity, retry=retry)

    def _settle_alone(self, end: OutgoingQueue, identity: str, *, retry: bool) -> bool:
        """Of a queue that the spool has, and for which the program has no producer: one is made for this letter."""
        from peerfabric.nodes.outbox.spooled import SpooledOutbox  # it is there, as there is a spool

        node = self._node
        # Making handles waits meanwhile: another producer would give its messages the same numbers.
        with self._hold(node.life_lock):
            handle, disk = self._handles.producers.get(end.queue), node.disk
            if handle is not None and handle.opened:
                return handle.retry_letter(identity) if retry else handle.drop_letter(identity)
            store = disk.stores.get(end.queue) if disk is not None else None
            if node.life is not Life.RUNNING or disk is None or store is None:
                raise NodeClosed
            with self._hold(node.pump.lock):
                letter = end.take_dead_letter(identity)
            if letter is None:
                return False
            outbox = SpooledOutbox(node, bytes, end.queue, "error", end.dead.bytes_max, Gate())
            outbox.end = end
            outbox.attach(disk, store, end.codec, by_itself=True)
            outbox.open()
            if retry:
                outbox.retry(letter)
                with node.pump.lock:
                    outbox.hand_over(node.engine, clock())
            else:
                outbox.drop(identity)
            outbox.close()
        node.pump.wake()
        return True

    def _parked(self, ids: Sequence[str]) -> dict[str, tuple[Adoption, int, DeadLetter]]:
        """Those of `ids` that are in slots which nobody has."""
        wanted, found = set(ids), {}
        own = f"{self._node.engine.address.node_id}:"
        queues = {queue_of(each.rpartition("/")[0]) for each in wanted if not each.startswith(own)}
        for adoption in list(self._adoptions) if queues else ():
            for queue in sorted(queues):
                for number, letter in adoption.parked_letters(queue):
                    if letter.id in wanted:
                        found[letter.id] = (adoption, number, letter)
        return found

    def _ask(self, adoption: Adoption, number: int, letter: DeadLetter, *, retry: bool) -> bool:
        from peerfabric.nodes.storage.adoption import Request

        request = Request(number, letter, retry=retry)
        adoption.ask(request)

        def what() -> str:
            return f"slot {number} of the spool is not open yet; the letter will be seen to, look again"

        try:
            complete(wait_until(Blocking(), request.gate, lambda: request.is_over or None, SLOT_TIME, what))
        except TimedOut as error:
            raise TimedOut(what()) from error
        if request.error is not None:
            raise request.error
        return request.done
