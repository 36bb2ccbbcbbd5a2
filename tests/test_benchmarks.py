"""The benchmarks start, and measure what they are asked for: each part once, with tiny sizes. What it costs is never asserted here, `make bench` shows it."""

import json
import os
import subprocess
import sys

import pytest
from parts import ROOT, missing

sys.path.append(str(ROOT))

import benchmarks.__main__ as bench
from benchmarks.__main__ import PARTS, headlines
from benchmarks.peers.drive import PEERS
from benchmarks.yardstick import Figure, as_json, from_json, table

# The figures of each part, by how they begin; the peers need a virtual environment of their own.
ASKED = {
    "tick": ["empty tick", "empty tick, settings in `.env`", "lock-held tick", "statements", "writes"],
    "enqueue": ["`enqueue`", "`enqueue_many`", "from PHP", "`asyncsend enqueue`"],
    "drain": [f"{work}, {workers} worker" for work in ("no-op task", "task of 1 ms", "command, /bin/true") for workers in (1, 8)],
    "mail": ["mail, 1 worker", "mail, 8 workers"],
    "flatness": ["claim beside", "a look at an idle queue"],
    "scale": ["empty tick beside", "its statements", "writes", "`status` beside", "no-op tasks of a batch"],
    "memory": ["peak of a run", "peak of an empty tick"],
    "prune": ["prune in slices", "prune, to the archive"],
    "bulk": ["`enqueue --each`", "its memory"],
    "lines": ["claim behind"],
    "counters": ["the run, counting", "the run and the server"],
}
DIFFERENCES = ("its memory", "peak of a run")  # of two peaks, which may be the same


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The results file of one round with tiny sizes, and what was printed."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "--size", "tiny", "--only", ",".join(ASKED), "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: tiny sizes miss bars
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads((folder / "partial.json").read_text("utf-8")), done


def test_every_part_but_the_peers_is_tried_here():
    assert set(PARTS) - set(ASKED) == {"peers"}


@pytest.mark.parametrize("part", ASKED)
def test_each_figure_asked_for_is_there_and_positive_with_its_floor(measured, part):
    figures = measured[0]["parts"][part]["figures"]
    for begins in ASKED[part]:
        assert [one for one in figures if one["what"].startswith(begins)], begins
    for one in figures:
        values = [] if one["what"].startswith(DIFFERENCES) else one["ours"] + one["floor"]
        assert all(value > 0 for value in values), one
        if one["absent"]:
            missing(one["what"], one["absent"])
        assert one["ours"], one
        assert not one["floor"] or (len(one["floor"]) == len(one["ours"]) and one["against"] in measured[0]["parts"][part]["floors"]), one


def test_the_exit_code_says_whether_every_bar_is_kept(measured):
    results, done = measured
    missed = [one["what"] for part in results["parts"].values() for one in part["figures"] if one["kept"] is False]
    assert done.returncode == bool(missed)
    assert done.stdout.count("MISSED: ") == len(missed)


def test_a_peer_that_is_not_installed_has_a_row_that_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--size", "tiny", "--only", "peers", "--results", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"BENCH_PEERS": str(tmp_path / "nothing")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr  # the bar is three times the fastest, and nobody knows how fast that is
    figures = json.loads((tmp_path / "partial.json").read_text("utf-8"))["parts"]["peers"]["figures"]
    assert len(figures) == len(PEERS)
    for one in figures:
        assert "nothing/bin/python" in one["absent"], one
        assert one["what"] in done.stdout


def test_a_bar_is_kept_at_its_value_and_missed_beyond_it():
    cheap, dear = Figure("x", "ms", [3.0, 1.0, 2.0], [1.0], at_most=2), Figure("x", "ms", [2.1], [1.0], at_most=2)
    assert (cheap.ratio, cheap.kept, dear.kept) == (2.0, True, False)
    assert Figure("x", "jobs/s", [3.0], [10.0], at_least=0.3).kept
    assert Figure("x", "jobs/s", [2.9], [10.0], at_least=0.3).kept is False
    assert Figure("x", "MB", [32.0], at_most=32).kept
    assert Figure("x", "MB", [32.1], at_most=32).kept is False
    assert Figure("x", "jobs/s", [1.0], [1.0]).kept is None
    assert Figure("x", "jobs/s", absent="there is no redis-server", at_least=3).kept is False


def test_the_table_of_the_readme_is_that_of_the_results_if_their_sizes_were_the_full_ones():
    results = json.loads((ROOT / "benchmarks" / "results" / "bench.json").read_text("utf-8"))
    assert (headlines(results) in (ROOT / "README.md").read_text("utf-8")) == (results["size"] == "full")


def test_a_run_puts_its_table_in_the_place_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("above\n\n" + table([Figure("old", "ms", [1.0])]) + "\nbelow\n")
    figure = as_json(Figure("new", "ms", [1.0], [2.0], "nothing", at_most=1))
    bench.into_readme({"parts": {part: {"figures": [figure] if part == "tick" else []} for part in bench.HEADLINES}})
    assert (tmp_path / "README.md").read_text() == "above\n\n" + table([from_json(figure)]) + "\nbelow\n"
    assert "| new | 1 ms | 2 ms, nothing | 0.50 | ≤ 1 | yes |" in (tmp_path / "README.md").read_text()
