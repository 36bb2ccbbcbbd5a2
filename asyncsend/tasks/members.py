"""The members of a payload: unknown ones are refused by name, text must be text, headers must be headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from asyncsend.answers import BadPayload
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.tasks import Payload

# What ends a line for some reader: control characters, and what Unicode and str.splitlines take for line ends.
_BREAK = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")  # token of RFC 9110, inside the ftext of RFC 5322


def only(payload: Payload, *known: str) -> None:
    """BadPayload names the first member that is not among `known`."""
    for name in payload:
        if name not in known:
            raise BadPayload(f"unknown member {printable(name, 60)!r}: this task takes {', '.join(known)}")


def text(payload: Payload, name: str, *, required: bool = False, one_line: bool = True) -> str | None:
    """The text of a member, None if it is absent; BadPayload if it is no text, or breaks a line where none may be broken."""
    value: Any = payload.get(name)
    if value is None:
        if required:
            raise BadPayload(f"{name} is missing")
        return None
    if not isinstance(value, str):
        raise BadPayload(f"{name} must be text, not {type(value).__name__}")
    if one_line and _BREAK.search(value):
        raise BadPayload(f"{name} holds a line break or control character: {printable(value, 60)!r}")
    if required and not value.strip():
        raise BadPayload(f"{name} is empty")
    return value


def header_names(headers: Any, *, forbidden: tuple[str, ...]) -> dict[str, str]:
    """A dict of headers whose names and values cannot break out of their line; BadPayload names the header."""
    if headers is None:
        return {}
    if not isinstance(headers, dict):
        raise BadPayload('headers must be an object: {"X-Shop": "1"}')
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise BadPayload(f"headers: {printable(name, 60)!r} is no header name")
        if name.lower() in forbidden:
            raise BadPayload(f"headers: {name} is set by asyncsend and cannot be given")
        if not isinstance(value, str) or _BREAK.search(value):
            raise BadPayload(f"headers: the value of {name} must be text on one line")
    return dict(headers)
