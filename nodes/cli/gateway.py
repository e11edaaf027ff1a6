"""`peerfabric gateway`: a fabric over HTTP, by one process or several."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import click
from msgspec.structs import replace

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.also import shows_others
from peerfabric.nodes.cli.children import end_with_parent
from peerfabric.nodes.cli.common import Settings, forget_variables, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.nodes.notify import READY, STOPPING, notify
from peerfabric.options import Options

WORKERS_MAX: Final = 64
"""As many slots as a spool has."""
STATE_VARIABLE: Final = "STATE_DIRECTORY"
"""systemd sets it for services with StateDirectory=."""
FATAL: Final = (Exit.USAGE, Exit.IN_USE, Exit.NO_SPOOL, Exit.COPY)
"""A worker that ends so before it was ready would do so each time."""


@click.command()
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1:7780",
    show_default=True,
    help="HOST:PORT, or unix:PATH, which needs no token. Beyond this machine only with --token-file, behind TLS.",
)
@click.option(
    "--spool",
    metavar="FOLDER",
    help="Where messages are kept until they are processed; any number of processes may have it.  "
    "[default: $STATE_DIRECTORY, or none]",
)
@click.option("--fsync", is_flag=True, help="What is accepted survives a loss of power, too.")
@click.option(
    "--token-file",
    metavar="PATH",
    help="Lines NAME:SCOPE,SCOPE:PATTERN:SECRET.  [default: one token is drawn, and kept in the runtime folder]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes; one that dies is started again.",
)
@click.option("--read-only", is_flag=True, help="Nothing can be sent, taken or changed.")
@click.option(
    "--host", "hosts", metavar="NAME", multiple=True, help="A name by which it may be asked, too; repeatable."
)
@click.option(
    "--cors", metavar="ORIGIN", multiple=True, help="Pages of that origin may ask it, in browsers; repeatable."
)
@click.option("--worker", hidden=True, metavar="SOCKET,PIPE", help="Descriptors of a worker.")
@click.option("--keys", hidden=True, metavar="PATH", help="The file of idempotency keys of workers without a spool.")
@shows_others
@joins_fabric
def gateway(
    listen: str,
    spool: str | None,
    fsync: bool,
    token_file: str | None,
    workers: int,
    read_only: bool,
    hosts: tuple[str, ...],
    cors: tuple[str, ...],
    worker: str | None,
    keys: str | None,
    also: tuple[Sequence[str], str | None],
    settings: Settings,
) -> None:
    """Let programs in any language send to queues, take from them, publish, subscribe and call, over HTTP.

    SIGTERM is a good end, with exit code 0: nothing new is accepted, and what was taken may be settled for 5 s. Under
    systemd, a service of Type=notify.
    """
    check_installed()
    from peerfabric.gateway.main import Address, check_open, listening
    from peerfabric.gateway.others import others

    address = Address.parse(listen)
    check_open(address, token_file)
    spool = spool or os.environ.get(STATE_VARIABLE, "").partition(":")[0] or None
    if fsync and spool is None:
        raise ConfigError("--fsync is about a spool; give --spool FOLDER")
    serving = partial(_serve, settings, address, spool, fsync, token_file, read_only, hosts, cors, others(*also))
    if worker is not None:
        # The one who started us waits for signals, and what it does not hear we should not, either, by default.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
        end_with_parent()
        listener, pipe = map(int, worker.split(","))
        serving(socket.socket(fileno=listener), keys, lambda: _write_ready(pipe))
        return
    sock, address = listening(address)
    try:
        with sock:
            number = _run(settings, address, sock, workers, spool, token_file, serving)
    finally:
        if address.path:
            os.unlink(address.path)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGHUP:
        raise SystemExit(128 + number)


def _run(
    settings: Settings,
    address: Any,
    sock: socket.socket,
    workers: int,
    spool: str | None,
    token_file: str | None,
    serving: Any,
) -> int:
    """Serve by this process, or by workers, until a signal comes, whose number is returned."""
    from peerfabric.gateway.workers import Supervisor, WorkerFailed, command_of

    _tell(settings.output, address, spool, token_file)

    def ready() -> None:
        if settings.output is Form.JSON:
            print_line(to_json({"ready": workers}))
        notify(READY)

    if workers == 1:
        number: int = serving(sock, None, ready)
        notify(STOPPING)
        return number
    keys = None if spool is not None else tempfile.mkdtemp(prefix="peerfabric-gateway-")
    try:
        # Those of the command line, so that a worker reads all as this process does; the last of two of a name counts.
        arguments = [*sys.argv[1:], *(["--keys", f"{keys}/keys"] if keys else []), "--worker"]
        sock.set_inheritable(False)
        supervisor = Supervisor(command_of(arguments), workers, sock.fileno(), fatal=FATAL, ready=ready)
        try:
            return supervisor.run()
        except WorkerFailed as error:
            raise Failure(str(error), Exit(error.code)) from None
        finally:
            notify(STOPPING)
    finally:
        if keys is not None:
            shutil.rmtree(keys, ignore_errors=True)


def _serve(
    settings: Settings,
    address: Any,
    spool: str | None,
    fsync: bool,
    token_file: str | None,
    read_only: bool,
    hosts: tuple[str, ...],
    cors: tuple[str, ...],
    also: Any,
    sock: socket.socket,
    keys: str | None,
    ready: Any,
) -> int:
    """Serve by this process until a signal comes, whose number is returned."""
    from peerfabric.gateway.app import Gateway
    from peerfabric.gateway.main import serve, tokens_for
    from peerfabric.nodes.aio.node import AsyncNode

    tokens = tokens_for(address, token_file)
    arguments = settings.arguments()
    # Unlike what other commands send, what is accepted here is nobody's who still waits for it.
    arguments["options"] = replace(arguments["options"], drain_timeout=Options().drain_timeout)
    forget_variables()

    async def run() -> int:
        node = AsyncNode(settings.name or "gateway", spool=spool, fsync=fsync or None, **arguments)
        names = address.names(hosts)
        gate = Gateway(node, tokens=tokens, hosts=names, cors=cors, read_only=read_only, keys=keys, also=also)
        return await serve(gate, sock, ready=ready)

    return asyncio.run(run())


def _tell(form: Form, address: Any, spool: str | None, token_file: str | None) -> None:
    """Say where it listens, what keeps what it accepts, and where its token is."""
    from peerfabric.discovery.host import runtime_folder
    from peerfabric.gateway.auth import drawn_token
    from peerfabric.gateway.main import TOKEN_FILE

    where: str | None = token_file
    drawn = ""
    if token_file is None and not address.path:
        path = runtime_folder() / TOKEN_FILE
        secret, is_new = drawn_token(path)
        where, drawn = str(path), secret if is_new else ""
    if form is Form.JSON:
        print_line(to_json({"listen": address.url, "spool": spool, "token_file": where}))
        return
    print_line(f"listening at {address.url}")
    print_line(f"spool: {spool}" if spool else "no spool: what is not processed is lost when this ends; give --spool")
    if where is not None:
        print_line(f"tokens: {where}")
    if drawn and sys.stdout.isatty():  # not into the log of a service
        print_line(f"token: {drawn}")


def _write_ready(pipe: int) -> None:
    try:
        os.write(pipe, b"r")
    except BrokenPipeError:
        pass  # nobody waits for it any more
    os.close(pipe)


def check_installed() -> None:
    """See that the extra `web` is there.

    Raises:
        ConfigError: It is not.
    """
    from importlib.util import find_spec

    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(f"the gateway needs {name}, which is not installed; pip install 'peerfabric[web]'")
