"""
Does pruning keep up? Rows a second that slices of `asyncsend run` delete.

A run prunes for two seconds every ten minutes, and while a full slice was found every minute: 1,000 rows/s are 288,000 jobs a day, or 2,880,000. Payloads have
400 bytes; two of a hundred jobs are dead letters that stay, and one of ten failed once.
"""

from __future__ import annotations

import sys

from asyncsend import config, retention
from asyncsend.store import open_store
from benchmarks.yardstick import Account, Figure, Server, account, alone, in_turns, seconds

SIZES = {"full": {"rounds": 5, "rows": 20_000}, "quick": {"rounds": 5, "rows": 3000}, "tiny": {"rounds": 1, "rows": 200}}
FLOORS = {"raw DELETE": "one DELETE of all finished rows by pymysql"}
MAIL = '{"to":"ann@example.com","subject":"Hi","text":"' + "Hello " * 60 + '"}'


def fill(place: Account, rows: int) -> None:
    with place.cursor() as cursor:
        for table in ("jobs", "attempts"):
            cursor.execute(f"TRUNCATE TABLE asyncsend_{table}")
        place.insert("task, payload, state, unique_slot, finished_at", lambda n: f"('email','{MAIL}','{'done' if n % 50 else 'dead'}', NULL, NOW() - INTERVAL {2_000_000 - n} SECOND)", rows)
        cursor.execute("INSERT INTO asyncsend_attempts (job_id, slot, number, became, error) SELECT id, 1, 1, 'retried', 'no luck' FROM asyncsend_jobs WHERE id % 10 = 3")


def measure(server: Server, rounds: int, rows: int) -> list[Figure]:
    with account(server) as place:
        store = open_store(server.url(place.database), "asyncsend_")

        def raw() -> float:
            fill(place, rows)
            deleted: list[int] = []
            with place.cursor() as cursor:
                took = seconds(lambda: deleted.append(cursor.execute("DELETE FROM asyncsend_jobs WHERE state = 'done'")))
            return deleted[0] / took

        def slices(**settings: str) -> float:
            fill(place, rows)
            loaded = config.load({"ASYNCSEND_HOME": str(place.folder / "home"), **settings})
            deleted: list[int] = []

            def all_() -> None:
                while found := retention.prune(store, loaded).jobs:
                    deleted.append(found)

            took = seconds(all_)
            return sum(deleted) / took

        found = in_turns(rounds, {"raw": raw, "slices": slices, "archive": lambda: slices(ASYNCSEND_ARCHIVE=str(place.folder / "archive"))})
        store.close()
    return [
        Figure("prune in slices of 500", "rows/s", found["slices"], found["raw"], "raw DELETE"),
        Figure("prune, to the archive first", "rows/s", found["archive"], found["raw"], "raw DELETE"),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
