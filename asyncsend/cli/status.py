"""`asyncsend status`: is it working?"""

from __future__ import annotations

import click

from asyncsend import overview
from asyncsend.cli.session import Session, json_option, pass_session


@click.command()
@click.option("--channel", is_flag=False, flag_value="", metavar="[NAME]", help="Instead: the ways out, what of their limits is used, and when those that wait are through.")
@json_option
@pass_session
def status(session: Session, channel: str | None, as_json: bool) -> None:
    """Say at a glance whether it works: the present and last run, depth, lag, dead letters, next cron expected."""
    if channel is not None:
        from asyncsend.cli import channels

        channels.show(session, channel, as_json=as_json)
        return
    found = overview.look(session.store, session.settings)
    if as_json:
        click.echo(overview.as_text(found))
        return
    first, *rest = overview.lines(found)
    click.secho(first, bold=True, fg="green" if found.word == "ok" else "yellow")
    for line in rest:
        click.echo(line)
