"""Dead letters of one queue at its producer: messages that were given up, kept for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import Run, cost
from peerfabric.reports import DeadLetter

DIED_WITH_IT: Final = "died with it"
"""Reason: its consumers died, at last with no other message of the queue in hand."""


class DeadLetters:
    """Dead letters by the ids of their messages, in the order in which they were given up.

    Args:
        bytes_max: Memory for them; a letter more is kept all the same, and whoever sends must stop when it is full.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._letters: dict[str, DeadLetter] = {}
        self.bytes = 0
        """What they cost; from `bytes_max` on they are full."""
        self.by_reason: dict[str, int] = {}
        """How many there are."""

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: DeadLetter) -> None:
        """Keep `letter` as the newest, instead of one of the same message."""
        self.take(letter.id)
        self._letters[letter.id] = letter
        self.bytes += cost([letter.data])
        self.by_reason[letter.reason] = self.by_reason.get(letter.reason, 0) + 1

    def take(self, identity: str) -> DeadLetter | None:
        """Remove and return the letter of that message; None if it is not here."""
        letter = self._letters.pop(identity, None)
        if letter is not None:
            self.bytes -= cost([letter.data])
            left = self.by_reason.pop(letter.reason) - 1
            if left:
                self.by_reason[letter.reason] = left
        return letter

    def find(self, identity: str) -> DeadLetter | None:
        """The letter of that message, which stays; None if it is not here."""
        return self._letters.get(identity)

    def all(self) -> list[DeadLetter]:
        """Those that are here, the oldest first."""
        return list(self._letters.values())

    def why(self, identity: str) -> str:
        """Why that message was given up, in words."""
        letter = self._letters.get(identity)
        if letter is None:
            return "its dead letter was retried or dropped"
        return letter.why

    def check(self) -> None:
        """Assert that the bytes are the sum."""
        assert self.bytes == sum(cost([letter.data]) for letter in self._letters.values()), "letter bytes"
        assert self.by_reason == dict(Counter(letter.reason for letter in self._letters.values())), "letters by reason"


def dead_letters_of(
    run: Run, reason: str, queue: str, codec: int, numbering: Numbering
) -> Iterator[tuple[int, DeadLetter]]:
    """What remains of each message of `run`, with its number, when `run` is given up; `codec` is the queue's."""
    for number, body in enumerate(run.bodies, run.first):
        extra = run.extras.get(number) if run.extras else None
        yield (
            number,
            DeadLetter(
                id="{}/{}".format(*numbering.name(number)),
                queue=queue,
                reason=reason,
                error=run.error,
                attempts=run.attempt,
                deaths=run.deaths,
                data=body,
                codec=codec if run.codec is None else run.codec,
                headers=extra.headers if extra else None,
                origin=extra.origin if extra else None,
                sent_ms=run.sent_ms,
            ),
        )
