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
from asyncsend.job import printable

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_TIMEOUT, COMMAND_TIMEOUT, DOT_TIMEOUT = 10.0, 60.0, 300.0  # seconds; the dot: RFC 5321 section 4.5.3.2.6 allows ten minutes
MAX_PER_CONNECTION = 100  # Exim closes after smtp_accept_max_per_connection; fifty to a hundred is what relays are used to
MAX_IDLE = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A 5xx with such words speaks of the account, not of this address: cPanel answers 550 "… exceeded the max emails per hour … Message
# discarded", DreamHost "Policy Rejection - Quota Exceeded" (docs/mail.md). Dead jobs would be lost mail.
LIMIT_WORDS = re.compile(r"exceed|quota|limit|too many|\brate\b|discarded|throttl|try again", re.IGNORECASE)
# RFC 3463: x.2.2 the receiver's mailbox is full, x.2.3 and x.3.4 the message is too big. Neither is about our account.
# The words are for servers that name no such code, Exim and Dovecot among them.
MAILBOX_FULL = re.compile(r"\b[45]\.2\.2\b|\b(mailbox|inbox)\b.*\b(full|quota|storage)\b|\bover ?quota\b|\b(blocks|inode) limit\b", re.IGNORECASE)
TOO_BIG = re.compile(r"\b5\.(2\.3|3\.4)\b|\bmessage (too (big|large)|size)\b", re.IGNORECASE)
RELAY_DENIED = re.compile(
    r"\brelay(ing)?( access)?( is)? (denied|prohibited|forbidden|not (permitted|allowed))|\b(unable|not (allowed|permitted)|do(es)? not|refuse) (to )?relay", re.IGNORECASE
)
# These speak of our login or our right to relay, not of this mail: RFC 4954 section 6, RFC 5321 section 7.1.
OUR_FAULT = (530, 534, 535, 538, 454)
LIMIT_PAUSE, CHANNEL_PAUSE, CONNECT_PAUSE = 900.0, 300.0, 60.0


_ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")


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
        self._stopped: tuple[float, str, str] | None = None  # nothing is tried before that moment; why and reason

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        """Return once the server took the message; an answer otherwise. A connection the server closed early is opened again once."""
        if self._stopped and self.clock() < self._stopped[0]:
            until, why, reason = self._stopped
            raise Snooze(until - self.clock(), why, reason=reason)
        try:
            for attempt in (1, 2):
                self._open()
                try:
                    return self._transact(sender, recipient, message)
                except Closed as closed:
                    self._drop()
                    if attempt == 2:
                        raise Snooze(CONNECT_PAUSE, f"{self.host} closes the connection before taking mail: {closed}", reason="smtp-closed") from closed
        except Snooze as snooze:
            self._stopped = (self.clock() + min(snooze.delay, LIMIT_PAUSE), f"not tried: {snooze}", snooze.reason)
            raise
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
            raise Snooze(CHANNEL_PAUSE, f"{self.host} refuses our login ({error.smtp_code} {said}): check ASYNCSEND_EMAIL_URL", reason="smtp-login") from error
        except smtplib.SMTPNotSupportedError as error:
            self._drop()
            raise Snooze(CHANNEL_PAUSE, f"{self.host} takes no login ({error}): check ASYNCSEND_EMAIL_URL", reason="smtp-login") from error
        except ssl.SSLError as error:
            self._drop()
            raise Snooze(CHANNEL_PAUSE, f"TLS with {self.host} failed ({error}): check the host name in ASYNCSEND_EMAIL_URL", reason="smtp-tls") from error
        except (smtplib.SMTPException, OSError) as error:
            self._drop()
            retry = Retry(None, f"cannot connect to {self.host}:{self.port} ({printable(str(error), 200)})", reason="smtp-connect")
            # The jobs behind this one are not charged for a server that is away: they wait a minute without trying.
            self._stopped = (self.clock() + CONNECT_PAUSE, f"not tried: {retry}", "smtp-connect")
            raise retry from error

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
            raise Refused(f"the message is {len(message):,} bytes with its attachments, and {self.host} takes {int(most):,}: send a link instead", reason="smtp-size")
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
            answer = self._answer("the message", code, _words(words))
            if code == 421:
                self._drop()
            raise answer

    def _expect(self, step: str, reply: tuple[int, bytes], *good: int) -> None:
        code, words = reply
        if code in good:
            return
        if code in (421, -1):
            raise Closed(f"{code} {printable(_words(words), 200)}")
        answer = self._answer(step, code, _words(words))
        self._sent += 1  # refused transactions count against the server's limit, too
        self._used = self.clock()
        smtp = self._smtp
        assert smtp is not None
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.rset()
        raise answer

    def _answer(self, step: str, code: int, words: str) -> Answer:
        """What a refusal means for the job and for the account."""
        said = f"{self.host} answered {step} with {code} {printable(words, 300)}"
        words = _ADDRESS.sub(" ", words)  # <quota@relay.example> says nothing of quotas or relays
        if MAILBOX_FULL.search(words):
            return Retry(None, said, reason="mailbox-full")
        if TOO_BIG.search(words) or code == 552:
            return Refused(said, reason=f"smtp-{code}")
        if (code >= 500 or code == 454) and LIMIT_WORDS.search(words):
            return Snooze(LIMIT_PAUSE, f"{said}: the host's limit, mail waits until it opens", reason="smtp-limit")
        if code in OUR_FAULT or RELAY_DENIED.search(words):
            return Snooze(CHANNEL_PAUSE, f"{said}: check the login in ASYNCSEND_EMAIL_URL", reason="smtp-login")
        if code >= 500:
            return Refused(said, reason=f"smtp-{code}")
        return Retry(None, said, reason=f"smtp-{code}")


def _words(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
