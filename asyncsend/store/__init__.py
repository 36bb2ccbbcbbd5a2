"""
The store: the only room that speaks SQL. One protocol, two databases behind it, one contract test over both.

Every method is safe to repeat: when a reply is lost on the wire the store reconnects and asks again, and a fresh token
or the producer's uid tells what the lost statement did. No method leaves a transaction open when it returns.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncsend.channels import Channel
    from asyncsend.store.protocol import (
        Store as Store,  # for `from asyncsend.store import Store`, where it is only a name for the type checker
    )

CLAIMED_PAYLOAD = 16 * 1024  # bytes of each payload that come with a claim; a longer one is read when its job's turn comes, so that a batch of 999 fits any host
OUTCOMES = ("done", "retried", "snoozed", "dead", "held", "cancelled", "released", "late")  # words of the counters
BOUNDS = tuple(0.001 * 2**power for power in range(20))  # seconds: of the histogram of executions, 1 ms to 9 minutes
COUNTED = ("claimed", "done", "retried", "snoozed", "dead", "held", "cancelled", "released", "rescued", "replayed", "late")


class Standing(NamedTuple):
    """How things stand before a run takes over, read in one statement by the database clock."""

    now: datetime
    schema_version: int | None
    status: str
    owner: str | None
    alive: bool  # the owner's lease has not run out
    generation: int
    lock_id: str | None
    host: str | None
    pid: int | None
    started_at: datetime | None
    previous_started_at: datetime | None
    lease_until: datetime | None
    finished_at: datetime | None
    stopped: str | None
    lock_held: int
    pruned_at: datetime | None
    running_jobs: bool  # rows in state running: a dead run's, if nobody holds the status row
    pauses: int
    open_batches: bool  # sealed, and not finished: something may follow
    schedules_due: bool
    alerts_due: bool  # nobody looked for causes of alerts in the last minutes


class Settled(NamedTuple):
    """What became of a group of settlements."""

    accepted: int
    late: tuple[int, ...] = ()  # ids whose claim was no longer ours: nothing was written for them
    channels: tuple[Channel, ...] = ()  # that were stopped or opened by this


def open_store(url: str, prefix: str, clock: Callable[[], float] | None = None) -> Store:
    """
    The store behind `url`; nothing is connected before the first question.

    `clock` (seconds since 1970) stands in for the database clock of SQLite, which has none of its own; MySQL ignores it.
    ConfigurationError if the URL is of neither kind.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from asyncsend.store.sqlite import SQLiteStore

        return SQLiteStore(url, prefix, clock)
    if scheme in ("mysql", "mariadb"):
        from asyncsend.store.mysql import MySQLStore

        return MySQLStore(url, prefix)
    from asyncsend.errors import ConfigurationError

    raise ConfigurationError(f"ASYNCSEND_DATABASE_URL starts with {scheme!r}: write mysql://user:password@localhost/database or sqlite:///path")
