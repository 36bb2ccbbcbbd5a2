"""
What every statement stands on: errors, the connection that is asked again, and the translation into each database's words.

A statement is written in MySQL's words; SQLite is taught NOW, UNIX_TIMESTAMP and FROM_UNIXTIME when it connects. `:name` is a
parameter, a list of ids is written out; `/*by key*/` is where MySQL must be told to go by the primary key (`/*to claim*/`, `/*in order*/`
and `/*by end*/`: by another index), `/*as it is now*/` where it must not answer from an old snapshot, `/*to change*/` where nobody else may
change the rows before COMMIT.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from asyncsend.errors import Conflict, DatabaseUnreachable, InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Params = dict[str, Any]

# Asked inside the statement, so that nothing can come between the question and the write: a run that lost the status row writes nothing.
WHILE_OURS = " AND (:owner IS NULL OR EXISTS (SELECT 1 FROM asyncsend_status WHERE owner = :owner))"


class ConnectionLost(Exception):
    """The statement's fate is unknown; the connection is gone. Never leaves the store."""


class Duplicate(Exception):
    """A UNIQUE index refused the statement. Never leaves the store."""


class AlreadyThere(Exception):
    """A column or key that a migration adds is there. Never leaves the store."""


class BadRow(Exception):
    """A value does not fit its column. Never leaves the store."""


P = ParamSpec("P")
R = TypeVar("R")


def resolved(method: Callable[P, R]) -> Callable[P, R]:
    """Repeat a method whose connection was lost in the middle: each is written so that the second time finds out what the first did."""

    @functools.wraps(method)
    def again(*args: P.args, **kwargs: P.kwargs) -> R:
        store: Any = args[0]
        lost_at = None
        for attempt in range(store.RECONNECTS):
            store.repeating = attempt > 0
            try:
                return method(*args, **kwargs)
            except BadRow as misfit:
                raise InvalidJob(f"a value does not fit its column ({misfit})") from misfit
            except Duplicate as taken:
                raise Conflict(f"another row has that already ({taken})") from taken
            except (ConnectionLost, DatabaseUnreachable) as lost:
                if isinstance(lost, DatabaseUnreachable) and (attempt == 0 or attempt + 1 == store.RECONNECTS):
                    raise  # away from the beginning; what was lost on the way may be back in a moment
                store.forget_connection()
                lost_at = lost_at or time.monotonic()
                if attempt + 1 == store.RECONNECTS or time.monotonic() - lost_at > store.PATIENCE:
                    raise store.unreachable(lost) from lost
                store.pause_before_reconnect(attempt)
        raise AssertionError("unreachable: the loop above returns or raises")

    return again


class SqlConnection:
    """The shared half of both stores. A subclass connects, executes, inserts and names its errors."""

    RECONNECTS = 5
    PATIENCE = 4.0  # seconds after the first loss in which to begin another try: a server that hangs must not hang us five times
    BEGIN = "BEGIN"
    aside: bool | None = None  # whether any job may stand in a lane, as the status row said; None: it was not asked
    repeating = False  # whether the method at work is called again, because the fate of its first try is unknown

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    # what a subclass says
    def _execute(self, sql: str, params: Params) -> tuple[list[tuple[Any, ...]], int]:
        """Rows and matched-row count of one statement; ConnectionLost, Duplicate, DatabaseUnreachable or ConfigurationError."""
        raise NotImplementedError

    def _session_facts(self) -> str:
        """More columns for `standing`, whose values `_assert_session` looks at."""
        return ""

    def _assert_session(self, facts: tuple[Any, ...]) -> None:
        """ConfigurationError if the session is not what the statements rely on."""

    def _priorities(self, queue: str, lane: Any) -> Iterator[int]:
        """Those of the ready jobs, the highest first."""
        raise NotImplementedError

    def _let_next(self, ids: Sequence[int], owner: str | None = None) -> None:
        """What stands aside for the sake of these jobs, which were just settled or cancelled, may go on; inside the caller's transaction."""
        raise NotImplementedError

    # the shared plumbing
    def _rows(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        return self._execute(sql, params)[0]

    def _write(self, sql: str, **params: Any) -> int:
        return self._execute(sql, params)[1]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute(self.BEGIN, {})
        try:
            yield
        except ConnectionLost:
            raise  # the server rolls back by itself
        except BaseException:
            self._execute("ROLLBACK", {})
            raise
        self._execute("COMMIT", {})


def bind(sql: str, params: Params, prefix: str, mark: str = ":{}") -> tuple[str, Params]:
    """The statement with the table prefix and the lists of ids written in, and the parameters that are left; lists hold whole numbers only."""
    if prefix != "asyncsend_":
        sql = re.sub(r"\basyncsend_(?=jobs|status|runs|pauses|batches|schedules|subscriptions|channels|quotas|sends|attempts|counters|alerts|receipts|suppressions|schema)", prefix, sql)
    left: Params = {}
    for name, value in params.items():
        if isinstance(value, list):
            sql = sql.replace(mark.format(name), "(" + ",".join([str(int(one)) for one in value]) + ")")
        else:
            left[name] = value
    return sql, left


_HINTS = {
    "/*by key*/": "FORCE INDEX (PRIMARY)", "/*to claim*/": "FORCE INDEX (jobs_to_claim)", "/*in order*/": "FORCE INDEX (jobs_in_order)",
    "/*by end*/": "FORCE INDEX (jobs_to_prune)", "/*as it is now*/": "LOCK IN SHARE MODE", "/*to change*/": "FOR UPDATE",
}  # fmt: skip
_PARAMETER = re.compile(r":([a-z_]+\d*)\b")


def in_mysql(sql: str) -> str:
    """The statement in MySQL's words and the DB-API's pyformat style."""
    spoken = _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))
    for said, meant in _HINTS.items():
        spoken = spoken.replace(said, meant)
    return spoken


def statements(ddl: str) -> list[str]:
    """The statements of a migration, without comments and empty lines."""
    bare = re.sub(r"[ \t]*--[^\n]*", "", ddl)
    return [statement.strip() for statement in bare.split(";\n") if statement.strip(" ;\n")]


def storable(text: str | None) -> str | None:
    """Text any of the servers takes: half surrogates and NUL bytes replaced."""
    if text is None or (text.isascii() and "\x00" not in text):
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def is_zero_date(value: Any) -> bool:
    """A server that is not strict stores 0000-00-00 for an instant it cannot hold (MySQL manual, "Server SQL Modes")."""
    return isinstance(value, str) and value.startswith("0000")


def as_time(value: Any) -> datetime | None:
    if value is None or is_zero_date(value):
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(f"{value}+00:00")
    except ValueError:  # SQLite stores any text somebody puts there by hand
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return None
    return moment if moment.tzinfo is UTC else moment.replace(tzinfo=UTC)  # of a date alone the + was the T


def as_text(value: Any) -> str | None:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def as_hex(value: Any) -> str | None:
    return value.hex() if isinstance(value, bytes) else None
