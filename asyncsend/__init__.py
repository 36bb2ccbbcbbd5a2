"""
asyncsend: background jobs for sites that have cron and MySQL and nothing else.

    from asyncsend import enqueue
    enqueue("email", {"to": "ann@example.com", "subject": "Hi", "text": "Hello"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncsend.answers import Cancel, Retry, Snooze
    from asyncsend.backoff import Backoff
    from asyncsend.batches import batch
    from asyncsend.errors import AsyncsendError, ConfigurationError, DatabaseUnreachable, InvalidJob, QueueFull
    from asyncsend.producer import enqueue, enqueue_many, task
    from asyncsend.topics import publish

__version__ = "0.1.0"
__all__ = [
    "AsyncsendError", "Backoff", "Cancel", "ConfigurationError", "DatabaseUnreachable", "InvalidJob", "QueueFull", "Retry", "Snooze",
    "batch", "enqueue", "enqueue_many", "publish", "task",
]  # fmt: skip

# Found when first used: the command that cron starts each minute needs none of them.
_ROOMS = {
    "Cancel": "answers", "Retry": "answers", "Snooze": "answers", "Backoff": "backoff", "AsyncsendError": "errors",
    "ConfigurationError": "errors", "DatabaseUnreachable": "errors", "InvalidJob": "errors", "QueueFull": "errors",
    "batch": "batches", "enqueue": "producer", "enqueue_many": "producer", "task": "producer", "publish": "topics",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'asyncsend' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"asyncsend.{_ROOMS[name]}"), name)
