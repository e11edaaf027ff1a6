"""The publisher's end of a topic."""

from __future__ import annotations

import msgspec

from peerfabric.topic.publisher import FRAME_BYTES_AIM, OutgoingTopic
from peerfabric.wire.frames import HEADER_BYTES_MAX, RAW, Extra, Tail, encode_frame


def test_every_message_has_a_number() -> None:
    """Frames follow each other without a gap, and the tail says where the topic stands."""
    end = OutgoingTopic("news", "p", 1, "paper", RAW)
    [(topic, first, body)] = end.publish([b"a", b"b"], 5)
    [(_, second, _)] = end.publish([b"c"], 6)
    assert (topic, first.first, first.count, second.first) == (b"news\0", 1, 2, 3)
    assert msgspec.msgpack.decode(body) == [b"a", b"b"]
    assert (end.tail(), end.beats_due, end.account().published) == (Tail("news", 3), 2, 3)


def test_large_batches_are_cut() -> None:
    """And what a message has besides its body stays with it."""
    end = OutgoingTopic("news", "p", 1, "paper", RAW)
    large = b"x" * (FRAME_BYTES_AIM // 2)
    frames = end.publish([large, large, b"last"], 0, {2: Extra(0, {"k": "v"})})
    assert [(header.first, header.count) for _, header, _ in frames] == [(1, 1), (2, 2)]
    assert [header.extras for _, header, _ in frames] == [[], [Extra(1, {"k": "v"})]]


def test_headers_count_as_well() -> None:
    """Many messages with long headers are frames that a subscriber reads, whose bodies alone would be one."""
    end = OutgoingTopic("news", "p", 1, "paper", RAW)
    extras = {at: Extra(0, {"k": "v" * 8000}) for at in range(1000)}
    frames = end.publish([b"x"] * 1000, 0, extras)
    assert max(len(encode_frame(header)) for _, header, _ in frames) < HEADER_BYTES_MAX // 4
    assert sum(len(header.extras) for _, header, _ in frames) == 1000
