"""Unsubscribing by one click, as RFC 8058 has it: the headers as they go out, a real web server, the files of docs/unsubscribe.md."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import ROOT

from asyncsend import config
from asyncsend.answers import BadPayload, Snooze
from asyncsend.cli import cli
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.tasks.email import compose
from asyncsend.tasks.unsubscribe import opened, token
from asyncsend.web.unsubscribe import application

URL, SECRET = "https://shop.example.com/unsubscribe", "c4n4ry-c4n4ry-c4n4ry"
ONE_CLICK = b"List-Unsubscribe=One-Click"
DOCS = (ROOT / "docs" / "unsubscribe.md").read_text("utf-8")


def given_settings(home="/nowhere", **members):
    return config.load({"ASYNCSEND_HOME": home, "ASYNCSEND_EMAIL_FROM": "shop@example.com", "ASYNCSEND_UNSUBSCRIBE_URL": URL, "ASYNCSEND_UNSUBSCRIBE_SECRET": SECRET} | members)


def lines(settings, **members) -> dict[str, str]:
    """The headers as they stand on the wire, one line each, folded ones with their line ends."""
    payload = {"to": "ann@example.com", "subject": "Hi", "text": "x", "list": "news", **members}
    raw = compose(payload, Job(1, "email", "{}", uid="u", created_at=datetime(2026, 11, 3, tzinfo=UTC)), settings.email_from, Path("/nowhere"), settings)[2]
    head = raw.partition(b"\r\n\r\n")[0].decode("ascii")
    return dict(header.split(": ", 1) for header in re.split(r"\r\n(?![ \t])", head))


# ── the headers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mail_of_a_list_carries_both_headers_in_plain_lines_the_same_each_time():
    found = lines(given_settings(ASYNCSEND_UNSUBSCRIBE_MAILTO="bye@example.com"), to="Ann <ANN@example.com>")
    sign = token("news", "ann@example.com", SECRET)
    assert found["List-Unsubscribe"] == f"<{URL}/{sign}>, <mailto:bye@example.com?subject={sign}>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert found["Precedence"] == "bulk"
    assert found == lines(given_settings(ASYNCSEND_UNSUBSCRIBE_MAILTO="bye@example.com"), to="Ann <ANN@example.com>")
    assert "List-Unsubscribe" not in lines(given_settings(), list=None)


def test_the_longest_address_list_and_url_make_no_encoded_word_and_no_line_beyond_998():
    to = f"{'a' * 64}@{'.'.join(['b' * 46] * 4)}.c"
    url = "https://shop.example.com/" + "u" * 275
    found = lines(given_settings(ASYNCSEND_UNSUBSCRIBE_URL=url, ASYNCSEND_UNSUBSCRIBE_MAILTO=f"{'m' * 64}@{'n' * 60}.example"), to=to, list="l" * 64)
    value = found["List-Unsubscribe"]
    assert len(to) == 254
    assert "=?" not in value
    assert all(len("List-Unsubscribe: " + line) <= 998 for line in value.split("\r\n"))
    assert re.fullmatch(r"<https://\S+>,\s+<mailto:\S+>", value)
    assert opened(re.search(r"u/([^>]+)>", value)[1], (SECRET,)) == ("l" * 64, to)


@pytest.mark.parametrize(("url", "made"), [(URL + "/", URL + "/{}"), ("https://x.example/cgi-bin/u.cgi?token=", "https://x.example/cgi-bin/u.cgi?token={}")])
def test_the_token_follows_the_url_as_that_ends(url, made):
    assert lines(given_settings(ASYNCSEND_UNSUBSCRIBE_URL=url))["List-Unsubscribe"] == "<" + made.format(token("news", "ann@example.com", SECRET)) + ">"


@pytest.mark.parametrize(("missing", "named"), [("ASYNCSEND_UNSUBSCRIBE_URL", "ASYNCSEND_UNSUBSCRIBE_URL"), ("ASYNCSEND_UNSUBSCRIBE_SECRET", "ASYNCSEND_UNSUBSCRIBE_SECRET")])
def test_while_a_setting_is_missing_mails_of_a_list_wait_uncharged_and_status_says_so(lite, missing, named):
    lite.environment |= {"ASYNCSEND_UNSUBSCRIBE_URL": URL, "ASYNCSEND_UNSUBSCRIBE_SECRET": SECRET} | {missing: ""}
    with pytest.raises(Snooze, match=named):
        lines(given_settings(**{missing: ""}))
    if missing.endswith("URL"):
        lite.insert("email", json.dumps({"to": "ann@example.com", "subject": "Hi", "text": "x", "list": "news"}))
        lite.quiet("run")
        assert lite.rows("state, attempts, reason") == [("ready", 0, "no-unsubscribe")]
        assert "mails of a list need ASYNCSEND_UNSUBSCRIBE_URL" in CliRunner().invoke(cli, ["status"], env=lite.environment).output


def test_a_mail_that_brings_its_own_header_keeps_it_and_needs_no_setting():
    found = lines(given_settings(ASYNCSEND_UNSUBSCRIBE_URL=""), headers={"list-unsubscribe": "<https://other.example/>", "PRECEDENCE": "list"})
    assert (found["list-unsubscribe"], found["PRECEDENCE"]) == ("<https://other.example/>", "list")
    assert not {"List-Unsubscribe", "List-Unsubscribe-Post", "Precedence"} & set(found)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "ä", "x" * 65, "-a", "<b>", 7])
def test_a_list_that_could_be_none_is_refused_by_name(name):
    with pytest.raises(BadPayload, match="list"):
        lines(given_settings(), list=name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("URL", "http://shop.example.com/u"), ("URL", "https://shop.example.com/a b"), ("URL", "https://x.example/>,<"), ("URL", "https://x.example/" + "x" * 300), ("SECRET", "short"), ("SECRET", f"{SECRET} short"), ("MAILTO", "a@b.c?bcc=x"), ("MAILTO", "Ann <a@b.c>")],
)  # fmt: skip
def test_a_setting_that_could_not_work_is_refused_without_its_secret(name, value):
    with pytest.raises(ConfigurationError) as caught:
        given_settings(**{f"ASYNCSEND_UNSUBSCRIBE_{name}": value})
    assert SECRET not in str(caught.value)


# ── the token ────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", fullmatch=True), st.from_regex(r"[!-?A-~]{1,64}@[a-z0-9.-]{1,180}", fullmatch=True), st.data())
def test_only_what_was_signed_opens_and_not_with_a_letter_changed(of_list, address, data):
    sign = token(of_list, address, SECRET)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", sign), "a URL and a subject take it as it is"
    assert opened(sign, ("x" * 16, SECRET)) == (of_list, address.lower())
    assert opened(sign, ("x" * 16,)) is None
    assert opened(sign, ()) is None
    place = data.draw(st.integers(0, len(sign) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_."))
    forged = sign[:place] + letter + sign[place + 1 :]
    assert opened(forged, (SECRET,)) in (None, (of_list, address.lower())), "the last letter of each half has bits that mean nothing"
    other = token(of_list, "b" + address, SECRET)
    assert opened(other.split(".")[0] + "." + sign.split(".")[1], (SECRET,)) is None


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(site, monkeypatch):
    """A site with its settings, and the page on a real web server."""
    site.environment |= {"ASYNCSEND_UNSUBSCRIBE_URL": URL, "ASYNCSEND_UNSUBSCRIBE_SECRET": SECRET}
    for name, value in site.environment.items():
        if name.startswith("ASYNCSEND_"):
            monkeypatch.setenv(name, value)
    server = make_server("127.0.0.1", 0, application, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    site.page = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()


def ask(url: str, body: bytes | None = None, method: str | None = None, content_type: str = "application/x-www-form-urlencoded"):
    """Status, headers, text."""
    request = urllib.request.Request(url, body, {"Content-Type": content_type} if body is not None else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def suppressed(site) -> list[tuple]:
    store = site.store()
    try:
        return [one[:5] for one in store.suppressions()]
    finally:
        store.close()


def test_the_link_of_a_mail_that_went_out_unsubscribes_from_its_list_and_from_nothing_else(served, smtp):
    served.environment["ASYNCSEND_EMAIL_URL"] = smtp.url

    def send(**members):
        served.insert("email", json.dumps({"to": "Ann@example.com", "subject": "Hi", "text": "x", **members}))

    send(list="news")
    served.quiet("run")
    link = re.fullmatch(rf"<{URL}/(.*)>", message_from_bytes(smtp.mails[0][2], policy=policy.default)["List-Unsubscribe"])[1]
    for path in (f"/{link}", f"/unsubscribe/{link}", f"/?token={link}"):
        status, headers, text = ask(served.page + path)
        assert status == 200
        assert '<form method="post">' in text
        assert f'name="{ONE_CLICK.split(b"=")[0].decode()}" value="One-Click"' in text
        assert ask(served.page + path, method="HEAD")[::2] == (200, "")
    assert suppressed(served) == [], "who only looks unsubscribes nobody"
    for _ in range(2):
        status, headers, text = ask(f"{served.page}/{link}", ONE_CLICK)
        assert status == 200
        assert "no more mail of the list <b>news</b>" in text
        assert not {"Set-Cookie", "Location"} & set(headers)
    assert suppressed(served) == [("email", "ann@example.com", "news", "unsubscribed", "one click")]
    send(list="news")
    send(list="offers")
    send()
    served.quiet("run")
    assert served.rows("state") == [("done",), ("cancelled",), ("done",), ("done",)]
    assert len(smtp.mails) == 3


def test_a_form_in_parts_is_as_good_and_other_requests_do_nothing(served):
    link = f"{served.page}/{token('news', 'ann@example.com', SECRET)}"
    assert ask(link, b"")[0] == 400
    assert ask(link, b"a=b")[0] == 400
    assert ask(link, ONE_CLICK, "PUT")[0] == 405
    assert ask(link, method="DELETE")[0] == 405
    assert suppressed(served) == []
    parts = b'--B\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--B--\r\n'
    assert ask(link, parts, content_type="multipart/form-data; boundary=B")[0] == 200
    assert len(suppressed(served)) == 1


def test_a_forged_token_is_answered_alike_whoever_it_names(served):
    CliRunner().invoke(cli, ["suppress", "add", "known@example.com", "--list", "news"], env=served.environment)
    before = suppressed(served)
    answers = set()
    for address in ("known@example.com", "nobody@example.com"):
        for forged in (token("news", address, "another-secret-of-16"), token("news", address, SECRET)[:-8] + "AAAAAAAA", "x", "", address):
            answers |= {ask(f"{served.page}/{forged}", body)[::2] for body in (None, ONE_CLICK)}
    assert answers == {(404, "There is nothing here.\n")}
    assert suppressed(served) == before


def test_without_a_secret_nobody_is_answered_and_an_old_one_is_believed_while_it_stands_there(served, monkeypatch):
    link = f"{served.page}/{token('news', 'ann@example.com', SECRET)}"
    monkeypatch.setenv("ASYNCSEND_UNSUBSCRIBE_SECRET", "")
    assert ask(link, ONE_CLICK)[0] == 404
    monkeypatch.setenv("ASYNCSEND_UNSUBSCRIBE_SECRET", f"the-new-one-of-16-letters {SECRET}")
    assert ask(link, ONE_CLICK)[0] == 200


def file_of_docs(holding: str) -> str:
    [found] = [text for text in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if holding in text]
    return found


def test_the_cgi_file_of_the_docs_answers_as_it_stands(site, tmp_path):
    program = tmp_path / "unsubscribe.cgi"
    program.write_text(file_of_docs("CGIHandler").replace("/home/you/asyncsend-env/bin/python", sys.executable))
    program.chmod(0o755)
    environment = {
        **{name: value for name, value in site.environment.items() if name != "ASYNCSEND_EMAIL_FROM"}, "ASYNCSEND_UNSUBSCRIBE_SECRET": SECRET, "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "x",
        "SERVER_PORT": "443", "SCRIPT_NAME": "/cgi-bin/unsubscribe.cgi", "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(ONE_CLICK)), "CONTENT_TYPE": "application/x-www-form-urlencoded",
    }  # fmt: skip
    sign = token("news", "ann@example.com", SECRET)
    for where in ({"PATH_INFO": f"/{sign}"}, {"QUERY_STRING": f"token={sign}"}):
        done = subprocess.run([program], env=environment | where, input=ONE_CLICK, capture_output=True, check=True, cwd="/", timeout=60)
        assert (done.stdout.split(b"\r\n")[0], done.stderr) == (b"Status: 200 OK", b"")
    done = subprocess.run([program], env=environment | {"PATH_INFO": f"/{sign}x"}, input=ONE_CLICK, capture_output=True, check=True, cwd="/", timeout=60)
    assert done.stdout.startswith(b"Status: 404")
    assert suppressed(site) == [("email", "ann@example.com", "news", "unsubscribed", "one click")]


def test_the_passenger_file_of_the_docs_is_an_application(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", file_of_docs("expanduser") + "\nassert callable(application)\nprint(os.environ['ASYNCSEND_HOME'])"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/.asyncsend\n"


def test_the_secret_is_shown_nowhere(lite):
    lite.environment |= {"ASYNCSEND_UNSUBSCRIBE_URL": URL, "ASYNCSEND_UNSUBSCRIBE_SECRET": SECRET}
    lite.tasks(f"from asyncsend import task\n@task(max_attempts=1)\ndef talk():\n    raise ValueError({SECRET!r})\n")
    lite.insert("talk")
    lite.quiet("run")
    shown = CliRunner().invoke(cli, ["config", "--json"], env=lite.environment).output + lite.log() + str(lite.rows())
    assert SECRET not in shown
    assert '"value": "***"' in shown
