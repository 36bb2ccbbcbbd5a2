"""Linux's way to let children die with their parent, and to find those that outlived theirs (prctl(2), proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    # Not every host is Linux with glibc; without prctl a child can outlive a killed run until its hard timeout.
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when the thread that forked it ends; it survives exec."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is left behind unseen."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def born(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot; None if it is gone, or there is no /proc."""
    found = _stat(pid)
    return int(found[19]) if found else None


def children() -> list[int]:
    """The pids of our children, by /proc; empty where there is none."""
    me = os.getpid()
    return [pid for pid, found in _processes() if int(found[1]) == me]


def end_session(leader: int, started: int) -> list[int]:
    """SIGKILL what is left of the session that a process founded which started then, be it gone itself; the pids."""
    killed: list[int] = []
    for pid, found in _processes():
        # A pid given away again leads no session of the same number before the last member of the old one is gone (setsid(2)).
        if found[0] != b"Z" and int(found[3]) == leader and int(found[19]) >= started and born(leader) in (None, started):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def _processes() -> list[tuple[int, list[bytes]]]:
    try:
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return []
    return [(pid, found) for pid in pids if (found := _stat(pid))]


def _stat(pid: int) -> list[bytes] | None:
    """proc_pid_stat(5) from its third field on; the second, the name, may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split() or None
    except OSError:
        return None


def kill_children(spare: set[int]) -> list[int]:
    """SIGKILL and reap every child that is left, and what falls to us while we do, but none of `spare`; the pids."""
    killed: list[int] = []
    for _ in range(20):
        present = [pid for pid in children() if pid not in spare]
        if not present:
            break
        for pid in present:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
    return killed
