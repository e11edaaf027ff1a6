"""Orphans whose consumers are on another host: the adopted node is reached over the LAN, with the key of its slot."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.net.hosts import Host
from tests.net.test_secrets import keygen

HASTE = """
    import sys, time
    from peerfabric import Node
    from peerfabric.nodes.storage import adoption
    from peerfabric.spool import orphans
    adoption.LOOK_EVERY, adoption.SHARE, orphans.RUN_BEFORE, orphans.GRACE = 0.05, 1.0, 0.0, 0.2

    spool, secret, listen = sys.argv[1:]
    lan = {"reach": "lan", "secret": f"file:{secret}", "discovery": ["mdns"], "listen": listen}
"""
OWNER = f"""{HASTE}
    node = Node("shop", spool=spool, **lan)
    jobs = node.producer("jobs", int)
    for n in range(500):
        jobs.send(n)
    print("stored", flush=True)
    sys.stdin.readline()
"""
HELPER = f"""{HASTE}
    node = Node("helper", spool=spool, **lan)
    node.statistics()
    print("runs", flush=True)
    while not node.statistics().adopted:
        time.sleep(0.01)
    print("adopted", flush=True)
    while node.statistics().adopted:
        time.sleep(0.01)
    print("done", flush=True)
    node.close()
"""
KITCHEN = f"""{HASTE}
    got = []
    with Node("kitchen", **lan) as node:
        for message in node.consumer("jobs", int):
            if not got:
                print("first", flush=True)
                sys.stdin.readline()
            with message as body:
                got.append((body, message.attempt, message.sender))
            if len(got) == 500:
                break
    print("all" if got == [(n, 1, "shop") for n in range(500)] else got, flush=True)
"""


def test_consumers_on_another_host(three: tuple[Host, Host, Host], tmp_path: Path) -> None:
    """The owner is killed, and a process beside it sends the rest to the other host, through ports of the range."""
    a, b, _ = three
    secret, spool = keygen(a, "secret"), tmp_path / "spool"
    given = (spool, secret, "tcp://*:7700-7719")
    owner = a.start(OWNER, *given)
    owner.until("stored")
    helper = a.start(HELPER, *given)
    helper.until("runs")
    kitchen = b.start(KITCHEN, *given)
    kitchen.until("first")
    owner.signal(signal.SIGKILL)
    helper.until("adopted")
    kitchen.tell("go on")
    kitchen.until("all")
    helper.until("done")
    kitchen.finish()
    helper.finish()
