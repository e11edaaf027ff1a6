"""Spool: the log on disk, usable alone. What is appended survives the process, and with fsync the loss of power."""

from __future__ import annotations

from peerfabric.spool.files import Files, RealFiles
from peerfabric.spool.log import Log
from peerfabric.spool.reader import Reader, Record
from peerfabric.spool.recovery import Recovery
from peerfabric.spool.spool import Spool

__all__ = ["Files", "Log", "Reader", "RealFiles", "Record", "Recovery", "Spool"]
