"""Caller: all calls of one node that are not answered yet, whom each is sent to, and what comes of it.

A call is bound to a life of a link and its number; nothing is reconciled over lives, so a lost link fails the calls
that were sent there. Who may run twice, or has run nowhere, goes on at another server; nothing else is tried again.

    waiting  ──frame──▶  sent  ──answer──▶  ended
       ▲                   │ the handler did not start: another server, each once, three in all
       └───────────────────┤ the server is lost, and the call may run twice; or no socket took the frame
                           └─▶ LOST, if the server is and it may not
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Final

from peerfabric.health import NO_CONSUMER_AFTER, NO_SERVER, Finding
from peerfabric.link.control import Control
from peerfabric.link.interest import Interests
from peerfabric.link.link import Belief, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.reports import CallAccount
from peerfabric.service.call import CALL_OVERHEAD, DEPTH_MAX, PARTS_AHEAD, PARTS_BYTES_AHEAD, OpenCall, Outcome
from peerfabric.service.choice import Server, able, least
from peerfabric.service.directory import NAME_KEPT, Directory, Service
from peerfabric.wire.bodies import ALONE_BYTES_MIN, join, join_one, message_bytes, one_by_one
from peerfabric.wire.frames import (
    BUSY,
    CALL_EXPIRED,
    END,
    MSGPACK,
    NAMES_MAX,
    NOT_STARTED,
    OK,
    PART,
    RAW,
    RAW_ONE,
    STALLED,
    TOO_DEEP,
    UNFIT,
    Answer,
    Call,
    Cancel,
    Interest,
    More,
    Parts,
    Reply,
    Request,
    encode_frame,
)

CALLS_MAX: Final = 65_536
CALLS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Calls of a node that are open, and bytes of what they ask: above it callers wait."""
TRIES_MAX: Final = 3
"""Servers that are asked for one call, while each says that its handler did not start."""
DEATHS_MAX: Final = 2
"""A call with which so many servers died is not tried again: it may be why."""
LEFT_MAX: Final = 86_400.0
"""Seconds: no call tells that it has more time left."""
REQUEST_BYTES_AIM: Final = 256 * 1024
SEEK_EVERY: Final = 0.02
"""Seconds between two looks whether somebody may still come who answers."""
PRUNE_AT: Final = 256

Send = Callable[[int, list[bytes]], bool]

_TIME, _SEEK, _NAMES = "time", "seek", "names"
"""Among the deadlines: when the first call times out, when to look for servers, and for names that nobody calls."""

_LEFT: Final = {BUSY: Outcome.BUSY, CALL_EXPIRED: Outcome.EXPIRED, UNFIT: Outcome.UNFIT, TOO_DEEP: Outcome.TOO_DEEP}
"""Answers from `NOT_STARTED` on; all others say that there is no server."""


class Caller(Machine):
    """All open calls of one node.

    Args:
        links: Its links.
        control: Told of links that have something to say.
        interests: Told which services are called.
        changed: Takes this machine when calls have ended, or got parts.
        joined_at: From when on this node knows who is there.
    """

    # open = waiting + sent;  started = open + ended, by outcome
    # a call that is sent is in `_sent` of an up link, in the life in which it left
    # a call that may not run twice is in one frame at most that nobody has answered by `NOT_STARTED` or above

    def __init__(
        self, links: Links, control: Control, interests: Interests, changed: set[Any], joined_at: float
    ) -> None:
        super().__init__()
        self.news: deque[OpenCall] = deque()
        """Calls that have ended, or got parts, in this order; the driver takes them from the left."""
        self.waiting: dict[Service, None] = {}
        """Services with calls that may be sent now."""
        self.open: dict[int, OpenCall] = {}
        self.open_bytes = 0
        self.started = self.late = 0
        """Calls so far; answers that nobody waited for any more."""
        self.ended: Counter[Outcome] = Counter()
        self._links, self._control, self._changed = links, control, changed
        self.directory = Directory(links, interests, joined_at)
        self._sent: dict[Link, dict[int, tuple[OpenCall, Server]]] = {}
        """Up links -> what was sent there in this life and is not answered."""
        self._kept: dict[Link, tuple[list[bytes], list[OpenCall]]] = {}
        """The last frame of each link that its socket did not take at once, and the calls in it."""
        self._cancels: dict[Link, list[int]] = {}
        self._mores: dict[Link, dict[OpenCall, None]] = {}
        self._times: list[tuple[float, int, OpenCall]] = []
        """A heap of when calls time out; with some that have ended."""
        self._lost_with: dict[str, dict[OpenCall, None]] = {}
        """Peers whose fate is not known yet -> calls that were lost with their links."""
        self._unserved: dict[Service, float] = {}
        """Services with calls for which there is no server; since when."""

    # What users do

    def has_room(self, size: int) -> bool:
        """Whether a call of so many bytes (`OpenCall.size`) may be started. Any thread may ask."""
        return len(self.open) < CALLS_MAX and (self.open_bytes + size <= CALLS_BYTES_MAX or not self.open)

    def start(self, call: OpenCall, now: float) -> None:
        """Take responsibility for `call`: it gets an outcome, by its deadline at the latest. It leaves with `transmit`.

        Whether there is room for it its user has asked.
        """
        self.started += 1
        call.id = self.started
        self.open[call.id] = call
        self.open_bytes += call.size
        service = self.directory.by_name.get(call.service)
        if service is None or service.used_at < now - NAME_KEPT / 2:
            service = self._called(call.service, now)
        if call.ends_at < inf:
            heappush(self._times, (call.ends_at, call.id, call))
            if self._times[0][2] is call:
                self.deadlines.put(_TIME, call.ends_at)
        if call.depth >= DEPTH_MAX:
            self._end(call, Outcome.TOO_DEEP)
            return
        if call.server:
            service.odd[call] = None
        else:
            service.fresh.append(call)
        self.waiting[service] = None

    def cancel(self, call: OpenCall, now: float) -> None:
        """Nobody waits for `call` any more. It is not among the news."""
        if call.outcome is None:
            self._give_up(call, Outcome.CANCELLED, told=False)

    def more(self, call: OpenCall, now: float) -> None:
        """Allow as many parts of a stream beyond those that were read as at its start."""
        if call.outcome is None and call.at is not None:
            call.granted_parts = call.read_parts + PARTS_AHEAD
            call.granted_bytes = call.read_bytes + PARTS_BYTES_AHEAD
            link = call.at.link
            self._mores.setdefault(link, {})[call] = None
            self.due[link] = None
            self._control.note(link)

    def use(self, service: str, now: float) -> None:
        """Somebody means to call it: whoever serves it is linked with, until as many have said `unuse`."""
        self._called(service, now).held += 1

    def unuse(self, service: str) -> None:
        """One of them does not any more."""
        self.directory.of(service).held -= 1

    def reserve(self, service: str) -> list[str]:
        """Call at all peers with which this node is linked what they serve without telling; return their node ids."""
        links = [link for link in self._sent if link.wire != OURSELVES]
        self.directory.reserve(service, links)
        return [link.node_id for link in links]

    def close(self, now: float) -> None:
        """The node closes: nobody waits for anything any more."""
        for call in list(self.open.values()):
            self._give_up(call, Outcome.CANCELLED)

    def _called(self, name: str, now: float) -> Service:
        service = self.directory.called(name, now, self.open.values())
        self.deadlines.put(_NAMES, now + NAME_KEPT)
        return service

    # Ends

    def _end(self, call: OpenCall, outcome: Outcome, *, told: bool = True) -> None:
        """Let go of `call`: whoever works on it is told that nobody waits."""
        del self.open[call.id]
        self.open_bytes -= call.size
        self.ended[outcome] += 1
        if call.at is not None:
            for server in (call.at, *call.also):
                self._leave(call, server, cancel=True)
        if call.deaths or call.doubts:
            for calls in self._lost_with.values():
                calls.pop(call, None)
        if outcome is not Outcome.OK:
            call.body = b""
        call.outcome = outcome
        if told:
            self.news.append(call)
        self._changed.add(self)  # or somebody waits for room

    def _give_up(self, call: OpenCall, outcome: Outcome, *, told: bool = True) -> None:
        """`call` ends though whoever has it may answer yet."""
        if call.at is not None:
            call.asked, call.may_have_run = call.at, True
        self._end(call, outcome, told=told)

    def _leave(self, call: OpenCall, server: Server, *, cancel: bool) -> None:
        """`call` is not at that server any more."""
        sent = self._sent.get(server.link)
        if sent is None or sent.pop(call.id, None) is None:
            return
        server.outstanding -= 1
        if cancel:
            link = server.link
            self._cancels.setdefault(link, []).append(call.id)
            self.due[link] = None
            self._control.note(link)

    # What servers say

    def handlers(self) -> Mapping[type, Handler]:
        return {Reply: self.receive}

    def receive(self, link: Link, reply: Reply, body: bytes | memoryview, now: float) -> None:
        """A server answers."""
        link.data_received(now, call=True)
        if link.echo_at <= now:
            self._control.note(link)
        else:
            self._links.echoes.put(link, link.echo_at)
        answers, sent, codec = reply.answers, self._sent[link], reply.codec
        if len(answers) == 1 and (codec == RAW_ONE or body[:1] == b"\x91"):
            contents: Sequence[Any] = (body,)
        else:
            contents = one_by_one(body, codec, len(answers))
            codec = codec if len(answers) == 1 else MSGPACK
        for answer, content in zip(answers, contents, strict=True):
            found = sent.get(answer.call)
            if found is None:
                self.late += 1
                continue
            call, server = found
            if answer.status == PART and call.stream and content is not None:
                size = message_bytes(content, reply.codec) + CALL_OVERHEAD
                self._take_part(call, server, content, codec, size)
                continue
            del sent[answer.call]
            server.outstanding -= 1
            if call.also:
                self._at_fewer(call, server)
            elif answer.status < NOT_STARTED:
                call.at = None
            if answer.status == OK and content is not None and not call.stream:
                server.errors = 0
                call.body, call.codec = content, codec
                self._answered(call, server, Outcome.OK)
            else:
                self._answer(call, server, answer, content, codec, now)
        for load in reply.loads:
            service = self.directory.by_name.get(load.service)
            told = service.servers.get(link.peer) if service is not None else None
            if told is not None and (load.count > told.outstanding or told.others):
                told.told(load.count, now)

    def _answered(self, call: OpenCall, server: Server, outcome: Outcome) -> None:
        call.asked, call.may_have_run = server, True
        self._end(call, outcome)

    def _answer(self, call: OpenCall, server: Server, answer: Answer, content: Any, codec: int, now: float) -> None:
        """An answer that is not simply a body."""
        status = answer.status
        call.text, call.type = answer.text, answer.type
        if status >= NOT_STARTED:
            self._not_started(call, server, answer, now)
        elif content is None:
            call.text, call.type = "the body of the reply is not what its header says", "BadFrame"
            self._answered(call, server, Outcome.ERROR)
        elif status == OK:  # to a call that wanted a stream: its one part
            call.received_parts += 1
            call.parts.append((content, codec, 0))
            self._answered(call, server, Outcome.END)
        elif status == END and call.stream:
            server.errors = 0
            self._answered(call, server, Outcome.END)
        elif status == STALLED:
            self._answered(call, server, Outcome.STALLED)
        else:
            server.failed(now)
            if status in (PART, END):
                call.text, call.type = "answered in parts; ask for a stream", "BadFrame"
                self._cancels.setdefault(server.link, []).append(call.id)
                self.due[server.link] = None
            self._answered(call, server, Outcome.ERROR)

    def _take_part(self, call: OpenCall, server: Server, content: Any, codec: int, size: int) -> None:
        call.received_parts += 1
        call.received_bytes += size
        call.asked, call.may_have_run = server, True
        if call.also:  # the first that sends something is the one
            for other in [each for each in (call.at, *call.also) if each is not None and each is not server]:
                self._leave(call, other, cancel=True)
            call.at, call.also = server, []
        if call.received_parts > call.granted_parts or call.received_bytes - size >= call.granted_bytes:
            call.text, call.type = "more parts than were allowed", "BadFrame"
            self._end(call, Outcome.ERROR)
            return
        call.parts.append((content, codec, size))
        self.news.append(call)
        self._changed.add(self)

    def _at_fewer(self, call: OpenCall, server: Server) -> None:
        """`call`, which is at several servers, is not at that one any more."""
        there = [each for each in (call.at, *call.also) if each is not None and each is not server]
        call.at, call.also = (there[0], there[1:]) if there else (None, [])

    def _not_started(self, call: OpenCall, server: Server, answer: Answer, now: float) -> None:
        """The handler did not start there: another server is asked, if there is one."""
        outcome = _LEFT.get(answer.status, Outcome.NO_SERVER)
        call.asked = server
        if outcome is Outcome.BUSY:
            call.retry_after = answer.retry_ms / 1000
            server.is_busy(call.retry_after, now)
        elif outcome is Outcome.UNFIT:
            server.failed(now)
        if call.at is server:
            call.at = None
        if call.at is not None:
            return  # it is asked elsewhere, too
        call.may_have_run = call.was_lost
        call.tried = {*call.tried, server.peer}
        call.refusal = outcome
        if outcome is Outcome.TOO_DEEP or len(call.tried) >= TRIES_MAX:
            self._end(call, outcome)
        else:
            self._again(call)

    def _again(self, call: OpenCall) -> None:
        service = self.directory.of(call.service)
        if call.tried or call.server:
            service.odd[call] = None
        else:
            service.fresh.appendleft(call)
        self.waiting[service] = None

    # Who serves what

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        self._look_at(self.directory.told(link, interest))

    def _look_at(self, services: Sequence[Service]) -> None:
        """Others serve these now, or less."""
        for service in services:
            self._unserved.pop(service, None)
            if service.fresh or service.odd:
                self.waiting[service] = None
        if services:
            self._changed.add(self)

    # Sending

    def transmit(self, send: Send, to_ourselves: Send, now: float) -> None:
        """Send all calls for which there is somebody with room."""
        for service in list(self.waiting):
            fresh = service.fresh
            servers = able(service.servers.values(), now)
            while servers and fresh:
                for server, calls in self._share(service, servers, now):
                    self._send(service, server, calls, to_ourselves if server.link.wire == OURSELVES else send, now)
                servers = able(service.servers.values(), now) if fresh else []
            if service.odd:
                self._send_odd(service, send, to_ourselves, now)
            if fresh:
                self._keep_waiting(service, now)
            if service in self._unserved or not (fresh or service.odd):
                self.waiting.pop(service, None)

    def _share(self, service: Service, servers: list[Server], now: float) -> list[tuple[Server, list[OpenCall]]]:
        """Where the calls that wait go: one frame for each server, at most."""
        fresh = service.fresh
        batches: dict[Server, list[OpenCall]] = {}
        sizes: dict[Server, int] = {}
        while fresh:
            call = fresh[0]
            if call.outcome is not None:
                fresh.popleft()
                continue
            server = servers[0] if len(servers) == 1 else least(servers, now)
            limit = server.link.frame_bytes_max - 1024
            if call.size > limit:
                service.odd[fresh.popleft()] = None
                continue
            batch = batches.get(server)
            if batch is None:
                batch, sizes[server] = batches.setdefault(server, []), 0
            else:
                first = batch[0]
                size = sizes[server] + call.size
                alone = first.codec == RAW and first.size >= ALONE_BYTES_MIN
                if (
                    alone
                    or first.codec != call.codec
                    or size > min(REQUEST_BYTES_AIM, limit)
                    or len(batch) >= NAMES_MAX
                ):
                    break
            fresh.popleft()
            batch.append(call)
            sizes[server] += call.size
            server.outstanding += 1  # for the choice of the next; `_send` counts it
        for server, batch in batches.items():
            server.outstanding -= len(batch)
        return list(batches.items())

    def _send(self, service: Service, server: Server, calls: list[OpenCall], send: Send, now: float) -> None:
        """One REQUEST for `server`, who is next in turn only after the others."""
        link, peer = server.link, server.peer
        servers = service.servers
        if len(servers) > 1:
            servers[peer] = servers.pop(peer)
        if len(calls) == 1:
            body, codec = join_one(calls[0].body, calls[0].codec)  # type: ignore[arg-type]
        else:
            body, codec = join([call.body for call in calls], calls[0].codec)  # type: ignore[misc]
        sent, told = self._sent[link], []
        for call in calls:
            left = call.ends_at - now
            left_ms = 0 if left == inf else max(1, int(1000 * min(left, LEFT_MAX)))
            told.append(Call(call.id, left_ms, 1 if call.stream else 0, call.depth, call.headers))
            sent[call.id] = call, server
            if call.at is None:
                call.at = server
            else:
                call.also = [*call.also, server]
        server.outstanding += len(calls)
        echo = link.in_number
        number = link.next_number()
        header = encode_frame(Request(link.out_id, number, echo, service.name, codec, told))
        link.call_sent(number, len(header) + len(body), now)
        frames = [header, body]
        if not send(link.wire, frames):
            self._control.keep(link, frames)
            self._kept[link] = frames, calls

    def _send_odd(self, service: Service, send: Send, to_ourselves: Send, now: float) -> None:
        """Send the calls for which not every server will do, and end those for which there is none."""
        servers = able(service.servers.values(), now)
        for call in list(service.odd):
            if call.outcome is not None or (call.at is not None and call.at.link.belief is Belief.ALIVE):
                del service.odd[call]
                continue
            fit = [server for server in servers if self._will_do(server, call)]
            if fit and call.deaths + call.doubts < DEATHS_MAX:
                del service.odd[call]
                server = least(fit, now)
                to = to_ourselves if server.link.wire == OURSELVES else send
                self._send(service, server, [call], to, now)
                servers = [each for each in servers if each is not server or each.link.takes_calls()]
            elif call.at is None:
                self._end_hopeless(service, call, now)

    @staticmethod
    def _will_do(server: Server, call: OpenCall) -> bool:
        """Whether `call` may go to that server."""
        if server.peer in call.tried or server is call.at or server in call.also:
            return False
        return call.size + 1024 <= server.link.frame_bytes_max and (not call.server or _is(server, call.server))

    def _keep_waiting(self, service: Service, now: float) -> None:
        """No server takes those for whichever server: they wait for one, if that can help."""
        fresh = service.fresh
        while fresh and fresh[0].outcome is not None:
            fresh.popleft()
        if fresh and self._end_hopeless(service, fresh[0], now):
            for call in list(fresh):
                if call.outcome is None:
                    self._end_hopeless(service, call, now)
            fresh.clear()

    def _end_hopeless(self, service: Service, call: OpenCall, now: float) -> bool:
        """End `call`, which no server takes now, unless one may; whether it has ended."""
        there = [each for each in service.servers.values() if not each.link.draining]
        left = [each for each in there if each.peer not in call.tried and (not call.server or _is(each, call.server))]
        if not left:
            if call.refusal not in (None, Outcome.NO_SERVER):
                self._end(call, call.refusal)
                return True
            if self.directory.may_come(now):
                self._unserved[service] = now
                self.deadlines.put(_SEEK, now + SEEK_EVERY)
                return False
            self._end(call, Outcome.LOST if call.was_lost else Outcome.NO_SERVER)
            return True
        if call.deaths >= DEATHS_MAX:
            self._end(call, Outcome.LOST)
            return True
        largest = max(each.link.frame_bytes_max for each in left)
        if largest and call.size + 1024 > largest:
            call.limit = largest - 1024
            self._end(call, Outcome.TOO_LARGE)
            return True
        barred_until = min(each.barred_until for each in left)
        if barred_until > now:
            call.retry_after = barred_until - now
            call.asked = left[0]
            self._end(call, Outcome.BUSY)
            return True
        return False

    def poll_control(self, link: Link, now: float) -> None:
        """CANCEL for calls that nobody waits for, MORE for streams that are read."""
        self.due.pop(link, None)
        cancels = self._cancels.pop(link, ())
        for at in range(0, len(cancels), NAMES_MAX):
            self._control.put(link, Cancel(b"", 0, 0, list(cancels[at : at + NAMES_MAX])))
        mores = [call for call in self._mores.pop(link, ()) if call.outcome is None]
        for at in range(0, len(mores), NAMES_MAX):
            told = [Parts(call.id, call.granted_parts, call.granted_bytes) for call in mores[at : at + NAMES_MAX]]
            self._control.put(link, More(b"", 0, 0, told))

    # Links

    def link_up(self, link: Link, now: float) -> None:
        self._sent[link] = {}
        self._judge(link.peer, died=False)

    def link_down(self, link: Link) -> None:
        """What was sent in this life is lost, unless no socket took it, or it may run twice."""
        kept = self._kept.pop(link, None)
        unsent = set(kept[1]) if kept is not None and (kept[0] is link.unsent or kept[0] is link.kept) else ()
        for each in (self._cancels, self._mores, self.due):
            each.pop(link, None)
        for call, server in (self._sent.pop(link, None) or {}).values():
            server.outstanding -= 1
            call.was_lost = call.was_lost or call not in unsent
            if call.also:
                self._at_fewer(call, server)
                continue
            call.at = None
            if call in unsent:
                self._again(call)
                continue
            call.asked, call.may_have_run = server, True
            if not call.idempotent or call.received_parts:
                self._end(call, Outcome.LOST)
                continue
            self._lost_with.setdefault(link.peer, {})[call] = None
            call.doubts += 1
            if call.deaths + call.doubts < DEATHS_MAX:
                self._again(call)
            else:  # it may kill whoever answers it: first it is to be known whether it has
                self.directory.of(call.service).odd[call] = None

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)
        self._look_at(self.directory.gone(link.peer))
        self._judge(link.peer, died=died)

    def _judge(self, peer: str, *, died: bool) -> None:
        """It is known what became of a peer with whose link calls were lost."""
        for call in self._lost_with.pop(peer, ()):
            call.doubts -= 1
            call.deaths += died
            if call.deaths >= DEATHS_MAX and call.at is None:
                self.directory.of(call.service).odd.pop(call, None)
                self._end(call, Outcome.LOST)
            elif call.at is None:
                self.waiting[self.directory.of(call.service)] = None

    def peer_suspect(self, link: Link, now: float) -> None:
        """The peer has fallen silent: what may run twice is asked of another one as well."""
        for call, _ in self._sent.get(link, {}).values():
            if call.idempotent and not call.also and not call.received_parts and not call.server:
                service = self.directory.of(call.service)
                service.odd[call] = None
                self.waiting[service] = None

    def needs(self, link: Link) -> bool:
        return bool(self._sent.get(link))

    # Time

    def handle_timeout(self, now: float) -> None:
        for thing in self.deadlines.take_due(now):
            if thing is _TIME:
                self._time_out(now)
            elif thing is _SEEK:
                self.waiting |= dict.fromkeys(self._unserved)
                self._unserved.clear()
            elif self.directory.forget(now, self.open.values(), used_before=now - NAME_KEPT):
                self.deadlines.put(_NAMES, now + NAME_KEPT)

    def _time_out(self, now: float) -> None:
        times = self._times
        while times and (times[0][0] <= now or times[0][2].outcome is not None):
            call = heappop(times)[2]
            if call.outcome is None:
                self._give_up(call, Outcome.TIMED_OUT)
        if len(times) > PRUNE_AT and len(times) > 2 * len(self.open):
            self._times = times = [each for each in times if each[2].outcome is None]
            heapify(times)
        if times:
            self.deadlines.put(_TIME, times[0][0])

    # Reports

    def account(self) -> CallAccount:
        """Counters and depths."""
        return CallAccount(
            started=self.started,
            open=len(self.open),
            late=self.late,
            ended={outcome.value: count for outcome, count in self.ended.items()},
        )

    def findings(self, now: float) -> Iterator[Finding]:
        """Services whose calls wait without anybody who answers."""
        for service in self._unserved:
            yield Finding(
                f"service {service.name!r}: calls wait without a server",
                NO_CONSUMER_AFTER,
                "start one; node.peers() tells who serves what",
                code=NO_SERVER,
                service=service.name,
            )

    def check(self) -> None:
        assert self.started == len(self.open) + sum(self.ended.values()), "a call is unaccounted"
        assert self.open_bytes == sum(call.size for call in self.open.values()), "bytes of open calls"
        sent: dict[OpenCall, list[Server]] = {}
        for link, calls in self._sent.items():
            assert link.up, "calls of a life that is over"
            for call, server in calls.values():
                assert server.link is link
                sent.setdefault(call, []).append(server)
        outstanding = Counter(server for servers in sent.values() for server in servers)
        for service in self.directory.by_name.values():
            for server in service.servers.values():
                assert server.outstanding == outstanding[server], "calls outstanding at a server"
        for call in self.open.values():
            assert call.outcome is None, "an ended call is open"
            there = sent.pop(call, [])
            assert {*there} == {*([call.at] if call.at else ()), *call.also}, "where a call was sent"
            assert len(there) <= 1 or call.idempotent, "a call that may not run twice is at two servers"
            service = self.directory.of(call.service)
            waits = call in service.odd or call in service.fresh
            assert waits or there, "an open call neither waits nor was sent"
            assert service in self.waiting or service in self._unserved or there or service.odd, (
                "nobody looks at a call"
            )
        assert not sent, "an ended call is looked for"


def _is(server: Server, wanted: str) -> bool:
    """Whether `wanted` is the node id or the name of that server."""
    link = server.link
    return wanted in (link.node_id, link.name)


__all__ = ["Caller"]
