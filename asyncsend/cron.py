"""
What cron starts: the settings, one run, and what is said of it. Silent when nothing is wrong, one line in six hours when something is.

Without click: importing it costs as much CPU as all the rest of an empty minute but the database driver (docs/performance.md), and cron's line has no options.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from asyncsend import config
from asyncsend.budget import Budget
from asyncsend.errors import AsyncsendError, ConfigurationError
from asyncsend.log import Log
from asyncsend.run import run
from asyncsend.store import open_store
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.config import Settings
    from asyncsend.run import Report

SAY_AGAIN = 6 * 3600.0  # hosts mail every line cron prints, and count those mails against the account


def start(*, max_time: float | None = None, max_jobs: int | None = None, order: tuple[str, ...] | None = None, workers: int | None = None, linger: bool = False) -> int:
    """Do one minute's work; the exit code (0, 75, 78). `max_time` is seconds; an argument that is None stands for what the settings of this environment say."""
    home = Path(os.path.expanduser(os.environ.get("ASYNCSEND_HOME") or config.DECLARED["ASYNCSEND_HOME"][0])).absolute()  # also while the settings are what is wrong
    settings = None
    try:
        settings = config.load(os.environ)
        budget = Budget(time.monotonic, settings.max_time if max_time is None else max_time, max_jobs)
        report = _run(settings, budget, order, workers, linger=linger)
        if report.stopped not in ("lock-held", "held-elsewhere"):  # whoever leaves at once does not know how the other fares
            _forget_trouble(home)
            _ping(settings, well=report.stopped != "lease-lost")
    except AsyncsendError as error:
        if settings is not None:
            _ping(settings, well=False)
        _say_trouble(home, error)
        return error.exit_code
    if _watched():
        _say(_summary(report))
    return 0


def _run(settings: Settings, budget: Budget, order: tuple[str, ...] | None, workers: int | None, *, linger: bool) -> Report:
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {settings.home} cannot be made ({error.strerror}): set ASYNCSEND_HOME to one that can") from error
    store = open_store(settings.database_url, settings.table_prefix)
    log = Log(settings.log_path, secrets=settings.secrets, zone=settings.timezone)
    try:
        return run(store, settings, log, budget, order=order, workers=workers, linger=linger, watch=_progress if _watched() else _nobody)
    finally:
        store.close()
        log.close()


def _ping(settings: Settings, *, well: bool) -> None:
    """After the lock is given back: a watch that answers slowly must not keep the next run waiting."""
    if settings.heartbeat_url:
        from asyncsend.heartbeat import ping

        log = Log(settings.log_path, secrets=settings.secrets, zone=settings.timezone)
        ping(settings.heartbeat_url, log, well=well)
        log.close()


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _nobody(_report: Report, _waiting: int) -> None:
    """Cron does not watch."""


def _say(text: str, end: str = "\n") -> None:
    if sys.stderr is None:  # whoever started us closed it
        return
    try:
        sys.stderr.write(text + end)
        sys.stderr.flush()
    except OSError:  # whoever listened has gone: the work and the exit code are the same, and Python must not trip over what is left in its buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _progress(report: Report, waiting: int) -> None:
    _say(f"\r\x1b[K{_counts(report)}, {waiting} in hand", end="")


def _counts(report: Report) -> str:
    return ", ".join(f"{number} {word}" for word, number in report.counts.items() if number and word != "claimed") or "nothing done"


def _summary(report: Report) -> str:
    if report.stopped == "lock-held":
        return "Another run of this host is at work; this one leaves."
    if report.stopped == "held-elsewhere":
        return "Another run holds the status row; this one leaves."
    return f"\r\x1b[KRun {report.generation}: {_counts(report)} in {report.seconds:.1f} s; stopped: {report.stopped}."


def _say_trouble(home: Path, error: AsyncsendError) -> None:
    """One line on stderr; without a terminal, the same trouble only once in six hours."""
    line = printable(f"asyncsend: {error}")
    if not _watched() and _said_lately(home / "trouble", line):
        return
    _say(line)


def _said_lately(note: Path, line: str) -> bool:
    """Whether this very line was printed in the last six hours; if not, it is noted that it is printed now. By the host's clock: it only gates words."""
    try:
        if note.read_text("utf-8") == line and 0 <= time.time() - note.stat().st_mtime < SAY_AGAIN:
            return True
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError), open(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
        file.write(line)
    return False


def _forget_trouble(home: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(home / "trouble")
