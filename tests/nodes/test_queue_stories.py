"""Queues over real nodes, each story told to both fronts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from peerfabric import (
    BadName,
    Batch,
    ConfigError,
    DecodeError,
    EncodeError,
    Message,
    MessageTooLarge,
    Node,
    NodeClosed,
    NotConfirmed,
    Options,
    QueueFull,
    Receipt,
    Rejected,
    TimedOut,
    Undelivered,
)
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.waiting import ThreadWaiter
from tests.nodes.conftest import DEADLINE


class Order(msgspec.Struct):
    number: int
    dish: str


def closes(node: Any) -> bool:
    return all(account.closes for account in node.statistics().producers)


def account(node: Any, queue: str = "orders") -> Any:
    return next(a for a in node.statistics().producers if a.queue == queue)


# Sending and taking


def test_a_message_crosses_from_one_node_to_another(front: Any) -> None:
    """What was sent arrives decoded, with everything a handler may ask for."""
    with front.node("kitchen") as kitchen, front.node("shop") as shop:
        consumer = kitchen.consumer("orders", Order)
        receipt = shop.producer("orders", Order).send(Order(1, "tea"), headers={"table": "7"})
        message = consumer.get(timeout=10)
        got = (message.body, message.id, message.queue, message.headers, message.attempt, message.sender)
        assert got == (Order(1, "tea"), receipt.id, "orders", {"table": "7"}, 1, "shop")
        assert msgspec.msgpack.decode(message.raw, type=Order) == Order(1, "tea")
        assert abs(message.sent_at - time.time()) < 60
        shop.producer("orders", Order).wait(receipt, "delivered", timeout=10)
        message.ack()
        shop.producer("orders", Order).wait(receipt, "processed", timeout=10)
        assert shop.producer("orders", Order).state(receipt) == "processed"
        assert closes(shop)


def test_bytes_travel_raw(front: Any) -> None:
    """A body of bytes is what it was, and `raw` is the same."""
    with front.node() as a, front.node() as b:
        consumer = b.consumer("blobs", bytes)
        a.producer("blobs", bytes).send(b"\x00\xff" * 100_000)
        message = consumer.get(timeout=10)
        assert message.body == message.raw == b"\x00\xff" * 100_000
        message.ack()


def test_views_need_no_copy_and_outlive_their_node(front: Any) -> None:
    """A consumer and a subscriber of `memoryview` read bodies of any size where they arrived."""
    bodies = [b"small", b"m" * 40_000, b"l" * 1_000_000]
    with front.node("kitchen") as kitchen, front.node("shop") as shop:
        consumer, subscriber = kitchen.consumer("images", memoryview), kitchen.subscriber("images", memoryview)
        producer, publisher = shop.producer("images", bytes), shop.publisher("images", bytes)
        publisher.ready(timeout=10)
        views = []
        for body in bodies:
            producer.send(body)
            publisher.publish(body)
            with consumer.get(timeout=10) as view:
                views.append(view)
            views.append(subscriber.get(timeout=10).body)
        kitchen.producer("own", memoryview).send(memoryview(bodies[2]))
        with kitchen.consumer("own", memoryview).get(timeout=10) as view:
            views.append(view)
    assert all(view.readonly for view in views)
    assert views == [body for body in bodies for _ in range(2)] + bodies[2:]


def test_order_of_sending_is_order_of_processing(front: Any) -> None:
    """From one producer to one consumer nothing is overtaken, however it was sent."""
    with front.node() as a, front.node() as b:
        consumer, producer = b.consumer("orders", int), a.producer("orders", int)
        for n in range(50):
            producer.send(n)
        assert producer.send_many(range(50, 5000)) == 4950
        seen = []
        for message in consumer:
            with message as body:
                seen.append(body)
            if len(seen) == 5000:
                break
        assert seen == list(range(5000))
        producer.flush(timeout=10)
        assert account(a).acked == 5000
        assert closes(a)


def test_a_node_consumes_from_itself(front: Any) -> None:
    """In memory, with the same states and the same accounting."""
    with front.node() as node:
        producer, consumer = node.producer("orders", Order), node.consumer("orders", Order)
        receipt = producer.send(Order(1, "tea"))
        message = consumer.get(timeout=10)
        assert message.body == Order(1, "tea")
        producer.wait(receipt, "delivered", timeout=10)
        message.ack()
        producer.flush(timeout=10)
        assert producer.state(receipt) == "processed"
        assert (account(node).acked, closes(node)) == (1, True)


def test_a_loop_goes_on_from_frame_to_frame() -> None:
    """Once a message was taken the next one is, from whichever frame, as soon as it is here; else it says so."""
    with Node() as node:
        producer, consumer = node.producer("orders", str), node.consumer("orders", str)
        producer.send("first")
        with consumer.get(timeout=10) as body:
            assert body == "first"
        producer.send("second", confirm="delivered", timeout=10)
        message = consumer._async.take_again()
        assert message is not None
        with message as body:
            assert body == "second"
        assert consumer._async.take_again() is None


def test_messages_wait_for_the_first_consumer(front: Any) -> None:
    """Nobody is there yet: what was accepted stays, and goes out when somebody comes."""
    with front.node() as a:
        a.producer("orders", int).send_many(range(100))
        assert account(a).waiting == 100
        with front.node() as b:
            consumer = b.consumer("orders", int)
            got = [take(consumer) for _ in range(100)]
            assert got == list(range(100))
            a.producer("orders", int).flush(timeout=10)


def take(consumer: Any) -> Any:
    with consumer.get(timeout=10) as body:
        return body


def test_several_consumers_share_the_work(front: Any) -> None:
    """Each message goes to one of them, and each of them gets some."""
    with front.node("shop") as shop, front.node("b") as b, front.node("c") as c:
        seen: Counter[int] = Counter()
        per_node: Counter[str] = Counter()
        lock = threading.Lock()

        def work(node: Any) -> None:
            for message in node.consumer("orders", int):
                with message as body:
                    time.sleep(0.002)
                    with lock:
                        seen[body] += 1
                        per_node[node.name] += 1

        threads = [threading.Thread(target=work, args=(node,)) for node in (b, c)]
        for thread in threads:
            thread.start()
        producer = shop.producer("orders", int)
        producer.ready(consumers=2, timeout=10)
        producer.send_many(range(400))
        producer.flush(timeout=20)
        b.close()
        c.close()
        for thread in threads:
            thread.join()
        assert seen == Counter(range(400))
        assert min(per_node.values()) > 100


def test_threads_share_one_producer_and_one_consumer(front: Any) -> None:
    """A thread's sends keep their order, and each message goes to one caller."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", tuple[int, int]), b.consumer("orders", tuple[int, int])
        taken: list[list[tuple[int, int]]] = [[] for _ in range(4)]

        def send(number: int) -> None:
            for n in range(300):
                producer.send((number, n))

        def receive(mine: list[tuple[int, int]]) -> None:
            while True:
                try:
                    with consumer.get() as body:
                        mine.append(body)
                except NodeClosed:
                    return

        senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        takers = [threading.Thread(target=receive, args=(mine,)) for mine in taken]
        for thread in senders + takers:
            thread.start()
        for thread in senders:
            thread.join()
        producer.flush(timeout=20)
        b.close()
        for thread in takers:
            thread.join()
        assert sorted(pair for mine in taken for pair in mine) == [(s, n) for s in range(4) for n in range(300)]
        for mine in taken:
            for s in range(4):
                assert [n for t, n in mine if t == s] == sorted(n for t, n in mine if t == s)


# Handles


def test_one_handle_a_name(front: Any) -> None:
    """Asked again the same way a node returns the same handle; asked otherwise it says which options it has."""
    with front.node() as node:
        assert node.producer("orders", int) == node.producer("orders", int)
        assert node.consumer("orders", int) == node.consumer("orders", int)
        assert node.publisher("prices", int) == node.publisher("prices", int)
        assert node.subscriber("prices", int) == node.subscriber("prices", int)
        asks: tuple[Callable[[], Any], ...] = (
            lambda: node.producer("orders", str),
            lambda: node.producer("orders", int, max_attempts=3),
            lambda: node.consumer("orders", str),
            lambda: node.consumer("orders", int, lease=3),
            lambda: node.publisher("prices", str),
            lambda: node.subscriber("prices", int, buffer_bytes=5),
        )
        for ask in asks:
            with pytest.raises(ValueError, match="ask for the same"):
                ask()


def test_construction_opens_nothing(front: Any, runtime: Any) -> None:
    """A node that was only made has no folder, no thread and nothing to close."""
    threads = threading.active_count()
    node = front.node("kitchen")
    node.producer("orders", int)
    node.consumer("orders", int)
    assert (threading.active_count(), list(runtime.rglob("*"))) == (threads, [])
    node.close()
    with pytest.raises(NodeClosed, match="make a new Node"):
        node.producer("orders", int)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda node: node.producer("a b", int), BadName, "use letters"),
        (lambda node: node.producer("", int), BadName, "use letters"),
        (lambda node: node.consumer("x" * 256, int), BadName, "at most 255 bytes"),
        (lambda node: node.publisher("a.*", int), BadName, "use letters"),
        (lambda node: node.subscriber("a.>.b", int), BadName, "use"),
        (lambda node: node.producer("q", int, on_full="wait"), ConfigError, "use 'block'"),
        (lambda node: node.producer("q", int, buffer_bytes=0), ConfigError, "positive"),
        (lambda node: node.consumer("q", int, lease=0), ConfigError, "positive number of seconds"),
        (lambda node: node.consumer("q", threading.Lock), ConfigError, "use a msgspec.Struct"),
        (lambda node: node.consumer("q", int).batches(max_size=0), ConfigError, "max_size >= 1"),
        (lambda node: node.producer("q", int).send(1, confirm="stored"), ConfigError, "spool"),
        (lambda node: node.producer("q", int).send(1, confirm="eaten"), ConfigError, "use"),
    ],
)
def test_wrong_arguments_say_what_is_right(front: Any, make: Any, error: type[Exception], text: str) -> None:
    """Each is a ValueError whose text ends with what to do."""
    with front.node() as node:
        with pytest.raises(error, match=text):
            make(node)
        assert issubclass(error, ValueError)


# Bodies


def test_what_cannot_be_sent_is_refused_at_the_caller(front: Any) -> None:
    """Another class, something msgspec cannot encode, too large, bad headers: nothing is accepted."""
    with front.node(options=Options(message_bytes_max=1000)) as node:
        orders, anything = node.producer("orders", Order), node.producer("anything", object)
        with pytest.raises(EncodeError, match="expected Order, got int; send that type"):
            orders.send(3)
        with pytest.raises(EncodeError, match="cannot be encoded"):
            anything.send(object())
        with pytest.raises(MessageTooLarge, match="send a reference"):
            orders.send(Order(1, "x" * 2000))
        with pytest.raises(EncodeError, match="headers map str to str"):
            orders.send(Order(1, "tea"), headers={"table": 7})
        with pytest.raises(EncodeError, match="put what is over"):
            orders.send(Order(1, "tea"), headers={"x": "y" * 9000})
        assert [a.accepted for a in node.statistics().producers] == [0, 0]


def test_later_changes_to_a_body_are_not_sent(front: Any) -> None:
    """A body is encoded before `send` returns."""
    with front.node() as a, front.node() as b:
        body = ["tea"]
        a.producer("orders", list[str]).send(body)
        body.append("jam")
        assert take(b.consumer("orders", list[str])) == ["tea"]


def test_send_many_accepts_a_prefix(front: Any) -> None:
    """The error of the one at fault says how many before it were accepted, in order."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        with pytest.raises(EncodeError) as caught:
            producer.send_many([1, 2, "three", 4])
        assert caught.value.accepted == 2
        assert [take(consumer), take(consumer)] == [1, 2]
        producer.flush(timeout=10)
        assert account(a).accepted == 2


def test_misfits_go_to_who_can_take_them(front: Any) -> None:
    """A consumer of another type refuses what does not fit; a second with the right one gets it all."""
    with front.node("shop") as shop, front.node("wrong") as wrong:
        producer = shop.producer("orders", Order)
        bad = wrong.consumer("orders", int)
        thread = threading.Thread(target=lambda: list(bad))
        thread.start()
        producer.ready(timeout=10)
        with front.node("right") as right:
            good = right.consumer("orders", Order)
            producer.ready(consumers=2, timeout=10)
            producer.send_many([Order(n, "tea") for n in range(20)])
            assert sorted(take(good).number for _ in range(20)) == list(range(20))
            producer.flush(timeout=10)
        wrong.close()
        thread.join()
        assert (account(shop).acked, account(shop).dead_lettered, closes(shop)) == (20, 0, True)


def test_what_nobody_can_take_is_dead_lettered_with_its_path(front: Any) -> None:
    """The letter says where in the body it does not fit and who sent it; the rest goes on."""

    class Loose(msgspec.Struct):
        number: int | str
        dish: str

    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        producer, consumer = shop.producer("orders", Loose), kitchen.consumer("orders", Order)
        producer.send(Loose("one", "tea"))
        producer.send(Loose(2, "jam"))
        assert take(consumer) == Order(2, "jam")
        producer.flush(timeout=10)
        (letter,) = shop.dead_letters("orders")
        assert (letter.reason, letter.body) == ("refused", Loose("one", "tea"))
        assert "$.number" in letter.error
        assert "shop" in letter.error
        assert closes(shop)


# Confirmations


def test_confirm_says_what_is_true(front: Any) -> None:
    """`delivered` returns with the message in a consumer's memory, `processed` after its ack."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        thread = threading.Thread(target=lambda: take(consumer))
        thread.start()
        receipt = producer.send(1, confirm="processed", timeout=20)
        thread.join()
        assert isinstance(receipt, Receipt)
        assert producer.state(receipt) == "processed"


def test_not_confirmed_means_accepted(front: Any) -> None:
    """Nobody takes it: the error has the receipt, and the message is still processed later."""
    with front.node() as a:
        producer = a.producer("orders", int)
        with pytest.raises(NotConfirmed, match="do not send it again") as caught:
            producer.send(1, confirm="processed", timeout=0.05)
        receipt = caught.value.receipt
        assert producer.state(receipt) == "queued"
        with pytest.raises(TimeoutError):
            producer.wait(receipt, "delivered", timeout=0.05)
        with front.node() as b:
            assert take(b.consumer("orders", int)) == 1
            producer.wait(receipt, "processed", timeout=10)


def test_a_dead_letter_is_told(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also to who did not wait for the message: as it dies, and as the node closes that has its letter in memory."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", dict), b.consumer("orders", int)
        receipt = producer.send({})
        with pytest.raises(TimedOut):
            consumer.get(timeout=0.2)
        producer.flush(timeout=10)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"queue 'orders': message {receipt.id} is a dead letter, refused: body from " in lines[0]
    assert "Expected `int`, got `object`" in lines[0]
    assert "see node.dead_letters('orders')" in lines[0]
    assert lines[1:] == ["queue 'orders': dead letters that end with this node: 1; a spool would keep them"]


def test_rejected_ends_the_wait(front: Any) -> None:
    """A dead-lettered message will not be processed, and who waits for it learns why."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)

        def refuse() -> None:
            consumer.get(timeout=10).reject("no such dish")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(Rejected, match=r"no such dish.*dead_letters"):
            producer.send(1, confirm="processed", timeout=20)
        thread.join()


def test_receipts_belong_to_their_producer(front: Any) -> None:
    """A receipt of another queue is refused rather than answered wrongly."""
    node = front.node()
    receipt = node.producer("a", int).send(1)
    with pytest.raises(ConfigError, match="ask the one that sent it"):
        node.producer("b", int).state(receipt)


def test_waits_end_and_say_what_to_do(front: Any) -> None:
    """`get`, `ready` and `flush` time out with the next step; nothing is taken or lost."""
    node = front.node()
    producer, consumer = node.producer("orders", int), node.consumer("others", int)
    producer.send(1)
    calls: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: consumer.get(timeout=0.02), "see node.peers"),
        (lambda: producer.ready(timeout=0.02), "start one in the same fabric"),
        (lambda: producer.flush(timeout=0.02), "see node.statistics"),
    )
    for call, step in calls:
        with pytest.raises(TimedOut, match=step):
            call()
    assert account(node).waiting == 1


# A full buffer

ROOM_FOR_TEN = 10 * (64 + 101)
BODY = "x" * 99


def test_full_buffer_blocks_until_there_is_room(front: Any) -> None:
    """With a timeout it ends in QueueFull, which is also queue.Full and TimeoutError; else it waits."""
    import queue

    with front.node() as a:
        producer = a.producer("orders", str, buffer_bytes=ROOM_FOR_TEN)
        assert producer.send_many([BODY] * 10) == 10
        for error in (QueueFull, queue.Full, TimeoutError):
            with pytest.raises(error, match="not accepted: start a consumer"):
                producer.send(BODY, timeout=0.02)
        with pytest.raises(QueueFull) as caught:
            producer.send_many([BODY] * 3, timeout=0.02)
        assert (caught.value.accepted, account(a).accepted) == (0, 10)
        sent = threading.Thread(target=lambda: producer.send_many([BODY] * 30))
        sent.start()
        with front.node() as b:
            consumer = b.consumer("orders", str)
            assert [take(consumer) for _ in range(40)] == [BODY] * 40
            sent.join()
            producer.flush(timeout=10)
        assert (account(a).acked, closes(a)) == (40, True)


def make_a_turn(pump: Pump) -> None:
    """Return when the pump has made a turn that began after this did."""
    for _ in range(2):
        waiter = ThreadWaiter()
        pump.turned.enter(waiter)
        pump.wake()
        assert waiter.wait(DEADLINE)
        pump.turned.leave(waiter)


def test_a_sender_that_waits_for_acks_is_not_woken_by_the_pump() -> None:
    """That the pump has taken what was handed over helps who waits for the hand-over, and nobody who waits for acks."""
    node = Node()
    handle = node.producer("orders", str, buffer_bytes=ROOM_FOR_TEN)
    handle.send(BODY)
    producer: Any = handle._async
    pump = node._async._context.pump
    pump.detach(producer)  # the start of the node is news, too
    make_a_turn(pump)
    woken: list[None] = []
    producer._gate.enter(SimpleNamespace(wake=lambda: woken.append(None)))
    assert [producer.try_send(BODY, None) is not None for _ in range(10)] == [True] * 9 + [False]
    make_a_turn(pump)
    assert not producer.alerted
    producer._outbox.handed_over()
    assert woken == []
    producer.changed()
    assert woken == [None]
    with pytest.raises(Undelivered):
        node.close(timeout=0)


def test_send_many_says_how_many_found_room(front: Any) -> None:
    """A prefix is accepted; its error counts it."""
    node = front.node()
    producer = node.producer("orders", str, buffer_bytes=ROOM_FOR_TEN, on_full="error")
    with pytest.raises(QueueFull) as caught:
        producer.send_many([BODY] * 14)
    assert (caught.value.accepted, account(node).accepted) == (10, 10)


def test_full_buffer_drops_the_newest(front: Any) -> None:
    """The one being sent is accepted, dropped and counted."""
    with front.node() as a:
        producer = a.producer("orders", str, buffer_bytes=ROOM_FOR_TEN, on_full="drop_newest")
        receipts = [producer.send(f"{n:099}") for n in range(14)]
        eventually_equal(lambda: account(a).dropped, 4)
        assert [producer.state(r) for r in receipts] == ["queued"] * 10 + ["dropped"] * 4
        with pytest.raises(Rejected, match="dropped by on_full"):
            producer.wait(receipts[-1], "processed", timeout=10)
        with front.node() as b:
            consumer = b.consumer("orders", str)
            assert [int(take(consumer)) for _ in range(10)] == list(range(10))
            producer.flush(timeout=10)
        assert closes(a)


def test_full_buffer_drops_the_oldest(front: Any) -> None:
    """Of those that wait the oldest go, and are counted."""
    with front.node() as a:
        producer = a.producer("orders", str, buffer_bytes=ROOM_FOR_TEN, on_full="drop_oldest")
        receipts = [producer.send(f"{n:099}") for n in range(14)]
        eventually_equal(lambda: account(a).dropped, 4)
        assert [producer.state(r) for r in receipts] == ["dropped"] * 4 + ["queued"] * 10
        assert producer.send_many([f"{n:099}" for n in range(14, 20)]) == 6
        with front.node() as b:
            consumer = b.consumer("orders", str)
            assert [int(take(consumer)) for _ in range(10)] == list(range(10, 20))
            producer.flush(timeout=10)
        assert (account(a).dropped, closes(a)) == (10, True)


def test_one_message_over_the_buffer_limit_is_allowed(front: Any) -> None:
    """A limit below the size of a message would mean never."""
    with front.node() as a, front.node() as b:
        producer = a.producer("orders", str, buffer_bytes=10)
        consumer = b.consumer("orders", str)
        producer.send(BODY, timeout=10)
        with pytest.raises(QueueFull):
            producer.send(BODY, timeout=0.02)
        assert take(consumer) == BODY
        producer.send(BODY, timeout=10)
        assert take(consumer) == BODY


def eventually_equal(read: Any, wanted: Any) -> None:
    end = time.monotonic() + 30
    while (found := read()) != wanted:
        assert time.monotonic() < end, f"{found!r} is not {wanted!r}"
        time.sleep(0.005)


# Settling


def test_leaving_with_acks_and_an_exception_nacks(front: Any) -> None:
    """A nacked message comes again with the next attempt; the exception goes on."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send(1)
        with pytest.raises(ZeroDivisionError), consumer.get(timeout=10):
            raise ZeroDivisionError("oven")
        message = consumer.get(timeout=10)
        assert message.attempt == 2
        message.ack()
        message.ack()
        message.nack()
        producer.flush(timeout=10)
        assert (account(a).acked, account(a).redelivered) == (1, 1)


def test_ctrl_c_inside_with_gives_back_without_an_attempt(front: Any) -> None:
    """What is not the message's fault does not count."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send(1)
        with pytest.raises(KeyboardInterrupt), consumer.get(timeout=10):
            raise KeyboardInterrupt
        message = consumer.get(timeout=10)
        assert message.attempt == 1
        message.ack()


def test_nack_delay_is_kept(front: Any) -> None:
    """A delayed message does not come before its time."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send(1)
        started_at = time.monotonic()
        consumer.get(timeout=10).nack(delay=0.3)
        message = consumer.get(timeout=10)
        assert time.monotonic() - started_at >= 0.29
        message.ack()


def test_poison_ends_in_the_dead_letters(front: Any) -> None:
    """After `max_attempts` it is kept with reason and error; it can be retried, and dropped."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int, max_attempts=2), b.consumer("orders", int)
        first = producer.send(7)
        for _ in range(2):
            with pytest.raises(ValueError), consumer.get(timeout=10):
                raise ValueError("burnt")
        producer.flush(timeout=10)
        (letter,) = a.dead_letters("orders")
        assert (letter.id, letter.reason, letter.error, letter.attempts, letter.body) == (
            first.id,
            "attempts",
            "ValueError: burnt",
            2,
            7,
        )
        assert letter.retry() is True
        assert letter.retry() is False
        message = consumer.get(timeout=10)
        assert (message.body, message.origin, message.attempt) == (7, first.id, 1)
        message.reject("never")
        producer.flush(timeout=10)
        (letter,) = a.dead_letters("orders")
        assert letter.reason == "rejected"
        assert (letter.drop(), letter.drop(), a.dead_letters("orders")) == (True, False, [])
        got = account(a)
        assert (got.accepted, got.retried, got.dead_lettered, got.closes) == (1, 1, 2, True)
        assert a.dead_letters("unknown") == []


def test_break_returns_what_was_buffered(front: Any) -> None:
    """A loop left by `break` keeps nothing from other consumers."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send_many(range(200))
        seen = []
        for message in consumer:
            with message as body:
                seen.append(body)
            if len(seen) == 20:
                break
        with front.node() as c:
            other = c.consumer("orders", int)
            rest = [take(other) for _ in range(180)]
            assert sorted(seen + rest) == list(range(200))
            producer.flush(timeout=10)


def test_a_closed_consumer_returns_and_may_come_back(front: Any) -> None:
    """`close` gives back what was not started; asking for the handle again opens it."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send_many(range(50))
        assert take(consumer) == 0
        consumer.close()
        with pytest.raises(NodeClosed):
            consumer.get(timeout=1)
        eventually_equal(lambda: account(a).waiting, 49)
        again = b.consumer("orders", int)
        assert again == consumer
        assert sorted(take(again) for _ in range(49)) == list(range(1, 50))


# Leases


def test_a_lease_ends_and_another_consumer_gets_the_message(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Code that hangs loses its message, with a warning that names `lease=`; its late ack changes nothing."""
    with front.node() as a, front.node() as b, front.node() as c:
        producer, slow = a.producer("orders", int), b.consumer("orders", int, lease=0.3)
        producer.send(1)
        held = slow.get(timeout=10)
        message = c.consumer("orders", int).get(timeout=20)
        assert (message.body, message.attempt) == (1, 2)
        held.ack()
        message.ack()
        producer.flush(timeout=10)
        assert (account(a).acked, closes(a)) == (1, True)
        assert "raise lease= or call message.extend()" in caplog.text


def test_extend_keeps_the_message(front: Any) -> None:
    """An extended lease does not end."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int, lease=0.2)
        producer.send(1)
        message = consumer.get(timeout=10)
        message.extend(30)
        with pytest.raises(TimedOut):
            consumer.get(timeout=2.5)
        message.ack()
        producer.flush(timeout=10)
        assert account(a).redelivered == 0


def test_the_lease_stands_still_while_its_handler_waits_in_send(front: Any) -> None:
    """Back-pressure of our own is not the handler's fault."""
    with front.node() as a, front.node() as b:
        jobs, results = a.producer("jobs", int), b.producer("results", str, buffer_bytes=10)
        consumer = b.consumer("jobs", int, lease=0.3)
        results.send(BODY)
        jobs.send(1)

        if front.is_async:

            async def handle() -> None:
                with await consumer.target.get(timeout=10):
                    await results.target.send(BODY)

            import asyncio

            future = asyncio.run_coroutine_threadsafe(handle(), front.loop)
            wait = future.result
        else:

            def work() -> None:
                with consumer.get(timeout=10):
                    results.send(BODY)

            thread = threading.Thread(target=work)
            thread.start()
            wait = thread.join
        with pytest.raises(TimedOut):
            jobs.flush(timeout=2.5)
        taker = a.consumer("results", str)
        assert [take(taker), take(taker)] == [BODY, BODY]
        wait()
        jobs.flush(timeout=10)
        assert (account(a, "jobs").redelivered, account(a, "jobs").acked) == (0, 1)


# Batches


def test_batches_are_sequences_settled_together(front: Any) -> None:
    """At most `max_size` bodies each, in order, with their ids."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send_many(range(1000))
        seen: list[int] = []
        for batch in consumer.batches(max_size=64):
            assert isinstance(batch, Batch)
            assert 1 <= len(batch) <= 64
            assert len(batch.ids) == len(batch)
            assert batch[0] == len(seen)
            with batch as bodies:
                seen += bodies
            if len(seen) == 1000:
                break
        assert seen == list(range(1000))
        producer.flush(timeout=10)
        assert account(a).acked == 1000


def test_a_batch_waits_for_more(front: Any) -> None:
    """`max_wait` fills a batch that is not full; it ends as soon as it is."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        batches = iter(consumer.batches(max_size=10, max_wait=30.0))
        done = threading.Event()

        def send() -> None:
            for n in range(10):
                producer.send(n)
                done.wait(0.02)

        thread = threading.Thread(target=send)
        thread.start()
        with next(batches) as bodies:
            assert list(bodies) == list(range(10))
        thread.join()
        producer.flush(timeout=10)


def test_nack_of_one_in_a_batch(front: Any) -> None:
    """The others are acked; that one comes again."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send_many(range(10))
        batches = iter(consumer.batches(max_size=10, max_wait=5.0))
        batch = next(batches)
        assert list(batch) == list(range(10))
        batch.nack(3)
        batch.ack()
        with pytest.raises(IndexError):
            batch.nack(10) if not batch._settled else batch._locate(10)
        with next(iter(consumer.batches(max_size=10))) as bodies:
            assert list(bodies) == [3]
        producer.flush(timeout=10)
        assert (account(a).acked, account(a).redelivered) == (10, 1)


def test_a_failing_batch_comes_again_one_by_one(front: Any) -> None:
    """So the one at fault is found, and only it counts attempts."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int, max_attempts=2), b.consumer("orders", int)
        producer.send_many(range(10))
        first = next(iter(consumer.batches(max_size=10, max_wait=5.0)))
        with pytest.raises(ZeroDivisionError), first:
            raise ZeroDivisionError
        done: list[int] = []
        for _ in range(11):  # nine that succeed, and two attempts of the one at fault
            batch = next(iter(consumer.batches(max_size=10)))
            assert len(batch) == 1
            try:
                with batch as bodies:
                    if bodies[0] == 3:
                        raise ValueError("this one")
                    done += bodies
            except ValueError:
                pass
        producer.flush(timeout=10)
        assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert [letter.body for letter in a.dead_letters("orders")] == [3]


# Statistics


def test_statistics_close_at_every_moment(front: Any) -> None:
    """Accepted is always the sum of what became of the messages."""
    with front.node() as a, front.node() as b:
        producer, consumer = a.producer("orders", int), b.consumer("orders", int)
        producer.send_many(range(2000))
        for n in range(2000):
            message = consumer.get(timeout=10)
            message.ack() if n % 7 else message.reject("unlucky")
            if n % 100 == 0:
                assert closes(a)
        producer.flush(timeout=10)
        got = account(a)
        assert (got.accepted, got.acked + got.dead_lettered, got.closes) == (2000, 2000, True)
        assert msgspec.json.encode(a.statistics().as_dict())
        assert isinstance(Message, type)


def test_a_letter_that_does_not_decode_hides_no_other(front: Any) -> None:
    """One of two letters does not fit the type of its own producer: both are listed, and it can be dropped."""
    with front.node("desk") as desk:
        orders = desk.producer("orders", Order, max_attempts=1)
        consumer = desk.consumer("orders", Order)
        receipts = [orders.send(Order("one", "tea")), orders.send(Order(2, "jam"))]  # type: ignore[arg-type]
        consumer.get(timeout=10).reject("no jam")
        for receipt in receipts:
            with pytest.raises(Rejected):
                orders.wait(receipt, "processed", timeout=10)
        misfit, good = desk.dead_letters("orders")
        assert (good.body, good.error) == (Order(2, "jam"), "no jam")
        with pytest.raises(DecodeError, match="number"):
            _ = misfit.body
        assert misfit.drop()
        assert [letter.id for letter in desk.dead_letters("orders")] == [good.id]


def test_a_call_that_waits_while_its_consumer_opens_again(runtime: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has waited since before the close is counted anew, even if it did not wake up in between."""
    with Node("desk") as desk:
        consumer = desk.consumer("orders", int)
        got: list[int] = []

        def take() -> None:
            with consumer.get(timeout=DEADLINE) as body:
                got.append(body)

        thread = threading.Thread(target=take)
        thread.start()
        inner = consumer._async
        eventually_equal(lambda: inner.end._takers, 1)
        with monkeypatch.context() as patch:
            patch.setattr(type(inner._gate), "open", lambda self: None)
            consumer.close()
            assert inner.end._takers == 0
            desk.consumer("orders", int)
        eventually_equal(lambda: inner.end._takers, 1)
        desk.producer("orders", int).send(7)
        thread.join(DEADLINE)
        assert got == [7]
