"""Answers of one served function: requests decoded, replies encoded, and whatever it raises put into words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peerfabric.arguments import sendable, text_of
from peerfabric.errors import Cancelled, DecodeError, MessageTooLarge
from peerfabric.nodes import signals
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.service.call import Busy
from peerfabric.nodes.service.signature import Signature
from peerfabric.wire.bodies import Codec
from peerfabric.wire.body_types import type_name
from peerfabric.wire.frames import BUSY, CALL_EXPIRED, END, ERROR, MSGPACK, UNFIT

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall

TYPE_LENGTH_MAX: Final = 255

IN_PARTS: Final = "is answered in parts; ask with stream()"
"""Of the text to who asks such a service for one reply."""

_log = logging.getLogger("peerfabric")


class Answer(NamedTuple):
    """What the caller is told at the end of a call."""

    status: int
    body: bytes | None = None
    codec: int = MSGPACK
    type: str = ""
    text: str = ""
    retry: float | None = None
    """Of a busy one, seconds; None: as long as a call takes."""


ENDED: Final = Answer(END)
"""A stream that is over, or a call that nobody waits for."""
EXPIRED: Final = Answer(CALL_EXPIRED)
CANCELLED: Final = Answer(ERROR, type=Cancelled.__name__, text="its time was over")


class Answers:
    """Of one function: the codecs of its types, and its name for people.

    Args:
        limit: Bytes of an encoded reply.
    """

    def __init__(self, function: Callable[..., Any], signature: Signature, limit: int) -> None:
        self.function = function
        self.service = signature.service
        self.wants_call, self.yields = signature.wants_call, signature.service.stream
        self.name = getattr(function, "__qualname__", None) or repr(function)
        request: Codec[Any] = Codec(signature.service.body_type, limit)
        reply: Codec[Any] = Codec(signature.service.reply_type, limit)
        self.decode = request.decode_batch
        """From the body of a frame to a list with the one request in it; raises DecodeError if it is none."""
        self.encode = reply.encode
        self.codec = reply.number

    def unfit(self, error: DecodeError) -> Answer:
        """The answer to a request that does not fit the type."""
        path = error.path.replace("$[0]", "$", 1)  # it stands in an array
        where = f" at {path}" if path.strip("$") else ""
        return Answer(UNFIT, text=sendable(f"{type_name(self.service.body_type)} is wanted: {error.reason}{where}"))

    def refusal(self, call: ServedCall) -> Answer | None:
        """What to answer in place of running the function, if nobody waits for it by now."""
        if call.cancelled:
            return ENDED
        return EXPIRED if clock() >= call.ends_at else None

    def in_parts(self) -> Answer:
        """The answer to who asks for one reply, and gets none."""
        text = f"service {self.service.name!r} {IN_PARTS}, and a Service of stream=True"
        return Answer(ERROR, type="ConfigError", text=text)

    def failed(self, call: ServedCall, error: BaseException) -> Answer:
        """The answer for what the function raised, which is written into the log with its traceback."""
        if isinstance(error, MessageTooLarge):
            step = "answer in parts, with a Service of stream=True"
            text = f"a reply of {error.size:,} bytes is over the limit of {error.limit:,}; {step}"
            return Answer(ERROR, type=_class_name(error), text=text)
        if isinstance(error, Busy):
            retry = error.retry  # user code may have changed it
            number = isinstance(retry, int | float) and 0 <= retry < 2**31
            return Answer(BUSY, text=text_of(error), retry=retry if number else None)
        if (call.cancelled or clock() >= call.ends_at) and not comes_from_outside(error):
            return CANCELLED  # it stopped because it was to
        with suppress(Exception):  # it may be the log that fails
            _log.error("the handler %s of service %s failed", self.name, self.service.name, exc_info=error)
        return Answer(ERROR, type=_class_name(error), text=text_of(error))


def _class_name(error: BaseException) -> str:
    """The qualified name of the class of `error`, as a frame can carry it."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return sendable(name)[:TYPE_LENGTH_MAX]


def comes_from_outside(error: BaseException) -> bool:
    """Whether it is a signal that ended the function, and must go on to end what runs it."""
    return isinstance(error, KeyboardInterrupt | SystemExit) and signals.raised_by_signal(error)


__all__ = ["CANCELLED", "ENDED", "Answer", "Answers", "comes_from_outside"]
