"""
Do the tables of limits stay cheap? A million turns of a hundred thousand domains, two thirds of them older than any window counts:
what the tidying of a run costs, the turns of a batch, and how many rows a second the slices of pruning delete.
Usage: python benchmarks/quotas.py [SERVER …] [--sends 1000000] [--channels 100000]; SERVER is mariadb, or a name of the matrix: mysql-9.7.
"""
# ruff: noqa: SLF001 - it measures single statements

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import _installed_mariadb, _matrix_server, made_store  # noqa: E402

from asyncsend.job import NewJob  # noqa: E402
from asyncsend.quotas import quota  # noqa: E402
from asyncsend.retention import SLICE  # noqa: E402
from asyncsend.store.rows import Turn  # noqa: E402

DAY = 86400


def fill(server, database: str, sends: int, channels: int) -> None:
    """Half of the turns are the account's, the others those of as many domains, over the last six days; by a limit of a day."""
    with server.connect(database) as connection, connection.cursor() as cursor:
        for table in ("sends", "quotas"):
            cursor.execute(f"TRUNCATE TABLE asyncsend_{table}")
        for start in range(0, channels, 5000):
            values = ",".join(f"('to:d{n}.example', UNIX_TIMESTAMP() - {6 * DAY * (channels - n) // channels}, {DAY})" for n in range(start, min(channels, start + 5000)))
            cursor.execute(f"INSERT INTO asyncsend_quotas (channel, paced, longest) VALUES {values}")
        cursor.execute(f"INSERT INTO asyncsend_quotas (channel, paced, longest) VALUES ('email', UNIX_TIMESTAMP(), {DAY})")
        for start in range(0, sends, 5000):
            values = ",".join(
                f"('{'email' if n % 2 else f'to:d{n * channels // sends}.example'}', {n}, NOW(6) - INTERVAL {6 * DAY * (sends - n) // sends} SECOND)" for n in range(start, start + 5000)
            )
            cursor.execute(f"INSERT INTO asyncsend_sends (channel, job_id, sent_at) VALUES {values}")
            connection.commit()
        cursor.execute("ANALYZE TABLE asyncsend_sends, asyncsend_quotas")


def explained(store, sql: str, **params) -> str:
    """Table, access, key and rows of each step."""
    rows = store._rows(f"EXPLAIN {sql}", **params)
    return "; ".join(f"{row[2]} {row[3]} {row[5]} {row[8] if len(row) <= 10 else row[9]}" for row in rows)


def milliseconds(work) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="*", default=["mariadb"])
    parser.add_argument("--sends", type=int, default=1_000_000)
    parser.add_argument("--channels", type=int, default=100_000)
    arguments = parser.parse_args()
    for name in arguments.servers:
        server = _installed_mariadb() if name == "mariadb" else _matrix_server(name)
        try:
            with server.database() as database:
                store = made_store(server.url(database))
                fill(server, database, arguments.sends, arguments.channels)
                measure(name, store)
                store.close()
        finally:
            server.stop()


def measure(name: str, store) -> None:
    execute, asked = store._execute, []
    store._execute = lambda sql, params: (asked.append((sql, params)) if sql.startswith("SELECT") else None, execute(sql, params))[1]
    store.tidy_quotas(None)
    print(f"{name}: tidying {milliseconds(lambda: store.tidy_quotas(None)):.1f} ms")
    limits = {"email": quota("200000/day, 10000/hour"), **{f"to:d{number}.example": quota("20/min") for number in range(50)}}
    store.insert([NewJob("email", "{}", f"turn{number}") for number in range(50)])
    ids = [row[0] for row in store._rows("SELECT id FROM asyncsend_jobs WHERE task = 'email' AND uid LIKE 'turn%'")]
    wanted = [Turn(job_id, "default", False, ("email", f"to:d{number}.example")) for number, job_id in enumerate(ids)]
    print(f"{name}: 50 turns, each of a domain of its own {milliseconds(lambda: store.turns(wanted, limits, 0.03, 60.0, None)):.0f} ms")
    store._execute("DELETE FROM asyncsend_sends WHERE sent_at IS NULL", {})
    for table in ("sends", "quotas"):
        times: list[float] = []
        while len(times) < 100:
            times.append(milliseconds(lambda: store.prune_quotas(SLICE)))
        print(f"{name}: {len(times)} slices of {table}: {SLICE * len(times) / sum(times) * 1000:,.0f} rows a second, the longest slice {max(times):.0f} ms")
        then = store._clock() - 2 * DAY
        store._execute("DELETE FROM asyncsend_sends WHERE sent_at < FROM_UNIXTIME(:then)", {"then": then})  # the rest at once: this is about slices
    store._execute = execute
    for sql, params in {sql: params for sql, params in asked if "longest" in sql or "LIMIT" in sql}.items():
        print(f"    {sql[:100]} … → {explained(store, sql, **params)}")
    store._execute("DELETE FROM asyncsend_quotas WHERE paced < :then", {"then": then})
    print(f"{name}: nothing to prune {milliseconds(lambda: store.prune_quotas(SLICE)):.1f} ms, again {milliseconds(lambda: store.prune_quotas(SLICE)):.1f} ms")


if __name__ == "__main__":
    main()
