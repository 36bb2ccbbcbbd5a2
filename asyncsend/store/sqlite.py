"""SQLite, the embedded default: one file beside the log, the same statements, taught MySQL's words for time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncsend.errors import ConfigurationError, DatabaseUnreachable
from asyncsend.store.connection import AlreadyThere, BadRow, ConnectionLost, Duplicate, Params, as_text, bind, resolved
from asyncsend.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class SQLiteStore(SqlStore):
    """One connection to one file. `clock` (seconds since 1970) is the database clock; SQLite has none but the host's."""

    RECONNECTS = 3  # each has waited ten seconds for the lock
    PATIENCE = 60.0
    BEGIN = "BEGIN IMMEDIATE"  # take the write lock at once: an upgrade in the middle could fail with SQLITE_BUSY

    def __init__(self, url: str, prefix: str, clock: Callable[[], float] | None = None) -> None:
        super().__init__(prefix)
        path = url.removeprefix("sqlite:").lstrip("/")
        self.path = os.path.expanduser(path) if path.startswith("~") else "/" + path  # cron's folder is anywhere: never relative
        self.clock = clock or time.time
        self._connection: sqlite3.Connection | None = None

    @property
    def name(self) -> str:
        return f"SQLite database {self.path}"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def forget_connection(self) -> None:
        # After a fork the copy must not be closed: closing any descriptor of the file would drop the parent's POSIX locks
        # (sqlite.org/howtocorrupt.html section 2.2). It is left for the end of the process.
        self._forgotten, self._connection = self._connection, None

    def unreachable(self, error: BaseException) -> DatabaseUnreachable:
        return DatabaseUnreachable(f"the {self.name} is busy or away ({error}): nothing is lost, the next run tries again")

    def pause_before_reconnect(self, attempt: int) -> None:
        time.sleep(0.05 * 4**attempt)

    def create(self) -> None:
        """Make the file, readable by its owner only, if it is not there."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        # Never opened when it is there: closing it again would drop the locks of every other connection of this process, and
        # two writers at once spoil the file (sqlite.org/howtocorrupt.html section 2.2).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _connect(self) -> sqlite3.Connection:
        if not os.path.exists(self.path):
            missing = ConfigurationError(f"there is no {self.name} yet: run `asyncsend init`, or set ASYNCSEND_DATABASE_URL in .env")
            missing.missing_table = True  # type: ignore[attr-defined]
            raise missing
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        teach(connection, self.clock)
        # WAL lets producers write while a run reads; FULL makes COMMIT mean what P1 says (sqlite.org/pragma.html#pragma_synchronous).
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _execute(self, sql: str, params: Params) -> tuple[list[tuple[Any, ...]], int]:
        statement, left = bind(sql, params, self.prefix)
        if " ON DUPLICATE KEY UPDATE " in statement:
            statement = _in_place(statement)
        try:
            if self._connection is None:
                self._connection = self._connect()
            cursor = self._connection.execute(statement, left)
            return cursor.fetchall(), cursor.rowcount
        except sqlite3.Error as error:
            raise self._ours(error) from error

    def _ours(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if "duplicate column name" in str(error):  # SQLite knows no ADD COLUMN IF NOT EXISTS
            return AlreadyThere(str(error))
        if "UNIQUE constraint" in str(error):
            return Duplicate(str(error))
        if "duplicate column name" in str(error):
            return AlreadyThere(str(error))
        if code == sqlite3.SQLITE_CONSTRAINT:
            return BadRow(str(error))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ConnectionLost(str(error))
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            return DatabaseUnreachable(f"the {self.name} takes no writes ({error}): free space or check its rights, the next run tries again")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_PERM):
            return ConfigurationError(f"the {self.name} cannot be used ({error}): check the path and its rights, or restore it")
        if "no such table" in str(error) or "no such column" in str(error):
            missing = ConfigurationError(f"the tables of asyncsend are not in the {self.name} ({error}): run `asyncsend init`")
            missing.missing_table = "no such table" in str(error)  # type: ignore[attr-defined]
            return missing
        return DatabaseUnreachable(f"the {self.name} answered: {error}: run `asyncsend doctor`; the next run tries again")

    def _adding(self, columns: Iterable[str]) -> str:
        return "ON CONFLICT (span, began, queue, task) DO UPDATE SET " + ", ".join(f"{name} = {name} + excluded.{name}" for name in columns)

    @resolved
    def facts(self) -> dict[str, str]:
        size = os.path.getsize(self.path)
        return {
            "version": sqlite3.sqlite_version,
            "journal_mode": str(self._rows("PRAGMA journal_mode")[0][0]),
            "now": str(self.clock()),
            "bytes": str(size),
            "tables": ", ".join(sorted(self.tables())),
        }

    @resolved
    def tables(self) -> set[str]:
        return {str(row[0]) for row in self._rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")}


def _in_place(statement: str) -> str:
    """The same with whole rows replaced, which is the same where every column is given: SQLite before 3.24 knows no upsert."""
    return statement.replace("INSERT INTO", "INSERT OR REPLACE INTO", 1).partition(" ON DUPLICATE KEY UPDATE ")[0]


def teach(connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
    """Teach a connection the words of MySQL that the shared statements use; all times are UTC text."""
    connection.create_function("NOW", 1, lambda _digits: text_of(clock()))
    connection.create_function("UNIX_TIMESTAMP", 1, lambda text: None if text is None else seconds_of(text))
    connection.create_function("FROM_UNIXTIME", 1, lambda seconds: None if seconds is None else text_of(seconds))
    connection.create_function("FLOOR", 1, lambda number: None if number is None else int(number // 1))
    connection.create_function("CONCAT", -1, lambda *parts: None if None in parts else "".join(str(as_text(part)) for part in parts))


def text_of(seconds: float) -> str:
    """`2026-11-21 02:48:05.123456`, the form whose order as text is its order in time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
