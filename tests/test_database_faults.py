"""What a database does to a run: killed, cut, full, read-only, locked, restored, edited by hand. A real server and the real fault each time."""

import json
import threading
from pathlib import Path

import pymysql
import pytest
from parts import PrivateServer, Site, eventually, made_store
from proxy import Rule

from asyncsend import outcome as outcomes
from asyncsend.errors import DatabaseUnreachable
from asyncsend.job import NewJob
from asyncsend.outcome import Settlement
from asyncsend.store import mysql, open_store

TASKS = """
import os, time
from asyncsend import task, Backoff

HERE = os.path.dirname(os.path.abspath(__file__))

def note(line):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(line + "\\n")

@task
def mark(name, seconds=0):
    note(name)
    time.sleep(seconds)

@task
def wait(name):
    note(name)
    while not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.01)

@task(max_attempts=2, backoff=Backoff(base=0, cap=0))
def fail(name):
    note(name)
    raise ValueError(name)

@task(delivery="at-most-once")
def once(name):
    note(name)
"""
# The seconds the product waits for a lock or a reply are its own; the tests wait one.
IMPATIENT = "import asyncsend.store.mysql as m; m.SESSION = m.SESSION.replace('timeout = 5', 'timeout = 1')"
# Every write of a run, and where its transactions begin and end, by words that no other statement has; 3 is COM_QUERY, before its first letter.
WRITES = {
    "take": rb"SET previous_started_at", "close dead runs": rb"SET finished_at = .{1,30} stopped = 'died'", "claim": rb"SET state = 'running', token",
    "open row": rb"INSERT INTO asyncsend_runs", "start mark": rb"'started-once'", "settle: begin": rb"\x03BEGIN", "settle: done": rb"SET state = 'done'",
    "settle: others": rb"token = CASE WHEN 0 = 1", "rescue": rb"token = CASE WHEN 1 = 1", "settle: commit": rb"\x03COMMIT", "prune": rb"DELETE FROM asyncsend_jobs",
    "end": rb"SET status = 'idle'", "save row": rb"SET claimed = ",
}  # fmt: skip


@pytest.fixture(scope="module")
def own():
    """A server that these tests may do anything to."""
    server = PrivateServer()
    server.changed = False
    yield server
    server.stop()


@pytest.fixture
def shop(own, tmp_path):
    """A site whose database user is an ordinary one, as hosts give them; the tests themselves are root."""
    with own.database() as name:
        with own.connect() as connection, connection.cursor() as sql:
            sql.execute("CREATE OR REPLACE USER shop@localhost")
            sql.execute(f"GRANT ALL ON {name}.* TO shop@localhost")
        made_store(own.url(name)).close()
        site = Site(tmp_path / "home", own.url(name))
        site.name = name
        site.environment["ASYNCSEND_DATABASE_URL"] = ordinary(own.url(name))
        site.tasks(TASKS)
        yield site
        if own.changed:  # whatever a test set is gone
            own.changed = False
            own.restart()


def ordinary(url: str) -> str:
    return url.replace("mysql://root@", "mysql://shop@")


def through(proxy, own, site) -> None:
    site.environment["ASYNCSEND_DATABASE_URL"] = ordinary(own.url(site.name, proxy.port))


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


def states(site) -> list[str]:
    return [state for (state,) in site.rows("state")]


def marks(site, number: int, seconds: float = 0) -> list[str]:
    names = [f"j{position}" for position in range(number)]
    for name in names:
        site.insert("mark", json.dumps({"name": name, "seconds": seconds}))
    return names


def say(own, *statements: str, database: str | None = None) -> None:
    own.changed = own.changed or any("GLOBAL" in statement for statement in statements)
    with own.connect(database) as connection, connection.cursor() as sql:
        for statement in statements:
            sql.execute(statement)


def sessions(own, saying: str = "") -> list[int]:
    """The ids of the site's sessions whose present statement holds these words."""
    with own.connect() as connection, connection.cursor() as sql:
        sql.execute("SELECT id FROM information_schema.processlist WHERE user = 'shop' AND COALESCE(info, '') LIKE %s", (f"%{saying}%",))
        return [row[0] for row in sql.fetchall()]


def away(done, *words: str) -> None:
    """The command ended as a database that is away ends it: 75, one line, these words."""
    assert done.returncode == 75, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def ended(process) -> object:
    process.stdout_text, process.stderr_text = (stream.decode() for stream in process.communicate(timeout=90))
    return type("Done", (), {"returncode": process.returncode, "stdout": process.stdout_text, "stderr": process.stderr_text})


# ── killed and cut ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_server_killed_and_restarted_around_take_claim_settle_and_end_loses_and_repeats_nothing(own, shop, proxied, when):
    names = marks(shop, 5)
    proxy = proxied(own)
    through(proxy, own, shop)
    proxy.rules += [Rule(WRITES[name], when, own.restart) for name in ("take", "claim", "settle: done", "end")]
    shop.quiet("run")
    assert [rule.hits for rule in proxy.rules] == [1, 1, 1, 1]
    eventually(own.answers, what="the server's last return")  # the run need not wait for it: its last reply is not worth it
    assert (states(shop), effects(shop)) == (["done"] * 5, names)
    assert shop.store().standing("default").status == "idle"
    assert shop.store().runs(1)[0].counts["done"] == 5


def test_a_server_killed_at_any_moment_of_many_jobs_loses_and_repeats_nothing(own, shop):
    names = marks(shop, 30, 0.02)
    for killed in range(1, 4):
        run = shop.start("run")
        eventually(lambda killed=killed: len(effects(shop)) >= 7 * killed, what="some jobs")
        own.restart()
        done = ended(run)
        assert done.returncode in (0, 75), done.stderr
        assert "Traceback" not in done.stderr
    shop.quiet("run")
    assert states(shop) == ["done"] * 30
    assert sorted(effects(shop)) == sorted(names), "no run died, so nothing is repeated"


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_connection_cut_around_any_write_of_a_run_changes_nothing_of_what_becomes_of_the_jobs(own, shop, proxied, when):
    """Error 2013 is the same whether the statement was done or not: the token, the owner or the row tells."""
    names = marks(shop, 3)
    for task in ("fail", "once"):
        shop.insert(task, json.dumps({"name": task}))
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, state, finished_at, unique_slot) VALUES ('mark', '{}', 'done', '2020-01-01', NULL)")
    store = shop.store()
    store.take("default", store.standing("default"), "a" * 32, shop_lock(shop), "host", 1, 120)  # a run that died
    store.open_run("default", 1, "host", 1)
    store.claim(["default"], 1, "ab" * 16, 1)
    proxy = proxied(own)
    through(proxy, own, shop)
    proxy.rules += [Rule(pattern, when) for pattern in WRITES.values()]
    shop.prelude = "import asyncsend.store.mysql as m; m.MySQLStore.pause_before_reconnect = lambda *_: None"  # one call meets four cuts here
    shop.quiet("run")
    assert {name: rule.hits for name, rule in zip(WRITES, proxy.rules, strict=True)} == dict.fromkeys(WRITES, 1)
    assert shop.rows("task, state, attempts") == [*[("mark", "done", 1)] * 3, ("fail", "dead", 2), ("once", "done", 1)]
    assert sorted(effects(shop)) == sorted([*names, "fail", "fail", "once"])
    assert [(run.stopped, *(run.counts[word] for word in ("done", "rescued", "late"))) for run in store.runs(5)] == [("empty", 4, 1, 0), ("died", 0, 0, 0)]
    store.close()


def shop_lock(site) -> str:
    from asyncsend.lock import HostLock

    with HostLock(site.settings().lock_path) as lock:
        return lock.lock_id


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_an_enqueue_whose_connection_is_cut_makes_each_job_once(own, shop, proxied, when):
    proxy = proxied(own)
    through(proxy, own, shop)
    proxy.rules.append(Rule(rb"INSERT INTO asyncsend_jobs", when))
    shop("enqueue", "mark", '{"name":"a"}')
    store = open_store(shop.environment["ASYNCSEND_DATABASE_URL"], "asyncsend_")
    proxy.rules += [Rule(rb"INSERT INTO asyncsend_jobs", when), Rule(rb"\x03COMMIT", when)]
    assert store.insert([NewJob("mark", "{}", uid) for uid in "bcd"]) == ["b", "c", "d"]
    store.close()
    assert [rule.hits for rule in proxy.rules] == [1, 1, 1]
    assert len(shop.rows()) == 4


def test_a_connection_that_the_server_drops_while_a_task_runs_is_opened_anew(own, shop):
    """Hosts set wait_timeout to seconds; nothing is asked of the database while a task runs."""
    say(own, "SET GLOBAL wait_timeout = 1")
    shop.insert("wait", '{"name":"a"}')
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    eventually(lambda: not sessions(own), what="the end of the idle session")
    (shop.home / "go").touch()
    assert run.communicate(timeout=60) == (b"", b"")
    assert (run.returncode, states(shop), effects(shop)) == (0, ["done"], ["a"])


FROZEN_IN_THE_MIDDLE = """
import os, signal
from asyncsend import status
from asyncsend.store import mysql
status.LEASE, status.BEAT, status.MARGIN = 1.5, 0.3, 0.5
mysql.SESSION = mysql.SESSION.replace(str(mysql.SILENCE), "2")
execute = mysql.MySQLStore._execute
def frozen(self, sql, params):
    if sql == "COMMIT":
        os.kill(os.getpid(), signal.SIGSTOP)
    return execute(self, sql, params)
mysql.MySQLStore._execute = frozen
"""


def test_a_host_that_falls_silent_between_begin_and_commit_does_not_keep_the_others_out_for_hours(own, shop, tmp_path):
    with own.connect(shop.name) as session, session.cursor() as sql:
        sql.execute("SELECT @@wait_timeout")
        assert sql.fetchone() == (28800,), "else this test shows nothing"
    names = marks(shop, 3)
    shop.insert("fail", '{"name":"x"}')
    shop.prelude = FROZEN_IN_THE_MIDDLE
    run = shop.start("run")
    try:
        eventually(lambda: Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="the freeze")
        eventually(lambda: not sessions(own), what="the end of its session")
        other = Site(tmp_path / "other-host", shop.url, ASYNCSEND_TASKS="shop_tasks", ASYNCSEND_PATH=str(shop.home))
        other.quiet("run")
        assert states(shop)[: len(names)] == ["done"] * 3
    finally:
        run.kill()
        run.communicate(timeout=60)


@pytest.mark.parametrize("kill", ["KILL QUERY", "KILL CONNECTION"])
def test_a_statement_or_session_that_an_administrator_kills_is_done_again(own, shop, kill):
    names = marks(shop, 2)
    with own.connect(shop.name) as other, other.cursor() as sql:
        sql.execute("BEGIN")
        sql.execute("SELECT * FROM asyncsend_jobs FOR UPDATE")
        run = shop.start("run")
        [victim] = eventually(lambda: sessions(own, "SET state = 'running'"), what="the claim that waits")
        say(own, f"{kill} {victim}")
        if kill == "KILL QUERY":
            eventually(lambda: sessions(own, "SET state = 'running'") not in ([], [victim]), what="another try in a new session")
        else:
            eventually(lambda: victim not in sessions(own), what="the end of the session")
    assert run.communicate(timeout=60) == (b"", b"")
    assert (run.returncode, states(shop), effects(shop)) == (0, ["done"] * 2, names)


# ── locked by others ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def settling(own, shop, monkeypatch):
    """Two claimed jobs and a function that settles both in one transaction, beside another session that holds the second row."""
    monkeypatch.setattr(mysql, "SESSION", mysql.SESSION.replace("timeout = 5", "timeout = 1"))
    store = open_store(shop.environment["ASYNCSEND_DATABASE_URL"], "asyncsend_")
    store.insert([NewJob("mark", "{}", f"u{number}") for number in range(60)])
    first, second = store.claim(["default"], 2, "ab" * 16, 1)
    wanted = [Settlement(job.id, job.token, outcomes.retry(60, "why", "words"), job.queue, job.task) for job in (first, second)]
    found: list[object] = []

    def settle():
        try:
            found.append(store.settle(wanted))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=settle)
    shop.sql("CREATE TABLE ballast (id INT) ENGINE = InnoDB")
    with own.connect(shop.name) as other, other.cursor() as sql:
        sql.execute("BEGIN")
        yield first, second, sql, thread, found
    thread.join()
    store.close()


def test_a_deadlock_that_we_lose_rolls_the_whole_group_back_and_writes_it_again(own, shop, settling):
    first, second, sql, thread, found = settling
    sql.execute("INSERT INTO ballast SELECT id FROM asyncsend_jobs")  # more rows than ours: the server picks us as the victim
    sql.execute("SELECT 1 FROM asyncsend_jobs WHERE id = %s FOR UPDATE", (second.id,))
    thread.start()
    eventually(lambda: sessions(own, "SET state = "), what="our wait for the second row")
    sql.execute("SELECT 1 FROM asyncsend_jobs WHERE id = %s FOR UPDATE", (first.id,))  # closes the circle
    sql.execute("SHOW ENGINE INNODB STATUS")
    assert "LATEST DETECTED DEADLOCK" in sql.fetchone()[2]
    sql.execute("COMMIT")
    thread.join(30)
    assert [settled.accepted for settled in found] == [2], found
    assert shop.rows("state, attempts", f"id IN ({first.id}, {second.id})") == [("ready", 1)] * 2


def test_a_row_that_another_session_keeps_is_waited_for_and_the_group_is_written_once(own, shop, settling):
    first, second, sql, thread, found = settling
    sql.execute("SELECT * FROM asyncsend_jobs WHERE id = %s FOR UPDATE", (second.id,))
    thread.start()
    [session] = eventually(lambda: sessions(own, "SET state = "), what="our wait")
    eventually(lambda: sessions(own, "SET state = ") not in ([], [session]), what="the second try")
    assert shop.rows("state", f"id = {first.id}") == [("running",)], "the half that was written was rolled back"
    sql.execute("COMMIT")
    thread.join(30)
    assert [settled.accepted for settled in found] == [2], found
    assert shop.rows("state, attempts", f"id IN ({first.id}, {second.id})") == [("ready", 1)] * 2


def test_a_row_that_is_never_let_go_is_exit_75_with_nothing_half_written(own, shop, settling, monkeypatch):
    monkeypatch.setattr(mysql.MySQLStore, "PATIENCE", 0.5)
    first, second, sql, thread, found = settling
    sql.execute("SELECT * FROM asyncsend_jobs WHERE id = %s FOR UPDATE", (second.id,))
    thread.start()
    thread.join(30)
    assert [type(error) for error in found] == [DatabaseUnreachable]
    sql.execute("COMMIT")
    assert shop.rows("state", f"id IN ({first.id}, {second.id})") == [("running",)] * 2


@pytest.mark.parametrize(
    "held_by",
    [
        ("FLUSH TABLES WITH READ LOCK",),  # mysqldump, and many backups
        ("BEGIN", "SELECT * FROM asyncsend_status", "-- an ALTER TABLE waits behind this"),
    ],
)
def test_tables_locked_by_a_backup_or_an_alter_are_exit_75_and_the_next_run_goes_on(own, shop, held_by):
    names = marks(shop, 2)
    shop.prelude = IMPATIENT
    with own.connect(shop.name) as other, other.cursor() as sql:
        for statement in held_by[:2]:
            sql.execute(statement)
        if len(held_by) == 3:
            alter = threading.Thread(target=say, args=(own, "ALTER TABLE asyncsend_status ADD COLUMN extra INT"), kwargs={"database": shop.name})
            alter.start()
            eventually(lambda: waits_for_metadata(own), what="the ALTER waiting")
        away(shop("run", code=75), "locked by another session")
        sql.execute("UNLOCK TABLES")
        sql.execute("COMMIT")
    if len(held_by) == 3:
        alter.join(30)
    assert (states(shop), effects(shop)) == (["ready"] * 2, [])
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"] * 2, names)


def waits_for_metadata(own) -> int:
    with own.connect() as connection, connection.cursor() as sql:
        return sql.execute("SELECT 1 FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata lock'")


# ── too many connections ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", ["of the server", "of the user"])
def test_a_limit_of_connections_is_exit_75_with_no_job_charged(own, shop, limit):
    names = marks(shop, 2)
    if limit == "of the server":
        say(own, "SET GLOBAL max_connections = 10")
    else:
        say(own, "ALTER USER shop@localhost WITH MAX_USER_CONNECTIONS 1")
    busy = []
    try:
        while True:
            busy.append(pymysql.connect(user="shop", unix_socket=own.socket))
    except pymysql.err.Error as refused:
        assert refused.args[0] in (1040, 1226)
    away(shop("run", code=75), "1040" if limit == "of the server" else "1226")
    for connection in busy:
        connection.close()
    assert shop.rows("state, attempts, crashes") == [("ready", 0, 0)] * 2
    eventually(lambda: not sessions(own), what="the end of their sessions")
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"] * 2, names)


def test_a_connection_lost_while_others_take_the_last_one_is_exit_75_and_the_result_waits_in_the_journal(own, shop):
    say(own, "ALTER USER shop@localhost WITH MAX_USER_CONNECTIONS 1")
    shop.insert("wait", '{"name":"a"}')
    shop.prelude = f"{IMPATIENT}; m.MySQLStore.PATIENCE = 0.5"
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    [session] = sessions(own)
    say(own, f"KILL {session}")
    busy = eventually(lambda: connected(own), what="another program's turn")
    (shop.home / "go").touch()
    away(ended(run), "1226")
    busy.close()
    eventually(lambda: not sessions(own), what="the end of its session")
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"], ["a"])
    assert shop.store().runs(1)[0].counts["replayed"] == 1


def connected(own):
    try:
        return pymysql.connect(user="shop", unix_socket=own.socket)
    except pymysql.err.Error:
        return None


# ── no writes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["SET GLOBAL read_only = 1", "SET GLOBAL tx_read_only = 1", "--innodb-read-only"])
def test_a_server_that_takes_no_writes_is_exit_75_before_any_effect(own, shop, how):
    """A replica, a failover, a host at maintenance: 1290, 1792, 1036."""
    names = marks(shop, 2)
    if how.startswith("--"):
        own.process.terminate()  # InnoDB must have come to rest to be opened without writing
        own.process.wait(30)
        own.start(how)
    else:
        say(own, how)
    away(shop("run", code=75), "takes no writes")
    assert effects(shop) == []
    away(shop("enqueue", "mark", '{"name":"loud"}', code=75), "takes no writes")
    own.restart()
    assert states(shop) == ["ready"] * 2
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"] * 2, names)


def test_a_server_that_becomes_read_only_in_the_middle_is_exit_75_and_what_had_finished_is_replayed(own, shop):
    shop.insert("wait", '{"name":"a"}')
    marks(shop, 2)
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    say(own, "SET GLOBAL read_only = 1")
    (shop.home / "go").touch()
    away(ended(run), "takes no writes")
    say(own, "SET GLOBAL read_only = 0")
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"] * 3, ["a", "j0", "j1"])
    assert shop.store().runs(1)[0].counts["replayed"] >= 1


def test_a_server_whose_disk_is_full_says_so_to_producers_and_keeps_what_it_had_accepted(tmp_path):
    """Its one data file may grow to 20 MB only, so InnoDB answers 1114 as it does on a full disk."""
    server = PrivateServer("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:20M")
    try:
        with server.database() as name:
            made_store(server.url(name)).close()
            site = Site(tmp_path / "home", server.url(name))
            site.tasks(TASKS)
            names = marks(site, 3)
            big = json.dumps({"name": "x" * 200_000})
            while True:
                done = site("enqueue", "fill", "-", input=big, code=None)
                if done.returncode:
                    break
            away(done, "takes no writes (1114")
            accepted = len(site.rows("id"))
            done = site("run", code=None)
            assert done.returncode in (0, 75), done.stderr
            server.restart("--innodb-file-per-table=0")  # room again
            assert len(site.rows("id")) == accepted > 3
            site.quiet("run")
            assert site.rows("COUNT(*)", "task = 'mark' AND state = 'done' GROUP BY state") == [(3,)]
            assert effects(site) == names
    finally:
        server.stop()


# ── answers that never come ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_accepts_and_never_answers_is_exit_75(own, shop, proxied):
    names = marks(shop, 1)
    proxy = proxied(own)
    through(proxy, own, shop)
    shop.prelude = f"{IMPATIENT}; m.READ_TIMEOUT = 1"
    proxy.stalled.set()
    away(shop("run", code=75), "does not answer")
    proxy.stalled.clear()
    shop.quiet("run")
    assert effects(shop) == names


def test_a_server_that_falls_silent_in_the_middle_is_given_up_after_two_waits_and_nothing_is_repeated(own, shop, proxied):
    shop.insert("wait", '{"name":"a"}')
    proxy = proxied(own)
    through(proxy, own, shop)
    # one second stands for the thirty that a reply may take, half a second for the four in which another try may begin
    shop.prelude = f"{IMPATIENT}; m.READ_TIMEOUT = 1; m.MySQLStore.PATIENCE = 0.5"
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    connections = len(proxy.pairs)
    proxy.stalled.set()
    (shop.home / "go").touch()
    away(ended(run), "is away")
    assert connections == 1
    proxy.stalled.clear()
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"], ["a"])


def test_a_host_that_nobody_knows_is_exit_75_and_the_setting_is_named(tmp_path):
    site = Site(tmp_path / "home", "mysql://shop@database.invalid:3306/shop")
    away(site("run", code=75), "was not found", "ASYNCSEND_DATABASE_URL")


def test_a_server_that_speaks_no_tls_is_exit_75_where_tls_was_asked_for(own, shop):
    import ssl

    shop.environment["ASYNCSEND_DATABASE_URL"] += f"&ssl_ca={ssl.get_default_verify_paths().openssl_cafile}"
    names = marks(shop, 1)
    done = shop("run", code=None)
    assert done.returncode in (75, 78), done.stderr
    assert done.stderr.count("\n") == 1
    assert "SSL" in done.stderr or "TLS" in done.stderr
    assert (states(shop), effects(shop)) == (["ready"], [])
    assert names


# ── rights, settings of the server ───────────────────────────────────────────────────────────────────────────────────


def test_a_right_that_is_missing_is_exit_78_and_named(own, shop):
    marks(shop, 1)
    say(own, f"REVOKE ALL ON {shop.name}.* FROM shop@localhost", f"GRANT SELECT, INSERT ON {shop.name}.* TO shop@localhost")
    done = shop("run", code=78)
    assert "UPDATE command denied" in done.stderr
    assert done.stderr.count("\n") == 1
    assert effects(shop) == []


def test_a_run_without_the_right_to_delete_works_and_says_what_it_cannot_do(own, shop):
    names = marks(shop, 1)
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, state, finished_at, unique_slot) VALUES ('mark', '{}', 'done', '2020-01-01', NULL)")
    say(own, f"REVOKE ALL ON {shop.name}.* FROM shop@localhost", f"GRANT SELECT, INSERT, UPDATE ON {shop.name}.* TO shop@localhost")
    shop.quiet("run")
    assert effects(shop) == names
    assert "event=prune-failed" in shop.log()


def test_a_column_that_somebody_dropped_is_exit_78_and_named(own, shop):
    marks(shop, 1)
    shop.sql("ALTER TABLE asyncsend_status DROP COLUMN beat")
    done = shop("run", code=78)
    assert "beat" in done.stderr
    assert effects(shop) == []


def test_what_init_connect_sets_changes_nothing_of_a_run(own, shop):
    names = marks(shop, 2)
    shop.insert("fail", '{"name":"f"}')
    say(own, "SET GLOBAL init_connect = \"SET autocommit = 0, sql_mode = '', time_zone = '+05:30', tx_isolation = 'SERIALIZABLE', names latin1\"".replace(", names latin1", ""))
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done", "done", "dead"], [*names, "f", "f"])


def test_a_producer_that_speaks_latin1_is_understood(own, shop):
    with pymysql.connect(user="shop", unix_socket=own.socket, database=shop.name, charset="latin1", autocommit=True) as connection, connection.cursor() as sql:
        sql.execute("SET SESSION sql_mode = ''")
        sql.execute("INSERT INTO asyncsend_jobs (task, payload) VALUES ('mark', %s)", ('{"name":"Zürich"}',))
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"], ["Zürich"])


def test_tables_that_are_not_innodb_are_refused_by_the_doctor(own, shop):
    names = marks(shop, 2)
    shop.sql("ALTER TABLE asyncsend_jobs ENGINE = MyISAM")
    said = shop("doctor", code=1).stdout
    assert "fail  engine" in said.lower()
    assert "MyISAM loses jobs in a crash" in said
    shop.quiet("run")
    assert (states(shop), effects(shop)) == (["done"] * 2, names), "what is there is worked off all the same"


def test_a_payload_above_the_servers_packet_is_refused_with_the_limit_named_and_nothing_is_stored(own, shop):
    say(own, "SET GLOBAL max_allowed_packet = 1048576")
    done = shop("enqueue", "mark", "-", input=json.dumps({"name": "x" * 2_000_000}), code=2)
    assert "max_allowed_packet" in done.stderr
    assert shop.rows() == []


def test_rows_that_fit_into_a_packet_one_by_one_are_never_sent_together_in_one_that_does_not(own, shop):
    say(own, "SET GLOBAL max_allowed_packet = 1048576")
    store = open_store(shop.environment["ASYNCSEND_DATABASE_URL"], "asyncsend_")
    store.insert([NewJob("mark", json.dumps({"name": letter * 600_000}), letter) for letter in "abc"])
    store.close()
    assert len(shop.rows("id")) == 3


def test_a_payload_that_is_larger_than_the_packet_became_later_reaches_its_task(own, shop):
    shop.insert("mark", json.dumps({"name": "x" * 2_000_000}))
    say(own, "SET GLOBAL max_allowed_packet = 1048576")
    shop.quiet("run")
    assert states(shop) == ["done"]
    assert [len(effect) for effect in effects(shop)] == [2_000_000]


def test_a_binary_log_by_statement_is_no_hindrance_under_repeatable_read(own, shop):
    own.changed = True
    own.restart("--log-bin=binlog", "--binlog-format=STATEMENT", "--server-id=1", "--transaction-isolation=REPEATABLE-READ")
    names = marks(shop, 3)
    for task in ("fail", "once"):
        shop.insert(task, json.dumps({"name": task}))
    shop("enqueue", "mark", '{"name":"cli"}')
    shop.quiet("run")
    assert states(shop) == ["done"] * 3 + ["dead", "done", "done"]
    assert sorted(effects(shop)) == sorted([*names, "fail", "fail", "once", "cli"])


def test_a_binary_log_by_statement_under_read_committed_is_exit_78_with_what_to_ask_for(own, shop):
    marks(shop, 1)
    own.changed = True
    own.restart("--log-bin=binlog", "--binlog-format=STATEMENT", "--server-id=1", "--transaction-isolation=READ-COMMITTED")
    done = shop("run", code=78)
    assert "binlog_format = MIXED or ROW" in done.stderr
    assert done.stderr.count("\n") == 1
    assert effects(shop) == []


# ── rows that others move ────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_that_somebody_deletes_cancels_or_edits_while_they_run_are_late_and_nothing_is_written_over_them(own, shop):
    shop.insert("wait", '{"name":"a"}')
    names = marks(shop, 3)
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the first job")
    first, second, third, fourth = (row[0] for row in shop.rows("id"))
    shop.sql(f"UPDATE asyncsend_jobs SET state = 'cancelled', finished_at = NOW(6), unique_slot = NULL, reason = 'by-hand' WHERE id = {first}")
    shop.sql(f"DELETE FROM asyncsend_jobs WHERE id = {second}")
    shop.sql(f"UPDATE asyncsend_jobs SET payload = '{{}}', priority = 9, queue = 'elsewhere' WHERE id = {third}")
    shop.sql(f"UPDATE asyncsend_jobs SET token = NULL WHERE id = {fourth}")
    (shop.home / "go").touch()
    assert run.communicate(timeout=60) == (b"", b"")
    assert run.returncode == 0
    assert shop.rows("id, state, reason, attempts") == [(first, "cancelled", "by-hand", 0), (third, "done", None, 1), (fourth, "running", None, 0)]
    counts = shop.store().runs(1)[0].counts
    assert (counts["done"], counts["late"]) == (1, 3)
    assert shop.log().count("event=job-late") == 3
    shop.quiet("run")
    assert states(shop) == ["cancelled", "done", "done"]
    assert effects(shop) == ["a", *names, names[2]], "whose claim was taken away by hand is executed again"


def test_a_backup_that_is_restored_brings_old_rows_back_and_the_journal_of_later_claims_is_refused(own, shop):
    names = marks(shop, 2)
    shop.insert("wait", '{"name":"w"}')
    backup = ("jobs", "status", "runs")
    for table in backup:
        shop.sql(f"CREATE TABLE backup_{table} AS SELECT * FROM asyncsend_{table}")
    victim = shop.start("run")
    eventually(lambda: "w" in effects(shop), what="the third job")
    victim.kill()
    victim.communicate(timeout=60)
    assert shop.settings().journal_path.stat().st_size > 0
    for table in backup:
        shop.sql(f"DELETE FROM asyncsend_{table}")
        shop.sql(f"INSERT INTO asyncsend_{table} SELECT * FROM backup_{table}")
    (shop.home / "go").touch()
    shop.quiet("run")
    assert states(shop) == ["done"] * 3
    assert effects(shop) == [*names, "w"] * 2, "the backup knows nothing of what went out after it"
    assert shop.rows("attempts, crashes") == [(1, 0)] * 3, "nothing of the later claims is charged"
    shop.quiet("run")


def test_a_backup_taken_in_the_middle_of_a_run_is_picked_up_where_it_was(own, shop):
    shop.insert("wait", '{"name":"w"}')
    names = marks(shop, 2)
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the first job")
    backup = ("jobs", "status", "runs")
    for table in backup:
        shop.sql(f"CREATE TABLE backup_{table} AS SELECT * FROM asyncsend_{table}")
    (shop.home / "go").touch()
    assert run.communicate(timeout=60) == (b"", b"")
    for table in backup:
        shop.sql(f"DELETE FROM asyncsend_{table}")
        shop.sql(f"INSERT INTO asyncsend_{table} SELECT * FROM backup_{table}")
    assert states(shop) == ["running"] * 3
    shop.quiet("run")
    assert states(shop) == ["done"] * 3
    assert effects(shop) == ["w", *names] * 2
    assert shop.store().runs(5)[-1].stopped == "died"
