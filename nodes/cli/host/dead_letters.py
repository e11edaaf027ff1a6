"""Dead letters of running nodes, asked of their processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import Heard, ask_all
from peerfabric.nodes.cli.host.look import Look
from peerfabric.nodes.cli.host.spools import same_folder, slots_answered
from peerfabric.nodes.cli.offline import warn

LETTERS_MAX: Final = 10_000
"""Dead letters that are asked for at a time."""
IDS_MAX: Final = 500
"""Ids in one request, and the characters in them; it has at most 64 KiB."""
IDS_CHARACTERS_MAX: Final = 40_000
ACT_TIMEOUT: Final = 60.0
"""Seconds for so many; they are written to a disk."""


class RunningLetters:
    """The dead letters of the running nodes of this host, of all or of those that have slots of one folder.

    Args:
        fabric: Of its nodes; None: of all.
        folder: Only of nodes with this spool.
        slot: Only those in this slot.
    """

    def __init__(self, fabric: str | None, folder: str | None, slot: int | None) -> None:
        self._slot = slot
        try:
            look = Look(fabric, list(door.answers(queues=1)))
        except ConfigError:
            if folder is None:
                raise
            look = Look(fabric, [])  # the runtime folder cannot be used, the spool perhaps can
        self.look = look
        self._fabric = fabric or ""
        self._nodes: set[str] | None = None
        self.slots: frozenset[int] = frozenset()
        """Of the folder, that nodes which answer have."""
        if folder is not None:
            self.slots = frozenset(slots_answered(look.places, folder))
            self._nodes = {
                node.node_id
                for _, node, _ in look.places
                if node.spool is not None and same_folder(node.spool.folder, folder)
            }
        elif not look.places and not look.silent:
            raise Failure(
                "no node of this user answers on this host; give the FOLDER of a spool whose processes are gone",
                Exit.NOTHING,
            )
        if folder is None:
            look.tell(of_queues=False)  # letters are asked for by themselves, of all queues

    def _processes(self) -> list[Heard]:
        if self._nodes is None:
            return [heard for heard in self.look.heard if heard.status is not None]
        return [
            heard
            for heard in self.look.heard
            if heard.status is not None and any(node.node_id in self._nodes for node in heard.status.nodes)
        ]

    def has(self, identity: str) -> bool:
        """Whether the node whose message that was runs and answers: then no slot on disk has to be asked."""
        return any(identity.startswith(f"{node.node_id}:") for _, node, _ in self.look.places if not node.engine)

    def queues(self) -> set[str]:
        """Queues of which there are some."""
        return {str(letter["queue"]) for letter in self.letters(None)}

    def letters(self, queue: str | None, *, whole: bool = False) -> list[dict[str, Any]]:
        """Those of one queue, or all, each once."""
        arguments = {"queue": queue, "limit": LETTERS_MAX, "whole": whole, "fabric": self._fabric}
        asked = ask_all(self._processes(), "dead", timeout=ACT_TIMEOUT, **arguments)
        for problem in asked.problems:
            warn(problem)
        found: dict[str, dict[str, Any]] = {}
        for letter in asked.items("letters"):
            if self._nodes is not None and letter.get("node_id") not in self._nodes:
                continue
            if self._slot is None or letter.get("slot") == self._slot:
                # One that is in a slot which nobody has is told of by each node that could adopt it.
                found.setdefault(str(letter.get("id")), letter)
        if len(found) >= LETTERS_MAX:
            warn(f"there may be more than {LETTERS_MAX:,}")
        return sorted(found.values(), key=_age)

    def act(self, do: str, letters: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Retry or drop these; the outcome of each, once, that of a node that did it before others."""
        outcomes: dict[str, dict[str, Any]] = {}
        by_pid: dict[int, list[str]] = {}
        for letter in letters:
            by_pid.setdefault(int(letter["pid"]), []).append(str(letter["id"]))
        for process in self._processes():
            for ids in _chunks(by_pid.get(process.pid, [])):
                asked = ask_all([process], do, timeout=ACT_TIMEOUT, ids=ids, fabric=self._fabric)
                for problem in asked.problems:
                    warn(problem)
                for outcome in asked.items("outcomes"):
                    identity = str(outcome.get("id"))
                    if outcome.get("done") or identity not in outcomes:
                        outcomes[identity] = outcome
        return list(outcomes.values())


def _age(letter: dict[str, Any]) -> tuple[float, str, int]:
    """The oldest first; those of one frame in the order in which they were sent."""
    stream, _, sequence = str(letter.get("id")).rpartition("/")
    return letter.get("sent_at") or 0.0, stream, int(sequence) if sequence.isdigit() else 0


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for identity in ids:
        if len(chunk) >= IDS_MAX or sum(map(len, chunk)) + len(identity) > IDS_CHARACTERS_MAX:
            yield chunk
            chunk = []
        chunk.append(identity)
    if chunk:
        yield chunk
