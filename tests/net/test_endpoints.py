"""Endpoints between hosts: addresses that mean somebody else, that move, or behind which nobody speaks."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.net.hosts import Host, Lan, wait_for
from tests.net.pipeline import STARTED_AFTER_CUT, Cut, Pipeline, count, figure, unexcused

UP = 3.0
"""Seconds after its start within which a node has its links."""
SILENT = """
import socket
server = socket.create_server((__import__("sys").argv[1], 7700))
print("ready")
kept = []
while True:
    kept.append(server.accept())
"""
"""Listens, accepts, and never says a word."""


def all_up(pipeline: Pipeline, began_at: float, bound: float = UP) -> None:
    """Wait until everybody has a link with the producer, and print how long that took."""
    names = [name for name in pipeline.processes if name != "a"]

    def is_up() -> bool:
        now = {name: state for _, name, state in pipeline.beliefs("a")}
        return all(now.get(name) == "up:" for name in names)

    figure("all up after the last start", wait_for(is_up, "links with all") - began_at, bound)


def no_verdicts(pipeline: Pipeline) -> None:
    """Nobody who was up was ever taken for gone by the producer."""
    for name in pipeline.processes:
        assert pipeline.given_up(name, 0.0) == [], pipeline.beliefs("a")


def check(pipeline: Pipeline, cuts: list[Cut] | None = None) -> None:
    outcome = pipeline.finish()
    count("messages", f"{outcome.sent}, 0 lost, {len(outcome.twice)} ran twice")
    assert unexcused(outcome, cuts or []) == []


def test_same_address_on_all_hosts(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Every host has a docker0 with 172.17.0.1, announced before its own address: that leads to oneself."""
    for host in three:
        host.add_bridge("docker0", "172.17.0.1/16")
    pipeline = Pipeline(lan)
    began_at = pipeline.start(
        *three,
        **{host.name: {"advertise": ["172.17.0.1", f"10.77.0.{at}"]} for at, host in enumerate(three, 1)},
    )
    all_up(pipeline, began_at)
    pipeline.wait_until_flowing("b", "c", count=5)
    no_verdicts(pipeline)
    check(pipeline)


@pytest.mark.long
def test_docker0_is_not_announced(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Left to itself a node announces what others can reach it by."""
    for host in three:
        host.add_bridge("docker0", "172.17.0.1/16")
    pipeline = Pipeline(lan)
    all_up(pipeline, pipeline.start(*three))
    pipeline.wait_until_flowing("b", "c", count=5)
    no_verdicts(pipeline)
    check(pipeline)


def test_accepting_impostor(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """An address that is announced first belongs to somebody who accepts and never speaks."""
    d = lan.host("d", "10.77.0.4/24")
    d.start(SILENT, "10.77.0.4").until("ready")
    pipeline = Pipeline(lan)
    own = {name: {"advertise": ["10.77.0.4", f"10.77.0.{at}"]} for at, name in enumerate("abc", 1)}
    all_up(pipeline, pipeline.start(*three, **own), UP + 1.0)
    pipeline.wait_until_flowing("b", "c", count=5)
    no_verdicts(pipeline)
    check(pipeline)


@pytest.mark.long
def test_impostor_at_the_address_of_the_dead(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Who accepts in the name of a dead host keeps its work from others for 30 s at most."""
    pipeline = Pipeline(lan)
    pipeline.start(*three)
    pipeline.wait_until_flowing("b", "c")
    at = three[1].vanish()
    three[1].delete_address("10.77.0.2/24")
    d = lan.host("d", "10.77.0.2/24")
    d.start(SILENT, "10.77.0.2").until("ready")
    figure("an impostor at a dead host's address: its work elsewhere", pipeline.elsewhere("b", at), 35.0)
    check(pipeline, [Cut("b", at, at)])


@pytest.mark.long
def test_outbox_port_closed(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Where only the inbox's port is open queues work, and a warning names the port that topics need."""
    a, b, _ = three
    a.firewall("tcp dport 7701 drop")
    publisher = a.start("""
    import sys, time
    from peerfabric import Node
    with Node("a", reach="lan", secret="insecure", listen="tcp://*:7700", discovery=["exchange"]) as node:
        topic = node.publisher("prices", int)
        queue = node.producer("work", int)
        print("ready")
        queue.send(1, confirm="processed")
        print("processed")
        while True:
            topic.publish(1)
            time.sleep(0.1)
    """)
    publisher.until("ready")
    subscriber = b.start("""
    import logging, time
    from peerfabric import Node, TimedOut
    logging.basicConfig()
    with Node("b", reach="lan", secret="insecure", peers=["tcp://10.77.0.1:7700"]) as node:
        topic = node.subscriber("prices", int)
        queue = node.consumer("work", int)
        with queue.get(timeout=30) as body:
            print("took", body)
        while True:
            try:
                print("heard", topic.get(timeout=1).body)
                break
            except TimedOut:
                pass
    """)
    assert subscriber.until("took") == "1"
    publisher.until("processed")
    wait_for(lambda: "7701" in subscriber.errors() + publisher.errors(), "a warning that names the port", 30.0)
    a.open()
    opened_at = time.monotonic()
    subscriber.until("heard")
    figure("outbox port opened: updates after", time.monotonic() - opened_at, 5.0)


def test_address_changes_under_load(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A worker's host gets another address, as by DHCP: nothing is lost, and it works again within 6 s."""
    pipeline = Pipeline(lan)
    pipeline.start(*three)
    pipeline.wait_until_flowing("b", "c")
    three[1].delete_address("10.77.0.2/24")
    at = time.monotonic()
    three[1].add_address("10.77.0.22/24")
    back = back_to_work(pipeline, "b", at)
    figure("address changed under load: new work after", back, 6.0)
    check(pipeline, [Cut("b", at, at + back)])


def back_to_work(pipeline: Pipeline, host: str, since: float) -> float:
    """Wait until a host starts a message that it was sent after `since`; return how many seconds later that was.

    It may start what it holds until its fence ends.
    """
    return STARTED_AFTER_CUT + pipeline.resumed(host, since + STARTED_AFTER_CUT)


@pytest.mark.long
def test_address_of_the_producer_changes(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """The address that is everybody's seed moves; a second one stays behind for a while, and goes."""
    pipeline = Pipeline(lan)
    pipeline.start(*three)
    pipeline.wait_until_flowing("b", "c")
    three[0].add_address("10.77.0.11/24")
    time.sleep(6.0)
    three[0].call("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/promote_secondaries")
    three[0].delete_address("10.77.0.1/24")
    at = time.monotonic()
    back = max(back_to_work(pipeline, name, at) for name in "bc")
    figure("the producer's address changed: new work after", back, 6.0)
    check(pipeline, [Cut("b", at, at + back), Cut("c", at, at + back)])


@pytest.mark.long
def test_ipv6_only(lan: Lan) -> None:
    """Hosts without any IPv4."""
    a, b, c = (lan.host(name, f"fd00::{at}/64") for at, name in enumerate("abc", 1))
    pipeline = Pipeline(lan, peers=["tcp://[fd00::1]:7700"])
    all_up(pipeline, pipeline.start(a, b, c))
    pipeline.wait_until_flowing("b", "c", count=5)
    no_verdicts(pipeline)
    check(pipeline)


@pytest.mark.long
def test_two_subnets(lan: Lan) -> None:
    """A producer in two subnets has workers in both, which cannot reach each other."""
    a, b, c = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24"), lan.host("c")
    a.plug("10.78.0.1/24", interface="eth1", network="other")
    c.plug("10.78.0.3/24", network="other")
    pipeline = Pipeline(lan)
    all_up(pipeline, pipeline.start(a, b, c, c={"peers": ["tcp://10.78.0.1:7700"]}))
    pipeline.wait_until_flowing("b", "c", count=5)
    no_verdicts(pipeline)
    check(pipeline)


def test_resolver_that_never_answers(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A name among the peers that nobody resolves stalls no link."""
    for host in three:
        host.replace_file("/etc/resolv.conf", "nameserver 10.77.0.99\noptions timeout:2 attempts:2\n")
        host.firewall("udp sport 53 drop")
    pipeline = Pipeline(
        lan, work=0.005, in_hand=0.1, rate=100.0, peers=["tcp://nobody.example:7700", "tcp://10.77.0.1:7700"]
    )
    all_up(pipeline, pipeline.start(*three))
    pipeline.wait_until_flowing("b", "c", count=50)
    began_at = time.monotonic()
    time.sleep(4.0)
    starts = [run.started_at for run in pipeline.runs() if run.started_at > began_at]
    figure("a resolver that never answers: longest gap", max(b - a for a, b in pairwise(starts)), 0.2)
    no_verdicts(pipeline)
    check(pipeline)
