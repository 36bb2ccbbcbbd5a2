"""
What an empty minute costs: CPU of `asyncsend run` on an empty queue, as a ratio to the floor measured in the same run.

The floor is a bare Python that imports pymysql, connects to the same server and asks two queries. A ratio, not a time:
the machine may be busy. Usage: python benchmarks/tick.py [--rounds 25] [--json FILE]. A private MariaDB is started, or
ASYNCSEND_TEST_MYSQL_URL is used.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import _given_server, _installed_mariadb, made_store  # noqa: E402

from asyncsend.store.mysql import connect_options  # noqa: E402

FLOOR = """
import pymysql
connection = pymysql.connect({options}, autocommit=True)
cursor = connection.cursor()
cursor.execute("SELECT 1"); cursor.fetchall()
cursor.execute("SELECT NOW()"); cursor.fetchall()
connection.close()
"""


def cpu(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds, user and system, of one process from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, cwd="/", stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def queries(server, name: str, run) -> tuple[int, int]:
    """Statements, and writes among them, that the server counted while `run` ran; our own looking is taken off."""
    def counted():
        with server.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
            return {key: int(value) for key, value in cursor.fetchall()}

    quiet = counted(), counted()
    run()
    after = counted()
    growth = {key: after[key] - quiet[1][key] - (quiet[1][key] - quiet[0][key]) for key in after}
    return sum(growth.values()), sum(growth.get(key, 0) for key in ("Com_insert", "Com_update", "Com_delete"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
    server = _given_server(given) if given else _installed_mariadb()
    with tempfile.TemporaryDirectory() as folder, server.database() as name:
        url = server.url(name)
        made_store(url).close()
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        bare = {"PATH": "/usr/bin:/bin", "HOME": folder, "ASYNCSEND_HOME": str(home)}
        by_environment = {**bare, "ASYNCSEND_DATABASE_URL": url}
        file_home = Path(folder) / "file"
        file_home.mkdir(mode=0o700)
        (file_home / ".env").touch(0o600)
        (file_home / ".env").write_text(f'ASYNCSEND_DATABASE_URL="{url}"\nASYNCSEND_EMAIL_FROM="Shop <shop@example.com>"\n')
        by_file = {**bare, "ASYNCSEND_HOME": str(file_home)}
        options = ", ".join(f"{key}={value!r}" for key, value in connect_options(url).items())
        script = Path(sys.executable).with_name("asyncsend")
        held = Path(folder) / "held"
        held.mkdir(mode=0o700)
        holder = subprocess.Popen(
            [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()", str(held / "asyncsend.lock")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        holder.stdout.readline()
        cases = {
            "floor": ([sys.executable, "-c", FLOOR.format(options=options)], bare),
            "empty tick": ([str(script), "run"], by_environment),
            "empty tick, settings in .env": ([str(script), "run"], by_file),
            "lock-held tick": ([str(script), "run"], {**by_environment, "ASYNCSEND_HOME": str(held)}),
        }
        times: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(arguments.rounds):
            for case, (command, environment) in cases.items():  # in turns, so that a busy moment hits all alike
                times[case].append(cpu(command, environment))
        statements, writes = queries(server, name, lambda: cpu(*cases["empty tick"]))
        holder.stdin.close()
        holder.wait()
    server.stop()
    floor = statistics.median(times["floor"])
    ratios = {case: round(statistics.median(found) / floor, 3) for case, found in times.items() if case != "floor"}
    print(f"floor: {floor * 1000:.1f} ms CPU (bare Python, pymysql, connect, two queries); median of {arguments.rounds}")
    for case, ratio in ratios.items():
        print(f"{case:32} {ratio:.2f} x floor")
    print(f"statements on an empty tick      {statements}, of them {writes} writes")
    if arguments.json:
        arguments.json.write_text(json.dumps({"floor_ms": round(floor * 1000, 2), "ratios": ratios, "statements": statements, "writes": writes}, indent=2))


if __name__ == "__main__":
    main()
