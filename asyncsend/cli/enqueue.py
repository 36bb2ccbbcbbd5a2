"""`asyncsend enqueue`: one job from the command line, or one for each line of a file."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from asyncsend.batches import follower, join, push_channel
from asyncsend.cli.session import DURATION, Session, json_option, pass_session
from asyncsend.errors import InvalidJob
from asyncsend.job import NewBatch
from asyncsend.producer import new_job
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.tasks import Tasks


@click.command()
@click.argument("task")
@click.argument("payload", default="{}", metavar="[JSON|@file|-]")
@click.option("--queue", metavar="Q", help="Queue. Default: the task's own.")
@click.option("--priority", type=int, default=0, metavar="N", help="Higher runs first within its queue. Default: 0.")
@click.option("--delay", type=DURATION, metavar="5m", help="Not before so long from now.")
@click.option("--at", metavar="TIME", help='Not before this time: "2026-12-01 09:00".')
@click.option("--expires", type=DURATION, metavar="1h", help="Cancel it if it has not started by then.")
@click.option("--max-attempts", type=int, metavar="N", help="Dead after N failed attempts. Default: the task's own number.")
@click.option("--timeout", type=DURATION, metavar="60s", help="Kill an attempt after so long. Default: the task's own.")
@click.option("--unique", metavar="KEY", help="Add nothing while an unfinished job has this key.")
@click.option("--order-key", metavar="KEY", help="One after the other, in the order they were added, with all jobs of this key.")
@click.option("--concurrency-key", metavar="KEY", help="As many of this key at a time as ASYNCSEND_CONCURRENCY says.")
@click.option("--batch", metavar="NAME", help="Put it into this batch.")
@click.option("--then", nargs=2, metavar="TASK JSON", help="With --batch: what follows when every job is done.")
@click.option("--catch", nargs=2, metavar="TASK JSON", help="With --batch: what follows the first job that is dead.")
@click.option("--quiet", metavar="22:00-08:00", help="With --batch: none of it is started at this time of the day.")
@click.option("--deadline", metavar="TIME", help="With --batch: what has not started by then is cancelled.")
@click.option("--push", metavar="CHANNEL", help="With --batch: this channel of Pusher hears how far it is.")
@click.option("--finally", "finally_", nargs=2, metavar="TASK JSON", help="With --batch: what follows when nothing is left.")
@click.option("--uid", metavar="UID", help="Your own id: the same one never makes a second job.")
@click.option("--each", metavar="FILE", help="One job for each line of this CSV or .jsonl file, or of - (standard input).")
@click.option("--strict", is_flag=True, help="With --each: stop at the first bad line instead of skipping it.")
@click.option("--dry-run", is_flag=True, help="With --each: only read and check every line.")
@json_option
@pass_session
def enqueue(
    session: Session,
    task: str,
    payload: str,
    queue: str | None,
    priority: int,
    delay: float | None,
    at: str | None,
    expires: float | None,
    max_attempts: int | None,
    timeout: float | None,
    unique: str | None,
    order_key: str | None,
    concurrency_key: str | None,
    batch: str | None,
    quiet: str | None,
    deadline: str | None,
    push: str | None,
    then: tuple[str, str] | None,
    catch: tuple[str, str] | None,
    finally_: tuple[str, str] | None,
    uid: str | None,
    each: str | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """
    Add one job and print its uid; with --each, one job for each line.

    With --each the payload is a template: {{name}} in its strings, and in the keys, stands for the column of that name. The same
    command again adds only what is missing.

    \b
    Examples:
      asyncsend enqueue email '{"to":"ann@example.com","subject":"Hi","text":"Hello"}' --delay 5m
      asyncsend enqueue email @letter.json --each customers.csv --batch november --then email @sent.json
    """  # noqa: D301
    if each is None and (strict or dry_run or as_json):
        raise click.UsageError("--strict, --dry-run and --json belong to --each FILE")
    if batch is None and (then or catch or finally_ or quiet or deadline or push):
        raise click.UsageError("--then, --catch, --finally, --quiet, --deadline and --push belong to --batch NAME")
    if each is not None and uid is not None:
        raise click.UsageError("--uid names one job: with --each every line has a uid of its own")
    if each == payload == "-":
        raise click.UsageError("standard input cannot be both the template and the lines: write one of them to a file")
    followers = [then, catch, finally_]
    if names := [task] * (queue is None) + [one[0] for one in followers if one]:
        learn_tasks(session, *names)
    together = None
    if batch is not None:
        first, second, last = (follower(one[0], read_payload(one[1])) if one else None for one in followers)
        together = NewBatch(batch, batch, True, first, second, last, quiet, session.instant(deadline) if deadline else None, push and push_channel(push)).checked()
    options: dict[str, Any] = {
        "queue": queue, "priority": priority, "delay": delay, "at": session.instant(at) if at else None, "expires": expires,
        "max_attempts": max_attempts, "timeout": timeout, "batch": batch,
    }  # fmt: skip
    if each is not None:
        from asyncsend.cli.each import enqueue_each

        keys = {name: key for name, key in (("unique", unique), ("order_key", order_key), ("concurrency_key", concurrency_key)) if key is not None}
        enqueue_each(session, task, read_payload(payload), each, options, together, keys=keys, strict=strict, dry_run=dry_run, as_json=as_json)
        if not dry_run:
            session.warn_if_no_run_comes()
        return
    job = new_job(task, read_payload(payload), unique=unique, uid=uid, order_key=order_key, concurrency_key=concurrency_key, **options)
    if together is not None:
        add_batch(session, together, sealed=True)
    made = session.store.insert([job], max_depth=session.settings.max_depth)[0]
    if made != job.uid:
        click.echo(f"An unfinished job has the key {unique!r} already; nothing was added.", err=True)
    click.echo(printable(made))
    session.warn_if_no_run_comes()


def add_batch(session: Session, wanted: NewBatch, *, sealed: bool) -> None:
    """Make the batch, or add to the one that is there and say what that changes."""
    if not session.store.add_batch(wanted, sealed=sealed):
        for change in join(session.store, wanted):
            click.echo(printable(change), err=True)


def learn_tasks(session: Session, *names: str) -> Tasks:
    """The tasks of this host, after the modules of ASYNCSEND_TASKS were imported if one of these could be theirs: only they know its queue."""
    from asyncsend.tasks import BUILT_IN, Tasks

    tasks = Tasks(session.settings)
    own = [name for name in names if name not in BUILT_IN and not name.startswith(("command.", "webhook."))]
    if not session.settings.task_modules or not own:
        return tasks
    with contextlib.redirect_stdout(sys.stderr):  # what is printed on stdout is the uid
        tasks.load_modules()
    for module, why in tasks.failed_modules.items():
        click.echo(f"{module} cannot be imported ({why}): if it defines {printable(own[0], 100)!r}, its own queue is not known here.", err=True)
    return tasks


def read_payload(payload: str) -> str:
    """The text itself, of the file after @, or of standard input for -."""
    try:
        if payload == "-" and sys.stdin is None:
            raise InvalidJob("the payload cannot be read: standard input is closed")
        if payload == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        if payload.startswith("@"):
            with open(payload[1:], "rb") as file:
                return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJob(f"the payload is not UTF-8 at byte {error.start}: convert it with `iconv -f latin1 -t utf-8`") from error
    except (OSError, ValueError) as error:  # ValueError: no file has a NUL in its name
        raise InvalidJob(f"cannot read {payload[1:]} ({getattr(error, 'strerror', error)})") from error
    return payload
