"""Admin socket of a process: it is there while a node runs, answers, costs nothing else, and lets nobody else in."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from peerfabric.admin import processes
from peerfabric.nodes.door.place import FOLDER, started_ms
from tests.nodes.conftest import Front

NODE = """
    import sys
    from peerfabric import Node
    with Node("it", **eval(sys.argv[1] if len(sys.argv) > 1 else "{}")) as node:
        node.statistics()
        print("ready", flush=True)
        sys.stdin.readline()
    """


def sockets(runtime: Path) -> list[str]:
    folder = runtime / FOLDER
    return sorted(os.listdir(folder)) if folder.exists() else []


def raw(path: Path, request: bytes, *, half_close: bool = True) -> bytes:
    """What comes of these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        try:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        found = b""
        try:
            while data := connection.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


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
