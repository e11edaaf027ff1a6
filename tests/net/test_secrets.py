"""Secrets between hosts: who is kept out, what he is told, and that mending it needs no restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.net.consoles import Console, lay
from tests.net.hosts import Host, Lan, wait_for
from tests.net.pipeline import Cut, Pipeline, count, figure, unexcused

SEED: dict[str, Any] = {"reach": "lan", "listen": "tcp://*:7700", "discovery": ["exchange"]}
JOIN: dict[str, Any] = {
    "reach": "lan",
    "listen": "tcp://*:7700",
    "discovery": ["static", "exchange"],
    "peers": ["tcp://10.77.0.1:7700"],
}
CONNECTED = 2.0


def keygen(host: Host, name: str = "secret") -> Path:
    """A new secret on a host."""
    path = host.folder / name
    host.command("keygen", str(path)).finish()
    return path


def config(host: Host, access: str, **node: object) -> str:
    lines = "\n".join(f"{key} = {value!r}" for key, value in node.items())
    return str(lay(host, "node.toml", f"[node]\n{lines}\n[access]\n{access}\n"))


def test_wrong_secret(lan: Lan) -> None:
    """Who has another secret is told so, gets nothing through, and is in within 2 s of having the right one."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    right = keygen(a)
    wrong = keygen(b)
    seed = Console(a, role="produce", **SEED, secret=f"file:{right}")
    stranger = Console(b, role="consume", **JOIN, secret=f"file:{wrong}")
    stranger.wait_for_reason("secret")
    assert seed.ask("frames()") == 0
    lay(b, "secret", right.read_text())
    began_at = time.monotonic()
    stranger.reload()
    figure("the right secret: connected after", stranger.wait_for_link("a") - began_at, CONNECTED)
    seed.wait_for_link("b")


@pytest.mark.long
def test_no_secret(lan: Lan) -> None:
    """Who speaks in the clear where others do not is told so, whichever side it is, and gets nothing through."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    seed = Console(a, role="produce", **SEED, secret=f"file:{keygen(a)}")
    stranger = Console(b, role="consume", **JOIN, secret="insecure")
    stranger.wait_for_reason("mechanism")
    assert seed.ask("frames()") == 0


@pytest.mark.long
def test_removed_secret(lan: Lan) -> None:
    """Who still has only the old secret loses his link 10 s after it was removed, and is in again with the new one."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    old, new = keygen(a, "old"), keygen(a, "new")
    own = lay(b, "secret", old.read_text())
    both, alone = f'["file:{old}", "file:{new}"]', f'["file:{new}"]'
    seed = Console(a, role="produce", **SEED, config=str(lay(a, "node.toml", f"[node]\nsecret = {both}\n")))
    late = Console(b, role="consume", **JOIN, secret=f"file:{own}")
    late.wait_for_link("a")
    lay(a, "node.toml", f"[node]\nsecret = {alone}\n")
    began_at = time.monotonic()
    seed.reload()
    ended_at = wait_for(lambda: not seed.has_links("b"), "the end of the link")
    figure("a removed secret: link ended after", ended_at - began_at, 12.0)
    lay(b, "secret", new.read_text())
    began_at = time.monotonic()
    late.reload()
    figure("the new secret: connected after", late.wait_for_link("a") - began_at, CONNECTED)
    # When the old one does not count any more, the port that was given by hand leads to the new one.
    time.sleep(12.0)
    c = lan.host("c", "10.77.0.3/24")
    lay(c, "secret", new.read_text())
    began_at = time.monotonic()
    fresh = Console(c, role="consume", **JOIN | {"discovery": ["static"]}, secret=f"file:{c.folder / 'secret'}")
    figure("a fresh node at the fixed port: connected after", fresh.wait_for_link("a") - began_at, 2 * CONNECTED)


@pytest.mark.long
def test_allow(lan: Lan) -> None:
    """Who is not in `allow` is denied, gets nothing through, and is in within 2 s of being added."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    secret = keygen(a)
    own = lay(b, "secret", secret.read_text())
    other = "0" * 32
    seed = Console(
        a,
        role="produce",
        **SEED,
        secret=f"file:{secret}",
        config=config(a, f'allow = [{{id = "{other}", name = "x"}}]'),
    )
    guest = Console(b, role="consume", **JOIN, secret=f"file:{own}")
    guest.wait_for_reason("denied")
    assert seed.ask("frames()") == 0
    config(a, f'allow = [{{id = "{other}", name = "x"}}, {{id = "{guest.node_id}", name = "b"}}]')
    began_at = time.monotonic()
    seed.reload()
    figure("added to allow: connected after", guest.wait_for_link("a") - began_at, CONNECTED)


def test_revoked(lan: Lan) -> None:
    """A node that is revoked loses its links within 3 s of the file's change, and gets nothing through any more."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    secret = keygen(a)
    own = lay(b, "secret", secret.read_text())
    seed = Console(a, role="produce", **SEED, secret=f"file:{secret}", config=config(a, "revoked = []"))
    guest = Console(b, role="consume", **JOIN, secret=f"file:{own}")
    guest.wait_for_link("a")
    seed.wait_for_link("b")
    config(a, f'revoked = ["{guest.node_id}"]')
    began_at = time.monotonic()
    ended_at = wait_for(lambda: not seed.has_links("b"), "the end of the link")
    figure("revoked by a file: link ended after", ended_at - began_at, 3.0)
    guest.wait_for_reason("denied")
    before = seed.ask("frames()")
    time.sleep(1.0)
    assert seed.ask("frames()") == before
    config(a, "revoked = []")
    began_at = time.monotonic()
    seed.reload()
    figure("no longer revoked: connected after", guest.wait_for_link("a") - began_at, CONNECTED)


@pytest.mark.long
def test_two_copies_of_one_identity(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Of two nodes with one key the earlier one stops within 2 s of their meeting; nothing is lost at the other."""
    a, b, c = three
    secret = keygen(a)
    for host in (b, c):
        lay(host, "secret", secret.read_text())
    pipeline = Pipeline(lan, secret="file:secret")
    own = {host.name: {"secret": f"file:{host.folder / 'secret'}"} for host in three}
    pipeline.start(a, b, c, **own | {"b": own["b"] | {"identity": str(b.folder / "node.key")}})
    pipeline.wait_until_flowing("b", "c")
    d = lan.host("d", "10.77.0.4/24")
    lay(d, "secret", secret.read_text())
    lay(d, "node.key", (b.folder / "node.key").read_text())
    earlier = pipeline.processes["b"]
    pipeline.start_one("consume", d, secret=f"file:{d.folder / 'secret'}", identity=str(d.folder / "node.key"))
    pipeline.processes["d"].until("ready")
    met_at = time.monotonic()
    earlier.until("another copy")
    stopped_at = time.monotonic()
    figure("two copies of one identity: the earlier stops after", stopped_at - met_at, 2.0)
    pipeline.wait_until_flowing("d", "c", count=5)
    outcome = pipeline.finish()
    count("two copies", f"{outcome.sent} messages, 0 lost, {len(outcome.twice)} ran twice")
    assert unexcused(outcome, [Cut("b", met_at, stopped_at)]) == []


@pytest.mark.long
def test_rotation(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Old → both → new on three nodes at 1,000 messages a second: nothing is lost, and nobody is gone for anybody."""
    old = keygen(three[0]).read_text()
    new = keygen(three[0], "newer").read_text()
    pipeline = Pipeline(lan, work=0.0005, in_hand=0.1, rate=1000.0, secret="insecure")
    for host in three:
        lay(host, "old", old)
        lay(host, "new", new)
        lay(host, "node.toml", '[node]\nsecret = ["file:old"]\n')
    nodes = {host.name: {"config": str(host.folder / "node.toml"), "secret": None} for host in three}
    pipeline.start(*three, **nodes)
    pipeline.wait_until_flowing("b", "c", count=500)
    for sources in ('"file:old", "file:new"', '"file:new", "file:old"', '"file:new"'):
        for host in three:
            lay(host, "node.toml", f"[node]\nsecret = [{sources}]\n")
            time.sleep(3.0)
    time.sleep(12.0)
    told = {name: process.errors() for name, process in pipeline.processes.items()}
    outcome = pipeline.finish()
    count("rotation", f"{outcome.sent} messages, 0 lost, {len(outcome.twice)} ran twice, {outcome.account['counters']}")
    # A wire is redialled under the new secret, and its link goes on with a new life.
    assert " is gone" not in told["a"]
    assert "a is gone" not in told["b"] + told["c"]
    assert outcome.account["counters"].get("deaths", 0) == 0
    assert outcome.twice == []
