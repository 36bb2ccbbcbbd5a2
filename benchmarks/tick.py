"""What an empty minute costs: CPU of `asyncsend run` on an empty queue, and of one that finds another at work, and statements counted by the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asyncsend.store.mysql import connect_options
from benchmarks.yardstick import SCRIPT, Account, Figure, Server, account, alone, cpu, in_turns

SIZES = {"full": {"rounds": 25}, "quick": {"rounds": 9}, "tiny": {"rounds": 1}}
FLOORS = {"bare Python": "a Python that imports pymysql, connects to the same server and asks two queries"}
FLOOR = """
import pymysql
connection = pymysql.connect({options}, autocommit=True)
cursor = connection.cursor()
cursor.execute("SELECT 1"); cursor.fetchall()
cursor.execute("SELECT NOW()"); cursor.fetchall()
connection.close()
"""
HOLDER = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def floor(place: Account) -> float:
    """CPU milliseconds of the bare Python."""
    options = ", ".join(f"{key}={value!r}" for key, value in connect_options(place.server.url(place.database)).items())
    return cpu([sys.executable, "-c", FLOOR.format(options=options)], place.environment)


def statements(place: Account, run: Callable[[], object]) -> tuple[int, int]:
    """Statements, and writes among them, that the server counted while `run` ran; our own looking is taken off."""

    def counted() -> dict[str, int]:
        with place.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
            return {key: int(value) for key, value in cursor.fetchall()}

    quiet = counted(), counted()
    run()
    after = counted()
    growth = {key: after[key] - quiet[1][key] - (quiet[1][key] - quiet[0][key]) for key in after}
    return sum(growth.values()), sum(growth.get(key, 0) for key in ("Com_insert", "Com_update", "Com_delete"))


@contextmanager
def lock_held(place: Account) -> Iterator[dict[str, str]]:
    """The environment of an account of the same database in which another run is at work."""
    home = place.folder / "held"
    home.mkdir(mode=0o700)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(home / "asyncsend.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        yield place.environment | {"ASYNCSEND_HOME": str(home)}
        holder.stdin.close()


def settings_in_file(place: Account) -> dict[str, str]:
    """The environment of an account that has its settings in `.env`."""
    home = place.folder / "file"
    home.mkdir(mode=0o700)
    (home / ".env").touch(0o600)
    (home / ".env").write_text(f'ASYNCSEND_DATABASE_URL="{place.server.url(place.database)}"\nASYNCSEND_EMAIL_FROM="Shop <shop@example.com>"\n')
    return {name: value for name, value in place.environment.items() if not name.startswith("ASYNCSEND_")} | {"ASYNCSEND_HOME": str(home)}


def measure(server: Server, rounds: int) -> list[Figure]:
    with account(server) as place, lock_held(place) as held:
        by_file = settings_in_file(place)
        found = in_turns(rounds, {
            "floor": lambda: floor(place),
            "empty": lambda: cpu([SCRIPT, "run"], place.environment),
            "file": lambda: cpu([SCRIPT, "run"], by_file),
            "held": lambda: cpu([SCRIPT, "run"], held),
        })  # fmt: skip
        counts = [statements(place, lambda: cpu([SCRIPT, "run"], place.environment)) for _ in range(rounds)]
    all_, writes = ([float(one) for one in each] for each in zip(*counts, strict=True))
    against = {"floor": found["floor"], "against": "bare Python"}
    return [
        Figure("empty tick", "ms CPU", found["empty"], **against, at_most=1.4),
        Figure("empty tick, settings in `.env`", "ms CPU", found["file"], **against),
        Figure("lock-held tick", "ms CPU", found["held"], **against, at_most=0.8),
        Figure("statements on an empty tick", "statements", all_, at_most=6),
        Figure("writes among them", "statements", writes, at_most=2),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
