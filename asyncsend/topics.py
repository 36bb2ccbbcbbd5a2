"""
Topics: an event is published once, and each subscription that wants it gets a job of its own.

    publish("order.completed", {"order": 17, "email": "ann@example.com"}, connection=connection)

Patterns are AMQP's: `*` is exactly one word, `#` any number of words. A job's uid is <event>:<subscription>, so that a repeated
publish makes nothing twice. What cannot be made of an event for one subscription becomes a dead letter of that one alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncsend import config, producer
from asyncsend.bulk import BadLine, Template
from asyncsend.channels import DELIVERY
from asyncsend.deadletters import slices
from asyncsend.errors import InvalidJob
from asyncsend.job import MAX_PAYLOAD_BYTES, NewJob, members_of
from asyncsend.store.rows import Which
from asyncsend.text import printable

if TYPE_CHECKING:
    from asyncsend.job import Job
    from asyncsend.log import Log
    from asyncsend.store import Store
    from asyncsend.store.rows import Consumer

Event = dict[str, Any]  # as CloudEvents 1.0 has it

MAX_TOPIC = 128
MAX_DATA_BYTES = MAX_PAYLOAD_BYTES - 4096  # what is around it in a webhook must fit, too
TEXT_ONLY = ("email", "sms")  # tasks whose members are all text
_TOPIC = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATTERN = re.compile(r"([A-Za-z0-9_-]+|[*#])(\.([A-Za-z0-9_-]+|[*#]))*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,23}")
_EVENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,38}")


def publish(topic: str, data: Mapping[str, Any] | str, connection: Any = None, uid: str | None = None) -> list[str]:
    """
    Make one job for each subscription that wants `topic`, all or none; their uids, none where nobody wants it.

    With `connection`, in your transaction and without a commit. `uid` is your own id of the event: the same one makes no job
    twice, for as long as the first one's row is there. Text for `data` must hold a JSON object. Raises as `enqueue` does.
    """
    if not _TOPIC.fullmatch(topic) or len(topic) > MAX_TOPIC:
        raise InvalidJob(f"the topic {printable(topic, 80)!r} is not allowed: words of letters, digits, _ and -, with dots between, at most {MAX_TOPIC} characters")
    if uid is not None and not _EVENT.fullmatch(str(uid)):
        raise InvalidJob(f"the uid {printable(str(uid), 80)!r} of an event is not allowed: letters, digits, _ . : @ -, at most 39")
    text = producer.as_json(data)
    if len(text.encode("utf-8", "replace")) > MAX_DATA_BYTES:
        raise InvalidJob(f"the data of the event is longer than {MAX_DATA_BYTES:,} bytes: put large content in a file and its path in the data")
    members = members_of(text)
    if connection is None:
        store = producer.own_store()
        consumers, now = store.consumers(topic)
    else:
        from asyncsend.store.foreign import asked_through
        from asyncsend.store.topics import consumers_of

        consumers, now = consumers_of(asked_through(connection, producer.table_prefix())[0], topic)
    wanting = [one for one in consumers if matches(one.topic, topic)]
    if not wanting:
        return []
    event = {
        "specversion": "1.0", "id": uid or producer.new_uid(), "source": config.load(os.environ).event_source, "type": topic,
        "time": datetime.fromtimestamp(now, UTC).isoformat(), "datacontenttype": "application/json", "data": members,
    }  # fmt: skip
    return producer.inserter(connection)([job_of(one, event, text) for one in wanting])


def matches(pattern: str, topic: str) -> bool:
    """
    Whether a topic fits a pattern, as in AMQP: `*` stands for one word, `#` for any number of them, none included.

    >>> [matches(pattern, "order.paid") for pattern in ("order.paid", "order.*", "*.*", "#", "order.#", "order.paid.#", "order", "*")]
    [True, True, True, True, True, True, False, False]
    """
    words = topic.split(".")
    places = {0}  # how many words may be behind us
    for part in pattern.split("."):
        if part == "#":
            places = set(range(min(places), len(words) + 1))
        else:
            places = {place + 1 for place in places if place < len(words) and part in ("*", words[place])}
        if not places:
            return False
    return len(words) in places


def job_of(consumer: Consumer, event: Event, data: str) -> NewJob:
    """The job that one subscription gets of an event; `data` is the text of the event's data."""
    task, text = consumer.task, data
    try:
        if task == "webhook":
            task, text = DELIVERY + consumer.name, json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        elif consumer.payload is not None:
            text = json.dumps(template_of(consumer.payload, task).fill(_Members(event)), ensure_ascii=False, separators=(",", ":"))
    except (InvalidJob, BadLine) as error:
        text = _unusable(consumer, event, str(error))
    if len(text.encode("utf-8", "replace")) > MAX_PAYLOAD_BYTES:
        text = _unusable(consumer, event, f"it would be longer than {MAX_PAYLOAD_BYTES:,} bytes")
    return NewJob(task, text, f"{event['id']}:{consumer.name}", queue=consumer.queue)


def _unusable(consumer: Consumer, event: Event, why: str) -> str:
    """In place of a payload that cannot be made: no object, so it is never executed, but dead at once, with these words in its row."""
    return json.dumps(f"the subscription {consumer.name} can make no payload of the event {event['id']}: {why}")


def template_of(text: str, task: str) -> Template:
    """The template of a payload. InvalidJob says what is wrong with it."""
    try:
        return Template(members_of(text), "the payload", typed=task not in TEXT_ONLY)
    except ValueError as error:
        raise InvalidJob(str(error)) from error


class _Members(Mapping[str, Any]):
    """The members of an event's data by their paths, as text; `event.id`, `event.time`, `event.type` and `event.source` are the event's own."""

    def __init__(self, event: Event) -> None:
        self._members = {"event": {name: event[name] for name in ("id", "time", "type", "source")}, **event["data"]}

    def value(self, path: str) -> Any:
        """The member itself. BadLine if there is none."""
        found: Any = self._members
        for name in path.split("."):
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise BadLine(f"it has no member {printable(path, 60)}")
        return found

    def __getitem__(self, path: str) -> str:
        found = self.value(path)
        if found is None:
            return ""
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def checked_pattern(pattern: str) -> str:
    """The pattern itself; InvalidJob if it could not be one."""
    if not _PATTERN.fullmatch(pattern) or len(pattern) > MAX_TOPIC:
        raise InvalidJob(f"the topic {printable(pattern, 80)!r} is not allowed: words of letters, digits, _ and -, or * or #, with dots between, at most {MAX_TOPIC} characters")
    return pattern


def checked_name(name: str) -> str:
    """The name itself; InvalidJob if it could not be a subscription's."""
    if not _NAME.fullmatch(name):
        raise InvalidJob(f"the name {printable(name, 80)!r} of a subscription is not allowed: letters, digits, _ . -, at most 24")
    return name


def named(topic: str, task: str, url: str | None) -> str:
    """The name of a subscription that was given none: the same for the same topic, task and address."""
    import hashlib

    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", task)[:15].strip("-") or "task"
    return f"{plain}-{hashlib.sha256(json.dumps([topic, task, url]).encode()).hexdigest()[:8]}"


def attach(store: Store, jobs: Iterable[Job]) -> None:
    """Give each job that goes to a subscription's address that address and its secrets: they stand in no payload."""
    wanting = [job for job in jobs if job.task.startswith(DELIVERY)]
    if wanting:
        endpoints = store.endpoints({job.task.removeprefix(DELIVERY) for job in wanting})
        for job in wanting:
            job.endpoint = endpoints.get(job.task.removeprefix(DELIVERY))


def cancel_waiting(store: Store, name: str, reason: str, why: str, owner: str | None = None, beat: Callable[[], None] = lambda: None) -> int:
    """
    Cancel what waits to go to a subscription's address; how many jobs.

    A run that is killed here leaves some behind: they are cancelled when they are due, for then the subscription is looked up.
    """
    cancelled = 0
    for state in ("ready", "held"):
        for ids in slices(store, Which(state=state, task=DELIVERY + name)):  # no index has the task: one walk, not one for each slice
            cancelled += store.cancel_all(ids, reason, why, owner)
            beat()
    return cancelled


def disabled(store: Store, name: str, why: str, owner: str, log: Log, beat: Callable[[], None]) -> int:
    """The run's step after a receiver said that its address is gone, and the store wrote it down; how many waiting jobs were cancelled."""
    cancelled = cancel_waiting(store, name, "subscription-disabled", why, owner, beat)
    log.event("subscription-disabled", subscription=name, cancelled=cancelled, error=why)
    return cancelled
