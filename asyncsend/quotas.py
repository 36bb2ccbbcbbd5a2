"""
Quotas: how much may go through a channel in which time, and when the next of those who wait has its turn.

A window of 200/hour lets no more than 200 through within any hour, whenever that begins. Those that last an hour or less are spread
evenly: one turn every 18 seconds, and what the minutes without a run left over is made up for at the beginning of the next. Jobs of
urgent queues are not spread, and a small reserve is kept for them. All of it is arithmetic on times of the database's clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

QUOTA = "quota"  # the reason of a job that waits for its turn
QUIET = "quiet-hours"  # and of one whose batch is not sent at this time of the day
SPREAD = 3600.0  # seconds; longer windows are only counted, for a host that allows 1000 a day and 200 an hour means the hour's pace
LONGEST = 31 * 86400.0
CATCH_UP = 60.0  # seconds of turns that may be made up for at once, at least; more where cron comes seldom

# By the hosts' help pages and the lists of Noptin, phpList and Mailster (docs/channels.md).
PRESETS = {
    "1and1": "25/5min", "20i": "8000/day", "a2hosting": "100/hour", "accuweb": "500/hour", "all-inkl": "1000/10min", "bluehost": "500/hour",
    "cloud86": "250/hour", "domainindia": "200/hour", "dreamhost": "100/hour", "dreamhost-sendmail": "200/hour", "gigalayer": "100/hour",
    "hostgator": "500/hour, 1 per 8s", "hostinger": "10/min, 100/day", "hostinger-cpanel": "200/hour, 2400/day", "hostmedia": "200/hour", "luxsci": "500/day",
    "serverweb": "400/hour", "servage": "100/30min, 300/hour",
}  # fmt: skip
_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "m": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_ENTRY = re.compile(r"([1-9][0-9]{0,7})\s*(?:/|\s+per\s+)\s*([1-9][0-9]{0,4})?\s*([a-z]+?)s?", re.IGNORECASE)


class Window(NamedTuple):
    """At most `number` within any so many seconds."""

    number: int
    seconds: float

    def __str__(self) -> str:
        length = next((name for name, seconds in (("day", 86400), ("hour", 3600), ("min", 60), ("s", 1)) if self.seconds == seconds), None)
        return f"{self.number}/{length}" if length else f"{self.number} per {_spoken(self.seconds)}"

    @property
    def apart(self) -> float:
        """Seconds between two turns that are spread evenly."""
        return self.seconds / self.number


Quota = tuple[Window, ...]
Quotas = tuple[tuple[str, Quota], ...]  # name, or start of a name with *: its quota


def quota(text: str) -> Quota:
    """
    What `10/min, 200/hour, 1000/day`, `1 per 6s` or the name of a host stands for. ValueError otherwise.

    >>> quota("200/hour, 1 per 6s")
    (Window(number=200, seconds=3600.0), Window(number=1, seconds=6.0))
    """
    text = PRESETS.get(text.strip().lower(), text)
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        entry = _ENTRY.fullmatch(part)
        unit = _UNITS.get(entry[3].lower()) if entry else None
        if entry is None or unit is None or not 0 < int(entry[2] or 1) * unit <= LONGEST:
            raise ValueError(f"{part[:60]!r} is no limit: write 10/min, 200/hour, 1000/day or 1 per 6s, separated by commas, or one of {', '.join(PRESETS)}")
        found.append(Window(int(entry[1]), float(int(entry[2] or 1) * unit)))
    return tuple(found)


def quotas(text: str) -> Quotas:
    """`gmail.com: 20/min; *: 1 per 6s`: names, or starts of names before a *, and their quotas. ValueError otherwise."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, limit = part.rpartition(":")  # the last: a host may have a port, or be an address of IPv6
        if not colon or not re.fullmatch(r"[a-z0-9._:\[\]-]*\*?", name.strip(), re.IGNORECASE) or not name.strip() or not quota(limit):
            raise ValueError(f"{part[:60]!r} is not name: limit; write gmail.com: 20/min; *: 1 per 6s")
        found.append((name.strip().lower(), quota(limit)))
    return tuple(found)


def spoken(windows: Quota) -> str:
    """As it was written."""
    return ", ".join(map(str, windows))


def _spoken(seconds: float) -> str:
    return next(f"{seconds / length:g}{name}" for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)) if seconds % length == 0 or length == 1)


@dataclass
class Meter:
    """One channel at one moment: what is used of each of its windows, and who has a turn. `take` and `promise` go on from there."""

    windows: Quota
    now: float  # seconds since 1970, of the database
    used: Sequence[int]  # of each window, what is under way included
    leaving: Sequence[Sequence[float]]  # when the next of each window leave it, the first first
    paced: float = 0.0  # when the next turn is, by the even spread
    promised: dict[str, float] = field(default_factory=dict)  # queue: the last turn that one of its jobs was promised
    reserve: float = 0.0  # the share of each window that is kept for urgent queues
    catch_up: float = CATCH_UP
    taken: int = 0
    asked: int = 0  # promises

    def free(self, *, urgent: bool) -> bool:
        """Whether there is a turn now."""
        return (urgent or self.paced <= self.now) and all(used + self.taken < self._most(window, urgent) for window, used in zip(self.windows, self.used, strict=True))

    def take(self) -> None:
        """Use one."""
        self.taken += 1
        self.paced = max(self.paced, self.now - max(CATCH_UP, self.catch_up)) + self._apart

    def promise(self, queue: str, *, urgent: bool, again: bool = False) -> float:
        """
        When the next job of this queue may expect its turn. An estimate: those of earlier queues go before it.

        `again`: it had a promise, and another job was before it; it is not sent to the end of its queue for that.
        """
        at = self.now
        for window, used, leaving in zip(self.windows, self.used, self.leaving, strict=True):
            short = used + self.taken + self.asked - self._most(window, urgent)  # so many have to leave before
            if short >= 0:
                at = max(at, leaving[short] if short < len(leaving) else self.now + window.seconds)
        if not urgent:
            at = max(at, self.paced + self.asked * self._apart)
        self.asked += 1
        if not urgent and not again:
            at = max(at, self.promised.get(queue, 0.0) + self._apart)
            self.promised[queue] = at
        return max(at, self.now + 1.0)

    @property
    def idle(self) -> bool:
        """Whether there is a turn now, and jobs wait for later ones."""
        return self.free(urgent=False) and any(at > self.now for at in self.promised.values())

    @property
    def _apart(self) -> float:
        return max((window.apart for window in self.windows if window.seconds <= SPREAD), default=0.0)

    def _most(self, window: Window, urgent: bool) -> int:
        return window.number if urgent else window.number - int(window.number * self.reserve)
