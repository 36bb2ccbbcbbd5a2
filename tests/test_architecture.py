"""The ladder: a module imports only from rungs to its left, SQL stands only under store/, and each room can be found."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "asyncsend"
LADDER = [
    ["errors", "text", "times", "backoff", "answers", "outcome", "job", "quotas", "channels"],
    ["config", "envfile", "log", "budget", "deathsig"],
    ["store", "store.protocol", "store.rows", "store.jobs", "store.people", "store.connection", "store.insert", "store.runs", "store.batches", "store.attempts", "store.figures", "store.retention", "store.schedules", "store.topics", "store.channels", "store.quotas", "store.alerts", "store.receipts", "store.suppressions", "store.lines", "store.sql", "store.mysql", "store.sqlite", "store.foreign", "schema",
     "tasks", "tasks.members", "tasks.http", "tasks.gateway", "tasks.replies", "tasks.smtp", "tasks.plaintext", "tasks.templates", "tasks.dkim", "tasks.amazon", "tasks.ses", "tasks.mail_api", "tasks.attachments", "tasks.maildir", "tasks.sendmail", "tasks.email", "tasks.segments", "tasks.presets", "tasks.twilio", "tasks.vonage", "tasks.aliyun", "tasks.sns", "tasks.sms", "tasks.pusher", "tasks.webhook", "tasks.command", "tasks.bounces", "tasks.unsubscribe"],
    ["lock", "status", "journal", "producer", "batches", "bulk", "topics", "queues", "turns", "schedules", "deadletters", "archive", "retention", "explain", "reconcile", "metrics", "alerts", "heartbeat", "doctor", "preview", "suppressions"],
    ["execute", "wire", "worker", "child", "workers"],
    ["run"],
    ["cron", "overview"],
    ["testing", "web", "web.__main__", "web.receipts", "web.unsubscribe", "cli", "cli.session", "cli.run", "cli.setup", "cli.enqueue", "cli.each", "cli.jobs", "cli.dead", "cli.prune", "cli.queues", "cli.channels", "cli.batches", "cli.schedules", "cli.topics", "cli.reconcile", "cli.suppress", "cli.mailbox", "cli.status", "cli.metrics", "cli.doctor", "cli.demo", "cli.preview"],
]  # fmt: skip
EDGE = {"__init__", "__main__"}  # the package's door and the command's: they may know every room
RUNG = {name: number for number, rung in enumerate(LADDER) for name in rung}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """The rooms a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "asyncsend":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "asyncsend"]
        for name in names:
            room = name.removeprefix("asyncsend.")
            while room and room not in RUNG:
                room = room.rpartition(".")[0]
            if room:
                found.add(room)
    return found


def test_every_module_has_its_rung():
    assert set(modules()) - EDGE == set(RUNG)


@pytest.mark.parametrize("name", sorted(set(modules()) - EDGE))
def test_a_module_imports_only_from_its_own_rung_or_the_left(name):
    for room in imports(modules()[name]):
        assert RUNG[room] <= RUNG[name], f"{name} imports {room}, which stands to its right"


@pytest.mark.parametrize("name", sorted(set(modules()) - EDGE))
def test_store_and_tasks_do_not_know_each_other(name):
    for one, other in (("store", "tasks"), ("tasks", "store")):
        if name.split(".")[0] == one:
            assert not [room for room in imports(modules()[name]) if room.split(".")[0] == other]


@pytest.mark.parametrize("name", sorted(modules()))
def test_sql_stands_only_under_store(name):
    if name.split(".")[0] == "store":
        return
    for node in ast.walk(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"\b(SELECT .* FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", node.value), f"{name}: {node.value[:60]}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_room_is_called_utils_or_manager_or_helpers(name):
    assert not re.search(r"util|manager|helper|common|base$", name)


@pytest.mark.parametrize("name", sorted(set(modules()) - {"cli.demo"}))
def test_every_module_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(modules()[name].read_text("utf-8")))


def test_run_reads_as_the_story_of_one_minute():
    """The steps of DESIGN section 5 stand in run.py in their order."""
    source = (PACKAGE / "run.py").read_text("utf-8")
    steps = ["with HostLock(", "status.take(", "minute.recover()", "minute.enqueue_due_schedules()", "minute.drain(", "minute.send_due_alerts()", "minute.prune()", "minute.close()"]
    places = [source.index(step) for step in steps]
    assert places == sorted(places)
