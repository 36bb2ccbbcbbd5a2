"""A job for each line: what files are understood, what a template may do, and that a repeat after a kill makes no doubles."""

import csv
import html
import io
import json
import os
import pty
import re
import subprocess

import pymysql
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from parts import Site, eventually

from asyncsend import bulk, producer
from asyncsend.cli import cli
from asyncsend.errors import InvalidJob
from asyncsend.store.mysql import quoted

LETTER = {"to": "{{email}}", "subject": "News, {{ name }}", "text": "Hello {{name}}: {{name}}", "html": "<p>{{name}}</p>"}
texts = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.fixture
def letter(tmp_path):
    path = tmp_path / "letter.json"
    path.write_text(json.dumps(LETTER), "utf-8")
    return f"@{path}"


def file(tmp_path, content: str | bytes, name: str = "customers.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def call(site: Site, *arguments: str, code: int = 0, stdin: str = ""):
    """A command in this process; where the process itself is the point, the site is called instead."""
    result = CliRunner().invoke(cli, arguments, env=site.environment, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def payloads(site: Site) -> list[dict]:
    return [json.loads(payload) for (payload,) in site.rows("payload")]


def table(content: bytes, **options) -> bulk.Table:
    return bulk.Table(io.BytesIO(content), **options)


# ── the template ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(texts)
@example("{{email}}")
@example("%s%%(name)s")
@example("<script>'\"&")
def test_a_value_is_escaped_in_html_raw_elsewhere_and_never_read_as_a_template(value):
    template = bulk.Template({"text": "100% {{a}}|{{ a }}", "html": "<b>{{a}}</b>", "body": {"html": ["{{a}}", 7]}, "n": None})
    made = template.fill({"a": value})
    safe = html.escape(value)
    assert made == {"text": f"100% {value}|{value}", "html": f"<b>{safe}</b>", "body": {"html": [safe, 7]}, "n": None}


@given(texts, st.sampled_from(["to", "subject", "from", "reply_to"]) | st.sampled_from(["X-Name", "base64", "html"]).map(lambda name: ("headers", name)))
@example("Ann\r\nBcc: all@example.com", "subject")
@example("Ann\u2028Bcc: all@example.com", "to")
@example("Ann\x85Bcc: all@example.com", "from")
@example("Ann\nBcc: all@example.com", ("headers", "base64"))
@example("Ann\nBcc: all@example.com", ("headers", "html"))
def test_nothing_that_ends_a_line_comes_into_a_header(value, member):
    inner = "x {{a}}"
    template = bulk.Template({member: inner} if isinstance(member, str) else {member[0]: {member[1]: inner}})
    try:
        made = json.dumps(template.fill({"a": value}), ensure_ascii=False)
    except bulk.BadLine as error:
        assert any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u2028\u2029" for letter in value)
        assert "belongs to a header" in str(error) and str(error).isprintable()
    else:
        assert len(made.splitlines()) == 1 and "\\n" not in made.replace("\\\\", "") and "\\r" not in made.replace("\\\\", "")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"text": "Hello {{name"}, "write {{name}}"), ({"text": "{{ }}"}, "write {{name}}"), ({"text": "{{{name}}}"}, "write {{name}}"), ({"{{name}}": "x"}, "name of a member"),
        ({"headers": {"{{name}}": "x"}}, "name of a member"), ({"subject": "a\nb"}, "line break"), ({"headers": {"X": "a\rb {{name}}"}}, "line break"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_filled_is_refused(members, says):
    with pytest.raises(InvalidJob, match=says):
        bulk.Template(members)


def test_braces_of_other_kinds_are_left_alone():
    style = "@media print{p{color:red}} {a} }}"
    assert bulk.Template({"html": style}).fill({}) == {"html": style}


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(texts, texts), max_size=5), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_spreadsheet_writes_is_read_as_it_was(rows, delimiter, end, bom):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["first, name", "e;mail"])
    numbers = []
    for row in rows:
        numbers.append(out.getvalue().count("\n") + 1)
        writer.writerow(row)
    found = table(b"\xef\xbb\xbf" * bom + out.getvalue().encode())
    assert found.columns == ("first, name", "e;mail")
    assert [(line.number, tuple(line.values.values()), line.wrong) for line in found] == [(number, row, None) for number, row in zip(numbers, rows, strict=True)]


@given(st.binary(max_size=80))
def test_no_bytes_make_reading_fail_in_another_way_than_with_a_sentence(content):
    try:
        for line in table(b"a,b\n" + content):
            assert line.wrong or (tuple(line.values) == ("a", "b") and line.raw.decode("utf-8") is not None)
    except InvalidJob:
        pass


@pytest.mark.parametrize(
    ("rest", "wrong"),
    [
        (b"x\n", {2: "1 fields, the header has 2"}), (b"1,2,3\n", {2: "3 fields"}), (b"\n\r\n1,2\n", {}), (b"1,J\xfcrgen\n1,2\n", {2: "not UTF-8 at its byte 4"}),
        (b'"a "q" b",2\n1,2\n', {2: "quotes"}), (b'1,"open\n', {2: "quotes"}), (b'"a "quoted"\nmore",x\n1,2\n', {2: "quotes", 3: "quote"}), (b'5" pipe,2\n', {2: "quote"}),
        (b'"one\ntwo",2\nx\n', {4: "1 fields"}),
    ],
)  # fmt: skip
def test_a_line_that_is_not_csv_is_known_by_its_number_and_the_next_one_is_read(rest, wrong):
    found = {line.number: line.wrong for line in table(b"a,b\n" + rest) if line.wrong}
    assert found.keys() == wrong.keys()
    assert all(text in found[number] for number, text in wrong.items())


@pytest.mark.parametrize(
    ("line", "says"),
    [("{", "not JSON"), ("[1]", "no JSON object"), ('{"a": NaN}', "NaN"), ('{"a":' * 2000, "not JSON|deeply"), ("7", "no JSON object"), (b'{"a":"\xfc"}', "not UTF-8")],
)
def test_a_line_that_is_no_json_object_is_known_by_its_number(line, says):
    content = b'{"a":1}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b'\n{"a":2.50}\n'
    first, bad, last = table(content, json_lines=True)
    assert (first.values, last.number, last.values) == ({"a": "1"}, 4, {"a": "2.50"})
    assert bad.number == 3
    assert re.search(says, bad.wrong)


def test_a_quote_that_is_never_closed_stops_the_reading_instead_of_swallowing_lines():
    content = b"a,b\n1,2\n" + b'"open,2\n' + b"1,2\n" * 50_000
    with pytest.raises(InvalidJob, match="line 3: a quote is opened there"):
        list(table(content))


def test_another_task_template_batch_number_or_content_is_another_uid():
    lines = [("email", "t", None, 2, b"x"), ("sms", "t", None, 2, b"x"), ("email", "u", None, 2, b"x"), ("email", "t", "b", 2, b"x"), ("email", "t", None, 3, b"x"), ("email", "t", None, 2, b"y")]
    lines += [("email", "t", None, 1, b"2x"), ("email", "t", None, 12, b"x"), ("email", "t", "", 2, b"x"), ("email", "", "t", 2, b"x")]
    made = [bulk.uids(task, template, batch)(bulk.Line(number, raw, {})) for task, template, batch, number, raw in lines]
    assert len(set(made)) == len(lines)
    assert made == [bulk.uids(task, template, batch)(bulk.Line(number, raw, {"x": "y"})) for task, template, batch, number, raw in lines]


@given(st.text())
@example("\\'\"\0\n\r\x1a\\")
def test_a_literal_is_what_the_driver_makes_of_it(text):
    assert quoted(text) == f"'{pymysql.converters.escape_string(text)}'"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_line_of_a_spreadsheet_becomes_a_mail(site, tmp_path, letter):
    path = file(tmp_path, '\ufeffemail;name;unused\r\nann@example.com;Ann <3 & co;1\r\n"bob@example.com";"Bob ""B""";"two\r\nlines"\r\n\r\ncéline@example.com;Céline;\r\n')
    done = site("enqueue", "email", letter, "--each", path, "--batch", "november", code=0)
    assert (done.stdout, done.stderr) == ("", "3 added.\n")
    assert payloads(site)[:2] == [
        {"to": "ann@example.com", "subject": "News, Ann <3 & co", "text": "Hello Ann <3 & co: Ann <3 & co", "html": "<p>Ann &lt;3 &amp; co</p>"},
        {"to": "bob@example.com", "subject": 'News, Bob "B"', "text": 'Hello Bob "B": Bob "B"', "html": "<p>Bob &quot;B&quot;</p>"},
    ]
    assert site.rows("DISTINCT batch_id, task, queue, state") == [("november", "email", "default", "ready")]
    again = site("enqueue", "email", letter, "--each", path, "--batch", "november")
    assert again.stderr == "0 added, 3 were there already.\n"
    assert site("enqueue", "email", letter, "--each", path, "--batch", "december").stderr == "3 added.\n"
    assert len(site.rows()) == 6


def test_json_lines_come_from_a_file_or_from_standard_input(lite, tmp_path, letter):
    content = '{"email":"ann@example.com","name":"Ann","n":[1]}\n{"name":null,"email":"bob@example.com"}\n{"name":1.50,"email":true}\n{"name":["x"],"email":"x"}\n'
    by_pipe = call(lite, "enqueue", "email", letter, "--each", "-", code=1, stdin=content)
    assert by_pipe.stderr == "line 4: it has no name that is text, a number, true, false or null\n3 added, 1 bad line.\n"
    assert [(one["to"], one["subject"]) for one in payloads(lite)] == [("ann@example.com", "News, Ann"), ("bob@example.com", "News, "), ("true", "News, 1.50")]
    by_file = call(lite, "enqueue", "email", letter, "--each", file(tmp_path, content, "customers.jsonl"), "--json", code=1)
    assert json.loads(by_file.stdout) == {"added": 0, "already_there": 3, "unique_taken": 0, "bad_lines": 1, "batch": None, "dry_run": False, "complete": True}


def lines(number: int) -> str:
    return "email,name\n" + "".join(f"customer{n}@example.com,Name {n}\n" for n in range(number))


def test_killed_in_the_middle_and_called_again_it_makes_no_doubles_and_misses_none(site, tmp_path, letter):
    """The first call reads a pipe that stays open, so that it is surely killed between two chunks."""
    content = lines(1800)
    process = site.start("enqueue", "email", letter, "--each", "-", stdin=subprocess.PIPE)
    try:
        process.stdin.write("".join(content.splitlines(keepends=True)[:1302]).encode())
        process.stdin.flush()
        eventually(lambda: len(site.rows("id")) >= 1000, what="the second chunk")
    finally:
        process.kill()
        process.communicate()
    there = len(site.rows("id"))
    assert there % 500 == 0 and there < 1800
    done = site("enqueue", "email", letter, "--each", file(tmp_path, content))
    assert done.stderr == f"{1800 - there} added, 1,000 were there already.\n"
    assert sorted(one["to"] for one in payloads(site)) == sorted(f"customer{n}@example.com" for n in range(1800))


def test_two_calls_at_the_same_time_make_each_job_once(site, tmp_path, letter):
    path = file(tmp_path, lines(1200))
    calls = [site.start("enqueue", "email", letter, "--each", path) for _ in range(2)]
    said = [call.communicate(timeout=60)[1].decode() for call in calls]
    assert [call.returncode for call in calls] == [0, 0], said
    assert sorted(one["to"] for one in payloads(site)) == sorted(f"customer{n}@example.com" for n in range(1200))


BAD = "email,name\nann@example.com,Ann\nbob@example.com\neve@example.com,\"Eve\nBcc: all@example.com\"\njo@example.com,Jo\n"


def test_bad_lines_are_named_and_skipped(lite, tmp_path, letter):
    done = call(lite, "enqueue", "email", letter, "--each", file(tmp_path, BAD), "--json", code=1)
    first, second, summary = done.stderr.splitlines()
    assert first == "line 3: it has 1 fields, the header has 2"
    assert second.startswith("line 4: name holds a line break or control character, and subject belongs to a header")
    assert summary == "2 added, 2 bad lines."
    assert [one["to"] for one in payloads(lite)] == ["ann@example.com", "jo@example.com"]
    assert json.loads(done.stdout)["bad_lines"] == 2


def test_with_strict_nothing_is_added_after_the_first_bad_line_and_a_repeat_adds_the_rest(lite, tmp_path, letter):
    start, end = lines(700), "late@example.com,Late\n"
    done = call(lite, "enqueue", "email", letter, "--each", file(tmp_path, start + "bad\n" + end), "--strict", code=2)
    assert done.stderr == (
        "line 702: it has 1 fields, the header has 2\n500 added, 1 bad line; not all lines were read: the same command adds the rest.\n"
        "asyncsend: stopped at line 702 (--strict): mend it, and the same command adds the rest\n"
    )
    assert len(lite.rows()) == 500
    done = call(lite, "enqueue", "email", letter, "--each", file(tmp_path, start + "bad@example.com,Mended\n" + end), "--strict")
    assert done.stderr == "202 added, 500 were there already.\n"
    assert len(lite.rows()) == 702


def test_a_limit_of_the_row_makes_a_bad_line(lite, tmp_path):
    content = "k\n" + "x" * 192 + "\nok\n"
    done = call(lite, "enqueue", "email", "{}", "--each", file(tmp_path, content), "--unique", "{{k}}", code=1)
    assert "line 2: the unique key is 192 bytes long" in done.stderr
    assert lite.rows("unique_key") == [("ok",)]


@pytest.mark.parametrize(
    ("template", "content", "options", "says"),
    [
        ('{"text":"{{nmae}}"}', "name\nAnn\n", [], "the template wants {{nmae}}, and there is no such column: the file has name"), ('{"text":"{{a}}"}', "a,a\n1,2\n", [], "two columns"),
        ('{"text":"x"}', "name\nAnn\n", ["--unique", "{{id}}"], "--unique wants {{id}}"), ('{"text":"x"}', "name\nAnn\n", ["--unique", "same"], "same for every line"),
        ('{"text":"{{a}}"}', '{"b":1}\n', [], "no such column: the file has b"), ('{"text":"{{a}}"}', "", [], "the file has none"), ("{", "a\n1\n", [], "the template is not JSON"),
        ("[1]", "a\n1\n", [], "the template must be a JSON object"), ("{}", "a\n1\n", ["--queue", "a b"], "queue"), ("{}", "a\n1\n", ["--at", "2030-01-01", "--delay", "5m"], "either at or delay"),
        ("{}", "a\n1\n", ["--uid", "x"], "--uid names one job"), ("{}", b"\xff\xfea\x00", [], "UTF-16"), ("{}", b'"a\n', [], "the header"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_every_line_is_said_before_the_first_row(lite, tmp_path, template, content, options, says):
    done = call(lite, "enqueue", "email", template, "--each", file(tmp_path, content), *options, code=2)
    assert says in done.stderr
    assert lite.rows() == []


@pytest.mark.parametrize(("arguments", "says"), [(["{}", "--strict"], "--each FILE"), (["{}", "--dry-run"], "--each FILE"), (["{}", "--json"], "--each FILE"), (["{}", "--then", "email", "{}"], "--batch NAME"), (["-", "--each", "-"], "cannot be both"), (["{}", "--each", "/nowhere.csv"], "cannot read /nowhere.csv")])
def test_options_that_do_not_go_together_are_refused(lite, arguments, says):
    assert says in call(lite, "enqueue", "email", *arguments, code=2).stderr
    assert lite.rows() == []


def test_what_follows_a_batch_can_be_named_on_the_command_line(lite, tmp_path, letter):
    lite.environment["ASYNCSEND_EMAIL_URL"] = f"maildir://{tmp_path}/out"
    (tmp_path / "sent.json").write_text('{"to":"me@example.com","subject":"Sent","text":"All of it"}')
    followers = ["--then", "email", f"@{tmp_path}/sent.json", "--catch", "webhook", '{"url":"https://example.com"}', "--finally", "email", '{"to":"me@example.com","subject":"Over","text":"x"}']
    path = file(tmp_path, "email,name,id\na@example.com,A,1\nb@example.com,B,2\n")
    call(lite, "enqueue", "email", letter, "--each", path, "--batch", "november", *followers)
    lite.quiet("run")
    assert [row[0] for row in lite.rows("uid", "batch_id IS NULL")] == ["november:then", "november:finally"]
    assert {state for (state,) in lite.rows("state")} == {"done"}
    call(lite, "enqueue", "email", '{"to":"c@example.com","subject":"one","text":"x"}', "--batch", "single", *followers[:3])
    lite.quiet("run")
    assert lite.rows("state", "uid = 'single:then'") == [("done",)]


def test_every_option_of_enqueue_holds_for_each_line(site, tmp_path):
    options = ["--queue", "bulk", "--priority", "-7", "--at", "2030-07-01 09:00", "--expires", "2h", "--max-attempts", "3", "--timeout", "90s", "--batch", "b1", "--unique", "card:{{id}}"]
    path = file(tmp_path, "id,name\n1,Ann\n2,Bob\n2,Bob\n")
    done = call(site, "enqueue", "email", '{"text":"{{name}}"}', "--each", path, *options)
    assert done.stderr == "2 added, 1 left out, for an unfinished job has their key.\n"
    rows = site.rows("queue, priority, run_at, max_attempts, timeout_seconds, batch_id, unique_key, UNIX_TIMESTAMP(expires_at) > UNIX_TIMESTAMP(NOW(6)) + 7000")
    assert [(*row[:2], str(row[2])[:19], *row[3:6], bytes(row[6]) if isinstance(row[6], bytes) else row[6].encode(), row[7]) for row in rows] == [
        ("bulk", -7, "2030-07-01 09:00:00", 3, 90, "b1", key, 1) for key in (b"card:1", b"card:2")
    ]


def test_a_dry_run_checks_every_line_and_asks_no_database(tmp_path, letter):
    site = Site(tmp_path / "home", "mysql://nobody@127.0.0.1:1/nowhere")
    done = call(site, "enqueue", "email", letter, "--each", file(tmp_path, BAD), "--dry-run", "--json", code=1)
    assert "line 3: " in done.stderr and "2 would be added, 2 bad lines." in done.stderr
    assert json.loads(done.stdout)["dry_run"] is True


def test_what_was_added_before_an_error_is_said_and_stays(lite, letter):
    process = lite.start("enqueue", "email", letter, "--each", "-", "--json", stdin=subprocess.PIPE)
    process.stdin.write("".join(lines(600).splitlines(keepends=True)).encode())
    process.stdin.flush()
    try:
        eventually(lambda: len(lite.rows("id")) == 500, what="the first chunk")
        lite.sql("ALTER TABLE asyncsend_jobs RENAME TO asyncsend_gone")
    finally:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 78
    assert json.loads(out)["added"] == 500 and json.loads(out)["complete"] is False
    assert b"500 added; not all lines were read: the same command adds the rest." in err


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_elsewhere_none(lite, tmp_path, letter):
    path = file(tmp_path, lines(600) + "bad\n")
    ours, theirs = pty.openpty()
    try:
        process = lite.start("enqueue", "email", letter, "--each", path, stderr=theirs)
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        assert process.communicate(timeout=60)[0] == b""
    finally:
        os.close(ours)
    assert b"Enqueueing" in shown and b"100%" in shown and b"line 602: " in shown and b"600 added, 1 bad line." in shown
    assert "Enqueueing" not in lite("enqueue", "email", letter, "--each", path, code=1).stderr


# ── in Python ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def test_of_a_generator_groups_are_committed_and_the_error_says_how_many_stay(shop, monkeypatch):
    monkeypatch.setattr(producer, "GROUP_JOBS", 30)
    seen = []

    def rows():
        for number in range(100):
            seen.append(len(shop.rows("id")) if number % 10 == 1 else None)
            yield {"number": number} if number != 70 else {"number": float("nan")}

    with pytest.raises(InvalidJob, match="payload 71: the payload cannot be written as JSON") as failed:
        producer.enqueue_many("email", rows())
    assert failed.value.__notes__ == ["60 jobs of email were added before this, and stay"]
    assert [number for number in seen if number is not None] == [0, 0, 0, 30, 30, 30, 60]
    assert len(shop.rows()) == 60


def test_a_list_is_all_or_nothing_however_long_it_is(shop, monkeypatch):
    monkeypatch.setattr(producer, "GROUP_JOBS", 30)
    with pytest.raises(InvalidJob, match="payload 71: ") as failed:
        producer.enqueue_many("email", [{"number": number if number != 70 else float("nan")} for number in range(100)])
    assert not hasattr(failed.value, "__notes__")
    assert shop.rows() == []


def test_a_uid_made_of_the_payload_lets_a_repeat_add_only_the_rest(shop):
    rows = [{"customer": number} for number in range(10)]
    options = {"uid": lambda row: f"november:{row['customer']}", "unique": lambda row: f"k{row['customer']}", "count": True}
    assert producer.enqueue_many("email", iter(rows[:4]), **options) == 4
    assert producer.enqueue_many("email", iter(rows), **options) == 10
    assert [uid for (uid,) in shop.rows("uid")] == [f"november:{number}" for number in range(10)]


def test_through_the_app_s_connection_a_generator_is_all_or_nothing(shop, server):
    from urllib.parse import urlsplit

    if shop.url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(shop.url.removeprefix("sqlite:///"))
    else:
        connection = server.connect(urlsplit(shop.url).path[1:])
        connection.autocommit(False)
    rows = [{"number": number} for number in range(1300)]
    assert producer.enqueue_many("email", iter(rows), connection=connection, count=True) == 1300
    assert shop.rows() == []
    connection.rollback()
    assert len(producer.enqueue_many("email", iter(rows), connection=connection)) == 1300
    connection.commit()
    connection.close()
    assert payloads(shop) == rows
