"""`peerfabric id`: who a node is, and by which secrets it knows its fabric; nothing of it is secret."""

from __future__ import annotations

import os

import click

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.output import print_line
from peerfabric.nodes.config import configured
from peerfabric.nodes.keys import KEY_FILE, read_node_key, read_secret, slot_key
from peerfabric.spool import RealFiles
from peerfabric.spool.folder import SLOTS_MAX, read_owner


@click.command(name="id")
@click.argument("path", required=False, type=click.Path(path_type=str))
@click.option("--config", metavar="PATH", help="A TOML file.  [default: $PEERFABRIC_CONFIG]")
@click.option("--fabric", metavar="NAME", help="Whose key ids are printed.  [default: as configured]")
@click.option(
    "--slots",
    metavar="N",
    type=click.IntRange(1, SLOTS_MAX),
    default=1,
    help="Of a spool that processes share: the ids of its first N slots, the same for ever.  [default: 1]",
)
def identify(path: str | None, config: str | None, fabric: str | None, slots: int) -> None:
    """Print the node id of PATH, a node's key or its spool; it is what [access] allow and revoked want.

    Without PATH: the id of the node that is configured here, and the key id of each secret. Nodes whose key ids differ
    do not meet.
    """
    if path is not None:
        for node_id in _node_ids(path, slots):
            print_line(node_id)
        return
    settings = configured({"config": config, "fabric": fabric})
    place = settings.identity or settings.spool
    if place is not None:
        for node_id in _node_ids(place, slots):
            print_line(f"node {node_id}")
    for source in settings.secrets:
        print_line(f"key id {read_secret(source).key_id(settings.fabric)} in fabric {settings.fabric!r}, {source}")
    if place is None and not settings.secrets:
        raise Failure("nothing here has an id: no identity=, no spool and no secret; give PATH, or --config PATH")


def _node_ids(path: str, slots: int) -> list[str]:
    """The ids of the nodes whose key or spool lies there, one for each slot.

    Raises:
        Failure: There is neither, or no key from which further slots would have their ids.
        ConfigError: The key cannot be read, or is damaged.
    """
    from peerfabric.nodes.io.curve import curve_public

    file = os.path.join(path, KEY_FILE) if os.path.isdir(path) else path
    try:
        key = read_node_key(file, curve_public)
    except ConfigError as error:
        raise Failure(str(error)) from None
    if key is not None:
        return [slot_key(key, slot, curve_public).node_id for slot in range(slots)]
    if os.path.isdir(path):
        try:
            owner = read_owner(RealFiles(), os.path.abspath(path))
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}; let this user read it") from None
        if owner is not None and slots > 1:
            raise Failure(
                f"{path} has no {KEY_FILE}, so the ids of further slots are random; `peerfabric peers` shows them"
            )
        if owner is not None:
            return [owner.node_id]
    raise Failure(f"{path} is neither a node's key nor a spool; the first start of its node makes it")
