"""`maildir:///folder`: mails as files, the default of a new installation."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from asyncsend.answers import Retry

if TYPE_CHECKING:
    from pathlib import Path


class Maildir:
    """Mails as files, one each, named after their job: a repeated attempt writes the same file again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, sender: str, recipient: str, message: bytes, key: str) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", key) + ".eml"
        try:
            for folder in (self.folder, *(self.folder / part for part in ("tmp", "new", "cur"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.folder / "tmp" / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(message)
            os.replace(self.folder / "tmp" / name, self.folder / "new" / name)
        except OSError as error:
            raise Retry(None, f"cannot write to the outbox {self.folder} ({error.strerror}): free space or check its rights", reason="outbox") from error

    def close(self) -> None:
        pass
