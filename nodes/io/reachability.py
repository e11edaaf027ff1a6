"""Reachability: whether others can still connect to a running node, and what is done if not.

Socket files are removed by cleaners of temporary files, and whole folders when a session ends. Whoever is connected
does not record; whoever comes later would not get in. So every second a node looks at its files, and listens again at
the same paths, where all who knew them find it. Only if nodes meet in another folder than before (`FabricFolder`), or
somebody else has taken a path of ours, does it listen at new ones, and tells everybody.

On a LAN the addresses of this host may change, too, under sockets that listen on all of them: then it tells everybody
the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peerfabric.discovery.host import RUNTIME_VARIABLE, FabricFolder, private_folder
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.reminder import Reminders
from peerfabric.errors import ConfigError
from peerfabric.nodes.io.listening import new_endpoints
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.io.waiting import clock
from peerfabric.wire.frames import Address

if TYPE_CHECKING:
    from peerfabric.nodes.io.ports import Announced

RETRY_FIRST, RETRY_MAX = 1.0, 30.0
"""Seconds until what failed is tried again, doubled each time."""

ADDRESSES_EVERY: Final = 5.0
"""Seconds between two looks at the addresses of this host."""

_IPC: Final = "ipc://"


class Reachability:
    """Looks after the socket files of one node, in the thread that owns `sockets`.

    Args:
        name: Of the node, for texts.
        address: Where it listens now.
        home: Where nodes meet, for a node that listens there; None if the user chose its endpoints.
        moved: Is called with the new address when it listens elsewhere.
        settled: Is called with the subnets of this host, at first and when they change.
        announced: Its endpoints on the LAN; None if it has none.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        sockets: Sockets,
        home: FabricFolder | None,
        moved: Callable[[Address], None],
        announced: Announced | None = None,
        settled: Callable[[Sequence[str]], None] = lambda subnets: None,
    ) -> None:
        self._name, self._address, self._sockets, self._home, self._moved = name, address, sockets, home, moved
        self._announced, self._settled = announced, settled
        self._subnets: Sequence[str] = ()
        if announced is not None:
            self._look_at_subnets(announced)
        self._addresses_at = inf if announced is None or announced.fixed else clock() + ADDRESSES_EVERY
        self._folder = self._folder_now()
        self._wait = 0.0
        self._look_at = clock()
        self._reminders = Reminders()

    def _folder_now(self) -> Path | None:
        """The folder of the socket files; None if there are none."""
        path = next((e.removeprefix(_IPC) for e in self._address.inbox if e.startswith(_IPC)), None)
        if path is None:
            return None
        return self._home.where() if self._home is not None else Path(path).absolute().parent

    def look(self) -> None:
        """Listen again where that is needed. What stands in the way is logged, and tried again."""
        now = clock()
        if self._announced is not None and now >= self._addresses_at:
            self._addresses_at = now + ADDRESSES_EVERY
            self._look_at_addresses(self._announced, now)
        if self._folder is None or now < self._look_at:
            return
        try:
            self._restore(self._folder, now)
        except (ConfigError, OSError) as error:
            self._wait = min(RETRY_MAX, 2 * self._wait) or RETRY_FIRST
            self._look_at = now + self._wait
            if self._reminders.due("failed", now):
                step = "" if isinstance(error, ConfigError) else "; make it accessible for this user again"
                _log.error(
                    "%s: nobody new can connect over ipc, those who are connected stay: %s%s", self._name, error, step
                )
        else:
            self._wait = 0.0

    def disconnected(self) -> None:
        """A connection was lost, maybe with an address of this host: look at them next time."""
        if self._addresses_at < inf:
            self._addresses_at = 0.0

    def rekey(self, key_ids: Sequence[str], home: FabricFolder) -> None:
        """Others are to come under these secrets from now on, and new nodes of this host meet in `home`."""
        if self._home is not None:
            self._home = home
            self._look_at = 0.0
        if self._announced is not None:
            self._announced.gates = tuple(key_ids)
            self._look_at_addresses(self._announced, clock())
        self.look()

    def _look_at_addresses(self, announced: Announced, now: float) -> None:
        try:
            inbox, outbox = announced.now()
        except OSError as error:
            if self._reminders.due("addresses", now):
                _log.warning("%s: the addresses of this host cannot be read, the old ones stay: %s", self._name, error)
            return
        self._look_at_subnets(announced)
        before = self._address
        inbox, outbox = [*_files(before.inbox), *inbox], [*_files(before.outbox), *outbox]
        if (inbox, outbox) == (before.inbox, before.outbox):
            return
        self._address = msgspec.structs.replace(before, inbox=inbox, outbox=outbox)
        _log.info("%s: others are told to reach it at %s now", self._name, ", ".join(inbox) or "no address")
        self._moved(self._address)

    def _look_at_subnets(self, announced: Announced) -> None:
        subnets = announced.subnets()
        if subnets != self._subnets:
            self._subnets = subnets
            self._settled(subnets)

    def _restore(self, folder: Path, now: float) -> None:
        home = self._home
        if home is not None and home.where() != folder:
            ended = not os.path.isdir(folder)
            self._move(home)
            if ended:
                self._warn(
                    now,
                    f"the folder {folder} is gone, as after a log-out; it listens in {self._folder} now, where new "
                    f"nodes look. To stay in one place use `loginctl enable-linger`, or set {RUNTIME_VARIABLE}",
                )
            else:
                _log.info("%s: new nodes look in %s; it listens there now", self._name, self._folder)
            return
        gone = self._sockets.gone()
        if gone:
            self._bind_again(folder, gone)
            other = f"set {RUNTIME_VARIABLE} to a folder that stays" if home is not None else "listen in another one"
            self._warn(
                now,
                f"its socket files were removed from {folder}; it listens there again. Keep cleaners of temporary "
                f"files away (for tmpfiles.d: a line `x {folder}`), or {other}",
            )

    def _bind_again(self, folder: Path, gone: list[str]) -> None:
        home = self._home
        if home is not None:
            home.make()
        elif not os.path.isdir(folder):
            private_folder(folder)
        try:
            for endpoint in gone:
                self._sockets.bind_again(endpoint)
        except ConfigError:
            if home is None:
                raise  # the user chose the path, and whoever is there now may have been meant to be
            self._move(home)

    def _move(self, home: FabricFolder) -> None:
        """Listen where new nodes look, under new names; TCP stays as it is."""
        before = self._address
        folder = home.make()
        inbox, outbox = new_endpoints(folder, before.node_id)
        try:
            (new_inbox,), (new_outbox,) = self._sockets.bind([inbox], [outbox])
        except ConfigError:
            self._sockets.leave(inbox)
            raise
        for endpoint in (*before.inbox, *before.outbox):
            self._sockets.leave(endpoint)
        self._folder = folder
        self._address = msgspec.structs.replace(
            before,
            inbox=[new_inbox, *_without_files(before.inbox)],
            outbox=[new_outbox, *_without_files(before.outbox)],
        )
        self._moved(self._address)

    def _warn(self, now: float, text: str) -> None:
        if self._reminders.due("removed", now):
            _log.warning("%s: %s", self._name, text)


def _files(endpoints: list[str]) -> list[str]:
    return [endpoint for endpoint in endpoints if endpoint.startswith(_IPC)]


def _without_files(endpoints: list[str]) -> list[str]:
    return [endpoint for endpoint in endpoints if not endpoint.startswith(_IPC)]
