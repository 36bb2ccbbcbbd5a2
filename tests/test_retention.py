"""Retention: every table is bounded with the settings as they come, what is pruned is archived first, and nothing that waits is deleted."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter

import pytest
from click.testing import CliRunner
from parts import made_store

from asyncsend import archive, config, producer, retention
from asyncsend import outcome as outcomes
from asyncsend.cli import cli
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job, NewBatch
from asyncsend.outcome import Settlement

DAY = 86400
NOW = 1_800_000_000


@pytest.fixture
def settings(tmp_path):
    return config.load({"ASYNCSEND_HOME": str(tmp_path / "none")})


def call(site, *arguments, code=0):
    result = CliRunner().invoke(cli, arguments, env=site.environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def ended(site, number: int, state: str = "done", days: float = 100, **columns) -> None:
    """Jobs that ended so many days ago."""
    store = site.store()
    store.insert([producer.new_job("email", {"text": f"n{n}"}, **columns) for n in range(number)])
    store._write(
        "UPDATE asyncsend_jobs SET state = :state, unique_slot = NULL, finished_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :ago) WHERE state = 'ready'", state=state, ago=days * DAY
    )
    store.close()


def archived(folder) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl.gz")) for line in gzip.open(path).read().splitlines()]


def settled(store, outcome, number=1, **columns) -> list[int]:
    store.insert([producer.new_job("email", {}, **columns) for _ in range(number)])
    jobs = store.claim(store.ready_queues(), number, os.urandom(16).hex(), 1)
    store.settle([Settlement(job.id, job.token, outcome) for job in jobs])
    return [job.id for job in jobs]


def sizes(store) -> dict[str, int]:
    return {table: store._rows(f"SELECT COUNT(*) FROM asyncsend_{table}")[0][0] for table in ("jobs", "attempts", "runs", "batches", "pauses", "status")}


# ── every table ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_the_settings_as_they_come_every_table_is_empty_again_in_the_end_but_for_what_waits(store, clock, settings):
    clock.set(NOW)
    store._write("UPDATE asyncsend_schema SET applied_at = NOW(6)")
    for outcome in (outcomes.finish(), outcomes.bury("x", "y"), outcomes.cancel("x"), outcomes.hold("unknown", "y")):
        settled(store, outcome, batch="b")
    settled(store, outcomes.retry(0, "x", "y"))
    store.add_batch(NewBatch("b", "b"), sealed=True)
    store.finish_batch("b", [], None, None)
    store.add_batch(NewBatch("abandoned", "never sealed"), sealed=False)
    store.standing("default")
    store.standing("old")
    store._write("UPDATE asyncsend_status SET finished_at = NOW(6)")
    store._write("UPDATE asyncsend_runs SET started_at = NOW(6)")
    store.open_run("default", 1, "h", 1)
    store.pause("q", 60)
    store.pause("for ever", None)
    store._write("INSERT INTO asyncsend_attempts (job_id, slot, number, ended_at, became) VALUES (9999, 1, 1, NOW(6), 'dead')")
    before = sizes(store)
    assert before == {"jobs": 5, "attempts": 5, "runs": 1, "batches": 2, "pauses": 2, "status": 2}
    for _ in range(40):
        clock.forward(10 * DAY)
        assert retention.prune(store, settings).trouble is None
    assert sizes(store) == {"jobs": 1, "attempts": 0, "runs": 0, "batches": 0, "pauses": 1, "status": 1}
    assert store.count(state="ready") == 1, "an accepted job is never deleted while it waits"


def test_a_held_job_that_nobody_decides_about_becomes_a_dead_letter_that_says_so(store, clock, settings):
    clock.set(NOW)
    store._write("UPDATE asyncsend_schema SET applied_at = NOW(6)")
    [old] = settled(store, outcomes.hold("unknown", "was it sent?"), unique="k")
    clock.forward(60 * DAY)
    [young] = settled(store, outcomes.hold("unknown", "z"))
    store.insert([producer.new_job("email", {})])  # waits all the time, in a queue nobody serves
    clock.forward(31 * DAY)
    assert retention.prune(store, settings).held == 1
    job = store.find(f"id={old}")
    assert (job.state, job.reason) == ("dead", "held-too-long")
    assert "was it sent?" in job.error
    assert sum(row.counts["dead"] for row in store.counters("ever")) == 1
    assert [(one.number, one.became, one.reason) for one in store.attempts([old])[old]] == [(1, "held", "unknown"), (2, "dead", "held-too-long")]
    assert store.find(f"id={young}").state == "held"
    settled(store, outcomes.finish(), unique="k")  # its key is free


def test_a_held_job_that_was_released_and_held_again_has_all_the_time_again(store, clock, settings):
    clock.set(NOW)
    store._write("UPDATE asyncsend_schema SET applied_at = NOW(6)")
    [one] = settled(store, outcomes.hold("unknown", "z"))
    clock.forward(80 * DAY)
    store.make_ready(one, (outcomes.State.HELD,))
    [job] = store.claim(["default"], 1, "1" * 32, 1)
    store.settle([Settlement(one, job.token, outcomes.hold("unknown", "z"))])
    clock.forward(80 * DAY)
    assert retention.prune(store, settings).held == 0


def test_what_was_held_before_there_was_a_history_counts_from_the_upgrade(store, clock, settings):
    clock.set(NOW)
    store._write("UPDATE asyncsend_schema SET applied_at = NOW(6)")
    store.insert([producer.new_job("email", {})])
    store._write("UPDATE asyncsend_jobs SET state = 'held', created_at = FROM_UNIXTIME(:ago)", ago=NOW - 300 * DAY)
    clock.forward(89 * DAY)
    assert retention.prune(store, settings).held == 0
    clock.forward(2 * DAY)
    assert retention.prune(store, settings).held == 1


def test_a_run_that_lost_the_status_row_buries_nothing(store, clock):
    clock.set(NOW)
    store._write("UPDATE asyncsend_schema SET applied_at = NOW(6)")
    settled(store, outcomes.hold("unknown", "z"))
    clock.forward(99 * DAY)
    assert store.bury_held(90 * DAY, 10, "f" * 32) == 0
    assert store.count(state="held") == 1


def test_a_job_that_a_person_replays_while_it_is_pruned_is_kept(store, clock):
    clock.set(NOW)
    ids = settled(store, outcomes.bury("x", "y"), 3)
    clock.forward(99 * DAY)
    assert store.prune(7 * DAY, 90 * DAY, 10, before=lambda _ids: store.make_ready(ids[1], (outcomes.State.DEAD,))) == 2
    assert store.count(state="ready") == 1
    assert len(store.attempts(ids)[ids[1]]) == 1


def test_a_batch_that_was_never_sealed_stays_while_it_has_a_job(store, clock, settings):
    clock.set(NOW)
    store.add_batch(NewBatch("open", "open"), sealed=False)
    store.insert([producer.new_job("email", {}, batch="open")])
    clock.forward(400 * DAY)
    retention.prune(store, settings)
    assert store.batch("open") is not None


# ── the rhythm ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_while_there_is_more_the_next_minute_goes_on_and_then_ten_minutes_are_quiet(site):
    ended(site, 1100)
    site.prelude = "import asyncsend.retention; asyncsend.retention.SECONDS = 0.000001"  # one slice a run
    left = []
    for _ in range(5):
        site.quiet("run")
        left.append(len(site.rows("id")))
    assert left == [600, 100, 0, 0, 0]
    ended(site, 1)
    site.quiet("run")
    assert len(site.rows("id")) == 1, "nothing was left at the third run, so the fourth did not look"


def test_on_mysql_slices_are_found_by_the_index_of_their_end_and_deleted_by_key(server):
    with server.database() as name:
        store = made_store(server.url(name))
        store.insert([producer.new_job("email", {}) for _ in range(3000)])
        store._write("UPDATE asyncsend_jobs SET state = 'done', finished_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 30 * 86400)")
        plans, execute = [], store._execute

        def explained(sql, params):
            if sql.startswith(("SELECT id", "DELETE FROM asyncsend_jobs")):
                plans.append(execute(f"EXPLAIN FORMAT=TRADITIONAL {sql}", params)[0][0])
            return execute(sql, params)

        store._execute = explained
        assert store.prune(7 * DAY, 90 * DAY, 500) == 500
        assert [plan[5] if len(plan) == 10 else plan[6] for plan in plans] == ["jobs_to_prune", "PRIMARY", "PRIMARY"]
        store.close()


# ── the archive ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(site, tmp_path):
    site.environment["ASYNCSEND_ARCHIVE"] = str(tmp_path / "archive")
    return tmp_path / "archive"


def test_what_a_run_prunes_is_in_the_archive_first_readable_by_its_owner_only(site, folder):
    ended(site, 3)
    ended(site, 2, "dead", 200)
    site.sql("INSERT INTO asyncsend_attempts (job_id, slot, number, became, error) VALUES (5, 1, 1, 'dead', 'no luck')")
    site.quiet("run")
    assert site.rows("id") == []
    found = archived(folder)
    assert Counter(row["state"] for row in found) == {"done": 3, "dead": 2}
    assert [row["history"][0]["error"] for row in found if row["history"]] == ["no luck"]
    assert all(json.loads(row["payload"])["text"] for row in found)
    files = list(folder.iterdir())
    assert len(files) == 2, "one for each day on which jobs ended"
    assert [path.stat().st_mode & 0o777 for path in (folder, *files)] == [0o700, 0o600, 0o600]


@pytest.mark.parametrize("point", ["after the file, before the DELETE", "in the middle of the write", "before the COMMIT"])
def test_killed_between_archive_and_delete_nothing_is_lost_and_the_archive_can_be_read(site, folder, point):
    ended(site, 40)
    site.prelude = {
        "after the file, before the DELETE": "import os; fsync = os.fsync\nos.fsync = lambda fd: (fsync(fd), os.kill(os.getpid(), 9))",
        "in the middle of the write": "import os; write = os.write\nos.write = lambda fd, data: (write(fd, data[:len(data) // 2]), os.kill(os.getpid(), 9)) if len(data) > 400 and bytes(data[:2]) == b'\\x1f\\x8b' else write(fd, data)",
        "before the COMMIT": (
            "from asyncsend.store.connection import SqlConnection as C\nfrom asyncsend.store import mysql, sqlite\nimport os\n"
            "for store in (mysql.MySQLStore, sqlite.SQLiteStore):\n"
            "    def die(self, sql, params, execute=store._execute):\n"
            "        done = execute(self, sql, params)\n"
            "        if sql.startswith('DELETE FROM asyncsend_jobs'): os.kill(os.getpid(), 9)\n"
            "        return done\n"
            "    store._execute = die"
        ),
    }[point]
    site("run", code=-9)
    assert len(site.rows("id")) == 40
    site.prelude = ""
    site.quiet("run")
    assert site.rows("id") == []
    doubles = Counter(row["uid"] for row in archived(folder))
    assert len(doubles) == 40
    assert set(doubles.values()) == {1 if "middle" in point else 2}, "a kill between leaves doubles, never a loss"


def test_a_torn_end_is_cut_off_before_the_next_append_and_a_file_that_is_not_ours_is_put_aside(tmp_path):
    store = archive.Archive(tmp_path / "a", "asyncsend_")
    job = Job(1, "email", "{}")
    store.append([(job, [])])
    [path] = (tmp_path / "a").iterdir()
    with open(path, "ab") as file:
        file.write(b"\x1f\x8b torn" * 200_000)
    store.append([(job, [])])
    assert len(archived(tmp_path / "a")) == 2
    path.write_bytes(b"my own notes")
    store.append([(job, [])])
    assert len(archived(tmp_path / "a")) == 1
    assert (tmp_path / "a" / f"{path.name}.torn-1").read_bytes() == b"my own notes"


def test_an_archive_that_cannot_be_written_stops_the_pruning_and_not_the_run(site, folder):
    ended(site, 3)
    folder.write_text("a file where the folder should be")
    site.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    site.quiet("run")
    assert sorted(site.rows("state")) == [("done",)] * 4
    assert len(site.rows("id")) == 4
    assert "event=prune-failed" in site.log()
    facts = json.loads(call(site, "status", "--json").stdout)
    assert facts["verdict"] == "attention"
    assert any("the tables grow" in sentence and str(folder) in sentence for sentence in facts["sentences"])
    assert "nothing is deleted until then" in call(site, "prune", "--yes", code=78).stderr
    folder.unlink()
    site.sql("UPDATE asyncsend_status SET pruned_at = NULL")
    site.quiet("run")
    assert json.loads(call(site, "status", "--json").stdout)["verdict"] == "ok"
    assert len(archived(folder)) == 3


def test_a_full_disk_in_the_middle_of_an_append_leaves_the_archive_as_it_was(tmp_path):
    store = archive.Archive(tmp_path, "asyncsend_")
    jobs = [(Job(number, "email", os.urandom(99).hex()), []) for number in range(500)]
    store.append(jobs[:10])
    [path] = tmp_path.iterdir()
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[0][1]))  # so much room is left
    try:
        with pytest.raises(OSError, match=r"jsonl\.gz"):
            store.append(jobs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert path.stat().st_size == size
    store.append(jobs)
    assert len(archived(tmp_path)) == 510


def test_an_archive_under_the_web_root_is_refused(lite):
    lite.environment["ASYNCSEND_ARCHIVE"] = f"{lite.home}/public_html/archive"
    assert "web root" in call(lite, "run", code=78).stderr
    with pytest.raises(ConfigurationError, match="web root"):
        config.load(lite.environment)


def test_two_that_append_at_the_same_time_leave_a_file_that_can_be_read(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom asyncsend import archive\nfrom asyncsend.job import Job\n"
        "whole = archive._whole\narchive._whole = lambda *file: (whole(*file), time.sleep(0.001))[0]\n"  # time enough for the other to come between
        "print(flush=True)\nsys.stdin.readline()\n"
        "for n in range(100): archive.Archive(Path(sys.argv[1]), 'p_').append([(Job(n, 'x' * 9000, '{}'), [])])"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for one in both:
        one.stdout.readline()
    for one in both:
        one.stdin.close()
    assert [one.wait(60) for one in both] == [0, 0]
    for one in both:
        one.stdout.close()
    assert len(archived(tmp_path)) == 200


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prune_by_hand_counts_asks_and_takes_states_and_an_age(site):
    ended(site, 3, "done", 5)
    ended(site, 2, "dead", 20)
    ended(site, 1, "cancelled", 20)
    site.insert("email")
    assert "Nothing to prune" not in call(site, "prune", "--yes").stderr, "one cancelled is older than seven days"
    assert call(site, "prune", "--older", "10d", "--dry-run").stdout == "Would: delete 2 dead jobs\n"
    assert "add --yes" in call(site, "prune", "--older", "1d", code=2).stderr
    call(site, "prune", "--state", "done", "--older", "10d", "--yes")
    assert len(site.rows("id")) == 6
    call(site, "prune", "--state", "done", "--older", "1d", "--yes")
    assert Counter(state for (state,) in site.rows("state")) == {"dead": 2, "ready": 1}
    call(site, "prune", "--older", "0", "--yes")
    assert site.rows("state") == [("ready",)]
    call(site, "prune", "--state", "ready", "--yes", code=2)


def test_prune_by_hand_archives_and_goes_on_to_the_end(site, folder):
    ended(site, 1200)
    assert "1200 deleted" in call(site, "prune", "--yes").stderr
    assert len(archived(folder)) == 1200


def test_status_tells_of_jobs_in_a_queue_that_no_run_serves(site):
    site.quiet("run")
    site.insert("email", queue="forgotten", run_at="2026-01-01 00:00:00.000000")
    site.environment["ASYNCSEND_QUEUES"] = "default"
    facts = json.loads(call(site, "status", "--json").stdout)
    assert any("1 job waits in the queue forgotten" in sentence for sentence in facts["sentences"])
    site.environment["ASYNCSEND_QUEUES"] = "default,*"
    assert not any("forgotten" in sentence for sentence in json.loads(call(site, "status", "--json").stdout)["sentences"])
