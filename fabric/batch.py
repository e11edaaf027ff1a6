"""Many messages in one frame: the body of a DATA frame is one msgpack array of the messages' bodies."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from peerfabric.envelope import RAW
from peerfabric.errors import BadFrame

Buffer = bytes | bytearray | memoryview

_encode = msgspec.msgpack.Encoder().encode
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])


def join(bodies: Sequence[bytes], codec: int) -> bytes:
    """The frame body for `bodies`: msgpack documents as they are, raw bytes as msgpack binaries."""
    if codec == RAW:
        return _encode(bodies)
    return b"".join((_array_header(len(bodies)), *bodies))


def split(body: Buffer) -> list[bytes]:
    """The encoded elements of a frame body, each still as it was on the wire.

    Raises:
        BadFrame: The body is not one msgpack array.
    """
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


def array_count(body: Buffer) -> int | None:
    """How many elements the array in `body` says it has; None if it is no array."""
    view = memoryview(body)
    kind = view[0] if view.nbytes else 0
    if 0x90 <= kind <= 0x9F:
        return kind & 0x0F
    if kind == 0xDC and view.nbytes >= 3:
        return int.from_bytes(view[1:3], "big")
    if kind == 0xDD and view.nbytes >= 5:
        return int.from_bytes(view[1:5], "big")
    return None


def cuts(sizes: Sequence[int], limit: int) -> list[int]:
    """Where to cut messages of `sizes` bytes so that each part has at most `limit` bytes, or one message."""
    ends = list(accumulate(sizes))
    edges, before = [0], 0
    while edges[-1] < len(ends):
        edge = bisect_right(ends, before + limit, edges[-1])
        edges.append(max(edge, edges[-1] + 1))
        before = ends[edges[-1] - 1]
    return edges
