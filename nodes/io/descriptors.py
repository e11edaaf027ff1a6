"""Descriptors of this process: how many there may be, what nodes need of them, and whether enough are free.

libzmq ends the process when it accepts a connection over ipc, or makes a context, with none left. So nodes look before
they take, leave a reserve to the rest of the process, and let nobody in while it is touched (`Sockets`).
"""

from __future__ import annotations

import logging
import os
import resource
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.remarks import remark
from peerfabric.discovery.reminder import Reminders
from peerfabric.errors import ConfigError
from peerfabric.nodes.platform import DESCRIPTORS, PORTABLE

RESERVE: Final = 64
"""With fewer free a node lets no new peer in and dials nobody. So many connections could be accepted between two looks
of all nodes of the process, which come every `LOOK_EVERY` seconds."""

ENOUGH: Final = 128
"""From so many on it does so again."""

ROOMY: Final = 1024
"""From so many on they will not be gone before the next look, however long that takes."""

FILES_RESERVE: Final = 24
"""With fewer free no new file of a spool or a ledger is opened. Storing goes on for longer than meeting peers."""

NODE: Final = 24
"""What a node takes when it starts: 15, with a spool 2 more; the rest is for what it opens for a moment."""

PER_WIRE: Final = 5
"""A PUSH and both ends of its monitor, then a connection, whose other end may be in this process, too."""
PENDING: Final = 2
"""Of these, what ZeroMQ's thread opens some time after we have dialled."""

PER_LEDGER: Final = 2

_FDS_PER_PEER: Final = 7  # mailboxes of a PUSH and both ends of its monitor, and a connection each way for both kinds
_FDS_OTHER: Final = 256  # what ZeroMQ, the interpreter, a spool and a modest application hold besides
_PEERS_MIN: Final = 64
_EXPOSED_MIN: Final = 16_384
_EXPOSED_MAX: Final = 1 << 20

STEP: Final = "raise `ulimit -n`, or close what is open"

_OPEN: Final = DESCRIPTORS


class Table:
    """The table of descriptors of this process, from which all of its nodes take. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._promised = 0
        """What ZeroMQ's threads will open for connections that were asked for."""
        self._top = select.poll()
        self._watched = range(0)
        self._complaints = Reminders()
        self._complained = False

    def has(self, count: int) -> bool:
        """Whether at least `count` are free, beyond those that are promised. Takes 3 us."""
        count += self._promised
        limit = _limit()
        used = 0 if PORTABLE else os.stat(_OPEN).st_size  # their number, since Linux 6.2; 0 before
        if used:
            return limit - used >= count
        # The kernel gives out the lowest free number, so those at the end of the table are mostly free.
        return self._are_closed(range(max(0, limit - count), limit)) or limit - _count() >= count

    @contextmanager
    def taking(self, count: int, keep: int) -> Iterator[bool]:
        """Whether `count` can be opened in this block so that `keep` are left. Nobody else takes any meanwhile."""
        with self._lock:
            yield self.has(count + keep)

    def promise(self, count: int) -> None:
        """So many more are going to be opened; fewer, if `count` is negative, as they are open by now."""
        with self._lock:
            self._promised += count

    def complain(self, now: float) -> None:
        """Say what a shortage means, for all nodes of the process: at once, then at doubling intervals."""
        with self._lock:
            if not self._complaints.due("short", now):
                return
            self._complained = True
        _log.error(
            "%s: until %d are free again nodes let no new peer in and dial nobody, what is connected goes on; %s",
            shortage(),
            ENOUGH,
            STEP,
        )

    def is_over(self) -> None:
        """There are enough again."""
        if self._complained:
            self._complained = False
            _log.warning("there are free descriptors again: nodes let peers in, and dial those whom they have not met")

    def forked(self) -> None:
        """In a child process, where nothing is promised and nobody has the lock."""
        self.__init__()  # type: ignore[misc]

    def _are_closed(self, numbers: range) -> bool:
        if numbers != self._watched:
            self._top = select.poll()
            for number in numbers:
                self._top.register(number, 0)
            self._watched = numbers
        return sum(1 for _, event in self._top.poll(0) if event & select.POLLNVAL) == len(numbers)


table: Final = Table()
os.register_at_fork(after_in_child=table.forked)


def shortage() -> str:
    """How many descriptors there may be, and are."""
    return f"{_count()} of the {_limit()} descriptors of this process are open"


def check(count: int, what: str) -> None:
    """See that `count` descriptors for `what` can be opened and the reserve stays.

    Raises:
        ConfigError: There are too few.
    """
    if not table.has(count + RESERVE):
        raise too_few(count, what)


def too_few(count: int, what: str) -> ConfigError:
    return ConfigError(f"{what} needs {count} descriptors and leaves {RESERVE} to others, but {shortage()}; {STEP}")


def raise_descriptor_limit(peers_max: int, *, exposed: bool = False) -> None:
    """Raise the limit of open descriptors as far as `peers_max` peers need and the system allows.

    `exposed`: strangers may connect, too, and keep a descriptor each for a second, so it is raised as far as it goes.
    """
    wanted, least = (_FDS_OTHER + _FDS_PER_PEER * peers for peers in (peers_max, min(peers_max, _PEERS_MIN)))
    soft, hard = (
        float("inf") if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if hard < least:
        raise ConfigError(f"this process may open {hard} descriptors and needs {least}; raise `ulimit -Hn`")
    aim = max(wanted, min(hard, _EXPOSED_MAX)) if exposed else wanted
    if soft < aim:
        soft = min(aim, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if soft < wanted:
        remark(
            logging.WARNING,
            "%d descriptors are enough for %d peers, not for peers_max=%d; raise `ulimit -Hn`",
            soft,
            (soft - _FDS_OTHER) // _FDS_PER_PEER,
            peers_max,
        )
    elif exposed and soft < _EXPOSED_MIN:
        remark(
            logging.WARNING,
            "%d descriptors are few where strangers can connect, who keep one each for a second; raise `ulimit -Hn` to "
            "%d, and limit the connections of one source by the firewall",
            soft,
            _EXPOSED_MIN,
        )


def _limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return int(soft) if soft != resource.RLIM_INFINITY else 1 << 30


def _count() -> int:
    try:
        return len(os.listdir(_OPEN)) - 1  # one of them is that of the folder
    except OSError:
        return _limit()  # not even that one could be opened
