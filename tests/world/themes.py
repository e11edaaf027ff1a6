"""What may happen in a world: which troubles, which messages, which kinds of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass
class Theme:
    """Which troubles a world has."""

    faults: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("ok",)
    topics: bool = False
    picky: bool = False
    closes: bool = False
    """Consumers close and reopen."""
    tight: bool = False
    """Small budgets, large bodies, sockets that refuse."""
    letters: bool = False
    loop: float = 0.0
    """How many of the nodes consume what they produce."""
    messages: int = 80
    lease: float = 8.0
    beside: bool = False
    """One queue has `kinds`, the other a message that takes ten minutes."""
    quiet_within: float = 150.0
    """Virtual seconds after healing in which everything must have become quiet."""
    strict: bool = False
    """Nothing happens that could excuse a second run."""
    spooled: float = 0.0
    """How many of the producing nodes have a spool, the first of them included."""
    fsync: float = 0.0
    """How many of those that have a disk sync."""
    overflow: float = 0.0
    """How many of those with a spool have `on_full="spool"`."""
    ledgers: float = 0.0
    """How many of the consuming nodes have ledgers."""
    reopens: bool = False
    """Producers are closed when all of theirs is settled, and opened again."""
    expiring: float = 0.0
    """How many of the messages that are sent expire, after 20 ms or some seconds."""
    shared: bool = False
    """The first of the nodes has no spool of its own: it is several, which share a folder."""
    lan: bool = False
    """There are several hosts, see lan.py."""
    addresses: tuple[str, ...] = ("lan",)
    """Kinds of addresses that nodes announce, in this order."""
    shuffled: bool = False
    """Only some of those, and that on the LAN, in any order."""
    gates: tuple[str, ...] = ("",)
    """Ids of the keys under which nodes listen and dial."""
    up_within: float = inf
    """Seconds after the last node began until all who have something in common are linked."""
    acts: tuple[str, ...] = ()
    """Faults of which there are many, half of them while nodes meet."""
    pipeline: bool = False
    """Some take from one queue and send to the next: see pipeline.py."""
    calls: tuple[str, ...] = ()
    """Kinds of calls that are made of services, besides messages."""
    sleepy: bool = False
    """Processes may take a second after they have begun to listen."""

    @property
    def is_clean(self) -> bool:
        """Nothing goes wrong, so nobody warns of anything."""
        return not (self.faults or self.acts or self.calls or self.closes) and set(self.kinds) <= {"ok", "slow"}


THEMES = {
    "calm": Theme(strict=True, kinds=("ok", "ok", "slow"), loop=0.2),
    "cuts": Theme(faults=("cut", "cut", "cut", "flap"), strict=True, kinds=("ok", "ok", "slow")),
    "tight": Theme(faults=("cut", "late"), strict=True, tight=True, loop=0.2),
    "deaths": Theme(faults=("kill", "kill", "kill", "reborn", "usurp", "cut")),
    "silence": Theme(
        faults=("vanish", "stop", "stall", "one-way", "late", "cut"), kinds=("ok",) * 8 + ("slow",) * 4 + ("long",)
    ),
    "hung": Theme(faults=("stop", "stop", "stop", "late"), kinds=("ok",) * 30 + ("slow",), lease=3.0, messages=300),
    "firewall": Theme(faults=("refuse", "cut", "stall"), kinds=("ok", "slow")),
    "handlers": Theme(
        kinds=("ok", "ok", "slow", "fails twice", "fails", "rejected", "misfit", "let go", "hangs"),
        picky=True,
        closes=True,
        letters=True,
        loop=0.2,
    ),
    "poison": Theme(kinds=("ok",) * 20 + ("poison",), messages=40),
    "beside": Theme(kinds=("ok",) * 4 + ("poison",), messages=8, beside=True, lease=2000.0, quiet_within=4000.0),
    "leaving": Theme(faults=("leave", "leave", "cut"), closes=True, reopens=True, strict=True),
    "topics": Theme(faults=("cut", "kill", "stall", "vanish"), topics=True, messages=10),
    "services": Theme(
        faults=("kill", "kill", "reborn", "cut", "cut", "flap", "stop", "late", "stall", "vanish", "leave"),
        calls=("ok",) * 8
        + ("slow", "slow", "long", "fails", "stream", "stream", "unread", "cancelled", "asks", "asks"),
        messages=10,
    ),
    "cut services": Theme(
        faults=("cut",), acts=("cut",) * 20 + ("flap",), calls=("ok",) * 8 + ("slow",) * 8 + ("cancelled",), messages=5
    ),
    "asking services": Theme(calls=("ok", "asks", "asks"), messages=2),
    "stopped services": Theme(
        faults=("stop", "late"),
        acts=("stop", "stop", "late", "late"),
        calls=("ok",) * 4 + ("slow", "slow", "long", "long", "cancelled", "cancelled"),
        messages=5,
    ),
    "deadly calls": Theme(calls=("ok",) * 10 + ("deadly",), messages=2),
    "everything": Theme(
        faults=("kill", "reborn", "usurp", "vanish", "stop", "stall", "one-way", "refuse", "late", "cut", "leave"),
        kinds=("ok",) * 8 + ("slow", "fails twice", "fails", "rejected", "misfit", "let go", "hangs"),
        topics=True,
        closes=True,
        tight=True,
        picky=True,
        letters=True,
        loop=0.2,
    ),
    "operators": Theme(
        faults=("pause", "pause", "pause", "purge", "cut"),
        acts=("pause",) * 12 + ("purge",) * 2,
        strict=True,
        kinds=("ok",) * 6 + ("slow",),
        loop=0.2,
        closes=True,
    ),
    "expiry": Theme(
        faults=("cut", "cut", "kill", "stop", "stall", "late"),
        kinds=("ok",) * 8 + ("slow",) * 4 + ("fails twice", "fails", "fails", "rejected", "misfit", "let go"),
        picky=True,
        closes=True,
        letters=True,
        loop=0.2,
        reopens=True,
        expiring=0.7,
    ),
    "disk": Theme(
        faults=("crash", "crash", "kill", "cut", "leave", "slow disk"),
        kinds=("ok", "ok", "slow"),
        loop=0.2,
        spooled=0.8,
        fsync=0.3,
    ),
    "purged disks": Theme(
        faults=("purge", "purge", "purge", "pause", "pause", "crash", "kill", "cut", "leave", "slow disk"),
        kinds=("ok",) * 6 + ("slow", "slow", "fails twice", "rejected"),
        loop=0.2,
        spooled=0.9,
        fsync=0.3,
        overflow=0.2,
    ),
    "power": Theme(
        faults=("power", "power", "outage", "crash", "crash", "cut", "slow disk"),
        kinds=("ok",) * 5 + ("slow", "slow", "rejected"),
        spooled=0.8,
        fsync=0.7,
    ),
    "faults": Theme(
        faults=("io", "io", "short", "full", "crash", "kill", "cut", "stall"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails"),
        loop=0.2,
        spooled=0.8,
        fsync=0.5,
    ),
    "graves": Theme(
        faults=("crash", "kill", "io", "full", "no graves", "no graves", "leave", "leave"),
        kinds=("ok",) * 12 + ("slow", "fails twice", "fails", "rejected", "misfit", "poison"),
        picky=True,
        letters=True,
        spooled=0.9,
        fsync=0.3,
        messages=60,
    ),
    "relapses": Theme(
        faults=("relapse", "relapse", "cut", "slow disk"),
        kinds=("ok",) * 5 + ("slow", "slow", "long", "fails"),
        spooled=1.0,
        fsync=0.3,
    ),
    "suicides": Theme(
        faults=("cut", "slow disk", "slow disk"),
        kinds=("ok",) * 12 + ("slow", "fails twice", "poison"),
        loop=0.8,
        spooled=1.0,
        fsync=0.3,
        messages=40,
    ),
    "overflow": Theme(
        faults=("leave", "leave", "leave", "crash", "kill", "cut", "full", "power"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails"),
        closes=True,
        spooled=1.0,
        fsync=0.4,
        overflow=0.9,
    ),
    "stale": Theme(
        faults=("crash", "crash", "kill", "cut", "slow disk", "power"),
        kinds=("ok",) * 8 + ("slow",) * 4 + ("fails", "rejected", "poison"),
        letters=True,
        loop=0.2,
        spooled=1.0,
        fsync=0.4,
        overflow=0.3,
        expiring=0.6,
        messages=60,
    ),
    "ledgers": Theme(
        faults=("unheard",) * 5
        + ("kill", "crash", "crash", "relapse", "cut", "leave", "io", "short", "full", "power", "outage"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails", "rejected"),
        loop=0.2,
        spooled=0.7,
        fsync=0.5,
        ledgers=0.9,
    ),
    "pipeline": Theme(
        faults=("kill", "kill", "kill", "reborn", "cut", "cut", "leave", "vanish", "stop", "flap"),
        kinds=("ok",) * 10 + ("slow", "slow", "fails twice", "hangs"),
        pipeline=True,
        messages=40,
    ),
    "spooled pipeline": Theme(
        faults=("kill", "crash", "crash", "cut", "leave", "slow disk"),
        kinds=("ok",) * 10 + ("slow", "slow", "fails twice"),
        pipeline=True,
        messages=40,
        spooled=0.5,
    ),
    "adoption": Theme(
        faults=("kill",) * 4 + ("crash", "crash", "leave", "leave", "stop", "cut", "slow disk"),
        acts=("kill",) * 6 + ("crash", "leave"),
        kinds=("ok",) * 5 + ("slow",) * 6 + ("fails", "rejected"),
        shared=True,
        fsync=0.3,
        quiet_within=400.0,
    ),
    # Several hosts
    "docker": Theme(
        kinds=("ok", "ok", "slow"),
        lan=True,
        strict=True,
        addresses=("docker", "docker 2", "docker 3", "lan"),
        up_within=1.5,
        messages=40,
    ),
    "addresses": Theme(
        faults=("cut", "cut", "rumour", "rumour"),
        kinds=("ok", "ok", "slow"),
        lan=True,
        strict=True,
        addresses=("docker", "dead", "closed", "proxy"),
        shuffled=True,
        up_within=10.0,
    ),
    "cables": Theme(
        faults=("cable", "cable", "deaf", "mute", "flapping", "cut", "late", "kill"),
        kinds=("ok",) * 6 + ("slow", "slow", "long"),
        lan=True,
        lease=60.0,
    ),
    "wires": Theme(faults=("wire", "wire", "wire", "cut"), kinds=("ok", "ok", "slow", "long"), lan=True, lease=60.0),
    "rejects": Theme(
        faults=("reject", "reject", "reject wire", "cut", "kill"), kinds=("ok", "ok", "slow"), lan=True, lease=60.0
    ),
    "moves": Theme(
        faults=("move", "move", "move", "cut", "kill", "reborn"),
        kinds=("ok", "ok", "slow"),
        lan=True,
        lease=60.0,
        topics=True,
    ),
    "lost hosts": Theme(
        faults=("lose host", "lose host", "stop", "kill", "cut"),
        kinds=("ok", "ok", "slow", "long"),
        lan=True,
        lease=60.0,
        topics=True,
    ),
    "secrets": Theme(
        faults=("rotate", "rotate", "cut"),
        kinds=("ok", "ok", "slow"),
        lan=True,
        lease=60.0,
        strict=True,
        addresses=("docker",),
        shuffled=True,
        gates=("k1",),
        topics=True,
    ),
    "liars": Theme(
        faults=("cut",),
        acts=("lie",) * 60,
        sleepy=True,
        kinds=("ok", "ok", "slow"),
        lan=True,
        lease=60.0,
        strict=True,
        gates=("k1",),
    ),
    "revoked": Theme(
        faults=("revoke", "revoke", "cut", "kill"), kinds=("ok", "ok", "slow"), lan=True, lease=60.0, gates=("k1",)
    ),
    "copies": Theme(faults=("copy", "copy", "cut"), kinds=("ok", "ok", "slow"), lan=True, lease=60.0, gates=("k1",)),
    "hosts": Theme(
        faults=(
            *("cable", "deaf", "mute", "flapping", "wire", "reject", "reject wire", "move", "lose host", "rumour"),
            *("stop", "late", "cut", "kill", "reborn", "leave", "revoke"),
        ),
        kinds=("ok",) * 8 + ("slow", "slow", "fails twice", "rejected"),
        lan=True,
        lease=60.0,
        addresses=("docker", "dead", "closed", "proxy"),
        shuffled=True,
        gates=("k1",),
        topics=True,
        tight=True,
    ),
}

LAN_THEMES = tuple(name for name, theme in THEMES.items() if theme.lan)
DISK_THEMES = tuple(name for name, theme in THEMES.items() if theme.spooled or theme.shared)
CALL_THEMES = tuple(name for name, theme in THEMES.items() if theme.calls)
VOLATILE_THEMES = tuple(name for name in THEMES if name not in (*LAN_THEMES, *DISK_THEMES, *CALL_THEMES))
