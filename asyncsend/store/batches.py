"""Every statement about batches. What is left of one is counted from its jobs: a stored number would be wrong after the first kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.outcome import State
from asyncsend.store.connection import WHILE_OURS, Duplicate, SqlConnection, as_text, as_time, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncsend.job import NewBatch, NewJob
    from asyncsend.store.rows import BatchRow, OpenBatch

PUSH_EVERY = 4.0  # seconds between two pushes of one batch; a run looks every five, but the next run may look at once
_COLUMNS = (
    "uid, name, allow_failures, created_at, sealed_at, started_at, caught_at, cancelled_at, finished_at, progress, pruned_done, pruned_dead, pruned_cancelled,"
    " reason, NOW(6)"
)


class BatchStatements(SqlConnection):
    """The part of the store that knows batches."""

    @resolved
    def add_batch(self, batch: NewBatch, sealed: bool) -> bool:
        from asyncsend.store.insert import insert_batch

        try:
            insert_batch(lambda sql, params: self._execute(sql, params)[0], batch, sealed)
        except Duplicate:
            return False
        return True

    @resolved
    def batch_terms(self, uid: str) -> tuple[NewBatch, bool] | None:
        from asyncsend.job import NewBatch

        rows = self._rows(
            "SELECT name, allow_failures, then_job, catch_job, finally_job, quiet, UNIX_TIMESTAMP(deadline), finished_at FROM asyncsend_batches WHERE uid = :uid", uid=uid
        )
        if not rows:
            return None
        name, allow_failures, first, second, last, quiet, deadline, finished_at = rows[0]
        terms = NewBatch(uid, str(as_text(name)), bool(allow_failures), as_text(first), as_text(second), as_text(last), as_text(quiet), None if deadline is None else float(deadline))
        return terms, finished_at is not None

    @resolved
    def change_batch(self, uid: str, quiet: str | None, deadline: float | None) -> bool:
        return (
            self._write(
                "UPDATE asyncsend_batches SET quiet = COALESCE(:quiet, quiet), deadline = COALESCE(FROM_UNIXTIME(:deadline), deadline) WHERE uid = :uid AND finished_at IS NULL",
                uid=uid, quiet=quiet, deadline=deadline,
            )
            == 1
        )  # fmt: skip

    @resolved
    def seal_batch(self, uid: str) -> bool:
        return self._write("UPDATE asyncsend_batches SET sealed_at = NOW(6) WHERE uid = :uid AND sealed_at IS NULL", uid=uid) == 1

    @resolved
    def batches(self, limit: int) -> list[BatchRow]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_batches ORDER BY created_at DESC, uid LIMIT :limit", limit=limit)
        return [self._batch(row) for row in rows]

    @resolved
    def batch(self, ref: str) -> BatchRow | None:
        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_batches WHERE uid = :ref", ref=ref) if ref.isascii() else []
        rows = rows or self._rows(f"SELECT {_COLUMNS} FROM asyncsend_batches WHERE name = :ref ORDER BY created_at DESC LIMIT 1", ref=ref)
        return self._batch(rows[0]) if rows else None

    @resolved
    def batch_hours(self) -> dict[str, tuple[str | None, float | None]]:
        rows = self._rows(
            "SELECT uid, quiet, UNIX_TIMESTAMP(deadline) - UNIX_TIMESTAMP(NOW(6)) FROM asyncsend_batches WHERE finished_at IS NULL AND (quiet > '' OR deadline IS NOT NULL)"
        )
        return {str(as_text(row[0])): (as_text(row[1]), None if row[2] is None else float(row[2])) for row in rows}

    @resolved
    def batch_marks(self, uid: str) -> tuple[datetime | None, datetime | None] | None:
        rows = self._rows("SELECT sealed_at, cancelled_at FROM asyncsend_batches WHERE uid = :uid", uid=uid) if uid.isascii() else []
        return (as_time(rows[0][0]), as_time(rows[0][1])) if rows else None

    def _batch(self, row: tuple[Any, ...]) -> BatchRow:
        from asyncsend.store.rows import BatchRow

        counted = self._rows("SELECT state, COUNT(*) FROM asyncsend_jobs WHERE batch_id = :uid GROUP BY state", uid=row[0])
        counts = dict.fromkeys((state.value for state in State), 0) | {str(state): int(jobs) for state, jobs in counted}
        for name, pruned in (("done", row[10]), ("dead", row[11]), ("cancelled", row[12])):
            counts[name] += pruned
        created, sealed, started, caught, cancelled, finished, now = (as_time(value) for value in (*row[3:9], row[14]))
        assert now is not None
        return BatchRow(str(as_text(row[0])), row[1], bool(row[2]), created, sealed, started, caught, cancelled, finished, row[9], counts, as_text(row[13]), now)

    @resolved
    def open_batches(self, after: str, limit: int) -> list[OpenBatch]:
        from asyncsend.store.rows import OpenBatch

        # Only sealed ones: until then the producer's transaction may hold the row, and a run must not wait for it. No lock is
        # taken here: the UPDATE that follows goes by key, so that no producer's INSERT ever meets it.
        rows = self._rows(
            "SELECT b.uid, b.allow_failures, b.then_job, b.catch_job, b.finally_job, b.caught_at, b.cancelled_at,"
            " EXISTS (SELECT 1 FROM asyncsend_jobs j WHERE j.batch_id = b.uid AND j.unique_slot = 0),"
            " EXISTS (SELECT 1 FROM asyncsend_jobs j WHERE j.batch_id = b.uid AND j.unique_slot IS NULL AND j.state = 'dead'),"
            " b.pruned_done + b.pruned_dead + b.pruned_cancelled, b.progress, b.push,"
            " CASE WHEN b.pushed_at > FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :every) THEN 0 ELSE 1 END"
            " FROM asyncsend_batches b WHERE b.finished_at IS NULL AND b.sealed_at IS NOT NULL AND b.uid > :after ORDER BY b.uid LIMIT :limit",
            after=after, limit=limit, every=PUSH_EVERY,
        )  # fmt: skip
        return [
            OpenBatch(
                str(as_text(row[0])), bool(row[1]), as_text(row[2]), as_text(row[3]), as_text(row[4]), row[5] is not None, row[6] is not None, bool(row[7]), bool(row[8]), row[9],
                row[10], as_text(row[11]), bool(row[12]),
            )
            for row in rows
        ]  # fmt: skip

    @resolved
    def batch_counts(self, uid: str) -> tuple[int, int]:
        """Jobs of this batch that are in the table, and how many of them are not finished."""
        total = self._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE batch_id = :uid", uid=uid)[0][0]
        return int(total), int(self._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE batch_id = :uid AND unique_slot = 0", uid=uid)[0][0])

    @resolved
    def note_progress(self, uid: str, percent: int, owner: str, pushes: Sequence[NewJob] = ()) -> bool:
        update = (
            f"UPDATE asyncsend_batches SET started_at = COALESCE(started_at, NOW(6)), progress = CASE WHEN progress < :percent THEN :percent ELSE progress END{', pushed_at = NOW(6)' if pushes else ''}"
            f" WHERE uid = :uid AND finished_at IS NULL AND (progress < :percent OR started_at IS NULL){WHILE_OURS}"
        )
        if not pushes:
            return self._write(update, uid=uid, percent=percent, owner=owner) == 1
        return self._follow(update, pushes, uid=uid, percent=percent, owner=owner)

    @resolved
    def catch_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        return self._follow(
            "UPDATE asyncsend_batches SET caught_at = NOW(6), reason = COALESCE(:reason, reason) WHERE uid = :uid AND caught_at IS NULL"
            f"{WHILE_OURS}",
            followers, uid=uid, reason=reason, owner=owner,
        )  # fmt: skip

    @resolved
    def finish_batch(self, uid: str, followers: Sequence[NewJob], reason: str | None, owner: str) -> bool:
        return self._follow(
            "UPDATE asyncsend_batches SET finished_at = NOW(6), progress = 100, reason = COALESCE(:reason, reason) WHERE uid = :uid AND finished_at IS NULL"
            f"{WHILE_OURS}",
            followers, uid=uid, reason=reason, owner=owner,
        )  # fmt: skip

    def _follow(self, update: str, followers: Sequence[NewJob], **params: Any) -> bool:
        """One transaction: whoever moves the row adds the followers, and their uids are taken only once."""
        from asyncsend.store.insert import insert_rows

        with self._transaction():
            if self._write(update, **params) == 0:
                return False
            insert_rows(lambda sql, params: self._execute(sql, params)[0], followers)
        return True

    def _prune_batches(self, keep: float, limit: int) -> None:
        old = self._rows(
            "SELECT uid FROM asyncsend_batches WHERE finished_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep) ORDER BY finished_at LIMIT :limit", keep=keep, limit=limit
        )
        # And those whose process died before they were sealed: nobody will ever finish them. While they have jobs, they stay.
        old += self._rows(
            "SELECT uid FROM asyncsend_batches b WHERE finished_at IS NULL AND sealed_at IS NULL AND created_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep)"
            " AND NOT EXISTS (SELECT 1 FROM asyncsend_jobs j WHERE j.batch_id = b.uid) LIMIT :limit",
            keep=keep, limit=limit,
        )  # fmt: skip
        for (uid,) in old:
            self._write("DELETE FROM asyncsend_batches WHERE uid = :uid", uid=as_text(uid))

    @resolved
    def cancel_batch(self, uid: str, owner: str | None = None) -> bool:
        return (
            self._write(
                f"UPDATE asyncsend_batches SET cancelled_at = NOW(6) WHERE uid = :uid AND cancelled_at IS NULL AND finished_at IS NULL{WHILE_OURS}",
                uid=uid, owner=owner,
            )
            == 1
        )  # fmt: skip

    @resolved
    def cancel_some_of_batch(self, uid: str, limit: int, owner: str | None = None) -> int:
        ids = [
            row[0]
            for row in self._rows(
                "SELECT id FROM asyncsend_jobs WHERE batch_id = :uid AND unique_slot = 0 AND state IN ('ready', 'held') ORDER BY id LIMIT :limit", uid=uid, limit=limit
            )
        ]
        if not ids:
            return 0
        with self._transaction():
            cancelled = self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'cancelled', finished_at = NOW(6), unique_slot = NULL, lane = '', reason = 'batch-cancelled'"
                f" WHERE id IN :ids AND state IN ('ready', 'held'){WHILE_OURS}",
                ids=ids, owner=owner,
            )  # fmt: skip
            self._let_next(ids, owner)
        return cancelled
