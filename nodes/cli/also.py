"""Options of commands that show the hosts of other gateways, too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


def shows_others(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--also` and `--also-tokens`, and call it with `also`, what was said with them."""

    @click.option(
        "--also",
        metavar="NAME=URL",
        multiple=True,
        help="Another gateway, whose host is shown together with this one; repeatable.",
    )
    @click.option("--also-tokens", metavar="PATH", help="Lines NAME TOKEN: the tokens that these gateways know.")
    @functools.wraps(command)
    def wrapped(*args: Any, also: tuple[str, ...], also_tokens: str | None, **rest: Any) -> None:
        command(*args, also=(also, also_tokens), **rest)

    return wrapped
