"""Status over HTTP: one document, one look for all who read, none for nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from peerfabric.gateway import looks, status
from peerfabric.gateway.auth import Token, Tokens
from peerfabric.gateway.limits import Limits
from peerfabric.gateway.looks import Looks
from peerfabric.gateway.others import Other
from tests.gateway.conftest import SECRET, Gate, problem
from tests.nodes.conftest import DEADLINE, eventually
from tests.page.fake import Host, Shop, answer, node, silent

READER = "secret-of-a-reader"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A host with fake processes."""
    shop = Shop()
    monkeypatch.setattr(looks, "ask_host", shop.look)
    monkeypatch.setattr(looks, "EVERY", 0.3)
    return shop


Event = tuple[str, Any]


def events(lines: Iterator[str]) -> Iterator[Event]:
    """What comes as server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def one_look(found: Iterator[Event]) -> list[Event]:
    """The events of one look."""
    taken = []
    for event in found:
        taken.append(event)
        if event[0] == "end":
            break
    return taken


def test_the_document_has_all_processes(gate: Gate, host: Shop) -> None:
    """Also those that do not answer, with the reason; and what who asks may do."""
    found = gate.client.get("/v1/status").json()
    assert [(each["pid"], bool(each["status"])) for each in found["processes"]][-2:] == [(4733, True), (4740, False)]
    assert found["processes"][-1]["problem"] == "no answer in 1 s: stopped, or starved"
    assert found["sources"] == [{"name": "", "host": socket.gethostname(), "problem": ""}]
    assert "admin" in found["can"]
    assert found["processes"][0]["status"]["nodes"][0]["sends"][0]["queue"] == "orders"


def test_a_real_process_is_in_it(gate: Gate) -> None:
    """The gateway's own one, asked at its admin socket."""
    gate.send("orders", 1)
    found = gate.client.get("/v1/status").json()
    [process] = found["processes"]
    assert [each["name"] for each in process["status"]["nodes"]] == ["gate"]


def test_a_stream_is_a_look_in_pieces(gate: Gate, host: Shop) -> None:
    """Its beginning says all but the processes, each of which is an event."""
    with gate.client.stream("GET", "/v1/status/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response.iter_lines())
        first, second = one_look(found), one_look(found)
    assert [name for name, _ in first] == ["begin", *["process"] * 7, "end"]
    assert first[0][1].keys() == {"at", "took", "host", "can", "sources"}
    assert 0.2 < second[0][1]["at"] - first[0][1]["at"] < DEADLINE


def test_readers_share_looks(gate: Gate, host: Shop) -> None:
    """Ten that read for some time see the same ones, and once a second."""
    seen: list[list[float]] = []

    def read() -> None:
        with httpx.stream(
            "GET", f"{gate.url}/v1/status/events", headers={"authorization": f"Bearer {SECRET}"}, timeout=DEADLINE
        ) as response:
            found = events(response.iter_lines())
            seen.append([one_look(found)[0][1]["at"] for _ in range(3)])

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(seen) == 10
    looked = {at for each in seen for at in each}
    assert host.looks - 1 <= len(looked) <= host.looks  # the last may have been taken for somebody who left
    assert host.looks <= 3 + (max(looked) - min(looked)) / looks.EVERY + 1


def test_nobody_reads_nobody_looks(gate: Gate, host: Shop) -> None:
    """Once the last reader has gone there is no further look."""
    with gate.client.stream("GET", "/v1/status/events") as response:
        one_look(events(response.iter_lines()))
    eventually(lambda: not gate.gateway.waits._open, "the end of the stream")
    before = host.looks
    time.sleep(2.2 * looks.EVERY)
    assert host.looks == before


def test_many_at_once_cost_one_look(gate: Gate, host: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it takes long."""

    def slowly() -> Any:
        time.sleep(0.3)
        return host.look()

    monkeypatch.setattr(looks, "ask_host", slowly)

    async def ask_often() -> None:
        part = gate.gateway.part(Looks)
        await asyncio.gather(*(part.recent() for _ in range(20)))

    gate.run(ask_often())
    assert host.looks == 1


def test_metrics_are_of_the_host(gate: Gate, host: Shop) -> None:
    """Of all processes, also those that are silent."""
    response = gate.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'peerfabric_queue_waiting{pid="4711",fabric="shop",node="shop-1",queue="invocies"} 214' in response.text
    assert 'peerfabric_process_answers{pid="4740"} 0' in response.text


def test_whether_it_lives_needs_no_token(gate: Gate, host: Shop) -> None:
    """All else that can be read does; what tells whether it is ready says no once it ends."""
    anybody = gate.client_of(None)
    assert anybody.get("/healthz").text == "ok\n"
    assert anybody.get("/readyz").text == "ready\n"
    for path in ("/v1/status", "/v1/status/events", "/metrics", "/v1/dead", "/v1/dead/orders"):
        problem(anybody.get(path), 401, "no-token")
    gate.call(gate.gateway.drain)
    problem(anybody.get("/readyz"), 503, "closing")
    assert anybody.get("/healthz").status_code == 200


def test_a_stream_ends_with_the_gateway(gate: Gate, host: Shop) -> None:
    """In its own time, so that nobody waits for who watches."""
    with gate.client.stream("GET", "/v1/status/events") as response:
        found = events(response.iter_lines())
        one_look(found)
        gate.call(gate.gateway.drain)
        assert list(found) == []


def test_too_many_readers_are_told_so(gates: Callable[..., Gate], host: Shop) -> None:
    """By an answer, and who has gone makes room."""
    gate = gates(limits=Limits(waits_per_token=1, drain_timeout=0.1))
    with gate.client.stream("GET", "/v1/status/events") as response:
        found = events(response.iter_lines())
        one_look(found)
        problem(gate.client.get("/v1/status/events"), 429, "too-many-waits")
        problem(gate.client.get("/v1/topics/prices/events"), 429, "too-many-waits")

    def again() -> bool:
        with gate.client.stream("GET", "/v1/status/events") as response:
            return response.status_code == 200

    eventually(again, "room for a reader")


def test_who_takes_nothing_is_cut_off(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stopped reading holds a connection for so long and no longer."""
    monkeypatch.setattr(status, "SLOW", 0.2)
    large = Host()
    peers = tuple(f"consumer-{n:05}" for n in range(200_000))
    waits = node("large", warnings=(), endpoints=peers)
    monkeypatch.setattr(large, "answers", lambda: [answer(1, [waits])])
    monkeypatch.setattr(looks, "ask_host", large.look)
    host, _, port = gate.url.removeprefix("http://").partition(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        request = f"GET /v1/status/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
        slow.sendall(request.encode())
        eventually(lambda: gate.gateway.waits._open, "the stream")
        eventually(lambda: not gate.gateway.waits._open, "its end")


def test_a_reader_is_told_what_it_may(gates: Callable[..., Gate], host: Shop) -> None:
    """Nothing that acts, if its token does not, or the gateway is read only."""
    reader = Tokens({READER: Token("eye", frozenset({("read", ">"), ("subscribe", "prices.>")})), SECRET: _all()})
    gate = gates(tokens=reader)
    assert gate.client_of(READER).get("/v1/status").json()["can"] == ["read", "subscribe"]
    still = gates(tokens=reader, read_only=True)
    assert still.client.get("/v1/status").json()["can"] == ["read", "subscribe"]


def _all() -> Token:
    return Token("all", frozenset((scope, ">") for scope in ("read", "subscribe", "admin", "send")))


def test_other_gateways_are_shown_with_it(gates: Callable[..., Gate], host: Shop) -> None:
    """Each with its processes or the reason why there are none; two that name each other make no circle."""
    there = gates()
    there.gateway.also = (Other("back", "http://127.0.0.1:1/", SECRET),)
    here = gates(also=(Other("cellar", there.url + "/", SECRET), Other("attic", "http://127.0.0.1:1/", SECRET)))
    there.gateway.also = (Other("upstairs", here.url + "/", SECRET),)
    found = here.client.get("/v1/status").json()
    assert [(each["name"], each["problem"]) for each in found["sources"]] == [
        ("", ""),
        ("cellar", ""),
        ("attic", "cannot be reached: Connection refused"),
    ]
    assert {each["source"] for each in found["processes"]} == {"", "cellar"}
    assert len(found["processes"]) == 14
    assert here.client.get("/v1/status?own=1").json()["sources"][1:] == []


def test_another_gateway_that_refuses_says_why(gates: Callable[..., Gate], host: Shop) -> None:
    there = gates()
    here = gates(also=(Other("cellar", there.url + "/", "no-such-secret-at-all"),))
    [_, cellar] = here.client.get("/v1/status").json()["sources"]
    assert cellar["problem"].startswith("answered 401: nobody has this token")


def test_a_slow_other_gateway_does_not_hold_up(gates: Callable[..., Gate], host: Shop, monkeypatch: Any) -> None:
    """One that accepts and says nothing costs its time, and then it is said."""
    monkeypatch.setattr(looks, "LOOK_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        here = gates(also=(Other("deaf", url),))
        found = here.client.get("/v1/status").json()
    assert found["sources"][1]["problem"] == "did not answer in 0.2 s"
    assert len(found["processes"]) == 7


def test_a_gateway_that_became_slow_is_shown_as_it_was(
    gates: Callable[..., Gate], host: Shop, monkeypatch: Any
) -> None:
    """So that the rest is as new as ever; once its time is over, that is said."""
    monkeypatch.setattr(looks, "PATIENCE", 0.05)
    monkeypatch.setattr(looks, "LOOK_TIMEOUT", 1.0)
    there = gates()
    here = gates(also=(Other("cellar", there.url + "/", SECRET),))
    assert len(here.client.get("/v1/status").json()["processes"]) == 14
    monkeypatch.setattr(looks, "FRESH", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        here.gateway.also = (Other("cellar", f"http://127.0.0.1:{deaf.getsockname()[1]}/"),)
        began = time.monotonic()
        assert len(here.client.get("/v1/status").json()["processes"]) == 14
        assert time.monotonic() - began < 1.0
        eventually(lambda: here.client.get("/v1/status").json()["sources"][1]["problem"], "the problem")


def test_a_host_without_nodes_is_empty(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "ask_host", lambda: [silent(1)])
    assert [each["status"] for each in gate.client.get("/v1/status").json()["processes"]] == [None]
