"""
Every statement about delivery receipts. Functions, not a part of the store: a run that sends no SMS need not import them.

A receipt may come twice, late, or before another that was sent earlier: `step` says how far it is, and only a farther one is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.outcome import State
from asyncsend.store.connection import Duplicate, as_text, as_time, resolved
from asyncsend.store.rows import Receipt

if TYPE_CHECKING:
    from datetime import datetime

STEPS = {"queued": 1, "sent": 2, "undelivered": 3, "failed": 3, "delivered": 4}


@resolved
def note(store: Any, provider: str, message: str, job_key: str, status: str, error: str | None) -> None:
    """Write one down; it must be of ASCII, and as long as the columns."""
    values = {"provider": provider, "message": message, "job_key": job_key, "status": status, "step": STEPS[status], "error": error}
    try:
        store._write(
            "INSERT INTO asyncsend_receipts (provider, message, job_key, status, step, error, changed_at)"
            " VALUES (:provider, :message, :job_key, :status, :step, :error, NOW(6))",
            **values,
        )
    except Duplicate:
        store._write(
            "UPDATE asyncsend_receipts SET status = :status, step = :step, error = :error, changed_at = NOW(6)"
            " WHERE provider = :provider AND message = :message AND step < :step",
            **values,
        )


@resolved
def of_job(store: Any, job_key: str) -> list[Receipt]:
    """What is known of a job's messages, the newest last: a long text, or one that was sent again, has several."""
    rows = store._rows("SELECT provider, message, status, error, changed_at FROM asyncsend_receipts WHERE job_key = :job_key ORDER BY id LIMIT 100", job_key=job_key)
    return [Receipt(str(as_text(row[0])), str(as_text(row[1])), str(as_text(row[2])), as_text(row[3]), as_time(row[4])) for row in rows]


@resolved
def messages_since(store: Any, since: datetime) -> set[str]:
    """The results of `sms` jobs that were done since then: which messages are known to belong to another job."""
    rows = store._rows(
        "SELECT result FROM asyncsend_jobs /*by end*/ WHERE finished_at >= FROM_UNIXTIME(:since) AND task = 'sms' AND state = 'done' AND result IS NOT NULL",
        since=since.timestamp(),
    )
    return {str(as_text(row[0])) for row in rows}


@resolved
def was_sent(store: Any, job_id: int, result: str) -> bool:
    """A held job is done after all, for its gateway has the message; False if it is not held any more."""
    with store._transaction():
        changed = store._write(
            "UPDATE asyncsend_jobs /*by key*/ SET state = :done, finished_at = NOW(6), unique_slot = NULL, lane = '', reason = 'reconciled', error = NULL, result = :result"
            " WHERE id = :id AND (state = 'held' OR (state = 'done' AND result = :result))",  # the latter where the reply to a first try was lost
            id=job_id, result=result, done=State.DONE.value,
        )  # fmt: skip
        store._let_next([job_id])
    return bool(changed == 1)
