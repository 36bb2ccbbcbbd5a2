"""Attachments of a mail: from the payload itself, or from files in the one folder that is open to it."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncsend.answers import BadPayload, Retry
from asyncsend.tasks.members import only, text
from asyncsend.text import printable

if TYPE_CHECKING:
    from email.message import EmailMessage

    from asyncsend.tasks import Payload

MAX_MESSAGE_BYTES = 20 * 1024 * 1024  # the common limit of hosts (Hostinger 20 MB; OVH 10, DreamHost 40)
_CID = re.compile(r"[A-Za-z0-9._+@-]{1,100}")  # RFC 2392 without what would have to be percent-encoded in the html


def attach(message: EmailMessage, attachments: Any, folder: Path) -> None:
    """Add the attachments, those with a cid beside the html that shows them (multipart/related, the html first: RFC 2387)."""
    if attachments is None:
        return
    if not isinstance(attachments, list) or not all(isinstance(one, dict) for one in attachments):
        raise BadPayload('attachments must be a list of objects: [{"name": "invoice.pdf", "path": "invoice-17.pdf"}]')
    html, seen, others = message.get_body(("html",)), set(), []
    for position, attachment in enumerate(attachments):
        label = f"attachments[{position}]"
        name, cid, content = _attachment(label, attachment, folder)
        kind = _kind(name)
        if cid is None:
            others.append((name, kind, content))
            continue
        if html is None:
            raise BadPayload(f"{label} has a cid, but the mail has no html that could show it")
        if not _CID.fullmatch(cid) or cid in seen:
            raise BadPayload(f"{label}: cid {printable(cid, 60)!r} is {'there already' if cid in seen else 'no name: letters, digits, . _ + - @'}")
        seen.add(cid)
        html.add_related(content, *kind, cid=f"<{cid}>", filename=name, disposition="inline")
    if seen and html is not None:
        html.set_param("type", "text/html", replace=True)  # RFC 2387 section 3.1 demands it, Python leaves it out
    for name, kind, content in others:  # after all that is related: these go around the whole
        message.add_attachment(content, *kind, filename=name)


def _attachment(label: str, attachment: Payload, folder: Path) -> tuple[str, str | None, bytes]:
    """Name, cid and content of one entry; BadPayload starts with its label."""
    try:
        only(attachment, "name", "path", "base64", "cid")
        name = text(attachment, "name", required=True) or ""
        path, encoded, cid = text(attachment, "path"), text(attachment, "base64", one_line=False), text(attachment, "cid")
    except BadPayload as error:
        raise BadPayload(f"{label}: {error}") from error
    if (path is None) == (encoded is None):
        raise BadPayload(f"{label} must have either path or base64")
    if encoded is None:
        return name, cid, _file(label, path or "", folder)
    try:
        return name, cid, base64.b64decode(re.sub(r"\s+", "", encoded), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadPayload(f"{label}: base64 cannot be decoded ({error})") from error


def _kind(name: str) -> tuple[str, str]:
    """The two halves of the content type that a file's name speaks of."""
    import mimetypes

    guessed, compressed = mimetypes.guess_type(os.path.basename(name))
    # A mail inside a mail may not be base64 (RFC 2046 section 5.2.1), and a .tar.gz is no tar.
    if guessed is None or compressed or guessed.startswith(("message/", "multipart/")):
        guessed = "application/octet-stream"
    maintype, _, subtype = guessed.partition("/")
    return maintype, subtype


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
