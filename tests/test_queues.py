"""Queues: reserve shares, urgent jobs, order keys, concurrency keys, limits of depth; on both databases, real runs among them, some killed."""

import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import Clock, eventually, made_store

from asyncsend import QueueFull, config, enqueue, producer, queues
from asyncsend import outcome as outcomes
from asyncsend.job import Job, NewJob
from asyncsend.outcome import Settlement, State
from asyncsend.queues import Reserve
from asyncsend.run import FIRST_BATCH, LARGEST_BATCH, SETTLE_JOBS
from asyncsend.store import lines
from asyncsend.workers import WINDOW

TASKS = """
import os, time
from asyncsend import task, enqueue, Backoff
HERE = os.path.dirname(os.path.abspath(__file__))

def note(line):
    file = os.open(os.path.join(HERE, "effects"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (line + "\\n").encode())
    os.close(file)

@task(backoff=Backoff(base=0, cap=0))
def mark(name, seconds=0):
    note(name)
    time.sleep(seconds)

@task
def call_for_help(name):
    note(name)
    enqueue("mark", {"name": "urgent"}, queue="critical")

@task(timeout=30, max_attempts=1)
def wait_for_help(name):
    from asyncsend.producer import own_store
    note(name)
    while not own_store().jobs(state="running", queue="critical", task=None, limit=1):
        time.sleep(0.02)

@task
def count_low(name):
    from asyncsend.producer import own_store
    for _ in range(40):
        enqueue("mark", {"name": "low"}, queue="low")
    time.sleep(3)  # the run claims some of these, and looks for urgent jobs several times
    note(str(own_store().count(state="running", queue="low")))

@task(concurrency_key="oven")
def bake(name, seconds=0):
    note("+" + name)
    time.sleep(seconds)
    note("-" + name)
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


tokens = (f"{number:032x}" for number in itertools.count(1))


def claimed(store, limit=10, **options) -> list[Job]:
    return store.claim(queues.in_order(store.ready_queues(), ["critical", "*", "low"]), limit, next(tokens), 1, **options)


def uids(jobs) -> list[str]:
    return [job.uid for job in jobs]


def settle(store, job, outcome=None, **options) -> None:
    assert store.settle([Settlement(job.id, job.token, outcome or outcomes.finish())], **options).accepted == 1


def add(store, *names, **columns) -> None:
    store.insert([NewJob("mark", "{}", name, **columns) for name in names])


def ovens(key):
    return {"oven": 2, "solo": 1}.get(key)


# ── order keys ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_an_order_key_one_job_at_a_time_is_claimed_in_the_order_of_insertion_whatever_priority_and_queue(store):
    add(store, "a1", order_key="a", queue="low")
    add(store, "a2", order_key="a", priority=9)
    add(store, "a3", order_key="a", queue="critical")
    add(store, "b1", "b2", order_key="b")
    add(store, "free")
    got = claimed(store)
    assert uids(got) == ["b1", "free", "a1"]
    assert claimed(store) == []
    for expected in ("a2", "a3"):
        settle(store, next(job for job in got if job.order_key == "a"))
        got = claimed(store)
        assert uids(got) == [expected]


@pytest.mark.parametrize(("outcome", "goes_on"), [
    (outcomes.finish(), True), (outcomes.bury("x", "y"), True), (outcomes.cancel("x"), True),
    (outcomes.retry(60, "x", "y"), False), (outcomes.snooze(60, "x"), False), (outcomes.hold("x", "y"), False), (outcomes.release(crashed=True), None),
])  # fmt: skip
def test_what_is_finished_lets_the_next_go_and_what_will_be_tried_again_does_not(store, outcome, goes_on):
    add(store, "a1", "a2", order_key="a")
    settle(store, claimed(store)[0], outcome, rescue=outcome.crashed)
    assert uids(claimed(store)) == {True: ["a2"], False: [], None: ["a1"]}[goes_on]


def test_a_job_that_is_due_later_keeps_those_behind_it_waiting(store):
    add(store, "a1", order_key="a", delay=60.0)
    add(store, "a2", order_key="a")
    assert claimed(store) == []


def test_a_dead_job_that_a_person_retries_waits_for_the_one_that_is_running_and_goes_before_the_others(store):
    add(store, "a1", "a2", "a3", order_key="a")
    settle(store, claimed(store)[0], outcomes.bury("x", "y"))
    [running] = claimed(store)
    assert store.make_ready(store.find("a1").id, [State.DEAD])
    assert claimed(store) == []
    settle(store, running)
    assert uids(claimed(store)) == ["a1"]


def test_keys_are_compared_byte_for_byte_and_an_empty_one_is_none(store):
    for number, key in enumerate(["K", "k", "k ", "ké", "ke"]):
        add(store, f"j{number}", order_key=key)
    store._write("INSERT INTO asyncsend_jobs (task, payload, uid, order_key, concurrency_key) VALUES ('mark', '{}', 'e1', '', ''), ('mark', '{}', 'e2', '', '')")
    assert len(claimed(store, limit_of=lambda _key: 1)) == 7


def test_a_crowd_behind_a_held_job_steps_aside_once_and_keeps_no_other_job_waiting(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 50)
    add(store, *(f"a{number}" for number in range(160)), order_key="a")
    add(store, "b1", "b2", order_key="b")
    add(store, "free", priority=-1)
    [first] = claimed(store, 1)
    settle(store, first, outcomes.hold("x", "y"))
    found = uids(claimed(store, 4)) + uids(claimed(store, 4))
    assert sorted(found) == ["b1", "free"]
    asked = []
    real = store._execute
    monkeypatch.setattr(store, "_execute", lambda sql, params: asked.append(sql) or real(sql, params))
    assert claimed(store, 4) == []
    assert not [sql for sql in asked if sql.startswith("UPDATE")]
    assert len(asked) < 10
    assert store.make_ready(first.id, [State.HELD])
    for number in range(160):
        [job] = [job for job in claimed(store, 4) if job.order_key == "a"]
        assert job.uid == f"a{number}"
        settle(store, job)


def test_a_crowd_is_moved_aside_a_part_at_a_time_where_the_run_has_other_things_to_do(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 4)
    add(store, *(f"a{number}" for number in range(41)), order_key="a")
    add(store, "free")
    add(store, "low", queue="low")
    assert uids(claimed(store, 1)) == ["a0"]
    assert uids(claimed(store, 2, enough=lambda: True)) == ["low"]
    aside = [store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE lane > ''")[0][0]]
    while not (found := claimed(store, 2, enough=lambda: True)):
        aside.append(store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE lane > ''")[0][0])
    assert uids(found) == ["free"]
    assert aside == list(range(4, 41, 4))


def test_what_stands_aside_goes_on_when_the_job_before_it_is_cancelled_by_command_by_batch_or_by_hand(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 4)
    from asyncsend.job import NewBatch

    store.add_batch(NewBatch("b", "b"), sealed=True)
    by_hand = "UPDATE asyncsend_jobs SET state = 'cancelled' WHERE uid = 'hand0'"  # unique_slot forgotten, as people do
    ways = {"command": lambda: store.cancel(store.find("command0").id, "x"), "batch": lambda: store.cancel_some_of_batch("b", 9), "hand": lambda: store._write(by_hand)}
    for way in ways:
        add(store, f"{way}0", order_key=way, delay=60.0, batch_id="b" if way == "batch" else None)
        add(store, *(f"{way}{number}" for number in range(1, 9)), order_key=way)
    assert claimed(store, 2) == []
    assert store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE lane = ''")[0][0] < 15
    for way, cancel in ways.items():
        assert cancel()
        if way == "hand":
            store.standing("default")  # as the next run begins
        assert uids(claimed(store, 2)) == [f"{way}1"]


def test_the_mark_that_jobs_stand_aside_goes_when_none_does(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 4)
    seen = store.standing("default")
    assert store.aside is False
    assert store.take("default", seen, "a" * 32, "lock", "host", 1, 120)
    add(store, *(f"a{number}" for number in range(9)), order_key="a", concurrency_key="oven")
    for number in range(9):
        [job] = claimed(store, 2, owner="a" * 32, limit_of=ovens)
        assert job.uid == f"a{number}"
        assert claimed(store, 2, owner="a" * 32, limit_of=ovens) == []
        settle(store, job, owner="a" * 32)
    assert store.aside is True
    store.standing("default")
    assert store.aside is True
    add(store, "free", "free2")
    claimed(store, 1, owner="a" * 32)
    store.standing("default")
    assert store.aside is False


def test_a_run_that_lost_the_status_row_moves_no_job_aside_and_comes_to_an_end(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 4)
    add(store, *(f"a{number}" for number in range(9)), order_key="a", concurrency_key="oven")
    claimed(store, 1)
    assert claimed(store, 2, owner="b" * 32, limit_of=ovens) == []
    assert store._rows("SELECT DISTINCT lane FROM asyncsend_jobs") in ([("",)], [(b"",)])


def test_a_claim_that_meets_no_key_asks_nothing_more_and_one_that_does_asks_one_statement_more(store, monkeypatch):
    asked = []
    real = store._execute
    monkeypatch.setattr(store, "_execute", lambda sql, params: asked.append(sql) or real(sql, params))

    def statements(**columns) -> int:
        store._write("DELETE FROM asyncsend_jobs")
        add(store, "one", **columns)
        asked.clear()
        assert len(store.claim(["default"], 1, next(tokens), 1, limit_of=ovens)) == 1
        return len(asked)

    assert statements() == 4  # the highest priority, what is due, the UPDATE, what is ours
    assert statements(order_key="a", concurrency_key="oven") == 5


def test_the_largest_batch_is_claimed_and_settled_by_key_and_never_by_a_table_made_of_its_list(server):
    with server.database() as name:
        store = made_store(server.url(name))
        most = max(LARGEST_BATCH, SETTLE_JOBS)
        for _ in range(3):
            store.insert([producer.new_job("mark", {}) for _ in range(most // 2)])
        plans, execute = [], store._execute

        def explained(sql, params):
            if " IN :" in sql:
                plans.append([row[3] if len(row) == 10 else row[4] for row in execute(f"EXPLAIN {sql}", params)[0] if row[2] == "asyncsend_jobs"])
            return execute(sql, params)

        store._execute = explained
        jobs = store.claim(["default"], most, "a" * 32, 1)
        settled = store.settle([Settlement(job.id, job.token, outcomes.finish(), job.queue, job.task) for job in jobs])
        assert (len(jobs), settled.accepted) == (most, most)
        assert plans == [["range"]] * len(plans) != []
        store.close()


# ── concurrency keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_jobs_of_a_concurrency_key_are_claimed_than_its_limit_and_no_other_job_waits_for_them(store):
    add(store, *(f"o{number}" for number in range(5)), concurrency_key="oven")
    add(store, "s1", "s2", concurrency_key="solo", queue="low")
    add(store, "f1", "f2", concurrency_key="free", queue="low")
    first = claimed(store, limit_of=ovens)
    assert uids(first) == ["o0", "o1", "s1", "f1", "f2"]
    assert claimed(store, limit_of=ovens) == []
    settle(store, first[0], outcomes.retry(60, "x", "y"))
    assert uids(claimed(store, limit_of=ovens)) == ["o2"]
    assert uids(claimed(store, limit_of=lambda key: 4 if key == "oven" else 1)) == ["o3", "o4"]


def test_of_a_crowd_that_stands_aside_the_most_urgent_goes_first_and_a_new_limit_holds_at_once(store, monkeypatch):
    monkeypatch.setattr(lines, "LOOK", 4)
    add(store, *(f"o{number}" for number in range(12)), concurrency_key="oven")
    running = claimed(store, 2, limit_of=ovens)
    assert claimed(store, 2, limit_of=ovens) == []
    add(store, "urgent", concurrency_key="oven", queue="critical")
    add(store, "soon", concurrency_key="oven", priority=5)
    assert claimed(store, 2, limit_of=ovens) == []
    settle(store, running[0])
    assert uids(claimed(store, 2, limit_of=ovens)) == ["urgent"]
    settle(store, running[1])
    assert uids(claimed(store, 2, limit_of=ovens)) == ["soon"]
    store.standing("default")
    more = claimed(store, 6, limit_of=lambda _key: 5)
    assert uids(more) == ["o2", "o3", "o4"]
    left = []
    for _ in range(2):  # no limit any more: runs let them go, LOOK at a time
        store.standing("default")
        left += uids(claimed(store, 20))
    assert left == [f"o{number}" for number in range(5, 12)]


# ── both, against a model, with kills ────────────────────────────────────────────────────────────────────────────────


@given(seed=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_added_killed_held_cancelled_or_retried_no_key_overlaps_and_every_line_moves_on(tmp_path_factory, seed):
    clock = Clock()
    store = made_store(f"sqlite:///{tmp_path_factory.mktemp('lines')}/x.sqlite3", clock)
    clock.set(1_800_000_000)
    store._execute("PRAGMA synchronous = OFF", {})
    chance, look, lines.LOOK = random.Random(seed), lines.LOOK, 3
    try:
        play(store, clock, chance)
    finally:
        lines.LOOK = look
        store.close()


def play(store, clock, chance) -> None:
    running: dict[int, Job] = {}

    def claim(limit):
        for job in claimed(store, limit, limit_of=ovens):
            running[job.id] = job
            check(job)

    def check(job) -> None:
        if job.order_key:
            unfinished = store._rows("SELECT id FROM asyncsend_jobs WHERE order_key = :key AND (state = 'running' OR (id < :id AND state IN ('ready', 'held')))", key=job.order_key, id=job.id)
            assert unfinished == [(job.id,)]
        for key, most in (("oven", 2), ("solo", 1)):
            assert store.running_of(key) <= most

    def end(job, outcome) -> None:
        settle(store, running.pop(job.id), outcome)

    names = (f"j{number}" for number in itertools.count())
    for _ in range(60):
        match chance.choice(["add", "add", "claim", "claim", "claim", "end", "end", "end", "kill", "person", "time", "run"]):
            case "add":
                keys = {"order_key": chance.choice([None, "a", "b"]), "concurrency_key": chance.choice([None, "oven", "solo", "free"])}
                some = [next(names) for _ in range(chance.choice([1, 1, 3, 12]))]
                add(store, *some, **keys, queue=chance.choice(["critical", "default", "low"]), priority=chance.choice([0, 0, 7]), delay=chance.choice([None, None, 30.0]))
            case "claim":
                claim(chance.choice([1, 2, 4]))
            case "end" if running:
                end(chance.choice(list(running.values())), chance.choice([outcomes.finish(), outcomes.finish(), outcomes.retry(20, "x", "y"), outcomes.bury("x", "y"), outcomes.hold("x", "y"), outcomes.release()]))
            case "kill":  # the next run begins: it rescues, and knows nothing
                for job in store.running(100):
                    settle(store, job, outcomes.release(crashed=True, reason="run-died"), rescue=True)
                running.clear()
                store.standing("default")
            case "person":
                job = chance.choice(store.jobs(state=None, queue=None, task=None, limit=50) or [None])
                if job and chance.random() < 0.5:
                    store.cancel(job.id, "by-command")
                elif job:
                    store.make_ready(job.id, [State.DEAD, State.HELD, State.CANCELLED])
            case "time":
                clock.forward(chance.choice([5, 25]))
            case "run":
                store.standing("default")
    for _ in range(400):  # and now everything ends well
        clock.forward(10)
        for job in store.jobs(state="held", queue=None, task=None, limit=50):
            store.cancel(job.id, "by-command")
        claim(4)
        for job in list(running.values()):
            end(job, outcomes.finish())
        if not store.count(state="ready", queue=None, task=None):
            return
    raise AssertionError(f"a line does not move on: {store._rows('SELECT id, order_key, concurrency_key, lane FROM asyncsend_jobs WHERE unique_slot = 0')}")


# ── real runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_runs_and_workers_start_the_jobs_of_an_order_key_one_after_the_other(shop):
    for number in range(8):
        enqueue("mark", {"name": f"a{number}", "seconds": 0.1 if number in (2, 5) else 0}, order_key="a")
        enqueue("mark", {"name": f"b{number}"}, order_key="b")
    for slow in ("a2", "a5"):
        run = shop.start("run", "--workers", "2")
        eventually(lambda slow=slow: slow in effects(shop), what=slow)
        run.kill()
        run.communicate()
    shop.quiet("run", "--workers", "3")
    for key in "ab":
        seen = [name for name in effects(shop) if name[0] == key]
        assert sorted(seen, key=lambda name: int(name[1:])) == seen
        assert {f"{key}{number}" for number in range(8)} == set(seen)
    assert set(shop.rows("state")) == {("done",)}


def test_workers_of_killed_runs_never_execute_more_jobs_of_a_key_than_its_limit(shop):
    shop.environment["ASYNCSEND_CONCURRENCY"] = "ov*:2"
    shop.tasks(TASKS)
    for number in range(8):
        shop.insert("bake", json.dumps({"name": str(number), "seconds": 0.05}), concurrency_key="oven")
    run = shop.start("run", "--workers", "4")
    eventually(lambda: len(effects(shop)) > 2, what="two in the oven")
    run.kill()
    run.communicate()
    (shop.home / "effects").unlink()
    shop.quiet("run", "--workers", "4")
    inside = list(itertools.accumulate(1 if line[0] == "+" else -1 for line in effects(shop)))
    assert max(inside) == 2
    assert set(shop.rows("state")) == {("done",)}


def test_an_urgent_job_waits_for_what_the_workers_hold_and_for_one_batch_at_most(shop):
    rows = ", ".join(f"('{'call_for_help' if number == 1700 else 'mark'}', '{{\"name\":\"n{number}\"}}')" for number in range(3000))
    shop.sql(f"INSERT INTO asyncsend_jobs (task, payload) VALUES {rows}")
    shop.quiet("run")
    seen = effects(shop)
    assert len(seen) == 3001
    assert 0 < seen.index("urgent") - seen.index("n1700") <= LARGEST_BATCH + WINDOW


def test_an_urgent_job_goes_before_those_that_a_worker_holds_and_has_not_begun(shop):
    """The job that waits for help ends only when the urgent one is claimed; by then its worker holds all forty behind it."""
    names = ["quick"] * 12 + ["call_for_help", "wait_for_help"] + ["slow"] * 40
    for name in names:
        shop.insert(name if "help" in name else "mark", json.dumps({"name": name, **({"seconds": 0.05} if name == "slow" else {})}))
    shop.quiet("run")
    assert effects(shop).index("urgent") < effects(shop).index("wait_for_help") + 20
    assert sorted(effects(shop)) == sorted([*names, "urgent"])


def test_a_look_for_urgent_jobs_claims_nothing_of_the_last_queue_for_its_share(shop):
    """A future job in `critical` is enough for such looks; at each of them more of `low` came into hand, and was begun by nobody."""
    shop.environment["ASYNCSEND_QUEUES"] = "critical,default,low:90%"
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, queue, run_at) VALUES ('mark', '{}', 'critical', FROM_UNIXTIME(2000000000))")
    shop.insert("count_low", '{"name": ""}')
    shop.quiet("run")
    assert int(effects(shop)[0]) <= 3 * FIRST_BATCH, "a batch, and the next, of twice its size at most, which is claimed when half of the first is begun"


def test_the_last_queue_gets_its_share_while_the_first_is_full(shop):
    shop.environment["ASYNCSEND_QUEUES"] = "critical,default,low:10%"
    rows = ", ".join(f"('mark', '{{\"name\":\"{queue}\"}}', '{queue}')" for queue in ["critical"] * 300 + ["low"] * 50)
    shop.sql(f"INSERT INTO asyncsend_jobs (task, payload, queue) VALUES {rows}")
    shop.quiet("run", "--max-jobs", "200")
    started = effects(shop)
    assert started.count("low") == 20
    assert all(started[place : place + 10].count("low") == 1 for place in range(0, 200, 10))


def test_runs_that_start_one_job_each_keep_the_share_over_many_runs():
    starts = [(Reserve(["critical", "low:10%"], generation), [Job(1, "t", "{}", queue="critical"), Job(2, "t", "{}", queue="low")]) for generation in range(50)]
    first = [reserve.spread(jobs)[0].queue for reserve, jobs in starts if reserve.wanted(["critical", "low"], 1) or True]
    assert first.count("low") == 5


@given(st.lists(st.tuples(st.integers(1, 60), st.lists(st.sampled_from(["critical", "default", "low"]), max_size=20)), max_size=12), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_of_any_jobs_started_the_shares_were_of_their_queues_while_they_had_any(batches, generation):
    reserve = Reserve(["critical", "default:25%", "low:10%"], generation)
    due: dict[str, list[Job]] = {"critical": [], "default": [], "low": []}
    ids = itertools.count(1)
    since = dict.fromkeys(due, 0)
    for number, arrivals in batches:
        for queue in arrivals:
            due[queue].append(Job(next(ids), "t", "{}", queue=queue))
        batch: list[Job] = []  # as the store claims
        for names, share in reserve.wanted(list(due), number):
            for name in names:
                batch += due[name][: min(share, number - len(batch))]
        for name in due:
            batch += [job for job in due[name] if job not in batch][: number - len(batch)]
        had = {queue: len(jobs) for queue, jobs in due.items()}
        started = reserve.spread(batch)
        assert sorted(started, key=lambda job: job.id) == sorted(batch, key=lambda job: job.id)
        for job in started:
            for queue, share in (("default", 25), ("low", 10)):
                since[queue] = 0 if job.queue == queue or not had[queue] else since[queue] + 1
                assert since[queue] < 100 // share + 1, f"{queue} had due jobs, and none of the last {since[queue]} was of it"
            had[job.queue] -= 1
            due[job.queue].remove(job)


# ── depth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_takes_no_more_from_python_and_the_command_line_and_says_so(shop, monkeypatch):
    shop.environment["ASYNCSEND_MAX_DEPTH"] = "news*:3"
    monkeypatch.setenv("ASYNCSEND_MAX_DEPTH", "news*:3")
    enqueue("mark", {"name": "a"}, queue="newsletter")
    with pytest.raises(QueueFull, match="3 more jobs do not fit into queue newsletter"):
        producer.enqueue_many("mark", [{"name": str(number)} for number in range(3)], queue="newsletter")
    assert len(producer.enqueue_many("mark", [{"name": "b"}, {"name": "c"}], queue="newsletter")) == 2
    refused = shop("enqueue", "mark", '{"name":"d"}', "--queue", "newsletter", code=1)
    assert "may have 3 (ASYNCSEND_MAX_DEPTH)" in refused.stderr
    enqueue("mark", {"name": "e"})
    shop.insert("mark", '{"name":"f"}', queue="newsletter")  # nobody can refuse a plain INSERT
    assert len(shop.rows(where="queue = 'newsletter'")) == 4
    assert "Queue newsletter holds 4 ready jobs, and may hold 3" in shop("status").stdout
    shop.quiet("run")
    enqueue("mark", {"name": "g"}, queue="newsletter")


def test_a_full_queue_refuses_what_comes_through_the_apps_own_connection(lite, monkeypatch):
    for name, value in {**lite.environment, "ASYNCSEND_MAX_DEPTH": "*:1"}.items():
        monkeypatch.setenv(name, value) if name.startswith("ASYNCSEND_") else None
    with sqlite3.connect(lite.url.removeprefix("sqlite:///").replace("//", "/")) as connection:
        enqueue("email", {}, connection=connection, order_key="ké")
        with pytest.raises(QueueFull):
            enqueue("email", {}, connection=connection)
    connection.close()
    assert lite.rows("order_key") == [("ké",)]


# ── what people see ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_why_names_the_job_before_it_the_limit_that_is_reached_and_the_pause(shop):
    shop.environment["ASYNCSEND_CONCURRENCY"] = "oven:1"
    for uid in ("first", "second"):
        shop("enqueue", "mark", '{"name":"x"}', "--uid", uid, "--order-key", "customer 7", "--concurrency-key", "oven")
    shop("enqueue", "mark", '{"name":"x"}', "--uid", "third", "--concurrency-key", "oven")
    shown = json.loads(shop("job", "second", "--json").stdout)
    assert (shown["order_key"], shown["concurrency_key"]) == ("customer 7", "oven")
    assert "waits behind job first (ready) of the same order key 'customer 7'" in shop("why", "second").stdout
    shop.sql("UPDATE asyncsend_jobs SET state = 'held' WHERE uid = 'first'")
    assert "first (held) of the same order key 'customer 7': `asyncsend release first` lets it go" in shop("why", "second").stdout
    shop.sql("UPDATE asyncsend_jobs SET state = 'running' WHERE uid = 'first'")
    assert "waits behind job first (running)" in shop("why", "second").stdout
    assert "1 of at most 1 jobs of its concurrency key 'oven' are running" in shop("why", "third").stdout
    shop("pause", "default", "--for", "2h")
    assert "its queue default is paused until" in shop("why", "third").stdout


def test_a_pause_with_a_time_is_over_when_the_time_is(store, clock):
    clock.set(1_800_000_000)
    store.pause("news", 60)
    clock.forward(59)
    assert list(store.pauses()) == ["news"]
    clock.forward(2)
    assert store.pauses() == {}


def test_each_line_of_a_file_can_have_its_own_keys(shop, tmp_path):
    (tmp_path / "lines.csv").write_text("name,customer\na,7\nb,8\n")
    shop("enqueue", "mark", '{"name":"{{name}}"}', "--each", str(tmp_path / "lines.csv"), "--order-key", "c{{customer}}", "--concurrency-key", "oven")
    made = [(key.decode(), other.decode()) if isinstance(key, bytes) else (key, other) for key, other in shop.rows("order_key, concurrency_key")]
    assert made == [("c7", "oven"), ("c8", "oven")]
    producer.enqueue_many("bake", [{"name": "c"}], order_key=lambda payload: payload["name"])
    [(order_key, concurrency_key)] = shop.rows("order_key, concurrency_key", "task = 'bake'")
    assert (order_key in ("c", b"c"), concurrency_key) == (True, None)  # this process has not declared the task


def test_the_key_of_a_task_is_that_of_its_jobs(shop):
    program = f"import sys; sys.path.insert(0, {str(shop.home)!r}); import shop_tasks as t; t.bake.enqueue('x'); t.bake.enqueue('y', concurrency_key='other', order_key='o')"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **shop.environment}, check=True)
    assert [str(key, "utf-8") if isinstance(key, bytes) else key for (key,) in shop.rows("concurrency_key")] == ["oven", "other"]


@pytest.mark.parametrize("text", ["a", "a:0", "a:-1", "a:x", ":3", "a*b:2", "a:1,b", "a:1:", "a:1000000000"])
def test_a_limit_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError, match="write customer-api:2"):
        config.limits(text)


def test_the_first_limit_that_fits_a_name_is_its_limit():
    found = config.limits(" customer-api:2, customer-*:1,a:b:7,, *:9 ")
    assert [config.limit_of(found, name) for name in ("customer-api", "customer-x", "a:b", "other", "")] == [2, 1, 7, 9, 9]
    assert config.limit_of(config.limits(""), "x") is None


@pytest.mark.parametrize("text", ["a:0%", "a:100%", "a:10%,a", "a:%", ":10%", "a:60%,b:40%", "a:5 %"])
def test_a_share_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError, match=r"queue name|each queue once|less than 100%"):
        config.queue_order(text)
