"""A secret that is looked for wherever it could have leaked to, over the whole life of nodes that use it."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, ConfigError, Node
from peerfabric.nodes.cli.children import Children
from peerfabric.nodes.keys import read_node_key, read_secret
from peerfabric.nodes.settings import Hidden
from peerfabric.secret import Secret, new_secret
from tests.nodes.conftest import DEADLINE, Child, Front, eventually


class Canary:
    """A secret, and every form in which it could be seen."""

    def __init__(self, path: Path) -> None:
        self.raw = os.urandom(32)
        self.secret = new_secret(self.raw)
        self.text = self.secret.text()
        path.write_text(self.text)
        path.chmod(0o600)
        self.source = f"file:{path}"
        self.derived = [self.secret.gate("tests"), self.secret.announce_key("tests")]

    def forms(self, fabric: str) -> list[str]:
        keys = [self.raw, self.secret.gate(fabric), self.secret.announce_key(fabric)]
        return [self.text, self.text[4:40], *(key.hex() for key in keys), *(repr(key)[2:-1] for key in keys)]

    def check(self, text: str, fabric: str) -> None:
        for form in self.forms(fabric):
            assert form not in text


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "secret")


def reprs() -> Iterator[str]:
    """Of all objects of our classes that are alive, and of what is in them."""
    for thing in gc.get_objects():
        module = getattr(type(thing), "__module__", "")
        if (
            isinstance(module, str)
            and module.startswith("peerfabric")
            and not isinstance(thing, Hidden | types.ModuleType)
        ):
            try:
                yield repr(thing)
            except ReferenceError:
                continue


def test_nothing_shows_the_secret(
    front: Front, runtime: Path, canary: Canary, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Logs, objects, what is announced, the process and its arguments, from start to close, with a reload between."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    options: dict[str, Any] = {"secret": canary.source, "identity": tmp_path / "node.key", "reach": "lan"}
    with front.node("kitchen", **options) as kitchen, front.node("shop", secret=canary.source) as shop:
        fabric = kitchen.fabric
        consumer = kitchen.consumer("orders", int)
        shop.producer("orders", int).send(1)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == 1
        kitchen.reload()
        Path(canary.source.removeprefix("file:")).write_text(canary.text[:-1])
        with pytest.raises(ConfigError) as raised:
            kitchen.reload()
        seen += traceback.format_exception(raised.value)
        seen += reprs()
        seen += [str(kitchen.peers()), str(kitchen.statistics())]
        seen += [path.read_text() for path in runtime.rglob("*.json")]
        assert len(seen) > 20
        seen += ["\n".join(str(path) for path in runtime.rglob("*"))]
        seen += [Path("/proc/self/cmdline").read_text()]
    seen += [caplog.text]
    canary.check("\n".join(seen), fabric)
    assert read_node_key(str(tmp_path / "node.key"), lambda secret: secret[:32]) is not None
    canary.check((tmp_path / "node.key").read_text(), fabric)


@pytest.mark.parametrize("kind", [Node, AsyncNode])
def test_one_given_by_mistake_is_in_no_frame(kind: Any, canary: Canary) -> None:
    """The error does not repeat it, and a traceback with the variables of our frames does not have it."""
    for given in (canary.text, [canary.source, canary.text], f" {canary.text}\n"):
        with pytest.raises(ConfigError) as raised:
            kind("shop", reach="lan", secret=given)
        error: BaseException | None = raised.value
        while error is not None:
            frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
            ours = [frame for frame in frames if "/tests/" not in frame.filename]
            assert ours
            canary.check(f"{error} {[frame.locals for frame in ours]}", "default")
            error = error.__cause__ or error.__context__


def test_a_secret_is_no_part_of_a_copy(canary: Canary) -> None:
    """Neither it nor what it was given in can be pickled, and both show nothing."""
    for thing in (canary.secret, Hidden(canary.text)):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(thing)
        canary.check(repr(thing), "default")
    assert isinstance(read_secret(canary.source), Secret)


def test_children_do_not_inherit_it(canary: Canary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Processes that the command starts do not find the variable that is one."""
    monkeypatch.setenv("PEERFABRIC_SECRET", canary.text)
    out = tmp_path / "environ"
    module = tmp_path / "child_of_tests.py"
    module.write_text(f"import os, pathlib; pathlib.Path({str(out)!r}).write_text(str(dict(os.environ)))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Children({}) as children:
        children.start("child_of_tests", name="child")
        eventually(lambda: out.exists() and out.read_text().endswith("}"), "the child's report")
    assert "PEERFABRIC_SECRET" not in out.read_text()
    canary.check(out.read_text(), "default")


FROM_A_VARIABLE = """
    import os, sys, time
    from peerfabric import Node
    with Node("a", secret="env:PEERFABRIC_SECRET", listen="tcp://127.0.0.1:*") as node:
        node.statistics()
        print(open("/proc/self/cmdline").read(), repr(node), node.peers(), flush=True)
"""


def test_one_in_a_variable_stays_there(start: Callable[..., Child], canary: Canary) -> None:
    """A container's way: nothing of it is in arguments, output or errors."""
    child = start(FROM_A_VARIABLE, PEERFABRIC_SECRET=canary.text)
    out, error = child.finish()
    assert "<Node a in" in out
    assert sys.executable in out
    canary.check(out + error, "default")
