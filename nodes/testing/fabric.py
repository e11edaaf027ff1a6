"""Fabric of one test: nodes that meet only each other, and what a test does to them and asks of them."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from peerfabric.arguments import check_timeout
from peerfabric.discovery.host import RUNTIME_VARIABLE
from peerfabric.errors import FabricError, NodeClosed, TimedOut, WouldDeadlock, counted
from peerfabric.nodes import process, unstarted
from peerfabric.nodes.aio.lifecycle import Lifecycle
from peerfabric.nodes.aio.lives import break_off, renew
from peerfabric.nodes.aio.node import AsyncNode
from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.context import Life
from peerfabric.nodes.io.waiting import Blocking, ThreadWaiter, clock, complete, in_event_loop
from peerfabric.nodes.settings import FABRIC_VARIABLE
from peerfabric.testing.recording import Recording, recorded

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

PREFIX: Final = "PEERFABRIC_"
KEPT: Final = ("PEERFABRIC_ADMIN",)
"""Variables of ours that say nothing about which nodes meet."""
LOOK_EVERY: Final = 0.05
"""Seconds after which is looked again at what nobody tells of."""
LOOP_PATIENCE: Final = 5.0
"""Seconds in which the event loop of an `AsyncNode` has to begin with what it is asked for."""


class Fabric:
    """A fabric of a test's own, in a `with`: what nodes in it send reaches no others, and it ends with the test.

    Entering it sets the variables from which nodes take fabric and runtime folder, and takes away all others that would
    reach a node, such as `PEERFABRIC_SPOOL`. Nodes that are made in it, also by processes that are started in it, are
    its nodes. Leaving it closes those of this process and puts the variables back.

    A node that was made before, such as that of a module, gets into it by `restart`. What waits for an `AsyncNode` has
    to wait in another thread than its event loop's; in tests that are coroutines, use an `AsyncFabric`.
    """

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        """Of the fabric."""
        self.folder: Path
        """An empty folder, for spools, ledgers and other files of the test. Removed in the end."""
        self._root = ""
        self._before: dict[str, str] = {}
        self._strangers: set[Any] = set()
        """What ran before."""
        self._hung: dict[Lifecycle, ThreadWaiter] = {}
        self._killed: list[Lifecycle] = []
        self._recording = Recording(self.name)

    def __enter__(self) -> Self:
        # Short, as the path of a socket has 107 bytes at most.
        self._root = tempfile.mkdtemp(prefix="pf")
        self.folder = Path(self._root, "files")
        self.folder.mkdir(mode=0o700)
        self._before = _ours()
        self._set(
            {
                **{name: self._before[name] for name in KEPT if name in self._before},
                RUNTIME_VARIABLE: os.path.join(self._root, "run"),
                FABRIC_VARIABLE: self.name,
            }
        )
        self._strangers = set(process.residents())
        self._recording.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._recording.end()
            self._set(self._before)
            shutil.rmtree(self._root, ignore_errors=True)

    @staticmethod
    def _set(wanted: dict[str, str]) -> None:
        for name in _ours():
            del os.environ[name]
        os.environ.update(wanted)

    def close(self) -> None:
        """Close the nodes of this process; what they accepted and nobody acked is not waited for."""
        for lifecycle in list(self._hung):
            self._resume(lifecycle)
        for lifecycle in self._lives():
            if not lifecycle.is_adopted:  # those end with the node that has adopted them
                with suppress(FabricError):
                    _close(lifecycle, 0.0)
        while self._killed:
            for handler in self._killed.pop().handlers:
                handler.join(1.0)
        for other in set(process.residents()) - self._strangers:
            if isinstance(other, Lifecycle) and other.node.settings.fabric not in recorded():
                settings = other.node.settings
                warnings.warn(
                    f"node {settings.name!r} was started by this test in fabric {settings.fabric!r}, since it was made "
                    f"before the test; give it to fabric.restart() first",
                    stacklevel=2,
                )

    def _lives(self) -> list[Lifecycle]:
        """The nodes of this fabric that run in this process."""
        return [
            each
            for each in process.residents()
            if isinstance(each, Lifecycle) and each.node.settings.fabric == self.name
        ]

    # Asking

    def sent(self, queue: str) -> list[Any]:
        """The bodies that nodes of this process sent to `queue`, in order, of the producers' types.

        Those are in it for which `send` has returned, whatever has become of them; not what comes from a spool, and not
        a dead letter that is sent again.
        """
        for lifecycle in self._lives():
            with lifecycle.node.pump.lock:
                lifecycle._take_over(clock())
        return self._recording.of(queue)

    def settled(self, timeout: float | None = 10.0) -> None:
        """Wait until every message that a node of this process accepted is settled.

        Then it is acked, a dead letter, expired or dropped, and so is what handlers sent because of it.

        Raises:
            TimedOut: Some are not after `timeout` seconds, and it says of which queues.
            WouldDeadlock: It was called in an event loop, which it would keep from running.
        """
        refuse_in_loop("settled")
        timeout = check_timeout(timeout)
        ends_at = None if timeout is None else clock() + timeout
        while True:
            lives, waiter = self._lives(), ThreadWaiter()
            for lifecycle in lives:
                lifecycle.node.pump.turned.enter(waiter)
            try:
                # Settled one after the other, and nothing was accepted from before the first until after the last: so
                # all were settled at one instant.
                before = [_accepted(lifecycle) for lifecycle in lives]
                left = [text for lifecycle in lives for text in _unsettled(lifecycle)]
                if not left and [_accepted(lifecycle) for lifecycle in lives] == before:
                    return
                if ends_at is not None and clock() >= ends_at:
                    raise TimedOut(
                        f"not settled after {timeout:g} s: {'; '.join(left) or 'messages are sent all the time'}; "
                        f"start a consumer, or see what its handler does"
                    )
                waiter.wait(LOOK_EVERY if ends_at is None else min(LOOK_EVERY, max(0.0, ends_at - clock())))
            finally:
                for lifecycle in lives:
                    lifecycle.node.pump.turned.leave(waiter)

    # Doing

    def restart(self, node: Node | AsyncNode, timeout: float | None = 5.0) -> None:
        """Give a node another life, in this fabric: as that of a process which ends in order and starts again.

        It is closed if it runs, takes its settings from its arguments and the variables of now, and is started; an
        `AsyncNode` is by its first call. Handlers and services are kept; so are producers, publishers and clients, and
        the consumers and subscribers that it had when it was first restarted. Of a `Node` those work, too, that the
        program still holds.

        Raises:
            Undelivered: After `timeout` seconds messages were not settled that no spool keeps. It is not restarted.
            WouldDeadlock: It is an `AsyncNode`, and this was called in an event loop.
            ConfigError, SpoolError, NodeClosed: As of a start.
        """
        inner = inner_of(node)
        if isinstance(node, AsyncNode):
            refuse_in_loop("restart")
        self._end_hang(inner)
        if inner._lifecycle.node.life is not Life.CLOSED and inner._lifecycle.node.life is not Life.NEW:
            _close(inner._lifecycle, timeout)
        begin_anew(node)
        if isinstance(node, Node):
            complete(inner._context.started())

    def kill(self, node: Node | AsyncNode) -> None:
        """End a node as `kill -9` ends a process: it says no goodbye, and what only its memory has is lost.

        Others soon see that it is gone. Its spool and its ledgers are free for whoever comes next, and hold what they
        held. Calls that wait raise `NodeClosed`. What cannot be ended like that are handlers that run, in threads: what
        they decide reaches nobody any more.

        Raises:
            NodeClosed: It does not run.
            WouldDeadlock: It is an `AsyncNode`, and this was called in an event loop.
        """
        if isinstance(node, AsyncNode):
            refuse_in_loop("kill")
        lifecycle = self._break_off(node)
        loop = lifecycle.node.loop
        if loop is not None and loop.is_running():
            _in_loop(loop, lifecycle.handlers.finish)

    def _break_off(self, node: Node | AsyncNode) -> Lifecycle:
        """As `kill`, but for tasks."""
        lifecycle = _running(node)
        self._resume(lifecycle)
        if not break_off(lifecycle):
            raise NodeClosed
        self._killed.append(lifecycle)
        return lifecycle

    def hang(self, node: Node | AsyncNode) -> None:
        """Stop a node's I/O thread: nothing goes out, and nothing comes in, until `resume`, or until it is closed.

        So it is for others what a process is that the system does not let run. What was delivered to it before is still
        handled, and it still accepts.

        Raises:
            NodeClosed: It does not run.
        """
        lifecycle = _running(node)
        if lifecycle in self._hung:
            return
        hung, waiter = ThreadWaiter(), ThreadWaiter()
        self._hung[lifecycle] = waiter

        def stand_still() -> None:
            hung.wake()
            while not waiter.wait(LOOK_EVERY) and not lifecycle.node.is_closed:
                pass

        lifecycle.node.pump.call(stand_still)
        hung.wait(LOOP_PATIENCE)

    def resume(self, node: Node | AsyncNode) -> None:
        """Let a node that hangs go on. One that does not is left as it is."""
        self._end_hang(inner_of(node))

    def _end_hang(self, inner: AsyncNode) -> None:
        self._resume(inner._lifecycle)

    def _resume(self, lifecycle: Lifecycle) -> None:
        waiter = self._hung.pop(lifecycle, None)
        if waiter is not None:
            waiter.wake()


class AsyncFabric:
    """A `Fabric` for tests that are coroutines: what waits there is awaited here. Its nodes may be of both kinds."""

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = Fabric() if fabric is None else fabric

    @property
    def name(self) -> str:
        """Of the fabric."""
        return self._fabric.name

    @property
    def folder(self) -> Path:
        """An empty folder, for spools, ledgers and other files of the test. Removed in the end."""
        return self._fabric.folder

    async def __aenter__(self) -> Self:
        self._fabric.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._fabric.__exit__, kind, error, trace)

    def sent(self, queue: str) -> list[Any]:
        """As `Fabric.sent`."""
        return self._fabric.sent(queue)

    async def settled(self, timeout: float | None = 10.0) -> None:
        """As `Fabric.settled`."""
        await asyncio.to_thread(self._fabric.settled, timeout)

    async def restart(self, node: Node | AsyncNode, timeout: float | None = 5.0) -> None:
        """As `Fabric.restart`; an `AsyncNode` is started, too, in this event loop."""
        if isinstance(node, Node):
            await asyncio.to_thread(self._fabric.restart, node, timeout)
            return
        self._fabric.resume(node)
        if node._lifecycle.node.life is not Life.NEW:
            loop = node._lifecycle.node.loop
            if loop is not None and loop is not asyncio.get_running_loop():
                await asyncio.to_thread(_close, node._lifecycle, timeout)
            else:
                await node._lifecycle.close(timeout)
        begin_anew(node)
        await node._context.started()

    async def kill(self, node: Node | AsyncNode) -> None:
        """As `Fabric.kill`; tasks of its handlers are cancelled."""
        lifecycle = self._fabric._break_off(node)
        if isinstance(node, AsyncNode):
            await lifecycle.handlers.finish()

    def hang(self, node: Node | AsyncNode) -> None:
        """As `Fabric.hang`."""
        self._fabric.hang(node)

    def resume(self, node: Node | AsyncNode) -> None:
        """As `Fabric.resume`."""
        self._fabric.resume(node)


def inner_of(node: Node | AsyncNode) -> AsyncNode:
    """The node behind either front.

    Raises:
        TypeError: It is none.
    """
    inner = node._async if isinstance(node, Node) else node
    if not isinstance(inner, AsyncNode):
        raise TypeError(f"{node!r} is no node; give a Node or an AsyncNode")
    return inner


def begin_anew(node: Node | AsyncNode) -> None:
    """Give a node that does not run another life; see `Fabric.restart`."""
    renew(inner_of(node), dict(node._wrapped) if isinstance(node, Node) else {})


def refuse_in_loop(call: str) -> None:
    """Refuse to wait in the thread of an event loop.

    Raises:
        WouldDeadlock: One runs in this thread.
    """
    if in_event_loop():
        raise WouldDeadlock(
            f"fabric.{call}() would keep the event loop of its thread from running; "
            f"use an AsyncFabric there, in pytest the fixture async_fabric, and await that"
        )


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def _running(node: Node | AsyncNode) -> Lifecycle:
    lifecycle = inner_of(node)._lifecycle
    if lifecycle.node.life is not Life.RUNNING:
        raise NodeClosed(text=f"node {lifecycle.node.settings.name!r} does not run; use it, or restart it, before")
    return lifecycle


def _accepted(lifecycle: Lifecycle) -> int:
    """How many messages it has accepted, so far; only the difference of two says something."""
    node = lifecycle.node
    with node.pump.lock:
        lifecycle._take_over(clock())
        return sum(end.next for end in node.engine.producers.by_queue.values())


def _unsettled(lifecycle: Lifecycle) -> Iterator[str]:
    """Of each queue with some of its messages unsettled, how many."""
    node = lifecycle.node
    with node.pump.lock:
        ends = [
            (end.queue, end.unsettled_count, len(end.consumers))
            for end in node.engine.producers.by_queue.values()
            if end.unsettled_count
        ]
    for queue, count, consumers in ends:
        there = f"{counted(count, 'message')} of {node.settings.name}, {counted(consumers, 'consumer')}"
        there += unstarted.hint(node, queue=queue) if not consumers else ""
        yield f"queue {queue!r} has {there}"


def _close(lifecycle: Lifecycle, timeout: float | None) -> None:
    """Close a node of either front, from a thread that runs no event loop."""
    node = lifecycle.node
    loop = node.loop
    if loop is not None and loop.is_running():
        _in_loop(loop, lambda: lifecycle.close(timeout))
        return
    if loop is not None:  # it has ended without closing the node
        node.waiting, node.loop = Blocking(), None
    complete(lifecycle.close(timeout))


def _in_loop(loop: AbstractEventLoop, call: Callable[[], Any]) -> None:
    """Await what `call` returns in an event loop of another thread."""
    over: Future[None] = asyncio.run_coroutine_threadsafe(call(), loop)
    over.result()
