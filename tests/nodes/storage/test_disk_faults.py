"""Whichever operation of the disk fails, on a whole store under the rounds of a node's disk.

What was confirmed is processed, a dead letter, or there at the next start, with `fsync` also after a loss of power;
whoever sends is told by a `SpoolError`, or later that it is stored, and the node goes on by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO, ENOSPC
from functools import cache
from random import Random

import pytest

from peerfabric.errors import SpoolError
from peerfabric.nodes.outbox.deposits import Deposit
from peerfabric.spool.cursor import CURSOR_BYTES
from tests.fabric.spool.disk import SHORT, Disk
from tests.nodes.offline import Offline

Name = tuple[str, int]

ROUNDS = 4
"""After so many in which nothing fails, nothing waits for the disk any more."""


class Story:
    """Lives of one node, and what becomes of its messages: each one confirmed is processed, or on the disk."""

    def __init__(self, disk: Disk, *, fsync: bool) -> None:
        self.files, self.fsync = disk, fsync
        self.confirmed: dict[Name, bytes] = {}
        self.processed: set[Name] = set()
        """Acked, or dropped or retried as dead letters."""
        self.refusals = 0
        self.node = self._start()

    def run(self) -> None:
        """Send, process some, give some up; close and go on; die and go on."""
        self._send(range(14))
        taken = self._take()
        self._reject(taken[1], taken[2], taken[4])
        self._ack(taken[0], taken[5])
        self._rounds()
        self._send(range(14, 18))
        for letter in self.node.end.letters()[:2]:
            self._tend(letter.id, letter is not self.node.end.letters()[0])
        self._rounds()
        self._try(self.node.close)
        self.node.spool.abandon()
        self.files.kill()
        self.node = self._start()
        self._rounds()
        self._send(range(20, 26))
        while taken := self._take():
            self._ack(*taken[1:])
            self._rounds()
            if len(taken) == 1:
                break
        self._send(range(26, 28))
        self.node.die()
        self.node = self._start()
        self._rounds()
        self._send([28])

    def _start(self) -> Offline:
        for _ in range(3):
            try:
                return Offline(self.files, fsync=self.fsync, memory_bytes=1_500)
            except SpoolError:
                self.refusals += 1
                self.files.kill()
        raise AssertionError("the spool does not open")

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except SpoolError:
            self.refusals += 1
            return False
        return True

    def _rounds(self) -> None:
        """Rounds until the node is done with what it has, and no longer than it may take."""
        for _ in range(ROUNDS):
            self._try(self.node.round)
            for name, body in self.node.confirmed.items():
                assert self.confirmed.setdefault(name, body) == body

    def _send(self, numbers: range | list[int]) -> None:
        waiting = {number: self.node.send(b"%d" % number * 60) for number in numbers}
        for _ in range(2):
            self._rounds()
            for number, deposit in waiting.items():
                if deposit.error is not None and not deposit.count:
                    assert isinstance(deposit.error, SpoolError)
                    self.refusals += 1
                    waiting[number] = self.node.send(b"%d" % number * 60)
        assert all(deposit.done for deposit in waiting.values()), "the node did not go on by itself"

    def _take(self) -> list[Name]:
        found = self.node.take()
        for name, body in found.items():
            assert self.confirmed.get(name, body) == body
        return list(found)

    def _ack(self, *names: Name) -> None:
        self.node.ack(names)
        self.processed.update(names)

    def _reject(self, *names: Name) -> None:
        for name in names:
            self.node.reject(name)

    def _tend(self, identity: str, retry: bool) -> None:
        letter = next(letter for letter in self.node.end.letters() if letter.id == identity)
        stream, _, sequence = identity.rpartition("/")
        if not retry:
            self._try(lambda: self.node.drop(letter))
            self.processed.add((stream, int(sequence)))
            return
        deposit: Deposit = self.node.retry(letter)
        self._rounds()
        if deposit.done:
            self.processed.add((stream, int(sequence)))

    def check(self, disk: Disk) -> None:
        """What `disk` has, found by a node that starts with it."""
        node = Offline(disk, fsync=self.fsync, memory_bytes=1_500)
        there: dict[Name, bytes] = {}
        for _ in range(40):
            node.round()
            there |= node.take()
            node.ack()
        account = node.end.account()
        assert (account.on_disk, account.waiting, account.closes) == (0, 0, True)
        dead = {(stream, int(n)) for stream, _, n in (letter.id.rpartition("/") for letter in node.end.letters())}
        lost = self.confirmed.keys() - self.processed - there.keys() - dead
        assert not lost, f"{lost} were confirmed and are lost"
        assert all(self.confirmed.get(name, body) == body for name, body in there.items())
        node.store.check()
        node.die()


def told(disk: Disk, *, fsync: bool, number: int) -> None:
    story = Story(disk, fsync=fsync)
    story.run()
    disk.faults.clear()
    disk.lookup_faults.clear()
    if fsync:
        for seed in range(2):
            story.check(disk.lose_power(Random(1000 * number + seed)))
    story.node.die()
    story.check(disk)


@cache
def counted(*, fsync: bool) -> tuple[list[str], int]:
    """The kinds of all operations of the story when nothing fails, and how many lookups it has."""
    disk = Disk()
    story = Story(disk, fsync=fsync)
    story.run()
    assert story.refusals == 0
    kinds = {kind for kind, _ in disk.trace}
    assert kinds >= {"create", "write", "rename", "unlink", "allocate"} | ({"sync", "sync_folder"} if fsync else set())
    assert any("/dead/" in path for kind, path in disk.trace if kind == "unlink" or "cursor" in path)
    return [kind for kind, _ in disk.trace], disk.lookups


FAULTS = {
    EIO: ("create", "write", "allocate", "truncate", "sync", "sync_folder", "rename", "unlink", "make_folder"),
    ENOSPC: ("create", "write", "allocate"),
    SHORT: ("write",),
}


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_fails_once(fsync: bool, fault: int) -> None:
    """The n-th write, sync, rename, truncate or unlink, and each new file, for every n."""
    kinds, _ = counted(fsync=fsync)
    assert {*kinds} <= {*FAULTS[EIO]}
    numbers = [number for number, kind in enumerate(kinds, 1) if kind in FAULTS[fault]]
    assert len(numbers) > 40
    for number in numbers:
        disk = Disk()
        disk.faults[number] = fault
        told(disk, fsync=fsync, number=number)


@pytest.mark.parametrize("fsync", [False, True])
def test_every_lookup_fails_once(fsync: bool) -> None:
    """The n-th time that a file is opened or read, for every n."""
    _, lookups = counted(fsync=fsync)
    assert lookups > 40
    for number in range(1, lookups + 1):
        disk = Disk()
        disk.lookup_faults[number] = EIO
        told(disk, fsync=fsync, number=number)


@pytest.mark.parametrize("fsync", [False, True])
def test_a_disk_that_is_full_for_a_while(fsync: bool) -> None:
    """Senders are refused; what is stored is worked off and confirmed as settled; then sending goes on by itself."""
    disk = Disk()
    node = Offline(disk, fsync=fsync)
    disk.space = sum(len(file.content) for file in disk.files.values()) + 3_000
    deposits = [node.send(b"%d" % n * 50) for n in range(100, 200)]
    for _ in range(5):
        node.round()
    refused = [deposit for deposit in deposits if isinstance(deposit.error, SpoolError)]
    assert 50 < len(refused) < 99
    assert {deposit.error.errno for deposit in refused if isinstance(deposit.error, SpoolError)} == {ENOSPC}
    node.reject(next(iter(node.take())))
    node.ack()
    node.round()
    assert len(node.end.letters()) == 1
    for _ in range(3):
        node.round()
    again = node.send(b"again")
    node.round()
    assert again.done
    assert sum(len(file.content) for file in disk.files.values()) < disk.space + CURSOR_BYTES
    node.die()
    disk.space = None
    found = Offline(disk, fsync=fsync)
    assert found.backlog.recovered == 1
    assert len(found.end.letters()) == 1
