"""Scripts of child processes that signals end."""

from __future__ import annotations

import signal
import textwrap
from typing import Any

import pytest

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from peerfabric import *

def say_when(condition):
    def watch():
        while not condition():
            time.sleep(0.001)
        print("ready", flush=True)
    threading.Thread(target=watch, daemon=True).start()

def lifecycle(node):
    return getattr(node, "_async", node)._lifecycle

def waiters(node):
    return sum(len(handle._gate) for handle in lifecycle(node).handles)

"""


def blocking(body: str, options: str = "") -> str:
    """A script with the statements of `body` in a `Node`."""
    return f"{PRELUDE}with Node('it', signals=True{options}) as node:\n{textwrap.indent(body, '    ')}"


def awaiting(body: str, options: str = "") -> str:
    """The same in an `AsyncNode`."""
    head = f"async def main():\n    async with AsyncNode('it', signals=True{options}) as node:\n"
    return f"{PRELUDE}{head}{textwrap.indent(body, '        ')}\nasyncio.run(main())\n"


def tell(child: Any) -> None:
    """Let a script go on that reads a line."""
    child.process.stdin.write("\n")
    child.process.stdin.flush()
