"""Effects in a database, once, whoever dies and whoever gets a message again."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Message, Once
from peerfabric.nodes import once as module
from peerfabric.nodes.storage.ledger_store import LedgerStore
from peerfabric.queue.delivery import Delivery
from peerfabric.wire.frames import RAW

STREAM = "a:1:jobs"


class Taker:
    """Takes the decisions of messages that nobody waits for."""

    ledger_store: LedgerStore | None = None
    alerted = False
    end: Any = None
    in_tasks = False
    waits_for_outputs = times = True
    seconds_sum = 0.0

    def __init__(self) -> None:
        self.seconds = [0] * 10

    def ledger_writer(self) -> None: ...

    def decided(self) -> None: ...

    def extend(self, delivery: Delivery, index: int, seconds: float) -> None: ...


def message(sequence: int, floor: int = 1, stream: str = STREAM) -> Message[int]:
    """A message that was sent when everything below `floor` was settled."""
    delivery = Delivery(
        peer="a:1",
        sender="shop",
        stream=stream,
        queue="jobs",
        first=sequence,
        count=1,
        attempt=1,
        body=b"",
        codec=RAW,
        sent_ms=0,
        cost=0,
        floor=floor,
    )
    return Message(Taker(), delivery, 0, sequence)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "sums.db", check_same_thread=False)
    connection.execute("CREATE TABLE sums (total INTEGER)")
    connection.execute("INSERT INTO sums VALUES (0)")
    connection.commit()
    yield connection
    connection.close()


@pytest.fixture
def once(database: sqlite3.Connection) -> Once:
    made = Once(database)
    with database:
        made.create()
        made.create()
    return made


def rows(database: sqlite3.Connection, table: str = "peerfabric_once") -> list[tuple[str, int]]:
    return database.execute(f"SELECT stream, sequence FROM {table} ORDER BY stream, sequence").fetchall()


def add(database: sqlite3.Connection, once: Once, what: Message[int]) -> bool:
    """A handler."""
    with database:
        if once.first(what):
            database.execute("UPDATE sums SET total = total + ?", (what.body,))
            return True
    return False


def total(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT total FROM sums").fetchone()[0])


def test_a_second_time_is_no_first_time(database: sqlite3.Connection, once: Once) -> None:
    """Whatever comes again, and in whatever order; streams have nothing to do with each other."""
    assert [add(database, once, message(n)) for n in (3, 1, 3, 2, 1)] == [True, True, False, True, False]
    assert add(database, once, message(3, stream="b:1:jobs"))
    assert total(database) == 3 + 1 + 2 + 3


def test_the_note_goes_with_the_effects(database: sqlite3.Connection, once: Once) -> None:
    """A transaction that is rolled back has done nothing, so the next one does it."""

    def fail() -> None:
        with database:
            assert once.first(message(1))
            database.execute("UPDATE sums SET total = 99")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert (rows(database), total(database)) == ([], 0)
    assert add(database, once, message(1))


def test_nothing_is_committed(database: sqlite3.Connection, once: Once) -> None:
    """That is for the handler to do, with its effects."""
    once.first(message(1))
    assert database.in_transaction
    database.rollback()
    once.forget()
    assert database.in_transaction


def test_ids_do_as_well(database: sqlite3.Connection, once: Once) -> None:
    """Those of a batch, and one's own."""
    assert [once.first(i) for i in (f"{STREAM}/1", f"{STREAM}/1", "payments/7", "payments/7")] == [
        True,
        False,
        True,
        False,
    ]
    assert not once.first(message(1))
    for wrong in ("", "7", "/7", "a/", "a/0", "a/-1", "a/x", f"a/{2**53}"):
        with pytest.raises(ValueError, match="is no id of a message"):
            once.first(wrong)


def test_the_table_stays_small(database: sqlite3.Connection, once: Once, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row stands for everything below the floor; nothing below it is ever new."""
    monkeypatch.setattr(module, "TRIM_EVERY", 10)
    for n in range(1, 101):
        assert add(database, once, message(n, floor=max(1, n - 3)))
        assert len(rows(database)) <= 10 + 4 + 1
    assert rows(database)[0] == (STREAM, -91)
    assert total(database) == 5050
    another = Once(database)
    assert not any(add(database, taker, message(n)) for taker in (once, another) for n in range(1, 101))
    assert total(database) == 5050


def test_a_floor_that_was_rolled_back(
    database: sqlite3.Connection, once: Once, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for one that is there."""
    monkeypatch.setattr(module, "TRIM_EVERY", 10)
    for n in range(1, 12):
        add(database, once, message(n))
    once.first(message(12, floor=11))
    assert rows(database)[0] == (STREAM, -11)
    database.rollback()
    assert rows(database) == [(STREAM, n) for n in range(1, 12)]
    assert add(database, once, message(12, floor=11))
    assert rows(database) == [(STREAM, -11), (STREAM, 11), (STREAM, 12)]


def test_an_old_floor_changes_nothing(
    database: sqlite3.Connection, once: Once, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may have been on its way for long."""
    monkeypatch.setattr(module, "TRIM_EVERY", 2)
    another = Once(database)
    assert add(database, once, message(30, floor=30))
    assert add(database, another, message(31, floor=20))
    assert add(database, once, message(32, floor=32))
    assert rows(database) == [(STREAM, -32), (STREAM, 32)]


def test_streams_that_ended_can_be_forgotten(
    database: sqlite3.Connection, once: Once, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in which nothing happened for long; others keep all of their rows."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for n in (1, 2):
        add(database, once, message(n))
    now[0] = 5000.0
    add(database, once, message(2, stream="b:1:jobs"))
    add(database, once, message(1, stream="b:1:jobs"))
    now[0] = 6000.0
    assert once.forget(older_than=2000.0) == 2
    assert rows(database) == [("b:1:jobs", 1), ("b:1:jobs", 2)]


def test_threads_with_connections_of_their_own(tmp_path: Path, database: sqlite3.Connection, once: Once) -> None:
    """Consumers that share a database all get everything; it is done once."""

    def work() -> None:
        mine = sqlite3.connect(tmp_path / "sums.db", timeout=60)
        notes = Once(mine)
        for n in range(1, 51):
            add(mine, notes, message(n, floor=max(1, n - 5)))
        mine.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(database) == sum(range(1, 51))


@pytest.mark.parametrize("style", ["qmark", "numeric", "named", "format", "pyformat"])
def test_each_style_of_parameters(style: Any) -> None:
    """As DB-API 2.0 has them; what reaches the module is in its style."""
    seen: list[tuple[str, Any]] = []

    class Cursor:
        rowcount = 1

        def execute(self, statement: str, parameters: Any = ()) -> None:
            seen.append((statement, parameters))

        def fetchone(self) -> tuple[None]:
            return (None,)

        def close(self) -> None:
            seen.append(("closed", ()))

    class Connection:
        def cursor(self) -> Cursor:
            return Cursor()

    notes = Once(Connection(), table="our.notes", paramstyle=style)
    assert notes.first(message(5))
    (insert, given), _, (select, _), _ = seen
    place = {"qmark": "?", "numeric": ":1", "named": ":stream", "format": "%s", "pyformat": "%(stream)s"}[style]
    assert f"INSERT INTO our.notes (stream, sequence, noted_at) SELECT {place}, " in insert
    assert f"stream = {place} AND" in select
    assert (given["same_sequence"] if isinstance(given, dict) else given[4]) == 5
    assert "{" not in insert


def test_named_parameters_work(database: sqlite3.Connection) -> None:
    """sqlite3 knows them, too."""
    notes = Once(database, table="notes", paramstyle="named")
    notes.create()
    assert [notes.first(message(1)), notes.first(message(1))] == [True, False]
    assert rows(database, "notes") == [(STREAM, 1)]


def test_wrong_arguments_say_what_is_right(database: sqlite3.Connection) -> None:
    """A name of a table goes into statements as it is."""
    with pytest.raises(ConfigError, match="letters, digits"):
        Once(database, table="x; DROP TABLE sums")
    with pytest.raises(ConfigError, match="'qmark', 'numeric'"):
        Once(database, paramstyle="dollar")  # type: ignore[arg-type]
