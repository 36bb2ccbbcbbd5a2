"""Delivery receipts: each is the provider's own or refused, comes once, and never goes backwards; and held SMS found in Twilio's own list."""

import base64
import hashlib
import hmac
import io
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import permutations
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator
from vonage_http_client import Auth

from asyncsend import web
from asyncsend.store import receipts
from asyncsend.store.rows import Which

CODE = {"to": "+33612345678", "text": "Your code is 1234"}
WHERE = "https://shop.example.com/asyncsend/receipts"
TOKEN, SECRET = "tw1lio-token", "v0nage-secret"


@pytest.fixture
def at(lite, monkeypatch):
    """A site whose web side is asked in this process, with this URL for SMS."""

    def made(sms_url, **settings):
        lite.environment |= {"ASYNCSEND_SMS_URL": sms_url, "ASYNCSEND_RECEIPTS_URL": WHERE, **settings}
        for name, value in lite.environment.items():
            monkeypatch.setenv(name, value)
        return lite

    return made


@pytest.fixture
def twilio(at):
    return at(f"twilio://AC1:{TOKEN}@default?from=%2B15550100")


@pytest.fixture
def vonage(at):
    return at(f"vonage://key:x-secret@default?from=Shop&signature_secret={SECRET}")


@pytest.fixture
def aliyun(at):
    return at("aliyun://id:x-secret@default?sign=S&receipts_token=only-us")


def asked(path, *, query="", body=b"", method="POST", host="127.0.0.1:8000", **headers):
    said = []
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http", "HTTP_HOST": host, "CONTENT_TYPE": "application/x-www-form-urlencoded", **headers,
    }  # fmt: skip
    out = b"".join(web.application(environ, lambda status, _headers: said.append(status)))
    assert environ["wsgi.errors"].getvalue() == ""
    return int(said[0][:3]), out.decode()


def from_twilio(status="delivered", sid="SM1", key="order-17", signature=None, **more):
    form = {"MessageSid": sid, "MessageStatus": status, "AccountSid": "AC1", "To": CODE["to"], **more}
    query = urlencode({"job": key})
    signature = signature or RequestValidator(TOKEN).compute_signature(f"{WHERE}/twilio?{query}", form)
    return asked("/receipts/twilio", query=query, body=urlencode(form).encode(), HTTP_X_TWILIO_SIGNATURE=signature)


def kept(site, key="order-17"):
    store = site.store()
    try:
        return [(one.provider, one.message, one.status, one.error) for one in receipts.of_job(store, key)]
    finally:
        store.close()


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_receipt_of_twilios_is_taken_at_the_address_that_was_given_to_it(twilio):
    """Behind a proxy the address that reaches us is another."""
    assert from_twilio()[0] == 200
    assert from_twilio("undelivered", "SM2", ErrorCode="30003")[0] == 200
    assert kept(twilio) == [("twilio", "SM1", "delivered", None), ("twilio", "SM2", "undelivered", "30003")]


def test_a_receipt_of_twilios_comes_by_get_as_well(twilio):
    query = urlencode({"job": "order-17", "MessageSid": "SM1", "MessageStatus": "sent"})
    signature = RequestValidator(TOKEN).compute_signature(f"{WHERE}/twilio?{query}", {})
    assert asked("/receipts/twilio", method="GET", query=query, HTTP_X_TWILIO_SIGNATURE=signature)[0] == 200
    assert kept(twilio) == [("twilio", "SM1", "sent", None)]


@pytest.mark.parametrize("signature", ["", "x", "é", base64.b64encode(hmac.new(b"", b"", hashlib.sha1).digest()).decode(), RequestValidator("another").compute_signature(f"{WHERE}/twilio?job=order-17", {})])
def test_a_receipt_that_is_not_twilios_is_refused(twilio, signature):
    assert from_twilio(signature=signature or " ")[0] == 403
    assert kept(twilio) == []


@pytest.mark.parametrize("given, hashed", [("", "sha256"), ("&signature_method=sha512", "sha512"), ("&signature_method=md5", "md5")])
@pytest.mark.parametrize("how", ["get", "form", "json"])
def test_a_receipt_of_vonages_is_taken_if_its_own_library_signed_it(at, how, given, hashed):
    site = at(f"vonage://key:x-secret@default?from=Shop&signature_secret={SECRET}{given}")
    told = {"msisdn": "33612345678", "messageId": "0A00", "status": "delivered", "err-code": "0", "price": "0.03&=x", "client-ref": "order-17", "timestamp": "1795257600"}
    told["sig"] = Auth(api_key="key", signature_secret=SECRET, signature_method=hashed).sign_params(dict(told)).upper()

    def send():
        if how == "get":
            return asked("/receipts/vonage", method="GET", query=urlencode(told))
        if how == "form":
            return asked("/receipts/vonage", body=urlencode(told).encode())
        return asked("/receipts/vonage", body=json.dumps(told).encode(), CONTENT_TYPE="application/json; charset=UTF-8")

    assert send()[0] == 200
    assert kept(site) == [("vonage", "0A00", "delivered", None)]
    told["status"] = "failed"
    assert send()[0] == 403


@pytest.mark.parametrize("status, meaning", [("buffered", "queued"), ("accepted", "sent"), ("expired", "undelivered"), ("rejected", "failed"), ("strange", None)])
def test_the_words_of_vonage_are_understood(vonage, status, meaning):
    told = {"messageId": "0A00", "status": status, "err-code": "3", "client-ref": "order-17", "timestamp": "1"}
    told["sig"] = Auth(api_key="key", signature_secret=SECRET, signature_method="sha256").sign_params(dict(told))
    assert asked("/receipts/vonage", method="GET", query=urlencode(told))[0] == 200
    assert kept(vonage) == ([("vonage", "0A00", meaning, "3")] if meaning else [])


def test_a_list_of_aliyuns_is_taken_with_the_token_that_only_it_knows(aliyun):
    entry = {"phone_number": "1381111", "send_time": "2026-01-01 00:00:00", "sms_size": "1", "out_id": "order-17"}
    told = [{**entry, "biz_id": "1^2", "success": True, "err_code": "DELIVERED"}, {**entry, "biz_id": "3^4", "success": False, "err_code": "MOBILE_NOT_ON_SERVICE"}, {"biz_id": "5", "success": True}]
    body = json.dumps(told).encode()
    assert asked("/receipts/aliyun", query="token=only-u", body=body)[0] == 403
    assert asked("/receipts/aliyun", body=body)[0] == 403
    assert kept(aliyun) == []
    status, text = asked("/receipts/aliyun", query="token=only-us", body=body)
    assert (status, json.loads(text)["code"]) == (200, 0)
    assert kept(aliyun) == [("aliyun", "1^2", "delivered", None), ("aliyun", "3^4", "undelivered", "MOBILE_NOT_ON_SERVICE")]


@pytest.mark.parametrize("sms_url", ["", "file:///x", "vonage://key:x-secret@default?from=Shop", "aliyun://id:x-secret@default?sign=S"])
@pytest.mark.parametrize("provider", ["twilio", "vonage", "aliyun", "sns", ""])
def test_without_a_secret_nobody_is_believed(at, sms_url, provider):
    site = at(sms_url)
    signed = hmac.new(b"", b"&client-ref=order-17&messageId=1&status=delivered&token=", hashlib.sha256).hexdigest()
    query = f"client-ref=order-17&messageId=1&status=delivered&sig={signed}&token="
    wanted = 403 if provider and sms_url.startswith(f"{provider}:") else 404
    assert asked(f"/receipts/{provider}", method="GET", query=query)[0] == wanted
    assert asked(f"/receipts/{provider}", query="token=", body=b"[]")[0] == wanted
    assert kept(site) == []


def test_twilio_is_not_believed_while_nobody_said_where_it_reaches_us(at):
    at(f"twilio://AC1:{TOKEN}@default?from=%2B1", ASYNCSEND_RECEIPTS_URL="")
    form = {"MessageSid": "SM1", "MessageStatus": "delivered", "AccountSid": "AC1", "To": CODE["to"]}
    assert from_twilio(signature=RequestValidator(TOKEN).compute_signature("/twilio?job=order-17", form))[0] == 403


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'["x"]', b"\xff", b"[" * 100_000])
def test_what_is_no_receipt_is_a_bad_request(aliyun, body):
    assert asked("/receipts/aliyun", query="token=only-us", body=body)[0] == 400


@pytest.mark.parametrize("key, sid", [("", "SM1"), ("a b", "SM1"), ("é", "SM1"), ("x" * 65, "SM1"), ("order-17", ""), ("order-17", "x" * 65), ("order-17", "é")])
def test_what_names_no_job_of_ours_is_thanked_for_and_forgotten(twilio, key, sid):
    assert from_twilio("delivered", sid, key)[0] == 200
    store = twilio.store()
    assert store._rows("SELECT COUNT(*) FROM asyncsend_receipts")[0][0] == 0
    store.close()


# ── once, and never backwards ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", list(permutations(["queued", "sent", "delivered"])))
def test_receipts_in_any_order_and_twice_end_at_delivered(store, order):
    for status in (*order, *order):
        receipts.note(store, "twilio", "SM1", "order-17", status, None)
    assert [one.status for one in receipts.of_job(store, "order-17")] == ["delivered"]


def test_a_receipt_never_goes_backwards_and_delivered_is_final(store):
    def told(status):
        receipts.note(store, "twilio", "SM1", "order-17", status, "1" if status == "failed" else None)
        return receipts.of_job(store, "order-17")[0].status

    assert [told(status) for status in ("sent", "queued", "undelivered", "failed", "sent", "delivered", "failed")] == [
        "sent", "sent", "undelivered", "undelivered", "undelivered", "delivered", "delivered",
    ]  # fmt: skip


def test_old_receipts_are_forgotten_and_new_ones_are_not(store):
    for sid in ("SM1", "SM2"):
        receipts.note(store, "twilio", sid, "order-17", "sent", None)
    store._write("UPDATE asyncsend_receipts SET changed_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1000) WHERE message = 'SM1'")
    store.prune_others(900.0, 900.0, 500)
    assert [one.message for one in receipts.of_job(store, "order-17")] == ["SM2"]


# ── from the job to its receipt ──────────────────────────────────────────────────────────────────────────────────────


def test_a_job_shows_what_became_of_its_message(at, http):
    site = at(f"twilio://AC1:{TOKEN}@default?from=%2B15550100&base={http.url}")
    http.answers = [(201, {}, b'{"sid": "SM1", "status": "queued"}')]
    site.insert("sms", json.dumps(CODE), uid="order 17")  # no plain one: its digest is the key
    site.quiet("run")
    (request,) = http.requests
    from urllib.parse import parse_qs, urlsplit

    callback = urlsplit(parse_qs(request.body.decode())["StatusCallback"][0])
    assert callback._replace(query="").geturl() == f"{WHERE}/twilio"
    assert from_twilio("delivered", "SM1", parse_qs(callback.query)["job"][0])[0] == 200
    assert "twilio says: delivered at" in site("why", "order 17").stdout
    assert "twilio: delivered at" in site("job", "order 17").stdout
    [told] = json.loads(site("job", "order 17", "--json").stdout)["receipts"]
    assert (told["message"], told["status"]) == ("SM1", "delivered")


# ── held SMS, looked up in the gateway's list ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def held(at, http):
    """A site with an SMS whose outcome nobody knows, its attempt some minutes ago."""

    def made(*uids, minutes=30, payload=CODE):
        site = at(f"twilio://AC1:{TOKEN}@default?from=%2B15550100&base={http.url}")
        http.behave = "cut"
        for uid in uids or ["order-17"]:
            site.insert("sms", json.dumps(payload), uid=uid)
        site.quiet("run")
        http.behave, http.requests = "answer", []
        store = site.store()
        store._write(f"UPDATE asyncsend_attempts SET ended_at = FROM_UNIXTIME(UNIX_TIMESTAMP(ended_at) - {minutes * 60})")
        store._write(f"UPDATE asyncsend_jobs SET started_at = FROM_UNIXTIME(UNIX_TIMESTAMP(started_at) - {minutes * 60})")
        store.close()
        return site

    return made


def listed(http, *messages, more=None):
    """Twilio's answer; each message is (sid, text, minutes ago)."""
    page = [
        {"sid": sid, "body": body, "status": "delivered", "direction": "outbound-api", "to": CODE["to"], "date_sent": None,
         "date_created": format_datetime(datetime.now(UTC) - timedelta(minutes=ago))}
        for sid, body, ago in messages
    ]  # fmt: skip
    page.append({**page[0], "sid": "SM0", "body": CODE["text"], "direction": "inbound"} if page else {"direction": "inbound"})  # somebody's answer
    http.answers.append((200, {}, json.dumps({"messages": page, "next_page_uri": more}).encode()))


def states(site):
    return site.rows("state, reason, result")


def test_what_was_sent_after_all_is_done_and_not_sent_again(held, http):
    site = held()
    listed(http, ("SM8", "something else", 30), ("SM9", CODE["text"], 30), ("SM1", CODE["text"], 600))
    assert "Would: job order-17 was sent" in site("reconcile", "order-17", "--dry-run").stdout
    assert states(site)[0][:2] == ("held", "unknown")
    listed(http, ("SM8", "something else", 30), ("SM9", CODE["text"], 30), ("SM1", CODE["text"], 600))
    done = site("reconcile", "--all")
    assert "1 done, 0 ready, 0 held." in done.stderr
    [(state, reason, result)] = states(site)
    assert (state, reason, json.loads(result)) == ("done", "reconciled", {"status": "delivered", "message": "SM9"})
    assert [request.path for request in http.requests] == ["/2010-04-01/Accounts/AC1/Messages.json?To=%2B33612345678&PageSize=100"] * 2


def test_what_was_never_sent_is_ready_again(held, http):
    site = held()
    listed(http, ("SM1", CODE["text"], 600), ("SM2", CODE["text"], 1), more="/2010-04-01/Accounts/AC1/Messages.json?Page=1")
    listed(http, ("SM3", "something else", 30))
    site("reconcile", "order-17")
    assert states(site)[0][0] == "ready"
    http.answers = [(201, {}, b'{"sid": "SM4"}')]
    site.quiet("run")
    assert states(site)[0][0] == "done"


@pytest.mark.parametrize("why", ["too early", "an error", "half a page", "strange", "another server", "cut", "endless"])
def test_what_cannot_be_told_stays_held(held, http, why):
    site = held(minutes=5 if why == "too early" else 30)
    if why == "too early":
        listed(http)
    elif why == "an error":
        http.answers = [(500, {}, b"{}")]
    elif why == "half a page":
        http.answers = [(200, {"Content-Length": "1000"}, b'{"messages": []')]
    elif why == "strange":
        http.answers = [(200, {}, b'{"messages": [{"sid": "SM1"}]}')]
    elif why == "another server":
        listed(http, more=f"{http.url.replace('127.0.0.1', 'localhost')}/2010-04-01/Accounts/AC1/Messages.json?Page=1")
        listed(http)
    elif why == "cut":
        http.behave = "cut"
    elif why == "endless":
        for _ in range(12):
            listed(http, more="/2010-04-01/Accounts/AC1/Messages.json?Page=1")
    done = site("reconcile", "--all")
    assert "stays held" in done.stdout
    assert states(site)[0][:2] == ("held", "unknown")
    assert why != "another server" or len(http.requests) == 1, "our password goes to nobody else"


def test_one_message_counts_for_one_of_two_jobs_with_the_same_text(held, http):
    site = held("a", "b")
    for _ in range(4):
        listed(http, ("SM9", CODE["text"], 30))
    assert "1 done, 1 ready, 0 held." in site("reconcile", "--all", "--dry-run").stderr
    site("reconcile", "--all")
    assert sorted(row[0] for row in states(site)) == ["done", "ready"]


def test_a_message_that_another_job_knows_as_its_own_is_not_taken_for_this_one(held, http):
    site = held()
    store = site.store()
    store._write(
        "INSERT INTO asyncsend_jobs (task, payload, state, finished_at, result) VALUES ('sms', '{}', 'done', FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1800), :result)",
        result='{"status": 201, "message": "SM9"}',
    )
    store.close()
    listed(http, ("SM9", CODE["text"], 30))
    site("reconcile", "--all")
    assert states(site)[0][0] == "ready"


def test_only_a_held_job_becomes_one_that_was_sent(store):
    store._write("INSERT INTO asyncsend_jobs (task, payload, unique_key, state, reason) VALUES ('sms', '{}', 'key', 'held', 'unknown'), ('sms', '{}', NULL, 'ready', NULL)")
    first, second = sorted(store.ids(Which(task="sms"), 2))
    assert receipts.messages_since(store, datetime.now(UTC) - timedelta(minutes=5)) == set()
    assert [receipts.was_sent(store, one, '{"message": "SM9"}') for one in (first, first, second)] == [True, True, False]
    assert not receipts.was_sent(store, first, '{"message": "SM8"}')
    assert [(one.state.value, one.result) for one in store.these([first, second])] == [("done", '{"message": "SM9"}'), ("ready", None)]
    assert receipts.messages_since(store, datetime.now(UTC) - timedelta(minutes=5)) == {'{"message": "SM9"}'}
    assert receipts.messages_since(store, datetime.now(UTC) + timedelta(minutes=5)) == set()
    store._write("INSERT INTO asyncsend_jobs (task, payload, unique_key) VALUES ('sms', '{}', 'key')")  # which is free again


@pytest.mark.parametrize("payload, words", [({"to": CODE["to"], "template_id": "HX1"}, "template"), (CODE, "cannot be asked")])
def test_what_no_gateway_can_tell_stays_held(held, http, payload, words):
    site = held(payload=payload)
    if payload is CODE:
        site.environment["ASYNCSEND_SMS_URL"] = "vonage://key:secret@default?from=Shop"
    assert words in site("reconcile", "--all").stdout
    assert http.requests == []
    assert states(site)[0][0] == "held"
