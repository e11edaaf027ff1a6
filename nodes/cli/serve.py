"""`peerfabric spool serve`: a node without a spool of its own, which delivers what is left in those of others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import click
from msgspec.structs import replace

from peerfabric.errors import SpoolError, SpoolLocked, counted
from peerfabric.nodes.aio.lifecycle import Lifecycle
from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, joins_fabric, timeout_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.offline import NO_FOLDER, messages_of, no_spool, warn
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.notify import READY, STATUS, STOPPING, notify
from peerfabric.nodes.storage.shared import SharedSpool, moments
from peerfabric.spool import RealFiles, Spool
from peerfabric.spool.folder import Owner
from peerfabric.spool.slots import SlotSight

LOOK_EVERY: Final = 0.5
"""Seconds between two looks of the command. Its adoptions look by themselves."""
LOCK_TIME: Final = 1.0
"""Seconds for which `serving` is tried: who looks whether somebody serves has it for a moment."""


class Served:
    """One folder that is served.

    Raises:
        ConfigError: It is a slot.
        SpoolLocked: Another process serves it.
        SpoolError: It is on a disk that other machines use, too, or not ours alone, or not there, with `once`.
    """

    def __init__(
        self, lifecycle: Lifecycle, folder: str, limit: int, grace: float, undo: ExitStack, *, once: bool
    ) -> None:
        self.folder = os.path.abspath(folder)
        shared = SharedSpool(replace(lifecycle.node.settings, spool=self.folder))
        shared.check_place()
        self.fabric, self._slots = shared.fabric, shared.slots
        self._is_new = not os.path.lexists(self.folder)
        if self._is_new and once:
            raise no_spool(self.folder, NO_FOLDER)
        lock = _lock(shared)
        undo.callback(RealFiles().unlock, lock)
        self._adoption = lifecycle.adopt(self.folder, limit, serves_after=grace)
        self._once, self._fabric_name = once, lifecycle.node.settings.fabric
        self._vain: set[tuple[int, int]] = set()
        """Slots of processes that died with nothing left, by number and counter."""

    def start(self) -> None:
        """Say what is left in the folder, and begin to adopt.

        With `once`, slots of processes that died with nothing left need nobody.
        """
        messages: list[int] = []
        unread = others = 0
        for sight in self._slots.sights():
            sheet = sight.sheet
            if sheet is None or not sight.is_orphan(self.fabric):
                others += _is_of_others(sight, self.fabric)
                continue
            count = _count(sight.folder) if sight.has_died else sheet.left
            if count:
                messages.append(count)
            elif count is None:
                unread += 1
            elif self._once:
                self._vain.add((sight.number, sheet.counter))
        self._say(messages, unread, others)
        self._adoption.start()

    def _say(self, messages: list[int], unread: int, others: int) -> None:
        """Tell that this folder is served, and how many messages are in each slot that has some.

        A folder that was mistyped is seen by that: it was made, or nothing is in it.
        """
        parts = [f"{counted(sum(messages), 'message')} in {counted(len(messages), 'slot')}"] if messages else []
        if unread:
            parts.append(f"{counted(unread, 'slot')} that cannot be looked into")
        nothing = f"nothing of this fabric is left in it, and {counted(others, 'slot')} with messages of another one"
        left = " and ".join(parts) or (nothing if others else "nothing is left in it")
        made = " (made just now)" if self._is_new else ""
        warn(f"serving {self.folder}{made}, fabric {self._fabric_name}: {left}")

    @property
    def held(self) -> tuple[int, ...]:
        """The slots that are adopted now."""
        return self._adoption.orphans.held

    def progress(self) -> tuple[int, int]:
        """How many messages of the adopted slots were settled since then, and how many are not."""
        accounts = [account for report in self._adoption.reports() for account in report.producers]
        settled = sum(each.acked + each.dead_lettered + each.expired for each in accounts)
        return settled, sum(each.in_flight + each.waiting + each.on_disk for each in accounts)

    def left(self) -> tuple[list[SlotSight], list[SlotSight]]:
        """The slots whose messages still wait to be delivered, and those of which this cannot be seen to."""
        ours: list[SlotSight] = []
        others: list[SlotSight] = []
        held = self.held
        for sight in self._slots.sights():
            sheet = sight.sheet
            has_some = sheet is not None and bool(sheet.pid or sheet.left)
            if sight.number in held:
                ours.append(sight)
            elif sheet is not None and (sight.number, sheet.counter) in self._vain:
                continue
            elif sight.held:
                if has_some and not _runs_elsewhere(sheet):
                    ours.append(sight)
            elif sight.is_orphan(self.fabric) or (sight.held is None and has_some):
                ours.append(sight)
            elif sight.queues and (sheet is None or has_some):
                others.append(sight)
        return ours, others


def _is_of_others(sight: SlotSight, fabric: bytes) -> bool:
    """Whether a slot that nobody has holds messages of another fabric."""
    sheet = sight.sheet
    has_some = sheet is not None and bool(sheet.pid or sheet.left)
    return has_some and sheet is not None and sight.held is False and sheet.fabric not in (b"", fabric)


def _runs_elsewhere(sheet: Owner | None) -> bool:
    """Whether another process has a held slot. Else somebody is about to open or to leave it: we, perhaps."""
    return sheet is not None and sheet.pid not in (0, os.getpid()) and RealFiles().alive(sheet.process)


def _lock(shared: SharedSpool) -> int:
    refused: SpoolLocked | None = None
    for _ in moments(LOCK_TIME):
        try:
            return shared.slots.serve()
        except SpoolLocked as error:
            refused = error
    assert refused is not None
    raise refused


def _count(folder: str) -> int | None:
    """How many messages wait to be delivered in a slot that nobody has; None if that cannot be seen."""
    try:
        opened = Spool.inspect(folder)
    except SpoolError:
        return None
    try:
        return sum(messages_of(opened, queue).unsettled_count for queue in opened.queues())
    except SpoolError:
        return None
    finally:
        opened.abandon()


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option(
    "--adopt", type=click.IntRange(1, 64), default=16, show_default=True, help="Slots at a time, in each folder."
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="How long a slot is left to whoever starts its process again.",
)
@click.option("--once", is_flag=True, help="End when all is delivered.")
@timeout_option("30", "With --once: how long to go on when nothing is processed; 'none': for ever.")
@joins_fabric
def serve(
    folders: tuple[str, ...], adopt: int, grace: float, once: bool, timeout: float | None, settings: Settings
) -> None:
    """Deliver what processes that are gone have left in FOLDERs, for as long as this runs.

    Each is what was given to Node(spool=); it is made if it is not there, and what is left in it is told first. SIGTERM
    is a good end, with exit code 0. With --once: 0 when nothing is left to be delivered, 3 when nobody consumes it, 5
    when there is no such folder. Under systemd, a service of Type=notify.
    """
    with _signals() as signals, settings.node() as node:
        lifecycle = node._async._lifecycle
        with ExitStack() as undo:
            served = [Served(lifecycle, folder, adopt, grace, undo, once=once) for folder in folders]
            node.peers()  # it starts now
            for each in served:
                each.start()
            notify(READY)
            number = _serve(node, served, signals, settings.output, timeout, once=once)
            notify(STOPPING)
            node.close()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGHUP or (number and once):
        raise SystemExit(128 + number)


def _serve(
    node: Node, served: list[Served], signals: set[signal.Signals], form: Form, timeout: float | None, *, once: bool
) -> int:
    """Go on until a signal comes, whose number is returned, or with `once` until nothing is left.

    Raises:
        Failure: Something is left, and nothing of it was processed for `timeout` seconds.
    """
    before: object = None
    status = ""
    told: set[tuple[str, int]] = set()
    changed_at = clock()
    while True:
        heard = signal.sigtimedwait(signals, LOOK_EVERY) if signals else None
        if heard is not None:
            return heard.si_signo
        if not node._async._context.is_running:
            raise node._async._context.refusal()
        progress = [(each.held, each.progress()) for each in served]
        if progress != before:
            before, changed_at = progress, clock()
        count, waiting = sum(len(held) for held, _ in progress), sum(left for _, (_, left) in progress)
        text = f"{counted(count, 'slot')} adopted, {counted(waiting, 'message')} there"
        if text != status:
            status = text
            notify(f"{STATUS}={text}")
        left, others = _left(served, told)
        if not once:
            continue
        if not left:
            if others:
                raise Failure(f"{_named(others)} cannot be served; see `peerfabric spool ls`", Exit.NOTHING)
            if form is Form.JSON:
                print_line(to_json({"left": 0}))
            return 0
        if timeout is not None and clock() >= changed_at + timeout:
            who = "nobody processes it" if count else "nobody consumes it"
            raise Failure(
                f"{_named(left)} has messages left, and {who}; start a consumer, see `peerfabric spool ls`",
                Exit.NOTHING,
            )


def _left(served: list[Served], told: set[tuple[str, int]]) -> tuple[list[str], list[str]]:
    """The folders of slots with messages left, and of those that cannot be served, which are told of once."""
    all_ours: list[str] = []
    all_others: list[str] = []
    for each in served:
        try:
            ours, others = each.left()
        except SpoolError as error:
            all_ours.append(each.folder)
            _tell(told, each.folder, -1, str(error))
            continue
        all_ours += [sight.folder for sight in ours]
        all_others += [sight.folder for sight in others]
        for sight in others:
            sheet = sight.sheet
            why = sight.problem or "does not say whose it is: start a node with it"
            if sheet is not None and sheet.fabric:
                why = "has messages of another fabric: give its --fabric"
            _tell(told, each.folder, sight.number, f"{sight.folder} {why}")
    return all_ours, all_others


def _tell(told: set[tuple[str, int]], folder: str, number: int, text: str) -> None:
    if (folder, number) not in told:
        told.add((folder, number))
        warn(text)


def _named(folders: list[str]) -> str:
    return ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")


@contextmanager
def _signals() -> Iterator[set[signal.Signals]]:
    """The signals that end the command, which wait until somebody asks for them: nothing is interrupted by one."""
    wanted = {
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        yield wanted
    finally:
        with suppress(ValueError):
            while wanted and signal.sigtimedwait(wanted, 0) is not None:
                pass  # it was to end what has ended
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
