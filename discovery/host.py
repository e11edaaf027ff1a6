"""Host: id of this machine, runtime folder, and names for ipc sockets in it."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
import uuid
from pathlib import Path
from typing import Final, Literal

from peerfabric.errors import ConfigError
from peerfabric.names import check_name

RUNTIME_VARIABLE: Final = "PEERFABRIC_RUNTIME"

LOOPBACK: Final = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")
"""How endpoints begin that lead to this machine, or rather to this network namespace."""

IPC_PATH_BYTES_MAX: Final = 107
"""`sun_path` of a Unix socket address has 108 bytes in Linux, with the NUL."""


def host_id() -> str:
    """Return the id of this machine with its network and mount namespaces, as `network-files`.

    Both parts are hashes over the boot id, so that it does not leave the machine. They are told apart because a
    container may share the network of its host (`tcp://127.0.0.1` works) and not its files (`ipc://` does not).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    return "-".join(_short_hash(f"{boot} {_namespace(kind)}") for kind in ("net", "mnt"))


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return kind  # no namespaces here: the machine alone decides


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def shares_kernel(host: str, other: str) -> bool:
    """Whether two hosts are surely one machine, booted once: containers may share its network or its files, not both.

    Each part of a host is a hash over the boot id.
    """
    return any(a == b for a, b in zip(host.split("-"), other.split("-"), strict=False))


def reaches(endpoint: str, their_host: str, our_host: str) -> bool:
    """Whether `endpoint`, announced from `their_host`, can mean the same thing on `our_host`.

    An ipc path needs the same files, a loopback address the same network; anything else may be tried.
    """
    if endpoint.startswith("ipc://"):
        return their_host == our_host
    if endpoint.startswith(LOOPBACK):
        return their_host.partition("-")[0] == our_host.partition("-")[0]
    return True


def runtime_folder() -> Path:
    """Return the folder for what lives as long as its processes, and make it if needed.

    `$PEERFABRIC_RUNTIME`, else `$XDG_RUNTIME_DIR/peerfabric`, else `peerfabric-UID` in the folder for temporary
    files. It is absolute, belongs to us, and nobody else can write to it.

    Raises:
        ConfigError: It cannot be made, or somebody else could plant files there.
    """
    return private_folder(RuntimeFolder().where())


def fabric_folder(fabric: str, key_id: str = "") -> Path:
    """Return the folder of a fabric, or of one of its secrets, in the runtime folder; promises and errors as there."""
    return FabricFolder(fabric, key_id).make()


class FabricFolder:
    """Where nodes of one fabric meet on this machine, as the environment says at construction; yet that may move.

    The folder of a session goes when its user logs out, and comes with the next log-in. Meanwhile new nodes meet beside
    temporary files, so that is where those are to be found that have lost their folder.

    Args:
        key_id: Of the secret that they share. They meet in a folder of their own, or a process of this user that has
            not the secret would meet them there, over sockets that ask for none.
    """

    def __init__(self, fabric: str, key_id: str = "") -> None:
        # No name has a '~'.
        self._name = check_name("fabric", fabric) + (f"~{key_id}" if key_id else "")
        self._runtime = RuntimeFolder()

    def where(self) -> Path:
        """Return where a new node would look now. Costs one system call, and changes nothing."""
        return self._runtime.where() / self._name

    def make(self) -> Path:
        """Return that folder, made if needed; the promises and errors are those of `runtime_folder`."""
        path = self.where()
        private_folder(path.parent)
        return private_folder(path)


class RuntimeFolder:
    """The runtime folder as the environment says at construction; a program may change that later."""

    def __init__(self) -> None:
        chosen, session = os.environ.get(RUNTIME_VARIABLE), os.environ.get("XDG_RUNTIME_DIR")
        self._chosen = Path(chosen).absolute() if chosen else None
        self._session = Path(session).absolute() if session else None

    def where(self) -> Path:
        """Return where a new process would look now. Costs one system call, and changes nothing."""
        if self._chosen is not None:
            return self._chosen
        if self._session is not None and _is_ours(self._session):
            return self._session / "peerfabric"
        return Path(tempfile.gettempdir()).absolute() / f"peerfabric-{os.geteuid()}"


def _is_ours(folder: Path) -> bool:
    # After `su` the variable may still name the folder of the user before.
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700 unless it exists, check that it is ours alone to write, and return it.

    Raises:
        ConfigError: It cannot be made, is a symbolic link or no folder, belongs to somebody else, or group or others
            may write to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise _refused(path, f"cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise _refused(path, "is a symbolic link, which could lead anywhere")
    if status.st_uid != os.geteuid():
        raise _refused(path, f"belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refused(path, f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})")
    return path


def _refused(path: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"runtime folder {path} {problem}; remove it, or set {RUNTIME_VARIABLE} to a folder that only you can write"
    )


def ipc_endpoint(folder: Path, node_id: str, kind: Literal["inbox", "outbox"]) -> str | None:
    """Return a new ipc endpoint in `folder`, or None if its path would be too long: use tcp then.

    Each call draws another name, so a socket left by a killed life can be removed at any time without meeting the
    socket of the next life of the same node.
    """
    path = os.path.abspath(folder / f"{node_id}.{secrets.token_hex(4)}.{kind}")
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX or not _is_text(path):
        return None
    return f"ipc://{path}"


def _is_text(path: str) -> bool:
    # A path that is not UTF-8 cannot be written into an announcement.
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
