"""The preview: what the page shows, that nothing is sent, and that no mail can do anything in the browser of whoever looks at it."""

import base64
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from asyncsend.preview import page
from asyncsend.tasks.email import compose

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
LETTER = {
    "to": "Ann <ann@example.com>", "subject": "Größe & <b>", "text": "Hello <i>Ann</i>", "html": '<h1 title="x">Hello</h1><img src="cid:logo"><img src=\'CID:logo\'><img src="cid:other">',
    "attachments": [{"name": "logo.png", "base64": base64.b64encode(PNG).decode(), "cid": "logo"}, {"name": "in <b>voice.pdf", "base64": "aGk="}],
}  # fmt: skip


class Seen(HTMLParser):
    """The elements of a page as a browser's parser finds them, and all attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.frames: list[dict[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "iframe":
            self.frames.append(dict(attrs))


def shown(**members):
    from asyncsend.job import Job

    return page(*compose({**LETTER, **members}, Job(1, "email", "{}", uid="u"), "Shop <shop@example.com>", Path("/nonexistent")))


def test_the_page_shows_headers_html_text_attachments_and_size():
    html = shown()
    for part in ("<h1>Größe &amp; &lt;b&gt;</h1>", "<th>Message-ID</th><td>&lt;u@example.com&gt;</td>", "from shop@example.com to ann@example.com", "<pre>Hello &lt;i&gt;Ann&lt;/i&gt;",
                 "logo.png: image/png, 70 bytes, shown as cid:logo", "in &lt;b&gt;voice.pdf: application/pdf, 2 bytes"):  # fmt: skip
        assert part in html
    assert re.search(r"<p>[\d,]{5,} bytes, ", html)
    [frame] = Seen(html).frames
    assert '<h1 title="x">Hello</h1>' in frame["srcdoc"]


def test_the_mails_own_pictures_are_shown_and_others_are_not_fetched():
    [frame] = Seen(shown()).frames
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert frame["srcdoc"].count(url) == 2
    assert 'src="cid:other"' in frame["srcdoc"]
    assert "img-src data:;" in frame["srcdoc"].partition("<h1")[0]


HOSTILE = ["<script>alert(1)</script>", '"><script>alert(1)</script>', "</iframe><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "'\"></pre></td></title><svg onload=alert(1)>", "<a href=javascript:alert(1)>x</a>",
           "<meta http-equiv=refresh content='0;url=https://evil.example'>", "<base href='https://evil.example/'>", "<form action='https://evil.example'><input name=a></form>", "<iframe src='https://evil.example'></iframe>",
           "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;", "{evil}{0.__class__}", "<!--", "<![CDATA[", "\x00<script>", "<link rel=stylesheet href='https://evil.example'>", "</style></head><script>"]  # fmt: skip


@pytest.mark.parametrize("evil", HOSTILE, ids=ascii)
def test_no_mail_gets_out_of_its_frame_or_a_script_into_the_page(evil):
    line = re.sub("[\x00-\x1f]", "", evil)
    html = shown(subject=line, html=evil, text=evil, headers={"X-Evil": line}, to=f'"{line.replace(chr(34), "").replace("<", "").replace(">", "")}" <ann@example.com>', attachments=[{"name": line, "base64": "aGk="}])
    seen = Seen(html)
    assert set(seen.tags) <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "iframe", "pre", "ul", "li"}
    assert {name for name, _ in seen.attributes} <= {"lang", "charset", "http-equiv", "content", "sandbox", "referrerpolicy", "srcdoc"}
    assert (seen.tags.count("meta"), seen.tags.count("iframe")) == (2, 1)
    [frame] = seen.frames
    assert frame["sandbox"] == "", "no script, no form, no popup, no origin, no way to the page around it"
    policy = "default-src 'none'; img-src data:;"
    assert html.index(policy) < html.index("<title>"), "before anything of the mail"
    assert frame["srcdoc"].startswith(f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}")
    assert evil in frame["srcdoc"] or "\x00" in evil


@pytest.mark.parametrize("name, kind", [("x.html", "text/html"), ("x.svgz", "application"), ("x.js", "javascript")])
def test_only_pictures_become_data_urls(name, kind):
    html = shown(html="<iframe src='cid:x'></iframe>", attachments=[{"name": name, "base64": "aGk=", "cid": "x"}])
    assert "data:" not in Seen(html).frames[0]["srcdoc"].partition("<iframe")[2]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_writes_a_private_file_and_sends_nothing(lite, smtp, tmp_path):
    lite.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "BROWSER": "/bin/false"}
    (lite.home / "templates").mkdir()
    (lite.home / "templates" / "welcome.html").write_text("<title>{% block subject %}Welcome{% endblock %}</title><p>Hello {{ name }}</p>")
    payload = json.dumps({"to": "ann@example.com", "template": "welcome", "params": {"name": "<Ann>"}})
    path = Path(lite("preview", "email", payload).stdout.strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "Hello &amp;lt;Ann&amp;gt;" in path.read_text("utf-8")
    (tmp_path / "letter.json").write_text(payload.replace("Ann", "Bob"))
    assert lite("preview", "email", f"@{tmp_path}/letter.json").stdout.strip() == str(path), "the next one takes its place"
    assert "Bob" in path.read_text("utf-8")
    lite("preview", "email", "-", input=payload)
    assert smtp.mails == []
    assert lite.rows() == []


def test_a_job_that_is_there_is_shown_as_it_will_go_out(lite):
    lite.insert("email", json.dumps({**LETTER, "text": "x" * 100_000}), uid="order-17")
    lite.insert("webhook", json.dumps({"url": "https://example.com"}), uid="hook")
    before = lite.rows()
    path = Path(lite("preview", "order-17").stdout.strip())
    assert path.name == "order-17.html"
    assert "&lt;order-17@example.com&gt;" in path.read_text("utf-8")
    assert "x" * 100_000 in path.read_text("utf-8")
    assert lite.rows() == before
    assert "only mails" in lite("preview", "hook", code=2).stderr
    assert "nowhere" in lite("preview", "nowhere", code=2).stderr


@pytest.mark.parametrize("arguments, said", [(["email"], "payload"), (["email", "{}"], "to is missing"), (["email", "no"], "not JSON"), (["sms", "{}"], "task email"), (["email", '{"to":"a@b.example","template":"x"}'], "templates")])
def test_what_cannot_be_shown_is_said(lite, arguments, said):
    assert said in lite("preview", *arguments, code=2).stderr


def test_no_link_is_followed_to_another_file(lite, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (lite.home / "preview").mkdir()
    (lite.home / "preview" / "preview.html").symlink_to(victim)
    assert "preview" in lite("preview", "email", json.dumps({"to": "a@b.example", "subject": "x", "text": "y"}), code=78).stderr
    assert victim.read_text() == "as it was"
