"""
The web side: a WSGI application of plain functions, for Passenger, mod_wsgi or CGI. No threads, no framework, no state between requests.

    from asyncsend.web import application      # passenger_wsgi.py
    python -m asyncsend.web                    # as a CGI program

The first part of the path names the room that answers; what it does not know is 404, and a room answers nothing that no setting allows.
"""

from __future__ import annotations

import importlib
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from asyncsend import config, schema
from asyncsend.errors import AsyncsendError
from asyncsend.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ROOMS: dict[str, str] = {  # first part of the path: the module whose `answer(request, store, settings)` is asked
    "receipts": "asyncsend.web.receipts", "unsubscribe": "asyncsend.web.unsubscribe",
}  # fmt: skip
MAX_BODY = 256 * 1024  # bytes; nothing that is posted here is longer


class Request(NamedTuple):
    """What was asked."""

    method: str
    rest: str  # of the path, behind the name of the room, without its slash
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case, such as content-type
    body: bytes
    url: str  # as the client wrote it, for those who sign it


class Response(NamedTuple):
    """What is answered."""

    status: int
    text: str = ""
    content_type: str = "text/plain; charset=utf-8"


def application(environ: Mapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """The WSGI application (PEP 3333), its settings those of the command line."""
    response = _answered(environ)
    body = response.text.encode("utf-8")
    start_response(
        f"{response.status} {HTTPStatus(response.status).phrase}",
        [("Content-Type", response.content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")],
    )
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _answered(environ: Mapping[str, Any]) -> Response:
    room, _, rest = str(environ.get("PATH_INFO") or "/").lstrip("/").partition("/")
    if room not in ROOMS:
        return Response(404, "There is nothing here.\n")
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        size = -1
    if not 0 <= size <= MAX_BODY:
        return Response(413, "That is too long.\n")
    headers = {name.removeprefix("HTTP_").replace("_", "-").lower(): str(value) for name, value in environ.items() if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")}
    query = str(environ.get("QUERY_STRING") or "")
    host = headers.get("host") or f"{environ.get('SERVER_NAME')}:{environ.get('SERVER_PORT')}"
    url = f"{environ.get('wsgi.url_scheme', 'http')}://{host}{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}{'?' if query else ''}{query}"
    request = Request(str(environ.get("REQUEST_METHOD")), rest, dict(parse_qsl(query, keep_blank_values=True)), headers, environ["wsgi.input"].read(size), url)
    try:
        settings = config.load(os.environ)
        store = open_store(settings.database_url, settings.table_prefix)
        try:
            schema.verify(store.schema_version())
            answer: Response = importlib.import_module(ROOMS[room]).answer(request, store, settings)
            return answer
        finally:
            store.close()
    except AsyncsendError as error:  # for the one who reads the server's log, not for the world: it names hosts and files
        print(f"asyncsend: {error}", file=environ["wsgi.errors"])
        return Response(503, "This cannot be answered now; try again later.\n")
