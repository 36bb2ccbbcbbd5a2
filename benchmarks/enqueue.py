"""How fast jobs are put in: one after the other, each with its own commit, from Python and from PHP; many at once; and CPU of the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from unittest.mock import patch

from asyncsend import enqueue, enqueue_many
from benchmarks.tick import FLOORS as TICK
from benchmarks.tick import floor as bare_python
from benchmarks.yardstick import SCRIPT, Account, Figure, Server, account, alone, cpu, in_turns

SIZES = {
    "full": {"rounds": 7, "singles": 2000, "rows": 20_000},
    "quick": {"rounds": 5, "singles": 500, "rows": 10_000},
    "tiny": {"rounds": 1, "singles": 10, "rows": 600},
}
FLOORS = {
    "raw INSERTs": "pymysql inserts the same columns (task, payload, uid; from PHP task and payload), one row a statement, each committed, over one connection; all of it ready in memory",
    "raw multi-row INSERT": "pymysql inserts the same columns by statements of 500 rows and one commit at the end, the text of every payload and uid ready in memory",
    **TICK,
}
PAYLOAD = {"to": "ann@example.com", "subject": "Your order 17", "text": "Hello Ann,\n\nyour order is on its way.\n\nThe shop\n"}
TEXT = json.dumps(PAYLOAD, separators=(",", ":"))
PHP = """<?php
[, $dsn, $rows, $payload] = $argv;
$db = new PDO($dsn, 'root', '', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$began = hrtime(true);
for ($number = 0; $number < $rows; $number++) {
    $insert = $db->prepare('INSERT INTO asyncsend_jobs (task, payload) VALUES (?, ?)');
    $insert->execute(['email', $payload]);
}
echo (hrtime(true) - $began) / 1e9;
"""


def one_by_one(place: Account, rows: int) -> float:
    """Jobs a second of `enqueue`, as a process has it that has called it before."""
    with patch.dict(os.environ, place.environment):
        enqueue("email", PAYLOAD)
        began = time.perf_counter()
        for _ in range(rows):
            enqueue("email", PAYLOAD)
        return rows / (time.perf_counter() - began)


def many(place: Account, rows: int) -> float:
    with patch.dict(os.environ, place.environment):
        enqueue("email", PAYLOAD)
        payloads = [PAYLOAD] * rows
        began = time.perf_counter()
        enqueue_many("email", payloads)
        return rows / (time.perf_counter() - began)


def raw(place: Account, rows: int, columns: str = "task, payload, uid") -> float:
    made = [("email", TEXT, uuid.uuid4().hex)[: columns.count(",") + 1] for _ in range(rows)]
    statement = f"INSERT INTO asyncsend_jobs ({columns}) VALUES ({', '.join(['%s'] * len(made[0]))})"
    with place.cursor() as cursor:
        began = time.perf_counter()
        for row in made:
            cursor.execute(statement, row)
        return rows / (time.perf_counter() - began)


def raw_many(place: Account, rows: int) -> float:
    made = [("email", TEXT, uuid.uuid4().hex) for _ in range(rows)]
    with place.cursor(autocommit=False) as cursor:
        began = time.perf_counter()
        for start in range(0, rows, 500):
            cursor.executemany("INSERT INTO asyncsend_jobs (task, payload, uid) VALUES (%s, %s, %s)", made[start : start + 500])
        cursor.connection.commit()
        return rows / (time.perf_counter() - began)


def from_php(place: Account, rows: int) -> float:
    """The INSERT of the README, by PDO."""
    dsn = f"mysql:unix_socket={place.server.socket};dbname={place.database};charset=utf8mb4"
    return rows / float(subprocess.run(["php", "--", dsn, str(rows), TEXT], input=PHP, capture_output=True, text=True, check=True).stdout)


def command(place: Account) -> float:
    return cpu([SCRIPT, "enqueue", "email", TEXT], place.environment, stdout=subprocess.DEVNULL)


def measure(server: Server, rounds: int, singles: int, rows: int) -> list[Figure]:
    no_php = "" if shutil.which("php") else "not measured: there is no php; apt-get install php-cli php-mysql"

    def cleared(measured, *sizes: int, **options) -> float:
        with place.cursor() as cursor:
            cursor.execute("TRUNCATE TABLE asyncsend_jobs")
        return measured(place, *sizes, **options)

    with account(server) as place:
        found = in_turns(rounds, {
            "one": lambda: cleared(one_by_one, singles),
            "raw": lambda: cleared(raw, singles),
            "php": lambda: 0.0 if no_php else cleared(from_php, singles),
            "raw of two columns": lambda: cleared(raw, singles, columns="task, payload"),
            "many": lambda: cleared(many, rows),
            "raw many": lambda: cleared(raw_many, rows),
            "command": lambda: command(place),
            "floor": lambda: bare_python(place),
        })  # fmt: skip
    return [
        Figure("`enqueue`, each its own commit", "rows/s", found["one"], found["raw"], "raw INSERTs"),
        Figure("`enqueue_many`", "rows/s", found["many"], found["raw many"], "raw multi-row INSERT", at_least=0.6),
        Figure("from PHP, by PDO", "rows/s", [] if no_php else found["php"], found["raw of two columns"], "raw INSERTs", absent=no_php),
        Figure("`asyncsend enqueue`, the command", "ms CPU", found["command"], found["floor"], "bare Python"),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
