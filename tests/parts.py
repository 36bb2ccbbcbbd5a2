"""The real parts the tests run against, fixtures included: a private MariaDB, the five servers of the matrix where they are, mail and HTTP sinks, processes."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pymysql
import pytest
from proxy import Proxy

from asyncsend import config, schema, tasks
from asyncsend.log import Log
from asyncsend.store import open_store

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI") == "true"
SHARED = ROOT.parent / "shared" / "tools" / "servers"
# The servers of the matrix; `.ci/run` names all five, at home the installed MariaDB is enough.
MATRIX = os.environ.get("ASYNCSEND_TEST_SERVERS", "").split()
NOT_TODAY = "cannot be had today"


def missing(what: str, advice: str):
    """A missing real part fails in CI and skips at home, saying what to install."""
    if CI:
        pytest.fail(f"{what} is missing: {advice}", pytrace=False)
    pytest.skip(f"{what} is missing: {advice}")


def without_flock(error: int):
    """For `preexec_fn`: the kernel answers flock(2) of this process and its children with `error`, as a file system that has none does."""
    numbers = {"x86_64": 73, "aarch64": 32}
    if os.uname().machine not in numbers:
        missing("the number of flock(2)", f"add {os.uname().machine} to without_flock in tests/parts.py")

    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32)]

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.POINTER(Filter))]

    # load the number of the call; is it flock's? then ERRNO(error), else ALLOW (man 2 seccomp)
    steps = (Filter * 4)(Filter(0x20, 0, 0, 0), Filter(0x15, 0, 1, numbers[os.uname().machine]), Filter(6, 0, 0, 0x50000 | error), Filter(6, 0, 0, 0x7FFF0000))
    program = Program(4, steps)
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply() -> None:
        if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.byref(program), 0, 0):  # PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP, by filter
            raise OSError(ctypes.get_errno(), "seccomp")

    return apply


def eventually(condition, seconds: float = 20.0, what: str = "it"):
    """Poll until the condition holds; what it returned. The bound is for hangs, never for speed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {seconds} s")


# ── database servers ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Server:
    name: str
    socket: str | None
    port: int | None = None
    user: str = "root"
    password: str = ""
    host: str = "127.0.0.1"
    pid: int | None = None
    databases: itertools.count = field(default_factory=itertools.count)

    def connect(self, database: str | None = None, **options):
        where = {"unix_socket": self.socket} if self.socket else {"host": self.host, "port": self.port}
        return pymysql.connect(user=self.user, password=self.password, database=database, autocommit=True, charset="utf8mb4", **where, **options)

    def url(self, database: str, port: int | None = None) -> str:
        """With `port`, by way of a proxy that listens there."""
        login = f"{self.user}:{self.password}" if self.password else self.user
        if port or not self.socket:
            return f"mysql://{login}@{self.host}:{port or self.port}/{database}"
        return f"mysql://{login}@localhost/{database}?unix_socket={self.socket}"

    @contextmanager
    def database(self):
        name = f"asyncsend_test_{os.getpid()}_{next(self.databases)}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET latin1")  # the worst a host may choose: our tables must not care
        yield name
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")


class PrivateServer(Server):
    """A MariaDB of our own from the system's binaries, on its own data: it may be killed and started again, with other options."""

    def __init__(self, *options: str):
        self.binary = shutil.which("mariadbd") or next((path for path in ("/usr/sbin/mariadbd",) if os.access(path, os.X_OK)), None)
        if self.binary is None:
            missing("mariadbd", "apt-get install --no-install-recommends mariadb-server-core mariadb-client-core, or set ASYNCSEND_TEST_MYSQL_URL")
        self.common = [self.binary, "--no-defaults", *(["--user=root"] if os.getuid() == 0 else [])]
        self.common += ["--innodb-buffer-pool-size=24M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve", "--performance-schema=0"]
        template = self._template()
        self.folder = Path(tempfile.mkdtemp(prefix="as-db-", dir="/tmp"))
        shutil.copytree(template, self.folder / "data")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        (self.folder / "init.sql").write_text("CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\nGRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n")
        super().__init__("mariadb", f"{self.folder}/s.sock", port)
        self.process: subprocess.Popen | None = None
        self.start(*options)

    def _template(self) -> Path:
        """A data directory as a fresh installation has it, made once."""
        version = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout.split("Ver ")[1].split()[0]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "asyncsend-tests"
        template = cache / f"mariadb-{version}"
        if template.is_dir():
            return template
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache))
        (fresh / "mysql").mkdir()
        share = Path("/usr/share/mysql")
        script = "CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\nSET @current_hostname='localhost';\n"
        for name in ("system_tables", "performance_tables", "system_tables_data"):
            found = next(path for path in (share / f"mysql_{name}.sql", share / f"mariadb_{name}.sql") if path.exists())
            script += found.read_text("utf-8")
        done = subprocess.run([*self.common, f"--datadir={fresh}", "--bootstrap", "--skip-networking"], input=script, text=True, capture_output=True)
        if done.returncode:
            shutil.rmtree(fresh)
            pytest.fail(f"mariadbd --bootstrap failed:\n{done.stderr[-2000:]}", pytrace=False)
        try:
            fresh.rename(template)
        except OSError:
            shutil.rmtree(fresh)  # another session was quicker
        return template

    def start(self, *options: str) -> None:
        """Return when it takes connections."""
        folder = self.folder
        with open(folder / "out.log", "ab") as out:
            self.process = subprocess.Popen(
                [*self.common, f"--datadir={folder}/data", f"--socket={folder}/s.sock", f"--port={self.port}", "--bind-address=127.0.0.1",
                 f"--pid-file={folder}/pid", f"--tmpdir={folder}", f"--init-file={folder}/init.sql", "--max-connections=200", *options],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

        def up():
            if self.process.poll() is not None:
                pytest.fail(f"mariadbd died:\n{(folder / 'out.log').read_text('utf-8', 'replace')[-2000:]}", pytrace=False)
            return self.answers()

        eventually(up, 60, "mariadbd")

    def answers(self) -> bool:
        """Whether it takes connections now."""
        with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaves the socket of a refused connection open, and Python says so later, anywhere
            if probe.connect_ex(self.socket):
                return False
        try:
            self.connect().close()
        except pymysql.Error:
            return False
        return True

    def kill(self) -> None:
        """As the kernel or a power cut of the process does it: no flush, no goodbye."""
        self.process.kill()
        self.process.wait(30)

    def restart(self, *options: str) -> None:
        """Killed, and back when this returns."""
        self.kill()
        self.start(*options)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def _installed_mariadb() -> Server:
    return PrivateServer()


def _given_server(url: str) -> Server:
    from asyncsend.store.mysql import connect_options

    options = connect_options(url)
    server = Server("mysql", options.get("unix_socket"), options.get("port", 3306), options.get("user", "root"), options.get("password", ""), options.get("host", "127.0.0.1"))
    server.stop = lambda: None
    return server


def _matrix_server(name: str) -> Server:
    done = subprocess.run([str(SHARED / "start.sh"), name], capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"{name} {NOT_TODAY}: {(done.stderr or done.stdout).strip()[-300:]}")
    facts = dict(line.split("=", 1) for line in done.stdout.split())
    server = Server(name, facts["socket"], int(facts["port"]), pid=int(facts["pid"]))
    server.stop = lambda: subprocess.run([str(SHARED / "stop.sh"), facts["pid"], facts["dir"]], check=True)
    return server


@pytest.fixture(scope="session")
def server():
    """The one MariaDB or MySQL that most tests use."""
    given = os.environ.get("ASYNCSEND_TEST_MYSQL_URL")
    found = _given_server(given) if given else _installed_mariadb()
    yield found
    found.stop()


@pytest.fixture(params=["mariadb", *MATRIX], scope="module")
def any_server(request):
    """The installed MariaDB, then each server of the matrix."""
    if request.param == "mariadb":
        yield request.getfixturevalue("server")
        return
    found = _matrix_server(request.param)
    yield found
    found.stop()


def pytest_terminal_summary(terminalreporter):
    skipped = {str(report.longrepr[-1]) for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)}
    for why in sorted(one for one in skipped if NOT_TODAY in one):
        terminalreporter.write_line(f"NOT TESTED TODAY: {why}", red=True, bold=True)


@pytest.fixture
def proxied():
    """A function that puts a proxy before a server."""
    made: list[Proxy] = []

    def proxy(server: Server) -> Proxy:
        made.append(Proxy(server.socket or (server.host, server.port)))
        return made[-1]

    yield proxy
    for one in made:
        one.close()


@pytest.fixture
def mysql_url(server):
    with server.database() as name:
        yield server.url(name)


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'asyncsend.sqlite3'}"


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """The database clock of a test: real until `set`, then standing still until it is moved."""

    def __init__(self):
        self.fixed: float | None = None
        self.store = None

    def __call__(self) -> float:
        return time.time() if self.fixed is None else self.fixed

    def set(self, seconds: float) -> None:
        self.fixed = seconds
        if self.store is not None and hasattr(self.store, "options"):
            self.store._execute(f"SET SESSION timestamp = {seconds:.6f}", {})  # a virtual clock inside the server: NOW(6) follows it

    def forward(self, seconds: float) -> None:
        self.set(self() + seconds)


def made_store(url: str, clock=None):
    store = open_store(url, "asyncsend_", clock)
    if url.startswith("sqlite"):
        store.create()
    schema.install(store, "sqlite" if url.startswith("sqlite") else "mysql")
    return store


@pytest.fixture(autouse=True)
def own_tasks(tmp_path_factory):
    """Tasks that a test declares, and the modules it wrote, are forgotten after it: the next test may have a task of the same name."""
    declared, modules, path = dict(tasks.declared), set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    tasks.declared.clear()
    tasks.declared.update(declared)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{tmp_path_factory.getbasetemp()}/"):  # not /tmp: there the product itself may lie
            del sys.modules[name]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["sqlite", "mysql"])
def url(request, tmp_path):
    """A database URL of each kind, tables not yet made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'asyncsend.sqlite3'}"
    return request.getfixturevalue("mysql_url")


@pytest.fixture
def store(url, clock):
    """An empty store of each kind, its clock in the hands of the test."""
    made = made_store(url, clock)
    clock.store = made
    yield made
    made.close()


# ── a site: home folder, settings, the command as cron calls it ──────────────────────────────────────────────────────


class Site:
    """One account on a host: a home folder, an environment, and `asyncsend` as a real process."""

    def __init__(self, home: Path, url: str, **environment: str):
        self.home, self.url = home, url
        self.prelude = ""  # Python that every process executes first: to wait seconds less than the product does
        self.within: list[str] = []  # a program that the command is given to, such as nsenter
        home.mkdir(mode=0o700, exist_ok=True)
        self.environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(home.parent), "ASYNCSEND_HOME": str(home), "ASYNCSEND_DATABASE_URL": url,
            "ASYNCSEND_EMAIL_FROM": "Shop <shop@example.com>", **environment,
        }  # fmt: skip

    def __call__(self, *arguments: str, code: int | None = 0, **options) -> subprocess.CompletedProcess:
        """Run a command to its end; its exit code must be `code`, unless that is None."""
        options.setdefault("input", "")
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=120, cwd="/", **options)
        assert code is None or done.returncode == code, f"asyncsend {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Start a command and go on."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "cwd": "/"} | options
        return subprocess.Popen(self.command(*arguments), env=self.environment, **options)

    def command(self, *arguments: str) -> list[str]:
        program = f"import runpy\n{self.prelude}\nrunpy.run_module('asyncsend', run_name='__main__', alter_sys=True)"
        return [*self.within, sys.executable, *(["-c", program] if self.prelude else ["-m", "asyncsend"]), *arguments]

    def settings(self):
        return config.load(self.environment)

    def store(self):
        return open_store(self.url, "asyncsend_")

    def rows(self, columns: str = "*", where: str = "1=1") -> list[tuple]:
        store = self.store()
        try:
            return store._rows(f"SELECT {columns} FROM asyncsend_jobs WHERE {where} ORDER BY id")
        finally:
            store.close()

    def sql(self, statement: str) -> int:
        store = self.store()
        try:
            return store._write(statement)
        finally:
            store.close()

    def insert(self, task: str, payload: str = "{}", **columns) -> None:
        """A plain INSERT, as a page makes it."""
        names = ["task", "payload", *columns]
        store = self.store()
        try:
            store._write(f"INSERT INTO asyncsend_jobs ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})", task=task, payload=payload, **columns)
        finally:
            store.close()

    def tasks(self, source: str, module: str = "shop_tasks") -> None:
        """Define tasks of the user's."""
        (self.home / f"{module}.py").write_text(source, "utf-8")
        self.environment |= {"ASYNCSEND_TASKS": module, "ASYNCSEND_PATH": str(self.home)}

    def log(self) -> str:
        path = self.home / "asyncsend.log"
        return path.read_text("utf-8") if path.exists() else ""

    def quiet(self, *arguments: str, **options) -> None:
        """A command that must say nothing at all, as cron wants it."""
        done = self(*arguments, **options)
        assert (done.stdout, done.stderr) == ("", ""), f"not silent: {done.stdout}{done.stderr}"


def left_over(site) -> list[int]:
    """Processes of this site that still live."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                if f"ASYNCSEND_HOME={site.home}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
    return found


@pytest.fixture
def site(tmp_path, url):
    """A site with its tables made, on SQLite and on MySQL."""
    made = Site(tmp_path / "home", url)
    made_store(url).close()
    return made


@pytest.fixture
def lite(tmp_path, sqlite_url):
    """A site on SQLite only, for what does not depend on the database."""
    made = Site(tmp_path / "home", sqlite_url)
    made_store(sqlite_url).close()
    return made


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "test.log")
    yield made
    made.close()


# ── sinks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class SmtpSink:
    """A real SMTP server that keeps what it accepted, and misbehaves on command: the truth of what went out is here."""

    def __init__(self, **options):
        from aiosmtpd.controller import Controller
        from aiosmtpd.smtp import SMTP

        sink = self
        self.mails: list[tuple[str, str, bytes]] = []  # sender, recipient, content
        self.accepted: list[tuple[float, int]] = []  # when each of them was accepted (monotonic), from which port
        self.recipients: list[str] = []  # of every RCPT that was taken
        self.connections = 0
        self.replies: dict[str, list[str]] = {"MAIL": [], "RCPT": [], "DATA": []}  # next replies of each step, instead of accepting
        self.after_dot = "accept"  # accept | cut (take it, never answer) | swallow (cut before taking it)

        class Handler:
            async def handle_MAIL(self, server, session, envelope, address, options):
                if sink.replies["MAIL"]:
                    return sink._said(server, sink.replies["MAIL"].pop(0))
                envelope.mail_from = address
                return "250 OK"

            async def handle_RCPT(self, server, session, envelope, address, options):
                if sink.replies["RCPT"]:
                    return sink._said(server, sink.replies["RCPT"].pop(0))
                envelope.rcpt_tos.append(address)
                sink.recipients.append(address)
                return "250 OK"

            async def handle_DATA(self, server, session, envelope):
                if sink.replies["DATA"]:
                    return sink._said(server, sink.replies["DATA"].pop(0))
                if sink.after_dot != "swallow":
                    sink.accepted.append((time.monotonic(), session.peer[1]))
                    sink.mails.append((envelope.mail_from, envelope.rcpt_tos[0], envelope.original_content))
                if sink.after_dot != "accept":
                    server.transport.abort()
                return "250 OK"

        class Server(SMTP):
            def connection_made(self, transport):
                sink.connections += 1
                super().connection_made(transport)

        class Sink(Controller):
            def factory(self):
                return Server(self.handler, **self.SMTP_kwargs)

        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.controller = Sink(Handler(), hostname="127.0.0.1", port=self.port, data_size_limit=50_000_000, **options)
        self.controller.start()

    @staticmethod
    def _said(server, reply: str) -> str:
        if reply == "cut":
            server.transport.abort()
        return reply

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def messages(self):
        return [message_from_bytes(content, policy=policy.default) for _, _, content in self.mails]

    def ids(self) -> list[str]:
        return [str(message["Message-ID"]) for message in self.messages()]


@pytest.fixture
def smtp():
    sink = SmtpSink()
    yield sink
    sink.controller.stop()


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = 0.0  # monotonic
    port: int = 0  # of the client


class HttpSink:
    """A real HTTP server that keeps every request and answers what it is told."""

    def __init__(self, *, keep_alive: bool = False):
        sink = self
        self.requests: list[Request] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []  # next answers; 200 {} when there are none
        self.behave = "answer"  # answer | hang | cut

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"
            disable_nagle_algorithm = True  # head and body go in two writes: the second would wait 40 ms for an answer to the first

            def do_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sink.requests.append(Request(self.command, self.path, dict(self.headers.items()), body, time.monotonic(), self.client_address[1]))
                if sink.behave == "hang":
                    sink.release.wait(60)
                if sink.behave in ("cut", "hang"):
                    self.connection.close()
                    return
                status, headers, content = sink.answers.pop(0) if sink.answers else (200, {}, b"{}")
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # a cut connection is what some tests ask for

        self.release = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def receiver():
    sink = HttpSink()
    yield sink
    sink.stop()


@pytest.fixture
def http(receiver):
    """One HTTP server for all tests of a file, fresh for each."""
    receiver.requests, receiver.answers, receiver.behave, receiver.release = [], [], "answer", threading.Event()
    yield receiver
    receiver.release.set()


def assert_signed_for_amazon(request: Request, url: str, service: str, key_id: str, secret: str, region: str = "eu-west-1") -> None:
    """By the word of botocore: the signature is over this very request, and of this account."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    said = dict(part.split("=", 1) for part in request.headers["Authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", "))
    names = said["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "content-type"} <= set(names)
    asked = AWSRequest(request.method, url + request.path, headers={name: value for name, value in request.headers.items() if name.lower() in names}, data=request.body)
    asked.context["timestamp"] = request.headers["x-amz-date"]
    oracle = SigV4Auth(Credentials(key_id, secret), service, region)
    assert said["Credential"] == f"{key_id}/{request.headers['x-amz-date'][:8]}/{region}/{service}/aws4_request"
    assert said["Signature"] == oracle.signature(oracle.string_to_sign(asked, oracle.canonical_request(asked)), asked)
