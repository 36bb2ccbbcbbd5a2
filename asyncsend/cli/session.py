"""What commands share: the settings, the store behind them, and how rows are shown."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from asyncsend import config, schema, times
from asyncsend.errors import Conflict, InvalidJob, NotFound
from asyncsend.store import open_store
from asyncsend.text import printable, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from asyncsend.config import Settings
    from asyncsend.job import Job
    from asyncsend.store import Store

    _ParamType = click.ParamType[float]
else:
    _ParamType = click.ParamType  # click 8.1 knows no parameter here


class Duration(_ParamType):
    """`90`, `90s`, `5m`, `2h`, `1d`, `1h30m` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else times.duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


class Session:
    """Settings and store of one command, opened when first asked for."""

    @functools.cached_property
    def settings(self) -> Settings:
        return config.load(os.environ)

    @functools.cached_property
    def store(self) -> Store:
        """The store, its tables checked to be of our version."""
        store = open_store(self.settings.database_url, self.settings.table_prefix)
        click.get_current_context().call_on_close(store.close)
        schema.verify(store.schema_version())
        return store

    def find(self, ref: str) -> Job:
        """The job with this uid, else with this id; a person is told if there are both. NotFound if there is neither."""
        jobs = self._matches(ref)
        if len(jobs) > 1:
            click.echo(_two(ref, jobs), err=True)
        return jobs[0]

    def find_all(self, refs: Iterable[str]) -> list[Job]:
        """These jobs, to be changed, each once however often it was named; NotFound or Conflict before anything is changed."""
        found: dict[int, Job] = {}
        for ref in refs:
            jobs = self._matches(ref)
            if len(jobs) > 1:
                raise Conflict(f"{_two(ref, jobs)}. Nothing was changed")
            found[jobs[0].id] = jobs[0]
        return list(found.values())

    def _matches(self, ref: str) -> list[Job]:
        jobs = self.store.matches(ref)
        if not jobs:
            raise NotFound(f"there is no job {printable(ref, 70)!r}: `asyncsend jobs` lists them; finished ones are deleted after a while")
        return jobs

    def when(self, moment: datetime | None) -> str:
        return times.stamp(moment, self.settings.timezone)

    def instant(self, text: str) -> float:
        try:
            return times.instant(text, self.settings.timezone)
        except ValueError as error:
            raise InvalidJob(f"--at: {error}") from error

    def past(self, option: str, text: str | None) -> float | None:
        """Seconds since 1970 of `2h`, which is so long ago by the database's clock, or of a time; None for None."""
        if text is None:
            return None
        try:
            ago = times.duration(text)
        except ValueError:
            try:
                return max(1.0, min(times.instant(text, self.settings.timezone), times.LAST_INSTANT))
            except ValueError as error:
                raise InvalidJob(f"{option}: {printable(str(error), 200)}, or 2h for two hours ago") from error
        return max(1.0, self.store.standing("default").now.timestamp() - ago)

    def warn_if_no_run_comes(self) -> None:
        """Tell whoever enqueues that it goes nowhere."""
        from asyncsend import explain
        from asyncsend.status import SCOPE

        said = explain.unseen(self.store.silence(SCOPE))
        if said:
            click.echo(f"asyncsend: {said}", err=True)

    def note(self, did: str, jobs: Iterable[int | str], **facts: Any) -> None:
        """Leave a line in the log: a person changed something."""
        from asyncsend.log import Log

        log = Log(self.settings.log_path, secrets=self.settings.secrets, zone=self.settings.timezone)
        log.event("command", did=did, jobs=",".join(map(str, jobs))[:500] or None, **facts)
        log.close()


def _two(ref: str, jobs: list[Job]) -> str:
    return f"{ref} is the uid of the job with id {jobs[0].id}, and the id of another job: say uid={ref} or id={ref}"


pass_session = click.make_pass_decorator(Session, ensure=True)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` on a listing."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--queue` and `--task`, which every listing of jobs takes."""
    command = click.option("--task", help="Only jobs of this task.")(command)
    return click.option("--queue", help="Only jobs of this queue.")(command)


def which_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--queue --task --reason --since --before` as one argument, `which`: the jobs they mean, of any state. Stands under `pass_session`."""

    @filters
    @click.option("--reason", help="Only jobs with this reason: max-attempts, bad-payload, crash-loop, …")
    @click.option("--since", metavar="WHEN", help="Only what ended since: 2h (ago), or 2026-11-20 09:00.")
    @click.option("--before", metavar="WHEN", help="Only what ended before: 7d (ago), or 2026-11-20 09:00.")
    @functools.wraps(command)
    def with_which(session: Session, *args: Any, queue: str | None, task: str | None, reason: str | None, since: str | None, before: str | None, **options: Any) -> Any:
        if reason is not None and not reason.isascii():
            raise InvalidJob(f"--reason {printable(reason, 80)!r} can be no job's: reasons are ASCII, `asyncsend dead list` shows them")
        from asyncsend.store.rows import Which

        which = Which(None, queue, task, reason, session.past("--since", since), session.past("--before", before))
        return command(session, *args, which=which, **options)

    return with_which


def bulk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--yes` and `--dry-run`, which everything takes that changes many jobs at once."""
    command = click.option("--dry-run", is_flag=True, help="Only say what would be done.")(command)
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def print_json(value: Any) -> None:
    import json  # not for the run, which prints none

    click.echo(json.dumps(value, indent=2, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, widest: int = 60) -> None:
    """Aligned columns."""
    for line in table(head, rows, widest):
        click.echo(line)


def sure(question: str, *, yes: bool, dry_run: bool) -> bool:
    """Whether to go on: `--dry-run` never, `--yes` always, else a person is asked; without one the answer is no."""
    if dry_run:
        click.echo(f"Would: {question}")
        return False
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{question}: add --yes to do it without being asked")
    return click.confirm(question)
