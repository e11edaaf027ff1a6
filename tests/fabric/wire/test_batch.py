"""Many messages in one frame."""

from __future__ import annotations

import msgspec
import pytest

from peerfabric.errors import BadFrame
from peerfabric.wire.bodies import cuts, join, message_count, rejoin, split
from peerfabric.wire.frames import MSGPACK, RAW, RAW_ONE


@pytest.mark.parametrize("count", [1, 15, 16, 70_000])
def test_a_batch_is_an_array_of_its_bodies(count: int) -> None:
    """Whatever the size of the array's header, any msgpack reader finds the bodies."""
    documents = [msgspec.msgpack.encode(n) for n in range(count)]
    body, codec = join(documents, MSGPACK)
    assert (msgspec.msgpack.decode(body), codec) == (list(range(count)), MSGPACK)
    raw = [b"%d" % n for n in range(count)]
    body, codec = join(raw, RAW)
    assert (msgspec.msgpack.decode(body), codec) == (raw, RAW)
    assert message_count(body, codec) == count


def test_bytes_stay_as_they_were() -> None:
    """Elements cut out and joined again are the same bytes."""
    body, codec = join([b"one", b"two", b"three"], RAW)
    assert rejoin(split(body, codec)) == body
    assert msgspec.msgpack.decode(rejoin(split(body, codec)[1:])) == [b"two", b"three"]


def test_one_large_raw_message_is_its_own_body() -> None:
    """Nothing is copied to put it into an array; its codec says so."""
    large = bytes(2**20)
    body, codec = join([large], RAW)
    assert (body is large, codec, message_count(body, codec)) == (True, RAW_ONE, 1)
    assert msgspec.msgpack.decode(rejoin(split(body, codec))) == [large]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xa3abc", b"\x92\x01", b"\x91" * 100_000])
def test_what_is_no_array_is_a_bad_frame(body: bytes) -> None:
    """Nothing else ever comes out of a hostile body."""
    with pytest.raises(BadFrame):
        split(body, RAW)


def test_cuts() -> None:
    """Parts are as large as the limit allows, and have at least one message."""
    assert cuts([4, 4, 4, 20, 1], 8) == [0, 2, 3, 4, 5]
    assert cuts([], 8) == [0]
