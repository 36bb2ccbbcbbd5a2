"""
Retention: which rows a run forgets, and when. Every table is bounded; docs/retention.md has the list.

Nothing that waits is ever deleted: a held job that nobody decided about becomes a dead letter first, a ready one waits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from asyncsend import deadletters
from asyncsend.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncsend.config import Settings
    from asyncsend.store import Store

SLICE = 500  # rows in one transaction
YEAR = 365 * 86400.0  # at least so long stays the history of a job that somebody deleted by hand
SECONDS = 2.0  # how long a run prunes at most; while there is more, the next one goes on


class Pruned(NamedTuple):
    """What was forgotten. `trouble` says why it stopped before its time."""

    jobs: int
    held: int  # became dead
    more: bool
    trouble: str | None = None


def before(store: Store, settings: Settings) -> Callable[[Sequence[int]], None] | None:
    """What has to be done with jobs before they are deleted: they go to the archive, if there is one."""
    if settings.archive is None:
        return None
    from asyncsend.archive import Archive

    archive = Archive(settings.archive, settings.table_prefix)

    def put(ids: Sequence[int]) -> None:
        for part in deadletters.whole(store, ids):
            archive.append(part)

    return put


def prune(
    store: Store, settings: Settings, *, owner: str | None = None, beat: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
) -> Pruned:
    """One run's share of it: held jobs that waited too long, slices of finished jobs for so many seconds, then old rows of the other tables."""
    began, jobs, held, more = clock(), 0, 0, False
    try:
        held = store.bury_held(settings.keep_held, SLICE, owner)
        first = before(store, settings)
        while True:
            beat()
            deleted = store.prune(settings.keep_done, settings.keep_dead, SLICE, before=first)
            jobs, more = jobs + deleted, deleted == SLICE
            if not more or clock() - began >= SECONDS:
                break
        longest = max(settings.keep_done, settings.keep_dead)
        store.prune_others(longest, max(YEAR, 2 * (longest + settings.keep_held)), SLICE)
        while (turns := store.prune_quotas(SLICE)) and clock() - began < SECONDS:
            beat()
        more = more or turns
    except ConfigurationError as error:  # no right to DELETE: the work is done all the same
        return Pruned(jobs, held, more=False, trouble=str(error))
    except OSError as error:
        return Pruned(jobs, held, more=False, trouble=unwritable(error))
    return Pruned(jobs, held, more or held == SLICE)


def unwritable(error: OSError) -> str:
    """What is wrong with the archive, and what to do."""
    return f"the archive {error.filename} cannot be written ({error.strerror}): free space or mend its rights; nothing is deleted until then"
