"""Linux's way to let children die with their parent, and to find those that ran away from theirs (prctl(2))."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    me = str(os.getpid())
    return [pid for pid, stat in _processes() if stat[1] == me]


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


def session_name() -> str:
    """A name for the session this process leads, by which a later run can end what is left of it; empty without /proc."""
    pid = os.getpid()
    stat = _stat(pid)
    return f"{pid}.{stat[19]}.{_where()}" if stat else ""


def end_session(name: str, patience: float = 2.0) -> list[int]:
    """
    SIGKILL what is left of the session of this name, the leader included, and return when it is gone; the pids.

    A number that was given to another process since, another boot and another container are no business of ours.
    """
    leader, _, rest = name.partition(".")
    born, _, where = rest.partition(".")
    if not leader.isdecimal() or not where or where != _where():
        return []
    killed: set[int] = set()
    limit = time.monotonic() + patience  # what hangs in the kernel dies when it comes out, and does nothing before
    while time.monotonic() < limit:
        left = [pid for pid, stat in _processes() if stat[3] == leader and stat[0] not in "ZX"]
        now = _stat(int(leader))  # after that, for the number is free, and may be a stranger's, from the moment the last of them is gone
        if not left or (now and now[19] != born):
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.002)
    return sorted(killed)


def _where() -> str:
    """This boot and this pid namespace: within them a pid and its start mean one process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read(8)}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _processes() -> Iterator[tuple[int, list[str]]]:
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and (stat := _stat(int(entry))):
                yield int(entry), stat


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on: [0] state, [1] parent, [3] session, [19] start; none if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()  # the name may hold anything
    except OSError:
        return []
