"""What the run makes of its workers' deaths, where real processes would have to die at one moment in a thousand."""

import os
import socket
from collections import deque

import pytest

from asyncsend.job import Job
from asyncsend.journal import Journal
from asyncsend.workers import Worker, Workers

JOB = Job(7, "email", "{}", token="a" * 32)


@pytest.fixture
def workers(lite, log):
    journal = Journal(lite.settings().journal_path)
    made = Workers(2, lite.settings(), journal, log, chance=lambda: 0.5)
    yield made
    made.close()
    journal.close()


def death_of_one_with(workers, job: Job) -> list:
    """A worker that was handed this job is dead; the outcomes that the run decided on."""
    ours, theirs = socket.socketpair()
    output, its_output = os.pipe()
    os.set_blocking(output, False)
    os.close(its_output)
    theirs.close()
    worker = Worker(2**22 + 1, ours, output, window=deque([job]), sizes=deque([10]), ready=True)
    workers.workers.append(worker)
    workers._bury_worker(worker, -9)
    return [outcome for _, outcome in workers._finished]


def test_a_job_that_its_dead_worker_had_begun_is_charged(workers):
    workers.journal.started(JOB.id, JOB.token, "")
    [outcome] = death_of_one_with(workers, JOB)
    assert (outcome.verb, outcome.charged, outcome.reason) == ("retry", True, "killed")
    assert not workers.backlog


def test_a_job_that_its_dead_worker_had_not_begun_goes_to_another_also_when_the_journal_broke_elsewhere(workers):
    workers.journal_broken = True
    assert death_of_one_with(workers, JOB) == []
    assert list(workers.backlog) == [JOB]
