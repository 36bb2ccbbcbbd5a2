"""Presets: each provider is asked as it documents it, by the word of its own library where there is one, and each documented error means one thing."""

import base64
import hashlib
import io
import json
import time
from types import SimpleNamespace
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from parts import assert_signed_for_amazon

from asyncsend import config, execute
from asyncsend.answers import BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.producer import new_job
from asyncsend.tasks import Tasks
from asyncsend.tasks.sms import Sms
from asyncsend.times import boot_clock
from asyncsend.wire import as_parcel, from_parcels

CODE = {"to": "+33612345678", "text": "Your code is 1234"}
TEMPLATE = {"to": "+8613812345678", "template_id": "SMS_1", "params": {"code": 123456, "name": "Ann ü&=", "ok": True}}
SECRET = "s3cret+/x="


URLS = {
    "twilio": "twilio://AC1:{secret}@default?from=%2B15550100",
    "vonage": "vonage://key:{secret}@default?from=Shop",
    "aliyun": "aliyun://keyid:{secret}@default?sign=%E5%95%86%E5%BA%97",
    "sns": "sns://AKIDEXAMPLE:{secret}@eu-west-1?from=Shop",
}


@pytest.fixture
def sender(tmp_path, http):
    """A sender of one of the presets."""
    opened = []

    def made(name, more="", **settings):
        url = URLS[name].format(secret="s3cret%2B%2Fx%3D") + f"&base={http.url}{more}"
        opened.append(Sms(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_SMS_URL": url, **settings}), 5.0))
        return opened[-1]

    yield made
    for one in opened:
        one.close()


def job(**members):
    return Job(17, "sms", "{}", uid="order-17", **members)


def replies(http, status, body, **headers):
    http.answers = [(status, headers, body.encode() if isinstance(body, str) else json.dumps(body).encode())]


def form(request):
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))


def answer(http, out, status, body, payload=CODE):
    replies(http, status, body)
    with pytest.raises((Refused, Retry, Snooze, Unknown)) as caught:
        out(payload, job())
    assert SECRET not in str(caught.value)
    return type(caught.value), getattr(caught.value, "reason", None)


LIMIT, ACCOUNT, NEVER = (Snooze, "sms-limit"), (Snooze, "sms-account"), (Refused, "sms-refused")

# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_twilio_is_asked_as_its_library_asks(sender, http):
    from twilio.http.http_client import TwilioHttpClient
    from twilio.rest import Client

    class Loopback(TwilioHttpClient):
        def request(self, method, url, *args, **kwargs):
            return super().request(method, url.replace("https://api.twilio.com", http.url), *args, **kwargs)

    http.answers = [(201, {}, b'{"sid": "SM1"}')] * 2
    where = "https://shop.example.com/receipts"
    Client("AC1", SECRET, http_client=Loopback()).messages.create(
        to=CODE["to"], from_="+15550100", body=CODE["text"], validity_period=60, status_callback=f"{where}/twilio?job=order-17"
    )
    out = sender("twilio", ASYNCSEND_RECEIPTS_URL=where + "/")
    assert out(CODE, job(expires_by=boot_clock() + 60.2)) == {"status": 201, "message": "SM1"}
    theirs, ours = http.requests
    assert (ours.method, ours.path, form(ours), ours.headers["Authorization"]) == (theirs.method, theirs.path, form(theirs), theirs.headers["Authorization"])


def test_vonage_is_asked_as_it_documents(sender, http):
    replies(http, 200, {"message-count": "1", "messages": [{"to": "33612345678", "message-id": "0A00", "status": "0"}]})
    out = sender("vonage", ASYNCSEND_RECEIPTS_URL="https://shop.example.com/receipts")
    assert out({**CODE, "text": "Größe ’42’"}, job(expires_by=boot_clock() + 90.2)) == {"status": 200, "message": "0A00"}
    (request,) = http.requests
    assert (request.method, request.path) == ("POST", "/sms/json")
    assert form(request) == {
        "api_key": "key", "api_secret": SECRET, "from": "Shop", "to": "33612345678", "text": "Größe ’42’", "type": "unicode", "client-ref": "order-17", "ttl": "90000",
        "status-report-req": "1", "callback": "https://shop.example.com/receipts/vonage",
    }  # fmt: skip


@pytest.mark.parametrize("left, ttl", [(1.0, "20000"), (9e6, "604800000")])
def test_vonages_time_to_live_keeps_to_its_bounds(sender, http, left, ttl):
    replies(http, 200, {"messages": [{"status": "0"}]})
    sender("vonage")(CODE, job(expires_by=boot_clock() + left))
    assert form(http.requests[0])["ttl"] == ttl
    assert "type" not in form(http.requests[0])


def test_aliyun_is_asked_as_its_library_asks(sender, http):
    from alibabacloud_dysmsapi20170525.client import Client
    from alibabacloud_dysmsapi20170525.models import SendSmsRequest
    from alibabacloud_tea_openapi.utils import Utils
    from alibabacloud_tea_openapi.utils_models import Config

    http.answers = [(200, {"Content-Type": "application/json"}, b'{"Code": "OK", "BizId": "134523^4351232", "Message": "OK", "RequestId": "1"}')] * 2
    client = Client(Config(access_key_id="keyid", access_key_secret=SECRET, endpoint=http.url.removeprefix("http://"), protocol="HTTP"))
    params = '{"code": "123456", "name": "Ann ü&=", "ok": "true"}'
    client.send_sms(SendSmsRequest(phone_numbers="13812345678", sign_name="商店", template_code="SMS_1", template_param=params, out_id="order-17"))
    assert sender("aliyun")(TEMPLATE, job()) == {"status": 200, "message": "134523^4351232"}
    theirs, ours = http.requests
    assert (ours.method, urlsplit(ours.path).path) == (theirs.method, urlsplit(theirs.path).path) == ("POST", "/")
    assert parse_qs(urlsplit(ours.path).query) == parse_qs(urlsplit(theirs.path).query)
    names = ("host", "x-acs-action", "x-acs-version", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce")
    given = {name.lower(): value for name, value in ours.headers.items() if name.lower() in names}
    assert len(given) == len(names)
    asked = SimpleNamespace(pathname="/", query=dict(parse_qsl(urlsplit(ours.path).query)), headers=given, method="POST")
    signed = Utils.get_authorization(asked, "ACS3-HMAC-SHA256", hashlib.sha256(b"").hexdigest(), "keyid", SECRET)
    assert ours.headers["Authorization"] == signed
    assert abs(time.time() - time.mktime(time.strptime(given["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone) < 120


@pytest.mark.parametrize("to, number", [("+8613812345678", "13812345678"), ("+85298765432", "85298765432"), ("+33612345678", "33612345678")])
def test_aliyun_gets_numbers_of_china_without_and_others_with_their_country(sender, http, to, number):
    replies(http, 200, {"Code": "OK"})
    sender("aliyun")({"to": to, "template_id": "SMS_1"}, job())
    asked = parse_qs(urlsplit(http.requests[0].path).query)
    assert asked["PhoneNumbers"] == [number]
    assert "TemplateParam" not in asked


@pytest.mark.parametrize("value", [None, {"a": 1}, ["a"]])
def test_aliyuns_params_that_are_no_text_are_a_bad_payload_that_names_them(sender, http, value):
    with pytest.raises(BadPayload, match="code"):
        sender("aliyun")({**TEMPLATE, "params": {"code": value}}, job())
    assert http.requests == []


@pytest.mark.parametrize("origin, attribute", [("Shop", "AWS.SNS.SMS.SenderID"), ("+15550100", "AWS.MM.SMS.OriginationNumber")])
def test_sns_is_asked_as_botocore_asks(sender, http, origin, attribute):
    import botocore.session

    http.answers = [(200, {}, b"<PublishResponse><PublishResult><MessageId>0e3c-1</MessageId></PublishResult></PublishResponse>")] * 2
    client = botocore.session.Session().create_client("sns", "eu-west-1", endpoint_url=http.url, aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=SECRET)
    text = "Größe & ’42’"
    client.publish(
        PhoneNumber=CODE["to"], Message=text,
        MessageAttributes={"AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"}, attribute: {"DataType": "String", "StringValue": origin}},
    )  # fmt: skip
    assert sender("sns")({**CODE, "text": text, "from": origin}, job()) == {"status": 200, "message": "0e3c-1"}
    theirs, ours = http.requests
    assert (ours.method, ours.path, form(ours)) == (theirs.method, theirs.path, form(theirs))
    assert_signed_for_amazon(ours, http.url, "sns", "AKIDEXAMPLE", SECRET)


@pytest.mark.parametrize("name, payload", [("vonage", {**TEMPLATE}), ("sns", {**TEMPLATE}), ("aliyun", CODE)])
def test_what_a_provider_cannot_send_is_a_bad_payload_and_nothing_is_asked(sender, http, name, payload):
    with pytest.raises(BadPayload, match="template"):
        sender(name)(payload, job())
    assert http.requests == []


@pytest.mark.parametrize("name, lacking", [("twilio", "twilio://AC1:x@default"), ("vonage", "vonage://key:x@default"), ("aliyun", "aliyun://id:x@default"), ("sns", "sns://id:x@default?from=A"), ("sns", "sns://id@eu-west-1")])
def test_a_url_that_lacks_something_shows_how_it_should_be(tmp_path, name, lacking):
    with pytest.raises(ConfigurationError, match=rf"ASYNCSEND_SMS_URL must be {name}://"):
        Sms(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_SMS_URL": lacking}))


# ── what the reply means ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [21211, 21408, 21602, 21608, 21610, 21612, 21614, 21617, 21635])
def test_twilio_says_never(sender, http, code):
    assert answer(http, sender("twilio"), 400, {"code": code}) == NEVER


@pytest.mark.parametrize("status, code, meaning", [(429, 20429, LIMIT), (429, 63038, LIMIT), (400, 21611, LIMIT), (400, 14107, LIMIT), (400, 21606, ACCOUNT), (400, 21703, ACCOUNT), (401, 20003, ACCOUNT), (403, 20005, ACCOUNT),
                                                   (500, 20500, (Unknown, None)), (502, None, (Unknown, None)), (503, 20503, (Retry, "sms-503")), (400, 20001, (Retry, "sms-400")), (200, None, (Unknown, None))])  # fmt: skip
def test_twilio_says_later_or_does_not_know(sender, http, status, code, meaning):
    assert answer(http, sender("twilio"), status, {"code": code}) == meaning


VONAGE = {"1": LIMIT, "10": LIMIT, **dict.fromkeys(("4", "8", "9", "11", "14", "32"), ACCOUNT), **dict.fromkeys(("2", "3", "6", "7", "12", "15", "22", "29", "33"), NEVER),
          "5": (Retry, "sms-vonage-5"), "13": (Retry, "sms-vonage-13"), "99": (Retry, "sms-vonage-99")}  # fmt: skip


@pytest.mark.parametrize("code", VONAGE)
def test_vonage_says_no_inside_a_200(sender, http, code):
    assert answer(http, sender("vonage"), 200, {"message-count": "1", "messages": [{"status": code, "error-text": f"no: {SECRET}"}]}) == VONAGE[code]


@pytest.mark.parametrize("body", ["", "<html>", {}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"status": "0"}, {"status": "1"}]}, {"messages": [{"status": "9"}, {"status": "0"}]}])
def test_a_yes_of_vonages_that_is_not_whole_is_unknown(sender, http, body):
    assert answer(http, sender("vonage"), 200, body) == (Unknown, None)


@pytest.mark.parametrize("status, meaning", [(429, LIMIT), (401, ACCOUNT), (500, (Unknown, None)), (503, (Retry, "sms-503"))])
@pytest.mark.parametrize("name", ["vonage", "sns"])
def test_a_status_without_a_code_is_understood(sender, http, name, status, meaning):
    assert answer(http, sender(name), status, "") == meaning


ALIYUN = {
    **dict.fromkeys(("isv.BUSINESS_LIMIT_CONTROL", "isv.DAY_LIMIT_CONTROL", "isv.MONTH_LIMIT_CONTROL", "Throttling.User"), LIMIT),
    **dict.fromkeys(("isv.AMOUNT_NOT_ENOUGH", "isv.OUT_OF_SERVICE", "isv.PRODUCT_UN_SUBSCRIPT", "isv.ACCOUNT_NOT_EXISTS", "isv.ACCOUNT_ABNORMAL", "isv.SMS_SIGNATURE_ILLEGAL", "isv.DENY_IP_RANGE", "isp.RAM_PERMISSION_DENY",
                     "InvalidAccessKeyId.NotFound", "SignatureDoesNotMatch", "InvalidTimeStamp.Expired"), ACCOUNT),
    **dict.fromkeys(("isv.MOBILE_NUMBER_ILLEGAL", "isv.SMS_TEMPLATE_ILLEGAL", "isv.TEMPLATE_MISSING_PARAMETERS", "isv.INVALID_PARAMETERS", "isv.INVALID_JSON_PARAM", "isv.BLACK_KEY_CONTROL_LIMIT", "isv.PARAM_LENGTH_LIMIT",
                     "isv.PARAM_NOT_SUPPORT_URL", "isv.DOMESTIC_NUMBER_NOT_SUPPORTED", "MissingPhoneNumbers"), NEVER),
    "isp.SYSTEM_ERROR": (Retry, "sms-isp.SYSTEM_ERROR"), "isp.GATEWAY_ERROR": (Retry, "sms-isp.GATEWAY_ERROR"), "": (Unknown, None),
}  # fmt: skip


@pytest.mark.parametrize("code", ALIYUN)
def test_aliyuns_codes_mean_one_thing_each(sender, http, code):
    assert answer(http, sender("aliyun"), 200, {"Code": code, "Message": "no", "RequestId": "1"}, TEMPLATE) == ALIYUN[code]


@pytest.mark.parametrize("words, delay", [("触发分钟级流控Permits:1", 60), ("触发小时级流控Permits:5", 600), ("触发天级流控Permits:10", 3600)])
def test_aliyuns_limit_is_tried_again_when_it_may_have_opened(sender, http, words, delay):
    replies(http, 200, {"Code": "isv.BUSINESS_LIMIT_CONTROL", "Message": words})
    with pytest.raises(Snooze) as caught:
        sender("aliyun")(TEMPLATE, job())
    assert caught.value.delay == delay


SNS = {
    **dict.fromkeys(("Throttled", "Throttling"), LIMIT),
    **dict.fromkeys(("AuthorizationError", "InvalidClientTokenId", "SignatureDoesNotMatch", "AccessDenied", "OptInRequired"), ACCOUNT),
    **dict.fromkeys(("InvalidParameter", "ParameterValueInvalid", "ValidationError", "OptedOut"), NEVER),
    "InternalError": (Retry, "sms-400"), "Strange": (Retry, "sms-400"),
}  # fmt: skip


@pytest.mark.parametrize("code", SNS)
def test_the_errors_of_sns_mean_one_thing_each(sender, http, code):
    xml = f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>'
    assert answer(http, sender("sns"), 400, xml) == SNS[code]


def test_a_yes_of_sns_that_was_cut_is_unknown(sender, http):
    http.answers = [(200, {"Content-Length": "500"}, b"<PublishResponse><PublishResult><Mess")]
    with pytest.raises(Unknown):
        sender("sns")(CODE, job())


@pytest.mark.parametrize("name", URLS)
def test_silence_after_the_request_is_unknown(sender, http, name):
    http.behave = "cut"
    with pytest.raises(Unknown):
        sender(name)(TEMPLATE if name == "aliyun" else CODE, job())
    assert len(http.requests) == 1


def test_no_credentials_stand_in_plain_sight(sender, http):
    replies(http, 201, {"sid": "SM1"})
    sender("twilio")(CODE, job())
    assert base64.b64encode(f"AC1:{SECRET}".encode()).decode() in http.requests[0].headers["Authorization"]
    assert SECRET not in http.requests[0].path


# ── a code that is late is no code ───────────────────────────────────────────────────────────────────────────────────


def test_a_claimed_job_knows_when_it_expires_and_its_worker_hears_of_it(store):
    store.insert([new_job("sms", json.dumps(CODE), expires=100.0), new_job("sms", json.dumps(CODE))])
    soon, never = from_parcels(io.BytesIO(b"".join(as_parcel(one) for one in store.claim(["default"], 2, "ab" * 16, 1))))
    assert 90 < soon.expires_by - boot_clock() <= 100
    assert never.expires_by is None


def test_a_code_that_expired_in_the_hands_of_its_run_is_cancelled_and_not_sent(tmp_path, http):
    tasks = Tasks(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_SMS_URL": f"twilio://AC1:token@default?from=%2B1&base={http.url}"}))
    late = Job(17, "sms", json.dumps(CODE), expires_by=boot_clock() - 0.01)
    outcome = execute.execute(late, tasks, lambda: 0.0)
    assert (outcome.state, outcome.reason, http.requests) == (State.CANCELLED, "expired", [])


def test_a_code_says_how_long_it_may_wait_at_the_gateway(lite, http):
    lite.environment["ASYNCSEND_SMS_URL"] = f"twilio://AC1:token@default?from=%2B1&base={http.url}"
    http.answers = [(201, {}, b'{"sid": "SM1"}')]
    lite("enqueue", "sms", json.dumps(CODE), "--expires", "5m")
    lite.quiet("run")
    assert 200 <= int(form(http.requests[0])["ValidityPeriod"]) <= 300
