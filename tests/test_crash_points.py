"""A run dies at each point there is; the next one, at once and with nothing mended, makes good exactly what that point means."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from parts import ROOT, Site, SmtpSink, eventually, made_store

from asyncsend.job import NewJob

TASKS = """
import os, sys
from asyncsend import task, Backoff

def effect(key):
    file = os.open(os.path.join(os.path.dirname(__file__), "effects"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{key}\\n".encode())
    os.close(file)
    getattr(sys.modules["__main__"], "reached", lambda _: None)("in the effect")

@task(max_attempts=5, backoff=Backoff(base=0, cap=0))
def mark(key):
    effect(key)
    return {"key": key}

@task(delivery="at-most-once")
def once(key):
    effect(key)
"""
KINDS = {"m": "mark", "o": "once", "e": "email"}
# Point, passage, order of the kinds, and what differs from: each job done with one effect, one attempt charged, no crash.
#   twice: one more effect   crash: charged one   again: an attempt more   held: in doubt, after its effect   unrun: held, and no effect
TABLE = [
    # the run, on its way to the first job
    ("before the lock", 1, "moe", ""),
    ("the lock is had", 1, "moe", ""),
    ("before the status row is taken", 1, "moe", ""),
    ("the status row is taken", 1, "moe", ""),
    ("before the candidates are read", 1, "moe", ""),
    ("the candidates are read", 1, "moe", ""),
    ("the claim is sent, its reply unread", 1, "moe", ""),
    ("claimed, not read by token", 1, "moe", ""),
    ("claimed, nothing handed", 1, "moe", ""),
    ("a worker is forked", 1, "moe", ""),
    ("the start mark is committed", 1, "ome", "o1 unrun"),
    # the worker and with it the run, around the effect
    ("before S", 1, "moe", ""),
    ("before S", 1, "ome", "o1 unrun"),
    ("before S", 1, "eom", ""),
    ("S written", 1, "moe", "m1 crash"),
    ("S written", 1, "ome", "o1 unrun"),
    ("S written", 3, "moe", "e1 crash"),
    ("in the effect", 1, "moe", "m1 twice crash"),
    ("in the effect", 1, "ome", "o1 held"),
    ("the mail is taken", 1, "moe", "e1 twice crash"),
    ("effect done", 1, "moe", "m1 twice crash"),
    ("effect done", 2, "moe", "o1 held"),
    ("effect done", 3, "moe", "e1 twice crash"),
    ("D torn", 1, "moe", "m1 twice crash"),
    ("D torn", 2, "moe", "o1 held"),
    ("D torn", 3, "moe", "e1 twice crash"),
    ("D written", 1, "moe", ""),
    ("D written", 2, "moe", ""),
    ("D written", 3, "moe", ""),
    ("outcome said", 2, "moe", ""),  # the first thing a worker says is what tasks it knows
    ("outcome said", 3, "moe", ""),
    ("outcome said", 2, "emo", ""),
    # the run, on its way from a result to its end
    ("the outcome is heard", 1, "moe", ""),
    ("the outcome is heard", 1, "ome", ""),
    ("the outcome is heard", 1, "emo", ""),
    ("before the COMMIT", 1, "moe", ""),
    ("settled, the journal not cleared", 1, "moe", ""),
    ("the journal is cleared", 1, "moe", ""),
    ("before pruning", 1, "moe", ""),
    ("pruned", 1, "moe", ""),
    ("before the status row is ended", 1, "moe", ""),
    ("the status row is ended", 1, "moe", ""),
    ("before the history is saved", 1, "moe", ""),
    ("the history is saved", 1, "moe", ""),
    # the worker alone: its run goes on and decides at once
    ("before S, worker only", 1, "moe", ""),
    ("before S, worker only", 1, "ome", "o1 unrun"),
    ("S written, worker only", 1, "moe", "m1 again"),
    ("S written, worker only", 1, "ome", "o1 unrun"),
    ("in the effect, worker only", 1, "moe", "m1 twice again"),
    ("effect done, worker only", 1, "moe", "m1 twice again"),
    ("effect done, worker only", 1, "ome", "o1 held"),
    ("D torn, worker only", 1, "moe", "m1 twice again"),
    ("D torn, worker only", 1, "ome", "o1 held"),
    ("D written, worker only", 1, "moe", ""),
    ("D written, worker only", 1, "ome", ""),
    ("outcome said, worker only", 2, "moe", ""),
]
# The run after a death ("effect done", with the mail third: two results to replay, one to rescue) dies itself.
SECOND = ["the status row is taken", "a result is replayed", "replayed, not rescued", "before the COMMIT", "rescued, the journal not cleared", "the journal is cleared"]


def crashed(site: Site, point: str, passage: int, command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "crash_at.py"), point, str(passage), command],
        env=site.environment, capture_output=True, text=True, cwd="/", timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


class Stage:
    """One database, one home and one mail server; what a case left is swept before the next."""

    def __init__(self, folder, url, smtp):
        self.site = Site(folder / "home", url, ASYNCSEND_EMAIL_URL=smtp.url)
        self.site.tasks(TASKS)
        self.store, self.smtp = made_store(url), smtp

    def enqueue(self, order: str) -> None:
        for table in ("jobs", "runs"):
            self.store._write(f"DELETE FROM asyncsend_{table}")
        self.store._write("UPDATE asyncsend_status SET pruned_at = NULL")
        self.smtp.mails.clear()
        for path in [self.site.home / "effects", *self.site.home.glob("asyncsend.log*")]:
            path.unlink(missing_ok=True)
        keys = [kind + number for number in "12" for kind in order]
        payloads = {"m": {"key": None}, "o": {"key": None}, "e": {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}}
        self.store.insert([NewJob(KINDS[key[0]], json.dumps({name: value or key for name, value in payloads[key[0]].items()}), key) for key in keys])

    def crash(self, point: str, passage: int) -> None:
        done = crashed(self.site, point, passage, "run")
        assert (done.returncode, done.stdout, done.stderr) == (0 if "worker only" in point else -9, "", "")

    def effects(self) -> Counter:
        path = self.site.home / "effects"
        seen = Counter(path.read_text().split() if path.exists() else [])
        return seen + Counter(re.search(rb"Message-ID: <([^@>]+)@", content)[1].decode() for _, _, content in self.smtp.mails)

    def check(self, differs: str) -> None:
        """Everything is where it belongs, to the last attempt; nothing is left of what happened."""
        key, *words = differs.split() or [""]
        jobs = {uid: row for uid, *row in self.store._rows("SELECT uid, state, attempts, crashes FROM asyncsend_jobs")}
        expected = {uid: ["done", 1, 0] for uid in ("m1", "m2", "o1", "o2", "e1", "e2")}
        effects = Counter(dict.fromkeys(expected, 1))
        if key:
            doubt = "held" in words or "unrun" in words
            expected[key] = ["held" if doubt else "done", 2 if "again" in words else 1, int("crash" in words)]
            effects[key] += ("twice" in words) - ("unrun" in words)
        assert jobs == expected
        assert self.effects() == +effects
        assert self.store.standing("default").status == "idle"
        assert self.store._rows("SELECT stopped FROM asyncsend_runs WHERE finished_at IS NULL") == []
        assert self.site.settings().journal_path.stat().st_size == 0


@pytest.fixture(scope="module")
def sink():
    made = SmtpSink()
    yield made
    made.controller.stop()


@pytest.fixture(scope="module", params=["sqlite", "mysql"])
def stage(request, tmp_path_factory, sink):
    folder = tmp_path_factory.mktemp("stage")
    if request.param == "sqlite":
        made = Stage(folder, f"sqlite:///{folder}/x.sqlite3", sink)
        yield made
        made.store.close()
        return
    server = request.getfixturevalue("server")
    with server.database() as name:
        made = Stage(folder, server.url(name), sink)
        yield made
        made.store.close()


@pytest.mark.parametrize(("point", "passage", "order", "differs"), TABLE)
def test_the_next_run_makes_good_what_a_death_at_this_point_left(stage, point, passage, order, differs):
    if "reply unread" in point and stage.site.url.startswith("sqlite"):
        return  # no reply there that could stay unread
    stage.enqueue(order)
    stage.crash(point, passage)
    stage.site.quiet("run")
    stage.check(differs)


@pytest.mark.parametrize("point", SECOND)
def test_a_recovery_that_dies_itself_is_made_good_by_the_next(stage, point):
    stage.enqueue("moe")
    stage.crash("effect done", 3)
    stage.crash(point, 1)
    stage.site.quiet("run")
    stage.check("e1 twice crash")


@pytest.mark.parametrize("statement", range(1, 8))
def test_init_killed_between_two_statements_is_finished_by_the_next_init(tmp_path, url, statement):
    site = Site(tmp_path / "home", url)
    done = crashed(site, "a statement of a migration is done", statement, "init")
    assert done.returncode == -9
    if statement < 7:  # the seventh writes the version
        assert "asyncsend init" in site("run", code=78).stderr
    site("init")
    site.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    site.quiet("run")
    assert site.rows("state") == [("done",)]


# ── nobody overlaps with his own repeat ──────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import os, subprocess
from asyncsend import task, Backoff
here = os.path.dirname(os.path.abspath(__file__))

def living(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

@task(max_attempts=5, backoff=Backoff(base=0, cap=0))
def program(kill):
    if os.path.exists(f"{here}/pid"):
        open(f"{here}/seen", "a").write("overlap " if living(open(f"{here}/pid").read()) else "alone ")
        return
    process = subprocess.Popen(["sleep", "60"], **({"process_group": 0} if kill == "group" else {}))
    open(f"{here}/pid.new", "w").write(str(process.pid))
    os.rename(f"{here}/pid.new", f"{here}/pid")
    if kill == "worker":
        os.kill(os.getpid(), 9)
    process.wait()
"""


@pytest.fixture
def program(lite):
    lite.tasks(PROGRAM)
    yield lite
    pid = lite.home / "pid"
    if pid.exists():
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("kill", ["run", "group"])
def test_a_program_that_a_task_started_is_dead_before_the_job_of_a_killed_run_is_repeated(program, kill):
    program.insert("program", json.dumps({"kill": kill}))
    run = program.start("run")
    pid = int(eventually(lambda: (program.home / "pid").exists() and (program.home / "pid").read_text(), what="the program"))
    run.kill()
    run.communicate(timeout=60)
    assert Path(f"/proc/{pid}").exists(), "else this test shows nothing"
    program.quiet("run")
    assert (program.home / "seen").read_text() == "alone "
    assert "event=orphans-killed" in program.log()
    assert program.rows("state, crashes") == [("done", 1)]


def test_a_program_that_a_task_started_is_dead_before_the_job_of_a_killed_worker_is_repeated(program):
    program.insert("program", '{"kill":"worker"}')
    program.quiet("run")
    program.quiet("run")
    assert (program.home / "seen").read_text() == "alone "
    assert program.rows("state, attempts") == [("done", 2)]


def test_a_session_is_ended_only_where_it_is_the_same_one(tmp_path):
    from asyncsend import deathsig

    sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        stat = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()
        mine = deathsig.session_name().split(".", 2)[2]
        for name in ("", "x", f"{sleeper.pid}", f"{sleeper.pid}.{int(stat[19]) - 1}.{mine}", f"{sleeper.pid}.{stat[19]}.00000000.1", f"x.{stat[19]}.{mine}"):
            assert deathsig.end_session(name) == []
        assert sleeper.poll() is None
        assert deathsig.end_session(f"{sleeper.pid}.{stat[19]}.{mine}") == [sleeper.pid]
        assert sleeper.wait(20) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait(20)


def processes_naming(home: Path) -> list[str]:
    """Those that were started with this home in their environment or among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found += [entry.name] if str(home).encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() else []
            except OSError:
                continue
    return found


def test_a_command_whose_worker_dies_while_it_is_started_never_starts(lite):
    lite.environment["ASYNCSEND_COMMAND_TOUCH"] = f"/usr/bin/touch {lite.home}/touched"
    lite.insert("command.touch")
    assert crashed(lite, "the command is forked, not yet bound to us", 1, "run").returncode == -9
    eventually(lambda: not processes_naming(lite.home), what="the end of the processes")
    assert not (lite.home / "touched").exists()
