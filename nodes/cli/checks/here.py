"""Checks of this machine: configuration, keys, interfaces, ports and limits. No other host is asked."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from peerfabric.discovery.host import RUNTIME_VARIABLE
from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.checks.situation import Finding, Level, Situation, endpoint_of, host_of, split
from peerfabric.nodes.config import VARIABLES, configured, merged
from peerfabric.nodes.interfaces import LEFT_OUT

FILES_WANTED: Final = 16_384
"""Open files of a node with some thousand peers; one takes three and more for each."""
BACKLOG_WANTED: Final = 1024
_MEANT_FOR_OTHERS: Final = ("PEERFABRIC_RUNTIME", "PEERFABRIC_PORTABLE")


def configuration(situation: Situation) -> Iterator[Finding]:
    """What the node is told, and where; its secrets; who it is."""
    system = situation.system
    try:
        situation.configuration = merged(situation.arguments, system.environ, situation.path)
        arguments = {**situation.arguments, "config": situation.path}
        situation.settings = settings = configured(arguments, system.environ)
    except ConfigError as error:
        text, step = split(str(error))
        yield Finding(check="configuration", level=Level.PROBLEM, text=text, step=step)
        return
    values, sources = situation.configuration
    told = [f"{key} {_shown(values[key])} ({sources[key]})" for key in sources if key not in ("allow", "revoked")]
    told += [f"{key} {len(values[key])} nodes ({sources[key]})" for key in ("allow", "revoked") if key in sources]
    yield _ok("configuration", f"fabric {settings.fabric!r}, reach {settings.reach!r}; {', '.join(told) or 'defaults'}")
    yield from _misspelt(system.environ)
    runtime = system.environ.get(RUNTIME_VARIABLE)
    if runtime and not os.path.isabs(runtime):
        text = f"{RUNTIME_VARIABLE}={runtime} is relative, so nodes that are started in different folders do not meet"
        step = f"give an absolute path, here {os.path.abspath(runtime)}"
        yield Finding(check="runtime folder", level=Level.PROBLEM, text=text, step=step)
    if settings.reach == "host":
        level = (
            Level.PROBLEM
            if situation.peer or any("://" in p and not _is_here(p) for p in settings.peers)
            else Level.NOTE
        )
        step = "for other machines set PEERFABRIC_REACH=lan or reach='lan', and a secret"
        yield Finding(check="configuration", level=level, text="this node talks to this machine only", step=step)
    yield from _secrets(situation)
    yield from _identity(situation)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if isinstance(value, str | int | float | bool) else "given"


def _is_here(endpoint: str) -> bool:
    if not endpoint.startswith("tcp://"):
        return True
    try:
        return ipaddress.ip_address(host_of(endpoint)).is_loopback
    except ValueError:
        return host_of(endpoint) == "localhost"


def _misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like ours and mean nothing."""
    for variable in sorted(environ):
        if variable.startswith("PEERFABRIC_") and variable not in (*VARIABLES, *_MEANT_FOR_OTHERS):
            near = difflib.get_close_matches(variable, VARIABLES, 1, 0.85)
            if near:
                text, step = f"the variable {variable} means nothing", f"did you mean {near[0]}?"
                yield Finding(check="configuration", level=Level.NOTE, text=text, step=step)


def _secrets(situation: Situation) -> Iterator[Finding]:
    settings, system = situation.settings, situation.system
    assert settings is not None
    if not settings.secrets:
        if settings.reach == "lan":
            step = "make one with `peerfabric keygen FILE` and set PEERFABRIC_SECRET_FILE on all nodes"
            text = "there is no secret: whoever reaches this node can join, and read along"
            yield Finding(check="secret", level=Level.NOTE, text=text, step=step)
        return
    for source in settings.secrets:
        try:
            secret = system.secret(source)
        except ConfigError as error:
            text, step = split(str(error))
            yield Finding(check="secret", level=Level.PROBLEM, text=text, step=step)
            continue
        situation.secrets.append(secret)
        key_id = secret.key_id(settings.fabric)
        situation.gates.append((key_id, system.gate(secret, settings.fabric)))
        yield _ok("secret", f"{source}: key id {key_id} in fabric {settings.fabric!r}")


def _identity(situation: Situation) -> Iterator[Finding]:
    settings = situation.settings
    assert settings is not None
    try:
        place, situation.key = situation.system.node_key(settings)
    except ConfigError as error:
        text, step = split(str(error))
        yield Finding(check="identity", level=Level.PROBLEM, text=text, step=step)
        return
    if situation.key is not None:
        yield _ok("identity", f"node {situation.key.node_id}, by {place}")
    elif place:
        yield _ok("identity", f"{place} is not there yet; the first start makes it")
    else:
        yield _ok("identity", "a new node id at each start")
    if settings.spool is not None:
        user = situation.system.spool(settings)
        yield _ok("spool", f"{settings.spool} is {f'in use by {user}' if user else 'free'}")


def cryptography(situation: Situation) -> Iterator[Finding]:
    """Whether libzmq can do what a secret needs."""
    there, versions = situation.system.crypto()
    if there:
        yield _ok("libzmq", versions)
        return
    needed = situation.settings is None or bool(situation.settings.secrets)
    yield Finding(
        check="libzmq",
        level=Level.PROBLEM if needed else Level.NOTE,
        text=f"{versions} was built without CURVE, so no secret can be used",
        step="install pyzmq from its wheel: pip install --force-reinstall --only-binary :all: pyzmq",
    )


def interfaces(situation: Situation) -> Iterator[Finding]:
    """The addresses that others are told, and those that they are not, with the reason."""
    settings = situation.settings
    situation.found = situation.system.interfaces(settings.interfaces if settings is not None else ())
    if settings is None or settings.reach == "host":
        return
    if settings.advertise:
        yield _ok("interfaces", f"others are told {', '.join(settings.advertise)}, as advertise= says")
        for text in settings.advertise:
            yield from _of_containers(situation, host_of(f"{text}:0" if text.count(":") != 1 else text))
        return
    announced = [each for each in situation.found if not each.why_not]
    for each in announced:
        yield _ok("interfaces", f"others are told {each.address} of {each.interface}")
        yield from _of_containers(situation, each.address)
    left = [each for each in situation.found if each.why_not and not each.why_not.startswith("leads to this")]
    for each in left:
        text = f"others are not told {each.address} of {each.interface}: {each.why_not}"
        yield Finding(check="interfaces", level=Level.NOTE if not announced else Level.OK, text=text)
    if not announced:
        names = sorted({each.interface for each in left})
        step = f"give interfaces={names!r}, or connect this host" if names else "connect this host to a network"
        text = "this host has no address that others could be told"
        yield Finding(check="interfaces", level=Level.PROBLEM, text=text, step=step)


def _of_containers(situation: Situation, address: str) -> Iterator[Finding]:
    """An address that every host with containers has, and that leads each of them to itself."""
    name = situation.own_addresses.get(address, "")
    if name.startswith(tuple(pattern.rstrip("*") for pattern in LEFT_OUT[:2])):
        text = (
            f"{address} is that of {name}, and other hosts with containers have the same: there it leads to themselves"
        )
        step = "leave it out of interfaces= and advertise="
        yield Finding(check="interfaces", level=Level.PROBLEM, text=text, step=step)


def ports(situation: Situation) -> Iterator[Finding]:
    """Whether the node's own ports can be reached from here, by each address that others are told."""
    settings, system = situation.settings, situation.system
    if settings is None or settings.reach == "host":
        return
    port = fixed_port(situation)
    if not port:
        text = "listen='auto' takes a free port at each start, for which no firewall can be opened"
        step = "where there is one, give listen='tcp://*:7700', and open 7700 and 7701"
        yield Finding(check="ports", level=Level.NOTE, text=text, step=step)
        return
    addresses = ["127.0.0.1", *(each.address for each in situation.found if not each.why_not)]
    for number, what in ((port, "inbox"), (port + 1, "outbox")):
        outcomes = {each: system.connect(endpoint_of(each, number)).outcome for each in addresses}
        working = [address for address, outcome in outcomes.items() if outcome == "accepted"]
        if not working:
            text = f"nobody listens at port {number} ({what}) of this host now"
            step = "start the node, if it should run"
            yield Finding(check="ports", level=Level.NOTE, text=text, step=step)
        for address, outcome in outcomes.items():
            if working and outcome != "accepted" and address != "127.0.0.1":
                text = f"port {number} ({what}) works at {working[0]}, and not at {address} ({outcome})"
                step = "listen at tcp://*, or let this host's firewall pass its own address"
                yield Finding(check="ports", level=Level.PROBLEM, text=text, step=step)
        if working and all(outcomes[address] == "accepted" for address in addresses[1:]):
            text = f"port {number} ({what}) accepts at {', '.join(working)}"
            yield _ok("ports", f"{text}, asked from this host itself: its firewall is seen only from another one")


def fixed_port(situation: Situation) -> int:
    """The port of the inbox, if the configuration says one; else 0."""
    listen = situation.settings.listen if situation.settings is not None else "auto"
    first = listen.rpartition(":")[2].partition("-")[0]
    return int(first) if listen.startswith("tcp://") and first.isdecimal() else 0


def limits(situation: Situation) -> Iterator[Finding]:
    """Limits of the system that a node with many peers meets."""
    soft, hard, backlog = situation.system.limits()
    if hard < FILES_WANTED:
        step = f"raise it: LimitNOFILE={FILES_WANTED * 4} in systemd, or ulimits in a compose file"
        text = f"a process may open {hard:,} files, which is enough for some {hard // 16:,} peers"
        yield Finding(check="limits", level=Level.NOTE, text=text, step=step)
    else:
        yield _ok("limits", f"{soft:,} open files, {hard:,} at most")
    if 0 < backlog < BACKLOG_WANTED:
        step = f"sysctl net.core.somaxconn={BACKLOG_WANTED * 4}"
        text = f"only {backlog:,} connections may wait to be accepted"
        yield Finding(check="limits", level=Level.NOTE, text=text, step=step)


def unchecked(situation: Situation) -> Iterator[Finding]:
    """What cannot be seen from here without rights of root."""
    if os.geteuid() != 0:
        text = "rules of this host's firewall, and whether it drops what leaves"
        step = "as root: nft list ruleset"
        yield Finding(check="firewall", level=Level.UNCHECKED, text=text, step=step)
    text = "whether large frames pass: a path with a small MTU that nobody tells of"
    step = "if small messages come and large ones do not, compare the MTU in `ip link` of both hosts"
    yield Finding(check="network", level=Level.UNCHECKED, text=text, step=step)
    text = "firewalls and switches between hosts, beyond what their answers show"
    step = "run `peerfabric doctor` on the other host as well"
    yield Finding(check="network", level=Level.UNCHECKED, text=text, step=step)


def _ok(check: str, text: str) -> Finding:
    return Finding(check=check, level=Level.OK, text=text)
