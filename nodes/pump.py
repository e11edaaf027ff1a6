"""The pump moves frames between the engine and the sockets, in turns.

One turn takes what users handed over and what the sockets brought, lets the engine act on it, carries out
what the engine asks for, and wakes whoever may go on. Whatever accumulated meanwhile leaves as one batch, so
batches grow with load by themselves. It never waits for a user or a peer.

Turns are made by one thread at a time, the one at the helm. As a rule that is the node's own I/O thread. A thread
that blocks in a call of ours takes the helm meanwhile (leader and followers, as in the pattern of that name): a
message then reaches it, and its answer the wire, without a change of threads, which costs more than all the rest.
When it leaves, the I/O thread stands by for 5 ms before it takes over, so that a program which waits again at once
finds the helm free.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from peerfabric.engine import Engine
from peerfabric.nodes.sockets import (
    Connected,
    Disconnected,
    Event,
    Probed,
    Published,
    Received,
    Refused,
    Sockets,
    Writable,
)
from peerfabric.nodes.waiting import DeferredInterrupt, Gate, ThreadWaiter, clock
from peerfabric.peers import Dial, Follow, HangUp, Probe, Subscribe, Unfollow, Unsubscribe

STANDBY: Final = 0.005
"""As long as the interpreter lets a thread compute before it must give way: less would not be kept anyway."""
BURST: Final = 0.0001
HANDOVER_PATIENCE: Final = 0.02
AFTER_FAILURE: Final = 0.05

_log = logging.getLogger("peerfabric")


class Handle(Protocol):
    """What a user holds, seen from the pump."""

    alerted: bool
    end: Any

    def take_handed(self) -> Any:
        """Take what the user handed over since the last turn. Called without the engine's lock."""

    def hand_over(self, engine: Engine, handed: Any, now: float) -> None:
        """Give it to the engine. Called under the engine's lock."""

    def handed_over(self) -> None:
        """The turn that took it has ended, and what it could send is sent. Without the engine's lock."""

    def changed(self) -> None:
        """Something of the handle's end has changed: wake those who wait for it. Without the engine's lock."""


class Pump:
    """Runs an engine over real sockets. `lock` guards the engine; a handle's lock is always taken before it."""

    def __init__(self, engine: Engine, sockets: Sockets, name: str) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self.turned = Gate()
        """Opens after every turn in which a link or the closing of the node may have moved on."""
        self.on_learned: Callable[[list[Any]], None] = lambda addresses: None
        """Called, in this thread, with the addresses that hellos told."""
        self.on_met: Callable[[list[Any]], None] = lambda met: None
        """Called, in this thread, with (address, present) of peers that came or went."""
        self._sockets = sockets
        self._alerts: deque[Handle] = deque()
        self._handles: dict[Any, Handle] = {}
        self._helm = threading.Lock()
        """Held by whoever waits at the sockets or makes a turn. Taken before a handle's lock and the engine's."""
        self._due_at: float | None = -inf
        self._wanted = self._followers = 0
        self._leading = False
        self._led_at = self._turned_now_at = -inf
        self.standing_by = False
        """The I/O thread has left the helm to threads that block; a turn may be made by any of them."""
        self._kicked = threading.Lock()
        self._kicked.acquire()
        self._stopped = False
        self._handing = False
        self._thread = threading.Thread(target=self._run, name=f"peerfabric-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the sockets."""
        self._stopped = True
        self._sockets.wake()
        self._kick()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child, where the thread does not exist: let go of everything."""
        self._stopped = True
        self._sockets.abandon()

    def attach(self, handle: Handle) -> None:
        """`handle` is told when its end has changed. Called under the engine's lock."""
        self._handles[handle.end] = handle

    def detach(self, handle: Handle) -> None:
        self._handles.pop(handle.end, None)

    def alert(self, handle: Handle) -> None:
        """`handle` has something to hand over. Any thread; costs a system call only if the pump sleeps."""
        if not handle.alerted:
            handle.alerted = True
            self._alerts.append(handle)
            self._sockets.wake()

    @property
    def has_taken(self) -> bool:
        """Whether the engine has what handles handed over, except those that are alerted now."""
        return not self._handing

    @property
    def foreign(self) -> int:
        """Messages dropped at the sockets, because they have too few or too many parts."""
        return self._sockets.foreign

    def wake(self) -> None:
        """Make a turn soon: somebody changed the engine under its lock."""
        self._sockets.wake()

    def lead(self, waiter: ThreadWaiter, timeout: float | None) -> None:
        """Make turns until `waiter` is woken, for at most `timeout` seconds; or wait while another thread does."""
        with DeferredInterrupt(self._sockets.wake) as interrupt:
            if not self._take_helm():
                self._followers += 1
                try:
                    waiter.wait(timeout, interrupt)
                finally:
                    self._followers -= 1
                return
            self._leading = True
            try:
                ends_at = None if timeout is None else clock() + timeout
                while not (waiter.is_woken() or self._stopped or interrupt.received):
                    left = None if ends_at is None else ends_at - clock()
                    if left is not None and left <= 0:
                        break
                    self._work(left)
            finally:
                self._leading = False
                self._leave_helm()
            if self._followers:
                self._kick()  # they must not wait until the I/O thread looks by itself

    def hand_over_soon(self, handle: Handle) -> None:
        """`handle` has something new to send: it leaves in this very thread if nobody is at the helm.

        A burst makes one such turn; what follows within `BURST` leaves with the next turn that somebody makes.
        """
        self.alert(handle)
        if self.standing_by:
            now = clock()
            if now - self._turned_now_at >= BURST:
                self._turned_now_at = now
                with DeferredInterrupt(self._sockets.wake):
                    if self._helm.acquire(blocking=False):
                        try:
                            self._make_turn()
                        finally:
                            self._leave_helm()

    def _take_helm(self) -> bool:
        """Take the helm, from the I/O thread if need be; False if another thread that blocks has it."""
        if self._helm.acquire(blocking=False):
            return True
        if self._leading:
            return False
        self._wanted += 1
        try:
            self._sockets.wake()
            return self._helm.acquire(timeout=HANDOVER_PATIENCE)
        finally:
            self._wanted -= 1

    def _leave_helm(self) -> None:
        self._led_at = clock()
        self._helm.release()

    def _kick(self) -> None:
        """Let the I/O thread take over now."""
        try:
            self._kicked.release()
        except RuntimeError:
            pass  # kicked before, and not yet awake

    def _run(self) -> None:
        while not self._stopped:
            with self._helm:
                if not self._stopped:
                    self._work(None)
            if self._wanted:
                self._stand_by()
        with self._helm:
            self._sockets.close()

    def _stand_by(self) -> None:
        """Wait until nobody has led for a while, or somebody needs this thread."""
        self.standing_by = True
        while not self._stopped and not self._kicked.acquire(timeout=STANDBY):
            if not self._leading and not self._wanted and clock() - self._led_at >= STANDBY:
                break
        self.standing_by = False

    def _work(self, limit: float | None) -> None:
        """Wait at the sockets until there is something to do, for at most `limit` seconds, and do it."""
        timeout = None if self._due_at is None else max(0.0, self._due_at - clock())
        if limit is not None:
            timeout = limit if timeout is None else min(timeout, limit)
        self._sockets.wait(timeout)
        self._make_turn()

    def _make_turn(self) -> None:
        try:
            self._due_at = self._turn()
        except Exception:
            # Nothing that a peer sends and no bug in one turn may end the thread that keeps all promises.
            _log.exception("a turn of the pump failed; the node goes on, please report this")
            self._due_at = clock() + AFTER_FAILURE

    def _turn(self) -> float | None:
        """Do everything there is to do now; return until when there will be nothing, if nobody calls."""
        alerts = self._alerts
        handed = []
        self._handing = True  # before `alerted` falls: who sees neither knows that the engine has all of it
        while alerts:
            handle = alerts.popleft()
            handle.alerted = False
            handed.append((handle, handle.take_handed()))
        events = self._sockets.read()
        engine = self.engine
        now = clock()
        with self.lock:
            for handle, what in handed:
                handle.hand_over(engine, what, now)
            self._handing = False
            for event in events:
                self._feed(event, now)
            engine.expire(now)
            self._carry_out()
            send = self._sockets.send
            for wire, frames in engine.outgoing(now):
                if not send(wire, frames):
                    engine.refuse(wire, frames, now)
            for frames in engine.take_published():
                self._sockets.publish(frames)
            self._carry_out()
            changed = engine.take_changed()
            notices = engine.take_notices()
            learned = engine.take_learned()
            met = engine.take_met()
            deadline = engine.deadline()
        for handle, _ in handed:
            handle.handed_over()
        for end in changed:
            found = self._handles.get(end)
            if found is not None:
                found.changed()
        for notice in notices:
            _log.log(logging.getLevelName(notice.level.upper()), "%s", notice.text)
        if met:
            self.on_met(met)
        if learned:
            self.on_learned(learned)
        self.turned.open()
        return -inf if alerts else deadline

    def _feed(self, event: Event, now: float) -> None:
        engine = self.engine
        match event:
            case Received(frames):
                engine.receive(frames, now)
            case Published(frames):
                engine.receive_published(frames, now)
            case Connected(wire):
                engine.connected(wire, now)
            case Disconnected(wire):
                engine.disconnected(wire, now)
            case Refused(wire):
                engine.refused(wire, now)
            case Probed(wire, outcome):
                engine.probed(wire, outcome, now)
            case Writable(wire):
                engine.writable(wire)

    def _carry_out(self) -> None:
        sockets = self._sockets
        for command in self.engine.take_commands():
            match command:
                case Dial(wire, endpoint):
                    sockets.dial(wire, endpoint)
                case HangUp(wire):
                    sockets.hang_up(wire)
                case Probe(wire, endpoint):
                    sockets.probe(wire, endpoint)
                case Follow(endpoint):
                    sockets.follow(endpoint)
                case Unfollow(endpoint):
                    sockets.unfollow(endpoint)
                case Subscribe(prefix):
                    sockets.subscribe(prefix)
                case Unsubscribe(prefix):
                    sockets.unsubscribe(prefix)
