"""What the processes send each other, and the work itself: reading one source file, and adding up."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec

from peerfabric.reports import QueueAccount


class Source(msgspec.Struct, frozen=True):
    """A file to be examined, one of `of`."""

    module: str
    path: str
    of: int


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one file. `imports` are top-level names, each once; `error` says why there is nothing."""

    module: str
    of: int
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: list[str] = []
    error: str | None = None


class Totals(msgspec.Struct):
    """The sum over modules. `imports` counts the modules that import a name."""

    modules: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    errors: int = 0
    imports: dict[str, int] = {}

    def add(self, found: Module) -> None:
        self.modules += 1
        self.lines += found.lines
        self.functions += found.functions
        self.classes += found.classes
        self.errors += found.error is not None
        for name in found.imports:
            self.imports[name] = self.imports.get(name, 0) + 1

    def most_imported(self, count: int) -> list[tuple[str, int]]:
        return sorted(self.imports.items(), key=lambda item: (-item[1], item[0]))[:count]


class Progress(msgspec.Struct, frozen=True):
    """How many of the modules are in the collector's totals."""

    done: int
    of: int


class Report(msgspec.Struct, frozen=True):
    """The result. `repeated` counts modules that came once more and were not added again; `account` is the
    accounting of the queue of sources."""

    totals: Totals
    by_worker: dict[str, int]
    repeated: int
    account: QueueAccount


def library() -> Path:
    """The folder of the standard library of this interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def sources(folder: Path) -> list[Source]:
    """Every Python file under `folder`, except of packages that were installed into it."""
    installed = {"site-packages", "dist-packages"}
    paths = [path for path in sorted(folder.rglob("*.py")) if installed.isdisjoint(path.relative_to(folder).parts)]
    return [Source(".".join(path.relative_to(folder).with_suffix("").parts), str(path), len(paths)) for path in paths]


def examine(source: Source) -> Module:
    """Read and parse one file. The library has some that are wrong on purpose, for its own tests."""
    try:
        text = Path(source.path).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text, source.path)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        return Module(module=source.module, of=source.of, error=f"{type(error).__name__}: {error}")
    nodes = list(ast.walk(tree))
    return Module(
        module=source.module,
        of=source.of,
        lines=text.count(b"\n"),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        imports=sorted({name for node in nodes for name in _imported(node)}),
    )


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module.partition(".")[0]
