"""Figures: counters that are right after any kill, histograms, Prometheus text by its own parser, and looks that stay short."""

import json
import os
import random
import threading

import pytest
from parts import eventually, made_store
from prometheus_client.parser import text_string_to_metric_families

from asyncsend import metrics
from asyncsend import outcome as outcomes
from asyncsend.job import NewJob
from asyncsend.outcome import Settlement, State
from asyncsend.store import BOUNDS
from asyncsend.store import figures as statements
from asyncsend.store.connection import ConnectionLost
from asyncsend.store.rows import Counted

TASKS = """
import os, time
from asyncsend import task, Retry, Snooze, Cancel
HERE = os.path.dirname(os.path.abspath(__file__))

@task(max_attempts=2)
def act(how="done", seconds=0.0, name=""):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(name + "\\n")
    time.sleep(seconds)
    if how == "retry":
        raise Retry(3600)
    if how == "snooze":
        raise Snooze(3600)
    if how == "cancel":
        raise Cancel()
    if how == "bury":
        from asyncsend.answers import Refused
        raise Refused("no")
"""


@pytest.fixture
def shop(site):
    site.tasks(TASKS)
    return site


def sums(store, span="ever") -> dict[str, int]:
    """Word → number over all queues and tasks, without zeros."""
    found = {}
    for row in store.counters(span, 0.0):
        for word, number in row.counts.items():
            found[word] = found.get(word, 0) + number
    return {word: number for word, number in found.items() if number}


def token() -> str:
    return os.urandom(16).hex()


def claimed(store, number: int, **options):
    store.insert([NewJob("act", "{}", os.urandom(8).hex(), **options) for _ in range(number)])
    return store.claim([options.get("queue", "default")], number, token(), 1)


def settlements(jobs, outcome=None):
    return [Settlement(job.id, job.token, outcome or outcomes.finish()._replace(seconds=0.003), job.queue, job.task) for job in jobs]


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_outcome_is_counted_once_under_its_queue_and_task(shop):
    for how in ("done", "done", "retry", "snooze", "cancel", "bury"):
        shop.insert("act", json.dumps({"how": how}), queue="q")
    shop.insert("nobody-knows")
    shop.insert("act", "{}", expires_at="2020-01-01 00:00:00")
    shop.quiet("run")
    facts = json.loads(shop("status", "--json").stdout)
    for rows in (facts["totals"], facts["last_24_hours"]):
        by_label = {(row["queue"], row["task"]): {word: row[word] for word in ("done", "retried", "snoozed", "dead", "held", "cancelled") if row[word]} for row in rows}
        assert by_label == {
            ("q", "act"): {"done": 2, "retried": 1, "snoozed": 1, "dead": 1, "cancelled": 1},
            ("default", "act"): {"cancelled": 1},
            ("default", "other"): {"held": 1},
        }
    assert facts["failure_rate"] == pytest.approx(3 / 5)
    [mine] = [row for row in facts["last_24_hours"] if row["queue"] == "q"]
    assert 0 < mine["p50"] <= mine["p95"] <= mine["p99"]
    assert 0 < facts["utilisation"] <= 1


def test_what_is_settled_twice_is_counted_once_and_what_came_late_is_late(store):
    jobs = claimed(store, 6)
    assert store.settle(settlements(jobs[:4])).accepted == 4
    # A replay does not know queue and task, and finds some of the group written before.
    replay = [Settlement(job.id, job.token, outcomes.finish()) for job in jobs]
    assert store.settle(replay).accepted == 6
    assert store.settle(replay).accepted == 6
    assert store.settle(settlements(jobs)).accepted == 6
    assert sums(store) == {"done": 6}
    assert [(row.queue, row.task) for row in store.counters("ever")] == [("default", "act")]
    [one] = claimed(store, 1)
    assert store.settle([Settlement(one.id, token(), outcomes.finish(), one.queue, one.task)]).late == (one.id,)
    assert sums(store) == {"done": 6, "late": 1}
    assert store.settle([Settlement(one.id, token(), outcomes.hold("unknown-task", "x"), one.queue, "anybody's")]).late == (one.id,)
    assert {row.task for row in store.counters("ever")} == {"act", "other"}


def test_a_group_of_which_somebody_cancelled_some_counts_the_others(store):
    jobs = claimed(store, 5)
    store._write("UPDATE asyncsend_jobs SET state = 'cancelled' WHERE id = :id", id=jobs[2].id)
    assert store.settle(settlements(jobs)).late == (jobs[2].id,)
    assert sums(store) == {"done": 4, "late": 1}


@pytest.mark.parametrize("committed", [False, True])
def test_a_lost_reply_to_the_commit_neither_counts_twice_nor_not_at_all(store, committed, monkeypatch):
    jobs, execute, lost = claimed(store, 5), store._execute, []

    def losing(sql, params):
        if sql != "COMMIT" or lost:
            return execute(sql, params)
        lost.append(sql)
        execute("COMMIT" if committed else "ROLLBACK", params)
        raise ConnectionLost("2013: the reply was lost")

    monkeypatch.setattr(store, "_execute", losing)
    assert store.settle(settlements(jobs)).accepted == 5
    assert (lost, sums(store)) == (["COMMIT"], {"done": 5})


def test_a_row_that_cannot_be_written_is_counted_as_held(store):
    jobs = claimed(store, 3)
    store._write("UPDATE asyncsend_jobs SET unique_key = 'k', unique_slot = NULL WHERE id = :id", id=jobs[1].id)
    store.insert([NewJob("act", "{}", "holder", unique_key="k")])
    assert store.settle(settlements(jobs, outcomes.retry(5, "why", "words"))).accepted == 3
    assert sums(store) == {"retried": 2, "held": 1}


def test_after_many_kills_the_counters_say_what_the_rows_say(shop):
    chance = random.Random(20261121)
    effects = shop.home / "effects"
    for number in range(160):
        shop.insert("act", json.dumps({"how": ("done", "done", "done", "snooze", "bury")[number % 5], "seconds": 0.002, "name": "x"}), queue=f"q{number % 2}")
    for _ in range(8):
        run = shop.start("run")
        target = len(effects.read_bytes() if effects.exists() else b"") + 2 * chance.randrange(30)
        eventually(lambda: (effects.exists() and effects.stat().st_size >= target) or run.poll() is not None, what="some jobs")
        run.kill()
        run.communicate()
    for _ in range(2):
        shop.quiet("run")
    store = shop.store()
    by_state = dict(store._rows("SELECT state, COUNT(*) FROM asyncsend_jobs GROUP BY state"))
    assert by_state.pop("ready", 0) == 32
    for span in ("hour", "ever"):
        counted = {"done": 0, "dead": 0, "snoozed": 0} | sums(store, span)
        assert {word: counted[word] for word in ("done", "dead", "snoozed")} == {"done": by_state["done"], "dead": by_state["dead"], "snoozed": 32}
    assert sum(by_state.values()) == 128
    store.close()


def test_two_hosts_may_write_the_same_counters_at_once(mysql_url):
    made_store(mysql_url).close()
    troubles = []

    def host(number: int) -> None:
        from asyncsend.store import open_store

        store = open_store(mysql_url, "asyncsend_")
        try:
            for _ in range(15):
                jobs = [job for queue in ("a", "b", "c") for job in claimed(store, 2, queue=queue) if job]
                store.settle(settlements(jobs if number else jobs[::-1]))
        except BaseException as error:
            troubles.append(error)
        store.close()

    threads = [threading.Thread(target=host, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = made_store(mysql_url)
    done = store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE state = 'done'")[0][0]
    assert (troubles, sums(store)) == ([], {"done": done})
    store.close()


def test_labels_are_bounded_whatever_rows_say(store, monkeypatch):
    monkeypatch.setattr(statements, "MOST_LABELS", 5)
    jobs = claimed(store, 12)
    named = [Settlement(job.id, job.token, outcomes.finish(), "q\x1b\n", f"t{number}" + "ü😀" * 60) for number, job in enumerate(jobs)]
    store.settle(named)
    rows = store.counters("ever")
    assert len(rows) == 6
    assert {(row.queue, row.task): row.counts["done"] for row in rows}["other", "other"] == 7
    assert all(row.queue.isprintable() for row in rows)
    assert list(text_string_to_metric_families(metrics.prometheus(metrics.collect(store))))


def test_hours_and_days_are_pruned_and_totals_never(store, clock):
    clock.set(1_800_000_000.0)
    for _ in range(3):
        store.settle(settlements(claimed(store, 1)))
        clock.forward(200 * 86400)
    store.prune_others(1e9, 1e9, 100)
    spans = dict(store._rows("SELECT span, COUNT(*) FROM asyncsend_counters GROUP BY span"))
    assert spans == {"day": 1, "ever": 1}
    assert sums(store) == {"done": 3}


def test_a_bucket_begins_with_the_hour_of_the_database(store, clock):
    clock.set(1_800_003_599.0)  # a second before the hour
    store.settle(settlements(claimed(store, 1)))
    clock.forward(2)
    store.settle(settlements(claimed(store, 2)))
    assert sums(store, "hour") == {"done": 2}
    assert sum(row.counts["done"] for row in store.counters("hour", 3600.0)) == 3


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def histogram(*seconds: float) -> list[int]:
    from bisect import bisect_left

    found = [0] * (len(BOUNDS) + 1)
    for one in seconds:
        found[bisect_left(BOUNDS, one)] += 1
    return found


def test_a_percentile_is_never_further_off_than_its_bucket():
    chance = random.Random(7)
    for _ in range(200):
        real = sorted(chance.lognormvariate(-3, 2) for _ in range(chance.randrange(1, 300)))
        for percent in (50, 95, 99):
            exact = real[max(0, -(-len(real) * percent // 100) - 1)]
            said = metrics.percentile(histogram(*real), percent)
            assert exact / 2 <= said <= max(0.001, exact * 2) or exact > BOUNDS[-1]
    assert metrics.percentile(histogram(), 50) is None
    assert metrics.percentile(histogram(10_000.0), 50) == BOUNDS[-1]


def test_failures_are_attempts_that_were_charged():
    counts = dict.fromkeys(("done", "retried", "snoozed", "dead", "held", "cancelled", "released", "late"), 1)
    assert metrics.failure_rate([Counted("q", "t", counts, 0.0, ())]) == (0.75, 4)
    assert metrics.failure_rate([]) == (None, 0)


# ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_waits_is_counted_no_further_than_a_bound(store, monkeypatch):
    monkeypatch.setattr(statements, "MOST", 5)
    store.insert([NewJob("act", "{}", f"due{number}", priority=number % 3) for number in range(9)])
    store.insert([NewJob("act", "{}", f"later{number}", delay=60) for number in range(4)])
    [depth] = store.depth()
    assert (depth.due, depth.later, depth.jobs) == (6, 4, 6)


def test_priorities_beyond_those_that_are_looked_at_are_counted_too(store, monkeypatch):
    monkeypatch.setattr(statements, "PRIORITIES", 3)
    store.insert([NewJob("act", "{}", f"u{number}", priority=number) for number in range(7)])
    [depth] = store.depth()
    assert (depth.jobs, depth.due + depth.later) == (7, 7)


def test_reasons_are_found_among_a_crowd_of_others(store):
    store.insert([NewJob("act", "{}", f"old{number}") for number in range(400)])
    store.insert([NewJob("act", "{}", f"far{number}", delay=86400) for number in range(400)])
    for job, outcome in zip(claimed(store, 2, queue="mail"), (outcomes.snooze(300, "smtp-login"), outcomes.retry(5, "x", "y")), strict=True):
        store.settle(settlements([job], outcome))
    [one] = claimed(store, 1, priority=1)
    store.settle(settlements([one], outcomes.snooze(300, "sms-account")))
    [again] = claimed(store, 1, queue="default")
    store.settle(settlements([again], outcomes.retry(0, "due-again", "y")))
    store._write("UPDATE asyncsend_jobs SET run_at = NOW(6) WHERE id = :id", id=again.id)
    assert store.waiting() == {"smtp-login": 1, "x": 1, "sms-account": 1, "due-again": 1}


def test_finished_rows_are_not_looked_at(store):
    store.settle(settlements(claimed(store, 3)))
    assert store.depth() == []
    store.settle(settlements(claimed(store, 2), outcomes.bury("x", "y")))
    assert [(depth.state, depth.jobs) for depth in store.depth()] == [(State.DEAD, 2)]


# ── Prometheus ───────────────────────────────────────────────────────────────────────────────────────────────────────


def samples(text: str) -> dict[tuple, float]:
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_text_is_what_prometheus_reads_and_its_totals_only_grow(shop):
    shop.insert("act", "{}", queue='quo"te\\')
    shop.quiet("run")
    shop.insert("act", "{}", run_at="2036-01-01 00:00:00")
    first = samples(shop("metrics").stdout)
    labels = (("queue", 'quo"te\\'), ("task", "act"))
    assert first["asyncsend_outcomes_total", ("outcome", "done"), *labels] == 1
    assert first["asyncsend_duration_seconds_count", *labels] == 1
    assert first["asyncsend_duration_seconds_bucket", ("le", "+Inf"), *labels] == 1
    assert first["asyncsend_jobs", ("queue", "default"), ("state", "later")] == 1
    assert first[("asyncsend_runs_total",)] == 1
    shop.sql("DELETE FROM asyncsend_jobs")
    shop.insert("act", "{}", queue='quo"te\\')
    shop.quiet("run")
    after = samples(shop("metrics").stdout)
    growing = {name for name in first if name[0].endswith(("_total", "_bucket", "_count", "_sum"))}
    assert {name for name in growing if after[name] < first[name]} == set()
    assert after["asyncsend_outcomes_total", ("outcome", "done"), *labels] == 2


def test_the_textfile_is_whole_and_new_after_a_run_that_had_work_and_only_touched_after_one_that_had_none(lite):
    lite.tasks(TASKS)
    path = lite.home / "x.prom"
    lite.environment["ASYNCSEND_METRICS_FILE"] = str(path)
    lite.insert("act")
    lite.quiet("run")
    assert samples(path.read_text())[("asyncsend_running",)] == 0
    assert path.stat().st_mode & 0o777 == 0o644
    path.write_text("as it was\n")
    os.utime(path, (1, 1))
    lite.quiet("run")
    assert path.read_text() == "as it was\n"
    assert path.stat().st_mtime > 1
    assert [one.name for one in lite.home.glob("x.prom*")] == ["x.prom"]


def test_a_textfile_that_cannot_be_written_is_a_line_in_the_log(lite):
    lite.tasks(TASKS)
    lite.environment["ASYNCSEND_METRICS_FILE"] = str(lite.home / "no" / "such" / "folder" / "x.prom")
    lite.insert("act")
    lite.quiet("run")
    assert lite.rows("state") == [("done",)]
    assert "event=metrics-failed" in lite.log()
