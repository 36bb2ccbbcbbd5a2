import os

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from witness import note

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"]))


@app.task
def nothing():
    note()


def put(jobs):
    with app.replace_connector(SyncPsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"])) as here, here.open():
        for _ in range(jobs):
            nothing.defer()
