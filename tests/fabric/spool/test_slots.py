"""Slots of a shared folder: which one is taken, how they look from outside, and who may have what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from errno import EIO

import pytest

from peerfabric.errors import SpoolError, SpoolLocked, SpoolUnsafe
from peerfabric.spool import Log, Spool
from peerfabric.spool.files import Place
from peerfabric.spool.folder import OtherFabric, read_owner
from peerfabric.spool.slots import Slots, fabric_mark, shared_folder, slot_folder
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, open_spool
from tests.fabric.spool.seats import Seat

SHOP, TEST = fabric_mark("shop"), fabric_mark("test")
CLAIMS = "/claims"


class Folder:
    """A shared folder, and processes that use it."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.disk.make_folder(CLAIMS)
        self.pids = 100
        self.said: list[tuple[int, str]] = []
        self.tries = 0

    def moments(self, seconds: float) -> Iterator[None]:
        for _ in range(3):
            self.tries += 1
            yield

    def seat(self) -> Seat:
        self.pids += 1
        return Seat(self.disk, self.pids)

    def slots(self, seat: Seat | None = None, limit: int = 64) -> Slots:
        return Slots(seat or self.seat(), FOLDER, limit, lambda level, text: self.said.append((level, text)))

    def opening(self, seat: Seat, fabric: bytes = SHOP) -> Callable[[int, str], Spool]:
        def open_(number: int, folder: str) -> Spool:
            return open_spool(
                seat,
                folder=folder,
                node_id=f"node-{number}",
                fabric=fabric,
                name="shop",
                any_fabric=False,
                shrinks=number > 0,
                claims=CLAIMS,
            )

        return open_

    def take(self, fabric: bytes = SHOP, limit: int = 64) -> tuple[Seat, int, Spool]:
        seat = self.seat()
        return seat, *self.slots(seat, limit).take(self.opening(seat, fabric), self.moments)

    def states(self, *, everything: bool = False) -> list[tuple[int, bool | None, bool, bool]]:
        return [
            (sight.number, sight.held, sight.is_orphan(SHOP), sight.is_parked(SHOP))
            for sight in self.slots().sights(everything=everything)
        ]


@pytest.fixture
def shared() -> Iterator[Folder]:
    folder = Folder()
    yield folder
    folder.slots().check()


def leave(spool: Spool, *, dead: bool = False) -> None:
    """A message that nobody settles, or a dead letter."""
    append(spool.dead(QUEUE, unix_ms=1) if dead else spool.queue(QUEUE, unix_ms=1), spool.epoch, 1)


def test_names() -> None:
    """Slot 0 is the folder itself; a path that is named as a slot tells its folder."""
    assert [slot_folder("/a/b", number) for number in (0, 1, 17)] == ["/a/b", "/a/b/slots/1", "/a/b/slots/17"]
    assert shared_folder("/a/b/slots/17") == "/a/b"
    for other in ("/a/b", "/a/b/slots", "/a/b/slots/0", "/a/b/slots/x", "/a/b/slots/256", "/a/b/slots/01", "/slots/1"):
        assert shared_folder(other) == ""
    assert fabric_mark("shop") != fabric_mark("test")
    assert len(fabric_mark("shop")) == 8


def test_the_lowest_free_slot_is_taken(shared: Folder) -> None:
    """Whatever is in it; a new one is made when all are held."""
    (_, _, first), (_, _, second), (_, _, third) = (shared.take() for _ in range(3))
    leave(second)
    assert [spool.node_id for spool in (first, second, third)] == ["node-0", "node-1", "node-2"]
    second.close()
    _, number, again = shared.take()
    assert (number, again.node_id, again.epoch > second.epoch) == (1, "node-1", True)
    first.close()
    assert shared.take()[1] == 0
    assert shared.take()[1] == 3


def test_how_slots_look(shared: Folder) -> None:
    """Locks are tried only where something may be left, and nothing is changed by looking."""
    assert shared.states() == []
    assert shared.disk.files == {}
    taken = [shared.take() for _ in range(6)]
    for at in (0, 1, 2, 4):
        leave(taken[at][2], dead=at == 2)
    taken[1][2].close()  # left
    taken[2][2].close()  # parked
    taken[3][2].close()  # empty
    taken[4][0].die()
    taken[5][0].die()  # with nothing
    before = shared.disk.operations
    expected = [
        (0, True, False, False),
        (1, False, True, False),
        (2, False, False, True),
        (3, None, False, False),
        (4, False, True, False),
        (5, False, False, False),
    ]
    assert shared.states() == expected
    expected[3] = (3, False, False, False)
    assert shared.states(everything=True) == expected
    assert shared.disk.operations == before
    sights = shared.slots().sights()
    assert [sight.queues for sight in sights] == [(QUEUE,), (QUEUE,), (QUEUE,), (), (QUEUE,), ()]
    assert [sight.is_orphan(TEST) or sight.is_parked(TEST) for sight in sights] == [False] * 6


def test_a_sheet_that_cannot_be_read(shared: Folder) -> None:
    """The slot is there, with what is wrong, and is nobody's orphan; taking passes it over, and says so once."""
    for _, _, spool in [shared.take(), shared.take()]:
        leave(spool)
        spool.close()
    shared.disk.unreadable.add((f"{FOLDER}/node", 0))
    sight = shared.slots().sights()[0]
    assert (sight.sheet, sight.is_orphan(SHOP)) == (None, False)
    assert "cannot be read" in sight.problem
    assert shared.take()[1] == 1
    [(level, text)] = shared.said
    assert level == logging.ERROR
    assert text.endswith("slot 0 is passed over")
    shared.disk.unreadable.clear()


def test_adopting(shared: Folder) -> None:
    """Whoever has the slot, or chooses one just now, keeps it; it goes to its own fabric only."""
    seat, number, spool = shared.take()
    leave(spool)
    other = shared.seat()
    slots = shared.slots(other)
    assert slots.open(number, shared.opening(other)) is None
    seat.die()
    chooser = shared.seat()
    taking = chooser.lock(f"{FOLDER}/slots/taking")
    assert slots.open(number, shared.opening(other)) is None
    assert [sight.held for sight in slots.sights()] == [None]
    chooser.unlock(taking)
    with pytest.raises(OtherFabric):
        slots.open(number, shared.opening(other, TEST))
    found = slots.open(number, shared.opening(other))
    assert found is not None
    assert (found.node_id, found.died, found.epoch > spool.epoch) == ("node-0", True, True)


def test_a_copy_is_not_adopted_while_its_original_runs(shared: Folder) -> None:
    """And whoever would have adopted it can say why not."""
    _, number, original = shared.take()
    leave(original)
    copier = shared.seat()
    leave(open_spool(copier, folder="/copy", node_id="node-0", fabric=SHOP))
    copier.die()
    adopter = shared.seat()
    with pytest.raises(SpoolLocked, match="is a copy") as caught:
        Slots(adopter, "/copy").open(number, shared.opening(adopter))
    assert caught.value.is_copy


def test_another_fabric(shared: Folder) -> None:
    """Takes what has nothing in it, and the fabric of the sheet with it; else the slot is not for it."""
    _, _, spool = shared.take()
    leave(spool)
    spool.close()
    seat, number, test = shared.take(TEST)
    assert number == 1
    with pytest.raises(SpoolLocked, match="1 process uses this spool, and messages of another fabric are in 1 slot"):
        shared.take(TEST, limit=2)
    test.close()
    assert shared.take(SHOP)[1] == 0
    assert shared.take(SHOP)[1] == 1
    sheet = read_owner(shared.disk, slot_folder(FOLDER, 1))
    assert sheet is not None
    assert (sheet.fabric, sheet.name) == (SHOP, "shop")
    assert seat.is_dead is False


def test_what_a_cursor_had_to_forget_is_left(shared: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says less than was settled, so the next life finds something: the slot keeps it, and is adopted."""
    monkeypatch.setattr("peerfabric.spool.log.RANGES_BYTES_MAX", 4)
    shared.take()
    _, number, spool = shared.take()
    log = spool.queue(QUEUE, unix_ms=1)
    for sequence in range(1, 42):
        append(log, spool.epoch, sequence)
    for sequence in (*range(1, 42, 2), *range(2, 42, 2)):
        log.settle(spool.epoch, sequence, sequence + 1)
        if sequence == 41:
            log.write_cursor()
    assert not log.cursor_complete
    assert not log.unsettled_count
    monkeypatch.setattr(Log, "write_cursor", lambda self, *given, **named: None)
    spool.close()
    assert shared.states()[number] == (number, False, True, False)


def test_who_opens_it_for_no_fabric_changes_none(shared: Folder) -> None:
    """A command that drops a message leaves the slot to those who had it."""
    shared.take()[2].close()
    open_spool(shared.disk).close()
    sheet = read_owner(shared.disk, FOLDER)
    assert sheet is not None
    assert (sheet.fabric, sheet.name, sheet.left) == (SHOP, "shop", 0)


def test_a_sheet_stays_within_a_sector(shared: Folder) -> None:
    """However long the names are: that of the node is cut, and left out if the path of the claim is long."""
    deep = f"{CLAIMS}/{'x' * 90}"
    shared.disk.make_folder(deep)
    deeper = f"{deep}/{'y' * 90}"
    for claims, name, kept in ((CLAIMS, "é" * 200, "é" * 32), (deep, "n" * 9, "n" * 9), (deeper, "n" * 64, "")):
        shared.disk.make_folder(claims)
        folder = f"/spool-{len(claims)}"
        spool = open_spool(
            shared.disk, folder=folder, node_id="f" * 32, name=name, fabric=SHOP, claims=claims, counter_min=2**33 - 9
        )
        assert len(shared.disk.files[f"{folder}/node"].content) == 512
        sheet = read_owner(shared.disk, folder)
        assert sheet is not None
        assert (sheet.name, sheet.claim.startswith(claims)) == (kept, True)
        spool.close()
        assert len(shared.disk.files[f"{folder}/node"].content) == 512


def test_a_slot_that_looks_like_a_copy_for_a_moment(shared: Folder) -> None:
    """Of a process that dies the lock of the slot may be free before that of its id: that passes, and is waited for."""
    seat, _, spool = shared.take()
    spool.abandon()
    claim = seat.lock(f"{CLAIMS}/{b'node-0'.hex()}.lock")

    def moments(seconds: float) -> Iterable[int]:
        yield 1
        seat.unlock(claim)
        yield 2

    other = shared.seat()
    slots = shared.slots(other)
    number, again = slots.take(shared.opening(other), moments)
    assert (number, again.node_id) == (0, "node-0")
    again.abandon()
    claim = seat.lock(f"{CLAIMS}/{b'node-0'.hex()}.lock")
    with pytest.raises(SpoolLocked, match="is a copy of the spool that process 102 uses") as refused:
        shared.take()
    assert refused.value.is_copy
    seat.unlock(claim)


def test_a_slot_that_somebody_looks_into(shared: Folder) -> None:
    """A start waits for a moment, as it would else overtake what it left there; and then takes the next one."""
    seat, _, first = shared.take()
    leave(first)
    seat.die()
    reader = shared.seat()
    looked = reader.lock(f"{FOLDER}/lock", shared=True)
    starter = shared.seat()
    opening, asked = shared.opening(starter), []

    def open_(number: int, folder: str) -> Spool:
        asked.append(number)
        if len(asked) == 2:
            reader.unlock(looked)
        return opening(number, folder)

    number, spool = shared.slots(starter).take(open_, shared.moments)
    assert (number, asked) == (0, [0, 0])
    spool.close()
    reader.lock(f"{FOLDER}/lock", shared=True)
    assert shared.take()[1] == 1
    assert shared.said == []


def test_a_full_disk(shared: Folder) -> None:
    """A folder of before is opened though there is no space for `slots`; a new slot is refused, and leaves nothing."""
    spool = open_spool(shared.disk, spare=True)
    leave(spool)
    spool.close()
    used = sum(len(file.content) for file in shared.disk.files.values())
    shared.disk.space = used
    shared.disk.broken["make_folder"] = 28
    _, number, again = shared.take()
    assert (number, again.node_id) == (0, "node")
    with pytest.raises(SpoolError, match="no space on the disk"):
        shared.take()
    assert [path for path in shared.disk.folders if "slots" in path] == []
    assert shared.said == []


def test_a_folder_of_somebody_else(shared: Folder) -> None:
    """Nothing is made in it, though it has a folder `slots`."""
    shared.disk.make_folder(f"{FOLDER}/slots")
    for name in ("mine", "slots/mine", "slots/1.txt"):
        path = f"{FOLDER}/{name}"
        shared.disk.close(shared.disk.open(path, create=True))
        before = set(shared.disk.files), set(shared.disk.folders)
        with pytest.raises(SpoolUnsafe, match="holds files of others"):
            shared.take()
        assert (set(shared.disk.files), set(shared.disk.folders)) == before
        shared.disk.unlink(path)
    assert shared.take()[1] == 0


def test_a_lost_node_beside_slots(shared: Folder) -> None:
    """The folder is still ours, by the slots in it."""
    taken = [shared.take() for _ in range(2)]
    for _, _, spool in taken:
        spool.close()
    shared.disk.unlink(f"{FOLDER}/node")
    shared.disk.unlink(f"{FOLDER}/slots/taking")
    assert shared.take()[1] == 0


def test_who_waits_for_taking_goes_on_without(shared: Folder) -> None:
    """Its holder was stopped; each slot has a lock of its own, so nobody is harmed. A person is told."""
    shared.take()
    stopped = shared.seat()
    taking = stopped.lock(f"{FOLDER}/slots/taking")
    assert [shared.take()[1], shared.take()[1]] == [1, 2]
    assert [level for level, text in shared.said if "is held for more than 5 s" in text] == [logging.WARNING] * 2
    shared.disk.close(taking)
    tries = shared.tries
    shared.take()
    assert shared.tries == tries + 2  # one for each lock


def test_serving(shared: Folder) -> None:
    """One process serves a folder; others see that, and it ends with the process."""
    seat = shared.seat()
    slots = shared.slots()

    def served() -> bool:
        return slots.is_served

    assert not served()
    assert shared.slots(seat).serve() > 0
    assert served()
    with pytest.raises(SpoolLocked, match="process 101 uses this spool; stop it, or serve another folder"):
        slots.serve()
    seat.die()
    assert not served()
    assert slots.numbers() == []


def test_a_start_that_fails_leaves_what_others_have(shared: Folder) -> None:
    """What it made alone goes with it, and nothing else."""
    for number in range(1, 12):
        folder = Folder()
        folder.disk.faults[folder.disk.operations + number] = EIO
        try:
            _, _, spool = folder.take()
        except SpoolError:
            assert [path for path in folder.disk.folders if path.startswith(FOLDER)] == []
            assert [path for path in folder.disk.files if path.startswith(FOLDER)] == []
        else:
            spool.close()
    _, _, first = shared.take()
    for number in range(1, 12):
        shared.disk.faults[shared.disk.operations + number] = EIO
        try:
            _, _, second = shared.take()
        except SpoolError:
            first.hold.check()
        else:
            second.close()
        shared.disk.faults.clear()
    assert shared.disk.folders[FOLDER] != Place(0, 0)


def test_a_close_that_cannot_say_what_is_settled(shared: Folder) -> None:
    """Its slot keeps all files, and counts as one in which something is left: whoever opens it finds out."""
    shared.take()
    _, number, spool = shared.take()
    leave(spool)
    spool.queue(QUEUE, unix_ms=1).settle(spool.epoch, 1, 2)
    shared.disk.faults[shared.disk.operations + 1] = EIO
    with pytest.raises(SpoolError):
        spool.close()
    assert shared.states()[number] == (1, False, True, False)
    assert shared.slots().sights()[number].queues == (QUEUE,)
