"""Durations and instants as people write them, and times as people read them."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsend import times

PARIS = ZoneInfo("Europe/Paris")
SOME_TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2036, 12, 31))
SOME_ZONES = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"])


@pytest.fixture(params=["Europe/Paris", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"])
def host_zone(request, monkeypatch):
    """The host lies in this zone, for the C library too."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1d2h3m4s", 93784), (" 5 M ", 300), ("0", 0), ("0.5", 0.5), ("36500d", times.LONGEST)],
)
def test_a_duration_is_the_seconds_it_says(text, seconds):
    assert times.duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "s", "5x", "-5", "-5m", "5m5", "5m1h", "1.5h", "five", "1e3", "inf", "nan", "1m1m", "５", "٣m", "5m\x00", "'; DROP", "36501d", "9" * 5000, "9" * 400 + "d"])
def test_what_is_no_duration_is_refused_with_a_sentence_that_shows_how(text):
    with pytest.raises(ValueError, match=r"write 90, 90s, 5m|at most 36500d") as refused:
        times.duration(text)
    assert len(str(refused.value)) < 150


@given(st.integers(0, 9999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_the_parts_of_a_duration_add_up(days, hours, minutes, seconds):
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    assert times.duration(f"{days}d{hours}h{minutes}m{seconds}s") == expected
    assert times.duration(str(int(expected))) == expected


@given(st.text(max_size=30))
def test_any_text_is_a_duration_from_zero_to_a_hundred_years_or_a_value_error(text):
    try:
        seconds = times.duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= times.LONGEST


# ── instants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-01 09:00", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-07-01 09:00", datetime(2026, 7, 1, 7, tzinfo=UTC)),
        ("2026-12-01T09:00:00+01:00", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-12-01T09:00Z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        (" 2026-12-01 ", datetime(2026, 11, 30, 23, tzinfo=UTC)),
        ("2026-12-01 09:00:00.5-03:30", datetime(2026, 12, 1, 12, 30, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_without_offset_is_read_in_the_zone_and_one_with_offset_is_what_it_says(text, expected):
    assert times.instant(text, PARIS) == expected.timestamp()


@pytest.mark.parametrize("text", ["", "tomorrow", "09:00", "2026-13-01", "2026-02-30", "2026-12-01 25:00", "1.12.2026", "2026-12-01 09:00 Paris", "\x00"])
def test_what_is_no_time_is_refused_with_a_sentence_that_shows_how(text):
    with pytest.raises(ValueError, match="write 2026-12-01 09:00"):
        times.instant(text, PARIS)


@pytest.mark.parametrize("text", ["0001-01-01 00:00", "9999-12-31 23:59:59", "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00", "1970-01-01"])
def test_the_ends_of_the_calendar_give_a_number_or_a_value_error(text):
    for zone in (PARIS, times.zone(None), UTC):
        try:
            assert isinstance(times.instant(text, zone), float)
        except ValueError as error:
            assert "too far away" in str(error)


@given(SOME_TIMES, SOME_ZONES)
def test_an_instant_written_with_its_offset_is_read_back_exactly(moment, name):
    aware = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(name))
    assert times.instant(aware.isoformat(), PARIS) == aware.timestamp()


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_value_error(text):
    try:
        assert isinstance(times.instant(text, PARIS), float)
    except ValueError:
        pass


def test_the_hour_that_spring_skips_is_an_hour_later_on_the_clock():
    assert times.instant("2026-03-29 02:30", PARIS) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC).timestamp()


def test_the_hour_that_autumn_repeats_is_the_first_of_both():
    assert times.instant("2026-10-25 02:30", PARIS) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()


# ── zones ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Mars", "../../etc/passwd", "/etc/passwd", "Europe", "UTC\x00", "europe paris"])
def test_a_zone_this_host_does_not_know_is_refused_by_name(name):
    with pytest.raises(ValueError, match="use a name like Europe/Paris"):
        times.zone(name)


def test_the_host_s_zone_is_read_with_the_offset_of_the_day_and_not_of_today(host_zone):
    """In January a job for July 09:00 is wanted at 09:00 of July's clock."""
    for text in ("2026-01-15 09:00", "2026-07-15 09:00", "2026-03-29 02:30", "2026-10-25 02:30", "2026-11-01 01:30"):
        assert times.instant(text, times.zone(None)) == times.instant(text, ZoneInfo(host_zone)), text


def test_the_host_s_zone_shows_every_hour_of_a_year_as_the_zone_of_that_name_does(host_zone):
    named, host = ZoneInfo(host_zone), times.zone("")
    for hour in range(366 * 24):
        moment = datetime(2026, 1, 1, 0, 15, tzinfo=UTC) + timedelta(hours=hour)
        shown = moment.astimezone(host)
        assert (shown.replace(tzinfo=None), shown.utcoffset(), shown.tzname()) == (
            moment.astimezone(named).replace(tzinfo=None), moment.astimezone(named).utcoffset(), moment.astimezone(named).tzname(),
        )  # fmt: skip
        assert shown.timestamp() == moment.timestamp()


# ── times for people ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.04, "0.0 s"), (0.25, "0.2 s"), (9.5, "9.5 s"), (10, "10 s"), (45, "45 s"), (59.6, "1 min"), (60, "1 min"), (200, "3 min 20 s"), (3599.7, "1 h"),
        (7500, "2 h 5 min"), (86400, "1 d"), (6 * 86400 + 3600, "6 d 1 h"), (90061, "1 d 1 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_a_duration_is_spoken_in_two_units_at_most(seconds, said):
    assert times.spoken(seconds) == said


@given(st.floats(0, 1e9))
def test_a_spoken_duration_is_short_and_right_to_the_smaller_unit(seconds):
    said = times.spoken(seconds)
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = said.split()
    assert len(words) in (2, 4)
    meant = sum(float(amount) * units[unit] for amount, unit in zip(words[::2], words[1::2], strict=True))
    smaller = {"d": 3600, "h": 60, "min": 1, "s": 1}[words[1]]
    assert abs(meant - seconds) <= smaller


def test_a_time_is_shown_in_the_zone_that_was_asked_for():
    assert times.stamp(datetime(2026, 7, 1, 7, tzinfo=UTC), PARIS) == "2026-07-01 09:00:00 CEST"
    assert times.stamp(None, PARIS) == "-"


def test_a_time_without_a_zone_is_taken_to_be_utc():
    assert times.utc(datetime(2026, 7, 1)) == datetime(2026, 7, 1, tzinfo=UTC)
    assert times.utc(datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=2)))) == datetime(2026, 6, 30, 22, tzinfo=UTC)


def test_seconds_are_those_of_a_number_or_a_timedelta():
    assert (times.seconds_of(90), times.seconds_of(timedelta(minutes=1.5)), times.seconds_of(None)) == (90, 90.0, None)


def test_reading_a_duration_does_not_import_the_zone_database():
    code = "import sys; from asyncsend import times; times.duration('5m'); times.instant('2026-12-01', times.zone(None)); print('zoneinfo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True).stdout.strip() == "False"
