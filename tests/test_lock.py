"""The host lock: one holder, freed by any death, and never mistaken for held when it could not be had at all."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from parts import Site, eventually, left_over, without_flock

from asyncsend import lock as locks
from asyncsend.errors import ConfigurationError
from asyncsend.lock import HostLock, LockHeld

HOLDER = """
import sys, time
from pathlib import Path
from asyncsend.lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""
LOSER = """
import sys
from pathlib import Path
from asyncsend.lock import HostLock, LockHeld
lock = HostLock(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    try:
        lock.acquire()
    except LockHeld:
        pass
    else:
        sys.exit(3)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "asyncsend.lock"


@pytest.fixture
def holder(path):
    """A real process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def had(path: Path) -> bool:
    lock = HostLock(path)
    try:
        lock.acquire(counted=False)
    except LockHeld:
        return False
    lock.release()
    return True


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        HostLock(path).acquire()
    assert str(path) in str(refused.value)
    assert "already" not in str(refused.value)
    return str(refused.value)


# ── one holder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_holder_is_turned_away_until_the_first_lets_go(path):
    first, second = HostLock(path), HostLock(path)
    first.acquire()
    with pytest.raises(LockHeld):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_letting_go_twice_closes_nobody_else_s_file(path):
    lock = HostLock(path)
    lock.acquire()
    lock.release()
    with open(path, "rb") as other:
        lock.release()
        assert other.read() is not None


def test_another_process_is_turned_away(path, holder):
    assert not had(path)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_any_death_of_the_holder_frees_the_lock(path, holder, death):
    holder.send_signal(death)
    holder.wait(20)
    assert had(path)


def test_a_stopped_holder_still_holds_it(path, holder):
    holder.send_signal(signal.SIGSTOP)
    assert not had(path)


def test_a_file_that_was_left_behind_means_nothing(path):
    path.parent.mkdir()
    path.write_text("pid 1 since for ever")
    assert had(path)


def test_the_holder_leaves_a_note_of_its_pid_for_people(path):
    lock = HostLock(path)
    path.parent.mkdir()
    path.write_text("a much longer note of somebody who was here a long time before us, and more words\n")
    lock.acquire()
    assert re.fullmatch(rf"pid {os.getpid()} since \S+ \S+ \S+\n", path.read_text())
    lock.release()


def test_letting_go_leaves_the_file_in_place(path):
    assert had(path)
    assert path.exists()


def test_a_file_that_is_deleted_while_held_lets_a_new_file_be_locked_and_the_status_row_tells_them_apart(path):
    first, second = HostLock(path), HostLock(path)
    first.acquire()
    path.unlink()
    second.acquire()
    assert first.lock_id != second.lock_id
    first.release()
    second.release()


def test_a_file_that_is_deleted_between_opening_and_locking_is_opened_anew(path, monkeypatch):
    real, deleted = fcntl.flock, []

    def flock(descriptor, kind):
        if not deleted:
            deleted.append(path.unlink())
        real(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    lock = HostLock(path)
    lock.acquire()
    assert os.fstat(lock.descriptor).st_ino == path.stat().st_ino
    monkeypatch.undo()
    assert not had(path)
    lock.release()


def test_a_file_that_is_always_being_replaced_is_no_lock(path, monkeypatch):
    real = fcntl.flock

    def flock(descriptor, kind):
        path.unlink()
        real(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert "keeps being replaced" in refusal(path)


def test_all_runs_of_one_lock_have_one_name_for_it_and_two_locks_have_two(path):
    one, again, other = HostLock(path), HostLock(path), HostLock(path.with_name("other.lock"))
    one.acquire()
    name = one.lock_id
    one.release()
    again.acquire()
    other.acquire()
    assert again.lock_id == name
    assert other.lock_id != name
    assert len(name) <= 191
    again.release()
    other.release()


def test_lock_folder_and_files_are_for_their_owner_only(path):
    lock = HostLock(path)
    old = os.umask(0)
    try:
        lock.acquire()
        assert lock.lock_id
        with pytest.raises(LockHeld):
            HostLock(path).acquire()
    finally:
        os.umask(old)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {entry.name: oct(entry.stat().st_mode & 0o777) for entry in path.parent.iterdir()} == dict.fromkeys(
        ("asyncsend.lock", "asyncsend.lock.held", "asyncsend.lock.instance"), "0o600"
    )
    lock.release()


# ── children ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_forked_child_that_outlives_the_run_does_not_keep_the_lock(path):
    lock = HostLock(path)
    lock.acquire()
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        lock.close_in_child()
        lock.release()
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        assert not had(path), "the child took the lock away from its parent"
        lock.release()
        assert had(path), "the child kept the lock"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_program_that_the_run_starts_does_not_inherit_the_lock(path):
    lock = HostLock(path)
    lock.acquire()
    program = subprocess.Popen(["/bin/sleep", "600"], close_fds=False)
    try:
        lock.release()
        eventually(lambda: had(path), what="the program giving the lock up")  # posix_spawn returns a moment before exec closes files
    finally:
        program.kill()
        program.wait()


# ── held runs are counted ────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_that_found_it_held_are_counted_exactly_and_once(path):
    lock = HostLock(path)
    lock.acquire()
    assert lock.held_count() == 0
    for _ in range(7):
        with pytest.raises(LockHeld):
            HostLock(path).acquire()
    assert (lock.held_count(), lock.held_count()) == (7, 0)
    lock.release()


def test_whoever_only_wants_to_know_is_not_counted(path):
    lock = HostLock(path)
    lock.acquire()
    assert not had(path)
    assert lock.held_count() == 0
    lock.release()


def test_no_held_run_is_lost_while_the_holder_counts(path):
    lock = HostLock(path)
    lock.acquire()
    losers = [subprocess.Popen([sys.executable, "-c", LOSER, str(path), "400"]) for _ in range(4)]
    counted = 0
    while any(loser.poll() is None for loser in losers):
        counted += lock.held_count()
    counted += lock.held_count()
    assert [loser.returncode for loser in losers] == [0] * 4
    assert counted == 1600
    lock.release()


def test_a_counter_that_cannot_be_written_turns_runs_away_all_the_same(path):
    lock = HostLock(path)
    lock.acquire()
    path.with_name(path.name + ".held").mkdir()
    with pytest.raises(LockHeld):
        HostLock(path).acquire()
    assert lock.held_count() == 0
    lock.release()


def test_a_counter_whose_lock_never_comes_delays_the_holder_by_a_moment_and_loses_nothing(path):
    lock = HostLock(path)
    lock.acquire()
    with pytest.raises(LockHeld):
        HostLock(path).acquire()
    with open(path.with_name(path.name + ".held"), "rb") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_SH)
        assert lock.held_count() == 0
    assert lock.held_count() == 1
    lock.release()


# ── what can be no lock ──────────────────────────────────────────────────────────────────────────────────────────────


def mended(line: str, path: Path) -> bool:
    subprocess.run(["/bin/sh", "-c", re.search("run `([^`]+)`", line)[1]], check=True)
    return had(path)


def test_a_folder_in_its_place_is_named_and_its_command_mends_it(tmp_path):
    path = tmp_path / "my locks" / "x.lock"
    path.mkdir(parents=True)
    line = refusal(path)
    assert "folder" in line
    assert mended(line, path)


@pytest.mark.parametrize("target", ["elsewhere", "/dev/null", "x.lock"])
def test_a_symbolic_link_in_its_place_is_named_and_its_command_mends_it(tmp_path, target):
    path = tmp_path / "x.lock"
    path.symlink_to(target)
    line = refusal(path)
    assert "symbolic link" in line
    assert mended(line, path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_named_pipe_in_its_place_is_named_and_its_command_mends_it(tmp_path):
    path = tmp_path / "x.lock"
    os.mkfifo(path)
    line = refusal(path)
    assert "not a regular file" in line
    assert mended(line, path)


def test_a_device_in_its_place_is_named():
    line = refusal(Path("/dev/null"))
    assert "not a regular file" in line
    assert "rm " not in line


def test_a_file_in_place_of_its_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert "ASYNCSEND_LOCK" in refusal(tmp_path / "file" / "x.lock")
    assert "ASYNCSEND_LOCK" in refusal(tmp_path / "file" / "deeper" / "x.lock")


@pytest.mark.parametrize("folder", ["/proc", "/proc/self", "/sys", "/proc/1/fdinfo"])
def test_a_file_system_that_takes_no_files_is_named(folder):
    assert "cannot be opened" in refusal(Path(folder) / "x.lock")


def test_a_name_too_long_for_the_file_system_is_named(tmp_path):
    assert "cannot be opened" in refusal(tmp_path / ("x" * 300))


def test_a_file_that_may_not_be_written_is_named(tmp_path):
    """As root every file may be written, so another user tries."""
    if os.getuid() != 0:
        (tmp_path / "x.lock").touch(0o400)
        assert "Permission denied" in refusal(tmp_path / "x.lock")
        return
    found = multiprocessing.get_context("fork").Queue()
    path = Path("/tmp") / f"asyncsend-test-{os.getpid()}.lock"
    path.touch(0o400)

    def as_nobody():
        os.setuid(65534)
        try:
            HostLock(path).acquire()
        except BaseException as error:
            found.put((type(error).__name__, str(error)))
        else:
            found.put(("held", ""))

    process = multiprocessing.get_context("fork").Process(target=as_nobody)
    process.start()
    try:
        kind, said = found.get(timeout=20)
        assert kind == "ConfigurationError"
        assert str(path) in said and "Permission denied" in said
    finally:
        process.join()
        path.unlink()


def test_a_read_only_file_system_is_named(tmp_path):
    """In a mount namespace of its own, where this container may make one; no path of the host changes."""
    program = f"""
set -e
mount -t tmpfs -o size=64k tmpfs {tmp_path}
touch {tmp_path}/x.lock
mount -o remount,ro {tmp_path}
exec {sys.executable} -c 'from pathlib import Path; from asyncsend.lock import HostLock; HostLock(Path("{tmp_path}/x.lock")).acquire()'
"""
    done = subprocess.run(["unshare", "--mount", "--map-root-user", "/bin/sh", "-c", program], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace can be made here: {done.stderr.strip()}")
    assert f"ConfigurationError: the lock file {tmp_path}/x.lock cannot be opened (Read-only file system): its file system is read-only" in done.stderr


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EIO, errno.EBADF])
def test_a_lock_that_a_security_module_or_a_broken_disk_refuses_is_named_and_never_taken_for_a_run_at_work(path, monkeypatch, number):
    def flock(_descriptor, _kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert "cannot be locked" in refusal(path)


# ── a file system without flock ──────────────────────────────────────────────────────────────────────────────────────

HOLD = """
import pathlib, time
from asyncsend import task
HERE = pathlib.Path(__file__).parent
@task(timeout=60)
def hold(name="x"):
    with open(HERE / "effects", "a") as file:
        file.write(name + "\\n")
    while (HERE / "flag").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def held(site):
    """A site with a task that holds its run until the flag is gone."""
    site.tasks(HOLD)
    (site.home / "flag").touch()
    yield site
    (site.home / "flag").unlink(missing_ok=True)


def effects(site) -> list[str]:
    path = site.home / "effects"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_flock_a_second_run_is_kept_out_by_the_lease(held, number):
    """The kernel itself answers flock(2) as NFS without its lock daemon does."""
    options = {"preexec_fn": without_flock(number)}
    held.insert("hold", '{"name":"a"}')
    held.insert("hold", '{"name":"b"}')
    first = held.start("run", **options)
    eventually(lambda: effects(held), what="the first job")
    held("run", **options)
    held("run", **options)
    assert effects(held) == ["a"]
    (held.home / "flag").unlink()
    assert first.communicate(timeout=60) == (b"", b"")
    assert effects(held) == ["a", "b"]
    assert held.log().count("event=held-elsewhere") == 2


def test_without_flock_nobody_is_believed_dead_before_the_lease_ended_and_then_nothing_that_had_finished_is_repeated(held):
    options = {"preexec_fn": without_flock(errno.ENOLCK)}
    (held.home / "flag").unlink()
    held.insert("hold", '{"name":"a"}')
    (held.home / "flag2").touch()
    held.tasks(HOLD + "\n@task(timeout=60)\ndef wait():\n    hold('w')\n    while (HERE / 'flag2').exists(): time.sleep(0.01)\n")
    held.insert("wait")
    victim = held.start("run", **options)
    eventually(lambda: effects(held) == ["a", "w"], what="the second job")
    victim.kill()
    victim.communicate(timeout=60)
    (held.home / "flag2").unlink()
    held("run", **options)
    assert effects(held) == ["a", "w"], "the dead run's lease still holds"
    held.sql("UPDATE asyncsend_status SET lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1)")
    held("run", **options)
    assert effects(held) == ["a", "w", "w"], "the job in flight is repeated, the finished one is not"
    assert held.rows("state, crashes") == [("done", 0), ("done", 1)]
    assert not held.settings().journal_path.exists(), "two runs could write it at once"


def test_without_flock_log_doctor_and_status_say_so_and_stop_saying_it(lite):
    options = {"preexec_fn": without_flock(errno.ENOSYS)}
    lite.quiet("run", **options)
    assert lite.log() == "", "an empty minute leaves no line"
    lite.insert("email", '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')
    lite.quiet("run", **options)
    assert lite.log().count("event=no-flock") == 1
    assert re.search(r"warn +lock +.*without flock.*\n.*ASYNCSEND_LOCK", lite("doctor", code=None, **options).stdout)
    assert "without flock" in lite("status").stdout
    lite.quiet("run")
    assert "without flock" not in lite("status").stdout + lite("doctor", code=None).stdout


def test_without_flock_no_two_runs_have_one_name_for_the_lock(path, monkeypatch):
    def flock(_descriptor, _kind):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    names = []
    for _ in range(3):
        lock = HostLock(path)
        lock.acquire()
        names.append(lock.lock_id)
        lock.release()
    assert len(set(names)) == 3
    assert all(name.startswith(locks.LEASE_ONLY) for name in names)


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_file_deleted_under_a_run_lets_no_second_run_work(held):
    held.insert("hold", '{"name":"a"}')
    held.insert("hold", '{"name":"b"}')
    first = held.start("run")
    eventually(lambda: effects(held), what="the first job")
    held.settings().lock_path.unlink()
    held.quiet("run")
    assert effects(held) == ["a"]
    (held.home / "flag").unlink()
    assert first.communicate(timeout=60) == (b"", b"")
    assert effects(held) == ["a", "b"]


def test_two_hosts_that_each_hold_a_lock_of_their_own_never_work_at_the_same_time(held):
    """NFS with local_lock=flock, or two hosts with one database: the status row decides."""
    held.insert("hold", '{"name":"a"}')
    held.insert("hold", '{"name":"b"}')
    first = held.start("run")
    eventually(lambda: effects(held), what="the first host's job")
    other = Site(held.home.parent / "other", held.url, **{**held.environment, "ASYNCSEND_HOME": str(held.home.parent / "other")})
    other.quiet("run")
    assert effects(held) == ["a"]
    assert "event=held-elsewhere" in other.log()
    first.kill()
    first.communicate(timeout=60)
    (held.home / "flag").unlink()
    other.quiet("run")
    assert effects(held) == ["a"], "its lease still holds"
    held.sql("UPDATE asyncsend_status SET lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 1)")
    other.quiet("run")
    assert sorted(effects(held)) == ["a", "a", "b"]


def test_a_run_that_lost_its_lease_leaves_the_journal_alone_that_another_writes_by_now(held):
    """Two hosts with one home folder: what the new holder noted there is not the old one's to forget."""
    held.insert("hold", '{"name":"a"}')
    run = held.start("run")
    eventually(lambda: effects(held), what="the job")
    held.sql("UPDATE asyncsend_status SET owner = 'ffffffffffffffffffffffffffffffff', lock_id = 'other', generation = generation + 1")
    with open(held.settings().journal_path, "ab") as journal:
        journal.write(b"what the other run notes\n")
    (held.home / "flag").unlink()
    assert run.communicate(timeout=60) == (b"", b"")
    assert b"what the other run notes\n" in held.settings().journal_path.read_bytes()
    assert "event=lease-lost" in held.log()


def test_a_run_that_hangs_with_the_lock_is_seen_in_status_and_doctor_and_nobody_works_beside_it(held):
    held.insert("hold", '{"name":"a"}')
    held.insert("hold", '{"name":"b"}')
    run = held.start("run")
    eventually(lambda: effects(held), what="the job")
    run.send_signal(signal.SIGSTOP)
    past = "FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - 900)"
    held.sql(f"UPDATE asyncsend_status SET lease_until = {past}, started_at = {past}")
    held.quiet("run")
    assert effects(held) == ["a"]
    facts = json.loads(held("status", "--json").stdout)
    assert (facts["verdict"], facts["cron_missing"]) == ("attention", True)
    assert f"held by a run at work (pid {run.pid} since" in held("doctor", code=None).stdout
    (held.home / "flag").unlink()
    run.send_signal(signal.SIGCONT)
    assert run.communicate(timeout=60) == (b"", b"")
    assert effects(held) == ["a", "b"]


def test_a_program_at_work_dies_with_its_killed_run_so_that_its_repeat_does_not_overlap_it(lite):
    lite.environment["ASYNCSEND_COMMAND_NAP"] = f"/bin/sh -c 'echo started >> {lite.home}/effects; exec sleep 600'"
    lite.insert("command.nap", max_attempts=1)
    run = lite.start("run")
    eventually(lambda: effects(lite), what="the program")
    run.kill()
    run.communicate(timeout=60)
    eventually(lambda: not left_over(lite), what="the death of worker and program")


def test_a_cloned_folder_is_another_lock(tmp_path):
    original, clone = HostLock(tmp_path / "a" / "x.lock"), HostLock(tmp_path / "b" / "x.lock")
    original.acquire()
    assert original.lock_id
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    clone.acquire()
    assert clone.lock_id != original.lock_id
    fresh = original.lock_id
    (tmp_path / "a" / "x.lock.instance").write_text("another installation")
    assert original.lock_id != fresh, "also where host name, device and inode are the same"
    original.release()
    clone.release()


def test_a_refused_lock_leaves_no_descriptor_open(path, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    holder = HostLock(path)
    holder.acquire()
    for _ in range(5):
        with pytest.raises(LockHeld):
            HostLock(path).acquire()
        refusal(tmp_path)
        refusal(Path("/dev/null"))
    holder.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_command_ends_with_78_and_names_the_path(lite):
    lite.home.joinpath("asyncsend.lock").mkdir()
    done = lite("run", code=78)
    assert str(lite.home / "asyncsend.lock") in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_two_threads_of_one_process_exclude_each_other_too(path):
    inside, most = [], []

    def work():
        for _ in range(50):
            lock = HostLock(path)
            try:
                lock.acquire(counted=False)
            except LockHeld:
                continue
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_the_second_of_two_runs_leaves_in_silence_and_is_counted(lite):
    """The holder is a real run with a job at hand; the loser is what cron starts a minute later."""
    lite.tasks("from asyncsend import task\nimport time, pathlib\n@task(timeout=60)\ndef hold(flag):\n    while pathlib.Path(flag).exists():\n        time.sleep(0.01)\n")
    flag = lite.home / "flag"
    flag.touch()
    lite.insert("hold", f'{{"flag": "{flag}"}}')
    first = lite.start("run")
    try:
        eventually(lambda: lite.rows("id", "state = 'running'"), what="the first run claiming")
        lite.quiet("run")
        lite.quiet("run")
    finally:
        flag.unlink()
        first.communicate(timeout=30)
    store = lite.store()
    assert store.standing("default").lock_held == 2
    store.close()
