"""
A mail as a page for the browser: headers, html, text and attachments, as they would go out. Nothing is sent and nothing is fetched.

The mail may be anybody's: its html stands in a frame without scripts, forms, links to follow or a way to the page around it, and the
policy of the page lets nothing be loaded but the pictures that the mail itself brings.
"""

from __future__ import annotations

import base64
import re
from email import message_from_bytes, policy
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from email.message import EmailMessage

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_CID = re.compile(r"cid:([^\s\"'<>)]+)", re.IGNORECASE)
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }}
th {{ text-align: left; vertical-align: top; padding-right: 1em; white-space: nowrap }} td {{ word-break: break-word }}
iframe {{ width: 100%; height: 40em; border: 1px solid #999 }} pre {{ white-space: pre-wrap; border: 1px solid #999; padding: 1em }}
</style></head><body>
<h1>{title}</h1>
<p>{size:,} bytes, from {sender} to {recipient}. Nothing was sent. Pictures from the web are not loaded.</p>
<table>{headers}</table>
{parts}</body></html>
"""


def page(sender: str, recipient: str, raw: bytes) -> str:
    """The page of one message, envelope and bytes as they would be handed to the way out."""
    message = message_from_bytes(raw, policy=policy.default)
    parts = []
    html, plain = message.get_body(("html",)), message.get_body(("plain",))
    if html is not None:
        # srcdoc is a document of its own: the policy is said again in it, and sandbox="" takes scripts, forms and its origin away.
        inner = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' + _with_pictures(str(html.get_content()), message)
        parts.append(f'<h2>HTML</h2>\n<iframe sandbox="" referrerpolicy="no-referrer" srcdoc="{escape(inner)}"></iframe>\n')
    if plain is not None:
        parts.append(f"<h2>Text</h2>\n<pre>{escape(str(plain.get_content()))}</pre>\n")
    files = [part for part in message.walk() if part.get_filename() is not None]
    if files:
        parts.append("<h2>Attachments</h2>\n<ul>" + "".join(f"<li>{escape(_file(part))}</li>" for part in files) + "</ul>\n")
    return _PAGE.format(
        policy=POLICY, title=escape(str(message["Subject"] or "")), size=len(raw), sender=escape(sender), recipient=escape(recipient),
        headers="".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in message.items()), parts="".join(parts),
    )  # fmt: skip


def _file(part: EmailMessage) -> str:
    cid = str(part["Content-ID"] or "").strip("<>")
    return f"{part.get_filename()}: {part.get_content_type()}, {len(_content(part)):,} bytes{f', shown as cid:{cid}' if cid else ''}"


def _content(part: EmailMessage) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _with_pictures(html: str, message: EmailMessage) -> str:
    """The html with each cid: of a picture in the mail as a data: URL."""
    pictures = {
        str(part["Content-ID"]).strip("<>"): f"data:{part.get_content_type()};base64,{base64.b64encode(_content(part)).decode()}"
        for part in message.walk()
        if part["Content-ID"] and part.get_content_maintype() == "image"
    }
    return _CID.sub(lambda found: pictures.get(unquote(found[1]), found[0]), html)
