"""Receipt: names a message that a producer accepted; and the states in which it can be waited for."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["queued", "stored", "delivered", "processed"]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Names an accepted message: `sequence` counts from 1 in its producer's `stream`."""

    stream: str
    sequence: int

    @property
    def id(self) -> str:
        """The message's id, as its consumer sees it."""
        return f"{self.stream}/{self.sequence}"
