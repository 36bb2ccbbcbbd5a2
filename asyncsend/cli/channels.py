"""`asyncsend status --channel`: how each way out stands, what of its limits is used, and when those that wait will be through."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from asyncsend.channels import BREAKER, EMAIL, SMS
from asyncsend.cli.session import print_json, print_table
from asyncsend.errors import NotFound
from asyncsend.quotas import QUOTA, Window
from asyncsend.text import printable
from asyncsend.times import spoken, stamp
from asyncsend.turns import limit_named

if TYPE_CHECKING:
    from asyncsend.cli.session import Session

AN_HOUR = Window(10**9, 3600.0)  # only to count


def show(session: Session, wanted: str, *, as_json: bool) -> None:
    """All of them, or the one of this name."""
    store, settings = session.store, session.settings
    limited = [name for name, limit in ((EMAIL, settings.email_limit), (SMS, settings.sms_limit)) if limit]
    troubled = {row.name: row for row in store.channels()}
    names = sorted({*limited, *store.metered_channels(), *troubled})
    if wanted and wanted not in names:
        raise NotFound(f"no limit is set for a channel {printable(wanted, 60)!r}, and it has had no trouble: `asyncsend status --channel` lists those there are")
    found = []
    for name in [wanted] if wanted else names:
        limit, trouble = limit_named(settings, name), troubled.get(name)
        meter = store.meters({name: (AN_HOUR, *limit)}, settings.reserve)[name]
        waiting = {reason: store.count(state="ready", task=name, reason=reason) for reason in (QUOTA, BREAKER)} if name in (EMAIL, SMS) else {}
        found.append({
            "channel": name,
            "limits": [{"limit": str(window), "number": window.number, "seconds": window.seconds, "used": used} for window, used in zip(limit, meter.used[1:], strict=True)],
            "last_hour": meter.used[0] if limit else None,
            "stopped_seconds": trouble.left if trouble and trouble.left is not None and trouble.left > 0 else None,
            "reason": trouble.reason if trouble else None,
            "failed_lately": len(trouble.failed) if trouble else 0,
            "waiting": sum(waiting.values()),
            "through_at": datetime.fromtimestamp(max(meter.promised.values()), UTC).isoformat() if waiting.get(QUOTA) and meter.promised else None,
        })  # fmt: skip
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No channel has a limit (ASYNCSEND_EMAIL_LIMIT and its like), and none has had trouble.", err=True)
        return
    print_table(("channel", "used of its limits", "last hour", "waiting", "through", "state"), [_row(session, one) for one in found])


def _row(session: Session, one: dict[str, Any]) -> tuple[Any, ...]:
    used = ", ".join(f"{limit['used']} of {limit['limit']}" for limit in one["limits"]) or "-"
    through = stamp(datetime.fromisoformat(one["through_at"]), session.settings.timezone) if one["through_at"] else "-"
    state = f"stopped for {spoken(one['stopped_seconds'])}: {one['reason']}" if one["stopped_seconds"] else f"{one['failed_lately']} failed lately" if one["failed_lately"] else "open"
    return one["channel"], used, "-" if one["last_hour"] is None else one["last_hour"], one["waiting"], through, printable(state)
