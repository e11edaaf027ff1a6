"""Spools of running nodes: which folders and slots the processes of this host answer for."""

from __future__ import annotations

import os
from collections.abc import Iterable

from peerfabric.nodes.cli.host.rows import Place


def same_folder(one: str, other: str) -> bool:
    """Whether two paths are one folder."""
    return os.path.realpath(one) == os.path.realpath(other)


def slots_answered(places: Iterable[Place], folder: str) -> dict[int, Place]:
    """The slots of a folder that nodes have and could tell of, each with its node."""
    found: dict[int, Place] = {}
    for place in places:
        spool = place.node.spool
        if spool is not None and not place.node.engine and same_folder(spool.folder, folder):
            found[spool.slot if place.node.adopted is None else place.node.adopted] = place
    return found


def folders(places: Iterable[Place]) -> list[str]:
    """The folders of all spools that nodes have."""
    return sorted({place.node.spool.folder for place in places if place.node.spool is not None})
