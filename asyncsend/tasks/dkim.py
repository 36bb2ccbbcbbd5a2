"""DKIM (RFC 6376): a signature over the message, for hosts whose mail server adds none. dkimpy does the work."""

from __future__ import annotations

import base64
import os
import sys
from typing import TYPE_CHECKING, Any

from asyncsend.envfile import assert_private
from asyncsend.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

# RFC 6376 section 5.4.1; RFC 8058 section 4 wants both List-Unsubscribe headers covered.
SIGNED = frozenset((
    b"from", b"reply-to", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type", b"content-transfer-encoding", b"auto-submitted",
    b"in-reply-to", b"references", b"list-id", b"list-unsubscribe", b"list-unsubscribe-post",
))  # fmt: skip
_RSA = bytes.fromhex("300d06092a864886f70d0101010500")  # AlgorithmIdentifier of RFC 3279 section 2.3.1


class Signer:
    """Signs with one RSA key; ConfigurationError if it cannot be used."""

    def __init__(self, key: Path, selector: str, domain: str) -> None:
        try:
            import dkim  # type: ignore[import-untyped]
            from dkim.crypto import UnparsableKeyError, parse_pem_private_key  # type: ignore[import-untyped]
        except ImportError as error:
            raise ConfigurationError(f"ASYNCSEND_DKIM_KEY is set, but dkimpy is not installed: run `{sys.executable} -m pip install dkimpy`") from error
        try:
            with open(os.open(key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                assert_private(key, os.fstat(file.fileno()))
                self._pem = file.read(64 * 1024).replace(b"\r\n", b"\n")
            self._numbers = parse_pem_private_key(self._pem)
        except OSError as error:
            raise ConfigurationError(f"the DKIM key {key} cannot be read ({error.strerror}): set ASYNCSEND_DKIM_KEY, or make one: see docs/mail.md") from error
        except (UnparsableKeyError, ValueError, IndexError) as error:
            raise ConfigurationError(f"the DKIM key {key} is no RSA key in PEM form: make one with `openssl genrsa -out {key} 2048`") from error
        self.selector, self.domain = selector, domain

        class Stamped(dkim.DKIM):  # type: ignore[misc]  # dkimpy has no types
            """Its time is that of the row, or none: dkimpy would take the present, and each attempt would be another message."""

            born: datetime | None = None

            def gen_header(self, fields: list[tuple[bytes, bytes]], *arguments: Any, **options: Any) -> Any:
                stamp = [(b"t", b"%d" % self.born.timestamp())] if self.born else []
                place = [name for name, _ in fields].index(b"t")
                return super().gen_header([*fields[:place], *stamp, *fields[place + 1 :]], *arguments, **options)

        self._message = Stamped

    def signed(self, message: bytes, sender_domain: str, born: datetime | None) -> bytes:
        """The message with a DKIM-Signature before it, relaxed/relaxed; the same for the same row. From is signed once more than it is there."""
        made = self._message(message)
        made.born = born
        names = [name for name, _ in made.headers if name.lower() in SIGNED]
        domain = (self.domain or sender_domain).encode()
        signature: bytes = made.sign(self.selector.encode(), domain, self._pem, canonicalize=(b"relaxed", b"relaxed"), include_headers=[*names, b"from"])
        return signature + message

    def record(self, domain: str) -> tuple[str, str]:
        """Name and value of the TXT record that the world verifies the signature with."""
        key = _der(0x30, _integer(self._numbers["modulus"]) + _integer(self._numbers["publicExponent"]))
        public = _der(0x30, _RSA + _der(0x03, b"\0" + key))
        return f"{self.selector}._domainkey.{self.domain or domain}", f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length, content (X.690 section 8.1)."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x80 + (size.bit_length() + 7) // 8]) + size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag]) + length + content


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
