"""A spool whose node is not running, as the commands see it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

from peerfabric.batch import split
from peerfabric.envelope import Extra
from peerfabric.errors import BadFrame
from peerfabric.nodes.async_node import EPOCH_START
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.stores import READ_BYTES_MAX, read_letters
from peerfabric.spool import Log, Record, Spool
from peerfabric.stats import DeadLetter

_extras = msgspec.msgpack.Decoder(list[Extra])
_anything = msgspec.msgpack.Decoder()

UNIX_MS: Final = 0
"""Logs that are only read need no time."""

folder_argument = click.argument("folder", type=click.Path(file_okay=True))


class Kept(msgspec.Struct, frozen=True):
    """A message in a spool that is not settled."""

    id: str
    sent_at: float
    bytes: int
    headers: dict[str, str]
    body: Any


@contextmanager
def looked_at(folder: str) -> Iterator[Spool]:
    """The spool in `folder`, of which nothing is changed.

    Raises:
        SpoolLocked: Its node runs.
        SpoolError: It is none, or cannot be used.
    """
    spool = Spool.inspect(os.path.abspath(folder))
    try:
        for warning in spool.warnings:
            click.echo(f"peerfabric: {warning}", err=True)
        yield spool
    finally:
        spool.close()


@contextmanager
def owned(folder: str) -> Iterator[Spool]:
    """The spool in `folder`, opened as its node would, to change something in it; errors as in `looked_at`."""
    with looked_at(folder):
        pass  # there is one: opening would make it
    spool = Spool.open(
        os.path.abspath(folder),
        fsync=True,
        counter_min=max(1, int(time.time()) - EPOCH_START),
        random_bits=secrets.randbits(20),
        node_id=secrets.token_hex(8),
        unix_ms=time.time_ns() // 1_000_000,
    )
    try:
        yield spool
    finally:
        spool.close()


def log_of(spool: Spool, queue: str) -> Log:
    """The log of `queue`.

    Raises:
        Failure: There is none.
    """
    if queue not in spool.queues():
        known = ", ".join(spool.queues()) or "none"
        raise Failure(f"{spool.folder} has no queue {queue!r}; it has: {known}")
    return spool.queue(queue, unix_ms=UNIX_MS)


def kept(spool: Spool, queue: str) -> Iterator[Kept]:
    """The unsettled messages of `queue`, oldest first."""
    log = log_of(spool, queue)
    settled = log.settled_ranges()
    reader = log.reader()
    while records := reader.read(READ_BYTES_MAX):
        for record in records:
            done = settled.get(record.epoch, ())
            try:
                elements = split(record.body, record.codec)
                extras = {extra.index: extra for extra in _extras.decode(record.extras)} if record.extras else {}
            except (BadFrame, msgspec.DecodeError) as error:
                click.echo(f"peerfabric: sequences {record.first}-{record.stop - 1} cannot be read: {error}", err=True)
                continue
            for index, element in enumerate(elements):
                if record.first + index not in done:
                    yield _kept(spool, queue, record, index, element, extras.get(index))


def _kept(spool: Spool, queue: str, record: Record, index: int, element: bytes, extra: Extra | None) -> Kept:
    headers = extra.headers if extra is not None and extra.headers is not None else {}
    identity = f"{spool.node_id}:{record.epoch}:{queue}/{record.first + index}"
    return Kept(identity, record.unix_ms / 1000, len(element), headers, shown(element))


def shown(document: bytes) -> Any:
    """A body whose type nobody has named, as far as it can be told."""
    try:
        return _anything.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError):
        return document


def letters(spool: Spool, queue: str | None) -> Iterator[DeadLetter]:
    """The dead letters of one queue, or of all."""
    if queue is not None:
        log_of(spool, queue)
    for name in [queue] if queue is not None else spool.queues():
        yield from read_letters(spool.dead(name, unix_ms=UNIX_MS))


def name_of(identity: str) -> tuple[str, int, int]:
    """The queue, epoch and sequence of an id.

    Raises:
        UsageError: It is none.
    """
    stream, _, sequence = identity.rpartition("/")
    parts = stream.split(":", 2)
    if len(parts) != 3 or not parts[1].isdigit() or not sequence.isdigit():
        raise click.UsageError(f"{identity!r} is no id; they look like node:epoch:queue/sequence, as `ls -o json` has")
    return parts[2], int(parts[1]), int(sequence)


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before something is gone for ever.

    Raises:
        Failure: Nobody said yes.
    """
    if not yes:
        if not os.isatty(0):
            raise Failure("this deletes messages for ever; give --yes")
        if not click.confirm(question, err=True):
            raise Failure("nothing was changed")


def when(unix_seconds: float) -> str:
    """A time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_seconds))
