"""Conditions that need a person: told once they have lasted, at doubling intervals, and when they are over."""

from __future__ import annotations

from random import Random

import pytest

import peerfabric.health
from peerfabric.engine import Engine
from peerfabric.health import LOOK_EVERY, Finding, Health, slow_after
from peerfabric.link.commands import Dial
from peerfabric.log_records import LogRecord, LogRecords
from peerfabric.options import Options
from peerfabric.wire.frames import RAW, Address
from tests.fabric.helpers import Pair, claim, transmitted

LONELY = "queue 'jobs': messages wait without a consumer"
UNTAKEN = "queue 'jobs': messages wait for this consumer and nobody takes them"
IN_HAND = "queue 'jobs': a message is in the hands of its handler"


def warnings(engine: Engine) -> list[str]:
    """What was warned of since the last call, without the next step."""
    return [line.text.partition(";")[0] for line in engine.records.take() if line.level == "warning"]


def over(engine: Engine) -> list[str]:
    return [line.text for line in engine.records.take() if "over after" in line.text]


def told(seconds: list[int], after: float = 10.0, since: float | None = None) -> list[tuple[int, str]]:
    """Look once a second while the condition holds in `seconds`; return when something was told, at which level."""
    records = LogRecords()
    health = Health(records, 0.0)
    lines: list[tuple[int, str]] = []
    for now in range(400):
        health.look([Finding("it is so", after, "change it", since)] if now in seconds else [], float(now))
        lines += [(now, line.level) for line in records.take()]
    return lines


def test_what_lasts_is_told_at_doubling_intervals_and_when_it_is_over() -> None:
    """First after 10 s, then after 10, 20, 40, 80 more, and once when it has ended."""
    moments: list[tuple[int, str]] = [(n, "warning") for n in (10, 20, 40, 80, 160)]
    assert told(list(range(200))) == [*moments, (200, "info")]


def test_what_is_told_at_once_is_told_again_at_doubling_intervals() -> None:
    """Not at each look."""
    assert [now for now, level in told(list(range(100)), after=0.0) if level == "warning"] == [0, 10, 30, 70]


def test_what_is_over_when_it_is_found_is_told_once() -> None:
    """A late turn is shown for a minute, and is one line; those that follow are told at doubling intervals."""
    records = LogRecords()
    health = Health(records, 0.0)
    lines, shown = [], []
    for now in range(200):
        if now in (1, 101, 105, 109, 113, 117, 121, 125, 129, 133):
            health.was_late(2.0 + now / 1000, float(now))
        health.look([], float(now))
        lines += [(now, line.level) for line in records.take()]
        shown.append([round(warned.since, 3) for warned in health.warnings(now)])
    assert lines == [(now, "warning") for now in (1, 101, 113, 133)]
    assert (shown[0], shown[1], shown[60], shown[61]) == ([], [2.001], [2.001], [])
    assert (shown[100], shown[108], shown[192], shown[193]) == ([], [2.105], [2.133], [])


def test_a_closer_look_is_taken_when_it_is_told() -> None:
    """And at no other time; if it finds nothing, the step stands."""
    records, found = LogRecords(), ["", "at shop.py:41", "at shop.py:42"]
    health = Health(records, 0.0)
    for now in range(25):
        health.look([Finding("it is so", 5.0, "change it", closer=lambda: found.pop(0))], float(now))
    assert [line.text for line in records.take()] == [
        "it is so for 5 s; change it",
        "it is so for 15 s; at shop.py:41",
    ]
    assert [warned.text for warned in health.warnings(30.0)] == ["it is so for 30 s; at shop.py:41"]
    assert found == ["at shop.py:42"]


def test_who_reads_is_told_what_is_now() -> None:
    """Not what was so when it was told: what is found out anew at each look, and at each reading."""
    records = LogRecords()
    health = Health(records, 0.0)
    for now in range(20):
        ends = lambda at: f"it ends in {100 - at:.0f} s"  # noqa: E731
        found = [Finding("it lives", 5.0, "", live=ends), Finding("it is so", 5.0, f"{100 - now} wait")]
        health.look(found, float(now))
    assert [each.text for each in health.warnings(30.0)] == [
        "it lives for 30 s; it ends in 70 s",
        "it is so for 30 s; 81 wait",
    ]
    assert records.take()[0].text == "it lives for 5 s; it ends in 95 s"


def test_only_so_many_are_found_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that lasted longest; the others are as they were at the last look."""
    monkeypatch.setattr(peerfabric.health, "LIVE_MAX", 2)
    health = Health(LogRecords(), 0.0)
    found = [Finding(f"{n}", 0.0, "seen", since=float(n), live=lambda at: "asked") for n in range(4)]
    health.look(found, 9.0)
    texts = [each.text for each in health.warnings(9.0)]
    assert texts == ["0 for 9 s; asked", "1 for 8 s; asked", "2 for 7 s; seen", "3 for 6 s; seen"]


def test_a_start_that_takes_long_is_not_late() -> None:
    """A spool is scanned before the first turn."""
    engine = Engine(Address("a", 1 << 20, "a", "host", [], []), "test", Options(), Random(1), 100.0)
    engine.handle_timeout(160.0)
    engine.handle_timeout(engine.poll_timeout())
    assert (engine.health.warnings(170.0), warnings(engine)) == ((), [])


def test_what_ends_before_its_time_is_not_told() -> None:
    """A condition of 9 s, three times, is nobody's business."""
    assert told([*range(9), *range(20, 29), *range(40, 49)]) == []


def test_what_comes_and_goes_is_told_no_more_often() -> None:
    """Each time for 12 s in 15: the pauses go on doubling over all of them."""
    warned = [now for now, level in told([n for n in range(300) if n % 15 < 12]) if level == "warning"]
    assert warned == [10, 25, 55, 100, 190]


def test_a_condition_that_comes_back_after_long_is_new() -> None:
    """After a quiet time longer than the last pauses it is told as soon as for the first time."""
    warned = [now for now, level in told([*range(15), *range(100, 125)]) if level == "warning"]
    assert warned == [10, 110, 120]


def test_a_condition_that_knows_its_beginning_is_told_at_the_first_look() -> None:
    """A message that has been in hand for 30 s needs not be watched for as long again."""
    records = LogRecords()
    Health(records, 0.0).look([Finding("it is so", 30.0, "change it", since=5.0)], 40.0)
    assert records.take() == [LogRecord("warning", "it is so for 35 s; change it")]


def test_time_in_which_the_node_did_not_run_does_not_count() -> None:
    """A process that was stopped for an hour warns of nothing that is over a moment later."""
    records = LogRecords()
    health = Health(records, 0.0)
    health.look([Finding("it is so", 10.0, "change it")], 1.0)
    health.excuse(3600.0)
    health.look([Finding("it is so", 10.0, "change it")], 3606.0)
    assert records.take() == []
    health.look([Finding("it is so", 10.0, "change it")], 3611.0)
    assert [line.level for line in records.take()] == ["warning"]


def test_slow_follows_the_lease_and_the_usual_pace() -> None:
    """30 s with the default lease; a tenth of a long one; ten times of what is usual."""
    assert (slow_after(300.0, 0.001), slow_after(3600.0, 1.0), slow_after(300.0, 20.0)) == (30.0, 360.0, 200.0)
    assert (slow_after(10.0, 0.001), slow_after(10.0, 9.0)) == (10.0, 10.0)


def pair(*, produces: bool = True, consumes: bool = True) -> Pair:
    two = Pair(Options())
    if produces:
        two.a.open_producer("jobs", RAW, 5, 2**20, two.now)
    if consumes:
        two.b.open_consumer("jobs", 300.0, two.now)
    two.meet()
    return two


def send(two: Pair, count: int = 1) -> None:
    two.a.producers.accept(two.a.producers.by_queue["jobs"], [b"body"] * count, 0)


def test_messages_without_a_consumer_are_told_and_the_consumer_ends_it() -> None:
    """Ten seconds after the send its node says that nobody consumes, and later that somebody does."""
    two = pair(consumes=False)
    send(two)
    two.pass_time(10.0)
    assert warnings(two.a) == []
    two.pass_time(LOOK_EVERY + 0.5)
    assert [text.rpartition(" for ")[0] for text in warnings(two.a)] == [LONELY]
    two.b.open_consumer("jobs", 300.0, two.now)
    two.pass_time(LOOK_EVERY + 0.5)
    assert [text.partition(": over")[0] for text in over(two.a)] == [LONELY]


def test_an_empty_queue_without_a_consumer_is_as_it_should_be() -> None:
    """A producer that has nothing to send warns of nothing."""
    two = pair(consumes=False)
    two.pass_time(60.0)
    assert (warnings(two.a), warnings(two.b)) == ([], [])


def test_a_consumer_that_nobody_takes_from_is_told_where_it_is() -> None:
    """The handle exists and nobody calls `get`: the consumer's node says so, and no other."""
    two = pair()
    send(two)
    two.pass_time(10.0 + LOOK_EVERY + 0.5)
    assert [text.rpartition(" for ")[0] for text in warnings(two.b)] == [UNTAKEN]
    assert warnings(two.a) == []


def test_a_consumer_that_comes_back_once_in_a_while_is_as_it_should_be() -> None:
    """Who took before may stay away for a minute."""
    two = pair()
    send(two, 3)
    end = two.b.consumers.by_queue["jobs"]
    end.want(1, 1, two.now)
    two.pass_time(0.5)
    delivery = end.take(two.now)
    assert delivery is not None
    claim(delivery, now=two.now)
    delivery.ack(0, 1)
    end.want(0, 1, two.now)
    two.pass_time(50.0)
    assert warnings(two.b) == []
    two.pass_time(20.0)
    assert [text.rpartition(" for ")[0] for text in warnings(two.b)] == [UNTAKEN]


def in_hand(two: Pair) -> None:
    """User code at b takes one message."""
    send(two)
    end = two.b.consumers.by_queue["jobs"]
    end.want(1, 1, two.now)
    two.pass_time(0.5)
    delivery = end.take(two.now)
    assert delivery is not None
    claim(delivery, now=two.now)


def test_a_message_in_hand_is_told_long_before_its_lease_ends() -> None:
    """A handler that hangs is told after 30 s, not after the 300 s of its lease."""
    two = pair()
    in_hand(two)
    two.pass_time(29.0)
    assert warnings(two.b) == []
    two.pass_time(1.0 + LOOK_EVERY + 1.5)
    (text,) = warnings(two.b)
    what, _, lasted = text.rpartition(" for ")
    assert what == IN_HAND
    assert 30 <= int(lasted.split()[0]) <= 37


def test_who_extends_a_lease_knows_that_it_takes_long() -> None:
    """`extend` is the answer to the warning: there is none for who has given it before."""
    two = pair()
    in_hand(two)
    (delivery,) = two.b.consumers.by_queue["jobs"]._open
    delivery.extended[0] = two.now + 600.0
    two.pass_time(60.0)
    assert warnings(two.b) == []


def test_an_endpoint_that_nobody_answers_at_is_told_until_somebody_does() -> None:
    """`peers=` names a node that is not there; later it starts."""
    two = Pair()
    two.a.open_producer("jobs", RAW, 5, 2**20, two.now)
    two.b.open_consumer("jobs", 300.0, two.now)
    endpoint = two.b.address.inbox[0]
    two.b.address.inbox[0] = "tcp://elsewhere:1"
    two.a.handle_candidate(endpoint, two.now)
    two.pass_time(10.0 + LOOK_EVERY + 0.5)
    assert [text.rpartition(" for ")[0] for text in warnings(two.a)] == [f"{endpoint} is dialled without an answer"]
    two.b.address.inbox[0] = endpoint
    two.pass_time(5.0 + LOOK_EVERY + 2.0)
    assert [text.partition(": over")[0] for text in over(two.a)] == [f"{endpoint} is dialled without an answer"]


def test_an_endpoint_that_leads_to_the_node_itself_is_no_fault() -> None:
    """One list of peers for all nodes names each of them, too."""
    two = Pair()
    two.a.handle_candidate("tcp://alias-of-a:1", two.now)
    for _ in range(200):
        two.now += 0.1
        two.a.handle_timeout(two.now)
        for command in two.a.poll_commands():
            if isinstance(command, Dial) and command.endpoint == "tcp://alias-of-a:1":
                two.a.handle_connected(command.wire, two.now)
        for _, frames in transmitted(two.a, two.now):
            two.a.handle_frames(frames, two.now)
    assert warnings(two.a) == []


def test_a_node_that_was_found_and_does_not_answer_is_told() -> None:
    """Discovery names a node whose endpoint connects and says nothing."""
    two = Pair()
    two.a.open_producer("jobs", RAW, 5, 2**20, two.now)
    two.filter = lambda sender, frames: False
    two.a.handle_discovered(two.b.address, two.now)
    two.pass_time(10.0 + LOOK_EVERY + 0.5)
    assert [text.rpartition(" for ")[0] for text in warnings(two.a)] == [
        f"b was found and does not answer at {two.b.address.inbox[0]}"
    ]
