"""An account whose table is big: as many future jobs as finished ones, four priorities, two queues; right after they came in, before the server counted them."""

from __future__ import annotations

from benchmarks.yardstick import Account


def crowded(place: Account, rows: int) -> None:
    place.insert("task, payload, queue, run_at, priority", lambda number: f"('email', '{{}}', '{'later' if number % 2 else 'default'}', NOW() + INTERVAL 1 DAY, {number % 4})", rows)
    place.insert("task, payload, state, finished_at, unique_slot", lambda _: "('email', '{}', 'done', NOW(), NULL)", rows)
