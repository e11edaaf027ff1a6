"""Room of a spool: whether its limit, or the disk that it is on, is nearly used up, while there is time to act."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peerfabric.health import DISK, Finding

USED_PART: Final = 0.8
"""Of its limit that a spool uses when that is told."""
FREE_LEAST: Final = 2**30
FREE_PART: Final = 0.05
"""Bytes, and part of its size, of which a disk should have more."""


def findings(folder: str, used: int, limit: int | None, free: int, size: int) -> Iterator[Finding]:
    """What a person should know of a spool that uses `used` bytes of `limit`, on a disk with `free` bytes of `size`."""
    if limit is not None and used > USED_PART * limit:
        yield Finding(
            f"the spool {folder} has nearly all that it may have",
            0.0,
            f"{_shown(used)} of {_shown(limit)}, and at that sends wait or raise SpoolFull: start more consumers, see "
            f"`peerfabric spool ls`, or raise Options(spool_bytes=)",
            code=DISK,
        )
    if size and (free < FREE_LEAST or free < FREE_PART * size):
        yield Finding(
            f"the disk of the spool {folder} is nearly full",
            0.0,
            f"{_shown(free)} of {_shown(size)} are free; without any, sends wait or raise SpoolFull: make room there",
            code=DISK,
        )


def _shown(size: int) -> str:
    """Bytes for people."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
