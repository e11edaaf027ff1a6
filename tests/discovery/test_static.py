"""Lists of peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerfabric.discovery.backends import check_choice
from peerfabric.discovery.base import Candidate, Sighting
from peerfabric.discovery.static import STATIC_PEERS_MAX, StaticBackend, parse_peers, peers_from_environment
from peerfabric.errors import ConfigError
from tests.discovery.conftest import Recorder


@pytest.mark.parametrize(
    ("peers", "endpoints"),
    [
        ((), ()),
        ("", ()),
        ("tcp://a:1", ("tcp://a:1",)),
        ("tcp://a:1,tcp://b:2  tcp://c:3 ,\n", ("tcp://a:1", "tcp://b:2", "tcp://c:3")),
        (["tcp://127.0.0.1:4000", " tcp://127.0.0.1:4000 "], ("tcp://127.0.0.1:4000",)),
        (["tcp://db-1.example.org:65535"], ("tcp://db-1.example.org:65535",)),
        (["tcp://[::1]:4000", "tcp://[fe80::1%eth0]:1"], ("tcp://[::1]:4000", "tcp://[fe80::1%eth0]:1")),
        (["ipc:///run/a.inbox"], ("ipc:///run/a.inbox",)),
    ],
)
def test_peers_are_parsed(peers: str | list[str], endpoints: tuple[str, ...]) -> None:
    """Each endpoint once, in order, in its full form."""
    assert parse_peers(peers) == endpoints


@pytest.mark.parametrize(
    ("peer", "problem"),
    [
        ("kitchen", "is not an endpoint"),
        ("a:", "is not an endpoint"),
        (":4000", "is not an endpoint"),
        ("a:b", "is not an endpoint"),
        ("a:٣", "is not an endpoint"),
        ("udp://a:1", "is not an endpoint"),
        ("tcp://*:4000", "is not an endpoint"),
        ("::1:4000", "is not an endpoint"),
        ("localhost:4000", "does not say how to reach it"),
        ("127.0.0.1:4000", "does not say how to reach it"),
        ("tcp://a:0", "between 1 and 65535"),
        ("tcp://a:65536", "between 1 and 65535"),
        ("tcp://0.0.0.0:4000", "to listen on"),
        ("tcp://[::]:4000", "to listen on"),
        ("ipc://a", "not absolute"),
        ("ipc:///" + "a" * 107, "longer than 107"),
        ("a" * 300 + ":1", "longer than 255"),
        ("dns:peers.example.org:4000", "not available yet"),
    ],
)
def test_what_cannot_work_is_refused(peer: str, problem: str) -> None:
    """The text names the peer, the problem and what to write."""
    with pytest.raises(ConfigError, match=rf"{problem}.*; write 'tcp://127\.0\.0\.1:7700'"):
        parse_peers([peer])


@pytest.mark.parametrize("peer", [7700, b"tcp://127.0.0.1:7700", Path("/run/a.inbox"), None, ["tcp://127.0.0.1:7700"]])
def test_what_is_no_text_is_refused(peer: Any) -> None:
    """A list holds texts."""
    with pytest.raises(ConfigError, match=f"is {type(peer).__name__}, not str; write 'tcp://"):
        parse_peers(["tcp://127.0.0.1:7701", peer])


def test_peers_that_are_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """They are named when the node starts, in one line; those of this machine are not."""
    near = ["tcp://127.0.0.1:1", "tcp://localhost:2", "tcp://[::1]:3", "ipc:///run/a.inbox"]
    StaticBackend(near).watch(Recorder())
    assert caplog.messages == []
    StaticBackend([*near, "tcp://10.0.0.7:7700", "tcp://kitchen:7700"]).watch(Recorder())
    (text,) = caplog.messages
    assert "cannot be reached by this version: tcp://10.0.0.7:7700, tcp://kitchen:7700; " in text


def test_too_many_peers_are_refused() -> None:
    """A list that long is a mistake."""
    with pytest.raises(ConfigError, match="list a few"):
        parse_peers(f"tcp://a:{port}" for port in range(1, STATIC_PEERS_MAX + 2))


def test_environment_holds_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas or spaces; not set means none."""
    assert peers_from_environment() == ()
    monkeypatch.setenv("PEERFABRIC_PEERS", "tcp://a:1, tcp://b:2")
    assert peers_from_environment() == ("tcp://a:1", "tcp://b:2")


def test_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mistakes are told from those of the program, when the node is made, also beside other peers."""
    monkeypatch.setenv("PEERFABRIC_PEERS", "localhost:1")
    with pytest.raises(ConfigError, match=r"\$PEERFABRIC_PEERS: peer 'localhost:1': does not say"):
        check_choice("auto", ["tcp://127.0.0.1:1"])


def test_each_endpoint_is_reported_once() -> None:
    """During the call: nothing has to be waited for."""
    recorder = Recorder()
    StaticBackend("tcp://a:1 tcp://b:2").watch(recorder)
    assert recorder.events == [
        Sighting(seen=Candidate("tcp://a:1"), source="static"),
        Sighting(seen=Candidate("tcp://b:2"), source="static"),
    ]


def test_a_path_that_is_no_unicode() -> None:
    """No frame can tell others of it."""
    with pytest.raises(ConfigError, match=r"is not Unicode; write 'tcp:"):
        parse_peers(["ipc:///tmp/\udcff"])
