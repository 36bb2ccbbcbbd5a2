"""
A run is killed at its N-th sendto, for every N until it ends unharmed, and at its N-th write, and so on for each system call
that changes anything; after each death a plain run, and a look at the sinks.

    python -m tests.syscalls --database sqlite --every 1

First the run alone is killed, its worker by the kernel as on any host; then every process of it, each at its own N-th, so
that workers die at each of theirs. One line of figures comes out; exit code 1 if a promise broke.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from parts import _given_server, _installed_mariadb  # noqa: E402
from stage import Stage, opened  # noqa: E402

CALLS = ("sendto", "sendmsg", "write", "pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "rename", "fork", "clone", "flock")


@dataclass
class Figures:
    database: str
    cases: int = 0
    runs_killed: int = 0
    workers_killed: int = 0
    jobs: int = 0
    lost: int = 0  # neither an effect at a sink nor held
    stuck: int = 0  # ready or running after the plain run
    repeats: int = 0
    more_repeats_than_deaths: int = 0
    unexplained_repeats: int = 0  # more effects of a job than attempts and crashes charged to it
    at_most_once_repeats: int = 0
    held: int = 0
    spoke: int = 0  # plain runs that printed something

    def broken(self) -> dict[str, int]:
        names = ("lost", "stuck", "more_repeats_than_deaths", "unexplained_repeats", "at_most_once_repeats", "spoke")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def why_not() -> str | None:
    """Why this cannot be done here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed: apt-get install --no-install-recommends strace"
    done = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return f"strace may not trace here ({done.stderr.strip()[:200]}): allow ptrace in this container" if done.returncode else None


def traced(stage: Stage, trace: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["strace", *options, "-o", trace, sys.executable, "-m", "asyncsend", "run"],
        env=stage.site.environment, capture_output=True, text=True, cwd="/", timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def counted(stage: Stage) -> tuple[Counter, Counter]:
    """The calls of an unharmed run, and of its worker."""
    stage.enqueue()
    trace = stage.site.home / "trace"
    assert traced(stage, trace, "-f", "-e", f"trace={','.join(CALLS)}").returncode == 0
    lines = [line.split(maxsplit=1) for line in trace.read_text("utf-8", "replace").splitlines()]
    found: tuple[Counter, Counter] = (Counter(), Counter())
    for pid, words in lines:
        name, opens, _ = words.partition("(")
        if opens and name in CALLS:
            found[pid != lines[0][0]][name] += 1
    return found


def kill_at(stage: Stage, figures: Figures, call: str, number: int, *, workers_too: bool) -> int:
    """One case; how many died."""
    stage.enqueue()
    trace = stage.site.home / "trace"
    done = traced(stage, trace, *(["-f"] if workers_too else []), "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    deaths = trace.read_text("utf-8", "replace").count("killed by SIGKILL")
    died = done.returncode == -9
    figures.cases += 1
    figures.runs_killed += died
    figures.workers_killed += deaths - died
    for _ in range(2 if workers_too else 1):  # a job that only its worker died with waits minutes for its next attempt, also by way of the journal
        plain = stage.site("run", code=None)
        figures.spoke += (plain.returncode, plain.stdout, plain.stderr) != (0, "", "")
        if not any(state == "ready" for state, _, _ in stage.jobs().values()):
            break
        stage.wait_no_longer()
    count(figures, stage.jobs(), stage.effects(), deaths)
    return deaths


def count(figures: Figures, jobs: dict[str, tuple[str, int, int]], effects: Counter, deaths: int) -> None:
    repeats = 0
    for key, (state, attempts, crashes) in jobs.items():
        figures.jobs += 1
        figures.held += state == "held"
        figures.lost += effects[key] == 0 and state != "held"
        figures.stuck += state not in ("done", "held")
        figures.unexplained_repeats += effects[key] > attempts + crashes
        figures.at_most_once_repeats += key[0] == "o" and effects[key] > 1
        repeats += max(0, effects[key] - 1)
    figures.repeats += repeats
    figures.more_repeats_than_deaths += max(0, repeats - deaths)


def enumerate_calls(stage: Stage, figures: Figures, every: int) -> Figures:
    for workers_too, calls in enumerate(counted(stage)):
        for call in CALLS:
            number, harmed = 1, 1
            while number <= calls[call] or (calls[call] and every == 1 and harmed):
                harmed = kill_at(stage, figures, call, number, workers_too=bool(workers_too))
                number += every
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--database", choices=["mariadb", "sqlite"], default="sqlite")
    parser.add_argument("--every", type=int, default=1, help="only every so many calls")
    arguments = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
    server = None if arguments.database == "sqlite" else _given_server(given) if given else _installed_mariadb()
    try:
        with tempfile.TemporaryDirectory(prefix="syscalls-") as folder, opened(arguments.database, Path(folder), lambda: server) as stage:
            figures = enumerate_calls(stage, Figures(arguments.database), arguments.every)
    finally:
        if server:
            server.stop()
    print(" ".join(f"{name}={value}" for name, value in asdict(figures).items()))
    if figures.broken():
        print(f"BROKEN: {figures.broken()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
