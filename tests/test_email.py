"""Mail: what is composed, and what each way out makes of it. The servers, the pipe and the folder are real."""

import base64
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.utils import format_datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import SmtpSink, eventually, missing

from asyncsend.answers import BadPayload, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.tasks import Tasks, attachments, email, replies
from asyncsend.tasks import smtp as smtp_module
from asyncsend.tasks.email import address, compose, open_transport
from asyncsend.tasks.maildir import Maildir
from asyncsend.tasks.sendmail import Sendmail
from asyncsend.tasks.smtp import Smtp

BORN = datetime(2026, 11, 3, 9, 15, 30, 123456, tzinfo=UTC)
HELLO = {"to": "ann@example.com", "subject": "Hi", "text": "Hello"}
FOLDER = Path("/nonexistent/attachments")


def job(number=17, uid="order-17", **members):
    return Job(number, "email", "{}", uid=uid, created_at=BORN, **members)


def composed(folder=FOLDER, row=None, **members):
    """Envelope sender, recipient and raw bytes."""
    return compose({**HELLO, **members}, row or job(), "Shop <shop@example.com>", folder)


def read(raw):
    return message_from_bytes(raw, policy=policy.default)


def header_lines(raw):
    return raw.partition(b"\r\n\r\n")[0].split(b"\r\n")


def refused(**members):
    """The sentence with which a payload is refused."""
    with pytest.raises(BadPayload) as caught:
        composed(**members)
    return str(caught.value)


# ── composing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mail_goes_to_its_one_recipient_and_says_what_the_payload_says():
    sender, recipient, raw = composed(**{"from": "Billing <billing@example.com>", "reply_to": "Help <help@example.com>", "headers": {"X-Shop": "1"}})
    message = read(raw)
    assert (sender, recipient) == ("billing@example.com", "ann@example.com")
    assert (message["To"], message["From"], message["Reply-To"]) == ("ann@example.com", "Billing <billing@example.com>", "Help <help@example.com>")
    assert (message["Subject"], message["X-Shop"], message["Auto-Submitted"]) == ("Hi", "1", "auto-generated")
    assert message.get_content() == "Hello\r\n" or message.get_content() == "Hello\n"


def test_auto_submitted_can_be_set_by_the_payload():
    assert read(composed(headers={"auto-submitted": "no"})[2]).get_all("Auto-Submitted") == ["no"]


BREAKS = ["\n", "\r", "\r\n", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f", "\x1b"]


@pytest.mark.parametrize("end", BREAKS, ids=ascii)
@pytest.mark.parametrize("member", ["to", "subject", "from", "reply_to"])
def test_a_line_break_in_a_member_is_refused_by_the_members_name(member, end):
    plain = {"to": "Ann <ann@example.com>", "subject": "Hi", "from": "Shop <shop@example.com>", "reply_to": "Help <help@example.com>"}[member]
    assert member in refused(**{member: f"A{end}Bcc: victim@example.net {plain}"})
    assert member in refused(**{member: f"{plain}{end}"})


@pytest.mark.parametrize("end", BREAKS, ids=ascii)
def test_a_line_break_in_a_header_or_an_attachment_name_is_refused_by_name(end):
    assert "X-Shop" in refused(headers={"X-Shop": f"1{end}Bcc: victim@example.net"})
    assert "headers" in refused(headers={f"X-Shop: 1{end}Bcc": "victim@example.net"})
    assert "attachments[0]: name" in refused(attachments=[{"name": f"a{end}Bcc: v@example.net", "base64": ""}])
    assert "attachments[0]: path" in refused(attachments=[{"name": "a", "path": f"a{end}b"}])


ENCODED = ["=?utf-8?q?a=0ABcc:_victim@example.net?=", "=?utf-8?b?" + base64.b64encode(b"a\r\nBcc: victim@example.net\r\n\r\nbody").decode() + "?=", "=?utf-8?q?a=0D=0AX:_y?="]


@pytest.mark.parametrize("hidden", ENCODED)
@pytest.mark.parametrize("member", ["subject", "to", "from", "reply_to", "headers"])
def test_a_line_break_hidden_in_an_encoded_word_never_becomes_a_header(member, hidden):
    value = {"headers": {"X-Shop": hidden}}.get(member, hidden if member == "subject" else f"{hidden} <ann@example.com>")
    try:
        raw = composed(**{member: value})[2]
    except BadPayload:
        return
    names = [line.partition(b":")[0].lower() for line in header_lines(raw) if line[:1] not in (b" ", b"\t")]
    assert b"bcc" not in names
    assert b"x" not in names
    assert raw.count(b"\r\n\r\n") == 1


@given(value=st.text(max_size=200))
def test_no_subject_and_no_name_adds_a_header_or_is_an_error_of_another_kind(value):
    plain = [line.partition(b":")[0] for line in header_lines(composed(headers={"X-A": "a"})[2])]
    for members in ({"subject": value, "headers": {"X-A": "a"}}, {"headers": {"X-A": value}}, {"to": f'"{value}" <ann@example.com>', "headers": {"X-A": "a"}}):
        try:
            raw = composed(**members)[2]
        except BadPayload:
            continue
        except UnicodeEncodeError:
            assert re.search("[\ud800-\udfff]", value)  # execute refuses these before
            continue
        assert [line.partition(b":")[0] for line in header_lines(raw) if line[:1] not in (b" ", b"\t")] == plain


@pytest.mark.parametrize(
    "to",
    ["ann@example.com, bob@example.com", "ann@example.com;bob@example.com", "ann@example.com bob@example.com", "Ann <ann@example.com>, Bob <bob@example.com>",
     "ann@example.com, Bob <bob@example.com>", "<ann@example.com> <bob@example.com>", "ann@bob@example.com", "group: ann@example.com, bob@example.com;"],
)  # fmt: skip
def test_two_recipients_are_refused_in_to(to):
    assert refused(to=to).startswith("to ")


BAD = ["", " ", "ann", "@example.com", "ann@", "ann@@example.com", "ann@example..com", "ann@.example.com", "ann@example.com.", "ann..b@example.com", ".ann@example.com", "ann.@example.com",
       "ann@exa mple.com", "an n@example.com", "ann@-example.com", "ann@example-.com", "Ann <ann@example.com", "Ann ann@example.com>", "ann@[127.0.0.1]", "ann@exam_ple!.com", "@a,@b:ann@example.com",
       "a" * 65 + "@example.com", "ann@" + "a" * 64 + ".com", "ann@" + ".".join(["a" * 60] * 5), "änn@example.com", "ann@\u200b.example", "ann@xn--.example\u3002", '"ann b"@example.com', "<>", "ann@<example.com>"]  # fmt: skip


@pytest.mark.parametrize("value", BAD, ids=ascii)
@pytest.mark.parametrize("member", ["to", "from", "reply_to"])
def test_what_is_no_address_is_refused_and_the_member_named(member, value):
    assert member in refused(**{member: value or "@"})  # an empty from or reply_to is as good as none


@pytest.mark.parametrize("value", [17, ["ann@example.com"], {"a": 1}, True])
@pytest.mark.parametrize("member", ["to", "subject", "text", "html", "from", "reply_to"])
def test_a_member_that_is_no_text_is_refused_by_name(member, value):
    assert refused(**{member: value}).startswith(f"{member} must be text")


@pytest.mark.parametrize(
    "value, name, spec",
    [("ann@example.com", "", "ann@example.com"), (" ann@example.com ", "", "ann@example.com"), ("<ann@example.com>", "", "ann@example.com"), ("Ann Lee <ann+x@example.com>", "Ann Lee", "ann+x@example.com"),
     ('"Lee, Ann" <ann@example.com>', "Lee, Ann", "ann@example.com"), ('"Ann \\"A\\" Lee" <ann@example.com>', 'Ann "A" Lee', "ann@example.com"), ("Änn Ö <ann@example.com>", "Änn Ö", "ann@example.com"),
     ("root@localhost", "", "root@localhost"), ("o'hara@example.com", "", "o'hara@example.com")],
)  # fmt: skip
def test_an_address_is_read_with_or_without_a_name(value, name, spec):
    found = address("to", value)
    assert (found.display_name, found.addr_spec) == (name, spec)


@pytest.mark.parametrize("name", ["Müller, Ann (Shop); 100%", 'O\'Hara "Ann"', '"', "back\\slash", "Ann, Lee", "株式会社ショップ" * 12, "Ann, " * 60, "😀" * 40])
def test_any_name_comes_out_of_the_wire_as_it_went_in(name):
    raw = composed(to=str(Address(name, "ann", "example.com")) if name.isascii() else f'"{name}" <ann@example.com>')[2]
    line = re.search(rb"\r\nTo: (.*?) <ann@example\.com>\r\n\S", raw, re.DOTALL)[1].decode("ascii")
    if name.isascii():
        assert [one.display_name for one in read(raw)["To"].addresses] == [name]
    else:
        # Python's newer parser puts a space between two encoded words of a name (against RFC 2047 section 6.2); the older one does not.
        assert str(make_header(decode_header(line))) == name


@pytest.mark.parametrize("member", ["subject", "to"])
def test_a_missing_or_blank_member_is_named(member):
    assert refused(**{member: None}) == f"{member} is missing"
    assert member in refused(**{member: "  "})


def test_a_mail_without_text_and_html_is_refused():
    assert "text and html are both missing" in refused(text=None)


def test_without_any_sender_the_setting_is_named():
    with pytest.raises(BadPayload, match="ASYNCSEND_EMAIL_FROM"):
        compose(HELLO, job(), "", FOLDER)


@pytest.mark.parametrize("name", ["bcc", "cc", "body", "To", "attachment", "\x1b[31m"])
def test_an_unknown_member_is_refused_by_name(name):
    sentence = refused(**{name: "x"})
    assert "unknown member" in sentence
    assert sentence.isprintable()
    assert name in sentence or name == "\x1b[31m"


@pytest.mark.parametrize("name", ["From", "TO", "cc", "Bcc", "Subject", "Date", "Message-ID", "Sender", "Return-Path", "Received", "DKIM-Signature", "Content-Type", "MIME-Version", "Content-Transfer-Encoding"])
def test_a_header_that_is_ours_cannot_be_given(name):
    assert name in refused(headers={name: "x"})


@pytest.mark.parametrize("headers", [[], "X: 1", 1, {"": "x"}, {"X Y": "1"}, {"X:": "1"}, {"Ä": "1"}, {"X": 1}, {"X": None}, {"X": ["1"]}, {"x" * 77: "1"}])
def test_headers_that_are_none_are_refused(headers):
    assert refused(headers=headers).startswith("headers")


@pytest.mark.parametrize("name", ["Resent-Date", "Resent-To", "Resent-From", "Content-ID", "Content-Disposition-X", "References", "In-Reply-To", "List-ID", "Orig-Date"])
def test_rubbish_in_a_structured_header_is_sent_or_refused_and_nothing_else(name):
    for value in ("", " ", "<", "<>", ";;", "a@", "@", '"', "(", "[", "=?utf-8?q?", "=?x?y?z?=", "a:b;", "\t"):
        try:
            composed(headers={name: value})
        except BadPayload as error:
            assert name in str(error)


def test_a_domain_in_any_script_is_ascii_in_envelope_and_headers():
    sender, recipient, raw = composed(to="Jürgen <j@bücher.example>", **{"from": "info@例え.jp"})
    assert (sender, recipient) == ("info@xn--r8jz45g.jp", "j@xn--bcher-kva.example")
    assert raw.isascii()
    assert b"<j@xn--bcher-kva.example>" in raw
    assert re.search(rb"\r\nMessage-ID: <[!-~]+@xn--r8jz45g\.jp>\r\n", raw)


# ── the same on every attempt ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("uid", ["order-17", "with space and ü", None])
def test_message_id_and_date_are_the_same_on_every_attempt_and_differ_between_rows(uid):
    def frame(row):
        message = read(composed(row=row)[2])
        return message["Message-ID"], message["Date"]

    first = frame(job(uid=uid))
    assert first == frame(job(uid=uid, attempts=5, crashes=2, token="other", run_id=9, run_at=BORN))
    assert first[1] == format_datetime(BORN)
    assert re.fullmatch(r"<[A-Za-z0-9_-]+@example\.com>", first[0])
    assert first[0] != frame(job(18, uid=None if uid is None else uid + "x"))[0]


def test_a_row_id_that_is_used_again_gives_another_message_id():
    later = Job(17, "email", "{}", created_at=BORN.replace(year=2027))
    assert read(composed(row=job(uid=None))[2])["Message-ID"] != read(composed(row=later)[2])["Message-ID"]


def test_the_whole_message_but_for_mime_boundaries_is_the_same_on_every_attempt():
    assert composed(row=job())[2] == composed(row=job(attempts=3))[2]


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


SPOILT = ["", " ", "  ", "\t", ".", ",", ";", ":", "<", ">", "(", ")", '"', "\\", "=?", "?=", "=?utf-8?q?a?=", "=?utf-8?q?=41=0Ab?=", "@", "ü", "=", "_", "~", "x" * 80, "x" * 899, " x" * 500, "<i@d>, <j@d>", "3 Nov 2026"]
ENDS = ["", "\n", "\r", "\r\n", ".", "From x", "\n.\n", "\t", " ", "x" * 999, "\x0b", "\x0c", "\x00", "\x1c", "=", "ü", "\x85"]
NAMES = ["X-Shop", "x-a", "List-Unsubscribe", "Precedence", "References", "Content-ID", "Resent-Date", "Resent-To", "Auto-Submitted", "X-" + "n" * 70]


@pytest.mark.parametrize("piece", SPOILT, ids=lambda piece: ascii(piece)[:30])
def test_what_is_written_without_a_parser_is_to_the_byte_what_the_parser_writes(piece):
    plain = [{"subject": "Your order"}, {"to": "Ann Lee <ann@example.com>"}, {"headers": {"X-Shop": "1"}}, *({"text": f"Hello{end}{after}"} for end in ENDS for after in ("", " you"))] if piece == "" else []
    for value in (f"a{piece}b", f"a {piece}"):
        spoilt = [{"subject": value}, {"to": f"{value} <ann@example.com>"}, {"to": f'"{value}" <ann@example.com>'}, {"reply_to": f"{value} <a@b.example>"}, *({"headers": {name: value}} for name in NAMES)]
        for members in [*plain, *spoilt]:

            def outcome(members=members):
                try:
                    return composed(**members)
                except BadPayload as error:
                    return str(error)

            quick = outcome()
            with patch.object(email, "_plainly", lambda lines, words: None):
                assert outcome() == quick, members


def test_a_plain_mail_needs_no_parser():
    with patch.object(email, "_by_parts", None):
        assert read(composed(to="Ann Lee <ann@example.com>", headers={"X-Shop": "1", "List-Unsubscribe": "<https://example.com/u>"})[2])["To"] == "Ann Lee <ann@example.com>"


def test_a_long_unsubscribe_header_is_one_plain_line():
    value = "<https://example.com/unsubscribe/" + "t0ken" * 80 + ">, <mailto:unsubscribe@example.com?subject=" + "x" * 300 + ">"
    raw = composed(headers={"List-Unsubscribe": value, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"})[2]
    assert b"\r\nList-Unsubscribe: " + value.encode() + b"\r\n" in raw
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in raw


def test_a_header_longer_than_a_line_is_folded_between_its_words_and_never_encoded():
    addresses = [f"<https://example.com/{'abc' * 200}/{number}>" for number in range(3)]
    raw = composed(headers={"List-Unsubscribe": ", ".join(addresses)})[2]
    assert b"=?" not in raw
    assert read(raw)["List-Unsubscribe"] == ", ".join(addresses)


def test_a_word_that_fits_into_no_line_is_refused_by_the_headers_name():
    assert "List-Unsubscribe" in refused(headers={"List-Unsubscribe": f"<https://example.com/{'x' * 1500}>"})


LONG = {
    "subject of one word": {"subject": "x" * 5000},
    "subject of many words": {"subject": "word " * 2000},
    "emoji": {"subject": "😀" * 1000},
    "mixed": {"subject": "größer " * 500},
    "ascii text in one line": {"text": "x" * 100_000},
    "text in one line": {"text": "ü" * 100_000},
    "html in one line": {"html": "<p>é</p>" * 20_000},
    "header": {"headers": {"X-Long": "ünd so weiter " * 500}},
    "header of short words": {"headers": {"X-Long": "and so on " * 500}},
    "references": {"headers": {"References": " ".join(f"<{number}@example.com>" for number in range(500))}},
    "name": {"to": '"' + "Änn " * 500 + '" <ann@example.com>'},
    "ascii name": {"to": '"' + "Ann " * 500 + '" <ann@example.com>'},
    "attachment": {"attachments": [{"name": "ü" * 400 + ".pdf", "base64": base64.b64encode(os.urandom(50_000)).decode()}]},
    "attached text": {"attachments": [{"name": "a.txt", "base64": base64.b64encode(b"x" * 50_000).decode()}]},
    "attached mail": {"attachments": [{"name": "a.eml", "base64": base64.b64encode(b"Subject: " + b"x" * 50_000).decode()}]},
}


@pytest.mark.parametrize("members", LONG.values(), ids=LONG.keys())
def test_every_line_on_the_wire_is_ascii_crlf_and_at_most_998_bytes(members):
    raw = composed(**members)[2]
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert all(len(word) <= 75 for word in re.findall(rb"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=", raw.partition(b"\r\n\r\n")[0])), "RFC 2047 section 2"


@pytest.mark.parametrize("subject", ["Your order 🎁 is on its way", "🎁", "Größe: 42 – 100 %", "a" * 70 + "é" + "b" * 70, "日本語の件名" * 30, "tab\there", "=?x"])
def test_a_subject_comes_out_of_the_wire_as_it_went_in(subject):
    assert read(composed(subject=subject)[2])["Subject"] == subject


@pytest.mark.parametrize("words", ["Grüße", "line\nline\n", "line\r\nline\r\n", "old mac\rline", ".\n..\n.x\n", "From me\n", "x" * 3000, "ü" * 3000, "", " \n", "\u2028", "tab\t"])
def test_a_text_comes_out_of_the_wire_as_it_went_in(words):
    found = read(composed(text=words)[2]).get_content()
    wanted = words.replace("\r\n", "\n").replace("\r", "\n")
    assert found.replace("\r\n", "\n").rstrip("\n") == wanted.rstrip("\n")


def test_text_and_html_are_alternatives_the_plainest_first():
    message = read(composed(text="Plain ü", html="<p>Rich ü</p>")[2])
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert [part.get_content().strip() for part in message.iter_parts()] == ["Plain ü", "<p>Rich ü</p>"]


def test_html_alone_gets_a_text_made_of_it():
    message = read(composed(text=None, html="<p>Grüße, <a href='https://example.com/'>here</a></p>")[2])
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert message.get_body(("plain",)).get_content().strip() == "Grüße, here (https://example.com/)"


def test_html_in_which_there_is_nothing_to_read_is_html_alone():
    assert read(composed(text=None, html="<img src='cid:x'>")[2]).get_content_type() == "text/html"


# ── attachments ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "attachments"
    (made / "2026").mkdir(parents=True)
    (made / "2026" / "invoice.pdf").write_bytes(b"%PDF-1.7 \x00\xff")
    (tmp_path / "secret.env").write_text("PASSWORD=1")
    return made


def attached(folder, *attachments, **members):
    return list(read(composed(folder, attachments=list(attachments), **members)[2]).iter_attachments())


def test_attachments_by_base64_and_by_path_arrive_byte_for_byte(folder):
    first, second = attached(
        folder, {"name": "Rechnung Größe.pdf", "path": "2026/invoice.pdf"}, {"name": "data.bin", "base64": "AAEC\r\n/w=="}, html="<p>x</p>"
    )  # fmt: skip
    assert (first.get_filename(), first.get_content_type(), first.get_content()) == ("Rechnung Größe.pdf", "application/pdf", b"%PDF-1.7 \x00\xff")
    assert (second.get_filename(), second.get_content_type(), second.get_content()) == ("data.bin", "application/octet-stream", b"\x00\x01\x02\xff")
    assert first["Content-Disposition"].content_disposition == "attachment"


@pytest.mark.parametrize("name", ["a.eml", "a.tar.gz", "a.mht", "noextension", "data:a/b/c;,", "a.b/c"])
def test_an_attachment_of_any_name_is_typed_so_that_it_survives(folder, name):
    (part,) = attached(folder, {"name": name, "base64": base64.b64encode(b"Subject: x\r\n\r\ny\x00").decode()})
    assert part.get_content_maintype() not in ("message", "multipart")
    assert part["Content-Transfer-Encoding"] == "base64"
    assert part.get_content() == b"Subject: x\r\n\r\ny\x00"


@pytest.mark.parametrize("path", ["../secret.env", "2026/../../secret.env", "/etc/passwd", "link", "linked/secret.env", "../attachments-of-others/x", "..", "~/x/../../../etc/passwd"])
def test_a_path_out_of_the_attachments_folder_is_refused(folder, path):
    (folder / "link").symlink_to(folder.parent / "secret.env")
    (folder / "linked").symlink_to(folder.parent)
    (folder.parent / "attachments-of-others").mkdir()
    (folder.parent / "attachments-of-others" / "x").write_text("x")
    sentence = refused(folder=folder, attachments=[{"name": "a", "path": path}])
    assert "attachments[0]" in sentence
    assert "ASYNCSEND_ATTACHMENTS" in sentence


def test_a_symlink_inside_the_folder_is_followed(folder):
    (folder / "latest.pdf").symlink_to("2026/invoice.pdf")
    assert attached(folder, {"name": "a.pdf", "path": "latest.pdf"})[0].get_content().startswith(b"%PDF")


@pytest.mark.parametrize("path", ["2026/later.pdf", "2026"])
def test_a_file_that_cannot_be_read_yet_is_a_failed_attempt_not_a_dead_job(folder, path):
    with pytest.raises(Retry, match=r"attachments\[0\]") as caught:
        composed(folder, attachments=[{"name": "a.pdf", "path": path}])
    assert caught.value.reason == "no-attachment"


def test_a_missing_attachments_folder_is_a_failed_attempt_too():
    with pytest.raises(Retry):
        composed(attachments=[{"name": "a", "path": "b"}])


@pytest.mark.parametrize(
    "attachments",
    ["a.pdf", [1], {"name": "a"}, [{"name": "a"}], [{"base64": ""}], [{"name": "", "base64": ""}], [{"name": "a", "base64": "", "path": "b"}], [{"name": "a", "base64": "%%%"}],
     [{"name": "a", "base64": "abc"}], [{"name": "a", "base64": "ü"}], [{"name": "a", "url": "http://x"}], [{"name": "a", "base64": 7}], [{"name": 7, "base64": ""}]],
)  # fmt: skip
def test_attachments_of_another_form_are_refused(attachments):
    assert refused(attachments=attachments).startswith("attachments")


def test_a_message_beyond_the_common_limit_of_hosts_is_refused(folder, monkeypatch):
    for room in (email, attachments):
        monkeypatch.setattr(room, "MAX_MESSAGE_BYTES", 5000)
    (folder / "big").write_bytes(b"x" * 5001)
    assert "larger than 5,000 bytes" in refused(folder=folder, attachments=[{"name": "a", "path": "big"}])
    assert "the limit is 5,000" in refused(attachments=[{"name": "a", "base64": base64.b64encode(b"x" * 4500).decode()}])


# ── transports by URL ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["", "mail", "http://x", "maildir://", "pigeon://user:s3cret@host", "SMTP//x"])
def test_a_url_of_no_known_kind_is_a_configuration_error_without_its_password(url):
    with pytest.raises(ConfigurationError, match="ASYNCSEND_EMAIL_URL") as caught:
        open_transport(url)
    assert "s3cret" not in str(caught.value)


def test_each_url_opens_its_transport_without_connecting(tmp_path):
    assert isinstance(open_transport("smtp://127.0.0.1:1"), Smtp)
    assert open_transport("sendmail:///usr/lib/sendmail").program == "/usr/lib/sendmail"
    assert open_transport("sendmail:").program == "/usr/sbin/sendmail"
    assert open_transport(f"maildir://{tmp_path}/out%20box").folder == tmp_path / "out box"


# ── maildir ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_job_twice_is_one_file_that_only_its_owner_reads(tmp_path):
    box = Maildir(tmp_path / "outbox")
    for message in (b"first", b"again"):
        box.send("a@example.com", "b@example.com", message, "job-17")
    box.send("a@example.com", "b@example.com", b"other", "job/../18")
    files = sorted((tmp_path / "outbox" / "new").iterdir())
    assert [file.read_bytes() for file in files] == [b"again", b"other"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "outbox" / "new").stat().st_mode) == 0o700
    assert list((tmp_path / "outbox" / "tmp").iterdir()) == []


def test_an_outbox_that_cannot_be_written_is_a_failed_attempt(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Retry, match="outbox") as caught:
        Maildir(tmp_path / "file").send("a@b.c", "d@e.f", b"x", "k")
    assert caught.value.reason == "outbox"


def test_the_default_of_a_new_site_is_the_local_outbox(lite):
    tasks = Tasks(lite.settings())
    tasks.find("email").function(HELLO, job())
    (file,) = (lite.home / "outbox" / "new").iterdir()
    assert read(file.read_bytes())["To"] == "ann@example.com"
    tasks.close()


# ── sendmail ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def sendmail(tmp_path):
    """A program that notes its arguments and its input, and exits as it is told."""

    def made(code, says=""):
        program = tmp_path / "send mail"
        program.write_text(f'#!/bin/sh\nfor a; do printf "%s\\n" "$a"; done > "{tmp_path}/argv"\ncat > "{tmp_path}/stdin"\necho "{says}" >&2\nexit {code}\n')
        program.chmod(0o755)
        return Sendmail(str(program))

    return made


def test_sendmail_gets_the_message_on_stdin_and_the_addresses_as_arguments(sendmail, tmp_path):
    message = composed(text="Hello\n.\nworld\n")[2]
    assert sendmail(0).send("shop@example.com", "ann@example.com", message, "k") is None
    assert (tmp_path / "argv").read_text().splitlines() == ["-i", "-f", "shop@example.com", "--", "ann@example.com"]
    assert (tmp_path / "stdin").read_bytes() == message.replace(b"\r\n", b"\n")


def test_an_address_never_becomes_an_option_or_a_shell_word(sendmail, tmp_path):
    sendmail(0).send("-X/tmp/x@example.com", "-OQueueDirectory=/tmp;id@example.com", b"x\r\n", "k")
    assert (tmp_path / "argv").read_text().splitlines() == ["-i", "-f", "-X/tmp/x@example.com", "--", "-OQueueDirectory=/tmp;id@example.com"]


@pytest.mark.parametrize("code, kind", [(75, Retry), (1, Retry), (70, Retry), (71, Retry), (127, Retry), (67, Refused), (65, Refused), (68, Refused)])
def test_the_exit_code_of_sendmail_decides(sendmail, code, kind):
    with pytest.raises(kind, match="mailbox unavailable") as caught:
        sendmail(code, "mailbox unavailable").send("a@example.com", "b@example.com", b"x" * 1_000_000, "k")
    assert caught.value.about == ({"failed": True} if code in (os.EX_NOUSER, os.EX_NOHOST) else None), "an address that is refused is what hosts count"


def test_a_sendmail_that_is_not_there_is_a_failed_attempt_that_names_the_setting(tmp_path):
    with pytest.raises(Retry, match="ASYNCSEND_EMAIL_URL"):
        Sendmail(str(tmp_path / "nowhere")).send("a@b.c", "d@e.f", b"x", "k")


@pytest.fixture
def smtp(smtp):
    smtp.connections = 0  # the controller makes one of its own when it starts
    return smtp


# ── SMTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Steps:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def out(smtp, steps):
    transport = Smtp(smtp.url, steps)
    yield transport
    transport.close()


def send(transport, subject="Hi", **members):
    sender, recipient, message = composed(subject=subject, **members)
    return transport.send(sender, recipient, message, "key")


def answer(kind, transport, **members):
    with pytest.raises(kind) as caught:
        send(transport, **members)
    assert type(caught.value) is kind
    return caught.value


def subjects(smtp):
    return [message["Subject"] for message in smtp.messages()]


def test_many_mails_go_over_one_connection_in_order(smtp, out):
    for number in range(20):
        assert send(out, f"mail {number}") is None
    assert subjects(smtp) == [f"mail {number}" for number in range(20)]
    assert smtp.connections == 1
    assert smtp.mails[0][:2] == ("shop@example.com", "ann@example.com")


def test_a_connection_is_renewed_before_the_server_tires_of_it(smtp, out, monkeypatch):
    monkeypatch.setattr(smtp_module, "MAX_PER_CONNECTION", 3)
    for number in range(7):
        if number == 1:
            smtp.replies["RCPT"] = ["550 5.1.1 no such user"]  # a server counts these, too
            answer(Refused, out)
        else:
            send(out, f"mail {number}")
    assert (len(smtp.mails), smtp.connections) == (6, 3)


def test_a_connection_that_idled_is_renewed_before_it_is_used(smtp, out, steps):
    send(out, "one")
    steps.now += smtp_module.MAX_IDLE + 1
    send(out, "two")
    assert (subjects(smtp), smtp.connections) == (["one", "two"], 2)


@pytest.mark.parametrize("words", [".", "..", ".\n.\n.", "a\n.\nb", ".first\n..second\n...third", "\n.\n\nQUIT\n"])
def test_lines_of_dots_arrive_as_they_were(smtp, out, words):
    send(out, text=words)
    send(out, "next")
    assert smtp.messages()[0].get_content().replace("\r\n", "\n").rstrip("\n") == words.rstrip("\n")
    assert len(smtp.mails) == 2


def test_the_bytes_that_arrive_are_the_bytes_that_were_composed(smtp, out):
    sender, recipient, message = composed(text="Grüße 🎁\n.\n", html="<p>.</p>\n.", attachments=[{"name": "ü.bin", "base64": base64.b64encode(os.urandom(5000)).decode()}])
    out.send(sender, recipient, message, "k")
    assert smtp.mails == [(sender, recipient, message)]


def test_a_refused_recipient_is_dead_and_the_next_mail_goes_over_the_same_connection(smtp, out):
    smtp.replies["RCPT"] = ["550 5.1.1 <ann@example.com>: Recipient address rejected: User unknown"]
    refusal = answer(Refused, out)
    assert refusal.reason == "smtp-550"
    assert "User unknown" in str(refusal)
    send(out, "next")
    assert (subjects(smtp), smtp.connections) == (["next"], 1)


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("reply", ["450 4.2.0 Greylisted, see http://postgrey.example", "451 4.3.0 local error", "452 4.3.1 insufficient system storage"])
def test_a_reply_of_the_four_hundreds_is_a_failed_attempt_at_any_step(smtp, out, step, reply):
    smtp.replies[step] = [reply]
    assert answer(Retry, out).reason == f"smtp-{reply[:3]}"
    send(out, "next")
    assert (subjects(smtp), smtp.connections) == (["next"], 1)


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
def test_a_reply_of_the_five_hundreds_is_dead_at_any_step(smtp, out, step):
    smtp.replies[step] = ["554 5.7.1 Spam message rejected"]
    assert answer(Refused, out).reason == "smtp-554"
    send(out, "next")
    assert subjects(smtp) == ["next"]


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
def test_one_421_before_the_data_is_answered_by_a_new_connection_and_the_mail_goes(smtp, out, step):
    send(out, "one")
    smtp.replies[step] = ["421 4.7.0 too many messages in this connection"]
    assert send(out, "two") is None
    assert (subjects(smtp), smtp.connections) == (["one", "two"], 2)


def test_a_second_421_snoozes_the_mail_and_asks_for_a_minute(smtp, out):
    smtp.replies["MAIL"] = ["421 come back later", "421 come back later"]
    away = answer(Snooze, out)
    assert (away.reason, away.about) == ("smtp-closed", {"troubled": True, "leave_alone": smtp_module.CONNECT_PAUSE})
    assert smtp.connections == 2
    send(out, "later")
    assert subjects(smtp) == ["later"]


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
def test_a_connection_cut_before_the_data_is_opened_again_and_the_mail_goes_once(smtp, out, step):
    send(out, "one")
    smtp.replies[step] = ["cut"]
    send(out, "two")
    assert (subjects(smtp), smtp.connections) == (["one", "two"], 2)


def test_a_server_that_closed_the_idle_connection_is_connected_to_again(smtp, out):
    send(out, "one")
    server_side = out._smtp.sock
    smtp.controller.loop.call_soon_threadsafe(lambda: [transport.abort() for transport in transports(smtp)])
    eventually(lambda: closed(server_side), what="the server's close")
    send(out, "two")
    assert (subjects(smtp), smtp.connections) == (["one", "two"], 2)


def transports(smtp):
    """The server's side of all open connections."""
    import gc

    from aiosmtpd.smtp import SMTP

    return [one.transport for one in gc.get_objects() if isinstance(one, SMTP) and one.transport is not None and one.transport.get_extra_info("sockname")[1] == smtp.port]


def closed(sock):
    """Whether the other side has ended this connection."""
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(60)


@pytest.mark.parametrize("after_dot, taken", [("cut", 1), ("swallow", 0)])
def test_a_cut_after_the_final_dot_is_unknown_whatever_became_of_the_mail(smtp, out, after_dot, taken):
    smtp.after_dot = after_dot
    assert "final dot" in str(answer(Unknown, out))
    assert len(smtp.mails) == taken
    smtp.after_dot = "accept"
    send(out, "next")
    assert smtp.connections == 2


LIMITS = [
    "550 Domain example.com has exceeded the max emails per hour (8/8 (100%)) allowed.  Message discarded.",
    "550 Domain example.com has exceeded the max defers and failures per hour (5/5 (100%)) allowed.  Message discarded.",
    "550 5.7.1 Policy Rejection - Quota Exceeded",
    "454 4.7.0 Throttling failure: Maximum sending rate exceeded",
    "454 Throttling failure: Daily message quota exceeded.",
    "554 5.7.0 Your message could not be sent. The limit on the number of allowed outgoing messages was exceeded. Try again later.",
    "550 5.4.5 Daily user sending limit exceeded",
    "554 5.5.1 too many mails, please slow down",
]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("reply", LIMITS)
def test_a_limit_of_the_host_snoozes_the_mail_and_stops_the_channel(smtp, out, step, reply):
    smtp.replies[step] = [reply]
    stopped = answer(Snooze, out)
    assert stopped.reason == "smtp-limit"
    assert stopped.about["leave_alone"] == stopped.delay - replies.AGAIN, "another mail tries the channel first"
    assert smtp.mails == []
    send(out, "later")
    assert (subjects(smtp), smtp.connections) == (["later"], 1)


@pytest.mark.parametrize(
    "reply, kind, reason",
    [
        ("552 5.2.2 The email account that you tried to reach is over quota", Retry, "mailbox-full"),
        ("452 4.2.2 Mailbox full", Retry, "mailbox-full"),
        ("550 Mailbox quota exceeded", Retry, "mailbox-full"),
        ("550 5.1.1 user is over quota", Retry, "mailbox-full"),
        ("550 Mailbox is full / Blocks limit exceeded / Inode limit exceeded", Retry, "mailbox-full"),
        ("552 message size exceeds fixed maximum message size", Refused, "smtp-552"),
        ("552 5.3.4 Message size exceeds fixed limit", Refused, "smtp-552"),
        ("554 5.3.4 Message too big", Refused, "smtp-554"),
        ("523 message too large, limit 10 MB", Refused, "smtp-523"),
        ("550 5.1.1 <quota-limit@rate.example>: Recipient address rejected", Refused, "smtp-550"),
        ("550 5.1.1 <ann@relay.example.com>: User unknown", Refused, "smtp-550"),
        ("450 4.1.2 ann@relay.example.com: Domain not found", Retry, "smtp-450"),
    ],
)
def test_a_refusal_of_one_mail_never_stops_the_channel(smtp, out, reply, kind, reason):
    smtp.replies["RCPT"] = [reply]
    refused = answer(kind, out)
    assert (refused.reason, refused.about) == (reason, {"failed": True})
    send(out, "next")
    assert (subjects(smtp), smtp.connections) == (["next"], 1)


@pytest.mark.parametrize(
    "reply",
    ["554 5.7.1 <ann@example.net>: Relay access denied", "550 relay not permitted", "550 5.7.1 Relaying denied", "550 Unable to relay for ann@example.net", "530 5.7.0 Authentication required", "535 5.7.8 bad credentials"],
)
def test_a_refusal_of_our_account_snoozes_the_mail_and_breaks_the_channel(smtp, out, reply):
    smtp.replies["RCPT"] = [reply]
    refused = answer(Snooze, out)
    assert (refused.reason, refused.about) == ("smtp-login", {"troubled": True, "broken": True})
    assert smtp.mails == []


def test_a_refused_connection_is_a_failed_attempt_that_used_up_nothing(steps):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    transport = Smtp(f"smtp://127.0.0.1:{port}", steps)
    first = answer(Retry, transport)
    assert first.reason == "smtp-connect"
    assert f"127.0.0.1:{port}" in str(first)
    assert first.about == {"troubled": True, "unsent": True, "leave_alone": smtp_module.CONNECT_PAUSE}


def test_a_name_that_nobody_knows_is_a_failed_attempt_and_the_next_address_of_one_that_is_known_is_tried(smtp, monkeypatch):
    real = socket.getaddrinfo
    answers = {"none.example": [], "two.example": ["127.0.0.9", "127.0.0.1"]}

    def getaddrinfo(host, port, *arguments, **options):
        if answers.get(host) == []:
            raise socket.gaierror(-2, "Name or service not known")
        return [entry for address in answers.get(host, [host]) for entry in real(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(Retry, match="not known") as caught:
        send(Smtp("smtp://none.example"))
    assert caught.value.reason == "smtp-connect"
    known = Smtp(f"smtp://two.example:{smtp.port}")
    send(known)
    known.close()
    assert len(smtp.mails) == 1


@pytest.mark.parametrize("greeting", [b"554 no service here\r\n", b"421 busy\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"220 " + b"x" * 10000 + b"\r\n"])
def test_whatever_greets_us_wrongly_is_a_failed_attempt(greeting, steps):
    with talking(greeting) as port:
        answer(Retry, Smtp(f"smtp://127.0.0.1:{port}", steps))


@pytest.mark.parametrize("final", [b"rubbish\r\n", b"\r\n", b"250" + b"x" * 20000 + b"\r\n", b""])
def test_rubbish_after_the_final_dot_is_unknown(final, steps):
    with talking(b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", final) as port:
        answer(Unknown, Smtp(f"smtp://127.0.0.1:{port}", steps))


class talking:
    """A server that says these pieces, one at each turn, and closes."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.talk, daemon=True)
        self.thread.start()
        return self.listener.getsockname()[1]

    def talk(self):
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            try:
                for number, piece in enumerate(self.pieces):
                    if not piece:
                        return
                    connection.sendall(piece)
                    heard = b""
                    while not heard.endswith(b"\r\n.\r\n" if number == 4 else b"\r\n"):
                        received = connection.recv(65536)
                        if not received:
                            return
                        heard += received
            except OSError:
                return

    def __exit__(self, *_):
        self.listener.close()
        self.thread.join(10)


# ── login and TLS ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost."""
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


class Logins:
    """Notes who logged in, and over what; one password is right."""

    def __init__(self):
        self.seen = []

    def __call__(self, server, session, envelope, mechanism, data):
        from aiosmtpd.smtp import AuthResult

        self.seen.append((data.login.decode(), data.password.decode(), session.ssl is not None or server._tls_protocol is not None))
        return AuthResult(success=data.password == b"p@ss/w:rd#?%", handled=False)


GOOD = "ann%40shop:p%40ss%2Fw%3Ard%23%3F%25"


@pytest.fixture
def logins():
    return Logins()


@pytest.fixture
def account(certificate, logins):
    """A server that offers STARTTLS and wants a login over it."""
    sink = SmtpSink(tls_context=certificate[0], require_starttls=True, auth_required=True, authenticator=logins)
    yield sink
    sink.controller.stop()


@pytest.fixture
def smtps(certificate, logins):
    """A server that speaks TLS from the first byte and wants a login."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import SMTP

    class Keeping:
        def __init__(self):
            self.mails = []

        async def handle_DATA(self, server, session, envelope):
            self.mails.append(envelope.original_content)
            return "250 OK"

    class Server(Controller):
        def factory(self):
            server = SMTP(self.handler, auth_required=True, authenticator=logins)
            server._auth_require_tls = False  # it only knows the TLS that STARTTLS began
            return server

    controller = Server(Keeping(), hostname="127.0.0.1", port=free_port(), ssl_context=certificate[0])
    controller.start()
    yield controller
    controller.stop()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_login_over_starttls_sends_the_password_as_it_was_meant(account, logins):
    transport = Smtp(f"smtp://{GOOD}@127.0.0.1:{account.port}?starttls=required&verify=off")
    send(transport)
    send(transport, "again")
    transport.close()
    assert subjects(account) == ["Hi", "again"]
    assert logins.seen == [("ann@shop", "p@ss/w:rd#?%", True)]


def test_a_login_over_implicit_tls_works_and_a_certificate_nobody_signed_is_refused(smtps, logins):
    transport = Smtp(f"smtps://{GOOD}@127.0.0.1:{smtps.port}?verify=off")
    send(transport)
    transport.close()
    assert (len(smtps.handler.mails), len(logins.seen)) == (1, 1)
    checked = Smtp(f"smtps://{GOOD}@127.0.0.1:{smtps.port}")
    assert answer(Snooze, checked).reason == "smtp-tls"
    assert len(logins.seen) == 1


def test_starttls_with_a_certificate_nobody_signed_is_refused_before_the_login(account, logins):
    transport = Smtp(f"smtp://{GOOD}@127.0.0.1:{account.port}?starttls=required")
    refusal = answer(Snooze, transport)
    assert refusal.reason == "smtp-tls"
    assert "p@ss" not in str(refusal)
    assert logins.seen == []


def test_a_certificate_that_is_trusted_is_accepted(account, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    transport = Smtp(f"smtp://{GOOD}@localhost:{account.port}?starttls=required")
    send(transport)
    transport.close()
    assert subjects(account) == ["Hi"]


def test_a_refused_login_breaks_the_channel_and_keeps_the_password_to_itself(account, logins):
    transport = Smtp(f"smtp://ann:wr0ng-one@127.0.0.1:{account.port}?starttls=required&verify=off")
    refusal = answer(Snooze, transport)
    assert refusal.reason == "smtp-login"
    assert "535" in str(refusal)
    assert "ASYNCSEND_EMAIL_URL" in str(refusal)
    assert "wr0ng" not in str(refusal)
    assert refusal.about == {"troubled": True, "broken": True}


def test_a_server_without_starttls_never_hears_the_password(smtp):
    smtp_url = f"smtp://ann:s3cret@127.0.0.1:{smtp.port}?starttls=required"
    refusal = answer(Snooze, Smtp(smtp_url))
    assert refusal.reason == "smtp-login"
    assert "in the clear" in str(refusal)
    assert smtp.mails == []


def test_a_server_that_knows_no_login_snoozes_the_channel(smtp):
    assert answer(Snooze, Smtp(f"smtp://ann:s3cret@127.0.0.1:{smtp.port}")).reason == "smtp-login"
    assert smtp.mails == []


@pytest.mark.parametrize("host", ["mail.example.com", "10.0.0.5", "192.168.1.1", "localhost.example.com", "127.0.0.1.example.com"])
def test_a_password_for_another_host_is_never_configured_without_tls(host):
    with pytest.raises(ConfigurationError, match="in the clear"):
        Smtp(f"smtp://ann:s3cret@{host}?starttls=off")
    assert Smtp(f"smtp://ann:s3cret@{host}").starttls == "auto"
    assert Smtp(f"smtp://{host}?starttls=off").starttls == "off"
    assert Smtp(f"smtps://ann:s3cret@{host}?starttls=off").implicit_tls


def test_a_far_host_that_offers_no_starttls_never_hears_the_password(smtp):
    transport = Smtp(f"smtp://ann:s3cret@127.0.0.1:{smtp.port}")
    transport.local, transport.starttls = False, "auto"  # what another host's name makes of it
    assert "in the clear" in str(answer(Snooze, transport))


# ── the URL ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url, host, port, user, password",
    [
        ("smtp://localhost", "localhost", 25, None, ""),
        ("smtp://ann:pw@mail.example.com", "mail.example.com", 587, "ann", "pw"),
        ("smtps://ann:pw@mail.example.com", "mail.example.com", 465, "ann", "pw"),
        ("smtp://ann%40example.com:p%40s%2Fs%3A%23%25%2B+x@mail.example.com:2525", "mail.example.com", 2525, "ann@example.com", "p@s/s:#%++x"),
        ("smtp://ann:gr%C3%BC%C3%9Fe@mail.example.com/", "mail.example.com", 587, "ann", "grüße"),
        ("smtp://ann@example.com:p@ss@mail.example.com", "mail.example.com", 587, "ann@example.com", "p@ss"),
        ("smtp://[::1]:25", "::1", 25, None, ""),
    ],
)
def test_a_url_is_read_with_its_percent_signs(url, host, port, user, password):
    found = Smtp(url)
    assert (found.host, found.port, found.user, found.password) == (host, port, user, password)


@pytest.mark.parametrize(
    "url",
    ["smtp://ann:12#s3cret@host", "smtp://ann:12/s3cret@host", "smtp://ann:s3cret/x@host", "smtp://ann:s3cret?x@host", "smtp://ann:[s3cret@host", "smtp://ann:s3cret]@host", "smtp://host:99999", "smtp://host:s3cret",
     "smtp://host/folder", "smtp://host?tls=off", "smtp://host?starttls=maybe"],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused_without_a_letter_of_its_password(url):
    with pytest.raises(ConfigurationError, match="ASYNCSEND_EMAIL_URL") as caught:
        Smtp(url)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__context__) or caught.value.__suppress_context__
