"""Rows that a producer makes: as few INSERTs as fit, inside whatever transaction the caller has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncsend.errors import Conflict
from asyncsend.job import printable
from asyncsend.store.connection import Duplicate, Params, as_text, storable

if TYPE_CHECKING:
    from asyncsend.job import NewBatch, NewJob

Rows = Callable[[str, Params], list[tuple[Any, ...]]]


def insert_rows(rows: Rows, jobs: Sequence[NewJob]) -> list[str]:
    """
    The uids of these jobs after as few INSERTs as fit; `rows` executes one statement inside the caller's transaction.

    Where a uid or unique key was taken, the existing job's uid comes back. A plain INSERT, not IGNORE or ON DUPLICATE KEY:
    those hide other errors, and burn ids (measured in FAULTS; MySQL manual, "AUTO_INCREMENT Handling in InnoDB").
    """
    done: set[str] = set()
    chunk: list[NewJob] = []
    size = 0
    try:
        for job in jobs:
            if job.unique_key is not None:
                continue
            more = len(job.payload.encode("utf-8", "replace")) + 300
            if len(chunk) == 500 or (chunk and size + more > 900_000):  # MySQL 5.5's max_allowed_packet was 1 MiB, and some hosts kept it
                _insert_chunk(rows, chunk)
                done |= {one.uid for one in chunk}
                chunk, size = [], 0
            chunk.append(job)
            size += more
        if chunk:
            _insert_chunk(rows, chunk)
            done |= {one.uid for one in chunk}
    except Duplicate:
        pass  # the statement wrote nothing: its rows go one by one, and each finds out for itself
    return [job.uid if job.uid in done else _insert_one(rows, job) for job in jobs]


def insert_batch(rows: Rows, batch: NewBatch, sealed: bool) -> None:
    """Make the row of a batch; Duplicate if its uid is taken."""
    rows(
        "INSERT INTO asyncsend_batches (uid, name, allow_failures, then_job, catch_job, finally_job, sealed_at)"
        " VALUES (:uid, :name, :allow_failures, :then_job, :catch_job, :finally_job, CASE WHEN :sealed = 1 THEN NOW(6) ELSE NULL END)",
        {**batch._asdict(), "allow_failures": int(batch.allow_failures), "sealed": int(sealed)},
    )


def _insert_chunk(rows: Rows, chunk: Sequence[NewJob]) -> None:
    params = {f"{name}{position}": value for position, job in enumerate(chunk) for name, value in _columns(job).items()}
    rows(f"{_INSERT} {', '.join(_VALUES.replace('#', str(position)) for position in range(len(chunk)))}", params)


def _insert_one(rows: Rows, job: NewJob) -> str:
    for _ in range(3):
        try:
            _insert_chunk(rows, [job])
        except Duplicate:
            # A locking read: a plain one in an older snapshot of the app's transaction would not see whom the index saw.
            found = rows("SELECT uid, id FROM asyncsend_jobs WHERE uid = :uid /*as it is now*/", {"uid": job.uid}) or rows(
                "SELECT uid, id FROM asyncsend_jobs WHERE unique_key = :unique_key AND unique_slot = 0 /*as it is now*/", {"unique_key": job.unique_key}
            )
            if found:
                return str(as_text(found[0][0]) or found[0][1])
            # the job that held the key finished in this very moment: it is free again
        else:
            return job.uid
    raise Conflict(f"the unique key {printable(job.unique_key or '', 80)!r} is taken and freed faster than a job can be added: try again")


_INSERT = (
    "INSERT INTO asyncsend_jobs (task, payload, queue, priority, run_at, expires_at, max_attempts, timeout_seconds, unique_key, uid, batch_id) VALUES"
)
_VALUES = (
    "(:task#, :payload#, :queue#, :priority#, COALESCE(FROM_UNIXTIME(:run_at#), FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :delay#)),"
    " COALESCE(FROM_UNIXTIME(:expires_at#), FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :expires_in#)),"
    " :max_attempts#, :timeout_seconds#, :unique_key#, :uid#, :batch_id#)"
)


def _columns(job: NewJob) -> dict[str, Any]:
    return {
        "task": job.task, "payload": storable(job.payload), "queue": job.queue, "priority": job.priority, "run_at": job.run_at,
        "delay": job.delay or 0, "expires_at": job.expires_at, "expires_in": job.expires_in, "max_attempts": job.max_attempts,
        "timeout_seconds": job.timeout_seconds, "unique_key": job.unique_key, "uid": job.uid, "batch_id": job.batch_id,
    }  # fmt: skip
