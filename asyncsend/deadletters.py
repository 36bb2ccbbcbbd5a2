"""Dead letters: jobs that gave up. They stay in the table, with the reason, until replayed, purged or pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncsend.errors import Conflict
from asyncsend.job import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncsend.job import Job
    from asyncsend.store import Store

SLICE = 500


def each(store: Store, state: State = State.DEAD, *, queue: str | None = None, task: str | None = None) -> Iterator[Job]:
    """Every job in that state, the newest first, a slice at a time; changing or deleting them on the way is fine."""
    before = None
    while found := store.jobs(state=state.value, queue=queue, task=task, limit=SLICE, before=before):
        yield from found
        before = found[-1].id


def replay_all(store: Store, state: State = State.DEAD, *, queue: str | None = None, task: str | None = None) -> tuple[int, int]:
    """Make them ready again; how many are, and how many could not be because another unfinished job has their unique key."""
    done = refused = 0
    for job in each(store, state, queue=queue, task=task):
        try:
            done += store.make_ready(job.id, (state,))
        except Conflict:
            refused += 1
    return done, refused


def purge_all(store: Store, *, queue: str | None = None, task: str | None = None) -> int:
    """Delete the dead letters for good; how many."""
    deleted = 0
    while found := store.jobs(state=State.DEAD.value, queue=queue, task=task, limit=SLICE):
        deleted += store.purge([job.id for job in found])
    return deleted
