"""Receipts: who may settle, once, and until when."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from peerfabric.gateway import receipts as receipts_module
from peerfabric.gateway.receipts import Act, Outcome, Receipts, Settled, parsed
from peerfabric.nodes.message import Reject, Retry


class Fake:
    """A message that notes what becomes of it."""

    queue = "orders"

    def __init__(self) -> None:
        self.fate: list[Any] = []

    def ack(self) -> None:
        self.fate.append("ack")

    def failed(self, error: BaseException) -> None:
        assert isinstance(error, Retry | Reject)
        self.fate.append((type(error).__name__, str(error), getattr(error, "delay", None)))

    def give_back(self) -> None:
        self.fate.append("give back")

    def extend(self, seconds: float) -> None:
        self.fate.append(("extend", seconds))


def test_each_act_is_done_once() -> None:
    """And answers the same when the same is asked again, as whoever asks may not have got the answer."""
    table = Receipts("node", b"key")
    for act, fate in (
        (Act("ack", ""), "ack"),
        (Act("nack", "", delay=2.5), ("Retry", "an HTTP client nacked it", 2.5)),
        (Act("nack", ""), ("Retry", "an HTTP client nacked it", None)),
        (Act("reject", "", reason="no table"), ("Reject", "no table", None)),
        (Act("reject", ""), ("Reject", "an HTTP client rejected it", None)),
    ):
        message = Fake()
        act = act._replace(receipt=table.hold(message, 10, 0.0))
        assert [table.settle(act, 1.0, 0.0).result for _ in range(2)] == ["ok", "ok"]
        other = act._replace(do="reject", reason="another")
        assert table.settle(other, 1.0, 0.0).result == "gone"
        assert table.settle(act._replace(do="extend", lease=5.0), 1.0, 0.0).result == "gone"
        assert message.fate == [fate]
        table.check()


def test_a_receipt_cannot_be_made_up() -> None:
    """Not of one message out of that of another, nor by another start, nor of another node; a broken one is none."""
    table, message = Receipts("node", b"key"), Fake()
    receipt = table.hold(message, 10, 0.0)
    node, start, serial, mac = receipt.split(".")

    def ack(text: str) -> Outcome:
        return table.settle(Act("ack", text), 1.0, 0.0).result

    assert ack(f"{node}.{start}.{int(serial) + 1}.{mac}") == "invalid"
    assert ack(f"{node}.{start}.0{serial}.{mac}") == "invalid"
    assert ack(f"{node}.{start}.{serial}.{mac[::-1]}") == "invalid"
    assert ack(Receipts("node", b"other").hold(Fake(), 10, 0.0)) == "gone"
    assert ack(Receipts("other", b"key").hold(Fake(), 10, 0.0)) == "gone"
    for text in ("", ".", "a.b.c.d", f"{receipt}.", f"{node}..{serial}.{mac}", f"{node}.{start}.²3.{mac}", receipt * 9):
        assert parsed(text) is None
        assert ack(text) == "invalid"
    assert message.fate == []
    assert ack(receipt) == "ok"


def test_a_lease_that_is_over_is_a_failed_attempt() -> None:
    """At the instant that was told, not before; what was extended lives on."""
    released: list[str] = []
    table = Receipts("node", b"key", released.append)
    short, extended = Fake(), Fake()
    table.hold(short, 5, 0.0)
    receipt = table.hold(extended, 5, 0.0)
    extend = Act("extend", receipt, lease=20)
    assert table.settle(extend, 2.0, 1000.0) == Settled(receipt, Outcome.OK, 1020.0)
    assert table.settle(extend._replace(lease=1.0), 2.0, 1000.0) == Settled(receipt, Outcome.OK, 1020.0)
    assert table.poll_timeout() == 5.0
    assert table.handle_timeout(4.9) == {}
    assert table.handle_timeout(5.0) == {"orders": 1}
    assert short.fate == [("Retry", "the lease of 5 s that an HTTP client had was over", None)]
    assert table.poll_timeout() == 22.0
    assert table.settle(Act("ack", receipt), 22.0, 0.0).result == "gone", "over, though nobody has looked yet"
    assert table.handle_timeout(30.0) == {"orders": 1}
    assert extended.fate[0] == ("extend", 20 + receipts_module.SLACK)
    assert (released, len(table), table.poll_timeout()) == (["orders", "orders"], 0, None)


def test_what_is_withdrawn_or_left_goes_back() -> None:
    """Without an attempt, and is gone for whoever has the receipt."""
    table, messages = Receipts("node", b"key"), [Fake() for _ in range(3)]
    names = [table.hold(message, 10, 0.0) for message in messages]
    table.withdraw(names[0])
    table.withdraw(names[0])
    table.withdraw("nonsense")
    assert table.settle(Act("ack", names[1]), 1.0, 0.0).result == "ok"
    assert table.give_back() == 1
    assert [message.fate for message in messages] == [["give back"], ["ack"], ["give back"]]
    assert table.settle(Act("ack", names[2]), 1.0, 0.0).result == "gone"


def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was settled only the last is remembered; extensions without end leave nothing."""
    monkeypatch.setattr(receipts_module, "REMEMBERED_MAX", 3)
    table = Receipts("node", b"key")
    acts = [Act("ack", table.hold(Fake(), 10, 0.0)) for _ in range(5)]
    for act in acts:
        table.settle(act, 1.0, 0.0)
    assert [table.settle(act, 1.0, 0.0).result for act in acts] == ["gone", "gone", "ok", "ok", "ok"]
    receipt = table.hold(Fake(), 10, 0.0)
    for second in range(1000):
        assert table.settle(Act("extend", receipt, lease=10.5), float(second), 0.0).result == "ok"
    assert len(table._ends) < 100
    table.check()


@pytest.mark.parametrize("seed", range(5))
def test_every_message_has_one_end(seed: int) -> None:
    """Whatever is asked in whatever order, each is settled, lapsed or given back once."""
    random, now = Random(seed), 0.0
    table, held = Receipts("node", b"key"), list[tuple[str, Fake]]()
    for _ in range(2000):
        now += random.random()
        match random.randrange(5):
            case 0 | 1:
                message = Fake()
                held.append((table.hold(message, random.uniform(1, 20), now), message))
            case 2 if held:
                receipt, _ = random.choice(held[-30:])
                do = random.choice(["ack", "nack", "reject", "extend"])
                table.settle(Act(do, receipt, lease=random.uniform(1, 20)), now, 0.0)
            case 3:
                table.handle_timeout(now)
            case 4 if held:
                table.withdraw(random.choice(held[-30:])[0])
        table.check()
    table.give_back()
    for _, message in held:
        ends = [fate for fate in message.fate if fate[0] != "extend"]
        assert len(ends) == 1, ends


def test_a_long_lease_is_announced() -> None:
    """The node learns how long the client may take, else it would warn of a handler that hangs."""
    table, short, long = Receipts("node", b"key"), Fake(), Fake()
    table.hold(short, 60, 0.0)
    table.hold(long, 3600, 0.0)
    assert (short.fate, long.fate) == ([], [("extend", 3600 + receipts_module.SLACK)])
