"""Epochs of a node: numbers of its lives, which grow with the time at which they begin."""

from __future__ import annotations

import time
from typing import Final

EPOCH_START: Final = 1_735_689_600  # 2025-01-01, so that the counter stays small


def epoch_counter() -> int:
    """The counter of epochs that begin now, if those before had lower ones."""
    return max(1, int(time.time()) - EPOCH_START)


def epoch_now() -> int:
    """An epoch that begins now, and is later than all that began before, also within this second.

    Else a node that keeps its key and is started again at once could be taken for an earlier life of itself.
    """
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return max(1, seconds - EPOCH_START) << 20 | microseconds
