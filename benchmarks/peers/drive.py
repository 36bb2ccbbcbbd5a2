"""
The same no-op task through other queues, each with a durable store on this machine, in turns with ours.

The tasks are put in beforehand; then a peer's worker starts as its documentation says, and `asyncsend run` with one worker. A rate is counted from the
first task to the last, so that nobody's start counts. Where a peer has two ways, its better one counts.
"""

from __future__ import annotations

import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import services
from benchmarks.yardstick import Account, Figure, Server, account, alone

HERE = Path(__file__).parent
BIN = Path(os.environ.get("BENCH_PEERS", HERE.parent.parent / ".venv-peers")).absolute() / "bin"
SIZES = {"full": {"rounds": 5, "jobs": 20_000, "share": 1.0}, "quick": {"rounds": 3, "jobs": 5000, "share": 0.25}, "tiny": {"rounds": 1, "jobs": 100, "share": 0.02}}
PATIENCE = 120.0  # seconds until a worker that does not get through is given up
FLOORS: dict[str, str] = {}  # each peer's version and store, once it is started
REDIS = "Redis with appendonly yes, appendfsync everysec"
REDIS_FLUSHED = "Redis with appendonly yes, appendfsync always, which is as durable as a database that flushes at each commit"


@dataclass
class Peer:
    name: str
    package: str  # whose version is shown
    module: str  # beside this file: its task, and `put`
    store: str
    jobs: int  # about two seconds' worth
    ways: dict[str, str]  # command lines by name
    setting: dict[str, str] = field(default_factory=dict)
    prepare: str = ""  # once, before the first job


PEERS = [
    Peer("Celery", "celery", "on_celery", REDIS, 1500, {"one process": "celery -A on_celery worker -c 1", "a process for each core": "celery -A on_celery worker"}),
    Peer("RQ", "rq", "on_rq", REDIS, 500, {"a fork for each job": "rq worker -u unix://{BENCH_REDIS}", "SimpleWorker": "rq worker -u unix://{BENCH_REDIS} -w rq.SimpleWorker"}),
    Peer("Dramatiq", "dramatiq", "on_dramatiq", REDIS, 4000, {"one thread": "dramatiq on_dramatiq -p 1 -t 1", "eight threads for each core": "dramatiq on_dramatiq"}),
    Peer("Dramatiq, each write flushed", "dramatiq", "on_dramatiq", REDIS_FLUSHED, 2000, {"one thread": "dramatiq on_dramatiq -p 1 -t 1", "eight threads for each core": "dramatiq on_dramatiq"}),
    Peer("Huey, SQLite", "huey", "on_huey_sqlite", "SQLite, write-ahead log, synchronous=FULL", 2500, {"one thread": "huey_consumer on_huey_sqlite.huey"}),
    Peer("Huey, MySQL", "huey", "on_huey_mysql", "the same MariaDB, by peewee and pymysql", 800, {"one thread": "huey_consumer on_huey_mysql.huey"}),
    Peer("django-tasks-db", "django-tasks-db", "on_django", "the same MariaDB, by pymysql", 400, {"one thread": "django-admin db_worker"}, {"DJANGO_SETTINGS_MODULE": "django_settings"}, "django-admin migrate --verbosity 0"),
    Peer("procrastinate", "procrastinate", "on_procrastinate", "PostgreSQL with its defaults", 800, {"one at a time": "procrastinate --app=on_procrastinate.app worker"}, {}, "procrastinate --app=on_procrastinate.app schema --apply"),
]  # fmt: skip


@contextmanager
def place_of(peer: Peer, server: Server) -> Iterator[dict[str, str]]:
    """The environment of a peer, and what it needs, for as long as it is measured."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": folder, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore", "BENCH_FOLDER": folder, **peer.setting}
        environment["BENCH_WITNESS"] = f"{folder}/witness"
        if peer.store in (REDIS, REDIS_FLUSHED):
            environment["BENCH_REDIS"] = stack.enter_context(services.redis("everysec" if peer.store is REDIS else "always"))
        elif "MariaDB" in peer.store:
            environment |= {"BENCH_MYSQL": server.socket, "BENCH_DATABASE": stack.enter_context(server.database())}
        elif "PostgreSQL" in peer.store:
            environment["BENCH_POSTGRES"] = stack.enter_context(services.postgres())
        if peer.prepare:
            called(peer.prepare.split(), environment)
        yield environment


def called(command: list[str], environment: dict[str, str]) -> str:
    """What a command of the peers' virtual environment prints; Absent says how it failed."""
    try:
        done = subprocess.run([BIN / command[0], *command[1:]], env=environment, cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise services.Absent(f"`{' '.join(command)}`: {error}") from error
    if done.returncode:
        raise services.Absent(f"`{command[0]}` failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout.strip()


def drained(peer: Peer, way: str, environment: dict[str, str], jobs: int) -> float:
    """Jobs a second from the first to the last, of a worker that is started now and ended afterwards."""
    witness = Path(environment["BENCH_WITNESS"])
    witness.unlink(missing_ok=True)
    called(["python", "-c", f"import {peer.module}; {peer.module}.put({jobs})"], environment)
    command, *arguments = peer.ways[way].format_map(environment).split()
    with open(environment["BENCH_FOLDER"] + "/log", "w+") as log:
        worker = subprocess.Popen([BIN / command, *arguments], env=environment, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + PATIENCE
            while witness.stat().st_size < jobs * 8:
                if worker.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise services.Absent(f"did {witness.stat().st_size // 8} of {jobs} jobs: {' '.join(log.read().split())[-300:]}")
                time.sleep(0.02)
        finally:
            ended(worker)
    return pace(witness)


def ended(worker: subprocess.Popen) -> None:
    """An orderly end, for half a minute; its children with it."""
    worker.terminate()
    with suppress(subprocess.TimeoutExpired):
        worker.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def ours(place: Account, jobs: int) -> float:
    """Of the whole `asyncsend run`, counted like theirs."""
    witness = Path(place.environment["BENCH_WITNESS"])
    witness.unlink(missing_ok=True)
    with place.cursor() as cursor:
        cursor.execute("TRUNCATE TABLE asyncsend_jobs")
    place.waiting("nothing", jobs)
    place.drained()
    return pace(witness)


def pace(witness: Path) -> float:
    """Jobs a second from the first that noted its time to the last."""
    times = [one for (one,) in struct.iter_unpack("d", witness.read_bytes())]
    return (len(times) - 1) / (max(times) - min(times))


def measure(server: Server, rounds: int, jobs: int, share: float) -> list[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}  # of a peer's way
    absent: dict[tuple[str, str], str] = {}
    of_ours: list[float] = []
    with account(server, ASYNCSEND_TASKS="on_asyncsend", ASYNCSEND_PATH=str(HERE)) as place, ExitStack() as stack:
        place.environment["BENCH_WITNESS"] = str(place.folder / "witness")
        environments, ways = {}, [(peer, way) for peer in PEERS for way in peer.ways]
        for peer in PEERS:
            try:
                version = called(["python", "-c", f"import importlib.metadata as m; print(m.version({peer.package!r}))"], {})
                environments[peer.name] = stack.enter_context(place_of(peer, server))
                FLOORS[peer.name] = f"{peer.package} {version}; {peer.store}"
            except services.Absent as error:
                absent |= {(peer.name, way): str(error) for way in peer.ways}
        for _ in range(rounds):
            of_ours.append(ours(place, jobs))
            for peer, way in ways:
                if (peer.name, way) in absent:
                    continue
                try:
                    rates.setdefault((peer.name, way), []).append(drained(peer, way, environments[peer.name], max(20, int(peer.jobs * share))))
                except services.Absent as error:
                    absent[peer.name, way] = f"{way} {error}"
    figures = [figure_of(peer, of_ours, rates, absent) for peer in PEERS]
    measured = [figure for figure in figures if not figure.absent]
    fastest = min(measured, key=lambda figure: figure.ratio) if measured else figures[0]
    fastest.at_least = 3
    return figures


def figure_of(peer: Peer, of_ours: list[float], rates: dict[tuple[str, str], list[float]], absent: dict[tuple[str, str], str]) -> Figure:
    """Beside the better of its ways; FLOORS then says what each of them did."""
    middle = {way: statistics.median(rates[peer.name, way]) for way in peer.ways if (peer.name, way) not in absent}
    if not middle:
        return Figure(f"no-op task beside {peer.name}", "jobs/s", absent="not measured: " + "; ".join(dict.fromkeys(absent[peer.name, way] for way in peer.ways)))
    said = [f"{way} (`{peer.ways[way]}`) " + (f"{middle[way]:,.0f} jobs/s" if way in middle else absent[peer.name, way]) for way in peer.ways]
    FLOORS[peer.name] += "; " + ", ".join(said)
    return Figure(f"no-op task beside {peer.name}", "jobs/s", of_ours, rates[peer.name, max(middle, key=middle.__getitem__)], peer.name)


if __name__ == "__main__":
    alone(sys.modules[__name__])
