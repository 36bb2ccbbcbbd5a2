"""`email`: one message to one address. Composing is here; the three ways out are in `smtp.py` and below."""

from __future__ import annotations

import re
import sys
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from asyncsend import backoff
from asyncsend.answers import Answer, BadPayload, Refused, Snooze
from asyncsend.channels import EMAIL
from asyncsend.errors import ConfigurationError
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.attachments import MAX_MESSAGE_BYTES, attach
from asyncsend.tasks.members import header_names, only, text
from asyncsend.tasks.replies import once_more
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.config import Settings
    from asyncsend.job import Job
    from asyncsend.tasks.dkim import Signer
    from asyncsend.tasks.templates import Templates

# 998 is RFC 5322's limit of a line. With the usual 78, Python folds a long List-Unsubscribe into encoded words, which Gmail
# ignores (cpython#74717, flask-mail#246). 7bit: a relay need not know 8BITMIME.
_FOLDED = SMTP.clone(max_line_length=76)
LONGEST_WORD = 900  # of a header: with its name it fits into a line of 998


class _MessagePolicy(EmailPolicy):
    """Plain headers in one line of at most 998; those that need encoded words folded so that none is longer than the 75 of RFC 2047."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        plain = value.isascii() and all(len(word) <= LONGEST_WORD for word in value.split())
        return super().fold_binary(name, value) if plain else _FOLDED.fold_binary(name, value)


LONGEST_LINE = 998
POLICY_OF_MESSAGE = _MessagePolicy(linesep="\r\n", max_line_length=LONGEST_LINE, cte_type="7bit")
MODULE_PAUSE = 120.0  # seconds a mail waits while a library it needs is not installed
# What belongs to the message's frame: set from the members, or by whoever relays it.
OURS = (
    "from", "to", "cc", "bcc", "subject", "date", "message-id", "sender", "return-path", "received", "reply-to", "dkim-signature",
    "mime-version", "content-type", "content-transfer-encoding", "content-disposition",
)  # fmt: skip


def policy(settings: Settings) -> Policy:
    # The final dot alone may take five minutes to be answered (RFC 5321 section 4.5.3.2.6 says ten).
    return Policy(max_attempts=16, timeout=420.0, backoff=backoff.MAIL, on_unknown=settings.email_on_unknown)


class Transport(Protocol):
    """A way out for mail."""

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> Any:
        """Hand one message over; returns what the receiver said, raises an answer if it was not taken."""

    def close(self) -> None:
        """End the connection, if there is one."""


class Email:
    """Sends payloads of the form {to, subject, text and/or html, or template and params, from, reply_to, headers, attachments, list}."""

    def __init__(self, settings: Settings) -> None:
        self.composed = Composer(settings)
        self.transport = open_transport(settings.email_url)

    def __call__(self, payload: Payload, job: Job) -> Any:
        job.report = {"unsent": True}
        sender, recipient, message = self.composed(payload, job)
        job.report = {}
        try:
            return self.transport.send(sender, recipient, message, job.idempotency_key)
        except Answer as answer:
            answer = once_more(answer, job.reason)
            if answer.about:
                job.report = {"channel": EMAIL, **answer.about}
            if isinstance(answer, Refused) and not self.composed.settings.email_redirect:
                from asyncsend.tasks.bounces import is_hard

                if is_hard(str(answer)):
                    job.report |= {"suppress": "hard", "address": recipient}
            raise answer from None

    def close(self) -> None:
        self.transport.close()


class Composer:
    """Envelope and bytes of a payload as the settings want them: templates filled, in test mode to one address, signed. Opens no connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.signer = signer(settings)
        if settings.email_redirect:
            try:
                address("ASYNCSEND_EMAIL_REDIRECT", settings.email_redirect)
            except BadPayload as error:  # the setting's fault, not the job's
                raise ConfigurationError(str(error)) from error
        self._templates: Templates | None = None

    def __call__(self, payload: Payload, job: Job) -> tuple[str, str, bytes]:
        if payload.get("template") is not None:
            payload = self._filled(payload)
        if self.settings.email_redirect:
            payload = redirected(payload, self.settings.email_redirect)
        sender, recipient, message = compose(payload, job, self.settings.email_from, self.settings.attachments, self.settings)
        if self.signer is not None:
            message = self.signer.signed(message, sender.rpartition("@")[2], job.created_at)
        return sender, recipient, message

    def _filled(self, payload: Payload) -> Payload:
        if self._templates is None:
            try:
                from asyncsend.tasks.templates import Templates
            except ImportError as error:
                advice = f"run `{sys.executable} -m pip install jinja2`"
                raise Snooze(MODULE_PAUSE, f"the mail names a template, but Jinja2 is not installed: {advice}", reason="configuration") from error
            self._templates = Templates(self.settings.templates)
        return self._templates.filled(payload)


def signer(settings: Settings) -> Signer | None:
    """What signs the mails of these settings, if anything does; ConfigurationError if its key cannot be used."""
    if settings.dkim_key is None:
        return None
    from asyncsend.tasks.dkim import Signer

    return Signer(settings.dkim_key, settings.dkim_selector, settings.dkim_domain)


def redirected(payload: Payload, redirect: str) -> Payload:
    """The payload as test mode sends it: to `redirect`, the original address in the subject and in X-Original-To. A bad payload stays one."""
    original = address("to", text(payload, "to", required=True) or "").addr_spec
    given = header_names(payload.get("headers"), forbidden=OURS)
    headers = {name: value for name, value in given.items() if name.lower() != "x-original-to"}
    subject = text(payload, "subject", required=True)
    return {**payload, "to": redirect, "subject": f"[to {original}] {subject}", "headers": {**headers, "X-Original-To": original}}


def compose(payload: Payload, job: Job, default_from: str, attachments: Path, settings: Settings | None = None) -> tuple[str, str, bytes]:
    """
    Envelope sender, envelope recipient and the message's bytes; the same on every attempt, for they come from the row alone.

    BadPayload names the member that cannot be sent.
    """
    only(payload, "to", "subject", "text", "html", "from", "reply_to", "headers", "attachments", "template", "params", "list")
    if payload.get("params") is not None:
        raise BadPayload("params fill a template, and none is named: give template, or leave params out")
    to = address("to", text(payload, "to", required=True) or "")
    subject = text(payload, "subject", required=True) or ""
    plain, html = text(payload, "text", one_line=False), text(payload, "html", one_line=False)
    if plain is None and html is None:
        raise BadPayload("text and html are both missing: a mail needs at least one of them, or a template")
    if plain is None and html is not None:
        from asyncsend.tasks.plaintext import text_of

        plain = text_of(html) or None
    given_from = text(payload, "from") or default_from
    if not given_from:
        raise BadPayload("from is missing, and ASYNCSEND_EMAIL_FROM is not set: set it in .env, then `asyncsend retry` the job")
    sender = address("from", given_from)
    lines: list[tuple[str, str | Address]] = [("From", sender), ("To", to)]
    reply_to = text(payload, "reply_to")
    if reply_to:
        lines.append(("Reply-To", address("reply_to", reply_to)))
    lines.append(("Subject", subject))
    if job.created_at is not None:
        lines.append(("Date", format_datetime(job.created_at)))
    lines.append(("Message-ID", f"<{job.idempotency_key}@{sender.domain}>"))
    headers = header_names(payload.get("headers"), forbidden=OURS)
    of_list = text(payload, "list")
    if of_list is not None and settings is not None:
        from asyncsend.tasks import unsubscribe

        headers |= unsubscribe.headers(of_list, to.addr_spec, settings, headers)
    for name, value in headers.items():
        if value.isascii() and any(len(word) > LONGEST_WORD for word in value.split()):
            raise BadPayload(f"headers: {name} holds a word of more than {LONGEST_WORD} characters, which fits into no line of a mail")
        lines.append((name, value))
    if not any(name.lower() == "auto-submitted" for name in headers):
        lines.append(("Auto-Submitted", "auto-generated"))  # RFC 3834: holiday notices do not answer it
    raw = _plainly(lines, plain) if html is None and payload.get("attachments") is None else None
    if raw is None:
        raw = _by_parts(lines, plain, html, payload.get("attachments"), attachments, job.idempotency_key)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadPayload(f"the message is {len(raw):,} bytes with its attachments; the limit is {MAX_MESSAGE_BYTES:,}: send a link instead")
    return sender.addr_spec, to.addr_spec, raw


_WORDS = re.compile(r"[!-~]+(?: [!-~]+)*")
_SIMPLE_NAME = re.compile(r"(?:[A-Za-z0-9]+(?: [A-Za-z0-9]+)*)?")
_UNSTRUCTURED = re.compile(r"from|to|reply-to|subject|date|message-id|auto-submitted|precedence|x-.*|list-.*", re.IGNORECASE)  # the first six are made above


def _plainly(lines: list[tuple[str, str | Address]], words: str | None) -> bytes | None:
    """
    The bytes that EmailMessage would make, for a mail of nothing but ASCII that nobody would fold or quote; None for any other.

    It takes a tenth of the time: Python parses each header with a grammar, to write it down again as it was.
    """
    if words is None or not words.isascii():
        return None
    written = []
    for name, value in lines:
        if isinstance(value, Address) and not _SIMPLE_NAME.fullmatch(value.display_name):
            return None
        line = f"{name}: {value}"
        if len(line) > LONGEST_WORD or "=?" in line or not _UNSTRUCTURED.fullmatch(name) or not _WORDS.fullmatch(str(value)):
            return None
        written.append(line)
    body = words.encode().splitlines()
    if any(len(line) > LONGEST_LINE for line in body):
        return None
    written += ['Content-Type: text/plain; charset="utf-8"', "Content-Transfer-Encoding: 7bit", "MIME-Version: 1.0", "", ""]
    return "\r\n".join(written).encode() + b"\r\n".join(body) + b"\r\n"


def _by_parts(lines: list[tuple[str, str | Address]], plain: str | None, html: str | None, given: Any, folder: Path, key: str) -> bytes:
    """The bytes of any message."""
    message = EmailMessage(policy=POLICY_OF_MESSAGE)
    for name, value in lines:
        try:
            message[name] = value
        except (ValueError, IndexError, AttributeError) as error:  # what the parsers of structured headers raise
            raise BadPayload(f"headers: {name} cannot be written ({error})") from error
    if plain is not None:
        message.set_content(plain)
    if html is not None and plain is not None:
        message.add_alternative(html, subtype="html")
    elif html is not None:
        message.set_content(html, subtype="html")
    attach(message, given, folder)
    if message.is_multipart():
        _set_boundaries(message, key, plain or "", html or "")
    raw = message.as_bytes()
    _unbroken(message, raw)
    return raw


def _set_boundaries(message: EmailMessage, *words: str) -> None:
    """The same boundaries on every attempt. No text can hold one, for they are made of its own hash."""
    from hashlib import sha256

    seed = sha256("\0".join(words).encode()).hexdigest()[:32]
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"=_{seed}_{number}")


def _unbroken(message: EmailMessage, raw: bytes) -> None:
    """
    BadPayload if a header has turned into two on its way to the wire.

    Python before 3.12.5 decodes `=?utf-8?q?a=0ABcc:…?=` in a value and writes the line break it finds there (CVE-2024-6923).
    """
    previous = ""
    wanted = iter(message.keys())
    for line in raw.partition(b"\r\n\r\n")[0].splitlines():
        if line[:1] in (b" ", b"\t"):
            continue
        name = line.partition(b":")[0].decode("ascii", "replace")
        if name != next(wanted, None):
            raise BadPayload(f"{previous} hides a line break in an encoded word: write the text itself")
        previous = name
    if next(wanted, None) is not None:
        raise BadPayload(f"{previous} hides a line break in an encoded word: write the text itself")


_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")  # dot-atom of RFC 5322
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def address(member: str, value: str) -> Address:
    """The one address in `ann@example.com` or `Ann <ann@example.com>`, its domain in ASCII (IDNA 2008); BadPayload names the member."""
    name, bracket, rest = value.strip().rpartition("<")
    spec = value.strip()
    if bracket:
        if not rest.endswith(">"):
            raise BadPayload(f"{member} {printable(value, 80)!r} has no closing >")
        spec, name = rest[:-1].strip(), name.strip()
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        elif "," in name and "@" in name:
            spec = value
    else:
        name = ""
    if spec.count("@") > 1 or "," in spec or ";" in spec or "<" in name or ">" in name:
        raise BadPayload(f"{member} must hold exactly one address, not {printable(value, 80)!r}: enqueue one job for each recipient")
    local, at, domain = spec.partition("@")
    if not at or len(spec) > 254 or len(local) > 64:  # RFC 5321 section 4.5.3.1, RFC 3696 erratum 1690
        raise BadPayload(f"{member} {printable(value, 80)!r} is not a mail address")
    if not local.isascii():
        raise BadPayload(f"{member} {printable(value, 80)!r} has letters before the @ that only SMTPUTF8 servers take; use the ASCII address")
    if not domain.isascii():
        import idna

        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise BadPayload(f"{member} {printable(value, 80)!r} has a domain that does not exist in IDNA: {error}") from error
    if not _LOCAL.fullmatch(local) or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise BadPayload(f"{member} {printable(value, 80)!r} is not a mail address")
    return Address(display_name=name, username=local, domain=domain)


def open_transport(url: str) -> Transport:
    """The transport behind ASYNCSEND_EMAIL_URL, not yet connected; ConfigurationError if the URL is of no kind we know."""
    scheme = url.partition(":")[0]
    if scheme in ("smtp", "smtps"):
        from asyncsend.tasks.smtp import Smtp

        return Smtp(url)
    if scheme in ("sendgrid", "mailgun", "brevo", "postmark", "ses", "http+template"):
        from asyncsend.tasks.mail_api import Api

        return Api(url)
    path = unquote(urlsplit(url).path)
    if scheme == "sendmail":
        from asyncsend.tasks.sendmail import Sendmail

        return Sendmail(path or "/usr/sbin/sendmail")
    if scheme == "maildir" and path:
        from asyncsend.tasks.maildir import Maildir

        return Maildir(Path(path))
    raise ConfigurationError(
        f"ASYNCSEND_EMAIL_URL starts with {printable(scheme, 20)!r}: write smtp://user:password@host:587, smtps://…,"
        " sendmail:///usr/sbin/sendmail, maildir:///folder, or a provider: sendgrid://, mailgun://, brevo://, postmark://, ses://, http+template:// (docs/mail.md)"
    )
