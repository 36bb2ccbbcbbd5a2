"""Why a job is where it is, and whether all is well: sentences made of rows, for `why`, `status` and whoever asks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from asyncsend.job import State
from asyncsend.lock import LEASE_ONLY
from asyncsend.queues import named
from asyncsend.times import spoken, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, tzinfo

    from asyncsend.job import Job
    from asyncsend.store import Depth, Schedule, Standing, StoppedChannel, Subscription

LEASE_ONLY_MEANS = "only the lease in the database keeps runs apart, and what a killed run leaves waits two minutes"
LATE_TICKS = 3  # usual intervals without a run after which cron is said to be missing
UNSERVED = 3600.0  # seconds after which a queue that the settings do not serve is served by no `run --queues` either
LEAST_PATIENCE = 300.0  # seconds; a minute's cron may hiccup


def why(job: Job, standing: Standing, pauses: Mapping[str, datetime | None], order: Sequence[str], zone: tzinfo, stopped: StoppedChannel | None = None) -> str:
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
    if stopped is not None:
        return f"{name} is ready: nothing is sent through {stopped.name} until {stamp(stopped.until, zone)} ({stopped.reason}); `asyncsend resume {stopped.name}` opens it at once."
    return f"{name} is ready{because}: {_waits_for(job, standing, pauses, order, zone)}."


def _waits_for(job: Job, standing: Standing, pauses: Mapping[str, datetime | None], order: Sequence[str], zone: tzinfo) -> str:
    if job.expires_at and job.expires_at <= standing.now:
        return f"it expired at {stamp(job.expires_at, zone)} and will be cancelled instead of executed"
    if job.run_at and job.run_at > standing.now:
        tries = f"attempt {job.attempts + 1}" if job.attempts else "it"
        return f"{tries} is due at {stamp(job.run_at, zone)}, in {spoken((job.run_at - standing.now).total_seconds())}"
    queue = named(job.queue)
    if queue in pauses:
        until = pauses[queue]
        return f"its queue {queue} is paused until {stamp(until, zone) if until else '`asyncsend resume ' + queue + '`'}"
    if "*" not in order and queue not in order:
        return f"no run serves its queue {queue}: ASYNCSEND_QUEUES is {','.join(order)}"
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
    order: Sequence[str] = ("*",),
    prune_error: str | None = None,
    subscriptions: Sequence[Subscription] = (),
    channels: Sequence[StoppedChannel] = (),
) -> tuple[str, list[str]]:
    """
    `ok` or `attention`, and the sentences behind it, the most urgent first.

    `waiting` counts ready jobs by reason, `order` are the queues that are served, `prune_error` is why the last pruning stopped.
    """
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
    said += [
        f"Subscription {one.name} ({one.topic}) is disabled since {stamp(one.disabled_at, zone)}: {one.reason}. `asyncsend subscribe` enables it, `unsubscribe` removes it."
        for one in subscriptions
        if one.disabled_at
    ]
    said += [f"Nothing is sent through {one.name} until {stamp(one.until, zone)} ({one.reason}): `asyncsend resume {one.name}` opens it at once." for one in channels]
    for depth in depths:
        waits = (standing.now - depth.oldest_due).total_seconds() if depth.oldest_due else 0.0
        if waits > UNSERVED and depth.queue not in pauses and not {"*", depth.queue} & set(order):
            said.append(f"{depth.due} {'job waits' if depth.due == 1 else 'jobs wait'} in the queue {depth.queue}, for {spoken(waits)}, and no run serves it: ASYNCSEND_QUEUES is {','.join(order)}.")
    if prune_error:
        said.append(f"Old rows are not deleted, so the tables grow: {prune_error}.")
    for queue, until in pauses.items():
        said.append(f"Queue {queue} is paused {'until ' + stamp(until, zone) if until else 'until it is resumed'}.")
    return ("attention" if said else "ok"), said
