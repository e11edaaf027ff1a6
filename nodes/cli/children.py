"""Child processes that end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import Final, Self

from peerfabric.errors import FabricError
from peerfabric.nodes.config import VARIABLES

FAREWELL_MAX: Final = 5.0
"""Seconds that children have for closing before they are killed: as long as a node drains."""


class ChildFailed(FabricError):
    """A child process ended before its work was done."""

    def __init__(self, name: str, code: int) -> None:
        self.name, self.code = name, code
        super().__init__(f"the {name} process ended with exit code {code}; what it wrote before says why")


class Children:
    """The child processes of one job. None is left when its `with` is over.

    Each has a pipe from us as its standard input and `end_with_parent`: the pipe closes when we leave, and the
    kernel closes it if we are killed. They are in a session of their own, so Ctrl-C reaches us alone.

    Args:
        environment: Set for them in addition to our own, of which they do not get what configures a node: a secret is
            passed on to nobody.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, module: str, *arguments: str, name: str) -> None:
        """Run `module` of this package with `arguments`, to be called `name`."""
        # -P: a file in the current folder must not answer to one of our imports.
        self._running[name] = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """End one with SIGKILL, in the middle of whatever it does."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        _close_pipe(process)

    def check(self) -> None:
        """See that none has failed.

        Raises:
            ChildFailed: One has.
        """
        for name, process in list(self._running.items()):
            code = process.poll()
            if code:
                raise ChildFailed(name, code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            _close_pipe(process)
        try:
            for process in self._running.values():
                process.wait(FAREWELL_MAX)
        except BaseException as late:
            for process in self._running.values():
                process.kill()
                process.wait()
            if not isinstance(late, subprocess.TimeoutExpired):
                raise


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def end_with_parent() -> None:
    """Be told to end by SIGTERM as soon as standard input closes. Called once, by a child."""

    def watch() -> None:
        # Not through `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
