"""Looks at this host: the status of all processes, asked for once for all who want it, and never for nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from peerfabric.gateway.auth import READING, SCOPES
from peerfabric.gateway.others import LOOK_TIMEOUT, Answered, ask_all
from peerfabric.gateway.shared import token_of
from peerfabric.status import Status

if TYPE_CHECKING:
    from starlette.requests import Request

    from peerfabric.gateway.shared import Shared

EVERY: Final = 1.0
"""Seconds between the looks of a stream. Who comes between two is shown the last one at once."""
FRESH: Final = 0.25
"""Seconds for which a look answers single requests: many at once cost one."""
ANSWER_TIMEOUT: Final = 1.0
"""Seconds in which a process answers, or is shown as one that does not."""
PATIENCE: Final = 0.5
"""Seconds for which a look waits for other gateways. Of one that is late it has what it said last."""
QUEUES_MAX: Final = 500
"""Of each kind and node; the deepest of more."""


class Answer(Protocol):
    """One process, as `peerfabric.admin` has it: its `status`, or the `problem` for which there is none."""

    @property
    def pid(self) -> int: ...
    @property
    def started(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def status(self) -> Status | None: ...
    @property
    def problem(self) -> str: ...


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A host that is looked at: `name` is "" for the gateway's own; `problem`: why nothing is known of it."""

    name: str = ""
    host: str = ""
    problem: str = ""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a look; its status is JSON already, or null. Then `program` is told, if it can be read."""

    pid: int
    started: int
    source: str = ""
    problem: str = ""
    program: str = ""
    status: msgspec.Raw = msgspec.Raw(b"null")


class Theirs(msgspec.Struct, frozen=True, kw_only=True):
    """The look of another gateway at its own host."""

    host: str = ""
    processes: tuple[Shown, ...] = ()


class Look(NamedTuple):
    """What all processes answered.

    at          seconds of Unix time at which it began, `took` how long it took
    answers     those of this host
    sources     this host and those of other gateways
    processes   of all of them, each a JSON document
    """

    at: float
    took: float
    answers: Sequence[Answer]
    sources: Sequence[Source]
    processes: Sequence[bytes]

    def head(self, can: Sequence[str]) -> bytes:
        """All but the processes, without the last brace; `can` is what the reader may do."""
        head = {
            "at": round(self.at, 3),
            "took": round(self.took, 4),
            "host": self.sources[0].host,
            "can": can,
            "sources": self.sources,
        }
        return msgspec.json.encode(head)[:-1]


def ask_host() -> Sequence[Answer]:
    """Ask all processes of this user on this host. It blocks, for some seconds if one hangs."""
    from peerfabric import admin

    return admin.processes(ANSWER_TIMEOUT, queues=QUEUES_MAX)


def program_of(pid: int) -> str:
    """The program of a process that does not answer, without its arguments, which may hold secrets; "": not known."""
    try:
        interpreter, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    # Options may have values, and `-c` has a whole program: what comes after any is not told, but for these few.
    while arguments and arguments[0] in ("-u", "-m", "-I", "-B", "-O", "-s", "-E"):
        del arguments[0]
    is_python = "python" in os.path.basename(interpreter)
    script = arguments[0] if is_python and arguments and not arguments[0].startswith("-") else ""
    return script or interpreter


def _shown(answer: Answer) -> bytes:
    status = msgspec.Raw(b"null" if answer.status is None else msgspec.json.encode(answer.status))
    shown = Shown(
        pid=answer.pid,
        started=answer.started,
        problem=answer.problem,
        program=program_of(answer.pid) if answer.status is None else "",
        status=status,
    )
    return msgspec.json.encode(shown)


def _look() -> tuple[Sequence[Answer], list[bytes]]:
    # Encoding is done in this thread, too: thousands of queues are some milliseconds of it.
    answers = ask_host()
    return answers, [_shown(answer) for answer in answers]


class Looks:
    """The looks of one gateway. As many as ask at a time share one."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._last: dict[bool, tuple[float, Look]] = {}
        self._looking: dict[bool, asyncio.Task[Look]] = {}
        self._asking: dict[str, asyncio.Task[list[Answered]]] = {}
        self._said: dict[str, Answered] = {}
        self.count = 0
        """How many there have been."""

    async def recent(self, age: float = FRESH, *, own: bool = False) -> Look:
        """A look that began at most `age` seconds ago, or begins now; `own`: at this host only.

        Raises:
            ConfigError: The runtime folder cannot be trusted.
        """
        own = own or not self._shared.also
        began_at, last = self._last.get(own, (float("-inf"), None))
        if last is not None and asyncio.get_running_loop().time() - began_at <= age:
            return last
        looking = self._looking.get(own)
        if looking is None or looking.done():
            looking = self._looking[own] = asyncio.create_task(self._take(own))
        return await asyncio.shield(looking)

    async def after(self, look: Look | None) -> Look | None:
        """The next look of a stream: the same for all that are read. None: the gateway ends."""
        if look is not None:
            began_at, _ = self._last[not self._shared.also]
            wait = began_at + EVERY - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._shared.ending.wait(), max(0.0, wait))
            except TimeoutError:
                pass
        if self._shared.closing:
            return None
        found = await self.recent(0.9 * EVERY)
        return found

    async def _take(self, own: bool) -> Look:
        self.count += 1
        began_at, at = asyncio.get_running_loop().time(), time.time()
        (answers, processes), said = await asyncio.gather(asyncio.to_thread(_look), self._others(own))
        sources = [Source(host=socket.gethostname())]
        for name, content, problem in said:
            theirs = Theirs()
            if content is not None:
                try:
                    theirs = msgspec.json.decode(content, type=Theirs)
                except msgspec.MsgspecError:
                    problem = "its answer cannot be read; is it of another version?"
            sources.append(Source(name=name, host=theirs.host, problem=problem))
            for process in theirs.processes:
                processes.append(msgspec.json.encode(msgspec.structs.replace(process, source=name)))
        took = asyncio.get_running_loop().time() - began_at
        look = Look(at, took, answers, tuple(sources), tuple(processes))
        self._last[own] = (began_at, look)
        return look

    async def _others(self, own: bool) -> list[Answered]:
        """What the other gateways said, each of which is asked again once it has answered."""
        if own or not self._shared.also:
            return []
        for other in self._shared.also:
            if other.name not in self._asking:
                asked = ask_all([other], "GET", ("v1", "status"), {}, timeout=LOOK_TIMEOUT)
                self._asking[other.name] = asyncio.create_task(asked)
        known = all(other.name in self._said for other in self._shared.also)
        # For the first look there is nothing else to show; each of them ends in time.
        done, _ = await asyncio.wait(self._asking.values(), timeout=PATIENCE if known else None)
        for name, task in list(self._asking.items()):
            if task in done:
                [self._said[name]] = task.result()
                del self._asking[name]
        return [self._said[other.name] for other in self._shared.also]

    def drain(self) -> None:
        """Streams end by themselves: they wait for this, too."""

    async def close(self) -> None:
        """Wait for what is on its way, which threads do."""
        await asyncio.gather(*self._looking.values(), *self._asking.values(), return_exceptions=True)


def scopes_of(request: Request, shared: Shared) -> list[str]:
    """What who asks may do here, for the page: what it cannot is not offered."""
    token = token_of(request)
    return [scope for scope in sorted(SCOPES) if token.has(scope) and (scope in READING or not shared.read_only)]
