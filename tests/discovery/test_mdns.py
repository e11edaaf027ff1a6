"""Multicast DNS: what is announced, how fast, and what happens where it cannot work."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

import msgspec
import pytest

from peerfabric.discovery.base import Announcement
from peerfabric.discovery.mdns import MdnsBackend, announcement_of, service_info
from tests.discovery.conftest import Child, Recorder, announcement_for, eventually


def round_trip(announcement: Announcement, addresses: list[str], our_fabric: str = "tests") -> Announcement:
    info = service_info(announcement, addresses)
    assert info is not None
    assert len(info.text) <= 400
    return announcement_of(info, our_fabric)


def test_records_say_what_was_announced() -> None:
    """An announcement with the addresses of the backend survives the records."""
    announcement = announcement_for()
    assert round_trip(announcement, ["127.0.0.1"]) == announcement


def test_ports_are_announced_on_each_address() -> None:
    """ipc endpoints stay at home, and the addresses are those of the backend."""
    announcement = announcement_for(inbox=("ipc:///a", "tcp://0.0.0.0:4000", "tcp://0.0.0.0:4002"), outbox=())
    received = round_trip(announcement, ["192.0.2.1", "2001:db8::1"])
    assert received.inbox == (
        "tcp://192.0.2.1:4000",
        "tcp://192.0.2.1:4002",
        "tcp://[2001:db8::1]:4000",
        "tcp://[2001:db8::1]:4002",
    )


def test_longest_names_fit() -> None:
    """A name is cut between characters; a long fabric is known to its members only."""
    fabric = "f" * 255
    announcement = announcement_for(fabric, node_id="a" * 64, epoch=2**53 - 1, name="ä" * 255)
    assert round_trip(announcement, ["127.0.0.1"], fabric) == msgspec.structs.replace(announcement, name="ä" * 31)
    assert round_trip(announcement, ["127.0.0.1"], "f" * 254).fabric.startswith("~")


def test_instance_name_is_unique_for_each_life() -> None:
    """So nothing has to be probed for."""
    announcement = announcement_for()
    lives = [service_info(msgspec.structs.replace(announcement, epoch=epoch), ["127.0.0.1"]) for epoch in (1, 2, 2)]
    first, second, again = (info.name for info in lives if info is not None)
    assert first != second == again


@pytest.mark.parametrize(
    "change",
    [{"v": "2"}, {"v": None}, {"id": ""}, {"id": "../a"}, {"epoch": "x"}, {"epoch": "-1"}, {"in": "0"}, {"in": "a"}],
)
def test_foreign_records_are_refused(change: dict[str, str | None]) -> None:
    """Anybody on the network may send them."""
    from zeroconf import ServiceInfo

    good = service_info(announcement_for(), ["127.0.0.1"])
    assert good is not None
    properties = {key.decode(): value for key, value in good.properties.items()}
    changed = {key: value for key, value in {**properties, **change}.items() if value is not None}
    info = ServiceInfo(good.type, good.name, port=1, parsed_addresses=["127.0.0.1"], properties=changed)
    with pytest.raises((ValueError, KeyError)):
        announcement_of(info, "tests")


def test_two_processes_find_each_other(start_child: Callable[..., Child]) -> None:
    """In less than two seconds after the start of the second, by mDNS alone."""
    fabric = f"tests-{uuid.uuid4().hex[:8]}"
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    one = start_child("mdns", fabric, first)
    assert one.line() == "ready"
    two = start_child("mdns", fabric, second)
    assert two.line() == "ready"
    assert wait_for_sighting(one, second) is not None
    assert wait_for_sighting(two, first) < 2.0
    one.end()
    two.end()


def wait_for_sighting(child: Child, node_id: str) -> float:
    """Seconds from the child's start of discovery until it saw the node; others may be on the network too."""
    while True:
        word, seen, seconds = child.line().split()
        if (word, seen) == ("saw", node_id):
            return float(seconds)


def test_close_says_goodbye() -> None:
    """Right after the announcement too, while its packets are still being repeated."""
    fabric = f"tests-{uuid.uuid4().hex[:8]}"
    watcher, node = MdnsBackend(fabric), MdnsBackend(fabric)
    recorder, announcement = Recorder(), announcement_for(fabric)
    watcher.watch(recorder)
    node.announce(announcement)
    eventually(lambda: recorder.saw(announcement), "the sighting")
    node.close()
    eventually(lambda: recorder.lost(announcement.node_id), "the loss")
    watcher.close()
    assert recorder.announcements().count(announcement) == 1


def test_no_multicast_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The node works on; the text says what to do."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", refuse)
    backend = MdnsBackend("tests", addresses=["192.0.2.77"])
    with caplog.at_level(logging.WARNING, "peerfabric"):
        backend.announce(announcement_for())
        backend.watch(Recorder())
        eventually(lambda: caplog.records, "the warning")
        backend.announce(announcement_for())
        backend.close()
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert text.startswith("mdns: no multicast here")
    assert text.count("No such device") == 3
    assert text.endswith("use peers= or PEERFABRIC_PEERS")


def test_missing_interface_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning; on loopback, since the node announces nothing else."""
    fabric = f"tests-{uuid.uuid4().hex[:8]}"
    lame, sound = MdnsBackend(fabric, interfaces=["192.0.2.77"]), MdnsBackend(fabric)
    recorder, announcement = Recorder(), announcement_for(fabric)
    with caplog.at_level(logging.WARNING, "peerfabric"):
        sound.watch(recorder)
        lame.announce(announcement)
        eventually(lambda: recorder.saw(announcement), "the sighting")
    lame.close()
    sound.close()
    texts = [record.getMessage() for record in caplog.records if record.name == "peerfabric"]
    assert len(texts) == 1
    assert texts[0].startswith("mdns: uses 127.0.0.1 only, since 192.0.2.77: ")


def test_node_without_tcp_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing that another machine could connect to."""
    backend = MdnsBackend("tests")
    with caplog.at_level(logging.WARNING, "peerfabric"):
        backend.announce(announcement_for(inbox=("ipc:///a",)))
        eventually(lambda: caplog.records, "the warning")
    backend.close()
    assert "no tcp endpoint" in caplog.records[0].getMessage()
