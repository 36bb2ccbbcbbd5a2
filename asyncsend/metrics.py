"""
Figures: depth, lag, failure rate, durations and utilisation, gathered once, for `status`, `check`, alerts, JSON and Prometheus.

What was finished comes from the counters that runs write, what waits from short looks at the index (store/figures.py): no figure
costs more when the table is longer.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend.errors import AsyncsendError
from asyncsend.outcome import State
from asyncsend.status import SCOPE
from asyncsend.store import BOUNDS, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from asyncsend.log import Log
    from asyncsend.store import Standing, Store
    from asyncsend.store.rows import Counted, Depth, Schedule, StoppedChannel, Utilisation

HOUR, DAY = 3600.0, 86400.0
QUANTILES = (50, 95, 99)
MOST = 10_000  # rows that are counted one by one (store/figures.py)


class Figures(NamedTuple):
    """How things stand, by the database's clock."""

    standing: Standing
    ticks: list[float]
    depths: list[Depth]
    waiting: dict[str, int]
    pauses: dict[str, datetime | None]
    schedules: list[Schedule]
    hour: list[Counted]  # the present hour and the one before
    day: list[Counted]
    ever: list[Counted]
    use: Utilisation  # of the last hour
    channels: list[StoppedChannel]

    @property
    def now(self) -> datetime:
        return self.standing.now

    def jobs(self, state: State) -> int:
        return sum(depth.jobs for depth in self.depths if depth.state is state)

    def lag(self, without: Iterable[str] = ()) -> float | None:
        """Seconds the oldest due job waits, in other queues than these; None if none is due."""
        left_out = set(without)
        oldest = min((depth.oldest_due for depth in self.depths if depth.oldest_due and depth.queue not in left_out), default=None)
        return max(0.0, (self.now - oldest).total_seconds()) if oldest else None

    @property
    def utilisation(self) -> float | None:
        """Seconds of execution by seconds of runs and workers; None if no run had work."""
        return min(1.0, self.use.worked / self.use.capacity) if self.use.capacity > 0 else None

    @property
    def share(self) -> float:
        """How much of the last hour there was a run at work."""
        return min(1.0, self.use.took / HOUR)


def collect(store: Store, standing: Standing | None = None) -> Figures:
    """Ask for everything; `standing` where it is known."""
    return Figures(
        standing or store.standing(SCOPE), store.ticks(SCOPE), store.depth(), store.waiting(), store.pauses(), store.schedules(),
        store.counters("hour", HOUR), store.counters("hour", DAY), store.counters("ever"), store.utilisation(HOUR), store.stopped_channels(),
    )  # fmt: skip


def attempts(counts: Mapping[str, int]) -> tuple[int, int]:
    """How many attempts came to an outcome, and how many of them failed."""
    failed = counts["retried"] + counts["dead"] + counts["held"]
    return counts["done"] + failed, failed


def failure_rate(rows: Iterable[Counted]) -> tuple[float | None, int]:
    """The share of attempts that failed, and how many attempts there were; None without any."""
    both = [attempts(row.counts) for row in rows]
    every, failed = sum(one for one, _ in both), sum(one for _, one in both)
    return (failed / every if every else None), every


def percentile(histogram: Sequence[int], percent: float) -> float | None:
    """
    Seconds that so many percent of the executions took at most, between the two bounds by rule of three; None without any.

    >>> percentile([0, 10] + [0] * 19, 50)
    0.0015
    """
    wanted = sum(histogram) * percent / 100
    seen = 0
    for number, jobs in enumerate(histogram):
        if jobs and seen + jobs >= wanted:
            low = BOUNDS[number - 1] if number else 0.0
            high = BOUNDS[number] if number < len(BOUNDS) else low  # nobody knows how much longer
            return low + (high - low) * (wanted - seen) / jobs
        seen += jobs
    return None


def counted(jobs: int) -> str:
    """A number for people: no more than 10,000 rows are counted."""
    return f"{jobs:,}" if jobs <= MOST else f"{MOST:,}+"


def as_json(figures: Figures) -> dict[str, Any]:
    """The figures as `status --json` has them, and the web will."""
    return {
        "lag_seconds": figures.lag(),
        "utilisation": figures.utilisation,
        "share_of_the_last_hour": figures.share,
        "failure_rate": failure_rate(figures.hour)[0],
        "queues": [
            {
                "queue": depth.queue, "state": depth.state.value, "jobs": min(MOST, depth.jobs), "more": depth.jobs > MOST, "due": min(MOST, depth.due), "later": min(MOST, depth.later),
                "oldest_due": depth.oldest_due.isoformat() if depth.oldest_due else None,
            }
            for depth in figures.depths
        ],
        "last_24_hours": [
            {
                "queue": row.queue, "task": row.task, **row.counts, "seconds": row.seconds, "failure_rate": failure_rate([row])[0],
                **{f"p{percent}": percentile(row.histogram, percent) for percent in QUANTILES},
            }
            for row in figures.day
        ],
        "totals": [{"queue": row.queue, "task": row.task, **row.counts, "seconds": row.seconds} for row in figures.ever],
    }  # fmt: skip


def prometheus(figures: Figures) -> str:
    """The text that Prometheus scrapes, format 0.0.4; counters only ever grow, also when rows are pruned."""
    standing, lines = figures.standing, []

    def family(name: str, kind: str, sentence: str, samples: Iterable[tuple[dict[str, str], float, str]]) -> None:
        lines.append(f"# HELP asyncsend_{name} {sentence}")
        lines.append(f"# TYPE asyncsend_{name} {kind}")
        lines.extend(f"asyncsend_{name}{suffix}{_labels(labels)} {_number(value)}" for labels, value, suffix in samples)

    def one(name: str, kind: str, sentence: str, value: float | None) -> None:
        if value is not None:
            family(name, kind, sentence, [({}, value, "")])

    states = [
        ({"queue": depth.queue, "state": state}, jobs, "")
        for depth in figures.depths
        for state, jobs in ((("due", depth.due), ("later", depth.later)) if depth.state is State.READY else ((depth.state.value, depth.jobs),))
    ]
    family("jobs", "gauge", f"Jobs that are not finished, and dead ones; {MOST + 1} stands for more than {MOST}.", states)
    lags = [({"queue": depth.queue}, (standing.now - depth.oldest_due).total_seconds(), "") for depth in figures.depths if depth.oldest_due]
    family("lag_seconds", "gauge", "How long the oldest due job waits.", lags)
    outcomes = [({"queue": row.queue, "task": row.task, "outcome": word}, row.counts[word], "") for row in figures.ever for word in OUTCOMES]
    family("outcomes_total", "counter", "What runs have settled.", outcomes)
    durations: list[tuple[dict[str, str], float, str]] = []
    for row in figures.ever:
        labels, below = {"queue": row.queue, "task": row.task}, 0
        for bound, jobs in zip((*map(str, BOUNDS), "+Inf"), row.histogram, strict=True):
            below += jobs
            durations.append(({**labels, "le": bound}, below, "_bucket"))
        durations += [(labels, row.seconds, "_sum"), (labels, below, "_count")]
    family("duration_seconds", "histogram", "How long executions took.", durations)
    waits = [({"reason": reason}, jobs, "") for reason, jobs in sorted(figures.waiting.items())]
    family("waiting", "gauge", "Jobs that are tried again, by what the last attempt met; among those near now.", waits)
    one("runs_total", "counter", "Runs that took the status row.", standing.generation)
    one("lock_held_total", "counter", "Runs that found another at work and left.", standing.lock_held)
    one("running", "gauge", "Whether a run is at work.", int(standing.alive))
    one("last_run_timestamp_seconds", "gauge", "When the last run started.", standing.started_at.timestamp() if standing.started_at else None)
    one("utilisation_ratio", "gauge", "Seconds of execution by seconds of runs and workers, last hour.", figures.utilisation)
    one("share_ratio", "gauge", "How much of the last hour there was a run at work.", figures.share)
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    quoted = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(quoted) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def write_file(path: Path, store: Store, log: Log) -> None:
    """Write the Prometheus text for node_exporter, whole or not at all. What goes wrong is a line in the log."""
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # node_exporter reads only what ends with .prom
    try:
        text = prometheus(collect(store))
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, path)
    except (OSError, AsyncsendError) as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        log.event("metrics-failed", path=path, error=str(error))


def touch_file(path: Path) -> None:
    """Say that a run was there and found nothing to do: what the file says is still true, and its time tells when cron went missing."""
    with contextlib.suppress(OSError):
        os.utime(path)
