"""`peerfabric check`: its four states, each with what leads to it, and the line that monitoring systems read."""

from __future__ import annotations

import json
import re

import pytest

from peerfabric.errors import ConfigError
from peerfabric.status import InHand, Warned
from tests.cli.processes import Processes, heard, node, run, sending, silent, taking

HEALTHY = node("a", sends=(sending(waiting=3, oldest=2.0),)), node("k", takes=(taking(),))


def test_all_is_well(processes: Processes) -> None:
    """0, one line, and figures in the form that plugins have."""
    processes.looks = [[heard(7, *HEALTHY)]]
    code, out, err = run("check")
    assert (code, err) == (0, "")
    text, _, figures = out.rstrip("\n").partition(" | ")
    assert text == "PEERFABRIC OK - 1 queue, 3 messages waiting"
    assert all(re.fullmatch(r"[\w.]+=[\d.]+s?;\d*;[\d.:]*;0", figure) for figure in figures.split(" "))
    assert "oldest=2.0s;;60;0" in figures
    named = run("check", "--queue", "orders")[1]
    assert "orders.waiting=3;;;0" in named


@pytest.mark.parametrize(
    ("options", "state", "text"),
    [
        (("--max-oldest", "1"), 2, "oldest waits 2.0 s"),
        (("--max-waiting", "2"), 2, "3 wait (most 2)"),
        (("--min-consumers", "2"), 2, "1 consumer (least 2)"),
        (("--queue", "jobs"), 3, "jobs: no node that answers uses it"),
        (("--fabric", "other"), 3, "no node answers in fabric 'other'"),
    ],
)
def test_limits(processes: Processes, options: tuple[str, ...], state: int, text: str) -> None:
    """Each is named, with what it is and may be."""
    processes.looks = [[heard(7, *HEALTHY)]]
    code, out, _ = run("check", *options)
    assert (code, text in out) == (state, True)
    assert out.startswith(f"PEERFABRIC {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[state]} - ")


def test_user_code_that_is_stuck(processes: Processes) -> None:
    """A message in hand for too long is critical, though nothing waits."""
    processes.looks = [[heard(7, node("k", takes=(taking("orders", InHand(id="x", age=301.0)),)))]]
    code, out, _ = run("check")
    assert (code, "orders: in hand for 5 min" in out) == (2, True)


def test_what_a_person_should_look_at_is_a_warning(processes: Processes) -> None:
    """Dead letters, warnings of nodes, busy engines and silent processes."""
    warned = Warned(code="slow-handler", queue="orders", text="a | handler hangs; look at app.py:3", since=40.0)
    for fields in ({"warnings": (warned,)}, {"engine": "busy 1.0 s"}, {"sends": (sending(letters=1),)}):
        processes.looks = [[heard(7, node("a", **fields), node("k", takes=(taking(),)))]]
        code, out, _ = run("check")
        assert (code, out.count("|") <= 1) == (1, True)
    processes.looks = [[heard(7, *HEALTHY), silent(8)]]
    code, out, _ = run("check")
    assert (code, "process 8 (worker): no answer" in out) == (1, True)
    processes.looks = [[heard(7, node("a", sends=(sending(letters=1),)), node("k", takes=(taking(),)))]]
    assert run("check", "--max-dead", "1")[0] == 0


def test_nobody_there_is_never_ok(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a wrong option, or a runtime folder that cannot be used: 3."""
    code, out, _ = run("check")
    assert (code, out.startswith("PEERFABRIC UNKNOWN - no node answers")) == (3, True)
    processes.looks = [[silent(8)]]
    assert run("check")[0] == 1
    assert run("check", "--max-oldest", "soon")[0] == 3

    def refuses(*_: object, **__: object) -> None:
        raise ConfigError("runtime folder belongs to user 5; set another")

    monkeypatch.setattr("peerfabric.nodes.cli.host.door.answers", refuses)
    code, out, _ = run("check")
    assert (code, "belongs to user 5" in out) == (3, True)


def test_json(processes: Processes) -> None:
    """By --format or by -o, with the worst first."""
    processes.looks = [[heard(7, node("a", sends=(sending(waiting=3, letters=1, oldest=90.0),)), at=1.0)]]
    for options in (("--format", "json"), ("-o", "json")):
        code, out, _ = run("check", *options)
        found = json.loads(out)
        assert (code, found["state"], found["code"]) == (2, "CRITICAL", 2)
        assert [problem["state"] for problem in found["problems"]] == ["CRITICAL", "CRITICAL", "WARNING"]
        assert found["queues"][0]["queue"] == "orders"
    assert run("check", "--format", "nagios", "-o", "json")[1].startswith("PEERFABRIC CRITICAL")
