"""Elsewhere: settlements for messages that other processes of this host have, carried there by their admin sockets.

A client that took from one worker is mostly answered by another one the next time. Each process is asked by one thread
at a time, with all that has come meanwhile, so one that is stopped keeps no more than that thread busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from peerfabric import admin
from peerfabric.errors import FabricError
from peerfabric.gateway.receipts import Act, Outcome, Settled

ASK_WITHIN: Final = 5.0
"""Seconds in which another process has to answer."""
ANSWER_WITHIN: Final = 4.0
"""Seconds in which the event loop of this one has to settle for another: sooner than that gives up."""
LOOK_WITHIN: Final = 1.0
LOOK_EVERY: Final = 0.2
"""Seconds between two looks at who is there. Anybody can make up receipts of processes that never were."""
ASK_BYTES_MAX: Final = 48 * 1024
"""Of the receipts and reasons in one request to an admin socket, which takes 64 KiB."""
DO: Final = "settle"

Answering = Callable[[str, str, Sequence[Act]], list[Settled] | None]
"""Settles for the node and start of the receipts, in a thread that is not the loop's; None: those are not ours."""


class _Processes:
    """The processes of this host by the ids of their nodes, as of the last look."""

    def __init__(self) -> None:
        self._by_node: dict[str, admin.Answer] = {}
        self._are_silent = False
        self._look: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        """A look that has not begun, so that it sees what is there from now on."""

    async def find(self, node: str, *, again: bool = False) -> admin.Answer | Outcome:
        """The process with that node; UNREACHABLE if it may be one that does not answer, GONE if there is none."""
        found = self._by_node.get(node)
        if found is None or again:
            if self._next is None:
                self._next = asyncio.create_task(self._look_after(self._look))
            await asyncio.shield(self._next)
            found = self._by_node.get(node)
        if found is not None:
            return found
        return Outcome.UNREACHABLE if self._are_silent else Outcome.GONE

    async def _look_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
            await asyncio.sleep(LOOK_EVERY)
        self._look, self._next = self._next, None
        answers = await asyncio.to_thread(admin.processes, LOOK_WITHIN, queues=0)
        self._are_silent = any(answer.status is None for answer in answers)
        self._by_node = {
            node.node_id: answer
            for answer in answers
            if answer.status is not None
            for node in answer.status.nodes
            if node.adopted is None
        }

    async def close(self) -> None:
        """End a look that runs."""
        tasks = [task for task in (self._look, self._next) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Line:
    """What one process is to be asked, in order."""

    def __init__(self, node: str, start: str, processes: _Processes) -> None:
        self._node, self._start, self._processes = node, start, processes
        self._waiting: list[tuple[Act, asyncio.Future[Settled]]] = []
        self.task: asyncio.Task[None] | None = None

    def ask(self, acts: Sequence[Act]) -> list[asyncio.Future[Settled]]:
        """Ask it for these too; the outcomes."""
        loop = asyncio.get_running_loop()
        added = [(act, loop.create_future()) for act in acts]
        self._waiting += added
        if self.task is None:
            self.task = loop.create_task(self._carry())
        return [future for _, future in added]

    async def _carry(self) -> None:
        try:
            while self._waiting:
                count = _fitting([act for act, _ in self._waiting])
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                try:
                    results = await self._results([act for act, _ in batch])
                    for (_, future), result in zip(batch, results, strict=True):
                        if not future.done():
                            future.set_result(result)
                finally:
                    for act, future in batch:
                        if not future.done():
                            future.set_result(Settled(act.receipt, Outcome.UNREACHABLE))
        finally:
            self.task = None
            for act, future in self._waiting:
                if not future.done():
                    future.set_result(Settled(act.receipt, Outcome.UNREACHABLE))
            self._waiting = []

    async def _results(self, acts: list[Act]) -> list[Settled]:
        arguments = {"node": self._node, "start": self._start, "acts": [list(act) for act in acts]}
        unknown = Outcome.UNREACHABLE
        for again in (False, True):
            process = await self._processes.find(self._node, again=again)
            if isinstance(process, Outcome):
                return [Settled(act.receipt, process) for act in acts]
            try:
                answer = await asyncio.to_thread(admin.ask, process, DO, timeout=ASK_WITHIN, **arguments)
            except FabricError:
                unknown = Outcome.UNREACHABLE
                continue  # it may be dead by now, which the next look shows
            if answer.get("answered") is not False:
                return _read(answer, acts)
            # That start is over. Or the node was there once and is elsewhere now, which the next look shows, too.
            unknown = Outcome.GONE
        return [Settled(act.receipt, unknown) for act in acts]


class Elsewhere:
    """The way to the gateways of other processes, and from them to this one."""

    def __init__(self) -> None:
        self._processes = _Processes()
        self._lines: dict[tuple[str, str], _Line] = {}
        self.answer_within = ANSWER_WITHIN

    def answer(self, answering: Answering) -> Callable[[], None]:
        """Let other processes ask `answering`; return what ends that."""

        def handle(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
            acts = [Act(*act) for act in arguments["acts"]]
            settled = answering(str(arguments["node"]), str(arguments["start"]), acts)
            return None if settled is None else {"settled": [list(each) for each in settled]}

        return admin.register(DO, handle)

    async def settle(self, node: str, start: str, acts: Sequence[Act]) -> list[Settled]:
        """What that start of that node's gateway says of `acts`, in order."""
        line = self._lines.get((node, start))
        if line is None:
            line = self._lines[node, start] = _Line(node, start, self._processes)
        try:
            return [await future for future in line.ask(acts)]
        finally:
            if line.task is None:
                self._lines.pop((node, start), None)

    async def close(self) -> None:
        """Ask no more. What was asked and not answered is unreachable."""
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(asyncio.CancelledError):
            await self._processes.close()


def _fitting(acts: Sequence[Act]) -> int:
    """How many of `acts` one request takes, at least one."""
    size = 0
    for count, act in enumerate(acts):
        # Six bytes are the most that one character becomes in JSON.
        size += len(act.receipt) + 6 * len(act.reason) + 64
        if size > ASK_BYTES_MAX:
            return max(1, count)
    return len(acts)


def _read(answer: Mapping[str, Any], acts: Sequence[Act]) -> list[Settled]:
    """What another process said; of another version it may say anything."""
    try:
        found = [Settled(receipt, Outcome(result), until) for receipt, result, until in answer["settled"]]
    except (KeyError, TypeError, ValueError):
        found = []
    if [each.receipt for each in found] != [act.receipt for act in acts]:
        return [Settled(act.receipt, Outcome.UNREACHABLE) for act in acts]
    return found
