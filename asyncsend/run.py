"""
One minute of asyncsend: what cron starts, from the lock to the last line of the log. Read it from top to bottom.

Every other room is reached from here: the host lock (lock.py), the status row (status.py), what a dead run left
(journal.py), the order of queues (queues.py), the processes that execute (workers.py, execute.py, tasks/), and the store,
which alone writes. Nothing here speaks SQL, and nothing here sends anything.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from asyncsend import queues, status
from asyncsend.budget import Budget
from asyncsend.config import limit_of
from asyncsend.errors import DatabaseUnreachable, LeaseLost
from asyncsend.lock import HostLock, LockHeld
from asyncsend.outcome import WORDS, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from asyncsend.config import Settings
    from asyncsend.job import Job
    from asyncsend.journal import Claim, Journal
    from asyncsend.log import Log
    from asyncsend.outcome import Outcome
    from asyncsend.status import Holding
    from asyncsend.store import Settled, Store
    from asyncsend.turns import Turns
    from asyncsend.workers import Workers

# Below 1,000: from there on MariaDB makes a table of a list of ids, and may read all jobs to join it (MariaDB Knowledge Base, "in_predicate_conversion_threshold").
FIRST_BATCH, LARGEST_BATCH = 4, 999  # jobs claimed at once; grows while they are quick, so that urgent ones never wait long
FULL = 1024 * 1024  # bytes of journal after which the run comes to rest once, settles everything and starts it anew
BATCH_SECONDS = 0.5  # a batch should be worth about so much work
SETTLE_JOBS, SETTLE_SECONDS = LARGEST_BATCH, 0.25  # results are written in groups of so many, or after so long
GRACE = 10.0  # seconds the current jobs may still take after SIGTERM
URGENT_EVERY = 0.5  # seconds between looks at the queues before those whose jobs are in hand
BATCHES_EVERY = 5.0  # seconds between looks at the open batches while there is work
POLL = 1.0  # seconds between looks at an empty queue with --linger
PRUNE_EVERY = 600.0


class Report:
    """What a run did. `counts` has the words of the history table; `stopped` says why it ended."""

    def __init__(self, stopped: str = "empty") -> None:
        self.stopped = stopped
        self.generation = 0
        self.counts: dict[str, int] = {}
        self.seconds = 0.0
        self.worked = 0.0  # seconds of execution, of all workers

    def add(self, word: str, number: int = 1) -> None:
        self.counts[word] = self.counts.get(word, 0) + number


def run(
    store: Store,
    settings: Settings,
    log: Log,
    budget: Budget,
    *,
    order: tuple[str, ...] | None = None,
    workers: int | None = None,
    linger: bool = False,
    chance: Callable[[], float] | None = None,
    clock: Callable[[], float] = status.boot_clock,
    watch: Callable[[Report, int], None] = lambda _report, _waiting: None,
) -> Report:
    """
    Do one minute's work and say what was done. Another run at work is no error: its report says `lock-held` or `held-elsewhere`.

    `order` goes before the queues of the settings, `workers` before their number; `linger` waits for new jobs until the
    budget is spent; `clock` is the host's, for the lease; `watch` is called with the report and the number of jobs in hand, for a person at a terminal.
    Raises DatabaseUnreachable (results then wait in the journal) and ConfigurationError.
    """
    try:
        with HostLock(settings.lock_path) as lock:
            holding = status.take(store, lock.lock_id, clock)
            minute = _Minute(store, settings, log, budget, lock, holding, order or settings.queues, workers or settings.workers, chance, watch)
            with minute.stopping_on_signals(), minute.leaving_no_process():
                try:
                    minute.recover()
                    if holding.seen.schedules_due:
                        minute.enqueue_due_schedules()
                    minute.drain(linger=linger)
                    if settings.alert_to and holding.seen.alerts_due:
                        minute.send_due_alerts()
                    minute.prune()
                except LeaseLost:
                    log.event("lease-lost", generation=holding.generation)
                    minute.report.stopped = "lease-lost"
                minute.close()
            return minute.report
    except LockHeld:
        return Report(stopped="lock-held")
    except status.HeldElsewhere as elsewhere:
        log.event("held-elsewhere", holder=str(elsewhere))
        return Report(stopped="held-elsewhere")
    except DatabaseUnreachable as error:
        # Results wait in the journal; the next run of this host finds our lock in the status row and takes over at once.
        log.event("database-away", error=str(error))
        raise


class _Minute:
    """The run while it holds lock and status row: the steps, in the order in which they are called."""

    def __init__(
        self, store: Store, settings: Settings, log: Log, budget: Budget, lock: HostLock, holding: Holding, order: tuple[str, ...], worker_count: int,
        chance: Callable[[], float] | None, watch: Callable[[Report, int], None],
    ) -> None:  # fmt: skip
        self.store, self.settings, self.log, self.budget = store, settings, log, budget
        self.lock, self.holding, self.order, self.worker_count, self.chance, self.watch = lock, holding, order, worker_count, chance, watch
        self.report = Report()
        self.row: int | None = None  # of the history; an empty minute has none
        self.journal: Journal | None = None
        self.workers: Workers | None = None
        self.turns: Turns | None = None
        self.reserve: queues.Reserve | None = None
        self.unsettled: list[tuple[Job, Outcome]] = []
        self.unsettled_since = 0.0
        self.noted = 0  # outcomes so far
        self.looked = False
        self.crowded = False  # the last claim did nothing but move waiting jobs out of its way, and is not done with that
        self.dry_until = 0.0  # nothing was due a moment ago: no need to ask again before
        self.urgent_at = 0.0  # when to look again for what goes before the jobs in hand
        self.batched = False  # whether a job of a batch went through our hands
        self.batches_at = 0.0  # when to look after the open batches again
        self.served: list[str] = []  # the open queues, when the last claim asked
        self.pruned = False  # there was nothing left to prune, or it cannot be done now
        self.prune_error: str | None = None

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT, SIGHUP and SIGXCPU ask for an orderly end; a second one changes nothing, SIGKILL is always survived."""

        def ask(number: int, _frame: object) -> None:
            self.budget.stop_asked = signal.Signals(number).name.lower()

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def leaving_no_process(self) -> Iterator[None]:
        """However the run ends, its workers do, and its journal is closed."""
        try:
            yield
        finally:
            self._dismiss()

    # 1 ── what dead runs left: finished results first, then what they had in hand
    def recover(self) -> None:
        self.report.generation = self.holding.generation
        self.store.metered = self.settings.metered
        if self.holding.seen.owner is not None:
            self.store.close_dead_runs(status.SCOPE, self.holding.generation)
            self.log.event("run-died", generation=self.holding.seen.generation, host=self.holding.seen.host, pid=self.holding.seen.pid)
        if not self.holding.seen.running_jobs and not self._journal_has_lines():
            return
        self.store.most_failed = self.settings.failures
        if self.lock.flocked or self._journal_has_lines():
            self._open_journal()
        self._end_survivors()
        finished, started = self._read_journal()
        replayed = [Settlement(job_id, token, outcome) for (job_id, token), outcome in finished.items()]
        accepted = 0
        for start in range(0, len(replayed), SETTLE_JOBS):
            group = replayed[start : start + SETTLE_JOBS]
            settled = self.store.settle(group, owner=self.holding.owner)
            accepted += settled.accepted
            self._tell_others(settled, group)
        if replayed:
            self._open_row()
            self.report.add("replayed", accepted)
            self.log.event("journal-replayed", results=accepted, refused=len(replayed) - accepted)
        self._rescue(started)
        self._clear_journal()

    def _read_journal(self) -> tuple[dict[Claim, Outcome], dict[Claim, str] | None]:
        """What was finished, and what was started; None for that if it cannot be read, for then anything may have been."""
        try:
            return self.journal.read() if self.journal else ({}, {})
        except OSError as error:
            self.log.event("journal-broken", error=error.strerror)
            return {}, None

    def _end_survivors(self) -> None:
        """The kernel killed the dead run's workers, but not what their tasks had started: that must not overlap the repeat."""
        from asyncsend.deathsig import end_session

        sessions = set((self._read_journal()[1] or {}).values())
        left = [pid for session in sessions for pid in end_session(session)]
        if left:
            self.log.event("orphans-killed", pids=",".join(map(str, left)))

    def _rescue(self, started: Container[Claim] | None) -> None:
        from asyncsend.execute import after_crash

        seen = self.holding.seen
        # To the end, also when asked to stop: the journal is cleared after this, and with it who had been started.
        while left := self.store.running(SETTLE_JOBS):
            self._beat()
            settlements = []
            for job in left:
                outcome = after_crash(job, started=started is None or (job.id, job.token or "") in started)
                if seen.lock_id != self.lock.lock_id or job.run_id != seen.generation:  # its journal may lie elsewhere: nobody here knows that it was not begun
                    outcome = outcome._replace(unsent=False)
                settlements.append(Settlement(job.id, job.token or "", outcome, job.queue, job.task))
                self.log.event("job-rescued", job=job.id, task=job.task, to=outcome.state.value, reason=outcome.reason or "not-started", crashes=job.crashes + outcome.crashed)
            self._open_row()
            accepted = self.store.settle(settlements, owner=self.holding.owner, rescue=True).accepted
            self.report.add("rescued", accepted)
            if not accepted:  # somebody else moves the same rows: theirs to finish
                self.holding.doubt()
                self._beat()  # if that is because the row is theirs, the journal is not ours to clear
                break

    # 2 ── enqueue due schedules
    def enqueue_due_schedules(self) -> None:
        from asyncsend import schedules

        made = schedules.enqueue_due(self.store, self.holding, self.log, self._beat)
        if made:
            self.report.add("scheduled", made)

    # 3 ── claim, execute, settle, until there is no time, no budget or no due job
    def drain(self, *, linger: bool) -> None:
        size, claimed_at, noted = max(FIRST_BATCH, self.worker_count), self.budget.clock(), 0
        while True:
            self._beat()
            stopping = self.budget.reason_to_stop()
            if stopping and not (stopping == "max-jobs" and self._busy()):
                self.report.stopped = stopping
                if self.budget.stop_asked and self.row is not None:
                    self.log.event("signal", asked=stopping)
                break
            if self._hungry(size):
                jobs = self._claim(self.budget.room(size))
                if jobs:
                    size = _next_size(size, self.noted - noted, self.budget.clock() - claimed_at, self.worker_count)
                    claimed_at, noted = self.budget.clock(), self.noted
                elif not self._busy():
                    if self.crowded or self._look_after_batches():
                        continue  # to the next claim: what follows a batch is due at once
                    if self.settings.metered and self._wait_for_turns():
                        continue
                    if not linger:
                        break
                    self._nap()
                    self.enqueue_due_schedules()
                    claimed_at, noted = self.budget.clock(), self.noted
                    continue
            elif self._overtaken():
                self._claim(self.budget.room(size), before=self._first_in_hand())
            self._collect(SETTLE_SECONDS)
            if self.budget.clock() >= self.batches_at:
                self._look_after_batches()
        self._finish_what_runs()
        self._settle()
        self._clear_journal()

    def _hungry(self, size: int) -> bool:
        """Whether to claim now: the next batch while the last is executed, but not every moment while a long tail runs out."""
        if not self.budget.room(1):
            return False
        if not self._busy():
            return True
        if self.workers and self.workers.waiting > size // 2 and not self.workers.idle:
            return False
        return self.budget.clock() >= self.dry_until and not self._journal_full()

    def _overtaken(self) -> bool:
        """Whether to look now for jobs of earlier queues than that of the next one in hand."""
        return self._first_in_hand() > 0 and self.budget.clock() >= self.urgent_at and self.budget.room(1) > 0 and not self._journal_full()

    def _journal_full(self) -> bool:
        """Whether to come to rest before the next claim, so that it can be cleared."""
        return self.journal is not None and self.journal.size() > FULL

    def _first_in_hand(self) -> int:
        """The rank of the job that is begun next."""
        return self.workers.next_rank if self.workers else 0

    def _claim(self, limit: int, before: int | None = None) -> list[Job]:
        """Claim so many and hand them to the workers; with `before` only of queues that rank before it."""
        self.crowded = False
        self.urgent_at = self.budget.clock() + URGENT_EVERY
        self.reserve = self.reserve or queues.Reserve(self.order, self.holding.generation)
        names = self.served = self._open_queues()
        first = [name for name in names if before is None or (queues.rank(name, self.order) or 0) < before]
        if before is not None and not first:
            return []
        jobs = self.store.claim(
            first, limit, os.urandom(16).hex(), self.holding.generation, self.holding.owner,
            reserve=self.reserve.wanted(first, limit), limit_of=partial(limit_of, self.settings.concurrency), enough=self._enough,
        ) if names and limit else []  # fmt: skip
        if jobs:
            self._open_row()
            self._hire()
            self.report.add("claimed", len(jobs))
            self.batched = self.batched or any(job.batch_id for job in jobs)
            self.budget.taken += len(jobs)
            self._hand(self.reserve.spread(jobs))
        elif before is None and not self.crowded:
            self.dry_until = self.budget.clock() + POLL
        return jobs

    def _open_queues(self) -> list[str]:
        """Those with ready jobs, in their order, that are neither paused nor have their quiet hours."""
        paused: Container[str] = self.store.pauses() if self.holding.seen.pauses or self.looked else {}
        self.looked = True
        names = queues.in_order(self.store.ready_queues(), self.order, paused)
        if self.settings.quiet_hours and names:
            quiet = self._turns().quiet(names)
            names = [name for name in names if queues.named(name) not in quiet]
        return names

    def _enough(self) -> bool:
        """Whether a claim that meets a crowd goes on at another time: now and then something else has its turn."""
        self._beat()
        self.crowded = self.budget.clock() >= self.urgent_at
        return self.crowded

    def _wait_for_turns(self) -> bool:
        """Whether some of those that wait for a channel have their turn while there is time: then we are a little nearer to it."""
        names = self.served  # the claim that found nothing has just asked
        if not names:
            return False
        turns = self._turns()
        if turns.call_early(names):
            return True
        wait = turns.next_in(names)
        if wait is None or wait > self.budget.left:
            return False
        self._nap(wait)
        return True

    def _turns(self) -> Turns:
        if self.turns is None:
            from asyncsend.turns import Turns

            self.turns = Turns(self.store, self.settings, self.holding, self.order, self.budget.clock)
        return self.turns

    def _look_after_batches(self) -> int:
        """Progress, first failures, ends; how many jobs follow from that. Costs nothing where there are no batches."""
        self.batches_at = self.budget.clock() + BATCHES_EVERY
        if not (self.batched or self.holding.seen.open_batches):
            return 0
        from asyncsend.batches import look_after

        return look_after(self.store, self.holding.owner, self.log, self._beat)

    def _hand(self, jobs: list[Job]) -> None:
        """To the workers with them; what may not be executed at all gets its outcome here."""
        from asyncsend.channels import DELIVERY
        from asyncsend.execute import before

        assert self.workers is not None
        if any(job.task.startswith(DELIVERY) for job in jobs):
            from asyncsend.topics import attach

            attach(self.store, jobs)
        if any(job.task in ("email", "sms") for job in jobs):
            from asyncsend.suppressions import sort_out

            sort_out(self.store, jobs)
        found = {job.id: before(job) or self.workers.channels.instead(job) for job in jobs}
        may = [job for job in jobs if found[job.id] is None]
        for job in may:
            self.workers.channels.forgive(job)
        found |= self._turns().instead(may) if self.settings.metered or any(job.batch_id for job in may) else {}
        for job in jobs:
            if outcome := found[job.id]:
                self._note(job, outcome)
        self.workers.hand([job for job in jobs if found[job.id] is None])

    def _collect(self, wait: float) -> None:
        """Take in results; write them down in groups."""
        if self.workers:
            due_in = SETTLE_SECONDS - (self.budget.clock() - self.unsettled_since) if self.unsettled else wait
            for job, outcome in self.workers.results(max(0.0, min(wait, due_in))):
                self.budget.took(outcome.seconds)
                self._note(job, outcome)
        full = len(self.unsettled) >= SETTLE_JOBS
        old = bool(self.unsettled) and self.budget.clock() - self.unsettled_since >= SETTLE_SECONDS
        if full or old or (self.unsettled and (not self.workers or not self.workers.waiting or self.workers.journal_broken)):
            self._settle()
        self.watch(self.report, self.workers.waiting if self.workers else 0)

    def _finish_what_runs(self) -> None:
        """No more claims: let the current jobs come to their end within the grace, give the others back uncharged."""
        if not self.workers:
            return
        self.workers.stop()
        grace = self.budget.clock() + GRACE if self.budget.stop_asked else float("inf")
        while self.workers.in_flight and self.budget.clock() < grace:
            self._beat()
            self._collect(SETTLE_SECONDS)
            if self.budget.stop_asked:
                grace = min(grace, self.budget.clock() + GRACE)
        for job in self.workers.abandon() if self.workers.in_flight else []:
            self._note(job, self.workers.interruption(job))
        self._collect(0.0)
        self.workers.stop()  # what a worker that died meanwhile had not begun
        from asyncsend.execute import after_crash

        for job in self.workers.unstarted:
            self._note(job, after_crash(job, started=False))
        self.workers.unstarted = []

    # 4 ── deciding is over: writing
    def _note(self, job: Job, outcome: Outcome) -> None:
        if not self.unsettled:
            self.unsettled_since = self.budget.clock()
        self.unsettled.append((job, outcome))
        self.noted += 1

    def _settle(self) -> None:
        """Write the outcomes in one transaction; only then are they counted and logged, and only then may the journal forget them."""
        for start in range(0, len(self.unsettled), SETTLE_JOBS):
            group = self.unsettled[start : start + SETTLE_JOBS]
            settlements = [Settlement(job.id, job.token or "", outcome, job.queue, job.task) for job, outcome in group]
            settled = self.store.settle(settlements, owner=self.holding.owner)
            late = set(settled.late)
            with self.log.together():
                for job, outcome in group:
                    if job.id in late:
                        self.report.add("late")
                        self.holding.doubt()
                        self.log.event("job-late", job=job.id, task=job.task, outcome=outcome.verb)
                    else:
                        self._tell(job, outcome)
                    if job.order_key or job.concurrency_key:
                        self.dry_until = 0.0  # the next of its key may go
            self._tell_others(settled, settlements)
        self.unsettled = []
        if self.workers and not self.workers.in_flight and not self.workers.backlog:
            self._clear_journal()

    def _tell(self, job: Job, outcome: Outcome) -> None:
        """Count and log what was written."""
        word = WORDS[outcome.verb]
        self.report.add(word)
        self.report.worked += outcome.seconds
        self.log.event(
            f"job-{word}", job=job.id, uid=job.uid, task=job.task, queue=job.queue, attempt=job.attempts + outcome.charged, seconds=outcome.seconds,
            reason=outcome.reason, again_in=outcome.delay if word in ("retried", "snoozed") else None, error=outcome.error,
        )  # fmt: skip

    def _tell_others(self, settled: Settled, settlements: list[Settlement]) -> None:
        """Log what these outcomes say of channels; cancel what waits for an address that is gone."""
        for channel in settled.channels:
            if channel.left is None:
                self.log.event("channel-opened", channel=channel.name)
            else:
                self.log.event("channel-stopped", channel=channel.name, again_in=channel.left, reason=channel.reason)
        for name, outcome in {one.outcome.gone: one.outcome for one in settlements if one.outcome.gone and one.job_id not in settled.late}.items():
            from asyncsend.topics import disabled

            self._open_row()
            self.report.add("cancelled", disabled(self.store, str(name), outcome.error or "", self.holding.owner, self.log, self._beat))

    # 5 ── tell somebody what waiting will not mend
    def send_due_alerts(self) -> None:
        from asyncsend import alerts

        self._beat()
        alerts.send_due(self.store, self.settings, self.holding, self.log, took=self.budget.clock() - self.budget.started)

    # 6 ── keep the tables small: slices now and then, never a long DELETE; while there is more, the next minute goes on
    def prune(self) -> None:
        seen = self.holding.seen
        if self.budget.stop_asked or (seen.pruned_at is not None and (seen.now - seen.pruned_at).total_seconds() < PRUNE_EVERY):
            return
        from asyncsend import retention

        found = retention.prune(self.store, self.settings, owner=self.holding.owner, beat=self._beat, clock=self.budget.clock)
        self.pruned, self.prune_error = not found.more, found.trouble
        if found.held:
            self.log.event("held-too-long", jobs=found.held)
        if found.jobs:
            self.log.event("pruned", jobs=found.jobs)
        if found.trouble:
            self.log.event("prune-failed", error=found.trouble)

    # 7 ── leave: processes first, then the rows that say so
    def close(self) -> None:
        self._dismiss()
        self.report.seconds = self.budget.clock() - self.budget.started
        self._save(self.report.stopped)  # before the status row: only where that still has an owner does the next run look for unended history
        if not self.holding.end(self.report.stopped, self.lock.held_count(), pruned=self.pruned, prune_error=self.prune_error) and self.report.stopped != "lease-lost":
            self.report.stopped = "lease-lost"
            self._save(self.report.stopped)
        if self.row is not None:
            self.log.event("run-stopped", generation=self.report.generation, stopped=self.report.stopped, seconds=self.report.seconds, **self.report.counts)
        if self.settings.metrics_file:
            from asyncsend import metrics

            if self.row is not None:
                metrics.write_file(self.settings.metrics_file, self.store, self.log)
            else:
                metrics.touch_file(self.settings.metrics_file)

    def _dismiss(self) -> None:
        if self.workers:
            self.workers.close()
            self.workers = None
        if self.journal:
            self.journal.close()
            self.journal = None

    # what the steps share
    def _beat(self) -> None:
        if self.holding.beat_if_due():
            self._save(None)
            if self.workers:
                self.workers.allow_until(self.holding.valid_until)

    def _save(self, stopped: str | None) -> None:
        if self.row is not None:
            self.store.save_run(self.row, self.report.counts, stopped, self.worker_count, self.report.worked)

    def _busy(self) -> bool:
        return bool(self.unsettled) or bool(self.workers and self.workers.waiting)

    def _nap(self, most: float = POLL) -> None:
        time.sleep(max(0.0, min(POLL, most, self.budget.left)))

    def _open_row(self) -> None:
        if self.row is None:
            seen = self.holding.seen
            self.row = self.store.open_run(status.SCOPE, self.holding.generation, os.uname().nodename, os.getpid())
            self.log.event("run-started", generation=self.holding.generation, pid=os.getpid(), last_run=seen.started_at and seen.started_at.isoformat())
            if not self.lock.flocked:
                self.log.event("no-flock", path=self.lock.path)

    def _hire(self) -> None:
        if self.workers is None:
            import random

            self.store.most_failed = self.settings.failures

            from asyncsend.channels import Channels
            from asyncsend.workers import HELLO_TIMEOUT, Workers

            if self.lock.flocked:
                self._open_journal()
            elif self.journal:  # without flock a run that was only stopped, and lost its lease, could empty it under the next one
                self.journal.close()
                self.journal = None
            self.workers = Workers(
                self.worker_count, self.settings, self.journal, self.log, payload=self.store.payload, mark_started=partial(self.store.mark_started, owner=self.holding.owner), chance=self.chance or random.random,
                channels=Channels(self.store.channels, self.budget.clock, self.settings.failures),
                close_in_child=(self.store.forget_connection, self.lock.close_in_child),
                hello_timeout=max(1.0, min(HELLO_TIMEOUT, self.budget.left / 3)),  # a module that hangs must leave time for the mails
            )  # fmt: skip
            self.workers.allow_until(self.holding.valid_until)

    def _open_journal(self) -> None:
        from asyncsend.journal import Journal

        if self.journal is None:
            try:
                self.journal = Journal(self.settings.journal_path)
            except OSError as error:
                self.log.event("journal-broken", error=error.strerror)

    def _clear_journal(self) -> None:
        """Forget what the database has by now. LeaseLost if the row may be another's: what was refused then may still be written, and a shared journal be theirs."""
        if self.journal:
            self._beat()
            try:
                self.journal.clear()
            except OSError as error:  # its lines stay, and do no harm
                if self.workers is None or not self.workers.journal_broken:
                    self.log.event("journal-broken", error=error.strerror)
                if self.workers:
                    self.workers.journal_broken = True

    def _journal_has_lines(self) -> bool:
        try:
            return self.settings.journal_path.stat().st_size > 0
        except OSError:
            return False


def _next_size(size: int, done: int, took: float, workers: int) -> int:
    """How many to claim next: what is worth BATCH_SECONDS at the pace of the last ones, but no more than twice and no less than half as many; the same while nothing came back."""
    worth = int(BATCH_SECONDS * done / max(took, 0.001))
    return size if done == 0 else min(LARGEST_BATCH, max(2 * workers, size // 2, min(size * 2, worth)))
