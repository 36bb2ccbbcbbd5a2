"""The web side: what is not there is 404, and what goes wrong inside is said to the server's log only."""

import io
import os
import subprocess
import sys
import types

import pytest

from asyncsend import web
from asyncsend.errors import DatabaseUnreachable


def asked(path="/", *, method="GET", body=b"", **environ):
    """Status, headers, body and what stands in the server's log."""
    said, log = [], io.StringIO()
    given = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "wsgi.errors": log, "wsgi.url_scheme": "https"}
    out = b"".join(web.application(given | environ, lambda status, headers: said.append((status, dict(headers)))))
    return said[0][0], said[0][1], out.decode(), log.getvalue()


@pytest.fixture
def room(monkeypatch, lite):
    """A room called `echo`, which answers with what it was asked."""
    module = types.ModuleType("echo_room")
    module.answer = lambda request, _store, _settings: web.Response(200, repr(request))
    monkeypatch.setitem(sys.modules, "echo_room", module)
    monkeypatch.setitem(web.ROOMS, "echo", "echo_room")
    for name, value in lite.environment.items():
        monkeypatch.setenv(name, value)
    lite("init")
    return module


def test_what_is_not_there_is_not_found():
    assert asked("/wp-login.php")[0] == "404 Not Found"


def test_a_room_hears_the_whole_request(room):
    status, headers, text, _ = asked("/echo/a/b", method="POST", body=b"x=1", QUERY_STRING="q=%C3%A9", HTTP_HOST="shop.example.com", CONTENT_TYPE="text/x")
    assert (status, headers["Cache-Control"]) == ("200 OK", "no-store")
    for part in ("method='POST'", "rest='a/b'", "'q': 'é'", "'content-type': 'text/x'", "body=b'x=1'", "url='https://shop.example.com/echo/a/b?q=%C3%A9'"):
        assert part in text


def test_a_body_that_is_too_long_is_not_read(room):
    assert asked("/echo", CONTENT_LENGTH=str(web.MAX_BODY + 1))[0].startswith("413")
    assert asked("/echo", CONTENT_LENGTH="-1")[0].startswith("413")


def test_trouble_is_told_to_the_log_and_not_to_the_world(room):
    def answer(*_):
        raise DatabaseUnreachable("cannot connect to db.internal")

    room.answer = answer
    status, _, text, log = asked("/echo")
    assert status.startswith("503")
    assert "db.internal" not in text
    assert "db.internal" in log


def test_it_answers_as_a_cgi_program():
    environ = dict(os.environ, REQUEST_METHOD="GET", PATH_INFO="/nothing", SERVER_NAME="x", SERVER_PORT="80", SERVER_PROTOCOL="HTTP/1.1", GATEWAY_INTERFACE="CGI/1.1")
    done = subprocess.run([sys.executable, "-m", "asyncsend.web"], env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Status: 404 Not Found")
