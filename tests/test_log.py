"""The log: one line an event, whatever the event holds and whatever the disk does."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsend import log as logs
from asyncsend.log import EVENTS, Log

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} (INFO |WARN |ERROR) [A-Z][^=]*[.] event=[a-z-]+( [a-z_]+=\S.*)?")
NASTY = "a\nb\r\tc\x1b[2J\x1b]0;title\x07 \u2028\u202egnp.exe\x85\x00\x7f \ud800 😀 \"quoted\" 'single' k=v"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "asyncsend.log"


def facts(line: str) -> dict[str, str]:
    """The key=value words of a line: bare up to the next blank, or between double quotes."""
    words = line[line.index("event=") :].rstrip("\n")
    assert re.fullmatch(r'([a-z_]+=("[^"]*"|[^ "]+)( |$))+', words), words
    return {key: bare or quoted for key, quoted, bare in re.findall(r'([a-z_]+)=(?:"([^"]*)"|([^ "]+))', words)}


def written(path, **options) -> list[str]:
    return path.read_text("utf-8").splitlines()


# ── one line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_one_line_of_time_level_sentence_and_facts(path, name):
    log = Log(path)
    log.event(name, job=17, task="email", seconds=0.0421, error=NASTY, missing=None)
    log.close()
    lines = written(path)
    assert len(lines) == 1
    assert LINE.fullmatch(lines[0]), lines[0]
    assert facts(lines[0])["event"] == name
    assert facts(lines[0])["seconds"] == "0.042"
    assert "missing" not in lines[0]


def test_values_with_blanks_quotes_or_equal_signs_are_quoted_and_empty_ones_too(path):
    log = Log(path)
    log.event("job-done", a="one two", b="", c="k=v", d="plain", e='say "hi"', f=0)
    log.close()
    line = written(path)[0]
    assert ' a="one two" b="" c="k=v" d=plain e="say \'hi\'" f=0' in line
    assert facts(line) == {"event": "job-done", "a": "one two", "b": "", "c": "k=v", "d": "plain", "e": "say 'hi'", "f": "0"}


@given(st.dictionaries(st.sampled_from(["error", "queue", "uid", "task"]), st.text(max_size=80)))
def test_whatever_a_row_holds_it_stays_one_line_without_control_characters(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("log") / "x.log"
    log = Log(path)
    log.event("job-dead", **values)
    log.close()
    text = path.read_bytes().decode("utf-8")
    assert text.count("\n") == 1 and text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    assert set(facts(text.rstrip("\n"))) == {"event", *values}


def test_a_value_cannot_forge_a_second_event(path):
    log = Log(path)
    log.event("job-dead", error="x\n2026-11-21 09:30:02+0100 INFO  Job is done. event=job-done job=1")
    log.close()
    assert len(written(path)) == 1
    assert len(re.findall(r"^\S+ \S+ \w+ +.* event=job-done", path.read_text(), re.MULTILINE)) == 0 or facts(written(path)[0])["event"] == "job-dead"


def test_the_time_is_the_clock_s_in_the_zone_that_was_asked_for(path):
    log = Log(path, zone=ZoneInfo("Asia/Kathmandu"), clock=lambda: datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp())
    log.event("pruned")
    log.close()
    assert written(path)[0].startswith("2026-07-01 17:45:00+0545 INFO ")


def test_a_person_who_watches_gets_the_same_line(path):
    seen = []
    log = Log(path, echo=seen.append)
    log.event("job-dead", error=NASTY)
    log.close()
    assert seen == written(path)


def test_a_long_value_is_cut(path):
    log = Log(path)
    log.event("job-dead", error="x" * 100_000)
    log.close()
    assert len(written(path)[0]) < 1000


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("secret", ["s3cr3t", 'with "quotes"', "tab\tand\x1bescape", "blank in it", "p%40ss", "ünïcode", "a=b"])
def test_a_secret_is_never_written_in_any_form(path, secret):
    log = Log(path, secrets=(secret,))
    log.event("job-dead", error=f"login {secret} failed", url=f"smtp://u:{secret}@host", alone=secret)
    log.close()
    text = path.read_text()
    assert secret not in text
    assert secret.replace('"', "'").replace("\t", "\\x09").replace("\x1b", "\\x1b") not in text
    assert text.count("***") == 3


def test_a_secret_across_the_cut_leaves_no_half_behind(path):
    log = Log(path, secrets=("correct-horse-battery",))
    log.event("job-dead", error="x" * 590 + "correct-horse-battery")
    log.close()
    assert "correct" not in path.read_text()


def test_masking_a_secret_never_touches_the_sentence_or_the_name_of_the_event(path):
    log = Log(path, secrets=("dead", "event"))
    log.event("job-dead", error="a dead event")
    log.close()
    assert 'Job is dead. event=job-dead error="a *** ***"' in path.read_text()


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_file_and_rotated_files_are_for_their_owner_only_whatever_the_umask(path, monkeypatch):
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    old = os.umask(0)
    try:
        log = Log(path)
        for number in range(100):
            log.event("job-done", job=number)
        log.close()
    finally:
        os.umask(old)
    modes = {entry.name: oct(entry.stat().st_mode & 0o777) for entry in path.parent.iterdir()}
    assert modes == dict.fromkeys(["asyncsend.log", *(f"asyncsend.log.{number}" for number in range(1, 5))], "0o600")


def test_all_files_together_stay_below_5_mb_after_many_events(path):
    log = Log(path)
    for number in range(12_000):
        log.event("job-dead", job=number, error="é" * 590)
    log.close()
    files = list(path.parent.iterdir())
    assert len(files) == 5
    assert sum(entry.stat().st_size for entry in files) < 5_000_000
    assert "job=11999 " in written(path)[-1]


def test_nothing_is_lost_or_torn_where_one_file_ends_and_the_next_begins(path, monkeypatch):
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    log = Log(path)
    for number in range(60):
        log.event("job-done", job=number)
    log.close()
    lines = [line for name in ("asyncsend.log.4", "asyncsend.log.3", "asyncsend.log.2", "asyncsend.log.1", "asyncsend.log") if (path.parent / name).exists() for line in written(path.parent / name)]
    jobs = [int(facts(line)["job"]) for line in lines]
    assert jobs == list(range(jobs[0], 60))


def test_a_second_log_on_the_same_file_adds_to_it(path):
    for number in range(3):
        log = Log(path)
        log.event("job-done", job=number)
        log.close()
    assert [facts(line)["job"] for line in written(path)] == ["0", "1", "2"]


def test_two_processes_that_write_and_rotate_leave_whole_lines_within_the_bound(path):
    program = (
        "import sys; from pathlib import Path; from asyncsend import log as logs; logs.MAX_BYTES = 20000\n"
        "log = logs.Log(Path(sys.argv[1]))\n"
        "for number in range(1000): log.event('job-done', job=number, who=sys.argv[2])\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name], stderr=subprocess.PIPE) for name in "ab"]
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    for entry in path.parent.iterdir():
        assert all(LINE.fullmatch(line) for line in written(entry))
        assert entry.stat().st_size < 25_000
    assert 'job=999 ' in path.read_text()


def test_a_log_without_events_makes_no_file(path):
    Log(path).close()
    assert not path.exists()


def test_an_empty_minute_does_not_import_the_logging_machinery(tmp_path):
    code = f"import sys; from pathlib import Path; from asyncsend.log import Log; Log(Path({str(tmp_path / 'x')!r})).close(); print('logging' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ── trouble with the file ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_deleted_while_open_is_made_anew(path):
    log = Log(path)
    log.event("job-done", job=1)
    path.unlink()
    log.event("job-done", job=2)
    log.close()
    assert [facts(line)["job"] for line in written(path)] == ["2"]


def test_a_file_moved_away_by_logrotate_is_left_and_a_new_one_begun(path):
    log = Log(path)
    log.event("job-done", job=1)
    path.rename(path.with_name("old"))
    log.event("job-done", job=2)
    log.close()
    assert [facts(line)["job"] for line in (*written(path.with_name("old")), *written(path))] == ["1", "2"]


def test_a_torn_last_line_does_not_swallow_the_next(path):
    path.write_text("2026-11-21 09:30:02+0100 INFO  Job is do")
    log = Log(path)
    log.event("job-done", job=2)
    log.close()
    assert len(written(path)) == 2
    assert LINE.fullmatch(written(path)[1])


def broken_by_folder(path):
    path.mkdir()


def broken_by_link(path):
    path.symlink_to("/dev/full")


def broken_by_pipe(path):
    os.mkfifo(path)


def broken_by_missing_folder(path):
    path.parent.rmdir()


def broken_by_file_as_folder(path):
    path.parent.rmdir()
    path.parent.write_text("")


@pytest.mark.parametrize("breakage", [broken_by_folder, broken_by_link, broken_by_pipe, broken_by_missing_folder, broken_by_file_as_folder])
def test_a_file_that_cannot_be_had_is_neither_raised_nor_printed(tmp_path, capfd, breakage):
    path = tmp_path / "logs" / "asyncsend.log"
    path.parent.mkdir()
    breakage(path)
    log = Log(path)
    for _ in range(3):
        log.event("job-done", job=1)
    log.close()
    assert capfd.readouterr() == ("", "")


def test_an_unwritable_file_system_is_neither_raised_nor_printed(capfd):
    from pathlib import Path

    log = Log(Path("/proc/asyncsend.log"))
    log.event("job-done", job=1)
    log.close()
    assert capfd.readouterr() == ("", "")


def full(monkeypatch, path):
    """The file's writes go to /dev/full, which answers each with ENOSPC, as a full disk does."""
    real = os.open

    def opened(name, flags, *rest, **options):
        return real("/dev/full", os.O_RDWR) if os.fspath(name) == str(path) else real(name, flags, *rest, **options)

    monkeypatch.setattr(logs.os, "open", opened)


def test_a_full_disk_is_neither_raised_nor_printed_and_the_log_goes_on_when_there_is_room(path, monkeypatch, capfd):
    log = Log(path)
    with monkeypatch.context() as patched:
        full(patched, path)
        for _ in range(5):
            log.event("job-dead", error="no room")
    log.event("job-done", job=2)
    log.close()
    assert [facts(line)["job"] for line in written(path)] == ["2"]
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_at_the_end_of_a_process_prints_nothing(path):
    """Also not from the garbage collector, which Python 3.13 lets speak."""
    program = (
        "import os, sys; from pathlib import Path; from asyncsend import log as logs\n"
        "real = os.open\n"
        "logs.os.open = lambda name, flags, *rest, **more: real('/dev/full', os.O_RDWR) if str(name).endswith('.log') else real(name, flags, *rest, **more)\n"
        "log = logs.Log(Path(sys.argv[1])); log.event('job-done', job=1); log.event('job-done', job=2)\n"
    )
    for dev in ([], ["-X", "dev"]):
        done = subprocess.run([sys.executable, *dev, "-c", program, str(path)], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_on_a_small_disk_that_fills_up_and_is_emptied_every_line_is_whole(tmp_path):
    """A real 8 kB file system, in a mount namespace of its own."""
    program = f"""
import os, sys
from pathlib import Path
from asyncsend.log import Log
log = Log(Path("{tmp_path}/asyncsend.log"))
Path("{tmp_path}/ballast").write_bytes(b"x" * 4096)
for number in range(100):
    log.event("job-dead", job=number, error="e" * 100)
os.unlink("{tmp_path}/ballast")
log.event("job-done", job=1000)
log.close()
print(Path("{tmp_path}/asyncsend.log").read_text())
"""
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "/bin/sh", "-c", f'mount -t tmpfs -o size=8k tmpfs {tmp_path} && exec {sys.executable} -c "$0"', program], capture_output=True, text=True
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace can be made here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.strip().splitlines()
    assert 10 < len(lines) < 60
    assert facts(lines[-1])["job"] == "1000"
    assert [line for line in lines if not LINE.fullmatch(line)] in ([], [lines[-2]])


def test_a_run_on_a_host_whose_log_cannot_be_written_does_its_work_in_silence(lite):
    (lite.home / "asyncsend.log").mkdir()
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.quiet("run")
    assert lite.rows("state") == [("done",)]
