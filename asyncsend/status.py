"""The status row: who runs, believed only while its lease lives. One holder across all hosts; whoever lost it writes nothing more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncsend import schema, times
from asyncsend.errors import LeaseLost
from asyncsend.lock import is_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncsend.store import Standing, Store

SCOPE = "default"
# A lease outlives five lost beats; a run stops before an effect once it could not renew for LEASE - MARGIN seconds.
LEASE, BEAT, MARGIN = 120.0, 20.0, 30.0
boot_clock = times.boot_clock  # it goes on while the machine sleeps, so that a suspended run knows its lease is over


class HeldElsewhere(Exception):
    """Another host holds the status row and its lease is alive."""


def seen_from_here(store: Store, lock_path: Path) -> Standing:
    """
    How things stand, for people. A run of this host whose process is no more is not alive, though its lease keeps up the appearance for two minutes.

    A pid that the kernel has given out again keeps it up, too. Of a run on another host only the lease is known.
    """
    standing = store.standing(SCOPE)
    if standing.alive and standing.pid and standing.lock_id and is_ours(lock_path, standing.lock_id):
        try:
            os.kill(standing.pid, 0)
        except ProcessLookupError:
            return standing._replace(alive=False)
        except OSError:
            pass  # it lives, and is another user's
    return standing


class Holding:
    """The status row while it is ours; `asked_at`, by `clock`, is the moment before it was asked for."""

    def __init__(self, store: Store, owner: str, seen: Standing, clock: Callable[[], float], asked_at: float) -> None:
        self.store = store
        self.owner = owner
        self.seen = seen  # how things stood before
        self.generation = seen.generation + 1
        self.clock = clock
        self._renewed(asked_at)

    def beat_if_due(self) -> bool:
        """Renew the lease when it is time; True if it was renewed now. LeaseLost if the row is somebody else's, or may be."""
        now = self.clock()
        if now < self.next_beat:
            return False
        if not self.store.beat(SCOPE, self.owner, LEASE):
            raise LeaseLost("the status row belongs to another run now: this one stops, and nothing it still writes is accepted")
        self._renewed(now)
        return True

    def doubt(self) -> None:
        """A claim of ours was not ours any more: ask at once whether the row still is."""
        self.next_beat = 0.0

    def end(self, stopped: str, lock_held: int, *, pruned: bool, prune_error: str | None = None) -> bool:
        """Give the row back; False if it was no longer ours."""
        return self.store.end(SCOPE, self.owner, stopped, lock_held, pruned, self.generation, prune_error)

    def _renewed(self, asked_at: float) -> None:
        # Counted from before the question: the server's lease can only be longer than what we believe.
        self.valid_until = asked_at + LEASE - MARGIN  # by `clock`: no effect may start after it
        self.next_beat = asked_at + BEAT


def take(store: Store, lock_id: str, clock: Callable[[], float] = boot_clock) -> Holding:
    """
    Become the one run of all hosts. HeldElsewhere if a living run on another host is; ConfigurationError if the tables do not fit.

    A previous holder with our own lock_id is dead, for we hold its lock: its row is taken at once, no lease is waited for.
    """
    asked_at = clock()
    seen = store.standing(SCOPE)
    schema.verify(seen.schema_version)
    if seen.alive and seen.lock_id != lock_id:
        raise HeldElsewhere(f"{seen.host} pid {seen.pid} since {seen.started_at}")
    owner = os.urandom(16).hex()
    if not store.take(SCOPE, seen, owner, lock_id, os.uname().nodename, os.getpid(), LEASE):
        raise HeldElsewhere("another run was quicker")
    return Holding(store, owner, seen, clock, asked_at)
