"""The outcome: what became of one execution, and which state that leads to. A value: executing returns it, only the store writes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


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
        if not (abs(outcome.seconds) < float("inf") and abs(outcome.delay) < float("inf")):
            raise ValueError("seconds and delay are numbers")
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


class Settlement(NamedTuple):
    """One outcome and the claim it belongs to."""

    job_id: int
    token: str
    outcome: Outcome
    queue: str | None = None  # under which it is counted; None if the store has to look it up
    task: str | None = None
