"""Rekeying: what a running node does when its secrets change, or the lists of who may come in.

A secret that is added gets a port of its own, behind its own gate, before anybody is told. One that is removed is not
called at any more and told to nobody, and after GRACE seconds nobody comes in under it. Then a port that was chosen is
that of the first secret again, and others are told so. The port that is left over goes on as it is until the next
secret gets it: peers move from it to the other one meanwhile, and must not find it closed, which would prove a death.
For none of that is a port unbound, since ZeroMQ leaves connections there, which lead nowhere; the inbox is closed as a
whole, and another one goes on in its place. Who may not come in any more loses its links at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from peerfabric.discovery.base import AnnounceKey
from peerfabric.discovery.host import FabricFolder
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.reminder import Reminders
from peerfabric.errors import ConfigError
from peerfabric.nodes.io.curve import Access, Curve, Gate
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.keys import Stamp, read_secrets, stamp
from peerfabric.nodes.settings import Settings
from peerfabric.secret import Secret

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.io.ports import Ports
    from peerfabric.nodes.io.pump import Pump
    from peerfabric.nodes.io.reachability import Reachability
    from peerfabric.nodes.io.sockets import Sockets
    from peerfabric.nodes.membership import Membership

GRACE: Final = 10.0
"""Seconds for which those still come in who know only a secret that was removed."""

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the files."""


class Credentials(NamedTuple):
    """What files and variables say now."""

    secrets: tuple[Secret, ...]
    allow: tuple[str, ...]
    revoked: tuple[str, ...]

    def key_ids(self, fabric: str) -> list[str]:
        """The public names of the secrets, the preferred one first."""
        return [secret.key_id(fabric) for secret in self.secrets]


def access_of(key_ids: Sequence[str], credentials: Credentials) -> Access:
    """Who may come in, if these are the secrets that count."""
    return Access(
        key_ids=frozenset(key_ids), allow=frozenset(credentials.allow), revoked=frozenset(credentials.revoked)
    )


def announce_keys(credentials: Credentials, fabric: str) -> list[AnnounceKey]:
    """What proves announcements, by each secret."""
    return [AnnounceKey(secret.key_id(fabric), secret.announce_key(fabric)) for secret in credentials.secrets]


def look_after_keys(
    node: NodeContext,
    reread: Callable[[], Settings],
    secrets: Sequence[Secret],
    curve: Curve,
    sockets: Sockets,
    ports: Ports | None,
    membership: Membership,
    reachability: Reachability,
) -> Rekeying:
    """Let in whom the keys of a starting node let in, now and when they change; arguments as of `Rekeying`."""
    settings, engine = node.settings, node.engine
    sockets.is_known = engine.is_known
    engine.handle_gates([secret.key_id(settings.fabric) for secret in secrets], node.started_at)
    engine.handle_access(curve.admits_node, node.started_at)
    rekeying = Rekeying(settings, reread, secrets, curve, sockets, ports, node.pump, membership, reachability)
    node.pump.look_after(rekeying.look)
    return rekeying


class Rekeying:
    """Looks after the secrets and lists of one node. Its fields belong to the pump's thread, except where it says so.

    Args:
        reread: Finds the settings anew, out of all places that they came from.
        secrets: What the node has started with.
        ports: Of its inbox; None if it listens over ipc only.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings],
        secrets: Sequence[Secret],
        curve: Curve,
        sockets: Sockets,
        ports: Ports | None,
        pump: Pump,
        membership: Membership,
        reachability: Reachability,
    ) -> None:
        self._reread = reread
        self._settings, self._curve, self._sockets, self._ports = settings, curve, sockets, ports
        self._pump, self._membership, self._reachability = pump, membership, reachability
        self._now = Credentials(tuple(secrets), settings.allow, settings.revoked)
        self._sources = settings.secrets
        self._retired: dict[str, float] = {}
        """Until when each removed secret still counts."""
        self._look_at = clock() + LOOK_EVERY
        self._stamps = self._stamped()
        self._reminders = Reminders()

    # Any thread

    def reload(self) -> Callable[[], bool]:
        """Read all again, and have the pump carry out what is new; return what says whether it has.

        Raises:
            ConfigError: Something cannot be used; everything stays as it is. What is returned raises it, too: a new
                secret may find no port, and then only the lists are in use.
        """
        wanted = self._read()
        carried_out: list[ConfigError | None] = []

        def carry_out() -> None:
            problem: ConfigError | None = None
            try:
                problem = self._carry_out(wanted)
            finally:
                carried_out.append(problem)

        def is_done() -> bool:
            if carried_out and carried_out[0] is not None:
                raise carried_out[0]
            return bool(carried_out)

        self._pump.call(carry_out)
        return is_done

    def _read(self) -> Credentials:
        settings = self._reread()
        if not settings.secrets:
            raise ConfigError("a node with a secret cannot go on without one; give secret=, or start it anew")
        found = Credentials(tuple(read_secrets(settings.secrets)), settings.allow, settings.revoked)
        self._sources = settings.secrets
        return found

    # The pump's thread

    def look(self) -> None:
        """Forget secrets whose time has come, and read files that have changed."""
        now = clock()
        if any(until <= now for until in self._retired.values()):
            self._retired = {key_id: until for key_id, until in self._retired.items() if until > now}
            self._admit(now)
            if not self._retired:
                self._settle()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        stamps = self._stamped()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            wanted = self._read()
        except ConfigError as error:
            _log.error("%s: the old secrets and lists stay in use: %s", self._settings.name, error)
            return
        if self._carry_out(wanted) is not None:
            self._stamps = []  # it is tried again

    def _stamped(self) -> list[Stamp]:
        paths = [*self._sources, *([self._settings.config] if self._settings.config else [])]
        return [stamp(path) for path in paths]

    def _carry_out(self, wanted: Credentials) -> ConfigError | None:
        now = clock()
        try:
            if wanted != self._now:
                self._change_to(wanted, now)
        except ConfigError as error:
            if self._reminders.due("ports", now):
                _log.error("%s: the new lists are in use, not all of the new secrets: %s", self._settings.name, error)
            return error
        return None

    def _change_to(self, wanted: Credentials, now: float) -> None:
        fabric, curve = self._settings.fabric, self._curve
        lists = self._now._replace(allow=wanted.allow, revoked=wanted.revoked)
        if lists != self._now:
            self._now = lists  # first, since what follows may fail
            self._admit(now)
            self._membership.tell_again()  # some of them may come in now
        before, after = self._now.key_ids(fabric), wanted.key_ids(fabric)
        if before == after:
            return
        for secret in wanted.secrets:
            if secret.key_id(fabric) not in curve.gates:
                self._open(Gate(secret, fabric))
        for key_id in after:
            self._retired.pop(key_id, None)
        for key_id in before:
            if key_id not in after:
                self._retired[key_id] = now + GRACE
        self._now = wanted
        self._admit(now)
        with self._pump.lock:
            self._pump.engine.handle_gates(after, now)
        self._membership.rekey(announce_keys(wanted, fabric))
        self._reachability.rekey(after, FabricFolder(fabric, after[0]))
        _log.info("%s: the secrets are %s now, and were %s", self._settings.name, after, before)

    def _open(self, gate: Gate) -> None:
        """Listen behind one more gate."""
        self._curve.add(gate)
        if self._ports is None:
            return
        try:
            endpoint = self._ports.add(gate.key_id)
            if endpoint in self._ports.held:
                self._sockets.bind([endpoint], [], gates=[gate.key_id], held=self._ports.held)
            else:
                self._sockets.regate({endpoint: gate.key_id})
        except BaseException:
            self._ports.inboxes.pop(gate.key_id, None)
            self._curve.remove(gate)
            raise

    def _settle(self) -> None:
        """No removed secret counts any more: its port is for those that are left."""
        if self._ports is None:
            return
        fabric, gates = self._settings.fabric, self._curve.gates
        key_ids = self._now.key_ids(fabric)
        changed = self._ports.settle(key_ids)
        for gate in [gate for key_id, gate in gates.items() if key_id not in self._ports.inboxes]:
            self._curve.remove(gate)  # added again, it needs a port
        if changed:
            self._sockets.regate(changed)
            self._reachability.rekey(key_ids, FabricFolder(fabric, key_ids[0]))

    def _admit(self, now: float) -> None:
        """From now on only those come in, and stay, who may."""
        key_ids = [*self._now.key_ids(self._settings.fabric), *self._retired]
        self._curve.access = access_of(key_ids, self._now)
        self._sockets.admit_anew()
        with self._pump.lock:
            self._pump.engine.handle_access(self._curve.admits_node, now)
        self._pump.wake()
