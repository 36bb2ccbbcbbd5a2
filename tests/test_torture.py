"""A short torture in every run of the tests; `make torture` is the long one."""

import pytest
import torture


@pytest.mark.parametrize(("database", "workers"), [("sqlite", 1), ("mariadb", 2)])
def test_no_promise_breaks_whatever_befalls_a_run(database, workers):
    each = list(torture.nemeses(database))
    arguments = torture.parsed(["--kills", "22", "--seconds", "25", "--seed", "20261121", "--database", database, "--workers", str(workers), "--each", *each])
    figures = torture.torture(arguments)
    assert figures.valid, "the queue could not be drained"
    assert figures.broken() == {}, figures.verdict.remarks
    assert set(each) <= set(figures.kills)
    assert figures.killed_runs >= 5
    assert figures.verdict.jobs > 50
    assert figures.recoveries


def test_two_lanes_add_up():
    figures = torture.torture(torture.parsed(["--kills", "4", "--seed", "5", "--database", "sqlite", "--lanes", "2"]))
    assert figures.valid
    assert figures.broken() == {}
    assert sum(figures.kills.values()) >= 4
