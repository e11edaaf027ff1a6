"""`peerfabric pause`, `resume` and `purge`: whom they ask, and what they say."""

from __future__ import annotations

import json
from typing import Any

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.host.door import Heard
from tests.cli.processes import Processes, heard, node, run, sending, silent, taking


def done(process: Heard, *, queue: str, fabric: str) -> dict[str, Any]:
    assert process.status is not None
    nodes = [{"node_id": each.node_id, "node": each.name, "fabric": each.fabric} for each in process.status.nodes]
    return {"nodes": [{**each, "done": each["node"].startswith("k"), "purged": 0} for each in nodes]}


def test_consumers_are_paused(processes: Processes) -> None:
    """Only processes that have one are asked, and only nodes that did it are named."""
    processes.looks = [
        [
            heard(7, node("k1", takes=(taking(),)), node("x")),
            heard(8, node("k2", takes=(taking(),))),
            heard(9, node("p")),
        ]
    ]
    processes.does = {"pause": done, "resume": done}
    assert run("pause", "orders") == (0, "orders: paused at 2 consumers: k1, k2\n", "")
    assert run("resume", "orders") == (0, "orders: resumed at 2 consumers: k1, k2\n", "")
    arguments = {"queue": "orders", "fabric": "cli"}
    assert sorted(asked[:2] for asked in processes.asked) == [(7, "pause"), (7, "resume"), (8, "pause"), (8, "resume")]
    assert all(asked[2] == arguments for asked in processes.asked)
    _, out, _ = run("pause", "orders", "-o", "json")
    assert [json.loads(line)["node"] for line in out.splitlines()] == ["k1", "k2"]


def test_a_purge_asks_first(processes: Processes) -> None:
    """Not on a terminal it needs --yes; producers of the queue are counted, those that had nothing included."""
    processes.looks = [[heard(7, node("a", sends=(sending(waiting=5, on_disk=2),)), node("b", sends=(sending(),)))]]
    processes.does = {
        "purge": lambda process, **_: {
            "nodes": [{"node": n, "node_id": n * 4, "purged": 7 * (n == "a")} for n in "abc"]
        }
    }
    code, out, err = run("purge", "orders")
    assert (code, out, "--yes" in err, processes.asked) == (1, "", True, [])
    assert run("purge", "orders", "--yes") == (0, "orders: 7 messages dropped at 2 producers\n", "")


def test_a_queue_of_two_fabrics_is_not_guessed(processes: Processes, monkeypatch: Any) -> None:
    """Nothing is changed until one is named."""
    monkeypatch.delenv("PEERFABRIC_FABRIC")
    processes.looks = [[heard(7, node("k1", takes=(taking(),)), node("k2", "other", takes=(taking(),)))]]
    processes.does = {"pause": done}
    code, _, err = run("pause", "orders")
    assert (code, "name one with --fabric" in err, processes.asked) == (2, True, [])
    assert run("pause", "orders", "--fabric", "other")[0] == 0
    assert processes.asked == [(7, "pause", {"queue": "orders", "fabric": "other"})]


def test_a_stopped_process_delays_nobody_and_is_told(processes: Processes) -> None:
    """What others did counts; if nobody did it, that is no success."""
    processes.looks = [[heard(7, node("k1", takes=(taking(),))), silent(8)]]

    def refused(process: Heard, **arguments: Any) -> dict[str, Any]:
        if process.pid == 8:
            raise ConfigError("did not answer")
        return done(process, **arguments)

    processes.does = {"pause": refused}
    code, out, err = run("pause", "orders")
    assert (code, out) == (0, "orders: paused at 1 consumer: k1\n")
    assert "process 8 (worker): did not answer" in err
    processes.looks = [[heard(7, node("p")), silent(8)]]
    code, out, err = run("pause", "orders")
    assert (code, out, "nothing was done" in err) == (3, "", True)


def test_nobody_has_the_queue(processes: Processes) -> None:
    """3, and where to look."""
    processes.looks = [[heard(7, node("p"))]]
    code, _, err = run("pause", "orders")
    assert (code, "no node that answers on this host consumes 'orders'" in err) == (3, True)
    code, _, err = run("purge", "orders", "--yes")
    assert (code, "sends to 'orders'" in err) == (3, True)
