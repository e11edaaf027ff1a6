"""`peerfabric stacks`: where the threads of a running process are."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from typing import Final

import click

from peerfabric import discovery, errors, nodes
from peerfabric.errors import counted
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.completion import pids_there
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json


@click.command()
@click.argument("pid", type=click.IntRange(1), shell_complete=pids_there)
@click.option("--whole", is_flag=True, help="All calls, also those in libraries.")
@output_option
def stacks(pid: int, whole: bool, output: str) -> None:
    """Print where each thread of process PID is now, the innermost call last.

    Those that run code of the program come first. Calls in libraries are counted, but for the innermost one; --whole
    and JSON have them all.

    Its interpreter is not stopped for that, and its engine not asked, so it works where a node is stuck.
    """
    found = [heard for heard in door.answers(queues=1) if heard.pid == pid]
    if not found:
        raise Failure(
            f"process {pid} has no admin socket here; `peerfabric top` lists those that have, `peerfabric doctor` "
            f"says why one may not",
            Exit.NOTHING,
        )
    if found[-1].status is None and door.is_stopped(pid):
        raise Failure(f"{found[-1].title}: {door.stopped(pid)}")
    found_there = door.ask(found[-1], "stacks").get("stacks", ())
    for stack in sorted(found_there, key=lambda each: not any(map(is_of_program, each.get("lines", ())))):
        if Form(output) is Form.JSON:
            print_line(to_json(stack))
            continue
        native = f" ({stack['native']})" if stack.get("native") else ""
        print_line(printable(f"{stack.get('kind') or 'thread'} {stack.get('name')}{native}"))
        lines = [str(line) for line in stack.get("lines", ())]
        for line in lines if whole else folded(lines):
            print_line(f"    {printable(line)}")


_LIBRARIES: Final = (
    *{os.path.join(path, "") for name, path in sysconfig.get_paths().items() if name.endswith(("stdlib", "lib"))},
    # Of this package, as files lie where they are developed, too.
    *{os.path.dirname(os.path.realpath(module.__file__ or "")) + "/" for module in (discovery, errors, nodes)},
    "/site-packages/",
    "/dist-packages/",
    "/lib/python3",
    "/lib64/python3",
    "<frozen ",
)


def is_of_program(line: str) -> bool:
    """Whether a line "FILE:LINE FUNCTION: SOURCE" is of the program, and not of Python, of this package, or another."""
    file = line.partition(" ")[0] if not line.startswith("<") else line
    return not any(part in file or part in os.path.realpath(file) for part in _LIBRARIES)


def folded(lines: Sequence[str]) -> list[str]:
    """The calls of the program, and the innermost one; how many others are between them."""
    found: list[str] = []
    left = 0
    for place, line in enumerate(lines):
        if not is_of_program(line) and place < len(lines) - 1:
            left += 1
            continue
        if left:
            found.append(f"… {counted(left, 'call')} in libraries")
            left = 0
        found.append(line)
    return found
