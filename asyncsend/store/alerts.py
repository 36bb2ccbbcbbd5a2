"""Statements about alerts: what was said about which cause, and the one transaction that says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncsend.store.connection import WHILE_OURS, SqlConnection, as_text, as_time, resolved, storable
from asyncsend.store.runs import as_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncsend.job import NewJob
    from asyncsend.store.rows import AlertRow, Silence

_FORGET = 7 * 86400  # seconds after which a cause that is over is forgotten


class AlertStatements(SqlConnection):
    """The part of the store that knows alerts."""

    @resolved
    def alerts(self) -> list[AlertRow]:
        from asyncsend.store.rows import AlertRow

        sql = "SELECT cause, since, sent_at, over_at, times, said FROM asyncsend_alerts ORDER BY cause"
        rows = self._rows(sql)
        if not any(as_text(row[0]) == "looked" for row in rows):  # somebody emptied the table
            self._write("INSERT INTO asyncsend_alerts (cause) VALUES ('looked')")
            rows = self._rows(sql)
        return [AlertRow(str(as_text(row[0])), as_time(row[1]), as_time(row[2]), as_time(row[3]), row[4], as_text(row[5])) for row in rows]

    @resolved
    def note_alerts(self, looks: int, on: Sequence[AlertRow], over: Sequence[str], jobs: Sequence[NewJob], owner: str) -> bool:
        from asyncsend.store.insert import insert_rows

        with self._transaction():
            # First the look, which one run only can move on: whoever does, says what there is to say.
            if not self._write(
                f"UPDATE asyncsend_alerts SET times = times + 1, sent_at = NOW(6) WHERE cause = 'looked' AND times = :looks{WHILE_OURS}", looks=looks, owner=owner
            ):
                return self.repeating  # then an earlier try of this very call was committed, and its reply lost; or the next run says it
            for row in on:
                self._write("DELETE FROM asyncsend_alerts WHERE cause = :cause", cause=row.cause)
                self._write(
                    "INSERT INTO asyncsend_alerts (cause, since, sent_at, over_at, times, said)"
                    " VALUES (:cause, COALESCE(FROM_UNIXTIME(:since), NOW(6)), COALESCE(FROM_UNIXTIME(:sent_at), NOW(6)), NULL, :times, :said)",
                    cause=row.cause, since=_seconds(row.since), sent_at=_seconds(row.sent_at), times=row.times, said=storable(row.said),
                )  # fmt: skip
            for cause in over:
                self._write("UPDATE asyncsend_alerts SET over_at = NOW(6) WHERE cause = :cause", cause=cause)
            self._write("DELETE FROM asyncsend_alerts WHERE over_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :forget)", forget=_FORGET)
            if jobs:
                insert_rows(lambda sql, params: self._execute(sql, params)[0], jobs)
        return True

    @resolved
    def silence(self, scope: str) -> Silence:
        from asyncsend.store.rows import Silence

        row = self._rows(
            "SELECT UNIX_TIMESTAMP(NOW(6)) - UNIX_TIMESTAMP(COALESCE(started_at, (SELECT MIN(applied_at) FROM asyncsend_schema))),"
            " started_at, CASE WHEN owner IS NOT NULL AND lease_until > NOW(6) THEN 1 ELSE 0 END, ticks FROM asyncsend_status WHERE scope = :scope",
            scope=scope,
        )  # fmt: skip
        if not row:
            return Silence(0.0, ever=False, alive=False, ticks=[])
        return Silence(float(row[0][0] or 0), row[0][1] is not None, bool(row[0][2]), as_ticks(row[0][3]))


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None
