"""
A real SMTP server in a process of its own that notes to whom each mail went, before it says that it took it, and thinks of nothing else.

For what sends so many mails that a sink in the same process would be what is measured: the newsletter, and benchmarks/mail.py.
"""

import asyncio
import multiprocessing
import os
import time
from pathlib import Path


class Connection(asyncio.Protocol):
    """As much of RFC 5321 as a client needs that is in order. A subclass says what becomes of a recipient, and of a mail."""

    delay = 0.0

    def late(self) -> bool:
        """Whether the reply to the mail that was just taken has to wait a moment longer."""
        return False

    def asked(self, recipient: str) -> str:
        """The reply to RCPT."""
        return "250 ok"

    def took(self, recipient: str) -> None:
        raise NotImplementedError

    def connection_made(self, transport):
        self.transport, self.data, self.unread, self.recipient = transport, False, b"", ""
        transport.write(b"220 sink\r\n")

    def data_received(self, data):
        self.unread += data
        while True:
            line, found, rest = self.unread.partition(b"\r\n.\r\n" if self.data else b"\r\n")
            if not found:
                return
            self.unread = rest
            if self.data:
                self.data = False
                self.took(self.recipient)
                if self.delay:
                    asyncio.get_running_loop().call_later(self.delay, self.say_taken)
                else:
                    self.say_taken()
                continue
            verb = line[:4].upper()
            if verb == b"RCPT":
                self.recipient = line.partition(b"<")[2].partition(b">")[0].decode()
                self.transport.write(self.asked(self.recipient).encode() + b"\r\n")
                continue
            self.data = verb == b"DATA"
            self.transport.write(b"354 go\r\n" if self.data else b"250-sink\r\n250 SIZE 50000000\r\n" if verb == b"EHLO" else b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                self.transport.close()


    def say_taken(self):
        if self.late():
            asyncio.get_running_loop().call_later(0.005, self.say_taken)
        else:
            self.transport.write(b"250 taken\r\n")


class _Noting(Connection):
    descriptor = -1
    taken = 0
    most = None

    def took(self, recipient):
        os.write(self.descriptor, recipient.encode() + b"\n")
        _Noting.taken += 1

    def late(self):
        return self.taken >= self.most.value


def _serve(path, delay, port, most):
    async def forever():
        _Noting.most = most
        _Noting.descriptor, _Noting.delay = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), delay
        server = await asyncio.get_running_loop().create_server(_Noting, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(forever())


class QuickSink:
    """Takes `delay` seconds for each mail, and answers no more after the mail that `hold_at` names; `recipients` are those of all that it took so far, in order."""

    def __init__(self, folder: Path, delay: float = 0.0):
        self.path, self._read, self._rest, self._seen = folder / "recipients", 0, "", []
        self.path.touch()
        port, self._most = multiprocessing.Value("i", 0), multiprocessing.Value("i", 1 << 30)
        self.process = multiprocessing.Process(target=_serve, args=(self.path, delay, port, self._most), daemon=True)
        self.process.start()
        while not port.value:
            time.sleep(0.01)
        self.port = port.value

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def recipients(self) -> list[str]:
        with open(self.path, encoding="ascii") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split("\n")
        self._seen += lines
        return self._seen

    def hold_at(self, most: int) -> None:
        self._most.value = most

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
