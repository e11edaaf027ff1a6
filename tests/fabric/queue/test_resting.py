"""Consumers that give back what they have not started, and have credit left from before."""

from __future__ import annotations

from peerfabric.health import LOOPING
from peerfabric.link.sending import RESTS_FOR
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.queue.incoming import IDLE_AFTER
from peerfabric.queue.trends import LOOPING_LEAST
from peerfabric.wire.frames import Data, decode_frame
from tests.fabric.helpers import Pair, bodies, claim

WANTED = 100
"""Messages for which a take asks: far more than there are, so much credit is left."""


class Story:
    """`a` sends eight messages to "jobs", which `b` has taken from once; each DATA that carries some is counted."""

    def __init__(self, lease: float = 300.0) -> None:
        self.pair = Pair()
        a, b = self.pair.a, self.pair.b
        self.out = a.open_producer("jobs", 0, 5, 2**20, self.pair.now)
        self.at = b.open_consumer("jobs", lease, self.pair.now)
        self.sent = 0
        self.pair.filter = self._count
        self.pair.meet()
        self.takes(WANTED)
        a.producers.accept(self.out, bodies(8), 0)
        self.pair.settle(0.1)
        assert self.sent == 8

    def _count(self, sender: object, frames: list[bytes]) -> bool:
        found = decode_frame(frames[0])
        self.sent += found.count if isinstance(found, Data) else 0
        return True

    def takes(self, count: int, takers: int = 1) -> None:
        """So many want messages now."""
        self.at.want(takers, count, self.pair.now)
        self.pair.b.consumers.progress(self.at, self.pair.now)
        self.pair.settle(0.1)

    def stops(self) -> None:
        self.takes(1, takers=0)

    def take(self) -> list[Delivery]:
        """All eight are handed out."""
        found = []
        while (delivery := self.at.take(self.pair.now)) is not None:
            claim(delivery, delivery.left, now=self.pair.now)
            found.append(delivery)
        self.pair.b.consumers.progress(self.at, self.pair.now)
        assert sum(delivery.left for delivery in found) == 8
        return found


def test_what_comes_back_unstarted_is_not_sent_there_again_at_once() -> None:
    """Nobody takes there: the credit that is left sends it round after 5, 10, 20, 40 s, then each 60 s."""
    story = Story()
    story.stops()
    story.pair.pass_time(IDLE_AFTER + 0.2)
    assert (story.out.account().waiting, story.sent) == (8, 8)
    story.pair.pass_time(RESTS_FOR - 0.5)
    assert story.sent == 8
    story.pair.pass_time(75.0 - RESTS_FOR)
    assert story.sent <= 8 * 5


def test_it_comes_as_soon_as_somebody_takes_again() -> None:
    """Though what is granted has not changed: it is told once more."""
    story = Story()
    story.stops()
    story.pair.pass_time(IDLE_AFTER + 0.2)
    story.takes(1)
    assert story.out.account().waiting == 0
    story.take()


def test_others_get_it_meanwhile() -> None:
    """What nobody takes here goes to the producer's own node, which does, and new messages, too."""
    story = Story()
    story.stops()
    own = story.pair.a.open_consumer("jobs", 300.0, story.pair.now)
    own.want(1, WANTED, story.pair.now)
    story.pair.a.consumers.progress(own, story.pair.now)
    story.pair.settle(0.1)
    story.pair.pass_time(IDLE_AFTER + 0.2)
    story.pair.a.producers.accept(story.out, bodies(5), 0)
    story.pair.settle(0.1)
    assert sum(1 for _ in iter(lambda: own.take(story.pair.now), None)) >= 1
    assert (story.out.account().waiting, story.sent) == (0, 8)


def test_what_user_code_gives_back_comes_again() -> None:
    """Somebody takes there: the grant goes with what goes back."""
    story = Story()
    for delivery in story.take():
        delivery.verdicts.append((Verdict.GIVE_BACK, 0, delivery.left, -1.0, ""))
    story.pair.b.consumers.progress(story.at, story.pair.now)
    story.pair.settle(0.1)
    assert (story.out.account().waiting, story.sent) == (0, 16)


def test_leases_that_end_are_no_loop() -> None:
    """Each of eight messages fails once by its lease, and comes back to where nobody takes any more."""
    story = Story(lease=3.0)
    story.take()
    story.pair.pass_time(3.5)
    story.stops()
    for _ in range(60):
        story.pair.pass_time(1.0)
        warned = [each.code for each in story.pair.a.producers.findings(story.pair.now)]
        assert LOOPING not in warned
    assert story.out.failed_count == 8
    assert story.sent < LOOPING_LEAST
