"""Configuration: which of three places decides, and that nothing in a file or a variable is more than a ConfigError."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerfabric import ConfigError, Node, Options
from peerfabric.nodes.config import VARIABLES, Configuration, configured, merged

A, B = "a" * 32, "0123456789abcdef" * 2

FILE = f"""
[node]
name = "billing-1"
fabric = "shop"
reach = "lan"
listen = "tcp://*:7700"
secret = ["file:fabric.key", "file:/etc/old.key"]
identity = "node.key"
interfaces = ["eth0"]
advertise = ["10.0.0.5"]
peers = ["tcp://10.0.0.1:7700"]
discovery = ["static", "exchange"]
spool = "spool"
fsync = true

[options]
peers_max = 64
drain_timeout = 2.5

[access]
allow = [{{id = "{A}", name = "billing-1"}}, {{id = "{B}"}}]
revoked = ["{"f" * 32}"]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "node.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problem(arguments: dict[str, Any], environ: dict[str, str], path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        merged(arguments, environ, path)
    return str(error.value)


def test_every_key_of_a_file(write: Any, tmp_path: Path) -> None:
    """Paths are those from the file's own folder, wherever the program runs; access is lists of node ids."""
    path = write(FILE)
    values, sources = merged({}, {}, path)
    assert values == {
        "name": "billing-1",
        "fabric": "shop",
        "reach": "lan",
        "listen": "tcp://*:7700",
        "secret": (f"file:{tmp_path}/fabric.key", "file:/etc/old.key"),
        "identity": f"{tmp_path}/node.key",
        "interfaces": ("eth0",),
        "advertise": ("10.0.0.5",),
        "peers": ("tcp://10.0.0.1:7700",),
        "discovery": ("static", "exchange"),
        "spool": f"{tmp_path}/spool",
        "fsync": True,
        "options": Options(peers_max=64, drain_timeout=2.5),
        "allow": (A, B),
        "revoked": ("f" * 32,),
    }
    assert sources["listen"] == f"{path} [node].listen"
    assert sources["options"] == f"{path} [options]"
    assert sources["revoked"] == f"{path} [access].revoked"


def test_every_variable() -> None:
    """One text each; lists are separated by commas or spaces, and secrets lie in a file or in the variable."""
    environ = {
        "PEERFABRIC_NAME": "n",
        "PEERFABRIC_FABRIC": "f",
        "PEERFABRIC_REACH": "lan",
        "PEERFABRIC_LISTEN": "tcp://*:7700",
        "PEERFABRIC_SECRET_FILE": "/run/new key, /run/old",
        "PEERFABRIC_IDENTITY": "/var/node.key",
        "PEERFABRIC_INTERFACES": "eth0,wg0",
        "PEERFABRIC_ADVERTISE": "10.0.0.5 fd00::1",
        "PEERFABRIC_PEERS": "tcp://10.0.0.1:7700, tcp://10.0.0.2:7700",
        "PEERFABRIC_DISCOVERY": "static,exchange",
        "PEERFABRIC_SPOOL": "/var/spool",
    }
    values, sources = merged({}, environ)
    assert values == {
        "name": "n",
        "fabric": "f",
        "reach": "lan",
        "listen": "tcp://*:7700",
        "secret": ("file:/run/new key", "file:/run/old"),
        "identity": "/var/node.key",
        "interfaces": ("eth0", "wg0"),
        "advertise": ("10.0.0.5", "fd00::1"),
        "peers": ("tcp://10.0.0.1:7700", "tcp://10.0.0.2:7700"),
        "discovery": ("static", "exchange"),
        "spool": "/var/spool",
    }
    keys = [variable.removeprefix("PEERFABRIC_").removesuffix("_FILE").lower() for variable in environ]
    assert sources == dict(zip(keys, environ, strict=True))
    assert set(environ) | {"PEERFABRIC_CONFIG", "PEERFABRIC_SECRET"} == set(VARIABLES)


def test_secret_variables() -> None:
    """The text itself stays in its variable; which of two would count nobody could tell."""
    assert merged({}, {"PEERFABRIC_SECRET": "pf1-abc"}).values == {"secret": "env:PEERFABRIC_SECRET"}
    assert merged({}, {"PEERFABRIC_SECRET": "insecure"}).values == {"secret": "insecure"}
    assert merged({}, {"PEERFABRIC_SECRET_FILE": "k"}).values == {"secret": "file:k"}
    assert "unset one" in problem({}, {"PEERFABRIC_SECRET": "pf1-abc", "PEERFABRIC_SECRET_FILE": "k"})
    text = problem({}, {"PEERFABRIC_SECRET_FILE": "pf1-abcdef"})
    assert "PEERFABRIC_SECRET_FILE" in text
    assert "abcdef" not in text


def test_arguments_then_variables_then_file(write: Any) -> None:
    """Decided key by key; None is no argument, and an empty variable is not set."""
    path = write('[node]\nname = "file"\nfabric = "file"\nreach = "lan"\nfsync = true\n[options]\npeers_max = 5')
    environ = {"PEERFABRIC_NAME": "variable", "PEERFABRIC_FABRIC": "variable", "PEERFABRIC_REACH": ""}
    found = merged({"name": "argument", "reach": None, "fsync": False}, environ, path)
    assert found.values == {
        "name": "argument",
        "fabric": "variable",
        "reach": "lan",
        "fsync": False,
        "options": Options(peers_max=5),
    }
    assert found.sources == {
        "name": "argument",
        "fabric": "PEERFABRIC_FABRIC",
        "reach": f"{path} [node].reach",
        "fsync": "argument",
        "options": f"{path} [options]",
    }
    assert merged({"options": Options(peers_max=9)}, {}, path).values["options"] == Options(peers_max=9)


def test_peers_are_joined(write: Any) -> None:
    """Those of all three, each once, arguments first; those of a variable only where they can be used."""
    path = write('[node]\npeers = ["tcp://c:1", "tcp://b:1"]')
    environ = {"PEERFABRIC_PEERS": "tcp://b:1"}
    found = merged({"peers": ["tcp://a:1"]}, environ, path)
    assert found.values["peers"] == ("tcp://a:1", "tcp://b:1", "tcp://c:1")
    assert found.sources["peers"] == f"argument and PEERFABRIC_PEERS and {path} [node].peers"
    assert "peers" not in merged({"discovery": ["registry"]}, environ).values
    assert merged({"peers": "tcp://a:1"}, environ).values["peers"] == "tcp://a:1"  # refused with all arguments


def test_the_file_is_named(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the argument, or else the variable; one that lies in the working folder is not read."""
    path = write('[node]\nname = "x"')
    monkeypatch.chdir(tmp_path)
    for name in ("peerfabric.toml", "config.toml", ".peerfabric.toml"):
        (tmp_path / name).write_text('[node]\nsecret = "insecure"')
    assert merged({}, {}) == Configuration({}, {})
    assert merged({}, {"PEERFABRIC_CONFIG": str(path)}).values == {"name": "x"}
    assert merged({}, {"PEERFABRIC_CONFIG": "/nowhere"}, "node.toml").values == {"name": "x"}


@pytest.mark.parametrize(
    ("text", "path", "step"),
    [
        ("[node]\nlisen = 1", "[node].lisen", "did you mean listen?"),
        ("[nod]\nname = 'x'", "nod", "did you mean node?"),
        ("name = 'x'", "name", "there are node, options, access"),
        ("[options]\npeer_max = 1", "[options].peer_max", "did you mean peers_max?"),
        ("[access]\nallowed = []", "[access].allowed", "did you mean allow?"),
        (f"[access]\nallow = [{{id = '{A}', nam = 'x'}}]", "[access].allow[0].nam", "did you mean name?"),
        ("[node]\nname = 1", "[node].name", "is a number; write a text in quotes"),
        ("[node]\nfsync = 'yes'", "[node].fsync", "is a text; write true or false"),
        ("[node]\npeers = 'tcp://a:1'", "[node].peers", "is a text; write a list of texts"),
        ("[node]\npeers = ['tcp://a:1', 2]", "[node].peers[1]", "is a number; write a text"),
        ("[node]\ndiscovery = true", "[node].discovery", "is a truth value; write a list of texts"),
        ("[node]\nname = 2026-11-29", "[node].name", "is a date or time; write a text"),
        ("[node]\nsecret = {file = 'x'}", "[node].secret", "is a table"),
        ("[node]\nsecret = 'hunter2'", "[node].secret", 'write "file:PATH", "env:NAME" or "insecure"'),
        ("[node]\nsecret = 'file:'", "[node].secret", "is no path; write one"),
        ("[node]\nspool = ''", "[node].spool", "is no path; write one"),
        ("node = 3", "node", "is a number; write a table, [node]"),
        ("[options]\npeers_max = '64'", "[options].peers_max", "is a text; write a number"),
        ("[options]\npeers_max = 0", "[options]", "peers_max=0 is out of range; it must be between"),
        ("[options]\nwork_horizon = nan", "[options]", "work_horizon=nan is not a possible number"),
        ("[access]\nallow = []", "[access].allow", "leave it out"),
        ("[access]\nallow = ['x']", "[access].allow[0]", "is a text; write {id"),
        ("[access]\nallow = [{name = 'x'}]", "[access].allow[0]", "has no id; write {id"),
        ("[access]\nallow = [{id = 'x'}]", "[access].allow[0].id", "write the 32 characters"),
        ("[access]\nrevoked = ['X']", "[access].revoked[0]", "write the 32 characters"),
        ("[node]\nname = \n", "line 2", "correct it there"),
        ("[node]\nname = 'a'\nname = 'b'", "overwrite", "correct it there"),
        ("x = " + "[" * 100_000, "value", "make it simpler"),
        ("x = " + "9" * 5_000, "value", "make it simpler"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(write: Any, text: str, path: str, step: str) -> None:
    """The file, the key, and what to write instead."""
    file = write(text)
    found = problem({}, {}, file)
    assert str(file) in found
    assert path in found
    assert step in found


@pytest.mark.parametrize(
    "text",
    [
        "[node]\nsecret = 'pf1-canary'",
        "[node]\nsecret = ['file:x', 'pf1-canary']",
        "[node]\nsecret = 'file:/x/pf1-canary'",
        "[node]\nsecret = {text = 'pf1-canary'}",
        "[node]\nsecret = 'canary'",
        "[node]\npf1-canary = 1",
        "pf1-canary = 1",
        "[node]\nsecret = pf1-canary",
        "[node]\nname = ['pf1-canary']",
        "[access]\nallow = [{id = 'pf1-canary'}]",
    ],
)
def test_no_error_repeats_a_secret(write: Any, text: str) -> None:
    """Wherever somebody wrote it."""
    assert "canary" not in problem({}, {}, write(text))


def test_files_that_are_none(tmp_path: Path, write: Any) -> None:
    """Absent, a folder, a pipe that nobody writes to, too long, not UTF-8."""
    assert "create it" in problem({}, {}, tmp_path / "absent")
    assert "not a regular file" in problem({}, {}, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in problem({}, {}, tmp_path / "pipe")
    assert "make it shorter" in problem({}, {}, write(b"#" * (1024 * 1024 + 1)))
    assert "save it as UTF-8" in problem({}, {}, write(b"[node]\nname = '\xff'"))
    assert "is no path" in problem({}, {}, Path("a\0b"))
    assert "is no path" in problem({}, {}, 7)  # type: ignore[arg-type]


def test_toml_is_loaded_only_for_a_file() -> None:
    """A node without one does not pay for it."""
    code = "import sys; from peerfabric.nodes.config import merged; merged({}, {}); print('tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


_words = st.sampled_from(
    [
        *("node", "options", "access", "name", "secret", "allow", "revoked", "peers", "id", "true", "1", "e9", "nan"),
        *("[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", '"', "'", '"""', "#", "-", "pf1-", "file:", "\0", "\\u"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.lists(_words, max_size=40).map(lambda w: " ".join(w).encode())))
def test_any_bytes_give_a_configuration_or_our_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Never another exception."""
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(data)
    with suppress(ConfigError):
        merged({}, {}, path)


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("pf1-x"), st.just(A)
)
_toml = st.recursive(
    _scalars.filter(lambda v: v is not None),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_keys = st.sampled_from(["name", "secret", "peers", "fsync", "allow", "revoked", "spool_bytes", "work_horizon", "x"])


def _as_toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" if not 0xD800 <= ord(c) < 0xE000 else "?" for c in value) + '"'
        case list():
            return "[" + ", ".join(map(_as_toml, value)) + "]"
        case _:
            return "{" + ", ".join(f"{_as_toml(k)} = {_as_toml(v)}" for k, v in value.items()) + "}"


@settings(max_examples=400, deadline=None)
@given(
    table=st.sampled_from(["node", "options", "access", "y"]), entries=st.dictionaries(_keys, _toml, max_size=4)
)  # fmt: skip
def test_any_values_give_a_configuration_or_our_error(
    table: str, entries: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of right syntax and whatever type, where another type belongs."""
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(f"[{table}]\n" + "".join(f"{key} = {_as_toml(value)}\n" for key, value in entries.items()))
    with suppress(ConfigError):
        merged({}, {}, path)


@settings(max_examples=300, deadline=None)
@given(environ=st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=30), max_size=5))
def test_any_variables_give_a_configuration_or_our_error(environ: dict[str, str]) -> None:
    """Never another exception, and none that repeats the secret."""
    secret = environ.get("PEERFABRIC_SECRET", "")
    try:
        found = merged({}, environ)
    except ConfigError:
        return
    assert set(found.values) == set(found.sources)
    if len(secret) > 8:
        assert secret not in repr(found.values.get("secret"))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variables of whoever runs the tests."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def test_a_node_follows_its_configuration(write: Any, bare: pytest.MonkeyPatch) -> None:
    """And an argument that says what is the default anyway still counts."""
    path = write('[node]\nname = "a"\nfabric = "shop"\nreach = "lan"\nsecret = "insecure"\nlisten = "tcp://*:7700"')
    node = Node(config=path)
    assert (node.name, node.fabric) == ("a", "shop")
    bare.setenv("PEERFABRIC_CONFIG", str(path))
    bare.setenv("PEERFABRIC_FABRIC", "other")
    found = configured({"reach": "host", "listen": "auto", "name": None})
    assert (found.name, found.fabric, found.reach, found.listen) == ("a", "other", "host", "auto")
    assert found.config == str(path)
    found = configured({})
    assert (found.reach, found.listen) == ("lan", "tcp://*:7700")


def test_an_error_says_where_it_was_given(write: Any, bare: pytest.MonkeyPatch) -> None:
    """Who reads the program would not find it there."""
    bare.setenv("PEERFABRIC_REACH", "wan")
    with pytest.raises(ConfigError, match=r"reach='wan' is not known; .* \(it is given by PEERFABRIC_REACH\)"):
        Node()
    path = write('[node]\nreach = "world"')
    with pytest.raises(ConfigError, match=r"reach='wan' .*PEERFABRIC_REACH"):
        Node(config=path)
    bare.delenv("PEERFABRIC_REACH")
    with pytest.raises(ConfigError, match=r"reach='world' .* \(it is given by .*node.toml \[node\].reach\)"):
        Node(config=path)
    with pytest.raises(ConfigError, match=r"leave them out$|'lan'$"):
        Node(reach="wan", config=path)  # type: ignore[arg-type]


def test_a_secret_in_the_wrong_place_is_not_shown(bare: pytest.MonkeyPatch) -> None:
    """Neither in the text of the error, nor in what a traceback prints of it."""
    with pytest.raises(ConfigError) as error:
        Node(reach="lan", secret="pf1-canary")
    assert "canary" not in str(error.value)


DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_file_can_be_used(write: Any) -> None:
    """As it stands there, but for the ids, which are cut."""
    [text] = re.findall(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)
    text = re.sub(r'id = "(\w+)…"', lambda found: f'id = "{found[1] * 8}"', text)
    values = merged({}, {}, write(text)).values
    assert values["name"] == "billing-1"
    assert values["allow"] == ("0f3c" * 8, "77ab" * 8)


@pytest.mark.parametrize("file", ["configuration.md", "deploy.md", "command-line.md", "security.md", "../README.md"])
def test_documented_variables_are_there(file: str) -> None:
    """And all that there are stand in the table."""
    named = set(re.findall(r"\bPEERFABRIC_[A-Z_]+\b", (DOCS / file).read_text()))
    of_processes = {"PEERFABRIC_RUNTIME", "PEERFABRIC_ADMIN"}
    assert named <= {*VARIABLES, *of_processes, "PEERFABRIC_"}
    if file == "configuration.md":
        assert {*VARIABLES, *of_processes} <= named
