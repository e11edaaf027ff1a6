"""The command `peerfabric gateway` as a process of tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.nodes.conftest import DEADLINE, eventually


class Command:
    """`peerfabric gateway` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", "gateway", "-o", "json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: dict[str, Any] = {}

    def ready(self) -> Command:
        """Wait until all workers answer."""
        assert self.process.stdout is not None
        while "ready" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.finish()
            self.said |= json.loads(line)
        return self

    def client(self) -> httpx.Client:
        token = Path(self.said["token_file"]).read_text().strip()
        return httpx.Client(
            base_url=self.said["listen"], headers={"authorization": f"Bearer {token}"}, timeout=DEADLINE
        )

    def workers(self) -> list[int]:
        """Their process numbers."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def finish(self) -> tuple[int, str]:
        """Exit code and standard error, once it has ended."""
        _, error = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, error

    def end(self) -> tuple[int, str]:
        """The same after SIGTERM."""
        self.process.terminate()
        return self.finish()


def gone(processes: list[int]) -> None:
    """Wait until none of them is there."""
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), f"the end of {processes}")
