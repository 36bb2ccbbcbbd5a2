"""Queues: in which order they are served, which share is kept for the last of them, and whether they are paused."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from asyncsend.job import Job


def in_order(existing: Iterable[str], order: Sequence[str], paused: Container[str] = ()) -> list[str]:
    """
    The existing queues in the order to serve them, without the paused ones.

    `*` in `order` stands for every queue it does not name, by name; without `*` only the named ones are served. Blanks at
    the end of an existing name count for nothing: to MySQL `default ` equals `default`, and it may hand out either.

    >>> in_order(["low", "b", "a", "critical"], ["critical", "*", "low:10%"])
    ['critical', 'a', 'b', 'low']
    """
    names = [name_of(entry) for entry in order]
    present = sorted(queue for queue in existing if named(queue) not in paused)
    others = [queue for queue in present if named(queue) not in names or queue == "*"]
    served: list[str] = []
    for name in names:
        served += others if name == "*" else [queue for queue in present if named(queue) == name]
    return served


def rank(queue: str, order: Sequence[str]) -> int | None:
    """The place of its entry in the order, 0 is first; None if no run serves it."""
    names = [name_of(entry) for entry in order]
    name = named(queue) if named(queue) in names and queue != "*" else "*"
    return names.index(name) if name in names else None


def shares(order: Sequence[str]) -> dict[int, int]:
    """
    Place in the order: the percentage of jobs that is kept for it.

    >>> shares(["critical", "*:20%", "low:5%"])
    {1: 20, 2: 5}
    """
    return {place: int(entry.rpartition(":")[2][:-1]) for place, entry in enumerate(order) if entry.endswith("%")}


class Reserve:
    """
    The shares of one run, in jobs: of any number of jobs started, a share of its number, rounded down, was of that queue if it had so many due.

    Jobs and not seconds, for a job's length is known only when it is over: a queue of long jobs could not be kept to its share.
    A run may start fewer jobs than one share is worth, so it begins where the run before would have gone on: `generation` counts them.
    """

    def __init__(self, order: Sequence[str], generation: int) -> None:
        self.credit = {place: generation * share % 100 for place, share in shares(order).items()}
        self.order, self.shares = order, shares(order)

    def wanted(self, names: Sequence[str], number: int) -> list[tuple[list[str], int]]:
        """Of so many jobs that are claimed next: how many must be of which queues."""
        found = []
        for place, share in self.shares.items():
            due = (self.credit[place] + share * number) // 100
            group = [name for name in names if rank(name, self.order) == place]
            if due and group:
                found.append((group, due))
        return found

    def spread(self, jobs: Sequence[Job]) -> list[Job]:
        """The claimed jobs in the order to start them, each with the rank at which it goes."""
        ranks = {queue: rank(queue, self.order) or 0 for queue in {job.queue for job in jobs}}
        for job in jobs:
            job.rank = ranks[job.queue]
        if len(set(ranks.values())) == 1 and jobs[0].rank not in self.shares:  # nobody goes before anybody
            self.credit = {place: min(100, self.credit[place] + share * len(jobs)) for place, share in self.shares.items()}
            return list(jobs)
        left = deque(sorted(jobs, key=lambda job: job.rank))
        kept = {place: deque(job for job in left if job.rank == place) for place in self.shares}
        started: list[Job] = []
        gone: set[int] = set()
        while left:
            for place, share in self.shares.items():
                self.credit[place] += share
            of = next((place for place, waiting in kept.items() if waiting and self.credit[place] >= 100), left[0].rank)
            job = kept[of].popleft() if of in kept else left[0]
            if of in kept:
                self.credit[of] = max(0, self.credit[of] - 100)
            started.append(job)
            gone.add(job.id)
            while left and left[0].id in gone:
                left.popleft()
            job.rank = min(job.rank, left[0].rank) if left else job.rank  # what is kept for it must not be overtaken by those it goes before
        self.credit = {place: min(100, credit) for place, credit in self.credit.items()}  # what was not asked for is not saved up
        return started


def named(queue: str) -> str:
    """The name by which people know the queue of a row: without the blanks that a producer left at its end."""
    return queue.rstrip(" ")


def name_of(entry: str) -> str:
    """The queue of an entry of the order, without its share."""
    return entry.rpartition(":")[0] if entry.endswith("%") else entry
