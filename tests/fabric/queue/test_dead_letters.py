"""Dead letters of one outgoing queue."""

from __future__ import annotations

import pytest

from peerfabric.queue.dead_letters import DeadLetters, dead_letters_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import MSGPACK, RAW, Extra
from tests.fabric.helpers import run_of

EACH = 4 + MESSAGE_OVERHEAD


def letter(sequence: int, data: bytes = b"body", reason: str = "attempts", error: str = "") -> DeadLetter:
    return DeadLetter(
        id=f"p:1:jobs/{sequence}",
        queue="jobs",
        reason=reason,
        error=error,
        attempts=1,
        deaths=0,
        data=data,
        codec=RAW,
        sent_ms=0,
    )


def test_the_oldest_comes_first() -> None:
    """By when they were given up, whatever their sequences."""
    letters = DeadLetters(2**20)
    for sequence in (2, 3, 1):
        letters.put(letter(sequence))
    assert letters.all() == [letter(2), letter(3), letter(1)]
    letters.check()


def test_one_letter_a_message() -> None:
    """A second one takes the place of the first, and is the newest."""
    letters = DeadLetters(2**20)
    for sequence in (1, 2):
        letters.put(letter(sequence))
    again = letter(1, b"longer than before", "died with it")
    letters.put(again)
    assert letters.all() == [letter(2), again]
    letters.check()


def test_who_takes_a_letter_has_it() -> None:
    """It is gone from here: a second look finds nothing."""
    letters = DeadLetters(2**20)
    letters.put(letter(1))
    letters.put(letter(2))
    assert letters.take("p:1:jobs/1") == letter(1)
    assert letters.take("p:1:jobs/1") is None
    assert letters.all() == [letter(2)]
    letters.check()


def test_full_by_what_letters_cost() -> None:
    """From the last byte on, overhead included. One more is kept all the same; taking them makes room."""
    letters = DeadLetters(2 * EACH)
    letters.put(letter(1, b"bod"))
    letters.put(letter(2))
    assert letters.bytes < letters.bytes_max
    letters.put(letter(1))
    assert (len(letters.all()), (letters.bytes >= letters.bytes_max)) == (2, True)
    letters.put(letter(3, b""))
    assert (len(letters.all()), (letters.bytes >= letters.bytes_max)) == (3, True)
    letters.take("p:1:jobs/3")
    assert (len(letters.all()), (letters.bytes >= letters.bytes_max)) == (2, True)
    letters.take("p:1:jobs/2")
    assert letters.bytes < letters.bytes_max
    letters.check()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (letter(1, reason="rejected"), "rejected"),
        (letter(1, reason="attempts", error="no disk"), "attempts: no disk"),
        (letter(2), "its dead letter was retried or dropped"),
    ],
)
def test_why_in_words(found: DeadLetter, words: str) -> None:
    """The reason with its error, if there is one; of a letter that has left nothing more is known."""
    letters = DeadLetters(2**20)
    letters.put(found)
    assert letters.why("p:1:jobs/1") == words


def test_a_letter_says_all_that_is_known() -> None:
    """What the messages of the run share, each with its own number, body, headers and origin."""
    run = run_of(5, 2)
    run.bodies[1] = b"last"
    run.attempt, run.deaths, run.error, run.sent_ms = 4, 2, "why", 77
    run.extras = {6: Extra(0, {"k": "v"}, "p:1:jobs/1")}
    plain = DeadLetter(
        id="p:1:jobs/5",
        queue="jobs",
        reason="died with it",
        error="why",
        attempts=4,
        deaths=2,
        data=b"xxxx",
        codec=MSGPACK,
        sent_ms=77,
    )
    second = DeadLetter(
        id="p:1:jobs/6",
        queue="jobs",
        reason="died with it",
        error="why",
        attempts=4,
        deaths=2,
        data=b"last",
        codec=MSGPACK,
        headers={"k": "v"},
        origin="p:1:jobs/1",
        sent_ms=77,
    )
    assert list(dead_letters_of(run, "died with it", "jobs", MSGPACK, Numbering("p:1:jobs"))) == [
        (5, plain),
        (6, second),
    ]


@pytest.mark.parametrize("own", [RAW, MSGPACK])
def test_a_codec_of_its_own_goes_before_the_queue_s(own: int) -> None:
    """What was read from disk, or is a letter retried, is encoded as it was when it was sent."""
    run = run_of(1, 1)
    run.codec = own
    [(_, found)] = dead_letters_of(run, "lease", "jobs", RAW + MSGPACK - own, Numbering("p:1:jobs"))
    assert found.codec == own


def test_dead_letters_of_earlier_lives_keep_their_names() -> None:
    """The id is the one that the message had when it was sent first; the number is ours."""
    numbering = Numbering("p:2:jobs", [("p:1:jobs", 7, 9)])
    found = [(number, made.id) for number, made in dead_letters_of(run_of(1, 3), "lease", "jobs", RAW, numbering)]
    assert found == [(1, "p:1:jobs/7"), (2, "p:1:jobs/8"), (3, "p:2:jobs/1")]
