"""`asyncsend status`: is it working?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncsend import explain
from asyncsend.cli.session import Session, json_option, pass_session, print_json, print_table
from asyncsend.job import State, printable
from asyncsend.status import SCOPE
from asyncsend.times import spoken

if TYPE_CHECKING:
    from asyncsend.store import Depth, RunRow, Standing

RUNS = 5


@click.command()
@json_option
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Say at a glance whether it works: the present and last run, depth, lag, dead letters, next cron expected."""
    store = session.store
    standing, depths, pauses, runs = store.standing(SCOPE), store.depth(), store.pauses(), store.runs(RUNS)
    word, sentences = explain.verdict(standing, depths, pauses, store.waiting(), session.settings.timezone, store.schedules(), session.settings.max_depth)
    if as_json:
        print_json(_facts(word, sentences, standing, depths, runs))
        return
    click.secho("All is well." if word == "ok" else "Attention:", bold=True, fg="green" if word == "ok" else "yellow")
    for sentence in sentences:
        click.echo(f"  {printable(sentence)}")
    click.echo(f"Run:    {printable(_run_words(session, standing))}")
    click.echo(f"Next:   {explain.next_run(standing, session.settings.timezone)}")
    oldest = _lag(standing, depths)
    click.echo(f"Lag:    {'the oldest due job waits for ' + spoken(oldest) if oldest is not None else 'nothing is due'}")
    click.echo(f"Locked: {standing.lock_held} runs found another at work and left")
    if depths:
        click.echo()
        _print_depths(depths)
    if runs:
        click.echo()
        _print_runs(session, runs)


def _run_words(session: Session, standing: Standing) -> str:
    if standing.alive:
        return f"in-progress since {session.when(standing.started_at)} on {standing.host}, pid {standing.pid}"
    if standing.owner is not None:
        return f"died; it was started {session.when(standing.started_at)} on {standing.host}, pid {standing.pid}"
    if standing.finished_at is None:
        return "never"
    return f"idle; the last one ended {session.when(standing.finished_at)}, stopped: {standing.stopped}"


def _lag(standing: Standing, depths: list[Depth]) -> float | None:
    """Seconds the oldest due job waits; None if none is due."""
    oldest = min((depth.oldest_due for depth in depths if depth.oldest_due), default=None)
    return max(0.0, (standing.now - oldest).total_seconds()) if oldest else None


def _print_depths(depths: list[Depth]) -> None:
    rows = []
    for queue in sorted({depth.queue for depth in depths}):
        by_state = {depth.state: depth for depth in depths if depth.queue == queue}
        ready = by_state.get(State.READY)
        due = ready.due if ready else 0
        rows.append((queue, due, (ready.jobs if ready else 0) - due, *(by_state[state].jobs if state in by_state else 0 for state in list(State)[1:])))
    print_table(("queue", "due", "later", *(state.value for state in list(State)[1:])), rows)


def _print_runs(session: Session, runs: list[RunRow]) -> None:
    shown = ("done", "retried", "snoozed", "dead", "held", "rescued", "late")
    print_table(
        ("last runs", *shown, "took", "stopped"),
        [
            (
                session.when(run.started_at), *(run.counts[name] for name in shown),
                spoken((run.finished_at - run.started_at).total_seconds()) if run.finished_at else "-", run.stopped or "at work",
            )
            for run in runs
        ],
    )  # fmt: skip


def _facts(word: str, sentences: list[str], standing: Standing, depths: list[Depth], runs: list[RunRow]) -> dict[str, Any]:
    def iso(moment: Any) -> str | None:
        return moment.isoformat() if moment else None

    return {
        "verdict": word,
        "sentences": sentences,
        "status": "in-progress" if standing.alive else "idle",
        "died": standing.owner is not None and not standing.alive,
        "generation": standing.generation,
        "host": standing.host,
        "pid": standing.pid,
        "started_at": iso(standing.started_at),
        "finished_at": iso(standing.finished_at),
        "stopped": standing.stopped,
        "interval_seconds": explain.interval(standing),
        "cron_missing": explain.cron_missing(standing),
        "lock_held": standing.lock_held,
        "lag_seconds": _lag(standing, depths),
        "queues": [
            {"queue": depth.queue, "state": depth.state.value, "jobs": depth.jobs, "due": depth.due, "oldest_due": iso(depth.oldest_due)} for depth in depths
        ],
        "runs": [
            {"id": run.id, "started_at": iso(run.started_at), "finished_at": iso(run.finished_at), "stopped": run.stopped, "host": run.host, **run.counts} for run in runs
        ],
    }
