"""`email`: one message to one address. Composing is here; the three ways out are in `smtp.py` and below."""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

from asyncsend import backoff
from asyncsend.answers import BadPayload, Refused, Retry
from asyncsend.errors import ConfigurationError
from asyncsend.job import printable
from asyncsend.tasks import Payload, Policy
from asyncsend.tasks.members import header_names, only, text

if TYPE_CHECKING:
    from asyncsend.config import Settings
    from asyncsend.job import Job

# 998 is RFC 5322's limit of a line. With the usual 78, Python folds a long List-Unsubscribe into encoded words, which Gmail
# ignores (cpython#74717, flask-mail#246). 7bit: a relay need not know 8BITMIME.
_FOLDED = SMTP.clone(max_line_length=76)
LONGEST_WORD = 900  # of a header: with its name it fits into a line of 998


class _MessagePolicy(EmailPolicy):
    """Plain headers in one line of at most 998; those that need encoded words folded so that none is longer than the 75 of RFC 2047."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        plain = value.isascii() and all(len(word) <= LONGEST_WORD for word in value.split())
        return super().fold_binary(name, value) if plain else _FOLDED.fold_binary(name, value)


POLICY_OF_MESSAGE = _MessagePolicy(linesep="\r\n", max_line_length=998, cte_type="7bit")
MAX_MESSAGE_BYTES = 20 * 1024 * 1024  # the common limit of hosts (Hostinger 20 MB; OVH 10, DreamHost 40)
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
    """Sends payloads of the form {to, subject, text and/or html, from, reply_to, headers, attachments, list}."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.default_from = settings.email_from
        self.attachments = settings.attachments
        self.transport = open_transport(settings.email_url)

    def __call__(self, payload: Payload, job: Job) -> Any:
        sender, recipient, message = compose(payload, job, self.default_from, self.attachments, self.settings)
        try:
            return self.transport.send(sender, recipient, message, job.idempotency_key)
        except Refused as refused:
            from asyncsend.tasks.bounces import is_hard

            if is_hard(str(refused)):
                job.report |= {"suppress": "hard", "address": recipient}
            raise

    def close(self) -> None:
        self.transport.close()


def compose(payload: Payload, job: Job, default_from: str, attachments: Path, settings: Settings | None = None) -> tuple[str, str, bytes]:
    """
    Envelope sender, envelope recipient and the message's bytes; the same on every attempt, for they come from the row alone.

    BadPayload names the member that cannot be sent.
    """
    only(payload, "to", "subject", "text", "html", "from", "reply_to", "headers", "attachments", "list")
    to = address("to", text(payload, "to", required=True) or "")
    subject = text(payload, "subject", required=True) or ""
    plain, html = text(payload, "text", one_line=False), text(payload, "html", one_line=False)
    if plain is None and html is None:
        raise BadPayload("text and html are both missing: a mail needs at least one of them")
    given_from = text(payload, "from") or default_from
    if not given_from:
        raise BadPayload("from is missing, and ASYNCSEND_EMAIL_FROM is not set: set it in .env, then `asyncsend retry` the job")
    sender = address("from", given_from)
    message = EmailMessage(policy=POLICY_OF_MESSAGE)
    message["From"] = sender
    message["To"] = to
    reply_to = text(payload, "reply_to")
    if reply_to:
        message["Reply-To"] = address("reply_to", reply_to)
    message["Subject"] = subject
    if job.created_at is not None:
        message["Date"] = format_datetime(job.created_at)
    message["Message-ID"] = f"<{job.idempotency_key}@{sender.domain}>"
    headers = header_names(payload.get("headers"), forbidden=OURS)
    of_list = text(payload, "list")
    if of_list is not None and settings is not None:
        from asyncsend.tasks import unsubscribe

        headers |= unsubscribe.headers(of_list, to.addr_spec, settings, headers)
    for name, value in headers.items():
        if value.isascii() and any(len(word) > LONGEST_WORD for word in value.split()):
            raise BadPayload(f"headers: {name} holds a word of more than {LONGEST_WORD} characters, which fits into no line of a mail")
        try:
            message[name] = value
        except (ValueError, IndexError, AttributeError) as error:  # what the parsers of structured headers raise
            raise BadPayload(f"headers: {name} cannot be written ({error})") from error
    if not any(name.lower() == "auto-submitted" for name in headers):
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: holiday notices do not answer it
    if plain is not None:
        message.set_content(plain)
    if html is not None and plain is not None:
        message.add_alternative(html, subtype="html")
    elif html is not None:
        message.set_content(html, subtype="html")
    _attach(message, payload.get("attachments"), attachments)
    raw = message.as_bytes()
    _unbroken(message, raw)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadPayload(f"the message is {len(raw):,} bytes with its attachments; the limit is {MAX_MESSAGE_BYTES:,}: send a link instead")
    return sender.addr_spec, to.addr_spec, raw


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


def _attach(message: EmailMessage, attachments: Any, folder: Path) -> None:
    if attachments is None:
        return
    if not isinstance(attachments, list) or not all(isinstance(one, dict) for one in attachments):
        raise BadPayload('attachments must be a list of objects: [{"name": "invoice.pdf", "path": "invoice-17.pdf"}]')
    for position, attachment in enumerate(attachments):
        label = f"attachments[{position}]"
        try:
            only(attachment, "name", "path", "base64")
            name = text(attachment, "name", required=True) or ""
            path, encoded = text(attachment, "path"), text(attachment, "base64", one_line=False)
        except BadPayload as error:
            raise BadPayload(f"{label}: {error}") from error
        if (path is None) == (encoded is None):
            raise BadPayload(f"{label} must have either path or base64")
        if encoded is not None:
            try:
                content = base64.b64decode(re.sub(r"\s+", "", encoded), validate=True)
            except (binascii.Error, ValueError) as error:
                raise BadPayload(f"{label}: base64 cannot be decoded ({error})") from error
        else:
            content = _file(label, path or "", folder)
        import mimetypes

        guessed, compressed = mimetypes.guess_type(os.path.basename(name))
        # A mail inside a mail may not be base64 (RFC 2046 section 5.2.1), and a .tar.gz is no tar.
        if guessed is None or compressed or guessed.startswith(("message/", "multipart/")):
            guessed = "application/octet-stream"
        maintype, _, subtype = guessed.partition("/")
        message.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)


def _file(label: str, path: str, folder: Path) -> bytes:
    """The content of a file inside the attachments folder: a row must not be able to mail out any file of the account."""
    root = Path(os.path.realpath(folder))
    found = Path(os.path.realpath(root / path))
    if not found.is_relative_to(root):
        raise BadPayload(f"{label}: {printable(path, 100)} does not lie in {folder}: put it there, or set ASYNCSEND_ATTACHMENTS")
    try:
        if found.stat().st_size > MAX_MESSAGE_BYTES:
            raise BadPayload(f"{label}: {printable(path, 100)} is larger than {MAX_MESSAGE_BYTES:,} bytes: send a link instead")
        return found.read_bytes()
    except OSError as error:
        # The page may write the file a moment after the row: a failed attempt, not a dead job.
        raise Retry(None, f"{label}: cannot read {printable(str(found), 150)} ({error.strerror})", reason="no-attachment") from error


def open_transport(url: str) -> Transport:
    """The transport behind ASYNCSEND_EMAIL_URL, not yet connected; ConfigurationError if the URL is of no kind we know."""
    scheme = url.partition(":")[0]
    if scheme in ("smtp", "smtps"):
        from asyncsend.tasks.smtp import Smtp

        return Smtp(url)
    path = unquote(urlsplit(url).path)
    if scheme == "sendmail":
        return Sendmail(path or "/usr/sbin/sendmail")
    if scheme == "maildir" and path:
        return Maildir(Path(path))
    raise ConfigurationError(
        f"ASYNCSEND_EMAIL_URL starts with {printable(scheme, 20)!r}: write smtp://user:password@host:587, smtps://…,"
        " sendmail:///usr/sbin/sendmail or maildir:///folder"
    )


class Maildir:
    """Mails as files, one each, named after their job: a repeated attempt writes the same file again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", key) + ".eml"
        try:
            for folder in (self.folder, *(self.folder / part for part in ("tmp", "new", "cur"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.folder / "tmp" / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(message)
            os.replace(self.folder / "tmp" / name, self.folder / "new" / name)
        except OSError as error:
            raise Retry(None, f"cannot write to the outbox {self.folder} ({error.strerror}): free space or check its rights", reason="outbox") from error

    def close(self) -> None:
        pass


class Sendmail:
    """The host's own sendmail program; its exit code says what it did (sysexits.h, as Postfix and Exim use it)."""

    NEVER: ClassVar = {os.EX_DATAERR: "the message is malformed", os.EX_NOUSER: "no such user", os.EX_NOHOST: "no such host"}

    def __init__(self, program: str) -> None:
        self.program = program

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        try:
            done = subprocess.run(
                [self.program, "-i", "-f", sender, "--", recipient], input=message.replace(b"\r\n", b"\n"), capture_output=True, check=False
            )
        except OSError as error:
            raise Retry(None, f"cannot start {self.program} ({error.strerror}): check ASYNCSEND_EMAIL_URL", reason="cannot-start") from error
        said = printable((done.stderr or done.stdout).decode("utf-8", "replace").strip(), 300)
        if done.returncode in self.NEVER:
            raise Refused(f"{self.program}: {self.NEVER[done.returncode]} ({said})", reason="refused")
        if done.returncode:
            raise Retry(None, f"{self.program} exited with {done.returncode} ({said})", reason="sendmail")

    def close(self) -> None:
        pass
