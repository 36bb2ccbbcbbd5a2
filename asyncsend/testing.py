"""
For your own tests: a queue in a temporary SQLite file, jobs executed in this very process, a clock you move.

    from asyncsend import testing

    def test_an_order_sends_its_receipt():
        with testing.queue() as queue:
            place_order(17)                                   # calls asyncsend.enqueue somewhere
            queue.assert_enqueued("email", to="ann@example.com")
            assert queue.drain() == {"done": 1}

It is the same path as on the host (the row, the claim, the JSON round trip, the outcome), only without worker processes.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asyncsend import config, producer, queues, schema, suppressions, topics
from asyncsend import execute as executing
from asyncsend.job import Job, NewJob, members_of
from asyncsend.outcome import Outcome, Settlement, State
from asyncsend.store.sqlite import SQLiteStore
from asyncsend.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class FakeClock:
    """Stands still at `seconds` since 1970 until it is moved; call it for the time."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = time.time() if seconds is None else seconds

    def __call__(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        """Let so much time pass."""
        self.seconds += seconds


class Queue:
    """What was enqueued, and a way to execute it here and now."""

    def __init__(self, store: SQLiteStore, settings: config.Settings, chance: Callable[[], float]) -> None:
        self.store, self.settings, self.chance = store, settings, chance
        self.outcomes: list[tuple[Job, Outcome]] = []

    def jobs(self, task: str | None = None, state: str | None = None) -> list[Job]:
        """The jobs in the order they were enqueued."""
        return self.store.jobs(state=state, queue=None, task=task, limit=10_000)[::-1]

    def assert_enqueued(self, task: str, **members: Any) -> Job:
        """The first job of `task` whose payload has these members. AssertionError lists what there is instead."""
        for job in self.jobs(task):
            payload = members_of(job.payload)
            if all(name in payload and payload[name] == value for name, value in members.items()):
                return job
        there = "\n".join(f"  {job.task} {job.payload}" for job in self.jobs()) or "  nothing"
        raise AssertionError(f"no {task} with {members} was enqueued, but:\n{there}")

    def drain(self, limit: int = 10_000) -> dict[str, int]:
        """
        Execute what is due, also what that enqueues, until nothing is; how many jobs went to each state.

        `limit` ends a task that enqueues itself for ever: AssertionError. Timeouts are not enforced: there is no process to kill.
        """
        tasks = Tasks(self.settings)
        tasks.load_modules()
        counts: dict[str, int] = {}
        try:
            while claimed := self.store.claim(queues.in_order(self.store.ready_queues(), self.settings.queues, self.store.pauses()), 1, os.urandom(16).hex(), 0):
                topics.attach(self.store, claimed)
                suppressions.sort_out(self.store, claimed)
                for job in claimed:
                    if job.unread:
                        job.payload = self.store.payload(job.id, job.token or "") or ""
                    outcome = executing.before(job) or executing.execute(job, tasks, self.chance)
                    self.store.settle([Settlement(job.id, job.token or "", outcome)])
                    self.outcomes.append((job, outcome))
                    counts[outcome.state.value] = counts.get(outcome.state.value, 0) + 1
                limit -= 1
                if limit < 0:
                    raise AssertionError("the queue does not run dry: does a task enqueue itself for ever?")
        finally:
            tasks.close()
        return counts


@contextmanager
def queue(environment: Mapping[str, str] | None = None, *, clock: Callable[[], float] = time.time, chance: Callable[[], float] = random.random) -> Iterator[Queue]:
    """
    A queue of its own for the length of the block: `enqueue` without a connection goes here, mails go to its outbox folder.

    `environment` may hold ASYNCSEND_ settings. For the thread that enters the block.
    """
    with tempfile.TemporaryDirectory(prefix="asyncsend-testing-") as home:
        settings = config.load({"ASYNCSEND_HOME": home, "ASYNCSEND_EMAIL_FROM": "testing@example.com", **(environment or {})})
        store = SQLiteStore(f"sqlite:///{home}/asyncsend.sqlite3", "asyncsend_", clock)
        store.create()
        schema.install(store, "sqlite")
        try:
            with producer.instead(store):
                yield Queue(store, settings, chance)
        finally:
            store.close()


def run_inline(task: str, payload: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Outcome:
    """The outcome of one execution of `task` with this payload, which goes through JSON; nothing is stored."""
    new: NewJob = producer.new_job(task, payload)
    with tempfile.TemporaryDirectory(prefix="asyncsend-testing-") as home:
        settings = config.load({"ASYNCSEND_HOME": home, "ASYNCSEND_EMAIL_FROM": "testing@example.com", **(environment or {})})
        tasks = Tasks(settings)
        tasks.load_modules()
        try:
            return executing.execute(Job(id=0, task=task, payload=new.payload, uid=new.uid, state=State.RUNNING), tasks, random.random)
        finally:
            tasks.close()
