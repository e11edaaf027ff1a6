"""Notifications of systemd (sd_notify): that a service is ready, is at work, or stops. Nobody else is told."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
STATUS: Final = "STATUS"
"""With = and a text for people: what the service does just now."""


def notify(state: str) -> None:
    """Tell whoever started this process as a service of `Type=notify`; one who does not listen is not told."""
    path = os.environ.get(VARIABLE, "")
    if not path.startswith(("/", "@")):
        return
    import socket  # there is something to tell only in a service

    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as telling:
        # systemd writes Linux's abstract namespace with an @ in place of the leading NUL.
        telling.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
