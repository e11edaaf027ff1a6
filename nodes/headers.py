"""Headers: text that travels with one message, for its handler."""

from __future__ import annotations

from typing import Final

from peerfabric.errors import EncodeError

HEADERS_BYTES_MAX: Final = 8192
NAME_LENGTH_MAX: Final = 255


def checked_headers(headers: dict[str, str]) -> dict[str, str]:
    """A copy of `headers`, if they can be sent.

    Raises:
        EncodeError: Something in them is not text, or they are too long.
    """
    total = 0
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise EncodeError(f"header {name!r} is not text; headers map str to str")
        total += len(name.encode()) + len(value.encode())
    if total > HEADERS_BYTES_MAX or any(len(name) > NAME_LENGTH_MAX for name in headers):
        raise EncodeError(f"headers of {total:,} bytes; put what is over {HEADERS_BYTES_MAX:,} into the body")
    return dict(headers)
