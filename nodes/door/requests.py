"""Requests at the admin socket: what each may be asked with, and what the nodes of this process answer.

What a request does is done by the nodes it concerns: all of the process, or those of one `fabric`, or one `node`, by
its name or id. Fields that a request does not have are passed over in what only looks, and refused in what acts, as a
narrower request of a later version would be taken for a wide one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from peerfabric.discovery.locks import importing
from peerfabric.errors import FabricError
from peerfabric.nodes.door.about import process_status
from peerfabric.nodes.door.outside import Outside, Resident
from peerfabric.nodes.door.registered import handlers
from peerfabric.status import NodeStatus, Stack, Status

VERSION: Final = 1
BODY_MAX: Final = 4096
"""Bytes of a body that are shown, unless all is asked for."""
WAIT_MIN: Final = 0.05
"""Seconds that each node is waited for, also if those before it took all the time."""

Residents = Callable[[], Sequence[Resident]]
Put = Callable[[Mapping[str, Any]], None]
L = TypeVar("L", bound="Look")
T = TypeVar("T")


class Refused(Exception):
    """A request that is not answered; `code` says why, the text what to do."""

    def __init__(self, code: str, text: str, **more: Any) -> None:
        self.code, self.more = code, more
        super().__init__(text)


class Following:
    """A stream that was asked for; `begin` makes it come, and returns what ends it."""

    def __init__(self, what: str, begin: Callable[[Put], Callable[[], None]]) -> None:
        self.what, self.begin = what, begin


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Which nodes a request concerns; empty: all."""

    fabric: str | None = None
    node: str | None = None


class Act(Look, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same of a request that changes something."""


class AskStatus(Look, frozen=True, kw_only=True):
    queues: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200
    wait: Annotated[float, msgspec.Meta(ge=0, le=5)] = 1.0


class AskDead(Look, frozen=True, kw_only=True):
    queue: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    whole: bool = False


class AskTrace(Look, frozen=True, kw_only=True):
    id: str


class AskTap(Look, frozen=True, kw_only=True):
    name: str
    whole: bool = False


class ActQueue(Act, frozen=True, kw_only=True, forbid_unknown_fields=True):
    queue: str


class ActIds(Act, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]


def answer(residents: Residents, request: Mapping[str, Any]) -> Mapping[str, Any] | Following:
    """Do what is asked, and return what comes of it.

    Raises:
        Refused: It is nothing that can be done, or its arguments are none.
        FabricError: It cannot be done.
    """
    arguments = dict(request)
    version, do = arguments.pop("v", VERSION), arguments.pop("do", None)
    if version != VERSION:
        raise Refused("version", f"this process answers version {VERSION}; ask with a program of its version")
    if isinstance(do, str) and do in _REQUESTS:
        return _REQUESTS[do](residents, arguments)
    if isinstance(do, str):
        for handler in handlers.get(do, ()):
            found = handler(arguments)
            if found is not None:
                return found
        if do in handlers:
            return {"answered": False}
    can = sorted({*_REQUESTS, *handlers})
    raise Refused("unknown", f"nothing here does {do!r}; ask for one of {', '.join(can)}", can=can)


def _read(kind: type[L], arguments: Mapping[str, Any]) -> L:
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise Refused("request", f"{error}; its arguments are {fields}") from None


def _chosen(residents: Residents, asked: Look) -> Iterator[Outside]:
    """The nodes that a request concerns."""
    return (node for node in (each.outside() for each in residents()) if _concerns(asked, node))


def _concerns(asked: Look, node: Outside) -> bool:
    return asked.fabric in (None, "", node.fabric) and asked.node in (None, "", node.name, node.node_id)


def _tag(node: Outside) -> dict[str, str]:
    return {"node_id": node.node_id, "node": node.name, "fabric": node.fabric}


def _status(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = _read(AskStatus, arguments)
    found = [resident for resident in residents() if _concerns(asked, resident.outside())]
    return msgspec.structs.asdict(status(found, asked.queues, asked.wait))


def status(residents: Sequence[Resident], queues: int, wait: float) -> Status:
    """The status of this process with these nodes, which are waited for as long as `wait` seconds in all."""
    ends_at = time.monotonic() + wait
    found: list[NodeStatus] = []
    for resident in residents:
        found.append(resident.outside().status(queues, max(min(WAIT_MIN, wait), ends_at - time.monotonic())))
    is_busy = any(node.engine for node in found)
    return Status(process=process_status(), nodes=tuple(found), stacks=_stacks_of(residents) if is_busy else ())


def _stacks_of(residents: Sequence[Resident]) -> tuple[Stack, ...]:
    with importing:
        from peerfabric.nodes.door.stacks import stacks  # when somebody asks for them, or a node is busy

    return stacks(residents)


def encoded(encode: Callable[[Any], bytes], found: Any) -> bytes:
    """What `encode` makes of an answer, in which names of files, or of threads, may be of bytes that are no text."""
    try:
        return encode(found)
    except UnicodeEncodeError:
        return encode(_as_text(msgspec.to_builtins(found, enc_hook=repr)))


def _as_text(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_as_text(key): _as_text(each) for key, each in value.items()}
        case list() | tuple():
            return [_as_text(each) for each in value]
        case _:
            return value


def _stacks(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    _read(Look, arguments)
    return {"process": process_status(), "stacks": _stacks_of(residents())}


def _dead(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = _read(AskDead, arguments)
    found: list[dict[str, Any]] = []
    for node in _chosen(residents, asked):
        if len(found) >= asked.limit:
            break
        letters = node.dead(asked.queue or None, asked.limit - len(found))
        found += ({**_tag(node), **(letter if asked.whole else cut(letter))} for letter in letters)
    return {"letters": found}


def cut(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The same with at most `BODY_MAX` bytes of its body; `cut` is how many it has."""
    found = dict(shown)
    body = found.get("body")
    if body is not None and not isinstance(body, (bool, int, float)):
        text = body if isinstance(body, str) else msgspec.json.encode(body, enc_hook=repr).decode()
        if len(content := text.encode()) > BODY_MAX:
            found["body"], found["cut"] = content[:BODY_MAX].decode(errors="ignore"), len(content)
    return found


def _at_all(nodes: Iterator[Outside], act: Callable[[Outside], T]) -> list[tuple[Outside, T]]:
    """Act at each of them, whatever becomes of it at others, and then raise what the first of those has that failed."""
    done, failed = [], None
    for node in nodes:
        try:
            done.append((node, act(node)))
        except FabricError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return done


def _by_ids(act: str) -> Callable[[Residents, Mapping[str, Any]], Mapping[str, Any]]:
    def done(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = _read(ActIds, arguments)
        at: list[tuple[Outside, Any]] = _at_all(_chosen(residents, asked), lambda node: getattr(node, act)(asked.ids))
        return {"outcomes": [{**_tag(node), **outcome} for node, outcomes in at for outcome in outcomes]}

    return done


def _on_queue(act: str, what: str) -> Callable[[Residents, Mapping[str, Any]], Mapping[str, Any]]:
    def done(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = _read(ActQueue, arguments)
        at: list[tuple[Outside, Any]] = _at_all(_chosen(residents, asked), lambda node: getattr(node, act)(asked.queue))
        return {"nodes": [{**_tag(node), what: outcome} for node, outcome in at]}

    return done


def _trace(residents: Residents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = _read(AskTrace, arguments)
    return {"found": [{**_tag(node), **each} for node in _chosen(residents, asked) for each in node.trace(asked.id)]}


def _tap(residents: Residents, arguments: Mapping[str, Any]) -> Following:
    asked = _read(AskTap, arguments)

    def begin(put: Put) -> Callable[[], None]:
        ends: list[Callable[[], None]] = []

        def end() -> None:
            while ends:
                ends.pop()()

        def tapped(node: Outside) -> Callable[[dict[str, Any]], None]:
            tag = _tag(node)
            return lambda seen: put({**tag, **(seen if asked.whole else cut(seen))})

        try:
            for node in _chosen(residents, asked):
                ends.append(node.tap(asked.name, tapped(node)))
        except BaseException:
            end()
            raise
        return end

    return Following(f"tap {asked.name}", begin)


_REQUESTS: Final[Mapping[str, Callable[[Residents, Mapping[str, Any]], Mapping[str, Any] | Following]]] = {
    "status": _status,
    "stacks": _stacks,
    "dead": _dead,
    "retry": _by_ids("retry"),
    "drop": _by_ids("drop"),
    "pause": _on_queue("pause", "done"),
    "resume": _on_queue("resume", "done"),
    "purge": _on_queue("purge", "purged"),
    "trace": _trace,
    "tap": _tap,
}
