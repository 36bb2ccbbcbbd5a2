"""
What a task may say of its own execution: raise it, or return it.

Answer
├── Retry      later, and it counts as an attempt
├── Snooze     later, and it does not
├── Cancel     not at all, and that is no error
├── Refused    never: the receiver or the payload will not change            → dead
│   └── BadPayload   a member of the payload is missing, unknown or impossible → dead, reason bad-payload
└── Unknown    it may have happened: the line went dead after it was sent     → retry or hold, as the task's policy says
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from asyncsend.times import seconds_of


class Answer(Exception):
    """The root; a plain return value or None means the job is done."""

    about: dict[str, Any] | None = None  # what it says of the way out, in the words of Outcome: senders set it, channels.py listens

    def of_channel(self, **about: Any) -> Answer:
        """This answer, which says so much of the way out."""
        self.about = about
        return self


class Retry(Answer):
    """Try again in `delay` seconds (None: the task's own backoff); dead once the attempts are used up."""

    def __init__(self, delay: float | timedelta | None = None, why: str = "the task asked for a retry", *, reason: str = "retry-asked") -> None:
        super().__init__(why)
        self.delay, self.reason = seconds_of(delay), reason


class Snooze(Answer):
    """Run again in `delay` seconds; no attempt is charged."""

    def __init__(self, delay: float | timedelta, why: str = "the task asked to be run later", *, reason: str = "snoozed") -> None:
        super().__init__(why)
        self.delay, self.reason = seconds_of(delay) or 0.0, reason


class Cancel(Answer):
    """The job is not wanted any more."""

    def __init__(self, why: str = "the task cancelled it") -> None:
        super().__init__(why)


class Refused(Answer):
    """No later attempt can succeed."""

    def __init__(self, why: str, *, reason: str = "refused") -> None:
        super().__init__(why)
        self.reason = reason


class BadPayload(Refused):
    """The payload names, lacks or holds something it must not; `why` names the member and says what to write."""

    def __init__(self, why: str) -> None:
        super().__init__(why, reason="bad-payload")


class Unknown(Answer):
    """The effect may have happened: everything was sent, and no reply came."""
