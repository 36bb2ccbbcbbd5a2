"""`publish`, `subscribe`, `unsubscribe`, `topics`: who gets a job when something happens."""

from __future__ import annotations

import base64
import os

import click

from asyncsend import producer
from asyncsend import topics as rooms
from asyncsend.answers import BadPayload
from asyncsend.channels import DELIVERY
from asyncsend.cli.enqueue import learn_tasks, read_payload
from asyncsend.cli.session import Session, bulk_options, json_option, pass_session, print_json, print_table, sure
from asyncsend.errors import ConfigurationError, Conflict, InvalidJob, NotFound
from asyncsend.job import checked_queue, checked_task
from asyncsend.store.rows import Subscription
from asyncsend.text import printable

MAX_URL = 2000  # characters
MAX_PAYLOAD_BYTES = 60_000


@click.command()
@click.argument("topic")
@click.argument("data", default="{}", metavar="[JSON|@file|-]")
@click.option("--uid", metavar="UID", help="Your own id of the event: the same one never makes a job twice.")
@pass_session
def publish(session: Session, topic: str, data: str, uid: str | None) -> None:
    """
    Say that something happened: one job for each subscription that wants TOPIC. Prints their uids.

    \b
    Example:
      asyncsend publish order.completed '{"order":17}' --uid order-17
    """  # noqa: D301
    with producer.instead(session.store):
        uids = rooms.publish(topic, read_payload(data), uid=uid)
    for made in uids:
        click.echo(made)
    if not uids:
        click.echo(f"No subscription wants {topic}; nothing was added.", err=True)


@click.command()
@click.argument("topic")
@click.argument("task")
@click.option("--name", metavar="NAME", help="Name of the subscription. Default: made of topic, task and address.")
@click.option("--queue", metavar="Q", help="Queue of its jobs. Default: the task's own.")
@click.option("--payload", metavar="JSON|@file", help="What TASK gets; {{member}} and {{a.b}} stand for members of the event. Default: the event's data.")
@click.option("--url", metavar="URL", help="With the task webhook: the receiver's address.")
@click.option("--secret", metavar="whsec_…|@file|-|generate", help="With the task webhook: what signs. A second one is added, so that both are known for a while.")
@click.option("--drop-old-secrets", is_flag=True, help="Keep only the newest secret.")
@pass_session
def subscribe(
    session: Session, topic: str, task: str, name: str | None, queue: str | None, payload: str | None, url: str | None, secret: str | None, drop_old_secrets: bool
) -> None:
    """
    Make a job of TASK for each event of TOPIC: words and dots; * is exactly one word, # any number of them.

    Said again for the same name it changes what is given, and enables the subscription. A webhook without --secret gets one,
    which is printed this once.

    \b
    Examples:
      asyncsend subscribe order.completed email --payload '{"to":"{{email}}","subject":"Thank you","text":"Order {{order}}"}'
      asyncsend subscribe 'order.#' webhook --url https://example.com/in --name crm
    """  # noqa: D301
    rooms.checked_pattern(topic)
    name = rooms.checked_name(name or rooms.named(topic, checked_task(task), url))
    there = next((one for one in session.store.subscriptions() if one.name == name), None)
    url = url or (there.url if there else None)
    generated = secret in ("generate", "generated") or (task == "webhook" and secret is None and there is None)
    if generated:
        secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    elif secret is not None:
        secret = read_payload(secret).strip()
    _check_webhook(task, url, secret, payload)
    tasks = learn_tasks(session, task)
    queue = checked_queue(queue) if queue else there.queue if there else producer.own_policy(task).queue
    text = read_payload(payload) if payload is not None else there.payload if there else None
    if text is not None:
        rooms.template_of(text, task)
        if len(text.encode()) > MAX_PAYLOAD_BYTES:
            raise InvalidJob(f"the payload of a subscription may have {MAX_PAYLOAD_BYTES:,} bytes: put large content in a file and its path in the payload")
    session.store.save_subscription(Subscription(name, topic, task, queue, text, url), secret, drop_old_secrets)
    session.note("subscribe", [], subscription=name, topic=topic, task=task)
    if task not in tasks.names():
        click.echo(f"Warning: {tasks.why_missing(task)}", err=True)
    click.echo(f"Subscription {name} is {'changed' if there else 'made'}: {topic} → {task}, queue {queue}.", err=True)
    if generated:
        click.echo(secret)


def _check_webhook(task: str, url: str | None, secret: str | None, payload: str | None) -> None:
    """InvalidJob if these do not fit a webhook, or belong to one and the task is another."""
    if task.startswith(DELIVERY):
        raise InvalidJob(f"{printable(task, 60)} is the task of a subscription's own jobs: subscribe webhook with --url and --name")
    if task != "webhook":
        if url is not None or secret is not None:
            raise InvalidJob("--url and --secret belong to the task webhook")
        return
    if url is None:
        raise InvalidJob("a webhook needs the receiver's address: --url https://…")
    if payload is not None:
        raise InvalidJob("a webhook's body is the event itself, as CloudEvents has it: leave --payload out")
    if len(url) > MAX_URL:
        raise InvalidJob(f"--url is longer than {MAX_URL} characters")
    from asyncsend.tasks import webhook

    try:
        webhook.request_of({"url": url})
        if secret is not None:
            webhook.signing_key(secret, "--secret")
    except (BadPayload, ConfigurationError) as error:
        raise InvalidJob(str(error)) from error


@click.command()
@click.argument("topic", required=False)
@click.argument("task", required=False)
@click.option("--name", metavar="NAME", help="Name of the subscription, where topic and task are those of several.")
@bulk_options
@pass_session
def unsubscribe(session: Session, topic: str | None, task: str | None, name: str | None, yes: bool, dry_run: bool) -> None:
    """Make no more jobs for TOPIC and TASK, or for the subscription --name; what waits to go to its address is cancelled."""
    if (name is None) != (topic is not None and task is not None):
        raise click.UsageError("name TOPIC and TASK, or --name")
    found = [one for one in session.store.subscriptions() if one.name == name or (name is None and (one.topic, one.task) == (topic, task))]
    if not found:
        raise NotFound("there is no such subscription: `asyncsend topics` lists them")
    if len(found) > 1:
        raise Conflict(f"{len(found)} subscriptions are of that topic and task: say --name, one of {', '.join(one.name for one in found[:10])}")
    name = found[0].name
    waiting = sum(session.store.count(state=state, queue=None, task=DELIVERY + name) for state in ("ready", "held"))
    if not sure(f"remove the subscription {name}, its secrets, and cancel {waiting} waiting jobs", yes=yes, dry_run=dry_run):
        return
    session.store.remove_subscription(name)
    cancelled = rooms.cancel_waiting(session.store, name, "unsubscribed", "its subscription was removed")
    session.note("unsubscribe", [], subscription=name, cancelled=cancelled)
    click.echo(f"Subscription {name} is removed; {cancelled} waiting jobs are cancelled.", err=True)


@click.command()
@json_option
@pass_session
def topics(session: Session, as_json: bool) -> None:
    """List the subscriptions: who gets a job of which topics."""
    found = session.store.subscriptions()
    if as_json:
        print_json([{name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in one._replace(url=_shown(one))._asdict().items()} for one in found])
        return
    head = ("topic", "task", "name", "queue", "gets", "secrets", "state")
    print_table(
        head,
        [(one.topic, one.task, one.name, one.queue, _shown(one) or one.payload or "the data", one.secrets or None, "disabled" if one.disabled_at else "on") for one in found],
    )
    for one in found:
        if one.disabled_at:
            click.echo(printable(f"{one.name} is disabled since {session.when(one.disabled_at)}: {one.reason}", 400))


def _shown(one: Subscription) -> str | None:
    """Its address, without what may be a key in it."""
    return one.url and one.url.partition("?")[0] + ("?…" if "?" in one.url else "")
