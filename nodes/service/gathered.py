"""Gathered: what all servers of a service have answered to one question."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from peerfabric.errors import RemoteError

R_co = TypeVar("R_co", covariant=True)


class Gathered(Struct, Generic[R_co], frozen=True, kw_only=True):
    """What all servers of a service have answered, by their node ids.

    replies  of those that did
    errors   of those whose handlers raised something
    missing  why there is nothing of the others: "timed out", "lost", "busy", "unfit", "too large" or "not sent"
    names    what people call them
    """

    replies: dict[str, R_co]
    errors: dict[str, RemoteError]
    missing: dict[str, str]
    names: dict[str, str]
