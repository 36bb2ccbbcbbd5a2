"""
Bounces: which refusals mean that there is no such address, and what a mail says that came back.

RFC 3463 names the status codes, RFC 3464 the delivery reports, RFC 5965 the complaints (feedback loops); what hosts send beside
these, `flufl.bounce` knows. When in doubt an address is kept: who is suppressed wrongly gets no mail and no word of it.
"""

from __future__ import annotations

import re
from email import message_from_bytes
from typing import TYPE_CHECKING, NamedTuple

from asyncsend.errors import ConfigurationError
from asyncsend.tasks.unsubscribe import TOKEN, opened
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from email.message import Message

# RFC 3463 section 3.2: bad mailbox, bad system, bad syntax, moved without a forwarding address; RFC 7505: a domain that takes no mail.
# Not x.1.4, x.1.5, x.1.7 to x.1.9, which speak of other things, nor x.2 (mailbox full, disabled for now) and x.7 (policy).
HARD = {("1", "1"), ("1", "2"), ("1", "3"), ("1", "6"), ("1", "10")}
_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
# What servers say that name no such code, Exim and cPanel's among them: "550 No Such User Here", "550 Unrouteable address".
_UNKNOWN = re.compile(
    r"\b(no such (user|recipient|mailbox|address|person|host|domain)|(user|recipient|mailbox|address|account)[^;\n]{0,80}? (unknown|not found|does(n't| not) exist)"
    r"|unknown (user|recipient|mailbox|local part|address)|unrouteable address|invalid (recipient|mailbox))\b",
    re.IGNORECASE,
)
_NOT_THE_ADDRESS = re.compile(
    r"\b(full|quota|exceed\w*|limit\w*|too (many|big|large)|spam|policy|block\w*|blacklist\w*|denied|prohibit\w*|reputation|relay\w*|spf|dkim|dmarc|sender|try again|tempor\w+|timed? ?out)\b", re.IGNORECASE
)
_MESSAGE_ID = re.compile(rb"(?im)^[> \t]*message-id:\s*<([^<>\s]{1,300})>")
MOST_BYTES = 2 * 1024 * 1024  # of a mail that came back: the report stands before the mail that it returns


class Told(NamedTuple):
    """What a mail says of one address."""

    address: str  # as it stands there; may be empty where the report hides it and only names the mail
    reason: str | None  # hard | complaint | unsubscribed; None: the address stays as it is
    words: str
    of_list: str = ""


def is_hard(said: str) -> bool:
    """
    Whether a refusal means that there is no such address.

    >>> [is_hard(one) for one in ("550 5.1.1 No such user", "550 No Such User Here", "550 5.7.1 no such user", "552 5.2.2 full", "550 Administrative prohibition")]
    [True, True, False, False, False]
    """
    if re.search(r"\bMAIL FROM\b", said):  # that was the sender
        return False
    status = _STATUS.search(said)
    if status and (status[1], status[2], status[3]) not in (("5", "0", "0"), ("5", "1", "0")):
        return status[1] == "5" and (status[2], status[3]) in HARD
    return _UNKNOWN.search(said) is not None and not _NOT_THE_ADDRESS.search(said)


def read(raw: bytes, secrets: Sequence[str] = ()) -> tuple[list[Told], list[str]]:
    """
    What a mail that came back says, and the Message-IDs it names beside its own, for whoever knows them. Nothing, if it is no bounce, complaint or unsubscription.

    ConfigurationError if it is in no standard form, and what knows the others is not installed.
    """
    try:
        return _read(raw, secrets)
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 - a stranger's mail may be malformed in any way, or nested too deeply
        return [], []


def _read(raw: bytes, secrets: Sequence[str]) -> tuple[list[Told], list[str]]:
    mail = message_from_bytes(raw)
    own = str(mail.get("Message-ID", "")).strip().strip("<>")
    ids = [found for one in _MESSAGE_ID.findall(raw) if (found := one.decode("ascii", "replace")) != own]
    token = TOKEN.search(str(mail.get("Subject", "")))
    if token and (who := opened(token[0], secrets)):
        return [Told(who[1], "unsubscribed", "a mail to unsubscribe", who[0])], []
    for part in mail.walk():
        if part.get_content_type() == "message/feedback-report":
            return list(_complaints(part, mail)), ids
    told = [one for part in mail.walk() if part.get_content_type() == "message/delivery-status" for one in _failures(part)]
    return told or list(_guessed(mail)), ids


def _blocks(part: Message) -> Iterator[Message]:
    """The groups of fields in a report."""
    content = part.get_payload()
    if isinstance(content, list):
        yield from (block for block in content if not isinstance(block, str))


def _complaints(part: Message, mail: Message) -> Iterator[Told]:
    """RFC 5965: who complained; some feedback loops leave out who it was, and the mail itself has to tell."""
    for block in _blocks(part):
        kind = str(block.get("Feedback-Type", "")).strip().lower()
        if not kind:
            continue
        # abuse and fraud are complaints, opt-out is an older word; not-spam, virus and auth-failure (RFC 6591) say nothing of the reader's wish.
        reason = {"abuse": "complaint", "fraud": "complaint", "opt-out": "unsubscribed"}.get(kind)
        recipients = [str(one).strip(" <>") for one in block.get_all("Original-Rcpt-To", [])]
        returned = [one for part in mail.walk() if part.get_content_type() in ("message/rfc822", "text/rfc822-headers") for one in _returned(part)]
        to = recipients or [str(one["To"]) for one in returned if one["To"]] or [""]
        yield from (Told(address, reason, f"feedback report: {printable(kind, 40)}") for address in to)


def _returned(part: Message) -> Iterator[Message]:
    content = part.get_payload()
    if isinstance(content, list):
        yield from (one for one in content if not isinstance(one, str))
    elif isinstance(content, str):
        yield message_from_bytes(content.encode("utf-8", "replace"))


def _failures(part: Message) -> Iterator[Told]:
    """RFC 3464 section 2.3: one group of fields for each recipient. The one it was sent to goes before the one it was forwarded to."""
    for block in _blocks(part):
        action = str(block.get("Action", "")).strip().lower()
        if not action:
            continue  # the group about the message
        recipient = str(block.get("Original-Recipient") or block.get("Final-Recipient") or "").rpartition(";")[2].strip(" <>")
        said = f"{block.get('Status', '')} {block.get('Diagnostic-Code', '')}".strip()
        failed = action.startswith(("fail", "error"))  # OpenSMTPD says error
        yield Told(recipient, "hard" if failed and _is_hard_report(block) else None, printable(f"{action}: {' '.join(said.split())}", 150))


def _is_hard_report(block: Message) -> bool:
    """Exim's Status is always 5.0.0; what the server really said stands in Diagnostic-Code."""
    status = str(block.get("Status", "")).strip()
    precise = _STATUS.search(status)
    if precise and precise[0] not in ("5.0.0", "5.1.0"):
        return is_hard(precise[0])
    return is_hard(" ".join(str(block.get("Diagnostic-Code", "")).split()))


def _guessed(mail: Message) -> Iterator[Told]:
    """The forms of single hosts; only where the words around it do not speak of something else than the address."""
    try:
        from flufl.bounce import all_failures
    except ImportError as error:
        raise ConfigurationError("this mail is in no standard form: `pip install 'asyncsend[bounces]'` knows those of many hosts") from error
    import logging

    logging.getLogger("flufl.bounce").disabled = True  # it prints a traceback for a mail without From, and a pipe may print nothing
    temporary, permanent = all_failures(mail)
    text = _text_of(mail)
    for address in sorted(permanent | temporary):
        status = _STATUS.search(text)
        hard = address in permanent and (is_hard(text) if status or _UNKNOWN.search(text) else not _NOT_THE_ADDRESS.search(text))
        yield Told(address.decode("ascii", "replace"), "hard" if hard else None, "bounce in no standard form")


def _text_of(mail: Message) -> str:
    """The first words of a bounce, before the mail that it returns."""
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            content = part.get_payload(decode=True)
            text = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
            return re.split(r"(?im)^-{2,}[^\n]*(copy|original|message|headers)|^(received|return-path):", text[:4000])[0]
    return ""
