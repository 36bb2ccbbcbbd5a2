"""What an empty minute may cost: no import it does not need, and few statements. Never a time: `make bench` has the ratios."""

import subprocess
import sys

import pytest
from parts import Site, made_store

from asyncsend.job import NewJob

HEAVY = ("requests", "urllib3", "email", "smtplib", "asyncio", "flask", "jinja2", "logging", "multiprocessing", "concurrent", "http", "xml", "rich", "importlib.metadata", "uuid", "cronsim", "zoneinfo",
         "click", "dataclasses", "inspect")  # click costs 40 ms of CPU, a quarter of it for inspect, which dataclasses imports too

PROGRAM = """
import os, sys, runpy
sys.argv[0] = "asyncsend"
modules = os.fdopen(os.dup(1), "w")
sys.modules["cryptography"] = None  # the oracles of other tests bring it; a plain install has none, and the driver does without
try:
    runpy.run_module("asyncsend", run_name="__main__")
except SystemExit as left:
    assert not left.code, left.code
print("", *sorted(sys.modules), file=modules)
"""


def modules_after(site, *command: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *(command or ["run"])], env=site.environment, capture_output=True, text=True, cwd="/", check=True)
    return set(done.stdout.splitlines()[-1].split())


def is_in(heavy: str, modules: set[str]) -> bool:
    return any(name == heavy or name.startswith(heavy + ".") for name in modules)


def test_an_empty_minute_imports_nothing_heavy(site):
    loaded = modules_after(site)
    assert [heavy for heavy in HEAVY if is_in(heavy, loaded)] == []
    assert not {name for name in loaded if name.startswith("asyncsend.tasks")}
    assert "asyncsend.workers" not in loaded
    assert not {"asyncsend.store.rows", "asyncsend.channels", "asyncsend.job"} & loaded
    assert "asyncsend.schedules" not in loaded
    assert "pymysql" not in loaded or "sqlite3" not in loaded


def test_a_run_that_finds_the_lock_held_imports_no_database_driver(tmp_path):
    import fcntl

    site = Site(tmp_path / "home", "mysql://nobody@127.0.0.1:1/nowhere")
    with open(site.home / "asyncsend.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        loaded = modules_after(site)
    assert not {"pymysql", "sqlite3", "ssl", "socket", "click"} & loaded


@pytest.mark.parametrize("command", [["status"], ["status", "--json"]])
def test_status_imports_no_click_and_no_task(site, command):
    loaded = modules_after(site, *command)
    assert not {"click", "dataclasses", "inspect", "asyncsend.run", "asyncsend.workers"} & loaded
    assert not {name for name in loaded if name.startswith("asyncsend.tasks.")}


LIMITED = {"ASYNCSEND_EMAIL_LIMIT": "200/hour", "ASYNCSEND_DOMAIN_LIMIT": "*: 1 per 6s", "ASYNCSEND_SMS_LIMIT": "1 per 1s", "ASYNCSEND_WEBHOOK_LIMIT": "*: 60/min"}


@pytest.mark.parametrize("environment", [{}, LIMITED], ids=["no limits", "limits"])
def test_an_empty_minute_asks_at_most_six_statements_two_of_them_writes(tmp_path, server, environment):
    with server.database() as name:
        url = server.url(name)
        made_store(url).close()
        site = Site(tmp_path / "home", url, **environment)
        site.quiet("run")  # the first one prunes
        growth = statements_of(lambda: site.quiet("run"), server, name)
        assert 0 < sum(growth.values()) <= 6
        assert growth["Com_update"] + growth["Com_insert"] + growth["Com_delete"] + growth.get("Com_replace", 0) <= 2


def test_a_run_of_many_jobs_asks_less_than_one_statement_for_five_of_them(tmp_path, server):
    """A group costs five or six, and on the slowest host a group is what was done in a quarter of a second."""
    with server.database() as name:
        url = server.url(name)
        store = made_store(url)
        site = Site(tmp_path / "home", url)
        site.tasks("from asyncsend import task\n@task\ndef nothing(): pass\n")
        store.insert([NewJob("nothing", "{}", f"n{number}") for number in range(1500)])
        growth = statements_of(lambda: site.quiet("run"), server, name)
        assert site.rows("COUNT(*)", "state = 'done'") == [(1500,)]
        assert 1500 / 500 * 6 < sum(growth.values()) <= 1500 / 5
        store.close()


def statements_of(run, server, name) -> dict[str, int]:
    """What the server counted while it ran, our own looking taken off."""

    def counted():
        with server.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
            return {key: int(value) for key, value in cursor.fetchall()}

    quiet = counted(), counted()
    run()
    after = counted()
    return {key: after[key] - quiet[1][key] - (quiet[1][key] - quiet[0][key]) for key in after}
