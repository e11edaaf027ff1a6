"""Bodies as JSON: how what Python programs send is shown to HTTP clients, without losing what JSON has no word for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec

SCHEMA: Final[Mapping[str, Mapping[str, Any]]] = {
    "body": {"description": "the body, if JSON has words for it; of these three members there is one"},
    "body_base64": {"type": "string", "description": "a body of bytes"},
    "body_msgpack": {"type": "string", "description": "any other body, as MessagePack in base64"},
}
"""Of the members that `shown` gives."""

_encode = msgspec.json.encode


def shown(body: Any) -> dict[str, Any]:
    """`body`, or for bytes `body_base64`, or for what JSON cannot have, such as keys that are no text, `body_msgpack`.

    Bytes within a body are base64, times and UUIDs text, and numbers that are none are null.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return {"body_base64": b64encode(body).decode()}
    try:
        return {"body": msgspec.Raw(_encode(body))}
    except (TypeError, ValueError, RecursionError, OverflowError):
        return {"body_msgpack": b64encode(msgspec.msgpack.encode(body)).decode()}
