"""
`/receipts/<provider>`: what became of an SMS, as its gateway reports it. Each one is the provider's own, or it is refused.

    twilio    X-Twilio-Signature: HMAC-SHA1 with the auth token ("Security", twilio.com/docs/usage/security)
    vonage    `sig`: HMAC with signature_secret of ASYNCSEND_SMS_URL ("Signing messages", developer.vonage.com)
    aliyun    `?token=`, as receipts_token of ASYNCSEND_SMS_URL says: its pushes bear no signature (SmsReport, help.aliyun.com)

A provider that ASYNCSEND_SMS_URL does not name, or whose secret is missing, is not there. What names no job of ours is thanked for and forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from asyncsend.store import receipts
from asyncsend.tasks.presets import account_of
from asyncsend.text import printable
from asyncsend.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from asyncsend.config import Settings
    from asyncsend.store import Store
    from asyncsend.tasks.presets import Account

_KEY = re.compile("[A-Za-z0-9_-]{1,64}")  # of a job: its idempotency key
_ID = re.compile("[!-~]{1,64}")
THANKS = Response(200, '{"code":0,"msg":"OK"}', "application/json")  # Aliyun wants the code, the others any 2xx
DENIED = Response(403, "The signature is not right.\n")

TWILIO = {
    **dict.fromkeys(("accepted", "scheduled", "queued"), "queued"), **dict.fromkeys(("sending", "sent"), "sent"),
    **dict.fromkeys(("delivered", "read"), "delivered"), "undelivered": "undelivered", **dict.fromkeys(("failed", "canceled"), "failed"),
}  # fmt: skip
VONAGE = {"buffered": "queued", "accepted": "sent", "unknown": "sent", "delivered": "delivered", "expired": "undelivered", "rejected": "failed", "failed": "failed"}
VONAGE_HASHES = {"md5": "md5", "sha1": "sha1", "sha256": "sha256", "sha512": "sha512"}


class Told(NamedTuple):
    """One receipt: whose message, which, and what became of it; any of them may be missing or nonsense."""

    job_key: Any
    message: Any
    status: str | None
    error: Any = None


def answer(request: Request, store: Store, settings: Settings) -> Response:
    """Write down what a gateway reports."""
    provider, account = request.rest, account_of(settings.sms_url, settings.receipts_url)
    reader = READERS.get(provider)
    if reader is None or urlsplit(settings.sms_url).scheme != provider:
        return Response(404, "There is nothing here.\n")
    if request.method not in ("GET", "POST"):
        return Response(405, "Use POST.\n")
    try:
        told = reader(request, account)
    except (ValueError, RecursionError) as error:
        return Response(400, f"This is no receipt: {printable(str(error), 100)}.\n")
    if told is None:
        return DENIED
    for one in told:
        if one.status and all(isinstance(text, str) for text in one[:2]) and _KEY.fullmatch(one.job_key) and _ID.fullmatch(one.message):
            code = str(one.error or "")
            receipts.note(store, provider, one.message, one.job_key, one.status, code if _ID.fullmatch(code) else None)
    return THANKS


def twilio(request: Request, account: Account) -> Iterable[Told] | None:
    if not account.secret or not account.receipts:
        return None
    form = dict(parse_qsl(request.body.decode("utf-8"), keep_blank_values=True)) if request.method == "POST" else {}
    query = request.url.partition("?")[2]
    # The address as we told it to Twilio: behind a proxy, the one that reaches us may be another.
    signed = f"{account.receipts}/twilio{'?' if query else ''}{query}" + "".join(name + form[name] for name in sorted(form))
    wanted = base64.b64encode(hmac.new(account.secret.encode(), signed.encode(), hashlib.sha1).digest()).decode()
    if not _same(wanted, request.headers.get("x-twilio-signature")):
        return None
    given = request.query | form
    return [Told(request.query.get("job"), given.get("MessageSid"), TWILIO.get(given.get("MessageStatus", "")), given.get("ErrorCode"))]


def vonage(request: Request, account: Account) -> Iterable[Told] | None:
    secret, method = account.query.get("signature_secret", ""), VONAGE_HASHES.get(account.query.get("signature_method", "sha256"))
    given: Mapping[str, Any] = request.query
    if request.method == "POST":
        text = request.body.decode("utf-8")
        given = json.loads(text) if "json" in request.headers.get("content-type", "") else dict(parse_qsl(text, keep_blank_values=True))
        if not isinstance(given, dict):
            raise ValueError("the body must be an object")
    signed = "".join(f"&{name}={re.sub('[&=]', '_', str(given[name]))}" for name in sorted(given) if name != "sig")
    if not secret or method is None or not _same(hmac.new(secret.encode(), signed.encode(), method).hexdigest(), str(given.get("sig", "")).lower()):
        return None
    error = given.get("err-code")
    return [Told(given.get("client-ref"), given.get("messageId", given.get("message-id")), VONAGE.get(str(given.get("status"))), None if error == "0" else error)]


def aliyun(request: Request, account: Account) -> Iterable[Told] | None:
    token = account.query.get("receipts_token", "")
    if not token or not _same(token, request.query.get("token")):
        return None
    found = json.loads(request.body.decode("utf-8"))
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("the body must be a list of objects")
    return [
        Told(one.get("out_id"), one.get("biz_id"), "delivered" if one.get("success") is True else "undelivered", None if one.get("success") is True else one.get("err_code"))
        for one in found
    ]


READERS: dict[str, Callable[[Request, Account], Iterable[Told] | None]] = {"twilio": twilio, "vonage": vonage, "aliyun": aliyun}


def _same(wanted: str, given: str | None) -> bool:
    return given is not None and hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace"))
