"""Checks of the network: multicast, who is announced, and whether each known inbox lets this node in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from peerfabric.nodes.cli.checks.situation import (
    Finding,
    Level,
    Resolved,
    Seen,
    Situation,
    Tcp,
    endpoint_of,
    host_of,
    port_of,
)
from peerfabric.nodes.settings import Settings

ANNOUNCED_WITHIN: Final = 3.0
"""Seconds to listen for announcements: somebody who runs answers within one."""
ENDED_WITHIN: Final = 1.5
"""Seconds to listen again for who refuses."""
SLOW: Final = 1.0
ENDPOINTS_MAX: Final = 64
"""Endpoints that are looked at; the rest of a large fabric is likely to fare alike."""
CLEAR: Final = "-"

_NAME_ONE: Final = "name one of its nodes: PEERFABRIC_PEERS=HOST:7700, peers=['HOST:7700'], or dns:NAME:7700"


def multicast(situation: Situation) -> Iterator[Finding]:
    """Whether a node can be found by multicast, as far as this host is concerned."""
    settings = situation.settings
    if settings is None or settings.reach == "host":
        return
    why = situation.system.container()
    if why:
        text = f"this is a container ({why}): multicast does not pass the bridge of most"
        step = f"{_NAME_ONE}; or run it in the network of its host"
        yield Finding(check="multicast", level=Level.NOTE, text=text, step=step)
    if settings.discovery != "auto" and "mdns" not in settings.discovery:
        yield Finding(check="multicast", level=Level.OK, text="not used, as discovery= says")
        return
    addresses = [each.address for each in situation.found if not each.why_not and ":" not in each.address]
    problems = situation.system.at_once([partial(situation.system.multicast, address) for address in addresses])
    for address, problem in zip(addresses, problems, strict=True):
        if not problem:
            situation.multicast = True
            yield Finding(check="multicast", level=Level.OK, text=f"goes out by {address} and comes back")
            continue
        text = f"what leaves by {address} for 224.0.0.251, port 5353, does not come back: {problem}"
        step = f"open UDP port 5353 in this host's firewall, or {_NAME_ONE}"
        level = Level.NOTE if settings.peers or situation.peer else Level.PROBLEM
        yield Finding(check="multicast", level=level, text=text, step=step)


def announced(situation: Situation) -> Iterator[Finding]:
    """Who announces himself by multicast: nodes of this fabric, and those that are none."""
    settings = situation.joins
    if settings is None or settings.reach == "host":
        return
    if settings.discovery != "auto" and "mdns" not in settings.discovery:
        return
    found = situation.announced = situation.system.announced(settings, situation.secrets, ANNOUNCED_WITHIN)
    others = _others(situation)
    for node in found.nodes:
        if node not in others and node.host and not is_here(situation, node):
            text = f"another copy of this node, {node.node_id}, runs at {', '.join(node.inbox)}"
            step = "remove node.key and the spool from one of them"
            yield Finding(check="identity", level=Level.PROBLEM, text=text, step=step)
    if others:
        names = ", ".join(sorted(node.name or node.node_id for node in others)[:10])
        yield Finding(check="announced", level=Level.OK, text=f"{len(others)} nodes of this fabric: {names}")
    missing = Level.NOTE if others or settings.peers or situation.peer else Level.PROBLEM
    if found.versions:
        text, step = f"{found.versions} nodes are of another version", "install the same release on all"
        yield Finding(check="announced", level=missing, text=text, step=step)
    if found.forged:
        text = f"{found.forged} announcements have our key id and a wrong proof: somebody forges them"
        step = "find out who; they are ignored"
        yield Finding(check="announced", level=Level.NOTE, text=text, step=step)
    if not others and not found.keys:
        text = f"no other node was heard by multicast within {ANNOUNCED_WITHIN:g} s"
        step = f"if one runs, the network between does not pass multicast: {_NAME_ONE}"
        yield Finding(check="announced", level=missing, text=text, step=step)


def _others(situation: Situation) -> list[Seen]:
    """The nodes of this fabric that were announced, without the one of this configuration."""
    own = situation.key.node_id if situation.key is not None else ""
    return [node for node in situation.announced.nodes if node.node_id != own]


def strangers(situation: Situation) -> Iterator[Finding]:
    """Nodes that were heard and know another secret, or none: what is wrong, unless another host is in this fabric."""
    settings = situation.joins
    if settings is None or not situation.announced.keys:
        return
    elsewhere = [*situation.announced.nodes, *(peer for peer in situation.seen if peer.state == "up")]
    # A node beside this one has what this one has: it says nothing about who is right.
    known = any(node.host and not is_here(situation, node) for node in elsewhere)
    level = Level.NOTE if known else Level.PROBLEM
    ours = ", ".join(key_id for key_id, _ in situation.gates)
    secrets = ", ".join(settings.secrets)
    for key_id, count in sorted(situation.announced.keys.items()):
        if key_id == CLEAR:
            text = f"{count} nodes run in the clear, and this one has a secret"
            step = f"give them a copy of the secret ({secrets}), or this one secret='insecure'"
        elif not situation.gates:
            text = f"{count} nodes have a secret, and this one has none: key id {key_id}"
            step = "set PEERFABRIC_SECRET_FILE here to a copy of the file that they have"
        else:
            text = f"{count} nodes have another secret or another fabric: key id {key_id}, ours {ours}"
            step = f"compare `peerfabric id` on both hosts; both need one secret, here {secrets}, and one fabric="
        yield Finding(check="strangers", level=level, text=text, step=step)


def is_here(situation: Situation, node: Seen) -> bool:
    """Whether a node is in this host's network, where its addresses are ours."""
    return node.host.partition("-")[0] == situation.system.host.partition("-")[0]


# Endpoints


def endpoints(situation: Situation) -> Iterator[Finding]:
    """Names are resolved; then each inbox is connected to, and shaken hands with, and nothing is sent."""
    settings = situation.joins
    if settings is None:
        return
    yield from _listed(situation, settings)
    yield from _ours(situation)
    asked = list(situation.endpoints)
    if len(asked) > ENDPOINTS_MAX:
        text = f"{len(asked) - ENDPOINTS_MAX} of {len(asked)} endpoints"
        step = "name one of the nodes: peerfabric doctor PEER"
        yield Finding(check="endpoints", level=Level.UNCHECKED, text=text, step=step)
        for endpoint in asked[ENDPOINTS_MAX:]:
            del situation.endpoints[endpoint]
    system = situation.system
    outcomes = system.at_once([partial(system.connect, endpoint) for endpoint in situation.endpoints])
    situation.tcp = dict(zip(situation.endpoints, outcomes, strict=True))
    _leave_out_the_ended(situation, settings)
    accepted = [endpoint for endpoint, tcp in situation.tcp.items() if tcp.outcome == "accepted"]
    hands = system.at_once([partial(_shaken, situation, endpoint) for endpoint in accepted])
    situation.working = dict(zip(accepted, hands, strict=True))
    reached = {whose for endpoint, whose in situation.endpoints.items() if situation.working.get(endpoint) == ""}
    for endpoint, whose in situation.endpoints.items():
        tcp, why = situation.tcp[endpoint], situation.working.get(endpoint, "")
        if tcp.outcome == "accepted" and not why:
            yield Finding(check="endpoints", level=Level.OK, text=f"{endpoint} of {whose} lets this node in")
            continue
        text, step = _outbox(situation, endpoint, whose) if why else ("", "")
        if not text:
            text, step = _refusal(situation, endpoint, whose, tcp, why)
        # A node with several addresses needs one that works.
        level = Level.NOTE if whose in reached else Level.PROBLEM
        yield Finding(check="endpoints", level=level, text=text, step=step)


def _leave_out_the_ended(situation: Situation, settings: Settings) -> None:
    """Who is announced and refuses may have just ended, as commands do: then nobody announces him any more."""
    seen = {endpoint for node in situation.announced.nodes for endpoint in node.inbox}
    doubtful = [endpoint for endpoint, tcp in situation.tcp.items() if tcp.outcome == "refused" and endpoint in seen]
    if not doubtful:
        return
    again = situation.system.announced(settings, situation.secrets, ENDED_WITHIN)
    gone = set(doubtful).difference(*(node.inbox for node in again.nodes))
    nodes = tuple(node for node in situation.announced.nodes if gone.isdisjoint(node.inbox))
    situation.announced = msgspec.structs.replace(situation.announced, nodes=nodes)
    for endpoint in doubtful:
        if endpoint not in gone:
            situation.tcp[endpoint] = situation.system.connect(endpoint)
        elif not port_of(situation.endpoints[endpoint]):  # nobody has named it by its address
            del situation.tcp[endpoint], situation.endpoints[endpoint]


def _shaken(situation: Situation, endpoint: str) -> str:
    """How a handshake ends, with the best of our secrets."""
    whys = [situation.system.handshake(endpoint, situation.key, gate) for _, gate in situation.gates]
    if not whys:
        return situation.system.handshake(endpoint, None, None)
    return "" if "" in whys else whys[0]


def _listed(situation: Situation, settings: Settings) -> Iterator[Finding]:
    """Collect the endpoints to look at."""
    peer = situation.peer
    named = [] if situation.asks_by_name else [peer]
    if not peer:
        named = [each for each in settings.peers if not each.startswith("ipc://")]
    hosts = {host_of(each.removeprefix("dns:")): None for each in named}
    found = dict(
        zip(hosts, situation.system.at_once([partial(situation.system.resolve, host) for host in hosts]), strict=True)
    )
    for host, resolved in found.items():
        yield from _resolution(host, resolved)
    for each in named:
        for address in found[host_of(each.removeprefix("dns:"))].addresses:
            situation.endpoints.setdefault(endpoint_of(address, port_of(each)), each)
    nodes = _others(situation)
    if peer and not named:
        nodes = [node for node in nodes if peer in (node.node_id, node.name)] or [
            node
            for node in nodes
            if not node.name  # multicast tells no names
        ]
    elif peer:
        nodes = []
    for node in nodes:
        for endpoint in node.inbox:
            if endpoint.startswith("tcp://"):
                situation.endpoints.setdefault(endpoint, node.name or node.node_id)


def _resolution(host: str, resolved: Resolved) -> Iterator[Finding]:
    if not resolved.addresses:
        text = f"the name {host!r} leads nowhere: {resolved.text} after {resolved.seconds:.1f} s"
        step = "see that the servers in /etc/resolv.conf answer and know it, or give an address instead"
        yield Finding(check="names", level=Level.PROBLEM, text=text, step=step)
    elif resolved.seconds > SLOW:
        text = f"resolving {host!r} took {resolved.seconds:.1f} s"
        step = "a server in /etc/resolv.conf does not answer: remove it there, or give an address instead"
        yield Finding(check="names", level=Level.NOTE, text=text, step=step)
    elif resolved.addresses != (host,):
        yield Finding(check="names", level=Level.OK, text=f"{host!r} is {', '.join(resolved.addresses)}")


def _ours(situation: Situation) -> Iterator[Finding]:
    """Endpoints of others whose address is one of ours: from here they lead to this host."""
    nodes = {endpoint: node for node in situation.announced.nodes for endpoint in node.inbox}
    for endpoint, whose in list(situation.endpoints.items()):
        address = host_of(endpoint)
        interface = situation.own_addresses.get(address)
        if interface is None or address in ("127.0.0.1", "::1"):
            continue
        node = nodes.get(endpoint)
        if node is not None and is_here(situation, node):
            continue
        del situation.endpoints[endpoint]
        text = f"{endpoint} of {whose} is an address of this host, too ({interface}), so it leads back here"
        step = "give another address of that host; on it, leave the bridge out of interfaces= and advertise="
        several = whose in situation.endpoints.values()
        yield Finding(check="endpoints", level=Level.NOTE if several else Level.PROBLEM, text=text, step=step)


def _outbox(situation: Situation, endpoint: str, whose: str) -> tuple[str, str]:
    """Text and step if that is an outbox, which the port below it shows: an inbox that lets this node in."""
    port = port_of(endpoint) - 1
    inbox = endpoint_of(host_of(endpoint), port)
    if port_of(whose) != port + 1 or situation.system.connect(inbox).outcome != "accepted":
        return "", ""
    if _shaken(situation, inbox):
        return "", ""
    text = f"{endpoint} looks like the outbox of a node, which takes no calls: its inbox is at port {port}"
    return text, f"name the inbox instead: {host_of(endpoint)}:{port}"


def _refusal(situation: Situation, endpoint: str, whose: str, tcp: Tcp, why: str) -> tuple[str, str]:
    """What keeps this node out, and what to do."""
    port, host = port_of(endpoint), host_of(endpoint)
    ours = ", ".join(key_id for key_id, _ in situation.gates)
    node_id = situation.key.node_id if situation.key is not None else ""
    seen = any(endpoint in node.inbox for node in situation.announced.nodes)
    match tcp.outcome:
        case "refused":
            if seen:
                text = f"{endpoint} of {whose} refuses and is announced: a firewall rejects it"
            else:
                text = f"{endpoint} of {whose} refuses: nobody listens there, or a firewall rejects it"
            return text, f"start the node there with that port, and open TCP {port} in the firewall of {host}"
        case "silent":
            text = f"{endpoint} of {whose} does not answer: a firewall drops it, or the way there is cut"
            return text, f"open TCP {port} in the firewall of {host}, and see that this host can reach it"
        case "unreachable":
            return f"{endpoint} of {whose} cannot be reached: {tcp.text}", "look at address, cable and routes"
    match why:
        case "mechanism" if situation.gates:
            text = f"{endpoint} of {whose} is in the clear, and this node has a secret"
            return text, "give both the same secret; a node with one does not talk to one without"
        case "mechanism":
            text = f"{endpoint} of {whose} wants a secret, and this node has none"
            return text, "set PEERFABRIC_SECRET_FILE here to a copy of the file that it has"
        case "denied" if situation.key is None:
            text = f"{endpoint} of {whose} lets only certain nodes in, and this command came under a new id"
            return text, "give the key of a node that is let in: --identity PATH"
        case "denied":
            text = f"{endpoint} of {whose} knows the secret, and does not let node {node_id} in"
            return text, "add that id to [access] allow there, and take it out of revoked"
        case "secret":
            text = f"{endpoint} of {whose} closes the handshake: another secret or fabric than ours (key id {ours})"
            return text, "compare `peerfabric id` on both hosts; both need one secret file, and one fabric="
    text = f"{endpoint} of {whose} accepts, and does not shake hands ({why}): a process that hangs, or none of ours"
    return text, f"look at what listens at port {port} of {host}: ss -tlnp"
