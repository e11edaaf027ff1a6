"""Folder of a spool: its lock, and the file `node`, who it belongs to. FORMAT.md, sections 1 and 2."""

from __future__ import annotations

from errno import EACCES, ENOENT, ENOTDIR, EPERM, EROFS
from typing import Final

import msgspec

from peerfabric.errors import SpoolError, SpoolLocked, SpoolUnsafe
from peerfabric.spool.budget import Budget
from peerfabric.spool.files import FULL, Files, Place, Process, discard, refusal, write
from peerfabric.spool.format import CURSOR_MAGIC, NODE_MAGIC, SEGMENT_MAGIC, decode_sheet, encode_sheet
from peerfabric.spool.segment import Found, read_header


def make_folder(files: Files, path: str, outer: str) -> Place:
    """Have a folder, whose name in `outer` is durable before anything is in it.

    So one that is empty may have been made by a process that died before it could sync.
    """
    made = files.make_folder(path)
    place = files.check_folder(path)
    if made or not files.names(path):
        files.sync_folder(outer)
    return place


_NO_PLACE: Final = frozenset({EACCES, ENOENT, ENOTDIR, EPERM, EROFS})
"""What the system says of a place at which there can be no folder of ours, however often one tries."""


def make_spool_folder(files: Files, folder: str) -> Place:
    """As `make_folder`, of the folder that a user has named.

    Raises:
        SpoolError: None can be made there.
    """
    try:
        return make_folder(files, folder, outer_of(folder))
    except OSError as error:
        if isinstance(error, SpoolError) or error.errno not in _NO_PLACE:
            raise
        problem = f"cannot be made there: {error.strerror}"
        raise SpoolError(folder, problem, errno=error.errno, step="choose another folder") from error


def outer_of(folder: str) -> str:
    return folder.rpartition("/")[0] or ("/" if folder.startswith("/") else ".")


def missing(files: Files, folder: str) -> list[str]:
    """The folders that have to be made for it, innermost first."""
    found: list[str] = []
    while folder != outer_of(folder):
        try:
            files.check_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            found.append(folder)
            folder = outer_of(folder)
        except SpoolUnsafe:
            break  # it is there; whether it will do is looked at later
        else:
            break
    return found


def remove(files: Files, folders: list[str]) -> None:
    """Remove folders that were made in vain."""
    for folder in folders:
        try:
            files.remove_folder(folder)
        except FileNotFoundError:
            pass  # it was not made after all
        except OSError:
            return  # somebody else begins there


def unmake(files: Files, folder: str, *, keys: bool) -> None:
    """Remove what a first start has made that did not come as far as the file `node`. Called with the lock.

    Args:
        keys: Whether a key in it is of that start, too, and not one that somebody has put there.
    """
    try:
        found = files.names(folder)
        if set(found) <= BEGUN:
            for name in found:
                if name != SLOTS and (keys or not name.startswith(KEY)):
                    files.unlink(f"{folder}/{name}")
    except OSError:
        pass  # the next start takes what is left for its own


class Claim:
    """The lock of a node id on this machine, so that no copy of the folder runs beside it.

    Raises:
        SpoolLocked: Somebody has it.
        OSError: `claims` cannot be used.
    """

    def __init__(self, files: Files, claims: str, node_id: str, folder: str) -> None:
        self._files, self.path = files, f"{claims}/{node_id.encode().hex()}.lock"
        self.lock = -1
        """-1: there is no space for it, which keeps no spool from starting."""
        try:
            self.lock = files.lock(self.path)
        except SpoolLocked as error:
            who = f"process {error.pid}" if error.pid else "another process"
            problem = f"is a copy of the spool that {who} uses"
            raise SpoolLocked(folder, error.pid, problem, is_copy=True) from None
        except OSError as error:
            if error.errno not in FULL:
                raise

    def sign(self, pid: int) -> None:
        """Say who has it."""
        if self.lock >= 0:
            sign(self._files, self.lock, pid)

    def release(self) -> None:
        """Give the id up, and leave nothing behind."""
        if self.lock >= 0:
            try:
                if self._files.is_at(self.lock, self.path):  # else it was cleared away, and is perhaps somebody else's
                    self._files.unlink(self.path)
            except OSError:
                pass  # a file of this name that nobody has locked is in nobody's way
        self.abandon()

    def abandon(self) -> None:
        """Let go of the descriptor only, as in a forked child."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            self._files.close(lock)


def sign(files: Files, lock: int, pid: int) -> None:
    """Say in the lock who has it: for people, so a disk without space for that is none of our business."""
    text = b"%d\n" % pid
    try:
        if files.write(lock, 0, [text]) == len(text):
            files.truncate(lock, len(text))
            return
    except OSError as error:
        if error.errno not in FULL:
            raise
    files.truncate(lock, 0)


def put_owner(files: Files, folder: str, owner: Owner, budget: Budget) -> None:
    """Replace `node`, on a full disk with space of the spare; if nothing is left of that, where it is.

    Raises:
        OSError: The disk refused; or there is no space, and no `node` yet.
    """
    try:
        budget.with_spare(lambda: write_owner(files, folder, owner))
    except OSError as error:
        if error.errno not in FULL:
            raise
        try:
            overwrite_owner(files, folder, owner)
        except FileNotFoundError:
            raise error from None


class Hold:
    """Our lock on a spool's folder. Whoever is about to make or change something in there checks it first.

    Args:
        folder: Where `lock` was taken, in the file of that name.
        place: Where the folder lies.
    """

    def __init__(self, files: Files, folder: str, place: Place, lock: int) -> None:
        self._files, self._folder, self._place, self._lock = files, folder, place, lock

    def check(self) -> None:
        """See that the folder is the one that we have locked.

        Raises:
            SpoolError: It was removed, moved or replaced, or it cannot be looked at.
        """
        try:
            if self._files.is_at(self._lock, f"{self._folder}/lock"):
                return
        except OSError as error:
            raise refusal(error, self._folder) from error
        if self.is_deleted():
            step = "what is still in memory is delivered, all else is lost: close this node and start again"
            raise SpoolError(self._folder, "this spool was deleted while in use", errno=ENOENT, step=step)
        problem = "this spool was moved or replaced while in use, or its lock was removed"
        step = "close this node, put back what it had, and start again"
        raise SpoolError(self._folder, problem, errno=ENOENT, step=step)

    def is_deleted(self) -> bool:
        """Whether nothing is left of the folder, for all that we can see: no later life will find anything in it."""
        if self._files.has_name(self._lock):
            return False
        try:
            return self._files.check_folder(self._folder) != self._place
        except (FileNotFoundError, SpoolUnsafe):
            return True
        except OSError:
            return False


def check_file(files: Files, descriptor: int, path: str, step: str) -> None:
    """See that an open file is still the one at `path`.

    Raises:
        SpoolError: It was removed, moved or replaced. `step` says what to do then.
        OSError: It cannot be looked at.
    """
    if not files.is_at(descriptor, path):
        raise SpoolError(path, "was removed, moved or replaced while in use", errno=ENOENT, step=step)


EPOCH_RANDOM_BITS: Final = 20
_EPOCH_BITS_MAX: Final = 53
"""Integers up to there are exact in every language."""
_NODE_BYTES_MAX: Final = 64 * 1024
_LOCK_BYTES_MAX: Final = 20
KEY: Final = "node.key"
_KEY_MAGIC: Final = b"pfn1-"
SLOTS: Final = "slots"
TAKING: Final = "taking"
SERVING: Final = "serving"
SLOTS_MAX: Final = 256
BEGUN: Final = frozenset({"lock", "node.tmp", KEY, f"{KEY}.tmp", SLOTS})
"""What a first start makes before there is the file `node`."""
SHEET_BYTES: Final = 512
"""Of `node`: a sector, which disks write as a whole."""
_NAME_BYTES_MAX: Final = 64


class Owner(msgspec.Struct, kw_only=True, frozen=True):
    """The content of the file `node`, and its generation, the counter of epochs."""

    node_id: str
    epoch: int = 0
    device: int = 0
    inode: int = 0
    pid: int = 0
    boot: str = ""
    started: str = ""
    claim: str = ""
    """The lock of the node id that is held as long as it is open; empty if there was none to be had."""
    died: bool = False
    counter: int = 0
    fabric: bytes = b""
    """Whose messages it has, as `fabric_mark`; empty: nobody knows."""
    name: str = ""
    """Of the node; for people."""
    left: int = 0
    """Messages that were unsettled when it was closed in order."""
    letters: int = 0
    """Dead letters that were neither retried nor dropped then."""
    adopted: bool = False
    """Whoever has it open goes on for the process that had it before; for people."""

    @property
    def place(self) -> Place:
        """Where the folder was when this was written."""
        return Place(self.device, self.inode)

    @property
    def process(self) -> Process:
        """Who has it open; pid 0 for nobody."""
        return Process(self.pid, self.boot, self.started)

    def has_died(self, place: Place, boot: str) -> bool:
        """Whether a node died with it and none has taken note of that: found open, here, in the boot of that time."""
        return self.died or (self.pid != 0 and self.boot == boot and self.place == place)


def read_owner(files: Files, folder: str) -> Owner | None:
    """What `node` says; None if there is none, or it is damaged.

    Raises:
        NewerFormat: A later version wrote it.
        OSError: It cannot be read.
    """
    path = f"{folder}/node"
    try:
        descriptor = files.open(path, write=False)
    except FileNotFoundError:
        return None
    try:
        data = files.read(descriptor, 0, min(files.size(descriptor), _NODE_BYTES_MAX))
    finally:
        files.close(descriptor)
    sheet = decode_sheet(NODE_MAGIC, data, path)
    if sheet is None:
        return None
    try:
        owner = msgspec.msgpack.decode(sheet.payload, type=Owner)
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.structs.replace(owner, counter=sheet.generation)


def write_owner(files: Files, folder: str, owner: Owner) -> None:
    """Replace `node`; durable when it returns.

    Raises:
        OSError: The old one is still there.
    """
    path = f"{folder}/node"
    try:
        files.unlink(f"{path}.tmp")
    except FileNotFoundError:
        pass
    descriptor = files.open(f"{path}.tmp", create=True)
    try:
        _put(files, descriptor, owner, SHEET_BYTES)  # as large as it will ever be
    except OSError:
        discard(files, f"{path}.tmp", descriptor)
        raise
    files.close(descriptor)
    files.rename(f"{path}.tmp", path)
    files.sync_folder(folder)


def overwrite_owner(files: Files, folder: str, owner: Owner) -> None:
    """Write `node` where it is, which needs no space; durable when it returns.

    For a disk that has none. If the power goes meanwhile it may be damaged, and segments say whose they are; but it is
    smaller than a sector, and disks write these as a whole.

    Raises:
        FileNotFoundError: There is none.
        OSError: It may be damaged.
    """
    descriptor = files.open(f"{folder}/node")
    try:
        _put(files, descriptor, owner)
    finally:
        files.close(descriptor)


def _put(files: Files, descriptor: int, owner: Owner, size: int = 0) -> None:
    data = encode_sheet(NODE_MAGIC, owner.counter, msgspec.msgpack.encode(owner))
    if len(data) > SHEET_BYTES:  # the path of its claim is long
        owner = msgspec.structs.replace(owner, name="")
        data = encode_sheet(NODE_MAGIC, owner.counter, msgspec.msgpack.encode(owner))
    data = data.ljust(size, b"\0")
    _, problem = write(files, descriptor, 0, [data], len(data))
    if problem is not None:
        raise problem
    files.sync(descriptor)


def guess_owner(files: Files, folder: str) -> Owner | None:
    """What segment headers say of the node whose `node` is lost: its id, and the highest epoch that they know."""
    best: Owner | None = None
    for inner in _logs(files, folder):
        for name in _names(files, inner):
            header = read_header(files, f"{inner}/{name}")[1] if name.endswith(".seg") else None
            if header is not None and (best is None or header.epoch > best.epoch):
                best = Owner(node_id=header.node_id, epoch=header.epoch, counter=header.epoch >> EPOCH_RANDOM_BITS)
    return best


def find_logs(files: Files, folder: str) -> dict[str, Found]:
    """What is in the folder of each log; so no later version has written in a spool, before anything in it is changed.

    One that writes newer files says so in `node` first; but that may be lost. What cannot be read now is looked at when
    its log is opened, which changes nothing of it before.

    Raises:
        NewerFormat: A later version has.
    """
    logs = {}
    for name in _names(files, f"{folder}/queues"):
        queue = f"{folder}/queues/{name}"
        found = logs[queue] = Found(files, queue, strict=False)
        if "dead" in found.names or not found.whole:
            logs[f"{queue}/dead"] = Found(files, f"{queue}/dead", strict=False)
    return logs


def _logs(files: Files, folder: str) -> list[str]:
    """The folders in which there may be logs."""
    queues = [f"{folder}/queues/{name}" for name in _names(files, f"{folder}/queues")]
    return [inner for queue in queues for inner in (queue, f"{queue}/dead")]


def find_owner(files: Files, folder: str, place: Place, warnings: list[str]) -> Owner | None:
    """Who the folder belongs to; None for a new one."""
    owner = read_owner(files, folder)
    if owner is None:
        owner = guess_owner(files, folder)
        if owner is not None:
            warnings.append(f"{folder}/node is lost or damaged; node id and epoch are taken from segments")
        return owner
    if owner.place != place:
        if owner.pid and files.alive(owner.process) and _is_claimed(files, owner.claim):
            problem = f"is a copy of the spool that process {owner.pid} uses"
            raise SpoolLocked(folder, owner.pid, problem, is_copy=True)
        warnings.append(
            f"{folder} is a copy: its messages have the ids of the original; run one of the two, and delete the other"
        )
    return owner


def _is_claimed(files: Files, claim: str) -> bool:
    """Whether a spool is open in a process that runs, which may have closed it and could not tell this copy.

    Without a claim nobody can say, and a process that ran with it is taken to do so still.
    """
    if not claim:
        return True
    try:
        files.close(files.lock(claim, shared=True))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def check_ours(files: Files, folder: str) -> None:
    """See that a folder is empty, a spool, or what a first start has left that did not come to its end.

    Raises:
        SpoolUnsafe: Something else is in it. Nothing was touched.
        OSError: It cannot be read.
    """
    names = files.names(folder)
    if not set(names) <= BEGUN:
        ours = _begins(files, f"{folder}/node", NODE_MAGIC) or _has_logs(files, folder) or _has_slots(files, folder)
    else:
        ours = all(_is_begun(files, folder, name) for name in names)
    if not ours:
        listed = ", ".join(repr(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
        step = "give a folder that is empty or not there yet, such as a new one inside of it"
        raise SpoolUnsafe(folder, f"is no spool and holds files of others ({listed})", step=step)


def _is_begun(files: Files, folder: str, name: str) -> bool:
    """Whether a file has what a first start leaves in it, zeros after a loss of power included."""
    if name == SLOTS:
        return all(inner in (TAKING, SERVING) or is_number(inner) for inner in _names(files, f"{folder}/{name}"))
    start = _start(files, f"{folder}/{name}", _LOCK_BYTES_MAX + 1)
    if start is None:
        return True  # its process is at work just now
    if name == "lock":
        text = start.strip(b"\0\n")
        return len(start) <= _LOCK_BYTES_MAX and (not text or text.isdigit())
    if name.startswith(KEY):
        magic = start[: len(_KEY_MAGIC)]
        return not magic.strip(b"\0") or _KEY_MAGIC.startswith(magic)
    magic = start[: len(NODE_MAGIC)]
    return not magic.strip(b"\0") or NODE_MAGIC.startswith(magic)


def _has_logs(files: Files, folder: str) -> bool:
    """Whether there is a segment or a cursor of ours: then `node` is lost, and not somebody else's."""
    for inner in _logs(files, folder):
        for name in _names(files, inner):
            ours = SEGMENT_MAGIC if name.endswith(".seg") else CURSOR_MAGIC
            if name.endswith((".seg", ".0", ".1")) and _begins(files, f"{inner}/{name}", ours):
                return True
    return False


def _has_slots(files: Files, folder: str) -> bool:
    """Whether one of its other slots is surely ours."""
    slots = f"{folder}/{SLOTS}"
    return any(is_number(name) and _begins(files, f"{slots}/{name}/node", NODE_MAGIC) for name in _names(files, slots))


def is_number(name: str) -> bool:
    """Whether a slot other than the shared folder itself can be called that."""
    return name.isascii() and name.isdigit() and name[0] != "0" and int(name[:4]) < SLOTS_MAX


def _begins(files: Files, path: str, magic: bytes) -> bool:
    return _start(files, path, len(magic)) == magic


def _start(files: Files, path: str, size: int) -> bytes | None:
    """The first bytes of a file; of a folder nothing. None if there is none."""
    try:
        descriptor = files.open(path, write=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return files.read(descriptor, 0, size)
    except IsADirectoryError:
        return b""
    finally:
        files.close(descriptor)


def _names(files: Files, folder: str) -> list[str]:
    try:
        return files.names(folder)
    except NotADirectoryError:
        return []


def next_owner(
    files: Files,
    before: Owner,
    place: Place,
    counter_min: int,
    random_bits: int,
    fabric: bytes = b"",
    name: str = "",
    *,
    adopted: bool = False,
) -> Owner:
    """The owner in its next epoch; with the fabric and name that it had, if there are no others."""
    counter = max(before.counter + 1, counter_min)
    if counter >> (_EPOCH_BITS_MAX - EPOCH_RANDOM_BITS):
        raise ValueError(f"counter {counter} is over {_EPOCH_BITS_MAX - EPOCH_RANDOM_BITS} bits")
    process = files.process()
    return Owner(
        died=before.has_died(place, process.boot),
        node_id=before.node_id,
        epoch=counter << EPOCH_RANDOM_BITS | random_bits,
        counter=counter,
        device=place.device,
        inode=place.inode,
        pid=process.pid,
        boot=process.boot,
        started=process.started,
        fabric=fabric or before.fabric,
        name=cut_name(name) or before.name,
        adopted=adopted,
    )


def cut_name(name: str) -> str:
    """As much of a name as the sheet has room for."""
    return name.encode()[:_NAME_BYTES_MAX].decode(errors="ignore")


class OtherFabric(SpoolError):
    """The spool has messages of another fabric, to whose consumers they must not go. Nothing was changed."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, "has messages of another fabric", step="use it in that fabric, or give another folder")


def check_fabric(files: Files, folder: str, owner: Owner, fabric: bytes) -> None:
    """See that nothing of another fabric is in a spool; one that does not say whose it is will do.

    Raises:
        OtherFabric: There is.
    """
    if owner.fabric in (b"", fabric) or not (owner.pid or owner.left or owner.letters):
        return
    if _names(files, f"{folder}/queues"):
        raise OtherFabric(folder)
