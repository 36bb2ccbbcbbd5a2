"""
Measures everything, each part against its floors in the same run, and writes benchmarks/results/bench.json, bench.md and the table of the README.

`make bench`; `make bench QUICK=1` with small sizes, which the README never shows; `make bench ONLY=tick,drain` some parts, whose results go into partial.json and partial.md.
Exit code 1: a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.yardstick import DURABLE, ROOT, as_json, explained, from_json, started, table

# Each is a module of this folder; its first line says what it is about.
PARTS = {
    "tick": "benchmarks.tick",
    "enqueue": "benchmarks.enqueue",
    "drain": "benchmarks.drain",
    "peers": "benchmarks.peers.drive",
    "mail": "benchmarks.mail",
    "flatness": "benchmarks.flatness",
    "scale": "benchmarks.scale",
    "memory": "benchmarks.memory",
    "prune": "benchmarks.prune",
    "bulk": "benchmarks.bulk",
    "lines": "benchmarks.lines",
    "counters": "benchmarks.counters",
}
RESULTS = ROOT / "benchmarks" / "results"
HEADLINES = ("tick", "drain", "peers", "enqueue", "mail", "flatness")  # the parts whose ratios with a bar the README shows


def machine(server) -> dict[str, object]:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION(), @@innodb_flush_log_at_trx_commit, @@log_bin")
        version, flush, binlog = cursor.fetchone()
    return {
        "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "system": platform.platform(), "server": version,
        "innodb_flush_log_at_trx_commit": flush, "log_bin": binlog, "options": DURABLE, "load": os.getloadavg()[0], "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def headlines(results: dict[str, Any]) -> str:
    """The table of the README, of a results file."""
    figures = [from_json(one) for part in HEADLINES for one in results["parts"][part]["figures"]]
    return table([figure for figure in figures if figure.bar and (figure.floor or figure.absent)])


def into_readme(results: dict[str, Any]) -> None:
    """Put it in the place of the one that is there: from its first line, which is always the same, to the empty line below."""
    path, made = ROOT / "README.md", headlines(results)
    before, first, after = path.read_text("utf-8").partition(made.splitlines(keepends=True)[0])
    assert first, "README.md has no table of figures"
    path.write_text(before + made + "\n" + after.partition("\n\n")[2], "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("--size", choices=("full", "quick", "tiny"), default="full")
    parser.add_argument("--only", default="", help="parts by name, with commas: " + ",".join(PARTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {"size": arguments.size, "parts": {}}
    pages, bars = [], []
    with started() as server:
        found["machine"] = facts = machine(server)
        for name in names:
            part = importlib.import_module(PARTS[name])
            began, sizes = time.monotonic(), part.SIZES[arguments.size]
            figures = part.measure(server, **sizes)
            took = time.monotonic() - began
            found["parts"][name] = {"sizes": sizes, "seconds": round(took), "floors": part.FLOORS, "figures": [as_json(figure) for figure in figures]}
            title, _, more = part.__doc__.strip().partition("\n\n")
            pages.append(f"## {name}\n\n{' '.join(title.split())}\n\n{table(figures)}{explained(part, figures)}" + (f"\n{' '.join(more.split())}\n" if more else ""))
            bars += [figure for figure in figures if figure.bar]
            print(f"{pages[-1]}\n({took:.0f} s)\n", flush=True)
    missed = [figure for figure in bars if not figure.kept]
    head = (
        f"# Figures\n\n{facts['cores']} cores, Python {facts['python']}, {facts['server']} with innodb_flush_log_at_trx_commit={facts['innodb_flush_log_at_trx_commit']}"
        f" and {'the' if facts['log_bin'] else 'no'} binary log, {facts['when']}, {arguments.size} sizes. Written by `make bench`; every figure is the median of rounds"
        f" taken in turns with its floor, and bench.json has each round. {len(bars) - len(missed)} of {len(bars)} bars are kept.\n"
    )
    arguments.results.mkdir(exist_ok=True)
    file = arguments.results / ("partial" if arguments.only else "bench")
    file.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    file.with_suffix(".md").write_text("\n".join([head, *pages]), "utf-8")
    if arguments.size == "full" and not arguments.only and arguments.results == RESULTS:
        into_readme(found)
    for figure in missed:
        print(f"MISSED: {figure.what}: {figure.absent or f'{figure.ratio or figure.value:.2f}'}, the bar is {figure.bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
