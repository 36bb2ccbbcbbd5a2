"""
Batches: jobs that belong together, and what follows when they are through.

    with batch("november newsletter", then=("email", {...})) as newsletter:
        newsletter.enqueue_many("email", mails)

Followers are ordinary jobs, added by a run in the transaction that notes the end of the batch: exactly once, however often a
run dies. What is left is counted from the jobs, so it is right after any kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend import producer
from asyncsend.answers import BadPayload
from asyncsend.errors import Conflict, InvalidJob
from asyncsend.job import MAX_PRIORITY, NewBatch
from asyncsend.outcome import FINISHED
from asyncsend.text import printable
from asyncsend.times import utc

if TYPE_CHECKING:
    from datetime import timedelta

    from asyncsend.job import NewJob
    from asyncsend.log import Log
    from asyncsend.store import Store
    from asyncsend.store.rows import BatchRow, OpenBatch

Follower = tuple[str, Mapping[str, Any]] | None  # task and payload
SLICE = 500  # jobs cancelled at once
PAGE = 100  # open batches read at once
EVENT = "batch.progress"
PUSHED_WITHIN = 30.0  # seconds; later it is no news any more


class Batch:
    """What `with batch(…)` gives: its uid, and `enqueue` for the jobs that belong to it."""

    def __init__(self, uid: str, name: str, connection: Any) -> None:
        self.uid, self.name, self.connection = uid, name, connection

    def __str__(self) -> str:
        return self.uid

    def enqueue(self, task: str, payload: Mapping[str, Any] | str, **options: Any) -> str:
        """As `asyncsend.enqueue`, with the job in this batch."""
        return producer.enqueue(task, payload, connection=self.connection, batch=self.uid, **options)

    def enqueue_many(self, task: str, payloads: Iterable[Mapping[str, Any] | str], **options: Any) -> list[str] | int:
        """As `asyncsend.enqueue_many`, with the jobs in this batch: their uids, or with `count=True` their number."""
        made: list[str] | int = producer.enqueue_many(task, payloads, connection=self.connection, batch=self.uid, **options)
        return made


@contextmanager
def batch(
    name: str,
    *,
    then: Follower = None,
    catch: Follower = None,
    finally_: Follower = None,
    allow_failures: bool = True,
    quiet: str | None = None,
    deadline: datetime | float | None = None,
    push: str | None = None,
    uid: str | None = None,
    connection: Any = None,
) -> Iterator[Batch]:
    """
    Make a batch; the jobs that are added in the block, or later with `batch=uid` from one of its own jobs, belong to it.

    `then` is added when every job is through (with `allow_failures`, also if some are dead), `catch` at the first dead job,
    `finally_` when nothing is left, whatever became of it; each is a task and its payload. Without `allow_failures` the first
    dead job cancels what has not started. None of its jobs is started in the `quiet` hours of the day (22:00-08:00, in
    ASYNCSEND_TIMEZONE), nor after `deadline` (a time, or seconds since 1970): what waits then is cancelled. `push` names a channel
    of Pusher that hears `batch.progress` every few seconds while a run is at it, and at its end. An exception in the block
    cancels the batch and goes on. With `connection` everything is in your transaction. InvalidJob, Conflict if the uid is taken.
    """
    first, second, last = (follower(*one) if one else None for one in (then, catch, finally_))
    until = utc(deadline).timestamp() if isinstance(deadline, datetime) else deadline
    new = NewBatch(uid or producer.new_uid(), name, allow_failures, first, second, last, quiet, until, push and push_channel(push)).checked()
    if connection is not None:
        from asyncsend.store.foreign import asked_through
        from asyncsend.store.insert import insert_batch

        # Sealed from the start: nobody sees it before your COMMIT, and with it come its jobs.
        insert_batch(asked_through(connection, producer.table_prefix())[0], new, sealed=True)
        yield Batch(new.uid, name, connection)
        return
    store = producer.own_store()
    if not store.add_batch(new, sealed=False):
        raise Conflict(f"there is a batch with the uid {new.uid} already: `asyncsend batch show {new.uid}`")
    try:
        yield Batch(new.uid, name, None)
    except BaseException:
        cancel(store, new.uid)
        raise
    finally:
        store.seal_batch(new.uid)


def join(store: Store, wanted: NewBatch) -> list[str]:
    """
    Add to a batch that is there: its quiet hours and its deadline become these, where they are given; what was changed, in words.

    Conflict if it is finished, or if something else follows it than was said when it was made.
    """
    found = store.batch_terms(wanted.uid)
    if found is None:  # deleted in this moment
        raise Conflict(f"the batch {wanted.uid} was there a moment ago and is not any more: try again")
    before, finished = found
    for option, new, old in (("then", wanted.then_job, before.then_job), ("catch", wanted.catch_job, before.catch_job), ("finally", wanted.finally_job, before.finally_job)):
        if new is not None and new != old:
            raise Conflict(f"the batch {wanted.uid} is there already, with another --{option} or none: leave it out to add to that batch, or choose another name")
    changed = []
    if wanted.quiet is not None and wanted.quiet != before.quiet:
        changed.append(f"is quiet {wanted.quiet} now, no longer {before.quiet or 'at no time'}")
    if wanted.deadline is not None and (before.deadline is None or abs(wanted.deadline - before.deadline) > 0.001):
        old, new = ("never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" for at in (before.deadline, wanted.deadline))
        changed.append(f"has its deadline at {new} now, no longer {old}")
    if changed and (finished or not store.change_batch(wanted.uid, wanted.quiet, wanted.deadline)):
        raise Conflict(f"the batch {wanted.uid} is finished, so its quiet hours and deadline cannot be changed: choose another name, or leave --quiet and --deadline out")
    return [f"The batch {wanted.uid} {one}." for one in changed]


def cancel(store: Store, uid: str) -> int:
    """Start nothing more of it; how many waiting jobs were cancelled. What is running comes to its end."""
    store.cancel_batch(uid)
    return _cancel_rest(store, uid)


def _cancel_rest(store: Store, uid: str, owner: str | None = None, beat: Callable[[], None] = lambda: None) -> int:
    cancelled = 0
    while some := store.cancel_some_of_batch(uid, SLICE, owner):
        cancelled += some
        beat()
    return cancelled


def look_after(store: Store, owner: str, log: Log, beat: Callable[[], None]) -> int:
    """
    The run's step: note progress, first failures and ends of the open batches, and add what follows; how many jobs that were.

    `beat` raises LeaseLost once the status row is somebody else's; every write asks for itself, too.
    """
    added, after = 0, ""
    while page := store.open_batches(after, PAGE):
        for one in page:
            beat()
            added += _look_after(store, owner, log, beat, one)
        after = page[-1].uid
    return added


def _look_after(store: Store, owner: str, log: Log, beat: Callable[[], None], one: OpenBatch) -> int:
    added = 0
    stopped = one.cancelled or (one.has_dead and not one.allow_failures)
    if one.has_dead and not one.caught:
        followers, trouble = _followers(one, "catch")
        if store.catch_batch(one.uid, followers, trouble, owner):
            added += len(followers)
            log.event("batch-caught", batch=one.uid, added=len(followers), error=trouble)
    if stopped:
        store.cancel_batch(one.uid, owner)
        _cancel_rest(store, one.uid, owner, beat)
    if one.has_left:
        total, left = store.batch_counts(one.uid)
        if finished := total - left + one.pruned:
            percent = min(99, 100 * finished // (total + one.pruned))
            pushes = _pushes(store, one, percent)[0] if one.push_due and percent > one.progress else []
            # Where it is pushed nothing is noted but what is pushed: the next one then says what is new.
            if store.note_progress(one.uid, percent if pushes or one.push is None else one.progress, owner, pushes):
                added += len(pushes)
        if left:
            return added
    followers, trouble = _followers(one, *(("finally",) if stopped else ("then", "finally")))
    pushes, unsaid = _pushes(store, one, 100)
    followers, trouble = [*followers, *pushes], trouble or unsaid
    if store.finish_batch(one.uid, followers, trouble, owner):
        added += len(followers)
        log.event("batch-finished", batch=one.uid, added=len(followers), error=trouble)
    return added


def push_channel(name: str) -> str:
    """The name itself; InvalidJob if it is none of a channel of Pusher's."""
    from asyncsend.tasks.pusher import event_of

    try:
        event_of({"channel": name, "event": EVENT})
    except BadPayload as error:
        raise InvalidJob(f"push: {error}") from error
    return name


def _pushes(store: Store, one: OpenBatch, percent: int) -> tuple[list[NewJob], str | None]:
    """The job that tells the page, if one is to be told, and why it cannot be made: somebody wrote the row by hand."""
    row = store.batch(one.uid) if one.push is not None else None
    if row is None or one.push is None:
        return [], None
    counts = row.counts
    data = {"batch": one.uid, "percent": percent, "done": counts["done"], "failed": counts["dead"], "cancelled": counts["cancelled"], "total": sum(counts.values())}
    try:
        job = producer.new_job(
            "pusher", {"channel": push_channel(one.push), "event": EVENT, "data": data}, uid=f"{one.uid}:push:{percent}",
            priority=MAX_PRIORITY, expires=PUSHED_WITHIN if percent < 100 else None,
            order_key=f"{one.uid}:push",  # one that is tried again must not come after the next
        )  # fmt: skip
    except InvalidJob as error:
        return [], printable(str(error), 180)
    return [job], None


class Progress(NamedTuple):
    """How far a batch is, for people and programs."""

    percent: int  # 0 to 100; 100 only once it is finished, and never less than was shown before
    total: int
    left: int
    per_hour: float | None  # finished jobs; None before the first
    eta: timedelta | None  # None if it stands still, or is through


def progress(row: BatchRow) -> Progress:
    """The progress of a batch by its counts."""
    total = sum(row.counts.values())
    finished = sum(row.counts[state.value] for state in FINISHED)
    left = total - finished
    if row.finished_at is not None and left == 0:
        return Progress(100, total, 0, None, None)
    percent = max(row.shown if row.finished_at is None else 0, min(99, 100 * finished // total) if total else 0)
    ran = (row.now - row.started_at) if row.started_at else None
    if ran is None or not finished or ran.total_seconds() <= 0:
        return Progress(percent, total, left, None, None)
    return Progress(percent, total, left, finished / ran.total_seconds() * 3600, ran * (left / finished))


def follower(task: str, payload: Mapping[str, Any] | str) -> str:
    """A job that follows a batch, as its row keeps it. InvalidJob as for `asyncsend.enqueue`."""
    job = producer.new_job(task, payload)
    return json.dumps({"task": job.task, "queue": job.queue, "payload": json.loads(job.payload)}, separators=(",", ":"))


def _followers(one: OpenBatch, *kinds: str) -> tuple[list[NewJob], str | None]:
    """The jobs that follow now, and what is wrong with those that cannot be made: somebody wrote the row by hand."""
    texts = {"then": one.then_job, "catch": one.catch_job, "finally": one.finally_job}
    jobs: list[NewJob] = []
    trouble = None
    for kind in kinds:
        text = texts[kind]
        if text is None:
            continue
        try:
            members = json.loads(text)
            options = {name: value for name, value in members.items() if name not in ("task", "payload")}
            jobs.append(producer.new_job(members["task"], members.get("payload", {}), **options, uid=f"{one.uid}:{kind}"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidJob) as error:
            trouble = printable(f"{kind}_job cannot be added: {error}", 180)
    return jobs, trouble
