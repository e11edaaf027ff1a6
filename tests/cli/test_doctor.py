"""`peerfabric doctor`: each cause that keeps nodes apart is named, with a step, and nothing else is a problem."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Node
from peerfabric.nodes.cli.checks import here, host, links, processes
from peerfabric.nodes.cli.checks.situation import (
    Announced,
    Elsewhere,
    Finding,
    LeftInSlot,
    Level,
    Resolved,
    Seen,
    Session,
    Situation,
    Tcp,
)
from peerfabric.nodes.cli.checks.system import RealSystem
from peerfabric.nodes.cli.doctor import CHECKS, examined, show
from peerfabric.nodes.cli.host.door import Heard
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.interfaces import Found
from peerfabric.nodes.settings import Settings
from peerfabric.secret import NodeKey, Secret, new_secret
from peerfabric.status import NodeStatus, Peer, Process, SpoolStatus, Status, Warned
from tests.cli.conftest import DEADLINE, Start, ended
from tests.cli.processes import sending, taking

OURS = new_secret(b"1" * 32)
KEY = NodeKey(b"k" * 32, lambda secret: secret[::-1])
HOST = "net-files"
B = Seen(
    node_id="b" * 32,
    name="b",
    host="other-files",
    inbox=("tcp://10.0.0.2:7700",),
    outbox=("tcp://10.0.0.2:7701",),
    state="up",
    endpoint="tcp://10.0.0.2:7700",
)


class FakeSession:
    """A node that has met whom a test says."""

    def __init__(self, system: FakeSystem) -> None:
        self._system = system
        self.node_id, self.port = "d" * 32, system.session_port

    def peers(self) -> list[Seen]:
        return self._system.met

    def warnings(self) -> list[str]:
        return self._system.warnings

    def round_trips(self, node_id: str, count: int) -> list[float]:
        return [0.001] * (count - self._system.lost)


class FakeSystem:
    """Two hosts in a healthy network: we are 10.0.0.1, `b` is 10.0.0.2, and both know the secret."""

    def __init__(self) -> None:
        self.environ: Mapping[str, str] = {
            "PEERFABRIC_REACH": "lan",
            "PEERFABRIC_SECRET_FILE": "/run/fabric.key",
            "PEERFABRIC_LISTEN": "tcp://*:7700",
            "PEERFABRIC_IDENTITY": "/var/node.key",
        }
        self.host = HOST
        self.addresses = [
            Found("eth0", "10.0.0.1", 24),
            Found("docker0", "172.17.0.1", 16, "a bridge or tunnel; give interfaces=['docker0'] to announce it"),
            Found("lo", "127.0.0.1", 8, "leads to this host only"),
        ]
        self.tcp: dict[str, Tcp] = {}
        self.whys: dict[str, str] = {}
        self.multicast_problem = ""
        self.announcements = Announced(nodes=(B,))
        self.met = [B]
        self.warnings: list[str] = []
        self.lost = 0
        self.names: dict[str, Resolved] = {}
        self.key: NodeKey | None = KEY
        self.session_port = 7700
        self.session_error: Exception | None = None
        self.secret_error: Exception | None = None
        self.curve = True
        self.in_container = ""
        self.files = (65_536, 65_536, 4096)
        process = Process(pid=7, started=1, version="0.2.0", descriptors=30, descriptors_max=1024)
        desk = NodeStatus(node_id="e" * 32, name="desk", fabric="default", state="running")
        self.processes = [Heard(pid=7, started=1, status=Status(process=process, nodes=(desk,)))]
        self.other_folders: list[Elsewhere] = []
        self.jump = 0.0
        self.disks: dict[str, tuple[int, int]] = {}
        self.network_disks: dict[str, str] = {}
        self.left: dict[str, list[LeftInSlot]] = {}

    def at_once(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        return [call() for call in calls]

    def secret(self, source: str) -> Secret:
        if self.secret_error is not None:
            raise self.secret_error
        return OURS

    def node_key(self, settings: Settings) -> tuple[str, NodeKey | None]:
        return settings.identity or "", self.key

    def spool(self, settings: Settings) -> str:
        return ""

    def runtime_folder(self) -> str:
        return "/run/fabric"

    def heard(self) -> list[Heard]:
        return self.processes

    def elsewhere(self) -> list[Elsewhere]:
        return self.other_folders

    def clock_jump(self, pid: int, started_ms: int) -> float:
        return self.jump

    def disk(self, folder: str) -> tuple[int, int]:
        return self.disks.get(folder, (100 << 30, 200 << 30))

    def network_disk(self, folder: str) -> str:
        return self.network_disks.get(folder, "")

    def left_in(self, folder: str) -> list[LeftInSlot]:
        return self.left.get(folder, [])

    def gate(self, secret: Secret, fabric: str) -> bytes:
        return b"g" * 32

    def crypto(self) -> tuple[bool, str]:
        return self.curve, "pyzmq 27, libzmq 4.3.5"

    def interfaces(self, names: Sequence[str]) -> list[Found]:
        return self.addresses

    def container(self) -> str:
        return self.in_container

    def limits(self) -> tuple[int, int, int]:
        return self.files

    def connect(self, endpoint: str) -> Tcp:
        listens = endpoint.endswith((":7700", ":7701"))
        return self.tcp.get(endpoint, Tcp("accepted" if listens else "refused"))

    def resolve(self, host: str) -> Resolved:
        return self.names.get(host, Resolved((host,), 0.0))

    def handshake(self, endpoint: str, key: NodeKey | None, gate: bytes | None) -> str:
        assert self.connect(endpoint).outcome == "accepted"
        return self.whys.get(endpoint, "")

    def multicast(self, address: str) -> str:
        return self.multicast_problem

    def announced(self, settings: Settings, secrets: Sequence[Secret], seconds: float) -> Announced:
        return self.announcements

    def session(self, situation: Situation) -> Session:
        if self.session_error is not None:
            raise self.session_error
        return FakeSession(self)

    def without(self, *variables: str, **more: str) -> None:
        self.environ = {k: v for k, v in self.environ.items() if k not in variables} | more


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    monkeypatch.setattr(links, "LINKED_WITHIN", 0.0)
    for variable in ("PEERFABRIC_FABRIC", "PEERFABRIC_PEERS"):
        monkeypatch.delenv(variable, raising=False)
    return FakeSystem()


def findings(system: FakeSystem, peer: str = "", **options: Any) -> list[Finding]:
    return list(examined(Situation(system=system, peer=peer, **options), CHECKS))


def problems(system: FakeSystem, peer: str = "", **options: Any) -> list[str]:
    """The problems, each with its step in one text."""
    found = [each for each in findings(system, peer, **options) if each.level is Level.PROBLEM]
    assert all(each.step for each in found), found
    return [f"{each.text} → {each.step}" for each in found]


def the_problem(system: FakeSystem, peer: str = "", **options: Any) -> str:
    [text] = problems(system, peer, **options)
    return text


def test_nothing_is_wrong(system: FakeSystem) -> None:
    """Two nodes that work: no problem, and what was not looked at is said."""
    found = findings(system)
    assert [each for each in found if each.level in (Level.PROBLEM, Level.NOTE)] == []
    texts = " | ".join(each.text for each in found)
    assert f"key id {OURS.key_id('default')}" in texts
    assert KEY.node_id in texts
    assert "b (" + "b" * 32 + ") is linked" in texts
    assert "p50 1.0 ms, p99 1.0 ms, 0 of 100 lost" in texts
    assert found[-1].level is Level.UNCHECKED


# The causes of lan.md that a new user meets


def test_a_wrong_secret(system: FakeSystem) -> None:
    """By multicast: the other key id is named; by an address: the handshake is closed."""
    system.announcements = Announced(keys={"deadbeef": 2})
    system.met = []
    text = the_problem(system)
    assert "2 nodes have another secret or another fabric: key id deadbeef, ours " + OURS.key_id("default") in text
    assert "peerfabric id" in text
    system.announcements = Announced()
    system.whys = {"tcp://10.0.0.2:7700": "secret"}
    text = the_problem(system, "10.0.0.2:7700")
    assert "closes the handshake: another secret or fabric" in text
    assert "compare `peerfabric id`" in text


@pytest.mark.parametrize(
    ("outcome", "text", "step"),
    [
        ("refused", "nobody listens there, or a firewall rejects it", "open TCP 7700 in the firewall of 10.0.0.2"),
        ("silent", "a firewall drops it, or the way there is cut", "open TCP 7700 in the firewall of 10.0.0.2"),
        ("unreachable", "cannot be reached: No route to host", "look at address, cable and routes"),
    ],
)
def test_a_closed_port(system: FakeSystem, outcome: str, text: str, step: str) -> None:
    """REJECT, DROP and no route look different, and are named so."""
    system.tcp = {"tcp://10.0.0.2:7700": Tcp(outcome, "No route to host")}
    system.met, system.announcements = [], Announced()
    found = the_problem(system, "10.0.0.2:7700")
    assert text in found
    assert step in found


def test_a_firewall_that_lets_multicast_pass(system: FakeSystem) -> None:
    """Announced, and refused: that is no node that is not there."""
    system.tcp = {"tcp://10.0.0.2:7700": Tcp("refused")}
    system.met = []
    assert "refuses and is announced: a firewall rejects it" in the_problem(system)


def test_no_multicast(system: FakeSystem) -> None:
    """What leaves does not come back, or nobody is heard: both name a peer as the step."""
    system.announcements, system.met = Announced(), []
    text = " ".join(problems(system))
    assert "no other node was heard by multicast" in text
    assert "PEERFABRIC_PEERS=HOST:7700" in text
    system.multicast_problem = "nothing within 3 s"
    text = " ".join(problems(system))
    assert "what leaves by 10.0.0.1 for 224.0.0.251, port 5353, does not come back: nothing within 3 s" in text
    system.without(PEERFABRIC_PEERS="tcp://10.0.0.2:7700")
    system.met = [B]
    assert problems(system) == []


def test_a_container(system: FakeSystem) -> None:
    """Its network passes no multicast: said before anything is tried."""
    system.in_container = "/.dockerenv is there"
    [note] = [each for each in findings(system) if each.level is Level.NOTE]
    assert "this is a container (/.dockerenv is there)" in note.text
    assert "dns:NAME:7700" in note.step


def test_two_bridges_with_one_address(system: FakeSystem) -> None:
    """172.17.0.1 of another host leads back here; so do those that we tell others."""
    system.announcements = Announced(
        nodes=(Seen(node_id="b" * 32, name="b", host="x-y", inbox=("tcp://172.17.0.1:7700",)),)
    )
    system.met = []
    text = problems(system)[0]
    assert "tcp://172.17.0.1:7700 of b is an address of this host, too (docker0), so it leads back here" in text
    assert "leave the bridge out of interfaces=" in text
    system = FakeSystem()
    system.addresses[1] = Found("docker0", "172.17.0.1", 16)
    assert "172.17.0.1 is that of docker0, and other hosts with containers have the same" in the_problem(system)
    system = FakeSystem()
    system.met = [Seen(node_id="b" * 32, name="b", state="connecting", reason="not-me", endpoint="tcp://10.0.0.2:7700")]
    assert "at tcp://10.0.0.2:7700 is another node than b" in the_problem(system)


def test_a_closed_outbox(system: FakeSystem) -> None:
    """Queues work, topics do not; the port is named."""
    system.tcp = {"tcp://10.0.0.2:7701": Tcp("silent")}
    text = the_problem(system)
    assert "outbox tcp://10.0.0.2:7701 of b does not answer (silent): queues work, its topics do not" in text
    assert "open TCP 7701 as well in the firewall of 10.0.0.2" in text


def test_one_side_in_the_clear(system: FakeSystem) -> None:
    """Whichever it is."""
    system.met, system.announcements = [], Announced()
    system.whys = {"tcp://10.0.0.2:7700": "mechanism"}
    assert "is in the clear, and this node has a secret" in the_problem(system, "10.0.0.2:7700")
    system.without("PEERFABRIC_SECRET_FILE", PEERFABRIC_SECRET="insecure")
    assert "wants a secret, and this node has none" in the_problem(system, "10.0.0.2:7700")
    system.whys, system.met = {}, []
    system.announcements = Announced(keys={"deadbeef": 1})
    assert "1 nodes have a secret, and this one has none" in the_problem(system)


def test_a_resolver_that_does_not_answer(system: FakeSystem) -> None:
    """The name and the time; a slow one is only noted."""
    system.without(PEERFABRIC_PEERS="tcp://shop.lan:7700")
    system.names = {"shop.lan": Resolved((), 6.0, "no answer")}
    text = the_problem(system)
    assert "the name 'shop.lan' leads nowhere: no answer after 6.0 s" in text
    assert "/etc/resolv.conf" in text
    system.names = {"shop.lan": Resolved(("10.0.0.2",), 5.1)}
    [note] = [each for each in findings(system) if each.level is Level.NOTE]
    assert note.text == "resolving 'shop.lan' took 5.1 s"


def test_they_cannot_reach_us(system: FakeSystem) -> None:
    """Our dial works, theirs does not: the port is ours to open. One that another process has is not ours to judge."""
    system.met = []
    text = the_problem(system, "10.0.0.2:7700")
    assert "says no hello: it cannot reach port 7700 here" in text
    assert "open TCP 7700 in the firewall of this host, or set advertise=" in text
    system.session_port = 40_000
    [note] = [each for each in findings(system, "10.0.0.2:7700") if each.level is Level.NOTE]
    assert "port 7700 is in use" in note.text
    assert "40000" not in f"{note.text} {note.step}"
    system.without("PEERFABRIC_LISTEN")
    text = the_problem(system, "10.0.0.2:7700")
    assert "it cannot reach this node, or one of the two does not let the other in → give listen=" in text
    assert "40000" not in text


def test_a_node_that_is_heard_and_not_reached(system: FakeSystem) -> None:
    """Its own port is in the way, and said once."""
    system.met = [Seen(node_id="b" * 32, name="b", state="one-way", inbox=B.inbox, endpoint=B.endpoint)]
    text = the_problem(system)
    assert "reaches this node, and does not hear it at tcp://10.0.0.2:7700 → open TCP 7700" in text
    assert "firewall of 10.0.0.2" in text
    system.tcp = {"tcp://10.0.0.2:7700": Tcp("silent")}
    assert "a firewall drops it" in the_problem(system)


def test_who_may_not_come_in_is_named_as_a_cause(system: FakeSystem) -> None:
    """A node that is revoked says no hello, as one behind a firewall does."""
    system.met = []
    assert "take the other's id out of revoked=, or into allow=" in the_problem(system, "10.0.0.2:7700")


def test_a_command_that_has_just_ended(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is announced and refuses, and a moment later is not announced: no problem."""
    command = Seen(node_id="c" * 32, name="c", host="x-y", inbox=("tcp://10.0.0.3:40001",))
    looks = [Announced(nodes=(B, command)), Announced(nodes=(B,))]
    monkeypatch.setattr(system, "announced", lambda *_: looks.pop(0))
    assert problems(system) == []
    assert looks == []
    looks = [Announced(nodes=(B, command)), Announced(nodes=(B,))]
    assert "refuses: nobody listens there" in the_problem(system, "10.0.0.3:40001")


def test_an_outbox_is_named_by_mistake(system: FakeSystem) -> None:
    """Its port is the inbox's and one."""
    system.met, system.announcements = [], Announced()
    system.whys = {"tcp://10.0.0.2:7701": "secret"}
    text = the_problem(system, "10.0.0.2:7701")
    assert "tcp://10.0.0.2:7701 looks like the outbox of a node" in text
    assert "name the inbox instead: 10.0.0.2:7700" in text


def test_strangers_beside_a_node_of_this_host(system: FakeSystem) -> None:
    """Our own node on this host proves no secret right; one on another host does."""
    here = Seen(node_id="c" * 32, name="c", host="net-x", inbox=("tcp://10.0.0.1:7700",), state="up")
    system.announcements = Announced(nodes=(here,), keys={"deadbeef": 1})
    system.met = [here]
    text = the_problem(system)
    assert "1 nodes have another secret or another fabric: key id deadbeef" in text
    assert "file:/run/fabric.key" in text
    system.announcements = Announced(nodes=(here,), keys={"-": 1})
    assert "file:/run/fabric.key" in the_problem(system)
    system.met = [here, B]
    assert problems(system) == []


def test_a_wrong_clock_is_a_remark(system: FakeSystem) -> None:
    """Nothing depends on it but what people read."""
    system.met = [Seen(node_id="b" * 32, name="b", state="up", inbox=B.inbox, endpoint=B.endpoint, ahead=-3600.0)]
    [note] = [each for each in findings(system) if each.level is Level.NOTE]
    assert "the clock of b is 3,600 s behind ours" in note.text
    assert "timedatectl" in note.step


# This host


def test_a_configuration_that_cannot_be_used(system: FakeSystem, tmp_path: Path) -> None:
    """It is a finding, and what does not need it is still looked at."""
    path = tmp_path / "node.toml"
    path.write_text("[node]\nlisen = 'x'")
    found = findings(system, path=str(path))
    assert (found[0].level, found[0].step) == (Level.PROBLEM, "did you mean listen?")
    assert any(each.check == "libzmq" for each in found)
    system.without("PEERFABRIC_SECRET_FILE")
    assert "needs a secret" in the_problem(system)
    system = FakeSystem()
    system.secret_error = ConfigError("secret='file:/run/fabric.key': others may use it (mode 0644); chmod 600")
    system.announcements, system.met = Announced(keys={OURS.key_id("default"): 1}), []
    assert "others may use it (mode 0644) → chmod 600" in the_problem(system)
    assert any("since the secret cannot be used" in each.text for each in findings(system))


def test_variables_that_mean_nothing(system: FakeSystem) -> None:
    """A near miss is noted; what Kubernetes sets for a service called peerfabric is not."""
    system.without(PEERFABRIC_PEER="10.0.0.2:7700", PEERFABRIC_PORT="tcp://10.0.0.9:7700", PEERFABRIC_RUNTIME="/run/x")
    [note] = [each for each in findings(system) if each.level is Level.NOTE]
    assert (note.text, note.step) == ("the variable PEERFABRIC_PEER means nothing", "did you mean PEERFABRIC_PEERS?")


def test_a_node_of_this_machine_only(system: FakeSystem) -> None:
    """A remark, and a problem once it is asked about another machine."""
    system.environ = {}
    system.met = [Seen(node_id="b" * 32, name="b", state="up", endpoint="ipc:///run/b")]
    assert problems(system) == []
    assert any(each.text == "this node talks to this machine only" for each in findings(system))
    assert "PEERFABRIC_REACH=lan" in " ".join(problems(system, "10.0.0.2:7700"))


def test_no_address(system: FakeSystem) -> None:
    """Nothing that others could be told; the interfaces that were left out are named."""
    system.addresses = system.addresses[1:]
    assert "no address that others could be told → give interfaces=['docker0']" in problems(system)[0]


def test_own_ports(system: FakeSystem) -> None:
    """Nobody listens there yet, or on loopback only, or the second one not."""
    system.tcp = {f"tcp://{a}:{p}": Tcp("refused") for a in ("127.0.0.1", "10.0.0.1") for p in (7700, 7701)}
    notes = [each.text for each in findings(system) if each.level is Level.NOTE]
    assert notes == [
        f"nobody listens at port {p} ({w}) of this host now" for p, w in ((7700, "inbox"), (7701, "outbox"))
    ]
    system.tcp = {"tcp://10.0.0.1:7700": Tcp("refused")}
    assert "port 7700 (inbox) works at 127.0.0.1, and not at 10.0.0.1 (refused)" in the_problem(system)


def test_a_copy_of_this_node(system: FakeSystem) -> None:
    """The same id, announced from another host; from this one it is the node itself."""
    copy = Seen(node_id=KEY.node_id, name="b", host="other-files", inbox=("tcp://10.0.0.3:7700",))
    system.announcements = Announced(nodes=(B, copy))
    assert "another copy of this node" in the_problem(system)
    here = Seen(node_id=KEY.node_id, name="b", host="net-container", inbox=("tcp://10.0.0.1:7700",))
    system.announcements = Announced(nodes=(B, here))
    assert problems(system) == []


def test_limits_and_libraries(system: FakeSystem) -> None:
    """Few files are noted; without CURVE no secret can be used."""
    system.files = (1024, 4096, 128)
    assert [each.check for each in findings(system) if each.level is Level.NOTE] == ["limits", "limits"]
    system.curve = False
    assert "built without CURVE" in the_problem(system)


# Peers


def test_who_may_not_come_in(system: FakeSystem) -> None:
    """Our id goes into the list over there; without a key of ours a new id was tried."""
    system.met = []
    system.whys = {"tcp://10.0.0.2:7700": "denied"}
    assert f"does not let node {KEY.node_id} in → add that id to [access] allow" in the_problem(system)
    system.key = None
    assert "this command came under a new id → give the key of a node that is let in" in the_problem(system)


def test_a_process_that_hangs(system: FakeSystem) -> None:
    """It accepts, and that is all; or it was met, and does not answer."""
    system.met, system.whys = [], {"tcp://10.0.0.2:7700": "silent"}
    assert "accepts, and does not shake hands" in the_problem(system)
    system.whys = {}
    system.met = [Seen(node_id="b" * 32, name="b", state="hung", inbox=B.inbox)]
    assert "its process is stopped or hangs" in the_problem(system)


def test_one_address_of_several_is_enough(system: FakeSystem) -> None:
    """The others are noted."""
    two = Seen(node_id="b" * 32, name="b", host="x-y", inbox=("tcp://10.9.0.2:7700", "tcp://10.0.0.2:7700"))
    system.announcements = Announced(nodes=(two,))
    system.tcp = {"tcp://10.9.0.2:7700": Tcp("unreachable", "Network is unreachable")}
    assert problems(system) == []
    assert any("10.9.0.2" in each.text for each in findings(system) if each.level is Level.NOTE)


def test_a_peer_by_name(system: FakeSystem) -> None:
    """Only it is looked at; one that nobody has heard of is a problem."""
    system.announcements = Announced(
        nodes=(B, Seen(node_id="c" * 32, name="c", host="x-y", inbox=("tcp://10.0.0.3:7700",)))
    )
    assert problems(system, "b") == []
    assert not any("10.0.0.3" in each.text for each in findings(system, "b"))
    text = the_problem(system, "nobody")
    assert "no node of that name or id is known, 'nobody'; known: b, c" in text
    system.announcements, system.met = Announced(), []
    assert "'nobody'; known: nobody → " in problems(system, "nobody")[-1]


def test_messages_are_lost(system: FakeSystem) -> None:
    """Some of a hundred questions without an answer."""
    system.lost = 20
    assert "20 of 100 lost → frames are lost between these hosts" in the_problem(system)
    system.lost = 100
    assert "answers none of 100 questions" in the_problem(system)


def test_a_start_that_fails(system: FakeSystem) -> None:
    """The self-test of the keys, for one; what the node logs is noted."""
    system.session_error = ConfigError("the self-test of the keys failed: tcp://x lets a stranger in; install pyzmq")
    assert "lets a stranger in → install pyzmq" in the_problem(system)
    system = FakeSystem()
    system.warnings = [
        "b refused this node: it is in another fabric; give both nodes the same fabric=",
        "mdns: nodes here have another secret; if they should meet, ask `peerfabric doctor`",
    ]
    [note] = [each for each in findings(system) if each.level is Level.NOTE]
    assert (note.text, note.step) == (
        "b refused this node: it is in another fabric",
        "give both nodes the same fabric=",
    )


def test_a_check_that_fails_ends_no_other(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a problem itself."""

    def broken() -> Any:
        raise OSError("no /proc here")

    monkeypatch.setattr(system, "limits", broken)
    assert "cannot be checked: no /proc here" in the_problem(system)


def test_what_peers_say_cannot_talk_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither on a line for people nor on one for programs."""
    finding = Finding(check="links", level=Level.NOTE, text="b\x1b[2J\nfine", step="look\r")
    show(finding, Form.TABLE)
    show(finding, Form.JSON)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note        links: b\\x1b[2J\\nfine"
    assert lines[1].strip() == "→ look\\r"
    assert json.loads(lines[2]) == {"check": "links", "level": "note", "text": "b\x1b[2J\nfine", "step": "look\r"}
    assert "\x1b" not in "".join(lines)


# The command


def test_on_this_machine(start: Start) -> None:
    """Nobody is there: exit code 1 with a step; findings are objects for programs."""
    code, out, err = ended(start("doctor", "-o", "json"))
    assert (code, err) == (1, "")
    found = [json.loads(line) for line in out.splitlines()]
    problems = [each["check"] for each in found if each["level"] == "problem"]
    assert [check for check in problems if check != "runtime folder"] == ["links"]  # other tests run here, too


def test_of_an_unusable_configuration(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is wrong, and does not fail itself."""
    monkeypatch.setenv("PEERFABRIC_CONFIG", "/nowhere/node.toml")
    code, out, err = ended(start("doctor"))
    assert (code, err) == (1, "")
    assert "PROBLEM     configuration: configuration /nowhere/node.toml: No such file" in out


def test_beside_the_node_of_this_host(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unused_port: int
) -> None:
    """With its environment: its port, its key and its spool stay with it, and it goes on."""
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nreach = "lan"\nsecret = "insecure"\nlisten = "tcp://*:{unused_port}"\nidentity = "node.key"\n'
        'spool = "spool"\nname = "billing"\ndiscovery = ["registry", "exchange"]\nfabric = "cli"\n'
    )
    monkeypatch.setenv("PEERFABRIC_CONFIG", str(file))
    with Node() as node:
        node_id = node.statistics().node_id
        _, out, err = ended(start("doctor", "-o", "json"))
        found = [json.loads(line) for line in out.splitlines()]
        assert err == ""
        [ours] = [each["text"] for each in found if each["check"] == "node"]
        assert "a node of this fabric starts here" in ours
        assert node_id not in ours
        assert any(f"billing ({node_id}) is linked" in each["text"] for each in found)
        assert any("is in use by process" in each["text"] for each in found)
        assert node.statistics().node_id == node_id


@pytest.fixture
def unused_port() -> int:
    """The first of two ports that nobody uses."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


# Processes of this host


def of_host(system: FakeSystem, *checks_wanted: str) -> list[Finding]:
    """What is found of processes, nodes and spools."""
    situation = Situation(system=system, arguments={"fabric": "default"})
    found = list(examined(situation, (here.configuration, processes.processes, processes.nodes, processes.spools)))
    return [each for each in found if each.check in checks_wanted]


def desk(**fields: Any) -> NodeStatus:
    return NodeStatus(node_id="e" * 32, name="desk", fabric="default", state="running", **fields)


def with_nodes(*nodes: NodeStatus, **process: Any) -> Heard:
    status = Status(process=Process(pid=7, started=1, version="0.2.0", **process), nodes=nodes)
    return Heard(pid=7, started=1, status=status, name="desk")


def test_a_relative_runtime_folder(system: FakeSystem) -> None:
    """Where it is depends on who starts a node."""
    system.without(PEERFABRIC_RUNTIME="run")
    [found] = of_host(system, "runtime folder")
    assert (found.level, "PEERFABRIC_RUNTIME=run is relative" in found.text) == (Level.PROBLEM, True)
    assert found.step.endswith("/run")
    system.without(PEERFABRIC_RUNTIME="/run/shop")
    assert of_host(system, "runtime folder") == []


def test_processes_that_cannot_be_seen() -> None:
    """Another runtime folder is a problem where it has nodes of our fabric; so is one that does not answer."""
    system = FakeSystem()
    system.other_folders = [
        Elsewhere("/tmp/peerfabric-0", (8, 9), frozenset({"default"})),
        Elsewhere("/run/other", (10,), frozenset({"another"})),
    ]
    system.processes.append(Heard(pid=11, started=1, status=None, problem="no answer in 1 s", name="python"))
    same, other = of_host(system, "runtime folder")
    _, silent = of_host(system, "processes")
    assert (same.level, other.level, silent.level) == (Level.PROBLEM, Level.NOTE, Level.PROBLEM)
    assert "processes 8, 9 meet others in /tmp/peerfabric-0" in same.text
    assert "they have nodes of fabric" in same.text
    assert "process 10 meets others in /run/other" in other.text
    assert "process 11 (python): no answer" in silent.text
    assert "kill -CONT 11" in silent.step
    system.processes = []
    assert [each.level for each in of_host(system, "processes")] == [Level.NOTE]


def test_processes_that_differ() -> None:
    """Two versions, descriptors that run out, and a clock that was set."""
    system = FakeSystem()
    old = Status(process=Process(pid=8, started=1, version="0.1.0", descriptors=900, descriptors_max=1024))
    system.processes.append(Heard(pid=8, started=1, status=old))
    system.jump = -3600.0
    found = {each.check: each for each in of_host(system, "versions", "descriptors", "clocks")}
    assert "0.2.0 (7), 0.1.0 (8)" in found["versions"].text
    assert (found["descriptors"].level, "900" in found["descriptors"].text) == (Level.PROBLEM, True)
    assert "set by -3600 s" in found["clocks"].text


def test_nodes_that_do_not_meet() -> None:
    """Of another fabric, refused, one-way, stuck, or under a name that is nearly the same."""
    system = FakeSystem()
    peers = (
        Peer(node_id="1", name="shop", state="connecting", reason="secret"),
        Peer(node_id="2", name="bar", state="one-way"),
        Peer(node_id="3", name="good", state="up"),
        Peer(node_id="4", name="also-good", state="idle"),
    )
    system.processes = [
        with_nodes(
            desk(peers=peers, sends=(sending("orders"),), takes=(taking("order"), taking("other"))),
            NodeStatus(node_id="f", name="stuck", fabric="default", engine="busy 1.0 s", pump_late=4.0),
            NodeStatus(node_id="g", name="far", fabric="another"),
        )
    ]
    found = of_host(system, "fabrics", "peers", "nodes", "names")
    texts = [each.text for each in found]
    assert texts[0] == "node far of this host: fabric 'another', which does not meet 'default'"
    assert [each.check for each in found] == ["fabrics", "peers", "peers", "nodes", "nodes", "names"]
    assert "no link with shop (connecting): it has another secret or fabric" in texts[1]
    assert texts[-1] == "'orders' is sent to and nobody consumes it; 'order' is consumed and nobody sends to it"
    system.processes = [with_nodes(desk(warnings=(Warned(code="old", text="the oldest waits; start more"),)))]
    [warned] = of_host(system, "warnings")
    assert (warned.text, warned.step) == ("node desk: the oldest waits", "start more")


def test_spools_of_running_nodes() -> None:
    """Their disk, their limit, and slots that nobody has with something in them."""
    system = FakeSystem()
    system.processes = [
        with_nodes(desk(spool=SpoolStatus(folder="/var/shop", slot=0, used=90, limit=100, spare_ok=False)))
    ]
    assert [each.level for each in of_host(system, "spool")][:1] == [Level.OK]
    system.left = {
        "/var/shop": [LeftInSlot(1, messages=3), LeftInSlot(2, letters=1), LeftInSlot(3, child="a child has it")]
    }
    system.disks = {"/var/shop": (10 << 20, 100 << 30)}
    system.network_disks = {"/var/shop": "nfs4"}
    texts = [each.text for each in of_host(system, "spool", "disk")]
    for part in ("is on nfs4", "10M of 100G are free", "slot 1: nobody has it, and 3 messages", "1 dead letter",
                 "slot 3: a child has it", "90 of 100 are used", "keeps free"):  # fmt: skip
        assert any(part in text for text in texts), part


def test_this_host_for_real(tmp_path: Path) -> None:
    """What the system of this machine says of a spool, a disk, and the clock."""
    with Node("desk", spool=str(tmp_path / "spool")) as node:
        node.producer("orders", int)
        assert host.left_in(str(tmp_path / "spool")) == []
        [me] = [each for each in RealSystem().heard() if each.pid == os.getpid()]
        assert abs(host.clock_jump(me.pid, me.started)) < 2.0
        node.producer("orders", int).send(1)
        node.close(timeout=0)
    assert host.left_in(str(tmp_path / "spool")) == [LeftInSlot(0, messages=1)]
    free, size = host.disk(str(tmp_path))
    assert 0 < free <= size
    assert host.disk("/nowhere") == (0, 0)


FAR = """
import sys
from peerfabric import Node
with Node("far") as node:
    node.peers()
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_process_with_another_runtime_folder_is_found(tmp_path: Path) -> None:
    """By the environment that it was started with, and its socket there."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", FAR],
            env=os.environ | {"PEERFABRIC_RUNTIME": folder, "PEERFABRIC_FABRIC": "far"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            found = {each.folder: each for each in host.elsewhere()}
            assert found[folder] == Elsewhere(folder, (process.pid,), frozenset({"far"}))
        finally:
            process.communicate("", timeout=DEADLINE)
