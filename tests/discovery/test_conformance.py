"""One suite for all backends: what `Backend` promises."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from peerfabric.discovery.base import AnnounceKey, Announcement, Backend, Candidate
from peerfabric.discovery.conformance import Conformance, World
from peerfabric.discovery.mdns import MdnsBackend
from peerfabric.discovery.packages import PackagedBackend
from peerfabric.discovery.registry import RegistryBackend
from peerfabric.discovery.remembered import RememberedBackend
from peerfabric.discovery.resolving import Resolver
from peerfabric.discovery.static import StaticBackend

INBOXES = ("tcp://127.0.0.1:4000", "tcp://127.0.0.1:4444")


class RegistryWorld(World):
    kind = "registry"

    def _make(self) -> Backend:
        return RegistryBackend(self.fabric)


class MdnsWorld(World):
    kind = "mdns"

    def __init__(self) -> None:
        super().__init__()
        self.keys: tuple[AnnounceKey, ...] = (AnnounceKey(os.urandom(4).hex(), os.urandom(32)),)

    def _make(self) -> Backend:
        return MdnsBackend(self.fabric, keys=self.keys)

    def expected(self, announcement: Announcement) -> Announcement:
        return msgspec.structs.replace(announcement, name="")  # its hello tells it


class ClearMdnsWorld(MdnsWorld):
    """Without a secret; fabrics are told apart all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = ()


class StaticWorld(World):
    """The list stands for the announcements: it holds all inboxes from the start."""

    kind = "static"
    withdraws = False

    def _make(self) -> Backend:
        return StaticBackend(INBOXES)

    def expected(self, announcement: Announcement) -> Candidate:
        return Candidate(announcement.inbox[0])


class DnsWorld(StaticWorld):
    """A resolver of one name, behind which are all inboxes from the start."""

    kind = "dns"

    def _make(self) -> Backend:
        resolver = Resolver(lambda host, port: ["127.0.0.1"])
        return StaticBackend(["dns:peers.test:4000", "dns:peers.test:4444"], "lan", resolver, "dns")


class RememberedWorld(StaticWorld):
    """A file in which all inboxes are; nobody is linked."""

    kind = "remembered"

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        peers = [[endpoint, 1] for endpoint in INBOXES]
        content = {"version": 1, "peers": [{"endpoint": e, "used_unix_s": at} for e, at in peers]}
        Path(self._folder.name, "peers-clear.json").write_bytes(msgspec.json.encode(content))

    def _make(self) -> Backend:
        return RememberedBackend(Path(self._folder.name))

    def end(self) -> None:
        super().end()
        self._folder.cleanup()


class PackagedWorld(RegistryWorld):
    """A backend as if it were of another package."""

    def _make(self) -> Backend:
        return PackagedBackend(super()._make(), "peerfabric-example 1.0")


def multicast_works() -> str:
    """Return why multicast on loopback cannot work here, or nothing."""
    from zeroconf import Zeroconf

    try:
        Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError as error:
        return f"no multicast on loopback: {error}"
    return ""


class TestRegistry(Conformance):
    world_type = RegistryWorld


class TestStatic(Conformance):
    world_type = StaticWorld


class TestDns(Conformance):
    world_type = DnsWorld


class TestRemembered(Conformance):
    world_type = RememberedWorld


class TestPackaged(Conformance):
    world_type = PackagedWorld


class TestMdns(Conformance):
    world_type = MdnsWorld

    def setup_method(self) -> None:
        if reason := multicast_works():
            pytest.skip(reason)
        super().setup_method()


class TestMdnsInTheClear(TestMdns):
    world_type = ClearMdnsWorld
