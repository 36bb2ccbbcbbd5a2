"""Statements about schedules: the rows themselves, and the one transaction that makes jobs of due times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.errors import Conflict
from asyncsend.store.connection import WHILE_OURS, Duplicate, SqlConnection, as_text, as_time, resolved
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncsend.job import NewJob
    from asyncsend.store.rows import Schedule

_COLUMNS = "name, cron, tz, task, payload, queue, priority, catch_up, paused, next_at, last_at, created_at, reason"
_REASON = 255  # characters


class ScheduleStatements(SqlConnection):
    """What the store knows of schedules; both databases share it."""

    @resolved
    def add_schedule(self, schedule: Schedule, *, replace: bool = False) -> bool:
        values: dict[str, Any] = {
            "name": schedule.name, "cron": schedule.cron, "tz": schedule.tz, "task": schedule.task, "payload": schedule.payload,
            "queue": schedule.queue, "priority": schedule.priority, "catch_up": schedule.catch_up, "next_at": _seconds(schedule.next_at),
        }  # fmt: skip
        try:
            self._write(
                "INSERT INTO asyncsend_schedules (name, cron, tz, task, payload, queue, priority, catch_up, next_at) VALUES"
                " (:name, :cron, :tz, :task, :payload, :queue, :priority, :catch_up, FROM_UNIXTIME(:next_at))",
                **values,
            )
        except Duplicate:
            ours = self.repeating  # the reply of our first try may have been lost
            if any(there.definition == schedule.definition for there in self.schedules(schedule.name)):
                return ours
            if not replace:
                raise Conflict(f"there is another schedule {printable(schedule.name, 60)}: say --replace, or remove it first") from None
            self._write(
                "UPDATE asyncsend_schedules SET cron = :cron, tz = :tz, task = :task, payload = :payload, queue = :queue, priority = :priority,"
                " catch_up = :catch_up, next_at = FROM_UNIXTIME(:next_at), reason = NULL WHERE name = :name",
                **values,
            )
        return True

    @resolved
    def schedules(self, name: str | None = None) -> list[Schedule]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_schedules WHERE :name IS NULL OR name = :name ORDER BY name", name=name)
        return [_schedule(row) for row in rows]

    @resolved
    def remove_schedule(self, name: str) -> bool:
        return self._write("DELETE FROM asyncsend_schedules WHERE name = :name", name=name) > 0 or self.repeating

    @resolved
    def pause_schedule(self, name: str) -> bool:
        return self._write("UPDATE asyncsend_schedules SET paused = 1 WHERE name = :name", name=name) > 0

    @resolved
    def resume_schedule(self, name: str, next_at: datetime) -> bool:
        return (
            self._write(
                "UPDATE asyncsend_schedules SET paused = 0, reason = NULL, next_at = FROM_UNIXTIME(:next_at) WHERE name = :name",
                name=name, next_at=_seconds(next_at),
            )
            > 0
        )  # fmt: skip

    @resolved
    def due_schedules(self, limit: int) -> list[tuple[datetime, Schedule]]:
        rows = self._rows(
            f"SELECT {_COLUMNS}, NOW(6) FROM asyncsend_schedules WHERE paused = 0 AND next_at <= NOW(6) ORDER BY next_at, name LIMIT :limit", limit=limit
        )
        return [(now, _schedule(row)) for row in rows if (now := as_time(row[-1]))]

    @resolved
    def move_schedule(
        self, schedule: Schedule, jobs: Sequence[NewJob], *, next_at: datetime | None, last_at: datetime | None, reason: str | None, owner: str | None = None
    ) -> bool:
        from asyncsend.store.insert import insert_rows

        with self._transaction():
            # First the row, which nobody else moves then: a schedule that was moved, paused or changed meanwhile makes no job.
            moved = self._write(
                "UPDATE asyncsend_schedules SET next_at = FROM_UNIXTIME(:next_at), last_at = COALESCE(FROM_UNIXTIME(:last_at), last_at), reason = :reason"
                " WHERE name = :name AND paused = 0 AND next_at <= NOW(6) AND cron = :cron AND tz = :tz"
                f"{WHILE_OURS}",
                name=schedule.name, cron=schedule.cron, tz=schedule.tz, next_at=_seconds(next_at), last_at=_seconds(last_at),
                reason=printable(reason, _REASON) if reason else None, owner=owner,
            )  # fmt: skip
            if moved and jobs:
                insert_rows(lambda sql, params: self._execute(sql, params)[0], jobs)
        if moved or not self.repeating:
            return moved == 1
        # Where it was to go already: an earlier try of this very call was committed, and its reply lost.
        there = self.schedules(schedule.name)
        return bool(there) and there[0].next_at == next_at


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _schedule(row: tuple[Any, ...]) -> Schedule:
    from asyncsend.store.rows import Schedule

    return Schedule(
        name=str(as_text(row[0])), cron=str(as_text(row[1])), tz=str(as_text(row[2])), task=row[3], payload=as_text(row[4]) or "", queue=row[5], priority=row[6],
        catch_up=row[7], paused=bool(row[8]), next_at=as_time(row[9]), last_at=as_time(row[10]), created_at=as_time(row[11]), reason=as_text(row[12]),
    )  # fmt: skip
