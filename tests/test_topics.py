"""Topics: who gets a job of an event, deliveries that are signed per receiver, and hosts that are left alone; real receivers, both databases, some runs killed."""

import base64
import json
import socket
import sqlite3
from datetime import UTC, datetime, timedelta

import pymysql
import pytest
from click.testing import CliRunner
from parts import HttpSink, Site, eventually, made_store
from stage import crashed
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from asyncsend import channels, publish, testing, topics
from asyncsend import outcome as outcomes
from asyncsend.channels import Channel, Channels
from asyncsend.cli import cli
from asyncsend.errors import InvalidJob
from asyncsend.job import Job
from asyncsend.outcome import Outcome, Settlement, State
from asyncsend.producer import new_job
from asyncsend.store.mysql import connect_options
from asyncsend.store.rows import Consumer, Subscription, Which

SECRET = "whsec_" + base64.b64encode(b"c4n4ry" * 5).decode()
NEXT = "whsec_" + base64.b64encode(b"n3xt-0" * 5).decode()
TASKS = """
import os
from asyncsend import task

@task(queue="books", max_attempts=1)
def book(order, total=None, lines=None, **others):
    with open(os.path.join(os.path.dirname(__file__), "effects"), "a") as file:
        file.write(f"{order!r} {total!r} {lines!r}\\n")

@task(max_attempts=1)
def fail(**members):
    raise ValueError("no")
"""


@pytest.fixture
def shop(site, monkeypatch):
    site.environment |= {"ASYNCSEND_ALLOW_PRIVATE": "127.0.0.1"}
    for name, value in site.environment.items():
        if name.startswith("ASYNCSEND_"):
            monkeypatch.setenv(name, value)
    return site


def call(site: Site, *arguments: str, code: int = 0, **options):
    """A command in this process: these tests are many. One that would import tasks is a process of its own, or this one would know them for ever."""
    if "ASYNCSEND_TASKS" in site.environment:
        return site(*arguments, code=code)
    done = CliRunner().invoke(cli, list(arguments), env=site.environment, **options)
    assert done.exit_code == code, (arguments, done.output, done.exception)
    return done


def listed(site: Site) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(call(site, "topics", "--json").stdout)}


def crm(site: Site, http, *more: str, topic: str = "order.#", name: str = "crm", path: str = "/in", secret: str = SECRET):
    return call(site, "subscribe", topic, "webhook", "--url", http.url + path, "--name", name, "--secret", secret, *more)


def now_due(site: Site) -> None:
    """What waits is due; channels that are stopped may be tried."""
    site.sql("UPDATE asyncsend_jobs SET run_at = NULL WHERE state = 'ready'")
    site.sql("UPDATE asyncsend_channels SET stopped_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1) WHERE stopped_until IS NOT NULL")


def channel_rows(site: Site) -> list[tuple]:
    store = site.store()
    try:
        return store._rows("SELECT name, failures, stops, stopped_until > NOW(6) FROM asyncsend_channels ORDER BY name")
    finally:
        store.close()


# ── who gets what ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("order.completed", ["order.completed"], ["order", "order.completed.eu", "order.completedx", "Order.completed"]),
        ("order.*", ["order.completed", "order.x"], ["order", "order.a.b", "orders.a"]),
        ("order.#", ["order", "order.a", "order.a.b.c"], ["orders", "x.order"]),
        ("#", ["a", "a.b", "a.b.c"], []),
        ("*", ["a"], ["a.b"]),
        ("#.paid", ["paid", "order.paid", "a.b.paid"], ["paid.x", "order.unpaid"]),
        ("*.#.paid", ["a.paid", "a.b.paid"], ["paid"]),
        ("a.#.b.#.c", ["a.b.c", "a.x.b.y.z.c"], ["a.c", "a.b"]),
        ("#.#.#", ["a", "a.b.c.d"], []),
    ],
)
def test_a_star_is_one_word_and_a_hash_any_number_as_in_amqp(pattern, yes, no):
    topics.checked_pattern(pattern)
    assert [topic for topic in yes if not topics.matches(pattern, topic)] == []
    assert [topic for topic in no if topics.matches(pattern, topic)] == []


def test_one_event_is_one_job_for_each_subscription_that_wants_it_and_each_fails_alone(shop):
    shop.tasks(TASKS)
    call(shop, "subscribe", "order.*", "book")
    call(shop, "subscribe", "order.completed", "book", "--name", "second", "--queue", "low")
    del shop.environment["ASYNCSEND_TASKS"]
    call(shop, "subscribe", "order.#", "fail", "--name", "bad")
    call(shop, "subscribe", "invoice.#", "fail", "--name", "other")
    uids = call(shop, "publish", "order.completed", '{"order":17}', "--uid", "o-17").stdout.split()
    assert sorted(uids) == ["o-17:bad", f"o-17:{topics.named('order.*', 'book', None)}", "o-17:second"]
    shop.tasks(TASKS)
    assert sorted(shop.rows("task, queue, payload")) == [("book", "books", '{"order":17}'), ("book", "low", '{"order":17}'), ("fail", "default", '{"order":17}')]
    shop.quiet("run")
    assert sorted(shop.rows("task, state")) == [("book", "done"), ("book", "done"), ("fail", "dead")]
    assert call(shop, "publish", "nobody.asks").stdout == ""


def test_the_same_event_published_again_makes_nothing_twice_and_serves_who_came_later(shop):
    call(shop, "subscribe", "a", "email", "--name", "one")
    assert publish("a", {"n": 1}, uid="e1") == publish("a", {"n": 1}, uid="e1") == ["e1:one"]
    call(shop, "subscribe", "a", "email", "--name", "two")
    assert publish("a", {"n": 1}, uid="e1") == ["e1:one", "e1:two"]
    assert shop.rows("uid") == [("e1:one",), ("e1:two",)]


def test_in_the_apps_own_transaction_the_jobs_exist_if_and_only_if_it_commits(shop):
    for name in ("one", "two"):
        call(shop, "subscribe", "order.#", "email", "--name", name)
    if shop.url.startswith("sqlite"):
        connection = sqlite3.connect(shop.url.removeprefix("sqlite:///").replace("//", "/"))
    else:
        connection = pymysql.connect(**connect_options(shop.url))
    for end, rows in ((connection.rollback, 0), (connection.commit, 2)):
        assert publish("order.paid", {"name": "Größe"}, connection, uid="e") == ["e:one", "e:two"]
        end()
        assert len(shop.rows()) == rows
    connection.close()


def test_a_publisher_that_is_killed_has_made_all_jobs_or_none(shop):
    call(shop, "subscribe", "a", "email", "--name", "one")
    for number in range(3):
        call(shop, "subscribe", "a", "email", "--name", f"s{number}")
    program = "import os, sys; from asyncsend import publish, producer; from asyncsend.store.sql import SqlStore\n"
    program += "def die(store, jobs, there=None, max_depth=()):\n    with store._transaction():\n        insert_rows(lambda sql, params: store._execute(sql, params)[0], jobs, there)\n        os.kill(os.getpid(), 9)\n"
    program += "from asyncsend.store.insert import insert_rows\nSqlStore.insert = die\npublish('a', {}, uid='e')"
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", program], env=shop.environment, timeout=60).returncode == -9
    assert shop.rows() == []
    assert len(publish("a", {}, uid="e")) == 4


@pytest.mark.parametrize(
    ("task", "template", "data", "payload"),
    [
        ("book", '{"order":"{{id}}","total":"{{sum.gross}}","lines":"{{lines}}","f":[true,1.5]}', {"id": 17, "sum": {"gross": 9.5}, "lines": [1]}, {"order": 17, "total": 9.5, "lines": [1], "f": [True, 1.5]}),
        ("book", '{"order":"No. {{id}} of {{lines.0.name}}{{none}}"}', {"id": 17, "lines": [{"name": "Ann"}], "none": None}, {"order": "No. 17 of Ann"}),
        ("book", '{"order":"{{event.id}} {{event.type}}"}', {}, {"order": "e a.b"}),
        ("email", '{"to":"{{to}}","subject":"{{id}}","html":"<p>{{name}}</p>"}', {"to": "a@example.com", "id": 17, "name": "<b>"}, {"to": "a@example.com", "subject": "17", "html": "<p>&lt;b&gt;</p>"}),
    ],
)
def test_a_template_takes_members_of_the_event(task, template, data, payload):
    event = {"id": "e", "time": "t", "type": "a.b", "source": "s", "data": data}
    assert json.loads(topics.job_of(Consumer("n", "a.b", task, "default", template), event, "{}").payload) == payload


@pytest.mark.parametrize("template", ['{"order":"{{nowhere}}"}', '{"order":"x {{a.b.c}}"}', "{broken", '{"to":"x {{break}}"}'])
def test_a_payload_that_cannot_be_made_is_a_dead_letter_of_that_one_subscription(lite, monkeypatch, template):
    monkeypatch.setenv("ASYNCSEND_HOME", str(lite.home))
    monkeypatch.setenv("ASYNCSEND_DATABASE_URL", lite.url)
    call(lite, "subscribe", "a", "book", "--name", "good")
    lite.tasks(TASKS)
    lite.sql(f"INSERT INTO asyncsend_subscriptions (name, topic, task, payload) VALUES ('bad', 'a', 'book', '{template}')")
    assert publish("a", {"order": 1, "a": {"b": 1}, "break": "x\r\nBcc: y"}, uid="e") == ["e:bad", "e:good"]
    lite.quiet("run")
    [(state, reason, payload), good] = lite.rows("state, reason, payload")
    assert (state, reason, good[0]) == ("dead", "bad-payload", "done")
    assert "the subscription bad can make no payload of the event e: " in payload
    assert (lite.home / "effects").read_text() == "1 None None\n", "the bad one was not executed"


def test_the_testing_module_serves_subscribers_too():
    with testing.queue() as queue:
        queue.store.save_subscription(Subscription("one", "order.*", "email", payload='{"to":"{{email}}","subject":"Hi","text":"x"}'), None, False)
        publish("order.paid", {"email": "ann@example.com"})
        queue.assert_enqueued("email", to="ann@example.com")
        assert queue.drain() == {"done": 1}


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a..b", "a.*", "#", "a b", "ä", "x" * 129, "a\n"])
def test_a_topic_that_is_none_is_refused(topic):
    with pytest.raises(InvalidJob, match="topic"):
        publish(topic, {})


@pytest.mark.parametrize(("data", "uid", "words"), [("[1]", None, "object"), ({"a": {1, 2}}, None, "JSON"), ({}, "x" * 40, "39"), ({}, "a b", "39"), ({"a": "x" * 4_193_000}, None, "longer")])
def test_data_and_uids_that_cannot_be_are_refused_before_anything_is_asked(data, uid, words):
    with pytest.raises(InvalidJob, match=words):
        publish("a", data, uid=uid)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a..b", "email"], ["a", "no task"], ["a", "email", "--name", "x" * 25], ["a", "email", "--name", "a:b"], ["a", "email", "--url", "https://x.example"], ["a", "email", "--secret", SECRET],
        ["a", "webhook"], ["a", "webhook", "--url", "ftp://x"], ["a", "webhook", "--url", "https://u:p@x.example"], ["a", "webhook", "--url", "https://x.example", "--secret", "whsec_c4n4ry"],
        ["a", "webhook", "--url", "https://x.example", "--payload", "{}"], ["a", "webhook.crm"], ["a", "email", "--payload", "[]"], ["a", "email", "--payload", '{"a":"{{"}'], ["a", "email", "--queue", "a b"],
    ],
)  # fmt: skip
def test_a_subscription_that_could_not_work_is_refused(lite, arguments):
    assert "c4n4ry" not in call(lite, "subscribe", *arguments, code=2).output
    assert listed(lite) == {}


def test_subscribing_again_changes_what_is_given_and_unsubscribing_asks(lite):
    call(lite, "subscribe", "a", "email", "--queue", "low", "--payload", '{"to":"x"}')
    call(lite, "subscribe", "a", "email", "--queue", "high")
    [one] = listed(lite).values()
    assert (one["queue"], one["payload"], one["topic"], one["task"]) == ("high", '{"to":"x"}', "a", "email")
    call(lite, "subscribe", "b", "email", "--name", one["name"], code=2)
    call(lite, "subscribe", "a", "email", "--name", "other")
    for wrong in (["a"], ["a", "email", "--name", "x"], [], ["a", "sms", "--yes"], ["--name", "nobody", "--yes"], ["a", "email", "--yes"], ["--name", "other"]):
        call(lite, "unsubscribe", *wrong, code=2)
    call(lite, "unsubscribe", "--name", "other", "--dry-run")
    assert len(listed(lite)) == 2
    call(lite, "unsubscribe", "--name", "other", "--yes")
    call(lite, "unsubscribe", "a", "email", "--yes")
    assert listed(lite) == {}


# ── deliveries ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_delivery_is_a_cloud_event_signed_for_its_receiver_and_the_same_on_every_attempt(shop, http):
    shop.environment |= {"ASYNCSEND_EVENT_SOURCE": "https://shop.example.com"}
    crm(shop, http)
    call(shop, "publish", "order.completed", '{"order":17,"name":"Größe 🎁"}', "--uid", "o-17")
    http.answers = [(500, {}, b"")]
    shop.quiet("run")
    now_due(shop)
    shop.quiet("run")
    first, second = http.requests
    assert shop.rows("task, state") == [("webhook.crm", "done")]
    assert first.body == second.body
    event = json.loads(first.body)
    assert set(event) == {"specversion", "id", "source", "type", "time", "datacontenttype", "data"}, "CloudEvents 1.0: four are required, three optional, and no name breaks its rule"
    assert all(isinstance(event[name], str) and event[name] for name in ("specversion", "id", "source", "type"))
    assert (event["specversion"], event["id"], event["source"], event["type"]) == ("1.0", "o-17", "https://shop.example.com", "order.completed")
    assert (event["datacontenttype"], event["data"]) == ("application/json", {"order": 17, "name": "Größe 🎁"})
    assert abs(datetime.now(UTC) - datetime.fromisoformat(event["time"])) < timedelta(minutes=5), "RFC 3339, with its zone"
    assert event["time"].endswith("+00:00")
    for request in (first, second):
        assert request.headers["Content-Type"] == "application/cloudevents+json"
        Verifier(SECRET).verify(request.body, {name.lower(): value for name, value in request.headers.items()})
        with pytest.raises(WebhookVerificationError):
            Verifier(NEXT).verify(request.body, {name.lower(): value for name, value in request.headers.items()})
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_while_a_secret_is_rotated_both_verify_and_no_secret_is_ever_shown(shop, http):
    shown = crm(shop, http, path="/in?token=c4n4ry-url").output
    shown += crm(shop, http, path="/in?token=c4n4ry-url", secret=NEXT).output
    generated = call(shop, "subscribe", "order.#", "webhook", "--url", http.url + "/2", "--name", "second").stdout.strip()
    call(shop, "publish", "order.x", '{"a":1}')
    http.answers = [(500, {}, b"c4n4ry"), (503, {}, b"")]
    shop.quiet("run")
    headers = {request.path[:4].rstrip("?"): ({name.lower(): value for name, value in request.headers.items()}, request.body) for request in http.requests}
    for secret in (SECRET, NEXT):
        Verifier(secret).verify(headers["/in"][1], headers["/in"][0])
    Verifier(generated).verify(headers["/2"][1], headers["/2"][0])
    call(shop, "subscribe", "order.#", "webhook", "--name", "crm", "--drop-old-secrets")
    assert listed(shop)["crm"]["secrets"] == 1
    http.requests.clear()
    now_due(shop)
    shop.quiet("run")
    [request] = [one for one in http.requests if one.path != "/2"]
    Verifier(NEXT).verify(request.body, {name.lower(): value for name, value in request.headers.items()})
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(request.body, {name.lower(): value for name, value in request.headers.items()})
    for look in (["topics"], ["topics", "--json"], ["status"], ["jobs", "--json"], ["job", "1"], ["why", "1"], ["subscribe", "order.#", "webhook", "--name", "crm", "--secret", SECRET[:20]]):
        shown += CliRunner().invoke(cli, look, env=shop.environment).output
    shown += shop.log() + str(shop.rows()) + str([path.read_text("utf-8", "replace") for path in shop.home.glob("journal*")])
    for secret in (SECRET, NEXT, generated):
        assert secret.removeprefix("whsec_") not in shown
    assert "c4n4ry" not in shown


def test_a_killed_run_leaves_no_secret_in_its_journal_or_on_its_command_line(shop, http):
    from pathlib import Path

    crm(shop, http)
    call(shop, "publish", "order.x", "{}")
    http.behave = "hang"
    http.release.clear()
    run = shop.start("run")
    eventually(lambda: http.requests, what="the delivery")
    words = [path.read_bytes() for path in Path("/proc").glob(f"{run.pid}/**/cmdline")] + [path.read_bytes() for path in shop.home.glob("*") if path.suffix != ".sqlite3" and path.is_file() and "sqlite3" not in path.name]
    run.kill()
    run.communicate()
    http.release.set()
    assert [word for word in words if SECRET.encode() in word] == []
    assert any(b"S " in word for word in words), "the journal was among them"


def test_only_what_publish_makes_is_delivered_and_only_while_there_is_a_subscription(shop, http):
    crm(shop, http)
    shop.insert("webhook.crm", '{"url":"http://elsewhere.example/"}')
    shop.insert("webhook.nobody", '{"specversion":"1.0","id":"1","source":"s","type":"t"}')
    shop.insert("webhook.ä", "{}")
    shop.quiet("run")
    assert http.requests == []
    assert shop.rows("state, reason") == [("dead", "bad-payload"), ("cancelled", "unsubscribed"), ("cancelled", "unsubscribed")]


def test_waiting_deliveries_go_to_the_new_address_and_none_after_unsubscribing(shop, http):
    crm(shop, http, path="/old")
    call(shop, "publish", "order.a")
    crm(shop, http, path="/new")
    shop.quiet("run")
    assert [request.path for request in http.requests] == ["/new"]
    call(shop, "publish", "order.b")
    assert "1 waiting jobs are cancelled" in call(shop, "unsubscribe", "order.#", "webhook", "--yes").stderr
    shop.quiet("run")
    assert len(http.requests) == 1
    assert shop.rows("state, reason") == [("done", None), ("cancelled", "unsubscribed")]


# ── gone for good ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_receiver_that_is_gone_disables_its_subscription_and_cancels_what_waits_for_it_alone(shop, http):
    crm(shop, http)
    crm(shop, http, name="other", path="/other")
    call(shop, "publish", "order.a", "--uid", "e1")
    call(shop, "publish", "order.b", "--uid", "e2")
    call(shop, "publish", "order.c", "--uid", "e3")
    shop.sql("UPDATE asyncsend_jobs SET run_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + 900) WHERE uid LIKE 'e3%crm'")
    http.answers = [(410, {}, b"")]
    shop.quiet("run")
    assert [request.path for request in http.requests] == ["/in", "/other", "/other", "/other"]
    assert dict(shop.rows("uid, state")) == {"e1:crm": "dead", "e2:crm": "cancelled", "e3:crm": "cancelled"} | dict.fromkeys(("e1:other", "e2:other", "e3:other"), "done")
    assert set(shop.rows("reason", "state = 'cancelled'")) == {("subscription-disabled",)}
    assert shop.rows("reason", "state = 'dead'") == [("http-410",)]
    assert listed(shop)["other"]["disabled_at"] is None
    assert listed(shop)["crm"]["disabled_at"] is not None
    assert "410" in listed(shop)["crm"]["reason"]
    assert "crm is disabled since" in call(shop, "topics").stdout
    assert "Subscription crm (order.#) is disabled" in call(shop, "status").stdout
    assert "subscription-disabled" in call(shop, "why", "e2:crm").stdout
    assert shop.log().count("event=subscription-disabled subscription=crm") == 1
    assert call(shop, "publish", "order.d").stdout.split()[0].endswith(":other")
    call(shop, "subscribe", "order.#", "webhook", "--name", "crm")
    assert len(publish("order.e", {})) == 2


@pytest.mark.parametrize(("point", "passage"), [("D written", 1), ("settled, the journal not cleared", 1)])
def test_a_run_killed_around_a_410_disables_it_all_the_same_and_asks_only_once(shop, http, point, passage):
    crm(shop, http)
    for number in range(3):
        call(shop, "publish", f"order.{number}")
    http.answers = [(410, {}, b"")]
    done = crashed(shop, point, passage, "run")
    assert done.returncode == -9, done.stderr
    shop.quiet("run")
    assert len(http.requests) == 1
    assert sorted(shop.rows("state")) == [("cancelled",), ("cancelled",), ("dead",)]
    assert listed(shop)["crm"]["disabled_at"]


# ── hosts that are left alone ────────────────────────────────────────────────────────────────────────────────────────


def hook(site: Site, url: str, number: int = 1, **columns) -> None:
    for _ in range(number):
        site.insert("webhook", json.dumps({"url": url, "body": {}}), **columns)


def test_after_five_failures_in_a_row_a_host_is_left_alone_and_nobody_is_charged_for_waiting(shop, http):
    fails_waits_is_tried_and_opens(shop, http, 1)


def test_several_workers_send_at_most_what_is_under_way_and_one_of_them_tries(lite, http):
    fails_waits_is_tried_and_opens(lite, http, 3)


def fails_waits_is_tried_and_opens(shop: Site, http, workers: int) -> None:
    shop.environment |= {"ASYNCSEND_WORKERS": str(workers), "ASYNCSEND_ALLOW_PRIVATE": "127.0.0.1"}
    http.answers = [(503, {}, b"")] * 100
    hook(shop, http.url, 20)
    other = HttpSink()
    hook(shop, other.url, 2, priority=-1)
    shop.quiet("run")
    name, in_flight = f"host:127.0.0.1:{http.port}", workers - 1
    assert 5 <= len(http.requests) <= 5 + in_flight
    waiting = shop.rows("attempts, reason", "state = 'ready' AND priority = 0")
    assert sum(attempts for attempts, _ in waiting) == len(http.requests)
    assert waiting.count((0, "breaker-open")) == 20 - len(http.requests)
    assert len(other.requests) == 2, "another host is none of its business"
    other.stop()
    [(found, failures, stops, stopped)] = channel_rows(shop)
    assert (found, failures, stops, stopped) == (name, len(http.requests), 1, 1)
    [(job,)] = shop.rows("MIN(id)", "reason = 'breaker-open'")
    for said in (call(shop, "why", str(job)).stdout, call(shop, "status").stdout):
        assert f"through {name} until 2" in said
    assert f"event=channel-stopped channel={name}" in shop.log()
    # one job tries: it fails, and the host is left alone for longer; then one tries again, and all go
    now_due(shop)
    before = len(http.requests)
    shop.quiet("run")
    assert len(http.requests) == before + 1
    assert channel_rows(shop) == [(name, failures + 1, 2, 1)]
    http.answers = []
    now_due(shop)
    shop.quiet("run")
    if in_flight:  # some waited while one tried
        now_due(shop)
        shop.quiet("run")
    assert {state for (state,) in shop.rows("state")} == {"done"}
    assert channel_rows(shop) == []
    assert shop.log().count("event=channel-opened") == 1


def test_failures_of_several_minutes_add_up_and_one_success_forgets_them(shop, http):
    url = f"host:127.0.0.1:{http.port}"
    for failures in (3, 4):
        http.answers = [(500, {}, b"")] * (failures - len(http.requests))
        hook(shop, http.url, failures - len(http.requests), max_attempts=1)
        shop.quiet("run")
        assert channel_rows(shop) == [(url, failures, 0, None)]
    hook(shop, http.url)
    shop.quiet("run")
    assert channel_rows(shop) == []


@pytest.mark.parametrize(("status", "headers", "troubled"), [(429, {}, True), (500, {}, True), (404, {}, False), (302, {"Location": "/x"}, False), (410, {}, False)])
def test_what_counts_as_a_failure_of_the_host(lite, http, status, headers, troubled):
    lite.environment["ASYNCSEND_ALLOW_PRIVATE"] = "127.0.0.1"
    http.answers = [(status, headers, b"")]
    hook(lite, http.url)
    lite.quiet("run")
    assert bool(channel_rows(lite)) == troubled


def test_a_host_that_refuses_vanishes_or_cannot_be_found_fails_and_one_that_may_not_be_asked_does_not(lite, http):
    lite.environment["ASYNCSEND_ALLOW_PRIVATE"] = "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    http.behave = "cut"
    for url in (http.url, f"http://127.0.0.1:{port}/", "http://nowhere.invalid/", "http://127.0.0.2/", "ftp://x", "http://[::"):
        hook(lite, url)
    lite.quiet("run")
    assert sorted(row[0] for row in channel_rows(lite)) == sorted([f"host:127.0.0.1:{http.port}", f"host:127.0.0.1:{port}", "host:nowhere.invalid"])


def test_a_host_that_is_slower_than_its_job_may_be_fails_too(lite, http):
    lite.environment["ASYNCSEND_ALLOW_PRIVATE"] = "127.0.0.1"
    http.behave = "hang"
    http.release.clear()
    hook(lite, http.url, timeout_seconds=1)
    lite.quiet("run")
    http.release.set()
    assert channel_rows(lite) == [(f"host:127.0.0.1:{http.port}", 1, 0, None)]


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_that_asks_to_be_left_alone_is_left_alone_for_as_long(shop, http, status):
    http.answers = [(status, {"Retry-After": "700"}, b"")]
    crm(shop, http)
    call(shop, "publish", "order.a")
    hook(shop, http.url + "/plain", 3, priority=-1)
    shop.quiet("run")
    assert len(http.requests) == 1
    assert set(shop.rows("reason", "id > 1")) == {("breaker-open",)}
    [(soonest, latest)] = shop.rows("MIN(UNIX_TIMESTAMP(run_at) - UNIX_TIMESTAMP(created_at)), MAX(UNIX_TIMESTAMP(run_at) - UNIX_TIMESTAMP(created_at))")
    assert 690 < soonest <= latest < 800
    assert set(shop.rows("attempts", "id > 1")) == {(0,)}


def test_resume_opens_a_channel_by_hand_and_its_jobs_are_due(shop, http):
    http.answers = [(503, {"Retry-After": "3000"}, b"")]
    hook(shop, http.url, 3)
    shop.quiet("run")
    name = f"host:127.0.0.1:{http.port}"
    assert "2 waiting jobs are due now" in call(shop, "resume", name).stderr
    shop.quiet("run")
    assert len(http.requests) == 3
    call(shop, "resume", name, code=2)


@pytest.mark.parametrize(("point", "passage"), [("D written", 3), ("settled, the journal not cleared", 1)])
def test_no_failure_is_lost_or_counted_twice_however_the_run_dies(shop, http, point, passage):
    http.answers = [(500, {}, b"")] * 20
    hook(shop, http.url, 4, max_attempts=1)
    assert crashed(shop, point, passage, "run").returncode == -9
    shop.quiet("run")
    [(_, failures, stops, stopped)] = channel_rows(shop)
    assert (failures, stops, stopped) == (len(http.requests), 0, None)
    assert len(http.requests) == 4


def test_a_run_that_lost_the_status_row_writes_nothing_of_channels_and_subscriptions(store):
    store.save_subscription(Subscription("crm", "a", "webhook", url="https://x.example/"), SECRET, False)
    lost, present = owner_of(store, "a" * 32), owner_of(store, "b" * 32)
    failed = outcomes.bury("http-410", "gone")._replace(channel="host:x", troubled=True, gone="crm")
    store.insert([new_job("webhook", {})])
    [job] = store.claim(["default"], 1, "1" * 32, 1)
    for owner, written in ((lost, 0), (present, 1)):
        store._hear([failed], lost)  # in a transaction, as settle does it, and after settle's own question
        assert store.settle([Settlement(job.id, job.token, failed)], owner=owner).accepted == written
        assert [row.failures for row in store.channels()] == [1] * written
        assert bool(store.endpoints(["crm"])["crm"]["disabled"]) == bool(written)
    for outcome in (failed, outcomes.finish("{}")._replace(channel="host:x")):
        store._hear([outcome], lost)
        assert [row.failures for row in store.channels()] == [1]


def owner_of(store, owner: str) -> str:
    assert store.take("default", store.standing("default"), owner, "lock", "host", 1, 120)
    return owner


def test_settling_twice_counts_once(store):
    store.insert([new_job("webhook", {}) for _ in range(7)])
    failed = outcomes.retry(60, "http-503", "no")._replace(channel="host:x", troubled=True)
    settlements = [Settlement(job.id, job.token, failed) for job in store.claim(["default"], 7, "1" * 32, 1)]
    [stopped] = store.settle(settlements).channels
    assert (stopped.failures, stopped.stops, stopped.left) == (7, 1, 60.0)
    assert store.settle(settlements) == (7, (), ())
    assert [row[:3] for row in store.channels()] == [("host:x", 7, 1)]


def test_what_outcomes_say_of_a_channel_is_heard_in_the_order_in_which_they_came(store):
    store.insert([new_job("webhook", {}) for _ in range(5)])
    first, *others = store.claim(["default"], 5, "1" * 32, 1)
    store.settle([Settlement(job.id, job.token, FAILED) for job in others] + [Settlement(first.id, first.token, outcomes.finish()._replace(channel="host:x"))])
    assert store.channels() == []


FAILED = Outcome("retry", State.READY, channel="host:x", troubled=True, error="no")


def test_a_stop_grows_from_a_minute_to_an_hour_and_a_success_forgets_it():
    channel, stops = Channel("host:x"), []
    for _ in range(14):
        channel = channels.after(channel, FAILED)
        stops.append(channel.left)
        channel = channel._replace(left=None if channel.left is None else 0.0)  # its time has passed
    assert stops == [None] * 4 + [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
    assert channels.after(channel, FAILED._replace(troubled=False)) == Channel("host:x")


def test_what_was_under_way_when_a_channel_was_stopped_does_not_stop_it_for_longer():
    channel = Channel("host:x", failures=5, stops=1, left=50.0)
    assert channels.after(channel, FAILED)[1:4] == (6, 1, 50.0)
    assert channels.after(channel, FAILED._replace(leave_alone=700.0))[1:4] == (6, 1, 700.0)
    assert channels.after(Channel("host:x"), FAILED._replace(leave_alone=1e9)).left == 86400


def test_what_is_known_of_a_channel_counts_down_and_every_way_to_write_its_host_is_the_same_channel():
    seconds = [100.0]
    known = Channels(lambda: [Channel("host:x.example", 5, 1, 10.0, "why")], lambda: seconds[0])
    first, second, other = (Job(number, "webhook", json.dumps({"url": f"https://{host}/"})) for number, host in enumerate(("x.example", "X.example:443", "y.example")))
    assert known.instead(Job(9, "email", "{}")) is None
    assert known.instead(first)[:5] == ("snooze", State.READY, 10.0, False, False)
    assert known.instead(other) is None
    seconds[0] += 11
    assert known.instead(second) is None
    assert known.at_once(known.troubled(second)) == 1, "one tries, the others wait until it is known how that went"
    known.heard(first, FAILED._replace(channel="host:x.example"))
    assert known.instead(second).delay == 120
    seconds[0] += 121
    known.heard(second, outcomes.retry(1, "killed", "its process died"))
    assert known.instead(first) is None, "one that died of something else leaves the try to the next"
    assert known.heard(first, outcomes.finish()).channel == "host:x.example", "so that the store opens it, too"
    assert known.troubled(second) is None


def test_a_success_of_what_was_under_way_when_a_channel_was_stopped_does_not_open_it():
    stopped = Channel("host:x", failures=5, stops=1, left=50.0, reason="why")
    assert channels.after(stopped, outcomes.finish()) == stopped
    assert channels.after(stopped._replace(left=0.0), outcomes.finish()) == Channel("host:x")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://API.Example.com/in?a=b#c", "host:api.example.com"), ("http://x.example:80/", "host:x.example"), ("https://x.example:80/", "host:x.example:80"),
        ("http://[::1]:8080/", "host:[::1]:8080"), ("https://größe.example/", "host:xn--gre-6ka8i.example"), ("https://", None), ("http://[", None), ("http://a:b", None), ("http://" + "x" * 300, None),
    ],
)  # fmt: skip
def test_the_channel_of_an_address_is_its_host_and_unusual_port(url, name):
    assert channels.of_url(url) == name


def test_a_minute_without_webhooks_asks_nothing_about_channels_or_subscriptions(tmp_path, server):
    with server.database() as database:
        made_store(server.url(database)).close()
        site = Site(tmp_path / "home", server.url(database), ASYNCSEND_COMMAND_TRUE="true")
        site.sql("DROP TABLE asyncsend_channels")
        site.sql("DROP TABLE asyncsend_subscriptions")
        site.insert("command.true")
        site.quiet("run")
        site.quiet("run")
        assert site.rows("state") == [("done",)]


def test_two_thousand_subscribers_of_one_event_each_get_their_job(store):
    with store._transaction():
        for number in range(2000):
            store._write("INSERT INTO asyncsend_subscriptions (name, topic, task) VALUES (:name, :topic, 'email')", name=f"s{number}", topic="a.b" if number % 2 else "a.*")
    consumers, now = store.consumers("a.b")
    jobs = [topics.job_of(one, {"id": "e"}, "{}") for one in consumers if topics.matches(one.topic, "a.b")]
    assert len(set(store.insert(jobs))) == 2000
    assert now > 1_600_000_000
    assert store.consumers("b") == ([Consumer(f"s{number}", "a.*", "email", "default", None) for number in sorted(range(0, 2000, 2), key=lambda one: f"s{one}")], pytest.approx(now, abs=100))


def test_cancelling_and_waking_many_walks_the_table_once_and_not_once_for_each_slice(store, monkeypatch):
    from asyncsend import deadletters

    monkeypatch.setattr(deadletters, "SLICE", 2)
    for task, state in [("webhook.crm", "ready")] * 5 + [("email", "ready"), ("webhook.crm", "held"), ("webhook.crm", "done")]:
        store._write(
            "INSERT INTO asyncsend_jobs (task, payload, state, reason, lane, run_at) VALUES (:task, '{}', :state, 'breaker-open', 'ok', FROM_UNIXTIME(2000000000))", task=task, state=state
        )
    looks: list[tuple] = []
    ask = store.ids
    monkeypatch.setattr(store, "ids", lambda which, limit, before=None: (looks.append((which.state, which.task, before)), ask(which, limit, before))[1])
    woken = [store.wake(ids, "breaker-open") for ids in deadletters.slices(store, Which(state="ready", reason="breaker-open"))]
    assert (sum(woken), len(woken)) == (6, 3)
    assert topics.cancel_waiting(store, "crm", "unsubscribed", "words") == 6
    assert len(looks) == len(set(looks)) == 10, "each look begins where the one before it ended"
    assert sorted(job.state.value for job in store.jobs(limit=9)) == ["cancelled"] * 6 + ["done", "ready"]
    assert store._rows("SELECT COUNT(*) FROM asyncsend_jobs WHERE state = 'cancelled' AND lane > ''") == [(0,)]
