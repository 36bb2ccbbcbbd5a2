"""One database, one home and one mail server for many short cases of runs that die; tests/test_crash_points.py and tests/syscalls.py play on it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

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

@task(max_attempts=5, backoff=Backoff(base=600, cap=600, floor=600))
def mark(key):
    effect(key)
    return {"key": key}

@task(delivery="at-most-once")
def once(key):
    effect(key)
"""
KINDS = {"m": "mark", "o": "once", "e": "email"}


def crashed(site: Site, point: str, passage: int, command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "crash_at.py"), point, str(passage), command],
        env=site.environment, capture_output=True, text=True, cwd="/", timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


class Stage:
    """Six jobs are enqueued for each case: m1 o1 e1 m2 o2 e2, in the order of their kinds: mark, once, email."""

    def __init__(self, folder, url, smtp):
        self.site = Site(folder / "home", url, ASYNCSEND_EMAIL_URL=smtp.url)
        self.site.tasks(TASKS)
        self.store, self.smtp = made_store(url), smtp

    def enqueue(self, order: str = "moe") -> None:
        """Sweep away what the case before left, then six jobs."""
        for table in ("jobs", "runs"):
            self.store._write(f"DELETE FROM asyncsend_{table}")
        self.store._write("UPDATE asyncsend_status SET pruned_at = NULL")
        self.smtp.mails.clear()
        for path in [self.site.home / "effects", *self.site.home.glob("asyncsend.log*")]:
            path.unlink(missing_ok=True)
        keys = [kind + number for number in "12" for kind in order]
        mail = {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}
        self.store.insert([NewJob(KINDS[key[0]], json.dumps(mail if key[0] == "e" else {"key": key}), key) for key in keys])

    def effects(self) -> Counter:
        path = self.site.home / "effects"
        seen = Counter(path.read_text().split() if path.exists() else [])
        return seen + Counter(re.search(rb"Message-ID: <([^@>]+)@", content)[1].decode() for _, _, content in self.smtp.mails)

    def jobs(self) -> dict[str, tuple[str, int, int]]:
        """State, attempts and crashes."""
        return {uid: tuple(row) for uid, *row in self.store._rows("SELECT uid, state, attempts, crashes FROM asyncsend_jobs")}

    def wait_no_longer(self) -> None:
        """What is to be tried again in minutes is due now."""
        self.store._write("UPDATE asyncsend_jobs SET run_at = NULL WHERE state = 'ready'")


@contextmanager
def opened(database: str, folder, server):
    """A stage on SQLite, or on a database of `server()`."""
    sink = SmtpSink()
    try:
        if database == "sqlite":
            made = Stage(folder, f"sqlite:///{folder}/x.sqlite3", sink)
            yield made
            made.store.close()
            return
        with server().database() as name:
            made = Stage(folder, server().url(name), sink)
            yield made
            made.store.close()
    finally:
        sink.controller.stop()
