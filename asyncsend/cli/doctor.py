"""`asyncsend doctor`: what a run needs, and what to do where it is missing."""

from __future__ import annotations

import sys

import click

from asyncsend import doctor as ward
from asyncsend.cli.session import Session, json_option, pass_session, print_json
from asyncsend.errors import EXIT_OK, EXIT_TROUBLE
from asyncsend.text import printable

COLOURS = {ward.OK: "green", ward.WARN: "yellow", ward.FAIL: "red"}


@click.command()
@json_option
@pass_session
def doctor(session: Session, as_json: bool) -> None:
    """Check what a run needs: folder, lock, database, cron, mail, tasks. Exit code 1 if something fails."""
    findings = []
    for finding in ward.examine(session.settings):
        findings.append(finding)
        if not as_json:
            click.echo(f"{click.style(f'{finding.level:4}', fg=COLOURS[finding.level])}  {finding.what:11} {printable(finding.said, 500)}")
            if finding.advice:
                click.echo(f"                  → {printable(finding.advice, 1500)}")
    if as_json:
        print_json([{"what": one.what, "level": one.level, "said": one.said, "advice": one.advice} for one in findings])
    sys.exit(EXIT_TROUBLE if any(one.level == ward.FAIL for one in findings) else EXIT_OK)
