import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from witness import note

dramatiq.set_broker(RedisBroker(url=f"unix://{os.environ['BENCH_REDIS']}"))


@dramatiq.actor
def nothing():
    note()


def put(jobs):
    for _ in range(jobs):
        nothing.send()
