"""Options of every command that joins a fabric, and the node made of them."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
import msgspec

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.config import SECRET_VARIABLE, VARIABLES, merged
from peerfabric.options import Options

DRAIN_TIMEOUT: Final = 1.0
"""Seconds for settling what is left at the end. Commands wait themselves for what matters, so it is after Ctrl-C."""


OURS: Final = frozenset({"fabric", "reach", "secret", "peers", "discovery", "interfaces", "allow", "revoked"})
"""The keys of a configuration that commands follow. The others are of the one node that it was written for: a command
that took its name, identity, spool or port would be a second copy of it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options that all commands share."""

    fabric: str | None
    peers: tuple[str, ...]
    name: str | None
    output: Form
    config: str | None = None
    identity: str | None = None

    def arguments(self, peers: Sequence[str] = ()) -> dict[str, Any]:
        """What a node is made with: the options, and of the configuration what is of the fabric.

        Raises:
            ConfigError: The configuration cannot be used.
        """
        given = {"fabric": self.fabric, "peers": [*self.peers, *peers] or None}
        values, _ = merged(given, os.environ, self.config)
        options = msgspec.structs.replace(values.get("options", Options()), drain_timeout=DRAIN_TIMEOUT)
        found = {key: value for key, value in values.items() if key in OURS} | {"options": options}
        if not isinstance(found.get("discovery", ""), str):
            # What the node remembers is in a folder of its own.
            found["discovery"] = [name for name in found["discovery"] if name != "remembered"]
        if self.identity is not None:
            found["identity"] = self.identity
        return found

    def node(self, *peers: str) -> Node:
        """A node as the options and the configuration say, which also dials `peers`.

        Raises:
            ConfigError: One of them cannot work.
        """
        arguments = self.arguments(peers)
        forget_variables()
        return Node(self.name, **arguments)


def forget_variables() -> None:
    """Take what configures a node out of the environment, when it was read; only what holds a secret is left."""
    for variable in VARIABLES:
        if variable != SECRET_VARIABLE:
            os.environ.pop(variable, None)


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice([form.value for form in Form]),
    default=Form.TABLE.value,
    help="For people, or one JSON object a line.",
    show_default=True,
)


def joins_fabric(
    command: Callable[..., None] | None = None,
    *,
    name: str = "peerfabric-PID",
    config: str = "A TOML file: what it says of the fabric.",
) -> Callable[..., Any]:
    """Give a command the shared options, and call it with the `Settings` made of them.

    Args:
        name: What its node is called, for the help of `--name`.
        config: What its node follows, for that of `--config`.
    """
    if command is None:
        return functools.partial(_joining, name, config)
    return _joining(name, config, command)


def _joining(default_name: str, followed: str, command: Callable[..., None]) -> Callable[..., None]:
    @click.option("--fabric", metavar="NAME", help="The fabric to join.  [default: $PEERFABRIC_FABRIC or 'default']")
    @click.option(
        "--peer", "peers", metavar="ENDPOINT", multiple=True, help="A node that discovery cannot find; repeatable."
    )
    @click.option("--config", metavar="PATH", help=f"{followed}  [default: $PEERFABRIC_CONFIG]")
    @click.option("--identity", metavar="PATH", help="A key to join with, where not every node is let in.")
    @click.option("--name", metavar="NAME", help=f"What others call this node.  [default: {default_name}]")
    @click.option("-v", "--verbose", is_flag=True, help="Say who joins and leaves.")
    @output_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        fabric: str | None,
        peers: tuple[str, ...],
        config: str | None,
        identity: str | None,
        name: str | None,
        verbose: bool,
        output: str,
        **rest: Any,
    ) -> None:
        logging.basicConfig(format="peerfabric: %(message)s", level=logging.INFO if verbose else logging.WARNING)
        settings = Settings(
            fabric=fabric, peers=peers, name=name, output=Form(output), config=config, identity=identity
        )
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
