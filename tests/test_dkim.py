"""DKIM: dkimpy's own verifier is the oracle; the DNS is a function. The keys are real, made once."""

import base64
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime

import dkim
import pytest
from parts import missing

from asyncsend import config
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.tasks.dkim import Signer
from asyncsend.tasks.email import Composer

BORN = datetime(2026, 11, 3, 9, 15, 30, 123456, tzinfo=UTC)
ONE_CLICK = {"List-Unsubscribe": "<https://example.com/u/" + "t0ken" * 40 + ">", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
LETTER = {"to": "Ann <ann@example.com>", "subject": "Grüße", "html": "<p>Hello <img src='cid:logo'></p>", "reply_to": "help@example.com", "headers": ONE_CLICK, "attachments": [{"name": "l.png", "base64": "aGk=", "cid": "logo"}]}


@pytest.fixture(scope="module")
def pem():
    """PKCS#8, as OpenSSL 3 writes it."""
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")
    return subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True, text=True).stdout


@pytest.fixture
def key(tmp_path, pem):
    path = tmp_path / "dkim.pem"
    path.touch(0o600)
    path.write_text(pem)
    return path


@pytest.fixture
def composer(tmp_path, key):
    def made(**environment):
        return Composer(config.load({"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>", "ASYNCSEND_DKIM_KEY": str(key), **environment}))

    return made


def job(**members):
    return Job(17, "email", "{}", uid="order-17", **{"created_at": BORN, **members})


def verified(raw, signer):
    """What dkimpy says of a message when this signer's record is what the DNS holds."""
    name, value = signer.record("example.com")
    return dkim.verify(raw, dnsfunc=lambda asked, timeout=5: value.encode() if asked.rstrip(b".") == name.encode() else None)


def signature(raw):
    header = re.match(rb"DKIM-Signature:((?:.|\r\n[ \t])*)\r\n", raw)[1]
    return {name.strip().decode(): re.sub(r"\s", "", value.decode()) for name, _, value in (part.partition(b"=") for part in header.split(b";"))}


@pytest.mark.parametrize("members", [LETTER, {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}, {"to": "ann@example.com", "subject": "x " * 600, "text": ".\n\n  trailing  \n\n\n"}])
def test_the_world_can_verify_every_mail_by_the_record_that_doctor_prints(composer, members):
    made = composer()
    _, _, raw = made(members, job())
    assert verified(raw, made.signer)
    assert not verified(raw.replace(b"Hello", b"Hallo").replace(b"trailing", b"tailing"), made.signer)
    assert not verified(raw.replace(b"To:", b"X:", 1), made.signer)


def test_what_is_signed_and_how(composer):
    made = composer()
    _, _, raw = made(LETTER, job())
    found = signature(raw)
    assert (found["a"], found["c"], found["d"], found["s"], found["t"]) == ("rsa-sha256", "relaxed/relaxed", "example.com", "asyncsend", str(int(BORN.timestamp())))
    assert "l" not in found
    names = found["h"].split(":")
    assert {"from", "to", "reply-to", "subject", "date", "message-id", "mime-version", "content-type", "list-unsubscribe", "list-unsubscribe-post"} <= set(names)
    assert names.count("from") == 2, "a From that somebody adds breaks the signature"
    assert not verified(raw.replace(b"\r\nFrom:", b"\r\nFrom: v@example.net\r\nFrom:", 1), made.signer)
    assert "list-unsubscribe" not in signature(made({"to": "ann@example.com", "subject": "Hi", "text": "x"}, job())[2])["h"]
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_every_attempt_carries_the_same_signature(composer, monkeypatch):
    first = composer()(LETTER, job())[2]
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert composer()(LETTER, job(attempts=4))[2] == first
    assert composer()(LETTER, job(created_at=BORN.replace(year=2027)))[2] != first


def test_a_row_without_a_birth_is_signed_without_a_time(composer):
    made = composer()
    raw = made(LETTER, job(created_at=None))[2]
    assert "t" not in signature(raw)
    assert verified(raw, made.signer)


def test_domain_and_selector_are_settings(composer):
    made = composer(ASYNCSEND_DKIM_DOMAIN="mail.example.org", ASYNCSEND_DKIM_SELECTOR="s2026")
    raw = made(LETTER, job())[2]
    assert (signature(raw)["d"], signature(raw)["s"]) == ("mail.example.org", "s2026")
    assert made.signer.record("ignored.example")[0] == "s2026._domainkey.mail.example.org"
    assert verified(raw, made.signer)


@pytest.mark.parametrize("name, value", [("ASYNCSEND_DKIM_DOMAIN", "a b"), ("ASYNCSEND_DKIM_SELECTOR", "a;b"), ("ASYNCSEND_DKIM_DOMAIN", "example.com; t=y"), ("ASYNCSEND_DKIM_SELECTOR", "a..b")])
def test_no_setting_can_add_a_tag(composer, name, value):
    with pytest.raises(ConfigurationError, match=name):
        composer(**{name: value})


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(key):
    os.chmod(key, 0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Signer(key, "s", "")


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_refused_by_name(key, text):
    key.write_text(text)
    with pytest.raises(ConfigurationError, match=r"dkim\.pem"):
        Signer(key, "s", "")


def test_a_key_with_windows_line_ends_signs_the_same(key, pem, composer):
    first = composer()(LETTER, job())[2]
    key.write_bytes(pem.replace("\n", "\r\n").encode())
    assert composer()(LETTER, job())[2] == first


def test_the_record_is_the_public_half_of_the_key(key, pem):
    from dkim.crypto import parse_pem_private_key, parse_public_key

    value = Signer(key, "s", "").record("example.com")[1]
    assert value.startswith("v=DKIM1; k=rsa; p=")
    found, private = parse_public_key(base64.b64decode(value.partition("p=")[2])), parse_pem_private_key(pem.encode())
    assert (found["modulus"], found["publicExponent"]) == (private["modulus"], private["publicExponent"])


def test_a_run_sends_it_signed_and_with_a_missing_key_nothing_but_waits(lite, smtp, key):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_DKIM_KEY": str(key)}
    lite.insert("email", json.dumps(LETTER))
    lite.quiet("run")
    assert verified(smtp.mails[0][2], Signer(key, "asyncsend", ""))
    assert 'asyncsend._domainkey.example.com. TXT "v=DKIM1; k=rsa; p=' in lite("doctor", code=None).stdout
    key.unlink()
    lite.insert("email", json.dumps(LETTER))
    lite.quiet("run")
    assert lite.rows("state, reason, attempts")[1] == ("ready", "configuration", 0)
    assert "ASYNCSEND_DKIM_KEY" in lite("doctor", code=1).stdout
