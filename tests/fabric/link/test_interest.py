"""Who wants what."""

from __future__ import annotations

import pytest

from peerfabric.link.interest import Interests
from peerfabric.wire.frames import Consuming, Interest, Subscription


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
        (theirs(publishes="prices.eur"), True),
        (theirs(consumes="eaten", produces="made", publishes="news.x", subscribes="prices.eur"), False),
    ],
)
def test_in_common(interest: Interest, common: bool) -> None:
    """What one gives the other must take."""
    ours = Interests()
    ours.produces.add("made")
    ours.consumes.add("eaten")
    ours.publishes.add("news.x")
    ours.subscribes["prices.*"] = 1
    assert ours.in_common(interest) is common


def test_our_own_consumer() -> None:
    """A queue with both ends here needs the link to ourselves; each change has a new version."""
    ours = Interests()
    ours.produces.add("jobs")
    before = ours.with_ourselves
    ours.consumes.add("jobs")
    assert (before, ours.with_ourselves) == (False, True)
    version = ours.version
    ours.changed(0.0)
    assert ours.version == version + 1


def test_changes_are_told_in_rounds() -> None:
    """The first at once, then with growing pauses; after a second without any again at once."""
    ours, rounds, now = Interests(), list[float](), 0.0
    while now < 1.0:
        ours.changed(now)
        if ours.due_at <= now:
            ours.told(now)
            rounds.append(round(now, 3))
        now += 0.001
    assert rounds == [0.0, 0.01, 0.03, 0.07, 0.15, 0.31, 0.51, 0.71, 0.91]
    ours.told(1.11)
    ours.changed(2.5)
    assert ours.due_at == 2.5
