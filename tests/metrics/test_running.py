"""Metrics of nodes that run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator

import pytest

from peerfabric import Node, Options, metrics
from tests.metrics.test_metrics import parse, queries


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder:
        monkeypatch.setenv("PEERFABRIC_RUNTIME", folder)
        monkeypatch.setenv("PEERFABRIC_FABRIC", "metrics")
        yield folder


def fabric_in_use(folder: str, look: str) -> str:
    """The metrics of a process in which one of everything is used, by name of their scope."""
    with (
        Node("shop", spool=f"{folder}/spool", options=Options(spool_bytes=1 << 26)) as shop,
        Node("kitchen") as kitchen,
    ):

        @kitchen.on_message("orders")
        def cook(order: int) -> None:
            pass

        @kitchen.serve("double")
        def double(number: int) -> int:
            return 2 * number

        prices = kitchen.subscriber("prices.*", float)
        shop.producer("orders", int).send(1, confirm="processed", timeout=30)
        publisher = shop.publisher("prices.eur", float)
        publisher.ready(timeout=30)
        publisher.publish(1.5)
        prices.get(timeout=30)
        assert shop.request("double", 4, reply_type=int, timeout=30) == 8
        return metrics.text("host") if look == "host" else metrics.text("process")


@pytest.mark.parametrize("look", ["process", "host"])
def test_the_dashboard_finds_all_it_asks_for(look: str, own_folder: str) -> None:
    """Each metric of its queries, and each label that they name, is in the text of a fabric in use."""
    text = fabric_in_use(own_folder, look)
    found = parse(text)
    names = {name for name, _ in found}
    asked = {name for query in queries() for name in re.findall(r"peerfabric_\w+", query)}
    assert asked <= names
    for query in queries():
        for labels in re.findall(r"by \(([a-z, ]+)\)", query):
            (name, *_) = re.findall(r"peerfabric_\w+", query)
            there = {label for key, pairs in found if key == name for label, _ in pairs}
            assert set(labels.split(", ")) - {"instance"} <= there | ({"le"} if "_bucket" in name else set()), query
    counted = {name: sum(value for key, value in found.items() if key[0] == f"peerfabric_{name}") for name in COUNTS}
    assert counted == COUNTS


COUNTS = {
    "messages_accepted_total": 1,
    "messages_acked_total": 1,
    "queue_waiting": 0,
    "processed_total": 1,
    "handler_seconds_count": 1,
    "topic_published_total": 1,
    "topic_received_total": 1,
    "topic_missed_total": 0,
    "process_answers": 1,
    "warnings": 0,
}
"""What the sum over all of their samples is."""
