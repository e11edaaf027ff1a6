"""Proposals: the names that somebody may have meant who typed one that is not there."""

from __future__ import annotations

from collections.abc import Iterable

from peerfabric.nodes.cli.output import printable
from peerfabric.similar import are_similar


def did_you_mean(name: str, there: Iterable[str]) -> str:
    """A question in brackets, with a blank before it; empty if `name` is there, or nothing like it is."""
    names = set(there)
    near = [] if name in names else sorted(other for other in names if are_similar(name, other))
    return f" (did you mean {' or '.join(repr(printable(each)) for each in near[:3])}?)" if near else ""
