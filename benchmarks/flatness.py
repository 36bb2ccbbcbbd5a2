"""Does a big table slow the claim? Time of claiming 100 of 1,000 due jobs, and of asking a queue in which nothing is due, beside a crowd."""

from __future__ import annotations

import os
import sys
import time

from asyncsend import outcome as outcomes
from asyncsend.outcome import Settlement
from asyncsend.store import open_store
from benchmarks.crowd import crowded
from benchmarks.yardstick import Figure, Server, account, alone, in_turns

SIZES = {"full": {"rounds": 15, "rows": 1_000_000}, "quick": {"rounds": 9, "rows": 100_000}, "tiny": {"rounds": 1, "rows": 1000}}
FLOORS = {"empty table": "the same on a table that has only the 1,000 due jobs"}


def claim(store) -> float:
    """Milliseconds of a claim of 100, which are given back."""
    began = time.perf_counter()
    jobs = store.claim(store.ready_queues(), 100, os.urandom(16).hex(), 1)
    took = time.perf_counter() - began
    assert len(jobs) == 100
    store.settle([Settlement(job.id, job.token, outcomes.release()) for job in jobs])
    return took * 1000


def look(store) -> float:
    """Milliseconds of a look at a queue with nothing due."""
    began = time.perf_counter()
    assert not store.claim(["later"], 100, os.urandom(16).hex(), 1)
    return (time.perf_counter() - began) * 1000


def measure(server: Server, rounds: int, rows: int) -> list[Figure]:
    with account(server) as small, account(server) as big, account(server) as mixed:
        stores = []
        for place in (small, big, mixed):
            place.waiting("email", 1000)
            stores.append(open_store(server.url(place.database), "asyncsend_"))
            claim(stores[-1])
        crowded(big, rows, mixed=False)
        crowded(mixed, rows)
        here, there, worse = stores
        found = in_turns(rounds, {
            "claim here": lambda: claim(here), "claim there": lambda: claim(there), "claim worse": lambda: claim(worse),
            "look here": lambda: look(here), "look worse": lambda: look(worse),
        })  # fmt: skip
        for store in stores:
            store.close()
    beside = f"beside {rows:,} future and as many finished jobs"
    return [
        Figure(f"claim {beside}", "ms", found["claim there"], found["claim here"], "empty table", at_most=1.3),
        Figure(f"claim {beside} of two queues and four priorities", "ms", found["claim worse"], found["claim here"], "empty table"),
        Figure(f"a look at an idle queue {beside} of two queues and four priorities", "ms", found["look worse"], found["look here"], "empty table"),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
