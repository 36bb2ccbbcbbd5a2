"""Batches: what belongs together, how far it is, and what follows; real runs on both databases, some of them killed."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from parts import eventually

from asyncsend import batch, batches, enqueue, producer
from asyncsend.errors import Conflict, InvalidJob
from asyncsend.job import NewBatch
from asyncsend.store.rows import BatchRow

TASKS = """
import os, time
from asyncsend import task, Backoff, enqueue
HERE = os.path.dirname(os.path.abspath(__file__))

def note(line):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(line + "\\n")

@task
def mark(name, seconds=0):
    note(name)
    time.sleep(seconds)

@task(max_attempts=1)
def fail(name):
    note(name)
    raise ValueError(name)

@task
def grow(name, uid):
    note(name)
    enqueue("mark", {"name": name + "-child"}, batch=uid)
"""


@pytest.fixture
def shop(site, monkeypatch):
    site.tasks(TASKS)
    for name, value in site.environment.items():
        if name.startswith("ASYNCSEND_"):
            monkeypatch.setenv(name, value)
    return site


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


def shown(site, ref) -> dict:
    return json.loads(site("batch", "show", ref, "--json").stdout)


def test_then_follows_once_when_every_job_is_through_and_in_the_same_minute(shop):
    with batch("november", then=("mark", {"name": "then"}), catch=("mark", {"name": "catch"}), finally_=("mark", {"name": "finally"})) as one:
        one.enqueue_many("mark", [{"name": f"j{number}"} for number in range(20)])
    assert shown(shop, "november")["progress"] == 0
    shop.quiet("run")
    assert sorted(effects(shop)) == sorted([*(f"j{number}" for number in range(20)), "then", "finally"])
    assert set(effects(shop)[-2:]) == {"then", "finally"}
    found = shown(shop, one.uid)
    assert (found["progress"], found["total"], found["left"], found["counts"]["done"]) == (100, 20, 0, 20)
    shop.quiet("run")
    assert len(effects(shop)) == 22


def test_the_first_dead_job_is_caught_once_and_failures_are_allowed(shop):
    with batch("b", then=("mark", {"name": "then"}), catch=("mark", {"name": "catch"})) as one:
        one.enqueue_many("fail", [{"name": "f1"}, {"name": "f2"}])
        one.enqueue("mark", {"name": "fine"})
    shop.quiet("run")
    assert sorted(effects(shop)) == ["catch", "f1", "f2", "fine", "then"]
    assert shown(shop, "b")["counts"]["dead"] == 2


def test_where_failures_are_not_allowed_the_first_stops_the_rest_and_only_finally_follows(shop):
    with batch("b", then=("mark", {"name": "then"}), catch=("mark", {"name": "catch"}), finally_=("mark", {"name": "finally"}), allow_failures=False) as one:
        one.enqueue("fail", {"name": "f1"}, priority=1)
        one.enqueue("mark", {"name": "later"}, delay=3600)
    shop.quiet("run")
    assert sorted(effects(shop)) == ["catch", "f1", "finally"]
    assert shown(shop, "b")["counts"] == {"ready": 0, "running": 0, "done": 0, "dead": 1, "held": 0, "cancelled": 1}
    assert shop.rows("reason", "state = 'cancelled'") == [("batch-cancelled",)]


def test_a_batch_is_not_through_while_jobs_are_being_added(shop):
    with batch("b", then=("mark", {"name": "then"})) as one:
        one.enqueue("mark", {"name": "first"})
        shop.quiet("run")
        assert effects(shop) == ["first"]
        assert shown(shop, "b")["progress"] < 100
        one.enqueue("mark", {"name": "second"})
    shop.quiet("run")
    assert effects(shop) == ["first", "second", "then"]


def test_jobs_added_by_a_job_of_the_batch_belong_to_it(shop):
    with batch("b", then=("mark", {"name": "then"})) as one:
        one.enqueue("grow", {"name": "root", "uid": one.uid})
    shop.quiet("run")
    assert effects(shop) == ["root", "root-child", "then"]
    assert shown(shop, "b")["total"] == 2


def test_an_exception_in_the_block_cancels_what_has_not_started(shop):
    with pytest.raises(ZeroDivisionError), batch("b", then=("mark", {"name": "then"})) as one:
        one.enqueue("mark", {"name": "never"})
        1 / 0
    shop.quiet("run")
    assert effects(shop) == []
    assert shown(shop, "b")["counts"]["cancelled"] == 1


def test_cancelling_says_how_many_asks_and_leaves_what_runs(shop):
    with batch("b", then=("mark", {"name": "then"}), finally_=("mark", {"name": "finally"})) as one:
        one.enqueue("mark", {"name": "slow", "seconds": 1})
        one.enqueue_many("mark", [{"name": f"j{number}"} for number in range(5)], delay=600)
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the slow job")
    assert shop("batch", "cancel", "b", "--dry-run").stdout == f"Would: cancel 5 waiting jobs of the batch {one.uid}\n"
    assert "5 jobs" in shop("batch", "cancel", "b", "--yes").stderr
    run.communicate(timeout=60)
    shop.quiet("run")
    assert effects(shop) == ["slow", "finally"]
    assert shop("batch", "cancel", "nobody", "--yes", code=None).returncode != 0


def test_a_batch_in_plain_sql_is_followed_too_and_a_follower_that_cannot_be_made_is_named(shop):
    shop.sql("INSERT INTO asyncsend_batches (uid, name, then_job, finally_job) VALUES ('b', 'by hand', '{\"task\":\"mark\",\"payload\":{\"name\":\"then\"}}', '{broken')")
    shop.insert("mark", '{"name":"a"}', batch_id="b")
    shop.quiet("run")
    assert effects(shop) == ["a", "then"]
    assert "finally_job cannot be added" in shown(shop, "b")["reason"]
    assert shown(shop, "b")["progress"] == 100


def test_in_the_apps_own_transaction_batch_and_jobs_exist_if_and_only_if_it_commits(shop):
    if shop.url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(shop.url.removeprefix("sqlite:///").replace("//", "/"))
    else:
        import pymysql

        from asyncsend.store.mysql import connect_options

        connection = pymysql.connect(**connect_options(shop.url))
    for end in (connection.rollback, connection.commit):
        with batch("b", then=("mark", {"name": "then"}), connection=connection) as one:
            one.enqueue_many("mark", [{"name": "a"}, {"name": "b"}])
        end()
        shop.quiet("run")
    connection.close()
    assert sorted(effects(shop)) == ["a", "b", "then"]
    assert len(json.loads(shop("batch", "list", "--json").stdout)) == 1


def test_then_follows_exactly_once_and_progress_never_goes_back_however_runs_are_killed(shop):
    chance = random.Random(20261121)
    with batch("b", then=("mark", {"name": "then"}), push="private-b") as one:
        one.enqueue_many("mark", [{"name": f"j{number}", "seconds": 0.002} for number in range(150)])
    percents = []
    for _ in range(8):
        run = shop.start("run")
        target = len(effects(shop)) + chance.randrange(30)
        eventually(lambda: len(effects(shop)) >= target or run.poll() is not None, what="some jobs")
        run.kill()
        run.communicate()
        percents.append(shown(shop, "b")["progress"])
    for _ in range(3):
        shop.quiet("run")
        percents.append(shown(shop, "b")["progress"])
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert effects(shop).count("then") == 1
    assert [uid for (uid,) in shop.rows("uid") if uid.endswith(":then")] == [f"{one.uid}:then"]
    told = [int(uid.rpartition(":")[2]) for (uid,) in shop.rows("uid", "task = 'pusher'")]
    assert told == sorted(set(told))
    assert told[-1] == 100
    assert shown(shop, "b")["counts"]["done"] == 150


def test_what_is_pruned_still_counts(store, clock):
    clock.set(1_800_000_000.0)
    store.add_batch(NewBatch("b", "b"), sealed=True)
    jobs = [producer.new_job("mark", {}, batch="b", queue="default") for _ in range(10)]
    store.insert(jobs)
    claimed = store.claim(["default"], 10, "1" * 32, 1)
    from asyncsend import outcome as outcomes
    from asyncsend.outcome import Settlement

    store.settle([Settlement(job.id, job.token, outcomes.finish()) for job in claimed[:7]])
    clock.forward(8 * 86400)
    assert store.prune(7 * 86400, 90 * 86400, 500) == 7
    row = store.batch("b")
    assert (row.counts["done"], row.counts["running"]) == (7, 3)
    assert batches.progress(row).total == 10


def test_two_batches_of_one_uid_and_names_and_uids_that_cannot_be_are_refused(shop):
    with batch("b", uid="same"):
        pass
    with pytest.raises(Conflict, match="same"), batch("c", uid="same"):
        pass
    with pytest.raises(InvalidJob, match="at most 55"), batch("c", uid="x" * 56):
        pass
    with pytest.raises(InvalidJob, match="191"), batch("ä" * 100):
        pass
    with pytest.raises(InvalidJob), batch("c", then=("no task!", {})):
        pass


BORN = datetime(2026, 11, 21, tzinfo=UTC)
COUNTS = dict.fromkeys(("ready", "running", "done", "dead", "held", "cancelled"), 0)


def row(shown=0, finished=None, **counts) -> BatchRow:
    return BatchRow("b", "b", True, BORN, BORN, BORN, None, None, finished, shown, COUNTS | counts, None, BORN + timedelta(hours=1))


@pytest.mark.parametrize(
    ("given", "percent", "per_hour", "eta"),
    [
        (row(), 0, None, None),
        (row(ready=3, done=1), 25, 1.0, timedelta(hours=3)),
        (row(ready=1, done=999), 99, 999.0, timedelta(hours=1) / 999),
        (row(done=10), 99, 10.0, timedelta(0)),  # until a run has noted it
        (row(done=9, dead=1, finished=BORN), 100, None, None),
        (row(shown=50, ready=90, done=10), 50, 10.0, timedelta(hours=9)),  # it grew: what was shown stays
    ],
)
def test_progress_is_what_is_through_and_never_less_than_was_shown(given, percent, per_hour, eta):
    found = batches.progress(given)
    assert (found.percent, found.eta) == (percent, eta)
    assert found.per_hour == (None if per_hour is None else pytest.approx(per_hour))


def test_an_empty_minute_asks_nothing_about_batches_that_are_finished_or_still_being_made(store):
    store.add_batch(NewBatch("b", "b"), sealed=False)
    assert not store.standing("default").open_batches
    store.seal_batch("b")
    assert store.standing("default").open_batches
    store.finish_batch("b", [], None, owner_of(store))
    assert not store.standing("default").open_batches


def owner_of(store, owner="a" * 32) -> str:
    assert store.take("default", store.standing("default"), owner, "lock", "host", 1, 120)
    return owner


def test_a_run_that_lost_the_status_row_changes_nothing_of_a_batch(store, log):
    lost, present = owner_of(store, "a" * 32), owner_of(store, "b" * 32)
    follower = '{"task":"mark"}'
    store.add_batch(NewBatch("b", "b", False, follower, follower, follower), sealed=True)
    store.insert([producer.new_job("mark", {}, batch="b") for _ in range(3)])
    store._write("UPDATE asyncsend_jobs SET state = 'dead', unique_slot = NULL, finished_at = NOW(6) WHERE id = (SELECT id FROM (SELECT MIN(id) AS id FROM asyncsend_jobs) x)")
    before = store.batch("b")._replace(now=BORN)
    assert batches.look_after(store, lost, log, lambda: None) == 0
    assert store.batch("b")._replace(now=BORN) == before
    assert batches.look_after(store, present, log, lambda: None) == 2
    assert store.batch("b").counts == COUNTS | {"dead": 1, "cancelled": 2}
    assert store.batch("b").finished_at is not None


def test_no_batch_is_overlooked_however_many_are_open(store, log, monkeypatch):
    monkeypatch.setattr(batches, "PAGE", 3)
    owner = owner_of(store)
    for number in range(10):
        store.add_batch(NewBatch(f"b{number}", "b", then_job='{"task":"mark"}'), sealed=True)
    store.insert([producer.new_job("mark", {}, batch=f"b{number}") for number in range(9)])
    assert batches.look_after(store, owner, log, lambda: None) == 1
    assert store.batch("b9").finished_at is not None


def test_enqueue_takes_a_batch_or_its_uid(shop):
    with batch("b") as one:
        enqueue("mark", {"name": "a"}, batch=one)
        enqueue("mark", {"name": "b"}, batch=one.uid)
    assert shown(shop, "b")["total"] == 2


def test_a_batch_named_on_the_command_line_is_one_and_open_until_every_line_is_in(shop, tmp_path):
    (tmp_path / "t.json").write_text('{"name":"{{name}}"}')
    (tmp_path / "r.csv").write_text("name\n" + "".join(f"n{number}\n" for number in range(30)))
    shop("enqueue", "mark", f"@{tmp_path}/t.json", "--each", str(tmp_path / "r.csv"), "--batch", "november")
    shop("enqueue", "mark", '{"name":"one more"}', "--batch", "november")
    assert shown(shop, "november")["total"] == 31
    shop.quiet("run")
    found = shown(shop, "november")
    assert (found["progress"], found["left"], found["counts"]["done"]) == (100, 0, 31)
    assert found["sealed_at"] is not None


MARK = '{"name":"a"}'


def terms(shop):
    return shop.store().batch_terms("night")


def test_quiet_hours_and_deadline_of_an_open_batch_are_changed_by_the_next_call_which_says_so(shop):
    add = ("enqueue", "mark", MARK, "--batch", "night")
    shop(*add, "--quiet", "21:00-09:00", "--deadline", "2036-12-01 18:00")
    assert shop(*add, "--quiet", "21:00-09:00", "--deadline", "2036-12-01 18:00").stderr == shop(*add).stderr, "the same again is no news"
    said = shop(*add, "--quiet", "22:00-07:00").stderr
    assert "The batch night is quiet 22:00-07:00 now, no longer 21:00-09:00" in said
    assert "deadline" not in said
    assert "has its deadline at 2036-12-02 " in shop(*add, "--deadline", "2036-12-02 18:00").stderr
    before, finished = terms(shop)
    assert (before.quiet, finished) == ("22:00-07:00", False)
    assert len(shop.rows()) == 5


@pytest.mark.parametrize("each", [False, True])
def test_what_cannot_be_changed_any_more_is_refused_before_anything_is_added(shop, tmp_path, each):
    (tmp_path / "to.csv").write_text("name\na\n", "utf-8")
    add = ("enqueue", "mark", MARK, "--batch", "night", *(("--each", str(tmp_path / "to.csv")) if each else ()))
    shop(*add, "--then", "mark", MARK)
    rows = len(shop.rows())
    other = MARK.replace("a", "b")
    assert "with another --then" in shop(*add, "--then", "mark", other, code=2).stderr
    assert "with another --catch or none" in shop(*add, "--catch", "mark", MARK, code=2).stderr
    shop.sql("UPDATE asyncsend_batches SET finished_at = NOW(6)")
    assert "the batch night is finished" in shop(*add, "--quiet", "22:00-07:00", code=2).stderr
    assert len(shop.rows()) == rows
    shop(*add, "--then", "mark", MARK)
