"""`asyncsend dead …`: the dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from asyncsend import deadletters
from asyncsend.cli import jobs as listing
from asyncsend.cli.session import Session, bulk_options, json_option, pass_session, print_json, sure, which_option
from asyncsend.errors import Conflict
from asyncsend.job import as_row
from asyncsend.outcome import State

if TYPE_CHECKING:
    from asyncsend.store.rows import Which


@click.group()
def dead() -> None:
    """Jobs that gave up: look, replay, purge, export."""


@dead.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, metavar="N", help="At most N jobs. Default: 50.")
@json_option
@pass_session
@which_option
def list_(session: Session, limit: int, as_json: bool, which: Which) -> None:
    """List the dead letters, the newest first."""
    found = session.store.jobs(**which._replace(state="dead")._asdict(), limit=limit)
    if as_json:
        print_json([as_row(one) for one in found])
    else:
        listing.print_jobs(session, found)


dead.add_command(listing.job, "show")


@dead.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="All of them, or those that the options name.")
@click.option("--to-queue", metavar="QUEUE", help="Put them into this queue instead of their own.")
@bulk_options
@pass_session
@which_option
def replay(session: Session, uids: tuple[str, ...], everything: bool, to_queue: str | None, yes: bool, dry_run: bool, which: Which) -> None:
    """Make dead letters ready again, with fresh attempts; what became of the earlier ones stays."""
    listing.make_ready(session, "replay", uids, everything, which._replace(state="dead"), (State.DEAD,), to_queue, yes, dry_run)


@dead.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="All of them, or those that the options name.")
@bulk_options
@pass_session
@which_option
def purge(session: Session, uids: tuple[str, ...], everything: bool, yes: bool, dry_run: bool, which: Which) -> None:
    """Delete dead letters for good; they do not go to the archive."""
    which = which._replace(state="dead")
    listing.chosen("purge", uids, everything, which)
    if not everything:
        found = session.find_all(uids)
        if sure(f"delete {len(found)} dead letters for good", yes=yes, dry_run=dry_run):
            gone = session.store.purge([one.id for one in found])
            if gone < len(found):
                raise Conflict(f"{len(found) - gone} of them are not dead and were kept; {gone} were deleted")
            session.note("purge", [one.id for one in found])
            click.echo(f"{gone} deleted.", err=True)
        return
    number = session.store.count(**which._asdict())
    if number and sure(f"delete {number} dead letters for good", yes=yes, dry_run=dry_run):
        gone = deadletters.purge(session.store, which)
        session.note("purge", [], number=gone)
        click.echo(f"{gone} deleted.", err=True)
    elif not number:
        click.echo("There are no dead letters.", err=True)


@dead.command()
@pass_session
@which_option
def export(session: Session, which: Which) -> None:
    """Print the dead letters as JSON lines, with their payloads and what became of each attempt."""
    for ids in deadletters.slices(session.store, which._replace(state="dead")):
        for part in deadletters.whole(session.store, ids):
            for one, history in part:
                click.echo(json.dumps(as_row(one, history), ensure_ascii=True))
