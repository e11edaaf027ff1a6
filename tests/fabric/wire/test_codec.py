"""Typed bodies to bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from peerfabric.errors import ConfigError, DecodeError, EncodeError, MessageTooLarge
from peerfabric.wire.bodies import Codec, join


class Order(msgspec.Struct):
    number: int
    item: str


def test_structs_travel() -> None:
    """What one side encodes the other decodes, one by one and as a batch."""
    codec: Codec[Order] = Codec(Order, 1000)
    data, error = codec.encode_many([Order(1, "tea"), Order(2, "jam")])
    assert error is None
    assert codec.decode_batch(join(data, codec.number)[0], codec.number) == [Order(1, "tea"), Order(2, "jam")]
    assert codec.decode_stored(data[1], codec.number) == Order(2, "jam")


def test_bytes_travel_raw() -> None:
    """`bytes` are their own encoding."""
    codec: Codec[bytes] = Codec(bytes, 10)
    assert codec.encode(b"as is") == b"as is"
    assert codec.decode_batch(join([b"as is"], codec.number)[0], codec.number) == [b"as is"]


def test_views_share_the_memory_of_their_frame() -> None:
    """A body type of `memoryview` reads the same bytes without a copy, whatever the frame looks like."""
    codec: Codec[memoryview] = Codec(memoryview, 100_000)
    assert codec.encode(memoryview(b"as is")) == codec.encode(b"as is") == b"as is"  # type: ignore[arg-type]
    for bodies in ([b"as", b"is"], [bytes(40_000)]):
        frame, number = join(bodies, codec.number)
        views = codec.decode_batch(frame, number)
        assert views == bodies
        for view in views:
            assert view.readonly
            assert view.obj is frame
    assert codec.decode_stored(b"as is", codec.number) == memoryview(b"as is")
    with pytest.raises(EncodeError, match="expected memoryview, got str"):
        codec.encode("text")  # type: ignore[arg-type]


def test_a_misfit_is_found_with_its_place() -> None:
    """The others of the batch are decoded all the same."""
    codec: Codec[Order] = Codec(Order, 1000)
    good = codec.encode(Order(1, "tea"))
    body = join([good, msgspec.msgpack.encode({"number": "one", "item": "jam"})], codec.number)[0]
    with pytest.raises(DecodeError):
        codec.decode_batch(body, codec.number)
    first, second = codec.decode_each(body, codec.number, "shop")
    assert first == Order(1, "tea")
    assert isinstance(second, DecodeError)
    assert (second.path, second.sender) == ("$.number", "shop")


@pytest.mark.parametrize(("body_type", "body"), [(int, "1"), (int, True), (Order, {"number": 1}), (bytes, "text")])
def test_another_class_is_refused_at_send(body_type: Any, body: Any) -> None:
    """The sender learns it, not the consumer."""
    codec: Codec[Any] = Codec(body_type, 1000)
    with pytest.raises(EncodeError):
        codec.encode(body)


def test_the_limit_is_exact() -> None:
    """A body of the limit goes, one byte more does not; those before it were encoded."""
    codec: Codec[bytes] = Codec(bytes, 4)
    encoded, error = codec.encode_many([b"1234", b"12345"])
    assert encoded == [b"1234"]
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit) == (5, 4)


def test_impossible_types() -> None:
    """What msgspec cannot decode is refused when the handle is made."""
    with pytest.raises(ConfigError):
        Codec(list[int] | set[int], 10)


def test_functions_cannot_be_sent() -> None:
    """An error of the encoder is an error of ours."""
    codec: Codec[Any] = Codec(Any, 10)
    function: Callable[[], None] = lambda: None  # noqa: E731
    with pytest.raises(EncodeError):
        codec.encode(function)
