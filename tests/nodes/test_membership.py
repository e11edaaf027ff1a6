"""Membership: what backends find reaches the engine, and what the engine knows reaches backends that ask."""

from __future__ import annotations

import random

import msgspec

from peerfabric.discovery.base import Announcement, Backend, Candidate, Event, Linked, Lost, Report, Sighting, Withdrawn
from peerfabric.discovery.conformance import announcement_for
from peerfabric.discovery.locks import Lock, Rank
from peerfabric.engine import Engine
from peerfabric.nodes.membership import KNOWN_ELSEWHERE_MAX, Membership
from peerfabric.options import Options
from peerfabric.wire.frames import Address

OURS = Address("us", 7 << 20, "us", "n-m", ["tcp://10.0.0.1:1"], ["tcp://10.0.0.1:2"])


class Finder:
    """A backend that reports as it is told, browses or not, and may ask who is linked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.announced: list[Announcement] = []
        self.linked: object = None
        self.report: Report | None = None

    def announce(self, announcement: Announcement) -> None:
        self.announced.append(announcement)

    def watch(self, report: Report) -> None:
        self.report = report

    def close(self) -> None:
        self.report = None

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def see(self, *events: Event) -> None:
        assert self.report is not None
        for event in events:
            self.report(event)


class Pump:
    """What `Membership` needs of one."""

    def __init__(self) -> None:
        self.lock = Lock(Rank.ENGINE)
        self.on_announced: object = None

    def wake(self) -> None:
        pass


def member(*backends: Backend) -> tuple[Membership, Engine]:
    engine = Engine(OURS, "tests", Options(), random.Random(1), 0.0)
    made = Membership(OURS, "tests", 2048, engine, Pump(), backends)  # type: ignore[arg-type]
    made.join()
    return made, engine


def node(number: int) -> Announcement:
    inbox = (f"tcp://10.1.{number // 250}.{number % 250}:1",)
    return announcement_for("tests", node_id=f"n{number}", host="n2-m2", inbox=inbox, outbox=())


def test_multicast_pauses_in_a_crowd() -> None:
    """While so many are known from elsewhere; those that it found itself do not count."""
    mdns, registry = Finder("mdns"), Finder("registry")
    _, engine = member(mdns, registry)

    def paused() -> bool:
        return mdns.paused

    mdns.see(*(Sighting(seen=node(number), source="mdns") for number in range(KNOWN_ELSEWHERE_MAX + 1)))
    assert not paused()
    crowd = [Sighting(seen=node(1000 + number), source="registry") for number in range(KNOWN_ELSEWHERE_MAX)]
    registry.see(*crowd[:-1])
    assert not paused()
    registry.see(crowd[-1])
    assert paused()
    registry.see(Lost(node_id="n1000", source="registry"))
    assert not paused()
    engine.check()


def test_candidates_come_and_go() -> None:
    """What is withdrawn is not dialled again."""
    dns = Finder("dns")
    _, engine = member(dns)
    dns.see(*(Sighting(seen=Candidate(f"tcp://10.0.0.{n}:1"), source="dns") for n in (7, 8)))
    dns.see(Withdrawn(endpoint="tcp://10.0.0.7:1", source="dns"))
    assert list(engine.links._addresses._candidates) == ["tcp://10.0.0.8:1"]


def test_backends_may_ask_who_is_linked() -> None:
    """Of nodes over TCP, the endpoint that a hello has confirmed; nobody is linked here."""
    finder = Finder("remembered")
    member(finder)
    assert callable(finder.linked)
    found: list[Linked] = finder.linked()
    assert found == []


def test_all_are_announced_alike() -> None:
    """With the version of the address, which grows when something of it changes."""
    finder = Finder("mdns")
    made, engine = member(finder)
    made.moved(msgspec.structs.replace(OURS, inbox=["tcp://10.0.0.9:1"]))
    if engine.poll_events().announced is not None:  # which the pump passes on
        made._announce(engine.address)
    versions = [each.version for each in finder.announced]
    assert versions == sorted(set(versions))
    assert finder.announced[-1].inbox == ("tcp://10.0.0.9:1",)
