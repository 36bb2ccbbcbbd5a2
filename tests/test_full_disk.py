"""Full disks under log, journal, lock and database, on a real small file system; and journals full of somebody else's bytes."""

import json
import os
import random
import subprocess
import zlib

import pytest
import syscalls
from parts import Site, eventually, left_over, made_store, missing

TASKS = """
import os, time
from asyncsend import task
EFFECTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/effects"
def note(line):
    with open(EFFECTS, "a") as file:
        file.write(line + "\\n")
@task
def mark(name): note(name)
@task(delivery="at-most-once")
def once(name): note(name)
@task(timeout=60)
def wait(name):
    note(name)
    while not os.path.exists(EFFECTS + "-go"):
        time.sleep(0.01)
"""


class SmallDisk:
    """A file system of `size` over a folder, in a mount namespace of its own: only what is started `within` sees it."""

    def __init__(self, folder, size: str):
        root = os.getuid() == 0
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", *([] if root else ["--map-root-user"]), "sh", "-c", 'mount -t tmpfs -o size="$1",mode=700 none "$2" && echo up && exec cat', "sh", size, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self.keeper.stdout.readline() != "up\n":
            why = self.keeper.communicate()[1].strip()
            missing("a mount namespace", f"run as root, or allow user namespaces ({why})")
        pid = str(self.keeper.pid)
        self.within = ["nsenter", "--mount", "--target", pid, *([] if root else ["--user", "--preserve-credentials"]), "--"]
        self.seen = f"/proc/{pid}/root{folder}"  # the folder as this process sees it

    def fill(self) -> None:
        subprocess.run(["dd", "if=/dev/zero", f"of={self.seen}/ballast", "bs=4k"], capture_output=True)
        free = os.statvfs(self.seen).f_bavail
        assert free == 0, f"{free} blocks are free"

    def free(self) -> None:
        os.unlink(f"{self.seen}/ballast")

    def end(self) -> None:
        self.keeper.communicate()


@pytest.fixture
def disk():
    """A function that puts a small disk under a site's home folder, and the site into its namespace."""
    made: list[SmallDisk] = []

    def under(site: Site, size: str = "2m") -> SmallDisk:
        made.append(SmallDisk(site.home, size))
        site.within = made[-1].within
        with open(f"{made[-1].seen}/shop_tasks.py", "w") as file:
            file.write(TASKS)
        site.environment |= {"ASYNCSEND_TASKS": "shop_tasks", "ASYNCSEND_PATH": str(site.home), "PYTHONDONTWRITEBYTECODE": "1"}
        return made[-1]

    yield under
    for one in made:
        one.end()


@pytest.fixture
def shop(tmp_path, mysql_url):
    made_store(mysql_url).close()
    return Site(tmp_path / "home", mysql_url)


def effects(site) -> list[str]:
    path = site.home.parent / "effects"
    return path.read_text().split() if path.exists() else []


# ── log, journal and lock on a full disk ─────────────────────────────────────────────────────────────────────────────


def test_with_log_journal_and_lock_on_a_full_disk_a_run_does_its_work_in_silence(shop, disk):
    home = disk(shop)
    home.fill()
    for number in range(5):
        shop.insert("mark", f'{{"name":"j{number}"}}')
    shop.insert("once", '{"name":"o"}')
    shop.quiet("run")
    assert shop.rows("state, attempts") == [("done", 1)] * 6
    assert effects(shop) == ["j0", "j1", "j2", "j3", "j4", "o"]
    home.free()
    shop.insert("mark", '{"name":"next"}')
    shop.quiet("run")
    assert effects(shop)[-1] == "next"
    with open(f"{home.seen}/asyncsend.log") as log:
        assert "event=job-done job=7" in log.read(), "there is room: the log goes on"


def test_a_run_killed_while_its_journal_is_on_a_full_disk_repeats_only_what_was_in_flight_and_charges_it(shop, disk):
    home = disk(shop)
    home.fill()
    for task, name in (("mark", "a"), ("wait", "w"), ("mark", "b")):
        shop.insert(task, f'{{"name":"{name}"}}')
    victim = shop.start("run")
    eventually(lambda: effects(shop) == ["a", "w"], what="the second job")
    eventually(lambda: shop.rows("state", "id = 1") == [("done",)], what="the first result in the database")
    os.kill(run_of(shop), 9)
    victim.communicate(timeout=60)
    eventually(lambda: not left_over(shop), what="the death of the worker")
    (shop.home.parent / "effects-go").touch()
    shop.quiet("run")
    assert effects(shop) == ["a", "w", "w", "b"]
    assert shop.rows("state, crashes") == [("done", 0), ("done", 1), ("done", 0)]


def run_of(site) -> int:
    """The process that the status row names."""
    return site.store().standing("default").pid


def test_a_disk_that_fills_up_in_the_middle_of_a_run_stops_nothing(shop, disk):
    home = disk(shop)
    for task, name in (("mark", "a"), ("wait", "w"), ("mark", "b"), ("once", "o")):
        shop.insert(task, f'{{"name":"{name}"}}')
    run = shop.start("run")
    eventually(lambda: effects(shop) == ["a", "w"], what="the second job")
    home.fill()
    (shop.home.parent / "effects-go").touch()
    assert run.communicate(timeout=60) == (b"", b"")
    assert run.returncode == 0
    assert (effects(shop), [state for (state,) in shop.rows("state")]) == (["a", "w", "b", "o"], ["done"] * 4)


def test_sqlite_on_a_full_disk_is_exit_75_before_any_effect_and_the_next_run_goes_on(tmp_path, disk):
    site = Site(tmp_path / "home", f"sqlite:///{tmp_path}/home/asyncsend.sqlite3")
    home = disk(site)
    site("init")
    for number in range(3):
        site("enqueue", "mark", f'{{"name":"j{number}"}}')
    home.fill()
    done = site("enqueue", "mark", '{"name":"' + "x" * 100_000 + '"}', code=75)
    assert "takes no writes" in done.stderr
    done = site("run", code=75)
    assert "takes no writes" in done.stderr
    assert (done.stdout, done.stderr.count("\n"), effects(site)) == ("", 1, [])
    home.free()
    site.quiet("run")
    assert effects(site) == ["j0", "j1", "j2"]


def test_sqlite_on_a_disk_that_fills_up_while_a_task_runs_is_exit_75_and_nothing_is_lost(tmp_path, disk):
    site = Site(tmp_path / "home", f"sqlite:///{tmp_path}/home/asyncsend.sqlite3")
    home = disk(site)
    site("init")
    for task, name in (("mark", "a"), ("wait", "w"), ("mark", "b")):
        site("enqueue", task, f'{{"name":"{name}"}}')
    run = site.start("run")
    eventually(lambda: effects(site) == ["a", "w"], what="the second job")
    home.fill()
    (site.home.parent / "effects-go").touch()
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) in ((75, b""), (0, b"")), err
    home.free()
    site.quiet("run")
    assert set(effects(site)) == {"a", "w", "b"}
    assert len(effects(site)) <= 4, "neither the database nor the journal could take the result of the one in flight"
    facts = json.loads(site("status", "--json").stdout)
    assert (facts["queues"], sum(one["done"] for one in facts["totals"])) == ([], 3)


# ── the journal ──────────────────────────────────────────────────────────────────────────────────────────────────────


def foreign(number: int) -> bytes:
    """A whole line, of claims of another database or another life."""
    raw = f'D {number} {"ab" * 16} {{"verb":"finish","state":"done"}}'.encode()
    return b"\n%08x %s\n" % (zlib.crc32(raw), raw)


@pytest.mark.parametrize("content", ["100 MB of rubbish", "one line of 100 MB", "lines of other claims", "a torn line"])
def test_a_journal_that_holds_anything_else_changes_no_job_and_is_emptied(lite, content):
    lite.tasks(TASKS)
    for name in ("a", "b"):
        lite.insert("mark", f'{{"name":"{name}"}}')
    path = lite.settings().journal_path
    rubbish = random.Random(7).randbytes(1_000_000)
    with open(path, "wb") as file:
        match content:
            case "100 MB of rubbish":
                file.writelines(rubbish for _ in range(100))
            case "one line of 100 MB":
                file.writelines(b"x" * 1_000_000 for _ in range(100))
            case "lines of other claims":
                file.writelines(foreign(number) for number in range(1, 2001))
            case "a torn line":
                file.write(foreign(1)[:-9])
    lite.quiet("run")
    assert (lite.rows("state, attempts, crashes"), effects(lite)) == ([("done", 1, 0)] * 2, ["a", "b"])
    assert path.stat().st_size == 0
    if content == "lines of other claims":
        assert "event=journal-replayed results=0 refused=2000" in lite.log()


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trouble", ["rotated", "deleted", "read-only", "a folder"])
def test_a_log_that_is_moved_deleted_or_locked_under_a_run_stops_nothing(lite, trouble):
    lite.tasks(TASKS)
    for task, name in (("mark", "a"), ("wait", "w"), ("mark", "b")):
        lite.insert(task, f'{{"name":"{name}"}}')
    path = lite.home / "asyncsend.log"
    run = lite.start("run")
    eventually(lambda: effects(lite) == ["a", "w"], what="the second job")
    eventually(path.exists, what="the log")
    match trouble:
        case "rotated":
            path.rename(path.with_name("asyncsend.log.old"))
        case "deleted":
            path.unlink()
        case "read-only":
            path.chmod(0o400)
        case "a folder":
            path.unlink()
            path.mkdir()
    (lite.home.parent / "effects-go").touch()
    assert run.communicate(timeout=60) == (b"", b"")
    assert (run.returncode, effects(lite)) == (0, ["a", "w", "b"])
    if trouble != "a folder":
        assert "event=job-done job=3" in path.read_text()
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("call", "crashes"), [("ftruncate", 0), ("pread64", 1)])
def test_a_journal_that_the_disk_lets_nobody_empty_or_read_stops_nothing_and_what_may_have_begun_is_charged(lite, call, crashes):
    if reason := syscalls.why_not():
        missing("strace", reason)
    lite.tasks("import os\nfrom asyncsend import task\n@task\ndef die_at(fuse):\n    if os.path.exists(fuse):\n        os.remove(fuse)\n        os.kill(os.getppid(), 9)\n")
    lite.insert("die_at", json.dumps({"fuse": str(lite.home / "fuse")}))
    if crashes:
        (lite.home / "fuse").touch()
        assert lite("run", code=None).returncode == -9
    lite.within = ["strace", "-f", "-o", "/dev/null", "-P", str(lite.settings().journal_path), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO"]
    lite.quiet("run")
    assert lite.rows("state, attempts, crashes") == [("done", 1, crashes)]
    assert "event=journal-broken" in lite.log()
    assert ("event=job-rescued" in lite.log()) == bool(crashes)
