"""A whole minute, with real processes: the run, its workers, the journal, and what becomes of them when they are killed."""

import json
import os
import re
import signal
import time

import pytest
from parts import Site, eventually, left_over, made_store

from asyncsend.job import NewJob
from asyncsend.journal import Journal
from asyncsend.outcome import Outcome, State
from asyncsend.run import FIRST_BATCH

TASKS = '''
import os, sys, time, signal, subprocess
from asyncsend import task, Retry, Snooze, Cancel, Backoff

HERE = os.path.dirname(os.path.abspath(__file__))

def note(line):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(line + "\\n")

@task
def mark(name, seconds=0):
    note(f"{name}")
    time.sleep(seconds)

@task(max_attempts=3, backoff=Backoff(base=0, cap=0))
def fail(name):
    note(name)
    raise ValueError(f"cannot do {name}")

@task(max_attempts=1, timeout=0.5)
def hang(): time.sleep(600)

@task(max_attempts=1, timeout=0.5)
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)

@task(max_attempts=1)
def leave(): sys.exit(0)

@task(max_attempts=1)
def vanish(): os._exit(0)

@task(max_attempts=1)
def fork_and_return():
    os.fork()

@task(max_attempts=1)
def fork_and_stay():
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)

@task(max_attempts=1)
def segfault(): os.kill(os.getpid(), signal.SIGSEGV)

@task(max_attempts=1)
def shout():
    for _ in range(1600):
        os.write(1, b"x" * 65536)
    raise ValueError("after 100 MB")

@task(max_attempts=1)
def closes_everything():
    os.closerange(3, 256)

class Unprintable(Exception):
    def __str__(self): raise RuntimeError("no words")

@task(max_attempts=1)
def unprintable(): raise Unprintable

@task
def later(): raise Snooze(3600, "not today")

@task
def never(): return Cancel("not wanted")

@task
def again(): raise Retry(120, "in two minutes")

@task
def result(a, b=2): return {"sum": a + b}

@task(delivery="at-most-once")
def once(name, seconds=0):
    note(name)
    time.sleep(seconds)
'''


@pytest.fixture
def shop(site):
    site.tasks(TASKS)
    return site


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


def states(site) -> dict[str, int]:
    found: dict[str, int] = {}
    for (state,) in site.rows("state"):
        found[state] = found.get(state, 0) + 1
    return found


def job(site, task) -> tuple:
    """state, attempts, reason, error of the one job of this task"""
    [row] = site.rows("state, attempts, reason, error", f"task = '{task}'")
    return row


def test_a_run_does_what_is_due_and_says_nothing(shop):
    shop.insert("mark", '{"name":"a"}')
    shop.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    shop.quiet("run")
    assert states(shop) == {"done": 2}
    assert effects(shop) == ["a"]
    assert len(list((shop.home / "outbox" / "new").iterdir())) == 1
    standing = shop.store().standing("default")
    assert (standing.status, standing.owner, standing.stopped, standing.generation) == ("idle", None, "empty", 1)
    [run] = shop.store().runs(5)
    assert (run.stopped, run.counts["claimed"], run.counts["done"], run.counts["late"]) == ("empty", 2, 2, 0)
    assert shop.settings().journal_path.stat().st_size == 0


def test_a_run_whose_input_and_outputs_are_closed_works_all_the_same(lite):
    lite.tasks(TASKS + "\n@task\ndef says(): print('x' * 100_000)\n")
    for task in ("says", "mark"):
        lite.insert(task, '{"name":"a"}' if task == "mark" else "{}")
    import subprocess
    import sys

    done = subprocess.run(["/bin/sh", "-c", f"exec {sys.executable} -m asyncsend run <&- >&- 2>&-"], env=lite.environment, cwd="/", timeout=60)
    assert done.returncode == 0
    assert states(lite) == {"done": 2}


def test_an_empty_minute_leaves_no_row_and_no_line(shop):
    shop.quiet("run")
    assert shop.store().runs(5) == []
    assert shop.log() == ""
    assert shop.store().standing("default").generation == 1


def test_on_a_terminal_a_run_shows_progress_and_a_summary(lite):
    lite.tasks(TASKS)
    lite.insert("mark", '{"name":"a"}')
    ours, theirs = os.openpty()
    run = lite.start("run", stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # EIO: the other end is closed
            break
        shown += piece
        if not piece:
            break
    os.close(ours)
    assert run.wait(60) == 0
    assert run.stdout.read() == b""
    assert b"Run 1: 1 done in " in shown
    assert b"stopped: empty." in shown


def test_a_failing_job_is_tried_again_until_it_is_dead(shop):
    shop.insert("fail", '{"name":"x"}')
    for _ in range(4):
        shop.quiet("run")
    state, attempts, reason, error = job(shop, "fail")
    assert (state, attempts, reason) == ("dead", 3, "max-attempts")
    assert "ValueError: cannot do x" in error
    assert "shop_tasks.py" in error
    assert effects(shop) == ["x"] * 3
    assert "Traceback" not in shop.log()


def test_a_rows_own_max_attempts_goes_before_the_tasks(shop):
    shop.insert("fail", '{"name":"x"}', max_attempts=1)
    shop.insert("fail", '{"name":"y"}', max_attempts=-5)
    shop.quiet("run")
    assert [row[0] for row in shop.rows("state")] == ["dead", "dead"], "below 1 counts as 1"


def test_answers_lead_where_they_say(shop):
    for name in ("later", "never", "again"):
        shop.insert(name)
    shop.insert("result", '{"a":40}')
    shop.quiet("run")
    assert job(shop, "later")[:3] == ("ready", 0, "snoozed")
    assert job(shop, "never")[:3] == ("cancelled", 0, "cancelled-by-task")
    assert job(shop, "again")[:3] == ("ready", 1, "retry-asked")
    assert shop.rows("state, result", "task = 'result'") == [("done", '{"sum": 42}')]
    store = shop.store()
    waits = {found.task: (found.run_at - store.standing("default").now).total_seconds() for found in store.jobs(state="ready", queue=None, task=None, limit=9)}
    assert 3500 < waits["later"] <= 3600
    assert 100 < waits["again"] <= 120


def test_an_unknown_task_is_held_and_goes_once_it_exists(shop):
    shop.insert("send_fax", '{"name":"f"}')
    shop.quiet("run")
    state, attempts, reason, error = job(shop, "send_fax")
    assert (state, attempts, reason) == ("held", 0, "unknown-task")
    assert "send_fax" in error
    assert "shop_tasks" in error
    shop.tasks(TASKS + "\n@task(name='send_fax')\ndef fax(name): note(name)\n")
    shop("release", str(shop.rows("id")[0][0]))
    shop.quiet("run")
    assert job(shop, "send_fax")[:2] == ("done", 1)
    assert effects(shop) == ["f"]


@pytest.mark.parametrize("payload", ["not json", "[1]", '"text"', "[" * 100_000, '{"a":NaN}', '{"a":"\\ud800"}', "", '{"a":' + "9" * 5000 + "}", '{"unknown":1}'])
def test_a_malformed_payload_is_dead_and_the_run_goes_on(shop, payload):
    shop.insert("result", payload)
    shop.insert("mark", '{"name":"next"}')
    shop.quiet("run")
    state, attempts, reason, error = job(shop, "result")
    assert (state, attempts, reason) == ("dead", 1, "bad-payload")
    assert error
    assert shop.rows("payload", "task = 'result'") == [(payload,)], "the raw text is kept"
    assert effects(shop) == ["next"]


def test_a_payload_of_twenty_megabytes_is_dead_with_the_limit_named(shop):
    megabytes = 15 if shop.url.startswith("mysql") else 20  # the server itself takes no more than 16 MiB
    big = '{"a":"' + "x" * (megabytes * 1024 * 1024) + '"}'
    shop.insert("mark", big)
    shop.insert("mark", '{"name":"next"}')
    shop.quiet("run")
    assert [row[0] for row in shop.rows("state")] == ["dead", "done"]
    assert "4,194,304" in shop.rows("error")[0][0]


@pytest.mark.parametrize(
    ("task", "reason", "words"),
    [
        ("hang", "max-attempts", "took longer than its 0.5 s"),
        ("stubborn", "max-attempts", "took longer than its 0.5 s"),
        ("leave", "max-attempts", "sys.exit"),
        ("vanish", "max-attempts", "exit code 0"),
        ("segfault", "max-attempts", "SIGSEGV"),
        ("shout", "max-attempts", "after 100 MB"),
        ("unprintable", "max-attempts", "Unprintable"),
    ],
)
def test_a_task_that_misbehaves_fails_alone(lite, task, reason, words):
    lite.tasks(TASKS)
    lite.insert("mark", '{"name":"before"}')
    lite.insert(task)
    lite.insert("mark", '{"name":"after"}')
    lite.quiet("run")
    state, attempts, why, error = job(lite, task)
    assert (state, attempts, why) == ("dead", 1, reason)
    assert words in error
    assert effects(lite) == ["before", "after"]
    assert left_over(lite) == []
    assert len(lite.log()) < 10_000


@pytest.mark.parametrize("task", ["fork_and_return", "fork_and_stay"])
def test_a_task_that_forks_leaves_no_process_and_repeats_nothing(lite, task):
    lite.tasks(TASKS)
    lite.insert(task)
    lite.insert("mark", '{"name":"after"}')
    lite.quiet("run")
    assert job(lite, task)[:2] == ("done", 1)
    assert effects(lite) == ["after"]
    assert left_over(lite) == []


def test_a_task_that_closes_every_descriptor_harms_only_its_worker(lite):
    lite.tasks(TASKS)
    lite.insert("closes_everything")
    lite.insert("mark", '{"name":"after"}')
    lite.quiet("run")
    assert job(lite, "closes_everything")[0] in ("done", "dead")
    assert effects(lite) == ["after"]


LEAKS = """
import os, threading, time
kept = []

@task(max_attempts=1)
def descriptors():
    while True: kept.append(os.open("/dev/null", os.O_RDONLY))

@task(max_attempts=1)
def memory(): kept.append(b"x" * 400_000_000)

@task(max_attempts=1)
def threads():
    for _ in range(20): threading.Thread(target=time.sleep, args=(600,)).start()

@task(max_attempts=2, backoff=Backoff(base=600, cap=600, floor=600))
def interrupt(): raise KeyboardInterrupt

@task
def once_more(): note("again")
"""


@pytest.mark.parametrize("task", ["descriptors", "memory", "threads", "interrupt"])
def test_what_a_task_leaves_behind_does_not_reach_the_jobs_after_it(lite, task):
    lite.tasks(TASKS + LEAKS)
    lite.insert(task)
    for name in "abc":
        lite.insert("mark", json.dumps({"name": name}))
    lite.insert("once", '{"name":"o"}')
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.quiet("run")
    assert job(lite, task)[:2] == {"descriptors": ("dead", 1), "memory": ("done", 1), "threads": ("done", 1), "interrupt": ("ready", 1)}[task]
    assert lite.rows("state, attempts", f"task <> '{task}'") == [("done", 1)] * 5
    assert sorted(effects(lite)) == ["a", "b", "c", "o"]
    assert ("event=worker-replaced" in lite.log()) == (task in ("descriptors", "memory"))
    assert left_over(lite) == []


def test_a_task_that_changes_its_process_changes_nothing_for_the_run_and_the_senders(lite, smtp):
    lite.tasks(TASKS + """
import locale, socket, shutil, tempfile
@task
def upset():
    here = tempfile.mkdtemp()
    os.chdir(here)
    shutil.rmtree(here)
    os.umask(0)
    os.environ.clear()
    os.environ.update(HOME="/nonexistent", ASYNCSEND_EMAIL_URL="smtp://127.0.0.1:1", PATH="")
    socket.setdefaulttimeout(0.000001)
    for name in ("C.UTF-8", "C"):
        try: locale.setlocale(locale.LC_ALL, name)
        except locale.Error: pass
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.stdout = sys.stderr = sys.stdin = None
    sys.setrecursionlimit(200)
""")
    lite.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    lite.insert("upset")
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.insert("sms", '{"to":"+33612345678","text":"Hello"}')
    lite.quiet("run")
    assert lite.rows("state, error") == [("done", None)] * 3
    assert len(smtp.mails) == 1
    assert (lite.home / "outbox" / "sms.log").stat().st_mode & 0o077 == 0
    assert left_over(lite) == []


def test_a_job_that_takes_longer_than_the_lease_keeps_it(shop):
    import subprocess
    import sys

    shop.insert("mark", '{"name":"long","seconds":2.5}')
    shop.insert("mark", '{"name":"next"}')
    shorter = "from asyncsend import status; status.LEASE, status.BEAT, status.MARGIN = 1.5, 0.3, 0.5; from asyncsend.cli import cli; cli(['run'])"
    run = subprocess.Popen([sys.executable, "-c", shorter], env=shop.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: effects(shop), what="the long job")
    store, seen = shop.store(), []
    while run.poll() is None:
        standing = store.standing("default")
        seen.append(standing.alive or standing.owner is None)
        time.sleep(0.05)
    store.close()
    assert run.communicate() == (b"", b"")
    assert seen and all(seen), "no other host could have taken over"
    assert effects(shop) == ["long", "next"]
    assert states(shop) == {"done": 2}
    assert "event=job-late" not in shop.log()


def test_a_deploy_in_the_middle_of_a_run_is_seen_by_the_next_run(lite):
    lite.tasks(TASKS + "\n@task\ndef version():\n    note('old')\n    time.sleep(0.5)\n")
    for _ in range(3):
        lite.insert("version")
    run = lite.start("run")
    eventually(lambda: effects(lite), what="the first job")
    lite.tasks(TASKS + "\n@task\ndef version(): note('new')\n")
    assert run.wait(60) == 0
    assert effects(lite) == ["old"] * 3, "what was imported before the first claim is what runs"
    lite.insert("version")
    lite.quiet("run")
    assert effects(lite)[3:] == ["new"]


def test_a_pause_in_the_middle_of_a_run_holds_after_one_batch(shop):
    for number in range(40):
        shop.insert("mark", json.dumps({"name": f"j{number}", "seconds": 0.15}))
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the first job")
    shop("pause", "default")
    paused_at = len(effects(shop))
    assert run.wait(60) == 0
    assert len(effects(shop)) <= paused_at + 16
    assert states(shop)["ready"] == 40 - len(effects(shop)) > 0
    assert shop.store().standing("default").stopped == "empty"


def test_a_rows_own_timeout_goes_before_the_tasks(lite):
    lite.tasks(TASKS)
    lite.insert("mark", '{"name":"slow","seconds":60}', timeout_seconds=0, max_attempts=1)
    lite.quiet("run")
    assert "took longer than its 1 s" in job(lite, "mark")[3], "below 1 counts as 1"


def test_two_runs_started_together_one_works_the_other_leaves_in_silence_and_is_counted(shop):
    shop.insert("mark", '{"name":"slow","seconds":1.5}')
    first = shop.start("run")
    eventually(lambda: effects(shop), what="the first run's job")
    shop.quiet("run")
    shop.quiet("run")
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out, err) == (0, b"", b"")
    assert effects(shop) == ["slow"]
    assert shop.store().standing("default").lock_held == 2


def test_while_it_runs_the_status_row_says_in_progress(shop):
    shop.insert("mark", '{"name":"slow","seconds":1}')
    running = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    standing = shop.store().standing("default")
    assert (standing.status, standing.alive, standing.pid) == ("in-progress", True, running.pid)
    status = json.loads(shop("status", "--json").stdout)
    assert (status["status"], status["pid"]) == ("in-progress", running.pid)
    assert running.wait(60) == 0
    assert shop.store().standing("default").status == "idle"


def test_after_kill_9_the_next_run_finishes_everything_by_itself(shop):
    for number in range(40):
        shop.insert("mark", json.dumps({"name": f"j{number}", "seconds": 0.02}))
    victim = shop.start("run")
    eventually(lambda: len(effects(shop)) >= 10, what="ten jobs")
    victim.kill()
    victim.wait(60)
    eventually(lambda: not left_over(shop), what="the death of the workers")
    status = json.loads(shop("status", "--json").stdout)
    assert (status["died"], status["status"]) == (True, "idle"), "its lease lives for two minutes, its process does not"
    shop.sql("UPDATE asyncsend_status SET lock_id = CONCAT('x', lock_id)")
    elsewhere = json.loads(shop("status", "--json").stdout)
    assert (elsewhere["died"], elsewhere["status"]) == (False, "in-progress"), "of another host's run only the lease is known"
    shop.sql("UPDATE asyncsend_status SET lock_id = SUBSTR(lock_id, 2)")
    shop.quiet("run")
    assert states(shop) == {"done": 40}
    done = effects(shop)
    assert set(done) == {f"j{number}" for number in range(40)}
    assert len(done) <= 41, "at most the one job in flight is repeated"
    runs = shop.store().runs(5)
    assert [run.stopped for run in runs] == ["empty", "died"]
    assert sum(attempts for (attempts,) in shop.rows("attempts")) == 40, "what had finished was not charged twice"


def test_sigterm_lets_the_current_job_finish_and_gives_the_others_back_uncharged(shop):
    for number in range(5):
        shop.insert("mark", json.dumps({"name": f"j{number}", "seconds": 1}))
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the first job")
    run.terminate()
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, b"", b"")
    assert states(shop) == {"done": 1, "ready": 4}
    assert shop.rows("attempts, crashes", "state = 'ready'") == [(0, 0)] * 4
    assert shop.store().standing("default").stopped == "sigterm"
    assert left_over(shop) == []


def test_what_a_dead_run_finished_is_replayed_from_the_journal_and_not_repeated(shop):
    shop.insert("mark", '{"name":"finished"}')
    shop.insert("mark", '{"name":"started"}')
    shop.insert("mark", '{"name":"untouched"}')
    store = shop.store()
    finished, started, _untouched = store.claim(["default"], 3, "ab" * 16, 1)
    journal = Journal(shop.settings().journal_path)
    journal.started(finished.id, finished.token)
    journal.finished(finished.id, finished.token, Outcome("finish", State.DONE))
    journal.started(started.id, started.token)
    os.write(journal.descriptor, b"00000000 D torn")
    journal.close()
    shop.quiet("run")
    assert effects(shop) == ["started", "untouched"]
    assert shop.rows("state, attempts, crashes") == [("done", 1, 0), ("done", 1, 1), ("done", 1, 0)]
    [run] = store.runs(1)
    assert (run.counts["replayed"], run.counts["rescued"]) == (1, 2)
    store.close()


def test_a_run_that_is_asked_to_stop_at_once_still_charges_what_a_dead_run_had_started(tmp_path):
    """The journal is cleared after the rescue, so the rescue may not be cut short."""
    from asyncsend.budget import Budget
    from asyncsend.log import Log
    from asyncsend.run import run

    url = f"sqlite:///{tmp_path}/x.sqlite3"
    made_store(url).close()
    site = Site(tmp_path / "home", url)
    site.insert("mark", "{}")
    store = site.store()
    [started] = store.claim(["default"], 1, "ab" * 16, 1)
    journal = Journal(site.settings().journal_path)
    journal.started(started.id, started.token)
    journal.close()
    budget = Budget(time.monotonic, 50)
    budget.stop_asked = "sigterm"
    run(store, site.settings(), Log(tmp_path / "log"), budget)
    store.close()
    assert site.rows("state, crashes") == [("ready", 1)]


def test_a_row_somebody_set_to_running_by_hand_is_taken_back(shop):
    shop.insert("mark", '{"name":"a"}')
    shop.sql("UPDATE asyncsend_jobs SET state = 'running'")
    shop.quiet("run")
    assert effects(shop) == ["a"]
    assert states(shop) == {"done": 1}


def test_a_job_in_flight_at_three_deaths_of_its_run_is_dead(lite):
    lite.tasks("import os, signal\nfrom asyncsend import task\n@task\ndef poison(): os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)\n@task\ndef fine(): pass\n")
    lite.insert("poison")
    lite.insert("fine")
    for _ in range(3):
        killed = lite("run", code=None)
        assert killed.returncode == -signal.SIGKILL
    lite.quiet("run")
    [row] = lite.rows("state, reason, crashes, attempts", "task = 'poison'")
    assert row == ("dead", "crash-loop", 3, 0)
    assert job(lite, "fine")[0] == "done"


def test_an_at_most_once_job_is_held_after_a_crash_and_never_repeated(shop):
    shop.insert("once", '{"name":"o","seconds":30}')
    shop.insert("mark", '{"name":"m"}')
    victim = shop.start("run")
    eventually(lambda: effects(shop), what="the effect")
    assert shop.rows("started_at", "task = 'once'")[0][0] is not None
    victim.kill()
    victim.wait(60)
    eventually(lambda: not left_over(shop), what="the death of the workers")
    shop.quiet("run")
    shop.quiet("run")
    assert effects(shop) == ["o", "m"]
    assert job(shop, "once")[0] == "held"
    assert "unknown" in job(shop, "once")[2]


def test_an_at_most_once_job_that_ends_well_is_done(shop):
    shop.insert("once", '{"name":"o"}')
    shop.insert("mark", '{"name":"m"}')
    shop.quiet("run")
    assert states(shop) == {"done": 2}


def test_a_living_run_of_another_host_is_left_alone(shop):
    shop.insert("mark", '{"name":"a"}')
    store = shop.store()
    store.take("default", store.standing("default"), "f" * 32, "another-host", "elsewhere", 4711, 120)
    shop.quiet("run")
    assert effects(shop) == []
    assert "event=held-elsewhere" in shop.log()
    store._write("UPDATE asyncsend_status SET lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1)")
    shop.quiet("run")
    assert effects(shop) == ["a"]
    store.close()


def test_a_run_that_lost_its_lease_stops_and_none_of_its_results_is_taken(shop):
    shop.insert("mark", '{"name":"slow","seconds":2}')
    run = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    store = shop.store()
    store._write("UPDATE asyncsend_status SET owner = 'ffffffffffffffffffffffffffffffff', lock_id = 'other', generation = generation + 1")
    store._write("UPDATE asyncsend_jobs SET state = 'ready', token = NULL")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, b"", b"")
    assert states(shop) == {"ready": 1}
    assert "event=job-late" in shop.log()
    assert shop.settings().journal_path.stat().st_size > 0, "what was refused may still be written, if nobody took the job back"
    store.close()


def test_queues_are_served_in_order_and_paused_ones_not(lite):
    lite.tasks(TASKS)
    for queue in ("low", "b", "critical", "default", "paused"):
        lite.insert("mark", json.dumps({"name": queue}), queue=queue)
    lite("pause", "paused")
    lite.quiet("run")
    assert effects(lite) == ["critical", "default", "b", "low"]
    lite("resume", "paused")
    lite.quiet("run", "--queues", "nothing")
    assert len(effects(lite)) == 4
    lite.quiet("run", "--queues", "paused")
    assert effects(lite)[-1] == "paused"


def test_blanks_at_the_end_of_a_queue_s_name_neither_stop_the_queue_nor_get_past_its_pause(shop):
    for queue in ("default ", "default", "default  "):
        shop.insert("mark", json.dumps({"name": f"[{queue}]".replace(" ", "_")}), queue=queue)
    shop("pause", "default")
    shop.quiet("run")
    assert effects(shop) == []
    assert "its queue default is paused" in shop("why", "1").stdout
    shop("resume", "default")
    due = [queue for queue in json.loads(shop("status", "--json").stdout)["queues"] if queue["state"] == "ready"]
    assert [(queue["queue"], queue["jobs"], queue["due"]) for queue in due] == [("default", 3, 3)]
    shop.quiet("run", "--queues", "default")
    assert sorted(effects(shop)) == ["[default]", "[default_]", "[default__]"]


def test_an_urgent_job_overtakes_a_long_backlog(lite):
    lite.tasks(TASKS)
    for number in range(60):
        lite.insert("mark", json.dumps({"name": f"bulk{number}", "seconds": 0.1}))
    run = lite.start("run", "--max-time", "30s")
    eventually(lambda: len(effects(lite)) >= 3, what="three jobs")
    lite.insert("mark", '{"name":"urgent"}', queue="critical")
    eventually(lambda: "urgent" in effects(lite), what="the urgent job")
    assert len(effects(lite)) < 50, "it did not wait for the backlog"
    run.terminate()
    assert run.wait(60) == 0


def test_an_expired_job_is_cancelled_instead_of_executed(shop):
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, expires_at) VALUES ('mark', '{}', FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 5))")
    shop.quiet("run")
    assert job(shop, "mark")[:3] == ("cancelled", 0, "expired")
    assert effects(shop) == []


@pytest.mark.parametrize("written", ["2020-01-01", "20200101", "2020-01-01 10:00:00.5", "last year"])
def test_status_can_be_had_whatever_somebody_wrote_as_a_time_into_sqlite(lite, written):
    lite.insert("mark", '{"name":"one"}', created_at=written, run_at=None)
    assert "default  1 " in lite("status").stdout
    lite("job", "1")


def test_max_jobs_and_max_time_end_a_run_and_leave_the_rest(lite):
    lite.tasks(TASKS)
    for number in range(6):
        lite.insert("mark", json.dumps({"name": f"j{number}", "seconds": 0.3}))
    lite.quiet("run", "--max-jobs", "2")
    assert states(lite) == {"done": 2, "ready": 4}
    assert lite.store().runs(1)[0].stopped == "max-jobs"
    lite.quiet("run", "--max-time", "0.2")
    assert lite.store().standing("default").stopped in ("max-time", "no-room")
    assert states(lite)["ready"] >= 2
    assert [row for row in lite.rows("attempts", "state = 'ready'") if row != (0,)] == []


def test_linger_waits_for_new_jobs(lite):
    lite.tasks(TASKS)
    run = lite.start("run", "--linger", "--max-time", "60s")
    eventually(lambda: lite.store().standing("default").status == "in-progress", what="the run")
    lite.insert("mark", '{"name":"new"}')
    eventually(lambda: effects(lite) == ["new"], what="the new job")
    run.terminate()
    assert run.wait(60) == 0
    assert lite.store().standing("default").stopped == "sigterm"


def test_jobs_that_come_one_by_one_to_a_run_that_lingers_do_not_make_its_batches_grow(lite):
    lite.tasks(TASKS)
    run = lite.start("run", "--linger", "--max-time", "60s", "--workers", "1")
    for number in range(3):
        lite.insert("mark", json.dumps({"name": f"n{number}", "seconds": 0.2}))
        eventually(lambda: states(lite).get("done") == number + 1, what="the lone job")
    lite.store().insert([NewJob("mark", json.dumps({"name": f"b{number}", "seconds": 0.2}), f"b{number}") for number in range(40)])
    eventually(lambda: "b0" in effects(lite), what="the first of the burst")
    assert states(lite).get("running", 0) <= 2 * FIRST_BATCH
    run.terminate()
    assert run.wait(60) == 0


def test_workers_execute_at_the_same_time(lite):
    lite.tasks(TASKS + "\n@task\ndef meet(who):\n    note(who)\n    while len(open(os.path.join(HERE, 'effects')).read().split()) < 3: time.sleep(0.01)\n")
    for who in "abc":
        lite.insert("meet", json.dumps({"who": who}))
    lite.quiet("run", "--workers", "3")
    assert states(lite) == {"done": 3}
    assert sorted(effects(lite)) == ["a", "b", "c"]


def test_a_module_that_cannot_be_imported_stops_no_mail(lite):
    lite.tasks("this is no Python")
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.insert("mark", "{}")
    lite.quiet("run")
    assert job(lite, "email")[0] == "done"
    assert job(lite, "mark")[:3] == ("ready", 0, "module-failed")
    assert "SyntaxError" in job(lite, "mark")[3]
    assert "event=module-failed" in lite.log()


@pytest.mark.parametrize("source", ["import os; os._exit(3)", "import sys; sys.exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_module_that_ends_the_process_stops_no_mail(lite, source):
    lite.tasks(source)
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.insert("mark", "{}")
    lite.quiet("run")
    assert job(lite, "email")[0] == "done"
    assert job(lite, "mark")[:3] == ("ready", 0, "module-failed")


def test_a_module_that_hangs_stops_no_mail(lite):
    lite.tasks("import time; time.sleep(600)")
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.insert("mark", "{}")
    lite.quiet("run", "--max-time", "6s")
    assert job(lite, "email")[0] == "done"
    assert job(lite, "mark")[:3] == ("ready", 0, "module-failed")
    assert left_over(lite) == []


def test_old_finished_jobs_are_pruned(shop):
    shop.insert("mark", '{"name":"old"}')
    shop.quiet("run")
    shop.sql("UPDATE asyncsend_jobs SET finished_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 700000)")
    shop.sql("UPDATE asyncsend_status SET pruned_at = NULL")
    shop.quiet("run")
    assert shop.rows("id") == []
    assert "event=pruned" in shop.log()


def test_without_a_journal_every_result_is_written_at_once(shop):
    shop.settings().journal_path.mkdir()
    for number in range(5):
        shop.insert("mark", json.dumps({"name": f"j{number}"}))
    shop.quiet("run")
    assert states(shop) == {"done": 5}
    assert "event=journal-broken" in shop.log()


def test_a_full_disk_under_the_log_stops_nothing(lite):
    (lite.home / "asyncsend.log").mkdir()
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.quiet("run")
    assert job(lite, "email")[0] == "done"


def test_a_thousand_jobs_leave_one_line_each_and_a_true_history(shop):
    store = shop.store()
    from asyncsend.job import NewJob

    store.insert([NewJob("result", '{"a":1}', f"u{number}") for number in range(1000)])
    shop.quiet("run")
    assert states(shop) == {"done": 1000}
    assert len(re.findall("event=job-done", shop.log())) == 1000
    assert store.runs(1)[0].counts["done"] == 1000
    store.close()


def test_the_database_going_away_in_the_middle_is_exit_75_and_nothing_is_lost_or_repeated(tmp_path, server, proxied):
    proxy = proxied(server)
    with server.database() as name:
        made_store(server.url(name)).close()
        site = Site(tmp_path / "home", server.url(name))
        site.tasks(TASKS)
        for number in range(8):
            site.insert("mark", json.dumps({"name": f"j{number}", "seconds": 0.3}))
        site.environment["ASYNCSEND_DATABASE_URL"] = server.url(name, proxy.port)
        run = site.start("run")
        eventually(lambda: effects(site), what="the first job")
        proxy.refusing = True
        proxy.cut()
        out, err = run.communicate(timeout=90)
        assert run.returncode == 75, err
        assert out == b""
        assert err.count(b"\n") == 1
        assert b"Traceback" not in err
        eventually(lambda: not left_over(site), what="the end of the workers")
        proxy.refusing = False
        site.quiet("run")
        assert states(site) == {"done": 8}
        assert sorted(effects(site)) == sorted(f"j{number}" for number in range(8))


def test_a_row_that_cannot_be_settled_is_held_and_its_neighbours_are_done(shop):
    shop.insert("mark", '{"name":"a"}')
    shop.insert("mark", '{"name":"b"}', attempts=65535 if shop.url.startswith("mysql") else 1)
    shop.insert("fail", '{"name":"c"}', unique_key="k", unique_slot=None)
    shop.insert("mark", '{"name":"d"}', unique_key="k", run_at="2037-01-01 00:00:00")
    shop.quiet("run")
    rows = shop.rows("state, reason")
    assert rows[0] == ("done", None)
    assert rows[1] == (("held", "bad-row") if shop.url.startswith("mysql") else ("done", None))
    assert rows[2] == ("held", "bad-row")
    assert rows[3][0] == "ready"
    shop.quiet("run")


@pytest.mark.parametrize("how", ["directory", "fifo"])
def test_without_a_journal_a_poison_job_is_charged_all_the_same(lite, how):
    lite.tasks("import os, signal\nfrom asyncsend import task\n@task\ndef poison(): os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)\n@task\ndef fine(): pass\n")
    path = lite.settings().journal_path
    path.mkdir() if how == "directory" else os.mkfifo(path)
    lite.insert("poison")
    lite.insert("fine")
    for _ in range(3):
        assert lite("run", code=None).returncode == -signal.SIGKILL
    lite.quiet("run")
    assert lite.rows("state, reason, crashes", "task = 'poison'") == [("dead", "crash-loop", 3)]
    assert job(lite, "fine")[0] == "done"


def test_on_a_full_disk_an_at_most_once_job_that_kills_its_worker_runs_once(lite):
    import subprocess
    import sys

    lite.tasks(TASKS + "\n@task(delivery='at-most-once')\ndef strike():\n    open(os.path.join(os.path.dirname(HERE), 'struck-' + str(os.getpid())), 'w').close()\n    os._exit(9)\n")
    lite.insert("strike")
    lite.insert("mark", '{"name":"a"}')
    # files may not grow: the journal's writes fail, while creating files and SQLite's own pages go on in what is there
    lite.sql("CREATE TABLE room (x)")
    journal = lite.settings().journal_path
    journal.touch(0o600)
    full = f"mount -t tmpfs -o size=4k none {lite.home}/full && dd if=/dev/zero of={lite.home}/full/x bs=4k count=1 2>/dev/null; mount --bind {lite.home}/full/x {journal}"
    (lite.home / "full").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{full} && exec {sys.executable} -m asyncsend run --max-time 10s"], env=lite.environment, capture_output=True, text=True, cwd="/", timeout=60
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(lite.home.parent.glob("struck-*"))) == 1
    assert lite.rows("state, reason", "task = 'strike'") == [("held", "unknown")]
    assert effects(lite) == ["a"]


def test_a_job_that_sigterm_had_to_interrupt_is_an_attempt_and_no_crash(lite, monkeypatch):
    lite.tasks(TASKS)
    lite.insert("mark", '{"name":"a","seconds":60}')
    run = lite.start("run")
    eventually(lambda: effects(lite), what="the job")
    run.terminate()
    assert run.wait(60) == 0
    assert lite.rows("state, attempts, crashes, reason") == [("ready", 1, 0, "interrupted")]
    assert left_over(lite) == []


def test_another_database_in_the_same_folder_leaves_the_journal_alone(lite, tmp_path):
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    ours = lite.settings().journal_path
    other = Site(lite.home, f"sqlite:///{tmp_path}/other.sqlite3")
    assert other.settings().journal_path != ours
    assert Site(lite.home, "mysql://u:one@h/d").settings().journal_path == Site(lite.home, "mysql://u:two@h/d").settings().journal_path


def test_what_a_job_printed_stands_at_its_own_error_and_at_no_neighbour_s(lite):
    lite.tasks("import os\nfrom asyncsend import task\n@task(max_attempts=1)\ndef say(name, fails):\n    os.write(1, name.encode())\n    if fails: raise ValueError('no')\n")
    for number in range(60):
        lite.insert("say", json.dumps({"name": f"<{number}>", "fails": number % 3 == 2}))
    lite.quiet("run")
    for number, (state, error) in enumerate(lite.rows("state, error")):
        if number % 3 == 2:
            assert state == "dead"
            assert error.endswith(f" It printed: <{number}>")
        else:
            assert (state, error) == ("done", None)


@pytest.mark.parametrize("words", ["x", "5", "[]", '{"outcome":{}}', '{"policies":3,"failed":{}}'])
def test_a_task_that_writes_into_the_runs_socket_loses_its_worker_only(lite, words):
    lite.tasks(
        "import os, stat, time\nfrom asyncsend import task\n@task(max_attempts=1)\ndef bad(words):\n    for number in range(3, 64):\n        try:\n"
        "            if stat.S_ISSOCK(os.fstat(number).st_mode): os.write(number, words.encode() + b'\\n')\n        except OSError: pass\n    time.sleep(30)\n"
    )
    lite.insert("bad", json.dumps({"words": words}))
    lite.insert("bad", "{}", max_attempts=1)
    lite.quiet("run")
    assert lite.rows("state, attempts, crashes") == [("dead", 1, 0)] * 2


PATIENT = """
import os, time
from asyncsend import task
HERE = os.path.dirname(os.path.abspath(__file__))
@task
def quick():
    time.sleep(0.004)
    with open(HERE + "/done", "a") as file: file.write(".")
@task(max_attempts=1, timeout=30)
def patient():
    while os.path.getsize(HERE + "/done") < 700: time.sleep(0.01)
"""


def test_a_slow_job_keeps_one_worker_busy_and_the_others_go_on_to_claim(lite):
    lite.tasks(PATIENT)
    lite.environment["ASYNCSEND_WORKERS"] = "2"
    lite.store().insert([NewJob("patient" if number == 300 else "quick", "{}", f"u{number}") for number in range(900)])
    lite.quiet("run")
    assert states(lite) == {"done": 900}
