"""What somebody who may write rows, sit on the same host or read our files can do with it: nothing but what was asked."""

import fcntl
import json
import re
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import click
import pymysql
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import HttpSink, Site, SmtpSink, eventually, made_store

from asyncsend import config
from asyncsend.answers import Answer, BadPayload
from asyncsend.cli import cli
from asyncsend.errors import AsyncsendError
from asyncsend.job import Job
from asyncsend.store.sqlite import SQLiteStore
from asyncsend.tasks import email, sms, webhook
from asyncsend.tasks.smtp import Smtp

SQL = ["' OR 1=1 -- ", '" OR ""="', "\\", "\\' OR 1=1 -- ", "%s %(id)s %", ":id :queue", "'; DROP TABLE asyncsend_jobs; --", "1) OR (1=1", "%", "_", "*", "0 UNION SELECT 1", "`", "/*by key*/", "asyncsend_jobs"]
WEIRD = ["😀", "é" * 30, "a\x00b", "\udcff", "x" * 3000, "\x1b[2J\x1b]0;owned\x07", "\x9b2J", "a\r\nFORGED", "\u2028\u2029\x85", "\u202egnp.\u200f\u061c\u2066", " ", "--", "$(id)", "../../etc/passwd"]
# What repaints a terminal, turns its writing around or ends a line for some reader.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b\u202e\u200f\u061c\u2066\x85\u2028\r\nFORGED"


# ── every text of every command ──────────────────────────────────────────────────────────────────────────────────────


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command, those in groups too, by the words it is called with."""
    found = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        found |= leaves(command, (*path, name)) if isinstance(command, click.Group) else {(*path, name): command}
    return found


LEAVES = leaves(cli)
TEXTS = [(path, parameter) for path, command in LEAVES.items() for parameter in command.params if not getattr(parameter, "is_flag", False)]
TEXTS = [(path, parameter) for path, parameter in TEXTS if (path, parameter.name) not in ((("demo",), "folder"), (("run",), "queues"))]  # the first makes a site of its own, the second is below
ASKED = {("enqueue",): "jobs", ("pause",): "pauses", ("schedule", "add"): "schedules", ("subscribe",): "subscriptions", ("suppress", "add"): "suppressions"}
PLAIN = {"uid": "9", "uids": "9", "task": "email", "payload": "{}", "queue": "default", "cron": "0 2 * * *", "topic": "a.b", "data": "{}", "addresses": "x@example.com"}


def arguments(path: tuple[str, ...], parameter: click.Parameter, value: str) -> list[str]:
    """A call in which this parameter is `value` and everything is agreed to that could be asked."""
    command = LEAVES[path]
    option = isinstance(parameter, click.Option)
    flags = [flag.opts[0] for flag in command.params if flag.name == "yes" or (flag.name == "everything" and option)]
    named = [parameter.opts[0], *["email"] * (parameter.nargs - 1), value] if option else []
    rest = [value if one is parameter else PLAIN.get(one.name, "x") for one in command.params if isinstance(one, click.Argument) and (one.required or one is parameter)]
    return [*path, *flags, *named, "--", *rest]


def everything(site: Site) -> dict[str, list[tuple]]:
    """All rows of all tables."""
    store = site.store()
    try:
        return {table: sorted(store._rows(f"SELECT * FROM asyncsend_{table}"), key=str) for table in ("jobs", "pauses", "schedules", "subscriptions", "channels", "batches", "attempts", "counters", "alerts", "suppressions", "schema", "runs", "status")}
    finally:
        store.close()


def one_of_each(site: Site) -> None:
    for state in ("ready", "dead", "held", "cancelled", "done"):
        site.insert("email", "{}", uid=f"u-{state}", queue=f"q-{state}", unique_key=f"k-{state}", batch_id="b")
        site.sql(f"UPDATE asyncsend_jobs SET state = '{state}' WHERE uid = 'u-{state}'")


def test_no_command_has_been_forgotten():
    assert {path[0] for path in LEAVES} == set(cli.list_commands(None))
    assert {("dead", "purge"), ("enqueue",), ("jobs",), ("pause",)} <= {path for path, _ in TEXTS}
    assert len(TEXTS) > 40


def test_no_text_in_any_argument_of_any_command_does_more_than_was_asked(site, monkeypatch):
    monkeypatch.chdir(site.home)  # no text of these is the name of a file here, so --each finds none
    one_of_each(site)
    before = everything(site)
    for path, parameter in TEXTS:
        for value in [*SQL, *WEIRD]:
            call = arguments(path, parameter, value)
            result = CliRunner().invoke(cli, call, env=site.environment)
            assert isinstance(result.exception, SystemExit | None), (call, result.exception)
            assert result.exit_code in (0, 2), (call, result.output)
            assert not RAW.search(result.output), (call, result.output)
            after = everything(site)
            if parameter.name == "to_queue" and result.exit_code == 0:  # the one dead letter was to go there, and did
                assert {row[3] for row in after["jobs"]} - {row[3] for row in before["jobs"]} == {value}, call
                site.sql("UPDATE asyncsend_jobs SET state = 'dead', queue = 'q-dead' WHERE uid = 'u-dead'")
                before = everything(site)
                continue
            if path in ASKED and result.exit_code == 0:  # then that one thing is what has changed
                table = ASKED[path]
                [new] = [row for row in after[table] if row not in before[table]]
                assert value in new or value.encode() in new, call
                mine = "uid NOT LIKE 'u-%'" if table == "jobs" else "1 = 1"
                site.sql(f"DELETE FROM asyncsend_{table} WHERE {mine}")
                site.sql("DELETE FROM asyncsend_batches")  # the --batch that was named
                after = everything(site)
            assert after == before, call


def test_no_name_of_a_queue_makes_a_run_serve_another(lite):
    one_of_each(lite)
    for value in [*SQL, *WEIRD, "q-ready'--", "q-read_", "q-read%", "Q-READY"]:
        if value != "*":
            result = CliRunner().invoke(cli, ["run", "--queues", value], env=lite.environment)
            assert result.exit_code in (0, 2), (value, result.output)
    assert lite.rows("state", "uid = 'u-ready'") == [("ready",)]


def test_on_the_real_command_line_too(lite):
    one_of_each(lite)
    before = everything(lite)
    for value in ("' OR 1=1 -- \\ %s :id \"; DROP TABLE asyncsend_jobs; --\x1b[2J\u202e\r\n😀", "\udcff\udc80"):
        for path in {path for path, _ in TEXTS} - {("run",), ("enqueue",)}:
            parameter = next(one for where, one in reversed(TEXTS) if where == path)
            done = lite(*arguments(path, parameter, value), code=None)
            assert done.returncode in (0, 2), (path, done.stderr)
            assert not RAW.search(done.stdout + done.stderr)
    assert everything(lite) == before


# ── every text a producer may put into a row ─────────────────────────────────────────────────────────────────────────

COLUMNS = {"task": 128, "payload": 4000, "queue": 64, "unique_key": 191, "uid": 64, "batch_id": 64, "order_key": 191, "concurrency_key": 191}
NAMES_OF_CODE = ["os.system", "shop_tasks:build", "unwanted", "unwanted.strike", "__import__('os').system('id')", "command./bin/sh", "command.sh -c id", "command.strike;id", "command.", "../email", "email "]
NO_PAYLOADS = ["cos\nsystem\n(S'touch struck'\ntR.", "!!python/object/apply:os.system ['touch struck']", '{"__class__":"os.system","py/object":"os.system"}', 'O:8:"Evil":0:{}']


def test_no_text_in_any_column_does_more_than_lie_there(site):
    """A page with an SQL injection may write any row; what reads the table later must not mind."""
    site.tasks("from asyncsend import task\n@task\ndef build(**members): pass\n")
    (site.home / "unwanted.py").write_text(f"open({str(site.home)!r} + '/struck', 'w')\n")
    site.environment["ASYNCSEND_COMMAND_STRIKE"] = f"touch {site.home}/struck"
    site.environment["ASYNCSEND_WORKERS"] = "2"
    wanted, store = {}, site.store()
    texts = [(column, text) for column in COLUMNS for text in [*SQL, *WEIRD, EVIL]]
    texts += [("task", name) for name in NAMES_OF_CODE] + [("payload", payload) for payload in NO_PAYLOADS]
    texts += [("payload", json.dumps({"text": text})) for text in SQL + WEIRD]
    for column, text in texts:
        text = text[: COLUMNS[column] // len("é".encode())].encode("utf-8", "replace").decode()
        row = {"task": "build", "payload": "{}", column: text}
        try:
            store._write(f"INSERT INTO asyncsend_jobs ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)})", **row)
        except AsyncsendError:  # the server itself refuses it: emoji in an ASCII column
            continue
        except Exception as error:
            assert "BadRow" in type(error).__name__ or "Duplicate" in type(error).__name__, error
            continue
        job_id = store._rows("SELECT MAX(id) FROM asyncsend_jobs")[0][0]
        wanted[job_id] = (column, text)
    assert len(wanted) > 150
    site.quiet("run")
    assert not (site.home / "struck").exists(), "a row is never a program, a module or an object"
    rows = {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in store._rows(f"SELECT id, {', '.join(COLUMNS)} FROM asyncsend_jobs")}
    assert rows.keys() == wanted.keys()
    for job_id, (column, text) in wanted.items():
        found = rows[job_id].pop(column)
        assert (found.decode() if isinstance(found, bytes) else found) == text, "what lies in the row is what was put there"
        assert all(value == {"task": "build", "payload": "{}", "queue": "default"}.get(name) for name, value in rows[job_id].items())
    states = {state for (state,) in store._rows("SELECT DISTINCT state FROM asyncsend_jobs")}
    assert states == {"done", "dead", "held"}, "each came to an end, whatever its queue is called"
    store.close()
    shown = []
    for call in (["jobs", "--limit", "9999"], ["jobs", "--json"], ["status"], ["status", "--json"], ["dead", "list"], ["dead", "export"], ["doctor"], *(["job", f"id={number}"] for number in wanted)):
        result = CliRunner().invoke(cli, call, env=site.environment)
        assert isinstance(result.exception, SystemExit | None), (call, result.exception)
        shown.append(result.output)
    assert not RAW.search("".join(shown))
    assert not RAW.search(site.log())
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} (INFO |WARN |ERROR) [A-Z]", line) for line in site.log().splitlines()), "no line of the log is forged"


def text_columns(site: Site) -> list[tuple[str, str]]:
    store = site.store()
    try:
        if isinstance(store, SQLiteStore):
            return [(table, row[1]) for table in sorted(store.tables()) for row in store._rows(f"PRAGMA table_info({table})") if row[2] == "TEXT"]
        return store._rows(
            "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND DATA_TYPE IN ('varchar', 'char', 'text', 'longtext', 'mediumtext', 'varbinary')"
        )
    finally:
        store.close()


def test_no_column_of_any_table_can_repaint_the_terminal(site):
    one_of_each(site)
    site.insert("email", "{}")
    site.quiet("run")
    site("pause", "default")
    store, evil = site.store(), []
    for table, column in text_columns(site):
        if column in ("scope", "owner") or (table, column) == ("asyncsend_jobs", "uid"):
            continue  # by these they are found
        for text in (EVIL, EVIL.encode("ascii", "ignore").decode()):
            try:
                store._write(f"UPDATE {table} SET {column} = :text", text=text)
            except Exception as error:  # a column of states or times, or of ASCII
                assert not isinstance(error, pymysql.err.ProgrammingError), error
                continue
            evil.append(column)
            break
    store.close()
    assert {"task", "payload", "queue", "reason", "error", "result", "host", "stopped", "lock_id"} <= set(evil)
    listings = [[*path, *(["--json"] if as_json else [])] for path, command in LEAVES.items() for as_json in (False, True) if not as_json or any(one.name == "as_json" for one in command.params)]
    quiet = [call for call in listings if call[0] in ("jobs", "job", "why", "status", "dead", "doctor", "config", "crontab") and call[:2] not in (["dead", "replay"], ["dead", "purge"])]
    assert len(quiet) >= 14
    for call in quiet:
        takes_uid = call[0] in ("job", "why") or call[:2] == ["dead", "show"]
        output = CliRunner().invoke(cli, [*call, *(["u-dead"] if takes_uid else [])], env=site.environment).output
        assert not RAW.search(output), (call, output)
        assert "\nFORGED" not in output


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CANARY = "c4n4ry"
SHOP = """
import os, signal, sys, time
from asyncsend import task, Retry, Snooze
from asyncsend.answers import Refused
HOME = os.environ["ASYNCSEND_HOME"]

def secrets():
    return open(os.path.join(HOME, ".env")).read()

@task(max_attempts=1)
def leak_by_exception(): raise ValueError(secrets())

@task(max_attempts=1)
def leak_by_cause():
    try: raise KeyError(secrets())
    except KeyError as error: raise RuntimeError(repr(error)) from error

@task(max_attempts=1)
def leak_by_print():
    print("x" * 9000, secrets(), flush=True)
    os.write(2, secrets().encode())
    raise ValueError("see above")

@task(max_attempts=1)
def leak_by_exit(): sys.exit(secrets())

@task
def leak_by_answer(how):
    raise {"retry": Retry(60, secrets()), "refused": Refused(secrets()), "snooze": Snooze(60, secrets())}[how]

@task(max_attempts=1)
def leak_and_vanish():
    print(secrets(), flush=True)
    os._exit(3)

@task
def wait():
    open(os.path.join(HOME, "waiting"), "w").close()
    while not os.path.exists(os.path.join(HOME, "go")): time.sleep(0.01)

@task
def strike(): os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.fixture
def vault(tmp_path, server):
    """A site whose every secret is a canary: in .env, in a gateway's template and in the environment, but not in what we may show."""
    with server.database() as name:
        secret = {what: f"{CANARY}-{what}@%/x" for what in ("db", "smtp", "sms", "query")}
        with server.connect() as root, root.cursor() as cursor:
            cursor.execute("DROP USER IF EXISTS canary@'%'")
            cursor.execute("CREATE USER canary@'%%' IDENTIFIED BY %s", (secret["db"],))
            cursor.execute("GRANT ALL ON *.* TO canary@'%'")
        made_store(server.url(name)).close()
        asked = []

        def authenticate(_server, _session, _envelope, _mechanism, login):
            from aiosmtpd.smtp import AuthResult

            asked.append(login)
            return AuthResult(success=login.password.decode() == secret["smtp"], handled=False)

        mail, http = SmtpSink(authenticator=authenticate, auth_require_tls=False), HttpSink()
        where = f"localhost/{name}?unix_socket={server.socket}" if server.socket else f"{server.host}:{server.port}/{name}"
        site = Site(tmp_path / "home", server.url(name))
        site.tasks(SHOP)
        template = site.home / "gateway.toml"
        template.touch(0o600)
        template.write_text(
            f'url = "{http.url}/send?apikey={CANARY}-url"\nauth = ["{CANARY}", "{CANARY}-basic"]\n[headers]\nX-Key = "{CANARY}-header"\n[form]\nto = "{{to}}"\napi_secret = "{CANARY}-form"\n'
        )
        own = {name: value for name, value in site.environment.items() if name.startswith("ASYNCSEND_") and name != "ASYNCSEND_HOME"} | {
            "ASYNCSEND_DATABASE_URL": f"mysql://canary:{quote(secret['db'], safe='')}@{where}",
            "ASYNCSEND_EMAIL_URL": f"smtp://user:{quote(secret['smtp'], safe='')}@127.0.0.1:{mail.port}",
            "ASYNCSEND_SMS_URL": f"http+template://{template}?token={quote(secret['query'], safe='')}",
            "ASYNCSEND_WEBHOOK_SECRET": "whsec_" + CANARY * 6,
            "ASYNCSEND_ALLOW_PRIVATE": "127.0.0.1",
            "ASYNCSEND_COMMAND_SHOW": "sh -c 'env; cat /proc/$PPID/cmdline; exit 1'",
        }
        site.environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ASYNCSEND_HOME": str(site.home), "SHOP_API_KEY": f"{CANARY}-environment"}
        env_file = site.home / ".env"
        env_file.touch(0o600)
        env_file.write_text("".join(f'{name}="{value}"\n' for name, value in own.items()))
        site.smtp, site.http, site.asked = mail, http, asked
        yield site
        mail.controller.stop()
        http.stop()
        with server.connect() as root, root.cursor() as cursor:
            cursor.execute("DROP USER canary@'%'")


MAIL = '{"to":"ann@example.com","subject":"Hi","text":"Hello"}'
SMS = '{"to":"+33612345678","text":"Hello"}'


def files_with_canary(site: Site) -> list[str]:
    """Every file of the site in which a canary sings, but for the two it was put into, and the tasks' Python."""
    may = {".env", "gateway.toml", "shop_tasks.py"}
    return [str(path) for path in site.home.rglob("*") if path.is_file() and path.name not in may and CANARY.encode() in path.read_bytes()]


def rows_with_canary(site: Site) -> list[tuple]:
    return [row for rows in everything(site).values() for row in rows if CANARY in str(row)]


def said_with_canary(site: Site, *arguments: str) -> str:
    done = site(*arguments, code=None)
    return "".join(line + "\n" for line in (done.stdout + done.stderr).splitlines() if CANARY in line)


LOOKS = [["config"], ["config", "--show-origin"], ["config", "--json"], ["doctor"], ["doctor", "--json"], ["status"], ["status", "--json"], ["jobs"], ["jobs", "--json"], ["dead", "list"], ["dead", "export"], ["crontab"]]


def test_no_secret_is_found_where_it_may_not_be(vault):
    leaks = ["leak_by_exception", "leak_by_cause", "leak_by_print", "leak_by_exit", "leak_and_vanish"]
    for task in leaks:
        vault.insert(task)
    for how in ("retry", "refused", "snooze"):
        vault.insert("leak_by_answer", json.dumps({"how": how}))
    vault.insert("email", MAIL)
    vault.insert("email", MAIL, queue="low")
    vault.insert("sms", SMS)
    vault.insert("sms", SMS, queue="low")
    vault.insert("webhook", json.dumps({"url": f"{vault.http.url}/hook"}))
    vault.insert("webhook", json.dumps({"url": f"{vault.http.url}/hook"}), queue="low")
    vault.insert("command.show")
    vault.insert("wait", priority=-1)
    vault.smtp.replies["DATA"] = ["451 try later"]
    echo = f"you sent {CANARY}-header {CANARY}-form {CANARY}-url {CANARY}-basic"
    vault.http.answers = [(500, {}, echo.encode())]
    run = vault.start("run", "--max-time", "30s")
    eventually((vault.home / "waiting").exists, what="the last job")
    words = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            words.append(path.read_bytes())
    assert any(b"asyncsend" in word for word in words)
    assert not [word for word in words if CANARY.encode() in word], "whoever calls ps sees no secret"
    assert files_with_canary(vault) == [], "while it runs"
    (vault.home / "go").touch()
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, b"", b"")
    by_task = {}
    for task, state, error in vault.rows("task, state, error"):
        by_task.setdefault(task, []).append((state, error))
    assert vault.asked, "the password was used"
    assert [state for state, _ in by_task["email"]].count("done") == 1
    assert all("***" in error for task in ("leak_by_exception", "leak_by_cause", "leak_by_exit", "leak_by_answer") for _, error in by_task[task]), by_task
    assert re.search(r"It printed: .*\*\*\*", str(by_task))
    assert "ASYNCSEND_JOB=" in by_task["command.show"][0][1], "what it printed is there"
    assert "webhook-signature" in {name.lower() for request in vault.http.requests for name in request.headers}
    assert "you sent *** *** *** ***" in by_task["sms"][0][1]
    for look in [*LOOKS, *([word, str(number)] for word in ("job", "why") for number in (1, 3))]:
        assert said_with_canary(vault, *look) == "", look
    assert rows_with_canary(vault) == []
    assert files_with_canary(vault) == []


def test_no_secret_is_left_in_the_journal_of_a_killed_run(vault):
    vault.insert("leak_by_exception")
    vault.insert("leak_by_print")
    vault.insert("strike", priority=-1)
    vault("run", code=-9)
    journal = next(path for path in vault.home.glob("journal-*") if path.stat().st_size)
    assert b"ValueError" in journal.read_bytes(), "what had failed is in it"
    assert files_with_canary(vault) == []
    (vault.home / "shop_tasks.py").write_text(SHOP.replace("os.kill(os.getppid(), signal.SIGKILL)", "pass"))
    vault.quiet("run")
    assert rows_with_canary(vault) == []


def test_no_refused_login_and_no_broken_setting_shows_its_secret(vault):
    text = (vault.home / ".env").read_text()
    for wrong in (
        text.replace("mysql://canary:", f"mysql://canary:{CANARY}"),
        re.sub(r"@localhost/\w+", "@localhost/not_there", text),
        re.sub(r"@localhost/[^\"]*", "@127.0.0.1:1/x", text),
        text.replace("?unix_socket", f"?password={CANARY}&unix_socket"),
        text.replace("smtp://user:", f"smtp://user:{CANARY}"),
        text.replace("@127.0.0.1", "@127.0.0.1:x"),
        text.replace("http+template", "ftp+template"),
        text.replace("whsec_", "whsec_!"),
        text.replace("?token=", "?token=x%zz"),
        text + "ASYNCSEND_TABLE_PREFIX=a-b\n",
    ):
        assert wrong != text
        (vault.home / ".env").write_text(wrong)
        for look in (["run"], ["status"], ["config"], ["doctor"], ["enqueue", "email", MAIL]):
            result = CliRunner().invoke(cli, look, env=vault.environment)
            assert isinstance(result.exception, SystemExit | None), (look, result.exception)
            assert CANARY not in result.output, (look, result.output)
    assert files_with_canary(vault) == []


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def made_by_a_site(tmp_path, umask: int) -> Site:
    """A site that has made every file it ever makes, as real processes under this umask."""
    site = Site(tmp_path / "home", f"sqlite:///{tmp_path}/home/data/shop.sqlite3")
    site.home.rmdir()

    def call(*arguments, code=0):
        done = subprocess.run([sys.executable, "-m", "asyncsend", *arguments], env=site.environment, umask=umask, cwd="/", capture_output=True, text=True, timeout=60)
        assert code is None or done.returncode == code, done.stderr

    call("init")
    for task, payload in (("email", MAIL), ("sms", SMS)):
        call("enqueue", task, payload)
    call("run")
    with (site.home / "asyncsend.log").open("a") as log:
        log.write("x" * 900_000 + "\n")
    call("enqueue", "email", MAIL)
    call("pause", "other")  # a line in the log, which is full: it rotates
    with open(site.home / "asyncsend.lock", "rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        call("run")  # finds the lock held and counts itself
    site.environment["ASYNCSEND_WORKERS"] = "none"
    call("run", code=78)  # notes its trouble
    del site.environment["ASYNCSEND_WORKERS"]
    return site


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_file_is_its_owner_s_alone_whatever_the_umask(tmp_path, umask):
    site = made_by_a_site(tmp_path, umask)
    store = site.store()  # while it is open, SQLite has two more files
    store._write("UPDATE asyncsend_status SET beat = beat + 1")
    modes = {str(path.relative_to(site.home)): stat.S_IMODE(path.stat().st_mode) for path in [site.home, *site.home.rglob("*")]}
    store.close()
    for name in ("asyncsend.lock", "asyncsend.lock.held", "asyncsend.lock.instance", "asyncsend.log", "asyncsend.log.1", "trouble", "outbox/sms.log", "data/shop.sqlite3", "data/shop.sqlite3-wal"):
        assert name in modes
    assert any(name.startswith("journal-") for name in modes)
    assert any(name.startswith("outbox/new/") for name in modes)
    assert {name: f"{mode:04o}" for name, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize("name", ["asyncsend.log", "asyncsend.lock", "asyncsend.lock.held", "trouble", "journal", "outbox/sms.log", "outbox/tmp/u.eml", "outbox/new/u.eml"])
def test_no_link_is_followed_to_somebody_else_s_file(lite, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    path = lite.settings().journal_path if name == "journal" else lite.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)
    lite.insert("email", MAIL, uid="u")
    lite.insert("sms", SMS)
    lite("run", code=None)
    lite.environment["ASYNCSEND_WORKERS"] = "none"
    lite("run", code=78)
    assert victim.read_text() == "as it was"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_no_variable_in_env_is_expanded_and_none_of_its_values_is_run(lite, tmp_path):
    (lite.home / ".env").touch(0o600)
    (lite.home / ".env").write_text("ASYNCSEND_EMAIL_FROM=\"$HOME ${PATH} $(touch /nowhere) `id` <a@example.com>\"\nASYNCSEND_COMMAND_X='echo $HOME'\n")
    del lite.environment["ASYNCSEND_EMAIL_FROM"]
    assert lite.settings().email_from == "$HOME ${PATH} $(touch /nowhere) `id` <a@example.com>"
    assert lite.settings().commands == {"x": "echo $HOME"}


@pytest.mark.parametrize("call", [["status"], ["run"], ["doctor"], ["enqueue", "webhook", "{}"], ["config"]])
def test_no_module_of_the_current_folder_is_executed(lite, tmp_path, call):
    """Whoever types a command may stand in a folder of anybody's."""
    lite.tasks("from asyncsend import task\n@task\ndef mine(): ...\n")
    lite.insert("webhook", '{"url":"http://127.0.0.1:1/"}')
    here = tmp_path / "anybody"
    here.mkdir()
    for name in ("click", "json", "pymysql", "requests", "shlex", "logging", "email", "dotenv", "random", "tomllib", "uuid", "shop_tasks"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'struck')!r}, 'a').write({name!r})\n")
    for command in ([sys.executable, "-m", "asyncsend"], [str(Path(sys.executable).with_name("asyncsend"))]):
        if not Path(command[0]).exists():
            continue  # not installed beside this Python
        done = subprocess.run([*command, *call], env=lite.environment, cwd=here, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 1), done.stderr
        assert not (tmp_path / "struck").exists(), (tmp_path / "struck").read_text()


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ENDS = ["\r\n", "\n", "\r", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n\r\n", "\n\n.\n"]
PIECES = [*ENDS, "Bcc: v@example.net", "X-Evil: 1", "RCPT TO:<v@example.net>", "Content-Length: 0", "POST /evil HTTP/1.1", "=?utf-8?q?a=0D=0ABcc:_v@example.net?=", "=0ABcc:",
          "%0d%0aX-Evil:1", "<", ">", ",", ";", "@", '"', "\\", "(", ")", ":", " ", "\t", "ü", "😀", "ann@example.com", "Ann <ann@example.com>", "a", "{to}", "{key}", "/../../evil?a=b&to=%2B49#"]  # fmt: skip
WHOLE = ["=?utf-8?q?a=0ABcc:_v@example.net?=", "=?utf-8?b?YQ0KQmNjOiB2QGV4YW1wbGUubmV0DQoNCmJvZHk=?= <ann@example.com>", "1\r\nX-Evil: 1", "1\nBcc: v@example.net", "ann@example.com, v@example.net", "x/../evil?to=1"]
FRAGMENTS = st.sampled_from(WHOLE) | st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def evil(**plain: str):
    """These texts with one or two of them spoilt: were all spoilt at once, the first check would keep the rest from being tried."""

    def spoilt(names):
        ends = {name: st.sampled_from(["", plain[name]]) for name in names}
        return st.fixed_dictionaries({name: st.tuples(ends[name], FRAGMENTS, ends[name]).map("".join) for name in names}).map(lambda some: plain | some)

    return st.lists(st.sampled_from(sorted(plain)), min_size=1, max_size=2, unique=True).flatmap(spoilt)


@FUZZ
@given(evil(to="ann@example.com", sender="Shop <shop@example.com>", reply_to="help@example.com", subject="Hi", name="X-Shop", value="1", attachment="a.txt", text="Hello"))
def test_no_mail_has_a_header_or_a_recipient_that_was_not_asked_for(smtp, tmp_path, given):
    name = given["name"]
    payload = {one: given[one] for one in ("to", "reply_to", "subject", "text")} | {"from": given["sender"], "headers": {name: given["value"]}, "attachments": [{"name": given["attachment"], "base64": "YQ=="}]}
    smtp.mails.clear()
    smtp.recipients.clear()
    try:
        envelope, recipient, raw = email.compose(payload, Job(1, "email", "{}", uid="u"), "Shop <shop@example.com>", tmp_path)
    except BadPayload:
        return
    out = Smtp(smtp.url)
    out.send(envelope, recipient, raw, "u")
    out.close()
    [(mail_from, rcpt_to, content)] = smtp.mails
    assert smtp.recipients == [rcpt_to] == [recipient]
    assert mail_from == envelope
    head = content.partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = sorted(line.partition(b":")[0].decode().lower() for line in head if line[:1] not in (b" ", b"\t"))
    asked = ["auto-submitted", "content-type", "from", "message-id", "mime-version", "subject", "to", *(["reply-to"] if given["reply_to"] else [])]
    assert names == sorted([*asked, name.lower()] if name.lower() not in asked else asked)
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", b"\r\n".join(head))


def asked_once(http, before: int, given_headers: dict[str, str]) -> None:
    """At most one request came, and it has no header but ours, requests' and those that were given."""
    assert len(http.requests) - before <= 1
    for request in http.requests[before:]:
        ours = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length", "content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key", "authorization"}
        assert {name.lower() for name in request.headers} <= ours | {name.lower() for name in given_headers}
        assert request.method in webhook.METHODS
        assert request.path.isascii() and request.path.isprintable()
        assert request.headers["Host"] == f"127.0.0.1:{http.port}"
        assert request.headers.get("idempotency-key", request.headers.get("Idempotency-Key", "u")) == "u"


@pytest.fixture(scope="module")
def http():
    sink = HttpSink()
    yield sink
    sink.stop()


@FUZZ
@given(evil(path="/in", name="X-Shop", value="1", method="POST", body="{}"))
def test_no_webhook_has_a_header_or_a_second_request_that_was_not_asked_for(http, tmp_path, given):
    out = webhook.Webhook(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_ALLOW_PRIVATE": "127.0.0.1"}), timeout=5.0)
    before, headers = len(http.requests), {given["name"]: given["value"]}
    with suppress(Answer):
        out({"url": http.url + given["path"], "headers": headers, "method": given["method"], "body": given["body"]}, Job(1, "webhook", "{}", uid="u"))
    out.close()
    asked_once(http, before, headers)


@FUZZ
@given(evil(text="Hello", sender="Shop", code="1234", to="+33612345678"), st.sampled_from(["GET", "POST"]))
def test_no_sms_has_a_header_a_member_or_a_number_that_was_not_asked_for(http, tmp_path, given, method):
    path = tmp_path / "gateway.toml"
    path.touch(0o600)
    path.write_text(f'url = "{http.url}/send/{{from}}/{{code}}"\nmethod = "{method}"\n[headers]\nX-Code = "{{code}}"\nX-Text = "{{text}}"\n[form]\nto = "{{to}}"\ntext = "{{text}}"\nfrom = "{{from}}"\ncode = "{{code}}"\n')
    out = sms.Sms(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_SMS_URL": f"http+template://{path}"}), timeout=5.0)
    before = len(http.requests)
    with suppress(Answer):
        out({"to": given["to"], "from": given["sender"], "text": given["text"], "params": {"code": given["code"]}}, Job(1, "sms", "{}", uid="u"))
    out.close()
    asked_once(http, before, {"X-Code": "", "X-Text": ""})
    for request in http.requests[before:]:
        split = urlsplit(request.path)
        assert split.path.count("/") == 3
        form = parse_qs(split.query if method == "GET" else request.body.decode(), keep_blank_values=True)
        assert form["to"] == ["+33612345678"]
        assert set(form) <= {"to", "text", "from", "code"}


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_a_row_but_its_payload_reaches_a_program(lite, tmp_path):
    seen = tmp_path / "seen"
    program = tmp_path / "program.py"
    program.write_text(f"import json, os, sys\njson.dump([sys.argv[1:], dict(os.environ), sys.stdin.read(), os.getcwd()], open({str(seen)!r}, 'w'))\n")
    lite.environment |= {"ASYNCSEND_COMMAND_SHOW": f"{sys.executable} -I {program} fixed", "LD_PRELOAD": "", "SHOP_API_KEY": "s3cret", "PYTHONPATH": ""}
    evil = "$(id)`id`;id\n--evil\x00"
    lite.insert("command.show", '{"a":"\\u0000$(id)"}', queue=evil.replace("\x00", ""), unique_key=evil.replace("\x00", ""), uid="-x $(id);\nLD_PRELOAD=/tmp/x", batch_id="--evil")
    lite.quiet("run")
    argv, environment, payload, folder = json.loads(seen.read_text())
    assert argv == ["fixed"]
    assert payload == '{"a":"\\u0000$(id)"}'
    assert folder == str(tmp_path)
    assert set(environment) <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR", "ASYNCSEND_JOB", "ASYNCSEND_JOB_ID", "ASYNCSEND_ATTEMPT"}
    assert re.fullmatch("[0-9a-f]{40}", environment["ASYNCSEND_JOB"]), "a uid that is not plain goes as its digest"


# ── two who decide at the same time ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("state", "one", "other"), [("dead", "retry", "purge"), ("dead", "retry", "retry"), ("held", "release", "release"), ("held", "cancel", "cancel"), ("ready", "cancel", "claim")])
def test_of_two_people_who_decide_at_the_same_moment_one_is_told_no(site, state, one, other):
    from threading import Barrier, Thread

    from asyncsend.outcome import State

    stores = [site.store(), site.store()]
    verbs = {
        "retry": lambda store, number: store.make_ready(number, (State.DEAD,)),
        "release": lambda store, number: store.make_ready(number, (State.HELD,)),
        "cancel": lambda store, number: store.cancel(number, "by-command"),
        "purge": lambda store, number: store.purge([number]) == 1,
        "claim": lambda store, number: [job.id for job in store.claim(["default"], 1, f"{number:032x}", 1)] == [number],
    }
    for number in range(1, 11):
        site.insert("email", "{}")
        site.sql(f"UPDATE asyncsend_jobs SET state = '{state}' WHERE id = {number}")
        start, said = Barrier(2), {}

        def decide(which, verb, number=number, start=start, said=said):
            store = SQLiteStore(site.url, "asyncsend_") if site.url.startswith("sqlite") else stores[which]
            start.wait(10)
            said[which] = verbs[verb](store, number)
            if store is not stores[which]:
                store.close()

        both = [Thread(target=decide, args=(which, verb)) for which, verb in enumerate((one, other))]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(30)
        assert sorted(said.values()) == [False, True], (number, said)
    for store in stores:
        store.close()


def test_a_running_job_cannot_be_cancelled_and_a_second_replay_is_refused(site):
    site.insert("email", MAIL)
    site.sql("UPDATE asyncsend_jobs SET state = 'running'")
    for verb in ("cancel", "retry", "release"):
        assert CliRunner().invoke(cli, [verb, "1"], env=site.environment).exit_code == 2
    assert site.rows("state") == [("running",)]
    site.sql("UPDATE asyncsend_jobs SET state = 'dead'")
    assert CliRunner().invoke(cli, ["dead", "replay", "1"], env=site.environment).exit_code == 0
    site.sql("UPDATE asyncsend_jobs SET state = 'done'")
    assert CliRunner().invoke(cli, ["dead", "replay", "1"], env=site.environment).exit_code == 2
    assert site.rows("state") == [("done",)]
