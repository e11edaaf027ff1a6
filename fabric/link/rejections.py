"""Rejected nodes: each is told why by a BYE, once in a while, on a wire that is opened for that."""

from __future__ import annotations

from math import inf
from typing import Final

from peerfabric.wire.frames import NOT_ME, SUPERSEDED, Address, Bye, encode_frame

REJECTED_FOR: Final = 30.0
"""How long a node that was rejected, or rejects us, is neither dialled nor told again."""
MISLED_FOR: Final = 1.0
"""How long a node is not told again that its hello was for another one."""
REJECTIONS_MAX: Final = 64
"""Wires at one time for those whom we do not talk to; a crowd of them is told one after another, or not at all."""
PATIENCE: Final = 1.0
"""How long it is tried to say goodbye."""
REMNANT: Final = 0.5
"""How long a wire stays open after the last BYE, so that it leaves."""


class Rejections:
    """Wires on which a BYE is all that is said.

    Args:
        node_id: Of this node.
        peers_max: So many rejected nodes are remembered.
    """

    def __init__(self, node_id: str, peers_max: int) -> None:
        self._node_id, self._peers_max = node_id, peers_max
        self.wires: dict[int, tuple[Bye | None, float]] = {}
        """Wire -> (what to say, when it closes); None once it was said."""
        self._rejected_until: dict[str, float] = {}

    def __contains__(self, wire: int) -> bool:
        return wire in self.wires

    def is_rejected(self, node_id: str, now: float) -> bool:
        """Whether the node need not hear of us again yet."""
        return self._rejected_until.get(node_id, -inf) > now

    def reject(self, node_id: str, now: float, for_: float = REJECTED_FOR) -> None:
        """There is nothing to talk about with the node for a while."""
        if len(self._rejected_until) >= self._peers_max:
            self._rejected_until = {n: until for n, until in self._rejected_until.items() if until > now}
            if len(self._rejected_until) >= self._peers_max:
                self._rejected_until.clear()  # then each of them may be answered once more
        self._rejected_until[node_id] = now + for_

    def begin(self, wire: int, address: Address, reason: int, now: float, half: int = 0) -> bool:
        """Tell the node `reason` on a new wire; False: it was told a while ago, or too many are told now.

        What a node is told of one of its lives, or of a hello that was for another, ends no talk with it.
        """
        key = address.node_id
        if reason in (SUPERSEDED, NOT_ME):
            key = f"{key}:{address.epoch}:{reason}"
        if self.is_rejected(key, now) or len(self.wires) >= REJECTIONS_MAX:
            return False
        self.reject(key, now, MISLED_FOR if reason == NOT_ME else REJECTED_FOR)
        self.wires[wire] = (self.bye(reason, half), now + PATIENCE)
        return True

    def bye(self, reason: int, half: int = 0) -> Bye:
        """A BYE of no life: its link id has 4 zero bytes, then the half of the hello that it answers, or 4 more."""
        return Bye(bytes(4) + half.to_bytes(4, "big"), 0, 0, self._node_id, reason)

    def frames(self) -> list[tuple[int, list[bytes]]]:
        """BYEs, repeated until the wire takes them or its time is over."""
        return [(wire, [encode_frame(bye)]) for wire, (bye, _) in self.wires.items() if bye is not None]

    def sent(self, wire: int, now: float) -> None:
        """The BYE left; the wire closes shortly after."""
        self.wires[wire] = (None, now + REMNANT)

    def end(self, wire: int) -> bool:
        """The wire is to be closed; whether it was one of these."""
        return self.wires.pop(wire, None) is not None

    def over(self, now: float) -> list[int]:
        """The wires whose time has come."""
        return [wire for wire, (_, until) in self.wires.items() if until <= now]

    def deadline(self) -> float:
        """When the next one closes; inf if there is none."""
        return min((until for _, until in self.wires.values()), default=inf)
