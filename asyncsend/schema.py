"""The tables: finding, installing, upgrading and checking them. Holds no DDL of its own: that is in `store/migrations/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from asyncsend.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncsend.store import Store

VERSION = 12  # the highest number under store/migrations; tests/test_schema.py keeps it true

_PACKAGE = Path(__file__).parent


def packaged(name: str) -> str:
    """The text of a top-level file: inside the package in a wheel, beside it in a checkout or an editable install."""
    inside = _PACKAGE / name
    return (inside if inside.is_file() else _PACKAGE.parent / name).read_text("utf-8")


def migrations(dialect: str, folder: Path | None = None) -> dict[int, str]:
    """Version → DDL for `mysql` or `sqlite`, in order."""
    found = (folder or _PACKAGE / "store" / "migrations") / dialect
    return {int(path.name[:4]): path.read_text("utf-8") for path in sorted(found.glob("[0-9][0-9][0-9][0-9]_*.sql"))}


def with_prefix(ddl: str, prefix: str) -> str:
    """The DDL for another table prefix."""
    return ddl.replace("asyncsend_", prefix)


def install(store: Store, dialect: str, prefix: str = "asyncsend_", folder: Path | None = None) -> list[int]:
    """
    Bring the tables to the newest version; the versions that were applied, none if all was there.

    Safe to repeat and to interrupt: every statement of a migration may have been applied before.
    """
    have = store.schema_version() or 0
    wanted = migrations(dialect, folder)
    if have > max(wanted):
        raise _newer(have, max(wanted))
    # A table that somebody dropped is made again by the migration that made it first, and changed by all that follow.
    present = store.tables() if have else set()
    first = min((version for version, ddl in wanted.items() if version > have or not _made_by(ddl, prefix) <= present), default=max(wanted) + 1)
    missing = {version: ddl for version, ddl in wanted.items() if version >= first}
    for version, ddl in missing.items():
        store.apply(max(version, have), with_prefix(ddl, prefix))
    return list(missing)


def _made_by(ddl: str, prefix: str) -> set[str]:
    return set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", with_prefix(ddl, prefix)))


def verify(version: int | None) -> None:
    """Return if the tables are of this version; ConfigurationError with the command that mends it otherwise."""
    if version is None:
        raise ConfigurationError("there are no tables of asyncsend here yet: run `asyncsend init`")
    if version < VERSION:
        raise ConfigurationError(f"the tables are of version {version}, this asyncsend needs {VERSION}: run `asyncsend init`")
    if version > VERSION:
        raise _newer(version, VERSION)


def _newer(have: int, known: int) -> ConfigurationError:
    return ConfigurationError(f"the tables are of version {have}, newer than this asyncsend knows ({known}): run `pip install --upgrade asyncsend`")
