"""`peerfabric gateway`: a fabric over HTTP, by one process or several."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec
from msgspec.structs import replace

from peerfabric.discovery.host import runtime_folder
from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.children import end_with_parent
from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.offline import warn
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.nodes.config import Configuration, merged
from peerfabric.nodes.notify import READY, STOPPING, notify

if TYPE_CHECKING:
    from peerfabric.gateway.main import Address

WORKERS_MAX: Final = 64
"""As many slots as a spool has."""
STATE_VARIABLE: Final = "STATE_DIRECTORY"
"""systemd sets it for services with StateDirectory=."""
FATAL: Final = (Exit.USAGE, Exit.IN_USE, Exit.NO_SPOOL, Exit.COPY)
"""A worker that ends so before it was ready would do so each time."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway as the command line asks for it."""

    listen: str = "127.0.0.1:7780"
    spool: str | None = None
    fsync: bool = False
    token_file: str | None = None
    workers: int = 1
    read_only: bool = False
    hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    also_tokens: str | None = None
    keys: str | None = None


Opened = Callable[[str, str | None], object]
"""Called when it answers, with its URL and the token that was drawn for it, if one was."""


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
    "[default: that of the configuration, $STATE_DIRECTORY, or none]",
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
@click.option(
    "--also", metavar="NAME=URL", multiple=True, help="Another gateway that the page shows as well; repeatable."
)
@click.option("--also-tokens", metavar="PATH", help="Lines NAME TOKEN, of those.")
@click.option("--worker", hidden=True, metavar="SOCKET,PIPE", help="Descriptors of a worker.")
@click.option("--keys", hidden=True, metavar="PATH", help="The file of idempotency keys of workers without a spool.")
@joins_fabric(name="that of the configuration, or gateway", config="A TOML file, which is followed whole.")
def gateway(worker: str | None, settings: Settings, **options: Any) -> None:
    """Let programs in any language send to queues, take from them, publish, subscribe and call, over HTTP.

    Its node is all that its configuration says: PEERFABRIC_LISTEN, PEERFABRIC_SPOOL and the
    other variables, and --config. Several workers need a range of ports there.

    SIGTERM is a good end, with exit code 0: nothing new is accepted, and what was taken may be settled for 5 s. Under
    systemd, a service of Type=notify.
    """
    wanted = Wanted(**options)
    if worker is None:
        run(settings, wanted)
        return
    # The one who started us waits for signals, and what it does not hear we should not, either, by default.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
    end_with_parent()
    listener, pipe = map(int, worker.split(","))
    address = checked_address(wanted)
    from peerfabric.gateway.main import own_socket

    sock = own_socket(socket.socket(fileno=listener))
    _serve(settings, completed(settings, wanted), address, sock, lambda: _write_ready(pipe))


def run(settings: Settings, wanted: Wanted, opened: Opened | None = None) -> None:
    """Serve until a signal ends it: SIGTERM well, SIGINT and SIGHUP as they end every command.

    Several workers are started by the command line of this process.

    Raises:
        ConfigError, SpoolError, Failure: It cannot start.
    """
    address = checked_address(wanted)
    wanted = completed(settings, wanted)
    from peerfabric.gateway.main import listening

    sock, address = listening(address, workers=wanted.workers)
    try:
        with sock:
            number = _run(settings, wanted, address, sock, opened)
    finally:
        if address.path:
            with suppress(FileNotFoundError):  # somebody has tidied up
                os.unlink(address.path)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGHUP:
        raise SystemExit(128 + number)


def checked_address(wanted: Wanted) -> Address:
    """Where it is to listen.

    Raises:
        ConfigError: That is no address, it may not be that one, or the extra `web` is not installed.
    """
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(f"the gateway needs {name}, which is not installed; pip install 'peerfabric[web]'")
    from peerfabric.gateway.main import Address, check_open

    address = Address.parse(wanted.listen)
    check_open(address, wanted.token_file)
    return address


def completed(settings: Settings, wanted: Wanted) -> Wanted:
    """With the spool of the configuration, or the folder that systemd gives, if none is named.

    Raises:
        ConfigError: There is none, and something is said of it; the configuration cannot be used, or not by several.
    """
    found = _configuration(settings)
    spool = wanted.spool or found.values.get("spool") or os.environ.get(STATE_VARIABLE, "").partition(":")[0] or None
    if wanted.fsync and spool is None:
        raise ConfigError("--fsync is about a spool; give --spool FOLDER")
    if wanted.workers > 1:
        _check_several(found, wanted.workers)
    return replace(wanted, spool=None if spool is None else os.fspath(spool))


def _configuration(settings: Settings) -> Configuration:
    given = {"name": settings.name, "fabric": settings.fabric, "identity": settings.identity}
    return merged(given, os.environ, settings.config)


def _check_several(found: Configuration, workers: int) -> None:
    """See that nothing in a configuration can be of one node only.

    Raises:
        ConfigError: Something is.
    """
    values = found.values
    for key, is_of_one, step in (
        ("listen", not _has_room(values, workers), f"give a range, such as 'tcp://*:7700-{7699 + 4 * workers}'"),
        ("identity", True, "leave it out: in a spool each worker has one of its own"),
        ("advertise", any(":" in str(each) for each in values.get("advertise", ())), "give addresses without ports"),
    ):
        if key in values and is_of_one:
            source = found.sources[key].replace("argument", f"--{key}")
            raise ConfigError(f"{source} is of one node, and {workers} workers are as many; {step}; or --workers 1")


def _has_room(values: Mapping[str, Any], workers: int) -> bool:
    """Whether so many nodes can listen where these values say."""
    from peerfabric.nodes.io.ports import parse_listen

    listen, secret = str(values.get("listen", "auto")), values.get("secret")
    if not listen.startswith("tcp://"):
        return listen == "auto"
    try:
        found = parse_listen(listen.replace("localhost", "127.0.0.1"))
    except ConfigError:
        return True  # which is for the node to say
    gates = 2 if isinstance(secret, list | tuple) and len(secret) > 1 else 1
    return not found.first or sum(1 for _ in found.sets(gates)) >= workers


def _run(settings: Settings, wanted: Wanted, address: Address, sock: socket.socket, opened: Opened | None) -> int:
    """Serve by this process, or by workers, until a signal comes, whose number is returned."""
    token = _token(wanted, address)
    if not address.is_local:
        warn("others can read tokens and messages on their way here, unless TLS is in front")
        if address.is_any and not wanted.hosts:
            warn("it answers to addresses and 'localhost', and to no other name; give those with --host")

    def ready() -> None:
        _tell(settings.output, wanted, address, token)
        notify(READY)
        if opened is not None:
            opened(address.url, token.secret)

    if wanted.workers == 1:
        number = _serve(settings, wanted, address, sock, ready)
        notify(STOPPING)
        return number
    if os.environ.get("PEERFABRIC_ADMIN") == "off":
        warn("with PEERFABRIC_ADMIN=off a message can be settled only at the worker that it was taken from, of several")
    from peerfabric.gateway.workers import Supervisor, WorkerFailed, command_of

    keys = None if wanted.spool is not None else tempfile.mkdtemp(prefix="peerfabric-gateway-")
    # Those of the command line, so that a worker reads all as this process does.
    arguments = [*sys.argv[1:], *(["--keys", f"{keys}/keys"] if keys else []), "--worker"]
    try:
        return Supervisor(command_of(arguments), wanted.workers, sock.fileno(), fatal=FATAL, ready=ready).run()
    except WorkerFailed as error:
        raise Failure(str(error), Exit(error.code)) from None
    finally:
        notify(STOPPING)
        if keys is not None:
            shutil.rmtree(keys, ignore_errors=True)


def _serve(settings: Settings, wanted: Wanted, address: Address, sock: socket.socket, ready: Callable[[], None]) -> int:
    """Serve by this process until a signal comes, whose number is returned."""
    from peerfabric.gateway.app import Gateway
    from peerfabric.gateway.main import serve, tokens_for
    from peerfabric.gateway.others import others
    from peerfabric.nodes.aio.node import AsyncNode

    tokens = tokens_for(address, wanted.token_file)
    also = others(wanted.also, wanted.also_tokens)
    name = _configuration(settings).values.get("name", "gateway")

    async def go() -> int:
        node = AsyncNode(
            name,
            fabric=settings.fabric,
            peers=settings.peers or None,
            identity=settings.identity,
            spool=wanted.spool,
            fsync=wanted.fsync or None,
            config=settings.config,
        )
        made = Gateway(
            node,
            tokens=tokens,
            hosts=address.names(wanted.hosts),
            cors=wanted.cors,
            read_only=wanted.read_only,
            also=also,
            keys=wanted.keys,
        )
        return await serve(made, sock, ready=ready)

    return asyncio.run(go())


class _Token(NamedTuple):
    """Where tokens are, and the one that was drawn, if one was."""

    where: str | None
    secret: str | None = None
    is_new: bool = False


def _token(wanted: Wanted, address: Address) -> _Token:
    """See that tokens, of this gateway and of others, can be read, before anything is started and said.

    Raises:
        ConfigError: They cannot.
    """
    from peerfabric.gateway.auth import Tokens, drawn_token
    from peerfabric.gateway.main import TOKEN_FILE
    from peerfabric.gateway.others import others

    others(wanted.also, wanted.also_tokens)
    if wanted.token_file is not None:
        Tokens.read(wanted.token_file)
        return _Token(wanted.token_file)
    if address.path:
        return _Token(None)
    path = runtime_folder() / TOKEN_FILE
    return _Token(str(path), *drawn_token(path))


def _tell(form: Form, wanted: Wanted, address: Address, token: _Token) -> None:
    """Say, when it answers, where it listens, what keeps what it accepts, and where its token is."""
    if form is Form.JSON:
        print_line(to_json({"listen": address.url, "spool": wanted.spool, "token_file": token.where}))
        print_line(to_json({"ready": wanted.workers}))
        return
    print_line(f"listening at {address.url}")
    kept = f"spool: {wanted.spool}" if wanted.spool else "no spool: what is not processed is lost when this ends"
    print_line(kept)
    if token.where is not None:
        print_line(f"tokens: {token.where}")
    if token.secret is not None and token.is_new and sys.stdout.isatty():  # not into the log of a service
        print_line(f"token: {token.secret}")
    print_line("ready")


def _write_ready(pipe: int) -> None:
    try:
        os.write(pipe, b"r")
    except BrokenPipeError:
        pass  # nobody waits for it any more
    os.close(pipe)
