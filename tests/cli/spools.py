"""Spools as nodes would leave them, made without a node; and what is in a folder, to see that nothing changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from peerfabric.reports import DeadLetter
from peerfabric.spool import Spool
from peerfabric.wire.bodies import join
from peerfabric.wire.frames import MSGPACK, Extra

NOW = 1_795_000_000_000


def opened(folder: Path | str) -> Spool:
    return Spool.open(str(folder), random_bits=1, node_id="desk", spare=False, unix_ms=NOW)


def store_dead_letters(
    spool: Spool,
    queue: str,
    sequences: Iterable[int],
    body: bytes,
    codec: int = MSGPACK,
    error: str = "",
    epoch: int | None = None,
) -> None:
    """Dead letters, of this epoch by default, as `Store.store_dead_letters` writes them."""
    log = spool.dead(queue, unix_ms=NOW)
    epoch = epoch or spool.epoch
    for sequence in sequences:
        letter = DeadLetter(
            id=f"desk:{epoch}:{queue}/{sequence}",
            queue=queue,
            reason="rejected",
            error=error,
            attempts=2,
            deaths=0,
            data=b"",
            codec=codec,
            sent_ms=NOW,
            headers={"from": "desk"},
        )
        data, as_codec = join([body], codec)
        log.append(epoch, sequence, 1, as_codec, data, msgspec.msgpack.encode(letter), unix_ms=NOW)


def put(spool: Spool, queue: str, first: int, bodies: list[bytes], codec: int = MSGPACK, *extras: Extra) -> None:
    """Messages of this epoch, in one record; the bodies are encoded."""
    data, as_codec = join(bodies, codec)
    packed = msgspec.msgpack.encode(extras) if extras else b""
    spool.queue(queue, unix_ms=NOW).append(spool.epoch, first, len(bodies), as_codec, data, packed, unix_ms=NOW)


def content(folder: Path | str) -> dict[str, tuple[int, bytes]]:
    """Every file below `folder`, with when it was changed and what is in it."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
