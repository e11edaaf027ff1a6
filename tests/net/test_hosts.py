"""Hosts and the faults between them, as far as TCP and UDP can tell."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import pytest

from tests.net import hosts
from tests.net.hosts import Host, Lan, networks, wait_for

SERVE = """
import socket
server = socket.create_server(("::", 7700), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready")
kept = []
while True:
    kept.append(server.accept())
"""
CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 7700), 0.3).close()
    print("connected")
except TimeoutError:
    print("silent")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def connect(host: Host, address: str) -> str:
    """What becomes of a connection from `host`."""
    (found,) = host.run(CONNECT, address)
    return found


def test_faults(lan: Lan) -> None:
    """Cuts, one-way cuts, closed ports and firewalls concern those that they name, until they are undone."""
    a, b, c = lan.three()
    b.start(SERVE).until("ready")

    def reached() -> tuple[str, str]:
        return connect(a, "10.77.0.2"), connect(c, "10.77.0.2")

    assert reached() == ("connected", "connected")
    lan.cut("b", "a")
    assert reached() == ("silent", "connected")
    lan.cut("b")
    assert reached() == ("silent", "silent")
    lan.heal()
    lan.one_way("b", "c")
    assert reached() == ("connected", "silent")
    lan.heal("one-way")
    lan.drop_port("b", 7700, "a")
    assert reached() == ("silent", "connected")
    lan.heal()
    number = b.reject(7700, source="10.77.0.1")
    assert reached() == ("ECONNREFUSED", "connected")
    b.open(number)
    lan.unplug("b")
    assert reached() == ("silent", "silent")
    lan.replug("b")
    end = time.monotonic() + 30.0
    while (found := reached()) != ("connected", "connected"):  # who was looked for in vain is looked for again later
        assert time.monotonic() < end, found


def test_addresses(lan: Lan) -> None:
    """IPv6 alone, two subnets with one host in both, an address that moves, and a bridge that all have alike."""
    a, b, c = lan.host("a", "fd00::1/64"), lan.host("b", "fd00::2/64"), lan.host("c")
    b.plug("10.78.0.2/24", interface="eth1", network="other")
    c.plug("10.78.0.3/24", network="other")
    b.start(SERVE).until("ready")
    assert connect(a, "fd00::2") == connect(c, "10.78.0.2") == "connected"
    assert connect(a, "10.78.0.2") == "ENETUNREACH"
    b.delete_address("fd00::2/64")
    b.add_address("fd00::9/64")
    assert (connect(a, "fd00::9"), connect(a, "fd00::2")) == ("connected", "silent")
    for host in (a, c):
        host.add_bridge("docker0", "172.17.0.1/16")
    assert connect(a, "172.17.0.1") == "ECONNREFUSED", "that address is the host's own everywhere"


def test_hosts_are_machines(lan: Lan) -> None:
    """Each has a name, a /run, a runtime folder and files of its own, and nodes take them for two machines."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    script = """
    import os, socket
    from peerfabric.discovery.host import host_id, runtime_folder
    open("/run/mine", "x").close()
    print(socket.gethostname(), runtime_folder(), host_id().replace("-", " "), open("/etc/resolv.conf").read())
    """
    a.replace_file("/etc/resolv.conf", "nameserver 10.77.0.9")
    (first,), second = a.run(script), b.run(script)[0]
    left, right = first.split(), second.split()
    assert (left[0], right[0]) == ("a", "b")
    assert not set(left[1:4]) & set(right[1:4])
    assert left[4:] == ["nameserver", "10.77.0.9"] != right[4:]


def test_vanished_host(lan: Lan) -> None:
    """Whoever was connected to it hears nothing, not even of the end of its processes."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    b.start(SERVE).until("ready")
    client = a.start("""
    import socket
    made = socket.create_connection(("10.77.0.2", 7700))
    print("ready")
    made.settimeout(0.5)
    try:
        print(made.recv(1))
    except TimeoutError:
        print("silence")
    """)
    client.until("ready")
    b.vanish()
    assert b.processes() == []
    assert client.line() == "silence"


UDP_SINK = """
import socket, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sink.bind(("0.0.0.0", 7700))
sink.settimeout(30)
print("ready")
try:
    while True:
        print(sink.recv(100).decode(), time.monotonic())
        sink.settimeout(0.5)
except TimeoutError:
    pass
"""
UDP_SOURCE = """
import socket, time
source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(300):
    source.sendto(f"{number} {time.monotonic()}".encode(), ("10.77.0.2", 7700))
    time.sleep(0.001)
"""


def flight(a: Host, b: Host) -> tuple[list[int], list[float]]:
    """Numbers of packets in the order in which they arrived, and how long each was on its way."""
    sink = b.start(UDP_SINK)
    sink.until("ready")
    a.run(UDP_SOURCE)
    arrivals = [line.split() for line in sink.finish()]
    return [int(number) for number, _, _ in arrivals], [float(came) - float(left) for _, left, came in arrivals]


def test_forwarder_delays_and_reorders(lan: Lan) -> None:
    """Packets take 50 ± 50 ms and overtake each other; none is lost or torn, and TCP comes through whole."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    numbers, delays = flight(a, b)
    assert numbers == list(range(300))
    assert mean(delays) < 0.02
    forwarder = lan.delay("b", 0.05, 0.05)
    a.run(CONNECT, "10.77.0.2")  # who has that address is found out now, for which packets would wait
    numbers, delays = flight(a, b)
    overtaken = sum(later < before for before, later in itertools.pairwise(numbers))
    print(f"300 packets: mean {mean(delays):.3f} s, longest {max(delays):.3f} s, {overtaken} overtaken")
    assert sorted(numbers) == list(range(300))
    assert 0.035 < mean(delays) < 0.15
    assert max(delays) > 0.08
    assert overtaken > 100
    server = b.start("""
    import hashlib, socket
    server = socket.create_server(("0.0.0.0", 7700))
    print("ready")
    hashed = hashlib.sha256()
    with server.accept()[0] as stream:
        while data := stream.recv(1 << 16):
            hashed.update(data)
    print(hashed.hexdigest())
    """)
    server.until("ready")
    (sent,) = a.run("""
    import hashlib, random, socket
    data = random.Random(7).randbytes(300_000)
    with socket.create_connection(("10.77.0.2", 7700)) as stream:
        stream.sendall(data)
    print(hashlib.sha256(data).hexdigest())
    """)
    assert server.line() == sent
    forwarder.tell("count")
    frames, passed, lost = map(int, forwarder.line().split())
    assert frames > 300
    assert passed > 100
    assert lost == 0


def test_forwarder_loses(lan: Lan) -> None:
    """A share of the packets never arrives."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    lan.delay("b", 0.0, 0.0, loss=0.2)
    for host, address in ((a, "10.77.0.2"), (b, "10.77.0.1")):  # who has them is found out now; else packets would wait
        wait_for(lambda h=host, to=address: connect(h, to) == "ECONNREFUSED", "an answer")  # type: ignore[misc]
    numbers, _ = flight(a, b)
    assert 180 < len(numbers) < 285


def test_nothing_stays(tmp_path: Path) -> None:
    """When the process that made the hosts is killed, they end, and what ran on them."""
    if why := hosts.missing():
        pytest.skip(why)
    script = tmp_path / "killed.py"
    script.write_text(f"""
import importlib.util, sys, time
found = importlib.util.spec_from_file_location("hosts", {hosts.__file__!r})
hosts = importlib.util.module_from_spec(found)
sys.modules["hosts"] = hosts
found.loader.exec_module(hosts)
lan = hosts.Lan()
a = lan.host("a", "10.77.0.1/24")
a.start("import time; print('up'); time.sleep(600)").until("up")
print(lan.folder, a.network, flush=True)
time.sleep(600)
""")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder, network = process.stdout.readline().split()
        assert network in networks().values()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: network not in networks().values(), "the end of the hosts")
    with hosts.Lan():
        assert not Path(folder).exists()
