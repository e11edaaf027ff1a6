"""What happened in a world so far, for those who judge it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.world.world import World

PROCESSED = ("ack", "kept")
"""Outcomes of runs after which a message need not run any more: an ack, or one that its consumer's ledger has alone."""


@dataclass
class Run:
    """One message in the hands of user code."""

    stream: str
    sequence: int
    body: bytes
    attempt: int
    peer: str
    """The process that ran it."""
    lease: float
    start: float
    end: float = inf
    ledger: tuple[str, str] | None = None
    """The disk and the queue of the ledger in which its peer writes."""
    outputs: list[tuple[str, int, bool]] = field(default_factory=list)
    """(stream, sequence, whether delivering is enough) of what it sent into memory."""
    sent: bool | None = None
    """Whether it has sent that on, if it has tried to."""
    outcome: str = ""
    """"" while it runs; "died" if its process did; "unacked" if its ledger did not take it, or "kept" if it has it."""


class Record:
    """Every message by (stream, sequence): what was accepted, sent and run; and what excuses that it ran twice."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.accepted: dict[tuple[str, int], bytes] = {}
        self.runs: dict[tuple[str, int], list[Run]] = {}
        self.unsure: set[tuple[str, int]] = set()
        """Accepted by nobody, but perhaps on a disk: they may run or not."""
        self.volatile: set[tuple[str, int]] = set()
        """Accepted in memory only, by a producer with a spool."""
        self.expires: dict[tuple[str, int], float] = {}
        """When those expire that do."""
        self.expired: set[tuple[str, int]] = set()
        """Those of which a producer has said that they have."""
        self.judged: dict[str, int] = {}
        """Stream -> below which sequence all was judged when its producer was closed."""
        self.tended: set[tuple[str, int]] = set()
        """Their dead letters were retried or dropped."""
        self.purged: set[tuple[str, int]] = set()
        """Those that were dropped while they waited, as somebody wanted."""
        self.paused: dict[tuple[str, str], Counter[tuple[str, int]]] = {}
        """By consumer and queue that is paused there, how often each message was sent there meanwhile."""
        self.sends: dict[tuple[str, int], list[tuple[float, str, str]]] = {}
        """(when, to whom, by which process)"""
        self.starts: dict[tuple[str, str], list[int]] = {}
        """(stream, peer) -> sequences in the order in which their first run began there."""
        self.excuses: list[tuple[float, str, str]] = []
        """(when, what, peer): troubles that may excuse a second run of what the peer had."""
        self.disturbed: dict[str, float] = {}
        """Peer -> until when it was stopped, late, or cut off from somebody."""
        self.disturbances: dict[str, list[tuple[float, float]]] = {}
        """Peer -> each time of that, from when to when."""

    def disturb(self, peer: str, duration: float) -> None:
        """The process was stopped, late or cut off, or will be until `duration` from now."""
        self.disturbed[peer] = max(self.disturbed.get(peer, 0.0), self.world.now + duration)
        self.disturbances.setdefault(peer, []).append((self.world.now, self.world.now + duration))

    def calm_for(self, peer: str) -> float:
        """Seconds since the last disturbance of this process."""
        return self.world.now - self.disturbed.get(peer, -inf)

    def excuse(self, what: str, peer: str) -> None:
        """From now on this may be why something runs again that the process had."""
        self.excuses.append((self.world.now, what, peer))
        self.world.log(f"excuse: {what} ({peer})")

    def end_runs(self, peer: str) -> None:
        """What the process was running ends with it."""
        for runs in self.runs.values():
            for run in runs:
                if run.peer == peer and run.end == inf:
                    run.end, run.outcome = self.world.now, "died"
