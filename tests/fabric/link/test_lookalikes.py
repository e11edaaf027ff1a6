"""Lookalikes: what a hint may cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric.health import NO_CONSUMER, Finding
from peerfabric.link import lookalikes
from peerfabric.link.lookalikes import HINTS_MAX, Lookalikes


def test_hints_of_one_look_cost_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queues lose their consumers at once, and however many names there are; later looks give the rest."""
    compared = 0

    def are_similar(a: str, b: str) -> bool:
        nonlocal compared
        compared += 1
        return a == "orders" and b == "order"

    monkeypatch.setattr(lookalikes, "are_similar", are_similar)
    used = {f"name{number}" for number in range(HINTS_MAX // 10)} | {"order"}
    interests: Any = SimpleNamespace(produces=(), consumes=used, calls=(), serves=())
    links: Any = SimpleNamespace(by_wire={}, known=list)
    one = Lookalikes(links, interests, SimpleNamespace())  # type: ignore[arg-type]

    def hints(queues: list[str]) -> list[str]:
        found = one.completed([Finding(queue, 0.0, "", code=NO_CONSUMER, queue=queue) for queue in queues], 0.0)
        return [finding.closer() for finding in found if finding.closer is not None]

    many = [f"queue{number}" for number in range(100)]
    assert hints([*many, "orders"]) == [""] * 101
    assert compared <= HINTS_MAX + len(used)
    assert hints(["orders"]) == ["did you mean 'order'? it is consumed by this node"]
