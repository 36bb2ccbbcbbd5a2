"""Jobs made of rows: by the claim, by the rescue, and for a person who reads them."""

from __future__ import annotations

from typing import Any

from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.store.connection import as_hex, as_text, as_time, is_zero_date
from asyncsend.times import boot_clock


def claimed(row: tuple[Any, ...], token: str, run_id: int) -> Job:
    """Of a row that `claim` (sql.py) has read; `expired` and `expires_by` by the database's clock at that moment."""
    expires_at, now = row[7], row[13]
    job = Job(row[0], row[2], as_text(row[3]) or "", as_text(row[1]), row[4], row[5], max_attempts=row[8], timeout_seconds=row[9])
    job.state, job.token, job.run_id = State.RUNNING, token, run_id
    job.attempts, job.crashes, job.created_at, job.unread = row[10], row[11], as_time(row[12]), row[3] is None
    job.batch_id, job.order_key, job.concurrency_key, job.reason = map(as_text, row[14:])
    if is_zero_date(row[6]) or is_zero_date(expires_at):
        job.trouble = "run_at" if is_zero_date(row[6]) else "expires_at"
    elif (expires := as_time(expires_at)) and (moment := as_time(now)):
        left = (expires - moment).total_seconds()
        job.expired, job.expires_by = left <= 0, boot_clock() + left
    return job


def read(row: tuple[Any, ...]) -> Job:
    """Of a row with the columns that a person gets (people.py)."""
    return Job(
        id=row[0], uid=as_text(row[1]), task=row[2], payload=as_text(row[3]) or "", queue=row[4], priority=row[5], run_at=as_time(row[6]),
        expires_at=as_time(row[7]), max_attempts=row[8], timeout_seconds=row[9], unique_key=as_text(row[10]), batch_id=as_text(row[11]),
        state=State(row[12]), attempts=row[13], crashes=row[14], token=as_hex(row[15]), run_id=row[16], started_at=as_time(row[17]),
        created_at=as_time(row[18]), finished_at=as_time(row[19]), reason=as_text(row[20]), error=as_text(row[21]), result=as_text(row[22]),
        order_key=as_text(row[23]), concurrency_key=as_text(row[24]),
    )  # fmt: skip


def left_over(row: tuple[Any, ...]) -> Job:
    """Of a row that `running` (sql.py) has read: without its payload."""
    return Job(
        id=row[0], uid=as_text(row[1]), task=row[2], payload="", token=as_hex(row[3]), run_id=row[4], attempts=row[5], crashes=row[6],
        started_at=as_time(row[7]), queue=row[8], reason=as_text(row[9]), state=State.RUNNING,
    )  # fmt: skip
