"""Hosts: network namespaces on a switch in a namespace of its own, with cables to cut and firewalls to close.

No namespace has a name. Each lives as long as the process that holds it, and that as long as the pipe from the process
that made it: so nothing is left behind, however a test ends, and two runs at once know nothing of each other.
"""

from __future__ import annotations

import functools
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HUNG: Final = 60.0
"""Seconds after which something that should happen has not. Wide: machines that run tests are busy."""

TOOLS: Final = ("ip", "nft", "nsenter", "setpriv", "unshare")

_HOLDER: Final = """
mount -t tmpfs run /run
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
ip link set lo up
hostname {name}
echo held
exec cat
"""
"""`cat` ends with its standard input. Addresses of IPv6 may be used at once, as there is nobody to collide with."""


class Namespace:
    """A network, mount and host name of its own, held by a process; `pid` leads into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--propagation=private",
                "sh",
                "-e",
                "-c",
                _HOLDER.format(name=name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"held\n", f"no namespaces for {name}"
        self.pid = self._holder.pid
        self.network = os.readlink(f"/proc/{self.pid}/ns/net")

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in here; it is killed when the thread that starts it ends."""
        inside = ["nsenter", "-t", str(self.pid), "--net", "--mount", "--uts", "--"]
        return [*inside, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def call(self, *command: str, text: str | None = None) -> str:
        """Run a command in here that takes no time, and return what it printed."""
        done = subprocess.run(
            self.enter(command), input=text, capture_output=True, text=True, timeout=HUNG, check=False
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.stderr}{text or ''}"
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Run commands of `ip`, one a line."""
        self.call("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))

    def processes(self) -> list[int]:
        """Every process that is in this network, but its holder."""
        return [pid for pid, network in networks().items() if network == self.network and pid != self.pid]

    def close(self) -> None:
        """Kill whatever runs in here, and let it go."""
        for pid in self.processes():
            _kill(pid)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(HUNG)
        self._holder.stdout.close()


def networks() -> dict[int, str]:
    """The network namespace of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = os.readlink(f"/proc/{entry}/ns/net")
            except OSError:
                pass  # it has ended, or is ending
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Running:
    """A process in a namespace. Its standard output is read line by line, its standard error goes into a file."""

    def __init__(self, space: Namespace, command: Sequence[str], environment: dict[str, str], errors: Path) -> None:
        self._name = space.name
        self._errors = errors
        with open(errors, "wb") as file:
            self.process = subprocess.Popen(
                space.enter(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, within: float = HUNG) -> str:
        """The next line that it prints."""
        try:
            found = self._lines.get(timeout=within)
        except queue.Empty:
            raise AssertionError(f"{self._name} said nothing for {within:g} s\n{self.errors()}") from None
        assert found is not None, f"{self._name} ended\n{self.errors()}"
        return found

    def until(self, begin: str, within: float = HUNG) -> str:
        """The rest of the next line that begins with `begin`; others are passed over."""
        end = time.monotonic() + within
        while True:
            line = self.line(max(0.0, end - time.monotonic()))
            if line.startswith(begin):
                return line.removeprefix(begin).strip()

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, now."""
        self.process.kill()
        self.process.wait(HUNG)

    def finish(self, within: float = HUNG) -> list[str]:
        """Wait for its end, which is to be without an error, and return what it printed since."""
        code, found = self.end(within)
        assert code == 0, f"{self._name} ended with {code}\n" + "\n".join(found) + self.errors()
        return found

    def end(self, within: float = HUNG) -> tuple[int, list[str]]:
        """Wait for its end, whichever it is; return its exit code, and what it printed since."""
        code = self.process.wait(within)
        return code, self._left()

    def _left(self) -> list[str]:
        self._reader.join(HUNG)
        found = []
        while (line := self._lines.get(timeout=HUNG)) is not None:
            found.append(line)
        return found

    def errors(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(HUNG)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self._reader.join(HUNG)


class Host(Namespace):
    """A machine: its own addresses, firewall, name, /run, home and runtime folder of nodes."""

    def __init__(self, lan: Lan, name: str) -> None:
        super().__init__(name)
        self.lan = lan
        self.folder = lan.folder / name
        self.folder.mkdir(mode=0o700)
        self.environment: dict[str, str] = {}
        self._started: list[Running] = []
        self._rules: dict[int, str] = {}

    # Cables and addresses

    def plug(self, *addresses: str, interface: str = "eth0", network: str = "lan") -> None:
        """Put a cable between `interface`, which gets `addresses` such as "10.77.0.1/24", and the switch."""
        self.lan._attach(self, interface, network)
        self.ip(f"link set {interface} up")
        for address in addresses:
            self.add_address(address, interface)

    def add_address(self, address: str, interface: str = "eth0") -> None:
        self.ip(f"addr add {address} dev {interface}" + (" nodad" if ":" in address else ""))

    def delete_address(self, address: str, interface: str = "eth0") -> None:
        self.ip(f"addr del {address} dev {interface}")

    def add_bridge(self, name: str, address: str) -> None:
        """An interface that leads nowhere, such as a docker0 of which every machine has one alike."""
        self.ip(f"link add {name} type bridge", f"link set {name} up", f"addr add {address} dev {name}")

    # Firewall

    def reject(self, port: int, *, source: str = "") -> int:
        """Answer whoever comes to a TCP port with RST, as many firewalls do; also on connections that were open."""
        of = f"{_family(source)} saddr {source} " if source else ""
        return self.firewall(f"{of}tcp dport {port} reject with tcp reset")

    def firewall(self, rule: str) -> int:
        """Add a rule, in the words of nft, for what comes in; return its number, for `open`."""
        number = next(self.lan._serial)
        self._rules[number] = rule
        self._apply()
        return number

    def open(self, number: int | None = None) -> None:
        """Take one rule back, or all of them."""
        if number is None:
            self._rules.clear()
        else:
            del self._rules[number]
        self._apply()

    def _apply(self) -> None:
        self.call("nft", "-f", "-", text=_ruleset("inet", "input", self._rules.values()))

    # Files that only this machine sees

    def replace_file(self, path: str, text: str) -> None:
        """Let `text` stand in the file `path`, for this host only."""
        own = self.folder / path.strip("/").replace("/", "_")
        own.write_text(text)
        self.call("mount", "--bind", str(own), path)

    # Processes

    def start(self, script: str | Path, *arguments: object, **environment: str) -> Running:
        """Run a Python script, by its text or its path. Not from a thread that ends before the process shall."""
        if isinstance(script, str):
            path = self.folder / f"script{next(self.lan._serial)}.py"
            path.write_text(textwrap.dedent(script))
            script = path
        return self.spawn(sys.executable, "-u", str(script), *map(str, arguments), **environment)

    def command(self, *arguments: str, **environment: str) -> Running:
        """Run the installed command `peerfabric`."""
        return self.spawn(str(Path(sys.executable).with_name("peerfabric")), *arguments, **environment)

    def spawn(self, *command: str, **environment: str) -> Running:
        """Run a program."""
        errors = self.folder / f"errors{next(self.lan._serial)}"
        self._started.append(Running(self, command, self._environment() | environment, errors))
        return self._started[-1]

    def run(self, script: str | Path, *arguments: object, **environment: str) -> list[str]:
        """Run a Python script to its end and return what it printed."""
        return self.start(script, *arguments, **environment).finish()

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PEERFABRIC_")}
        runtime, home = str(self.folder / "run"), str(self.folder)
        own |= {"PEERFABRIC_RUNTIME": runtime, "HOME": home, "PEERFABRIC_FABRIC": self.lan.fabric}
        return own | {"PYTHONUNBUFFERED": "1"} | self.environment

    def vanish(self) -> float:
        """Pull the plug: the cable is dead, and everything that ran is killed. Returns when that was."""
        at = self.lan.cut(self.name)
        for pid in self.processes():
            _kill(pid)
        for running in self._started:
            running.process.wait(HUNG)
        return at

    def close(self) -> None:
        for running in self._started:
            running.close()
            if (errors := running.errors()) and not self.lan.quiet:
                print(f"--- {self.name}, standard error:\n{errors[-4000:]}")
        super().close()


class Lan:
    """Hosts on a switch. What its methods do to frames on their way adds up, until `heal`.

    At the end what processes on the hosts wrote to their standard error is printed, unless it is to be `quiet`. Methods
    that break or mend something return the monotonic instant after which it holds; the clock is the same on all
    hosts, since they are one machine.
    """

    def __init__(self, fabric: str = "", *, quiet: bool = False) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"pfl{os.getpid()}-"))
        self.fabric = fabric or f"l{os.urandom(4).hex()}"
        self.quiet = quiet
        self.hosts: dict[str, Host] = {}
        self._serial = itertools.count(1)
        self._rules: dict[str, str] = {}
        self._bridges: set[str] = set()
        self._ports: dict[str, list[str]] = {}
        self._forwarders: list[Running] = []
        self._switch = Namespace("switch")

    def host(self, name: str, *addresses: str) -> Host:
        """A new host, plugged in with `addresses`, if there are any."""
        made = self.hosts[name] = Host(self, name)
        if addresses:
            made.plug(*addresses)
        return made

    def three(self) -> tuple[Host, Host, Host]:
        """Hosts a, b and c with the addresses 10.77.0.1 to 3."""
        a, b, c = (self.host(name, f"10.77.0.{number}/24") for number, name in enumerate("abc", 1))
        return a, b, c

    def _attach(self, host: Host, interface: str, network: str) -> None:
        port = self._cable(host, interface)
        self._switch.ip(f"link set {port} master {self._bridge(network)}", f"link set {port} up")

    def delay(self, name: str, delay: float, spread: float, loss: float = 0.0, seed: int = 1) -> Running:
        """Lead the cable of a host through a forwarder, from which each frame leaves after `delay` ± `spread` seconds.

        Returns the forwarder, which answers a line by three numbers: frames that came, were overtaken, were lost.
        """
        (near,) = self._ports[name]
        far, port = f"{name}.far", f"{name}.port"
        self._switch.ip(
            f"link set {near} nomaster",
            f"link add {far} type veth peer name {port}",
            f"link set {port} master lan",
            f"link set {far} up",
            f"link set {port} up",
        )
        self._ports[name] = [port]
        script = Path(__file__).with_name("forwarder.py")
        command = [sys.executable, "-u", str(script), near, far, *map(str, (delay, spread, loss, seed))]
        made = Running(self._switch, command, dict(os.environ), self.folder / f"errors{next(self._serial)}")
        self._forwarders.append(made)
        made.until("forwarding")
        return made

    def _cable(self, host: Host, interface: str) -> str:
        port = f"{host.name}.{interface}"
        self._switch.ip(f"link add {port} type veth peer name {interface} netns {host.pid}")
        self._ports.setdefault(host.name, []).append(port)
        return port

    def _bridge(self, network: str) -> str:
        if network not in self._bridges:
            self._bridges.add(network)
            self._switch.ip(
                f"link add {network} type bridge forward_delay 0 mcast_snooping 0", f"link set {network} up"
            )
        return network

    # Faults of the network

    def cut(self, name: str, other: str = "") -> float:
        """Let nothing through to and from a host, or between two; nobody is told."""
        return self._add(f"cut {name} {other}", *self._between(name, other), *self._between(other, name))

    def one_way(self, source: str, to: str = "") -> float:
        """Let nothing through from one host to another, or to all others."""
        return self._add(f"one-way {source} {to}", *self._between(source, to))

    def deafen(self, name: str) -> float:
        """Let nothing through to a host, and everything from it."""
        return self._add(f"deaf {name}", *self._between("", name))

    def drop_port(self, name: str, port: int, source: str = "") -> float:
        """Let nothing through to a TCP port of a host, from one other host or from all."""
        return self._add(f"port {name} {port} {source}", *self._between(source, name, f"tcp dport {port}"))

    def lose(self, percent: float, name: str = "") -> float:
        """Lose frames at random, those to and from one host or all."""
        by_chance = f"numgen random mod 1000 < {round(percent * 10)}"
        rules = (*self._between(name, "", by_chance), *self._between("", name, by_chance)) if name else (by_chance,)
        return self._add(f"lose {name}", *(rules if name else (f"{by_chance} drop",)))

    def filter_multicast(self) -> float:
        """Let no multicast through but what finds neighbours."""
        return self._add("multicast", "ip daddr 224.0.0.0/4 drop", "ip6 nexthdr udp ip6 daddr ff00::/8 drop")

    def heal(self, fault: str = "") -> float:
        """Undo all faults, or those whose description begins with `fault`, such as "cut b"."""
        self._rules = {what: rules for what, rules in self._rules.items() if fault and not what.startswith(fault)}
        return self._apply()

    def flap(self, name: str, period: float, duration: float) -> list[tuple[float, float]]:
        """Cut a host off for half of each `period` of seconds; return from when until when it was, each time."""
        cuts = []
        end = time.monotonic() + duration
        while time.monotonic() < end:
            began = self.cut(name)
            time.sleep(period / 2)
            cuts.append((began, self.heal(f"cut {name}")))
            time.sleep(period / 2)
        return cuts

    def unplug(self, name: str) -> float:
        """Pull the cable of a host, which notices: its interface has no carrier any more."""
        self._switch.ip(*(f"link set {port} down" for port in self._ports[name]))
        return time.monotonic()

    def replug(self, name: str) -> float:
        self._switch.ip(*(f"link set {port} up" for port in self._ports[name]))
        return time.monotonic()

    def _between(self, source: str, to: str, match: str = "") -> list[str]:
        sources = [f'iifname "{port}" ' for port in self._ports[source]] if source else [""]
        targets = [f'oifname "{port}" ' for port in self._ports[to]] if to else [""]
        return [f"{i}{o}{match} drop" for i in sources for o in targets]

    def _add(self, what: str, *rules: str) -> float:
        self._rules[what] = "\n".join(rules)
        return self._apply()

    def _apply(self) -> float:
        self._switch.call("nft", "-f", "-", text=_ruleset("bridge", "forward", self._rules.values()))
        return time.monotonic()

    # The end

    def close(self) -> None:
        """End everything that runs on the hosts, and the hosts."""
        spaces = {space.network for space in (self._switch, *self.hosts.values())}
        for host in self.hosts.values():
            host.close()
        for forwarder in self._forwarders:
            forwarder.close()
        self._switch.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        wait_for(lambda: not spaces & set(networks().values()), "the end of all namespaces")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sweep() -> None:
    """Remove the folders of those who were killed, which is all that they have left."""
    for folder in Path(tempfile.gettempdir()).glob("pfl*-*"):
        pid = folder.name.removeprefix("pfl").partition("-")[0]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(folder, ignore_errors=True)


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _ruleset(family: str, hook: str, rules: object) -> str:
    """A table in place of the one before, in one step."""
    lines = "\n".join(f"  {line}" for rule in rules for line in str(rule).splitlines())  # type: ignore[attr-defined]
    return f"""table {family} faults
delete table {family} faults
table {family} faults {{
 chain {hook} {{
  type filter hook {hook} priority 0; policy accept;
{lines}
 }}
}}
"""


def wait_for(condition: Callable[[], object], what: str, within: float = HUNG) -> float:
    """Wait until `condition` holds; return the monotonic instant."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {within:g} s"
        time.sleep(0.01)
    return time.monotonic()


@functools.cache
def missing() -> str:
    """Why there can be no hosts here, or nothing."""
    if sys.platform != "linux":
        return "network namespaces are a feature of Linux"
    if os.geteuid() != 0:
        return "hosts as network namespaces need root"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"hosts as network namespaces need the program `{tool}`"
    try:
        with Lan() as lan:
            a, _ = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
            lan.lose(0)
            a.reject(7700)
    except (AssertionError, OSError) as error:
        return f"no hosts as network namespaces here: {error}"
    return ""
