"""Given messages: what code sees of them, and what is seen of what it did."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from peerfabric import ConfigError, EncodeError, Message, Node, Reject, Retry
from peerfabric.testing import Fabric, message


class Order(msgspec.Struct):
    number: int
    dish: str


def test_what_code_sees() -> None:
    """It is a message in every respect that a handler can look at."""
    given = message(
        Order(1, "tea"), headers={"table": "4"}, attempt=2, id="shop/7", queue="orders", sender="shop", origin="shop/3"
    )
    assert isinstance(given, Message)
    assert (given.body, given.headers, given.attempt) == (Order(1, "tea"), {"table": "4"}, 2)
    assert (given.id, given.queue, given.sender, given.origin) == ("shop/7", "orders", "shop", "shop/3")
    assert msgspec.msgpack.decode(given.raw, type=Order) == given.body
    assert given.sent_at == pytest.approx(time.time(), abs=60)
    assert repr(given) == "<Message shop/7 attempt 2>"


@pytest.mark.parametrize("body", [b"\x00raw", "text", [1, {"a": None}], 7])
def test_bodies(body: Any) -> None:
    """Whatever can be sent."""
    given = message(body)
    assert given.raw == (body if isinstance(body, bytes) else msgspec.msgpack.encode(body))


def test_ids_differ() -> None:
    """Each message is one of its own, with nothing else to it than was asked for."""
    one, other = message(1), message(1)
    assert one.id != other.id
    assert (one.headers, one.attempt, one.origin, one.settled, one.delay, one.reason) == ({}, 1, None, None, None, "")


def test_leaving_with() -> None:
    """It is acked by leaving `with`, and nacked, rejected or given back by an exception, as in a node."""
    given = message("tea")
    with given as dish:
        assert (dish, given.settled) == ("tea", None)
    assert given.settled == "acked"
    for error, settled, delay, reason in (
        (ValueError("burnt"), "nacked", None, "ValueError: burnt"),
        (Retry("no gas", delay=3), "nacked", 3.0, "no gas"),
        (Reject("unknown dish"), "rejected", None, "unknown dish"),
        (KeyboardInterrupt(), "given back", None, ""),
    ):
        given = message("tea")
        with pytest.raises(type(error)), given:
            raise error
        assert (given.settled, given.delay, given.reason) == (settled, delay, reason)


def test_settling_by_hand() -> None:
    """The first call counts, as in a node."""
    given = message("tea")
    given.extend(60)
    given.extend(30)
    given.nack(delay=2)
    given.ack()
    given.extend(10)
    assert (given.settled, given.delay, given.extended) == ("nacked", 2.0, [60.0, 30.0])
    rejected, given_back = message("tea"), message("tea")
    rejected.reject("unknown")
    given_back.give_back()
    assert (rejected.settled, rejected.reason, given_back.settled) == ("rejected", "unknown", "given back")


def test_what_is_sent_meanwhile() -> None:
    """Code that sends while it has the message in hand can: nothing waits for it."""
    with Fabric() as fabric:
        plates = Node("kitchen").producer("plates", str)
        given = message("tea")
        with given as dish:
            plates.send(dish.upper())
        assert (given.settled, fabric.sent("plates")) == ("acked", ["TEA"])


@pytest.mark.parametrize("wrong", ["7", "shop/", "/7", "shop/x", "shop/0", "shop/-1"])
def test_ids_that_are_none(wrong: str) -> None:
    """The error says what one looks like."""
    with pytest.raises(ConfigError, match="such as 'shop/7'"):
        message(1, id=wrong)


def test_what_nobody_could_send() -> None:
    """It fails as the producer would."""
    with pytest.raises((EncodeError, ConfigError)):
        message(object())
    headers: Any = {"a": 1}
    with pytest.raises(EncodeError, match="header"):
        message(1, headers=headers)
    with pytest.raises(ValueError, match="attempt=0"):
        message(1, attempt=0)
