"""Processes as the system shows them, also those that are stopped: their programs, and the nodes that they hold."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from peerfabric.discovery.host import runtime_folder
from peerfabric.errors import ConfigError

_FILE: Final = re.compile(r"/[0-9a-f]{32}\.\d+\.json$")
"""How the file ends by which a node is found on its host; its process has it open for as long as the node runs."""
_VALUED: Final = ("-W", "-X", "--check-hash-based-pycs")
"""Options of Python that are followed by a value."""


class Present(msgspec.Struct, frozen=True):
    """A node, as its file says."""

    node_id: str
    name: str = ""
    fabric: str = ""


class Shown(NamedTuple):
    """Whom a process is known as."""

    nodes: tuple[str, ...]
    program: str

    def __str__(self) -> str:
        return " in ".join(part for part in (", ".join(self.nodes), self.program) if part)


def shown(pid: int) -> Shown:
    """The names of the nodes of a process, and its program."""
    return Shown(tuple(dict.fromkeys(node.name for node in nodes_of(pid) if node.name)), program(pid))


def nodes_of(pid: int) -> list[Present]:
    """The nodes that a process holds, as far as the system shows its open files."""
    found: list[Present] = []
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError, msgspec.MsgspecError):
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if _FILE.search(path):
                    with open(path, "rb") as file:
                        found.append(msgspec.json.decode(file.read(), type=Present))
    return sorted(found, key=lambda node: (node.name, node.node_id))


def pids() -> dict[str, int]:
    """The process of each node of this user on this host, by the node's id; those without an admin socket are left out.

    Nobody is asked, so it takes no time where one is stopped.
    """
    try:
        names = os.listdir(runtime_folder() / "~admin")
    except (OSError, ConfigError):
        return {}
    numbers = {name.partition("-")[0] for name in names if name.endswith(".sock")}
    return {node.node_id: int(pid) for pid in numbers if pid.isdigit() for node in nodes_of(int(pid))}


def program(pid: int) -> str:
    """The script or module that a process of Python runs, else its command; without arguments, which may be secret."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return ""
    command = os.path.basename(words[0])
    return _of_python(words[1:]) or command if command.startswith(("python", "pypy")) else command


def _of_python(words: list[str]) -> str:
    skips = False
    for place, word in enumerate(words):
        if skips:
            skips = False
        elif word == "-m":
            return words[place + 1] if place + 1 < len(words) else ""
        elif word in ("-c", "-"):
            return f"python {word}"
        elif word in _VALUED:
            skips = True
        elif not word.startswith("-"):
            return os.path.basename(word)
        elif word[1:2] != "-" and word.endswith("m") and place + 1 < len(words):
            return words[place + 1]  # -Im module
    return ""
