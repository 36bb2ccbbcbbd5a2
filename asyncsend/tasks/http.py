"""One way to speak HTTP for all tasks: no redirects, no proxy from the environment, capped replies, and each failure told apart."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import socket
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from asyncsend.answers import Refused, Retry, Unknown
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONNECT_TIMEOUT = 5.0
MAX_REPLY_BYTES = 64 * 1024
MAX_ADDRESSES = 3  # of one name that are tried, each for CONNECT_TIMEOUT
MAX_RETRY_AFTER = 86400.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `text` is at most 64 KiB of it, unless more was asked for."""

    status: int
    text: str
    retry_after: float | None  # seconds, at most a day
    whole: bool = True  # False: the body was longer, slower or broken; the status came all the same
    headers: Mapping[str, str] = field(default_factory=dict)  # asked for by any case of their names


def call(
    session: requests.Session, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None, timeout: float, auth: tuple[str, str] | None = None,
    most_bytes: int = MAX_REPLY_BYTES,
) -> Reply:
    """
    The reply to one request. Retry if nothing was sent, Unknown if it was and no reply came, Refused if the URL cannot be called.

    `timeout` is seconds for the whole exchange, the reading of a dripping body included; of a longer body `most_bytes` are read.
    """
    deadline = time.monotonic() + timeout
    if auth:  # requests writes Latin-1, RFC 7617 speaks of UTF-8
        headers = {**headers, "Authorization": "Basic " + base64.b64encode(":".join(auth).encode()).decode()}
    try:
        with session.request(
            method, url, headers=dict(headers), data=data, timeout=(CONNECT_TIMEOUT, timeout), allow_redirects=False, stream=True
        ) as response:
            text, whole = _text(response, deadline, most_bytes)
            return Reply(response.status_code, text, _retry_after(response.headers.get("Retry-After")), whole, response.headers)
    except requests.exceptions.ReadTimeout as error:
        raise Unknown(f"no reply within {timeout:g} s after the request was sent") from error
    except requests.exceptions.ConnectTimeout as error:
        raise Retry(None, f"cannot connect within {CONNECT_TIMEOUT:g} s", reason="connect-failed") from error
    except requests.exceptions.SSLError as error:
        raise Retry(None, f"TLS failed: {_cause(error)}", reason="tls-failed") from error
    except requests.exceptions.ConnectionError as error:
        if _never_sent(error):
            raise Retry(None, f"cannot connect: {_cause(error)}", reason="connect-failed") from error
        raise Unknown(f"the connection was lost after the request was sent: {_cause(error)}") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, requests.exceptions.InvalidHeader) as error:
        raise Refused(f"the request cannot be made: {_cause(error)}", reason="bad-request") from error
    except UnicodeError as error:  # http.client writes headers in Latin-1
        raise Refused(f"the request cannot be made: {_cause(error)}", reason="bad-request") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Unknown(f"the exchange broke off: {_cause(error)}") from error


class _Session(requests.Session):
    def get_redirect_target(self, _response: requests.Response) -> None:
        """Nowhere: even with allow_redirects=False requests reads the whole body of a redirect, endless or not, to prepare the next request."""


def plain_session() -> requests.Session:
    """A session for addresses that the settings name."""
    session = _Session()
    session.trust_env = False  # no proxy, no .netrc from the environment
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # one job's cookie is no business of the next job
    return session


def guarded_session(allow_private: tuple[str, ...]) -> requests.Session:
    """
    A session that connects to public addresses only, or to the allowed networks.

    The name is resolved once, every address is checked, and the checked addresses themselves are connected to, so that a second,
    different answer of the name server cannot get past (DNS rebinding; OWASP "SSRF Prevention Cheat Sheet").
    """
    networks = tuple(ipaddress.ip_network(name, strict=False) for name in allow_private)

    def pick(host: str, port: int) -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            if not (is_public(address) or any(address in network for network in networks)):
                raise Refused(
                    f"{printable(host, 100)} is the private address {address}; if that is meant, set ASYNCSEND_ALLOW_PRIVATE={address}",
                    reason="forbidden-address",
                )
        return list(dict.fromkeys(map(str, addresses)))[:MAX_ADDRESSES]

    session = plain_session()
    adapter = _GuardedAdapter(pick)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether anybody on the internet may be at this address; addresses that carry another one inside are judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(inside)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or any(address in network for network in _SPECIAL)
    )


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_SPECIAL = (  # what Python 3.11 calls global, and is not
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890: parts of it
    ipaddress.ip_network("192.88.99.0/24"),  # RFC 7526: 6to4 relays, given up
    ipaddress.ip_network("fec0::/10"),  # RFC 3879: site-local, still routed inside some
    ipaddress.ip_network("3fff::/20"),  # RFC 9637: documentation
    ipaddress.ip_network("5f00::/16"),  # RFC 9602: segment routing inside one operator
    ipaddress.ip_network("168.63.129.16/32"),  # a public number that Azure answers inside each machine, its metadata among the answers
)


class _GuardedAdapter(HTTPAdapter):
    def __init__(self, pick: Callable[[str, int], list[str]]) -> None:
        self._pick = pick
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        pick = self._pick

        class Http(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _pinned(self, pick, super()._new_conn)

        class Https(urllib3.connection.HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _pinned(self, pick, super()._new_conn)

        class HttpPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Https

        self.poolmanager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}


def _pinned(connection: Any, pick: Callable[[str, int], list[str]], connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect to the first checked address that answers; Host header, SNI and certificate check go on using the name."""
    name = connection._dns_host  # noqa: SLF001 - urllib3 2 resolves exactly this attribute, in _new_conn, and nowhere else
    try:
        addresses = pick(name, connection.port)
    except (socket.gaierror, UnicodeError) as error:
        raise urllib3.exceptions.NameResolutionError(name, connection, socket.gaierror(str(error))) from error
    try:
        for address in addresses[:-1]:
            connection._dns_host = address  # noqa: SLF001
            with contextlib.suppress(urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                return connect()
        connection._dns_host = addresses[-1]  # noqa: SLF001
        return connect()
    finally:
        connection._dns_host = name  # noqa: SLF001


def _text(response: requests.Response, deadline: float, most: int) -> tuple[str, bool]:
    """The body's first bytes, and whether that is all of it. What breaks here undoes no status."""
    body, whole = b"", False
    # read1, for read waits until all it asked for is there: a server that drips a byte a second would hold us for hours.
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, HTTPException):
        while len(body) <= most and (left := deadline - time.monotonic()) > 0:
            wire = getattr(response.raw.connection, "sock", None)
            if wire is not None:
                wire.settimeout(left)
            piece = response.raw.read1(8192, decode_content=True)
            if not piece:
                whole = True
                break
            body += piece
    return body[:most].decode("utf-8", "replace"), whole


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date (RFC 9110 section 10.2.3); None if there is none to understand."""
    if not value:
        return None
    if value.strip().isdecimal():
        return min(float(value), MAX_RETRY_AFTER)
    from email.utils import parsedate_to_datetime

    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), MAX_RETRY_AFTER)
    except (ValueError, TypeError, OverflowError):
        return None


def _never_sent(error: BaseException) -> bool:
    """Whether a connection error came before a byte of the request went out."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError, urllib3.exceptions.ConnectTimeoutError))


def _cause(error: BaseException) -> str:
    """The innermost sentence of an error, without the address of an object in it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    text = str(reason)
    return printable(text.rpartition("object at 0x")[2].partition(">: ")[2] or text, 200)
