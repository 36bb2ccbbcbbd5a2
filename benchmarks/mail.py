"""
How fast mail goes out: messages a second of `asyncsend run`, start and all, as a ratio to a bare loop that builds the same EmailMessage
and sends it over one reused smtplib connection; then 8 workers against a sink that takes 20 ms for each message, as a ratio to 8 times
that loop there. The sink is a process of its own that only counts. In turns, the median counts; the database flushes its log at each
commit. Usage: python benchmarks/mail.py [--mails 10000] [--rounds 3] [--json FILE].
"""

from __future__ import annotations

import argparse
import json
import shutil
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parts import PrivateServer, made_store  # noqa: E402
from quick_sink import QuickSink  # noqa: E402

from asyncsend.job import NewJob  # noqa: E402

BARS = {"one worker": 0.85, "8 workers, 20 ms": 0.75}
TEXT = "Hello Ann,\n\nyour order is on its way.\n\nThe shop\n"


def bare(port: int, mails: int) -> float:
    """Seconds of the loop that a page would write."""
    began = time.perf_counter()
    connection = smtplib.SMTP("127.0.0.1", port)
    for number in range(mails):
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"], message["Subject"] = "Shop <shop@example.com>", f"customer{number}@example.com", f"Order {number}"
        message["Date"], message["Message-ID"] = format_datetime(datetime.now(UTC)), f"<bare-{number}@example.com>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(TEXT)
        connection.sendmail("shop@example.com", [f"customer{number}@example.com"], message.as_bytes())
    connection.quit()
    return time.perf_counter() - began


def ours(server, port: int, mails: int, workers: int) -> float:
    """Seconds of `asyncsend run`, from its start to its end; the jobs are there before."""
    with server.database() as database, tempfile.TemporaryDirectory() as home:
        store = made_store(server.url(database))
        for start in range(0, mails, 1000):
            store.insert([
                NewJob("email", json.dumps({"to": f"customer{number}@example.com", "subject": f"Order {number}", "text": TEXT}), f"m{number}")
                for number in range(start, min(mails, start + 1000))
            ])  # fmt: skip
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": home, "ASYNCSEND_HOME": home, "ASYNCSEND_DATABASE_URL": server.url(database),
            "ASYNCSEND_EMAIL_URL": f"smtp://127.0.0.1:{port}", "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>", "ASYNCSEND_WORKERS": str(workers),
        }  # fmt: skip
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "asyncsend", "run", "--max-time", "600s"], env=environment, check=True, cwd="/")
        took = time.perf_counter() - began
        done = store.count(state="done")
        store.close()
        assert done == mails, f"{done} of {mails} are done"
        return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    server, ratios = PrivateServer("--innodb-flush-log-at-trx-commit=1"), {}
    try:
        for case, delay, workers, mails in (("one worker", 0.0, 1, arguments.mails), ("8 workers, 20 ms", 0.02, 8, max(400, arguments.mails // 4))):
            sink = QuickSink(Path(tempfile.mkdtemp()), delay)
            floor, found = [], []
            for _ in range(arguments.rounds):
                alone = mails // workers
                floor.append(alone / bare(sink.port, alone) * workers)
                found.append(mails / ours(server, sink.port, mails, workers))
            assert len(sink.recipients) == arguments.rounds * (alone + mails), "the sink has counted"
            sink.stop()
            shutil.rmtree(sink.path.parent)
            ratios[case] = statistics.median(found) / statistics.median(floor)
            print(f"{case:17} {statistics.median(found):8,.0f} mails/s   the loop {'x 8 ' if workers > 1 else ''}{statistics.median(floor):8,.0f}   ratio {ratios[case]:5.2f}   bar: at least {BARS[case]}", flush=True)
    finally:
        server.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratios": {case: round(ratio, 3) for case, ratio in ratios.items()}, "bars": BARS}, indent=2))
    sys.exit(any(ratio < BARS[case] for case, ratio in ratios.items()))


if __name__ == "__main__":
    main()
