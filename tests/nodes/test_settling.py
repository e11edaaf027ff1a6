"""Settling with what users hand in: every message becomes something, and the node goes on."""

from __future__ import annotations

import asyncio
import enum
import os
import pickle
from decimal import Decimal
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import AsyncNode, EncodeError, Reject, Rejected, Retry
from peerfabric.arguments import DELAY_MAX, TEXT_BYTES_MAX, shown
from peerfabric.nodes.storage.offload import LedgerWriter
from peerfabric.wire.bodies import Codec
from tests.nodes.conftest import DEADLINE, Front

SURROGATE = os.fsdecode(b"cannot read \xff.txt")


class Broken(Exception):
    def __str__(self) -> str:
        return self.detail  # type: ignore[attr-defined,no-any-return]  # such a bug


UNSAID = "Broken (its text cannot be made: AttributeError)"


class Header(str):
    __slots__ = ()


class Queue(str, enum.Enum):  # noqa: UP042  # those that were written before StrEnum
    ORDERS = "orders"


def letters(node: Any, queue: str = "orders") -> dict[Any, tuple[str, str]]:
    return {letter.body: (letter.reason, letter.error) for letter in node.dead_letters(queue)}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", ""),
        (None, ""),
        (ValueError("no such dish"), "no such dish"),
        (SURROGATE, "cannot read \\udcff.txt"),
        ("x" * 5_000_000, "x" * TEXT_BYTES_MAX),
        (Broken(), UNSAID),
    ],
    ids=["empty", "none", "exception", "surrogate", "huge", "broken"],
)
def test_reasons_of_a_rejection(front: Front, reason: Any, told: str) -> None:
    """Each makes a dead letter with what of it can be told."""
    with front.node() as a, front.node() as b:
        producer = a.producer("orders", int)
        producer.send(1)
        b.consumer("orders", int).get(timeout=DEADLINE).reject(reason)
        producer.flush(timeout=DEADLINE)
        assert letters(a) == {1: ("rejected", told)}


def test_a_reason_that_is_no_text(front: Front) -> None:
    """The call says so, and the message is rejected all the same."""
    with front.node() as a, front.node() as b:
        producer = a.producer("orders", int)
        producer.send(1)
        with pytest.raises(TypeError, match="reason=b'x' is not text"):
            b.consumer("orders", int).get(timeout=DEADLINE).reject(b"x")
        producer.flush(timeout=DEADLINE)
        assert letters(a) == {1: ("rejected", "b'x'")}


@pytest.mark.parametrize("delay", [inf, nan, 1e300, DELAY_MAX + 1, 10**400, "5", None, Decimal("nan")], ids=shown)
def test_delays_that_cannot_be(front: Front, delay: Any) -> None:
    """The call says so, and the message comes again after the usual time; the same in a batch."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int, max_attempts=9), b.consumer("orders", int)
        producer.send(1)
        wrong = pytest.raises((TypeError, ValueError), match=r"delay=.* number of seconds; give")
        with wrong:
            consumer.get(timeout=DEADLINE).nack(delay)
        batch = next(iter(consumer.batches()))
        with wrong:
            batch.nack(0, delay)
        batch.ack()
        message = consumer.get(timeout=DEADLINE)
        assert message.attempt == 3
        message.ack()
        producer.flush(timeout=DEADLINE)


def test_a_delay_that_is_over(front: Front) -> None:
    """What is below 0 is none, as when it was reckoned from a point in time."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send(1)
        consumer.get(timeout=DEADLINE).nack(-5)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == 1
        producer.flush(timeout=DEADLINE)


@pytest.mark.parametrize("seconds", [inf, nan, 1e300, "5", None])
def test_leases_that_cannot_be_extended(front: Front, seconds: Any) -> None:
    """The call says so, and the message is as it was."""
    with front.node() as a, front.node() as b:
        producer = a.producer("orders", int)
        producer.send(1)
        message = b.consumer("orders", int).get(timeout=DEADLINE)
        with pytest.raises((TypeError, ValueError), match=r"seconds=.* number of seconds; give"):
            message.extend(seconds)
        message.extend(Decimal(5))
        message.ack()
        producer.flush(timeout=DEADLINE)


def test_an_index_that_is_no_index(front: Front) -> None:
    """It is refused at the call, since no other node would read a frame with it."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send(1)
        batch = next(iter(consumer.batches()))
        with pytest.raises(TypeError):
            batch.nack(0.0)
        batch.ack()
        producer.flush(timeout=DEADLINE)
        assert a.statistics().counters == b.statistics().counters == {}


@pytest.mark.parametrize("many", [False, True], ids=["message", "batch"])
def test_an_exception_that_cannot_say_what_it_is(front: Front, many: bool) -> None:
    """It goes on as itself out of the `with`, and the message, or each of a batch, is nacked."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int, max_attempts=1), b.consumer("orders", int)
        producer.send_many([1, 2, 3])
        batches, left = iter(consumer.batches()), {1, 2, 3}
        while left:
            taken = next(batches) if many else consumer.get(timeout=DEADLINE)
            with pytest.raises(Broken), taken:
                raise Broken
            if not many or len(taken) == 1:  # several come one by one then
                left.remove(taken[0] if many else taken.body)
        producer.flush(timeout=DEADLINE)
        assert letters(a) == dict.fromkeys((1, 2, 3), ("attempts", UNSAID))


def test_retries_take_both_orders() -> None:
    """A reason may come first, as of other exceptions, or alone; what cannot be is refused where it is made."""

    def made(*given: Any, **named: Any) -> tuple[float | None, str]:
        retry = Retry(*given, **named)
        again = pickle.loads(pickle.dumps(retry))
        assert (again.delay, str(again)) == (retry.delay, str(retry))
        return retry.delay, str(retry)

    assert made() == (None, "asked for another attempt")
    assert made(5) == made(delay=5) == (5.0, "asked for another attempt")
    for both in (made(5.0, "away"), made("away", 5.0), made("away", delay=5), made(5, reason="away")):
        assert both == (5.0, "away")
    assert made("away") == made(None, "away") == made(reason="away") == (None, "away")
    assert made(ValueError("away")) == (None, "away")
    assert made(-3) == (0.0, "asked for another attempt")
    assert made(SURROGATE) == (None, "cannot read \\udcff.txt")
    wrong: list[tuple[Any, ...]] = [("a", "b"), (1, 2), (1, "a", 2), (b"away",), ([],)]
    for given in wrong:
        with pytest.raises(TypeError):
            Retry(*given)
    with pytest.raises(TypeError, match="no argument dealy; give delay="):
        Retry(dealy=5)  # type: ignore[call-overload]
    for delay in (inf, nan, 10**12):
        with pytest.raises(ValueError, match="at most a year"):
            Retry(delay)


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"k": SURROGATE}, "'k' is not text that can be sent"),
        ({SURROGATE: "v"}, "is not text that can be sent"),
        ({"k": 1}, "'k' is not text; headers map str to str"),
        ({b"k": "v"}, "b'k' is not text"),
        ([("k", "v")], "are not a dict"),
        ("k", "are not a dict"),
        ({"k" * 256: "v"}, "has 256 characters"),
        ({"k": "v" * 8192}, "headers of 8,193 bytes"),
    ],
)
def test_headers_that_cannot_be_sent(front: Front, headers: Any, text: str) -> None:
    """Nothing is accepted or published, and what comes after them arrives."""
    with front.node() as a, front.node() as b:
        producer, publisher = a.producer("orders", int), a.publisher("news", int)
        subscriber, consumer = b.subscriber("news", int), b.consumer("orders", int)
        publisher.ready(timeout=DEADLINE)
        for send in (producer.send, publisher.publish):
            with pytest.raises(EncodeError, match=text):
                send(1, headers=headers)
            send(2, headers={"k": Header("v"), Queue.ORDERS: "q"})
        message, update = consumer.get(timeout=DEADLINE), subscriber.get(timeout=DEADLINE)
        assert (message.body, message.headers) == (update.body, update.headers) == (2, {"k": "v", "orders": "q"})
        message.ack()
        producer.flush(timeout=DEADLINE)


def test_names_of_an_enum(front: Front) -> None:
    """They are their values, wherever the name goes."""
    with front.node() as a, front.node() as b:
        a.producer(Queue.ORDERS, int).send(1)
        a.publisher(Header("news"), int).publish(1)
        with b.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == 1
        assert (a.producer("orders", int).queue, type(a.producer("orders", int).queue)) == ("orders", str)
        a.producer("orders", int).flush(timeout=DEADLINE)


def test_updates_with_large_headers_arrive(front: Front) -> None:
    """Many that are published at once, whose bodies alone would fit in one frame."""
    with front.node() as a, front.node() as b:
        publisher, subscriber = a.publisher("news", int), b.subscriber("news", int, buffer_bytes=2**30)
        publisher.ready(timeout=DEADLINE)
        for number in range(2000):
            publisher.publish(number, headers={"k": "v" * 8000})
        assert [subscriber.get(timeout=DEADLINE).body for _ in range(2000)] == list(range(2000))
        assert (subscriber.missed, b.statistics().counters) == (0, {})


class Picky(msgspec.Struct):
    """Its own code fails in a way that msgspec does not know."""

    number: int

    def __post_init__(self) -> None:
        if self.number == 1:
            raise KeyError(SURROGATE)


class Loose(msgspec.Struct):
    number: int


def test_a_body_type_that_raises(front: Front) -> None:
    """The body that it does not like is refused, with what it raised; the others are processed."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", Loose), b.consumer("orders", Picky)
        producer.send_many([Loose(n) for n in range(3)])
        seen = []
        for _ in range(2):
            with consumer.get(timeout=DEADLINE) as body:
                seen.append(body.number)
        assert seen == [0, 2]
        producer.flush(timeout=DEADLINE)
        [letter] = a.dead_letters("orders")
        assert (letter.reason, "KeyError" in letter.error) == ("refused", True)


def test_rejections_take_what_exceptions_take() -> None:
    assert [str(Reject(*given)) for given in ((), ("a",), (ValueError("b"),))] == ["", "a", "b"]


class Interrupted(BaseException):
    """As Ctrl-C is."""


class Quits(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number == 0:
            raise SystemExit("no such number")


def test_a_body_type_that_ends_the_program_refuses_its_body(front: Front) -> None:
    """Under a handler that is a body that does not fit: a dead letter, and the next one is handled."""
    seen: list[int] = []

    def handle(body: Quits) -> None:
        seen.append(body.number)

    with front.node() as a, front.node() as b:
        b.on_message("orders")(handle)
        orders = a.producer("orders", Any)
        receipt = orders.send({"number": 0})
        orders.send({"number": 1}, confirm="processed", timeout=DEADLINE)
        with pytest.raises(Rejected, match="SystemExit: no such number"):
            orders.wait(receipt, "processed", timeout=DEADLINE)
    assert seen == [1]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("batch", [False, True], ids=["message", "batch"])
def test_an_ack_that_cannot_be_noted_is_a_nack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: bool) -> None:
    """Who writes for the event loop cannot be started: `ack` raises, and the message comes again at once."""

    def refused(ledger_writer: Any, *entry: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        async with AsyncNode() as node:
            producer = node.producer("orders", int)
            consumer = node.consumer("orders", int, ledger=tmp_path / "ledger")
            await producer.send(1)
            taken: Any = await (anext(aiter(consumer.batches())) if batch else consumer.get(timeout=DEADLINE))
            with monkeypatch.context() as patch:
                patch.setattr(LedgerWriter, "record", refused)
                with pytest.raises(RuntimeError):
                    taken.ack()
            with await consumer.get(timeout=DEADLINE) as body:
                assert body == 1

    asyncio.run(story())


def test_an_interrupted_decoding(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was about is not lost with it: the next call takes it."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        decode = Codec.decode_batch

        def interrupted(codec: Codec[Any], body: Any, number: int) -> list[Any]:
            monkeypatch.setattr(Codec, "decode_batch", decode)
            raise Interrupted

        monkeypatch.setattr(Codec, "decode_batch", interrupted)
        producer.send(1)
        with pytest.raises(Interrupted):
            consumer.get(timeout=DEADLINE)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == 1
        producer.flush(timeout=DEADLINE)
