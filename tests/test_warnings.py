"""Early warnings in a simulated fabric: each within ten seconds of its time, and none while all is well."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from peerfabric.health import (
    CODES,
    DIALLED_AFTER,
    DIALLED_IN_VAIN,
    DISK,
    LATE,
    LOOPING,
    NEVER_TAKEN_AFTER,
    NO_CONSUMER,
    NO_CONSUMER_AFTER,
    NO_SERVER,
    NOT_TAKEN_AFTER,
    NOT_TAKING,
    OLD,
    SLOW_AFTER,
    SLOW_HANDLER,
    STRANDED,
    Finding,
)
from peerfabric.link.link import Belief, Link
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.queue.queue_status import taking
from peerfabric.queue.trends import LOOPING_LEAST, OLD_AFTER
from peerfabric.spool.orphans import STRANDED_AFTER
from peerfabric.spool.room import findings as room
from peerfabric.status import Warned
from tests.fabric.crowd import Crowd, Member
from tests.fabric.helpers import claim
from tests.fabric.service.helpers import serve

ROOT = Path(__file__).parents[1]
SOON = 10.0
"""Seconds after its time in which each is told."""


class Shop:
    """A fabric whose nodes have no trouble but what a test makes."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self.count = 0

    def node(self, seeds: tuple[str, ...] = ()) -> Member:
        member = self.crowd.start(self.count, seeds=seeds, registry=True)
        member.engine.producers.trends.unix_ms = lambda: int(self.crowd.now * 1000)
        self.count += 1
        return member

    def send(self, member: Member, queue: str, count: int = 1) -> None:
        producers = member.engine.producers
        producers.accept(producers.by_queue[queue], [b"body"] * count, int(self.crowd.now * 1000))
        member.wake()

    def take(self, member: Member, queue: str) -> Delivery | None:
        """Somebody there takes one message, if one is there."""
        end = member.engine.consumers.by_queue[queue]
        end.want(1, 1, self.crowd.now)
        delivery = end.take(self.crowd.now)
        if delivery is not None and not claim(delivery, now=self.crowd.now):
            delivery = None
        end.want(0, 1, self.crowd.now)
        member.engine.consumers.progress(end, self.crowd.now)
        member.wake()
        return delivery

    def works(self, member: Member, queue: str, every: float, decide: Callable[[Delivery, int], None]) -> list[bool]:
        """Somebody there takes a message each `every` seconds, and does that with it, until the list is cleared."""
        working = [True]

        def step() -> None:
            if not working:
                return
            end = member.engine.consumers.by_queue[queue]
            now = self.crowd.now
            end.want(1, 1, now)
            delivery = end.take(now)
            if delivery is not None:
                at = delivery.next
                if claim(delivery, now=now):
                    decide(delivery, at)
                end.park(delivery)
            end.want(0, 1, now)
            member.engine.consumers.progress(end, now)
            member.wake()
            self.crowd.at(now + every, step)

        step()
        return working


@pytest.fixture
def shop() -> Shop:
    return Shop()


def told(member: Member) -> dict[str, Warned]:
    return {warned.code: warned for warned in member.engine.health.warnings(member.crowd.now)}


def until_told(member: Member, code: str, after: float) -> Warned:
    """Wait for a warning that is due `after` seconds from now, and no earlier."""
    crowd = member.crowd
    crowd.run(max(0.0, after - 1.0))
    assert code not in told(member), "told before its time"
    crowd.run_until(lambda: code in told(member), SOON + 1.0 + 0.1)
    crowd.check()
    return told(member)[code]


def over(member: Member, code: str) -> None:
    """Wait until it is not so any more."""
    member.crowd.run_until(lambda: code not in told(member), SOON)


def ack(delivery: Delivery, at: int) -> None:
    delivery.ack(at, at + 1)


def nack(delivery: Delivery, at: int) -> None:
    delivery.verdicts.append((Verdict.NACK, at, at + 1, 0.0, "KeyError: 'sku'"))


# The nine


def test_dialled_in_vain(shop: Shop) -> None:
    """`peers=` names an endpoint at which nobody listens."""
    a = shop.node(seeds=("tcp://nobody:7",))
    warned = until_told(a, DIALLED_IN_VAIN, DIALLED_AFTER)
    assert warned.text.startswith("tcp://nobody:7 is dialled without an answer for 1")
    assert "start a node that listens there" in warned.text


def test_no_consumer(shop: Shop) -> None:
    """Messages wait, until somebody consumes them."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    shop.crowd.run(3.0)
    shop.send(a, "orders")
    warned = until_told(a, NO_CONSUMER, NO_CONSUMER_AFTER)
    assert warned.queue == "orders"
    assert "start one; node.peers() tells" in warned.text
    b.consume("orders")
    over(a, NO_CONSUMER)


def test_a_name_that_is_a_slip_apart_is_asked_for_at_both_ends(shop: Shop) -> None:
    """The two nodes have nothing in common, so they have no link until the producer looks for a reason."""
    a, b = shop.node(), shop.node()
    b.consume("orders")
    shop.crowd.run(30.0)
    a.produce("order")
    shop.send(a, "order")
    assert not a.is_linked(b)
    warned = until_told(a, NO_CONSUMER, NO_CONSUMER_AFTER)
    assert warned.text.endswith("; did you mean 'orders'? it is consumed by 0001")
    assert warned.queue == "order"
    shop.crowd.run_until(lambda: NO_CONSUMER in told(b), 2 * SOON)
    lonely = told(b)[NO_CONSUMER]
    assert lonely.text.startswith("queue 'orders': nobody sends to it for ")
    assert lonely.text.endswith("did you mean 'order'? it is sent to by 0000, and nobody consumes it")
    shop.crowd.run(30.0)
    assert not a.is_linked(b), "what is known now needs no link"
    assert "did you mean 'orders'?" in told(a)[NO_CONSUMER].text
    a.produce("orders")
    over(b, NO_CONSUMER)


def test_a_similar_name_that_is_in_use_is_not_meant(shop: Shop) -> None:
    """Somebody sends to it, perhaps a node that the other one has never met."""
    a, b, c = shop.node(), shop.node(), shop.node()
    b.consume("orders")
    c.produce("orders")
    a.produce("order")
    shop.crowd.run(3.0)
    shop.send(a, "order")
    assert "did you mean" not in until_told(a, NO_CONSUMER, NO_CONSUMER_AFTER).text
    assert not a.is_linked(c) or a.is_linked(b)
    shop.crowd.run(30.0)
    assert told(b) == {}


def test_what_a_peer_used_once_is_not_asked_for(shop: Shop) -> None:
    """It was looked at, and has since taken to something else."""
    a, b = shop.node(), shop.node()
    b.consume("orders")
    a.produce("order")
    shop.crowd.run(3.0)
    shop.send(a, "order")
    shop.crowd.run(40.0)
    assert not a.is_linked(b)
    assert a.engine.lookalikes._hint("produces", "order")
    b.engine.close_consumer("orders", shop.crowd.now)
    b.consume("mails")
    shop.crowd.run(3.0)
    assert not a.engine.lookalikes._hint("produces", "order")
    shop.crowd.check()


def test_a_node_is_not_remembered_after_its_end(shop: Shop) -> None:
    """Nobody starts a producer for a consumer that is gone."""
    a, b = shop.node(), shop.node()
    b.consume("orders")
    a.produce("order")
    shop.crowd.run(3.0)
    shop.send(a, "order")
    shop.crowd.run(40.0)
    assert a.engine.lookalikes._hint("produces", "order")
    shop.crowd.kill(b)
    shop.crowd.run(3.0)
    assert not a.engine.lookalikes._hint("produces", "order")


def test_no_server(shop: Shop) -> None:
    """Calls wait for a service of a similar name; the node that serves that says so, too."""
    a, b = shop.node(), shop.node()
    serve(b, name="prices")
    shop.crowd.run(5.0)
    a.engine.caller.use("price", shop.crowd.now)
    calls = Finding("service 'price': calls wait", NO_CONSUMER_AFTER, "start one", code=NO_SERVER, service="price")
    a.engine.lookalikes.completed([calls], shop.crowd.now)
    a.wake()
    shop.crowd.run(3.0)
    [finding] = a.engine.lookalikes.completed([calls], shop.crowd.now)
    assert finding.closer is not None
    assert finding.closer() == "did you mean 'prices'? it is served by 0001"
    warned = until_told(b, NO_SERVER, NO_CONSUMER_AFTER - 3.0)
    assert warned.text.startswith("service 'prices': nobody calls it for ")
    assert warned.text.endswith("did you mean 'price'? it is called by 0000, and nobody serves it")


def test_consumers_that_are_stopped(shop: Shop) -> None:
    """All consumers of a queue fall silent, as with SIGSTOP; as long as one answers, all is well."""
    a, b, c = shop.node(), shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    c.consume("orders")
    shop.crowd.run(3.0)
    end = a.engine.producers.by_queue["orders"]
    links = {link.name: link for link in a.engine.links.by_peer.values()}
    shop.send(a, "orders", 9)
    stop(links["0001"], shop.crowd.now)
    shop.crowd.run(30.0)
    assert told(a) == {}
    stop(links["0002"], shop.crowd.now)
    at = shop.crowd.now
    shop.crowd.run_until(lambda: NO_CONSUMER in told(a), NO_CONSUMER_AFTER + SOON)
    assert shop.crowd.now - at >= NO_CONSUMER_AFTER - 1.0
    warned = told(a)[NO_CONSUMER]
    assert warned.text.startswith("queue 'orders': messages wait, and no consumer of it answers for 1")
    assert "; 0001, 0002 may be stopped (SIGSTOP, a debugger), hang, or be out of reach: look at" in warned.text
    assert (warned.queue, end.unsettled_count) == ("orders", 9)


def stop(link: Link, now: float) -> None:
    """As the driver and the machine find a process that is stopped, and ever again."""
    link.belief, link.suspect_at = Belief.HUNG, now
    link._alive = lambda now: None  # type: ignore[method-assign]


def test_not_taking(shop: Shop) -> None:
    """A consumer is there and nobody ever takes; or somebody did, and comes back no more."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    shop.crowd.run(3.0)
    shop.send(a, "orders", 9)
    warned = until_told(b, NOT_TAKING, NEVER_TAKEN_AFTER)
    assert (warned.queue, "call get(), iterate over it" in warned.text) == ("orders", True)
    working = shop.works(b, "orders", 1.0, ack)
    over(b, NOT_TAKING)
    working.clear()
    assert b.engine.consumers.by_queue["orders"].account().processed
    until_told(b, NOT_TAKING, NOT_TAKEN_AFTER)


def test_slow_handler(shop: Shop) -> None:
    """A handler hangs with a message: the driver says where, as the machine knows of no threads."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.engine.open_consumer("orders", 300.0, shop.crowd.now)
    b.engine.consumers.where = lambda found: ["shop.py:41 in charge-0" for _ in found]
    shop.crowd.run(3.0)
    end = b.engine.consumers.by_queue["orders"]
    end.want(1, 1, shop.crowd.now)
    b.engine.consumers.progress(end, shop.crowd.now)
    b.wake()
    shop.send(a, "orders")
    shop.crowd.run(0.5)
    assert shop.take(b, "orders") is not None
    warned = until_told(b, SLOW_HANDLER, SLOW_AFTER)
    left = int(warned.text.partition("lease= ends it in ")[2].partition(" s")[0])
    assert "it is at shop.py:41 in charge-0; lease= ends it in " in warned.text
    assert 255 <= left <= 270
    shop.crowd.run(100.0)  # and nothing is told meanwhile
    (warned,) = b.engine.health.warnings(shop.crowd.now)
    assert int(warned.text.partition("lease= ends it in ")[2].partition(" s")[0]) in (left - 100, left - 101)


@pytest.mark.parametrize("lease", [10.0, 300.0])
def test_a_handler_that_hangs_beyond_its_lease(shop: Shop, lease: float) -> None:
    """The warning goes on, and says so, until the handler comes back; nobody is told to take who hangs."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.engine.open_consumer("orders", lease, shop.crowd.now)
    b.engine.consumers.where = lambda found: ["shop.py:41 in charge-0" for _ in found]
    shop.crowd.run(3.0)
    end = b.engine.consumers.by_queue["orders"]
    end.want(1, 1, shop.crowd.now)
    b.engine.consumers.progress(end, shop.crowd.now)
    b.wake()
    shop.send(a, "orders")
    shop.crowd.run(0.5)
    delivery = shop.take(b, "orders")
    assert delivery is not None
    end.want(0, 1, shop.crowd.now)
    until_told(b, SLOW_HANDLER, min(lease, SLOW_AFTER))
    shop.send(a, "orders", 9)
    shop.crowd.run(lease + 100.0)
    (warned,) = b.engine.health.warnings(shop.crowd.now)
    assert warned.code == SLOW_HANDLER
    assert f"its lease of {lease:g} s is over" in warned.text
    assert "still hangs at shop.py:41 in charge-0" in warned.text
    assert warned.since > lease + 90.0
    (running,) = taking(end, {}, shop.crowd.now).running
    assert (running.id, running.lease_left < -90.0) == (f"{delivery.stream}/1", True)
    lines = [line for line in b.lines if "within its lease" in line]
    assert len(lines) == 1
    assert "to another consumer if there is one; its handler is still at shop.py:41 in charge-0; raise" in lines[0]
    delivery.verdicts.append((Verdict.NACK, 0, 1, -1.0, "at last"))
    b.engine.consumers.progress(end, shop.crowd.now)
    assert taking(end, {}, shop.crowd.now).running == ()
    over(b, SLOW_HANDLER)


def test_a_message_that_nobody_has_any_more_hangs_nowhere(shop: Shop) -> None:
    """Whoever took it has ended without a word: after its lease there is nobody to speak of."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.engine.open_consumer("orders", 10.0, shop.crowd.now)
    shop.crowd.run(3.0)
    end = b.engine.consumers.by_queue["orders"]
    end.want(1, 1, shop.crowd.now)
    b.engine.consumers.progress(end, shop.crowd.now)
    b.wake()
    shop.send(a, "orders")
    shop.crowd.run(0.5)
    assert shop.take(b, "orders") is not None
    end.want(0, 1, shop.crowd.now)
    shop.crowd.run(100.0)
    assert [each.code for each in b.engine.health.warnings(shop.crowd.now)] == [NOT_TAKING]


def test_old(shop: Shop) -> None:
    """Somebody consumes, and what waits grows older all the same."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    shop.works(b, "orders", 1.0, ack)
    shop.crowd.run(3.0)
    for _ in range(40):
        shop.send(a, "orders", 60)
    warned = until_told(a, OLD, OLD_AFTER)
    assert warned.queue == "orders"
    assert "1.0 go out with 1 consumer:" in warned.text, warned.text
    assert warned.text.startswith("queue 'orders': the oldest message has waited, though somebody consumes, for 30")


def test_a_message_that_was_sent_long_ago_may_be_the_oldest_for_a_moment(shop: Shop) -> None:
    """A dead letter is retried after a day, and taken at once: at one look it may wait."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    shop.crowd.run(3.0)
    producers, queue = a.engine.producers, a.engine.producers.by_queue["orders"]
    shop.send(a, "orders")
    shop.crowd.run(10.0)

    def found() -> list[str]:
        return [each.code for each in producers.trends.findings({queue: None}, shop.crowd.now)]

    assert found() == found() == []
    producers.trends.unix_ms = lambda: int((shop.crowd.now + 86_400.0) * 1000)
    assert found() == []
    assert found() == [OLD]


def test_looping(shop: Shop) -> None:
    """Most of what is delivered fails, and comes back."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    a.engine.producers.by_queue["orders"].max_attempts = 1000
    b.consume("orders")
    shop.works(b, "orders", 0.05, nack)
    shop.crowd.run(3.0)
    shop.send(a, "orders", 20)
    queue = a.engine.producers.by_queue["orders"]
    shop.crowd.run_until(lambda: queue.failed_count > LOOPING_LEAST, 200.0)
    warned = until_told(a, LOOPING, 0.0)
    assert (warned.queue, "the last error: KeyError: 'sku'" in warned.text) == ("orders", True)


def test_what_comes_back_unstarted_is_no_loop(shop: Shop) -> None:
    """Twenty messages fail once, and are then given back before they are started, again and again."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    decided = Counter[int]()

    def decide(delivery: Delivery, at: int) -> None:
        decided[delivery.first + at] += 1
        if delivery.attempt == 1:
            nack(delivery, at)
        elif decided[delivery.first + at] > 20:
            ack(delivery, at)
        else:
            delivery.verdicts.append((Verdict.GIVE_BACK, at, at + 1, -1.0, ""))

    shop.works(b, "orders", 0.02, decide)
    shop.crowd.run(3.0)
    shop.send(a, "orders", 20)
    queue = a.engine.producers.by_queue["orders"]
    shop.crowd.run_until(lambda: not queue.unsettled_count, 200.0)
    assert (queue.failed_count, queue.redelivered_count > LOOPING_LEAST) == (20, True)
    assert LOOPING not in told(a)


def test_a_few_failures_are_no_loop(shop: Shop) -> None:
    """One in twenty fails once."""
    a, b = shop.node(), shop.node()
    a.produce("orders")
    b.consume("orders")
    serial = iter(range(10**6))

    def decide(delivery: Delivery, at: int) -> None:
        (nack if next(serial) % 20 == 0 else ack)(delivery, at)

    shop.works(b, "orders", 0.02, decide)
    shop.crowd.run(3.0)
    for _ in range(30):
        shop.send(a, "orders", 40)
        shop.crowd.run(2.0)
    assert a.engine.producers.by_queue["orders"].failed_count > 20
    assert told(a) == told(b) == {}


GIB = 2**30


@pytest.mark.parametrize(
    ("used", "limit", "free", "size", "text"),
    [
        (81, 100, 100 * GIB, 200 * GIB, "has nearly all that it may have"),
        (80, 100, 100 * GIB, 200 * GIB, ""),
        (10**12, None, 100 * GIB, 200 * GIB, ""),
        (0, None, GIB - 1, 10 * GIB, "is nearly full"),
        (0, None, GIB, 10 * GIB, ""),
        (0, None, 9 * GIB, 200 * GIB, "is nearly full"),
        (0, None, 0, 0, ""),
    ],
)
def test_disk(shop: Shop, used: int, limit: int | None, free: int, size: int, text: str) -> None:
    """At four fifths of its limit, or with a disk that has less than 1 GiB or a twentieth left."""
    a = shop.node()
    a.engine.health.disk = tuple(room("/spool", used, limit, free, size))
    if text:
        assert text in until_told(a, DISK, 0.0).text
        a.engine.health.disk = ()
    else:
        shop.crowd.run(SOON)
    over(a, DISK)


def test_late(shop: Shop) -> None:
    """A process is stopped for a while: once it goes on, it says for how long."""
    a = shop.node()
    shop.crowd.run(20.0)
    assert told(a) == {}
    a.alive = False
    shop.crowd.run(8.0)
    a.alive, a.turn_at = True, inf
    a.wake()
    shop.crowd.run(0.1)
    warned = told(a)[LATE]
    seconds = int(warned.text.partition(" for ")[2].partition(" s;")[0])
    assert 2 <= seconds <= 8
    assert round(warned.since) == seconds
    assert "stopped or swapped out" in warned.text
    shop.crowd.run(55.0)
    over(a, LATE)


def test_a_turn_that_is_a_little_late_is_not_told(shop: Shop) -> None:
    """A busy machine is late by less than a second now and then."""
    a = shop.node()
    shop.crowd.run(20.0)
    a.engine.health.was_late(0.9, shop.crowd.now)
    shop.crowd.run(SOON)
    assert told(a) == {}


def test_stranded(shop: Shop) -> None:
    """What a driver has found of a slot."""
    a = shop.node()
    since = shop.crowd.now
    a.engine.stranded = (Finding("slot 1 of the spool /s has 5 messages", STRANDED_AFTER, "go", since, STRANDED, "q"),)
    warned = until_told(a, STRANDED, STRANDED_AFTER)
    assert (warned.queue, warned.text) == ("q", f"slot 1 of the spool /s has 5 messages for {warned.since:.0f} s; go")


# None


def test_a_fabric_in_which_all_is_well_warns_of_nothing(shop: Shop) -> None:
    """Ten minutes of work, of names of one family, and of consumers that nobody sends to."""
    producers = [shop.node() for _ in range(3)]
    consumers = [shop.node() for _ in range(4)]
    for number, member in enumerate(producers):
        member.produce(f"orders-{number}")
        member.produce("results")
    for number, member in enumerate(consumers):
        member.consume(f"orders-{number}")  # the last one waits for a producer that comes later
        member.consume("results")
        shop.works(member, f"orders-{number}", 0.5, ack)
        shop.works(member, "results", 0.5, ack)
    shop.crowd.run(5.0)
    for _ in range(60):
        for number, member in enumerate(producers):
            shop.send(member, f"orders-{number}", 3)
            shop.send(member, "results", 3)
        shop.crowd.run(10.0)
        assert [told(member) for member in shop.crowd.members] == [{}] * 7
    shop.crowd.check()


def test_codes_are_of_one_kind_each() -> None:
    """Programs compare them, and people look them up."""
    assert len(set(CODES)) == len(CODES) == 12
    table = (ROOT / "docs/operations.md").read_text().partition("**Early warnings.**")[2].partition("\n\n**")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(CODES)


@pytest.mark.parametrize("path", [p for p in sorted((ROOT / "fabric").rglob("*.py")) if p.name != "health.py"], ids=str)
def test_each_finding_has_a_code(path: Path) -> None:
    """Whoever finds a condition says of which kind it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            code = named.get("code") or (ast.unparse(node.args[4]) if len(node.args) > 4 else "")
            assert code.isupper() or path.name == "lookalikes.py", f"line {node.lineno}: {code!r}"
