"""The rules by which an execution becomes an outcome: pure decisions, no database, no process."""

import json
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsend import backoff, execute
from asyncsend.answers import Answer, BadPayload, Cancel, Refused, Retry, Snooze, Unknown
from asyncsend.backoff import Backoff
from asyncsend.job import MAX_PAYLOAD_BYTES, MAX_RESULT_BYTES, Job
from asyncsend.outcome import Outcome, State
from asyncsend.tasks import AT_MOST_ONCE, Policy, Task, Tasks
from asyncsend.text import MAX_TEXT

NEVER_JITTER, ALWAYS_LATE = lambda: 0.0, lambda: 0.999


@pytest.fixture
def tasks(lite):
    return Tasks(lite.settings())


def put(tasks, function, policy=None):
    """Make `function` the task `t`, found like a built-in one."""
    tasks._built["t"] = Task("t", function, policy or Policy())
    return tasks


def ran(tasks, function, job=None, policy=None, chance=NEVER_JITTER) -> Outcome:
    return execute.execute(job or Job(1, "t", "{}"), put(tasks, function, policy), chance)


def raising(error):
    def function(payload, job):
        raise error

    return function


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words for this")


class NotText:
    def __str__(self):
        raise RuntimeError("no words for this")

    __repr__ = __str__


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = [
    (Retry(30, "slow down"), State.READY, "retry", "retry-asked", 30.0, True),
    (Retry(timedelta(minutes=2)), State.READY, "retry", "retry-asked", 120.0, True),
    (Retry(None, reason="greylist"), State.READY, "retry", "greylist", 15.0, True),
    (Retry(-5), State.READY, "retry", "retry-asked", 0.0, True),
    (Snooze(60, "later"), State.READY, "snooze", "snoozed", 60.0, False),
    (Snooze(-1), State.READY, "snooze", "snoozed", 1.0, False),
    (Cancel("sold out"), State.CANCELLED, "cancel", "cancelled-by-task", 0.0, False),
    (Refused("gone"), State.DEAD, "bury", "refused", 0.0, True),
    (BadPayload("to is missing"), State.DEAD, "bury", "bad-payload", 0.0, True),
    (Unknown("no reply"), State.READY, "retry", "unknown", 15.0, True),
]


@pytest.mark.parametrize("way", ["raised", "returned"])
@pytest.mark.parametrize("answer, state, verb, reason, delay, charged", ANSWERS, ids=[f"{type(row[0]).__name__}-{row[3]}-{row[4]:g}" for row in ANSWERS])
def test_an_answer_means_the_same_raised_or_returned(tasks, way, answer, state, verb, reason, delay, charged):
    policy = Policy(backoff=Backoff(base=15, cap=60, floor=15))
    outcome = ran(tasks, raising(answer) if way == "raised" else lambda payload, job: answer, policy=policy)
    assert (outcome.state, outcome.verb, outcome.reason, outcome.delay, outcome.charged) == (state, verb, reason, delay, charged)
    assert outcome.error == str(answer)


def test_a_plain_value_is_done_and_kept_as_json(tasks):
    outcome = ran(tasks, lambda payload, job: {"pages": 3, "title": "Übersicht"})
    assert outcome.state is State.DONE
    assert json.loads(outcome.result) == {"pages": 3, "title": "Übersicht"}


def test_nothing_returned_is_done_without_a_result(tasks):
    assert ran(tasks, lambda payload, job: None).result is None


@pytest.mark.parametrize("answer", [Answer("of the root"), type("Mine", (Answer,), {})("of my own")])
def test_an_answer_of_no_known_kind_is_dead_and_named(tasks, answer):
    outcome = ran(tasks, raising(answer))
    assert (outcome.state, outcome.reason) == (State.DEAD, "bad-answer")
    assert type(answer).__name__ in outcome.error


def test_a_subclass_of_retry_is_a_retry(tasks):
    assert ran(tasks, raising(type("Mine", (Retry,), {})(7))).delay == 7


@pytest.mark.parametrize("answer", [Retry(1, NotText()), Refused(NotText()), Snooze(1, NotText()), Cancel(NotText()), Unknown(NotText())])
def test_an_answer_that_cannot_be_printed_still_decides(tasks, answer):
    assert "RuntimeError" in ran(tasks, raising(answer)).error


@pytest.mark.parametrize("delay", ["5", object(), float("nan"), float("inf"), 10**400, -(10**400)])
@pytest.mark.parametrize("kind", [Retry, Snooze])
def test_an_impossible_delay_never_ends_the_run(tasks, kind, delay):
    outcome = ran(tasks, lambda payload, job: kind(delay))
    assert outcome.state is State.READY
    assert 0 <= outcome.delay <= 3650 * 86400


def test_an_answer_whose_constructor_was_not_called_is_a_failed_attempt(tasks):
    class Careless(Retry):
        def __init__(self):
            pass

    outcome = ran(tasks, raising(Careless()))
    assert (outcome.verb, outcome.reason) == ("retry", "bad-answer")
    assert "Careless" in outcome.error


@pytest.mark.parametrize("reason", ["größe", "a b\nc", "x" * 500, "", None, 17])
@pytest.mark.parametrize("kind", [lambda reason: Retry(1, reason=reason), lambda reason: Snooze(1, reason=reason), lambda reason: Refused("no", reason=reason)])
def test_a_reason_always_fits_its_column_of_64_ascii_characters(tasks, kind, reason):
    assert re.fullmatch(r"[!-~]{1,64}", ran(tasks, raising(kind(reason))).reason)


# ── attempts and backoff ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answer", [Retry(5), Unknown("no reply"), ValueError("x"), SystemExit(1)])
def test_the_last_allowed_attempt_makes_the_job_dead_with_the_last_error(tasks, answer):
    for attempts, state in ((3, State.READY), (4, State.DEAD), (9, State.DEAD)):
        outcome = ran(tasks, raising(answer), Job(1, "t", "{}", attempts=attempts), Policy(max_attempts=5))
        assert outcome.state is state
    assert outcome.reason == "max-attempts"
    assert "attempt 10 of 5 failed" in outcome.error


@pytest.mark.parametrize("own, dead_after", [(1, 1), (2, 2), (0, 1), (-7, 1)])
def test_the_rows_own_max_attempts_goes_before_the_policy_and_is_at_least_one(tasks, own, dead_after):
    job = Job(1, "t", "{}", max_attempts=own, attempts=dead_after - 1)
    assert ran(tasks, raising(Retry()), job, Policy(max_attempts=100)).reason == "max-attempts"


@pytest.mark.parametrize("answer", [Snooze(9), Cancel()])
def test_snooze_and_cancel_never_use_up_an_attempt(tasks, answer):
    outcome = ran(tasks, raising(answer), Job(1, "t", "{}", attempts=99), Policy(max_attempts=1))
    assert not outcome.charged
    assert outcome.state is not State.DEAD


POLICIES = [backoff.MAIL, backoff.WEBHOOK, backoff.SMS, backoff.TASK]


@pytest.mark.parametrize("curve", POLICIES)
@given(attempt=st.integers(1, 5000), chance=st.floats(0, 1, exclude_max=True))
def test_every_wait_lies_between_floor_and_cap(curve, attempt, chance):
    assert curve.floor <= curve.delay(attempt, chance) <= curve.cap


@given(
    base=st.floats(0, 1e6), cap=st.floats(0, 1e9), factor=st.floats(1, 1e300), floor=st.floats(0, 1e6), attempt=st.integers(1, 10**6), chance=st.floats(0, 1, exclude_max=True)
)
def test_no_curve_whatever_its_numbers_breaks(base, cap, factor, floor, attempt, chance):
    assert floor <= Backoff(base, cap, factor, floor).delay(attempt, chance) <= max(floor, cap)


@given(attempt=st.integers(1, 200))
def test_the_longest_wait_never_shrinks_from_attempt_to_attempt(attempt):
    assert backoff.TASK.delay(attempt, 0.999) <= backoff.TASK.delay(attempt + 1, 0.999)


def test_the_first_waits_span_the_range_that_is_promised():
    assert (backoff.MAIL.delay(1, 0.0), round(backoff.MAIL.delay(1, 0.999999))) == (300, 600)
    assert (backoff.TASK.delay(1, 0.0), round(backoff.TASK.delay(1, 0.999999))) == (0, 15)
    assert backoff.TASK.delay(30, 0.999) == pytest.approx(0.999 * 3600)


def test_sixteen_attempts_at_a_mail_span_two_to_five_days():
    assert 2 <= sum(backoff.MAIL.delay(attempt, 0.5) for attempt in range(1, 16)) / 86400 <= 5


@pytest.mark.parametrize("chance, wait", [(NEVER_JITTER, 0.0), (ALWAYS_LATE, 0.999 * 30)])
def test_the_wait_grows_with_the_attempts_of_the_row(tasks, chance, wait):
    assert ran(tasks, raising(ValueError()), Job(1, "t", "{}", attempts=1), chance=chance).delay == pytest.approx(wait)


# ── unknown ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", [Policy(on_unknown="hold"), Policy(delivery=AT_MOST_ONCE), Policy(delivery=AT_MOST_ONCE, on_unknown="retry")])
def test_what_nobody_knows_is_held_when_the_policy_says_so(tasks, policy):
    outcome = ran(tasks, raising(Unknown("cut after the dot")), policy=policy)
    assert (outcome.state, outcome.reason) == (State.HELD, "unknown")
    assert "asyncsend release" in outcome.error
    assert execute.after_death(Job(1, "t", "{}"), policy, "killed", "SIGKILL.", NEVER_JITTER).state is State.HELD


def test_what_nobody_knows_is_tried_again_otherwise():
    outcome = execute.after_death(Job(1, "t", "{}"), Policy(), "timeout", "it took too long.", NEVER_JITTER)
    assert (outcome.verb, outcome.reason) == ("retry", "timeout")
    assert execute.after_death(Job(1, "t", "{}", attempts=4), Policy(max_attempts=5), "timeout", "slow.", NEVER_JITTER).reason == "max-attempts"


def test_the_third_death_of_its_run_makes_a_job_dead_and_charges_no_attempt():
    verbs = [execute.after_crash(Job(1, "t", "{}", crashes=crashes), started=True) for crashes in range(3)]
    assert [(one.verb, one.crashed, one.charged) for one in verbs] == [("release", True, False), ("release", True, False), ("bury", True, False)]
    assert verbs[2].reason == "crash-loop"


def test_a_job_that_had_not_begun_is_given_back_uncharged():
    outcome = execute.after_crash(Job(1, "t", "{}", crashes=2), started=False)
    assert (outcome.verb, outcome.crashed, outcome.charged) == ("release", False, False)


# ── what a task may raise ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_exception_names_its_class_its_words_and_the_line_in_the_task(tasks):
    outcome = ran(tasks, raising(KeyError("colour")))
    assert (outcome.verb, outcome.reason) == ("retry", "exception")
    assert "KeyError: 'colour'" in outcome.error
    assert re.search(r"\[test_execute\.py:\d+ function\]", outcome.error)
    assert "execute.py:" not in outcome.error.replace("test_execute.py:", "")


@pytest.mark.parametrize("error", [Unprintable(), ValueError(NotText()), BaseException("root"), GeneratorExit(), StopIteration(1), MemoryError(), RecursionError()])
def test_nothing_a_task_raises_gets_past(tasks, error):
    outcome = ran(tasks, raising(error))
    assert (outcome.verb, outcome.reason) == ("retry", "exception")
    assert type(error).__name__ in outcome.error


def test_an_exception_of_a_megabyte_is_cut_and_stays_one_printable_line(tasks):
    outcome = ran(tasks, raising(ValueError("\x1b[2J\r\nforged line " + "x" * 1_000_000)))
    assert len(outcome.error) < MAX_TEXT
    assert outcome.error.isprintable()


@pytest.mark.parametrize("code", [0, 1, None, "text", NotText()])
def test_sys_exit_is_a_failed_attempt_that_says_to_return_instead(tasks, code):
    outcome = ran(tasks, raising(SystemExit(code)))
    assert (outcome.verb, outcome.reason) == ("retry", "exited")
    assert "return instead" in outcome.error


def test_a_keyboard_interrupt_is_let_through(tasks):
    with pytest.raises(KeyboardInterrupt):
        ran(tasks, raising(KeyboardInterrupt()))


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CIRCLE: list = []
CIRCLE.append(CIRCLE)
DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [object(), NotText(), {1, 2}, b"bytes", CIRCLE, DEEP, {(1, 2): 3}, float("nan"), float("inf"), "\ud800", {"\udfff": ["ü\ud800"]}, "x" * 5_000_000, ["é"] * 100_000, 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_any_result_is_done_and_stored_as_strict_json_that_fits(tasks, value):
    outcome = ran(tasks, lambda payload, job: value)
    assert outcome.state is State.DONE
    assert len(outcome.result.encode("utf-8")) <= MAX_RESULT_BYTES
    json.loads(outcome.result, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert Outcome.from_dict(json.loads(json.dumps(outcome.as_dict()))) == outcome


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PAYLOADS = {
    "nothing": "",
    "not json": "{to: ann}",
    "php serialized": 'a:1:{s:2:"to";}',
    "a list": "[]",
    "a number": "17",
    "a text": '"x"',
    "null": "null",
    "two values": "{} {}",
    "byte order mark": "\ufeff{}",
    "100k lists deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "100k objects deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "100k deep, unclosed": "[" * 100_000,
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": -Infinity}',
    "5000 digits": '{"a": ' + "9" * 5000 + "}",
    "half a pair, escaped": '{"a": "\\ud800"}',
    "half a pair, escaped in capitals": '{"\\UD800": 1, "b": "\\uDFFF"}',
    "half a pair": '{"a": "\ud800"}',
    "invalid UTF-8": b'{"a": "caf\xe9"}'.decode("utf-8", "surrogateescape"),
    "5 MB": '{"a": "' + "x" * 5_000_000 + '"}',
    "4 MB of characters, more of bytes": '{"a": "' + "é" * (MAX_PAYLOAD_BYTES // 2) + '"}',
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_malformed_payload_is_dead_at_once_and_never_reaches_the_task(tasks, payload):
    outcome = ran(tasks, lambda members, job: pytest.fail("the task was called"), Job(1, "t", payload))
    assert (outcome.state, outcome.reason) == (State.DEAD, "bad-payload")
    assert outcome.error.isprintable()
    assert len(outcome.error) < 400
    outcome.error.encode("utf-8")


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_no_text_at_all_makes_parsing_raise_anything_but_bad_payload(text):
    try:
        assert isinstance(execute.parsed(text), dict)
    except BadPayload:
        pass


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_payload_arrives_member_by_member(members):
    assert execute.parsed(json.dumps(members)) == members


# ── tasks that are not there, jobs that must not run ─────────────────────────────────────────────────────────────────


def test_an_unknown_task_is_held_uncharged_and_names_the_task_and_the_modules(lite):
    lite.tasks("from asyncsend import task\n@task\ndef here_i_am(): ...\n", module="tasks_of_test_execute")
    tasks = Tasks(lite.settings())
    tasks.load_modules()
    outcome = execute.execute(Job(1, "reprot", "{}"), tasks, NEVER_JITTER)
    assert (outcome.state, outcome.reason, outcome.charged) == (State.HELD, "unknown-task", False)
    for word in ("'reprot'", "tasks_of_test_execute", "here_i_am", "asyncsend release"):
        assert word in outcome.error


def test_a_row_is_never_an_import_path_nor_a_program(tasks):
    for name in ("os.system", "shop.tasks:build", "command./bin/sh", "command.sh -c id", "../email", "__import__", "Email", "email "):
        assert execute.execute(Job(1, name, "{}"), tasks, NEVER_JITTER).reason == "unknown-task"


def test_a_missing_command_says_which_setting_makes_it(tasks):
    outcome = execute.execute(Job(1, "command.resize", "{}"), tasks, NEVER_JITTER)
    assert (outcome.state, outcome.reason) == (State.HELD, "unknown-task")
    assert "ASYNCSEND_COMMAND_RESIZE" in outcome.error


@pytest.mark.parametrize("source, cause", [("import nowhere_at_all", "nowhere_at_all"), ("def (", "SyntaxError"), ("raise SystemExit(3)", "SystemExit")])
def test_a_job_whose_module_may_only_be_broken_waits_uncharged(lite, source, cause):
    module = f"broken_of_test_execute_{cause.lower()}"
    lite.tasks(source, module=module)
    tasks = Tasks(lite.settings())
    tasks.load_modules()
    outcome = execute.execute(Job(1, "report", "{}"), tasks, NEVER_JITTER)
    assert (outcome.verb, outcome.reason, outcome.charged) == ("snooze", "module-failed", False)
    assert module in outcome.error
    assert cause in outcome.error
    assert execute.execute(Job(1, "command.none", "{}"), tasks, NEVER_JITTER).verb == "hold"


@pytest.mark.parametrize(
    "task, setting, value",
    [
        ("email", "ASYNCSEND_EMAIL_URL", "pigeon://loft"),
        ("sms", "ASYNCSEND_SMS_URL", "twilio://nobody"),
        ("webhook", "ASYNCSEND_WEBHOOK_SECRET", "whsec_tooshort"),
        ("command.resize", "ASYNCSEND_COMMAND_RESIZE", 'php "unclosed'),
    ],
)
def test_a_wrong_setting_of_a_task_snoozes_its_jobs_and_names_the_setting(lite, task, setting, value):
    lite.environment[setting] = value
    outcome = execute.execute(Job(1, task, "{}", attempts=99), Tasks(lite.settings()), NEVER_JITTER)
    assert (outcome.verb, outcome.reason, outcome.charged) == ("snooze", "configuration", False)
    assert setting in outcome.error


def test_an_expired_job_is_cancelled_before_it_starts():
    outcome = execute.before(Job(1, "t", "{}", expired=True))
    assert (outcome.state, outcome.reason) == (State.CANCELLED, "expired")


def test_a_row_no_strict_server_would_have_stored_is_held_and_says_what_to_mend():
    outcome = execute.before(Job(1, "t", "{}", trouble="run_at", expired=True))
    assert (outcome.state, outcome.reason, outcome.charged) == (State.HELD, "bad-row", False)
    assert "run_at" in outcome.error
    assert execute.before(Job(1, "t", "{}")) is None


@pytest.mark.parametrize("own, seconds", [(None, 60), (5, 5), (0, 1), (-3, 1), (10**9, 86400)])
def test_a_rows_timeout_is_clamped_to_one_second_and_one_day(own, seconds):
    assert execute.timeout_of(Job(1, "t", "{}", timeout_seconds=own), Policy(timeout=60)) == seconds


def test_a_sender_that_cannot_be_imported_just_now_makes_its_jobs_wait_uncharged(tasks):
    def half_an_upgrade(name):
        raise ImportError("cannot import name 'Smtp' from 'asyncsend.tasks.smtp'")

    tasks.find = half_an_upgrade
    outcome = execute.execute(Job(1, "email", "{}"), tasks, NEVER_JITTER)
    assert (outcome.verb, outcome.reason, outcome.charged) == ("snooze", "module-failed", False)
    assert "cannot import name" in outcome.error


@pytest.mark.parametrize(("setting", "job"), [("smtp://h?x=1", Job(1, "email", "{}")), ("smtp://h", Job(1, "email", "no JSON")), ("smtp://h", Job(1, "email", "{}")), ("smtp://h", Job(1, "email", "{}", expires_by=0.0))])
def test_a_mail_that_met_a_wrong_setting_a_bad_payload_or_its_end_reached_no_server_and_uses_up_no_quota(lite, setting, job):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": setting}
    assert execute.execute(job, Tasks(lite.settings()), NEVER_JITTER).unsent
