"""
`pusher`: an event for the browsers that listen, through Pusher Channels or a server that speaks its HTTP API (soketi, Reverb, sockudo).

The API, its limits and the signature: pusher.com/docs/channels/library_auth_reference/rest-api.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from asyncsend.answers import BadPayload, Refused, Retry, Snooze
from asyncsend.backoff import SMS
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.members import only, text
from asyncsend.text import printable, without

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from asyncsend.config import Settings
    from asyncsend.job import Job

TIMEOUT = 15.0
POLICY = Policy(max_attempts=5, timeout=TIMEOUT + 15, backoff=SMS)  # a page that hears it twice is no harm; late, it is of no use to anybody
MAX_CHANNELS, MAX_EVENT, MAX_CHANNEL, MAX_DATA = 100, 200, 164, 10 * 1024
_CHANNEL = re.compile(rf"(#server-to-user-)?[-A-Za-z0-9_=@,.;]{{1,{MAX_CHANNEL}}}")
_URL = "ASYNCSEND_PUSHER_URL must be pusher://KEY:SECRET@default?app_id=1234&cluster=eu, or with a host of your own instead of default"


class Pusher:
    """Sends payloads of the form {channel | channels, event, data, socket_id}."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        split = urlsplit(settings.pusher_url)
        query = dict(parse_qsl(split.query))
        self.key, self.secret = unquote(split.username or ""), unquote(split.password or "")
        app_id, host = query.get("app_id", ""), split.netloc.rpartition("@")[2]
        if split.scheme != "pusher" or not self.key or not self.secret or not re.fullmatch("[A-Za-z0-9_-]+", app_id) or not host:
            raise ConfigurationError(_URL)
        if host == "default":
            host = f"api-{query['cluster']}.pusher.com" if "cluster" in query else "api.pusherapp.com"
        self.base = query.get("base", f"https://{host}").rstrip("/")  # another base is for tests and proxies
        self.path = f"/apps/{app_id}/events"
        self.clock = clock  # Pusher takes what is within ten minutes of its own
        self._session: requests.Session | None = None

    def __call__(self, payload: Payload, _job: Job) -> Any:
        body = json.dumps(event_of(payload)).encode()
        from asyncsend.tasks import http

        if self._session is None:
            self._session = http.plain_session()
        url = f"{self.base}{self.path}?{self.signed(body)}"
        reply = http.call(self._session, "POST", url, headers={"Content-Type": "application/json"}, data=body, timeout=TIMEOUT)
        said = f"Pusher answered {reply.status} {printable(without((self.secret,), reply.text).strip(), 200)}"
        if reply.status in (200, 202):
            return {"status": reply.status}
        if reply.status in (400, 413):
            raise Refused(said, reason="pusher-refused")
        if reply.status in (401, 403, 404):  # 401 also for a clock that is wrong, 403 for an app that is disabled or over its quota
            raise Snooze(reply.retry_after or 300.0, f"{said}: check ASYNCSEND_PUSHER_URL, the app's quota, and this host's clock", reason="pusher-account")
        if reply.status == 429:
            raise Snooze(reply.retry_after or 10.0, said, reason="pusher-limit")
        raise Retry(reply.retry_after, said, reason=f"pusher-{reply.status}")

    def signed(self, body: bytes) -> str:
        """The query that proves who we are."""
        query = (
            f"auth_key={self.key}&auth_timestamp={self.clock():.0f}&auth_version=1.0"
            f"&body_md5={hashlib.md5(body, usedforsecurity=False).hexdigest()}"
        )  # fmt: skip
        signature = hmac.new(self.secret.encode(), f"POST\n{self.path}\n{query}".encode(), hashlib.sha256).hexdigest()
        return f"{query}&auth_signature={signature}"

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def event_of(payload: Payload) -> dict[str, Any]:
    """The body of the request; BadPayload names the member that does not fit."""
    only(payload, "channel", "channels", "event", "data", "socket_id")
    channels = payload.get("channels")
    if (channels is None) == (payload.get("channel") is None):
        raise BadPayload("either channel or channels must be given")
    if channels is None:
        channels = [payload["channel"]]
    if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_CHANNELS:
        raise BadPayload(f"channels must be a list of 1 to {MAX_CHANNELS} names")
    for name in channels:
        if not isinstance(name, str) or not _CHANNEL.fullmatch(name):
            raise BadPayload(f"{printable(str(name), 60)!r} is no name of a channel: letters, digits and _ - = @ , . ; at most {MAX_CHANNEL}")
        if name.startswith("private-encrypted-"):
            raise BadPayload(f"{name} is an encrypted channel, and asyncsend encrypts nothing: use private-…")
    event = text(payload, "event", required=True) or ""
    if len(event) > MAX_EVENT:
        raise BadPayload(f"event has {len(event)} characters; {MAX_EVENT} are allowed")
    data = payload.get("data", {})
    if not isinstance(data, str):
        data = json.dumps(data, ensure_ascii=False)
    if len(data.encode("utf-8", "surrogatepass")) > MAX_DATA:
        raise BadPayload(f"data has more than {MAX_DATA} bytes: send a name or an address, and let the page fetch the rest")
    socket_id = text(payload, "socket_id")
    if socket_id is not None and not re.fullmatch(r"[0-9]+\.[0-9]+", socket_id):
        raise BadPayload("socket_id must look like 1234.5678")
    return {"name": event, "channels": channels, "data": data} | ({"socket_id": socket_id} if socket_id else {})
