"""Orphans: which slots a node adopts, in which order, and when it lets go of them."""

from __future__ import annotations

from peerfabric.spool.folder import Owner
from peerfabric.spool.orphans import (
    FORGET_AFTER,
    GRACE,
    PATIENCE,
    REFUSED_FOR,
    RUN_BEFORE,
    STRANDED_AFTER,
    Consumer,
    Orphans,
)
from peerfabric.spool.slots import SlotSight

OURS = b"fabric 1"
ANN: Consumer = ("ann", 1, 0)
BOB: Consumer = ("bob", 1, 0)


def seen(
    number: int,
    *,
    pid: int = 0,
    left: int = 0,
    held: bool | None = False,
    queues: tuple[str, ...] = ("jobs",),
    fabric: bytes = OURS,
    counter: int = 7,
) -> SlotSight:
    sheet = Owner(node_id=f"node {number}", pid=pid, left=left, fabric=fabric, counter=counter)
    return SlotSight(number, f"/spool/{number}", sheet, queues, held)


class Watch:
    """A node that looks once a second at what a test changes."""

    def __init__(self, *sights: SlotSight, limit: int = 4) -> None:
        self.orphans = Orphans(OURS, limit, 0.0)
        self.sights = {sight.number: sight for sight in sights}
        self.consumers: dict[str, list[Consumer]] = {"jobs": [ANN]}
        self.served = False
        self.now = 0.0

    def look(self) -> list[int]:
        chosen = self.orphans.look(
            self.sights.values(), lambda queue: self.consumers.get(queue, []), self.now, served=lambda: self.served
        )
        self.orphans.check()
        return chosen

    def until(self, end: float) -> list[int]:
        """What it adopts in all looks before `end`."""
        chosen: list[int] = []
        while self.now < end:
            for number in self.look():
                self.adopt(number)
                chosen.append(number)
            self.now += 1.0
        return chosen

    def adopt(self, number: int) -> None:
        self.orphans.adopted(number, self.now)
        self.sights[number] = self.sights[number]._replace(held=True)
        self.orphans.check()

    def let_go(self, number: int, left: int) -> None:
        self.orphans.let_go(number, self.now)
        self.sights[number] = seen(number, left=left, counter=8)
        self.orphans.check()

    def keeps(self, number: int, *, unsettled: int = 1, acked: int = 0, consumed: bool = True) -> bool:
        return self.orphans.keeps(number, unsettled=unsettled, acked=acked, consumed=consumed, now=self.now)


def test_a_node_adopts_what_is_free_and_unsettled_for_a_while() -> None:
    """Of a process that died, or has left something; not what somebody has, is empty, or is of another fabric."""
    watch = Watch(
        seen(0, pid=9, held=True),
        seen(1, pid=9),
        seen(2, left=3),
        seen(3),
        seen(4, left=3, fabric=b"fabric 2"),
        seen(5, left=3, fabric=b""),
        seen(6, pid=9, queues=()),
        seen(7, left=3, held=None),
    )
    assert watch.until(RUN_BEFORE) == []
    assert watch.until(RUN_BEFORE + 1) == [1, 2]
    assert watch.orphans.held == (1, 2)
    assert watch.until(200.0) == []


def test_a_slot_is_free_for_some_time_before() -> None:
    """Whoever starts again takes it meanwhile, and the time begins anew when it is left once more."""
    watch = Watch(seen(1, pid=9, held=True))
    watch.until(10.0)
    watch.sights[1] = seen(1, pid=9)
    assert watch.until(10.0 + GRACE) == []
    watch.sights[1] = seen(1, pid=10, held=True, counter=8)
    assert watch.until(20.0) == []
    watch.sights[1] = seen(1, pid=10, counter=8)
    assert watch.until(20.0 + GRACE) == []
    watch.sights[1] = seen(1, pid=11, counter=9)  # somebody had it between two looks
    assert watch.until(20.0 + 2 * GRACE) == []
    assert watch.until(20.0 + 2 * GRACE + 1) == [1]


def test_while_somebody_chooses_nothing_is_known_and_nothing_forgotten() -> None:
    watch = Watch(seen(1, pid=9))
    watch.until(RUN_BEFORE - 1)
    watch.sights[1] = seen(1, pid=9, held=None)
    assert watch.until(RUN_BEFORE + 1) == []
    watch.sights[1] = seen(1, pid=9)
    assert watch.look() == [1]


def test_nothing_is_adopted_that_nobody_consumes() -> None:
    """Nor what only the node itself would have consumed that is gone; a person is told of it."""
    watch = Watch(seen(1, left=5, queues=("bills",)), seen(2, left=5))
    watch.consumers = {"jobs": [("node 2", 3, 0)]}
    assert watch.until(30.0) == []
    told = list(watch.orphans.findings("/spool", watch.now))
    assert [finding.what for finding in told] == [
        "slot 1 of the spool /spool has 5 messages of bills that nobody consumes",
        "slot 2 of the spool /spool has 5 messages of jobs that nobody consumes",
    ]
    assert all(finding.after == STRANDED_AFTER and finding.since == 0.0 for finding in told)
    watch.consumers["bills"] = [BOB]
    assert watch.until(31.0) == [1]


def test_the_oldest_come_first_and_no_more_than_allowed() -> None:
    watch = Watch(seen(3, pid=9), limit=2)
    watch.until(1.0)
    watch.sights |= {1: seen(1, pid=9), 2: seen(2, pid=9)}
    assert watch.until(20.0) == [3, 1]
    [finding] = watch.orphans.findings("/spool", watch.now)
    assert "slot 2" in finding.what
    watch.let_go(3, left=0)
    assert watch.until(21.0) == [2]


def test_it_is_let_go_of_when_all_is_settled() -> None:
    watch = Watch(seen(1, pid=9))
    watch.until(10.0)
    assert watch.keeps(1, unsettled=1)
    assert not watch.keeps(1, unsettled=0)
    watch.let_go(1, left=0)
    assert watch.until(200.0) == []
    assert watch.orphans.is_idle


def test_it_is_let_go_of_after_a_time_without_a_consumer() -> None:
    """And not adopted again for those that did not take from it, until they are somebody else, or long after."""
    watch = Watch(seen(1, pid=9))
    watch.until(RUN_BEFORE + 1)
    watch.orphans.offered(1, [ANN])
    since = watch.now
    assert watch.keeps(1, consumed=True)
    watch.now = since + PATIENCE - 1
    assert watch.keeps(1, consumed=False)
    watch.now = since + PATIENCE
    assert not watch.keeps(1, consumed=False)
    watch.let_go(1, left=1)
    assert watch.until(since + 2 * PATIENCE) == []
    watch.consumers["jobs"] = [("ann", 1, 1)]  # it uses something else by now
    assert watch.until(watch.now + 1) == [1]

    watch.orphans.offered(1, watch.consumers["jobs"])
    watch.now += PATIENCE + 1
    assert not watch.keeps(1, consumed=False)
    watch.let_go(1, left=1)
    since = watch.now
    assert watch.until(since + FORGET_AFTER) == []
    assert watch.until(since + FORGET_AFTER + 2) == [1]


def test_one_that_does_not_move_makes_room_for_others() -> None:
    """A consumer that hangs keeps nobody else's messages from being sent; alone it stays."""
    watch = Watch(seen(1, pid=9), limit=1)
    watch.until(RUN_BEFORE + 1)
    watch.keeps(1, acked=3)
    since = watch.now
    watch.until(since + PATIENCE)
    assert watch.keeps(1, acked=3)
    watch.sights[2] = seen(2, pid=9)
    watch.until(watch.now + GRACE)
    assert watch.keeps(1, acked=3)
    watch.until(watch.now + 1)
    assert watch.keeps(1, acked=4), "it moves"
    watch.now += PATIENCE
    assert not watch.keeps(1, acked=4)
    watch.let_go(1, left=1)
    assert watch.until(watch.now + 1) == [2]
    assert watch.until(watch.now + 10) == []
    watch.let_go(2, left=1)
    assert watch.until(watch.now + 1) == [1], "who was let go of last is last in line"


def test_a_process_that_serves_comes_first() -> None:
    watch = Watch(seen(1, pid=9))
    watch.served = True
    assert watch.until(PATIENCE) == []
    assert not list(watch.orphans.findings("/spool", watch.now))
    assert watch.until(PATIENCE + 1) == [1]


def test_one_that_cannot_be_opened_is_left_alone_for_a_while() -> None:
    watch = Watch(seen(1, pid=9))
    watch.until(RUN_BEFORE)
    assert watch.look() == [1]
    watch.orphans.refused(1, watch.now)
    assert watch.until(RUN_BEFORE + REFUSED_FOR) == []
    assert watch.look() == [1]


def test_what_cannot_be_read_is_told_of() -> None:
    """Nobody knows whose it is, so nobody adopts it; a person should know that something may be stranded there."""
    unread = SlotSight(1, "/spool/1", None, (), None, "/spool/1/node: Input/output error; look at the disk")
    damaged = SlotSight(2, "/spool/2", None, ("jobs",), False)
    begun, running = SlotSight(3, "/spool/3", None, (), False), SlotSight(4, "/spool/4", None, ("jobs",), True)
    watch = Watch(unread, damaged, begun, running)
    assert watch.until(STRANDED_AFTER + 1) == []
    found = list(watch.orphans.findings("/spool", watch.now))
    assert [finding.what.partition(":")[0] for finding in found] == [
        "slot 1 of the spool /spool cannot be adopted",
        "slot 2 of the spool /spool cannot be adopted",
    ]
    assert [finding.since for finding in found] == [0.0, 0.0]
    assert "Input/output error" in found[0].what
    assert "jobs" in found[1].what
    watch.sights[1] = seen(1)
    watch.sights[2] = watch.sights[2]._replace(held=True)
    watch.look()
    assert list(watch.orphans.findings("/spool", watch.now)) == []


def test_what_a_person_needs_is_adopted_at_once() -> None:
    """Whoever consumes it, whatever is in it, and beyond the limit."""
    watch = Watch(seen(1, pid=9), seen(2), limit=1)
    watch.until(RUN_BEFORE + 1)
    watch.orphans.want(2)
    watch.orphans.want(1)
    assert not watch.orphans.is_idle
    assert watch.until(watch.now + 1) == [2]
    assert watch.orphans.held == (1, 2)
    watch.orphans.want(3)
    assert watch.look() == [3]
    watch.orphans.refused(3, watch.now)
    assert watch.look() == []
