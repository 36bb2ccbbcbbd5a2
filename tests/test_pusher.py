"""Pushes to browsers: the request is the one the official library makes at the same second, and each documented error means one thing."""

import json
from urllib.parse import urlsplit

import pytest
from parts import eventually
from pusher import Pusher as Official

from asyncsend import batch, batches, config, producer
from asyncsend.answers import BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError, InvalidJob
from asyncsend.job import Job, NewBatch
from asyncsend.store.connection import as_text
from asyncsend.tasks.pusher import Pusher, event_of

EVENT = {"channel": "user-17", "event": "export-ready", "data": {"url": "/exports/17", "name": "Größe 🎁"}}
JOB = Job(17, "pusher", "{}")
AT = 1795257600.4


@pytest.fixture
def push(tmp_path, http):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_PUSHER_URL": f"pusher://key:s3cret%2F@default?app_id=1234&base={http.url}"})
    made = Pusher(settings, lambda: AT)
    yield made
    made.close()


@pytest.mark.parametrize(
    "payload", [EVENT, {"channels": ["a", "private-b", "presence-c_=@,.;"], "event": "x", "data": "text"}, {"channel": "a", "event": "x"}, {"channel": "a", "event": "x", "data": [1], "socket_id": "12.34"}]
)
def test_the_request_is_the_one_of_the_official_library(push, http, payload, monkeypatch):
    monkeypatch.setattr("pusher.http.time.time", lambda: AT)
    official = Official("1234", "key", "s3cret/", ssl=False, host="127.0.0.1", port=http.port)
    official.trigger(payload.get("channels", payload.get("channel")), payload["event"], payload.get("data", {}), payload.get("socket_id"))
    assert push(payload, JOB) == {"status": 200}
    theirs, ours = http.requests
    assert (ours.method, urlsplit(ours.path).path, ours.body, ours.headers["Content-Type"]) == (theirs.method, urlsplit(theirs.path).path, theirs.body, theirs.headers["Content-Type"])
    assert sorted(urlsplit(ours.path).query.split("&")) == sorted(urlsplit(theirs.path).query.split("&"))


@pytest.mark.parametrize(
    "status, kind, reason",
    [(400, Refused, "pusher-refused"), (413, Refused, "pusher-refused"), (401, Snooze, "pusher-account"), (403, Snooze, "pusher-account"), (404, Snooze, "pusher-account"), (429, Snooze, "pusher-limit"), (500, Retry, "pusher-500"), (302, Retry, "pusher-302")],
)  # fmt: skip
def test_each_documented_error_means_one_thing(push, http, status, kind, reason):
    http.answers = [(status, {}, b"no: s3cret/")]
    with pytest.raises(kind) as caught:
        push(EVENT, JOB)
    assert (type(caught.value), caught.value.reason) == (kind, reason)
    assert "s3cret" not in str(caught.value)


def test_a_push_of_which_nobody_knows_is_tried_again_and_not_held(push, http):
    http.behave = "cut"
    with pytest.raises(Unknown):
        push(EVENT, JOB)
    from asyncsend.tasks.pusher import POLICY

    assert not POLICY.holds


BAD = {
    "no channel": ({"event": "x"}, "either channel or channels"),
    "both": ({"channel": "a", "channels": ["b"], "event": "x"}, "either channel or channels"),
    "none in the list": ({"channels": [], "event": "x"}, "1 to 100"),
    "too many": ({"channels": ["a"] * 101, "event": "x"}, "1 to 100"),
    "a text for a list": ({"channels": "abc", "event": "x"}, "1 to 100"),
    "blank in a name": ({"channel": "a b", "event": "x"}, "a b"),
    "a number": ({"channel": 7, "event": "x"}, "7"),
    "a long name": ({"channel": "a" * 165, "event": "x"}, "164"),
    "a newline": ({"channel": "a\n", "event": "x"}, "channel"),
    "encrypted": ({"channel": "private-encrypted-a", "event": "x"}, "encrypts nothing"),
    "no event": ({"channel": "a"}, "event is missing"),
    "a long event": ({"channel": "a", "event": "x" * 201}, "200"),
    "too much data": ({"channel": "a", "event": "x", "data": "é" * 5121}, "10240 bytes"),
    "a socket of another form": ({"channel": "a", "event": "x", "socket_id": "12"}, "socket_id"),
    "an unknown member": ({"channel": "a", "event": "x", "date": 1}, "'date'"),
}


@pytest.mark.parametrize("payload, words", BAD.values(), ids=BAD.keys())
def test_what_pusher_would_refuse_is_a_bad_payload_that_names_it(payload, words):
    with pytest.raises(BadPayload, match=words):
        event_of(payload)


def test_the_limits_themselves_are_allowed():
    event_of({"channels": ["a" * 164] * 100, "event": "x" * 200, "data": "é" * 5120})


@pytest.mark.parametrize("url", ["pusher://key:secret@default", "pusher://key@default?app_id=1", "https://key:secret@default?app_id=1", "pusher://key:secret@?app_id=1", "pusher://key:secret@default?app_id=../x"])
def test_a_url_that_lacks_something_shows_how_it_should_be(tmp_path, url):
    with pytest.raises(ConfigurationError, match=r"pusher://KEY:SECRET@default\?app_id") as caught:
        Pusher(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_PUSHER_URL": url}))
    assert ":secret@" not in str(caught.value)


@pytest.mark.parametrize("host, base", [("default?app_id=1&cluster=eu", "https://api-eu.pusher.com"), ("default?app_id=1", "https://api.pusherapp.com"), ("push.example.com:6001?app_id=1", "https://push.example.com:6001")])
def test_a_cluster_or_a_server_of_ones_own_is_asked(tmp_path, host, base):
    assert Pusher(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_PUSHER_URL": f"pusher://key:secret@{host}"})).base == base


def test_a_page_hears_that_its_batch_is_through(lite, http):
    """The export is ready: what follows a batch may be a push."""
    lite.environment["ASYNCSEND_PUSHER_URL"] = f"pusher://key:secret@default?app_id=1234&base={http.url}"
    done = json.dumps({"channel": "user-17", "event": "export-ready"})
    lite("enqueue", "sms", '{"to":"+33612345678","text":"x"}', "--batch", "export", "--then", "pusher", done)
    lite.quiet("run")
    eventually(lambda: lite.quiet("run") or http.requests)
    assert json.loads(http.requests[0].body) == {"name": "export-ready", "channels": ["user-17"], "data": "{}"}


def test_without_the_setting_a_push_waits_uncharged_and_says_so(lite):
    lite.insert("pusher", json.dumps(EVENT))
    lite.quiet("run")
    assert lite.rows("state, attempts, reason") == [("ready", 0, "configuration")]
    assert "ASYNCSEND_PUSHER_URL" in lite("why", "1").stdout


# ── how far a batch is ───────────────────────────────────────────────────────────────────────────────────────────────

CHANNEL = "private-orders-17"
FINISH = "UPDATE asyncsend_jobs SET state = :state, unique_slot = NULL, finished_at = NOW(6) WHERE id = :id"


def pushes(store):
    """What the jobs would tell, in their order, and whether they expire."""
    found = store._rows("SELECT payload, expires_at, order_key FROM asyncsend_jobs WHERE task = 'pusher' ORDER BY id")
    assert {json.loads(payload)["event"] for payload, _, _ in found} <= {"batch.progress"}
    assert {(json.loads(payload)["channel"], as_text(key)) for payload, _, key in found} <= {(CHANNEL, "b:push")}
    return [(tuple(json.loads(payload)["data"][name] for name in ("percent", "done", "failed", "cancelled", "total")), expires is not None) for payload, expires, _ in found]


def test_progress_is_told_every_few_seconds_if_there_is_any_never_less_and_the_end_once(store, clock, log):
    clock.set(AT)
    owner = "a" * 32
    assert store.take("default", store.standing("default"), owner, "lock", "host", 1, 3600)
    store.add_batch(NewBatch("b", "b", push=CHANNEL), sealed=True)
    store.insert([producer.new_job("mark", {}, batch="b") for _ in range(10)])
    left = [row[0] for row in store._rows("SELECT id FROM asyncsend_jobs ORDER BY id")]

    def looked(number=0, state="done", after=5.0):
        clock.forward(after)
        for job_id in left[:number]:
            store._write(FINISH, id=job_id, state=state)
        del left[:number]
        return batches.look_after(store, owner, log, lambda: None)

    assert looked() == 0
    assert looked(3) == 1
    assert pushes(store) == [((30, 3, 0, 0, 10), True)]
    assert looked(2, "dead", after=1.0) == 0, "not yet"
    assert looked(after=4.0) == 1
    assert looked() == 0, "nothing new"
    store.insert([producer.new_job("mark", {}, batch="b") for _ in range(10)])
    left += [row[0] for row in store._rows("SELECT id FROM asyncsend_jobs WHERE task = 'mark' AND id > :last", last=left[-1])]
    assert looked(3) == 0, "it grew, and is no further than was told"
    store.prune(0, 0, 500)
    assert looked(3) == 1
    assert looked(9, after=1.0) == 1
    assert looked() == 0
    assert pushes(store) == [((30, 3, 0, 0, 10), True), ((50, 3, 2, 0, 10), True), ((55, 9, 2, 0, 20), True), ((100, 18, 2, 0, 20), False)]


def test_a_run_that_lost_the_status_row_tells_nothing_and_no_uid_or_channel_written_by_hand_stops_a_run(store, log):
    owner, present = "a" * 32, "b" * 32
    for one in (owner, present):
        assert store.take("default", store.standing("default"), one, "lock", "host", 1, 120)
    store.add_batch(NewBatch("b", "b", push=CHANNEL), sealed=True)
    store._write("INSERT INTO asyncsend_batches (uid, push) VALUES ('bad', 'no channel')")
    store._write("INSERT INTO asyncsend_batches (uid, push) VALUES (:uid, :push)", uid="u" * 60, push=CHANNEL)
    store.insert([producer.new_job("mark", {}, batch="b"), producer.new_job("mark", {}, batch="b")])
    store._write(FINISH, id=store._rows("SELECT MIN(id) FROM asyncsend_jobs")[0][0], state="done")
    assert batches.look_after(store, owner, log, lambda: None) == 0
    assert pushes(store) == []
    assert batches.look_after(store, present, log, lambda: None) == 1
    assert pushes(store) == [((50, 1, 0, 0, 2), True)]
    assert "push: 'no channel' is no name of a channel" in store.batch("bad").reason
    assert store.batch("u" * 60).finished_at is not None


def test_the_page_hears_how_far_a_batch_is_within_the_minute_and_nothing_stale_later(site, http, tmp_path):
    site.environment["ASYNCSEND_PUSHER_URL"] = f"pusher://key:secret@default?app_id=1234&base={http.url}"
    (tmp_path / "numbers.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(4)))
    site("enqueue", "sms", '{"to":"+33612345678","text":"{{n}}"}', "--each", str(tmp_path / "numbers.csv"), "--batch", "b", "--push", CHANNEL)

    def told():
        events = [json.loads(request.body) for request in http.requests]
        assert {(event["name"], *event["channels"]) for event in events} <= {("batch.progress", CHANNEL)}
        return [json.loads(event["data"])["percent"] for event in events]

    wait, due = (f"UPDATE asyncsend_jobs SET run_at = {at} WHERE state = 'ready'" for at in ("'2036-01-01 00:00:00'", "NULL"))
    site.sql(wait + " AND id > 1")
    site.quiet("run")
    assert told() == [25]
    http.answers = [(500, {}, b"")]
    site.sql(due.replace("'ready'", "'ready' AND id = 2"))
    site.sql("UPDATE asyncsend_batches SET pushed_at = NULL")
    site.quiet("run")
    assert told() == [25, 50], "of which the second was refused"
    site.sql(due)
    site.sql("UPDATE asyncsend_jobs SET run_at = NULL, expires_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1) WHERE task = 'pusher' AND state = 'ready'")
    site.quiet("run")
    assert told() == [25, 50, 100]
    assert site.rows("state, reason", "task = 'pusher'") == [("done", None), ("cancelled", "expired"), ("done", None)]
    site.quiet("run")
    assert told() == [25, 50, 100]


def test_a_channel_that_pusher_would_refuse_is_refused_before_anything_is_added(lite, monkeypatch):
    for name, value in lite.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidJob, match=r"push: .*encrypt"), batch("b", push="private-encrypted-x"):
        pass
    assert "--batch NAME" in lite("enqueue", "pusher", "--push", "x", code=2).stderr
    assert "is no name of a channel" in lite("enqueue", "pusher", "--batch", "b", "--push", "a b", code=None).stderr
    assert lite.rows() == []
