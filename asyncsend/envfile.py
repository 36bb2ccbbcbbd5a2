"""The file `.env`: private, not published, UTF-8, and made of lines that mean something; read by python-dotenv."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from asyncsend.config import known, nearest, published
from asyncsend.errors import ConfigurationError
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


def read(path: Path) -> dict[str, str]:
    """The names and values of this file; ConfigurationError, with the command that mends it, if it can be read by others, is published, or cannot be understood."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe would wait for its other end
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"{path.parent} is not a folder, so there can be no {path}: run `mv {_quoted(path.parent)} {_quoted(f'{path.parent}.old')}`,"
            " or set ASYNCSEND_HOME"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror}): run `chmod 600 {_quoted(path)}` as its owner") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError(f"{path} is not a file: run `mv {_quoted(path)} {_quoted(f'{path}.old')}` and write your settings to {path}")
        assert_private(path, found)
        root = published(path)
        if root:
            private = next(folder for folder in (Path("~").expanduser() / name for name in _private_names()) if not folder.exists())
            raise ConfigurationError(
                f"{path} lies under the web root {root}: run `mv {_quoted(path.parent)} {_quoted(private)}` and set ASYNCSEND_HOME={private}"
            )
        with open(os.dup(descriptor), "rb") as file:
            raw = file.read()
    finally:
        os.close(descriptor)
    # Both come from Windows editors; half the tools on a host choke on them, so they are mended once, by the owner.
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ConfigurationError(f"{path} starts with a byte order mark: run `sed -i '1s/^\\xEF\\xBB\\xBF//' {_quoted(path)}`")
    if b"\r" in raw:
        raise ConfigurationError(f"{path} has Windows line ends (CRLF): run `sed -i 's/\\r/\\n/g;s/\\n$//' {_quoted(path)}`")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        new = _quoted(f"{path}.new")
        raise ConfigurationError(
            f"{path} is not UTF-8 at byte {error.start}: run `(umask 077; iconv -f latin1 -t utf-8 {_quoted(path)} > {new}) && mv {new} {_quoted(path)}`"
        ) from error
    return _parsed(text, path) if text.strip() else {}


def assert_private(path: Path, found: os.stat_result) -> None:
    """Return if only its owner, who is us or root, can read this file of passwords; ConfigurationError with the command that mends it otherwise."""
    if found.st_mode & 0o077:
        raise ConfigurationError(f"{path} holds passwords and can be read by others (mode {found.st_mode & 0o777:04o}): run `chmod 600 {_quoted(path)}`")
    if found.st_uid not in (os.getuid(), 0):
        raise ConfigurationError(f"{path} belongs to another user (uid {found.st_uid}): run `chown {os.getuid()} {_quoted(path)}` or write your own")


def _parsed(text: str, path: Path) -> dict[str, str]:
    """The names and values of a `.env`; ConfigurationError names the line that holds none, or a name that is no setting."""
    import io

    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        first = binding.original.line + binding.original.string.count("\n", 0, blank)  # a binding begins at the blank lines before it
        last = first + binding.original.string.strip().count("\n")
        if binding.error or (binding.key and binding.value is None):
            raise ConfigurationError(f"{path} line {first} is not NAME=value: run `sed -i '{first}s/^/# /' {_quoted(path)}` to make it a comment, or mend it")
        if not binding.key:
            continue
        if not known(binding.key):
            near = nearest(binding.key)
            mend = f"{first}s/{binding.key}/{near.split()[-1].rstrip('?')}/" if near and binding.key.isidentifier() else f"{first},{last}s/^/# /"
            raise ConfigurationError(f"{path} line {first} sets {printable(binding.key, 80)}, which is no setting of asyncsend{near}: run `sed -i '{mend}' {_quoted(path)}`")
        values[binding.key] = binding.value or ""
    return values


def _quoted(path: Path | str) -> str:
    """The path as a shell takes it; imported late, for a healthy tick never says this."""
    import shlex

    return shlex.quote(str(path))


def _private_names() -> Iterator[str]:
    yield ".asyncsend"
    yield from (f".asyncsend-{number}" for number in range(2, 1_000_000))
