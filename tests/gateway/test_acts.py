"""Acts over HTTP: dead letters and queues, in all processes of the hosts that are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peerfabric import QueueFull
from peerfabric.gateway import acts
from peerfabric.gateway.auth import Token, Tokens
from peerfabric.gateway.others import Other
from tests.gateway.conftest import SECRET, Gate, problem
from tests.page.fake import Shop, letter

CLERK = "secret-of-the-clerk"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A host with fake processes."""
    shop = Shop()
    monkeypatch.setattr(acts, "list_processes", shop.answers)
    monkeypatch.setattr(acts, "ask_process", shop.ask)
    return shop


def post(gate: Gate, path: str, body: Any) -> dict[str, Any]:
    response = gate.client.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_dead_letters_are_listed(gate: Gate, host: Shop) -> None:
    """Oldest first, of one queue or all; who does not answer is named."""
    host.letters.append(letter(99, queue="mail", sent_at=5.0))
    found = gate.client.get("/v1/dead?fabric=shop").json()
    assert [each["queue"] for each in found["letters"]] == ["mail", "payments", "payments", "payments"]
    assert found["problems"] == ["process 4740: no answer in 1 s: stopped, or starved"]
    of_one = gate.client.get("/v1/dead/payments?fabric=shop&limit=2").json()
    assert [each["id"] for each in of_one["letters"]] == [each["id"] for each in host.letters[:2]]
    problem(gate.client.get("/v1/dead?limit=0"), 400)
    problem(gate.client.get("/v1/dead?limit=x"), 400)
    problem(gate.client.get("/v1/dead/a..b"), 404, "bad-name")


def test_the_fabric_is_the_gateways_own_unless_said(gate: Gate, host: Shop) -> None:
    gate.client.get("/v1/dead/payments")
    gate.client.get("/v1/dead/payments?fabric=other")
    assert {arguments["fabric"] for _, arguments in host.asked} == {gate.node.fabric, "other"}


def test_some_are_sent_again(gate: Gate, host: Shop) -> None:
    """Those of the queue; an id of another queue is not touched, and an unknown one is told."""
    host.letters.append(letter(99, queue="mail"))
    ids = [host.letters[0]["id"], host.letters[3]["id"], "nonsense"]
    found = post(gate, "/v1/dead/payments:retry?fabric=shop", {"ids": ids})
    assert found["done"] == 1
    assert {each["id"]: each["done"] for each in found["outcomes"]} == dict(zip(ids, (True, False, False), strict=True))
    assert [each["queue"] for each in host.letters] == ["payments", "payments", "mail"]


def test_all_are_dropped(gate: Gate, host: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """In requests that each are short enough for a socket."""
    monkeypatch.setattr(acts, "IDS_AT_ONCE", 2)
    assert post(gate, "/v1/dead/payments:drop", {"all": True})["done"] == 3
    assert host.letters == []
    assert [len(arguments["ids"]) for do, arguments in host.asked if do == "drop"][::6] == [2, 1]


@pytest.mark.parametrize("body", [{}, {"ids": [], "all": False}, {"ids": ["x"], "all": True}, {"id": "x"}, [], "no"])
def test_which_has_to_be_said(gate: Gate, host: Shop, body: Any) -> None:
    """Nothing said is not all of them."""
    problem(gate.client.post("/v1/dead/payments:drop", json=body), 422, "wrong-request")
    assert len(host.letters) == 3


def test_queues_are_paused_resumed_and_purged(gate: Gate, host: Shop) -> None:
    """In every process that answers; told of are those that it concerned."""
    assert post(gate, "/v1/queues/orders:pause", {})["done"] == 1
    assert host.paused == {"orders"}
    found = post(gate, "/v1/queues/orders:resume", {})
    assert [each["node"] for each in found["nodes"]] == ["process-4711"]
    assert host.paused == set()
    assert post(gate, "/v1/queues/orders:purge", {})["purged"] == 40
    assert [do for do, _ in host.asked].count("purge") == 6
    problem(gate.client.post("/v1/queues/orders:purge", json={"all": True}), 422, "wrong-request")


def test_one_process_that_fails_does_not_end_it(gate: Gate, host: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said is among the problems."""

    def ask(asked: Any, do: str, arguments: Any) -> Any:
        if asked.pid == 4712:
            raise QueueFull("orders", 10)
        return host.ask(asked, do, arguments)

    monkeypatch.setattr(acts, "ask_process", ask)
    found = post(gate, "/v1/queues/orders:purge", {})
    assert found["purged"] == 40
    assert any(each.startswith("process 4712: ") for each in found["problems"])


def test_acts_need_the_scope_and_a_type_that_no_form_sends(gates: Callable[..., Gate], host: Shop) -> None:
    """A token for one queue acts on that one only."""
    clerk = Token("clerk", frozenset({("admin", "payments"), ("send", ">")}))
    gate = gates(tokens=Tokens({CLERK: clerk}))
    client = gate.client_of(CLERK)
    for path in ("queues/payments:pause", "queues/payments:purge", "dead/payments:retry", "dead/payments:drop"):
        body = {"all": True} if "dead" in path else {}
        assert client.post(f"/v1/{path}", json=body).status_code == 200
        problem(client.post(f"/v1/{path.replace('payments', 'orders')}", json=body), 403, "not-allowed")
        problem(gate.client_of(None).post(f"/v1/{path}", json=body), 401, "no-token")
        problem(client.post(f"/v1/{path}", data={"all": "true"}), 415, "content-type")
    assert client.get("/v1/dead/payments").status_code == 200
    problem(client.get("/v1/dead"), 403, "not-allowed")


def test_a_number_is_one_of_some_digits(gate: Gate, host: Shop) -> None:
    """Python reads none of more than 4,300."""
    for given in ("9" * 5000, "-1", "1e3", "1001"):
        problem(gate.client.get(f"/v1/dead?limit={given}"), 400)


def test_a_pattern_is_about_the_gateways_own_fabric(gates: Callable[..., Gate], host: Shop) -> None:
    """Another fabric has queues of the same names."""
    clerk = Token("clerk", frozenset({("admin", "payments")}))
    chief = Token("chief", frozenset({("admin", ">")}))
    gate = gates(tokens=Tokens({CLERK: clerk, SECRET: chief}))
    for secret, fabric, status in ((CLERK, "shop", 403), (CLERK, gate.node.fabric, 200), (SECRET, "shop", 200)):
        client, query = gate.client_of(secret), f"?fabric={fabric}"
        answers = [
            client.post(f"/v1/queues/payments:purge{query}", json={}),
            client.post(f"/v1/dead/payments:drop{query}", json={"ids": ["x"]}),
            client.get(f"/v1/dead/payments{query}"),
        ]
        assert [answer.status_code for answer in answers] == [status] * 3
        if status == 403:
            assert not host.asked


def test_a_read_only_gateway_shows_and_does_nothing(gates: Callable[..., Gate], host: Shop) -> None:
    gate = gates(read_only=True)
    assert len(gate.client.get("/v1/dead/payments").json()["letters"]) == 3
    for path, body in (("queues/payments:purge", {}), ("dead/payments:drop", {"all": True})):
        problem(gate.client.post(f"/v1/{path}", json=body), 403, "read-only")
    assert not {do for do, _ in host.asked} & {"purge", "drop"}


def test_other_gateways_are_asked_too(gates: Callable[..., Gate], host: Shop) -> None:
    """What they did is told of with their name; who refuses is a problem."""
    there = gates()
    here = gates(also=(Other("cellar", there.url + "/", SECRET), Other("attic", "http://127.0.0.1:1/")))
    found = post(here, "/v1/queues/orders:purge?fabric=shop", {})
    assert found["purged"] == 80
    assert [each["source"] for each in found["nodes"]] == ["", "cellar"]
    assert "attic: cannot be reached: Connection refused" in found["problems"]
    assert "cellar: process 4740: no answer in 1 s: stopped, or starved" in found["problems"]
    assert {each["source"] for each in here.client.get("/v1/dead?fabric=shop").json()["letters"]} == {"", "cellar"}
    # Both are the same host here, so that the second finds none left.
    found = post(here, "/v1/dead/payments:retry?fabric=shop", {"all": True})
    assert found["done"] == 3


def test_a_real_process_is_asked(gate: Gate) -> None:
    """At its admin socket, which the gateway's own process has."""
    gate.send("orders", 1)
    assert post(gate, "/v1/queues/orders:pause", {})["problems"] == []
    assert gate.client.get("/v1/dead/orders").json() == {"letters": [], "problems": []}
