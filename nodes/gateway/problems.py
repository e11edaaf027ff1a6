"""Problems: refusals of the gateway as RFC 9457 has them, and those that errors of the fabric become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from peerfabric.errors import (
    BadName,
    Cancelled,
    ConfigError,
    DecodeError,
    EncodeError,
    EndpointInUse,
    FabricError,
    ForkedNode,
    IdentityInUse,
    Incomplete,
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
    Undelivered,
    WouldDeadlock,
    WrongLoop,
)
from peerfabric.nodes.service.answers import IN_PARTS

MEDIA_TYPE: Final = "application/problem+json"
TYPES: Final = "urn:peerfabric:problem:"
RETRY_AFTER: Final = 1.0
"""Seconds, where nothing tells how long it will take."""

SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "for programs: urn:peerfabric:problem:…"},
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
        code: For programs: the end of the problem's type.
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
        code: str,
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
        return {
            "type": f"{TYPES}{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def response(self) -> Response:
        """The whole answer."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))  # whole seconds, as HTTP has them
        return Response(msgspec.json.encode(self.body()), self.status, headers, MEDIA_TYPE)


def problem_of(error: FabricError) -> Problem:
    """The problem that an error of the fabric is to whoever asked over HTTP, in words that mean something there."""
    detail = worded(error)
    match error:
        case BadName():
            return Problem(404, "No such name", detail, code="bad-name")
        case MessageTooLarge(size=size, limit=limit):
            return Problem(413, "Message too large", detail, code="too-large", size=size, limit=limit)
        case EncodeError():
            return Problem(400, "Cannot be sent", detail, code="cannot-be-sent")
        case DecodeError(path=path):
            path = path or _place(detail)
            return Problem(422, "Wrong type", detail, code="wrong-type", path=path)
        case QueueFull():
            return Problem(503, "Queue full", detail, code="queue-full", retry_after=RETRY_AFTER)
        case SpoolFull(path=path):
            return Problem(503, "Spool full", detail, code="spool-full", retry_after=5 * RETRY_AFTER, path=path)
        case SpoolError(path=path):
            return Problem(503, "Disk refused", detail, code="spool-error", retry_after=5 * RETRY_AFTER, path=path)
        case NodeClosed():
            return closing()
        case NoServer(service=service):
            return Problem(503, "No server", detail, code="no-server", retry_after=RETRY_AFTER, service=service)
        case ServiceBusy(service=service, retry_after=seconds):
            return Problem(503, "Service busy", detail, code="service-busy", retry_after=seconds, service=service)
        case ServerLost(service=service):
            return Problem(502, "Server lost", detail, code="server-lost", service=service)
        case RemoteError(text=text) if IN_PARTS in text:
            return Problem(406, "In parts", detail, code="in-parts")
        case RemoteError(type=kind, text=text):
            return Problem(502, "Handler failed", detail, code="remote-error", error=kind, text=text)
        case TimedOut():
            return Problem(504, "Timed out", detail, code="timed-out")
        case ConfigError():
            return Problem(400, "Cannot work", detail, code="cannot-work")
        case _:
            return Problem(500, "", detail, code="failed")


def worded(error: FabricError) -> str:
    """What an error says, with a next step for who asked over HTTP. Its own text is for who writes Python."""
    text = str(error)
    match error:
        case MessageTooLarge(size=size, limit=limit):
            said = f"a body of {size:,} bytes is over the limit of {limit:,}"
            return f"{said}; send a reference to it, or have message_bytes_max raised at all nodes"
        case EncodeError():
            return f"{text.partition('; send ')[0]}; send numbers of 64 bits at most, and a body that is less nested"
        case DecodeError(reason=reason, path=path):
            return f"the body does not fit: {reason}{f' at {path}' if path else ''}; send what is wanted"
        case QueueFull(queue=queue, limit=limit):
            said = f"queue {queue!r}: the buffer of {limit:,} bytes is full, and the message was not accepted"
            return f"{said}; send it again later, and start a consumer, or more of them"
        case SpoolFull():
            return f"{text.rpartition('; ')[0]}; send it again later, when consumers have drained it or there is space"
        case NotConfirmed(state=state):
            said = f"not {state} in time; the message is accepted and may still be processed"
            return f"{said}: do not send it again"
        case Rejected(message_id=identity, reason=reason):
            return f"message {identity} was not processed: {reason}; look at /v1/dead, where it can be retried"
        case NoServer():
            found = text.partition("; look at its name")[0]
            return (
                f"{found}; look at its name with `peerfabric services`, and start a node that serves it in this fabric"
            )
        case ServerLost():
            return text.replace("give its Service idempotent=True to", "ask with ?idempotent=true to")
        case RemoteError(text=said) if IN_PARTS in said:
            return f"{said.partition(IN_PARTS)[0]}is answered in parts; send the header Accept: application/x-ndjson"
        case Incomplete(service=service, wanted=wanted):
            return f"service {service!r}: fewer than {wanted} servers have answered; ask again"
        case Undelivered() | ForkedNode() | WrongLoop() | WouldDeadlock() | Cancelled():
            return "the gateway cannot do this; its log says why"
        case TimedOut():
            return text.replace("node.services() and node.peers()", "`peerfabric services`")
        case EndpointInUse() | IdentityInUse():
            return f"{text.partition(';')[0]}; look at the gateway"
        case ConfigError() if "a name has one handle" in text:
            return (
                f"{text.partition(' exists in this node')[0]} is used by the gateway's own program; ask another gateway"
            )
    return text


def _place(detail: str) -> str:
    """Where in a body it is that does not fit, as the text of a node elsewhere has it; "$": the whole."""
    found = re.search(r" at (\$\S*) \(at ", detail)
    return found[1] if found is not None else "$"


def closing() -> Problem:
    """The refusal of what would begin something new while the gateway ends."""
    detail = "this gateway is about to end, and nothing was accepted; send the same request again, to another one"
    return Problem(503, "Closing", detail, code="closing", retry_after=RETRY_AFTER)
