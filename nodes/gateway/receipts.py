"""Receipts: messages that HTTP clients have in hand, by the receipts that name them, and the ends of their leases.

A receipt is `NODE.START.SERIAL.MAC`: the node that took the message, the start of the gateway there, the number of the
message, and a code over these that only that start could make. So it leads to the process that has the message, cannot
be guessed, and is worth nothing after a restart, when the message has gone to others.

held = handed out - (settled + lapsed + given back)
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple, Protocol

from peerfabric.nodes.message import Reject, Retry

HELD_MAX: Final = 65_536
"""Messages that clients of one gateway process may have in hand: each keeps its body, and some bytes of others."""
REMEMBERED_MAX: Final = 65_536
"""Settled messages of which a gateway knows what was said, for clients that ask again as they got no answer."""
RECEIPT_CHARS_MAX: Final = 256
SLACK: Final = 400.0
"""Seconds that the node's own lease is longer than a client's: it ends what a gateway that hangs has in hand."""
_MAC_BYTES: Final = 16


class Outcome(StrEnum):
    """What came of settling or extending by one receipt.

    OK           it is done, or was by the same request before
    GONE         its lease is over, it was settled in another way, or the process that had it is gone: the message goes,
                 or went, to others
    INVALID      it is no receipt that a gateway has made
    UNREACHABLE  the process that has the message does not answer: it is not known; ask again
    """

    OK = "ok"
    GONE = "gone"
    INVALID = "invalid"
    UNREACHABLE = "unreachable"


class Settled(NamedTuple):
    """The outcome for one receipt; `lease_until` is in seconds of Unix time, after an extension."""

    receipt: str
    result: Outcome
    lease_until: float | None = None


class Act(NamedTuple):
    """One thing to do with one receipt: "ack", "nack" with a delay or None, "reject" with a reason, or "extend"."""

    do: str
    receipt: str
    delay: float | None = None
    reason: str = ""
    lease: float = 0.0


class Taken(Protocol):
    """A message that can be settled."""

    @property
    def queue(self) -> str: ...
    def ack(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...
    def give_back(self) -> None: ...
    def extend(self, seconds: float) -> None: ...


class _Held:
    """One message in a client's hand."""

    __slots__ = ("ends_at", "lease", "message")

    def __init__(self, message: Taken, lease: float, ends_at: float) -> None:
        self.message, self.lease, self.ends_at = message, lease, ends_at


class Parts(NamedTuple):
    """A receipt, taken apart."""

    node: str
    start: str
    serial: int
    mac: str


def parsed(receipt: str) -> Parts | None:
    """The parts of a receipt; None: it is none. Whether it was made by us the code says, which is not looked at."""
    if len(receipt) > RECEIPT_CHARS_MAX:
        return None
    parts = receipt.split(".")
    if len(parts) != 4 or not (parts[2].isascii() and parts[2].isdigit()) or not all(parts):
        return None
    return Parts(parts[0], parts[1], int(parts[2]), parts[3])


class Receipts:
    """The messages that clients of one gateway have in hand.

    Args:
        node: The id of the node that takes them.
        key: Secret of this start of the gateway.
        released: Called with the queue of a message that nobody has in hand any more.
    """

    def __init__(self, node: str, key: bytes, released: Callable[[str], None] = lambda queue: None) -> None:
        self.node = node
        self.start = hmac.digest(key, b"start", "sha256").hex()[:12]
        self._key, self._released = key, released
        self._held: dict[int, _Held] = {}
        self._settled: OrderedDict[int, int] = OrderedDict()
        """Serial -> hash of what was asked for, the oldest first."""
        self._ends: list[tuple[float, int]] = []
        """(instant, serial) as a heap. What was extended or settled meanwhile is passed over."""
        self._next = 1

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether clients have to settle something before they get more."""
        return len(self._held) >= HELD_MAX

    def is_ours(self, receipt: Parts) -> bool:
        """Whether the message of that receipt is, or was, here."""
        return receipt.node == self.node and receipt.start == self.start

    # Handing out and settling

    def hold(self, message: Taken, lease: float, now: float) -> str:
        """A client gets `message` for `lease` seconds; return its receipt, with which anybody may settle it."""
        serial, self._next = self._next, self._next + 1
        held = self._held[serial] = _Held(message, lease, now + lease)
        heappush(self._ends, (held.ends_at, serial))
        if lease > SLACK:  # the node is not to warn of code that hangs
            message.extend(lease + SLACK)
        text = f"{self.node}.{self.start}.{serial}"
        return f"{text}.{self._mac(text)}"

    def settle(self, act: Act, now: float, unix: float) -> Settled:
        """Do what a client asks for; `unix` is the time of day that goes with `now`."""
        receipt = parsed(act.receipt)
        if receipt is None:
            return Settled(act.receipt, Outcome.INVALID)
        if not self.is_ours(receipt):
            return Settled(act.receipt, Outcome.GONE)
        if not hmac.compare_digest(receipt.mac.encode(), self._mac(act.receipt.rpartition(".")[0]).encode()):
            return Settled(act.receipt, Outcome.INVALID)
        held = self._held.get(receipt.serial)
        if held is None or held.ends_at <= now:
            same = act.do != "extend" and self._settled.get(receipt.serial) == hash(act)
            return Settled(act.receipt, Outcome.OK if same else Outcome.GONE)
        if act.do == "extend":
            if now + act.lease > held.ends_at:
                held.message.extend(act.lease + SLACK)
                held.lease, held.ends_at = act.lease, now + act.lease
                heappush(self._ends, (held.ends_at, receipt.serial))
                self._sweep()
            return Settled(act.receipt, Outcome.OK, unix + held.ends_at - now)
        del self._held[receipt.serial]
        self._settled[receipt.serial] = hash(act)
        if len(self._settled) > REMEMBERED_MAX:
            self._settled.popitem(last=False)
        self._carry_out(held.message, act)
        return Settled(act.receipt, Outcome.OK)

    def withdraw(self, receipt: str) -> None:
        """The client did not get this receipt of ours: its message goes to others, without an attempt."""
        parts = parsed(receipt)
        held = self._held.pop(parts.serial, None) if parts is not None else None
        if held is not None:
            held.message.give_back()
            self._released(held.message.queue)

    def _carry_out(self, message: Taken, act: Act) -> None:
        try:
            match act.do:
                case "ack":
                    message.ack()
                case "nack":
                    message.failed(Retry("an HTTP client nacked it", act.delay))
                case _:
                    message.failed(Reject(act.reason or "an HTTP client rejected it"))
        finally:
            self._released(message.queue)

    def _mac(self, text: str) -> str:
        return urlsafe_b64encode(hmac.digest(self._key, text.encode(), "sha256")[:_MAC_BYTES]).rstrip(b"=").decode()

    # Leases

    def handle_timeout(self, now: float) -> Counter[str]:
        """End the leases that are over: each counts as a failed attempt. How many of which queue those were."""
        ended: Counter[str] = Counter()
        while self._ends and self._ends[0][0] <= now:
            at, serial = heappop(self._ends)
            held = self._held.get(serial)
            if held is None or held.ends_at != at:
                continue
            del self._held[serial]
            ended[held.message.queue] += 1
            try:
                held.message.failed(Retry(f"the lease of {held.lease:g} s that an HTTP client had was over"))
            finally:
                self._released(held.message.queue)
        return ended

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` has something to look at."""
        return self._ends[0][0] if self._ends else None

    def _sweep(self) -> None:
        """Forget ends that do not count any more, when they are the most: who extends each second leaves many."""
        if len(self._ends) > 2 * len(self._held) + 64:
            self._ends = [(held.ends_at, serial) for serial, held in self._held.items()]
            heapify(self._ends)

    # Ending

    def give_back(self) -> int:
        """The gateway ends: what clients still have goes to others, without an attempt; how many messages."""
        held, self._held, self._ends = self._held, {}, []
        for each in held.values():
            each.message.give_back()
            self._released(each.message.queue)
        return len(held)

    def check(self) -> None:
        """Assert that each lease ends some time, and that nothing is both in hand and settled."""
        ends = set(self._ends)
        assert all((held.ends_at, serial) in ends for serial, held in self._held.items()), "a lease that never ends"
        assert not self._held.keys() & self._settled.keys(), "in hand and settled"
