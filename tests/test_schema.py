"""The tables: schema.sql is the sum of the migrations, both databases have the same columns, init is idempotent and upgradable."""

import re
import shutil

import pytest
from parts import ROOT, made_store

from asyncsend import schema
from asyncsend.errors import ConfigurationError
from asyncsend.store import open_store
from asyncsend.store.connection import statements


def described(server, name: str) -> dict[str, str]:
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        tables = [row[0] for row in cursor.fetchall()]
        found = {}
        for table in tables:
            cursor.execute(f"SHOW CREATE TABLE {table}")
            found[table] = re.sub(r" AUTO_INCREMENT=\d+", "", cursor.fetchone()[1])
        cursor.execute("SELECT version FROM asyncsend_schema")
        found["versions"] = str(sorted(cursor.fetchall()))
        cursor.execute("SELECT scope, status FROM asyncsend_status")
        found["status"] = str(cursor.fetchall())
        return found


def test_schema_sql_equals_the_sum_of_the_migrations(server):
    with server.database() as pasted, server.database() as migrated:
        with server.connect(pasted) as connection, connection.cursor() as cursor:
            for statement in statements((ROOT / "schema.sql").read_text("utf-8")):
                cursor.execute(statement)
        made_store(server.url(migrated)).close()
        assert described(server, pasted) == described(server, migrated)


def test_the_newest_migration_is_the_version_the_code_wants():
    for dialect in ("mysql", "sqlite"):
        assert max(schema.migrations(dialect)) == schema.VERSION


def test_both_databases_have_the_same_columns(server, tmp_path):
    with server.database() as name:
        made_store(server.url(name)).close()
        lite = made_store(f"sqlite:///{tmp_path}/x.sqlite3")
        with server.connect(name) as connection, connection.cursor() as cursor:
            for table in ("jobs", "status", "runs", "pauses", "batches", "schedules", "subscriptions", "channels", "quotas", "sends", "attempts", "counters", "alerts", "receipts", "suppressions", "schema"):
                cursor.execute(f"SHOW COLUMNS FROM asyncsend_{table}")
                mysql = [row[0] for row in cursor.fetchall()]
                assert mysql == [row[1] for row in lite._rows(f"PRAGMA table_info(asyncsend_{table})")]
        lite.close()


def test_init_twice_changes_nothing(store):
    dialect = "mysql" if hasattr(store, "options") else "sqlite"
    assert schema.install(store, dialect) == []
    assert store.schema_version() == schema.VERSION


def test_a_later_version_is_added_to_what_is_there_and_old_inserts_still_work(store, tmp_path):
    dialect = "mysql" if hasattr(store, "options") else "sqlite"
    shutil.copytree(ROOT / "asyncsend" / "store" / "migrations", tmp_path / "migrations")
    column = "ALTER TABLE asyncsend_jobs ADD COLUMN colour VARCHAR(10) NULL;\n"
    later = schema.VERSION + 1
    (tmp_path / "migrations" / dialect / f"{later:04}_colour.sql").write_text(f"{column}INSERT INTO asyncsend_schema (version) VALUES ({later});\n")
    store._write("INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{}')")
    assert schema.install(store, dialect, folder=tmp_path / "migrations") == [later]
    assert schema.install(store, dialect, folder=tmp_path / "migrations") == []
    store._write("INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{}')")
    assert store.count(state="ready", queue=None, task=None) == 2
    with pytest.raises(ConfigurationError, match="newer than this asyncsend knows"):
        schema.verify(store.schema_version())


def test_an_interrupted_init_is_finished_by_the_next(server):
    with server.database() as name:
        store = open_store(server.url(name), "asyncsend_")
        for statement in statements((ROOT / "schema.sql").read_text("utf-8"))[:2]:
            store._write(statement)
        assert store.schema_version() is None
        assert schema.install(store, "mysql") == list(schema.migrations("mysql"))
        store.close()


@pytest.mark.parametrize(("version", "words"), [(None, "asyncsend init"), (0, "asyncsend init"), (99, "pip install --upgrade asyncsend")])
def test_tables_of_another_version_are_refused_with_the_command_that_mends_it(version, words):
    with pytest.raises(ConfigurationError, match=words):
        schema.verify(version)


def test_the_shop_window_has_nothing_that_an_old_server_lacks():
    """The intersection of MySQL 5.6 and everything later, and not a byte that an editor or phpMyAdmin could garble."""
    text = (ROOT / "schema.sql").read_bytes()
    assert text.isascii()
    for word in (b"JSON", b"GENERATED", b"CHECK", b"DEFAULT (", b"SKIP LOCKED", b"RETURNING", b"FOREIGN"):
        assert word not in re.sub(rb"--[^\n]*", b"", text).upper(), word
    creates = re.findall(rb"CREATE TABLE.*?;\n", re.sub(rb"--[^\n]*", b"", text), re.DOTALL)
    assert len(creates) == text.count(b"CREATE TABLE")
    assert all(b"ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci" in create for create in creates)


def test_a_migration_that_was_cut_short_between_two_statements_is_finished_by_the_next_init(store):
    """A dropped table makes all later migrations run again over what they had changed: columns and keys that are there are no error."""
    dialect = "mysql" if hasattr(store, "options") else "sqlite"
    versions = list(schema.migrations(dialect))
    store._write("DELETE FROM asyncsend_schema WHERE version > 1")
    assert schema.install(store, dialect) == versions[1:]
    store._write("DROP TABLE asyncsend_pauses")
    assert schema.install(store, dialect) == versions
    assert store.schema_version() == schema.VERSION
