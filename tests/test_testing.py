"""The testing module does what its docstring shows."""

import pytest

from asyncsend import Retry, enqueue, task, testing


@task(name="testing_double")
def double(number: int) -> int:
    return number * 2


@task(name="testing_later", max_attempts=3)
def later() -> None:
    raise Retry(60, "not yet")


@task(name="testing_for_ever")
def for_ever() -> None:
    for_ever.enqueue()


def test_what_was_enqueued_is_found_and_executed():
    with testing.queue() as queue:
        enqueue("email", {"to": "ann@example.com", "subject": "Hi", "text": "Hello"})
        double.enqueue(21)
        assert queue.assert_enqueued("email", to="ann@example.com").state == "ready"
        assert queue.drain() == {"done": 2}
        assert [job.result for job in queue.jobs("testing_double")] == ["42"]


def test_what_was_not_enqueued_is_missed_by_name():
    with testing.queue() as queue:
        double.enqueue(1)
        with pytest.raises(AssertionError, match=r'testing_double \{"number":1\}'):
            queue.assert_enqueued("email")


def test_the_clock_is_moved_by_hand():
    clock = testing.FakeClock(1_800_000_000)
    with testing.queue(clock=clock) as queue:
        later.enqueue()
        assert queue.drain() == {"ready": 1}
        assert queue.drain() == {}
        clock.forward(61)
        assert queue.drain() == {"ready": 1}


def test_a_task_that_enqueues_itself_for_ever_is_noticed():
    with testing.queue() as queue:
        for_ever.enqueue()
        with pytest.raises(AssertionError, match="does not run dry"):
            queue.drain(limit=20)


def test_one_task_runs_inline():
    assert testing.run_inline("testing_double", {"number": 4}).result == "8"
    assert testing.run_inline("testing_double", {"nonsense": 4}).reason == "bad-payload"


def test_calling_a_task_is_calling_the_function():
    assert double(3) == 6
