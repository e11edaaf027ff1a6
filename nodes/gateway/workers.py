"""Supervisor of the gateway's workers: processes that listen at one address, each started again when it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from peerfabric.errors import FabricError

BACKOFF: Final = 0.1
BACKOFF_MAX: Final = 5.0
"""Seconds until a worker is started again that died soon; doubled from BACKOFF each time."""
STABLE: Final = 1.0
"""Seconds after it was ready from which on a worker that dies did not die soon: its successor starts at once."""
FAREWELL_MAX: Final = 20.0
"""Seconds that workers have to end: what was taken is settled, answers are sent, the node drains."""

_log = logging.getLogger("peerfabric")


class WorkerFailed(FabricError):
    """A worker cannot start, and none that is started again could; it said why itself. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"a worker of the gateway cannot start (exit code {code}); what it wrote before says why")


class _Worker:
    """One place among the workers, and the process that has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.ready_at = 0.0
        self.pipe = -1
        """Gets a byte from it when it answers."""
        self.start_at: float | None = 0.0
        """When it is to be started; None: it runs."""
        self.backoff = BACKOFF


class Supervisor:
    """Keeps `count` processes going.

    Each has a pipe of ours as its standard input: it closes when we end, however, and they end with us.

    Args:
        command: What a worker runs; the numbers of the socket and of the pipe for its ready byte follow.
        listening: The descriptor of the socket that holds their address.
        fatal: Exit codes with which a worker that never was ready says that no other could be.
        ready: Called once, when all are.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        listening: int,
        *,
        fatal: Collection[int] = (),
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._command, self._listening = command, listening
        self._fatal, self._ready = frozenset(fatal), ready
        self._workers = [_Worker(number) for number in range(count)]
        self._told = False

    def run(self) -> int:
        """Go on until SIGTERM, SIGINT or SIGHUP comes, end all workers, and return the signal's number.

        Raises:
            WorkerFailed: One cannot start.
        """
        ending = {
            number
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ending | {signal.SIGCHLD})
        try:
            while True:
                now = time.monotonic()
                for worker in self._workers:
                    self._look_at(worker, now)
                self._tell_ready()
                heard = self._wait(ending | {signal.SIGCHLD}, now)
                if heard in ending:
                    return heard
        finally:
            self._end_all(ending)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _look_at(self, worker: _Worker, now: float) -> None:
        process = worker.process
        if process is not None:
            if not worker.ready and _is_written(worker.pipe):
                worker.ready, worker.ready_at = True, now
                os.close(worker.pipe)
                worker.pipe = -1
            code = process.poll()
            if code is None:
                return
            self._bury(worker, code, now)
        if worker.start_at is not None and now >= worker.start_at:
            try:
                self._start(worker)
            except OSError as error:  # too many processes or descriptors just now: those that run go on
                self._put_off(worker, now)
                _log.error("worker %d cannot be started: %s; it is tried again", worker.number, error)

    def _bury(self, worker: _Worker, code: int, now: float) -> None:
        """A worker has ended by itself: have another one started in its place.

        Raises:
            WorkerFailed: That one could not, either.
        """
        assert worker.process is not None
        pid, was_ready = worker.process.pid, worker.ready
        self._forget(worker)
        if not was_ready and code in self._fatal:
            raise WorkerFailed(code)
        if was_ready and now >= worker.ready_at + STABLE:
            worker.backoff = BACKOFF
            worker.start_at = now
        else:
            self._put_off(worker, now)
        how = f"was ended by {_named(-code)}" if code < 0 else f"ended with exit code {code}"
        _log.warning("worker %d (process %d) %s; another one starts in its place", worker.number, pid, how)

    @staticmethod
    def _put_off(worker: _Worker, now: float) -> None:
        worker.start_at = now + worker.backoff
        worker.backoff = min(2 * worker.backoff, BACKOFF_MAX)

    def _start(self, worker: _Worker) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            worker.process = subprocess.Popen(
                [*self._command, f"{self._listening},{writing}"],
                stdin=subprocess.PIPE,
                pass_fds=(self._listening, writing),
                # Ctrl-C at the terminal reaches us alone, and we tell them.
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        worker.pipe, worker.ready, worker.start_at = reading, False, None

    def _forget(self, worker: _Worker) -> None:
        process, worker.process = worker.process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
        if worker.pipe >= 0:
            os.close(worker.pipe)
            worker.pipe = -1
        worker.ready = False

    def _tell_ready(self) -> None:
        if not self._told and all(worker.ready for worker in self._workers):
            self._told = True
            self._ready()

    def _wait(self, signals: set[signal.Signals], now: float) -> int:
        """The number of the signal that comes; 0: it is time to look again."""
        times = [worker.start_at - now for worker in self._workers if worker.start_at is not None]
        if any(worker.process is not None and not worker.ready for worker in self._workers):
            times.append(0.05)
        if not times:
            return signal.sigwaitinfo(signals).si_signo
        heard = signal.sigtimedwait(signals, max(0.0, min(times)))
        return heard.si_signo if heard is not None else 0

    def _end_all(self, hurrying: set[signal.Signals]) -> None:
        """End all workers: in order, or at once if another signal comes."""
        running = [worker for worker in self._workers if worker.process is not None]
        for worker in running:
            assert worker.process is not None
            worker.process.terminate()
        ends_at = time.monotonic() + FAREWELL_MAX
        for worker in running:
            assert worker.process is not None
            while worker.process.poll() is None:
                heard = signal.sigtimedwait(hurrying | {signal.SIGCHLD}, 0.2)
                if time.monotonic() > ends_at or (heard is not None and heard.si_signo in hurrying):
                    ends_at = 0.0
                    worker.process.kill()
            self._forget(worker)


def _is_written(pipe: int) -> bool:
    with suppress(BlockingIOError):
        return bool(os.read(pipe, 1))
    return False


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def command_of(arguments: Sequence[str]) -> list[str]:
    """What runs `peerfabric ARGUMENTS` with this very interpreter and installation."""
    # -P: a file in the current folder must not answer to one of our imports.
    return [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", *arguments]
