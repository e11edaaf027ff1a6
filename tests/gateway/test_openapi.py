"""OpenAPI: each operation answers as its document says, and the document is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from peerfabric.gateway.app import operations
from peerfabric.gateway.openapi import document
from peerfabric.gateway.operations import Operation
from tests.gateway.answering import Ask, all_asks
from tests.gateway.conftest import Gate

ASKS = all_asks()
BY_NAME = {operation.name: operation for operation in operations()}


def checked(instance: Any, schema: Any) -> None:
    """See that `instance` is what `schema`, which may refer to the whole document, says."""
    whole = {**schema, "components": document(BY_NAME.values())["components"]}
    jsonschema.Draft202012Validator(whole).validate(instance)


def answers_are_as_promised(operation: Operation, ask: Ask, gate: Gate) -> None:
    answer = ask.ask(gate)
    assert answer.status_code == ask.status, answer.text
    said = document([operation])["paths"]
    [methods] = said.values()
    responses = methods[operation.method.lower()]["responses"]
    promised = responses[str(ask.status)] if str(ask.status) in responses else responses["default"]
    kind = answer.headers.get("content-type", "").partition(";")[0]
    content = promised.get("content", {})
    assert (kind in content) if content else not answer.content, (kind, promised)
    if kind.endswith("json"):
        checked(answer.json(), content[kind]["schema"])


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: f"{ask.name}-{ask.status}")
def test_an_operation_answers_as_it_says(gate: Gate, ask: Ask) -> None:
    answers_are_as_promised(BY_NAME[ask.name], ask, gate)


def test_each_operation_and_status_is_asked_for() -> None:
    """What nobody asks for is not known to be true."""
    promised = {(name, status) for name, operation in BY_NAME.items() for status in operation.answers}
    assert promised - {(ask.name, ask.status) for ask in ASKS} == set()


def test_operations_are_one_of_a_name_and_of_a_route() -> None:
    assert len(BY_NAME) == len(operations())
    assert len({(each.method, each.path) for each in operations()}) == len(operations())


def test_the_document_is_openapi() -> None:
    """Parameters of paths are those of their parameters, and all references lead somewhere."""
    shown = document(operations(), "/fabric")
    assert shown["servers"] == [{"url": "/fabric"}]
    for path, methods in shown["paths"].items():
        for said in methods.values():
            names = {each["name"] for each in said.get("parameters", ()) if each["in"] == "path"}
            assert all(f"{{{name}}}" in path for name in names)
            assert path.count("{") == len(names)
            assert said["responses"]
            for answer in (said.get("requestBody", {}), *said["responses"].values()):
                for content in answer.get("content", {}).values():
                    jsonschema.Draft202012Validator.check_schema(content["schema"])


def test_a_mounted_gateway_says_where_it_is(gates: Callable[..., Gate]) -> None:
    import asyncio

    import httpx
    from starlette.applications import Starlette
    from starlette.routing import Mount

    gate = gates()

    async def ask() -> Any:
        app = Starlette(routes=[Mount("/fabric", gate.gateway)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=gate.url) as client:
            shown = await client.get("/fabric/openapi.json")
            assert shown.json()["servers"] == [{"url": "/fabric"}]
            headers = {"authorization": gate.client.headers["authorization"]}
            return await client.post("/fabric/v1/queues/orders/messages", json=1, headers=headers)

    assert gate.run(asyncio.ensure_future(ask(), loop=gate.loop)).status_code == 202
