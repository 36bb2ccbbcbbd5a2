"""What counting costs: CPU of a run that drains no-op jobs, and of the server meanwhile. A no-op is the worst case: everything else a job does is more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.yardstick import Figure, Server, account, alone, cpu, in_turns

SIZES = {"full": {"rounds": 5, "jobs": 10_000}, "quick": {"rounds": 5, "jobs": 1000}, "tiny": {"rounds": 1, "jobs": 20}}
FLOORS = {"no counters": "the same run, in which nothing is counted"}
RUN = "import runpy; {}; runpy.run_module('asyncsend', run_name='__main__', alter_sys=True)"
WITHOUT = "import asyncsend.store.figures as figures; figures.FigureStatements._count = lambda *_: None"
TASKS = "from asyncsend import task\n" + "".join(f"@task\ndef noop{number}(): pass\n" for number in range(3))


def server_cpu(server: Server) -> float:
    """Milliseconds so far, of a server that we started."""
    times = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")")[1].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK") * 1000


def measure(server: Server, rounds: int, jobs: int) -> list[Figure]:
    spent: dict[str, list[float]] = {"pass": [], WITHOUT: []}  # by the server, microseconds a job

    def run(prelude: str) -> float:
        """Microseconds a job."""
        with place.cursor() as cursor:
            cursor.execute("TRUNCATE TABLE asyncsend_jobs")
        place.insert("task, payload", lambda number: f"('noop{number % 3}', '{{}}')", jobs)
        before = server_cpu(server)
        took = cpu([sys.executable, "-c", RUN.format(prelude), "run"], place.environment)
        spent[prelude].append((server_cpu(server) - before) * 1000 / jobs)
        return took * 1000 / jobs

    with account(server, TASKS) as place:
        found = in_turns(rounds, {"with": lambda: run("pass"), "without": lambda: run(WITHOUT)})
    both = [[one + other for one, other in zip(found[case], spent[prelude], strict=True)] for case, prelude in (("with", "pass"), ("without", WITHOUT))]
    return [
        Figure("the run, counting", "µs CPU a job", found["with"], found["without"], "no counters"),
        Figure("the run and the server", "µs CPU a job", *both, "no counters"),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
