"""`asyncsend status`: is it working?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncsend import alerts, explain, metrics
from asyncsend.cli.session import Session, json_option, pass_session, print_json, print_table
from asyncsend.outcome import State
from asyncsend.status import SCOPE, seen_from_here
from asyncsend.text import printable
from asyncsend.times import spoken

if TYPE_CHECKING:
    from asyncsend.metrics import Figures
    from asyncsend.store import Standing
    from asyncsend.store.rows import Counted, Depth, RunRow

RUNS, TASKS = 5, 15  # lines of each that are shown


@click.command()
@click.option("--channel", is_flag=False, flag_value="", metavar="[NAME]", help="Instead: the ways out, what of their limits is used, and when those that wait are through.")
@json_option
@pass_session
def status(session: Session, channel: str | None, as_json: bool) -> None:
    """Say at a glance whether it works: the present and last run, depth, lag, dead letters, next cron expected."""
    if channel is not None:
        from asyncsend.cli import channels

        channels.show(session, channel, as_json=as_json)
        return
    figures, runs = metrics.collect(session.store, seen_from_here(session.store, session.settings.lock_path)), session.store.runs(RUNS)
    standing, ticks = figures.standing, figures.ticks
    causes = alerts.causes(figures, alerts.limits_of(session.settings))
    others = [causes[name] for name in ("lock", "lag", "failures") if name in causes]  # the verdict has words of its own for the rest
    word, sentences = explain.verdict(
        standing, figures.depths, figures.pauses, figures.waiting, session.settings.timezone, figures.schedules, ticks, others,
        session.settings.queues, session.store.prune_error(SCOPE), session.store.subscriptions(), figures.channels, session.settings.max_depth,
    )  # fmt: skip
    if session.settings.email_redirect:
        word = "attention"
        sentences.insert(0, f"TEST MODE: every mail goes to {session.settings.email_redirect}, none to its own address (ASYNCSEND_EMAIL_REDIRECT).")
    if as_json:
        print_json(_facts(word, sentences, figures, runs))
        return
    click.secho("All is well." if word == "ok" else "Attention:", bold=True, fg="green" if word == "ok" else "yellow")
    for sentence in sentences:
        click.echo(f"  {printable(sentence)}")
    click.echo(f"Run:    {printable(_run_words(session, standing))}")
    click.echo(f"Next:   {explain.next_run(standing, session.settings.timezone, ticks)}")
    lag = figures.lag()
    click.echo(f"Lag:    {'the oldest due job waits for ' + spoken(lag) if lag is not None else 'nothing is due'}")
    click.echo(f"Use:    {_use_words(figures)}")
    click.echo(f"Locked: {standing.lock_held} runs found another at work and left")
    if figures.depths:
        click.echo()
        _print_depths(figures.depths)
    if figures.day:
        click.echo()
        _print_tasks(figures.day)
    if runs:
        click.echo()
        _print_runs(session, runs)


def _use_words(figures: Figures) -> str:
    if figures.utilisation is None:
        return "no run had work in the last hour"
    return f"runs were at work for {figures.share:.0%} of the last hour; {figures.utilisation:.0%} of that went into jobs"


def _run_words(session: Session, standing: Standing) -> str:
    if standing.alive:
        return f"in-progress since {session.when(standing.started_at)} on {standing.host}, pid {standing.pid}"
    if standing.owner is not None:
        return f"died; it was started {session.when(standing.started_at)} on {standing.host}, pid {standing.pid}"
    if standing.finished_at is None:
        return "never"
    return f"idle; the last one ended {session.when(standing.finished_at)}, stopped: {standing.stopped}"


def _print_depths(depths: list[Depth]) -> None:
    """What is not finished, and the dead: of what is done there may be millions, and the counters know."""
    rows = []
    for queue in sorted({depth.queue for depth in depths}):
        by_state = {depth.state: depth for depth in depths if depth.queue == queue}
        ready = by_state.get(State.READY)
        due, later = (ready.due, ready.later) if ready else (0, 0)
        rest = (metrics.counted(by_state[state].jobs) if state in by_state else 0 for state in (State.RUNNING, State.HELD, State.DEAD))
        rows.append((queue, metrics.counted(due), metrics.counted(later), *rest))
    print_table(("queue", "due", "later", "running", "held", "dead"), rows)


def _print_tasks(day: list[Counted]) -> None:
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
    print_table(("last 24 h", "queue", "done", "retried", "dead", "held", "cancelled", "failed", *(f"p{percent}" for percent in metrics.QUANTILES)), rows)
    if len(busiest) > TASKS:
        click.echo(f"and {len(busiest) - TASKS} more: --json has them all")


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


def _facts(word: str, sentences: list[str], figures: Figures, runs: list[RunRow]) -> dict[str, Any]:
    standing, ticks = figures.standing, figures.ticks
    every = explain.rhythm(ticks)

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
        "interval_seconds": every[0] if every else explain.interval(standing),
        "next_run_in_seconds": explain.next_in(standing, ticks),
        "cron_missing": explain.cron_missing(standing, ticks),
        "lock_held": standing.lock_held,
        **metrics.as_json(figures),
        "runs": [
            {"id": run.id, "started_at": iso(run.started_at), "finished_at": iso(run.finished_at), "stopped": run.stopped, "host": run.host, **run.counts, "workers": run.workers, "worked": run.worked} for run in runs
        ],
    }
