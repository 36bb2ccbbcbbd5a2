"""The servers that some peers need, from the system's binaries, on data of their own, heard by nobody but this machine: Redis and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.yardstick import eventually


class Absent(Exception):
    """What cannot be measured here, and why."""


@contextmanager
def redis(fsync: str) -> Iterator[str]:
    """The path of its socket. `everysec` is as durable as Redis is recommended to be: what was written is on disk a second later at most; `always` before it answers."""
    binary = shutil.which("redis-server")
    if not binary:
        raise Absent("there is no redis-server: apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        durable = ["--appendonly", "yes", "--appendfsync", fsync]
        process = subprocess.Popen([binary, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", *durable], stdout=subprocess.DEVNULL)
        try:
            eventually(lambda: os.path.exists(path) or process.poll() is not None, 30, "redis-server")
            if process.poll() is not None:
                raise Absent(f"redis-server ended with {process.returncode}")
            yield path
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def postgres() -> Iterator[str]:
    """How to connect to it. Its defaults are durable."""
    home = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)
    if not home or not (home / "postgres").exists():
        raise Absent("there is no PostgreSQL: apt-get install postgresql")
    account = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory() as folder:
        if account:
            shutil.chown(folder, account["user"], account["group"])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, **account}
        if subprocess.run([home / "initdb", "-D", f"{folder}/data", "-U", "bench", "--auth", "trust", "-E", "UTF8"], **quiet).returncode:
            raise Absent("initdb of PostgreSQL failed")
        process = subprocess.Popen([home / "postgres", "-D", f"{folder}/data", "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"], **quiet)
        try:
            where = f"host={folder} user=bench dbname=postgres"
            ready = [home / "pg_isready", "-q", "-h", folder, "-d", "postgres", "-U", "bench"]
            eventually(lambda: not subprocess.run(ready).returncode or process.poll() is not None, 30, "postgres")
            if process.poll() is not None:
                raise Absent(f"postgres ended with {process.returncode}")
            yield where
        finally:
            process.send_signal(signal.SIGINT)  # its quick way to stop
            process.wait(30)
