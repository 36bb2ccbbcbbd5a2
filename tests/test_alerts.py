"""Alerts, check, heartbeat, and the warning of whoever enqueues: told once, told over, and never by an empty minute's cost."""

import json
import logging

import pytest
from parts import eventually

from asyncsend import alerts, config, enqueue, metrics, producer, status
from asyncsend.cli import cli
from asyncsend.errors import ConfigurationError, DatabaseUnreachable
from asyncsend.job import NewJob

MAIL = '{"to":"ann@example.com","subject":"Hi","text":"Hello"}'


def call(site, *arguments: str, code: int = 0) -> str:
    from click.testing import CliRunner

    result = CliRunner().invoke(cli, arguments, env=site.environment)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def looked_long_ago(site) -> None:
    site.sql("UPDATE asyncsend_alerts SET sent_at = FROM_UNIXTIME(UNIX_TIMESTAMP(sent_at) - 400) WHERE cause = 'looked'")


def dead(site, number: int) -> None:
    for _ in range(number):
        site.insert("email", "{}")
    site.sql("UPDATE asyncsend_jobs SET state = 'dead', finished_at = NOW(6), unique_slot = NULL WHERE task = 'email' AND payload = '{}'")


@pytest.fixture
def told(site, smtp, http):
    """A site whose owner is told by mail and by webhook."""
    site.environment |= {
        "ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_ALERT_TO": f"ops@example.com, {http.url}/hook", "ASYNCSEND_ALLOW_PRIVATE": "127.0.0.1",
        "ASYNCSEND_ALERT_LIMITS": "dead=2, held=0",
    }  # fmt: skip
    site.smtp, site.http = smtp, http
    return site


def runs(site, number: int = 2) -> None:
    """Runs that look, and send what was found."""
    for _ in range(number):
        looked_long_ago(site)
        site.quiet("run")


# ── mail and webhook ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_wrong_is_told_once_in_six_hours_and_over_again_when_it_is_well(told):
    dead(told, 3)
    told.insert("no-such-task")
    runs(told, 4)
    [message] = told.smtp.messages()
    [request] = told.http.requests
    body = json.loads(request.body)
    assert message["To"] == "ops@example.com" and "2 causes for attention" in message["Subject"]
    assert "3 jobs dead" in message.get_content() and "1 job held" in message.get_content()
    assert (len(body["causes"]), body["over"]) == (2, []) and "3 jobs dead" in body["text"]
    told.sql("UPDATE asyncsend_alerts SET sent_at = FROM_UNIXTIME(UNIX_TIMESTAMP(sent_at) - 21601), since = sent_at WHERE cause = 'dead'")
    runs(told)
    assert "3 jobs dead" in told.smtp.messages()[1].get_content()
    assert "held" not in told.smtp.messages()[1].get_content().partition("`asyncsend status`")[0]
    told.sql("DELETE FROM asyncsend_jobs WHERE state = 'dead'")
    runs(told, 3)
    [_, _, over] = told.smtp.messages()
    assert "over again" in over["Subject"] and "over again: 3 jobs dead" in over.get_content()
    assert json.loads(told.http.requests[-1].body)["causes"] == []
    assert {row[0] for row in told.rows("queue", "uid LIKE 'alert-%'")} == {"alerts"}


def test_a_cause_that_comes_and_goes_is_not_told_again_within_six_hours(told):
    for _ in range(3):
        dead(told, 3)
        runs(told)
        told.sql("DELETE FROM asyncsend_jobs WHERE state = 'dead'")
        runs(told)
    assert ["over" in str(message["Subject"]) for message in told.smtp.messages()] == [False, True]


def test_alerts_are_told_once_however_often_the_run_is_killed_while_it_tells(told):
    dead(told, 3)
    for place in ("before", "after"):
        told.prelude = f"""
import os, signal
from asyncsend.store.alerts import AlertStatements as statements
note = statements.note_alerts
def killed(*args, **options):
    if {place!r} == "after":
        note(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
statements.note_alerts = killed
"""
        told("run", code=-9)
    told.prelude = ""
    runs(told, 3)
    assert (len(told.smtp.mails), len(told.http.requests)) == (1, 1)


def test_two_hosts_tell_it_once_and_one_that_lost_the_status_row_tells_nothing(store, log):
    store.insert([NewJob("email", "{}", f"u{number}") for number in range(20)])
    store._write("UPDATE asyncsend_jobs SET state = 'held'")
    settings = config.load({"ASYNCSEND_HOME": "/nowhere", "ASYNCSEND_ALERT_TO": "ops@example.com"})
    holdings = [status.take(store, "lock") for _ in range(2)]
    rows = store.alerts()
    for holding in (*holdings, holdings[1]):
        alerts.send_due(store, settings, holding, log, took=1.0)
    assert [job.uid.startswith("alert-") for job in store.jobs(state="ready", queue="alerts", task=None, limit=9)] == [True]
    looks = {row.cause: row.times for row in store.alerts()}
    assert (looks["looked"], looks["held"], [row.times for row in rows]) == (2, 1, [0])
    assert not store.note_alerts(0, [], [], [NewJob("email", "{}", "twice")], holdings[1].owner), "who saw an older state says nothing"


def test_without_an_address_nobody_looks_and_with_one_at_most_every_few_minutes(lite):
    dead(lite, 30)
    lite.quiet("run")

    def looks() -> int:
        store = lite.store()
        try:
            return store._rows("SELECT times FROM asyncsend_alerts WHERE cause = 'looked'")[0][0]
        finally:
            store.close()

    assert looks() == 0
    lite.environment["ASYNCSEND_ALERT_TO"] = "ops@example.com"
    for _ in range(3):
        lite.quiet("run")
    assert looks() == 1


def test_the_queue_of_alerts_is_one_that_is_served():
    served = config.load({"ASYNCSEND_HOME": "/nowhere", "ASYNCSEND_ALERT_TO": "a@example.com", "ASYNCSEND_QUEUES": "mails,low"})
    assert [job.queue for job in alerts._messages(served, ["x"], [], "u")] == ["mails"]
    assert [job.queue for job in alerts._messages(served._replace(queues=("mails", "*")), ["x"], [], "u")] == ["alerts"]


def test_a_gap_without_cron_is_told_by_the_run_that_ends_it(told):
    told.quiet("run")
    told.sql("UPDATE asyncsend_status SET started_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 7200)")
    runs(told, 1)
    told.quiet("run")
    assert "no run came for 2 h" in told.smtp.messages()[0].get_content()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ALERT_TO", "ops", "ops@example.com"), ("ALERT_TO", "ftp://x/y", "ops@example.com"), ("ALERT_LIMITS", "lag=soon", "not a duration"),
        ("ALERT_LIMITS", "deaths=3", "no limit"), ("ALERT_LIMITS", "failures=120%", "percentage"), ("ALERT_LIMITS", "dead=-1", "number of jobs"),
        ("HEARTBEAT_URL", "hc-ping.com/x", "https://host/path"), ("HEARTBEAT_URL", "file:///etc/passwd", "https://host/path"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_before_the_first_run(name, value, says):
    with pytest.raises(ConfigurationError, match=says):
        config.load({"ASYNCSEND_HOME": "/nowhere", f"ASYNCSEND_{name}": value})


def test_addresses_that_are_secrets_are_not_shown():
    for name in ("ASYNCSEND_ALERT_TO", "ASYNCSEND_HEARTBEAT_URL"):
        assert config.masked(name, "https://hooks.example.com/T0K3N/x") == "https://hooks.example.com/***"
    assert config.masked("ASYNCSEND_ALERT_TO", "a@example.com, https://h.example.com/secret,b@example.com") == "a@example.com, https://h.example.com/***,b@example.com"


# ── the causes, for alerts and for check ─────────────────────────────────────────────────────────────────────────────

PAST = "FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - {})"
CAUSES = [
    ("dead", [], "11 jobs dead", 11),
    ("held", ["asyncsend_jobs SET state = 'held'"], "1 job held", 1),
    ("lag", [f"asyncsend_jobs SET run_at = {PAST.format(1200)}"], "the oldest due job waits for 20 min", 1),
    ("silence", [f"asyncsend_status SET started_at = {PAST.format(900)}"], "no run came for 15 min", 0),
    ("lock", [f"asyncsend_status SET owner = 'x', lock_id = 'another host', started_at = {PAST.format(2400)}, lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + 60)"], "one run is at work for 40 min", 0),
    ("waiting:smtp-login", ["asyncsend_jobs SET reason = 'smtp-login'"], "1 job wait (smtp-login)", 1),
]


@pytest.mark.parametrize(("cause", "changes", "says", "jobs"), CAUSES, ids=[case[0] for case in CAUSES])
def test_check_ends_with_1_and_one_line_that_names_the_cause(site, cause, changes, says, jobs):
    site.quiet("run")
    assert call(site, "check").startswith("OK: nothing is due")
    if cause == "dead":
        dead(site, jobs)
    else:
        for _ in range(jobs):
            site.insert("email", MAIL)
    for change in changes:
        site.sql(f"UPDATE {change}")
    line = call(site, "check", code=1)
    assert line.startswith("TROUBLE: ") and line.count("\n") == 1 and says in line, line
    facts = json.loads(call(site, "check", "--json", code=1))
    assert (facts["ok"], list(facts["causes"])) == (False, [cause])
    raised = ["--max-lag", "1d", "--max-dead", "100", "--max-held", "100", "--max-silence", "1d", "--max-run", "1d"]
    if not cause.startswith("waiting"):
        assert call(site, "check", *raised).startswith("OK: ")


def test_check_knows_that_cron_never_ran_and_failures(lite):
    assert "no run has ever been started" in call(lite, "check", code=1)
    lite.tasks("from asyncsend import Backoff, task\n@task(backoff=Backoff(base=600, cap=600, floor=600))\ndef fail(bad):\n    assert not bad\n")
    for number in range(30):
        lite.insert("fail", json.dumps({"bad": number % 3 != 0}))
    lite.quiet("run")
    assert "67% of 30 attempts in the last hour failed" in call(lite, "check", code=1)
    assert "67% of 30 attempts" in call(lite, "status")
    assert call(lite, "check", "--max-failure-rate", "70%")
    call(lite, "check", "--max-failure-rate", "many", code=2)


def test_check_ends_with_75_when_the_database_is_away(tmp_path):
    from parts import Site

    site = Site(tmp_path / "home", "mysql://root@127.0.0.1:1/shop")
    assert site("check", code=75).stdout == ""


def test_a_paused_queue_has_no_lag_that_anybody_should_be_told_of(site):
    site.quiet("run")
    site.insert("email", MAIL)
    call(site, "pause", "default")
    site.sql(f"UPDATE asyncsend_jobs SET run_at = {PAST.format(1200)}")
    assert call(site, "check").startswith("OK: ")


def test_a_stopped_channel_is_a_cause(store):
    store._write("INSERT INTO asyncsend_channels (name, stopped_until, reason) VALUES (:name, '2037-01-01', :why)", name="host:api.example.com", why="the last: 503")
    assert alerts.causes(metrics.collect(store), alerts.Limits(), took=1.0) == {"channel:host:api.example.com": "the channel host:api.example.com is stopped (the last: 503)"}


# ── whoever enqueues ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def page(site, monkeypatch):
    for name, value in site.environment.items():
        if name.startswith("ASYNCSEND_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(producer, "_ask_at", 0.0)
    return site


def test_whoever_enqueues_is_told_once_that_no_run_comes(page, caplog):
    caplog.set_level(logging.WARNING, "asyncsend")
    page.quiet("run")
    enqueue("email", MAIL)
    assert caplog.messages == []
    page.sql(f"UPDATE asyncsend_status SET started_at = {PAST.format(3600)}")
    producer._ask_at = 0.0
    for _ in range(3):
        enqueue("email", MAIL)
    assert caplog.messages == ["the job is stored, but no run has come for 1 h: check the cron entry with `asyncsend doctor`"]
    assert "no run has come for 1 h" in page("enqueue", "email", MAIL).stderr


def test_new_tables_are_given_time_for_their_first_run(page):
    assert page("enqueue", "email", MAIL).stderr == ""
    page.sql(f"UPDATE asyncsend_schema SET applied_at = {PAST.format(3600)}")
    assert "no run has ever been started" in page("enqueue", "email", MAIL).stderr


def test_a_question_that_cannot_be_answered_keeps_no_job_from_being_stored(page, monkeypatch):
    def away(*_):
        raise DatabaseUnreachable("away")

    monkeypatch.setattr("asyncsend.store.alerts.AlertStatements.silence", away)
    assert enqueue("email", MAIL)
    assert len(page.rows("id")) == 1


# ── heartbeat ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_run_that_ended_well_is_heard_and_trouble_too(site, http, tmp_path):
    site.environment["ASYNCSEND_HEARTBEAT_URL"] = f"{http.url}/ping/abc?x=1"
    site.quiet("run")
    assert [(request.method, request.path) for request in http.requests] == [("GET", "/ping/abc?x=1")]
    site.sql("DROP TABLE asyncsend_runs")
    site.insert("email", MAIL)
    site("run", code=78)
    assert http.requests[-1].path == "/ping/abc/fail?x=1"


def test_the_lock_is_free_while_a_slow_watch_is_told(lite, http):
    lite.environment["ASYNCSEND_HEARTBEAT_URL"] = f"{http.url}/ping"
    http.behave = "hang"
    run = lite.start("run")
    eventually(lambda: http.requests, what="the heartbeat")
    lite.environment.pop("ASYNCSEND_HEARTBEAT_URL")
    lite.quiet("run")
    assert "held" not in json.loads(lite("status", "--json").stdout)["stopped"]
    assert json.loads(lite("status", "--json").stdout)["generation"] == 2
    http.release.set()
    assert run.communicate(timeout=60) == (b"", b"")
    assert "event=heartbeat-failed" in lite.log()


@pytest.mark.parametrize("answer", [(500, {}, b""), (302, {"Location": "http://127.0.0.1:1/"}, b"")])
def test_a_watch_that_refuses_is_a_line_in_the_log_and_nothing_more(lite, http, answer):
    lite.environment["ASYNCSEND_HEARTBEAT_URL"] = http.url
    http.answers = [answer]
    lite.quiet("run")
    assert f"answered {answer[0]}" in lite.log()
    lite.environment["ASYNCSEND_HEARTBEAT_URL"] = "http://127.0.0.1:1/"
    lite.quiet("run")
    assert lite.log().count("event=heartbeat-failed") == 2
