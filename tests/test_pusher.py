"""Pushes to browsers: the request is the one the official library makes at the same second, and each documented error means one thing."""

import json
from urllib.parse import urlsplit

import pytest
from parts import eventually
from pusher import Pusher as Official

from asyncsend import config
from asyncsend.answers import BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
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
