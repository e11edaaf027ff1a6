"""Resolver of host names: one thread for all of them, so that no look-up keeps anything else waiting.

libzmq would resolve a name in its one I/O thread, where a name server that does not answer keeps every connection of
the process waiting for seconds. So it is given numeric endpoints only, and names are looked up here, again and again:
behind a name may be several nodes, and others tomorrow.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from peerfabric.discovery.base import Linked
from peerfabric.discovery.locks import Lock, OwnThread
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.reminder import Reminders

RESOLVE_EVERY: Final = 30.0
"""Seconds between two look-ups of a name of which somebody answers: orchestrators let records live about as long."""

RESOLVE_UNANSWERED: Final = 5.0
"""The same while nobody of it answers."""

ADDRESSES_MAX: Final = 64
"""Addresses taken of one name; more than fit into a DNS answer over UDP."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that `close` waits for the thread. A look-up cannot be interrupted: one that never returns is left alone."""


class Name(NamedTuple):
    """A host name and a port, as a user wrote them."""

    host: str
    port: int


LookUp = Callable[[str, int], list[str]]
"""Gives the numeric addresses of a name, waiting as long as that takes; raises `OSError` if there are none."""

Found = Callable[[Name, tuple[str, ...]], None]
"""Is told the endpoints of a name, all of them, when they differ from those that it was told before."""


class Resolver:
    """Looks names up, those of all who `follow` some. It has a thread from the first name on, until it is closed."""

    def __init__(self, look_up: LookUp | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.linked: Callable[[], list[Linked]] = list
        """Which peers are linked now: a name that leads to none of them is looked up more often."""
        self._look_up = look_up if look_up is not None else addresses_of
        self._clock = clock
        self._process = os.getpid()
        self._lock = Lock()  # guards the four below
        self._closed = False
        self._thread: threading.Thread | None = None
        self._following: list[tuple[Name, Found]] = []
        self._doorbell: SimpleQueue[None] = SimpleQueue()
        # The rest belongs to the thread.
        self._due: dict[Name, float] = {}
        self._endpoints: dict[Name, tuple[str, ...]] = {}
        self._told: dict[tuple[Name, Found], tuple[str, ...]] = {}
        self._reminders = Reminders()

    def follow(self, names: Iterable[Name], found: Found) -> None:
        """Tell `found`, in a thread of ours, what the names lead to, and each change of that."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._following += [(name, found) for name in names]
            if self._thread is None and self._following and not self._closed:
                thread = OwnThread(target=self._run, name="peerfabric-resolver", daemon=True)
                thread.start()
                self._thread = thread
        self._doorbell.put(None)

    def close(self) -> None:
        """Stop. Nothing is told afterwards; the thread ends at once, or when its look-up returns."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            thread = self._thread
        self._doorbell.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT)

    # In the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                following = list(self._following)
            wait = self._turn(following)
            with suppress(Empty):
                self._doorbell.get(timeout=wait)

    def _turn(self, following: list[tuple[Name, Found]]) -> float:
        """Look up what is due; return how long nothing will be."""
        names = dict.fromkeys(name for name, _ in following)
        for name in names:
            if self._closed:
                return 0.0
            if self._due.get(name, 0.0) <= self._clock():
                self._resolve(name)
            self._tell(name, following)
        return max(0.0, min((self._due[name] for name in names), default=RESOLVE_EVERY) - self._clock())

    def _resolve(self, name: Name) -> None:
        try:
            addresses = self._look_up(*name)
            if not addresses:
                raise OSError("it has no address")
        except (OSError, UnicodeError, ValueError) as error:
            # What was found before stays: a name server that is away says nothing of the nodes.
            if not self._closed and self._reminders.due(f"{name}", self._clock()):
                _log.log(
                    logging.WARNING,
                    "resolver: %s is not found: %s; it is tried again every %g s, correct it in peers= if it is wrong",
                    name.host,
                    error,
                    RESOLVE_UNANSWERED,
                )
            addresses = None
        if addresses:
            self._endpoints[name] = tuple(
                dict.fromkeys(endpoint_of(address, name.port) for address in addresses[:ADDRESSES_MAX])
            )
        self._due[name] = self._clock() + (RESOLVE_EVERY if self._is_answered(name) else RESOLVE_UNANSWERED)

    def _is_answered(self, name: Name) -> bool:
        endpoints = set(self._endpoints.get(name, ()))
        return any(peer.endpoint in endpoints or not endpoints.isdisjoint(peer.inbox) for peer in self.linked())

    def _tell(self, name: Name, following: list[tuple[Name, Found]]) -> None:
        endpoints = self._endpoints.get(name)
        if endpoints is None:
            return
        for each in following:
            if each[0] == name and self._told.get(each) != endpoints and not self._closed:
                self._told[each] = endpoints
                each[1](name, endpoints)


def addresses_of(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, by the resolver of the system, in its order.

    Raises:
        OSError: There are none, or nobody who knows answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


def endpoint_of(address: str, port: int) -> str:
    """The endpoint of a numeric address and a port."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def is_numeric(host: str) -> bool:
    """Whether `host`, without brackets, is an address; an IPv6 one may have a scope."""
    for family, text in ((socket.AF_INET, host), (socket.AF_INET6, host.partition("%")[0])):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False
