"""Layers, read from the source: nodes → discovery → fabric, without circles, and nothing below knows what is above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"fabric": "peerfabric", "discovery": "peerfabric.discovery", "nodes": "peerfabric.nodes"}
BESIDE = {f"nodes/{name}": f"peerfabric.{name}" for name in ("admin", "gateway", "metrics", "otel", "testing")}
"""Packages of nodes that are installed under names of their own, for users to import."""
INDEXER = "peerfabric.indexer"

PURE = frozenset(
    {
        "__future__", "base64", "bisect", "collections", "crc32c", "dataclasses", "enum", "errno", "functools",
        "hashlib", "heapq", "importlib", "itertools", "json", "logging", "math", "msgspec", "operator", "queue",
        "random", "re", "struct", "types", "typing", "typing_extensions", "weakref", "zlib",
    }
)  # fmt: skip
"""What a machine may import: nothing that opens, waits, starts or tells the time."""

GROUND_FLOOR = {"peerfabric.errors", "peerfabric.names", "peerfabric.options"}
ZMQ_FILES = {
    "nodes/io/curve.py",
    "nodes/io/sockets.py",
    "nodes/io/transport.py",
    "nodes/io/listener.py",
    "nodes/io/handshake.py",
    "nodes/io/monitor.py",
    "nodes/io/updates.py",
}
ZEROCONF_FILES = {"discovery/mdns.py"}


class Import:
    """One imported module, and whether that happens when the importing one loads."""

    def __init__(self, module: str, names: tuple[str, ...], level: int, *, at_load: bool) -> None:
        self.module, self.names, self.level, self.at_load = module, names, level, at_load
        self.package = module.partition(".")[0]


def imports(tree: ast.AST, *, at_load: bool = True) -> Iterator[Import]:
    """Every import in `tree`. What is in a function, or for type checkers only, does not happen at load."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, (), 0, at_load=at_load) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield Import(module or "", tuple(alias.name for alias in names), level, at_load=at_load)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports(node, at_load=False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from imports(node, at_load=False)
            case _:
                yield from imports(node, at_load=at_load)


def files(*folders: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(file: str) -> list[Import]:
    return list(imports(ast.parse((ROOT / file).read_bytes(), file)))


def layer(module: str) -> str:
    """Which room of the house a module of ours is in."""
    for folder, package in (*BESIDE.items(), ("nodes", FOLDERS["nodes"]), ("discovery", FOLDERS["discovery"])):
        if module == package or module.startswith(package + "."):
            return folder.partition("/")[0]
    return "indexer" if module == INDEXER or module.startswith(INDEXER + ".") else "fabric"


def ours(file: str) -> Iterator[Import]:
    """What a file imports of us; `from peerfabric import nodes` as the module that it is."""
    for found in imports_of(file):
        if found.module == "peerfabric" and found.names:
            yield from (Import(f"peerfabric.{name}", (), found.level, at_load=found.at_load) for name in found.names)
        elif found.package == "peerfabric":
            yield found


def module_of(file: str) -> str:
    """The name under which a file of ours is imported."""
    for folder, package in (*BESIDE.items(), *FOLDERS.items()):
        if file.startswith(f"{folder}/"):
            parts = Path(file.removeprefix(f"{folder}/")).with_suffix("").parts
            return ".".join([package, *(part for part in parts if part != "__init__")])
    raise AssertionError(file)


def graph() -> dict[str, set[str]]:
    """Each module of ours, and the modules of ours that it imports anywhere, also for type checkers only.

    The face of the package, which loads public names on first use, is above everything and imported by nobody.
    """
    modules = {module_of(file): file for file in files(*FOLDERS)}
    del modules["peerfabric"]
    found: dict[str, set[str]] = {module: set() for module in modules}
    for module, file in modules.items():
        for each in imports_of(file):
            named = {f"{each.module}.{name}" for name in each.names} & modules.keys()
            found[module] |= (named or {each.module} & modules.keys()) - {module}
    return found


def by_room(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same for rooms: the folders within the three, and what lies beside them in a file of its own."""

    def room(module: str) -> str:
        depth = 3 if module.startswith(("peerfabric.nodes", "peerfabric.discovery")) else 2
        return ".".join(module.split(".")[:depth])

    rooms: dict[str, set[str]] = {room(module): set() for module in modules}
    for module, imported in modules.items():
        rooms[room(module)] |= {room(other) for other in imported} - {room(module)}
    return rooms


def circle(edges: dict[str, set[str]]) -> list[str]:
    """What is in a circle, or between two: the rest imports nothing of it, or is imported by nothing of it."""
    left = set(edges)
    while True:
        imported = set().union(*(edges[name] & left for name in left))
        stays = {name for name in left if edges[name] & left and name in imported}
        if stays == left:
            return sorted(left)
        left = stays


def test_no_circle_of_imports() -> None:
    """Neither of modules nor of rooms, imports for type checkers included."""
    modules = graph()
    assert circle(modules) == []
    assert circle(by_room(modules)) == []


def test_an_added_circle_is_found() -> None:
    """Of modules in one room, and of two rooms whose modules form none."""
    modules = graph()
    modules["peerfabric.nodes.context"].add("peerfabric.nodes.aio.lifecycle")
    assert {"peerfabric.nodes.context", "peerfabric.nodes.aio.lifecycle"} <= set(circle(modules))
    modules = graph()
    modules["peerfabric.wire.body_types"].add("peerfabric.link.commands")
    assert circle(modules) == []
    assert {"peerfabric.wire", "peerfabric.link"} <= set(circle(by_room(modules)))


@pytest.mark.parametrize("file", [f for f in files("fabric") if f != "fabric/__init__.py"])
def test_fabric_is_pure(file: str) -> None:
    """A machine imports only machines and what can do nothing by itself; chance comes in as a `Random`."""
    for found in ours(file):
        assert layer(found.module) == "fabric", found.module
    for found in imports_of(file):
        if found.package == "peerfabric":
            continue
        # The one module that is allowed to touch the disk (design: "the only module that imports os").
        if file == "fabric/spool/files.py":
            continue
        assert found.package in PURE, found.module
        if found.package == "random":
            assert found.names == ("Random",), "the module's own generator is global state"


def test_face_loads_only_errors() -> None:
    """`import peerfabric` loads the errors; everything else comes on first use, or is for type checkers."""
    at_load = {found.module for found in ours("fabric/__init__.py") if found.at_load}
    assert at_load == {"peerfabric.errors"}


@pytest.mark.parametrize("file", files("discovery"))
def test_discovery_stands_on_the_ground_floor(file: str) -> None:
    """Discovery knows of errors, names and options, and of no machine and no node."""
    for found in ours(file):
        assert layer(found.module) == "discovery" or found.module in GROUND_FLOOR, found.module


@pytest.mark.parametrize("file", files("nodes"))
def test_only_the_demo_command_knows_the_example(file: str) -> None:
    """The indexer stands on top of everything; the command that runs it is the one that may import it."""
    for found in ours(file):
        assert layer(found.module) != "indexer" or file == "nodes/cli/demo.py", found.module
        assert not found.module.startswith("peerfabric.nodes.cli") or file.startswith("nodes/cli/"), found.module


@pytest.mark.parametrize("file", files(*FOLDERS, "examples", "tests"))
def test_imports_are_absolute_and_by_the_installed_name(file: str) -> None:
    """`peerfabric.nodes`, never `nodes` or `.`: those are other modules where we are installed."""
    for found in imports_of(file):
        assert found.level == 0, f"from {'.' * found.level}{found.module}"
        assert found.package not in FOLDERS, found.module


@pytest.mark.parametrize("file", files(*FOLDERS, "examples"))
def test_edges_are_where_they_belong(file: str) -> None:
    """ZeroMQ is behind a few files, zeroconf behind one and loaded only when used; pickle is nowhere."""
    for found in imports_of(file):
        assert found.package != "zmq" or file in ZMQ_FILES, found.module
        assert found.package != "zeroconf" or (file in ZEROCONF_FILES and not found.at_load), found.module
        assert found.package not in ("pickle", "marshal", "shelve", "dill", "cloudpickle"), found.module
        assert not found.module.startswith("zmq.asyncio"), "the pump is the loop for sockets"


@pytest.mark.parametrize("file", files(*FOLDERS))
def test_what_only_linux_has_is_behind_one_file_each_side(file: str) -> None:
    """A port to another system is a change of these two."""
    if file in ("nodes/platform.py", "fabric/spool/files.py"):
        return
    used = {
        node.attr for node in ast.walk(ast.parse((ROOT / file).read_bytes(), file)) if isinstance(node, ast.Attribute)
    }
    assert not used & {
        "epoll",
        "eventfd",
        "eventfd_read",
        "eventfd_write",
        "CLOCK_BOOTTIME",
        "pwritev",
        "posix_fallocate",
    }


PLAIN_LOCKS: dict[str, set[str]] = {
    "nodes/io/waiting.py": {"Lock"},  # a semaphore, on which one thread waits; nothing is guarded by it
    "nodes/storage/offload.py": {"Condition"},  # of a lock of ours
    "discovery/registry.py": {"Event"},  # set once, by a close, which is refused in the middle of anything
}
"""What waits and is not made for user code that interrupts it, with the reason why it may."""


@pytest.mark.parametrize("file", [f for f in files("discovery", "nodes") if not f.startswith("nodes/cli/")])
def test_locks_are_made_for_user_code_that_runs_into_them(file: str) -> None:
    """Finalisers and signal handlers run anywhere: what could wait for its own thread is `Lock`, which refuses that."""
    if file == "discovery/locks.py":
        return
    waiting = {"Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier"}
    tree = ast.parse((ROOT / file).read_bytes(), file)
    names = {
        (n.value.id, n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    assert {name for module, name in names if module == "threading"} & waiting == PLAIN_LOCKS.get(file, set())


@pytest.mark.parametrize("file", files(*FOLDERS, "examples", "tests", "benchmarks"))
def test_no_file_knows_this_machine(file: str) -> None:
    """Folders of one developer's machine mean nothing elsewhere."""
    text = (ROOT / file).read_text()
    for folder in ("/" + "home/", "/" + "root/", "/" + "work/", "/" + "Users/"):
        assert folder not in text, folder


def test_the_map_names_files_that_are_there() -> None:
    """Whoever looks for something finds it where ARCHITECTURE.md says."""
    there = files(*FOLDERS, "tests", "benchmarks")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", (ROOT / "ARCHITECTURE.md").read_text()))
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in there)} == set()


def members(of: ast.ClassDef) -> Iterator[str]:
    """The methods of a class, and what its instances have."""
    for node in ast.walk(of):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def test_the_map_names_methods_that_are_there() -> None:
    """So are the steps of one message's way: classes, and what they have, as they are called now."""
    trees = [ast.parse((ROOT / file).read_bytes()) for file in files(*FOLDERS)]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    there = {f"{of.name}.{member}" for of in classes for member in members(of)}
    named = set(re.findall(r"`([A-Z]\w+\.[a-z_]+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    assert named - there == set()


CLAUSES = {
    "What", "Who", "Whose", "Where", "When", "Which", "Why", "How", "Whether", "If", "That", "Those", "It",
    "Ask", "Choose", "Find", "Read", "Rewrite", "Tell",
}  # fmt: skip


@pytest.mark.parametrize("file", files(*FOLDERS))
def test_first_lines_are_noun_phrases(file: str) -> None:
    """A reader searches for the field's word; a title that begins with What or Where has none there."""
    first = (ast.get_docstring(ast.parse((ROOT / file).read_bytes())) or "").partition("\n")[0]
    assert first, "no docstring"
    assert first.split()[0] not in CLAUSES, first


def fields_of_link() -> set[str]:
    """What `Link` keeps of one link."""
    tree = ast.parse((ROOT / "fabric/link/link.py").read_text())
    [link] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Link"]
    return {
        node.attr
        for node in ast.walk(link)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def test_each_field_of_a_link_has_one_owner() -> None:
    """Of what a link keeps, a module beside it writes only what is named here; the others ask the link."""
    fields, writers = fields_of_link(), dict[str, set[str]]()
    for path in (ROOT / "fabric").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            written = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in fields
            if written and ast.unparse(node.value) in ("link", "known", "peer", "candidate"):  # type: ignore[attr-defined]
                writers.setdefault(path.name, set()).add(node.attr)  # type: ignore[attr-defined]
    assert writers == {
        "links.py": {"close_at", "stray_at"},
        "hello.py": {"close_at", "sender", "unlisted"},
        "dialling.py": {"doors"},
        "tables.py": {"ended_id"},
        "control.py": {"kept"},
    }
