"""Clocks that jump: the host's, the database's, and a host that slept. Only the database's clock decides; the host's only stamps the log."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from parts import Site, eventually, left_over, made_store, missing

from asyncsend import status
from asyncsend.budget import Budget
from asyncsend.errors import LeaseLost
from asyncsend.job import NewJob
from asyncsend.log import Log
from asyncsend.run import run
from asyncsend.status import BEAT, LEASE, MARGIN, HeldElsewhere

TASKS = """
import os, select
from asyncsend import task
HERE = os.path.dirname(os.path.abspath(__file__))
def note(line):
    with open(os.path.join(HERE, "effects"), "a") as file:
        file.write(line + "\\n")
@task
def mark(name): note(name)
@task(timeout=30)
def wait(name):
    note(name)
    while not os.path.exists(os.path.join(HERE, "go-" + name)):
        select.select([], [], [], 0.01)  # time.sleep fails under libfaketime once the clock has stepped
"""
DAY = 86400


@pytest.fixture
def shop(tmp_path, mysql_url):
    made_store(mysql_url).close()
    site = Site(tmp_path / "home", mysql_url)
    site.tasks(TASKS)
    return site


@pytest.fixture
def host_clock(shop):
    """A function that sets the clock of the site's host so many seconds off, also under a run that is at work."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        missing("libfaketime", "run tests/install-servers.sh")
    offset = shop.home / "clock"

    def off(seconds: int) -> None:
        new = offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}s")
        new.rename(offset)

    off(0)
    # as a real step of the clock: wall time jumps, monotonic and boot time do not
    shop.environment |= {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return off


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


# ── the host's clock ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("off", [-DAY, DAY])
def test_a_host_a_day_off_runs_what_is_due_nothing_early_nothing_late_and_stamps_its_own_time(shop, host_clock, off):
    host_clock(off)
    shop.insert("mark", '{"name":"due"}')
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, run_at) VALUES ('mark', '{\"name\":\"early\"}', NOW(6) + INTERVAL 1 HOUR)")
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, expires_at) VALUES ('mark', '{\"name\":\"fresh\"}', NOW(6) + INTERVAL 1 HOUR)")
    shop.sql("INSERT INTO asyncsend_jobs (task, payload, expires_at) VALUES ('mark', '{\"name\":\"stale\"}', NOW(6) - INTERVAL 1 HOUR)")
    shop("enqueue", "mark", '{"name":"cli"}')
    shop("enqueue", "mark", '{"name":"cli later"}', "--delay", "1h")
    shop.quiet("run")
    assert effects(shop) == ["due", "fresh", "cli"]
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() + off))
    assert re.findall(r"^\S+", shop.log(), re.MULTILINE).count(day) == len(shop.log().splitlines())
    facts = json.loads(shop("status", "--json").stdout)
    assert (facts["verdict"], facts["cron_missing"]) == ("ok", False)
    shop.quiet("run")
    assert effects(shop) == ["due", "fresh", "cli"]


def test_a_host_clock_that_steps_during_a_run_ends_no_lease_and_no_job(shop, host_clock):
    shop.prelude = "import asyncsend.status as s; s.BEAT = 0.05"
    names = ["a", "b", "c"]
    for name in names:
        shop.insert("wait", json.dumps({"name": name}))
    at_work = shop.start("run")
    store = shop.store()
    for name, off in zip(names, (DAY, -DAY, 0), strict=True):
        eventually(lambda name=name: name in effects(shop), what=f"job {name}")
        host_clock(off)
        beats = store._rows("SELECT beat FROM asyncsend_status")[0][0]
        eventually(lambda beats=beats: store._rows("SELECT beat FROM asyncsend_status")[0][0] > beats + 1, 5, what="beats after the step")
        (shop.home / f"go-{name}").touch()
    assert at_work.communicate(timeout=60) == (b"", b"")
    assert (at_work.returncode, effects(shop)) == (0, names)
    assert shop.rows("state, attempts, crashes") == [("done", 1, 0)] * 3
    assert [(row.stopped, row.counts["late"]) for row in store.runs(5)] == [("empty", 0)]
    store.close()
    assert "lease-lost" not in shop.log()
    assert all(float(seconds) < 30 for seconds in re.findall(r"event=job-done .*seconds=(\S+)", shop.log())), "durations are monotonic"


def test_a_run_killed_under_one_clock_is_taken_over_at_once_under_another(shop, host_clock):
    shop.insert("wait", '{"name":"a"}')
    shop.insert("mark", '{"name":"b"}')
    host_clock(DAY)
    victim = shop.start("run")
    eventually(lambda: effects(shop), what="the job")
    victim.kill()
    victim.communicate(timeout=60)
    eventually(lambda: not left_over(shop), what="the death of the worker")
    (shop.home / "go-a").touch()
    host_clock(-DAY)
    shop.quiet("run")
    assert effects(shop) == ["a", "a", "b"]
    assert shop.rows("state, crashes") == [("done", 1), ("done", 0)]


# ── the database's clock ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_clock_that_steps_moves_leases_by_the_step_and_the_fence_holds(store, clock):
    clock.set(1_800_000_000)
    holder = status.take(store, "lock-1")
    store.insert([NewJob("mark", "{}", "a")])
    [job] = store.claim(["default"], 1, "ab" * 16, 1, holder.owner)
    clock.forward(-DAY)
    with pytest.raises(HeldElsewhere):
        status.take(store, "lock-2")
    assert store.beat("default", holder.owner, LEASE), "the beat sets the lease right again"
    clock.forward(LEASE + 1)
    other = status.take(store, "lock-2")
    from asyncsend.outcome import Settlement, finish

    assert store.settle([Settlement(job.id, job.token, finish())], owner=holder.owner).late == (job.id,)
    holder.doubt()
    with pytest.raises(LeaseLost):
        holder.beat_if_due()
    clock.forward(-2 * DAY)
    again = status.take(store, "lock-2")
    assert again.seen.owner == other.owner, "with the same lock nobody waits, whatever the clock says"


def test_a_database_clock_that_steps_back_keeps_jobs_until_their_time_and_loses_none(store, clock):
    clock.set(1_800_000_000)
    store.insert([NewJob("mark", "{}", "now"), NewJob("mark", "{}", "later", delay=60)])
    clock.forward(-3600)
    assert store.claim(["default"], 9, "ab" * 16, 1) == []
    clock.forward(3600 + 61)
    assert [job.uid for job in store.claim(["default"], 9, "cd" * 16, 1)] == ["now", "later"]


# ── a host that slept ────────────────────────────────────────────────────────────────────────────────────────────────


class Slept:
    """The boot clock of a host that is suspended for so long, on demand."""

    def __init__(self):
        self.more = 0.0

    def __call__(self) -> float:
        return status.boot_clock() + self.more


def test_the_lease_is_measured_by_a_clock_that_counts_while_the_host_sleeps():
    assert abs(status.boot_clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
    uptime = float(Path("/proc/uptime").read_text().split()[0])  # includes the time asleep
    assert abs(status.boot_clock() - uptime) < 60


def test_a_holder_that_slept_asks_before_anything_else_and_starts_nothing_meanwhile(store):
    host = Slept()
    holding = status.take(store, "lock-1", host)
    assert holding.valid_until <= host() + LEASE - MARGIN
    assert not holding.beat_if_due()
    host.more = BEAT + 1
    assert holding.beat_if_due()
    host.more += LEASE
    assert host() > holding.valid_until, "no effect may start any more"
    assert holding.beat_if_due(), "nobody took the row: it goes on"
    assert host() < holding.valid_until


@pytest.mark.parametrize("taken", [False, True])
def test_a_run_whose_host_slept_past_the_lease_goes_on_only_if_nobody_took_over(shop, tmp_path, monkeypatch, taken):
    monkeypatch.setattr(os, "environ", {**os.environ, **shop.environment})
    host = Slept()
    for name in ("a", "b"):
        shop.insert("wait", json.dumps({"name": name}))
    woken = []

    def watch(_report, _waiting):
        if effects(shop) == ["a"] and not woken:
            woken.append(True)
            host.more = 10 * LEASE
            if taken:
                shop.sql("UPDATE asyncsend_status SET owner = 'ffffffffffffffffffffffffffffffff', lock_id = 'other', generation = generation + 1")
            (shop.home / "go-a").touch()
            (shop.home / "go-b").touch()

    log = Log(tmp_path / "log")
    store = shop.store()
    report = run(store, shop.settings(), log, Budget(time.monotonic, 50), clock=host, watch=watch)
    log.close()
    store.close()
    assert woken, (tmp_path / "log").read_text()
    assert report.stopped == ("lease-lost" if taken else "empty")
    assert [state for (state,) in shop.rows("state")] == (["running"] * 2 if taken else ["done"] * 2)
    if not taken:
        assert effects(shop) == ["a", "b"]


def test_a_run_stopped_past_its_lease_starts_nothing_after_it_wakes(shop):
    """SIGSTOP of the run, as a host does that freezes accounts: its worker sees by itself that the time is over."""
    import signal

    shop.prelude = "import asyncsend.status as s; s.LEASE, s.BEAT, s.MARGIN = 1.0, 0.2, 0.5"
    quick = [f"q{number}" for number in range(8)]  # after these the worker is handed more than one job at a time
    for name in quick:
        shop.insert("mark", json.dumps({"name": name}))
    for name in ("a", "b"):
        shop.insert("wait", json.dumps({"name": name}))
    (shop.home / "go-b").touch()
    at_work = shop.start("run")
    eventually(lambda: effects(shop) == [*quick, "a"], what="the first of the two")
    at_work.send_signal(signal.SIGSTOP)
    store = shop.store()
    eventually(lambda: not store.standing("default").alive, what="the end of the lease")
    other = status.take(store, "another lock")
    ended = re.compile(rb" D \d+ ")
    journal = shop.settings().journal_path
    done = len(ended.findall(journal.read_bytes()))
    (shop.home / "go-a").touch()
    eventually(lambda: len(ended.findall(journal.read_bytes())) > done, what="the end of the first")  # the worker goes on while its run is stopped
    at_work.send_signal(signal.SIGCONT)
    assert at_work.communicate(timeout=60) == (b"", b"")
    assert at_work.returncode == 0
    assert effects(shop) == [*quick, "a"]
    assert [state for (state,) in shop.rows("state", "task = 'wait'")] == ["running"] * 2, "none of its writes is accepted"
    assert store.beat("default", other.owner, LEASE)
    store.close()


def test_the_clock_fixture_really_moves_the_hosts_clock(shop, host_clock):
    host_clock(DAY)
    said = subprocess.run(["date", "+%s"], env=shop.environment, capture_output=True, text=True, check=True).stdout
    assert int(said) - time.time() > DAY - 600
