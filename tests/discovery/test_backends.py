"""Choosing backends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peerfabric.discovery.backends import build_backends
from peerfabric.errors import ConfigError


def names(**options: object) -> list[str]:
    return [backend.name for backend in build_backends(fabric="tests", **options)]  # type: ignore[arg-type]


def test_auto_is_what_works_on_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static peers join if there are any, given or in the environment."""
    assert names() == ["registry", "exchange"]
    assert names(peers=["tcp://a:1"]) == ["registry", "static", "exchange"]
    monkeypatch.setenv("PEERFABRIC_PEERS", "tcp://a:1")
    assert names() == ["registry", "static", "exchange"]


def test_auto_on_a_lan(tmp_path: Path) -> None:
    """Whatever may find somebody; DNS if there is a name to look up, memory if there is a folder for it."""
    lan: dict[str, Any] = {"reach": "lan"}
    assert names(**lan) == ["registry", "mdns", "exchange"]
    every = ["registry", "static", "dns", "remembered", "mdns", "exchange"]
    assert names(**lan, peers=["kitchen:1", "dns:workers:1"], folder=tmp_path) == every
    assert names(**lan, peers=["dns:workers:1"]) == ["registry", "dns", "mdns", "exchange"]


def test_memory_needs_a_folder(tmp_path: Path) -> None:
    """If it is asked for by name."""
    assert names(discovery=("remembered",), folder=tmp_path) == ["remembered"]
    with pytest.raises(ConfigError, match="give spool=PATH or identity=PATH"):
        names(discovery=("remembered",))


def test_names_choose() -> None:
    """In their order, each once; one name may stand alone."""
    assert names(discovery=("exchange", "mdns", "exchange")) == ["exchange", "mdns"]
    assert names(discovery="registry") == ["registry"]
    assert names(discovery=()) == []


def test_given_and_environment_peers_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The given ones first, each once."""
    monkeypatch.setenv("PEERFABRIC_PEERS", "tcp://b:2,tcp://a:1")
    (backend,) = build_backends(fabric="tests", discovery=("static",), peers="tcp://a:1")
    assert getattr(backend, "endpoints", None) == ("tcp://a:1", "tcp://b:2")


def test_unknown_name_is_refused() -> None:
    """The text lists what there is."""
    with pytest.raises(ConfigError, match="'bonjour' is not known; use 'auto' or some of registry, static, dns"):
        names(discovery=("registry", "bonjour"))


def test_peers_that_would_not_be_used_are_refused() -> None:
    """Silence would look like a network problem."""
    with pytest.raises(ConfigError, match="add 'static'"):
        names(discovery=("registry",), peers=["tcp://a:1"])
    with pytest.raises(ConfigError, match="add 'dns'"):
        names(discovery=("static",), peers=["dns:a:1"], reach="lan")
    with pytest.raises(ConfigError, match="add 'static'"):
        names(discovery=("dns",), peers=["a:1", "dns:a:1"], reach="lan")


def test_importing_and_building_loads_no_zeroconf() -> None:
    """Its import costs 70 ms, which only users of mDNS pay."""
    code = (
        "import sys; from peerfabric.discovery.backends import build_backends;"
        "build_backends(fabric='tests', discovery=('registry', 'mdns', 'exchange'), reach='lan');"
        "sys.exit('zeroconf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
