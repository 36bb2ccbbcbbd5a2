"""
Mail by a provider's HTTP API, for hosts that let nothing out but 443.

Each provider is a `Gateway`, which says what its replies mean, and a function that puts the composed message into its words. Whoever takes the
message as it is gets it so, with our Message-ID, headers and signature; for the others it is taken apart again.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.utils import parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from asyncsend.answers import Answer, Refused
from asyncsend.errors import ConfigurationError
from asyncsend.tasks.gateway import Gateway, from_file, judge, request_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import EmailMessage

    import requests

    from asyncsend.tasks.http import Reply

TIMEOUT = 60.0
# Headers that each provider makes of members of its own, or forbids (twilio.com/docs/sendgrid/api-reference/mail-send: "headers"; RFC 5322 for the rest).
FRAME = ("from", "to", "subject", "reply-to", "date", "mime-version", "content-type", "content-transfer-encoding", "dkim-signature")


@dataclass(frozen=True)
class Mail:
    """A composed message and what providers want to know of it."""

    sender: str
    recipient: str
    raw: bytes
    key: str

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.raw, policy=policy.default)


Request = tuple[str, dict[str, str], bytes | None]  # URL, headers, body


class Api:
    """One account with one provider."""

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        self.gateway, self._request, self._judge = provider(url)
        self.timeout = timeout
        self._session: requests.Session | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.gateway.url).hostname or ""

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> Any:
        from asyncsend.tasks import http

        if self._session is None:
            self._session = http.plain_session()
        url, headers, body = self._request(Mail(sender, recipient, message, key))
        try:
            reply = http.call(self._session, self.gateway.method, url, headers=headers, data=body, timeout=self.timeout, auth=self.gateway.auth)
        except Answer as answer:
            raise told(answer) from None
        try:
            return self._judge(reply)
        except Refused as refused:  # its address or its content, which not every provider tells apart; 413 is its size
            raise refused.of_channel(failed=True) if reply.status != 413 else refused from None
        except Answer as answer:
            raise told(answer) from None

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def provider(url: str) -> tuple[Gateway, Callable[[Mail], Request], Callable[[Reply], dict[str, Any]]]:
    """The provider behind ASYNCSEND_EMAIL_URL: its gateway, what makes a request of a mail, and what judges the reply. ConfigurationError says what the URL lacks."""
    split = urlsplit(url)
    if split.scheme == "ses":
        from asyncsend.tasks.ses import Ses

        ses = Ses(url)
        return ses.gateway, ses.request, ses.judge
    if split.scheme == "http+template":
        gateway = from_file(Path(unquote(split.path)), "mail", "docs/mail.md")
        return gateway, lambda mail: request_of(gateway, _values(mail)), lambda reply: judge(gateway, reply, "email")
    query = parse_qs(split.query)
    key, domain = unquote(split.username or ""), split.hostname or ""
    if not key or split.password or not domain or set(query) - {"base"}:
        raise ConfigurationError(f"ASYNCSEND_EMAIL_URL must be {split.scheme}://KEY@{'your-domain' if split.scheme == 'mailgun' else 'default'}: write @ : / # ? in the key as %40 %3A %2F %23 %3F")
    gateway, body_of = {"sendgrid": _sendgrid, "mailgun": _mailgun, "brevo": _brevo, "postmark": _postmark}[split.scheme](key, domain, query.get("base", [""])[-1].rstrip("/"))

    def request(mail: Mail) -> Request:
        kind, body = body_of(mail)
        return gateway.url, {"Content-Type": kind, **gateway.headers}, body

    return gateway, request, lambda reply: judge(gateway, reply, "email")


def _sendgrid(key: str, _domain: str, base: str) -> tuple[Gateway, Callable[[Mail], tuple[str, bytes]]]:
    """SendGrid's v3 Mail Send (twilio.com/docs/sendgrid/api-reference/mail-send/mail-send; errors: …/how-to-use-the-sendgrid-v3-api/errors)."""
    gateway = Gateway(
        url=f"{base or 'https://api.sendgrid.com'}/v3/mail/send",  # base=https://api.eu.sendgrid.com for accounts in the EU
        headers={"Authorization": f"Bearer {key}"},
        success={"status": [202]},
        never={"status": [400, 413]},
        pause={"status": [401, 403]},  # 401 is also "Maximum credits exceeded", 403 a sender that is not verified
        limit={"status": [429]},
    )

    def body(mail: Mail) -> tuple[str, bytes]:
        message = mail.message
        return _json({
            "personalizations": [{"to": [_person(message["To"], "email", "name")], "custom_args": {"asyncsend": mail.key}}],
            "from": _person(message["From"], "email", "name"),
            "reply_to": _person(message["Reply-To"], "email", "name"),
            "subject": str(message["Subject"]),
            "content": [{"type": f"text/{kind}", "value": words} for kind, words in _texts(message)],
            "attachments": [
                {"content": content, "filename": name, "type": kind, "disposition": "inline" if cid else "attachment"} | ({"content_id": cid} if cid else {})
                for name, kind, cid, content in _files(message)
            ],
            "headers": _others(message),
        })  # fmt: skip

    return gateway, body


def _mailgun(key: str, domain: str, base: str) -> tuple[Gateway, Callable[[Mail], tuple[str, bytes]]]:
    """Mailgun's messages.mime (documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages; codes: …/quickstart-guide/responses)."""
    gateway = Gateway(
        url=f"{base or 'https://api.mailgun.net'}/v3/{quote(domain)}/messages.mime",  # base=https://api.eu.mailgun.net for domains in the EU
        auth=("api", key),
        success={"status": [200]},
        never={"status": [400, 413]},
        pause={"status": [401, 402, 403, 404]},  # 404: there is no such domain in the account
        limit={"status": [429]},
    )

    def body(mail: Mail) -> tuple[str, bytes]:
        from hashlib import sha256

        from urllib3.filepost import encode_multipart_formdata

        fields: list[tuple[str, Any]] = [("to", mail.recipient), ("v:asyncsend", mail.key), ("message", ("message.eml", mail.raw, "message/rfc822"))]
        content, kind = encode_multipart_formdata(fields, boundary=sha256(mail.raw).hexdigest())
        return kind, content

    return gateway, body


def _brevo(key: str, _domain: str, base: str) -> tuple[Gateway, Callable[[Mail], tuple[str, bytes]]]:
    """Brevo's v3 smtp/email (developers.brevo.com/reference/send-transac-email; codes: …/docs/how-it-works). It knows an idempotency key."""
    account = ["not_enough_credits", "account_under_validation", "permission_denied", "unauthorized", "reseller_permission_denied"]
    gateway = Gateway(
        url=f"{base or 'https://api.brevo.com'}/v3/smtp/email",
        headers={"api-key": key},
        success={"status": [200, 201, 202]},
        pause=[{"status": [401, 402, 403]}, {"status": [400], "json": {"code": account}}],
        never=[{"status": [400], "json": {"code": ["invalid_parameter", "missing_parameter", "out_of_range", "bad_request"]}}, {"status": [413]}],
        limit={"status": [429]},
    )

    def body(mail: Mail) -> tuple[str, bytes]:
        message = mail.message
        texts = dict(_texts(message))
        return _json({
            "sender": _person(message["From"], "email", "name"),
            "to": [_person(message["To"], "email", "name")],
            "replyTo": _person(message["Reply-To"], "email", "name"),
            "subject": str(message["Subject"]),
            "textContent": texts.get("plain"),
            "htmlContent": texts.get("html"),
            "attachment": [{"content": content, "name": cid or name} for name, _, cid, content in _files(message)],  # it names pictures in the html by file
            "headers": {**_others(message, "message-id"), "idempotencyKey": mail.key},  # it sets a Message-ID of its own
        })  # fmt: skip

    return gateway, body


def _postmark(key: str, _domain: str, base: str) -> tuple[Gateway, Callable[[Mail], tuple[str, bytes]]]:
    """Postmark's email (postmarkapp.com/developer/api/email-api; codes: …/api/overview#error-codes)."""
    gateway = Gateway(
        url=f"{base or 'https://api.postmarkapp.com'}/email",
        headers={"X-Postmark-Server-Token": key, "Accept": "application/json"},
        success={"status": [200], "json": {"ErrorCode": 0}},
        # 300 an invalid request, 406 an address that bounced or complained, 411 a kind of file it does not send
        never=[{"status": [422], "json": {"ErrorCode": [300, 402, 403, 406, 411]}}, {"status": [413]}],
        # 400, 401 the sender is not confirmed; 405 no credit; 412, 413 the account is not approved
        pause=[{"status": [401, 403]}, {"status": [422], "json": {"ErrorCode": [10, 400, 401, 405, 412, 413]}}],
        limit=[{"status": [429]}, {"status": [422], "json": {"ErrorCode": 429}}],
    )

    def body(mail: Mail) -> tuple[str, bytes]:
        message = mail.message
        texts = dict(_texts(message))
        return _json({
            "From": str(message["From"]), "To": str(message["To"]), "ReplyTo": str(message["Reply-To"] or ""), "Subject": str(message["Subject"]),
            "TextBody": texts.get("plain"), "HtmlBody": texts.get("html"),
            "Headers": [{"Name": name, "Value": value} for name, value in _others(message).items()],
            "Attachments": [
                {"Name": name, "Content": content, "ContentType": kind} | ({"ContentID": f"cid:{cid}"} if cid else {}) for name, kind, cid, content in _files(message)
            ],
            "Metadata": {"asyncsend": mail.key[:80]},
        })  # fmt: skip

    return gateway, body


def _values(mail: Mail) -> dict[str, Any]:
    """What the holes of a template of one's own are filled with."""
    message = mail.message
    texts = dict(_texts(message))
    name, _ = parseaddr(str(message["From"]))
    return {
        "to": mail.recipient, "from": mail.sender, "from_name": name, "reply_to": str(message["Reply-To"] or ""), "subject": str(message["Subject"]),
        "text": texts.get("plain", ""), "html": texts.get("html", ""), "message_id": str(message["Message-ID"]), "key": mail.key,
        "mime": mail.raw.decode("ascii", "surrogateescape"), "mime_base64": base64.b64encode(mail.raw).decode(), "params": {},
    }  # fmt: skip


def _json(members: dict[str, Any]) -> tuple[str, bytes]:
    """Without what is empty: providers refuse an empty list of attachments."""
    return "application/json", json.dumps({name: value for name, value in members.items() if value}, ensure_ascii=False).encode()


def _person(header: Any, address: str, name: str) -> dict[str, str] | None:
    if header is None:
        return None
    [one] = header.addresses
    return {address: one.addr_spec} | ({name: one.display_name} if one.display_name else {})


def _texts(message: EmailMessage) -> Iterator[tuple[str, str]]:
    """The bodies, the plainest first, as SendGrid demands."""
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        if part is not None and part.get_content_subtype() == kind:
            yield kind, part.get_content()


def _files(message: EmailMessage) -> Iterator[tuple[str, str, str, str]]:
    """Name, content type, cid or "", and base64 of all that is attached."""
    for part in message.walk():
        if part.get_filename() is not None:
            cid = str(part["Content-ID"] or "").strip("<>")
            yield part.get_filename() or "", part.get_content_type(), cid, base64.b64encode(part.get_payload(decode=True) or b"").decode()  # type: ignore[arg-type]


def _others(message: EmailMessage, *but: str) -> dict[str, str]:
    return {name: str(value) for name, value in message.items() if name.lower() not in (*FRAME, *but)}
