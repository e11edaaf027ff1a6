"""Call: one question of this node to a service, until it has an outcome."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from peerfabric.wire.frames import STREAM

if TYPE_CHECKING:
    from peerfabric.service.choice import Server

DEPTH_MAX: Final = 16
"""A call that so many calls led to is not answered: services that ask each other in a circle end here."""
PARTS_AHEAD: Final = 64
PARTS_BYTES_AHEAD: Final = 1024 * 1024
"""Parts of a stream, and bytes of them, that may be on their way, or wait for their reader."""
CALL_OVERHEAD: Final = 64
"""Bytes counted for a call or a part besides its body."""

Buffer = bytes | bytearray | memoryview


class Outcome(Enum):
    """What came of a call.

    From BUSY to TOO_LARGE no handler has started, except at a server that was lost: then it `may_have_run`.
    """

    OK = "ok"  # `body` is the answer
    END = "end"  # a stream has come to its end
    ERROR = "error"  # the handler raised `type`, with `text`
    STALLED = "stalled"  # a stream was not read for too long
    BUSY = "busy"  # no room; again after `retry_after`
    EXPIRED = "expired"
    UNFIT = "unfit"  # the body does not fit the server's type, which is `type`
    TOO_DEEP = "too deep"
    NO_SERVER = "no server"
    TOO_LARGE = "too large"  # no server takes a body of that size; the largest is `limit`
    LOST = "lost"  # its server was, and it may have run
    TIMED_OUT = "timed out"  # `may_have_run` tells whether somebody had it
    CANCELLED = "cancelled"


class OpenCall:
    """One call of this node. Made by its user in any thread, then given to `Caller.start`.

    From there on the machine alone writes it, under the engine's lock, but for `owner`, and for what `take` counts. All
    of it may be read in any thread once `outcome` is set, which is the last that is written.

    Args:
        service: Its name, checked.
        body: One body as `Codec.encode` gives it, and the number of that codec.
        ends_at: When it times out, by the driver's clock; inf: it ends with its server.
        idempotent: It may run twice: if its server is lost or silent another one is asked.
        server: The node id or the name of the one server that shall answer; empty: any.
        depth: How many calls led to this one: 0 outside of handlers, else that of the call in hand and 1.
        stream: It is answered in parts.
        owner: Whatever the edge wants to find with it.
    """

    # sent => at is not None;  read_parts <= received parts <= granted_parts

    __slots__ = (
        "also",
        "asked",
        "at",
        "body",
        "codec",
        "deaths",
        "depth",
        "doubts",
        "ends_at",
        "granted_bytes",
        "granted_parts",
        "headers",
        "id",
        "idempotent",
        "limit",
        "may_have_run",
        "outcome",
        "owner",
        "parts",
        "read_bytes",
        "read_parts",
        "received_bytes",
        "received_parts",
        "refusal",
        "retry_after",
        "server",
        "service",
        "size",
        "stream",
        "text",
        "tried",
        "type",
        "was_lost",
    )

    def __init__(
        self,
        service: str,
        body: bytes,
        codec: int,
        ends_at: float,
        *,
        idempotent: bool = False,
        server: str = "",
        depth: int = 0,
        headers: dict[str, str] | None = None,
        stream: bool = False,
        owner: Any = None,
    ) -> None:
        self.service, self.codec, self.ends_at = service, codec, ends_at
        self.body: Buffer = body
        """Until it has ended, what is asked; then, if `outcome` is OK, the body of the answer: a frame body with one
        element, for `Codec.decode_batch(call.body, call.codec)[0]`."""
        self.idempotent, self.server, self.depth, self.headers, self.stream = idempotent, server, depth, headers, stream
        self.owner = owner
        self.size = len(body) + CALL_OVERHEAD
        if headers:
            self.size += sum(4 * (len(name) + len(value)) for name, value in headers.items())
        self.id = 0
        self.outcome: Outcome | None = None
        """None: it is open."""
        self.text = self.type = ""
        self.retry_after = 0.0
        """Seconds, if it is BUSY."""
        self.limit = 0
        self.asked: Server | None = None
        """Who was asked last, or has answered."""
        self.may_have_run = False
        """Some server had it in a frame, and has not said that the handler did not start."""
        # What the machine knows of it
        self.at: Server | None = None
        """Where it was sent, if it is."""
        self.also: list[Server] = []
        """Where it was sent besides, as that one fell silent."""
        self.tried: set[str] = _NOBODY
        """Peers that have said that the handler did not start."""
        self.refusal: Outcome | None = None
        """What the last of them said."""
        self.was_lost = False
        """It was at a server when the life of that link ended."""
        self.deaths = self.doubts = 0
        """Servers that died with it; and those that were lost with it of which that is not known yet."""
        # Of a stream
        self.parts: deque[tuple[Buffer, int, int]] = _NO_PARTS
        """Those that are not read: frame body with one element, codec, and how many bytes it counts."""
        self.granted_parts = self.granted_bytes = self.received_parts = self.received_bytes = 0
        self.read_parts = self.read_bytes = 0
        if stream:
            self.parts = deque()
            self.granted_parts, self.granted_bytes = PARTS_AHEAD, PARTS_BYTES_AHEAD

    @property
    def server_id(self) -> str:
        """The node id of who was asked last, or has answered; empty: nobody was asked."""
        return self.asked.link.node_id if self.asked is not None else ""

    @property
    def server_name(self) -> str:
        """Its name, for people."""
        return self.asked.link.name if self.asked is not None else ""

    def take(self) -> tuple[Buffer, int] | None:
        """The next part of a stream, as (frame body with one element, codec); None: there is none now.

        Only for the one thread that reads it, without a lock. Then look at `wants_more`.
        """
        try:
            body, codec, size = self.parts.popleft()
        except IndexError:
            return None
        self.read_parts += 1
        self.read_bytes += size
        return body, codec

    @property
    def wants_more(self) -> bool:
        """Half of what was allowed is read: `Caller.more` is due."""
        return (
            self.read_parts + PARTS_AHEAD // 2 >= self.granted_parts
            or self.read_bytes + PARTS_BYTES_AHEAD // 2 >= self.granted_bytes
        )

    @property
    def flags(self) -> int:
        return STREAM if self.stream else 0


_NOBODY: Final[set[str]] = set()
_NO_PARTS: Final[deque[tuple[Buffer, int, int]]] = deque()
"""Shared by all that have none, and never written."""


__all__ = ["Buffer", "OpenCall", "Outcome"]
