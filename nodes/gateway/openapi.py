"""OpenAPI document of the gateway, made from its operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric import __version__
from peerfabric.gateway import problems
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.shared import shared_of

PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")


def document(operations: Iterable[Operation], root: str = "") -> dict[str, Any]:
    """The document (OpenAPI 3.1) of `operations`, which are reached below the path `root`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "peerfabric gateway",
            "version": __version__,
            "description": "Queues, topics and services of a fabric. Every answer from 400 on is a problem (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": problems.SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {str(status): _answer(*said, operation.told) for status, said in operation.answers.items()}
        | {"4XX": _refusal("refused; nothing was accepted"), "default": _refusal("a problem")},
        "security": [{"token": []}] if operation.scope else [],
    }
    parameters = (
        [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(operation.path)
        ]
        + [
            {"name": name, "in": "query", "required": False, "schema": dict(schema)}
            for name, schema in operation.query.items()
        ]
        + [
            {"name": name, "in": "header", "required": False, "schema": dict(schema)}
            for name, schema in operation.headers.items()
        ]
    )
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        content = {kind: {"schema": dict(schema)} for kind, schema in operation.body.items()}
        found["requestBody"] = {"required": True, "content": content}
    if operation.scope:
        found["description"] = f"Needs a token with the scope `{operation.scope}`."
    return found


def _refusal(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {problems.MEDIA_TYPE: {"schema": PROBLEM}},
        "headers": {"Retry-After": {"description": "seconds, of 409, 429 and 503", "schema": {"type": "integer"}}},
    }


def _answer(
    description: str, schema: Mapping[str, Any] | None, headers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if headers:
        answer["headers"] = {name: {"schema": dict(each)} for name, each in headers.items()}
    if schema is not None:
        # What is no JSON says so itself, as `contentMediaType` of JSON Schema has it.
        kind = str(schema.get("contentMediaType", "application/json"))
        answer["content"] = {kind: {"schema": dict(schema)}}
    return answer


async def _show(request: Request) -> Response:
    shown = document(shared_of(request).operations, request.scope.get("root_path", ""))
    return Response(msgspec.json.encode(shown), media_type="application/json")


_DOCUMENT: Final = {
    "type": "object",
    "required": ["openapi", "paths"],
    "properties": {"openapi": {"type": "string"}, "paths": {"type": "object"}},
}

OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/openapi.json",
        name="getOpenApi",
        scope="",
        handle=_show,
        summary="This document",
        answers={200: ("the document", _DOCUMENT)},
    )
]
