"""Bodies shown as JSON: what Python programs send, for HTTP clients, without losing what JSON has no word for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MEMBERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "body": {"description": "The body, if JSON has words for it. Of these three members there is one."},
    "body_base64": {"type": "string", "description": "A body of bytes."},
    "body_msgpack": {"type": "string", "description": "Any other body: MessagePack, in base64."},
}
"""JSON schemas of what `shown` gives."""


def shown(body: Any) -> dict[str, Any]:
    """`body`, or for bytes `body_base64`, or for what JSON cannot have, such as keys that are no text, `body_msgpack`.

    Bytes within a body are base64, times and UUIDs text, and numbers that are none are null.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return {"body_base64": b64encode(body).decode()}
    try:
        return {"body": msgspec.Raw(msgspec.json.encode(body))}
    except (TypeError, ValueError, RecursionError):
        return {"body_msgpack": b64encode(msgspec.msgpack.encode(body)).decode()}
