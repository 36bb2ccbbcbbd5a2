"""
Tasks: what a job runs, found by name in a registry that settings and your own modules fill. A row never names a program or an import path.

This room knows names, functions and policies; it knows no database. `Tasks` is built once, in the process that executes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from asyncsend import backoff
from asyncsend.backoff import Backoff
from asyncsend.errors import ConfigurationError
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.config import Settings
    from asyncsend.job import Job

AT_LEAST_ONCE, AT_MOST_ONCE = "at-least-once", "at-most-once"
BUILT_IN = ("email", "sms", "webhook", "pusher")

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a task is run. Times are seconds; a row's own max_attempts and timeout_seconds go before these."""

    queue: str = "default"
    max_attempts: int = 5
    timeout: float = 60.0
    backoff: Backoff = backoff.TASK
    delivery: str = AT_LEAST_ONCE  # at-most-once: a start mark is committed first, and a crash means held
    on_unknown: str = "retry"  # or hold: what an outcome nobody knows leads to
    concurrency_key: str | None = None  # of jobs that name none

    @property
    def holds(self) -> bool:
        """Whether a job in doubt is held for a person instead of repeated."""
        return self.delivery == AT_MOST_ONCE or self.on_unknown == "hold"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Policy:
        return cls(**{**members, "backoff": Backoff(**members["backoff"])})


@dataclass(slots=True)
class Task:
    """A name, what it calls, and how. `function` gets the payload and the job; it returns a result or an answer, or raises one."""

    name: str
    function: Callable[[Payload, Job], Any]
    policy: Policy = field(default_factory=Policy)


# What @task declared while a module of yours was imported. One process, one set of names.
declared: dict[str, Task] = {}


def declare(task: Task, where: str) -> None:
    """Add a task of the user's; ConfigurationError if the name is taken."""
    if task.name in BUILT_IN or task.name.startswith(("command.", "webhook.")):
        raise ConfigurationError(f"{where} defines a task called {task.name!r}, which is built in: give it another name=")
    known = declared.get(task.name)
    if known is not None and _place(known) != _place(task):
        raise ConfigurationError(f"two tasks are called {task.name!r} ({_home(known)} and {_home(task)}): give one of them another name=")
    declared[task.name] = task


def _place(task: Task) -> tuple[str, int]:
    """Where the function stands: a module that is imported a second time declares the same ones again."""
    code = getattr(getattr(task.function, "__wrapped__", task.function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (_home(task), 0)


def _home(task: Task) -> str:
    function = getattr(task.function, "__wrapped__", task.function)
    return f"{function.__module__}.{getattr(function, '__qualname__', '?')}"


class Tasks:
    """Every task this host can run. Senders open their connections when first used, and `close` ends them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.secrets = settings.secrets  # for whoever writes down what a task said
        self.failed_modules: dict[str, str] = {}
        self._built: dict[str, Task] = {}

    def load_modules(self) -> None:
        """Import the modules of ASYNCSEND_TASKS. What goes wrong in one is kept in `failed_modules` and stops nothing else."""
        import importlib

        path = str(self.settings.import_path)
        if self.settings.task_modules and path not in sys.path:
            sys.path.insert(0, path)
        for module in self.settings.task_modules:
            try:
                importlib.import_module(module)
            except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too; it must not stop the mails
                self.failed_modules[module] = printable(f"{type(error).__name__}: {error}", 300)

    def names(self) -> list[str]:
        return [*BUILT_IN, *(f"command.{name}" for name in sorted(self.settings.commands)), *sorted(declared)]

    def policies(self) -> dict[str, Policy]:
        """Name → policy of all tasks, without opening anything."""
        from asyncsend.tasks import command, email, pusher, sms, webhook

        built_in = {"email": email.policy(self.settings), "sms": sms.POLICY, "webhook": webhook.POLICY, "pusher": pusher.POLICY}
        commands = {f"command.{name}": command.POLICY for name in self.settings.commands}
        return {**built_in, **commands, **{name: task.policy for name, task in declared.items()}}

    def find(self, name: str) -> Task | None:
        """The task of this name, None if there is none here."""
        if name in declared:
            return declared[name]
        if name.startswith("webhook."):  # to the address of the subscription that is named
            return self.find("webhook")
        if name not in self._built:
            built = self._build(name)
            if built is None:
                return None
            self._built[name] = built
        return self._built[name]

    def why_missing(self, name: str) -> str:
        """A sentence for people: no such task, and what is here instead."""
        loaded = [module for module in self.settings.task_modules if module not in self.failed_modules]
        if name.startswith("command.") and name != name.lower() and name[8:].lower() in self.settings.commands:
            return f"no command is called {printable(name, 100)!r} here: the name in the row is in lower case, {printable(name.lower(), 100)!r}"
        if name.startswith("command."):
            return (
                f'no command is called {printable(name, 100)!r} here: set ASYNCSEND_COMMAND_{printable(name[8:], 60).upper()}="program argument"'
                " in .env, then `asyncsend release` the job"
            )
        return (
            f"no task is called {printable(name, 100)!r} here; modules loaded: {', '.join(loaded) or 'none'} (ASYNCSEND_TASKS);"
            f" tasks: {', '.join(self.names())}. Define it, then `asyncsend release` the job"
        )

    def _build(self, name: str) -> Task | None:
        if name == "email":
            from asyncsend.tasks import email

            return Task(name, email.Email(self.settings), email.policy(self.settings))
        if name == "sms":
            from asyncsend.tasks import sms

            return Task(name, sms.Sms(self.settings), sms.POLICY)
        if name == "webhook":
            from asyncsend.tasks import webhook

            return Task(name, webhook.Webhook(self.settings), webhook.POLICY)
        if name == "pusher":
            from asyncsend.tasks import pusher

            return Task(name, pusher.Pusher(self.settings), pusher.POLICY)
        if name.startswith("command.") and name[8:] in self.settings.commands:
            from asyncsend.tasks import command

            return Task(name, command.Command(name[8:], self.settings.commands[name[8:]]), command.POLICY)
        return None

    def close(self) -> None:
        """End the connections of the senders."""
        for task in self._built.values():
            close = getattr(task.function, "close", None)
            if close:
                close()
