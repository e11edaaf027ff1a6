"""What the parts of one log have in common: where it lies, whose it is, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass

from peerfabric.spool.budget import Budget, Share
from peerfabric.spool.contents import Contents
from peerfabric.spool.files import Files
from peerfabric.spool.format import SegmentHeader, make_salt
from peerfabric.spool.hold import Hold
from peerfabric.spool.inventory import Identity


@dataclass(frozen=True, slots=True)
class Shelf:
    """The place of one log's segments, which `Writer` makes and `Compactor` merges."""

    files: Files
    folder: str
    identity: Identity
    contents: Contents
    budget: Budget
    share: Share
    hold: Hold
    epoch: int
    """Of this life: new segments say so."""
    segment_bytes: int
    fsync: bool
    """Whether what is synced must survive the loss of power."""
    outer: list[str]
    """The folders above, as long as it is not sure that the names in them which lead here are durable."""

    def header(self, serial: int, through: int, revision: int, made: int, unix_ms: int) -> SegmentHeader:
        """The header of a new segment; `made` tells apart those that this life makes under one serial."""
        node_id, queue, kind = self.identity
        salt = make_salt(self.epoch, queue, kind, serial, made)
        return SegmentHeader(serial, through, salt, revision, self.epoch, unix_ms, kind, 0, node_id, queue)
