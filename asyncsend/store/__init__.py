"""
The store: the only room that speaks SQL. One protocol, two databases behind it, one contract test over both.

Every method is safe to repeat: when a reply is lost on the wire the store reconnects and asks again, and a fresh token
or the producer's uid tells what the lost statement did. No method leaves a transaction open when it returns.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from asyncsend.job import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncsend.config import Limits
    from asyncsend.job import Job, NewBatch, NewJob, Settlement

COUNTED = ("claimed", "done", "retried", "snoozed", "dead", "held", "cancelled", "released", "rescued", "replayed", "late")


# Rows that are only read are named tuples: to make such a class costs an empty tick a tenth of what a dataclass does.


class Standing(NamedTuple):
    """How things stand before a run takes over, read in one statement by the database clock."""

    now: datetime
    schema_version: int | None
    status: str
    owner: str | None
    alive: bool  # the owner's lease has not run out
    generation: int
    lock_id: str | None
    host: str | None
    pid: int | None
    started_at: datetime | None
    previous_started_at: datetime | None
    lease_until: datetime | None
    finished_at: datetime | None
    stopped: str | None
    lock_held: int
    pruned_at: datetime | None
    running_jobs: bool  # rows in state running: a dead run's, if nobody holds the status row
    pauses: int
    open_batches: bool  # sealed, and not finished: something may follow
    schedules_due: bool


class BatchRow(NamedTuple):
    """A batch as a person sees it; `counts` has a number for every state, pruned jobs included."""

    uid: str
    name: str
    allow_failures: bool
    created_at: datetime | None
    sealed_at: datetime | None
    started_at: datetime | None
    caught_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None
    shown: int  # the highest percentage that was shown: progress never goes back
    counts: dict[str, int]
    reason: str | None
    now: datetime  # by the database clock


class OpenBatch(NamedTuple):
    """A batch that a run has to look after: sealed, and not finished. The followers are JSON as the row has it."""

    uid: str
    allow_failures: bool
    then_job: str | None
    catch_job: str | None
    finally_job: str | None
    caught: bool
    cancelled: bool
    has_left: bool
    has_dead: bool
    pruned: int


class RunRow(NamedTuple):
    """One line of the history: what a run did and why it stopped."""

    id: int
    generation: int
    host: str
    pid: int
    started_at: datetime
    finished_at: datetime | None
    stopped: str | None
    counts: dict[str, int]


class Schedule(NamedTuple):
    """What recurs: a cron expression in a zone, the job it makes, and where it stands."""

    name: str
    cron: str
    tz: str
    task: str
    payload: str
    queue: str = "default"
    priority: int = 0
    catch_up: str = "one"  # one | all | none
    paused: bool = False
    next_at: datetime | None = None  # None: makes nothing more, and `reason` says why
    last_at: datetime | None = None  # the newest due time that became a job
    created_at: datetime | None = None
    reason: str | None = None

    @property
    def definition(self) -> tuple[str | int, ...]:
        """What a person said it to be."""
        return (self.cron, self.tz, self.task, self.payload, self.queue, self.priority, self.catch_up)


class Depth(NamedTuple):
    """How many jobs of one queue are in one state; for ready ones, how many of them are due and since when the oldest is."""

    queue: str
    state: State
    jobs: int
    due: int = 0
    oldest_due: datetime | None = None


class Settled(NamedTuple):
    """What became of a group of settlements."""

    accepted: int
    late: tuple[int, ...] = ()  # ids whose claim was no longer ours: nothing was written for them


class Store(Protocol):
    """What the rest of asyncsend may ask of a database. Raises DatabaseUnreachable or ConfigurationError, never a driver's error."""

    @property
    def name(self) -> str:
        """`MySQL …` or `SQLite …`, for people."""

    def close(self) -> None:
        """Give the connection back; the store opens a new one if it is used again."""

    def forget_connection(self) -> None:
        """Close our copy of the socket after a fork, without a word to the server."""

    # schema
    def schema_version(self) -> int | None:
        """The version of the tables, None if there are none."""

    def tables(self) -> set[str]:
        """The names of our tables that are there."""

    def apply(self, version: int, ddl: str) -> None:
        """Run one migration, statement by statement; each one may have been applied before."""

    # enqueue
    def insert(self, jobs: Sequence[NewJob], there: set[str] | None = None, max_depth: Limits = ()) -> list[str]:
        """
        Make the rows, all or none, and commit. The uids in order: of the existing job where a uid or unique key was taken.

        Into `there` go the uids that a job had before (where the answer to a COMMIT was lost, those of this call as well). QueueFull if
        a queue of `max_depth` would hold more ready jobs than it says; other producers may add some at the same moment.
        """

    # a run
    def standing(self, scope: str) -> Standing:
        """How things stand for this scope; also asserts that the session is what the statements rely on."""

    def take(self, scope: str, seen: Standing, owner: str, lock_id: str, host: str, pid: int, lease: float) -> bool:
        """Become the owner of the status row, if nobody living holds it and it did not change since `seen`."""

    def beat(self, scope: str, owner: str, lease: float) -> bool:
        """Renew the lease for `lease` seconds; False if the row belongs to somebody else now."""

    def end(self, scope: str, owner: str, stopped: str, lock_held: int, pruned: bool, generation: int | None = None) -> bool:
        """Give the status row back, adding the runs that found the lock held; False if it was no longer ours. By `generation` a repeat knows its own work."""

    def open_run(self, scope: str, generation: int, host: str, pid: int) -> int:
        """The id of a new row of the history."""

    def save_run(self, run_id: int, counts: dict[str, int], stopped: str | None) -> None:
        """Write the counts; with `stopped` the row is closed."""

    def close_dead_runs(self, scope: str, generation: int) -> int:
        """Close earlier rows that nobody closed, as `died`; how many."""

    def due_schedules(self, limit: int) -> list[tuple[datetime, Schedule]]:
        """At most `limit` schedules whose next time has come, each with the database's now."""

    def move_schedule(
        self, schedule: Schedule, jobs: Sequence[NewJob], *, next_at: datetime | None, last_at: datetime | None, reason: str | None, owner: str | None = None
    ) -> bool:
        """
        Make these jobs and move the schedule on, in one transaction; a job whose uid is there is not made again.

        False, and nothing is written, if it is not due any more, was paused or changed, or the status row is no longer `owner`'s.
        """

    def before(self, job: Job) -> Job | None:
        """The job that keeps this one from starting: one of its order key that is running, or the first unfinished one before it."""

    def running_of(self, concurrency_key: str) -> int:
        """How many jobs of this key are running."""

    def pauses(self) -> dict[str, datetime | None]:
        """The paused queues and until when; None is until resumed. Pauses whose time is over are not among them."""

    def ready_queues(self) -> list[str]:
        """The names of the queues that hold ready jobs, due or not, in the order of the index."""

    def claim(
        self,
        queues: Iterable[str],
        limit: int,
        token: str,
        run_id: int,
        owner: str | None = None,
        *,
        reserve: Iterable[tuple[Sequence[str], int]] = (),
        limit_of: Callable[[str], int | None] = lambda _key: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Job]:
        """
        At most `limit` due jobs, now running under `token`: queue by queue, priority high to low, then run_at, then id.

        Of an order key only the first unfinished job, and none while one of it is running; of a concurrency key no more are
        running together than `limit_of` says. `reserve` names queues of which so many come first. While it moves a crowd that has
        to wait out of the way it asks now and then whether that is `enough`; then it may have found nothing and there is something.

        With `owner`, only while that owner holds a status row: a run that lost it claims nothing more. A payload above
        CLAIMED_PAYLOAD bytes does not come along: such a job is `unread`.
        """

    def payload(self, job_id: int, token: str) -> str | None:
        """The payload of a claimed job, as far as it may be long; None if the claim is no longer ours."""

    def running(self, limit: int) -> list[Job]:
        """Jobs in state running, without their payloads."""

    def mark_started(self, job_id: int, token: str, hold: bool = True, owner: str | None = None) -> bool:
        """Commit the start mark of a job; with `hold` a crash means held, else a charge. False if the claim, or the status row, is no longer ours."""

    def settle(self, settlements: Sequence[Settlement], *, owner: str | None = None, rescue: bool = False) -> Settled:
        """
        Write outcomes, in one transaction, each only if its claim still stands. With `rescue` the token is forgotten.

        With `owner`, only while that owner holds a status row: what a run wants to write after it lost it is late, and refused.
        """

    def prune(self, keep_done: float, keep_dead: float, limit: int) -> int:
        """Delete at most `limit` finished jobs older than these seconds, and old history; how many jobs."""

    # batches
    def add_batch(self, batch: NewBatch, sealed: bool) -> bool:
        """Make the row; False if its uid is taken. Unless `sealed`, jobs are still being added and it cannot finish."""

    def seal_batch(self, uid: str) -> bool:
        """No more jobs come from outside; False if that was said before."""

    def batches(self, limit: int) -> list[BatchRow]:
        """The newest first."""

    def batch(self, ref: str) -> BatchRow | None:
        """The batch with this uid, else the newest of this name."""

    def open_batches(self, after: str, limit: int) -> list[OpenBatch]:
        """What a run has to look after, by uid, from the one after `after`."""

    def batch_counts(self, uid: str) -> tuple[int, int]:
        """Jobs of this batch that are in the table, and how many of them are not finished."""

    def note_progress(self, uid: str, percent: int, owner: str) -> None:
        """Remember the percentage, if it is the highest so far, and when that was done first."""

    def catch_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        """Note the first dead job and add what follows, in one transaction; False if that was done before."""

    def finish_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        """Note the end and add what follows, in one transaction; False if that was done before."""

    def cancel_batch(self, uid: str, owner: str | None = None) -> bool:
        """Nothing of it is started any more; False if it was finished or cancelled before. With `owner`, only while that owner holds a status row."""

    def cancel_some_of_batch(self, uid: str, limit: int, owner: str | None = None) -> int:
        """Cancel so many of its waiting jobs, with `owner` as above; how many there were."""

    # people
    def find(self, ref: str) -> Job | None:
        """The job with this uid, else with this id."""

    def matches(self, ref: str) -> list[Job]:
        """The job with this uid, then another one with this id, where there are such; `uid=…` and `id=…` say which is meant."""

    def jobs(self, *, state: str | None, queue: str | None, task: str | None, limit: int, before: int | None = None) -> list[Job]:
        """The newest jobs of that kind first, with id below `before`."""

    def count(self, *, state: str | None, queue: str | None, task: str | None) -> int:
        """How many jobs of that kind there are."""

    def depth(self) -> list[Depth]:
        """How many jobs every queue has in every state."""

    def waiting(self) -> dict[str, int]:
        """How many ready jobs wait for which reason: what the last attempt met, or what it is not tried for."""

    def make_ready(self, job_id: int, states: Sequence[State]) -> bool:
        """Back to ready and due now, with fresh attempts; False if it is in none of `states`. Conflict if its unique key is taken."""

    def cancel(self, job_id: int, reason: str) -> bool:
        """Ready or held becomes cancelled; False if it is neither."""

    def purge(self, ids: Sequence[int]) -> int:
        """Delete these dead jobs; how many."""

    def pause(self, queue: str, seconds: float | None) -> None:
        """Claim nothing from this queue, for so long or until resumed."""

    def resume(self, queue: str) -> bool:
        """Claim from it again; False if it was not paused."""

    def add_schedule(self, schedule: Schedule, *, replace: bool = False) -> bool:
        """Make the row; False if exactly this one is there. Conflict if another has the name, unless it may be replaced."""

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All of them by name, or the one of this name."""

    def remove_schedule(self, name: str) -> bool:
        """Delete it; the jobs it made stay. False if there is none."""

    def pause_schedule(self, name: str) -> bool:
        """Make no jobs of it until it is resumed; False if there is none."""

    def resume_schedule(self, name: str, next_at: datetime) -> bool:
        """Go on with this time; False if there is none."""

    def runs(self, limit: int) -> list[RunRow]:
        """The history, newest first."""

    def facts(self) -> dict[str, str]:
        """What `doctor` wants to know of the server: version, engine, durability, strictness, time zone, packet size."""


def open_store(url: str, prefix: str, clock: Callable[[], float] | None = None) -> Store:
    """
    The store behind `url`; nothing is connected before the first question.

    `clock` (seconds since 1970) stands in for the database clock of SQLite, which has none of its own; MySQL ignores it.
    ConfigurationError if the URL is of neither kind.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from asyncsend.store.sqlite import SQLiteStore

        return SQLiteStore(url, prefix, clock)
    if scheme in ("mysql", "mariadb"):
        from asyncsend.store.mysql import MySQLStore

        return MySQLStore(url, prefix)
    from asyncsend.errors import ConfigurationError

    raise ConfigurationError(f"ASYNCSEND_DATABASE_URL starts with {scheme!r}: write mysql://user:password@localhost/database or sqlite:///path")
