"""Operations of the gateway: what each route answers, in a form from which routes and OpenAPI are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Handle = Callable[["Request"], Awaitable["Response"]]
"""Answers a request that was let in. `request.app.state.gateway` is the `Gateway`, `request.state.token` who asks."""


class Operation(NamedTuple):
    """One method of one path.

    name        for OpenAPI, unique: `sendMessage`
    path        as Starlette has it: `/v1/queues/{queue}/messages`
    scope       that a token needs; "": nobody is asked for one
    subject     the path's parameter that the patterns of a scope are about: "queue", "topic", "service"; "": none
    summary     one line for people
    answers     status → what it means, and the JSON schema of its body if it has one
    body        media types that are taken → JSON schema; none: no body
    query       names of query parameters → JSON schema
    headers     names of headers that mean something here → JSON schema
    told        names of headers of a good answer → JSON schema
    """

    method: str
    path: str
    name: str
    scope: str
    handle: Handle
    summary: str
    answers: Mapping[int, tuple[str, Mapping[str, Any] | None]]
    body: Mapping[str, Mapping[str, Any]] = {}
    query: Mapping[str, Mapping[str, Any]] = {}
    subject: str = ""
    headers: Mapping[str, Mapping[str, Any]] = {}
    told: Mapping[str, Mapping[str, Any]] = {}
