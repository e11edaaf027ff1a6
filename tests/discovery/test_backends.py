"""Choosing backends."""

from __future__ import annotations

import subprocess
import sys

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
    with pytest.raises(ConfigError, match="'bonjour' is not known; use 'auto' or some of registry, static, mdns"):
        names(discovery=("registry", "bonjour"))


def test_peers_that_would_not_be_used_are_refused() -> None:
    """Silence would look like a network problem."""
    with pytest.raises(ConfigError, match="add 'static'"):
        names(discovery=("registry",), peers=["tcp://a:1"])


def test_importing_and_building_loads_no_zeroconf() -> None:
    """Its import costs 70 ms, which only users of mDNS pay."""
    code = (
        "import sys; from peerfabric.discovery.backends import build_backends;"
        "build_backends(fabric='tests', discovery=('registry', 'mdns', 'exchange'));"
        "sys.exit('zeroconf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
