"""Networks between hosts: which endpoint leads where from which host, who accepts, and under which gate.

A host is named by the network part of `host`. Each process listens at some addresses of its host, at a port that is
free there, so that the first process of every host has the same one:

    lan       10.0.0.K     leads to the host that has that address now
    docker    172.17.0.1   leads to whoever listens there on the dialler's own host; so do 172.18.0.1, 172.19.0.1
    dead      10.9.0.K     swallows everything that comes from other hosts
    closed    10.8.0.K     refuses other hosts
    proxy     10.7.0.K     accepts other hosts, and says nothing

A gate is the id of the key that a listener demands; "" in the clear and for ipc.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final

from peerfabric.link.endpoints import network_of

if TYPE_CHECKING:
    from tests.world.network import Line
    from tests.world.process import Process
    from tests.world.roles import Role
    from tests.world.world import World

PORT: Final = 7700
PORTS_EACH: Final = 4
"""Inbox, outbox, and the inbox of a second gate."""
GATE_PORTS: Final = {"": 0, "k1": 0, "k2": 2}
"""Gate -> how far its inbox is from the first port of its process."""
DENIES_AFTER: Final = 10.0
"""A listener lets nobody in any more so long after its secret was removed."""
TCP_MAXRT: Final = 8.0
"""A connection on which nothing is acknowledged for so long breaks."""
EVERYWHERE: Final = {"docker": "172.17.0.1", "docker 2": "172.18.0.1", "docker 3": "172.19.0.1"}
"""Addresses that every host has."""
LOCAL: Final = ("172.", "127.0.")
"""How those begin."""
HALF_OPEN: Final = {"10.9.0": "stall", "10.8.0": "refuse", "10.7.0": "accept"}
"""What becomes of those who dial such an address from another host."""


class Stranger:
    """Somebody who accepts connections and says nothing."""

    peer = "stranger"
    silent = stopped = stuck = False


STRANGER: Final = Stranger()


class Lan:
    """Who has which address, what hosts do to each other, and who lets whom in."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.listeners: dict[str, Process | Stranger] = {}
        """Place -> who listens there; a place is an endpoint, with the host before it if every host has such."""
        self.hosts_blocked: dict[tuple[str, str], str] = {}
        """(from host, to host) -> "stall" or "refuse"."""
        self.wires_blocked: dict[tuple[str, str], str] = {}
        """(who dials, whose inbox) -> "stall" or "refuse": other connections between the two work."""
        self.addresses: dict[str, str] = {}
        """Host -> its address now."""
        self.numbers: dict[str, int] = {}
        """Host -> the number in those of its addresses that never change."""
        self.revoked: dict[str, float] = {}
        """Node id that nobody lets in -> since when."""
        self._count = count(1)
        self.gate = "k1"
        """The id of the secret that everybody has."""

    # Addresses

    def number_of(self, network: str) -> int:
        """The number by which a host is known for ever."""
        if network not in self.numbers:
            self.numbers[network] = next(self._count)
        return self.numbers[network]

    def address_of(self, network: str) -> str:
        """The host's address on the LAN, as it is now."""
        return self.addresses.setdefault(network, f"10.0.0.{self.number_of(network)}")

    def free_port(self, host: str) -> int:
        """The first of the ports that the next process on a host has."""
        network = network_of(host)
        taken = {p.port for p in self.world.supervisor.living() if p.network == network}
        return next(port for port in count(PORT, PORTS_EACH) if port not in taken)

    def endpoints(self, role: Role, host: str, port: int, gates: list[str]) -> tuple[list[str], list[str]]:
        """Inbox and outbox of a process of a role, as its host is reached now."""
        network = network_of(host)
        inbox = [f"ipc:///{host}/{port}"] if role.local else []
        outbox = []
        for kind in role.addresses:
            number = self.number_of(network)
            address = {
                "lan": self.address_of(network),
                **EVERYWHERE,
                "dead": f"10.9.0.{number}",
                "closed": f"10.8.0.{number}",
                "proxy": f"10.7.0.{number}",
            }[kind]
            inbox += [f"tcp://{address}:{port + GATE_PORTS[gate]}" for gate in gates]
            outbox.append(f"tcp://{address}:{port + 1}")
        return inbox, outbox

    def at_lan(self, process: Process) -> str:
        """Where everybody can reach this process, unless its host has moved and it does not know."""
        return next(endpoint for endpoint in process.address.inbox if endpoint.startswith("tcp://10.0."))

    def place(self, network: str, endpoint: str) -> str:
        """What an endpoint means on a host."""
        local = endpoint.removeprefix("tcp://").startswith(LOCAL)
        return f"{network} {endpoint}" if local else endpoint

    def listen(self, process: Process) -> None:
        """The process listens at its endpoints from now on."""
        network = process.network
        inbox, outbox = self.endpoints(
            process.role, process.host, process.port, [*process.gates, *process.closed_gates]
        )
        for endpoint in (*inbox, *outbox):
            self.listeners[self.place(network, endpoint)] = process

    def leave(self, process: Process) -> None:
        """Nobody listens any more where the process did."""
        for place in [place for place, who in self.listeners.items() if who is process]:
            del self.listeners[place]

    def usurp(self, process: Process) -> None:
        """Somebody who says nothing accepts from now on where the process listened on the LAN."""
        for endpoint in (*process.address.inbox, *process.address.outbox):
            if endpoint.startswith("tcp://10.0.") and self.listeners.get(endpoint, process) is process:
                self.listeners[endpoint] = STRANGER

    def find(self, owner: Process, endpoint: str) -> tuple[Process | Stranger | None, str]:
        """Who listens at an endpoint as `owner` sees it; if nobody, what becomes of those who dial."""
        ours = owner.network
        address = endpoint.removeprefix("tcp://").rpartition(":")[0]
        half_open = HALF_OPEN.get(address.rpartition(".")[0], "")
        if half_open and address.rpartition(".")[2] != str(self.number_of(ours)):
            return (STRANGER, "") if half_open == "accept" else (None, half_open)
        found = self.listeners.get(self.place(ours, endpoint))
        if found is not None:
            return found, ""
        nobody = address.startswith("10.0.0.") and address not in self.addresses.values()
        return None, "stall" if nobody else "refuse"

    def seen_at(self, line: Line, target: Process) -> str:
        """The address from which frames on a connection come; empty over ipc."""
        if line.endpoint.startswith("ipc"):
            return ""
        if line.owner.network == target.network:
            return line.endpoint.removeprefix("tcp://").rpartition(":")[0]
        return line.source

    # What is in the way

    def between(self, a: Process, b: Process) -> str:
        """What becomes of a packet from the host of `a` to that of `b`."""
        return self.hosts_blocked.get((a.network, b.network), "")

    def on_wire(self, owner: Process, target: Process | Stranger) -> str:
        """What becomes of what `owner` sends to the inbox of `target`, whatever else gets through."""
        return self.wires_blocked.get((owner.peer, target.peer), "")

    def others(self, network: str) -> list[str]:
        """The hosts of everybody else who lives."""
        return sorted({p.network for p in self.world.supervisor.living()} - {network})

    def block_host(self, network: str, how: str, duration: float, *, inward: bool = True, outward: bool = True) -> None:
        """Nothing, or a refusal, comes to the host, leaves it, or both, for a while."""
        pairs = []
        for other in self.others(network):
            pairs += [(other, network)] * inward + [(network, other)] * outward
        self.hosts_blocked.update(dict.fromkeys(pairs, how))
        self.world.after(duration, partial(self._open_hosts, pairs))

    def _open_hosts(self, pairs: list[tuple[str, str]]) -> None:
        for pair in pairs:
            self.hosts_blocked.pop(pair, None)
        self.world.network.heal([])

    def block_wires(self, pairs: list[tuple[str, str]], how: str, duration: float) -> None:
        """Only what the first of each pair sends to the inbox of the second is dropped or refused, for a while."""
        self.wires_blocked.update(dict.fromkeys(pairs, how))
        self.world.after(duration, partial(self._open_wires, pairs))

    def _open_wires(self, pairs: list[tuple[str, str]]) -> None:
        for pair in pairs:
            self.wires_blocked.pop(pair, None)
        self.world.network.heal([])

    def heal(self) -> None:
        """Nothing is in the way any more, and everybody is let in."""
        self.hosts_blocked.clear()
        self.wires_blocked.clear()
        self.readmit()

    def closing_gates(self) -> bool:
        """Whether somebody has a listener whose secret is gone, and still lets others in."""
        now = self.world.now
        return any(at > now for p in self.world.supervisor.living() for at in p.closed_gates.values())

    def rotated(self) -> None:
        """Everybody has the other secret now, who is still to be started, too."""
        self.gate = "k2" if self.gate == "k1" else "k1"
        for role in self.world.supervisor.roles:
            role.gates = [self.gate]
        for process in self.world.supervisor.living():
            if process.gates != [self.gate] and not process.leaving:
                process.change_gates([self.gate])

    # Addresses that change

    def move(self, network: str) -> None:
        """The host has another address from now on: what it had is nobody's, and old connections die silently."""
        old = self.address_of(network)
        self.addresses[network] = f"10.0.0.{next(self._count)}"
        self.world.log(f"{network} moves from {old} to {self.addresses[network]}")
        living = self.world.supervisor.living()
        for process in living:
            for line in process.lines.values():
                if line.up and line.target is not None and not isinstance(line.target, Stranger):
                    ends = {process.network, line.target.network}
                    line.dead = line.dead or (network in ends and len(ends) > 1)
            for feed in process.feeds.values():
                if feed.target is not None and not isinstance(feed.target, Stranger):
                    ends = {process.network, feed.target.network}
                    feed.dead = feed.dead or (network in ends and len(ends) > 1)
        for process in living:
            if process.network == network:
                self.leave(process)
                self.listen(process)
                # It notices some time later, and only then do others hear of it.
                self.world.after(self.random.uniform(0.1, 1.5), process.readdress)

    # Who is let in

    def gate_of(self, target: Process, endpoint: str) -> str:
        """The gate of the listener of `target` at an endpoint."""
        if endpoint.startswith("ipc") or not target.secret:
            return ""
        return {port: gate for gate, port in GATE_PORTS.items() if gate}[int(endpoint.rpartition(":")[2]) - target.port]

    def lets_in(self, owner: Process, target: Process, endpoint: str, gate: str) -> str:
        """Why `target` does not let `owner` in at `endpoint` under `gate`; "" if it does."""
        wanted = self.gate_of(target, endpoint)
        if gate != wanted:
            return "secret" if gate and wanted else "mechanism"
        return "" if not wanted or self._reads(owner, target, wanted) else "denied"

    def takes_from(self, line: Line, target: Process) -> bool:
        """Whether the listener still reads what comes on this connection."""
        return not line.gate or self._reads(line.owner, target, line.gate)

    def _reads(self, owner: Process, target: Process, gate: str) -> bool:
        closed = target.closed_gates.get(gate, inf)
        return closed > self.world.now and owner.address.node_id not in self.revoked

    def revoke(self, node_id: str) -> None:
        """Nobody lets the node in any more."""
        self.revoked[node_id] = self.world.now
        self._tell_access()

    def readmit(self) -> None:
        """Everybody is let in again."""
        if self.revoked:
            self.revoked.clear()
            self._tell_access()

    def _tell_access(self) -> None:
        revoked = frozenset(self.revoked)
        for process in self.world.supervisor.living():
            if process.address.node_id not in revoked:
                process.admit(revoked)
