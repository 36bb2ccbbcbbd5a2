"""
What a worker does: one job after another from its socket, start and result into the journal, the outcome back to the run.

`workers.py` forks it and watches over it; here is the child's half of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncsend import deathsig
from asyncsend import execute as executing
from asyncsend.job import Job
from asyncsend.tasks import Tasks

if TYPE_CHECKING:
    import socket

    from asyncsend.workers import Workers


MAX_GROWTH = 256 * 1024  # kilobytes by which the jobs of one worker may swell it


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
        self._say({"policies": {name: policy.as_dict() for name, policy in tasks.policies().items()}, "failed": tasks.failed_modules})
        with self.jobs.makefile("rb") as lines:
            for line in lines:
                self._serve(from_line(line), tasks)
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
        if not self.parent.may_start():
            self._say({"unstarted": job.id})
            return
        if self.parent.called_back(job, self.wave):
            self._say({"unstarted": job.id, "called_back": True})
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
            self._say({"unstarted": job.id, "journal": "broken"})
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
        self._say({"outcome": outcome.as_dict()} | ({} if journal else {"journal": "broken"}) | ({"leaving": True} if leaving else {}))
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
            lowest_free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            os.close(lowest_free)
        except OSError:
            return True
        if lowest_free > self.most_descriptors:
            return True
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self.most_kilobytes

    def _say(self, message: dict[str, Any]) -> None:
        self.jobs.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def as_line(job: Job) -> bytes:
    """What a worker needs of a job."""
    members = {
        "id": job.id, "task": job.task, "payload": job.payload, "uid": job.uid, "queue": job.queue, "priority": job.priority,
        "max_attempts": job.max_attempts, "timeout_seconds": job.timeout_seconds, "batch_id": job.batch_id, "attempts": job.attempts,
        "crashes": job.crashes, "token": job.token, "run_id": job.run_id, "rank": job.rank, "marked": job.started_at is not None, "born": job.created_at.timestamp() if job.created_at else None,
    }  # fmt: skip
    for name in ("endpoint", "expires_by", "reason", "wave"):
        if value := getattr(job, name):
            members[name] = value
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Job:
    members = json.loads(line)
    born, marked = members.pop("born"), members.pop("marked")
    return Job(
        **members, created_at=datetime.fromtimestamp(born, UTC) if born is not None else None,
        started_at=datetime.now(UTC) if marked else None,  # only that there is a mark matters here; the row has the time
    )  # fmt: skip
