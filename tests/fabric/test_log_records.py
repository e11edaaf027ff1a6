"""Lines for the log."""

from __future__ import annotations

from peerfabric.log_records import ONCE_MAX, Notice, Notices


def test_taken_in_order() -> None:
    """Each line once, those under a key only the first time."""
    notices = Notices()
    notices.add("info", "joined")
    notices.once("version x", "warning", "speaks another version")
    notices.once("version x", "warning", "speaks another version")
    notices.add("info", "joined")
    assert notices.take() == [
        Notice("info", "joined"),
        Notice("warning", "speaks another version"),
        Notice("info", "joined"),
    ]
    assert notices.take() == []


def test_strangers_cannot_fill_the_memory() -> None:
    """What is told once is bounded; what comes after that is not told."""
    notices = Notices()
    for number in range(ONCE_MAX + 10):
        notices.once(f"refused {number}", "warning", "refused")
    assert len(notices.take()) == ONCE_MAX
