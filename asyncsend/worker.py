"""
What a worker does: one job after another from its socket, start and result into the journal, the outcome back to the run.

`workers.py` forks it and watches over it; here is the child's half of that.
"""

from __future__ import annotations

import contextlib
import io
import json
import marshal
import os
import resource
import signal
import socket
import struct
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from asyncsend import deathsig
from asyncsend import execute as executing
from asyncsend.job import Job
from asyncsend.journal import as_text
from asyncsend.outcome import Outcome, State
from asyncsend.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from asyncsend.workers import Workers


MAX_GROWTH = 256 * 1024  # kilobytes by which the jobs of one worker may swell it
_BROKEN, _LEAVING = ',"journal":"broken"', ',"leaving":true'


class Child:
    """The worker's side of the fork. `parent` is the run's side as it was at that moment; nothing of it is written here that the run would see."""

    def __init__(self, parent: Workers, jobs: socket.socket, output: int) -> None:
        self.parent, self.jobs, self.output = parent, jobs, output
        self.me = os.getpid()
        self.wave = 0  # of those that may begin here after something went wrong
        self.session = ""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most_descriptors = limit // 2 if limit > 0 else 1 << 16
        self.most_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MAX_GROWTH

    def work(self) -> None:
        """Execute until the run says no more; never returns."""
        self._settle_in()
        tasks = Tasks(self.parent.settings)
        if self.parent.without_modules:
            tasks.failed_modules = dict.fromkeys(self.parent.settings.task_modules, "a module ended the process or took too long while it was imported")
        else:
            tasks.load_modules()
        executing.flush_output()
        self._say(json.dumps({"policies": {name: policy.as_dict() for name, policy in tasks.policies().items()}, "failed": tasks.failed_modules}))
        with io.BufferedReader(socket.SocketIO(self.jobs, "r"), 1 << 16) as parcels:
            for job in from_parcels(parcels):
                self._serve(job, tasks)
        tasks.close()
        os._exit(0)

    def _settle_in(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run; it lets the current job finish
        os.setsid()  # a process group of our own, so that whatever a job starts can be ended with it
        deathsig.die_with_parent()
        self.session = deathsig.session_name()
        self.parent.selector.close()
        for sibling in self.parent.workers:  # else it would not notice when the run goes
            sibling.jobs.close()
            os.close(sibling.output)
        for close in self.parent.close_in_child:
            close()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(self.output, 1)
        os.dup2(self.output, 2)
        os.close(self.output)

    def _serve(self, job: Job, tasks: Tasks) -> None:
        back = self.parent.called_back(job, self.wave)
        if back:
            self._say(f'{{"unstarted":{job.id},"{back}":true}}')
            return
        journal = None if self.parent.journal_broken else self.parent.journal
        token = job.token or ""
        try:
            if journal is not None:
                journal.started(job.id, token, self.session)
        except OSError:
            journal, self.parent.journal_broken = None, True
        if journal is None and job.started_at is None:
            # Its start stands nowhere, in case we die of it: back to the run, which marks it in the database and sends it again.
            self._say(f'{{"unstarted":{job.id},"journal":"broken"}}')
            return
        outcome = executing.execute(job, tasks, self.parent.chance)
        if os.getpid() != self.me:
            os._exit(0)  # the task forked and both returned: only the first may go on
        self._end_output()
        try:
            if journal is not None:
                journal.finished(job.id, token, outcome)
        except OSError:
            journal, self.parent.journal_broken = None, True
        if outcome.troubled or outcome.failed or outcome.suppress:
            self.wave = job.wave + 1
        leaving = self._leaked()
        self._say(f'{{"outcome":{as_text(outcome)}{"" if journal else _BROKEN}{_LEAVING if leaving else ""}}}')
        if leaving:
            tasks.close()
            os._exit(0)

    def _end_output(self) -> None:
        """Mark where this job's output ends and the next one's begins."""
        executing.flush_output()
        with contextlib.suppress(OSError):  # a task may have closed it
            os.write(1, self.parent.end_of_output)

    def _leaked(self) -> bool:
        """Whether the jobs so far left so many descriptors or so much memory behind that the next one would suffer: another worker takes over."""
        try:
            lowest_free = os.dup(self.jobs.fileno())
            os.close(lowest_free)
        except OSError:
            return True
        return lowest_free > self.most_descriptors or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self.most_kilobytes

    def _say(self, message: str) -> None:
        self.jobs.sendall(message.encode() + b"\n")


# What a worker needs of a job.
_MEMBERS = (
    "id", "task", "payload", "uid", "queue", "priority", "max_attempts", "timeout_seconds", "batch_id", "attempts", "crashes", "token", "run_id", "rank",
    "endpoint", "expires_by", "reason", "wave",
)  # fmt: skip
_members_of = attrgetter(*_MEMBERS)
_LENGTH = struct.Struct("<I")


def as_parcel(job: Job) -> bytes:
    """The job on its way to a worker. In marshal, which the two sides of one fork share, and which costs a tenth of JSON; nobody but the run can write there."""
    raw = marshal.dumps((job.created_at.timestamp() if job.created_at else None, job.started_at is not None, *_members_of(job)))
    return _LENGTH.pack(len(raw)) + raw


def from_parcels(stream: BinaryIO) -> Iterator[Job]:
    """The jobs in it, until it ends, if need be in the middle of one."""
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        (size,) = _LENGTH.unpack(head)
        raw = stream.read(size)
        if len(raw) < size:
            return
        born, marked, *members = marshal.loads(raw)  # noqa: S302 # nosec B302 - see as_parcel
        yield Job(
            **dict(zip(_MEMBERS, members, strict=True)), created_at=datetime.fromtimestamp(born, UTC) if born is not None else None,
            started_at=datetime.now(UTC) if marked else None,  # only that there is a mark matters here; the row has the time
        )  # fmt: skip


# How a plain success begins as journal.as_text writes it, which most are.
_PLAIN = b'{"outcome":{"verb":"finish","state":"done","seconds":'


def understood(line: bytes, *, ready: bool, busy: bool) -> tuple[dict[str, Any], Outcome | None]:
    """What a worker says, and the outcome in it; ValueError, TypeError, LookupError or AttributeError if it is none of what a worker says at this moment."""
    if line.startswith(_PLAIN) and line.endswith(b"}}") and b"," not in (said := line[len(_PLAIN) : -2]) and ready and busy:
        seconds = float(said)
        if 0 <= seconds < float("inf"):
            return {}, Outcome("finish", State.DONE, seconds=seconds)
    message = json.loads(line)
    if not isinstance(message, dict) or ("policies" in message) == ready or not (busy or "policies" in message):
        raise ValueError(line)
    return message, Outcome.from_dict(message["outcome"]) if "outcome" in message else None
