"""Binding of a starting node: the keys at its sockets, and where these listen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from peerfabric.discovery.host import fabric_folder, host_id
from peerfabric.discovery.remarks import remark
from peerfabric.errors import EndpointInUse
from peerfabric.nodes.aio.opened import Opened
from peerfabric.nodes.epochs import epoch_now
from peerfabric.nodes.io.listening import endpoints
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.settings import Settings
from peerfabric.wire.frames import Address

if TYPE_CHECKING:
    from peerfabric.nodes.io.curve import Curve
    from peerfabric.nodes.io.ports import Announced


def curve_of(opened: Opened, settings: Settings) -> Curve | None:
    """The keys of the node's sockets; None in the clear.

    Raises:
        ConfigError: libzmq has no CURVE.
    """
    if not opened.secrets:
        return None
    assert opened.key is not None, "secrets, and no key of the node: it would talk in the clear"
    from peerfabric.nodes.io.curve import Curve, Gate  # with what only nodes with a secret need
    from peerfabric.nodes.rekeying import Credentials, access_of

    credentials = Credentials(tuple(opened.secrets), settings.allow, settings.revoked)
    gates = [Gate(secret, settings.fabric) for secret in opened.secrets]
    return Curve(opened.key, gates, access_of(credentials.key_ids(settings.fabric), credentials))


def bind(sockets: Sockets, opened: Opened, settings: Settings) -> tuple[Address, Announced | None]:
    """Listen, in a new epoch; return what to tell others, and what may change of it with the addresses of this host.

    Raises:
        EndpointInUse, ConfigError: It cannot listen there.
    """
    epoch = opened.spool.epoch if opened.spool is not None else epoch_now()
    tcp_too = settings.discovery != "auto" and "mdns" in settings.discovery
    announced = None
    try:
        if settings.reach == "host" and not opened.secrets:
            inbox, outbox = sockets.bind(*endpoints(settings.listen, settings.fabric, opened.node_id, tcp_too=tcp_too))
        else:
            (inbox, outbox), announced = _bind_with_ports(sockets, opened, settings, tcp_too=tcp_too)
    except EndpointInUse as error:
        if not settings.listen_source:
            raise
        raise EndpointInUse(error.endpoint, settings.listen_source) from error
    key = opened.key.outbox_public if opened.key is not None and opened.secrets else b""
    return Address(opened.node_id, epoch, settings.name, host_id(), inbox, outbox, key, digest=b""), announced


def _bind_with_ports(
    sockets: Sockets, opened: Opened, settings: Settings, *, tcp_too: bool
) -> tuple[tuple[list[str], list[str]], Announced | None]:
    """Listen over ipc for this host and over TCP for others, and return the endpoints to announce."""
    from peerfabric.nodes.io.ports import Announced, hold, place  # with what only nodes of a LAN need

    gates = opened.key_ids or [""]
    folder = fabric_folder(settings.fabric, opened.first_key_id)
    files, listening = place(settings.listen, settings.reach, folder, opened.node_id, tcp_too=tcp_too)
    ipc: tuple[list[str], list[str]] = ([files[0]], [files[1]]) if files is not None else ([], [])
    if listening is None:
        return sockets.bind(*ipc), None
    ports = hold(listening, gates)
    try:
        sockets.bind([*ipc[0], *ports.bound_inboxes], [*ipc[1], ports.bound_outbox], held=ports.held)
    finally:
        ports.close()
    announced = Announced(ports, settings.interfaces, settings.advertise, local=files is None)
    inbox, outbox = announced.now()
    if not inbox:
        text = "%s: this host has no address for others, so none of them can connect yet; see interfaces="
        remark(logging.WARNING, text, settings.name)
    return ([*ipc[0], *inbox], [*ipc[1], *outbox]), announced
