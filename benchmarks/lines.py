"""
Does a claim walk past jobs whose keys let none of them start? Rows the server reads (Handler_read%) and time of a claim of 10,
first with nothing else in the table, then behind a crowd. The first claim behind a crowd that waits moves it aside once; what a
claim costs from then on is the second figure. Usage: python benchmarks/lines.py [SERVER …] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import _installed_mariadb, _matrix_server, made_store  # noqa: E402

from asyncsend import outcome as outcomes  # noqa: E402
from asyncsend.outcome import Settlement  # noqa: E402

# name: the columns of row `number`, all of them added before the ten jobs that may start
CROWDS = {
    "ten order keys, their first jobs held": lambda number: f"'k{number % 10}', NULL, NOW(), '{'held' if number < 10 else 'ready'}'",
    "each its own order key, all free": lambda number: f"'k{number}', NULL, NOW(), 'ready'",
    "each its own order key, due tomorrow": lambda number: f"'k{number}', NULL, NOW() + INTERVAL 1 DAY, 'ready'",
    "one concurrency key, its limit reached": lambda number: f"NULL, 'oven', NOW(), '{'running' if number < 2 else 'ready'}'",
}


def measure(store) -> tuple[int, float]:
    """Rows read and seconds of a claim of ten, which are given back."""
    reads = "SELECT SUM(VARIABLE_VALUE) FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME LIKE 'Handler_read%'"
    if store.facts()["version"].startswith(("8.", "9.")):
        reads = reads.replace("information_schema.SESSION_STATUS", "performance_schema.session_status")
    before, began = store._rows(reads)[0][0], time.perf_counter()  # noqa: SLF001
    jobs = store.claim(store.ready_queues(), 10, os.urandom(16).hex(), 1, limit_of=lambda key: 2 if key == "oven" else None)
    took, after = time.perf_counter() - began, store._rows(reads)[0][0]  # noqa: SLF001
    assert jobs
    store.settle([Settlement(job.id, job.token, outcomes.release()) for job in jobs])
    return int(after - before), took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="*", default=["mariadb"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    for name in arguments.servers:
        server = _installed_mariadb() if name == "mariadb" else _matrix_server(name)
        for crowd, columns in {"nothing": None, **CROWDS}.items():
            with server.database() as database:
                store = made_store(server.url(database))
                store.standing("default")
                with server.connect(database) as connection, connection.cursor() as cursor:
                    for start in range(0, arguments.rows if columns else 0, 10_000):
                        rows = ",".join(f"('email','{{}}',{columns(number)})" for number in range(start, min(start + 10_000, arguments.rows)))
                        cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, order_key, concurrency_key, run_at, state) VALUES {rows}")
                    cursor.execute("INSERT INTO asyncsend_jobs (task, payload) VALUES " + ",".join(["('email','{}')"] * 10))
                (first_reads, first), (reads, again) = measure(store), measure(store)
                print(f"{name:12} {crowd:40} first {first_reads:>10,} rows {first:8.3f} s   then {reads:>6,} rows {again * 1000:7.1f} ms", flush=True)
                store.close()
        server.stop()


if __name__ == "__main__":
    main()
