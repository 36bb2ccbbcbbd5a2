"""
Schedules: which times of a cron expression are due, which of them become jobs, and when it is next (docs/schedules.md).

cronsim is imported when a schedule is due or shown, never by an empty minute.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from asyncsend import explain
from asyncsend.errors import InvalidJob
from asyncsend.job import NewJob
from asyncsend.text import printable
from asyncsend.times import LAST_INSTANT, zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncsend.log import Log
    from asyncsend.status import Holding
    from asyncsend.store import Standing, Store
    from asyncsend.store.rows import Schedule

CATCH_UP = ("one", "all", "none")
MOST = 1000  # jobs that one schedule makes at once, however long cron was away
SLICE = 100  # schedules read at once
LEAST_GRACE, MOST_GRACE = 300.0, 7200.0  # seconds a time may be late before `none` leaves it out; in between, two intervals of cron
MAX_CRON = 191  # characters
MAX_PAYLOAD_BYTES = 60_000  # times MOST is what one transaction may hold
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,37}")
_SECOND = timedelta(seconds=1)
_BEGINNING = datetime(1970, 1, 2, tzinfo=UTC)  # of what MySQL can hold; SQLite takes any time that somebody writes


class Decision(NamedTuple):
    """What becomes of a schedule now."""

    times: list[datetime]  # due times that become jobs, the oldest first
    left_out: int  # due times that do not
    more: bool  # there were others before these, which nobody counted
    next_at: datetime | None


def checked_name(name: str) -> str:
    """The name itself; InvalidJob if it could not be a schedule's."""
    if not _NAME.fullmatch(name):
        raise InvalidJob(f"schedule {printable(name, 80)!r} is not allowed: letters, digits, _ . : -, at most 38")
    return name


def times(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    """
    Every time of the expression after that moment, in UTC, each once. InvalidJob if expression or zone cannot be used.

    A time that names its hour is one on the wall: at the end of an hour that spring skips, in the first of two that autumn
    repeats. cronsim does that unless minute or hour starts with a star, so a star that does not mean every hour is spelt out.
    """
    from cronsim import CronSim, CronSimError

    fields = cron.split()
    if len(fields) != 5:
        raise InvalidJob(f"the cron expression {printable(cron, 80)!r} must have five fields: minute, hour, day of month, month, day of week")
    try:
        start = after.astimezone(zone(tz) if tz else UTC)
        every_hour = len(CronSim(cron, start).hours) == 24
        fields[0], fields[1] = re.sub(r"(^|,)\*", r"\g<1>0-59", fields[0]), re.sub(r"(^|,)\*", r"\g<1>0-23", fields[1])
        if every_hour:
            fields[1] = "*"
        found = CronSim(" ".join(fields), start)
    except CronSimError as error:
        raise InvalidJob(f"the cron expression {printable(cron, 80)!r} cannot be used ({error}): write it like 0 2 * * 1-5, for 2:00 from Monday to Friday") from error
    except ValueError as error:
        raise InvalidJob(str(error)) from error
    return _each_once(found, after)


def _each_once(found: Iterator[datetime], after: datetime) -> Iterator[datetime]:
    last = after
    for local in found:
        moment = local.astimezone(UTC)
        if moment.timestamp() > LAST_INSTANT:
            return
        if moment > last:  # seen from the second of two equal hours, times of the first come by again
            yield moment
            last = moment


def following(cron: str, tz: str, after: datetime, number: int = 1) -> list[datetime]:
    """The next times after that moment, fewer if there are no more. InvalidJob as for `times`."""
    return list(islice(times(cron, tz, after), number))


def decide(cron: str, tz: str, catch_up: str, next_at: datetime, now: datetime, grace: float) -> Decision:
    """What to make of the times from `next_at` to `now`; a time may be `grace` seconds late before `none` leaves it out."""
    due, more = _newest(cron, tz, next_at, now)
    made = due if catch_up == "all" else due[-1:]
    if catch_up == "none" and made and (now - made[0]).total_seconds() > grace:
        made = []
    return Decision(made, len(due) - len(made), more, next(times(cron, tz, now), None))


def _newest(cron: str, tz: str, first: datetime, now: datetime) -> tuple[list[datetime], bool]:
    """The newest MOST times from `first` to `now`, and whether there are others before; looking back twice as far until there are so many."""
    first, window = max(first, _BEGINNING), timedelta(hours=1)
    while True:
        start = max(first, now - window)
        found: list[datetime] = []
        for moment in times(cron, tz, start - _SECOND):
            if moment > now:
                break
            found.append(moment)
        if len(found) > MOST or start == first:
            return found[-MOST:], len(found) > MOST
        window *= 2


def grace(standing: Standing) -> float:
    """How late a time may be by no fault but that cron comes rarely: two of its usual intervals."""
    return min(MOST_GRACE, max(LEAST_GRACE, 2 * (explain.interval(standing) or 0.0)))


def new(name: str, cron: str, tz: str, job: NewJob, catch_up: str, now: datetime) -> Schedule:
    """A checked schedule that makes jobs like this one, the first at the next time after `now`. InvalidJob says what does not fit."""
    from asyncsend.store.rows import Schedule

    checked_name(name)
    if len(cron) > MAX_CRON or not cron.isascii():
        raise InvalidJob(f"the cron expression {printable(cron, 80)!r} must be ASCII and at most {MAX_CRON} characters long")
    size = len(job.payload.encode())
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidJob(f"the payload is {size:,} bytes long; a schedule's may have {MAX_PAYLOAD_BYTES:,}. Put large content in a file and its path in the payload")
    return Schedule(name, cron, tz, job.task, job.payload, job.queue, job.priority, catch_up, next_at=first(cron, tz, now))


def first(cron: str, tz: str, now: datetime) -> datetime:
    """The next time after `now`; InvalidJob if there is none, or as for `times`."""
    found = following(cron, tz, now)
    if not found:
        raise InvalidJob(f"the cron expression {printable(cron, 80)!r} has no time before 2037: check day and month")
    return found[0]


def uid(name: str, due: datetime) -> str:
    """
    The uid of the one job of a due time.

    >>> uid("nightly", datetime(2026, 11, 1, 2, tzinfo=UTC))
    'schedule-nightly-20261101T020000Z'
    """
    return f"schedule-{name}-{due:%Y%m%dT%H%M%SZ}"


def enqueue_due(store: Store, holding: Holding, log: Log, beat: Callable[[], None]) -> int:
    """Make the jobs of every due schedule and move it on; how many. `beat` raises LeaseLost once the status row is somebody else's."""
    made, moved = 0, True
    while moved and (due := store.due_schedules(SLICE)):
        for now, schedule in due:
            beat()
            jobs, moved = _enqueue(store, holding, log, schedule, now)
            made += jobs
            if not moved:
                holding.doubt()  # or a person was quicker, and it is looked at by the next run
                beat()
                break
    return made


def _enqueue(store: Store, holding: Holding, log: Log, schedule: Schedule, now: datetime) -> tuple[int, bool]:
    assert schedule.next_at is not None
    try:
        decision = decide(schedule.cron, schedule.tz, schedule.catch_up, schedule.next_at, now, grace(holding.seen))
        jobs = [job_of(schedule, due) for due in decision.times]
    except InvalidJob as error:
        moved = store.move_schedule(schedule, [], next_at=None, last_at=None, reason=str(error), owner=holding.owner)
        if moved:
            log.event("schedule-stopped", schedule=schedule.name, error=str(error))
        return 0, moved
    reason = said(decision, schedule.catch_up)
    moved = store.move_schedule(schedule, jobs, next_at=decision.next_at, last_at=max(decision.times, default=None), reason=reason, owner=holding.owner)
    if moved:
        newest = jobs[-1].uid if jobs else None
        log.event("schedule-due", schedule=schedule.name, jobs=len(jobs), newest=newest, next=decision.next_at and decision.next_at.isoformat(), reason=reason)
    return len(jobs) if moved else 0, moved


def job_of(schedule: Schedule, due: datetime) -> NewJob:
    """The checked job of one due time. InvalidJob if the row could make none."""
    checked_name(schedule.name)
    return NewJob(schedule.task, schedule.payload, uid(schedule.name, due), queue=schedule.queue, priority=schedule.priority).checked()


def said(decision: Decision, catch_up: str) -> str | None:
    """What a person should know of the last move; None if there is nothing to say."""
    if decision.next_at is None:
        return "the expression has no time after that"
    if not decision.left_out and not decision.more:
        return None
    number = f"{'more than ' if decision.more else ''}{len(decision.times) + decision.left_out:,}"
    return f"{number} times were due, {len(decision.times):,} made into jobs (catch-up {catch_up})"
