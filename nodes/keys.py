"""Keys of a node and secrets of its fabric, read from where they lie; and the key of a new node, made there.

What is read here is in no log and no error. A file counts only if nobody else could have written it, and nobody else
can read it.
"""

from __future__ import annotations

import base64
import errno
import os
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from peerfabric.errors import ConfigError
from peerfabric.secret import KEY_BYTES, NodeKey, Secret, parse_secret

KEY_FILE: Final = "node.key"
KEY_PREFIX: Final = "pfn1-"
FILE_BYTES_MAX: Final = 4096
"""A secret has 63 bytes with its line end; the rest is for blanks around it."""

_CHECK_BYTES: Final = 4
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Of file systems that have no second names."""

Stamp = tuple[int, ...]
"""Changes when a file does."""


# Secrets


def read_secret(source: str, environ: Mapping[str, str] | None = None) -> Secret:
    """The secret that `file:PATH` or `env:NAME` has.

    Raises:
        ConfigError: There is none, others can read or write it, or it is not one. The text names the source only.
    """
    kind, _, where = source.partition(":")
    if kind == "env":
        text = (os.environ if environ is None else environ).get(where)
        if not text:
            raise ConfigError(f"secret={source!r}: that variable is not set; set it, or give secret='file:PATH'")
    else:
        step = f"make one with `peerfabric keygen {where}`, or copy it from another host of the fabric"
        text = read_private(where, f"secret={source!r}", step)
    try:
        return parse_secret(text)
    except ConfigError as error:
        raise ConfigError(f"secret={source!r}: {error}") from None
    finally:
        text = ""  # a traceback shows what is in a frame


def read_secrets(sources: Sequence[str]) -> list[Secret]:
    """The secrets of all sources, in their order; two that are the same are one.

    Raises:
        ConfigError: As of `read_secret`.
    """
    return list(dict.fromkeys(read_secret(source) for source in sources))


def stamp(source: str) -> Stamp:
    """What the file behind a source, or a path, looks like now; empty if it cannot be looked at, or is a variable."""
    if source.startswith("env:"):
        return ()
    try:
        status = os.stat(source.removeprefix("file:"))
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid


def read_private(path: str, what: str, step: str, *, most: int = FILE_BYTES_MAX) -> str:
    """The text of a file that is ours, or root's, alone to write and to read; a link is followed.

    Args:
        what: Names it in errors.
        step: What to do if there is none.
        most: Bytes that it may have.

    Raises:
        ConfigError: It is missing, no such file, or not ours alone; what is in it is not repeated.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if isinstance(error, PermissionError):
            step = "let this user read it, and nobody else: chmod 600"
        raise ConfigError(f"{what}: {error.strerror}; {step}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{what}: is not a regular file; {step}")
        if status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{what}: belongs to user {status.st_uid}, not to {os.geteuid()} or root; chown it")
        if status.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
            raise ConfigError(
                f"{what}: others may use it (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600, "
                f"or in Kubernetes defaultMode: 0440"
            )
        if status.st_size > most:
            raise ConfigError(f"{what}: has {status.st_size:,} bytes, over the limit of {most:,}; {step}")
        return os.read(descriptor, most).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror}; look at the disk") from None
    finally:
        os.close(descriptor)


# The node's own key


def read_node_key(path: str, curve_public: Callable[[bytes], bytes]) -> NodeKey | None:
    """The key in a file; None if there is no file.

    Raises:
        ConfigError: It is not a key, or not ours alone.
    """
    if not os.path.lexists(path):
        return None
    step = "put it back, or remove it to get another node id"
    text = read_private(path, f"the node's key {path}", step).strip()
    try:
        body = text.removeprefix(KEY_PREFIX)
        try:
            raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
        except ValueError:
            raw = b""
        if not text.startswith(KEY_PREFIX) or _text(raw[:KEY_BYTES]) != text:
            raise ConfigError(f"the node's key {path} is damaged or none; {step}")
        return NodeKey(raw[:KEY_BYTES], curve_public)
    finally:
        text = body = ""  # a traceback shows what is in a frame
        raw = b""


def new_node_key(curve_public: Callable[[bytes], bytes]) -> NodeKey:
    """A key that nobody had before."""
    return NodeKey(secrets.token_bytes(KEY_BYTES), curve_public)


def write_node_key(path: str, key: NodeKey, temporary: str) -> bool:
    """Put a new key in place, for its owner only and durable; False if there is one already, which stays.

    Args:
        temporary: A path beside it, which is overwritten.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        data = (_text(key.reveal()) + "\n").encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
        try:
            os.link(temporary, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.lexists(path):
                raise
            os.rename(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    finally:
        data = b""
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return True


def keep_node_key(path: str, curve_public: Callable[[bytes], bytes]) -> NodeKey:
    """The key in a file, which is made if it is not there.

    Raises:
        ConfigError: It cannot be read or written, or is damaged.
    """
    found = read_node_key(path, curve_public)
    if found is None:
        made = new_node_key(curve_public)
        try:
            if write_node_key(path, made, f"{path}.{secrets.token_hex(4)}.tmp"):
                return made
        except OSError as error:
            raise ConfigError(
                f"the node's key {path} cannot be written: {error.strerror}; give a folder that this user can write to"
            ) from None
        found = read_node_key(path, curve_public)  # somebody else was quicker
    if found is None:
        raise ConfigError(f"the node's key {path} was removed just now; let one process at a time make it")
    return found


def first_node_key(folder: str, slot: str, curve_public: Callable[[bytes], bytes]) -> NodeKey | None:
    """The key of a spool's folder for a new slot in it: the one that is there, or a new one; None if it does without.

    It does if there is a spool without one, of an early version or of a node that was given its key apart.

    Args:
        folder: The shared one, in which the key is.
        slot: The folder of the slot, whose lock the caller holds. A new key is written there first: another start may
            make one at this moment, and one of the two counts.

    Raises:
        ConfigError: What is there cannot be used.
        OSError: It cannot be written.
    """
    path = f"{folder}/{KEY_FILE}"
    try:
        found = read_node_key(path, curve_public)
    except ConfigError:
        if os.path.getsize(path):
            raise
        os.unlink(path)  # a loss of power left it without content, and nobody has ever seen its id
        found = None
    if found is None and slot != folder and os.path.lexists(f"{folder}/node"):
        return None
    if found is None:
        found = new_node_key(curve_public)
        if not write_node_key(path, found, f"{slot}/{KEY_FILE}.tmp"):
            found = read_node_key(path, curve_public)
    return found


def slot_key(key: NodeKey, slot: int, curve_public: Callable[[bytes], bytes]) -> NodeKey:
    """The key of a slot, made from that of slot 0. FORMAT.md, section 1."""
    if not slot:
        return key
    number = slot.to_bytes(2, "little")
    return NodeKey(blake2b(number, key=key.reveal(), person=b"pf1 slot", digest_size=KEY_BYTES).digest(), curve_public)


def _text(key: bytes) -> str:
    check = blake2b(key, digest_size=KEY_BYTES).digest()[:_CHECK_BYTES]
    return KEY_PREFIX + base64.b32encode(key + check).decode("ascii").rstrip("=").lower()


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
