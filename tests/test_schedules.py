"""Schedules: which times are due and become jobs, one job per due time however a run dies, and the commands around them."""

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from parts import Site, eventually, made_store
from stage import crashed

from asyncsend import schedules, status
from asyncsend.cli import cli
from asyncsend.errors import Conflict, InvalidJob
from asyncsend.job import NewJob
from asyncsend.log import EVENTS, Log
from asyncsend.store.connection import ConnectionLost
from asyncsend.store.rows import Schedule

PARIS, SYDNEY, SANTIAGO, LORD_HOWE, UTC_ZONE = "Europe/Paris", "Australia/Sydney", "America/Santiago", "Australia/Lord_Howe", "UTC"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron: str, tz: str, after: str, number: int) -> list[str]:
    return [f"{moment:%d %H:%M}" for moment in islice(schedules.times(cron, tz, at(after)), number)]


# ── times: daylight saving in Paris: 2026-03-29 02:00 CET → 03:00 CEST is 01:00 UTC, 2026-10-25 03:00 CEST → 02:00 CET is 01:00 UTC ──


@pytest.mark.parametrize(
    ("cron", "tz", "after", "expected"),
    [
        # spring: 02:00 to 03:00 is not there
        ("30 2 * * *", PARIS, "2026-03-27 12:00", ["28 01:30", "29 01:00", "30 00:30"]),
        ("0 2 * * *", PARIS, "2026-03-28 12:00", ["29 01:00", "30 00:00"]),
        ("0,30 2,3 * * *", PARIS, "2026-03-28 12:00", ["29 01:00", "29 01:30", "30 00:00"]),
        ("*/15 2 * * *", PARIS, "2026-03-28 12:00", ["29 01:00", "30 00:00", "30 00:15"]),
        ("0 */2 * * *", PARIS, "2026-03-28 22:30", ["28 23:00", "29 01:00", "29 02:00", "29 04:00"]),
        ("30 * * * *", PARIS, "2026-03-28 23:45", ["29 00:30", "29 01:30"]),
        ("*/20 0-23 * * *", PARIS, "2026-03-29 00:30", ["29 00:40", "29 01:00", "29 01:20"]),
        ("0 0 * * *", SANTIAGO, "2026-09-05 12:00", ["06 04:00", "07 03:00"]),
        ("15 2 * * *", LORD_HOWE, "2026-10-02 20:00", ["03 15:30", "04 15:15"]),
        ("30 2 * * *", SYDNEY, "2026-10-02 20:00", ["03 16:00", "04 15:30"]),
        # autumn: 02:00 to 03:00 is there twice
        ("30 2 * * *", PARIS, "2026-10-24 12:00", ["25 00:30", "26 01:30"]),
        ("30 2 * * *", PARIS, "2026-10-25 01:10", ["26 01:30"]),
        ("*/15 2 * * *", PARIS, "2026-10-24 12:00", ["25 00:00", "25 00:15", "25 00:30", "25 00:45", "26 01:00"]),
        ("0 */2 * * *", PARIS, "2026-10-24 21:00", ["24 22:00", "25 00:00", "25 03:00"]),
        ("30 * * * *", PARIS, "2026-10-25 00:00", ["25 00:30", "25 01:30", "25 02:30"]),
        ("*/30 * * * *", PARIS, "2026-10-25 00:10", ["25 00:30", "25 01:00", "25 01:30"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-03 20:00", ["04 14:45", "05 15:15"]),
        # zones without, and days
        ("30 2 * * *", UTC_ZONE, "2026-03-28 12:00", ["29 02:30", "30 02:30"]),
        ("0 9 * * 1-5", "Asia/Tokyo", "2026-11-20 00:00", ["23 00:00", "24 00:00"]),
        ("0 12 L * *", UTC_ZONE, "2028-02-01 00:00", ["29 12:00", "31 12:00"]),
        ("0 12 13 * FRI", UTC_ZONE, "2026-11-08 00:00", ["13 12:00", "20 12:00"]),
    ],
)
def test_a_time_is_on_the_wall_once_and_every_hour_goes_on_as_time_does(cron, tz, after, expected):
    assert times(cron, tz, after, len(expected)) == expected


@pytest.mark.parametrize("cron", ["", "* * * *", "* * * * * *", "60 * * * *", "0 24 * * *", "0 0 31 2 *", "0 0 0 * *", "a b c d e", "@daily", "0 2 * * 8", "5-1 * * * *", "*/0 * * * *", "0 2 * * *;"])
def test_an_expression_that_is_none_is_refused(cron):
    with pytest.raises(InvalidJob, match="the cron expression"):
        schedules.times(cron, PARIS, at("2026-01-01"))


@pytest.mark.parametrize("tz", ["Mars/Phobos", "../../etc/passwd", "Europe/"])
def test_a_zone_that_is_none_is_refused(tz):
    with pytest.raises(InvalidJob, match="no time zone"):
        schedules.times("0 2 * * *", tz, at("2026-01-01"))


def test_times_end_before_the_last_instant_a_table_can_hold():
    assert times("0 0 1 1 *", UTC_ZONE, "2035-06-01", 5) == ["01 00:00", "01 00:00"]
    with pytest.raises(InvalidJob, match="no time before 2037"):
        schedules.first("0 0 29 2 *", UTC_ZONE, at("2036-03-01"))


# ── which of them become jobs ────────────────────────────────────────────────────────────────────────────────────────


def decided(cron: str, catch_up: str, next_at: str, now: str, grace: float = 300.0, tz: str = UTC_ZONE):
    made, left_out, more, following = schedules.decide(cron, tz, catch_up, at(next_at), at(now), grace)
    return [f"{moment:%d %H:%M}" for moment in made], left_out, more, f"{following:%d %H:%M}"


@pytest.mark.parametrize(
    ("catch_up", "now", "expected"),
    [
        ("one", "2026-11-21 02:00", (["21 02:00"], 0, False, "22 02:00")),
        ("one", "2026-11-21 02:00:59.5", (["21 02:00"], 0, False, "22 02:00")),
        ("one", "2026-11-24 01:59", (["23 02:00"], 2, False, "24 02:00")),
        ("all", "2026-11-24 01:59", (["21 02:00", "22 02:00", "23 02:00"], 0, False, "24 02:00")),
        ("none", "2026-11-24 01:59", ([], 3, False, "24 02:00")),
        ("none", "2026-11-24 02:05", (["24 02:00"], 3, False, "25 02:00")),
        ("none", "2026-11-24 02:05:01", ([], 4, False, "25 02:00")),
    ],
)
def test_missed_times_become_as_many_jobs_as_was_asked_for(catch_up, now, expected):
    assert decided("0 2 * * *", catch_up, "2026-11-21 02:00", now) == expected


@pytest.mark.parametrize(("catch_up", "made"), [("one", ["21 10:15"]), ("all", ["21 10:05", "21 10:10", "21 10:15"]), ("none", ["21 10:15"])])
def test_a_cron_of_fifteen_minutes_misses_nothing(catch_up, made):
    assert decided("*/5 * * * *", catch_up, "2026-11-21 10:05", "2026-11-21 10:15:02")[0] == made


def test_after_a_long_outage_only_the_newest_thousand_are_made_and_that_is_said():
    decision = schedules.decide("* * * * *", UTC_ZONE, "all", at("2026-01-01 00:00"), at("2026-11-21 10:00"), 300.0)
    assert (len(decision.times), decision.times[0], decision.times[-1]) == (1000, at("2026-11-21 10:00") - timedelta(minutes=999), at("2026-11-21 10:00"))
    assert schedules.said(decision, "all") == "more than 1,000 times were due, 1,000 made into jobs (catch-up all)"
    one = schedules.decide("* * * * *", UTC_ZONE, "one", at("2026-11-21 09:58"), at("2026-11-21 10:00"), 300.0)
    assert schedules.said(one, "one") == "3 times were due, 1 made into jobs (catch-up one)"
    assert schedules.said(schedules.decide("* * * * *", UTC_ZONE, "one", at("2026-11-21 10:00"), at("2026-11-21 10:00"), 300.0), "one") is None


def test_a_next_time_that_somebody_set_to_the_beginning_of_all_time_is_no_trouble():
    for cron, newest in (("0 2 * * *", "2026-11-21 01:00"), ("0 1 29 2 *", "2024-02-29 00:00")):
        assert schedules.decide(cron, PARIS, "one", datetime(1, 1, 1, tzinfo=UTC), at("2026-11-21 10:00"), 300.0).times == [at(newest)]


@pytest.mark.parametrize("catch_up", schedules.CATCH_UP)
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/15 2,3 * * *", "0 */2 * * *"])
def test_looked_at_each_minute_or_each_quarter_no_time_is_seen_twice_or_never(cron, catch_up):
    """Through both nights in which the clocks change."""
    for night in ("2026-03-28 20:00", "2026-10-24 20:00"):
        for step in (1, 15):
            now, seen = at(night), []
            next_at = schedules.first(cron, PARIS, now)
            expected = list(islice(schedules.times(cron, PARIS, now), 20))
            while now < at(night) + timedelta(hours=12):
                now += timedelta(minutes=step, seconds=7 if step == 15 and not seen else 0)
                if next_at <= now:
                    decision = schedules.decide(cron, PARIS, catch_up, next_at, now, 1800.0)
                    seen += decision.times
                    next_at = decision.next_at
            assert seen == [moment for moment in expected if moment <= now]


@pytest.mark.parametrize(("minutes", "seconds"), [(0, 300.0), (1, 300.0), (15, 1800.0), (60, 7200.0), (6000, 7200.0)])
def test_how_late_is_late_depends_on_how_often_cron_comes(lite, minutes, seconds):
    standing = lite.store().standing("default")
    seen = standing._replace(started_at=at("2026-11-21 10:00"), previous_started_at=at("2026-11-21 10:00") - timedelta(minutes=minutes) if minutes else None)
    assert schedules.grace(seen) == seconds


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

DUE = at("2026-11-21 02:00")
NIGHTLY = Schedule("nightly", "0 2 * * *", "UTC", "mark", '{"name":"x"}', "reports", 3, "one", next_at=DUE)
MADE = NewJob("mark", '{"name":"x"}', schedules.uid("nightly", DUE), queue="reports", priority=3)


def moved(store, jobs=(MADE,), owner=None, **changes):
    return store.move_schedule(NIGHTLY._replace(**changes), list(jobs), next_at=DUE + timedelta(days=1), last_at=DUE, reason=None, owner=owner)


@pytest.fixture
def nightly(store, clock):
    clock.set(DUE.timestamp() + 5)
    assert store.add_schedule(NIGHTLY)
    return store


def jobs_of(store):
    return [(job.uid, job.queue, job.priority) for job in store.jobs(state=None, queue=None, task=None, limit=10)]


def test_a_due_schedule_is_seen_by_the_first_statement_of_a_run(nightly, clock):
    assert nightly.standing("default").schedules_due
    [(now, found)] = nightly.due_schedules(10)
    assert (now, found.definition, found.next_at) == (DUE + timedelta(seconds=5), NIGHTLY.definition, DUE)
    clock.set(DUE.timestamp() - 1)
    assert not nightly.standing("default").schedules_due
    assert nightly.due_schedules(10) == []


def test_one_transaction_makes_the_job_and_moves_the_schedule(nightly):
    assert moved(nightly)
    [there] = nightly.schedules("nightly")
    assert (there.next_at, there.last_at) == (DUE + timedelta(days=1), DUE)
    assert jobs_of(nightly) == [("schedule-nightly-20261121T020000Z", "reports", 3)]
    assert not nightly.standing("default").schedules_due


def test_a_schedule_that_was_moved_paused_or_changed_meanwhile_makes_nothing(nightly):
    assert not moved(nightly, cron="0 3 * * *")
    nightly.pause_schedule("nightly")
    assert not moved(nightly)
    assert not nightly.standing("default").schedules_due
    nightly.resume_schedule("nightly", DUE + timedelta(days=1))
    assert not moved(nightly)
    nightly.remove_schedule("nightly")
    assert not moved(nightly)
    assert jobs_of(nightly) == []


def test_a_due_time_whose_job_is_there_makes_no_second_one(nightly):
    later = DUE + timedelta(days=1)
    assert moved(nightly)
    nightly._write("UPDATE asyncsend_schedules SET next_at = FROM_UNIXTIME(:at)", at=DUE.timestamp())
    assert moved(nightly, [MADE, NewJob("mark", "{}", schedules.uid("nightly", later))])
    assert sorted(uid for uid, _, _ in jobs_of(nightly)) == [MADE.uid, schedules.uid("nightly", later)]


def test_a_run_that_lost_the_status_row_moves_no_schedule_and_makes_no_job(nightly):
    seen = nightly.standing("default")
    assert nightly.take("default", seen, "a" * 32, "lock", "host", 1, 120.0)
    assert not moved(nightly, owner="b" * 32)
    assert jobs_of(nightly) == []
    assert moved(nightly, owner="a" * 32)
    assert len(jobs_of(nightly)) == 1


@pytest.mark.parametrize("lost", ["^UPDATE", "^INSERT", "^COMMIT"])
def test_a_reply_that_is_lost_makes_no_second_job_and_no_false_answer(nightly, monkeypatch, lost):
    execute, met = nightly._execute, []

    def losing(sql, params):
        answer = execute(sql, params)
        if not met and sql.startswith(lost[1:]):
            met.append(sql)
            if lost != "^COMMIT":
                execute("ROLLBACK", {})  # what the server does when the connection goes
            raise ConnectionLost("2013: after it was done")
        return answer

    monkeypatch.setattr(nightly, "_execute", losing)
    monkeypatch.setattr(nightly, "forget_connection", lambda: None)
    assert moved(nightly)
    assert met
    assert len(jobs_of(nightly)) == 1


def test_adding_is_repeatable_and_replacing_has_to_be_said(nightly):
    assert not nightly.add_schedule(NIGHTLY._replace(next_at=DUE + timedelta(days=9)))
    assert nightly.schedules("nightly")[0].next_at == DUE
    other = NIGHTLY._replace(cron="0 3 * * *", catch_up="all", next_at=DUE + timedelta(hours=1))
    with pytest.raises(Conflict, match="--replace"):
        nightly.add_schedule(other)
    assert nightly.add_schedule(other, replace=True)
    [there] = nightly.schedules()
    assert (there.definition, there.next_at) == (other.definition, other.next_at)


def test_rows_that_cannot_be_used_stop_and_the_others_go_on(nightly, tmp_path):
    bad = {"cron": ("x", "five fields"), "tz": ("Mars/Phobos", "no time zone"), "task": ("no task", "task 'no task'"), "name": ("a b", "schedule 'a b'")}
    for number, (column, (value, _)) in enumerate(bad.items()):
        nightly.add_schedule(NIGHTLY._replace(name=f"bad{number}", next_at=DUE - timedelta(days=1))._replace(**{column: value}))
    nightly.add_schedule(NIGHTLY._replace(name="other"))
    holding = status.take(nightly, "lock")
    log = Log(tmp_path / "log")
    assert schedules.enqueue_due(nightly, holding, log, lambda: None) == 2
    log.close()
    assert {uid for uid, _, _ in jobs_of(nightly)} == {MADE.uid, schedules.uid("other", DUE)}
    stopped = [one for one in nightly.schedules() if one.next_at is None]
    assert len(stopped) == 4
    for _, words in bad.values():
        assert [one for one in stopped if words in one.reason], words
    assert (tmp_path / "log").read_text().count(EVENTS["schedule-stopped"][1]) == 4


def test_a_hundred_and_more_schedules_are_all_served(nightly, tmp_path, monkeypatch):
    monkeypatch.setattr(schedules, "SLICE", 3)
    for number in range(7):
        nightly.add_schedule(NIGHTLY._replace(name=f"n{number}"))
    log = Log(tmp_path / "log")
    assert schedules.enqueue_due(nightly, status.take(nightly, "lock"), log, lambda: None) == 8
    log.close()


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TASKS = """
import os
from asyncsend import task

@task(queue="reports")
def mark(name):
    with open(os.path.join(os.path.dirname(__file__), "effects"), "a") as file:
        file.write(name + "\\n")
"""


def said(site, *arguments: str, code: int = 0) -> str:
    """What a command prints, in this very process."""
    result = CliRunner().invoke(cli, list(arguments), env=site.environment)
    assert result.exit_code == code, result.output
    return result.output


def listed(site) -> list[dict]:
    return json.loads(said(site, "schedule", "list", "--json"))


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


def overdue(site, seconds: int = 0, **changes) -> None:
    """A schedule of every minute whose next time was so long ago."""
    store = site.store()
    row = NIGHTLY._replace(cron="* * * * *", catch_up="all", **changes)
    now = store.standing("default").now
    store.add_schedule(row._replace(next_at=now.replace(second=0, microsecond=0) - timedelta(seconds=seconds)))
    store.close()


@pytest.fixture
def shop(site):
    site.tasks(TASKS)
    return site


def test_a_run_makes_and_executes_the_due_job_and_says_so(shop):
    overdue(shop)
    shop.quiet("run")
    [(uid, state, queue)] = shop.rows("uid, state, queue")
    assert (uid[:17], state, queue) == ("schedule-nightly-", "done", "reports")
    assert effects(shop) == ["x"]
    assert "event=schedule-due schedule=nightly jobs=1" in shop.log()
    assert f"Job {uid} is done since" in said(shop, "why", uid)
    assert uid in said(shop, "jobs")


@pytest.mark.parametrize(("point", "there"), [("a schedule is moved", False), ("a schedule's jobs are made", False), ("a schedule is committed", True)])
def test_a_run_killed_between_making_and_moving_left_both_or_neither(shop, point, there):
    overdue(shop, 120, tz="Europe/Paris")
    before = listed(shop)[0]["next_at"]
    assert crashed(shop, point, 1, "run").returncode == -9
    [after] = listed(shop)
    made = [uid for (uid,) in shop.rows("uid")]
    assert (bool(made), after["next_at"] != before) == (there, there)
    shop.quiet("run")
    uids = [uid for (uid,) in shop.rows("uid")]
    assert len(set(uids)) == len(uids) == len(effects(shop))
    assert 3 <= len(uids) <= 5  # one more for each minute that began meanwhile
    assert {state for (state,) in shop.rows("state")} == {"done"}


def test_two_hosts_make_one_job_of_a_due_time(tmp_path, server):
    with server.database() as name:
        made_store(server.url(name)).close()
        hosts = [Site(tmp_path / host, server.url(name), ASYNCSEND_LOCK=str(tmp_path / f"{host}.lock")) for host in ("one", "two")]
        for host in hosts:
            host.tasks(TASKS)
        for number in range(5):
            overdue(hosts[0], 60, name=f"s{number}")
        runs = [host.start("run") for host in hosts]
        assert [run.communicate(timeout=60) and run.returncode for run in runs] == [0, 0]
        hosts[0].quiet("run")
        uids = [uid for (uid,) in hosts[0].rows("uid")]
        assert len({uid.rpartition("-")[0] for uid in uids}) == 5
        assert len(set(uids)) == len(uids) == len(effects(hosts[0])) + len(effects(hosts[1]))
        assert 10 <= len(uids) <= 20


def test_a_run_that_lingers_sees_what_becomes_due_meanwhile(lite):
    lite.tasks(TASKS)
    run = lite.start("run", "--linger", "--max-time", "30s", "--max-jobs", "1")
    eventually(lambda: lite.store().standing("default").alive, what="the run")
    overdue(lite)
    run.communicate(timeout=60)
    assert effects(lite) == ["x"]


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_is_added_listed_paused_resumed_and_removed(site):
    site.tasks(TASKS)
    add = ("schedule", "add", "nightly", "0 2 * * *", "mark", '{"name":"x"}', "--tz", "Europe/Paris", "--catch-up", "all", "--queue", "reports")
    assert said(site, *add).splitlines()[-1].startswith("Schedule nightly is due next at ")
    [row] = listed(site)
    assert (row["task"], row["queue"], row["payload"], row["catch_up"], row["tz"]) == ("mark", "reports", '{"name":"x"}', "all", "Europe/Paris")
    coming = [datetime.fromisoformat(text) for text in row["next"]]
    assert coming == schedules.following("0 2 * * *", "Europe/Paris", coming[0] - timedelta(seconds=1), 3)
    assert coming[2].astimezone(ZoneInfo("Europe/Paris")).strftime("%Y-%m-%d %H:%M:%S %Z") in said(site, "schedule", "list")
    assert "nothing was changed" in said(site, *add)
    said(site, "schedule", "pause", "nightly")
    assert "paused" in said(site, "schedule", "list")
    assert listed(site)[0]["next"] == []
    assert "is due next at" in said(site, "schedule", "resume", "nightly")
    assert len(listed(site)[0]["next"]) == 3
    for other in ("night", "nightly ", "NIGHTLY", "nightlÿ"):
        assert "there is no schedule" in said(site, "schedule", "remove", other, code=2)
    said(site, "schedule", "remove", "nightly")
    assert listed(site) == []
    assert "schedule=nightly" in site.log()


def test_tables_of_another_prefix_have_schedules_too(tmp_path, url):
    site = Site(tmp_path / "home", url, ASYNCSEND_TABLE_PREFIX="shop_")
    said(site, "init")
    said(site, "schedule", "add", "nightly", "0 2 * * *", "email")
    said(site, "run")
    assert [one["name"] for one in listed(site)] == ["nightly"]


def test_the_queue_of_a_schedule_is_the_one_of_its_task(lite):
    lite.tasks(TASKS)
    lite("schedule", "add", "x", "0 2 * * *", "mark")
    assert [one["queue"] for one in listed(lite)] == ["reports"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "x", "0 25 * * *", "email"), "Bad hour"),
        (("add", "x", "0 2 * *", "email"), "five fields"),
        (("add", "x", "0 0 31 2 *", "email"), "Bad day-of-month"),
        (("add", "x", "0 2 * * *", "email", "--tz", "Mars/Phobos"), "no time zone is called 'Mars/Phobos'"),
        (("add", "x", "0 2 * * *", "email", "{"), "not JSON"),
        (("add", "x y", "0 2 * * *", "email"), "schedule 'x y' is not allowed"),
        (("add", "x" * 39, "0 2 * * *", "email"), "at most 38"),
        (("add", "x", "0 2 * * *", "no task"), "task 'no task' is not allowed"),
        (("add", "x", "0 2 * * *", "email", '{"a":"' + "x" * 60_000 + '"}'), "a schedule's may have 60,000"),
        (("add", "x", "0 2 * * *", "email", "--catch-up", "some"), "catch-up"),
        (("remove", "x"), "there is no schedule 'x'"),
        (("pause", "x"), "there is no schedule 'x'"),
        (("resume", "x"), "there is no schedule 'x'"),
    ],
)
def test_what_cannot_be_a_schedule_is_exit_2_and_says_why(lite, arguments, words):
    assert words in said(lite, "schedule", *arguments, code=2)
    assert listed(lite) == []


def test_an_unknown_task_is_warned_of_and_scheduled_all_the_same(lite):
    assert "Warning: no task is called 'report.build' here" in said(lite, "schedule", "add", "x", "0 2 * * *", "report.build")
    assert len(listed(lite)) == 1
    assert "Warning" not in said(lite, "schedule", "add", "y", "0 2 * * *", "email")


def test_the_zone_is_the_one_of_the_settings_and_replacing_has_to_be_said(lite):
    add = ("schedule", "add", "x", "0 2 * * *", "email")
    lite.environment["ASYNCSEND_TIMEZONE"] = "Asia/Tokyo"
    said(lite, *add)
    del lite.environment["ASYNCSEND_TIMEZONE"]
    assert "--replace" in said(lite, *add, code=2)
    assert [one["tz"] for one in listed(lite)] == ["Asia/Tokyo"]
    said(lite, *add, "--replace")
    assert [one["tz"] for one in listed(lite)] == ["UTC"]


def test_status_asks_for_attention_while_a_schedule_is_stopped(lite):
    overdue(lite)
    lite.sql("UPDATE asyncsend_schedules SET cron = 'x'")
    lite.quiet("run")
    assert "Schedule nightly makes no more jobs (the cron expression 'x' must have five fields" in said(lite, "status")
    assert "stopped" in said(lite, "schedule", "list")
    said(lite, "schedule", "resume", "nightly", code=2)
    said(lite, "schedule", "add", "nightly", "0 2 * * *", "email", "--replace")
    assert "nightly" not in said(lite, "status")
