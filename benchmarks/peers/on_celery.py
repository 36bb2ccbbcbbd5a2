import os

from celery import Celery
from witness import note

app = Celery("on_celery", broker=f"redis+socket://{os.environ['BENCH_REDIS']}")


@app.task
def nothing():
    note()


def put(jobs):
    for _ in range(jobs):
        nothing.delay()
