"""
The host lock: one run at a time on this host. The kernel holds it (flock), so it ends with the process, however that dies.

The file means nothing by itself and is never deleted: deleting it would let a second run in. It is plain `fcntl.flock`
and not a library because this is the whole of what is needed, and the import would cost more than all the rest of a tick
that finds the lock held (docs/performance.md). Where the file system knows no flock, the lease in the database has to do:
the lock then bears a name of its own in each run, so that nobody is believed dead before his lease has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING, Self

from asyncsend.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

# Only these say that somebody holds it: EACCES is a security module's refusal, and must not pass for "already running" for ever.
HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
# flock(2) where a file system has none: NFS without its lock daemon, Lustre and FUSE mounts without the option.
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
LEASE_ONLY = "no-flock:"  # what the name of such a lock starts with in the status row


class LockHeld(Exception):
    """Another run of this host is at work."""


class HostLock:
    """Take it with `acquire`, give it back with `release` or by dying. `lock_id` names the lock for the status row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.flocked = False  # the kernel holds it for us; False while acquired: only the lease in the database keeps others out
        self._nonce = ""

    @property
    def lock_id(self) -> str:
        """The same for every run that competes for this very lock: instance, host name, device and inode of the file. Without flock, never twice the same."""
        assert self.descriptor is not None
        if not self.flocked:
            return f"{LEASE_ONLY}{self._nonce}@{os.uname().nodename}"[:191]
        return _id_of(self.path, os.fstat(self.descriptor))

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, *, counted: bool = True) -> None:
        """
        Return with the lock held. LockHeld if another run has it; ConfigurationError names the path if it can be no lock.

        A run that finds it held is counted; whoever only wants to know says `counted=False`.
        """
        for _ in range(10):
            descriptor = _opened(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.flocked = True
            except OSError as error:
                if error.errno in NO_FLOCK:
                    self.descriptor, self.flocked, self._nonce = descriptor, False, os.urandom(16).hex()
                    return
                os.close(descriptor)
                if error.errno in HELD:
                    if counted:
                        self._count_held()
                    raise LockHeld from None
                raise ConfigurationError(
                    f"the lock file {self.path} cannot be locked ({error.strerror}): set ASYNCSEND_LOCK to a path on a local disk"
                ) from error
            if _is_still(self.path, descriptor):
                self.descriptor = descriptor
                with contextlib.suppress(OSError):  # a note for people; a full disk does not unlock
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode(), 0)
                return
            os.close(descriptor)  # somebody deleted or replaced the file between open and flock: that lock is worth nothing
        raise ConfigurationError(f"the lock file {self.path} keeps being replaced: find out who deletes it")

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def close_in_child(self) -> None:
        """After a fork: a child that outlives its run must not keep the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def held_count(self) -> int:
        """How many runs found the lock held since this was last asked; only its holder asks."""
        try:
            descriptor = os.open(self._counter, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return 0
        try:
            if not _locked_soon(descriptor, fcntl.LOCK_EX):
                return 0  # they stay in the file, for the next one to count
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, 0)
        except OSError:
            return 0
        finally:
            os.close(descriptor)
        return size

    @property
    def _counter(self) -> Path:
        return self.path.with_name(self.path.name + ".held")

    def _count_held(self) -> None:
        # One byte in a file, not a row: whoever finds the lock held opens no database connection. Under a shared lock, so that
        # no byte falls between the holder's look at the size and its truncation.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            try:
                if _locked_soon(descriptor, fcntl.LOCK_SH):
                    os.write(descriptor, b".")
            finally:
                os.close(descriptor)


def _locked_soon(descriptor: int, kind: int) -> bool:
    """Whether the lock was had within 0.2 s: it is held for two system calls at a time, unless its holder was stopped in between."""
    for _ in range(200):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                raise
            time.sleep(0.001)
        else:
            return True
    return False


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        hint = {
            errno.ELOOP: f"it is a symbolic link: run `rm {_quoted(path)}`",
            errno.EISDIR: f"it is a folder: run `mv {_quoted(path)} {_quoted(f'{path}.old')}`",
            errno.EROFS: "its file system is read-only: set ASYNCSEND_LOCK to a path that can be written",
        }.get(error.errno or 0, "run `asyncsend doctor`, or set ASYNCSEND_LOCK to a path that can be written")
        raise ConfigurationError(f"the lock file {path} cannot be opened ({error.strerror}): {hint}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        hint = f"run `rm {_quoted(path)}`" if stat.S_ISFIFO(mode) else "set ASYNCSEND_LOCK to another path"
        raise ConfigurationError(f"the lock file {path} is not a regular file: {hint}")
    return descriptor


def _quoted(path: Path | str) -> str:
    """The path as a shell takes it; imported late, for a tick that finds the lock held must cost next to nothing."""
    import shlex

    return shlex.quote(str(path))


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        on_disk = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (on_disk.st_dev, on_disk.st_ino) == (ours.st_dev, ours.st_ino)


def is_ours(path: Path, lock_id: str) -> bool:
    """Whether that is the name of this very lock file on this very host."""
    try:
        return _id_of(path, os.stat(path)) == lock_id
    except OSError:
        return False


def _id_of(path: Path, found: os.stat_result) -> str:
    return f"{_instance(path)}@{os.uname().nodename}:{found.st_dev}:{found.st_ino}"[:191]


def _instance(lock_path: Path) -> str:
    """A random name of this installation, made once: two cloned containers may share host name, device and inode."""
    path = lock_path.with_name(lock_path.name + ".instance")
    for _ in range(2):
        try:
            return path.read_text("ascii").strip()[:32] or "empty"
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                os.write(descriptor, os.urandom(8).hex().encode())
                os.close(descriptor)
        except (OSError, ValueError):
            break
    return "unnamed"
