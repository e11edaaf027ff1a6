"""Spool of a node that is not running, as the commands see it."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import click
import msgspec

from peerfabric.errors import BadFrame, DecodeError, SpoolError, SpoolFull, SpoolLocked
from peerfabric.nodes.cli.exits import Failure, at_the_terminal
from peerfabric.nodes.cli.output import printable
from peerfabric.nodes.epochs import epoch_counter
from peerfabric.options import Options
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter
from peerfabric.spool import Log, RealFiles, Record, Spool
from peerfabric.spool.folder import read_owner
from peerfabric.wire.bodies import Codec, split
from peerfabric.wire.frames import MSGPACK, Extra

READ_BYTES_MAX: Final = 4 * 1024 * 1024
SHORT: Final = 200
"""Characters of a body in a table; JSON output has all of it."""
_NOBODY: Final = "?"
"""The node id of a folder in which nothing says whose it is."""
_RUNNING: Final = "ask the running node: `peerfabric queues`, `peerfabric dead ls`"

_anything: Codec[Any] = Codec(Any, Options().message_bytes_max)
_extras = msgspec.msgpack.Decoder(list[Extra])
_letter = msgspec.msgpack.Decoder(DeadLetter)

folder_argument = click.argument("folder", type=click.Path(path_type=str))
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


# Opening

NO_FOLDER: Final = "there is no such folder"


@contextmanager
def looked_at(folder: str) -> Iterator[Spool]:
    """The spool in `folder`, for reading. Nothing is changed, and no node can start with it meanwhile.

    Raises:
        SpoolLocked: A node runs with it.
        SpoolError: It is no spool, not ours alone, or of a later version.
    """
    path = os.path.abspath(folder)
    try:
        spool = Spool.inspect(path)
    except SpoolLocked as error:
        problem = left_to_a_child(path)
        stop = "end that process" if problem else "stop it"
        raise SpoolLocked(path, error.pid, problem, step=_RUNNING, stop=stop) from None
    except SpoolError as error:
        if error.errno != errno.ENOENT:
            raise
        raise no_spool(path, "is no spool" if os.path.isdir(path) else NO_FOLDER) from None
    try:
        if spool.node_id == _NOBODY:
            raise no_spool(path, "is no spool")
        yield spool
    finally:
        spool.abandon()


def no_spool(path: str, problem: str) -> SpoolError:
    return SpoolError(path, problem, step="give the folder that is in Node(spool=)")


@contextmanager
def owned(folder: str, node_id: str, *, shrinks: bool = False) -> Iterator[Spool]:
    """The spool in `folder`, which `looked_at` has seen, as a node opens it: repaired, and in a new epoch.

    What is appended is synced, whatever its node does: this is done once and by a person.

    Args:
        shrinks: It is a slot other than the first, which gives back its space when nothing is in it.

    Raises:
        SpoolLocked: Somebody uses it.
        SpoolError: It is not ours alone, of a later version, or the disk refused.
    """
    path = os.path.abspath(folder)
    try:
        spool = Spool.open(
            path,
            fsync=True,
            counter_min=epoch_counter(),
            random_bits=secrets.randbits(20),
            node_id=node_id,
            shrinks=shrinks,
            unix_ms=now_ms(),
        )
    except SpoolLocked as error:
        if str(error).startswith(f"{path}: is a copy"):
            raise
        # Who only looks leaves no number in the lock: the one that is there may be of an earlier owner.
        problem = "a node that started just now uses it, or a command looks into it"
        raise SpoolLocked(path, error.pid, problem, step="wait for it") from None
    try:
        for warning in spool.warnings:
            warn(warning)
        yield spool
    except BaseException:
        with suppress(SpoolError):
            spool.close()
        raise
    spool.close()


def left_to_a_child(folder: str) -> str:
    """Why a folder is locked though the process that locked it is gone; empty: that one runs.

    A child that was forked past Python (by C code) keeps the file, and with it the lock.
    """
    try:
        owner = read_owner(RealFiles(), folder)
    except OSError:
        return ""
    if owner is None or not owner.pid or RealFiles().alive(owner.process):
        return ""
    who = " and ".join(f"process {pid} ({name})" for pid, name in _who_has(f"{folder}/lock"))
    if who:
        return f"is locked, but process {owner.pid} of `lock` is gone; a child of it has the file: {who}"
    return (
        f"is locked, but process {owner.pid} of `lock` is not to be seen here: it is in another container, or is gone "
        f"and a child of it that belongs to another user has the file"
    )


def _who_has(path: str) -> Iterator[tuple[int, str]]:
    """The processes that have a file open, as far as we may see."""
    try:
        wanted = os.stat(path)
    except OSError:
        return
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            inner = f"/proc/{name}/fd"
            if any(_is_same(f"{inner}/{descriptor}", wanted) for descriptor in os.listdir(inner)):
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    yield int(name), file.read().strip()


def _is_same(path: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), wanted)
    except OSError:
        return False


def messages_of(spool: Spool, queue: str) -> Log:
    """The messages of a queue that is there.

    Raises:
        Failure: It is not.
    """
    _check_queue(spool, queue)
    return spool.queue(queue, unix_ms=now_ms())


def dead_letters_of(spool: Spool, queue: str) -> Log:
    """The dead letters of a queue that is there.

    Raises:
        Failure: It is not.
    """
    _check_queue(spool, queue)
    return spool.dead(queue, unix_ms=now_ms())


def _check_queue(spool: Spool, queue: str) -> None:
    queues = spool.queues()
    if queue not in queues:
        raise Failure(f"{spool.folder} has no queue {queue!r}; it has: {', '.join(queues) or 'none'}")


def say_found(queue: str, log: Log) -> None:
    """Say what a log that was opened for writing has lost: after this, nobody else will be told."""
    found = log.recovery
    for epoch, first, stop in found.damaged:
        warn(f"queue {queue!r}: messages {first} to {stop - 1} of epoch {epoch} are damaged")
    for line in (*found.torn, *found.problems):
        warn(f"queue {queue!r}: {line}")


def hint_damage(queue: str, *logs: Log) -> None:
    """Say that something is wrong in logs that were only looked at."""
    if any(log.recovery.damaged or log.recovery.torn or log.recovery.problems for log in logs):
        warn(f"queue {queue!r} is damaged; `peerfabric spool verify` says where")


def settle_on_disk(log: Log) -> None:
    """Make what was settled last.

    Raises:
        SpoolError: It may be there again.
        Failure: The same, since a cursor has no room for so many gaps.
    """
    try:
        log.write_cursor(log.recovery.marks)
    except SpoolFull as full:
        step = "nothing was changed: free some space there, then run the command again"
        raise SpoolFull(full.path, errno=full.errno, step=step) from full
    if not log.cursor_complete:
        raise Failure(
            f"{log.folder}: the cursor has no room for so many single messages; some of them will be there again: "
            f"look which, and go on with the oldest"
        )
    log.compact()


# Ids


def split_id(text: str, lister: str) -> tuple[str, str, int, int]:
    """The node id, queue, epoch and sequence that an id names; `lister` is the command that shows ids.

    Raises:
        UsageError: It is no id.
    """
    stream, _, sequence = text.rpartition("/")
    node_id, _, rest = stream.rpartition(":")[0].rpartition(":")
    if not (node_id and _is_count(rest) and _is_count(sequence)):
        raise click.UsageError(f"{text[:80]!r} is no id; they look like node:epoch:queue/sequence, as {lister} shows")
    return node_id, stream.rpartition(":")[2], int(rest), int(sequence)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 17


def unsettled(log: Log) -> dict[int, Ranges]:
    """What is there and not settled, by epoch."""
    settled = log.settled_ranges()
    found: dict[int, Ranges] = {}
    for epoch, first, stop in log.recovery.extents:
        parts = settled[epoch].missing(first, stop) if epoch in settled else [(first, stop)]
        for part in parts:
            found.setdefault(epoch, Ranges()).add(*part)
    return found


# Reading


class Stored(msgspec.Struct, frozen=True):
    """One unsettled message.

    element   its body as a document of msgpack; None if the record cannot be taken apart
    frame     then, at the first message of the record, all of it
    """

    id: str
    sent_ms: int
    element: bytes | None
    extra: Extra | None
    frame: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return (self.extra.headers if self.extra is not None else None) or {}


def messages(spool: Spool, queue: str, log: Log) -> Iterator[Stored]:
    """What is not settled, oldest first."""
    for record, parts in _records(log):
        try:
            elements: list[bytes] = split(record.body, record.codec)
            extras = {e.index: e for e in (_extras.decode(record.extras) if record.extras else [])}
        except (BadFrame, msgspec.DecodeError, RecursionError):
            elements, extras = [], {}
        whole = len(elements) == record.count
        for low, high in parts:
            for sequence in range(low, high):
                at = sequence - record.first
                yield Stored(
                    f"{spool.node_id}:{record.epoch}:{queue}/{sequence}",
                    record.unix_ms,
                    elements[at] if whole else None,
                    extras.get(at),
                    b"" if whole or sequence > parts[0][0] else bytes(record.body),
                )


def oldest_ms(log: Log) -> int | None:
    """When the oldest unsettled message was stored."""
    return next((record.unix_ms for record, _ in _records(log)), None)


def letters(log: Log) -> Iterator[tuple[Record, DeadLetter]]:
    """The dead letters that were neither retried nor dropped, oldest first; their bodies are in the records."""
    for record, _ in _records(log):
        try:
            yield record, _letter.decode(record.extras)
        except (msgspec.DecodeError, RecursionError):
            continue


def _records(log: Log) -> Iterator[tuple[Record, list[tuple[int, int]]]]:
    """The records that have something unsettled, and what of each."""
    settled = log.settled_ranges()
    reader = log.reader()
    while records := reader.read(READ_BYTES_MAX):
        for record in records:
            ranges = settled.get(record.epoch)
            parts = ranges.missing(record.first, record.stop) if ranges else [(record.first, record.stop)]
            if parts:
                yield record, parts


# For people and programs


class Shown(msgspec.Struct, frozen=True):
    """A body as JSON.

    exact     it would come back the same: false for bytes, dates, NaN and other things that JSON has no word for
    problem   why there is no JSON of it; then `raw` has the bytes
    """

    json: msgspec.Raw
    size: int
    exact: bool = True
    problem: str = ""
    raw: bytes = b""

    def fields(self) -> dict[str, Any]:
        """`body`, and what must be said of it."""
        if self.problem:
            return {"body": None, "problem": self.problem, "raw": self.raw}
        return {"body": self.json} if self.exact else {"body": self.json, "exact": False}

    def short(self) -> str:
        """Its beginning, for a table."""
        if self.problem:
            return f"({printable(self.problem)})"
        text = printable(bytes(self.json).decode())
        return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def shown(element: bytes | None, frame: bytes = b"") -> Shown:
    """The body in `element`, whatever it is; None: of `frame`, which could not be taken apart."""
    if element is None:
        problem = "the record does not hold the messages that it says"
        return Shown(msgspec.Raw(b"null"), len(frame), problem=problem, raw=frame)
    try:
        body = _anything.decode_stored(element, MSGPACK)
        text = msgspec.json.encode(body, enc_hook=str)
        exact = msgspec.json.decode(text) == body
    except (DecodeError, TypeError, ValueError, RecursionError) as error:
        return Shown(msgspec.Raw(b"null"), len(element), problem=str(error) or type(error).__name__, raw=element)
    return Shown(msgspec.Raw(text), len(body) if isinstance(body, bytes) else len(element), exact)


def element_of(record: Record) -> bytes | None:
    """The body of a record of one message, as a document of msgpack."""
    try:
        elements = split(record.body, record.codec)
    except BadFrame:
        return None
    return elements[0] if len(elements) == 1 else None


def when(unix_ms: int) -> str:
    """A time for people, in UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_ms / 1000))
    except (OverflowError, ValueError, OSError):
        return str(unix_ms)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def warn(text: str) -> None:
    """Say something on standard error; where the library names methods, commands."""
    click.echo(f"peerfabric: {printable(at_the_terminal(text))}", err=True)


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before something is gone for ever.

    Raises:
        Failure: Nobody said yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("this deletes messages for ever; give --yes")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        raise KeyboardInterrupt from None
    if not agreed:
        raise Failure("nothing was changed")


def check_choice(ids: tuple[str, ...], *, everything: bool) -> None:
    """See that messages were chosen in one way.

    Raises:
        UsageError: In none, or in two.
    """
    if ids and everything:
        raise click.UsageError("ids were named, and --all was given; leave out one of the two")
    if not ids and not everything:
        raise click.UsageError("name the ids, or give --all")
