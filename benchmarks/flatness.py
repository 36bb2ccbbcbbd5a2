"""
Does a big table slow the claim? Time of claiming 100 due jobs, and of asking an idle queue, with a million future and a
million finished rows, as a ratio to the same on an empty table; right after the rows came in, before the server refreshed
its statistics. Usage: python benchmarks/flatness.py [SERVER …] [--rows 1000000]; SERVER as in shared/tools/servers, or
mariadb (default) for the installed one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import _installed_mariadb, _matrix_server, made_store  # noqa: E402

from asyncsend import outcome as outcomes  # noqa: E402
from asyncsend.job import NewJob  # noqa: E402
from asyncsend.outcome import Settlement  # noqa: E402


def measure(store) -> tuple[float, float]:
    """Median seconds of a claim of 100 and of a look at a queue with nothing due."""
    claims, looks = [], []
    for _ in range(9):
        began = time.perf_counter()
        names = store.ready_queues()
        jobs = store.claim(names, 100, os.urandom(16).hex(), 1)
        claims.append(time.perf_counter() - began)
        store.settle([Settlement(job.id, job.token, outcomes.release()) for job in jobs])
        began = time.perf_counter()
        store.claim(["later"], 100, os.urandom(16).hex(), 1)
        looks.append(time.perf_counter() - began)
    return statistics.median(claims), statistics.median(looks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="*", default=["mariadb"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(f"{'server':15} {'claim 100':>10} {'+ ' + format(arguments.rows, ',') + ' future, as many done':>36} {'ratio':>6} {'idle look ratio':>16}")
    for name in arguments.servers:
        server = _installed_mariadb() if name == "mariadb" else _matrix_server(name)
        with server.database() as database:
            store = made_store(server.url(database))
            store.insert([NewJob("email", "{}", f"due{number}") for number in range(1000)])
            measure(store)
            claim, look = measure(store)
            with server.connect(database) as connection, connection.cursor() as cursor:
                for start in range(0, arguments.rows, 20_000):
                    later = ",".join(f"('email','{{}}','{'later' if number % 2 else 'default'}',NOW() + INTERVAL 1 DAY,{number % 4})" for number in range(start, start + 20_000))
                    cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, queue, run_at, priority) VALUES {later}")
                    done = ",".join("('email','{}','done',NOW())" for _ in range(20_000))
                    cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, state, finished_at) VALUES {done}")
            big_claim, big_look = measure(store)
            print(f"{name:15} {claim * 1000:8.2f}ms {big_claim * 1000:34.2f}ms {big_claim / claim:6.2f} {big_look / look:16.2f}", flush=True)
            store.close()
        server.stop()


if __name__ == "__main__":
    main()
