"""An account whose table is big: as many future jobs as finished ones, right after they came in, before the server counted them."""

from __future__ import annotations

from benchmarks.yardstick import Account


def crowded(place: Account, rows: int, *, mixed: bool = True) -> None:
    """`mixed`: in two queues, of two priorities each, some above those of the due jobs; else like a newsletter of tomorrow, in one queue and of one priority."""
    where = (lambda number: ("later" if number % 2 else "default", number % 4)) if mixed else lambda _: ("default", 0)
    place.insert("task, payload, run_at, queue, priority", lambda number: "('email', '{{}}', NOW() + INTERVAL 1 DAY, '{}', {})".format(*where(number)), rows)
    place.insert("task, payload, state, finished_at, unique_slot", lambda _: "('email', '{}', 'done', NOW(), NULL)", rows)
