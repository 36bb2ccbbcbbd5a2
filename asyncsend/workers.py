"""
Workers: the child processes that execute jobs, and the watch over them.

A worker takes one job after another from its socket, notes start and result in the journal itself, and says the outcome.
It is forked from the run, so it costs milliseconds; a job that hangs, exits, crashes or forks harms its worker only, which
is then replaced. When the run dies, the kernel kills its workers and their commands (deathsig.py), so that a repeat does not
overlap the original; what a task started by itself, the next run ends first, unless it left its session (docs/promises.md).

    run ── jobs, a window at a time ──▶ worker ── S, D ──▶ journal
        ◀── outcomes, one by one ─────
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import signal
import socket
import struct
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncsend import deathsig
from asyncsend import execute as executing
from asyncsend.channels import DELIVERY, Channels, has_one, of_job
from asyncsend.child import Child
from asyncsend.errors import ConfigurationError, DatabaseUnreachable
from asyncsend.job import Job
from asyncsend.outcome import Outcome
from asyncsend.tasks import Policy
from asyncsend.text import MAX_TEXT, printable, without
from asyncsend.times import boot_clock
from asyncsend.wire import as_parcel, understood
from asyncsend.worker import Worker, sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncsend.config import Settings
    from asyncsend.journal import Claim, Journal
    from asyncsend.log import Log
    from asyncsend.suppressions import Learnt

WINDOW = 512  # jobs all workers together may hold unexecuted: enough that none idles while the run is at a statement, few enough that one slow job does not keep many behind it
WINDOW_SECONDS = 0.5  # of work that a window is worth
REST = 0.002  # seconds in which results of quick jobs gather, so that the run does not wake for each
HELLO_TIMEOUT = 20.0  # seconds for importing the modules of ASYNCSEND_TASKS; then a worker goes without them
TERM_GRACE = 2.0  # seconds between SIGTERM and SIGKILL for a job that overstayed
_SHARED = struct.Struct("=qdqq")  # stop flag; the boot-clock second after which no effect may start; the lowest rank that waits for a worker; the present wave
_NOBODY = 1 << 30  # waits


class Workers:
    """As many children as are asked for, started with the first job. `results` is where the outcomes come out."""

    def __init__(
        self,
        count: int,
        settings: Settings,
        journal: Journal | None,
        log: Log,
        *,
        close_in_child: Iterable[Callable[[], None]] = (),
        hello_timeout: float = HELLO_TIMEOUT,
        payload: Callable[[int, str], str | None] = lambda _id, _token: None,
        mark_started: Callable[[int, str, bool], bool] = lambda _id, _token, _hold: True,
        channels: Channels | None = None,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count, self.settings, self.journal, self.log = count, settings, journal, log
        self.hello_timeout = hello_timeout
        self.payload, self.channels = payload, channels or Channels(tuple, clock)
        self.close_in_child, self.mark_started, self.chance, self.clock = tuple(close_in_child), mark_started, chance, clock
        self.backlog: deque[Job] = deque()  # claimed, not yet handed
        self.unstarted: list[Job] = []  # came back untouched: to be released
        self.learnt: Learnt | None = None
        self.policies: dict[str, Policy] = {}
        self.journal_broken = journal is None
        self.workers: list[Worker] = []
        self._finished: list[tuple[Job, Outcome]] = []
        self.selector = selectors.DefaultSelector()
        self._shared = mmap.mmap(-1, _SHARED.size)
        self._stopping = False
        self._first = _NOBODY
        self._wave = 0
        self.allow_until(float("inf"))
        self.without_modules = False
        self._died_young = 0  # workers that were killed before they came up
        self._deaths_in_a_row = 0
        self._abandoned: list[Job] = []
        self._wake: tuple[int, int] | None = None
        self.end_of_output = b"\0" + os.urandom(8) + b"\0"  # which no job can guess: workers write it after each
        self._not_ours: set[int] = set()  # children the process had before: no business of ours

    # what the run asks
    @property
    def waiting(self) -> int:
        """Jobs that were claimed and have no outcome yet."""
        return len(self.backlog) + self.in_flight

    @property
    def next_rank(self) -> int:
        """The rank of the job that is begun next, 0 if there is none."""
        return min((one.rank for one in (*(worker.window[1] for worker in self.workers if len(worker.window) > 1), *([self.backlog[0]] if self.backlog else []))), default=0)

    @property
    def in_flight(self) -> int:
        return sum(len(worker.window) for worker in self.workers)

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do, and nothing is left for it: what waits behind the slow job of another will not reach it."""
        return not self.backlog and sum(1 for worker in self.workers if worker.window) < self.count

    def hand(self, jobs: Iterable[Job]) -> None:
        """Take these jobs, each before those of a later rank; their outcomes come out of `results`."""
        for job in jobs:
            place = len(self.backlog)
            while place and self.backlog[place - 1].rank > job.rank:
                place -= 1
            self.backlog.insert(place, job)
        self._call_back()

    def allow_until(self, valid_until: float) -> None:
        """No effect may start after this moment of the boot clock: the lease behind it would be over."""
        self._valid_until = valid_until
        self._shared[:] = _SHARED.pack(int(self._stopping), valid_until, self._first, self._wave)

    def stop(self) -> None:
        """Start nothing more, however long the lease still goes on: workers hand back what they have not begun."""
        self._stopping = True
        self.allow_until(0.0)
        self.unstarted += self.backlog
        self.backlog.clear()

    def results(self, wait: float) -> list[tuple[Job, Outcome]]:
        """Jobs and their outcomes, as they come; waits at most `wait` seconds for the first."""
        self._staff()
        self._deal()
        if not self._finished:
            if self.workers and all(len(worker.window) > WINDOW // self.count // 4 for worker in self.workers):
                time.sleep(min(wait, REST))
            deadlines = [self._deadline(worker) for worker in self.workers]
            patience = max(0.0, min([wait, *(deadline - self.clock() for deadline in deadlines)]))
            for key, _ in self.selector.select(patience):
                self._listen(key.data)
        self._reap()
        self._enforce_timeouts()
        if not self.journal_broken:  # else these results stand nowhere yet: they are settled before the next job begins
            self._deal()
        finished, self._finished = self._finished, []
        return finished

    def abandon(self) -> list[Job]:
        """Kill whatever is still being executed; the jobs this interrupts. What else the workers held goes to `unstarted`."""
        for worker in self.workers:
            worker.killed_for = "abandoned"
            worker.kill(signal.SIGKILL)
        limit = self.clock() + 5
        while self.workers and self.clock() < limit:
            self.selector.select(0.05)
            self._reap()
        self.unstarted += self.backlog
        self.backlog.clear()
        abandoned, self._abandoned = self._abandoned, []
        return abandoned

    def close(self) -> None:
        """Let every worker end its connections after the job it is at, then see to it that no process is left behind."""
        self._stopping = True
        self.allow_until(0.0)
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.jobs.shutdown(socket.SHUT_WR)
        limit = self.clock() + 5
        while self.workers and self.clock() < limit:
            self.selector.select(0.05)
            self._reap()
        for job in self.abandon() if self.workers else []:
            self._interrupted(job)
        left = deathsig.kill_children(self._not_ours) if self._wake else []
        if left:
            self.log.event("orphans-killed", pids=",".join(map(str, left)))
        self.selector.close()
        if self._wake:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in self._wake:
                os.close(descriptor)
            self._wake = None

    def interruption(self, job: Job) -> Outcome:
        """The outcome of a job that we killed ourselves because the run had to end: an attempt, not a crash."""
        return executing.after_death(job, self._policy(job), "interrupted", "the run had to end, and it did not finish in time.", self.chance)

    def _interrupted(self, job: Job) -> None:
        if self.journal is not None and not self.journal_broken:
            with contextlib.suppress(OSError):
                self.journal.finished(job.id, job.token or "", self.interruption(job))

    # starting and feeding
    def _staff(self) -> None:
        wanted = min(self.count, len(self.backlog) + sum(1 for worker in self.workers if worker.window))
        while len(self.workers) < wanted:
            try:
                self.workers.append(self._fork())
            except OSError as error:  # the host's limit of processes or descriptors
                if not self.workers:
                    raise DatabaseUnreachable(f"no worker process can be started ({error.strerror}): the host's limit is reached, the next run tries again") from error
                self.count = wanted = len(self.workers)

    def _fork(self) -> Worker:
        if self._wake is None:
            self._watch_signals()
        ours, theirs, most_bytes = sockets()
        output, its_output = os.pipe()
        os.set_blocking(output, False)
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                os.close(output)
                Child(self, theirs, its_output).work()
            finally:
                os._exit(70)  # EX_SOFTWARE: work() never returns
        theirs.close()
        os.close(its_output)
        worker = Worker(pid, ours, output, most_bytes, born=self.clock())
        self.selector.register(ours, selectors.EVENT_READ, worker)
        self.selector.register(output, selectors.EVENT_READ, worker)
        return worker

    def _watch_signals(self) -> None:
        """A child's end and a SIGTERM both wake the wait for results."""
        self._not_ours = set(deathsig.children())
        deathsig.adopt_orphans()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.selector.register(reader, selectors.EVENT_READ, None)
        self._wake = (reader, writer)

    def _deal(self) -> None:
        """Fill the windows from the backlog. What is left is shared: one worker with two slow jobs beside an idle one helps nobody."""
        full: set[str] = set()  # channels that may take no more now
        share = -(-self.waiting // max(1, len(self.workers)))
        for worker in self.workers:
            room = min(worker.size, share)
            if not self.backlog or not worker.ready or worker.killed_for:
                continue
            if self.count > 1 and worker.window and self.clock() - worker.since > WINDOW_SECONDS:
                continue  # what stands behind a slow job waits for it: another worker is free sooner
            # By the quarter: few writes of many. Never into a full socket: handing would wait for the job at work, and kill it for that in the end.
            if len(worker.window) <= room * 3 // 4 and worker.weight <= worker.most_bytes * 3 // 4 and worker.takes_more():
                parcels = self._fill(worker, room, full)
                if parcels and not worker.send(parcels):
                    worker.kill(signal.SIGKILL)  # the reaper finds out what it has begun, and the others go to another
                    self._take_back([worker.take_back_last()])
        self._call_back()

    def _fill(self, worker: Worker, room: int, full: set[str]) -> list[bytes]:
        """
        Move jobs from the backlog into this window, in their order; their parcels.

        A job that must not be repeated unasked goes alone, after its start mark is committed; one whose channel has trouble goes alone, too.
        """
        parcels: list[bytes] = []
        if worker.window and self._goes_alone(worker.window[0]):
            return parcels  # what becomes of it decides if the next one may begin
        while self.backlog and len(worker.window) < room:
            job = self.backlog[0]
            if job.unread and not self._read(job):
                self.unstarted.append(self.backlog.popleft())
                continue
            troubled = self.channels.troubled(job)
            marked = self._is_marked(job)
            alone = marked or troubled is not None
            job.wave = self._wave
            parcel = as_parcel(job)
            if worker.window and (
                alone
                or worker.weight + len(parcel) > worker.most_bytes
                or (len(worker.window) > 1 and worker.window[-1].rank > job.rank)  # which are on their way back
            ):
                break
            instead = self.channels.instead(job) or (self.learnt.instead(job) if self.learnt else None)
            if troubled and instead is None and self._under_way(troubled.name) >= self.channels.at_once(troubled):
                full.add(troubled.name)
                if self._pass_over(full):
                    continue
                break
            self.backlog.popleft()
            if instead is not None:
                self._finished.append((job, instead._replace(unsent=True)))
                continue
            if marked:
                if not self.mark_started(job.id, job.token or "", self._policy(job).holds):
                    self.unstarted.append(job)  # the claim is not ours any more: settle will find that out and count it
                    continue
                job.started_at = datetime.now(UTC)  # only that there is a mark matters here; the row has the time
                parcel = as_parcel(job)
            worker.take(job, len(parcel), self.clock())
            parcels.append(parcel)
            if alone:
                break
        return parcels

    def _under_way(self, channel: str) -> int:
        """Jobs that are being sent through this channel now."""
        return sum(1 for worker in self.workers if worker.window and has_one(worker.window[0].task) and of_job(worker.window[0]) == channel)

    def _pass_over(self, full: set[str]) -> bool:
        """Let the next job of the same rank that takes none of these channels go first: it need not wait for a mail server that is slow to answer. False if there is none."""
        for place, job in enumerate(self.backlog):
            if job.rank != self.backlog[0].rank:
                break
            if not has_one(job.task) or of_job(job) not in full:
                del self.backlog[place]
                self.backlog.appendleft(job)
                return True
        return False

    def _take_back(self, jobs: list[Job]) -> None:
        """Before the others of their rank: they were handed out earlier."""
        for job in reversed(jobs):
            place = 0
            while place < len(self.backlog) and self.backlog[place].rank < job.rank:
                place += 1
            self.backlog.insert(place, job)

    def _call_back(self) -> None:
        """Let the workers know the rank of the job that waits first: what they have not begun of a later one, they hand back."""
        first = self.backlog[0].rank if self.backlog else _NOBODY
        if first != self._first:
            self._first = first
            self.allow_until(self._valid_until)

    def _read(self, job: Job) -> bool:
        """Fetch a long payload, now that it is needed; False if the claim is not ours any more, which settle will find out and count."""
        text = self.payload(job.id, job.token or "")
        if text is None:
            return False
        job.payload, job.unread = text, False
        return True

    # hearing
    def _listen(self, worker: Worker | None) -> None:
        if worker is None:
            assert self._wake is not None
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
            return
        self._read_output(worker)
        received = worker.said()
        if received:
            self._hear(worker, received)
        elif received is not None:
            self._unregister(worker.jobs)

    def _hear(self, worker: Worker, received: bytes) -> None:
        *lines, worker.unread = (worker.unread + received).split(b"\n")
        returned: list[Job] = []
        most = WINDOW // self.count
        for line in lines:
            try:
                message, outcome = understood(line, ready=worker.ready, busy=bool(worker.window))
                if "policies" in message:
                    self._greeted(worker, message)
                    continue
            except (ValueError, TypeError, LookupError, AttributeError):  # a task wrote into our socket: this worker cannot be understood any more
                worker.kill(signal.SIGKILL)
                break
            if message.get("journal") == "broken" and not self.journal_broken:
                self.journal_broken = True
                self.log.event("journal-broken")
            if "unstarted" in message:
                job = worker.pop(self.clock())
                job.started_at = None  # marked perhaps, but not begun: going back costs it nothing
                (returned if message.get("journal") or message.get("called_back") else self.unstarted).append(job)
            elif outcome is not None:
                job = worker.pop(self.clock())
                worker.size = max(1, min(most, worker.size * 2, int(WINDOW_SECONDS / max(outcome.seconds, 1e-6))))
                self._deaths_in_a_row = 0
                if "leaving" in message:
                    worker.killed_for = "leaving"  # it takes no more, and what it had not begun goes to another
                    self.log.event("worker-replaced", pid=worker.pid, job=job.id, task=job.task)
                self._finish(worker, job, outcome)
        self._take_back(returned)

    def _greeted(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.ready = True
        if not self.policies:
            for module, why in message["failed"].items():
                self.log.event("module-failed", module=module, error=why)
        self.policies = {name: Policy.from_dict(members) for name, members in message["policies"].items()}

    def _finish(self, worker: Worker, job: Job, outcome: Outcome) -> None:
        if not worker.printed:
            self._read_output(worker)
        tail = worker.printed.popleft() if worker.printed else worker.tail  # the job it died of has said no end
        if tail and outcome.error is not None and outcome.verb in ("retry", "bury", "hold"):
            said = printable(without(self.settings.secrets, tail.decode("utf-8", "replace").strip())[-1500:])
            if said:
                outcome = outcome._replace(error=f"{outcome.error} It printed: {said}"[:MAX_TEXT])
        if outcome.suppress:
            from asyncsend.suppressions import Learnt

            self.learnt = self.learnt or Learnt()
            self.learnt.heard(job, outcome)
        if outcome.troubled or outcome.failed or outcome.suppress:
            self._wave += 1
            self.allow_until(self._valid_until)
        self._finished.append((job, self.channels.heard(job, outcome)))

    def _read_output(self, worker: Worker) -> None:
        if not worker.read_output(self.end_of_output):
            self._unregister(worker.output)

    # watching
    def _is_marked(self, job: Job) -> bool:
        """Whether the start is committed to the database first: where a crash means held, and where there is no journal to say it."""
        return self._policy(job).holds or self.journal_broken

    def _goes_alone(self, job: Job) -> bool:
        return self._is_marked(job) or self.channels.troubled(job) is not None

    def _policy(self, job: Job) -> Policy:
        return self.policies.get("webhook" if job.task.startswith(DELIVERY) else job.task) or Policy()

    def _deadline(self, worker: Worker) -> float:
        if worker.term_sent is not None:
            return worker.term_sent + TERM_GRACE
        if not worker.ready:
            return worker.born + self.hello_timeout
        if worker.window:
            return worker.since + executing.timeout_of(worker.window[0], self._policy(worker.window[0]))
        return float("inf")

    def _enforce_timeouts(self) -> None:
        for worker in self.workers:
            if self.clock() < self._deadline(worker):
                continue
            self._listen(worker)  # while the run was busy elsewhere it may have gone on to the next job
            if self.clock() < self._deadline(worker):
                continue
            if worker.term_sent is None:
                worker.killed_for = "timeout" if worker.ready else "hello"
                worker.term_sent = self.clock()
                job = worker.window[0] if worker.window else None
                self.log.event("worker-timeout", pid=worker.pid, job=job.id if job else None, task=job.task if job else None)
                worker.kill(signal.SIGTERM)
            else:
                worker.term_sent = self.clock()
                worker.kill(signal.SIGKILL)

    def _reap(self) -> None:
        for worker in list(self.workers):
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid == 0:
                    continue
                self._bury_worker(worker, os.waitstatus_to_exitcode(status))

    def _bury_worker(self, worker: Worker, code: int) -> None:
        """Hear its last words, end what it left in its process group, and decide for the job it died with."""
        while True:
            before = len(worker.window), worker.unread
            self._read_output(worker)
            if worker.jobs.fileno() in self.selector.get_map():
                self._listen(worker)
            if (len(worker.window), worker.unread) == before:
                break
        worker.kill(signal.SIGKILL)
        self._unregister(worker.jobs)
        self._unregister(worker.output)
        worker.jobs.close()
        os.close(worker.output)
        worker.output = -1
        self.workers.remove(worker)
        if not worker.ready:
            self._died_unready(worker, code)
        if code == 0 and not worker.window and not worker.killed_for:
            return  # it was told to go
        finished, started = self._journalled()
        unresolved: list[Job] = []
        while worker.window:
            job = worker.pop(self.clock())
            known = finished.get((job.id, job.token or ""))
            if known is not None:  # it died between its journal and its word to us
                self._finish(worker, job, known)
            else:
                unresolved.append(job)
        head = unresolved[0] if unresolved else None
        # Without a mark and without a record it cannot have begun: the worker would have sent it back.
        if head and worker.killed_for != "leaving" and (started is None or (head.id, head.token or "") in started or head.started_at is not None):
            self._died_with(worker, unresolved.pop(0), code)
        elif not worker.killed_for:
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= 3:
                raise ConfigurationError(f"worker processes die before they start a job ({_ending(code)}): check the memory and process limits of the host")
        self._take_back(unresolved)

    def _died_with(self, worker: Worker, job: Job, code: int) -> None:
        policy = self._policy(job)
        if worker.killed_for == "abandoned":
            self._abandoned.append(job)
            return
        if worker.killed_for == "timeout":
            reason, why = "timeout", f"it took longer than its {executing.timeout_of(job, policy):g} s and was killed."
        elif code < 0:
            reason, why = "killed", f"its process was killed by {_ending(code)}."
        else:
            reason, why = "exited", f"its process ended with exit code {code} in the middle of the job (os._exit?)."
        self.log.event("worker-died", pid=worker.pid, job=job.id, task=job.task, reason=reason, ending=_ending(code))
        outcome = executing.after_death(job, policy, reason, why, self.chance)._replace(seconds=self.clock() - worker.since)
        if reason == "timeout" and has_one(job.task):  # the row's own patience was shorter than the sender's
            outcome = outcome._replace(channel=of_job(job), troubled=True)
        if self.journal is not None and not self.journal_broken:
            with contextlib.suppress(OSError):
                self.journal.finished(job.id, job.token or "", outcome)
        self._finish(worker, job, outcome)

    def _died_unready(self, worker: Worker, code: int) -> None:
        """A worker that never came up: the first may have been killed by the host, else a module did it, and the next goes without, so that mails go out."""
        if self.without_modules:
            raise ConfigurationError(f"worker processes cannot start ({_ending(code)}): check the memory and process limits of the host")
        self._died_young += 1
        self.without_modules = code >= 0 or worker.killed_for is not None or self._died_young > 1
        self.log.event("worker-died", pid=worker.pid, reason="importing ASYNCSEND_TASKS", ending=worker.killed_for or _ending(code))

    def _journalled(self) -> tuple[dict[Claim, Outcome], dict[Claim, str] | None]:
        """What the journal says was finished, and what was started; None for that if it cannot be read."""
        if self.journal is None:
            return {}, {}
        try:
            return self.journal.read()
        except OSError:
            self.journal_broken = True
            return {}, None

    def _unregister(self, channel: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(channel)

    def called_back(self, job: Job, wave: int) -> str | None:
        """
        In the worker: why it must not begin this job, None if it may. `stopping`: no job may begin any more, for the run ends, or its lease would be over.

        `called_back`: the run is to think again about it, for a job of an earlier rank waits, or something has gone wrong in a channel since it was
        handed out: for all workers, or here, before wave `wave`. What bears a start mark is begun all the same.
        """
        stop, valid_until, first, now = _SHARED.unpack(self._shared)
        if stop or boot_clock() >= valid_until:
            return "stopping"
        if job.started_at is None and (job.rank > first or (job.wave < max(wave, now) and has_one(job.task))):
            return "called_back"
        return None


def _ending(code: int) -> str:
    """An exit code for people."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name} (out of memory?)" if -code == signal.SIGKILL else name
    return f"exit code {code}"
