"""Slots: the spools of one shared folder, of which each process takes one. FORMAT.md, sections 1, 2 and 7.

The folder itself is slot 0; further ones lie in `slots/` in it. Each slot is a spool like any other, with its own lock,
node id and epochs, and that lock alone says who lives. `slots/taking` only keeps apart those that choose at one moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from errno import EMFILE, ENFILE, ENOMEM, EROFS
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from peerfabric.errors import SpoolError, SpoolLocked, SpoolUnsafe, counted
from peerfabric.names import is_name
from peerfabric.spool.files import FULL, Files, refusal
from peerfabric.spool.folder import (
    BEGUN,
    KEY,
    SERVING,
    SLOTS,
    SLOTS_MAX,
    TAKING,
    OtherFabric,
    Owner,
    check_ours,
    is_number,
    make_folder,
    make_spool_folder,
    missing,
    read_owner,
    remove,
    sign,
)

if TYPE_CHECKING:
    from peerfabric.spool.spool import Spool

TAKING_TIME: Final = 5.0
"""Seconds that a starter waits for `taking`. Safety rests on the locks of the slots, so then it goes on without: a
process that was stopped in there must not stop all starts."""
COPY_TIME: Final = 1.0
"""Seconds for which a slot must look like a copy of one in use: of a process that dies the kernel closes one file after
the other, so the lock of its slot may be free before that of its node id. And for which a start waits for those who
only look into a slot, before it goes by what is in there."""

Open = Callable[[int, str], "Spool"]
"""Opens the slot of that number, in that folder, which is made if there is none: `Spool.open` with all else that it
needs, `any_fabric=False` and, from slot 1 on, `shrinks=True`. Errors as there."""
Moments = Callable[[float], Iterable[object]]
"""The moments at which something is to be tried, for so many seconds: one at once, and then one after each pause."""

_OURS: Final = frozenset({EMFILE, ENFILE, ENOMEM, EROFS, *FULL})
"""What the system says of us, or of the whole disk: another slot would fare no better."""


def slot_folder(folder: str, number: int) -> str:
    """Where the slot of that number is in the shared folder."""
    return f"{folder}/{SLOTS}/{number}" if number else folder


def shared_folder(folder: str) -> str:
    """The folder of which `folder` would be a slot by its name, whatever is there; empty: it is named as none."""
    outer, _, name = folder.rpartition("/")
    shared, _, slots = outer.rpartition("/")
    return shared if slots == SLOTS and is_number(name) else ""


def fabric_mark(fabric: str) -> bytes:
    """How the sheet of a slot names its fabric: 8 bytes."""
    return blake2b(fabric.encode(), person=b"pf1 fabric", digest_size=8).digest()


class SlotSight(NamedTuple):
    """One slot as it looks from outside.

    number   its own; 0 is the shared folder itself
    folder   where it is
    sheet    what its `node` says; None: there is none, or it is damaged or cannot be read
    queues   those that it has a folder of, unless its sheet says that nothing is left; no file in them was opened
    held     whether somebody has its lock; None: nobody asked, since its sheet says that nothing is left, or since
             somebody is choosing a slot just now
    problem  why its sheet cannot be read
    """

    number: int
    folder: str
    sheet: Owner | None
    queues: tuple[str, ...]
    held: bool | None
    problem: str = ""

    @property
    def has_died(self) -> bool:
        """Whether its last process ended without closing it; while it is held, whether it is in use."""
        return self.sheet is not None and self.sheet.pid != 0

    def is_orphan(self, fabric: bytes) -> bool:
        """Whether nobody has it, and it has, or may have, messages of that fabric that are to be delivered."""
        sheet = self.sheet
        if self.held is not False or sheet is None or sheet.fabric != fabric or not self.queues:
            return False
        return sheet.pid != 0 or sheet.left > 0

    def is_parked(self, fabric: bytes) -> bool:
        """Whether nobody has it, and it has dead letters of that fabric, and nothing to be delivered."""
        sheet = self.sheet
        return (
            self.held is False
            and sheet is not None
            and sheet.fabric == fabric
            and sheet.pid == 0
            and sheet.left == 0
            and sheet.letters > 0
        )


class Slots:
    """The slots of one shared folder. It keeps nothing open and remembers nothing, so any thread may ask.

    one holder of the lock of a slot; the numbers taken < limit; the epochs of a slot grow strictly

    Args:
        folder: The shared one, an absolute path.
        limit: How many there may be for those who take one; what is there above it can still be looked at and adopted.
        remark: Is told, as (level, text), of what keeps nobody from going on and a person should know.
    """

    def __init__(
        self, files: Files, folder: str, limit: int = SLOTS_MAX, remark: Callable[[int, str], object] | None = None
    ) -> None:
        self.folder, self.limit = folder, limit
        self._files = files
        self._outer = f"{folder}/{SLOTS}"
        self._remark = remark or (lambda level, text: None)

    # To take one, or to adopt one

    def take(self, open_: Open, moments: Moments) -> tuple[int, Spool]:
        """Open the lowest slot that is free, whatever is in it, or else the next new one; return its number, too.

        A free slot that cannot be opened is passed over, with an ERROR, and so is one with messages of another fabric.

        Args:
            open_: Called with `taking` held.
            moments: When to try again to get `taking`, or a slot that looks like a copy.

        Raises:
            SpoolLocked: None is free; or the lowest free one is a copy of one that is in use.
            SpoolUnsafe: The folder is not ours alone, or holds what is no spool. Nothing was changed.
            SpoolFull: There is no space for a new one; nothing is left of it.
            SpoolError: The disk refused.
        """
        passed: dict[int, SpoolError] = {}
        for _ in moments(COPY_TIME):
            try:
                return self._try(open_, moments, passed, patient=True)
            except SpoolLocked as error:
                if not (error.is_copy or error.is_read):
                    raise
        return self._try(open_, moments, passed, patient=False)

    def _try(self, open_: Open, moments: Moments, passed: dict[int, SpoolError], *, patient: bool) -> tuple[int, Spool]:
        made: list[str] = []
        lock: int | None = None
        try:
            lock = self._wait_for_taking(moments, made)
            return self._lowest(open_, passed, patient=patient)
        except BaseException as error:
            if lock is not None:
                self._unmake(made)
            else:
                remove(self._files, sorted(made, key=len, reverse=True))  # as far as nothing is in them
            if isinstance(error, OSError) and not isinstance(error, SpoolError):
                raise refusal(error, self.folder) from error
            raise
        finally:
            self._let_go(lock)

    def _lowest(self, open_: Open, passed: dict[int, SpoolError], *, patient: bool) -> tuple[int, Spool]:
        held: list[SpoolLocked] = []
        others = 0
        for number in range(self.limit):
            folder = slot_folder(self.folder, number)
            try:
                if number:
                    # Here, and not in `open_`, which removes a folder that it has made in vain: others may share it.
                    make_folder(self._files, folder, self._outer)
                return number, open_(number, folder)
            except SpoolLocked as error:
                if error.is_copy or (error.is_read and patient):
                    raise
                held.append(error)
            except OtherFabric:
                others += 1
            except OSError as error:
                refused = refusal(error, folder)
                if self._concerns_all(number, folder, refused):
                    raise refused from error
                if number not in passed:
                    self._remark(logging.ERROR, f"{refused}; slot {number} is passed over")
                passed[number] = refused
        raise self._none_free(held, others, len(passed))

    def _concerns_all(self, number: int, folder: str, error: SpoolError) -> bool:
        """Whether the next slot would fare no better: a person has to see to it."""
        if error.errno in _OURS or (number == 0 and isinstance(error, SpoolUnsafe)):
            return True
        try:
            return set(self._files.names(folder)) <= BEGUN  # it was to be a new one
        except OSError:
            return number == 0

    def _none_free(self, held: list[SpoolLocked], others: int, failed: int) -> SpoolLocked:
        """Why there is none to be had."""
        count = len(held)
        parts = {
            counted(count, "process uses", "processes use") + " this spool": count,
            f"messages of another fabric are in {counted(others, 'slot')}": others,
            f"{counted(failed, 'slot')} cannot be opened": failed,
        }
        step = "raise Options(spool_slots=)" if self.limit < SLOTS_MAX else "give some of them another folder"
        problem = ", and ".join(part for part, number in parts.items() if number)
        return SpoolLocked(self.folder, held[0].pid if count == 1 else 0, problem, step=step, stop="stop some")

    def open(self, number: int, open_: Open) -> Spool | None:
        """Open a slot that is there, to adopt it; None if somebody else has it, or is choosing one just now.

        Raises:
            OtherFabric: It has messages of another fabric. Nothing was changed.
            SpoolLocked: It is a copy of one that is in use.
            SpoolError: It cannot be opened; as `Spool.open`.
        """
        lock: int | None = None
        try:
            lock = self._lock_taking([])
            return open_(number, slot_folder(self.folder, number)) if lock is not None else None
        except SpoolLocked as error:
            if error.is_copy:
                raise
            return None
        except OSError as error:
            raise refusal(error, slot_folder(self.folder, number)) from error
        finally:
            self._let_go(lock)

    # The lock `taking`

    def _wait_for_taking(self, moments: Moments, made: list[str]) -> int | None:
        """As `_lock_taking`; None if it cannot be had in time."""
        for _ in moments(TAKING_TIME):
            lock = self._lock_taking(made)
            if lock is not None:
                return lock
        text = f"{self._outer}/{TAKING} is held for more than {TAKING_TIME:g} s, and this start goes on without it"
        self._remark(logging.WARNING, f"{text}; see which process has it open, and whether it is stopped")
        return None

    def _lock_taking(self, made: list[str]) -> int | None:
        """The lock; -1 if the disk has no space for it, which keeps nobody from starting; None if somebody has it.

        Args:
            made: The folders that had to be made for it are added, innermost first.

        Raises:
            SpoolUnsafe: The folder is not ours alone, or holds what is no spool. Nothing was changed.
            OSError: It cannot be made.
        """
        files = self._files
        try:
            try:
                files.check_folder(self.folder)
                files.check_folder(self._outer)
                if TAKING not in files.names(self._outer):
                    check_ours(files, self.folder)
                return files.lock(f"{self._outer}/{TAKING}")
            except (FileNotFoundError, NotADirectoryError):
                made[:] = dict.fromkeys([*missing(files, self._outer), *made])
                make_spool_folder(files, self.folder)
                check_ours(files, self.folder)
                make_folder(files, self._outer, self.folder)
                return files.lock(f"{self._outer}/{TAKING}")
        except SpoolLocked:
            return None
        except FileNotFoundError:
            return None  # a start that has failed has just removed what it had made
        except OSError as error:
            if error.errno not in FULL:
                raise
            return -1

    def _let_go(self, lock: int | None) -> None:
        if lock is not None and lock >= 0:
            self._files.unlock(lock)

    def _unmake(self, made: list[str]) -> None:
        """Remove what this start has made, if it is alone in there. Called with `taking`."""
        files = self._files
        try:
            if not made or files.names(self._outer) not in ([], [TAKING]):
                return
            keys = {KEY, f"{KEY}.tmp"} & set(files.names(self.folder)) if self.folder in made else set[str]()
            for path in (*(f"{self.folder}/{key}" for key in sorted(keys)), f"{self._outer}/{TAKING}"):
                files.unlink(path)
        except OSError:
            return  # the next start takes what is left for its own
        remove(files, sorted(made, key=len, reverse=True))

    # To look at them

    def numbers(self) -> list[int]:
        """Those that are there, lowest first.

        Raises:
            SpoolError: The folder cannot be read.
        """
        try:
            first = [0] if {"node", "queues"} & set(self._files.names(self.folder)) else []
            return first + sorted(int(name) for name in self._files.names(self._outer) if is_number(name))
        except OSError as error:
            raise refusal(error, self.folder) from error

    def sights(self, *, everything: bool = False) -> list[SlotSight]:
        """How all that are there look, lowest first; costs one read of a sheet for each of which nothing is left.

        The locks of the others are tried, with `taking` held shared, as else a starter would take them for held.
        Nothing is waited for, made or changed.

        Args:
            everything: Try the locks of all of them.

        Raises:
            SpoolError: The folder cannot be read.
        """
        seen = [self._look(number) for number in self.numbers()]
        asked = [sight for sight in seen if everything or sight.queues or sight.has_died]
        if not asked:
            return seen
        taking = -1
        try:
            taking = self._files.lock(f"{self._outer}/{TAKING}", shared=True)
        except FileNotFoundError:
            pass  # there is nobody yet who would choose among slots
        except OSError:
            return seen
        try:
            held = {sight.number: self._is_held(sight.folder) for sight in asked}
        finally:
            self._let_go(taking)
        return [sight._replace(held=held.get(sight.number)) for sight in seen]

    def _look(self, number: int) -> SlotSight:
        folder = slot_folder(self.folder, number)
        sheet, problem = None, ""
        queues: list[str] = []
        try:
            sheet = read_owner(self._files, folder)
            if sheet is None or sheet.pid or sheet.left or sheet.letters:
                queues = [name for name in self._files.names(f"{folder}/queues") if is_name(name)]
        except OSError as error:
            problem = str(refusal(error, folder))
        return SlotSight(number, folder, sheet, tuple(queues), None, problem)

    def _is_held(self, folder: str) -> bool | None:
        return _is_locked(self._files, f"{folder}/lock")

    def check(self) -> None:
        """Assert the invariants, while nobody changes anything: a cursor outlives its segments, node ids differ."""
        ids: set[str] = set()
        for number in self.numbers():
            folder = slot_folder(self.folder, number)
            sheet = read_owner(self._files, folder)
            if sheet is not None:
                assert sheet.node_id not in ids, f"slot {number} has the node id of another one"
                ids.add(sheet.node_id)
            for queue in self._files.names(f"{folder}/queues"):
                for log in (f"{folder}/queues/{queue}", f"{folder}/queues/{queue}/dead"):
                    names = set(self._files.names(log))
                    assert names & {"cursor.0", "cursor.1"} or not any(name.endswith(".seg") for name in names), log

    # `spool serve`

    def serve(self) -> int:
        """The lock `serving`, while which is held nodes leave orphans alone for longer; `Files.unlock` gives it up.

        Raises:
            SpoolLocked: Another process serves this folder, or looks whether somebody does: try again for a moment.
            SpoolUnsafe: The folder is not ours alone, or holds what is no spool. Nothing was changed.
            SpoolError: It cannot be made.
        """
        try:
            self._let_go(self._lock_taking([]))
            lock = self._files.lock(f"{self._outer}/{SERVING}")
            sign(self._files, lock, self._files.process().pid)
        except SpoolLocked as error:
            raise SpoolLocked(self.folder, error.pid, step="serve another folder", ours=error.ours) from None
        except OSError as error:
            raise refusal(error, self.folder) from error
        return lock

    @property
    def is_served(self) -> bool:
        """Whether somebody holds `serving`."""
        return _is_locked(self._files, f"{self._outer}/{SERVING}") is True


def _is_locked(files: Files, path: str) -> bool | None:
    """Whether somebody has a lock, other than to look; None if that cannot be found out."""
    try:
        files.unlock(files.lock(path, shared=True))
    except SpoolLocked:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
