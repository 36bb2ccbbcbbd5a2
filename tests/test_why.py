"""Why and when: one sentence for every reason a job can wait, and the next run by the starts that were seen."""

import random
import re
from datetime import UTC, datetime, timedelta

import pytest
from parts import ROOT

from asyncsend import explain
from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.store import Standing
from asyncsend.store.rows import Silence

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
T = NOW.timestamp()
MINUTELY = [T - 28 - 60 * number for number in range(10)]


def standing(**changes) -> Standing:
    row = Standing(
        NOW, 7, "idle", None, False, 9, "lock", "web1", 77, NOW - timedelta(seconds=28), NOW - timedelta(seconds=88), None, NOW - timedelta(seconds=20),
        "empty", 0, None, False, 0, False, False, False,
    )  # fmt: skip
    return row._replace(**changes)


AT_WORK = {"owner": "x", "alive": True, "lease_until": NOW + timedelta(seconds=90), "host": "web2"}
DIED = {"owner": "x", "alive": False, "lease_until": NOW - timedelta(seconds=90)}


def said(job: dict, **around) -> str:
    seen = {"standing": standing(), "pauses": {}, "order": ("critical", "default", "*"), "zone": UTC, "ticks": MINUTELY} | around
    words = explain.why(Job(**{"id": 1, "task": "email", "payload": "{}", "uid": "u", "run_at": NOW - timedelta(seconds=5)} | job), explain.Around(**seen))
    assert words.startswith("Job u ") and words.endswith(".") and "\n" not in words
    assert "None" not in words and ".." not in words and "  " not in words
    return words


later, soon = NOW + timedelta(hours=2), NOW + timedelta(seconds=90)
CASES = [
    # ready
    ({}, {}, "Job u is ready: due, and the next run is expected in about 32 s (every 1 min)."),
    ({}, {"standing": standing(started_at=None, previous_started_at=None), "ticks": []}, "Job u is ready: due, and no run has ever been started: put the line of `asyncsend crontab` into cron."),
    ({}, {"standing": standing(previous_started_at=None), "ticks": [T - 28]}, "Job u is ready: due, and the next run is expected when cron comes again (last 28 s ago)."),
    ({}, {"standing": standing(started_at=NOW - timedelta(hours=3))}, "Job u is ready: due, and cron has not started a run for 3 h (last at 2026-11-21 09:00:30 UTC): check the cron entry with `asyncsend doctor`."),
    ({"run_at": later}, {}, "Job u is ready: it is due at 2026-11-21 14:00:30 UTC, in 2 h."),
    ({"run_at": later, "attempts": 2, "reason": "smtp-450", "error": "greylisted"}, {"allowed": 16}, "Job u is ready (smtp-450: greylisted): attempt 3 of 16 is due at 2026-11-21 14:00:30 UTC, in 2 h."),
    ({"attempts": 2, "reason": "exception", "error": "ValueError: x"}, {}, "Job u is ready (exception: ValueError: x): attempt 3 is due, and the next run is expected in about 32 s (every 1 min)."),
    ({"run_at": soon, "reason": "smtp-login", "error": "refused: check ASYNCSEND_EMAIL_URL"}, {}, "Job u is ready (smtp-login: refused: check ASYNCSEND_EMAIL_URL): it is due at 2026-11-21 12:02:00 UTC, in 1 min 30 s."),
    ({"expires_at": soon}, {}, "Job u is ready: due, and the next run is expected in about 32 s (every 1 min); it is cancelled if it has not started by 2026-11-21 12:02:00 UTC."),
    ({"expires_at": NOW}, {}, "Job u is ready: it expired at 2026-11-21 12:00:30 UTC and will be cancelled instead of executed."),
    ({}, {"pauses": {"default": None}}, "Job u is ready: its queue default is paused until `asyncsend resume default`."),
    ({"queue": "default "}, {"pauses": {"default": later}}, "Job u is ready: its queue default is paused until 2026-11-21 14:00:30 UTC."),
    ({"queue": "reports"}, {"order": ("critical", "default")}, "Job u is ready: no run serves its queue reports: ASYNCSEND_QUEUES is critical,default."),
    ({}, {"ahead": 1234, "work": 240.0}, "Job u is ready: due behind 1,234 jobs, about 4 min of work, and the next run is expected in about 32 s (every 1 min)."),
    ({}, {"ahead": 1}, "Job u is ready: due behind 1 job, and the next run is expected in about 32 s (every 1 min)."),
    ({}, {"ahead": 10_001, "work": 9.0}, "Job u is ready: due behind more than 10,000 jobs, and the next run is expected in about 32 s (every 1 min)."),
    ({"batch_id": "b"}, {"batch": (NOW, NOW)}, "Job u is ready: its batch b was cancelled at 2026-11-21 12:00:30 UTC, and it will be, too."),
    ({}, {"quiet": 3600.0}, "Job u is ready: no job of its queue default is started before 2026-11-21 13:00:30 UTC (ASYNCSEND_QUIET_HOURS)."),
    ({"reason": "quota", "error": "it waits for its turn: email takes 200/hour", "run_at": NOW + timedelta(seconds=90)}, {}, "Job u is ready (quota: it waits for its turn: email takes 200/hour): it is due at 2026-11-21 12:02:00 UTC, in 1 min 30 s."),
    ({"batch_id": "b"}, {"batch": (None, None)}, "Job u is ready: due, in the batch b, to which jobs are still being added, and the next run is expected in about 32 s (every 1 min)."),
    ({}, {"standing": standing(**AT_WORK)}, "Job u is ready: due, and the run on web2 (pid 77) is at work; should it have died, its lease ends at 2026-11-21 12:02:00 UTC."),
    ({"reason": "run-died", "error": "in flight when its run died (1 of 3 times)"}, {"standing": standing(**DIED)}, "Job u is ready (run-died: in flight when its run died (1 of 3 times)): due, and the next run is expected in about 32 s (every 1 min)."),
    # in the hands of a run
    ({"state": State.RUNNING}, {"standing": standing(**AT_WORK)}, "Job u is in the hands of the run on web2 (pid 77) since 2026-11-21 12:00:02 UTC."),
    ({"state": State.RUNNING}, {"standing": standing(**DIED)}, "Job u was in the hands of a run that died; the next run takes it back: the next run is expected in about 32 s (every 1 min)."),
    # over, or waiting for a person
    ({"state": State.DONE, "attempts": 2, "finished_at": NOW}, {}, "Job u is done since 2026-11-21 12:00:30 UTC, at attempt 2."),
    *(
        ({"state": State.HELD, "reason": reason, "error": "why"}, {}, f"Job u is held ({reason}: why). `asyncsend release u` lets it go, `asyncsend cancel` ends it.")
        for reason in ("unknown-task", "unknown", "bad-row")
    ),
    *(
        ({"state": State.DEAD, "reason": reason, "error": "why", "finished_at": NOW}, {}, f"Job u is dead since 2026-11-21 12:00:30 UTC ({reason}: why). `asyncsend retry u` gives it fresh attempts.")
        for reason in ("max-attempts", "crash-loop", "bad-payload", "bad-answer", "refused", "http-410", "held-too-long")
    ),
    *(
        ({"state": State.CANCELLED, "reason": reason, "finished_at": NOW}, {}, f"Job u was cancelled at 2026-11-21 12:00:30 UTC ({reason}).")
        for reason in ("expired", "by-command", "cancelled-by-task", "batch-cancelled", "subscription-disabled", "unsubscribed", "suppressed", "deadline")
    ),
]


@pytest.mark.parametrize(("job", "around", "words"), CASES, ids=range(len(CASES)))
def test_why_is_one_sentence_for_every_state_and_reason(job, around, words, monkeypatch):
    assert said(job, **around) == words


def test_every_reason_that_the_product_gives_by_name_is_in_the_table_or_is_only_a_word_before_its_error():
    """A new state or a new way to wait needs a new line above."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "asyncsend").rglob("*.py"))
    ends = {state: set(re.findall(rf'outcomes\.{verb}\("([a-z-]+)"', source)) for state, verb in ((State.HELD, "hold"), (State.DEAD, "bury"), (State.CANCELLED, "cancel"))}
    known = {(job.get("state"), job.get("reason")) for job, _, _ in CASES}
    assert {(state, reason) for state, reasons in ends.items() for reason in reasons} - known == set()
    assert {job.get("state", State.READY) for job, _, _ in CASES} == set(State)


# ── what is asked of the table ───────────────────────────────────────────────────────────────────────────────────────


def test_the_jobs_before_it_are_those_of_queues_before_of_higher_priority_and_older_ones(site):
    for number in range(3):
        site.insert("email", "{}", queue="critical", uid=f"critical{number}")
        site.insert("email", "{}", priority=5, uid=f"high{number}")
        site.insert("email", "{}", uid=f"older{number}")
    site.insert("email", "{}", uid="mine")
    site.insert("email", "{}", uid="younger")
    site.insert("email", "{}", queue="low", uid="low")
    site.insert("email", "{}", priority=9, uid="future", run_at="2036-01-01 00:00:00")

    def words(uid: str) -> str:
        return site("why", uid).stdout

    assert "due behind 9 jobs, and" in words("mine")
    assert "due behind 2 jobs, and" in words("critical2")
    assert "due, and" in words("critical0")
    site("pause", "critical")
    assert "due behind 6 jobs, and" in words("mine")
    assert "due behind 8 jobs, and" in words("low")
    site.sql("UPDATE asyncsend_jobs SET run_at = NULL WHERE uid IN ('mine', 'older2')")
    assert "due behind 4 jobs, and" in words("mine"), "without a time goes before any time"


def test_the_minutes_before_it_come_from_the_counters(lite):
    lite.tasks("import time\nfrom asyncsend import task\n@task\ndef slow():\n    time.sleep(0.2)\n")
    for _ in range(3):
        lite.insert("slow")
    lite.quiet("run")
    for _ in range(10):
        lite.insert("slow")
    words = lite("why", "13").stdout
    seconds = float(re.search(r"due behind 9 jobs, about ([0-9.]+) s of work", words)[1])
    assert seconds >= 1.8


def test_attempts_are_counted_where_they_are_known(lite):
    for uid, task, columns in (("a", "email", {}), ("b", "mine", {}), ("c", "mine", {"max_attempts": 4})):
        lite.insert(task, "{}", uid=uid, attempts=1, **columns)
    assert "attempt 2 of 16 is due" in lite("why", "a").stdout
    assert "attempt 2 is due" in lite("why", "b").stdout
    assert "attempt 2 of 4 is due" in lite("why", "c").stdout


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cron(every: float, number: int, chance: random.Random, phase: float = 1.0) -> list[float]:
    """Starts of a cron, the newest first, each up to three seconds late."""
    return [1_800_000_000.0 + phase + every * one + chance.uniform(0, 3) for one in range(number)][::-1]


@pytest.mark.parametrize("every", [60.0, 300.0, 900.0, 3600.0])
@pytest.mark.parametrize("what", ["nothing else", "two runs by hand", "one by hand at last", "a night without cron", "some that took two turns"])
def test_the_rhythm_is_crons_whatever_else_started_a_run(every, what):
    for seed in range(20):
        chance = random.Random(seed)
        ticks = cron(every, 11, chance)
        if what == "two runs by hand":
            ticks = sorted([*ticks, ticks[3] + every * 0.4, ticks[7] + every * 0.7], reverse=True)
        elif what == "one by hand at last":
            ticks = [ticks[0] + every * 0.4, *ticks]
        elif what == "a night without cron":
            ticks = [tick if number < 4 else tick - 28800 - every / 2 for number, tick in enumerate(ticks)]
        elif what == "some that took two turns":
            del ticks[3], ticks[6]
        found, start = explain.rhythm([float(int(tick)) for tick in ticks[:11]])
        assert found == every
        if what != "a night without cron":
            assert min((start - 1_800_000_001) % every, -(start - 1_800_000_001) % every) <= 4


def test_the_next_run_is_expected_at_crons_next_turn_not_after_the_one_by_hand():
    ticks = [T - 100, *(T - 600 - 900 * number for number in range(8))]
    row = standing(started_at=NOW - timedelta(seconds=100), previous_started_at=NOW - timedelta(seconds=600))
    assert explain.next_run(row, UTC, ticks) == "the next run is expected in about 5 min (every 15 min)"
    assert explain.next_in(row, [T - 100]) == pytest.approx(400)  # of two starts only the distance is known
    assert explain.rhythm([]) is explain.rhythm([1.0]) is explain.rhythm([5.0, 4.0]) is None


def test_a_cron_of_fifteen_minutes_is_not_missing_after_six_and_one_of_a_minute_is():
    row = standing(started_at=NOW - timedelta(seconds=360), previous_started_at=None)
    assert not explain.cron_missing(row, [T - 360 - 900 * number for number in range(5)])
    assert explain.cron_missing(row, [T - 360 - 60 * number for number in range(5)])
    assert explain.unseen(Silence(2400.0, ever=True, alive=False, ticks=[T - 900 * number for number in range(5)])) is None
    assert explain.unseen(Silence(2800.0, ever=True, alive=False, ticks=[T - 900 * number for number in range(5)]))
    assert explain.unseen(Silence(9999.0, ever=True, alive=True, ticks=[])) is None


def test_the_last_starts_are_remembered_each_once_also_when_the_reply_is_lost(store, clock):
    for number in range(15):
        clock.set(1_800_000_000.0 + 60 * number)
        assert store.take("default", store.standing("default"), f"{number:032}", "lock", "h", 1, 120)
    seen = store.standing("default")
    assert store.take("default", seen._replace(generation=seen.generation), f"{14:032}", "lock", "h", 1, 120), "as a repeat does"
    assert store.ticks("default") == [1_800_000_000.0 + 60 * number for number in range(14, 3, -1)]
