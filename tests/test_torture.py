"""A short torture in every run of the tests; `make torture` is the long one."""

import argparse

import pytest
import torture


@pytest.mark.parametrize(("database", "workers"), [("sqlite", 1), ("mariadb", 1), ("mariadb", 3)])
def test_no_job_is_lost_and_no_repeat_is_unexplained_however_a_run_ends(database, workers):
    figures, valid = torture.torture(argparse.Namespace(kills=25, seconds=60, seed=20261121, database=database, workers=workers))
    assert valid, "the queue could not be drained"
    assert figures.broken() == {}
    assert sum(figures.kills.values()) >= 10
    assert figures.jobs > 100
