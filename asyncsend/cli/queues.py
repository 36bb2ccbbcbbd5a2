"""`pause` and `resume`."""

from __future__ import annotations

import click

from asyncsend import times
from asyncsend.channels import BREAKER, OF_ACCOUNT
from asyncsend.cli.session import DURATION, Session, pass_session
from asyncsend.deadletters import slices
from asyncsend.errors import NotFound
from asyncsend.job import checked_queue
from asyncsend.store.rows import Which


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
    """Claim from QUEUE again, or send through a stopped channel again, such as email or host:api.example.com."""
    opened = session.store.resume_channel(queue)
    if opened:
        woken = 0
        for reason in (BREAKER, *OF_ACCOUNT):  # those of other channels just go on waiting
            for ids in slices(session.store, Which(state="ready", reason=reason)):
                woken += session.store.wake(ids, reason)
        session.note("resume", [], channel=queue)
        click.echo(f"{queue} is open again, from the next run on; {woken} waiting jobs are due now.", err=True)
    if not session.store.resume(queue if opened else checked_queue(queue)):  # a queue may have the name of a channel
        if opened:
            return
        raise NotFound(f"queue {queue} is not paused, and no channel of this name is stopped")
    session.note("resume", [], queue=queue)
    click.echo(f"Queue {queue} is served again.", err=True)
