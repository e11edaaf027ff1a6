"""Pydantic models and attrs classes from one node to another, on both fronts."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pydantic
import pytest

from peerfabric import ConfigError
from tests.nodes.conftest import DEADLINE, eventually


class Item(pydantic.BaseModel):
    name: str
    price: Decimal


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(gt=0)
    at: datetime.datetime
    items: list[Item] = []


class Loose(pydantic.BaseModel):
    number: int
    at: datetime.datetime


@attrs.frozen
class Account:
    number: int = attrs.field(validator=attrs.validators.gt(0))


class Plain:
    """A class that says nothing of its fields."""


AT = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)


def order(number: int) -> Order:
    return Order(number=number, at=AT, items=[Item(name="tea", price=Decimal("1.10"))])


@pytest.mark.parametrize(
    ("kind", "make"), [(Order, order), (list[Order], lambda n: [order(n)] * n), (Account, Account)]
)
def test_through_a_queue_and_a_topic(front: Any, kind: Any, make: Any) -> None:
    """One by one, in batches, in handlers and as updates they arrive as they were."""
    bodies = [make(number) for number in range(1, 11)]
    with front.node() as a, front.node() as b:
        handled: list[Any] = []

        def handle(body: Any) -> None:
            handled.append(body)

        handle.__annotations__["body"] = kind
        b.on_message("handled")(handle)
        subscriber, publisher = b.subscriber("news", kind), a.publisher("news", kind)
        publisher.ready(timeout=DEADLINE)
        publisher.publish_many(bodies)
        a.producer("handled", kind).send_many(bodies)
        a.producer("taken", kind).send_many(bodies)
        taken: list[Any] = []
        for batch in b.consumer("taken", kind).batches():
            with batch as found:
                taken.extend(found)
            if len(taken) == len(bodies):
                break
        assert taken == bodies
        assert [subscriber.get(timeout=DEADLINE).body for _ in bodies] == bodies
        eventually(lambda: handled == bodies)


def test_through_a_spool_and_a_ledger(front: Any, tmp_path: Path) -> None:
    """What the disk kept of a model is a model in the next life."""
    tmp_path.chmod(0o700)
    with front.node("shop", spool=tmp_path / "spool") as node:
        node.producer("orders", Order).send(order(1))
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("orders", Order)
        with node.consumer("orders", Order, ledger=tmp_path / "ledger").get(timeout=DEADLINE) as body:
            assert body == order(1)
        producer.send(order(2))
        node.consumer("orders", Order, ledger=tmp_path / "ledger").get(timeout=DEADLINE).reject("no")
        producer.flush(timeout=DEADLINE)
        (letter,) = node.dead_letters("orders")
        assert letter.body == order(2)


def test_what_does_not_fit_is_refused_with_its_place(front: Any) -> None:
    """As of every other type: nobody can take it, and it is a dead letter that says why."""
    with front.node() as a, front.node() as b:
        b.on_message("orders")(handler_of_orders)
        producer = a.producer("orders", list[Loose])
        producer.send([Loose(number=0, at=AT)])
        producer.flush(timeout=DEADLINE)
        (letter,) = a.dead_letters("orders")
        assert letter.reason == "refused"
        assert "$[0].number: Input should be greater than 0" in letter.error
        publisher, subscriber = a.publisher("news", Loose), b.subscriber("news", Order)
        publisher.ready(timeout=DEADLINE)
        publisher.publish(Loose(number=0, at=AT))
        publisher.publish(Loose(number=1, at=AT))
        assert subscriber.get(timeout=DEADLINE).body == Order(number=1, at=AT)
        assert subscriber.missed == 1


def handler_of_orders(orders: list[Order]) -> None:
    """Takes what fits."""


def test_plain_classes_are_refused_by_every_handle(front: Any) -> None:
    """When it is made, also by the decorators."""

    def handle(body: dict[str, Plain]) -> None:
        """Is never called."""

    node = front.node()
    makers: list[Callable[[], Any]] = [
        lambda: node.producer("q", Plain),
        lambda: node.consumer("q", list[Plain]),
        lambda: node.publisher("t", Plain | None),
        lambda: node.subscriber("t", tuple[Plain, ...]),
        lambda: node.on_message("q")(handle),
        lambda: node.on_topic("t")(handle),
    ]
    for make in makers:
        with pytest.raises(ConfigError, match="no way to encode and decode Plain"):
            make()
