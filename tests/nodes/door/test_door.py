"""Admin socket of a process: it is there while a node runs, costs nothing else, and lets nobody else in."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Node
from peerfabric.admin import NotAnswered, answers, ask, follow, processes
from peerfabric.nodes.door.place import (
    CONNECTIONS_MAX,
    FOLDER,
    HEARD,
    REQUEST_BYTES_MAX,
    SUFFIX,
    lives,
    own_folder,
    started_ms,
    sweep,
)
from tests.nodes.conftest import Child, Front, eventually, open_descriptors

NODE = """
    import os, sys
    from peerfabric import Node
    node = Node("it")
    node.statistics()
    print("ready", os.getpid(), flush=True)
    """
WAITS = NODE + "sys.stdin.readline()\n    node.close()\n"

Start = Callable[..., Child]


@pytest.fixture
def node(runtime: Path) -> Iterator[Node]:
    with Node("here") as made:
        made.statistics()
        yield made


def sockets(runtime: Path) -> list[str]:
    folder = runtime / FOLDER
    return sorted(os.listdir(folder)) if folder.exists() else []


def own(runtime: Path) -> Path:
    [name] = [name for name in sockets(runtime) if name.startswith(f"{os.getpid()}-")]
    return runtime / FOLDER / name


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(path))
    return connection


def raw(path: Path, request: bytes) -> dict[str, Any]:
    """What comes of these bytes."""
    with connected(path) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return read(connection)


def read(connection: socket.socket) -> dict[str, Any]:
    found = b""
    while data := connection.recv(65536):
        found += data
    return json.loads(found) if found.strip() else {}


def names(threads: list[threading.Thread] | None = None) -> list[str]:
    return [each.name for each in threads or threading.enumerate() if each.name.startswith("peerfabric-admin")]


def test_one_socket_for_all_nodes_of_a_process(front: Front, runtime: Path) -> None:
    """It comes with the first node, answers for all of them, and goes with the last one."""
    assert sockets(runtime) == []
    first, second = front.node("a"), front.node("b")
    first.statistics()
    [name] = sockets(runtime)
    second.statistics()
    assert sockets(runtime) == [name]
    assert stat.S_IMODE((runtime / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE((runtime / FOLDER / name).stat().st_mode) == 0o600
    [answer] = processes()
    assert (answer.pid, answer.problem, answer.path) == (os.getpid(), "", runtime / FOLDER / name)
    assert answer.status is not None
    assert sorted(node.name for node in answer.status.nodes) == ["a", "b"]
    about = answer.status.process
    assert (about.pid, about.started) == (os.getpid(), answer.started)
    assert abs(about.started - (started_ms(os.getpid()) or 0)) < 2000
    assert min(about.rss, about.cpu, about.threads, about.descriptors, about.descriptors_max) > 0
    first.close()
    assert [answer.status and [n.name for n in answer.status.nodes] for answer in processes()] == [["b"]]
    second.close()
    assert sockets(runtime) == []
    assert processes() == []


def test_a_door_that_nobody_comes_to_is_one_thread_and_one_descriptor(runtime: Path) -> None:
    """Whose thread never runs, and what a request has opened is closed again."""
    threads, descriptors = set(threading.enumerate()), len(open_descriptors())
    os.environ["PEERFABRIC_ADMIN"] = "off"
    try:
        with Node("without") as node:
            node.statistics()
            without = len(threading.enumerate()), len(open_descriptors())
    finally:
        del os.environ["PEERFABRIC_ADMIN"]
    eventually(lambda: set(threading.enumerate()) <= threads and len(open_descriptors()) <= descriptors)
    with Node("with") as node:
        node.statistics()
        assert (len(threading.enumerate()), len(open_descriptors())) == (without[0] + 1, without[1] + 1)
        [thread] = [each for each in threading.enumerate() if each.name == "peerfabric-admin"]
        switches = Path(f"/proc/self/task/{thread.native_id}/status")
        if switches.exists():

            def woken() -> list[str]:
                return [line for line in switches.read_text().splitlines() if "ctxt_switches" in line]

            eventually(lambda: "S" in switches.read_text().split("State:")[1][:3])
            before = woken()
            node.producer("jobs", int).send(1)
            for _ in range(50):
                node.statistics()
            with node.consumer("jobs", int).get(timeout=30) as body:
                assert body == 1
            assert woken() == before
        opened = len(open_descriptors())
        processes()
        eventually(lambda: names() == ["peerfabric-admin"], "the end of the thread of a connection")
        eventually(lambda: len(open_descriptors()) <= opened, "the end of its descriptors")


def test_it_can_be_turned_off(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a word that means neither is refused, as somebody may have meant to turn it off."""
    monkeypatch.setenv("PEERFABRIC_ADMIN", "off")
    with Node("a") as node:
        node.statistics()
        assert sockets(runtime) == []
    monkeypatch.setenv("PEERFABRIC_ADMIN", "no")
    node = Node("a")
    with pytest.raises(ConfigError, match="neither on nor off"):
        node.statistics()
    monkeypatch.setenv("PEERFABRIC_ADMIN", "on")
    node.statistics()
    assert len(sockets(runtime)) == 1
    node.close()


def test_a_node_starts_where_there_can_be_no_socket(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once."""
    (runtime / FOLDER).write_text("")
    with Node("a") as node:
        node.statistics()
        assert [r for r in caplog.records if "no admin socket" in r.message]
    (runtime / FOLDER).unlink()


def test_a_long_path(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than an address may be."""
    long = runtime / ("x" * 120)
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(long))
    with Node("a") as node:
        node.statistics()
        [answer] = processes()
        assert answer.status is not None
        assert ask(os.getpid(), "status")["v"] == 1


def test_what_the_killed_leave_is_removed(runtime: Path, start: Start) -> None:
    """By whoever asks, and by the next node that starts."""
    children = [start(WAITS) for _ in range(2)]
    for child in children:
        child.line()
    assert len(processes(20)) == 2
    for child in children:
        child.signal(signal.SIGKILL)
        child.process.wait()
    first, second = sorted(sockets(runtime))
    assert processes() == []
    assert sockets(runtime) == []
    for name in (first, second):  # as one that is left over, and something that is none
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(runtime / FOLDER / name))
        left.close()
    (runtime / FOLDER / "notes.txt").write_text("")
    with Node("a") as node:
        node.statistics()
        assert len(sockets(runtime)) == 2
        with pytest.raises(NotAnswered, match="no admin socket"):
            ask(children[0].process.pid, "status")
    (runtime / FOLDER / "notes.txt").unlink()


def test_only_what_refuses_was_left(runtime: Path) -> None:
    """Whoever is too busy to let anybody in lives, also where nothing is known of its number: in a container."""
    folder = own_folder(runtime)
    busy, left, no_socket = (folder / f"{2**22 + number}-1.sock" for number in (1, 2, 3))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(busy))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(busy))
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(left))
        no_socket.touch()
        sweep(folder)
        assert sorted(folder.iterdir()) == [busy, no_socket]
    busy.unlink()
    no_socket.unlink()


def test_a_socket_that_somebody_removes_is_made_again(runtime: Path, node: Node) -> None:
    """Folders of sessions go, and cleaners do not know what they remove."""
    path = own(runtime)
    path.unlink()
    path.parent.rmdir()
    eventually(lambda: [answer.status for answer in processes()] not in ([], [None]), "another socket")
    eventually(lambda: names() == ["peerfabric-admin"], "the end of the thread before")


def test_a_forked_child_is_somebody_else(runtime: Path, start: Start) -> None:
    """It has nothing of its parent's open, so that the parent's end is seen, and answers for its own nodes."""
    child = start(
        NODE
        + """
    pid = os.fork()
    if pid == 0:
        held = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
        with Node("child") as other:
            other.statistics()
            print("child", os.getpid(), flush=True)
            sys.stdin.readline()
        os._exit(0)
    sys.stdin.readline()
    node.close()
    """  # noqa: E501
    )
    parent = int(child.line().split()[1])
    forked = int(child.line().split()[1])
    found = {answer.pid: answer.status for answer in processes(20)}
    seen = {pid: [node.name for node in status.nodes] for pid, status in found.items() if status is not None}
    assert seen == {parent: ["it"], forked: ["child"]}
    child.signal(signal.SIGKILL)
    child.process.wait()
    assert [answer.pid for answer in processes(20)] == [forked]  # its parent's refuses, and is gone
    os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("module", ["peerfabric.nodes.door.requests", "peerfabric.nodes.aio.outside"])
def test_a_fork_while_what_answers_is_loaded(runtime: Path, start: Start, module: str) -> None:
    """A child would wait for ever for an import that a thread of its parent was at."""
    child = start(
        f"""
    import os, sys, threading, time
    from peerfabric import Node
    from peerfabric.admin import processes

    class Slow:
        def find_spec(self, name, path, target=None):
            if name == {module!r}:
                loading.set()
                time.sleep(0.5)

    loading = threading.Event()
    sys.meta_path.insert(0, Slow())
    node = Node("it")
    node.statistics()
    threading.Thread(target=processes, args=(60.0,)).start()
    assert loading.wait(60)
    if os.fork() == 0:
        with Node("child") as other:
            other.statistics()
            [found] = [each for each in processes(30.0) if each.pid == os.getpid()]
            print(found.problem, [each.name for each in found.status.nodes], flush=True)
        os._exit(0)
    os.wait()
    os._exit(0)
    """
    )
    assert child.line() == " ['child']"


def test_what_a_process_was_before_exec(runtime: Path, start: Start) -> None:
    """Its socket stays as long as it lives, under its own name, which a node of the new program takes."""
    child = start(
        NODE
        + """
    os.execv(sys.executable, [sys.executable, "-c", "import sys; print('other', flush=True); sys.stdin.readline()\\n"
        "from peerfabric import Node\\nnode = Node('second'); node.statistics(); print('up', flush=True)\\n"
        "sys.stdin.readline(); node.close()"])
    """
    )
    pid = int(child.line().split()[1])
    assert child.line() == "other"
    for path in runtime.glob("*/*box"):  # of the node that ended with the program before
        path.unlink()
    [answer] = processes(20)
    assert (answer.pid, answer.status) == (pid, None)
    assert "another program" in answer.problem
    with pytest.raises(NotAnswered, match="cannot be asked"):
        ask(answer, "status")
    child.write("")
    assert child.line() == "up"
    [answer] = processes(20)
    assert answer.status is not None
    assert [node.name for node in answer.status.nodes] == ["second"]
    child.write("")
    child.finish()


def stop(child: Child, pid: int) -> None:
    """Stop a process, and return when none of its threads runs any more."""
    child.signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    if tasks.exists():

        def are_stopped() -> bool:
            return all(b") T " in (task / "stat").read_bytes() for task in tasks.iterdir())

        eventually(are_stopped, "the stop of all its threads")


def test_a_stopped_process_costs_the_others_nothing(runtime: Path, start: Start, node: Node) -> None:
    """It has no answer, and is told apart from one that is not there; awake again, it answers."""
    child = start(WAITS)
    pid = int(child.line().split()[1])
    stop(child, pid)
    try:
        began = time.monotonic()
        found = {answer.pid: answer for answer in processes(0.5)}
        assert found[os.getpid()].status is not None
        assert (found[pid].status, found[pid].problem) == (None, "no answer in 0.5 s: stopped, or starved")
        assert 0.5 <= time.monotonic() - began < 20
        with pytest.raises(NotAnswered, match=r"did not answer 'status' in 0\.2 s"):
            ask(pid, "status", timeout=0.2)
        held = [socket.socket(socket.AF_UNIX)]
        held[0].setblocking(False)
        while held[-1].connect_ex(str(found[pid].path)) != errno.EAGAIN:  # as many as wait to be let in
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].setblocking(False)
        assert processes(0.2)[-1 if pid > os.getpid() else 0].problem.startswith("no answer")
        with pytest.raises(NotAnswered, match="did not answer"):
            ask(pid, "status", timeout=0.2)
        for each in held:
            each.close()
    finally:
        child.signal(signal.SIGCONT)
    assert all(answer.status is not None for answer in processes(30))
    child.write("")
    child.finish()


def test_a_process_that_the_interpreter_of_which_is_held(runtime: Path, start: Start) -> None:
    """A call into C that does not let go of the interpreter looks like a stop."""
    child = start(WAITS.replace("sys.stdin.readline()", "import ctypes; ctypes.PyDLL(None).pause()"))
    child.line()
    time.sleep(0.05)
    [answer] = processes(0.3)
    assert "stopped, or starved" in answer.problem


def test_it_says_that_it_has_heard_before_it_loads_what_answers(runtime: Path, start: Start) -> None:
    """A first look at many processes at once takes each of them long, and none of them is silent meanwhile."""
    child = start(
        """
    import os, sys
    from peerfabric import Node

    class Slow:
        def find_spec(self, name, path, target=None):
            if name == "peerfabric.nodes.door.conversation":
                sys.stdin.readline()

    sys.meta_path.insert(0, Slow())
    node = Node("it")
    node.statistics()
    print(os.getpid(), flush=True)
    node.consumer("never", int).get(timeout=600)
    """
    )
    pid = int(child.line())
    [name] = sockets(runtime)
    with connected(runtime / FOLDER / name) as connection:
        connection.sendall(b'{"do":"status"}\n')
        assert connection.recv(4096) == HEARD
        child.write("")
        assert read(connection)["process"]["pid"] == pid


def test_one_that_has_heard_is_waited_for(runtime: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than one that says nothing, though the kernel lets everybody in to both; and not for ever."""
    answer = json.dumps({"process": {"pid": 10**7 + 1, "started": 1}}).encode() + b"\n"
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for number, listener in enumerate(listeners):
        listener.bind(str(runtime / FOLDER / f"{10**7 + number}-1.sock"))
        listener.listen()
    held: list[socket.socket] = []

    def hear() -> None:
        for listener in listeners[1:]:
            held.append(listener.accept()[0])
            held[-1].send(HEARD)

    thread = threading.Thread(target=hear)
    thread.start()
    monkeypatch.setattr("peerfabric.admin.client.HEARD_TIME", 2.0)
    coming = answers(1.0)
    mine, silent = next(coming), next(coming)
    assert (mine.pid, silent.pid) == (os.getpid(), 10**7)
    assert silent.problem.startswith("no answer in 1 s: it has ended")
    held[0].sendall(answer)
    late = next(coming)
    assert late.status is not None
    assert late.pid == 10**7 + 1
    assert [each.problem for each in coming] == ["no answer in 2 s, though it has heard: it is starved, or hangs"]
    thread.join()
    for each in (*listeners, *held):
        each.close()
    assert [each.pid for each in processes(30)] == [os.getpid()]


FIRST_LOOK = """
    import sys
    from peerfabric import Node
    from peerfabric.admin import processes

    node = Node("it")
    node.producer("jobs", int).send(1)
    before = set(sys.modules)
    [found] = processes(60.0)
    print(found.problem, *sorted(set(sys.modules) - before), flush=True)
    sys.stdin.readline()
    """
ANSWERS = {f"peerfabric.nodes.door.{name}" for name in ("about", "conversation", "registered", "requests")}
ANSWERS |= {"peerfabric.nodes.aio.outside", "peerfabric.node_status", "peerfabric.queue.queue_status", "pwd"}


def test_a_first_look_loads_no_more_than_it_shows(runtime: Path, start: Start) -> None:
    """All processes of a host load that at once when somebody looks for the first time."""
    assert set(start(FIRST_LOOK).line().split()) <= ANSWERS


@pytest.mark.long
def test_a_first_look_at_fifty_forked_processes(runtime: Path, start: Start) -> None:
    """None of them is called silent, nor at later looks."""
    child = start(
        """
    import os, signal, sys
    from peerfabric import Node

    for number in range(50):
        if os.fork() == 0:
            node = Node(f"worker{number}", discovery=["registry"])
            for queue in range(10):
                node.producer(f"queue{queue}", int).send(queue)
            os.write(1, b"ready\\n")
            signal.pause()
    signal.pause()
    """
    )
    for _ in range(50):
        assert child.line() == "ready"
    try:
        for _ in range(3):
            found = processes(1.0)
            assert [answer.problem for answer in found] == [""] * 50
            assert {len(answer.status.nodes[0].sends) for answer in found if answer.status is not None} == {10}
    finally:
        for name in sockets(runtime):
            os.kill(int(name.partition("-")[0]), signal.SIGKILL)


def test_too_many_at_a_time(runtime: Path, node: Node) -> None:
    """Are told so at once; who asks all of a host tries again until there is room."""
    path = own(runtime)
    held = [connected(path) for _ in range(CONNECTIONS_MAX)]
    eventually(lambda: len(names()) == 1 + CONNECTIONS_MAX, "a thread for each")
    with connected(path) as connection:
        assert read(connection)["error"] == "busy"
    with pytest.raises(NotAnswered, match="too many ask"):
        ask(os.getpid(), "status")
    timer = threading.Timer(0.1, held.pop().close)
    timer.start()
    assert processes(30)[0].status is not None
    timer.join()
    for each in held:
        each.close()
    eventually(lambda: names() == ["peerfabric-admin"], "the end of all of them")


def test_too_slow_or_too_long(runtime: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends no whole line, or too much, is told and let go."""
    with monkeypatch.context() as patched, connected(own(runtime)) as connection:
        patched.setattr("peerfabric.nodes.door.conversation.TIME_MAX", 0.05)
        connection.sendall(b'{"do":')
        assert read(connection)["error"] == "timeout"
    with connected(own(runtime)) as connection:
        connection.sendall(b'{"do":"status"' + b" " * (REQUEST_BYTES_MAX + 1))
        try:
            assert read(connection)["error"] == "too large"
        except ConnectionResetError:
            pass
    with pytest.raises(ConfigError, match="at most 65,536 bytes"):
        ask(os.getpid(), "status", fabric="x" * REQUEST_BYTES_MAX)
    assert raw(own(runtime), b"") == {}


def test_where_no_thread_can_be_started(runtime: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a program, the thread that listens answers, and begins nothing that lasts."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "peerfabric-admin-asked":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert processes(30)[0].status is not None
    with pytest.raises(NotAnswered, match="end one of them"):
        follow(os.getpid(), "tap", name="jobs")
    assert processes(30)[0].status is not None


def test_a_connection_that_fails_is_not_the_last(
    runtime: Path, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The door stays open."""

    def fail(connection: socket.socket) -> int:
        raise OSError("of no use")

    with monkeypatch.context() as patched:
        patched.setattr("peerfabric.nodes.door.door.peer_uid", fail)
        assert "no whole answer" in processes(30)[0].problem
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "peerfabric-admin-asked":
            raise MemoryError
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(CONNECTIONS_MAX + 1):  # none of them keeps its place
            assert "no whole answer" in processes(30)[0].problem
    assert [r for r in caplog.records if "has failed" in r.message]
    assert processes(30)[0].status is not None


def test_closing_ends_what_is_open(runtime: Path) -> None:
    """A request without an end, and a stream, do not keep the last node from closing."""
    node = Node("a")
    node.statistics()
    held, stream = connected(own(runtime)), follow(os.getpid(), "tap", name="jobs")
    eventually(lambda: len(names()) == 3, "a thread for each")
    began = time.monotonic()
    node.close()
    assert time.monotonic() - began < 20
    assert list(stream) == []
    assert (held.recv(1), held.recv(1)) == (HEARD, b"")
    held.close()
    eventually(lambda: names() == [], "the end of all threads")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_user_gets_nothing(runtime: Path, node: Node) -> None:
    """By the modes of folder and socket; and, where these let him in, by who he is."""
    code = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
    except PermissionError:
        print("no way in")
    else:
        try:
            connection.sendall(b'{"do":"status"}\\n')
        except BrokenPipeError:
            pass
        print(connection.recv(65536).decode())
"""

    def asked() -> str:
        command = [sys.executable, "-S", "-c", code, str(own(runtime))]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert asked() == "no way in"
    path = own(runtime)
    runtime.chmod(0o755)
    path.parent.chmod(0o755)
    path.chmod(0o666)
    assert json.loads(asked())["error"] == "forbidden"
    runtime.chmod(0o700)
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="could have been made by somebody else"):
        processes()
    path.parent.chmod(0o700)


def test_fifty_processes(runtime: Path, start: Start, record_property: Callable[[str, object], None]) -> None:
    """Their sockets are asked at once: here fifty that one process answers for, one of them for ever silent."""
    folder = runtime / FOLDER
    folder.mkdir(mode=0o700)
    listeners = []
    for number in range(50):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"{10**7 + number}-{number}{SUFFIX}"))
        listener.listen(8)
        listeners.append(listener)
    content = b'{"process":{"pid":1,"started":2}}\n'

    def serve() -> None:
        waiting = {each.fileno(): each for each in listeners[1:]}
        while waiting:
            for descriptor in select.select(list(waiting), [], [])[0]:
                connection = waiting.pop(descriptor).accept()[0]
                connection.recv(4096)
                connection.sendall(content)
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    found = processes(0.5)
    thread.join()
    assert [answer.pid for answer in found] == [10**7 + number for number in range(50)]
    assert [answer.status is None for answer in found] == [True] + [False] * 49
    assert "a child of it" in found[0].problem
    for listener in listeners:
        listener.close()
    assert processes() == []
    assert sockets(runtime) == []


def test_the_name_of_a_process_stays_the_same(runtime: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the clock, the status and the socket tell of the same start."""
    [name] = sockets(runtime)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    [answer] = processes()
    assert answer.status is not None
    assert answer.path.name == name == f"{os.getpid()}-{answer.status.process.started}.sock"


def test_who_lives() -> None:
    """A pid alone says nothing: it is used again."""
    mine = started_ms(os.getpid())
    assert mine is not None
    assert lives(os.getpid(), mine)
    assert not lives(os.getpid(), mine - 60_000)
    assert not lives(2**22 + 1, mine)
