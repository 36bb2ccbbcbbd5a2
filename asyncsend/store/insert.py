"""Rows that a producer makes: as few INSERTs as fit, inside whatever transaction the caller has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncsend.config import limit_of
from asyncsend.errors import Conflict, QueueFull
from asyncsend.store.connection import Duplicate, Params, as_text, storable
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.config import Limits
    from asyncsend.job import NewBatch, NewJob

Rows = Callable[[str, Params], list[tuple[Any, ...]]]


# A statement of so much is cut into rows quickly, and stays below 1 MiB when every character of it has to be escaped:
# MySQL 5.5's max_allowed_packet, which some hosts kept.
CHUNK_ROWS, CHUNK_BYTES = 500, 250_000


def insert_rows(rows: Rows, jobs: Sequence[NewJob], there: set[str] | None = None) -> list[str]:
    """
    The uids of these jobs after as few INSERTs as fit; `rows` executes one statement inside the caller's transaction.

    Where a uid or unique key was taken, the existing job's uid comes back; taken uids go into `there`. A plain INSERT, not IGNORE or ON DUPLICATE KEY:
    those hide other errors, and burn ids (measured in FAULTS; MySQL manual, "AUTO_INCREMENT Handling in InnoDB").
    """
    there = set() if there is None else there
    done: set[str] = set()
    for chunk in in_chunks((job for job in jobs if job.unique_key is None), CHUNK_ROWS, CHUNK_BYTES):
        try:
            _insert_chunk(rows, chunk)
            done |= {job.uid for job in chunk}
        except Duplicate:  # the statement wrote nothing
            known = _known(rows, [job.uid for job in chunk])
            there |= known
            done |= known
            rest = [job for job in chunk if job.uid not in known]
            with suppress(Duplicate):  # somebody adds the same just now: these go one by one, and each finds out for itself
                if rest:
                    _insert_chunk(rows, rest)
                    done |= {job.uid for job in rest}
    return [job.uid if job.uid in done else _insert_one(rows, job, there) for job in jobs]


def refuse_full(rows: Rows, jobs: Sequence[NewJob], max_depth: Limits) -> None:
    """Return if these jobs fit into their queues; QueueFull otherwise. Counts no further than the limit, and only where there is one."""
    for queue, number in Counter(job.queue for job in jobs).items() if max_depth else ():
        most = limit_of(max_depth, queue)
        if most is None:
            continue
        counted = "SELECT COUNT(*) FROM (SELECT 1 FROM asyncsend_jobs WHERE state = 'ready' AND queue = :queue LIMIT :most) AS counted"
        ready = rows(counted, {"queue": queue, "most": most})[0][0]
        if ready + number > most:
            raise QueueFull(
                f"{number:,} more {'job does' if number == 1 else 'jobs do'} not fit into queue {queue}, which has {ready:,} ready jobs or more and may have {most:,}"
                " (ASYNCSEND_MAX_DEPTH): nothing was added; add them when some are done"
            )


def insert_batch(rows: Rows, batch: NewBatch, sealed: bool) -> None:
    """Make the row of a batch; Duplicate if its uid is taken."""
    rows(
        "INSERT INTO asyncsend_batches (uid, name, allow_failures, then_job, catch_job, finally_job, quiet, deadline, push, sealed_at)"
        " VALUES (:uid, :name, :allow_failures, :then_job, :catch_job, :finally_job, :quiet, FROM_UNIXTIME(:deadline), :push, CASE WHEN :sealed = 1 THEN NOW(6) ELSE NULL END)",
        {**batch._asdict(), "allow_failures": int(batch.allow_failures), "sealed": int(sealed)},
    )


def _known(rows: Rows, uids: Sequence[str]) -> set[str]:
    """Those of these uids that a job has."""
    params = {f"uid{position}": uid for position, uid in enumerate(uids)}
    found = rows(f"SELECT uid FROM asyncsend_jobs WHERE uid IN ({', '.join(f':{name}' for name in params)})", params)
    return {str(as_text(row[0])) for row in found}


def _insert_chunk(rows: Rows, chunk: Sequence[NewJob]) -> None:
    """One INSERT. What all rows share is one parameter, and what is the table's own default is not sent: this is half of the time of a long one."""
    columns = {name: [getattr(job, name) for job in chunk] for name in (*_DEFAULTS, "task", "uid", "run_at", "delay", "expires_at", "expires_in")}
    columns["payload"] = [storable(job.payload) for job in chunk]
    params: Params = {}

    def is_always(name: str, value: Any) -> bool:
        return columns[name].count(value) == len(chunk)

    def parameter(name: str) -> str:
        if is_always(name, columns[name][0]):
            params[name] = columns[name][0]
            return f":{name}"
        params.update((f"{name}{position}", value) for position, value in enumerate(columns[name]))
        return f":{name}#"

    def instant(at: str, after: str) -> str:
        return f"COALESCE(FROM_UNIXTIME({parameter(at)}), FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + {parameter(after)}))"

    columns["delay"] = [delay or 0 for delay in columns["delay"]]
    words = {name: parameter(name) for name in ("task", "payload", "uid")}
    words["run_at"] = "NOW(6)" if is_always("run_at", None) and is_always("delay", 0) else instant("run_at", "delay")
    if not (is_always("expires_at", None) and is_always("expires_in", None)):
        words["expires_at"] = instant("expires_at", "expires_in")
    words |= {name: parameter(name) for name, default in _DEFAULTS.items() if not is_always(name, default)}
    row = f"({', '.join(words.values())})"
    rows(f"INSERT INTO asyncsend_jobs ({', '.join(words)}) VALUES {', '.join(row.replace('#', str(position)) for position in range(len(chunk)))}", params)


def _insert_one(rows: Rows, job: NewJob, there: set[str]) -> str:
    for _ in range(3):
        try:
            _insert_chunk(rows, [job])
        except Duplicate:
            # A locking read: a plain one in an older snapshot of the app's transaction would not see whom the index saw.
            found = rows("SELECT uid, id FROM asyncsend_jobs WHERE uid = :uid /*as it is now*/", {"uid": job.uid}) or rows(
                "SELECT uid, id FROM asyncsend_jobs WHERE unique_key = :unique_key AND unique_slot = 0 /*as it is now*/", {"unique_key": job.unique_key}
            )
            if found:
                uid = str(as_text(found[0][0]) or found[0][1])
                there |= {uid} & {job.uid}
                return uid
            # the job that held the key finished in this very moment: it is free again
        else:
            return job.uid
    raise Conflict(f"the unique key {printable(job.unique_key or '', 80)!r} is taken and freed faster than a job can be added: try again")


def in_chunks(jobs: Iterable[NewJob], most: int, most_bytes: int) -> Iterator[list[NewJob]]:
    """The jobs in lists of at most `most`, with payloads of at most `most_bytes` together, or one that is longer."""
    chunk: list[NewJob] = []
    size = 0
    for job in jobs:
        more = len(job.payload) if job.payload.isascii() else len(job.payload.encode("utf-8", "replace"))
        if chunk and (len(chunk) == most or size + more > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += more
    if chunk:
        yield chunk


# Columns that need not be sent where all rows have this; schema.sql says the same.
_DEFAULTS = {"queue": "default", "priority": 0, "max_attempts": None, "timeout_seconds": None, "unique_key": None, "batch_id": None, "order_key": None, "concurrency_key": None}
