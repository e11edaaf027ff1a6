"""The gateway's own processes: the command, workers that die and are started again, the end in order."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from peerfabric import ConfigError, Message, Node
from peerfabric.gateway.main import Address, check_open, listening, own_socket
from peerfabric.gateway.workers import Supervisor, WorkerFailed
from peerfabric.nodes.cli.ui import ui
from tests.gateway.commands import Command, gone
from tests.gateway.conftest import problem
from tests.nodes.conftest import DEADLINE, eventually

PATH = "/v1/queues/orders/messages"


def sent(client: httpx.Client, body: Any, key: str) -> httpx.Response:
    """The answer to an order that is sent until it is accepted, as a client should."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            answer = client.post(PATH, json=body, headers={"idempotency-key": key})
            if answer.status_code not in (409, 503):
                return answer
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(command: Callable[..., Command], tmp_path: Path) -> None:
    """Each order that got its 202 is processed; a key is answered the same by each worker; they end with the first."""
    gate = command("--workers", "2", "--spool", str(tmp_path / "spool")).ready()
    workers = set(gate.workers())
    assert len(workers) == 2
    got: dict[str, list[int]] = {}
    with Node("kitchen") as node, gate.client() as client:

        @node.on_message("orders")
        def process(body: int, message: Message[int]) -> None:
            got.setdefault(message.id, []).append(body)

        answers: dict[int, set[str]] = {}
        for number in range(60):
            if number == 20:
                os.kill(min(workers), signal.SIGKILL)
            answer = sent(client, number, f"order-{number}")
            assert answer.status_code == 202, answer.text
            answers.setdefault(number, set()).add(answer.json()["id"])
        eventually(lambda: len(set(gate.workers()) - {min(workers)}) == 2, "another worker")
        for number in range(60):  # over a connection each, so that each worker is asked
            with gate.client() as other:
                answer = sent(other, number, f"order-{number}")
                assert answer.headers["idempotent-replay"] == "true"
                answers[number].add(answer.json()["id"])
        assert all(len(ids) == 1 for ids in answers.values())
        eventually(lambda: {body for [body] in got.values()} >= set(range(60)), "all orders")
    workers = set(gate.workers())
    gate.process.kill()
    assert "was ended by SIGKILL" in gate.finish()[1]
    gone(list(workers))


def test_one_process_ends_in_order(command: Callable[..., Command], tmp_path: Path) -> None:
    """With what it could not deliver in the spool; the next one has the token of before."""
    gate = command("--spool", str(tmp_path / "spool"), "--read-only").ready()
    assert gate.workers() == []
    with gate.client() as client:
        problem(client.post(PATH, json=1), 403, "read-only")
    token = Path(gate.said["token_file"]).read_text()
    assert gate.end() == (0, "")
    again = command("--spool", str(tmp_path / "spool")).ready()
    assert Path(again.said["token_file"]).read_text() == token
    with again.client() as client:
        assert client.post(PATH, json=1).json()["state"] == "stored"
    again.process.send_signal(signal.SIGINT)
    assert again.finish() == (130, "")


def test_what_cannot_start_says_why_once(command: Callable[..., Command], tmp_path: Path) -> None:
    """And is not started again and again."""
    (tmp_path / "file").write_text("x")
    code, error = command("--workers", "2", "--spool", str(tmp_path / "file")).finish()
    assert code == 5
    assert "cannot start" in error
    for arguments, said in (
        (("--listen", "0.0.0.0:0"), "give --token-file"),
        (("--token-file", str(tmp_path / "nothing")), "No such file"),
    ):
        code, error = command(*arguments).finish()
        assert (code, said in error) == (2, True), error


def test_a_unix_socket_needs_no_token(command: Callable[..., Command], runtime: Path) -> None:
    """It is for this user alone; what a killed process has left is replaced."""
    path = runtime / "gate.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    gate = command("--listen", f"unix:{path}").ready()
    assert gate.said["token_file"] is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any") as client:
        assert client.post(PATH, json=1).status_code == 202
    with Node() as node, node.consumer("orders", int).get(timeout=DEADLINE) as body:
        assert body == 1
    assert gate.end() == (0, "")
    assert not path.exists()


# Parts


def test_who_is_reached_from_elsewhere_is_told_what_that_needs(command: Callable[..., Command], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text("shop:send:>:secret-of-the-shop")
    for hosts, said in ((), ["TLS", "--host"]), (("--host", "gate.example"), ["TLS"]):
        _, error = command("--listen", "0.0.0.0:0", "--token-file", str(tokens), *hosts).ready().end()
        assert [word for word in ("TLS", "--host") if word in error] == said, error
        assert "secret-of" not in error


def test_addresses() -> None:
    for text, local in (
        ("127.0.0.1:7780", True),
        ("[::1]:7780", True),
        ("localhost:80", True),
        ("unix:/a/b", True),
        ("0.0.0.0:7780", False),
        ("*:7780", False),
        ("192.168.1.1:80", False),
        ("shop.example:80", False),
        ("[::]:80", False),
    ):
        address = Address.parse(text)
        assert address.is_local is local, text
        if not local:
            with pytest.raises(ConfigError, match="TLS in front"):
                check_open(address, None)
            check_open(address, "tokens")
    for text in ("", "7780", ":7780", "unix:", "http://127.0.0.1:7780", "127.0.0.1:99999", "::1:80", "a:b"):
        with pytest.raises(ConfigError, match="no address"):
            Address.parse(text)


def test_a_taken_address_is_refused(runtime: Path) -> None:
    sock, address = listening(Address("127.0.0.1", 0))
    with sock, pytest.raises(ConfigError, match="is in use"):
        listening(address)
    held, address = listening(Address("127.0.0.1", 0), workers=2)
    with held:
        own = own_socket(held.dup())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", address.port), DEADLINE)
        own.listen()
        for workers in (1, 2):
            with pytest.raises(ConfigError, match="is in use"):
                listening(address, workers=workers)
        with own, socket.create_connection(("127.0.0.1", address.port), DEADLINE):
            own.settimeout(DEADLINE)
            own.accept()[0].close()
    path = str(runtime / "s")
    sock, _ = listening(Address(path=path))
    with sock, pytest.raises(ConfigError, match="in use"):
        listening(Address(path=path))
    os.unlink(path)


def child(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, sys, time\nready = int(sys.argv[1].split(',')[1])\n{text}"]


def test_a_worker_that_dies_soon_is_started_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that says that no other could start ends all."""
    starts: list[float] = []
    monkeypatch.setattr("peerfabric.gateway.workers.BACKOFF", 0.02)
    with socket.socket() as sock:
        supervisor = Supervisor(child("sys.exit(9 if os.getppid() else 0)"), 1, sock.fileno(), fatal=(7,))
        start = supervisor._start

        def counted(worker: Any) -> None:
            starts.append(time.monotonic())
            if len(starts) == 5:
                supervisor._command = child("sys.exit(7)")
            start(worker)

        monkeypatch.setattr(supervisor, "_start", counted)
        with pytest.raises(WorkerFailed) as failed:
            supervisor.run()
    assert failed.value.code == 7
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert len(waits) == 4
    assert all(waited >= 0.02 * 2**at for at, waited in enumerate(waits))


def test_a_worker_for_which_there_is_no_process_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the system refuses for a moment ends none of the others."""
    tries: list[Any] = []
    really = subprocess.Popen
    monkeypatch.setattr("peerfabric.gateway.workers.BACKOFF", 0.02)

    def refuse_some(*arguments: Any, **options: Any) -> Any:
        tries.append(arguments)
        if len(tries) < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return really(*arguments, **options)

    with socket.socket() as sock:
        supervisor = Supervisor(child("sys.exit(7)"), 1, sock.fileno(), fatal=(7,))
        monkeypatch.setattr(subprocess, "Popen", refuse_some)
        with pytest.raises(WorkerFailed):
            supervisor.run()
    assert len(tries) == 3
    assert caplog.text.count("is tried again") == 2


def test_the_page_is_where_browsers_come() -> None:
    found = CliRunner().invoke(ui, ["--listen", "unix:page.sock"])
    assert isinstance(found.exception, ConfigError)
    assert not Path("page.sock").exists()


def test_without_the_extra_it_says_what_to_install(runtime: Path) -> None:
    """In a program, and as a command."""
    text = """
        import sys
        class Nothing:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("starlette", "uvicorn"):
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Nothing())
        from peerfabric import ConfigError
        try:
            from peerfabric.gateway import Gateway
        except ConfigError as error:
            print(error)
        """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert "pip install 'peerfabric[web]'" in found.stdout
