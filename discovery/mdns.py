"""Multicast DNS backend: nodes of one network find each other, with python-zeroconf.

It is a hint and no more: a killed node stays in caches for more than an hour, and many networks pass no multicast. All
of it runs on an event loop in a thread of its own, `zeroconf` is imported there, and nothing is resolved inside of its
callbacks, where waiting would deadlock.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peerfabric.discovery.base import ENDPOINTS_MAX, Announcement, Lost, Report, Sighting
from peerfabric.discovery.locks import Lock, OwnThread

if TYPE_CHECKING:
    from zeroconf import InterfaceChoice, ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

SERVICE_TYPE: Final = "_peerfabric._tcp.local."
TXT_VERSION: Final = "1"

INSTANCES_MAX: Final = 2000
"""Nodes that are remembered: what fits into zeroconf's cache of 10,000 records, at five each. Others are not seen."""

_LABEL_BYTES_MAX: Final = 63
"""Bytes of a name in the TXT record, which stays below 400 bytes in all; a longer name is cut, a fabric's is hashed."""

_PORTS_MAX: Final = 4
"""Ports of one socket in the TXT record."""

_RESOLVING_MAX: Final = 64
"""Nodes asked for at the same time; others wait until they are heard of again."""

_RESOLVE_TIMEOUT: Final = 3.0
_START_TIMEOUT: Final = 2.0
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds that `close` waits for its thread; three goodbyes take a quarter of a second."""

logger = logging.getLogger("peerfabric")


class MdnsBackend:
    """Announces one service instance and browses for those of others."""

    name: Final = "mdns"

    def __init__(
        self, fabric: str, *, addresses: Sequence[str] = ("127.0.0.1",), interfaces: Sequence[str] | None = None
    ) -> None:
        """Nothing is opened or imported before the first `announce` or `watch`.

        Args:
            fabric: Our fabric. Nodes of others are reported with theirs.
            addresses: Where our tcp ports can be reached; the default is right for a node that listens on loopback.
            interfaces: Addresses of the interfaces to use; None means those of `addresses`.
        """
        self._fabric = fabric
        self._addresses = list(addresses)
        self._interfaces = list(addresses if interfaces is None else interfaces)
        self._process = os.getpid()
        self._lock = Lock()  # guards the six below, which callers and our thread share
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._wanted: Announcement | None = None
        self._report: Report | None = None
        self._closed = False
        # The rest belongs to the thread.
        self._announced: Announcement | None = None
        self._info: ServiceInfo | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._instances: dict[str, Announcement] = {}
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._broadcasts: set[asyncio.Future[Any]] = set()

    def announce(self, announcement: Announcement) -> None:
        """Announce the tcp endpoints, in the background. Needs some tenths of a second until all have heard it."""
        if self._is_forked():
            return
        with self._lock:
            self._wanted = announcement
            self._wake_locked()

    def watch(self, report: Report) -> None:
        if self._is_forked():
            return
        with self._lock:
            assert self._report is None, "watch() is called once"
            self._report = report
            self._wake_locked()

    def close(self) -> None:
        """Say goodbye and stop. In a forked child nothing happens: the sockets are its parent's."""
        if self._is_forked():
            return
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._wake_locked()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_TIMEOUT)

    def _is_forked(self) -> bool:
        # Looked at before the lock, which a forked child may find held for ever.
        return os.getpid() != self._process

    def _wake_locked(self) -> None:
        if self._thread is None and not self._closed:
            thread = OwnThread(target=self._run, name="peerfabric-mdns", daemon=True)
            thread.start()  # noted when it runs, as close() waits for it
            self._thread = thread
        elif self._loop is not None and self._wake is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    # In the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:  # no descriptor for its loop, for one
            logger.warning("mdns: stopped, so nobody is found by it: %s; use static peers meanwhile", error)
        except Exception:
            logger.exception("mdns: stopped by an error; please report it, and use static peers meanwhile")

    async def _serve(self) -> None:
        wake = asyncio.Event()
        wake.set()  # for what was asked before the loop ran
        with self._lock:
            self._loop, self._wake = asyncio.get_running_loop(), wake
        try:
            zeroconf = await self._open()
            if zeroconf is None:
                return
            try:
                await self._turn_until_closed(zeroconf, wake)
            finally:
                await self._shut(zeroconf)
        finally:
            with self._lock:
                self._loop = self._wake = None

    async def _open(self) -> AsyncZeroconf | None:
        """Open the first interfaces that work: the chosen ones, all, loopback; None after a warning."""
        from zeroconf import InterfaceChoice

        ladder: list[list[str] | InterfaceChoice] = [self._interfaces]
        if not all(ipaddress.ip_address(address).is_loopback for address in self._addresses):
            # On all interfaces a loopback address would be told to other machines, where it means somebody else.
            ladder.append(InterfaceChoice.All)
        if self._interfaces != ["127.0.0.1"]:
            ladder.append(["127.0.0.1"])
        problems: list[str] = []
        for interfaces in ladder:
            opened = await self._open_on(interfaces, problems)
            if opened is not None:
                if problems:
                    logger.warning(
                        "mdns: uses %s only, since %s; check interfaces=", _shown(interfaces), "; ".join(problems)
                    )
                return opened
        logger.warning(
            "mdns: no multicast here, so nobody is found by it: %s; use peers= or PEERFABRIC_PEERS", "; ".join(problems)
        )
        return None

    async def _open_on(self, interfaces: list[str] | InterfaceChoice, problems: list[str]) -> AsyncZeroconf | None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncZeroconf

        try:
            opened = AsyncZeroconf(interfaces=interfaces)
        except (OSError, RuntimeError, ValueError, Error) as error:
            problems.append(f"{_shown(interfaces)}: {error}")
            return None
        try:
            await opened.zeroconf.async_wait_for_start(_START_TIMEOUT)
            # An interface that is not there is skipped without an error; with none left nothing would be sent.
            if opened.zeroconf.engine.senders:
                return opened
            problems.append(f"{_shown(interfaces)}: no such interface, or it has no multicast")
        except Error as error:
            problems.append(f"{_shown(interfaces)}: {error!r}")
        await opened.async_close()
        return None

    async def _turn_until_closed(self, zeroconf: AsyncZeroconf, wake: asyncio.Event) -> None:
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser

        while True:
            await wake.wait()
            wake.clear()
            with self._lock:
                closed, report, wanted = self._closed, self._report, self._wanted
            if closed:
                return
            if wanted is not None and wanted != self._announced:
                await self._advertise(zeroconf, wanted)
                self._announced = wanted
            if report is not None and self._browser is None:
                # Answers by multicast: one by unicast, which zeroconf asks for first, reaches only one of the
                # processes that share port 5353 on a host, any of them, and the next question follows after 1 s.
                self._browser = AsyncServiceBrowser(
                    zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=DNSQuestionType.QM
                )

    async def _shut(self, zeroconf: AsyncZeroconf) -> None:
        if self._browser is not None:
            await self._browser.async_cancel()
        # A broadcast that is still under way would announce us again after the goodbye.
        for task in (*self._broadcasts, *self._resolving.values()):
            task.cancel()
        await zeroconf.async_close()

    async def _advertise(self, zeroconf: AsyncZeroconf, announcement: Announcement) -> None:
        info = service_info(announcement, self._addresses)
        old, self._info = self._info, info
        if old is not None and (info is None or info.name != old.name):
            self._keep(await zeroconf.async_unregister_service(old))
            old = None
        if info is None:
            logger.warning("mdns: the node has no tcp endpoint to announce; listen on tcp to be found")
        elif old is not None:
            self._keep(await zeroconf.async_update_service(info))
        else:
            # The name is unique by construction, so there is nothing to probe for, which would take 1.5 s.
            self._keep(await zeroconf.async_register_service(info, cooperating_responders=True))

    def _keep(self, broadcast: Any) -> None:
        # The loop itself holds tasks weakly. Each sends three packets over half a second; nobody waits for them.
        self._broadcasts.add(broadcast)
        broadcast.add_done_callback(self._broadcasts.discard)

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if self._info is not None and name == self._info.name:
            return
        if state_change is ServiceStateChange.Removed:
            self._remove(name)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._add(info)
        elif name not in self._resolving and len(self._resolving) < _RESOLVING_MAX:
            self._resolving[name] = asyncio.get_running_loop().create_task(self._resolve(zeroconf, info))

    async def _resolve(self, zeroconf: Zeroconf, info: Any) -> None:
        from zeroconf import DNSQuestionType

        try:
            if await info.async_request(zeroconf, _RESOLVE_TIMEOUT * 1000, DNSQuestionType.QM):
                self._add(info)
        finally:
            self._resolving.pop(info.name, None)

    def _add(self, info: ServiceInfo) -> None:
        try:
            announcement = announcement_of(info, self._fabric)
        except (ValueError, KeyError) as error:
            logger.debug("mdns: %s is skipped: %s", info.name, error)
            return
        old = self._instances.get(info.name)
        if announcement == old or (old is None and len(self._instances) >= INSTANCES_MAX):
            return
        self._instances[info.name] = announcement
        self._tell(Sighting(seen=announcement, source=self.name))

    def _remove(self, name: str) -> None:
        resolving = self._resolving.get(name)
        if resolving is not None:
            resolving.cancel()
        announcement = self._instances.pop(name, None)
        if announcement is None:
            return
        # Each life is an instance of its own: the goodbye of one says nothing about the next.
        if all(other.node_id != announcement.node_id for other in self._instances.values()):
            self._tell(Lost(node_id=announcement.node_id, source=self.name))

    def _tell(self, event: Sighting | Lost) -> None:
        with self._lock:
            report = None if self._closed else self._report
        if report is not None:
            report(event)


def service_info(announcement: Announcement, addresses: list[str]) -> ServiceInfo | None:
    """Return the service instance for a node, or None if it has no tcp inbox.

    The instance is named by a hash of node id and epoch, which is unique; the name for people is in the TXT record:

        v=1 id=NODE_ID epoch=N fabric=NAME name=NAME host=HOST_ID in=PORT,PORT out=PORT,PORT
    """
    from zeroconf import ServiceInfo

    inbox, outbox = _tcp_ports(announcement.inbox), _tcp_ports(announcement.outbox)
    if not inbox:
        return None
    key = hashlib.blake2b(f"{announcement.node_id} {announcement.epoch}".encode(), digest_size=10).hexdigest()
    return ServiceInfo(
        SERVICE_TYPE,
        f"{key}.{SERVICE_TYPE}",
        port=inbox[0],
        parsed_addresses=addresses,
        server=f"{key}.local.",
        properties={
            "v": TXT_VERSION,
            "id": announcement.node_id,
            "epoch": str(announcement.epoch),
            "fabric": _fabric_label(announcement.fabric),
            "name": announcement.name.encode()[:_LABEL_BYTES_MAX].decode(errors="ignore"),
            "host": announcement.host,
            "in": ",".join(map(str, inbox)),
            "out": ",".join(map(str, outbox)),
        },
    )


def announcement_of(info: ServiceInfo, our_fabric: str) -> Announcement:
    """Return what the records of a service instance say.

    Raises:
        KeyError, ValueError: They are not those of a node of this version. (`msgspec.ValidationError` is a ValueError.)
    """
    text = {key: value or "" for key, value in info.decoded_properties.items()}
    if text["v"] != TXT_VERSION:
        raise ValueError(f"version {text['v']!r}")
    hosts = [f"[{address}]" if ":" in address else address for address in info.parsed_scoped_addresses()]
    return msgspec.convert(
        {
            "node_id": text["id"],
            "epoch": int(text["epoch"]),
            "name": text["name"],
            "fabric": our_fabric if text["fabric"] == _fabric_label(our_fabric) else text["fabric"],
            "host": text["host"],
            "inbox": _endpoints(hosts, text["in"]),
            "outbox": _endpoints(hosts, text["out"]),
        },
        Announcement,
    )


def _tcp_ports(endpoints: tuple[str, ...]) -> list[int]:
    ports = dict.fromkeys(int(one.rpartition(":")[2]) for one in endpoints if one.startswith("tcp://"))
    return list(ports)[:_PORTS_MAX]


def _endpoints(hosts: list[str], ports: str) -> tuple[str, ...]:
    numbers = [int(port) for port in ports.split(",") if port][:_PORTS_MAX]
    if not all(1 <= number <= 65535 for number in numbers):
        raise ValueError(f"ports {ports!r}")
    return tuple(f"tcp://{host}:{number}" for host in hosts for number in numbers)[:ENDPOINTS_MAX]


def _fabric_label(fabric: str) -> str:
    # '~' cannot be in a name, so a hash is never taken for one.
    if len(fabric.encode()) <= _LABEL_BYTES_MAX:
        return fabric
    return "~" + hashlib.blake2b(fabric.encode(), digest_size=10).hexdigest()


def _shown(interfaces: object) -> str:
    return ", ".join(interfaces) if isinstance(interfaces, list) else "all interfaces"
