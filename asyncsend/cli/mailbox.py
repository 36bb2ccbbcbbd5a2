"""Where mails that came back are found: on standard input, in a Maildir, in an mbox file."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from asyncsend.errors import InvalidJob
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Mail = tuple[bytes, "Callable[[], None]"]  # its first bytes; what to call when it is dealt with


def mails(path: str, most: int) -> Iterator[Mail]:
    """The mails there, at most so many bytes of each; InvalidJob if it is neither."""
    if path == "-":
        if sys.stdin is None:
            raise InvalidJob("the mail cannot be read: standard input is closed")
        raw = sys.stdin.buffer.read(most)
        while sys.stdin.buffer.read(1 << 16):  # to its end: a pipe that closes early is an error to the mail server
            pass
        yield raw, _nothing
        return
    try:
        if os.path.isdir(path):
            yield from _maildir(path, most)
            return
        with open(path, "rb") as file:
            first = file.read(most)
        if first.startswith(b"From "):
            yield from _mbox(path, most)
        else:
            yield first, _nothing
    except (OSError, ValueError) as error:  # ValueError: no file has a NUL in its name
        raise InvalidJob(f"cannot read {printable(path, 200)} ({getattr(error, 'strerror', None) or error})") from error


def _nothing() -> None:
    """What stands elsewhere is not marked."""


def _maildir(path: str, most: int) -> Iterator[Mail]:
    """Those without the flag S (cr.yp.to/proto/maildir.html); they get it when they are dealt with."""
    if not os.path.isdir(os.path.join(path, "cur")):
        raise InvalidJob(f"{printable(path, 200)} is no Maildir: it has no folder cur")
    for part in ("new", "cur"):
        for name in sorted(os.listdir(os.path.join(path, part))):
            base, _, flags = name.partition(":2,")
            if name.startswith(".") or "S" in flags:
                continue
            here = os.path.join(path, part, name)

            def seen(here: str = here, there: str = os.path.join(path, "cur", f"{base}:2,{''.join(sorted({*flags, 'S'}))}")) -> None:
                with contextlib.suppress(OSError):  # read a second time it does no harm
                    os.rename(here, there)

            try:
                with open(here, "rb") as file:
                    raw = file.read(most)
            except FileNotFoundError:  # a mail program has just moved it
                continue
            yield raw, seen


def _mbox(path: str, most: int) -> Iterator[Mail]:
    import mailbox

    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield box.get_bytes(key)[:most], _nothing
    finally:
        box.close()
