"""`jobs`, `job`, `why`, `retry`, `cancel`, `release`: looking at jobs, and changing what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncsend import channels, deadletters, explain, topics
from asyncsend.cli.session import Session, bulk_options, filters, json_option, pass_session, print_json, print_table, sure, which_option
from asyncsend.errors import Conflict
from asyncsend.job import as_row, checked_queue
from asyncsend.outcome import State
from asyncsend.text import printable
from asyncsend.times import spoken

if TYPE_CHECKING:
    from asyncsend.job import Job
    from asyncsend.store.rows import Attempt, Receipt, Which

STATES = click.Choice([state.value for state in State])


@click.command()
@click.option("--state", type=STATES, help="Only jobs in this state.")
@filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, metavar="N", help="At most N jobs. Default: 50.")
@json_option
@pass_session
def jobs(session: Session, state: str | None, queue: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the newest first."""
    found = session.store.jobs(state=state, queue=queue, task=task, limit=limit)
    if as_json:
        print_json([as_row(job) for job in found])
        return
    print_jobs(session, found)
    if len(found) == limit:
        click.echo(f"The newest {limit} of {session.store.count(state=state, queue=queue, task=task)}; --limit shows more.", err=True)


def print_jobs(session: Session, found: list[Job]) -> None:
    head = ("id", "uid", "task", "queue", "state", "tries", "when", "reason")
    print_table(
        head,
        [(job.id, job.uid, job.task, job.queue, job.state.value, job.attempts, session.when(job.finished_at or job.run_at or job.created_at), job.reason) for job in found],
        widest=40,
    )


@click.command()
@click.argument("uid")
@json_option
@pass_session
def job(session: Session, uid: str, as_json: bool) -> None:
    """Show everything about one job, by its uid or id; `uid=…` or `id=…` where both could be meant."""
    found = session.find(uid)
    history = session.store.attempts([found.id])[found.id]
    told = _receipts(session, found)
    if as_json:
        print_json(as_row(found, history) | ({"receipts": [one._asdict() | {"at": one.at and one.at.isoformat()} for one in told]} if told else {}))
        return
    for name, value in as_row(found).items():
        shown = session.when(getattr(found, name)) if name.endswith("_at") and value else value
        if shown is not None:
            click.echo(f"{name:16} {printable(str(shown), 2000)}")
    click.echo(f"{'why':16} {_why(session, found)}")
    for line in _told(session, history):
        click.echo(line)
    for one in told:
        click.echo(f"{'receipt':16} {printable(one.provider + ': ' + explain.reported(one, session.settings.timezone), 1000)}")


def _receipts(session: Session, found: Job) -> list[Receipt]:
    """What gateways report of a job's messages; only an SMS has such."""
    if found.task != "sms":
        return []
    from asyncsend.store import receipts

    return receipts.of_job(session.store, found.idempotency_key)


def _told(session: Session, history: list[Attempt]) -> list[str]:
    """What became of its attempts, one line each, the oldest first; one that just finished has none."""
    lines = [f"{'':16} the {history[0].number - 1} before are forgotten"] if history and history[0].number > 1 else []
    for one in history:
        said = f"{session.when(one.ended_at)}  {one.became} after {spoken(one.seconds)} in run {one.run} ({one.reason}): {one.error or ''}"
        lines.append(f"{'attempt ' + str(one.number):16} {printable(said, 1000)}")
    return lines


@click.command()
@click.argument("uid")
@pass_session
def why(session: Session, uid: str) -> None:
    """Say in one sentence where a job is and what it waits for."""
    click.echo(_why(session, session.find(uid)))


def _why(session: Session, found: Job) -> str:
    store = session.store
    seen = explain.around(store, session.settings, found)
    if found.state is State.READY and channels.has_one(found.task):
        topics.attach(store, [found])
        taken = channels.of_job(found)
        seen = seen._replace(stopped=next((one for one in store.stopped_channels() if one.name == taken), None))
    return printable(explain.why(found, seen._replace(receipts=_receipts(session, found))))


@click.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="Every dead job, or those that the options name.")
@click.option("--to-queue", metavar="QUEUE", help="Put them into this queue instead of their own.")
@bulk_options
@pass_session
@which_option
def retry(session: Session, uids: tuple[str, ...], everything: bool, to_queue: str | None, yes: bool, dry_run: bool, which: Which) -> None:
    """Make dead or cancelled jobs ready again, and waiting ones due now, with fresh attempts."""
    make_ready(session, "retry", uids, everything, which._replace(state="dead"), (State.DEAD, State.CANCELLED, State.READY), to_queue, yes, dry_run)


@click.command()
@click.argument("uids", nargs=-1, metavar="UID…")
@click.option("--all", "everything", is_flag=True, help="Every held job, or those that the options name.")
@bulk_options
@pass_session
@which_option
def release(session: Session, uids: tuple[str, ...], everything: bool, yes: bool, dry_run: bool, which: Which) -> None:
    """Let held jobs go: they become ready. Where the outcome was unknown, this may do the thing a second time."""
    make_ready(session, "release", uids, everything, which._replace(state="held"), (State.HELD,), None, yes, dry_run)


def chosen(verb: str, uids: tuple[str, ...], everything: bool, which: Which) -> None:
    """UsageError unless either jobs are named, or all are meant that the options name."""
    if bool(uids) == everything:
        raise click.UsageError(f"name the jobs to {verb}, or say --all")
    if uids and any(which._replace(state=None)):
        raise click.UsageError("--queue, --task, --reason, --since and --before choose among --all; --to-queue puts jobs into another queue")


def make_ready(
    session: Session, verb: str, uids: tuple[str, ...], everything: bool, which: Which, states: tuple[State, ...], queue: str | None, yes: bool, dry_run: bool
) -> None:
    """What retry, release and `dead replay` do."""
    chosen(verb, uids, everything, which)
    if queue is not None:
        checked_queue(queue)
    if everything:
        number = session.store.count(**which._asdict())
        if not number or not sure(f"{verb} {number} {which.state} jobs", yes=yes, dry_run=dry_run):
            click.echo("Nothing changed.", err=True)
            return
        done, refused = deadletters.replay(session.store, deadletters.slices(session.store, which), (State(str(which.state)),), queue)
        session.note(verb, [], number=done, queue=queue)
        click.echo(f"{done} jobs are ready." + (f" {refused} were not: their unique key is taken." if refused else ""), err=True)
        return
    found = session.find_all(uids)
    if dry_run:
        click.echo(f"Would: {verb} {len(found)} jobs")
        return
    for one in found:  # looked at before the first is changed
        if one.state not in states:
            raise Conflict(f"job {one.uid or one.id} is {one.state.value}: only {', '.join(states)} jobs can be given to {verb}. Nothing was changed")
    for one in found:
        if not session.store.make_ready(one.id, states, queue):
            raise Conflict(f"job {one.uid or one.id} is {session.find('id=' + str(one.id)).state.value}: only {', '.join(states)} jobs can be given to {verb}")
    session.note(verb, [one.id for one in found], queue=queue)
    click.echo(f"{_counted(found)} ready.", err=True)


@click.command()
@click.argument("uids", nargs=-1, required=True, metavar="UID…")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@pass_session
def cancel(session: Session, uids: tuple[str, ...], dry_run: bool) -> None:
    """Cancel jobs that have not started: ready or held ones."""
    found = session.find_all(uids)
    if dry_run:
        click.echo(f"Would: cancel {len(found)} jobs")
        return
    for one in found:
        if one.state not in (State.READY, State.HELD):
            raise Conflict(f"job {one.uid or one.id} is {one.state.value}: only ready and held jobs can be cancelled. Nothing was changed")
    for one in found:
        if not session.store.cancel(one.id, "by-command"):
            raise Conflict(f"job {one.uid or one.id} is {session.find('id=' + str(one.id)).state.value}: only ready and held jobs can be cancelled")
    session.note("cancel", [one.id for one in found])
    click.echo(f"{_counted(found)} cancelled.", err=True)


def _counted(found: list[Job]) -> str:
    """`1 job (id 7) is`, `3 jobs (id 7, 8, 9) are`: a person may have named them by another number."""
    ids = ", ".join(str(one.id) for one in found[:10]) + (", …" if len(found) > 10 else "")
    return f"{len(found)} {'job' if len(found) == 1 else 'jobs'} (id {ids}) {'is' if len(found) == 1 else 'are'}"
