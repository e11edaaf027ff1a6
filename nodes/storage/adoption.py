"""Adoption: the thread of a node that runs the orphans of its spool's folder as adopted nodes.

Once a second it looks at the slots of the folder (`Slots.sights`). An orphan whose messages somebody consumes
(`Orphans` says which, and when) becomes the spool of an adopted node: a node in this process with an engine, a pump and
a disk's thread of its own, which goes on where the dead one ended, under the same node id and in its next epoch. It
looks for nobody and announces nothing: once a second it is told the addresses of consumers that its host knows.

All that waits for a disk, adopting and letting go among it, happens in this thread, never in an event loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from peerfabric.discovery.locks import OwnThread
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.reminder import Reminders
from peerfabric.errors import FabricError, NodeClosed, SpoolError, SpoolLocked, counted
from peerfabric.health import Finding
from peerfabric.nodes.io.waiting import Gate, ThreadWaiter, clock
from peerfabric.nodes.storage.store import letters_in
from peerfabric.reports import Adopted, DeadLetter
from peerfabric.spool.orphans import Consumer, Orphans
from peerfabric.spool.slots import Slots, SlotSight
from peerfabric.wire.frames import Address

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the slots."""
LOOK_EVERY_MAX: Final = 5.0
"""The same where there are many slots."""
SHARE: Final = 0.0005
"""Of this thread's time that looking may take."""
LEAVE_TIME: Final = 1.0
"""Seconds that an adopted node of which all is settled waits for its last acks to be known."""


class Progress(NamedTuple):
    """How far an adopted node has come: see `Orphans.keeps`.

    has_stopped   it has ended by itself, as another copy of it runs
    """

    unsettled: int
    acked: int
    consumed: bool
    has_stopped: bool


class AdoptedNode(Protocol):
    """A node that runs the slot of another one that ended."""

    node_id: str
    queues: Sequence[str]
    """Of which there is something in its slot."""

    def start(self) -> bool:
        """Open the slot and run; False if somebody else has it by now.

        Raises:
            FabricError: It cannot; nothing is left of the start.
        """

    def progress(self) -> Progress: ...

    def offer(self, consumers: Mapping[str, Address]) -> None:
        """These may consume its queues, by node id, and no others."""

    def letters(self, queue: str) -> list[DeadLetter]: ...

    def retry(self, letter: DeadLetter) -> bool:
        """Send a dead letter again; False if it is none any more."""

    def drop(self, letter: DeadLetter) -> bool: ...

    def report(self) -> Adopted: ...

    def say_bye(self) -> None:
        """Begin to part from all peers, and wait for none of them."""

    def end(self, timeout: float) -> int:
        """Settle what can be within `timeout` seconds, part, and leave the rest in the slot: return how much it is."""


class Request:
    """What a person wants done with a dead letter of a slot that this node has not."""

    def __init__(self, number: int, letter: DeadLetter, *, retry: bool) -> None:
        self.number, self.letter, self.retry = number, letter, retry
        self.gate = Gate()
        """Opens when it is over."""
        self.is_over = False
        self.done = False
        """The letter was there, and is retried or dropped."""
        self.error: FabricError | None = None

    def over(self, *, done: bool = False, error: FabricError | None = None) -> None:
        self.done, self.error, self.is_over = done, error, True
        self.gate.open()


class Adoption:
    """Looks after the orphans of one folder for one node, its host.

    Args:
        name: Of the host, for texts.
        make: Gives the adopted node of a slot, which is not started yet.
        consumers_of: Where nodes are that consume a queue, as far as the host knows.
        tell: Takes what a person should know of orphans that are not adopted.
    """

    def __init__(
        self,
        name: str,
        slots: Slots,
        orphans: Orphans,
        make: Callable[[SlotSight], AdoptedNode],
        consumers_of: Callable[[str], list[Address]],
        tell: Callable[[tuple[Finding, ...]], None],
        *,
        serves: bool = False,
    ) -> None:
        self._name, self._slots, self.orphans, self._make = name, slots, orphans, make
        self._consumers_of, self._tell, self._serves = consumers_of, tell, serves
        self._nodes: dict[int, AdoptedNode] = {}
        """By the number of their slots. Other threads read a copy."""
        self._requests: deque[Request] = deque()
        self._found: dict[str, list[Address]] = {}
        """What `consumers_of` has said in this round."""
        self.parked = 0
        """Dead letters in slots that nobody has, as of the last round."""
        self._bell = ThreadWaiter()
        self._stopped = False
        self._reminders = Reminders()
        self.looked = Gate()
        """Opens after each round."""
        self._thread = OwnThread(target=self._run, name=f"peerfabric-{name}-adoption", daemon=True)

    # Any thread

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Begin to let go of all that was adopted; waits for nothing."""
        self._stopped = True
        self._bell.wake()

    def join(self) -> None:
        """Return when nothing is adopted any more, after `leave`."""
        self.leave()
        if self._thread.ident is not None:
            self._thread.join()

    def reports(self) -> tuple[Adopted, ...]:
        """What is adopted now, lowest slot first. Takes the locks of other engines, one after the other."""
        return tuple(node.report() for _, node in sorted(dict(self._nodes).items()))

    def letters(self, queue: str) -> list[tuple[int, DeadLetter]]:
        """The dead letters of `queue` in slots that this node has adopted, or that nobody has, with their numbers.

        Waits for the disk. What cannot be read is said in the log, and hides nothing of what can.
        """
        adopted = dict(self._nodes)
        found = [(number, letter) for number, node in sorted(adopted.items()) for letter in node.letters(queue)]
        for sight in self._slots.sights(everything=True):
            # While somebody chooses a slot nobody knows what is held; who has one keeps us out of it anyway.
            if sight.number in adopted or sight.held is True or not self.orphans.may_be_ours(sight):
                continue
            try:
                found += [(sight.number, letter) for letter in letters_in(sight.folder, queue)]
            except SpoolError as error:
                _log.warning("%s: dead letters in slot %d cannot be listed: %s", self._name, sight.number, error)
        return sorted(found, key=lambda pair: pair[0])

    def parked_letters(self, queue: str | None) -> Iterator[tuple[int, DeadLetter]]:
        """The dead letters of a queue, or of all, in slots that nobody has, with their numbers; as `letters`."""
        for sight in self._slots.sights(everything=True):
            if sight.number in self._nodes or sight.held is True or not self.orphans.may_be_ours(sight):
                continue
            for name in sorted(sight.queues):
                if queue not in (name, None):
                    continue
                try:
                    found = letters_in(sight.folder, name)
                except SpoolError as error:
                    _log.warning("%s: dead letters in slot %d cannot be listed: %s", self._name, sight.number, error)
                    continue
                yield from ((sight.number, letter) for letter in found)

    def ask(self, request: Request) -> None:
        """Have that done soon, in this object's thread."""
        self._requests.append(request)
        if self._stopped:
            self._refuse_requests()
        self._bell.wake()

    # Its thread

    def _run(self) -> None:
        wait = LOOK_EVERY
        while True:
            self._bell.wait(wait)
            if self._stopped:
                break
            began = time.thread_time()
            self._guarded(lambda: self.round(clock()))
            # With nothing to do, a look takes the same time again and again: it is made no more often than it may be.
            took = time.thread_time() - began
            wait = min(LOOK_EVERY_MAX, max(LOOK_EVERY, took / SHARE)) if self.orphans.is_idle else LOOK_EVERY
            self.looked.open()
        self._guarded(self.let_go_of_all)
        self._refuse_requests()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except FabricError as error:
            if self._reminders.due("look", clock()):
                _log.warning("%s: the slots of its spool cannot be looked at: %s", self._name, error)
        except Exception:
            # As in the pump: no bug in one round may end the thread, which has slots to give back.
            if self._reminders.due("bug", clock()):
                _log.exception("a look at orphans failed; the node goes on, please report this")

    def round(self, now: float) -> None:
        """Adopt what is to be adopted, do what was asked for, look after what was adopted.

        Raises:
            SpoolError: The folder cannot be read.
        """
        self._found.clear()
        requests = [self._requests.popleft() for _ in range(len(self._requests))]
        try:
            self._round(requests, now)
        finally:
            # Whatever went wrong, somebody waits for each of them.
            for request in requests:
                if not request.is_over:
                    request.over(error=self._not_to_be_had(request.number))

    def _round(self, requests: list[Request], now: float) -> None:
        for request in requests:
            if request.number not in self._nodes:
                self.orphans.want(request.number)
        sights = {sight.number: sight for sight in self._slots.sights()}
        self.parked = sum(
            sight.sheet.letters
            for sight in sights.values()
            if sight.held is False and sight.sheet and not sight.sheet.pid and self.orphans.may_be_ours(sight)
        )
        served = (lambda: False) if self._serves else (lambda: self._slots.is_served)
        for number in self.orphans.look(sights.values(), self._keys, now, served=served):
            if self._stopped:
                break
            self._adopt(number, sights.get(number), now)
        for request in requests:
            self._do(request)
        for number in list(self._nodes):
            self._look_after(number, now)
        self._tell(tuple(self.orphans.findings(self._slots.folder, now)))

    def _keys(self, queue: str) -> list[Consumer]:
        return list(map(_key, self._addresses(queue)))

    def _addresses(self, queue: str) -> list[Address]:
        found = self._found.get(queue)
        if found is None:
            found = self._found[queue] = self._consumers_of(queue)
        return found

    def _adopt(self, number: int, sight: SlotSight | None, now: float) -> None:
        if sight is None:
            self.orphans.passed_by(number)
            return
        node = self._make(sight)
        try:
            started = node.start()
        except Exception as error:
            self.orphans.refused(number, now)
            if not isinstance(error, FabricError):
                raise
            if self._reminders.due(f"adopt {number}", now):
                _log.error("%s: slot %d of %s is not adopted: %s", self._name, number, self._slots.folder, error)
            return
        if not started:
            self.orphans.passed_by(number)
            return
        self._nodes[number] = node
        self.orphans.adopted(number, now)
        left = counted(node.progress().unsettled, "message")
        text = "%s has adopted slot %d of %s, with %s of %s, which is gone"
        _log.info(text, self._name, number, self._slots.folder, left, node.report().name or node.node_id)

    def _do(self, request: Request) -> None:
        node = self._nodes.get(request.number)
        if node is None:
            request.over(error=self._not_to_be_had(request.number))
            return
        try:
            request.over(done=node.retry(request.letter) if request.retry else node.drop(request.letter))
        except FabricError as error:
            request.over(error=error)

    def _not_to_be_had(self, number: int) -> SpoolLocked:
        problem = f"slot {number} is in use, or cannot be opened, as the log would say"
        return SpoolLocked(self._slots.folder, 0, problem, stop="try again", step="see `peerfabric spool ls`")

    def _look_after(self, number: int, now: float) -> None:
        node, orphans = self._nodes[number], self.orphans
        found = {a.node_id: a for queue in node.queues for a in self._addresses(queue) if a.node_id != node.node_id}
        node.offer(found)
        orphans.offered(number, map(_key, found.values()))
        progress = node.progress()
        kept = orphans.keeps(
            number, unsettled=progress.unsettled, acked=progress.acked, consumed=progress.consumed, now=now
        )
        if progress.has_stopped or not kept:
            timeout = LEAVE_TIME if not progress.unsettled else 0.0
            self._let_go(number, timeout, now, for_good=progress.has_stopped)

    def _let_go(self, number: int, timeout: float, now: float, *, for_good: bool = False) -> None:
        try:
            left = self._nodes[number].end(timeout)
        finally:
            # Whatever went wrong, it is not there any more.
            del self._nodes[number]
            self.orphans.let_go(number, now, for_good=for_good)
        text = "%s has let go of slot %d of %s, with %s left"
        _log.info(text, self._name, number, self._slots.folder, counted(left, "message"))

    def let_go_of_all(self) -> None:
        """The host closes: leave what is not settled to others."""
        for node in self._nodes.values():
            node.say_bye()  # to all at once, as each waits a moment for the answers
        for number in list(self._nodes):
            self._guarded(lambda number=number: self._let_go(number, 0.0, clock()))  # type: ignore[misc]

    def _refuse_requests(self) -> None:
        try:
            while True:
                self._requests.popleft().over(error=NodeClosed())
        except IndexError:
            pass  # the thread and whoever asked late may both be here


def _key(address: Address) -> Consumer:
    return address.node_id, address.epoch, address.version
