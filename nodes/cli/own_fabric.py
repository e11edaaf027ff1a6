"""Private fabric for one job, which nobody else is in and nothing of which stays."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from peerfabric.discovery.host import RUNTIME_VARIABLE
from peerfabric.nodes.config import VARIABLES
from peerfabric.nodes.settings import FABRIC_VARIABLE


@contextmanager
def own_fabric(job: str) -> Iterator[dict[str, str]]:
    """Let nodes of this process meet in a new fabric; yields the environment with which children join it.

    Its runtime folder is its own too: what a killed process leaves there goes with the folder. What else configures
    nodes in the environment does not count meanwhile: they stay on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="peerfabric-", ignore_cleanup_errors=True) as runtime:
        variables = {RUNTIME_VARIABLE: runtime, FABRIC_VARIABLE: f"{job}-{secrets.token_hex(4)}"}
        before = {name: os.environ.pop(name, None) for name in (*VARIABLES, *variables)}
        os.environ.update(variables)
        try:
            yield variables
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
