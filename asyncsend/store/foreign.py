"""Inserting through a connection that belongs to the app: in its transaction, by its driver, and never with a commit."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asyncsend.errors import ConfigurationError
from asyncsend.store.connection import Duplicate, Params, bind, in_mysql
from asyncsend.store.insert import Rows, insert_rows, refuse_full

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncsend.config import Limits
    from asyncsend.job import NewJob


def insert_through(connection: Any, jobs: Sequence[NewJob], prefix: str, max_depth: Limits = ()) -> list[str]:
    """Make the rows through `connection`, and never commit or roll back."""
    rows, lite = asked_through(connection, prefix)
    refuse_full(rows, jobs, max_depth)
    return insert_rows(rows, jobs if lite else [_in_ascii(job) for job in jobs])


def asked_through(connection: Any, prefix: str) -> tuple[Rows, bool]:
    """
    How to ask `connection` one statement, and whether it is SQLite: sqlite3, PyMySQL, mysqlclient, mysql-connector, or Django's wrapper of any of them.

    Errors of the driver come through as they are; ConfigurationError if it is no such connection.
    """
    if not callable(getattr(connection, "cursor", None)):
        raise ConfigurationError(f"connection= must be a database connection with a cursor(), not {type(connection).__name__}")
    vendor = getattr(connection, "vendor", None)  # Django says which database it wraps, and takes %(name)s for all of them
    lite = vendor == "sqlite" or type(connection).__module__.startswith("sqlite3") or "sqlite" in str(type(connection).__mro__)
    if lite:
        from asyncsend.store.sqlite import teach

        if vendor and connection.connection is None:
            connection.ensure_connection()
        teach(connection.connection if vendor else connection, time.time)
    by_colon = lite and not vendor

    def rows(sql: str, params: Params) -> list[tuple[Any, ...]]:
        statement, params = bind(sql, params, prefix)
        if not lite:
            statement = in_mysql(statement)
            params = {name: value.encode() if name.startswith(("unique_key", "order_key", "concurrency_key")) and isinstance(value, str) else value for name, value in params.items()}
        elif not by_colon:  # Django on SQLite: the same placeholders, SQLite's own words
            statement = in_mysql(statement.replace("/*as it is now*/", ""))
        cursor = connection.cursor()
        try:
            cursor.execute(statement, params)
            return list(cursor.fetchall()) if cursor.description else []
        except Exception as error:
            # PEP 249 names the class; 1062 is MySQL's duplicate entry
            if type(error).__name__ == "IntegrityError" and ("UNIQUE" in str(error) or "1062" in str(error)):
                raise Duplicate(str(error)) from error
            raise
        finally:
            cursor.close()

    return rows, lite


def _in_ascii(job: NewJob) -> NewJob:
    """The same job with a payload in letters that every character set has: the app may have connected with latin1. InvalidJob if it grows too long."""
    if not job.payload.isascii():  # outside ASCII there is only text in quotes, where JSON takes \\u escapes
        job = replace(job, payload=re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], job.payload)).checked()
    return job
