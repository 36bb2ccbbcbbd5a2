"""Amazon SES: SendEmail of its API v2 with the whole message (docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html)."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from asyncsend.answers import Refused, Snooze
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import gateway
from asyncsend.tasks.amazon import Service
from asyncsend.tasks.replies import ACCOUNT, LIMIT, NEVER, amazon_means, stop_of
from asyncsend.text import printable, without

if TYPE_CHECKING:
    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.mail_api import Mail, Request


class Ses:
    """The account behind `ses://KEYID:SECRET@default?region=eu-west-1`."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.service = Service("ses", unquote(split.username or ""), unquote(split.password or ""), query.get("region", ""))
        if not self.service.complete or set(query) - {"region", "base"}:
            raise ConfigurationError("ASYNCSEND_EMAIL_URL must be ses://KEYID:SECRET@default?region=eu-west-1: write @ : / # ? + in the secret as %40 %3A %2F %23 %3F %2B")
        base = query.get("base", self.service.address("email")).rstrip("/")
        self.gateway = gateway.Gateway(url=f"{base}/v2/email/outbound-emails", success={"status": [200]}, pause={"status": [401, 403]}, limit={"status": [429]}, never={"status": [413]})

    def request(self, mail: Mail) -> Request:
        content = {"Raw": {"Data": base64.b64encode(mail.raw).decode()}}  # its From is the sender: FromEmailAddress need not say it again
        asked = {"Destination": {"ToAddresses": [mail.recipient]}, "Content": content, "EmailTags": [{"Name": "asyncsend", "Value": mail.key}]}
        body = json.dumps(asked).encode()
        return self.gateway.url, self.service.signed(self.gateway.url, "application/json", body), body

    def judge(self, reply: Reply) -> dict[str, Any]:
        reply = replace(reply, text=without((self.service.secret,), reply.text))
        if reply.status != 200:
            error, words = _error(reply)
            said = f"Amazon SES answered {reply.status} {printable(f'{error}: {words}'.strip(': '), 300)}"
            means = amazon_means(error, words)
            if means == LIMIT:
                wait = reply.retry_after or stop_of(words) or gateway.LIMIT_PAUSE  # "an interval of up to 10 minutes" (SES developer guide, "Errors related to the sending quotas")
                raise Snooze(wait, f"{said}: its limit, nothing is sent until it opens", reason="email-limit")
            if means == ACCOUNT:
                raise Snooze(gateway.MEND_PAUSE, f"{said}: check the account in ASYNCSEND_EMAIL_URL", reason="email-account")
            if means == NEVER:
                raise Refused(said, reason="email-refused")
        return gateway.judge(self.gateway, reply, "email")


def _error(reply: Reply) -> tuple[str, str]:
    """Name and words of an error: the name stands in a header, or in the body after what it belongs to (smithy.io, "AWS restJson1 protocol", operation error serialization)."""
    try:
        body = json.loads(reply.text)
    except (ValueError, RecursionError):
        body = None
    members = body if isinstance(body, dict) else {}
    name = str(reply.headers.get("x-amzn-ErrorType") or members.get("code") or members.get("__type") or "")
    words = members.get("message") or members.get("Message") or ("" if members else reply.text)
    return name.partition(":")[0].rpartition("#")[2], str(words)
