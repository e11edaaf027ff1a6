"""Recording of what nodes of one fabric sent, in this process."""

from __future__ import annotations

from typing import Any, Final

from peerfabric.nodes import process
from peerfabric.nodes.aio.lifecycle import Lifecycle
from peerfabric.options import Options
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.sender import Sender
from peerfabric.wire.bodies import Codec, join

_accept: Final = Sender.accept
_recordings: list[Recording] = []


class Recording:
    """The messages that nodes of a fabric took over, from `begin` until `end`."""

    def __init__(self, fabric: str) -> None:
        self.fabric = fabric
        self._sent: dict[str, list[tuple[Codec[Any], int, list[bytes]]]] = {}

    def begin(self) -> None:
        """Record from now on. A node is no slower unless there is a recording."""
        _recordings.append(self)
        Sender.accept = _accept_recorded  # type: ignore[method-assign]

    def end(self) -> None:
        """Record no more."""
        _recordings.remove(self)
        if not _recordings:
            Sender.accept = _accept  # type: ignore[method-assign]

    def of(self, queue: str) -> list[Any]:
        """What was sent to `queue`, in order."""
        found: list[Any] = []
        for codec, number, bodies in list(self._sent.get(queue, ())):
            frame, frame_codec = join(bodies, number)
            found += codec.decode_batch(frame, frame_codec)
        return found

    def add(self, lifecycle: Lifecycle, end: OutgoingQueue, bodies: list[bytes]) -> None:
        """Record, if it is of this fabric. Called under the lock of the node's engine."""
        if lifecycle.node.settings.fabric == self.fabric:
            producer = lifecycle.handles.producers.get(end.queue)
            codec = producer.codec if producer is not None else Codec(Any, Options().message_bytes_max)
            self._sent.setdefault(end.queue, []).append((codec, codec.number, list(bodies)))


def recorded() -> set[str]:
    """The fabrics of which there is a recording now: those of tests that run."""
    return {recording.fabric for recording in _recordings}


def _accept_recorded(self: Sender, end: OutgoingQueue, bodies: list[bytes], *given: Any, **named: Any) -> None:
    _accept(self, end, bodies, *given, **named)
    for resident in process.residents():
        if isinstance(resident, Lifecycle) and resident.node.engine.producers is self:
            for recording in _recordings:
                recording.add(resident, end, bodies)
