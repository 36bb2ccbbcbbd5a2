"""
What `asyncsend status` says: is it working?

`start` says it without click, whose import costs as much CPU as that of the database driver: pages and monitors ask again and again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from asyncsend import alerts, config, explain, metrics, schema
from asyncsend.errors import EXIT_TEMPORARY, EXIT_TROUBLE, AsyncsendError
from asyncsend.outcome import State
from asyncsend.status import SCOPE, seen_from_here
from asyncsend.store import open_store
from asyncsend.text import printable, table
from asyncsend.times import spoken, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, tzinfo

    from asyncsend.config import Settings
    from asyncsend.metrics import Figures
    from asyncsend.store import Standing, Store
    from asyncsend.store.rows import Counted, Depth, RunRow

RUNS, TASKS = 5, 15  # lines of each that are shown


class Overview(NamedTuple):
    """How things stand at one moment. `word` is `ok` or `attention`; the sentences say why."""

    word: str
    sentences: list[str]
    figures: Figures
    runs: list[RunRow]
    zone: tzinfo


def start(*, as_json: bool) -> int:
    """Print it, as lines or as JSON, from the settings of this environment; the exit code."""
    try:
        settings = config.load(os.environ)
        store = open_store(settings.database_url, settings.table_prefix)
        try:
            schema.verify(store.schema_version())
            found = look(store, settings)
        finally:
            store.close()
    except AsyncsendError as error:
        _write(sys.stderr, printable(f"asyncsend: {error}"))
        return error.exit_code
    if as_json:
        text = as_text(found)
    else:
        first, *rest = lines(found)
        text = "\n".join((f"\x1b[1;{32 if found.word == 'ok' else 33}m{first}\x1b[0m" if sys.stdout and sys.stdout.isatty() else first, *rest))
    trouble = _write(sys.stdout, text)
    if trouble is None:
        return 0
    if isinstance(trouble, BrokenPipeError):  # whoever read it has seen enough
        return EXIT_TROUBLE
    _write(sys.stderr, f"asyncsend: the output cannot be written ({trouble.strerror}): free space, or send it elsewhere")
    return EXIT_TEMPORARY


def _write(stream: TextIO | None, text: str) -> OSError | None:
    """Why the text could not be written; None if it was, or if whoever started us had closed the stream."""
    if stream is not None:
        try:
            stream.write(text + "\n")
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python trips over what is left in its buffer
            return error
    return None


def look(store: Store, settings: Settings) -> Overview:
    """Ask for everything, once."""
    figures, runs = metrics.collect(store, seen_from_here(store, settings.lock_path)), store.runs(RUNS)
    causes = alerts.causes(figures, alerts.limits_of(settings))
    others = [causes[name] for name in ("lock", "lag", "failures") if name in causes]  # the verdict has words of its own for the rest
    word, sentences = explain.verdict(
        figures.standing, figures.depths, figures.pauses, figures.waiting, settings.timezone, figures.schedules, figures.ticks, others,
        settings.queues, store.prune_error(SCOPE), store.subscriptions(), figures.channels, settings.max_depth,
    )  # fmt: skip
    if settings.email_redirect:
        word = "attention"
        sentences.insert(0, f"TEST MODE: every mail goes to {settings.email_redirect}, none to its own address (ASYNCSEND_EMAIL_REDIRECT).")
    return Overview(word, sentences, figures, runs, settings.timezone)


def lines(found: Overview) -> Iterator[str]:
    """For a person; the first line is the verdict."""
    figures, standing = found.figures, found.figures.standing
    yield "All is well." if found.word == "ok" else "Attention:"
    for sentence in found.sentences:
        yield f"  {printable(sentence)}"
    yield f"Run:    {printable(_run_words(standing, found.zone))}"
    yield f"Next:   {explain.next_run(standing, found.zone, figures.ticks)}"
    lag = figures.lag()
    yield f"Lag:    {'the oldest due job waits for ' + spoken(lag) if lag is not None else 'nothing is due'}"
    yield f"Use:    {_use_words(figures)}"
    yield f"Locked: {standing.lock_held} runs found another at work and left"
    if figures.depths:
        yield ""
        yield from _depths(figures.depths)
    if figures.day:
        yield ""
        yield from _tasks(figures.day)
    if found.runs:
        yield ""
        yield from _runs(found.runs, found.zone)


def as_text(found: Overview) -> str:
    """The same for a program, in JSON."""
    import json

    return json.dumps(_facts(found), indent=2, default=str)


def _use_words(figures: Figures) -> str:
    if figures.utilisation is None:
        return "no run had work in the last hour"
    return f"runs were at work for {figures.share:.0%} of the last hour; {figures.utilisation:.0%} of that went into jobs"


def _run_words(standing: Standing, zone: tzinfo) -> str:
    if standing.alive:
        return f"in-progress since {stamp(standing.started_at, zone)} on {standing.host}, pid {standing.pid}"
    if standing.owner is not None:
        return f"died; it was started {stamp(standing.started_at, zone)} on {standing.host}, pid {standing.pid}"
    if standing.finished_at is None:
        return "never"
    return f"idle; the last one ended {stamp(standing.finished_at, zone)}, stopped: {standing.stopped}"


def _depths(depths: list[Depth]) -> Iterator[str]:
    """What is not finished, and the dead: of what is done there may be millions, and the counters know."""
    rows = []
    for queue in sorted({depth.queue for depth in depths}):
        by_state = {depth.state: depth for depth in depths if depth.queue == queue}
        ready = by_state.get(State.READY)
        due, later = (ready.due, ready.later) if ready else (0, 0)
        rest = (metrics.counted(by_state[state].jobs) if state in by_state else 0 for state in (State.RUNNING, State.HELD, State.DEAD))
        rows.append((queue, metrics.counted(due), metrics.counted(later), *rest))
    yield from table(("queue", "due", "later", "running", "held", "dead"), rows)


def _tasks(day: list[Counted]) -> Iterator[str]:
    """The last 24 hours by task, the busiest first."""
    busiest = sorted(day, key=lambda row: -sum(row.counts.values()))
    rows: list[tuple[Any, ...]] = []
    for row in busiest[:TASKS]:
        rate, _ = metrics.failure_rate([row])
        times = (metrics.percentile(row.histogram, percent) for percent in metrics.QUANTILES)
        rows.append(
            (
                row.task, row.queue, *(f"{row.counts[name]:,}" for name in ("done", "retried", "dead", "held", "cancelled")),
                "-" if rate is None else f"{rate:.0%}", *("-" if one is None else f"{one * 1000:,.0f} ms" if one < 1 else f"{one:,.1f} s" for one in times),
            )
        )  # fmt: skip
    yield from table(("last 24 h", "queue", "done", "retried", "dead", "held", "cancelled", "failed", *(f"p{percent}" for percent in metrics.QUANTILES)), rows)
    if len(busiest) > TASKS:
        yield f"and {len(busiest) - TASKS} more: --json has them all"


def _runs(runs: list[RunRow], zone: tzinfo) -> Iterator[str]:
    shown = ("done", "retried", "snoozed", "dead", "held", "rescued", "late")
    yield from table(
        ("last runs", *shown, "took", "stopped"),
        [
            (
                stamp(run.started_at, zone), *(run.counts[name] for name in shown),
                spoken((run.finished_at - run.started_at).total_seconds()) if run.finished_at else "-", run.stopped or "at work",
            )
            for run in runs
        ],
    )  # fmt: skip


def _facts(found: Overview) -> dict[str, Any]:
    figures, standing, ticks = found.figures, found.figures.standing, found.figures.ticks
    every = explain.rhythm(ticks)

    def iso(moment: datetime | None) -> str | None:
        return moment.isoformat() if moment else None

    return {
        "verdict": found.word,
        "sentences": found.sentences,
        "status": "in-progress" if standing.alive else "idle",
        "died": standing.owner is not None and not standing.alive,
        "generation": standing.generation,
        "host": standing.host,
        "pid": standing.pid,
        "started_at": iso(standing.started_at),
        "finished_at": iso(standing.finished_at),
        "stopped": standing.stopped,
        "interval_seconds": every[0] if every else explain.interval(standing),
        "next_run_in_seconds": explain.next_in(standing, ticks),
        "cron_missing": explain.cron_missing(standing, ticks),
        "lock_held": standing.lock_held,
        **metrics.as_json(figures),
        "runs": [
            {"id": run.id, "started_at": iso(run.started_at), "finished_at": iso(run.finished_at), "stopped": run.stopped, "host": run.host, **run.counts, "workers": run.workers, "worked": run.worked} for run in found.runs
        ],
    }
