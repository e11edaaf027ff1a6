"""Taps: copies of what one node accepts, for who looks; nothing is taken from anybody.

As long as nobody looks a node has no `Taps`, and its handles ask for nothing but that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec

from peerfabric.arguments import described
from peerfabric.discovery.log import log as _log
from peerfabric.names import check_pattern, matches
from peerfabric.nodes.io.waiting import clock
from peerfabric.wire.bodies import Codec
from peerfabric.wire.frames import Extra

PER_SECOND: Final = 100
"""Copies that one tap is given each second at most; the others are counted."""
COPY_BYTES: Final = 64 * 1024
"""Bytes of a body for each of which a larger one counts as one copy more: the node's I/O thread makes them readable."""

Put = Callable[[dict[str, Any]], None]

_ANYTHING: Final[Codec[Any]] = Codec(Any, 2**31)


def shown_body(data: bytes, codec: int) -> Any:
    """A body as JSON has it; what JSON has no words for as {"base64": its bytes}."""
    try:
        body = _ANYTHING.decode_stored(data, codec)
        if not isinstance(body, bytes | bytearray | memoryview):
            found = msgspec.to_builtins(body, str_keys=True)
            msgspec.json.encode(found)
            return found
    except Exception:  # it is a body of somebody, and may be anything
        body = data
    return msgspec.to_builtins({"base64": bytes(body)})


class _Tap:
    """One that looks.

    Args:
        pattern: What of the names of queues and topics it wants.
        put: Takes the copies, one by one, in the node's I/O thread. It must not wait, and nothing it raises comes back.
    """

    def __init__(self, pattern: str, put: Put) -> None:
        self.pattern, self.put = pattern, put
        self.copies: deque[tuple[dict[str, Any], bytes, int]] = deque()
        self.skipped = 0
        """What it was not given since it was last told."""
        self._room, self._room_at = float(PER_SECOND), clock()

    def room_for(self, bodies: Sequence[bytes]) -> int:
        """How many of these it is given, the first. A large one is given as soon as there is room at all."""
        now = clock()
        self._room = min(PER_SECOND, self._room + (now - self._room_at) * PER_SECOND)
        self._room_at = now
        given = 0
        for body in islice(bodies, PER_SECOND):
            if self._room < 1:
                break
            self._room -= 1 + len(body) // COPY_BYTES
            given += 1
        return given


class Taps:
    """All taps of one node."""

    def __init__(self) -> None:
        self._taps: list[_Tap] = []

    def __len__(self) -> int:
        return len(self._taps)

    def add(self, pattern: str, put: Put) -> Callable[[], None]:
        """Give `put` copies of what is accepted from now on; returned is what ends that.

        Raises:
            ConfigError: The pattern is none.
        """
        tap = _Tap(check_pattern(pattern), put)
        self._taps.append(tap)

        return partial(self._end, tap)

    def _end(self, tap: _Tap) -> None:
        with suppress(ValueError):  # it has ended
            self._taps.remove(tap)

    def _failed(self, tap: _Tap, error: Exception) -> None:
        _log.error("a tap of %r failed and gets nothing more: %s", tap.pattern, described(error))
        self._end(tap)

    def accepted(
        self,
        kind: str,
        name: str,
        bodies: Sequence[bytes],
        extras: Mapping[int, Extra] | None,
        codec: int,
        sent_ms: int,
        named: Callable[[int], dict[str, Any]],
    ) -> None:
        """A node has accepted `bodies`; called under its engine's lock, so all that takes time is left to `flush`.

        Args:
            kind: "queue" or "topic".
            named: What the body at that index is called.
        """
        for tap in self._taps:
            if not matches(tap.pattern, name):
                continue
            count = tap.room_for(bodies)
            tap.skipped += len(bodies) - count
            for index in range(count):
                extra = extras.get(index) if extras else None
                seen = {"kind": kind, "name": name, **named(index), "sent_at": sent_ms / 1000}
                seen["headers"] = dict(extra.headers) if extra is not None and extra.headers else {}
                tap.copies.append((seen, bodies[index], codec))

    def flush(self) -> None:
        """Hand the copies over. In the node's I/O thread, without a lock."""
        for tap in list(self._taps):
            try:
                while tap.copies:
                    seen, data, codec = tap.copies.popleft()
                    tap.put({**seen, "body": shown_body(data, codec)})
            except Exception as error:
                self._failed(tap, error)

    def look(self) -> None:
        """Once a second: hand over what is left, and say how much was skipped."""
        self.flush()
        for tap in list(self._taps):
            if tap.skipped:
                skipped, tap.skipped = tap.skipped, 0
                try:
                    tap.put({"kind": "skipped", "name": tap.pattern, "skipped": skipped})
                except Exception as error:
                    self._failed(tap, error)
