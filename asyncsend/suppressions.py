"""
Suppressions: addresses that nothing more is sent to. Looked up when a run hands its jobs out; a job to such an address is cancelled, unsent.

What a row stops:
    hard, complaint, manual        everything to its address; with a list, that list's mails
    unsubscribed                   mails of its list, of any list if it names none, and every SMS; never a mail of no list, such as a password reset
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncsend import outcome as outcomes
from asyncsend.channels import parted
from asyncsend.job import members_of
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncsend.job import Job
    from asyncsend.outcome import Outcome
    from asyncsend.store import Store
    from asyncsend.store.rows import Suppression
    from asyncsend.tasks.bounces import Told

KINDS = ("email", "sms")  # tasks, and what may be suppressed
REASONS = {"hard": "it does not exist", "complaint": "its owner complained", "unsubscribed": "its owner unsubscribed", "manual": "added by hand"}
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_DOMAIN = re.compile(r"[A-Za-z0-9_.-]{1,252}")
_NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164


def known(text: str) -> tuple[str, str] | None:
    """
    Kind and address as the table has them; None if it is neither a mail address nor a number.

    >>> known("Ann <Ann@Example.com>"), known("+33 6 12 34 56 78"), known("ann")
    (('email', 'ann@example.com'), ('sms', '+33612345678'), None)
    """
    local, domain = parted(text)
    number = re.sub(r"[\s().-]", "", local)
    if "@" not in text and _NUMBER.fullmatch(number):
        return "sms", number
    if not (domain and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain) and len(local) + len(domain) < 254):
        return None
    return "email", f"{local}@{domain}".lower()


def sort_out(store: Store, jobs: Iterable[Job]) -> None:
    """Say of each job that goes to a suppressed address why it must not. One question for all of them, and none while nobody is suppressed."""
    going = [job for job in jobs if job.task in KINDS]
    if not going or not store.has_suppressions():
        return
    # A payload too long to come with the claim is read for this alone, and let go again: a batch of them must not stand in memory.
    to = {job.id: found for job in going if (found := _goes_to(job.task, (store.payload(job.id, job.token or "") or "") if job.unread else job.payload))}
    rows: dict[tuple[str, str], list[Suppression]] = {}
    for row in store.suppressions_of({address for address, _ in to.values()}):
        rows.setdefault((row.kind, row.address.lower()), []).append(row)
    for job in going if rows else ():
        if job.id in to:
            job.suppressed = _why(rows, job.task, *to[job.id])


class Learnt:
    """Addresses that jobs of this very run were refused for; those in hand were looked up before."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[Suppression]] = {}

    def heard(self, job: Job, outcome: Outcome) -> None:
        """Learn from what became of a job."""
        from asyncsend.store.rows import Suppression

        if outcome.suppress and outcome.address and (found := known(outcome.address)):
            self._rows.setdefault(found, []).append(Suppression(*found, "", outcome.suppress, f"job {job.uid or job.id}, a moment ago"))

    def instead(self, job: Job) -> Outcome | None:
        """The outcome of a job that must not be begun any more; None if it may be."""
        to = _goes_to(job.task, job.payload) if job.task in KINDS else None
        why = _why(self._rows, job.task, *to) if to else None
        return outcomes.cancel("suppressed", why) if why else None


def _why(rows: Mapping[tuple[str, str], Iterable[Suppression]], kind: str, address: str, of_list: str) -> str | None:
    return next((words(row) for row in rows.get((kind, address), ()) if stops(row, of_list)), None)


def _goes_to(kind: str, payload: str) -> tuple[str, str] | None:
    """Address and list of a payload; None if it names none that could be suppressed: its task will say what is wrong with it."""
    try:
        members = members_of(payload)
    except ValueError:
        return None
    to, of_list = members.get("to"), members.get("list")
    found = known(to) if isinstance(to, str) else None
    return (found[1], of_list if isinstance(of_list, str) else "") if found and found[0] == kind else None


def stops(row: Suppression, of_list: str) -> bool:
    """
    Whether this row of its address stops what is of this list, or of none ('').

    >>> from asyncsend.store.rows import Suppression
    >>> [stops(Suppression("email", "a@b.c", "", "unsubscribed"), of_list) for of_list in ("", "news")]
    [False, True]
    """
    if row.list:
        return row.list == of_list
    return row.reason != "unsubscribed" or bool(of_list) or row.kind == "sms"


def words(row: Suppression) -> str:
    """Since when and why, and how to undo it."""
    since = f" since {row.since:%Y-%m-%d %H:%M} UTC" if row.since else ""
    source = f" ({row.source})" if row.source else ""
    what = f"nothing of the list {row.list}" if row.list else "no mail of a list" if (row.reason, row.kind) == ("unsubscribed", "email") else "nothing"
    return f"{row.address} gets {what}{since}: {REASONS.get(row.reason, row.reason)}{source}; `asyncsend suppress remove {row.address}` undoes that"


def learnt(store: Store, told: Iterable[Told], ids: Iterable[str], *, known_only: bool = False) -> list[Suppression]:
    """
    The rows that a mail which came back asks for. Where it names a mail of ours, by its Message-ID, they are of the address which that went to.

    With `known_only` nothing else counts, for anybody can write a bounce; but a signed unsubscription always does.
    """
    from asyncsend.store.rows import Suppression

    job = mailed(store, ids)
    to = _goes_to("email", job.payload) if job else None
    rows = []
    for one in told:
        found = known(one.address)
        if one.reason is None or (one.of_list == "" and known_only and to is None):
            continue
        if one.of_list or to is None:
            if found and found[0] == "email":
                rows.append(Suppression("email", found[1], one.of_list, one.reason, printable(one.words, 190)))
        else:
            of_list = to[1] if one.reason == "unsubscribed" else ""
            rows.append(Suppression("email", to[0], of_list, one.reason, printable(f"job {job.uid or job.id}: {one.words}" if job else one.words, 190)))
    return rows


def mailed(store: Store, ids: Iterable[str]) -> Job | None:
    """The job whose mail carried one of these Message-IDs, while its row is there."""
    for message_id in ids:
        key = message_id.rpartition("@")[0]
        born = re.fullmatch(r"job-([0-9]{1,18})-[0-9a-f]+", key)
        for job in store.matches(f"id={born[1]}" if born else f"uid={key}") if key else ():
            if job.task == "email" and job.idempotency_key == key:
                return job
    return None
