"""Requests at the admin socket: what is asked of which nodes, what is refused, streams, and handlers of programs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import AsyncNode, BadName, ConfigError, Node, SpoolFull, TimedOut
from peerfabric.admin import Answer, Following, NotAnswered, answers, ask, follow, here, processes, register
from peerfabric.nodes.aio.outside import Busy
from peerfabric.nodes.door.conversation import LINES_MAX, Lines
from peerfabric.nodes.door.door import Door
from peerfabric.nodes.door.place import CONNECTIONS_MAX
from peerfabric.nodes.door.requests import (
    BODY_MAX,
    ActIds,
    ActQueue,
    AskDead,
    AskStatus,
    AskTap,
    AskTrace,
    Look,
    Refused,
    answer,
    cut,
)
from peerfabric.nodes.platform import DESCRIPTORS
from peerfabric.status import NodeStatus, Process, Status
from tests.nodes.conftest import Child, eventually
from tests.nodes.door.test_door import names, own, raw

BUSY = """
    import sys, threading
    from peerfabric import Node
    node = Node("it")
    node.statistics()
    lock = node._async._lifecycle.node.pump.lock
    with lock:
        print("ready", flush=True)
        sys.stdin.readline()
    node.close()
    """


class Fake:
    """As `Outside`, and as a node of which it is the outside."""

    loop = None

    def __init__(self, name: str, fabric: str = "f", engine: str = "") -> None:
        self.name, self.fabric, self.node_id, self.engine = name, fabric, f"id-{name}", engine
        self.done: list[Any] = []
        self.waits: list[float] = []
        self.puts: list[Callable[[dict[str, Any]], None]] = []
        self.letters = [{"id": f"{name}:{number}", "queue": "jobs", "body": number} for number in range(3)]

    def outside(self) -> Fake:
        return self

    def status(self, queues: int = 200, wait: float = 1.0) -> NodeStatus:
        self.waits.append(wait)
        return NodeStatus(node_id=self.node_id, name=self.name, fabric=self.fabric, more=queues, engine=self.engine)

    def pause(self, queue: str) -> bool:
        if "/" in queue:
            raise BadName("queue", queue, "has a '/'")
        self.done.append(("pause", queue))
        return True

    def resume(self, queue: str) -> bool:
        self.done.append(("resume", queue))
        return False

    def purge(self, queue: str) -> int:
        self.done.append(("purge", queue))
        return 7

    def dead(self, queue: str | None, limit: int) -> list[dict[str, Any]]:
        return self.letters[:limit]

    def retry(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return [{"id": each, "done": True, "problem": ""} for each in ids if each.startswith(self.name)]

    def drop(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        raise SpoolFull("no space left on /spool; make some")

    def trace(self, id: str) -> list[dict[str, Any]]:
        return [{"side": "producer", "state": "waiting"}] if id.startswith(self.name) else []

    def tap(self, name: str, put: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        if name == "broken":
            raise BadName("queue", name, "is broken")
        self.puts.append(put)
        return lambda: self.puts.remove(put)


A, B = "a", "b"


@pytest.fixture
def fakes() -> list[Fake]:
    return [Fake(A), Fake(B, "g")]


@pytest.fixture
def door(runtime: Path, fakes: list[Fake]) -> Iterator[Path]:
    made = Door(lambda: fakes)
    made.open()
    yield own(runtime)
    made.close()
    eventually(lambda: names() == [], "the end of all threads")


def asked(fakes: list[Fake], **request: Any) -> Any:
    return answer(lambda: fakes, request)


# Which nodes


def test_status_of_some_nodes(fakes: list[Fake]) -> None:
    """All, those of a fabric, or one by its name or id."""

    def seen(**request: Any) -> list[str]:
        return [node.name for node in asked(fakes, do="status", **request)["nodes"]]

    assert seen() == seen(fabric="", node=None) == [A, B]
    assert seen(fabric="g") == seen(node=B) == seen(node="id-b") == [B]
    assert seen(fabric="f", node=B) == seen(fabric="h") == []
    assert asked(fakes, do="status", queues=3, later_field=1)["nodes"][0].more == 3


def test_all_nodes_wait_for_their_machines_as_long_as_one(fakes: list[Fake]) -> None:
    """None of them not at all; who is late brings the stacks of all threads."""
    assert asked(fakes, do="status", wait=0)["stacks"] == ()
    assert [node.waits for node in fakes] == [[0], [0]]
    fakes[1].engine = "busy 0.2 s"
    found = asked(fakes, do="status", wait=0.2)
    assert all(0.05 <= node.waits[-1] <= 0.2 for node in fakes)
    assert sum(node.waits[-1] for node in fakes) <= 0.4
    assert any("test_all_nodes_wait" in line for stack in found["stacks"] for line in stack.lines) is False
    assert found["stacks"] != () or threading.active_count() == 1  # of all but the one that asks


def test_acts(fakes: list[Fake]) -> None:
    """What is done, where, and what came of it."""
    tag = {"node_id": "id-b", "node": B, "fabric": "g"}
    assert asked(fakes, do="pause", queue="jobs", node=B) == {"nodes": [{**tag, "done": True}]}
    assert asked(fakes, do="resume", queue="jobs", fabric="g") == {"nodes": [{**tag, "done": False}]}
    assert [each["purged"] for each in asked(fakes, do="purge", queue="jobs")["nodes"]] == [7, 7]
    assert fakes[0].done == [("purge", "jobs")]
    assert fakes[1].done == [("pause", "jobs"), ("resume", "jobs"), ("purge", "jobs")]
    assert asked(fakes, do="retry", ids=["a:1", "b:1", "c:1"])["outcomes"] == [
        {"node_id": "id-a", "node": A, "fabric": "f", "id": "a:1", "done": True, "problem": ""},
        {**tag, "id": "b:1", "done": True, "problem": ""},
    ]
    assert asked(fakes, do="trace", id="b:2")["found"] == [{**tag, "side": "producer", "state": "waiting"}]
    assert [each["id"] for each in asked(fakes, do="dead", limit=4)["letters"]] == ["a:0", "a:1", "a:2", "b:0"]


def test_an_act_that_fails_at_one_node(fakes: list[Fake]) -> None:
    """Is done at the others, and said to have failed."""
    fakes.append(Fake("c"))

    def pause(queue: str) -> bool:
        raise Busy("busy")

    fakes[1].pause = pause  # type: ignore[method-assign]
    with pytest.raises(TimedOut):
        asked(fakes, do="pause", queue="jobs")
    assert [fake.done for fake in fakes] == [[("pause", "jobs")], [], [("pause", "jobs")]]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"do": "nonsense"}, "nothing here does 'nonsense'"),
        ({}, "nothing here does None"),
        ({"do": ["status"]}, "nothing here does"),
        ({"do": "status", "v": 2}, "version 1"),
        ({"do": "status", "queues": -1}, "queues"),
        ({"do": "status", "wait": 1e9}, "wait"),
        ({"do": "purge"}, "queue"),
        ({"do": "purge", "queue": "jobs", "only_later": True}, "only_later"),
        ({"do": "drop", "ids": []}, "ids"),
        ({"do": "retry", "ids": [1]}, "ids"),
    ],
)
def test_refused(fakes: list[Fake], request_: dict[str, Any], problem: str) -> None:
    """Above all a field that would narrow what acts, and is not known here."""
    with pytest.raises(Refused, match=problem):
        answer(lambda: fakes, request_)
    assert fakes[0].done == []


def test_bodies_are_cut(fakes: list[Fake]) -> None:
    """At whole characters, with the length of all; unless all is asked for."""
    long = "é" * BODY_MAX
    assert cut({"body": "é" * (BODY_MAX // 2)}) == {"body": "é" * (BODY_MAX // 2)}
    assert cut({"body": long}) == {"body": "é" * (BODY_MAX // 2), "cut": 2 * BODY_MAX}
    assert cut({"body": {"x": long}})["cut"] > 2 * BODY_MAX
    assert cut({"body": ["short"]}) == {"body": ["short"]}
    fakes[0].letters[0]["body"] = long
    assert len(asked(fakes, do="dead", limit=1)["letters"][0]["body"]) == BODY_MAX // 2
    assert asked(fakes, do="dead", limit=1, whole=True)["letters"][0]["body"] == long


# Over the socket


def test_errors_travel(door: Path, fakes: list[Fake]) -> None:
    """By their class, text and what else is plain of them."""
    with pytest.raises(BadName, match="queue 'a/b': has a '/'") as caught:
        ask(door, "pause", queue="a/b")
    assert (caught.value.kind, caught.value.name) == ("queue", "a/b")
    with pytest.raises(SpoolFull, match="no space left"):
        ask(str(door), "drop", ids=["a:1"])

    def busy(queue: str) -> int:
        raise Busy("the node is busy")

    fakes[0].purge = busy  # type: ignore[method-assign]
    with pytest.raises(TimedOut, match="the node is busy"):
        ask(door, "purge", queue="jobs")
    with pytest.raises(ConfigError, match=r"Object missing required field `queue`"):
        ask(os.getpid(), "purge")
    with pytest.raises(NotAnswered, match="nothing here does 'nonsense'; ask for one of dead, drop") as unknown:
        ask(door, "nonsense")
    assert unknown.value.pid == os.getpid()
    with pytest.raises(ConfigError, match="plain values"):
        ask(door, "purge", queue=object())
    assert raw(door, b'{"do":"nonsense"}')["can"][:2] == ["dead", "drop"]


def test_the_document_is_readable(runtime: Path) -> None:
    """What is shown of a real node is the document, over the socket and without it."""
    with Node("a") as node:
        node.statistics()
        [first] = answers(30)
        assert isinstance(first, Answer)
        assert first.status is not None
        assert msgspec.json.decode(msgspec.json.encode(ask(first, "status")), type=Status).v == 1
        assert [each.name for each in first.status.nodes] == [each.name for each in here().nodes] == ["a"]
        assert here().process.pid == first.pid
        assert [answer.status and answer.status.nodes for answer in processes(fabric="other")] == [()]
        found = ask(first, "stacks")
        main = next(stack for stack in found["stacks"] if stack["name"] == "MainThread")
        assert any("test_the_document_is_readable" in line for line in main["lines"])
        assert found["process"]["pid"] == os.getpid()


def test_stacks_of_tasks(runtime: Path) -> None:
    """Of the event loop that a node belongs to, each to where it waits."""

    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await waits_for_ever()

    async def main() -> dict[str, Any]:
        async with AsyncNode("a") as node:
            node.statistics()
            task = asyncio.create_task(outer(), name="stuck")
            await asyncio.sleep(0)
            found = await asyncio.to_thread(ask, os.getpid(), "stacks")
            task.cancel()
            return found

    stuck = next(each for each in asyncio.run(main())["stacks"] if each["name"] == "stuck")
    assert (stuck["kind"], stuck["native"]) == ("task", None)
    outwards = [line.partition(" ")[2].partition(":")[0].rpartition(".")[2] for line in stuck["lines"]]
    assert outwards[:2] == ["outer", "waits_for_ever"]


def test_a_node_whose_machines_are_busy(runtime: Path, start: Callable[..., Child]) -> None:
    """Is shown without them, and with where all threads are, within the time of who asks."""
    child = start(BUSY)
    child.line()
    [found] = processes(1.0)
    assert found.status is not None, found.problem
    [node] = found.status.nodes
    assert node.name == "it"
    assert node.engine.startswith("busy 0.")
    assert any("readline" in line for stack in found.status.stacks for line in stack.lines)
    child.write("")
    child.finish()


def test_handlers_of_programs(door: Path) -> None:
    """Answer what no node does, several in turn, until they are taken away."""
    mine = register("settle", lambda arguments: {"settled": arguments["ids"]} if arguments["node"] == "x" else None)
    other = register("settle", lambda arguments: {"other": len(arguments)})
    broken = register("extend", lambda arguments: 1 / 0)  # type: ignore[arg-type,return-value]
    odd = register("odd", lambda arguments: {"it": {1, 2}, "who": object()})
    try:
        more = [{"id": "3", "delay": 1.5}]
        assert ask(door, "settle", node="x", ids=["1", "2"], more=more) == {"settled": ["1", "2"]}
        assert ask(door, "settle", node="y") == {"other": 1}
        with pytest.raises(NotAnswered, match="ZeroDivisionError"):
            ask(door, "extend")
        assert ask(door, "odd")["it"] == [1, 2]
        mine()
        assert ask(door, "settle", node="x") == {"other": 1}
    finally:
        for end in (mine, other, broken, odd):
            end()
    with pytest.raises(NotAnswered, match="nothing here does 'settle'"):
        ask(door, "settle", node="x")


def test_a_handler_that_answers_nothing(door: Path) -> None:
    """The request concerns nobody."""
    end = register("settle", lambda arguments: None)
    assert ask(door, "settle") == {"answered": False}
    end()


# Streams


def test_tap(door: Path, fakes: list[Fake]) -> None:
    """Of all nodes, with whose it is, until the reader closes; then nobody puts any more."""
    with follow(door, "tap", name="jobs") as following:
        assert [len(fake.puts) for fake in fakes] == [1, 1]
        fakes[0].puts[0]({"queue": "jobs", "body": "x" * 5000})
        fakes[1].puts[0]({"queue": "jobs", "body": 1})
        first, second = next(following), next(following)
        assert (first["node"], len(first["body"]), first["cut"]) == (A, BODY_MAX, 5000)
        assert (second["node"], second["body"]) == (B, 1)
    eventually(lambda: [fake.puts for fake in fakes] == [[], []], "the end of the tap")
    assert list(following) == []


def test_a_tap_that_cannot_begin(door: Path, fakes: list[Fake]) -> None:
    """Leaves nothing behind at the nodes that had begun."""
    with pytest.raises(BadName, match="is broken"):
        follow(door, "tap", name="broken")
    assert fakes[0].puts == []
    with pytest.raises(ConfigError, match="name"):
        follow(door, "tap")


def test_a_stream_is_closed_by_another_thread(door: Path, fakes: list[Fake]) -> None:
    """Whoever waits in it comes to its end."""
    following = follow(door, "tap", name="jobs")
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(following))
    thread.start()
    fakes[0].puts[0]({"body": 1})
    eventually(lambda: seen, "the first line")
    following.close()
    thread.join(30)
    assert not thread.is_alive()
    eventually(lambda: fakes[0].puts == [], "the end of the tap")


def test_so_many_streams_and_no_more(door: Path) -> None:
    """They take no place of those who only ask."""
    streams: list[Following] = [follow(door, "tap", name="jobs") for _ in range(CONNECTIONS_MAX)]
    with pytest.raises(NotAnswered, match="end one of them"):
        follow(door, "tap", name="jobs")
    assert ask(door, "status")["v"] == 1
    for each in streams:
        each.close()
    eventually(lambda: names() == ["peerfabric-admin"], "the end of all streams")
    follow(door, "tap", name="jobs").close()


def test_a_reader_that_does_not_read_is_cut(door: Path, fakes: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a bounded number of lines, and its thread ends."""
    monkeypatch.setattr("peerfabric.nodes.door.conversation.TIME_MAX", 0.1)
    with follow(door, "tap", name="jobs", whole=True):
        put = fakes[0].puts[0]
        for _ in range(2 * LINES_MAX):
            put({"body": "x" * 1000})
        eventually(lambda: fakes[0].puts == [], "the end of the tap")


def test_lines_that_came_too_fast() -> None:
    """Are left out, and counted."""
    lines = Lines()
    for number in range(LINES_MAX + 3):
        lines.put({"n": number})
    taken = list(lines.take())
    assert (len(taken), taken[-2], taken[-1]) == (LINES_MAX + 1, {"n": LINES_MAX - 1}, {"skipped": 3})
    assert list(lines.take()) == []


def test_who_still_puts_when_a_stream_has_ended(door: Path, fakes: list[Fake]) -> None:
    """He does not write into what has got the number of its descriptor meanwhile."""
    with follow(door, "tap", name="jobs"):
        put = fakes[0].puts[0]
    eventually(lambda: fakes[0].puts == [] and names() == ["peerfabric-admin"], "the end of the tap")
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(100)]
        for number in range(3):
            put({"n": number})
        assert [os.fstat(file.fileno()).st_size for file in files] == [0] * len(files)


def test_a_stream_that_has_ended_keeps_no_descriptor() -> None:
    """Once nobody can put any more."""
    before = len(os.listdir(DESCRIPTORS))
    lines = [Lines() for _ in range(50)]
    assert len(os.listdir(DESCRIPTORS)) > before
    lines.clear()
    assert len(os.listdir(DESCRIPTORS)) == before


# Anything at all


def test_names_of_bytes_that_are_no_text(monkeypatch: pytest.MonkeyPatch, door: Path, fakes: list[Fake]) -> None:
    """Programs, folders, threads and tasks may have them; they are shown, and nothing fails by them."""
    odd = os.fsdecode(b"l\xe9t")
    monkeypatch.setattr(sys, "argv", [odd])
    fakes[0].letters = [{"id": "1", "headers": {odd: [odd]}}]
    found = ask(door, "status")["process"]["argv0"], ask(door, "dead")["letters"][0]["headers"]
    assert found == ("l\\udce9t", {"l\\udce9t": ["l\\udce9t"]})
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=odd)
    thread.start()
    assert "l\\udce9t" in [each["name"] for each in ask(door, "stacks")["stacks"]]
    end.set()
    thread.join(60)
    with pytest.raises(ConfigError, match="plain values"):
        ask(door, "purge", queue=odd)


def test_fuzzed_requests(door: Path, fakes: list[Fake]) -> None:
    """Whatever comes gets one line, an object, or nothing; nothing acts, and the door stays open."""
    chance = random.Random(14)
    whole = b'{"v":1,"do":"status","queues":200,"wait":0,"x":[{"a":[1]},null,1.5,"\\u00e9"]}'
    for number in range(300):
        match number % 4:
            case 0:
                content = bytearray(chance.randbytes(chance.randrange(200)))
            case 1:
                content = bytearray(whole)
                for _ in range(chance.randrange(1, 4)):
                    content[chance.randrange(len(content))] = chance.randrange(256)
            case 2:
                content = bytearray(whole[: chance.randrange(len(whole))])
            case _:
                odd = [b"[" * 30_000, b'{"a":' * 9_000, b"1e999", b"-", b'"\\ud800"']
                content = bytearray(b'{"do":') + chance.choice(odd)
        found = raw(door, bytes(content).replace(b"\n", b" "))
        assert isinstance(found, dict)
        assert found == {} or "error" in found or "process" in found, found
    assert [fake.done for fake in fakes] == [[], []]
    assert ask(door, "status")["v"] == 1


def test_answers_that_are_none(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a later version, or of somebody who is no door: they are problems, and no status."""
    from peerfabric.nodes.door import conversation

    with Node("a") as node:
        node.statistics()
        for line, problem in (
            (b'{"process":{"pid":"no"}}\n', "cannot be read"),
            (b"[]\n", "cannot be read"),
            (b"\xff\n", "no whole answer"),
            (b"", "no whole answer"),
            (b'{"error":"version","text":"ask otherwise"}\n', "ask otherwise"),
        ):
            monkeypatch.setattr(conversation, "_line", lambda found, line=line: line)
            [found] = processes(30)
            assert found.status is None
            assert problem in found.problem
            if b"process" not in line:
                with pytest.raises(NotAnswered):
                    ask(found, "status")
        later = b'{"process":{"pid":1,"started":2,"later":3}}\n'
        monkeypatch.setattr(conversation, "_line", lambda found: later)
        assert processes(30)[0].status == Status(process=Process(pid=1, started=2))


def test_a_process_that_closes_its_last_node_while_it_is_asked(runtime: Path, door: Path) -> None:
    """There is nothing to tell of it, and nothing is wrong with it."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = door.with_name(f"{os.getpid()}-1.sock")
        listener.bind(str(path))
        listener.listen()

        def close() -> None:
            connection, _ = listener.accept()
            path.unlink()
            connection.close()

        thread = threading.Thread(target=close)
        thread.start()
        assert [found.path for found in processes(60)] == [door]
        thread.join(60)


# Documentation


def test_the_table_of_requests() -> None:
    """Of docs/operations.md: what can be asked, with the arguments that there are."""
    text = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    table = text.partition("## The admin socket")[2].partition("|---|")[2]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*?)\| ", table, re.M)
    word = re.compile(r"`(\w+)`")
    told = {name: set(word.findall(fields)) for names, fields in rows for name in word.findall(names)}
    both = {"fabric", "node"}
    kinds = {
        "status": AskStatus, "stacks": Look, "dead": AskDead, "trace": AskTrace, "tap": AskTap,
        **dict.fromkeys(("retry", "drop"), ActIds), **dict.fromkeys(("pause", "resume", "purge"), ActQueue),
    }  # fmt: skip
    assert told == {name: {*kind.__struct_fields__} - both for name, kind in kinds.items()}
    with pytest.raises(Refused) as unknown:
        answer(list, {"do": "?"})
    assert unknown.value.more["can"] == sorted(kinds)


def test_the_line_of_the_documentation(runtime: Path) -> None:
    """As written there, where socat is installed; by a socket of ours elsewhere."""
    text = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    [command] = re.findall(r"^\$ (echo .*socat.*)$", text, re.M)
    with Node("a") as node:
        node.statistics()
        if shutil.which("socat"):
            here = command.replace("$XDG_RUNTIME_DIR/peerfabric", str(runtime))
            found = json.loads(subprocess.run(here, shell=True, capture_output=True, check=True, timeout=60).stdout)
        else:
            found = raw(own(runtime), re.findall(r"echo '(.*?)'", command)[0].encode() + b"\n")
        assert found["nodes"][0]["name"] == "a"
