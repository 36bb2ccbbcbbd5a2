"""Channels as people see them, and what the replies of real hosts say of them."""

import json
from datetime import datetime, timedelta

import pytest

from asyncsend import channels
from asyncsend import outcome as outcomes
from asyncsend.answers import Refused, Retry, Snooze
from asyncsend.channels import Channel, Channels
from asyncsend.job import Job, NewJob
from asyncsend.quotas import Window
from asyncsend.tasks.replies import POLICY, judged, once_more

BROKEN, FAILED = {"troubled": True, "broken": True}, {"failed": True}


def stop(seconds):
    return {"troubled": True, "leave_alone": seconds}


@pytest.mark.parametrize(
    ("reply", "kind", "about"),
    [
        # transient: this mail, later
        ("450 4.1.8 <a@example.com>: Sender address rejected: Domain not found", Retry, FAILED),
        ("451 4.7.1 Greylisting in action, please come back later", Retry, FAILED),
        ("450 4.2.0 <b@example.com>: Recipient address rejected: Greylisted for 300 seconds", Retry, FAILED),
        ("452 4.2.2 The email account that you tried to reach is over quota", Retry, FAILED),
        ("552 5.2.2 Mailbox full", Retry, FAILED),
        # permanent: this mail, never
        ("550 5.1.1 <b@example.com>: Recipient address rejected: User unknown in virtual mailbox table", Refused, FAILED),
        ("550 No Such User Here", Refused, FAILED),
        ("553 5.1.3 Bad recipient address syntax", Refused, FAILED),
        ("552 5.3.4 Message size exceeds fixed limit", Refused, FAILED),
        ("550 5.1.1 <quota@rate-limit.example>: no such user", Refused, FAILED),
        # the host's limit
        ("550 Domain example.com has exceeded the max emails per hour (8/8 (100%)) allowed.  Message discarded.", Snooze, stop(3600.0)),
        ("550 Domain example.com has exceeded the max defers and failures per hour (5/5 (100%)) allowed.  Message discarded.", Snooze, stop(3600.0)),
        ("550 5.7.1 Policy Rejection - Quota Exceeded", Snooze, stop(3600.0)),
        ("554 5.7.0 Too many messages, limit is 60 per minute", Snooze, stop(75.0)),
        ("550 5.4.5 Daily user sending limit exceeded", Snooze, stop(4 * 3600.0)),
        ("454 Throttling failure: Daily message quota exceeded.", Snooze, stop(4 * 3600.0)),
        ("454 Throttling failure: Maximum sending rate exceeded.", Snooze, stop(15.0)),
        # a policy
        ("550 5.7.515 Access denied, sending domain example.com does not meet the required authentication level", Snooze, stop(3600.0)),
        ("550-5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy.", Snooze, stop(3600.0)),
        ("554 5.7.1 Message rejected due to content policy", Snooze, stop(3600.0)),
        # our account
        ("530 5.7.0 Authentication required", Snooze, BROKEN),
        ("535 5.7.8 Error: authentication failed", Snooze, BROKEN),
        ("454 4.7.0 Temporary authentication failure", Snooze, BROKEN),
        ("550 5.7.1 Unable to relay for b@example.com", Snooze, BROKEN),
        ("554 5.7.1 <b@example.com>: Relay access denied", Snooze, BROKEN),
    ],
)  # fmt: skip
def test_a_refusal_speaks_of_the_mail_or_of_the_channel(reply, kind, about):
    code, words = int(reply[:3]), reply[4:]
    answer = judged("mail.example.com", "RCPT TO", code, words)
    assert (type(answer), answer.about) == (kind, about)
    assert "mail.example.com answered RCPT TO" in str(answer)


def test_a_mail_that_a_policy_refuses_again_is_refused_for_good_and_one_that_a_limit_does_is_not():
    policy = judged("h", "DATA", 550, "rejected by policy")
    assert once_more(policy, None) is policy
    again = once_more(policy, POLICY)
    assert (type(again), again.about) == (Refused, None)
    limit = judged("h", "DATA", 550, "limit exceeded")
    assert once_more(limit, "smtp-limit") is limit


HARD = outcomes.bury("smtp-550", "no such user")._replace(channel="email", failed=True)
MOST = Window(3, 3600.0)


def test_the_third_failure_within_the_hour_stops_the_channel_until_the_first_is_an_hour_old():
    channel = Channel("email")
    for left in (None, None, 3600 - 1200):
        channel = channels.after(channel._replace(failed=tuple(ago + 600 for ago in channel.failed)), HARD, MOST)
        assert channel.left == left
    assert "3 jobs failed within 60 minutes" in channel.reason


def test_a_success_forgets_trouble_and_no_failure():
    assert channels.after(Channel("email", failures=4, failed=(9.0,)), outcomes.finish()) == Channel("email", failed=(9.0,))


def test_after_a_failure_only_as_many_are_under_way_as_may_still_fail():
    known = Channels(lambda: [Channel("email", failed=(10.0,))], lambda: 0.0, MOST)
    mail = Job(1, "email", "{}")
    assert known.at_once(known.troubled(mail)) == 2
    known.heard(mail, HARD)
    assert known.at_once(known.troubled(mail)) == 1
    known.heard(mail, HARD)
    assert known.instead(mail).reason == "breaker-open"
    assert Channels(lambda: [Channel("email", failed=(4000.0,))], lambda: 0.0, MOST).troubled(mail) is None


def test_what_failed_is_remembered_by_the_next_run_and_counted_once(store, clock):
    clock.set(1_800_000_000)
    store.most_failed = MOST
    for number in range(3):
        store.insert([NewJob("email", "{}", f"u{number}")])
        [job] = store.claim(["default"], 1, f"{number}" * 32, 1)
        settlement = outcomes.Settlement(job.id, job.token, HARD)
        for _ in range(2):
            store.settle([settlement])
        clock.forward(100)
    [email] = store.channels()
    assert [round(ago) for ago in email.failed] == [100, 200, 300]
    assert round(email.left) == 3600 - 300


def test_status_shows_each_channel_and_why_says_whose_turn_it_is(site):
    site.environment |= {"ASYNCSEND_EMAIL_LIMIT": "2/hour", "ASYNCSEND_QUEUES": "*"}
    for number in range(5):
        site.insert("email", json.dumps({"to": f"r{number}@example.com", "subject": "x", "text": "y"}), uid=f"u{number}")
    site.quiet("run", "--max-time", "5s")
    [shown] = json.loads(site("status", "--channel", "--json").stdout)
    assert (shown["channel"], shown["waiting"], shown["last_hour"]) == ("email", 5 - shown["last_hour"], shown["limits"][0]["used"])
    assert shown["limits"][0]["limit"] == "2/hour"
    assert datetime.fromisoformat(shown["through_at"]).utcoffset() == timedelta(0)
    assert "of 2/hour" in site("status", "--channel", "email").stdout
    assert "it waits for its turn: email takes 2/hour" in site("why", "u4").stdout
    assert "status --channel" in site("status", "--channel", "nothing", code=2).stderr


def test_a_stopped_mail_channel_is_opened_by_resume_and_all_that_wait_are_due(site):
    site.sql("INSERT INTO asyncsend_channels (name, failures, stops, stopped_until, reason) VALUES ('email', 5, 1, '2037-01-01', 'login')")
    site.insert("email", '{"to":"a@example.com","subject":"x","text":"y"}', uid="u")
    site.quiet("run")
    assert site.rows("state, reason") == [("ready", "breaker-open")]
    assert "nothing is sent through email until" in site("why", "u").stdout
    site("resume", "email")
    site.quiet("run")
    assert site.rows("state") == [("done",)]


def test_resume_serves_a_paused_queue_that_has_the_name_of_a_channel(site):
    site.sql("INSERT INTO asyncsend_channels (name, failed_at) VALUES ('email', '1800000000.0')")
    site("pause", "email")
    site("resume", "email")
    assert "not paused" in site("resume", "email", code=2).stderr
