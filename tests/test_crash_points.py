"""A run dies at each point there is; the next one, at once and with nothing mended, makes good exactly what that point means."""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from parts import Site, eventually
from stage import crashed, opened

from asyncsend import schema
from asyncsend.store.connection import statements

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
    ("D written", 1, "moe", ""),
    ("D written", 2, "moe", ""),
    ("outcome said", 2, "moe", ""),  # the first thing a worker says is what tasks it knows
    ("outcome said", 2, "emo", ""),
    # the run, on its way from a result to its end
    ("the outcome is heard", 1, "moe", ""),
    ("the outcome is heard", 1, "ome", ""),
    ("the outcome is heard", 1, "emo", ""),
    ("before the COMMIT", 1, "moe", ""),
    ("settled, the journal not cleared", 1, "moe", ""),
    ("the journal is cleared", 1, "moe", ""),
    ("before pruning", 1, "moe", ""),
    ("before the status row is ended", 1, "moe", ""),
    ("the status row is ended", 1, "moe", ""),
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
    ("outcome said, worker only", 2, "emo", ""),
]
# The run after a death ("effect done", with the mail third: two results to replay, one to rescue) dies itself.
SECOND = ["the status row is taken", "a result is replayed", "replayed, not rescued", "before the COMMIT", "rescued, the journal not cleared", "the journal is cleared"]


@pytest.fixture(scope="module")
def stage(request, tmp_path_factory):
    with opened(request.param, tmp_path_factory.mktemp("stage"), lambda: request.getfixturevalue("server")) as made:
        yield made


def die(stage, point: str, passage: int) -> None:
    done = crashed(stage.site, point, passage, "run")
    assert (done.returncode, done.stdout, done.stderr) == (0 if "worker only" in point else -9, "", "")


def check(stage, differs: str) -> None:
    """Everything is where it belongs, to the last attempt; nothing is left of what happened."""
    key, *words = differs.split() or [""]
    jobs = dict.fromkeys(("m1", "m2", "o1", "o2", "e1", "e2"), ("done", 1, 0))
    effects = Counter(dict.fromkeys(jobs, 1))
    if key:
        doubt = "held" in words or "unrun" in words
        jobs[key] = ("held" if doubt else "done", 2 if "again" in words else 1, int("crash" in words))
        effects[key] += ("twice" in words) - ("unrun" in words)
    assert stage.jobs() == jobs
    assert stage.effects() == +effects
    assert stage.store.standing("default").status == "idle"
    assert stage.store._rows("SELECT stopped FROM asyncsend_runs WHERE finished_at IS NULL") == []
    assert stage.site.settings().journal_path.stat().st_size == 0


# SQLite has no reply that could stay unread; a worker that dies alone is settled like any other, so one database shows it.
CASES = [
    (database, *row)
    for database in ("sqlite", "mysql")
    for row in TABLE
    if not (database == "sqlite" and "reply unread" in row[0]) and not (database == "mysql" and "worker only" in row[0])
]


@pytest.mark.parametrize(("stage", "point", "passage", "order", "differs"), CASES, indirect=["stage"])
def test_the_next_run_makes_good_what_a_death_at_this_point_left(stage, point, passage, order, differs):
    stage.enqueue(order)
    die(stage, point, passage)
    if "again" in differs:
        stage.wait_no_longer()
    stage.site.quiet("run")
    check(stage, differs)


@pytest.mark.parametrize(("stage", "point"), [(database, point) for database in ("sqlite", "mysql") for point in SECOND], indirect=["stage"])
def test_a_recovery_that_dies_itself_is_made_good_by_the_next(stage, point):
    stage.enqueue("moe")
    die(stage, "effect done", 3)
    die(stage, point, 1)
    stage.site.quiet("run")
    check(stage, "e1 twice crash")


@pytest.mark.parametrize("statement", [1, 5, 7, -1])
def test_init_killed_between_two_statements_is_finished_by_the_next_init(tmp_path, url, statement):
    site = Site(tmp_path / "home", url)
    every = [one for ddl in schema.migrations("sqlite" if url.startswith("sqlite") else "mysql").values() for one in statements(ddl)]
    done = crashed(site, "a statement of a migration is done", statement % (len(every) + 1), "init")
    assert done.returncode == -9
    if statement > 0:  # the last writes the version
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
