"""
The heartbeat: one GET after each run to a watch outside, which misses it when no run comes: the only alert that a dead cron can give.

Plain http.client: requests costs 105 ms of CPU before it has opened anything, this 14 ms, or 52 with TLS, and every minute pays. No redirect is
followed and no reply is read. The address is the owner's own setting, so it may be private: an Uptime Kuma in the same house.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncsend.log import Log

TIMEOUT = 5.0  # seconds for each of connecting and answering


def ping(url: str, log: Log, *, well: bool) -> None:
    """GET the URL, or URL/fail. Never raises: what goes wrong is a line in the log."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    split = urlsplit(url)
    path = split.path + ("" if well else f"{'' if split.path.endswith('/') else '/'}fail")
    connection = (HTTPSConnection if split.scheme == "https" else HTTPConnection)(split.hostname or "", split.port, timeout=TIMEOUT)
    try:
        connection.request("GET", f"{path or '/'}{'?' + split.query if split.query else ''}", headers={"User-Agent": "asyncsend", "Connection": "close"})
        status = connection.getresponse().status
        if not 200 <= status < 300:
            log.event("heartbeat-failed", error=f"{split.hostname} answered {status}")
    except (OSError, HTTPException, ValueError) as error:
        log.event("heartbeat-failed", error=f"{split.hostname}: {error}")
    finally:
        connection.close()
