"""Requests to the running processes of this host: `peerfabric.admin`, loaded by the first command that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import msgspec

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.host.present import shown
from peerfabric.nodes.cli.offline import warn
from peerfabric.nodes.io.waiting import clock
from peerfabric.status import Status

T = TypeVar("T")

LOOK_TIMEOUT: Final = 1.0
"""Seconds until a process that does not answer a look counts as silent."""
SILENT_TIMEOUT: Final = 1.0
"""Seconds for whoever was silent when looked at: who does not answer a look is not waited for."""
ACT_TIMEOUT: Final = 10.0
"""Seconds for a request that changes something, or reads disks."""
QUEUES_MAX: Final = 500
"""Queues of each node that a look asks for, deepest first: as many as a node shows."""

NAMES_MAX: Final = 3


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was asked.

    status      what it answered; None: nothing, and `problem` says why
    name        of its nodes, or of its program if it has told nothing
    at          when that was known, by our clock
    asked       what `peerfabric.admin` knows it by
    """

    pid: int
    started: int
    status: Status | None
    problem: str = ""
    name: str = ""
    at: float = 0.0
    asked: Any = None

    @property
    def title(self) -> str:
        """How texts call it."""
        return f"process {self.pid} ({self.name})" if self.name else f"process {self.pid}"


def answers(timeout: float = LOOK_TIMEOUT, *, queues: int = QUEUES_MAX, folder: str | None = None) -> Iterator[Heard]:
    """Ask all processes of this user at once; each as it answers, those that do not at the end.

    Raises:
        ConfigError: The runtime folder cannot be used.
    """
    from peerfabric import admin

    for answer in admin.answers(timeout, queues=queues, folder=folder):
        problem = answer.problem
        if answer.status is None and is_stopped(answer.pid):
            problem = stopped(answer.pid)
        yield Heard(
            pid=answer.pid,
            started=answer.started,
            status=answer.status,
            problem=problem,
            name=str(shown(answer.pid)) if answer.status is None else named(answer.status),
            at=clock(),
            asked=answer,
        )


def named(status: Status) -> str:
    """The names of the nodes of a process, the first of many."""
    names = list(dict.fromkeys(node.name for node in status.nodes))
    return ", ".join(names[:NAMES_MAX]) + (" …" if len(names) > NAMES_MAX else "")


def stopped(pid: int) -> str:
    """What is said of a process that is stopped."""
    return f"no answer: it is stopped; `kill -CONT {pid}` lets it go on"


def is_stopped(pid: int) -> bool:
    """Whether a process is there and stopped, as far as the system says."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
    except OSError:
        return False


def ask(process: Heard, do: str, *, timeout: float = ACT_TIMEOUT, **arguments: Any) -> dict[str, Any]:
    """Let a process do something; what it answers.

    Raises:
        NotAnswered: It did not.
        FabricError: It refused, or could not.
    """
    from peerfabric import admin

    return admin.ask(process.asked, do, timeout=timeout, **arguments)


def follow(process: Heard, do: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """As `ask`, what it answers on and on, until it ends or the iterator is closed."""
    from peerfabric import admin

    return admin.follow(process.asked, do, **arguments)


class Asked:
    """What several processes answered to one request, and which of them did not."""

    def __init__(self) -> None:
        self.answers: list[tuple[Heard, dict[str, Any]]] = []
        self.problems: list[str] = []

    def items(self, name: str) -> list[dict[str, Any]]:
        """The objects in this list of each answer, with the `pid` they are of."""
        return [{**item, "pid": process.pid} for process, answer in self.answers for item in answer.get(name, ())]

    def told(self) -> None:
        """Tell on standard error of those that did not answer."""
        for problem in self.problems:
            warn(problem)


def ask_all(processes: list[Heard], do: str, *, timeout: float = ACT_TIMEOUT, **arguments: Any) -> Asked:
    """Let several processes do something, all at once, so that one that does not answer delays nobody.

    One that is stopped is not asked: it would do it whenever it goes on.
    """
    asked = Asked()
    ask_now = []
    for process in processes:
        if is_stopped(process.pid):
            asked.problems.append(f"{process.title}: {stopped(process.pid)}")
        else:
            ask_now.append(process)

    def call(process: Heard) -> dict[str, Any]:
        patience = timeout if process.status is not None else min(timeout, SILENT_TIMEOUT)
        return ask(process, do, timeout=patience, **arguments)

    for process, future in _started(ask_now, call):
        try:
            asked.answers.append((process, future.result(timeout + 1.0)))
        except (FabricError, OSError, TimeoutError) as error:
            if is_stopped(process.pid):
                asked.problems.append(f"{process.title}: {stopped(process.pid)}")
            elif process.status is None and type(error).__name__ == "NotAnswered":
                asked.problems.append(f"{process.title}: {process.problem}; see `peerfabric stacks {process.pid}`")
            else:
                asked.problems.append(f"{process.title}: {error or 'did not answer'}")
    return asked


def _started(processes: list[Heard], call: Callable[[Heard], T]) -> list[tuple[Heard, Future[T]]]:
    return [(process, beside(lambda each=process: call(each))) for process in processes]  # type: ignore[misc]
