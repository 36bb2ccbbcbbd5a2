"""Text that may be shown: on one line, cut to a length, without control characters and without secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_TEXT = 4000  # characters of an error or of captured output that are kept


def without(secrets: tuple[str, ...], text: str) -> str:
    """The text with each of these secrets, the longest first, as ***; before it is cut or quoted, for then they would not be recognised."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """One line that cannot repaint a terminal or forge a log line: control and direction characters escaped, cut at `limit`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 0x100 else f"\\u{ord(match[0]):04x}", text)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], widest: int = 60) -> Iterator[str]:
    """Its lines, in aligned columns; control characters are escaped, so that no row can repaint the terminal."""
    cells = [list(head), *([printable(str(value), widest) if value is not None else "-" for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
