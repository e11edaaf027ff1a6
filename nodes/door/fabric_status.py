"""Fabric status: what a node answers of itself to peers that ask, and nobody else in its process.

It is a handle of the pump for questions to `STATUS_SERVICE`. While there are none it is this object; to answer some, a
thread that ends with the last of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peerfabric.discovery.locks import Lock, OwnThread, importing
from peerfabric.discovery.log import log as _log
from peerfabric.names import STATUS_SERVICE
from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.door.place import is_on
from peerfabric.nodes.io.waiting import clock
from peerfabric.wire.frames import MSGPACK, NOT_SERVED

if TYPE_CHECKING:
    from peerfabric.engine import Engine
    from peerfabric.nodes.door.outside import Resident
    from peerfabric.service.served import ServedCall

WAIT: Final = 0.5
"""Seconds that it waits for its machines, at most half of the time of who asks."""
BYTES_MAX: Final = 1024


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """How many queues of each kind are told of, the deepest."""

    queues: int = 200


class FabricStatus:
    """Answers peers of one node.

    Args:
        residents: That node, and those that it has adopted.
    """

    end: Any = STATUS_SERVICE

    def __init__(self, node: NodeContext, residents: Callable[[], Sequence[Resident]]) -> None:
        self.alerted = False
        self._node, self._residents = node, residents
        self._lock = Lock()  # guards the one below
        self._answers = False
        """A thread is there, and looks once more before it ends."""

    def hand_over(self, engine: Engine, now: float) -> None:
        """It has nothing of its own."""

    def handed_over(self) -> None:
        """It has nothing of its own."""

    def changed(self) -> None:
        """Somebody asks. In the pump's thread."""
        served = self._served()
        served.news.clear()  # of calls that were cancelled: they are answered all the same
        if not served.started:
            return
        with self._lock:
            if self._answers:
                return
            self._answers = True
        thread = OwnThread(target=self._run, name=f"peerfabric-{self._node.settings.name}-status", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the next question tries again
            self._answers = False

    def _served(self) -> Any:
        return self._node.engine.responder.status

    def _run(self) -> None:
        started = self._served().started
        while self._node.is_running:
            with self._lock:
                if not started:
                    self._answers = False
                    return
                call = started.popleft()
            self._answer(call)
        self._answers = False

    def _answer(self, call: ServedCall) -> None:
        body = None
        try:
            body = self._told(call) if is_on() else None
        except Exception:
            _log.log(logging.ERROR, "a peer cannot be told the status of this node", exc_info=True)
        pump, responder = self._node.pump, self._node.engine.responder
        with pump.lock:
            if body is None:
                responder.fail(call, clock(), NOT_SERVED)
            else:
                responder.answer(call, clock(), body, MSGPACK)
        pump.wake()

    def _told(self, call: ServedCall) -> bytes:
        with importing:
            from peerfabric.nodes.door.requests import encoded, status  # with what only nodes that are asked need

        question = Question()
        if call.codec == MSGPACK and len(call.body) <= BYTES_MAX:
            try:
                [question] = msgspec.msgpack.decode(call.body, type=list[Question])
            except (msgspec.MsgspecError, ValueError):
                pass  # a later version asks otherwise
        wait = max(0.0, min(WAIT, (call.ends_at - clock()) / 2))
        found = status(self._residents(), max(0, min(question.queues, 10_000)), wait)
        # Stacks show more than names and numbers.
        return encoded(msgspec.msgpack.encode, msgspec.structs.replace(found, stacks=()))
