"""
Every statement about attempts: what became of those that did not simply finish, the last KEPT of each job.

A row is written in the transaction that settles its claim, and a claim is settled once: so no kill and no repeat writes it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.store.connection import SqlConnection, as_text, as_time, resolved, storable
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncsend.outcome import Outcome, Settlement
    from asyncsend.store.rows import Attempt

KEPT = 20  # rows of a job: its primary key has no room for more, however often it is snoozed
LONGEST_ERROR = 500  # characters; the whole of the last one is in the job
MOST_BYTES = 250_000  # of errors in one INSERT: it must fit the smallest max_allowed_packet
_BECAME = {"retry": "retried", "snooze": "snoozed", "bury": "dead", "hold": "held", "cancel": "cancelled", "release": "crashed"}


def is_told(outcome: Outcome) -> bool:
    """Whether it gets a row: not what finished, which the job itself says, and not what was given back untouched or never sent, for its time had not come."""
    if outcome.verb in ("finish", "release"):
        return outcome.crashed
    from asyncsend.channels import BREAKER
    from asyncsend.quotas import QUIET, QUOTA

    return outcome.crashed or outcome.reason not in (BREAKER, QUOTA, QUIET)


class AttemptStatements(SqlConnection):
    """The part of the store that knows attempts."""

    def _record(self, settlements: Sequence[Settlement]) -> None:
        """One question and one INSERT for all of them, inside the transaction that has settled them; few have errors so long that it takes two."""
        known = self._rows(
            "SELECT id, run_id, (SELECT COALESCE(MAX(number), 0) FROM asyncsend_attempts a WHERE a.job_id = j.id) FROM asyncsend_jobs j WHERE id IN :ids",
            ids=sorted(settlement.job_id for settlement in settlements),
        )
        last = {job_id: (run_id, number) for job_id, run_id, number in known}
        rows: list[dict[str, Any]] = []
        size = 0
        for settlement in settlements:
            outcome, (run_id, number) = settlement.outcome, last[settlement.job_id]
            error = storable(printable(outcome.error, LONGEST_ERROR)[:LONGEST_ERROR]) if outcome.error else None
            size += len(error.encode()) if error else 0
            if size > MOST_BYTES and rows:
                self._put(rows)
                rows, size = [], len(error.encode()) if error else 0
            rows.append({
                "job": settlement.job_id, "slot": (number + 1) % KEPT, "number": number + 1, "run": run_id, "seconds": outcome.seconds,
                "became": _BECAME[outcome.verb], "reason": outcome.reason, "error": error,
            })  # fmt: skip
        self._put(rows)

    def _put(self, rows: Sequence[dict[str, Any]]) -> None:
        values = ", ".join(f"(:job{n}, :slot{n}, :number{n}, NOW(6), :run{n}, :seconds{n}, :became{n}, :reason{n}, :error{n})" for n in range(len(rows)))
        self._write(
            f"INSERT INTO asyncsend_attempts (job_id, slot, number, ended_at, run_id, seconds, became, reason, error) VALUES {values}"
            " ON DUPLICATE KEY UPDATE number = VALUES(number), ended_at = VALUES(ended_at), run_id = VALUES(run_id), seconds = VALUES(seconds),"
            " became = VALUES(became), reason = VALUES(reason), error = VALUES(error)",
            **{f"{name}{n}": value for n, row in enumerate(rows) for name, value in row.items()},
        )

    @resolved
    def attempts(self, ids: Sequence[int]) -> dict[int, list[Attempt]]:
        from asyncsend.store.rows import Attempt

        found: dict[int, list[Attempt]] = {job_id: [] for job_id in ids}
        if ids:
            for row in self._rows(
                "SELECT job_id, number, ended_at, run_id, seconds, became, reason, error FROM asyncsend_attempts WHERE job_id IN :ids ORDER BY job_id, number", ids=sorted(ids)
            ):
                found[row[0]].append(Attempt(row[1], as_time(row[2]), row[3], row[4], row[5], as_text(row[6]), as_text(row[7])))
        return found
