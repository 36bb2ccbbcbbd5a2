"""Dead letters: jobs that gave up. They stay in the table, with the reason and what became of each attempt, until replayed, purged or pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncsend.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncsend.job import Job
    from asyncsend.outcome import State
    from asyncsend.store import Store
    from asyncsend.store.rows import Attempt, Which

SLICE = 500


def slices(store: Store, which: Which) -> Iterator[list[int]]:
    """The ids of these jobs, the newest first, a slice at a time; changing or deleting them on the way is fine."""
    before = None
    while ids := store.ids(which, SLICE, before):
        yield ids
        before = ids[-1]


def whole(store: Store, ids: Sequence[int]) -> Iterator[list[tuple[Job, list[Attempt]]]]:
    """These jobs with what became of their attempts, as many at a time as a small host can hold."""
    for part in store.parts(ids):
        history = store.attempts(part)
        yield [(job, history[job.id]) for job in store.these(part)]


def replay(store: Store, slices: Iterable[Sequence[int]], states: Sequence[State], queue: str | None = None) -> tuple[int, int]:
    """
    Make those of these jobs that are in one of `states` ready again, with fresh attempts, in `queue` or where they were.

    How many are, and how many could not be because another unfinished job has their unique key. Their history stays.
    """
    done = refused = 0
    for ids in slices:
        try:
            done += store.make_all_ready(ids, states, queue)
        except Conflict:
            for job_id in ids:
                try:
                    done += store.make_ready(job_id, states, queue)
                except Conflict:
                    refused += 1
    return done, refused


def purge(store: Store, which: Which) -> int:
    """Delete these dead letters for good; how many."""
    return sum(store.purge(ids) for ids in slices(store, which))
