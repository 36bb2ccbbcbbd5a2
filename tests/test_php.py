"""The INSERT contract from real PHP: PDO and mysqli, and PDO on SQLite; and plain SQL on every server, strict or not, in any zone, at any isolation."""

import shutil
import subprocess
import time

import pytest
from parts import Site, made_store, missing

INSERT = """INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')"""


@pytest.fixture(scope="module")
def php():
    found = shutil.which("php")
    if not found:
        missing("php", "apt-get install php-cli php-mysql php-sqlite3")
    modules = subprocess.run([found, "-m"], capture_output=True, text=True, check=True).stdout.lower()
    for module in ("mysqli", "pdo_mysql", "pdo_sqlite"):
        if module not in modules:
            missing(f"PHP's {module}", "apt-get install php-mysql php-sqlite3")

    def run(source: str) -> str:
        done = subprocess.run([found], input="<?php\n" + source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def place(any_server, tmp_path):
    """A site on that server, and the server and database to insert into."""
    with any_server.database() as name:
        url = any_server.url(name)
        made_store(url).close()
        yield Site(tmp_path / "home", url), any_server, name


def sent(site) -> int:
    site.quiet("run")
    return len(list((site.home / "outbox" / "new").glob("*.eml"))) if (site.home / "outbox").exists() else 0


def test_pdo_inserts_a_full_job(place, php):
    site, server, name = place
    where = f"unix_socket={server.socket}" if server.socket else f"host={server.host};port={server.port}"
    out = php(f"""
        $db = new PDO('mysql:{where};dbname={name};charset=utf8mb4', '{server.user}', '{server.password}', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
        $insert = $db->prepare('INSERT INTO asyncsend_jobs (task, payload) VALUES (?, ?)');
        $insert->execute(['email', json_encode(['to' => 'ann@example.com', 'subject' => 'Grüße 😀', 'text' => "Hallo\\nWelt"])]);
        echo $db->lastInsertId();
    """)
    assert out == "1"
    assert site.rows("task, queue, priority, state, attempts") == [("email", "default", 0, "ready", 0)]
    assert sent(site) == 1
    assert site.rows("state, attempts") == [("done", 1)]


def test_mysqli_inserts_in_its_own_transaction(place, php):
    site, server, name = place
    where = f"'localhost', '{server.user}', '{server.password}', '{name}', 0, '{server.socket}'" if server.socket else f"'{server.host}', '{server.user}', '{server.password}', '{name}', {server.port}"
    php(f"""
        mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
        $db = new mysqli({where});
        $db->set_charset('utf8mb4');
        $insert = $db->prepare('INSERT INTO asyncsend_jobs (task, payload, queue, priority, uid, unique_key, run_at) VALUES (?, ?, ?, ?, ?, ?, NULL)');
        foreach ([['kept', true], ['dropped', false]] as [$uid, $keep]) {{
            $db->begin_transaction();
            $task = 'email'; $payload = '{{"to":"bob@example.com","subject":"Hi","text":"Hello"}}'; $queue = 'mail'; $priority = 7; $key = "key-$uid";
            $insert->bind_param('sssiss', $task, $payload, $queue, $priority, $uid, $key);
            $insert->execute();
            $keep ? $db->commit() : $db->rollback();
        }}
    """)
    assert site.rows("uid, queue, priority") == [("kept", "mail", 7)]
    assert sent(site) == 1


def test_pdo_on_sqlite_takes_the_same_statement(lite, php):
    path = lite.url.removeprefix("sqlite://")
    php(f"""
        $db = new PDO('sqlite:{path}'); $db->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
        $db->exec(<<<'SQL'
{INSERT}
SQL);
    """)
    assert sent(lite) == 1


ZONES = ["+00:00", "-11:00", "+13:00"]
ISOLATIONS = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
MODES = ["", "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE", "ANSI", "TRADITIONAL"]


@pytest.mark.parametrize(
    ("zone", "isolation", "mode"),
    [*((zone, "REPEATABLE READ", "") for zone in ZONES), *(("-11:00", isolation, "") for isolation in ISOLATIONS), *(("-11:00", "READ COMMITTED", mode) for mode in MODES)],
)
def test_the_insert_works_in_any_mode_zone_and_isolation(place, zone, isolation, mode):
    site, server, name = place
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET SESSION sql_mode = '{mode}'")
        cursor.execute(f"SET SESSION time_zone = '{zone}'")
        cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
        cursor.execute(INSERT)
        cursor.execute("INSERT INTO asyncsend_jobs (task, payload, run_at) VALUES ('email', '{}', NOW() + INTERVAL 5 MINUTE)")
        connection.commit()
    assert sent(site) == 1
    assert [row[0] for row in site.rows("state")] == ["done", "ready"], "NOW() + INTERVAL means that instant, whatever the zone"
    store = site.store()
    due = store.jobs(state="ready", queue=None, task=None, limit=1)[0].run_at
    assert 280 < due.timestamp() - time.time() <= 305
    store.close()


def test_values_out_of_range_are_refused_by_a_strict_server_and_never_stop_a_run_on_a_lax_one(place):
    import pymysql

    site, server, name = place
    bad = [("priority", "1000000000000"), ("run_at", "'9999-12-31 00:00:00'"), ("run_at", "'tomorrow'"), ("max_attempts", "-1"), ("timeout_seconds", "0"),
           ("queue", "REPEAT('q', 300)"), ("expires_at", "'9999-12-31 00:00:00'"), ("queue", "'x'' OR 1=1 -- '"), ("run_at", "'1970-01-01 00:00:00'")]  # fmt: skip
    payload = """'{"to":"ann@example.com","subject":"Hi","text":"Hello"}'"""
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+00:00'")
        cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
        refused = 0
        for column, value in bad:
            try:
                cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, {column}) VALUES ('email', {payload}, {value})")
            except pymysql.Error:
                refused += 1
        assert refused == 6, "three are in range for the column, and clamped or harmless"
        cursor.execute("DELETE FROM asyncsend_jobs")
        cursor.execute("SET SESSION sql_mode = ''")
        for column, value in bad:
            cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, {column}) VALUES ('email', {payload}, {value})")
        connection.commit()
    mails = sent(site)
    rows = site.rows("state, reason")
    assert all(row in (("done", None), ("held", "bad-row")) for row in rows), rows
    assert mails == [row[0] for row in rows].count("done") == 5
    assert [row[0] for row in rows][1:3] == ["held", "held"], "an instant the server zeroed is nobody's now"
    assert "run_at" in site.rows("error")[1][0]
