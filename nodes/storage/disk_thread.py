"""Disk thread of a node: everything that may wait for the spool, so that the pump never does.

One round stores what waits to be synced, all of it with one sync; writes dead letters; reads what memory has room
for; and from time to time writes cursors, after which consumers may forget what they had told us.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from errno import ENOENT
from typing import Final, Protocol

from peerfabric.discovery.locks import OwnThread
from peerfabric.discovery.log import log as _log
from peerfabric.errors import SpoolError
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.waiting import ThreadWaiter, clock
from peerfabric.nodes.storage.offload import Offloaded
from peerfabric.nodes.storage.store import Loaded, Store, told_lost
from peerfabric.queue.backlog import Backlog
from peerfabric.queue.durable import DurableQueue
from peerfabric.queue.sender import Sender
from peerfabric.spool import Spool

CURSOR_EVERY: Final = 0.05
"""Seconds between cursors: what is acked within it may be sent again after a crash, to be recognised by consumers."""
CURSOR_EVERY_SYNCED: Final = 0.25
RETRY_AFTER: Final = 0.25
"""Seconds until a disk that refused is asked again."""


class SpooledQueue(Protocol):
    """A producer's handle whose messages this thread stores."""

    def store(self) -> bool:
        """Append what waits to be stored, and say whether there was something."""

    def stored(self, error: SpoolError | None) -> None:
        """What was appended is stored, or not."""

    @property
    def kept_in(self) -> Store:
        """Where it is kept."""


class Disk:
    """Runs the disk's side of all stores of one node."""

    def __init__(self, spool: Spool, producers: Sender, name: str) -> None:
        self.spool, self.producers = spool, producers
        self.stores: dict[str, Store] = {}
        self.removing: set[str] = set()
        """Queues whose files are being removed; this thread opens them anew, after that. Under the engine's lock."""
        self.pump: Pump = None  # type: ignore[assignment]  # until it is there
        self.unix_ms: Callable[[], float] = lambda: time.time_ns() / 1_000_000
        """The clock by which messages expire that are read from the disk."""
        self._waiting: deque[SpooledQueue] = deque()
        self._calls: set[Offloaded[None]] = set()
        """What is yet to be done for calls that did not wait for it."""
        self._bell = ThreadWaiter()  # an Event must not be set by a finaliser that interrupts its `set`
        self._stopped = False
        self._stored: Callable[[], None] = lambda: None
        self._cursor_at = 0.0
        self._behind = False
        """The last cursors do not have all that they should, or could not be written: nobody waits for them."""
        self._due: dict[Store, None] = {}
        """Of which something is to be stored or read, as far as we were told: what this thread does costs nothing for
        the others. Used under the engine's lock."""
        self._incomplete: set[Store] = set()
        """Those whose cursor does not have all that is settled."""
        self._sees_to_cursors = False
        """This thread comes back by itself as soon as the next cursors are due."""
        self._complained = False
        """What the disk refuses was told of, and it has not done everything since."""
        self._deleted = False
        """Somebody has deleted the spool: there is only memory now."""
        self.last_sync: float | None = None
        """The seconds that the disk took for the last sync; None: there was none."""
        self._unread: dict[Store, float] = {}
        """Stores that could not be read, and when they are asked again."""
        self._thread = OwnThread(target=self._run, name=f"peerfabric-{name}-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, stored: Callable[[], None]) -> None:
        """Store what waits, call `stored`, as nothing else is stored any more, write the last cursors, and close."""
        self._stored = stored
        self._stopped = True
        self._bell.wake()
        if self._thread.is_alive():
            self._thread.join()
        self.spool.close()

    def break_off(self) -> None:
        """End as with a process that is killed: of what waits to be stored or settled on disk nothing is."""
        self.last_round = lambda now: None  # type: ignore[method-assign]
        self._stopped = True
        self._bell.wake()
        if self._thread.is_alive():
            self._thread.join()
        self.spool.abandon()

    def abandon(self) -> None:
        """In a forked child."""
        self._stopped = True
        self._bell = ThreadWaiter()
        self.spool.abandon()

    def store(self, handle: SpooledQueue) -> None:
        """`handle` has messages to store. Any thread."""
        self._waiting.append(handle)
        self._bell.wake()

    def run(self, work: Callable[[], None]) -> None:
        """Do `work` in this thread; the caller does not wait for it, and a node that closes does. Any thread."""
        call = Offloaded(work, self._ran)
        self._calls.add(call)
        self.store(call)

    def retire(self, store: Store) -> None:
        """Remove what the disk has of a queue whose producer was closed, now or when nothing of it is wanted any more.

        In this thread.

        Raises:
            SpoolError: The disk refuses; it will be tried again when something is settled.
        """
        self._write_cursors()
        self._retire(store)

    def _retire(self, store: Store) -> None:
        with self.pump.lock:
            end, forget = store.end, store.retiring
            if forget is None or end is None or self.stores.get(store.queue) is not store:
                return
            # What was settled since the last cursor is wanted, too.
            if end.unsettled_count or end.letters() or end.backlog.changed or not store.complete:
                return
            self.removing.add(store.queue)
            del self.stores[store.queue]
            self._due.pop(store, None)
            forget()
        self._incomplete.discard(store)
        self._unread.pop(store, None)
        try:
            store.remove()
        except OSError as error:
            _log.warning("queue %r: its files stay in the spool, and nothing of them is sent: %s", store.queue, error)
        finally:
            with self.pump.lock:
                self.removing.discard(store.queue)

    def write_cursors(self) -> Offloaded[None]:
        """Have made last what is settled by now, in this thread. Any thread; the caller waits for it or not."""
        call = Offloaded(self._write_cursors, self._ran)
        self._calls.add(call)
        self.store(call)
        return call

    def _ran(self, call: Offloaded[None]) -> None:
        self._calls.discard(call)
        self.pump.wake()

    @property
    def has_calls(self) -> bool:
        """Whether something of that is yet to be done."""
        return bool(self._calls)

    def look(self) -> None:
        """A queue may have something for the disk. Any thread."""
        self._bell.wake()

    def news(self) -> bool:
        """Whether there is something for which this thread must be woken. Called under the engine's lock."""
        producers = self.producers
        urgent, producers.disk_urgent = producers.disk_urgent, False
        # An ACK that settles nothing waits for the cursors, too.
        return urgent or (not self._sees_to_cursors and bool(producers.for_disk or producers.acks_to_settle()))

    @property
    def has_work(self) -> bool:
        """Whether something of the queues is to be stored or read. Called under the engine's lock."""
        return bool(self._due or self.producers.for_disk or self.producers.acks_to_settle())

    def _run(self) -> None:
        timeout: float | None = None
        while not self._stopped:
            self._bell.wait(timeout)
            timeout = self._guarded(self.round)
        self._guarded(self.last_round)

    def _guarded(self, work: Callable[[float], float | None]) -> float | None:
        try:
            timeout = work(clock())
            if timeout is None:
                self._complained = False
            return timeout
        except SpoolError as error:
            if not self._complained:
                _log.warning("%s", error)
            self._complained = True
        except Exception:
            # As in the pump: no bug in one round may end the thread that keeps messages.
            _log.exception("a round of the disk failed; the node goes on, please report this")
        return RETRY_AFTER

    def round(self, now: float) -> float | None:
        """Do everything that is due; return when to come again at the latest, in seconds, None: when called.

        Raises:
            SpoolError: The disk refused; what was not done is done when it does not any more.
        """
        failed = [self._store_waiting()]
        cursor_at = self._next_cursors()
        if cursor_at is not None and cursor_at <= now:
            # Before all else that needs room: what a cursor settles may be trimmed.
            self._cursor_at = now + (CURSOR_EVERY_SYNCED if self.spool.fsync else CURSOR_EVERY)
            failed.append(self._tried(self._write_cursors))
        failed.append(self._tried(self._store_dead_letters))
        more = self._load(now)
        for error in failed:
            if error is not None:
                raise error
        if more or self._waiting:
            return 0.0
        cursor_at = self._next_cursors()
        times = [*self._unread.values(), *([cursor_at] if cursor_at is not None else [])]
        return max(0.0, min(times) - now) if times else None

    def last_round(self, now: float) -> None:
        """The node closes: leave everything on disk."""
        failed = [self._store_waiting()]
        self._stored()
        with self.pump.lock:
            self._due = dict.fromkeys(store for store in self.stores.values() if store.end is not None)
        failed += [self._tried(self._store_dead_letters), self._tried(self._write_cursors)]
        for error in failed:
            if error is not None:
                raise error

    @staticmethod
    def _tried(work: Callable[[], None]) -> SpoolError | None:
        """Do `work`; return why the disk refused. What fails for one must not keep the others from their part."""
        try:
            work()
        except SpoolError as error:
            return error
        return None

    def _store_waiting(self) -> SpoolError | None:
        """Store what waits, with one sync for each log; return why one of them was not synced."""
        waiting = dict.fromkeys(self._waiting.popleft() for _ in range(len(self._waiting)))
        appended = [handle for handle in waiting if handle.store()]
        failed: SpoolError | None = None
        for store in dict.fromkeys(handle.kept_in for handle in appended):
            error = None
            try:
                if store.fsync:
                    began = clock()
                    store.sync()
                    self.last_sync = clock() - began
            except SpoolError as refused:
                error = failed = refused
            try:
                with store.gather():
                    for handle in appended:
                        if handle.kept_in is store:
                            handle.stored(error)
                            if error is not None:
                                self._waiting.append(handle)
            except SpoolError as refused:
                _log.warning("queue %r: dead letters that were retried may come back: %s", store.queue, refused)
        return failed

    def _store_dead_letters(self) -> None:
        with self.pump.lock:
            taken = [(end, store, backlog, backlog.take_dead_letters()) for end, store, backlog in self._ends_due()]
        for at, (end, store, backlog, letters) in enumerate(taken):
            if not letters:
                continue
            try:
                numbers = store.store_dead_letters(letters, time.time_ns() // 1_000_000)
            except SpoolError:
                with self.pump.lock:
                    for _, _, others, unstored in taken[at:]:
                        if unstored:
                            others.put_back(unstored)
                raise
            with self.pump.lock:
                end.dead_letters_stored(numbers)
                if len(numbers) < len(letters):
                    backlog.put_back(letters[len(numbers) :])
                self.producers.disk_moved(end)
            self.pump.wake()

    def _load(self, now: float) -> bool:
        """Read what memory has room for; whether there is more.

        A store that cannot be read costs only itself: that is told once, and it is asked again later.
        """
        more = False
        with self.pump.lock:
            due = [(end, store, backlog, end.load_bytes(), end.next) for end, store, backlog in self._ends_due()]
        for end, store, backlog, wanted, behind in due:
            if self._unread.get(store, now) > now:
                continue
            if not wanted:
                self._unread.pop(store, None)
                continue
            try:
                found = store.read(wanted)
            except SpoolError as error:
                if error.errno == ENOENT and self._has_missing(store):
                    more = True  # then what follows is read; what is missing counts as damaged
                    continue
                if store not in self._unread:
                    _log.warning("queue %r: what waits on disk is not read yet: %s", store.queue, error)
                self._unread[store] = now + RETRY_AFTER
                continue
            self._unread.pop(store, None)
            with self.pump.lock:
                lost: list[tuple[int, int]] = []
                whole = True
                for item in found.records:
                    whole = self._loaded(end, item, lost, now) and whole
                if found.ended:
                    self._lose(end, behind, lost)
                store.read_to(backlog.load_at if whole else 0)
                self.producers.disk_moved(end)
                more = more or end.load_bytes() > 0
                names = [name for a, b in lost for name in end.numbering.names(a, b)]
            for damage in found.damages:
                _log.warning("queue %r: %s", store.queue, damage)
            if names:
                _log.error("queue %r: %s", store.queue, told_lost(names))
            self.pump.wake()
        return more

    def _has_missing(self, store: Store) -> bool:
        """Whether somebody has removed files of a queue. What memory still has of it, no next life will find."""
        try:
            missing = store.missing()
        except SpoolError:
            return False
        end = store.end
        with self.pump.lock:
            for name in missing:
                for low, high in end.numbering.numbers(*name) if end is not None else ():
                    assert end is not None
                    assert end.backlog is not None
                    end.backlog.volatile.add(low, high)
        if missing:
            _log.error("queue %r: files of it were removed from the spool while in use", store.queue)
        return bool(missing)

    def take_stock(self) -> None:
        """The node closes: find out what of that which is on disk the next life will not find. Any thread."""
        try:
            self.spool.hold.check()
        except SpoolError as error:
            self._is_lost(error)
            return
        for store in list(self.stores.values()):
            self._has_missing(store)

    def _is_lost(self, error: SpoolError) -> None:
        """What is on disk will not be found: all that counts from here on is memory."""
        _log.error("%s", error)
        with self.pump.lock:
            for store in self.stores.values():
                if store.end is not None and store.end.backlog is not None:
                    store.end.backlog.kept = False

    def _loaded(self, end: DurableQueue, item: Loaded, lost: list[tuple[int, int]], now: float) -> bool:
        """Give `end` what was read; whether all of it was taken. What it had to give up is added to `lost`."""
        assert end.backlog is not None
        first, stop = next(end.numbering.numbers(item.stream, item.sequence, item.sequence + item.count), (0, 0))
        if end.backlog.load_at < first < end.next:
            self._lose(end, first, lost)
        if item.bodies:
            expires = item.expires_at(now, self.unix_ms())
            kind = (expires, 0) if expires is not None else None
            return end.loaded(item.stream, item.sequence, item.bodies, item.sent_ms, item.extras, kind, now)
        self._lose(end, min(stop, end.next), lost)
        return stop <= end.next

    @staticmethod
    def _lose(end: DurableQueue, stop: int, lost: list[tuple[int, int]]) -> None:
        """What `end` waits for below `stop` is damaged."""
        assert end.backlog is not None
        lost += end.backlog.settled.missing(end.backlog.load_at, stop)
        end.lose(stop)

    def _next_cursors(self) -> float | None:
        """When cursors are to be written next: soon, or now if a start waits for them. None: there is nothing new."""
        with self.pump.lock:
            due = self._ends_due()
            changed = [end for end, _, backlog in due if backlog.changed]
            self._due = {s: None for end, s, backlog in due if backlog.changed or s in self._unread or end.load_bytes()}
            self._sees_to_cursors = bool(changed) or bool(self.producers.acks_to_settle())
            if not self._sees_to_cursors:
                return None
            return 0.0 if not self._behind and self.producers.awaits_cursors(changed) else self._cursor_at

    def _ends_due(self) -> list[tuple[DurableQueue, Store, Backlog]]:
        """The queues of `_due`, with those that the engine tells of by now. Called under its lock."""
        told, self.producers.for_disk = self.producers.for_disk, {}
        self._due.update(dict.fromkeys(self.stores[end.queue] for end in told))
        found = []
        for store in self._due:
            end = store.end
            assert end is not None
            found.append((end, store, end.backlog))
        return found

    def _write_cursors(self) -> None:
        if not self._deleted and self.spool.hold.is_deleted():
            self._deleted = True
            error = self._tried(self.spool.hold.check)
            if error is not None:
                self._is_lost(error)
        with self.pump.lock:
            acks = self.producers.acks_to_settle()
            due = []
            for end, store, backlog in self._ends_due():
                if backlog.changed:
                    settled = [name for a, b in backlog.take_settled() for name in end.numbering.names(a, b)]
                    due.append((end, store, backlog, settled, end.take_news(), end.floor))
        for _, store, _, settled, news, _ in due:
            store.settle(settled)
            store.remember(news)
        self._behind = True
        try:
            for _, store, _, _, _, _ in due:
                store.write_cursor()
        except SpoolError:
            with self.pump.lock:
                for _, _, backlog, _, _, _ in due:
                    backlog.changed = True
            raise
        for _, store, _, _, _, _ in due:
            (self._incomplete.discard if store.complete else self._incomplete.add)(store)
        self._behind = bool(self._incomplete)
        self.spool.died = False  # whom it accuses the cursors have by now
        with self.pump.lock:
            if not self._behind:
                self.producers.cursors_stored(acks)
            for end, store, backlog, _, news, floor in due:
                backlog.cursor_stored(floor, news)
                backlog.changed = backlog.changed or store.forgetful
                self.producers.disk_moved(end)  # there may be room again
        for _, store, _, _, _, _ in due:
            if store.retiring is not None:
                self._retire(store)
        self.pump.wake()
