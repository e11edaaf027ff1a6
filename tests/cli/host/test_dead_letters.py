"""`peerfabric dead`: its arguments told apart, and dead letters of running nodes, of processes that a test makes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from peerfabric.nodes.cli.dead import Words, words
from peerfabric.nodes.cli.host import dead_letters
from peerfabric.nodes.cli.host.door import Heard
from peerfabric.status import SpoolStatus
from tests.cli.processes import Processes, heard, node, run, sending
from tests.cli.spools import opened, store_dead_letters

TEA = b"\xa3tea"


def letter(sequence: int, queue: str = "q", name: str = "a", **fields: Any) -> dict[str, Any]:
    shown = {
        "id": f"{name * 4}:1:{queue}/{sequence}",
        "queue": queue,
        "reason": "rejected",
        "error": "burnt",
        "attempts": 2,
    }
    return {"node_id": name * 4, "node": name, "fabric": "cli", "sent_at": 5.0, **shown, **fields}


class Letters:
    """The dead letters of each process, by pid; `acted` are those that were retried or dropped."""

    def __init__(self, processes: Processes, **letters: list[dict[str, Any]]) -> None:
        self.letters = {int(pid.removeprefix("p")): found for pid, found in letters.items()}
        self.acted: list[tuple[str, str]] = []
        processes.does = {"dead": self.dead, "retry": self.act("retry"), "drop": self.act("drop")}

    def dead(self, process: Heard, *, queue: str | None, limit: int, whole: bool, fabric: str) -> dict[str, Any]:
        found = [each for each in self.letters[process.pid] if queue in (None, each["queue"])]
        return {"letters": found[:limit]}

    def act(self, do: str) -> Any:
        def acts(process: Heard, *, ids: list[str], fabric: str) -> dict[str, Any]:
            outcomes = []
            for identity in ids:
                there = [each for each in self.letters[process.pid] if each["id"] == identity]
                problem = there[0].get("problem", "") if there else "is gone"
                if not problem:
                    self.letters[process.pid].remove(there[0])
                    self.acted.append((do, identity))
                outcomes.append({"id": identity, "done": not problem, "problem": problem})
            return {"outcomes": outcomes}

        return acts


def test_arguments_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order; a spool that lies here may be named as it is, a folder that is none may not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders").mkdir()
    opened(tmp_path / "kept").close()
    assert words(["orders"]) == Words(None, ("orders",), ())
    assert words(["kept"]) == Words("kept", (), ())
    assert words(["kept", "kept"]) == Words("kept", ("kept",), ())
    assert words(["a:1:q/7", "./orders"]) == Words("./orders", (), ("a:1:q/7",))
    assert words(["/var/shop", "jobs", "orders"]) == Words("/var/shop", ("jobs", "orders"), ())
    for wrong in (["a:q/7"], ["or ders"], ["/a", "/b"]):
        with pytest.raises(click.UsageError):
            words(wrong)


def test_running_nodes_are_asked(processes: Processes) -> None:
    """All of them, oldest first; one that two tell of is there once."""
    processes.looks = [[heard(7, node("a")), heard(8, node("b"))]]
    shared = letter(9, name="c", slot=3)
    Letters(processes, p7=[letter(10), letter(9), shared], p8=[letter(1, "jobs", "b", sent_at=1.0), shared])
    code, out, err = run("dead", "ls", "-o", "json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [
        "bbbb:1:jobs/1",
        "aaaa:1:q/9",
        "aaaa:1:q/10",
        "cccc:1:q/9",
    ]
    assert [line.split()[0] for line in run("dead", "ls", "jobs")[1].splitlines()] == ["id", "bbbb:1:jobs/1"]
    assert [line.split()[0] for line in run("dead", "ls", "--slot", "3")[1].splitlines()] == ["id", "cccc:1:q/9"]
    assert json.loads(run("dead", "show", "aaaa:1:q/9")[1])["error"] == "burnt"
    code, _, err = run("dead", "show", "aaaa:1:q/8")
    assert (code, "no running node has dead letter aaaa:1:q/8" in err) == (1, True)


def test_by_id_by_queue_and_all(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In requests that are not too long; an id that is not there changes nothing, one that fails is told."""
    monkeypatch.setattr(dead_letters, "IDS_MAX", 2)
    processes.looks = [[heard(7, node("a")), heard(8, node("b"))]]
    there = Letters(
        processes, p7=[letter(n) for n in range(1, 6)], p8=[letter(1, "jobs", "b", problem="its disk is full")]
    )
    assert run("dead", "drop", "aaaa:1:q/1", "aaaa:1:q/9", "--yes")[0] == 1
    assert there.acted == []
    assert run("dead", "retry", "aaaa:1:q/1")[:2] == (0, "1 dead letter queued again\n")
    code, out, err = run("dead", "drop", "q")
    assert (code, out, "--yes" in err) == (1, "", True)
    assert run("dead", "drop", "q", "--yes", "-o", "json")[1] == '{"dropped":4,"problems":[]}\n'
    assert [len(asked[2]["ids"]) for asked in processes.asked if asked[1] == "drop"] == [2, 2]
    code, out, err = run("dead", "retry", "--all")
    assert (code, out) == (1, "0 dead letters queued again\n")
    assert "bbbb:1:jobs/1: its disk is full" in err
    assert run("dead", "retry")[0] == run("dead", "retry", "aaaa:1:q/1", "--all")[0] == 2
    code, out, _ = run("dead", "drop", "jobs", "--all", "--yes")
    assert (code, out) == (1, "0 dead letters deleted\n")  # it was chosen; its disk is full
    assert "queue jbos (did you mean 'jobs'?)" in run("dead", "retry", "jbos")[2]


def test_more_than_are_told_of_at_a_time(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a queue are dropped, in several rounds."""
    monkeypatch.setattr("peerfabric.nodes.cli.dead.LETTERS_MAX", 3)
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", 3)
    processes.looks = [[heard(7, node("a"))]]
    there = Letters(processes, p7=[letter(n) for n in range(1, 9)])
    code, out, _ = run("dead", "drop", "q", "--yes")
    assert (code, out, len(there.acted)) == (0, "8 dead letters deleted\n", 8)


def test_a_folder_with_running_and_free_slots(processes: Processes, tmp_path: Path) -> None:
    """Running nodes answer for their slots, the others are opened; nodes with another spool are not asked."""
    folder = tmp_path / "spool"
    spool = opened(folder / "slots" / "1")
    store_dead_letters(spool, "q", [1, 2], TEA)
    epoch = spool.epoch
    spool.close()
    mine = opened(folder)
    try:
        running = node("a", spool=SpoolStatus(folder=str(folder), slot=0), sends=(sending("q"),))
        other = node("c", spool=SpoolStatus(folder="/other", slot=1))
        processes.looks = [[heard(7, running, other), heard(8, node("b", spool=SpoolStatus(folder="/other", slot=0)))]]
        there = Letters(processes, p7=[letter(5, slot=0), letter(7, name="c")], p8=[letter(6, name="b")])
        _, out, err = run("dead", "ls", str(folder), "-o", "json")
        free = [f"desk:{epoch}:q/1", f"desk:{epoch}:q/2"]
        assert ([json.loads(line)["id"] for line in out.splitlines()], err) == (["aaaa:1:q/5", *free], "")
        assert run("dead", "drop", free[0], "aaaa:1:q/5", str(folder), "--yes")[:2] == (0, "2 dead letters deleted\n")
        assert there.acted == [("drop", "aaaa:1:q/5")]
        assert run("dead", "retry", str(folder), "--all")[:2] == (0, "1 dead letter queued again\n")
        code, _, err = run("dead", "show", "aaaa:1:q/5", str(folder))
        assert (code, "no running node has dead letter" in err) == (1, True)
    finally:
        mine.close()


def test_nobody_answers(processes: Processes) -> None:
    """3, and that a folder is needed."""
    code, _, err = run("dead", "ls")
    assert (code, "give the FOLDER of a spool" in err) == (3, True)


@pytest.mark.parametrize(
    "command", [("ls",), ("retry", "--all"), ("drop", "q", "--all", "--yes"), ("show", "aaaa:1:q/1")]
)
def test_nothing_is_said_of_queues_that_were_not_asked_for(processes: Processes, command: tuple[str, ...]) -> None:
    """Nodes leave out queues of a look that is about few; their letters are listed all the same."""
    processes.looks = [[heard(7, node("a", more=10))]]
    Letters(processes, p7=[letter(1)])
    code, _, err = run("dead", *command)
    assert (code, err) == (0, "")
