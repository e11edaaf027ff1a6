"""Every documented call as a user writes it, for type checkers: `make lint` reads this file, and pyright may.

Nothing here is run but what says that it is complete.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, assert_type

import attrs
import msgspec
import pydantic

import peerfabric
from peerfabric import (
    AsyncClient,
    AsyncConsumer,
    AsyncNode,
    AsyncParts,
    AsyncProducer,
    AsyncSubscriber,
    Batch,
    Busy,
    Call,
    Cancelled,
    Client,
    ConfigError,
    Consumer,
    DeadMessage,
    DecodeError,
    EncodeError,
    Gathered,
    Incomplete,
    Message,
    Node,
    NodeClosed,
    NoServer,
    NotConfirmed,
    Once,
    Options,
    Parts,
    Producer,
    Publisher,
    QueueFull,
    Receipt,
    Reject,
    Rejected,
    RemoteError,
    Retry,
    ServerLost,
    Service,
    ServiceBusy,
    SpoolFull,
    SpoolLocked,
    Statistics,
    Subscriber,
    TimedOut,
    Undelivered,
    Update,
    admin,
)
from peerfabric.status import Status
from peerfabric.testing import AsyncFabric, Fabric, GivenMessage
from peerfabric.testing import message as message_of


class Order(msgspec.Struct):
    number: int
    dish: str


@dataclasses.dataclass
class Payment:
    cents: int


@attrs.define
class Account:
    number: int


class Item(pydantic.BaseModel):
    price: int


class Row(TypedDict):
    name: str


def nodes() -> None:
    Node()
    Node("kitchen", fabric="tests", listen="tcp://127.0.0.1:*", peers=["tcp://127.0.0.1:7700"], discovery=("static",))
    Node(discovery="auto", options=Options(drain_timeout=1, spool_bytes=1 << 20), spool=Path("spool"), fsync=True)
    AsyncNode("kitchen", peers=("tcp://127.0.0.1:7700",), discovery=["registry", "mdns"], spool="spool")


def body_types(node: Node) -> None:
    assert_type(node.producer("q", Order), Producer[Order])
    assert_type(node.producer("q", Payment), Producer[Payment])
    assert_type(node.producer("q", Account), Producer[Account])
    assert_type(node.producer("q", Item), Producer[Item])
    assert_type(node.producer("q", Row), Producer[Row])
    assert_type(node.producer("q", dict[str, list[int]]), Producer[dict[str, list[int]]])
    assert_type(node.consumer("q", bytes), Consumer[bytes])
    assert_type(node.consumer("q", memoryview), Consumer[memoryview])
    assert_type(node.consumer("q", list[Order]), Consumer[list[Order]])
    assert_type(node.consumer("q", Order | None), Consumer[Order | None])
    assert_type(node.publisher("t", float), Publisher[float])
    assert_type(node.subscriber("t.*", float, buffer_bytes=1 << 20), Subscriber[float])
    node.producer("q", dict).send({"number": 3})
    node.producer("q", spool=False, body_type=int, on_full="drop_oldest", buffer_bytes=1 << 20, max_attempts=3)
    node.producer("q", Order, on_full="spool", spool=True, fsync=False)
    node.consumer("q", Order, lease=20, ledger=Path("orders.ledger"))


def sending(node: Node) -> None:
    orders = node.producer("orders", Order)
    receipt = orders.send(Order(1, "tea"))
    assert_type(receipt, Receipt)
    orders.send(Order(2, "jam"), headers={"trace": "1"}, confirm="stored", timeout=5)
    orders.send(Order(2, "jam"), confirm="delivered", ttl=30)
    try:
        orders.send(Order(2, "jam"), confirm="processed", timeout=5)
    except NotConfirmed as error:
        orders.wait(error.receipt, "processed")
        orders.wait(error.receipt, error.state, timeout=5)
        assert_type(orders.state(error.receipt), str)
        print(error.receipt.id, error.receipt.stream, error.receipt.sequence)
    except Rejected as error:
        print(error.message_id, error.reason)
    try:
        assert_type(orders.send_many([Order(1, "tea")], ttl=0.5, timeout=5), int)
        orders.send_many(Order(n, "tea") for n in range(3))
    except (EncodeError, QueueFull, SpoolFull) as error:
        print(error.accepted)
    orders.flush(timeout=5)
    orders.ready(consumers=2, timeout=5)
    orders.close()
    orders.close(timeout=5)


def taking(node: Node) -> None:
    consumer = node.consumer("orders", Order)
    try:
        message = consumer.get(timeout=5)
    except (TimedOut, NodeClosed):
        return
    assert_type(message, Message[Order])
    for message in consumer:
        with message as order:
            assert_type(order, Order)
    for message in node.consumer("orders", Order):
        print(message.id, message.queue, message.attempt, message.sender, message.sent_at + 1, message.origin or "")
        print(message.body.dish, message.headers["trace"], message.raw.hex())
        message.extend(60)
        message.nack(delay=2.5)
        message.reject("why")
        message.give_back()
        message.ack()
    for batch in consumer.batches(max_size=10, max_wait=0.5):
        assert_type(batch, Batch[Order])
        with batch as bodies:
            assert_type(bodies, Sequence[Order])
        print(batch[0].dish, batch[1:], len(batch), batch.ids[0], [order.number for order in batch])
        batch.nack(0, delay=1)
        batch.ack()
    consumer.close()


def handing_on(node: Node) -> None:
    orders, bills = node.consumer("orders", Order, ack_after="return"), node.producer("bills", Order)
    for message in orders:
        assert_type(bills.send(message.body, cause=message), Receipt)
        bills.send(message.body, cause=None)
        bills.send(message.body, cause="in hand")
    for batch in orders.batches():
        assert_type(bills.send_many(batch, cause=batch), int)

    @node.on_message("orders", ack_after="outputs")
    def bill(order: Order, message: Message[Order]) -> None:
        bills.send(order, cause=message)


def topics(node: Node) -> None:
    prices = node.publisher("prices.eur", float)
    prices.ready(subscribers=2, timeout=5)
    prices.publish(1.08)
    prices.publish(1.08, topic="prices.usd", headers={"trace": "1"})
    assert_type(prices.publish_many([1.0, 2.0]), int)
    subscriber = node.subscriber("prices.*", float)
    assert_type(subscriber.get(timeout=5), Update[float])
    for update in subscriber:
        print(update.topic, update.body + 1, update.headers, update.sender, update.sent_at, update.sequence)
    for updates in subscriber.batches(max_size=10, max_wait=0.5):
        assert_type(updates, list[Update[float]])
    print(subscriber.missed + 1)
    subscriber.close()


def handlers(node: Node) -> None:
    @node.on_message("orders", concurrency=4, lease=60.0, ledger="orders.ledger")
    def cook(order: Order, message: Message[Order]) -> None:
        if message.attempt > 3:
            raise Reject("too often")
        raise Retry(delay=2.0)

    @node.on_topic("prices.>")
    def show(price: float, update: Update[float]) -> None:
        print(price, update.topic)

    cook(Order(1, "tea"), node.consumer("orders", Order).get())
    node.run()


COOK = Service("cook", Order, Payment, idempotent=True)
STEPS = Service("steps", Order, str | None, stream=True)


def services(node: Node) -> None:
    @node.serve(COOK, concurrency=4, waiting=16)
    def cook(order: Order, call: Call) -> Payment:
        if call.cancelled or call.left < 1:
            raise Busy(retry=0.5)
        print(call.caller, call.headers["trace"])
        return Payment(3)

    @node.serve("steps", stall=5)
    def steps(order: Order) -> Iterator[str | None]:
        try:
            yield order.dish
        except Cancelled:
            raise Busy("why") from None

    assert_type(COOK, Service[Order, Payment])
    assert_type(node.request(COOK, Order(1, "tea")), Payment)
    assert_type(node.request("cook", {"number": 1}, reply_type=Payment, timeout=None, server="kitchen"), Payment)
    client = node.client(COOK)
    assert_type(client, Client[Order, Payment])
    client.ready(servers=2, timeout=5)
    assert_type(client(Order(1, "tea"), timeout=1, headers={"trace": "1"}), Payment)
    parts = node.stream(STEPS, Order(1, "tea"), timeout=5)
    assert_type(parts, Parts[str | None])
    for part in parts:
        assert_type(part, str | None)
    parts.close()
    assert_type(node.stream("steps", 1, reply_type=str), Parts[str])
    try:
        got = node.gather(COOK, Order(1, "tea"), timeout=1, require=2)
    except Incomplete as error:
        print(error.gathered)
    else:
        assert_type(got, Gathered[Payment])
        assert_type(got.replies, dict[str, Payment])
        assert_type(got.errors, dict[str, RemoteError])
        print(got.missing["id"], got.names["id"])
    try:
        node.request(COOK, Order(1, "tea"), idempotent=False)
    except ServiceBusy as error:
        print(error.retry_after + 1, error.service)
    except RemoteError as error:
        print(error.type, error.text, error.server)
    except (NoServer, ServerLost) as error:
        print(error.service)
        if isinstance(error, ServerLost):
            assert_type(error.parts, int)
    for service in node.services():
        print(service.name, service.capacity, service.load, [server.name for server in service.servers])


def looking(node: Node) -> None:
    for letter in node.dead_letters("orders"):
        assert_type(letter, DeadMessage[Any])
        print(letter.id, letter.reason, letter.error, letter.attempts, letter.body, letter.headers, letter.sent_at)
        print(letter.retry() or letter.drop(), letter.slot)
    node.look_at_all()
    assert_type(node.ping("kitchen", timeout=2.0), float)
    node.reload()
    for peer in node.peers():
        print(peer.name, peer.state, peer.endpoint, peer.consumes)
    statistics = node.statistics()
    assert_type(statistics, Statistics)
    print(statistics.producers[0].acked + 1, statistics.as_dict()["peers"], node.name, node.fabric)
    print([(adopted.slot, adopted.name, adopted.producers) for adopted in statistics.adopted])
    if statistics.spool is not None:
        print(statistics.spool.folder, statistics.spool.slot + statistics.spool.parked, statistics.spool.used_bytes)
    try:
        node.close(timeout=None)
    except Undelivered as error:
        print(error.waiting + error.in_flight)


def asking(node: Node) -> None:
    for process in admin.processes(1.0, queues=10, fabric="kitchen"):
        assert_type(process, admin.Answer)
        assert_type(process.status, Status | None)
        assert_type(admin.ask(process, "pause", queue="orders", timeout=1.0), dict[str, Any])
    for answer in admin.answers():
        assert_type(answer.problem, str)
    assert_type(admin.here(queues=10), Status)
    assert_type(admin.fabric_status(node, 1.0, queues=10), list[Status])
    with admin.follow(4711, "tap", name="orders") as following:
        for line in following:
            assert_type(line, dict[str, Any])
    end = admin.register("reload", lambda arguments: {"reloaded": bool(arguments)})
    end()
    try:
        admin.ask("/run/x.sock", "status")
    except admin.NotAnswered as error:
        assert_type(error.pid, int)


def once(node: Node) -> None:
    connection = sqlite3.connect("bank.db")
    once = Once(connection)
    once.create()
    for message in node.consumer("payments", Payment, ledger="bank.ledger"):
        with message as payment, connection:
            if once.first(message) and once.first("payment/17"):
                print(payment.cents)
    once.forget()


def in_tests(fabric: Fabric, node: Node, other: AsyncNode) -> None:
    given = message_of(Order(1, "tea"), headers={"a": "b"}, attempt=2, id="shop/1", sent_at=1.0)
    assert_type(given, GivenMessage[Order])
    taken: Message[Order] = given
    with taken as order:
        assert_type(order, Order)
    assert_type(given.settled, Literal["acked", "nacked", "rejected", "given back"] | None)
    assert_type(given.delay, float | None)
    assert_type(given.reason, str)
    assert_type(given.extended, list[float])
    with Fabric() as made:
        made.close()
    assert_type(fabric.sent("orders"), list[Any])
    assert_type((fabric.name, fabric.folder), tuple[str, Path])
    fabric.settled(timeout=1)
    for each in (node, other):
        fabric.restart(each, timeout=None)
        fabric.kill(each)
        fabric.hang(each)
        fabric.resume(each)


async def in_tests_awaited(fabric: AsyncFabric, node: Node | AsyncNode) -> None:
    async with AsyncFabric() as made:
        assert_type(made.sent("orders"), list[Any])
    await fabric.settled(timeout=None)
    await fabric.restart(node, timeout=1)
    await fabric.kill(node)


def errors() -> None:
    try:
        with Node("desk", spool="desk-spool") as node:
            assert_type(node, Node)
    except SpoolLocked as error:
        print(error.pid, error.path, error.errno)
    except DecodeError as error:
        print(error.path, error.sender, error.reason)
    except ConfigError as error:
        raise ValueError(str(error)) from error


async def awaited() -> None:
    async with AsyncNode("kitchen") as node:
        assert_type(node, AsyncNode)
        orders = node.producer("orders", Order, max_attempts=3)
        assert_type(orders, AsyncProducer[Order])
        consumer = node.consumer("orders", Order)
        assert_type(consumer, AsyncConsumer[Order])
        try:
            assert_type(await orders.send(Order(1, "tea"), confirm="processed", timeout=5), Receipt)
        except NotConfirmed as error:
            await orders.wait(error.receipt, error.state)
        assert_type(await orders.send_many([Order(1, "tea")], ttl=2), int)
        await orders.close(timeout=5)
        await orders.ready()
        await orders.flush(timeout=5)
        assert_type(await consumer.get(timeout=5), Message[Order])
        async for message in consumer:
            with message as order:
                assert_type(order, Order)
        async for batch in consumer.batches():
            with batch as bodies:
                assert_type(bodies, Sequence[Order])
        prices = node.publisher("prices", float)
        await prices.ready()
        await prices.publish(1.0, topic="prices.usd")
        await prices.publish_many([1.0])
        subscriber = node.subscriber("prices", float)
        assert_type(subscriber, AsyncSubscriber[float])
        assert_type(await subscriber.get(), Update[float])
        async for update in subscriber:
            print(update.body)

        @node.on_message("orders")
        async def cook(order: Order) -> None:
            print(order.dish)

        @node.on_topic("prices")
        def show(price: float) -> None:
            print(price)

        await cook(Order(1, "tea"))
        show(1.0)

        @node.serve(COOK)
        async def pay(order: Order) -> Payment:
            return Payment(order.number)

        @node.serve(STEPS)
        async def steps(order: Order) -> AsyncIterator[str | None]:
            yield order.dish

        assert_type(await node.request(COOK, Order(1, "tea"), timeout=1), Payment)
        assert_type(await node.request("cook", Order(1, "tea"), reply_type=Payment), Payment)
        client = node.client(COOK)
        assert_type(client, AsyncClient[Order, Payment])
        await client.ready()
        assert_type(await client(Order(1, "tea"), timeout=1), Payment)
        assert_type(node.stream(STEPS, Order(1, "tea")), AsyncParts[str | None])
        async for part in node.stream(STEPS, Order(1, "tea")):
            assert_type(part, str | None)
        assert_type(await node.gather(COOK, Order(1, "tea"), timeout=1), Gathered[Payment])
        assert_type(await node.dead_letters("orders"), list[DeadMessage[Any]])
        await node.run()
        await node.close(timeout=5)


Confirmed = Literal["queued", "stored", "delivered", "processed"]


def variance(producer: Producer[Order | None], consumer: Consumer[Order], confirm: Confirmed) -> None:
    narrower: Producer[Order] = producer
    wider: Consumer[Order | None] = consumer
    narrower.send(Order(1, "tea"), confirm=confirm)
    print(wider)


def test_every_documented_method_is_called() -> None:
    """A public method that is not called above would be seen by no type checker."""
    text = Path(__file__).read_text()
    names = ("Node", "Producer", "Consumer", "Publisher", "Subscriber", "Message", "Batch", "DeadMessage", "Once")
    for name in (*names, "Client", "Parts"):
        check_called(getattr(peerfabric, name), text)
    for kind in (Fabric, AsyncFabric, GivenMessage):
        check_called(kind, text)


def check_called(kind: type, text: str) -> None:
    for method, function in inspect.getmembers(kind, inspect.isfunction):
        ours = function.__module__.startswith("peerfabric.") and not method.startswith("_")
        if ours and method not in ("failed", "joined"):  # which our own loops call
            assert re.search(rf"\.{method}\(", text), f"{kind.__name__}.{method}"
