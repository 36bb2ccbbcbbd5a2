"""Commands: programs that the settings name, run for real."""

import json
import os
import shlex
import signal
import sys

import pytest

from asyncsend.answers import Refused, Retry
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.outcome import State
from asyncsend.tasks import Tasks, command
from asyncsend.tasks.command import Command

NASTY = '{"name": "a; touch /tmp/owned $(id) `id` | cat > x && \\u0000 \\" \' ü 🎁", "n": 1.50, "n": 2}\n'


@pytest.fixture
def program(tmp_path):
    """A program of Python lines that can note what it got under `seen`."""

    def made(lines, *arguments):
        path = tmp_path / "the program.py"
        path.write_text(f"import json, os, signal, sys\nseen = {str(tmp_path)!r} + '/seen'\n{lines}\n", "utf-8")
        return Command("resize", shlex.join([sys.executable, "-IS", str(path), *arguments]))

    return made


def run(made, payload="{}", **members):
    return made(json.loads(payload), Job(17, "command.resize", payload, **members))


def test_the_payload_arrives_on_stdin_byte_for_byte(program, tmp_path):
    run(program("open(seen, 'wb').write(sys.stdin.buffer.read())"), NASTY)
    assert (tmp_path / "seen").read_bytes() == NASTY.encode("utf-8")


def test_a_payload_of_four_megabytes_arrives_whole(program, tmp_path):
    payload = json.dumps({"a": "x" * 4_000_000})
    run(program("open(seen, 'wb').write(sys.stdin.buffer.read())"), payload)
    assert (tmp_path / "seen").read_bytes() == payload.encode()


def test_the_arguments_come_from_the_settings_alone(program, tmp_path):
    run(program("json.dump(sys.argv[1:], open(seen, 'w'))", "--size", "two words", "$(id)", ";", "*"), NASTY)
    assert json.loads((tmp_path / "seen").read_text()) == ["--size", "two words", "$(id)", ";", "*"]


def test_a_setting_is_split_like_a_shell_does_and_read_by_no_shell(lite, tmp_path):
    lite.environment["ASYNCSEND_COMMAND_SHOW"] = f"""{sys.executable} -c "import sys; open(sys.argv[1], 'w').write('|'.join(sys.argv[2:]))" {tmp_path}/seen 'a b' $HOME ; id"""
    tasks = Tasks(lite.settings())
    tasks.find("command.show").function({}, Job(1, "command.show", "{}"))
    assert (tmp_path / "seen").read_text() == "a b|$HOME|;|id"


def test_the_environment_holds_the_job_and_none_of_our_secrets(program, tmp_path, monkeypatch):
    monkeypatch.setenv("ASYNCSEND_DATABASE_URL", "mysql://u:s3cret@h/d")
    monkeypatch.setenv("ASYNCSEND_WEBHOOK_SECRET", "s3cret")
    monkeypatch.setenv("MYSQL_PWD", "s3cret")
    monkeypatch.setenv("TZ", "Europe/Paris")
    run(program("json.dump(dict(os.environ), open(seen, 'w'))"), uid="order-17", attempts=2)
    environment = json.loads((tmp_path / "seen").read_text())
    assert "s3cret" not in str(environment)
    assert {name: value for name, value in environment.items() if name.startswith("ASYNCSEND")} == {
        "ASYNCSEND_JOB": "order-17",
        "ASYNCSEND_JOB_ID": "17",
        "ASYNCSEND_ATTEMPT": "3",
    }
    assert (environment["TZ"], environment["PATH"], environment["HOME"]) == ("Europe/Paris", os.environ["PATH"], os.environ["HOME"])


def test_exit_code_zero_is_done_without_a_result(program):
    assert run(program("sys.exit(0)")) is None


def test_exit_code_65_is_dead(program):
    with pytest.raises(Refused, match="65") as caught:
        run(program("sys.exit(os.EX_DATAERR)"))
    assert caught.value.reason == "exit-65"


@pytest.mark.parametrize("code", [1, 2, 64, 66, 75, 127, 255])
def test_any_other_exit_code_is_a_failed_attempt_that_names_it(program, code):
    with pytest.raises(Retry, match=f"exited with {code}") as caught:
        run(program(f"sys.exit({code})"))
    assert caught.value.reason == f"exit-{code}"


@pytest.mark.parametrize("number, name", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (signal.SIGPIPE, "SIGPIPE"), (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")])
def test_death_by_any_signal_is_a_failed_attempt_that_names_it(program, number, name):
    with pytest.raises(Retry, match=name) as caught:
        run(program(f"signal.signal({int(number)}, signal.SIG_DFL) if {int(number)} != 9 else 0; os.kill(os.getpid(), {int(number)})"))
    assert caught.value.reason == "killed"


def test_a_program_that_reads_none_of_its_input_is_judged_by_its_exit_code(program):
    payload = json.dumps({"a": "x" * 1_000_000})
    assert run(program("os.close(0)"), payload) is None
    with pytest.raises(Refused):
        run(program("os.close(0); sys.exit(65)"), payload)


@pytest.mark.parametrize("line", ["/nowhere/at/all --x", "/etc", "/etc/passwd"])
def test_a_program_that_cannot_be_started_is_a_failed_attempt_that_names_the_setting(line):
    with pytest.raises(Retry, match="ASYNCSEND_COMMAND_RESIZE") as caught:
        run(Command("resize", line))
    assert caught.value.reason == "cannot-start"


@pytest.mark.parametrize("line", ["", "   ", 'php "unclosed', "php 'x"])
def test_a_setting_that_is_no_command_is_a_configuration_error(line):
    with pytest.raises(ConfigurationError, match="ASYNCSEND_COMMAND_RESIZE"):
        Command("resize", line)


def test_a_command_starts_in_the_home_folder(program, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(program("open(seen, 'w').write(os.getcwd())"))
    assert (tmp_path / "seen").read_text() == str(tmp_path.resolve())


def test_a_row_through_the_whole_run_reaches_the_program_and_is_done(lite, tmp_path):
    lite.environment["ASYNCSEND_COMMAND_KEEP"] = f"/bin/sh -c 'cat > {tmp_path}/seen; echo kept'"
    lite.insert("command.keep", NASTY)
    lite.insert("command.keep;id", "{}")
    lite.quiet("run")
    assert (tmp_path / "seen").read_bytes() == NASTY.encode("utf-8")
    assert lite.rows("state, reason") == [(State.DONE, None), (State.HELD, "unknown-task")]


def test_five_minutes_are_what_a_command_may_take():
    assert command.POLICY.timeout == 300
