"""Calls of one node: what its programs ask services, until it is answered or given up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from peerfabric.arguments import option_seconds, shown
from peerfabric.errors import (
    ConfigError,
    DecodeError,
    FabricError,
    MessageTooLarge,
    NoServer,
    RemoteError,
    ServerLost,
    ServiceBusy,
    TimedOut,
)
from peerfabric.nodes import unstarted
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_context import hand_here, in_handler, lease_paused
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.io.waiting import EXPLAIN_AFTER, Gate, answering, clock, stalled, wait_until
from peerfabric.nodes.service.service import Service
from peerfabric.reports import ServerView
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.wire.bodies import Codec
from peerfabric.wire.body_types import type_name

if TYPE_CHECKING:
    from peerfabric.engine import Engine

TIMEOUT_MAX: Final = 86400.0
ROOMY: Final = 1024
ROOMY_BYTES: Final = 1 << 20
"""With no more open calls, nor bytes of them, nobody need be asked whether there is room for another."""
PREPARED_MAX: Final = 1024
"""Services whose codecs are kept, for programs that make one for each call."""

_log = logging.getLogger("peerfabric")


class Prepared:
    """A service as its callers in one node need it: with the codecs of its types."""

    __slots__ = ("decode", "encode", "number", "service")

    def __init__(self, service: Service[Any, Any], limit: int) -> None:
        self.service = service
        request: Codec[Any] = Codec(service.body_type, limit)
        reply: Codec[Any] = Codec(service.reply_type, limit)
        self.encode, self.number, self.decode = request.encode, request.number, reply.decode_batch


class Calls:
    """The open calls of one node, of whatever threads or tasks.

    A call is given to the engine by its caller, and its frame leaves in that thread, if the engine's lock is free; else
    the pump takes all that came meanwhile, which then share a frame. The main thread leaves both to the pump in any
    case: Ctrl-C between the number of a frame and its way out would end the life of the link.
    """

    def __init__(self, node: NodeContext) -> None:
        self.node = self._node = node
        self._limit = node.settings.options.message_bytes_max
        self._prepared: dict[Any, Prepared] = {}
        self._open: dict[OpenCall, bool] = {}
        """Those that somebody waits for, and whether a handler does, which may go on while the node closes."""
        self._room = Gate()
        """Where those wait for whom too many are open."""
        # As a handle of the pump:
        self.end: Any = None  # until the first call, the Caller
        self.alerted = False
        self._handed: deque[OpenCall] = deque()
        self._dropped: deque[OpenCall] = deque()

    # As a handle of the pump

    def hand_over(self, engine: Engine, now: float) -> None:
        """Give the engine what was handed over since the last call. Called under its lock."""
        while self._handed:
            self.end.start(self._handed.popleft(), now)
        while self._dropped:
            self._give_up_locked(self._dropped.popleft(), now)

    def handed_over(self) -> None:
        """What it could send is sent."""

    def changed(self) -> None:
        """Calls have ended, or got parts: wake those who wait for them."""
        news = self.end.news
        while news:
            news.popleft().owner.wake()
        if self._room:
            self._room.open()

    def wake(self) -> None:
        """Let all who wait look again: a signal came."""
        for call in list(self._open):
            call.owner.wake()
        self._room.open()

    def attach(self) -> None:
        """Be told what becomes of calls. The node runs."""
        pump, engine = self._node.pump, self._node.engine
        with pump.lock:
            self.end = engine.caller
            pump.attach(self)

    # Preparing

    def prepared(
        self, service: Service[Any, Any] | str, body: object, reply_type: Any, *, stream: bool = False
    ) -> Prepared:
        """The codecs of a call, the same as before for the same service.

        Raises:
            ConfigError: There is no such service, or it is not answered in that way.
        """
        if isinstance(service, Service):
            if service.stream is not stream:
                asked = "parts; ask with stream()" if service.stream else "one reply; ask with request()"
                raise ConfigError(f"{service!r} is answered with {asked}")
            if reply_type is not None:
                raise ConfigError(f"{service!r} says what it replies; leave out reply_type=")
            key: Any = id(service)  # it is kept, so that no other one gets its id
        elif isinstance(service, str):
            if reply_type is None:
                text = f"say what service {service!r} replies: give reply_type=, or a Service in its place"
                raise ConfigError(text if stream else f"{text}; or ask with stream(), if it is answered in parts")
            key = service, isinstance(body, bytes | bytearray | memoryview), reply_type, stream
        else:
            raise ConfigError(f"{shown(service)} is no service; give a Service, or the name of one")
        try:
            found = self._prepared.get(key)
        except TypeError:  # a type that cannot be hashed
            found = key = None
        if found is None:
            if not isinstance(service, Service):
                raw = isinstance(body, bytes | bytearray | memoryview)
                service = Service(service, bytes if raw else Any, reply_type, stream=stream)
            found = Prepared(service, self._limit)
            if key is not None:
                if len(self._prepared) >= PREPARED_MAX:
                    self._prepared.clear()
                self._prepared[key] = found
        return found

    def made(
        self,
        prepared: Prepared,
        data: bytes,
        ends_at: float,
        idempotent: bool | None,
        server: str | None,
        headers: dict[str, str] | None,
    ) -> OpenCall:
        """A call with the encoded body `data`, as it is given to the engine; its owner is its waiter.

        Raises:
            EncodeError: A header cannot be sent.
            Cancelled: It is made by a handler whose own caller has given up.
        """
        service = prepared.service
        depth = 0
        within = answering.get()
        if within is not None:
            within.check()
            ends_at, depth = min(ends_at, within.ends_at), within.depth + 1
        if server is not None and (not isinstance(server, str) or not server):
            raise ConfigError(f"server={shown(server)} is no node; give an id or a name out of peers()")
        return OpenCall(
            service.name,
            data,
            prepared.number,
            ends_at,
            idempotent=service.idempotent if idempotent is None else bool(idempotent),
            server=server or "",
            depth=depth,
            headers=None if headers is None else checked_headers(headers),
            stream=service.stream,
            owner=self._node.waiting.waiter(),
        )

    # One reply

    async def request(
        self,
        service: Service[Any, Any] | str,
        body: Any,
        reply_type: Any,
        timeout: float | None,
        idempotent: bool | None,
        server: str | None,
        headers: dict[str, str] | None,
    ) -> Any:
        """Ask, and return the reply. As `AsyncNode.request`."""
        prepared = self._prepared.get(id(service))
        if prepared is None or prepared.service.stream or reply_type is not None:
            prepared = self.prepared(service, body, reply_type)
        if (timeout.__class__ is not float and timeout.__class__ is not int) or not 0.0 < timeout <= TIMEOUT_MAX:
            timeout = checked_timeout(timeout)
        node = self._node
        if node.life is not Life.RUNNING or node.loop is not None:
            await node.started()
        ends_at = inf if timeout is None else clock() + timeout
        call = self.made(prepared, prepared.encode(body), ends_at, idempotent, server, headers)
        try:
            if not self.start(call):
                await self.start_when_room(call, timeout)
            if hand_here() is not None:
                with lease_paused(node.pump):
                    await self.until(call, call.ends_at, timeout)
            else:
                await self.until(call, call.ends_at, timeout)
        finally:
            self._open.pop(call, None)
            if call.outcome is None:  # interrupted or cancelled
                self.forget(call)
        if call.outcome is not Outcome.OK:
            raise self.error(call, prepared, timeout)
        try:
            return prepared.decode(call.body, call.codec)[0]
        except DecodeError as error:
            raise misfit(call, error) from None

    def forget(self, call: OpenCall) -> None:
        """Nobody waits for it any more; without an outcome it gets none, and its server is told. Not in a finaliser."""
        self._open.pop(call, None)
        if call.outcome is None and self._node.is_running:
            with self._node.pump.lock:
                self._give_up_locked(call, clock())
            self._node.pump.wake()

    def start(self, call: OpenCall) -> bool:
        """Give it to the engine, and send it if this thread may; False: too many are open."""
        node = self._node
        pump = node.pump
        if self.end is None:
            self.attach()
        end = self.end
        if (len(end.open) > ROOMY or end.open_bytes > ROOMY_BYTES) and not end.has_room(call.size):
            return False
        self._open[call] = in_handler() is not None
        if node.life is not Life.RUNNING:
            node.ensure()  # `close` has not seen it
        lock = pump.lock
        if lock.is_ours():
            raise lock.refusal()
        if get_ident() != pump.main_thread:
            taken = False
            try:
                taken = lock.acquire(False)
                if taken:
                    now = clock()
                    end.start(call, now)
                    pump.send_beside(now)
                    return True
            finally:
                if taken:
                    lock.release()
        self._handed.append(call)
        pump.wake(self)
        return True

    async def start_when_room(self, call: OpenCall, timeout: float | None) -> None:
        """As `start`, when some of those that are open have ended.

        Raises:
            TimedOut: None has in `timeout` seconds.
        """

        def attempt() -> bool | None:
            self._node.ensure()
            self._node.ending.check()
            return self.start(call) or None

        what = f"service {call.service!r}: not sent; this node has too many open calls: wait for some of them"
        with lease_paused(self._node.pump):
            await wait_until(self._node.waiting, self._room, attempt, timeout, lambda: what)

    async def until(
        self, call: OpenCall, ends_at: float, timeout: float | None, is_done: Callable[[], bool] | None = None
    ) -> bool:
        """Wait for its outcome, or for something else of it, or until `ends_at`; whether that is there."""
        node = self._node
        waiting, ending, waiter = node.waiting, node.ending, call.owner
        explain_at = clock() + EXPLAIN_AFTER if timeout is None or timeout > EXPLAIN_AFTER else inf
        within = answering.get()
        if within is not None:
            within.rest(waiter)
        try:
            while call.outcome is None if is_done is None else not is_done():
                if ending.signal:
                    ending.check()
                if not node.is_running:
                    raise node.refusal()
                if within is not None:
                    within.check()
                now = clock()
                if now >= ends_at:
                    if ends_at >= call.ends_at:
                        self._expire(call, now)
                    return call.outcome is not None
                if now >= explain_at:
                    explain_at = inf
                    reason = stalled(waiting)
                    level = logging.WARNING if reason or timeout is None else logging.INFO
                    _log.log(level, "still waiting after %.0f s: %s%s", EXPLAIN_AFTER, self.said(call), reason)
                wake_at = min(ends_at, explain_at)
                await waiting.park(waiter, None if wake_at == inf else wake_at - now)
            return True
        finally:
            if within is not None:
                within.resume(waiter)

    def more(self, call: OpenCall) -> None:
        """Its reader has read half of what its server may send: allow more."""
        pump = self._node.pump
        with pump.lock:
            now = clock()
            self.end.more(call, now)
            pump.send_beside(now)

    def _expire(self, call: OpenCall, now: float) -> None:
        """Its time is over, and the pump has not said so yet."""
        with self._node.pump.lock:
            self.hand_over(self._node.engine, now)
            self.end.handle_timeout(now)
        self._node.pump.wake()

    def _give_up_locked(self, call: OpenCall, now: float) -> None:
        try:
            self._handed.remove(call)
        except ValueError:
            if call.id and call.outcome is None:
                self.end.cancel(call, now)

    def drop(self, call: OpenCall) -> None:
        """As `forget`, from a finaliser, which may interrupt whatever holds a lock."""
        self._open.pop(call, None)
        if call.outcome is None and self._node.is_running:
            self._dropped.append(call)
            self._node.pump.wake(self)

    # Who serves

    async def ready(self, service: str, servers: int, timeout: float | None) -> None:
        """Wait until so many servers of a service are connected.

        Raises:
            TimedOut: There are fewer.
        """
        node = self._node
        await node.started()
        if self.end is None:
            self.attach()
        with node.pump.lock:
            self.end.use(service, clock())
        node.pump.wake()

        def attempt() -> bool | None:
            node.ensure()
            node.ending.check()
            with node.pump.lock:
                return len(self.servers(service)) >= servers or None

        def what() -> str:
            with node.pump.lock:
                found = len(self.servers(service))
            return f"service {service!r} has {found} of {servers} servers; start one in the same fabric"

        try:
            await wait_until(node.waiting, node.pump.turned, attempt, timeout, what)
        finally:
            if node.is_running:
                with node.pump.lock:
                    self.end.unuse(service)

    def servers(self, service: str) -> list[ServerView]:
        """Those that can take a call now. The caller holds the engine's lock."""
        return [server for server in self.end.directory.servers(service) if server.ready]

    # The life of the node

    def close(self, *, handlers: bool) -> None:
        """The node closes: end the calls of programs; with `handlers` those of handlers, too."""
        node = self._node
        with node.pump.lock:
            now = clock()
            self.hand_over(node.engine, now)  # so that each has an outcome
            for call, by_handler in list(self._open.items()):
                if handlers or not by_handler:
                    self._give_up_locked(call, now)
                    call.owner.wake()
        node.pump.wake()

    # What came of it

    def said(self, call: OpenCall) -> str:
        """Where it is, for people."""
        server = call.asked if call.at is None else call.at  # the machine tells who was asked when it has ended
        if server is not None and (call.may_have_run or call.at is not None):
            return f"service {call.service!r}: sent to {server.link.name or server.link.node_id}; it may have run"
        hint = unstarted.hint(self._node, service=call.service)
        return f"service {call.service!r}: not sent; see node.services() and node.peers() for who serves it{hint}"

    def error(self, call: OpenCall, prepared: Prepared, timeout: float | None) -> FabricError:
        """The error of a call that has no reply."""
        name, server = call.service, call.server_name or call.server_id
        match call.outcome:
            case Outcome.ERROR:
                return RemoteError(call.type, call.text, server)
            case Outcome.BUSY:
                return ServiceBusy(name, call.retry_after)
            case Outcome.UNFIT:
                sent = f"sent as {type_name(prepared.service.body_type)}; give both sides the same Service"
                return DecodeError(f"{call.text} (at {server})", step=sent)
            case Outcome.TOO_DEEP:
                return ConfigError(
                    f"service {name!r}: 16 calls led to this one, so services ask each other in a circle; break it"
                )
            case Outcome.NO_SERVER:
                problem = f"{call.server!r} does not serve it" if call.server else "nobody serves it"
                return NoServer(name, problem + unstarted.hint(self._node, service=name))
            case Outcome.TOO_LARGE:
                return MessageTooLarge(call.size, call.limit)
            case Outcome.LOST:
                return ServerLost(name, server, proven=call.deaths, parts=call.received_parts)
            case Outcome.STALLED:
                return ServiceBusy(name, 0.0, f"{server} has ended a stream that was not read for too long")
            case Outcome.CANCELLED:
                return self._node.refusal()
        return self.late(call, timeout)

    def late(self, call: OpenCall, timeout: float | None) -> TimedOut:
        """The error of a call that has no reply, or no further part, in time."""
        after = "the time of the call that is answered here is over" if timeout is None else f"after {timeout:g} s"
        wanted = ", waiting for the next part" if call.read_parts else ""
        return TimedOut(f"timed out {after}{wanted}: {self.said(call)}{stalled(self._node.waiting)}")


def misfit(call: OpenCall, error: DecodeError) -> DecodeError:
    """The error of a reply, or a part of it, that does not fit the type that was asked for."""
    path = error.path.replace("$[0]", "$", 1)  # it stands in an array
    return DecodeError(error.reason, path=path, sender=call.server_name, step="give both sides the same Service")


def checked_timeout(timeout: Any) -> float | None:
    """How long a call waits; None: as long as its server lives.

    Raises:
        ConfigError: It is no time that a call could take.
    """
    if timeout is None:
        return None
    step = "give the seconds that a reply may take, above 0 and at most a day, or None"
    seconds = option_seconds("timeout", timeout, step, least=0.0, most=TIMEOUT_MAX)
    if seconds == 0.0:
        raise ConfigError(f"timeout={shown(timeout)} leaves no time for a call; {step}")
    return seconds


__all__ = ["Calls", "Prepared", "checked_timeout", "misfit"]
