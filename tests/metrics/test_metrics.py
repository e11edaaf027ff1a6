"""Metrics of given statuses: what Prometheus reads is what nodes have told."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from peerfabric import metrics
from peerfabric.metrics import FAMILIES, QUEUES_MAX, Answered
from peerfabric.reports import CallAccount, ConsumerAccount, QueueAccount, ServiceAccount
from peerfabric.status import (
    HANDLER_SECONDS,
    Letters,
    NodeStatus,
    Peer,
    Process,
    Publishing,
    Sending,
    SpoolStatus,
    Status,
    Subscribing,
    Taking,
    Warned,
)

SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (?P<value>[-+.e0-9]+)'
)
LABEL = re.compile(r'([a-z]+)="((?:[^"\\\n]|\\["\\n])*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a text, each by name and labels. Each must be there once, behind what describes its family."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    kinds: dict[str, str] = {}
    described = ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            described = line.split()[2]
            assert described not in kinds
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == described
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            name = match["name"]
            family = re.sub("_(bucket|sum|count)$", "", name) if kinds[described] == "histogram" else name
            assert family == described, line
            assert family.endswith("_total") == (kinds[family] == "counter"), line
            labels = tuple(sorted(LABEL.findall(match["labels"] or "")))
            assert (name, labels) not in found, line
            found[name, labels] = float(match["value"])
    return found


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    fabric = {"fabric": "default"} if "node" in labels else {}
    return f"peerfabric_{name}", tuple(sorted({**fabric, **labels}.items()))


def node(name: str = "shop-7", **fields: Any) -> NodeStatus:
    return NodeStatus(node_id=fields.pop("node_id", "ab" * 8), name=name, fabric="default", **fields)


def process(*nodes: NodeStatus, pid: int = 7) -> Answered:
    running = Process(pid=pid, started=1, version="1.2", python="3.11.7", rss=4096, cpu=1.5, descriptors=20)
    return Answered.of(Status(process=running, nodes=nodes))


def sending(queue: str, **counts: int) -> Sending:
    return Sending(queue=queue, account=QueueAccount(queue=queue, **counts))


def test_a_producer() -> None:
    """Counters and depths of its account; the node is called as its program, without the pid."""
    account = QueueAccount(
        queue="orders", accepted=10, acked=4, waiting=3, in_flight=2, on_disk=1, redelivered=5, dropped=6, expired=7
    )
    queue = Sending(
        queue="orders",
        account=account,
        oldest_unsettled=2.5,
        consumers=("a", "b"),
        blocked_senders=8,
        letters=Letters(count=9),
    )
    peers = tuple(Peer(node_id=str(n), name="p", state=state) for n, state in enumerate(["up", "up", "idle"]))
    found = parse(metrics.render([process(node(sends=(queue,), peers=peers, uptime=60.0, pump_late=0.5))]))
    ours = {"node": "shop", "queue": "orders"}
    assert {key: value for key, value in found.items() if "queue" in dict(key[1])} == {
        of("messages_accepted_total", **ours): 10,
        of("messages_acked_total", **ours): 4,
        of("messages_redelivered_total", **ours): 5,
        of("messages_dead_total", **ours): 0,
        of("messages_expired_total", **ours): 7,
        of("messages_dropped_total", **ours): 6,
        of("messages_damaged_total", **ours): 0,
        of("queue_waiting", **ours): 3,
        of("queue_in_flight", **ours): 2,
        of("queue_on_disk", **ours): 1,
        of("queue_oldest_seconds", **ours): 2.5,
        of("queue_blocked_senders", **ours): 8,
        of("consumers", **ours): 2,
        of("dead_letters", **ours): 9,
    }
    assert found[of("peers", node="shop", state="up")] == 2
    assert found[of("peers", node="shop", state="idle")] == 1
    assert found[of("node_uptime_seconds", node="shop")] == 60
    assert found[of("node_late_seconds", node="shop")] == 0.5
    assert found[of("build_info", version="1.2", python="3.11.7")] == 1
    assert found[of("process_answers")] == 1
    assert found[of("process_resident_memory_bytes")] == 4096
    assert found[of("process_cpu_seconds_total")] == 1.5
    assert found[of("process_open_fds")] == 20


def test_a_consumer_and_its_histogram() -> None:
    """Buckets are cumulative, the last one has all."""
    account = ConsumerAccount(queue="q", received=20, processed=9, nacked=8, returned=1, refused=2, started=3)
    counts = tuple(range(len(HANDLER_SECONDS) + 1))
    taking = Taking(queue="q", account=account, longest_running=4.5, paused=True, seconds=counts, seconds_sum=12.5)
    found = parse(metrics.render([process(node("k", takes=(taking,)))]))
    ours = {"node": "k", "queue": "q"}
    for result, count in (("processed", 9), ("nacked", 8), ("returned", 1), ("refused", 2), ("expired", 0)):
        assert found[of("processed_total", result=result, **ours)] == count
    assert found[of("consumer_running", **ours)] == 3
    assert found[of("consumer_longest_running_seconds", **ours)] == 4.5
    assert found[of("consumer_paused", **ours)] == 1
    assert found[of("handler_seconds_bucket", le="0.001", **ours)] == 0
    assert found[of("handler_seconds_bucket", le="0.025", **ours)] == 0 + 1 + 2
    assert found[of("handler_seconds_bucket", le="300", **ours)] == sum(counts[:-1])
    assert found[of("handler_seconds_bucket", le="+Inf", **ours)] == sum(counts)
    assert found[of("handler_seconds_count", **ours)] == sum(counts)
    assert found[of("handler_seconds_sum", **ours)] == 12.5


def test_topics_services_and_spool() -> None:
    """The rest of a node."""
    status = node(
        "n",
        publishes=(Publishing(topic="t", published=4),),
        subscribes=(Subscribing(pattern="t.>", received=3, missed=1),),
        serves=(ServiceAccount(service="s", received=9, answered=6, refused=2, dropped=1, waiting=4, running=5),),
        calls=CallAccount(started=5, open=1, ended={"answered": 3, "timed out": 1}),
        spool=SpoolStatus(folder="/var/lib/x", slot=2, used=10, limit=100, disk_free=1000),
    )
    found = parse(metrics.render([process(status)]))
    assert found[of("topic_published_total", node="n", topic="t")] == 4
    assert found[of("topic_received_total", node="n", pattern="t.>")] == 3
    assert found[of("topic_missed_total", node="n", pattern="t.>")] == 1
    assert found[of("service_calls_total", node="n", service="s", result="answered")] == 6
    assert found[of("service_running", node="n", service="s")] == 5
    assert found[of("service_waiting", node="n", service="s")] == 4
    assert found[of("calls_total", node="n", result="timed out")] == 1
    assert found[of("calls_open", node="n")] == 1
    spool = {"node": "n", "folder": "/var/lib/x", "slot": "2"}
    assert found[of("spool_used_bytes", **spool)] == 10
    assert found[of("spool_limit_bytes", **spool)] == 100
    assert found[of("spool_disk_free_bytes", **spool)] == 1000


def test_a_spool_without_a_limit() -> None:
    """Has no sample for it: what is divided by it would be more than all."""
    found = parse(metrics.render([process(node("n", spool=SpoolStatus(folder="/x", slot=0, used=10)))]))
    assert "peerfabric_spool_used_bytes" in {name for name, _ in found}
    assert "peerfabric_spool_limit_bytes" not in {name for name, _ in found}


def test_fabrics_are_told_apart() -> None:
    """Two of them may have queues and nodes of one name."""
    nodes = [
        NodeStatus(node_id=f"{n}" * 16, name="shop", fabric=f"f{n}", sends=(sending("q", accepted=n),)) for n in (1, 2)
    ]
    found = parse(metrics.render([process(nodes[0]), process(nodes[1], pid=8)], by_pid=True))
    assert found[of("messages_accepted_total", fabric="f1", node="shop", pid="7", queue="q")] == 1
    assert found[of("messages_accepted_total", fabric="f2", node="shop", pid="8", queue="q")] == 2


def test_warnings_by_code() -> None:
    """However many texts there are; those that are not there count 0, so that an alert has something to go by."""
    warned = tuple(Warned(code=code, text=f"{n}") for n, code in enumerate(["old", "old", "disk"]))
    found = parse(metrics.render([process(node("n", warnings=warned))]))
    codes = {dict(labels)["code"]: value for (name, labels), value in found.items() if name == "peerfabric_warnings"}
    assert (codes.pop("old"), codes.pop("disk")) == (2, 1)
    assert "no-consumer" in codes
    assert set(codes.values()) == {0}


def test_processes_are_told_apart_and_silent_ones_shown() -> None:
    """Nothing is summed over processes; one that does not answer is a fact by itself."""
    both = [process(node("web-1", sends=(sending("q", accepted=n),)), pid=n) for n in (1, 2)]
    found = parse(metrics.render([*both, Answered(3, None)], by_pid=True))
    assert found[of("messages_accepted_total", node="web", queue="q", pid="1")] == 1
    assert found[of("messages_accepted_total", node="web-1", queue="q", pid="2")] == 2
    assert [found[of("process_answers", pid=pid)] for pid in "123"] == [1, 1, 0]


def test_nodes_of_one_name() -> None:
    """Two in one process, and one in the slot of another process, are different series."""
    nodes = (
        node("web", node_id="1" * 16, sends=(sending("q", accepted=1),)),
        node("web", node_id="2" * 16, sends=(sending("q", accepted=2),)),
        node("shop", adopted=4, sends=(sending("q", accepted=3),)),
        node("shop", sends=(sending("q", accepted=4),)),
    )
    found = parse(metrics.render([process(*nodes)]))
    assert found[of("messages_accepted_total", node="web~11111111", queue="q")] == 1
    assert found[of("messages_accepted_total", node="web~22222222", queue="q")] == 2
    assert found[of("messages_accepted_total", node="shop~slot4", queue="q")] == 3


def test_no_two_series_are_the_same() -> None:
    """Prometheus would refuse all of them: processes of containers share pids, and slots of two folders a number."""
    slots = [node("shop", node_id=f"{id}" * 16, adopted=1, sends=(sending("q", accepted=id),)) for id in (1, 2)]
    here, there = process(*slots), process(node("shop"))
    found = parse(metrics.render([here, there, Answered(7, None)], by_pid=True))
    names = {labels for name, labels in found if name == "peerfabric_messages_accepted_total"}
    assert names == {
        (("fabric", "default"), ("node", f"shop~slot1~{id * 8}"), ("pid", "7"), ("queue", "q")) for id in ("1", "2")
    }
    assert [found[of("process_answers", pid=pid)] for pid in ("7", "7~2", "7~3")] == [1, 1, 0]


def test_the_shallowest_of_many_queues_are_one() -> None:
    """Only their depths: their counters are those of ever other queues."""
    queues = tuple(sending(f"q{n}", accepted=n, waiting=n) for n in range(QUEUES_MAX + 3))
    takes = tuple(Taking(queue=f"q{n}", account=ConsumerAccount(queue=f"q{n}")) for n in range(QUEUES_MAX + 3))
    found = parse(metrics.render([process(node("n", sends=queues, takes=takes))]))
    assert found[of("queue_waiting", node="n", queue="_other")] == 0 + 1 + 2
    assert of("queue_waiting", node="n", queue="q2") not in found
    assert found[of("queue_waiting", node="n", queue="q3")] == 3
    assert of("messages_accepted_total", node="n", queue="_other") not in found
    assert of("consumer_running", node="n", queue="q2") not in found
    assert len({dict(labels)["queue"] for _, labels in found if "queue" in dict(labels)}) == QUEUES_MAX + 1


@pytest.mark.parametrize("name", ['a"} 1\npeerfabric_x 1', "\\", 'end\\"', "a\nb", "\ud800"])
def test_hostile_names_stay_labels(name: str) -> None:
    """No name ends its label, its line, or the whole text."""
    found = parse(metrics.render([process(node(name, uptime=1.0))]))
    (labels,) = [dict(labels) for family, labels in found if family == "peerfabric_node_uptime_seconds"]
    shown = re.sub(r'\\(["\\n])', lambda m: "\n" if m[1] == "n" else m[1], labels["node"])
    assert shown == name.encode(errors="replace").decode()


def test_nobody_there() -> None:
    """A host without a node has no metrics, and that is no error."""
    assert metrics.render([], by_pid=True) == ""


def test_families_are_named_by_the_rules() -> None:
    """Base units, `_total` for counters and nothing else; help that is a sentence."""
    for family in FAMILIES.values():
        assert re.fullmatch(r"peerfabric(_[a-z]+)+", family.name)
        assert not re.search(r"_(ms|millis|minutes|kb|mib|percent)(_|$)", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")
        assert "\n" not in family.help


def queries() -> list[str]:
    return re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', metrics.dashboard())


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Each metric of its queries is one of ours, and each panel has a place of its own."""
    asked = Counter(name for query in queries() for name in re.findall(r"peerfabric_\w+", query))
    parts = {
        f"{family.name}{end}" for family in FAMILIES.values() if family.kind == "histogram" for end in ("_bucket",)
    }
    assert set(asked) <= {family.name for family in FAMILIES.values()} | parts
    assert len(asked) > 20
    panels = json.loads(metrics.dashboard())["panels"]
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert len({panel["id"] for panel in panels}) == len(panels)
