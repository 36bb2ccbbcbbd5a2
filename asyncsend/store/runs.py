"""Every statement about who runs, and what the runs did: the status row and the history."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncsend.store import COUNTED, Standing
from asyncsend.store.connection import Duplicate, SqlConnection, as_text, as_time, resolved, storable

if TYPE_CHECKING:
    from asyncsend.store.rows import RunRow

TICKS = 11  # starts of runs that are remembered
LOOK_EVERY = 290  # seconds between looks for causes of alerts: at each fifth tick, though cron is never on the dot


class RunStatements(SqlConnection):
    """The part of the store that knows runs."""

    @resolved
    def standing(self, scope: str) -> Standing:
        sql = (
            "SELECT NOW(6), (SELECT MAX(version) FROM asyncsend_schema), s.status, s.owner,"
            " CASE WHEN s.owner IS NOT NULL AND s.lease_until > NOW(6) THEN 1 ELSE 0 END, s.generation, s.lock_id, s.host, s.pid,"
            " s.started_at, s.previous_started_at, s.lease_until, s.finished_at, s.stopped, s.lock_held, s.pruned_at,"
            " EXISTS (SELECT 1 FROM asyncsend_jobs WHERE state = 'running'), (SELECT COUNT(*) FROM asyncsend_pauses),"
            " EXISTS (SELECT 1 FROM asyncsend_batches WHERE finished_at IS NULL AND sealed_at IS NOT NULL),"
            " EXISTS (SELECT 1 FROM asyncsend_schedules WHERE paused = 0 AND next_at <= NOW(6)),"
            f" NOT EXISTS (SELECT 1 FROM asyncsend_alerts WHERE cause = 'looked' AND sent_at > FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - {LOOK_EVERY})), s.aside"
            f"{self._session_facts()} FROM asyncsend_status s WHERE s.scope = :scope"
        )
        rows = self._rows(sql, scope=scope)
        if not rows:
            with suppress(Duplicate):  # another host's first run was quicker
                self._write("INSERT INTO asyncsend_status (scope) VALUES (:scope)", scope=scope)
            rows = self._rows(sql, scope=scope)
        row = rows[0]
        self._assert_session(row[22:])
        self.aside, self.begins = bool(row[21]), True
        times = {position: as_time(row[position]) for position in (0, 9, 10, 11, 12, 15)}
        now = times[0]
        assert now is not None
        return Standing(
            now, row[1], row[2], row[3], bool(row[4]), row[5], row[6], row[7], row[8], times[9], times[10], times[11], times[12],
            row[13], row[14], times[15], bool(row[16]), row[17], bool(row[18]), bool(row[19]), bool(row[20]),
        )  # fmt: skip

    @resolved
    def ticks(self, scope: str) -> list[float]:
        rows = self._rows("SELECT ticks FROM asyncsend_status WHERE scope = :scope", scope=scope)
        return as_ticks(rows[0][0]) if rows else []

    @resolved
    def take(self, scope: str, seen: Standing, owner: str, lock_id: str, host: str, pid: int, lease: float) -> bool:
        # The generation is compared so that two takers who saw the same row cannot both win; owner = :owner recognises our
        # own statement when its reply was lost. Assignments go left to right in MySQL: the previous start is saved first.
        return (
            self._write(
                "UPDATE asyncsend_status SET previous_started_at = CASE WHEN owner = :owner THEN previous_started_at ELSE started_at END,"
                f" ticks = CASE WHEN owner = :owner THEN ticks ELSE SUBSTR(CONCAT(FLOOR(UNIX_TIMESTAMP(NOW(6))), ' ', COALESCE(ticks, '')), 1, {11 * TICKS}) END,"
                " status = 'in-progress', owner = :owner, generation = :next, lock_id = :lock_id, host = :host, pid = :pid,"
                " started_at = NOW(6), finished_at = NULL, stopped = NULL, beat = beat + 1,"
                " lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :lease)"
                " WHERE scope = :scope AND (owner = :owner OR (generation = :generation"
                " AND (owner IS NULL OR lease_until < NOW(6) OR lock_id = :lock_id)))",
                scope=scope, owner=owner, generation=seen.generation, next=seen.generation + 1, lock_id=lock_id, host=host[:191], pid=pid, lease=lease,
            )
            == 1
        )  # fmt: skip

    @resolved
    def beat(self, scope: str, owner: str, lease: float) -> bool:
        return (
            self._write(
                "UPDATE asyncsend_status SET beat = beat + 1, lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :lease)"
                " WHERE scope = :scope AND owner = :owner",
                scope=scope, owner=owner, lease=lease,
            )
            == 1
        )  # fmt: skip

    @resolved
    def end(
        self, scope: str, owner: str, stopped: str, lock_held: int, pruned: bool, generation: int | None = None, prune_error: str | None = None
    ) -> bool:
        ended = (
            self._write(
                "UPDATE asyncsend_status SET status = 'idle', owner = NULL, finished_at = NOW(6), stopped = :stopped,"
                " lock_held = lock_held + :lock_held, pruned_at = CASE WHEN :pruned = 1 THEN NOW(6) ELSE pruned_at END,"
                " prune_error = CASE WHEN :pruned = 1 THEN :prune_error ELSE prune_error END"
                " WHERE scope = :scope AND owner = :owner",
                scope=scope, owner=owner, stopped=stopped[:64], lock_held=lock_held, pruned=int(pruned),
                prune_error=storable(prune_error[:500]) if prune_error else None,
            )
            == 1
        )  # fmt: skip
        # Nobody's, and still of our generation: ended by an earlier try of this very call, whose reply was lost.
        mine = "SELECT 1 FROM asyncsend_status WHERE scope = :scope AND owner IS NULL AND generation = :generation"
        return ended or bool(self._rows(mine, scope=scope, generation=generation))

    @resolved
    def open_run(self, scope: str, generation: int, host: str, pid: int) -> int:
        find = "SELECT id FROM asyncsend_runs WHERE scope = :scope AND generation = :generation"
        rows = self._rows(find, scope=scope, generation=generation)
        if not rows:
            self._write(
                "INSERT INTO asyncsend_runs (scope, generation, host, pid, started_at) VALUES (:scope, :generation, :host, :pid, NOW(6))",
                scope=scope, generation=generation, host=host[:191], pid=pid,
            )  # fmt: skip
            rows = self._rows(find, scope=scope, generation=generation)
        return int(rows[0][0])

    @resolved
    def save_run(self, run_id: int, counts: dict[str, int], stopped: str | None, workers: int = 1, worked: float = 0.0) -> None:
        self._write(
            "UPDATE asyncsend_runs SET claimed = :claimed, done = :done, retried = :retried, snoozed = :snoozed, dead = :dead, held = :held,"
            " cancelled = :cancelled, released = :released, rescued = :rescued, replayed = :replayed, late = :late, workers = :workers, worked = :worked, stopped = :stopped,"
            " finished_at = CASE WHEN :stopped IS NULL THEN NULL ELSE NOW(6) END WHERE id = :id",
            id=run_id, stopped=stopped, workers=workers, worked=worked, **{name: counts.get(name, 0) for name in COUNTED},
        )  # fmt: skip

    @resolved
    def close_dead_runs(self, scope: str, generation: int) -> int:
        return self._write(
            "UPDATE asyncsend_runs SET finished_at = NOW(6), stopped = 'died' WHERE scope = :scope AND generation < :generation AND finished_at IS NULL",
            scope=scope, generation=generation,
        )  # fmt: skip

    @resolved
    def prune_error(self, scope: str) -> str | None:
        rows = self._rows("SELECT prune_error FROM asyncsend_status WHERE scope = :scope", scope=scope)
        return as_text(rows[0][0]) if rows else None

    @resolved
    def runs(self, limit: int) -> list[RunRow]:
        from asyncsend.store.rows import RunRow

        rows = self._rows(
            "SELECT id, generation, host, pid, started_at, finished_at, stopped, claimed, done, retried, snoozed, dead, held, cancelled,"
            " released, rescued, replayed, late, workers, worked FROM asyncsend_runs ORDER BY id DESC LIMIT :limit",
            limit=limit,
        )
        return [
            RunRow(row[0], row[1], row[2], row[3], as_time(row[4]) or datetime.now(UTC), as_time(row[5]), row[6], dict(zip(COUNTED, row[7:], strict=False)), row[-2], float(row[-1]))
            for row in rows
        ]


def as_ticks(text: Any) -> list[float]:
    """The starts of runs in a row's text; what is no number, somebody wrote there by hand."""
    return [float(word) for word in str(as_text(text) or "").split() if word.isdecimal()]
