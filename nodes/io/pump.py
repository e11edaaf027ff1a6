"""Pump: the one I/O thread of a node, which moves frames between the engine and the sockets.

One turn takes what users handed over and what the sockets brought, lets the engine act on it, carries out
what the engine asks for, and wakes whoever may go on. Whatever accumulated meanwhile leaves as one batch, so
batches grow with load by themselves. It never waits for a user or a peer.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from peerfabric.discovery.locks import Lock, OwnThread, Rank
from peerfabric.discovery.log import log as _log
from peerfabric.engine import Engine
from peerfabric.link.commands import Dial, Follow, HangUp, Probe, Subscribe, Unfollow, Unsubscribe
from peerfabric.nodes.io.events import (
    Connected,
    Disconnected,
    Event,
    Probed,
    Published,
    Received,
    Refused,
    Writable,
)
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.io.waiting import Gate, clock

if TYPE_CHECKING:
    from peerfabric.service.served import Served

READ_MAX: Final = 64
"""Messages of each socket that a turn reads."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what is outside of the engine; an idle engine makes no turns that often."""

NAP: Final = 0.002
"""Seconds for which a pump that was handed something, or let users go on, waits for more of what is not urgent."""


class Handle(Protocol):
    """What a user holds, seen from the pump."""

    alerted: bool
    end: Any

    def hand_over(self, engine: Engine, now: float) -> None:
        """Give the engine what the user handed over since the last call. Called under the engine's lock."""

    def handed_over(self) -> None:
        """The turn that took it has ended, and what it could send is sent. Without the engine's lock."""

    def changed(self) -> None:
        """Something of the handle's end has changed: wake those who wait for it. Without the engine's lock."""


class Disk(Protocol):
    """The disk's thread, seen from the pump."""

    def news(self) -> bool:
        """Whether an end has something for it. Called under the engine's lock."""

    def look(self) -> None:
        """Let it see to that."""


_running: Final[set[Pump]] = set()
"""Those of this process: where there are several, the log says of each line whose it is."""


class Pump:
    """Runs an engine over real sockets. `lock` guards the engine."""

    def __init__(self, engine: Engine, sockets: Sockets, name: str) -> None:
        self.engine = engine
        self.lock = Lock(Rank.ENGINE)
        self.turned = Gate()
        """Opens after every turn in which a link or the closing of the node may have moved on."""
        self.on_announced: Callable[[Any], None] = lambda address: None
        """Called, in this thread, with the node's own address when it has changed."""
        self.on_superseded: Callable[[str], None] = lambda endpoint: None
        """Called, in this thread, with the endpoint of a later life of this very node."""
        self.on_disconnected: Callable[[], None] = lambda: None
        """Called, in this thread and under `lock`, when a connection of a wire was lost. It only takes note."""
        self.disk: Disk | None = None
        self._looks: list[Callable[[], None]] = []
        self._look_at = inf
        self._sockets = sockets
        # A line of the log could call a user's handler under `lock`. The records need no lock here: nobody but this
        # pump's thread, which is the one that complains, takes them.
        sockets.complain_by(lambda text: engine.records.add("warning", text))
        self._calls: deque[Callable[[], None]] = deque()
        self._alerts: deque[Handle] = deque()
        self._watched: list[Handle] = []
        """Those that are asked again in the next turn, though they may have nothing to hand over."""
        self._handles: dict[Any, Handle] = {}
        self._stopped = False
        self._napping = False
        self._sleeps_until = self._turned_at = -inf
        """When it makes its next turn, if nobody wakes it before, and when it began its last one."""
        self.main_thread = threading.main_thread().ident
        """The one that may be interrupted anywhere by what a signal raises."""
        self._name = name
        self._thread = OwnThread(target=self._run, name=f"peerfabric-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()
        _running.add(self)

    def stop(self) -> None:
        """End the thread and close the sockets."""
        _running.discard(self)
        self._stopped = True
        self._sockets.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def break_off(self) -> None:
        """As `stop`, as with a process that is killed: what others dial refuses them from then on."""
        self._sockets._listeners.leave_files()
        self.stop()

    def abandon(self) -> None:
        """In a forked child, where the thread does not exist: let go of everything."""
        _running.discard(self)
        self._stopped = True
        self._sockets.abandon()

    def look_after(self, look: Callable[[], None]) -> None:
        """Call `look`, too, every `LOOK_EVERY` seconds in this thread, which owns the sockets, outside of the lock."""
        self._looks.append(look)
        self._look_at = clock() + LOOK_EVERY

    def look_no_more(self, look: Callable[[], None]) -> None:
        """As if `look_after` had not been called. Any thread; it may be called once more."""
        if look in self._looks:
            self._looks.remove(look)

    def call(self, act: Callable[[], None]) -> None:
        """Have `act` called in this thread, which owns the sockets, in its next turn and outside of the lock."""
        self._calls.append(act)
        self._sockets.wake()

    def attach(self, handle: Handle) -> None:
        """`handle` is told when its end has changed. Called under the engine's lock."""
        self._handles[handle.end] = handle

    def detach(self, handle: Handle) -> None:
        self._handles.pop(handle.end, None)

    def watch(self, handle: Handle) -> None:
        """Ask `handle` again in NAP seconds at most. Called by its `handed_over` or `changed`, as a rule here."""
        if threading.get_ident() != self._thread.ident:  # a signal handler lets it look
            self.wake(handle)
        elif not handle.alerted:
            handle.alerted = True
            self._watched.append(handle)

    def share_bodies(self) -> None:
        """User code takes views of large bodies, so none of them need be copied."""
        self._sockets.share()

    def late(self, now: float) -> float:
        """For how many seconds a turn has been due that has not come; 0 if none is. Any thread."""
        due_at = max(self._sleeps_until, self._turned_at)
        return max(0.0, now - due_at) if due_at > -inf else 0.0

    @property
    def counters(self) -> dict[str, int]:
        """What the sockets dropped and whom they turned away, by name."""
        return self._sockets.counters

    def wake(self, handle: Handle | None = None) -> None:
        """Make a turn now: `handle` has something to hand over, or somebody changed the engine under its lock.

        Any thread; costs a system call only if the pump sleeps.
        """
        if handle is not None and not handle.alerted:
            handle.alerted = True
            self._alerts.append(handle)
        self._sockets.wake()

    def wake_soon(self, handle: Handle | None = None) -> None:
        """Like `wake`, for what nobody waits for yet: it may be taken up to `NAP` seconds later, with what follows.

        Each wake-up of a sleeping pump takes the interpreter's lock from its caller for a whole turn.
        """
        if handle is not None:
            if handle.alerted:
                return
            handle.alerted = True
            self._alerts.append(handle)
        if not self._napping:  # looked at when the alert is in, as the pump gets up before it takes alerts
            self.wake_unless_resting()

    def wake_unless_resting(self) -> None:
        """Like `wake`, except that a pump that rests (`REST` of the sockets) comes when that is over, by itself.

        What is changed under the engine's lock before this is seen then.
        """
        if not self._sockets.resting:
            self._sockets.wake()

    def send_beside(self, now: float, served: Served | None = None) -> None:
        """Send calls and answers in this thread, without a turn; what is left to do is done in the next one, soon.

        The caller holds `lock`, and sees to what has started in `served`. In the main thread it is all left to the
        next turn: Ctrl-C between the number of a frame and its way out would end the life of the link.
        """
        engine, guard = self.engine, self._sockets.guard
        if threading.get_ident() != self.main_thread and guard.acquire(False):
            try:
                more = engine.transmit_calls(self._sockets.send, now)
            finally:
                guard.release()
            if served is not None:
                engine.changed.discard(served)
            until = self._sleeps_until
            if not (more or engine.changed or engine.links.deadlines.first < until):
                for machine in engine.machines:
                    if machine.deadlines.first < until:
                        break
                else:
                    return
        self._sockets.wake()

    def _run(self) -> None:
        timeout: float | None = 0.0
        while not self._stopped:
            try:
                self._sockets.wait(timeout)
                self._napping = False
                timeout = self._turn()
            except Exception:
                # Nothing that a peer sends and no bug in one turn may end the thread that keeps all promises.
                _log.exception("a turn of the pump failed; the node goes on, please report this")
                timeout = 0.05
        self._sockets.close()

    def _turn(self) -> float | None:
        """Do everything there is to do now; return how long there will be nothing, if nobody calls."""
        alerts = self._alerts
        if self._watched:
            watched, self._watched = self._watched, []
            alerts.extend(watched)
        handed = []
        while self._calls:
            self._calls.popleft()()
        events = self._sockets.read(READ_MAX)
        engine = self.engine
        with self.lock:
            engine.unread = len(events) >= READ_MAX  # here, as others start calls meanwhile
            now = self._turned_at = clock()  # not before: who held it has told the engine of a later time than that
            for _ in range(len(alerts)):  # what comes meanwhile is for the next turn
                handle = alerts.popleft()
                handle.alerted = False
                handed.append(handle)
                handle.hand_over(engine, now)
            for event in events:
                self._feed(event, now)
            engine.handle_timeout(now)
            if engine.links.commands:
                self._carry_out()
            engine.transmit(self._sockets.send, now)
            published = engine.topics.outbox
            while published:
                self._sockets.publish(published.popleft())
            if engine.links.commands:
                self._carry_out()
            changed, records, announced, superseded = engine.poll_events()
            deadline = engine.poll_timeout()
            looks = now >= self._look_at
            if looks:
                self._look_at = now + LOOK_EVERY
            self._sleeps_until = min(self._look_at, deadline)
            news = self.disk is not None and self.disk.news()
        if news and self.disk is not None:
            self.disk.look()
        for handle in handed:
            handle.handed_over()
        if announced is not None:
            self.on_announced(announced)
        if superseded:
            self.on_superseded(superseded)
        if looks:
            for look in list(self._looks):
                look()
        if self.turned:
            self.turned.open()
        # As late as may be: whoever is woken here waits until this thread sleeps and the interpreter's lock is free.
        for end in changed:
            found = self._handles.get(end)
            if found is not None:
                found.changed()
        for record in records:  # last, as handlers of the user take their time
            whose = f"{self._name}: " if len(_running) > 1 else ""
            _log.log(logging.getLevelName(record.level.upper()), "%s%s", whose, record.text)
        if alerts:
            return 0.0
        until = min(self._look_at, deadline)
        timeout = None if until == inf else max(0.0, until - clock())
        if handed or changed:
            self._napping = True
            return NAP if timeout is None else min(NAP, timeout)
        return timeout

    def _feed(self, event: Event, now: float) -> None:
        engine = self.engine
        if type(event) is Received:  # nearly always, and a ladder of patterns asks at each step
            engine.handle_frames(event.frames, now, event.sender, event.observed)
            return
        match event:
            case Published(frames):
                engine.handle_published(frames, now)
            case Connected(wire):
                engine.handle_connected(wire, now)
            case Disconnected(wire):
                self.on_disconnected()
                engine.handle_disconnected(wire, now)
            case Refused(wire, why):
                engine.handle_unreachable(wire, now, why)
            case Probed(wire, outcome):
                engine.handle_probed(wire, outcome, now)
            case Writable(wire):
                engine.handle_writable(wire)

    def _carry_out(self) -> None:
        sockets = self._sockets
        for command in self.engine.poll_commands():
            match command:
                case Dial(wire, endpoint, gate):
                    sockets.dial(wire, endpoint, gate)
                case HangUp(wire):
                    sockets.hang_up(wire)
                case Probe(wire, endpoint, node_id, epoch):
                    sockets.probe(wire, endpoint, (node_id, epoch))
                case Follow(endpoint, key):
                    sockets.follow(endpoint, key)
                case Unfollow(endpoint):
                    sockets.unfollow(endpoint)
                case Subscribe(prefix):
                    sockets.subscribe(prefix)
                case Unsubscribe(prefix):
                    sockets.unsubscribe(prefix)
