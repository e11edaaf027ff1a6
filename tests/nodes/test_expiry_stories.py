"""Stories of messages that expire, over both fronts: nobody is handed one, and whoever waits for it hears so."""

from __future__ import annotations

import time
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric import ConfigError, Rejected
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.outbox.spooled import _stored
from tests.nodes.conftest import DEADLINE, Front, eventually

SOON = 0.05
"""Seconds until a message expires of which nothing is expected before that."""
FAR = 3600.0


def account(node: Any) -> Any:
    return next(a for a in node.statistics().producers if a.queue == "jobs")


def test_what_nobody_consumes_in_time_has_expired(front: Front) -> None:
    """Calls that wait for it end by that, it is no dead letter, and a consumer that comes later gets the others."""
    with front.node("shop") as shop:
        jobs = shop.producer("jobs", int)
        with pytest.raises(Rejected, match="expired") as caught:
            jobs.send(1, ttl=SOON, confirm="processed", timeout=DEADLINE)
        assert caught.value.reason == "expired"
        assert jobs.send_many([2, 3], ttl=SOON) == 2
        kept = jobs.send(4, ttl=FAR, headers={"k": "v"})
        eventually(lambda: account(shop).expired == 3)
        with pytest.raises(Rejected, match="expired"):
            jobs.wait(type(kept)(kept.stream, 2), "processed", timeout=DEADLINE)
        assert [jobs.state(type(kept)(kept.stream, n)) for n in (1, 3, 4)] == ["expired", "expired", "queued"]
        assert shop.dead_letters("jobs") == []
        with front.node("kitchen") as kitchen:
            message = kitchen.consumer("jobs", int).get(timeout=DEADLINE)
            assert (message.body, message.headers) == (4, {"k": "v"})
            message.ack()
            jobs.flush(timeout=DEADLINE)
        assert (account(shop).expired, account(shop).acked, account(shop).closes) == (3, 1, True)


def test_what_waits_behind_another_at_its_consumer_expires_there(front: Front) -> None:
    """It was sent in time and arrived, but its handler was busy. Its producer hears of it at once."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        jobs, consumer = shop.producer("jobs", int), kitchen.consumer("jobs", int)
        jobs.ready(timeout=DEADLINE)
        jobs.send_many(range(200))
        for _ in range(200):  # so that it has several in hand
            consumer.get(timeout=DEADLINE).ack()
        jobs.send(1)
        first = consumer.get(timeout=DEADLINE)
        receipt = jobs.send(2, ttl=1.0)
        last = jobs.send(3)
        jobs.wait(receipt, "delivered", timeout=DEADLINE)
        with pytest.raises(Rejected, match="expired"):
            jobs.wait(receipt, "processed", timeout=DEADLINE)
        first.ack()
        message = consumer.get(timeout=DEADLINE)
        assert message.id == last.id
        message.ack()
        jobs.flush(timeout=DEADLINE)
        assert (account(shop).expired, kitchen.statistics().consumers[0].expired) == (1, 1)


def test_what_was_handed_out_in_time_is_processed(front: Front) -> None:
    """Its time is that of waiting, not that of its handler."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        jobs, consumer = shop.producer("jobs", int), kitchen.consumer("jobs", int)
        jobs.ready(timeout=DEADLINE)
        receipt = jobs.send(1, ttl=0.2)
        message = consumer.get(timeout=DEADLINE)
        time.sleep(0.3)
        message.ack()
        jobs.wait(receipt, "processed", timeout=DEADLINE)
        assert account(shop).expired == 0


def test_a_full_buffer_empties_by_itself(front: Front) -> None:
    """What has expired makes room for what comes, though nobody consumes."""
    with front.node("shop") as shop:
        jobs = shop.producer("jobs", bytes, buffer_bytes=10_000)
        for _ in range(30):
            jobs.send(bytes(3000), ttl=SOON, timeout=DEADLINE)
        eventually(lambda: account(shop).expired == 30)


@pytest.mark.parametrize("ttl", [0, -1.0, nan, inf, 1e12, True, "1", 10**400])
def test_bad_times(front: Front, ttl: Any) -> None:
    """They are refused with what to give instead, and nothing is accepted."""
    with front.node("shop") as shop:
        jobs = shop.producer("jobs", int)
        with pytest.raises(ConfigError, match=r"ttl=.*give a time from 0.001 s to a year"):
            jobs.send(1, ttl=ttl)
        with pytest.raises(ConfigError, match=r"ttl=.*give a time from 0.001 s to a year") as caught:
            jobs.send_many([1], ttl=ttl)
        assert getattr(caught.value, "accepted", None) == 0
        assert account(shop).accepted == 0


@pytest.mark.parametrize("fsync", [False, True], ids=["page-cache", "fsync"])
def test_the_time_goes_on_while_the_node_is_down(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fsync: bool
) -> None:
    """By the wall clock: what has expired meanwhile is never handed out, and what has not, is, with its headers."""
    spool = tmp_path / "spool"
    with front.node("shop", spool=spool, fsync=fsync) as shop:
        jobs = shop.producer("jobs", int)
        jobs.send(1, ttl=30, confirm="stored", headers={"k": "1"})
        jobs.send_many([2, 3], ttl=30)
        jobs.send(4, ttl=FAR, headers={"k": "4"})
        jobs.send_many([5, 6], ttl=FAR)
        jobs.send(7)
    clock = SimpleNamespace(time_ns=lambda: time.time_ns() + 60 * 10**9)
    monkeypatch.setattr("peerfabric.nodes.storage.disk_thread.time", clock)
    with front.node("shop", spool=spool, fsync=fsync) as shop, front.node("kitchen") as kitchen:
        consumer, got = kitchen.consumer("jobs", int), []
        for _ in range(4):
            message = consumer.get(timeout=DEADLINE)
            got.append((message.body, message.headers))
            message.ack()
        assert got == [(4, {"k": "4"}), (5, {}), (6, {}), (7, {})]
        shop.producer("jobs", int).flush(timeout=DEADLINE)
        assert (account(shop).expired, account(shop).acked, account(shop).closes) == (3, 4, True)
    with front.node("shop", spool=spool, fsync=fsync) as shop:
        shop.producer("jobs", int)
        assert account(shop).recovered == 0


def test_what_expires_on_disk_only_is_settled_as_it_is_read(front: Front, tmp_path: Path) -> None:
    """More than memory has room for, and nobody consumes; then the spool is empty again."""
    with front.node(
        "shop",
        spool=tmp_path / "spool",
    ) as shop:
        jobs = shop.producer("jobs", bytes, buffer_bytes=10_000)
        for _ in range(30):
            jobs.send(bytes(3000), ttl=1.0)
        eventually(lambda: account(shop).expired == 30)
        assert (account(shop).on_disk, account(shop).closes) == (0, True)


def test_what_stays_in_memory_though_there_is_a_spool(front: Front, tmp_path: Path) -> None:
    """Of `on_full="spool"`: it expires as any other."""
    with front.node("shop", spool=tmp_path / "spool") as shop, front.node("kitchen") as kitchen:
        jobs, consumer = shop.producer("jobs", int, on_full="spool"), kitchen.consumer("jobs", int)
        jobs.ready(timeout=DEADLINE)
        jobs.send(1)
        first = consumer.get(timeout=DEADLINE)
        receipt = jobs.send(2, ttl=0.3)
        with pytest.raises(Rejected, match="expired"):
            jobs.wait(receipt, "processed", timeout=DEADLINE)
        first.ack()
        jobs.flush(timeout=DEADLINE)
        assert account(shop).closes


def test_what_is_stored_waits_for_nothing_before_it() -> None:
    """Though what is sent because of a message counts how many there are; its time stays what it is."""
    assert _stored((inf, 3), 5_000) == (None, 0)
    kind, expires_ms = _stored((clock() + 60.0, 3), 5_000)
    assert kind is not None
    assert kind[1] == 0
    assert 5_000 < expires_ms <= 65_000
