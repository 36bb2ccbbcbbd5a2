"""
The journal: what the present run started and finished, one line each, written by whoever executes the moment it is known.

A line is in the page cache when write(2) returns, so it survives the death of the process (not of the host). The database
is told in groups; after a kill the next run replays what was finished and charges what was only started. A torn or foreign
line fails its checksum and is passed over; a line of another claim is refused by its token.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import zlib
from typing import TYPE_CHECKING

from asyncsend.outcome import Outcome, State

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import WriteableBuffer

Claim = tuple[int, str]  # job id, token

_LONGEST_LINE = 1024 * 1024
_PLAIN = Outcome("finish", State.DONE)  # its member 8 is the seconds, the one thing that differs among them
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def as_text(outcome: Outcome) -> str:
    """The outcome as the journal and the socket carry it: JSON. That of a plain success, which most are, is written without the encoder."""
    if outcome[:8] == _PLAIN[:8] and outcome[9:] == _PLAIN[9:]:
        return f'{{"verb":"finish","state":"done","seconds":{outcome.seconds!r}}}'
    return _ENCODER.encode(outcome.as_dict())


class Journal:
    """One append-only file. Its descriptor is shared with the workers: every record is a single write(2) to O_APPEND."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.close(self.descriptor)
            raise OSError(errno.EINVAL, "the journal is not a regular file")

    def started(self, job_id: int, token: str, session: str = "") -> None:
        """Note that the execution begins, and in which session (deathsig.py). OSError if the disk refuses."""
        self._append(f"S {job_id} {token} {session}")

    def finished(self, job_id: int, token: str, outcome: Outcome) -> None:
        """Note how it ended. OSError if the disk refuses."""
        self._append(f"D {job_id} {token} {as_text(outcome)}")

    def read(self) -> tuple[dict[Claim, Outcome], dict[Claim, str]]:
        """What was finished, with its outcome, and all that was started, with its session."""
        finished: dict[Claim, Outcome] = {}
        started: dict[Claim, str] = {}
        with io.BufferedReader(_FromStart(self.descriptor), 1 << 16) as file:
            while line := file.readline(_LONGEST_LINE):
                body = _checked(line)
                if body is None:
                    continue
                kind, _, rest = body.partition(" ")
                try:
                    job_id, token, *more = rest.split(" ", 2)
                    if kind == "S":
                        started[int(job_id), token] = more[0] if more else ""
                    elif kind == "D":
                        finished[int(job_id), token] = Outcome.from_dict(json.loads(more[0]))
                except (ValueError, TypeError, KeyError, IndexError):
                    continue  # a line of a later version, or not ours: what it stood for is repeated at worst
        return finished, started

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def clear(self) -> None:
        """Forget everything; only once the database has it all."""
        if self.size():
            os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        os.close(self.descriptor)

    def _append(self, body: str) -> None:
        raw = body.encode("utf-8", "replace")
        # The newline in front ends whatever a full disk or a kill may have torn before us.
        record = b"\n%08x %s\n" % (zlib.crc32(raw), raw)
        if os.write(self.descriptor, record) != len(record):
            raise OSError(28, "the journal's disk is full")


class _FromStart(io.RawIOBase):
    """
    What a file holds at this moment, read at a place of its own: that of the descriptor is the workers', too, and each line they append moves it to the end.

    Not what they append meanwhile: they may be as quick as we are.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.place, self.end = descriptor, 0, os.fstat(descriptor).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = os.pread(self.descriptor, min(len(view), self.end - self.place), self.place)
        view[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)


def _checked(line: bytes) -> str | None:
    """The body of a whole line, None for a torn one."""
    if len(line) < 11 or not line.endswith(b"\n"):
        return None
    raw = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(raw):
            return None
        return raw.decode("utf-8")
    except ValueError:
        return None
