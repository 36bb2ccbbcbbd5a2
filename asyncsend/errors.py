"""
Every error asyncsend raises on purpose. Each says what, which, and the next step, and knows the exit code it ends a command with.

AsyncsendError
├── InvalidJob             2   a job that may not be enqueued: the member and the limit are named
├── NotFound               2   a command named a job, queue or task that is not there
├── Conflict               2   the change would break a promise (a unique key taken, a job that runs)
├── QueueFull              1   the queue holds as many ready jobs as ASYNCSEND_MAX_DEPTH lets it: later
├── DatabaseUnreachable   75   the database did not answer, is full or read-only: the next tick tries again
├── ConfigurationError    78   a setting, file or table has to be mended by a person
└── LeaseLost             --   another host holds the status row now; the run stops, nothing it still writes is accepted
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_TROUBLE = 1  # `check` found something, `doctor` found trouble, a queue is full
EXIT_USAGE = 2
EXIT_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h: the database stayed unreachable
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h


class AsyncsendError(Exception):
    """The root: catch this to catch all of ours."""

    exit_code = EXIT_USAGE


class InvalidJob(AsyncsendError, ValueError):
    """A job that may not be enqueued; nothing was written."""


class NotFound(AsyncsendError, LookupError):
    """What a command named is not there."""


class Conflict(AsyncsendError):
    """A change that was refused because it would break a promise."""


class QueueFull(AsyncsendError):
    """The queue holds as many ready jobs as it may; nothing was written, trying again later is right."""

    exit_code = EXIT_TROUBLE


class DatabaseUnreachable(AsyncsendError):
    """The database is away, full or read-only; nothing is lost, trying again later is right."""

    exit_code = EXIT_TEMPORARY


class ConfigurationError(AsyncsendError):
    """Something only a person can mend: a setting, a file, a right, a missing table."""

    exit_code = EXIT_CONFIGURATION


class LeaseLost(AsyncsendError):
    """The status row belongs to another run now; whoever sees this stops before the next effect."""
