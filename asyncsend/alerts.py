"""
Alerts: causes of trouble that no waiting mends, named for `check` and `status`, and told by mail or webhook as a step of the run.

Each cause is told once in six hours, and once more when it is over; what was told stands in asyncsend_alerts and is written in one
transaction with the job that tells it, so that neither a second host nor a kill makes it two.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend import explain, metrics, times
from asyncsend.outcome import State
from asyncsend.queues import name_of, rank

if TYPE_CHECKING:
    from asyncsend.config import Settings
    from asyncsend.job import NewJob
    from asyncsend.log import Log
    from asyncsend.metrics import Figures
    from asyncsend.status import Holding
    from asyncsend.store import Store
    from asyncsend.store.rows import AlertRow

AGAIN = 6 * 3600.0  # seconds between two messages about one cause
ENOUGH = 20  # attempts below which a failure rate says nothing
QUEUE, PRIORITY = "alerts", 1000


class Limits(NamedTuple):
    """Above which a figure is a cause."""

    lag: float = 600.0  # seconds
    dead: int = 10
    held: int = 0
    failures: float = 0.5  # of the attempts of the present hour and the one before
    silence: float | None = None  # seconds without a run; None: three usual intervals, and five minutes at least
    lock: float = 1800.0  # seconds that one run is at work


def limits_of(settings: Settings, **given: float) -> Limits:
    """Those that are given, then those of the settings, then ours."""
    return Limits(**{**settings.alert_limits, **given})  # type: ignore[arg-type]


def causes(figures: Figures, limit: Limits, took: float = 0.0) -> dict[str, str]:
    """
    Name → sentence of everything that is wrong, the most urgent first; `took` is how long the run that asks is at work.

    A run sees the time without one before it; nobody but `check`, `status` and whoever enqueues sees that none comes at all.
    """
    standing, found = figures.standing, {}
    since = (standing.now - standing.started_at).total_seconds() if standing.started_at else None
    if since is None and not took:
        found["silence"] = "no run has ever been started: put the line of `asyncsend crontab` into cron"
    elif since is not None and not standing.alive and since > (limit.silence if limit.silence is not None else explain.patience(standing, figures.ticks)):
        found["silence"] = f"no run came for {times.spoken(since)}: check the cron entry with `asyncsend doctor`"
    at_work = took or (since if standing.alive and since else 0.0)
    if at_work > limit.lock:
        found["lock"] = f"one run is at work for {times.spoken(at_work)}: no other can start; look for a job that hangs in asyncsend.log"
    for channel in figures.channels:
        found[f"channel:{channel.name}".encode("ascii", "replace").decode()[:96]] = f"the channel {channel.name} is stopped ({channel.reason})"
    for reason, advice in explain.NEEDS_SOMEBODY.items():
        if jobs := figures.waiting.get(reason):
            found[f"waiting:{reason}"] = f"{_jobs(jobs)} wait ({reason}): {advice}"
    for schedule in figures.schedules:
        if schedule.next_at is None and not schedule.paused:
            found[f"schedule:{schedule.name}"] = f"schedule {schedule.name} makes no more jobs ({schedule.reason})"
    lag = figures.lag(without=figures.pauses)
    if lag is not None and lag > limit.lag:
        found["lag"] = f"the oldest due job waits for {times.spoken(lag)}"
    rate, attempts = metrics.failure_rate(figures.hour)
    if rate is not None and rate > limit.failures and attempts >= ENOUGH:
        found["failures"] = f"{rate:.0%} of {attempts:,} attempts in the last hour failed: `asyncsend status` names the tasks"
    for state, most, advice in ((State.DEAD, limit.dead, "`asyncsend dead list` shows them"), (State.HELD, limit.held, "they wait for `asyncsend release` or `cancel`")):
        if figures.jobs(state) > most:
            found[state.value] = f"{_jobs(figures.jobs(state))} {state.value}: {advice}"
    return found


def _jobs(number: int) -> str:
    return f"{metrics.counted(number)} {'job' if number == 1 else 'jobs'}"


def send_due(store: Store, settings: Settings, holding: Holding, log: Log, *, took: float) -> None:
    """The run's step: compare the causes with what was told, and tell what is new, what lasts for six hours, and what is over."""
    from asyncsend.store.rows import AlertRow

    figures = metrics.collect(store, holding.seen)
    rows = {row.cause: row for row in store.alerts()}
    looks = rows.pop("looked").times
    on: list[AlertRow] = []
    told: list[str] = []
    found = causes(figures, limits_of(settings), max(took, 1e-9))
    for cause, said in found.items():
        row = rows.get(cause) or AlertRow(cause, None, None, figures.now, 0, None)
        due = row.sent_at is None or (figures.now - row.sent_at).total_seconds() >= AGAIN
        if due or row.over_at is not None:  # None stands for the moment of writing
            on.append(AlertRow(cause, row.since if row.over_at is None else None, None if due else row.sent_at, None, row.times + due, said))
        if due:
            told.append(said)
    over = [row for cause, row in rows.items() if cause not in found and row.over_at is None]
    well = [row.said or row.cause for row in over if row.sent_at and row.since and row.sent_at >= row.since]  # of what was never told, nothing is told
    jobs = _messages(settings, told, well, f"alert-{figures.now:%Y%m%dT%H%M%S}-{looks}") if told or well else []
    if store.note_alerts(looks, on, [row.cause for row in over], jobs, holding.owner) and jobs:
        log.event("alert", told="; ".join(told) or None, over="; ".join(well) or None)


def _messages(settings: Settings, told: list[str], well: list[str], uid: str) -> list[NewJob]:
    """One job for each address; their uids are the same however often this look is repeated."""
    from asyncsend.producer import new_job  # not for `status`, which only wants the causes

    host = os.uname().nodename
    subject = f"asyncsend on {host}: " + (f"{len(told)} {'cause' if len(told) == 1 else 'causes'} for attention" if told else "over again")
    text = "\n".join([*(f"- {said}" for said in told), *(f"- over again: {said}" for said in well), "", "`asyncsend status` tells more. The same is said again after six hours at the earliest."])
    # A queue of its own, before all others, unless the settings serve only those they name.
    queue = QUEUE if rank(QUEUE, settings.queues) is not None else name_of(settings.queues[0])
    jobs = []
    for number, address in enumerate(settings.alert_to):
        options: dict[str, Any] = {"queue": queue, "priority": PRIORITY, "expires": AGAIN, "uid": f"{uid}-{number}"}
        if "://" in address:
            jobs.append(new_job("webhook", {"url": address, "body": {"text": f"{subject}\n{text}", "host": host, "causes": told, "over": well}}, **options))
        else:
            jobs.append(new_job("email", {"to": address, "subject": subject, "text": text}, **options))
    return jobs
