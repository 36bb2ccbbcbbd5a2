"""
`sms`: one short message to one number, through any gateway that takes HTTP: a template says what to send and how to read the reply.

Twilio is such a template; others are a TOML file: docs/sms.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from asyncsend import backoff
from asyncsend.answers import BadPayload, Retry
from asyncsend.errors import ConfigurationError
from asyncsend.job import printable
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.gateway import Gateway, gateway, judge, request_of
from asyncsend.tasks.members import only, text

if TYPE_CHECKING:
    import requests

    from asyncsend.config import Settings
    from asyncsend.job import Job

TIMEOUT = 35.0  # Twilio itself gives up after 26 s: whoever leaves earlier pays twice (twilio-ruby#519)
# A gateway does not recognise a second attempt, and every message costs: what nobody knows is held.
POLICY = Policy(max_attempts=5, timeout=TIMEOUT + 15, backoff=backoff.SMS, on_unknown="hold")
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164


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
        values = message_of(payload, self.default_from) | {"key": job.idempotency_key}
        if self.file is not None:
            return _append(self.file, values)
        from asyncsend.tasks import http

        assert self.gateway is not None
        if self._session is None:
            self._session = http.plain_session()
        url, headers, body = request_of(self.gateway, values)
        reply = http.call(self._session, self.gateway.method, url, headers=headers, data=body, timeout=self.timeout, auth=self.gateway.auth)
        return judge(self.gateway, reply)

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


def twilio(sid: str, token: str, query: dict[str, list[str]]) -> Gateway:
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
