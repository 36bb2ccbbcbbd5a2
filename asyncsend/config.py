"""
The settings: environment over `.env` over defaults, read once, checked before anything is opened.

Each setting is declared once below with its default and its sentence; `asyncsend config`, the table of docs/settings.md and the check
for misspelt names are all made of these declarations.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from asyncsend import times
from asyncsend.errors import ConfigurationError
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import tzinfo

    from asyncsend.quotas import Quota, Quotas, Window

PREFIX = "ASYNCSEND_"
COMMAND = "ASYNCSEND_COMMAND_"
TEST = "ASYNCSEND_TEST_"  # the test suite's own variables, never settings

# name: (default, sentence). An empty default means "not set".
DECLARED: dict[str, tuple[str, str]] = {
    "ASYNCSEND_HOME": ("~/.asyncsend", "folder of .env, lock, journal, log, SQLite file and local outbox; mode 0700"),
    "ASYNCSEND_DATABASE_URL": ("", "mysql://user:password@localhost/database; default: SQLite in ASYNCSEND_HOME"),
    "ASYNCSEND_TABLE_PREFIX": ("asyncsend_", "what the names of the tables start with"),
    "ASYNCSEND_TASKS": ("", "Python modules that define tasks, separated by commas: shop.tasks,shop.reports"),
    "ASYNCSEND_PATH": ("", "folder to import these modules from; default: the home folder of the user"),
    "ASYNCSEND_QUEUES": ("critical,default,*,low:10%", "order in which queues are served; * stands for every other queue, low:10% gets a tenth however full the others are"),
    "ASYNCSEND_CONCURRENCY": ("", "how many jobs of a concurrency_key may be executed at a time: customer-api:2, customer-*:1"),
    "ASYNCSEND_MAX_DEPTH": ("", "how many ready jobs a queue may hold before enqueue refuses more: newsletter:50000, *:200000"),
    "ASYNCSEND_MAX_TIME": ("50s", "how long one run goes on claiming jobs"),
    "ASYNCSEND_WORKERS": ("1", "how many jobs are executed at the same time"),
    "ASYNCSEND_TIMEZONE": ("", "zone of times you type and read, such as Europe/Paris; default: the host's"),
    "ASYNCSEND_LOCK": ("", "path of the lock file; default: asyncsend.lock in ASYNCSEND_HOME"),
    "ASYNCSEND_KEEP_DONE": ("7d", "how long done and cancelled jobs stay in the table"),
    "ASYNCSEND_KEEP_DEAD": ("90d", "how long dead letters stay in the table"),
    "ASYNCSEND_KEEP_HELD": ("90d", "how long held jobs wait for a decision; then they are dead"),
    "ASYNCSEND_ARCHIVE": ("", "folder for what is deleted after its time, as gzipped JSON lines; default: it is deleted for good"),
    "ASYNCSEND_EMAIL_URL": ("", "smtp://user:password@host:587, smtps://…, sendmail:///usr/sbin/sendmail, sendgrid://KEY@default, mailgun://KEY@domain, ses://KEYID:SECRET@default?region=eu-west-1, …; default: maildir:// in the local outbox"),
    "ASYNCSEND_EMAIL_FROM": ("", "sender of mails that name none: Shop <shop@example.com>"),
    "ASYNCSEND_EMAIL_ON_UNKNOWN": ("retry", "when a mail server vanishes after the final dot: retry (same Message-ID) or hold"),
    "ASYNCSEND_EMAIL_LIMIT": ("", "how many mails may go out in which time: 10/min, 200/hour, 1000/day, 1 per 6s, or the name of a host, such as dreamhost"),
    "ASYNCSEND_EMAIL_FAILURES": ("3/hour", "how many mails may bounce or be put off before all wait: hosts stop an account at five an hour; off for a relay that counts none"),
    "ASYNCSEND_DOMAIN_LIMIT": ("", "how many mails may go to one domain in which time: gmail.com: 20/min; *: 1 per 6s"),
    "ASYNCSEND_ATTACHMENTS": ("", "folder that attachments given by path must lie in; default: attachments in ASYNCSEND_HOME"),
    "ASYNCSEND_TEMPLATES": ("", "folder of the templates that mails name: welcome.html, welcome.txt; default: templates in ASYNCSEND_HOME"),
    "ASYNCSEND_EMAIL_REDIRECT": ("", "test mode: every mail goes to this one address, me@example.com, instead of its own"),
    "ASYNCSEND_DKIM_KEY": ("", "file of the RSA key, mode 600, that signs mails; default: none, for most mail servers sign by themselves"),
    "ASYNCSEND_DKIM_SELECTOR": ("asyncsend", "name of this key in the DNS: <selector>._domainkey.<domain>"),
    "ASYNCSEND_DKIM_DOMAIN": ("", "domain that signs; default: the one of each mail's sender"),
    "ASYNCSEND_UNSUBSCRIBE_URL": ("", "where the unsubscribe page answers, for mails of a list: https://shop.example.com/unsubscribe"),
    "ASYNCSEND_UNSUBSCRIBE_SECRET": ("", "what signs the links to it, 16 characters or more; several, separated by spaces, while rotating: the first signs"),
    "ASYNCSEND_UNSUBSCRIBE_MAILTO": ("", "address that takes unsubscribing mails too, and is read by `asyncsend suppress bounce`"),
    "ASYNCSEND_SMS_URL": ("", "twilio://SID:TOKEN@default?from=%2B15550100, vonage://, aliyun://, sns://, http+template:///path/gateway.toml; default: a local file"),
    "ASYNCSEND_SMS_LIMIT": ("", "how many SMS may go out in which time: 1 per 1s, 500/day"),
    "ASYNCSEND_SMS_SEGMENTS": ("10", "the most segments an SMS may have: each is paid"),
    "ASYNCSEND_RECEIPTS_URL": ("", "where the gateway reaches the web side, for delivery receipts: https://shop.example.com/asyncsend/receipts"),
    "ASYNCSEND_PUSHER_URL": ("", "pusher://KEY:SECRET@default?app_id=1234&cluster=eu for pushes to browsers; a host of your own instead of default"),
    "ASYNCSEND_WEBHOOK_LIMIT": ("", "how many requests one host gets in which time: api.example.com: 60/min; *: 10 per 1s"),
    "ASYNCSEND_RESERVE": ("3%", "share of each of these limits that is kept for the queues before default"),
    "ASYNCSEND_QUIET_HOURS": ("", "when jobs of a queue are not started: newsletter: 22:00-08:00; low*: 20:00-09:00"),
    "ASYNCSEND_WEBHOOK_SECRET": ("", "whsec_… secret that signs webhooks (Standard Webhooks); several, separated by spaces, while rotating"),
    "ASYNCSEND_EVENT_SOURCE": ("asyncsend", "what published events say they come from: the address of your site, as a rule"),
    "ASYNCSEND_ALLOW_PRIVATE": ("", "private addresses webhooks may go to: 127.0.0.1, 10.0.0.0/8"),
    "ASYNCSEND_ALERT_TO": ("", "who is told when something is wrong: ops@example.com or https://…, several separated by commas"),
    "ASYNCSEND_ALERT_LIMITS": ("", "what is wrong: lag=10m, dead=10, held=0, failures=50%, lock=30m, silence=5m"),
    "ASYNCSEND_HEARTBEAT_URL": ("", "address that each run asks for at its end, /fail added after trouble: https://hc-ping.com/…"),
    "ASYNCSEND_METRICS_FILE": ("", "file for the textfile collector of node_exporter, written after each run that had work: …/asyncsend.prom"),
}
SECRET = ("ASYNCSEND_DATABASE_URL", "ASYNCSEND_EMAIL_URL", "ASYNCSEND_SMS_URL", "ASYNCSEND_PUSHER_URL", "ASYNCSEND_WEBHOOK_SECRET", "ASYNCSEND_UNSUBSCRIBE_SECRET", "ASYNCSEND_ALERT_TO", "ASYNCSEND_HEARTBEAT_URL")
KEY_AS_USER = ("sendgrid://", "mailgun://", "brevo://", "postmark://")  # whose URLs hold a key where others have a user
BY_PATH = ("ASYNCSEND_ALERT_TO", "ASYNCSEND_HEARTBEAT_URL")  # whoever knows the path of such an address may speak there

# What the names of secrets look like, in the query of a URL and in a gateway's template; ssl_key is the path of a file.
SECRET_NAME = re.compile("(?!ssl_key$).*(pass|pwd|secret|token|auth|key)", re.IGNORECASE)
_PARAMETER = re.compile("([?&])([^=&#]+)=([^&#]+)")

# Folders that web servers publish, by their names in cPanel, Plesk, DirectAdmin, Debian and IIS.
WEB_ROOTS = ("public_html", "htdocs", "httpdocs", "httpsdocs", "wwwroot", "public_ftp")


T = TypeVar("T")
Limits = tuple[tuple[str, int], ...]  # name or start of a name with *: how many


class Settings(NamedTuple):
    """What a command may rely on: every value checked, every path absolute."""

    home: Path
    database_url: str
    table_prefix: str
    task_modules: tuple[str, ...]
    import_path: Path
    queues: tuple[str, ...]
    concurrency: Limits
    max_depth: Limits
    max_time: float
    workers: int
    timezone: tzinfo
    lock_path: Path
    keep_done: float
    keep_dead: float
    keep_held: float
    archive: Path | None
    email_url: str
    email_from: str
    email_on_unknown: str
    email_limit: Quota
    email_failures: str  # `failures` makes a window of it when it is needed
    domain_limit: Quotas
    attachments: Path
    templates: Path
    email_redirect: str
    dkim_key: Path | None
    dkim_selector: str
    dkim_domain: str
    unsubscribe_url: str
    unsubscribe_secrets: tuple[str, ...]
    unsubscribe_mailto: str
    sms_url: str
    sms_limit: Quota
    webhook_limit: Quotas
    reserve: float
    quiet_hours: tuple[tuple[str, str], ...]  # queue, or start of a queue with *: from-until
    sms_segments: int
    receipts_url: str
    pusher_url: str
    webhook_secrets: tuple[str, ...]
    event_source: str
    allow_private: tuple[str, ...]
    alert_to: tuple[str, ...]
    alert_limits: dict[str, float]  # those that are set
    heartbeat_url: str
    metrics_file: Path | None
    commands: dict[str, str]
    origins: dict[str, tuple[str, str]]  # name: (value, where it came from)

    @property
    def journal_path(self) -> Path:
        """One for each database: a run of another one in the same folder must not clear it."""
        import zlib

        where = self.database_url.rpartition("@")[2] + " " + self.table_prefix  # a new password is the same database
        return self.home / f"journal-{zlib.crc32(where.encode()):08x}"

    @property
    def metered(self) -> bool:
        """Whether any channel has a limit."""
        return bool(self.email_limit or self.domain_limit or self.sms_limit or self.webhook_limit)

    @property
    def failures(self) -> Window | None:
        """How many mails may fail in which time; None: as many as will."""
        from asyncsend.quotas import quota

        return None if self.email_failures == "off" else quota(self.email_failures)[0]

    @property
    def log_path(self) -> Path:
        return self.home / "asyncsend.log"

    @property
    def env_path(self) -> Path:
        return self.home / ".env"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that may appear in no log, error or output: passwords of URLs and of their parameters, keys."""
        from urllib.parse import unquote, urlsplit

        found = {part for secret in self.webhook_secrets for part in (secret, secret.removeprefix("whsec_"))} | set(self.unsubscribe_secrets)
        for url in (self.database_url, self.email_url, self.sms_url, self.pusher_url):
            netloc = urlsplit(url).netloc  # load has split it before: it can be
            if url.startswith(KEY_AS_USER):
                found |= {netloc.rpartition("@")[0], unquote(netloc.rpartition("@")[0])}
            if ":" in netloc.rpartition("@")[0]:
                password = netloc.rpartition("@")[0].partition(":")[2]
                found |= {password, unquote(password)}
            for _, name, value in _PARAMETER.findall(url):
                if SECRET_NAME.match(name):
                    found |= {value, unquote(value), unquote(value.replace("+", " "))}
        return tuple(sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True))


def load(environ: Mapping[str, str]) -> Settings:
    """
    The settings of this environment.

    ConfigurationError names the file or variable and the command that mends it, if one is misspelt, out of range, or if
    `.env` could be read by others. Reads files, creates and opens nothing.
    """
    home = Path(os.path.expanduser(environ.get("ASYNCSEND_HOME") or DECLARED["ASYNCSEND_HOME"][0])).absolute()
    env_path = home / ".env"
    given: dict[str, tuple[str, str]] = {name: (value, str(env_path)) for name, value in _from_file(env_path).items()}
    if "ASYNCSEND_HOME" in given:
        raise ConfigurationError(f"{env_path} sets ASYNCSEND_HOME, but lies in it: set it in the environment or the crontab instead")
    given.update({name: (value, "environment") for name, value in environ.items() if name.startswith(PREFIX) and not name.startswith(TEST)})
    for name in environ:
        if name in given and not known(name):
            advice = f"run `unset {name}`" if name.isidentifier() else "remove it"
            raise ConfigurationError(f"the environment sets {printable(name, 80)}, which is no setting of asyncsend{nearest(name)}: {advice}")
    origins = {name: given.get(name, (default, "default")) for name, (default, _) in DECLARED.items()}
    origins.update({name: found for name, found in given.items() if name.startswith(COMMAND)})

    def value(name: str) -> str:
        return origins[name][0].strip()

    def checked(name: str, convert, rule: str):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - str -> T, whatever convert makes
        try:
            return convert(value(name))
        except ValueError as error:
            shown = masked(name, value(name))
            raise ConfigurationError(f"{origins[name][1]} sets {name}={printable(repr(shown), 120)}: {rule or error}") from error

    def path(name: str, default: Path) -> Path:
        return Path(os.path.expanduser(value(name))).absolute() if value(name) else default

    return Settings(
        home=home,
        database_url=checked("ASYNCSEND_DATABASE_URL", _url, _URL_RULE) or f"sqlite:///{home / 'asyncsend.sqlite3'}",
        table_prefix=checked("ASYNCSEND_TABLE_PREFIX", _prefix, "use 1 to 32 letters, digits or _, no digit first, and not sqlite_, which SQLite keeps for itself"),
        task_modules=checked("ASYNCSEND_TASKS", _modules, ""),
        import_path=path("ASYNCSEND_PATH", Path("~").expanduser()),
        queues=checked("ASYNCSEND_QUEUES", queue_order, ""),
        concurrency=checked("ASYNCSEND_CONCURRENCY", limits, ""),
        max_depth=checked("ASYNCSEND_MAX_DEPTH", limits, ""),
        max_time=checked("ASYNCSEND_MAX_TIME", _some_time, ""),
        workers=checked("ASYNCSEND_WORKERS", _workers, "use a whole number from 1 to 64"),
        timezone=checked("ASYNCSEND_TIMEZONE", times.zone, ""),
        lock_path=path("ASYNCSEND_LOCK", home / "asyncsend.lock"),
        keep_done=checked("ASYNCSEND_KEEP_DONE", times.duration, ""),
        keep_dead=checked("ASYNCSEND_KEEP_DEAD", times.duration, ""),
        keep_held=checked("ASYNCSEND_KEEP_HELD", times.duration, ""),
        archive=checked("ASYNCSEND_ARCHIVE", _unpublished, ""),
        email_url=checked("ASYNCSEND_EMAIL_URL", _url, _URL_RULE) or f"maildir://{home / 'outbox'}",
        email_from=value("ASYNCSEND_EMAIL_FROM"),
        email_on_unknown=checked("ASYNCSEND_EMAIL_ON_UNKNOWN", _on_unknown, "use retry or hold"),
        email_limit=checked("ASYNCSEND_EMAIL_LIMIT", _quota, ""),
        email_failures=checked("ASYNCSEND_EMAIL_FAILURES", _failures, "write 3/hour, at most 50 of them, or off"),
        domain_limit=checked("ASYNCSEND_DOMAIN_LIMIT", _quotas, ""),
        attachments=path("ASYNCSEND_ATTACHMENTS", home / "attachments"),
        templates=path("ASYNCSEND_TEMPLATES", home / "templates"),
        email_redirect=checked("ASYNCSEND_EMAIL_REDIRECT", _one_address, "use one address, such as me@example.com"),
        dkim_key=path("ASYNCSEND_DKIM_KEY", home) if value("ASYNCSEND_DKIM_KEY") else None,
        dkim_selector=checked("ASYNCSEND_DKIM_SELECTOR", _dns_name, "use letters, digits, - and ."),
        dkim_domain=checked("ASYNCSEND_DKIM_DOMAIN", _dns_name, "use a domain in ASCII, such as example.com"),
        unsubscribe_url=checked("ASYNCSEND_UNSUBSCRIBE_URL", _unsubscribe_url, "write https://host/path, at most 300 characters: RFC 8058 wants https"),
        unsubscribe_secrets=checked("ASYNCSEND_UNSUBSCRIBE_SECRET", _signing_secrets, "use 16 characters of ASCII or more: make one with `openssl rand -base64 32`"),
        unsubscribe_mailto=checked("ASYNCSEND_UNSUBSCRIBE_MAILTO", _mailto, "write one plain address, such as unsubscribe@example.com"),
        sms_url=checked("ASYNCSEND_SMS_URL", _url, _URL_RULE) or f"file://{home / 'outbox' / 'sms.log'}",
        sms_limit=checked("ASYNCSEND_SMS_LIMIT", _quota, ""),
        webhook_limit=checked("ASYNCSEND_WEBHOOK_LIMIT", _quotas, ""),
        reserve=checked("ASYNCSEND_RESERVE", _reserve, ""),
        quiet_hours=checked("ASYNCSEND_QUIET_HOURS", _quiet_hours, ""),
        sms_segments=checked("ASYNCSEND_SMS_SEGMENTS", _segments, "use a whole number from 1 to 100"),
        receipts_url=checked("ASYNCSEND_RECEIPTS_URL", _web_address, "write https://host/path").rstrip("/"),
        pusher_url=checked("ASYNCSEND_PUSHER_URL", _url, _URL_RULE),
        webhook_secrets=tuple(value("ASYNCSEND_WEBHOOK_SECRET").split()),
        event_source=checked("ASYNCSEND_EVENT_SOURCE", _source, "use a URI without blanks, such as https://shop.example.com"),
        allow_private=checked("ASYNCSEND_ALLOW_PRIVATE", _networks, "use addresses or networks such as 127.0.0.1, 10.0.0.0/8"),
        alert_to=checked("ASYNCSEND_ALERT_TO", _addresses, "use ops@example.com or https://hooks.example.com/…, several separated by commas"),
        alert_limits=checked("ASYNCSEND_ALERT_LIMITS", _limits, ""),
        heartbeat_url=checked("ASYNCSEND_HEARTBEAT_URL", _web_address, "write https://host/path"),
        metrics_file=path("ASYNCSEND_METRICS_FILE", home) if value("ASYNCSEND_METRICS_FILE") else None,
        commands={name.removeprefix(COMMAND).lower(): text for name, (text, _) in origins.items() if name.startswith(COMMAND)},
        origins=origins,
    )


def queue_order(text: str) -> tuple[str, ...]:
    """Queue names in the order to serve them, a share such as :10% behind some; `*` may stand once for all others. ValueError otherwise."""
    entries = tuple(part.strip() for part in text.split(",") if part.strip())
    names = []
    for entry in entries:
        found = re.fullmatch(r"(\*|[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}?)(?::([1-9][0-9]?)%)?", entry)
        if not found:
            raise ValueError(f"{entry!r} is no queue name: letters, digits, _ . : -, at most 64, separated by commas; :1% to :99% behind it is its share")
        names.append(found[1])
    if not names or len(set(names)) != len(names):
        raise ValueError("name each queue once, separated by commas")
    if sum(int(entry.rpartition(":")[2][:-1]) for entry in entries if entry.endswith("%")) > 99:
        raise ValueError("the shares must leave something for the order: together less than 100%")
    return entries


def limits(text: str) -> Limits:
    """`name:2, start*:1`: names and how many. ValueError otherwise."""
    found = []
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.rpartition(":"))
        if part.strip() and not (name and "*" not in name[:-1] and re.fullmatch("[1-9][0-9]{0,8}", number)):
            raise ValueError(f"{part.strip()!r} is not name:number, a * only at the end of the name: write customer-api:2, customer-*:1")
        if name:
            found.append((name, int(number)))
    return tuple(found)


def _quota(text: str) -> Quota:
    if not text:
        return ()  # an empty minute imports no room that it does not need
    from asyncsend.quotas import quota

    return quota(text)


def _quotas(text: str) -> Quotas:
    if not text:
        return ()
    from asyncsend.quotas import quotas

    return quotas(text)


def _failures(text: str) -> str:
    if text in ("off", DECLARED["ASYNCSEND_EMAIL_FAILURES"][0]):
        return text
    windows = _quota(text)
    if len(windows) != 1 or windows[0].number > 50:
        raise ValueError(text)
    return text


def _quiet_hours(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        queue, _, hours = (piece.strip() for piece in part.partition(":"))
        if not queue or "*" in queue[:-1]:
            raise ValueError(f"{part[:60]!r} is not queue: from-until; write newsletter: 22:00-08:00")
        found.append((queue, times.hours(hours)))
    return tuple(found)


def limit_of(found: Iterable[tuple[str, T]], name: str) -> T | None:
    """What the first entry says that is this name, or its start before a *; None if none does."""
    return next((number for entry, number in found if entry == name or (entry.endswith("*") and name.startswith(entry[:-1]))), None)


def masked(name: str, value: str) -> str:
    """The value as it may be shown: passwords of a URL and whole keys become ***."""
    if name not in SECRET or not value:
        return value
    if name in BY_PATH:
        return re.sub(r"(://[^/,\s]*/)[^,\s]+", r"\1***", value)
    if "://" in value:
        secret = r"(://).*(@)" if value.startswith(KEY_AS_USER) else r"(://[^:]*:).*(@)"
        shown = re.sub(secret, r"\1***\2", value, flags=re.DOTALL)
        return _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}=***" if SECRET_NAME.match(found[2]) else found[0], shown)
    return "***"


def _from_file(path: Path) -> dict[str, str]:
    """What `.env` sets; its room is entered only if there is one."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return {}
    except OSError:
        pass  # what is wrong with it is said there
    from asyncsend.envfile import read

    return read(path)


def known(name: str) -> bool:
    """Whether a setting is called so; ASYNCSEND_COMMAND_ may be followed by any name."""
    return name in DECLARED or re.fullmatch(COMMAND + "[A-Z0-9_]+", name) is not None


def published(path: Path) -> str | None:
    """The web root that `path` lies under, or None: a server could hand such a file to anybody."""
    parts = path.absolute().parts
    for position, part in enumerate(parts):
        under_home = position > 0 and Path(*parts[:position]) == Path("~").expanduser()
        debian = part == "html" and parts[:position] == ("/", "var", "www")
        if part in WEB_ROOTS or debian or (part in ("www", "web", "public") and under_home):
            return str(Path(*parts[: position + 1]))
    return None


def nearest(name: str) -> str:
    """The question that names the setting which was perhaps meant, to end a sentence with; empty if none is like it."""
    import difflib

    if name.upper().startswith(COMMAND):
        right = re.sub("[^A-Z0-9_]", "_", name.upper())
        return f"; did you mean {right}?" if right != COMMAND else ""
    # Without the common prefix, which would make everything look alike; and HOME cannot be set in the file that lies in it.
    known = [declared.removeprefix(PREFIX) for declared in DECLARED if declared != "ASYNCSEND_HOME"]
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1, cutoff=0.7)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


_URL_RULE = "write scheme://user:password@host:port/…, with @ : / # ? in the password as %40 %3A %2F %23 %3F"


def _url(text: str) -> str:
    if text:
        from urllib.parse import urlsplit

        if "://" not in text or not text.isprintable() or "@" in urlsplit(text).path:
            raise ValueError("no URL")  # a bare / in the password would make a part of it look like the host
        _ = urlsplit(text).port  # ValueError unless it is a number below 65536; its words could hold a part of the password
    return text


def _unpublished(text: str) -> Path | None:
    if not text:
        return None
    path = Path(os.path.expanduser(text)).absolute()
    root = published(path)
    if root:
        raise ValueError(f"it lies under the web root {root}, and payloads are nobody's business: name a folder like ~/asyncsend-archive")
    return path


def _prefix(text: str) -> str:
    if not re.fullmatch(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]{0,31}", text, re.IGNORECASE | re.ASCII):
        raise ValueError(text)
    return text


def _source(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,500}", text):
        raise ValueError(text)
    return text


def _on_unknown(text: str) -> str:
    if text not in ("retry", "hold"):
        raise ValueError(text)
    return text


def _some_time(text: str) -> float:
    seconds = times.duration(text)
    if seconds < 1:
        raise ValueError("no job would ever be claimed: use 1s or more")
    return seconds


def _modules(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a Python module: write shop.tasks, not a path")
    return names


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(text)
    return int(text)


def _segments(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]?|100", text):
        raise ValueError(text)
    return int(text)


def _networks(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if names:
        import ipaddress

        for name in names:
            ipaddress.ip_network(name, strict=False)
    return names


def _web_address(text: str) -> str:
    if text and not (re.match("https?://[^/@]", _url(text), re.IGNORECASE) and text.isascii()):
        raise ValueError("no address of the web")
    return text


def _unsubscribe_url(text: str) -> str:
    if text and not (_web_address(text).lower().startswith("https://") and len(text) <= 300 and re.fullmatch(r"[^\s<>,#]+", text)):
        raise ValueError("no address for a header")
    return text


def _signing_secrets(text: str) -> tuple[str, ...]:
    if not all(len(secret) >= 16 and secret.isascii() for secret in text.split()):
        raise ValueError("a guess away")
    return tuple(text.split())


def _mailto(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,180}", text):
        raise ValueError("no address")
    return text


def _addresses(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if "://" in name:
            _web_address(name)
        elif not re.fullmatch(r"[^@\s]+@[^@\s]+", name):
            raise ValueError(name)
    return names


def _one_address(text: str) -> str:
    if text and not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", text):
        raise ValueError(text)
    return text


def _dns_name(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", text):
        raise ValueError(text)
    return text


def _limits(text: str) -> dict[str, float]:
    """`lag=10m, dead=10, failures=20%`; ValueError says what is wrong."""
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if name in ("dead", "held"):
            if not re.fullmatch("[0-9]{1,9}", value):
                raise ValueError(f"{name} must be a number of jobs")
            given[name] = int(value)
        elif name in ("lag", "lock", "silence"):
            given[name] = times.duration(value)
        elif name == "failures":
            given[name] = percent(value)
        else:
            raise ValueError(f"{name!r} is no limit: use lag=10m, dead=10, held=0, failures=50%, lock=30m, silence=5m")
    return given


def _reserve(text: str) -> float:
    if percent(text) > 0.9:
        raise ValueError(f"{text[:40]!r} would leave nothing for the other queues: at most 90%")
    return percent(text)


def percent(text: str) -> float:
    """The share that `20%` or `20` stands for. ValueError otherwise."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)? ?%?", text) or float(text.rstrip("% ")) > 100:
        raise ValueError(f"{text[:40]!r} is no percentage: write 20%")
    return float(text.rstrip("% ")) / 100
