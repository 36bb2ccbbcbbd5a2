"""The command line as a person, a script and cron meet it: words, exit codes, and what is refused."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from click.testing import CliRunner
from parts import ROOT, Site

from asyncsend.cli import COMMANDS, cli
from asyncsend.errors import EXIT_CONFIGURATION, EXIT_TEMPORARY, EXIT_TROUBLE, EXIT_USAGE

MAIL = '{"to":"ann@example.com","subject":"Hi","text":"Hello"}'
EVIL = "q\x1b[2J\x1b]0;owned\x07\u202e\r\nFORGED"


def call(site: Site, *arguments: str, code: int = 0, stdin: str | bytes = ""):
    """A command in this process; where the process itself is the point, the site is called instead."""
    result = CliRunner().invoke(cli, arguments, env=site.environment, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def enqueued(site: Site, *arguments: str) -> str:
    return call(site, "enqueue", *arguments).stdout.strip()


# ── help and exit codes ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [*COMMANDS, "dead list", "dead show", "dead replay", "dead purge", "dead export"])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(cli, [*command.split(), "-h"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert "." in result.stdout.partition("Usage:")[2].partition("Options:")[0]


def test_the_module_and_the_script_are_the_same_command(lite):
    script = os.path.join(os.path.dirname(sys.executable), "asyncsend")
    by_script = subprocess.run([script, "--version"], capture_output=True, text=True, env=lite.environment)
    assert by_script.stdout == lite("--version").stdout
    assert by_script.returncode == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"], ["run", "--max-time", "soon"], ["run", "--queues", "a b"], ["run", "--workers", "0"], ["jobs", "--state", "x"], ["retry"], ["enqueue"], ["job", "nobody"], ["resume", "default"], ["retry", "x", "--all"]])
def test_a_command_that_cannot_be_understood_ends_with_2(lite, arguments):
    assert call(lite, *arguments, code=EXIT_USAGE).stderr


def one_sentence(done) -> str:
    assert done.stdout == ""
    assert done.stderr.startswith("asyncsend: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("command", [["run"], ["status"], ["enqueue", "email", MAIL], ["init"]])
def test_a_database_that_is_down_ends_with_75(tmp_path, command):
    site = Site(tmp_path / "home", f"mysql://root@127.0.0.1:{closed_port()}/shop")
    assert "nothing is lost" in one_sentence(site(*command, code=EXIT_TEMPORARY))


@pytest.mark.parametrize("command", [["run"], ["status"], ["init"]])
def test_a_wrong_password_ends_with_78_and_is_not_shown(tmp_path, server, command):
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS 'shop'@'localhost' IDENTIFIED BY 'right'")
    site = Site(tmp_path / "home", f"mysql://shop:wr0ngpass@localhost/shop?unix_socket={server.socket}")
    line = one_sentence(site(*command, code=EXIT_CONFIGURATION))
    assert "check user, password" in line and "wr0ngpass" not in line


@pytest.mark.parametrize("command", [["run"], ["status"], ["enqueue", "email", MAIL]])
@pytest.mark.parametrize("change", ["DROP TABLE asyncsend_schema", "UPDATE asyncsend_schema SET version = version - 90", "UPDATE asyncsend_schema SET version = version + 90"])
def test_tables_that_are_missing_older_or_newer_end_with_78_and_the_command_that_mends_it(site, command, change):
    site.sql(change)
    line = one_sentence(call(site, *command, code=EXIT_CONFIGURATION))
    assert ("pip install --upgrade" if "+" in change else "asyncsend init") in line


# ── run, as cron starts it ───────────────────────────────────────────────────────────────────────────────────────────


def test_lasting_trouble_is_said_once_in_six_hours_and_new_trouble_at_once(lite):
    lock, note = lite.home / "asyncsend.lock", lite.home / "trouble"
    lock.mkdir()
    assert one_sentence(lite("run", code=78))
    for _ in range(2):
        assert lite("run", code=78).stderr == ""
    os.utime(note, (time.time() - 6 * 3600 - 1,) * 2)
    assert one_sentence(lite("run", code=78))
    lock.rmdir()
    lock.symlink_to("/dev/null")
    assert "symbolic link" in one_sentence(lite("run", code=78))
    lock.unlink()
    lite.quiet("run")
    lock.unlink()
    lock.symlink_to("/dev/null")
    assert one_sentence(lite("run", code=78)), "trouble that comes back is new"


def test_settings_that_stay_wrong_are_said_once_in_six_hours_too(lite):
    (lite.home / ".env").write_text("ASYNCSEND_WORKERS=2\n")
    (lite.home / ".env").chmod(0o644)
    assert one_sentence(lite("run", code=78))
    assert lite("run", code=78).stderr == ""


# ── enqueue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_payload_comes_as_text_from_a_file_or_from_standard_input(site, tmp_path):
    (tmp_path / "mail.json").write_text('{"n":2}')
    uids = [enqueued(site, "email", '{"n":"1 😀"}'), enqueued(site, "email", f"@{tmp_path}/mail.json"), call(site, "enqueue", "email", "-", stdin='{"n":3}').stdout.strip()]
    assert site.rows("uid, payload") == [(uids[0], '{"n":"1 😀"}'), (uids[1], '{"n":2}'), (uids[2], '{"n":3}')]


def test_every_option_of_enqueue_reaches_the_row(site):
    options = ["--queue", "q", "--priority", "-3", "--at", "2030-07-01T09:00+02:00", "--expires", "1h", "--max-attempts", "4", "--timeout", "2m", "--unique", "k"]
    uid = enqueued(site, "email", MAIL, *options)
    again = call(site, "enqueue", "email", MAIL, "--unique", "k")
    assert again.stdout.strip() == uid and "nothing was added" in again.stderr
    row = json.loads(call(site, "job", uid, "--json").stdout)
    assert (row["queue"], row["priority"], row["run_at"], row["max_attempts"], row["timeout_seconds"], row["unique_key"]) == ("q", -3, "2030-07-01T07:00:00+00:00", 4, 120, "k")
    assert "due at" in call(site, "why", enqueued(site, "email", MAIL, "--delay", "5m")).stdout


BAD_PAYLOADS = [
    (b"{", "not JSON"), (b"[1]", "JSON object"), (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "1,000 levels"), (b'{"a":NaN}', "NaN is not JSON"),
    (b'{"a":"\xff"}', "not UTF-8 at byte 6"), (b'{"a":"' + b"x" * 20_000_000 + b'"}', "4,194,304"),
]  # fmt: skip


def test_a_task_of_ones_own_goes_to_its_own_queue_from_the_command_line_too(lite):
    lite.tasks("print('hello from the module')\nfrom asyncsend import task\n@task(queue='reports')\ndef build(): ...\n")
    assert lite("enqueue", "build").stdout.strip() == lite.rows("uid")[0][0]
    lite("enqueue", "build", "--queue", "urgent")
    lite("enqueue", "email", MAIL)
    assert lite.rows("queue") == [("reports",), ("urgent",), ("default",)]
    lite.tasks("import sys; sys.exit('\x1b[2J')")
    assert "shop_tasks cannot be imported" in lite("enqueue", "build").stderr, "and it is enqueued all the same"
    assert lite("enqueue", "email", MAIL).stderr == "", "a mail costs no import"
    assert lite.rows("queue", "id > 3") == [("default",)] * 2


@pytest.mark.parametrize(("payload", "says"), BAD_PAYLOADS, ids=range(len(BAD_PAYLOADS)))
def test_a_bad_payload_is_refused_with_the_limit_named_and_nothing_is_stored(lite, payload, says):
    assert says in one_sentence(call(lite, "enqueue", "email", "-", code=2, stdin=payload))
    assert lite.rows() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--queue", "a'b"], "at most 64"), (["--queue", "q" * 300], "at most 64"), (["--queue", EVIL], "at most 64"), (["--priority", str(10**12)], "32767"),
        (["--max-attempts", "0"], "1 to 1000"), (["--max-attempts", "-1"], "1 to 1000"), (["--at", "1970-01-01"], "1970-01-02"), (["--at", "9999-12-31"], "2037-01-01"),
        (["--at", "soonish"], "write 2026-12-01 09:00"), (["--timeout", "0"], "1 to 86400"),
    ],
)  # fmt: skip
def test_a_bad_option_is_refused_with_the_limit_named_and_nothing_is_stored(lite, options, says):
    line = one_sentence(call(lite, "enqueue", "email", MAIL, *options, code=2))
    assert says in line and "\x1b" not in line
    assert lite.rows() == []


# ── jobs, why, and what changes them ─────────────────────────────────────────────────────────────────────────────────


def test_no_row_can_repaint_the_terminal(site):
    site.insert("email", "{}", queue=EVIL, uid="u\x1b[2J")
    site.sql("UPDATE asyncsend_jobs SET state = 'dead', reason = 'x', finished_at = NOW(6)")
    store = site.store()
    store._write("UPDATE asyncsend_jobs SET error = :error", error=EVIL)
    store._write("INSERT INTO asyncsend_pauses (queue, paused_at) VALUES (:queue, NOW(6))", queue=EVIL)
    store._write("UPDATE asyncsend_status SET host = :host, started_at = NOW(6), owner = 'x', pid = 1", host=EVIL)
    store.close()
    for command in (["jobs"], ["job", "1"], ["why", "1"], ["status"], ["dead", "list"], ["jobs", "--json"], ["status", "--json"], ["dead", "export"], ["doctor"]):
        output = CliRunner().invoke(cli, command, env=site.environment).output
        assert not any(letter in output for letter in "\x1b\x07\u202e\r"), command
    assert "\x1b" not in call(site, "cancel", "1", code=2).output


def test_why_says_in_one_sentence_what_each_job_waits_for(site):
    uid = enqueued(site, "email", MAIL)

    def why() -> str:
        said = call(site, "why", uid).stdout
        assert said.count("\n") == 1 and said.startswith(f"Job {uid} ")
        return said

    assert "no run has ever been started" in why()
    call(site, "pause", "default")
    assert "is paused" in why()
    call(site, "resume", "default")
    site.environment["ASYNCSEND_QUEUES"] = "critical"
    assert "no run serves its queue" in why()
    del site.environment["ASYNCSEND_QUEUES"]
    store = site.store()
    store.standing("default")
    for change, says in (
        ("asyncsend_status SET started_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 3600)", "cron has not started a run"),
        ("asyncsend_jobs SET expires_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 60)", "it expired at"),
        ("asyncsend_jobs SET expires_at = NULL, run_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + 3600)", "it is due at"),
        ("asyncsend_jobs SET state = 'running'", "a run that died"),
        ("asyncsend_status SET owner = 'x', host = 'h', pid = 7, lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + 99)", "in the hands of the run on h (pid 7)"),
        ("asyncsend_jobs SET state = 'held', reason = 'unknown-task'", "asyncsend release"),
        ("asyncsend_jobs SET state = 'dead', finished_at = NOW(6)", "asyncsend retry"),
        ("asyncsend_jobs SET state = 'done', attempts = 2", "is done since"),
        ("asyncsend_jobs SET state = 'cancelled', reason = 'expired'", "was cancelled at"),
    ):
        store._write(f"UPDATE {change}")
        assert says in why(), change
    store.close()


def test_destructive_verbs_count_ask_and_take_yes_and_dry_run(site):
    for _ in range(3):
        site.insert("email", "{}")
    site.sql("UPDATE asyncsend_jobs SET state = 'dead', finished_at = NOW(6)")
    for verb in (["retry"], ["dead", "replay"], ["dead", "purge"]):
        assert "add --yes" in call(site, *verb, "--all", code=2).stderr
        assert "3 dead" in call(site, *verb, "--all", "--dry-run").stdout
    assert site.rows("state") == [("dead",)] * 3
    assert len(call(site, "dead", "export").stdout.splitlines()) == len(json.loads(call(site, "dead", "list", "--json").stdout)) == 3
    call(site, "dead", "purge", "1", "1", "--yes")
    call(site, "dead", "replay", "--all", "--yes")
    assert site.rows("id, state") == [(2, "ready"), (3, "ready")]
    call(site, "cancel", "2", "2")
    assert "only ready and held" in call(site, "cancel", "2", code=2).stderr
    call(site, "retry", "2")
    site.sql("UPDATE asyncsend_jobs SET state = 'held'")
    call(site, "release", "--all", "--yes")
    assert site.rows("state") == [("ready",)] * 2


def test_a_number_that_is_one_job_s_uid_and_another_s_id_changes_neither_until_it_is_said_which(site):
    site.insert("email", "{}")
    site.insert("email", "{}", uid="1")
    for verb in (["cancel", "1"], ["retry", "1"], ["release", "1"], ["dead", "purge", "1", "--yes"], ["cancel", "2", "1"]):
        assert "say uid=1 or id=1. Nothing was changed" in call(site, *verb, code=2).stderr, verb
    assert site.rows("state") == [("ready",)] * 2
    shown = call(site, "job", "1", "--json")
    assert json.loads(shown.stdout)["id"] == 2, "the exact uid wins"
    assert "say uid=1 or id=1" in shown.stderr
    assert json.loads(call(site, "job", "id=1", "--json").stdout)["uid"] is None
    assert "(id 1)" in call(site, "cancel", "id=1").stderr
    assert site.rows("id, state") == [(1, "cancelled"), (2, "ready")]
    assert "(id 2)" in call(site, "cancel", "uid=1").stderr
    call(site, "job", "uid=2", code=2)
    assert call(site, "job", "2").stderr == ""


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_tells_never_idle_in_progress_and_died_apart(site):
    def seen() -> tuple[str, dict]:
        return call(site, "status").stdout, json.loads(call(site, "status", "--json").stdout)

    words, facts = seen()
    assert "Run:    never" in words and facts["verdict"] == "attention" and facts["cron_missing"]
    site.quiet("run")
    words, facts = seen()
    assert "All is well." in words and "idle; the last one ended" in words
    assert (facts["status"], facts["died"], facts["verdict"]) == ("idle", False, "ok")
    site.sql("UPDATE asyncsend_status SET owner = 'x', lock_id = 'another host', status = 'in-progress', lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + 99)")
    words, facts = seen()
    assert "in-progress since" in words and facts["status"] == "in-progress"
    site.sql("UPDATE asyncsend_status SET lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 9)")
    words, facts = seen()
    assert "died" in words and facts["died"] and facts["verdict"] == "attention"
    site.insert("email", "{}")
    site.sql("UPDATE asyncsend_jobs SET state = 'dead', finished_at = NOW(6)")
    call(site, "pause", "default", "--for", "2h")
    words, facts = seen()
    assert "1 job is dead" in words and "Queue default is paused until" in words


# ── init, crontab, doctor ────────────────────────────────────────────────────────────────────────────────────────────


def test_init_print_is_schema_sql_and_connects_to_nothing(tmp_path):
    site = Site(tmp_path / "home", f"mysql://root@127.0.0.1:{closed_port()}/shop")
    assert call(site, "init", "--print").stdout == (ROOT / "schema.sql").read_text()
    site.environment["ASYNCSEND_TABLE_PREFIX"] = "x; DROP"
    call(site, "init", "--print", code=78)


def test_init_may_be_repeated(tmp_path, url):
    site = Site(tmp_path / "home", url)
    assert "applied version 1, " in call(site, "init").stderr
    assert "nothing to do" in call(site, "init").stderr


def test_the_line_for_cron_works_where_there_is_no_environment(site):
    env = site.home / ".env"
    env.touch(0o600)
    env.write_text(f"ASYNCSEND_DATABASE_URL={site.environment.pop('ASYNCSEND_DATABASE_URL')}\nASYNCSEND_EMAIL_FROM=shop@example.com\n")
    del site.environment["ASYNCSEND_EMAIL_FROM"]
    done = site("crontab")
    assert done.stdout.startswith("* * * * * ") and done.stderr == ""
    site.insert("email", MAIL)
    ran = subprocess.run(["/usr/bin/env", "-i", "/bin/sh", "-c", done.stdout.removeprefix("* * * * * ")], capture_output=True, text=True, cwd="/")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert site.rows("state") == [("done",)]


def test_crontab_says_which_settings_cron_would_not_see(lite):
    assert "ASYNCSEND_DATABASE_URL" in call(lite, "crontab").stderr


def test_the_doctor_ends_with_1_and_advice_until_all_is_well(site):
    site.environment["ASYNCSEND_COMMAND_X"] = "/no/such/program"
    found = json.loads(call(site, "doctor", "--json", code=1).stdout)
    assert {one["what"] for one in found if one["level"] == "fail"} == {"cron", "command"}
    assert all(one["advice"] for one in found if one["level"] != "ok")
    del site.environment["ASYNCSEND_COMMAND_X"]
    site.quiet("run")
    assert "fail" not in call(site, "doctor").stdout
    (site.home / "asyncsend.lock").unlink()
    (site.home / "asyncsend.lock").mkdir()
    assert "it is a folder" in call(site, "doctor", code=1).stdout


def test_the_doctor_changes_nothing(tmp_path, sqlite_url):
    site = Site(tmp_path / "home", sqlite_url)
    site.home.rmdir()
    call(site, "doctor", code=1)
    assert not site.home.exists()


def test_a_batch_named_on_the_command_line_is_in_the_row(lite):
    lite("enqueue", "email", "{}", "--batch", "november")
    assert lite.rows("batch_id") == [("november",)]
    assert "batch" in lite("enqueue", "email", "{}", "--batch", "no spaces, please", code=2).stderr


# ── status, which is said with click and without ─────────────────────────────────────────────────────────────────────


def test_status_says_the_same_without_click_as_with_it(site):
    enqueued(site, "email", MAIL)
    for command in (["status"], ["status", "--json"]):
        assert without_times(site(*command).stdout) == without_times(call(site, *command).stdout)


def without_times(said: str) -> str:
    return re.sub(r"\b[\d.]+( s\b|(?=,\n))", "", said)


def status_into(site: Site, stdout, **options) -> subprocess.CompletedProcess:
    return subprocess.run(site.command("status"), env=site.environment, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd="/", timeout=60, **options)


def test_the_verdict_of_status_is_coloured_on_a_terminal_only(lite):
    reader, terminal = os.openpty()
    assert status_into(lite, terminal).returncode == 0
    os.close(terminal)
    said = b""
    with suppress(OSError):  # what a terminal says when its other end has gone
        while piece := os.read(reader, 4096):
            said += piece
    os.close(reader)
    assert said.startswith(b"\x1b[1;33mAttention:\x1b[0m\r\n  ")
    assert lite("status").stdout.startswith("Attention:\n")


@pytest.mark.parametrize(("command", "encoding", "shown"), [("status", "ascii", r"b\xfccher\u2603"), ("status", "latin-1", r"bücher\u2603"), ("jobs", "latin-1", r"bücher\u2603"), ("jobs", "utf-8", "bücher☃")])
def test_what_the_encoding_of_the_output_does_not_have_is_escaped(lite, command, encoding, shown):
    lite.insert("email", queue="bücher☃")
    lite.environment["PYTHONIOENCODING"] = encoding
    assert f"{shown} " in lite(command, encoding=encoding).stdout


def test_status_into_a_full_disk_or_to_nobody_is_an_exit_code_and_no_traceback(lite):
    with open("/dev/full", "w") as full:
        done = status_into(lite, full)
    assert (done.returncode, done.stderr) == (EXIT_TEMPORARY, "asyncsend: the output cannot be written (No space left on device): free space, or send it elsewhere\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = status_into(lite, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (EXIT_TROUBLE, "")
    done = status_into(lite, None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")
