"""Trends of outgoing queues: how fast messages come and go, and what people should know of queues that get no further.

Each queue that has something to send is looked at every few seconds, at a few numbers of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from peerfabric.errors import counted
from peerfabric.health import HANDED_ON_AFTER, LOOPING, NO_CONSUMER, NO_CONSUMER_AFTER, NOT_SETTLED, OLD, Finding
from peerfabric.link.link import Belief, Link
from peerfabric.queue.outgoing import OutgoingQueue

WINDOW: Final = 300.0
"""Seconds that rates are of."""
SAMPLE_EVERY: Final = 30.0
"""Seconds between two samples of one queue, so that it keeps some ten."""
OLD_AFTER: Final = 300.0
"""Seconds for which the oldest message may wait though somebody consumes."""
LOOPING_LEAST: Final = 100
"""Attempts of which too many failed; of fewer, one bad batch may be all of them. What came back unstarted was none."""
LOOPING_PART: Final = 0.1
NAMED_MAX: Final = 3
"""Consumers that are named in one text."""


class Sample(NamedTuple):
    """Counters of one queue at an instant: numbers given, attempts that ended one, and those that failed before."""

    at: float
    given: int
    ended: int
    failed: int


def sample(end: OutgoingQueue, now: float) -> Sample:
    """Those of this moment."""
    counts = end.settled.counts
    return Sample(now, end.next - 1, counts["acked"] + counts["dead_lettered"], end.failed_count)


class Trends:
    """The queues of one node, as they were at earlier looks.

    Args:
        links: Those of the node, by peer.
    """

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = links
        self.unix_ms: Callable[[], int] = int
        """Wall-clock time, which a driver hands in: the clock by which messages were sent."""
        self.by_queue: dict[OutgoingQueue, list[Sample]] = {}
        """At least one sample of each that ever had something to send."""
        self._active: dict[OutgoingQueue, float] = {}
        """Those that had something to send within WINDOW, and when it was last so."""
        self._old: set[OutgoingQueue] = set()
        """Those of which a message had waited for too long at the last look."""

    def findings(self, unsettled: dict[OutgoingQueue, None], now: float) -> Iterator[Finding]:
        """What is the matter with those of `unsettled`, which loses those of which all is settled."""
        unix_ms, old, self._old = self.unix_ms(), self._old, set()
        for end in list(unsettled):
            self._active[end] = now
            if not end.unsettled_count:
                del unsettled[end]
                continue
            yield from stuck(end)
            yield from self._silent(end)
            oldest = end.oldest_waiting_ms if end.consumers else None
            if oldest is not None and unix_ms - oldest > OLD_AFTER * 1000:
                self._old.add(end)
                if end in old:  # what is sent again after long may be the oldest for a moment
                    yield self._waits(end, now, (unix_ms - oldest) / 1000)
        for end, at in list(self._active.items()):
            if now - at > WINDOW or (end not in self.by_queue and end not in unsettled):
                del self._active[end]
            else:
                yield from self._loops(end, now)

    def closed(self, end: OutgoingQueue) -> None:
        """Its producer was closed."""
        self.by_queue.pop(end, None)
        self._active.pop(end, None)
        self._old.discard(end)

    def _since(self, end: OutgoingQueue, now: float) -> tuple[Sample, Sample]:
        """What is now, and what was at the beginning of the window; that of a queue that was idle begins with it."""
        samples = self.by_queue.get(end)
        current = sample(end, now)
        if samples is None:  # all of it has happened since the last look
            before = current.given - end.unsettled_count - current.ended
            samples = self.by_queue[end] = [Sample(now, before, 0, 0)]
        if current.at - samples[-1].at >= SAMPLE_EVERY:
            samples.append(current)
        while len(samples) > 1 and now - samples[1].at >= WINDOW:
            del samples[0]
        return samples[0]._replace(at=max(samples[0].at, now - WINDOW)), current

    def _waits(self, end: OutgoingQueue, now: float, age: float) -> Finding:
        return Finding(
            f"queue {end.queue!r}: the oldest message has waited, though somebody consumes,",
            OLD_AFTER,
            self._rates(end, now),
            now - age,
            OLD,
            end.queue,
        )

    def _silent(self, end: OutgoingQueue) -> Iterator[Finding]:
        """Whether everybody who consumes the queue has fallen silent, as a process that is stopped does."""
        links = [self._links[peer] for peer in end.consumers if peer in self._links]
        if links and all(link.belief is not Belief.ALIVE for link in links):
            step = _silent_step(links)
            yield Finding(
                f"queue {end.queue!r}: messages wait, and no consumer of it answers",
                NO_CONSUMER_AFTER,
                step,
                max(link.suspect_at for link in links),
                NO_CONSUMER,
                end.queue,
                closer=partial(str, step),
            )

    def _rates(self, end: OutgoingQueue, now: float) -> str:
        before, current = self._since(end, now)
        span = max(1.0, now - before.at)
        coming, going = (current.given - before.given) / span, (current.ended - before.ended) / span
        return (
            f"{coming:.1f} messages a second come in and {going:.1f} go out with "
            f"{counted(len(end.consumers), 'consumer')}: start more of them, raise concurrency= there, or look what "
            f"their handlers wait for"
        )

    def _loops(self, end: OutgoingQueue, now: float) -> Iterator[Finding]:
        samples, few = self.by_queue.get(end), LOOPING_LEAST * LOOPING_PART
        if samples and now - samples[-1].at < SAMPLE_EVERY and end.failed_count - samples[0].failed <= few:
            return  # as with most, at most looks
        before, current = self._since(end, now)
        failed = current.failed - before.failed
        attempts = current.ended - before.ended + failed
        if attempts >= LOOPING_LEAST and failed > LOOPING_PART * attempts:
            why = f"the last error: {end.last_error}" if end.last_error else "see the log of the consumers"
            yield Finding(
                f"queue {end.queue!r}: messages are delivered again and again",
                0.0,
                f"{failed:,} of {attempts:,} attempts since then failed; {why}; mend the handler, or "
                f"let it raise Reject for what it never can process",
                before.at,
                LOOPING,
                end.queue,
            )


def _silent_step(links: list[Link]) -> str:
    names = ", ".join(sorted(link.name for link in links)[:NAMED_MAX])
    more = f" and {len(links) - NAMED_MAX:,} more" if len(links) > NAMED_MAX else ""
    return (
        f"{names}{more} may be stopped (SIGSTOP, a debugger), hang, or be out of reach: look at that process, or start "
        f"another consumer; what they hold goes on when they answer, when their process ends, or after its lease"
    )


def stuck(end: OutgoingQueue) -> Iterator[Finding]:
    """What is the matter with a queue that has unsettled messages, by how it is now."""
    if end.watch is not None and end.watch.waits:
        yield Finding(
            f"queue {end.queue!r}: messages that were handled are not acked before what was sent here is "
            f"settled, and nothing is",
            HANDED_ON_AFTER,
            f"{counted(len(end.consumers), 'consumer is', 'consumers are')} known; start some, give this node a "
            f'spool=, or use ack_after="return" where that was sent',
            end.watch.moved_at,
            NOT_SETTLED,
            end.queue,
        )
    if not end.consumers:
        yield Finding(
            f"queue {end.queue!r}: messages wait without a consumer",
            NO_CONSUMER_AFTER,
            "start one; node.peers() tells who consumes what",
            code=NO_CONSUMER,
            queue=end.queue,
        )
