"""Durations and instants as people write them: `90`, `5m`, `1h30m`; `2026-12-01 09:00`, `2026-12-01T09:00+01:00`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, tzinfo

# A MySQL TIMESTAMP ends on 2038-01-19 (manual, "The DATE, DATETIME, and TIMESTAMP Types"); a year of room is left for retries.
LAST_INSTANT = 2114380800.0  # 2037-01-01T00:00:00Z
LONGEST = 36500 * 86400  # seconds: 100 years; the database's clock minus this is still a time every server knows
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")


def boot_clock() -> float:
    """Seconds since the machine started, those it slept included: the same in every process of it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def duration(text: str) -> float:
    """Seconds in `text`: a bare number is seconds; `90s`, `5m`, `2h`, `1d` and sums like `1h30m` work. ValueError otherwise, or over 100 years."""
    text = text.strip().lower().replace(" ", "")
    shown = text if len(text) <= 40 else text[:39] + "…"
    match = _DURATION.fullmatch(text)
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    elif text and match is not None:
        seconds = sum(float(amount or 0) * unit for amount, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
    else:
        raise ValueError(f"{shown!r} is not a duration: write 90, 90s, 5m, 2h, 1d or 1h30m")
    if seconds > LONGEST:
        raise ValueError(f"{shown!r} is too long: at most 36500d, which is 100 years")
    return seconds


class HostZone(tzinfo):
    """
    The host's own zone, with the offset it has at each time, summer and winter.

    `datetime.now().astimezone().tzinfo` would be today's offset for all the year: a job for July, enqueued in January, an hour off.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return (moment or datetime.now(UTC)).replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _moment: datetime | None) -> timedelta | None:
        return None  # the C library tells the offset only

    def tzname(self, moment: datetime | None) -> str | None:
        return (moment or datetime.now(UTC)).replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        here = local.replace(tzinfo=self)
        # The second of two equal times on the clock, in the hour that is lived through twice.
        return here if here.utcoffset() == local.utcoffset() else here.replace(fold=1)


def zone(name: str | None) -> tzinfo:
    """The time zone called `name`, the host's own for None. ValueError if this host has no such zone."""
    if not name:
        return HostZone()
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone is called {name!r} here: use a name like Europe/Paris") from error


def instant(text: str, default_zone: tzinfo) -> float:
    """Seconds since 1970 UTC of an ISO 8601 time; without an offset it is read in `default_zone`. ValueError otherwise."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: write 2026-12-01 09:00 or 2026-12-01T09:00:00+01:00") from error
    try:
        return (moment.replace(tzinfo=default_zone) if moment.tzinfo is None else moment).timestamp()
    except (OverflowError, ValueError, OSError) as error:  # near the years 1 and 9999
        raise ValueError(f"{text!r} lies too far away") from error


def hours(text: str) -> str:
    """
    `22:00-08:00`, as it is stored, of whatever means it. ValueError otherwise.

    >>> hours("22-8:30")
    '22:00-08:30'
    """
    found = re.fullmatch(r"([01]?[0-9]|2[0-3])(?::([0-5][0-9]))?\s*-\s*([01]?[0-9]|2[0-3])(?::([0-5][0-9]))?", text.strip())
    if not found or (found[1], found[2] or "00") == (found[3], found[4] or "00"):
        raise ValueError(f"{text[:40]!r} are no hours of the day: write 22:00-08:00")
    return f"{int(found[1]):02}:{found[2] or '00'}-{int(found[3]):02}:{found[4] or '00'}"


def left_of(hours: str, now: datetime, zone: tzinfo) -> float:
    """
    Seconds until these hours of the day end in this zone; 0 while they are not.

    >>> left_of("22:00-08:00", datetime(2026, 11, 21, 23, 30, tzinfo=UTC), UTC)
    30600.0
    """
    local = now.astimezone(zone)
    clock = local.strftime("%H:%M")
    begin, _, end = hours.partition("-")
    if not (begin <= clock < end if begin < end else clock >= begin or clock < end):
        return 0.0
    day = local.date() + timedelta(days=1 if clock >= end else 0)
    over = datetime.combine(day, datetime.strptime(end, "%H:%M").time(), tzinfo=zone)  # noqa: DTZ007 - the zone follows
    return max(1.0, over.timestamp() - now.timestamp())


def spoken(seconds: float) -> str:
    """A duration for people, two units at most: `45 s`, `3 min 20 s`, `2 h 5 min`, `6 d 1 h`."""
    seconds = max(0.0, seconds)
    whole = round(seconds)
    if seconds < 10 and whole != seconds:
        return f"{seconds:.1f} s"
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name} {rest} {small_name}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


def stamp(moment: datetime | None, into: tzinfo) -> str:
    """A time for people in the zone they asked for; `-` for None."""
    return moment.astimezone(into).strftime("%Y-%m-%d %H:%M:%S %Z") if moment else "-"


def utc(moment: datetime) -> datetime:
    """`moment` as an aware time in UTC; a time without a zone is taken to be UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def seconds_of(value: float | timedelta | None) -> float | None:
    """Seconds of a number or a timedelta; None stays None."""
    return value.total_seconds() if isinstance(value, timedelta) else value
