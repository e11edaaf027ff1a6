"""A member that lies: it has the secret, a key of its own, and knows everything but the keys of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from peerfabric.wire.frames import (
    IDLE,
    LEAVING,
    MAGIC,
    NOT_ME,
    OTHER_FABRIC,
    SUPERSEDED,
    TOO_MANY_PEERS,
    UNWELCOME,
    VERSION,
    Ack,
    Address,
    Bye,
    Drain,
    Hello,
    Interest,
    Ping,
    Pong,
    Release,
    Result,
    encode_frame,
)

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.world import World

LIAR = "liar"
"""The node id that its key proves."""


class Liar:
    """Sends to anybody what it likes."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self._epoch = 1000 << 20

    def lie(self, victim: Process, about: Process) -> None:
        """Tell the victim something that is not true about somebody else."""
        lie = self.random.choice((self._impersonate, self._occupy, self._part, self._inject))

        def read(now: float) -> None:
            for frame in lie(victim, about):
                victim.engine.handle_frames([encode_frame(frame)], now, LIAR)

        victim.post(read)

    def _hello(self, address: Address, to: str, mine: int, yours: int) -> Hello:
        return Hello(MAGIC, VERSION, "world", to, address, mine, yours, False, 2**20 + 1024, [])

    def _impersonate(self, victim: Process, about: Process) -> list[Hello]:
        """HELLO in the name of another, of this life or a later one, that listens at other endpoints."""
        self.world.log(f"the liar says hello to {victim.peer} as {about.peer}")
        address = about.address
        if self.random.random() < 0.5:
            address = msgspec.structs.replace(address, epoch=address.epoch + (1 << 20))
        if self.random.random() < 0.5:
            address = msgspec.structs.replace(address, inbox=["tcp://10.8.0.250:7700"], version=address.version + 1)
        known = victim.engine.links.by_peer.get(about.peer)
        mine = self.random.randrange(2**31) if known is None else known.theirs + self.random.randrange(2)
        yours = 0 if known is None else known.mine + self.random.randrange(2)
        return [self._hello(address, victim.address.node_id, mine, yours)]

    def _occupy(self, victim: Process, about: Process) -> list[Hello]:
        """HELLO in its own name, with the endpoints of another."""
        self.world.log(f"the liar says hello to {victim.peer} from the endpoints of {about.peer}")
        self._epoch += 1 << 20
        inbox, outbox = about.address.inbox, about.address.outbox
        host = self.random.choice((about.address.host, victim.address.host, "h9-a"))
        address = Address(LIAR, self._epoch, LIAR, host, inbox, outbox, about.address.outbox_key)
        known = victim.engine.links.by_peer.get(about.peer)
        yours = 0 if known is None or self.random.random() < 0.5 else known.mine
        to = self.random.choice(("", victim.address.node_id, about.address.node_id))
        return [self._hello(address, to, self.random.randrange(2**31), yours)]

    def _part(self, victim: Process, about: Process) -> list[Bye]:
        """A refusal in the name of another."""
        self.world.log(f"the liar refuses {victim.peer} in the name of {about.peer}")
        reason = self.random.choice((LEAVING, IDLE, OTHER_FABRIC, TOO_MANY_PEERS, UNWELCOME, SUPERSEDED, NOT_ME))
        return [Bye(bytes(8), 0, 0, about.address.node_id, reason)]

    def _inject(self, victim: Process, about: Process) -> list[Ack | Bye | Drain | Interest | Ping | Pong | Release]:
        """A frame under the link id of two others, with the right number."""
        link = victim.engine.links.by_peer.get(about.peer)
        if link is None or not link.up:
            return []
        self.world.log(f"the liar injects into the link of {victim.peer} and {about.peer}")
        head = (link.in_id, link.in_number + self.random.choice((1, 1, 1, 2)), link.out_number)
        kind = self.random.randrange(7)
        streams = [producer.end.stream for producer in victim.producers.values()]
        queues = list(victim.producers)
        if kind == 0 and streams:
            return [Ack(*head, 10**6, [Result(streams[0], queues[0], [1, 1000], [], [])], [])]
        if kind == 1:
            return [Bye(*head, about.address.node_id, LEAVING)]
        if kind == 2:
            return [Drain(*head)]
        if kind == 3:
            return [Interest(*head, 10**6, [], [], [], [])]
        if kind == 4:
            return [Ping(*head, 1.0, 0, [])]
        if kind == 5:
            return [Release(*head, [], [])]
        return [Pong(*head, 1.0)]
