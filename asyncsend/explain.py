"""Why a job is where it is, and whether all is well: sentences made of rows, for `why`, `status` and whoever asks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from asyncsend.config import limit_of
from asyncsend.job import State
from asyncsend.lock import LEASE_ONLY
from asyncsend.queues import named, rank
from asyncsend.times import spoken, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from asyncsend.config import Limits
    from asyncsend.job import Job
    from asyncsend.store import Depth, Schedule, Standing

LEASE_ONLY_MEANS = "only the lease in the database keeps runs apart, and what a killed run leaves waits two minutes"
LATE_TICKS = 3  # usual intervals without a run after which cron is said to be missing
LEAST_PATIENCE = 300.0  # seconds; a minute's cron may hiccup


def why(job: Job, standing: Standing, pauses: Mapping[str, datetime | None], order: Sequence[str], zone: tzinfo, waits: str | None = None) -> str:
    """One sentence on where the job is, what it waits for, and what to do if that needs somebody."""
    name = f"Job {job.uid or job.id}"
    because = f" ({job.reason}: {job.error})" if job.error else f" ({job.reason})" if job.reason else ""
    match job.state:
        case State.DONE:
            return f"{name} is done since {stamp(job.finished_at, zone)}, at attempt {job.attempts}."
        case State.DEAD:
            return f"{name} is dead since {stamp(job.finished_at, zone)}{because}. `asyncsend retry {job.uid or job.id}` gives it fresh attempts."
        case State.CANCELLED:
            return f"{name} was cancelled at {stamp(job.finished_at, zone)}{because}."
        case State.HELD:
            return f"{name} is held{because}. `asyncsend release {job.uid or job.id}` lets it go, `asyncsend cancel` ends it."
        case State.RUNNING:
            if standing.alive:
                return f"{name} is in the hands of the run on {standing.host} (pid {standing.pid}) since {stamp(standing.started_at, zone)}."
            return f"{name} was in the hands of a run that died; the next run takes it back: {next_run(standing, zone)}."
    return f"{name} is ready{because}: {_waits_for(job, standing, pauses, order, zone, waits)}."


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


def _waits_for(job: Job, standing: Standing, pauses: Mapping[str, datetime | None], order: Sequence[str], zone: tzinfo, waits: str | None) -> str:
    if job.expires_at and job.expires_at <= standing.now:
        return f"it expired at {stamp(job.expires_at, zone)} and will be cancelled instead of executed"
    if job.run_at and job.run_at > standing.now:
        tries = f"attempt {job.attempts + 1}" if job.attempts else "it"
        return f"{tries} is due at {stamp(job.run_at, zone)}, in {spoken((job.run_at - standing.now).total_seconds())}"
    queue = named(job.queue)
    if queue in pauses:
        until = pauses[queue]
        return f"its queue {queue} is paused until {stamp(until, zone) if until else '`asyncsend resume ' + queue + '`'}"
    if rank(queue, order) is None:
        return f"no run serves its queue {queue}: ASYNCSEND_QUEUES is {','.join(order)}"
    if waits:
        return waits
    if standing.alive:
        return f"due, behind the jobs that the present run on {standing.host} executes"
    return f"due, and {next_run(standing, zone)}"


def interval(standing: Standing) -> float | None:
    """Seconds between the last two runs, None before there were two."""
    if standing.started_at is None or standing.previous_started_at is None:
        return None
    return max(1.0, (standing.started_at - standing.previous_started_at).total_seconds())


def next_run(standing: Standing, zone: tzinfo) -> str:
    """When cron is expected to start the next run, by the runs it has seen."""
    if standing.started_at is None:
        return "no run has ever been started: put the line of `asyncsend crontab` into cron"
    every, since = interval(standing), (standing.now - standing.started_at).total_seconds()
    if cron_missing(standing):
        return f"cron has not started a run for {spoken(since)} (last at {stamp(standing.started_at, zone)}): check the cron entry with `asyncsend doctor`"
    if every is None:
        return f"the next run is expected when cron comes again (last {spoken(since)} ago)"
    due = standing.started_at + timedelta(seconds=every)
    return f"the next run is expected in about {spoken(max(0.0, (due - standing.now).total_seconds()))} (every {spoken(every)})"


def cron_missing(standing: Standing) -> bool:
    """Whether no run has come for three usual intervals, and for five minutes at least."""
    if standing.started_at is None or standing.alive:
        return standing.started_at is None
    patience = max(LEAST_PATIENCE, LATE_TICKS * (interval(standing) or 0.0))
    return (standing.now - standing.started_at).total_seconds() > patience


# Reasons that no waiting will mend by itself, and what will.
NEEDS_SOMEBODY = {
    "smtp-login": "the mail server refuses our login: check ASYNCSEND_EMAIL_URL",
    "smtp-tls": "TLS with the mail server fails: check ASYNCSEND_EMAIL_URL",
    "smtp-connect": "the mail server cannot be reached: check ASYNCSEND_EMAIL_URL",
    "smtp-closed": "the mail server hangs up before it takes mail",
    "smtp-limit": "the host's mail limit is reached; they go out when it opens",
    "sms-account": "the SMS gateway refuses our account: check ASYNCSEND_SMS_URL",
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
    max_depth: Limits = (),
) -> tuple[str, list[str]]:
    """`ok` or `attention`, and the sentences behind it, the most urgent first; `waiting` counts ready jobs by reason."""
    said: list[str] = []
    if standing.started_at is None:
        said.append("No run has ever been started: put the line of `asyncsend crontab` into cron.")
    elif cron_missing(standing):
        said.append(next_run(standing, zone)[:1].upper() + next_run(standing, zone)[1:] + ".")
    if standing.lock_id and standing.lock_id.startswith(LEASE_ONLY):
        said.append(f"The lock file lies on a file system without flock: {LEASE_ONLY_MEANS}; set ASYNCSEND_LOCK to a path on a local disk.")
    if standing.owner is not None and not standing.alive:
        said.append(f"The last run (pid {standing.pid} on {standing.host}) died; the next one takes over by itself.")
    for state, advice in ((State.DEAD, "`asyncsend dead list` shows them"), (State.HELD, "they wait for `asyncsend release` or `cancel`")):
        number = sum(depth.jobs for depth in depths if depth.state is state)
        if number:
            said.append(f"{number} {'job is' if number == 1 else 'jobs are'} {state.value}: {advice}.")
    for reason, why in NEEDS_SOMEBODY.items():
        if waiting.get(reason):
            said.append(f"{waiting[reason]} {'job waits' if waiting[reason] == 1 else 'jobs wait'} ({reason}): {why}.")
    said += [
        f"Schedule {one.name} makes no more jobs ({one.reason}): mend it with `asyncsend schedule add --replace`, or remove it."
        for one in schedules
        if one.next_at is None and not one.paused
    ]
    for depth in depths:
        most = limit_of(max_depth, depth.queue)
        if depth.state is State.READY and most is not None and depth.jobs >= most:
            said.append(f"Queue {depth.queue} holds {depth.jobs:,} ready jobs, and may hold {most:,} (ASYNCSEND_MAX_DEPTH): enqueue adds no more; plain SQL does.")
    for queue, until in pauses.items():
        said.append(f"Queue {queue} is paused {'until ' + stamp(until, zone) if until else 'until it is resumed'}.")
    return ("attention" if said else "ok"), said
