"""Webhooks: signed, sent once, and never to an address inside. The receivers are real; the official library checks the signatures."""

import base64
import gzip
import json
import re
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from parts import eventually
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from asyncsend import config
from asyncsend.answers import BadPayload, Refused, Retry, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.job import Job
from asyncsend.tasks import http as http_module
from asyncsend.tasks.webhook import Webhook, request_of, signing_key

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()


@pytest.fixture
def hook(tmp_path):
    """A sender of webhooks; loopback is allowed unless said otherwise."""
    opened = []

    def made(*secrets, allow="127.0.0.1", timeout=10.0):
        environment = {"ASYNCSEND_HOME": str(tmp_path), "ASYNCSEND_WEBHOOK_SECRET": " ".join(secrets), "ASYNCSEND_ALLOW_PRIVATE": allow}
        opened.append(Webhook(config.load(environment), timeout))
        return opened[-1]

    yield made
    for one in opened:
        one.close()


def job(uid="order-17", **members):
    return Job(17, "webhook", "{}", uid=uid, **members)


def send(hook, http, row=None, **members):
    return hook({"url": f"{http.url}/in", "body": {"a": 1}, **members}, row or job())


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [{"type": "order.paid", "data": {"name": "Größe 🎁", "n": 1.0}}, [1, None], "plain text ü\r\n", "", 0, None, {"deep": [[[{}]]]}])
def test_the_official_library_accepts_our_signature_over_the_exact_bytes(hook, http, body):
    send(hook(NEW), http, body=body)
    (request,) = http.requests
    if isinstance(body, str) or body is None:
        # verify() insists on returning the body parsed; sign() is the half of it that takes any text.
        headers = lower(request.headers)
        stamp = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        assert Verifier(NEW).sign(headers["webhook-id"], stamp, request.body.decode()) == headers["webhook-signature"]
        assert request.body == (body or "").encode()
    else:
        assert Verifier(NEW).verify(request.body, lower(request.headers)) == body
        assert request.headers["Content-Type"] == "application/json"


def test_a_body_changed_on_its_way_is_rejected_by_the_official_library(hook, http):
    send(hook(NEW), http)
    (request,) = http.requests
    with pytest.raises(WebhookVerificationError):
        Verifier(NEW).verify(request.body.replace(b"1", b"2"), lower(request.headers))
    with pytest.raises(WebhookVerificationError):
        Verifier(OLD).verify(request.body, lower(request.headers))


def test_while_keys_are_rotated_a_receiver_may_know_either(hook, http):
    send(hook(OLD, NEW), http)
    (request,) = http.requests
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (OLD, NEW):
        assert Verifier(secret).verify(request.body, lower(request.headers)) == {"a": 1}


def test_without_a_secret_there_is_no_signature_but_an_id(hook, http):
    send(hook(), http)
    headers = lower(http.requests[0].headers)
    assert not {"webhook-signature", "webhook-timestamp"} & set(headers)
    assert headers["webhook-id"] == "order-17"


@pytest.mark.parametrize("uid", ["order-17", "with space", "ü" * 30, None])
def test_the_id_is_the_same_on_every_attempt_and_a_plain_token(hook, http, uid):
    born = datetime(2026, 1, 1, tzinfo=UTC)
    made = hook(NEW)
    for attempts in range(3):
        send(made, http, job(uid, attempts=attempts, created_at=born, token=f"t{attempts}"))
    ids = {(request.headers["webhook-id"], request.headers["Idempotency-Key"]) for request in http.requests}
    ((one, other),) = ids
    assert one == other
    assert re.fullmatch(r"[A-Za-z0-9_-]+", one)


def test_method_path_query_and_headers_arrive_as_given(hook, http):
    made = hook()
    made({"url": f"{http.url}/a%20b/ü?x=1&y=%2F", "method": "PUT", "headers": {"X-Shop": "1", "User-Agent": "shop/1", "content-type": "application/x-thing"}, "body": "raw"}, job())
    (request,) = http.requests
    assert (request.method, request.path, request.body) == ("PUT", "/a%20b/%C3%BC?x=1&y=%2F", b"raw")
    assert (request.headers["X-Shop"], request.headers["User-Agent"], request.headers["content-type"]) == ("1", "shop/1", "application/x-thing")
    assert request.headers["Host"] == f"127.0.0.1:{http.port}"


@pytest.mark.parametrize("method, body", [("POST", b"{}"), ("GET", b""), ("DELETE", b"{}"), ("PATCH", b"{}"), ("PUT", b"{}")])
def test_each_method_has_a_body_of_its_own_when_none_is_given(hook, http, method, body):
    hook()({"url": http.url, "method": method}, job())
    assert (http.requests[0].method, http.requests[0].body) == (method, body)


def test_one_connection_serves_many_jobs_and_no_cookie_goes_from_one_to_the_next(hook, http):
    made = hook()
    http.answers = [(200, {"Set-Cookie": "session=of-the-first; Path=/"}, b"{}")]
    send(made, http)
    send(made, http)
    assert "Cookie" not in http.requests[1].headers


def test_proxies_and_netrc_of_the_environment_are_ignored(hook, http, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password s3cret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        send(hook(), http)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert "Authorization" not in http.requests[0].headers


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_reply_of_the_two_hundreds_is_done(hook, http, status):
    http.answers = [(status, {}, b"")]
    assert send(hook(), http) == {"status": status}


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 409, 429, 500, 502, 503, 504, 599])
def test_any_other_reply_is_a_failed_attempt_that_names_status_and_host(hook, http, status):
    http.answers = [(status, {}, b"no")]
    with pytest.raises(Retry, match=f"127.0.0.1 answered {status}") as caught:
        send(hook(), http)
    assert (caught.value.reason, caught.value.delay) == (f"http-{status}", None)


def test_410_is_dead(hook, http):
    http.answers = [(410, {}, b"")]
    with pytest.raises(Refused) as caught:
        send(hook(), http)
    assert caught.value.reason == "http-410"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(hook, http, status):
    http.answers = [(status, {"Location": f"{http.url}/elsewhere"}, b"")]
    with pytest.raises(Retry, match="redirect"):
        send(hook(), http)
    assert [request.path for request in http.requests] == ["/in"]


@pytest.mark.parametrize("location", ["http://[", "//", "http://127.0.0.1:99999/", "\x00", "http://169.254.169.254/"])
def test_a_redirect_to_rubbish_is_a_failed_attempt_like_any_other(hook, http, location):
    http.answers = [(302, {"Location": location}, b"")]
    with pytest.raises(Retry):
        send(hook(), http)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value, low, high", [("120", 120, 120), (" 7 ", 7, 7), ("0", 0, 0), ("9" * 400, 86400, 86400), ("-5", None, None), ("soon", None, None), ("", None, None), ("1.5", None, None)])
def test_retry_after_in_seconds_is_honoured_up_to_a_day(hook, http, status, value, low, high):
    http.answers = [(status, {"Retry-After": value}, b"")]
    with pytest.raises(Retry) as caught:
        send(hook(), http)
    assert caught.value.delay == low == high


@pytest.mark.parametrize("ahead, low, high", [(600, 1, 600), (-600, 0, 0), (10**7, 86400, 86400)])
def test_retry_after_as_a_date_is_honoured_up_to_a_day(hook, http, ahead, low, high):
    http.answers = [(429, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)}, b"")]
    with pytest.raises(Retry) as caught:
        send(hook(), http)
    assert low <= caught.value.delay <= high


def test_no_reply_in_time_is_unknown(hook, http):
    http.behave = "hang"
    with pytest.raises(Unknown, match=r"no reply within 0\.2 s"):
        send(hook(timeout=0.2), http)
    eventually(lambda: len(http.requests) == 1, what="the request")


def test_a_connection_cut_after_the_request_is_unknown(hook, http):
    http.behave = "cut"
    with pytest.raises(Unknown):
        send(hook(), http)
    assert len(http.requests) == 1


def test_a_refused_connection_is_a_failed_attempt_of_which_nothing_was_sent(hook):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    asked = job()
    with pytest.raises(Retry, match="cannot connect") as caught:
        hook()({"url": f"http://127.0.0.1:{port}/"}, asked)
    assert caught.value.reason == "connect-failed"
    assert asked.report["unsent"], "it used up no quota"
    assert "0x" not in str(caught.value)


def test_a_name_that_nobody_knows_is_a_failed_attempt(hook, monkeypatch):
    def nobody(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(Retry) as caught:
        hook()({"url": "http://nobody.example/"}, job())
    assert caught.value.reason == "connect-failed"


def test_tls_with_a_server_that_speaks_none_is_a_failed_attempt(hook, http):
    with pytest.raises(Retry) as caught:
        hook()({"url": f"https://127.0.0.1:{http.port}/"}, job())
    assert caught.value.reason == "tls-failed"


class Raw:
    """A server that answers each connection with the bytes of a generator, until the client leaves."""

    def __init__(self, pieces):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.sent, self.left, self.pieces = 0, threading.Event(), pieces
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            try:
                connection.recv(65536)
                for piece in self.pieces():
                    connection.sendall(piece)
                    self.sent += len(piece)
            except OSError:
                pass
        self.left.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.thread.join(10)


def endless(head, piece):
    def pieces():
        yield head
        while True:
            yield piece

    return pieces


def dripping(head, piece):
    def pieces():
        yield head
        while True:
            yield piece
            time.sleep(0.01)

    return pieces


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found\r\nLocation: /x", b"410 Gone"])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 99999999999\r\n", b"Connection: close\r\n"])
def test_an_endless_body_is_read_no_further_than_its_cap(hook, status, framing):
    with Raw(endless(b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n", b"x" * 65536)) as server:
        try:
            assert hook()({"url": server.url}, job()) == {"status": 200}
        except (Retry, Refused):
            assert status != b"200 OK"
        assert server.left.wait(20)
    assert server.sent < 30_000_000  # what the kernel's buffers took; an endless read would never get here


def test_an_endless_chunked_or_compressed_body_changes_nothing_of_the_status(hook):
    bomb = gzip.compress(b"\0" * 20_000_000)
    for head, piece in ((b"Transfer-Encoding: chunked\r\n", b"5\r\nxxxxx\r\n"), (b"Content-Encoding: gzip\r\n", bomb), (b"Content-Encoding: gzip, gzip\r\n", gzip.compress(bomb))):
        with Raw(endless(OK + head + b"\r\n", piece)) as server:
            assert hook()({"url": server.url}, job()) == {"status": 200}


@pytest.mark.parametrize("head, piece", [(b"Content-Length: 1000000\r\n", b"x"), (b"", b"x"), (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n")])
def test_a_dripping_body_is_left_when_the_time_is_over_and_the_status_counts(hook, head, piece):
    with Raw(dripping(OK + head + b"\r\n", piece)) as server:
        assert hook(timeout=0.3)({"url": server.url}, job()) == {"status": 200}
        assert server.left.wait(20)


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 100\r\n\r\nshort", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnogz!", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"]
)
def test_a_body_that_breaks_off_after_a_200_is_done_all_the_same(hook, rest):
    with Raw(lambda: [OK + rest]) as server:
        assert hook()({"url": server.url}, job()) == {"status": 200}


@pytest.mark.parametrize("rubbish", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", b"\x15\x03\x01"])
def test_rubbish_instead_of_a_reply_is_unknown(hook, rubbish):
    with Raw(lambda: [rubbish]) as server, pytest.raises(Unknown):
        hook(timeout=2.0)({"url": server.url}, job())


# ── addresses inside ─────────────────────────────────────────────────────────────────────────────────────────────────

LOOPBACK = ["127.0.0.1", "127.1", "localhost", "LOCALHOST", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1", "0x7f000001", "017700000001", "127.0.0.1.", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "0", "[::]", "ⓛocalhost", "127。0。0。1",
            "１２７.0.0.1", "１２７.１", "127.0.1", "0177.1", "0x7F.0x0.0x0.0x1", "00000177.0.0.1", "0x7f.0.1", "2130706433.", "[0:0:0:0:0:ffff:127.0.0.1]", "localhost.localdomain"]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_no_spelling_of_this_machine_is_ever_connected_to(hook, http, host):
    with pytest.raises((Refused, Retry)) as caught:
        hook(allow="")({"url": f"http://{host}:{http.port}/"}, job())
    if isinstance(caught.value, Retry):  # a spelling that this system's resolver does not know
        assert caught.value.reason == "connect-failed"
        assert host in ("127.0.0.1.", "2130706433.", "localhost.localdomain")
    elif not host.isascii():
        assert caught.value.reason in ("forbidden-address", "bad-request")
    else:
        assert caught.value.reason == "forbidden-address"
        assert "ASYNCSEND_ALLOW_PRIVATE" in str(caught.value)
    assert http.requests == []


INSIDE = ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.254", "0.1.2.3", "224.0.0.1", "239.255.255.250", "255.255.255.255",
          "240.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]",
          "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:7f00:1::]", "[fd00:ec2::254]", "[fc00::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]", "[::7f00:1]", "[::2]", "[3fff::1]",
          "[2001:0:808:808::80ff:fffe]", "[2001:0:808:808:0:0:f5ff:fffe]", "[64:ff9b::c0a8:101]", "[64:ff9b::]", "[2002:c0a8:101::]", "[::ffff:0:127.0.0.1]", "[::ffff:224.0.0.1]", "[2001:10::1]", "[5f00::1]", "192.0.0.192", "168.63.129.16"]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_no_address_inside_any_network_is_connected_to(hook, host, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connected"))
    with pytest.raises(Refused) as caught:
        hook(allow="")({"url": f"http://{host}/"}, job())
    assert caught.value.reason == "forbidden-address"


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.167.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_an_address_of_the_internet_is_public(address):
    import ipaddress

    assert http_module.is_public(ipaddress.ip_address(address))


def test_what_is_allowed_is_exactly_what_was_named(hook, http):
    made = hook(allow="127.0.0.1, 10.1.0.0/16")
    assert send(made, http) == {"status": 200}
    for host in ("127.0.0.2", "[::1]", "10.2.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"):
        with pytest.raises(Refused) as caught:
            made({"url": f"http://{host}:{http.port}/"}, job())
        assert caught.value.reason == "forbidden-address"
    assert len(http.requests) == 1


def resolving(monkeypatch, *answers):
    """Every look-up of a name gives the next answer, a list of addresses; the last one stays. Numbers resolve as ever."""
    real, left, asked = socket.getaddrinfo, list(answers), []

    def getaddrinfo(host, port, *arguments, **options):
        if not host.endswith(".example"):
            return real(host, port, *arguments, **options)
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [entry for address in found for entry in real(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_checked_address_is_connected_to_under_the_name(hook, http, monkeypatch):
    asked = resolving(monkeypatch, ["127.0.0.1"], ["10.9.9.9"])
    assert hook()({"url": f"http://hooks.shop.example:{http.port}/in"}, job()) == {"status": 200}
    assert asked == ["hooks.shop.example"]
    assert http.requests[0].headers["Host"] == f"hooks.shop.example:{http.port}"


def test_a_name_that_is_first_public_and_then_private_never_reaches_the_private_address(hook, http, monkeypatch):
    connected = []
    monkeypatch.setattr(http_module, "CONNECT_TIMEOUT", 0.05)
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: connected.append(address[0]) or (_ for _ in ()).throw(ConnectionRefusedError(111, "Connection refused")))
    resolving(monkeypatch, ["1.1.1.1"], ["127.0.0.1"])
    with pytest.raises(Retry):
        hook(allow="")({"url": f"http://rebind.example:{http.port}/"}, job())
    assert connected == ["1.1.1.1"]
    assert http.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(hook, monkeypatch):
    resolving(monkeypatch, ["1.1.1.1", "10.0.0.1"])
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connected"))
    with pytest.raises(Refused):
        hook(allow="")({"url": "http://mixed.example/"}, job())


def test_an_address_that_does_not_answer_is_followed_by_the_next_one_of_the_name(hook, http, monkeypatch):
    resolving(monkeypatch, ["127.0.0.3", "127.0.0.1"])
    assert hook(allow="127.0.0.0/8")({"url": f"http://two.example:{http.port}/"}, job()) == {"status": 200}


def test_an_address_that_swallows_every_packet_is_followed_by_the_next_one_of_the_name(hook, http, monkeypatch):
    """As a broken IPv6 route does it: a listener whose queue is full answers no SYN."""
    hole = socket.socket()
    hole.bind(("127.0.0.3", http.port))
    hole.listen(0)
    waiting = []
    for _ in range(4):
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(("127.0.0.3", http.port))
    monkeypatch.setattr(http_module, "CONNECT_TIMEOUT", 0.2)
    with pytest.raises(Retry, match="cannot connect within"):
        hook(allow="127.0.0.0/8")({"url": f"http://127.0.0.3:{http.port}/"}, job())
    resolving(monkeypatch, ["127.0.0.3", "127.0.0.1"])
    assert hook(allow="127.0.0.0/8")({"url": f"http://hole.example:{http.port}/"}, job()) == {"status": 200}
    for one in (*waiting, hole):
        one.close()


def test_a_private_address_is_refused_before_a_byte_is_sent(hook, http):
    with pytest.raises(Refused):
        send(hook(allow="10.0.0.0/8"), http)
    hook()({"url": f"{http.url}/last"}, job())
    assert [request.path for request in http.requests] == ["/last"]


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [None, 17, "", "shop.example", "ftp://x.example/", "file:///etc/passwd", "gopher://x.example", "javascript:alert(1)", "http://", "http:///x", "https://?x", "http:// x.example/", "http://x.example/\r\nX: y", "http://x.example/a b",
     "http://user:pw@x.example/", "http://user@x.example/", "http://@x.example/", "http://:pw@x.example/", "http://x.example\\@127.0.0.1/", "http://[::1", "http://x.example:99999/", "http://x.example:port/", " http://x.example/", "//x.example/"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_by_name(url):
    with pytest.raises(BadPayload, match=r"^url"):
        request_of({"url": url})


@pytest.mark.parametrize("host", ["*.example", ".example", "a" * 64 + ".example", "a..example", "ü" * 70 + ".example", "-", "%00", "x%2f.example", "[v1.x]", "1.2.3.4.5", "xn--", "_", "[::1%25lo]", "\u200b"])
def test_a_host_that_cannot_be_is_refused_or_a_failed_attempt_and_nothing_else(hook, http, host):
    with pytest.raises((BadPayload, Refused, Retry)):
        hook(allow="")({"url": f"http://{host}:{http.port}/"}, job())
    assert http.requests == []


@pytest.mark.parametrize("headers", [{"X": "1\r\nX-Evil: 1"}, {"X": "1\nX-Evil: 1"}, {"X\r\nX-Evil": "1"}, {"X": "1\r"}, {"X": "\x00"}, {"X Y": "1"}, {"": "1"}, {"X:": "1"}, {"X": 1}, {"X": "größe"}, {"X": "🎁"}, {"X": "\u2028"}, [], "X: 1"])
def test_a_header_that_could_break_out_is_refused(headers):
    with pytest.raises(BadPayload, match=r"^headers"):
        request_of({"url": "https://x.example/", "headers": headers})


@pytest.mark.parametrize("name", ["Host", "HOST", "Content-Length", "Transfer-Encoding", "Connection", "Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE", "idempotency-key"])
def test_a_header_of_ours_cannot_be_given(name):
    with pytest.raises(BadPayload, match=name):
        request_of({"url": "https://x.example/", "headers": {name: "x"}})


@pytest.mark.parametrize("method", ["post", "TRACE", "CONNECT", "HEAD", "", "GET / HTTP/1.1\r\n", 1, None, ["GET"], {}])
def test_a_method_of_another_kind_is_refused(method):
    with pytest.raises(BadPayload, match=r"^method"):
        request_of({"url": "https://x.example/", "method": method})


def test_an_unknown_member_is_refused_by_name():
    with pytest.raises(BadPayload, match="'data'"):
        request_of({"url": "https://x.example/", "data": {}})


def test_a_number_that_json_cannot_hold_is_refused():
    with pytest.raises(BadPayload, match=r"^body"):
        request_of({"url": "https://x.example/", "body": json.loads('{"a": 1e999}')})


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size, good", [(23, False), (24, True), (64, True), (65, False)])
def test_a_secret_holds_24_to_64_bytes(size, good):
    encoded = base64.b64encode(b"k" * size).decode()
    for secret in (encoded, "whsec_" + encoded):
        if good:
            assert signing_key(secret) == b"k" * size
        else:
            with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as caught:
                signing_key(secret)
            assert encoded not in str(caught.value)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", "pässword", "whsec_" + "A" * 33])
def test_a_secret_that_is_no_base64_is_a_configuration_error(secret):
    with pytest.raises(ConfigurationError, match="ASYNCSEND_WEBHOOK_SECRET"):
        signing_key(secret)
