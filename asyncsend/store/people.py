"""What people ask of jobs, and what they change by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.errors import Conflict
from asyncsend.store.connection import Duplicate, SqlConnection, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncsend.job import Job
    from asyncsend.outcome import State
    from asyncsend.store.rows import Which

# What a reader of a job gets; the claim asks for less.
_COLUMNS = (
    "id, uid, task, payload, queue, priority, run_at, expires_at, max_attempts, timeout_seconds, unique_key, batch_id, state,"
    " attempts, crashes, token, run_id, started_at, created_at, finished_at, reason, error, result, order_key, concurrency_key"
)
# Which jobs a person means; `since` and `until` speak of when a job ended, or while it has not, of when it was added.
_WHICH = (
    "(:state IS NULL OR state = :state) AND (:queue IS NULL OR queue = :queue) AND (:task IS NULL OR task = :task) AND (:reason IS NULL OR reason = :reason)"
    " AND (:since IS NULL OR COALESCE(finished_at, created_at) >= FROM_UNIXTIME(:since)) AND (:until IS NULL OR COALESCE(finished_at, created_at) < FROM_UNIXTIME(:until))"
)
PART_BYTES = 4 * 1024 * 1024  # of payloads and results that are read at once


class PeopleStatements(SqlConnection):
    """What the commands about jobs and queues need of the store; both databases share it."""

    def find(self, ref: str) -> Job | None:
        return next(iter(self.matches(ref)), None)

    @resolved
    def matches(self, ref: str) -> list[Job]:
        kind, _, name = ref.partition("=")
        if kind not in ("id", "uid"):
            kind, name = "", ref
        rows: list[tuple[Any, ...]] = []
        if kind != "id" and name.isascii():
            rows += self._rows(f"SELECT {_COLUMNS} FROM asyncsend_jobs WHERE uid = :uid", uid=name)
        if kind != "uid" and name.isdecimal() and name.isascii() and len(name) < 20 and int(name) < 1 << 63:
            rows += self._rows(f"SELECT {_COLUMNS} FROM asyncsend_jobs WHERE id = :id", id=int(name))
        return list({job.id: job for job in _jobs(rows)}.values())

    @resolved
    def before(self, job: Job) -> Job | None:
        ahead = f"SELECT {_COLUMNS} FROM asyncsend_jobs"
        rows = self._rows(f"{ahead} WHERE state = 'running' AND order_key = :order_key AND id <> :id LIMIT 1", order_key=job.order_key, id=job.id) or self._rows(
            f"{ahead} /*in order*/ WHERE unique_slot = 0 AND order_key = :order_key AND id < :id AND state IN ('ready', 'held') ORDER BY id LIMIT 1", order_key=job.order_key, id=job.id
        )
        return _jobs(rows)[0] if rows else None

    @resolved
    def running_of(self, concurrency_key: str) -> int:
        return int(self._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE state = 'running' AND concurrency_key = :concurrency_key", concurrency_key=concurrency_key)[0][0])

    @resolved
    def jobs(self, *, limit: int, before: int | None = None, **which: Any) -> list[Job]:
        from asyncsend.store.rows import Which

        sql = f"SELECT {_COLUMNS} FROM asyncsend_jobs WHERE {_WHICH} AND (:before IS NULL OR id < :before) ORDER BY id DESC LIMIT :limit"
        return _jobs(self._rows(sql, **Which(**which)._asdict(), before=before, limit=limit))

    @resolved
    def count(self, **which: Any) -> int:
        from asyncsend.store.rows import Which

        return int(self._rows(f"SELECT COUNT(*) FROM asyncsend_jobs WHERE {_WHICH}", **Which(**which)._asdict())[0][0])

    @resolved
    def ids(self, which: Which, limit: int, before: int | None = None) -> list[int]:
        sql = f"SELECT id FROM asyncsend_jobs WHERE {_WHICH} AND (:before IS NULL OR id < :before) ORDER BY id DESC LIMIT :limit"
        return [row[0] for row in self._rows(sql, **which._asdict(), before=before, limit=limit)]

    @resolved
    def parts(self, ids: Sequence[int]) -> list[list[int]]:
        sizes = dict(self._rows("SELECT id, LENGTH(payload) + COALESCE(LENGTH(result), 0) FROM asyncsend_jobs WHERE id IN :ids", ids=list(ids)))
        parts: list[list[int]] = []
        room = 0
        for job_id in ids:
            room -= sizes.get(job_id, 0)
            if room < 0 or not parts:
                parts.append([])
                room = PART_BYTES - sizes.get(job_id, 0)
            parts[-1].append(job_id)
        return parts

    @resolved
    def these(self, ids: Sequence[int]) -> list[Job]:
        found = {job.id: job for job in _jobs(self._rows(f"SELECT {_COLUMNS} FROM asyncsend_jobs WHERE id IN :ids", ids=list(ids)))}
        return [found[job_id] for job_id in ids if job_id in found]

    @resolved
    def make_ready(self, job_id: int, states: Sequence[State], queue: str | None = None) -> bool:
        return self.make_all_ready([job_id], states, queue) == 1

    @resolved
    def make_all_ready(self, ids: Sequence[int], states: Sequence[State], queue: str | None = None) -> int:
        allowed = [state.value for state in states]
        try:
            return self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'ready', run_at = NOW(6), attempts = 0, crashes = 0, token = NULL, started_at = NULL,"
                " finished_at = NULL, unique_slot = 0, reason = NULL, lane = '', queue = COALESCE(:queue, queue) WHERE id IN :ids AND state IN (:a, :b, :c)",
                ids=sorted(ids), a=allowed[0], b=allowed[-1], c=allowed[len(allowed) // 2], queue=queue,
            )  # fmt: skip
        except Duplicate as error:
            raise Conflict(f"job {', '.join(map(str, ids))[:100]} cannot be made ready: another unfinished job has its unique key") from error

    @resolved
    def cancel(self, job_id: int, reason: str) -> bool:
        with self._transaction():
            matched = self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'cancelled', finished_at = NOW(6), unique_slot = NULL, lane = '', reason = :reason"
                " WHERE id = :id AND state IN ('ready', 'held')",
                id=job_id, reason=reason,
            )  # fmt: skip
            self._let_next([job_id])
        return matched == 1

    @resolved
    def pause(self, queue: str, seconds: float | None) -> None:
        with self._transaction():
            self._write("DELETE FROM asyncsend_pauses WHERE queue = :queue", queue=queue)
            self._write(
                "INSERT INTO asyncsend_pauses (queue, paused_at, paused_until)"
                " VALUES (:queue, NOW(6), FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :seconds))",
                queue=queue, seconds=seconds,
            )  # fmt: skip

    @resolved
    def resume(self, queue: str) -> bool:
        return self._write("DELETE FROM asyncsend_pauses WHERE queue = :queue", queue=queue) > 0


def _jobs(rows: Sequence[tuple[Any, ...]]) -> list[Job]:
    from asyncsend.store.jobs import read  # not for an empty minute, which reads none

    return [read(row) for row in rows]
