"""
What counting costs: CPU of a run that drains no-op jobs, and of the server meanwhile, as a ratio to the same run without counters.

A no-op is the worst case: everything else a job does is more. Usage: python benchmarks/counters.py [--jobs 20000] [--rounds 5].
A private MariaDB is started, or ASYNCSEND_TEST_MYSQL_URL is used.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import Site, _given_server, _installed_mariadb, made_store  # noqa: E402

from asyncsend.job import NewJob  # noqa: E402

WITHOUT = "import asyncsend.store.figures as figures; figures.FigureStatements._count = lambda *_: None"
TASKS = "from asyncsend import task\n" + "".join(f"@task\ndef noop{number}(): pass\n" for number in range(3))


def server_cpu(server) -> float:
    if server.pid is None:
        return 0.0
    times = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")")[1].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
    server = _given_server(given) if given else _installed_mariadb()
    with tempfile.TemporaryDirectory() as folder, server.database() as name:
        site = Site(Path(folder) / "home", server.url(name), ASYNCSEND_MAX_TIME="10m")
        site.tasks(TASKS)
        store = made_store(server.url(name))
        found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
        for _ in range(arguments.rounds):
            for case, costs in found.items():  # in turns, so that a busy moment hits both alike
                store._write("DELETE FROM asyncsend_jobs")  # noqa: SLF001 - between two rounds, the shortest way
                store.insert([NewJob(f"noop{number % 3}", "{}", f"{number}") for number in range(arguments.jobs)])
                site.prelude = WITHOUT if case == "without" else "pass"
                before, server_before = resource.getrusage(resource.RUSAGE_CHILDREN), server_cpu(server)
                site("run")
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                costs.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, server_cpu(server) - server_before))
                assert site.rows("COUNT(*)", "state = 'done'") == [(arguments.jobs,)]
        store.close()
    server.stop()
    medians = {case: [statistics.median(both) for both in zip(*costs, strict=True)] for case, costs in found.items()}
    for position, whose in enumerate(("run", "server")):
        here, there = medians["with"][position], medians["without"][position]
        print(f"{whose:7} {here / arguments.jobs * 1e6:6.1f} us a job, without counters {there / arguments.jobs * 1e6:6.1f} us: x {here / there if there else 1:.3f}")
    print(f"both    x {sum(medians['with']) / sum(medians['without']):.3f}")


if __name__ == "__main__":
    main()
