"""`asyncsend suppress …`: addresses that nothing more is sent to."""

from __future__ import annotations

import csv
import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from asyncsend import bulk, suppressions, times
from asyncsend.cli.each import opened
from asyncsend.cli.session import Session, bulk_options, json_option, pass_session, print_json, print_table, sure
from asyncsend.errors import EXIT_TROUBLE, ConfigurationError, InvalidJob, NotFound
from asyncsend.store.rows import Suppression
from asyncsend.tasks.unsubscribe import LIST
from asyncsend.text import printable
from asyncsend.times import LAST_INSTANT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 500  # lines of an import that are written at once
COLUMNS = ("address", "list", "reason", "source", "since")
ADDRESS_COLUMNS = ("address", "email", "e-mail", "email address", "mail", "recipient", "to", "phone", "mobile", "number")


@click.group()
def suppress() -> None:
    """Addresses that nothing more is sent to: hard bounces, complaints, unsubscriptions, and your own."""


def of_list_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--list` on whatever speaks of mailing lists."""
    return click.option("--list", "of_list", metavar="LIST", help="Only of this mailing list.")(command)


def chosen_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--list --reason --since`, which choose among what is there."""
    command = click.option("--since", metavar="WHEN", help="Only what was added since: 2h (ago), or 2026-11-20 09:00.")(command)
    return of_list_option(click.option("--reason", type=click.Choice(list(suppressions.REASONS)), help="Only for this reason.")(command))


@suppress.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@of_list_option
@click.option("--reason", type=click.Choice(list(suppressions.REASONS)), default="manual", help="Why. Default: manual.")
@pass_session
def add(session: Session, addresses: tuple[str, ...], of_list: str | None, reason: str) -> None:
    """
    Send nothing more to these mail addresses or numbers; `unsubscribed` stops mailing lists only.

    \b
    Examples:
      asyncsend suppress add ann@example.com +33612345678
      asyncsend suppress add ann@example.com --list news --reason unsubscribed
    """  # noqa: D301
    rows = [_row(address, of_list or "", reason, "by hand") for address in addresses]
    added = session.store.suppress(rows)
    session.note("suppress", [], added=added, reason=reason, list=of_list)
    click.echo(f"{added} added, {len(rows) - added} there already.", err=True)


def _row(address: str, of_list: str, reason: str, source: str | None) -> Suppression:
    """InvalidJob says which of them cannot be."""
    found = suppressions.known(address)
    if found is None:
        raise InvalidJob(f"{printable(address, 80)!r} is no mail address, and no number like +33612345678")
    if of_list and not LIST.fullmatch(of_list):
        raise InvalidJob(f"the list {printable(of_list, 80)!r} is not allowed: letters, digits, _ . -, at most 64")
    return Suppression(*found, of_list, reason, source)


@suppress.command("list")
@click.argument("address", required=False)
@chosen_option
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, metavar="N", help="At most N. Default: 50.")
@json_option
@pass_session
def list_(session: Session, address: str | None, of_list: str | None, reason: str | None, since: str | None, limit: int, as_json: bool) -> None:
    """List who is suppressed, or what is known of ADDRESS."""
    found = [one for one, _ in zip(_chosen(session, address, of_list, reason, since), range(limit), strict=False)]
    if as_json:
        print_json([one._asdict() | {"since": one.since and one.since.isoformat()} for one in found])
    else:
        print_table((*COLUMNS[:3], "since", "source"), [(one.address, one.list or "-", one.reason, session.when(one.since), one.source) for one in found], widest=90)


def _filters(session: Session, address: str | None, of_list: str | None, reason: str | None, since: str | None) -> dict[str, Any]:
    found = suppressions.known(address) if address is not None else None
    return {"address": address if found is None else found[1], "of_list": of_list, "reason": reason, "since": session.past("--since", since)}


def _chosen(session: Session, address: str | None, of_list: str | None, reason: str | None, since: str | None) -> Iterator[Suppression]:
    if not all(text is None or text.isascii() for text in (address, of_list)):
        return iter(())  # no row has letters outside ASCII
    return session.store.suppressions(**_filters(session, address, of_list, reason, since))


@suppress.command()
@click.argument("addresses", nargs=-1, metavar="ADDRESS…")
@click.option("--all", "everything", is_flag=True, help="All of them, or those that the options name.")
@chosen_option
@bulk_options
@pass_session
def remove(session: Session, addresses: tuple[str, ...], everything: bool, of_list: str | None, reason: str | None, since: str | None, yes: bool, dry_run: bool) -> None:
    """
    Send to these addresses again; jobs that were cancelled stay so until `asyncsend retry`.

    \b
    Example, after a mail server had forgotten all its users for an hour:
      asyncsend suppress remove --all --reason hard --since 2h
    """  # noqa: D301
    if bool(addresses) == everything:
        raise click.UsageError("name addresses, or --all of those that --reason, --list and --since choose")
    if of_list is not None and not of_list.isascii():
        raise InvalidJob(f"the list {printable(of_list, 80)!r} is not allowed: letters, digits, _ . -, at most 64")
    each = [_filters(session, _row(address, "", "manual", None).address, of_list, reason, since) for address in addresses] or [_filters(session, None, of_list, reason, since)]
    number = sum(session.store.count_suppressions(**one) for one in each)
    if not number:
        raise NotFound("nobody is suppressed like that: `asyncsend suppress list` shows them")
    if not sure(f"remove {number} suppressions", yes=yes or bool(addresses), dry_run=dry_run):
        return
    removed = sum(session.store.unsuppress(**one) for one in each)
    session.note("suppress-remove", [], removed=removed)
    click.echo(f"{removed} removed.", err=True)


@suppress.command()
@chosen_option
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of CSV.")
@pass_session
def export(session: Session, of_list: str | None, reason: str | None, since: str | None, as_json: bool) -> None:
    """Print them as CSV, of any number; `suppress import` reads it again."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        writer.writerow(COLUMNS)
    for one in _chosen(session, None, of_list, reason, since):
        row = [printable(text) for text in (one.address, one.list, one.reason, one.source or "", one.since.isoformat() if one.since else "")]
        if as_json:
            click.echo(json.dumps(dict(zip(COLUMNS, row, strict=True))))
        else:
            writer.writerow(row)


@suppress.command("import")
@click.argument("path", metavar="FILE|-")
@of_list_option
@click.option("--reason", type=click.Choice(list(suppressions.REASONS)), help="Why. Default: the column reason, else manual.")
@click.option("--dry-run", is_flag=True, help="Only read and check every line.")
@json_option
@pass_session
def import_(session: Session, path: str, of_list: str | None, reason: str | None, dry_run: bool, as_json: bool) -> None:
    """
    Add those of a file: CSV with a header (address or email, and list, reason, source, since), JSON lines, or an address a line.

    What is there already stays as it is, so that the same command may be repeated. A bad line is named and skipped; exit 1.

    \b
    Example:
      asyncsend suppress import unsubscribed.csv --list news --reason unsubscribed
    """  # noqa: D301
    _row("a@example.com", of_list or "", "manual", None)  # what is wrong with the option is wrong with every line
    read = added = bad = 0
    chunk: list[Suppression] = []

    def write() -> None:
        nonlocal added
        added += 0 if dry_run else session.store.suppress(chunk)
        chunk.clear()

    with opened(path) as file:
        for number, row in _lines(session, bulk.Table(file, json_lines=path.endswith((".jsonl", ".ndjson"))), of_list, reason, os.path.basename(path)):
            if isinstance(row, str):
                bad += 1
                click.echo(printable(f"line {number}: {row}"), err=True)
                continue
            read += 1
            chunk.append(row)
            if len(chunk) == CHUNK:
                write()
        write()
    if not dry_run:
        session.note("suppress-import", [], added=added)
    if as_json:
        print_json({"read": read, "added": added, "bad_lines": bad, "dry_run": dry_run})
    click.echo(f"{read:,} read, {'nothing' if dry_run else f'{added:,}'} added, {bad:,} bad lines.", err=True)
    if bad:
        sys.exit(EXIT_TROUBLE)


def _lines(session: Session, table: bulk.Table, of_list: str | None, reason: str | None, source: str) -> Iterator[tuple[int, Suppression | str]]:
    """The number of each line, and its row or what is wrong with it."""
    names = {name.strip().lower(): name for name in table.columns}
    column = next((names[name] for name in ADDRESS_COLUMNS if name in names), None)

    def row(values: bulk.Values) -> Suppression:
        given = {name: values.get(names[name], "").strip() if name in names else "" for name in COLUMNS[1:]}
        why = reason or given["reason"].lower() or "manual"
        if why not in suppressions.REASONS:
            raise InvalidJob(f"the reason {printable(why, 40)!r} is none of {', '.join(suppressions.REASONS)}: give --reason, or mend it")
        since = times.instant(given["since"], session.settings.timezone) if given["since"] else None
        made = _row(values[column or ""], of_list or given["list"], why, printable(given["source"] or source, 190))
        if since is not None and not 0 < since <= LAST_INSTANT:
            raise InvalidJob(f"{printable(given['since'], 40)} lies too far away")
        return made._replace(since=None if since is None else datetime.fromtimestamp(since, UTC))

    if column is None:  # no header: the first line is one of the lines
        if not table.columns or suppressions.known(table.columns[0]) is None:
            raise InvalidJob(f"no column of the file is called address or email: it has {', '.join(printable(name, 40) for name in table.columns[:20]) or 'none'}")
        column = table.columns[0]
        names = {}
        yield 1, row({column: column})
    for line in table:
        try:
            yield line.number, line.wrong or row(line.values)
        except (ValueError, KeyError) as error:  # InvalidJob, a time that is none, JSON without the address
            yield line.number, str(error) if not isinstance(error, KeyError) else "it has no address"


@suppress.command()
@click.argument("path", default="-", metavar="[FOLDER|FILE|-]")
@click.option("--known-only", is_flag=True, help="Only bounces that name a mail of a job in the table: anybody can write the others.")
@click.option("--dry-run", is_flag=True, help="Only say what would be added.")
@json_option
@pass_session
def bounce(session: Session, path: str, known_only: bool, dry_run: bool, as_json: bool) -> None:
    """
    Read what came back: one mail on standard input, a Maildir, an mbox file. Addresses that do not exist, complaints and unsubscriptions are added.

    On standard input it is silent and ends with 0 whatever the mail is, as a mail server's pipe wants it. Of a Maildir the unread
    mails are read, and marked as read. Reading a mail twice changes nothing.

    \b
    Examples:
      |/home/you/asyncsend-env/bin/asyncsend suppress bounce      as a forwarder in cPanel
      asyncsend suppress bounce ~/mail/example.com/bounces
    """  # noqa: D301
    from asyncsend.cli import mailbox
    from asyncsend.tasks import bounces

    mails = added = 0
    told, unread = [], ""
    for raw, done in mailbox.mails(path, bounces.MOST_BYTES):
        mails += 1
        try:
            found, ids = bounces.read(raw, session.settings.unsubscribe_secrets)
        except ConfigurationError as error:  # the others can be read all the same
            found, ids, unread = [], [], str(error)
        rows = suppressions.learnt(session.store, found, ids, known_only=known_only)
        if not dry_run:
            added += session.store.suppress(rows)
            done()
        told += [{"address": one.address, "list": one.list, "reason": one.reason, "source": one.source} for one in rows]
        if not rows:
            told += [{"address": one.address, "list": one.of_list, "reason": None, "source": one.words} for one in found]
    if not dry_run and (told or unread):
        session.note("suppress-bounce", [], mails=mails, added=added, told="; ".join(f"{one['reason'] or 'kept'}: {one['source']}" for one in told)[:500] or None, error=unread or None)
    if as_json:
        print_json({"mails": mails, "added": added, "told": told, "not_understood": unread or None})
    elif path != "-" or dry_run:
        for one in told:
            click.echo(printable(f"{one['address']}: {one['reason'] or 'stays'} ({one['source']})", 400))
        click.echo(f"{mails:,} mails read, {added:,} added." + (f" {unread}" if unread else ""), err=True)
