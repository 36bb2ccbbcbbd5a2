"""Suppression: who gets nothing more, however that was learnt; a real mail server that refuses, runs that are killed, both databases."""

import csv
import io
import json
import mailbox
import subprocess
import sys
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import crashed

from asyncsend import outcome as outcomes
from asyncsend import suppressions
from asyncsend.answers import BadPayload
from asyncsend.cli import cli
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job, NewJob
from asyncsend.outcome import Outcome, Settlement
from asyncsend.store import CLAIMED_PAYLOAD
from asyncsend.store import suppressions as statements
from asyncsend.store.rows import Suppression
from asyncsend.tasks import bounces
from asyncsend.tasks.email import address
from asyncsend.tasks.unsubscribe import token

MAIL = {"subject": "Hi", "text": "Hello"}
GONE = "550 5.1.1 <ann@example.com>: Recipient address rejected: User unknown"
SECRET = "a-secret-of-the-tests"


def call(site, *arguments, code=0, **options):
    done = CliRunner().invoke(cli, list(arguments), env=site.environment, **options)
    assert done.exit_code == code, (arguments, done.output, done.exception)
    return done


def rows(site) -> list[tuple]:
    store = site.store()
    try:
        return [(one.kind, one.address, one.list, one.reason) for one in store.suppressions()]
    finally:
        store.close()


def mail(site, to="ann@example.com", **members):
    site.insert("email", json.dumps({"to": to, **MAIL, **members}))


# ── what is stopped ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_was_refused_as_unknown_gets_nothing_more_until_somebody_removes_him(site, smtp):
    site.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    smtp.replies["RCPT"] = [GONE]
    mail(site)
    site.quiet("run")
    mail(site, "Ann <ANN@Example.com>")
    site.quiet("run")
    assert site.rows("state, reason, attempts") == [("dead", "smtp-550", 1), ("cancelled", "suppressed", 0)]
    assert smtp.mails == []
    why = call(site, "why", "2").stdout
    assert "ann@example.com gets nothing since 20" in why
    assert "it does not exist (job 1: 127.0.0.1 answered RCPT TO with 550 5.1.1" in why
    assert "asyncsend suppress remove ann@example.com" in why
    call(site, "suppress", "remove", "Ann@example.com")
    call(site, "retry", "2")
    site.quiet("run")
    assert site.rows("state")[1] == ("done",)
    assert smtp.recipients == ["ANN@Example.com"]


@pytest.mark.parametrize("reply", ["550 5.7.1 policy", "552 5.2.2 mailbox full", "550 5.1.8 sender's domain not found", "550 mailbox unavailable", "450 4.1.1 later"])
def test_a_refusal_that_does_not_speak_of_the_address_suppresses_nobody(lite, smtp, reply):
    lite.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    smtp.replies["RCPT"] = [reply]
    mail(lite)
    lite.quiet("run")
    assert lite.rows("state") != [("done",)]
    assert rows(lite) == []


@pytest.mark.parametrize(
    ("said", "hard"),
    [
        ("mx answered RCPT TO with 550 5.1.1 unknown", True), ("mx answered RCPT TO with 550 5.1.2 bad domain", True), ("mx answered RCPT TO with 553 5.1.3 syntax", True),
        ("mx answered RCPT TO with 551 5.1.6 moved", True), ("mx answered RCPT TO with 556 5.1.10 null MX", True), ("mx answered the message with 550-5.1.1 gone\\x0a5.1.1 really", True),
        ("mx answered RCPT TO with 550 No Such User Here", True), ("mx answered RCPT TO with 550 Unrouteable address", True), ("mx answered RCPT TO with 550 5.0.0 User unknown", True),
        ("mx answered RCPT TO with 550 <ann@example.com>: Recipient address not found", True), ("/usr/sbin/sendmail: no such user (ann)", True), ("Sorry, no mailbox here by that name. (#5.1.1)", True),
        ("mx answered MAIL FROM with 550 5.1.1 no such user", False), ("mx answered RCPT TO with 550 5.1.7 bad sender", False), ("mx answered RCPT TO with 550 5.1.4 ambiguous", False),
        ("mx answered RCPT TO with 550 5.2.1 disabled", False), ("mx answered RCPT TO with 550 5.4.1 access denied", False), ("mx answered RCPT TO with 550 5.7.1 no such user", False),
        ("mx answered RCPT TO with 550 user unknown, blocked by policy", False), ("mx answered RCPT TO with 550 mailbox unavailable", False), ("mx answered RCPT TO with 550 from 5.1.1.7 refused", False),
        ("mx answered RCPT TO with 450 4.1.1 try later", False), ("mx answered RCPT TO with 550 Sender address unknown", False), ("", False),
    ],
)  # fmt: skip
def test_only_the_codes_and_words_of_an_address_that_is_not_there_are_hard(said, hard):
    assert bounces.is_hard(said) is hard


@pytest.mark.parametrize(
    ("row", "stopped"),
    [
        (("email", "ann@example.com", "", "hard"), "plain news shop"), (("email", "ann@example.com", "", "complaint"), "plain news shop"), (("email", "ann@example.com", "", "manual"), "plain news shop"),
        (("email", "ann@example.com", "", "unsubscribed"), "news shop"), (("email", "ann@example.com", "news", "unsubscribed"), "news"), (("email", "ann@example.com", "news", "manual"), "news"),
        (("email", "anna@example.com", "", "hard"), ""), (("sms", "+33612345678", "", "unsubscribed"), "sms"), (("sms", "ann@example.com", "", "hard"), ""), (("email", "ann@example.com", "", "of later"), "plain news shop"),
    ],
)  # fmt: skip
def test_an_unsubscription_stops_lists_and_the_other_reasons_stop_everything(store, row, stopped):
    store.suppress([Suppression(*row)])
    jobs = {"plain": Job(1, "email", '{"to":"Ann <ann@EXAMPLE.com>"}'), "news": Job(2, "email", '{"to":"ann@example.com","list":"news"}'), "shop": Job(3, "email", '{"to":"ANN@example.com","list":"shop"}')}
    jobs |= {"sms": Job(4, "sms", '{"to":"+33612345678"}'), "own": Job(5, "my_mail", '{"to":"ann@example.com"}'), "bad": Job(6, "email", "[1"), "worse": Job(7, "email", '{"to":{"list":7},"list":{}}')}
    suppressions.sort_out(store, jobs.values())
    assert [name for name, one in jobs.items() if one.suppressed] == stopped.split()


def test_a_payload_too_long_to_come_with_the_claim_is_looked_at_too(site):
    call(site, "suppress", "add", "ann@example.com")
    mail(site, text="x" * (CLAIMED_PAYLOAD + 1))
    mail(site, "bob@example.com", text="x" * (CLAIMED_PAYLOAD + 1))
    site.quiet("run")
    assert site.rows("state") == [("cancelled",), ("done",)]


def test_one_insert_of_a_page_is_enough_and_capitals_mean_nothing(site):
    site.sql("INSERT INTO asyncsend_suppressions (address) VALUES ('Ann@Example.com')")
    mail(site)
    site.quiet("run")
    assert site.rows("state, reason") == [("cancelled", "suppressed")]
    call(site, "suppress", "remove", "ann@example.com")
    assert rows(site) == []


@pytest.mark.parametrize("text", ["+33612345678@\u2488.example", "+33612345678@", "Ann <+33612345678@b..c\u00fc>"])
def test_a_number_before_an_at_is_no_number(text):
    assert suppressions.known(text) is None


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[A-Za-z0-9]{1,5})?@([A-Za-z0-9_-]{1,8}\.){0,3}(com|[a-zà-ö]{1,6})", fullmatch=True) | st.text(max_size=30), st.sampled_from(["{}", " {} ", "Ann <{}>", '"A, \\" <b@c>" <{}>']))
def test_what_the_task_can_send_to_is_found_under_the_same_address(spec, frame):
    text = frame.format(spec) if "{" not in spec else spec
    try:
        sent_to = address("to", text).addr_spec
    except BadPayload:
        return
    assert suppressions.known(text) == ("email", sent_to.lower())


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_claim_asks_one_question_and_none_while_nobody_is_suppressed(store, monkeypatch):
    asked = []
    execute = store._execute
    monkeypatch.setattr(store, "_execute", lambda sql, params: asked.append(sql) or execute(sql, params))
    mails = [Job(number, "email", f'{{"to":"a{number}@example.com"}}') for number in range(500)]

    def cost(jobs) -> int:
        asked.clear()
        suppressions.sort_out(store, jobs)
        return len(asked)

    assert [cost(mails), cost(mails), cost(mails)] == [1, 0, 0], "that there is nobody is asked once in five seconds"
    assert cost([Job(1, "webhook", "{}")]) == 0
    store.suppress([Suppression("email", "a7@example.com")])
    assert [cost(mails), cost(mails)] == [2, 1], "that there is somebody is asked once"
    assert [one.id for one in mails if one.suppressed] == [7]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_run_has_in_hand_for_an_address_that_was_just_refused_is_not_begun(site, smtp, workers):
    """Claimed together: a worker holds the second already when the first is refused."""
    handler, asked = smtp.controller.handler, []
    taken = handler.handle_RCPT

    async def rcpt(server, session, envelope, address, options):
        asked.append(address)
        return GONE if address.lower() == "ann@example.com" else await taken(server, session, envelope, address, options)

    handler.handle_RCPT = rcpt
    site.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_WORKERS": str(workers), "ASYNCSEND_EMAIL_FAILURES": "off"}
    for number in range(60):
        mail(site, f"r{number}@example.com")
    for spelt in ("ann@example.com", "Ann <ANN@Example.com>", "ann@example.com", "Ann <ann@EXAMPLE.com>", "ann@example.com"):
        mail(site, spelt)
    mail(site, "last@example.com")
    site.quiet("run")
    refused = asked.count("ann@example.com") + asked.count("ANN@Example.com") + asked.count("ann@EXAMPLE.com")
    assert 1 <= refused <= workers
    assert sorted(site.rows("state, reason", "state <> 'done'")) == [("cancelled", "suppressed")] * (5 - refused) + [("dead", "smtp-550")] * refused
    assert len(smtp.mails) == 61
    assert "ann@example.com gets nothing: it does not exist (job " in site.rows("error", "reason = 'suppressed'")[0][0]


def test_a_minute_without_mail_does_not_even_enter_the_room(lite):
    lite.environment["ASYNCSEND_COMMAND_NOTHING"] = "true"
    lite.insert("command.nothing")
    program = "import sys, runpy\nsys.argv = ['asyncsend', 'run']\ntry:\n    runpy.run_module('asyncsend', run_name='__main__')\nexcept SystemExit as left:\n    assert not left.code\nprint('asyncsend.suppressions' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=lite.environment, capture_output=True, text=True, cwd="/", check=True)
    assert (done.stdout, lite.rows("state")) == ("False\n", [("done",)])


# ── kills, races, fences ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("point", ["D written", "before the COMMIT", "settled, the journal not cleared"])
def test_a_run_killed_at_any_point_leaves_the_dead_job_and_its_suppression_together(site, smtp, point):
    site.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    smtp.replies["RCPT"] = [GONE]
    mail(site)
    done = crashed(site, point, 1, "run")
    assert done.returncode == -9, done
    assert (site.rows("state") == [("dead",)]) == bool(rows(site)), "one without the other"
    site.quiet("run")
    assert site.rows("state, attempts") == [("dead", 1)], "nobody was asked again"
    assert rows(site) == [("email", "ann@example.com", "", "hard")]
    assert smtp.replies["RCPT"] == []


def claimed(store, owner="us") -> Job:
    store.take("default", store.standing("default"), owner, "lock", "host", 1, 60.0)
    store.insert([NewJob("email", '{"to":"ann@example.com"}', "u1")])
    [one] = store.claim(["default"], 1, "ab" * 16, 1, owner)
    return one


def gone(**members) -> Outcome:
    return outcomes.bury("smtp-550", "no such user")._replace(**{"suppress": "hard", "address": "Ann@example.com", **members})


def test_what_is_there_already_keeps_no_outcome_from_being_written(store):
    one = claimed(store)
    store.suppress([Suppression("email", "ann@example.com", "", "hard", "first")])
    assert store.settle([Settlement(one.id, one.token, gone())], owner="us").accepted == 1
    assert store.find("u1").state == "dead"
    assert [row.source for row in store.suppressions()] == ["first"], "since when it is so does not change"


@pytest.mark.parametrize("address", ["Ä@example.com", "x" * 300, "", "\udcff"])
def test_an_address_that_can_be_no_row_keeps_no_outcome_from_being_written(store, address):
    one = claimed(store)
    assert store.settle([Settlement(one.id, one.token, gone(address=address))], owner="us").accepted == 1
    assert (store.find("u1").state, list(store.suppressions())) == ("dead", [])


def test_what_a_run_has_learnt_itself_it_knows_at_once(store):
    one = claimed(store)
    assert not store.has_suppressions()
    store.settle([Settlement(one.id, one.token, gone())], owner="us")
    assert store.has_suppressions()


def test_a_run_that_lost_the_status_row_suppresses_nobody(store):
    one = claimed(store)
    assert store.settle([Settlement(one.id, one.token, gone())], owner="somebody else").late == (one.id,)
    assert list(store.suppressions()) == []


def test_a_sender_of_short_messages_reports_in_the_same_words(store):
    one = claimed(store)
    store.settle([Settlement(one.id, one.token, gone(suppress="unsubscribed", address="+33612345678"))], owner="us")
    [row] = store.suppressions()
    assert row[:4] == ("sms", "+33612345678", "", "unsubscribed")
    assert row.source == f"job {one.id}: no such user"


def test_an_outcome_takes_its_address_through_the_journal_and_nothing_that_is_no_text():
    assert Outcome.from_dict(json.loads(json.dumps(gone().as_dict()))) == gone()
    with pytest.raises(TypeError):
        Outcome.from_dict(gone().as_dict() | {"address": 7})


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_added_is_listed_and_removed(site):
    call(site, "suppress", "add", "ann@example.com", "+33 6 12 34 56 78")
    assert "1 added, 1 there already" in call(site, "suppress", "add", "ANN@example.com", "bob@example.com").output
    call(site, "suppress", "add", "bob@example.com", "--list", "news", "--reason", "unsubscribed")
    assert rows(site) == [("email", "ann@example.com", "", "manual"), ("email", "bob@example.com", "", "manual"), ("email", "bob@example.com", "news", "unsubscribed"), ("sms", "+33612345678", "", "manual")]
    listed = json.loads(call(site, "suppress", "list", "--list", "news", "--json").stdout)
    assert [(one["address"], one["reason"], one["source"]) for one in listed] == [("bob@example.com", "unsubscribed", "by hand")]
    assert call(site, "suppress", "list", "Bob@example.com").stdout.count("bob@example.com") == 2
    assert call(site, "suppress", "list", "--limit", "1").stdout.count("@") == 1
    for wrong in (["add", "nobody"], ["add", "a@b.c", "--list", "a b"], ["remove", "carl@example.com"], ["remove"], ["remove", "ann@example.com", "--all"], ["remove", "--all"], ["remove", "--all", "--reason", "hard", "--yes"]):
        call(site, "suppress", *wrong, code=2)
    assert len(rows(site)) == 4
    call(site, "suppress", "remove", "--all", "--list", "news", "--yes")
    call(site, "suppress", "remove", "--all", "--dry-run")
    assert len(rows(site)) == 3
    call(site, "suppress", "remove", "--all", "--since", "1h", "--yes")
    assert rows(site) == []


def test_what_is_exported_can_be_imported_as_it_is_and_again(site, monkeypatch):
    monkeypatch.setattr(statements, "PAGE", 2)
    at = datetime(2025, 3, 1, 12, 30, 1, tzinfo=UTC)
    store = site.store()
    store.suppress([Suppression("email", f"a{number}@example.com", name, reason, 'said "no", thrice', at) for number in range(3) for name in ("", "news") for reason in ("hard", "manual")])
    store.suppress([Suppression("sms", "+4915112345", "", "unsubscribed", "STOP", at)])
    store.close()
    exported = call(site, "suppress", "export").stdout
    before = site.store()
    everything = list(before.suppressions())
    before.close()
    assert len(everything) == 13
    call(site, "suppress", "remove", "--all", "--yes")
    assert "0 added" not in call(site, "suppress", "import", "-", input=exported).output
    assert "13 read, 0 added, 0 bad lines" in call(site, "suppress", "import", "-", input=exported).output
    after = site.store()
    assert list(after.suppressions()) == everything
    after.close()
    assert [json.loads(line)["since"] for line in call(site, "suppress", "export", "--reason", "unsubscribed", "--json").stdout.splitlines()] == [at.isoformat()]


@pytest.mark.parametrize(
    ("text", "bad", "found"),
    [
        ("ann@example.com\nnobody\nBob <bob@example.com>\n", ["line 2: 'nobody' is no mail address"], {"ann@example.com", "bob@example.com"}),
        ("Email;Status\nann@example.com;x\n;y\nbob@example.com\n", ["line 3: '' is no", "line 4: it has 1 fields"], {"ann@example.com"}),
        ("email,reason,since\nann@example.com,hard,2025-01-01\nbob@example.com,because,\ncarl@example.com,,soon\ndora@example.com,manual,2999-01-01\n", ["line 3: the reason 'because'", "line 4: 'soon'", "line 5: "], {"ann@example.com"}),
        ('{"email":"ann@example.com","list":"news"}\n{"name":"x"}\n{"email":"bob@example.com","list":"a b"}\n', ["line 2: ", "line 3: the list"], {"ann@example.com"}),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number_and_the_others_are_added(lite, tmp_path, text, bad, found):
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert call(lite, "suppress", "import", str(path), "--dry-run", code=1).output.count("line ") == len(bad)
    assert rows(lite) == []
    said = call(lite, "suppress", "import", str(path), "--json", code=1)
    for words in bad:
        assert words in said.output
    assert {row[1] for row in rows(lite)} == found
    assert json.loads(said.stdout) == {"read": len(found), "added": len(found), "bad_lines": len(bad), "dry_run": False}


def test_a_file_of_any_size_is_imported_a_slice_at_a_time_with_the_reason_that_is_said(lite, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("email,reason\n" + "".join(f"a{number}@example.com,opted out\n" for number in range(1201)))
    assert "1,201 read, 1,201 added" in call(lite, "suppress", "import", str(path), "--list", "news", "--reason", "unsubscribed").output
    assert {row[2:] for row in rows(lite)} == {("news", "unsubscribed")}
    call(lite, "suppress", "import", str(path), "--list", "a b", code=2)
    assert len(list(csv.reader(io.StringIO(call(lite, "suppress", "export").stdout)))) == 1202


@pytest.mark.parametrize("text", ["", "name,town\nAnn,Rome\n"])
def test_a_file_without_addresses_is_refused(lite, tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    call(lite, "suppress", "import", str(tmp_path / "x.csv"), code=2)


# ── what came back ───────────────────────────────────────────────────────────────────────────────────────────────────

RETURNED = "Message-ID: <{key}@example.com>\nFrom: Shop <shop@example.com>\nTo: {to}\nSubject: Hi\n"


def report(status="5.1.1", action="failed", diagnostic="smtp; 550 5.1.1 User unknown", to="ann@example.com", key="k", fields="", returned=RETURNED) -> bytes:
    """A delivery report as Postfix and Exim write it (RFC 3464)."""
    return (
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: shop@example.com\nSubject: Undelivered Mail\nMessage-ID: <own@mx.example>\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="B"\n\n--B\nContent-Type: text/plain\n\nYour message could not be delivered.\n\n'
        f"--B\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; {to}\n{fields}Action: {action}\nStatus: {status}\nDiagnostic-Code: {diagnostic}\n\n"
        f"--B\nContent-Type: text/rfc822-headers\n\n{returned.format(key=key, to=to)}\n--B--\n"
    ).encode()


def complaint(kind="abuse", fields="Original-Rcpt-To: ann@example.com\n", to="ann@example.com", key="k") -> bytes:
    """A feedback report (RFC 5965)."""
    return (
        "From: fbl@mx.example\nSubject: complaint\nMessage-ID: <own@mx.example>\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=feedback-report; boundary=B\n\n--B\nContent-Type: text/plain\n\nx\n"
        f"--B\nContent-Type: message/feedback-report\n\nFeedback-Type: {kind}\nUser-Agent: x/1\nVersion: 1\n{fields}\n--B\nContent-Type: message/rfc822\n\n{RETURNED.format(key=key, to=to)}\nHello\n--B--\n"
    ).encode()


QMAIL = (
    b"From: MAILER-DAEMON@mx.example\nSubject: failure notice\n\nHi. This is the qmail-send program at mx.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n"
    b"This is a permanent error; I've given up. Sorry it didn't work out.\n\n<ann@example.com>:\n%s\n\n--- Below this line is a copy of the message.\n\nMessage-ID: <k@example.com>\nTo: ann@example.com\n"
)
EXIM = b"X-Failed-Recipients: ann@example.com\nFrom: Mail Delivery System <Mailer-Daemon@host>\nSubject: Mail delivery failed\n\nA message that you sent could not be delivered.\n\n  ann@example.com\n    %s\n"
PLAIN = b"From: Bob <bob@example.com>\nSubject: Holiday\nAuto-Submitted: auto-replied\n\nI am away until Monday. Write to carl@example.com.\n"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (report(), [("ann@example.com", "hard")]),
        (report("5.0.0", diagnostic="smtp; 550 No Such User Here"), [("ann@example.com", "hard")]),
        (report("5.0.0", diagnostic="smtp; 550 Administrative prohibition"), [("ann@example.com", None)]),
        (report("4.4.7", "delayed", "smtp; 451 4.4.7 retrying"), [("ann@example.com", None)]),
        (report("4.4.1", "failed", "X-Postfix; connect to mx: Connection timed out"), [("ann@example.com", None)]),
        (report("5.2.2", diagnostic="smtp; 552 5.2.2 mailbox full"), [("ann@example.com", None)]),
        (report("5.7.1", diagnostic="smtp; 550 5.7.1 no such user, or spam"), [("ann@example.com", None)]),
        (report("5.1.1", "delivered"), [("ann@example.com", None)]),
        (report(to="ann@forwarded.example", fields="Original-Recipient: rfc822; ann@example.com\n"), [("ann@example.com", "hard")]),
        (complaint(), [("ann@example.com", "complaint")]),
        (complaint("fraud"), [("ann@example.com", "complaint")]),
        (complaint("not-spam"), [("ann@example.com", None)]),
        (complaint("auth-failure"), [("ann@example.com", None)]),
        (complaint("opt-out"), [("ann@example.com", "unsubscribed")]),
        (complaint(fields=""), [("ann@example.com", "complaint")]),
        (QMAIL % b"Sorry, no mailbox here by that name. (#5.1.1)", [("ann@example.com", "hard")]),
        (QMAIL % b"The user is over quota. (#5.2.2)", [("ann@example.com", None)]),
        (EXIM % b"Unrouteable address", [("ann@example.com", "hard")]),
        (EXIM % b"SMTP error from remote mail server after RCPT TO:<ann@example.com>: 550 5.7.1 spam", [("ann@example.com", None)]),
        (EXIM % b"SMTP error from remote mail server after MAIL FROM:<shop@example.com>: 550 no such user", [("ann@example.com", None)]),
        (PLAIN, []),
        (b"", []),
        (bytes(range(256)) * 40, []),
        (b"Content-Type: message/rfc822\n\n" * 3000, []),
        (b"Content-Type: multipart/report; boundary=B\n\n--B\nContent-Type: message/delivery-status\n\n\n--B\nContent-Type: message/feedback-report\n\n", []),
    ],
)  # fmt: skip
def test_permanent_failures_and_complaints_are_told_from_what_will_pass(raw, told):
    assert [(one.address, one.reason) for one in bounces.read(raw)[0]] == told


def test_a_bounce_on_standard_input_is_silent_and_names_the_job(site, smtp):
    site.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    mail(site, "Ann <ann@example.com>")
    site.insert("email", json.dumps({"to": "bob@example.com", **MAIL}), uid="order-17")
    site.quiet("run")
    keys = [one.split("@")[0].strip("<") for one in smtp.ids()]
    assert keys[1] == "order-17"
    # The second came back from where it had been forwarded to: the mail went to bob.
    for raw in (report(to="forwarded@elsewhere.example", key="order-17"), PLAIN, bytes(range(256))):
        site.quiet("suppress", "bounce", input=raw.decode("latin-1"), encoding="latin-1")
    for raw in (report(key=keys[0]), report(), report(to="forwarded@elsewhere.example", key="order-17"), b""):
        assert call(site, "suppress", "bounce", input=raw).output == "", "twice is as good as once"
    assert rows(site) == [("email", "ann@example.com", "", "hard"), ("email", "bob@example.com", "", "hard")]
    said = {one["address"]: one["source"] for one in json.loads(call(site, "suppress", "list", "--json").stdout)}
    assert said["bob@example.com"].startswith("job order-17: failed: 5.1.1")
    assert said["ann@example.com"].startswith("job 1: failed")
    assert "job order-17: failed: 5.1.1" in site.log()


def test_a_complaint_that_hides_its_writer_is_known_by_the_mail_that_it_returns(lite):
    lite.insert("email", json.dumps({"to": "ann@example.com", **MAIL}), uid="u1")
    call(lite, "suppress", "bounce", input=complaint(fields="", to="undisclosed", key="u1"))
    assert rows(lite) == [("email", "ann@example.com", "", "complaint")]


def test_known_only_believes_nothing_that_names_no_mail_of_ours(lite):
    lite.insert("email", json.dumps({"to": "ann@example.com", **MAIL}), uid="u1")
    lite.insert("webhook", json.dumps({"to": "victim@example.com"}), uid="u2")
    for key in ("nobody", "u2", "job-2-0"):
        call(lite, "suppress", "bounce", "--known-only", input=report(to="victim@example.com", key=key))
    assert rows(lite) == []
    call(lite, "suppress", "bounce", "--known-only", input=report(key="u1"))
    assert rows(lite) == [("email", "ann@example.com", "", "hard")]


def test_of_a_maildir_the_unread_mails_are_read_once_and_of_a_file_all(lite, tmp_path):
    box = mailbox.Maildir(tmp_path / "box")
    for name in ("ann", "bob"):
        box.add(report(to=f"{name}@example.com"))
    seen = mailbox.MaildirMessage(report(to="seen@example.com"))
    seen.set_subdir("cur")
    seen.set_flags("S")
    box.add(seen)
    answered = mailbox.MaildirMessage(report(to="carl@example.com"))
    answered.set_subdir("cur")
    answered.set_flags("R")
    box.add(answered)
    said = call(lite, "suppress", "bounce", str(tmp_path / "box"), "--dry-run").output
    assert "3 mails read, 0 added" in said
    assert "ann@example.com: hard (failed: 5.1.1 smtp; 550 5.1.1 User unknown)" in said
    assert "3 mails read, 3 added" in call(lite, "suppress", "bounce", str(tmp_path / "box")).output
    assert sorted(row[1] for row in rows(lite)) == ["ann@example.com", "bob@example.com", "carl@example.com"]
    assert sorted(one.get_flags() for one in mailbox.Maildir(tmp_path / "box")) == ["RS", "S", "S", "S"]
    assert "0 mails read" in call(lite, "suppress", "bounce", str(tmp_path / "box")).output
    file = mailbox.mbox(tmp_path / "mbox")
    file.add(report(to="dora@example.com"))
    file.add(report(to="emil@example.com", status="4.4.1", action="delayed"))
    file.close()
    assert json.loads(call(lite, "suppress", "bounce", str(tmp_path / "mbox"), "--json").stdout)["told"][1]["reason"] is None
    (tmp_path / "one.eml").write_bytes(report(to="fred@example.com"))
    call(lite, "suppress", "bounce", str(tmp_path / "one.eml"))
    assert {"dora@example.com", "fred@example.com"} <= {row[1] for row in rows(lite)}
    assert "emil@example.com" not in {row[1] for row in rows(lite)}
    call(lite, "suppress", "bounce", str(tmp_path), code=2)


def test_a_report_before_a_mail_of_any_size_is_read_and_the_pipe_to_its_end(lite):
    big = report() + b"x" * (bounces.MOST_BYTES + 1000)
    lite.quiet("suppress", "bounce", input=big.decode())
    assert rows(lite) == [("email", "ann@example.com", "", "hard")]


def test_without_the_extra_standard_reports_are_read_and_the_others_name_it(lite, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flufl.bounce", None)
    assert bounces.read(report())[0]
    with pytest.raises(ConfigurationError, match=r"asyncsend\[bounces\]"):
        bounces.read(QMAIL % b"x")
    (tmp_path / "one.eml").write_bytes(PLAIN)
    assert "asyncsend[bounces]" in call(lite, "suppress", "bounce", str(tmp_path / "one.eml")).output
    assert call(lite, "suppress", "bounce", input=PLAIN).output == "", "a mail server would send it to whoever wrote"
    assert "asyncsend[bounces]" in lite.log()


def test_a_mail_to_unsubscribe_counts_if_its_token_is_ours(lite):
    lite.environment["ASYNCSEND_UNSUBSCRIBE_SECRET"] = SECRET
    for of_list, secret in (("news", SECRET), ("shop", SECRET + "x")):
        wish = EmailMessage()
        wish["Subject"] = f"Re: {token(of_list, 'Ann@example.com', secret)}"
        wish["From"] = "somebody@else.example"
        call(lite, "suppress", "bounce", "--known-only", input=wish.as_bytes())
    assert rows(lite) == [("email", "ann@example.com", "news", "unsubscribed")]
