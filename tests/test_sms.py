"""SMS: what a gateway is asked, and what its reply means. The gateway is a real HTTP server that answers as the documented ones do."""

import base64
import json
import socket
import stat
import subprocess
from urllib.parse import parse_qs, urlsplit

import pytest
from parts import eventually

from asyncsend import config, execute
from asyncsend.answers import BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.tasks import sms as sms_module
from asyncsend.tasks.sms import Sms, gateway, message_of

CODE = {"to": "+33612345678", "text": "Your code is 1234"}


@pytest.fixture
def sender(tmp_path):
    """An SMS sender behind a URL."""
    opened = []

    def made(url, timeout=10.0):
        opened.append(Sms(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_SMS_URL": url}), timeout))
        return opened[-1]

    yield made
    for one in opened:
        one.close()


@pytest.fixture
def twilio(sender, http):
    return sender(f"twilio://AC123:t0ken%2Fx@default?from=%2B15550100&base={http.url}")


@pytest.fixture
def template(tmp_path, sender, http):
    """A gateway of the user's own: TOML in which BASE stands for the server."""

    def made(text, timeout=10.0):
        path = tmp_path / "my gateway.toml"
        path.touch(0o600)
        path.write_text(text.replace("BASE", http.url), "utf-8")
        return sender(f"http+template://{str(path).replace(' ', '%20')}", timeout)

    return made


def job(**members):
    return Job(17, "sms", "{}", uid="order-17", **members)


def replies(http, status, body, **headers):
    http.answers = [(status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode() if not isinstance(body, bytes) else body)]


def form(request):
    return {name: values[0] for name, values in parse_qs(request.body.decode(), keep_blank_values=True, strict_parsing=True).items()}


# ── the message ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", ["+12", "+33612345678", "+123456789012345", "+861381234567"])
def test_a_number_in_e164_form_is_taken(number):
    assert message_of({**CODE, "to": number}, "")["to"] == number


@pytest.mark.parametrize(
    "number",
    [None, "", " ", "0612345678", "33612345678", "0033612345678", "+0612345678", "+1", "+1234567890123456", "+33 6 12 34 56 78", "+33-612345678", "+33612345678\n", " +33612345678", "+33612345678,+33612345679", "+٣٣٦١٢٣٤٥٦٧٨",
     "＋33612345678", "+336123x", "tel:+33612345678", 33612345678, ["+33612345678"]],
)  # fmt: skip
def test_a_number_in_any_other_form_is_refused_by_name(number):
    with pytest.raises(BadPayload, match=r"^to "):
        message_of({**CODE, "to": number}, "")


@pytest.mark.parametrize("members", [{}, {"text": None, "template_id": None}, {"text": "x", "template_id": "HX1"}])
def test_either_text_or_template_id_must_be_given_and_never_both(members):
    with pytest.raises(BadPayload, match="either text or template_id"):
        message_of({"to": CODE["to"], **members}, "")


@pytest.mark.parametrize("words, good", [("x", True), ("x" * 1600, True), ("", False), ("x" * 1601, False), ("line\nline", True)])
def test_a_text_has_1_to_1600_characters(words, good):
    if good:
        assert message_of({**CODE, "text": words}, "")["text"] == words
    else:
        with pytest.raises(BadPayload, match=r"^text"):
            message_of({**CODE, "text": words}, "")


@pytest.mark.parametrize("members", [{"mobile": "1"}, {"Text": "x"}, {"body": "x"}])
def test_an_unknown_member_is_refused_by_name(members):
    (name,) = members
    with pytest.raises(BadPayload, match=repr(name)):
        message_of({**CODE, **members}, "")


@pytest.mark.parametrize("params", [[1], "x", 7, True])
def test_params_of_another_form_are_refused(params):
    with pytest.raises(BadPayload, match=r"^params"):
        message_of({"to": CODE["to"], "template_id": "T1", "params": params}, "")


def test_the_payloads_own_sender_goes_before_the_setting():
    assert message_of(CODE, "+15550100")["from"] == "+15550100"
    assert message_of({**CODE, "from": "SHOP"}, "+15550100")["from"] == "SHOP"


# ── Twilio ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_twilio_is_asked_exactly_as_it_documents(twilio, http):
    replies(http, 201, {"sid": "SM123", "status": "queued"})
    assert twilio({**CODE, "text": "Größe: 42 & {to}\n+1"}, job()) == {"status": 201, "message": "SM123"}
    (request,) = http.requests
    assert (request.method, request.path) == ("POST", "/2010-04-01/Accounts/AC123/Messages.json")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"AC123:t0ken/x"
    assert form(request) == {"To": "+33612345678", "From": "+15550100", "Body": "Größe: 42 & {to}\n+1"}


def test_twilios_templates_and_messaging_services_go_under_their_own_names(sender, http):
    replies(http, 201, {})
    made = sender(f"twilio://AC123:token@default?from=MG77&base={http.url}")
    made({"to": CODE["to"], "template_id": "HX1", "params": {"1": "Ann", "2": "ü"}}, job())
    asked = form(http.requests[0])
    assert (asked["MessagingServiceSid"], asked["ContentSid"], json.loads(asked["ContentVariables"])) == ("MG77", "HX1", {"1": "Ann", "2": "ü"})
    assert not {"From", "Body"} & set(asked)


def test_a_text_of_two_braces_is_a_text(twilio, http):
    replies(http, 201, {})
    twilio({**CODE, "text": "{}"}, job())
    assert form(http.requests[0])["Body"] == "{}"


@pytest.mark.parametrize(
    "status, code, kind, reason",
    [(400, 21211, Refused, "sms-refused"), (400, 21614, Refused, "sms-refused"), (400, 21610, Refused, "sms-refused"), (400, 21408, Refused, "sms-refused"), (400, 20001, Retry, "sms-400"), (429, 20429, Snooze, "sms-limit"),
     (401, 20003, Snooze, "sms-account"), (403, 20005, Snooze, "sms-account"), (402, 20006, Snooze, "sms-account"), (404, 20404, Retry, "sms-404"), (500, 20500, Unknown, None), (503, 20503, Retry, "sms-503")],
)  # fmt: skip
def test_twilios_refusals_mean_what_they_say(twilio, http, status, code, kind, reason):
    replies(http, status, {"code": code, "message": "The 'To' number is not valid", "status": status})
    with pytest.raises(kind, match=str(code)) as caught:
        twilio(CODE, job())
    assert type(caught.value) is kind
    assert getattr(caught.value, "reason", None) == reason
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize("status, kind", [(429, Snooze), (503, Retry)])
def test_retry_after_of_the_gateway_is_honoured(twilio, http, status, kind):
    replies(http, status, {}, Retry_After="77")
    with pytest.raises(kind) as caught:
        twilio(CODE, job())
    assert caught.value.delay == 77


@pytest.mark.parametrize("behave", ["hang", "cut"])
def test_silence_after_the_request_is_unknown_and_held(sender, http, behave):
    http.behave = behave
    made = sender(f"twilio://AC123:token@default?from=%2B1&base={http.url}", timeout=0.2)
    with pytest.raises(Unknown) as caught:
        made(CODE, job())
    eventually(lambda: len(http.requests) == 1, what="the request")
    outcome = execute.meaning(caught.value, job(), sms_module.POLICY, lambda: 0.0)
    assert (outcome.state, outcome.reason) == (State.HELD, "unknown")


def test_a_gateway_that_cannot_be_reached_is_a_failed_attempt_of_which_nothing_was_sent(sender):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(Retry) as caught:
        sender(f"twilio://AC123:token@default?from=%2B1&base=http://127.0.0.1:{port}")(CODE, job())
    assert caught.value.reason == "connect-failed"


def test_a_gateway_is_given_longer_than_twilio_takes_to_give_up():
    assert sms_module.TIMEOUT > 30
    assert sms_module.POLICY.timeout > sms_module.TIMEOUT


@pytest.mark.parametrize("url", ["twilio://", "twilio://AC123@default?from=%2B1", "twilio://AC123:s3cret@default", "twilio://:s3cret@default?from=%2B1", "pigeon://user:s3cret@host", "vonage://k:s3cret@x", "x"])
def test_a_url_that_lacks_something_is_a_configuration_error_without_its_password(url):
    with pytest.raises(ConfigurationError, match="ASYNCSEND_SMS_URL") as caught:
        gateway(url)
    assert "s3cret" not in str(caught.value)


# ── a gateway of one's own ───────────────────────────────────────────────────────────────────────────────────────────

VONAGE = """
url = "BASE/sms/json"
[form]
api_key = "k"
to = "{to}"
from = "{from}"
text = "{text}"
client-ref = "{key}"
[success]
status = [200]
json = {"messages.0.status" = "0"}
[never]
json = {"messages.0.status" = ["6", "7", "12"]}
[pause]
json = {"messages.0.status" = ["1", "9"]}
"""

ALIYUN_LIKE = """
url = "BASE/send/{template_id}"
auth = ["user", "pässword"]
[headers]
X-Id = "{key}"
[json]
numbers = ["{to}"]
sign = "Shop"
retries = 3
deep = {code = "{code}", note = "{name}: {code}"}
raw = "{params}"
[success]
json = {"Code" = "OK"}
"""


def test_a_form_template_fills_its_holes_once(template, http):
    replies(http, 200, {"messages": [{"status": "0", "message-id": "A1"}]})
    made = template(VONAGE)
    assert made({**CODE, "text": "{from} & {key}", "from": "SHOP"}, job())["status"] == 200
    assert form(http.requests[0]) == {"api_key": "k", "to": "+33612345678", "from": "SHOP", "text": "{from} & {key}", "client-ref": "order-17"}


@pytest.mark.parametrize(
    "status, body, kind",
    [(200, {"messages": [{"status": "1"}]}, Snooze), (200, {"messages": [{"status": "9"}]}, Snooze), (200, {"messages": [{"status": "6"}]}, Refused), (200, {"messages": [{"status": "5"}]}, Retry), (200, {"messages": []}, Retry),
     (200, {"messages": [{"status": 0}]}, Retry), (200, {"messages": {"0": {"status": "6"}}}, Refused), (200, [], Retry), (500, {"messages": [{"status": "0"}]}, Retry), (503, b"<html>", Retry), (401, b"", Retry)],
)  # fmt: skip
def test_a_gateway_that_says_no_inside_a_200_is_understood(template, http, status, body, kind):
    replies(http, status, body)
    with pytest.raises(kind) as caught:
        template(VONAGE)(CODE, job())
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [b"", b"<html>maintenance</html>", b'{"messages": [{"status": "0"', b"[" * 60_000, b" " * 70_000 + b'{"messages": [{"status": "0"}]}', b"\xff\xfe"])
def test_a_200_that_cannot_be_read_is_unknown_and_never_sent_again_by_itself(template, http, body):
    replies(http, 200, body)
    with pytest.raises(Unknown):
        template(VONAGE)(CODE, job())
    assert len(http.requests) == 1


def test_a_reply_cut_in_the_middle_of_its_body_is_unknown(template, http):
    http.answers = [(200, {"Content-Length": "1000"}, b'{"messages": [')]
    with pytest.raises(Unknown, match="to its end"):
        template(VONAGE)(CODE, job())


def test_a_json_template_fills_its_holes_at_any_depth_and_the_url_percent_encoded(template, http):
    replies(http, 200, {"Code": "OK", "id": 77})
    made = template(ALIYUN_LIKE)
    result = made({"to": CODE["to"], "template_id": "SMS 1/2", "params": {"code": 123456, "name": 'A"nn ü'}}, job())
    (request,) = http.requests
    assert result == {"status": 200, "message": "77"}
    assert request.path == "/send/SMS%201%2F2"
    assert request.headers["X-Id"] == "order-17"
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode("utf-8") == "user:pässword"
    sent = json.loads(request.body)
    assert json.loads(sent.pop("raw")) == {"code": 123456, "name": 'A"nn ü'}
    assert sent == {"numbers": ["+33612345678"], "sign": "Shop", "retries": 3, "deep": {"code": "123456", "note": 'A"nn ü: 123456'}}


def test_a_get_template_puts_its_form_into_the_url(template, http):
    template('url = "BASE/send?user=u"\nmethod = "GET"\nform = {to = "{to}", text = "{text}"}\n')({**CODE, "text": "a&b=ü"}, job())
    (request,) = http.requests
    assert request.method == "GET"
    assert parse_qs(urlsplit(request.path).query) == {"user": ["u"], "to": ["+33612345678"], "text": ["a&b=ü"]}


def test_a_hole_that_nothing_fills_is_a_bad_payload_that_names_it(template, http):
    with pytest.raises(BadPayload, match=r"\{code\}"):
        template(ALIYUN_LIKE)({"to": CODE["to"], "template_id": "T1", "params": {"name": "x"}}, job())
    assert http.requests == []


def test_params_never_take_the_place_of_the_messages_own_members(template, http):
    template('url = "BASE/"\nform = {to = "{to}", key = "{key}"}\n')({"to": CODE["to"], "template_id": "T", "params": {"to": "+1999", "key": "x"}}, job())
    assert form(http.requests[0]) == {"to": "+33612345678", "key": "order-17"}


@pytest.mark.parametrize("words", ["a\r\nX-Evil: 1", "größe 🎁", "\x00"])
def test_a_text_that_no_header_can_carry_is_dead_and_nothing_is_sent(template, http, words):
    with pytest.raises(Refused):
        template('url = "BASE/"\nform = {to = "{to}"}\nheaders = {X-Text = "{text}"}\n')({**CODE, "text": words}, job())
    assert http.requests == []


BAD_TEMPLATES = {
    "no toml": "url = ",
    "no url": 'form = {to = "{to}"}',
    "url of another kind": 'url = "ftp://x"\nform = {}',
    "url is a number": "url = 5\nform = {}",
    "neither form nor json": 'url = "https://x.example"',
    "both form and json": 'url = "https://x.example"\nform = {}\njson = {}',
    "unknown member": 'url = "https://x.example"\nform = {}\nsucces = {status = [200]}',
    "auth of one": 'url = "https://x.example"\nform = {}\nauth = ["a"]',
    "auth is text": 'url = "https://x.example"\nform = {}\nauth = "ab"',
    "form is text": 'url = "https://x.example"\nform = "to={to}"',
    "headers of numbers": 'url = "https://x.example"\nform = {}\nheaders = {X = 1}',
    "method in small letters": 'url = "https://x.example"\nmethod = "post"\nform = {}',
    "GET with json": 'url = "https://x.example"\nmethod = "GET"\njson = {}',
    "success is text": 'url = "https://x.example"\nform = {}\nsuccess = "OK"',
    "success is empty": 'url = "https://x.example"\nform = {}\nsuccess = {}',
    "status is a number": 'url = "https://x.example"\nform = {}\nsuccess = {status = 200}',
    "status of texts": 'url = "https://x.example"\nform = {}\npause = {status = ["429"]}',
    "a misspelt rule": 'url = "https://x.example"\nform = {}\nnever = {codes = [1]}',
    "json rule is a list": 'url = "https://x.example"\nform = {}\nnever = {json = ["x"]}',
    "invalid UTF-8": b'url = "\xff"',
}


@pytest.mark.parametrize("text", BAD_TEMPLATES.values(), ids=BAD_TEMPLATES.keys())
def test_a_template_that_does_not_fit_is_a_configuration_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "gateway.toml"
    path.touch(0o600)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=r"docs/sms\.md") as caught:
        gateway(f"http+template://{path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_template_that_others_can_read_is_refused_until_its_command_was_run(tmp_path, mode):
    path = tmp_path / "my gateway.toml"
    path.write_text('url = "https://x.example"\n[form]\nto = "{to}"\n')
    path.chmod(mode)
    url = f"http+template://{str(path).replace(' ', '%20')}"
    with pytest.raises(ConfigurationError, match=r"holds passwords and can be read by others \(mode 06..\): run `chmod 600 ") as caught:
        gateway(url)
    subprocess.run(["/bin/sh", "-c", str(caught.value).split("`")[1]], check=True)
    assert gateway(url).url == "https://x.example"


def test_a_template_that_is_not_there_is_a_configuration_error_that_names_the_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        gateway(f"http+template://{tmp_path}/nowhere.toml")


# ── the local file ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_gateway_messages_go_to_a_local_file_once_each(lite):
    made = Sms(lite.settings())
    for attempts in range(3):
        made({**CODE, "text": 'two\nlines "ü"'}, job(attempts=attempts))
    made(CODE, Job(18, "sms", "{}", uid="order-18"))
    path = lite.home / "outbox" / "sms.log"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["key"], line["to"], line["text"]) for line in lines] == [("order-17", CODE["to"], 'two\nlines "ü"'), ("order-18", CODE["to"], CODE["text"])]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_writes_messages_to_the_local_file_with_one_worker(lite):
    store = lite.store()
    for _ in range(6):
        store._write("INSERT INTO asyncsend_jobs (task, payload) VALUES ('sms', :payload)", payload=json.dumps(CODE))
    store.close()
    lite.quiet("run", "--workers", "1")
    assert lite.rows("state, attempts") == [("done", 1)] * 6
    assert len((lite.home / "outbox" / "sms.log").read_text("utf-8").splitlines()) == 6


def test_a_text_that_looks_like_a_key_hides_no_message(sender, tmp_path):
    made = sender(f"file://{tmp_path}/sms.log")
    made({**CODE, "text": '"key": "order-18"'}, job())
    made(CODE, Job(18, "sms", "{}", uid="order-18"))
    assert len((tmp_path / "sms.log").read_text().splitlines()) == 2


def test_a_local_file_that_cannot_be_written_is_a_failed_attempt(sender, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Retry) as caught:
        sender(f"file://{tmp_path}/file/sms.log")(CODE, job())
    assert caught.value.reason == "outbox"
