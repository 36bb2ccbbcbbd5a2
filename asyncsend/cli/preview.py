"""`asyncsend preview`: a mail as a page for the browser, before it is sent."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from asyncsend.answers import Answer
from asyncsend.cli.enqueue import read_payload
from asyncsend.cli.session import Session, pass_session
from asyncsend.errors import ConfigurationError, InvalidJob
from asyncsend.job import Job, members_of
from asyncsend.text import printable

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("what", metavar="email|UID")
@click.argument("payload", required=False, metavar="[JSON|@file|-]")
@click.option("--open", "in_browser", is_flag=True, help="Open it in the browser of this machine.")
@pass_session
def preview(session: Session, what: str, payload: str | None, in_browser: bool) -> None:
    """
    Write a mail to an .html file for the browser and print its path; nothing is sent.

    \b
    Examples:
      asyncsend preview email '{"to":"ann@example.com","template":"welcome","params":{"name":"Ann"}}' --open
      asyncsend preview 17        the mail of a job that is there
    """  # noqa: D301
    from asyncsend import preview as pages
    from asyncsend.tasks.email import Composer

    if payload is not None and what != "email":
        raise click.UsageError("a payload can be shown for the task email only; for a job that is there, give its uid alone")
    if what == "email" and payload is None:
        raise click.UsageError("write the payload behind email: JSON, @file or -; a job whose uid is email is uid=email")
    job = session.find(what) if payload is None else Job(0, "email", read_payload(payload), uid="preview")
    if job.task != "email":
        raise InvalidJob(f"{printable(what, 70)} is a job of {printable(job.task, 70)}: only mails can be shown")
    try:
        made = Composer(session.settings)(members_of(job.payload), job)
    except (Answer, ValueError) as error:
        raise InvalidJob(f"this mail could not be sent: {printable(str(error), 1000)}") from error
    path = _written(session.settings.home / "preview", job.idempotency_key, pages.page(*made))
    click.echo(path)
    if in_browser:
        click.launch(str(path))


def _written(folder: Path, key: str, page: str) -> Path:
    """The file with the page, its owner's alone: mails are private."""
    path = folder / (re.sub(r"[^A-Za-z0-9_-]", "_", key)[:100] + ".html")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise ConfigurationError(f"the preview cannot be written to {path} ({error.strerror}): free space or check its rights") from error
    return path
