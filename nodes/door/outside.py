"""Outside of a node: what threads that are not the node's may ask of it, and have done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from peerfabric.status import NodeStatus


class Outside(Protocol):
    """One node, seen by whoever asks its process. Thread-safe; nothing here waits longer than it says."""

    name: str
    fabric: str
    node_id: str

    def status(self, queues: int = 200, wait: float = 1.0) -> NodeStatus:
        """Everything about it, of at most `queues` queues; without its machines if they are busy for `wait` seconds."""

    def pause(self, queue: str) -> bool:
        """Let its consumer of `queue` take nothing more until `resume`; False if it has none."""

    def resume(self, queue: str) -> bool: ...

    def purge(self, queue: str) -> int:
        """Drop what waits in `queue`; return how many messages that were."""

    def dead(self, queue: str | None, limit: int) -> list[dict[str, Any]]:
        """Its dead letters, oldest first, at most `limit`; None: of all queues."""

    def retry(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Send dead letters again: for each of them that it has, `{"id", "done", "problem"}`."""

    def drop(self, ids: Sequence[str]) -> list[dict[str, Any]]: ...

    def trace(self, id: str) -> list[dict[str, Any]]:
        """Where the message is that it knows by this id."""

    def tap(self, name: str, put: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Give `put` a copy of each message that it accepts for the queue, or the topics of the pattern, `name`.

        `put` may be called in any thread, and must wait for nothing. Return what ends it.
        """


class Resident(Protocol):
    """A node that runs in this process."""

    def outside(self) -> Outside: ...
