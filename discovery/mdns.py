"""Multicast DNS backend: nodes of one network find each other, with python-zeroconf.

It is a hint and no more: a killed node stays in caches for more than an hour, anybody can forge a record or a goodbye,
and many networks pass no multicast. All of it runs on an event loop in a thread of its own, and `zeroconf` is imported
there. Of a service instance only the TXT record is read (`peerfabric.discovery.txt`); addresses and ports elsewhere are
for other programs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peerfabric.discovery.base import AnnounceKey, Announcement, Event, Lost, Report, Sighting
from peerfabric.discovery.locks import Lock, OwnThread
from peerfabric.discovery.log import log
from peerfabric.discovery.reminder import Reminders
from peerfabric.discovery.txt import (
    CLEAR,
    NotARecord,
    OtherVersion,
    Record,
    fabric_tag,
    instance_label,
    read_txt,
    tcp_addresses,
    tcp_ports,
    write_txt,
)

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

SERVICE_TYPE: Final = "_peerfabric._tcp.local."

INSTANCES_MAX: Final = 2000
"""Instances that are remembered, ours and, apart from them, strange ones: what fits into zeroconf's cache of 10,000
records, at five each. Others are not seen."""

_LATEST_MAX: Final = 4096
"""Nodes of which the newest news is remembered, so that older is not taken for it."""

_RECORDS_MAX: Final = 8
"""TXT records of one instance that are looked at: there are two while one replaces the other."""

_ASK_AFTER: Final = 0.2
"""Seconds until an instance is asked for its TXT record, which as a rule comes by itself within 10 ms."""

_ASKED_MAX: Final = 64
"""Instances asked for at once, in one packet or two."""

_ASKED_TIMES: Final = 3
_ADVERTISE_EVERY: Final = 1.0
"""Seconds between two changes of what is announced, each of which is three packets to everybody. The first is at once;
a node that opens a thousand queues changes its digest as often."""

_OPEN_AGAIN: Final = 30.0
"""Seconds until multicast that did not work is tried again."""

_CONFIRM_WITHIN: Final = 10.0
"""Seconds in which the instances of before are seen once more after all was opened anew; the others are gone."""

_TELL_AFTER: Final = 0.5
"""Seconds until strangers are told of: a node that changes its secret is announced under one of ours, too."""

_TOLD_MAX: Final = 16
"""Key ids that are told of; anybody can make up more."""

_START_TIMEOUT: Final = 2.0
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds that `close` waits for its thread; three goodbyes take a quarter of a second."""

_LOOPBACK: Final = ["127.0.0.1"]


class Strangers(msgspec.Struct, frozen=True, kw_only=True):
    """Instances of the service that are none of our peers, now; and news that was not taken, since the start."""

    keys: dict[str, int]
    """Key id -> instances that have another secret or fabric; `-` in the clear."""
    versions: int
    """Instances of other versions of this protocol."""
    forged: int
    """Instances with our key id and a proof that is wrong."""
    unreadable: int
    old_news: int
    over_limit: int


class MdnsBackend:
    """Announces a service instance for each secret, and browses for those of others."""

    name: Final = "mdns"

    def __init__(
        self,
        fabric: str,
        *,
        reach: str = "host",
        keys: Sequence[AnnounceKey] = (),
        interfaces: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """Nothing is opened or imported before the first `announce` or `watch`.

        Args:
            fabric: Our fabric.
            reach: "host" for loopback only.
            keys: Of the fabric's secrets; none in the clear.
            interfaces: Gives the numeric addresses of the interfaces to use, whenever the node is announced; None means
                those that it announces.
        """
        self._fabric, self._reach, self._interfaces = fabric, reach, interfaces
        self._process = os.getpid()
        self._lock = Lock()  # guards the eight below, which callers and our thread share
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._keys = tuple(keys)
        self._wanted: Announcement | None = None
        self._report: Report | None = None
        self._paused = False
        self._closed = False
        # The rest belongs to the thread.
        self._announced: tuple[Announcement, tuple[AnnounceKey, ...]] | None = None
        self._opened: list[str] = []
        """Interfaces that are in use."""
        self._infos: dict[str, ServiceInfo] = {}  # by name
        self._browser: AsyncServiceBrowser | None = None
        self._browses: tuple[AnnounceKey, ...] = ()
        """What proves the records that are taken; changes are browsed for anew."""
        self._instances: dict[str, tuple[str, str]] = {}
        """Name -> (key id, node id) of those that were reported."""
        self._unconfirmed: set[str] = set()
        self._latest: dict[str, tuple[int, int, Announcement]] = {}
        """Node id -> epoch, version and content of the newest news, oldest entry first."""
        self._strangers: dict[str, str] = {}
        """Name -> its key id, or one of the words below."""
        self._astray: dict[str, str] = {}
        """Node id -> key id of strangers that are still to be told of."""
        self._told: set[str] = set()
        self._unresolved: dict[str, int] = {}
        """Name -> how often it was asked for its TXT record."""
        self._asks: asyncio.TimerHandle | None = None
        self._old_news = self._over_limit = 0
        self._advertise_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._broadcasts: dict[str, asyncio.Future[Any]] = {}
        """Name -> the packets of its newest announcement, some of which are still to be sent."""
        self._reminders = Reminders()

    def announce(self, announcement: Announcement) -> None:
        """Announce the tcp endpoints, in the background. Needs some tenths of a second until all have heard it.

        A change is taken by others only with a larger `version`.
        """
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

    def rekey(self, keys: Sequence[AnnounceKey]) -> None:
        """Other secrets from now on: announce under them, and take the announcements that they prove."""
        if self._is_forked():
            return
        with self._lock:
            self._keys = tuple(keys)
            self._wake_locked(start=False)

    def pause(self, paused: bool) -> None:
        """Browse for nobody new, or go on; who was found stays. We are announced all the same."""
        if self._is_forked() or paused == self._paused:
            return
        with self._lock:
            self._paused = paused
            self._wake_locked(start=False)

    def strangers(self) -> Strangers:
        """Who else announces this service. Any thread."""
        counted = Counter(list(self._strangers.values()))
        return Strangers(
            versions=counted.pop("version", 0),
            forged=counted.pop("forged", 0),
            unreadable=counted.pop("unreadable", 0),
            keys=dict(counted),
            old_news=self._old_news,
            over_limit=self._over_limit,
        )

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

    def _wake_locked(self, *, start: bool = True) -> None:
        if self._thread is None and start and not self._closed:
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
            log.warning("mdns: stopped, so nobody is found by it: %s; use static peers meanwhile", error)
        except Exception:
            log.exception("mdns: stopped by an error; please report it, and use static peers meanwhile")

    async def _serve(self) -> None:
        wake = asyncio.Event()
        wake.set()  # for what was asked before the loop ran
        with self._lock:
            self._loop, self._wake = asyncio.get_running_loop(), wake
        try:
            while not self._closed:
                zeroconf = await self._open()
                if zeroconf is None:
                    await _wait(wake, _OPEN_AGAIN)
                    continue
                wake.set()
                try:
                    await self._turn_until_closed(zeroconf, wake)
                except OSError as error:  # the interface went while we changed over to it
                    log.debug("mdns: opened anew: %s", error)
                    await _wait(wake, 1.0)
                finally:
                    await self._shut(zeroconf)
        finally:
            with self._lock:
                self._loop = self._wake = None

    def _wanted_interfaces(self) -> list[str]:
        """Addresses of the interfaces to use now; loopback if there are no others."""
        if self._reach == "host":
            return _LOOPBACK
        wanted = self._wanted
        if self._interfaces is not None:
            chosen = list(self._interfaces())
        else:
            chosen = tcp_addresses(wanted.inbox) if wanted is not None else []
        chosen = [each for each in dict.fromkeys(chosen) if not ipaddress.ip_address(each).is_loopback]
        return chosen or _LOOPBACK

    async def _open(self) -> AsyncZeroconf | None:
        """Open the first that work: the interfaces wanted, those of them that do, loopback; None after a warning."""
        wanted = self._wanted_interfaces()
        problems: list[str] = []
        ladder = [wanted]
        for step in ([each for each in wanted if ":" not in each], *([each] for each in wanted), _LOOPBACK):
            if step and step not in ladder:
                ladder.append(step)
        for interfaces in ladder:
            opened = await self._open_on(interfaces, problems)
            if opened is not None:
                # A part of them may be all there is; loopback alone finds nobody, so the others are tried again.
                self._opened = wanted if interfaces != _LOOPBACK else interfaces
                if problems and self._reminders.due("partly", asyncio.get_running_loop().time()):
                    log.warning(
                        "mdns: uses %s only, since %s; check interfaces=", ", ".join(interfaces), "; ".join(problems)
                    )
                return opened
        if self._reminders.due("nothing", asyncio.get_running_loop().time()):
            log.warning(
                "mdns: no multicast here, so nobody is found by it: %s; use peers= or PEERFABRIC_PEERS",
                "; ".join(problems),
            )
        return None

    async def _open_on(self, interfaces: list[str], problems: list[str]) -> AsyncZeroconf | None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncZeroconf

        shown = ", ".join(interfaces)
        try:
            opened = AsyncZeroconf(interfaces=list(interfaces))
        except (OSError, RuntimeError, ValueError, Error) as error:
            problems.append(f"{shown}: {error}")
            return None
        try:
            await opened.zeroconf.async_wait_for_start(_START_TIMEOUT)
            # An interface that is not there is skipped without an error; with none left nothing would be sent.
            if opened.zeroconf.engine.senders:
                return opened
            problems.append(f"{shown}: no such interface, or it has no multicast")
        except Error as error:
            problems.append(f"{shown}: {error!r}")
        await opened.async_close()
        return None

    async def _turn_until_closed(self, zeroconf: AsyncZeroconf, wake: asyncio.Event) -> None:
        """Raises `OSError` if all is to be opened anew."""
        while True:
            await _wait(wake, _OPEN_AGAIN if self._opened == _LOOPBACK and self._reach != "host" else None)
            wake.clear()
            with self._lock:
                report, wanted, keys, paused = self._report, self._wanted, self._keys, self._paused
            if self._closed:
                return
            await self._use(zeroconf, self._wanted_interfaces())
            if wanted is not None and (wanted, keys) != self._announced and self._is_time_to_advertise(wake):
                await self._advertise(zeroconf, wanted, keys)
                self._announced = (wanted, keys)
            if self._browser is not None and (paused or keys != self._browses):
                await self._browser.async_cancel()
                self._browser = None
            if report is not None and self._browser is None and not paused:
                self._browse(zeroconf, keys)

    async def _use(self, zeroconf: AsyncZeroconf, interfaces: list[str]) -> None:
        """Change over to these interfaces. Raises `OSError` if that leaves none."""
        if interfaces == self._opened:
            return
        from zeroconf import Error

        fallback = _LOOPBACK if self._opened == _LOOPBACK else []  # stays until there is something better
        try:
            await zeroconf.async_update_interfaces(interfaces=[*interfaces, *fallback])
        except (OSError, RuntimeError, ValueError, Error) as error:
            if fallback:
                return  # tried again in a while
            raise OSError(str(error)) from error
        senders = len(zeroconf.zeroconf.engine.senders)
        if not senders:
            raise OSError("no interface is left")
        if senders > len(fallback):
            self._opened = interfaces

    async def _shut(self, zeroconf: AsyncZeroconf) -> None:
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._asks is not None:
            self._asks.cancel()
            self._asks = None
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._advertise_at = 0.0
        self._unconfirmed = set(self._instances)
        # A broadcast that is still under way would announce us again after the goodbye.
        for task in self._broadcasts.values():
            task.cancel()
        self._infos.clear()
        self._announced = None
        self._unresolved.clear()
        await zeroconf.async_close()

    # Announcing

    def _is_time_to_advertise(self, wake: asyncio.Event) -> bool:
        """Whether it may be done now; if not, we are woken when it may."""
        loop = asyncio.get_running_loop()
        if self._later is not None:
            return False
        wait = self._advertise_at - loop.time()
        if wait <= 0:
            self._advertise_at = loop.time() + _ADVERTISE_EVERY
            return True

        def ring() -> None:
            self._later = None
            wake.set()

        self._later = loop.call_later(wait, ring)
        return False

    async def _advertise(
        self, zeroconf: AsyncZeroconf, announcement: Announcement, keys: tuple[AnnounceKey, ...]
    ) -> None:
        infos = {}
        for key in keys or (None,):
            info = service_info(announcement, key, reach=self._reach)
            if info is not None:
                infos[info.name] = info
        if not infos and self._reminders.due("no address", asyncio.get_running_loop().time()):
            step = "listen on tcp to be found" if self._reach == "host" else "see interfaces= and advertise="
            log.warning("mdns: the node has no tcp endpoint to announce; %s", step)
        old, self._infos = self._infos, infos
        for name, info in infos.items():
            if name in old:
                self._keep(name, await zeroconf.async_update_service(info))
            else:
                # The name is unique by construction, so there is nothing to probe for, which would take 1.5 s.
                self._keep(name, await zeroconf.async_register_service(info, cooperating_responders=True))
        for name, info in old.items():
            if name not in infos:  # last, so that others see one that stays before they hear of one that goes
                self._keep(name, await zeroconf.async_unregister_service(info))

    def _keep(self, name: str, broadcast: Any) -> None:
        # The loop itself holds tasks weakly. Each sends three packets over half a second; nobody waits for them. What
        # is left of the one before would take back what this one says.
        before = self._broadcasts.get(name)
        if before is not None:
            before.cancel()
        self._broadcasts[name] = broadcast
        broadcast.add_done_callback(lambda done: self._broadcasts.get(name) is done and self._broadcasts.pop(name))

    # Browsing

    def _browse(self, zeroconf: AsyncZeroconf, keys: tuple[AnnounceKey, ...]) -> None:
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser

        if keys != self._browses:
            self._strangers.clear()
            kept = {key.key_id for key in keys} or {CLEAR}
            for name in [name for name, (key_id, _) in self._instances.items() if key_id not in kept]:
                self._remove(name)
            self._browses = keys
        # Answers by multicast: one by unicast, which zeroconf asks for first, reaches only one of the
        # processes that share port 5353 on a host, any of them, and the next question follows after 1 s.
        self._browser = AsyncServiceBrowser(
            zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )
        if self._unconfirmed:
            asyncio.get_running_loop().call_later(_CONFIRM_WITHIN, self._drop_unconfirmed)

    def _drop_unconfirmed(self) -> None:
        if self._browser is not None:
            for name in sorted(self._unconfirmed):
                self._remove(name)
            self._unconfirmed.clear()

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange

        if name in self._infos:
            return
        if state_change is ServiceStateChange.Removed:
            self._remove(name)
        elif not self._read(zeroconf, name) and len(self._unresolved) < INSTANCES_MAX:
            self._unresolved.setdefault(name, 0)
            self._ask_later(zeroconf)

    def _read(self, zeroconf: Zeroconf, name: str) -> bool:
        """Take what the TXT records of an instance say; whether there are any."""
        from zeroconf.const import _CLASS_IN, _TYPE_TXT

        records = zeroconf.cache.async_all_by_details(name, _TYPE_TXT, _CLASS_IN)
        for record in records[-_RECORDS_MAX:]:
            self._take(name, getattr(record, "text", b""))
        if records:
            self._unresolved.pop(name, None)
        return bool(records)

    def _ask_later(self, zeroconf: Zeroconf) -> None:
        if self._asks is None and self._unresolved:
            wait = _ASK_AFTER if 0 in self._unresolved.values() else 1.0
            self._asks = asyncio.get_running_loop().call_later(wait, self._ask, zeroconf)

    def _ask(self, zeroconf: Zeroconf) -> None:
        """Ask for the TXT records that did not come by themselves."""
        from zeroconf._dns import DNSQuestion  # not exported, and what public methods take
        from zeroconf._protocol.outgoing import DNSOutgoing
        from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_TXT

        self._asks = None
        out = DNSOutgoing(_FLAGS_QR_QUERY)
        for name, times in list(self._unresolved.items())[:_ASKED_MAX]:
            del self._unresolved[name]
            if not self._read(zeroconf, name) and times < _ASKED_TIMES:
                out.add_question(DNSQuestion(name, _TYPE_TXT, _CLASS_IN))
                self._unresolved[name] = times + 1  # the last in turn
        if out.questions:
            zeroconf.async_send(out)
        self._ask_later(zeroconf)

    def _take(self, name: str, text: bytes) -> None:
        try:
            record = read_txt(text, self._fabric)
        except OtherVersion:
            self._note_stranger(name, "version")
            return
        except NotARecord as error:
            log.debug("mdns: %s is skipped: %s", name, error)
            self._note_stranger(name, "unreadable")
            return
        if name != f"{instance_label(record.announcement, record.key_id)}.{SERVICE_TYPE}":
            self._note_stranger(name, "unreadable")
            return
        strange = self._judge(record)
        if strange:
            self._note_stranger(name, strange)
            if strange == record.key_id and self._browses and self._reach != "host":
                self._tell_later(record.announcement.node_id, strange)
            return
        self._strangers.pop(name, None)
        self._take_news(name, record)

    def _judge(self, record: Record) -> str:
        """Why a record is none of a peer's, for `_strangers`; "" if it may be."""
        if record.key_id == CLEAR:
            ours = not self._browses and record.fabric_tag in ("", fabric_tag(self._fabric))
            return "" if ours else CLEAR
        key = next((key for key in self._browses if key.key_id == record.key_id), None)
        if key is None:
            return record.key_id
        return "" if record.is_proven_by(key) else "forged"

    def _note_stranger(self, name: str, kind: str) -> None:
        if name in self._instances:
            return  # another record of the same name is a peer's
        if name in self._strangers or len(self._strangers) < INSTANCES_MAX:
            self._strangers[name] = kind
        else:
            self._over_limit += 1

    def _tell_later(self, node_id: str, key_id: str) -> None:
        """A node of this network has another secret or none, which is often a mistake: say so, once for each."""
        if key_id in self._told or len(self._told) >= _TOLD_MAX or len(self._astray) >= _TOLD_MAX:
            return
        if not self._astray:
            asyncio.get_running_loop().call_later(_TELL_AFTER, self._tell_of_strangers)
        self._astray[node_id] = key_id

    def _tell_of_strangers(self) -> None:
        ours = {node_id for _, node_id in self._instances.values()}
        found = {key_id for node_id, key_id in self._astray.items() if node_id not in ours}
        self._astray.clear()
        if found and self._reminders.due("strangers", asyncio.get_running_loop().time()):
            self._told |= found
            log.warning(
                "mdns: nodes here have another secret or another fabric: key id %s, and this one has %s; "
                "if they should meet, ask `peerfabric doctor`",
                ", ".join("none, in the clear" if each == CLEAR else each for each in sorted(found)),
                ", ".join(key.key_id for key in self._browses),
            )

    def _take_news(self, name: str, record: Record) -> None:
        announcement = record.announcement
        node_id = announcement.node_id
        age = (announcement.epoch, announcement.version)
        epoch, version, content = self._latest.get(node_id, (-1, -1, None))
        seen = any(node_id == other for _, other in self._instances.values()) if age == (epoch, version) else False
        if age < (epoch, version) or (age == (epoch, version) and announcement != content):
            self._old_news += 1
            return
        if name not in self._instances and len(self._instances) >= INSTANCES_MAX:
            self._over_limit += 1
            return
        self._instances[name] = (record.key_id, node_id)
        self._unconfirmed.discard(name)
        if age == (epoch, version) and seen:
            return  # the same under another secret, or once more
        self._latest.pop(node_id, None)
        self._latest[node_id] = (*age, announcement)
        if len(self._latest) > _LATEST_MAX:
            del self._latest[next(iter(self._latest))]
        self._tell(Sighting(seen=announcement, source=self.name))

    def _remove(self, name: str) -> None:
        """An instance is not announced any more, if that is true: a goodbye can be forged."""
        self._unresolved.pop(name, None)
        self._strangers.pop(name, None)
        self._unconfirmed.discard(name)
        _, node_id = self._instances.pop(name, ("", ""))
        # Each life, and each secret, is an instance of its own: the goodbye of one says nothing about the others.
        if node_id and all(other != node_id for _, other in self._instances.values()):
            self._tell(Lost(node_id=node_id, source=self.name))

    def _tell(self, event: Event) -> None:
        with self._lock:
            report = None if self._closed else self._report
        if report is not None:
            report(event)


def service_info(announcement: Announcement, key: AnnounceKey | None, *, reach: str) -> ServiceInfo | None:
    """Return the service instance of a node under one of its secrets, None: in the clear.

    None if there is nothing to announce: a tcp inbox at an address that others can use.
    """
    from zeroconf import ServiceInfo

    addresses = [
        each
        for each in tcp_addresses(announcement.inbox)
        if ipaddress.ip_address(each).is_loopback == (reach == "host")
    ]
    text = write_txt(announcement, key, addresses)
    if text is None:
        return None
    label = instance_label(announcement, key.key_id if key is not None else CLEAR)
    return ServiceInfo(
        SERVICE_TYPE,
        f"{label}.{SERVICE_TYPE}",
        port=tcp_ports(announcement.inbox)[0],
        parsed_addresses=addresses,
        server=f"{label}.local.",
        properties=text,
    )


async def _wait(wake: asyncio.Event, seconds: float | None) -> None:
    """Until it is set, or the time is over, if there is one."""
    try:
        await asyncio.wait_for(wake.wait(), seconds)
    except TimeoutError:
        pass
