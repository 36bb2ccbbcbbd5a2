"""What a run and its workers say to each other: jobs in parcels one way, a line of JSON for each outcome the other."""

from __future__ import annotations

import json
import marshal
import struct
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from asyncsend.job import Job
from asyncsend.outcome import Outcome, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

# What a worker needs of a job.
_MEMBERS = (
    "id", "task", "payload", "uid", "queue", "priority", "max_attempts", "timeout_seconds", "batch_id", "attempts", "crashes", "token", "run_id", "rank",
    "endpoint", "expires_by", "reason", "wave",
)  # fmt: skip
_members_of = attrgetter(*_MEMBERS)
_LENGTH = struct.Struct("<I")


def as_parcel(job: Job) -> bytes:
    """The job on its way to a worker. In marshal, which the two sides of one fork share, and which costs a tenth of JSON; nobody but the run can write there."""
    raw = marshal.dumps((job.created_at.timestamp() if job.created_at else None, job.started_at is not None, *_members_of(job)))
    return _LENGTH.pack(len(raw)) + raw


def from_parcels(stream: BinaryIO) -> Iterator[Job]:
    """The jobs in it, until it ends, if need be in the middle of one."""
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        (size,) = _LENGTH.unpack(head)
        raw = stream.read(size)
        if len(raw) < size:
            return
        born, marked, *members = marshal.loads(raw)  # noqa: S302 # nosec B302 - see as_parcel
        yield Job(
            **dict(zip(_MEMBERS, members, strict=True)), created_at=datetime.fromtimestamp(born, UTC) if born is not None else None,
            started_at=datetime.now(UTC) if marked else None,  # only that there is a mark matters here; the row has the time
        )  # fmt: skip


# How a plain success begins as journal.as_text writes it, which most are.
_PLAIN = b'{"outcome":{"verb":"finish","state":"done","seconds":'


def understood(line: bytes, *, ready: bool, busy: bool) -> tuple[dict[str, Any], Outcome | None]:
    """What a worker says, and the outcome in it; ValueError, TypeError, LookupError or AttributeError if it is none of what a worker says at this moment."""
    if line.startswith(_PLAIN) and line.endswith(b"}}") and b"," not in (said := line[len(_PLAIN) : -2]) and ready and busy:
        seconds = float(said)
        if 0 <= seconds < float("inf"):
            return {}, Outcome("finish", State.DONE, seconds=seconds)
    message = json.loads(line)
    if not isinstance(message, dict) or ("policies" in message) == ready or not (busy or "policies" in message):
        raise ValueError(line)
    return message, Outcome.from_dict(message["outcome"]) if "outcome" in message else None
