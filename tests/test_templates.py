"""Templates of mails: what is made of them, what a row may not do with them, and the text that html gets. The folder and the files are real."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from email import message_from_bytes, policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsend import config
from asyncsend.answers import BadPayload, Retry
from asyncsend.job import Job
from asyncsend.tasks import templates as templates_module
from asyncsend.tasks.email import Composer
from asyncsend.tasks.plaintext import text_of
from asyncsend.tasks.templates import Templates

BORN = datetime(2026, 11, 3, 9, 15, 30, 123456, tzinfo=UTC)
WELCOME = """{% extends "base.html" %}
{% block subject %}Welcome, {{ name }} & friends{% endblock %}
{% block body %}<p>Hello {{ name }}</p>
{% for order in orders %}
<li>{{ order.number }}</li>
{% endfor %}
{% endblock %}
"""
BASE = "<html><head><title>{% block subject %}{% endblock %}</title></head><body>{% block body %}{% endblock %}{% include 'parts/foot.html' %}</body></html>"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "home" / "templates"
    (made / "parts").mkdir(parents=True)
    write(made, "welcome.html", WELCOME)
    write(made, "base.html", BASE)
    write(made, "parts/foot.html", "<p>Shop</p>")
    return made


def write(folder, name, text):
    (folder / name).write_text(text, "utf-8")


@pytest.fixture
def fill(folder):
    """The payload that a template and its params make, with the whole of it when there is no other."""
    templates = Templates(folder)
    return lambda name="welcome", params=None, **members: templates.filled({"to": "ann@example.com", "template": name, "params": params, **members})


def refused(fill, *arguments, **members):
    with pytest.raises(BadPayload) as caught:
        fill(*arguments, **members)
    assert caught.value.reason == "bad-payload"
    return str(caught.value)


def composed(tmp_path, payload, row=None, **environment):
    settings = config.load({"ASYNCSEND_HOME": str(tmp_path / "home"), "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>", **environment})
    return Composer(settings)(payload, row or Job(17, "email", "{}", uid="order-17", created_at=BORN))


ANN = {"name": "Ann <b>&", "orders": [{"number": 17}, {"number": 18}]}


def test_a_template_fills_subject_and_html_and_the_text_is_made_of_the_html(folder, tmp_path):
    _, _, raw = composed(tmp_path, {"to": "ann@example.com", "template": "welcome", "params": ANN})
    message = message_from_bytes(raw, policy=policy.default)
    assert message["Subject"] == "Welcome, Ann <b>& & friends"
    assert "<p>Hello Ann &lt;b&gt;&amp;</p>" in message.get_body(("html",)).get_content()
    assert message.get_body(("plain",)).get_content().split("\r\n") == ["Hello Ann <b>&", "", "- 17", "- 18", "", "Shop", ""]


def test_each_of_the_three_files_fills_its_part_and_only_html_escapes(folder, fill):
    write(folder, "welcome.txt", "Hello {{ name }}\n{% for order in orders %}\n* {{ order.number }}\n{% endfor %}\n")
    write(folder, "welcome.subject", "For {{ name }}\n")
    found = fill(params=ANN)
    assert found["text"] == "Hello Ann <b>&\n* 17\n* 18\n"
    assert found["subject"] == "For Ann <b>&"
    assert "&lt;b&gt;" in found["html"]


def test_a_text_template_alone_makes_a_mail_of_text_with_the_subject_of_its_block(folder, fill):
    write(folder, "code.txt", "{% block subject %}Your code: {{ code }}{% endblock %}\n\n\n{{ code }}")
    assert fill("code", {"code": "A&B"}) == {"to": "ann@example.com", "subject": "Your code: A&B", "text": "Your code: A&B\n\nA&B"}


def test_the_payloads_subject_goes_before_the_templates_and_is_no_template(fill):
    assert fill(params=ANN, subject="{{ 7*7 }}")["subject"] == "{{ 7*7 }}"
    assert fill(params=ANN, subject=None)["subject"].startswith("Welcome")


def test_no_value_is_ever_a_template(fill):
    evil = "{{ 7*7 }}{% for x in range(9) %}x{% endfor %}"
    found = fill(params={"name": evil, "orders": []})
    assert evil in found["html"]
    assert evil in found["subject"]


def test_a_line_break_in_a_subjects_param_is_a_blank(folder, tmp_path):
    _, _, raw = composed(tmp_path, {"to": "ann@example.com", "template": "welcome", "params": {**ANN, "name": "Ann\r\nBcc: v@example.net"}})
    message = message_from_bytes(raw, policy=policy.default)
    assert message["Subject"] == "Welcome, Ann Bcc: v@example.net & friends"
    assert message["Bcc"] is None


def test_the_message_is_the_same_to_the_byte_in_another_process_and_attempt(folder, tmp_path):
    payload = {"to": "ann@example.com", "template": "welcome", "params": ANN, "attachments": [{"name": "a.png", "base64": "aGk=", "cid": "logo"}, {"name": "b.pdf", "base64": "aGk="}]}
    program = """if True:
        import json, sys
        from datetime import datetime
        from asyncsend import config
        from asyncsend.job import Job
        from asyncsend.tasks.email import Composer
        row = Job(17, "email", "{}", uid="order-17", created_at=datetime.fromisoformat(sys.argv[3]), attempts=3)
        settings = config.load({"ASYNCSEND_HOME": sys.argv[1], "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>"})
        sys.stdout.buffer.write(Composer(settings)(json.loads(sys.argv[2]), row)[2])
    """
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "home"), json.dumps(payload), BORN.isoformat()], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True)
    assert done.stdout == composed(tmp_path, payload)[2]
    assert b"multipart/related" in done.stdout


@pytest.mark.parametrize("words", ["{{ [1]|random }}", "{{ lipsum() }}"])
def test_what_differs_between_two_attempts_is_not_there(folder, fill, words):
    write(folder, "x.html", words)
    assert refused(fill, "x").startswith("template x.html")


@pytest.mark.parametrize("words", ["{{ name.upper }}", "{{ range }}", "{{ cycler }}", "{{ name|map('upper') }}", "{{ namespace() }}"])
def test_what_would_print_an_address_in_memory_is_refused(folder, fill, words):
    write(folder, "x.html", f"\n{words}")
    assert "x.html, line 2" in refused(fill, "x", {"name": "Ann"})


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "source, params, said",
    [("Hi\n\n{{ nane }}", {"name": "Ann"}, ["x.html, line 3", "'nane' is undefined"]), ("{{ order.total }}", {"order": {"number": 1}}, ["x.html, line 1", "total"]),
     ("\n{% for x in xs %}{{ x }}{% endfor %}", {"xs": 7}, ["x.html, line 2", "not iterable"]), ("\n{{ 1 // n }}", {"n": 0}, ["x.html, line 2", "ZeroDivisionError"]),
     ("Dear\n{{ name }}", {"name": None}, ["x.html, line 2", "null"]), ("\n\n{% for %}", {}, ["x.html, line 3"]), ("\n{% endif %}", {}, ["x.html, line 2", "endif"]),
     ("\n{% include 'parts/bad.html' %}", {}, ["parts/bad.html, line 2"]), ("{{ name|nofilter }}", {"name": 1}, ["x.html, line 1", "nofilter"])],
)  # fmt: skip
def test_an_error_names_template_line_and_what_is_wrong(folder, fill, source, params, said):
    write(folder, "x.html", source)
    write(folder, "parts/bad.html", "\n{{ gone }}")
    sentence = refused(fill, "x", params)
    for part in said:
        assert part in sentence


def test_an_error_in_the_subject_names_its_line(folder, fill):
    write(folder, "x.html", "<title>\n{% block subject %}{{ gone }}{% endblock %}</title>")
    assert "x.html, line 2" in refused(fill, "x")
    write(folder, "y.html", "y")
    write(folder, "y.subject", "{{ gone }}")
    assert "y.subject, line 1" in refused(fill, "y")


def test_a_file_that_is_not_there_is_tried_again_for_a_deploy_may_be_under_way(folder, fill):
    with pytest.raises(Retry, match=r"nowhere\.html") as caught:
        fill("nowhere")
    assert caught.value.reason == "no-template"
    write(folder, "nowhere.html", "{% include 'later.html' %}")
    with pytest.raises(Retry, match=r"later\.html, which nowhere\.html, line 1 asks for"):
        fill("nowhere")
    write(folder, "later.html", "here")
    assert fill("nowhere")["html"] == "here"
    write(folder, "later.html", "here now")
    assert fill("nowhere")["html"] == "here now", "a changed file is read again"


def test_a_file_that_is_not_utf_8_is_named(folder, fill):
    (folder / "latin.txt").write_bytes(b"Gr\xfc\xdfe")
    assert "latin.txt" in refused(fill, "latin")


@pytest.mark.parametrize("members", [{"html": "<p>x</p>"}, {"text": "x"}])
def test_template_and_text_together_are_refused(fill, members):
    assert "template" in refused(fill, params=ANN, **members)


@pytest.mark.parametrize("params", [[1], "x", 7])
def test_params_that_are_no_object_are_refused(fill, params):
    assert refused(fill, params=params).startswith("params")


def test_params_without_a_template_are_refused(tmp_path):
    with pytest.raises(BadPayload, match="params"):
        composed(tmp_path, {"to": "ann@example.com", "subject": "x", "text": "y", "params": {}})


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────

OUT = ["../secret", "/etc/passwd", "..", ".", "", " ", ".env", "parts/../../secret", "a\x00b", "a\nb", "a//b", "parts/", "~/x", "C:\\x", "file:///etc/passwd", "x" * 201, "ü", "{{7*7}}"]


@pytest.mark.parametrize("name", OUT, ids=ascii)
def test_no_name_leads_out_of_the_folder(folder, fill, name):
    (folder.parent / "secret.html").write_text("s3cret")
    (folder.parent / "secret").write_text("s3cret")
    assert refused(fill, name).startswith("template")


@pytest.mark.parametrize("name", ["../secret.html", "/etc/passwd", "link.html", "linked/secret.html", "parts/../../secret.html", "\x00"])
@pytest.mark.parametrize("how", ["{% include name %}", "{% extends name %}", "{% import name as m %}", "{% include [name, name] ignore missing %}"])
def test_no_include_leads_out_of_the_folder(folder, fill, name, how):
    (folder.parent / "secret.html").write_text("s3cret")
    (folder / "link.html").symlink_to(folder.parent / "secret.html")
    (folder / "linked").symlink_to(folder.parent)
    write(folder, "x.html", how)
    sentence = refused(fill, "x", {"name": name})
    assert "s3cret" not in sentence
    assert "does not lie in" in sentence or ".html may take in .html only" in sentence


def test_the_folder_itself_may_be_a_link_that_a_deploy_turns(folder, fill, tmp_path):
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        write(tmp_path / number, "x.txt", number)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "1")
    templates = Templates(link)
    assert templates.filled({"template": "x"})["text"] == "1"
    (tmp_path / "new").symlink_to(tmp_path / "2")
    (tmp_path / "new").rename(link)
    (tmp_path / "1" / "x.txt").unlink()
    assert templates.filled({"template": "x"})["text"] == "2"


def test_what_is_taken_into_html_is_html_and_escapes(folder, fill):
    write(folder, "plain.txt", "{{ name }}")
    write(folder, "x.html", "\n{% include 'plain.txt' %}")
    assert "x.html, line 2" in refused(fill, "x", {"name": "<script>"})


# ── the sandbox ──────────────────────────────────────────────────────────────────────────────────────────────────────

ESCAPES = ["{{ ''.__class__.__mro__ }}", "{{ name.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os.system('touch struck') }}", "{{ self._TemplateReference__context }}",
           "{{ ''|attr('__class__') }}", "{{ '{0.__class__}'.format(name) }}", "{{ ('{0.__class__}'|attr('format'))(name) }}", "{{ xs.append(1) }}", "{% set _ = d.update(a=1) %}", "{% import 'os' as os %}",
           "{{ namespace.__init__.__globals__ }}", "{{ (xs|map(attribute='__class__'))|list }}"]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_holds(folder, fill, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(folder, "x.html", source)
    try:
        found = fill("x", {"name": "Ann", "xs": [1], "d": {}})
    except (BadPayload, Retry) as error:
        assert "x.html" in str(error)
    else:
        assert "class" not in found["html"]
        assert "_" not in found["html"]
    assert not (tmp_path / "struck").exists()


@pytest.mark.parametrize(
    "source, said",
    [("{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}", "characters"),
     ("\n{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "CPU time"), ("{% for a in range(99999999999) %}{% endfor %}", "OverflowError"),
     ("\n{{ 'x' * 9999999999 }}", "memory"), ("{{ '%9999999999d' % 1 }}", "memory"), ("{% set n = namespace(x='x') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}", "memory"),
     ("{% include 'x.html' %}", "memory"), ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "memory"), ("y" * 1_100_000, "larger")],
)  # fmt: skip
def test_a_template_that_goes_on_for_ever_or_fills_the_memory_is_stopped_and_named(folder, fill, source, said, monkeypatch):
    monkeypatch.setattr(templates_module, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(templates_module, "MEMORY", 64 * 1024 * 1024)
    write(folder, "x.html", source)
    sentence = refused(fill, "x")
    assert "x.html" in sentence
    assert said in sentence
    write(folder, "x.html", "fine")
    assert fill("x")["html"] == "fine", "the next mail is not harmed"


def test_the_bounds_are_taken_off_again(folder, fill):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    fill(params=ANN)
    refused(fill)
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


# ── a whole run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_names_a_template_and_a_run_sends_it_or_buries_it_with_the_line(lite, smtp):
    lite.environment["ASYNCSEND_EMAIL_URL"] = smtp.url
    (lite.home / "templates").mkdir()
    write(lite.home / "templates", "welcome.html", "<title>{% block subject %}Welcome, {{ name }}{% endblock %}</title><p>Hello {{ name }}</p>")
    lite.insert("email", json.dumps({"to": "ann@example.com", "template": "welcome", "params": {"name": "Ann"}}))
    lite.insert("email", json.dumps({"to": "bob@example.com", "template": "welcome", "params": {}}))
    lite.insert("email", json.dumps({"to": "cy@example.com", "template": "later", "params": {}}))
    lite.quiet("run")
    [message] = smtp.messages()
    assert (message["To"], message["Subject"], message.get_body(("plain",)).get_content().strip()) == ("ann@example.com", "Welcome, Ann", "Hello Ann")
    [(_, _, _), (state, reason, error), (waits, why, _)] = lite.rows("state, reason, error")
    assert (state, reason) == ("dead", "bad-payload")
    assert "template welcome.html, line 1: 'name' is undefined" in error
    assert (waits, why) == ("ready", "no-template")


def test_in_test_mode_every_mail_goes_to_one_address_and_says_whose_it_is(lite, smtp):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_EMAIL_REDIRECT": "me@example.com"}
    lite.insert("email", json.dumps({"to": "Ann <ann@example.com>", "subject": "Grüße", "text": "x", "headers": {"x-original-to": "forged", "X-Shop": "1"}}))
    lite.insert("email", json.dumps({"to": "no address", "subject": "x", "text": "x"}))
    lite.quiet("run")
    [(_, recipient, _)] = smtp.mails
    [message] = smtp.messages()
    assert (recipient, message["To"], message["Subject"]) == ("me@example.com", "me@example.com", "[to ann@example.com] Grüße")
    assert (message.get_all("X-Original-To"), message["X-Shop"]) == (["ann@example.com"], "1")
    assert lite.rows("state") == [("done",), ("dead",)]
    assert "TEST MODE: every mail goes to me@example.com" in lite("status").stdout
    assert json.loads(lite("status", "--json").stdout)["verdict"] == "attention"
    assert "TEST MODE" in lite("config").stderr
    assert "EVERY mail goes to me@example.com" in lite("doctor", code=None).stdout


@pytest.mark.parametrize("wrong", ["me", "me@example.com, you@example.com", "Me <me@example.com>", "@", "a@b@c"])
def test_test_mode_takes_one_plain_address_only(lite, wrong):
    lite.environment["ASYNCSEND_EMAIL_REDIRECT"] = wrong
    assert "ASYNCSEND_EMAIL_REDIRECT" in lite("status", code=78).stderr


def test_a_redirect_that_is_no_address_makes_mails_wait_and_none_dead(lite):
    lite.environment["ASYNCSEND_EMAIL_REDIRECT"] = "me@-nowhere-"
    lite.insert("email", json.dumps({"to": "ann@example.com", "subject": "x", "text": "y"}))
    lite.quiet("run")
    assert lite.rows("state, reason, attempts") == [("ready", "configuration", 0)]
    assert "ASYNCSEND_EMAIL_REDIRECT" in lite.rows("error")[0][0]


def test_without_jinja2_a_mail_waits_and_says_what_to_install(lite):
    lite.prelude = "import sys; sys.modules['jinja2'] = None"
    lite.insert("email", json.dumps({"to": "ann@example.com", "template": "welcome"}))
    lite.insert("email", json.dumps({"to": "ann@example.com", "subject": "x", "text": "y"}))
    lite.quiet("run")
    assert lite.rows("state, reason, attempts") == [("ready", "configuration", 0), ("done", None, 1)]
    assert "-m pip install jinja2" in lite.rows("error")[0][0]


# ── the text of html ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "html, text",
    [("<p>One</p><p>Two</p>", "One\n\nTwo"), ("One<br>Two<br/>Three", "One\nTwo\nThree"), ("<div>One</div><div>Two</div>", "One\nTwo"), ("  a \n b\t<b> c</b>", "a b c"),
     ("<h1>Big</h1>small", "Big\n\nsmall"), ("<ul><li>a<li>b</ul>c", "- a\n- b\n\nc"), ("<ol><li>a</li><li>b<ul><li>c</li></ul></li></ol>", "1. a\n2. b\n  - c"),
     ('<a href="https://x.example/">here</a>!', "here (https://x.example/)!"), ('<a href="https://x.example">x.example</a>', "x.example"), ('<a href="mailto:a@x.example">a@x.example</a>', "a@x.example"),
     ('<a href="https://x.example/b"><img src="b.png"></a>', "https://x.example/b"), ('<a href="#top">top</a><a href="javascript:alert(1)">js</a>', "topjs"), ('<a href="https://x.example/">no end', "no end (https://x.example/)"),
     ('<img src="x" alt="Logo"> Shop', "Logo Shop"), ("<table><tr><th>Sum<td>17</tr><tr><td>Tax</td><td>1</td></tr></table>", "Sum 17\nTax 1"), ("<pre>a\n  b</pre>", "a\n  b"),
     ("<head><title>No</title><style>p{}</style></head><body>Yes<script>no()</script>", "Yes"), ("<title>unclosed<body>Yes", "Yes"), ("a &lt;b&gt; &amp;&nbsp;&euro; &#x1F381;", "a <b> & € 🎁"),
     ("<!--[if mso]>no<![endif]-->a<![if !mso]>b<![endif]>c<![foo d>e", "abce"), ("<!DOCTYPE html><p>x", "x"), ("", ""), ("<img src=x>", ""), ("plain", "plain"), ("a<hr>b", "a\n\n--------------------\n\nb"), ("</ul></a></pre>x", "x")],
)  # fmt: skip
def test_the_text_of_html(html, text):
    assert text_of(html) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<p>", "</p>", "<a href='https://x.example'>", "</a>", "<li>", "<ul>", "</ol>", "<![", "<!--", "-->", "<script>", "</script>", "&#0;", "&", "<", ">", "x", " ", "\n", "<pre>", "]]>", "<?", "\x00"]), max_size=30).map("".join))
def test_no_html_is_too_broken_to_be_read(html):
    assert isinstance(text_of(html), str)
