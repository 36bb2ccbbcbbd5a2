"""
`sms`: one short message to one number, through any gateway that takes HTTP: a template says what to send and how to read the reply.

Twilio is such a template; others are a TOML file: docs/sms.md.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from asyncsend import backoff
from asyncsend.answers import Answer, BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.channels import SMS
from asyncsend.config import SECRET_NAME, assert_private
from asyncsend.errors import ConfigurationError
from asyncsend.job import printable
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.members import header_names, only, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from asyncsend.config import Settings
    from asyncsend.job import Job

TIMEOUT = 35.0  # Twilio itself gives up after 26 s: whoever leaves earlier pays twice (twilio-ruby#519)
# A gateway does not recognise a second attempt, and every message costs: what nobody knows is held.
POLICY = Policy(max_attempts=5, timeout=TIMEOUT + 15, backoff=backoff.SMS, on_unknown="hold")
# reason of an answer: what it says of the account
ABOUT: dict[str, dict[str, Any]] = {
    "connect-failed": {"troubled": True, "unsent": True}, "tls-failed": {"troubled": True, "unsent": True},
    "sms-account": {"troubled": True, "broken": True}, "sms-limit": {"troubled": True},
}  # fmt: skip
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164
_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Gateway:
    """How one gateway is asked, and what of its replies mean sent, later, and never. Anything else is a failed attempt."""

    url: str
    method: str = "POST"
    auth: tuple[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    form: dict[str, Any] | None = None  # members may hold {to}, {text}, {from}, {template_id}, {params}, {key} and names of params
    json: Any = None
    success: dict[str, Any] = field(default_factory=lambda: {"status": [200, 201, 202]})
    never: dict[str, Any] = field(default_factory=dict)  # the number or the text will never be taken
    pause: dict[str, Any] = field(default_factory=dict)  # login, credit, limit: not this message's fault


class Sms:
    """Sends payloads of the form {to, text | template_id + params, from}."""

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout  # seconds for one exchange
        self.url = settings.sms_url
        self.file = Path(unquote(urlsplit(self.url).path)) if self.url.startswith("file:") else None
        self.gateway = None if self.file else gateway(self.url)
        self.default_from = parse_qs(urlsplit(self.url).query).get("from", [""])[-1]
        self._session: requests.Session | None = None

    def __call__(self, payload: Payload, job: Job) -> Any:
        job.report = {"unsent": True}
        values = message_of(payload, self.default_from) | {"key": job.idempotency_key}
        if self.file is not None:
            return _append(self.file, values)
        from asyncsend.tasks import http

        assert self.gateway is not None
        if self._session is None:
            self._session = http.plain_session()
        url, headers, body = request_of(self.gateway, values)
        job.report = {}
        try:
            reply = http.call(self._session, self.gateway.method, url, headers=headers, data=body, timeout=self.timeout, auth=self.gateway.auth)
            return judge(self.gateway, reply)
        except Answer as answer:
            if about := ABOUT.get(getattr(answer, "reason", "")):
                job.report = {"channel": SMS, **about, "leave_alone": answer.delay if isinstance(answer, Snooze) else None}
            raise

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def message_of(payload: Payload, default_from: str) -> dict[str, Any]:
    """What the holes of a template are filled with; BadPayload names the member that does not fit."""
    only(payload, "to", "text", "template_id", "params", "from")
    to = text(payload, "to", required=True) or ""
    if not _E164.fullmatch(to):
        raise BadPayload(f"to {printable(to, 40)!r} is not a number in E.164 form: + and country code first, digits only, like +33612345678")
    words, template_id = text(payload, "text", one_line=False), text(payload, "template_id")
    if (words is None) == (template_id is None):
        raise BadPayload("either text or template_id must be given")
    if words is not None and not 1 <= len(words) <= 1600:  # Twilio's limit; ten segments elsewhere
        raise BadPayload(f"text has {len(words)} characters; 1 to 1600 can be sent")
    params = payload.get("params") or {}
    if not isinstance(params, dict):
        raise BadPayload('params must be an object: {"code": "123456"}')
    return {"to": to, "text": words or "", "template_id": template_id or "", "params": params, "from": text(payload, "from") or default_from}


def gateway(url: str) -> Gateway:
    """The gateway behind ASYNCSEND_SMS_URL; ConfigurationError says what is wrong with it."""
    split = urlsplit(url)
    if split.scheme == "twilio":
        return _twilio(unquote(split.username or ""), unquote(split.password or ""), parse_qs(split.query))
    if split.scheme == "http+template":
        path = Path(unquote(split.path))
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:  # a named pipe would wait for its other end
                assert_private(path, os.fstat(file.fileno()))
                members = tomllib.loads(file.read())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the SMS template {path} cannot be read ({error}): see docs/sms.md for its form") from error
        wrong = _wrong(members)
        if wrong:
            raise ConfigurationError(f"the SMS template {path} does not fit: {wrong}; see docs/sms.md for its members")
        return Gateway(**{**members, "auth": tuple(members["auth"]) if "auth" in members else None})
    raise ConfigurationError(
        f"ASYNCSEND_SMS_URL starts with {printable(split.scheme, 20)!r}: write twilio://SID:TOKEN@default?from=%2B15550100 or http+template:///path/gateway.toml"
    )


def _wrong(members: dict[str, Any]) -> str | None:
    """
    What does not fit in a template, None if all does.

    All of it is looked at before the first message: a rule that breaks only when the reply is there would send twice.
    """
    for name in members:
        if name not in Gateway.__dataclass_fields__:
            return f"unknown member {printable(name, 60)!r}"
    url, method, auth = members.get("url"), members.get("method", "POST"), members.get("auth", ["", ""])
    if not isinstance(url, str) or not re.match(r"https?://[^/\s]", url):
        return 'url must be "https://…"'
    if method not in ("GET", "POST", "PUT"):
        return 'method must be "POST", "PUT" or "GET"'
    if not isinstance(auth, list) or len(auth) != 2 or not all(isinstance(part, str) for part in auth):
        return 'auth must be ["user", "password"]'
    headers = members.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        return "headers must be a table of texts"
    if ("form" in members) == ("json" in members):
        return "it needs either [form] or [json]"
    if not isinstance(members.get("form", {}), dict):
        return "form must be a table"
    if method == "GET" and "json" in members:
        return "a GET has no body: use [form]"
    for name in ("success", "never", "pause"):
        rule = members.get(name, {"status": []})
        if not isinstance(rule, dict) or not rule or not set(rule) <= {"status", "json"}:
            return f"{name} must be a table of status and json"
        codes = rule.get("status", [])
        if not isinstance(codes, list) or not all(type(code) is int for code in codes):
            return f"{name}.status must be a list of numbers"
        if not isinstance(rule.get("json", {}), dict):
            return f'{name}.json must be a table of paths: {{"messages.0.status" = "0"}}'
    return None


def _twilio(sid: str, token: str, query: dict[str, list[str]]) -> Gateway:
    """Twilio's Messages resource (twilio.com/docs/messaging/api/message-resource; error codes: twilio.com/docs/api/errors)."""
    sender = query.get("from", [""])[-1]
    if not sid or not token or not sender:
        raise ConfigurationError("ASYNCSEND_SMS_URL must be twilio://SID:TOKEN@default?from=%2B15550100, or from=MG… for a messaging service")
    who = "MessagingServiceSid" if sender.startswith("MG") else "From"
    base = query.get("base", ["https://api.twilio.com"])[-1]  # another base is for tests and proxies
    return Gateway(
        url=f"{base}/2010-04-01/Accounts/{quote(sid)}/Messages.json",
        auth=(sid, token),
        form={"To": "{to}", who: "{from}", "Body": "{text}", "ContentSid": "{template_id}", "ContentVariables": "{params}"},
        success={"status": [201]},
        # 21211, 21614 not a number for SMS; 21610 opted out; 21612, 21408 not reachable from here; 21617 too long
        never={"status": [400], "json": {"code": [21211, 21214, 21217, 21408, 21610, 21612, 21614, 21617, 21602]}},
        pause={"status": [401, 402, 403, 429], "json": {}},
    )


def request_of(template: Gateway, values: dict[str, Any]) -> tuple[str, dict[str, str], bytes | None]:
    """URL, headers and body of one request. In the URL values are percent-encoded; empty form members are left out."""
    url = _HOLE.sub(lambda hole: quote(_value(values, hole[1]), safe=""), template.url)
    filled_headers = {name: _HOLE.sub(lambda hole: _value(values, hole[1]), value) for name, value in template.headers.items()}
    headers = header_names(filled_headers, forbidden=())  # what a text put into them may not break out
    if template.form is not None:
        filled = {name: _filled(value, values) for name, value in template.form.items()}
        if template.method == "GET":
            return f"{url}{'&' if '?' in url else '?'}{urlencode(filled)}", headers, None
        form = {name: value for name, value in filled.items() if value != "" and not (value == "{}" and template.form[name] == "{params}")}
        return url, {"Content-Type": "application/x-www-form-urlencoded", **headers}, urlencode(form).encode()
    return url, {"Content-Type": "application/json", **headers}, json.dumps(_filled(template.json, values), ensure_ascii=False).encode()


def _filled(part: Any, values: dict[str, Any]) -> Any:
    if isinstance(part, dict):
        return {name: _filled(value, values) for name, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, values) for value in part]
    return _HOLE.sub(lambda hole: _value(values, hole[1]), part) if isinstance(part, str) else part


def _value(values: dict[str, Any], name: str) -> str:
    """The text for one hole: a member of the message, else of its params; params itself is JSON."""
    if name == "params":
        return json.dumps(values["params"], ensure_ascii=False)
    found = values[name] if name in values else values["params"].get(name)
    if found is None:
        raise BadPayload(f"the gateway's template wants {{{name}}}, and neither the payload nor its params have it")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _without_secrets(template: Gateway, text: str) -> str:
    """A reply as it may be kept: some gateways echo the request with its keys."""
    secrets = [value for value in template.headers.values() if len(value) >= 8 and "{" not in value]
    if template.auth:
        secrets += [template.auth[1], base64.b64encode(":".join(template.auth).encode()).decode()]
    secrets += _keys([template.form, template.json, parse_qs(urlsplit(template.url).query)])
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text


def _keys(part: Any, name: str = "") -> Iterator[str]:
    """The members of a request that are no hole and whose names say that they are secret."""
    if isinstance(part, dict):
        for inner, value in part.items():
            yield from _keys(value, inner)
    elif isinstance(part, list):
        for value in part:
            yield from _keys(value, name)
    elif isinstance(part, str) and SECRET_NAME.match(name) and "{" not in part:
        yield part


def judge(template: Gateway, reply: Any) -> dict[str, Any]:
    """What a reply means: a result if it was sent, an answer if not."""
    try:
        body = json.loads(reply.text)
    except (ValueError, RecursionError):
        body = None
    said = f"the gateway answered {reply.status} {printable(_without_secrets(template, reply.text).strip(), 200)}"
    if _matches(template.success, reply.status, body):
        sid = next((body[name] for name in ("sid", "message_id", "messageId", "id") if isinstance(body, dict) and name in body), None)
        return {"status": reply.status} | ({"message": str(sid)[:100]} if sid is not None else {})
    if template.never and _matches(template.never, reply.status, body):
        raise Refused(said, reason="sms-refused")
    if template.pause and _matches(template.pause, reply.status, body):
        if reply.status == 429:
            raise Snooze(reply.retry_after or 60.0, f"{said}: the gateway's limit", reason="sms-limit")
        raise Snooze(reply.retry_after or 300.0, f"{said}: check the account in ASYNCSEND_SMS_URL", reason="sms-account")
    if 200 <= reply.status < 300 and (body is None or not reply.whole):
        # A gateway that says no says so: half a reply may be the half of a yes, and every message costs.
        raise Unknown(f"{said}, which cannot be read{'' if reply.whole else ' to its end'}: the message may have been sent")
    raise Retry(reply.retry_after, said, reason=f"sms-{reply.status}")


def _matches(rule: dict[str, Any], status: int, body: Any) -> bool:
    """`status` lists codes, `json` maps paths like `messages.0.status` to a value or a list of values; all that is named must hold."""
    if "status" in rule and status not in rule["status"]:
        return False
    for path, wanted in rule.get("json", {}).items():
        found = body
        for step in path.split("."):
            if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                return False
        if found not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _append(path: Path, values: dict[str, Any]) -> None:
    """One JSON line in the local file that stands in for a gateway; a repeated attempt of the same job adds none."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not any(f'"key": "{values["key"]}"' in line for line in file):
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
    except OSError as error:
        raise Retry(None, f"cannot write to {path} ({error.strerror}): free space or check its rights", reason="outbox") from error
