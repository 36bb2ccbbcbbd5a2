"""The job: a row of `asyncsend_jobs`, what may stand in it, and the outcome that decides where it goes next. No I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend.errors import InvalidJob
from asyncsend.times import hours

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

# The limits of a row. MySQL 5.6 and 5.7 accept packets of 4 MiB by default, so this much always arrives.
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
# What a claim brings of each payload; a longer one is read when its job's turn comes, so that a batch of 500 fits any host.
CLAIMED_PAYLOAD = 32 * 1024
MAX_NAME = 64  # queue, uid, batch_id
MAX_TASK = 128
MAX_KEY_BYTES = 191
MAX_PRIORITY = 32767
MAX_ATTEMPTS = 1000
MAX_TIMEOUT_SECONDS = 86400
# A MySQL TIMESTAMP ends on 2038-01-19 (manual, "The DATE, DATETIME, and TIMESTAMP Types"); a year of room is left for retries.
LAST_INSTANT = 2114380800.0  # 2037-01-01T00:00:00Z
MAX_TEXT = 4000  # characters of an error or of captured output that are kept
MAX_RESULT_BYTES = 60_000

_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")
_UID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}")
_BATCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,54}")
_TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_SAFE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class State(StrEnum):
    """Where a job is. Scheduled and retrying are `ready` with a later `run_at`: nothing has to move them."""

    READY = "ready"  # waits for its run_at and for a run; set by the INSERT itself, by retry, snooze, rescue and release
    RUNNING = "running"  # claimed by the present run; set by claim
    DONE = "done"  # its task finished; set by settle
    DEAD = "dead"  # gave up: attempts used, refused for good, bad payload, crash loop; `retry` makes it ready again
    HELD = "held"  # needs a person or a decision: outcome unknown, or no such task here; `release` makes it ready again
    CANCELLED = "cancelled"  # by a command, by its task, or because expires_at passed before it started


# verb of an outcome: word of the log, the history and the counters
WORDS = {"finish": "done", "retry": "retried", "snooze": "snoozed", "bury": "dead", "hold": "held", "cancel": "cancelled", "release": "released"}
FINISHED = (State.DONE, State.DEAD, State.CANCELLED)


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


class Outcome(NamedTuple):
    """
    What became of one execution: a value that says where the job goes; only the store writes it, only for the owner of the claim.

    `delay` is seconds from the moment of writing, by the database clock; `charged` says whether it used up an attempt.
    """

    verb: str  # finish | retry | snooze | bury | hold | cancel | release: the word the log uses
    state: State
    delay: float = 0.0
    charged: bool = True
    crashed: bool = False  # charge a crash instead of an attempt
    reason: str | None = None
    error: str | None = None
    result: str | None = None
    seconds: float = 0.0  # how long the execution took
    channel: str | None = None  # the way out that it took (channels.py)
    troubled: bool = False  # that failed: not reached, no reply, overloaded
    broken: bool = False  # and will until somebody mends our account
    failed: bool = False  # the channel works, but refused or put off this job, and the host counts that
    unsent: bool = False  # nothing was handed to the channel: it used up no quota
    leave_alone: float | None = None  # seconds for which the receiver asked to be left alone
    gone: str | None = None  # the subscription whose receiver says that its address is gone
    suppress: str | None = None  # why nothing more may be sent to `address`: hard, complaint, unsubscribed
    address: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Only the members that differ from the defaults: this is what the journal and the pipe carry."""
        out: dict[str, Any] = {"verb": self.verb, "state": self.state.value}
        for name, default in self._field_defaults.items():
            value = getattr(self, name)
            if value != default:
                out[name] = value
        return out

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Outcome:
        """The inverse of as_dict. KeyError, TypeError or ValueError if it is not one of ours."""
        outcome = cls(**{**members, "state": State(members["state"])})
        if not all(isinstance(name, str | None) for name in (outcome.channel, outcome.gone, outcome.suppress, outcome.address)):
            raise TypeError("channel, gone, suppress and address are text")
        return outcome


def finish(result: str | None = None) -> Outcome:
    return Outcome("finish", State.DONE, result=result)


def retry(delay: float, reason: str, error: str) -> Outcome:
    return Outcome("retry", State.READY, delay=delay, reason=reason, error=error)


def snooze(delay: float, reason: str, error: str | None = None) -> Outcome:
    """Later, and not the job's fault: no attempt is charged."""
    return Outcome("snooze", State.READY, delay=delay, charged=False, reason=reason, error=error)


def bury(reason: str, error: str) -> Outcome:
    return Outcome("bury", State.DEAD, reason=reason, error=error)


def hold(reason: str, error: str, *, charged: bool = True) -> Outcome:
    return Outcome("hold", State.HELD, charged=charged, reason=reason, error=error)


def cancel(reason: str, error: str | None = None) -> Outcome:
    return Outcome("cancel", State.CANCELLED, charged=False, reason=reason, error=error)


def release(*, crashed: bool = False, reason: str | None = None, error: str | None = None) -> Outcome:
    """Back to ready at once, no attempt charged; with `crashed` its death count goes up."""
    return Outcome("release", State.READY, charged=False, crashed=crashed, reason=reason, error=error, unsent=not crashed)


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


class Settlement(NamedTuple):
    """One outcome and the claim it belongs to."""

    job_id: int
    token: str
    outcome: Outcome
    queue: str | None = None  # under which it is counted; None if the store has to look it up
    task: str | None = None


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
        size = len(_utf8("payload", self.payload))
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidJob(
                f"the payload is {size:,} bytes long; the limit is {MAX_PAYLOAD_BYTES:,}. Put large content in a file and its path in the payload"
            )
        return self


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


def members_of(text: str) -> dict[str, Any]:
    """The members of a payload. ValueError says in a sentence what is wrong with it: JSON, object, depth, size or Unicode."""
    if len(text) > MAX_PAYLOAD_BYTES or len(text.encode("utf-8", "replace")) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"the payload is longer than {MAX_PAYLOAD_BYTES:,} bytes: put large content in a file and its path in the payload")
    import json

    try:
        members = json.loads(text, parse_constant=no_constant, parse_float=_finite)
        # Half a surrogate pair is JSON, but no text: it could be stored nowhere and sent to nobody.
        if not text.isascii() or "\\ud" in text.lower():
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


def without(secrets: tuple[str, ...], text: str) -> str:
    """The text with each of these secrets, the longest first, as ***; before it is cut or quoted, for then they would not be recognised."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """One line that cannot repaint a terminal or forge a log line: control and direction characters escaped, cut at `limit`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 0x100 else f"\\u{ord(match[0]):04x}", text)
