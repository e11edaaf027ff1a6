"""The names users see: in one place each, the same on both fronts, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import peerfabric

FRONTS = {
    "Node": (
        {
            "producer",
            "consumer",
            "publisher",
            "subscriber",
            "on_message",
            "on_topic",
            "serve",
            "client",
            "stream",
            "services",
            "peers",
            "look_at_all",
            "statistics",
        },
        {"run", "reload", "dead_letters", "ping", "request", "gather", "close"},
    ),
    "Producer": ({"state"}, {"send", "send_many", "close", "flush", "ready", "wait"}),
    "Consumer": ({"batches", "close"}, {"get"}),
    "Publisher": (set(), {"publish", "publish_many", "ready"}),
    "Client": (set(), {"ready"}),
    "Parts": ({"close"}, set()),
    "Subscriber": ({"batches", "close"}, {"get"}),
}
"""The methods of design §11 on each class: plain on both fronts, and those that are awaited on the asynchronous one."""


def test_every_public_name_is_there() -> None:
    """`__all__` has no name twice, each one loads, and `dir()` shows the same."""
    assert len(set(peerfabric.__all__)) == len(peerfabric.__all__)
    assert sorted(peerfabric.__all__) == dir(peerfabric)
    for name in peerfabric.__all__:
        assert getattr(peerfabric, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Broker'"):
        peerfabric.Broker  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """What loads on first use is imported from the same modules under TYPE_CHECKING."""
    tree = ast.parse(Path(peerfabric.__file__).read_bytes())
    seen = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"peerfabric.{module}" for name, module in peerfabric._HOMES.items()}
    assert seen == homes
    eager = {name for name in vars(importlib.import_module("peerfabric.errors")) if name in peerfabric.__all__}
    assert set(peerfabric.__all__) == set(homes) | eager | {"__version__"}


def test_errors_are_all_public() -> None:
    """Every error class can be caught by a name out of `peerfabric`."""
    errors = importlib.import_module("peerfabric.errors")
    assert set(errors.__all__) <= set(peerfabric.__all__)
    classes = {n for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__}
    assert classes == set(errors.__all__)


def methods(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")}


def parameters(method: Any) -> list[tuple[str, Any, Any, Any]]:
    signature = inspect.signature(method)
    return [(p.name, p.kind, p.default, p.annotation) for p in signature.parameters.values()]


@pytest.mark.parametrize("name", FRONTS)
def test_fronts_have_the_same_methods(name: str) -> None:
    """A program changes front by adding `await`: names, parameters, defaults and their types are the same."""
    blocking, asynchronous = getattr(peerfabric, name), getattr(peerfabric, f"Async{name}")
    plain, awaited = FRONTS[name]
    assert set(methods(blocking)) == plain | awaited
    for method in plain | awaited:
        here, there = getattr(blocking, method), getattr(asynchronous, method)
        assert parameters(here) == parameters(there), method
        assert inspect.iscoroutinefunction(there) == (method in awaited), method
        assert not inspect.iscoroutinefunction(here), method


@pytest.mark.parametrize("name", FRONTS)
def test_fronts_say_the_same(name: str) -> None:
    """The contract is the same text on both fronts, but for what one of them cannot do."""
    for method in FRONTS[name][0] | FRONTS[name][1]:
        here = inspect.getdoc(getattr(getattr(peerfabric, name), method)) or ""
        there = inspect.getdoc(getattr(getattr(peerfabric, f"Async{name}"), method)) or ""
        assert here.splitlines()[0] == there.splitlines()[0] != "", method


def test_nodes_are_made_alike() -> None:
    """Both are constructed with the same parameters, and nothing needs one."""
    assert parameters(peerfabric.Node.__init__) == parameters(peerfabric.AsyncNode.__init__)
    assert all(p.default is not p.empty for p in inspect.signature(peerfabric.Node).parameters.values())


CLASSES = [name for name in peerfabric.__all__ if name != "__version__"]


def shown(thing: Any) -> str:
    """What `help()` shows, in one line."""
    return " ".join(pydoc.plain(pydoc.render_doc(thing)).replace("|", "").split())


@pytest.mark.parametrize("name", CLASSES)
def test_help_works(name: str) -> None:
    """`help()` of a public name begins with what it is."""
    kind = getattr(peerfabric, name)
    first, *_ = (inspect.getdoc(kind) or "").split("\n\n")
    assert first
    assert " ".join(first.split()) in shown(kind)


def test_help_of_the_package_works() -> None:
    """It lists every public name, in whichever module it is."""
    text = shown(peerfabric)
    assert [name for name in CLASSES if f"class {name}(" not in text] == []


def test_annotations_can_be_resolved() -> None:
    """Of every public method and signature, by who shows or wires functions by their types."""
    for name in CLASSES:
        kind = getattr(peerfabric, name)
        if issubclass(kind, BaseException):
            continue
        inspect.signature(kind)
        get_type_hints(kind)
        for method in (kind.__init__ if name in ("Node", "AsyncNode") else None, *methods(kind).values()):
            if inspect.isfunction(method):
                inspect.signature(method)
                get_type_hints(method)
        for _, found in inspect.getmembers(kind, lambda value: isinstance(value, property)):
            get_type_hints(found.fget)


def test_package_is_typed() -> None:
    """Type checkers look into the package only if this file is there."""
    assert files("peerfabric").joinpath("py.typed").is_file()


def test_import_is_light() -> None:
    """`import peerfabric` loads neither ZeroMQ nor zeroconf, nor what a program may not need."""
    heavy = ["zmq", "zeroconf", "msgspec", "asyncio", "click", "rich", "socket"]
    code = (
        "import sys; before = set(sys.modules); import peerfabric; "
        f"print(*(set({heavy!r}) & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_using_a_node_does_not_load_zeroconf() -> None:
    """Its import costs 70 ms; only a node that asks for mDNS pays for it."""
    code = "import sys; from peerfabric import Node, AsyncNode; Node(); print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
