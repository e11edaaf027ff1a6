"""Status: what one process shows of its nodes to whoever asks, version 1 of the document.

Fields are only added, each with a default. Ages and durations are in seconds, sizes in bytes, counters since the start
of the node; instants are seconds of Unix time.
"""

from __future__ import annotations

from typing import Final

import msgspec

from peerfabric.reports import CallAccount, ConsumerAccount, QueueAccount, ServiceAccount

VERSION: Final = 1

HANDLER_SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0)
"""Upper bounds of the buckets of `Taking.seconds`; one more holds what took longer."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """The process that answers.

    started     when it began, in milliseconds of Unix time; with the pid it names the process for ever
    argv0       the program, without its arguments, which may hold secrets
    cpu         seconds of processor time that it has used
    rss         bytes of memory that it holds
    """

    pid: int
    started: int
    user: str = ""
    argv0: str = ""
    version: str = ""
    python: str = ""
    rss: int = 0
    cpu: float = 0.0
    threads: int = 0
    descriptors: int = 0
    descriptors_max: int = 0


class Warned(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that needs a person, while it lasts.

    code    of the table in docs/operations.md
    queue   that it concerns, if it concerns one
    since   for how many seconds it has lasted
    """

    code: str
    text: str
    queue: str = ""
    since: float = 0.0


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer, as this node sees it; `state` and `reason` as in `PeerView`, `rtt` of the last answered ping."""

    node_id: str
    name: str
    state: str
    reason: str = ""
    endpoint: str = ""
    rtt: float | None = None
    consumes: tuple[str, ...] = ()
    produces: tuple[str, ...] = ()


class Letters(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one queue; `full`: nothing of it is sent until some are gone."""

    count: int = 0
    bytes: int = 0
    full: bool = False
    by_reason: dict[str, int] = {}


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """One queue that this node sends to.

    oldest_waiting      age of the oldest message that could be sent now, None if nothing waits
    oldest_unsettled    age of the oldest that is not settled, None if all are, or are on disk and yet to be read; an
                        upper bound, true to 0.1 s
    consumers           names of the peers that consume it
    credit_free         how many more messages these would take now
    blocked_senders     calls of `send` that wait for room
    """

    queue: str
    account: QueueAccount
    oldest_waiting: float | None = None
    oldest_unsettled: float | None = None
    consumers: tuple[str, ...] = ()
    credit_free: int = 0
    blocked_senders: int = 0
    letters: Letters = Letters()
    on_full: str = ""
    spooled: bool = False


class InHand(msgspec.Struct, frozen=True, kw_only=True):
    """A message that user code has now: for `age` seconds, its lease ends in `lease_left`.

    lease_left  0 or less: it is over, the message counts as failed and is sent again, and user code still has it
    handler     that was called with it; empty: a loop of the program has taken it
    thread      that has it, or the task; empty: whoever took it, it has been handed on
    line        FILE:LINE where that is now, in the program's own code
    """

    id: str
    age: float
    attempt: int = 1
    lease_left: float = 0.0
    handler: str = ""
    thread: str = ""
    line: str = ""


class Taking(msgspec.Struct, frozen=True, kw_only=True):
    """One queue that this node consumes.

    takers          threads or tasks that take from it now
    last_taken      seconds since something was last taken, None: never
    running         the oldest in hand, at most 20; `longest_running` is the age of the first
    paused          somebody has paused the queue at this node
    seconds         histogram of how long messages were in hand, by `HANDLER_SECONDS` and one more
    """

    queue: str
    account: ConsumerAccount
    producers: tuple[str, ...] = ()
    takers: int = 0
    last_taken: float | None = None
    running: tuple[InHand, ...] = ()
    longest_running: float = 0.0
    lease: float = 0.0
    paused: bool = False
    seconds: tuple[int, ...] = ()
    seconds_sum: float = 0.0


class Publishing(msgspec.Struct, frozen=True, kw_only=True):
    """One topic that this node publishes."""

    topic: str
    published: int = 0
    subscribers: int = 0


class Subscribing(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription of this node; `behind`: bytes that its user has not taken yet."""

    pattern: str
    received: int = 0
    missed: int = 0
    late: int = 0
    buffered: int = 0
    behind: int = 0


class SlotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of a spool's folder: `state` is "running", "adopted", "left", "parked" or "empty"."""

    slot: int
    state: str
    pid: int = 0
    name: str = ""
    left: int = 0
    letters: int = 0


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The spool of a node: `used` of `limit` bytes; `disk_free` of its file system; `spare_ok`: it can still note what
    it must on a full disk; `last_sync`: how long the last sync took."""

    folder: str
    slot: int
    used: int = 0
    limit: int = 0
    disk_free: int = 0
    disk_size: int = 0
    spare_ok: bool = True
    last_sync: float | None = None
    letters: int = 0
    parked: int = 0
    slots: tuple[SlotStatus, ...] = ()


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    state       of its life: "running", "closing", …
    adopted     the number of the slot that it has in the place of a process that is gone; None: its own node
    engine      "", or why its machines could not be asked ("busy 1.0 s"); then what they know is missing here
    pump_late   for how many seconds its I/O thread has been due and has not come
    more        how many queues and topics are left out, as no more than `limit` of each list were asked for: of queues
                the shallowest
    limit       how many of each list were asked for; None: `engine` could not tell
    """

    node_id: str
    name: str
    fabric: str
    epoch: int = 0
    host: str = ""
    state: str = ""
    adopted: int | None = None
    uptime: float = 0.0
    engine: str = ""
    pump_late: float = 0.0
    endpoints: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    counters: dict[str, int] = {}
    warnings: tuple[Warned, ...] = ()
    sends: tuple[Sending, ...] = ()
    takes: tuple[Taking, ...] = ()
    publishes: tuple[Publishing, ...] = ()
    subscribes: tuple[Subscribing, ...] = ()
    serves: tuple[ServiceAccount, ...] = ()
    calls: CallAccount = CallAccount()
    spool: SpoolStatus | None = None
    more: int = 0
    limit: int | None = None


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A thread or a task of asyncio, and where it is: lines "FILE:LINE FUNCTION: SOURCE", the innermost call last.

    native      number of the thread in the system, None of a task
    """

    name: str
    kind: str = "thread"
    native: int | None = None
    daemon: bool = False
    lines: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The document: one process, and all its nodes, also those of slots that it has adopted.

    stacks      of all threads, if the machines of a node could not be asked
    """

    process: Process
    nodes: tuple[NodeStatus, ...] = ()
    stacks: tuple[Stack, ...] = ()
    v: int = VERSION
