"""Problems: every refusal has a type that is documented, and words that mean something over HTTP."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Service
from peerfabric.errors import (
    ConfigError,
    DecodeError,
    FabricError,
    NoServer,
    QueueFull,
    ServerLost,
    TimedOut,
)
from peerfabric.gateway import problems
from peerfabric.gateway.problems import problem_of
from peerfabric.nodes.service.answers import IN_PARTS
from tests.gateway.answering import all_asks
from tests.gateway.conftest import JSON, Gate, problem
from tests.gateway.test_openapi import BY_NAME
from tests.nodes.test_copies import ERRORS

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(
    r"\w\(|error\.|\bnode\.\w|Options|\bService\b|[a-z_]=(?!true\b|processed\b)|\bnone\b|make one|Async"
)
"""What a text for who writes Python has in it."""


def documented() -> set[str]:
    """The types in the table of docs/gateway.md."""
    page = (ROOT / "docs" / "gateway.md").read_text().partition("## Problems")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in re.findall(r"`([a-z-]+)`", row[2]) if code != "type"}


def codes() -> set[str]:
    """Those that the sources of the gateway have."""
    found: set[str] = set()
    for path in (ROOT / "nodes" / "gateway").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                [code] = [each.value for each in node.keywords if each.arg == "code"]
                found |= (
                    {str(code.value)} if isinstance(code, ast.Constant) else {"no-operation", "wrong-method", "refused"}
                )
    return found


def test_every_type_is_documented() -> None:
    """Programs go by them."""
    assert documented() == codes() - {"refused"}


@pytest.mark.parametrize(
    "error",
    [
        *(each for each in ERRORS if isinstance(each, FabricError)),
        DecodeError(
            "int is wanted: Expected `int`, got `str` at $.a (at prices)", step="sent as Any; give both …Service"
        ),
        NoServer("prices.get", "'desk' does not serve it"),
        ServerLost("prices.get", "desk"),
        TimedOut("timed out after 1 s: service 'x': not sent; see node.services() and node.peers() for who serves it"),
        ConfigError(
            "subscriber 'prices' exists in this node with buffer_bytes=1; a name has one handle: ask for the same"
        ),
        QueueFull("orders", 1000, waited=2.0),
    ],
    ids=repr,
)
def test_every_error_is_told_for_http(error: FabricError) -> None:
    """With a next step, and without what only who writes Python can do."""
    found = problem_of(error)
    assert PYTHON.search(found.detail) is None, found.detail
    assert found.code in codes()
    assert found.status >= 400


def test_a_service_says_how_it_is_asked(gate: Gate) -> None:
    """In parts, with which type, and that nobody serves it."""

    def serve() -> None:
        @gate.node.serve(Service("count", int, int, stream=True))
        async def count(body: int) -> AsyncIterator[int]:
            for number in range(body):
                yield number

    gate.call(serve)
    asked = gate.client.post("/v1/services/count", json=2)
    assert problem(asked, 406, "in-parts")["detail"] == (
        "service 'count' is answered in parts; send the header Accept: application/x-ndjson"
    )
    lines = gate.client.post("/v1/services/count", json=2, headers={"accept": "application/x-ndjson"})
    assert lines.text.splitlines() == ['{"body":0}', '{"body":1}']
    wrong = problem(
        gate.client.post("/v1/services/count", json="x", headers={"accept": "application/x-ndjson"}), 422, "wrong-type"
    )
    assert wrong["path"] == "$"
    assert PYTHON.search(wrong["detail"]) is None, wrong
    nobody = problem(gate.client.post("/v1/services/nobody?timeout=0.1", json=1), 504, "timed-out")
    assert PYTHON.search(nobody["detail"]) is None, nobody
    assert IN_PARTS in "service 'count' is answered in parts; ask with stream()"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty; send JSON in UTF-8"),
        (b" \n", "the body is empty"),
        (b"{x", "property name enclosed in double quotes at column 2"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"[1", "column 3"),
        (b'"\xff"', "is not JSON: "),
        (b"NaN", "is not JSON: "),
        (b"[" * 5000, "is not JSON: "),
    ],
    ids=range(8),
)
def test_what_is_no_json_is_told_with_its_place(gate: Gate, body: bytes, said: str) -> None:
    """At all operations that read some."""
    objects = ("queues/orders/take", "receipts:settle", "receipts:extend") if body in (b"", b" \n", b"{x") else ()
    for path in ("queues/orders/messages", "topics/prices", "services/x", *objects):
        found = problem(gate.client.post(f"/v1/{path}", content=body, headers=JSON), 400, "not-json")
        assert said in found["detail"]
        assert found["detail"].endswith("; send JSON in UTF-8")


def test_parameters_that_nobody_knows_are_refused(gate: Gate) -> None:
    """At all operations, and nothing is accepted; those of the page and of metrics may have some of who asks."""
    answer = gate.client.post("/v1/queues/orders/messages?confrm=processed", json=1)
    assert problem(answer, 400, "bad-parameter")["detail"] == (
        "there is no parameter 'confrm'; did you mean 'confirm'?"
    )
    for path, said in (("/v1/queues/orders/messages:batch?zzz=1", "there are ttl"), ("/v1/topics/a?x=1", "none here")):
        assert said in problem(gate.client.post(path, json=1), 400, "bad-parameter")["detail"]
    assert gate.call(lambda: gate.node.statistics().producers) == ()
    for path in ("/healthz?x=1", "/metrics?x=1", "/?x=1", "/openapi.json?x=1"):
        assert gate.client.get(path).status_code == 200
    for operation in BY_NAME.values():
        if operation.path.startswith("/v1/"):
            path = re.sub(r"{\w+}", "a", operation.path)
            problem(gate.client.request(operation.method, f"{path}?confrm=1", headers=JSON), 400, "bad-parameter")


def test_a_name_that_nothing_can_have_is_told_to_everybody(gates: Callable[..., Gate]) -> None:
    """Also to whom a pattern lets in for others only."""
    from peerfabric.gateway.auth import SCOPES, Token, Tokens

    gate = gates(tokens=Tokens({"secret-of-the-tests": Token("shop", frozenset((each, "shop.>") for each in SCOPES))}))
    for operation in BY_NAME.values():
        if operation.subject:
            path = re.sub(r"{\w+}", "a%20b", operation.path)
            problem(gate.client.request(operation.method, path, headers=JSON), 404, "bad-name")
            path = re.sub(r"{\w+}", "other", operation.path)
            problem(gate.client.request(operation.method, path, headers=JSON), 403, "not-allowed")


def test_what_is_nowhere_has_a_type(gate: Gate) -> None:
    problem(gate.client.get("/v1/nothing"), 404, "no-operation")
    problem(gate.client.put("/v1/status"), 405, "wrong-method")
    problem(gate.client.get("/page/nothing"), 404, "no-file")
    for path in ("?ttl=0", "?timeout=x", "?confirm=x"):
        problem(gate.client.post(f"/v1/queues/orders/messages{path}", json=1), 400, "bad-parameter")
    for path in ("?timeout=0", "?idempotent=1"):
        problem(gate.client.post(f"/v1/services/x{path}", json=1), 400, "bad-parameter")


# The document


def test_the_document_says_which_headers_mean_something() -> None:
    from peerfabric.gateway.app import operations
    from peerfabric.gateway.openapi import document

    paths: Any = document(operations())["paths"]
    sending = paths["/v1/queues/{queue}/messages"]["post"]
    assert {"Idempotency-Key", "X-Message-NAME", "traceparent"} <= {each["name"] for each in sending["parameters"]}
    assert "Idempotent-Replay" in sending["responses"]["202"]["headers"]
    events = paths["/v1/topics/{pattern}/events"]["get"]
    assert "Last-Event-ID" in {each["name"] for each in events["parameters"]}
    assert paths["/healthz"]["get"]["security"] == []
    assert sending["security"] == [{"token": []}]
    for methods in paths.values():
        for said in methods.values():
            assert "4XX" in said["responses"]


def test_what_is_required_is_described() -> None:
    """As linters want it: each required member has a schema of its own, and nothing is defined and used nowhere."""
    from peerfabric.gateway.app import operations
    from peerfabric.gateway.openapi import document

    def look(part: Any, where: str) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("required"), list):
                assert set(part["required"]) <= set(part.get("properties", ())), where
            assert "$defs" not in part, where
            for name, each in part.items():
                look(each, f"{where}/{name}")
        elif isinstance(part, list):
            for each in part:
                look(each, where)

    look(document(operations()), "")


def test_all_asks_are_of_operations() -> None:
    assert {ask.name for ask in all_asks()} <= set(BY_NAME)
    assert problems.MEDIA_TYPE == "application/problem+json"
