"""`asyncsend demo`: the whole thing in a temporary folder, with something to look at."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from asyncsend.cli.session import print_table
from asyncsend.config import PREFIX
from asyncsend.errors import ConfigurationError

TASKS = '''\
"""Tasks of the demo shop: any module can define such functions."""
from asyncsend import Retry, task


@task(max_attempts=3)
def build_report(month: str) -> dict:
    return {"month": month, "orders": 42}


@task(max_attempts=3)
def ask_the_bank(order: int) -> None:
    raise Retry(delay=120, why="the bank is closed")


@task(max_attempts=1)
def divide(by: int) -> float:
    return 1 / by
'''

# What a page would insert: task, payload, further columns.
JOBS: list[tuple[str, str, list[str]]] = [
    ("email", '{"to":"ann@example.com","subject":"Welcome","text":"Hello Ann","html":"<p>Hello <b>Ann</b></p>"}', []),
    ("email", '{"to":"Bob <bob@example.com>","subject":"Your invoice","text":"See the attachment.","attachments":[{"name":"invoice.txt","base64":"NDIgRVVS"}]}', []),
    ("email", '{"to":"zoë@bücher.example","subject":"Grüße 😀","text":"non-ASCII before the @"}', []),
    ("email", '{"to":"carl@bücher.example","subject":"Grüße 😀","text":"Guten Tag"}', ["--priority", "10"]),
    ("sms", '{"to":"+33612345678","text":"Your code is 123456"}', ["--queue", "critical"]),
    ("command.sort", '{"b":2,"a":1}', []),
    ("build_report", '{"month":"2026-11"}', ["--unique", "report:2026-11"]),
    ("ask_the_bank", '{"order":17}', []),
    ("divide", '{"by":0}', []),
    ("send_fax", '{"to":"+49"}', []),
    ("email", '{"to":"dora@example.com","subject":"Tomorrow","text":"…"}', ["--delay", "1d"]),
]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Work in this folder instead of a temporary one.")
def demo(folder: Path | None) -> None:
    """Make tables, enqueue jobs of every kind, run once, and show what became of them."""
    home = Path(tempfile.mkdtemp(prefix="asyncsend-demo-")) if folder is None else folder.absolute()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise ConfigurationError(f"{home} is not empty, and the demo would overwrite what is in it: name a new folder")
    except OSError as error:
        raise ConfigurationError(f"the folder {home} cannot be made ({error.strerror}): name another") from error
    module, env_file = home / "demo_shop.py", home / ".env"
    for file in (module, env_file):
        file.touch(mode=0o600)
    module.write_text(TASKS, "utf-8")
    env_file.write_text(
        f'ASYNCSEND_EMAIL_FROM="Demo shop <shop@example.com>"\nASYNCSEND_TASKS=demo_shop\nASYNCSEND_PATH={home}\nASYNCSEND_COMMAND_SORT="sort"\n', "utf-8"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {"ASYNCSEND_HOME": str(home)}

    def asyncsend(*arguments: str) -> str:
        ours = Path(__file__).parents[2]  # `-m` looks in the current folder first, and that may be anybody's
        done = subprocess.run([sys.executable, "-m", "asyncsend", *arguments], env=environment, cwd=ours, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"asyncsend {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    click.secho("1. asyncsend init", bold=True)
    asyncsend("init")
    click.echo(f"   tables made in {home}/asyncsend.sqlite3 (with MySQL it is one line in .env)\n")
    click.secho(f"2. {len(JOBS)} times asyncsend enqueue, as your pages would by one INSERT each", bold=True)
    uids = [asyncsend("enqueue", task, payload, *options) for task, payload, options in JOBS]
    click.echo(f"   for instance: asyncsend enqueue email '{JOBS[0][1][:60]}…'\n")
    click.secho("3. asyncsend run, as cron would each minute", bold=True)
    asyncsend("run")
    click.echo("   it printed nothing, so cron mails nothing\n")
    click.secho("4. What became of them", bold=True)
    _show(asyncsend, uids)
    mails = sorted((home / "outbox" / "new").glob("*.eml"))
    click.echo(f"\n   {len(mails)} mails lie in {home}/outbox/new, the SMS in {home}/outbox/sms.log.\n")
    click.secho("5. Try next", bold=True)
    program = sys.argv[0] if sys.argv[0].endswith("/asyncsend") else f"{sys.executable} -m asyncsend"
    for line in (
        f"export ASYNCSEND_HOME={home}",
        f"{program} status", f"{program} why {uids[7]}", f"cat {mails[0] if mails else home}", "tail $ASYNCSEND_HOME/asyncsend.log",
        f"{program} dead list", f"{program} retry {uids[7]} && {program} run", f"{program} config", f"{program} crontab",
    ):  # fmt: skip
        click.echo(f"   {line}")


def _show(asyncsend: object, uids: list[str]) -> None:
    import json

    assert callable(asyncsend)
    rows = {row["uid"]: row for row in json.loads(asyncsend("jobs", "--json"))}
    head = ("task", "state", "tries", "what happened")
    print_table(
        head,
        [
            (row["task"], row["state"], row["attempts"], row["error"] or row["result"] or ("due in a day" if row["state"] == "ready" else "sent" if row["task"] in ("email", "sms") else "-"))
            for row in (rows[uid] for uid in uids)
        ],
        widest=88,
    )
