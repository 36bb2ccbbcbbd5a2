"""
Real runs, really killed, until a number of kills is reached; then everything must drain, and the sinks say what happened.

    python -m tests.torture --kills 10000 --seed 7 --database mariadb --lanes 2 --json torture.json

The truth is not in our tables: it is the mail server's list of accepted Message-IDs, the HTTP server's list of accepted
Idempotency-Keys, and what tasks write into a pipe. checker.py says what that means. One line of figures and a JSON file come out;
exit code 1 if a promise broke, 2 if the run is INVALID because it could not be drained or read.

Each lane is a site with a database, a mail server and a web server of its own. A nemesis starts one run and does to it what its
name says, after a random bit of progress: never after a time, for then most kills would hit a run that has not begun.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import pymysql  # noqa: E402
from checker import Death, Event, History, Job, Row, Verdict, check  # noqa: E402
from parts import HttpSink, PrivateServer, Site, SmtpSink, _matrix_server, made_store  # noqa: E402
from proxy import Proxy, Rule  # noqa: E402

from asyncsend.job import NewJob  # noqa: E402
from asyncsend.journal import Journal  # noqa: E402
from asyncsend.store import open_store  # noqa: E402

TASKS = """
import os, random, socket, time
from asyncsend import task, Backoff, Retry
pipe = os.open(os.path.join(os.path.dirname(__file__), "pipe"), os.O_WRONLY)
born = time.monotonic()  # a pid comes round again after some ten thousand processes

def say(word, key):
    os.write(pipe, f"{word} {key} {os.getpid()}@{born} {time.monotonic()}\\n".encode())

class Witnessed(socket.socket):
    # A sink knows a connection only; with this it is known whose that was.
    def connect(self, address):
        super().connect(address)
        if self.family == socket.AF_INET:
            say("C", self.getsockname()[1])

socket.socket = Witnessed

@task(max_attempts=500, backoff=Backoff(base=0, cap=0))
def mark(key, seconds, fails=0.0):
    say("S", key)
    time.sleep(seconds)
    if random.random() < fails:
        raise Retry(0, "once more")
    say("E", key)

@task(delivery="at-most-once")
def once(key, seconds):
    say("S", key)
    time.sleep(seconds)
    say("E", key)
"""
# A lease so short that a test can wait for its end; everything else is what cron starts.
SHORT_LEASE = "from asyncsend import status; status.LEASE, status.BEAT, status.MARGIN = 1.2, 0.2, 0.4; from asyncsend.__main__ import main; main()"
# Python's sleep is refused by the kernel under libfaketime: it is given an absolute time of the clock that is not faked.
OTHER_SLEEP = "import select, time; time.sleep = lambda seconds: select.select([], [], [], seconds); from asyncsend.__main__ import main; main()"
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
CANARY = "whsec_Q0FOQVJZLWNhbmFyeS1DQU5BUlktY2FuYXJ5"
EX_TEMPFAIL, EX_CONFIG = 75, 78
# What a reply can be lost of: taking the row, claiming, marking a start, settling, ending.
STATEMENTS = (rb"status = 'in-progress'", rb"SET state = 'running'", rb"started_at = NOW", rb"SET state = 'done'", rb"COMMIT", rb"status = 'idle'")
BACKLOG = 150  # jobs the producers keep ahead of the runs
FILES = re.compile(r"asyncsend\.log(\.\d+)?|asyncsend\.lock(\.held|\.instance)?|journal-[0-9a-f]{8}|trouble|pipe|shop_tasks\.py|__pycache__")


@dataclass
class Figures:
    """What came out, over all lanes."""

    verdict: Verdict
    kills: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    killed_runs: int = 0
    freezes: int = 0
    stale_accepted: int = 0  # rows changed over a connection whose run no longer held the status row
    late_refused: int = 0
    producer_inserts: int = 0
    producer_errors: dict[str, int] = field(default_factory=dict)  # while the server was up
    producer_waits: int = 0  # INSERTs that took longer than a second while the server was up
    spoke: int = 0  # runs that printed something
    left_over: int = 0  # processes, connections and files still there at the end
    unread_log_lines: int = 0
    canary: int = 0  # places where a secret was found
    status_wrong: int = 0  # the status row says in-progress when nothing is
    recoveries: list[float] = field(default_factory=list)  # seconds from the start of the next run to its first effect
    seconds: float = 0.0
    valid: bool = False

    ZERO = ("stale_accepted", "producer_waits", "spoke", "left_over", "unread_log_lines", "canary", "status_wrong")

    def broken(self) -> dict[str, object]:
        found: dict[str, object] = self.verdict.broken()
        found |= {name: getattr(self, name) for name in self.ZERO if getattr(self, name)}
        return found | ({"producer_errors": self.producer_errors} if self.producer_errors else {})

    def add(self, other: Figures) -> None:
        """The other lane's figures on top of ours."""
        _add(self.verdict, other.verdict, most=("most_duplicates_of_one_job",))
        _add(self, other, most=("seconds",))
        self.valid = self.valid and other.valid

    def line(self) -> str:
        """One line for people: every figure of the issue, in its words."""
        v, recoveries = self.verdict, sorted(self.recoveries)
        kills = sum(self.kills.values())
        words = {
            "jobs": v.jobs, "acknowledged": v.acknowledged, "kills": kills, "killed_runs": self.killed_runs, "lost": v.lost, "stuck": v.stuck,
            "unexpected": v.unexpected, "recovered": v.recovered, "duplicated": v.duplicated, "per_kill": round(v.by_kills / max(1, self.killed_runs), 4),
            "per_kill_1ms": round(v.by_kills_1ms / max(1, self.killed_runs), 4), "most_of_one_job": v.most_duplicates_of_one_job,
            "beyond_in_flight": v.beyond_in_flight, "after_takeover": v.after_takeover, "unsettled_at_takeover": v.unsettled_at_takeover, "unexplained": v.unexplained, "overlap": v.overlap, "at_most_once_repeats": v.at_most_once_repeats,
            "held": v.held, "dead": v.dead, "charged_wrongly": v.charged_wrongly, "stale_accepted": self.stale_accepted, "late_refused": self.late_refused,
            "freezes": self.freezes, "producer_inserts": self.producer_inserts, "producer_errors": sum(self.producer_errors.values()),
            "producer_waits": self.producer_waits, "recovery_p50": _at(recoveries, 0.5), "recovery_p95": _at(recoveries, 0.95), "recovery_max": _at(recoveries, 1.0),
            "spoke": self.spoke, "left_over": self.left_over, "unread_log_lines": self.unread_log_lines, "canary": self.canary, "status_wrong": self.status_wrong,
            "seconds": round(self.seconds, 1),
        }  # fmt: skip
        return " ".join(f"{name}={value}" for name, value in words.items())


def _add(ours: object, others: object, most: tuple[str, ...]) -> None:
    for name, theirs in vars(others).items():
        mine = getattr(ours, name)
        if isinstance(theirs, dict):
            setattr(ours, name, {key: mine.get(key, 0) + theirs.get(key, 0) for key in mine | theirs})
        elif name in most:
            setattr(ours, name, max(mine, theirs))
        elif isinstance(theirs, int | float | list) and not isinstance(theirs, bool):
            setattr(ours, name, mine + theirs)


def _at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else 0.0


class Lane:
    """One site under fire: its history, its producers, its runs."""

    def __init__(self, folder: Path, server, arguments: argparse.Namespace, url: str):
        self.chance = random.Random(arguments.seed)
        self.server, self.workers = server, arguments.workers
        self.database = url.partition("?")[0].rpartition("/")[2]
        self.proxy: Proxy | None = None
        if server is not None:
            url = self._way_in(folder, url)
        self.smtp, self.http = SmtpSink(), HttpSink(keep_alive=True)
        self.hosts = {name: self._site(folder / name, url) for name in "ab"}
        self.site = self.hosts["a"]
        self.url = url
        self.store = made_store(server.url(self.database) if server else url)
        if server is not None:
            self._watch_writes()
        self.history, self.figures = History(), Figures(Verdict())
        self.connects: dict[int, list[tuple[float, str]]] = {}  # port: when it was connected, and by whom
        self.marks = 0  # effects that came through the pipe
        self.down = threading.Event()  # the server is away on purpose
        self.outages = 0  # how often it was
        self.over = threading.Event()
        self.died_at: float | None = None
        self.began: dict[int, float] = {}  # when each run was started
        self.nemeses, self.nemesis = nemeses(arguments.database), ""
        self.threads = [threading.Thread(target=self._read_pipe, args=(site,), daemon=True) for site in self.hosts.values()]
        self.threads += [threading.Thread(target=self._produce, args=(isolation, random.Random(f"{arguments.seed} {isolation}")), daemon=True) for isolation in ("REPEATABLE READ", "READ COMMITTED")]
        for thread in self.threads:
            thread.start()

    def _site(self, home: Path, url: str) -> Site:
        site = Site(
            home, url, ASYNCSEND_EMAIL_URL=self.smtp.url, ASYNCSEND_ALLOW_PRIVATE="127.0.0.1", ASYNCSEND_WORKERS=str(self.workers),
            ASYNCSEND_WEBHOOK_SECRET=CANARY,
        )  # fmt: skip
        site.tasks(TASKS)
        os.mkfifo(home / "pipe")
        return site

    def _way_in(self, folder: Path, url: str) -> str:
        """The socket by a name of our own, behind which the proxy can be slipped in; as a user whom read-only stops, which root it does not."""
        with self.server.connect(self.database) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER IF NOT EXISTS site@localhost")
            cursor.execute(f"GRANT ALL ON {self.database}.* TO site@localhost")
        self.link = folder / "db.sock"
        self.link.symlink_to(self.server.socket)
        self.proxy = Proxy(self.server.socket, folder / "proxy.sock")
        return f"mysql://site@localhost/{self.database}?unix_socket={self.link}"

    # ── witnesses ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _watch_writes(self) -> None:
        """Triggers note over which connection each row was changed, and which connection took the status row when."""
        store = self.store
        store._write("CREATE TABLE takes (connection BIGINT, generation BIGINT)")
        store._write("CREATE TABLE stale (job BIGINT, was VARCHAR(16), became VARCHAR(16), connection BIGINT)")
        store._write(
            "CREATE TRIGGER note_takes AFTER UPDATE ON asyncsend_status FOR EACH ROW"
            " BEGIN IF NEW.generation <> OLD.generation THEN INSERT INTO takes VALUES (CONNECTION_ID(), NEW.generation); END IF; END"
        )
        store._write(
            "CREATE TRIGGER note_stale AFTER UPDATE ON asyncsend_jobs FOR EACH ROW BEGIN"
            " DECLARE mine BIGINT DEFAULT (SELECT MAX(generation) FROM takes WHERE connection = CONNECTION_ID());"
            " DECLARE newest BIGINT DEFAULT (SELECT generation FROM asyncsend_status WHERE scope = 'default');"
            " IF (mine IS NOT NULL AND mine < newest) OR (NEW.state = 'running' AND NEW.run_id < newest)"
            " THEN INSERT INTO stale VALUES (OLD.id, OLD.state, NEW.state, CONNECTION_ID()); END IF; END"
        )

    def _read_pipe(self, site: Site) -> None:
        descriptor = os.open(site.home / "pipe", os.O_RDWR)  # also for writing: it never ends while tasks come and go
        with open(descriptor, encoding="ascii") as lines:
            for line in lines:
                word, key, process, at = line.split()
                if word == "stop":
                    return
                if word == "C":
                    self.connects.setdefault(int(key), []).append((float(at), process))
                    continue
                (self.history.starts if word == "S" else self.history.effects).append(Event(key, process, float(at)))
                self.marks += word == "E"

    def progress(self) -> int:
        return self.marks + len(self.smtp.accepted) + len(self.http.requests)

    # ── producers ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _produce(self, isolation: str, chance: random.Random) -> None:
        """Plain INSERTs in transactions of one to three rows, as pages make them, so long as there is little to do."""
        made, connection, outages = 0, None, 0
        name = isolation[3].lower()
        while not self.over.is_set():
            if len(self.history.jobs) - self.progress() > BACKLOG or self.down.is_set():
                time.sleep(0.005)
                continue
            jobs = []
            for _ in range(chance.randrange(1, 4)):
                made += 1
                jobs.append(self._job(f"{name}{made}", chance))
            for job, kind in jobs:
                self.history.jobs[job.uid] = kind._replace(accepted=None)
            if outages != self.outages:
                connection, outages = None, self.outages  # what was open then is gone
            began, down = time.monotonic(), self.down.is_set()
            try:
                if self.server is None:
                    if connection is None:
                        connection = open_store(self.url, "asyncsend_")
                    connection.insert([job for job, _ in jobs])
                else:
                    connection = self._insert(connection, isolation, [job for job, _ in jobs])
            except Exception as error:
                connection = None
                if not (down or self.down.is_set() or outages != self.outages):
                    code = f"{type(error).__name__} {error.args[0] if error.args else ''}"[:80]
                    self.figures.producer_errors[code] = self.figures.producer_errors.get(code, 0) + 1
                continue
            for job, kind in jobs:
                self.history.jobs[job.uid] = kind
            self.figures.producer_inserts += len(jobs)
            if time.monotonic() - began > 1.0 and not (down or self.down.is_set() or outages != self.outages):
                self.figures.producer_waits += 1
        if connection is not None:
            connection.close()

    def _insert(self, connection, isolation: str, jobs: list[NewJob]):
        if connection is None:
            connection = self.server.connect(self.database)
            connection.autocommit(False)
            with connection.cursor() as cursor:
                cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
            connection.commit()
        with connection.cursor() as cursor:
            for job in jobs:
                cursor.execute("INSERT INTO asyncsend_jobs (task, payload, uid, priority) VALUES (%s, %s, %s, %s)", (job.task, job.payload, job.uid, job.priority))
        connection.commit()
        return connection

    def _job(self, key: str, chance: random.Random) -> tuple[NewJob, Job]:
        task = chance.choices(["mark", "email", "webhook", "once"], [8, 1, 1, 1])[0]
        seconds = chance.choice([0, 0.001, 0.001, 0.002, 0.005])
        payload = {
            "mark": {"key": key, "seconds": seconds, "fails": 0.1}, "once": {"key": key, "seconds": seconds},
            "email": {"to": "ann@example.com", "subject": key, "text": "x"}, "webhook": {"url": f"{self.http.url}/{key}", "body": {}},
        }[task]  # fmt: skip
        return NewJob(task, json.dumps(payload), key, priority=chance.randrange(3)), Job(task, seconds)

    # ── runs and what befalls them ───────────────────────────────────────────────────────────────────────────────────
    def start(self, host: str = "a", *, program: str = "", **options) -> subprocess.Popen:
        site = self.hosts[host]
        how = ["-c", program] if program else ["-m", "asyncsend"]
        environment = site.environment | options.pop("environment", {})
        self.figures.runs += 1
        if self.died_at is not None and host == "a":
            threading.Thread(target=self._time_recovery, args=(time.monotonic(), self.progress()), daemon=True).start()
            self.died_at = None
        began = time.monotonic()
        run = subprocess.Popen(
            [sys.executable, *how, "run", "--max-time", "60s"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            cwd=ROOT, **options,
        )  # fmt: skip
        self.began[run.pid] = began
        return run

    def _time_recovery(self, began: float, progress: int) -> None:
        while self.progress() == progress:
            if time.monotonic() - began > 10:
                return  # nothing was due, or this run was stopped before it came to it
            time.sleep(0.002)
        self.figures.recoveries.append(round(time.monotonic() - began, 4))

    def work(self, run: subprocess.Popen, most: int = 10, least: int = 0) -> None:
        """Let it have some effects, and then a bit."""
        target, limit = self.progress() + self.chance.randrange(least, most), time.monotonic() + 30
        while self.progress() < target and run.poll() is None and time.monotonic() < limit:
            time.sleep(0.0005)
        time.sleep(self.chance.random() * 0.02)  # longer than any job takes: else most kills would follow close on an effect

    def ended(self, run: subprocess.Popen, code: int | None = None) -> None:
        """It has ended and must have said nothing, unless `code` says that it had reason to; it may have been killed after saying it."""
        out, err = run.communicate(timeout=120)
        if b"Traceback" in err or ((out or err) and (code is None or run.returncode not in (code, -signal.SIGKILL))):
            self.figures.spoke += 1
            print(f"spoke ({run.returncode}): {out!r} {err!r}", file=sys.stderr)

    def killed(self, run: subprocess.Popen, code: int | None = None) -> None:
        """Kill -9 it, note the death; `code` is how it may have ended by itself before, and then it may have said why."""
        alive = run.poll() is None
        run.kill()
        self.ended(run, code)
        if alive:
            self.figures.killed_runs += 1
            self.count(self.nemesis)
            self.died_at = time.monotonic()
            self.history.deaths.append(Death(self.nemesis, self.died_at, self.workers, since=self.began[run.pid]))

    def workers_of(self, run: subprocess.Popen) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        except OSError:
            return []

    def strike(self, only: str | None = None) -> None:
        """One nemesis, once."""
        name = only or self.chance.choices(list(self.nemeses), list(self.nemeses.values()))[0]
        self.nemesis, before = name, sum(self.figures.kills.values())
        getattr(self, name.replace("-", "_"))()
        if sum(self.figures.kills.values()) == before:
            self.count(name)  # it did what it does without a kill

    def count(self, name: str) -> None:
        self.figures.kills[name] = self.figures.kills.get(name, 0) + 1

    def kill_run(self) -> None:
        run = self.start()
        self.work(run)
        self.killed(run)

    def kill_worker(self) -> None:
        """Some workers, one after the other, each once it may be at work; then their run."""
        run = self.start()
        for _ in range(self.chance.randrange(1, 6)):
            self.work(run, 5, least=1)  # one that never came up bears no name that a sink could know
            for pid in self.workers_of(run)[:1]:
                self._signal(pid, signal.SIGKILL)
                self.history.deaths.append(Death("kill-worker", time.monotonic(), 1, processes=frozenset({str(pid)})))
                self.count("kill-worker")
        self.work(run, 5)
        self.nemesis = "kill-run"
        self.killed(run, EX_CONFIG)  # three workers in a row that die before they begin: it says so and leaves

    def term(self) -> None:
        run = self.start()
        self.work(run)
        for _ in range(self.chance.choice([1, 5])):
            if run.poll() is None:
                run.terminate()
        self.ended(run)

    def term_kill(self) -> None:
        run = self.start()
        self.work(run)
        if run.poll() is None:
            run.terminate()
            time.sleep(self.chance.random() * 0.03)
        self.killed(run)

    def stop(self) -> None:
        """Stopped for a moment, then killed."""
        run = self.start()
        self.work(run)
        if run.poll() is None:
            run.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            run.send_signal(signal.SIGCONT)
        self.work(run, 4)
        self.killed(run)

    def twin(self) -> None:
        """Cron starts two; one of them works."""
        run, other = self.start(), self.start()
        self.work(run)
        self.killed(run)
        other.terminate()
        self.ended(other)

    def clock(self) -> None:
        """The host's clock is a day off, this way or that."""
        wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": self.chance.choice(["-1d", "+1d"]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1"}
        run = self.start(program=OTHER_SLEEP, environment=wrong if FAKETIME else {})
        self.work(run)
        self.killed(run)

    def full_disk(self) -> None:
        """No file may grow: journal and log fail, lock and sockets go on."""
        run = self.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
        self.work(run)
        self.killed(run)

    @contextmanager
    def proxied(self) -> Iterator[Proxy]:
        """For the runs that start now."""
        self._relink(self.link.parent / "proxy.sock")
        try:
            yield self.proxy
        finally:
            self._relink(Path(self.server.socket))
            self.proxy.rules.clear()

    def _relink(self, target: Path) -> None:
        fresh = self.link.with_name("db.new")
        fresh.symlink_to(target)
        fresh.replace(self.link)

    def cut(self) -> None:
        """The network goes, more than once; then the run."""
        with self.proxied() as proxy:
            run = self.start()
            for _ in range(self.chance.randrange(1, 4)):
                self.work(run, 6)
                proxy.cut()
            self.work(run, 6)
            self.killed(run, EX_TEMPFAIL)

    def lost_reply(self) -> None:
        """A statement never arrives, or its answer does not; then the run is killed, too."""
        with self.proxied() as proxy:
            proxy.rules.append(Rule(self.chance.choice(STATEMENTS), self.chance.choice(["before", "after"])))
            run = self.start()
            self.work(run)
            self.killed(run, EX_TEMPFAIL)

    def db_kill(self) -> None:
        """The database dies under the run and comes back; then the run is killed, too."""
        run = self.start()
        self.work(run)
        self.down.set()
        self.outages += 1
        self.server.kill()
        time.sleep(self.chance.random() * 0.5)
        self.server.start()
        self.store.forget_connection()
        self.store._write("DELETE FROM takes")  # connections are numbered from 1 again
        self.down.clear()
        self.work(run)
        self.killed(run, EX_TEMPFAIL)

    def read_only(self) -> None:
        """The server takes no more writes, as in a failover."""
        run = self.start()
        self.work(run)
        self._as_root("SET GLOBAL read_only = 1")
        time.sleep(0.1)
        self.ended(self.start("b"), EX_TEMPFAIL)
        self._as_root("SET GLOBAL read_only = 0")
        self.killed(run, EX_TEMPFAIL)

    def crowd(self) -> None:
        """The account has as many connections as it may have."""
        run = self.start()
        self.work(run)
        self._as_root("GRANT USAGE ON *.* TO site@localhost WITH MAX_USER_CONNECTIONS 1")
        self.killed(run, EX_TEMPFAIL)
        with pymysql.connect(user="site", unix_socket=self.server.socket):
            self.ended(self.start(), EX_TEMPFAIL)
        self._as_root("GRANT USAGE ON *.* TO site@localhost WITH MAX_USER_CONNECTIONS 0")

    def _as_root(self, statement: str) -> None:
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def freeze(self) -> None:
        """Host a is frozen, workers and all, past its lease; host b takes over; a wakes up in the middle of b's work and must do no harm."""
        run = self.start("a", program=SHORT_LEASE)
        self.work(run)
        pids = [*self.workers_of(run), run.pid]
        for pid in pids:
            self._signal(pid, signal.SIGSTOP)
        at, before = time.monotonic(), self.progress()
        noted = self._noted(run)
        while self.progress() < before + 4 and time.monotonic() < at + 30:
            other = self.start("b", program=SHORT_LEASE)
            limit = time.monotonic() + 2
            while other.poll() is None and self.progress() < before + 4 and time.monotonic() < limit:
                time.sleep(0.002)
            if other.poll() is None:  # it works: now wake the first
                until = time.monotonic()
                for pid in pids:
                    self._signal(pid, signal.SIGCONT)
                while run.poll() is None and time.monotonic() < until + 5:
                    time.sleep(0.002)
                other.terminate()
                self.history.deaths.append(Death("freeze", at, self.workers, until, noted, frozenset(map(str, pids))))
                self.figures.freezes += 1
            self.ended(other)
        for pid in pids:
            self._signal(pid, signal.SIGCONT)
        if run.poll() is None:
            run.terminate()
        self.ended(run)

    def _noted(self, run: subprocess.Popen) -> frozenset[int]:
        """Ids of the jobs whose results stand in the journal of host a."""
        if run.poll() is not None:
            return frozenset()
        journal = Journal(self.site.settings().journal_path)
        try:
            return frozenset(job_id for job_id, _ in journal.read()[0])
        finally:
            journal.close()

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def drain(self) -> bool:
        """Until nothing is due, twice; False if that cannot be reached."""
        self.over.set()
        for thread in self.threads[2:]:
            thread.join(30)
        empty = 0
        for _ in range(100):
            self.ended(self.start())
            self.store.forget_connection()  # on a busy machine that took so long that the server has hung up
            self.store._write("UPDATE asyncsend_jobs SET run_at = NULL WHERE state = 'ready'")
            left = sum(self.store.count(state=state, queue=None, task=None) for state in ("ready", "running"))
            empty = empty + 1 if left == 0 else 0
            if empty == 2:
                return True
        return False

    def verdict(self) -> Figures:
        for site in self.hosts.values():
            (site.home / "pipe").open("w").write("stop - - -\n")
        for thread in self.threads[:2]:
            thread.join(30)
        history, figures = self.history, self.figures
        for (at, port), message in zip(self.smtp.accepted, list(self.smtp.mails), strict=True):
            history.effects.append(Event(re.search(rb"Message-ID: <([^@>]+)@", message[2])[1].decode(), self._whose(port, at), at))
        for request in self.http.requests:
            history.effects.append(Event(request.headers["Idempotency-Key"], self._whose(request.port, request.at), request.at))
        history.deaths = [death._replace(processes=self._who(death)) for death in history.deaths]
        self.store.forget_connection()  # all this took so long that the server has hung up
        history.rows = {row[0]: Row(*row[1:]) for row in self.store._rows("SELECT uid, state, attempts, crashes, reason, id FROM asyncsend_jobs")}
        self._read_logs()
        figures.verdict = check(history)
        figures.late_refused = int(self.store._rows("SELECT COALESCE(SUM(late), 0) FROM asyncsend_runs")[0][0])
        figures.status_wrong = int(self.store.standing("default").status != "idle")
        if self.server is not None:
            figures.stale_accepted = int(self.store._rows("SELECT COUNT(*) FROM stale")[0][0])
            mine = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            figures.left_over += int(self.store._rows(mine)[0][0])
        figures.left_over += self._processes_left()
        strange = [path.name for site in self.hosts.values() for path in site.home.iterdir() if not FILES.fullmatch(path.name)]
        figures.left_over += len(strange)
        if strange:
            print(f"left over: {strange}", file=sys.stderr)
        return figures

    def _who(self, death: Death) -> frozenset[str]:
        """The names of the workers that had these pids when they died or froze."""
        names = {event.process for event in (*self.history.starts, *self.history.effects) if "@" in event.process}
        found = set()
        for pid in death.processes:
            born = [float(name.partition("@")[2]) for name in names if name.startswith(f"{pid}@")]
            alive = [moment for moment in born if moment <= death.at]
            found.add(f"{pid}@{max(alive)}" if alive else pid)
        return frozenset(found)

    def _whose(self, port: int, at: float) -> str:
        """The worker that had this connection then; where it works without the module that says so, the connection itself."""
        return max([(0.0, f"port {port}"), *(one for one in self.connects.get(port, []) if one[0] <= at + 0.05)])[1]

    def _read_logs(self) -> None:
        form = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} [A-Z]{4,5} .* event=([a-z-]+)( [a-z_]+=(\S+|\"[^\"]*\"))*$")
        for site in self.hosts.values():
            names = sorted(site.home.glob("asyncsend.log*"), key=lambda path: path.name, reverse=True)
            charged = 0
            for line in (line for path in names for line in path.read_text("utf-8").splitlines()):
                found = form.match(line)
                self.figures.unread_log_lines += not found
                self.figures.canary += CANARY in line
                if found and found[1] == "run-died":
                    self.history.crashes_charged.append((charged, self.workers))
                    charged = 0
                elif found and found[1] == "job-rescued":
                    charged += " reason=run-died " in line or " reason=crash-loop " in line
        self.figures.canary += int(self.store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE error LIKE :canary", canary=f"%{CANARY}%")[0][0])

    def _processes_left(self) -> int:
        marks = [f"ASYNCSEND_HOME={site.home}\0".encode() for site in self.hosts.values()]
        found = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    found += any(mark in (entry / "environ").read_bytes() for mark in marks)
                except OSError:
                    continue
        return found

    def close(self) -> None:
        self.over.set()
        self.store.close()
        self.smtp.controller.stop()
        self.http.stop()
        if self.proxy is not None:
            self.proxy.close()


# name: how often, and on which databases: both, server (MySQL and MariaDB), private (a MariaDB of our own)
NEMESES = {
    "kill-run": (60, "both"), "kill-worker": (30, "both"), "term": (5, "both"), "term-kill": (5, "both"), "stop": (4, "both"), "twin": (4, "both"),
    "clock": (4, "both"), "full-disk": (4, "server"), "cut": (3, "server"), "lost-reply": (4, "server"), "read-only": (1, "server"), "crowd": (1, "private"),
    "db-kill": (1, "private"), "freeze": (1, "server"),
}  # fmt: skip


def nemeses(database: str) -> dict[str, int]:
    """Those that this database can have, with their weights."""
    places = {"sqlite": ("both",), "mariadb": ("both", "server", "private")}.get(database, ("both", "server"))
    return {name: weight for name, (weight, where) in NEMESES.items() if where in places}


def lane(arguments: argparse.Namespace) -> Figures:
    """The figures of one site; `valid` says whether it was drained and read."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        if arguments.database == "sqlite":
            return _under_fire(Lane(Path(folder), None, arguments, f"sqlite:///{folder}/x.sqlite3"), arguments, began)
        server = PrivateServer() if arguments.database == "mariadb" else _matrix_server(arguments.database)
        try:
            with server.database() as name:
                return _under_fire(Lane(Path(folder), server, arguments, server.url(name)), arguments, began)
        finally:
            server.stop()


def _under_fire(run: Lane, arguments: argparse.Namespace, began: float) -> Figures:
    try:
        for name in arguments.each or []:
            run.strike(name)
        while sum(run.figures.kills.values()) < arguments.kills and time.monotonic() - began < arguments.seconds:
            run.strike()
        valid = run.drain()
        figures = run.verdict()
        figures.valid, figures.seconds = valid, time.monotonic() - began
        return figures
    finally:
        run.close()


def torture(arguments: argparse.Namespace) -> Figures:
    """The figures over all lanes, each a process of its own: the sinks and producers of one would slow down the other's."""
    if arguments.lanes == 1:
        return lane(arguments)
    with tempfile.TemporaryDirectory(prefix="torture-lanes-") as folder:
        started = []
        for number in range(arguments.lanes):
            path = Path(folder) / f"{number}.json"
            command = [
                sys.executable, "-m", "tests.torture", "--lanes", "1", "--kills", str(-(-arguments.kills // arguments.lanes)), "--seed", str(arguments.seed + number),
                "--database", arguments.database, "--workers", str(arguments.workers), "--json", str(path), "--seconds", str(arguments.seconds),
                *(["--each", *arguments.each] if arguments.each else []),
            ]  # fmt: skip
            started.append((subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), path))
        figures: Figures | None = None
        for process, path in started:
            if process.wait() and not path.exists():
                sys.exit(f"a lane ended with {process.returncode} and without figures; its own words are above")
            members = json.loads(path.read_text("utf-8"))["figures"]
            one = Figures(**members | {"verdict": Verdict(**members["verdict"])})
            if figures is None:
                figures = one
            else:
                figures.add(one)
        assert figures is not None
        return figures


def facts(arguments: argparse.Namespace) -> dict[str, object]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {"database": arguments.database, "seed": arguments.seed, "workers": arguments.workers, "lanes": arguments.lanes, "commit": commit.stdout.strip(), "python": platform.python_version()}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop killing after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database", default="mariadb", help="mariadb, sqlite, or a server of the matrix, such as mysql-5.6")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=1, help="sites under fire at the same time")
    parser.add_argument("--each", nargs="*", choices=NEMESES, help="first these nemeses, once each")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parsed()
    figures = torture(arguments)
    print(f"database={arguments.database} workers={arguments.workers} seed={arguments.seed} {figures.line()}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(facts(arguments) | {"line": figures.line(), "figures": asdict(figures), "broken": figures.broken()}, indent=1) + "\n")
    if not figures.valid:
        print("INVALID: it could not be drained", file=sys.stderr)
        return 2
    if figures.broken():
        print(f"BROKEN: {figures.broken()}", *figures.verdict.remarks[:20], sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
