"""
Reconcile: held SMS of which nobody knows whether they went out, looked up in their gateway's own list of messages.

Two jobs with the same text to the same number share what is found: each message counts for one of them, so as many go out as there are jobs.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from asyncsend.answers import Answer, BadPayload
from asyncsend.job import Job, members_of
from asyncsend.outcome import State
from asyncsend.store import receipts
from asyncsend.tasks.sms import Sms, message_of
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from asyncsend.config import Settings
    from asyncsend.store import Store
    from asyncsend.tasks.twilio import Found

GRACE = timedelta(minutes=10)  # after the attempt, before "it is not there" is believed
SKEW = timedelta(minutes=2)  # by which the gateway's clock may differ from the database's


class Finding(NamedTuple):
    """What became of one held job: `done` it was sent after all, `ready` it was not, `held` that cannot be told."""

    job: Job
    state: State
    why: str


def reconcile(store: Store, settings: Settings, jobs: Iterable[Job], *, dry_run: bool = False) -> Iterator[Finding]:
    """Look for the message of each of these held jobs, and let it go where it belongs; with `dry_run` only look."""
    sender = Sms(settings)
    now = store.standing("default").now
    taken: set[str] = set()
    try:
        for job in jobs:
            finding = _look(store, sender, job, now, taken)
            if not dry_run and finding.state is State.DONE:
                changed = receipts.was_sent(store, job.id, finding.why)
            elif not dry_run and finding.state is State.READY:
                changed = store.make_ready(job.id, (State.HELD,))
            else:
                changed = True
            yield finding if changed else Finding(job, State.HELD, "somebody else decided about it just now")
    finally:
        sender.close()


def _look(store: Store, sender: Sms, job: Job, now: datetime, taken: set[str]) -> Finding:
    def untold(why: str) -> Finding:
        return Finding(job, State.HELD, why)

    if job.task != "sms" or job.state is not State.HELD or job.reason != "unknown":
        return untold("only an sms that is held because its outcome is unknown can be looked up")
    find = getattr(sender.preset, "find", None)
    if find is None:
        return untold("this gateway cannot be asked which messages it has: look there by hand, then release or cancel it")
    try:
        message = message_of(members_of(job.payload), sender.default_from)
    except (ValueError, BadPayload) as error:
        return untold(str(error))
    if not message["text"]:
        return untold("a template's text is not known here: look at the gateway by hand")
    began, ended = _attempt(store, job)
    if now - ended < GRACE:
        return untold(f"its attempt ended less than {GRACE.seconds // 60} minutes ago: the gateway may be at it still")
    try:
        found: list[Found] | None = find(sender.session(), message["to"])
    except Answer as error:
        return untold(f"the gateway cannot be asked: {printable(str(error), 200)}")
    if found is None:
        return untold("the gateway does not tell, or knows too many messages to this number")
    known = receipts.messages_since(store, began - 2 * SKEW)
    for one in sorted(found, key=lambda one: one.created):
        mine = one.body.endswith(message["text"])  # a trial account puts words of its own in front
        if mine and began - SKEW <= one.created <= ended + SKEW and one.sid not in taken and not any(f'"{one.sid}"' in result for result in known):
            taken.add(one.sid)
            return Finding(job, State.DONE, json.dumps({"status": one.status, "message": one.sid}))
    return Finding(job, State.READY, "the gateway has no such message")


def _attempt(store: Store, job: Job) -> tuple[datetime, datetime]:
    """When the attempt of which nothing is known began, and when it was over at the latest."""
    assert job.created_at is not None
    last = next((one for one in reversed(store.attempts([job.id])[job.id]) if one.became == "held"), None)
    ended = last.ended_at if last and last.ended_at else job.started_at or job.created_at
    began = ended - timedelta(seconds=last.seconds if last else 0)
    return min(began, job.started_at or began), ended
