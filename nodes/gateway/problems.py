"""Problems: refusals of the gateway as RFC 9457 has them, and those that errors of the fabric become."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from peerfabric.errors import (
    BadName,
    ConfigError,
    DecodeError,
    EncodeError,
    FabricError,
    MessageTooLarge,
    NodeClosed,
    NoServer,
    NotConfirmed,
    QueueFull,
    Rejected,
    RemoteError,
    ServerLost,
    ServiceBusy,
    SpoolError,
    SpoolFull,
    TimedOut,
)

MEDIA_TYPE: Final = "application/problem+json"
TYPES: Final = "urn:peerfabric:problem:"
RETRY_AFTER: Final = 1.0
"""Seconds, where nothing tells how long it will take."""

SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "about:blank, or urn:peerfabric:problem:… for programs"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "for people; ends with what to do next"},
    },
}
"""Of the body of every answer from 400 on."""


class Problem(Exception):
    """An answer other than the one that was asked for.

    Args:
        status: Of HTTP, from 400 on.
        title: The same for every problem of that kind; "": the phrase of the status.
        detail: This one, for people; it ends with the next step.
        code: For programs: the end of the problem's type. "": the status says it all.
        retry_after: Seconds after which the same request may be answered otherwise.
        headers: Further headers of the answer.
        members: Further members of the body.
    """

    def __init__(
        self,
        status: int,
        title: str = "",
        detail: str = "",
        *,
        code: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        self.status, self.title = status, title or HTTPStatus(status).phrase
        self.detail, self.code = detail, code
        self.retry_after, self.headers, self.members = retry_after, dict(headers or {}), members
        super().__init__(f"{status} {self.title}: {detail}")

    def body(self) -> dict[str, Any]:
        """The document of the answer."""
        kind = f"{TYPES}{self.code}" if self.code else "about:blank"
        return {"type": kind, "title": self.title, "status": self.status, "detail": self.detail, **self.members}

    def response(self) -> Response:
        """The whole answer."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))  # whole seconds, as HTTP has them
        return Response(msgspec.json.encode(self.body()), self.status, headers, MEDIA_TYPE)


def problem_of(error: FabricError) -> Problem:
    """The problem that an error of the fabric is to whoever asked over HTTP."""
    detail = str(error)
    match error:
        case BadName():
            return Problem(404, "No such name", detail, code="bad-name")
        case MessageTooLarge(size=size, limit=limit):
            return Problem(413, "Message too large", detail, code="too-large", size=size, limit=limit)
        case EncodeError():
            return Problem(400, "Cannot be sent", detail, code="cannot-be-sent")
        case DecodeError(path=path):
            return Problem(422, "Wrong type", detail, code="wrong-type", path=path)
        case QueueFull():
            return Problem(503, "Queue full", detail, code="queue-full", retry_after=RETRY_AFTER)
        case SpoolFull(path=path):
            return Problem(503, "Spool full", detail, code="spool-full", retry_after=5 * RETRY_AFTER, path=path)
        case SpoolError(path=path):
            return Problem(503, "Disk refused", detail, code="spool-error", retry_after=5 * RETRY_AFTER, path=path)
        case NodeClosed():
            return closing()
        case NotConfirmed(receipt=receipt):
            return Problem(504, "Not confirmed", detail, code="not-confirmed", id=receipt.id)
        case Rejected(message_id=identity, reason=reason):
            return Problem(422, "Rejected", detail, code="rejected", id=identity, reason=reason)
        case NoServer(service=service):
            return Problem(503, "No server", detail, code="no-server", retry_after=RETRY_AFTER, service=service)
        case ServiceBusy(service=service, retry_after=seconds):
            return Problem(503, "Service busy", detail, code="service-busy", retry_after=seconds, service=service)
        case ServerLost(service=service):
            return Problem(502, "Server lost", detail, code="server-lost", service=service)
        case RemoteError(type=kind, text=text):
            return Problem(502, "Handler failed", detail, code="remote-error", error=kind, text=text)
        case TimedOut():
            return Problem(504, "Timed out", detail, code="timed-out")
        case ConfigError():
            return Problem(400, "Cannot work", detail, code="cannot-work")
        case _:
            return Problem(500, "", detail)


def closing() -> Problem:
    """The refusal of what would begin something new while the gateway ends."""
    detail = "this gateway is about to end, and nothing was accepted; send the same request again, to another one"
    return Problem(503, "Closing", detail, code="closing", retry_after=RETRY_AFTER)
