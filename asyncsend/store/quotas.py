"""
Statements about quotas: every use of a channel that has a limit is a row, written before the effect and stamped after it.

So a run that is killed in between has counted what it may have sent, and a window never holds more than it may; what was given back
untouched is deleted again. Two runs meet at the row of the channel: the second sees what the first has taken.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from asyncsend.store.connection import WHILE_OURS, Duplicate, SqlConnection, as_text, resolved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncsend.outcome import Settlement
    from asyncsend.quotas import Meter, Quota
    from asyncsend.store.rows import Turn

_MARGIN = 86400.0  # seconds for which turns are kept beyond what counts them: a limit of a day that is new counts at once
_LOOK = 200  # jobs of each queue and priority that are looked at for those whose turn has come early


class _NotOurs(Exception):
    """The status row is somebody else's. Never leaves the store."""


class QuotaStatements(SqlConnection):
    """The part of the store that knows quotas."""

    metered = False  # whether any channel has a limit: then settling a job says so to its channels; the run says it

    @resolved
    def turns(self, wanted: Sequence[Turn], limits: Mapping[str, Quota], reserve: float, catch_up: float, owner: str | None) -> dict[int, float]:
        try:
            with self._transaction():
                return self._take_turns(wanted, limits, reserve, catch_up, owner)
        except _NotOurs:
            return {one.job_id: 60.0 for one in wanted}  # whoever has it now has these claims, too

    def _take_turns(self, wanted: Sequence[Turn], limits: Mapping[str, Quota], reserve: float, catch_up: float, owner: str | None) -> dict[int, float]:
        """All of them or, with _NotOurs, none: inside the caller's transaction."""
        for name in sorted(limits):
            self._lock_channel(name, owner)
        now = self._clock()  # after whoever held these rows is through
        meters = {name: self._meter(name, windows, now, len(wanted), reserve, catch_up) for name, windows in sorted(limits.items())}
        ids = [one.job_id for one in wanted]
        waits: dict[int, float] = {}
        if self.repeating:  # its COMMIT was not heard of
            waits = {row[0]: 0.0 for row in self._rows("SELECT job_id FROM asyncsend_sends WHERE job_id IN :ids AND sent_at IS NULL", ids=ids)}
        taken: dict[str, list[int]] = {name: [] for name in limits}
        for one in wanted:
            if one.job_id in waits:
                continue
            full = [name for name in one.channels if not meters[name].free(urgent=one.urgent)]
            for name in one.channels if not full else ():
                meters[name].take()
                taken[name].append(one.job_id)
            waits[one.job_id] = max((meters[name].promise(one.queue, urgent=one.urgent, again=one.again) - now for name in full), default=0.0)
        for name, jobs in taken.items():
            if jobs and self._write(
                "INSERT INTO asyncsend_sends (channel, job_id) SELECT :name, id FROM asyncsend_jobs WHERE id IN :jobs"
                f"{WHILE_OURS}",
                name=name, jobs=jobs, owner=owner,
            ) != len(jobs):  # fmt: skip
                raise _NotOurs
        for name, meter in meters.items():
            promised = {queue: at for queue, at in meter.promised.items() if at > now}
            self._write(
                f"UPDATE asyncsend_quotas SET paced = :paced, promised = :promised, longest = :longest WHERE channel = :name{WHILE_OURS}",
                name=name, paced=meter.paced, promised=json.dumps(promised) if promised else None, longest=max(window.seconds for window in meter.windows), owner=owner,
            )  # fmt: skip
        return waits

    @resolved
    def tidy_quotas(self, owner: str | None) -> None:
        """What a run left open that died without a word is counted from now on."""
        rows = self._rows(
            "SELECT s.id FROM asyncsend_sends s LEFT JOIN asyncsend_jobs j ON j.id = s.job_id AND j.state = 'running' WHERE s.sent_at IS NULL AND j.id IS NULL"
        )
        if rows:
            self._write(f"UPDATE asyncsend_sends SET sent_at = NOW(6) WHERE id IN :ids AND sent_at IS NULL{WHILE_OURS}", ids=[row[0] for row in rows], owner=owner)

    @resolved
    def prune_quotas(self, limit: int) -> bool:
        [[longest, now]] = self._rows("SELECT MAX(longest), UNIX_TIMESTAMP(NOW(6)) FROM asyncsend_quotas")
        if longest is None:  # no channel was ever limited
            return False
        then = float(now) - float(longest) - _MARGIN  # of all channels: each by its own would be found by no index
        old = self._rows("SELECT id FROM asyncsend_sends WHERE sent_at < FROM_UNIXTIME(:then) ORDER BY sent_at LIMIT :limit", then=then, limit=limit)
        if old:
            self._write("DELETE FROM asyncsend_sends WHERE id IN :ids", ids=sorted(row[0] for row in old))
        if len(old) == limit:  # while these are not through, channels without any would be looked for among all the others
            return True
        rows = self._rows(
            "SELECT channel, promised FROM asyncsend_quotas q WHERE paced < :then AND NOT EXISTS (SELECT 1 FROM asyncsend_sends s WHERE s.channel = q.channel)"
            " ORDER BY paced LIMIT :limit",
            then=then, limit=limit,
        )  # fmt: skip
        over = [str(as_text(row[0])) for row in rows if max(json.loads(row[1]).values() if row[1] else (), default=0.0) < float(now)]
        if over:
            # Whoever takes a turn there meanwhile holds the row, and moves `paced`; whoever comes after this makes it anew.
            names = {f"name{position}": name for position, name in enumerate(sorted(over))}
            self._write(f"DELETE FROM asyncsend_quotas WHERE channel IN ({', '.join(':' + name for name in names)}) AND paced < :then", then=then, **names)
        return len(over) == limit

    @resolved
    def meters(self, limits: Mapping[str, Quota], reserve: float = 0.0) -> dict[str, Meter]:
        now = self._clock()
        return {name: self._meter(name, windows, now, 1, reserve, 0.0) for name, windows in limits.items()}

    @resolved
    def metered_channels(self) -> list[str]:
        return [str(as_text(row[0])) for row in self._rows("SELECT channel FROM asyncsend_quotas ORDER BY channel")]

    @resolved
    def has_promised(self, name: str) -> bool:
        return bool(self._rows("SELECT 1 FROM asyncsend_quotas WHERE channel = :name AND promised > ''", name=name))

    @resolved
    def early(self, queues: Sequence[str], limit: int, reason: str, owner: str | None) -> int:
        """Make those due now that wait the shortest for their turn, so many of each queue; how many there were."""
        ids = [row[0] for rows in self._waiting(queues, reason) for row in rows[:limit]]
        if not ids:
            return 0
        return self._write(f"UPDATE asyncsend_jobs /*by key*/ SET run_at = NOW(6) WHERE id IN :ids AND state = 'ready' AND run_at > NOW(6){WHILE_OURS}", ids=sorted(ids), owner=owner)

    @resolved
    def next_turn(self, queues: Sequence[str], reason: str) -> float | None:
        return min((max(0.0, float(rows[0][2])) for rows in self._waiting(queues, reason) if rows), default=None)

    def _waiting(self, queues: Sequence[str], reason: str) -> Iterator[list[tuple[Any, ...]]]:
        """Those that wait for this reason, of each queue and priority, the soonest first: id, reason, seconds."""
        for queue in queues:
            for priority in self._priorities(queue, ""):
                rows = self._rows(
                    "SELECT id, reason, UNIX_TIMESTAMP(run_at) - UNIX_TIMESTAMP(NOW(6)) FROM asyncsend_jobs /*to claim*/ WHERE state = 'ready' AND queue = :queue AND lane = ''"
                    " AND priority = :priority AND run_at > NOW(6) ORDER BY run_at, id LIMIT :look",
                    queue=queue, priority=priority, look=_LOOK,
                )  # fmt: skip
                yield [row for row in rows if as_text(row[1]) == reason]

    def _lock_channel(self, name: str, owner: str | None) -> None:
        """From here to the COMMIT nobody else takes turns in this channel; its row is made if there is none."""
        lock = "UPDATE asyncsend_quotas SET paced = paced + 0 WHERE channel = :name"
        if self._write(lock, name=name):
            return
        try:
            self._write("INSERT INTO asyncsend_quotas (channel) SELECT :name FROM asyncsend_status WHERE :owner IS NULL OR owner = :owner LIMIT 1", name=name, owner=owner)
        except Duplicate:  # another run has made it in this moment
            self._write(lock, name=name)

    def _meter(self, name: str, windows: Quota, now: float, most: int, reserve: float, catch_up: float) -> Meter:
        from asyncsend.quotas import Meter

        [[open_ones]] = self._rows("SELECT COUNT(*) FROM asyncsend_sends WHERE channel = :name AND sent_at IS NULL", name=name)
        used, leaving = [], []
        for window in windows:
            [[closed]] = self._rows("SELECT COUNT(*) FROM asyncsend_sends WHERE channel = :name AND sent_at > FROM_UNIXTIME(:then)", name=name, then=now - window.seconds)
            rows = self._rows(
                "SELECT UNIX_TIMESTAMP(sent_at) FROM asyncsend_sends WHERE channel = :name AND sent_at > FROM_UNIXTIME(:then) ORDER BY sent_at LIMIT :most",
                name=name, then=now - window.seconds, most=most + 1,
            )  # fmt: skip
            used.append(int(closed) + int(open_ones))
            leaving.append([float(row[0]) + window.seconds for row in rows])
        rows = self._rows("SELECT paced, promised FROM asyncsend_quotas WHERE channel = :name", name=name)
        paced, promised = rows[0] if rows else (0.0, None)
        return Meter(windows, now, used, leaving, float(paced), json.loads(promised) if promised else {}, reserve, catch_up)

    def _used(self, settlements: Sequence[Settlement]) -> None:
        """The turns of these jobs, which were just settled, are used up, or given back; inside the caller's transaction."""
        from asyncsend.channels import BREAKER, has_one
        from asyncsend.quotas import QUOTA

        given_back: list[int] = []
        used: list[int] = []
        for one in settlements:
            if one.task is None or has_one(one.task):
                untouched = one.outcome.unsent or one.outcome.reason in (BREAKER, QUOTA)
                (given_back if untouched else used).append(one.job_id)
        if used:
            self._write("UPDATE asyncsend_sends SET sent_at = NOW(6) WHERE job_id IN :ids AND sent_at IS NULL", ids=sorted(used))
        if given_back:
            self._write("DELETE FROM asyncsend_sends WHERE job_id IN :ids AND sent_at IS NULL", ids=sorted(given_back))

    def _clock(self) -> float:
        return float(self._rows("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0])
