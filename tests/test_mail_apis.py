"""Mail by HTTP: what each provider is asked, checked as it documents its requests, and what each of its documented replies means. The server is real."""

import base64
import json
import time
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.parser import BytesParser

import pytest
from parts import SmtpSink, assert_signed_for_amazon

from asyncsend import config, execute
from asyncsend.answers import Answer, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.tasks import email
from asyncsend.tasks.email import Composer, open_transport
from asyncsend.tasks.mail_api import Api

BORN = datetime(2026, 11, 3, 9, 15, 30, 123456, tzinfo=UTC)
KEY = "SG.k/y+1=@%"
QUOTED = "SG.k%2Fy%2B1%3D%40%25"
LETTER = {
    "to": "Ann Lee <ann@example.com>", "subject": "Größe {to}", "text": "Hello {key}\n", "html": '<p>Hello</p><img src="cid:logo">', "reply_to": "Help <help@example.com>", "headers": {"X-Shop": "1", "List-Unsubscribe": "<https://example.com/u>"},
    "attachments": [{"name": "logo.png", "base64": "aGk=", "cid": "logo"}, {"name": "Größe.pdf", "base64": base64.b64encode(b"%PDF \x00").decode()}],
}  # fmt: skip
PLAIN = {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}
OK = {
    "sendgrid": (202, {"X-Message-Id": "14c5d75ce93.dfd.64b469"}, b""),
    "mailgun": (200, {}, b'{"id":"<order-17@example.com>","message":"Queued. Thank you."}'),
    "brevo": (201, {}, b'{"messageId":"<2026@smtp-relay.mailin.fr>"}'),
    "ses": (200, {}, b'{"MessageId":"0102018e-000000"}'),
    "postmark": (200, {}, b'{"To":"ann@example.com","SubmittedAt":"2026-11-03T09:15:30Z","MessageID":"0a129aee-e1cd","ErrorCode":0,"Message":"OK"}'),
}
IDS = {"sendgrid": "14c5d75ce93.dfd.64b469", "mailgun": "<order-17@example.com>", "brevo": "<2026@smtp-relay.mailin.fr>", "postmark": "0a129aee-e1cd", "ses": "0102018e-000000"}
PROVIDERS = list(OK)


@pytest.fixture
def send(tmp_path, http):
    """A function that composes a payload and hands it to a provider behind our server."""
    opened = []

    def made(name, payload=PLAIN, timeout=10.0, api=None):
        settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "Shop, Inc <shop@example.com>"})
        if api is None:
            login = f"AKIDEXAMPLE:{QUOTED}" if name == "ses" else QUOTED
            api = Api(f"{name}://{login}@{'mg.example.com' if name == 'mailgun' else 'default'}?base={http.url}{'&region=eu-west-1' if name == 'ses' else ''}", timeout)
            opened.append(api)
        if not http.answers:
            http.answers = [OK[name]]
        made.api = api
        return api.send(*Composer(settings)(payload, job()), "order-17")

    yield made
    for api in opened:
        api.close()


def job(**members):
    return Job(17, "email", "{}", uid="order-17", created_at=BORN, **members)


def kind(request):
    return {name.lower(): value for name, value in request.headers.items()}["content-type"]


def asked(http, path):
    """The JSON of the one request, which went where and as its provider says."""
    [request] = http.requests
    assert (request.method, request.path, request.headers["Content-Type"]) == ("POST", path, "application/json")
    return request.headers, json.loads(request.body)


# ── what each is asked ───────────────────────────────────────────────────────────────────────────────────────────────


def test_sendgrid_is_asked_as_it_documents(send, http):
    assert send("sendgrid", LETTER) == {"status": 202, "message": "14c5d75ce93.dfd.64b469"}
    headers, body = asked(http, "/v3/mail/send")
    assert headers["Authorization"] == f"Bearer {KEY}"
    own = body.pop("headers")
    assert own == {"Message-ID": "<order-17@example.com>", "X-Shop": "1", "List-Unsubscribe": "<https://example.com/u>", "Auto-Submitted": "auto-generated"}
    content = body.pop("content")
    assert [part["type"] for part in content] == ["text/plain", "text/html"], "text/plain must come first"
    assert [part["value"].strip() for part in content] == ["Hello {key}", LETTER["html"]]
    assert body == {
        "personalizations": [{"to": [{"email": "ann@example.com", "name": "Ann Lee"}], "custom_args": {"asyncsend": "order-17"}}],
        "from": {"email": "shop@example.com", "name": "Shop, Inc"},
        "reply_to": {"email": "help@example.com", "name": "Help"},
        "subject": "Größe {to}",
        "attachments": [
            {"content": "aGk=", "filename": "logo.png", "type": "image/png", "disposition": "inline", "content_id": "logo"},
            {"content": base64.b64encode(b"%PDF \x00").decode(), "filename": "Größe.pdf", "type": "application/pdf", "disposition": "attachment"},
        ],
    }


def test_sendgrid_gets_no_empty_members(send, http):
    send("sendgrid")
    _, body = asked(http, "/v3/mail/send")
    assert set(body) == {"personalizations", "from", "subject", "content", "headers"}
    assert body["personalizations"][0]["to"] == [{"email": "ann@example.com"}]


def test_mailgun_gets_the_message_as_it_is(send, http, tmp_path):
    assert send("mailgun", LETTER) == {"status": 200, "message": "<order-17@example.com>"}
    [request] = http.requests
    assert (request.method, request.path) == ("POST", "/v3/mg.example.com/messages.mime")
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    form = BytesParser(policy=policy.HTTP).parsebytes(b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.body)
    assert form.get_content_type() == "multipart/form-data"
    parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
    assert set(parts) == {"to", "v:asyncsend", "message"}
    assert (parts["to"].get_payload(), parts["v:asyncsend"].get_payload()) == ("ann@example.com", "order-17")
    assert parts["message"].get_filename() == "message.eml", "as a file upload"
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "Shop, Inc <shop@example.com>"})
    assert Composer(settings)(LETTER, job())[2] in request.body


def test_brevo_is_asked_as_it_documents(send, http):
    assert send("brevo", LETTER) == {"status": 201, "message": "<2026@smtp-relay.mailin.fr>"}
    headers, body = asked(http, "/v3/smtp/email")
    assert headers["api-key"] == KEY
    assert (body.pop("textContent").strip(), body.pop("htmlContent").strip()) == ("Hello {key}", LETTER["html"])
    assert body == {
        "sender": {"email": "shop@example.com", "name": "Shop, Inc"}, "to": [{"email": "ann@example.com", "name": "Ann Lee"}], "replyTo": {"email": "help@example.com", "name": "Help"}, "subject": "Größe {to}",
        "attachment": [{"content": "aGk=", "name": "logo"}, {"content": base64.b64encode(b"%PDF \x00").decode(), "name": "Größe.pdf"}],
        "headers": {"X-Shop": "1", "List-Unsubscribe": "<https://example.com/u>", "Auto-Submitted": "auto-generated", "idempotencyKey": "order-17"},
    }  # fmt: skip


def test_postmark_is_asked_as_it_documents(send, http):
    assert send("postmark", LETTER) == {"status": 200, "message": "0a129aee-e1cd"}
    headers, body = asked(http, "/email")
    assert (headers["X-Postmark-Server-Token"], headers["Accept"]) == (KEY, "application/json")
    assert (body.pop("TextBody").strip(), body.pop("HtmlBody").strip()) == ("Hello {key}", LETTER["html"])
    assert {"Name": "Message-ID", "Value": "<order-17@example.com>"} in body.pop("Headers")
    assert body == {
        "From": '"Shop, Inc" <shop@example.com>', "To": "Ann Lee <ann@example.com>", "ReplyTo": "Help <help@example.com>", "Subject": "Größe {to}", "Metadata": {"asyncsend": "order-17"},
        "Attachments": [
            {"Name": "logo.png", "Content": "aGk=", "ContentType": "image/png", "ContentID": "cid:logo"},
            {"Name": "Größe.pdf", "Content": base64.b64encode(b"%PDF \x00").decode(), "ContentType": "application/pdf"},
        ],
    }  # fmt: skip


def test_ses_is_asked_as_botocore_asks_and_signed_by_its_word(send, http, tmp_path):
    import botocore.session

    assert send("ses", LETTER) == {"status": 200, "message": "0102018e-000000"}
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "Shop, Inc <shop@example.com>"})
    client = botocore.session.Session().create_client("sesv2", "eu-west-1", endpoint_url=http.url, aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=KEY)
    http.answers = [OK["ses"]]
    client.send_email(
        Destination={"ToAddresses": ["ann@example.com"]}, Content={"Raw": {"Data": Composer(settings)(LETTER, job())[2]}}, EmailTags=[{"Name": "asyncsend", "Value": "order-17"}]
    )
    ours, theirs = http.requests
    assert (ours.method, ours.path, json.loads(ours.body)) == (theirs.method, theirs.path, json.loads(theirs.body))
    assert ours.path == "/v2/email/outbound-emails"
    assert_signed_for_amazon(ours, http.url, "ses", "AKIDEXAMPLE", KEY)


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_attempt_asks_the_same(send, http, name):
    send(name, LETTER)
    send(name, LETTER)
    first, second = http.requests
    assert (first.body, kind(first)) == (second.body, kind(second))


# ── what its replies mean ────────────────────────────────────────────────────────────────────────────────────────────

SG = b'{"errors":[{"message":"%s","field":null,"help":null}]}'
PM = b'{"ErrorCode":%d,"Message":"%s"}'
BR = b'{"code":"%s","message":"no"}'
REPLIES = [
    ("sendgrid", 400, SG % b"Does not contain a valid address.", Refused, "email-refused"),
    ("sendgrid", 413, SG % b"Payload too large", Refused, "email-refused"),
    ("sendgrid", 401, SG % b"The provided authorization grant is invalid, expired, or revoked", Snooze, "email-account"),
    ("sendgrid", 401, SG % b"Maximum credits exceeded", Snooze, "email-account"),
    ("sendgrid", 403, SG % b"The from address does not match a verified Sender Identity.", Snooze, "email-account"),
    ("sendgrid", 429, SG % b"too many requests", Snooze, "email-limit"),
    ("sendgrid", 406, SG % b"Missing Accept header", Retry, "email-406"),
    ("sendgrid", 500, SG % b"internal", Retry, "email-500"),
    ("sendgrid", 503, b"<html>", Retry, "email-503"),
    ("mailgun", 400, b'{"message":"to parameter is not a valid address. please check documentation"}', Refused, "email-refused"),
    ("mailgun", 413, b"", Refused, "email-refused"),
    ("mailgun", 401, b"Forbidden", Snooze, "email-account"),
    ("mailgun", 402, b'{"message":"Payment required"}', Snooze, "email-account"),
    ("mailgun", 403, b'{"message":"Domain mg.example.com is not allowed to send: disabled"}', Snooze, "email-account"),
    ("mailgun", 404, b'{"message":"Domain not found: mg.example.com"}', Snooze, "email-account"),
    ("mailgun", 429, b'{"message":"Too many requests"}', Snooze, "email-limit"),
    ("mailgun", 500, b'{"message":"Internal Server Error"}', Retry, "email-500"),
    ("brevo", 400, BR % b"invalid_parameter", Refused, "email-refused"),
    ("brevo", 400, BR % b"missing_parameter", Refused, "email-refused"),
    ("brevo", 400, BR % b"not_enough_credits", Snooze, "email-account"),
    ("brevo", 400, BR % b"something_new", Retry, "email-400"),
    ("brevo", 401, BR % b"unauthorized", Snooze, "email-account"),
    ("brevo", 402, BR % b"not_enough_credits", Snooze, "email-account"),
    ("brevo", 403, BR % b"permission_denied", Snooze, "email-account"),
    ("brevo", 429, BR % b"too_many_requests", Snooze, "email-limit"),
    ("brevo", 500, b"", Retry, "email-500"),
    ("postmark", 401, PM % (10, b"Bad or missing API token"), Snooze, "email-account"),
    ("postmark", 422, PM % (300, b"Invalid 'To' address"), Refused, "email-refused"),
    ("postmark", 422, PM % (406, b"You tried to send to a recipient that has been marked as inactive."), Refused, "email-refused"),
    ("postmark", 422, PM % (400, b"The From address you supplied is not a Sender Signature"), Snooze, "email-account"),
    ("postmark", 422, PM % (405, b"Not allowed to send"), Snooze, "email-account"),
    ("postmark", 422, PM % (412, b"Account is pending"), Snooze, "email-account"),
    ("postmark", 429, PM % (429, b"Rate limit exceeded"), Snooze, "email-limit"),
    ("postmark", 413, b"", Refused, "email-refused"),
    ("postmark", 200, PM % (100, b"Maintenance"), Retry, "email-200"),
    ("postmark", 500, PM % (100, b"Maintenance"), Retry, "email-500"),
    ("postmark", 503, b"", Retry, "email-503"),
    ("ses", 500, b"", Retry, "email-500"),
    ("ses", 403, b"<html>", Snooze, "email-account"),
    ("ses", 429, b"", Snooze, "email-limit"),
    ("ses", 413, b"", Refused, "email-refused"),
    ("ses", 400, b"[]", Retry, "email-400"),
]


@pytest.mark.parametrize("name, status, body, kind, reason", REPLIES)
def test_each_documented_error_is_told_apart(send, http, name, status, body, kind, reason):
    http.answers = [(status, {}, body)]
    with pytest.raises(kind) as caught:
        send(name)
    assert caught.value.reason == reason
    assert f"answered {status}" in str(caught.value)
    assert KEY not in str(caught.value)


SES = {  # every error of "SendEmail" and of "Common Errors" in the reference of the API v2, with its status
    ("TooManyRequestsException", 429): "email-limit", ("LimitExceededException", 400): "email-limit", ("ThrottlingException", 400): "email-limit",
    ("AccountSuspendedException", 400): "email-account", ("SendingPausedException", 400): "email-account", ("MailFromDomainNotVerifiedException", 400): "email-account",
    ("NotFoundException", 404): "email-account", ("AccessDeniedException", 403): "email-account", ("NotAuthorized", 400): "email-account", ("IncompleteSignature", 400): "email-account",
    ("InvalidSignatureException", 403): "email-account", ("SignatureDoesNotMatch", 403): "email-account", ("UnrecognizedClientException", 403): "email-account",
    ("InvalidClientTokenId", 403): "email-account", ("MissingAuthenticationTokenException", 403): "email-account", ("OptInRequired", 403): "email-account",
    ("RequestExpired", 400): "email-account", ("ExpiredTokenException", 403): "email-account",
    ("MessageRejected", 400): "email-refused", ("BadRequestException", 400): "email-refused", ("ValidationError", 400): "email-refused",
    ("InternalFailure", 500): "email-500", ("InternalServiceErrorException", 500): "email-500", ("ServiceUnavailable", 503): "email-503", ("SomethingNew", 400): "email-400",
}  # fmt: skip


@pytest.mark.parametrize("error, status", SES)
@pytest.mark.parametrize("where", ["header", "code", "type"])
def test_each_documented_error_of_ses_is_told_apart_wherever_its_name_stands(send, http, error, status, where):
    said = f"no: {KEY}"
    body = {"header": {"message": said}, "code": {"code": error, "message": said}, "type": {"__type": f"com.amazonaws.ses#{error}", "Message": said}}[where]
    http.answers = [(status, {"x-amzn-ErrorType": f"{error}:http://internal.amazon.com/coral/com.amazonaws.ses/"} if where == "header" else {}, json.dumps(body).encode())]
    with pytest.raises(Answer) as caught:
        send("ses")
    reason = SES[error, status]
    assert (caught.value.reason, type(caught.value)) == (reason, {"limit": Snooze, "account": Snooze, "refused": Refused}.get(reason.removeprefix("email-"), Retry))
    assert KEY not in str(caught.value)
    assert "no: ***" in str(caught.value)


@pytest.mark.parametrize(
    "error, words, reason, delay",
    [("ThrottlingException", "Daily message quota exceeded", "email-limit", 4 * 3600), ("TooManyRequestsException", "Maximum sending rate exceeded.", "email-limit", 15), ("LimitExceededException", "", "email-limit", 300),
     ("MessageRejected", "Email address is not verified. The following identities failed the check in region EU-WEST-1: shop@example.com", "email-account", 300)],
)  # fmt: skip
def test_what_ses_says_beside_the_name_of_an_error_is_heard(send, http, error, words, reason, delay):
    http.answers = [(400, {"x-amzn-ErrorType": error}, json.dumps({"message": words}).encode())]
    with pytest.raises(Snooze) as caught:
        send("ses")
    assert (caught.value.reason, caught.value.delay) == (reason, delay)
    assert caught.value.about["troubled"]


@pytest.mark.parametrize(
    "name, status, headers, low, high",
    [("sendgrid", 429, {"Retry-After": "120"}, 120, 120), ("sendgrid", 429, {"X-RateLimit-Reset": "AHEAD"}, 80, 100), ("sendgrid", 429, {"X-RateLimit-Reset": "1392815263"}, 1, 1), ("sendgrid", 429, {}, 300, 300),
     ("brevo", 429, {"x-sib-ratelimit-reset": "42"}, 42, 42), ("mailgun", 429, {"Retry-After": "7"}, 7, 7), ("mailgun", 429, {"Retry-After": "999999999"}, 86400, 86400), ("sendgrid", 429, {"X-RateLimit-Reset": "soon"}, 300, 300),
     ("sendgrid", 401, {}, 300, 300), ("postmark", 500, {"Retry-After": "30"}, 30, 30)],
)  # fmt: skip
def test_what_the_provider_says_of_when_is_heard(send, http, name, status, headers, low, high):
    http.answers = [(status, {key: str(int(time.time()) + 100) if value == "AHEAD" else value for key, value in headers.items()}, b"{}")]
    with pytest.raises((Snooze, Retry)) as caught:
        send(name)
    assert low <= caught.value.delay <= high


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("behave", ["cut", "hang"])
def test_a_reply_that_never_comes_is_unknown_and_the_next_attempt_asks_the_same(send, http, name, behave):
    http.behave = behave
    with pytest.raises(Unknown):
        send(name, LETTER, timeout=0.3)
    http.release.set()
    http.behave, http.answers = "answer", [OK[name]] * 3  # one more for the thread that hung
    send(name, LETTER)
    assert http.requests[0].body == http.requests[-1].body


def test_an_unknown_outcome_is_tried_again_or_held_as_the_setting_says(tmp_path):
    for value, state in (("retry", State.READY), ("hold", State.HELD)):
        settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_ON_UNKNOWN": value})
        assert execute.meaning(Unknown("x"), job(), email.policy(settings), lambda: 0.0).state is state


def test_a_reply_that_breaks_off_undoes_no_success(send, http):
    http.answers = [(202, {"Content-Length": "100", "X-Message-Id": "1"}, b"")]
    assert send("sendgrid")["message"] == "1"
    http.answers = [(200, {"Content-Length": "100"}, b'{"ErrorCode"')]
    with pytest.raises(Unknown):
        send("postmark")


@pytest.mark.parametrize(
    ("status", "headers", "about"),
    [(401, {}, {"troubled": True, "broken": True}), (429, {"Retry-After": "77"}, {"troubled": True, "leave_alone": 77.0}), (400, {}, {"failed": True}), (413, {}, None), (500, {}, None), (406, {}, None)],
)
def test_an_answer_says_of_the_account_what_its_reason_means(send, http, status, headers, about):
    http.answers = [(status, headers, b"")]
    with pytest.raises(Answer) as caught:
        send("sendgrid")
    assert caught.value.about == about


def test_a_provider_that_is_away_charges_one_mail_and_stops_the_channel(send):
    api = Api("sendgrid://key@default?base=http://127.0.0.1:9", 1.0)
    with pytest.raises(Retry) as caught:
        send("sendgrid", api=api)
    assert (caught.value.reason, caught.value.about["unsent"], caught.value.about["leave_alone"]) == ("connect-failed", True, 60.0)
    api.close()


@pytest.mark.parametrize(
    "url", ["sendgrid://default", "sendgrid://:key@default", "sendgrid://key@default?from=x", "mailgun://key@", "brevo://a:b@default", "postmark://", "http+template:///nowhere.toml", "ses://key:secret@default", "ses://key@default?region=eu-west-1", "ses://key:secret@default?region=Dublin", "ses://key:secret@eu-west-1", "ses://k:s@default?region=eu-west-1&x=1"]
)
def test_a_url_that_lacks_something_says_what(url):
    with pytest.raises(ConfigurationError, match=r"ASYNCSEND_EMAIL_URL must be|cannot be read"):
        open_transport(url)


@pytest.mark.parametrize("url, host", [("sendgrid://k@default", "api.sendgrid.com"), ("mailgun://k@mg.example.com", "api.mailgun.net"), ("brevo://k@default", "api.brevo.com"), ("postmark://k@default", "api.postmarkapp.com"), ("ses://k:s@default?region=eu-west-1", "email.eu-west-1.amazonaws.com"), ("ses://k:s@default?region=cn-north-1", "email.cn-north-1.amazonaws.com.cn"), ("mailgun://k@mg.example.com?base=https://api.eu.mailgun.net", "api.eu.mailgun.net")])
def test_without_a_base_each_goes_to_its_own_host_by_https(url, host):
    api = open_transport(url)
    assert api.host == host
    assert api.gateway.url.startswith("https://")


# ── any other ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_any_other_provider_is_a_template(tmp_path, http):
    path = tmp_path / "mail.toml"
    path.touch(0o600)
    path.write_text(
        f'url = "{http.url}/send/{{key}}"\n[headers]\nAuthorization = "Bearer s3cret-key"\nIdempotency-Key = "{{key}}"\n[json]\nto = "{{to}}"\nfrom = "{{from_name}} <{{from}}>"\nsubject = "{{subject}}"\nraw = "{{mime_base64}}"\nmessage_id = "{{message_id}}"\n'
        '[success]\njson = { ok = true }\n[[never]]\njson = { error = ["bounced"] }\n[[never]]\nstatus = [422]\n[pause]\nstatus = [401]\n[limit]\nstatus = [429]\n'
    )
    api = open_transport(f"http+template://{path}")
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>"})
    sent = Composer(settings)(LETTER, job())
    http.answers = [(200, {}, b'{"ok": true, "id": 7}')]
    assert api.send(*sent, "order-17") == {"status": 200, "message": "7"}
    [request] = http.requests
    body = json.loads(request.body)
    assert (request.path, request.headers["Idempotency-Key"]) == ("/send/order-17", "order-17")
    assert base64.b64decode(body.pop("raw")) == sent[2]
    assert body == {"to": "ann@example.com", "from": "Shop <shop@example.com>", "subject": "Größe {to}", "message_id": "<order-17@example.com>"}
    for status, reply, kind, reason in ((200, b'{"error":"bounced"}', Refused, "email-refused"), (422, b"{}", Refused, "email-refused"), (429, b"s3cret-key", Snooze, "email-limit")):
        http.answers = [(status, {}, reply)]
        with pytest.raises(kind) as caught:
            api.send(*sent, "order-17")
        assert caught.value.reason == reason
        assert "s3cret-key" not in str(caught.value)
    api.close()


@pytest.mark.parametrize("rule", ["[[never]]\ncode = [1]", "limit = 7", "never = [7]", "[[pause]]\nstatus = 401"])
def test_a_template_that_does_not_fit_is_named_before_anything_is_sent(tmp_path, rule):
    path = tmp_path / "mail.toml"
    path.touch(0o600)
    path.write_text(f'url = "https://x.example"\n{rule if "=" in rule.splitlines()[0] else ""}\n[json]\nto = "{{to}}"\n{rule if rule.startswith("[") else ""}\n')
    with pytest.raises(ConfigurationError, match="does not fit"):
        open_transport(f"http+template://{path}")


# ── a whole run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_sends_by_a_provider_and_no_key_is_seen_anywhere(lite, http):
    lite.environment["ASYNCSEND_EMAIL_URL"] = f"sendgrid://{QUOTED}@default?base={http.url}"
    http.answers = [OK["sendgrid"], (400, {}, SG % f"bad {KEY}".encode()), (429, {}, SG % b"too many requests")]
    for number in range(4):
        lite.insert("email", json.dumps({**PLAIN, "to": f"a{number}@example.com"}), priority=-number)
    lite.quiet("run")
    assert lite.rows("state, reason") == [("done", None), ("dead", "email-refused"), ("ready", "email-limit"), ("ready", "breaker-open")]
    assert lite.rows("attempts")[2:] == [(0,), (0,)]
    assert len(http.requests) == 3
    said = lite.log() + str(lite.rows("error")) + "".join(lite(*call, code=None).stdout for call in (["config"], ["doctor"], ["status"], ["jobs"]))
    assert KEY not in said
    assert QUOTED not in said
    assert "sendgrid://***@default" in said
    assert "mails go to 127.0.0.1 by HTTP" in said
    assert "the mail provider's limit is reached" in said


@pytest.mark.parametrize("failures, dead", [("3/hour", 3), ("off", 5)])
@pytest.mark.parametrize("way", ["sendgrid", "sendmail"])
def test_what_a_provider_or_sendmail_refuses_counts_as_a_failure(lite, http, tmp_path, way, failures, dead):
    program = tmp_path / "sendmail"
    program.write_text("#!/bin/sh\ncat > /dev/null\nexit 67\n")
    program.chmod(0o700)
    lite.environment |= {"ASYNCSEND_EMAIL_FAILURES": failures, "ASYNCSEND_EMAIL_URL": f"sendmail://{program}" if way == "sendmail" else f"sendgrid://{QUOTED}@default?base={http.url}"}
    http.answers = [(400, {}, SG % b"Does not contain a valid address.")] * 5
    for number in range(5):
        lite.insert("email", json.dumps({**PLAIN, "to": f"a{number}@example.com"}))
    lite.quiet("run")
    assert [state for (state,) in lite.rows("state")] == ["dead"] * dead + ["ready"] * (5 - dead)
    assert {reason for (reason,) in lite.rows("reason", "state = 'ready'")} <= {"breaker-open"}


# ── the size that a mail server takes ────────────────────────────────────────────────────────────────────────────────


def test_a_message_above_the_size_in_ehlo_is_refused_before_it_is_sent_and_both_sizes_are_named():
    sink = SmtpSink()
    sink.controller.SMTP_kwargs["data_size_limit"] = 2000
    try:
        out = open_transport(sink.url)
        out.send("shop@example.com", "ann@example.com", b"Subject: x\r\n\r\n" + b"x" * 900 + b"\r\n", "u")
        before = sink.connections
        with pytest.raises(Refused, match=r"3,016 bytes .* 127\.0\.0\.1 takes 2,000") as caught:
            out.send("shop@example.com", "ann@example.com", b"Subject: x\r\n\r\n" + (b"x" * 748 + b"\r\n") * 4 + b"\r\n", "u")
        assert caught.value.reason == "smtp-size"
        out.send("shop@example.com", "ann@example.com", b"Subject: y\r\n\r\nhello\r\n", "u")
        out.close()
        assert (len(sink.mails), sink.connections) == (2, before), "the connection is as good as before"
    finally:
        sink.controller.stop()


def test_a_message_above_the_size_gives_its_turn_back_and_opens_no_channel(lite):
    sink = SmtpSink()
    sink.controller.SMTP_kwargs["data_size_limit"] = 2000
    lite.environment |= {"ASYNCSEND_EMAIL_URL": sink.url, "ASYNCSEND_EMAIL_LIMIT": "5/day"}
    lite.sql("INSERT INTO asyncsend_channels (name, failures, stops, stopped_until, reason) VALUES ('email', 5, 1, '2020-01-01', 'login')")
    try:
        lite.insert("email", json.dumps({**PLAIN, "text": "x\n" * 2000}))
        lite.quiet("run")
        store = lite.store()
        left = store._rows("SELECT COUNT(*) FROM asyncsend_sends"), store._rows("SELECT failures FROM asyncsend_channels")
        store.close()
        assert (lite.rows("state, reason"), *left) == ([("dead", "smtp-size")], [(0,)], [(5,)])
    finally:
        sink.controller.stop()


# ── pictures inside the html ─────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_stand_beside_the_html_that_shows_them_and_the_rest_around_it(tmp_path):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "shop@example.com"})
    two = [*LETTER["attachments"], {"name": "b.gif", "base64": "aGk=", "cid": "b@shop"}]
    message = message_from_bytes(Composer(settings)({**LETTER, "attachments": two}, job())[2], policy=policy.default)
    tree = [(part.get_content_type(), part["Content-ID"], part.get_content_disposition()) for part in message.walk()]
    assert tree == [
        ("multipart/mixed", None, None), ("multipart/alternative", None, None), ("text/plain", None, None), ("multipart/related", None, None), ("text/html", None, None),
        ("image/png", "<logo>", "inline"), ("image/gif", "<b@shop>", "inline"), ("application/pdf", None, "attachment"),
    ]  # fmt: skip
    [related] = [part for part in message.walk() if part.get_content_type() == "multipart/related"]
    assert related.get_param("type") == "text/html", "RFC 2387 section 3.1"


def test_without_text_and_other_files_the_related_part_is_the_whole(tmp_path):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "shop@example.com"})
    payload = {"to": "ann@example.com", "subject": "x", "html": "<img src='cid:logo'>", "attachments": LETTER["attachments"][:1]}
    message = message_from_bytes(Composer(settings)(payload, job())[2], policy=policy.default)
    assert [part.get_content_type() for part in message.walk()] == ["multipart/related", "text/html", "image/png"]
    assert message.get_param("type") == "text/html"
    assert message["Subject"] == "x"


@pytest.mark.parametrize(
    "members, said",
    [({"html": None}, "no html"), ({"attachments": [{"name": "a", "base64": "", "cid": "a b"}]}, "cid"), ({"attachments": [{"name": "a", "base64": "", "cid": ">"}]}, "cid"), ({"attachments": [{"name": "a", "base64": "", "cid": ""}]}, "cid"),
     ({"attachments": [{"name": "a", "base64": "", "cid": "x"}] * 2}, "there already"), ({"attachments": [{"name": "a", "base64": "", "cid": 7}]}, "cid")],
)  # fmt: skip
def test_a_cid_that_cannot_be_shown_is_refused_by_name(tmp_path, members, said):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "shop@example.com"})
    with pytest.raises(Refused, match=r"attachments\[\d\].*" + said):
        Composer(settings)({**LETTER, **members}, job())


def test_no_text_can_forge_a_boundary(tmp_path):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "shop@example.com"})
    first = message_from_bytes(Composer(settings)(LETTER, job())[2], policy=policy.default).get_boundary()
    evil = {**LETTER, "text": f"x\n--{first}\nContent-Type: text/html\n\nforged\n--{first}--\n"}
    message = message_from_bytes(Composer(settings)(evil, job())[2], policy=policy.default)
    assert len(list(message.walk())) == 7
    assert f"--{first}" in message.get_body(("plain",)).get_content()
