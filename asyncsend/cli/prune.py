"""`asyncsend prune`: what a run does every ten minutes, by hand and to its end."""

from __future__ import annotations

import click

from asyncsend import retention
from asyncsend.cli.session import DURATION, Session, bulk_options, pass_session, sure
from asyncsend.errors import ConfigurationError
from asyncsend.outcome import FINISHED

ENDED = tuple(state.value for state in FINISHED)


@click.command()
@click.option("--state", "states", type=click.Choice(ENDED), multiple=True, help="Only jobs in this state; may be repeated.")
@click.option("--older", type=DURATION, metavar="DURATION", help="Those that ended longer ago than this. Default: as the settings say.")
@bulk_options
@pass_session
def prune(session: Session, states: tuple[str, ...], older: float | None, yes: bool, dry_run: bool) -> None:
    """Delete finished jobs that are old, now; with ASYNCSEND_ARCHIVE they go there first. What waits is never deleted."""
    settings, store = session.settings, session.store
    done, dead = (older, older) if older is not None else (settings.keep_done, settings.keep_dead)
    counted = store.expired(done, dead, states or ENDED)
    words = ", ".join(f"{counted[state]} {state}" for state in ENDED if counted.get(state))
    if not counted or not sure(f"{'archive and ' if settings.archive else ''}delete {words} jobs", yes=yes, dry_run=dry_run):
        click.echo("Nothing to prune." if not counted else "Nothing changed.", err=True)
        return
    deleted = 0
    try:
        while slice_ := store.prune(done, dead, retention.SLICE, states=states or ENDED, before=retention.before(store, settings)):
            deleted += slice_
    except OSError as error:
        raise ConfigurationError(f"{deleted} jobs are deleted, then it stopped: {retention.unwritable(error)}") from error
    finally:
        session.note("prune", [], number=deleted)
    click.echo(f"{deleted} deleted.", err=True)
