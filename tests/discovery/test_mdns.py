"""Multicast DNS: what is announced, how fast, what strangers can do, and what happens where it cannot work."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from peerfabric.discovery import mdns
from peerfabric.discovery.base import AnnounceKey, Announcement, Lost
from peerfabric.discovery.mdns import INSTANCES_MAX, SERVICE_TYPE, MdnsBackend, service_info
from peerfabric.discovery.txt import instance_label, write_txt
from tests.discovery.conftest import Child, Recorder, announcement_for, eventually

KEY = AnnounceKey("a1b2c3d4", bytes(range(32)))
NEXT = AnnounceKey("ffffffff", bytes(32))
TXT, IN = 16, 1


class Wire:
    """A backend whose records are given by hand: what has come by multicast, without a thread or a socket."""

    def __init__(self, *keys: AnnounceKey) -> None:
        self.recorder = Recorder()
        self.backend = MdnsBackend("tests", keys=keys)
        self.backend._browses = keys
        self.backend._report = self.recorder

    def hear(
        self, announcement: Announcement, key: AnnounceKey | None = KEY, name: str = "", text: bytes | None = None
    ) -> str:
        """A record came; returns the name of its instance."""
        label = instance_label(announcement, key.key_id if key is not None else "-")
        name = name or f"{label}.{SERVICE_TYPE}"
        text = text if text is not None else write_txt(announcement, key, ["127.0.0.1"])
        assert text is not None
        self.backend._take(name, text)
        return name

    def seen(self) -> list[tuple[int, int]]:
        return [(each.epoch, each.version) for each in self.recorder.announcements()]


def test_service_of_a_node() -> None:
    """The instance and its host have one name; other programs find an address and a port."""
    announcement = announcement_for(inbox=("ipc:///a", "tcp://10.0.0.5:7700", "tcp://[fd00::1]:7700"))
    info = service_info(announcement, KEY, reach="lan")
    assert info is not None
    label = instance_label(announcement, KEY.key_id)
    assert (info.name, info.server, info.port) == (f"{label}.{SERVICE_TYPE}", f"{label}.local.", 7700)
    assert info.parsed_addresses() == ["10.0.0.5", "fd00::1"]
    assert info.text == write_txt(announcement, KEY, ["10.0.0.5", "fd00::1"])


def test_loopback_stays_at_home() -> None:
    """It means somebody else on every other host; a node of this host announces nothing but that."""
    announcement = announcement_for(inbox=("tcp://127.0.0.1:7700", "tcp://[::1]:7700", "tcp://10.0.0.5:7700"))
    lan, host = (service_info(announcement, None, reach=reach) for reach in ("lan", "host"))
    assert lan is not None
    assert host is not None
    assert lan.parsed_addresses() == ["10.0.0.5"]
    assert host.parsed_addresses() == ["127.0.0.1", "::1"]
    assert service_info(announcement_for(), None, reach="lan") is None


def test_only_what_is_proven_is_reported() -> None:
    """Others are counted by why not, once for each instance, and not at all when they leave or become ours."""
    wire = Wire(KEY)
    good = announcement_for()
    wire.hear(announcement_for(), NEXT)
    leaves = wire.hear(announcement_for(), NEXT)
    wire.hear(announcement_for(), None)
    wire.hear(announcement_for(), AnnounceKey(KEY.key_id, bytes(32)))
    wire.hear(announcement_for(), name=f"elsewhere.{SERVICE_TYPE}")
    wire.hear(announcement_for(), text=b"\x03v=1")
    wire.hear(good, text=b"\x03v=2")
    assert wire.recorder.events == []
    strangers = wire.backend.strangers()
    assert strangers.keys == {"ffffffff": 2, "-": 1}
    assert (strangers.forged, strangers.versions, strangers.unreadable) == (1, 1, 2)
    wire.backend._remove(leaves)
    wire.hear(good)
    wire.hear(good, text=b"\x03v=2")
    assert wire.recorder.announcements() == [msgspec.structs.replace(good, name="", outbox=good.outbox)]
    strangers = wire.backend.strangers()
    assert (strangers.keys, strangers.unreadable) == ({"ffffffff": 1, "-": 1}, 1)


def test_strangers_are_told_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One line with the key ids, and none for a node that is announced under our secret as well."""
    monkeypatch.setattr("peerfabric.discovery.mdns._TELL_AFTER", 0.01)
    wire = Wire(KEY)
    wire.backend._reach = "lan"
    both = announcement_for()

    async def hear() -> None:
        wire.hear(both, NEXT)
        wire.hear(both, KEY)
        await asyncio.sleep(0.05)
        assert caplog.records == []
        for _ in range(3):
            for key in (NEXT, None):
                wire.hear(announcement_for(), key)
            await asyncio.sleep(0.05)

    with caplog.at_level(logging.WARNING, "peerfabric"):
        asyncio.run(hear())
    [record] = caplog.records
    text = record.getMessage()
    assert "key id none, in the clear, ffffffff, and this one has a1b2c3d4; if they should meet" in text
    assert "`peerfabric doctor`" in text


def test_fabrics_in_the_clear() -> None:
    """Are told apart by a hash; whoever has a secret is none of them."""
    wire = Wire()
    wire.hear(announcement_for("others"), None)
    wire.hear(announcement_for(), KEY)
    assert wire.recorder.events == []
    wire.hear(announcement_for(), None)
    assert len(wire.recorder.events) == 1


def test_replays_are_old_news() -> None:
    """Epoch and version must grow; a replay with other content is none either."""
    wire = Wire(KEY)
    first = announcement_for(version=1)
    second = msgspec.structs.replace(first, version=2)
    other_life = msgspec.structs.replace(first, epoch=8 << 20, version=0)
    for each in (second, first, second, other_life, second):
        wire.hear(each)
    wire.hear(msgspec.structs.replace(other_life, inbox=("tcp://127.0.0.1:9",)))
    assert wire.seen() == [(7 << 20, 2), (8 << 20, 0)]
    assert wire.backend.strangers().old_news == 3


def test_after_a_goodbye_the_same_is_news() -> None:
    """A goodbye that was forged would else make a node invisible until it changes."""
    wire = Wire(KEY)
    announcement = announcement_for()
    name = wire.hear(announcement)
    wire.backend._remove(name)
    wire.hear(announcement)
    wire.hear(msgspec.structs.replace(announcement, epoch=6 << 20))
    assert [type(event).__name__ for event in wire.recorder.events] == ["Sighting", "Lost", "Sighting"]


def test_two_secrets_are_one_node() -> None:
    """Reported once, and lost when the last instance goes."""
    wire = Wire(KEY, NEXT)
    announcement = announcement_for()
    one, two = wire.hear(announcement, KEY), wire.hear(announcement, NEXT)
    wire.backend._remove(one)
    assert len(wire.recorder.events) == 1
    wire.backend._remove(two)
    assert wire.recorder.events[1:] == [Lost(node_id=announcement.node_id, source="mdns")]


def test_a_flood_of_members_is_limited() -> None:
    """So many are remembered; what is over that is counted."""
    wire = Wire(KEY)
    for number in range(INSTANCES_MAX + 5):
        wire.hear(announcement_for(node_id=f"n{number}"))
    assert len(wire.recorder.events) == INSTANCES_MAX
    assert wire.backend.strangers().over_limit == 5


def rss_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def flood(texts: Iterator[tuple[str, bytes]]) -> None:
    """Send, by multicast on loopback, an instance of the service for each name and TXT record."""
    from zeroconf._dns import DNSPointer, DNSText
    from zeroconf._protocol.outgoing import DNSOutgoing

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        out = DNSOutgoing(0x8400)
        for count, (name, text) in enumerate(texts, 1):
            out.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, IN, 4500, name), 0)
            out.add_answer_at_time(DNSText(name, TXT, IN | 0x8000, 4500, text), 0)
            if count % 20 == 0:
                for packet in out.packets():
                    sender.sendto(packet, ("224.0.0.251", 5353))
                out = DNSOutgoing(0x8400)


def test_ten_thousand_forged_records() -> None:
    """Nobody is reported, so nobody is dialled; memory stays; and a member is found all the same."""
    watcher, member = (MdnsBackend("tests", keys=[KEY]) for _ in range(2))
    recorder, announcement = Recorder(), announcement_for()
    watcher.watch(recorder)
    eventually(lambda: watcher._browser is not None, "the browser")
    gc.collect()
    before = rss_kib()

    def forged(count: int) -> Iterator[tuple[str, bytes]]:
        for _ in range(count):
            fake = announcement_for(name="")
            text = write_txt(fake, AnnounceKey(KEY.key_id, os.urandom(32)), ["127.0.0.1"])
            assert text is not None
            yield f"{instance_label(fake, KEY.key_id)}.{SERVICE_TYPE}", text

    def heard() -> int:
        strangers = watcher.strangers()
        return strangers.forged + strangers.over_limit

    for part in range(100):  # each is heard before the next, or the kernel would drop most
        already = heard()
        flood(forged(100))
        eventually(lambda already=already: heard() > already, f"part {part} of the flood")  # type: ignore[misc]
    assert heard() > 2 * INSTANCES_MAX
    member.announce(announcement)
    eventually(lambda: recorder.saw(msgspec.structs.replace(announcement, name="")), "the member")
    assert rss_kib() - before <= 64 * 1024
    assert [each.node_id for each in recorder.announcements()] == [announcement.node_id]
    member.close()
    watcher.close()


def test_record_that_does_not_come_by_itself_is_asked_for() -> None:
    """An instance is named, and nothing else of it: its node answers when it is asked."""
    watcher, node = (MdnsBackend("tests", keys=[KEY]) for _ in range(2))
    recorder, announcement = Recorder(), announcement_for()
    watcher.watch(recorder)
    node.announce(announcement)
    expected = msgspec.structs.replace(announcement, name="")
    eventually(lambda: recorder.saw(expected), "the sighting")
    name = next(iter(watcher._instances))
    loop = watcher._loop
    assert loop is not None

    def forget() -> None:
        watcher._instances.clear()
        browser = watcher._browser
        assert browser is not None
        zeroconf: Any = browser.zc
        zeroconf.cache.async_remove_records(zeroconf.cache.async_all_by_details(name, TXT, IN))
        from zeroconf import ServiceStateChange

        watcher._on_change(zeroconf, SERVICE_TYPE, name, ServiceStateChange.Added)

    loop.call_soon_threadsafe(forget)
    eventually(lambda: recorder.announcements().count(expected) == 2, "the second sighting")
    for backend in (node, watcher):
        backend.close()


def test_secrets_change() -> None:
    """A node is announced under the new ones, and finds who was a stranger; the old ones count no more."""
    watcher, node = MdnsBackend("tests", keys=[NEXT]), MdnsBackend("tests", keys=[KEY])
    recorder, announcement = Recorder(), announcement_for()
    seen = msgspec.structs.replace(announcement, name="")
    watcher.watch(recorder)
    node.announce(announcement)
    eventually(lambda: watcher.strangers().keys.get(KEY.key_id), "the stranger")
    watcher.rekey([NEXT, KEY])
    eventually(lambda: recorder.saw(seen), "the sighting under the second")
    node.rekey([NEXT])
    eventually(lambda: {key_id for key_id, _ in watcher._instances.values()} == {NEXT.key_id}, "the change")
    assert not recorder.lost(announcement.node_id)
    watcher.rekey([KEY])
    eventually(lambda: recorder.lost(announcement.node_id), "the loss")
    for backend in (node, watcher):
        backend.close()


def test_browsing_pauses() -> None:
    """Nobody new is found meanwhile, and all afterwards."""
    watcher, witness, node = (MdnsBackend("tests", keys=[KEY]) for _ in range(3))
    recorder, seen, announcement = Recorder(), Recorder(), announcement_for()
    watcher.watch(recorder)
    eventually(lambda: watcher._browser is not None, "the browser")
    watcher.pause(True)
    eventually(lambda: watcher._browser is None, "the pause")
    witness.watch(seen)
    node.announce(announcement)
    eventually(lambda: seen.lost(announcement.node_id) or seen.announcements(), "the sighting by another")
    assert recorder.events == []
    watcher.pause(False)
    eventually(recorder.announcements, "the sighting")
    for backend in (node, witness, watcher):
        backend.close()


def test_interfaces_change() -> None:
    """The records follow with the next version, on the new interface; one that is gone is no error."""
    chosen = ["127.0.0.1"]
    node = MdnsBackend("tests", reach="lan", keys=[KEY], interfaces=lambda: list(chosen))
    opened: list[list[str]] = []
    use = node._use

    async def noted(zeroconf: Any, interfaces: list[str]) -> None:
        opened.append(interfaces)
        await use(zeroconf, interfaces)

    node._use = noted  # type: ignore[method-assign]
    watcher, recorder = MdnsBackend("tests", keys=[KEY]), Recorder()
    watcher.watch(recorder)
    first = announcement_for(inbox=("tcp://192.0.2.5:7700",), outbox=())
    node.announce(first)
    eventually(lambda: recorder.saw(msgspec.structs.replace(first, name="")), "the first sighting")
    second = msgspec.structs.replace(first, inbox=("tcp://192.0.2.6:7700",), version=1)
    node._opened = ["192.0.2.5"]  # as if it had been that
    node.announce(second)
    eventually(lambda: recorder.saw(msgspec.structs.replace(second, name="")), "the second sighting")
    assert not recorder.lost(first.node_id)
    chosen[:] = ["192.0.2.99"]  # gone before we could use it
    third = msgspec.structs.replace(first, inbox=("tcp://192.0.2.7:7700",), version=2)
    node.announce(third)
    eventually(lambda: recorder.saw(msgspec.structs.replace(third, name="")), "the third sighting")
    assert opened[-1] == ["192.0.2.99"]
    for backend in (node, watcher):
        backend.close()


def test_many_changes_are_few_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is announced at once, the last one soon, and not each of those between."""
    monkeypatch.setattr(mdns, "_ADVERTISE_EVERY", 0.3)
    node, watcher = (MdnsBackend("tests", keys=[KEY]) for _ in range(2))
    recorder = Recorder()
    watcher.watch(recorder)
    first = announcement_for(name="", digest=b"")
    node.announce(first)
    eventually(lambda: recorder.saw(first), "the first")
    for version in range(1, 500):
        node.announce(msgspec.structs.replace(first, version=version, digest=b"%d" % version))
    last = msgspec.structs.replace(first, version=499, digest=b"499")
    eventually(lambda: recorder.saw(last), "the last")
    assert len(recorder.events) <= 4
    for backend in (node, watcher):
        backend.close()


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
    recorder, announcement = Recorder(), announcement_for(fabric, name="")
    watcher.watch(recorder)
    node.announce(announcement)
    eventually(lambda: recorder.saw(announcement), "the sighting")
    node.close()
    eventually(lambda: recorder.lost(announcement.node_id), "the loss")
    watcher.close()
    assert recorder.announcements().count(announcement) == 1


def test_no_multicast_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The node works on; the text says what to do. It is tried again, and works when there is some."""
    import zeroconf.asyncio

    monkeypatch.setattr(mdns, "_OPEN_AGAIN", 0.05)
    tries, works = [], zeroconf.asyncio.AsyncZeroconf

    def refuse(*arguments: object, **options: object) -> None:
        tries.append(1)
        raise OSError(19, "No such device")

    monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", refuse)
    backend = MdnsBackend("tests", reach="lan", keys=[KEY])
    announcement = announcement_for(inbox=("tcp://192.0.2.77:1", "tcp://192.0.2.78:1"))
    with caplog.at_level(logging.WARNING, "peerfabric"):
        backend.announce(announcement)
        backend.watch(Recorder())
        eventually(lambda: len(tries) > 12, "the third attempt")
        backend.announce(announcement)
        assert len(caplog.records) == 1
        monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", works)
        eventually(lambda: backend._browser is not None, "the browser")
        backend.close()
    text = caplog.records[0].getMessage()
    assert text.startswith("mdns: no multicast here")
    assert text.count("No such device") == 4
    assert text.endswith("use peers= or PEERFABRIC_PEERS")


def test_missing_interface_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning, to those that work, and loopback at last."""
    lame = MdnsBackend("tests", reach="lan", keys=[KEY], interfaces=lambda: ["192.0.2.77", "2001:db8::77"])
    sound = MdnsBackend("tests", keys=[KEY])
    recorder, announcement = Recorder(), announcement_for(inbox=("tcp://192.0.2.5:7700",), outbox=(), name="")
    with caplog.at_level(logging.WARNING, "peerfabric"):
        sound.watch(recorder)
        lame.announce(announcement)
        eventually(lambda: recorder.saw(announcement), "the sighting")
    lame.close()
    sound.close()
    texts = [record.getMessage() for record in caplog.records if record.name == "peerfabric"]
    assert len(texts) == 1
    assert texts[0].startswith("mdns: uses 127.0.0.1 only, since ")
    assert "192.0.2.77" in texts[0]


def test_node_without_tcp_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing that another machine could connect to."""
    backend = MdnsBackend("tests")
    with caplog.at_level(logging.WARNING, "peerfabric"):
        backend.announce(announcement_for(inbox=("ipc:///a",)))
        eventually(lambda: caplog.records, "the warning")
    backend.close()
    assert "no tcp endpoint" in caplog.records[0].getMessage()
