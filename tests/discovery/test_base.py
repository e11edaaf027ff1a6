"""Announcements from strangers are bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from peerfabric.discovery.base import ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, Announcement
from peerfabric.discovery.registry import ANNOUNCEMENT_BYTES_MAX
from tests.discovery.conftest import announcement_for


def test_announcement_survives_encoding() -> None:
    """What goes in comes out."""
    announcement = announcement_for(epoch=2**53 - 1)
    assert msgspec.json.decode(msgspec.json.encode(announcement), type=Announcement) == announcement


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"node_id": "a" * 65},
        {"node_id": "../../etc"},
        {"node_id": "a\n"},
        {"epoch": -1},
        {"epoch": 2**53},
        {"name": "a" * 256},
        {"fabric": "a" * 256},
        {"host": "a" * 65},
        {"inbox": ("a" * (ENDPOINT_BYTES_MAX + 1),)},
        {"inbox": ("",)},
        {"outbox": ("tcp://a:1",) * (ENDPOINTS_MAX + 1)},
    ],
)
def test_limits_hold_when_decoding(change: dict[str, Any]) -> None:
    """Each field has a limit."""
    encoded = msgspec.json.encode(announcement_for(**change))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(encoded, type=Announcement)


def test_largest_announcement_fits_its_file() -> None:
    """The registry reads every announcement that is allowed."""
    largest = announcement_for(
        node_id="a" * 64,
        name="ä" * 255,
        fabric="a" * 255,
        inbox=("a" * ENDPOINT_BYTES_MAX,) * ENDPOINTS_MAX,
        outbox=("a" * ENDPOINT_BYTES_MAX,) * ENDPOINTS_MAX,
    )
    assert len(msgspec.json.encode(largest)) <= ANNOUNCEMENT_BYTES_MAX
