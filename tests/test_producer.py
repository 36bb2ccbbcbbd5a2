"""Enqueueing in Python: in the app's own transaction or in one of ours, and what is refused before anything is written."""

import importlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import urlsplit

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import eventually, made_store

import asyncsend
from asyncsend import ConfigurationError, InvalidJob, enqueue, enqueue_many, producer, task, tasks
from asyncsend.answers import BadPayload
from asyncsend.job import MAX_PAYLOAD_BYTES
from asyncsend.producer import new_job
from asyncsend.times import LAST_INSTANT

MAIL = {"to": "ann@example.com", "subject": "Hi", "text": "Hello 😀"}


@pytest.fixture
def shop(site, monkeypatch):
    """This process is an app of the site."""
    for name, value in site.environment.items():
        if name.startswith("ASYNCSEND_"):
            monkeypatch.setenv(name, value)
    yield site
    if producer._own.store is not None:
        producer._own.store.close()
        producer._own.store = None


@pytest.fixture
def app(shop, server):
    """The app's own connection, with a transaction open as its driver does it."""
    if shop.url.startswith("sqlite"):
        connection = sqlite3.connect(shop.url.removeprefix("sqlite:///"))
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.commit()
    else:
        connection = server.connect(urlsplit(shop.url).path[1:])
        connection.autocommit(False)
        connection.cursor().execute("CREATE TABLE orders (id INT) ENGINE=InnoDB")
    yield connection
    with suppress(pymysql.err.Error):  # a test may have closed it
        connection.close()


# ── in a transaction of ours ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_enqueued_job_is_a_ready_row_with_the_payload_as_it_was_given(shop):
    uid = enqueue("email", MAIL)
    assert shop.rows("uid, task, queue, priority, state, payload") == [(uid, "email", "default", 0, "ready", '{"to":"ann@example.com","subject":"Hi","text":"Hello 😀"}')]


def test_text_that_is_a_json_object_is_stored_as_it_is(shop):
    enqueue("email", '{"a" : 1}')
    assert shop.rows("payload") == [('{"a" : 1}',)]


def test_every_option_reaches_its_column(shop):
    enqueue("email", MAIL, queue="critical", priority=-7, max_attempts=3, timeout=timedelta(minutes=2), unique="käse", uid="order:17", batch="b1")
    columns = "queue, priority, max_attempts, timeout_seconds, uid, batch_id"
    assert shop.rows(columns) == [("critical", -7, 3, 120, "order:17", "b1")]
    unique = shop.rows("unique_key")[0][0]
    assert (unique.decode() if isinstance(unique, bytes) else unique) == "käse"


@pytest.mark.parametrize("wait", [300, 300.0, timedelta(minutes=5)])
def test_a_delay_counts_from_now_by_the_database_clock(shop, wait):
    enqueue("email", MAIL, delay=wait, expires=wait)
    waits = "UNIX_TIMESTAMP(run_at) - UNIX_TIMESTAMP(NOW(6)), UNIX_TIMESTAMP(expires_at) - UNIX_TIMESTAMP(NOW(6))"
    assert all(240 < float(seconds) <= 300 for seconds in shop.rows(waits)[0])


@pytest.mark.parametrize(
    "moment",
    [datetime(2030, 7, 1, 9, 0, tzinfo=UTC), datetime(2030, 7, 1, 9, 0), datetime(2030, 7, 1, 11, 0, tzinfo=timezone(timedelta(hours=2))), datetime(2030, 7, 1, 9, tzinfo=UTC).timestamp()],
)
def test_an_instant_is_the_same_however_it_is_given_and_a_naive_one_is_utc(shop, moment):
    uid = enqueue("email", MAIL, at=moment, expires=datetime(2031, 1, 1))
    store = shop.store()
    job = store.find(uid)
    store.close()
    assert (job.run_at, job.expires_at) == (datetime(2030, 7, 1, 9, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC))


def test_a_unique_key_that_is_taken_gives_the_uid_of_the_job_that_has_it(shop):
    first = enqueue("email", MAIL, unique="report:2026-11")
    assert enqueue("email", {"other": 1}, unique="report:2026-11") == first
    assert enqueue("email", MAIL, unique="Report:2026-11") != first
    assert len(shop.rows()) == 2


def test_a_unique_key_is_free_again_when_its_job_is_finished(shop):
    first = enqueue("email", MAIL, unique="k")
    shop("cancel", first)
    assert enqueue("email", MAIL, unique="k") != first


def test_a_job_inserted_without_uid_that_has_the_key_is_named_by_its_id(shop):
    shop.insert("email", "{}", unique_key="k")
    assert enqueue("email", MAIL, unique="k") == str(shop.rows("id")[0][0])


def test_the_same_uid_twice_makes_one_job(shop):
    assert enqueue("email", MAIL, uid="order:17") == enqueue("email", {"other": 1}, uid="order:17") == "order:17"
    assert shop.rows("payload") == [('{"to":"ann@example.com","subject":"Hi","text":"Hello 😀"}',)]


def test_many_jobs_are_all_there_in_order(shop):
    uids = enqueue_many("email", ({"number": number} for number in range(1200)), queue="bulk", priority=-1)
    assert len(set(uids)) == 1200
    assert shop.rows("uid, payload, queue, priority") == [(uid, f'{{"number":{number}}}', "bulk", -1) for number, uid in enumerate(uids)]


def test_all_jobs_of_a_bulk_have_the_options_of_the_first(shop):
    enqueue_many("email", [{"n": 1}, {"n": 2}, {"n": 3}], queue="low", priority=7, max_attempts=3, timeout=9, batch="b", concurrency_key="c", expires=3600)
    rows = shop.rows("queue, priority, max_attempts, timeout_seconds, batch_id, concurrency_key, expires_at IS NULL, unique_key")
    assert len(rows) == 3 and len({str(row) for row in rows}) == 1
    assert rows[0][:5] == ("low", 7, 3, 9, "b")


def test_one_bad_job_among_many_and_none_is_written(shop):
    with pytest.raises(InvalidJob):
        enqueue_many("email", [{"a": 1}, {"a": math.nan}])
    assert shop.rows() == []


def test_no_payloads_make_no_jobs_and_open_no_connection(shop):
    assert enqueue_many("email", []) == []
    assert producer._own.store is None


@pytest.mark.parametrize("option", ["unique", "uid"])
def test_what_names_one_job_is_refused_for_many(shop, option):
    with pytest.raises(InvalidJob, match=f"{option} names one job"):
        enqueue_many("email", [MAIL], **{option: "x"})


def test_a_table_that_is_missing_is_a_configuration_error(shop):
    shop.sql("DROP TABLE asyncsend_jobs")
    with pytest.raises(ConfigurationError, match="asyncsend init"):
        enqueue("email", MAIL)


def test_settings_that_change_are_followed(shop, tmp_path, monkeypatch):
    """A test suite of the user's sets another home for each test."""
    enqueue("email", MAIL)
    from parts import made_store

    made_store(f"sqlite:///{tmp_path}/second.sqlite3").close()
    monkeypatch.setenv("ASYNCSEND_DATABASE_URL", f"sqlite:///{tmp_path}/second.sqlite3")
    enqueue("email", MAIL)
    assert len(shop.rows()) == 1


# ── in the app's transaction ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["one", "many", "unique", "task"])
def test_the_job_exists_if_and_only_if_the_app_s_transaction_does(shop, app, how):
    @task
    def greet(name):
        raise AssertionError

    def order():
        app.cursor().execute("INSERT INTO orders VALUES (1)")
        match how:
            case "one":
                return [enqueue("email", MAIL, connection=app)]
            case "many":
                return enqueue_many("email", [MAIL] * 3, connection=app)
            case "unique":
                return [enqueue("email", MAIL, unique="k", connection=app)]
        return [greet.enqueue("ann", connection=app)]

    order()
    assert shop.rows() == [], "it was committed by somebody"
    app.rollback()
    assert shop.rows() == []
    uids = order()
    assert shop.rows() == []
    app.commit()
    assert [row[0] for row in shop.rows("uid")] == uids
    cursor = app.cursor()
    cursor.execute("SELECT COUNT(*) FROM orders")
    assert cursor.fetchone()[0] == 1


def test_a_key_that_is_taken_does_not_spoil_the_app_s_transaction(shop, app):
    first = enqueue("email", MAIL, unique="k")
    app.cursor().execute("INSERT INTO orders VALUES (1)")
    assert enqueue("email", MAIL, unique="k", connection=app) == first
    second = enqueue("email", MAIL, connection=app)
    app.commit()
    assert [row[0] for row in shop.rows("uid")] == [first, second]


@pytest.mark.parametrize("charset", ["latin1", "utf8mb4", "ascii"])
def test_emoji_and_accents_reach_the_task_whatever_the_charset_of_the_app_s_connection(shop, app, charset):
    if not shop.url.startswith("sqlite"):
        app.set_character_set(charset)
    wanted = {**MAIL, "name\u20ac": ["Größe 😀", "\\u00e9 \\", '"ü"']}
    first = enqueue("email", wanted, unique="käse 😀")
    assert enqueue("email", wanted, unique="käse 😀", connection=app) == first, "the key is the same bytes"
    enqueue("email", wanted, connection=app)
    enqueue("email", json.dumps(wanted, ensure_ascii=False, indent=1), unique="größe 😀", connection=app)
    app.commit()
    assert [json.loads(payload) for (payload,) in shop.rows("payload")] == [wanted] * 3
    assert enqueue("email", {}, unique="größe 😀") == shop.rows("uid")[2][0]


def test_a_payload_that_fits_only_as_utf8_is_refused_with_the_limit_named(shop, app):
    payload = {"text": "é" * (MAX_PAYLOAD_BYTES // 3)}
    if shop.url.startswith("sqlite"):
        enqueue("email", payload, connection=app)
        return
    with pytest.raises(InvalidJob, match="the limit is 4,194,304"):
        enqueue("email", payload, connection=app)


def test_an_instant_is_right_whatever_the_time_zone_of_the_app_s_session(shop, app):
    if not shop.url.startswith("sqlite"):
        app.cursor().execute("SET time_zone = '+05:45'")
    uid = enqueue("email", MAIL, at=datetime(2030, 7, 1, 9, tzinfo=UTC), connection=app)
    app.commit()
    store = shop.store()
    assert store.find(uid).run_at == datetime(2030, 7, 1, 9, tzinfo=UTC)
    store.close()


def test_an_error_of_the_app_s_connection_comes_through_as_it_is(shop, app):
    app.close()
    with pytest.raises((sqlite3.ProgrammingError, pymysql.err.InterfaceError)):
        enqueue("email", MAIL, connection=app)


@pytest.mark.parametrize("connection", ["mysql://localhost/shop", 17, object()])
def test_what_is_no_connection_is_refused(shop, connection):
    with pytest.raises(ConfigurationError, match="must be a database connection"):
        enqueue("email", MAIL, connection=connection)


def test_the_table_prefix_of_the_file_holds_for_the_app_s_connection_too(shop, app, monkeypatch):
    (shop.home / ".env").touch(0o600)
    (shop.home / ".env").write_text("ASYNCSEND_TABLE_PREFIX=shop_\n")
    shop("init")
    enqueue("email", MAIL, connection=app)
    app.commit()
    cursor = app.cursor()
    cursor.execute("SELECT COUNT(*) FROM shop_jobs")
    assert cursor.fetchone()[0] == 1
    assert shop.rows() == []


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = [
    ({"queue": "a'b"}, "at most 64"), ({"queue": "q" * 300}, "at most 64"), ({"queue": "a\x1b[2J"}, "at most 64"), ({"queue": ""}, "at most 64"), ({"queue": 7}, "at most 64"),
    ({"priority": 10**12}, "-32767 to 32767"), ({"priority": 1.5}, "-32767 to 32767"), ({"priority": True}, "-32767 to 32767"), ({"priority": "high"}, "-32767 to 32767"),
    ({"max_attempts": 0}, "1 to 1000"), ({"max_attempts": -1}, "1 to 1000"), ({"max_attempts": 1001}, "1 to 1000"), ({"max_attempts": "3"}, "1 to 1000"),
    ({"timeout": 0}, "1 to 86400"), ({"timeout": -5}, "1 to 86400"), ({"timeout": 86401}, "1 to 86400"), ({"timeout": math.inf}, "number of seconds"),
    ({"timeout": math.nan}, "number of seconds"), ({"timeout": "60s"}, "number of seconds"), ({"timeout": True}, "number of seconds"),
    ({"delay": -1}, "ten years"), ({"delay": math.nan}, "number of seconds"), ({"delay": "5m"}, "number of seconds"), ({"delay": 10**12}, "ten years"), ({"delay": timedelta.max}, "ten years"),
    ({"expires": -1}, "ten years"), ({"expires": "1h"}, "number of seconds"), ({"expires": datetime(9999, 1, 1)}, "2037-01-01"),
    ({"at": datetime(1970, 1, 1)}, "1970-01-02"), ({"at": datetime(1969, 1, 1)}, "1970-01-02"), ({"at": datetime(9999, 12, 31, 23, 59)}, "2037-01-01"), ({"at": datetime.min}, "1970"),
    ({"at": LAST_INSTANT + 1}, "2037-01-01"), ({"at": math.nan}, "2037-01-01"), ({"at": "tomorrow"}, "a datetime"), ({"at": True}, "a datetime"),
    ({"at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))}, "too far away|2037"),
    ({"at": 10**9, "delay": 5}, "either at or delay"),
    ({"unique": ""}, "1 to 191 bytes"), ({"unique": "ü" * 96}, "1 to 191 bytes"), ({"unique": "\ud800"}, "surrogate"), ({"unique": 17}, "must be text"), ({"unique": b"x"}, "must be text"),
    ({"uid": ""}, "at most 64"), ({"uid": "a b"}, "at most 64"), ({"uid": "x" * 65}, "at most 64"), ({"uid": "ü"}, "at most 64"), ({"uid": 17}, "at most 64"),
    ({"batch": ""}, "at most 64"), ({"batch": "x" * 65}, "at most 64"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "limit"), REFUSED)
def test_an_option_that_does_not_fit_is_refused_with_its_limit_named(options, limit):
    with pytest.raises(InvalidJob, match=limit) as refused:
        new_job("email", MAIL, **options)
    assert not any(ord(letter) < 32 for letter in str(refused.value))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["", "a b", "9lives", "x" * 129, "os.system;", "täsk", "a\n", None, 7, ["email"]])
def test_a_name_that_could_be_no_task_is_refused(name):
    with pytest.raises(InvalidJob, match="at most 128"):
        new_job(name, MAIL)


def nested(depth: int) -> dict:
    payload: dict = {}
    for _ in range(depth):
        payload = {"a": payload}
    return payload


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ("{", "not JSON"), ("[1]", "must be a JSON object"), ('"text"', "must be a JSON object"), ("null", "must be a JSON object"), ("", "not JSON"),
        ('{"a": NaN}', "NaN is not JSON"), ('{"a": -Infinity}', "Infinity is not JSON"), ('{"a": "\\ud800"}', "surrogate"), ('{"a": "\udcff"}', "surrogate"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "1,000 levels"), ('{"a": "' + "x" * 20_000_000 + '"}', "4,194,304"), ('{"a": 1' + "0" * 5000 + "}", "not JSON"),
        ([1], "must be a mapping"), (None, "must be a mapping"), (b"{}", "must be a mapping"),
        ({"a": math.nan}, "cannot be written as JSON"), ({"a": math.inf}, "cannot be written as JSON"), ({"a": {1, 2}}, "cannot be written as JSON"), ({"a": datetime(2026, 1, 1)}, "cannot be written as JSON"),
        ({(1, 2): 3}, "cannot be written as JSON"), ({"a": "\ud800"}, "surrogate"), ({"a": "x" * 5_000_000}, "4,194,304"), (nested(100_000), "1,000 levels"),
    ],
    ids=range(23),
)  # fmt: skip
def test_a_payload_that_could_not_be_read_again_is_refused_with_the_reason(payload, says):
    with pytest.raises(InvalidJob, match=says) as refused:
        new_job("email", payload)
    assert len(str(refused.value)) < 300


def test_a_payload_of_exactly_the_limit_arrives(shop):
    payload = '{"a":"' + "x" * (MAX_PAYLOAD_BYTES - 8) + '"}'
    enqueue("email", payload)
    assert shop.rows("LENGTH(payload)") == [(MAX_PAYLOAD_BYTES,)]


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")), lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=4))
def test_any_json_object_is_what_the_task_will_get(payload):
    import json

    assert json.loads(new_job("email", payload).payload) == payload


def test_a_fraction_of_a_second_is_a_whole_second_of_timeout():
    assert new_job("email", MAIL, timeout=0.2).timeout_seconds == 1
    assert new_job("email", MAIL, timeout=1.2).timeout_seconds == 2


def test_an_error_of_a_job_is_a_value_error_too():
    with pytest.raises(ValueError):
        new_job("email", MAIL, priority=10**12)


# ── @task ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_still_the_function_it_was():
    @task
    def add(a: int, b: int = 2) -> int:
        """Sums."""
        return a + b

    assert (add(1), add(1, b=5), add.__name__, add.__doc__, add.name) == (3, 6, "add", "Sums.", "add")


def test_enqueueing_a_task_stores_its_arguments_by_name_in_its_own_queue(shop):
    @task(name="shop.report", queue="reports", max_attempts=7, timeout=timedelta(seconds=9))
    def report(month: str, *, draft: bool = False) -> None:
        raise AssertionError

    report.enqueue("2026-11", draft=True)
    report.enqueue("2026-12", queue="later", delay=60, unique="r")
    assert shop.rows("task, payload, queue") == [
        ("shop.report", '{"month":"2026-11","draft":true}', "reports"),
        ("shop.report", '{"month":"2026-12"}', "later"),
    ]
    assert tasks.declared["shop.report"].policy.timeout == 9.0


def test_a_task_known_by_name_goes_to_its_own_queue(shop):
    @task(queue="reports")
    def report(month):
        raise AssertionError

    enqueue("report", {"month": "x"})
    assert shop.rows("queue") == [("reports",)]


@pytest.mark.parametrize("option", producer._OPTIONS)
def test_a_parameter_called_like_an_option_is_the_function_s_own(shop, option):
    namespace = {"task": task}
    exec(f"@task\ndef own_{option}({option}):\n    pass\n", namespace)
    namespace[f"own_{option}"].enqueue(**{option: "x"})
    assert shop.rows("payload") == [(f'{{"{option}":"x"}}',)]


def test_arguments_that_do_not_fit_are_refused_and_nothing_is_stored(shop):
    @task
    def greet(name, *, loud=False):
        raise AssertionError

    for arguments, keywords in (((), {}), (("a", "b"), {}), (("a",), {"volume": 3}), ((), {"name": "a", "nmae": "b"})):
        with pytest.raises(InvalidJob, match="greet cannot be called like that"):
            greet.enqueue(*arguments, **keywords)
    assert shop.rows() == []


def test_members_that_do_not_fit_the_signature_are_a_bad_payload_before_the_function_starts():
    started = []

    @task
    def greet(name):
        started.append(name)

    run = tasks.declared["greet"].function
    for payload in ({}, {"nmae": "ann"}, {"name": "ann", "more": 1}):
        with pytest.raises(BadPayload, match=r"do not fit greet\(name\)"):
            run(payload, None)
    assert started == []
    run({"name": "ann"}, None)
    assert started == ["ann"]


def test_a_type_error_inside_the_function_is_no_bad_payload():
    @task
    def broken(name):
        return name + 1

    with pytest.raises(TypeError):
        tasks.declared["broken"].function({"name": "ann"}, None)


def test_keywords_of_a_function_that_takes_any_are_members_of_the_payload(shop):
    @task
    def anything(**members):
        raise AssertionError

    anything.enqueue(a=1, b=2, queue="q")
    assert shop.rows("payload, queue") == [('{"a":1,"b":2}', "q")]


def test_arguments_that_json_could_not_name_are_refused(shop):
    @task
    def several(*numbers):
        raise AssertionError

    @task
    def by_place(number, /):
        raise AssertionError

    for function in (several, by_place):
        with pytest.raises(InvalidJob, match="positional arguments only"):
            function.enqueue(1)


def test_two_tasks_of_one_name_are_refused_and_both_are_named():
    @task(name="send")
    def first():
        pass

    with pytest.raises(ConfigurationError, match=r"two tasks are called 'send' .*first.*second"):

        @task(name="send")
        def second():
            pass


def test_a_module_that_is_loaded_again_may_declare_its_tasks_again():
    for _ in range(2):

        @task
        def reloaded():
            pass


@pytest.mark.parametrize("name", ["email", "sms", "webhook", "command.sort"])
def test_the_names_of_built_in_tasks_are_refused(name):
    with pytest.raises(ConfigurationError, match="built in"):

        @task(name=name)
        def mine():
            pass


@pytest.mark.parametrize(
    "options",
    [{"name": "a b"}, {"queue": "a b"}, {"queue": "x" * 65}, {"timeout": 0}, {"timeout": -1}, {"timeout": math.nan}, {"timeout": math.inf}, {"max_attempts": 0}, {"max_attempts": 10**6}, {"delivery": "maybe"}, {"on_unknown": "shrug"}],
)
def test_a_declaration_out_of_range_is_refused(options):
    with pytest.raises(ConfigurationError):

        @task(**options)
        def mine():
            pass

    assert "mine" not in tasks.declared


def test_a_function_that_would_only_make_an_object_is_refused():
    """Its jobs would be done without having begun."""

    async def later():
        pass

    def some():
        yield 1

    async def both():
        yield 1

    for function in (later, some, both):
        with pytest.raises(ConfigurationError, match="plain function"):
            task(function)


# ── connections of ours ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fork_after_first_use_opens_a_connection_of_its_own(shop):
    """What a preforking web server does. Both go on; neither hears the other's replies, nor ends its session."""
    enqueue("email", {"who": "parent", "number": -1})
    ours = producer._own.store
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number in range(20):
                    enqueue("email", {"who": child, "number": number})
                code = 0 if producer._own.store is not ours else 2
            finally:
                os._exit(code)
        children.append(pid)
    for number in range(20):
        enqueue("email", {"who": "parent", "number": number})
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    enqueue("email", {"who": "parent", "number": 20})
    assert producer._own.store is ours
    assert len(shop.rows()) == 82


def test_threads_of_a_web_server_enqueue_at_the_same_time(shop):
    failed = []

    def serve(who):
        try:
            for number in range(15):
                enqueue("email", {"who": who, "number": number})
        except BaseException as error:
            failed.append(error)
        finally:
            if producer._own.store is not None:
                producer._own.store.close()

    threads = [threading.Thread(target=serve, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(shop.rows("DISTINCT payload")) == 60


@pytest.mark.parametrize("url", ["mysql"], indirect=True)
def test_a_connection_the_server_closed_is_reopened_and_no_job_is_doubled(shop, server):
    enqueue("email", {"number": 0})
    for number in range(1, 6):
        connection = producer._own.store._connection
        with server.connect() as other, other.cursor() as cursor:
            cursor.execute(f"KILL {connection.thread_id()}")
            eventually(lambda cursor=cursor, connection=connection: not cursor.execute(f"SELECT 1 FROM information_schema.processlist WHERE id = {connection.thread_id()}"), what="the session's end")
        if number % 2:
            enqueue("email", {"number": number})
        else:
            enqueue_many("email", [{"number": number}])
    assert shop.rows("payload") == [(f'{{"number":{number}}}',) for number in range(6)]


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", asyncsend.__all__)
def test_every_exported_name_can_be_imported_and_says_what_it_is(name):
    assert getattr(importlib.import_module("asyncsend"), name).__doc__


def test_the_exported_names_are_sorted_and_complete():
    assert sorted(asyncsend.__all__, key=lambda name: (name.islower(), name)) == asyncsend.__all__
    assert set(asyncsend.__all__) == set(asyncsend._ROOMS)


def test_a_name_that_is_not_exported_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        asyncsend.nonsense
    with pytest.raises(ImportError):
        from asyncsend import nonsense  # noqa: F401


def test_enqueue_and_task_are_functions_whatever_was_imported_before():
    code = (
        "import asyncsend.producer, asyncsend.tasks, asyncsend.cli.enqueue, asyncsend.errors\n"
        "from asyncsend import enqueue, enqueue_many, task, Retry\n"
        "import asyncsend\n"
        "print(callable(enqueue), callable(enqueue_many), callable(task), asyncsend.enqueue is enqueue, asyncsend.producer.enqueue is enqueue)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["True"] * 5


def test_importing_the_package_imports_none_of_its_rooms():
    code = "import asyncsend, sys; print([name for name in sys.modules if name.startswith('asyncsend.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_key_taken_after_the_snapshot_of_the_app_is_found_all_the_same(server):
    """REPEATABLE READ: the app has read already, another session then commits the same key."""
    with server.database() as name:
        made_store(server.url(name)).close()
        with server.connect(name) as app, server.connect(name) as other:
            with app.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("BEGIN")
                cursor.execute("SELECT COUNT(*) FROM asyncsend_jobs")
                cursor.fetchall()
            first = enqueue("email", {}, unique="k", connection=other)
            assert enqueue("email", {}, unique="k", connection=app) == first
