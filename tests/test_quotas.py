"""Quotas: no window ever holds more than it may, hardly anything is left unused, and whoever is urgent has a turn."""

import itertools
import json
import random

import pytest

from asyncsend import outcome as outcomes
from asyncsend import producer, quotas
from asyncsend.config import load
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.outcome import Settlement
from asyncsend.quotas import Meter, Window, quota
from asyncsend.store import open_store
from asyncsend.store.connection import ConnectionLost
from asyncsend.store.rows import Turn
from asyncsend.turns import limit_named, limits_of
from tests.parts import made_store

HOUR = 3600.0
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("10/min, 200/hour, 1000/day", [(10, 60), (200, 3600), (1000, 86400)]),
        ("1 per 6s", [(1, 6)]), ("25/5min", [(25, 300)]), ("100 / 30 minutes", [(100, 1800)]), ("3/HOUR", [(3, 3600)]), ("2 per 2 days", [(2, 172800)]),
        ("dreamhost", [(100, 3600)]), (" HostGator ", [(500, 3600), (1, 8)]), ("", []),
    ],
)  # fmt: skip
def test_a_limit_means_its_windows(text, windows):
    assert list(quota(text)) == [Window(number, float(seconds)) for number, seconds in windows]


@pytest.mark.parametrize("text", ["10", "0/hour", "-1/hour", "10/fortnight", "ten/hour", "10/0min", "1/40days", "10/min 20/hour", "nohost", "1e3/day", "10//min"])
def test_what_is_no_limit_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ValueError, match=r"write 10/min, 200/hour, 1000/day or 1 per 6s"):
        quota(text)


@pytest.mark.parametrize("text", [*quotas.PRESETS.values(), "1/day", "7 per 90s"])
def test_a_limit_is_spoken_in_words_that_mean_the_same(text):
    assert quota(quotas.spoken(quota(text))) == quota(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [("ASYNCSEND_EMAIL_LIMIT", "lots"), ("ASYNCSEND_DOMAIN_LIMIT", "gmail.com 20/min"), ("ASYNCSEND_DOMAIN_LIMIT", "*: "), ("ASYNCSEND_EMAIL_FAILURES", "51/hour"), ("ASYNCSEND_EMAIL_FAILURES", "3/hour, 5/day"),
     ("ASYNCSEND_RESERVE", "x"), ("ASYNCSEND_RESERVE", "100%"), ("ASYNCSEND_WEBHOOK_LIMIT", "api.example.com:8443"), ("ASYNCSEND_QUIET_HOURS", "newsletter: 25:00-08:00"), ("ASYNCSEND_QUIET_HOURS", "22:00"), ("ASYNCSEND_QUIET_HOURS", "a: 8-8")],
)  # fmt: skip
def test_a_setting_that_is_no_limit_is_named_with_what_to_write(name, text):
    with pytest.raises(ConfigurationError, match=f"sets {name}="):
        load({"ASYNCSEND_HOME": "/nowhere", name: text})


@pytest.mark.parametrize(
    ("text", "url", "limit"),
    [("api.*: 5/min", "https://API.example.com/in", "5/min"), ("api.example.com: 5/min; *: 1 per 6s", "https://api.example.com:8443/", "1 per 6s"),
     ("api.example.com:8443: 5/min; *: 1 per 6s", "https://api.example.com:8443/", "5/min"), ("[2001:db8::1]: 5/min", "http://[2001:DB8::1]/", "5/min"),
     ("api.example.com: 5/min", "https://other.example.com/", ""), ("127.0.0.1:8*: 5/min", "http://127.0.0.1:8080/", "5/min")],
)  # fmt: skip
def test_the_limit_of_a_webhook_is_that_of_its_host_with_its_port(text, url, limit):
    settings = load({"ASYNCSEND_HOME": "/nowhere", "ASYNCSEND_DATABASE_URL": "sqlite:///x", "ASYNCSEND_WEBHOOK_LIMIT": text})
    found = limits_of(settings, Job(1, "webhook", json.dumps({"url": url})))
    assert list(found.values()) == ([quota(limit)] if limit else [])
    assert all(limit_named(settings, name) == windows for name, windows in found.items())


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────


class Channel:
    """A channel as the store would see it, in memory: what was sent, and what is promised."""

    def __init__(self, limit, reserve=0.0):
        self.windows, self.reserve, self.sent, self.paced, self.promised = quota(limit), reserve, [], 0.0, {}

    def meter(self, now, catch_up=60.0):
        since = [[at for at in self.sent if at > now - window.seconds] for window in self.windows]
        return Meter(
            self.windows, now, [len(times) for times in since], [[at + window.seconds for at in times] for times, window in zip(since, self.windows, strict=True)],
            self.paced, dict(self.promised), self.reserve, catch_up,
        )  # fmt: skip

    def ask(self, now, number, queue="default", *, urgent=False, again=False, catch_up=60.0):
        """Of so many jobs: how many may go now, and when the others may expect to."""
        meter, going, promises = self.meter(now, catch_up), 0, []
        for _ in range(number):
            if meter.free(urgent=urgent):
                meter.take()
                going += 1
            else:
                promises.append(meter.promise(queue, urgent=urgent, again=again))
        self.sent += [now] * going
        self.paced, self.promised = meter.paced, meter.promised
        return going, promises


def most_in(times, seconds):
    """The fullest window of this length."""
    times = sorted(times)
    return max((sum(1 for other in times if at <= other < at + seconds) for at in times), default=0)


@pytest.mark.parametrize(
    ("limit", "busy"), [("200/hour", 50), ("10/min, 200/hour", 50), ("10/min, 200/hour, 1000/day", 50), ("25/5min", 50), ("8/hour", 50), ("1 per 6s", 59)]
)  # what is spaced strictly cannot be made up for: a run has to be there
def test_while_jobs_wait_a_limit_is_never_exceeded_and_hardly_anything_is_left_unused(limit, busy):
    channel, chance = Channel(limit), random.Random(limit)
    tightest = max(window.apart for window in channel.windows)
    length = 3 * 86400.0 if tightest > 60 else 5 * HOUR
    minute = 0.0
    while minute < length:  # a run each minute, now and then late or killed
        now = minute + chance.random() * 3 * (busy == 50)
        last = minute + (busy if chance.random() < 0.97 else chance.random() * busy)
        while now < last:
            _, promises = channel.ask(NOW + now, 12, again=True, catch_up=61.0)
            now = max(now + 0.1, min(promises) - NOW if promises else now)
        minute += 60
    for window in channel.windows:
        assert most_in(channel.sent, window.seconds) <= window.number
    assert len(channel.sent) >= 0.95 * length / tightest


def test_turns_are_spread_evenly_over_an_hour_and_not_taken_all_at_once():
    channel = Channel("200/hour")
    going, promises = channel.ask(NOW, 500)
    assert going == 4, "what the minute before left over"
    assert {round(later - earlier) for earlier, later in itertools.pairwise(promises[:190])} == {18}
    assert most_in(promises[:190], 60) <= 4


def test_a_host_whose_cron_comes_seldom_makes_up_for_the_time_between():
    channel = Channel("200/hour")
    channel.ask(NOW - 900, 1, catch_up=900)
    assert channel.ask(NOW, 500, catch_up=900)[0] == 51, "fifty, and the one of now"


def test_a_window_longer_than_an_hour_is_counted_and_not_spread():
    assert Channel("1000/day").ask(NOW, 2000)[0] == 1000


def test_an_urgent_job_has_a_turn_at_once_while_a_newsletter_waits():
    channel = Channel("200/hour", reserve=0.03)
    for minute in range(70):
        channel.ask(NOW + 60 * minute, 500, "newsletter")
    assert channel.ask(NOW + 4170, 500, "newsletter")[0] == 0
    assert channel.ask(NOW + 4170, 6, "critical", urgent=True) == (6, [])
    for window in channel.windows:
        assert most_in(channel.sent, window.seconds) <= window.number


def test_a_second_newsletter_is_promised_the_turns_behind_the_first_and_another_queue_is_not():
    channel = Channel("60/min")
    first = channel.ask(NOW, 200, "newsletter")[1]
    assert channel.ask(NOW + 0.5, 10, "newsletter")[1][0] > first[-1]
    assert channel.ask(NOW + 0.5, 1, "default")[1][0] < first[3]


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


def claimed(store, number, token="1" * 32):
    store.insert([producer.new_job("email", {"to": "a@example.com"}) for _ in range(number)])
    return store.claim(["default"], number, token, 1)


def turns(store, jobs, limit="5/hour", urgent=False, owner=None):
    store.metered = True
    return store.turns([Turn(job.id, job.queue, urgent, ("email",)) for job in jobs], {"email": quota(limit)}, 0.0, 60.0, owner)


def going(waits):
    return sorted(job_id for job_id, wait in waits.items() if wait == 0)


def test_a_turn_is_taken_before_the_effect_counts_while_it_is_under_way_and_is_stamped_after_it(store, clock):
    clock.set(NOW)
    jobs = claimed(store, 9)
    first = going(turns(store, jobs, "5/day"))
    assert first == [job.id for job in jobs[:5]]
    clock.forward(3 * 86400)  # a job that takes three days
    assert going(turns(store, jobs[5:], "5/day")) == []
    store.settle([Settlement(job.id, job.token, outcomes.finish()) for job in jobs[:5]])
    clock.forward(86399)
    assert going(turns(store, jobs[5:], "5/day")) == []
    clock.forward(2)
    assert going(turns(store, jobs[5:], "5/day")) == [job.id for job in jobs[5:]]


@pytest.mark.parametrize(
    "untouched",
    [outcomes.release(), outcomes.snooze(9, "breaker-open"), outcomes.snooze(9, "quota"), outcomes.retry(9, "smtp-connect", "away")._replace(unsent=True), outcomes.bury("bad-payload", "no to")._replace(unsent=True)],
)
def test_a_turn_that_was_not_used_is_given_back(store, clock, untouched):
    clock.set(NOW)
    jobs = claimed(store, 2)
    assert going(turns(store, jobs, "1/day")) == [jobs[0].id]
    store.settle([Settlement(jobs[0].id, jobs[0].token, untouched)])
    assert going(turns(store, jobs[1:], "1/day")) == [jobs[1].id]


@pytest.mark.parametrize("failed", [outcomes.retry(9, "smtp-450", "no"), outcomes.bury("smtp-550", "no"), outcomes.hold("unknown", "?"), outcomes.release(crashed=True, reason="run-died")])
def test_a_failure_uses_up_its_turn(store, clock, failed):
    clock.set(NOW)
    jobs = claimed(store, 2)
    turns(store, jobs, "1/day")
    store.settle([Settlement(jobs[0].id, jobs[0].token, failed)])
    assert going(turns(store, jobs[1:], "1/day")) == []


def test_what_a_run_left_open_that_nobody_settles_is_counted_from_now_on(store, clock):
    clock.set(NOW)
    jobs = claimed(store, 2)
    turns(store, jobs[:1], "1/hour")
    store._write("UPDATE asyncsend_jobs SET state = 'cancelled' WHERE id = :id", id=jobs[0].id)
    store.tidy_quotas(None)
    clock.forward(HOUR - 1)
    assert going(turns(store, jobs[1:], "1/hour")) == []
    clock.forward(2)
    assert going(turns(store, jobs[1:], "1/hour")) == [jobs[1].id]


def test_two_runs_at_once_never_take_more_than_there_is(url, clock):
    """Two hosts, one of which has lost the status row and does not know it yet."""
    first, second = made_store(url), open_store(url, "asyncsend_")
    try:
        jobs = claimed(first, 40)
        taken = [job_id for number in range(8) for job_id in going(turns((first, second)[number % 2], jobs[number * 5 : number * 5 + 5], "12/day"))]
        assert len(taken) == 12
    finally:
        first.close()
        second.close()


def test_whoever_lost_the_status_row_takes_no_turns(store):
    jobs = claimed(store, 3)
    assert going(turns(store, jobs, owner="f" * 32)) == []
    assert store._rows("SELECT COUNT(*) FROM asyncsend_sends")[0][0] == 0


@pytest.mark.parametrize("lost", ["INSERT INTO asyncsend_sends", "UPDATE asyncsend_quotas SET paced = :paced", "COMMIT before", "COMMIT after"])
def test_turns_whose_reply_is_lost_are_taken_once(store, lost):
    jobs, execute, pending = claimed(store, 7), store._execute, [lost]

    def breaking(sql, params):
        words = lost.removesuffix(" before").removesuffix(" after")
        if pending and sql.startswith(words):
            pending.clear()
            if lost.endswith("after"):
                execute(sql, params)
            elif not hasattr(store, "options"):
                execute("ROLLBACK", {})
            raise ConnectionLost("2013")
        return execute(sql, params)

    store._execute = breaking
    taken = going(turns(store, jobs, "5/day"))
    assert not pending
    assert taken == [job.id for job in jobs[:5]]
    assert store._rows("SELECT COUNT(*) FROM asyncsend_sends")[0][0] == 5


def test_a_job_takes_no_turn_anywhere_while_one_of_its_channels_is_full(store):
    store.metered = True
    jobs, limits = claimed(store, 3), {"email": quota("9/day"), "to:slow.example": quota("1/day")}
    ways = [("email", "to:slow.example"), ("email", "to:slow.example"), ("email",)]
    waits = store.turns([Turn(job.id, "default", False, way) for job, way in zip(jobs, ways, strict=True)], limits, 0.0, 60.0, None)
    assert going(waits) == [jobs[0].id, jobs[2].id]
    assert store._rows("SELECT channel, COUNT(*) FROM asyncsend_sends GROUP BY channel ORDER BY channel") in ([("email", 2), ("to:slow.example", 1)], [(b"email", 2), (b"to:slow.example", 1)])


def rows_of(store, table):
    return store._rows(f"SELECT COUNT(*) FROM asyncsend_{table}")[0][0]


def pruned(store, limit=500):
    """How often it takes until nothing is left to do."""
    return next(number for number in range(1, 20) if not store.prune_quotas(limit))


@pytest.mark.parametrize(("limit", "days"), [("5/hour", 1), ("5/hour, 20/day", 2), ("5/hour, 90/7days", 8)])
def test_turns_and_their_channel_are_forgotten_a_day_after_the_longest_window_that_counts_them(store, clock, limit, days):
    clock.set(NOW)
    jobs = claimed(store, 1)
    turns(store, jobs, limit)
    store.settle([Settlement(job.id, job.token, outcomes.finish()) for job in jobs])
    clock.forward(days * 86400)
    pruned(store)
    assert (rows_of(store, "sends"), rows_of(store, "quotas")) == (1, 1)
    clock.forward(2 * HOUR)
    pruned(store)
    assert (rows_of(store, "sends"), rows_of(store, "quotas")) == (0, 0)


def test_what_is_forgotten_goes_in_slices_and_what_still_counts_stays(store, clock):
    clock.set(NOW)
    for day, number in ((0, 7), (3, 2)):
        clock.set(NOW + day * 86400)
        jobs = claimed(store, number, f"{day}" * 32)
        store.metered = True
        limits = {f"to:{job.id}.example": quota("1/hour") for job in jobs}
        store.turns([Turn(job.id, "default", False, (f"to:{job.id}.example",)) for job in jobs], limits, 0.0, 60.0, None)
        store.settle([Settlement(job.id, job.token, outcomes.finish()) for job in jobs])
    assert pruned(store, 3) == 5, "three of turns, the last of them with three channels, and two more"
    assert (rows_of(store, "sends"), rows_of(store, "quotas")) == (2, 2)


def test_a_channel_with_promises_ahead_or_a_turn_under_way_is_not_forgotten(store, clock):
    clock.set(NOW)
    jobs = claimed(store, 3)
    turns(store, jobs[:1], "1/hour")
    store._write("INSERT INTO asyncsend_quotas (channel, promised) VALUES ('sms', :promised)", promised=json.dumps({"low": NOW + 40 * 86400}))
    clock.forward(35 * 86400)
    store.prune_quotas(500)
    assert sorted(store.metered_channels()) == ["email", "sms"]
    store._write("UPDATE asyncsend_jobs SET state = 'cancelled' WHERE id = :id", id=jobs[0].id)
    store.tidy_quotas(None)
    clock.forward(35 * 86400)
    store.prune_quotas(500)
    assert store.metered_channels() == []


def test_a_channel_in_which_a_turn_is_taken_while_it_is_being_forgotten_stays(store, clock):
    clock.set(NOW)
    jobs = claimed(store, 2)
    turns(store, jobs[:1], "1/hour")
    store.settle([Settlement(jobs[0].id, jobs[0].token, outcomes.finish())])
    clock.forward(40 * 86400)
    write = store._write

    def meanwhile(sql, **params):
        if sql.startswith("DELETE FROM asyncsend_quotas"):
            store._write = write
            assert going(turns(store, jobs[1:], "1/hour")) == [jobs[1].id]
        return write(sql, **params)

    store._write = meanwhile
    store.prune_quotas(500)
    assert (rows_of(store, "sends"), rows_of(store, "quotas")) == (1, 1)


def test_a_channel_whose_row_another_run_makes_in_the_same_moment_is_that_row(store):
    jobs, write, seen = claimed(store, 3), store._write, []

    def overtaken(sql, **params):
        if sql.startswith("INSERT INTO asyncsend_quotas") and not seen:
            seen.append(write("INSERT INTO asyncsend_quotas (channel) VALUES ('email')"))
        return write(sql, **params)

    store._write = overtaken
    assert going(turns(store, jobs, "2/day")) == [job.id for job in jobs[:2]]
    assert seen
    assert rows_of(store, "quotas") == 1


def test_whoever_loses_the_status_row_between_two_channels_has_taken_no_turn_in_either(store):
    """The fence stands in each INSERT: what went into the first channel is rolled back with it."""
    store._write("UPDATE asyncsend_status SET owner = :owner WHERE scope = 'default'", owner="a" * 32)
    store.metered = True
    jobs, execute, lost = claimed(store, 2), store._execute, []

    def taken_over(sql, params):
        if sql.startswith("INSERT INTO asyncsend_sends") and params["name"] == "to:slow.example":
            lost.append(params["name"])
            params = params | {"owner": "b" * 32}  # nobody's, as if ours were gone by now
        return execute(sql, params)

    store._execute = taken_over
    limits = {"email": quota("9/day"), "to:slow.example": quota("9/day")}
    waits = store.turns([Turn(job.id, "default", False, tuple(limits)) for job in jobs], limits, 0.0, 60.0, "a" * 32)
    assert lost
    assert going(waits) == []
    assert rows_of(store, "sends") == 0
