"""
Channels: ways out that can be stopped for a while: the mail account `email`, the SMS account `sms`, and each host that webhooks go to, `host:api.example.com`.

What an outcome says of its channel is one of four things.
- It is in trouble: not reached, no reply, overloaded. FAILURES in a row stop it, for a minute at first and for twice as long each time, up to an hour.
- It is broken: nothing gets through before somebody mends our account. That stops it at once, in the same steps.
- It wants to be left alone for so long: the host's limit, or Retry-After. A policy that refuses a job may mean all of them, too; once others have passed, it does not.
- This job has failed, and hosts count that: bounces and deferrals, of which MOST_FAILED within their window stop the channel until the oldest of them has left it.
Then one job may try it: its success opens the channel, its failure stops it again. What decides is pure, and is decided twice:
in the run at once, so that the next job is not sent, and in the store, in the transaction that writes what became of the job.
How much may go through a channel that works is in quotas.py.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from asyncsend import outcome as outcomes
from asyncsend.job import members_of
from asyncsend.quotas import Window
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncsend.job import Job
    from asyncsend.outcome import Outcome

EMAIL, SMS = "email", "sms"  # the channels that a setting names; each has one account
FAILURES = 5  # in a row
FIRST_STOP, LONGEST_STOP = 60.0, 3600.0  # seconds
LONGEST_WISH = 86400.0  # of a receiver that asks to be left alone
MOST_FAILED = Window(3, 3600.0)  # mails an hour: cPanel stops the whole domain at five (docs/channels.md)
PATIENT = 24  # troubles in a row; one that is refused again after so many is dead, though nobody has passed
SPARED = 86400.0  # seconds for which it is remembered that a policy refused a job and others passed
BREAKER = "breaker-open"  # the reason of a job that was not sent because its channel was stopped
REFUSED_ONCE = "smtp-policy"  # the reason of one that is dead if it is refused again; so it stays, whatever the job has to wait for meanwhile
# And of the one that was refused when it was stopped.
OF_ACCOUNT = ("smtp-limit", REFUSED_ONCE, "smtp-login", "smtp-tls", "email-limit", "email-account", "sms-limit", "sms-account")
_SENDERS = (EMAIL, SMS, "webhook")
DELIVERY = "webhook."  # a task of this name is sent to the address of the subscription whose name follows
_NAME = re.compile(r"host:[a-z0-9._:\[\]-]{1,180}")


class Channel(NamedTuple):
    """How it stands with a channel; one that has no trouble has no row."""

    name: str
    failures: int = 0  # troubles in a row
    stops: int = 0  # how often it was stopped for them, in a row
    left: float | None = None  # seconds for which it stays stopped; 0 or less: one job may try it; None: it is not stopped
    reason: str | None = None
    failed: tuple[float, ...] = ()  # so many seconds ago a job failed, the newest first; of the window that is counted
    refused: float | None = None  # so many seconds ago a policy refused a job; None: not for a day

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with it, whatever is remembered."""
        return not self.failures and not self.failed and self.left is None


def after(channel: Channel, outcome: Outcome, most: Window | None = None) -> Channel:
    """The channel after an execution that took it; `most` is how many of its jobs may fail in which time."""
    failed = channel.failed
    if outcome.failed and most:
        failed = (0.0, *failed)[: most.number]
    if not outcome.troubled:
        late = channel.left is not None and channel.left > 0  # it was under way when the channel was stopped
        channel = channel._replace(failed=failed) if late else Channel(channel.name, failed=failed, refused=channel.refused)
        if outcome.failed and most and len(failed) >= most.number:
            wait = max(most.seconds - failed[-1], channel.left or 0.0)
            why = f"{most.number} jobs failed within {most.seconds / 60:g} minutes, and hosts stop all mail at a few more; the last: {outcome.error or outcome.reason}"
            channel = channel._replace(left=wait, reason=printable(why, 180))
        return channel
    failures, stops, left = channel.failures + 1, channel.stops, channel.left
    by_policy = outcome.reason == REFUSED_ONCE
    wait = min(max(0.0, outcome.leave_alone or 0.0), LONGEST_WISH)
    if by_policy and left is None and channel.refused is not None:  # a policy stopped it, and others passed: this is about the job, unless none passes any more
        wait = 0.0 if failures < FAILURES else wait
    if (failures >= FAILURES or outcome.broken) and (left is None or left <= 0):  # what was under way when it was stopped does not stop it again
        wait = max(wait, min(LONGEST_STOP, FIRST_STOP * 2 ** min(stops, 10)))
        stops += 1
    if wait > 0:
        left = max(wait, left or 0.0)
    why = f"{failures} {'failure' if failures == 1 else 'failures in a row, the last'}: {outcome.error or outcome.reason}"
    return Channel(channel.name, failures, stops, left, printable(why, 180), failed, 0.0 if by_policy else channel.refused)


def has_one(task: str) -> bool:
    """Whether jobs of this task take a channel."""
    return task in _SENDERS or task.startswith(DELIVERY)


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


def parted(address: str) -> tuple[str, str]:
    """
    What stands before and after the @ of an address, with or without a name; the domain in ASCII and small letters, '' if it has none.

    >>> parted("Ann <Ann@Example.com>"), parted("+33 6 12"), parted("bob@bücher.example")
    (('Ann', 'example.com'), ('+33 6 12', ''), ('bob', 'xn--bcher-kva.example'))
    """
    spec = address.strip()
    if spec.endswith(">"):
        spec = spec[:-1].rpartition("<")[2].strip()
    local, at, domain = spec.rpartition("@")
    if not at:
        return spec, ""
    if not domain.isascii():
        import idna

        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except ValueError:
            return local, ""
    return local, domain.strip().lower()


def of_job(job: Job) -> str | None:
    """The channel that a job would take."""
    if job.task in (EMAIL, SMS):
        return job.task
    if job.endpoint is not None:
        return of_url(job.endpoint["url"])
    try:
        url = members_of(job.payload).get("url")
    except ValueError:
        return None
    return of_url(url) if isinstance(url, str) else None


class Channels:
    """
    What the present run knows of channels, from `table`, which is asked at the first job that takes one, and from its own jobs; `clock` counts seconds.

    Payloads are only looked into while some channel has trouble.
    """

    def __init__(self, table: Callable[[], Iterable[Channel]], clock: Callable[[], float], most_failed: Window | None = MOST_FAILED) -> None:
        self.table, self.clock, self.most_failed = table, clock, most_failed
        self._asked = False
        self._known: dict[str, tuple[Channel, float]] = {}  # and when that was so
        self._gone: dict[str, str] = {}  # subscription: why its address is no more

    def instead(self, job: Job) -> Outcome | None:
        """The outcome of a job that must not be sent now; None if it may be, by and by."""
        why = self._gone.get(job.task.removeprefix(DELIVERY)) if self._gone and job.task.startswith(DELIVERY) else None
        if why is not None:
            return outcomes.cancel("subscription-disabled", why)
        channel = self.troubled(job)
        if channel is None or channel.left is None or channel.left <= 0:
            return None
        return outcomes.snooze(math.ceil(channel.left), BREAKER, f"{channel.name} is stopped ({channel.reason}); `asyncsend resume {channel.name}` opens it")

    def troubled(self, job: Job) -> Channel | None:
        """The channel that a job would take, if something is wrong with it."""
        if not has_one(job.task):
            return None
        if not self._asked:
            self._known, self._asked = {row.name: (row, self.clock()) for row in self.table()}, True
        if not self._known:
            return None
        name = of_job(job)
        found = self._now(name) if name else None
        return None if found is None or found.sound else found

    def forgive(self, job: Job) -> None:
        """Let a job whose refusal by a policy may have been about all of them be refused as if for the first time: nobody has passed since."""
        if job.reason == REFUSED_ONCE and (channel := self.troubled(job)) and channel.left is not None and channel.failures < PATIENT:
            job.reason = None

    def at_once(self, channel: Channel) -> int:
        """How many jobs may be under way in a channel with which something is wrong: only as many as could fail without harm."""
        if channel.failures or not self.most_failed:
            return 1
        return max(1, self.most_failed.number - len(channel.failed))

    def heard(self, job: Job, outcome: Outcome) -> Outcome:
        """Learn from what became of a job; the outcome, with the name of its channel if that is to be written down."""
        if outcome.gone:
            self._gone[outcome.gone] = outcome.error or ""
        if outcome.verb == "finish" and outcome.channel is None and (channel := self.troubled(job)):
            outcome = outcome._replace(channel=channel.name)
        if outcome.channel:
            learnt = after(self._now(outcome.channel) or Channel(outcome.channel), outcome, self.counted(outcome.channel))
            self._known.pop(outcome.channel, None)
            if learnt != Channel(learnt.name):
                self._known[learnt.name] = (learnt, self.clock())
        return outcome

    def counted(self, name: str) -> Window | None:
        """How many of a channel's jobs may fail in which time."""
        return self.most_failed if name == EMAIL else None

    def _now(self, name: str) -> Channel | None:
        row, at = self._known.get(name, (None, 0.0))
        if row is None:
            return None
        gone, most = self.clock() - at, self.counted(name)
        return row._replace(
            left=None if row.left is None else row.left - gone, failed=tuple(ago + gone for ago in row.failed if most and ago + gone < most.seconds),
            refused=None if row.refused is None or row.refused + gone >= SPARED else row.refused + gone,
        )
