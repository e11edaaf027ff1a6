"""The thread that adopts orphans: over slots and adopted nodes that are none, one round after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from peerfabric.errors import ConfigError, NodeClosed, SpoolError, SpoolLocked
from peerfabric.health import Finding
from peerfabric.nodes.aio.adopted import AdoptedNode
from peerfabric.nodes.storage.adoption import LEAVE_TIME, Adoption, Progress, Request
from peerfabric.reports import Adopted, DeadLetter
from peerfabric.spool.folder import Owner
from peerfabric.spool.orphans import PATIENCE, REFUSED_FOR, RUN_BEFORE, Orphans
from peerfabric.spool.slots import Slots, SlotSight
from peerfabric.wire.frames import Address
from tests.nodes.conftest import eventually

OURS = b"fabric 1"
ANN = Address("ann", 1, "ann", "h", ["ipc:///ann"], [])


def seen(number: int, *, pid: int = 9, left: int = 0, held: bool = False, counter: int = 0) -> SlotSight:
    sheet = Owner(node_id=f"node {number}", pid=pid, left=left, fabric=OURS, name="shop", counter=counter)
    return SlotSight(number, f"/none/{number}", sheet, ("jobs",), held)


class Folder:
    """Slots as a test has them."""

    folder = "/none"
    is_served = False

    def __init__(self, *sights: SlotSight) -> None:
        self.there = {sight.number: sight for sight in sights}
        self.refusal: Exception | None = None

    def sights(self, *, everything: bool = False) -> list[SlotSight]:
        if self.refusal is not None:
            raise self.refusal
        return list(self.there.values())


class Life:
    """An adopted node that does nothing."""

    def __init__(self, sight: SlotSight, said: list[str]) -> None:
        self.number, self.said = sight.number, said
        self.node_id = f"node {sight.number}"
        self.queues: Sequence[str] = ("jobs",)
        self.now = Progress(5, 0, True, False)
        self.refusal: Exception | None = None
        self.is_slow = False
        self.told: Mapping[str, Address] = {}
        self.dead = [
            DeadLetter(
                id=f"{sight.number}/1",
                queue="jobs",
                reason="rejected",
                error="",
                attempts=1,
                deaths=0,
                data=b"",
                codec=0,
                sent_ms=0,
            )
        ]

    def start(self) -> bool:
        self.said.append(f"start {self.number}")
        if self.refusal is not None:
            raise self.refusal
        return not self.is_slow

    def progress(self) -> Progress:
        return self.now

    def offer(self, consumers: Mapping[str, Address]) -> None:
        self.told = dict(consumers)

    def letters(self, queue: str) -> list[DeadLetter]:
        return list(self.dead)

    def retry(self, letter: DeadLetter) -> bool:
        self.said.append(f"retry {letter.id}")
        return letter.id == f"{self.number}/1"

    def drop(self, letter: DeadLetter) -> bool:
        self.said.append(f"drop {letter.id}")
        return True

    def report(self) -> Adopted:
        return Adopted(slot=self.number, node_id=self.node_id, name="shop", since=1.0)

    def say_bye(self) -> None:
        self.said.append(f"bye {self.number}")

    def end(self, timeout: float) -> int:
        self.said.append(f"end {self.number} {timeout:g}")
        return self.now.unsettled


class Host:
    """A node's adoption with time as a test has it."""

    def __init__(self, *sights: SlotSight, consumers: Sequence[Address] = (ANN,)) -> None:
        self.folder = Folder(*sights)
        self.said: list[str] = []
        self.lives: dict[int, Life] = {}
        self.refusals: dict[int, Exception] = {}
        self.slow: set[int] = set()
        self.told: tuple[Finding, ...] = ()
        self.consumers = list(consumers)
        self.now = 0.0
        slots, orphans = cast("Slots", self.folder), Orphans(OURS, 4, 0.0)
        self.adoption = Adoption("host", slots, orphans, self._make, lambda queue: self.consumers, self._tell)

    def _make(self, sight: SlotSight) -> Life:
        life = self.lives[sight.number] = Life(sight, self.said)
        life.refusal, life.is_slow = self.refusals.get(sight.number), sight.number in self.slow
        return life

    def _tell(self, found: tuple[Finding, ...]) -> None:
        self.told = found

    def until(self, end: float) -> list[str]:
        """What has happened in all rounds before `end`."""
        self.said.clear()
        while self.now < end:
            self.adoption.round(self.now)
            self.adoption.orphans.check()
            self.now += 1.0
        return list(self.said)


def test_an_orphan_is_run_until_all_is_settled() -> None:
    """It is told of consumers, again when they change, and reported while it runs."""
    host = Host(seen(0, held=True), seen(1))
    assert host.until(RUN_BEFORE) == []
    assert host.until(RUN_BEFORE + 1) == ["start 1"]
    assert host.lives[1].told == {"ann": ANN}
    assert [each.slot for each in host.adoption.reports()] == [1]
    host.consumers = []
    host.until(host.now + 1)
    assert host.lives[1].told == {}
    host.lives[1].now = Progress(0, 5, True, False)
    assert host.until(host.now + 1) == [f"end 1 {LEAVE_TIME:g}"]
    assert host.adoption.reports() == ()
    del host.folder.there[1]
    assert host.until(host.now + 30) == []


def test_what_nobody_takes_goes_back() -> None:
    host = Host(seen(1))
    host.until(RUN_BEFORE + 1)
    host.lives[1].now = Progress(5, 0, False, False)
    assert host.until(host.now + PATIENCE - 2) == []
    assert host.until(host.now + 2) == ["end 1 0"]
    assert host.until(host.now + 100) == []
    assert ["that nobody consumes" in finding.what for finding in host.told] == [True]


def test_one_that_has_stopped_by_itself_is_let_go_of() -> None:
    """As when another copy of its node runs."""
    host = Host(seen(1))
    host.until(RUN_BEFORE + 1)
    host.lives[1].now = Progress(5, 0, True, True)
    assert host.until(host.now + 1) == ["end 1 0"]
    assert host.until(host.now + 2 * PATIENCE) == [], "it would end the other one"
    assert [("runs elsewhere, too" in told.what, "runs a copy" in told.step) for told in host.told] == [(True, True)]
    host.folder.there[1] = seen(1, pid=10, counter=1)
    assert host.until(host.now + 5) == ["start 1"]


@pytest.mark.parametrize(
    "refusal", [SpoolLocked("/none/1", 7, "is a copy", is_copy=True), ConfigError("no key; put it back")]
)
def test_a_slot_that_cannot_be_opened_harms_nobody(refusal: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The others are adopted, and it is tried again later; who looks at the node's health hears of it, and of why."""
    host = Host(seen(1), seen(2))
    host.refusals[1] = refusal
    assert host.until(RUN_BEFORE + 1) == ["start 1", "start 2"]
    assert host.until(host.now + REFUSED_FOR - 1) == []
    assert [("cannot be opened" in told.what, "what the log says" in told.step) for told in host.told] == [(True, True)]
    assert str(refusal) in caplog.text
    host.refusals.clear()
    assert host.until(host.now + 1) == ["start 1"]
    assert host.told == ()


def test_who_was_not_quick_enough_looks_again() -> None:
    """Somebody only looked at the slots in that moment, or has the slot: the next look says which."""
    host = Host(seen(1))
    host.slow.add(1)
    assert host.until(RUN_BEFORE + 2) == ["start 1", "start 1"]
    host.slow.clear()
    assert host.until(host.now + 1) == ["start 1"]
    assert host.adoption.orphans.held == (1,)


@pytest.mark.parametrize("refusal", [ConfigError("no key; put it back"), MemoryError()])
def test_who_asks_always_gets_an_answer(refusal: Exception) -> None:
    """Whatever keeps the slot from being adopted, or even looked at."""
    host = Host(seen(1, pid=0), seen(2, pid=0))
    letter = Life(seen(1), []).dead[0]
    first, second = Request(1, letter, retry=True), Request(2, letter, retry=True)
    host.refusals[1] = refusal
    host.adoption.ask(first)
    host.adoption.ask(second)
    with suppress(MemoryError):
        host.adoption.round(0.0)
    assert isinstance(first.error, SpoolLocked)
    assert second.is_over
    third = Request(2, letter, retry=True)
    host.adoption.ask(third)
    host.folder.refusal = SpoolError("/none", "cannot be read")
    with pytest.raises(SpoolError):
        host.adoption.round(1.0)
    assert isinstance(third.error, SpoolLocked)


def test_letters_of_slots_that_nobody_has() -> None:
    """To retry or drop one its slot is adopted for as long as that takes; one in use says so."""
    host = Host(seen(1, pid=0), seen(2, held=True))
    adoption = host.adoption
    letter = Life(seen(1), []).dead[0]
    retry, drop, used = Request(1, letter, retry=True), Request(1, letter, retry=False), Request(3, letter, retry=True)
    for request in (retry, drop, used):
        adoption.ask(request)
        assert not request.is_over
    assert host.until(1.0) == ["start 1", "retry 1/1", "drop 1/1"]
    assert (retry.is_over, retry.done, retry.error) == (True, True, None)
    assert (drop.is_over, drop.done) == (True, True)
    assert isinstance(used.error, SpoolLocked)
    assert adoption.letters("jobs") == [(1, letter)]
    host.lives[1].now = Progress(0, 1, True, False)
    assert host.until(2.0) == [f"end 1 {LEAVE_TIME:g}"]


def test_letters_of_another_fabric_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are neither counted nor shown: nobody here could retry them."""
    sights = [
        SlotSight(number, f"/none/{number}", Owner(node_id="n", letters=1, fabric=fabric), ("jobs",), False)
        for number, fabric in ((1, OURS), (2, b"fabric 2"), (3, b""))
    ]
    host = Host(*sights)
    monkeypatch.setattr(
        "peerfabric.nodes.storage.adoption.letters_in", lambda folder, queue: Life(seen(int(folder[-1])), []).dead
    )
    host.until(1.0)
    assert host.adoption.parked == 2
    assert [number for number, _ in host.adoption.letters("jobs")] == [1, 3]


def test_letters_are_listed_while_somebody_chooses_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody can say what is held, and a list without them would say that there are none."""
    host = Host(seen(1)._replace(held=None), seen(2, held=True))
    monkeypatch.setattr(
        "peerfabric.nodes.storage.adoption.letters_in", lambda folder, queue: Life(seen(int(folder[-1])), []).dead
    )
    assert [number for number, _ in host.adoption.letters("jobs")] == [1]


def test_an_adopted_node_hears_of_consumers_that_come_and_go() -> None:
    """Once of each, so it dials nobody for ever who is not there any more."""
    said: list[str] = []
    engine = SimpleNamespace(
        handle_discovered=lambda address, now: said.append(f"{address.node_id} {address.epoch}"),
        handle_lost=lambda node_id, now: said.append(f"{node_id} lost"),
    )
    node = AdoptedNode(1, cast("Any", None), cast("Any", SimpleNamespace(name="host")), "shop")
    node._node = cast("Any", SimpleNamespace(engine=engine, pump=SimpleNamespace(lock=Lock(), wake=lambda: None)))
    bob = Address("bob", 1, "bob", "h", ["ipc:///bob"], [])
    for _ in range(2):
        node.offer({"ann": ANN, "bob": bob})
    node.offer({"ann": replace(ANN, epoch=2)})
    assert said == ["ann 1", "bob 1", "ann 2", "bob lost"]


def test_a_host_that_closes_gives_all_back() -> None:
    """All of them say goodbye before one is waited for, and nothing is asked of them afterwards."""
    host = Host(seen(1), seen(2))
    host.until(RUN_BEFORE + 1)
    host.said.clear()
    host.adoption.start()
    host.adoption.leave()
    eventually(lambda: len(host.said) == 4, "the end of both")
    host.adoption.join()
    assert host.said == ["bye 1", "bye 2", "end 1 0", "end 2 0"]
    late = Request(1, host.lives[1].dead[0], retry=True)
    host.adoption.ask(late)
    assert isinstance(late.error, NodeClosed)
