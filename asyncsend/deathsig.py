"""Linux's way to let children die with their parent, and to find those that ran away from theirs (prctl(2))."""

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


def children() -> list[int]:
    """The pids of our children, by /proc; empty where there is none."""
    me = os.getpid()
    found: list[int] = []
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
                    if int(file.read().rpartition(b")")[2].split()[1]) == me:  # field 4 of proc_pid_stat(5); the name may hold anything
                        found.append(int(entry))
    return found


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
