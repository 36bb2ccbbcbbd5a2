"""
Every statement that keeps the tables small: what has an end is deleted after its time, what has none is made to end.

Ids are read first, without a lock, by the index of their time; then they are deleted by primary key, a slice in a short
transaction: a DELETE that searches would lock what it walks over, and producers would wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend import outcome as outcomes
from asyncsend.outcome import FINISHED, Settlement
from asyncsend.store.attempts import AttemptStatements
from asyncsend.store.batches import BatchStatements
from asyncsend.store.connection import WHILE_OURS, as_text, resolved
from asyncsend.store.figures import FigureStatements
from asyncsend.text import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXPIRED = (
    "finished_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - CASE WHEN state = 'dead' THEN :keep_dead ELSE :keep_done END) AND state IN (:one, :other, :third)"
)


class RetentionStatements(AttemptStatements, BatchStatements, FigureStatements):
    """The part of the store that forgets."""

    @resolved
    def prune(
        self, keep_done: float, keep_dead: float, limit: int, *, states: Sequence[str] = FINISHED, before: Callable[[Sequence[int]], None] | None = None
    ) -> int:
        which = _expired(keep_done, keep_dead, states)
        ids = [
            row[0]
            for row in self._rows(
                f"SELECT id FROM asyncsend_jobs /*by end*/ WHERE finished_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :shortest) AND {_EXPIRED}"
                " ORDER BY finished_at LIMIT :limit",
                limit=limit, **which,
            )
        ]  # fmt: skip
        if ids and before is not None:
            before(ids)
        return self._delete(ids, _EXPIRED, **which)

    @resolved
    def expired(self, keep_done: float, keep_dead: float, states: Sequence[str] = FINISHED) -> dict[str, int]:
        rows = self._rows(
            f"SELECT state, COUNT(*) FROM asyncsend_jobs /*by end*/ WHERE finished_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :shortest) AND {_EXPIRED} GROUP BY state",
            **_expired(keep_done, keep_dead, states),
        )
        return {str(state): int(jobs) for state, jobs in rows}

    @resolved
    def purge(self, ids: Sequence[int]) -> int:
        return self._delete(ids, "state = 'dead'")

    def _delete(self, ids: Sequence[int], still: str, **params: Any) -> int:
        """Delete those of these jobs that are still so, with their attempts; their batches remember how many there were. One transaction."""
        if not ids:
            return 0
        with self._transaction():
            # Nobody can replay one of them between the look and the DELETE.
            rows = self._rows(f"SELECT id, state, batch_id FROM asyncsend_jobs /*by key*/ WHERE id IN :ids AND {still} /*to change*/", ids=sorted(ids), **params)
            if not rows:
                return 0
            gone = sorted(row[0] for row in rows)
            for uid in {row[2] for row in rows if row[2] is not None}:
                states = [row[1] for row in rows if row[2] == uid]
                self._write(
                    "UPDATE asyncsend_batches SET pruned_done = pruned_done + :done, pruned_dead = pruned_dead + :dead, pruned_cancelled = pruned_cancelled + :cancelled"
                    " WHERE uid = :uid",
                    uid=as_text(uid), **{state: states.count(state) for state in ("done", "dead", "cancelled")},
                )  # fmt: skip
            # Asked first: to delete what is not there would lock the gap where a run may write next.
            told = [row[0] for row in self._rows("SELECT DISTINCT job_id FROM asyncsend_attempts WHERE job_id IN :ids", ids=gone)]
            if told:
                self._write("DELETE FROM asyncsend_attempts WHERE job_id IN :ids", ids=told)
            return self._write("DELETE FROM asyncsend_jobs WHERE id IN :ids", ids=gone)

    @resolved
    def bury_held(self, keep: float, limit: int, owner: str | None = None) -> int:
        # Held before then, by its history; a job that was held before there was a history counts from the day there is one.
        rows = self._rows(
            "SELECT id, reason, error, queue, task FROM asyncsend_jobs j WHERE state = 'held' AND created_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep)"
            " AND NOT EXISTS (SELECT 1 FROM asyncsend_attempts a WHERE a.job_id = j.id AND a.ended_at >= FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep))"
            " AND EXISTS (SELECT 1 FROM asyncsend_schema WHERE version = 6 AND applied_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep)) LIMIT :limit",
            keep=keep, limit=limit,
        )  # fmt: skip
        if not rows:
            return 0
        buried = []
        with self._transaction():
            for job_id, reason, error, queue, task in sorted(rows):
                words = f"nobody decided about it in time (ASYNCSEND_KEEP_HELD); it was held ({as_text(reason)}): {as_text(error) or ''}"[:MAX_TEXT]
                if self._write(
                    "UPDATE asyncsend_jobs /*by key*/ SET state = 'dead', finished_at = NOW(6), unique_slot = NULL, reason = 'held-too-long', error = :error"
                    f" WHERE id = :id AND state = 'held'{WHILE_OURS}",
                    id=job_id, error=words, owner=owner,
                ):  # fmt: skip
                    buried.append(Settlement(job_id, "", outcomes.bury("held-too-long", words), queue, task))
            if buried:
                self._record(buried)
                self._count(buried, [])
                self._let_next([one.job_id for one in buried], owner)
        return len(buried)

    @resolved
    def prune_others(self, keep: float, keep_attempts: float, limit: int) -> None:
        old = "< FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep)"
        runs = self._rows(f"SELECT id FROM asyncsend_runs WHERE started_at {old} ORDER BY started_at LIMIT :limit", keep=keep, limit=limit)
        if runs:
            self._write("DELETE FROM asyncsend_runs WHERE id IN :ids", ids=[row[0] for row in runs])
        self._prune_batches(keep, limit)
        self._prune_counters()
        told = self._rows(f"SELECT id FROM asyncsend_receipts WHERE changed_at {old} ORDER BY changed_at LIMIT :limit", keep=keep, limit=limit)
        if told:
            self._write("DELETE FROM asyncsend_receipts WHERE id IN :ids", ids=[row[0] for row in told])
        self._write(f"DELETE FROM asyncsend_channels WHERE changed_at {old}", keep=keep)
        # Those of jobs that we delete go with them; these are of jobs that somebody deleted by hand.
        orphans = self._rows(f"SELECT job_id FROM asyncsend_attempts WHERE ended_at {old} ORDER BY ended_at LIMIT :limit", keep=keep_attempts, limit=limit)
        if orphans:
            ids = sorted({row[0] for row in orphans})
            self._write(f"DELETE FROM asyncsend_attempts WHERE job_id IN :ids AND ended_at {old}", ids=ids, keep=keep_attempts)
        self._write(f"DELETE FROM asyncsend_status WHERE scope <> 'default' AND owner IS NULL AND finished_at {old}", keep=keep)
        for (queue,) in self._rows("SELECT queue FROM asyncsend_pauses WHERE paused_until < NOW(6)"):
            self._write("DELETE FROM asyncsend_pauses WHERE queue = :queue AND paused_until < NOW(6)", queue=as_text(queue))


def _expired(keep_done: float, keep_dead: float, states: Sequence[str]) -> dict[str, Any]:
    """The parameters of _EXPIRED, and the shortest of the times."""
    kept = [keep_dead if state == "dead" else keep_done for state in states]
    return {"keep_done": keep_done, "keep_dead": keep_dead, "shortest": min(kept), "one": states[0], "other": states[-1], "third": states[len(states) // 2]}
