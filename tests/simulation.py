"""
Whole runs on two hosts, simulated from one seed: the product's own run, store, journal, lock and worker, and a world that is against them.

    python -m tests.simulation --seed 17 --database mariadb --trace
    python -m tests.simulation --seeds 1000

Every run and every worker is a thread, and only the one with the baton goes on. Each statement, journal write and step of a
job is a moment at which the world may let another go on, kill, freeze, lose a statement or its reply, or let a person act.
Time is the world's: nothing waits. What is replaced: the fork (a thread, with the real worker's `_serve`), sleep, clocks and
randomness. What must hold is said where it is checked, in `Rules`; one seed is one history, again and again.
"""

from __future__ import annotations

import argparse
import errno
import functools
import io
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import pymysql  # noqa: E402
from parts import _given_server, _installed_mariadb, made_store  # noqa: E402

import asyncsend.deathsig  # noqa: E402
import asyncsend.execute  # noqa: E402
import asyncsend.journal  # noqa: E402
import asyncsend.lock  # noqa: E402
import asyncsend.run  # noqa: E402
import asyncsend.status  # noqa: E402
import asyncsend.store.connection  # noqa: E402
import asyncsend.store.lines  # noqa: E402
import asyncsend.store.mysql  # noqa: E402
import asyncsend.store.sqlite  # noqa: E402
import asyncsend.workers  # noqa: E402
from asyncsend import config  # noqa: E402
from asyncsend.answers import Retry, Snooze, Unknown  # noqa: E402
from asyncsend.backoff import Backoff  # noqa: E402
from asyncsend.budget import Budget  # noqa: E402
from asyncsend.child import Child  # noqa: E402
from asyncsend.errors import ConfigurationError, DatabaseUnreachable  # noqa: E402
from asyncsend.execute import CRASH_LIMIT  # noqa: E402
from asyncsend.job import NewJob  # noqa: E402
from asyncsend.log import Log  # noqa: E402
from asyncsend.outcome import State  # noqa: E402
from asyncsend.store.connection import ConnectionLost  # noqa: E402
from asyncsend.store.mysql import MySQLStore  # noqa: E402
from asyncsend.store.sqlite import SQLiteStore  # noqa: E402
from asyncsend.tasks import AT_MOST_ONCE, Policy, Task  # noqa: E402
from asyncsend.wire import from_parcels  # noqa: E402
from asyncsend.worker import Worker  # noqa: E402
from asyncsend.workers import Workers  # noqa: E402

BIRTH = 1_780_000_000.0  # the world begins in 2026
MOST_STEPS = 60_000
SOON = Backoff(base=10, cap=60)
KINDS = {"plain": 8, "flaky": 4, "once": 2, "hold": 2, "poison": 1}  # task: weight
LIMITS = {"api": 2, "solo": 1}  # concurrency key: how many at a time
POLICIES = {
    "plain": Policy(timeout=60, max_attempts=8, backoff=SOON),
    "flaky": Policy(timeout=60, max_attempts=4, backoff=SOON),
    "once": Policy(timeout=60, delivery=AT_MOST_ONCE, backoff=SOON),
    "hold": Policy(timeout=60, on_unknown="hold", backoff=SOON),
    "poison": Policy(timeout=60, backoff=SOON),
}
# How often at each step; a seed takes some of them, each stronger or weaker.
NEMESES = {
    "kill-run": 0.004, "kill-worker": 0.002, "freeze-run": 0.001, "freeze-worker": 0.001, "freeze-host": 0.001, "term": 0.001, "cron": 0.003,
    "person": 0.004, "jobs": 0.003, "wall-clock": 0.001, "disk": 0.001,  # so far at any step; the others in a statement or a write
    "torn": 0.02, "lost-before": 0.006, "lost-after": 0.006, "conflict": 0.006, "away": 0.001, "cancel-at-claim": 0.05,
}  # fmt: skip
AT_A_STEP = ("kill-run", "kill-worker", "freeze-run", "freeze-worker", "freeze-host", "term", "cron", "person", "jobs", "wall-clock", "disk")


class Killed(BaseException):
    """Raised again at every step of a dead process: nothing its `finally` blocks do reaches anything."""


@dataclass(eq=False)
class Actor:
    """Whoever can have the baton: a run, a worker of one, or the world itself."""

    name: str
    host: Host | None = None
    run: Actor | None = None  # of a worker: its run
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    wake_at: float = 0.0
    frozen_until: float = 0.0
    dead: bool = False
    done: bool = False
    code: int | None = None  # of a worker that ended
    froze: bool = False  # since it last asked whether it may start
    in_transaction: bool = False
    pending: list = field(default_factory=list)  # what its open transaction did
    session_lost: bool = False
    store: object = None
    holding: object = None  # of a run: its Holding
    gave_back: bool = False  # it has asked to end: it believes nothing any more
    budget: Budget | None = None
    workers: list[Actor] = field(default_factory=list)
    judged_at: int = 0  # of a run: the step at which it asked who may start
    claim: Claim | None = None  # of a worker: what it executes now
    open: list = field(default_factory=list)  # what the kernel would close

    def clock(self) -> float:
        return self.host.clock()


@dataclass(eq=False)
class Host:
    """A folder with a lock and a journal; a clock that drifts a little, and a wall clock that somebody sets."""

    name: str
    world: World
    home: Path
    settings: config.Settings = None
    rate: float = 1.0
    wall: float = 0.0
    disk_full_until: float = 0.0
    frozen_until: float = 0.0

    def clock(self) -> float:
        return 1000.0 + (self.world.now - BIRTH) * self.rate

    def wall_clock(self) -> float:
        return self.world.now + self.wall


@dataclass(eq=False)
class Claim:
    """One job in the hands of one run: a token, and what came of it."""

    job: int
    token: str
    run: Actor
    started: bool = False  # a start mark stands in the journal or the database
    unnoted: bool = False  # the journal refused the start
    effects: int = 0
    answer: str | None = None
    noted: str | None = None  # the result that stands in the journal
    ended: str | None = None  # what was written and committed
    ended_by: Actor | None = None


@dataclass
class Row:
    """What the world knows of a job."""

    id: int
    kind: str
    claims: list[Claim] = field(default_factory=list)
    since: int = 0  # the first claim after a person made it ready again
    cancelled: bool = False
    expires: bool = False
    order_key: str | None = None
    concurrency_key: str | None = None
    readied_at: int = -1  # the step at which a person made it ready again

    @property
    def present(self) -> list[Claim]:
        return self.claims[self.since :]


class Rules:
    """The rules, looked at with every statement and every effect. `broken` holds what did not hold."""

    def __init__(self, world: World):
        self.world = world
        self.rows: dict[int, Row] = {}
        self.claims: dict[tuple[int, str], Claim] = {}
        self.owner: Actor | None = None  # whose the status row is, in truth
        self.lease_end = 0.0
        self.broken: list[str] = []

    def breaks(self, what: str) -> None:
        self.broken.append(what)
        self.world.note(f"BROKEN {what}")

    # the status row
    def taken(self, run: Actor) -> None:
        now = self.world.now
        if self.owner is not None and self.owner is not run and not self.owner.done and not self.owner.dead and now < self.lease_end:
            self.breaks(f"{run.name} took the status row from {self.owner.name}, which lives and has a lease")
        self.owner = run
        self.renewed(run)

    def renewed(self, run: Actor) -> None:
        self.lease_end = self.world.ask("SELECT UNIX_TIMESTAMP(lease_until) FROM asyncsend_status")[0][0]

    def at_every_step(self) -> None:
        believers = [
            actor.name
            for actor in self.world.actors
            if actor.holding is not None and not (actor.dead or actor.done or actor.gave_back) and actor.clock() < actor.holding.valid_until
        ]
        if len(believers) > 1:
            self.breaks(f"two runs believe that the status row is theirs: {believers}")

    # jobs
    def may_write(self, run: Actor, what: str) -> None:
        if self.owner is not run:
            self.breaks(f"{run.name} does not own the status row, and its {what} was accepted")

    def claimed(self, run: Actor, token: str) -> None:
        self.may_write(run, "claim")
        for (job_id,) in self.world.ask("SELECT id FROM asyncsend_jobs WHERE token = :token", token=bytes.fromhex(token)):
            row = self.rows[job_id]
            if (job_id, token) in self.claims:
                continue  # the reply was lost, and this is the second try
            if row.cancelled:
                self.breaks(f"job {job_id} was cancelled and is claimed by {run.name}")
            if row.claims and row.claims[-1].ended is None:
                self.breaks(f"job {job_id} is claimed by {run.name} while it is in the hands of {row.claims[-1].run.name}")
            self.claims[job_id, token] = Claim(job_id, token, run)
            row.claims.append(self.claims[job_id, token])
            self.in_line(run, row)

    def in_line(self, run: Actor, row: Row) -> None:
        """This job was just claimed: it had to be the first of its order key, and one of few of its concurrency key."""
        going = [one for one in self.rows.values() if one.claims and one.claims[-1].ended is None]
        if row.order_key:
            alike = [one.id for one in going if one.order_key == row.order_key]
            if alike != [row.id]:
                self.breaks(f"jobs {alike} of the order key {row.order_key} are running together")
            for (job_id,) in self.world.ask("SELECT id FROM asyncsend_jobs WHERE order_key = :key AND id < :id AND state IN ('ready', 'running', 'held')", key=row.order_key, id=row.id):
                if self.rows[job_id].readied_at < run.judged_at:
                    self.breaks(f"job {row.id} is claimed by {run.name}, and job {job_id} of its order key is before it")
        limit = LIMITS.get(row.concurrency_key or "")
        if limit and sum(one.concurrency_key == row.concurrency_key for one in going) > limit:
            self.breaks(f"more than {limit} jobs of the concurrency key {row.concurrency_key} are running with job {row.id}")

    def is_open(self, job_id: int, token: str) -> bool:
        """Whether this is the present claim of the job, and nothing was written for it."""
        claims = self.rows[job_id].claims
        return bool(claims) and claims[-1].token == token and claims[-1].ended is None

    def settled(self, run: Actor, job_id: int, token: str, kind: str, *, rescue: bool = False) -> None:
        self.may_write(run, f"{kind} of job {job_id}")
        row = self.rows[job_id]
        claim = row.claims[-1] if row.claims else None
        if claim is None or claim.token != token:
            self.breaks(f"job {job_id}: {run.name} wrote {kind} for a claim that is over")
            return
        if claim.ended:
            self.breaks(f"job {job_id}: {run.name} wrote {kind}, but this claim was settled already ({claim.ended})")
        claim.ended, claim.ended_by = kind, run
        elsewhere = run.host is not claim.run.host
        if kind == "done" and claim.answer != "done":
            self.breaks(f"job {job_id} is done, but its task said {claim.answer}")
        if kind == "crashed" and not claim.started and not claim.unnoted:
            self.breaks(f"job {job_id} is charged a crash, but it was never started")
        if kind == "crashed" and claim.noted:
            self.breaks(f"job {job_id} is charged a crash, but its result stands in the journal")
        if kind == "charged" and not claim.started and not claim.unnoted:
            self.breaks(f"job {job_id} is charged an attempt, but it was never started")
        # A repeat is explained by a claim that ended with a charge, by a person, or by what another host's journal could not tell us.
        if kind == "released" and claim.effects and not elsewhere:
            self.breaks(f"job {job_id} goes back uncharged after its effect, on the host that had its journal")
        if kind in ("released", "crashed", "charged") and claim.noted == "finish" and not elsewhere:
            self.breaks(f"job {job_id} was done and noted, and is repeated on the same host")

    def effect(self, worker: Actor, job_id: int, token: str) -> None:
        claim, row, run = self.claims.get((job_id, token)), self.rows[job_id], worker.run
        if claim is None:
            self.breaks(f"job {job_id}: {worker.name} executes a claim that nobody made")
            return
        claim.effects += 1
        if claim.effects > 1:
            self.breaks(f"job {job_id} was executed twice in one claim of {run.name}")
        if row.kind in ("once", "hold") and sum(1 for one in row.present if one.effects) > 1 and all(one.answer != "retry" for one in row.present[:-1]):
            self.breaks(f"job {job_id} ({row.kind}) was executed twice, and nobody had released it")
        if worker.froze:
            return  # it had asked, and was stopped between the question and the effect: no lease helps against that
        if row.cancelled:
            self.breaks(f"job {job_id} was cancelled and is executed by {run.name}")
        if worker.clock() > run.holding.valid_until + 0.2:
            self.breaks(f"job {job_id}: {worker.name} began an effect after its own lease limit")
        if self.owner is run and self.world.now > self.lease_end:
            self.breaks(f"job {job_id}: {worker.name} began an effect after the lease in the database was over")
        if self.owner is not run:
            self.breaks(f"job {job_id}: {worker.name} began an effect while the status row was {self.owner.name if self.owner else 'nobody'}'s")

    # when all is quiet
    def at_the_end(self) -> None:
        world = self.world
        found = {
            row[0]: row[1:]
            for row in world.ask("SELECT id, state, attempts, crashes, reason, CASE WHEN unique_slot IS NULL OR (state = 'done' AND COALESCE(unique_key, order_key, batch_id) IS NULL) THEN 0 ELSE 1 END FROM asyncsend_jobs")
        }
        for job_id, row in self.rows.items():
            state, attempts, crashes, reason, slot = found.get(job_id, ("missing", 0, 0, None, 0))
            here = f"job {job_id} ({row.kind}) is {state}/{reason} with {attempts} attempts, {crashes} crashes"
            if state not in ("done", "dead", "held", "cancelled"):
                self.breaks(f"lost or stuck: {here}")
                continue
            began = [claim for claim in row.present if claim.started or claim.unnoted]
            effects = sum(claim.effects for claim in row.present)
            charged = Counter(claim.ended for claim in row.present)
            snoozed = sum(claim.answer == "snooze" for claim in row.present)
            elsewhere = sum(claim.ended == "released" and claim.effects > 0 for claim in row.present)
            if state == "done" and not any(claim.answer == "done" for claim in row.claims):
                self.breaks(f"{here}, but no execution ever said so")
            if attempts + crashes > len(began):
                self.breaks(f"{here}, but it was started {len(began)} times")
            if effects > attempts + crashes + snoozed + elsewhere:
                self.breaks(f"{here}, but it took effect {effects} times, {snoozed} snoozed and {elsewhere} lost to another host")
            if crashes != charged["crashed"] + charged["crash-loop"]:
                self.breaks(f"{here}, but {charged['crashed'] + charged['crash-loop']} crashes were charged to it")
            if crashes > CRASH_LIMIT or (reason == "crash-loop") != (crashes == CRASH_LIMIT and state == "dead"):
                self.breaks(f"{here}: a crash loop is exactly {CRASH_LIMIT} crashes")
            if row.kind == "poison" and reason != "crash-loop" and not row.cancelled and reason != "expired":
                self.breaks(f"{here}: a poison job must end in a crash loop")
            if state == "dead" and reason not in ("crash-loop", "max-attempts"):
                self.breaks(f"{here}: nothing explains its death")
            if state == "held" and row.kind not in ("once", "hold"):
                self.breaks(f"{here}: nothing of it was in doubt")
            if state == "cancelled" and not row.cancelled and not (row.expires and reason == "expired"):
                self.breaks(f"{here}: nobody cancelled it")
            if slot != (state == "held"):
                self.breaks(f"{here}, but its unique key is {'taken' if slot else 'free'}")
        for job_id in set(found) - set(self.rows):
            self.breaks(f"job {job_id} was never inserted")
        repeated = Counter(claim.run.name for row in self.rows.values() for claim in row.claims if claim.effects and claim.ended in ("crashed", "released") and claim.ended_by.host is claim.run.host)
        for name, jobs in repeated.items():
            if jobs > world.workers:
                self.breaks(f"the death of {name} repeats {jobs} jobs, with {world.workers} workers")
        ((status, owner),) = world.ask("SELECT status, owner FROM asyncsend_status")
        if (status, owner) != ("idle", None):
            self.breaks(f"the status row says {status}, owner {owner}")


# ── the stores, each statement a step of the world ───────────────────────────────────────────────────────────────────


class Watched:
    """Over a real store: the world is asked before and after each statement."""

    world: World
    actor: Actor

    def _execute(self, sql, params):
        return self.world.statement(self, super()._execute, sql, params)

    def end(self, *args, **options):
        self.actor.gave_back = True
        return super().end(*args, **options)


class WatchedSQLite(Watched, SQLiteStore):
    def _connect(self):
        connection = super()._connect()
        connection.execute("PRAGMA synchronous = OFF")
        self.actor.open.append(connection.close)
        return connection

    def roll_back(self):
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def tell_time(self, execute):
        pass

    def conflict(self):
        self.roll_back()
        raise ConnectionLost("database is locked")


class ConflictingCursor(pymysql.cursors.Cursor):
    """Raises the conflict that was ordered, as the server would: the transaction is gone, and the last packet does not say so."""

    def execute(self, query, args=None):
        code = getattr(self.connection, "conflict", None)
        if code:
            self.connection.conflict = None
            status = self.connection.server_status
            self.connection.query("ROLLBACK")
            self.connection.server_status = status
            raise pymysql.err.OperationalError(code, "conflict")
        return super().execute(query, args)


class WatchedMySQL(Watched, MySQLStore):
    def _connect(self):
        self.options["cursorclass"] = ConflictingCursor
        connection = super()._connect()
        self.actor.open.append(connection._force_close)
        return connection

    def roll_back(self):
        if self._connection is not None and self._connection.open:
            self._connection.query("ROLLBACK")

    def tell_time(self, execute):
        execute(f"SET SESSION timestamp = {self.world.now:.6f}", {})

    def conflict(self):
        self._connection.conflict = self.world.chance.choice([1213, 1205])


# ── the worker: the product's, with a thread for its fork ────────────────────────────────────────────────────────────


class Wire:
    """The socket between run and worker."""

    def __init__(self, run: Actor):
        self.run, self.worker = run, None
        self.inbox: deque[object] = deque()
        self.outbox: deque[bytes] = deque()
        self.ended = False

    def sendall(self, parcels):
        if self.worker.code is not None:
            raise OSError(errno.EPIPE, "broken pipe")
        self.inbox += from_parcels(io.BytesIO(parcels))
        self.run.host.world.wake(self.worker)

    def shutdown(self, how):
        self.ended = True
        self.run.host.world.wake(self.worker)

    def close(self):
        pass

    def fileno(self):
        return id(self)


class Ear:
    """The selector of the run."""

    def __init__(self, workers):
        self.workers = workers

    def select(self, timeout):
        self.workers.world.wait(timeout)
        return [(SimpleNamespace(data=worker), 1) for worker in self.workers.workers if worker.jobs.outbox]

    def get_map(self):
        return {worker.jobs.fileno(): None for worker in self.workers.workers}

    def unregister(self, channel):
        pass

    def close(self):
        pass


class SimWorkers(Workers):
    """The real watch over workers that are threads."""

    world: World

    def __init__(self, *args, **options):
        self.run = self.world.current
        super().__init__(*args, **options, clock=self.run.clock)
        self.selector.close()
        self.selector = Ear(self)
        self.mark_started = self._marked(self.mark_started)

    def _marked(self, mark):
        def marked(job_id, token, hold):
            self.world.rules.claims[job_id, token].started = True  # from here on a crash may be charged, whether the mark came through or not
            return mark(job_id, token, hold)

        return marked

    def _fork(self):
        wire = Wire(self.run)
        output = os.open(os.devnull, os.O_RDONLY)
        actor = self.world.hire(self.run, wire, self)
        return Worker(actor.pid, wire, output, born=self.clock())

    def _listen(self, worker):
        said, worker.jobs.outbox = b"".join(worker.jobs.outbox), deque()
        if said:
            self._hear(worker, said)

    def _reap(self):
        for worker in list(self.workers):
            if self.world.by_pid[worker.pid].code is not None:
                self._bury_worker(worker, self.world.by_pid[worker.pid].code)

    def called_back(self, job, wave):
        self.world.current.froze = False
        return super().called_back(job, wave)


class SimChild(Child):
    """The worker's side: the real `_serve`, fed by the wire."""

    secrets = ()

    def __init__(self, workers, wire, actor):
        self.parent = SimpleNamespace(called_back=workers.called_back, journal=workers.journal, journal_broken=workers.journal_broken, chance=workers.world.chance.random)
        self.me, self.wire, self.actor, self.world = os.getpid(), wire, actor, workers.world
        self.session, self.wave = f"{actor.pid}.simulated", 0

    def work(self):
        self._say(json.dumps({"policies": {name: policy.as_dict() for name, policy in POLICIES.items()}, "failed": {}}))
        while True:
            while not self.wire.inbox:
                if self.wire.ended:
                    return
                self.world.wait(float("inf"))
            self._serve(self.wire.inbox.popleft(), self)

    def find(self, name):
        return Task(name, lambda payload, job: self.world.task(self.actor, job), POLICIES[name])

    def _end_output(self):
        pass  # what is printed here is the test's own

    def _leaked(self):
        return False  # descriptors and memory are this process's, not a worker's

    def _say(self, message):
        self.world.step("say")
        self.wire.outbox.append(message.encode() + b"\n")
        self.world.wake(self.wire.run)


class SimJournal(asyncsend.journal.Journal):
    """The real journal; each write is a step, and may be torn or refused."""

    world: World

    def __init__(self, path):
        super().__init__(path)
        self.closed = False
        self.world.current.open.append(self.close)

    def _append(self, body):
        world, actor = self.world, self.world.current
        world.step(f"journal {body[:60]}")
        kind, job_id, token = body.split(" ", 3)[:3]
        claim = world.rules.claims.get((int(job_id), token))
        if world.now < actor.host.disk_full_until:
            if claim and kind == "S":
                claim.unnoted = True
            raise OSError(28, "no space")
        size = self.size()
        super()._append(body)
        if world.strikes("torn"):
            os.ftruncate(self.descriptor, size + world.chance.randrange(self.size() - size))
            world.kill(actor.run or actor, "torn write")
            raise Killed
        if claim and kind == "S":
            claim.started = True
        elif claim:
            claim.noted = json.loads(body.split(" ", 3)[3])["verb"]
        world.step("journal written")

    def clear(self):
        self.world.step("journal clear")
        super().clear()
        self.world.step("journal cleared")

    def close(self):
        if not self.closed:
            self.closed = True
            super().close()


class Told(Log):
    """The real log, into the trace."""

    def __init__(self, actor, world):
        super().__init__(Path("/nowhere"), clock=actor.host.wall_clock)
        self.actor, self.world = actor, world

    def _write(self, line):
        self.world.note(f"{self.actor.name} {line[25:]}")


# ── the world ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Shim:
    """A module with some names replaced."""

    def __init__(self, module, **names):
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name):
        return getattr(self._module, name)


class World:
    def __init__(self, seed: int, url: str, folder: Path, *, trace: bool = False):
        self.seed, self.url, self.folder = seed, url, folder
        self.chance = random.Random(seed)
        self.keys = random.Random(seed)  # of its own, for half of the worlds have no keys
        self.keyed = self.keys.random() < 0.5
        self.now = BIRTH
        self.steps = 0
        self.lines: deque[str] = deque(maxlen=None if trace else 80)
        self.quiet = True  # no nemesis
        self.current = self.me = Actor("world")
        self.actors: list[Actor] = [self.me]
        self.by_pid: dict[int, Actor] = {}
        self.pids, self.numbers = itertools.count(10**8), itertools.count(1)
        self.workers = self.chance.choice([1, 1, 2, 3])
        self.max_time = self.chance.choice([50.0, 50.0, 50.0, 400.0])  # with the last a run outlives its first lease many times
        self.switching = self.chance.choice([0.05, 0.2, 0.5])
        self.nemeses = {name: rate * self.chance.choice([0.5, 1, 3]) for name, rate in NEMESES.items() if self.chance.random() < 0.6}
        self.danger = sum(self.nemeses.get(name, 0.0) for name in AT_A_STEP)
        self.rules = Rules(self)
        self.counts: Counter[str] = Counter()
        self.away_until = 0.0
        self.locked_by: Actor | None = None  # stopped in the middle of a transaction
        self.failure: BaseException | None = None
        self.hosts = [self._host("north"), self._host("south")]
        self.store = made_store(url, lambda: self.now)
        if url.startswith("sqlite"):
            self.store._execute("PRAGMA synchronous = OFF", {})

    def _host(self, name: str) -> Host:
        home = self.folder / name
        home.mkdir(mode=0o700)
        settings = config.load({"ASYNCSEND_HOME": str(home), "ASYNCSEND_DATABASE_URL": self.url, "ASYNCSEND_CONCURRENCY": ",".join(f"{key}:{most}" for key, most in LIMITS.items())})
        return Host(name, self, home, settings, 1 + self.chance.uniform(-2e-4, 2e-4))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.now - BIRTH:9.3f} {line}")

    # people, pages and the world itself
    def ask(self, sql, **params):
        return self.store._rows(sql, **params)

    def on_time(self):
        """The world's own store, its clock set."""
        if hasattr(self.store, "options"):
            self.store._execute(f"SET SESSION timestamp = {self.now:.6f}", {})
        return self.store

    # the baton
    def choose(self) -> Actor:
        while True:
            able = [actor for actor in self.actors if actor.dead or max(actor.wake_at, actor.frozen_until) <= self.now]
            if able:
                return able[0] if len(able) == 1 else self.chance.choice(able)
            soonest = min(max(actor.wake_at, actor.frozen_until) for actor in self.actors)
            assert soonest != float("inf"), "everybody waits for ever"
            self.now = soonest

    def pass_on(self) -> None:
        me, chosen = self.current, self.choose()
        if chosen is not me:
            self.current = chosen
            chosen.go.release()
            me.go.acquire()
        if me.dead:
            raise Killed

    def wait(self, seconds: float) -> None:
        """Until so much later, or until somebody wakes us."""
        me = self.current
        if me.dead:
            raise Killed
        self._count()
        me.wake_at = self.now + max(0.0, seconds)
        self.pass_on()
        me.wake_at = 0.0

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        self.wait(seconds)
        while self.now < until:
            self.wait(until - self.now)

    def wake(self, actor: Actor) -> None:
        actor.wake_at = min(actor.wake_at, self.now)

    def _count(self) -> None:
        self.steps += 1
        self.now += self.chance.random() * 0.004
        if self.steps == MOST_STEPS:
            self.rules.breaks("it does not come to an end")
        if self.steps >= MOST_STEPS:
            for actor in self.actors:
                actor.dead = actor is not self.me
            if self.current is not self.me:
                raise Killed

    def step(self, what: str) -> None:
        me = self.current
        if me.dead:
            raise Killed
        self._count()
        self.note(f"{me.name} {what}")
        if not self.quiet:
            self._strike(me)
        if max(me.wake_at, me.frozen_until) > self.now or (not me.in_transaction and self.chance.random() < self.switching):
            self.pass_on()
        self.rules.at_every_step()

    def start(self, name: str, target, **facts) -> Actor:
        actor = Actor(name, **facts)
        self.actors.append(actor)

        def live():
            actor.go.acquire()
            try:
                if not actor.dead:
                    target(actor)
            except Killed:
                pass
            except BaseException as error:
                self.failure = self.failure or error
            try:
                for close in reversed(actor.open):
                    close()
                if self.locked_by is actor:
                    self.locked_by = None
                actor.done, actor.holding = True, None
                if actor.code is None:
                    actor.code = 0
                if actor.run:
                    self.wake(actor.run)
                self.actors.remove(actor)
                self.current = self.choose()
            except BaseException as error:
                self.failure, self.current = self.failure or error, self.me
            self.current.go.release()

        threading.Thread(target=live, daemon=True).start()
        return actor

    def cron(self, host: Host) -> Actor:
        return self.start(f"{host.name}-{next(self.numbers)}", self._run, host=host)

    def _run(self, actor: Actor) -> None:
        actor.budget = Budget(actor.clock, self.max_time)
        store = actor.store = self.open_store(actor)
        try:
            report = asyncsend.run.run(store, actor.host.settings, Told(actor, self), actor.budget, workers=self.workers, chance=self.chance.random, clock=actor.clock)
            self.counts[f"stopped {report.stopped}"] += 1
            self.counts["late"] += report.counts.get("late", 0)
            self.counts["replayed"] += report.counts.get("replayed", 0)
        except DatabaseUnreachable:
            self.counts["stopped away"] += 1
        except ConfigurationError as error:
            if "worker processes" not in str(error):
                raise
            self.counts["stopped workers-die"] += 1

    def open_store(self, actor: Actor):
        made = WatchedSQLite(self.url, "asyncsend_", lambda: self.now) if self.url.startswith("sqlite") else WatchedMySQL(self.url, "asyncsend_")
        made.world, made.actor = self, actor
        return made

    def hire(self, run: Actor, wire: Wire, workers: SimWorkers) -> Actor:
        actor = self.start(f"{run.name}.{len(run.workers)}", lambda actor: SimChild(workers, wire, actor).work(), host=run.host, run=run)
        actor.pid, wire.worker = next(self.pids), actor  # above every real pid
        self.by_pid[actor.pid] = actor
        run.workers.append(actor)
        return actor

    # what befalls them
    def strikes(self, nemesis: str) -> bool:
        if self.quiet or self.chance.random() >= self.nemeses.get(nemesis, 0.0):
            return False
        self.counts[nemesis] += 1
        self.note(f"*** {nemesis}")
        return True

    def _strike(self, me: Actor) -> None:
        """At most one thing befalls us at a step."""
        if self.chance.random() >= self.danger:
            return
        run = me.run or me
        nemesis = self.chance.choices(list(AT_A_STEP), [self.nemeses.get(name, 0.0) for name in AT_A_STEP])[0]
        seconds = self.chance.choice([1.0, 40.0, 100.0, 130.0, 200.0, 400.0])
        self.counts[nemesis] += 1
        self.note(f"*** {nemesis}")
        match nemesis:
            case "kill-run":
                self.kill(run, "kill -9")
            case "kill-worker" if run.workers:
                self.kill_group(self.chance.choice(run.workers).pid, signal.SIGKILL)
            case "freeze-run":
                self.freeze(run, seconds)
            case "freeze-worker" if run.workers:
                self.freeze(self.chance.choice(run.workers), seconds)
            case "freeze-host":
                me.host.frozen_until = self.now + seconds
                for actor in self.actors:
                    if actor.host is me.host:
                        self.freeze(actor, seconds)
            case "term":
                run.budget.stop_asked = "sigterm"
            case "cron":
                self.cron(me.host)
            case "wall-clock":
                me.host.wall += self.chance.choice([-86400, -3600, 3600, 86400])
            case "disk":
                me.host.disk_full_until = self.now + seconds
            case "person" if not me.in_transaction and self.locked_by is None:
                self.person()
            case "jobs" if not me.in_transaction and self.locked_by is None:
                self.enqueue(self.chance.randrange(1, 4))
        if me.dead:
            raise Killed

    def freeze(self, actor: Actor, seconds: float) -> None:
        actor.frozen_until, actor.froze = self.now + seconds, True
        if actor.in_transaction:
            if self.chance.random() < 0.5:
                self.locked_by = actor  # the server waits for it, and everybody else for the server
            else:
                actor.store.roll_back()
                self._over(actor)
                actor.session_lost = True

    def kill(self, run: Actor, why: str) -> None:
        """The run dies, and with it its workers: the kernel sees to that."""
        self.note(f"*** {run.name} dies: {why}")
        self.counts["deaths"] += 1
        for actor in (run, *run.workers):
            actor.dead = True

    def kill_group(self, pid: int, number: int) -> None:
        worker = self.by_pid[pid]
        if worker.code is None:
            self.note(f"*** {worker.name} is killed")
            worker.dead, worker.code = True, -int(number)
            self.wake(worker.run)

    # statements
    def statement(self, store, execute, sql, params):
        actor = store.actor
        words = f"{' '.join(sql.split()[:4])} {({name: value for name, value in params.items() if name in ('id', 'ids', 'state', 'token')}) or ''}"
        self.step(words)
        if actor.session_lost:
            actor.session_lost = False
            self._lose(store, "the server ended a session that stood still")
        writes = not sql.startswith("SELECT")
        if "UNION ALL" in sql:
            actor.judged_at = self.steps
        if (writes and self.locked_by not in (None, actor)) or self.now < self.away_until:
            self.sleep(5.0)
            if self.locked_by not in (None, actor) or self.now < self.away_until:
                raise store.unreachable(ConnectionLost("somebody stands still in the middle of a transaction"))
        if self.strikes("away"):
            self.away_until = self.now + self.chance.choice([2.0, 30.0, 120.0])
            self._lose(store, "the server goes away")
        if self.strikes("lost-before"):
            self._lose(store, "lost before it was done")
        if "SET state = 'running'" in sql and not actor.in_transaction and self.strikes("cancel-at-claim"):
            self.cancel(self.chance.choice(params["ids"]))
        if store._connection is not None and self.strikes("conflict"):
            self._over(actor)
            store.conflict()
        store.tell_time(execute) if not getattr(store._connection, "conflict", None) else None
        result = execute(sql, params)
        if self.locked_by is actor:
            self.locked_by = None
        self._observe(actor, sql, params, result)
        if self.strikes("lost-after"):
            self._lose(store, "done, and its reply lost")
        self.step("answered")
        return result

    def _lose(self, store, why: str):
        self.note(f"    {why}")
        store.roll_back()
        self._over(store.actor)
        raise ConnectionLost(f"2013: {why}")

    def _over(self, actor: Actor) -> None:
        """Its transaction is rolled back."""
        actor.in_transaction = False
        actor.pending.clear()
        if self.locked_by is actor:
            self.locked_by = None

    def _observe(self, actor: Actor, sql: str, params, result) -> None:
        """What a statement did, for the rules: at once, or when its transaction is committed."""
        if sql.startswith("BEGIN"):
            actor.in_transaction = True
        elif sql in ("COMMIT", "ROLLBACK"):
            told = list(actor.pending)
            self._over(actor)
            for tell in told if sql == "COMMIT" else ():
                tell()
        elif result[1] > 0 and sql.startswith("UPDATE"):
            tell = self._meaning(actor, sql, params, result[1])
            if actor.in_transaction:
                if tell:
                    actor.pending.append(tell)
            elif tell:
                tell()

    def _meaning(self, actor: Actor, sql: str, params, matched: int):
        rules = self.rules
        if sql.startswith("UPDATE asyncsend_status"):
            if "previous_started_at" in sql:
                return lambda: rules.taken(actor)
            if "SET aside" in sql:
                return None
            if "'idle'" in sql:
                return lambda: setattr(rules, "owner", None)
            return lambda: rules.renewed(actor)
        if not sql.startswith("UPDATE asyncsend_jobs"):
            return None
        if "SET lane" in sql:
            self.counts["forward" if "lane = ''" in sql else "aside"] += matched
            return lambda: rules.may_write(actor, "lane")
        token = params["token"].hex()
        if "SET state = 'running'" in sql:
            return lambda: rules.claimed(actor, token)
        if "SET started_at" in sql:
            return lambda: rules.may_write(actor, "start mark")
        if "ids" in params:
            kind = "done" if "'done'" in sql else "released"
            open_ = [job_id for job_id in params["ids"] if rules.is_open(job_id, token)]  # the others were written before: a journal read twice
            if matched != len(open_):
                rules.breaks(f"{actor.name} wrote {kind} to {matched} of the jobs {params['ids']}, but only {open_} were in its hands")
            return lambda: [rules.settled(actor, job_id, token, kind) for job_id in open_]
        if "'bad-row'" in sql:
            return lambda: rules.breaks(f"job {params['id']} is set aside")
        if params["state"] == "ready":
            kind = "crashed" if params["crashed"] else "charged" if params["charged"] else "snoozed" if params["move"] else "released"
        else:
            kind = "crash-loop" if params["crashed"] else params["state"]
        return lambda: rules.settled(actor, params["id"], token, kind, rescue=bool(params["rescue"]))

    # jobs and people
    def enqueue(self, number: int) -> None:
        store, jobs = self.on_time(), []
        for _ in range(number):
            uid = f"u{len(self.rules.rows) + len(jobs)}"
            kind = self.chance.choices(list(KINDS), list(KINDS.values()))[0]
            job = NewJob(kind, "{}", uid, queue=self.chance.choice(["default", "low"]), priority=self.chance.choice([0, 0, 5]))
            if self.chance.random() < 0.2:
                job.delay = self.chance.uniform(1, 200)
            if self.chance.random() < 0.1:
                job.expires_in = self.chance.uniform(100, 500)
            if self.chance.random() < 0.2:
                job.unique_key = uid
            if self.keyed:
                job.order_key = self.keys.choice([None, None, "a", "b"])
                job.concurrency_key = self.keys.choice([None, None, "api", "solo", "free"])
            jobs.append(job)
        store.insert(jobs)
        for job in jobs:
            ((job_id,),) = self.ask("SELECT id FROM asyncsend_jobs WHERE uid = :uid", uid=job.uid)
            self.rules.rows[job_id] = Row(job_id, job.task, expires=job.expires_in is not None, order_key=job.order_key, concurrency_key=job.concurrency_key)

    def cancel(self, job_id: int) -> None:
        if self.on_time().cancel(job_id, "by-command"):
            self.note(f"*** a person cancels {job_id}")
            self.rules.rows[job_id].cancelled = True

    def person(self) -> None:
        store = self.on_time()
        what = self.chance.choice(["cancel", "ready", "ready", "pause", "resume"])
        if what == "pause":
            store.pause(self.chance.choice(["default", "low"]), self.chance.choice([60.0, 200.0, None]))
        elif what == "resume":
            store.resume(self.chance.choice(["default", "low"]))
        elif self.rules.rows:
            row = self.chance.choice(list(self.rules.rows.values()))
            if what == "cancel":
                self.cancel(row.id)
            elif store.make_ready(row.id, [State.HELD, State.DEAD, State.CANCELLED]):
                self.note(f"*** a person makes {row.id} ready")
                row.since, row.cancelled, row.readied_at = len(row.claims), False, self.steps

    # what a job does
    def task(self, worker: Actor, job) -> str | None:
        rules = self.rules
        self.step(f"executes {job.id}")
        rules.effect(worker, job.id, job.token)
        claim = rules.claims.get((job.id, job.token)) or Claim(job.id, job.token, worker.run)
        if job.task == "poison":
            self.kill(worker.run, "poison")
            raise Killed
        chance = self.chance.random()
        if chance < 0.3:
            long = 0.29 if self.max_time == 50.0 else 0.15
            self.sleep(0.02 if chance < 0.1 else self.chance.uniform(0.3, 5) if chance < long else self.chance.uniform(20, 80))
        self.step(f"has done {job.id}")
        if job.task == "flaky" and self.chance.random() < 0.4:
            claim.answer, answer = self.chance.choice([("retry", Retry()), ("retry", Unknown("cut after the dot")), ("snooze", Snooze(30))])
            raise answer
        if job.task == "hold" and self.chance.random() < 0.3:
            claim.answer = "unknown"
            raise Unknown("cut after the dot")
        claim.answer = "done"
        return None

    # one history
    def play(self) -> None:
        chance = self.chance
        self.enqueue(chance.randrange(4, 16))
        self.quiet = False
        down = {host: chance.uniform(0, 900) if chance.random() < 0.4 else None for host in self.hosts}
        events = [(BIRTH + 60 * minute + offset, host) for host, offset in zip(self.hosts, (1.0, chance.choice([1.0, chance.uniform(0, 59)])), strict=True) for minute in range(chance.choice([6, 10, 14]))]
        for when, host in sorted(events, key=lambda event: event[0]):
            if self.now < when:
                self.sleep(when - self.now)
            if down[host] is not None and down[host] < when - BIRTH < down[host] + 300:
                continue
            if self.now >= host.frozen_until:
                self.cron(host)
            if chance.random() < 0.3 and self.locked_by is None:
                self.enqueue(chance.randrange(1, 4))
        self.quiet = True
        self.away_until = 0.0
        for host in self.hosts:
            host.disk_full_until = 0.0
        self.note("*** the world leaves them in peace")
        self._drain()

    def _drain(self) -> None:
        """Plain runs until there is nothing twice."""
        empty = 0
        for attempt in range(80):
            while len(self.actors) > 1:
                self.sleep(1.0)
            for queue in ("default", "low"):
                self.on_time().resume(queue)
            for (job_id,) in self.ask("SELECT id FROM asyncsend_jobs WHERE state = 'held' AND order_key IS NOT NULL"):
                self.cancel(job_id)  # a line waits behind it
            if self.failure or self.steps >= MOST_STEPS:
                return
            ((left, soonest),) = self.ask("SELECT COUNT(*), MIN(CASE WHEN state = 'ready' THEN UNIX_TIMESTAMP(run_at) END) FROM asyncsend_jobs WHERE state IN ('ready', 'running')")
            empty = 0 if left else empty + 1
            if empty == 3:
                return
            self.sleep(max(60.0, float(soonest or 0) - self.now))
            self.cron(self.hosts[attempt // 4 % 2])
        self.rules.breaks("it cannot be drained")

    def close(self) -> None:
        for actor in self.actors:
            actor.dead = actor is not self.me
        while len(self.actors) > 1:
            self.me.wake_at = float("inf")
            try:
                self.pass_on()
            except AssertionError:
                break
        self.store.close()


@contextmanager
def replaced(world: World):
    """The product with the world's time, chance and processes instead of the host's."""
    sleeping = Shim(time, sleep=lambda seconds: world.sleep(seconds), time=lambda: world.current.host.wall_clock(), monotonic=lambda: world.current.clock())
    signals = Shim(signal, signal=lambda _number, _handler: None)
    real_take, real_execute = asyncsend.status.take, asyncsend.execute.execute

    def take(store, lock_id, clock):
        holding = real_take(store, lock_id, clock)
        world.current.holding = holding
        return holding

    with ExitStack() as stack:
        for module in (asyncsend.run, asyncsend.lock, asyncsend.store.mysql, asyncsend.store.connection, asyncsend.store.sqlite):
            stack.enter_context(patch.object(module, "time", sleeping))
        stack.enter_context(patch.object(asyncsend.run, "signal", signals))
        stack.enter_context(patch.object(asyncsend.store.lines, "LOOK", 3))  # so that a handful of jobs is a crowd
        stack.enter_context(patch.object(os, "urandom", lambda size: world.chance.randbytes(size)))
        stack.enter_context(patch.object(asyncsend.status, "take", take))
        for module in (asyncsend.status, asyncsend.workers):
            stack.enter_context(patch.object(module, "boot_clock", lambda: world.current.clock()))
        stack.enter_context(patch.object(asyncsend.execute, "execute", lambda job, tasks, chance: real_execute(job, tasks, chance, lambda: world.current.clock())))
        stack.enter_context(patch.object(asyncsend.deathsig, "end_session", lambda _name: []))
        stack.enter_context(patch.object(Worker, "takes_more", lambda _worker: True))
        stack.enter_context(patch.object(Worker, "kill", lambda worker, number: world.kill_group(worker.pid, number)))
        stack.enter_context(patch.object(asyncsend.workers, "Workers", SimWorkers))
        stack.enter_context(patch.object(asyncsend.journal, "Journal", SimJournal))
        stack.enter_context(patch.object(SimWorkers, "world", world, create=True))
        stack.enter_context(patch.object(SimJournal, "world", world, create=True))
        yield


def simulate(seed: int, url: str, folder: Path, *, trace: bool = False) -> World:
    """The world after one history; `rules.broken` says what did not hold."""
    home = Path(tempfile.mkdtemp(dir=folder))
    any_thread = Shim(sqlite3, connect=functools.partial(sqlite3.connect, check_same_thread=False))
    try:
        with patch.object(asyncsend.store.sqlite, "sqlite3", any_thread):
            world = World(seed, url, home, trace=trace)
            with replaced(world):
                try:
                    world.play()
                    if not world.failure and world.steps < MOST_STEPS:
                        world.rules.at_the_end()
                finally:
                    world.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if world.failure:
        world.rules.breaks(f"{type(world.failure).__name__}: {world.failure}")
    return world


class Databases:
    """A fresh database for each history: a copied file, or the same tables emptied."""

    def __init__(self, kind: str, folder: Path, server=None):
        self.kind, self.folder, self.server = kind, folder, server
        if kind == "sqlite":
            self.template = folder / "template.sqlite3"
            made_store(f"sqlite:///{self.template}").close()
        else:
            self.database = server.database()
            self.url = server.url(self.database.__enter__())
            made_store(self.url).close()

    def fresh(self) -> str:
        if self.kind == "sqlite":
            for old in self.folder.glob("history.sqlite3*"):
                old.unlink()
            shutil.copyfile(self.template, self.folder / "history.sqlite3")
            return f"sqlite:///{self.folder}/history.sqlite3"
        store = made_store(self.url)
        for table in ("jobs", "status", "runs", "pauses"):
            store._write(f"DELETE FROM asyncsend_{table}")
        for table in ("jobs", "runs"):  # the same ids in each history
            store._write(f"ALTER TABLE asyncsend_{table} AUTO_INCREMENT = 1")
        store.close()
        return self.url

    def close(self) -> None:
        if self.kind != "sqlite":
            self.database.__exit__(None, None, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "mariadb"], default="sqlite")
    parser.add_argument("--trace", action="store_true", help="print every step")
    arguments = parser.parse_args()
    seeds = [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
    server = None if arguments.database == "sqlite" else _given_server(given) if given else _installed_mariadb()
    failed, totals = [], Counter()
    with tempfile.TemporaryDirectory(prefix="simulation-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        databases = Databases(arguments.database, Path(folder), server)
        try:
            for seed in seeds:
                world = simulate(seed, databases.fresh(), Path(folder), trace=arguments.trace)
                totals.update(world.counts)
                totals.update(histories=1, steps=world.steps, jobs=len(world.rules.rows))
                if arguments.trace:
                    print("\n".join(world.lines))
                if world.rules.broken:
                    failed.append(seed)
                    print(f"seed {seed}: {'; '.join(world.rules.broken[:4])}", file=sys.stderr)
        finally:
            databases.close()
            if server:
                server.stop()
    print(" ".join(f"{name.replace(' ', '-')}={number}" for name, number in sorted(totals.items())))
    if failed:
        print(f"BROKEN: replay with `python -m tests.simulation --database {arguments.database} --trace --seed {failed[0]}`", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
