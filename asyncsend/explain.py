"""Why a job is where it is, and whether all is well: sentences made of rows, for `why`, `status` and whoever asks."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from asyncsend.config import limit_of
from asyncsend.lock import LEASE_ONLY
from asyncsend.outcome import State
from asyncsend.queues import in_order, named, rank
from asyncsend.status import SCOPE, seen_from_here
from asyncsend.times import spoken, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from asyncsend.config import Limits, Settings
    from asyncsend.job import Job
    from asyncsend.store import Standing, Store
    from asyncsend.store.rows import Depth, Receipt, Schedule, Silence, StoppedChannel, Subscription

LEASE_ONLY_MEANS = "only the lease in the database keeps runs apart, and what a killed run leaves waits two minutes"
LATE_TICKS = 3  # usual intervals without a run after which cron is said to be missing
UNSERVED = 3600.0  # seconds after which a queue that the settings do not serve is served by no `run --queues` either
LEAST_PATIENCE = 300.0  # seconds; a minute's cron may hiccup
TELL_PRODUCERS = 600.0  # seconds without a run, or of new tables without a first one, before whoever enqueues is told
MOST = 10_000  # jobs before another that are counted


class Around(NamedTuple):
    """What `why` looks at beside the job itself."""

    standing: Standing
    pauses: Mapping[str, datetime | None]
    order: Sequence[str]
    zone: tzinfo
    ticks: Sequence[float] = ()
    ahead: int = 0  # due jobs that are claimed before it
    work: float | None = None  # seconds that these may take
    allowed: int | None = None  # attempts, where they are known
    batch: tuple[datetime | None, datetime | None] | None = None  # when its batch was sealed and cancelled
    stopped: StoppedChannel | None = None  # its way out, where nothing is sent through it now
    receipts: Sequence[Receipt] = ()  # what gateways report of its messages
    behind: str | None = None  # what of its keys keeps it from starting
    quiet: float = 0.0  # seconds for which no job of its queue is started


def around(store: Store, settings: Settings, job: Job) -> Around:
    """Ask what has to do with this job, and nothing that would take long."""
    standing, pauses = seen_from_here(store, settings.lock_path), store.pauses()
    found = Around(standing, pauses, settings.queues, settings.timezone, store.ticks(SCOPE), allowed=job.max_attempts)
    if found.allowed is None:
        from asyncsend.tasks import Tasks

        policy = Tasks(settings).policies().get(job.task)  # your own functions only where their modules are loaded
        found = found._replace(allowed=policy.max_attempts if policy else None)
    if job.batch_id:
        found = found._replace(batch=store.batch_marks(job.batch_id))
    if job.state is State.READY and (job.run_at is None or job.run_at <= standing.now):
        served = in_order(store.ready_queues(), settings.queues, pauses)
        before = served[: served.index(job.queue)] if job.queue in served else []
        waits = behind(job, store.before(job) if job.order_key else None, settings.concurrency, store.running_of)
        ahead, counted = store.ahead(job, before), store.counters("hour", 86400.0)
        executions = sum(sum(row.histogram) for row in counted)
        each = sum(row.seconds for row in counted) / executions if executions else None
        from asyncsend.turns import quiet_left

        found = found._replace(quiet=quiet_left(settings, job.queue, standing.now), ahead=ahead, work=None if each is None else ahead * each / settings.workers, behind=waits)
    return found


def why(job: Job, seen: Around) -> str:
    """One sentence on where the job is, what it waits for, and what to do if that needs somebody."""
    name = f"Job {job.uid or job.id}"
    standing, zone = seen.standing, seen.zone
    because = f" ({job.reason}: {job.error})" if job.error else f" ({job.reason})" if job.reason else ""
    match job.state:
        case State.DONE:
            told = "".join(f" {one.provider} says: {reported(one, zone)}." for one in seen.receipts)
            return f"{name} is done since {stamp(job.finished_at, zone)}, at attempt {job.attempts}.{told}"
        case State.DEAD:
            return f"{name} is dead since {stamp(job.finished_at, zone)}{because}. `asyncsend retry {job.uid or job.id}` gives it fresh attempts."
        case State.CANCELLED:
            return f"{name} was cancelled at {stamp(job.finished_at, zone)}{because}."
        case State.HELD:
            return f"{name} is held{because}. `asyncsend release {job.uid or job.id}` lets it go, `asyncsend cancel` ends it."
        case State.RUNNING:
            if standing.alive:
                return f"{name} is in the hands of the run on {standing.host} (pid {standing.pid}) since {stamp(standing.started_at, zone)}."
            return f"{name} was in the hands of a run that died; the next run takes it back: {next_run(standing, zone, seen.ticks)}."
    if seen.stopped is not None:
        return f"{name} is ready: nothing is sent through {seen.stopped.name} until {stamp(seen.stopped.until, zone)} ({seen.stopped.reason}); `asyncsend resume {seen.stopped.name}` opens it at once."
    expires = f"; it is cancelled if it has not started by {stamp(job.expires_at, zone)}" if job.expires_at and job.expires_at > standing.now else ""
    return f"{name} is ready{because}: {_waits_for(job, seen)}{expires}."


def reported(receipt: Receipt, zone: tzinfo) -> str:
    """`delivered at 12:00 (SM1)`: what a gateway reports of one message."""
    return f"{receipt.status} at {stamp(receipt.at, zone)} ({receipt.message}{', error ' + receipt.error if receipt.error else ''})"


def behind(job: Job, ahead: Job | None, limits: Limits, running_of: Callable[[str], int]) -> str | None:
    """What of its keys keeps a job from starting, in words; `ahead` is the job of its order key before it."""
    if ahead is not None:
        advice = f": `asyncsend release {ahead.uid or ahead.id}` lets it go, `asyncsend cancel` ends it" if ahead.state is State.HELD else ""
        return f"it waits behind job {ahead.uid or ahead.id} ({ahead.state.value}) of the same order key {job.order_key!r}{advice}"
    most = limit_of(limits, job.concurrency_key) if job.concurrency_key else None
    running = running_of(job.concurrency_key) if job.concurrency_key and most is not None else 0
    if most is not None and running >= most:
        return f"{running} of at most {most} jobs of its concurrency key {job.concurrency_key!r} are running (ASYNCSEND_CONCURRENCY)"
    return None


def _waits_for(job: Job, seen: Around) -> str:
    standing, zone, queue = seen.standing, seen.zone, named(job.queue)
    if job.expires_at and job.expires_at <= standing.now:
        return f"it expired at {stamp(job.expires_at, zone)} and will be cancelled instead of executed"
    if seen.batch is not None and seen.batch[1]:
        return f"its batch {job.batch_id} was cancelled at {stamp(seen.batch[1], zone)}, and it will be, too"
    of = f" of {max(1, seen.allowed)}" if seen.allowed is not None else ""
    tries = f"attempt {job.attempts + 1}{of}" if job.attempts else "it"
    if job.run_at and job.run_at > standing.now:
        return f"{tries} is due at {stamp(job.run_at, zone)}, in {spoken((job.run_at - standing.now).total_seconds())}"
    if queue in seen.pauses:
        until = seen.pauses[queue]
        return f"its queue {queue} is paused until {stamp(until, zone) if until else '`asyncsend resume ' + queue + '`'}"
    if rank(queue, seen.order) is None:
        return f"no run serves its queue {queue}: ASYNCSEND_QUEUES is {','.join(seen.order)}"
    if seen.quiet:
        return f"no job of its queue {queue} is started before {stamp(standing.now + timedelta(seconds=seen.quiet), zone)} (ASYNCSEND_QUIET_HOURS)"
    if seen.behind:
        return seen.behind
    due = f"{tries} is due" if job.attempts else "due"
    if seen.ahead:
        work = f", about {spoken(seen.work)} of work" if seen.work is not None else ""
        due += f" behind {seen.ahead:,} {'job' if seen.ahead == 1 else 'jobs'}{work}" if seen.ahead <= MOST else f" behind more than {MOST:,} jobs"
    if seen.batch is not None and seen.batch[0] is None:
        due += f", in the batch {job.batch_id}, to which jobs are still being added"
    if standing.alive:
        return f"{due}, and the run on {standing.host} (pid {standing.pid}) is at work{_held_until(standing, zone)}"
    return f"{due}, and {next_run(standing, zone, seen.ticks)}"


def _held_until(standing: Standing, zone: tzinfo) -> str:
    """What keeps others away, where the run is not of this host: were it dead, nobody here could know before that time."""
    if standing.host == os.uname().nodename:
        return ""
    return f"; should it have died, its lease ends at {stamp(standing.lease_until, zone)}"


def interval(standing: Standing) -> float | None:
    """Seconds between the last two runs, None before there were two."""
    if standing.started_at is None or standing.previous_started_at is None:
        return None
    return max(1.0, (standing.started_at - standing.previous_started_at).total_seconds())


def rhythm(ticks: Sequence[float]) -> tuple[float, float] | None:
    """
    Cron's interval, and a start that keeps to it, by the last starts, the newest first; None before there were two.

    The interval is the whole minutes that lie between two starts most often: cron knows no others, and a run by hand, one
    that lasted longer than its minute, or a night without cron is outvoted. The start is the newest of those that most
    others agree with, for one by hand may be the newest of all.

    >>> rhythm([4000.0, 3601.0, 2701.0, 1802.0, 901.0])
    (900.0, 3601.0)
    """
    gaps = [round((later - earlier) / 60) * 60.0 for later, earlier in pairwise(ticks)]
    counted = {gap: gaps.count(gap) for gap in gaps if gap > 0}
    if not counted:
        return None
    every = min(counted, key=lambda gap: (-counted[gap], gap))

    def agree(start: float) -> int:
        apart = [(start - other) % every for other in ticks]
        return sum(min(one, every - one) <= every / 10 for one in apart)

    return every, max(ticks, key=lambda start: (agree(start), start))


def next_run(standing: Standing, zone: tzinfo, ticks: Sequence[float] = ()) -> str:
    """When cron is expected to start the next run, by the runs it has seen."""
    if standing.started_at is None:
        return "no run has ever been started: put the line of `asyncsend crontab` into cron"
    since = (standing.now - standing.started_at).total_seconds()
    if cron_missing(standing, ticks):
        return f"cron has not started a run for {spoken(since)} (last at {stamp(standing.started_at, zone)}): check the cron entry with `asyncsend doctor`"
    seconds = next_in(standing, ticks)
    if seconds is None:
        return f"the next run is expected when cron comes again (last {spoken(since)} ago)"
    return f"the next run is expected in about {spoken(round(seconds))} (every {spoken(_every(standing, ticks) or 0.0)})"


def next_in(standing: Standing, ticks: Sequence[float] = ()) -> float | None:
    """Seconds until cron is expected again; None if nobody can tell yet."""
    known, every = rhythm(ticks), _every(standing, ticks)
    if every is None or standing.started_at is None:
        return None
    start = known[1] if known else standing.started_at.timestamp()
    return every - (standing.now.timestamp() - start) % every


def _every(standing: Standing, ticks: Sequence[float]) -> float | None:
    known = rhythm(ticks)
    return known[0] if known else interval(standing)


def patience(standing: Standing, ticks: Sequence[float] = ()) -> float:
    """Seconds without a run after which cron is said to be missing: three usual intervals, and five minutes at least."""
    return max(LEAST_PATIENCE, LATE_TICKS * (_every(standing, ticks) or 0.0))


def cron_missing(standing: Standing, ticks: Sequence[float] = ()) -> bool:
    """Whether no run has come for longer than that."""
    if standing.started_at is None or standing.alive:
        return standing.started_at is None
    return (standing.now - standing.started_at).total_seconds() > patience(standing, ticks)


def unseen(silence: Silence) -> str | None:
    """What whoever enqueues should know: that no run comes. None while one does, or while the tables are new."""
    known = rhythm(silence.ticks)
    if silence.alive or silence.seconds <= max(TELL_PRODUCERS, LATE_TICKS * (known[0] if known else 0.0)):
        return None
    if not silence.ever:
        return "the job is stored, but no run has ever been started: put the line of `asyncsend crontab` into cron"
    return f"the job is stored, but no run has come for {spoken(silence.seconds)}: check the cron entry with `asyncsend doctor`"


# Reasons that no waiting will mend by itself, and what will.
NEEDS_SOMEBODY = {
    "smtp-login": "the mail server refuses our login: check ASYNCSEND_EMAIL_URL",
    "smtp-tls": "TLS with the mail server fails: check ASYNCSEND_EMAIL_URL",
    "smtp-connect": "the mail server cannot be reached: check ASYNCSEND_EMAIL_URL",
    "smtp-closed": "the mail server hangs up before it takes mail",
    "smtp-limit": "the host's mail limit is reached; they go out when it opens. `ASYNCSEND_EMAIL_LIMIT` keeps below it",
    "smtp-policy": "the host refuses our mails for a policy of its own: read its words in `asyncsend jobs --state ready`",
    "email-account": "the mail provider refuses our account: check ASYNCSEND_EMAIL_URL",
    "email-limit": "the mail provider's limit is reached; they go out when it opens",
    "sms-account": "the SMS gateway refuses our account: check ASYNCSEND_SMS_URL",
    "pusher-account": "Pusher refuses our app: check ASYNCSEND_PUSHER_URL",
    "no-unsubscribe": "mails of a list need ASYNCSEND_UNSUBSCRIBE_URL and ASYNCSEND_UNSUBSCRIBE_SECRET",
    "configuration": "a setting cannot be used: `asyncsend doctor` names it",
    "module-failed": "a module of ASYNCSEND_TASKS cannot be imported: `asyncsend doctor` names it",
}


def verdict(
    standing: Standing,
    depths: Sequence[Depth],
    pauses: Mapping[str, datetime | None],
    waiting: Mapping[str, int],
    zone: tzinfo,
    schedules: Sequence[Schedule] = (),
    ticks: Sequence[float] = (),
    others: Iterable[str] = (),
    order: Sequence[str] = ("*",),
    prune_error: str | None = None,
    subscriptions: Sequence[Subscription] = (),
    channels: Sequence[StoppedChannel] = (),
    max_depth: Limits = (),
) -> tuple[str, list[str]]:
    """
    `ok` or `attention`, and the sentences behind it, the most urgent first.

    `waiting` counts ready jobs by reason, `others` are causes beside these, `order` are the queues that are served, `prune_error` is why the last pruning stopped.
    """
    said: list[str] = []
    if standing.started_at is None:
        said.append("No run has ever been started: put the line of `asyncsend crontab` into cron.")
    elif cron_missing(standing, ticks):
        said.append(_sentence(next_run(standing, zone, ticks)))
    if standing.lock_id and standing.lock_id.startswith(LEASE_ONLY):
        said.append(f"The lock file lies on a file system without flock: {LEASE_ONLY_MEANS}; set ASYNCSEND_LOCK to a path on a local disk.")
    if standing.owner is not None and not standing.alive:
        said.append(f"The last run (pid {standing.pid} on {standing.host}) died; the next one takes over by itself.")
    for state, advice in ((State.DEAD, "`asyncsend dead list` shows them"), (State.HELD, "they wait for `asyncsend release` or `cancel`")):
        number = sum(depth.jobs for depth in depths if depth.state is state)
        if number:
            said.append(f"{number if number <= MOST else f'More than {MOST}'} {'job is' if number == 1 else 'jobs are'} {state.value}: {advice}.")
    for reason, why in NEEDS_SOMEBODY.items():
        if waiting.get(reason):
            said.append(f"{waiting[reason]} {'job waits' if waiting[reason] == 1 else 'jobs wait'} ({reason}): {why}.")
    said += [
        f"Schedule {one.name} makes no more jobs ({one.reason}): mend it with `asyncsend schedule add --replace`, or remove it."
        for one in schedules
        if one.next_at is None and not one.paused
    ]
    said += [
        f"Subscription {one.name} ({one.topic}) is disabled since {stamp(one.disabled_at, zone)}: {one.reason}. `asyncsend subscribe` enables it, `unsubscribe` removes it."
        for one in subscriptions
        if one.disabled_at
    ]
    said += [f"Nothing is sent through {one.name} until {stamp(one.until, zone)} ({one.reason}): `asyncsend resume {one.name}` opens it at once." for one in channels]
    for depth in depths:
        waits = (standing.now - depth.oldest_due).total_seconds() if depth.oldest_due else 0.0
        if waits > UNSERVED and depth.queue not in pauses and rank(depth.queue, order) is None:
            said.append(f"{depth.due} {'job waits' if depth.due == 1 else 'jobs wait'} in the queue {depth.queue}, for {spoken(waits)}, and no run serves it: ASYNCSEND_QUEUES is {','.join(order)}.")
    if prune_error:
        said.append(f"Old rows are not deleted, so the tables grow: {prune_error}.")
    said += map(_sentence, others)
    for depth in depths:
        most = limit_of(max_depth, depth.queue)
        if depth.state is State.READY and most is not None and depth.jobs >= most:
            said.append(f"Queue {depth.queue} holds {depth.jobs:,} ready jobs, and may hold {most:,} (ASYNCSEND_MAX_DEPTH): enqueue adds no more; plain SQL does.")
    for queue, until in pauses.items():
        said.append(f"Queue {queue} is paused {'until ' + stamp(until, zone) if until else 'until it is resumed'}.")
    return ("attention" if said else "ok"), said


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
