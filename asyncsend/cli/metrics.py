"""`asyncsend metrics`: the figures for Prometheus. `asyncsend check`: for a monitor outside, one line and an exit code."""

from __future__ import annotations

import sys

import click

from asyncsend import alerts, config, explain
from asyncsend import metrics as figures_of
from asyncsend.cli.session import DURATION, Session, json_option, pass_session, print_json
from asyncsend.errors import EXIT_TROUBLE
from asyncsend.outcome import State
from asyncsend.status import seen_from_here
from asyncsend.text import printable
from asyncsend.times import spoken


@click.command()
@pass_session
def metrics(session: Session) -> None:
    """Print every figure in the text format of Prometheus."""
    click.echo(figures_of.prometheus(figures_of.collect(session.store, seen_from_here(session.store, session.settings.lock_path))), nl=False)


def _share(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else config.percent(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--max-lag", "lag", type=DURATION, metavar="10m", help="Trouble if the oldest due job waits longer. Default: 10m.")
@click.option("--max-dead", "dead", type=click.IntRange(0, figures_of.MOST), metavar="N", help="Trouble if more jobs are dead. Default: 10.")
@click.option("--max-held", "held", type=click.IntRange(0, figures_of.MOST), metavar="N", help="Trouble if more jobs are held. Default: 0.")
@click.option("--max-failure-rate", "failures", callback=_share, metavar="P%", help="Trouble if more of the last hour's attempts failed. Default: 50%.")
@click.option("--max-silence", "silence", type=DURATION, metavar="5m", help="Trouble if no run came for so long. Default: three usual intervals of cron, 5m at least.")
@click.option("--max-run", "lock", type=DURATION, metavar="30m", help="Trouble if one run is at work for longer. Default: 30m.")
@json_option
@pass_session
def check(session: Session, /, as_json: bool, **given: float | None) -> None:
    """
    Say in one line whether all is well: exit 0 if it is, 1 and every cause if not, 75 if the database is away.

    What is not given here is as ASYNCSEND_ALERT_LIMITS says.

    \b
    Example, for Nagios or as a cron entry of its own:
      asyncsend check --max-lag 10m --max-dead 20 --max-silence 5m
    """  # noqa: D301
    limits = alerts.limits_of(session.settings, **{name: value for name, value in given.items() if value is not None})
    figures = figures_of.collect(session.store, seen_from_here(session.store, session.settings.lock_path))
    found = alerts.causes(figures, limits)
    lag = figures.lag()
    if as_json:
        print_json({"ok": not found, "causes": found, "lag_seconds": lag, "dead": figures.jobs(State.DEAD), "held": figures.jobs(State.HELD)})
    elif found:
        click.echo(printable("TROUBLE: " + "; ".join(found.values())))
    else:
        due = f"the oldest due job waits for {spoken(lag)}" if lag is not None else "nothing is due"
        click.echo(printable(f"OK: {due}, {figures_of.counted(figures.jobs(State.DEAD))} dead; {explain.next_run(figures.standing, session.settings.timezone, figures.ticks)}"))
    if found:
        sys.exit(EXIT_TROUBLE)
