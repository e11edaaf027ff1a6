"""Pending messages of one outgoing queue: new, redelivered and delayed ones, and which a consumer gets next.

fresh       never sent in this life, in order
returned    given back; they go before fresh ones, each to who may have it
delayed     failed; they are returned when their time has come

Each of them may have a time after which it is not sent any more, but ends as expired.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from math import inf
from random import Random
from typing import Final

from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import JOIN_MS, MESSAGE_OVERHEAD, Kind, Run, Runs, cost, joins
from peerfabric.ranges import Ranges
from peerfabric.wire.bodies import cuts
from peerfabric.wire.frames import Extra

FRAME_BYTES_AIM: Final = 256 * 1024
"""Large enough that a call per frame costs nothing per message, small enough that control waits little."""
EXTRAS_MAX: Final = 200
"""Messages with headers in one frame: each may have 8 KiB of them, twice that with what is around the shortest, and a
peer reads no header over 4 MiB."""

PREFER_OTHERS_FOR: Final = 1.0
"""Seconds that a failed message waits for another consumer, if there is one, before the same may have it again."""
REFUSED_EVERY: Final = 5.0
"""How often messages that somebody refused are compared with who is left to take them."""

LOOK_THROUGH: Final = 5e-6
"""Seconds for each run here that pass before all are looked through again for those that have expired: so that takes a
twentieth of the time at most. What is about to be sent is looked at besides."""

BACKOFF_BASE: Final = 0.1
BACKOFF_MAX: Final = 30.0

_DELAYED, _PREFERRED, _COMPARE, _OTHERS = range(4)
"""Kinds of timers: a delay is over, a preference for others ends, what was refused is compared with who is there; and
what is not of this module."""


class Pending:
    """The runs of one queue that nobody holds.

    Args:
        numbering: Where one life ends and the next begins: no run reaches over that.
        random: Source of jitter.
    """

    def __init__(self, numbering: Numbering, random: Random) -> None:
        self._numbering = numbering
        self._random = random
        self._fresh: deque[Run] = deque()
        self._returned = Runs()
        self._delayed = Runs()
        self.count = 0
        """Messages that could be sent now."""
        self.timers: list[tuple[float, int, int, int]] = []
        """Heap of (when, kind, start, stop): what becomes due of `[start, stop)`, if that is still so."""
        self._compares = False
        """What was refused is compared with who is there, by a timer, as long as something waits that was."""
        self.expires_at = inf
        """When `take_expired` is due, for which there is a timer: when the first of them expires, or a little later."""
        self._rests_until = -inf

    @property
    def has_returned(self) -> bool:
        """Whether something given back waits."""
        return bool(self._returned.runs)

    @property
    def delayed_count(self) -> int:
        return self._delayed.count

    def refused_count(self, node_id: str) -> int:
        """How many of those that could be sent now `node_id` has refused."""
        return sum(len(run.bodies) for run in self._returned if node_id in run.refused_by) if self._compares else 0

    def is_returned(self, start: int, stop: int) -> bool:
        """Whether something of `[start, stop)` waits to be sent again."""
        return any(run.first < stop and start < run.stop for run in self._returned)

    # Coming

    def append(
        self,
        first: int,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None,
        codec: int | None = None,
        kind: Kind | None = None,
    ) -> int:
        """Messages from number `first` on are new; return what they cost. One with a codec of its own has extras."""
        sizes = list(map(len, bodies))
        total = sum(sizes) + MESSAGE_OVERHEAD * len(sizes)
        self.count += len(bodies)
        if kind is not None and kind[0] < self.expires_at:
            self._expires(kind[0])
        if extras is not None:
            having = sorted(extras)
            edges = [0, *having[EXTRAS_MAX::EXTRAS_MAX], len(bodies)]
            for part, (low, high) in enumerate(pairwise(edges)):
                run = Run(first + low, bodies[low:high], cost(bodies[low:high]), sent_ms, kind)
                own = having[part * EXTRAS_MAX : (part + 1) * EXTRAS_MAX]
                run.extras = {first + at: extras[at] for at in own}
                run.codec = codec
                self._fresh.append(run)
            return total
        last = self._fresh[-1] if self._fresh else None
        if (
            last is not None
            and last.extras is None
            and last.cost + total <= FRAME_BYTES_AIM
            and last.stop == first
            and -JOIN_MS <= sent_ms - last.sent_ms <= JOIN_MS
            and last.codec is None
            and first > self._numbering.base + 1
            and (last.kind is kind or joins(last.kind, kind))
        ):
            last.extend(bodies, total)
        elif total <= FRAME_BYTES_AIM:
            self._fresh.append(Run(first, bodies, total, sent_ms, kind))
        else:
            for low, high in pairwise(cuts(sizes, FRAME_BYTES_AIM, MESSAGE_OVERHEAD)):
                part_cost = sum(sizes[low:high]) + MESSAGE_OVERHEAD * (high - low)
                self._fresh.append(Run(first + low, bodies[low:high], part_cost, sent_ms, kind))
        return total

    def add_loaded(self, run: Run) -> None:
        """`run` was read from disk, in order."""
        if run.kind is not None and run.kind[0] < self.expires_at:
            self._expires(run.kind[0])
        if run.fresh() or (run.attempt == 1 and not run.deaths):
            self._fresh.append(run)
            self.count += len(run.bodies)
        else:
            self._return(run)

    def give_back(self, run: Run) -> None:
        """`run` goes to whoever may have it, at once: somebody who has not refused it."""
        self._return(run)
        if run.refused_by:
            run.doomed_at = inf
            if not self._compares:
                self._compares = True
                heapq.heappush(self.timers, (-inf, _COMPARE, 0, 0))  # at the next `expire`, which knows who is there

    def _return(self, run: Run) -> None:
        self._returned.add(run)
        self.count += len(run.bodies)
        if run.kind is not None and run.kind[0] < self.expires_at:
            self._expires(run.kind[0])

    def _take_returned(self, start: int, stop: int) -> list[Run]:
        runs = self._returned.take(start, stop)
        self.count -= sum(len(run.bodies) for run in runs)
        return runs

    def again(self, run: Run, now: float, delay: float) -> None:
        """`run` failed, and may be sent again in `delay` seconds, first of all to others."""
        self.prefer_others(run, now + delay)
        if delay > 0:
            self._delay(run, now + delay)
        else:
            self.give_back(run)

    def split(self, run: Run, now: float) -> None:
        """`run` failed as a whole: each message travels alone from here, first of all to others."""
        self.prefer_others(run, now)
        for single in _singles(run):
            single.alone = True
            self.give_back(single)

    def broke(self, start: int, stop: int, now: float) -> None:
        """The frame with `[start, stop)` was the first to get lost as a peer renewed the link, perhaps because of it.

        The second time its messages travel alone, each time later than before: the one that nobody can read must
        not keep the link from the others.
        """
        for run in self._take_returned(start, stop):
            run.breaks += 1
            parts = list(_singles(run)) if run.breaks > 1 else [run]
            for part in parts:
                part.alone = part.breaks > 1
                if part.breaks > 1:
                    self._delay(part, now + self.backoff(part.breaks - 1))
                else:
                    self.give_back(part)

    def backoff(self, attempt: int) -> float:
        """Seconds until what failed for the `attempt`-th time is sent again, if nobody has said."""
        full = min(BACKOFF_MAX, BACKOFF_BASE * float(2 ** min(attempt - 1, 16)))
        return full * (0.5 + self._random.random() / 2)

    def _delay(self, run: Run, until: float) -> None:
        self._delayed.add(run)
        heapq.heappush(self.timers, (until, _DELAYED, run.first, run.stop))
        if run.kind is not None and run.kind[0] < self.expires_at:
            self._expires(run.kind[0])

    def prefer_others(self, run: Run, since: float) -> None:
        """For some time `run` goes to others than those that it avoids, if there are any."""
        run.prefer_until = since + PREFER_OTHERS_FOR
        heapq.heappush(self.timers, (run.prefer_until, _PREFERRED, run.first, run.stop))

    # In time

    def expire(self, now: float, known: Collection[str]) -> list[Run]:
        """Make available what has waited long enough; remove and return what all of `known` have refused.

        Those who might have taken a refused message may have left since. They have REFUSED_EVERY seconds to come back.
        """
        lost: list[Run] = []
        while self.timers and self.timers[0][0] <= now:
            _, kind, start, stop = heapq.heappop(self.timers)
            if kind == _DELAYED:
                for run in self._delayed.take(start, stop):
                    self.give_back(run)
            elif kind == _PREFERRED:
                for run in self._returned.take(start, stop):
                    if run.prefer_until <= now:  # else it has failed once more since
                        run.avoids = frozenset()
                    self._returned.add(run)
            elif kind == _COMPARE:
                lost = self._compare(now, set(known))
        return lost

    def _compare(self, now: float, everybody: set[str]) -> list[Run]:
        refused = [run for run in self._returned if run.refused_by]
        lost = [run for run in refused if self._is_lost(run, everybody, now)]
        for run in lost:
            self._remove(run)
        self._compares = len(lost) < len(refused)
        if self._compares:
            heapq.heappush(self.timers, (now + REFUSED_EVERY, _COMPARE, 0, 0))
        return lost

    def _remove(self, run: Run) -> None:
        self._returned.remove(run)
        self.count -= len(run.bodies)

    @staticmethod
    def _is_lost(run: Run, everybody: set[str], now: float) -> bool:
        """Whether for long enough nobody has been there who may have `run`."""
        if not everybody or not run.refused_by >= everybody:
            run.doomed_at = inf
            return False
        run.doomed_at = min(run.doomed_at, now)
        return now - run.doomed_at >= REFUSED_EVERY

    def _expires(self, at: float) -> None:
        """Something here expires at that instant."""
        at = max(at, self._rests_until)
        if at < self.expires_at:
            self.expires_at = at
            self.look_at(at)

    def take_expired(self, now: float) -> list[Run]:
        """Remove and return what has expired, once that is due."""
        if now < self.expires_at:
            return []
        fresh, expired = self._fresh, list[Run]()
        while fresh and fresh[0].kind is not None and fresh[0].kind[0] <= now:  # mostly in the order of sending
            expired.append(fresh.popleft())
        if among := _expired(fresh, now):
            self._fresh = fresh = deque(run for run in fresh if run not in among)
            expired += among
        self.count -= sum(len(run.bodies) for run in expired)
        for run in _expired(self._returned, now):
            self._remove(run)
            expired.append(run)
        for run in _expired(self._delayed, now):
            self._delayed.remove(run)
            expired.append(run)
        self.expires_at = inf
        self._rests_until = now + LOOK_THROUGH * (len(fresh) + len(self._returned) + len(self._delayed))
        following = self._first_to_expire()
        if following < inf:
            self._expires(following)
        return expired

    def _first_to_expire(self) -> float:
        runs = chain(self._fresh, self._returned, self._delayed)
        return min((run.kind[0] for run in runs if run.kind is not None), default=inf)

    def look_at(self, when: float) -> None:
        """Something of the queue that is not known here becomes due then."""
        heapq.heappush(self.timers, (when, _OTHERS, 0, 0))

    def deadline(self) -> float | None:
        """When `expire` has something to do; None: nothing waits for its time."""
        return self.timers[0][0] if self.timers else None

    # Going

    def pick(
        self,
        node_id: str,
        messages: int,
        size: int,
        size_max: float,
        room: Callable[[int], int],
        known: Collection[str],
    ) -> Run | None:
        """Remove and return what a consumer should get in its next frame; None if nothing here is for it.

        Args:
            node_id: The consumer's.
            messages: How many of them at most.
            size: How many bytes; a single message may have more,
            size_max: but not more than this.
            room: By their deaths, how many messages it may have besides what it has.
            known: Node ids of all who consume.
        """
        if self._returned.runs:
            run = self._pick_returned(node_id, messages, size, size_max, room, known)
            if run is not None:
                return run
        fresh = self._fresh
        if not fresh or len(fresh[0].bodies[0]) + MESSAGE_OVERHEAD > size_max:
            return None
        run = fresh.popleft()
        if len(run.bodies) > messages or run.cost > size:
            rest = _trim(run, messages, size)
            if rest is not None:
                fresh.appendleft(rest)
        elif fresh and run.fresh():
            self._extend(run, messages, size)
        self.count -= len(run.bodies)
        return run

    def _pick_returned(
        self,
        node_id: str,
        messages: int,
        size: int,
        size_max: float,
        room: Callable[[int], int],
        known: Collection[str],
    ) -> Run | None:
        for run in self._returned:
            if not _may_go(run, node_id, known):
                continue
            allowed = min(messages, 1 if run.alone else messages, room(run.deaths))
            if allowed < 1 or len(run.bodies[0]) + MESSAGE_OVERHEAD > size_max:
                continue
            self._remove(run)
            if len(run.bodies) > allowed or run.cost > size:
                rest = _trim(run, allowed, size)
                if rest is not None:
                    self._return(rest)
            return run
        return None

    def has_isolated(self, node_id: str, known: Collection[str]) -> bool:
        """Whether an isolated message waits that `node_id` may have, once it has nothing else."""
        return any(run.isolated and _may_go(run, node_id, known) for run in self._returned)

    def _extend(self, run: Run, messages: int, size: int) -> None:
        """Let the fresh runs that follow `run` travel with it, as far as there is room."""
        while self._fresh:
            follower = self._fresh[0]
            if not follower.fresh() or len(run.bodies) + len(follower.bodies) > messages:
                break
            if run.cost + follower.cost > size or run.stop != follower.first or run.codec != follower.codec:
                break
            if not -JOIN_MS <= follower.sent_ms - run.sent_ms <= JOIN_MS:
                break
            if run.kind is not follower.kind and not joins(run.kind, follower.kind):
                break
            if follower.first <= self._numbering.base + 1 and self._numbering.begins_era(follower.first):
                break
            run.extend(follower.bodies, follower.cost)
            self._fresh.popleft()

    def take_oldest(self, size: int) -> Run:
        """Remove and return the first messages that could be sent now, as many as have `size` bytes, or one."""
        run = self._returned.runs[0] if self._returned else self._fresh[0]
        sizes = [len(body) + MESSAGE_OVERHEAD for body in run.bodies]
        edge = run.first + cuts(sizes, max(1, size))[1]
        if self._returned:
            [run] = self._take_returned(run.first, edge)
            return run
        if edge < run.stop:
            self._fresh[0] = run.cut(edge)
        else:
            self._fresh.popleft()
        self.count -= len(run.bodies)
        return run

    def take(self, start: int, stop: int) -> list[Run]:
        """Remove and return `[start, stop)`, of which this life may not have sent anything yet if it is of others."""
        runs = self._take_returned(start, stop) + self._delayed.take(start, stop)
        if start <= self._numbering.base:
            runs += self._take_fresh(start, stop)
        return runs

    def take_undelayed(self, start: int, stop: int) -> list[Run]:
        """Remove and return what could be sent now of `[start, stop)`."""
        return self._take_fresh(start, stop) + self._take_returned(start, stop)

    def _take_fresh(self, start: int, stop: int) -> list[Run]:
        table = Runs(self._fresh)
        taken = table.take(start, stop)
        self._fresh = deque(table.runs)
        self.count = table.count + self._returned.count
        return taken

    def take_returned(self, which: Callable[[Run], bool]) -> list[Run]:
        """Remove and return those given back of which `which` is true."""
        found = [run for run in self._returned if which(run)]
        for run in found:
            self._remove(run)
        return found

    def ready(self) -> list[Run]:
        """Of the new ones, and of those given back, the run with the lowest number: what could be sent first."""
        return [runs[0] for runs in (self._fresh, self._returned.runs) if runs]

    def fronts(self) -> list[Run]:
        """As `ready`, delayed ones included."""
        return [*self.ready(), *self._delayed.runs[:1]]

    def take_all(self) -> list[Run]:
        """Remove and return everything, delayed ones included."""
        runs = [*self._returned.take_all(), *self._delayed.take_all(), *self._fresh]
        self._fresh.clear()
        self.count = 0
        return runs

    def clear(self) -> int:
        """Nothing waits any more; return what it cost."""
        released = self._returned.cost + self._delayed.cost + sum(run.cost for run in self._fresh)
        self._returned.take_all()
        self._delayed.take_all()
        self._fresh.clear()
        self.count = 0
        return released

    def places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        """Each kind with its runs."""
        yield "waiting", list(self._fresh)
        yield "returned", self._returned.runs
        yield "delayed", self._delayed.runs

    def check(self) -> None:
        """Assert that the count is the sum, tables are in order, and whatever waits for its time has one."""
        fresh = sum(len(run.bodies) for run in self._fresh)
        assert self.count == fresh + self._returned.count, "count is not the sum"
        refused = any(run.refused_by for run in self._returned)
        assert not refused or self._compares, "what was refused is compared with nobody"
        kinds = [kind for _, kind, _, _ in self.timers]
        assert kinds.count(_COMPARE) == self._compares, "a comparison without its timer"
        due = Ranges((start, stop) for _, kind, start, stop in self.timers if kind == _DELAYED)
        assert not any(due.missing(run.first, run.stop) for run in self._delayed), "a delay never ends"
        first = self._first_to_expire()
        assert first == inf or self.expires_at <= max(first, self._rests_until), "what expires is not looked for"
        assert self.expires_at == inf or (self.expires_at, _OTHERS, 0, 0) in self.timers, "an expiry without its timer"
        self._returned.check()
        self._delayed.check()


def _expired(runs: Iterable[Run], now: float) -> dict[Run, None]:
    return {run: None for run in runs if run.kind is not None and run.kind[0] <= now}


def _may_go(run: Run, node_id: str, known: Collection[str]) -> bool:
    return node_id not in run.refused_by and (node_id not in run.avoids or run.avoids.issuperset(known))


def _trim(run: Run, messages: int, size: int) -> Run | None:
    """Cut `run` to at most `messages` and about `size` bytes, at least one message; return the rest."""
    if len(run.bodies) <= messages and run.cost <= size:
        return None
    kept = run.bodies[:messages]
    edge = len(kept) if cost(kept) <= size else cuts(list(map(len, kept)), max(1, size), MESSAGE_OVERHEAD)[1]
    return run.cut(run.first + edge) if edge < len(run.bodies) else None


def _singles(run: Run) -> Iterator[Run]:
    while len(run.bodies) > 1:
        rest = run.cut(run.first + 1)
        yield run
        run = rest
    yield run
