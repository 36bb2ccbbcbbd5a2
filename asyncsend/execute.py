"""
Execute: one job in, one outcome out. It finds the task, calls it, and says what the answer means; it writes nothing.

The same rules decide for a job that ran to an end (in the worker) and for one whose process died (in the run).
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from asyncsend import outcome as outcomes
from asyncsend.answers import Answer, BadPayload, Cancel, Refused, Retry, Snooze, Unknown
from asyncsend.channels import DELIVERY
from asyncsend.errors import ConfigurationError
from asyncsend.job import MAX_RESULT_BYTES, MAX_TIMEOUT_SECONDS, Job, members_of
from asyncsend.outcome import Outcome, State
from asyncsend.tasks import AT_MOST_ONCE, Policy
from asyncsend.text import MAX_TEXT, printable, without
from asyncsend.times import boot_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncsend.tasks import Task, Tasks

_OUR_FOLDER = __file__.rpartition("/")[0]
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
LEAST_SNOOZE = 1.0  # seconds: nothing is charged, so a task that asks for 0 would spin for the whole run
CRASH_LIMIT = 3  # deaths of its run with this job in flight; then it is a poison job
MODULE_PAUSE = 120.0  # seconds a job waits while a module that may define its task cannot be imported, or a setting of its task is wrong


def before(job: Job) -> Outcome | None:
    """The outcome of a job that must not be executed at all: expired, or a row no strict server would have stored."""
    if job.trouble:
        return outcomes.hold(
            "bad-row",
            f"{job.trouble} was stored as 0000-00-00: the server is not strict and the value was out of range. `asyncsend release` makes it due now; for another time, cancel it and insert it again",
            charged=False,
        )
    if job.expired:
        return outcomes.cancel("expired", "expires_at passed before it could start")
    if job.suppressed:
        return outcomes.cancel("suppressed", job.suppressed)
    if job.task.startswith(DELIVERY):
        if job.endpoint is None:
            return outcomes.cancel("unsubscribed", f"there is no subscription {printable(job.task.removeprefix(DELIVERY), 60)!r} with an address")
        if job.endpoint["disabled"]:
            return outcomes.cancel("subscription-disabled", job.endpoint["disabled"])
    return None


def execute(job: Job, tasks: Tasks, chance: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> Outcome:
    """The outcome of running this job here and now. Catches whatever the task raises, SystemExit too; KeyboardInterrupt is let through."""
    found = _found(job, tasks)
    return found._replace(unsent=True) if isinstance(found, Outcome) else _called(found, job, tasks.secrets, chance, clock)


def _found(job: Job, tasks: Tasks) -> Task | Outcome:
    """The task of this job, or the outcome where it cannot be called now."""
    if job.expires_by is not None and boot_clock() >= job.expires_by:
        return outcomes.cancel("expired", "expires_at passed while it waited in the hands of its run")
    try:
        task = tasks.find(job.task)
    except ConfigurationError as error:
        # A person has to mend it, and then the job goes out as if nothing had been: it is not the job's fault.
        return outcomes.snooze(MODULE_PAUSE, "configuration", printable(str(error)))
    except Exception as error:  # noqa: BLE001 - a sender of ours is imported when it is first needed, and a deploy may be replacing it
        return outcomes.snooze(MODULE_PAUSE, "module-failed", f"{described(error)}: is an upgrade of asyncsend under way, or half done?")
    if task is None:
        if tasks.failed_modules and not job.task.startswith("command."):
            failed = "; ".join(f"{name} ({why})" for name, why in tasks.failed_modules.items())
            return outcomes.snooze(MODULE_PAUSE, "module-failed", f"{tasks.why_missing(job.task)}. A module cannot be imported: {failed}")
        return outcomes.hold("unknown-task", tasks.why_missing(job.task), charged=False)
    return task


def _called(task: Task, job: Job, known: tuple[str, ...], chance: Callable[[], float], clock: Callable[[], float]) -> Outcome:
    began = clock()
    job.report = {"unsent": True}
    try:
        payload = parsed(job.payload)
        job.report = {}
        answer = task.function(payload, job)
        if not isinstance(answer, Answer):
            return Outcome("finish", State.DONE, result=_as_result(answer), seconds=clock() - began, **job.report)
    except KeyboardInterrupt:
        raise
    except Answer as raised:
        answer = raised
    except BaseException as error:  # noqa: BLE001 - the whole point: nothing a task raises may end the run
        answer = Retry(None, described(error, _secrets_of(job, known)), reason="exited" if isinstance(error, SystemExit) else "exception")
    secrets = _secrets_of(job, known)
    try:
        outcome = meaning(answer, job, task.policy, chance, secrets)
    except Exception as error:  # noqa: BLE001 - an answer of a class of the user's own, or one made of the wrong values
        unreadable = f"the task's answer, a {type(answer).__name__}, cannot be read ({described(error, secrets)}): make it of text and a number of seconds"
        outcome = _again(job, task.policy, None, "bad-answer", unreadable, chance)
    return outcome._replace(seconds=clock() - began, **job.report)


def _secrets_of(job: Job, known: tuple[str, ...]) -> tuple[str, ...]:
    return (*(secret for text in (job.endpoint or {}).get("secrets", ()) for secret in (text, text.removeprefix("whsec_"))), *known)


def meaning(answer: Answer, job: Job, policy: Policy, chance: Callable[[], float], secrets: tuple[str, ...] = ()) -> Outcome:
    """What an answer leads to for this job: its attempts, its policy. None of these secrets gets into its words."""
    why = printable(_words(answer, secrets))
    match answer:
        case Cancel():
            return outcomes.cancel("cancelled-by-task", why)
        case Snooze():
            return outcomes.snooze(max(LEAST_SNOOZE, min(answer.delay, 3650 * 86400)), _word(answer.reason), why)
        case Refused():
            return outcomes.bury(_word(answer.reason), why)
        case Unknown():
            if policy.delivery == AT_MOST_ONCE or policy.on_unknown == "hold":
                return outcomes.hold("unknown", f"{why}. Find out whether it happened, then `asyncsend release` or `asyncsend cancel` it")
            return _again(job, policy, None, "unknown", why, chance)
        case Retry():
            return _again(job, policy, answer.delay, _word(answer.reason), why, chance)
    return outcomes.bury("bad-answer", f"the task raised {type(answer).__name__}, which is no answer asyncsend knows: {why}")


def after_death(job: Job, policy: Policy, reason: str, why: str, chance: Callable[[], float]) -> Outcome:
    """The outcome of a job whose process died under it, or had to be killed: the effect may have happened."""
    if policy.delivery == AT_MOST_ONCE or policy.on_unknown == "hold":
        return outcomes.hold("unknown", f"{why} Find out whether it happened, then `asyncsend release` or `asyncsend cancel` it")
    return _again(job, policy, None, reason, why, chance)


def after_crash(job: Job, *, started: bool) -> Outcome:
    """The outcome of a job that a dead run left behind: charged as a crash if it had been started, given back untouched if not."""
    if job.started_at is not None and job.reason == "started-once":
        return outcomes.hold("unknown", "the run died while this job was being executed. Find out whether it happened, then `asyncsend release` or `asyncsend cancel` it")
    if not started and job.started_at is None:
        return outcomes.release()
    if job.crashes + 1 >= CRASH_LIMIT:
        return outcomes.bury("crash-loop", f"in flight at {job.crashes + 1} deaths of its run: whatever it does ends the whole run")._replace(
            charged=False, crashed=True
        )
    return outcomes.release(crashed=True, reason="run-died", error=f"in flight when its run died ({job.crashes + 1} of {CRASH_LIMIT} times)")


def timeout_of(job: Job, policy: Policy) -> float:
    """Seconds this job may take; a row's own number is clamped to 1 second … 1 day."""
    return policy.timeout if job.timeout_seconds is None else float(min(max(1, job.timeout_seconds), MAX_TIMEOUT_SECONDS))


def parsed(payload: str) -> dict[str, Any]:
    """The payload's members; BadPayload says why it has none. The raw text stays in the row."""
    try:
        return members_of(payload)
    except ValueError as error:
        raise BadPayload(str(error)) from error


def described(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """An exception in words: class, message, and where in the task it was raised; safe for exceptions that cannot even be printed."""
    words = _words(error, secrets)
    if isinstance(error, SystemExit):
        return f"the task called sys.exit({printable(words, 60)}): return instead"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OUR_FOLDER)][-3:]
    where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {printable(words, 1500)}" + (f" [{where}]" if where else "")


def _words(error: BaseException, secrets: tuple[str, ...]) -> str:
    try:
        return without(secrets, str(error))
    except BaseException as inner:  # noqa: BLE001 - __str__ of somebody else's exception may do anything
        return f"(its message raises {type(inner).__name__})"


def _word(reason: Any) -> str:
    """A reason as the column takes it: at most 64 characters of ASCII, for a task may say anything."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", str(reason))[:64] or "unnamed"


def _again(job: Job, policy: Policy, delay: float | None, reason: str, why: str, chance: Callable[[], float]) -> Outcome:
    """Retry after the backoff, or the delay that was asked for; dead once this was the last attempt."""
    attempt = job.attempts + 1
    allowed = max(1, job.max_attempts) if job.max_attempts is not None else policy.max_attempts
    if attempt >= allowed:
        return outcomes.bury("max-attempts", f"attempt {attempt} of {allowed} failed ({reason}): {why}"[:MAX_TEXT])
    wait = policy.backoff.delay(attempt, chance()) if delay is None else max(0.0, min(delay, 365 * 86400))
    return outcomes.retry(wait, reason, why)


def _as_result(value: Any) -> str | None:
    """What a task returned, as JSON if it can be, cut if it is long; None for nothing."""
    if value is None:
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda one: printable(repr(one), 200))
        if _HALF_A_PAIR.search(text):
            text = json.dumps(json.loads(text))  # it can stand in JSON as \\ud800, but in no column
    except BaseException as error:  # noqa: BLE001 - a result that cannot be written does not undo the work
        text = json.dumps(f"({type(value).__name__} that cannot be written as JSON: {type(error).__name__})")
    return text if len(text.encode("utf-8", "replace")) <= MAX_RESULT_BYTES else json.dumps(text[:1000] + "… (cut)")


def flush_output() -> None:
    """Push out what the task printed, so that it is captured with this job and not with the next."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S110 - the task may have closed or replaced it
            pass
