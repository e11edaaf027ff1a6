"""Lists of peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerfabric.discovery.backends import check_choice
from peerfabric.discovery.base import Candidate, Sighting, Withdrawn
from peerfabric.discovery.resolving import Name, Resolver
from peerfabric.discovery.static import STATIC_PEERS_MAX, StaticBackend, name_of, parse_peers, peers_from_environment
from peerfabric.errors import ConfigError
from tests.discovery.conftest import Recorder, eventually


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
        ("tcp://127.1:4000", "neither an IPv4 address nor the name of a host"),
        ("tcp://10.0.0.256:4000", "neither an IPv4 address nor the name of a host"),
        ("tcp://[10.0.0.1]:4000", "is not an endpoint"),
        ("tcp://[::g]:4000", "is not an endpoint"),
        ("dns:peers.example.org:4000", "takes reach='lan'"),
        ("dns:10.0.0.1:4000", "is not 'dns:', the name"),
        ("dns:peers.example.org", "is not 'dns:', the name"),
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


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ("10.0.0.7:7700", "tcp://10.0.0.7:7700"),
        ("kitchen:7700", "tcp://kitchen:7700"),
        ("[fd00::1]:7700", "tcp://[fd00::1]:7700"),
        ("tcp://10.0.0.7:7700", "tcp://10.0.0.7:7700"),
        ("dns:workers.default.svc:7700", "dns:workers.default.svc:7700"),
        ("ipc:///run/a.inbox", "ipc:///run/a.inbox"),
    ],
)
def test_peers_on_a_lan(peer: str, endpoint: str) -> None:
    """A host and a port say enough there; a name in DNS stands for many."""
    assert parse_peers([peer], "lan") == (endpoint,)


def test_texts_of_a_lan() -> None:
    """They show the forms that it has."""
    with pytest.raises(
        ConfigError, match=r"'kitchen': is not an endpoint; write 'tcp://HOST:7700', 'HOST:7700', 'dns:"
    ):
        parse_peers(["kitchen"], "lan")


def test_names_are_told_from_addresses() -> None:
    """Only names are looked up."""
    assert name_of("tcp://kitchen:7700") == name_of("dns:kitchen:7700") == Name("kitchen", 7700)
    for endpoint in ("tcp://10.0.0.7:7700", "tcp://[fd00::1]:7700", "tcp://[fe80::1%eth0]:1", "ipc:///a:7700"):
        assert name_of(endpoint) is None


def test_peers_that_are_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """They are named when a node starts that does not reach them, in one line; those of this machine are not."""
    near = ["tcp://127.0.0.1:1", "tcp://localhost:2", "tcp://[::1]:3", "ipc:///run/a.inbox"]
    resolver = Resolver(lambda host, port: [])
    StaticBackend(near, resolver=resolver).watch(Recorder())
    far = StaticBackend([*near, "tcp://10.0.0.7:7700"], "lan", resolver)
    far.watch(Recorder())
    assert caplog.messages == []
    StaticBackend([*near, "tcp://10.0.0.7:7700", "tcp://10.0.0.8:7700"], resolver=resolver).watch(Recorder())
    (text,) = caplog.messages
    assert "reach='host': tcp://10.0.0.7:7700, tcp://10.0.0.8:7700; give reach='lan'" in text


def test_localhost_needs_no_look_up() -> None:
    """It is where nodes listen that were told so."""
    recorder = Recorder()
    StaticBackend(["tcp://localhost:2"]).watch(recorder)
    assert recorder.events == [Sighting(seen=Candidate("tcp://127.0.0.1:2"), source="static")]


def test_a_name_leads_elsewhere() -> None:
    """What it leads to now is proposed, and what it no longer leads to withdrawn, unless another name leads there."""
    answers = {"a": ["10.0.0.1", "10.0.0.2"], "b": ["10.0.0.2", "fd00::1"]}
    resolver = Resolver(lambda host, port: answers[host])
    backend, recorder = StaticBackend(["dns:a:1", "dns:b:1"], "lan", resolver, "dns"), Recorder()
    backend.watch(recorder)
    eventually(lambda: len(recorder.events) == 3, "the candidates")
    assert recorder.events == [
        Sighting(seen=Candidate(endpoint), source="dns")
        for endpoint in ("tcp://10.0.0.1:1", "tcp://10.0.0.2:1", "tcp://[fd00::1]:1")
    ]
    backend._leads_to(Name("a", 1), ("tcp://10.0.0.3:1",))
    assert recorder.events[3:] == [
        Sighting(seen=Candidate("tcp://10.0.0.3:1"), source="dns"),
        Withdrawn(endpoint="tcp://10.0.0.1:1", source="dns"),
    ]
    backend.close()


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
    StaticBackend(["tcp://10.0.0.1:1", "ipc:///b"]).watch(recorder)
    assert recorder.events == [
        Sighting(seen=Candidate("tcp://10.0.0.1:1"), source="static"),
        Sighting(seen=Candidate("ipc:///b"), source="static"),
    ]


def test_a_path_that_is_no_unicode() -> None:
    """No frame can tell others of it."""
    with pytest.raises(ConfigError, match=r"is not Unicode; write 'tcp:"):
        parse_peers(["ipc:///tmp/\udcff"])
