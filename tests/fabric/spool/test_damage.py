"""Whatever happens to the bytes: every intact record is recovered, no wrong one, and what is lost is told by number."""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO

import pytest

from peerfabric.errors import SpoolError
from peerfabric.spool import Recovery
from peerfabric.spool.format import RECORD_BYTES, RECORD_MAGIC, decode_segment
from tests.fabric.spool.disk import SECTOR, Disk, File
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, fill, messages, numbers, open_log, open_spool

LOG = f"{FOLDER}/queues/{QUEUE}"
EPOCH = 1 << 20 | 7
RECORDS, COUNT = 12, 2
ALL = {(EPOCH, sequence) for sequence in range(1, RECORDS * COUNT + 1)}


def three_segments() -> Disk:
    """A spool whose log has four records in each of three segments, as a killed process leaves it."""
    disk = Disk()
    log = open_log(disk, segment_bytes=430)
    fill(log, EPOCH, 1, RECORDS, COUNT)
    disk.kill()
    assert [len(places(disk, path)) for path in segments(disk)] == [4, 4, 4]
    return disk


def segments(disk: Disk) -> list[str]:
    return sorted(path for path in disk.files if path.endswith(".seg") and "/quarantine/" not in path)


def places(disk: Disk, path: str) -> list[int]:
    """Offsets of the records of a segment, and its end."""
    content, found = disk.files[path].content, list[int]()
    at = content.find(RECORD_MAGIC)
    while at >= 0:
        found.append(at)
        at = content.find(RECORD_MAGIC, at + 1)
    return found


def change(disk: Disk, path: str, content: bytes) -> Disk:
    other = disk.copy()
    other.files[path] = File(content, [content])
    return other


def recover(disk: Disk) -> tuple[set[tuple[int, int]], Recovery]:
    """What is recovered; it is read without a wrong record, twice, and leaves no descriptor behind."""
    log = open_log(disk, random_bits=9)
    found = messages(log)
    assert len(found) == len(set(found)), "a message came twice"
    assert found == sorted(found)
    assert set(found) == numbers(log.recovery.extents)
    log.check()
    disk.kill()
    again = open_log(disk, random_bits=10)
    assert messages(again) == found
    assert again.recovery.damaged == [], "told of twice"
    assert not again.recovery.torn
    return set(found), log.recovery


def record_of(disk: Disk, path: str, offset: int) -> int | None:
    """Which record of the whole log a byte belongs to; None: the header of the segment."""
    before = [at for at in places(disk, path) if at <= offset]
    return segments(disk).index(path) * 4 + len(before) - 1 if before else None


def sequences(record: int) -> set[tuple[int, int]]:
    return {(EPOCH, record * COUNT + n + 1) for n in range(COUNT)}


@pytest.mark.parametrize("number", range(3))
def test_truncated_at_every_byte(number: int) -> None:
    """The records in front are there; those behind are reported, or torn if nothing follows."""
    disk = three_segments()
    path = segments(disk)[number]
    content = disk.files[path].content
    for size in range(len(content)):
        found, recovery = recover(change(disk, path, content[:size]))
        ends = [*places(disk, path)[1:], len(content)]
        whole = number * 4 + sum(end <= size for end in ends)
        lost = set().union(*map(sequences, range(whole, (number + 1) * 4)))
        assert found == ALL - lost, size
        if number < 2:
            assert numbers(recovery.damaged) == lost, size
            assert recovery.torn == []
        else:
            boundary = size in (0, *ends, places(disk, path)[0])
            expected = (EPOCH, whole * COUNT + 1)
            assert recovery.torn_at == ([] if boundary or size < places(disk, path)[0] else [expected]), size


@pytest.mark.parametrize("number", range(3))
def test_every_bit_flipped(number: int) -> None:
    """One bit costs at most the record that it is in, and that one is named."""
    disk = three_segments()
    path = segments(disk)[number]
    content = disk.files[path].content
    for at in range(len(content)):
        for bit in range(8):
            data = bytearray(content)
            data[at] ^= 1 << bit
            found, recovery = recover(change(disk, path, bytes(data)))
            record = record_of(disk, path, at)
            lost = sequences(record) if record is not None else set()
            assert found == ALL - lost, (at, bit)
            torn = record == RECORDS - 1
            assert numbers(recovery.damaged) == (set() if torn else lost), (at, bit)
            assert recovery.torn_at == ([(EPOCH, 23)] if torn else []), (at, bit)
            assert recovery.problems or torn


@pytest.mark.parametrize("tail", [b"\0" * 700, b"\xff" * 700, RECORD_MAGIC * 100, b"text " * 100])
def test_tail_that_is_no_record(tail: bytes) -> None:
    """What is behind the last record is torn off, and kept if there is anything in it."""
    disk = three_segments()
    path = segments(disk)[2]
    disk = change(disk, path, disk.files[path].content + tail)
    found, recovery = recover(disk)
    assert found == ALL
    assert recovery.torn_at == [(EPOCH, 25)]
    assert recovery.damaged == []
    kept = [disk.files[name].content for name in disk.files if "/quarantine/" in name]
    assert kept == ([tail] if tail.strip(b"\0") else [])


def test_stale_tail() -> None:
    """Records of another segment, of another place in this one, or of an earlier file there, are no records here."""
    disk = three_segments()
    first, _, last = segments(disk)
    start = places(disk, first)[0]
    content = disk.files[last].content
    for tail in (disk.files[first].content[start:], content[start:], disk.files[first].content):
        found, recovery = recover(change(disk, last, content + tail))
        assert found == ALL
        assert recovery.torn_at == [(EPOCH, 25)]


def test_body_that_contains_records() -> None:
    """Bytes of records inside a body never come out as records, not even when that body's header is damaged."""
    disk = three_segments()
    inner = disk.files[segments(disk)[0]].content
    other = Disk()
    log = open_log(other, segment_bytes=1 << 16)
    log.append(EPOCH, 1, 1, 2, inner * 3, unix_ms=1)
    append(log, EPOCH, 2)
    other.kill()
    path = segments(other)[0]
    content = bytearray(other.files[path].content)
    content[content.find(RECORD_MAGIC) + 9] ^= 1
    found, recovery = recover(change(other, path, bytes(content)))
    assert found == {(EPOCH, 2)}
    assert recovery.damaged == [(EPOCH, 1, 2)]


@pytest.mark.parametrize(
    ("number", "lost", "damaged"),
    [(0, range(1, 9), [(EPOCH, 1, 9)]), (1, range(9, 17), [(EPOCH, 9, 17)]), (2, range(17, 25), [])],
)
def test_missing_segment(number: int, lost: range, damaged: list[tuple[int, int, int]]) -> None:
    """A segment that is gone shows as a gap; at the end only a cursor can tell."""
    disk = three_segments()
    del disk.files[segments(disk)[number]]
    found, recovery = recover(disk)
    assert found == {(e, s) for e, s in ALL if s not in lost}
    assert recovery.damaged == damaged


def test_missing_newest_segment_is_known_to_the_cursor() -> None:
    """The cursor says what was stored when it was written."""
    disk = Disk()
    log = open_log(disk, segment_bytes=430)
    fill(log, EPOCH, 1, RECORDS, COUNT)
    log.settle(EPOCH, 18, 19)
    log.write_cursor()
    disk.kill()
    del disk.files[segments(disk)[2]]
    found, recovery = recover(disk)
    assert found == {(e, s) for e, s in ALL if s < 17}
    assert recovery.damaged == [(EPOCH, 17, 18), (EPOCH, 19, 25)]


def swap_names(disk: Disk) -> None:
    first, second, _ = segments(disk)
    disk.files[first], disk.files[second] = disk.files[second], disk.files[first]


def swap_contents_behind_headers(disk: Disk) -> None:
    first, second, _ = segments(disk)
    start = places(disk, first)[0]
    a, b = disk.files[first].content, disk.files[second].content
    disk.files[first], disk.files[second] = File(a[:start] + b[start:]), File(b[:start] + a[start:])


def duplicate(disk: Disk) -> None:
    first = segments(disk)[0]
    disk.files[f"{LOG}/{'f' * 16}-{'0' * 8}.seg"] = File(disk.files[first].content)


def rename_oddly(disk: Disk) -> None:
    disk.files[f"{LOG}/what.seg"] = disk.files.pop(segments(disk)[0])


@pytest.mark.parametrize(
    ("act", "lost"),
    [(swap_names, 0), (swap_contents_behind_headers, 16), (duplicate, 0), (rename_oddly, 0)],
)
def test_segments_in_wrong_places(act: Callable[[Disk], None], lost: int) -> None:
    """The header says where a segment belongs; records behind another one's are nobody's."""
    disk = three_segments()
    act(disk)
    found, recovery = recover(disk)
    assert found == {(e, s) for e, s in ALL if s > lost}
    assert numbers(recovery.damaged) == ALL - found


def test_another_queues_segment_is_left_alone() -> None:
    """A file that was copied into the wrong folder is reported, and neither read nor changed."""
    disk = Disk()
    spool = open_spool(disk)
    fill(spool.queue("other", unix_ms=1), spool.epoch, 1, 3)
    fill(spool.queue(QUEUE, unix_ms=1), spool.epoch, 1, 2)
    disk.kill()
    theirs = next(path for path in segments(disk) if "/other/" in path)
    copy = f"{LOG}/{'0' * 15}9-{'0' * 8}.seg"
    disk.files[copy] = File(disk.files[theirs].content)
    found, recovery = recover(disk)
    assert found == {(EPOCH, s) for s in range(1, 5)}
    assert "is of queue 'other'" in recovery.problems[0]
    assert disk.files[copy].content == disk.files[theirs].content


def one_large_segment() -> Disk:
    disk = Disk()
    fill(open_log(disk, segment_bytes=1 << 16), EPOCH, 1, 100, 1, size=200)
    disk.kill()
    return disk


def test_a_sector_of_zeros() -> None:
    """It costs the records in it and nothing else."""
    disk = one_large_segment()
    (path,) = segments(disk)
    content = bytearray(disk.files[path].content)
    content[17 * SECTOR : 18 * SECTOR] = bytes(SECTOR)
    log = open_log(change(disk, path, bytes(content)), random_bits=9)
    (damaged,) = log.recovery.damaged
    assert damaged[2] - damaged[1] < 5
    assert [s for _, s in messages(log, 200)] == [s for s in range(1, 101) if not damaged[1] <= s < damaged[2]]


def log_files(disk: Disk) -> dict[str, bytes]:
    return {path: file.content for path, file in disk.files.items() if path.startswith(LOG)}


@pytest.mark.parametrize("what", ["header", "record", "last record", "cursor"])
def test_what_cannot_be_read_at_the_start(what: str) -> None:
    """It says nothing of what is there: the log does not open, no file is changed, and a later start has all of it."""
    disk = three_segments()
    first, _, last = segments(disk)
    log = open_log(disk)
    log.settle(EPOCH, 3, 4)
    log.write_cursor(b"marks")
    disk.kill()
    # Another segment that would be cut off, and one that would be set aside.
    disk = change(disk, last, disk.files[last].content[:-3])
    content = bytearray(disk.files[first].content)
    content[places(disk, first)[1] + RECORD_BYTES] ^= 1
    disk = change(disk, first, bytes(content))
    disk.files[f"{LOG}/0000000000000001-00000000.seg.tmp"] = File(b"unfinished")
    before = log_files(disk)
    newest = max((f"{LOG}/cursor.{n}" for n in (0, 1)), key=lambda path: disk.files[path].content[16])
    path, sector = {"header": (first, 0), "cursor": (newest, 0)}.get(what, (last, len(before[last]) // SECTOR))
    if what == "record":
        path, sector = segments(disk)[1], 0
    disk.unreadable.add((path, sector))
    for _ in range(2):
        with pytest.raises(SpoolError) as refused:
            open_log(disk, random_bits=9)
        assert (refused.value.errno, refused.value.path) == (EIO, path)
        assert log_files(disk) == before
        disk.kill()
    disk.unreadable.clear()
    log = open_log(disk, random_bits=10)
    assert log.recovery.damaged == [(EPOCH, 4, 5), (EPOCH, 23, 25)]
    assert log.recovery.torn_at == [(EPOCH, 23)]
    assert log.recovery.marks == b"marks"
    assert {s for _, s in messages(log)} == set(range(1, 23)) - {3, 4}


def test_what_cannot_be_read_while_reading() -> None:
    """What lies before it is read first; nothing is passed over, and when the disk can be read the rest comes, once."""
    disk = three_segments()
    log = open_log(disk, random_bits=9)
    disk.unreadable.add((segments(disk)[1], 0))
    reader = log.reader()
    found = [record.first for record in reader.read(1 << 20)]
    assert found == [1, 3, 5, 7]
    for _ in range(3):
        with pytest.raises(SpoolError):
            reader.read(1 << 20)
    disk.unreadable.clear()
    while records := reader.read(1000):
        found += [record.first for record in records]
    assert (found, reader.damages) == (list(range(1, 24, 2)), [])


def test_what_is_damaged_while_reading() -> None:
    """What has a wrong crc twice is passed over and told; the rest comes."""
    disk = one_large_segment()
    log = open_log(disk, random_bits=9)
    (path,) = segments(disk)
    content = bytearray(disk.files[path].content)
    content[places(disk, path)[40] + RECORD_BYTES] ^= 1
    disk.files[path].content = bytes(content)
    reader, found = log.reader(), list[int]()
    while records := reader.read(1000):
        found += [record.first for record in records]
    assert found == [s for s in range(1, 101) if s != 41]
    (told,) = reader.damages
    assert "sequences 41 to 41" in told


def test_end_of_an_epoch_that_is_damaged() -> None:
    """How much was there is unknown: the next expected sequence stands for it."""
    disk = Disk()
    fill(open_log(disk), EPOCH, 1, 3, 1)
    disk.kill()
    log = open_log(disk, random_bits=8)
    later = 2 << 20 | 8
    fill(log, later, 1, 2, 1)
    disk.kill()
    path = segments(disk)[0]
    content = bytearray(disk.files[path].content)
    content[places(disk, path)[2] + 9] ^= 1
    found, recovery = recover(change(disk, path, bytes(content)))
    assert found == {(EPOCH, 1), (EPOCH, 2), (later, 1), (later, 2)}
    assert recovery.damaged == [(EPOCH, 3, 4)]


def test_cursors_damaged() -> None:
    """With one file lost the other counts; with both lost everything is sent again, and nothing is lost."""
    disk = three_segments()
    log = open_log(disk)
    epoch = EPOCH
    log.settle(epoch, 1, 4)
    log.write_cursor(b"one")
    log.settle(epoch, 4, 6)
    log.write_cursor(b"two")
    disk.kill()
    slots = [f"{LOG}/cursor.{n}" for n in (0, 1)]
    for at in range(200):
        for lost in ([slots[0]], [slots[1]], slots):
            other = disk
            for slot in lost:
                data = bytearray(disk.files[slot].content)
                data[at] ^= 0x10
                other = change(other, slot, bytes(data))
            recovery = open_log(other).recovery
            assert recovery.damaged == []
            assert numbers(recovery.extents) == ALL
            assert recovery.marks in (b"", b"one", b"two")
            if len(lost) == 1:
                assert recovery.settled[epoch].common(1, 99) in ([(1, 4)], [(1, 6)])


def test_records_are_found_behind_every_header() -> None:
    """The layout that these tests rely on: a header whose crc is right, then records."""
    disk = three_segments()
    for path in segments(disk):
        header = decode_segment(disk.files[path].content, path)
        assert header is not None
        assert header.length == places(disk, path)[0]
        assert places(disk, path)[1] - places(disk, path)[0] > RECORD_BYTES
