"""Effectively once: a handler that writes to a database notes there, in its own transaction, what it has done."""

from __future__ import annotations

import re
import time
from typing import Any, Final, Literal, Protocol

from peerfabric.arguments import check_seconds
from peerfabric.errors import ConfigError
from peerfabric.nodes.message import Message

ParamStyle = Literal["qmark", "numeric", "named", "format", "pyformat"]

TRIM_EVERY: Final = 1000
"""Rows of one stream that may be deleted before they are: one deletion for so many messages."""
FORGET_AFTER: Final = 90 * 86400.0

_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_PLACES: Final = {"qmark": "?", "numeric": ":{n}", "named": ":{name}", "format": "%s", "pyformat": "%({name})s"}


class Cursor(Protocol):
    """What a cursor of DB-API 2.0 has to do."""

    @property
    def rowcount(self) -> Any: ...
    def execute(self, statement: Any, parameters: Any = ..., /) -> Any: ...
    def fetchone(self) -> Any: ...
    def close(self) -> Any: ...


class Connection(Protocol):
    """What a connection of DB-API 2.0 has to do."""

    def cursor(self) -> Any: ...


class Once:
    """Notes of one database about the messages whose effects are in it.

    ```
    once = Once(connection)
    once.create()
    for message in consumer:
        with message as order, connection:      # the database commits first, then the message is acked
            if once.first(message):
                connection.execute("UPDATE …")
    ```

    The note and the effects are in one transaction: both are there or neither. So whatever dies, and whoever gets a
    message again, its effects are in the database once. Consumers may share the table, if they share the database.

    The table stays small. Below a stream's floor everything is settled and a single row stands for all of it; above it
    there is a row for each message, and at most 1,000 that could be deleted already. Streams of producers that are gone
    for good are for `forget` to delete.

    Args:
        connection: A connection of any module with DB-API 2.0. It is used by the threads that call `first`.
        table: The name of the table.
        paramstyle: That of the module: `sqlite3` has "qmark", `psycopg` and most for MySQL have "format".

    A transaction has to see what others committed before it inserts (SQLite, READ COMMITTED), or to be refused if that
    matters (SERIALIZABLE). Under REPEATABLE READ, a handler that was taken for dead may add to the effects of another.
    """

    def __init__(
        self, connection: Connection, *, table: str = "peerfabric_once", paramstyle: ParamStyle = "qmark"
    ) -> None:
        if not _TABLE.fullmatch(table):
            raise ConfigError(f"table={table!r} is no name of a table; use letters, digits and '_'")
        if paramstyle not in _PLACES:
            raise ConfigError(f"paramstyle={paramstyle!r}; use one of {', '.join(map(repr, _PLACES))}")
        self.table = table
        self._connection = connection
        self._paramstyle = paramstyle
        self._trimmed: dict[str, int] = {}
        """Floors of streams that the table has, as far as we know."""

    def create(self) -> None:
        """Make the table if it is not there. Commits nothing."""
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {self.table} "
            f"(stream VARCHAR(512) NOT NULL, sequence BIGINT NOT NULL, noted_at BIGINT NOT NULL, "
            f"PRIMARY KEY (stream, sequence))"
        )

    def first(self, message: Message[Any] | str) -> bool:
        """Note that the effects of `message` are in this transaction; False: they are there already, do nothing.

        Nothing is committed. If the transaction is rolled back, the note goes with the effects.

        Args:
            message: The message or its id, such as those of a batch. With an id of your own, "WHATEVER/NUMBER",
                nothing is ever deleted.

        Raises:
            The error of the database for a duplicate key: another transaction notes the same message at this moment.
                Roll back; the message comes again, if that one fails, too.
        """
        identity = message if isinstance(message, str) else message.id
        stream, _, number = identity.rpartition("/")
        if not stream or not number.isdigit() or not 1 <= int(number) < 2**53:
            raise ValueError(f"{identity!r} is no id of a message; give the message, or 'STREAM/NUMBER'")
        sequence = int(number)
        if not self._insert(stream, sequence):
            return False
        # Only now: who deletes rows has put the floor there before, and inserting has waited for him.
        if sequence < self._floor(stream):
            return False
        if not isinstance(message, str) and message._delivery.floor - self._trimmed.get(stream, 1) >= TRIM_EVERY:
            self._trim(stream, message._delivery.floor)
        return True

    def forget(self, older_than: float = FORGET_AFTER) -> int:
        """Delete streams in which nothing was noted for `older_than` seconds; return how many rows that were.

        Each start of a producer is a stream of its own. If a producer was away for so long, and comes back with
        messages whose effects are here but whose acks it never got, these are taken for new. Commits nothing.
        """
        older_than = check_seconds("older_than", older_than, "give a finite number")
        old = f"SELECT stream FROM {self.table} GROUP BY stream HAVING MAX(noted_at) < "
        deleted = self._execute(
            f"DELETE FROM {self.table} WHERE stream IN ({old}{{0}})", ("noted_at", int(time.time() - older_than))
        )
        self._trimmed.clear()
        return deleted

    def _insert(self, stream: str, sequence: int) -> bool:
        return bool(
            self._execute(
                f"INSERT INTO {self.table} (stream, sequence, noted_at) SELECT {{0}}, {{1}}, {{2}} "
                f"WHERE NOT EXISTS (SELECT 1 FROM {self.table} WHERE stream = {{3}} AND sequence = {{4}})",
                ("stream", stream),
                ("sequence", sequence),
                ("noted_at", int(time.time())),
                ("same_stream", stream),
                ("same_sequence", sequence),
            )
        )

    def _floor(self, stream: str) -> int:
        """Everything below it is settled; a row with the sequence -floor says so."""
        lowest = self._fetch(
            f"SELECT MIN(sequence) FROM {self.table} WHERE stream = {{0}} AND sequence < 0", ("stream", stream)
        )
        floor = -lowest if lowest is not None else 1
        self._trimmed[stream] = floor
        return floor

    def _trim(self, stream: str, floor: int) -> None:
        """Let one row stand for everything below `floor`."""
        self._insert(stream, -floor)
        self._execute(
            f"DELETE FROM {self.table} WHERE stream = {{0}} AND sequence > {{1}} AND sequence < {{2}}",
            ("stream", stream),
            ("above", -floor),
            ("below", floor),
        )
        self._trimmed.pop(stream, None)  # the transaction may be rolled back yet

    def _execute(self, statement: str, *values: tuple[str, Any]) -> int:
        """Execute a statement and return how many rows it changed."""
        cursor = self._cursor(statement, values)
        try:
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def _fetch(self, statement: str, *values: tuple[str, Any]) -> Any:
        """The one value that a query returns."""
        cursor = self._cursor(statement, values)
        try:
            return cursor.fetchone()[0]
        finally:
            cursor.close()

    def _cursor(self, statement: str, values: tuple[tuple[str, Any], ...]) -> Cursor:
        place = _PLACES[self._paramstyle]
        text = statement.format(*(place.format(n=n, name=name) for n, (name, _) in enumerate(values, 1)))
        by_name = self._paramstyle in ("named", "pyformat")
        cursor: Cursor = self._connection.cursor()
        try:
            cursor.execute(text, dict(values) if by_name else tuple(value for _, value in values))
        except BaseException:
            cursor.close()
            raise
        return cursor


__all__ = ["Once"]
