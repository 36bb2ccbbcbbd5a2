"""
What a worker does in its own process: one job after another from its socket, start and result into the journal, the outcome back to the run.

`workers.py` forks it and watches over it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING

from asyncsend import deathsig
from asyncsend import execute as executing
from asyncsend.journal import as_text
from asyncsend.tasks import Tasks
from asyncsend.wire import from_parcels

if TYPE_CHECKING:
    from asyncsend.job import Job
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
