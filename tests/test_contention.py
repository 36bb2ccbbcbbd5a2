"""None of the producers' INSERTs may deadlock or time out because of a run, and none of the runs because of them."""

import contention
import pytest


@pytest.mark.parametrize("isolation", contention.ISOLATIONS)
def test_no_insert_of_a_producer_fails_while_the_runs_of_six_hosts_drain(any_server, tmp_path, isolation):
    seen = contention.contend(any_server, isolation, tmp_path, rows=150)
    assert seen.inserts == 150 * contention.PRODUCERS
    assert (seen.failed, seen.spoke, seen.left) == ({}, [], 0)
