"""Commands that follow a configuration: what is of the fabric, and not what is of the one node it was written for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peerfabric import Node
from peerfabric.nodes.cli.children import Children
from peerfabric.nodes.cli.common import Settings
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.cli.own_fabric import own_fabric
from peerfabric.nodes.config import VARIABLES
from tests.cli.conftest import Start, ended


def test_a_command_is_not_a_copy_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, identity, spool and port stay with it; its secret, peers and lists count."""
    path = tmp_path / "node.toml"
    path.write_text(
        '[node]\nname = "billing"\nreach = "lan"\nsecret = "file:key"\nidentity = "node.key"\nspool = "spool"\n'
        'listen = "tcp://*:7700"\npeers = ["tcp://10.0.0.1:7700"]\nadvertise = ["10.0.0.5:7700"]\n'
        f'[access]\nallow = [{{id = "{"a" * 32}"}}]\n'
    )
    monkeypatch.delenv("PEERFABRIC_FABRIC")
    monkeypatch.setenv("PEERFABRIC_NAME", "billing")
    settings = Settings(fabric="shop", peers=(), name=None, output=Form.TABLE, config=str(path), identity="own.key")
    found = settings.arguments(["tcp://10.0.0.2:7700"])
    options = found.pop("options")
    assert options.drain_timeout == 1.0
    assert found == {
        "fabric": "shop",
        "reach": "lan",
        "secret": f"file:{tmp_path}/key",
        "peers": ("tcp://10.0.0.2:7700", "tcp://10.0.0.1:7700"),
        "allow": ("a" * 32,),
        "identity": "own.key",
    }


def test_a_command_has_no_folder_to_remember_peers_in(tmp_path: Path) -> None:
    """The node that the file was written for has one."""
    path = tmp_path / "node.toml"
    path.write_text('[node]\nspool = "spool"\ndiscovery = ["registry", "remembered"]\n')
    settings = Settings(fabric="shop", peers=(), name=None, output=Form.TABLE, config=str(path))
    assert settings.arguments()["discovery"] == ["registry"]


def test_a_running_node_is_left_alone(start: Start, tmp_path: Path) -> None:
    """The command of its own configuration lists it, though its spool is locked."""
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "billing"\nspool = "spool"\nfabric = "cli"\n')
    with Node(config=path) as node:
        node.producer("bills", int)
        code, out, err = ended(start("peers", "--config", str(path), "--wait", "2"))
        assert (code, err) == (0, "")
        assert "billing" in out


def test_a_configuration_that_cannot_be_used(start: Start, tmp_path: Path) -> None:
    """One line, and exit code 2."""
    path = tmp_path / "node.toml"
    path.write_text("[node]\nfabrik = 'x'")
    code, out, err = ended(start("take", "orders", "--config", str(path)))
    assert (code, out) == (2, "")
    assert err == f"peerfabric: configuration {path}: [node].fabrik: unknown; did you mean fabric?\n"


def test_children_get_no_secret(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor anything else of a configuration, but what their parent says."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "canary")
    monkeypatch.setenv("PEERFABRIC_DISCOVERY", "static")
    with own_fabric("job") as variables, Children(variables) as children:
        assert not {name for name in os.environ if os.environ[name] == "canary"}
        children.start("this", name="child")  # the module that prints the Zen shows that it runs
        children._running["child"].wait(60)
    assert os.environ["PEERFABRIC_SECRET"] == "canary"
    with Children({}) as children:
        found = children._environment
    assert {name: value for name, value in found.items() if name in VARIABLES} == {}
    capfd.readouterr()


def test_bench_stays_on_this_machine(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of the fabric of others."""
    monkeypatch.setenv("PEERFABRIC_REACH", "lan")
    monkeypatch.setenv("PEERFABRIC_CONFIG", "/nowhere/node.toml")
    code, _, err = ended(start("bench", "--seconds", "0.1", "-o", "json"))
    assert (code, err) == (0, "")


def test_ids(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a key, of a spool, and of what is configured; two machines compare key ids without showing the secret."""
    subprocess.run(
        [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", "keygen", str(tmp_path / "key")], check=True
    )
    with Node("a", spool=tmp_path / "spool") as node:
        node_id = node.statistics().node_id
    assert ended(start("id", str(tmp_path / "spool"))) == (0, f"{node_id}\n", "")
    code, out, err = ended(start("id", str(tmp_path / "absent")))
    assert (code, out) == (1, "")
    assert "the first start of its node makes it" in err
    monkeypatch.setenv("PEERFABRIC_SECRET_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("PEERFABRIC_SPOOL", str(tmp_path / "spool"))
    code, out, err = ended(start("id"))
    assert (code, err) == (0, "")
    assert out.startswith(f"node {node_id}\nkey id ")
    (tmp_path / "key").chmod(0o644)
    code, out, err = ended(start("id"))
    assert code == 2
    assert "chmod 600" in err
    for variable in ("PEERFABRIC_SECRET_FILE", "PEERFABRIC_SPOOL"):
        monkeypatch.delenv(variable)
    assert ended(start("id"))[0] == 1
