"""A link: everything between us and one peer, over all its lives.

    hello     only HELLO flows, repeated until each side knows the other's half
    up        numbered frames flow under the link id; the first is INTEREST
    ended     our connection dropped, or a frame was missing: a new, larger half, and hello again

A life of the link is named by both halves. Frames of another life are strangers and are dropped, since
ZeroMQ may deliver the old ones after the first new one. Invariants, see `check()`:

    up => the peer's `yours` = our `mine`;  received numbers = 1..in_number;  echoed <= out_number
"""

from __future__ import annotations

import struct
from collections import deque
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from peerfabric.link.commands import Outcome
from peerfabric.link.endpoints import Door
from peerfabric.link.liveness import FENCE, FENCE_STEP, SILENCE, VANISHED_AFTER, ping_due, silent_since
from peerfabric.link.sending import Sending, Sent
from peerfabric.reports import PeerView
from peerfabric.wire.frames import Address, Hello, Interest

HELLO_FIRST: Final = 0.1
HELLO_MAX: Final = 1.0
HELLO_PATIENCE: Final = 1.0
"""So long after it was connected the next endpoint is tried if no hello has answered ours; doubled with each round."""
HELLO_PATIENCE_MAX: Final = 8.0
DOORS_REMEMBERED: Final = 32
PIPE_BYTES_MIN: Final = 256 * 1024
PIPE_SECONDS: Final = 0.25
PIPE_FRAMES_MAX: Final = 64
CALLS_FOR: Final = 1.0
"""For so long after a call DATA keeps its pipe short: calls go behind what is in it."""
CALLS_PIPE_BYTES_MIN: Final = 64 * 1024
CALLS_PIPE_SECONDS: Final = 0.02
ECHO_DELAY: Final = 0.005
"""An echo waits this long for an ACK to travel with, unless much is unechoed."""
ECHO_FRAMES: Final = 8
ECHO_SECONDS: Final = 0.01
"""Much is unechoed when it is what arrives in so many seconds: a small part of what the pipe may hold."""
RATE_PERIOD: Final = 0.01
"""Rates are measured over so long: more than an echo may be delayed, or it is the delay that is measured, and little,
since until the first measurement only PIPE_BYTES_MIN are on their way, which is one large body at a time."""
REFUSED_TWICE_AFTER: Final = 0.05
REFUSED_FAR_AFTER: Final = 2.6
"""The inbox of a peer on another host refuses: that proves something only so long after the last that was heard of it,
as a firewall may refuse in its name, and by then its fence has ended."""
HUNG_FAR_MAX: Final = 30.0
"""A peer on another host is hung for so long: something else may accept in its name."""
ASKED_MAX: Final = 64
"""PINGs that are remembered until they are echoed."""


class Belief(Enum):
    """What we believe of the peer behind a link."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # disconnected or silent, being probed
    HUNG = "hung"  # its inbox accepts, it does not answer


class Link:
    """State of one link; `wire` names our connection to the peer's inbox.

    `address` is None until a peer that was only known by its endpoint has said hello. `due` takes the link when its
    first DATA after a while makes a PING due.
    """

    def __init__(
        self,
        wire: int,
        half: int,
        now: float,
        address: Address | None = None,
        due: dict[Link, None] | None = None,
    ) -> None:
        self._due = due if due is not None else {}
        """Links that may have something to say: shared by all of them."""
        self.wire = wire
        self.meet(address)
        self.doors: list[Door] = []
        """Where to dial the peer, best first."""
        self.door = Door("")
        """Where it is dialled."""
        self.confirmed: Door | None = None
        """Where a hello of the peer has last answered ours."""
        self.unlisted: Door | None = None
        """Where it was met though it does not name that endpoint: something forwards to it."""
        self.strangers: set[str] = set()
        """Endpoints at which another node was met instead of the peer."""
        self._said: dict[int, Door] = {}
        """Half -> the door at which it was told in a hello; the newest."""
        self._led_by = 0
        """The half by which the peer has last told which door leads to it."""
        self.sender = ""
        """The node id that the key behind its hello has proven; empty over ipc, and in the clear."""
        self.answer_by = inf
        """When the next door is tried, if no hello has answered ours at this one."""
        self.patience = HELLO_PATIENCE
        self.connected = False
        self.dialling = False
        """An attempt to connect is under way; its outcome will be reported."""
        self._name(half, 0)
        self.ended_id = b""
        """The link id of the frames that were accepted in the last life that was up, if it has ended."""
        self.up = False
        self.frame_bytes_max = 0
        self.opened_at = now
        self.down_at = now
        """Since when the link is not up, if it is not."""
        self.met = False
        """The peer has said hello on this link, in whatever life."""
        self.stray_at = -inf
        """When frames of another life may be answered by a HELLO again."""
        # hello
        self.hello_at = inf
        self.hello_wait = HELLO_FIRST
        self.introduced = False
        """A HELLO of the peer arrived in this life, so it reaches us."""
        # numbers
        self.out_number = self.in_number = 0
        self.echoed = 0
        self.echo_sent = 0
        self.echo_at = inf
        self.unread_bytes = 0
        # pipe
        self.unechoed: deque[Sent] = deque()
        self.unechoed_bytes = 0
        self.lost: list[Sent] = []
        """DATA that was not echoed when the peer renewed the link: the first that it does not have may be why."""
        self.kept: list[bytes] | None = None
        """The one frame that the socket did not take; it goes first once the wire is writable."""
        self.unsent: list[bytes] | None = None
        """The same in the last life, if that has ended before the socket took it."""
        self.calls_until = -inf
        """Until when calls go over this link, by what was last heard."""
        self.rate = 0.0
        self._rate_bytes = self._in_rate_bytes = 0
        self._rate_at = self._in_rate_at = now
        self._in_rate = 0.0
        # belief
        self.belief = Belief.ALIVE
        self.heard_at = now
        """When its last numbered frame came."""
        self.told_at = now
        """When the last of those came that we may have echoed, in any life: the fence of the peer may stand on that."""
        self.hello_heard_at = -inf
        self.suspect_at = inf
        self.hung_at = inf
        """Since when it is hung, if it is."""
        self._gives_up_at = inf
        self.refusals = 0
        self.refused_at = -inf
        self._is_fresh = False
        """It was dialled anew since it is suspect."""
        self.probe_at = inf
        self.probing = False
        # liveness
        self.busy = False
        """Either side may hold messages of the other; set by DATA, and looked into when a PING would be due."""
        self.evidence = -inf
        self.fence = -inf
        """Until when messages of the peer may be started: the evidence, in steps, and FENCE."""
        self._mark, self._mark_at = 1, now
        """Frames from this number on left at this time or later: one sample of evidence at a time."""
        self._asked: deque[tuple[int, float]] = deque()
        """(number, time) of PINGs that are not echoed yet."""
        self.asked_at = inf
        """Since when the peer owes us an echo, if it does."""
        self._excused_at = -inf
        self.pinged_at = -inf
        self.jitter = 0.5
        """Of the period of idle PINGs, drawn anew for each, in [0, 1)."""
        self.ping_at = inf
        # what both sides want
        self.their_interest: Interest | None = None
        self.sending = Sending()
        self.ack_number = 0
        self.draining = False
        """The peer asked for no new DATA."""
        self.close_at = inf
        self.outbound: deque[list[bytes]] = deque()
        """Numbered control frames that have not left yet, in order."""

    # Who

    def meet(self, address: Address | None) -> None:
        """The peer behind this link is at `address`; None: only its endpoint is known."""
        self.address = address
        self.node_id = address.node_id if address is not None else ""
        self.peer = f"{address.node_id}:{address.epoch}" if address is not None else ""
        """Names the peer's process: a node in one epoch."""

    @property
    def name(self) -> str:
        return (self.address.name or self.address.node_id) if self.address is not None else self.endpoint

    @property
    def was_up(self) -> bool:
        """Whether the link was ever up. Before that the peer holds nothing of ours, and nobody need judge it."""
        return self.confirmed is not None

    @property
    def probed_at(self) -> str:
        """Where it is looked whether the peer still listens: only where it was met can that prove something."""
        return self.confirmed.endpoint if self.confirmed is not None else ""

    @property
    def endpoint(self) -> str:
        """Where the peer is dialled; empty if it is not."""
        return self.door.endpoint

    # Where

    def dials(self, door: Door) -> None:
        """The peer is being dialled there."""
        self.door, self.connected, self.dialling, self.answer_by = door, False, True, inf

    def reached(self, now: float) -> None:
        """There is a connection: at a door where the peer was not met yet it has some time to answer our hello."""
        self.connected, self.dialling = True, False
        self.answer_by = inf if self.door == self.confirmed else now + self.patience
        self.hello_at = now

    def unplugged(self, *, again: bool) -> None:
        """There is no connection any more; with `again` the socket tries once more by itself."""
        self.connected, self.dialling, self.answer_by = False, again, inf

    def answered_by_nobody(self) -> None:
        """There is no other door to try: the peer may take its time."""
        self.answer_by = inf

    def went_round(self) -> None:
        """All doors were tried: each gets more time."""
        self.patience = min(HELLO_PATIENCE_MAX, 2 * self.patience)

    def _name(self, mine: int, theirs: int) -> None:
        """The present life has these halves."""
        self.mine, self.theirs = mine, theirs
        self.out_id = struct.pack(">II", mine, theirs)
        """The link id in frames that we send."""
        self.in_id = struct.pack(">II", theirs, mine)
        """The link id in frames that we accept."""

    # Hello

    def restart(self, half: int, now: float) -> None:
        """End this life: `half`, a larger one, is ours from now on; say hello as soon as the wire carries it."""
        self._new_life(now)
        self._name(half, 0)
        self.hello_wait = HELLO_FIRST
        self.hello_at = now if self.connected else inf

    def end(self) -> None:
        """The peer will not answer any more; the wire may still carry a last frame."""
        self.hello_at = self.probe_at = self.ping_at = self.asked_at = inf
        self.belief = Belief.ALIVE
        self.up = False
        self.out_number = self.in_number = self.echoed = self.echo_sent = 0
        self.unechoed.clear()
        self.unechoed_bytes = 0

    def _new_life(self, now: float) -> None:
        if self.up:
            self.down_at = min(now, self.asked_at)  # what it owed us in this life it owes us still
        self.up = False
        self.introduced = False
        self.out_number = self.in_number = self.echoed = self.echo_sent = 0
        self.echo_at = inf
        self.unread_bytes = 0
        if self.unechoed:
            self.lost = list(self.unechoed) if self.connected else []
        self.unechoed.clear()
        self.unechoed_bytes = 0
        self.unsent, self.kept = self.kept or self.unsent, None
        self.outbound.clear()
        self.sending = Sending()
        self.their_interest = None
        self.ping_at = inf
        self.draining = False
        self.busy = False
        self.evidence = self.fence = self.pinged_at = -inf
        self._mark, self._mark_at = 1, now
        self._asked.clear()
        self.asked_at = inf
        self._rate_at, self._rate_bytes = now, 0
        self._in_rate_at, self._in_rate_bytes, self._in_rate = now, 0, 0.0

    def hello_sent(self, now: float) -> None:
        """A HELLO left; when to repeat it if it is not answered."""
        if self.mine not in self._said:
            self._said[self.mine] = self.door
            if len(self._said) > DOORS_REMEMBERED:
                del self._said[next(iter(self._said))]
        self.hello_at = now + self.hello_wait if not self.up or self.belief is not Belief.ALIVE else inf
        self.hello_wait = min(HELLO_MAX, self.hello_wait * 2)

    def receive_hello(self, hello: Hello, now: float) -> tuple[bool, bool, bool]:
        """A HELLO of this link's peer arrived.

        Returns:
            Whether the life before this ended, whether the link is up now and was not before, and whether
            the peer needs a HELLO of ours.
        """
        if hello.mine < self.theirs:
            return False, False, False
        self.hello_heard_at = now
        if not self.up or hello.mine > self.theirs:
            self._alive(now)
        ended = hello.mine > self.theirs and self.theirs != 0
        if hello.mine > self.theirs:
            self._new_life(now)
            self._name(self.mine, hello.mine)
        self.introduced = self.met = True
        self.frame_bytes_max = hello.frame_bytes_max
        came_up = False
        if hello.yours == self.mine and not self.up:
            self.up = came_up = True
            self.confirmed = self.door
            self.answer_by, self.patience = inf, HELLO_PATIENCE
            self.strangers.clear()
            self.hello_at = inf
            self.hello_wait = HELLO_FIRST
            self.busy = True  # until a look finds that neither holds anything of the other
            self.ping_at = -inf
        return ended, came_up, not hello.welcome

    def leads(self, hello: Hello) -> Door | None:
        """The door that leads to the peer, if it has just told so, and is not the one that is dialled now.

        It names a half that was told at that door, before others were tried. That counts once.
        """
        door = self._said.get(hello.yours)
        if door is None or hello.yours <= self._led_by or self.up:
            return None
        self._led_by = hello.yours
        return door if door != self.door and door in self.doors else None

    def plan_hello(self, at: float) -> None:
        """HELLO is due at that time, if the wire has a connection then."""
        self.hello_at = at

    # Frames

    def next_number(self) -> int:
        """The number of the frame that is being made."""
        self.out_number += 1
        self.echo_sent = self.in_number
        self.told_at = self.heard_at
        self.echo_at = inf
        self.unread_bytes = 0
        return self.out_number

    def accept(self, number: int, echo: int, size: int, now: float) -> bool:
        """Take note of an arriving frame; False if one is missing or repeated, which ends this life."""
        if number != self.in_number + 1 or echo > self.out_number:
            return False
        self.in_number = number
        self.unread_bytes += size
        self._in_rate_bytes += size
        self.heard_at = now
        if self._mark > self.out_number:
            self._mark_at = now  # nothing has left since the last sample of evidence
        return True

    def told(self, interest: Interest) -> None:
        """The peer told its interest."""
        self.their_interest = interest

    def extend_fence(self) -> bool:
        """Whether there is newer evidence, by a step at least: until when messages of the peer may be started."""
        if self.evidence + FENCE - FENCE_STEP <= self.fence:
            return False
        self.fence = self.evidence + FENCE
        return True

    def next_ack(self) -> int:
        """The number of the ACK that is being made, or of the INTEREST that counts as one."""
        self.ack_number += 1
        return self.ack_number

    def data_received(self, now: float, *, call: bool = False) -> None:
        """DATA, or what belongs to a call, wants an echo soon, so that the peer's pipe limit moves on."""
        if call:
            self.calls_until = now + CALLS_FOR
        if not self.busy:
            self._ask_at_once()
        elapsed = now - self._in_rate_at
        if elapsed >= RATE_PERIOD:
            self._in_rate = self._in_rate_bytes / elapsed
            self._in_rate_at, self._in_rate_bytes = now, 0
        enough = max(PIPE_BYTES_MIN // 2, ECHO_SECONDS * self._in_rate)
        much = self.in_number - self.echo_sent >= ECHO_FRAMES or self.unread_bytes >= enough
        self.echo_at = now if much else min(self.echo_at, now + ECHO_DELAY)

    def echo_soon(self, now: float) -> None:
        """What has come wants an echo, if nothing takes one along."""
        self.echo_at = min(self.echo_at, now + ECHO_DELAY)

    def take_echo(self, echo: int, now: float) -> list[Sent]:
        """The peer has received our frames up to `echo`, a new one; return the DATA frames among them."""
        self.echoed = echo
        if echo >= self._mark:
            self.evidence = max(self.evidence, self._mark_at)
            self._mark, self._mark_at = self.out_number + 1, now
        if self._asked and self._asked[0][0] <= echo:
            while self._asked and self._asked[0][0] <= echo:
                self.evidence = max(self.evidence, self._asked.popleft()[1])
            self.asked_at = silent_since(self._asked[0][1], self._excused_at) if self._asked else inf
        if self.belief is not Belief.ALIVE:
            self._alive(now)
        echoed = []
        while self.unechoed and self.unechoed[0].number <= echo:
            sent = self.unechoed.popleft()
            self.unechoed_bytes -= sent.size
            self._rate_bytes += sent.size
            if sent.queue:  # else it is of calls
                echoed.append(sent)
        elapsed = now - self._rate_at
        if elapsed >= RATE_PERIOD:
            measured = self._rate_bytes / elapsed
            self.rate = measured if measured > self.rate else 0.7 * self.rate + 0.3 * measured
            self._rate_at, self._rate_bytes = now, 0
        return echoed

    def data_sent(self, sent: Sent) -> None:
        """A DATA frame was numbered; it counts against the pipe until it is echoed."""
        if not self.busy:
            self._ask_at_once()
        assert self.unechoed_bytes <= self._pipe_max(), "DATA behind a full pipe"
        self.unechoed.append(sent)
        self.unechoed_bytes += sent.size

    def has_room(self) -> bool:
        """Whether another DATA frame may be made: control must never wait seconds behind data, and what is sent again
        must come behind the RELEASE of the copy that is held there."""
        return (
            self.up
            and self.kept is None
            and not self.outbound
            and not self.sending.releases
            and self.belief is Belief.ALIVE
            and not self.draining
            and len(self.unechoed) < PIPE_FRAMES_MAX
            and self.unechoed_bytes <= self._pipe_max()
        )

    def _pipe_max(self) -> float:
        """For DATA; what was heard last is taken for now, which it is while DATA flows."""
        if self.calls_until > self.heard_at:
            return max(CALLS_PIPE_BYTES_MIN, CALLS_PIPE_SECONDS * self.rate)
        return max(PIPE_BYTES_MIN, PIPE_SECONDS * self.rate)

    # Calls: in the same pipe, with more room than DATA, so that they pass it by

    def takes_calls(self) -> bool:
        """Whether a REQUEST may be made for the peer."""
        return (
            self.up
            and self.kept is None
            and not self.outbound
            and self.belief is Belief.ALIVE
            and not self.draining
            and len(self.unechoed) < PIPE_FRAMES_MAX
            and (self.unechoed_bytes <= PIPE_BYTES_MIN or self.unechoed_bytes <= PIPE_SECONDS * self.rate)
        )

    def takes_answers(self) -> bool:
        """Whether a REPLY may be made for the peer, which may drain, and may be silent for a while."""
        return (
            self.up
            and self.kept is None
            and not self.outbound
            and len(self.unechoed) < PIPE_FRAMES_MAX
            and (self.unechoed_bytes <= PIPE_BYTES_MIN or self.unechoed_bytes <= PIPE_SECONDS * self.rate)
        )

    def call_sent(self, number: int, size: int, now: float) -> None:
        """A REQUEST or REPLY was numbered; it counts against the pipe until it is echoed."""
        if not self.busy:
            self._ask_at_once()
        self.calls_until = now + CALLS_FOR
        self.unechoed.append(Sent(number, size, "", 0, 0))
        self.unechoed_bytes += size

    def drain(self) -> None:
        """The peer asked for no new DATA."""
        self.draining = True

    def take_lost(self) -> list[Sent]:
        """DATA that was not echoed when the peer renewed the link, once."""
        lost, self.lost = self.lost, []
        return lost

    # Belief

    def _ask_at_once(self) -> None:
        """The link becomes busy."""
        self.busy = True
        self.ping_at = -inf
        self._due[self] = None

    def ask(self) -> None:
        """A PING is due now: the peer waits to hear something of us."""
        self.ping_at = -inf
        self._due[self] = None

    def plan_ping(self, at: float | None = None) -> float:
        """The next PING is due at that time, or else when the rule says; return when."""
        if at is None:
            at = ping_due(
                busy=self.busy,
                evidence=self.evidence,
                pinged_at=self.pinged_at,
                heard_at=self.heard_at,
                jitter=self.jitter,
            )
        self.ping_at = at
        return at

    def rest(self) -> None:
        """Neither side has messages of the other: the link is not busy any more."""
        self.busy = False

    def pinged(self, now: float, jitter: float = 0.5) -> None:
        """The frame that was numbered last is a PING: the peer owes its echo."""
        self.pinged_at, self.jitter = now, jitter
        if len(self._asked) < ASKED_MAX:
            self._asked.append((self.out_number, now))
            self.asked_at = min(self.asked_at, now)

    def excuse(self, late: float, now: float) -> None:
        """We were late ourselves by so many seconds: nobody is accused for them."""
        self.heard_at += late
        self.told_at += late
        self.hello_heard_at += late
        self.answer_by += late
        self.hung_at += late
        self.suspect_at += late
        self._gives_up_at += late
        self.down_at += late
        self._excused_at = now
        if self.asked_at < inf:
            self.asked_at = min(now, self.asked_at + late)

    def _alive(self, now: float) -> None:
        if self.belief is not Belief.ALIVE:
            if self.belief is Belief.HUNG:
                # It is back; from here it may take its time to come up.
                self.down_at = self._excused_at = now
                self.asked_at = now if self.asked_at < inf else inf
            self.belief = Belief.ALIVE
            self._is_fresh = False
            self.suspect_at = self.hung_at = self._gives_up_at = self.probe_at = inf
            self.refusals = 0

    def suspect(self, now: float, since: float) -> None:
        """Disconnected, or silent `since` then: find out what became of the peer."""
        if self.belief is Belief.ALIVE:
            self.belief = Belief.SUSPECT
            self.suspect_at = now
            self._gives_up_at = since + VANISHED_AFTER
            self.refusals = 0
            self.probe_at = now

    def takes_probe(self, now: float) -> bool:
        """Whether a probe of the peer's inbox is due; if so, it begins now."""
        if self.probe_at > now or self.probing:
            return False
        self.probing = True
        self.probe_at = inf
        return True

    def probed(self, outcome: Outcome, now: float, *, far: bool = False) -> bool | None:
        """A probe has found something; True: the peer's process has ended; False: the peer is given up; None: go on.

        `far`: it is on another host, where others may refuse or accept in its name.
        """
        self.probing = False
        if self.belief is Belief.ALIVE:
            return None
        if outcome is not Outcome.SILENT and (self.confirmed not in self.doors or self.probed_at in self.strangers):
            outcome = Outcome.SILENT  # it listens elsewhere by now, or that was another node
        match outcome:
            case Outcome.REFUSED:
                proves_at = max(self.heard_at, self.hello_heard_at) + REFUSED_FAR_AFTER if far else -inf
                if self.refusals and now - self.refused_at >= REFUSED_TWICE_AFTER and now >= proves_at:
                    return True
                if not self.refusals:
                    self.refusals, self.refused_at = 1, now
                self.probe_at = max(now + REFUSED_TWICE_AFTER, min(proves_at, now + 0.5))
            case Outcome.ACCEPTED:
                self.belief = Belief.HUNG
                self.hung_at = min(self.hung_at, now)
                self.refusals = 0
                # The kernel closes the descriptors of a killed process one by one: its listener may still accept
                # when its connections are gone. So the first probes follow soon, and later ones wait up to 1 s.
                self.probe_at = now + min(1.0, max(REFUSED_TWICE_AFTER, now - self.suspect_at))
            case Outcome.SILENT:
                self.refusals = 0
                self.probe_at = now + 0.5
                if now >= self.vanishes_at:
                    return False
        return None

    def wants_fresh_connection(self) -> bool:
        """Whether its inbox accepts and our connection may be a dead one, as after a change of addresses; once."""
        fresh, self._is_fresh = self._is_fresh, True
        return self.belief is Belief.HUNG and self.connected and not fresh and self.confirmed is not None

    @property
    def silent_at(self) -> float:
        """When the peer is suspect if nothing of ours is echoed."""
        return self.asked_at + SILENCE

    @property
    def vanishes_at(self) -> float:
        """When a suspect is given up, unless something of ours is echoed."""
        return max(self._gives_up_at, self.told_at + FENCE)

    @property
    def down_until(self) -> float:
        """When a peer whose link is not up is given up, unless it comes up, though we hear it."""
        return max(self.down_at + VANISHED_AFTER, self.told_at + FENCE)

    def is_hung_for_too_long(self, now: float) -> bool:
        """Whether a peer on another host has had its time to wake up."""
        return now >= self.hung_at + HUNG_FAR_MAX

    def due_at(self, now: float) -> float:
        """When its belief, its HELLO or its end has to be looked at again; inf if never."""
        at = min(self.close_at, self.probe_at, self.hello_at if self.connected and self.hello_at > now else inf)
        if self.was_up and self.close_at == inf:
            if self.belief is Belief.ALIVE:
                at = min(at, self.silent_at)
            if not self.up and self.belief is not Belief.HUNG:
                at = min(at, self.down_until)
        if self.connected:
            at = min(at, self.answer_by)
        if self.belief is Belief.SUSPECT and not self.refusals:
            at = min(at, self.vanishes_at)
        return at

    def view(self, reason: str = "") -> PeerView:
        """What people are shown of the peer; `reason`: why it was not reached when that was tried last."""
        theirs = self.their_interest
        state = "up" if self.up else "one-way" if self.introduced else "connecting"
        return PeerView(
            node_id=self.node_id,
            name=self.name,
            state=state if self.belief is Belief.ALIVE else self.belief.value,
            endpoint=self.endpoint,
            consumes=tuple(c.queue for c in theirs.consumes) if theirs else (),
            produces=tuple(theirs.produces) if theirs else (),
            subscribes=tuple(s.pattern for s in theirs.subscribes) if theirs else (),
            publishes=tuple(theirs.publishes) if theirs else (),
            serves=tuple(s.service for s in theirs.serves) if theirs else (),
            reason="" if self.up else reason or ("one-way" if self.introduced else ""),
        )

    def check(self) -> None:
        """Assert the invariants of this link."""
        assert not self.up or (self.theirs and self.introduced), "up without a hello of the peer"
        assert self.up or (self.out_number == 0 and not self.unechoed), "numbered frames while not up"
        assert self.echoed <= self.out_number, "the peer echoed what we did not send"
        assert self.unechoed_bytes == sum(sent.size for sent in self.unechoed), "unechoed bytes"
        assert len(self.unechoed) <= PIPE_FRAMES_MAX, "too many frames in the pipe"
        for credit in self.sending.credits.values():
            assert credit.sent_messages <= credit.limit_messages, "sent more than was granted"


class LifeEnded(NamedTuple):
    """The link is not up any more; what was in the pipe may be lost."""

    link: Link


class CameUp(NamedTuple):
    """Both sides know each other: INTEREST is due."""

    link: Link


class Gone(NamedTuple):
    """The peer will not answer any more. `proven`: it has ended; `died`: with no goodbye; `idle`: nothing in common."""

    link: Link
    proven: bool
    died: bool
    idle: bool = False


Change = LifeEnded | CameUp | Gone
