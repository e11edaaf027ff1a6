"""The stages in the life of a node."""

from __future__ import annotations

from enum import Enum


class Life(Enum):
    """Where a node stands between construction and close.

    NEW ──start──▶ RUNNING ──close──▶ CLOSING ──▶ CLOSED
     └───────────────────close──────────────────────▲

    FORKED: in a child of the process in which it ran.
    """

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"
    FORKED = "forked"
