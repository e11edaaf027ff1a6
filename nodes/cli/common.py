"""Options of every command that joins a fabric, and the node made of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.output import Form
from peerfabric.options import Options

DRAIN_TIMEOUT: Final = 1.0
"""Seconds for settling what is left at the end. Commands wait themselves for what matters, so it is after Ctrl-C."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options that all commands share."""

    fabric: str | None
    peers: tuple[str, ...]
    name: str | None
    output: Form

    def node(self) -> Node:
        """A node as the options say.

        Raises:
            ConfigError: One of them cannot work.
        """
        return Node(self.name, fabric=self.fabric, peers=self.peers, options=Options(drain_timeout=DRAIN_TIMEOUT))


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice([form.value for form in Form]),
    default=Form.TABLE.value,
    help="For people, or one JSON object a line.",
    show_default=True,
)


def joins_fabric(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, and call it with the `Settings` made of them."""

    @click.option("--fabric", metavar="NAME", help="The fabric to join.  [default: $PEERFABRIC_FABRIC or 'default']")
    @click.option(
        "--peer", "peers", metavar="ENDPOINT", multiple=True, help="A node that discovery cannot find; repeatable."
    )
    @click.option("--name", metavar="NAME", help="What others call this node.  [default: peerfabric-PID]")
    @click.option("-v", "--verbose", is_flag=True, help="Say who joins and leaves.")
    @output_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        fabric: str | None,
        peers: tuple[str, ...],
        name: str | None,
        verbose: bool,
        output: str,
        **rest: Any,
    ) -> None:
        logging.basicConfig(format="peerfabric: %(message)s", level=logging.INFO if verbose else logging.WARNING)
        settings = Settings(fabric=fabric, peers=peers, name=name, output=Form(output))
        command(*args, settings=settings, **rest)

    return wrapped


def timeout_option(default: str, help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--timeout`: seconds, or `none` for ever, which the command gets as None."""

    def convert(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
        if value == "none":
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e9:
            raise click.BadParameter(f"{value!r} is not a number of seconds, nor 'none' for ever")
        return seconds

    return click.option(
        "--timeout", metavar="SECONDS", default=default, show_default=True, callback=convert, help=help_text
    )
