"""Frames of the protocol as msgspec structs, and the bytes <-> frame functions.

PROTOCOL.md specifies each field. Frames are msgpack arrays whose first element is the kind; fields are
only ever appended, with defaults, so that old and new peers understand each other.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from peerfabric.errors import BadFrame

MAGIC: Final = "peerfabric"
VERSION: Final = 1

HEADER_BYTES_MAX: Final = 4 * 1024 * 1024
"""A header is small next to its body; the largest is an INTEREST with 100,000 ranges."""
LIST_MAX: Final = 300_000
NAMES_MAX: Final = 4096
KNOWN_MAX: Final = 64

Name = Annotated[str, Meta(max_length=255)]
Text = Annotated[str, Meta(max_length=1024)]
Endpoint = Annotated[str, Meta(max_length=256)]
Endpoints = Annotated[list[Endpoint], Meta(max_length=16)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Half = Annotated[int, Meta(ge=0, le=2**32 - 1)]
LinkId = Annotated[bytes, Meta(min_length=8, max_length=8)]
Flat = Annotated[list[Count], Meta(max_length=LIST_MAX)]
Stream = Annotated[str, Meta(max_length=512)]
OutboxKey = Annotated[bytes, Meta(max_length=32)]
Digest = Annotated[bytes, Meta(max_length=2048)]

# Reasons of a NACK, of a BYE, and flags of a DATA frame: numbers of the protocol.
FAILED, LEASE, REFUSED, REJECTED, NO_INTEREST, BATCH_FAILED, EXPIRED = 1, 2, 3, 4, 5, 6, 7
LEAVING, IDLE, OTHER_FABRIC, OTHER_VERSION, TOO_MANY_PEERS = 1, 2, 3, 4, 5
UNWELCOME, SUPERSEDED, NOT_ME = 6, 7, 8
ALONE, DURABLE = 1, 4
"""ALONE: one message, because the batch that it was in failed. DURABLE: its stream outlives the producer's process."""
RAW, MSGPACK, RAW_ONE = 0, 1, 2
STREAM: Final = 1
"""Flag of a call: it is answered in parts."""
OK, PART, END, ERROR, STALLED = 0, 1, 2, 3, 4
NOT_STARTED: Final = 16
"""From this status of an answer on the handler did not start; an unknown one below it reads as ERROR."""
BUSY, SERVER_LEAVING, NOT_SERVED, CALL_EXPIRED, UNFIT, TOO_DEEP = 16, 17, 18, 19, 20, 21
"""Bodies are bytes in an array, msgpack documents in an array, or the frame body is the one message's bytes."""


class Address(msgspec.Struct, array_like=True, frozen=True):
    """Who a node is and where it listens."""

    node_id: Name
    epoch: Count
    name: Name
    host: Name
    inbox: Endpoints
    outbox: Endpoints
    outbox_key: OutboxKey = b""
    """CURVE key of the outbox; empty in the clear."""
    version: Count = 0
    """Grows with each change of the address in one epoch."""
    digest: Digest | None = None
    """Of what the node produces, consumes, publishes and subscribes to; None: it may match anything."""
    passes_on: bool = False
    """It knows nodes that others may not find by themselves, and passes on news of them."""


class Hello(msgspec.Struct, array_like=True, tag=1):
    magic: str
    version: int
    fabric: Name
    to: Name
    address: Address
    mine: Half
    yours: Half
    welcome: bool
    frame_bytes_max: Count
    known: Annotated[list[Address], Meta(max_length=KNOWN_MAX)] = []
    roster: bool = False
    """The sender keeps this link for news of other nodes, and asks for them."""


class _HelloStart(msgspec.Struct, array_like=True, tag=1):
    """What every version of HELLO begins with; msgspec skips what follows."""

    magic: str
    version: int
    fabric: Name
    to: Name
    address: Address


class StreamRanges(msgspec.Struct, array_like=True):
    """Some sequences of one stream."""

    stream: Stream
    ranges: Flat


class Subscription(msgspec.Struct, array_like=True):
    pattern: Name
    serial: Count
    confirmed: bool
    flushed: bool = False


class Consuming(msgspec.Struct, array_like=True):
    """A queue that a node consumes, and how many seconds it may keep a message."""

    queue: Name
    lease: float


class Serving(msgspec.Struct, array_like=True):
    """A service that a node answers, and how many calls of it may run at once."""

    service: Name
    capacity: Count


class Interest(msgspec.Struct, array_like=True, tag=2):
    link: LinkId
    number: Count
    echo: Count
    version: Count
    consumes: Annotated[list[Consuming], Meta(max_length=NAMES_MAX)]
    subscribes: Annotated[list[Subscription], Meta(max_length=NAMES_MAX)]
    produces: Annotated[list[Name], Meta(max_length=NAMES_MAX)]
    publishes: Annotated[list[Name], Meta(max_length=NAMES_MAX)]
    held: Annotated[list[StreamRanges], Meta(max_length=LIST_MAX)] = []
    done: Annotated[list[StreamRanges], Meta(max_length=LIST_MAX)] = []
    ack: Count = 0
    serves: Annotated[list[Serving], Meta(max_length=NAMES_MAX)] = []
    calls: Annotated[list[Name], Meta(max_length=NAMES_MAX)] = []


class Extra(msgspec.Struct, array_like=True):
    """What one message of a batch has besides its body; `index` counts from the batch's first."""

    index: Count
    headers: dict[Name, Annotated[str, Meta(max_length=8192)]] | None = None
    origin: str | None = None


class Data(msgspec.Struct, array_like=True, tag=3):
    link: LinkId
    number: Count
    echo: Count
    stream: Stream
    queue: Name
    first: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    count: Annotated[int, Meta(ge=1, le=16_777_216)]
    floor: Count
    attempt: Count
    codec: Count
    flags: Count
    sent_ms: Count
    waiting: Count
    sent_messages: Count
    sent_bytes: Count
    settled: Count
    extras: Annotated[list[Extra], Meta(max_length=LIST_MAX)] = []
    ttl_ms: Count = 0
    """How long they may still be handed out; 0: for ever."""
    depth: Count = 0
    """How many messages before them wait for them to be settled."""


class Nack(msgspec.Struct, array_like=True):
    start: Count
    stop: Count
    attempt: Count
    reason: Count
    delay_ms: int = -1
    text: Text = ""


class Result(msgspec.Struct, array_like=True):
    """What became of some messages of one stream at its consumer."""

    stream: Stream
    queue: Name
    done: Flat = []
    returned: Flat = []
    nacks: Annotated[list[Nack], Meta(max_length=4096)] = []
    ran: Flat = []


class Grant(msgspec.Struct, array_like=True):
    queue: Name
    messages: Count
    bytes: Count


class Ack(msgspec.Struct, array_like=True, tag=4):
    link: LinkId
    number: Count
    echo: Count
    ack: Count
    results: Annotated[list[Result], Meta(max_length=NAMES_MAX)] = []
    grants: Annotated[list[Grant], Meta(max_length=NAMES_MAX)] = []


class Release(msgspec.Struct, array_like=True, tag=5):
    link: LinkId
    number: Count
    echo: Count
    streams: Annotated[list[StreamRanges], Meta(max_length=LIST_MAX)] = []
    live: Annotated[list[Stream], Meta(max_length=LIST_MAX)] | None = None


class Backlog(msgspec.Struct, array_like=True):
    """The producer's totals for one queue, as the consumer shall adopt them."""

    queue: Name
    stream: Stream
    waiting: Count
    sent_messages: Count
    sent_bytes: Count
    floor: Count


class Ping(msgspec.Struct, array_like=True, tag=6):
    link: LinkId
    number: Count
    echo: Count
    stamp: float
    settled: Count
    backlogs: Annotated[list[Backlog], Meta(max_length=NAMES_MAX)] = []


class Pong(msgspec.Struct, array_like=True, tag=7):
    link: LinkId
    number: Count
    echo: Count
    stamp: float
    sent_ms: Count = 0


class More(msgspec.Struct, array_like=True, tag=8):
    """How much of the answers in parts may be sent in all."""

    link: LinkId
    number: Count
    echo: Count
    streams: Annotated[list[Parts], Meta(max_length=NAMES_MAX)]


class Parts(msgspec.Struct, array_like=True):
    """What the caller of a stream allows in all; both only grow."""

    call: Count
    parts: Count
    bytes: Count


class Call(msgspec.Struct, array_like=True):
    """One question of a REQUEST; its body is the element of the same index."""

    call: Count
    left_ms: Count
    flags: Count = 0
    depth: Count = 0
    headers: dict[Name, Annotated[str, Meta(max_length=8192)]] | None = None


class Request(msgspec.Struct, array_like=True, tag=9):
    link: LinkId
    number: Count
    echo: Count
    service: Name
    codec: Count
    calls: Annotated[list[Call], Meta(min_length=1, max_length=NAMES_MAX)]


class Answer(msgspec.Struct, array_like=True):
    """One answer of a REPLY, or one part of a stream; its body is the element of the same index."""

    call: Count
    status: Count
    text: Text = ""
    type: Name = ""
    retry_ms: Count = 0
    headers: dict[Name, Annotated[str, Meta(max_length=8192)]] | None = None


class Load(msgspec.Struct, array_like=True):
    """How many calls of a service run and wait at its server."""

    service: Name
    count: Count


class Reply(msgspec.Struct, array_like=True, tag=10):
    link: LinkId
    number: Count
    echo: Count
    codec: Count
    answers: Annotated[list[Answer], Meta(min_length=1, max_length=NAMES_MAX)]
    loads: Annotated[list[Load], Meta(max_length=64)] = []


class Cancel(msgspec.Struct, array_like=True, tag=11):
    link: LinkId
    number: Count
    echo: Count
    calls: Annotated[list[Count], Meta(max_length=NAMES_MAX)]


class Drain(msgspec.Struct, array_like=True, tag=12):
    link: LinkId
    number: Count
    echo: Count


class Bye(msgspec.Struct, array_like=True, tag=13):
    link: LinkId
    number: Count
    echo: Count
    node_id: Name
    reason: Count


class TopicData(msgspec.Struct, array_like=True, tag=14):
    node_id: Name
    epoch: Count
    name: Name
    topic: Name
    first: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    count: Annotated[int, Meta(ge=1, le=16_777_216)]
    codec: Count
    sent_ms: Count
    extras: Annotated[list[Extra], Meta(max_length=LIST_MAX)] = []


class Tail(msgspec.Struct, array_like=True):
    """The last sequence published on a topic."""

    topic: Name
    last: Count


class Tails(msgspec.Struct, array_like=True, tag=15):
    node_id: Name
    epoch: Count
    tails: Annotated[list[Tail], Meta(max_length=NAMES_MAX)]


class Marker(msgspec.Struct, array_like=True, tag=16):
    node_id: Name
    epoch: Count
    to: Name
    pattern: Name
    serial: Count
    baseline: Annotated[list[Tail], Meta(max_length=NAMES_MAX)]
    last: bool = False


LinkFrame = Interest | Data | Ack | Release | Ping | Pong | More | Request | Reply | Cancel | Drain | Bye
OutboxFrame = TopicData | Tails | Marker
KINDS: Final = frozenset(range(1, 17))

_encoder = msgspec.msgpack.Encoder()
_inbox = msgspec.msgpack.Decoder(Hello | LinkFrame)
_outbox = msgspec.msgpack.Decoder(OutboxFrame)
_hello_start = msgspec.msgpack.Decoder(_HelloStart)


def encode_frame(frame: msgspec.Struct) -> bytes:
    """The bytes of a frame. In a text, what is no Unicode is replaced: no text of a user's may stop a link."""
    try:
        return _encoder.encode(frame)
    except UnicodeEncodeError:
        return _encoder.encode(_readable(msgspec.to_builtins(frame, builtin_types=(bytes,))))


def _readable(part: Any) -> Any:
    match part:
        case str():
            return part.encode("utf-8", "backslashreplace").decode()
        case list():
            return [_readable(inner) for inner in part]
        case dict():
            return {_readable(key): _readable(value) for key, value in part.items()}
    return part


class UnknownKind(BadFrame):
    """A frame of a kind that a later version may have added; it is counted and ignored."""


class ForeignHello(BadFrame):
    """A HELLO of another version of the protocol, from `address`."""

    def __init__(self, version: int, address: Address) -> None:
        self.version, self.address = version, address
        super().__init__(f"version {version} of the protocol, ours is {VERSION}; install the same release on both")


def decode_frame(header: bytes) -> Hello | LinkFrame:
    """Read the header of a frame from the inbox.

    Raises:
        ForeignHello: Another version of us said hello.
        UnknownKind: A kind that we do not know.
        BadFrame: Anything else that is not a frame of ours.
    """
    try:
        frame: Hello | LinkFrame | None = _inbox.decode(header) if len(header) <= HEADER_BYTES_MAX else None
    # msgspec raises more than its own errors for hostile input: pitfalls of the decoder, all mean "not ours".
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError) as error:
        raise _why(header, error) from None
    if frame is None:
        raise BadFrame(f"a header of {len(header):,} bytes; the limit is {HEADER_BYTES_MAX:,}")
    if isinstance(frame, Hello):
        if frame.magic != MAGIC:
            raise BadFrame("not a hello of peerfabric")
        if frame.version != VERSION:
            raise ForeignHello(frame.version, frame.address)
    return frame


def decode_outbox(header: bytes) -> OutboxFrame:
    """Read the header of a frame from a publisher's outbox; errors as in `decode_frame`."""
    try:
        if len(header) > HEADER_BYTES_MAX:
            raise BadFrame(f"a header of {len(header):,} bytes; the limit is {HEADER_BYTES_MAX:,}")
        frame: OutboxFrame = _outbox.decode(header)
        return frame
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError) as error:
        raise _why(header, error) from None


def _why(header: bytes, error: Exception) -> BadFrame:
    kind = _kind_of(header)
    if kind is not None and kind not in KINDS:
        return UnknownKind(f"kind {kind}")
    if kind == 1:
        try:
            start = _hello_start.decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError):
            return BadFrame(f"a hello that does not decode: {error}")
        if start.magic == MAGIC and start.version != VERSION:
            return ForeignHello(start.version, start.address)
    return BadFrame(str(error))


def _kind_of(header: bytes) -> int | None:
    """The leading small integer of a msgpack array, if that is what `header` is."""
    if not header:
        return None
    at = 1 if 0x90 <= header[0] <= 0x9F else 3 if header[0] == 0xDC else 5 if header[0] == 0xDD else None
    if at is None or len(header) <= at or header[at] > 0x7F:
        return None
    return header[at]
