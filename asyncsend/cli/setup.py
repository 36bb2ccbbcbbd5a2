"""`init`, `crontab`, `config`: what is done once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from asyncsend import config as configuration
from asyncsend import schema
from asyncsend.cli.session import Session, json_option, pass_session, print_json, print_table
from asyncsend.errors import ConfigurationError
from asyncsend.store import open_store


@click.command()
@click.option("--print", "only_print", is_flag=True, help="Only print the DDL for MySQL; connects to nothing.")
@pass_session
def init(session: Session, only_print: bool) -> None:
    """
    Make the tables, or bring them to this version. Safe to repeat.

    \b
    Example, without SSH:
      asyncsend init --print > schema.sql     and paste it into phpMyAdmin
    """  # noqa: D301
    if only_print:
        click.echo(schema.with_prefix(schema.packaged("schema.sql"), session.settings.table_prefix), nl=False)
        return
    settings = session.settings
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {settings.home} cannot be made ({error.strerror}): set ASYNCSEND_HOME to one that can") from error
    store = open_store(settings.database_url, settings.table_prefix)
    dialect = "sqlite" if settings.database_url.startswith("sqlite") else "mysql"
    if dialect == "sqlite":
        from asyncsend.store.sqlite import SQLiteStore

        assert isinstance(store, SQLiteStore)
        store.create()
    try:
        applied = schema.install(store, dialect, settings.table_prefix)
    finally:
        store.close()
    did = f"applied version {', '.join(map(str, applied))}" if applied else "nothing to do"
    click.echo(f"The tables are ready in the {store.name} ({did}). Next: `asyncsend crontab`.", err=True)


@click.command()
@pass_session
def crontab(session: Session) -> None:
    """Print the line to paste into cron: absolute paths, silent, once a minute."""
    line = command_line(session.settings).replace("%", r"\%")  # to cron a bare % is a line break (crontab(5))
    click.echo(f"* * * * * {line}")
    unseen = sorted(name for name, (_, origin) in session.settings.origins.items() if origin == "environment" and name != "ASYNCSEND_HOME")
    if unseen:
        click.echo(f"Cron will not see {', '.join(unseen)} of your environment: write them into {session.settings.env_path} (mode 0600).", err=True)


def command_line(settings: configuration.Settings) -> str:
    """The command as cron needs it: cron knows no PATH of yours, and no ASYNCSEND_HOME."""
    import shlex

    script = Path(sys.argv[0]).absolute()
    program = shlex.quote(str(script)) if script.name == "asyncsend" and os.access(script, os.X_OK) else f"{shlex.quote(sys.executable)} -m asyncsend"
    home = settings.origins["ASYNCSEND_HOME"][1] != "default"
    return f"{'ASYNCSEND_HOME=' + shlex.quote(str(settings.home)) + ' ' if home else ''}{program} run"


@click.command()
@click.option("--show-origin", is_flag=True, help="Say where each value comes from.")
@json_option
@pass_session
def config(session: Session, show_origin: bool, as_json: bool) -> None:
    """List every setting; passwords are shown as ***."""
    origins = session.settings.origins
    if session.settings.email_redirect:
        click.echo(f"TEST MODE: every mail goes to {session.settings.email_redirect}, none to its own address (ASYNCSEND_EMAIL_REDIRECT).", err=True)
    rows = [
        {"name": name, "value": configuration.masked(name, value), "origin": origin, "meaning": configuration.DECLARED.get(name, ("", "a program for command tasks"))[1]}
        for name, (value, origin) in origins.items()
    ]
    if as_json:
        print_json(rows)
    elif show_origin:
        print_table(("setting", "value", "origin"), [(row["name"], row["value"], row["origin"]) for row in rows])
    else:
        print_table(("setting", "value", "meaning"), [(row["name"], row["value"], row["meaning"]) for row in rows], widest=90)
