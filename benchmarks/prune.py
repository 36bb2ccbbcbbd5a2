"""
Does pruning keep up? Rows a second that slices of `asyncsend run` delete, as a ratio to one raw DELETE of the same rows, and how
many jobs a day that sustains: two seconds every ten minutes, or, while there is more, every minute. Two of a hundred jobs are dead
letters that stay, and one of ten failed once. Usage: python benchmarks/prune.py [SERVER …] [--rows 100000]; SERVER as in flatness.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import _installed_mariadb, _matrix_server, made_store  # noqa: E402

from asyncsend import config, retention  # noqa: E402

MAIL = '{"to":"ann@example.com","subject":"Hi","text":"' + "Hello " * 60 + '"}'


def fill(server, database: str, rows: int) -> None:
    with server.connect(database) as connection, connection.cursor() as cursor:
        for table in ("jobs", "attempts"):
            cursor.execute(f"TRUNCATE TABLE asyncsend_{table}")
        for start in range(0, rows, 5000):
            values = ",".join(f"('email','{MAIL}','{'done' if n % 50 else 'dead'}', NULL, NOW() - INTERVAL {2_000_000 - n} SECOND)" for n in range(start, start + 5000))
            cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, state, unique_slot, finished_at) VALUES {values}")
        cursor.execute("INSERT INTO asyncsend_attempts (job_id, slot, number, became, error) SELECT id, 1, 1, 'retried', 'no luck' FROM asyncsend_jobs WHERE id % 10 = 3")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="*", default=["mariadb"])
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"{'server':15} {'rows/s':>8} {'x raw DELETE':>13} {'to archive, rows/s':>19} {'a day, every 10 min':>20} {'a day, every minute':>20}")
    for name in arguments.servers:
        server = _installed_mariadb() if name == "mariadb" else _matrix_server(name)
        with server.database() as database, tempfile.TemporaryDirectory() as folder:
            store = made_store(server.url(database))
            rates = {}
            for way in ("raw", "slices", "archive"):
                fill(server, database, arguments.rows)
                settings = config.load({"ASYNCSEND_HOME": folder, **({"ASYNCSEND_ARCHIVE": f"{folder}/archive"} if way == "archive" else {})})
                began = time.perf_counter()
                if way == "raw":
                    with server.connect(database) as connection, connection.cursor() as cursor:
                        deleted = cursor.execute("DELETE FROM asyncsend_jobs WHERE state = 'done'")
                else:
                    deleted = 0
                    while found := retention.prune(store, settings).jobs:
                        deleted += found
                rates[way] = deleted / (time.perf_counter() - began)
            pass_ = rates["slices"] * retention.SECONDS
            print(f"{name:15} {rates['slices']:8,.0f} {rates['slices'] / rates['raw']:13.2f} {rates['archive']:19,.0f} {pass_ * 144:20,.0f} {pass_ * 1440:20,.0f}", flush=True)
            store.close()
        server.stop()


if __name__ == "__main__":
    main()
