"""Names that peers told in their INTEREST, found by peer and by name."""

from __future__ import annotations

from collections.abc import Iterable

NOBODY: dict[str, None] = {}


class PeerNames:
    """Which peers told which names. All orders are those of arrival, so that a replay goes the same way."""

    def __init__(self) -> None:
        self.by_peer: dict[str, dict[str, None]] = {}
        self._by_name: dict[str, dict[str, None]] = {}

    def names(self) -> list[str]:
        """All names that somebody told."""
        return list(self._by_name)

    def told_by(self, name: str) -> dict[str, None]:
        """The peers that told `name`."""
        return self._by_name.get(name, NOBODY)

    def tell(self, peer: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """`peer` tells all its names anew; those that are new, and those that it does not tell any more."""
        before, after = self.by_peer.get(peer, NOBODY), dict.fromkeys(names)
        added = [name for name in after if name not in before]
        removed = [name for name in before if name not in after]
        for name in added:
            self._by_name.setdefault(name, {})[peer] = None
        for name in removed:
            self._remove(peer, name)
        if after:
            self.by_peer[peer] = after
        else:
            self.by_peer.pop(peer, None)
        return added, removed

    def withdraw(self, peer: str, name: str) -> None:
        """`name` is not one of `peer` until it is told again."""
        if self.by_peer.get(peer, NOBODY).pop(name, self) is None:
            self._remove(peer, name)

    def _remove(self, peer: str, name: str) -> None:
        peers = self._by_name[name]
        del peers[peer]
        if not peers:
            del self._by_name[name]


__all__ = ["PeerNames"]
