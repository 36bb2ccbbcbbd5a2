"""The doctor: what a run needs, checked one by one; each trouble comes with what to do. Changes nothing, sends nothing."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from asyncsend import config, explain, schema
from asyncsend.answers import BadPayload
from asyncsend.errors import AsyncsendError, ConfigurationError
from asyncsend.lock import HostLock, LockHeld
from asyncsend.status import SCOPE, seen_from_here
from asyncsend.store import open_store
from asyncsend.times import spoken

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from asyncsend.config import Settings
    from asyncsend.store import Store

OK, WARN, FAIL = "ok", "warn", "fail"
CONNECT_TIMEOUT = 5.0
MAX_SKEW = 5.0  # seconds between the database's clock and the host's before it is worth a word


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to do when it is not ok."""

    what: str
    level: str
    said: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which a run would meet the trouble."""
    yield Finding("python", OK, f"{sys.version.split()[0]} at {sys.executable}")
    yield from _folder(settings)
    yield from _lock(settings)
    store = open_store(settings.database_url, settings.table_prefix)
    try:
        reachable = yield from _database(store, settings)
        if reachable:
            yield from _cron(store, settings)
    finally:
        store.close()
    yield from _mail(settings)
    yield from _others(settings)
    yield from _tasks(settings)


def _folder(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding("folder", FAIL, f"{home} is not there", "run `asyncsend init`")
        return
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("folder", WARN, f"{home} can be read by others (mode {mode:04o})", f"run `chmod 700 {home}`")
    elif not os.access(home, os.W_OK):
        yield Finding("folder", FAIL, f"{home} cannot be written", f"run `chmod 700 {home}` as its owner, or set ASYNCSEND_HOME")
    else:
        yield Finding("folder", OK, f"{home}, private")
    root = config.published(home)
    if root:
        yield Finding("web root", FAIL, f"{home} lies under {root}, which the web server publishes", f"run `mv {home} ~/.asyncsend` and set ASYNCSEND_HOME")
    if settings.archive is not None and not os.access(settings.archive if settings.archive.exists() else settings.archive.parent, os.W_OK | os.X_OK):
        yield Finding("archive", FAIL, f"{settings.archive} cannot be written, so nothing old is deleted", "set ASYNCSEND_ARCHIVE to a folder of yours")
    free = os.statvfs(home)
    megabytes = free.f_bavail * free.f_frsize // 1_000_000
    level = OK if megabytes >= 50 else WARN
    yield Finding("disk", level, f"{megabytes:,} MB free", "free space: journal, log and SQLite need some" if level == WARN else "")


def _lock(settings: Settings) -> Iterator[Finding]:
    if not settings.lock_path.parent.is_dir():
        yield Finding("lock", FAIL, f"the folder {settings.lock_path.parent} is not there", "run `asyncsend init`, or set ASYNCSEND_LOCK")
        return
    lock = HostLock(settings.lock_path)
    try:
        lock.acquire(counted=False)
    except LockHeld:
        note = settings.lock_path.read_text("ascii", "replace").strip()
        yield Finding("lock", OK, f"{settings.lock_path} is held by a run at work ({note})")
        return
    except ConfigurationError as error:
        yield Finding("lock", FAIL, str(error).partition(": ")[0], str(error).partition(": ")[2])
        return
    flocked = lock.flocked
    lock.release()
    if not flocked:
        yield Finding("lock", WARN, f"{settings.lock_path} lies on a file system without flock: {explain.LEASE_ONLY_MEANS}", "set ASYNCSEND_LOCK to a path on a local disk")
        return
    yield Finding("lock", OK, f"{settings.lock_path}, flock works")


def _database(store: Store, settings: Settings) -> Generator[Finding, None, bool]:
    """Whether it can be used, after what was found."""
    try:
        version = store.schema_version()
        facts = store.facts() if version is not None else {}
    except AsyncsendError as error:
        yield Finding("database", FAIL, str(error).rpartition(": ")[0] or str(error), "check host, user, password and database in ASYNCSEND_DATABASE_URL, or ask your host")
        return False
    if version is None:
        yield Finding("tables", FAIL, f"there are none in the {store.name}", "run `asyncsend init`" + ("" if settings.database_url.startswith("sqlite") else ", or paste schema.sql into phpMyAdmin"))
        return False
    try:
        schema.verify(version)
        store.standing(SCOPE)
    except ConfigurationError as error:
        yield Finding("tables", FAIL, str(error).partition(": ")[0], str(error).partition(": ")[2])
        return False
    yield Finding("database", OK, f"{store.name}, version {facts['version']}")
    yield Finding("tables", OK, f"version {version}")
    if settings.database_url.startswith("sqlite"):
        yield Finding("durability", OK, f"journal mode {facts['journal_mode']}, synchronous FULL")
        return True
    yield from _server(facts)
    skew = float(facts["now"]) - time.time()
    level = OK if abs(skew) <= MAX_SKEW else WARN
    yield Finding("clock", level, f"the database is {spoken(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this host", "only the database's clock decides, so this is harmless; tell your host" if level == WARN else "")
    return True


def _server(facts: dict[str, str]) -> Iterator[Finding]:
    if facts["engines"] not in ("InnoDB", ""):
        yield Finding("engine", FAIL, f"tables are {facts['engines']}", "run `ALTER TABLE … ENGINE=InnoDB` for each: MyISAM loses jobs in a crash and knows no transactions")
    else:
        yield Finding("engine", OK, "InnoDB")
    flush = facts.get("innodb_flush_log_at_trx_commit", "?")
    if flush == "0":
        yield Finding("durability", WARN, "innodb_flush_log_at_trx_commit = 0", "a crash of the server can lose the last second of accepted jobs; ask your host for 1")
    else:
        yield Finding("durability", OK, f"innodb_flush_log_at_trx_commit = {flush}" + (" (a power cut may lose one second)" if flush == "2" else ""))
    strict = "STRICT" in facts.get("global.sql_mode", "")
    yield Finding("strictness", OK if strict else WARN, "strict" if strict else "the server is not strict: it cuts and zeroes values that do not fit", "" if strict else "in plain-SQL producers run SET sql_mode='STRICT_ALL_TABLES' first; what was cut ends held with reason bad-row")
    zone = facts.get("global.time_zone", "?")
    yield Finding("time zone", OK, f"server {zone if zone != 'SYSTEM' else facts.get('system_time_zone', zone)}; our session uses UTC")
    packet = int(facts.get("max_allowed_packet", 0) or 0)
    small = packet < 4_194_304
    yield Finding("packet", WARN if small else OK, f"max_allowed_packet = {packet:,} bytes", "payloads above it are refused by the server; ask your host for 16M" if small else "")
    wait = int(facts.get("global.wait_timeout", 0) or 0)
    yield Finding("timeout", OK, f"wait_timeout = {wait} s; the run reconnects when it is cut")


def _cron(store: Store, settings: Settings) -> Iterator[Finding]:
    standing = seen_from_here(store, settings.lock_path)
    ticks = store.ticks(SCOPE)
    every = explain.rhythm(ticks)
    if explain.cron_missing(standing, ticks):
        said = "no run has ever been started" if standing.started_at is None else explain.next_run(standing, settings.timezone, ticks)
        yield Finding("cron", FAIL, said.partition(":")[0], "put the line of `asyncsend crontab` into cron, with absolute paths; does it run there by hand?")
        return
    assert standing.started_at is not None
    since = (standing.now - standing.started_at).total_seconds()
    yield Finding("cron", OK, f"last run {spoken(since)} ago" + (f", one every {spoken(every[0])}" if every else "; one run seen, so its rhythm is not known yet"))


def _mail(settings: Settings) -> Iterator[Finding]:
    url = settings.email_url
    scheme = urlsplit(url).scheme
    from asyncsend.tasks import email

    try:
        transport = email.open_transport(url)
    except ConfigurationError as error:
        yield Finding("mail", FAIL, str(error).partition(": ")[0], str(error).partition(": ")[2])
        return
    if scheme in ("smtp", "smtps"):
        yield from _smtp(transport)
    elif hasattr(transport, "host"):
        yield Finding("mail", OK, f"mails go to {transport.host} by HTTP; nothing was sent, so its key is not known to be right")
    elif scheme == "sendmail":
        program = unquote(urlsplit(url).path) or "/usr/sbin/sendmail"
        there = os.access(program, os.X_OK)
        yield Finding("mail", OK if there else FAIL, f"{program} {'is there' if there else 'cannot be executed'}", "" if there else "set ASYNCSEND_EMAIL_URL to the right path, or to smtp://…")
    else:
        yield Finding("mail", WARN, f"mails are written to {unquote(urlsplit(url).path)}, not sent", "set ASYNCSEND_EMAIL_URL to smtp://user:password@host:587 when you are ready")
    if settings.email_redirect:
        yield Finding("test mode", WARN, f"EVERY mail goes to {settings.email_redirect}, none to its own address", "remove ASYNCSEND_EMAIL_REDIRECT when you are ready")
    yield from _dkim(settings)
    if not settings.email_from:
        yield Finding("sender", WARN, "ASYNCSEND_EMAIL_FROM is not set", "mails that name no from end dead; set ASYNCSEND_EMAIL_FROM in .env")
        return
    try:
        email.address("ASYNCSEND_EMAIL_FROM", settings.email_from)
    except BadPayload as error:
        yield Finding("sender", FAIL, str(error), 'write ASYNCSEND_EMAIL_FROM="Shop <shop@example.com>"')


def _dkim(settings: Settings) -> Iterator[Finding]:
    """The key, and what to publish; the DNS is not asked."""
    from asyncsend.tasks import email

    try:
        signer = email.signer(settings)
    except ConfigurationError as error:
        yield Finding("dkim", FAIL, str(error).partition(": ")[0], str(error).partition(": ")[2])
        return
    if signer is not None:
        try:
            domain = email.address("ASYNCSEND_EMAIL_FROM", settings.email_from).domain
        except BadPayload:
            domain = "your-domain"
        name, value = signer.record(domain)
        yield Finding("dkim", OK, f"mails are signed with the key in {settings.dkim_key}", f'publish once, if it is not in your DNS yet: {name}. TXT "{value}"')


def _others(settings: Settings) -> Iterator[Finding]:
    """SMS, webhooks and pushes: whether their settings can be used; nothing is sent."""
    from asyncsend.tasks import pusher, sms, webhook

    for what, make in (("sms", sms.Sms), ("webhook", webhook.Webhook), *([("pusher", pusher.Pusher)] if settings.pusher_url else [])):
        try:
            make(settings).close()
        except ConfigurationError as error:
            yield Finding(what, FAIL, str(error).partition(": ")[0], str(error).partition(": ")[2])


def _smtp(transport: object) -> Iterator[Finding]:
    from asyncsend.answers import Answer
    from asyncsend.tasks.smtp import Smtp

    assert isinstance(transport, Smtp)
    try:
        transport.check()
    except Answer as error:
        unreachable = getattr(error, "reason", "") == "smtp-connect"
        blocked = ", ".join(str(port) for port in (25, 465, 587) if not _port_open(transport.host, port)) if unreachable else ""
        yield Finding("mail", FAIL, str(error), f"check host, port and password in ASYNCSEND_EMAIL_URL{'; closed from here: ' + blocked if blocked else ''}")
        return
    yield Finding("mail", OK, f"{transport.host}:{transport.port} takes our login; nothing was sent")


def _port_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True


def _tasks(settings: Settings) -> Iterator[Finding]:
    """Modules are imported in a child: one that exits or crashes must not take the doctor along."""
    import json
    import subprocess

    if settings.task_modules:
        program = (
            f"import sys; sys.path.append({os.path.dirname(os.path.dirname(__file__))!r})\n"
            "import json, os; out = os.dup(1); os.dup2(2, 1)\n"
            "from asyncsend import config\nfrom asyncsend.tasks import Tasks\n"
            "tasks = Tasks(config.load(os.environ)); tasks.load_modules()\n"
            "os.write(out, json.dumps([tasks.names(), tasks.failed_modules]).encode())"
        )
        try:
            done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, timeout=60, check=False)
            names, failed = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            yield Finding("tasks", FAIL, f"importing {', '.join(settings.task_modules)} ends or hangs the process", f"run `{sys.executable} -c 'import {settings.task_modules[0]}'` and mend it")
            return
        for module, why in failed.items():
            yield Finding("tasks", FAIL, f"{module} cannot be imported ({why})", f"mend it, or set ASYNCSEND_PATH (now {settings.import_path}); its jobs wait meanwhile")
        yield Finding("tasks", OK, ", ".join(names))
    import shlex
    import shutil

    for name, line in settings.commands.items():
        try:
            program = shlex.split(line)[0]
        except ValueError:
            yield Finding("command", FAIL, f"ASYNCSEND_COMMAND_{name.upper()} cannot be split into words", "close its quotes")
            continue
        except IndexError:
            yield Finding("command", FAIL, f"ASYNCSEND_COMMAND_{name.upper()} is empty", "write program and arguments, or remove it")
            continue
        if shutil.which(program) is None:
            yield Finding("command", FAIL, f"command.{name}: {program} is not found", f"write an absolute path in ASYNCSEND_COMMAND_{name.upper()}: cron's PATH is short")
