"""Each operation of taking, adopting and shrinking fails once, and is cut once by a death and by the loss of power."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EIO, ENOSPC
from random import Random

import pytest

from peerfabric.errors import SpoolError
from peerfabric.ranges import Ranges
from peerfabric.spool import Log, Spool
from peerfabric.spool.files import Place
from peerfabric.spool.slots import Slots, slot_folder
from tests.fabric.spool.disk import SHORT, Disk
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, open_spool, records
from tests.fabric.spool.seats import Cut, CutDisk, Seat

FABRIC = b"fabric-1"
CLAIMS = "/claims"
SEGMENT_BYTES = 32 * 1024
"""So large that one in which all is settled stays until the slot shrinks."""
Message = tuple[str, int, int]


def moments(seconds: float) -> Iterable[int]:
    return range(3)


class PowerCut(BaseException):
    """The story ends with the power."""


class Story:
    """Processes that share a folder, and what they rely on. One that is refused, or dies, is followed by the next."""

    def __init__(self, disk: Disk, *, fsync: bool, powered: bool = True) -> None:
        self.disk, self.fsync, self.powered = disk, fsync, powered
        disk.folders[CLAIMS] = disk._durable_folders[CLAIMS] = Place(1, 1_000)
        self.pids = 100
        self.stored: set[Message] = set()
        self.perhaps_stored: set[Message] = set()
        self.settled: set[Message] = set()
        self.perhaps_settled: set[Message] = set()
        self.epochs: dict[str, int] = {}
        self.refused = 0

    def run(self) -> None:
        """One process stays; others come and go beside it, one of them dies, and what it left is adopted, twice."""
        steady, spool = self._process(self._take)
        self._in(steady, lambda: self._send(spool, 2))
        self._process(self._come_and_go)
        for _ in range(2):
            self._process(self._be_killed)
        self._process(lambda seat: self._adopt(seat, settle=2, close=False))
        self._process(lambda seat: self._adopt(seat, settle=100, close=True))
        self._in(steady, lambda: self._settle(spool, 100))
        self._in(steady, spool.close)

    def _process(self, life: Callable[[Seat], Spool | None]) -> tuple[Seat, Spool]:
        for _ in range(4):
            self.pids += 1
            seat = Seat(self.disk, self.pids)
            try:
                spool = life(seat)
            except Cut:
                self._go_on()
                continue
            except SpoolError:
                self.refused += 1
                seat.die()
                continue
            return seat, spool  # type: ignore[return-value]
        raise AssertionError("refused four times")

    def _go_on(self) -> None:
        if not self.powered:
            raise PowerCut

    def _in(self, seat: Seat, act: Callable[[], object]) -> None:
        """A step of a process that may be dead by now, or may be refused and go on."""
        if seat.is_dead:
            return
        try:
            act()
        except Cut:
            self._go_on()
        except SpoolError:
            seat.die()

    def _take(self, seat: Seat) -> Spool:
        number, spool = Slots(seat, FOLDER).take(self._open(seat), moments)
        assert 0 <= number < 5
        return spool

    def _open(self, seat: Seat) -> Callable[[int, str], Spool]:
        def open_(number: int, folder: str) -> Spool:
            spool = open_spool(
                seat,
                folder=folder,
                fsync=self.fsync,
                spare=True,
                segment_bytes=SEGMENT_BYTES,
                random_bits=self.pids,
                node_id=f"node-{number}",
                fabric=FABRIC,
                name="shop",
                any_fabric=False,
                shrinks=number > 0,
                claims=CLAIMS,
            )
            assert spool.epoch > self.epochs.get(spool.node_id, 0)
            self.epochs[spool.node_id] = spool.epoch
            return spool

        return open_

    def _send(self, spool: Spool, count: int) -> Log:
        log = spool.queue(QUEUE, unix_ms=1)
        for sequence in range(1, count + 1):
            message = spool.node_id, spool.epoch, sequence
            self.perhaps_stored.add(message)
            append(log, spool.epoch, sequence)
            if self.fsync:
                log.sync()
            self.stored.add(message)
        return log

    def _settle(self, spool: Spool, count: int) -> None:
        for name in spool.queues():
            log, done = spool.queue(name, unix_ms=1), set[Message]()
            for message in unsettled(spool.node_id, log)[:count]:
                self.perhaps_settled.add(message)
                done.add(message)
                log.settle(message[1], message[2], message[2] + 1)
            log.write_cursor()
            self.settled |= done

    def _come_and_go(self, seat: Seat) -> None:
        spool = self._take(seat)
        self._send(spool, 3)
        append(spool.dead(QUEUE, unix_ms=1), spool.epoch, 1)
        spool.dead(QUEUE, unix_ms=1).settle(spool.epoch, 1, 2)
        self._settle(spool, 100)
        spool.close()

    def _be_killed(self, seat: Seat) -> None:
        self._send(self._take(seat), 4)
        seat.die()

    def _adopt(self, seat: Seat, *, settle: int, close: bool) -> None:
        slots = Slots(seat, FOLDER)
        for sight in slots.sights():
            if not sight.is_orphan(FABRIC):
                continue
            spool = slots.open(sight.number, self._open(seat))
            if spool is not None:
                self._settle(spool, settle)
                if close:
                    spool.close()
        seat.die()

    def check(self, disk: Disk, *, durable: bool = True) -> None:
        """Nothing is lost that was stored, and nothing comes back that was settled."""
        seat = Seat(disk, 99)
        slots = Slots(seat, FOLDER)
        found: list[Message] = []
        for number in slots.numbers():
            spool = self._open(seat)(number, slot_folder(FOLDER, number))
            for name in spool.queues():
                log = spool.queue(name, unix_ms=1)
                found += unsettled(spool.node_id, log)
                if durable:
                    assert log.recovery.damaged == []
                log.check()
            spool.abandon()
        assert len(found) == len(set(found))
        assert set(found) <= self.perhaps_stored
        if durable:
            assert not set(found) & self.settled, "resurrected"
            assert set(found) >= self.stored - self.perhaps_settled, "lost"
        seat.die()
        assert disk.open_count == 0


def unsettled(node_id: str, log: Log) -> list[Message]:
    settled = log.settled_ranges()
    return [
        (node_id, record.epoch, sequence)
        for record in records(log)
        for low, high in settled.get(record.epoch, Ranges()).missing(record.first, record.stop)
        for sequence in range(low, high)
    ]


def told(disk: Disk, *, fsync: bool) -> Story:
    story = Story(disk, fsync=fsync)
    story.run()
    return story


def operations(*, fsync: bool) -> int:
    disk = Disk()
    story = told(disk, fsync=fsync)
    assert story.refused == 0
    assert story.stored == story.settled
    assert len(story.stored) == 2 + 3 + 4 + 4
    assert disk.names(f"{FOLDER}/slots") == ["1", "taking"]
    assert disk.names(f"{FOLDER}/slots/1") == ["lock", "node"]
    story.check(disk)
    return disk.operations


def test_the_order_of_shrinking() -> None:
    """A cursor outlives its segments, and of its two files the older one is never left alone, whatever a disk keeps."""
    disk = Disk()
    spool = open_spool(disk, fsync=True, segment_bytes=SEGMENT_BYTES, shrinks=True, spare=True)
    log = spool.queue(QUEUE, unix_ms=1)
    append(log, spool.epoch, 1)
    log.settle(spool.epoch, 1, 2)
    log.write_cursor()
    folder = f"{FOLDER}/queues/{QUEUE}"
    [segment] = [path for path in disk.files if path.endswith(".seg")]
    newest = max((0, 1), key=lambda side: disk.files[f"{folder}/cursor.{side}"].content[16:24])
    before = disk.operations
    spool.close()
    steps = disk.trace[before:]
    assert steps[steps.index(("rename", f"{FOLDER}/node")) + 2 :] == [
        ("sync", f"{folder}/cursor.{newest}"),
        ("unlink", f"{folder}/cursor.{1 - newest}"),
        ("unlink", segment),
        ("sync_folder", folder),
        ("unlink", f"{folder}/cursor.{newest}"),
        ("remove_folder", folder),
        ("remove_folder", f"{FOLDER}/queues"),
        ("unlink", f"{FOLDER}/spare"),
    ]


SAMPLE = [pytest.param(3, id="sample"), pytest.param(1, id="all", marks=pytest.mark.long)]
"""Of so many operations one; all of them take half a minute of a busy machine."""


@pytest.mark.parametrize("step", SAMPLE)
@pytest.mark.parametrize(("fault", "fsync"), [(EIO, False), (EIO, True), (ENOSPC, True), (SHORT, False)])
def test_every_operation_fails_once(fault: int, fsync: bool, step: int) -> None:
    """Whoever meets it goes on, or ends and is followed by another one, and all ends well."""
    for number in range(1, operations(fsync=fsync) + 1, step):
        disk = Disk()
        disk.faults[number] = fault
        story = told(disk, fsync=fsync)
        disk.faults.clear()
        story.check(disk)


@pytest.mark.parametrize("step", SAMPLE)
def test_every_lookup_fails_once(step: int) -> None:
    """What cannot be read now is not taken for lost, and a slot that cannot be opened now is passed over."""
    disk = Disk()
    told(disk, fsync=True)
    count = disk.lookups
    for number in range(1, count + 1, step):
        disk = Disk()
        disk.lookup_faults[number] = EIO
        story = told(disk, fsync=True)
        disk.lookup_faults.clear()
        story.check(disk)


@pytest.mark.parametrize(("fsync", "halfway", "step"), [(False, False, 1), (True, True, 2)])
def test_a_process_dies_in_every_operation(fsync: bool, halfway: bool, step: int) -> None:
    """The next one finds the slot free, and everything in it that was stored."""
    for number in range(1, operations(fsync=fsync) + 1, step):
        disk = CutDisk()
        disk.cut_at, disk.halfway = number, halfway
        story = told(disk, fsync=fsync)
        disk.cut_at = 0
        Slots(disk, FOLDER).check()
        story.check(disk)


@pytest.mark.parametrize(
    ("fsync", "seeds"), [(False, 1), (True, 1), *(pytest.param(each, 5, marks=pytest.mark.long) for each in (0, 1))]
)
def test_the_power_goes_in_every_operation(fsync: bool, seeds: int) -> None:
    """With fsync nothing is lost that was stored, and nothing comes back that was settled; the folder opens always."""
    for number in range(1, operations(fsync=fsync) + 1):
        for seed in range(seeds):
            disk = CutDisk()
            disk.cut_at = number
            story = Story(disk, fsync=fsync, powered=False)
            with suppress(PowerCut):
                story.run()
            story.check(disk.lose_power(Random(seeds * number + seed)), durable=fsync)
