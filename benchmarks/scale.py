"""What a big table and a big batch cost: an empty tick and `asyncsend status` beside a crowd, and jobs of one batch beside jobs of none."""

from __future__ import annotations

import subprocess
import sys

from asyncsend.batches import follower
from asyncsend.job import NewBatch
from asyncsend.store import open_store
from benchmarks.crowd import crowded
from benchmarks.drain import TASKS
from benchmarks.tick import FLOORS as OF_TICK
from benchmarks.tick import floor, statements
from benchmarks.yardstick import SCRIPT, Account, Figure, Server, account, alone, cpu, in_turns

SIZES = {
    "full": {"rounds": 9, "rows": 1_000_000, "due": 100_000, "batch": 10_000},
    "quick": {"rounds": 5, "rows": 100_000, "due": 10_000, "batch": 2000},
    "tiny": {"rounds": 1, "rows": 1000, "due": 100, "batch": 20},
}
FLOORS = {"empty table": "the same on an empty table", "no batch": "the same jobs that belong to no batch"} | OF_TICK


def drained(place: Account, jobs: int, batch: str | None = None) -> float:
    """Jobs a second; with `batch`, all of it, the look at what is left and what follows it included."""
    with place.cursor() as cursor:
        cursor.execute("TRUNCATE TABLE asyncsend_jobs")
    if not batch:
        place.waiting("nothing", jobs)
        return place.drained()
    store = open_store(place.server.url(place.database), "asyncsend_")
    store.add_batch(NewBatch(batch, batch, True, follower("nothing", {})), sealed=False)
    place.insert("task, payload, batch_id", lambda _: f"('nothing', '{{}}', '{batch}')", jobs)
    store.seal_batch(batch)
    store.close()
    return place.drained()


def measure(server: Server, rounds: int, rows: int, due: int, batch: int) -> list[Figure]:
    def spent(place: Account, command: str) -> float:
        return cpu([SCRIPT, command], place.environment, stdout=subprocess.DEVNULL)

    names = iter(range(rounds))
    with account(server, TASKS) as place:
        speed = in_turns(rounds, {"alone": lambda: drained(place, batch), "together": lambda: drained(place, batch, f"batch-{next(names)}")})
    with account(server) as small, account(server) as big:
        crowded(big, rows)
        ticks = in_turns(rounds, {"here": lambda: spent(small, "run"), "there": lambda: spent(big, "run")})
        counts = [statements(big, lambda: spent(big, "run")) for _ in range(rounds)]
        big.insert("task, payload, queue", lambda _: "('email', '{}', 'due')", due)
        looks = in_turns(rounds, {"floor": lambda: floor(small), "here": lambda: spent(small, "status"), "there": lambda: spent(big, "status")})
    beside = f"beside {rows:,} future and as many finished jobs"
    return [
        Figure(f"empty tick {beside}", "ms CPU", ticks["there"], ticks["here"], "empty table", at_most=1.1),
        Figure("its statements, one short range for each queue and priority", "statements", [float(all_) for all_, _ in counts]),
        Figure("writes among them", "statements", [float(writes) for _, writes in counts], at_most=2),
        Figure(f"`status` {beside} and {due:,} due ones", "ms CPU", looks["there"], at_most=150),
        Figure("the same", "ms CPU", looks["there"], looks["here"], "empty table"),
        Figure("the same", "ms CPU", looks["there"], looks["floor"], "bare Python"),
        Figure(f"no-op tasks of a batch of {batch:,}", "jobs/s", speed["together"], speed["alone"], "no batch", at_least=0.8),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
