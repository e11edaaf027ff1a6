"""Services over real nodes, each story told to both fronts."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec
import pytest

from peerfabric import (
    AsyncNode,
    BadName,
    Busy,
    Call,
    Cancelled,
    ConfigError,
    DecodeError,
    EncodeError,
    Incomplete,
    Node,
    NodeClosed,
    NoServer,
    Options,
    RemoteError,
    ServerLost,
    Service,
    ServiceBusy,
    TimedOut,
)
from peerfabric.nodes.service import calls
from peerfabric.service import caller
from tests.nodes.conftest import DEADLINE, eventually

F = TypeVar("F", bound=Callable[..., Any])


class Query(msgspec.Struct):
    pair: str


class Price(msgspec.Struct):
    value: float


GET = Service("prices.get", Query, Price)
DOUBLE = Service("double", int, int)
COUNT = Service("count", int, int, stream=True)
RAW = Service("raw", bytes, bytes)


def served(node: Any, service: Any, **options: Any) -> Callable[[F], F]:
    """`node.serve`, of a node of either front."""
    decorate: Callable[[F], F] = node.serve(service, **options)
    return decorate


def doubles(node: Any) -> None:
    """Serve DOUBLE there."""

    @served(node, DOUBLE)
    def double(number: int) -> int:
        return 2 * number


def background(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Make a call in a thread; what it returned or raised is put into the list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


# One reply


def test_a_question_gets_its_answer(front: Any) -> None:
    """The reply comes decoded, and the handler learns who asks, what for, and how long that one waits."""
    seen: list[Any] = []
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, GET)
        def get(query: Query, call: Call) -> Price:
            seen.append((query, call.caller, call.headers, 0 < call.left <= 20, call.cancelled))
            return Price(1.08)

        reply = asker.request(GET, Query("eur"), timeout=20, headers={"trace": "7"})
        assert reply == Price(1.08)
        assert seen == [(Query("eur"), "asker", {"trace": "7"}, True, False)]


def test_a_name_alone(front: Any) -> None:
    """Without a Service the annotations say the types of one side, and the call that of the other."""
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, "prices.get")
        def get(query: Query) -> Price:
            return Price(len(query.pair))

        assert asker.request("prices.get", Query("eur"), reply_type=Price, timeout=DEADLINE) == Price(3)
        assert asker.request("prices.get", {"pair": "chf"}, reply_type=dict, timeout=DEADLINE) == {"value": 3.0}
        assert get(Query("eur")) == Price(3)


def test_a_client_is_the_service_as_a_function(front: Any) -> None:
    """It waits for servers, and asks as `request` does."""
    with front.node("server") as server, front.node("asker") as asker:
        client = asker.client(DOUBLE)
        with pytest.raises(TimedOut, match=r"has 0 of 1 servers; start one"):
            client.ready(timeout=0.01)
        doubles(server)
        client.ready(servers=1, timeout=DEADLINE)
        if front.is_async:
            assert asyncio.run_coroutine_threadsafe(client.target(21), front.loop).result() == 42
        else:
            assert client(21, timeout=DEADLINE) == 42


def test_a_node_asks_itself(front: Any) -> None:
    """A service of the node itself is one like any other."""
    with front.node("both") as node:
        doubles(node)
        assert [node.request(DOUBLE, number, timeout=DEADLINE) for number in range(10)] == [*range(0, 20, 2)]


def test_raw_bytes_of_any_size(front: Any) -> None:
    """They are not encoded, and large ones are not copied into an array."""
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, RAW)
        def turned(body: bytes) -> bytes:
            return body[::-1]

        for size in (0, 1, 1000, 32 * 1024, 1 << 20):
            body = bytes(range(256)) * (size // 256 + 1)
            assert asker.request(RAW, body[:size], timeout=DEADLINE) == body[:size][::-1]


def test_many_at_once(front: Any) -> None:
    """Eight threads with a hundred calls each get each their own replies."""
    with front.node("server") as server, front.node("asker") as asker:
        doubles(server)
        wrong: list[Any] = []

        def ask(first: int) -> None:
            for number in range(first, first + 100):
                if asker.request(DOUBLE, number, timeout=DEADLINE) != 2 * number:
                    wrong.append(number)

        threads = [threading.Thread(target=ask, args=(1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert server.statistics().services[0].answered == 800


def test_a_handler_runs_in_a_context_of_its_own(front: Any) -> None:
    """What one call sets the next does not see, in whichever thread it runs."""
    trace: ContextVar[str] = ContextVar("trace", default="")
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, "trace", concurrency=1)
        def set_trace(value: str) -> str:
            before = trace.get()
            trace.set(value)
            return before

        assert [asker.request("trace", v, reply_type=str, timeout=DEADLINE) for v in "abc"] == ["", "", ""]


# What goes wrong


def test_nobody_serves_it(front: Any) -> None:
    """It is said as soon as it is clear; nothing was sent."""
    with front.node("asker") as asker:
        with pytest.raises(NoServer, match=r"'double': nobody serves it; look at its name"):
            asker.request(DOUBLE, 1, timeout=DEADLINE)
        doubles(asker)
        assert asker.request(DOUBLE, 1, timeout=DEADLINE) == 2
        with pytest.raises(NoServer, match="'else' does not serve it"):
            asker.request(DOUBLE, 1, server="else", timeout=DEADLINE)


def test_no_answer_in_time(front: Any) -> None:
    """The error says that the call was sent, and to whom; the handler learns that nobody waits."""
    given_up, told = threading.Event(), threading.Event()
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, DOUBLE)
        def double(number: int, call: Call) -> int:
            assert given_up.wait(DEADLINE)
            eventually(lambda: call.cancelled)
            told.set()
            return 0

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        with pytest.raises(TimedOut, match=r"after 0\.2 s: service 'double': sent to server; it may have run"):
            asker.request(DOUBLE, 1, timeout=0.2)
        given_up.set()
        assert told.wait(DEADLINE)


def test_a_call_that_takes_long_is_told(front: Any, caplog: Any, monkeypatch: Any) -> None:
    """The log says of an open call, too, that it was sent, and to whom."""
    monkeypatch.setattr("peerfabric.nodes.service.calls.EXPLAIN_AFTER", 0.05)
    release = threading.Event()
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, DOUBLE)
        def double(number: int) -> int:
            assert release.wait(DEADLINE)
            return 2 * number

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        thread, found = background(lambda: asker.request(DOUBLE, 1, timeout=None))
        eventually(lambda: [each for each in caplog.messages if each.startswith("still waiting")])
        release.set()
        thread.join()
        [told] = [each for each in caplog.messages if each.startswith("still waiting")]
        assert told.endswith("s: service 'double': sent to server; it may have run")
        assert found == [2]


def test_what_handlers_raise(front: Any, caplog: Any) -> None:
    """Whatever it is comes as text, and the service goes on."""
    caplog.set_level(logging.CRITICAL, "peerfabric")  # nobody could report what some of these say

    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    with front.node("server") as server, front.node("asker") as asker:

        @served(server, "fail", concurrency=1)
        def fail(what: str) -> str:
            match what:
                case "exit":
                    raise SystemExit(3)
                case "cancelled":
                    raise asyncio.CancelledError
                case "surrogate":
                    raise ValueError("\ud800")
                case "odd":
                    raise Odd
                case "long":
                    raise RuntimeError("x" * 5_000_000)
                case "interrupt":
                    raise KeyboardInterrupt
                case "generator":
                    raise GeneratorExit
                case "unfit":
                    return 3  # type: ignore[return-value]
            return what

        def error(what: str) -> RemoteError:
            with pytest.raises(RemoteError) as caught:
                asker.request("fail", what, reply_type=str, timeout=DEADLINE)
            assert asker.request("fail", "fine", reply_type=str, timeout=DEADLINE) == "fine"
            return caught.value

        assert (error("exit").type, error("exit").text, error("exit").server) == ("SystemExit", "3", "server")
        assert error("cancelled").type == "asyncio.exceptions.CancelledError"
        assert error("surrogate").text == "\\ud800"
        assert error("odd").type.endswith("test_what_handlers_raise.<locals>.Odd")
        assert "its text cannot be made" in error("odd").text
        assert error("long").text == "x" * 1000
        assert error("interrupt").type == "KeyboardInterrupt"
        assert error("generator").type == "GeneratorExit"
        assert (error("unfit").type, error("unfit").text[:12]) == ("peerfabric.errors.EncodeError", "expected str")


def test_what_coroutines_raise(runtime: Any, caplog: Any) -> None:
    """As above; what an event loop takes for the end of a coroutine is a failure as any, and leaves the slot free."""
    caplog.set_level(logging.CRITICAL, "peerfabric")

    async def main() -> None:
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:
            kinds = {kind.__name__: kind for kind in (SystemExit, asyncio.CancelledError, GeneratorExit)}

            @server.serve(Service("fail", str, str), concurrency=1)
            async def fail(what: str) -> str:
                if what in kinds:
                    raise kinds[what]
                return what

            ask = asker.client(Service("fail", str, str))
            await ask.ready(timeout=DEADLINE)
            for what, kind in kinds.items():
                with pytest.raises(RemoteError) as caught:
                    await ask(what, timeout=DEADLINE)
                assert caught.value.type.endswith(kind.__qualname__)
                assert await ask("fine", timeout=DEADLINE) == "fine"

    asyncio.run(main())


def test_types_that_do_not_fit(front: Any) -> None:
    """Both types are named; a handler never sees such a request."""
    with front.node("server") as server, front.node("asker") as asker:
        doubles(server)
        with pytest.raises(
            DecodeError, match=r"int is wanted: Expected `int`, got `str`.*sent as str; give both sides"
        ):
            asker.request(Service("double", str, int), "one", timeout=DEADLINE)
        with pytest.raises(DecodeError, match="Expected `str`, got `int`"):
            asker.request(Service("double", int, str), 1, timeout=DEADLINE)
        with pytest.raises(EncodeError, match="expected int, got str"):
            asker.request(DOUBLE, "one", timeout=DEADLINE)
        assert asker.request(DOUBLE, 1, timeout=DEADLINE) == 2


class Picky(msgspec.Struct):
    """Its own code runs while it is decoded."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise RuntimeError("no such number")


PICKY = Service("picky", Picky, int)


def test_requests_whose_own_code_fails(front: Any) -> None:
    """The caller is told, and the slot is free: more of them than run at once do no harm."""
    with front.node("server") as server, front.node("asker") as asker:
        if front.is_async:

            @served(server, PICKY, concurrency=1)
            async def pick_soon(body: Picky) -> int:
                return body.number

        else:

            @served(server, PICKY, concurrency=1)
            def pick(body: Picky) -> int:
                return body.number

        wrong = Picky(1)
        wrong.number = -1
        for _ in range(3):
            with pytest.raises(DecodeError, match="Picky is wanted: RuntimeError: no such number"):
                asker.request(PICKY, wrong, timeout=DEADLINE)
        assert asker.request(PICKY, Picky(1), timeout=DEADLINE) == 1
        assert server.statistics().services[0].running == 0


def test_replies_that_are_too_large(front: Any) -> None:
    """An error says what to do in place of it."""
    with front.node("server", options=Options(message_bytes_max=100_000)) as server, front.node("asker") as asker:

        @served(server, RAW)
        def large(body: bytes) -> bytes:
            return bytes(200_000)

        with pytest.raises(
            RemoteError, match=r"a reply of 200,000 bytes is over the limit of 100,000; answer in parts"
        ):
            asker.request(RAW, b"", timeout=DEADLINE)
        with pytest.raises(EncodeError, match="is over the limit"):
            asker.request(RAW, bytes(150_000), timeout=DEADLINE)


def test_a_busy_server(front: Any) -> None:
    """Who finds no room there is told when to come again; `raise Busy` says the same."""
    release = threading.Event()
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, DOUBLE, concurrency=1, waiting=0)
        def double(number: int) -> int:
            assert release.wait(DEADLINE)
            return 2 * number

        @served(server, "busy")
        def busy(number: int) -> int:
            raise Busy("no desk is free", retry=2.5)

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        thread, found = background(lambda: asker.request(DOUBLE, 1, timeout=DEADLINE))
        eventually(lambda: server.statistics().services[0].running == 1)
        try:
            with pytest.raises(ServiceBusy, match="every server is busy") as caught:
                asker.request(DOUBLE, 2, timeout=DEADLINE)
            assert caught.value.retry_after > 0
            with pytest.raises(ServiceBusy) as caught:
                asker.request("busy", 2, reply_type=int, timeout=DEADLINE)
            assert 2 < caught.value.retry_after <= 2.5
        finally:
            release.set()
            thread.join()
        assert found == [2]


def test_a_second_server_takes_what_the_first_refuses(front: Any) -> None:
    """A call that has not started goes on elsewhere, though it may not run twice."""
    with front.node("a") as a, front.node("b") as b, front.node("asker") as asker:
        ran = []

        @served(a, DOUBLE)
        def refuses(number: int) -> int:
            raise Busy

        @served(b, DOUBLE)
        def double(number: int) -> int:
            ran.append(number)
            return 2 * number

        asker.client(DOUBLE).ready(servers=2, timeout=DEADLINE)
        assert [asker.request(DOUBLE, n, timeout=DEADLINE) for n in range(20)] == [*range(0, 40, 2)]
        assert ran == [*range(20)]


# Handlers that ask


def test_services_that_ask_each_other(front: Any) -> None:
    """With one call at a time in each of them, eight deep: who waits for an answer does not count."""
    with front.node("a") as a, front.node("b") as b:
        one, other = Service("one", int, int), Service("other", int, int)

        def asks(node: Any, service: Service[int, int]) -> Any:
            async def ask_later(depth: int) -> int:
                return 1 + await node.target.request(service, depth - 1, timeout=DEADLINE) if depth else 0

            def ask(depth: int) -> int:
                return 1 + node.request(service, depth - 1, timeout=DEADLINE) if depth else 0

            return ask_later if front.is_async else ask

        served(a, one, concurrency=1)(asks(a, other))
        served(b, other, concurrency=1)(asks(b, one))
        assert a.request(other, 8, timeout=DEADLINE) == 8
        with pytest.raises(RemoteError, match="services ask each other in a circle"):
            a.request(other, 20, timeout=DEADLINE)


def test_a_handlers_calls_end_with_its_own(runtime: Any) -> None:
    """What it asks has no more time than its caller has left, and once that one has given up it may ask no more."""
    lefts: list[float] = []
    errors: list[Exception | None] = []
    given_up = threading.Event()
    with Node("a") as a, Node("b") as b, Node("c") as c:

        @served(c, "deep")
        def deep(body: int, call: Call) -> int:
            lefts.append(call.left)
            eventually(lambda: call.cancelled)
            return 0

        @served(b, "middle")
        def middle(body: int, call: Call) -> int:
            for _ in range(2):
                try:
                    b.request("deep", body, reply_type=int, timeout=DEADLINE)
                    errors.append(None)  # the reply of who saw the end a moment before this one
                except Exception as error:
                    errors.append(error)
            assert given_up.wait(DEADLINE)
            return 0

        b.client(Service("deep", int, int)).ready(timeout=DEADLINE)
        a.client(Service("middle", int, int)).ready(timeout=DEADLINE)
        while not lefts:  # a busy machine may give up before it gets so far
            with pytest.raises(TimedOut):
                a.request("middle", 1, reply_type=int, timeout=0.5)
        eventually(lambda: errors and len(errors) % 2 == 0)
        given_up.set()
        assert {type(error) for error in errors} <= {Cancelled, TimedOut, type(None)}
        assert isinstance(errors[-1], Cancelled)
        assert all(0 < left <= 0.5 for left in lefts)


def test_a_thread_that_hangs_costs_no_slot(runtime: Any) -> None:
    """With all that may run stuck in calls that nobody waits for, the next one is answered."""
    release = threading.Event()
    with Node("server") as server, Node("asker") as asker:

        @served(server, DOUBLE, concurrency=4)
        def double(number: int) -> int:
            if number < 0:
                assert release.wait(DEADLINE)
            return 2 * number

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        try:
            stuck = [background(lambda: asker.request(DOUBLE, -1, timeout=0.3)) for _ in range(4)]
            for thread, found in stuck:
                thread.join()
                assert isinstance(found[0], TimedOut)
            assert asker.request(DOUBLE, 5, timeout=DEADLINE) == 10
            assert server.statistics().services[0].left == 4
        finally:
            release.set()
        eventually(lambda: server.statistics().services[0].left == 0)
        assert asker.request(DOUBLE, 6, timeout=DEADLINE) == 12


def test_a_task_is_cancelled_when_its_caller_gives_up(runtime: Any) -> None:
    """It ends where it waits, and its `finally` runs."""
    begun, ended = threading.Event(), threading.Event()

    async def main() -> None:
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:

            @served(server, DOUBLE)
            async def double(number: int) -> int:
                begun.set()
                try:
                    await asyncio.sleep(DEADLINE)
                finally:
                    ended.set()
                return 0

            await asker.client(DOUBLE).ready(timeout=DEADLINE)
            with pytest.raises(TimedOut, match="it may have run"):
                await asker.request(DOUBLE, 1, timeout=0.2)
            assert await asyncio.to_thread(ended.wait, DEADLINE)
            begun.clear()
            ended.clear()
            task = asyncio.create_task(asker.request(DOUBLE, 1, timeout=DEADLINE))
            assert await asyncio.to_thread(begun.wait, DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, DEADLINE)

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_it_begins(runtime: Any) -> None:
    """Its caller gives up between the two: the function is not called, and the slot is free."""
    called: list[int] = []

    async def main() -> None:
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:

            @served(server, DOUBLE)
            async def double(number: int) -> int:
                called.append(number)
                return 2 * number

            await asker.client(DOUBLE).ready(timeout=DEADLINE)
            pool: Any = next(iter(server._lifecycle.handlers))
            look = pool._look

            def look_and_cancel() -> None:
                look()
                with pool.node.pump.lock:
                    for call in list(pool.end.running):
                        pool.responder._cancel(call)
                look()  # as by a turn of the pump that came while the first ran

            pool._look = look_and_cancel
            with pytest.raises(TimedOut):
                await asker.request(DOUBLE, 1, timeout=0.2)
            while (account := server.statistics().services[0]).received - account.dropped:
                await asyncio.sleep(0.01)
            assert (account.running, account.left, called) == (0, 0, [])

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


# Streams


def test_an_answer_in_parts(front: Any) -> None:
    """They come in order, however many, and the handler's `finally` runs when nobody reads on."""
    ended = threading.Event()
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            try:
                yield from range(stop)
            finally:
                ended.set()

        assert list(asker.stream(COUNT, 1000, timeout=DEADLINE)) == [*range(1000)]
        assert ended.wait(DEADLINE)
        ended.clear()
        for number in asker.stream(COUNT, 10**9, timeout=DEADLINE):
            if number == 100:
                break
        assert ended.wait(DEADLINE)


def test_a_stream_of_a_coroutine(runtime: Any) -> None:
    """An `async def` with a `yield` answers in parts, too."""

    async def main() -> None:
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:
            ended = asyncio.Event()

            @served(server, COUNT)
            async def count(stop: int) -> Any:
                try:
                    for number in range(stop):
                        yield number
                finally:
                    ended.set()

            assert [n async for n in asker.stream(COUNT, 500, timeout=DEADLINE)] == [*range(500)]
            await asyncio.wait_for(ended.wait(), DEADLINE)
            ended.clear()
            async for _ in asker.stream(COUNT, 10**9, timeout=DEADLINE):
                break
            await asyncio.wait_for(ended.wait(), DEADLINE)

    asyncio.run(main())


def test_a_stream_that_is_not_read(runtime: Any) -> None:
    """Its server is never far ahead, and ends it in the end."""
    made: list[int] = []
    with Node("server") as server, Node("asker") as asker:

        @served(server, "lines", stall=0.5)
        def lines(size: int) -> Iterator[bytes]:
            while True:
                made.append(size)
                yield bytes(size)

        parts = asker.stream("lines", 100_000, reply_type=bytes, timeout=DEADLINE)
        assert len(next(parts)) == 100_000
        eventually(lambda: server.statistics().services[0].running == 0)
        assert sum(made) <= 1024 * 1024 + 3 * 100_000
        with pytest.raises(ServiceBusy, match="was not read for too long"):
            for _ in parts:
                pass
        assert next(parts, None) is None


def test_a_stream_closed_beside_its_reader(runtime: Any) -> None:
    """It ends for who waits for its next part, as at its end."""
    over = threading.Event()
    with Node("server") as server, Node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            yield 1
            over.wait(DEADLINE)

        parts = asker.stream(COUNT, 5, timeout=DEADLINE)
        assert next(parts) == 1
        rest: list[Any] = []

        def read() -> None:
            try:
                rest.append(list(parts))
            except Exception as error:
                rest.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        parts.close()
        reader.join(DEADLINE)
        over.set()
        assert rest == [[]]


def test_a_stream_that_waits_to_be_asked_for(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads on after a cancelled start, or beside another reader, reads the one answer to what was asked."""
    monkeypatch.setattr(caller, "CALLS_MAX", 1)
    monkeypatch.setattr(calls, "ROOMY", 0)

    async def main() -> None:
        asked: list[int] = []
        busy, free = asyncio.Event(), asyncio.Event()
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:

            @server.serve(Service("hold", int, int))
            async def hold(number: int) -> int:
                busy.set()
                await free.wait()
                return number

            @server.serve(COUNT)
            async def count(stop: int) -> AsyncIterator[int]:
                asked.append(stop)
                for number in range(stop):
                    yield number

            held = asker.client(Service("hold", int, int))
            await held.ready(timeout=DEADLINE)
            holding = asyncio.create_task(held(7, timeout=DEADLINE))
            await busy.wait()
            parts = asker.stream(COUNT, 1000, timeout=DEADLINE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(parts), 0.01)

            async def read() -> list[int]:
                return [part async for part in parts]

            readers = [asyncio.create_task(read()) for _ in range(3)]
            await asyncio.sleep(0)
            assert asked == []
            free.set()
            assert sorted([part for found in await asyncio.gather(*readers) for part in found]) == [*range(1000)]
            assert asked == [1000]
            assert await holding == 7

    asyncio.run(main())


def test_a_stream_whose_handler_fails(front: Any) -> None:
    """What came before is read, and then its error is raised."""
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            yield 1
            raise ValueError("enough")

        parts = iter(asker.stream(COUNT, 1, timeout=DEADLINE))
        assert next(parts) == 1
        with pytest.raises(RemoteError, match="ValueError: enough"):
            next(parts)
        assert next(parts, None) is None


def test_a_stream_that_pauses(runtime: Any) -> None:
    """The timeout is for the next part."""
    release = threading.Event()
    with Node("server") as server, Node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            yield 1
            assert release.wait(DEADLINE)
            yield 2

        parts = asker.stream(COUNT, 1, timeout=0.3)
        asker.client(Service("count", int, int)).ready(timeout=DEADLINE)
        assert next(parts) == 1
        with pytest.raises(TimedOut, match=r"after 0\.3 s, waiting for the next part: service 'count': sent to server"):
            next(parts)
        assert next(parts, None) is None
        release.set()


def test_a_stream_without_a_first_part(front: Any) -> None:
    """The error says that the call was sent, and to whom, as that of one reply does; and if it was not, that."""
    given_up, begun = threading.Event(), threading.Event()
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int, call: Call) -> Iterator[int]:
            begun.set()
            assert given_up.wait(DEADLINE)
            yield stop

        asker.client(COUNT).ready(timeout=DEADLINE)
        with pytest.raises(TimedOut, match=r"after 0\.2 s: service 'count': sent to server; it may have run$"):
            next(iter(asker.stream(COUNT, 1, timeout=0.2)))
        assert begun.wait(DEADLINE)
        given_up.set()
        eventually(lambda: asker.statistics().calls.open == 0)
        assert asker.statistics().calls.ended == {"cancelled": 1}


def test_a_client_of_a_stream_waits_for_servers(front: Any) -> None:
    """Its `ready` does; called, it says how to ask."""
    with front.node("server") as server, front.node("asker") as asker:
        client = asker.client(COUNT)
        with pytest.raises(TimedOut, match=r"'count' has 0 of 1 servers; start one"):
            client.ready(timeout=0.01)

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            yield from range(stop)

        client.ready(timeout=DEADLINE)

        async def ask() -> None:
            await client.target(3)

        with pytest.raises(ConfigError, match=r"answered with parts; ask with stream\(\)"):
            asyncio.run_coroutine_threadsafe(ask(), front.loop).result() if front.is_async else client(3)
        assert list(asker.stream(COUNT, 3, timeout=DEADLINE)) == [0, 1, 2]


def full(monkeypatch: Any, node: Any) -> None:
    """Too many calls of `node` are open, as far as it can tell, until `monkeypatch` is undone."""
    node = getattr(node, "target", node)
    calls = getattr(node, "_async", node)._lifecycle.calls
    monkeypatch.setattr(calls, "start", lambda call: False)


def test_a_stream_that_could_not_begin(front: Any) -> None:
    """It is over: nothing else is asked in its place."""
    asked: list[int] = []
    with front.node("server") as server, front.node("asker") as asker:

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            asked.append(stop)
            yield stop

        assert list(asker.stream(COUNT, 1, timeout=DEADLINE)) == [1]
        parts = iter(asker.stream(COUNT, 2, timeout=0.05))
        with pytest.MonkeyPatch.context() as patch:
            full(patch, asker)
            with pytest.raises(TimedOut, match="not sent; this node has too many open calls"):
                next(parts)
        assert next(parts, None) is None
        assert asked == [1]


def test_a_stream_whose_first_wait_was_cancelled(runtime: Any) -> None:
    """It goes on with what it was to ask."""

    async def main() -> None:
        async with AsyncNode("server") as server, AsyncNode("asker") as asker:

            @served(server, COUNT)
            async def count(stop: int) -> Any:
                yield stop

            assert [each async for each in asker.stream(COUNT, 1, timeout=DEADLINE)] == [1]
            parts = asker.stream(COUNT, 7, timeout=DEADLINE)
            with pytest.MonkeyPatch.context() as patch:
                full(patch, asker)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(parts), 0.05)
            assert await anext(parts) == 7

    asyncio.run(main())


def test_one_reply_and_parts_mixed_up(front: Any) -> None:
    """A stream of what has one reply has one part; what is answered in parts has no reply."""
    with front.node("server") as server, front.node("asker") as asker:
        doubles(server)

        @served(server, COUNT)
        def count(stop: int) -> Iterator[int]:
            yield from range(stop)

        assert list(asker.stream(Service("double", int, int, stream=True), 4, timeout=DEADLINE)) == [8]
        with pytest.raises(RemoteError, match=r"service 'count' is answered in parts; ask with stream\(\)"):
            asker.request(Service("count", int, int), 4, timeout=DEADLINE)


# All servers


def test_all_servers_are_asked(front: Any) -> None:
    """Replies and errors come by server; those that do not answer are named, with the reason."""
    release = threading.Event()
    with front.node("a") as a, front.node("b") as b, front.node("c") as c, front.node("asker") as asker:

        @served(a, DOUBLE)
        def good(number: int) -> int:
            return 2 * number

        @served(b, DOUBLE)
        def bad(number: int) -> int:
            raise ValueError("bad")

        @served(c, DOUBLE)
        def slow(number: int) -> int:
            assert release.wait(DEADLINE)
            return 0

        asker.client(DOUBLE).ready(servers=3, timeout=DEADLINE)
        try:
            got = asker.gather(DOUBLE, 4, timeout=0.5)
            ids = {got.names[node_id]: node_id for node_id in got.names}
            assert sorted(ids) == ["a", "b", "c"]
            assert got.replies == {ids["a"]: 8}
            assert {node_id: error.text for node_id, error in got.errors.items()} == {ids["b"]: "bad"}
            assert got.missing == {ids["c"]: "timed out"}
            with pytest.raises(Incomplete, match="1 of 2 servers have answered") as caught:
                asker.gather(DOUBLE, 4, timeout=0.2, require=2)
            assert caught.value.gathered.replies == {ids["a"]: 8}
        finally:
            release.set()


def test_a_gathering_for_which_there_is_no_room(front: Any) -> None:
    """It raises nothing because of that, and is over in its time: who was not asked is named."""
    release = threading.Event()
    with front.node("a") as a, front.node("b") as b, front.node("asker") as asker:
        for server in (a, b):

            @served(server, DOUBLE)
            def slow(number: int) -> int:
                assert release.wait(DEADLINE)
                return 0

        asker.client(DOUBLE).ready(servers=2, timeout=DEADLINE)
        calls = getattr(getattr(asker, "target", asker), "_async", getattr(asker, "target", asker))._lifecycle.calls
        begin = calls.start
        room = iter([True])
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(calls, "start", lambda call: next(room, False) and begin(call))
                patch.setattr(calls.end, "handle_timeout", lambda now: None)  # the pump is late
                got = asker.gather(DOUBLE, 4, timeout=0.3)
            assert got.replies == {}
            assert sorted(got.missing.values()) == ["not sent", "timed out"]
        finally:
            release.set()


def test_a_cancelled_gathering_keeps_no_name(runtime: Any) -> None:
    """Cancelled while it waits for servers that join, it means to call them no more."""

    async def main() -> None:
        async with AsyncNode("asker") as asker:
            task = asyncio.create_task(asker.gather(DOUBLE, 1, timeout=DEADLINE))
            calls = None
            while calls is None or calls.end is None:
                await asyncio.sleep(0)
                calls = asker._lifecycle.calls
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert calls.end.directory.of("double").held == 0

    asyncio.run(main())


def test_nobody_to_gather(front: Any) -> None:
    """Without servers there is nothing, which is no error unless somebody was required."""
    with front.node("asker") as asker:
        assert asker.gather(DOUBLE, 1, timeout=DEADLINE).replies == {}
        with pytest.raises(Incomplete, match="0 of 1 servers"):
            asker.gather(DOUBLE, 1, timeout=DEADLINE, require=1)


def test_who_serves_what(front: Any) -> None:
    """`services()` and `peers()` show it."""
    with front.node("server") as server, front.node("asker") as asker:
        doubles(server)
        asker.client(DOUBLE).ready(timeout=DEADLINE)
        (found,) = asker.services()
        assert (found.name, found.capacity, [each.name for each in found.servers]) == ("double", 16, ["server"])
        assert [peer.serves for peer in asker.peers()] == [("double",)]


# What cannot be


def test_what_is_refused(front: Any) -> None:
    """Each says what to do."""
    with front.node() as node:
        for name in ("", "a b", "a.*", "x" * 300, 3):
            with pytest.raises(BadName):
                Service(name, int, int)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="is no body type"):
            Service("a", object(), int)  # type: ignore[arg-type]
        for timeout in (0, -1, float("nan"), float("inf"), 1e9, "1", True):
            with pytest.raises(ConfigError, match="timeout="):
                node.request(DOUBLE, 1, timeout=timeout)
        with pytest.raises(ConfigError, match=r"answered with parts; ask with stream\(\)"):
            node.request(COUNT, 1)
        with pytest.raises(ConfigError, match=r"answered with one reply; ask with request\(\)"):
            node.stream(DOUBLE, 1)
        with pytest.raises(ConfigError, match=r"give reply_type=.*; or ask with stream\(\), if it is"):
            node.request("double", 1)
        with pytest.raises(ConfigError, match=r"give reply_type=, or a Service in its place$"):
            node.stream("double", 1)
        with pytest.raises(ConfigError, match="leave out reply_type="):
            node.request(DOUBLE, 1, reply_type=int)
        with pytest.raises(ConfigError, match="3 is no service"):
            node.request(3, 1)
        with pytest.raises(ConfigError, match="server=3 is no node"):
            node.request(DOUBLE, 1, server=3)
        with pytest.raises(ConfigError, match="require="):
            node.gather(DOUBLE, 1, require=-1)
        doubles(node)
        with pytest.raises(
            ValueError, match=r"has a handler in this node, doubles.<locals>.double; give that one more"
        ):
            doubles(node)
        for options in ({"concurrency": 0}, {"waiting": -1}, {"stall": 0}, {"stall": float("nan")}):
            with pytest.raises(ConfigError):
                node.serve("x", **options)


def test_handlers_that_are_refused(runtime: Any) -> None:
    """At the decoration, each with what to write."""
    node = Node()

    def decorate(service: Any, function: Any) -> str:
        with pytest.raises(TypeError) as caught:
            node.serve(service)(function)
        return str(caught.value)

    async def coroutine(number: int) -> int:
        return number

    def generator(number: int) -> Iterator[int]:
        yield number

    def bare(number):  # type: ignore[no-untyped-def]
        return number

    def no_reply(number: int):  # type: ignore[no-untyped-def]
        return number

    def three(number: int, call: Call, more: int) -> int:
        return number

    assert "is async and Node has no event loop" in decorate(DOUBLE, coroutine)
    assert "yields, and Service('double', int, int) has one reply" in decorate(DOUBLE, generator)
    assert "annotate its first parameter" in decorate("double", bare)
    assert "annotate what it returns" in decorate("double", no_reply)
    assert "second parameter must be annotated Call" in decorate(DOUBLE, three)
    with pytest.raises(TypeError, match=r"write @node.serve\(SERVICE\)"):
        node.serve(bare)  # type: ignore[arg-type]
    node.close()
    with pytest.raises(NodeClosed):
        doubles(node)


# Closing


def test_closing_a_server(front: Any) -> None:
    """What runs is answered, what waits is refused, and new calls find nobody."""
    release = threading.Event()
    with front.node("asker") as asker:
        server = front.node("server")
        server.__enter__()

        @served(server, DOUBLE, concurrency=1)
        def double(number: int) -> int:
            assert release.wait(DEADLINE)
            return 2 * number

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        first, answered = background(lambda: asker.request(DOUBLE, 1, timeout=DEADLINE))
        eventually(lambda: server.statistics().services[0].running == 1)
        second, refused = background(lambda: asker.request(DOUBLE, 2, timeout=DEADLINE))
        eventually(lambda: server.statistics().services[0].waiting == 1)
        closing, closed = background(lambda: server.close(DEADLINE))
        second.join()
        release.set()
        for thread in (first, closing):
            thread.join()
        assert (answered, closed) == ([2], [None])
        assert isinstance(refused[0], NoServer), refused
        with pytest.raises(NoServer):
            asker.request(DOUBLE, 3, timeout=DEADLINE)


def test_closing_a_caller(front: Any) -> None:
    """Its calls end, and their handlers learn of it."""
    begun, cancelled = threading.Event(), threading.Event()
    with front.node("server") as server:

        @served(server, DOUBLE)
        def double(number: int, call: Call) -> int:
            begun.set()
            eventually(lambda: call.cancelled)
            cancelled.set()
            return 0

        asker = front.node("asker")
        asker.__enter__()
        asker.client(DOUBLE).ready(timeout=DEADLINE)
        thread, found = background(lambda: asker.request(DOUBLE, 1, timeout=DEADLINE))
        assert begun.wait(DEADLINE)
        asker.close(DEADLINE)
        thread.join()
        assert isinstance(found[0], NodeClosed)
        assert cancelled.wait(DEADLINE)
        with pytest.raises(NodeClosed):
            asker.request(DOUBLE, 1)


def test_closing_with_a_call_that_the_pump_has_not_taken(runtime: Any) -> None:
    """It ends, too, and does not wait for its time."""
    release = threading.Event()
    with Node("server") as server, Node("asker") as asker:

        @served(server, DOUBLE)
        def slow(number: int) -> int:
            assert release.wait(DEADLINE)
            return 0

        asker.client(DOUBLE).ready(timeout=DEADLINE)
        calls = asker._async._lifecycle.calls
        assert calls is not None
        pump = asker._async._lifecycle.node.pump
        with pump.lock, pytest.MonkeyPatch.context() as patch:
            patch.setattr(pump, "wake", lambda handle=None: None)
            thread, found = background(lambda: asker.request(DOUBLE, 1, timeout=4 * DEADLINE))
            eventually(lambda: calls._handed)
        calls.close(handlers=False)
        thread.join(DEADLINE)
        release.set()
        assert [type(each) for each in found] == [NodeClosed]


def test_a_handler_does_not_close_its_node(front: Any) -> None:
    """It would wait for itself, and is told so; it is answered all the same."""
    with front.node("server") as server, front.node("asker") as asker:
        closed: Any = server if not front.is_async else None

        @served(server, "close")
        def close(number: int) -> str:
            if closed is None:
                return "WouldDeadlock"
            try:
                closed.close()
            except Exception as error:
                return type(error).__name__
            return "closed"

        assert asker.request("close", 1, reply_type=str, timeout=DEADLINE) == "WouldDeadlock"


def test_a_call_within_an_event_loop_says_what_it_stops(runtime: Any) -> None:
    """A blocking call there that waits in vain names itself as the likeliest cause."""

    async def main() -> None:
        async with AsyncNode("server") as server:

            @served(server, DOUBLE)
            async def double(number: int) -> int:
                return 2 * number

            with Node("asker") as asker:
                asker.client(DOUBLE).ready(timeout=DEADLINE)
                with pytest.raises(TimedOut, match="event loop of its thread from running: use AsyncNode there"):
                    asker.request(DOUBLE, 1, timeout=0.3)

    asyncio.run(main())


def test_calls_of_many_kinds_leave_nothing(runtime: Any) -> None:
    """After them no call is open, and each is accounted for."""
    with Node("server") as server, Node("asker") as asker:
        doubles(server)
        for number in range(20):
            asker.request(DOUBLE, number, timeout=DEADLINE)
        with pytest.raises(DecodeError):
            asker.request(Service("double", str, int), "x", timeout=DEADLINE)
        account = asker.statistics().calls
        assert (account.started, account.open) == (21, 0)
        assert account.ended["ok"] == 20
        assert time.monotonic() > 0
        assert ServerLost("a", "b").server == "b"
