import os

from redis import Redis
from rq import Queue
from witness import note


def nothing():
    note()


def put(jobs):
    queue = Queue(connection=Redis(unix_socket_path=os.environ["BENCH_REDIS"]))
    for _ in range(jobs):
        queue.enqueue("on_rq.nothing")
