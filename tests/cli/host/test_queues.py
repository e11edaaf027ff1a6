"""`peerfabric queues` and `topics`, of processes that a test makes up."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from peerfabric.nodes.cli.host.queues import COLUMNS
from peerfabric.status import Publishing, Subscribing
from tests.cli.processes import Processes, heard, node, run, sending, silent, taking

LONG = "orders-of-the-northern-warehouse.priority-with-a-long-name"


def test_one_row_a_queue_with_rates(processes: Processes) -> None:
    """Two looks, some time apart; JSON has all that is known."""
    processes.looks = [
        [heard(7, node("a", sends=(sending(accepted=10, acked=4),)), at=1.0)],
        [heard(7, node("a", sends=(sending(accepted=30, acked=24, waiting=6, oldest=3.5),)), at=3.0)],
    ]
    code, out, err = run("queues", "--interval", "0.01")
    assert (code, err) == (0, "")
    head, row = out.splitlines()
    assert tuple(head.split()) == COLUMNS
    assert row.split() == ["orders", "6", "0", "0", "3.5", "s", "0", "10", "10", "0", "0"]
    code, out, _ = run("queues", "--interval", "0", "-o", "json")
    row = json.loads(out)
    assert (code, row["queue"], row["waiting"], row["oldest"], row["in_rate"]) == (0, "orders", 6, 3.5, None)


def test_tables_fit_eighty_columns(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers as large as they come; a long name is folded, not cut."""
    monkeypatch.delenv("PEERFABRIC_FABRIC")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    monkeypatch.setenv("TERM", "dumb")  # of 80 columns, without colours
    large = {"accepted": 10**12, "acked": 10**11, "waiting": 10**9, "in_flight": 10**6, "on_disk": 10**8}
    processes.looks = [
        [
            heard(
                7,
                node("a", sends=(sending(LONG, oldest=1e6, letters=10**6, redelivered=10**7, **large),)),
                node("k", takes=(taking(LONG, paused=True),)),
                node("p", "another-fabric", publishes=(Publishing(topic=LONG, published=10**12, subscribers=999),)),
                node("s", "another-fabric", subscribes=(Subscribing(pattern=LONG, received=10**12, behind=10**12),)),
            )
        ]
    ]
    for command in ("queues", "topics", "top"):
        code, out, _ = run(command, "--interval", "0.01")
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
        letters = "".join(line.split(" ")[0] for line in out.splitlines())
        assert LONG.replace("-", "") in letters.replace("-", "")


def test_what_is_missing_is_said(processes: Processes) -> None:
    """Processes that are silent, engines that are busy, queues that nodes left out; only one queue if it was named."""
    processes.looks = [
        [
            heard(7, node("a", sends=(sending("orders"), sending("jobs")), more=3), node("b", engine="busy 1.0 s")),
            silent(8),
        ]
    ]
    code, out, err = run("queues", "jobs", "--interval", "0", "-o", "json")
    assert (code, [json.loads(line)["queue"] for line in out.splitlines()]) == (0, ["jobs"])
    assert "process 8 (worker): no answer in 1 s" in err
    assert "node b: busy 1.0 s" in err
    assert "3 queues are not shown" in err


def test_nothing_is_there(processes: Processes) -> None:
    """3, and which of these it is: no queue, not this one, no node, none of this fabric."""
    now = ("--interval", "0")
    assert run("queues", *now)[0] == 3
    assert "no node of this user answers" in run("topics", *now)[2]
    processes.looks = [[heard(7, node("a"))]]
    assert "no node that answers has a queue" in run("queues", *now)[2]
    assert "no node that answers has queue 'jobs'" in run("queues", "jobs", *now)[2]
    code, _, err = run("queues", "--fabric", "other", *now)
    assert (code, "no node of fabric 'other' answers here; there are nodes of 'cli'" in err) == (3, True)
    assert "publishes or subscribes" in run("topics", *now)[2]


def test_names_cannot_command_the_terminal(processes: Processes) -> None:
    """They come from other processes."""
    processes.looks = [[heard(7, node("\x1b[2Ja", sends=(sending("o\x1b[2J"),)))]]
    for command in ("queues", "top"):
        assert "\x1b" not in run(command, "--interval", "0")[1]


def test_topics(processes: Processes) -> None:
    """A topic and a pattern are rows of one table."""
    processes.looks = [
        [
            heard(
                7,
                node("p", publishes=(Publishing(topic="prices.eur", published=5, subscribers=2),)),
                node("s", subscribes=(Subscribing(pattern="prices.>", received=4, missed=1),)),
            )
        ]
    ]
    _, out, _ = run("topics", "--interval", "0")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["prices.>", "1", "4", "1", "0", "0"],
        ["prices.eur", "1", "5", "2"],
    ]
    _, out, _ = run("topics", "--interval", "0", "-o", "json")
    assert [json.loads(line)["topic"] for line in out.splitlines()] == ["prices.>", "prices.eur"]


@pytest.mark.parametrize("width", [80, 60, 40])
def test_numbers_are_never_cut(processes: Processes, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """However long names are, and however narrow the terminal: there columns are left out in `top`, and lines wrap."""
    from rich.console import Console

    from peerfabric.nodes.cli.host.look import Look
    from peerfabric.nodes.cli.host.screen import Seen, View, screen

    one = heard(
        7, node("baker-of-the-north", sends=tuple(sending(f"{LONG}.{n}", waiting=298, oldest=3.0) for n in "ab"))
    )
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(Seen(Look(None, [one]), None, ()), View(), width, 24))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("queue "))
    assert set(head.split()) <= set(COLUMNS)
    rows = [line.split() for line in lines if "298" in line.split()]
    assert [row[0][-2:] for row in rows[:2]] == [".a", ".b"], "the end of a name tells those of one family apart"
    assert not any("…" in cell for row in rows for cell in row[1:])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80 columns
    monkeypatch.setenv("COLUMNS", str(width))
    processes.looks = [[one]]
    words = re.sub(r"\x1b\[[0-9;]*m", "", run("queues", "--interval", "0")[1]).split()
    assert words.count("298") == 2
    assert set(COLUMNS) <= set(words)


def test_producers_and_consumers_are_named(processes: Processes) -> None:
    """Of one queue, and in JSON of each; those that only others tell of, too."""
    near = node("a", sends=(msgspec.structs.replace(sending(), consumers=("k", "far")),))
    processes.looks = [[heard(7, near), heard(8, node("k", takes=(taking(),)))]]
    _, out, _ = run("queues", "orders", "--interval", "0")
    assert out.splitlines()[2:] == ["producers: a (7)", "consumers: far, k (8)"]
    row = json.loads(run("queues", "--interval", "0", "-o", "json")[1])
    assert (row["producer_names"], row["consumer_names"]) == (["a"], ["far", "k"])
    assert "has queue 'ordres' (did you mean 'orders'?)" in run("queues", "ordres", "--interval", "0")[2]


def test_what_waits_for_its_next_attempt(processes: Processes) -> None:
    """It is there, and nothing of it could be sent now."""
    processes.looks = [[heard(7, node("a", sends=(sending(waiting=30), sending("jobs", waiting=1, oldest=2.0))))]]
    _, out, _ = run("queues", "--interval", "0")
    assert [line.split()[4] for line in out.splitlines()[1:]] == ["2.0", "delayed"]
