"""
The archive: what is pruned, as gzipped JSON lines, one file for each day on which jobs ended.

Every append is whole gzip members, the last one empty: a file that does not end with that was torn by a kill or a full disk,
and what is torn is cut off before the next append. It was never deleted from the table, so nothing is lost with it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
import zlib
from typing import TYPE_CHECKING

from asyncsend.job import as_row

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from asyncsend.job import Job
    from asyncsend.store.rows import Attempt

# RFC 1952: a member without content, time or name. JSON is ASCII here, so these bytes stand in no member of ours by chance.
END = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x03\x00" + bytes(8)
_BLOCK = 1024 * 1024
PATIENCE = 50  # tenths of a second that another process may take for an append


class Archive:
    """A folder of such files, readable by their owner only. Several runs and commands may append at the same time."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def append(self, jobs: Iterable[tuple[Job, list[Attempt]]]) -> None:
        """Write them, and return when they are on the disk. OSError with the path otherwise; then the files are as they were."""
        days: dict[str, list[bytes]] = {}
        for job, history in jobs:
            day = job.finished_at.strftime("%Y-%m-%d") if job.finished_at else "no-day"
            days.setdefault(day, []).append(json.dumps(as_row(job, history)).encode("ascii") + b"\n")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        for day, lines in days.items():
            packer = zlib.compressobj(wbits=31)  # 31: with the head and the tail of gzip
            self._append(str(self.folder / f"{self.prefix}jobs-{day}.jsonl.gz"), packer.compress(b"".join(lines)) + packer.flush() + END)

    def _append(self, path: str, members: bytes) -> None:
        descriptor = -1
        try:
            while True:
                descriptor = _opened(path)
                size = os.fstat(descriptor).st_size
                whole = _whole(descriptor, size)
                if whole or not size:
                    break
                os.rename(path, _free(path))  # not one END in it: torn at its very beginning, or not ours to cut
                os.close(descriptor)
                descriptor = -1
            os.ftruncate(descriptor, whole)
            try:
                rest = memoryview(members)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            if not whole:  # the file is new: it is there after a power cut only when its folder is on the disk, too
                folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _opened(path: str) -> int:
    """A descriptor of the file that has this name now, locked until it is closed. OSError if another process keeps the lock for long."""
    for _ in range(PATIENCE):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours, there = os.fstat(descriptor), os.stat(path)
        except BlockingIOError:
            os.close(descriptor)
            time.sleep(0.1)
        except OSError:
            os.close(descriptor)
            raise
        else:
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) and stat.S_ISREG(ours.st_mode):
                return descriptor
            os.close(descriptor)  # somebody moved it away meanwhile
    raise OSError(errno.EAGAIN, "it is no file, or another process keeps it locked")


def _whole(descriptor: int, size: int) -> int:
    """How many bytes of the file are whole members, up to the last END: all of them, as a rule."""
    upto = size
    while upto > 0:
        start = max(0, upto - (len(END) if upto == size else _BLOCK))
        found = os.pread(descriptor, upto - start, start).rfind(END)
        if found >= 0:
            return start + found + len(END)
        upto = start + len(END) - 1 if start else 0  # an END may lie across two blocks
    return 0


def _free(path: str) -> str:
    number = 1
    while os.path.lexists(f"{path}.torn-{number}"):
        number += 1
    return f"{path}.torn-{number}"
