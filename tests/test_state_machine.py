"""The store against a model of it, driven by hypothesis: three workers on two hosts, people and pages do what they may in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from parts import Clock, made_store

from asyncsend import outcome as outcomes
from asyncsend.errors import Conflict
from asyncsend.execute import after_crash
from asyncsend.job import Job, NewJob
from asyncsend.outcome import FINISHED, Outcome, Settlement, State
from asyncsend.store.connection import ConnectionLost

BIRTH = 1_780_000_000.0
LEASE = 120.0
QUEUES = ("a", "b")
OUTCOMES = {
    "finish": outcomes.finish(), "result": outcomes.finish('{"a": 1}'), "retry": outcomes.retry(60, "again", "why"), "snooze": outcomes.snooze(30, "later"),
    "bury": outcomes.bury("max-attempts", "why"), "hold": outcomes.hold("unknown", "why"), "cancel": outcomes.cancel("cancelled-by-task"), "release": outcomes.release(),
}  # fmt: skip


@dataclass
class Row:
    """What a row should be."""

    id: int
    uid: str
    queue: str
    priority: int
    run_at: float
    key: str | None
    state: State = State.READY
    attempts: int = 0
    crashes: int = 0
    token: str | None = None
    marked: bool = False
    reason: str | None = None
    finished_at: float | None = None


@dataclass
class Host:
    """A lock and a journal."""

    name: str
    started: set = field(default_factory=set)
    finished: dict = field(default_factory=dict)


@dataclass
class Worker:
    """A run, or none."""

    host: Host
    owner: str | None = None  # its own name for itself, as long as it lives
    seen: object = None
    claims: list = field(default_factory=list)  # (id, token) in its hands
    past: list = field(default_factory=list)  # (id, token, outcome) it wrote, or tried to


class Machine(RuleBasedStateMachine):
    def __init__(self, store, clock):
        super().__init__()
        self.store, self.clock = store, clock
        for table in ("jobs", "runs", "pauses", "status"):
            store._write(f"DELETE FROM asyncsend_{table}")
        clock.set(BIRTH)
        north, south = Host("north"), Host("south")
        self.workers = [Worker(north), Worker(north), Worker(south)]
        self.rows: dict[int, Row] = {}
        self.pauses: dict[str, float] = {}
        self.owner, self.lock, self.lease_until, self.generation = None, None, 0.0, 0
        self.numbers = iter(range(1, 10**6))
        self.hook = None

    def token(self) -> str:
        return f"{next(self.numbers):032x}"

    @property
    def now(self) -> float:
        return self.clock()

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.owner]

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.living if worker.claims]

    def free(self, key, but=None) -> bool:
        return key is None or not any(row.key == key and row.state not in FINISHED and row.id != but for row in self.rows.values())

    @initialize()
    def begun(self):
        for uid in range(3):
            self.enqueue(uid, None, 0, 0, "a")
        self.begin(0, False, True)

    # pages
    @rule(uid=st.integers(0, 12), key=st.sampled_from([None, None, None, "k", "K"]), delay=st.sampled_from([0, 0, 0, 60, 3600]), priority=st.integers(-1, 1), queue=st.sampled_from(QUEUES))
    def enqueue(self, uid, key, delay, priority, queue):
        uid = f"u{uid}"
        (got,) = self.store.insert([NewJob("t", "{}", uid, queue=queue, priority=priority, delay=delay, unique_key=key)])
        known = next((row.uid for row in self.rows.values() if row.uid == uid), None) or next(
            (row.uid for row in self.rows.values() if key is not None and row.key == key and row.state not in FINISHED), None
        )
        assert got == (known or uid)
        if not known:
            job_id = self.store.find(uid).id
            self.rows[job_id] = Row(job_id, uid, queue, priority, self.now + delay, key)

    @rule(seconds=st.sampled_from([1, 61, 130, 3600]))
    def tick(self, seconds):
        self.clock.forward(seconds)

    # the status row
    @rule(number=st.integers(0, 2))
    def look(self, number):
        worker = self.workers[number]
        worker.seen = self.store.standing("default")
        assert worker.seen.generation == self.generation
        assert worker.seen.owner == self.owner
        assert worker.seen.alive == (self.owner is not None and self.lease_until > self.now)
        assert worker.seen.running_jobs == any(row.state == State.RUNNING for row in self.rows.values())

    @rule(number=st.integers(0, 2))
    def take(self, number):
        worker = self.workers[number]
        if worker.seen is None or worker.owner or any(other.owner and other.host is worker.host for other in self.workers):
            return  # it has not looked, or the kernel's lock is another's
        me = self.token()
        may = worker.seen.generation == self.generation and (self.owner is None or self.lease_until < self.now or self.lock == worker.host.name)
        assert self.store.take("default", worker.seen, me, worker.host.name, worker.host.name, 1, LEASE) == may
        if may:
            self.owner, self.lock, self.lease_until, self.generation = me, worker.host.name, self.now + LEASE, self.generation + 1
            worker.owner, worker.claims = me, []

    @rule(number=st.integers(0, 2), late=st.booleans(), rescue=st.booleans())
    def begin(self, number, late, rescue):
        """What a run does first, in one go, so that there is one often enough; `late` after the lease of whoever stands still."""
        if late:
            self.tick(130)
        self.look(number)
        self.take(number)
        if rescue:
            self.rescue(number)

    @precondition(lambda self: self.living)
    @rule(number=st.integers(0, 2))
    def beat(self, number):
        worker = self.living[number % len(self.living)]
        assert self.store.beat("default", worker.owner, LEASE) == (worker.owner == self.owner)
        if worker.owner == self.owner:
            self.lease_until = self.now + LEASE

    @precondition(lambda self: self.living)
    @rule(number=st.integers(0, 2), crash=st.booleans())
    def leave(self, number, crash):
        worker = self.living[number % len(self.living)]
        if not crash and worker.claims:
            return
        if not crash:
            assert self.store.end("default", worker.owner, "empty", 0, False) == (worker.owner == self.owner)
            if worker.owner == self.owner:
                self.owner = None
        worker.owner, worker.claims = None, []

    # a run
    def candidates(self, limit: int) -> list[int]:
        ids: list[int] = []
        for queue in QUEUES:
            if queue not in self.store.pauses():
                due = [row for row in self.rows.values() if row.queue == queue and row.state == State.READY and row.run_at <= self.now]
                ids += [row.id for row in sorted(due, key=lambda row: (-row.priority, row.run_at, row.id))]
        return ids[:limit]

    @precondition(lambda self: self.living)
    @rule(number=st.integers(0, 2), limit=st.integers(1, 4), meanwhile=st.booleans())
    def claim(self, number, limit, meanwhile):
        worker = self.living[number % len(self.living)]
        wanted, token = self.candidates(limit), self.token()
        queues = [queue for queue in QUEUES if queue not in self.store.pauses()]
        if meanwhile and wanted:  # a person is quicker than our UPDATE
            gone = wanted.pop(0)
            self.before("SET state = 'running'", lambda: self.cancelled(gone))
        got = self.store.claim(queues, limit, token, self.generation, worker.owner)
        self.hook = None
        assert [job.id for job in got] == (wanted if worker.owner == self.owner else [])
        for job in got:
            row = self.rows[job.id]
            assert (job.attempts, job.crashes, job.token) == (row.attempts, row.crashes, token)
            row.state, row.token = State.RUNNING, token
            worker.claims.append((job.id, token))

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 2), mark=st.booleans(), hold=st.booleans())
    def start(self, number, mark, hold):
        worker = self.busy[number % len(self.busy)]
        left = [claim for claim in worker.claims if claim not in worker.host.started]
        if not left:
            return
        job_id, token = left[0]
        if mark:
            row = self.rows[job_id]
            ours = worker.owner == self.owner and row.token == token and row.state == State.RUNNING
            assert self.store.mark_started(job_id, token, hold, worker.owner) == ours
            if not ours:
                return
            row.marked, row.reason = True, "started-once" if hold else row.reason
        worker.host.started.add((job_id, token))

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 2), verb=st.sampled_from(sorted(OUTCOMES)))
    def finish(self, number, verb):
        """The oldest started job comes to its end: noted, not yet written."""
        worker = self.busy[number % len(self.busy)]
        going = [claim for claim in worker.claims if claim in worker.host.started and claim not in worker.host.finished]
        if going:
            worker.host.finished[going[0]] = OUTCOMES["finish" if verb == "release" else verb]

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 2), verbs=st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1, max_size=3))
    def work(self, number, verbs):
        for verb in verbs:
            self.start(number, False, False)
            self.finish(number, verb)

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 2), lost=st.sampled_from([None, None, "before", "after"]))
    def settle(self, number, lost):
        """Write what is noted, release what was not started; the reply may be lost on the way."""
        worker = self.busy[number % len(self.busy)]
        ends = [(claim, worker.host.finished.get(claim) or (OUTCOMES["release"] if claim not in worker.host.started else None)) for claim in worker.claims]
        group = [(job_id, token, outcome) for (job_id, token), outcome in ends if outcome is not None]
        if group:
            if lost:
                self.lose("UPDATE", after=lost == "after")
            self.written(group, worker.owner)
            worker.past += group
            worker.claims = [claim for claim, outcome in ends if outcome is None]

    @precondition(lambda self: self.living)
    @rule(number=st.integers(0, 2), which=st.integers(0, 30), verb=st.sampled_from(sorted(OUTCOMES)))
    def settle_late(self, number, which, verb):
        """An old claim of any run comes back with whatever outcome, by whoever lives: a journal read twice, a thawed run."""
        worker, past = self.living[number % len(self.living)], [one for other in self.workers for one in other.past]
        past = [one for one in past if one[0] in self.rows and self.rows[one[0]].state == State.RUNNING] or past
        if past:
            job_id, token, _ = past[which % len(past)]
            self.written([(job_id, token, OUTCOMES[verb])], worker.owner)

    def written(self, group: list[tuple[int, str, Outcome]], owner: str, *, rescue: bool = False) -> None:
        late = []
        for job_id, token, outcome in group:
            row = self.rows.get(job_id)
            if row and owner == self.owner and row.state == State.RUNNING and row.token == token:
                self.apply(row, outcome, rescue=rescue)
            elif not row or row.state != outcome.state or (row.token != token and not (rescue and row.token is None)):
                late.append(job_id)  # else it counts as written by an earlier try: what the outcome wanted stands there
        got = self.store.settle([Settlement(job_id, token, outcome) for job_id, token, outcome in group], owner=owner, rescue=rescue)
        self.hook = None
        assert (got.accepted, sorted(got.late)) == (len(group) - len(late), sorted(late))

    def apply(self, row: Row, outcome: Outcome, *, rescue: bool) -> None:
        row.state = outcome.state
        row.attempts += outcome.charged
        row.crashes += outcome.crashed
        if outcome.state == State.READY:
            row.marked = False
            if outcome.verb != "release":
                row.run_at = self.now + outcome.delay
        row.finished_at = self.now if outcome.state in FINISHED else None
        if outcome != OUTCOMES["release"] or rescue:
            row.reason = outcome.reason
        if rescue:
            row.token = None

    @rule(number=st.integers(0, 2))
    def rescue(self, number):
        """As `recover` in run.py: the journal of the host first, then what is left running; then the journal is cleared."""
        worker = self.workers[number]
        if worker.owner != self.owner or not worker.owner or worker.claims:
            return
        host = worker.host
        replay = [(job_id, token, outcome) for (job_id, token), outcome in host.finished.items()]
        if replay:
            self.written(replay, worker.owner)
        left = self.store.running(500)
        assert [job.id for job in left] == sorted(row.id for row in self.rows.values() if row.state == State.RUNNING)
        group = []
        for job in left:
            row, started = self.rows[job.id], (job.id, job.token) in host.started
            assert (job.attempts, job.crashes, job.token, job.started_at is not None) == (row.attempts, row.crashes, row.token, row.marked)
            outcome = after_crash(Job(row.id, "t", "", crashes=row.crashes, started_at=row.marked or None, reason=row.reason), started=started)
            assert outcome == after_crash(job, started=started)
            assert started or row.marked or not (outcome.charged or outcome.crashed)
            group.append((row.id, row.token, outcome))
        if group:
            self.written(group, worker.owner, rescue=True)
        worker.past += replay + group
        host.started.clear()
        host.finished.clear()

    # people
    def cancelled(self, job_id):
        row = self.rows[job_id]
        may = row.state in (State.READY, State.HELD)
        assert self.store.cancel(job_id, "by-command") == may
        if may:
            row.state, row.finished_at, row.reason = State.CANCELLED, self.now, "by-command"

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 30))
    def cancel(self, which):
        self.cancelled(list(self.rows)[which % len(self.rows)])

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 30))
    def make_ready(self, which):
        row = list(self.rows.values())[which % len(self.rows)]
        may = row.state in (State.DEAD, State.HELD, State.CANCELLED)
        if may and not self.free(row.key, but=row.id):
            with pytest.raises(Conflict):
                self.store.make_ready(row.id, [State.DEAD, State.HELD, State.CANCELLED])
            return
        assert self.store.make_ready(row.id, [State.DEAD, State.HELD, State.CANCELLED]) == may
        if may:
            row.state, row.run_at, row.attempts, row.crashes, row.token, row.marked, row.reason, row.finished_at = State.READY, self.now, 0, 0, None, False, None, None

    @rule(queue=st.sampled_from(QUEUES), seconds=st.sampled_from([60.0, None, 0, 0]))
    def pause(self, queue, seconds):
        if seconds == 0:
            assert self.store.resume(queue) == (queue in self.pauses)
            self.pauses.pop(queue, None)
        else:
            self.store.pause(queue, seconds)
            self.pauses[queue] = self.now + seconds if seconds else float("inf")

    @rule()
    def prune(self):
        old = [row.id for row in self.rows.values() if row.finished_at is not None and row.finished_at < self.now - (7200 if row.state == State.DEAD else 3600)]
        assert self.store.prune(3600, 7200, 100) == len(old)
        for job_id in old:
            del self.rows[job_id]

    # what may come between, and what may be lost
    def before(self, words: str, act) -> None:
        """When the next statement with these words is about to be executed, this happens first."""

        def hook(execute, sql, params):
            if words in sql:
                self.hook = None
                act()
            return execute(sql, params)

        self.hook = hook

    def lose(self, words: str, *, after: bool) -> None:
        """The next statement with these words is lost, before or after it was done; with it the transaction around it."""
        inside = False

        def hook(execute, sql, params):
            nonlocal inside
            inside = inside or sql.startswith("BEGIN")
            wanted = sql == "COMMIT" if inside and after else words in sql
            if not wanted:
                return execute(sql, params)
            self.hook = None
            if after:
                execute(sql, params)
            elif inside:
                execute("ROLLBACK", {})
            raise ConnectionLost("2013")

        self.hook = hook

    # what must be so, always
    @invariant()
    def the_rows_are_what_they_should_be(self):
        found = self.store._rows("SELECT id, state, attempts, crashes, token, CASE WHEN started_at IS NULL THEN 0 ELSE 1 END, reason, CASE WHEN unique_slot IS NULL OR (state = 'done' AND COALESCE(unique_key, order_key, batch_id) IS NULL) THEN 0 ELSE 1 END FROM asyncsend_jobs ORDER BY id")
        assert [(*row[:4], row[4].hex() if row[4] else None, bool(row[5] and row[1] in ("ready", "running")), row[6], bool(row[7])) for row in found] == [
            (row.id, row.state.value, row.attempts, row.crashes, row.token, row.marked and row.state in (State.READY, State.RUNNING), row.reason, row.state not in FINISHED)
            for row in sorted(self.rows.values(), key=lambda row: row.id)
        ]

    @invariant()
    def the_status_row_is_what_it_should_be(self):
        rows = self.store._rows("SELECT owner, generation, UNIX_TIMESTAMP(lease_until) FROM asyncsend_status")
        if rows:
            assert rows[0][:2] == (self.owner, self.generation)
            assert self.owner is None or float(rows[0][2]) == self.lease_until

    @invariant()
    def pauses_are_what_they_should_be(self):
        assert set(self.store.pauses()) == {queue for queue, until in self.pauses.items() if until > self.now}

    def teardown(self):
        """All is well again: a run takes over, takes everything back and brings it to an end."""
        while self.living:
            self.leave(0, True)
        for queue in QUEUES:
            self.pause(queue, 0)
        for _ in range(2):  # each host reads its journal once
            for number in (0, 2):
                self.tick(130)
                self.begin(number, False, True)
                assert self.workers[number].owner
                while self.candidates(1):
                    self.claim(0, 4, False)
                    worker = self.workers[number]
                    while any(claim not in worker.host.finished for claim in worker.claims):
                        self.start(0, False, False)
                        self.finish(0, "finish")
                    self.settle(0, None)
                self.leave(0, False)
                self.the_rows_are_what_they_should_be()
            self.tick(3600)
        assert not [row for row in self.rows.values() if row.state in (State.READY, State.RUNNING)]


def play(store, clock, examples: int, *, steps: int = 50) -> None:
    """So many histories, always the same ones."""
    machine = []

    def made():
        machine[:] = [Machine(store, clock)]
        return machine[0]

    real = type(store)._execute

    def execute(sql, params):
        hook = machine[0].hook if machine else None
        return hook(lambda *statement: real(store, *statement), sql, params) if hook else real(store, sql, params)

    store._execute, store.pause_before_reconnect, store.forget_connection = execute, lambda _attempt: None, lambda: None
    try:
        run_state_machine_as_test(
            made,
            settings=settings(max_examples=examples, stateful_step_count=steps, derandomize=True, deadline=None, database=None,
                              suppress_health_check=list(HealthCheck), phases=(Phase.generate,)),
        )  # fmt: skip
    finally:
        del store._execute, store.pause_before_reconnect, store.forget_connection


@pytest.fixture(params=["sqlite", "mariadb"])
def machine_store(request, tmp_path):
    clock = Clock()
    made = made_store(f"sqlite:///{tmp_path / 'asyncsend.sqlite3'}" if request.param == "sqlite" else request.getfixturevalue("mysql_url"), clock)
    if request.param == "sqlite":
        made._execute("PRAGMA synchronous = OFF", {})
    clock.store = made
    yield made, clock
    made.close()


def test_the_store_does_what_its_model_does(machine_store):
    play(*machine_store, 100 if machine_store[0].name.startswith("SQLite") else 40)
