"""`peerfabric call` and `peerfabric services`, as processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

from peerfabric import Node
from peerfabric.nodes.cli.services import Service
from peerfabric.reports import ServerView, ServiceView
from tests.cli.conftest import Start, ended


def test_a_reply_is_printed(start: Start, node: Node) -> None:
    """As JSON on one line; of an answer in parts each of them."""

    @node.serve("double")
    def double(number: int) -> dict[str, int]:
        return {"twice": 2 * number}

    @node.serve("count")
    def count(stop: int) -> Iterator[int]:
        yield from range(stop)

    assert ended(start("call", "double", "21")) == (0, '{"twice":42}\n', "")
    assert ended(start("call", "count", "3", "--server", "test")) == (0, "0\n1\n2\n", "")


def test_what_goes_wrong(start: Start, node: Node) -> None:
    """One line and an exit code for each."""

    @node.serve("fail")
    def fail(number: int) -> int:
        raise ValueError("no such number")

    code, out, err = ended(start("call", "fail", "1"))
    assert (code, out) == (1, "")
    assert "the handler at test raised ValueError: no such number" in err
    code, out, err = ended(start("call", "fail", '"one"'))
    assert (code, out) == (1, "")
    assert "int is wanted: Expected `int`, got `str`" in err
    code, out, err = ended(start("call", "fial", "1"))
    assert (code, out) == (3, "")
    assert "service 'fial': nobody serves it" in err
    assert ended(start("call", "fail", "one"))[0] == 2


def test_no_reply_in_time(start: Start, node: Node) -> None:
    """It says whether the call was sent, and names commands as the next step."""
    given_up = threading.Event()

    @node.serve("slow.get", concurrency=1, waiting=1)
    def slow(number: int) -> int:
        assert given_up.wait(30)
        return number

    code, out, err = ended(start("call", "slow.get", "3", "--timeout", "3"))
    said = "timed out after 3 s: service 'slow.get': sent to test; it may have run"
    assert (code, out, err) == (3, "", f"peerfabric: {said}\n")
    given_up.set()
    code, out, err = ended(start("call", "slow.got", "3"))
    step = "look at its name and at `peerfabric services`, and start a node that serves it in the same fabric"
    assert (code, out, err) == (
        3,
        "",
        f"peerfabric: service 'slow.got': nobody serves it (did you mean 'slow.get'?); {step}\n",
    )


def test_calls_are_those_that_run_and_wait(start: Start, node: Node) -> None:
    """Also where nobody has asked that server before."""
    let_go = threading.Event()

    @node.serve("bake", concurrency=2, waiting=9)
    def bake(number: int) -> int:
        assert let_go.wait(60)
        return number

    with Node("caller") as caller:

        def asks(number: int) -> None:
            list(caller.stream("bake", number, reply_type=int, timeout=60))

        calls = [threading.Thread(target=asks, args=(number,)) for number in range(5)]
        for call in calls:
            call.start()
        ends_at = time.monotonic() + 60
        while sum(account.running + account.waiting for account in node.statistics().services) < 5:
            assert time.monotonic() < ends_at
            time.sleep(0.01)
        code, out, _ = ended(start("services"))
        assert (code, out.splitlines()[1].split()[:4]) == (0, ["bake", "1", "5", "2"])
        (found,) = map(json.loads, ended(start("services", "-o", "json"))[1].splitlines())
        assert found["load"] == found["servers"][0]["load"] == 5
        let_go.set()
        for call in calls:
            call.join(60)


def test_who_does_not_tell_is_not_counted_as_idle() -> None:
    """A number of which not all is known says so."""
    view = ServiceView(name="bake", servers=(ServerView(node_id="a", name="a"), ServerView(node_id="b", name="b")))
    assert Service.of(view, {("a", "bake"): 3, ("b", "other"): 1}).calls == "3+?"
    assert Service.of(view, {}).calls == "?"


def test_services_are_listed(start: Start, node: Node) -> None:
    """With their servers; without any it says so."""
    code, out, err = ended(start("services", "--timeout", "0.2"))
    assert (code, out) == (3, "")
    assert "nobody serves anything in fabric 'cli'" in err

    @node.serve("double", concurrency=4)
    def double(number: int) -> int:
        return 2 * number

    code, out, _ = ended(start("services"))
    assert code == 0
    assert out.splitlines()[1].split() == ["double", "1", "0", "4", "test"]
    code, out, _ = ended(start("services", "-o", "json"))
    assert (code, json.loads(out)["servers"][0]["name"]) == (0, "test")
    code, out, _ = ended(start("peers", "-o", "json"))
    assert (code, json.loads(out)["serves"]) == (0, ["double"])
