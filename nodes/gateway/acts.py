"""Acts over HTTP: dead letters shown, sent again and dropped, queues paused, resumed and purged, in all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.errors import FabricError
from peerfabric.gateway.bodies import not_json
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.looks import Answer
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.others import ask_all
from peerfabric.gateway.problems import Problem
from peerfabric.gateway.shared import Shared, shared_of, token_of
from peerfabric.names import check_name

LETTERS: Final = 100
LETTERS_MAX: Final = 1000
ACT_TIMEOUT: Final = 5.0
BODY_BYTES_MAX: Final = 256 * 1024
IDS_AT_ONCE: Final = 400
"""Ids of one request to a process: a request at its socket has at most 64 KiB."""
ALL_MAX: Final = 10_000
"""Dead letters that one request may settle; who has more sends it again."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters: those with `ids`, or all of the queue."""

    ids: Annotated[list[str], msgspec.Meta(max_length=ALL_MAX)] = []
    all: bool = False


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request that says all in its path."""


class Said(NamedTuple):
    """What processes and other gateways said, and the problems of those that did not."""

    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]
    problems: list[str]


def ask_process(answer: Answer, do: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask one process. It blocks for up to `ACT_TIMEOUT` seconds.

    Raises:
        FabricError: It is gone, or cannot do it.
    """
    from peerfabric import admin

    return admin.ask(answer.path, do, timeout=ACT_TIMEOUT, **arguments)


def list_processes() -> Sequence[Answer]:
    """All processes of this host, whether they answer or not. It blocks, for some seconds if one hangs."""
    from peerfabric import admin

    return admin.processes(1.0, queues=0)


async def _ask(request: Request, do: str, arguments: dict[str, Any], body: bytes | None = None) -> Said:
    """Have all processes of this host do something, and the other gateways the same with theirs."""
    shared = shared_of(request)
    ours, theirs = await asyncio.gather(_ask_host(do, arguments), _ask_others(request, shared, body))
    return Said(ours.ours, theirs.theirs, ours.problems + theirs.problems)


async def _ask_host(do: str, arguments: dict[str, Any]) -> Said:
    said = Said([], [], [])
    answers = await asyncio.to_thread(list_processes)
    asked = [each for each in answers if each.status is not None]
    said.problems.extend(f"process {each.pid}: {each.problem}" for each in answers if each.status is None)
    found = await asyncio.gather(
        *(asyncio.to_thread(ask_process, each, do, arguments) for each in asked), return_exceptions=True
    )
    for answer, each in zip(asked, found, strict=True):
        if isinstance(each, FabricError):
            said.problems.append(f"process {answer.pid}: {each}")
        elif isinstance(each, BaseException):
            raise each
        else:
            said.ours.append(each)
    return said


async def _ask_others(request: Request, shared: Shared, body: bytes | None) -> Said:
    said = Said([], [], [])
    if request.query_params.get("own", "") not in ("", "0") or not shared.also:
        return said
    # Of the path that was let in: `request.url` has what the header Host says in it.
    path = request.scope["path"].removeprefix(request.scope.get("root_path", "")).strip("/").split("/")
    query = {**request.query_params, "fabric": _fabric(request, shared)}
    for name, content, problem in await ask_all(shared.also, request.method, path, query, body):
        if content is None:
            said.problems.append(f"{name}: {problem}")
            continue
        try:
            document = msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.MsgspecError:
            said.problems.append(f"{name}: its answer cannot be read; is it of another version?")
            continue
        said.theirs.append({**document, "source": name})
        said.problems.extend(f"{name}: {each}" for each in document.get("problems", ()))
    return said


def _fabric(request: Request, shared: Shared) -> str:
    """The fabric that is asked about.

    Raises:
        Problem: 403, it is another one than ours, where the token's patterns are about queues of ours.
    """
    given = request.query_params.get("fabric")
    if not given or check_name("fabric", given) == shared.node.fabric:
        return shared.node.fabric
    scope = "read" if request.method in ("GET", "HEAD") else "admin"
    if not token_of(request).allows(scope, None):
        needed = f"another fabric needs a token with the scope {scope!r} for everything (pattern '>')"
        raise Problem(403, "Not allowed", f"{needed}; ask without fabric={given}", code="not-allowed")
    return given


def _queue(request: Request) -> str:
    return check_name("queue", request.path_params["queue"])


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _body(request: Request, kind: type[Any]) -> tuple[Any, bytes]:
    data = await read_body(request, BODY_BYTES_MAX, shared_of(request).options.body_timeout)
    try:
        return msgspec.json.decode(data or b"{}", type=kind), data or b"{}"
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__) or "none"
        detail = f"{error}; send a JSON object with the fields: {fields}"
        raise Problem(422, "Wrong request", detail, code="wrong-request") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise not_json(data, error) from None


# Dead letters


async def _letters(request: Request) -> Response:
    given = request.query_params.get("limit", str(LETTERS))
    if not (given.isdecimal() and len(given) < 10 and 0 < int(given) <= LETTERS_MAX):
        detail = f"limit={given!r} is no number; give one from 1 to {LETTERS_MAX:,}"
        raise Problem(400, "Bad parameter", detail, code="bad-parameter")
    limit = int(given)
    arguments: dict[str, Any] = {"fabric": _fabric(request, shared_of(request)), "limit": limit}
    if "queue" in request.path_params:
        arguments["queue"] = _queue(request)
    if request.query_params.get("whole", "") not in ("", "0"):
        arguments["whole"] = True
    said = await _ask(request, "dead", arguments)
    letters = [{**letter, "source": ""} for each in said.ours for letter in each.get("letters", ())]
    for each in said.theirs:
        letters += ({**letter, "source": each["source"]} for letter in each.get("letters", ()))
    letters.sort(key=lambda letter: letter.get("sent_at") or 0)
    return _json({"letters": letters[:limit], "problems": said.problems})


async def _retry(request: Request) -> Response:
    return await _settle(request, "retry")


async def _drop(request: Request) -> Response:
    return await _settle(request, "drop")


async def _settle(request: Request, do: str) -> Response:
    queue, fabric = _queue(request), _fabric(request, shared_of(request))
    chosen, body = await _body(request, Chosen)
    if bool(chosen.ids) == chosen.all:
        detail = 'it is not said which; send {"ids": ["…"]}, or {"all": true} for all of this queue'
        raise Problem(422, "Wrong request", detail, code="wrong-request")
    # The token is for this queue, so ids of others are passed over.
    listed = await _ask_host("dead", {"fabric": fabric, "queue": queue, "limit": ALL_MAX})
    here = [letter["id"] for each in listed.ours for letter in each.get("letters", ())]
    those = set(here)
    ids = here if chosen.all else [each for each in dict.fromkeys(chosen.ids) if each in those]
    theirs = await _ask_others(request, shared_of(request), body)
    outcomes: list[dict[str, Any]] = []
    problems = listed.problems + theirs.problems
    for start in range(0, len(ids), IDS_AT_ONCE):
        said = await _ask_host(do, {"fabric": fabric, "ids": ids[start : start + IDS_AT_ONCE]})
        outcomes += (outcome for each in said.ours for outcome in each.get("outcomes", ()))
        problems += (each for each in said.problems if each not in problems)
    for each in theirs.theirs:
        outcomes += ({**outcome, "source": each["source"]} for outcome in each.get("outcomes", ()))
    known = {outcome["id"] for outcome in outcomes}
    outcomes += (
        {"id": each, "done": False, "problem": f"no dead letter of {queue!r} has this id; look for it again"}
        for each in chosen.ids
        if each not in known
    )
    done = sum(bool(outcome["done"]) for outcome in outcomes)
    return _json({"done": done, "outcomes": outcomes, "problems": problems})


# Queues


async def _pause(request: Request) -> Response:
    return await _on_queue(request, "pause")


async def _resume(request: Request) -> Response:
    return await _on_queue(request, "resume")


async def _purge(request: Request) -> Response:
    return await _on_queue(request, "purge")


async def _on_queue(request: Request, do: str) -> Response:
    arguments = {"fabric": _fabric(request, shared_of(request)), "queue": _queue(request)}
    _, body = await _body(request, Nothing)
    said = await _ask(request, do, arguments, body)
    nodes = [{**node, "source": ""} for each in said.ours for node in each.get("nodes", ())]
    for each in said.theirs:
        nodes += ({**node, "source": each["source"]} for node in each.get("nodes", ()))
    key = "purged" if do == "purge" else "done"
    # Whom it does not concern is not told of.
    nodes = [node for node in nodes if node.get(key)]
    if do == "purge":
        return _json({"purged": sum(node[key] for node in nodes), "nodes": nodes, "problems": said.problems})
    return _json({"done": len(nodes), "nodes": nodes, "problems": said.problems})


Schema = Mapping[str, Any]

_STRINGS: Final = {"type": "array", "items": {"type": "string"}}
_FABRIC: Final[Schema] = {"type": "string", "description": "another fabric than that of the gateway; for tokens of '>'"}
_OWN: Final[Schema] = {"enum": [0, 1], "description": "1: only the gateway's own host, not those of --also"}
_QUERY: Final[Mapping[str, Schema]] = {"fabric": _FABRIC, "own": _OWN}
_STRING: Final = {"type": "string"}
_SOURCE: Final = {"type": "string", "description": "as --also has it; empty: the gateway's own host"}
_PROBLEMS: Final = {**_STRINGS, "description": "processes and hosts that did not answer"}
_LETTERS: Final = {
    "type": "object",
    "required": ["letters", "problems"],
    "properties": {
        "letters": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "queue", "reason", "error", "attempts", "sent_at", "node", "source"],
                "properties": {
                    **dict.fromkeys(("id", "queue", "reason", "node"), _STRING),
                    "error": {"type": ["string", "null"]},
                    "attempts": {"type": "integer"},
                    "sent_at": {"type": ["number", "null"], "description": "Unix time"},
                    "source": _SOURCE,
                    "body": {},
                },
            },
        },
        "problems": _PROBLEMS,
    },
}
_OUTCOMES: Final = {
    "type": "object",
    "required": ["done", "outcomes", "problems"],
    "properties": {
        "done": {"type": "integer"},
        "outcomes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "done", "problem"],
                "properties": {
                    "id": _STRING,
                    "done": {"type": "boolean"},
                    "problem": {"type": "string", "description": "why not; empty: it is done"},
                },
            },
        },
        "problems": _PROBLEMS,
    },
}
_CHOSEN: Final = {
    "application/json": {
        "type": "object",
        "properties": {"ids": {**_STRINGS, "maxItems": ALL_MAX}, "all": {"type": "boolean"}},
        "additionalProperties": False,
    }
}
_NOTHING: Final = {"application/json": {"type": "object", "additionalProperties": False}}


def _nodes(count: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [count, "nodes", "problems"],
        "properties": {
            count: {"type": "integer"},
            "nodes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["node", "node_id", "source"],
                    "properties": {"node": _STRING, "node_id": _STRING, "source": _SOURCE},
                },
            },
            "problems": _PROBLEMS,
        },
    }


_LIST_QUERY: Final[Mapping[str, Schema]] = {
    **_QUERY,
    "limit": {"type": "integer", "minimum": 1, "maximum": LETTERS_MAX, "default": LETTERS},
    "whole": {"enum": [0, 1], "description": "1: bodies over 4 KiB, too"},
}

OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/v1/dead",
        name="listDeadLetters",
        scope="read",
        handle=_letters,
        summary="Dead letters of all queues, oldest first",
        answers={200: ("they, and who did not answer", _LETTERS)},
        query=_LIST_QUERY,
    ),
    Operation(
        method="GET",
        path="/v1/dead/{queue}",
        name="listDeadLettersOfQueue",
        scope="read",
        subject="queue",
        handle=_letters,
        summary="Dead letters of one queue, oldest first",
        answers={200: ("they, and who did not answer", _LETTERS)},
        query=_LIST_QUERY,
    ),
    Operation(
        method="POST",
        path="/v1/dead/{queue}:retry",
        name="retryDeadLetters",
        scope="admin",
        subject="queue",
        handle=_retry,
        summary="Send dead letters again, as new messages",
        answers={200: ("the outcome of each", _OUTCOMES)},
        body=_CHOSEN,
        query=_QUERY,
    ),
    Operation(
        method="POST",
        path="/v1/dead/{queue}:drop",
        name="dropDeadLetters",
        scope="admin",
        subject="queue",
        handle=_drop,
        summary="Remove dead letters for good",
        answers={200: ("the outcome of each", _OUTCOMES)},
        body=_CHOSEN,
        query=_QUERY,
    ),
    Operation(
        method="POST",
        path="/v1/queues/{queue}:pause",
        name="pauseQueue",
        scope="admin",
        subject="queue",
        handle=_pause,
        summary="Let consumers of a queue take nothing more, until it is resumed or they restart",
        answers={200: ("which nodes consume it", _nodes("done"))},
        body=_NOTHING,
        query=_QUERY,
    ),
    Operation(
        method="POST",
        path="/v1/queues/{queue}:resume",
        name="resumeQueue",
        scope="admin",
        subject="queue",
        handle=_resume,
        summary="Let consumers of a queue take again",
        answers={200: ("which nodes consume it", _nodes("done"))},
        body=_NOTHING,
        query=_QUERY,
    ),
    Operation(
        method="POST",
        path="/v1/queues/{queue}:purge",
        name="purgeQueue",
        scope="admin",
        subject="queue",
        handle=_purge,
        summary="Drop what waits in a queue; what consumers have goes on",
        answers={200: ("how many messages were dropped, and where", _nodes("purged"))},
        body=_NOTHING,
        query=_QUERY,
    ),
]
