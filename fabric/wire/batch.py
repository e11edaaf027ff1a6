"""Batches: many messages in one frame, whose body is one msgpack array of the messages' bodies."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

from peerfabric.errors import BadFrame
from peerfabric.wire.frames import RAW, RAW_ONE

Buffer = bytes | bytearray | memoryview

_encode = msgspec.msgpack.Encoder().encode
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])


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
