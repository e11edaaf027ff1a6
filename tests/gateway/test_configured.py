"""`peerfabric gateway` as a service: it follows the whole configuration, and says what it does when it does it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from peerfabric import ConfigError, Node
from peerfabric.gateway.auth import Origins
from peerfabric.gateway.main import Address, listening
from peerfabric.gateway.problems import Problem
from peerfabric.nodes.cli.common import Settings
from peerfabric.nodes.cli.gateway import Wanted, completed, gateway
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.cli.ui import ui
from tests.gateway.commands import Command
from tests.gateway.conftest import Gate
from tests.nodes.conftest import DEADLINE

SECRET = "secret-of-the-shop"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_text(f"shop:send:>:{SECRET}")
    return str(path)


def test_it_is_the_node_of_its_configuration(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port, spool and name, of variables and of a file; the peer, which only knows that port, gets the message."""
    where = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "node.toml").write_text(
        '[node]\nspool = "orders"\nname = "front"\n[options]\nconsumer_bytes = 1000000\n'
    )
    monkeypatch.setenv("PEERFABRIC_CONFIG", str(tmp_path / "node.toml"))
    monkeypatch.setenv("PEERFABRIC_LISTEN", where)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "not this one"))
    gate = command().ready()
    assert gate.said["spool"] == str(tmp_path / "orders")
    with gate.client() as client:
        assert client.post("/v1/queues/orders/messages", json=1).json()["state"] == "stored"
    monkeypatch.delenv("PEERFABRIC_CONFIG")
    monkeypatch.delenv("PEERFABRIC_LISTEN")
    with Node("kitchen", peers=[where], discovery=["static"]) as node:
        with node.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == 1
        assert [peer.name for peer in node.peers()] == ["front"]
    assert gate.end() == (0, "")


def settings(**options: Any) -> Settings:
    return Settings(**({"fabric": None, "peers": (), "name": None, "output": Form.JSON} | options))


def test_what_one_node_has_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a second worker finds a port in use; with enough ports, and with any, they start."""
    several = Wanted(workers=4)
    monkeypatch.setenv("PEERFABRIC_REACH", "lan")
    monkeypatch.setenv("PEERFABRIC_SECRET", "insecure")
    for listen, step in (
        ("tcp://*:7700", "tcp://*:7700-7715"),
        ("tcp://*:7700-7706", "a range"),
        ("tcp://*:7700-7707", ""),
        ("tcp://*:*", ""),
        ("auto", ""),
        ("ipc:///tmp/gate", "a range"),
    ):
        monkeypatch.setenv("PEERFABRIC_LISTEN", listen)
        completed(settings(), Wanted())
        if step:
            with pytest.raises(ConfigError, match=r"PEERFABRIC_LISTEN is of one node, and 4 workers") as caught:
                completed(settings(), several)
            assert step in str(caught.value)
        else:
            completed(settings(), several)
    monkeypatch.setenv("PEERFABRIC_LISTEN", "auto")
    with pytest.raises(ConfigError, match=r"^--identity is of one node.* or --workers 1$"):
        completed(settings(identity="key"), several)
    monkeypatch.setenv("PEERFABRIC_ADVERTISE", "203.0.113.5")
    completed(settings(), several)
    monkeypatch.setenv("PEERFABRIC_ADVERTISE", "203.0.113.5:7700")
    with pytest.raises(ConfigError, match="without ports"):
        completed(settings(), several)


def test_a_refused_start_says_nothing_else(command: Callable[..., Command], tmp_path: Path, tokens: str) -> None:
    """And a good one that it is ready, also for people."""
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("shop:sned:>:secret-of-the-shop")
    (tmp_path / "file").write_text("")
    for arguments in (
        ("--token-file", str(wrong)),
        ("--token-file", str(tmp_path / "nothing"), "--workers", "2"),
        ("--also-tokens", str(tmp_path / "nothing"), "--also", "a=http://127.0.0.1:1"),
        ("--spool", str(tmp_path / "file")),
    ):
        process = command(*arguments).process
        out, error = process.communicate(timeout=DEADLINE)
        assert (out, error != "") == ("", True)
        assert process.returncode in (2, 5)
    called = [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", "gateway"]
    process = subprocess.Popen(
        [*called, "--token-file", tokens, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        lines = [said.readline().split()[0] for _ in range(4)]
        process.terminate()
    assert lines == ["listening", "no", "tokens:", "ready"]
    assert process.wait(DEADLINE) == 0


def test_who_looks_whether_it_lives_asks_by_any_name(gates: Callable[..., Gate]) -> None:
    """Such as the address of a pod; what tells more asks for the name, and a page of elsewhere gets nothing."""
    for hosts in (["127.0.0.1"], ["0.0.0.0"]):
        client = gates(hosts=hosts).client
        for path in ("/healthz", "/readyz"):
            for host in ("10.1.2.3:7780", "gate.example", "localhost", "[fd00::1]:7780"):
                assert client.get(path, headers={"host": host}).status_code == 200
            assert client.get(path, headers={"origin": "http://evil.example"}).status_code == 403
        for path in ("/openapi.json", "/healthz/", "/v1/status"):
            assert client.get(path, headers={"host": "gate.example"}).status_code == 403


def test_all_addresses_are_those_of_who_listens_at_all() -> None:
    """No name leads to an address, so no page of elsewhere has it as its own; names are still asked for."""

    def lets_in(listen: str, host: str) -> bool:
        try:
            Origins(Address.parse(listen).names(["gate.example"])).check(host, None)
        except Problem:
            return False
        return True

    for listen in ("0.0.0.0:7780", "[::]:7780", "*:7780"):
        for host in ("127.0.0.1:7780", "localhost:7780", "10.1.2.3:7780", "10.1.2.3", "[fd00::1]:7780", "gate.example"):
            assert lets_in(listen, host), (listen, host)
        for host in ("evil.example", "10.1.2.3.evil.example", "1", "0x7f000001", "fd00", ""):
            assert not lets_in(listen, host), (listen, host)
    assert not lets_in("127.0.0.1:7780", "10.1.2.3:7780")
    assert not lets_in("10.1.2.3:7780", "10.1.2.4:7780")


def test_a_taken_address_is_told_with_what_listen_takes(tmp_path: Path) -> None:
    sock, address = listening(Address("127.0.0.1", 0))
    with sock, pytest.raises(ConfigError) as caught:
        listening(address)
    assert str(caught.value) == (
        f"http://127.0.0.1:{address.port} is in use; give another port, or 127.0.0.1:0 for a free one, with --listen"
    )
    path = str(tmp_path / "s")
    sock, _ = listening(Address(path=path))
    with sock, pytest.raises(ConfigError, match=r"s is in use; give another path with --listen$"):
        listening(Address(path=path))


def test_the_help_says_what_they_are_called() -> None:
    assert "gateway]" in CliRunner().invoke(gateway, ["--help"]).output.replace("\n", " ")
    assert "[default: ui]" in CliRunner().invoke(ui, ["--help"]).output
