"""`webhook` and `webhook.<subscription>`: one HTTP request to somebody else's address, signed as Standard Webhooks 1.0.0 says, kept away from private networks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asyncsend import backoff
from asyncsend.answers import BadPayload, Refused, Retry, Unknown
from asyncsend.channels import DELIVERY, of_url
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.members import header_names, only
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import requests

    from asyncsend.config import Settings
    from asyncsend.job import Job

TIMEOUT = 30.0  # Standard Webhooks recommends 15 to 30 s
POLICY = Policy(max_attempts=10, timeout=TIMEOUT + 15, backoff=backoff.WEBHOOK)
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
OURS = ("host", "content-length", "transfer-encoding", "connection", "webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key")


class Webhook:
    """Sends payloads of the form {url, body, headers, method}; any 2xx reply is done, 410 is dead, the rest is tried again."""

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout  # seconds for one exchange
        self.keys = tuple(signing_key(secret) for secret in settings.webhook_secrets)
        self.allow_private = settings.allow_private
        self._session: requests.Session | None = None

    def __call__(self, payload: Payload, job: Job) -> Any:
        job.report = {"unsent": True}
        if job.endpoint is None:
            method, url, headers, body = request_of(payload)
            keys = self.keys
        else:
            method, url, headers, body = delivery_of(payload, job)
            keys = keys_of(job.endpoint["secrets"])
        headers |= {"webhook-id": job.idempotency_key, "Idempotency-Key": job.idempotency_key}
        if not any(name.lower() == "user-agent" for name in headers):
            headers["User-Agent"] = "asyncsend"
        if keys:
            stamp = int(time.time())  # of this attempt: receivers allow five minutes
            headers |= {"webhook-timestamp": str(stamp), "webhook-signature": signature(keys, job.idempotency_key, stamp, body)}
        from asyncsend.tasks import http

        if self._session is None:
            self._session = http.guarded_session(self.allow_private)
        channel = of_url(url)
        job.report = {"channel": channel} if channel else {}
        try:
            reply = http.call(self._session, method, url, headers=headers, data=body, timeout=self.timeout)
        except (Retry, Unknown) as answer:  # not reached, or no reply
            job.report |= {"troubled": True} | ({"unsent": True} if isinstance(answer, Retry) else {})
            raise
        except Refused:  # nobody was asked
            job.report = {"unsent": True}
            raise
        if reply.status == 429 or reply.status >= 500:
            job.report |= {"troubled": True, "leave_alone": reply.retry_after if reply.status in (429, 503) else None}
        if 200 <= reply.status < 300:
            job.report = {}  # the run knows whether its host was in trouble
            return {"status": reply.status}
        said = f"{urlsplit(url).hostname} answered {reply.status}"
        if reply.status == 410:
            if job.endpoint is not None:
                job.report |= {"gone": job.task.removeprefix(DELIVERY)}
            raise Refused(f"{said}: the receiver says this address is gone for good", reason="http-410")
        if 300 <= reply.status < 400:
            said += ", a redirect, which is never followed: enqueue the final address"
        raise Retry(reply.retry_after, said, reason=f"http-{reply.status}")

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def request_of(payload: Payload) -> tuple[str, str, dict[str, str], bytes]:
    """Method, URL, headers and exact body bytes of a payload; BadPayload names the member that does not fit."""
    only(payload, "url", "body", "headers", "method")
    url = payload.get("url")
    if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s\x00-\x20\x7f]+", url, re.IGNORECASE):
        raise BadPayload("url must be an address that starts with https:// or http://")
    try:
        split = urlsplit(url)
        host, _port = split.hostname, split.port
    except ValueError as error:
        raise BadPayload(f"url cannot be read: {error}") from error
    if not host:
        raise BadPayload("url names no host")
    if split.username is not None or split.password is not None:
        raise BadPayload("url must not hold a user name or password: put them in headers")
    method = payload.get("method", "POST")
    if method not in METHODS:
        raise BadPayload(f"method must be one of {', '.join(METHODS)}, not {printable(str(method), 20)!r}")
    headers = header_names(payload.get("headers"), forbidden=OURS)
    for name, value in headers.items():
        if not value.isascii():
            raise BadPayload(f"headers: the value of {name} has letters outside ASCII, which HTTP headers do not carry: encode them")
    body = payload.get("body", {} if method != "GET" else None)
    if isinstance(body, str):
        content = body.encode("utf-8")
    else:
        try:
            content = b"" if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
        except (ValueError, RecursionError) as error:  # 1e999 is JSON, and infinity to Python
            raise BadPayload(f"body cannot be written as JSON: {error}") from error
        if body is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    return method, url, headers, content


def delivery_of(event: Payload, job: Job) -> tuple[str, str, dict[str, str], bytes]:
    """The same for an event that goes to a subscription's address: its text as it stands in the row is the body, on every attempt. BadPayload if it is no CloudEvent."""
    assert job.endpoint is not None
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise BadPayload(f"{name} is missing: the payload must be an event of CloudEvents 1.0, as `asyncsend publish` makes it")
    method, url, headers, _ = request_of({"url": job.endpoint["url"], "body": ""})
    return method, url, headers | {"Content-Type": "application/cloudevents+json"}, job.payload.encode("utf-8")


def keys_of(secrets: Sequence[str]) -> tuple[bytes, ...]:
    """The keys of a subscription; Refused if somebody spoilt the row."""
    try:
        return tuple(signing_key(secret, "a secret of the subscription") for secret in secrets)
    except ConfigurationError as error:
        raise Refused(str(error), reason="bad-secret") from error


def signing_key(secret: str, name: str = "ASYNCSEND_WEBHOOK_SECRET") -> bytes:
    """The bytes of a `whsec_…` secret; ConfigurationError, with its name, if it is not base64 of 24 to 64 bytes (Standard Webhooks 1.0.0)."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(f"{name} is not whsec_ and base64: make one with `openssl rand -base64 32`") from error
    if not 24 <= len(key) <= 64:
        raise ConfigurationError(f"{name} holds {len(key)} bytes, it must be 24 to 64: make one with `openssl rand -base64 32`")
    return key


def signature(keys: tuple[bytes, ...], message_id: str, stamp: int, body: bytes) -> str:
    """The webhook-signature header: one `v1,…` for each key, so that a receiver may know either while keys are rotated."""
    signed = f"{message_id}.{stamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
