"""
Producers insert in transactions of their own while six hosts' runs take turns draining: what became of their INSERTs.

    python -m tests.contention mariadb mysql-5.6 mysql-9.7 --seconds 10

One line for each server and isolation level: INSERTs, those that failed by error code, those that waited longer than a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from parts import Site, _installed_mariadb, _matrix_server, eventually, made_store  # noqa: E402

ISOLATIONS = ("REPEATABLE READ", "READ COMMITTED")
HOSTS, PRODUCERS = 6, 4


class Contention(NamedTuple):
    inserts: int
    failed: dict[str, int]  # error code: how often
    waited: int  # INSERTs with their COMMIT that took longer than a second
    longest: float
    spoke: list[str]  # what runs printed
    left: int  # jobs that were not done in the end


def contend(server, isolation: str, folder: Path, *, rows: int | None = None, seconds: float | None = None) -> Contention:
    """Insert so many rows, or for so long, from each producer, with every host's cron calling one run after another; then drain."""
    with server.database() as name:
        made_store(server.url(name)).close()
        sites = [Site(folder / f"host-{number}", server.url(name)) for number in range(HOSTS)]
        for site in sites:
            site.tasks("from asyncsend import task\n@task\ndef noop(): pass\n")
        over = threading.Event()
        waits: list[float] = []
        failed: Counter[str] = Counter()
        spoke: list[str] = []

        def produce() -> None:
            with server.connect(name) as connection, connection.cursor() as cursor:
                cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
                connection.autocommit(False)
                began, number = time.monotonic(), 0
                while number < rows if rows else time.monotonic() - began < (seconds or 0):
                    number += 1
                    at = time.monotonic()
                    try:
                        cursor.execute("INSERT INTO asyncsend_jobs (task, payload, priority) VALUES ('noop', '{}', %s)", (number % 3,))
                        connection.commit()
                    except Exception as error:
                        failed[str(error.args[0])] += 1
                        connection.rollback()
                    waits.append(time.monotonic() - at)

        def drain(site: Site) -> None:
            while not over.is_set():
                run = site.start("run", "--max-time", "1s")
                out, err = run.communicate(timeout=120)
                if out or err or run.returncode:
                    spoke.append(f"{run.returncode} {out!r} {err!r}")
                over.wait(0.05)

        hosts = [threading.Thread(target=drain, args=(site,)) for site in sites]
        for host in hosts:
            host.start()
        eventually(lambda: sites[0].store().standing("default").generation, what="the first run")
        producers = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
        over.set()
        for host in hosts:
            host.join()
        sites[0]("run", "--max-time", "60s")
        store = sites[0].store()
        left = store.count(state=None, queue=None, task=None) - store.count(state="done", queue=None, task=None)
        missing = len(waits) - sum(failed.values()) - store.count(state=None, queue=None, task=None)
        store.close()
        return Contention(len(waits), dict(failed), sum(1 for wait in waits if wait > 1.0), max(waits), spoke, left + missing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("servers", nargs="*", default=["mariadb"], help="mariadb (the installed one), or servers of the matrix")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    broken = False
    for name in arguments.servers:
        server = _installed_mariadb() if name == "mariadb" else _matrix_server(name)
        try:
            for isolation in ISOLATIONS:
                with tempfile.TemporaryDirectory(prefix="contention-") as folder:
                    seen = contend(server, isolation, Path(folder), seconds=arguments.seconds)
                broken = broken or bool(seen.failed or seen.waited or seen.spoke or seen.left)
                print(
                    f"server={name} isolation={isolation.lower().replace(' ', '-')} hosts={HOSTS} inserts={seen.inserts} failed={sum(seen.failed.values())}"
                    f" codes={','.join(seen.failed) or '-'} waited_over_1s={seen.waited} longest={seen.longest:.3f} runs_spoke={len(seen.spoke)} left={seen.left}",
                    flush=True,
                )
        finally:
            server.stop()
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
