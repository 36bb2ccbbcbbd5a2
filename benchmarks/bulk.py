"""How fast `asyncsend enqueue --each` is: rows a second of the command as cron or a person calls it, start and all, and its memory above that for one chunk."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.yardstick import SCRIPT, Account, Figure, Server, account, alone, in_turns, peak

SIZES = {"full": {"rounds": 5, "rows": 30_000}, "quick": {"rounds": 5, "rows": 5000}, "tiny": {"rounds": 1, "rows": 600}}
FLOORS = {"raw multi-row INSERT": "pymysql inserts the same columns by statements of 500 rows, each committed; the rows are ready in memory"}
CHUNK = 500
TEMPLATE = {
    "to": "{{email}}", "subject": "News for {{name}}", "text": "Hello {{name}},\n\nthree stories about bread, salt and butter: https://example.com/{{id}}\n",
    "html": '<p>Hello {{name}},</p>\n<p>three stories about <a href="https://example.com/{{id}}">bread, salt and butter</a></p>',
}  # fmt: skip


def lines(rows: int):
    return ({"id": str(number), "email": f"customer{number}@example.com", "name": f"Zoë O'Neill {number}"} for number in range(rows))


def written(folder: Path, rows: int) -> list[str]:
    """The command that adds so many lines of a file, which is there now."""
    with open(folder / f"{rows}.csv", "w", encoding="utf-8") as file:
        file.write("id,email,name\n")
        file.writelines(f"{one['id']},{one['email']},{one['name']}\n" for one in lines(rows))
    (folder / "letter.json").write_text(json.dumps(TEMPLATE), "utf-8")
    return ["enqueue", "email", f"@{folder}/letter.json", "--each", f"{folder}/{rows}.csv", "--batch", "november"]


def raw(place: Account, rows: int) -> float:
    made = []
    for one in lines(rows):
        text = json.dumps(TEMPLATE, ensure_ascii=False, separators=(",", ":"))
        for column, value in one.items():
            text = text.replace("{{" + column + "}}", value)
        made.append(("email", text, f"{int(one['id']):032x}", "november"))
    with place.cursor(autocommit=False) as cursor:
        began = time.perf_counter()
        for start in range(0, rows, CHUNK):
            cursor.executemany("INSERT INTO asyncsend_jobs (task, payload, uid, batch_id) VALUES (%s, %s, %s, %s)", made[start : start + CHUNK])
            cursor.connection.commit()
        return rows / (time.perf_counter() - began)


def measure(server: Server, rounds: int, rows: int) -> list[Figure]:
    with account(server) as place:
        all_, chunk = written(place.folder, rows), written(place.folder, CHUNK)

        def cleared(measured, *arguments) -> float:
            with place.cursor() as cursor:
                for table in ("jobs", "batches"):
                    cursor.execute(f"TRUNCATE TABLE asyncsend_{table}")
            return measured(*arguments)

        found = in_turns(rounds, {
            "ours": lambda: rows / cleared(place.asyncsend, *all_),
            "raw": lambda: cleared(raw, place, rows),
            "peak": lambda: cleared(peak, [SCRIPT, *all_], place.environment),
            "least": lambda: cleared(peak, [SCRIPT, *chunk], place.environment),
        })  # fmt: skip
    return [
        Figure("`enqueue --each`", "rows/s", found["ours"], found["raw"], "raw multi-row INSERT", at_least=0.5),
        Figure(f"its memory for {rows:,} lines above that for {CHUNK}", "MB", [more - least for more, least in zip(found["peak"], found["least"], strict=True)], at_most=20),
    ]


if __name__ == "__main__":
    alone(sys.modules[__name__])
