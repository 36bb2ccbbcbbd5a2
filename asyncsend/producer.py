"""
The producer's side in Python: from a call to a row, inside the app's own transaction or in one of ours. Nothing here runs a job.

(Not called `enqueue.py`: importing a submodule of that name would hide the function `asyncsend.enqueue` behind the module.)
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

from asyncsend import backoff as backoffs
from asyncsend import config, tasks
from asyncsend.errors import AsyncsendError, ConfigurationError, InvalidJob
from asyncsend.job import MAX_ATTEMPTS, MAX_TIMEOUT_SECONDS, NewJob, checked_queue, checked_task, members_of
from asyncsend.tasks import AT_LEAST_ONCE, AT_MOST_ONCE, Policy, Task
from asyncsend.text import printable
from asyncsend.times import seconds_of, utc

if TYPE_CHECKING:
    from asyncsend.backoff import Backoff
    from asyncsend.job import Job
    from asyncsend.store import Store

P = ParamSpec("P")
R = TypeVar("R")

When = datetime | float | None
Wait = timedelta | float | None


def new_job(
    task: str,
    payload: Mapping[str, Any] | str,
    *,
    queue: str | None = None,
    priority: int = 0,
    delay: Wait = None,
    at: When = None,
    expires: Wait | datetime = None,
    max_attempts: int | None = None,
    timeout: Wait = None,
    unique: str | None = None,
    uid: str | None = None,
    batch: Any = None,
    order_key: str | None = None,
    concurrency_key: str | None = None,
) -> NewJob:
    """
    A checked job, not yet a row. InvalidJob names what does not fit and its limit; nothing was written then.

    `delay`, `timeout` and a number for `expires` are seconds from now; `at` is an aware datetime (a naive one is UTC) or
    seconds since 1970; text for `payload` must hold a JSON object already.
    """
    if at is not None and delay is not None:
        raise InvalidJob("give either at or delay, not both")
    seconds = _seconds("timeout", timeout)
    return NewJob(
        task=task,
        payload=as_json(payload),
        uid=uid if uid is not None else new_uid(),
        queue=queue if queue is not None else own_policy(task).queue,
        priority=priority,
        run_at=_instant(at),
        delay=_seconds("delay", delay),
        expires_at=_instant(expires) if isinstance(expires, datetime) else None,
        expires_in=None if isinstance(expires, datetime) else _seconds("expires", expires),
        max_attempts=max_attempts,
        timeout_seconds=None if seconds is None else math.ceil(seconds),
        unique_key=unique,
        batch_id=None if batch is None else str(batch),
        order_key=order_key,
        concurrency_key=concurrency_key if concurrency_key is not None else own_policy(task).concurrency_key,
    ).checked()


def enqueue(task: str, payload: Mapping[str, Any] | str, *, connection: Any = None, **options: Any) -> str:
    """
    Make one job and return its uid. With `connection`, in your transaction and without a commit: the job exists if and only if you commit.

    Options: queue, priority, delay, at, expires, max_attempts, timeout, unique, uid, batch, order_key, concurrency_key (see
    `new_job`). Where `unique` is taken by an unfinished job, or `uid` by any job, nothing is added and that job's uid comes back.
    Raises InvalidJob, QueueFull, DatabaseUnreachable, ConfigurationError; an error of your own connection comes through as it is.
    """
    job = new_job(task, payload, **options)
    return inserter(connection)([job])[0]


# What one transaction takes of an iterable whose length nobody knows; of a list it takes all.
GROUP_JOBS, GROUP_BYTES = 5000, 8 * 1024 * 1024


@overload
def enqueue_many(task: str, payloads: Iterable[Mapping[str, Any] | str], *, connection: Any = None, count: Literal[False] = False, **options: Any) -> list[str]: ...


@overload
def enqueue_many(task: str, payloads: Iterable[Mapping[str, Any] | str], *, connection: Any = None, count: Literal[True], **options: Any) -> int: ...


def enqueue_many(task: str, payloads: Iterable[Mapping[str, Any] | str], *, connection: Any = None, count: bool = False, **options: Any) -> list[str] | int:
    """
    Make one job for each payload and return their uids in order, or with `count=True` only their number.

    With `connection`, all in your transaction. Without it, a list or whatever has a length is added all or none; of a generator
    each 5,000 jobs (or 8 MiB of payload) are: where it fails, what was committed before stays, and the error carries a note with
    their number. Nothing but those, and the uids (90 bytes each; none with `count=True`), is held in memory.

    Takes the options of `enqueue` for all of them. `unique` and `uid` name one job, so here each is a function of the payload:
    with `uid=lambda row: f"november:{row['customer']}"` the same call again adds only what is missing. `order_key` and
    `concurrency_key` may be such functions.
    """
    naming = {name: options.pop(name) for name in ("unique", "uid") if options.get(name) is not None}
    naming |= {name: options.pop(name) for name in ("order_key", "concurrency_key") if callable(options.get(name))}
    for name, function in naming.items():
        if not callable(function):
            raise InvalidJob(f"{name} names one job: use enqueue for each, or give a function that makes one of each payload")

    def jobs() -> Iterator[NewJob]:
        first: NewJob | None = None  # whose options the others share
        for number, payload in enumerate(payloads, 1):
            try:
                if first is not None:
                    yield first.with_payload(as_json(payload), new_uid())
                else:
                    job = new_job(task, payload, **options, **{name: function(payload) for name, function in naming.items()})
                    first = None if naming else job
                    yield job
            except InvalidJob as error:
                raise InvalidJob(f"payload {number}: {error}") from error

    from asyncsend.store.insert import CHUNK_BYTES, CHUNK_ROWS, in_chunks

    insert = inserter(connection)
    groups: Iterable[list[NewJob]] = in_chunks(jobs(), GROUP_JOBS, GROUP_BYTES)
    if connection is not None:
        groups = in_chunks(jobs(), CHUNK_ROWS, CHUNK_BYTES)
    elif isinstance(payloads, Sized):
        groups = filter(None, [list(jobs())])
    uids: list[str] = []
    number = 0
    try:
        for group in groups:
            made = insert(group)
            number += len(made)
            if not count:
                uids += made
    except BaseException as error:
        if number and connection is None:
            error.add_note(f"{number:,} jobs of {task} were added before this, and stay")
        raise
    return number if count else uids


class TaskFunction(Generic[P, R]):
    """Your function, still callable as it was, with `enqueue` beside it."""

    def __init__(self, function: Callable[P, R], name: str, policy: Policy) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # Calling it would only make an object, and the job would be done without having begun.
            raise ConfigurationError(f"the task {name!r} is async or a generator: make it a plain function, with asyncio.run(…) inside")
        try:
            checked_task(name), checked_queue(policy.queue)
        except InvalidJob as error:
            raise ConfigurationError(f"the task {printable(name, 80)!r} of {function.__module__}: {error}") from error
        self.function, self.name, self.policy = function, name, policy
        self.signature = inspect.signature(function)
        functools.update_wrapper(self, function)
        tasks.declare(Task(name, _by_keywords(function, self.signature), policy), f"{function.__module__}.{function.__qualname__}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def enqueue(self, *args: Any, **kwargs: Any) -> str:
        """
        Enqueue a call with these arguments and return the uid.

        Keyword arguments that are options of `enqueue` (delay, at, queue, unique, …) and no parameter of the function set
        the job; the others, and the positional ones, are the function's own. InvalidJob if they do not fit its signature.
        """
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in _OPTIONS and name not in self.signature.parameters}
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidJob(f"{self.name} cannot be called like that: {error}") from error
        return enqueue(self.name, _named(bound), **options)


_OPTIONS = ("connection", "queue", "priority", "delay", "at", "expires", "max_attempts", "timeout", "unique", "uid", "batch", "order_key", "concurrency_key")


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(
    *,
    name: str | None = None,
    queue: str = "default",
    max_attempts: int = 5,
    timeout: float | timedelta = 60,
    backoff: Backoff = backoffs.TASK,
    delivery: str = AT_LEAST_ONCE,
    on_unknown: str = "retry",
    concurrency_key: str | None = None,
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...


def task(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = "default",
    max_attempts: int = 5,
    timeout: float | timedelta = 60,
    backoff: Backoff = backoffs.TASK,
    delivery: str = AT_LEAST_ONCE,
    on_unknown: str = "retry",
    concurrency_key: str | None = None,
) -> TaskFunction[P, R] | Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """
    Make a function a task that jobs can name: its own name, or `name`.

    `timeout` is seconds until the process group is killed; `max_attempts` counts the first; `delivery="at-most-once"`
    commits a start mark first, and holds the job after a crash instead of running it again; `concurrency_key` is that of its
    jobs which name none. ConfigurationError if the name is taken or a value is out of range.
    """
    if delivery not in (AT_LEAST_ONCE, AT_MOST_ONCE):
        raise ConfigurationError(f"delivery must be {AT_LEAST_ONCE!r} or {AT_MOST_ONCE!r}, not {delivery!r}")
    if on_unknown not in ("retry", "hold"):
        raise ConfigurationError(f"on_unknown must be 'retry' or 'hold', not {on_unknown!r}")
    seconds = seconds_of(timeout) or 0.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise ConfigurationError(f"timeout must be more than 0 and at most {MAX_TIMEOUT_SECONDS} seconds, not {timeout!r}")
    if not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise ConfigurationError(f"max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}, not {max_attempts!r}")
    policy = Policy(queue=queue, max_attempts=max_attempts, timeout=seconds, backoff=backoff, delivery=delivery, on_unknown=on_unknown, concurrency_key=concurrency_key)

    def decorate(decorated: Callable[P, R]) -> TaskFunction[P, R]:
        return TaskFunction(decorated, name or decorated.__name__, policy)

    return decorate(function) if function is not None else decorate


def _by_keywords(function: Callable[..., Any], signature: inspect.Signature) -> Callable[[tasks.Payload, Job], Any]:
    """The function as execute calls it: members of the payload are its keyword arguments, and must fit before it starts."""
    named = {name: one for name, one in signature.parameters.items() if one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)}
    needed, allowed = {name for name, one in named.items() if one.default is inspect.Parameter.empty}, set(named)
    plain = len(named) == len(signature.parameters)

    @functools.wraps(function)
    def call(payload: tasks.Payload, job: Job) -> Any:
        del job
        if not (plain and needed <= payload.keys() <= allowed):  # what fits for sure need not be bound twice
            from asyncsend.answers import BadPayload

            try:
                signature.bind(**payload)
            except TypeError as error:
                raise BadPayload(f"the members do not fit {function.__name__}{signature}: {error}") from error
        return function(**payload)

    return call


def _named(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Every argument by its parameter's name; InvalidJob where a parameter has none that JSON could carry."""
    named: dict[str, Any] = {}
    for parameter, value in bound.arguments.items():
        kind = bound.signature.parameters[parameter].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise InvalidJob(f"the parameter {parameter} takes positional arguments only; a payload can only name its members")
        else:
            named[parameter] = value
    return named


def own_policy(task_name: str) -> Policy:
    declared = tasks.declared.get(task_name) if isinstance(task_name, str) else None  # type: ignore[redundant-expr] # callers without mypy
    return declared.policy if declared else Policy()


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def new_uid() -> str:
    """A name no other job has: 128 random bits."""
    return os.urandom(16).hex()


def as_json(payload: Mapping[str, Any] | str) -> str:
    """The payload as the text of a JSON object; InvalidJob says what JSON cannot hold."""
    if isinstance(payload, str):
        try:
            members_of(payload)
        except ValueError as error:
            raise InvalidJob(str(error)) from error
        return payload
    if not isinstance(payload, Mapping):
        raise InvalidJob(f"the payload must be a mapping with members, not {type(payload).__name__}")
    try:
        return _ENCODER.encode(payload if type(payload) is dict else dict(payload))
    except RecursionError as error:
        raise InvalidJob("the payload is nested too deeply: about 1,000 levels are the limit") from error
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"the payload cannot be written as JSON: {printable(str(error), 120)}") from error


def _seconds(name: str, value: Any) -> float | None:
    """The seconds of an option; InvalidJob if it is no finite number of them."""
    seconds: Any = seconds_of(value)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InvalidJob(f"{name} must be a number of seconds or a timedelta, not {printable(repr(value), 40)}")
    return float(seconds)


def _instant(at: Any) -> float | None:
    if isinstance(at, datetime):
        try:
            return utc(at).timestamp()
        except (OverflowError, ValueError) as error:
            raise InvalidJob(f"{at} lies too far away") from error
    if at is not None and (isinstance(at, bool) or not isinstance(at, int | float)):
        raise InvalidJob(f"at must be a datetime or seconds since 1970, not {printable(repr(at), 40)}")
    return at


class _Own(threading.local):
    """
    A store for callers who bring no connection: one per process, thread and settings; it reopens itself when the server closed it.

    Neither driver lets two threads share a connection, and a web server may have many.
    """

    store: Store | None = None
    stand_in: Store | None = None  # of a test
    max_depth: config.Limits = ()
    made_for: tuple[int, tuple[tuple[str, str], ...]] = (0, ())


_own = _Own()
_inherited: list[Store] = []  # of the process we were forked from: never closed here, for its server would hear it


def table_prefix() -> str:
    """What the names of the tables start with, for whoever writes through the app's own connection."""
    return os.environ.get("ASYNCSEND_TABLE_PREFIX") or config.load(os.environ).table_prefix


def inserter(connection: Any) -> Callable[[list[NewJob]], list[str]]:
    """What makes the rows, through the caller's connection or one of ours."""
    if connection is None:
        return _insert
    from asyncsend.store.foreign import insert_through

    settings = config.load(os.environ)
    return lambda jobs: insert_through(connection, jobs, settings.table_prefix, settings.max_depth)


def _insert(jobs: list[NewJob]) -> list[str]:
    store = own_store()
    uids = store.insert(jobs, max_depth=_own.max_depth)
    if _own.stand_in is None:
        _ask_for_runs(store)
    return uids


# When this process asks again whether runs come, by its monotonic clock; a page that enqueues one job asks once.
_ask_at = 0.0
ASK_EVERY, SAY_EVERY = 600.0, 6 * 3600.0  # seconds


def _ask_for_runs(store: Store) -> None:
    """Warn, by the logger `asyncsend`, that what is enqueued goes nowhere: who enqueues may be the only one of us that still runs."""
    global _ask_at  # noqa: PLW0603 - one for the process, as the warning is
    if time.monotonic() < _ask_at:
        return
    _ask_at = time.monotonic() + ASK_EVERY
    from asyncsend import explain
    from asyncsend.status import SCOPE

    with suppress(AsyncsendError):  # the job is stored, and that was asked for
        said = explain.unseen(store.silence(SCOPE))
        if said:
            import logging

            _ask_at = time.monotonic() + SAY_EVERY
            logging.getLogger("asyncsend").warning("%s", said)


@contextmanager
def instead(store: Store) -> Iterator[None]:
    """For the length of the block, what this thread enqueues without a connection goes to `store`."""
    before, _own.stand_in = _own.stand_in, store
    try:
        yield
    finally:
        _own.stand_in = before


def own_store() -> Store:
    """The store of this process and thread, by the settings of the environment."""
    if _own.stand_in is not None:
        return _own.stand_in
    now = (os.getpid(), tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(config.PREFIX))))
    if _own.store is None or _own.made_for != now:
        from asyncsend.store import open_store

        settings = config.load(os.environ)
        if _own.store is not None and _own.made_for[0] == now[0]:
            _own.store.close()
        elif _own.store is not None:
            _own.store.forget_connection()
            _inherited.append(_own.store)
        _own.store, _own.made_for, _own.max_depth = open_store(settings.database_url, settings.table_prefix), now, settings.max_depth
    return _own.store
