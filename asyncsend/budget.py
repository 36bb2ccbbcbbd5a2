"""How much one run may still do: time, jobs, and whether the next job would fit. Knows nothing of the database."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]


class Budget:
    """Says when to stop claiming and why; `clock` is monotonic seconds, `max_time` counts from the moment this is made."""

    def __init__(self, clock: Clock, max_time: float, max_jobs: int | None = None) -> None:
        self.clock = clock
        self.max_time = max_time
        self.max_jobs = max_jobs
        self.started = clock()
        self.taken = 0
        self.stop_asked: str | None = None  # the name of the signal that asked us to end
        self._slowest = 0.0

    @property
    def left(self) -> float:
        """Seconds until max_time; may be negative."""
        return self.max_time - (self.clock() - self.started)

    def took(self, seconds: float) -> None:
        """Remember how long a job took: the next one is expected to need as much, unless shorter ones follow."""
        self._slowest = max(seconds, self._slowest * 0.9 + seconds * 0.1)

    def reason_to_stop(self) -> str | None:
        """`sigterm`, `max-jobs`, `max-time` or `no-room` (the next job would not fit), or None while there is room."""
        if self.stop_asked:
            return self.stop_asked
        if self.left <= 0:
            return "max-time"
        if self._slowest > self.left:
            return "no-room"
        if self.max_jobs is not None and self.taken >= self.max_jobs:
            return "max-jobs"
        return None

    def room(self, wanted: int) -> int:
        """How many jobs may be claimed, at most `wanted`."""
        return wanted if self.max_jobs is None else max(0, min(wanted, self.max_jobs - self.taken))
