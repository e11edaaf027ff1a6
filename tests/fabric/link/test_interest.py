"""Interest: what has something in common with what, and when it is told."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from peerfabric.link.control import Control
from peerfabric.link.interest import Interests
from peerfabric.link.links import OURSELVES, Links
from peerfabric.wire.frames import Address, Consuming, Interest, Subscription


def interests() -> Interests:
    links = Links(Address("us", 1, "us", "host", ["tcp://us:1"], []), "test", 1 << 20, 10, Random(1))
    return Interests(links, Control(), [])


def theirs(consumes: str = "", subscribes: str = "", produces: str = "", publishes: str = "") -> Interest:
    consuming = [Consuming(consumes, 1.0)] if consumes else []
    subscribing = [Subscription(subscribes, 1, False)] if subscribes else []
    return Interest(
        bytes(8), 1, 0, 1, consuming, subscribing, [produces] * bool(produces), [publishes] * bool(publishes)
    )


@pytest.mark.parametrize(
    ("interest", "common"),
    [
        (theirs(consumes="made"), True),
        (theirs(produces="eaten"), True),
        (theirs(subscribes="news.*"), True),
        (theirs(subscribes="news.x"), True),
        (theirs(publishes="prices.eur"), True),
        (theirs(publishes="wars"), True),
        (theirs(consumes="eaten", produces="made", publishes="news.x", subscribes="prices.eur"), False),
        (theirs(subscribes="news", publishes="prices"), False),
        (theirs(subscribes="prices.*", publishes="wars.x"), False),
    ],
)
def test_in_common(interest: Interest, common: bool) -> None:
    """What one gives the other must take; names of one topic, wildcards of either side."""
    ours = interests()
    ours.produces.add("made")
    ours.consumes.add("eaten")
    ours.publishes.add("news.x")
    ours.subscribes |= {"prices.*": 1, "wars": 2}
    assert ours.in_common(interest) is common


def test_our_own_consumer() -> None:
    """A queue with both ends here needs the link to ourselves; each change has a new version."""
    ours = interests()
    found = []
    for names in (ours.produces, ours.consumes):
        names.add("jobs")
        ours.changed(0.0)
        found.append((ours.version, OURSELVES in ours._links.by_wire))
    assert found == [(2, False), (3, True)]


def test_changes_are_told_in_rounds() -> None:
    """The first at once, then with growing pauses; after a second without any again at once."""
    ours, rounds, now = interests(), list[float](), 0.0
    while now < 1.0:
        ours.changed(now)
        if ours.deadlines.first <= now:
            ours.handle_timeout(now)
            rounds.append(round(now, 3))
        now += 0.001
    assert rounds == [0.0, 0.01, 0.03, 0.07, 0.15, 0.31, 0.51, 0.71, 0.91]
    ours.handle_timeout(1.2)
    assert ours.deadlines.first == inf
    ours.changed(2.5)
    assert ours.deadlines.first == 2.5
