"""What may be asked of a store: the one protocol that both databases keep, and the contract test holds them to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from asyncsend.outcome import FINISHED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from asyncsend.channels import Channel
    from asyncsend.config import Limits
    from asyncsend.job import Job, NewBatch, NewJob
    from asyncsend.outcome import Settlement
    from asyncsend.quotas import Meter, Quota, Window
    from asyncsend.store import Settled, Standing
    from asyncsend.store.rows import (
        AlertRow,
        Attempt,
        BatchRow,
        Consumer,
        Counted,
        Depth,
        OpenBatch,
        RunRow,
        Schedule,
        Silence,
        StoppedChannel,
        Subscription,
        Suppression,
        Turn,
        Utilisation,
        Which,
    )


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
    metered: bool  # it says so where any channel has a limit: then settling a job says so to its channels
    most_failed: Window | None  # and how many mails may fail in which time

    def standing(self, scope: str) -> Standing:
        """How things stand for this scope; also asserts that the session is what the statements rely on."""

    def take(self, scope: str, seen: Standing, owner: str, lock_id: str, host: str, pid: int, lease: float) -> bool:
        """Become the owner of the status row, if nobody living holds it and it did not change since `seen`."""

    def beat(self, scope: str, owner: str, lease: float) -> bool:
        """Renew the lease for `lease` seconds; False if the row belongs to somebody else now."""

    def end(
        self, scope: str, owner: str, stopped: str, lock_held: int, pruned: bool, generation: int | None = None, prune_error: str | None = None
    ) -> bool:
        """Give the status row back, adding the runs that found the lock held; False if it was no longer ours. By `generation` a repeat knows its own work."""

    def prune_error(self, scope: str) -> str | None:
        """Why the last pruning stopped; None if it did not."""

    def open_run(self, scope: str, generation: int, host: str, pid: int) -> int:
        """The id of a new row of the history."""

    def save_run(self, run_id: int, counts: dict[str, int], stopped: str | None, workers: int = 1, worked: float = 0.0) -> None:
        """Write the counts and the seconds of execution; with `stopped` the row is closed."""

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
        What is written is counted in the same transaction; what was written before is not counted again.
        """

    # retention
    def prune(
        self, keep_done: float, keep_dead: float, limit: int, *, states: Sequence[str] = FINISHED, before: Callable[[Sequence[int]], None] | None = None
    ) -> int:
        """
        Delete at most `limit` jobs that are finished for longer than these seconds, the oldest first, with their attempts; how many.

        Cancelled ones are kept like done ones; with `states` only jobs in these. `before` is called with their ids first; what it raises stops it.
        """

    def expired(self, keep_done: float, keep_dead: float, states: Sequence[str] = FINISHED) -> dict[str, int]:
        """How many jobs of each state that would delete, slice after slice."""

    def bury_held(self, keep: float, limit: int, owner: str | None = None) -> int:
        """Make at most `limit` jobs dead that are held for longer; how many. With `owner`, only while that owner holds a status row."""

    def prune_others(self, keep: float, keep_attempts: float, limit: int) -> None:
        """Delete at most `limit` rows of each other table that are older: runs, batches, attempts, scopes; and pauses that are over."""

    def attempts(self, ids: Sequence[int]) -> dict[int, list[Attempt]]:
        """What became of the attempts of these jobs that did not simply finish, the last twenty of each, the oldest first."""

    # batches
    def add_batch(self, batch: NewBatch, sealed: bool) -> bool:
        """Make the row; False if its uid is taken. Unless `sealed`, jobs are still being added and it cannot finish."""

    def batch_terms(self, uid: str) -> tuple[NewBatch, bool] | None:
        """What was said when it was made, and whether it is finished; None if there is no such row."""

    def change_batch(self, uid: str, quiet: str | None, deadline: float | None) -> bool:
        """Other hours, another deadline, where they are given; False if it is finished."""

    def seal_batch(self, uid: str) -> bool:
        """No more jobs come from outside; False if that was said before."""

    def batches(self, limit: int) -> list[BatchRow]:
        """The newest first."""

    def batch(self, ref: str) -> BatchRow | None:
        """The batch with this uid, else the newest of this name."""

    def batch_hours(self) -> dict[str, tuple[str | None, float | None]]:
        """Of the open batches that have such: when they are not sent, and the seconds until their deadline."""

    def batch_marks(self, uid: str) -> tuple[datetime | None, datetime | None] | None:
        """When it was sealed and cancelled, without counting its jobs; None if there is no such row."""

    def open_batches(self, after: str, limit: int) -> list[OpenBatch]:
        """What a run has to look after, by uid, from the one after `after`."""

    def batch_counts(self, uid: str) -> tuple[int, int]:
        """Jobs of this batch that are in the table, and how many of them are not finished."""

    def note_progress(self, uid: str, percent: int, owner: str, pushes: Sequence[NewJob] = ()) -> bool:
        """Remember the percentage, if it is the highest so far, and when that was done first; with it, in one transaction, add the jobs that tell a page."""

    def catch_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        """Note the first dead job and add what follows, in one transaction; False if that was done before."""

    def finish_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        """Note the end and add what follows, in one transaction; False if that was done before."""

    def cancel_batch(self, uid: str, owner: str | None = None) -> bool:
        """Nothing of it is started any more; False if it was finished or cancelled before. With `owner`, only while that owner holds a status row."""

    def cancel_some_of_batch(self, uid: str, limit: int, owner: str | None = None) -> int:
        """Cancel so many of its waiting jobs, with `owner` as above; how many there were."""

    # topics and channels
    def consumers(self, topic: str) -> tuple[list[Consumer], float]:
        """Subscriptions that may want this topic, and the database's seconds since 1970."""

    def endpoints(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Name → url, secrets, and `disabled`, which says why it is or is None; of those that have an address."""

    def cancel_all(self, ids: Sequence[int], reason: str, error: str, owner: str | None = None) -> int:
        """Cancel those of these jobs that are ready or held; how many there were."""

    def channels(self) -> list[Channel]:
        """Those that have trouble."""

    # quotas
    def turns(self, wanted: Sequence[Turn], limits: Mapping[str, Quota], reserve: float, catch_up: float, owner: str | None) -> dict[int, float]:
        """
        Take turns in channels of these limits; for each job 0, or the seconds after which it may expect its own.

        `reserve` is the share kept for urgent jobs, `catch_up` the seconds whose turns may be made up for at once.
        """

    def tidy_quotas(self, owner: str | None) -> None:
        """What a run left open that died without a word is counted from now on."""

    def prune_quotas(self, limit: int) -> bool:
        """Delete turns that no window counts any more, and channels that have none and promised none, so many of each; whether there may be more."""

    def meters(self, limits: Mapping[str, Quota], reserve: float = 0.0) -> dict[str, Meter]:
        """How much of these limits is used now."""

    def metered_channels(self) -> list[str]:
        """Those in which turns were taken lately."""

    def has_promised(self, name: str) -> bool:
        """Whether jobs were promised turns in this channel."""

    def early(self, queues: Sequence[str], limit: int, reason: str, owner: str | None) -> int:
        """Make those of these queues due now that wait for this reason, the next so many of each queue and priority; how many there were."""

    def next_turn(self, queues: Sequence[str], reason: str) -> float | None:
        """Seconds until the first of those in these queues is due that wait for this reason; None if none does."""

    # people
    def subscriptions(self) -> list[Subscription]:
        """All of them, by topic and name."""

    def save_subscription(self, wanted: Subscription, secret: str | None, drop_old: bool) -> None:
        """Make or change it, enabled, with this secret before those it had, or instead of them. Conflict if the name is another topic's or task's."""

    def remove_subscription(self, name: str) -> bool:
        """Delete it; False if there is none."""

    def stopped_channels(self) -> list[StoppedChannel]:
        """Those that nothing is sent through now."""

    def resume_channel(self, name: str) -> bool:
        """Forget what is known of it; False if that was nothing."""

    def wake(self, ids: Sequence[int], reason: str) -> int:
        """Make those of these jobs due now that wait for this reason; how many there were."""

    def find(self, ref: str) -> Job | None:
        """The job with this uid, else with this id."""

    def matches(self, ref: str) -> list[Job]:
        """The job with this uid, then another one with this id, where there are such; `uid=…` and `id=…` say which is meant."""

    def jobs(self, *, limit: int, before: int | None = None, **which: Any) -> list[Job]:
        """The newest jobs of that kind first, with id below `before`; `which` is made of the members of Which."""

    def count(self, **which: Any) -> int:
        """How many jobs of that kind there are."""

    def ids(self, which: Which, limit: int, before: int | None = None) -> list[int]:
        """The ids of the newest of them, as in `jobs`."""

    def parts(self, ids: Sequence[int]) -> list[list[int]]:
        """These ids in lists whose jobs can be read at once on a small host."""

    def these(self, ids: Sequence[int]) -> list[Job]:
        """The jobs with these ids that are there, in this order."""

    def depth(self) -> list[Depth]:
        """How many jobs every queue has in every state but done and cancelled: by index, and no more than 10,001 of each."""

    def waiting(self) -> dict[str, int]:
        """How many ready jobs wait for which reason, among the thousand of each queue and priority next to now on either side."""

    def ahead(self, job: Job, queues: Sequence[str]) -> int:
        """How many due jobs are claimed before this one, those of `queues` first; no more than 10,001."""

    def counters(self, span: str, back: float = 0.0) -> list[Counted]:
        """What was settled `ever`, or in the `hour`s or `day`s since so many seconds ago."""

    def utilisation(self, back: float) -> Utilisation:
        """Of the runs that started in the last so many seconds."""

    def ticks(self, scope: str) -> list[float]:
        """When the last runs started, the newest first, in seconds since 1970."""

    # suppressions
    def has_suppressions(self) -> bool:
        """Whether there are any; that there were none a few seconds ago is answered without a question."""

    def suppressions_of(self, addresses: Iterable[str]) -> list[Suppression]:
        """Those of these addresses, whatever their letters' case."""

    def suppress(self, wanted: Sequence[Suppression]) -> int:
        """Add those of these that are not there, a slice of them a transaction; how many."""

    def suppressions(self, *, address: str | None = None, of_list: str | None = None, reason: str | None = None, since: float | None = None) -> Iterator[Suppression]:
        """All of them that are so, by kind and address, read a slice at a time; `of_list` '' are those of no list."""

    def count_suppressions(self, *, address: str | None = None, of_list: str | None = None, reason: str | None = None, since: float | None = None) -> int:
        """How many of them there are."""

    def unsuppress(self, *, address: str | None = None, of_list: str | None = None, reason: str | None = None, since: float | None = None) -> int:
        """Delete those that are so; how many."""

    # alerts
    def alerts(self) -> list[AlertRow]:
        """Every cause that was ever noted, and not forgotten since."""

    def note_alerts(self, looks: int, on: Sequence[AlertRow], over: Sequence[str], jobs: Sequence[NewJob], owner: str) -> bool:
        """
        Write what these causes say now and which are over, and make these jobs, in one transaction.

        False, and nothing is written, if somebody else looked since there were `looks`, or the status row is no longer `owner`'s.
        """

    def silence(self, scope: str) -> Silence:
        """How long no run has come."""

    def make_ready(self, job_id: int, states: Sequence[State], queue: str | None = None) -> bool:
        """Back to ready and due now, with fresh attempts, in `queue` or where it was; False if it is in none of `states`. Conflict if its unique key is taken."""

    def make_all_ready(self, ids: Sequence[int], states: Sequence[State], queue: str | None = None) -> int:
        """The same for all of these, or with Conflict for none; how many."""

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
