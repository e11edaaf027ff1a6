"""Typed bodies to bytes and back, through msgspec; `bytes` and `memoryview` travel as they are."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from peerfabric.arguments import described
from peerfabric.batch import Buffer, rejoin, split
from peerfabric.envelope import MSGPACK, RAW, RAW_ONE
from peerfabric.errors import BadFrame, ConfigError, DecodeError, EncodeError, MessageTooLarge

T = TypeVar("T")

_PATH: Final = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)
_encode = msgspec.msgpack.Encoder().encode


class Codec(Generic[T]):
    """Encode and decode bodies of one type, each at most `limit` bytes when encoded.

    Raises:
        ConfigError: msgspec cannot decode `body_type`.
    """

    def __init__(self, body_type: Any, limit: int) -> None:
        self.body_type = body_type
        self.limit = limit
        self.number = RAW if body_type in (bytes, memoryview) else MSGPACK
        self._classes = (bytes, bytearray, memoryview) if self.number == RAW else outer_classes(body_type)
        self._whole: Any = bytes if body_type is bytes else _view
        try:
            self._one: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(body_type)
            self._all: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[body_type])
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{_type_name(body_type)} cannot be a body type: {error}; "
                f"use a msgspec.Struct, a dataclass, a TypedDict, a built-in type, bytes, or memoryview"
            ) from None

    def encode(self, body: T) -> bytes:
        """The bytes of `body`, its own from now on: later changes to `body` do not reach them.

        Raises:
            EncodeError: Another class than the body type, or something in it cannot be encoded.
            MessageTooLarge: Over the limit.
        """
        if self._classes is not None and not isinstance(body, self._classes):
            raise EncodeError(f"expected {_type_name(self.body_type)}, got {type(body).__name__}; send that type")
        if self.number == RAW:
            data: bytes = body if type(body) is bytes else bytes(body)  # type: ignore[assignment,call-overload]
        else:
            if type(body) is bool and self._classes is not None and bool not in self._classes:
                raise EncodeError(f"expected {_type_name(self.body_type)}, got bool; send that type")
            try:
                data = _encode(body)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise EncodeError(
                    f"{type(body).__name__} cannot be encoded: {error}; send what msgspec can encode"
                ) from error
        if len(data) > self.limit:
            raise MessageTooLarge(len(data), self.limit)
        return data

    def encode_many(self, bodies: Sequence[T]) -> tuple[list[bytes], EncodeError | None]:
        """The bytes of `bodies` up to the first that cannot be sent, and why that one cannot."""
        if self.number == RAW and set(map(type, bodies)) <= {bytes}:
            raw = typing.cast("list[bytes]", list(bodies))
            if not raw or max(map(len, raw)) <= self.limit:
                return raw, None
        encoded: list[bytes] = []
        append, encode = encoded.append, self.encode
        try:
            for body in bodies:
                append(encode(body))
        except EncodeError as error:
            return encoded, error
        return encoded, None

    def decode_batch(self, body: Buffer, codec: int) -> list[T]:
        """All bodies of a frame in one call; `codec` is what its header names.

        Raises:
            DecodeError: One of them, or the frame as a whole, does not fit; `decode_each` tells which.
        """
        if codec == RAW_ONE:
            if self.number == RAW:
                return [self._whole(body)]
            body = rejoin(split(body, codec))
        try:
            return self._all.decode(body)
        except Exception as error:  # user code too, such as `__post_init__`, raises what it likes
            raise misfit(error) from None

    def decode_each(self, body: Buffer, codec: int, sender: str) -> list[T | DecodeError]:
        """The bodies of a frame one by one, with an error in the place of each that does not fit.

        Raises:
            BadFrame: The frame is no array at all.
        """
        return [self._decode(element, sender) for element in split(body, codec)]

    def decode_stored(self, data: bytes, codec: int) -> T:
        """One body as it was encoded, or as a document of msgpack, as `codec` says.

        Raises:
            DecodeError: It does not fit the body type.
        """
        if codec == RAW:
            return typing.cast("T", self._whole(data))
        try:
            return self._one.decode(data)
        except Exception as error:
            raise misfit(error) from None

    def _decode(self, element: bytes, sender: str) -> T | DecodeError:
        try:
            return self._one.decode(element)
        except Exception as error:
            return misfit(error, sender)


def _view(body: Buffer) -> memoryview:
    return memoryview(body).toreadonly()


def misfit(error: Exception, sender: str = "") -> DecodeError:
    """What msgspec found, with the path in the body where it found it."""
    text = str(error) if isinstance(error, msgspec.DecodeError) else described(error)
    found = _PATH.match(text)
    reason, path = (found.group(1), found.group(2) or "") if found else (text, "")
    return DecodeError(reason or type(error).__name__, path=path, sender=sender)


def outer_classes(body_type: Any) -> tuple[type, ...] | None:
    """The classes that a value of `body_type` may have; None: cannot be told from outside."""
    if body_type is None:
        return (type(None),)
    origin = typing.get_origin(body_type)
    if origin is typing.Annotated:
        return outer_classes(typing.get_args(body_type)[0])
    if origin is typing.Literal:
        return tuple({type(value) for value in typing.get_args(body_type)})
    if origin in (typing.Union, types.UnionType):
        members = [outer_classes(member) for member in typing.get_args(body_type)]
        return None if None in members else tuple({c for member in members if member for c in member})
    if isinstance(body_type, typing.NewType):
        return outer_classes(body_type.__supertype__)
    if typing.is_typeddict(origin or body_type):
        return (dict,)
    candidate = origin or body_type
    if candidate is float:
        return (float, int)
    return (candidate,) if isinstance(candidate, type) and candidate not in (object, Any) else None


def _type_name(body_type: Any) -> str:
    return body_type.__name__ if isinstance(body_type, type) and not typing.get_args(body_type) else str(body_type)


__all__ = ["BadFrame", "Codec", "misfit", "outer_classes"]
