"""One worker as the run sees it: a child process, and the window of jobs in its hands. What it does there is in child.py."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncsend.job import Job

BUFFER = 1024 * 1024  # bytes a socket should take before its writer has to wait; the kernel gives as much of them as the host allows
OUTPUT_KEPT = 8192  # bytes of what a job printed


@dataclass
class Worker:
    """One child and what is known of it."""

    pid: int
    jobs: socket.socket
    output: int
    most_bytes: int = 64 * 1024  # of parcels in its window; `sockets` says how many
    window: deque[Job] = field(default_factory=deque)  # handed, no outcome yet; the first is being executed
    sizes: deque[int] = field(default_factory=deque)  # bytes of each of them on the wire
    weight: int = 0  # and of all
    since: float = 0.0  # when the first of the window began
    size: int = 1  # jobs the window may hold; grows while they are quick
    ready: bool = False
    born: float = 0.0
    killed_for: str | None = None
    term_sent: float | None = None
    unread: bytes = b""
    tail: bytes = b""  # the last of what the jobs printed since `printed` was filled
    printed: deque[bytes] = field(default_factory=deque)  # the last of what each job printed that ended, oldest first

    def take(self, job: Job, size: int, now: float) -> None:
        """One more in its window, of so many bytes; `send` follows."""
        if not self.window:
            self.since = now
        self.window.append(job)
        self.sizes.append(size)
        self.weight += size

    def pop(self, now: float) -> Job:
        """The job it has come to an end with, or hands back: the next is begun now."""
        self.weight -= self.sizes.popleft()
        self.since = now
        return self.window.popleft()

    def takes_more(self) -> bool:
        """Whether parcels of `most_bytes` can be written now, without waiting until it has read the ones before: the kernel adds to each write, and many small ones fill the socket."""
        poll = select.poll()
        poll.register(self.jobs, select.POLLOUT)
        return bool(poll.poll(0))

    def send(self, parcels: list[bytes]) -> bool:
        """Whether they could be written, all at once. If not, it is dying or reads no more, and the last of its window did not arrive whole."""
        try:
            self.jobs.sendall(b"".join(parcels))
        except OSError:
            return False
        return True

    def take_back_last(self) -> Job:
        """The job that did not arrive: it cannot begin, though it may bear a start mark."""
        job = self.window.pop()
        self.weight -= self.sizes.pop()
        job.started_at = None
        return job

    def said(self) -> bytes | None:
        """What it has said since, None if nothing, b"" if it will say no more."""
        try:
            # Not recv: with a timeout set Python waits for it first, MSG_DONTWAIT or not. The descriptor itself never blocks.
            return os.read(self.jobs.fileno(), 1 << 18)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def read_output(self, end: bytes) -> bool:
        """Keep the last of what its jobs printed, cut at each `end`; a job that prints a gigabyte costs eight kilobytes. False if nothing more will come."""
        for _ in range(64):
            try:
                piece = os.read(self.output, 1 << 16)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                piece = b""
            if not piece:
                return False
            *ended, self.tail = (self.tail + piece).split(end)
            self.printed.extend(output[-OUTPUT_KEPT:] for output in ended)
            self.tail = self.tail[-OUTPUT_KEPT:]
        return True

    def kill(self, number: int) -> None:
        """Send a signal to it and whatever of its jobs is still in its process group."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)


def sockets(buffer: int = BUFFER) -> tuple[socket.socket, socket.socket, int]:
    """The run's end, the child's, and how many bytes of parcels may be under way to the child. OSError at the host's limit of descriptors."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    ours.settimeout(30)  # for sending to a child that reads no more
    # Python waits before it writes, and Linux lets it wait until no more than a quarter of the buffer is full (unix_writable in net/unix/af_unix.c).
    return ours, theirs, ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4
