"""
Gateways: whatever takes a message by HTTP. A template says what to send and how to read the reply; `sms` and `email` fill it.

The user's own are TOML files: docs/sms.md, docs/mail.md.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from asyncsend.answers import Answer, BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.config import SECRET_NAME
from asyncsend.envfile import assert_private
from asyncsend.errors import ConfigurationError
from asyncsend.tasks.members import header_names
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Rule = dict[str, Any] | list[dict[str, Any]]  # of a list any rule may hold
RULES = ("success", "never", "pause", "limit")
LIMIT_PAUSE = 300.0
MEND_PAUSE = 300.0  # seconds until it is tried whether somebody mended the account
CONNECT_PAUSE = 60.0
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
    success: Rule = field(default_factory=lambda: {"status": [200, 201, 202]})
    never: Rule = field(default_factory=dict)  # the number or the text will never be taken
    pause: Rule = field(default_factory=dict)  # login, credit, limit: not this message's fault
    limit: Rule = field(default_factory=dict)  # too many just now: like pause, and nobody has to mend anything


def wrong(members: dict[str, Any]) -> str | None:
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
    given = [(name, rule) for name in RULES for rule in _each(members.get(name, {"status": []}))]
    for name, rule in given:
        if not isinstance(rule, dict) or not rule or not set(rule) <= {"status", "json"}:
            return f"{name} must be a table of status and json"
        codes = rule.get("status", [])
        if not isinstance(codes, list) or not all(type(code) is int for code in codes):
            return f"{name}.status must be a list of numbers"
        if not isinstance(rule.get("json", {}), dict):
            return f'{name}.json must be a table of paths: {{"messages.0.status" = "0"}}'
    return None


def _each(rule: Any) -> list[Any]:
    return rule if isinstance(rule, list) else [rule]


def from_file(path: Path, what: str, docs: str) -> Gateway:
    """The gateway of a TOML file, which is private, for it holds keys; ConfigurationError says what is wrong with it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:  # a named pipe would wait for its other end
            assert_private(path, os.fstat(file.fileno()))
            members = tomllib.loads(file.read())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the {what} template {path} cannot be read ({error}): see {docs} for its form") from error
    misfit = wrong(members)
    if misfit:
        raise ConfigurationError(f"the {what} template {path} does not fit: {misfit}; see {docs} for its members")
    return Gateway(**{**members, "auth": tuple(members["auth"]) if "auth" in members else None})


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
    values = [value for value in template.headers.values() if "{" not in value]
    secrets = [word for value in values for word in (value, value.rpartition(" ")[2]) if len(word) >= 8]  # "Bearer key" may come back as the key alone
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


def judge(template: Gateway, reply: Any, kind: str = "sms") -> dict[str, Any]:
    """What a reply means: a result if it was sent, an answer if not. Reasons start with `kind`, whose setting is ASYNCSEND_<KIND>_URL."""
    try:
        body = json.loads(reply.text)
    except (ValueError, RecursionError):
        body = None
    said = f"the gateway answered {reply.status} {printable(_without_secrets(template, reply.text).strip(), 200)}"
    if _matches(template.success, reply.status, body):
        sid = next((body[name] for name in ("sid", "message_id", "messageId", "MessageID", "MessageId", "id") if isinstance(body, dict) and name in body), None)
        sid = sid if sid is not None else reply.headers.get("X-Message-Id")
        return {"status": reply.status} | ({"message": str(sid)[:100]} if sid is not None else {})
    if _matches(template.limit, reply.status, body):
        raise Snooze(_wait(reply) or LIMIT_PAUSE, f"{said}: its limit, nothing is sent until it opens", reason=f"{kind}-limit")
    if _matches(template.never, reply.status, body):
        raise Refused(said, reason=f"{kind}-refused")
    if _matches(template.pause, reply.status, body):
        raise Snooze(reply.retry_after or MEND_PAUSE, f"{said}: check the account in ASYNCSEND_{kind.upper()}_URL", reason=f"{kind}-account")
    if 200 <= reply.status < 300 and (body is None or not reply.whole):
        # A gateway that says no says so: half a reply may be the half of a yes, and every message costs.
        raise Unknown(f"{said}, which cannot be read{'' if reply.whole else ' to its end'}: the message may have been sent")
    raise Retry(reply.retry_after, said, reason=f"{kind}-{reply.status}")


def told(answer: Answer) -> Answer:
    """This answer, which says of the account what its reason means; channels.py listens."""
    reason = getattr(answer, "reason", "")
    if reason in ("connect-failed", "tls-failed"):  # those behind it are not charged for a gateway that is away
        return answer.of_channel(troubled=True, unsent=True, leave_alone=CONNECT_PAUSE)
    if reason.endswith("-account"):
        return answer.of_channel(troubled=True, broken=True)
    if isinstance(answer, Snooze) and reason.endswith("-limit"):
        return answer.of_channel(troubled=True, leave_alone=answer.delay)
    return answer


def _wait(reply: Any) -> float | None:
    """Seconds until a limit opens: Retry-After, or what SendGrid (a time since 1970) and Brevo (seconds) say instead."""
    if reply.retry_after is not None:
        return float(reply.retry_after)
    said = next((reply.headers[name] for name in ("X-RateLimit-Reset", "X-Sib-RateLimit-Reset", "RateLimit-Reset") if name in reply.headers), "")
    if not said.isdecimal():
        return None
    seconds = float(said[:12])
    return min(max(1.0, seconds - time.time() if seconds > 1e9 else seconds), 86400.0)


def _matches(rule: Rule, status: int, body: Any) -> bool:
    """`status` lists codes, `json` maps paths like `messages.0.status` to a value or a list of values; all that is named must hold."""
    if isinstance(rule, list):
        return any(_matches(one, status, body) for one in rule)
    if not rule:
        return False
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
