"""`peerfabric ui`: the page of a gateway that changes nothing, opened in a browser."""

from __future__ import annotations

import asyncio
import html
import os
import secrets
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.common import Settings, forget_variables, joins_fabric
from peerfabric.nodes.cli.gateway import Wanted, checked_address
from peerfabric.nodes.cli.output import Form, print_line, to_json

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Without one of them a browser would be one of text, in the terminal in which this runs."""


@click.command()
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1:0",
    show_default=True,
    help="HOST:PORT of this machine; port 0 is any that is free.",
)
@click.option("--no-browser", is_flag=True, help="Only say where the page is.")
@click.option(
    "--also", metavar="NAME=URL", multiple=True, help="Another gateway that the page shows as well; repeatable."
)
@click.option("--also-tokens", metavar="PATH", help="Lines NAME TOKEN, of those.")
@joins_fabric(name="ui")
def ui(listen: str, no_browser: bool, also: tuple[str, ...], also_tokens: str | None, settings: Settings) -> None:
    """Look at the fabric in a browser: queues, nodes, topics, dead letters, warnings, live.

    It is a gateway that changes nothing, with a token of its own, until Ctrl-C. To act on what one sees there, open
    the page of `peerfabric gateway`.
    """
    address = checked_address(Wanted(listen=listen))
    if address.path:
        raise ConfigError("no browser reaches a unix socket; give --listen HOST:PORT")
    from peerfabric.gateway.app import Gateway
    from peerfabric.gateway.auth import READING, Tokens
    from peerfabric.gateway.main import listening, serve
    from peerfabric.gateway.others import others
    from peerfabric.nodes.aio.node import AsyncNode

    known = others(also, also_tokens)
    secret = secrets.token_urlsafe(24)
    tokens = Tokens.of(secret, "ui", sorted(READING - {""}))
    arguments = settings.arguments()
    forget_variables()

    async def run() -> int:
        node = AsyncNode(settings.name or "ui", **arguments)
        gate = Gateway(node, tokens=tokens, hosts=address.names(()), read_only=True, also=known)
        return await serve(gate, sock, ready=lambda: _tell(settings.output, url, no_browser, file))

    sock, address = listening(address)
    url = f"{address.url}/#token={secret}"
    with sock, _leading_to(url) as file:
        number = asyncio.run(run())
    if number == signal.SIGINT:
        raise KeyboardInterrupt


@contextmanager
def _leading_to(url: str) -> Iterator[Path]:
    """A file that leads to the page: all users can read what a browser is started with, so the token is not in that."""
    from peerfabric.discovery.host import runtime_folder

    file = runtime_folder() / f"~ui-{os.getpid()}.html"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(file, flags, 0o600), "w") as opened:
        opened.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(url)}">\n')
    try:
        yield file
    finally:
        with suppress(FileNotFoundError):
            file.unlink()


def _tell(form: Form, url: str, no_browser: bool, file: Path) -> None:
    if form is Form.JSON:
        print_line(to_json({"url": url}))
    else:
        print_line(f"the page is at {url}")
        print_line("Ctrl-C ends it")
    if not no_browser and (sys.platform == "darwin" or any(map(os.environ.get, SCREENS))):
        # Some browsers are waited for until they are closed.
        threading.Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True, name="peerfabric-browser").start()
