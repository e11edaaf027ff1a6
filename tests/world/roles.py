"""What the processes of a world are there for."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from peerfabric.options import Options
from peerfabric.queue.marks import Marks
from peerfabric.wire.frames import MSGPACK, RAW
from tests.world.themes import Theme

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.shared import Shared


SERVICES = ("s0", "s1")


class Role:
    """What a process does, so that a supervisor can start another one like it."""

    def __init__(self) -> None:
        self.consumes: list[tuple[str, float, int, int]] = []
        """(queue, lease, takers, batch size)"""
        self.produces: list[tuple[str, int]] = []
        self.hands_on: dict[str, str] = {}
        """Queue that it consumes -> queue to which it sends on."""
        self.publishes: list[str] = []
        self.subscribes: list[str] = []
        self.serves: list[tuple[str, int, int]] = []
        """(service, capacity, how many may wait)"""
        self.picky = False
        self.static = False
        """Knows peers by their endpoints only."""
        self.host = "h1"
        self.addresses = ["lan"]
        """Kinds of addresses that its processes announce between hosts, see lan.py, in this order."""
        self.local = False
        """They listen on ipc, too."""
        self.gates = [""]
        self.options = Options()
        self.spooled = self.fsync = self.overflow = self.ledger = False
        self.memory_bytes = 2**20
        self.node_id = ""
        """With a spool: the one node that all its processes are."""
        self.disk = ""
        """The name of its disk, if it has one."""
        self.shared: Shared | None = None
        """The folder in which it is a slot."""
        self.last: Process | None = None
        """With a disk: its newest process."""
        self.marks: dict[str, Marks] = {}
        """What an orderly end has left in the cursors."""


def draw_roles(theme: Theme, queues: list[str], random: Random) -> list[Role]:
    """Draw what the processes of a world do; the first of them produces, the second consumes."""
    roles = []
    for number in range(random.randrange(2, 6)):
        role = Role()
        role.host = random.choice(("h1", "h1", "h2"))
        role.static = random.random() < 0.3
        if theme.tight:
            budget = random.choice((20_000, 200_000))
            largest = 100_000 if theme.strict else random.choice((100_000, 20_000))
            role.options = Options(consumer_bytes=budget, message_bytes_max=largest)
        for queue in queues:
            both = theme.loop > 0 and random.random() < theme.loop
            if number == 0 or (random.random() < 0.3 and number != 1) or both:
                role.produces.append((queue, random.choice((RAW, MSGPACK))))
            if number == 1 or both or (not role.produces and random.random() < 0.8):
                batch = random.choice((1, 1, 10))
                lease = 4.0 if "hangs" in theme.kinds else 60.0 if theme.strict else theme.lease
                role.consumes.append((queue, lease, random.choice((1, 1, 3)), batch))
        if theme.spooled and role.produces and (not number or random.random() < theme.spooled):
            role.spooled = True
            role.fsync = random.random() < theme.fsync
            role.memory_bytes = random.choice((300, 2000, 2**20))
        if theme.overflow and role.spooled:
            role.overflow = random.random() < theme.overflow
        if theme.ledgers and role.consumes:
            role.ledger = random.random() < theme.ledgers
            role.fsync = role.fsync or (role.ledger and not role.spooled and random.random() < theme.fsync)
        role.picky = theme.picky and random.random() < 0.4
        if theme.topics:
            if random.random() < 0.6:
                role.publishes = random.sample(["a.x", "a.y", "b"], random.randrange(1, 3))
            if random.random() < 0.7:
                role.subscribes = random.sample(["a.*", "a.x", ">", "b"], random.randrange(1, 3))
        if theme.calls:
            role.serves = [
                (name, random.choice((1, 2, 16)), random.choice((0, 4, 64)))
                for name in SERVICES
                if number == 1 or random.random() < 0.6
            ]
        roles.append(role)
    return roles


def spread(theme: Theme, roles: list[Role], random: Random) -> None:
    """Put roles on hosts of a LAN: the first two on different ones."""
    hosts = random.randrange(2, 5)
    for number, role in enumerate(roles):
        at = number if number < 2 or random.random() < 0.5 else random.randrange(hosts)
        role.host = f"h{at % hosts}-{random.choice('aab')}"
        role.local = random.random() < 0.5
        role.static = random.random() < 0.4
        role.addresses = list(theme.addresses)
        if theme.shuffled:
            others = random.sample(role.addresses, random.randrange(len(role.addresses) + 1))
            role.addresses = random.sample([*others, "lan"], len(others) + 1)
        role.gates = list(theme.gates)
