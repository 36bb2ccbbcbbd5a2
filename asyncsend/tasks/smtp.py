"""
SMTP, step by step, so that each reply is told apart: before the final dot nothing was accepted, after it nobody may know.

One connection serves many jobs. RFC 5321 names the replies; what hosts really answer is in docs/mail.md.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from asyncsend.answers import Answer, Refused, Retry, Snooze, Unknown
from asyncsend.errors import ConfigurationError
from asyncsend.tasks.replies import broken, judged
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_TIMEOUT, COMMAND_TIMEOUT, DOT_TIMEOUT = 10.0, 60.0, 300.0  # seconds; the dot: RFC 5321 section 4.5.3.2.6 allows ten minutes
MAX_PER_CONNECTION = 100  # Exim closes after smtp_accept_max_per_connection; fifty to a hundred is what relays are used to
MAX_IDLE = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CONNECT_PAUSE = 60.0  # seconds that nobody tries to connect


class Closed(Exception):
    """The server ended the connection before the final dot: nothing was accepted, a new connection may do better."""


class Smtp:
    """
    One SMTP account: `smtp://user:password@host:587`, `smtps://user:password@host`, `smtp://localhost`.

    STARTTLS is used where it is offered and demanded before a password is sent, except on loopback; certificates are checked.
    `?starttls=off` and `?verify=off` are for relays inside the host's own walls; starttls=off takes no password across a network.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            split = urlsplit(url)
            self.port = split.port or (465 if split.scheme == "smtps" else 587 if split.username else 25)
            readable = not split.fragment and split.path in ("", "/")
        except ValueError:
            readable = False
        if not readable:  # what Python says of it would show part of the password
            raise ConfigurationError(
                "ASYNCSEND_EMAIL_URL cannot be read as smtp://user:password@host:port: write @ : / # ? % [ ] in the password as %40 %3A %2F %23 %3F %25 %5B %5D"
            ) from None
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.host = split.hostname or "localhost"
        self.user = unquote(split.username) if split.username else None
        self.password = unquote(split.password or "")
        self.implicit_tls = split.scheme == "smtps"
        self.local = self.host in LOOPBACK
        self.starttls = query.pop("starttls", "off" if self.local else "auto")
        self.verify = query.pop("verify", "on") != "off"
        if query or self.starttls not in ("off", "auto", "required"):
            raise ConfigurationError("ASYNCSEND_EMAIL_URL knows the options starttls=off, starttls=required and verify=off only")
        if self.user and self.starttls == "off" and not self.implicit_tls and not self.local:
            raise ConfigurationError(f"ASYNCSEND_EMAIL_URL would send the password to {self.host} in the clear: remove starttls=off, or write smtps://")
        self.clock = clock
        self._smtp: smtplib.SMTP | None = None
        self._sent = 0
        self._used = 0.0

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        """Return once the server took the message; an answer otherwise. A connection the server closed early is opened again once."""
        for attempt in (1, 2):
            self._open()
            try:
                return self._transact(sender, recipient, message)
            except Closed as closed:
                self._drop()
                if attempt == 2:
                    away = Snooze(CONNECT_PAUSE, f"{self.host} closes the connection before taking mail: {closed}", reason="smtp-closed")
                    raise away.of_channel(troubled=True, leave_alone=CONNECT_PAUSE) from closed
        raise AssertionError("unreachable: the loop above returns or raises")

    def check(self) -> None:
        """Connect and log in, send nothing; raises the answer a job would get."""
        self._open()
        self.close()

    def close(self) -> None:
        if self._smtp is not None:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                self._smtp.quit()
            self._drop()

    def _drop(self) -> None:
        if self._smtp is not None:
            with contextlib.suppress(OSError):
                self._smtp.close()
            self._smtp = None

    def _open(self) -> None:
        if self._smtp is not None and (self._sent >= MAX_PER_CONNECTION or self.clock() - self._used > MAX_IDLE):
            self.close()
        if self._smtp is not None:
            return
        self._sent = 0
        try:
            self._connect()
        except smtplib.SMTPAuthenticationError as error:
            self._drop()
            said = printable(_words(error.smtp_error), 200)
            if error.smtp_code < 500 and error.smtp_code != 454:  # RFC 4954 section 6: a temporary failure of theirs
                raise self._away(f"{self.host} cannot check our login now ({error.smtp_code} {said})") from error
            raise broken(f"{self.host} refuses our login ({error.smtp_code} {said}): check ASYNCSEND_EMAIL_URL", "smtp-login") from error
        except smtplib.SMTPNotSupportedError as error:
            self._drop()
            raise broken(f"{self.host} takes no login ({error}): check ASYNCSEND_EMAIL_URL", "smtp-login") from error
        except ssl.SSLError as error:
            self._drop()
            raise broken(f"TLS with {self.host} failed ({error}): check the host name in ASYNCSEND_EMAIL_URL", "smtp-tls") from error
        except (smtplib.SMTPException, OSError) as error:
            self._drop()
            raise self._away(f"cannot connect to {self.host}:{self.port} ({printable(str(error), 200)})") from error

    def _away(self, why: str) -> Answer:
        """The answer for the one mail that found the server away; those behind it are not charged, they wait a minute without trying."""
        return Retry(None, why, reason="smtp-connect").of_channel(troubled=True, unsent=True, leave_alone=CONNECT_PAUSE)

    def _connect(self) -> None:
        if self.implicit_tls:
            self._smtp = smtplib.SMTP_SSL(self.host, self.port, timeout=CONNECT_TIMEOUT, context=self._context())
        else:
            self._smtp = smtplib.SMTP(self.host, self.port, timeout=CONNECT_TIMEOUT)
        assert self._smtp.sock is not None
        self._smtp.sock.settimeout(COMMAND_TIMEOUT)
        self._smtp.ehlo_or_helo_if_needed()
        if not self.implicit_tls and self.starttls != "off":
            if self._smtp.has_extn("starttls"):
                self._smtp.starttls(context=self._context())
                self._smtp.ehlo()
            elif self.starttls == "required" or self.user:
                raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS, and a password must not go out in the clear")
        if self.user:
            try:
                self._smtp.login(self.user, self.password)
            except (smtplib.SMTPResponseException, smtplib.SMTPServerDisconnected):
                raise
            except smtplib.SMTPException as error:  # no AUTH at all, or no method that smtplib knows
                raise smtplib.SMTPNotSupportedError(str(error)) from error
        with contextlib.suppress(OSError, AttributeError):  # the dot is a packet of its own; it must not wait for an ACK
            self._smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _transact(self, sender: str, recipient: str, message: bytes) -> None:
        smtp = self._smtp
        assert smtp is not None
        size = [f"SIZE={len(message)}"] if smtp.has_extn("size") else []
        most = smtp.esmtp_features.get("size", "").strip()
        if most.isdecimal() and 0 < int(most) < len(message):  # RFC 1870 section 4; 0 means that there is no fixed limit
            why = f"the message is {len(message):,} bytes with its attachments, and {self.host} takes {int(most):,}: send a link instead"
            raise Refused(why, reason="smtp-size").of_channel(unsent=True, channel=None)  # nothing was asked, so nothing is known of the way out
        try:
            self._expect("MAIL FROM", smtp.mail(sender, size), 250)
            self._expect("RCPT TO", smtp.rcpt(recipient), 250, 251)
            self._expect("DATA", smtp.docmd("DATA"), 354)
            assert smtp.sock is not None
            smtp.sock.settimeout(DOT_TIMEOUT)
            smtp.sock.sendall(re.sub(rb"(?m)^\.", b"..", message) + (b"" if message.endswith(b"\r\n") else b"\r\n"))
        except (smtplib.SMTPException, OSError) as error:
            raise Closed(printable(str(error), 200)) from error
        try:
            smtp.sock.sendall(b".\r\n")
            code, words = smtp.getreply()
            if code < 200:
                raise smtplib.SMTPServerDisconnected(f"not a reply: {printable(_words(words), 100)}")  # as good as silence
        except (smtplib.SMTPException, OSError) as error:
            self._drop()
            raise Unknown(f"{self.host} did not answer after the final dot ({printable(str(error), 100)}): the mail may have been taken") from error
        smtp.sock.settimeout(COMMAND_TIMEOUT)
        self._sent += 1
        self._used = self.clock()
        if code != 250:
            answer = judged(self.host, "the message", code, _words(words))
            if code == 421:
                self._drop()
            raise answer

    def _expect(self, step: str, reply: tuple[int, bytes], *good: int) -> None:
        code, words = reply
        if code in good:
            return
        if code in (421, -1):
            raise Closed(f"{code} {printable(_words(words), 200)}")
        answer = judged(self.host, step, code, _words(words))
        self._sent += 1  # refused transactions count against the server's limit, too
        self._used = self.clock()
        smtp = self._smtp
        assert smtp is not None
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.rset()
        raise answer


def _words(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
