"""Context of handlers: what a thread or task has in hand."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from peerfabric.nodes.handler_context import (
    EARLIER_MAX,
    begin_call,
    hand_here,
    inputs_in,
    take_in_hand,
    take_over,
)
from peerfabric.nodes.handler_context import in_hand as typed_in_hand

in_hand: Callable[[], Any] = typed_in_hand


class Taken:
    """What was taken, with as much of it as matters here."""

    def __init__(self, *, in_tasks: bool = False, waits: bool = True) -> None:
        self._settled = False
        self._owner = SimpleNamespace(in_tasks=in_tasks, waits_for_outputs=waits)


def alone(call: Callable[[], None]) -> None:
    """Make `call` in a thread that has nothing in hand."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in failures:
        raise error


def take(*taken: Any) -> None:
    for each in taken:
        take_in_hand(each)


def enter(taken: Any) -> None:
    take_over(taken)


def test_what_is_settled_is_not_in_hand_any_more() -> None:
    """In any order; what is left stays in the order of taking."""

    def story() -> None:
        assert hand_here() is None
        assert in_hand() == []
        first, second, third = Taken(), Taken(), Taken()
        take(first, second, third)
        assert in_hand() == [first, second, third]
        second._settled = True
        assert in_hand() == [first, third]
        third._settled = True
        assert in_hand() == [first]
        fourth = Taken()
        take(fourth)
        assert in_hand() == [first, fourth]
        first._settled = fourth._settled = True
        assert in_hand() == []
        fifth = Taken()
        take(fifth)
        assert in_hand() == [fifth]
        hand = hand_here()
        assert hand is not None
        assert not hand.earlier

    alone(story)


def test_many_that_nobody_settles() -> None:
    """No more than a number of them are kept, the newest."""

    def story() -> None:
        taken = [Taken() for _ in range(EARLIER_MAX + 100)]
        take(*taken)
        assert in_hand() == taken[100:]
        for each in taken[:-1]:
            each._settled = True
        assert in_hand() == [taken[-1]]

    alone(story)


def test_only_what_is_to_wait_waits() -> None:
    """`ack_after="return"` takes a message out of the count, and not out of the hand."""

    def story() -> None:
        waits, does_not = Taken(), Taken(waits=False)
        take(waits, does_not)
        hand = hand_here()
        assert hand is not None
        assert [id(each) for each in inputs_in(hand)] == [id(waits)]
        assert in_hand() == [waits, does_not]
        waits._settled = True
        assert list(inputs_in(hand)) == []

    alone(story)


def test_a_thread_with_a_copy_of_a_context_shares_its_hand() -> None:
    """What either takes is in the hand of both, and nothing gets lost."""

    def story() -> None:
        first, second, third = Taken(), Taken(), Taken()
        take(first)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(take, second))
        thread.start()
        thread.join()
        assert in_hand() == [first, second]
        first._settled = True
        take(third)
        assert in_hand() == [second, third]

    alone(story)


def test_a_thread_enters_what_another_one_took() -> None:
    """It has that in its own hand, and nothing else of the other's."""

    def story() -> None:
        first, second = Taken(), Taken()
        take(first, second)

        def go_in() -> None:
            enter(second)
            assert in_hand() == [second]

        context = contextvars.copy_context()
        alone(go_in)
        alone(lambda: context.run(go_in))
        enter(first)
        assert in_hand() == [first, second]

    alone(story)


def test_tasks_have_hands_of_their_own() -> None:
    """A task that is started with a message in hand works for that one too; what it takes is its own."""

    async def story() -> None:
        outer, inner, later = (Taken(in_tasks=True) for _ in range(3))
        take(outer)
        go_on = asyncio.Event()

        async def child() -> None:
            assert in_hand() == [outer]
            take(inner)
            assert in_hand() == [outer, inner]
            await go_on.wait()
            assert in_hand() == [outer, inner]
            outer._settled = True
            assert in_hand() == [inner]

        async def worker() -> None:
            enter(later)
            assert in_hand() == [later]

        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        assert in_hand() == [outer]
        take(later)
        assert in_hand() == [outer, later]
        await asyncio.create_task(worker())
        go_on.set()
        await task
        assert in_hand() == [later]

    alone(lambda: asyncio.run(story()))


def test_what_a_call_has_started_stays_with_its_message() -> None:
    """A task that outlives the call of its handler has nothing to do with the next call's message."""

    async def story() -> None:
        first, second = Taken(in_tasks=True), Taken(in_tasks=True)
        go_on = asyncio.Event()

        async def child() -> None:
            await go_on.wait()
            assert in_hand() == [first]

        def call(message: Any) -> None:
            begin_call(message)
            assert in_hand() == [message]
            if message is first:
                tasks.append(asyncio.create_task(child()))

        tasks: list[asyncio.Task[None]] = []
        for message in (first, second):
            take(message)
            contextvars.copy_context().run(call, message)
        go_on.set()
        await tasks[0]

    alone(lambda: asyncio.run(story()))
