"""Errors: a class for each that a caller would treat differently.

FabricError
├── ConfigError (ValueError)            an option, endpoint or combination that cannot work
│   ├── BadName                         a queue, topic, fabric or node name that is not allowed
│   ├── EndpointInUse (also OSError)    somebody else listens there
│   └── IdentityInUse                   another node runs under the same key
├── EncodeError (ValueError)            a body that cannot be sent; nothing was accepted
│   └── MessageTooLarge                 a body over the limit; nothing was accepted
├── DecodeError (ValueError)            a body that does not fit the consumer's type
├── TimedOut (TimeoutError)             a wait ended; nothing was taken or accepted
│   └── NotConfirmed                    accepted, may still be processed: do not send again
├── QueueFull (queue.Full, TimeoutError)  not accepted: the producer's buffer is full
├── Rejected                            dead-lettered: no consumer will process it
├── Undelivered                         closed while accepted messages were not settled
├── NoServer (ConnectionError)          nobody serves this; nothing was sent
├── ServerLost (ConnectionError)        the server ended before it answered; the call may have run
├── ServiceBusy                         every server refused for now; nothing has run
├── RemoteError                         the handler of a call raised something
├── Cancelled                           the caller of what runs here does not wait any more
├── Incomplete                          too few of all servers answered
├── NodeClosed (RuntimeError)           used after close
├── ForkedNode (RuntimeError)           used in a child process of the one that started it
├── WrongLoop (RuntimeError)            an AsyncNode used on another event loop
├── WouldDeadlock (RuntimeError)        a blocking call that could never end where it was made
├── SpoolError (OSError)                the disk or its folder refused; nothing of the call is stored
│   ├── SpoolFull                       no space, or the limit in bytes is reached
│   ├── SpoolLocked                     another process uses the folder
│   ├── SpoolUnsafe (PermissionError)   not ours alone, a symbolic link, or with files of others
│   ├── NewerFormat                     written by a later version
│   └── Corrupt                         bytes that are not what was written
└── RemoteProtocolError                 a peer broke the protocol; its frame is dropped, the node lives
    └── BadFrame                        bytes that are not a frame of ours

Each text ends with what to do next.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerfabric.receipt import Receipt, State

__all__ = [
    "BadFrame",
    "BadName",
    "Cancelled",
    "ConfigError",
    "Corrupt",
    "DecodeError",
    "EncodeError",
    "EndpointInUse",
    "FabricError",
    "ForkedNode",
    "IdentityInUse",
    "Incomplete",
    "MessageTooLarge",
    "NewerFormat",
    "NoServer",
    "NodeClosed",
    "NotConfirmed",
    "QueueFull",
    "Rejected",
    "RemoteError",
    "RemoteProtocolError",
    "ServerLost",
    "ServiceBusy",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "SpoolUnsafe",
    "TimedOut",
    "Undelivered",
    "WouldDeadlock",
    "WrongLoop",
]


def counted(count: int, one: str, many: str = "") -> str:
    """How many of something, for texts: `one` says what one is called, `many` what others are; else an s is added."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


class FabricError(Exception):
    """The root of everything that peerfabric raises on purpose. It can be pickled and copied, with its attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)


class ConfigError(FabricError, ValueError):
    """An option, an endpoint or a combination of them that cannot work."""


class BadName(ConfigError):
    """A name that is not allowed; `name` is what was given."""

    def __init__(self, kind: str, name: object, problem: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(
            f"{kind} {name!r}: {problem}; use letters, digits, '_', '-' in parts joined by '.', at most 255 bytes"
        )


class EndpointInUse(ConfigError, OSError):
    """Somebody else listens at `endpoint`, which `source` names if it is not an argument: a variable or a file.

    `step` is the next step where it is no endpoint of a node.
    """

    def __init__(self, endpoint: str, source: str = "", step: str = "") -> None:
        self.endpoint, self.source = endpoint, source
        given = f", which is given by {source}" if source else ""
        several = "a range for several nodes of a host, 'tcp://*:7700-7719', " if source else ""
        step = step or f"choose another port, {several}or '{_any_port(endpoint)}' for a free one"
        super().__init__(f"{endpoint} is in use{given}; {step}")


def _any_port(endpoint: str) -> str:
    return endpoint.rpartition(":")[0] + ":*" if endpoint.startswith("tcp://") else "auto"


class IdentityInUse(ConfigError):
    """Another node runs under the same key, at `endpoint`: a copy of this one, and the later of the two."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(
            f"another copy of this node runs at {endpoint}; remove node.key and the spool from one of them"
        )


class EncodeError(FabricError, ValueError):
    """A body that cannot be sent. Nothing was accepted, except the `accepted` first ones of a `send_many`."""

    def __init__(self, text: str, *, accepted: int = 0) -> None:
        self.accepted = accepted
        super().__init__(text)


class MessageTooLarge(EncodeError):
    """A body of `size` bytes, over the limit of `limit` bytes."""

    def __init__(self, size: int, limit: int, *, accepted: int = 0) -> None:
        self.size, self.limit = size, limit
        super().__init__(
            f"a body of {size:,} bytes is over the limit of {limit:,}; send a reference to it, "
            f"or raise Options(message_bytes_max=) on both nodes",
            accepted=accepted,
        )


class DecodeError(FabricError, ValueError):
    """A body that does not fit the type it was asked for; `path` says where in it, `sender` who sent it."""

    def __init__(
        self,
        reason: str,
        *,
        path: str = "",
        sender: str = "",
        step: str = "give consumer and producer the same body type",
    ) -> None:
        self.reason, self.path, self.sender = reason, path, sender
        where = f" at {path}" if path else ""
        whose = f" from {sender}" if sender else ""
        super().__init__(f"body{whose} does not decode{where}: {reason}; {step}")


class TimedOut(FabricError, TimeoutError):
    """A wait ended before what it waited for happened. Nothing was taken or accepted.

    Of a call to a service the text says whether it was sent: then it may have run.
    """


class NotConfirmed(TimedOut):
    """The message is accepted and may still be processed; `receipt` finds it again."""

    def __init__(self, receipt: Receipt, state: State, timeout: float, problem: str = "") -> None:
        self.receipt: Receipt = receipt
        self.state: State = state
        super().__init__(
            f"not {state} within {timeout:g} s{problem and ': '}{problem}; "
            f"the message is accepted and may still be processed: "
            f"do not send it again, call producer.wait(error.receipt, {state!r}) to go on waiting"
        )


class QueueFull(FabricError, queue.Full, TimeoutError):
    """Not accepted: the producer's buffer of `limit` bytes for `queue` is full.

    `accepted` counts the bodies of a `send_many` that were accepted before this one, in order.
    """

    def __init__(self, queue_name: str, limit: int, *, accepted: int = 0, waited: float | None = None) -> None:
        self.queue, self.limit, self.accepted = queue_name, limit, accepted
        after = f" after {waited:g} s" if waited is not None else ""
        super().__init__(
            f"queue {queue_name!r}: the producer's buffer ({limit:,} bytes) is still full{after}; "
            f"the message was not accepted: start a consumer, add consumers, or raise buffer_bytes="
        )


class Rejected(FabricError):
    """The message will not be processed, for `reason`: it is a dead letter, was dropped, or the disk has lost it."""

    def __init__(
        self,
        message_id: str,
        reason: str,
        next_step: str = "see node.dead_letters(queue), which can be retried",
    ) -> None:
        self.message_id, self.reason = message_id, reason
        super().__init__(f"message {message_id} was not processed: {reason}; {next_step}")


class Undelivered(FabricError):
    """The node is closed, and `waiting` + `in_flight` accepted messages were not settled."""

    def __init__(self, waiting: int, in_flight: int) -> None:
        self.waiting, self.in_flight = waiting, in_flight
        gone = "it is gone" if waiting + in_flight == 1 else "they are gone"
        super().__init__(
            f"closed with {counted(waiting, 'message')} waiting and {in_flight:,} in flight; {gone}: "
            f"start a consumer before closing, give it more time by close(timeout=), or at the end of `with` by "
            f"Options(drain_timeout=), or give the node a spool=, which keeps them for its next start"
        )


class NoServer(FabricError, ConnectionError):
    """Nobody serves `service`, or not the server that was asked for. Nothing was sent."""

    def __init__(self, service: str, problem: str = "nobody serves it") -> None:
        self.service = service
        super().__init__(
            f"service {service!r}: {problem}; look at its name and at node.services(), "
            f"and start a node that serves it in the same fabric"
        )


class ServerLost(FabricError, ConnectionError):
    """The `server` of a call ended, or the link with it, before it answered. The call may have run.

    Of a stream, `parts` have come before.
    """

    def __init__(self, service: str, server: str, *, proven: int = 0, parts: int = 0) -> None:
        self.service, self.server, self.parts = service, server, parts
        if parts:
            super().__init__(
                f"service {service!r}: {server} was lost after {parts} part{'s' if parts > 1 else ''}; a stream that "
                f"has begun is not tried again: ask anew, for what is missing if the service can"
            )
            return
        again = (
            f"{proven} servers have died while they worked on it: look at what it does to them before you try again"
            if proven > 1
            else "the call may have run: see whether it did, or give its Service idempotent=True to have it tried again"
        )
        super().__init__(f"service {service!r}: {server} was lost before it answered; {again}")


class ServiceBusy(FabricError):
    """No server of `service` took the call, and none has run it; try again after `retry_after` seconds."""

    def __init__(self, service: str, retry_after: float, problem: str = "every server is busy") -> None:
        self.service, self.retry_after = service, retry_after
        super().__init__(
            f"service {service!r}: {problem}, and the call has not run; "
            f"try again after {retry_after:.3g} s, or start more servers"
        )


class RemoteError(FabricError):
    """What the handler of a call raised at `server`: its class, `type`, and its `text`. It is text only, never code."""

    def __init__(self, type: str, text: str, server: str) -> None:
        self.type, self.text, self.server = type, text, server
        said = f"{type}: {text}" if text else type
        super().__init__(f"the handler at {server} raised {said}; the traceback is in the log there")


class Cancelled(FabricError):
    """Whoever made the call that is handled here does not wait for it any more: stop, and undo what shall not stay."""

    def __init__(self) -> None:
        super().__init__("the caller does not wait for this call any more; undo what shall not stay, and return")


class Incomplete(FabricError):
    """Fewer servers than `require=` asked for have answered; `gathered` is what came."""

    def __init__(self, service: str, wanted: int, gathered: Any) -> None:
        self.service, self.wanted, self.gathered = service, wanted, gathered
        names = gathered.names
        missing = "; ".join(f"{names.get(node, node)}: {why}" for node, why in list(gathered.missing.items())[:5])
        super().__init__(
            f"service {service!r}: {len(gathered.replies)} of {wanted} servers have answered"
            f"{f' ({missing})' if missing else ''}; look at error.gathered, or ask for fewer with require="
        )


class NodeClosed(FabricError, RuntimeError):
    """The node, or the handle, was closed before this call; or the program ends, and a node cannot start any more."""

    def __init__(self, what: str = "this node", *, text: str = "") -> None:
        super().__init__(text or f"{what} is closed; make a new Node")


class ForkedNode(FabricError, RuntimeError):
    """A started node was used in a child process; it belongs to its parent."""

    def __init__(self) -> None:
        super().__init__(
            "this node was started before the process forked and belongs to the parent; "
            "make or start the Node in the child (a node that was only constructed starts in each child by itself)"
        )


class WrongLoop(FabricError, RuntimeError):
    """An AsyncNode was used on another event loop than the one that started it."""

    def __init__(
        self,
        text: str = "this AsyncNode was started on another event loop; "
        "make one AsyncNode per loop, inside the running loop",
    ) -> None:
        super().__init__(text)


class WouldDeadlock(FabricError, RuntimeError):
    """A blocking call was made where it could never end."""


class SpoolError(FabricError, OSError):
    """The file at `path` could not be used; `errno` says why, if the system said so. Nothing of the call is stored."""

    def __init__(self, path: str, problem: str, *, errno: int | None = None, step: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {problem}; {step or 'look at the disk, then try again'}")
        self.errno = errno


class SpoolFull(SpoolError):
    """No space on the disk, or the spool's limit of `limit` bytes is reached. Nothing was stored.

    `accepted` counts the bodies of a `send_many` that were stored before, in order.
    """

    def __init__(
        self, path: str, *, limit: int | None = None, errno: int | None = None, accepted: int = 0, step: str = ""
    ) -> None:
        self.limit, self.accepted = limit, accepted
        problem = "no space on the disk" if limit is None else f"the spool is at its limit of {limit:,} bytes"
        usual = f"start consumers so that it drains, or {'free some space' if limit is None else 'raise its limit'}"
        super().__init__(path, problem, errno=errno, step=step or usual)


class SpoolLocked(SpoolError):
    """Another process uses the folder; `pid` is its number, 0 if unknown. Or another node of this one: `ours`.

    With `is_copy` it is not this folder that is used, but the one of which it is a copy. With `is_read` nobody uses
    it: somebody only looks into it, which mostly is over soon.
    """

    def __init__(
        self,
        path: str,
        pid: int,
        problem: str = "",
        *,
        what: str = "spool",
        step: str = "choose another folder",
        ours: bool = False,
        is_copy: bool = False,
        is_read: bool = False,
        stop: str = "stop it",
    ) -> None:
        self.pid, self.ours, self.is_copy, self.is_read = pid, ours, is_copy, is_read
        who = "another node of this process" if ours else f"process {pid}" if pid else "another process"
        super().__init__(path, problem or f"{who} uses this {what}", step=f"{stop}, or {step}")


class SpoolUnsafe(SpoolError, PermissionError):
    """The folder, or something in it, is not ours alone, or is a symbolic link. Nothing was touched."""

    def __init__(self, path: str, problem: str, *, step: str = "") -> None:
        super().__init__(path, problem, step=step or "choose a folder that only this user can write to (chmod 700)")


class NewerFormat(SpoolError):
    """Written by a later version of peerfabric, in format `version`. Nothing was changed."""

    def __init__(self, path: str, version: int) -> None:
        self.version = version
        super().__init__(path, f"is in format {version}, written by a later version", step="upgrade peerfabric")


class Corrupt(SpoolError):
    """What lies at `offset` of `path` is not what was written there."""

    def __init__(self, path: str, offset: int, problem: str) -> None:
        self.offset = offset
        super().__init__(path, f"{problem} at offset {offset:,}", step="restore it from a backup, or set it aside")


class RemoteProtocolError(FabricError):
    """A peer broke the protocol. The frame is dropped and counted, the node lives."""


class BadFrame(RemoteProtocolError):
    """Bytes that are not a frame of ours; `reason` says why."""


def reduced(error: Exception) -> tuple[Any, ...]:
    """How to make a copy of `error` elsewhere: by its text and attributes, not by the arguments that they came from."""
    state = dict(vars(error))
    if isinstance(error, OSError):
        state["errno"] = error.errno
    return _restored, (type(error), error.args), state


def _restored(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    error: Exception = (OSError if issubclass(kind, OSError) else Exception).__new__(kind)
    error.args = args
    return error
