"""Confirmations of sent messages: the states of receipts, and waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from peerfabric.errors import ConfigError, NotConfirmed, Rejected, TimedOut, counted
from peerfabric.nodes import unstarted
from peerfabric.nodes.context import Life
from peerfabric.nodes.handler_context import lease_paused
from peerfabric.nodes.io.waiting import Gate, wait_until
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.receipt import Receipt, State

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.outbox.outbox import Outbox

STATES: Final = get_args(State)


def check_state(state: str) -> None:
    """Refuse what is not a state.

    Raises:
        ConfigError: It is none.
    """
    if state not in STATES:
        raise ConfigError(f'confirm={state!r} is not a state; use "queued", "stored", "delivered" or "processed"')


class Confirmations:
    """What has become of one producer's messages, as its calls ask for it.

    Args:
        node: Whose messages they are.
        end: What knows.
        gate: Opens when some of them may have changed.
        on_full: Of the producer, for texts.
        outbox: What knows which of them are on disk.
    """

    def __init__(self, node: NodeContext, end: OutgoingQueue, gate: Gate, on_full: str, outbox: Outbox) -> None:
        self._node, self._end, self._gate = node, end, gate
        self._on_full, self._outbox = on_full, outbox

    def state(self, receipt: Receipt) -> str:
        """As `AsyncProducer.state`."""
        if not isinstance(receipt, Receipt):
            raise stranger(receipt)
        end = self._end
        node_id, queue = receipt.stream.partition(":")[0], receipt.stream.rpartition(":")[2]
        if node_id != self._node.engine.address.node_id or queue != end.queue:
            raise stranger(receipt)
        with self._node.pump.lock:
            numbers = end.numbers(receipt.stream, [receipt.sequence, receipt.sequence + 1])
            if not numbers:
                return "processed"  # of an earlier life, and the spool does not have it any more
            number = numbers[0][0]
            found = end.state(number) if number < end.next else "queued"
            if found not in ("waiting", "in flight", "queued"):
                return found
            return "stored" if self._outbox.is_stored(number) else "queued"

    async def all_settled(self, last: int, timeout: float | None) -> None:
        """Wait until all messages up to number `last` are acked, dead-lettered, expired, dropped, or found damaged.

        Raises:
            TimedOut: Some of them are not.
        """
        end = self._end

        def attempt() -> bool | None:
            self._node.ensure(closing=True)
            if end.floor > last:
                return True
            self._node.ending.check()
            return None

        def what() -> str:
            left = last + 1 - end.floor
            return (
                f"queue {end.queue!r}: up to {counted(left, 'message is', 'messages are')} not settled and "
                f"{counted(len(end.consumers), 'consumer is', 'consumers are')} known; "
                f"see node.statistics() and node.peers()"
                f"{'' if end.consumers else unstarted.hint(self._node, queue=end.queue)}"
            )

        def settled() -> int:
            return sum(end.settled.counts.values())

        await wait_until(self._node.waiting, self._gate, attempt, timeout, what, moved=settled)

    async def confirm(self, receipt: Receipt, state: State, left: float | None, timeout: float | None) -> None:
        """Wait `left` seconds of `timeout` until the message of `receipt` is in `state`, or further.

        Raises:
            NotConfirmed: It is not yet, and may still be.
            Rejected: It is dead-lettered, expired, dropped or damaged.
        """
        if state == "stored":
            self.check_stored()
        enough = STATES[STATES.index(state) :]

        node = self._node

        def attempt() -> bool | None:
            if node.life is not Life.RUNNING or node.loop is not None:
                node.ensure(closing=True)
            found = self.state(receipt)
            if found in enough:
                return True
            if found in ("dead", "expired", "dropped", "damaged"):
                raise self._rejected(receipt, found)
            if node.ending.signal:
                node.ending.check()
            return None

        def what() -> str:
            consumers = counted(len(self._end.consumers), "consumer")
            return f"queue {self._end.queue!r}: message {receipt.id} is not {state}; {consumers} known"

        with lease_paused(self._node.pump):
            try:
                await wait_until(self._node.waiting, self._gate, attempt, left, what)
            except TimedOut:
                raise NotConfirmed(receipt, state, timeout or 0.0, self._lonely(state)) from None

    def _lonely(self, state: State) -> str:
        """What keeps messages from everybody, if that is so."""
        queue = self._end.queue
        if self._end.consumers or state == "stored":
            return ""
        return f"no consumer of queue {queue!r} is known{unstarted.hint(self._node, queue=queue)}; start one"

    def _rejected(self, receipt: Receipt, found: str) -> Rejected:
        """Why the message will not be processed, and what can be done about that."""
        if found == "dropped":
            why = f"dropped by on_full={self._on_full!r}"
            return Rejected(receipt.id, why, "send it again if it still matters, or use another on_full")
        if found == "expired":
            return Rejected(receipt.id, "expired", "start consumers, or give it a longer ttl=")
        if found == "damaged":
            why = "its record in the spool is damaged, as the log says"
            return Rejected(receipt.id, why, "send it again, and see `peerfabric spool verify` for what else is")
        with self._node.pump.lock:
            [(number, _)] = self._end.numbers(receipt.stream, [receipt.sequence, receipt.sequence + 1])
            return Rejected(receipt.id, self._end.why_dead(number))

    def check_stored(self) -> None:
        """Refuse to wait for the spool where it does not take every message.

        Raises:
            ConfigError: It does not.
        """
        if self._outbox.spooled and self._on_full != "spool":
            return
        if self._node.settings.spool is None:
            problem = "needs a spool: give Node(spool=PATH)"
        elif not self._outbox.spooled:
            problem = (
                "cannot be, as this producer was made with spool=False and keeps its messages in memory: leave out"
            )
            problem += " spool=False"
        else:
            problem = 'needs a spool that takes every message, and on_full="spool" keeps some in memory: '
            problem += 'use on_full="block" or "error"'
        raise ConfigError(f'confirm="stored" {problem}; or ask for "delivered" or "processed"')


def stranger(receipt: object) -> Exception:
    """Somebody else's receipt, or none at all."""
    if isinstance(receipt, Receipt):
        return ConfigError(f"the receipt {receipt.id} is not of this producer; ask the one that sent it")
    return TypeError(f"a {type(receipt).__name__} is no receipt; give what send() returned, or error.receipt")
