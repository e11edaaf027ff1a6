"""What a node may be told, and what stands for None; nothing is opened for it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Node, Options
from peerfabric.nodes.settings import Settings, checked_settings


def settings(**given: Any) -> Settings:
    nothing: dict[str, Any] = {
        "name": None,
        "fabric": None,
        "listen": "auto",
        "peers": (),
        "discovery": "auto",
        "options": None,
        "spool": None,
        "fsync": False,
        "signals": False,
    }
    return checked_settings(**nothing | given)


def test_what_stands_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's name and process, the fabric of the environment, the options' defaults, no spool."""
    monkeypatch.delenv("PEERFABRIC_FABRIC", raising=False)
    monkeypatch.setattr(sys, "argv", ["/srv/my shop.py"])
    found = settings()
    assert found == Settings(
        name=f"my-shop-{os.getpid()}",
        fabric="default",
        listen="auto",
        peers=(),
        discovery="auto",
        options=Options(),
        spool=None,
        fsync=False,
        signals=False,
    )
    monkeypatch.setenv("PEERFABRIC_FABRIC", "tests")
    assert settings().fabric == "tests"
    assert settings(fabric="own").fabric == "own"
    for program in ([], [""], ["..."]):
        monkeypatch.setattr(sys, "argv", program)
        assert settings().name == f"node-{os.getpid()}"


def test_the_spool_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its folder before the node starts finds it there."""
    monkeypatch.chdir(tmp_path)
    assert settings(spool="spool").spool == str(tmp_path / "spool")
    assert settings(spool=Path("spool"), fsync=True).fsync


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"peers": "tcp://127.0.0.1:7700"}, "is one string; give a list"),
        ({"fsync": True}, "needs a spool to sync; give spool=PATH"),
        ({"spool": ""}, "spool='' is no folder"),
        ({"spool": Path("x"), "fabric": "a/b"}, "use letters"),
        ({"listen": "tcp://0.0.0.0:7700"}, r"127\.0\.0\.1"),
        ({"listen": "ipc:///tmp/\udcff"}, "is not Unicode, .* use another path"),
        ({"name": "\udcff"}, "use letters"),
    ],
)
def test_what_cannot_work(given: dict[str, Any], text: str) -> None:
    """Each is refused with what to do."""
    with pytest.raises(ConfigError if "fabric" not in given else ValueError, match=text):
        settings(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"options": {"drain_timeout": 1}},
            "options={'drain_timeout': 1} are no Options; give Options(drain_timeout=…)",
        ),
        ({"options": Options}, "options="),
        ({"spool": True}, "spool=True is no folder; give a path"),
        ({"spool": b"folder"}, "spool=b'folder' is no folder; give a path"),
        ({"fsync": "spool"}, "fsync='spool' is neither True nor False"),
        ({"name": b"shop"}, "node b'shop': is bytes, not str"),
        ({"name": True}, "node True: is bool, not str"),
        ({"name": Path("shop")}, "node PosixPath('shop'): is PosixPath, not str"),
        ({"fabric": b"tests"}, "fabric b'tests': is bytes, not str"),
        ({"fabric": False}, "fabric False: is bool, not str"),
        ({"fabric": ""}, "fabric '': is empty"),
        ({"listen": 7700}, "listen=7700 is no text; use 'auto'"),
        ({"listen": Path("/run/a")}, "listen=PosixPath('/run/a') is no text; use 'auto'"),
        ({"listen": None}, "listen=None is no text; use 'auto'"),
        ({"peers": None}, "peers=None is no list"),
        ({"peers": b"tcp://127.0.0.1:1"}, "peers=b'tcp://127.0.0.1:1' is no list"),
        ({"peers": 7700}, "peers=7700 is no list"),
        ({"peers": [7700]}, "peer 7700 is int, not str"),
        (
            {"peers": ["localhost:7700"]},
            "peer 'localhost:7700': does not say how to reach it; write 'tcp://127.0.0.1:7700'",
        ),
        ({"discovery": True}, "discovery=True is no list; give 'auto', or a list"),
        ({"discovery": None}, "discovery=None is no list; give 'auto', or a list"),
        ({"discovery": b"auto"}, "discovery=b'auto' is no list; give 'auto', or a list"),
        ({"discovery": "statik"}, "discovery 'statik' is not known; use 'auto'"),
        ({"discovery": [7]}, "discovery 7 is not known; use 'auto'"),
    ],
    ids=str,
)
def test_what_is_of_another_type(given: dict[str, Any], text: str) -> None:
    """It is said at construction, by the name of the argument, and not somewhere inside at the start."""
    with pytest.raises(ConfigError) as raised:
        settings(**given)
    assert str(raised.value).startswith(text)


def test_lists_that_are_read_only_once() -> None:
    """A generator has its endpoints and names once."""
    found = settings(peers=(f"tcp://127.0.0.1:{port}" for port in (1, 2)), discovery=iter(["static", "exchange"]))
    assert (found.peers, found.discovery) == (("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), ("static", "exchange"))


SECRET = "pf1-" + "a" * 58


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"reach": "lan"}, r"needs a secret.*peerfabric keygen.*secret='insecure'"),
        ({"reach": "wan"}, "reach='wan' is not known"),
        ({"secret": SECRET}, "is not the secret itself.*'file:PATH'"),
        ({"secret": ["file:a", SECRET]}, "is not the secret itself"),
        ({"secret": ["file:a", "env:A", "env:B"]}, "one source or two, and 3 are given"),
        ({"secret": ["insecure", "file:a"]}, "stands alone"),
        ({"secret": ["file:a", "file:./a"]}, "the same source twice"),
        ({"secret": 7}, "one text or a list of two"),
        ({"secret": ()}, "one source or two, and 0"),
        ({"secret": "file:"}, "not the secret itself"),
        ({"allow": ["0" * 32]}, "need a secret"),
        ({"secret": "file:a", "allow": "0" * 32}, "is one string; give a list"),
        ({"secret": "file:a", "revoked": ["x"]}, "revoked='x' is no node id"),
        ({"interfaces": ["eth0"]}, "give reach='lan'"),
        ({"advertise": ["10.0.0.5"]}, "give reach='lan'"),
        ({"reach": "lan", "secret": "insecure", "advertise": ["router.example"]}, "give numbers"),
        ({"reach": "lan", "secret": "insecure", "advertise": ["0.0.0.0"]}, "give numbers"),
        ({"reach": "lan", "secret": "insecure", "advertise": "10.0.0.5"}, "give a list"),
        ({"reach": "lan", "secret": "insecure", "listen": "ipc:///tmp/a"}, "no place on the LAN"),
        ({"reach": "lan", "secret": "insecure", "listen": "tcp://*:7719-7700"}, "no place on the LAN"),
        ({"reach": "lan", "secret": "insecure", "listen": "tcp://host:7700"}, "no place on the LAN"),
        ({"listen": "tcp://*:7700"}, "let other machines in; give reach='lan'"),
        ({"listen": "tcp://*:7700", "secret": "file:a"}, "let other machines in; give reach='lan'"),
        ({"identity": ""}, "identity='' is no path"),
        ({"config": 7}, "config=7 is no path"),
    ],
)
def test_what_cannot_work_on_a_lan(given: dict[str, Any], text: str) -> None:
    """Each is refused with what to do, and what may be a secret is not repeated, nor in any frame of ours."""
    with pytest.raises(ConfigError, match=text) as raised:
        Node(**given)
    frames = traceback.TracebackException.from_exception(raised.value, capture_locals=True).stack[1:]
    shown = str(raised.value) + "".join(str(frame.locals) for frame in frames)
    assert SECRET not in shown


def test_what_a_node_on_a_lan_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where secrets are, by absolute paths; "insecure" is none."""
    monkeypatch.chdir(tmp_path)
    found = settings(reach="lan", secret=["file:new", "env:OLD"], identity="node.key", listen="tcp://*:7700-7719")
    assert found.secrets == (f"file:{tmp_path / 'new'}", "env:OLD")
    assert found.identity == str(tmp_path / "node.key")
    assert settings(reach="lan", secret="insecure").secrets == ()
    assert settings(secret="file:a").reach == "host"
