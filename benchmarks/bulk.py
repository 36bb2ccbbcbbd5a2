"""
How fast `asyncsend enqueue --each` is, and how much memory it takes: rows a second of the command as cron or a person calls it, start
and all, as a ratio to the fastest plain PyMySQL: INSERTs of 500 rows with the same columns, which it finds ready in memory, each
committed. Both on a MariaDB that flushes its log at each commit; in turns, the median counts. Peak memory is that of the process
above the same command on a file of one chunk. Usage: python benchmarks/bulk.py [--rows 100000] [--rounds 3] [--json FILE].
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import PrivateServer, made_store  # noqa: E402

BARS = {"ratio": 0.5, "growth_mb": 20}
TEMPLATE = {
    "to": "{{email}}", "subject": "News for {{name}}", "text": "Hello {{name}},\n\nthree stories about bread, salt and butter: https://example.com/{{id}}\n",
    "html": '<p>Hello {{name}},</p>\n<p>three stories about <a href="https://example.com/{{id}}">bread, salt and butter</a></p>',
}  # fmt: skip


def lines(rows: int):
    return ({"id": str(number), "email": f"customer{number}@example.com", "name": f"Zoë O'Neill {number}"} for number in range(rows))


def written(folder: Path, rows: int) -> Path:
    path = folder / f"{rows}.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,email,name\n")
        file.writelines(f"{one['id']},{one['email']},{one['name']}\n" for one in lines(rows))
    return path


def command(folder: Path, url: str, path: Path) -> tuple[float, float]:
    """Seconds from start to end, and the most MB of memory the process had."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "ASYNCSEND_HOME": str(folder), "ASYNCSEND_DATABASE_URL": url}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncsend", "enqueue", "email", f"@{folder}/letter.json", "--each", str(path), "--batch", "november"],
        env=environment, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def raw(server, name: str, rows: int) -> float:
    """Seconds of the INSERTs alone."""
    made = []
    for one in lines(rows):
        text = json.dumps(TEMPLATE, ensure_ascii=False, separators=(",", ":"))
        for column, value in one.items():
            text = text.replace("{{" + column + "}}", value)
        made.append(("email", text, f"{int(one['id']):032x}", "november"))
    with server.connect(name) as connection, connection.cursor() as cursor:
        connection.autocommit(False)
        began = time.perf_counter()
        for start in range(0, rows, 500):
            cursor.executemany("INSERT INTO asyncsend_jobs (task, payload, uid, batch_id) VALUES (%s, %s, %s, %s)", made[start : start + 500])
            connection.commit()
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = arguments.rows
    server = PrivateServer("--innodb-flush-log-at-trx-commit=1")
    found: dict[str, list[float]] = {"ours": [], "raw": [], "peak": [], "start": []}
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "letter.json").write_text(json.dumps(TEMPLATE), "utf-8")
            big, small = written(folder, rows), written(folder, 500)
            for _ in range(arguments.rounds):
                for case, path in (("start", small), ("ours", big), ("raw", None)):  # each on empty tables of its own
                    with server.database() as database:
                        made_store(server.url(database)).close()
                        if path is None:
                            found[case].append(raw(server, database, rows))
                        elif case == "start":
                            found[case].append(command(folder, server.url(database), path)[1])
                        else:
                            seconds, peak = command(folder, server.url(database), path)
                            found[case].append(seconds)
                            found["peak"].append(peak)
    finally:
        server.stop()
    middle = {case: statistics.median(values) for case, values in found.items()}
    ratio, growth = middle["raw"] / middle["ours"], middle["peak"] - middle["start"]
    print(f"enqueue --each   {rows / middle['ours']:10,.0f} rows/s   ({rows:,} rows, median of {arguments.rounds})")
    print(f"raw INSERTs      {rows / middle['raw']:10,.0f} rows/s")
    print(f"ratio            {ratio:10.2f}          bar: at least {BARS['ratio']}")
    print(f"memory growth    {growth:10.1f} MB       bar: at most {BARS['growth_mb']}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "ratio": round(ratio, 3), "growth_mb": round(growth, 1), "bars": BARS}, indent=2))
    sys.exit(ratio < BARS["ratio"] or growth > BARS["growth_mb"])


if __name__ == "__main__":
    main()
