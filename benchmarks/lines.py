"""
Does a claim walk past jobs whose keys let none of them start? Rows that the server reads (Handler_read%) and time of a claim of ten, behind a crowd.

The first claim behind a crowd that waits moves it aside once; these are those that follow.
"""

from __future__ import annotations

import os
import sys
import time

from asyncsend import outcome as outcomes
from asyncsend.outcome import Settlement
from asyncsend.store import open_store
from benchmarks.yardstick import Figure, Server, account, alone

SIZES = {"full": {"rounds": 5, "rows": 100_000}, "quick": {"rounds": 5, "rows": 10_000}, "tiny": {"rounds": 1, "rows": 200}}
FLOORS = {"no crowd": "the same when nothing else is in the table"}
# name: the columns of row `number`, all of them added before the ten jobs that may start
CROWDS = {
    "ten order keys, their first jobs held": lambda number: f"'k{number % 10}', NULL, NOW(), '{'held' if number < 10 else 'ready'}'",
    "each its own order key, all free": lambda number: f"'k{number}', NULL, NOW(), 'ready'",
    "each its own order key, due tomorrow": lambda number: f"'k{number}', NULL, NOW() + INTERVAL 1 DAY, 'ready'",
    "one concurrency key, its limit reached": lambda number: f"NULL, 'oven', NOW(), '{'running' if number < 2 else 'ready'}'",
}
READS = "SELECT SUM(VARIABLE_VALUE) FROM {}.SESSION_STATUS WHERE VARIABLE_NAME LIKE 'Handler_read%'"


def claim(store) -> tuple[float, float]:
    """Rows read and milliseconds of a claim of ten, which are given back."""
    reads = READS.format("performance_schema" if store.facts()["version"].startswith(("8.", "9.")) else "information_schema")
    before, began = store._rows(reads)[0][0], time.perf_counter()  # noqa: SLF001 - what this session read, only its own connection can ask
    jobs = store.claim(store.ready_queues(), 10, os.urandom(16).hex(), 1, limit_of=lambda key: 2 if key == "oven" else None)
    took, after = time.perf_counter() - began, store._rows(reads)[0][0]  # noqa: SLF001
    assert jobs
    store.settle([Settlement(job.id, job.token, outcomes.release()) for job in jobs])
    return float(after - before), took * 1000


def claims(server: Server, rounds: int, rows: int, crowd=None) -> tuple[list[float], list[float]]:
    with account(server) as place:
        store = open_store(server.url(place.database), "asyncsend_")
        store.standing("default")
        if crowd:
            place.insert("task, payload, order_key, concurrency_key, run_at, state", lambda number: f"('email', '{{}}', {crowd(number)})", rows)
        place.waiting("email", 10)
        claim(store)
        reads, times = zip(*[claim(store) for _ in range(rounds)], strict=True)
        store.close()
        return list(reads), list(times)


def measure(server: Server, rounds: int, rows: int) -> list[Figure]:
    alone_reads, alone_times = claims(server, rounds, rows)
    figures = []
    for name, crowd in CROWDS.items():
        reads, times = claims(server, rounds, rows, crowd)
        figures.append(Figure(f"claim behind {rows:,}: {name}", "rows read", reads, alone_reads, "no crowd"))
        figures.append(Figure("the same", "ms", times, alone_times, "no crowd"))
    return figures


if __name__ == "__main__":
    alone(sys.modules[__name__])
