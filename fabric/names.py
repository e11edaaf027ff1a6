"""Names of queues, topics, fabrics and nodes, and the patterns that match topics."""

from __future__ import annotations

import re
from typing import Final

from peerfabric.arguments import plain
from peerfabric.errors import BadName

NAME_BYTES_MAX: Final = 255

STATUS_SERVICE: Final = "$peerfabric.status"
"""Answered by every node, and told of by none. No user can serve it: no name that is given has a `$`."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_NO_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?|>")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a `kind` ("queue", "topic", "fabric", "node").

    Raises:
        BadName: It is empty, too long, or has a character that is not allowed.
    """
    _check_text(kind, name)
    if not _NAME.fullmatch(name):
        raise BadName(kind, name, _what_is_wrong(name))
    return plain(name)


def _what_is_wrong(name: str) -> str:
    wrong = _NO_CHARACTER.search(name)
    if wrong is not None:
        return f"has {wrong.group()!r}, a character that is not allowed"
    return "has an empty part: a '.' stands between two others"


def is_name(text: str) -> bool:
    """Whether `text` may name something, as `check_name` would say."""
    return len(text) <= NAME_BYTES_MAX and _NAME.fullmatch(text) is not None


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it may select topics: a name in which `*` is one part and a final `>` is the rest.

    Raises:
        BadName: It is empty, too long, or not of that form.
    """
    _check_text("pattern", pattern)
    if not _PATTERN.fullmatch(pattern):
        raise BadName("pattern", pattern, "is not a topic name with '*' for one part or a final '>' for the rest")
    return plain(pattern)


def _check_text(kind: str, name: str) -> None:
    if not isinstance(name, str):
        raise BadName(kind, name, f"is {type(name).__name__}, not str")
    if not name:
        raise BadName(kind, name, "is empty")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        raise BadName(kind, name[:40] + "…", "is too long")


def matches(pattern: str, topic: str) -> bool:
    """Whether `pattern` selects `topic`; both are checked already."""
    if pattern in (topic, ">"):
        return True
    wanted, parts = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))


def is_wildcard(pattern: str) -> bool:
    """Whether `pattern` is not simply the name of one topic."""
    return "*" in pattern or ">" in pattern


def filter_prefix(pattern: str) -> bytes:
    """The bytes with which every topic frame that `pattern` selects begins.

    Topic frames are the name followed by NUL, so an exact name never selects a longer one
    (ZeroMQ filters by prefix: `a` alone would also pass `ab`).
    """
    parts = pattern.split(".")
    for at, part in enumerate(parts):
        if part in ("*", ">"):
            return "".join(f"{literal}." for literal in parts[:at]).encode()
    return pattern.encode() + b"\0"


def queue_of(stream: str) -> str:
    """The queue that `stream` belongs to: its text form is node id, epoch and queue."""
    return stream.split(":", 2)[-1]
