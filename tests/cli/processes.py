"""Processes that answer what a test says, in the place of those of this host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import Heard, named
from peerfabric.nodes.cli.main import cli
from peerfabric.reports import ConsumerAccount, QueueAccount
from peerfabric.status import InHand, Letters, NodeStatus, Process, Sending, Status, Taking

Answer = Callable[..., dict[str, Any]]


def sending(queue: str = "orders", *, oldest: float | None = None, letters: int = 0, **account: int) -> Sending:
    """A queue of a producer, with this account."""
    return Sending(
        queue=queue,
        account=QueueAccount(queue=queue, **account),
        oldest_waiting=oldest,
        oldest_unsettled=oldest,
        letters=Letters(count=letters, by_reason={"rejected": letters} if letters else {}),
    )


def taking(queue: str = "orders", *running: InHand, paused: bool = False, **account: int) -> Taking:
    """A queue of a consumer, with this account."""
    longest = max((message.age for message in running), default=0.0)
    return Taking(
        queue=queue,
        account=ConsumerAccount(queue=queue, **account),
        running=running,
        longest_running=longest,
        paused=paused,
    )


def node(name: str, fabric: str = "cli", **fields: Any) -> NodeStatus:
    return NodeStatus(node_id=name * 4, name=name, fabric=fabric, state="running", epoch=1, **fields)


def heard(pid: int, *nodes: NodeStatus, at: float = 0.0, **process: Any) -> Heard:
    """A process with these nodes."""
    status = Status(process=Process(pid=pid, started=1, version="0.2.0", **process), nodes=nodes)
    return Heard(pid=pid, started=1, status=status, name=named(status), at=at)


def silent(pid: int, problem: str = "no answer in 1 s: stopped, or starved") -> Heard:
    return Heard(pid=pid, started=1, status=None, problem=problem, name="worker")


class Processes:
    """What is heard at each look, the last for all that follow, and what each request is answered with.

    `asked` has the requests that were made: pid, what to do, arguments.
    """

    def __init__(self) -> None:
        self.looks: list[list[Heard]] = [[]]
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self.does: dict[str, Answer] = {}
        self.streams: dict[int, list[dict[str, Any]]] = {}

    def answers(self, timeout: float = 1.0, *, queues: int = 500, folder: str | None = None) -> Iterator[Heard]:
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return iter(found)

    def ask(self, process: Heard, do: str, *, timeout: float = 1.0, **arguments: Any) -> dict[str, Any]:
        self.asked.append((process.pid, do, arguments))
        return self.does[do](process, **arguments)

    def follow(self, process: Heard, do: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((process.pid, do, arguments))
        return iter(self.streams.get(process.pid, []))

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("answers", "ask", "follow"):
            monkeypatch.setattr(door, name, getattr(self, name))


def run(*arguments: str, given: str | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, in this process."""
    done = CliRunner().invoke(cli, arguments, input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr
