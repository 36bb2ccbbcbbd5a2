"""
The log: one line an event, worded here and nowhere else: a plain sentence, then key=value facts to grep for.

    2026-11-21 09:30:02+0100 INFO  Job is done. event=job-done job=17 task=email attempt=1 seconds=0.042

It rotates itself (hosts have no logrotate for us), is readable by its owner only, holds no payloads and no secrets, and a
full disk makes it silent, never loud. The logging machinery is imported with the first event: an empty minute has none.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from asyncsend.text import printable, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import tzinfo
    from logging import Handler
    from pathlib import Path

# Five files of 900 kB: below 5 MB, which is all that OVH lets a cron task write.
MAX_BYTES, BACKUPS = 900_000, 4

EVENTS = {
    "run-started": ("INFO", "Run started."),
    "run-stopped": ("INFO", "Run stopped."),
    "run-died": ("WARN", "An earlier run was killed; its row is closed."),
    "lease-lost": ("ERROR", "Another host took the status row over; this run stops."),
    "held-elsewhere": ("INFO", "Another run holds the status row; this one leaves."),
    "no-flock": ("WARN", "The lock file's file system has no flock; only the lease in the database keeps runs apart."),
    "journal-replayed": ("WARN", "Results of a killed run were written to the database."),
    "journal-broken": ("ERROR", "The journal cannot be written; every result goes to the database at once."),
    "batch-caught": ("WARN", "A job of a batch is dead."),
    "batch-finished": ("INFO", "A batch is through."),
    "job-rescued": ("WARN", "A job of a killed run was taken back."),
    "job-done": ("INFO", "Job is done."),
    "job-retried": ("WARN", "Job failed and will be tried again."),
    "job-snoozed": ("INFO", "Job waits, uncharged."),
    "job-dead": ("ERROR", "Job is dead."),
    "job-held": ("ERROR", "Job is held for a decision."),
    "job-cancelled": ("INFO", "Job is cancelled."),
    "job-released": ("INFO", "Job goes back unstarted."),
    "job-late": ("ERROR", "A result came too late and was refused: the claim was no longer ours."),
    "worker-died": ("ERROR", "A worker process died."),
    "worker-replaced": ("WARN", "Jobs left too many descriptors or too much memory behind; another worker goes on."),
    "worker-timeout": ("ERROR", "A job overstayed its timeout; its process group is ended."),
    "orphans-killed": ("WARN", "Processes that jobs had left behind were ended."),
    "module-failed": ("ERROR", "A module of ASYNCSEND_TASKS cannot be imported; its tasks wait."),
    "channel-stopped": ("WARN", "A channel fails; nothing is sent through it for a while."),
    "channel-opened": ("INFO", "A channel works again."),
    "subscription-disabled": ("ERROR", "A receiver says that its address is gone; its subscription is disabled."),
    "schedule-due": ("INFO", "A schedule was due."),
    "schedule-stopped": ("ERROR", "A schedule cannot be used and makes no more jobs."),
    "alert": ("WARN", "Somebody was told what is wrong, or over again."),
    "metrics-failed": ("ERROR", "The figures could not be written to ASYNCSEND_METRICS_FILE."),
    "heartbeat-failed": ("WARN", "ASYNCSEND_HEARTBEAT_URL could not be told that the run is over."),
    "pruned": ("INFO", "Old finished jobs were deleted."),
    "held-too-long": ("WARN", "Held jobs that nobody decided about became dead letters."),
    "prune-failed": ("ERROR", "Old finished jobs cannot be deleted; the table grows."),
    "database-away": ("ERROR", "The database is away; results wait in the journal."),
    "signal": ("WARN", "Asked to stop; the current job may finish."),
    "command": ("INFO", "A person changed something."),
}


_HEADS = {name: f"{level:5} {sentence} event={name}" for name, (level, sentence) in EVENTS.items()}
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/-]{1,200}")  # what needs no quotes


class Log:
    """Writes events to `path`; `secrets` never appear in it; `echo` gets every line, too (a person watching a terminal)."""

    def __init__(
        self,
        path: Path,
        *,
        secrets: tuple[str, ...] = (),
        zone: tzinfo | None = None,
        clock: Callable[[], float] = time.time,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.path, self.secrets, self.zone, self.clock, self.echo = path, secrets, zone, clock, echo
        self._handler: Handler | None = None
        self._second, self._stamp = -1, ""  # what was made of this second before
        self._held: list[str] | None = None  # lines that go out together

    def event(self, name: str, **facts: Any) -> None:
        """Write one line. Never raises."""
        words = "".join([f" {key}={value if type(value) is int else self._shown(value)}" for key, value in facts.items() if value is not None])
        line = f"{self._now()} {_HEADS[name]}{words}"
        if self._held is None:
            self._write(line)
        else:
            self._held.append(line)
        if self.echo:
            self.echo(line)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write the lines of this block at once, at its end: one look at the file for all of them."""
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            if lines:
                self._write("\n".join(lines))

    def _now(self) -> str:
        now = self.clock()
        if int(now) != self._second:
            self._second, self._stamp = int(now), f"{datetime.fromtimestamp(now, self.zone).astimezone(self.zone):%Y-%m-%d %H:%M:%S%z}"
        return self._stamp

    def _shown(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3f}"
        if isinstance(value, int):
            return str(value)
        text = without(self.secrets, str(value))
        return text if _PLAIN.fullmatch(text) else _quoted(text)

    def _write(self, line: str) -> None:
        import logging

        if self._handler is None:
            self._handler = _open(self.path)
        self._handler.handle(logging.LogRecord("asyncsend", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()
            self._handler = None


def _quoted(text: str) -> str:
    text = printable(text, 600)
    return '"' + text.replace('"', "'") + '"' if not text or any(letter in text for letter in ' "=') else text


def _open(path: Path) -> Handler:
    from logging.handlers import RotatingFileHandler

    class PrivateRotatingFile(RotatingFileHandler):
        """Mode 0600 from birth; whatever goes wrong with the file is nobody's business in the middle of a run."""

        def _open(self) -> Any:
            descriptor = os.open(self.baseFilename, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            stream = open(descriptor, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - the handler closes it
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                stream.write("\n")  # a full disk or a kill tore the last line
            return stream

        def emit(self, record: Any) -> None:
            if self.stream is not None and not self._is_still_there():
                self._drop()
            super().emit(record)

        def _is_still_there(self) -> bool:
            """False once somebody deleted the file, or another process of ours rotated it."""
            assert self.stream is not None
            try:
                on_disk, ours = os.stat(self.baseFilename), os.fstat(self.stream.fileno())
            except OSError:
                return False
            return (on_disk.st_dev, on_disk.st_ino) == (ours.st_dev, ours.st_ino)

        def _drop(self) -> None:
            # Closed by hand: what a full disk refused would be tried again by the garbage collector, and Python 3.13 prints that.
            stream, self.stream = self.stream, None
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()

        def handleError(self, record: Any) -> None:  # noqa: N802 - logging's own name
            del record
            self._drop()

        def close(self) -> None:
            self._drop()
            super().close()

    return PrivateRotatingFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
