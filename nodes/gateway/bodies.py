"""Bodies and headers of messages as HTTP has them: JSON, raw bytes, `X-Message-…`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peerfabric.errors import DecodeError
from peerfabric.gateway.problems import Problem, problem_of
from peerfabric.wire.bodies import misfit
from peerfabric.wire.models import decoded

if TYPE_CHECKING:
    from starlette.requests import Request

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
LINES: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"

HEADER_PREFIX: Final = "x-message-"
PASSED_ON: Final = ("traceparent", "tracestate")
"""Headers of W3C Trace Context, which travel as they are."""
EXPLAINED_MAX: Final = 1024 * 1024
"""Bytes of a body that is read a second time, to say what is wrong with it."""
KEY_HEADER: Final = "idempotency-key"

MESSAGE_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Message-NAME": {
        "type": "string",
        "description": "Each header whose name begins so is one of the message, called NAME in lower case.",
    },
    **{name: {"type": "string", "description": "W3C Trace Context; it travels along."} for name in PASSED_ON},
}
"""Schemas of the headers that `message_headers` reads."""


def media_type(request: Request) -> str:
    """The type of a request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Reader:
    """Reads bodies of one type out of JSON, or takes raw bytes."""

    def __init__(self, body_type: Any) -> None:
        self._type = body_type
        self.is_raw = body_type in (bytes, memoryview)
        """Bodies are bytes and nothing else."""
        self._decode = msgspec.json.Decoder(body_type, dec_hook=decoded).decode

    def read(self, data: bytes, kind: str) -> Any:
        """The body in `data`, which is of the media type `kind`.

        Raises:
            Problem: 400, it is not JSON; 415, the queue does not take that; 422, it does not fit the queue's type.
        """
        if kind == BYTES:
            if not self.is_raw and self._type is not Any:
                raise _not_taken(f"has a type; send {JSON}")
            return data
        if self.is_raw:
            raise _not_taken(f"takes bytes; send {BYTES}")
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise _wrong_type(misfit(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise not_json(data, error) from None
        except Exception as error:  # raised by the user's own type, such as by its `__post_init__`
            raise _wrong_type(misfit(error)) from None


def _wrong_type(error: DecodeError) -> Problem:
    return problem_of(error)


def not_json(data: bytes, error: Exception) -> Problem:
    """The refusal of what is not JSON, which was read with that error."""
    found = _explained(data) or error or "it is too deep"
    said = f"is not JSON: {found}" if data.strip() else "is empty"
    return Problem(400, "Not JSON", f"the body {said}; send JSON in UTF-8", code="not-json")


def _explained(data: bytes) -> str:
    """What is wrong with JSON, and where; empty: it cannot be said better. msgspec is fast, and tells less."""
    if len(data) > EXPLAINED_MAX:
        return ""
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if b"\n" in data.strip() else ""
        return f"{error.msg} at {line}column {error.colno}"
    except (ValueError, RecursionError):
        pass
    return ""


def _not_taken(problem: str) -> Problem:
    return Problem(415, "", f"this queue {problem}", code="content-type")


def message_headers(request: Request) -> dict[str, str] | None:
    """The headers of a message: those named `X-Message-NAME`, in lower case, and a trace context; None: none."""
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers.raw:
        name = raw_name.decode("latin-1")
        if name.startswith(HEADER_PREFIX):
            name = name.removeprefix(HEADER_PREFIX)
        elif name not in PASSED_ON:
            continue
        try:
            value = raw_value.decode()
        except UnicodeDecodeError:
            value = raw_value.decode("latin-1")  # as HTTP had it once
        if not name or name == KEY_HEADER:
            raise Problem(
                400, "Bad header", f"a message has no header {name!r} of its own; leave it out", code="bad-header"
            )
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found or None


def seconds(request: Request, name: str, default: float | None, most: float, least: float = 0.0) -> float | None:
    """The query parameter `name`, in seconds.

    Raises:
        Problem: 400, it is no number from `least` to `most`.
    """
    given = request.query_params.get(name)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        wanted = f"give seconds from {least:g} to {most:.10g}"
        raise Problem(400, "Bad parameter", f"{name}={given!r} cannot be; {wanted}", code="bad-parameter")
    return value
