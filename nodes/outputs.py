"""Outputs to one queue: what is sent there because of messages that are in hand, whose acks wait for it.

Loaded with the first of them, as programs that hand nothing on need none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Final

from peerfabric.queue.handon import KINDS, Outputs
from peerfabric.queue.runs import DEPTH_MAX

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.handler_context import Input
    from peerfabric.nodes.outbox.outbox import Outbox
    from peerfabric.queue.runs import Kind

_adding: Final = RLock()
"""Threads that a handler starts add to the outputs of one message at the same time."""
os.register_at_fork(after_in_child=_adding._at_fork_reinit)  # type: ignore[attr-defined]  # none of them is there


class OutputsTo:
    """What is sent by one producer because of messages in hand.

    Args:
        outbox: Of that producer, open.
        node: Its node.
    """

    below = KINDS[1:DEPTH_MAX]
    """By the depth of its input, the kind of an output that is not deep."""

    def __init__(self, outbox: Outbox, node: NodeContext) -> None:
        self.base = outbox.end.numbering.base
        with node.pump.lock:
            self.watch = outbox.end.open_watch(partial(node.pump.wake_soon, outbox))

    def add(self, inputs: Iterable[Input], first: int, stop: int) -> None:
        """The messages with sequences `[first, stop)` were sent because of `inputs`, and may be in memory only."""
        first, stop = self.base + first, self.base + stop
        depth = depth_below(inputs)
        for each in inputs:
            if each._outputs is None:
                each._owner.open_handon()
            with _adding:
                while not self._added(each, depth, first, stop):
                    pass

    def _added(self, to: Input, depth: int, first: int, stop: int) -> bool:
        """Add them to the outputs of one input; False: its own thread has just set the first, without the lock."""
        seen = to._outputs
        if seen is None or isinstance(seen, tuple):
            made = Outputs(depth)
            if seen is not None:
                _, _, watch, number = seen
                made.add(watch, number, number + 1)
            made.add(self.watch, first, stop)
            # No call in these two lines.
            if to._outputs is seen:
                to._outputs = made
                return True
            return False
        seen.depth = max(seen.depth, depth)
        seen.add(self.watch, first, stop)
        return True


def depth_below(inputs: Iterable[Input]) -> int:
    """How many messages before an output of `inputs` wait for it, at the most."""
    return min(1 + max(delivery.depth for each in inputs for delivery in each._deliveries), DEPTH_MAX)


def output_kind(inputs: Iterable[Input], kind: Kind | None) -> Kind | None:
    """The kind of an output of `inputs` that else would be of `kind`."""
    depth = depth_below(inputs)
    return KINDS[depth] if kind is None else (kind[0], depth)
