"""Keyed registry: the registry of a fabric with secrets, a folder for each of them.

While a fabric changes its secret, some of its nodes have the old one, some the new one, and some both. Those with both
are announced in both folders, and look in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peerfabric.discovery.base import AnnounceKey, Announcement, Event, Lost, Report, Sighting
from peerfabric.discovery.locks import Lock
from peerfabric.discovery.registry import REGISTRY, RegistryBackend


class KeyedRegistry:
    """Announces a node in the folder of each secret, and watches them all."""

    name: Final = REGISTRY

    def __init__(self, fabric: str, key_ids: Sequence[str]) -> None:
        """Open the folders.

        Raises:
            ConfigError: One of them cannot be trusted, or `fabric` is no name.
        """
        self._fabric = fabric
        self._lock = Lock()  # keeps calls in one order: a folder is announced in and watched, or it is closed
        self._folders = {key_id: RegistryBackend(fabric, key_id) for key_id in key_ids}
        self._announcement: Announcement | None = None
        self._report: Report | None = None
        self._seen: dict[str, set[str]] = {}
        """Folder -> the nodes that it shows."""
        self._closed = False

    def announce(self, announcement: Announcement) -> None:
        """Put our file in place in each folder, or replace it."""
        with self._lock:
            self._announcement = announcement
            folders = list(self._folders.values())
        for folder in folders:
            folder.announce(announcement)

    def watch(self, report: Report) -> None:
        """Report everybody in the folders; changes follow from threads of theirs."""
        with self._lock:
            self._report = report
            folders = list(self._folders.values())
        for folder in folders:
            folder.watch(self._noting(folder.name, report))

    def _noting(self, name: str, report: Report) -> Report:
        """As `report`, and remember whom the folder of that name shows."""
        seen = self._seen[name] = set()

        def take(event: Event) -> None:
            match event:
                case Sighting(seen=Announcement(node_id=node_id)):
                    seen.add(node_id)
                case Lost(node_id=node_id):
                    seen.discard(node_id)
                case _:
                    pass
            report(event)

        return take

    def rekey(self, keys: Sequence[AnnounceKey]) -> None:
        """The fabric has these secrets from now on: join their folders, and leave the others.

        Raises:
            ConfigError: A folder cannot be trusted; nothing changed.
        """
        with self._lock:
            if self._closed:
                return
            new = {
                key.key_id: RegistryBackend(self._fabric, key.key_id) for key in keys if key.key_id not in self._folders
            }
            old = [key_id for key_id in self._folders if key_id not in {key.key_id for key in keys}]
            left = [self._folders.pop(key_id) for key_id in old]
            self._folders.update(new)
            announcement, report = self._announcement, self._report
        for folder in new.values():
            if announcement is not None:
                folder.announce(announcement)
            if report is not None:
                folder.watch(self._noting(folder.name, report))
        for folder in left:
            folder.close()
            # Nobody will tell of them under that name any more, not even that they are gone.
            for node_id in sorted(self._seen.pop(folder.name, ())):
                if report is not None:
                    report(Lost(node_id=node_id, source=folder.name))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            folders = list(self._folders.values())
        for folder in folders:
            folder.close()
