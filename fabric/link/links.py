"""All links of one node: what their wires report, whom to believe alive, how to part.

Discovery only proposes addresses. A peer exists once a link with it was up; it is

    gone      its process is proven dead (its inbox refuses), or it said goodbye
    hung      its inbox accepts and it does not answer: no new work, what it holds waits for its lease
    vanished  nothing answers for four seconds: given up, dialled again while discovery still names it

Each class stands on the one below: `Links` on `Hellos`, on `Dialling`, on `Tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Final

from peerfabric.health import DIALLED_AFTER, DIALLED_IN_VAIN, Finding
from peerfabric.link.commands import Outcome, Probe
from peerfabric.link.hello import Hellos
from peerfabric.link.link import HELLO_MAX, Belief, Change, Link
from peerfabric.link.rejections import REMNANT
from peerfabric.link.tables import CANDIDATE_PATIENCE, OURSELVES
from peerfabric.reports import PeerView
from peerfabric.wire.frames import (
    IDLE,
    LEAVING,
    NOT_ME,
    OTHER_FABRIC,
    OTHER_VERSION,
    SUPERSEDED,
    TOO_MANY_PEERS,
    UNWELCOME,
    Bye,
)

IDLE_CLOSE_AFTER: Final = 10.0
SILENT_MAX: Final = 5
"""Nodes that were found and do not answer are named to people at a time, the first of them: all can make up more."""
STRAY_EVERY: Final = 1.0
"""Frames of an unknown life are answered by one HELLO in this time."""


class Links(Hellos):
    """The links of one node, by wire, by peer and by link id."""

    def ourselves(self, now: float) -> None:
        """Open the link to this node itself; the driver's frames on its wire never leave the process."""
        if OURSELVES in self.by_wire:
            return
        self._half += 1
        link = Link(OURSELVES, self._half, now, self.address, self.due)
        link.reached(now)
        self.by_wire[OURSELVES] = link
        self._by_node[self.address.node_id] = link
        self.by_peer[link.peer] = link
        self._halves[link.mine] = link
        self.hello_due[link] = None

    # What the wires report

    def connected(self, wire: int, now: float) -> None:
        """The PUSH of `wire` has a connection."""
        if wire in self.rejections:
            return
        link = self.by_wire.get(wire)
        if link is not None:
            link.reached(now)
            self.look(link, link.answer_by)
            self.hello_due[link] = None
            self._pace.over(link)
            self._dial_next(now)

    def disconnected(self, wire: int, now: float) -> list[Change]:
        """The PUSH of `wire` lost its connection; what it had accepted may be lost."""
        link = self.by_wire.get(wire)
        if link is None:
            return []
        link.unplugged(again=True)
        changes = self._end_life(link, now)
        if link.was_up:
            link.suspect(now, now)
        return changes

    def unreachable(self, wire: int, now: float, why: str = "") -> list[Change]:
        """Nobody listens at the endpoint of `wire`, or it does not let us in: `why` is a reason of PeerView."""
        link = self.by_wire.get(wire)
        if link is None or wire in self.rejections:
            self._end_rejection(wire)
            return []
        changes = self._end_life(link, now) if link.up else []
        link.unplugged(again=False)
        self._pace.over(link)
        if link.was_up:
            link.suspect(now, now)
        self.look(link, now)
        self._led_nowhere(link, why, now)
        self._dial_next(now)
        return changes

    def probed(self, wire: int, outcome: Outcome, now: float) -> list[Change]:
        """A probe of the inbox behind `wire` has found something."""
        link = self.by_wire.get(wire)
        if link is None:
            return []
        far = self._is_far(link.address)
        verdict = link.probed(outcome, now, far=far)
        if verdict is not None:
            return self._part(link, now, proven=verdict, died=verdict)
        self.look(link, link.probe_at)
        if far and outcome is Outcome.ACCEPTED and not self.closing and link.wants_fresh_connection():
            changes = self._end_life(link, now)
            self._dial(link, link.confirmed or link.door, now)
            return changes
        return []

    # Hello

    def rejection_sent(self, wire: int, now: float) -> None:
        """The BYE left."""
        self.rejections.sent(wire, now)
        self._wake_at(self.rejections.deadline())

    # Frames

    def stray(self, link_id: bytes, now: float) -> None:
        """A frame came that no up link accepts; if its half is known, a HELLO answers."""
        self.count("frames of another life")
        known = self._halves.get(int.from_bytes(link_id[4:], "big"))
        current = known is not None and self._by_node.get(known.node_id) is known
        if known is not None and current and known.connected and now >= known.stray_at:
            known.stray_at = now + STRAY_EVERY
            self.hello_due[known] = None

    def echo_soon(self, link: Link, now: float) -> None:
        """What has come, or a grant that nobody waits for, leaves in an echo if nothing takes it along."""
        link.echo_soon(now)
        self.echoes.put(link, link.echo_at)

    def broken(self, link: Link, now: float) -> list[Change]:
        """A frame is missing or cannot be read: both sides start a new life."""
        self.count("links renewed")
        changes = self._end_life(link, now)
        if link.connected:
            self.hello_due[link] = None
        return changes

    # Time

    def handle_timeout(self, now: float, late: float) -> list[Change]:
        """Act on what has come due; `late` seconds of our own delay are not held against others."""
        changes: list[Change] = []
        if late:
            for link in self.by_wire.values():
                link.excuse(late, now)
        due = self.deadlines.take_due(now)
        self.looked_at = [link for link in due if link is not None]
        for link in self.looked_at:
            changes += self._look_at(link, now)
        if None in due:
            self._tick(now)
        return changes

    def _tick(self, now: float) -> None:
        for wire in self.rejections.over(now):
            self._end_rejection(wire)
        self._wake_at(self.rejections.deadline())
        if not self.closing:
            self._dial_due(now)

    def _look_at(self, link: Link, now: float) -> list[Change]:
        if link.close_at <= now:
            self._drop(link)
            return []
        if link.connected and link.hello_at <= now:
            self.hello_due[link] = None
        if link.wire == OURSELVES:
            return []
        watched = link.was_up and link.close_at == inf
        if watched and link.belief is Belief.ALIVE and link.silent_at <= now:
            link.suspect(now, link.asked_at)
        if watched and link.belief is not Belief.HUNG and not link.up and link.down_until <= now:
            # We hear it, it does not hear us: its fence has ended by now, and others can do the work.
            return self._part(link, now, proven=False, died=False)
        if watched and link.belief is Belief.HUNG and self._is_far(link.address) and link.is_hung_for_too_long(now):
            return self._part(link, now, proven=False, died=False)
        if link.belief is not Belief.ALIVE:
            if link.vanishes_at <= now and link.belief is Belief.SUSPECT and not link.refusals:
                return self._part(link, now, proven=False, died=False)
            if link.address is not None and link.probed_at and link.takes_probe(now):
                self.commands.append(Probe(link.wire, link.probed_at, link.node_id, link.address.epoch))
            if link.connected and link.hello_at == inf:
                # It may have forgotten us, and nothing else that we send tells it who we are.
                link.plan_hello(now + HELLO_MAX)
        if link.connected and not link.up and link.answer_by <= now:
            changes = self._unanswered(link, now)
            self.look(link, max(now + 0.001, link.due_at(now)))
            return changes
        if link.address is None and now - link.opened_at >= CANDIDATE_PATIENCE and link.connected:
            # Somebody listens there who does not answer; ask again later.
            self._drop(link)
            self._addresses.candidate_silent(link.endpoint, now)
            self._wake_at(self._addresses.deadline())
            return []
        self.look(link, max(now + 0.001, link.due_at(now)))
        if link.address is None:
            self.look(link, max(link.opened_at + CANDIDATE_PATIENCE, now + 1.0))
        return []

    # Parting

    def said_bye(self, link: Link, reason: int, now: float) -> list[Change]:
        """The peer says goodbye; ours goes back, then the wire closes."""
        if reason in (OTHER_FABRIC, OTHER_VERSION, TOO_MANY_PEERS):
            self.rejections.reject(link.node_id, now)
        changes = self._forget(link, now, proven=reason == LEAVING, died=False, idle=reason == IDLE)
        if reason == LEAVING:
            self.forget(link.node_id, now)
        elif reason == UNWELCOME:
            self._note_why(link, "denied")
            self._wake_at(self._addresses.unwelcome(link.node_id, now))
        elif reason == IDLE:
            self._addresses.parted(link.node_id)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    def rejected_by(self, bye: Bye, now: float) -> list[Change]:
        """A node answered our hello with a BYE of no life."""
        if bye.reason == NOT_ME:
            return self.not_there(int.from_bytes(bye.link[4:], "big"), now)
        link = self._by_node.get(bye.node_id)
        if bye.reason == SUPERSEDED:
            if int.from_bytes(bye.link[4:], "big") not in self._halves:
                return []  # it is for another life of this node, which listened here, or is seen where this one is
            teller = link.endpoint if link is not None else bye.node_id
            copies = [where for epoch, where in self._copies.items() if epoch > self.address.epoch]
            self.superseded = self.superseded or (copies[-1] if copies else f"an endpoint that {teller} knows")
            return []
        self.count("refused by peers")
        if link is None or link.up:
            return []
        self.rejections.reject(bye.node_id, now)
        return self._part(link, now, proven=False, died=False)

    def shut_out(self, link: Link, now: float) -> list[Change]:
        """The peer is not let in any more. The caller has sent BYE, if the link was up."""
        changes = self._forget(link, now, proven=False, died=False)
        known = self._addresses.get(link.node_id) or link.address
        self._addresses.forget(link.node_id)
        if known is not None:
            self._shut_out_at(known)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    def part_idle(self, link: Link, now: float) -> list[Change]:
        """Nothing in common: the wire closes, the address stays known. The caller has sent BYE."""
        changes = self._forget(link, now, proven=False, died=False, idle=True)
        self._addresses.parted(link.node_id)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    # Reports and output

    def findings(self) -> Iterator[Finding]:
        """Whoever is dialled and has not answered: what `peers=` names, and nodes that were found and never met."""
        if self.closing:
            return
        for endpoint in sorted(self._addresses.unanswered(self._by_node)):
            step = "start a node that listens there, or, if peers= or PEERFABRIC_PEERS names it, take it out"
            yield Finding(f"{endpoint} is dialled without an answer", DIALLED_AFTER, step, code=DIALLED_IN_VAIN)
        told = 0
        for link in list(self._unmet):
            if link.met or link.wire not in self.by_wire:
                del self._unmet[link]
            elif self._by_node.get(link.node_id) is link and told < SILENT_MAX:
                told += 1
                yield Finding(
                    f"{link.name} was found and does not answer at {link.endpoint}",
                    DIALLED_AFTER,
                    "see whether its process is stopped, or something between the two closes this way",
                    code=DIALLED_IN_VAIN,
                )

    @property
    def known_count(self) -> int:
        """How many other nodes this one knows of, in whatever way."""
        return len(self._addresses)

    def view(self) -> list[PeerView]:
        """Every node that we know of, and every candidate that has not answered."""
        views = {}
        for address in self._addresses:
            reason = self._whys.get(address.node_id, "")
            views[address.node_id] = PeerView(
                node_id=address.node_id, name=address.name or address.node_id, state="idle", reason=reason
            )
        for link in self._by_node.values():
            if link.wire != OURSELVES:
                views[link.node_id] = link.view(self._whys.get(link.node_id, ""))
        return [
            *views.values(),
            *(
                PeerView(node_id="", name=e, state="connecting", endpoint=e, reason=self._whys.get(e, ""))
                for e in sorted(self._addresses.unanswered(self._by_node))
            ),
        ]

    def is_known(self, node_id: str) -> bool:
        """Whether there is a link with the node, or it has said hello to this one lately."""
        return node_id in self._by_node or self._addresses.was_met(node_id)


__all__ = ["IDLE_CLOSE_AFTER", "OURSELVES", "Links"]
