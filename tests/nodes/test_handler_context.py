"""Context of handlers: which deliveries a thread still has something of, while the I/O thread settles them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric.nodes import handler_context


def test_a_delivery_that_is_just_being_settled_stays_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine changes its ranges while a handling thread reads them: it may find fewer than it has just counted."""

    def torn(low: int, high: int) -> list[tuple[int, int]]:
        raise IndexError("list index out of range")

    def delivery(**fields: Any) -> Any:
        return SimpleNamespace(next=2, limit=2, acked=0, reported=0, verdicts=[], **fields)

    torn_one, settled, new = delivery(gone=object(), unsettled=torn), delivery(gone=None), delivery(gone=None)
    settled.acked = 2
    handler_context._handling.set(((object(), torn_one), (object(), settled)))  # type: ignore[arg-type]
    end: Any = object()
    handler_context.take_in_hand(end, new)
    assert [item[1] for item in handler_context.handling()] == [torn_one, new]
    handler_context._handling.set(())
