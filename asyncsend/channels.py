"""
Channels: ways out that can be stopped for a while. Today each host that webhooks go to is one, `host:api.example.com`.

A channel that fails FAILURES times in a row is stopped, for a minute at first and for twice as long each time, up to an hour.
Then one job may try it: its success opens the channel, its failure stops it again. What decides is pure, and is decided twice:
in the run at once, so that the next job is not sent, and in the store, in the transaction that writes what became of the job.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from asyncsend import job as outcomes
from asyncsend.job import members_of, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncsend.job import Job, Outcome

FAILURES = 5  # in a row
FIRST_STOP, LONGEST_STOP = 60.0, 3600.0  # seconds
LONGEST_WISH = 86400.0  # of a receiver that asks to be left alone
TRIAL = 60.0  # seconds that the others wait while one job tries; only where several workers are at work
BREAKER = "breaker-open"  # the reason of a job that was not sent because its channel was stopped
DELIVERY = "webhook."  # a task of this name is sent to the address of the subscription whose name follows
_NAME = re.compile(r"host:[a-z0-9._:\[\]-]{1,180}")


class Channel(NamedTuple):
    """How it stands with a channel; one that has no trouble has no row."""

    name: str
    failures: int = 0  # in a row
    stops: int = 0  # how often it was stopped for them, in a row
    left: float | None = None  # seconds for which it stays stopped; 0 or less: one job may try it; None: it is not stopped
    reason: str | None = None


def after(channel: Channel, outcome: Outcome) -> Channel:
    """The channel after an execution that took it."""
    if not outcome.troubled:
        return Channel(channel.name)
    failures, stops, left = channel.failures + 1, channel.stops, channel.left
    wait = min(max(0.0, outcome.leave_alone or 0.0), LONGEST_WISH)
    if failures >= FAILURES and (left is None or left <= 0):  # what was under way when it was stopped does not stop it again
        wait = max(wait, min(LONGEST_STOP, FIRST_STOP * 2 ** min(stops, 10)))
        stops += 1
    if wait > 0:
        left = max(wait, left or 0.0)
    why = f"{failures} {'failure' if failures == 1 else 'failures in a row, the last'}: {outcome.error or outcome.reason}"
    return Channel(channel.name, failures, stops, left, printable(why, 180))


def has_one(task: str) -> bool:
    """Whether jobs of this task take a channel."""
    return task == "webhook" or task.startswith(DELIVERY)


def of_url(url: str) -> str | None:
    """
    The channel of an address: its host, and its port if that is not the usual one; None if it names no host.

    >>> of_url("https://API.example.com/in?a=b"), of_url("http://127.0.0.1:8080/")
    ('host:api.example.com', 'host:127.0.0.1:8080')
    """
    from urllib.parse import urlsplit

    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
        if not host.isascii():
            import idna  # as requests does

            host = idna.encode(host, uts46=True).decode()
    except ValueError:
        return None
    usual = {"https": 443, "http": 80}.get(split.scheme)
    name = f"host:{f'[{host}]' if ':' in host else host}{f':{port}' if port not in (None, usual) else ''}"
    return name if _NAME.fullmatch(name) else None


def of_job(job: Job) -> str | None:
    """The channel that a job would take."""
    if job.endpoint is not None:
        return of_url(job.endpoint["url"])
    try:
        url = members_of(job.payload).get("url")
    except ValueError:
        return None
    return of_url(url) if isinstance(url, str) else None


class Channels:
    """What the present run knows of channels, from `table`, which is asked at the first job that takes one, and from its own jobs; `clock` counts seconds."""

    def __init__(self, table: Callable[[], Iterable[Channel]], clock: Callable[[], float]) -> None:
        self.table, self.clock = table, clock
        self._asked = False
        self._known: dict[str, tuple[Channel, float]] = {}  # and when that was so
        self._trying: dict[str, int] = {}  # channel: the job that tries it
        self._gone: dict[str, str] = {}  # subscription: why its address is no more

    def instead(self, job: Job) -> Outcome | None:
        """The outcome of a job that must not be sent now; None if it may be. Payloads are only looked into while some channel is stopped."""
        if not has_one(job.task):
            return None
        if not self._asked:
            self._known, self._asked = {row.name: (row, self.clock()) for row in self.table()}, True
        why = self._gone.get(job.task.removeprefix(DELIVERY)) if job.task.startswith(DELIVERY) else None
        if why is not None:
            return outcomes.cancel("subscription-disabled", why)
        if all(row.left is None for row, _ in self._known.values()):
            return None
        name = of_job(job)
        channel = self._now(name) if name else None
        if name is None or channel is None or channel.left is None:
            return None
        if channel.left <= 0 and self._trying.setdefault(name, job.id) == job.id:
            return None
        words = f"{name} is {'stopped' if channel.left > 0 else 'being tried by another job'} ({channel.reason}); `asyncsend resume {name}` opens it"
        return outcomes.snooze(channel.left if channel.left > 0 else TRIAL, BREAKER, words)

    def heard(self, job: Job, outcome: Outcome) -> None:
        """Learn from what became of a job."""
        for name in [name for name, trying in self._trying.items() if trying == job.id]:
            del self._trying[name]
        if outcome.gone:
            self._gone[outcome.gone] = outcome.error or ""
        if outcome.channel:
            learnt = after(self._now(outcome.channel) or Channel(outcome.channel), outcome)
            self._known.pop(outcome.channel, None)
            if learnt.failures:
                self._known[learnt.name] = (learnt, self.clock())

    def _now(self, name: str) -> Channel | None:
        row, at = self._known.get(name, (None, 0.0))
        if row is None or row.left is None:
            return row
        return row._replace(left=row.left - (self.clock() - at))
