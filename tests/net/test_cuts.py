"""Cables that are cut, one-way, lossy or slow, and hosts that vanish: nothing is lost, little runs twice.

A producer and collector on host a, workers on b and c with 0.1 s of work a message and 2 s of work in hand. Figures are
printed; `tests/net/acceptance.py` shows them.
"""

from __future__ import annotations

import time

import pytest

from tests.net.hosts import Host, Lan, wait_for
from tests.net.pipeline import Cut, Outcome, Pipeline, count, figure, unexcused

RESUMED = 2.5
"""Seconds after healing within which a worker has work again."""
GIVEN_UP = 5.0
"""Seconds after which the work of a host that is out of reach has been given to others."""


def running(lan: Lan, hosts: tuple[Host, ...], *, rate: float = 14.0) -> Pipeline:
    """A pipeline over `hosts`, with a second of work in hand everywhere."""
    made = Pipeline(lan, rate=rate)
    made.start(*hosts)
    made.wait_until_flowing(*(host.name for host in hosts[1:]), count=12)
    return made


def running_full(lan: Lan, hosts: tuple[Host, ...]) -> Pipeline:
    """The same with two seconds of work in hand, which takes a while to come to."""
    made = Pipeline(lan, burst=130)
    made.start(*hosts)
    made.wait_until_flowing(*(host.name for host in hosts[1:]), count=34)
    return made


def judge(what: str, outcome: Outcome, cuts: list[Cut]) -> None:
    """Nothing ran twice but what was running at a cut, or was started before its worker's fence ended."""
    count(what, f"{outcome.sent} messages, 0 lost, {len(outcome.twice)} ran twice")
    for cut in cuts[:1]:
        later = [run for run in outcome.runs if run.host == cut.host and cut.at < run.started_at < cut.healed_at]
        count(f"{cut.host} started between the cut and healing", f"{len(later)} that it had in hand")
    assert unexcused(outcome, cuts) == []


def cut_and_heal(pipeline: Pipeline, lan: Lan, seconds: float) -> Cut:
    at = lan.cut("b")
    time.sleep(seconds)
    healed_at = lan.heal()
    figure(f"cut of {seconds:g} s: resumed after healing", pipeline.resumed("b", healed_at), RESUMED)
    return Cut("b", at, healed_at)


def test_short_cuts(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Cuts shorter than 4 s are not noticed but as a wait."""
    pipeline = running(lan, three)
    cuts = []
    for seconds in (0.1, 1.0):
        cuts.append(cut_and_heal(pipeline, lan, seconds))
    assert pipeline.given_up("b", cuts[0].at) == []
    judge("cuts of 0.1 and 1 s", pipeline.finish(), cuts)


@pytest.mark.long
def test_cut(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """After 4 s the work of a host that was cut off runs elsewhere; it comes back by itself."""
    pipeline = running(lan, three)
    cut = cut_and_heal(pipeline, lan, 5.5)
    given_up = pipeline.given_up("b", cut.at)
    assert len(given_up) == 1
    figure("cut of 5.5 s: given up", given_up[0], 4.5)
    judge("cut of 5.5 s", pipeline.finish(), [cut])


@pytest.mark.long
@pytest.mark.parametrize("seconds", [3.0, 8.0, 20.0, 60.0])
def test_long_cuts(lan: Lan, three: tuple[Host, Host, Host], seconds: float) -> None:
    """The same for cuts of any length."""
    pipeline = running_full(lan, three)
    cut = cut_and_heal(pipeline, lan, seconds)
    judge(f"cut of {seconds:g} s", pipeline.finish(), [cut])


def test_one_way(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A worker that can be heard and cannot be reached is given up, and its work runs elsewhere."""
    pipeline = running(lan, three, rate=8.0)
    at = lan.drop_port("b", 7700, "a")
    given_up = pipeline.elsewhere("b", at)
    healed_at = lan.heal()
    figure("one-way: its work elsewhere", given_up, GIVEN_UP + 2.0)  # c has 2 s of work in hand before
    figure("one-way: given up", pipeline.until_given_up("b", at), 4.5)
    figure("one-way: resumed after healing", pipeline.resumed("b", healed_at), RESUMED)
    judge("one-way", pipeline.finish(), [Cut("b", at, healed_at)])


@pytest.mark.long
@pytest.mark.parametrize("seconds", [8.0, 12.0, 16.0])
@pytest.mark.parametrize("way", ["to its inbox", "to it", "from it"])
def test_long_one_way(lan: Lan, three: tuple[Host, Host, Host], seconds: float, way: str) -> None:
    """In whichever direction nothing comes through."""
    pipeline = running_full(lan, three)
    match way:
        case "to its inbox":
            at = lan.drop_port("b", 7700, "a")
        case "to it":
            at = lan.deafen("b")
        case _:
            at = lan.one_way("b")
    time.sleep(seconds)
    healed_at = lan.heal()
    given_up = pipeline.given_up("b", at)
    figure(f"nothing comes {way} for {seconds:g} s: given up", given_up[0], 4.5)
    figure("resumed after healing", pipeline.resumed("b", healed_at), RESUMED)
    judge(f"nothing comes {way} for {seconds:g} s", pipeline.finish(), [Cut("b", at, healed_at)])


def reject_and_open(pipeline: Pipeline, lan: Lan, name: str, seconds: float) -> Cut:
    """Let the firewall of a host answer with RST for a while."""
    at = time.monotonic()
    for port in (7700, 7701):
        lan.hosts[name].reject(port)
    time.sleep(seconds)
    lan.hosts[name].open()
    return Cut("b", at, time.monotonic())


def test_firewall_rejects(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A firewall that answers with RST is no death: the worker is heard, and its work stays its own until it is not."""
    pipeline = running(lan, three)
    cut = reject_and_open(pipeline, lan, "b", 1.5)
    assert pipeline.given_up("b", cut.at) == [], "it is heard, so it is not gone"
    figure("REJECT of 1.5 s at the worker: resumed", pipeline.resumed("b", cut.healed_at), RESUMED)
    outcome = pipeline.finish()
    judge("REJECT of 1.5 s at the worker", outcome, [cut])


@pytest.mark.long
@pytest.mark.parametrize("name", ["b", "a"])
def test_firewall_rejects_for_long(lan: Lan, three: tuple[Host, Host, Host], name: str) -> None:
    """The same for 5 s, at the worker and at the producer."""
    pipeline = running_full(lan, three)
    at = time.monotonic()
    cut = reject_and_open(pipeline, lan, name, 5.0)
    count(f"REJECT of 5 s at {name}: b given up after", pipeline.given_up("b", at))
    assert len(pipeline.given_up("b", at)) <= 1
    figure(f"REJECT of 5 s at {name}: resumed", pipeline.resumed("b", cut.healed_at), RESUMED)
    cuts = [cut] if name == "b" else [cut, Cut("c", cut.at, cut.healed_at)]
    judge(f"REJECT of 5 s at {name}", pipeline.finish(), cuts)


def test_vanished_host(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A host without power: its work runs elsewhere within 5 s, and when it starts again it gets work."""
    pipeline = Pipeline(lan, rate=40.0)
    pipeline.start_one("produce", three[0])
    pipeline.start_one("consume", three[1])
    pipeline.start_one("consume", three[2], work=0.02)
    pipeline.wait_until_flowing("b", "c")
    at = three[1].vanish()
    figure("vanished host: its work elsewhere", pipeline.elsewhere("b", at), GIVEN_UP)
    figure("vanished host: given up", pipeline.until_given_up("b", at), 4.5)
    healed_at = lan.heal()
    pipeline.start_one("consume", three[1])
    figure("vanished host: works again after its start", pipeline.resumed("b", healed_at), RESUMED + 1.0)
    judge("vanished host", pipeline.finish(), [Cut("b", at, healed_at)])


@pytest.mark.long
def test_killed_workers(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A worker that is killed is proven dead by the refusal of its port: within 4 s from another host, at once here."""
    pipeline = Pipeline(lan, rate=20.0)
    pipeline.start_one("produce", three[0])
    pipeline.start_one("consume", three[0], name="near", listen="auto")
    pipeline.start_one("consume", three[1])
    pipeline.start_one("consume", three[2], work=0.02)
    pipeline.wait_until_flowing("near", "b", "c", count=8)
    at = time.monotonic()
    pipeline.processes["b"].kill()
    pipeline.processes["near"].kill()
    wait_for(lambda: pipeline.given_up("b", at) and pipeline.given_up("near", at), "that both are given up")
    figure("kill -9 on the same host: given up", pipeline.given_up("near", at)[0], 1.0)
    figure("kill -9 on another host: given up", pipeline.given_up("b", at)[0], 4.0)
    judge("kill -9", pipeline.finish(), [Cut("b", at, at), Cut("near", at, at)])


@pytest.mark.long
def test_flapping(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A cable that is cut for one of every two seconds, for two minutes."""
    pipeline = running_full(lan, three)
    cuts = [Cut("b", *each) for each in lan.flap("b", 2.0, 120.0)]
    figure("flapping for 2 min: resumed", pipeline.resumed("b", cuts[-1].healed_at), RESUMED)
    judge("flapping for 2 min", pipeline.finish(), cuts)


@pytest.mark.long
def test_loss(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """5 % of all frames are lost on the way, for 20 s."""
    pipeline = running_full(lan, three)
    at = lan.lose(5.0)
    time.sleep(20.0)
    lan.heal()
    count("5 % loss: b and c given up after", [pipeline.given_up(name, at) for name in "bc"])
    assert pipeline.given_up("b", at) == pipeline.given_up("c", at) == []
    judge("5 % loss", pipeline.finish(), [])


@pytest.mark.long
def test_delay_and_reorder(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Frames to and from a worker take 50 ± 50 ms and overtake each other; one in a hundred is lost."""
    forwarder = lan.delay("b", 0.05, 0.05, loss=0.01)
    pipeline = running_full(lan, three)
    at = time.monotonic()
    time.sleep(20.0)
    assert pipeline.given_up("b", at) == []
    judge("50 ± 50 ms with reorder and 1 % loss", pipeline.finish(), [])
    forwarder.tell("count")
    count("frames, overtaken, lost", forwarder.line())


@pytest.mark.long
@pytest.mark.parametrize("seconds", [1.0, 8.0])
def test_bulk(lan: Lan, three: tuple[Host, Host, Host], seconds: float) -> None:
    """Bodies of 256 KiB are on their way when the cable is cut."""
    pipeline = Pipeline(lan, work=0.01, in_hand=1.0, rate=100.0, burst=300, body_bytes=256 * 1024)
    pipeline.start(*three)
    pipeline.wait_until_flowing("b", "c", count=50)
    cut = cut_and_heal(pipeline, lan, seconds)
    judge(f"256 KiB bodies, cut of {seconds:g} s", pipeline.finish(), [cut])
