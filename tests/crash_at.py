"""
The real command, in a real process that kills itself at a named point; the product has no hook for it.

    python tests/crash_at.py POINT N run

Functions of the product are wrapped before it starts, so a forked worker inherits the wraps. At the N-th passage SIGKILL
hits whoever the point names: the run, the worker alone, or all (a worker passes, and the whole run dies there and then).
A point that was never reached is said on stderr, and a run says nothing else there.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import mmap
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    """Where somebody dies. A run's own points count in the run, the others in its workers."""

    dies: str  # run | worker | all | ancestors: the run and with it the worker; the command that passes lives on
    when: str  # before | after | torn: in the middle of the one write(2) inside
    where: str  # module:attribute, or nothing: a task of the test says reached()
    matching: str = ""  # a regular expression one argument must match: the statement, the journal's line


STATEMENT = "asyncsend.store.mysql:MySQLStore._execute asyncsend.store.sqlite:SQLiteStore._execute"
CLAIM = "SET state = 'running', token"
POINTS = {
    "before the lock": Point("run", "before", "asyncsend.lock:HostLock.acquire"),
    "the lock is had": Point("run", "after", "asyncsend.lock:HostLock.acquire"),
    "before the status row is taken": Point("run", "before", "asyncsend.store.sql:SqlStore.take"),
    "the status row is taken": Point("run", "after", "asyncsend.store.sql:SqlStore.take"),
    "before the candidates are read": Point("run", "before", "asyncsend.store.sql:SqlStore._candidates"),
    "the candidates are read": Point("run", "after", "asyncsend.store.sql:SqlStore._candidates"),
    "the claim is sent, its reply unread": Point("run", "after", "pymysql.connections:Connection._execute_command", CLAIM),
    "claimed, not read by token": Point("run", "after", STATEMENT, CLAIM),
    "claimed, nothing handed": Point("run", "after", "asyncsend.store.sql:SqlStore.claim"),
    "a worker is forked": Point("run", "after", "asyncsend.workers:Workers._fork"),
    "the start mark is committed": Point("run", "after", "asyncsend.store.sql:SqlStore.mark_started"),
    "the outcome is heard": Point("run", "after", "asyncsend.workers:Workers._finish"),
    "before the COMMIT": Point("run", "before", STATEMENT, "^COMMIT$"),
    "settled, the journal not cleared": Point("run", "after", "asyncsend.store.sql:SqlStore.settle"),
    "the journal is cleared": Point("run", "after", "asyncsend.journal:Journal.clear"),
    "before pruning": Point("run", "before", "asyncsend.store.sql:SqlStore.prune"),
    "pruned": Point("run", "after", "asyncsend.store.sql:SqlStore.prune"),
    "before the status row is ended": Point("run", "before", "asyncsend.store.sql:SqlStore.end"),
    "the status row is ended": Point("run", "after", "asyncsend.store.sql:SqlStore.end"),
    "before the history is saved": Point("run", "before", "asyncsend.store.sql:SqlStore.save_run"),
    "the history is saved": Point("run", "after", "asyncsend.store.sql:SqlStore.save_run"),
    "a result is replayed": Point("run", "after", "asyncsend.store.sql:SqlStore.settle"),
    "replayed, not rescued": Point("run", "before", "asyncsend.run:_Minute._rescue"),
    "rescued, the journal not cleared": Point("run", "after", "asyncsend.run:_Minute._rescue"),
    "a statement of a migration is done": Point("run", "after", STATEMENT, "^(CREATE|INSERT|ALTER|DROP)"),
    "a schedule is moved": Point("run", "after", STATEMENT, "^UPDATE asyncsend_schedules"),
    "a schedule's jobs are made": Point("run", "after", STATEMENT, "^INSERT INTO asyncsend_jobs"),
    "a schedule is committed": Point("run", "after", "asyncsend.store.schedules:ScheduleStatements.move_schedule"),
    "the command is forked, not yet bound to us": Point("ancestors", "before", "asyncsend.tasks.command:_die_with_parent"),
    **{
        f"{name}{', worker only' if dies == 'worker' else ''}": Point(dies, when, where, matching)
        for dies in ("all", "worker")
        for name, when, where, matching in (
            ("before S", "before", "asyncsend.journal:Journal.started", ""),
            ("S written", "after", "asyncsend.journal:Journal.started", ""),
            ("in the effect", "after", "", ""),
            ("the mail is taken", "after", "asyncsend.tasks.smtp:Smtp._transact", ""),
            ("effect done", "after", "asyncsend.execute:execute", ""),
            ("D torn", "torn", "asyncsend.journal:Journal._append", "^D "),
            ("D written", "after", "asyncsend.journal:Journal.finished", ""),
            ("outcome said", "after", "asyncsend.child:Child._say", ""),
        )
    },
}


class Death:
    """Counts passages, in memory that run and workers share, and kills at the N-th."""

    def __init__(self, name: str, passage: int) -> None:
        self.name, self.point, self.passage = name, POINTS[name], passage
        self.run = os.getpid()
        self.worker = 0  # of the command that passes
        self.passed = mmap.mmap(-1, 1)
        atexit.register(self.complain)

    def reached(self) -> bool:
        """Whether this is the passage to die at."""
        if (os.getpid() == self.run) != (self.point.dies == "run"):
            return False
        self.passed[0] += 1
        self.worker = os.getppid()
        return self.passed[0] == self.passage

    def die(self) -> None:
        if self.point.dies in ("all", "ancestors"):
            os.kill(self.run, signal.SIGKILL)
        if self.point.dies != "ancestors":
            os.kill(os.getpid(), signal.SIGKILL)
        # The worker dies with the run, by the kernel; all that is left to do is to outlive it.
        while os.getppid() == self.worker:
            time.sleep(0.001)

    def complain(self) -> None:
        if os.getpid() == self.run and self.passed[0] < self.passage:
            print(f"passed {self.passed[0]} times, not {self.passage}: {self.name}", file=sys.stderr)

    def wrap(self) -> None:
        for place in self.point.where.split():
            module, _, path = place.partition(":")
            owner = importlib.import_module(module)
            *outer, name = path.split(".")
            for step in outer:
                owner = getattr(owner, step)
            setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function):
        @functools.wraps(function)
        def passing(*arguments, **options):
            texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in arguments if isinstance(text, str | bytes)]
            mine = not self.point.matching or any(re.search(self.point.matching, text) for text in texts)
            now = mine and self.reached()
            if now and self.point.when == "before":
                self.die()
            if now and self.point.when == "torn":
                write = os.write
                os.write = lambda descriptor, record: (write(descriptor, record[: len(record) // 2]), self.die())
            answer = function(*arguments, **options)
            if now and self.point.when != "before":
                self.die()
            return answer

        return passing


def reached(name: str) -> None:
    """A task of the test passes a point of its own."""
    if death and death.name.startswith(name) and death.reached():
        death.die()


death: Death | None = None

if __name__ == "__main__":
    point, passage, *sys.argv[1:] = sys.argv[1:]
    sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
    import asyncsend.run
    from asyncsend.__main__ import main

    # Results are written when a batch is through, and not when a quarter of a second is: what is in the journal is then the same each time.
    asyncsend.run.SETTLE_SECONDS = 60.0
    if point == "a result is replayed":
        asyncsend.run.SETTLE_JOBS = 1
    death = Death(point, int(passage))
    death.wrap()
    main()
