"""Lines for the log."""

from __future__ import annotations

from peerfabric.log_records import ONCE_MAX, LogRecord, LogRecords


def test_taken_in_order() -> None:
    """Each line once, those under a key only the first time."""
    records = LogRecords()
    records.add("info", "joined")
    records.once("version x", "warning", "speaks another version")
    records.once("version x", "warning", "speaks another version")
    records.add("info", "joined")
    assert records.take() == [
        LogRecord("info", "joined"),
        LogRecord("warning", "speaks another version"),
        LogRecord("info", "joined"),
    ]
    assert records.take() == []


def test_each_is_one_line() -> None:
    """What peers say goes into the log, and breaks no line and steers no terminal."""
    records = LogRecords()
    records.add("warning", "queue 'orders': dead letter: KeyError\n2026 INFO all is well\r\x1b[2J\u2028 für 😀")
    assert records.take()[0].text == (
        "queue 'orders': dead letter: KeyError\\n2026 INFO all is well\\r\\x1b[2J\\u2028 für 😀"
    )


def test_strangers_cannot_fill_the_memory() -> None:
    """What is told once is bounded; what comes after that is not told."""
    records = LogRecords()
    for number in range(ONCE_MAX + 10):
        records.once(f"refused {number}", "warning", "refused")
    assert len(records.take()) == ONCE_MAX
