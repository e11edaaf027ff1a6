"""Given messages: real ones, of no node, for tests of the code that handles them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from peerfabric.arguments import check_count
from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.message import Message
from peerfabric.options import Options
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.status import HANDLER_SECONDS
from peerfabric.wire.bodies import Codec, join_one
from peerfabric.wire.frames import Extra

if TYPE_CHECKING:
    from peerfabric.nodes.storage.ledger_store import LedgerStore

T = TypeVar("T")

Settled = Literal["acked", "nacked", "rejected", "given back"]

_SETTLED: Final[dict[Verdict, Settled]] = {
    Verdict.ACK: "acked",
    Verdict.NACK: "nacked",
    Verdict.REJECT: "rejected",
    Verdict.GIVE_BACK: "given back",
}
_numbers = itertools.count(1)


class _Test:
    """The owner of a given message: a consumer without a node."""

    ledger_store: LedgerStore | None = None
    alerted = True  # nobody need be told of what is decided
    end: Any = None
    in_tasks = False
    waits_for_outputs = times = False
    queue = ""

    def __init__(self) -> None:
        self.extended: list[float] = []
        self.seconds, self.seconds_sum = [0] * (len(HANDLER_SECONDS) + 1), 0.0

    def ledger_writer(self) -> None:
        return None

    def decided(self) -> None:
        pass

    def extend(self, delivery: Delivery, index: int, seconds: float) -> None:
        self.extended.append(seconds)


class GivenMessage(Message[T], eq=False):
    """A message that `message()` has made, whose end can be read."""

    @property
    def settled(self) -> Settled | None:
        """How it was settled: "acked", "nacked", "rejected" or "given back"; None: it is not."""
        if self._delivery.acked:
            return "acked"
        verdict = self._verdict()
        return None if verdict is None else _SETTLED[verdict[0]]

    @property
    def delay(self) -> float | None:
        """Of a message that was nacked, the seconds asked for until it comes again; None: the usual backoff."""
        verdict = self._verdict()
        return None if verdict is None or verdict[3] < 0 else verdict[3]

    @property
    def reason(self) -> str:
        """Why it was nacked or rejected, as far as that was said."""
        verdict = self._verdict()
        return "" if verdict is None else verdict[4]

    @property
    def extended(self) -> list[float]:
        """The seconds of each call of `extend`."""
        return list(cast("_Test", self._owner).extended)

    def _verdict(self) -> tuple[Verdict, int, int, float, str] | None:
        return self._delivery.verdicts[0] if self._delivery.verdicts else None


def message(
    body: T,
    *,
    headers: Mapping[str, str] | None = None,
    attempt: int = 1,
    id: str | None = None,
    queue: str = "test",
    sender: str = "test",
    sent_at: float | None = None,
    origin: str | None = None,
) -> GivenMessage[T]:
    """A message as a consumer gets it, with `body` in it, of no node.

    All that code may do with a message works: `with`, `ack`, `nack`, `reject`, `give_back`, `extend`; what became of it
    say `settled`, `delay`, `reason` and `extended`.

    Args:
        id: Of any text that ends in a slash and a number, such as "shop/7"; None: one that no other has.
        attempt: Which delivery it is, from 1.
        sent_at: Seconds of Unix time; None: now.

    Raises:
        EncodeError, MessageTooLarge: A body that no producer could send.
        ConfigError, BadName, TypeError, ValueError: One of the others is none.
    """
    stream, number = f"test/{next(_numbers)}", 1
    if id is not None:
        stream, slash, digits = id.rpartition("/")
        if not (stream and slash and digits.isascii() and digits.isdigit() and int(digits)):
            raise ConfigError(f"id={id!r} is not that of a message; give a text that ends in /NUMBER, such as 'shop/7'")
        number = int(digits)
    extra = Extra(0, checked_headers(dict(headers)) if headers else None, origin)
    codec: Codec[Any] = Codec(type(body), Options().message_bytes_max)
    frame, codec_number = join_one(codec.encode(body), codec.number)
    delivery = Delivery(
        peer="test",
        sender=sender,
        stream=stream,
        queue=check_name("queue", queue),
        first=number,
        count=1,
        attempt=check_count("attempt", attempt, "give which delivery it shall be, from 1", least=1),
        body=frame,
        codec=codec_number,
        sent_ms=round(1000 * (time.time() if sent_at is None else sent_at)),
        cost=len(frame),
        extras={0: extra} if extra.headers or extra.origin else None,
    )
    delivery.next, delivery.until = 1, inf
    return GivenMessage(_Test(), delivery, 0, body)
