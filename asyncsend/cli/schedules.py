"""`asyncsend schedule …`: what recurs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncsend import schedules
from asyncsend.cli.enqueue import learn_tasks, read_payload
from asyncsend.cli.session import Session, json_option, pass_session, print_json, print_table
from asyncsend.errors import InvalidJob, NotFound
from asyncsend.producer import new_job
from asyncsend.status import SCOPE
from asyncsend.text import printable
from asyncsend.times import stamp, zone

if TYPE_CHECKING:
    from datetime import datetime

    from asyncsend.store.rows import Schedule

SHOWN = 3  # next times


@click.group()
def schedule() -> None:
    """Jobs that recur: one crontab line serves them all."""


@schedule.command()
@click.argument("name")
@click.argument("cron")
@click.argument("task")
@click.argument("payload", default="{}", metavar="[JSON|@file|-]")
@click.option("--tz", metavar="ZONE", help="Zone of the times, such as Europe/Paris. Default: ASYNCSEND_TIMEZONE, else UTC.")
@click.option("--queue", metavar="Q", help="Queue. Default: the task's own.")
@click.option("--priority", type=int, default=0, metavar="N", help="Higher runs first within its queue. Default: 0.")
@click.option("--catch-up", type=click.Choice(schedules.CATCH_UP), default="one", help="Jobs for times that were missed. Default: one.")
@click.option("--replace", is_flag=True, help="Change the schedule of this name, if there is one.")
@pass_session
def add(
    session: Session, name: str, cron: str, task: str, payload: str, tz: str | None, queue: str | None, priority: int, catch_up: str, replace: bool
) -> None:  # fmt: skip
    """
    Make a job of TASK each time CRON says: minute, hour, day of month, month, day of week.

    \b
    Example, at 2:00 each night:
      asyncsend schedule add nightly "0 2 * * *" report.build '{"x":1}' --tz Europe/Paris
    """  # noqa: D301
    tz = tz or getattr(session.settings.timezone, "key", None) or "UTC"
    tasks = learn_tasks(session, task)
    job = new_job(task, read_payload(payload), queue=queue, priority=priority)
    made = schedules.new(name, cron, tz, job, catch_up, session.store.standing(SCOPE).now)
    if task not in tasks.names():
        click.echo(f"Warning: {tasks.why_missing(task)}", err=True)
    if not session.store.add_schedule(made, replace=replace):
        click.echo(f"Schedule {name} is there already, just like that; nothing was changed.", err=True)
        return
    session.note("schedule", [], schedule=name, cron=cron, tz=tz)
    _say_next(made.name, made.tz, made.next_at)


@schedule.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List the schedules with their next three times, each in its own zone."""
    now, found = session.store.standing(SCOPE).now, session.store.schedules()
    if as_json:
        print_json([_as_row(one, now) for one in found])
        return
    head = ("name", "cron", "zone", "task", "queue", "catch-up", "last", *("next", "then", "then")[:SHOWN])
    rows = []
    for one in found:
        coming = _coming(one, now)
        shown = [_stamp(moment, one.tz) for moment in coming] or ["paused" if one.paused else "stopped" if one.next_at is None else "-"]
        rows.append((one.name, one.cron, one.tz, one.task, one.queue, one.catch_up, _stamp(one.last_at, one.tz), *shown, *[None] * (SHOWN - len(shown))))
    print_table(head, rows, widest=40)
    for one in found:
        if one.reason:
            click.echo(printable(f"{one.name}: {one.reason}", 400))


@schedule.command()
@click.argument("name")
@pass_session
def remove(session: Session, name: str) -> None:
    """Remove the schedule NAME; jobs it has made stay."""
    session.store.remove_schedule(_find(session, name).name)
    session.note("schedule-remove", [], schedule=name)
    click.echo(f"Schedule {name} is removed.", err=True)


@schedule.command()
@click.argument("name")
@pass_session
def pause(session: Session, name: str) -> None:
    """Make no jobs of NAME until it is resumed; times that pass meanwhile are not made up."""
    session.store.pause_schedule(_find(session, name).name)
    session.note("schedule-pause", [], schedule=name)
    click.echo(f"Schedule {name} is paused until `asyncsend schedule resume {name}`.", err=True)


@schedule.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Go on with the next time of NAME."""
    there = _find(session, name)
    next_at = schedules.first(there.cron, there.tz, session.store.standing(SCOPE).now)
    session.store.resume_schedule(name, next_at)
    session.note("schedule-resume", [], schedule=name)
    _say_next(name, there.tz, next_at)


def _find(session: Session, name: str) -> Schedule:
    # Looked for here and not by the database, to whose eyes some names are equal that are not.
    for there in session.store.schedules():
        if there.name == name:
            return there
    raise NotFound(f"there is no schedule {printable(name, 70)!r}: `asyncsend schedule list` shows them")


def _say_next(name: str, tz: str, next_at: datetime | None) -> None:
    click.echo(f"Schedule {name} is due next at {_stamp(next_at, tz)}.", err=True)


def _stamp(moment: datetime | None, tz: str) -> str:
    try:
        return stamp(moment, zone(tz))
    except ValueError:  # a row that somebody edited
        return stamp(moment, zone("UTC"))


def _coming(one: Schedule, now: datetime) -> list[datetime]:
    """The next times, the first of which may be due already; none for a schedule that makes nothing."""
    if one.paused or one.next_at is None:
        return []
    try:
        return [one.next_at, *schedules.following(one.cron, one.tz, max(now, one.next_at), SHOWN - 1)]
    except InvalidJob:
        return [one.next_at]


def _as_row(one: Schedule, now: datetime) -> dict[str, Any]:
    row = {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in one._asdict().items()}
    return {**row, "next": [moment.isoformat() for moment in _coming(one, now)]}
