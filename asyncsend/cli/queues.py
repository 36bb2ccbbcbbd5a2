"""`pause` and `resume`."""

from __future__ import annotations

import click

from asyncsend import times
from asyncsend.cli.session import DURATION, Session, pass_session
from asyncsend.errors import NotFound
from asyncsend.job import checked_queue


@click.command()
@click.argument("queue")
@click.option("--for", "seconds", type=DURATION, metavar="2h", help="Resume by itself after so long.")
@pass_session
def pause(session: Session, queue: str, seconds: float | None) -> None:
    """Claim nothing from QUEUE until it is resumed; jobs may still be added. A run at work stops within one batch."""
    session.store.pause(checked_queue(queue), seconds)
    session.note("pause", [], queue=queue)
    click.echo(f"Queue {queue} is paused {'for ' + times.spoken(seconds) if seconds is not None else 'until `asyncsend resume ' + queue + '`'}.", err=True)


@click.command()
@click.argument("queue")
@pass_session
def resume(session: Session, queue: str) -> None:
    """Claim from QUEUE again."""
    if not session.store.resume(checked_queue(queue)):
        raise NotFound(f"queue {queue} is not paused")
    session.note("resume", [], queue=queue)
    click.echo(f"Queue {queue} is served again.", err=True)
