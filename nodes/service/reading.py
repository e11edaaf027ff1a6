"""Reading of one stream: the parts of its answer, in order, as their reader asks for them."""

from __future__ import annotations

from math import inf
from typing import Any, Final

from peerfabric.errors import DecodeError
from peerfabric.nodes.handler_context import hand_here, lease_paused
from peerfabric.nodes.io.waiting import Gate, clock, wait_until
from peerfabric.nodes.service.calls import Calls, checked_timeout, misfit
from peerfabric.nodes.service.service import Service
from peerfabric.service.call import OpenCall, Outcome

OVER: Final = object()
"""In place of a part: there are no more."""


class Reading:
    """One call that is answered in parts. It is asked with the first part that somebody wants.

    Args:
        timeout: Seconds for which each part is waited for; None: as long as the server lives.
    """

    def __init__(
        self,
        calls: Calls,
        service: Service[Any, Any] | str,
        body: Any,
        reply_type: Any,
        timeout: float | None,
        server: str | None,
        headers: dict[str, str] | None,
    ) -> None:
        self._calls, self._timeout = calls, checked_timeout(timeout)
        self._prepared = calls.prepared(service, body, reply_type, stream=True)
        self._data = self._prepared.encode(body)
        self._server, self._headers = server, headers
        self._call: OpenCall | None = None
        self._turn = [True]
        """Taken out by the reader that asks, since another one may come meanwhile."""
        self._asked = Gate()
        """Opens when that reader is through with it."""
        self._over = False

    async def take(self) -> Any:
        """The next part, or `OVER`. Cancelled, it has taken none, and the stream goes on.

        Raises:
            TimedOut: There was none in time. With this and all other errors the stream is over, for all its readers.
        """
        try:
            while (call := self._call) is None and not self._over:
                await self._ask()
            return OVER if call is None else await self._next(call)
        except Exception:
            self.close()
            raise

    async def _next(self, call: OpenCall) -> Any:
        while not self._over:
            outcome = call.outcome  # looked at first: it is the last that is written
            part = call.take()
            if part is not None:
                if call.wants_more and outcome is None:
                    self._calls.more(call)
                try:
                    return self._prepared.decode(part[0], part[1])[0]
                except DecodeError as error:
                    raise misfit(call, error) from None
            if outcome is Outcome.END:
                self.close()
            elif outcome is not None and not self._over:
                raise self._calls.error(call, self._prepared, self._timeout)
            elif not self._over and not await self._until_next(call):
                self._calls.forget(call)  # first, as it may be sent until then
                raise self._calls.late(call, self._timeout)
        return OVER

    async def _ask(self) -> None:
        """Start the call, or wait for another reader that does. If cancelled, the next reader does."""
        calls = self._calls
        try:
            self._turn.pop()
        except IndexError:
            what = "another reader of the stream is about to ask"
            waiting = calls.node.waiting
            await wait_until(waiting, self._asked, lambda: bool(self._turn) or None, self._timeout, lambda: what)
            return
        try:
            await calls.node.started()
            if self._call is None and not self._over:
                await self._start()
        finally:
            self._turn.append(True)
            self._asked.open()

    async def _start(self) -> None:
        calls = self._calls
        call = calls.made(self._prepared, self._data, inf, None, self._server, self._headers)
        if not calls.start(call):
            await calls.start_when_room(call, self._timeout)
        self._call, self._data = call, b""
        if self._over:
            calls.drop(call)  # whoever closed it has not seen it

    async def _until_next(self, call: OpenCall) -> bool:
        ends_at = inf if self._timeout is None else clock() + self._timeout

        def is_here() -> bool:
            return bool(call.parts) or call.outcome is not None

        if hand_here() is not None:
            with lease_paused(self._calls.node.pump):
                return await self._calls.until(call, ends_at, self._timeout, is_here)
        return await self._calls.until(call, ends_at, self._timeout, is_here)

    def close(self) -> None:
        """Read no more: the server stops. Also for finalisers."""
        self._over = True
        if self._call is not None:
            self._calls.drop(self._call)
