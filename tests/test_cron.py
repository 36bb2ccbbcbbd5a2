"""The whole of it under a real cron daemon, sixty times as fast: PHP inserts while cron drains into a real SMTP sink."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from parts import SHARED, Site, eventually, made_store, missing

MAILS = 1000


@pytest.fixture
def cron(tmp_path):
    """Start a cron daemon with one crontab, a minute a second; yields a function that does it."""
    script = SHARED / "cron_run.sh"
    if not script.exists():
        pytest.skip("the fast cron (shared/tools/servers/cron_run.sh) is not beside this checkout")
    if os.getuid() != 0:
        pytest.skip("a cron daemon in a namespace of its own needs root")
    for program in ("cron", "unshare", "faketime"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/bin:/sbin"):
            missing(program, "run tests/install-servers.sh")
    started = []

    def start(line: str, seconds: int = 120):
        table = tmp_path / "crontab"
        table.write_text(line + "\n")
        with open(tmp_path / "cron.log", "wb") as out:
            started.append(subprocess.Popen([str(script), str(seconds), "root", str(table), "60"], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_a_thousand_rows_from_php_reach_the_sink_once_each_and_cron_hears_nothing(tmp_path, server, smtp, cron):
    if not shutil.which("php"):
        missing("php", "apt-get install php-cli php-mysql")
    with server.database() as name:
        url = server.url(name)
        made_store(url).close()
        site = Site(tmp_path / "home", url)
        env_file = site.home / ".env"
        env_file.touch(0o600)
        env_file.write_text(f'ASYNCSEND_DATABASE_URL="{url}"\nASYNCSEND_EMAIL_URL={smtp.url}\nASYNCSEND_EMAIL_FROM="Shop <shop@example.com>"\n')
        heard = tmp_path / "heard"
        cron(f"* * * * * ASYNCSEND_HOME={site.home} {sys.executable} -m asyncsend run >>{heard} 2>&1")
        where = f"unix_socket={server.socket}" if server.socket else f"host={server.host};port={server.port}"
        with open(tmp_path / "php.out", "w") as out:
            php = subprocess.Popen(["php"], stdin=subprocess.PIPE, text=True, stdout=out, stderr=subprocess.STDOUT)
        php.stdin.write(f"""<?php
            $db = new PDO('mysql:{where};dbname={name};charset=utf8mb4', '{server.user}', '{server.password}', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
            $insert = $db->prepare('INSERT INTO asyncsend_jobs (task, payload) VALUES (?, ?)');
            for ($i = 0; $i < {MAILS}; $i++) {{
                $insert->execute(['email', json_encode(['to' => "guest$i@example.com", 'subject' => "Order $i", 'text' => 'Thank you'])]);
                if ($i % 10 == 9) usleep(20000);
                if ($i % 250 == 249) usleep(1500000);
            }}
        """)
        php.stdin.close()
        began = time.monotonic()
        eventually(lambda: len(smtp.mails) >= MAILS, 150, f"{MAILS} mails")
        assert php.wait(60) == 0, (tmp_path / "php.out").read_text()
        store = site.store()
        eventually(lambda: store.standing("default").status == "idle" and store.count(state="done", queue=None, task=None) == MAILS, 30, "the end of the last run")
        assert len(smtp.mails) == MAILS
        assert len(set(smtp.ids())) == MAILS, "none went twice"
        assert {recipient for _, recipient, _ in smtp.mails} == {f"guest{number}@example.com" for number in range(MAILS)}
        assert heard.read_text() == "", "nothing on stdout or stderr"
        eventually(lambda: store.standing("default").generation >= 2, 30, "a second run")
        standing = store.standing("default")
        assert site.log().count("event=job-done") == MAILS
        runs = store.runs(1000)
        assert sum(run.counts["done"] for run in runs) == MAILS
        assert sum(run.counts[word] for run in runs for word in ("retried", "dead", "held", "late")) == 0
        facts = json.loads(site("status", "--json").stdout)
        assert facts["verdict"] == "ok", facts["sentences"]
        print(f"{standing.generation} runs in {time.monotonic() - began:.1f} s, {standing.lock_held} found the lock held")
        store.close()
