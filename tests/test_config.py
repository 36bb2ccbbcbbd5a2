"""The settings: which value wins, which are refused with what advice, and what may be shown of them."""

import json
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from asyncsend import config
from asyncsend.cli import cli
from asyncsend.errors import ConfigurationError

SECRET = "s3cr3t-p4ss"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An account whose path needs quoting in a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "it's my shop"
    folder.mkdir(mode=0o700)
    return folder


def env_file(home: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = home / ".env"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def load(home: Path, **environment: str) -> config.Settings:
    return config.load({"ASYNCSEND_HOME": str(home), **environment})


def refused(home: Path, **environment: str) -> str:
    """The one line of a refusal, as the command prints it."""
    result = CliRunner().invoke(cli, ["config"], env={"ASYNCSEND_HOME": str(home), **environment})
    assert result.exit_code == 78, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("asyncsend: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def command_in(line: str) -> str:
    """The command between backquotes that a message tells to run."""
    found = re.search(r"run `([^`]+)`", line)
    assert found, f"no command in: {line}"
    return found[1]


def run_command(line: str) -> None:
    subprocess.run(["/bin/sh", "-c", command_in(line)], check=True, capture_output=True, timeout=20)


# ── which value wins ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(home):
    env_file(home, "ASYNCSEND_WORKERS=3\nASYNCSEND_MAX_TIME=20s\n")
    settings = load(home, ASYNCSEND_WORKERS="5")
    assert (settings.workers, settings.max_time, settings.keep_done) == (5, 20.0, 7 * 86400.0)
    assert settings.origins["ASYNCSEND_WORKERS"] == ("5", "environment")
    assert settings.origins["ASYNCSEND_MAX_TIME"] == ("20s", str(home / ".env"))
    assert settings.origins["ASYNCSEND_KEEP_DONE"] == ("7d", "default")


def test_without_any_setting_everything_lies_in_the_home_folder(home):
    settings = load(home)
    assert settings.database_url == f"sqlite:///{home}/asyncsend.sqlite3"
    assert settings.email_url == f"maildir://{home}/outbox"
    assert settings.sms_url == f"file://{home}/outbox/sms.log"
    assert {settings.lock_path, settings.journal_path, settings.log_path, settings.env_path, settings.attachments} == {
        home / name for name in ("asyncsend.lock", settings.journal_path.name, "asyncsend.log", ".env", "attachments")
    }


def test_without_a_home_it_is_a_hidden_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load({}).home == tmp_path / ".asyncsend"
    assert config.load({"ASYNCSEND_HOME": "~/x"}).home == tmp_path / "x"


def test_reading_the_settings_creates_nothing(home):
    load(home)
    assert list(home.iterdir()) == []


def test_quotes_comments_export_and_blank_lines_are_understood_in_the_file(home):
    env_file(home, "# my shop\n\nexport ASYNCSEND_EMAIL_FROM=\"Shop <shop@example.com>\"  # the sender\nASYNCSEND_TASKS='shop.tasks, shop.reports'\n")
    settings = load(home)
    assert settings.email_from == "Shop <shop@example.com>"
    assert settings.task_modules == ("shop.tasks", "shop.reports")


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing yet\n"])
def test_a_file_without_settings_is_as_good_as_none(home, content):
    env_file(home, content)
    assert load(home).workers == 1


def test_no_file_at_all_is_fine(home):
    assert CliRunner().invoke(cli, ["config"], env={"ASYNCSEND_HOME": str(home)}).exit_code == 0


def test_the_suite_s_own_variables_are_no_settings(home):
    assert load(home, ASYNCSEND_TEST_SERVERS="mariadb-10.5").workers == 1


def test_a_command_is_named_by_its_variable_in_small_letters(home):
    assert load(home, ASYNCSEND_COMMAND_RESIZE_IT="php /home/u/resize.php").commands == {"resize_it": "php /home/u/resize.php"}


# ── files that are refused, and the command that mends them ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_file_others_can_read_is_refused_until_its_command_was_run(home, mode):
    path = env_file(home, "ASYNCSEND_WORKERS=2\n", mode)
    line = refused(home)
    assert str(path) in line
    run_command(line)
    assert load(home).workers == 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused_until_its_command_was_run(home):
    path = env_file(home, "ASYNCSEND_WORKERS=2\n")
    os.chown(path, 65534, -1)
    line = refused(home)
    assert str(path) in line and "65534" in line
    run_command(line)
    assert load(home).workers == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xef\xbb\xbfASYNCSEND_WORKERS=2\n", "byte order mark"),
        (b"ASYNCSEND_WORKERS=2\r\nASYNCSEND_MAX_TIME=20s\r\n", "CRLF"),
        (b"ASYNCSEND_WORKERS=2\rASYNCSEND_MAX_TIME=20s\r", "CRLF"),
        (b"ASYNCSEND_WORKERS=2\nASYNCSEND_EMAIL_FROM=Z\xfcrich\n", "not UTF-8"),
        (b"\n# x\n\nASYNCSEND_WORKERS\n", "line 4 is not NAME=value"),
        (b"ASYNCSEND_MAX_TIME=2s\n\n\nASYNCSEND_WORKERS='2\n", "line 4 is not NAME=value"),
        (b"a line of prose\n", "line 1 is not NAME=value"),
        (b"\n\nASYNCSEND_QUEUE=default\n", "line 3 sets ASYNCSEND_QUEUE, which is no setting of asyncsend; did you mean ASYNCSEND_QUEUES?"),
        (b"WORKERS=2\n", "did you mean ASYNCSEND_WORKERS?"),
        (b"asyncsend_workers=2\n", "did you mean ASYNCSEND_WORKERS?"),
        (b"ASYNCSEND_COMMAND_resize=php\n", "did you mean ASYNCSEND_COMMAND_RESIZE?"),
        (b"\nAPP_KEY=abc\n", "line 2 sets APP_KEY, which is no setting of asyncsend"),
        (b"ASYNCSEND_NONSENSE='two\nlines'\n", "line 1 sets ASYNCSEND_NONSENSE"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_until_its_command_was_run(home, content, says):
    path = env_file(home, content)
    line = refused(home)
    assert str(path) in line
    assert says in line
    run_command(line)
    load(home)
    assert path.stat().st_mode & 0o777 == 0o600


def test_mending_a_latin1_file_keeps_what_it_said(home):
    env_file(home, "ASYNCSEND_EMAIL_FROM=Zürich <z@example.com>\n".encode("latin1"))
    run_command(refused(home))
    assert load(home).email_from == "Zürich <z@example.com>"


def test_mending_line_ends_keeps_every_line_apart(home):
    env_file(home, b"ASYNCSEND_WORKERS=2\rASYNCSEND_MAX_TIME=20s\r\nASYNCSEND_KEEP_DONE=1d\r\n")
    run_command(refused(home))
    settings = load(home)
    assert (settings.workers, settings.max_time, settings.keep_done) == (2, 20.0, 86400.0)


def test_a_folder_instead_of_the_file_is_refused_until_its_command_was_run(home):
    (home / ".env").mkdir()
    line = refused(home)
    assert str(home / ".env") in line
    run_command(line)
    load(home)


def test_a_named_pipe_instead_of_the_file_is_refused_and_not_waited_for(home):
    os.mkfifo(home / ".env", 0o600)
    line = refused(home)
    assert str(home / ".env") in line
    run_command(line)
    load(home)


def test_a_file_in_place_of_the_home_folder_is_named(home):
    place = home / "home"
    place.write_text("not a folder")
    line = refused(place)
    assert f"{place} is not a folder" in line
    run_command(line)
    load(place)


def test_a_file_under_the_web_root_is_refused_until_its_command_was_run(home, tmp_path):
    published = tmp_path / "public_html" / "my jobs"
    published.mkdir(parents=True, mode=0o700)
    env_file(published, "ASYNCSEND_WORKERS=2\n")
    line = refused(published)
    assert str(published / ".env") in line
    assert str(tmp_path / "public_html") in line
    run_command(line)
    private = re.search(r"set ASYNCSEND_HOME=(\S+)", line)[1]
    assert load(Path(private)).workers == 2


def test_moving_out_of_the_web_root_never_lands_inside_a_folder_that_is_there(home, tmp_path):
    (tmp_path / ".asyncsend").mkdir()
    published = tmp_path / "public_html"
    published.mkdir(mode=0o700)
    env_file(published, "ASYNCSEND_WORKERS=2\n")
    line = refused(published)
    run_command(line)
    assert load(Path(re.search(r"set ASYNCSEND_HOME=(\S+)", line)[1])).workers == 2


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/home/u/public_html/jobs/.env", "/home/u/public_html"),
        ("/home/u/domains/x.org/htdocs/.env", "/home/u/domains/x.org/htdocs"),
        ("/var/www/vhosts/x.org/httpdocs/.env", "/var/www/vhosts/x.org/httpdocs"),
        ("/var/www/html/.env", "/var/www/html"),
        ("/home/u/.asyncsend/.env", None),
        ("/home/u/public_html_backup/.env", None),
        ("/srv/web/.env", None),
    ],
)
def test_the_web_roots_of_the_usual_panels_are_known(path, root):
    assert config.published(Path(path)) == root


@pytest.mark.parametrize("name", ["www", "web", "public"])
def test_a_folder_called_like_a_web_root_is_one_directly_under_the_user_s_home_only(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.published(tmp_path / name / "x") == str(tmp_path / name)
    assert config.published(tmp_path / "shop" / name / "x") is None


def test_the_file_cannot_move_the_folder_it_lies_in(home):
    env_file(home, "ASYNCSEND_HOME=/elsewhere\n")
    assert "set it in the environment or the crontab instead" in refused(home)


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_one(home):
    line = refused(home, ASYNCSEND_WORKER="2")
    assert "the environment sets ASYNCSEND_WORKER" in line
    assert "did you mean ASYNCSEND_WORKERS?" in line
    assert command_in(line) == "unset ASYNCSEND_WORKER"


def test_a_variable_with_a_line_break_in_its_name_stays_one_line(home):
    assert "\\x0a" in refused(home, **{"ASYNCSEND_X\nY\x1b[2J": "2"})


# ── values that are refused ──────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "ASYNCSEND_DATABASE_URL": ["shop", "mysql://[::1/shop", "mysql://u:p@h:99999/shop", "mysql://u:p@h:port/shop", "mysql://u:a\nb@h/shop"],
    "ASYNCSEND_TABLE_PREFIX": ["", "a b", "x;drop table y", "ü_", "x" * 33, "1shop_", "1e5_", "sqlite_", "SQLite_x", "\u017fhop_"],
    "ASYNCSEND_TASKS": ["shop/tasks.py", "shop.tasks;x", "1shop", "shop..tasks"],
    "ASYNCSEND_QUEUES": ["", ",", "a,a", "a b", "*,*", "x" * 65, "a'b", "a\x1b[2J"],
    "ASYNCSEND_MAX_TIME": ["", "soon", "-1", "5x", "0", "9" * 400, "9" * 400 + "d", "1e9", "nan", "٣s"],
    "ASYNCSEND_WORKERS": ["", "0", "65", "-1", "1.5", "many", "9" * 5000],
    "ASYNCSEND_TIMEZONE": ["Mars/Olympus", "../etc/passwd", "Europe", "/etc/localtime"],
    "ASYNCSEND_KEEP_DONE": ["", "forever", "-1d", "36501d"],
    "ASYNCSEND_KEEP_DEAD": ["", "forever", "-1d", "9999999999d"],
    "ASYNCSEND_EMAIL_URL": ["localhost", "smtp://[x", "smtp://h:0x19"],
    "ASYNCSEND_EMAIL_ON_UNKNOWN": ["", "maybe", "Retry "],
    "ASYNCSEND_SMS_URL": ["twilio", "twilio://[x"],
    "ASYNCSEND_ALLOW_PRIVATE": ["localhost", "10.0.0.0/99", "10.0.0.1-10.0.0.9"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_its_name_and_what_to_write(home, name, value):
    line = refused(home, **{name: value})
    assert f"environment sets {name}=" in line
    assert re.search(r": (.*)(use|write|name|at most|not the name|no queue name|too long)", line.partition(name)[2]), line
    assert "\x1b" not in line and len(line) < 500


def test_a_bad_value_in_the_file_is_refused_with_the_name_of_the_file(home):
    path = env_file(home, "ASYNCSEND_WORKERS=many\n")
    assert f"{path} sets ASYNCSEND_WORKERS='many'" in refused(home)


@pytest.mark.parametrize("url", [f"mysql://shop:{SECRET}@h:port/x", f"mysql://shop:{SECRET}#x@h/x", f"mysql://shop:{SECRET}@[h/x", f"shop:{SECRET}@h/x"])
def test_a_refused_url_does_not_show_its_password(home, url):
    for name in ("ASYNCSEND_DATABASE_URL", "ASYNCSEND_EMAIL_URL", "ASYNCSEND_SMS_URL"):
        assert SECRET not in refused(home, **{name: url})


def test_a_wordpress_socket_in_the_url_is_let_through(home):
    assert load(home, ASYNCSEND_DATABASE_URL="mysql://u:p@localhost:/var/run/mysqld/mysqld.sock/shop").database_url.endswith("/shop")


def test_a_time_zone_by_name_is_that_zone(home):
    assert load(home, ASYNCSEND_TIMEZONE="Europe/Paris").timezone == ZoneInfo("Europe/Paris")


def test_several_webhook_secrets_and_private_networks_are_told_apart(home):
    settings = load(home, ASYNCSEND_WEBHOOK_SECRET="whsec_AAAA whsec_BBBB", ASYNCSEND_ALLOW_PRIVATE="127.0.0.1, 10.0.0.0/8")
    assert settings.webhook_secrets == ("whsec_AAAA", "whsec_BBBB")
    assert settings.allow_private == ("127.0.0.1", "10.0.0.0/8")


def test_a_duration_setting_is_the_seconds_it_says(home):
    assert timedelta(seconds=load(home, ASYNCSEND_KEEP_DONE="1d12h").keep_done) == timedelta(hours=36)


@pytest.mark.parametrize("text", ["default", "critical,*,low", " a , b ", "a.b:c-d_1"])
def test_an_order_of_queues_keeps_its_order(text):
    assert config.queue_order(text) == tuple(part.strip() for part in text.split(","))


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────

SECRETS = {
    "ASYNCSEND_DATABASE_URL": f"mysql://shop:{SECRET}@localhost/shop",
    "ASYNCSEND_EMAIL_URL": f"smtp://shop%40example.com:{SECRET}%40@mail.example.com:587",
    "ASYNCSEND_SMS_URL": f"twilio://AC123:{SECRET}@default?from=%2B15550100",
    "ASYNCSEND_WEBHOOK_SECRET": f"whsec_{SECRET}",
}


@pytest.mark.parametrize("option", [[], ["--show-origin"], ["--json"]])
def test_no_form_of_the_config_command_shows_a_secret(home, option):
    env_file(home, "".join(f"{name}='{value}'\n" for name, value in SECRETS.items()))
    result = CliRunner().invoke(cli, ["config", *option], env={"ASYNCSEND_HOME": str(home)})
    assert result.exit_code == 0, result.output
    assert SECRET not in result.output
    assert "***" in result.output
    assert "mysql://shop:***@localhost/shop" in result.output


def test_secrets_are_known_in_the_forms_in_which_they_could_be_printed(home):
    settings = load(home, ASYNCSEND_DATABASE_URL="mysql://u:p%40ss%2Fword@localhost/x", ASYNCSEND_WEBHOOK_SECRET="whsec_QUJD")
    assert {"p%40ss%2Fword", "p@ss/word", "whsec_QUJD", "QUJD"} <= set(settings.secrets)


def test_a_secret_in_the_query_of_a_url_is_neither_shown_nor_logged(home):
    urls = {
        "ASYNCSEND_DATABASE_URL": "mysql://localhost/x?passwd=qu%2BeryS3CRET&unix_socket=/run/x.sock&ssl_key=/etc/key.pem",
        "ASYNCSEND_EMAIL_URL": "smtp://mail.example.com?verify=off&Password=mailS3CRET",
        "ASYNCSEND_SMS_URL": "twilio://AC1:userS3CRET@default?from=a@b&auth_token=smsS3CRET#x",
    }
    settings = load(home, **urls)
    assert {"qu%2BeryS3CRET", "qu+eryS3CRET", "mailS3CRET", "userS3CRET", "smsS3CRET"} <= set(settings.secrets)
    assert not {"/run/x.sock", "/etc/key.pem", "off"} & set(settings.secrets)
    shown = [config.masked(name, url) for name, url in urls.items()]
    assert "S3CRET" not in " ".join(shown)
    assert "unix_socket=/run/x.sock&ssl_key=/etc/key.pem" in shown[0]
    assert "verify=off&Password=***" in shown[1]


def test_the_origin_of_each_value_is_shown(home):
    path = env_file(home, "ASYNCSEND_WORKERS=2\n")
    result = CliRunner().invoke(cli, ["config", "--show-origin"], env={"ASYNCSEND_HOME": str(home), "ASYNCSEND_MAX_TIME": "9s"})
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "environment" in lines["ASYNCSEND_MAX_TIME"]
    assert lines["ASYNCSEND_KEEP_DONE"].endswith("default")
    assert str(path)[:30] in lines["ASYNCSEND_WORKERS"]


def test_the_json_of_the_settings_names_value_origin_and_meaning_of_each(home):
    result = CliRunner().invoke(cli, ["config", "--json"], env={"ASYNCSEND_HOME": str(home), "ASYNCSEND_COMMAND_SORT": "sort"})
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {*config.DECLARED, "ASYNCSEND_COMMAND_SORT"}
    assert rows["ASYNCSEND_COMMAND_SORT"]["value"] == "sort"
    assert all(row["meaning"] and row["origin"] for row in rows.values())


@pytest.mark.parametrize("name", config.DECLARED)
def test_every_setting_is_described_in_a_sentence_of_its_own(name):
    _, meaning = config.DECLARED[name]
    assert len(meaning) > 15
    assert [other for other, (_, sentence) in config.DECLARED.items() if sentence == meaning] == [name]


def test_every_field_of_the_settings_follows_from_a_declared_setting(home):
    """A setting that is declared but read nowhere, or the other way round, would be a lie in the README."""
    source = Path(config.__file__).read_text()
    for name in config.DECLARED:
        assert source.count(f'"{name}"') >= 2, f"{name} is declared and never read"


def test_an_error_of_the_settings_can_be_caught_in_python(home):
    with pytest.raises(ConfigurationError):
        load(home, ASYNCSEND_WORKERS="0")
