"""Checks of the running processes of this host, and of the spools that they have, by their admin sockets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from peerfabric.errors import ConfigError, counted
from peerfabric.nodes.cli.checks.situation import Finding, Level, Situation, split
from peerfabric.nodes.cli.exits import at_the_terminal
from peerfabric.nodes.cli.host.rows import Place, places, sent_queues, taken_queues
from peerfabric.nodes.cli.host.text import short_age, short_bytes
from peerfabric.similar import are_similar

DESCRIPTORS_SHARE = 0.8
"""Of the descriptors that a process may have, more is worth a word: what comes then is refused."""
LIMIT_SHARE = 0.8
FREE_MIN, FREE_SHARE = 1 << 30, 0.05
"""Of a disk with a spool."""
CLOCK_JUMP = 2.0
"""Seconds by which two ways to say when a process began differ once somebody has set the clock."""
NAMED_MAX = 8
_MISSED = ("one-way", "hung", "suspect")
_REASONS = {
    "secret": "it has another secret or fabric",
    "denied": "one of the two does not let the other in: [access] allow and revoked",
    "mechanism": "one of the two is in the clear: secret = 'insecure'",
    "one-way": "it does not hear this node: a firewall, or a missing advertise=",
    "not-me": "its endpoint leads back to this node, or to another one",
}


def processes(situation: Situation) -> Iterator[Finding]:
    """The processes of this user: where they meet, whether they answer, their versions and descriptors."""
    system = situation.system
    try:
        folder, situation.heard = system.runtime_folder(), system.heard()
    except ConfigError as error:
        text, step = split(str(error))
        yield Finding(check="runtime folder", level=Level.PROBLEM, text=text, step=step)
        return
    situation.places = places(((each.status, each.at) for each in situation.heard if each.status is not None), None)
    yield from _elsewhere(situation, folder)
    statuses = [each.status for each in situation.heard if each.status is not None]
    if not situation.heard:
        text = f"no process of this user answers in {folder}"
        step = "start a node; if one runs, it has another runtime folder, PEERFABRIC_ADMIN=off, or is of version 0.1"
        yield Finding(check="processes", level=Level.NOTE, text=text, step=step)
        return
    heard = f"{counted(len(statuses), 'process answers', 'processes answer')} in {folder}"
    yield _ok("processes", f"{heard}, with {counted(len(situation.places), 'node')}")
    for each in situation.heard:
        if each.status is None:
            step = f"kill -CONT {each.pid} lets a stopped one go on; one that hangs: py-spy dump --pid {each.pid}"
            yield Finding(check="processes", level=Level.PROBLEM, text=f"{each.title}: {each.problem}", step=step)
            continue
        jump = system.clock_jump(each.pid, each.started)
        if abs(jump) > CLOCK_JUMP:
            text = f"the clock was set by {jump:+.0f} s since process {each.pid} began"
            step = "nothing depends on it but times in logs and ages of messages; let NTP slew it"
            yield Finding(check="clocks", level=Level.NOTE, text=text, step=step)
    versions = defaultdict(list)
    for status in statuses:
        versions[status.process.version].append(str(status.process.pid))
        used, most = status.process.descriptors, status.process.descriptors_max
        if most and used > DESCRIPTORS_SHARE * most:
            text = f"process {status.process.pid} has {used:,} descriptors open, of {most:,} that it may have"
            step = "raise LimitNOFILE or ulimit -n, and start it again; or look for what it does not close"
            yield Finding(check="descriptors", level=Level.PROBLEM, text=text, step=step)
    if len(versions) > 1:
        each_has = ", ".join(f"{version or '?'} ({', '.join(pids[:NAMED_MAX])})" for version, pids in versions.items())
        text = f"processes have different versions: {each_has}"
        yield Finding(check="versions", level=Level.NOTE, text=text, step="start those with the older one again")


def _elsewhere(situation: Situation, folder: str) -> Iterator[Finding]:
    """Processes that have another runtime folder: on one machine they do not see each other, nor does a command."""
    ours = situation.settings.fabric if situation.settings is not None else None
    for other in situation.system.elsewhere():
        pids = ", ".join(map(str, sorted(other.pids)[:NAMED_MAX])) + (" …" if len(other.pids) > NAMED_MAX else "")
        who, it = ("processes", "they") if len(other.pids) > 1 else ("process", "it")
        meets = "meet" if len(other.pids) > 1 else "meets"
        text = f"{who} {pids} {meets} others in {other.folder}, and this command looks in {folder}"
        step = "where they should meet, give all the same PEERFABRIC_RUNTIME: services have no XDG_RUNTIME_DIR"
        level = Level.PROBLEM if ours in other.fabrics else Level.NOTE
        if level is Level.PROBLEM:
            text += f"; {it} {'have' if it == 'they' else 'has'} nodes of fabric {ours!r}, too"
        yield Finding(check="runtime folder", level=level, text=text, step=step)


def nodes(situation: Situation) -> Iterator[Finding]:
    """The running nodes: their fabrics, peers that they do not reach, names that are nearly the same, warnings."""
    if not situation.places:
        return
    ours = situation.settings.fabric if situation.settings is not None else None
    fabrics: dict[str, list[str]] = defaultdict(list)
    for place in situation.places:
        fabrics[place.node.fabric].append(place.node.name)
    for fabric, names in sorted(fabrics.items()):
        if ours is not None and fabric != ours:
            text = f"{_named(names)} of this host: fabric {fabric!r}, which does not meet {ours!r}"
            step = f"if they should, give them one name; else look at them with --fabric {fabric}"
            yield Finding(check="fabrics", level=Level.NOTE, text=text, step=step)
    for place in situation.places:
        yield from _of_node(place)
    for fabric in fabrics:
        yield from _misspelt([place for place in situation.places if place.node.fabric == fabric])


def _of_node(place: Place) -> Iterator[Finding]:
    node, pid = place.node, place.process.pid
    if node.engine:
        text = f"node {node.name} (process {pid}): its engine is {node.engine}"
        step = f"see where it is: peerfabric stacks {pid}"
        yield Finding(check="nodes", level=Level.PROBLEM, text=text, step=step)
    if node.pump_late > 1.0:
        text = f"node {node.name} (process {pid}): its I/O thread is {short_age(node.pump_late)} late"
        step = f"something holds the interpreter, or swaps: peerfabric stacks {pid}"
        yield Finding(check="nodes", level=Level.PROBLEM, text=text, step=step)
    for peer in node.peers:
        if peer.state in _MISSED or peer.reason in _REASONS:
            why = _REASONS.get(peer.reason) or peer.reason or "it does not answer"
            who = peer.name or peer.endpoint or peer.node_id
            text = f"node {node.name} has no link with {who} ({peer.state}): {why}"
            step = f"peerfabric doctor {peer.name or peer.node_id}" if peer.node_id else "see whether it runs"
            yield Finding(check="peers", level=Level.PROBLEM, text=text, step=step)
    for warned in node.warnings:
        text, step = split(at_the_terminal(warned.text))
        yield Finding(check="warnings", level=Level.NOTE, text=f"node {node.name}: {text}", step=step)


def _misspelt(of: list[Place]) -> Iterator[Finding]:
    """Queues that are only sent to and only consumed, and nearly have one name."""
    sent = {queue for place in of for queue in sent_queues(place.node)}
    taken = {queue for place in of for queue in taken_queues(place.node)}
    heard = {queue for place in of for sending in place.node.sends if sending.consumers for queue in [sending.queue]}
    for producer in sorted(sent - taken - heard):
        for consumer in sorted(taken - sent):
            if are_similar(producer, consumer):
                text = (
                    f"{producer!r} is sent to and nobody consumes it; {consumer!r} is consumed and nobody sends to it"
                )
                yield Finding(check="names", level=Level.PROBLEM, text=text, step="give both the same name")


def spools(situation: Situation) -> Iterator[Finding]:
    """The spools of the running nodes and of the configuration: their disks, and slots that nobody has."""
    folders = {place.node.spool.folder: place for place in situation.places if place.node.spool is not None}
    known: dict[str, Place | None] = dict(folders)
    if situation.settings is not None and situation.settings.spool is not None:
        known.setdefault(situation.settings.spool, None)
    for folder, place in sorted(known.items()):
        yield from _of_spool(situation, folder, place)
    for place in situation.places:
        spool = place.node.spool
        if spool is None:
            continue
        who = f"node {place.node.name}, slot {spool.slot} of {spool.folder}"
        if spool.limit and spool.used > LIMIT_SHARE * spool.limit:
            text = f"{who}: {short_bytes(spool.used)} of {short_bytes(spool.limit)} are used"
            step = "start consumers, or give more: Options(spool_bytes=)"
            yield Finding(check="spool", level=Level.PROBLEM, text=text, step=step)
        if not spool.spare_ok:
            text = f"{who}: what it keeps free to note what is settled is used up"
            yield Finding(check="spool", level=Level.PROBLEM, text=text, step="free space on that disk")


def _of_spool(situation: Situation, folder: str, place: Place | None) -> Iterator[Finding]:
    system = situation.system
    kind = system.network_disk(folder)
    if kind:
        text = f"{folder} is on {kind}, where a lock of another machine is not seen in time"
        yield Finding(check="spool", level=Level.PROBLEM, text=text, step="give a folder on a disk of this machine")
    free, size = system.disk(folder)
    if size and (free < FREE_MIN or free < FREE_SHARE * size):
        text = f"{folder}: {short_bytes(free)} of {short_bytes(size)} are free on its disk"
        yield Finding(check="disk", level=Level.PROBLEM, text=text, step="free space, before sends are refused")
    left = system.left_in(folder)
    for slot in left:
        if slot.child:
            text = f"{folder}, slot {slot.number}: {slot.child}"
            yield Finding(check="spool", level=Level.PROBLEM, text=text, step="end that process")
        elif slot.messages:
            text = f"{folder}, slot {slot.number}: nobody has it, and {counted(slot.messages, 'message')} are in it"
            step = f"start its program or a consumer, or: peerfabric spool serve {folder}"
            yield Finding(check="spool", level=Level.NOTE, text=text, step=step)
        elif slot.letters:
            text = f"{folder}, slot {slot.number}: nobody has it, and {counted(slot.letters, 'dead letter')} are in it"
            step = f"peerfabric dead ls {folder}"
            yield Finding(check="spool", level=Level.NOTE, text=text, step=step)
    if place is not None and not kind and not left:
        yield _ok("spool", f"{folder}: {short_bytes(free)} are free on its disk, and nothing is left in it")


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ("nodes " if len(names) > 1 else "node ") + ", ".join(sorted(names)[:NAMED_MAX]) + more


def _ok(check: str, text: str) -> Finding:
    return Finding(check=check, level=Level.OK, text=text)
