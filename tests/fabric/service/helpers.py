"""Parts for tests of services: nodes of a crowd that ask and answer."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec

from peerfabric.service.call import OpenCall
from peerfabric.service.served import Served, ServedCall
from peerfabric.wire.frames import MSGPACK
from tests.fabric.crowd import Crowd, Member

MiB = 1024 * 1024


def fabric(nodes: int = 2) -> tuple[Crowd, list[Member]]:
    """So many nodes, which know each other for long; the first has called "sum" lately."""
    crowd = Crowd()
    members = [crowd.start(number, registry=True) for number in range(nodes)]
    crowd.run(3.0)
    members[0].engine.caller.use("sum", crowd.now)
    members[0].engine.caller.unuse("sum")
    members[0].wake()
    return crowd, members


def serve(member: Member, capacity: int = 4, *, waiting: int = 8, stall: float = 60.0, name: str = "sum") -> Served:
    served = member.engine.open_service(name, capacity, waiting, 16 * MiB, stall, member.crowd.now)
    member.wake()
    return served


def ask(member: Member, body: Any = 1, *, timeout: float = 5.0, name: str = "sum", **more: Any) -> OpenCall:
    """Start one call."""
    now = member.crowd.now
    call = OpenCall(name, msgspec.msgpack.encode(body), MSGPACK, now + timeout, **more)
    assert member.engine.caller.has_room(call.size)
    member.engine.caller.start(call, now)
    member.wake()
    return call


def answer(member: Member, served: Served, how: Callable[[Any], Any] = lambda body: body + 1, most: float = inf) -> int:
    """Let handlers run and end that were started; how many."""
    count = 0
    while served.started and count < most:
        call = served.started.popleft()
        member.engine.responder.answer(call, member.crowd.now, msgspec.msgpack.encode(how(question(call))), MSGPACK)
        count += 1
    member.wake()
    return count


def is_open(call: OpenCall) -> bool:
    return call.outcome is None


def question(call: ServedCall) -> Any:
    return msgspec.msgpack.decode(call.body)[0]


def reply(call: OpenCall) -> Any:
    return msgspec.msgpack.decode(call.body)[0]


def stop(member: Member) -> Callable[[], None]:
    """Stop its process, as SIGSTOP does; return what lets it go on."""
    kept: list[tuple[Callable[[float], None], float]] = []
    tell, wake = member.tell, member.wake
    member.tell = lambda event, after=0.0: kept.append((event, after))  # type: ignore[method-assign]
    member.wake = lambda at=0.0: None  # type: ignore[method-assign]
    member.turn_at = inf

    def go_on() -> None:
        member.tell, member.wake = tell, wake  # type: ignore[method-assign]
        now = member.crowd.now
        for event, _ in kept:
            event(now)  # all that lay there, in one turn
        member.wake()

    return go_on


def cut(crowd: Crowd, one: Member, other: Member) -> None:
    """The connections between two are lost; nothing more arrives over them, and none can be made for a moment."""
    for a, b in ((one, other), (other, one)):
        for wire, target in list(a.wires.items()):
            if target is b:
                a.wires[wire] = None
                a.tell(lambda now, a=a, w=wire: a.engine.handle_disconnected(w, now))  # type: ignore[misc]

                def again(now: float, a: Member = a, b: Member = b, wire: int = wire) -> None:
                    a.wires[wire] = b
                    a.engine.handle_connected(wire, now)

                a.tell(again, 0.05)


__all__ = ["MiB", "answer", "ask", "cut", "fabric", "is_open", "question", "reply", "serve", "stop"]
