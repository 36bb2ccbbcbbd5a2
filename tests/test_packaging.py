"""What a user installs: the wheel brings schema.sql and crontab.example, works without the tests' tools, and so does an editable install."""

import subprocess
import sys
import venv
import zipfile

import pytest
from parts import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True, stderr=subprocess.DEVNULL)
    [made] = folder.glob("*.whl")
    return made


def test_the_wheel_holds_the_schema_the_crontab_and_the_type_marker(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("schema.sql", "crontab.example", "py.typed", "store/migrations/mysql/0001_tables.sql", "store/migrations/sqlite/0001_tables.sql"):
        assert f"asyncsend/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


def test_the_installed_wheel_prints_the_schema_and_runs_the_demo(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], check=True, stderr=subprocess.DEVNULL)
    command = tmp_path / "env" / "bin" / "asyncsend"
    printed = subprocess.run([command, "init", "--print"], capture_output=True, text=True, check=True, cwd="/").stdout
    assert printed == (ROOT / "schema.sql").read_text("utf-8")
    shown = subprocess.run([command, "demo"], capture_output=True, text=True, check=True, cwd="/").stdout
    assert "What became of them" in shown
    assert "3 mails lie in" in shown


def test_the_files_are_found_in_a_checkout(monkeypatch):
    from asyncsend import schema

    assert schema.packaged("schema.sql") == (ROOT / "schema.sql").read_text("utf-8")
    assert "asyncsend run" in schema.packaged("crontab.example")
