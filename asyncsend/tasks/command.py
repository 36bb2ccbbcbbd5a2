"""`command.<name>`: a program named in the settings, the payload on its standard input. A row can never name a program itself."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING

from asyncsend.answers import Refused, Retry
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import Payload, Policy

if TYPE_CHECKING:
    from asyncsend.job import Job

POLICY = Policy(timeout=300.0)
# What a command sees of our environment: nothing that could hold a secret.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR")


class Command:
    """Runs one configured program. Exit code 0 is done, 65 (EX_DATAERR) is dead, anything else is a failed attempt."""

    def __init__(self, name: str, line: str) -> None:
        try:
            self.argv = shlex.split(line)
        except ValueError as error:
            raise ConfigurationError(f"ASYNCSEND_COMMAND_{name.upper()} cannot be split into words ({error}): close its quotes") from error
        if not self.argv:
            raise ConfigurationError(f"ASYNCSEND_COMMAND_{name.upper()} is empty: write program and arguments")
        self.name = name

    def __call__(self, payload: Payload, job: Job) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"ASYNCSEND_JOB": job.idempotency_key, "ASYNCSEND_JOB_ID": str(job.id), "ASYNCSEND_ATTEMPT": str(job.attempts + 1)}
        try:
            process = subprocess.Popen(  # an argument list from the settings, no shell
                self.argv,
                stdin=subprocess.PIPE,
                env=environment,
                cwd=os.path.expanduser("~"),
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509 - one thread, and the function only makes a system call
            )
        except OSError as error:
            raise Retry(None, f"cannot start {self.argv[0]!r} ({error.strerror}): check ASYNCSEND_COMMAND_{self.name.upper()}", reason="cannot-start") from error
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(job.payload.encode("utf-8", "replace"))
        with contextlib.suppress(BrokenPipeError):  # a program need not read its input
            process.stdin.close()
        code = process.wait()
        if code == os.EX_DATAERR:
            raise Refused(f"{self.argv[0]} exited with 65 (EX_DATAERR): it will never take this payload", reason="exit-65")
        if code < 0:
            raise Retry(None, f"{self.argv[0]} was killed by {_name(-code)}", reason="killed")
        if code:
            raise Retry(None, f"{self.argv[0]} exited with {code}", reason=f"exit-{code}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name in Python
        return f"signal {number}"


def _die_with_parent(parent: int) -> None:
    """In the new process: be killed when the worker dies, so that a repeat can never overlap what a dead run started."""
    from asyncsend.deathsig import die_with_parent

    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel knew of us
