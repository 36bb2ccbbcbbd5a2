"""
Unsubscribing by one click (RFC 8058): the headers of a mail that belongs to a list, and the signed token in them.

A token is the list and the address, and an HMAC-SHA256 of both: nobody can make one for somebody else, and nothing is looked up to
check it. It is the same on every attempt and never expires: a mail may be opened years later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from asyncsend.answers import BadPayload, Snooze
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncsend.config import Settings

LIST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
TOKEN = re.compile(r"[A-Za-z0-9_-]{4,500}\.[A-Za-z0-9_-]{43}")
ONE_CLICK = "List-Unsubscribe=One-Click"  # the value of List-Unsubscribe-Post, and the body of the request that comes of it
NOT_SET = 300.0  # seconds a mail waits while the settings are not there


def headers(of_list: str, address: str, settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """
    What a mail of this list carries: Precedence, and unless `given` brings a List-Unsubscribe of its own, our two headers.

    BadPayload if the list has no name that could be one; Snooze while a setting is missing: Gmail takes bulk mail without them for spam.
    """
    if not LIST.fullmatch(of_list):
        raise BadPayload(f"list {printable(of_list, 80)!r} is no name of a mailing list: letters, digits, _ . -, at most 64")
    there = {name.lower() for name in given}
    found = {} if "precedence" in there else {"Precedence": "bulk"}
    if "list-unsubscribe" in there:
        return found
    if not (settings.unsubscribe_url and settings.unsubscribe_secrets):
        missing = "ASYNCSEND_UNSUBSCRIBE_SECRET" if settings.unsubscribe_url else "ASYNCSEND_UNSUBSCRIBE_URL"
        raise Snooze(
            NOT_SET, f"a mail of a list needs its unsubscribe address, and {missing} is not set: see docs/unsubscribe.md, or give it a List-Unsubscribe header of your own", reason="no-unsubscribe"
        )
    sign = token(of_list, address, settings.unsubscribe_secrets[0])
    url = settings.unsubscribe_url
    places = [f"<{url}{'' if url.endswith(('/', '=')) else '/'}{sign}>"]
    if settings.unsubscribe_mailto:
        places.append(f"<mailto:{settings.unsubscribe_mailto}?subject={sign}>")
    return {**found, "List-Unsubscribe": ", ".join(places), "List-Unsubscribe-Post": ONE_CLICK}


def token(of_list: str, address: str, secret: str) -> str:
    """List and address, signed, in letters that a URL takes as they are."""
    said = f"{of_list}\n{address.lower()}".encode()
    return f"{_letters(said)}.{_letters(_signature(said, secret))}"


def opened(text: str, secrets: Sequence[str]) -> tuple[str, str] | None:
    """List and address of a token that one of these secrets has signed; None for any other text."""
    if not TOKEN.fullmatch(text):
        return None
    said, signature = text.split(".")
    try:
        content, proof = (base64.b64decode(part + "=" * (-len(part) % 4), altchars="-_", validate=True) for part in (said, signature))
    except (binascii.Error, ValueError):
        return None
    # Each is compared to its end, in a time that says nothing of where they differ.
    if not any([hmac.compare_digest(_signature(content, secret), proof) for secret in secrets]):  # noqa: C419 - a generator would stop at the first
        return None
    of_list, _, address = content.decode("ascii", "replace").partition("\n")
    return of_list, address


def _signature(said: bytes, secret: str) -> bytes:
    return hmac.new(secret.encode(), b"asyncsend unsubscribe 1\n" + said, hashlib.sha256).digest()


def _letters(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
