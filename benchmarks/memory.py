"""The most memory that a run has resident: of an empty one, and of one with many jobs above one with few. The largest of its processes counts."""

from __future__ import annotations

import sys

from benchmarks.drain import TASKS
from benchmarks.yardstick import SCRIPT, Figure, Server, account, alone, in_turns, peak

SIZES = {"full": {"rounds": 5, "jobs": 100_000, "few": 1000}, "quick": {"rounds": 5, "jobs": 5000, "few": 1000}, "tiny": {"rounds": 1, "jobs": 40, "few": 10}}
FLOORS: dict[str, str] = {}


def measure(server: Server, rounds: int, jobs: int, few: int) -> list[Figure]:
    def drained(number: int) -> float:
        with place.cursor() as cursor:
            cursor.execute("TRUNCATE TABLE asyncsend_jobs")
        place.waiting("nothing", number)
        return peak([SCRIPT, "run", "--max-time", "1h"], place.environment)

    with account(server, TASKS) as place:
        found = in_turns(rounds, {"empty": lambda: drained(0), "few": lambda: drained(few), "many": lambda: drained(jobs)})
    return [
        Figure(f"peak of a run of {jobs:,} no-op tasks above one of {few:,}", "MB", [many - least for many, least in zip(found["many"], found["few"], strict=True)], at_most=8),
        Figure("peak of an empty tick", "MB", found["empty"], at_most=32),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
