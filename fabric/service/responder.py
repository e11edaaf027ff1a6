"""Responder: all services of one node, the calls that others send to them, and what is answered.

A call is answered at once if there is no room for it, before anything of it is decoded. Else it waits, and starts once
all frames of the turn that brought it are read: the CANCEL of a caller that has given up lies behind its REQUEST.
What a life of a link brought ends with it; nothing is reconciled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from random import Random
from typing import Any, Final

from peerfabric.errors import BadFrame
from peerfabric.health import RUNS_ON, Finding
from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.names import STATUS_SERVICE
from peerfabric.reports import ServiceAccount
from peerfabric.service.call import CALL_OVERHEAD, DEPTH_MAX
from peerfabric.service.served import Served, ServedCall, Stage
from peerfabric.wire.bodies import ALONE_BYTES_MIN, join, join_one, one_by_one
from peerfabric.wire.frames import (
    BUSY,
    CALL_EXPIRED,
    END,
    ERROR,
    MSGPACK,
    NAMES_MAX,
    NOT_SERVED,
    OK,
    PART,
    RAW,
    RAW_ONE,
    SERVER_LEAVING,
    STALLED,
    STREAM,
    TOO_DEEP,
    UNFIT,
    Answer,
    Cancel,
    Load,
    More,
    Reply,
    Request,
    encode_frame,
)

NIL: Final = b"\xc0"
"""The element of an answer without a body."""
TEXT_MAX: Final = 1024
TYPE_MAX: Final = 255
LOADS_MAX: Final = 64
UNSENT_MAX: Final = 65_536
"""Answers that wait for one peer when it asks again: no caller has so many calls open, so its link is renewed."""
UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of them, above which nothing more of that peer is begun: it reads too slowly for what it asks."""
REPLY_BYTES_AIM: Final = 256 * 1024
HOLD_MAX: Final = 1.0
"""Seconds for which nothing starts, at most, until all is read that came while this process did not run."""
BUSY_MAX: Final = 86_400.0
STATUS_WAITING: Final = 16
STATUS_WAITING_BYTES: Final = 65_536
"""Questions after the status of this node that may wait while one is answered."""

Send = Callable[[int, list[bytes]], bool]


class Responder(Machine):
    """All that one node serves.

    Args:
        links: Its links.
        control: Told of links that have something to say.
        changed: Takes the services that have something for their users.
        random: Source of jitter.
    """

    # each (life of a link, call) ends once, and is answered at most once besides its parts

    def __init__(self, links: Links, control: Control, changed: set[Any], random: Random) -> None:
        super().__init__()
        self.served: dict[str, Served] = {}
        self.status: Served | None = None
        """`STATUS_SERVICE`, from the first question on. `changed` takes its name in its place."""
        self.ready: dict[Served, None] = {}
        """Those that may start something since the last `start`."""
        self.outgoing: dict[Link, Unread] = {}
        """What waits to be sent."""
        self.late = 0.0
        """So late was a turn, until all that lay there by then is read."""
        self._late_at = -inf
        self._links, self._control, self._changed, self._random = links, control, changed, random
        self._calls: dict[Link, dict[int, ServedCall]] = {}
        """By number: those that came in the present life of the link and are not answered."""
        self._closed: dict[Served, None] = {}
        """Those that are served no more, while something of them runs."""
        self._left: set[ServedCall] = set()
        """Those that were left behind when findings were last looked for."""
        self._draining = False
        self._arrived: list[ServedCall] = []

    # What users do

    def serve(self, service: str, capacity: int, waiting: int, waiting_bytes: int, stall: float) -> Served:
        """Answer calls of `service` from now on.

        Raises:
            ValueError: It is served already.
        """
        if service in self.served:
            raise ValueError(f"service {service!r} is served already by this node; stop that first")
        served = self.served[service] = Served(service, capacity, waiting, waiting_bytes, stall)
        return served

    def unserve(self, served: Served) -> bool:
        """Start no more calls of that service; those that run go on. Whether it was served."""
        if self.served.get(served.service) is not served:
            return False
        del self.served[served.service]
        self._close(served, NOT_SERVED)
        if served.running or served.left:
            self._closed[served] = None
        return True

    def drain(self) -> None:
        """The node closes: no call starts any more."""
        self._draining = True
        for served in self.served.values():
            self._close(served, SERVER_LEAVING)

    def _close(self, served: Served, status: int) -> None:
        served.closed = True
        self.ready.pop(served, None)
        while served.waiting:
            self._refuse_waiting(served.take_waiting(), status)

    def answer(self, call: ServedCall, now: float, body: bytes, codec: int) -> None:
        """The handler has ended and `body` is what it returned. Of a cancelled call nothing is sent."""
        limit = call.link.frame_bytes_max - 1024
        if len(body) > limit:
            text = f"a reply of {len(body):,} bytes; the caller takes {limit:,}: answer by a stream"
            self.fail(call, now, ERROR, text=text, type="MessageTooLarge")
            return
        served = call.served
        if served.ended(call, now):
            self._queue(call.link, Unsent(call.id, served.service, OK, body, codec))
        self._after_end(call)

    def fail(
        self, call: ServedCall, now: float, status: int, *, text: str = "", type: str = "", retry_after: float = 0.0
    ) -> None:
        """The handler has ended, or did not begin, as `status` says: ERROR, or from BUSY on."""
        served = call.served
        if served.ended(call, now):
            retry_ms = int(1000 * min(max(retry_after, 0.0), BUSY_MAX))
            self._queue(
                call.link,
                Unsent(call.id, served.service, status, NIL, MSGPACK, text[:TEXT_MAX], type[:TYPE_MAX], retry_ms),
            )
        self._after_end(call)

    def part(self, call: ServedCall, now: float, body: bytes, codec: int) -> bool:
        """Send one part of a stream, which `may_send`; False: it is too large, and the call has ended by that."""
        limit = call.link.frame_bytes_max - 1024
        if len(body) > limit:
            text = f"a part of {len(body):,} bytes; the caller takes {limit:,}: send smaller ones"
            if not call.cancelled:
                call.served.news.append(call)
                self._changed.add(call.served)
            self.fail(call, now, ERROR, text=text, type="MessageTooLarge")
            call.cancelled = True
            return False
        if call.stage is Stage.RUNNING and not call.cancelled:
            allowed = call.may_send
            assert allowed, "a part that the caller does not allow"
            call.sent_parts += 1
            call.sent_bytes += len(body) + CALL_OVERHEAD
            self._queue(call.link, Unsent(call.id, call.served.service, PART, body, codec))
            if not call.may_send:
                self.deadlines.put(call, now + call.served.stall)
        return True

    def end(self, call: ServedCall, now: float) -> None:
        """The stream has ended."""
        if call.served.ended(call, now):
            self._queue(call.link, Unsent(call.id, call.served.service, END))
        self._after_end(call)

    def rest(self, call: ServedCall) -> None:
        """The handler waits in a call or a send of ours, and needs no slot."""
        call.served.rest(call, resting=True)
        self._may_start(call.served)

    def resume(self, call: ServedCall) -> None:
        """It goes on. More may run than the capacity for a while: none starts before there are less again."""
        call.served.rest(call, resting=False)

    def _after_end(self, call: ServedCall) -> None:
        served = call.served
        calls = self._calls.get(call.link)
        if calls is not None and calls.get(call.id) is call:
            del calls[call.id]
        if call.stream:
            self.deadlines.move(call, inf)
        if served.waiting:
            self._may_start(served)
        elif served.closed and not served.running and not served.left:
            self._closed.pop(served, None)

    def _may_start(self, served: Served) -> None:
        if served.waiting and not served.closed:
            self.ready[served] = None

    def _queue(self, link: Link, answer: Unsent) -> None:
        waits = self.outgoing.get(link)
        if waits is None:
            waits = self.outgoing[link] = Unread()
        waits.append(answer)
        waits.size += answer.size

    # What callers say

    def handlers(self) -> Mapping[type, Handler]:
        return {Request: self.receive, Cancel: self.receive_cancel, More: self.receive_more}

    def receive(self, link: Link, request: Request, body: bytes | memoryview, now: float) -> None:
        """A peer asks something.

        Raises:
            BadFrame: It asks the same twice, or on and on without reading what is answered.
        """
        link.data_received(now, call=True)
        if link.echo_at <= now:
            self._control.note(link)
        else:
            self._links.echoes.put(link, link.echo_at)
        calls, served = self._calls[link], self.served.get(request.service)
        if served is None and request.service == STATUS_SERVICE and not self._draining:
            served = self.status = self.status or Served(STATUS_SERVICE, 1, STATUS_WAITING, STATUS_WAITING_BYTES, 1.0)
        unread = self.outgoing.get(link)
        if unread is not None and len(unread) > UNSENT_MAX:
            raise BadFrame("more calls than anybody has open")
        too_slow = unread is not None and unread.size > UNSENT_BYTES_MAX
        asked = request.calls
        codec = request.codec
        if len(asked) == 1 and (codec == RAW_ONE or body[:1] == b"\x91"):
            bodies: Sequence[Any] = (body,)
        else:
            bodies = one_by_one(body, codec, len(asked))
            codec = codec if len(asked) == 1 else MSGPACK
        for each, content in zip(asked, bodies, strict=True):
            if each.call in calls:
                raise BadFrame(f"call {each.call} for the second time")
            if served is None:
                self._refuse(link, each.call, request.service, SERVER_LEAVING if self._draining else NOT_SERVED)
                continue
            served.received += 1
            size = CALL_OVERHEAD + (len(content) if content is not None else 0)
            if served.closed:
                status = SERVER_LEAVING
            elif each.depth >= DEPTH_MAX:
                status = TOO_DEEP
            elif content is None:
                status = UNFIT
            elif too_slow or not served.has_room(size):
                status = BUSY
            else:
                ends_at = now + each.left_ms / 1000 - self.late if each.left_ms else inf
                stream = bool(each.flags & STREAM)
                call = ServedCall(
                    served, link, each.call, content, codec, ends_at, each.depth, each.headers, stream=stream
                )
                calls[each.call] = call
                served.wait(call)
                self._arrived.append(call)
                self.ready[served] = None
                continue
            served.refused += 1
            retry_ms = served.retry_ms(self._random.random()) if status == BUSY else 0
            self._refuse(link, each.call, request.service, status, retry_ms)

    def _refuse(self, link: Link, number: int, service: str, status: int, retry_ms: int = 0) -> None:
        text = "the body is not what its header says" if status == UNFIT else ""
        self._queue(link, Unsent(number, service, status, text=text, retry_ms=retry_ms))

    def _refuse_waiting(self, call: ServedCall, status: int) -> None:
        """`call`, taken from those that wait, is answered without being run."""
        call.stage = Stage.ENDED
        call.served.refused += 1
        del self._calls[call.link][call.id]
        self._refuse(call.link, call.id, call.served.service, status)

    def receive_cancel(self, link: Link, cancel: Cancel, body: object, now: float) -> None:
        """The peer does not wait for some of its calls any more."""
        calls = self._calls[link]
        for number in cancel.calls:
            call = calls.pop(number, None)
            if call is not None:
                self._cancel(call)

    def _cancel(self, call: ServedCall) -> None:
        served = call.served
        if call.stream:
            self.deadlines.move(call, inf)
        served.cancel(call)
        self._may_start(served)
        if served.news:
            self._has_changed(served)

    def _has_changed(self, served: Served) -> None:
        self._changed.add(served if served is not self.status else STATUS_SERVICE)

    def receive_more(self, link: Link, more: More, body: object, now: float) -> None:
        """The peer allows more parts of its streams."""
        calls = self._calls[link]
        for parts in more.streams:
            call = calls.get(parts.call)
            if call is None or not call.stream:
                continue
            could = call.may_send
            call.allowed_parts = max(call.allowed_parts, parts.parts)
            call.allowed_bytes = max(call.allowed_bytes, parts.bytes)
            if not could and call.may_send:
                self.deadlines.move(call, inf)
                call.served.news.append(call)
                self._has_changed(call.served)

    # Starting

    def was_late(self, late: float, now: float) -> None:
        """This turn came so late that what it has read, and what is unread yet, may have lain there for as long."""
        self.late, self._late_at = late, now
        for call in self._arrived:
            call.ends_at -= late

    def start(self, now: float, *, unread: bool) -> None:
        """All frames of this turn are read: let handlers start what may start. After a late one, none may be unread."""
        if self.late and unread and now < self._late_at + HOLD_MAX:
            return
        self._arrived.clear()
        while self.ready:
            served, _ = self.ready.popitem()
            waiting = served.waiting
            while waiting and served.has_slot:
                call = served.take_waiting()
                if call.ends_at <= now:
                    self._refuse_waiting(call, CALL_EXPIRED)
                else:
                    served.run(call, now)
            if served.started:
                self._has_changed(served)

    # Answers

    def transmit(self, send: Send, to_ourselves: Send, now: float) -> None:
        """Send all answers for which there is room."""
        for link in list(self.outgoing):
            waits = self.outgoing[link]
            to = to_ourselves if link.wire == OURSELVES else send
            while waits and link.takes_answers():
                frames = self._frame(link, waits, now)
                if not to(link.wire, frames):
                    self._control.keep(link, frames)
            if not waits:
                del self.outgoing[link]

    def _frame(self, link: Link, waits: Unread, now: float) -> list[bytes]:
        """The next REPLY, with as many answers as belong together."""
        first = waits.popleft()
        size, codec = first.size, first.codec
        answers = [first]
        if waits and (codec != RAW or size < ALONE_BYTES_MIN):
            limit = min(REPLY_BYTES_AIM, link.frame_bytes_max - 1024)
            while waits and len(answers) < NAMES_MAX:
                size += waits[0].size
                if waits[0].codec != codec or size > limit:
                    break
                answers.append(waits.popleft())
        for each in answers:
            waits.size -= each.size
        if len(answers) == 1:
            body, codec = join_one(first.body, codec)
            told = [Answer(first.id, first.status, first.text, first.type, first.retry_ms)]
            served = self.served.get(first.service)
            loads = [Load(first.service, served.load)] if served is not None else []
        else:
            body, codec = join([each.body for each in answers], codec)
            told = [Answer(each.id, each.status, each.text, each.type, each.retry_ms) for each in answers]
            names = dict.fromkeys(each.service for each in answers)
            loads = [Load(name, self.served[name].load) for name in names if name in self.served][:LOADS_MAX]
        echo = link.in_number
        number = link.next_number()
        header = encode_frame(Reply(link.out_id, number, echo, codec, told, loads))
        link.call_sent(number, len(header) + len(body), now)
        return [header, body]

    # Links

    def link_up(self, link: Link, now: float) -> None:
        self._calls[link] = {}

    def link_down(self, link: Link) -> None:
        """Nobody can be answered any more whose calls came in this life."""
        self.outgoing.pop(link, None)
        calls = self._calls.pop(link, None)
        for call in calls.values() if calls else ():
            self._cancel(call)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)

    def needs(self, link: Link) -> bool:
        return bool(self._calls.get(link)) or link in self.outgoing

    # Time

    def handle_timeout(self, now: float) -> None:
        for call in self.deadlines.take_due(now):
            if call.stage is Stage.RUNNING and not call.cancelled and not call.may_send:
                self._queue(call.link, Unsent(call.id, call.served.service, STALLED))
                self._calls[call.link].pop(call.id, None)
                self._cancel(call)

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits that somebody waits for, and all answers have left."""
        ends = (*self.served.values(), *self._closed)
        return not self.outgoing and not any(each.running or each.waiting for each in ends)

    # Reports

    def accounts(self) -> tuple[ServiceAccount, ...]:
        """Counters and depths of each service."""
        return tuple(served.account() for served in self.served.values())

    def findings(self, now: float) -> Iterator[Finding]:
        """Handlers that nobody waits for any more and that run on."""
        before, self._left = self._left, set()
        for served in (*self.served.values(), *self._closed):
            self._left.update(served.left)
            if not before.isdisjoint(served.left):
                yield Finding(
                    f"service {served.service!r}: a handler runs on whose call was cancelled",
                    0.0,
                    "let it look at call.cancelled or call.left, and give waits in it a timeout",
                    code=RUNS_ON,
                    service=served.service,
                )

    def check(self) -> None:
        for served in (*self.served.values(), *self._closed, *((self.status,) if self.status is not None else ())):
            served.check()
            idle = served.waiting and served.has_slot and served not in self.ready
            assert not idle, "a call waits beside a free slot"
        for link, calls in self._calls.items():
            assert link.up, "calls of a life that is over"
            for number, call in calls.items():
                assert (call.id, call.link) == (number, link)
                assert call.stage in (Stage.WAITING, Stage.RUNNING), "an ended call can be answered"
        for link, waits in self.outgoing.items():
            assert waits, "a link is looked at for nothing"
            assert waits.size == sum(each.size for each in waits), "bytes of answers"
            assert link.up, "answers for a life that is over"


class Unread(deque["Unsent"]):
    """What waits for one peer to read it; never empty in `outgoing`."""

    size = 0
    """Bytes of it."""


class Unsent:
    """What leaves for one call: its end, or one part of a stream."""

    __slots__ = ("body", "codec", "id", "retry_ms", "service", "size", "status", "text", "type")

    def __init__(
        self,
        number: int,
        service: str,
        status: int = OK,
        body: bytes = NIL,
        codec: int = MSGPACK,
        text: str = "",
        type: str = "",
        retry_ms: int = 0,
    ) -> None:
        self.id, self.service, self.status, self.body, self.codec = number, service, status, body, codec
        self.text, self.type, self.retry_ms = text, type, retry_ms
        self.size = len(body) + 4 * (len(text) + len(type)) + CALL_OVERHEAD


__all__ = ["Responder"]
