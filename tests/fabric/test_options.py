"""Options: what they may be, and what help() says of them."""

from __future__ import annotations

import pydoc
from datetime import timedelta
from typing import Any

import pytest

from peerfabric.errors import ConfigError
from peerfabric.options import MiB, Options


@pytest.mark.parametrize("name", Options.__struct_fields__)
@pytest.mark.parametrize("value", [-1, 0.0001, 1e300, float("nan"), float("inf"), "16", True, [], timedelta(seconds=1)])
def test_what_cannot_be(name: str, value: Any) -> None:
    """It is refused by the name of the option, whatever it is."""
    if (name, value) == ("drain_timeout", 0.0001):
        return
    with pytest.raises(ConfigError, match=rf"^{name}=.*; it must be .*(; the default is|, or None)"):
        Options(**{name: value})


def test_what_can_be() -> None:
    """The ends of each range."""
    Options(message_bytes_max=1, peers_max=1, consumer_bytes=1, work_horizon=0.001, spool_bytes=MiB, drain_timeout=0)
    Options(message_bytes_max=1024 * MiB, peers_max=100_000, work_horizon=60, spool_bytes=None)
    assert Options(spool_slots=256, spool_adopt=16).adopted_max == 16
    assert Options(spool_adopt=0).adopted_max == 0
    assert Options().adopted_max == 4
    assert Options(spool_slots=1, spool_adopt=0).adopted_max == Options(spool_slots=1).adopted_max == 0


def test_one_slot_adopts_nothing() -> None:
    """With one slot there is nothing to adopt, and who asks for it is told."""
    with pytest.raises(ConfigError, match="spool_adopt=4: it must be 0 with spool_slots=1"):
        Options(spool_slots=1, spool_adopt=4)


def test_help_says_units() -> None:
    """`help(Options)` has each option with what it measures."""
    text = pydoc.plain(pydoc.render_doc(Options)).partition("Method resolution")[0]
    for name in Options.__struct_fields__:
        about = text.partition(f"    {name}: ")[2].partition(": ")[0]
        units = {"peers_max": "Links", "spool_slots": "Processes", "spool_adopt": "Slots"}
        unit = units.get(name, "bytes" if "bytes" in name else "Seconds")
        assert unit in about, name
