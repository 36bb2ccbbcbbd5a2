"""What the presets of SMS gateways share: the account in ASYNCSEND_SMS_URL, and the answers that mean the same everywhere."""

from __future__ import annotations

import base64
import importlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from asyncsend.answers import Answer, BadPayload, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.text import printable, without

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncsend.tasks.http import Reply

PRESETS = ("twilio", "vonage", "aliyun", "sns")  # scheme of the URL: module of this package, whose `Preset` is taken
MEND_ACCOUNT = 300.0  # seconds until it is tried whether somebody mended the account
OPEN_AGAIN = 60.0  # seconds after a limit was met, where the gateway does not say

Asked = tuple[str, str, dict[str, str], bytes | None]  # method, URL, headers, body


class Account(NamedTuple):
    """The parts of ASYNCSEND_SMS_URL, decoded."""

    user: str
    secret: str
    host: str
    query: Mapping[str, str]
    receipts: str = ""  # ASYNCSEND_RECEIPTS_URL: where delivery receipts are wanted

    def base(self, default: str) -> str:
        """Where the gateway answers; `base=` in the query is for tests and proxies."""
        return self.query.get("base", default).rstrip("/")


class Preset(Protocol):
    """One provider's way. ConfigurationError, when it is made, says what the URL lacks."""

    def __init__(self, account: Account) -> None: ...

    def request(self, message: Mapping[str, Any]) -> Asked:
        """The request for one message; BadPayload if this provider cannot send such a one."""

    def judge(self, reply: Reply) -> dict[str, Any]:
        """The result if it was sent; else an answer is raised."""


def account_of(url: str, receipts: str = "") -> Account:
    split = urlsplit(url)
    return Account(unquote(split.username or ""), unquote(split.password or ""), split.hostname or "", dict(parse_qsl(split.query)), receipts)


def preset_of(url: str, receipts: str = "") -> Preset | None:
    """The preset behind a URL, None if its scheme is none of theirs."""
    scheme = urlsplit(url).scheme
    if scheme not in PRESETS:
        return None
    made: Preset = importlib.import_module(f"asyncsend.tasks.{scheme}").Preset(account_of(url, receipts))
    return made


def demand(good: object, form: str) -> None:
    """ConfigurationError that shows the URL as it should be, if something in it is missing."""
    if not good:
        raise ConfigurationError(f"ASYNCSEND_SMS_URL must be {form}")


def text_only(message: Mapping[str, Any], provider: str) -> None:
    """BadPayload for a template where the provider has none."""
    if message["template_id"]:
        raise BadPayload(f"{provider} knows no templates: give text instead of template_id")


def said_by(reply: Reply, account: Account) -> str:
    """The reply in words, without our keys should it echo them."""
    basic = base64.b64encode(f"{account.user}:{account.secret}".encode()).decode()
    secrets = tuple(secret for secret in (basic, account.secret) if len(secret) >= 4)
    return f"the gateway answered {reply.status} {printable(without(secrets, reply.text).strip(), 200)}"


def members_of(reply: Reply) -> dict[str, Any]:
    """The reply's JSON object, empty if it is none."""
    try:
        found = json.loads(reply.text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_account(said: str, delay: float | None = None) -> Answer:
    return Snooze(delay or MEND_ACCOUNT, f"{said}: check the account in ASYNCSEND_SMS_URL", reason="sms-account")


def over_limit(said: str, delay: float | None = None) -> Answer:
    return Snooze(delay or OPEN_AGAIN, f"{said}: its limit is reached, and it goes out when that opens", reason="sms-limit")


def otherwise(reply: Reply, said: str) -> Answer:
    """What a reply means that none of a provider's own codes explains."""
    if reply.status == 429:
        return over_limit(said, reply.retry_after)
    if reply.status in (401, 402, 403):
        return refuse_account(said, reply.retry_after)
    if 200 <= reply.status < 300:
        return Unknown(f"{said}, which cannot be understood{'' if reply.whole else ': it was cut off'}: the message may have been sent")
    if reply.status in (500, 502, 504):  # it broke on the way, and nobody says where (twilio-ruby#519: Twilio may send all the same)
        return Unknown(f"{said}: the message may have been sent")
    return Retry(reply.retry_after, said, reason=f"sms-{reply.status}")
