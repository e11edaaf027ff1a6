"""`peerfabric stacks`: where the threads of a running process are."""

from __future__ import annotations

import click

from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json


@click.command()
@click.argument("pid", type=click.IntRange(1))
@output_option
def stacks(pid: int, output: str) -> None:
    """Print where each thread of process PID is now, the innermost call last.

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
        raise Failure(f"process {pid} is stopped (SIGSTOP, or a debugger); `kill -CONT {pid}` lets it go on")
    for stack in door.ask(found[-1], "stacks").get("stacks", ()):
        if Form(output) is Form.JSON:
            print_line(to_json(stack))
            continue
        native = f" ({stack['native']})" if stack.get("native") else ""
        print_line(printable(f"{stack.get('kind') or 'thread'} {stack.get('name')}{native}"))
        for line in stack.get("lines", ()):
            print_line(f"    {printable(str(line))}")
