"""Headers: text that travels with one message, for its handler."""

from __future__ import annotations

from typing import Final

from peerfabric.arguments import plain, shown
from peerfabric.errors import EncodeError

HEADERS_BYTES_MAX: Final = 8192
NAME_LENGTH_MAX: Final = 255


def checked_headers(headers: dict[str, str]) -> dict[str, str]:
    """A copy of `headers`, if they can be sent.

    Raises:
        EncodeError: Something in them is not text, or they are too long.
    """
    if not isinstance(headers, dict):
        raise EncodeError(f"headers={shown(headers)} are not a dict; headers map str to str")
    checked = {}
    total = 0
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise EncodeError(f"header {shown(name)} is not text; headers map str to str")
        try:
            total += len(str.encode(name)) + len(str.encode(value))
        except UnicodeEncodeError as error:
            raise EncodeError(
                f"header {shown(name)} is not text that can be sent: {error}; replace its lone surrogates"
            ) from None
        if len(name) > NAME_LENGTH_MAX:
            raise EncodeError(
                f"header {shown(name)} has {len(name):,} characters; a name has {NAME_LENGTH_MAX} at most"
            )
        checked[plain(name)] = plain(value)
    if total > HEADERS_BYTES_MAX:
        raise EncodeError(f"headers of {total:,} bytes; put what is over {HEADERS_BYTES_MAX:,} into the body")
    return checked
