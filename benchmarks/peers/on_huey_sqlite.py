import os

from huey import SqliteHuey
from witness import note

huey = SqliteHuey(filename=f"{os.environ['BENCH_FOLDER']}/huey.sqlite3")  # write-ahead log, synchronous as SQLite's default has it: full


@huey.task()
def nothing():
    note()


def put(jobs):
    for _ in range(jobs):
        nothing()
