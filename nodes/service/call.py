"""Call: what a handler of a service may know of the call that it answers, and how it says that it is busy."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from peerfabric.arguments import DELAY_MAX, check_seconds, text_of
from peerfabric.errors import reduced
from peerfabric.nodes.fronts import MESSAGE_COPIED, refusing
from peerfabric.nodes.io.waiting import clock

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall


class Busy(Exception):
    """Raised by a handler of a service: it has done nothing, and another server shall try.

    If there is none the caller gets `ServiceBusy`, which says to try again after `retry` seconds (None: as long as
    calls take here).
    """

    retry: float | None = None

    def __init__(self, reason: str | BaseException = "", *, retry: float | None = None) -> None:
        step = "give the seconds after which the caller may try again, at most a year"
        self.retry = None if retry is None else check_seconds("retry", retry, step, least=0.0, most=DELAY_MAX)
        super().__init__(text_of(reason or "the handler is busy"))

    __reduce__ = reduced  # made anew by its attributes, not by its text


class Call:
    """The call that a handler answers: its second parameter, if that is annotated `Call`."""

    __slots__ = ("_received",)

    if not TYPE_CHECKING:
        __reduce__ = refusing(MESSAGE_COPIED)

    def __init__(self, received: ServedCall) -> None:
        self._received = received

    @property
    def left(self) -> float:
        """Seconds until the caller gives up; `inf`: it waits as long as this node lives.

        Calls that this handler makes itself end by then, too.
        """
        ends_at = self._received.ends_at
        return inf if ends_at == inf else max(0.0, ends_at - clock())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more: the caller gave up, was cancelled, or is lost."""
        received = self._received
        return received.cancelled or clock() >= received.ends_at

    @property
    def caller(self) -> str:
        """The name of the node that calls, as in `message.sender`."""
        return self._received.caller_name

    @property
    def headers(self) -> dict[str, str]:
        """Text that the caller sent along."""
        return dict(self._received.headers or {})

    def __repr__(self) -> str:
        return f"<Call of {self.caller}, {self.left:.3g} s left>"
