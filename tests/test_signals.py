"""What a host does to a process: signals, limits, a terminal that goes away. TERM by itself and kill -9 are in test_run.py, deaths at each point in test_crash_points.py."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from parts import Site, eventually, missing

TASKS = """
import os, time
from asyncsend import task, Backoff
HERE = os.path.dirname(os.path.abspath(__file__))

def note(line):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(line + "\\n")

@task(max_attempts=5, backoff=Backoff(base=0, cap=0))
def mark(name, seconds=0):
    note(name)
    time.sleep(seconds)

@task(max_attempts=5, backoff=Backoff(base=0, cap=0))
def until_told(name):
    note(name)
    while not os.path.exists(os.path.join(HERE, "told")): time.sleep(0.005)
    note(name + "-end")

@task(max_attempts=1)
def busy():
    while True: pass

@task(max_attempts=1)
def greedy(): bytearray(4_000_000_000)
"""


@pytest.fixture
def shop(lite):
    lite.tasks(TASKS)
    return lite


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


def tell(site) -> None:
    (site.home / "told").touch()


def under(site: Site, *limit: str, command: tuple[str, ...] = ("run",)) -> subprocess.CompletedProcess:
    """The command, started by a program that limits it."""
    return subprocess.run([*limit, sys.executable, "-m", "asyncsend", *command], env=site.environment, capture_output=True, text=True, cwd="/", timeout=60, stdin=subprocess.DEVNULL)


def started(site) -> subprocess.Popen:
    """A run with five jobs, in the middle of the first."""
    for number in range(5):
        site.insert("until_told", json.dumps({"name": f"j{number}"}))
    run = site.start("run")
    eventually(lambda: effects(site), what="the first job")
    return run


def left_in_order(site, run, stopped: str) -> None:
    """The first job was let finish, the others are as they were, and nobody heard a word."""
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, b"", b"")
    assert effects(site) == ["j0", "j0-end"]
    assert site.rows("state, attempts, crashes") == [("done", 1, 0)] + [("ready", 0, 0)] * 4
    standing = site.store().standing("default")
    assert (standing.status, standing.stopped) == ("idle", stopped)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGXCPU"])
def test_every_signal_that_asks_to_stop_lets_the_current_job_finish_and_charges_no_other(shop, name):
    run = started(shop)
    run.send_signal(signal.Signals[name])
    eventually(lambda: "event=signal" in shop.log(), what="the answer to the signal")
    tell(shop)
    left_in_order(shop, run, name.lower())


def test_five_sigterms_are_as_good_as_one(shop):
    run = started(shop)
    for number in range(1, 6):
        run.terminate()
        if number == 1:
            eventually(lambda: "event=signal" in shop.log(), what="the answer to the signal")
    tell(shop)
    left_in_order(shop, run, "sigterm")


def test_a_lease_renewed_while_the_last_job_ends_lets_no_other_begin(shop):
    shop.prelude = "from asyncsend import status; status.BEAT = 0.05"
    for name in ("q0", "q1", "q2", "slow", "t0", "t1", "t2"):
        shop.insert("until_told" if name == "slow" else "mark", json.dumps({"name": name}))
    run = shop.start("run")
    eventually(lambda: "slow" in effects(shop), what="the slow job")
    eventually(lambda: len(shop.rows("id", "state = 'running'")) == 4, what="the claim of the jobs behind it")
    run.terminate()
    eventually(lambda: "event=signal" in shop.log(), what="the answer to the signal")
    store = shop.store()
    beat = store._rows("SELECT beat FROM asyncsend_status")[0][0]
    eventually(lambda: store._rows("SELECT beat FROM asyncsend_status")[0][0] > beat + 1, what="two beats")
    store.close()
    tell(shop)
    assert run.communicate(timeout=60) == (b"", b"")
    assert effects(shop) == ["q0", "q1", "q2", "slow", "slow-end"]
    assert shop.rows("state, attempts, crashes") == [("done", 1, 0)] * 4 + [("ready", 0, 0)] * 3


HESITANT = """
import os, time
from asyncsend import child
serve = child.Child._serve
def late(self, job, tasks):
    open(os.environ["ASYNCSEND_HOME"] + "/handed", "w").close()
    while not os.path.exists(os.environ["ASYNCSEND_HOME"] + "/told"): time.sleep(0.005)
    serve(self, job, tasks)
child.Child._serve = late
"""


def test_a_job_marked_as_started_that_its_worker_had_not_begun_goes_back_uncharged(lite):
    lite.tasks('from asyncsend import task\n@task(delivery="at-most-once")\ndef once(): pass\n')
    lite.insert("once")
    lite.prelude = HESITANT
    run = lite.start("run")
    eventually(lambda: (lite.home / "handed").exists(), what="the job at its worker")
    assert lite.rows("state, started_at IS NOT NULL, reason") == [("running", 1, "started-once")]
    run.terminate()
    eventually(lambda: "event=signal" in lite.log(), what="the answer to the signal")
    tell(lite)
    assert run.communicate(timeout=60) == (b"", b"")
    assert lite.rows("state, attempts, crashes, started_at, reason") == [("ready", 0, 0, None, None)]
    lite.quiet("run")
    assert lite.rows("state, attempts, crashes") == [("done", 1, 0)]


@pytest.mark.parametrize("progress", ["none", "heard", "finished"])
def test_sigkill_after_sigterm_repeats_at_most_the_job_in_flight(shop, progress):
    run = started(shop)
    run.terminate()
    if progress != "none":
        eventually(lambda: "event=signal" in shop.log(), what="the answer to the signal")
    tell(shop)
    if progress == "finished":
        eventually(lambda: "j0-end" in effects(shop), what="the end of the job")
    run.kill()
    run.communicate(timeout=60)
    shop.quiet("run")
    seen = effects(shop)
    assert set(seen) == {f"j{number}{end}" for number in range(5) for end in ("", "-end")}
    assert len(seen) <= 12
    assert [seen.count(f"j{number}") for number in range(1, 5)] == [1] * 4
    assert [state for (state,) in shop.rows("state")] == ["done"] * 5


def test_a_job_that_uses_up_its_cpu_limit_fails_alone(shop):
    shop.insert("busy")
    shop.insert("mark", '{"name":"after"}')
    done = under(shop, "sh", "-c", 'ulimit -S -t 1; ulimit -c 0; exec "$@"', "sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [(state, reason, error)] = shop.rows("state, reason, error", "task = 'busy'")
    assert (state, reason) == ("dead", "max-attempts")
    assert "SIGXCPU" in error
    assert effects(shop) == ["after"]


def test_a_job_that_runs_out_of_memory_fails_alone(shop):
    shop.insert("greedy")
    shop.insert("mark", '{"name":"after"}')
    done = under(shop, "prlimit", "--as=1000000000")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [(state, attempts, error)] = shop.rows("state, attempts, error", "task = 'greedy'")
    assert (state, attempts) == ("dead", 1)
    assert "MemoryError" in error
    assert effects(shop) == ["after"]


def few_processes(number: int) -> list[str]:
    """A limit of processes of one user; root has none, so root becomes somebody else who may read everything."""
    if os.getuid():
        return ["prlimit", "--nproc=1"] if number == 1 else []
    if shutil.which("setpriv") is None:
        missing("setpriv", "apt-get install util-linux")
    rights = "+dac_override,+dac_read_search"
    return ["setpriv", "--reuid=54321", f"--inh-caps={rights}", f"--ambient-caps={rights}", "prlimit", f"--nproc={number}"]


def test_a_host_that_allows_no_further_process_is_exit_75_and_no_job_is_charged(shop):
    shop.insert("mark", '{"name":"a"}')
    done = under(shop, *few_processes(1))
    assert (done.returncode, done.stdout) == (75, ""), done.stderr
    assert "no worker process can be started" in done.stderr
    assert done.stderr.count("\n") == 1
    assert shop.rows("attempts, crashes") == [(0, 0)]
    shop.quiet("run")
    assert effects(shop) == ["a"]
    assert shop.rows("state, attempts, crashes") == [("done", 1, 0)]


def test_a_host_that_allows_one_worker_of_two_gets_everything_done_by_one(shop):
    limit = few_processes(2)
    if not limit:
        missing("root", "only with the right to become another user can a limit of two processes be set")
    for name in "abc":
        shop.insert("mark", json.dumps({"name": name}))
    done = under(shop, *limit, command=("run", "--workers", "2"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert effects(shop) == ["a", "b", "c"]


def test_however_few_files_may_be_open_no_job_is_charged_or_lost(shop):
    ends = set()
    for limit in (7, 9, 12, 14, 24):
        shop.sql("DELETE FROM asyncsend_jobs")
        (shop.home / "effects").unlink(missing_ok=True)
        (shop.home / "trouble").unlink(missing_ok=True)
        shop.insert("mark", '{"name":"a"}')
        done = under(shop, "prlimit", f"--nofile={limit}:{limit}")
        ends.add(done.returncode)
        if done.returncode == 75:
            assert done.stderr.count("\n") == 1
        assert shop.rows("attempts, crashes") == [(int(done.returncode == 0), 0)]
        shop.quiet("run")
        assert effects(shop) == ["a"]
        assert shop.rows("state, attempts, crashes") == [("done", 1, 0)]
    assert {0, 75} <= ends, "else these limits were not the ones that matter"


def test_a_terminal_that_goes_away_costs_no_job(shop):
    for number in range(3):
        shop.insert("until_told", json.dumps({"name": f"j{number}"}))
    ours, theirs = os.openpty()
    run = shop.start("run", stderr=theirs, stdout=theirs)
    os.close(theirs)
    eventually(lambda: effects(shop), what="the first job")
    os.close(ours)
    tell(shop)
    assert run.wait(60) == 0
    assert shop.rows("state, attempts, crashes") == [("done", 1, 0)] * 3


@pytest.mark.parametrize("trouble", [False, True])
def test_a_run_whose_reader_has_gone_keeps_its_exit_code(shop, trouble):
    shop.insert("mark", '{"name":"a"}')
    if trouble:
        shop.sql("DROP TABLE asyncsend_status")
    reader, writer = os.pipe()
    os.close(reader)
    run = shop.start("run", stdout=writer, stderr=writer)
    os.close(writer)
    assert run.wait(60) == (78 if trouble else 0)


def test_a_listing_whose_reader_has_gone_ends_without_a_word(shop):
    for _ in range(3):
        shop.insert("mark", '{"name":"a"}')
    reader, writer = os.pipe()
    os.close(reader)
    listing = shop.start("jobs", stdout=writer)
    os.close(writer)
    assert listing.communicate(timeout=60)[1] == b""


SHORT_LEASE = """
import sys
from asyncsend import status
status.LEASE, status.BEAT, status.MARGIN = 1.5, 0.3, 0.5
from asyncsend.__main__ import main
main()
"""


def test_a_run_that_slept_past_its_lease_starts_nothing_more_when_it_wakes(shop, tmp_path):
    names = ["q0", "q1", "q2", "slow", "t0", "t1", "t2"]
    for name in names:
        shop.insert("until_told" if name == "slow" else "mark", json.dumps({"name": name}))
    run = subprocess.Popen(
        [sys.executable, "-c", SHORT_LEASE, "run"], env=shop.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    eventually(lambda: "slow" in effects(shop), what="the slow job")
    eventually(lambda: len(shop.rows("id", "state = 'done'")) == 3, what="the results of the first three in the database")
    eventually(lambda: len(shop.rows("id", "state = 'running'")) == 4, what="the claim of the jobs behind it")
    everybody = [run.pid, *map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())]
    assert len(everybody) == 2
    try:
        eventually(lambda: asleep(shop, everybody), what="a moment in which the run holds no lock of the database")
        store = shop.store()
        eventually(lambda: not store.standing("default").alive, what="the end of the lease")
        store.close()
        tell(shop)
        other_host = Site(tmp_path / "other", shop.url, ASYNCSEND_TASKS="shop_tasks", ASYNCSEND_PATH=str(shop.home))
        other_host.quiet("run")
        assert effects(shop) == ["q0", "q1", "q2", "slow", "slow", "slow-end", "t0", "t1", "t2"]
        os.kill(everybody[1], signal.SIGCONT)  # the worker first: nobody but its own clock tells it
        eventually(lambda: effects(shop).count("slow-end") == 2, what="the end of the job that was in flight")
        os.kill(run.pid, signal.SIGCONT)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait(60)
    assert (run.returncode, out, err) == (0, b"", b"")
    assert effects(shop) == ["q0", "q1", "q2", "slow", "slow", "slow-end", "t0", "t1", "t2", "slow-end"]
    assert [row for row in shop.rows("state, attempts, crashes") if row != ("done", 1, 0)] == []
    assert "event=lease-lost" in shop.log()


def asleep(site: Site, pids: list[int]) -> bool:
    """Whether all are stopped, and none with the database's lock in its hand: SQLite has nobody who would take that away."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    connection = sqlite3.connect(site.url.removeprefix("sqlite://"), timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        return False
    finally:
        connection.close()
    return True
