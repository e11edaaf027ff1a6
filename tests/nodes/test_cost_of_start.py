"""What a program pays for one node before it has sent anything: modules that it loads, and memory that it touches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nodes.conftest import Child

STORAGE = ",".join(f"peerfabric.nodes.storage.{name}" for name in ("disk_thread", "ledger_store", "room_watch"))
SPOOL = f"crc32c,email,importlib.metadata,zipfile,peerfabric.spool,{STORAGE}"
FINDING = ",".join(f"peerfabric.discovery.{name}" for name in ("mdns", "txt", "remembered", "packages", "conformance"))
LAN = f"{FINDING},ifaddr,ipaddress,tomllib,peerfabric.secret,peerfabric.nodes.io.curve,peerfabric.nodes.io.ports"
REST = "zeroconf,click,rich,http,urllib.request,multiprocessing,sqlite3,xml,unittest,zmq.asyncio"
SERVICES = "peerfabric.service,peerfabric.nodes.service.calls,peerfabric.nodes.service.threads"
ASKED = ",".join(f"peerfabric.nodes.door.{name}" for name in ("conversation", "requests", "about", "stacks"))
ASKED += ",peerfabric.admin"
WEB = "peerfabric.gateway,starlette,uvicorn,anyio,h11"
LOOKS = "peerfabric.nodes.aio.outside,peerfabric.nodes.whereabouts,peerfabric.node_status,peerfabric.queue.queue_status"
TESTING = "peerfabric.testing,peerfabric.nodes.aio.lives"
NOBODY_NEEDS = f"{WEB},{LOOKS},{TESTING},{ASKED},{SPOOL},{SERVICES},{LAN},peerfabric.queue.handon,{REST}"
BLOCKING = f"{NOBODY_NEEDS},asyncio,ssl,subprocess,concurrent.futures"
"""asyncio, with what it brings, is a third of all that `from peerfabric import Node` would load."""

LOADED = """
    import sys
    unwanted, front = sys.argv[1].split(","), sys.argv[2]
    before = set(sys.modules)

    def loaded():
        return sorted(name for name in unwanted if name in sys.modules and name not in before)

    if front == "blocking":
        from peerfabric import Node
        print(loaded())
        with Node("a") as node:
            node.producer("jobs", int).send(1)
            with node.consumer("jobs", int).get(timeout=20):
                pass

            @node.on_message("more")
            def handle(body: int) -> None:
                pass

            node.subscriber("ticks", int)
            node.publisher("ticks", int).publish(1)
            node.peers(), node.statistics(), node.dead_letters("jobs")
    else:
        import asyncio
        from peerfabric import AsyncNode
        print(loaded())

        async def main():
            async with AsyncNode("a") as node:
                await node.producer("jobs", int).send(1)
                with await node.consumer("jobs", int).get(timeout=20):
                    pass

        asyncio.run(main())
    print(loaded())
    """

MEMORY = """
    import ctypes, sys
    from peerfabric import Node

    def peak():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

    before = peak()
    nodes = []
    for name in "abc":
        nodes.append(Node(name))
        nodes[-1].statistics()
        print(peak() - before)
    for node in nodes:
        node.close()
    """

KEPT = """
    import ctypes
    from peerfabric import Node

    libc = ctypes.CDLL(None)

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "free", "small", "maps", *"abcdef")]

    libc.mallinfo2.restype = Info
    libc.malloc.restype = ctypes.c_void_p

    def mapped():
        before = libc.mallinfo2().maps
        for _ in range(16):  # more than is free after the import, which may have compiled all modules
            libc.malloc(1 << 20)
        return libc.mallinfo2().maps > before

    print(mapped())
    with Node("a"):
        print(mapped())
    """


@pytest.mark.parametrize(("front", "unwanted"), [("blocking", BLOCKING), ("async", NOBODY_NEEDS)])
def test_modules(start: Callable[..., Child], front: str, unwanted: str) -> None:
    """Neither importing nor running a node without a spool loads what belongs to something else."""
    child = start(LOADED, unwanted, front)
    out, error = child.finish()
    assert (out.splitlines(), error) == (["[]", "[]"], "")


def test_peak_of_memory(start: Callable[..., Child]) -> None:
    """No node touches a block of memory that it does not use, neither the first of a process nor those after it."""
    out, error = start(MEMORY).finish()
    assert not error
    peaks = [int(line) for line in out.splitlines()]
    assert len(peaks) == 3
    assert max(peaks) < 16 * 1024, f"KiB above what was there before: {peaks}"


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="of glibc")
def test_freed_memory_is_kept(start: Callable[..., Child]) -> None:
    """With a node, memory for a body of 1 MiB comes from what was freed, and is not asked of the system each time."""
    out, error = start(KEPT).finish()
    assert (out.split(), error) == (["True", "False"], "")
