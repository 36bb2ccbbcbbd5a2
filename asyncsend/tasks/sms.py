"""`sms`: one short message to one number, through a preset of a provider (presets.py) or any gateway that takes HTTP, by a template (gateway.py): docs/sms.md."""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from asyncsend import backoff
from asyncsend.answers import Answer, BadPayload, Retry
from asyncsend.channels import SMS
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.gateway import Gateway, from_file, judge, request_of, told
from asyncsend.tasks.members import only, text
from asyncsend.tasks.presets import preset_of
from asyncsend.tasks.segments import segments
from asyncsend.text import printable
from asyncsend.times import boot_clock

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
        self.preset = preset_of(self.url, settings.receipts_url)
        self.gateway = None if self.file or self.preset else gateway(self.url)
        self.default_from = parse_qs(urlsplit(self.url).query).get("from", [""])[-1]
        self.most_segments = settings.sms_segments
        self._session: requests.Session | None = None

    def __call__(self, payload: Payload, job: Job) -> Any:
        job.report = {"unsent": True}
        left = None if job.expires_by is None else max(1, round(job.expires_by - boot_clock()))
        values = message_of(payload, self.default_from, self.most_segments) | {"key": job.idempotency_key, "expires_in": str(left or "")}
        if self.file is not None:
            return _append(self.file, values)
        job.report = {}
        try:
            return self._sent(values)
        except Answer as answer:
            if about := told(answer).about:
                job.report = {"channel": SMS, **about} | ({"address": values["to"]} if "suppress" in about else {})
            raise

    def _sent(self, values: dict[str, Any]) -> Any:
        from asyncsend.tasks import http

        if self.preset is not None:
            method, url, headers, body = self.preset.request(values)
            return self.preset.judge(http.call(self.session(), method, url, headers=headers, data=body, timeout=self.timeout))
        assert self.gateway is not None
        url, headers, body = request_of(self.gateway, values)
        reply = http.call(self.session(), self.gateway.method, url, headers=headers, data=body, timeout=self.timeout, auth=self.gateway.auth)
        return judge(self.gateway, reply)

    def session(self) -> requests.Session:
        from asyncsend.tasks import http

        if self._session is None:
            self._session = http.plain_session()
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def message_of(payload: Payload, default_from: str, most_segments: int | None = None) -> dict[str, Any]:
    """The message as presets and the holes of a template take it; BadPayload names the member that does not fit."""
    only(payload, "to", "text", "template_id", "params", "from")
    to = text(payload, "to", required=True) or ""
    if not _E164.fullmatch(to):
        raise BadPayload(f"to {printable(to, 40)!r} is not a number in E.164 form: + and country code first, digits only, like +33612345678")
    words, template_id = text(payload, "text", one_line=False), text(payload, "template_id")
    if (words is None) == (template_id is None):
        raise BadPayload("either text or template_id must be given")
    if words is not None and not 1 <= len(words) <= 1600:  # Twilio's limit; ten segments elsewhere
        raise BadPayload(f"text has {len(words)} characters; 1 to 1600 can be sent")
    if words is not None and most_segments is not None and segments(words) > most_segments:
        raise BadPayload(f"text has {segments(words)} segments, and ASYNCSEND_SMS_SEGMENTS allows {most_segments}: a character outside the GSM alphabet makes them shorter")
    params = payload.get("params") or {}
    if not isinstance(params, dict):
        raise BadPayload('params must be an object: {"code": "123456"}')
    return {"to": to, "text": words or "", "template_id": template_id or "", "params": params, "from": text(payload, "from") or default_from}


def gateway(url: str) -> Gateway:
    """The gateway behind ASYNCSEND_SMS_URL; ConfigurationError says what is wrong with it."""
    split = urlsplit(url)
    if split.scheme == "http+template":
        return from_file(Path(unquote(split.path)), "SMS", "docs/sms.md")
    raise ConfigurationError(
        f"ASYNCSEND_SMS_URL starts with {printable(split.scheme, 20)!r}: write twilio://SID:TOKEN@default?from=%2B15550100, vonage://, aliyun://, sns:// (docs/sms.md) or http+template:///path/gateway.toml"
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
