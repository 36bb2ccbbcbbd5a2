"""
Real runs, really killed, until a number of kills is reached; then everything must drain, and the sinks say what happened.

    python -m tests.torture --kills 1000 --seed 7 --database mariadb --workers 1 --json torture.json

The truth is not in our tables: it is the mail server's list of accepted Message-IDs, the HTTP server's list of accepted
Idempotency-Keys, and a file that tasks append to. One line of figures and a JSON file come out; exit code 1 if a promise
broke, 2 if the run is INVALID because it could not be drained or read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from parts import HttpSink, Site, SmtpSink, _given_server, _installed_mariadb, made_store  # noqa: E402

from asyncsend.job import NewJob  # noqa: E402

TASKS = """
import os, time
from asyncsend import task, Backoff
effects = os.open(os.path.join(os.path.dirname(__file__), "effects"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@task(max_attempts=50, backoff=Backoff(base=0, cap=0))
def mark(key, seconds):
    os.write(effects, f"{key}\\n".encode())
    time.sleep(seconds)

@task(delivery="at-most-once")
def once(key, seconds):
    os.write(effects, f"{key}\\n".encode())
    time.sleep(seconds)
"""
KINDS = {"kill9-run": 70, "kill9-worker": 15, "term": 10, "stop": 5}  # nemesis: weight


@dataclass
class Figures:
    """What came out. A promise is broken if one of `broken()` is not 0."""

    seed: int
    database: str
    workers: int
    kills: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    lost: int = 0  # accepted, and neither an effect at a sink nor a row that says why
    stuck: int = 0  # still running, or due, after the drain
    unexpected: int = 0  # an effect of a job nobody enqueued
    repeats: int = 0  # effects beyond the first, over all jobs
    most_repeats_of_one_job: int = 0
    unexplained_repeats: int = 0  # more effects of a job than attempts and crashes charged to it
    at_most_once_repeats: int = 0
    held: int = 0  # at-most-once jobs in doubt
    more_repeats_than_in_flight: int = 0  # kills after which more jobs were repeated than workers were at work
    late_results_refused: int = 0
    spoke: int = 0  # runs that printed something
    left_over: int = 0  # processes still there at the end
    unread_log_lines: int = 0
    seconds: float = 0.0

    def broken(self) -> dict[str, int]:
        names = ("lost", "stuck", "unexpected", "unexplained_repeats", "at_most_once_repeats", "more_repeats_than_in_flight", "spoke", "left_over", "unread_log_lines")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class Torture:
    def __init__(self, folder: Path, url: str, arguments: argparse.Namespace, smtp: SmtpSink, http: HttpSink):
        self.chance = random.Random(arguments.seed)
        self.workers = arguments.workers
        self.smtp, self.http = smtp, http
        self.site = Site(folder / "home", url, ASYNCSEND_EMAIL_URL=smtp.url, ASYNCSEND_ALLOW_PRIVATE="127.0.0.1", ASYNCSEND_WORKERS=str(arguments.workers))
        self.site.tasks(TASKS)
        self.store = made_store(url)
        self.kinds: dict[str, str] = {}  # key: task
        self.figures = Figures(arguments.seed, arguments.database, arguments.workers)

    def enqueue(self, number: int) -> None:
        jobs = []
        for _ in range(number):
            key = f"k{len(self.kinds)}"
            task = self.chance.choices(["mark", "email", "webhook", "once"], [5, 2, 2, 1])[0]
            seconds = self.chance.choice([0, 0.001, 0.001, 0.01])
            payload = {
                "mark": {"key": key, "seconds": seconds}, "once": {"key": key, "seconds": seconds},
                "email": {"to": "ann@example.com", "subject": key, "text": "x"}, "webhook": {"url": f"{self.http.url}/{key}", "body": {}},
            }[task]  # fmt: skip
            self.kinds[key] = task
            jobs.append(NewJob(task, json.dumps(payload), key))
        self.store.insert(jobs)

    def effects(self) -> Counter:
        """Key → effects, as the sinks saw them."""
        seen = Counter(re.search(r"Message-ID: <([^@>]+)@", content.decode("ascii", "replace"))[1] for _, _, content in list(self.smtp.mails))
        seen.update(request.headers["Idempotency-Key"] for request in list(self.http.requests))
        path = self.site.home / "effects"
        seen.update(path.read_text().split() if path.exists() else [])
        return seen

    def progress(self) -> int:
        path = self.site.home / "effects"
        return len(self.smtp.mails) + len(self.http.requests) + (path.stat().st_size // 4 if path.exists() else 0)

    def workers_of(self, pid: int) -> list[int]:
        done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
        return [int(line) for line in done.stdout.split()]

    def once(self) -> None:
        """One run, and what befalls it after a random bit of progress."""
        kind = self.chance.choices(list(KINDS), list(KINDS.values()))[0]
        run = self.site.start("run", "--max-time", "60s")
        target = self.progress() + self.chance.randrange(40)
        limit = time.monotonic() + 30
        while self.progress() < target and run.poll() is None and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(self.chance.random() * 0.005)
        if kind == "kill9-worker" and run.poll() is None:
            for pid in self.workers_of(run.pid)[:1]:
                self.signal(pid, signal.SIGKILL)
            time.sleep(self.chance.random() * 0.05)  # long enough, sometimes, for a new worker to be at work
            run.kill()
        elif kind == "term":
            run.terminate()
        elif kind == "stop" and run.poll() is None:
            self.signal(run.pid, signal.SIGSTOP)
            time.sleep(0.05)
            self.signal(run.pid, signal.SIGCONT)
            run.terminate()
        else:
            run.kill()
        out, err = run.communicate(timeout=60)
        self.figures.spoke += bool(out or err)
        if out or err:
            print(f"spoke: {out!r} {err!r}", file=sys.stderr)
        self.count(kind)

    def count(self, kind: str) -> None:
        self.figures.kills[kind] = self.figures.kills.get(kind, 0) + 1

    @staticmethod
    def signal(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def drain(self) -> bool:
        """Until nothing is due, twice; False if that cannot be reached."""
        empty = 0
        for _ in range(200):
            self.site("run", "--max-time", "60s")
            self.store._write("UPDATE asyncsend_jobs SET run_at = NULL WHERE state = 'ready'")
            left = self.store.count(state="ready", queue=None, task=None) + self.store.count(state="running", queue=None, task=None)
            empty = empty + 1 if left == 0 else 0
            if empty == 2:
                return True
        return False

    def check(self) -> Figures:
        figures, seen = self.figures, self.effects()
        rows = {uid: (state, attempts, crashes) for uid, state, attempts, crashes in self.store._rows("SELECT uid, state, attempts, crashes FROM asyncsend_jobs")}
        figures.jobs = len(self.kinds)
        figures.unexpected = sum(1 for key in seen if key not in self.kinds)
        for key, task in self.kinds.items():
            state, attempts, crashes = rows.get(key, ("missing", 0, 0))
            effects = seen.get(key, 0)
            explained = state in ("held", "dead", "cancelled")
            figures.lost += effects == 0 and not explained
            figures.stuck += state in ("ready", "running", "missing")
            figures.repeats += max(0, effects - 1)
            figures.most_repeats_of_one_job = max(figures.most_repeats_of_one_job, effects - 1)
            figures.unexplained_repeats += max(0, effects - max(1, attempts + crashes))
            if effects > max(1, attempts + crashes):
                print(f"unexplained: {key} {task} {state} effects={effects} attempts={attempts} crashes={crashes}", file=sys.stderr)
            if task == "once":
                figures.at_most_once_repeats += max(0, effects - 1)
                figures.held += state == "held"
        deaths = sum(figures.kills.values())
        figures.more_repeats_than_in_flight = max(0, figures.repeats - 2 * deaths * self.workers)  # a killed worker, then its run
        figures.late_results_refused = int(self.store._rows("SELECT COALESCE(SUM(late), 0) FROM asyncsend_runs")[0][0])
        lines = [line for path in self.site.home.glob("asyncsend.log*") for line in path.read_text("utf-8").splitlines()]
        figures.unread_log_lines = sum(1 for line in lines if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} [A-Z]{4,5} .* event=[a-z-]+( [a-z_]+=(\S+|\"[^\"]*\"))*$", line))
        mark = f"ASYNCSEND_HOME={self.site.home}\0".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    figures.left_over += mark in (entry / "environ").read_bytes()
                except OSError:
                    continue
        return figures


def torture(arguments: argparse.Namespace) -> tuple[Figures, bool]:
    """The figures, and whether the run is valid: drained and read."""
    began = time.monotonic()
    smtp, http = SmtpSink(), HttpSink()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        if arguments.database == "sqlite":
            return _on(f"sqlite:///{folder}/x.sqlite3", Path(folder), arguments, smtp, http, began)
        given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
        server = _given_server(given) if given else _installed_mariadb()
        try:
            with server.database() as name:
                return _on(server.url(name), Path(folder), arguments, smtp, http, began)
        finally:
            server.stop()


def _on(url: str, folder: Path, arguments: argparse.Namespace, smtp: SmtpSink, http: HttpSink, began: float) -> tuple[Figures, bool]:
    run = Torture(folder, url, arguments, smtp, http)
    try:
        while sum(run.figures.kills.values()) < arguments.kills and time.monotonic() - began < arguments.seconds:
            if run.store.count(state="ready", queue=None, task=None) < 60:
                run.enqueue(150)
            run.once()
        drained = run.drain()
        figures = run.check()
        figures.seconds = round(time.monotonic() - began, 1)
        return figures, drained
    finally:
        run.store.close()
        smtp.controller.stop()
        http.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop killing after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database", choices=["mariadb", "sqlite"], default="mariadb")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures, valid = torture(arguments)
    print(" ".join(f"{name}={value}" for name, value in asdict(figures).items()).replace("{", "").replace("}", "").replace("'", ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures) | {"valid": valid, "broken": figures.broken()}, indent=2) + "\n")
    if not valid:
        print("INVALID: it could not be drained", file=sys.stderr)
        return 2
    if figures.broken():
        print(f"BROKEN: {figures.broken()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
