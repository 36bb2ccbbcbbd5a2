"""
The command line: words in, words out, exit codes. Every command is a few lines over the rooms below it.

A command's module is imported when that command is called, so that the one cron starts each minute pays for itself only.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any

import click

from asyncsend.errors import EXIT_TEMPORARY, AsyncsendError
from asyncsend.text import printable

# command: the module of this package it lives in
COMMANDS = {
    "init": "setup", "crontab": "setup", "config": "setup", "doctor": "doctor", "demo": "demo",
    "run": "run", "status": "status", "enqueue": "enqueue",
    "jobs": "jobs", "job": "jobs", "why": "jobs", "retry": "jobs", "cancel": "jobs", "release": "jobs", "dead": "dead", "batch": "batches",
    "pause": "queues", "resume": "queues", "schedule": "schedules", "prune": "prune", "metrics": "metrics", "check": "metrics",
    "publish": "topics", "subscribe": "topics", "unsubscribe": "topics", "topics": "topics", "reconcile": "reconcile",
    "preview": "preview", "suppress": "suppress",
}  # fmt: skip


class Commands(click.Group):
    """Finds each command when it is asked for, and turns our errors into one line and an exit code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"asyncsend.cli.{COMMANDS[name]}"), name)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            try:
                argument.encode("utf-8")
            except UnicodeEncodeError:  # no row could hold it, so no command can mean it
                raise click.UsageError(f"the argument {printable(argument, 80)!r} is not UTF-8: convert it with `iconv -f latin1 -t utf-8`") from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            click.echo(f"asyncsend: the output cannot be written ({error.strerror}); what was asked for may be done", err=True)
            sys.exit(EXIT_TEMPORARY)
        except AsyncsendError as error:
            click.echo(printable(f"asyncsend: {error}"), err=True)
            sys.exit(error.exit_code)


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from asyncsend import __version__

        click.echo(f"asyncsend {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and leave.")
def cli() -> None:
    """
    Background jobs for sites that have cron and MySQL and nothing else.

    \b
    A page inserts one row; each minute cron starts `asyncsend run`, which sends it.
      asyncsend init        make the tables
      asyncsend crontab     print the line to paste into cron
      asyncsend status      is it working?
    """  # noqa: D301 - \b is click's own sign
