"""
Turns: which of the jobs that a run has claimed may go now, and when the others may expect to.

A job takes a turn in each channel that has a limit and lies on its way: the account (`email`, `sms`), the domain of the address
(`to:gmail.com`), the host of a webhook. If one of them is full it takes none, and is moved to when it may expect one; nothing is charged.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from asyncsend import outcome as outcomes
from asyncsend.channels import EMAIL, SMS, has_one, of_job, parted
from asyncsend.config import limit_of
from asyncsend.job import members_of
from asyncsend.queues import named, rank
from asyncsend.quotas import QUIET, QUOTA, spoken
from asyncsend.store.rows import Turn
from asyncsend.times import left_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from asyncsend.config import Settings
    from asyncsend.job import Job
    from asyncsend.outcome import Outcome
    from asyncsend.quotas import Quota
    from asyncsend.status import Holding
    from asyncsend.store import Store

LONGEST_CATCH_UP = 3600.0  # seconds of turns that are made up for where cron comes seldom
EARLY = 20  # jobs of each queue that are called when a turn is free and they wait for later ones


class Turns:
    """Those of one run; `clock` counts seconds."""

    def __init__(self, store: Store, settings: Settings, holding: Holding, order: Sequence[str], clock: Callable[[], float]) -> None:
        self.store, self.settings, self.holding, self.order, self.clock = store, settings, holding, order, clock
        self._soonest = 0.0  # when the first of those that wait may go; past: the store has to be asked
        self._began = clock()
        seen = holding.seen
        gap = (seen.now - seen.started_at).total_seconds() if seen.started_at else 0.0
        self._catch_up = min(LONGEST_CATCH_UP, gap)
        self._urgent = urgent(order)
        self._hours: dict[str, tuple[str | None, float | None]] = {}  # of batches
        self._asked = 0.0
        self._asked_for: set[str] = set()  # batches that were met before their hours were asked for
        self._tidied = self._called = False

    def instead(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        """What becomes of those of these jobs that may not go now, by id; the others have their turns, and it is written that they have."""
        found = self._of_batches(jobs)
        if not self.settings.metered:
            return found
        if not self._tidied:
            self.store.tidy_quotas(self.holding.owner)
            self._tidied = True
        limits: dict[str, Quota] = {}
        wanted = []
        for job in jobs:
            if job.id not in found and has_one(job.task):
                mine = self._limits_of(job)
                limits |= mine
                if mine:
                    wanted.append(Turn(job.id, named(job.queue), (rank(job.queue, self.order) or 0) < self._urgent, tuple(mine), job.reason == QUOTA))
        if not wanted:
            return found
        waits = self.store.turns(wanted, limits, self.settings.reserve, self._catch_up, self.holding.owner)
        for turn in wanted:
            if waits[turn.job_id] > 0:
                words = "; ".join(f"{name} takes {spoken(limits[name])}" for name in turn.channels)
                found[turn.job_id] = outcomes.snooze(math.ceil(waits[turn.job_id] * 10) / 10, QUOTA, f"it waits for its turn: {words}")
                self._soonest = 0.0
        return found

    def call_early(self, queues: Sequence[str]) -> int:
        """
        Once a run, when nothing is due: those that were promised later turns than there are now, for others were cancelled; how many.

        The settings may allow more by now, too.
        """
        if self._called or not self.settings.metered:
            return 0
        self._called = True
        fixed = {name: quota for name, quota in ((EMAIL, self.settings.email_limit), (SMS, self.settings.sms_limit)) if quota and self.store.has_promised(name)}
        if not fixed or not any(meter.idle for meter in self.store.meters(fixed).values()):
            return 0
        return self.store.early(queues, EARLY, QUOTA, self.holding.owner)

    def next_in(self, queues: Sequence[str]) -> float | None:
        """In how many seconds the first of those in these queues that wait has its turn, promised by this run or an earlier one; None if nobody waits."""
        if self._soonest <= self.clock():
            wait = self.store.next_turn(queues, QUOTA)
            self._soonest = float("inf") if wait is None else self.clock() + wait
        return None if self._soonest == float("inf") else self._soonest - self.clock()

    def quiet(self, queues: Sequence[str]) -> set[str]:
        """Those of these queues whose jobs are not started at this time of the day."""
        return {named(queue) for queue in queues if quiet_left(self.settings, queue, self._now()) > 0}

    def _of_batches(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        met = {job.batch_id for job in jobs if job.batch_id}
        if not met:
            return {}
        if not met <= self._asked_for:
            self._hours, self._asked = self.store.batch_hours(), self.clock()
            self._asked_for |= met
        found: dict[int, Outcome] = {}
        for job in jobs:
            quiet, deadline = self._hours.get(job.batch_id or "", (None, None))
            if deadline is not None and deadline <= self.clock() - self._asked:
                found[job.id] = outcomes.cancel("deadline", f"the deadline of its batch {job.batch_id} passed before it could start")
            elif quiet and (left := left_of(quiet, self._now(), self.settings.timezone)):
                found[job.id] = outcomes.snooze(left, QUIET, f"its batch {job.batch_id} is not sent from {quiet.replace('-', ' to ')}")
        return found

    def _limits_of(self, job: Job) -> dict[str, Quota]:
        """Of each channel on its way that has one."""
        if job.unread and (self.settings.domain_limit or self.settings.webhook_limit):
            job.payload, job.unread = self.store.payload(job.id, job.token or "") or "", False
        return limits_of(self.settings, job)

    def _now(self) -> datetime:
        """The database's, which was asked when the run began."""
        return self.holding.seen.now + timedelta(seconds=self.clock() - self._began)


def limits_of(settings: Settings, job: Job) -> dict[str, Quota]:
    """The channels on this job's way that have a limit."""
    if job.task == SMS:
        return {SMS: settings.sms_limit} if settings.sms_limit else {}
    if job.task != EMAIL:
        name = of_job(job) if settings.webhook_limit else None
        limit = limit_of(settings.webhook_limit, name.removeprefix("host:")) if name else None
        return {name: limit} if name and limit else {}
    found = {EMAIL: settings.email_limit} if settings.email_limit else {}
    if settings.domain_limit and (domain := _domain(job)) and (limit := limit_of(settings.domain_limit, domain)):
        found[f"to:{domain}"] = limit
    return found


def limit_named(settings: Settings, name: str) -> Quota:
    """The limit of a channel by its name; empty if it has none."""
    if name in (EMAIL, SMS):
        return settings.email_limit if name == EMAIL else settings.sms_limit
    kind, _, rest = name.partition(":")
    return limit_of(settings.domain_limit if kind == "to" else settings.webhook_limit, rest) or ()


def urgent(order: Sequence[str]) -> int:
    """Queues of a lower rank than this are urgent: those before `default`, or where that has no place of its own, before the others."""
    return rank("default", order) or 0


def quiet_left(settings: Settings, queue: str, now: datetime) -> float:
    """Seconds for which jobs of this queue are not started; 0 if they are."""
    hours = limit_of(settings.quiet_hours, named(queue))
    return left_of(hours, now, settings.timezone) if hours else 0.0


def _domain(job: Job) -> str | None:
    try:
        to = members_of(job.payload).get("to")
    except ValueError:
        return None
    domain = parted(to)[1] if isinstance(to, str) else ""
    return domain if 0 < len(domain) <= 180 and domain.isprintable() else None
