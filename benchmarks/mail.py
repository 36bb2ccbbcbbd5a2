"""How fast mail goes out: messages a second of a whole `asyncsend run`, its start and end included. The sink is a process of its own that only counts."""

from __future__ import annotations

import json
import smtplib
import sys
import tempfile
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from quick_sink import QuickSink

from benchmarks.yardstick import Figure, Server, account, alone, in_turns, seconds

SIZES = {"full": {"rounds": 5, "mails": 5000, "slow_mails": 1200}, "quick": {"rounds": 5, "mails": 800, "slow_mails": 240}, "tiny": {"rounds": 1, "mails": 16, "slow_mails": 16}}
LOOP, EIGHT = "bare loop", "8 bare loops"
FLOORS = {
    LOOP: "a Python loop that builds the same EmailMessage and sends it over one reused smtplib connection",
    EIGHT: "eight times the speed of that loop at that sink, which takes 20 ms for each mail",
}
CASES = [  # what, seconds that the sink takes for each mail, workers, floor, bar
    ("mail, 1 worker", 0.0, 1, LOOP, 0.85),
    ("mail, 8 workers, a server that takes 20 ms", 0.02, 8, EIGHT, 0.75),
]
TEXT = "Hello Ann,\n\nyour order is on its way.\n\nThe shop\n"


def bare(port: int, mails: int) -> None:
    """The loop that a page would write."""
    connection = smtplib.SMTP("127.0.0.1", port)
    for number in range(mails):
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"], message["Subject"] = "Shop <shop@example.com>", f"customer{number}@example.com", f"Order {number}"
        message["Date"], message["Message-ID"] = format_datetime(datetime.now(UTC)), f"<bare-{number}@example.com>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(TEXT)
        connection.sendmail("shop@example.com", [f"customer{number}@example.com"], message.as_bytes())
    connection.quit()


def ours(server: Server, port: int, mails: int, workers: int) -> float:
    """Mails a second."""

    def row(number: int) -> str:
        payload = json.dumps({"to": f"customer{number}@example.com", "subject": f"Order {number}", "text": TEXT})
        return "('email', '{}')".format(payload.replace("\\", "\\\\"))

    with account(server, ASYNCSEND_EMAIL_URL=f"smtp://127.0.0.1:{port}") as place:
        place.insert("task, payload", row, mails)
        return place.drained(workers=workers)


def measure(server: Server, rounds: int, mails: int, slow_mails: int) -> list[Figure]:
    figures = []
    for what, delay, workers, floor, bar in CASES:
        number = slow_mails if delay else mails
        alone_number = number // workers
        with tempfile.TemporaryDirectory() as folder:
            sink = QuickSink(Path(folder), delay)
            try:
                found = in_turns(rounds, {
                    "floor": lambda: workers * alone_number / seconds(lambda: bare(sink.port, alone_number)),  # noqa: B023 - called before the loop goes on
                    "ours": lambda: ours(server, sink.port, number, workers),  # noqa: B023
                })  # fmt: skip
                assert len(sink.recipients) == rounds * (alone_number + number), "the sink has counted"
            finally:
                sink.stop()
        figures.append(Figure(what, "mails/s", found["ours"], found["floor"], floor, at_least=bar))
    return figures


if __name__ == "__main__":
    alone(sys.modules[__name__])
