"""The contract of a store: one body, every database. On the matrix it runs against each server that could be had."""

import os
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from parts import MATRIX, Clock, made_store

from asyncsend import outcome as outcomes
from asyncsend.errors import Conflict
from asyncsend.job import NewJob
from asyncsend.outcome import Settlement, State
from asyncsend.queues import in_order
from asyncsend.store import CLAIMED_PAYLOAD
from asyncsend.store.connection import ConnectionLost

EVERY = ("default", "*")


@pytest.fixture(params=["sqlite", "mariadb", *MATRIX], scope="module")
def database(request, tmp_path_factory):
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path_factory.mktemp('store')}/asyncsend.sqlite3"
        return
    request.getfixturevalue("server") if request.param == "mariadb" else None
    from parts import _matrix_server

    server = request.getfixturevalue("server") if request.param == "mariadb" else _matrix_server(request.param)
    opened = []

    def fresh():
        context = server.database()
        opened.append(context)
        return server.url(context.__enter__())

    yield fresh
    for context in opened:
        context.__exit__(None, None, None)
    if request.param != "mariadb":
        server.stop()


@pytest.fixture(scope="module")
def tables(database):
    clock = Clock()
    made = made_store(database(), clock)
    clock.store = made
    yield made, clock
    made.close()


@pytest.fixture
def store(tables):
    made, clock = tables
    for table in ("jobs", "runs", "pauses"):
        made._write(f"DELETE FROM asyncsend_{table}")
    made._write("UPDATE asyncsend_status SET owner = NULL, status = 'idle', started_at = NULL, previous_started_at = NULL, generation = 0, lock_held = 0")
    clock.fixed = None
    if hasattr(made, "options"):
        made._execute("SET SESSION timestamp = DEFAULT", {})
    return made


@pytest.fixture
def clock(tables):
    return tables[1]


def new(task="email", payload="{}", uid=None, **columns):
    return NewJob(task, payload, uid or uuid.uuid4().hex, **columns)


def token():
    return os.urandom(16).hex()


def claim(store, limit=10, order=EVERY, with_token=None):
    return store.claim(in_order(store.ready_queues(), order), limit, with_token or token(), 1)


def settle(store, job, outcome, **options):
    return store.settle([Settlement(job.id, job.token, outcome)], **options)


def state(store, ref):
    return store.find(str(ref)).state


def test_rows_of_one_insert_may_differ_in_every_column(store, clock):
    clock.set(1_800_000_000.0)
    when = datetime.fromtimestamp(clock(), UTC)
    options = [
        {}, {"task": "sms"}, {"queue": "q"}, {"priority": 3}, {"run_at": clock() + 5}, {"delay": 7}, {"expires_at": clock() + 9}, {"expires_in": 11},
        {"max_attempts": 2}, {"timeout_seconds": 4}, {"batch_id": "b"}, {"payload": '{"%s":":uid1 \\\\ %(uid)s"}'},
    ]  # fmt: skip
    for alike in (False, True):  # what all rows share goes another way
        for number, option in enumerate(options):
            made = [new(uid=f"{alike}{number}.{copy}", **(option if copy or alike else {})) for copy in range(3)]
            store.insert(made)
            for job in made:
                found = store.find(job.uid)
                assert (found.task, found.payload, found.queue, found.priority, found.max_attempts, found.timeout_seconds, found.batch_id) == (
                    job.task, job.payload, job.queue, job.priority, job.max_attempts, job.timeout_seconds, job.batch_id,
                )  # fmt: skip
                assert found.run_at == (datetime.fromtimestamp(job.run_at, UTC) if job.run_at else when + timedelta(seconds=job.delay or 0))
                expires = job.expires_at or (clock() + job.expires_in if job.expires_in else None)
                assert found.expires_at == (datetime.fromtimestamp(expires, UTC) if expires else None)


def test_text_of_any_kind_arrives_in_a_long_insert_as_it_was(store):
    nasty = [f"'{letter}\\{letter}\"{number}" for number, letter in enumerate("\n\r\x1a%'\"\\é😀;-" * 10)]
    store.insert([new(payload=text, uid=f"u{number}") for number, text in enumerate(nasty)])
    assert [job.payload for job in store.jobs(state=None, queue=None, task=None, limit=1000)][::-1] == nasty


def test_a_repeat_of_many_rows_asks_for_a_chunk_of_them_at_once(store, monkeypatch):
    jobs = [new(uid=f"u{number}") for number in range(700)]
    store.insert(jobs[:650])
    asked = []
    execute = store._execute
    monkeypatch.setattr(store, "_execute", lambda sql, params: asked.append(sql[:6]) or execute(sql, params))
    assert store.insert(jobs) == [job.uid for job in jobs]
    assert asked == ["BEGIN" if store.BEGIN == "BEGIN" else "BEGIN ", "INSERT", "SELECT", "INSERT", "SELECT", "INSERT", "COMMIT"]


def test_the_uids_that_were_taken_are_told(store):
    store.insert([new(uid="a"), new(uid="b"), new(uid="d", unique_key="k")])
    there: set[str] = set()
    made = store.insert([new(uid="a"), new(uid="x"), new(uid="b"), new(uid="A"), new(uid="y", unique_key="k"), new(uid="d", unique_key="k")], there)
    assert (made, there) == (["a", "x", "b", "A", "d", "d"], {"a", "b", "d"})
    store.insert([new(uid="z")], there := set())
    assert there == set()


def test_a_job_comes_back_as_it_was_inserted(store, clock):
    clock.set(1_800_000_000.25)
    when = clock() + 3600
    [uid] = store.insert([new(payload='{"ä":"😀"}', uid="my-id.1", queue="mail", priority=-7, run_at=when, expires_in=7200, max_attempts=3, timeout_seconds=9, unique_key="K é ", batch_id="b1")])
    job = store.find(uid)
    assert (job.uid, job.payload, job.queue, job.priority, job.max_attempts, job.timeout_seconds) == ("my-id.1", '{"ä":"😀"}', "mail", -7, 3, 9)
    assert (job.unique_key, job.batch_id, job.state, job.attempts) == ("K é ", "b1", State.READY, 0)
    assert job.run_at == datetime.fromtimestamp(when, UTC)
    assert job.expires_at == datetime.fromtimestamp(clock() + 7200, UTC)


def test_a_job_is_found_by_uid_and_by_id(store):
    [uid] = store.insert([new(uid="abc")])
    assert store.find(str(store.find(uid).id)).uid == "abc"
    assert store.find("nobody") is None
    assert store.find("ünknown") is None


def test_the_same_uid_never_makes_a_second_row(store):
    assert store.insert([new(uid="once")]) == store.insert([new(uid="once")]) == ["once"]
    assert store.count(state=None, queue=None, task=None) == 1


def test_a_lost_commit_of_many_rows_can_be_repeated(store):
    jobs = [new(uid=f"u{number}") for number in range(700)]
    store.insert(jobs[:300])
    assert store.insert(jobs) == [f"u{number}" for number in range(700)]
    assert store.count(state=None, queue=None, task=None) == 700


def test_one_unfinished_job_per_unique_key_byte_for_byte(store):
    first = store.insert([new(unique_key="order-é")])
    assert store.insert([new(unique_key="order-é")]) == first
    others = [store.insert([new(unique_key=key)])[0] for key in ("order-e", "Order-é", "order-é ", "ORDER-É")]
    assert len({first[0], *others}) == 5


def test_a_finished_job_frees_its_unique_key(store):
    [first] = store.insert([new(unique_key="k")])
    [job] = claim(store)
    settle(store, job, outcomes.finish())
    [second] = store.insert([new(unique_key="k")])
    assert second != first


def test_a_dead_job_cannot_come_back_while_its_key_is_taken(store):
    store.insert([new(unique_key="k")])
    [job] = claim(store)
    settle(store, job, outcomes.bury("refused", "no"))
    store.insert([new(unique_key="k")])
    with pytest.raises(Conflict, match="unique key"):
        store.make_ready(job.id, (State.DEAD,))
    assert state(store, job.id) is State.DEAD


def test_a_job_of_a_very_high_id_waits_for_its_channel_like_any_other(store):
    store.insert([NewJob("email", "{}", "u")])
    store._write("UPDATE asyncsend_jobs SET id = :id", id=2**50)  # times the number that mixes them it would not fit
    [job] = store.claim(["default"], 1, "a" * 32, 1)
    assert store.settle([Settlement(job.id, job.token, outcomes.snooze(60, "breaker-open"))]).accepted == 1
    assert store.find("u").state is State.READY


def test_claim_takes_queues_in_order_then_priority_then_run_at_then_id(store, clock):
    clock.set(1_800_000_000)
    now = clock()
    store.insert([
        new(uid="low", queue="low", priority=99),
        new(uid="late", run_at=now - 10), new(uid="early", run_at=now - 20), new(uid="early2", run_at=now - 20),
        new(uid="high", priority=5, run_at=now - 1), new(uid="neg", priority=-5, run_at=now - 100),
        new(uid="crit", queue="critical", priority=-9), new(uid="other", queue="b"),
    ])  # fmt: skip
    order = ("critical", "default", "*", "low")
    assert [job.uid for job in claim(store, 20, order)] == ["crit", "high", "early", "early2", "late", "neg", "other", "low"]


def test_claim_respects_its_limit_across_queues(store):
    store.insert([new(queue=queue) for queue in "abc" for _ in range(4)])
    assert [job.queue for job in claim(store, 6, ("c", "a", "b"))] == ["c"] * 4 + ["a"] * 2


def test_claim_passes_over_future_jobs_and_takes_them_when_due(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(uid="soon", delay=60), new(uid="now")])
    assert [job.uid for job in claim(store)] == ["now"]
    clock.forward(59.9)
    assert claim(store) == []
    clock.forward(0.2)
    assert [job.uid for job in claim(store)] == ["soon"]


def test_a_claim_reads_no_future_and_no_finished_row(store):
    """Counted by the server, not timed: what a claim touches does not grow with what is not due."""
    if not hasattr(store, "options"):
        plan = " ".join(str(row) for row in store._rows("EXPLAIN QUERY PLAN SELECT id FROM asyncsend_jobs WHERE state = 'ready' AND queue = 'q' AND priority = 0"
                                                        " AND (run_at IS NULL OR run_at <= NOW(6)) ORDER BY run_at, id LIMIT 5"))  # fmt: skip
        assert "SEARCH asyncsend_jobs USING" in plan
        return

    def reads() -> int:
        return sum(int(value) for name, value in store._rows("SHOW SESSION STATUS LIKE 'Handler_read%'"))

    def touched() -> int:
        before = reads()
        claimed = claim(store, 5, ("*",))
        after = reads()
        store.settle([Settlement(job.id, job.token, outcomes.release()) for job in claimed])
        assert len(claimed) == 5
        return after - before

    store.insert([new() for _ in range(5)])
    store._rows("SELECT COUNT(*) FROM asyncsend_jobs")
    alone = touched()
    for priority in (0, 3):
        store.insert([new(delay=86400, priority=priority) for _ in range(1500)])
    done = [new(run_at=1_700_000_000) for _ in range(500)]
    store.insert(done)
    store._write("UPDATE asyncsend_jobs SET state = 'done', finished_at = NOW(6) WHERE run_at < '2024-01-01'")
    store._rows("SELECT COUNT(*) FROM asyncsend_jobs")
    assert touched() <= alone + 60


def test_a_null_run_at_is_due_at_once(store):
    store._write("INSERT INTO asyncsend_jobs (task, payload, run_at) VALUES ('email', '{}', NULL)")
    assert len(claim(store)) == 1


def test_claim_says_whether_the_job_has_expired(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(uid="a", expires_in=10), new(uid="b", expires_in=30), new(uid="c")])
    clock.forward(20)
    assert {job.uid: job.expired for job in claim(store)} == {"a": True, "b": False, "c": False}


def test_a_claimed_job_is_claimed_once(store):
    store.insert([new() for _ in range(5)])
    assert len(claim(store)) == 5
    assert claim(store) == []
    assert store.standing("default").running_jobs


def test_a_claim_whose_reply_was_lost_returns_what_it_took(store):
    store.insert([new() for _ in range(3)])
    same = token()
    first = claim(store, 3, with_token=same)
    assert {job.id for job in claim(store, 3, with_token=same)} == {job.id for job in first}


def test_a_claim_that_is_asked_again_after_its_reply_was_lost_takes_no_more_than_it_may(store, monkeypatch):
    store.insert([new() for _ in range(5)])
    write, lost = store._write, []

    def write_and_lose(sql, **params):
        matched = write(sql, **params)
        if not lost and "state = 'running'" in sql:
            lost.append(sql)
            raise ConnectionLost("2013: after it was done")
        return matched

    monkeypatch.setattr(store, "_write", write_and_lose)
    assert len(claim(store, 2)) == 2
    assert lost
    assert len(store.jobs(state="ready", queue=None, task=None, limit=9)) == 3
    monkeypatch.undo()
    assert len(claim(store, 9)) == 3


def test_a_claim_that_lands_after_it_was_asked_again_loses_no_job(store, monkeypatch):
    store.insert([new(concurrency_key="oven") for _ in range(3)])
    write, rows, late = store._write, store._rows, []

    def write_later(sql, **params):
        if not late and "SET state = 'running'" in sql:
            late.append((sql, params))
            raise ConnectionLost("2013: the server is still at it")
        return write(sql, **params)

    def rows_before(sql, **params):
        found = rows(sql, **params)
        if len(late) == 1 and store.repeating and "SELECT id FROM" in sql:  # the question whether it was done
            late.append(write(late[0][0], **late[0][1]))
        return found

    monkeypatch.setattr(store, "_write", write_later)
    monkeypatch.setattr(store, "_rows", rows_before)
    jobs = store.claim(["default"], 2, token(), 1, limit_of=lambda _key: len(store.pauses()) + 9)  # a question of its own between, as the heartbeat is
    assert late[1:] == [2]
    assert sorted(job.id for job in jobs) == [row[0] for row in rows("SELECT id FROM asyncsend_jobs WHERE state = 'running' ORDER BY id")]


def test_a_long_payload_stays_in_the_database_until_its_job_s_turn_comes(store):
    texts = ['{"a":1}', '{"a":"' + "x" * (CLAIMED_PAYLOAD - 8) + '"}', '{"a":"' + "ä" * CLAIMED_PAYLOAD + '"}']
    store.insert([new(payload=text) for text in texts])
    jobs = claim(store)
    assert [(job.unread, len(job.payload)) for job in jobs] == [(False, 7), (False, CLAIMED_PAYLOAD), (True, 0)]
    assert store.payload(jobs[2].id, jobs[2].token) == texts[2]
    assert store.payload(jobs[2].id, token()) is None
    settle(store, jobs[2], outcomes.finish())
    assert store.payload(jobs[2].id, jobs[2].token) is None


def test_a_run_that_lost_the_status_row_claims_nothing(store):
    store.insert([new()])
    store.take("default", store.standing("default"), "a" * 32, "lock", "host", 1, 120)
    assert store.claim(["default"], 5, token(), 1, "b" * 32) == []
    assert len(store.claim(["default"], 5, token(), 1, "a" * 32)) == 1


def test_done_is_written_once_and_charged_once(store):
    store.insert([new(uid="a")])
    [job] = claim(store)
    assert settle(store, job, outcomes.finish('{"x":1}')).accepted == 1
    assert settle(store, job, outcomes.finish('{"x":1}')) == settle(store, job, outcomes.finish())  # the repeat after a lost reply
    row = store.find("a")
    assert (row.state, row.attempts, row.result, row.finished_at is not None) == (State.DONE, 1, '{"x":1}', True)


def test_a_group_of_outcomes_is_written_together(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(uid=uid) for uid in "abcdef"])
    a, b, c, d, e, f = claim(store)
    wanted = [
        (a, outcomes.finish()), (b, outcomes.retry(60, "smtp-450", "later")), (c, outcomes.snooze(30, "limit")), (d, outcomes.bury("refused", "no")),
        (e, outcomes.hold("unknown", "who knows")), (f, outcomes.cancel("expired")),
    ]  # fmt: skip
    assert store.settle([Settlement(job.id, job.token, outcome) for job, outcome in wanted]).accepted == 6
    rows = {uid: store.find(uid) for uid in "abcdef"}
    assert {uid: (row.state.value, row.attempts, row.reason) for uid, row in rows.items()} == {
        "a": ("done", 1, None), "b": ("ready", 1, "smtp-450"), "c": ("ready", 0, "limit"), "d": ("dead", 1, "refused"),
        "e": ("held", 1, "unknown"), "f": ("cancelled", 0, "expired"),
    }  # fmt: skip
    assert rows["b"].run_at == datetime.fromtimestamp(clock() + 60, UTC)
    assert rows["b"].error == "later"


def test_a_late_result_changes_nothing_and_is_named(store):
    store.insert([new(uid="a")])
    [old] = claim(store)
    settle(store, old, outcomes.release(), rescue=True)  # another run took it back
    [fresh] = claim(store)
    assert settle(store, old, outcomes.finish()).late == (old.id,)
    assert state(store, "a") is State.RUNNING
    assert settle(store, fresh, outcomes.finish()).late == ()


def test_a_late_result_after_rescue_is_late_even_before_the_next_claim(store):
    store.insert([new(uid="a")])
    [old] = claim(store)
    settle(store, old, outcomes.release(crashed=True, reason="run-died", error="x"), rescue=True)
    assert settle(store, old, outcomes.bury("refused", "no")).late == (old.id,)
    assert (state(store, "a"), store.find("a").crashes) == (State.READY, 1)


@pytest.mark.parametrize("by_hand", ["cancelled", "dead", "held", "ready"])
def test_a_running_row_that_somebody_moves_by_sql_is_late_and_stays_where_it_was_put(store, by_hand):
    store.insert([new(uid="a"), new(uid="b")])
    moved, other = claim(store)
    store._write(f"UPDATE asyncsend_jobs SET state = '{by_hand}', reason = 'by-hand' WHERE id = {moved.id}")
    settled = store.settle([Settlement(moved.id, moved.token, outcomes.finish()), Settlement(other.id, other.token, outcomes.finish())])
    assert (settled.accepted, settled.late) == (1, (moved.id,))
    assert (state(store, "a").value, store.find("a").reason, state(store, "b")) == (by_hand, "by-hand", State.DONE)


def test_each_outcome_may_be_written_twice_and_is_accepted_twice(store):
    """The second time is the repeat after a lost reply; a rescue forgets the token and is known again all the same."""
    ends = [outcomes.finish(), outcomes.finish("{}"), outcomes.retry(60, "why", "x"), outcomes.snooze(60, "limit"), outcomes.bury("x", "y"), outcomes.hold("x", "y"), outcomes.cancel("x"), outcomes.release()]
    for rescue in (False, True):
        store._write("DELETE FROM asyncsend_jobs")
        store.insert([new() for _ in ends])
        wanted = [Settlement(job.id, job.token, end) for job, end in zip(claim(store), ends, strict=True)]
        first = store.settle(wanted, rescue=rescue)
        rows = store._rows("SELECT id, state, attempts, reason FROM asyncsend_jobs ORDER BY id")
        assert first == store.settle(wanted, rescue=rescue) == (len(ends), (), ())
        assert store._rows("SELECT id, state, attempts, reason FROM asyncsend_jobs ORDER BY id") == rows


def test_an_outcome_that_was_set_aside_is_known_again(store):
    store.insert([new(uid="a", unique_key="k")])
    [job] = claim(store)
    store._write("UPDATE asyncsend_jobs SET unique_slot = NULL")
    store.insert([new(uid="b", unique_key="k")])
    wanted = [Settlement(job.id, job.token, outcomes.retry(60, "why", "words"))]  # takes the key back, which is another's by now
    assert store.settle(wanted) == store.settle(wanted) == (1, (), ())
    assert (state(store, "a"), store.find("a").reason) == (State.HELD, "bad-row")


def test_what_a_set_aside_outcome_says_of_its_channel_is_heard_once(store):
    store.insert([new(uid="a", unique_key="k")])
    [job] = claim(store)
    store._write("UPDATE asyncsend_jobs SET unique_slot = NULL")
    store.insert([new(uid="b", unique_key="k")])
    failed = outcomes.retry(60, "why", "words")._replace(channel="host:a.example", troubled=True)
    for _ in range(2):
        store.settle([Settlement(job.id, job.token, failed)])
    assert [(one.name, one.failures) for one in store.channels()] == [("host:a.example", 1)]


def test_ending_twice_is_no_loss_of_the_lease_and_counts_nothing_twice(store):
    seen = store.standing("default")
    assert store.take("default", seen, "a" * 32, "lock", "host", 1, 120)
    assert store.end("default", "a" * 32, "empty", 3, False, seen.generation + 1)
    assert store.end("default", "a" * 32, "empty", 3, False, seen.generation + 1)
    assert store.standing("default").lock_held == 3
    store.take("default", store.standing("default"), "b" * 32, "lock", "host", 1, 120)
    assert not store.end("default", "a" * 32, "empty", 3, False, seen.generation + 1)


def test_release_keeps_the_place_in_the_queue_and_charges_nothing(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(uid="first"), new(uid="second", run_at=clock() - 0.5 + 1)])
    [job] = claim(store, 1)
    clock.forward(10)
    settle(store, job, outcomes.release())
    assert [job.uid for job in claim(store)] == ["first", "second"]
    assert store.find("first").attempts == 0


def test_words_no_server_likes_are_stored_all_the_same(store):
    store.insert([new(uid="a"), new(uid="b")])
    first, second = claim(store)
    settle(store, first, outcomes.bury("refused", "\ud800 half \x00 😀 " + "x" * 4000))
    settle(store, second, outcomes.finish('"\udfff"'))
    assert "😀" in store.find("a").error
    assert state(store, "b") is State.DONE


def test_taking_the_status_row_needs_it_to_be_free_or_dead_or_ours(store, clock):
    clock.set(1_800_000_000)
    seen = store.standing("default")
    assert store.take("default", seen, "a" * 32, "lock-1", "host", 1, 120)
    held = store.standing("default")
    assert (held.status, held.alive, held.owner, held.generation) == ("in-progress", True, "a" * 32, seen.generation + 1)
    assert not store.take("default", held, "b" * 32, "lock-2", "host", 2, 120)
    assert store.take("default", held, "c" * 32, "lock-1", "host", 3, 120), "the same lock proves the former owner dead"
    clock.forward(121)
    assert not store.standing("default").alive
    assert store.take("default", store.standing("default"), "b" * 32, "lock-2", "host", 2, 120)
    assert not store.beat("default", "c" * 32, 120)
    assert not store.end("default", "c" * 32, "empty", 0, False)
    assert store.beat("default", "b" * 32, 120)


def test_two_that_saw_the_same_row_cannot_both_take_it(store):
    seen = store.standing("default")
    assert store.take("default", seen, "a" * 32, "lock-1", "host", 1, 120)
    assert store.end("default", "a" * 32, "empty", 3, True)
    assert not store.take("default", seen, "b" * 32, "lock-2", "host", 2, 120)
    after = store.standing("default")
    assert (after.status, after.owner, after.stopped, after.lock_held, after.pruned_at is not None) == ("idle", None, "empty", 3, True)


def test_a_beat_in_the_same_moment_is_still_a_beat(store, clock):
    clock.set(1_800_000_000)
    store.take("default", store.standing("default"), "a" * 32, "lock", "host", 1, 120)
    assert all(store.beat("default", "a" * 32, 120) for _ in range(3))


def test_the_two_last_starts_are_kept(store, clock):
    for moment in (1_800_000_000, 1_800_000_060):
        clock.set(moment)
        store.take("default", store.standing("default"), "a" * 32, "lock", "host", 1, 120)
        store.end("default", "a" * 32, "empty", 0, False)
    standing = store.standing("default")
    assert (standing.started_at - standing.previous_started_at).total_seconds() == 60


def test_the_history_keeps_what_a_run_did(store):
    row = store.open_run("default", 7, "host", 42)
    assert store.open_run("default", 7, "host", 42) == row
    store.save_run(row, {"claimed": 5, "done": 4, "dead": 1}, None)
    assert store.runs(5)[0].stopped is None
    store.save_run(row, {"claimed": 5, "done": 4, "dead": 1}, "empty")
    [run] = store.runs(5)
    assert (run.generation, run.pid, run.stopped, run.counts["done"], run.counts["late"]) == (7, 42, "empty", 4, 0)
    store.open_run("default", 8, "host", 43)
    assert store.close_dead_runs("default", 9) == 1
    assert store.runs(1)[0].stopped == "died"


def test_a_start_mark_is_fenced(store):
    store.insert([new(uid="a")])
    [job] = claim(store)
    assert store.mark_started(job.id, job.token)
    assert not store.mark_started(job.id, token())
    assert store.running(10)[0].started_at is not None


def test_prune_deletes_only_what_is_finished_and_old(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(uid=uid) for uid in ("done", "dead", "ready")])
    done, dead = [job for job in claim(store) if job.uid != "ready"]
    store.settle([Settlement(done.id, done.token, outcomes.finish()), Settlement(dead.id, dead.token, outcomes.bury("x", "y"))])
    clock.forward(100)
    assert store.prune(200, 300, 10) == 0
    clock.forward(150)
    assert store.prune(200, 300, 10) == 1
    assert (store.find("done"), state(store, "dead")) == (None, State.DEAD)
    clock.forward(100)
    assert store.prune(200, 300, 10) == 1
    assert store.count(state=None, queue=None, task=None) == 1


def test_prune_works_in_slices(store, clock):
    clock.set(1_800_000_000)
    store.insert([new() for _ in range(25)])
    store.settle([Settlement(job.id, job.token, outcomes.finish()) for job in claim(store, 100)])
    clock.forward(10)
    assert [store.prune(1, 1, 10) for _ in range(4)] == [10, 10, 5, 0]


def test_make_ready_and_cancel_look_at_the_state(store):
    store.insert([new(uid="a"), new(uid="b")])
    a, b = claim(store)
    assert not store.cancel(a.id, "by-command"), "a running job cannot be cancelled"
    settle(store, a, outcomes.hold("unknown-task", "x", charged=False))
    settle(store, b, outcomes.bury("refused", "x"))
    assert not store.make_ready(a.id, (State.DEAD,))
    assert store.make_ready(a.id, (State.HELD,))
    assert store.make_ready(b.id, (State.DEAD, State.CANCELLED, State.READY))
    assert store.cancel(a.id, "by-command")
    assert (state(store, "a"), store.find("a").reason, state(store, "b"), store.find("b").attempts) == (State.CANCELLED, "by-command", State.READY, 0)


def test_purge_deletes_dead_letters_only(store):
    store.insert([new(uid="a"), new(uid="b")])
    a, b = claim(store)
    settle(store, a, outcomes.bury("x", "y"))
    assert store.purge([a.id, b.id]) == 1
    assert store.purge([]) == 0


def test_a_pause_ends_by_itself_or_by_resume(store, clock):
    clock.set(1_800_000_000)
    store.pause("a", 60)
    store.pause("b", None)
    store.pause("b", None)
    assert set(store.pauses()) == {"a", "b"}
    assert store.pauses()["b"] is None
    clock.forward(61)
    assert set(store.pauses()) == {"b"}
    assert (store.resume("b"), store.resume("b")) == (True, False)


def test_jobs_are_listed_newest_first_and_filtered(store):
    store.insert([new(uid="a", queue="x"), new(uid="b", task="sms"), new(uid="c", queue="x", task="sms")])
    def uids(**filters):
        return [job.uid for job in store.jobs(**{"state": None, "queue": None, "task": None, "limit": 10, **filters})]
    assert uids() == ["c", "b", "a"]
    assert uids(queue="x") == ["c", "a"]
    assert uids(task="sms", queue="x", state="ready") == ["c"]
    assert uids(state="dead") == []
    assert uids(limit=1) == ["c"]
    assert uids(before=store.find("c").id) == ["b", "a"]
    assert store.count(state="ready", queue="x", task=None) == 2


def test_depth_tells_due_from_later(store, clock):
    clock.set(1_800_000_000)
    store.insert([new(run_at=clock() - 30), new(), new(delay=60), new(queue="b", delay=60)])
    claim(store, 1)
    clock.forward(0)
    depths = {(depth.queue, depth.state.value): (depth.jobs, depth.due, depth.oldest_due) for depth in store.depth()}
    assert depths["default", "running"][0] == 1
    assert depths["default", "ready"][:2] == (2, 1)
    assert depths["default", "ready"][2] == datetime.fromtimestamp(clock(), UTC)
    assert depths["b", "ready"] == (1, 0, None)


def test_a_job_behind_another_of_its_order_key_is_no_lag_and_one_that_waits_for_a_run_is(store, clock):
    clock.set(1_800_000_000)

    def oldest():
        return {depth.queue: depth.oldest_due for depth in store.depth() if depth.state is State.READY}["default"]

    store.insert([new(order_key="k"), new(order_key="k"), new(order_key="k")])
    store._write("UPDATE asyncsend_jobs SET run_at = NULL WHERE id = 3")
    job = claim(store, 1)[0]
    assert oldest() is None, "the others wait for the one that runs"
    settle(store, job, outcomes.hold("some-reason", "words"))
    clock.forward(3600)
    assert oldest() is None, "no run helps until somebody decides about the held one"
    store.insert([new(), new(order_key="other")])
    assert oldest() == datetime.fromtimestamp(clock(), UTC)
    assert store.make_ready(job.id, [State.HELD])
    store._write("UPDATE asyncsend_jobs SET run_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 60) WHERE id = :id", id=job.id)
    assert oldest() == datetime.fromtimestamp(clock() - 60, UTC)


def test_sql_in_every_text_changes_nothing(store):
    for nasty in ("x' OR 1=1 -- ", 'y"; DROP TABLE asyncsend_jobs; --', "%s %(id)s :id \\", "\\'"):
        store.insert([new(payload='{"a":"' + nasty.replace("\\", "\\\\").replace('"', '\\"') + '"}', unique_key=nasty)])
        assert store.jobs(state=None, queue=nasty, task=nasty, limit=5) == []
        assert store.resume(nasty) is False
        assert store.find(nasty) is None
    assert store.count(state="ready", queue=None, task=None) == 4


def test_another_prefix_is_another_set_of_tables(database):
    from asyncsend import schema
    from asyncsend.store import open_store

    where = database()
    store = open_store(where, "shop_")
    if where.startswith("sqlite"):
        store.create()
    assert schema.install(store, "sqlite" if where.startswith("sqlite") else "mysql", "shop_") == list(schema.migrations("mysql"))
    store.insert([new()])
    assert store.jobs(state=None, queue=None, task=None, limit=5)[0].task == "email"
    assert all(name.startswith(("shop_", "sqlite_")) for name in store.facts()["tables"].split(", "))
    store.close()


def test_nothing_is_accepted_from_a_run_that_lost_the_status_row(store):
    store.insert([new() for _ in range(3)])
    a, b = "a" * 32, "b" * 32
    assert store.take("default", store.standing("default"), a, "lock", "one", 1, 120)
    jobs = store.claim(["default"], 3, token(), 1, a)
    assert store.mark_started(jobs[0].id, jobs[0].token, owner=a)
    assert store.take("default", store.standing("default"), b, "lock", "two", 2, 120)
    ends = [outcomes.finish(), outcomes.retry(5, "why", "words"), outcomes.release()]
    late = store.settle([Settlement(job.id, job.token, end) for job, end in zip(jobs, ends, strict=True)], owner=a)
    assert (late.accepted, set(late.late)) == (0, {job.id for job in jobs})
    assert not store.mark_started(jobs[1].id, jobs[1].token, owner=a)
    assert {state(store, job.id) for job in jobs} == {State.RUNNING}
    assert settle(store, jobs[0], outcomes.finish(), owner=b).accepted == 1
