"""`asyncsend dead …`: the dead letters."""

from __future__ import annotations

import json

import click

from asyncsend import deadletters
from asyncsend.cli import jobs as listing
from asyncsend.cli.session import Session, as_row, bulk_options, filters, json_option, pass_session, print_json, sure
from asyncsend.errors import Conflict
from asyncsend.job import State


@click.group()
def dead() -> None:
    """Jobs that gave up: look, replay, purge, export."""


@dead.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, metavar="N", help="At most N jobs. Default: 50.")
@json_option
@pass_session
def list_(session: Session, queue: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters, the newest first."""
    found = session.store.jobs(state=State.DEAD.value, queue=queue, task=task, limit=limit)
    if as_json:
        print_json([as_row(one) for one in found])
    else:
        listing.print_jobs(session, found)


dead.add_command(listing.job, "show")


@dead.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="All of them, or those that --queue and --task name.")
@filters
@bulk_options
@click.pass_context
def replay(ctx: click.Context, uids: tuple[str, ...], everything: bool, queue: str | None, task: str | None, yes: bool, dry_run: bool) -> None:
    """Make dead letters ready again, with fresh attempts (the same as `asyncsend retry`)."""
    ctx.invoke(listing.retry, uids=uids, everything=everything, queue=queue, task=task, yes=yes, dry_run=dry_run)


@dead.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="All of them, or those that --queue and --task name.")
@filters
@bulk_options
@pass_session
def purge(session: Session, uids: tuple[str, ...], everything: bool, queue: str | None, task: str | None, yes: bool, dry_run: bool) -> None:
    """Delete dead letters for good."""
    if bool(uids) == everything:
        raise click.UsageError("name the dead letters to purge, or say --all")
    if not everything:
        found = session.find_all(uids)
        if sure(f"delete {len(found)} dead letters for good", yes=yes, dry_run=dry_run):
            gone = session.store.purge([one.id for one in found])
            if gone < len(found):
                raise Conflict(f"{len(found) - gone} of them are not dead and were kept; {gone} were deleted")
            session.note("purge", [one.id for one in found])
            click.echo(f"{gone} deleted.", err=True)
        return
    number = session.store.count(state=State.DEAD.value, queue=queue, task=task)
    if number and sure(f"delete {number} dead letters for good", yes=yes, dry_run=dry_run):
        gone = deadletters.purge_all(session.store, queue=queue, task=task)
        session.note("purge", [], number=gone)
        click.echo(f"{gone} deleted.", err=True)
    elif not number:
        click.echo("There are no dead letters.", err=True)


@dead.command()
@filters
@pass_session
def export(session: Session, queue: str | None, task: str | None) -> None:
    """Print the dead letters as JSON lines, payloads included."""
    for one in deadletters.each(session.store, queue=queue, task=task):
        click.echo(json.dumps(as_row(one), ensure_ascii=True))
