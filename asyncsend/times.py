"""Durations and instants as people write them: `90`, `5m`, `1h30m`; `2026-12-01 09:00`, `2026-12-01T09:00+01:00`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def duration(text: str) -> float:
    """Seconds in `text`: a bare number is seconds; `90s`, `5m`, `2h`, `1d` and sums like `1h30m` work. ValueError otherwise, or if negative."""
    text = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration: write 90, 90s, 5m, 2h, 1d or 1h30m")
    return float(sum(int(amount or 0) * unit for amount, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)))


def zone(name: str | None) -> tzinfo:
    """The time zone called `name`, the host's own for None. ValueError if this host has no such zone."""
    if not name:
        local = datetime.now().astimezone().tzinfo
        return local if local is not None else UTC
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
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=default_zone)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{text!r} lies too far away") from error


def spoken(seconds: float) -> str:
    """A duration for people, two units at most: `45 s`, `3 min 20 s`, `2 h 5 min`, `6 d 1 h`."""
    whole = round(max(0.0, seconds))
    if seconds < 10 and whole != seconds:
        return f"{max(0.0, seconds):.1f} s"
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
