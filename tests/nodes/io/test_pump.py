"""Whatever handlers of log lines raise, the threads of a node go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node, WouldDeadlock
from peerfabric.discovery.log import log
from peerfabric.nodes.io import pump as pump_module
from peerfabric.nodes.io.waiting import clock
from tests.nodes.conftest import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime")


class Raising(logging.Handler):
    """Does in threads of ours what raises there.

    raised    what it did, by the name of the thread
    """

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(logging.INFO)
        self.raised: dict[str, BaseException] = {}
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        name = threading.current_thread().name
        if name.startswith("peerfabric-"):
            try:
                self._act()
            except BaseException as error:
                self.raised[name] = error
                raise


@contextmanager
def logged_by(act: Callable[[], object]) -> Iterator[Raising]:
    logger, handler = logging.getLogger("peerfabric"), Raising(act)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def fail(*_: Any) -> Any:
    raise ZeroDivisionError


def leave() -> None:
    raise SystemExit(1)


@pytest.mark.parametrize("act", [fail, leave])
def test_raising_handlers_end_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither lines of the engine nor those about a turn or a round that failed; the user sees what was raised."""
    with logged_by(act) as handler, Node("here", spool=tmp_path) as node, Node("there") as other:
        producer, consumer = node.producer("q", int), other.consumer("q", int)
        pump, disk = node._async._context.pump, node._async._context.disk
        producer.send(1)
        eventually(lambda: "peerfabric-here" in handler.raised, "a line of the engine")
        monkeypatch.setattr(pump, "_feed", fail)
        monkeypatch.setattr(disk, "round", fail)
        handler.raised.clear()
        assert disk is not None
        disk.look()
        eventually(lambda: {"peerfabric-here", "peerfabric-here-disk"} <= set(handler.raised), "their failing")
        monkeypatch.undo()
        producer.send(2)
        taken: list[int] = []
        while taken[-1:] != [2]:
            with consumer.get(timeout=DEADLINE) as body:
                taken.append(body)
    assert "test_pump.py" in capsys.readouterr().err


def test_handlers_that_wait_are_refused_and_cost_nothing() -> None:
    """A handler that asks the node for a message is refused in its thread, and messages go on."""
    with Node("here") as node:
        mine = node.consumer("others", int)
        with logged_by(lambda: mine.get(timeout=0.1)) as handler, Node("there") as other:
            consumer = node.consumer("q", int)
            other.producer("q", int).send(1)
            with consumer.get(timeout=DEADLINE) as body:
                assert body == 1
            eventually(lambda: "peerfabric-here" in handler.raised, "a line of the engine")
            assert isinstance(handler.raised["peerfabric-here"], WouldDeadlock)


def test_a_pump_with_nothing_due_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a turn in which it has looked around: it is due again when it looks next."""
    monkeypatch.setattr(pump_module, "LOOK_EVERY", 0.05)
    with Node("here", discovery=["registry"]) as node:
        node.statistics()
        pump = node._async._context.pump
        late: list[float] = []

        def look() -> None:
            late.append(pump.late(clock() + 500.0))
            monkeypatch.setattr(pump_module, "LOOK_EVERY", 1000.0)  # between the next look and the one after it

        monkeypatch.setattr(pump.engine, "poll_timeout", lambda: inf)
        pump.look_after(look)
        eventually(lambda: len(late) == 2, "two looks")
        assert late[0] > 400
        assert late[1] == 0


def test_in_threads_of_users_handlers_may_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is theirs to see."""
    with logged_by(fail) as handler:
        monkeypatch.setattr(handler, "emit", fail)
        with pytest.raises(ZeroDivisionError):
            log.warning("something")
