"""Answers of one served function: requests decoded, replies encoded, and whatever it raises put into words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peerfabric.arguments import sendable, text_of
from peerfabric.errors import Cancelled, DecodeError, EncodeError, MessageTooLarge
from peerfabric.nodes import signals
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.service.call import Busy
from peerfabric.nodes.service.signature import Signature
from peerfabric.wire.bodies import Buffer, Codec
from peerfabric.wire.body_types import type_name
from peerfabric.wire.frames import BUSY, CALL_EXPIRED, END, ERROR, MSGPACK, OK, UNFIT

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall

TYPE_LENGTH_MAX: Final = 255

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
        self.wants_call = signature.wants_call
        self.name = getattr(function, "__qualname__", None) or repr(function)
        self._request: Codec[Any] = Codec(signature.service.body_type, limit)
        self._reply: Codec[Any] = Codec(signature.service.reply_type, limit)
        self._encode = self._reply.encode
        self.codec = self._reply.number

    def decode(self, body: Buffer, codec: int) -> Any:
        """The request, out of the body of a frame with one element.

        Raises:
            DecodeError: It is no such request.
        """
        return self._request.decode_batch(body, codec)[0]

    def encode(self, reply: Any) -> bytes:
        """The bytes of a reply, or of a part of one.

        Raises:
            EncodeError: It is not of the type of the service, or too large.
        """
        try:
            return self._encode(reply)
        except MessageTooLarge as error:
            size, limit = error.size, error.limit
            raise EncodeError(
                f"a reply of {size:,} bytes is over the limit of {limit:,}; answer in parts, with stream=True"
            ) from None

    def reply(self, reply: Any) -> Answer:
        """The answer that carries `reply`.

        Raises:
            EncodeError: As `encode`.
        """
        return Answer(OK, self.encode(reply), self.codec)

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

    def failed(self, call: ServedCall, error: BaseException) -> Answer:
        """The answer for what the function raised, which is written into the log with its traceback."""
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
