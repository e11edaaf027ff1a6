"""Every code block of README and docs, run as it stands there; what cannot be run says why, in a comment."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.documentation.blocks import Block, blocks_of

ROOT = Path(__file__).parents[2]
DEADLINE = 180.0
ELSEWHERE = {"docs/recipes.md": "tests/examples/test_recipes.py"}
"""Documents all of whose blocks another test runs."""
DOCUMENTS = sorted(
    name
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md"))
    if (name := path.relative_to(ROOT).as_posix()) not in ELSEWHERE
)


class Run:
    """A folder and a fabric for one document, whose blocks are run in it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        self.folder.mkdir()
        self._sessions: list[int] = []
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PEERFABRIC_")}
        self.environment = ours | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "ROOT": str(ROOT),
            "PEERFABRIC_RUNTIME": str(folder / "run"),
            "PEERFABRIC_FABRIC": f"docs-{secrets.token_hex(4)}",
            "PYTHONUNBUFFERED": "1",
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
        }

    def run(self, block: Block) -> None:
        match block.kind:
            case "file":
                path = self.folder / block.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text + block.after)
            case "python":
                path = self.folder / f"block_{block.line}.py"
                path.write_text(block.text + block.after)
                self._command(block, [sys.executable, str(path)])
            case "sh":
                self._command(block, ["bash", "-euo", "pipefail", "-c", block.text])
            case "data":
                json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)

    def _command(self, block: Block, command: list[str]) -> None:
        # In a session of its own, so that whatever it leaves running is ended with the document.
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._sessions.append(process.pid)
        try:
            said, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired as error:
            self.end()
            said, _ = process.communicate()
            raise AssertionError(f"line {block.line}: no end within {DEADLINE:g} s\n{block.text}\n{said}") from error
        assert process.returncode == 0, f"line {block.line}: exit code {process.returncode}\n{block.text}\n{said}"

    def end(self) -> None:
        """End what commands have left running."""
        for session in self._sessions:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
        self._sessions.clear()


@pytest.fixture
def run() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as folder:  # short, as the paths of sockets are limited
        made = Run(Path(folder))
        yield made
        made.end()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document(document: str, run: Run) -> None:
    """It does what it says, from the first block to the last."""
    blocks = blocks_of((ROOT / document).read_text())
    for block in blocks:
        run.run(block)
    for block in blocks:
        if block.kind == "file" and block.name.endswith(".py") and not block.reason:
            assert runs(block.name, blocks), f"line {block.line}: nothing runs {block.name}"


def runs(name: str, blocks: list[Block]) -> bool:
    """Whether some block names a module, or has pytest find it."""
    module = Path(name).stem
    found = rf"\b{re.escape(module)}\b" + (r"|\bpytest -q$" if module.startswith("test_") else "")
    return any(
        re.search(found, block.text, re.M)
        for block in blocks
        if block.kind in ("sh", "python", "file") and block.name != name
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_block_is_left_out(document: str) -> None:
    """Each block is run, is data that is read, or says in a comment why not; each one says its language."""
    text = (ROOT / document).read_text()
    blocks = blocks_of(text)
    strays = [
        f"{document}:{block.line} ({block.language or 'no language'})" for block in blocks if block.kind == "stray"
    ]
    assert not strays, "say what runs it, or put <!-- not run: WHY --> before it"
    fences = len(re.findall(r"^ *```", text, re.M))
    assert 2 * len([block for block in blocks if block.language or block.kind != "sh"]) == fences


def test_what_is_run_elsewhere_is_run_there() -> None:
    """By a test that is there, and reads that document."""
    for document, where in ELSEWHERE.items():
        assert document in (ROOT / where).read_text().replace('" / "', "/")
    for document in DOCUMENTS:
        for block in blocks_of((ROOT / document).read_text()):
            named = re.match(r"run elsewhere: (\S+)", block.reason)
            if named is not None:
                assert document in (ROOT / named[1]).read_text().replace('" / "', "/"), (
                    f"{document}:{block.line}: {named[1]}"
                )


DOCUMENT = """
<!-- python
x = 1
-->
```python
y = x + 1
```
<!-- python after
assert y == 2
-->

```python
# part/one.py
a = 1
```

<!-- not run: needs two machines -->
  ```sh
  scp
  ```
<!-- sh
python -m part.one
-->
```
what is it
```
"""


def test_blocks() -> None:
    """What is before, after and instead of a block belongs to that block alone."""
    assert [(block.kind, block.name, block.text, block.after, block.reason) for block in blocks_of(DOCUMENT)] == [
        ("python", "", "x = 1\ny = x + 1\n", "assert y == 2\n", ""),
        ("file", "part/one.py", "# part/one.py\na = 1\n", "", ""),
        ("skipped", "", "scp\n", "", "not run: needs two machines"),
        ("sh", "", "python -m part.one\n", "", ""),
        ("stray", "", "what is it\n", "", ""),
    ]


def test_a_wrong_block_is_found(run: Run) -> None:
    """Of each kind, with its line."""
    for text in ("```python\nassert 1 == 2\n```", "```sh\nfalse\n```", "<!-- sh\nexit 3\n-->"):
        [block] = blocks_of(f"\n{text}\n")
        with pytest.raises(AssertionError, match="line 2: exit code"):
            run.run(block)
    [block] = blocks_of("```toml\na = \n```\n")
    with pytest.raises(tomllib.TOMLDecodeError):
        run.run(block)
