"""`peerfabric keygen`: a new secret for a fabric, in a file of its own."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress

import click

from peerfabric.names import check_name
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.output import print_line
from peerfabric.nodes.settings import FABRIC_VARIABLE
from peerfabric.secret import KEY_BYTES, Secret, new_secret


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=str))
@click.option("--fabric", metavar="NAME", help="Whose key id is printed.  [default: $PEERFABRIC_FABRIC or 'default']")
@click.option("--show", is_flag=True, help="Print the secret though a terminal, and whoever sees it, is there.")
def keygen(file: str | None, fabric: str | None, show: bool) -> None:
    """Make a new secret in FILE, which only this user can read, and print its key id.

    Copy FILE to each machine of the fabric, by a way that nobody else can read. An existing file is left as it is.
    Without FILE the secret itself goes to standard output, for a program that keeps it.
    """
    name = check_name("fabric", fabric or os.environ.get(FABRIC_VARIABLE) or "default")
    secret = new_secret(secrets.token_bytes(KEY_BYTES))
    if file is None:
        if sys.stdout.isatty() and not show:
            raise click.UsageError("this would show the secret on the terminal; name a FILE for it, or add --show")
        print_line(secret.text())
        return
    _write(file, secret)
    print_line(f"key id {secret.key_id(name)} in fabric {name!r}")


def _write(file: str, secret: Secret) -> None:
    """Write a new file, wholly and on the disk, or none.

    Raises:
        Failure: It is there already, or cannot be made.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise Failure(f"{file} is there already, and may be in use; choose another name, or remove it first") from None
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be made: {_why(error)}; choose another folder") from None
    try:
        try:
            os.fchmod(descriptor, 0o600)  # a umask can only take away, and might take the owner's right
            os.write(descriptor, f"{secret.text()}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            os.unlink(file)
        raise Failure(f"{file} cannot be written: {_why(error)}; choose another folder") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "that is no path"
