"""One suite for all backends: what `Backend` promises."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from peerfabric.discovery.base import Announcement, Backend, Candidate, Lost, Sighting
from peerfabric.discovery.mdns import MdnsBackend
from peerfabric.discovery.registry import RegistryBackend
from peerfabric.discovery.static import StaticBackend
from tests.discovery.conftest import Recorder, announcement_for, eventually


class World:
    """Makes backends of one kind that can find each other; the plain one is for those that need no help."""

    kind = ""
    withdraws = True
    """Whether others learn of a close."""

    def __init__(self) -> None:
        # Two runs on one machine share the multicast group, so the fabric is theirs alone.
        self.fabric = f"tests-{uuid.uuid4().hex[:8]}"
        self.backends: list[Backend] = []

    def announcement(self, **changes: object) -> Announcement:
        return announcement_for(self.fabric, **changes)

    def make(self) -> Backend:
        self.backends.append(self._make())
        return self.backends[-1]

    def _make(self) -> Backend:
        raise NotImplementedError

    def expected(self, announcement: Announcement) -> Announcement | Candidate:
        """What others see of this announcement."""
        return announcement

    def announce(self, backend: Backend, announcement: Announcement) -> None:
        backend.announce(announcement)

    def close(self, backend: Backend) -> None:
        backend.close()

    def watch(self, backend: Backend) -> Recorder:
        recorder = Recorder()
        backend.watch(recorder)
        return recorder

    def saw(self, recorder: Recorder, announcement: Announcement) -> bool:
        return Sighting(seen=self.expected(announcement), source=self.kind) in recorder.events


class RegistryWorld(World):
    kind = "registry"

    def _make(self) -> Backend:
        return RegistryBackend(self.fabric)


class MdnsWorld(World):
    kind = "mdns"

    def _make(self) -> Backend:
        return MdnsBackend(self.fabric)


class StaticWorld(World):
    """The list stands for the announcements: it holds all inboxes from the start."""

    kind = "static"
    withdraws = False
    inboxes = ("tcp://127.0.0.1:4000", "tcp://127.0.0.1:4444")

    def _make(self) -> Backend:
        return StaticBackend(self.inboxes)

    def expected(self, announcement: Announcement) -> Candidate:
        return Candidate(announcement.inbox[0])


def multicast_works() -> str:
    """Return why multicast on loopback cannot work here, or nothing."""
    from zeroconf import Zeroconf

    try:
        Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError as error:
        return f"no multicast on loopback: {error}"
    return ""


@pytest.fixture(params=[RegistryWorld, StaticWorld, MdnsWorld], ids=lambda world: world.kind)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world: World = request.param()
    if world.kind == "mdns" and (reason := multicast_works()):
        pytest.skip(reason)
    yield world
    for backend in world.backends:
        backend.close()


def test_newcomer_sees_who_is_there(world: World) -> None:
    """What was announced before the watch began is reported."""
    there, newcomer = world.make(), world.make()
    announcement = world.announcement()
    world.announce(there, announcement)
    recorder = world.watch(newcomer)
    eventually(lambda: world.saw(recorder, announcement), "the sighting")


def test_watcher_sees_who_comes(world: World) -> None:
    """What is announced after the watch began is reported too."""
    watcher, newcomer = world.make(), world.make()
    recorder = world.watch(watcher)
    announcement = world.announcement()
    world.announce(newcomer, announcement)
    eventually(lambda: world.saw(recorder, announcement), "the sighting")


def test_change_is_seen(world: World) -> None:
    """A second announcement of a node replaces the first."""
    watcher, node = world.make(), world.make()
    recorder = world.watch(watcher)
    first = world.announcement()
    second = msgspec.structs.replace(first, inbox=("tcp://127.0.0.1:4444",))
    world.announce(node, first)
    eventually(lambda: world.saw(recorder, first), "the first sighting")
    world.announce(node, second)
    eventually(lambda: world.saw(recorder, second), "the second sighting")
    assert not any(isinstance(event, Lost) for event in recorder.events)


def test_close_withdraws(world: World) -> None:
    """Who closes is reported as lost, if the backend can know at all."""
    watcher, node = world.make(), world.make()
    recorder = world.watch(watcher)
    announcement = world.announcement()
    world.announce(node, announcement)
    eventually(lambda: world.saw(recorder, announcement), "the sighting")
    world.close(node)
    if world.withdraws:
        eventually(lambda: Lost(node_id=announcement.node_id, source=world.kind) in recorder.events, "the loss")
    else:
        assert not any(isinstance(event, Lost) for event in recorder.events)


def test_next_life_is_not_lost_with_the_one_before(world: World) -> None:
    """A node that starts again before its old life was withdrawn stays visible."""
    watcher, old, new = world.make(), world.make(), world.make()
    recorder = world.watch(watcher)
    first = world.announcement()
    second = msgspec.structs.replace(first, epoch=8 << 20, inbox=("tcp://127.0.0.1:4444",))
    for backend, announcement in ((old, first), (new, second)):
        world.announce(backend, announcement)
        eventually(partial(world.saw, recorder, announcement), "the sighting")
    if world.kind == "exchange":
        return  # its node says who is gone, and does so by links
    old.close()
    marker, helper = world.announcement(inbox=("tcp://127.0.0.1:4444",)), world.make()
    world.announce(helper, marker)
    eventually(lambda: world.saw(recorder, marker), "the sighting of the marker")
    assert not recorder.lost(first.node_id)


def test_all_see_all(world: World) -> None:
    """Five nodes that start together find each other."""
    nodes = [(world.make(), world.announcement()) for _ in range(5)]
    recorders = []
    for backend, announcement in nodes:
        world.announce(backend, announcement)
        recorders.append(world.watch(backend))
    for own, recorder in enumerate(recorders):
        for other, (_, announcement) in enumerate(nodes):
            if other != own:
                eventually(partial(world.saw, recorder, announcement), f"node {own} seeing {other}")


def test_nothing_is_reported_after_close(world: World) -> None:
    """A closed watcher is silent, whatever happens to others."""
    watcher, other, node = world.make(), world.make(), world.make()
    recorder, witness = world.watch(watcher), world.watch(other)
    watcher.close()
    before = list(recorder.events)
    announcement = world.announcement()
    world.announce(node, announcement)
    eventually(lambda: world.saw(witness, announcement), "the sighting by another")
    assert recorder.events == before


def test_close_may_come_at_any_time(world: World) -> None:
    """Before a start, during it, and twice; what comes afterwards does nothing and leaves no thread."""
    unused, busy = world.make(), world.make()
    unused.close()
    unused.announce(world.announcement())
    unused.watch(Recorder())
    busy.announce(world.announcement())
    busy.watch(Recorder())
    busy.close()
    busy.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("peerfabric-")]


def test_calls_are_quick(world: World) -> None:
    """Announcing waits for no network, and closing takes seconds at most."""
    backends = [world.make() for _ in range(3)]
    seconds = []
    for backend in backends:
        started_at = time.monotonic()
        backend.announce(world.announcement())
        backend.watch(Recorder())
        seconds.append(time.monotonic() - started_at)
    # mDNS alone needs 0.5 s until its three packets are out; a call near that has waited for them. The best of three,
    # as the machine may be busy.
    assert min(seconds) < 0.4
    closing_at = time.monotonic()
    for backend in backends:
        backend.close()
    assert time.monotonic() - closing_at < 15


def test_report_may_be_slow_and_call_back(world: World) -> None:
    """A report that looks at its backend again does not deadlock."""
    watcher, node = world.make(), world.make()
    seen: list[object] = []

    def report(event: object) -> None:
        watcher.announce(world.announcement(inbox=("tcp://127.0.0.1:4000",)))
        seen.append(event)

    watcher.watch(report)
    world.announce(node, world.announcement())
    eventually(lambda: seen, "a report")
