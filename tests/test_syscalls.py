"""A sample of tests/syscalls.py: every so many calls of each kind; all of them with `python -m tests.syscalls --database mariadb`."""

import pytest
import syscalls
from parts import missing
from stage import opened


@pytest.mark.parametrize(("database", "every"), [("sqlite", 24), ("mysql", 14)])
def test_a_run_killed_at_any_system_call_loses_nothing_and_repeats_at_most_what_was_in_flight(tmp_path, request, database, every):
    if reason := syscalls.why_not():
        missing("strace", reason)
    with opened(database, tmp_path, lambda: request.getfixturevalue("server")) as stage:
        figures = syscalls.enumerate_calls(stage, syscalls.Figures(database), every)
    assert figures.broken() == {}
    assert figures.runs_killed >= 8
    assert figures.workers_killed >= 1
