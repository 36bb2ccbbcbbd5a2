"""
What a big table and a big batch cost: a million future jobs, a million finished and a hundred thousand due ones beside an empty table.

CPU of an empty tick and of `asyncsend status`, statements of the tick, and the speed of draining no-op jobs of a batch as a ratio to the
same jobs without one, in turns. The time of a claim is flatness.py's. On the installed MariaDB, with a log that is flushed at each commit.
Usage: python benchmarks/scale.py [--rows 1000000] [--due 100000] [--batch 100000] [--rounds 3] [--json FILE].
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from parts import PrivateServer, made_store  # noqa: E402
from tick import cpu, queries  # noqa: E402

BARS = {"tick": 1.1, "statements": 6, "status_cpu": 0.150, "batch": 0.8}
TASKS = "from asyncsend import task\n\n@task\ndef nothing():\n    pass\n"


def filled(server, database: str, rows: int) -> None:
    with server.connect(database) as connection, connection.cursor() as cursor:
        for start in range(0, rows, 20_000):
            later = ",".join(f"('email','{{}}','{'later' if number % 2 else 'default'}',NOW() + INTERVAL 1 DAY,{number % 4})" for number in range(start, start + 20_000))
            cursor.execute(f"INSERT INTO asyncsend_jobs (task, payload, queue, run_at, priority) VALUES {later}")
            cursor.execute("INSERT INTO asyncsend_jobs (task, payload, state, finished_at, unique_slot) VALUES " + ",".join(["('email','{}','done',NOW(),NULL)"] * 20_000))


def drained(environment: dict[str, str], store, jobs: int, batch: str | None) -> float:
    """Seconds of the run that drains them."""
    from asyncsend.batches import follower
    from asyncsend.job import NewBatch
    from asyncsend.producer import new_job

    if batch:
        store.add_batch(NewBatch(batch, batch, True, follower("nothing", {})), sealed=False)
    for _ in range(0, jobs, 1000):
        store.insert([new_job("nothing", "{}", batch=batch) for _ in range(1000)])
    if batch:
        store.seal_batch(batch)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "asyncsend", "run", "--max-time", "1h"], env=environment, check=True, cwd="/", stdin=subprocess.DEVNULL)
    took = time.perf_counter() - began
    assert store.count(state="done", queue=None, task="nothing") >= jobs
    store._write(  # noqa: SLF001
        "DELETE FROM asyncsend_jobs WHERE task = 'nothing'"
    )
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    server = PrivateServer("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=512M")
    found: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory() as name, server.database() as database:
            folder = Path(name)
            (folder / "bench_tasks.py").write_text(TASKS)
            environment = {
                "PATH": "/usr/bin:/bin", "HOME": name, "ASYNCSEND_HOME": str(folder / "home"), "ASYNCSEND_DATABASE_URL": server.url(database),
                "ASYNCSEND_TASKS": "bench_tasks", "ASYNCSEND_PATH": name,
            }  # fmt: skip
            (folder / "home").mkdir(mode=0o700)
            store = made_store(server.url(database))

            def measured(command: str) -> float:
                return statistics.median(cpu([sys.executable, "-m", "asyncsend", command], environment) for _ in range(15))

            turns = [(drained(environment, store, arguments.batch, None), drained(environment, store, arguments.batch, f"batch-{turn}")) for turn in range(arguments.rounds)]
            alone, together = (statistics.median(turn[at] for turn in turns) for at in (0, 1))
            tick, status = measured("run"), measured("status")
            filled(server, database, arguments.rows)
            full_tick = measured("run")
            total, writes = queries(server, database, lambda: measured("run"))
            with server.connect(database) as connection, connection.cursor() as cursor:
                for _ in range(0, arguments.due, 10_000):
                    cursor.execute("INSERT INTO asyncsend_jobs (task, payload, queue) VALUES " + ",".join(["('email','{}','due')"] * 10_000))
            found = {
                "tick": full_tick / tick, "statements": total / 15, "writes": writes / 15, "status_cpu": measured("status"), "status_cpu_empty": status,
                "batch": alone / together, "batch_jobs_per_second": arguments.batch / together,
            }  # fmt: skip
            store.close()
    finally:
        server.stop()
    print(f"an empty tick beside {arguments.rows:,} future and as many finished jobs ÷ on an empty table: {found['tick']:.2f} (bar: at most {BARS['tick']})")
    print(f"its statements: {found['statements']:.0f}, {found['writes']:.0f} of them writes (bar: at most {BARS['statements']})")
    print(f"CPU of `asyncsend status` there, with {arguments.due:,} due besides: {found['status_cpu'] * 1000:.0f} ms, on the empty table {found['status_cpu_empty'] * 1000:.0f} ms (bar: at most {BARS['status_cpu'] * 1000:.0f} ms)")
    print(f"drain of {arguments.batch:,} jobs in a batch ÷ without one: {found['batch']:.2f} of the speed (bar: at least {BARS['batch']}); {found['batch_jobs_per_second']:,.0f} jobs/s")
    if arguments.json:
        arguments.json.write_text(json.dumps({name: round(value, 4) for name, value in found.items()} | {"bars": BARS}, indent=2))
    sys.exit(found["tick"] > BARS["tick"] or found["statements"] > BARS["statements"] or found["status_cpu"] > BARS["status_cpu"] or found["batch"] < BARS["batch"])


if __name__ == "__main__":
    main()
