"""The job: a row of `asyncsend_jobs`, and what may stand in it. No I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend.errors import InvalidJob
from asyncsend.outcome import State
from asyncsend.text import printable
from asyncsend.times import LAST_INSTANT, hours

if TYPE_CHECKING:
    import json
    from collections.abc import Iterable
    from datetime import datetime

# The limits of a row. MySQL 5.6 and 5.7 accept packets of 4 MiB by default, so this much always arrives.
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
MAX_NAME = 64  # queue, uid, batch_id
MAX_TASK = 128
MAX_KEY_BYTES = 191
MAX_PRIORITY = 32767
MAX_ATTEMPTS = 1000
MAX_TIMEOUT_SECONDS = 86400
MAX_RESULT_BYTES = 60_000

_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")
_UID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}")
_BATCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,54}")
_TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_SAFE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class Job:
    """One row as a run or a reader sees it. Times are aware datetimes in UTC, durations are seconds."""

    id: int
    task: str
    payload: str  # the raw text; only execute parses it
    uid: str | None = None
    queue: str = "default"
    priority: int = 0
    run_at: datetime | None = None
    expires_at: datetime | None = None
    max_attempts: int | None = None  # None: the task's own policy
    timeout_seconds: int | None = None
    unique_key: str | None = None
    batch_id: str | None = None
    order_key: str | None = None
    concurrency_key: str | None = None
    state: State = State.READY
    attempts: int = 0  # attempts that ran to an outcome and were charged
    crashes: int = 0  # deaths of the whole run while this job was in flight
    token: str | None = None  # fresh with every claim; only its holder's settle is accepted
    run_id: int | None = None
    started_at: datetime | None = None  # the start mark of an at-most-once job, committed before its effect
    created_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None  # a short word to filter by: max-attempts, bad-payload, crash-loop, …
    error: str | None = None  # the sentence behind the reason
    result: str | None = None  # what the task returned, as JSON
    trouble: str | None = None  # a member of the row no server should have stored, found when it was claimed
    unread: bool = False  # the payload is too long to come with the claim: it is read when the job is handed to a worker
    expired: bool = False  # expires_at had passed on the database clock when it was claimed
    expires_by: float | None = None  # when it will, on this machine's boot clock; counted from the database clock when it was claimed
    endpoint: dict[str, Any] | None = field(default=None, repr=False)  # of a webhook.<name> job: url and secrets, looked up when it was claimed, never stored with it
    suppressed: str | None = None  # why nothing may go to its address, looked up when it was claimed
    report: dict[str, Any] = field(default_factory=dict)  # what its sender says of the channel it took, for the outcome
    rank: int = 0  # in the hands of a run: jobs of a lower one are started before it
    wave: int = 0  # in the hands of a worker: what was handed out before something went wrong in a channel goes back

    @property
    def idempotency_key(self) -> str:
        """
        The same text on every attempt of this job: Message-ID, Idempotency-Key and webhook-id are made of it.

        It is the producer's uid where that is plain, its digest where it is not, and the row's id and birth where there is none.
        """
        if self.uid is None:
            born = int(self.created_at.timestamp() * 1_000_000) if self.created_at else 0
            return f"job-{self.id}-{born:x}"
        if _SAFE_KEY.fullmatch(self.uid):
            return self.uid
        import hashlib

        return hashlib.sha256(self.uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def as_row(job: Job, history: Iterable[Any] | None = None) -> dict[str, Any]:
    """A job as JSON shows it, with what became of its attempts if that is given; times are ISO 8601 in UTC, the payload is its raw text."""
    row: dict[str, Any] = {}
    for name in (
        "id", "uid", "task", "queue", "priority", "state", "attempts", "crashes", "max_attempts", "timeout_seconds", "run_at", "expires_at",
        "created_at", "finished_at", "unique_key", "batch_id", "order_key", "concurrency_key", "reason", "error", "result", "payload",
    ):  # fmt: skip
        value = getattr(job, name)
        row[name] = value.isoformat() if hasattr(value, "isoformat") else value
    if history is not None:
        told = [attempt._asdict() for attempt in history]
        row["history"] = [one | {"ended_at": one["ended_at"] and one["ended_at"].isoformat()} for one in told]
    return row


@dataclass(slots=True)
class NewJob:
    """
    A job before it is a row. `checked` guarantees that the store can take it on every server; plain SQL has no such help.

    `run_at` and `expires_at` are seconds since 1970 UTC, or None; `delay` and `expires_in` count from the database's now.
    """

    task: str
    payload: str
    uid: str
    queue: str = "default"
    priority: int = 0
    run_at: float | None = None
    delay: float | None = None
    expires_at: float | None = None
    expires_in: float | None = None
    max_attempts: int | None = None
    timeout_seconds: int | None = None
    unique_key: str | None = None
    batch_id: str | None = None
    order_key: str | None = None
    concurrency_key: str | None = None

    def checked(self) -> NewJob:
        """This job, unchanged. InvalidJob names the member and its limit if a server could refuse, cut or clamp it."""
        checked_task(self.task)
        checked_queue(self.queue)
        _matches("uid", self.uid, _UID, f"letters, digits, _ . : @ -, at most {MAX_NAME}")
        if self.batch_id is not None:
            _matches("batch", self.batch_id, _UID, f"letters, digits, _ . : @ -, at most {MAX_NAME}")
        _between("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.max_attempts is not None:
            _between("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
        if self.timeout_seconds is not None:
            _between("timeout", self.timeout_seconds, 1, MAX_TIMEOUT_SECONDS)
        for name in ("run_at", "expires_at"):
            instant = getattr(self, name)
            if instant is not None and not (_is_number(instant) and 0 < instant <= LAST_INSTANT):
                raise InvalidJob(f"{name} must lie between 1970-01-02 and 2037-01-01, the instants every MySQL TIMESTAMP holds")
        for name in ("delay", "expires_in"):
            wait = getattr(self, name)
            if wait is not None and not (_is_number(wait) and 0 <= wait <= 3650 * 86400):
                raise InvalidJob(f"{name} must be between 0 seconds and ten years, not {printable(repr(wait), 40)}")
        for name, key in (("unique key", self.unique_key), ("order key", self.order_key), ("concurrency key", self.concurrency_key)):
            size = 1 if key is None else len(_utf8(name, key))
            if not 1 <= size <= MAX_KEY_BYTES:
                raise InvalidJob(f"the {name} is {size} bytes long; it must be 1 to {MAX_KEY_BYTES} bytes of UTF-8")
        _checked_payload(self.payload)
        return self

    def with_payload(self, payload: str, uid: str) -> NewJob:
        """The same job with another payload and uid, which is all that is checked: what else it has was, and the uid is ours."""
        return replace(self, payload=_checked_payload(payload), uid=uid)


class NewBatch(NamedTuple):
    """A batch before it is a row; the followers are JSON: {"task": …, "payload": {…}, "queue": …}."""

    uid: str
    name: str
    allow_failures: bool = True
    then_job: str | None = None
    catch_job: str | None = None
    finally_job: str | None = None
    quiet: str | None = None  # 22:00-08:00: when none of its jobs is started
    deadline: float | None = None  # seconds since 1970: what has not started by then is cancelled
    push: str | None = None  # the channel of Pusher that hears how far it is

    def checked(self) -> NewBatch:
        """This batch, its hours as they are stored. InvalidJob names the member and its limit."""
        # Its followers' uids are made of it: <uid>:finally must fit, too.
        _matches("batch", self.uid, _BATCH, "letters, digits, _ . : @ -, at most 55")
        if len(_utf8("name", self.name)) > MAX_KEY_BYTES:
            raise InvalidJob(f"the name of a batch must be text of at most {MAX_KEY_BYTES} bytes")
        if self.deadline is not None and not (_is_number(self.deadline) and 0 < self.deadline <= LAST_INSTANT):
            raise InvalidJob("deadline must lie between 1970-01-02 and 2037-01-01, the instants every MySQL TIMESTAMP holds")
        try:
            return self._replace(quiet=hours(self.quiet)) if self.quiet is not None else self
        except (ValueError, AttributeError) as error:
            raise InvalidJob(f"quiet: {error}") from error


_decoder: json.JSONDecoder | None = None


def members_of(text: str) -> dict[str, Any]:
    """The members of a payload. ValueError says in a sentence what is wrong with it: JSON, object, depth, size or Unicode."""
    global _decoder  # noqa: PLW0603 - made once, and imported with the first payload
    if len(text) * 4 > MAX_PAYLOAD_BYTES and len(text.encode("utf-8", "replace")) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"the payload is longer than {MAX_PAYLOAD_BYTES:,} bytes: put large content in a file and its path in the payload")
    if _decoder is None:
        import json

        _decoder = json.JSONDecoder(parse_constant=no_constant, parse_float=_finite)
    try:
        members = _decoder.decode(text)
        # Half a surrogate pair is JSON, but no text: it could be stored nowhere and sent to nobody.
        if not text.isascii() or "\\ud" in text.lower():
            import json

            json.dumps(members, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("the payload is nested too deeply: about 1,000 levels are the limit") from None
    except UnicodeEncodeError:
        raise ValueError("the payload holds half a surrogate pair, or bytes that are not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"the payload is not JSON: {printable(str(error), 200)}") from None
    if not isinstance(members, dict):
        raise ValueError('the payload must be a JSON object: {"member": value}')  # noqa: TRY004 - one kind of error for all of it
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return number


def no_constant(name: str) -> Any:
    """For json's parse_constant: NaN and Infinity are refused by a ValueError."""
    raise ValueError(f"{name} is not JSON")


def checked_queue(queue: str) -> str:
    """The name itself; InvalidJob if it could not be a queue."""
    return _matches("queue", queue, _QUEUE, f"letters, digits, _ . : -, at most {MAX_NAME}")


def checked_task(task: str) -> str:
    """The name itself; InvalidJob if it could not be a task."""
    return _matches("task", task, _TASK, f"letters, digits, _ . : -, starting with a letter, at most {MAX_TASK}")


def _checked_payload(text: str) -> str:
    size = len(_utf8("payload", text))
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidJob(f"the payload is {size:,} bytes long; the limit is {MAX_PAYLOAD_BYTES:,}. Put large content in a file and its path in the payload")
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(name: str, value: Any, pattern: re.Pattern[str], rule: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidJob(f"{name} {printable(str(value), 80)!r} is not allowed: {rule}")
    return value


def _between(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidJob(f"{name} must be a whole number from {low} to {high}, not {printable(repr(value), 40)}")


def _utf8(name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidJob(f"the {name} must be text, not {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidJob(f"the {name} holds half a surrogate pair at character {error.start}, which is not valid Unicode text") from error
