"""A run dies at each point there is; the next one, at once and with nothing mended, makes good exactly what that point means."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from parts import ROOT, Site, SmtpSink, made_store

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
BOTH, ONLY_MYSQL = ("sqlite", "mysql"), ("mysql",)
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
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "crash_at.py"), point, str(passage), "run"],
            env=self.site.environment, capture_output=True, text=True, cwd="/", timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
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
