"""Processes and nodes that share one spool folder: each has a slot of it, whatever becomes of the others."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crc32c import crc32c

from peerfabric import ConfigError, Node, Options, SpoolError, SpoolLocked, SpoolUnsafe
from peerfabric.nodes.io.curve import curve_public
from peerfabric.nodes.keys import KEY_FILE, read_node_key, slot_key
from peerfabric.nodes.storage import shared
from peerfabric.spool import RealFiles, Spool
from peerfabric.spool.files import filesystem, filesystem_of
from peerfabric.spool.folder import Owner, read_owner
from peerfabric.spool.format import NODE_MAGIC, encode_sheet
from peerfabric.spool.slots import Slots, slot_folder
from tests.conftest import stuff
from tests.nodes.conftest import DEADLINE, Child, Front


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tmp_path.chmod(0o700)
    return str(tmp_path / "spool")


def sheet(folder: str, slot: int) -> Owner:
    found = read_owner(RealFiles(), slot_folder(folder, slot))
    assert found is not None
    return found


def take(front: Front, count: int, **options: Any) -> list[int]:
    """What a consumer that comes now gets, sorted."""
    with front.node("kitchen", **options) as node:
        consumer, got = node.consumer("jobs", int), []
        for _ in range(count):
            with consumer.get(timeout=DEADLINE) as body:
                got.append(body)
    return sorted(got)


def leave(front: Front, folder: str, *bodies: int, **options: Any) -> str:
    """Send, and close while nobody consumes; the id of the node."""
    with front.node("shop", spool=folder, **options) as node:
        for body in bodies:
            node.producer("jobs", int).send(body)
        return str(node.statistics().node_id)


def test_nodes_of_one_folder(front: Front, folder: str) -> None:
    """Each has a slot, an id and messages of its own; one that closes leaves its slot to the next at once."""
    first, second = (front.node(name, spool=folder) for name in ("first", "second"))
    first.producer("jobs", int).send(1)
    second.producer("jobs", int).send(2)
    ids = [node.statistics().node_id for node in (first, second)]
    assert [sheet(folder, slot).node_id for slot in (0, 1)] == ids
    assert [sheet(folder, slot).name for slot in (0, 1)] == ["first", "second"]
    second.close(0)
    third = front.node("third", spool=folder)
    assert [account.recovered for account in third.__enter__().statistics().producers] == [1]
    assert third.statistics().node_id == ids[1]
    first.close(0)
    assert leave(front, folder, 3) == ids[0]
    third.close(0)
    assert [(sheet(folder, slot).left, sheet(folder, slot).pid) for slot in (0, 1)] == [(2, 0), (1, 0)]
    with front.node("one", spool=folder), front.node("two", spool=folder):
        assert take(front, 3) == [1, 2, 3]
    assert Slots(RealFiles(), folder).numbers() == [0, 1]


def test_a_slot_with_nothing_left_gives_its_space_back(front: Front, folder: str) -> None:
    """All but its id; slot 0 keeps its files, and one with dead letters, too."""
    with front.node("first", spool=folder) as first:
        first.producer("jobs", int).send(1)
        with front.node("second", spool=folder) as second:
            second.producer("jobs", int).send(2)
            assert take(front, 2) == [1, 2]
            second.producer("jobs", int).flush(timeout=DEADLINE)
            node_id = second.statistics().node_id
        assert sorted(os.listdir(f"{folder}/slots/1")) == ["lock", "node"]
        assert first.statistics().spool.slot == 0
        with front.node("third", spool=folder) as third:
            assert third.statistics().node_id == node_id
            producer = third.producer("jobs", int, max_attempts=1)
            producer.send(3)
            with front.node("kitchen") as kitchen:
                kitchen.consumer("jobs", int).get(timeout=DEADLINE).reject("no")
                producer.flush(timeout=DEADLINE)
            account = third.statistics().spool
            assert (account.folder, account.slot, account.letters, account.parked) == (folder, 1, 1, 0)
            assert account.used_bytes > 0
    assert (sheet(folder, 1).left, sheet(folder, 1).letters) == (0, 1)
    assert "spare" in os.listdir(f"{folder}/slots/1")
    assert {"spare", "queues", KEY_FILE} <= set(os.listdir(folder))


def test_a_process_that_dies_leaves_its_slot(front: Front, start: Callable[..., Child], folder: str) -> None:
    """The next one goes on with what is in the lowest free slot, in order."""
    script = """
        import sys
        from peerfabric import Node
        node = Node("shop", spool=sys.argv[1])
        for body in map(int, sys.argv[2:]):
            node.producer("jobs", int).send(body)
        print(node.statistics().node_id, flush=True)
        sys.stdin.readline()
        """
    children = [start(script, folder, *map(str, bodies)) for bodies in ([1, 2],)]
    ids = [child.line() for child in children]
    children.append(start(script, folder, "3", "4"))
    ids.append(children[1].line())
    for child in children:
        child.signal(signal.SIGKILL)
        child.finish()
    with front.node("one", spool=folder) as one, front.node("two", spool=folder) as two:
        assert [node.statistics().node_id for node in (one, two)] == ids
        with front.node("kitchen") as kitchen:
            consumer, got = kitchen.consumer("jobs", int), []
            for _ in range(4):
                with consumer.get(timeout=DEADLINE) as body:
                    got.append(body)
    assert [body for body in got if body < 3] == [1, 2]
    assert [body for body in got if body > 2] == [3, 4]


def test_a_child_of_a_fork_keeps_no_slot(runtime: Path, start: Callable[..., Child], folder: str) -> None:
    """Its parent closes, or dies, and the slot is free though the child lives on; its own node gets another one."""
    child = start(
        """
        import os, sys
        from peerfabric import Node
        node = Node("shop", spool=sys.argv[1])
        node.producer("jobs", int).send(1)
        if os.fork() == 0:
            own = Node("child", spool=sys.argv[1])
            own.producer("jobs", int).send(2)
            print("child", own.statistics().node_id, flush=True)
            sys.stdin.readline()
            os._exit(0)
        os.wait()
        """,
        folder,
    )
    own = child.line().split()[1]
    with Node("third", spool=folder) as node:
        node.producer("jobs", int)
        assert sheet(folder, 1).node_id == own
        assert sheet(folder, 2).node_id == node.statistics().node_id
        child.signal(signal.SIGKILL)
        child.process.wait(DEADLINE)
        with Node("fourth", spool=folder) as again:
            again.producer("jobs", int)
            assert again.statistics().node_id == sheet(folder, 0).node_id


def test_a_fork_while_a_node_starts(runtime: Path, start: Callable[..., Child], folder: str) -> None:
    """The child keeps nothing of it, and the slot is free when its parent ends."""
    child = start(
        """
        import os, sys
        from peerfabric.nodes.settings import checked_settings
        from peerfabric.nodes.aio.opened import Opened
        opened = Opened(checked_settings("shop", None, "auto", (), "auto", None, sys.argv[1], False, False))
        opened.read({}, {})
        if os.fork() == 0:
            print("child", flush=True)
            sys.stdin.readline()
            os._exit(0)
        os.wait()
        """,
        folder,
    )
    assert child.line() == "child"
    child.signal(signal.SIGKILL)
    child.process.wait(DEADLINE)
    with Node("next", spool=folder) as node:
        assert node.statistics().node_id == sheet(folder, 0).node_id


# Who a slot is


def test_ids_of_slots(front: Front, folder: str) -> None:
    """They are made from the key of slot 0, which alone is on disk, or from `identity=`."""
    for identity in (None, f"{folder}.key"):
        place = folder if identity is None else f"{folder}-more"
        nodes = [front.node("shop", spool=place, identity=identity).__enter__() for _ in range(3)]
        key = read_node_key(identity or f"{place}/{KEY_FILE}", curve_public)
        assert key is not None
        expected = [slot_key(key, slot, curve_public).node_id for slot in range(3)]
        assert [node.statistics().node_id for node in nodes] == expected
        assert len(set(expected)) == 3
        assert not list(Path(place).glob("slots/*/node.key*"))
        for node in nodes:
            node.close(0)


def test_a_slot_that_is_of_another_folder(front: Front, folder: str) -> None:
    """It is refused as a copy, for a person to see to it."""
    other = f"{folder}-other"
    with front.node("a", spool=folder), front.node("b", spool=folder) as second:
        second.producer("jobs", int).send(1)
    with front.node("c", spool=other) as third:
        third.producer("jobs", int)
        shutil.copytree(f"{folder}/slots/1", f"{other}/slots/1")
        with pytest.raises(ConfigError, match=r"slots/1 belongs to node .*, and the key .*node.key to node"):
            front.node("d", spool=other).__enter__()


def test_a_folder_of_before(front: Front, folder: str) -> None:
    """Without slots, a key or the newer fields it is slot 0 as it is; a second process has a random id beside it."""
    spool = Spool.open(folder, random_bits=1, node_id="0123456789abcdef", unix_ms=1)
    spool.queue("jobs", unix_ms=1).append(spool.epoch, 1, 1, 1, b"\x91\x01", unix_ms=1)
    spool.close()
    found = sheet(folder, 0)
    old = {name: getattr(found, name) for name in Owner.__struct_fields__}
    for name in ("fabric", "name", "left", "letters"):
        del old[name]
    Path(folder, "node").write_bytes(encode_sheet(NODE_MAGIC, found.counter, msgspec.msgpack.encode(old)))
    with front.node("first", spool=folder) as first, front.node("second", spool=folder) as second:
        second.producer("jobs", int).send(2)
        assert first.statistics().node_id == "0123456789abcdef"
        assert len(second.statistics().node_id) == 32
        assert take(front, 2) == [1, 2]
    assert not os.path.exists(f"{folder}/{KEY_FILE}")
    assert len(sheet(folder, 0).fabric) == 8


# Slots that cannot be had


def test_slots_of_another_fabric(front: Front, folder: str) -> None:
    """They are passed over while something is in them: it must not go to others; then the slot is anybody's."""
    leave(front, folder, 1, fabric="production")
    with front.node("test", spool=folder, fabric="test") as node:
        node.producer("jobs", int).send(7)
        assert node.statistics().node_id == sheet(folder, 1).node_id
        said = "1 process uses this spool, and messages of another fabric are in 1 slot; stop some, or raise Options"
        with pytest.raises(SpoolLocked, match=said):
            front.node("more", spool=folder, fabric="test", options=Options(spool_slots=2)).__enter__()
        assert take(front, 1, fabric="test") == [7]
        node.producer("jobs", int).flush(timeout=DEADLINE)
    with front.node("shop", spool=folder, fabric="production") as node:
        assert node.statistics().node_id == sheet(folder, 0).node_id
        assert take(front, 1, fabric="production") == [1]
        node.producer("jobs", int).flush(timeout=DEADLINE)
    with front.node("test", spool=folder, fabric="test") as node:
        assert node.statistics().node_id == sheet(folder, 0).node_id


@pytest.mark.parametrize("slots", [1, 64])
def test_a_place_for_no_folder(front: Front, tmp_path: Path, slots: int) -> None:
    """Below a file, or in a file system that makes no folders: another one is to be chosen, and none is waited for."""
    below = tmp_path / "file"
    below.touch()
    for folder in (f"{below}/spool", "/proc/peerfabric-spool"):
        with pytest.raises(SpoolError, match=r"cannot be made there: .*; choose another folder") as caught:
            front.node("shop", spool=folder, options=Options(spool_slots=slots)).__enter__()
        assert (caught.value.path, caught.value.errno is None) == (folder, False)


def test_all_slots_in_use(front: Front, folder: str) -> None:
    """The next one is told how many use the folder; it starts when one of them has closed."""
    options = Options(spool_slots=2)
    nodes = [front.node("shop", spool=folder, options=options).__enter__() for _ in range(2)]
    third = front.node("third", spool=folder, options=options)
    said = rf"^{folder}: 2 processes use this spool; stop some, or raise Options\(spool_slots=\)$"
    with pytest.raises(SpoolLocked, match=said):
        third.__enter__()
    nodes[1].close(0)
    with third:
        assert third.statistics().node_id == sheet(folder, 1).node_id
    with pytest.raises(SpoolLocked, match="another node of this process uses this spool") as refused:
        front.node("alone", spool=folder, options=Options(spool_slots=1)).__enter__()
    assert refused.value.pid == os.getpid()


def newer(folder: str) -> None:
    path = Path(folder, "node")
    data = bytearray(path.read_bytes())
    data = data[: 32 + int.from_bytes(data[24:28], "little")]
    data[8:10] = (2).to_bytes(2, "little")
    data[12:16] = crc32c(bytes(data[16:]), crc32c(bytes(data[:12]))).to_bytes(4, "little")
    path.write_bytes(data)


def linked(folder: str) -> None:
    os.rename(folder, f"{folder}-aside")
    os.symlink(f"{folder}-aside", folder)


@pytest.mark.parametrize("how", [newer, linked, lambda folder: os.chmod(folder, 0o777)], ids=["newer", "link", "open"])
def test_a_slot_that_cannot_be_opened(
    front: Front, folder: str, caplog: pytest.LogCaptureFixture, how: Callable[[str], None]
) -> None:
    """It is passed over with one line, and keeps nobody from starting; what is in it is not touched."""
    with front.node("a", spool=folder), front.node("b", spool=folder) as second, front.node("c", spool=folder):
        second.producer("jobs", int).send(1)
    how(f"{folder}/slots/1")
    before = content(f"{folder}/slots/1")
    caplog.clear()
    with front.node("a", spool=folder), front.node("b", spool=folder) as second:
        assert second.statistics().node_id == sheet(folder, 2).node_id
    assert content(f"{folder}/slots/1") == before
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"{folder}/slots/1")
    assert record.getMessage().endswith("; slot 1 is passed over")


def content(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_slot_0_of_a_later_version(front: Front, folder: str) -> None:
    """It is passed over, too; only with one slot that is the end."""
    leave(front, folder, 1)
    newer(folder)
    with front.node("shop", spool=folder) as node:
        assert node.statistics().node_id == sheet(folder, 1).node_id
    with pytest.raises(SpoolError, match="later version"):
        front.node("shop", spool=folder, options=Options(spool_slots=1)).__enter__()


@pytest.mark.parametrize("slots", [1, 64])
def test_a_slot_given_as_a_spool(front: Front, folder: str, slots: int) -> None:
    """The folder that it is a slot of is named."""
    with front.node("a", spool=folder), front.node("b", spool=folder):
        pass
    with pytest.raises(ConfigError, match=rf"^spool='{folder}/slots/1' is a slot of {folder}; give that folder$"):
        front.node("c", spool=f"{folder}/slots/1", options=Options(spool_slots=slots)).__enter__()
    assert leave(front, f"{folder}-other/slots/1")  # of nothing


@pytest.mark.parametrize("slots", [1, 64])
def test_folders_that_are_not_ours_alone(front: Front, folder: str, slots: int) -> None:
    """Refused with what to do, and nothing is made in them."""
    options = Options(spool_slots=slots)
    os.mkdir(folder, 0o700)
    os.mkdir(f"{folder}/slots")
    Path(folder, "slots", "mine").write_text("mine")
    before = content(folder)
    for step in ("is empty or not there yet", "chmod 700"):
        with pytest.raises(SpoolUnsafe, match=step):
            front.node("shop", spool=folder, options=options).__enter__()
        assert content(folder) == before
        assert os.listdir(f"{folder}/slots") == ["mine"]
        os.chmod(folder, 0o777)
    os.symlink(folder, f"{folder}-link")
    with pytest.raises(SpoolUnsafe, match="symbolic link"):
        front.node("shop", spool=f"{folder}-link", options=options).__enter__()


def test_a_disk_of_other_machines(
    front: Front, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused, and nothing is made there; with one slot, or where it is not sure, there is a warning."""
    monkeypatch.setattr(shared, "filesystem", lambda path: "nfs4")
    said = f"^{folder}: is on nfs4, where a lock of another machine is not seen in time; give a folder on a disk"
    with pytest.raises(SpoolUnsafe, match=said):
        front.node("shop", spool=folder).__enter__()
    assert not os.path.exists(folder)
    for kind, slots in (("nfs4", 1), ("fuse.something", 64)):
        monkeypatch.setattr(shared, "filesystem", lambda path, kind=kind: kind)
        caplog.clear()
        leave(front, folder, options=Options(spool_slots=slots))
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage().startswith(f"{folder} is on {kind}: if other machines")


MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - btrfs /dev/sda rw
23 22 0:21 / /data rw shared:2 - ext4 /dev/sdb rw
24 23 0:22 / /data/a\\040b rw shared:3 master:7 - nfs4 server:/x rw
25 22 0:23 / /mnt rw - ext4 /dev/sdc rw
26 25 0:24 / /mnt rw - cifs //server/y rw
nonsense
"""


def test_file_systems() -> None:
    """That of the longest mount above the path, and of two at one place the later one."""
    kinds = {
        "/": "btrfs",
        "/var/lib/shop": "btrfs",
        "/data": "ext4",
        "/datas": "btrfs",
        "/data/a": "ext4",
        "/data/a b/spool": "nfs4",
        "/mnt/z": "cifs",
    }
    assert {path: filesystem_of(path, MOUNTS.splitlines()) for path in kinds} == kinds
    assert filesystem_of("/", []) == ""
    assert filesystem("/proc/self/not-there") == "proc"


def test_a_start_that_fails_removes_what_it_made(small_disk: Path, front: Front) -> None:
    """A first start finds no space: nothing is left, and what others have begun there stays."""
    place = small_disk / "a" / "spool"
    with front.node("first", spool=place) as first:
        stuff(small_disk)
        with pytest.raises(SpoolError, match="no space"):
            front.node("second", spool=place).__enter__()
        assert Slots(RealFiles(), str(place)).numbers() in ([0], [0, 1])
        assert first.statistics().node_id == sheet(str(place), 0).node_id
    with pytest.raises(SpoolError, match="no space"):
        front.node("third", spool=small_disk / "b" / "spool").__enter__()
    assert sorted(os.listdir(small_disk)) == ["a", "ballast"]


def test_taking_is_held_by_a_process_that_was_stopped(
    front: Front, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on without it, with a warning."""
    with front.node("first", spool=folder):
        files = RealFiles()
        lock = files.lock(f"{folder}/slots/taking")
        monkeypatch.setattr(shared, "moments", lambda seconds: range(3))
        with front.node("second", spool=folder) as second:
            assert second.statistics().node_id == sheet(folder, 1).node_id
        files.unlock(lock)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith(f"{folder}/slots/taking is held for more than 5 s")


RACE = """
    import os, sys
    from peerfabric.nodes.settings import checked_settings
    from peerfabric.nodes.aio.opened import Opened

    def work(orders, answers):
        for folder in iter(orders.readline, ""):
            opened = Opened(checked_settings("shop", None, "auto", (), "auto", None, folder.strip(), False, False))
            try:
                opened.read({}, {})
                print(opened.slot, opened.node_id, file=answers, flush=True)
            except Exception as error:
                print("failed", repr(error), file=answers, flush=True)
            orders.readline()
            opened.close()
            print("closed", file=answers, flush=True)

    workers = []
    for _ in range(int(sys.argv[1])):
        orders, answers = os.pipe(), os.pipe()
        if os.fork() == 0:
            for theirs in [*sum(workers, ()), orders[1], answers[0]]:
                os.close(theirs)
            work(os.fdopen(orders[0]), os.fdopen(answers[1], "w"))
            os._exit(0)
        os.close(orders[0]), os.close(answers[1])
        workers.append((orders[1], answers[0]))
    readers = [os.fdopen(answers) for _, answers in workers]
    for line in sys.stdin:
        for orders, _ in workers:
            os.write(orders, line.encode())
        print("; ".join(reader.readline().strip() for reader in readers), flush=True)
    """


def race(start: Callable[..., Child], folder: Path, *, processes: int, rounds: int) -> None:
    """Processes take slots of a new folder at once, and then of one in which all have been."""
    child = start(RACE, str(processes))
    ids: dict[str, str] = {}
    for at in range(rounds):
        place = folder / f"{at // 2}" / "spool"
        child.write(str(place))
        answers = child.line().split("; ")
        taken = dict(answer.split(maxsplit=1) for answer in answers)
        assert sorted(taken) == sorted(map(str, range(processes))), answers
        assert len(set(taken.values())) == processes
        if at % 2:
            assert taken == ids
        ids = taken
        child.write("")
        assert set(child.line().split("; ")) == {"closed"}
        if at % 2:
            shutil.rmtree(place.parent)


def test_processes_that_take_slots_at_once(runtime: Path, start: Callable[..., Child], tmp_path: Path) -> None:
    """No error, never two in one slot, none left out, and each slot keeps its id."""
    tmp_path.chmod(0o700)
    race(start, tmp_path, processes=16, rounds=6)


@pytest.mark.long
def test_processes_that_take_slots_at_once_long(runtime: Path, start: Callable[..., Child], tmp_path: Path) -> None:
    """1,000 rounds."""
    tmp_path.chmod(0o700)
    race(start, tmp_path, processes=16, rounds=1_000)
