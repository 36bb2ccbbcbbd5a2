"""A host's limits, end to end: real mail servers that enforce them, hours that pass in a moment, and runs that are killed."""

import asyncio
import json
import random
import signal
import threading
import time

import pytest

from asyncsend import status
from asyncsend.budget import Budget
from asyncsend.lock import HostLock
from asyncsend.log import Log
from asyncsend.run import run
from asyncsend.store.rows import Turn
from tests.parts import Site, eventually, made_store
from tests.quick_sink import Connection

NOW = 1_800_000_000.0


class Host:
    """A mail server that counts as shared hosts do, by the clock of the test; a quick one, for it takes thousands of mails."""

    def __init__(self, clock, *, an_hour=10**6, failures=10**6, bad=()):
        self.clock, self.an_hour, self.failures, self.bad = clock, an_hour, failures, set(bad)
        self.taken, self.failed, self.refused = [], [], []
        self.delivered = []
        host = self

        class Judged(Connection):
            def asked(self, recipient):
                return host.judge(recipient)

            def took(self, recipient):
                host.delivered.append(recipient)

        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(self.loop.create_server(Judged, "127.0.0.1", 0))
        self.url = f"smtp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def judge(self, address):
        now = self.clock()
        self.taken, self.failed = ([at for at in times if at > now - 3600] for times in (self.taken, self.failed))
        if len(self.taken) >= self.an_hour:
            self.refused.append(now)
            return f"550 Domain example.com has exceeded the max emails per hour ({self.an_hour}/{self.an_hour} (100%)) allowed.  Message discarded."
        if len(self.failed) >= self.failures:
            self.refused.append(now)
            return f"550 Domain example.com has exceeded the max defers and failures per hour ({self.failures}/{self.failures} (100%)) allowed.  Message discarded."
        if address in self.bad:
            self.failed.append(now)
            return "550 No Such User Here"
        self.taken.append(now)
        return "250 OK"

    def to(self):
        return sorted(self.delivered)

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.server.close()
        self.loop.close()


@pytest.fixture
def hosts():
    made = []

    def make(clock, **counts):
        made.append(Host(clock, **counts))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def hours(store, clock, tmp_path):
    """Let minutes pass, each with a run, until so many hours are over or nothing waits; skips those in which nothing is due."""
    clock.set(NOW)
    log = Log(tmp_path / "hours.log")

    def pass_by(settings, most=48.0, each=lambda: None):
        until = clock() + most * 3600
        while clock() < until:
            [[due]] = store._rows("SELECT UNIX_TIMESTAMP(MIN(run_at)) FROM asyncsend_jobs WHERE state = 'ready'")
            if due is None:
                break
            clock.set(max(clock() + 60, NOW + 60 * -(-(float(due) - NOW) // 60)))
            # One that is not metered goes on until nothing is due: each start costs as much as a dozen mails.
            run(store, settings, log, Budget(time.monotonic, 0.9 if settings.metered else 30.0))
            each()
        return (clock() - NOW) / 3600

    yield pass_by
    log.close()


def site_of(tmp_path, store, host, **environment):
    url = f"sqlite:///{store.path}" if hasattr(store, "path") else "mysql://u@h/d"  # the store itself is at hand; only the home and the way out count
    return Site(tmp_path / "home", url, ASYNCSEND_EMAIL_URL=host.url, **environment)


def mails(store, number, **columns):
    names = ["task", "payload", "run_at", *columns]
    with store._transaction():  # a thousand of them with a disk flush each would be half of the time of a test
        for position in range(number):
            store._write(
                f"INSERT INTO asyncsend_jobs ({', '.join(names)}) VALUES ('email', :payload, NOW(6), {', '.join(':' + name for name in columns)})".replace(", )", ")"),
                payload=json.dumps({"to": f"r{position:04}@example.com", "subject": "Hi", "text": "Hello"}), **columns,
            )  # fmt: skip


def states(store):
    return dict(store._rows("SELECT state, COUNT(*) FROM asyncsend_jobs GROUP BY state"))


def test_a_host_of_eight_an_hour_that_discards_the_ninth_gets_every_one_of_twenty_mails(store, clock, hours, hosts, tmp_path):
    host = hosts(clock, an_hour=8)
    mails(store, 20)
    took = hours(site_of(tmp_path, store, host).settings())
    assert (len(host.to()), len(set(host.to()))) == (20, 20)
    assert states(store) == {"done": 20}
    assert len(host.refused) <= took + 1, "at most one refused message per window"
    assert store._rows("SELECT MAX(attempts) FROM asyncsend_jobs") == [(1,)], "the refused were not charged"


@pytest.mark.parametrize("limit", ["8/hour", "6/hour", "3/min, 8/hour"])
def test_a_host_whose_limit_is_known_refuses_nothing(store, clock, hours, hosts, tmp_path, limit):
    host = hosts(clock, an_hour=8)
    mails(store, 20)
    hours(site_of(tmp_path, store, host, ASYNCSEND_EMAIL_LIMIT=limit).settings())
    assert (len(host.to()), host.refused, states(store)) == (20, [], {"done": 20})


@pytest.mark.parametrize(("workers", "number"), [("1", 1000), ("3", 300)])
def test_a_host_that_blocks_after_five_failures_an_hour_is_never_made_to(store, clock, hours, hosts, tmp_path, workers, number):
    chance = random.Random(workers)
    bad = [f"r{position:04}@example.com" for position in chance.sample(range(number), 20)]
    host = hosts(clock, failures=5, bad=bad)
    mails(store, number)
    most = []
    hours(site_of(tmp_path, store, host, ASYNCSEND_WORKERS=workers).settings(), each=lambda: most.append(len(host.failed)))
    assert host.refused == []
    assert max(most) <= 3 + int(workers) - 1
    assert states(store) == {"done": number - 20, "dead": 20}
    assert host.to() == sorted({f"r{position:04}@example.com" for position in range(number)} - set(bad))


def test_a_password_reset_does_not_wait_behind_a_newsletter(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    settings = site_of(tmp_path, store, host, ASYNCSEND_EMAIL_LIMIT="40/hour").settings()
    mails(store, 100, queue="low")
    hours(settings, most=1.5)
    before = len(host.to())
    assert 36 <= before <= 60
    store._write("INSERT INTO asyncsend_jobs (task, payload, run_at, queue) VALUES ('email', :payload, NOW(6), 'critical')", payload='{"to":"reset@example.com","subject":"x","text":"y"}')
    hours(settings, most=1 / 60)
    assert "reset@example.com" in host.to()


def test_one_domain_is_spaced_and_the_others_do_not_wait_for_it(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    settings = site_of(tmp_path, store, host, ASYNCSEND_DOMAIN_LIMIT="slow.example: 1 per 5min").settings()
    for to in ("a@slow.example", "B <b@SLOW.example>", "c@slow.example", "d@quick.example", "e@quick.example"):
        store._write("INSERT INTO asyncsend_jobs (task, payload, run_at) VALUES ('email', :payload, NOW(6))", payload=json.dumps({"to": to, "subject": "x", "text": "y"}))
    hours(settings, most=1 / 60)
    assert host.to() == ["a@slow.example", "d@quick.example", "e@quick.example"]
    assert hours(settings) >= 10 / 60
    assert len(host.to()) == 5


def test_a_channel_that_is_broken_charges_nobody_and_goes_on_when_it_is_mended(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    host.judge = lambda _address: "550 5.7.1 Relaying denied"
    settings = site_of(tmp_path, store, host).settings()
    mails(store, 5)
    hours(settings, most=3)
    assert states(store) == {"ready": 5}
    assert store._rows("SELECT MAX(attempts) FROM asyncsend_jobs") == [(0,)]
    [stopped] = store.stopped_channels()
    assert (stopped.name, "Relaying denied" in stopped.reason) == ("email", True)
    host.judge = lambda _address: "250 OK"
    hours(settings, most=3)
    assert states(store) == {"done": 5}
    assert store.channels() == []


@pytest.mark.parametrize(("bad", "limit"), [(1, ""), (2, ""), (2, "3/hour")])
def test_mails_that_a_policy_refuses_twice_are_dead_and_the_others_go(store, clock, hours, hosts, tmp_path, bad, limit):
    host = hosts(clock)
    host.judge = lambda address: "550 5.7.1 Message rejected due to content policy" if int(address[1:5]) < bad else "250 OK"
    mails(store, 6)
    hours(site_of(tmp_path, store, host, ASYNCSEND_EMAIL_LIMIT=limit).settings(), most=24)
    assert states(store) == {"done": 6 - bad, "dead": bad}


def policy_refuses(host, bad):
    """The first so many, by their number; and when the last of the others was taken, in hours."""
    last = [0.0]

    def judge(address):
        if int(address[1:5]) < bad():
            host.refused.append(address)
            return "550 5.7.1 Message rejected due to content policy"
        last[0] = (host.clock() - NOW) / 3600
        return "250 OK"

    host.judge = judge
    return last


@pytest.mark.parametrize(("bad", "good"), [(3, 60), (50, 300)])
def test_mails_that_a_policy_refuses_cost_the_others_the_same_time_however_many_they_are(store, clock, hours, hosts, tmp_path, bad, good):
    host = hosts(clock)
    last = policy_refuses(host, lambda: bad)
    mails(store, bad + good)
    hours(site_of(tmp_path, store, host).settings(), most=24)
    assert states(store) == {"done": good, "dead": bad}
    assert len(host.refused) <= 2 * bad + 4, "each is tried twice, and those once more that were claimed before anybody had passed"
    assert last[0] < 1.5, "one stop of an hour, and what was in line is sent"


def test_a_policy_that_refuses_everything_for_hours_kills_no_mail_and_tries_one_an_hour(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    policy_refuses(host, lambda: 10**4 if clock() < NOW + 5 * 3600 else 0)
    mails(store, 30)
    hours(site_of(tmp_path, store, host).settings(), most=24)
    assert len(host.refused) <= 5
    assert states(store) == {"done": 30}


def test_a_policy_that_begins_to_refuse_everything_after_it_had_let_others_pass_stops_the_channel_again(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    settings = site_of(tmp_path, store, host).settings()
    policy_refuses(host, lambda: 1)
    mails(store, 3)
    hours(settings, most=1.5)
    assert set(host.refused) == {"r0000@example.com"}
    host.refused.clear()
    policy_refuses(host, lambda: 10**4)
    mails(store, 30, queue="low")
    hours(settings, most=1 / 60)
    assert len(host.refused) <= 5
    [stopped] = store.stopped_channels()
    assert (stopped.name, stopped.until.timestamp() > clock() + 1800) == ("email", True)


def test_what_was_promised_later_turns_is_called_when_those_before_it_are_cancelled(store, clock, hours, hosts, tmp_path):
    host = hosts(clock)
    settings = site_of(tmp_path, store, host, ASYNCSEND_EMAIL_LIMIT="60/hour").settings()
    mails(store, 300, queue="low", batch_id="first")
    hours(settings, most=4 / 60)
    mails(store, 3, queue="low", batch_id="second")
    hours(settings, most=1 / 60)
    [[soonest]] = store._rows("SELECT MIN(UNIX_TIMESTAMP(run_at)) FROM asyncsend_jobs WHERE state = 'ready' AND batch_id = 'second'")
    assert float(soonest) > clock() + 3 * 3600
    store._write("UPDATE asyncsend_jobs SET state = 'cancelled', finished_at = NOW(6), unique_slot = NULL WHERE batch_id = 'first' AND state = 'ready'")
    log = Log(tmp_path / "early.log")
    for _ in range(10):
        clock.forward(60)
        run(store, settings, log, Budget(time.monotonic, 0.9))
    log.close()
    assert store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE state = 'done' AND batch_id = 'second'") == [(3,)]


def test_a_queue_and_a_batch_keep_their_quiet_hours_and_a_batch_its_deadline(store, clock, hours, hosts, tmp_path):
    clock.set(1_800_000_000 - 1_800_000_000 % 86400 + 23 * 3600)  # 23:00 UTC
    host = hosts(clock)
    settings = site_of(tmp_path, store, host, ASYNCSEND_QUIET_HOURS="low*: 22:00-08:00", ASYNCSEND_TIMEZONE="UTC").settings()
    store._write("INSERT INTO asyncsend_batches (uid, quiet) VALUES ('night', '22:00-07:00')")
    store._write("INSERT INTO asyncsend_batches (uid, deadline) VALUES ('late', FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1))")
    mails(store, 1, queue="low")
    mails(store, 1, batch_id="night")
    mails(store, 1, batch_id="late")
    mails(store, 1)
    log = Log(tmp_path / "night.log")
    for hour, sent in ((0, 1), (7.9, 1), (0.2, 2), (0.8, 2), (0.2, 3)):
        clock.forward(hour * 3600)
        run(store, settings, log, Budget(time.monotonic, 0.9))
        assert len(host.to()) == sent
    log.close()
    assert store._rows("SELECT reason FROM asyncsend_jobs WHERE state = 'cancelled'") in ([("deadline",)], [(b"deadline",)])


def test_a_run_stays_for_every_turn_that_comes_within_its_time_promised_by_itself_or_before(lite, smtp):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_EMAIL_LIMIT": "2 per 1s"}
    for number in range(4):
        lite.insert("email", json.dumps({"to": f"r{number}@example.com", "subject": "x", "text": "y"}))
    later = "UPDATE asyncsend_jobs SET reason = 'quota', run_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '+2 seconds') WHERE id IN (3, 4)"
    assert lite.sql(later) == 2
    lite.quiet("run", "--max-time", "30")
    assert len(smtp.accepted) == 4


@pytest.mark.parametrize(("died", "sent"), [("elsewhere", 0), ("here", 1)])
def test_what_a_run_of_another_host_left_counts_as_sent_for_only_its_own_journal_knows_better(store, clock, hosts, tmp_path, died, sent):
    clock.set(NOW)
    host = hosts(clock)
    settings = site_of(tmp_path, store, host, ASYNCSEND_EMAIL_LIMIT="1/day").settings()
    mails(store, 2)
    with HostLock(settings.lock_path) as lock:
        holding = status.take(store, lock.lock_id if died == "here" else "e" * 32)
    jobs = store.claim(["default"], 1, "1" * 32, holding.generation, holding.owner)
    store.metered = True
    assert store.turns([Turn(jobs[0].id, "default", False, ("email",))], {"email": settings.email_limit}, 0.0, 60.0, holding.owner) == {jobs[0].id: 0.0}
    clock.forward(status.LEASE + 1)
    log = Log(tmp_path / "rescue.log")
    run(store, settings, log, Budget(time.monotonic, 0.9))
    log.close()
    assert len(host.to()) == sent


def test_a_batch_that_comes_while_a_run_is_at_work_keeps_its_quiet_hours_too(lite, smtp):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_TIMEZONE": "UTC"}
    lite.tasks("""
import subprocess, sys, time
from asyncsend import task

@task
def comes():
    now = time.gmtime().tm_hour
    mail = '{"to":"a@example.com","subject":"x","text":"y"}'
    subprocess.run([sys.executable, "-m", "asyncsend", "enqueue", "email", mail, "--batch", "night", "--quiet", f"{now}-{(now + 2) % 24}"], check=True)
""")
    lite.insert("comes", batch_id="first")
    lite("run", "--max-time", "30")
    assert lite.rows("task, state, reason") == [("comes", "done", None), ("email", "ready", "quiet-hours")]
    assert smtp.accepted == []


def test_a_quota_is_exact_under_kill_9_on_two_hosts(tmp_path, mysql_url, smtp):
    """Windows of seconds, so that this needs no hours; what counts is when the server took each mail."""
    made_store(mysql_url).close()
    environment = {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_EMAIL_LIMIT": "6 per 2s, 20 per 10s", "ASYNCSEND_RESERVE": "0"}
    sites = [Site(tmp_path / name, mysql_url, **environment) for name in ("one", "two")]
    for site in sites:
        site.prelude = "import asyncsend.status as s; s.LEASE, s.BEAT, s.MARGIN = 1.0, 0.2, 0.4"
    for number in range(60):
        sites[0].insert("email", json.dumps({"to": f"r{number}@example.com", "subject": "x", "text": "y"}), queue="low")
    chance, kills = random.Random(7), 0
    until = time.monotonic() + 90
    while time.monotonic() < until and (kills < 6 or len(smtp.accepted) < 30):
        running = [site.start("run", "--max-time", "5") for site in sites]
        deadline = time.monotonic() + 0.4 + chance.random() * 1.5
        eventually(lambda limit=deadline: time.monotonic() > limit, what="a moment")
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
    times = [at for at, _ in smtp.accepted]
    assert kills >= 6
    assert len(times) >= 30
    for number, seconds in ((6, 2.0), (20, 10.0)):
        assert max(sum(1 for other in times if at <= other < at + seconds) for at in times) <= number
