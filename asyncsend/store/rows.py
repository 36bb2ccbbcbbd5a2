"""
What the store answers with, beside what each run needs: rows as they are read.

Named tuples, for to make such a class costs a tenth of what a dataclass does; in a room of their own, which is entered with the first such row, for an
empty minute reads none.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from asyncsend.outcome import State


class BatchRow(NamedTuple):
    """A batch as a person sees it; `counts` has a number for every state, pruned jobs included."""

    uid: str
    name: str
    allow_failures: bool
    created_at: datetime | None
    sealed_at: datetime | None
    started_at: datetime | None
    caught_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None
    shown: int  # the highest percentage that was shown: progress never goes back
    counts: dict[str, int]
    reason: str | None
    now: datetime  # by the database clock


class OpenBatch(NamedTuple):
    """A batch that a run has to look after: sealed, and not finished. The followers are JSON as the row has it."""

    uid: str
    allow_failures: bool
    then_job: str | None
    catch_job: str | None
    finally_job: str | None
    caught: bool
    cancelled: bool
    has_left: bool
    has_dead: bool
    pruned: int
    progress: int  # as it was noted, and where it is pushed, pushed
    push: str | None
    push_due: bool


class RunRow(NamedTuple):
    """One line of the history: what a run did and why it stopped."""

    id: int
    generation: int
    host: str
    pid: int
    started_at: datetime
    finished_at: datetime | None
    stopped: str | None
    counts: dict[str, int]
    workers: int
    worked: float  # seconds of execution


class Schedule(NamedTuple):
    """What recurs: a cron expression in a zone, the job it makes, and where it stands."""

    name: str
    cron: str
    tz: str
    task: str
    payload: str
    queue: str = "default"
    priority: int = 0
    catch_up: str = "one"  # one | all | none
    paused: bool = False
    next_at: datetime | None = None  # None: makes nothing more, and `reason` says why
    last_at: datetime | None = None  # the newest due time that became a job
    created_at: datetime | None = None
    reason: str | None = None

    @property
    def definition(self) -> tuple[str | int, ...]:
        """What a person said it to be."""
        return (self.cron, self.tz, self.task, self.payload, self.queue, self.priority, self.catch_up)


class Depth(NamedTuple):
    """How many jobs of one queue are in one state that is not the end; 10,001 are more than 10,000. For ready ones, how many are due and since when the oldest is."""

    queue: str
    state: State
    jobs: int
    due: int = 0
    later: int = 0
    oldest_due: datetime | None = None


class Attempt(NamedTuple):
    """What became of one attempt of a job; the numbers go on when the job is replayed."""

    number: int
    ended_at: datetime | None
    run: int | None  # generation of the run that had claimed it
    seconds: float
    became: str  # retried | snoozed | dead | held | cancelled | crashed
    reason: str | None
    error: str | None  # cut; the whole of the last one is in the job


class Receipt(NamedTuple):
    """What a gateway reports of a message that it took."""

    provider: str
    message: str  # the provider's id of it
    status: str  # queued | sent | undelivered | failed | delivered
    error: str | None  # the provider's code
    at: datetime | None


class Which(NamedTuple):
    """Which jobs a person means: None is any. The times, seconds since 1970, are of a job's end; while it has none, of its beginning."""

    state: str | None = None
    queue: str | None = None
    task: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None


class Counted(NamedTuple):
    """What runs have settled of one queue and task: OUTCOMES → number, seconds of execution, and how long executions took (one number for each of BOUNDS, then the longer ones)."""

    queue: str
    task: str
    counts: dict[str, int]
    seconds: float
    histogram: tuple[int, ...]


class Utilisation(NamedTuple):
    """What the runs that had work did with their time; all seconds."""

    runs: int
    took: float
    capacity: float  # times their workers
    worked: float


class Silence(NamedTuple):
    """Seconds since the last run started, or since the tables were made if none ever did."""

    seconds: float
    ever: bool  # a run was started at least once
    alive: bool  # one is at work
    ticks: list[float]


class AlertRow(NamedTuple):
    """A cause of trouble and what was said about it."""

    cause: str
    since: datetime | None
    sent_at: datetime | None
    over_at: datetime | None
    times: int
    said: str | None


class Consumer(NamedTuple):
    """What publish needs of a subscription."""

    name: str
    topic: str
    task: str
    queue: str
    payload: str | None


class Subscription(NamedTuple):
    """Who wants which events, as a person may see it."""

    name: str
    topic: str  # a pattern
    task: str
    queue: str = "default"
    payload: str | None = None  # a template; None: the event's data as it is
    url: str | None = None
    secrets: int = 0  # how many there are
    disabled_at: datetime | None = None
    reason: str | None = None
    created_at: datetime | None = None


class StoppedChannel(NamedTuple):
    """A channel that nothing is sent through before that moment."""

    name: str
    until: datetime | None
    reason: str


class Turn(NamedTuple):
    """A claimed job that wants one in each of these channels."""

    job_id: int
    queue: str
    urgent: bool
    channels: tuple[str, ...]
    again: bool = False  # it was promised one before


class Suppression(NamedTuple):
    """An address that nothing is sent to, or nothing of one mailing list; the database says since when if nobody does."""

    kind: str  # email | sms
    address: str
    list: str = ""  # of which mailing list; empty: of all
    reason: str = "manual"  # hard | complaint | unsubscribed | manual
    source: str | None = None  # who said so
    since: datetime | None = None
