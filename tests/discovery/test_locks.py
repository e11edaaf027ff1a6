"""Locks that user code may run into: who is refused, and who waits."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from peerfabric.discovery import locks
from peerfabric.discovery.locks import Lock, OwnThread, Rank, refuse_in_own_thread, refuse_inside
from peerfabric.discovery.remarks import later, remark
from peerfabric.errors import WouldDeadlock

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Each call of a test stands for one of code that interrupts another; returns how that is found out."""
    found = locks._interrupts
    monkeypatch.setattr(locks, "_interrupts", lambda: True)
    return found


@contextmanager
def held_elsewhere(lock: Lock) -> Iterator[Callable[[], None]]:
    """Another thread has `lock` until the block ends, or what this yields is called."""
    has, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            has.set()
            let_go.wait(DEADLINE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(DEADLINE)
    try:
        yield let_go.set
    finally:
        let_go.set()
        thread.join()


def is_free(lock: Lock) -> bool:
    """Whether another thread could take it."""
    taken: list[bool] = []

    def take() -> None:
        if lock.acquire(False):
            lock.release()
            taken.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(taken)


def test_nobody_waits_for_himself() -> None:
    """The second `with` in one thread is refused at once, and the first one goes on."""
    lock = Lock()
    with lock:
        with pytest.raises(WouldDeadlock, match=r"queue\.SimpleQueue"), lock:
            raise AssertionError("not reached")
        assert lock.is_ours()
    assert is_free(lock)


def test_who_comes_in_order_waits() -> None:
    """However long another thread has the lock."""
    for held, wanted in ((None, Rank.LIFE), (Rank.LIFE, Rank.ENGINE), (Rank.TAKING, Rank.ENGINE)):
        lock = Lock(wanted)
        with held_elsewhere(lock) as let_go:
            threading.Timer(0.05, let_go).start()
            if held is None:
                with lock:
                    assert lock.is_ours()
            else:
                with Lock(held), lock:
                    assert lock.is_ours()
        assert is_free(lock)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (Rank.ENGINE, Rank.TAKING),
        (Rank.ENGINE, Rank.LIFE),
        (Rank.LAST, Rank.LAST),
        (Rank.LAST, Rank.ENGINE),
        (Rank.WRITING, Rank.WRITING),
    ],
)
def test_who_comes_out_of_order_is_refused(held: Rank, wanted: Rank) -> None:
    """As two who each wait for what the other one holds would wait for ever."""
    lock = Lock(wanted)
    with held_elsewhere(lock) as let_go:
        with Lock(held), pytest.raises(WouldDeadlock), lock:
            raise AssertionError("not reached")
        let_go()
    assert is_free(lock)


def test_what_must_not_stop_in_between_is_refused_before_it_begins() -> None:
    """The lock of a node's life is free, and is not given to who holds another one."""
    lock = Lock(Rank.LIFE)
    with Lock():
        with pytest.raises(WouldDeadlock), lock:
            raise AssertionError("not reached")
        with pytest.raises(WouldDeadlock):
            refuse_inside()
    refuse_inside()
    assert is_free(lock)


def test_two_who_interrupt_each_other_do_not_wait_for_ever() -> None:
    """Each in the middle of what the other one does: at least one is refused, and the other one goes on."""
    locks = [Lock(), Lock()]
    both = threading.Barrier(2)
    outcomes: list[str] = []

    def run(mine: Lock, other: Lock) -> None:
        with mine:
            both.wait(DEADLINE)
            try:
                with other:
                    outcomes.append("went on")
            except WouldDeadlock:
                outcomes.append("refused")

    threads = [threading.Thread(target=run, args=pair) for pair in (locks, locks[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert "refused" in outcomes
    assert len(outcomes) == 2


def test_a_signal_handler_that_raises_leaves_no_lock_taken() -> None:
    """Ctrl-C may come after each call, also the one that took it: 2,000 of them, and the lock is free after each."""
    lock = Lock()
    come = 0

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal come
        come += 1
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        while come < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001)
                while True:
                    with lock:
                        pass
                    with lock:
                        pass
            except KeyboardInterrupt:
                assert not lock.is_ours()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_lock_that_is_gone_is_held_by_nobody() -> None:
    """Locks are known for as long as they are there."""
    lock = Lock()
    lock.acquire()
    del lock
    gc.collect()
    refuse_inside()


def test_a_thread_of_ours_is_not_kept_waiting() -> None:
    """Other threads are."""
    outcomes: list[str] = []

    def ask() -> None:
        try:
            refuse_in_own_thread()
            outcomes.append("waits")
        except WouldDeadlock:
            outcomes.append("refused")

    for kind in (threading.Thread, OwnThread):
        thread = kind(target=ask)
        thread.start()
        thread.join()
    assert outcomes == ["waits", "refused"]


def remark_and_fail(lock: Lock, held: list[bool]) -> None:
    with later(), lock:
        with later():
            remark(logging.WARNING, "the %s", "first")
        remark(logging.WARNING, "the second")
        assert held == []
        raise ZeroDivisionError


def test_a_line_that_comes_under_a_lock_is_written_after_it(caplog: pytest.LogCaptureFixture) -> None:
    """Also if blocks are nested, and if they end by an exception."""
    lock = Lock()
    held: list[bool] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            held.append(lock.is_ours())

    handler = Asking()
    logging.getLogger("peerfabric").addHandler(handler)
    try:
        with pytest.raises(ZeroDivisionError):
            remark_and_fail(lock, held)
        remark(logging.WARNING, "the third")
    finally:
        logging.getLogger("peerfabric").removeHandler(handler)
    assert [record.getMessage() for record in caplog.records] == ["the first", "the second", "the third"]
    assert held == [False, False, False]


def test_who_interrupts_a_call_of_ours(interrupting: Callable[[], bool]) -> None:
    """It is called by code that is not ours, and that by code of ours: by a body's hook, a finaliser, a handler."""
    ours: dict[str, Any] = {"__name__": "peerfabric.some_module", "interrupting": interrupting}
    exec("def ask(): return interrupting()\ndef call(code): return code()", ours)
    found = []

    def asks() -> bool:
        return bool(ours["ask"]())

    class Finalised:
        def __del__(self) -> None:
            found.append(ours["ask"]())

    def finalise(made: list[Finalised]) -> None:
        made.clear()

    made = [Finalised()]
    assert (ours["ask"](), ours["call"](ours["ask"]), ours["call"](asks)) == (False, False, True)
    finalise(made)
    made.append(Finalised())
    ours["call"](made.clear)
    assert found == [False, True]


def test_finalisers_and_signal_handlers_of_ours_interrupt(interrupting: Callable[[], bool]) -> None:
    """They are called in the middle of our calls, and are ours, too."""
    ours: dict[str, Any] = {"__name__": "peerfabric.some_module", "interrupting": interrupting}
    exec("def ask(): return interrupting()\ndef _on_signal(): return ask()\ndef call(): return _on_signal()", ours)
    assert (ours["_on_signal"](), ours["call"]()) == (False, True)
