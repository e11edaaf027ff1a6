"""Checks of links: a node of our own joins, and each peer has to answer it, reach it, and do so soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.checks.here import fixed_port
from peerfabric.nodes.cli.checks.network import is_here
from peerfabric.nodes.cli.checks.situation import Finding, Level, Seen, Session, Situation, host_of, port_of, split

LINKED_WITHIN: Final = 4.0
"""Seconds for links to come up: a hello each way, after an address or two that did not work."""
PINGS: Final = 100
NAMED_MAX: Final = 10
PINGED_MAX: Final = 5
"""Peers that are measured."""
CLOCK_OFF: Final = 5.0
"""Seconds that two clocks may differ before it is worth a word."""


def links(situation: Situation) -> Iterator[Finding]:
    """Whether each node that let us in says hello back, and its outbox works, too."""
    if situation.joins is None:
        if situation.settings is not None:
            text, step = "other nodes, since the secret cannot be used", "mend that first, and ask again"
            yield Finding(check="links", level=Level.UNCHECKED, text=text, step=step)
        return
    try:
        session = situation.session = situation.system.session(situation)
    except FabricError as error:
        text, step = split(str(error))
        yield Finding(check="node", level=Level.PROBLEM, text=text, step=step)
        return
    yield Finding(check="node", level=Level.OK, text=f"a node of this fabric starts here ({session.node_id})")
    _await(situation, session)
    answered = set()
    for peer in situation.seen:
        found = _of(situation, session, peer)
        if found is not None:
            answered |= {peer.endpoint, *peer.inbox}
        if not _is_asked(situation, peer):
            continue
        if found is not None:
            yield found
        if peer.state == "up":
            yield from _outbox(situation, peer)
    warnings = session.warnings()
    silent: dict[str, list[str]] = {}
    for endpoint, whose in situation.endpoints.items():
        if situation.working.get(endpoint) == "" and endpoint not in answered:
            silent.setdefault(whose, []).append(endpoint)
    for whose, endpoints in silent.items():
        named = {whose for endpoint, whose in situation.endpoints.items() if endpoint in answered}
        if whose not in named:
            yield _no_hello(situation, session, whose, endpoints)
    for warning in warnings:
        text, step = split(warning)
        if "peerfabric doctor" in step:
            continue  # that is what runs, and what it says is among its own findings
        yield Finding(check="links", level=Level.NOTE, text=text, step=step)
    if situation.asks_by_name:
        yield from _unknown(situation)
    elif not situation.seen and not situation.endpoints and not situation.announced.keys:
        asked = situation.peer or "any other node"
        text, step = f"nothing is known of {asked}", "name it by its address: peerfabric doctor HOST:7700"
        yield Finding(check="links", level=Level.PROBLEM, text=text, step=step)


def _unknown(situation: Situation) -> Iterator[Finding]:
    """Whether nobody has the name, or the id, that is asked about."""
    known = {peer.node_id: peer.name or peer.node_id for peer in situation.announced.nodes}
    known |= {peer.node_id or peer.endpoint: peer.name for peer in situation.seen}
    if situation.peer not in {*known, *known.values()}:
        some = ", ".join(sorted(known.values())[:NAMED_MAX]) or "nobody"
        text = f"no node of that name or id is known, {situation.peer!r}; known: {some}"
        step = "see how it is spelt there, or name it by its address: peerfabric doctor HOST:7700"
        yield Finding(check="links", level=Level.PROBLEM, text=text, step=step)


def _await(situation: Situation, session: Session) -> None:
    """Let links come up, no longer than it takes."""
    wanted = {whose for endpoint, whose in situation.endpoints.items() if situation.working.get(endpoint) == ""}
    until = time.monotonic() + LINKED_WITHIN
    while True:
        situation.seen = session.peers()
        up = {endpoint for peer in situation.seen if peer.state == "up" for endpoint in (peer.endpoint, *peer.inbox)}
        linked = {whose for endpoint, whose in situation.endpoints.items() if endpoint in up}
        if (wanted and wanted <= linked) or time.monotonic() >= until:
            return
        time.sleep(0.1)


def _is_asked(situation: Situation, peer: Seen) -> bool:
    asked = situation.peer
    if not asked:
        return True
    if situation.asks_by_name:
        return asked in (peer.node_id, peer.name) or peer.name in ("", peer.node_id)
    return not {peer.endpoint, *peer.inbox}.isdisjoint(situation.endpoints)


def _of(situation: Situation, session: Session, peer: Seen) -> Finding | None:
    """What a peer's link says; None: nothing that was not said before."""
    who = f"{peer.name or peer.node_id} ({peer.node_id})"
    reason = peer.reason or ("one-way" if peer.state == "one-way" else "")
    if peer.state == "up":
        text = f"{who} is linked, at {peer.endpoint}"
        if session.port and session.port == fixed_port(situation) and peer.host and not is_here(situation, peer):
            text += f"; from that host it reaches port {session.port} here"
        return Finding(check="links", level=Level.OK, text=text)
    if reason == "not-me":
        text = f"at {peer.endpoint} is another node than {who}, which says that it is there"
        step = "on its host, leave that address out of interfaces= and advertise=: other hosts have it, too"
        return Finding(check="links", level=Level.PROBLEM, text=text, step=step)
    if reason == "one-way":
        if any(situation.fails(endpoint) for endpoint in (peer.endpoint, *peer.inbox)):
            return None
        text = f"{who} reaches this node, and does not hear it at {peer.endpoint}"
        step = "look at its process, and restart it"
        if peer.endpoint.startswith("tcp://"):
            where = f"TCP {port_of(peer.endpoint)} in the firewall of {host_of(peer.endpoint)}"
            step = f"open {where}, and see allow= and revoked= there"
        return Finding(check="links", level=Level.PROBLEM, text=text, step=step)
    if peer.state in ("hung", "suspect"):
        text = f"{who} accepts connections, and does not answer: its process is stopped or hangs"
        return Finding(check="links", level=Level.PROBLEM, text=text, step="look at its process, and restart it")
    return None


def _no_hello(situation: Situation, session: Session, whose: str, endpoints: list[str]) -> Finding:
    """It let us in, and has not said hello: it cannot dial us, or will not."""
    fixed = fixed_port(situation)
    text = f"{whose} lets this node in at {endpoints[0]}, and says no hello"
    access = "; or take the other's id out of revoked=, or into allow=, on either host"
    if fixed and session.port != fixed:
        text += f" to this command, which has a free port since port {fixed} is in use"
        step = f"see whether `peerfabric peers` shows it; else open TCP {fixed} in the firewall of this host{access}"
        return Finding(check="links", level=Level.NOTE, text=text, step=step)
    where = f"port {fixed} here" if fixed else "this node"
    text += f": it cannot reach {where}, or one of the two does not let the other in"
    step = f"open TCP {fixed} in the firewall of this host, or set advertise={access}"
    if not fixed:
        step = f"give listen='tcp://*:7700', {step.replace('TCP 0', 'TCP 7700 and 7701')}"
    return Finding(check="links", level=Level.PROBLEM, text=text, step=step)


def _outbox(situation: Situation, peer: Seen) -> Iterator[Finding]:
    """Whether the second port of a linked peer is open as well."""
    outboxes = [each for each in peer.outbox if each.startswith("tcp://")]
    if not outboxes or not peer.endpoint.startswith("tcp://"):
        return
    beside = [each for each in outboxes if host_of(each) == host_of(peer.endpoint)] or outboxes[:1]
    outcomes = situation.system.at_once([partial(situation.system.connect, each) for each in beside])
    if all(tcp.outcome != "accepted" for tcp in outcomes):
        name = peer.name or peer.node_id
        text = f"outbox {beside[0]} of {name} does not answer ({outcomes[0].outcome}): queues work, its topics do not"
        step = f"open TCP {port_of(beside[0])} as well in the firewall of {host_of(beside[0])}"
        yield Finding(check="links", level=Level.PROBLEM, text=text, step=step)


def round_trips(situation: Situation) -> Iterator[Finding]:
    """How long peers take to answer over their links."""
    session = situation.session
    if session is None:
        return
    up = [peer for peer in situation.seen if peer.state == "up" and _is_asked(situation, peer)]
    for peer in up[:PINGED_MAX]:
        name = peer.name or peer.node_id
        trips = sorted(session.round_trips(peer.node_id, PINGS))
        lost = PINGS - len(trips)
        if not trips:
            text = f"{name} answers none of {PINGS} questions"
            step = "look at its process: it may be stopped"
            yield Finding(check="round trips", level=Level.PROBLEM, text=text, step=step)
            continue
        p50, p99 = trips[len(trips) // 2] * 1e3, trips[(len(trips) * 99) // 100 - (len(trips) == 100)] * 1e3
        text = f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {lost} of {PINGS} lost"
        level = Level.PROBLEM if lost > PINGS // 10 else Level.OK
        step = "frames are lost between these hosts: look at cables, Wi-Fi and MTU" if level is Level.PROBLEM else ""
        yield Finding(check="round trips", level=level, text=text, step=step)


def clocks(situation: Situation) -> Iterator[Finding]:
    """Clocks that are wrong: for people only, since no rule of the fabric compares those of two hosts."""
    session = situation.session
    if session is None:
        return
    situation.seen = session.peers()
    for peer in situation.seen:
        ahead = peer.ahead
        if ahead is None and peer.started_unix - time.time() > CLOCK_OFF:
            ahead = peer.started_unix - time.time()
        if ahead is not None and abs(ahead) > CLOCK_OFF and _is_asked(situation, peer):
            what = "ahead of" if ahead > 0 else "behind"
            name = peer.name or peer.node_id
            text = f"the clock of {name} is {abs(ahead):,.0f} s {what} ours; messages show it, deliveries do not mind"
            yield Finding(
                check="clocks", level=Level.NOTE, text=text, step="let both follow a time server: timedatectl"
            )
