"""A TCP proxy before a database that cuts, stalls or refuses on command, tied to what passes through it."""

import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Rule:
    """The first time the client says `pattern`: do `action`, then reset the connection. Which of the three moments, `when` says."""

    pattern: bytes
    when: str  # before: it never arrives | during: it arrives, nobody waits | after: it is done, the answer is lost
    action: Callable[[], object] = lambda: None
    hits: int = 0


class Proxy:
    """Listens on a port of loopback, or at a socket's path, and passes everything on to `upstream`, a socket's path or (host, port)."""

    def __init__(self, upstream, path=None):
        self.upstream, self.rules, self.stalled, self.refusing = upstream, [], threading.Event(), False
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.acting = threading.Lock()
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen(16)
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for pair in list(self.pairs):
            self._end(pair)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX if isinstance(self.upstream, str) else socket.AF_INET)
            except OSError:
                return
            pair = (client, server)
            try:
                server.connect(self.upstream)
            except OSError:
                self._end(pair)
                continue
            if self.refusing:
                self._end(pair)
                continue
            self.pairs.add(pair)
            lost: list[Rule] = []  # whose answer must not come through
            for source, target in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, target, pair, lost), daemon=True).start()

    def _pump(self, source, target, pair, lost) -> None:
        while True:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            if not data or (lost and source is pair[1]):
                return self._end(pair, lost)
            if self.stalled.is_set():
                continue  # swallowed, as by a network that hangs
            rule = next((rule for rule in self.rules if source is pair[0] and not rule.hits and re.search(rule.pattern, data, re.IGNORECASE | re.DOTALL)), None)
            if rule:
                rule.hits += 1
                lost.append(rule)
                if rule.when == "before":
                    return self._end(pair, lost)
            try:
                target.sendall(data)
            except OSError:
                return self._end(pair, lost)
            if rule and rule.when == "during":
                return self._end(pair, lost)

    def _end(self, pair, lost=()) -> None:
        with self.acting:  # one action at a time, and whoever would close this pair meanwhile waits for its end
            while lost:
                lost.pop().action()
        self.pairs.discard(pair)
        for side in pair:
            try:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed already
            side.close()
