"""`reconcile`: held SMS whose outcome is unknown, looked up at their gateway."""

from __future__ import annotations

import click

from asyncsend import reconcile as room
from asyncsend.cli.jobs import chosen
from asyncsend.cli.session import Session, pass_session
from asyncsend.outcome import State
from asyncsend.store.rows import Which
from asyncsend.text import printable

MOST = 500  # jobs of one call of --all


@click.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help=f"Every held sms whose outcome is unknown, {MOST} at a time.")
@click.option("--dry-run", is_flag=True, help="Only ask the gateway and say what would be done.")
@pass_session
def reconcile(session: Session, uids: tuple[str, ...], everything: bool, dry_run: bool) -> None:
    """
    Ask the gateway whether a held SMS was sent: if it was, the job is done; if not, it is ready again.

    Twilio can be asked, from ten minutes after the attempt. What cannot be told stays held.

    \b
    Example:
      asyncsend reconcile --all --dry-run
    """  # noqa: D301
    chosen("reconcile", uids, everything, Which())
    store = session.store
    which = Which("held", None, "sms", "unknown", None, None)
    jobs = [one for part in store.parts(store.ids(which, MOST)) for one in store.these(part)] if everything else session.find_all(uids)
    done: dict[State, list[int]] = {State.DONE: [], State.READY: [], State.HELD: []}
    for job, state, why in room.reconcile(store, session.settings, sorted(jobs, key=lambda one: one.id), dry_run=dry_run):
        done[state].append(job.id)
        word = {State.DONE: "was sent, and is done", State.READY: "was not sent, and is ready again", State.HELD: "stays held"}[state]
        click.echo(printable(f"{'Would: ' if dry_run else ''}job {job.uid or job.id} {word}: {why}", 500))
    changed = [*done[State.DONE], *done[State.READY]]
    if changed and not dry_run:
        session.note("reconcile", changed)
    click.echo(f"{len(done[State.DONE])} done, {len(done[State.READY])} ready, {len(done[State.HELD])} held.", err=True)
