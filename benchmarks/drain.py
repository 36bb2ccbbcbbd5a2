"""Jobs a second through one whole `asyncsend run`, its start and its end included, the jobs put in beforehand by plain INSERTs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from benchmarks.yardstick import Account, Figure, Server, account, alone, in_turns

SIZES = {
    "full": {"rounds": 5, "noops": 20_000, "naps": 1500, "commands": 700, "naive_jobs": 1000},
    "quick": {"rounds": 5, "noops": 5000, "naps": 400, "commands": 200, "naive_jobs": 300},
    "tiny": {"rounds": 1, "noops": 20, "naps": 16, "commands": 8, "naive_jobs": 10},
}
RAW, NAIVE, LOOP = "raw claims", "naive loop", "bare loop"
FLOORS = {
    RAW: "pymysql, one process, the same table: SELECT … LIMIT 500 FOR UPDATE and UPDATE to running, committed; UPDATE of the 500 to done, committed; nothing is executed",
    NAIVE: "pymysql: SELECT … LIMIT 1 FOR UPDATE, UPDATE to running, COMMIT; UPDATE to done, COMMIT; nothing is executed",
    LOOP: "no queue at all: a Python loop of `time.sleep(0.001)` or of `subprocess.run`, in as many threads as there are workers",
}
TASKS = """
import time
from asyncsend import task

@task
def nothing():
    pass

@task
def nap():
    time.sleep(0.001)
"""
CANDIDATES = "SELECT id, task, payload FROM asyncsend_jobs WHERE state = 'ready' AND queue = 'default' AND lane = '' ORDER BY priority, run_at, id LIMIT {} FOR UPDATE"
RUNNING = "UPDATE asyncsend_jobs SET state = 'running', token = %s, run_id = 1 WHERE id IN ({})"
DONE = "UPDATE asyncsend_jobs SET state = 'done', attempts = attempts + 1, finished_at = NOW(6) WHERE id IN ({}) AND token = %s"


def claimed(place: Account, jobs: int, at_once: int) -> float:
    """Jobs a second that pymysql claims and completes, so many at once."""
    place.waiting("nothing", jobs)
    done = 0
    with place.cursor(autocommit=False) as cursor:
        began = time.perf_counter()
        while cursor.execute(CANDIDATES.format(at_once)):
            ids, token = ",".join(str(row[0]) for row in cursor.fetchall()), os.urandom(16)
            cursor.execute(RUNNING.format(ids), (token,))
            cursor.connection.commit()
            done += cursor.execute(DONE.format(ids), (token,))
            cursor.connection.commit()
        took = time.perf_counter() - began
    assert done == jobs
    return jobs / took


def looped(work, times: int, threads: int) -> float:
    """Times a second that `work` is done in so many threads."""
    def loop() -> None:
        for _ in range(times // threads):
            work()

    began = time.perf_counter()
    each = [threading.Thread(target=loop) for _ in range(threads)]
    for one in each:
        one.start()
    for one in each:
        one.join()
    return times // threads * threads / (time.perf_counter() - began)


def program() -> None:
    subprocess.run(["/bin/true"], input=b"{}", capture_output=True, check=True)


def measure(server: Server, rounds: int, noops: int, naps: int, commands: int, naive_jobs: int) -> list[Figure]:
    def drained(task: str, jobs: int, workers: int) -> float:
        place.waiting(task, jobs)
        return place.drained(workers=workers)

    def cleared(measured, *sizes: object) -> float:
        with place.cursor() as cursor:
            cursor.execute("TRUNCATE TABLE asyncsend_jobs")
        return measured(*sizes)

    works = {"nothing": ("no-op task", noops, None), "nap": ("task of 1 ms", naps, lambda: time.sleep(0.001)), "command.true": ("command, /bin/true", commands, program)}
    with account(server, TASKS, ASYNCSEND_COMMAND_TRUE="/bin/true") as place:
        cases = {RAW: lambda: cleared(claimed, place, noops, 500), NAIVE: lambda: cleared(claimed, place, naive_jobs, 1)}
        for task, (_, jobs, work) in works.items():
            for workers in (1, 8):
                more = jobs * (1 if task == "nothing" or workers == 1 else 4)  # so that a second round is not all start and end
                cases[f"{task} {workers}"] = lambda task=task, workers=workers, more=more: cleared(drained, task, more, workers)
                if work:
                    cases[f"{LOOP} {task} {workers}"] = lambda work=work, jobs=jobs, workers=workers: looped(work, jobs, workers)
        found = in_turns(rounds, cases)
    figures = []
    for task, (words, _, work) in works.items():
        for workers in (1, 8):
            what, ours, main = f"{words}, {workers} worker{'s' if workers > 1 else ''}", found[f"{task} {workers}"], task == "nothing" and workers == 1
            figures.append(Figure(what, "jobs/s", ours, found[RAW], RAW, at_least=0.30 if main else None))
            figures.append(Figure(what, "jobs/s", ours, found[NAIVE], NAIVE, at_least=10 if main else None))
            if work:
                figures.append(Figure(what, "jobs/s", ours, found[f"{LOOP} {task} {workers}"], LOOP))
    return figures


if __name__ == "__main__":
    alone(sys.modules[__name__])
