"""`sendmail:///usr/sbin/sendmail`: the host's own program."""

from __future__ import annotations

import os
import subprocess
from typing import ClassVar

from asyncsend.answers import Refused, Retry
from asyncsend.text import printable


class Sendmail:
    """The host's own sendmail program; its exit code says what it did (sysexits.h, as Postfix and Exim use it)."""

    NEVER: ClassVar = {os.EX_DATAERR: "the message is malformed", os.EX_NOUSER: "no such user", os.EX_NOHOST: "no such host"}

    def __init__(self, program: str) -> None:
        self.program = program

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        try:
            done = subprocess.run(
                [self.program, "-i", "-f", sender, "--", recipient], input=message.replace(b"\r\n", b"\n"), capture_output=True, check=False
            )
        except OSError as error:
            raise Retry(None, f"cannot start {self.program} ({error.strerror}): check ASYNCSEND_EMAIL_URL", reason="cannot-start") from error
        said = printable((done.stderr or done.stdout).decode("utf-8", "replace").strip(), 300)
        if done.returncode in self.NEVER:
            refused = Refused(f"{self.program}: {self.NEVER[done.returncode]} ({said})", reason="refused")
            raise refused if done.returncode == os.EX_DATAERR else refused.of_channel(failed=True)
        if done.returncode:
            raise Retry(None, f"{self.program} exited with {done.returncode} ({said})", reason="sendmail")

    def close(self) -> None:
        pass
