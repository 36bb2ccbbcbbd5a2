"""The README is run: every command of it works as it stands, every setting and promise it names is there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from parts import ROOT, Site, made_store, missing

from asyncsend import config
from asyncsend.cli import COMMANDS
from asyncsend.store.connection import statements

README = (ROOT / "README.md").read_text("utf-8")
SHELL = [line.split("  #")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def block(language: str, holding: str) -> str:
    [found] = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in text]
    return found


def test_the_two_commands_are_make_demo_and_make_test():
    assert [line for line in SHELL if line.startswith("make")] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile


def test_the_six_steps_lead_from_nothing_to_a_first_mail(tmp_path, server, smtp):
    """The block is run as it stands; only host, account and the pasting into cron are another's."""
    script = block("sh", "pip install ./asyncsend")
    assert len(re.findall(r"# \d\.", script)) <= 6
    home = tmp_path / "you"
    home.mkdir()
    shutil.copytree(ROOT, home / "asyncsend", ignore=shutil.ignore_patterns(".git", ".venv*", "*_cache", "tests"))
    with server.database() as name:
        script = script.replace("mysql://user:password@localhost/database", server.url(name))
        script = script.replace("smtp://shop%40example.com:password@mail.example.com:587", smtp.url)
        environment = {"HOME": str(home), "PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **pip_settings()}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=environment, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        [line] = [line for line in done.stdout.splitlines() if line.startswith("* * * * * ")]
        assert smtp.mails == []
        ran = subprocess.run(["/bin/sh", "-c", line.removeprefix("* * * * * ")], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, text=True)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        [(sender, recipient, _)] = smtp.mails
        assert (sender, recipient) == ("shop@example.com", "you@example.com")


def pip_settings() -> dict[str, str]:
    """Where this machine's pip gets packages from; the test's HOME has no configuration of its own."""
    import os

    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for line in shown.splitlines():
        name, _, value = line.partition("=")
        found.setdefault("PIP_" + name.rpartition(".")[2].upper().replace("-", "_"), value.strip("'\"").replace("\\n", " "))
    return found


def test_the_insert_of_the_readme_is_the_one_of_the_contract(site):
    statement = block("sql", "INSERT INTO asyncsend_jobs").strip()
    assert statement.rstrip(";") == """INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{"to":"ann@example.com","subject":"Hi","text":"Hello"}')"""
    for one in statements(statement + "\n"):
        site.sql(one.rstrip(";").replace('{"to":"ann@example.com","subject":"Hi","text":"Hello"}', "{}"))
    assert site.rows("state") == [("ready",)]


def test_the_php_of_the_readme_works_as_it_stands(tmp_path, server):
    if not shutil.which("php"):
        missing("php", "apt-get install php-cli php-mysql")
    with server.database() as name:
        made_store(server.url(name)).close()
        site = Site(tmp_path / "home", server.url(name))
        where = f"unix_socket={server.socket}" if server.socket else f"host={server.host};port={server.port}"
        source = f"""<?php $db = new PDO('mysql:{where};dbname={name};charset=utf8mb4', '{server.user}', '{server.password}', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
            $address = 'ann@example.com'; $name = 'Ann';\n{block("php", "prepare")}"""
        done = subprocess.run(["php"], input=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        site.quiet("run")
        assert site.rows("state") == [("done",)]


def test_the_python_of_the_readme_works_as_it_stands(site):
    site.tasks(block("python", "build_report").partition("\nbuild_report.enqueue")[0], "shop")
    program = "import sys; sys.path.insert(0, sys.argv[1]); from shop import *; from asyncsend import enqueue\n" + block("python", "build_report").partition("\n\nbuild_report")[2].join(["build_report", ""])
    done = subprocess.run([sys.executable, "-c", program, str(site.home)], env=site.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    key = b"report:2026-11" if site.url.startswith("mysql") else "report:2026-11"
    assert site.rows("task, queue, unique_key") == [("build_report", "reports", key), ("email", "default", None)]
    site.sql("UPDATE asyncsend_jobs SET run_at = NULL")
    site.quiet("run")
    assert site.rows("state, result") == [("done", '{"month": "2026-11"}'), ("done", None)]


def test_the_python_of_work_in_bulk_works_as_it_stands(site):
    site("subscribe", "order.*", "email", "--payload", '{"to":"{{email}}","subject":"Order {{order}}","text":"Thank you"}')
    done = subprocess.run([sys.executable, "-c", block("python", "publish(")], env=site.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    key = b"order-17" if site.url.startswith("mysql") else "order-17"
    assert site.rows("task, order_key, concurrency_key IS NULL") == [*[("email", None, 1)] * 3, *[("webhook", key, 0)] * 3]
    site.sql("DELETE FROM asyncsend_jobs WHERE task = 'webhook'")
    site.quiet("run")
    assert site.rows("state") == [("done",)] * 4, "two of the newsletter, one of the event, and what follows the newsletter"


def test_the_newsletter_of_the_readme_works_as_it_stands(site):
    (site.home.parent / "asyncsend-env" / "bin").mkdir(parents=True)
    (site.home.parent / "asyncsend-env" / "bin" / "asyncsend").symlink_to(f"{sys.prefix}/bin/asyncsend")
    for said in ("2 added.", "0 added, 2 were there already."):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block("sh", "--each")], env=site.environment, cwd=site.home.parent, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", said + "\n")
    assert site.rows("batch_id, payload")[1] == ("november", '{"to":"bob@example.com","subject":"News for Bob","text":"Hello Bob","html":"<p>Hello Bob</p>"}')
    site.quiet("run")
    assert site.rows("state") == [("done",), ("done",)]


def test_the_template_of_the_readme_can_be_looked_at_as_it_stands(site):
    environment = site.home.parent / "asyncsend-env" / "bin"
    environment.mkdir(parents=True)
    (environment / "asyncsend").symlink_to(f"{sys.prefix}/bin/asyncsend")
    (environment / "pip").symlink_to("/bin/true")  # what it would install is there
    (site.home.parent / ".asyncsend").symlink_to(site.home)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block("sh", "asyncsend preview")], env=site.environment, cwd=site.home.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = Path(done.stdout.strip()).read_text("utf-8")
    assert "<h1>Welcome, Ann</h1>" in page
    assert "Hello Ann, your order 17 is on its way." in page
    assert site.rows() == []


def test_the_commands_for_looking_after_it_work_as_they_stand(lite):
    lite.insert("email", '{"to":"nobody","subject":"x","text":"y"}')
    lite.quiet("run")
    lines = [line for line in SHELL if line.startswith("asyncsend ")]
    assert len(lines) >= 8
    for line in lines:
        lite(*shlex.split(line)[1:])


@pytest.mark.parametrize("name", config.DECLARED)
def test_every_setting_is_in_the_docs_with_its_sentence(name):
    assert f"| `{name}` | {config.DECLARED[name][1]} |" in (ROOT / "docs" / "settings.md").read_text("utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_place_in_the_docs(name, lite):
    if name not in ("job", "crontab", "run", "init", "doctor", "demo", "cancel", "release"):
        assert f"asyncsend {name}" in README
    assert re.search(rf"\b{name}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"))


def test_the_readme_stays_short_enough_to_be_read():
    assert len(README.splitlines()) <= 200
    assert "FIGURES" not in README
    assert "SETTINGS\n" not in README
    assert not [path.name for path in (ROOT / "docs").glob("*.md") if "\nFIGURES\n" in path.read_text("utf-8")]


def test_every_file_that_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_the_crontab_example_names_real_options(lite):
    example = (ROOT / "crontab.example").read_text("utf-8")
    options = set(re.findall(r"--[a-z-]+", example))
    assert options
    shown = lite("run", "-h").stdout
    assert all(option in shown for option in options)
