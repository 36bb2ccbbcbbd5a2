"""`asyncsend run` with options; without them cron.py is called at once."""

from __future__ import annotations

import sys

import click

from asyncsend import config, cron
from asyncsend.cli.session import DURATION


@click.command()
@click.option("--max-time", type=DURATION, metavar="50s", help="Stop claiming jobs after so long. Default: ASYNCSEND_MAX_TIME, 50s.")
@click.option("--max-jobs", type=click.IntRange(min=1), metavar="N", help="Stop claiming after N jobs.")
@click.option("--queues", metavar="critical,default,low", help="Serve only these queues, in this order; * is every other.")
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", help="Execute N jobs at the same time. Default: ASYNCSEND_WORKERS, 1.")
@click.option("--linger", is_flag=True, help="Wait for new jobs until --max-time is over, for a cron that comes rarely.")
def run(max_time: float | None, max_jobs: int | None, queues: str | None, workers: int | None, linger: bool) -> None:
    """
    Do one minute's work: take the lock, claim due jobs, execute them, leave.

    \b
    Example, in crontab:
      * * * * *  /home/you/asyncsend-env/bin/asyncsend run
    """  # noqa: D301
    try:
        order = config.queue_order(queues) if queues else None
    except ValueError as error:
        raise click.UsageError(f"--queues: {error}") from error
    sys.exit(cron.start(max_time=max_time, max_jobs=max_jobs, order=order, workers=workers, linger=linger))
