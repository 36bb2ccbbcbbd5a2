"""
Statements about figures: the counters that a run writes with what they count, and looks at the table that stay short however long it is.

A figure of what was finished comes from the counters; what waits is counted by index, and no further than MOST: a COUNT(*) over a
million rows would take a small host's second each time somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from asyncsend.outcome import WORDS, State
from asyncsend.store import BOUNDS, OUTCOMES
from asyncsend.store.connection import SqlConnection, as_text, as_time, resolved, storable
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from asyncsend.job import Job
    from asyncsend.outcome import Settlement
    from asyncsend.store.rows import Counted, Depth, Utilisation

MOST = 10_000  # rows of one queue and state that are counted; more is "10,000+"
PRIORITIES = 50  # of one queue that are looked at one by one
NEAR = 250  # rows of one queue and priority, next to now on either side, in which `waiting` looks for reasons
MOST_LABELS = 200  # pairs of queue and task that are counted by their names; the others are (other, other)
OTHER = ("other", "other")
KEEP_HOURS, KEEP_DAYS = 3 * 86400, 400 * 86400  # seconds
# The three rows of a pair. Always in this order, and their labels sorted: two runs that write the same rows cannot deadlock.
_BEGAN = {
    "hour": "FROM_UNIXTIME(FLOOR(UNIX_TIMESTAMP(NOW(6)) / 3600) * 3600)",
    "day": "FROM_UNIXTIME(FLOOR(UNIX_TIMESTAMP(NOW(6)) / 86400) * 86400)",
    "ever": "FROM_UNIXTIME(86400)",
}
_READY, _DUE = "state = 'ready' AND queue = :queue AND lane = '' AND priority = :priority", "(run_at IS NULL OR run_at <= NOW(6))"
_HISTOGRAM = tuple(f"h{number}" for number in range(len(BOUNDS) + 1))
_COUNTERS = (*OUTCOMES, "seconds", *_HISTOGRAM)


class FigureStatements(SqlConnection):
    """The part of the store that counts."""

    _labels: set[tuple[str, str]] | None = None  # those that have counters

    def _adding(self, columns: Iterable[str]) -> str:
        """The end of an INSERT of counters that adds to the rows that are there."""
        raise NotImplementedError

    # writing
    def _count(self, written: Sequence[Settlement], late: Sequence[Settlement]) -> None:
        """Add these to their counters, as one statement in the caller's transaction: they stand or fall with what they count."""
        took: dict[tuple[str | None, str | None, str | None], list[float]] = defaultdict(list)  # seconds of each, by queue, task and what became of it
        for one in written:
            took[one.queue, _task(one), WORDS.get(one.outcome.verb)].append(one.outcome.seconds)
        for one in late:
            took[one.queue, _task(one), "late"].append(0.0)
        counted: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for (queue, task, word), each in took.items():
            if word is None:  # a journal of a later version
                continue
            row = counted[self._label(queue, task)]
            row[word] = row.get(word, 0) + len(each)
            timed = [seconds for seconds in each if 0 < seconds < 1e9]
            for place, number in Counter(bisect_left(BOUNDS, seconds) for seconds in timed).items():
                row[_HISTOGRAM[place]] = row.get(_HISTOGRAM[place], 0) + number
            if timed:
                row["seconds"] = row.get("seconds", 0.0) + sum(timed)
        if not counted:
            return
        columns = [name for name in _COUNTERS if any(name in row for row in counted.values())]
        params: dict[str, Any] = {}
        rows: dict[str, list[str]] = {span: [] for span in _BEGAN}
        for number, (label, row) in enumerate(sorted(counted.items())):
            params[f"queue{number}"], params[f"task{number}"] = label
            values = ", ".join(f"{row.get(name, 0):.6f}" if name == "seconds" else str(row.get(name, 0)) for name in columns)
            for span, began in _BEGAN.items():
                rows[span].append(f"('{span}', {began}, :queue{number}, :task{number}, {values})")
        everything = ", ".join(row for span in rows.values() for row in span)
        self._write(f"INSERT INTO asyncsend_counters (span, began, queue, task, {', '.join(columns)}) VALUES {everything} {self._adding(columns)}", **params)

    def _label(self, queue: str | None, task: str | None) -> tuple[str, str]:
        """The names under which jobs of this queue and task are counted; a stranger's rows must not make labels without end."""
        if self._labels is None:
            self._labels = {(queue, task) for queue, task in self._rows("SELECT queue, task FROM asyncsend_counters WHERE span = 'ever'")}
        label = (_name(queue or "", 64), _name(task or "", 128))
        if label not in self._labels and len(self._labels) >= MOST_LABELS:
            return OTHER
        self._labels.add(label)
        return label

    def _prune_counters(self) -> None:
        for span, keep in (("hour", KEEP_HOURS), ("day", KEEP_DAYS)):
            self._write("DELETE FROM asyncsend_counters WHERE span = :span AND began < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :keep)", span=span, keep=keep)

    # reading
    @resolved
    def counters(self, span: str, back: float = 0.0) -> list[Counted]:
        from asyncsend.store.rows import Counted

        sums = ", ".join(f"SUM({name})" for name in _COUNTERS)
        unit = 86400 if span == "day" else 3600
        since = "" if span == "ever" else f" AND began >= FROM_UNIXTIME(FLOOR((UNIX_TIMESTAMP(NOW(6)) - :back) / {unit}) * {unit})"
        rows = self._rows(f"SELECT queue, task, {sums} FROM asyncsend_counters WHERE span = :span{since} GROUP BY queue, task ORDER BY queue, task", span=span, back=back)
        words = len(OUTCOMES)
        return [
            Counted(row[0], row[1], {name: int(number) for name, number in zip(OUTCOMES, row[2:], strict=False)}, float(row[2 + words]), tuple(map(int, row[3 + words :])))
            for row in rows
        ]

    @resolved
    def utilisation(self, back: float) -> Utilisation:
        from asyncsend.store.rows import Utilisation

        row = self._rows(
            "SELECT COUNT(*), SUM(UNIX_TIMESTAMP(COALESCE(finished_at, NOW(6))) - UNIX_TIMESTAMP(started_at)),"
            " SUM((UNIX_TIMESTAMP(COALESCE(finished_at, NOW(6))) - UNIX_TIMESTAMP(started_at)) * workers), SUM(worked)"
            " FROM asyncsend_runs WHERE started_at >= FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :back) AND (stopped IS NULL OR stopped <> 'died')",
            back=back,
        )[0]  # fmt: skip
        return Utilisation(int(row[0]), *(float(number or 0) for number in row[1:]))

    @resolved
    def depth(self) -> list[Depth]:
        from asyncsend.store.rows import Depth

        # By the name without blanks at its end: MySQL takes names that differ only there for one, and may show either.
        found: dict[tuple[str, str], Depth] = {}
        for state in (State.READY, State.RUNNING, State.DEAD, State.HELD):
            for queue in self._queues_with(state):
                if state is State.READY:
                    one = self._ready(queue)
                else:
                    one = Depth(queue.rstrip(" "), state, self._counted("state = :state AND queue = :queue", state=state.value, queue=queue))
                there = found.get((one.queue, state))
                if there:
                    since = [moment for moment in (there.oldest_due, one.oldest_due) if moment]
                    jobs, due, later = (min(MOST + 1, both) for both in (one.jobs + there.jobs, one.due + there.due, one.later + there.later))
                    one = Depth(one.queue, state, jobs, due, later, min(since, default=None))
                found[one.queue, state] = one
        return [found[key] for key in sorted(found)]

    def _queues_with(self, state: State) -> list[str]:
        """The names of the queues that hold jobs in this state: one short range each (see ready_queues)."""
        names: list[str] = []
        more = ""
        while rows := self._rows(
            f"SELECT queue FROM asyncsend_jobs WHERE state = :state{more} ORDER BY queue LIMIT 1", state=state.value, **({"queue": names[-1]} if names else {})
        ):
            names.append(rows[0][0])
            more = " AND queue > :queue"
        return names

    def _counted(self, where: str, **params: Any) -> int:
        """How many rows there are, but no more than MOST + 1."""
        return int(self._rows(f"SELECT COUNT(*) FROM (SELECT 1 FROM asyncsend_jobs WHERE {where} LIMIT {MOST + 1}) counted", **params)[0][0])

    def _top_priorities(self, queue: str) -> list[int]:
        """The highest priorities of the ready jobs of a queue."""
        found: list[int] = []
        while len(found) < PRIORITIES and (
            rows := self._rows(
                "SELECT priority FROM asyncsend_jobs WHERE state = 'ready' AND queue = :queue AND lane = '' AND priority < :priority ORDER BY priority DESC LIMIT 1",
                queue=queue, priority=found[-1] if found else 40000,
            )
        ):  # fmt: skip
            found.append(rows[0][0])
        return found

    def _ready(self, queue: str) -> Depth:
        """Its due and its later jobs: one range each per priority, for future jobs lie between the due ones."""
        from asyncsend.store.rows import Depth

        due = later = 0
        since = []
        priorities = self._top_priorities(queue)
        for priority in priorities:
            due += self._counted(f"{_READY} AND {_DUE}", queue=queue, priority=priority) if due <= MOST else 0
            later += self._counted(f"{_READY} AND run_at > NOW(6)", queue=queue, priority=priority) if later <= MOST else 0
            since += self._oldest(queue, priority)
        if len(priorities) == PRIORITIES:  # those below them are there, and nobody asked whether they are due
            later = max(later, self._counted("state = 'ready' AND queue = :queue AND lane = ''", queue=queue) - due)
        # What stands aside for the sake of its keys was due when it did; for how long is no lag (see _oldest).
        due += self._counted("state = 'ready' AND queue = :queue AND lane > ''", queue=queue)
        return Depth(queue.rstrip(" "), State.READY, min(due + later, MOST + 1), min(due, MOST + 1), min(later, MOST + 1), min(since, default=None))

    def _oldest(self, queue: str, priority: int) -> list[datetime]:
        """Since when its oldest jobs are due. Not those behind an unfinished job of their order key: they wait for that one, not for a run."""
        found = []
        for moment, since in (("created_at", "run_at IS NULL"), ("run_at", "run_at <= NOW(6)")):
            due = f"FROM asyncsend_jobs WHERE {_READY} AND {since} ORDER BY run_at, id LIMIT"
            first = self._rows(f"SELECT {moment}, order_key {due} 1", queue=queue, priority=priority)
            if first and first[0][1]:
                first = self._rows(
                    f"SELECT MIN(one.{moment}) FROM (SELECT id, {moment}, order_key {due} {NEAR}) one WHERE COALESCE((SELECT earlier.id FROM asyncsend_jobs earlier /*in order*/"
                    " WHERE earlier.unique_slot = 0 AND earlier.order_key = one.order_key AND earlier.id < one.id AND earlier.state IN ('ready', 'running', 'held') LIMIT 1), 0) = 0",
                    queue=queue, priority=priority,
                )  # fmt: skip
            found += [when for row in first if (when := as_time(row[0]))]
        return found

    @resolved
    def waiting(self) -> dict[str, int]:
        # What was tried lately stands next to now, on either side: a search of the whole table for reasons, which no index has, would walk all of it.
        found: dict[str, int] = {}
        for queue in self._queues_with(State.READY):
            for priority in self._top_priorities(queue):
                for side, order in ((_DUE, "DESC"), ("run_at > NOW(6)", "ASC")):
                    rows = self._rows(
                        f"SELECT reason, COUNT(*) FROM (SELECT reason FROM asyncsend_jobs WHERE {_READY}"
                        f" AND {side} ORDER BY run_at {order} LIMIT {NEAR}) near WHERE reason IS NOT NULL GROUP BY reason",
                        queue=queue, priority=priority,
                    )  # fmt: skip
                    for reason, jobs in rows:
                        found[str(as_text(reason))] = found.get(str(as_text(reason)), 0) + jobs
        return found

    @resolved
    def ahead(self, job: Job, queues: Sequence[str]) -> int:
        """How many due jobs are claimed before this one: all of these queues, and in its own those of a higher priority or older. No more than MOST + 1."""
        jobs = sum(self._ready(queue).due for queue in queues)
        for priority in self._top_priorities(job.queue):
            if priority < job.priority or jobs > MOST:
                break
            where = f"{_READY} AND {_DUE}"
            if priority == job.priority:
                mine = "(SELECT mine.run_at FROM asyncsend_jobs mine WHERE mine.id = :id)"  # to the letter, as it stands in the row
                where += " AND run_at IS NULL AND id < :id" if job.run_at is None else f" AND (run_at IS NULL OR run_at < {mine} OR (run_at = {mine} AND id < :id))"
            jobs += self._counted(where, queue=job.queue, priority=priority, id=job.id)
        return min(jobs, MOST + 1)


def _task(settlement: Settlement) -> str | None:
    return OTHER[1] if settlement.outcome.reason == "unknown-task" else settlement.task


def _name(text: str, longest: int) -> str:
    """A name as a label: one line, no blanks at its end, whatever a row may hold."""
    return (storable(printable(text, longest)) or "")[:longest].rstrip(" ")
