"""Queues: in which order they are served, and whether they are paused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence


def in_order(existing: Iterable[str], order: Sequence[str], paused: Container[str] = ()) -> list[str]:
    """
    The existing queues in the order to serve them, without the paused ones.

    `*` in `order` stands for every queue it does not name, by name; without `*` only the named ones are served. Blanks at
    the end of an existing name count for nothing: to MySQL `default ` equals `default`, and it may hand out either.

    >>> in_order(["low", "b", "a", "critical"], ["critical", "*", "low"])
    ['critical', 'a', 'b', 'low']
    """
    present = sorted(queue for queue in existing if named(queue) not in paused)
    others = [queue for queue in present if named(queue) not in order or queue == "*"]
    served: list[str] = []
    for name in order:
        served += others if name == "*" else [queue for queue in present if named(queue) == name]
    return served


def named(queue: str) -> str:
    """The name by which people know the queue of a row: without the blanks that a producer left at its end."""
    return queue.rstrip(" ")
