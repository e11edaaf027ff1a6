"""`peerfabric id`: who a node is, and by which secrets it knows its fabric; nothing of it is secret."""

from __future__ import annotations

import os

import click

from peerfabric.errors import ConfigError
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.output import print_line
from peerfabric.nodes.config import configured
from peerfabric.nodes.keys import KEY_FILE, read_node_key, read_secret
from peerfabric.spool import RealFiles
from peerfabric.spool.folder import read_owner


@click.command(name="id")
@click.argument("path", required=False, type=click.Path(path_type=str))
@click.option("--config", metavar="PATH", help="A TOML file.  [default: $PEERFABRIC_CONFIG]")
@click.option("--fabric", metavar="NAME", help="Whose key ids are printed.  [default: as configured]")
def identify(path: str | None, config: str | None, fabric: str | None) -> None:
    """Print the node id of PATH, a node's key or its spool; it is what [access] allow and revoked want.

    Without PATH: the id of the node that is configured here, and the key id of each secret. Nodes whose key ids differ
    do not meet.
    """
    if path is not None:
        print_line(_node_id(path))
        return
    settings = configured({"config": config, "fabric": fabric})
    place = settings.identity or settings.spool
    if place is not None:
        print_line(f"node {_node_id(place)}")
    for source in settings.secrets:
        print_line(f"key id {read_secret(source).key_id(settings.fabric)} in fabric {settings.fabric!r}, {source}")
    if place is None and not settings.secrets:
        raise Failure("nothing here has an id: no identity=, no spool and no secret; give PATH, or --config PATH")


def _node_id(path: str) -> str:
    """The id of the node whose key or spool lies there.

    Raises:
        Failure: There is neither.
        ConfigError: The key cannot be read, or is damaged.
    """
    from peerfabric.nodes.io.curve import curve_public

    file = os.path.join(path, KEY_FILE) if os.path.isdir(path) else path
    try:
        key = read_node_key(file, curve_public)
    except ConfigError as error:
        raise Failure(str(error)) from None
    if key is not None:
        return key.node_id
    if os.path.isdir(path):
        try:
            owner = read_owner(RealFiles(), os.path.abspath(path))
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}; let this user read it") from None
        if owner is not None:
            return owner.node_id
    raise Failure(f"{path} is neither a node's key nor a spool; the first start of its node makes it")
