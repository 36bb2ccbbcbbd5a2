"""Where newcomers stumbled, each once: what they did, and what they get now."""

import json

import pytest

from asyncsend import ConfigurationError, Snooze, config, task, testing

MAIL = '{"to":"ann@example.com","subject":"Hi","text":"Hello"}'


@task(name="stumble_snooze_nothing")
def snooze_nothing() -> None:
    raise Snooze(0)


def test_status_does_not_say_all_is_well_while_no_mail_leaves(lite, smtp):
    smtp.replies["MAIL"] = ["535 5.7.8 authentication failed"]
    lite.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    lite.insert("email", MAIL)
    lite.quiet("run")
    facts = json.loads(lite("status", "--json").stdout)
    assert facts["verdict"] == "attention"
    assert any("1 job waits (smtp-login)" in sentence for sentence in facts["sentences"])
    assert "ASYNCSEND_EMAIL_URL" in lite("status").stdout


def test_a_table_that_somebody_dropped_is_made_again_by_init(site):
    site.insert("email", MAIL)
    site.sql("DROP TABLE asyncsend_pauses")
    assert "asyncsend init" in site("run", code=78).stderr
    site("init")
    site.quiet("run")
    assert site.rows("state") == [("done",)], "and what was there stayed"


def test_the_demo_overwrites_nothing(lite):
    (lite.home / ".env").touch(0o600)
    (lite.home / ".env").write_text("ASYNCSEND_WORKERS=2\n")
    assert "not empty" in lite("demo", "--folder", str(lite.home), code=78).stderr
    assert (lite.home / ".env").read_text() == "ASYNCSEND_WORKERS=2\n"
    lite("demo", "--folder", "/proc/nowhere", code=78)


@pytest.mark.parametrize("url", ["mysql://sh:12/abcSECRET@127.0.0.1:3306/shop", "mysql://us/er:abcSECRET@h/d", "smtp://u:a/abcSECRET@mail.example.com"])
def test_no_part_of_a_password_with_a_bare_slash_is_shown(lite, url):
    name = "ASYNCSEND_DATABASE_URL" if url.startswith("mysql") else "ASYNCSEND_EMAIL_URL"
    lite.environment[name] = url
    for command in ("run", "status", "config"):
        done = lite(command, code=78)
        assert "SECRET" not in done.stdout + done.stderr
        assert "%2F" in done.stderr
    assert "SECRET" not in config.masked(name, url)


def test_a_snooze_of_nothing_does_not_spin():
    clock = testing.FakeClock(1_800_000_000)
    with testing.queue(clock=clock) as queue:
        snooze_nothing.enqueue()
        assert queue.drain() == {"ready": 1}
        assert queue.drain() == {}


def test_two_functions_of_one_name_are_refused_also_within_a_module():
    with pytest.raises(ConfigurationError, match="two tasks are called 'stumble_twice'"):
        exec(compile("from asyncsend import task\n@task\ndef stumble_twice(): pass\n@task\ndef stumble_twice(): pass\n", "shop.py", "exec"), {"__name__": "shop"})


def test_a_retry_that_cannot_be_done_for_all_is_done_for_none(lite):
    for _ in range(2):
        lite.insert("email", "{}")
    lite.quiet("run")
    lite.sql("UPDATE asyncsend_jobs SET state = 'done' WHERE id = 1")
    for verb in ("retry", "cancel"):
        assert "Nothing was changed" in lite(verb, "2", "1", code=2).stderr
    assert lite.rows("state") == [("done",), ("dead",)]


def test_a_gateway_that_echoes_its_keys_puts_them_into_no_error(lite, http):
    template = lite.home / "gateway.toml"
    template.touch(0o600)
    template.write_text(
        f'url = "{http.url}/send?token=URLSECRET"\nauth = ["user", "BasicSECRET"]\n[headers]\nX-Key = "APIKEYSECRET"\n[form]\nto = "{{to}}"\napi_secret = "FORMSECRET"\n'
    )
    lite.environment["ASYNCSEND_SMS_URL"] = f"http+template://{template}"
    http.answers = [(500, {}, b"you sent APIKEYSECRET and BasicSECRET and dXNlcjpCYXNpY1NFQ1JFVA== FORMSECRET URLSECRET")]
    lite.insert("sms", '{"to":"+33612345678","text":"x"}')
    lite.quiet("run")
    [(error,)] = lite.rows("error")
    assert "you sent *** and *** and *** *** ***" in error
    assert "SECRET" not in lite.log() + lite("why", "1").stdout


def test_a_command_in_capitals_is_told_its_name(lite):
    lite.environment["ASYNCSEND_COMMAND_MY_TOOL"] = "true"
    lite.insert("command.MY_TOOL")
    lite.quiet("run")
    assert "in lower case, 'command.my_tool'" in lite.rows("error")[0][0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ASYNCSEND_SMS_URL", "http+template:///nowhere.toml", "/nowhere.toml"),
        ("ASYNCSEND_WEBHOOK_SECRET", "whsec_short", "openssl rand"),
        ("ASYNCSEND_EMAIL_FROM", "Shop shop@", "ASYNCSEND_EMAIL_FROM"),
        ("ASYNCSEND_COMMAND_X", "", "is empty"),
    ],
)
def test_the_doctor_names_a_setting_that_cannot_be_used(lite, name, value, words):
    lite.quiet("run")
    lite.environment[name] = value
    assert words in lite("doctor", code=1).stdout


def test_a_full_disk_behind_the_output_is_no_traceback(lite):
    with open("/dev/full", "w") as full:
        import subprocess
        import sys

        lite.insert("email", "{}")
        done = subprocess.run([sys.executable, "-m", "asyncsend", "jobs"], env=lite.environment, stdout=full, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
