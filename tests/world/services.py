"""User code that calls services and answers them: at once, slowly, in parts, by asking others, or by dying of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from peerfabric.link.link import Link
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.service.served import Served, ServedCall
from peerfabric.wire.bodies import split
from peerfabric.wire.frames import ERROR, MSGPACK, RAW, RAW_ONE
from tests.world.hooks import resting_max

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.world import World

NOT_STARTED = (
    *(Outcome.BUSY, Outcome.EXPIRED, Outcome.UNFIT, Outcome.TOO_DEEP),
    *(Outcome.NO_SERVER, Outcome.TOO_LARGE),
)
STALL = 5.0
ENDS_LATE_BY = 0.3
"""Seconds after which a CANCEL has arrived, if nothing was cut."""


@dataclass
class Asked:
    """One call, as its caller sees it, and all that ran for it."""

    body: bytes
    peer: str
    call: OpenCall
    started_at: float
    idempotent: bool
    last: bool
    """It was made when all was healed, and must be answered."""
    ended_at: float = inf
    life: tuple[Link, bytes] | None = None
    """The link to who was asked last, and the id of its life, when the call ended."""
    parts: list[bytes] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """The processes that ran it, one for each run."""
    answers: list[str] = field(default_factory=list)
    """Those that answered it, or failed as they were to."""


class Calls:
    """All calls of a world, by their bodies, each of which is asked once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: dict[bytes, Asked] = {}
        self.deaths: dict[bytes, int] = {}
        self.all_asked = False
        """The last calls were made."""

    def ran(self, process: Process, body: bytes) -> None:
        """A handler begins."""
        asked, now = self.asked[body], self.world.now
        asked.runs.append(process.peer)
        self.world.log(f"{process.peer} runs call {body!r}")
        twice = len(asked.runs) == 1 or asked.idempotent
        assert twice, f"call {body!r}, which may not run twice, runs at {asked.runs}"
        heard = asked.life is None or (asked.life[0].up and asked.life[0].out_id == asked.life[1])
        if {*self.world.theme.faults} <= {"stop", "late"} and not asked.call.was_lost and heard:
            age = now - asked.ended_at
            assert age < ENDS_LATE_BY, f"{process.peer} starts {body!r} {age:.2f} s after its end"

    def died(self, process: Process, body: bytes) -> None:
        """A handler has killed its process."""
        self.deaths[body] = self.deaths.get(body, 0) + 1
        if not self.world.theme.faults:
            assert self.deaths[body] <= 2, f"call {body!r} has killed {self.deaths[body]} servers"

    def over(self, asked: Asked) -> None:
        """A call has ended; unless that life ends, too, its server hears of it."""
        server = asked.call.asked
        asked.ended_at = self.world.now
        asked.life = (server.link, server.link.out_id) if server is not None else None

    def ended(self, asked: Asked, parts: list[bytes]) -> None:
        """A call has an outcome: it must be one that what ran explains."""
        call = asked.call
        self.over(asked)
        kind = asked.body.split(b"|")[1]
        self.world.log(f"{asked.peer} call {asked.body!r}: {call.outcome} {call.text} by {call.server_name}")
        text = f"call {asked.body!r} of {asked.peer} ends as {call.outcome}, {call.text!r}"
        by = [peer for peer in asked.answers if peer.startswith(f"{call.server_id}:")]
        match call.outcome:
            case Outcome.OK:
                assert by, f"{text}, and nobody answered"
                assert parts == [asked.body + b"!"], f"{text} with {parts}"
            case Outcome.END:
                assert by, f"{text}, and nobody answered"
                assert parts == stream_of(asked.body), f"{text} with {parts}"
            case Outcome.ERROR:
                assert by, f"{text}, and nobody failed"
                assert kind in (b"fails", b"asks"), text
            case Outcome.STALLED:
                assert kind == b"unread", text
            case _ if call.outcome in NOT_STARTED:
                assert not call.may_have_run or call.idempotent, text
        if not call.may_have_run and call.outcome is not Outcome.CANCELLED:
            assert not asked.runs, f"{text}, as if it had not run"
        if asked.last:
            assert call.outcome in (Outcome.OK, Outcome.END, Outcome.BUSY), f"{text}, though all was healed"

    def check(self) -> None:
        """All is over."""
        for asked in self.asked.values():
            call = asked.call
            alive = any(p.peer == asked.peer and p.alive for p in self.world.supervisor.processes)
            assert call.outcome is not None or not alive, f"call {asked.body!r} of {asked.peer} never ends"
            clean = call.outcome is not None and not call.may_have_run and call.outcome is not Outcome.CANCELLED
            assert not (clean and asked.runs), f"call {asked.body!r} ran after it ended as {call.outcome}"


def stream_of(body: bytes) -> list[bytes]:
    """The parts with which a stream is answered."""
    return [body + b"/%d" % n for n in range(1 + body[0] * 7 % 200)]


class Services:
    """User code of one process that asks and answers."""

    def __init__(self, process: Process, serves: list[tuple[str, int, int]]) -> None:
        self.process = process
        self.engine = process.engine
        self.handed: deque[Callable[[float], None]] = deque()
        """What threads of handlers and callers have handed over."""
        self.served: list[Served] = []
        self.turning = False
        """The pump has the engine."""
        self.inside: dict[ServedCall, None] = {}
        """Calls whose handlers wait in calls of their own."""
        self.seen: set[ServedCall] = set()
        """Those that started in an earlier turn."""
        for name, capacity, waiting in serves:
            now = process.clock()
            self.served.append(self.engine.open_service(name, capacity, waiting, 2**20, STALL, now))
        self.calls: Calls = process.world.calls

    def _hand(self, act: Callable[[float], None]) -> None:
        """A thread has something for the engine: it does that itself, if nobody else has the engine then, or leaves it
        to the next turn, behind what was left to that before."""
        random = self.process.world.random
        if not self.turning and not self.handed and random.random() < 0.4:
            act(self.process.clock())
            self.process.send_beside()
        else:
            self.handed.append(act)
            self.process.wake(random.choice((0.0, 0.0, 0.002)))

    def hand_over(self, now: float) -> None:
        """As the pump takes it at the beginning of a turn."""
        self.turning = True
        while self.handed:
            self.handed.popleft()(now)

    def meanwhile(self) -> None:
        """A thread takes what it may run while the turn goes on."""
        for served in self.served:
            if served.started and self.process.world.random.random() < 0.5:
                self._run(served)

    def turned(self, now: float) -> None:
        """The turn has ended: let handlers start, and wake those who wait for answers."""
        self.turning = False
        caller = self.engine.caller
        for call in caller.open.values():
            assert call.ends_at > now, f"{self.process.peer} has call {call.id} past its deadline"
        while caller.news:
            call = caller.news.popleft()
            call.owner(call)
        for served in self.served:
            if not self.seen.issuperset(served.started):
                self.seen.update(served.started)
                active = sum(1 for call in served.running if call not in self.inside)
                assert active <= served.capacity, f"{self.process.peer} runs {active} of {served.capacity}"
            for _ in range(len(served.started)):
                self._later(partial(self._run, served))
            while served.news:
                self._later(partial(self._go_on, served.news.popleft()))

    @property
    def is_quiet(self) -> bool:
        """Nothing is asked of others, and nothing runs or waits here."""
        caller, responder = self.engine.caller, self.engine.responder
        return not (caller.open or caller.news or self.handed or not responder.idle)

    # Asking

    def ask(self, service: str, kind: str, *, last: bool = False) -> None:
        """A thread of the user's calls a service."""
        world = self.process.world
        random = world.random
        stream = kind in ("stream", "unread")
        body = b"%d|%s" % (next(world.serial), kind.encode())
        timeout = 30.0 if last else 60.0 if stream else random.choice((0.3, 1.0, 2.0, 8.0))
        idempotent = random.random() < 0.5 and not last
        server = ""
        if random.random() < 0.1 and not last:
            server = random.choice(world.supervisor.living()).address.node_id
        asked = self._open(service, body, timeout, idempotent=idempotent, server=server, stream=stream, last=last)
        if kind == "cancelled":
            self._later(partial(self._cancel, asked), most=0.2)

    def _open(
        self, service: str, body: bytes, timeout: float, *, then: Callable[[Asked], None] | None = None, **more: Any
    ) -> Asked:
        last, world = more.pop("last", False), self.process.world
        codec = RAW if body[0] % 2 else MSGPACK
        encoded = body if codec == RAW else b"\xc4" + bytes([len(body)]) + body
        call = OpenCall(service, encoded, codec, self.process.clock() + timeout, **more)
        asked = Asked(body, self.process.peer, call, world.now, call.idempotent, last)
        call.owner = lambda call: self._heard(asked, then)
        self.calls.asked[body] = asked
        self._hand(lambda now: self.engine.caller.start(call, now))
        return asked

    def _heard(self, asked: Asked, then: Callable[[Asked], None] | None) -> None:
        """The call has ended, or there is a part."""
        call = asked.call
        unread = asked.body.endswith(b"unread") and call.outcome is None
        while not unread and (part := call.take()) is not None:
            asked.parts.append(content(*part))
            if call.wants_more:
                self.handed.append(lambda now: self.engine.caller.more(call, now))
                self.process.wake()
        if call.outcome is None or asked.ended_at < inf:
            return
        if call.outcome is Outcome.OK:
            asked.parts.append(content(call.body, call.codec))
        self.calls.ended(asked, asked.parts)
        if then is not None:
            then(asked)

    def _cancel(self, asked: Asked) -> None:
        def cancel(now: float) -> None:
            if asked.call.outcome is None:
                self.engine.caller.cancel(asked.call, now)
                self.calls.over(asked)

        self.handed.append(cancel)
        self.process.wake()

    # Answering

    def _run(self, served: Served) -> None:
        """A thread takes the next call that may run."""
        if not served.started:
            return
        call = served.started.popleft()
        if call.cancelled:
            self._finish(call, lambda now: self.engine.responder.answer(call, now, b"\xc0", MSGPACK))
            return
        world, body = self.process.world, content(call.body, call.codec)
        assert len(served.running) <= served.capacity + resting_max(), "more run than may"
        self.calls.ran(self.process, body)
        kind = body.split(b"|")[1].decode()
        if kind.startswith("deadly"):
            self.calls.died(self.process, body)
            world.supervisor.end(self.process, "died")
            return
        if call.stream:
            call.owner = deque(stream_of(body))
            self._go_on(call)
        elif kind.startswith("asks") and call.depth < 3:
            self._ask_others(call, body)
        else:
            least = {"slow": 0.2, "long": 2.0}.get(kind, 0.0)
            self._later(partial(self._answer, call, body, kind), least=least, most=2 * least + 0.004)

    def _ask_others(self, call: ServedCall, body: bytes) -> None:
        """The handler calls a service itself; meanwhile another one may run."""
        world = self.process.world
        service = world.random.choice(world.services)
        kind = world.random.choice(("ok", "asks"))
        inner = b"%d|%s" % (next(world.serial), kind.encode())
        timeout = min(call.ends_at - self.process.clock(), 5.0)

        def then(asked: Asked) -> None:
            self.handed.append(resume)
            kind = "asks" if asked.call.outcome is Outcome.OK else "fails"
            self._later(partial(self._answer, call, body, kind))

        def rest(now: float) -> None:
            self.inside[call] = None
            self.engine.responder.rest(call)

        def resume(now: float) -> None:
            self.inside.pop(call, None)
            self.engine.responder.resume(call)

        if timeout <= 0:
            self._later(partial(self._answer, call, body, "fails"))
            return
        self.handed.append(rest)
        self._open(service, inner, timeout, then=then, depth=call.depth + 1)

    def _answer(self, call: ServedCall, body: bytes, kind: str) -> None:
        responder = self.engine.responder
        if not call.cancelled:
            self.calls.asked[body].answers.append(self.process.peer)
        if kind == "fails":
            self._finish(call, lambda now: responder.fail(call, now, ERROR, text="it fails", type="ValueError"))
        else:
            self._finish(call, lambda now: responder.answer(call, now, body + b"!", RAW))

    def _go_on(self, call: ServedCall) -> None:
        """A stream goes on for as long as its caller allows; cancelled, it is closed."""
        parts, responder = call.owner, self.engine.responder
        if not call.stream or parts is None:
            return
        if call.cancelled:
            call.owner = None
            self._finish(call, lambda now: responder.end(call, now))
            return

        def send(now: float) -> None:
            while parts and call.may_send and not call.cancelled and call.owner is not None:
                responder.part(call, now, parts.popleft(), RAW)
            if not parts and call.owner is not None:
                call.owner = None
                if not call.cancelled:
                    body = content(call.body, call.codec)
                    self.calls.asked[body].answers.append(self.process.peer)
                responder.end(call, now)

        self._finish(call, send)

    def _finish(self, call: ServedCall, act: Callable[[float], None]) -> None:
        self._hand(act)

    def _later(self, step: Callable[[], None], least: float = 0.0, most: float = 0.002) -> None:
        world = self.process.world
        world.after(world.random.uniform(least, most), partial(self._if_alive, step))

    def _if_alive(self, step: Callable[[], None]) -> None:
        if self.process.stopped and not self.process.stuck:
            self.process.world.after(0.05, partial(self._if_alive, step))
        elif self.process.alive:
            step()


def content(body: Any, codec: int) -> bytes:
    """The message of a frame body with one element."""
    if codec == RAW_ONE:
        return bytes(body)
    (element,) = split(body, codec)
    return element[2:] if element[0] == 0xC4 else element


__all__ = ["Calls", "Services"]
