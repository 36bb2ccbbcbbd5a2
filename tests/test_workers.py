"""What the run makes of its workers' deaths, where real processes would have to die at one moment in a thousand."""

import os
import selectors
import signal
import socket
from collections import deque
from contextlib import suppress

import pytest

from asyncsend.channels import Channel, Channels
from asyncsend.job import Job
from asyncsend.journal import Journal, as_text
from asyncsend.outcome import Outcome, State
from asyncsend.worker import BUFFER, Worker, sockets
from asyncsend.workers import WINDOW, WINDOW_SECONDS, Workers

JOB = Job(7, "email", "{}", token="a" * 32)


@pytest.fixture
def workers(lite, log):
    journal = Journal(lite.settings().journal_path)
    made = Workers(2, lite.settings(), journal, log, chance=lambda: 0.5)
    yield made
    made.close()
    journal.close()


def death_of_one_with(workers, job: Job | None, code: int = -9) -> list:
    """A worker that was handed this job, or none because it never came up, is dead; the outcomes that the run decided on."""
    ours, theirs = socket.socketpair()
    output, its_output = os.pipe()
    os.set_blocking(output, False)
    os.close(its_output)
    theirs.close()
    worker = Worker(2**22 + 1, ours, output, ready=job is not None)
    if job:
        worker.window, worker.sizes = deque([job]), deque([10])
    workers.workers.append(worker)
    workers._bury_worker(worker, code)
    return [outcome for _, outcome in workers._finished]


def test_a_worker_killed_while_it_came_up_is_no_fault_of_the_modules_until_it_happens_again(workers):
    for without in (False, True):
        death_of_one_with(workers, None)
        assert workers.without_modules is without


def test_a_module_that_ends_the_process_by_itself_is_left_out_at_once(workers):
    death_of_one_with(workers, None, code=3)
    assert workers.without_modules


def test_a_job_that_its_dead_worker_had_begun_is_charged(workers):
    workers.journal.started(JOB.id, JOB.token, "")
    [outcome] = death_of_one_with(workers, JOB)
    assert (outcome.verb, outcome.charged, outcome.reason) == ("retry", True, "killed")
    assert not workers.backlog


def test_a_job_that_its_dead_worker_had_not_begun_goes_to_another_also_when_the_journal_broke_elsewhere(workers):
    workers.journal_broken = True
    assert death_of_one_with(workers, JOB) == []
    assert list(workers.backlog) == [JOB]


@pytest.fixture
def idle(workers, request):
    """A worker that is ready, by its two ends; nobody is behind the other."""
    ours, theirs, most_bytes = sockets(getattr(request, "param", BUFFER))
    ours.settimeout(0.2)
    theirs.setblocking(False)
    worker = Worker(2**22 + 1, ours, -1, most_bytes, ready=True)
    workers.workers.append(worker)
    yield worker, theirs
    workers.workers.clear()
    ours.close()
    theirs.close()


def arrived(theirs) -> int:
    """Bytes that the worker's side can read now."""
    size = 0
    with suppress(BlockingIOError):
        while piece := theirs.recv(1 << 20):
            size += len(piece)
    return size


@pytest.mark.parametrize("length", [0, 300, 400, 3000, 9000])
@pytest.mark.parametrize("idle", [64 * 1024, BUFFER], indirect=True)
def test_handing_never_waits_for_a_worker_that_reads_nothing_while_it_goes_through_what_it_has(workers, idle, length):
    worker, theirs = idle
    worker.size = WINDOW
    workers.backlog.extend(Job(number, "note", "x" * length, token="a" * 32) for number in range(2 * WINDOW))
    workers._deal()
    assert arrived(theirs) == worker.weight  # all in its hands; now it says one outcome after the other
    for _ in range(len(worker.window)):
        worker.pop(0.0)
        workers._deal()
    assert worker.window
    assert arrived(theirs) == worker.weight


@pytest.mark.parametrize("length", [0, 300, 1000])
@pytest.mark.parametrize("idle", [4096, 64 * 1024], indirect=True)
def test_jobs_that_come_one_by_one_never_wait_for_a_worker_that_is_busy_for_long(workers, idle, length):
    worker, theirs = idle
    worker.size = WINDOW
    worker.kill = lambda _number: pytest.fail("it did not read for a while, and was killed for that")
    workers.workers.append(Worker(2**22 + 2, worker.jobs, -1, ready=True, window=deque([JOB] * (WINDOW // 2))))  # whose part of the window is full
    for number in range(100):
        workers.backlog.append(Job(number, "note", "x" * length, token="a" * 32))
        workers._deal()
    assert worker.window
    while workers.backlog and arrived(theirs):  # it reads on
        workers._deal()
    assert len(worker.window) + len(workers.backlog) == 100


def test_nothing_more_is_handed_to_a_worker_at_a_slow_job_while_there_are_others(workers, idle):
    worker, _ = idle
    worker.size, now = WINDOW, [100.0]
    workers.clock = lambda: now[0]
    workers.backlog.extend(Job(number, "note", "{}", token="a" * 32) for number in range(4))
    workers._deal()
    held = len(worker.window)
    now[0] += WINDOW_SECONDS + 0.1
    workers.backlog.extend(Job(number, "note", "{}", token="a" * 32) for number in range(4, 100))
    workers.count = 2
    workers._deal()
    assert len(worker.window) == held
    worker.pop(now[0])
    workers._deal()
    assert len(worker.window) > held


def test_a_marked_job_that_did_not_reach_its_dying_worker_is_not_charged(workers, idle):
    worker, theirs = idle
    workers.journal_broken = True  # so that each start is marked
    workers.backlog.append(Job(7, "note", "{}", token="a" * 32))
    theirs.close()
    workers._deal()
    worker.output = os.pipe()[0]
    os.set_blocking(worker.output, False)
    workers._bury_worker(worker, -9)
    assert workers._finished == []
    assert [(job.id, job.started_at) for job in workers.backlog] == [(7, None)]


def test_a_job_is_not_killed_for_the_time_that_the_run_did_not_listen(workers, idle):
    worker, theirs = idle
    now = [100.0]
    workers.clock = lambda: now[0]
    workers.selector.register(worker.jobs, selectors.EVENT_READ, worker)
    worker.size = 4
    workers.backlog.extend(Job(number, "note", "{}", token="a" * 32, timeout_seconds=1) for number in (1, 2))
    workers._deal()
    now[0] += 5  # settling took long; meanwhile it is at its second job
    theirs.sendall(b'{"outcome":{"verb":"finish","state":"done","seconds":0.1}}\n')
    workers._finished.append((Job(3, "email", "{}"), Outcome("snooze", State.READY)))  # with which the run need not wait for any
    assert [job.id for job, _ in workers.results(0.0)] == [3, 1]
    assert worker.term_sent is None


@pytest.mark.parametrize(("count", "seconds", "size"), [(1, 0.0, WINDOW), (2, 0.0001, WINDOW // 2), (1, 0.1, 5), (1, 60.0, 1)])
def test_a_worker_may_hold_half_a_second_of_work_and_no_more_than_its_part_of_the_window(workers, idle, count, seconds, size):
    worker, _ = idle
    workers.count = count
    for _ in range(12):
        worker.take(JOB, 10, 0.0)
        workers._hear(worker, b'{"outcome":{"verb":"finish","state":"done","seconds":%f}}\n' % seconds)
    assert worker.size == size


@pytest.mark.parametrize("seconds", ["nan", "NaN", "Infinity", '"long"', "null"])
def test_what_a_task_forges_as_a_length_of_time_does_not_end_the_run(workers, idle, seconds):
    worker, _ = idle
    worker.window, worker.sizes = deque([JOB]), deque([10])
    workers._hear(worker, b'{"outcome":{"verb":"finish","state":"done","seconds":%s}}\n' % seconds.encode())
    assert list(worker.window) == [JOB]
    assert workers._finished == []


@pytest.mark.parametrize("more", [{}, {"unsent": True}, {"channel": "email"}, {"delay": 1.0}, {"result": "}}"}])
def test_a_success_of_which_there_is_more_to_say_is_understood(workers, idle, more):
    worker, _ = idle
    worker.window, worker.sizes = deque([JOB]), deque([10])
    outcome = Outcome("finish", State.DONE, seconds=0.25, **more)
    workers._hear(worker, f'{{"outcome":{as_text(outcome)}}}\n'.encode())
    assert workers._finished == [(JOB, workers.channels.heard(JOB, outcome))]
    assert not worker.window


@pytest.mark.parametrize("behind", [["email", "note"], ["webhook", "email", "webhook", "note"]])
def test_who_goes_another_way_does_not_wait_for_the_one_job_that_tries_a_channel(workers, behind):
    workers.channels = Channels(lambda: [Channel("email", failures=1), Channel("host:a.example", failures=1)], lambda: 0.0)
    pairs = [socket.socketpair() for _ in range(3)]
    workers.workers += [Worker(2**22 + number, ours, -1, ready=True) for number, (ours, _) in enumerate(pairs)]
    tasks = ["email", *behind]
    workers.backlog.extend(Job(number, task, '{"url":"https://a.example/"}', token="a" * 32) for number, task in enumerate(tasks))
    workers._deal()
    begun = [worker.window[0].task for worker in workers.workers if worker.window]
    assert begun == list(dict.fromkeys(tasks))
    assert sorted(job.task for job in workers.backlog) == sorted(tasks[len(begun) - 1 : -1])
    workers.workers.clear()
    for end in (end for pair in pairs for end in pair):
        end.close()


@pytest.mark.parametrize(("waiting", "shares"), [(2, [1, 1]), (3, [2, 1]), (1000, [128, 128])])
def test_what_is_left_is_shared_however_quick_the_jobs_before_it_were(workers, waiting, shares):
    pairs = [socket.socketpair() for _ in shares]
    workers.workers += [Worker(2**22 + number, ours, -1, ready=True, size=128) for number, (ours, _) in enumerate(pairs)]
    workers.backlog.extend(Job(number, "note", "{}", token="a" * 32) for number in range(waiting))
    workers._deal()
    assert [len(worker.window) for worker in workers.workers] == shares
    workers.workers.clear()
    for end in (end for pair in pairs for end in pair):
        end.close()


def test_the_journal_is_read_from_its_start_while_workers_write_it(workers):
    for number in range(3000):
        workers.journal.started(number, "a" * 32)
    reader, writer = os.pipe()
    ours, writing = os.getpid(), os.fork()
    if writing == 0:
        while os.getppid() == ours:
            workers.journal.started(3000, "b" * 32)
            if os.get_blocking(writer):  # the first time
                os.write(writer, b".")
                os.set_blocking(writer, False)
        os._exit(0)
    os.read(reader, 1)
    try:
        missing = [3000 - sum(token[0] == "a" for _, token in workers.journal.read()[1]) for _ in range(5)]
    finally:
        os.kill(writing, signal.SIGKILL)
        os.waitpid(writing, 0)
        os.close(reader)
        os.close(writer)
    assert missing == [0] * 5
