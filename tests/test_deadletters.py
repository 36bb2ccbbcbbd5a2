"""Dead letters: every attempt's error is kept once, however runs die; replay, purge and export by filters, on both databases."""

import json
import os
import resource
import subprocess

import pytest
from click.testing import CliRunner
from parts import eventually

from asyncsend import deadletters, producer
from asyncsend import outcome as outcomes
from asyncsend.channels import Channel, Channels
from asyncsend.cli import cli
from asyncsend.job import Job, NewBatch
from asyncsend.outcome import Settlement, State
from asyncsend.store.attempts import KEPT
from asyncsend.store.connection import ConnectionLost
from asyncsend.store.rows import Which

TASKS = """
import os, signal, time
from asyncsend import task, Backoff, Snooze
HERE = os.path.dirname(os.path.abspath(__file__))

@task(max_attempts=3, backoff=Backoff(base=0, cap=0))
def fail(name="x"):
    count = os.path.join(HERE, "count")
    with open(count, "a") as file:
        file.write("x")
    raise ValueError(f"no luck {os.path.getsize(count)}")

@task
def fine(): pass

@task
def strike(): os.kill(os.getppid(), signal.SIGKILL); time.sleep(9)
"""


def call(site, *arguments, code=0):
    result = CliRunner().invoke(cli, arguments, env=site.environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def token() -> str:
    return os.urandom(16).hex()


def claim(store, limit=100):
    return store.claim(store.ready_queues(), limit, token(), 7)


def settle(store, outcome, jobs=None, **options):
    return store.settle([Settlement(job.id, job.token, outcome, job.queue, job.task) for job in (jobs if jobs is not None else claim(store))], **options)


def told(store, job_id=1) -> list[tuple]:
    return [(one.number, one.became, one.reason) for one in store.attempts([job_id])[job_id]]


def dead(site, number: int, **columns) -> None:
    for _ in range(number):
        site.insert("fine", "{}", state="dead", reason="x", **columns)
    site.sql("UPDATE asyncsend_jobs SET unique_slot = NULL, finished_at = COALESCE(finished_at, NOW(6))")


def test_a_dead_letter_shows_every_attempt_with_its_error_and_a_replay_goes_on_numbering(site):
    site.tasks(TASKS)
    site.insert("fail", uid="u")
    site.quiet("run")
    shown = call(site, "dead", "show", "u").stdout
    assert [f"attempt {n}" in shown and f"no luck {n}" in shown for n in (1, 2, 3)] == [True] * 3
    call(site, "dead", "replay", "u")
    assert site.rows("state, attempts") == [("ready", 0)]
    site.quiet("run")
    history = json.loads(call(site, "job", "u", "--json").stdout)["history"]
    assert [(one["number"], one["became"]) for one in history] == [(1, "retried"), (2, "retried"), (3, "dead"), (4, "retried"), (5, "retried"), (6, "dead")]
    assert all(f"no luck {one['number']}" in one["error"] for one in history)
    assert [one["run"] for one in history] == [1, 1, 1, 2, 2, 2]


def test_what_finishes_writes_no_attempt_neither_the_first_time_nor_after_a_failure(store):
    store.insert([producer.new_job("fine", {}) for _ in range(4)])
    jobs = claim(store)
    settle(store, outcomes.finish(), jobs[:1])
    settle(store, outcomes.finish("{}"), jobs[1:2])
    settle(store, outcomes.release(), jobs[2:3])
    settle(store, outcomes.retry(0, "x", "y"), jobs[3:])
    settle(store, outcomes.finish(), [job for job in claim(store) if job.id == jobs[3].id])
    assert [told(store, job.id) for job in jobs] == [[], [], [], [(1, "retried", "x")]]


def test_a_group_costs_two_statements_more_only_when_something_failed(store):
    def asked(outcome) -> list[str]:
        store.insert([producer.new_job("fine", {}) for _ in range(50)])
        jobs, said, execute = claim(store), [], store._execute
        store._execute = lambda sql, params: said.append(sql) or execute(sql, params)
        settle(store, outcome, jobs)
        store._execute = execute
        return [sql for sql in said if not sql.startswith("UPDATE asyncsend_jobs")]

    store.standing("default")  # as a run does: then it is known that no job stands in a lane
    asked(outcomes.finish())  # the first one reads which counters there are
    always = [sql.partition("(")[0] for sql in asked(outcomes.finish())]
    assert [words.split()[0] for words in always] == ["BEGIN", "INSERT", "COMMIT"]
    assert "asyncsend_counters" in always[1]
    failed = asked(outcomes.bury("x", "y" * 400))
    assert len(failed) == len(always) + len(["SELECT", "INSERT"])
    assert sum("asyncsend_attempts" in sql for sql in failed) == 2


def test_a_job_that_is_snoozed_for_ever_has_twenty_rows_the_newest(store, clock):
    clock.set(1_800_000_000)
    store.insert([producer.new_job("fine", {})])
    for _ in range(KEPT + 7):
        settle(store, outcomes.snooze(0, "later"))
        clock.forward(1)
    assert [number for number, _, _ in told(store)] == list(range(8, KEPT + 8))


def test_what_waits_for_a_stopped_channel_is_no_attempt_and_pushes_none_out(store, clock):
    clock.set(1_800_000_000)
    store.insert([producer.new_job("webhook", {"url": "https://example.com"})])
    settle(store, outcomes.retry(0, "http-503", "away"))
    stopped = Channels(lambda: [Channel("host:example.com", 5, 1, 60.0, "away")], lambda: 0.0)
    job = Job(id=1, task="webhook", payload='{"url":"https://example.com"}')
    for _ in range(KEPT):
        assert settle(store, stopped.instead(job)).accepted == 1
        clock.forward(60 + 6)  # they come back mixed, over a tenth of the wait
    assert told(store) == [(1, "retried", "http-503")]


def test_an_error_is_cut_and_made_harmless(store):
    store.insert([producer.new_job("fine", {})])
    settle(store, outcomes.bury("x", "\x1b[2J\udcff" + "😀" * 2000))
    [one] = store.attempts([1])[1]
    assert len(one.error) <= 500
    assert "\x1b" not in one.error


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("lost", ["UPDATE asyncsend_jobs", "INSERT INTO asyncsend_attempts", "COMMIT before", "COMMIT after"])
def test_a_settle_whose_reply_is_lost_writes_each_attempt_once(store, lost, number):
    store.insert([producer.new_job("fine", {}) for _ in range(number)])
    jobs, execute, pending = claim(store), store._execute, [lost]

    def unlucky(sql, params):
        words, _, when = lost.partition(" before")
        if pending and sql.startswith(words.removesuffix(" after")):
            pending.clear()
            if not when and lost.endswith("after"):
                execute(sql, params)
            elif not hasattr(store, "options"):
                execute("ROLLBACK", {})
            raise ConnectionLost("2013")
        return execute(sql, params)

    store._execute = unlucky
    assert settle(store, outcomes.retry(0, "x", "y"), jobs).accepted == number
    assert not pending
    assert settle(store, outcomes.retry(0, "x", "y"), jobs).late == ()  # a journal that is replayed once more
    store._execute = execute
    assert [told(store, job.id) for job in jobs] == [[(1, "retried", "x")]] * number


def test_a_refused_outcome_writes_no_attempt(store):
    store.insert([producer.new_job("fine", {})])
    jobs = claim(store)
    assert settle(store, outcomes.bury("x", "y"), jobs, owner="f" * 32).late == (1,)
    store._write("UPDATE asyncsend_jobs SET token = :token", token=b"x" * 16)
    assert settle(store, outcomes.bury("x", "y"), jobs).late == (1,)
    assert told(store) == []


def test_each_death_of_its_run_is_an_attempt_once(site):
    site.tasks(TASKS)
    site.insert("strike")
    for _ in range(3):
        site("run", code=-9)
    site.quiet("run")
    store = site.store()
    assert told(store) == [(1, "crashed", "run-died"), (2, "crashed", "run-died"), (3, "dead", "crash-loop")]
    store.close()


def test_runs_that_are_killed_while_they_settle_write_no_attempt_twice_and_lose_none(site):
    site.tasks(TASKS)
    for _ in range(60):
        site.insert("fail", max_attempts=1)
    for round_ in range(5):
        run = site.start("run")
        eventually(lambda: run.poll() is not None or len(site.rows("id", "state = 'dead'")) > round_ * 8, what="some dead letters")
        run.kill()
        run.communicate()
    site.quiet("run")
    assert {state for (state,) in site.rows("state")} == {"dead"}
    store = site.store()
    crashes = dict(site.rows("id, crashes"))
    history = store.attempts(list(crashes))
    store.close()
    for job_id, attempts in history.items():
        assert [one.number for one in attempts] == list(range(1, crashes[job_id] + 2))
        assert [one.became for one in attempts] == ["crashed"] * crashes[job_id] + ["dead"]


def test_a_replay_may_put_them_into_another_queue_and_choose_by_reason_and_time(site):
    dead(site, 2, queue="a")
    dead(site, 2, queue="b", finished_at="2026-01-01 00:00:00.000000")
    site.sql("UPDATE asyncsend_jobs SET reason = 'y' WHERE id IN (1, 3)")

    def chosen(*options) -> list[int]:
        return sorted(row["id"] for row in json.loads(call(site, "dead", "list", "--json", *options).stdout))

    assert chosen("--reason", "y") == [1, 3]
    assert chosen("--since", "1h") == [1, 2]
    assert chosen("--before", "2026-06-01") == [3, 4]
    assert chosen("--queue", "b", "--reason", "y") == [3]
    assert [json.loads(line)["id"] for line in call(site, "dead", "export", "--before", "1h").stdout.splitlines()] == [4, 3]
    for verb in ("replay", "purge"):
        assert "1 dead" in call(site, "dead", verb, "--all", "--reason", "y", "--since", "1h", "--dry-run").stdout
    call(site, "dead", "replay", "--all", "--reason", "y", "--to-queue", "slow", "--yes")
    assert site.rows("id, queue, state") == [(1, "slow", "ready"), (2, "a", "dead"), (3, "slow", "ready"), (4, "b", "dead")]
    call(site, "retry", "--all", "--before", "1h", "--yes")
    call(site, "dead", "purge", "--all", "--since", "1h", "--yes")
    assert site.rows("id, state") == [(1, "ready"), (3, "ready"), (4, "ready")]
    for wrong in (["replay", "4", "--queue", "slow"], ["replay", "4"], ["replay", "--all", "--to-queue", "no queue!"], ["list", "--since", "soon"], ["list", "--reason", "ä"]):
        call(site, "dead", *wrong, code=2)


def test_those_whose_unique_key_is_taken_stay_dead_and_the_others_do_not_wait_for_them(store):
    store.insert([producer.new_job("fine", {}, unique=f"k{n}") for n in range(6)])
    settle(store, outcomes.bury("x", "y"))
    store.insert([producer.new_job("fine", {}, unique="k2")])
    assert deadletters.replay(store, deadletters.slices(store, Which("dead")), (State.DEAD,)) == (5, 1)
    assert store.count(state="dead") == 1


def test_purged_jobs_leave_no_attempt_behind_and_still_count_in_their_batch(store):
    store.insert([producer.new_job("fine", {}, batch="b") for _ in range(3)])
    store.add_batch(NewBatch("b", "b"), sealed=True)
    settle(store, outcomes.bury("x", "y"))
    assert store.purge([1, 2]) == 2
    assert store.attempts([1, 2]) == {1: [], 2: []}
    assert len(store.attempts([3])[3]) == 1
    assert store.batch("b").counts["dead"] == 3


def test_an_export_streams_in_flat_memory_with_the_history(site):
    store = site.store()
    store.insert([producer.new_job("fine", {"text": "x" * 1_000_000})])
    settle(store, outcomes.bury("x", "y"))
    for _ in range(6):
        store._write("INSERT INTO asyncsend_jobs (task, payload, state, finished_at) SELECT task, payload, state, finished_at FROM asyncsend_jobs")
    store._write("INSERT INTO asyncsend_attempts (job_id, slot, number, became) SELECT id, 1, 1, 'dead' FROM asyncsend_jobs WHERE id > 1")
    store.close()

    def limited():  # 64 MB of payloads do not fit
        resource.setrlimit(resource.RLIMIT_DATA, (80_000_000, 80_000_000))

    with subprocess.Popen(site.command("dead", "export"), env=site.environment, stdout=subprocess.PIPE, preexec_fn=limited, cwd="/") as process:
        lines = [(len(line), json.loads(line)["history"][0]["became"]) for line in process.stdout]
    assert process.returncode == 0
    assert len(lines) == 64
    assert all(length > 1_000_000 and became == "dead" for length, became in lines)
