"""
`/unsubscribe/<token>`: no more mail of a list to whoever got this link (RFC 8058). Its token is all that it asks for, and it sets no cookie.

A mail program POSTs, and that is enough. A person, or a scanner that follows every link of a mail, GETs a page with a button; only
the button unsubscribes. `application` is this room alone, for a file of its own: docs/unsubscribe.md.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from asyncsend import web
from asyncsend.store.rows import Suppression
from asyncsend.tasks.unsubscribe import ONE_CLICK, opened
from asyncsend.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from asyncsend.config import Settings
    from asyncsend.store import Store

NAME, _, VALUE = ONE_CLICK.partition("=")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex"><title>Unsubscribe</title></head>
<body style="font: 1.1em sans-serif; max-width: 32em; margin: 4em auto; padding: 0 1em">
%s
</body></html>
"""
FORM = f'<p>Do you want no more mail of the list %s?</p>\n<form method="post"><input type="hidden" name="{NAME}" value="{VALUE}"><button>Unsubscribe</button></form>'
DONE = "<p>You are unsubscribed: you get no more mail of the list %s.</p>"


def answer(request: Request, store: Store, settings: Settings) -> Response:
    """404 for whatever was not signed by us, which says nothing of who is known here; else the page, or the deed."""
    found = opened(request.rest or request.query.get("token", ""), settings.unsubscribe_secrets)
    if found is None:
        return Response(404, "There is nothing here.\n")
    of_list, address = found
    if request.method in ("GET", "HEAD"):
        return _page(FORM, of_list)
    if request.method != "POST":
        return Response(405, "GET or POST.\n")
    # As a form or as multipart/form-data: RFC 8058 section 3.2 allows both.
    if NAME.encode() not in request.body or VALUE.encode() not in request.body:
        return Response(400, f"The body must be {ONE_CLICK}.\n")
    store.suppress([Suppression("email", address, of_list, "unsubscribed", "one click")])
    return _page(DONE, of_list)


def _page(words: str, of_list: str) -> Response:
    return Response(200, PAGE % (words % f"<b>{html.escape(of_list)}</b>"), "text/html; charset=utf-8")


def application(environ: Mapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """This room alone as a WSGI application, wherever it is mounted."""
    rest = str(environ.get("PATH_INFO") or "").lstrip("/").removeprefix("unsubscribe/")
    return web.application({**environ, "PATH_INFO": f"/unsubscribe/{rest}"}, start_response)
