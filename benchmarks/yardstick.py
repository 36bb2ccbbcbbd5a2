"""
What the benchmarks share: a figure with its bar, the database server, an account as a host gives it, and the command line of each file.

A benchmark is a module with `SIZES`, `FLOORS` (name: what it does) and `measure(server, **sizes) -> list[Figure]`. `python -m benchmarks` calls
all of them; `python -m benchmarks.tick --rounds 25 --server mysql-9.7` one.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import PrivateServer, Server, _matrix_server, eventually, made_store  # noqa: E402, F401 - not importable before the line above; others take eventually from here

SCRIPT = str(Path(sys.executable).with_name("asyncsend"))
# What MariaDB has by itself (and no binary log), where the tests' own server is smaller and forgets the last second.
DURABLE = ("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M")
ROWS_A_STATEMENT = 5000


@dataclass
class Figure:
    """What was measured, a value for each round. Without a floor the bar is for the value itself; with one, for ours ÷ floor."""

    what: str
    unit: str
    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    against: str = ""  # the name of the floor in FLOORS
    at_most: float | None = None
    at_least: float | None = None
    absent: str = ""  # why there is no figure

    @property
    def value(self) -> float:
        return statistics.median(self.ours)

    @property
    def ratio(self) -> float | None:
        return self.value / statistics.median(self.floor) if self.ours and self.floor else None

    @property
    def bar(self) -> str:
        if self.at_most is None and self.at_least is None:
            return ""
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"

    @property
    def kept(self) -> bool | None:
        """None: there is no bar. What could not be measured keeps none."""
        if not self.bar:
            return None
        if self.absent:
            return False
        found = self.ratio if self.floor else self.value
        return found <= self.at_most if self.at_most is not None else found >= self.at_least

    def cells(self) -> list[str]:
        """One row of the table: what, asyncsend, floor, ratio, bar, kept?"""
        kept = {None: "", True: "yes", False: "**no**"}[self.kept]
        if self.absent:
            return [self.what, "", "", self.absent.replace("|", "/"), self.bar, kept]
        floor = f"{number(statistics.median(self.floor))} {self.unit}, {self.against}" if self.floor else ""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return [self.what, f"{number(self.value)} {self.unit}", floor, ratio, self.bar, kept]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: list[Figure]) -> str:
    rows = [["what", "asyncsend", "floor", "ratio", "bar", "kept?"], ["---"] * 6, *(figure.cells() for figure in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def in_turns(rounds: int, cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each case returned in each round, one after the other within a round: a busy moment hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            found[name].append(case())
    return found


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def finished(command: list[str], environment: dict[str, str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment, check=True, cwd="/", **{"stdin": subprocess.DEVNULL} | options)


def cpu(command: list[str], environment: dict[str, str], **options) -> float:
    """CPU milliseconds, user and system, of one process and its children from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished(command, environment, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


# The kernel counts what a process was before exec, too, which for our own children is us: so a small Python in between asks.
PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"


def peak(command: list[str], environment: dict[str, str]) -> float:
    """The most MB that the process had resident, or the largest of its children."""
    return float(finished([sys.executable, "-c", PEAK, *command], environment, capture_output=True, text=True).stdout)


# ── an account ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Account:
    """A database with our tables, a home folder, and the environment that cron gives to `asyncsend`."""

    server: Server
    database: str
    folder: Path
    environment: dict[str, str]

    def asyncsend(self, *arguments: str) -> float:
        """Seconds of a command, from the start of its process to the end."""
        return seconds(lambda: finished([SCRIPT, *arguments], self.environment, stderr=subprocess.PIPE))

    @contextmanager
    def cursor(self, *, autocommit: bool = True):
        with self.server.connect(self.database) as connection, connection.cursor() as cursor:
            connection.autocommit(autocommit)
            yield cursor

    def insert(self, columns: str, row: Callable[[int], str], rows: int) -> None:
        """So many rows of asyncsend_jobs, by the quickest way."""
        with self.cursor() as cursor:
            for start in range(0, rows, ROWS_A_STATEMENT):
                values = ",".join(row(number) for number in range(start, min(rows, start + ROWS_A_STATEMENT)))
                cursor.execute(f"INSERT INTO asyncsend_jobs ({columns}) VALUES {values}")

    def waiting(self, task: str, jobs: int, payload: str = "{}") -> None:
        self.insert("task, payload", lambda _: f"('{task}', '{payload}')", jobs)

    def drained(self, *, workers: int = 1) -> float:
        """Jobs a second of the `asyncsend run` that does all that wait, its start and end included."""
        with self.cursor() as cursor:
            before = _count(cursor, "state = 'done'")
            took = self.asyncsend("run", "--max-time", "1h", "--workers", str(workers))
            done, open_ = _count(cursor, "state = 'done'"), _count(cursor, "state IN ('ready', 'running', 'held')")
        assert not open_, f"{open_} jobs were not done: see {self.folder}/home/asyncsend.log"
        return (done - before) / took


def _count(cursor, where: str) -> int:
    cursor.execute(f"SELECT COUNT(*) FROM asyncsend_jobs WHERE {where}")
    return cursor.fetchone()[0]


@contextmanager
def account(server: Server, tasks: str = "", **settings: str) -> Iterator[Account]:
    """A fresh one. `tasks` is the source of the module that ASYNCSEND_TASKS names."""
    with server.database() as database, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir(mode=0o700)
        (folder / "bench_tasks.py").write_text(tasks, "utf-8")
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": name, "ASYNCSEND_HOME": str(folder / "home"), "ASYNCSEND_DATABASE_URL": server.url(database),
            "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>", **({"ASYNCSEND_TASKS": "bench_tasks", "ASYNCSEND_PATH": name} if tasks else {}), **settings,
        }  # fmt: skip
        made_store(server.url(database)).close()
        yield Account(server, database, folder, environment)


@contextmanager
def started(name: str = "mariadb") -> Iterator[Server]:
    """The installed MariaDB with a database of its own, or a server of shared/tools/servers."""
    server = PrivateServer(*DURABLE) if name == "mariadb" else _matrix_server(name)
    try:
        if name != "mariadb":
            with server.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        yield server
    finally:
        server.stop()


def alone(part) -> None:
    """The command line of one benchmark: its sizes are the options."""
    parser = argparse.ArgumentParser(description=part.__doc__)
    parser.add_argument("--server", default="mariadb", help="mariadb, the installed one, or a name of shared/tools/servers")
    for name, default in part.SIZES["full"].items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    sizes = vars(parser.parse_args())
    with started(sizes.pop("server")) as server:
        figures = part.measure(server, **sizes)
    print(table(figures) + explained(part, figures), end="")
    sys.exit(any(figure.kept is False for figure in figures))


def explained(part, figures: list[Figure]) -> str:
    """A line for each floor of these figures that says what it does."""
    named = {figure.against for figure in figures if figure.floor}
    return "".join(f"\n- {name}: {does}" for name, does in part.FLOORS.items() if name in named) + "\n"


def as_json(figure: Figure) -> dict[str, object]:
    return {**asdict(figure), "value": figure.value if figure.ours else None, "ratio": figure.ratio, "kept": figure.kept}


def from_json(read: dict[str, object]) -> Figure:
    return Figure(**{one.name: read[one.name] for one in fields(Figure)})
