"""`asyncsend enqueue --each`: from the lines of a file to chunks of rows, and what is said about them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from asyncsend import bulk
from asyncsend.cli.session import print_json
from asyncsend.errors import EXIT_TROUBLE, InvalidJob
from asyncsend.producer import as_json as text_of
from asyncsend.producer import new_job
from asyncsend.tasks import segments
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.cli.session import Session
    from asyncsend.job import NewBatch, NewJob

# A chunk is one transaction. What is held in memory is a chunk, so its payloads are bounded as well.
CHUNK_ROWS, CHUNK_BYTES = 500, 250_000


def enqueue_each(
    session: Session, task: str, template: str, path: str, options: dict[str, Any], together: NewBatch | None, *, keys: dict[str, str], strict: bool, dry_run: bool, as_json: bool
) -> None:
    """
    Make a job of each line, a chunk of them a transaction; the same call again makes only those that are missing.

    A bad line is named on stderr and skipped, exit 1 at the end; with `strict`, InvalidJob and nothing more is added.
    """
    payload = bulk.template_of(template)
    filled = {name: bulk.Template(key, f"--{name.replace('_', '-')}") for name, key in keys.items()}
    if "unique" in filled and not filled["unique"].names:
        raise InvalidJob(f"--unique {printable(keys['unique'], 80)!r} is the same for every line, and would let one job in: put a {{{{name}}}} into it")
    pattern = new_job(task, "{}", **options)  # what is wrong with an option is wrong with every line
    uid = bulk.uids(task, template, options["batch"])
    if task == "sms" and not dry_run and path != "-" and sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"{_segments(path, payload)}.", err=True)
    with opened(path) as file:
        table = bulk.Table(file, json_lines=path.endswith((".jsonl", ".ndjson")))
        wanted: set[str] = set()
        for one in (payload, *filled.values()):
            one.check(table.columns)
            wanted |= one.names
        tally = _Tally(None if dry_run else session, table, file)
        if dry_run and task == "sms":
            tally.sms = segments.Count()
        if together and not dry_run:
            from asyncsend.cli.enqueue import add_batch

            add_batch(session, together, sealed=False)  # there after a call that was cut short

        def made(line: bulk.Line) -> NewJob:
            """The job of a line; ValueError says what is wrong with it."""
            if line.wrong:
                raise bulk.BadLine(line.wrong)
            for name in wanted:
                if name not in line.values:
                    raise bulk.BadLine(f"it has no {printable(name, 60)} that is text, a number, true, false or null")
            if not filled:
                return pattern.with_payload(text_of(payload.fill(line.values)), uid(line))
            return new_job(task, payload.fill(line.values), uid=uid(line), **{name: key.fill(line.values) for name, key in filled.items()}, **options)

        try:
            for line in table:
                try:
                    tally.take(made(line))
                except ValueError as error:  # BadLine, or InvalidJob that names a limit
                    tally.complain(f"line {line.number}: {error}")
                    if strict:
                        raise InvalidJob(f"stopped at line {line.number} (--strict): mend it, and the same command adds the rest") from error
            tally.write()
            tally.complete = True
            if together and not dry_run:
                session.store.seal_batch(together.uid)
        finally:
            tally.report(options["batch"], as_json=as_json)
    if tally.bad:
        sys.exit(EXIT_TROUBLE)


class _Tally:
    """The chunk that is being filled, what became of those before it, and the bar that shows how far we are."""

    def __init__(self, session: Session | None, table: bulk.Table, file: BinaryIO) -> None:
        self.max_depth = session.settings.max_depth if session else ()
        self.store = session.store if session else None  # without one nothing is written
        self.table = table
        self.chunk: list[NewJob] = []
        self.size = 0
        self.added = self.there = self.taken = self.bad = 0
        self.sms: segments.Count | None = None  # what an SMS of each line would cost
        self.complete = False
        self.bar = None
        if sys.stderr is not None and sys.stderr.isatty() and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            self.bar = click.progressbar(length=os.fstat(file.fileno()).st_size, file=sys.stderr, label="Enqueueing" if session else "Checking")
            self.bar.render_progress()

    def take(self, job: NewJob) -> None:
        size = len(job.payload)
        if self.chunk and (len(self.chunk) == CHUNK_ROWS or self.size + size > CHUNK_BYTES):
            self.write()
        if self.sms is not None:
            self.sms.add(json.loads(job.payload).get("text"))
        self.chunk.append(job)
        self.size += size

    def write(self) -> None:
        """Add the jobs of the chunk that are not there yet, all or none."""
        chunk, self.chunk, self.size = self.chunk, [], 0
        if self.store is None:
            self.added += len(chunk)
        else:
            there: set[str] = set()
            uids = self.store.insert(chunk, there, self.max_depth)
            taken = sum(uid != job.uid for uid, job in zip(uids, chunk, strict=True))
            self.there += len(there)
            self.taken += taken
            self.added += len(chunk) - len(there) - taken
        if self.bar is not None:
            self.bar.update(self.table.position - self.bar.pos)

    def complain(self, text: str) -> None:
        self.bad += 1
        click.echo(("\r\x1b[K" if self.bar is not None else "") + printable(text), err=True)

    def report(self, batch: str | None, *, as_json: bool) -> None:
        if self.bar is not None:
            self.bar.render_finish()
        if as_json:
            print_json({
                "added": self.added, "already_there": self.there, "unique_taken": self.taken, "bad_lines": self.bad,
                "batch": batch, "dry_run": self.store is None, "complete": self.complete,
                **({"sms": dataclasses.asdict(self.sms)} if self.sms is not None else {}),
            })  # fmt: skip
        if self.sms is not None and not as_json:
            click.echo(f"{self.sms}.")
        said = [f"{self.added:,} would be added" if self.store is None else f"{self.added:,} added"]
        said += [f"{self.there:,} were there already"] * bool(self.there)
        said += [f"{self.taken:,} left out, for an unfinished job has their key"] * bool(self.taken)
        said += [f"{self.bad:,} bad lines" if self.bad != 1 else "1 bad line"] * bool(self.bad)
        end = "." if self.complete else "; not all lines were read: the same command adds the rest."
        click.echo(", ".join(said) + end, err=True)


def _segments(path: str, payload: bulk.Template) -> segments.Count:
    """What the SMS of all lines will cost: the file is read once more for that. What is wrong with a line is said by whoever makes its job."""
    count = segments.Count()
    with opened(path) as file:
        for line in bulk.Table(file, json_lines=path.endswith((".jsonl", ".ndjson"))):
            with contextlib.suppress(ValueError, KeyError):
                if not line.wrong:
                    count.add(payload.fill(line.values).get("text"))
    return count


def opened(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """The file to read, or standard input for -; InvalidJob if it cannot be opened."""
    if path == "-":
        if sys.stdin is None:
            raise InvalidJob("the lines cannot be read: standard input is closed")
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: no file has a NUL in its name
        raise InvalidJob(f"cannot read {printable(path, 200)} ({getattr(error, 'strerror', error)})") from error
