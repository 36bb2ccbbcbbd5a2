"""`asyncsend batch …`: what belongs together, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncsend import batches, times
from asyncsend.cli.session import Session, json_option, pass_session, print_json, sure
from asyncsend.errors import NotFound
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.store.rows import BatchRow


@click.group()
def batch() -> None:
    """Jobs that belong together: how far they are, what failed, and stopping them."""


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, metavar="N", help="At most N batches. Default: 20.")
@json_option
@pass_session
def list_(session: Session, limit: int, as_json: bool) -> None:
    """List the batches, the newest first."""
    found = session.store.batches(limit)
    if as_json:
        print_json([_as_row(row) for row in found])
        return
    for row in found:
        click.echo(f"{row.uid}  {_line(row)}")
    if not found:
        click.echo("No batches.", err=True)


@batch.command()
@click.argument("ref", metavar="UID")
@json_option
@pass_session
def show(session: Session, ref: str, as_json: bool) -> None:
    """Show one batch, by its uid or name."""
    row = _found(session, ref)
    if as_json:
        print_json(_as_row(row))
        return
    click.echo(f"{row.uid}  {_line(row)}")
    click.echo("  " + ", ".join(f"{number} {state}" for state, number in row.counts.items() if number))
    if row.reason:
        click.echo(f"  {printable(row.reason)}")


@batch.command()
@click.argument("ref", metavar="UID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@pass_session
def cancel(session: Session, ref: str, yes: bool, dry_run: bool) -> None:
    """Start nothing more of a batch; what is running comes to its end."""
    row = _found(session, ref)
    waiting = row.counts["ready"] + row.counts["held"]
    if not sure(f"cancel {waiting} waiting jobs of the batch {row.uid}", yes=yes, dry_run=dry_run):
        return
    cancelled = batches.cancel(session.store, row.uid)
    session.note("batch-cancel", [], batch=row.uid)
    click.echo(f"{cancelled} jobs of the batch {row.uid} are cancelled.", err=True)


def _found(session: Session, ref: str) -> BatchRow:
    row = session.store.batch(ref)
    if row is None:
        raise NotFound(f"there is no batch {printable(ref, 80)!r}: `asyncsend batch list` shows them")
    return row


def _line(row: BatchRow) -> str:
    how = batches.progress(row)
    said = f"{how.percent:3} %  {how.total - how.left} of {how.total}"
    if how.per_hour is not None:
        said += f", {how.per_hour:,.0f} an hour"
    if how.eta is not None:
        said += f", through in {times.spoken(how.eta.total_seconds())}"
    for word, at in (("finished", row.finished_at), ("cancelled", row.cancelled_at)):
        if at is not None:
            said += f", {word}"
    if row.sealed_at is None:
        said += ", jobs are still being added"
    return f"{said}  {printable(row.name, 80)}"


def _as_row(row: BatchRow) -> dict[str, Any]:
    how = batches.progress(row)
    return {
        "uid": row.uid, "name": row.name, "progress": how.percent, "total": how.total, "left": how.left, "per_hour": how.per_hour,
        "eta_seconds": how.eta.total_seconds() if how.eta else None, "counts": row.counts, "allow_failures": row.allow_failures,
        **{name: value.isoformat() if value else None for name, value in (
            ("created_at", row.created_at), ("sealed_at", row.sealed_at), ("finished_at", row.finished_at), ("cancelled_at", row.cancelled_at))},
        "reason": row.reason,
    }  # fmt: skip
