"""Passing on whom we met."""

from __future__ import annotations

import random

from peerfabric.discovery.base import Lost, Sighting
from peerfabric.discovery.exchange import EXCHANGE_SAMPLE_MAX, ExchangeBackend
from tests.discovery.conftest import Recorder, announcement_for


def test_own_announcement_leads_the_sample() -> None:
    """Then those we met, except who is excluded."""
    backend = ExchangeBackend(rng=random.Random(1))
    own, first, second = (announcement_for() for _ in range(3))
    assert backend.sample() == []
    backend.announce(own)
    backend.met(first)
    backend.met(second)
    assert backend.sample() == [own, first, second]
    assert backend.sample(exclude={own.node_id, first.node_id}) == [second]
    assert backend.sample(1) == [own]
    assert backend.sample(0) == []


def test_rumours_are_not_passed_on() -> None:
    """Whom we only heard of is reported to our node, which has to meet them first."""
    backend, recorder = ExchangeBackend(rng=random.Random(1)), Recorder()
    backend.watch(recorder)
    rumour = announcement_for()
    backend.learned([rumour])
    assert recorder.events == [Sighting(seen=rumour, source="exchange")]
    assert backend.sample() == []


def test_who_is_gone_is_passed_on_no_more() -> None:
    """And is reported as lost."""
    backend, recorder = ExchangeBackend(rng=random.Random(1)), Recorder()
    backend.watch(recorder)
    peer = announcement_for()
    backend.met(peer)
    backend.gone(peer.node_id)
    assert backend.sample() == []
    assert recorder.events == [Lost(node_id=peer.node_id, source="exchange")]


def test_random_samples_reach_everybody() -> None:
    """With more peers than fit, the choice differs from hello to hello; a seed repeats it."""
    peers = [announcement_for(node_id=f"n{number}") for number in range(100)]

    def samples(seed: int) -> list[list[str]]:
        backend = ExchangeBackend(rng=random.Random(seed))
        for peer in peers:
            backend.met(peer)
        return [[one.node_id for one in backend.sample(10)] for _ in range(100)]

    assert samples(3) == samples(3)
    assert {node_id for sample in samples(3) for node_id in sample} == {peer.node_id for peer in peers}


def test_limits_hold() -> None:
    """Of one hello, of one sample, and of those who are remembered."""
    backend, recorder = ExchangeBackend(rng=random.Random(1), met_max=2), Recorder()
    backend.watch(recorder)
    backend.learned(announcement_for() for _ in range(EXCHANGE_SAMPLE_MAX + 5))
    assert len(recorder.events) == EXCHANGE_SAMPLE_MAX
    peers = [announcement_for() for _ in range(3)]
    for peer in peers:
        backend.met(peer)
    assert backend.sample(10**9) == peers[:2]
