"""Conformance suite for discovery backends: what `Backend` promises, as tests that other packages can run.

A package with a backend has a test module with

    from peerfabric.discovery.conformance import Conformance, World

    class ConsulWorld(World):
        kind = "consul"

        def _make(self):
            return ConsulBackend(BackendSettings(fabric=self.fabric, reach="host", key_ids=()))

    class TestConsul(Conformance):
        world_type = ConsulWorld

and runs it with pytest, which this module does not need.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from functools import partial

import msgspec

from peerfabric.discovery.base import Announcement, Backend, Candidate, Event, Lost, Sighting
from peerfabric.discovery.host import host_id

DEADLINE = 20.0
"""Seconds after which something that should happen has not. Wide: machines that run tests are busy."""


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE:g} s"
        time.sleep(0.01)


class Recorder:
    """Keeps what a backend reports. The list grows only, so it may be read at any time."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def announcements(self) -> list[Announcement]:
        return [e.seen for e in self.events if isinstance(e, Sighting) and isinstance(e.seen, Announcement)]

    def saw(self, announcement: Announcement) -> bool:
        return announcement in self.announcements()

    def lost(self, node_id: str) -> bool:
        return any(isinstance(event, Lost) and event.node_id == node_id for event in self.events)


def announcement_for(fabric: str = "tests", **changes: object) -> Announcement:
    """An announcement of a new node; `changes` replace fields."""
    fields: dict[str, object] = {
        "node_id": uuid.uuid4().hex,
        "epoch": 7 << 20,
        "name": "kitchen",
        "fabric": fabric,
        "host": host_id(),
        "inbox": ("tcp://127.0.0.1:4000",),
        "outbox": ("tcp://127.0.0.1:4001",),
    }
    return Announcement(**{**fields, **changes})  # type: ignore[arg-type]


class World:
    """Makes backends of one kind that can find each other. Overridden where a kind needs help for that."""

    kind = ""
    """Name of the backends."""

    withdraws = True
    """Whether others learn of a close."""

    tells_lives_apart = True
    """Whether the end of one life of a node leaves the next one visible by itself."""

    def __init__(self) -> None:
        # Two runs on one machine may share a network, so the fabric is theirs alone.
        self.fabric = f"tests-{uuid.uuid4().hex[:8]}"
        self.backends: list[Backend] = []

    def announcement(self, **changes: object) -> Announcement:
        """Of a new node of this fabric."""
        return announcement_for(self.fabric, **changes)

    def make(self) -> Backend:
        """A new backend, which is closed at the end."""
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
        """Let it watch; what it reports is in what is returned."""
        recorder = Recorder()
        backend.watch(recorder)
        return recorder

    def saw(self, recorder: Recorder, announcement: Announcement) -> bool:
        return Sighting(seen=self.expected(announcement), source=self.kind) in recorder.events

    def end(self) -> None:
        """Close all that were made."""
        for backend in self.backends:
            backend.close()


class Conformance:
    """The tests; a subclass says of which world."""

    world_type: type[World] = World

    def setup_method(self) -> None:
        self.world = self.world_type()

    def teardown_method(self) -> None:
        self.world.end()

    def test_name_is_the_source(self) -> None:
        """Users choose it by the word under which it reports."""
        assert self.world.make().name == self.world.kind

    def test_newcomer_sees_who_is_there(self) -> None:
        """What was announced before the watch began is reported."""
        there, newcomer = self.world.make(), self.world.make()
        announcement = self.world.announcement()
        self.world.announce(there, announcement)
        recorder = self.world.watch(newcomer)
        eventually(lambda: self.world.saw(recorder, announcement), "the sighting")

    def test_watcher_sees_who_comes(self) -> None:
        """What is announced after the watch began is reported too."""
        watcher, newcomer = self.world.make(), self.world.make()
        recorder = self.world.watch(watcher)
        announcement = self.world.announcement()
        self.world.announce(newcomer, announcement)
        eventually(lambda: self.world.saw(recorder, announcement), "the sighting")

    def test_change_is_seen(self) -> None:
        """An announcement of a larger version replaces the one before."""
        watcher, node = self.world.make(), self.world.make()
        recorder = self.world.watch(watcher)
        first = self.world.announcement()
        second = msgspec.structs.replace(first, inbox=("tcp://127.0.0.1:4444",), version=1)
        self.world.announce(node, first)
        eventually(lambda: self.world.saw(recorder, first), "the first sighting")
        self.world.announce(node, second)
        eventually(lambda: self.world.saw(recorder, second), "the second sighting")
        assert not any(isinstance(event, Lost) for event in recorder.events)

    def test_close_withdraws(self) -> None:
        """Who closes is reported as lost, if the backend can know at all."""
        watcher, node = self.world.make(), self.world.make()
        recorder = self.world.watch(watcher)
        announcement = self.world.announcement()
        self.world.announce(node, announcement)
        eventually(lambda: self.world.saw(recorder, announcement), "the sighting")
        self.world.close(node)
        if self.world.withdraws:
            lost = Lost(node_id=announcement.node_id, source=self.world.kind)
            eventually(lambda: lost in recorder.events, "the loss")
        else:
            assert not any(isinstance(event, Lost) for event in recorder.events)

    def test_next_life_is_not_lost_with_the_one_before(self) -> None:
        """A node that starts again before its old life was withdrawn stays visible."""
        watcher, old, new = self.world.make(), self.world.make(), self.world.make()
        recorder = self.world.watch(watcher)
        first = self.world.announcement()
        second = msgspec.structs.replace(first, epoch=8 << 20, inbox=("tcp://127.0.0.1:4444",))
        for backend, announcement in ((old, first), (new, second)):
            self.world.announce(backend, announcement)
            eventually(partial(self.world.saw, recorder, announcement), "the sighting")
        if not self.world.tells_lives_apart:
            return
        old.close()
        marker, helper = self.world.announcement(inbox=("tcp://127.0.0.1:4444",)), self.world.make()
        self.world.announce(helper, marker)
        eventually(lambda: self.world.saw(recorder, marker), "the sighting of the marker")
        assert not recorder.lost(first.node_id)

    def test_all_see_all(self) -> None:
        """Five nodes that start together find each other."""
        nodes = [(self.world.make(), self.world.announcement()) for _ in range(5)]
        recorders = []
        for backend, announcement in nodes:
            self.world.announce(backend, announcement)
            recorders.append(self.world.watch(backend))
        for own, recorder in enumerate(recorders):
            for other, (_, announcement) in enumerate(nodes):
                if other != own:
                    eventually(partial(self.world.saw, recorder, announcement), f"node {own} seeing {other}")

    def test_nothing_is_reported_after_close(self) -> None:
        """A closed watcher is silent, whatever happens to others."""
        watcher, other, node = self.world.make(), self.world.make(), self.world.make()
        recorder, witness = self.world.watch(watcher), self.world.watch(other)
        watcher.close()
        before = list(recorder.events)
        announcement = self.world.announcement()
        self.world.announce(node, announcement)
        eventually(lambda: self.world.saw(witness, announcement), "the sighting by another")
        assert recorder.events == before

    def test_close_may_come_at_any_time(self) -> None:
        """Before a start, during it, and twice; what comes afterwards does nothing and leaves no thread."""
        threads = set(threading.enumerate())
        unused, busy = self.world.make(), self.world.make()
        unused.close()
        unused.announce(self.world.announcement())
        unused.watch(Recorder())
        busy.announce(self.world.announcement())
        busy.watch(Recorder())
        busy.close()
        busy.close()
        assert set(threading.enumerate()) <= threads

    def test_calls_are_quick(self) -> None:
        """Announcing waits for no network, and closing takes seconds at most."""
        backends = [self.world.make() for _ in range(3)]
        seconds = []
        for backend in backends:
            started_at = time.monotonic()
            backend.announce(self.world.announcement())
            backend.watch(Recorder())
            seconds.append(time.monotonic() - started_at)
        # mDNS alone needs 0.5 s until its three packets are out; a call near that has waited for them. The best of
        # three, as the machine may be busy.
        assert min(seconds) < 0.4
        closing_at = time.monotonic()
        for backend in backends:
            backend.close()
        assert time.monotonic() - closing_at < 15

    def test_report_may_be_slow_and_call_back(self) -> None:
        """A report that looks at its backend again does not deadlock."""
        watcher, node = self.world.make(), self.world.make()
        seen: list[object] = []

        def report(event: object) -> None:
            watcher.announce(self.world.announcement(inbox=("tcp://127.0.0.1:4000",)))
            seen.append(event)

        watcher.watch(report)
        self.world.announce(node, self.world.announcement())
        eventually(lambda: seen, "a report")
