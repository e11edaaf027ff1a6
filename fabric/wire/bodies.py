"""Bodies of frames: batches of encoded messages, and the codec of one type."""

from __future__ import annotations

import re
import struct
import typing
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final, Generic, TypeVar

import msgspec

from peerfabric.arguments import described, text_of
from peerfabric.errors import BadFrame, DecodeError, EncodeError, MessageTooLarge
from peerfabric.wire.body_types import check_body_type, outer_classes, type_name
from peerfabric.wire.frames import MSGPACK, RAW, RAW_ONE
from peerfabric.wire.models import Misfit, decoded, encoded

Buffer = bytes | bytearray | memoryview

_encode = msgspec.msgpack.Encoder().encode
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])


_BINARY_HEADER: Final = {0xC4: 2, 0xC5: 3, 0xC6: 5}
ALONE_BYTES_MIN: Final = 32 * 1024
"""From this size on one message of raw bytes travels without an array around it: to build one would be a copy."""


def join(bodies: Sequence[bytes], codec: int) -> tuple[bytes, int]:
    """The frame body for `bodies`, and the codec that its header names.

    Documents of msgpack stand in their array as they are, raw bytes as msgpack binaries; a large one that is alone is
    its own frame body.
    """
    if codec == RAW:
        if len(bodies) == 1 and len(bodies[0]) >= ALONE_BYTES_MIN:
            return bodies[0], RAW_ONE
        return _encode(bodies), RAW
    return b"".join((_array_header(len(bodies)), *bodies)), codec


def join_one(body: bytes, codec: int) -> tuple[bytes, int]:
    """As `join`, for one body."""
    if codec != RAW:
        return b"\x91" + body, codec
    return (body, RAW_ONE) if len(body) >= ALONE_BYTES_MIN else (_encode((body,)), RAW)


def split(body: Buffer, codec: int) -> list[bytes]:
    """The encoded elements of a frame body, each as it stands in an array.

    Raises:
        BadFrame: The body is not one msgpack array.
    """
    if codec == RAW_ONE:
        return [_encode(body)]
    try:
        return [bytes(element) for element in _elements.decode(body)]
    except (msgspec.DecodeError, RecursionError, MemoryError) as error:
        raise BadFrame(f"a batch that is not an array: {error}") from None


def rejoin(elements: Sequence[bytes]) -> bytes:
    """The frame body for elements that came from `split`, whatever their codec."""
    return b"".join((_array_header(len(elements)), *elements))


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    return struct.pack(">BH", 0xDC, count) if count < 65536 else struct.pack(">BI", 0xDD, count)


def message_count(body: Buffer, codec: int) -> int | None:
    """How many messages `body` says it has; None if it is no array."""
    if codec == RAW_ONE:
        return 1
    view = memoryview(body)
    kind = view[0] if view.nbytes else 0
    if 0x90 <= kind <= 0x9F:
        return kind & 0x0F
    if kind == 0xDC and view.nbytes >= 3:
        return int.from_bytes(view[1:3], "big")
    if kind == 0xDD and view.nbytes >= 5:
        return int.from_bytes(view[1:5], "big")
    return None


def one_by_one(body: Buffer, codec: int, count: int) -> list[Any]:
    """The frame body of each of `count` calls or answers: each with one element; None for each if it is none such.

    Those of several are documents of msgpack, whatever the codec of the frame.
    """
    if message_count(body, codec) != count:
        return [None] * count
    if count == 1:
        return [body]
    try:
        elements = split(body, codec)
    except BadFrame:
        return [None] * count
    return [b"\x91" + element for element in elements] if len(elements) == count else [None] * count


def message_bytes(body: Buffer, codec: int) -> int:
    """How many bytes the message of a frame body with one element has: its document, or the content of its binary.

    `codec` is that of the frame in which it came.
    """
    if codec == RAW_ONE:
        return len(body)
    around = 1 + _BINARY_HEADER.get(body[1], 0) if codec == RAW and len(body) > 1 else 1
    return max(0, len(body) - around)


def cuts(sizes: Sequence[int], limit: int, overhead: int = 0) -> list[int]:
    """Where to cut messages of `sizes` bytes and `overhead` each, so that a part has at most `limit`, or is one."""
    if sizes and sum(sizes) + overhead * len(sizes) <= limit:
        return [0, len(sizes)]
    if len(set(sizes)) == 1:
        step = max(1, limit // max(1, sizes[0] + overhead))
        return [*range(0, len(sizes), step), len(sizes)]
    ends = list(accumulate(size + overhead for size in sizes))
    edges, before = [0], 0
    while edges[-1] < len(ends):
        edge = bisect_right(ends, before + limit, edges[-1])
        edges.append(max(edge, edges[-1] + 1))
        before = ends[edges[-1] - 1]
    return edges


T = TypeVar("T")

_PATH: Final = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)
_encode = msgspec.msgpack.Encoder(enc_hook=encoded).encode


def _is_exception(error: BaseException) -> bool:
    return isinstance(error, Exception)


class Codec(Generic[T]):
    """Encode and decode bodies of one type, each at most `limit` bytes when encoded.

    Args:
        has_failed: Whether what was raised while a body was decoded is a fault of the body; else it is raised on.

    Raises:
        ConfigError: Objects of `body_type` cannot be encoded or decoded.
    """

    def __init__(self, body_type: Any, limit: int, has_failed: Callable[[BaseException], bool] = _is_exception) -> None:
        self.body_type = body_type
        self._has_failed = has_failed
        self.limit = limit
        self.number = RAW if body_type in (bytes, memoryview) else MSGPACK
        self._classes = (bytes, bytearray, memoryview) if self.number == RAW else outer_classes(body_type)
        self._whole: Any = bytes if body_type is bytes else _view
        check_body_type(body_type)
        self._one: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(body_type, dec_hook=decoded)
        self._all: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[body_type], dec_hook=decoded)

    def encode(self, body: T) -> bytes:
        """The bytes of `body`, its own from now on: later changes to `body` do not reach them.

        Raises:
            EncodeError: Another class than the body type, or something in it cannot be encoded.
            MessageTooLarge: Over the limit.
        """
        if self._classes is not None and not isinstance(body, self._classes):
            raise EncodeError(f"expected {type_name(self.body_type)}, got {type(body).__name__}; send that type")
        if self.number == RAW:
            data: bytes = body if type(body) is bytes else bytes(body)  # type: ignore[assignment,call-overload]
        else:
            if type(body) is bool and self._classes is not None and bool not in self._classes:
                raise EncodeError(f"expected {type_name(self.body_type)}, got bool; send that type")
            try:
                data = _encode(body)
            except Exception as error:  # also what a model of the user raises
                raise EncodeError(
                    f"{type(body).__name__} cannot be encoded: {text_of(error)}; send what msgspec can encode"
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
        except BaseException as error:  # user code too, such as `__post_init__`, raises what it likes
            raise self._misfit(error) from None

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
        except BaseException as error:
            raise self._misfit(error) from None

    def _decode(self, element: bytes, sender: str) -> T | DecodeError:
        try:
            return self._one.decode(element)
        except BaseException as error:
            return self._misfit(error, sender)

    def _misfit(self, error: BaseException, sender: str = "") -> DecodeError:
        if not self._has_failed(error):
            raise error
        return misfit(error, sender)


def _view(body: Buffer) -> memoryview:
    return memoryview(body).toreadonly()


def misfit(error: BaseException, sender: str = "") -> DecodeError:
    """What msgspec, or code of the user's type, found, with the path in the body where it found it."""
    if not isinstance(error, msgspec.MsgspecError):  # raised by a `__post_init__` or a validator
        return DecodeError(described(error), sender=sender)
    found = _PATH.match(str(error))
    reason, path = (found.group(1), found.group(2) or "") if found else (str(error), "")
    if isinstance(error.__cause__, Misfit):
        reason, path = error.__cause__.reason, (path or "$") + error.__cause__.path
    return DecodeError(reason or type(error).__name__, path=path, sender=sender)
