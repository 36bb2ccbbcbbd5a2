"""MySQL 5.6 and later, MariaDB 10.2 and later: connecting, inserting, and what each error code means for us."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from asyncsend.errors import AsyncsendError, ConfigurationError, DatabaseUnreachable, InvalidJob
from asyncsend.store.connection import AlreadyThere, BadRow, ConnectionLost, Duplicate, Params, bind, in_mysql, resolved
from asyncsend.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pymysql

# PyMySQL is imported by the methods that talk: a run that finds the lock held must not pay for it.

# Error numbers: MySQL 8.4 Error Message Reference, MariaDB Knowledge Base "Error Codes"; FAULT tables of docs/flow.md.
LOCK_WAIT = 1205
CONFLICTS = {1213, LOCK_WAIT, 1020, 3572}  # deadlock, lock wait, record changed: the same transaction again
LOST = {2006, 2013, 2055, 1053, 1927, 4031, 1317, 3024}  # gone away, lost during query, shutdown, killed, idle too long
AWAY = {1040, 1203, 1226, 2002, 2003, 2005, 1129, 1158, 1159, 1160, 1161, 1152}  # too many connections, refused, network
BLOCKED = {1290, 1792, 1836, 1036, 1114, 1021, 28, 3, 1028, 1030}  # read-only, disk full
DENIED = {1044, 1045, 1049, 1142, 1143, 1227, 1698, 2059, 1524, 2061}
MISFITS = {1264, 1292, 1366, 1406, 1690, 3140, 4025, 1048, 1265}  # out of range, cut, not a value of that column
MISSING = {1146, 1054, 1051}
# After so many seconds of silence the server ends our session. The status row's lease is no longer than that, and while its holder
# is frozen or cut off in the middle of a transaction, the locks of that keep everybody else from taking over; the default is 8 hours.
SILENCE = 120
# (MySQL 9 takes no DECIMAL for wait_timeout, and LEAST makes one.)
# Everything the statements rely on, in one SET; `standing` reads it back.
SESSION = (
    "SET SESSION time_zone = '+00:00',"
    " sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO',"
    f" innodb_lock_wait_timeout = 5, lock_wait_timeout = 5, wait_timeout = CAST(LEAST(@@wait_timeout, {SILENCE}) AS UNSIGNED), autocommit = 1"
)
# Where PHP and the C client look for the socket when the host is "localhost"; PyMySQL alone never would (PyMySQL#1021).
SOCKETS = (
    "/var/run/mysqld/mysqld.sock", "/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock",  # noqa: S108
    "/var/run/mysql/mysql.sock", "/var/mysql/mysql.sock", "/opt/lampp/var/mysql/mysql.sock",
)  # fmt: skip
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30
NO_BACKSLASH_ESCAPES = 0x200  # of the last OK packet: in this session a backslash is a letter (MySQL internals manual, "Status Flags")
QUICKER_FROM = 100  # parameters: an INSERT of many rows
SMALLEST_PACKET = 1024 * 1024  # max_allowed_packet was 1 MiB by default in MySQL 5.5, and some hosts kept it


class MySQLStore(SqlStore):
    """One connection, opened at the first question, reopened when it is lost."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(prefix)
        self.options = connect_options(url)
        self._connection: Any = None

    @property
    def name(self) -> str:
        where = self.options.get("unix_socket") or f"{self.options.get('host', 'localhost')}:{self.options.get('port', 3306)}"
        return f"MySQL database {self.options.get('database')} at {where}"

    def close(self) -> None:
        if self._connection is not None:
            import pymysql

            connection, self._connection = self._connection, None
            try:
                connection.close()
            except pymysql.err.Error:
                pass  # it was closed by the other side already

    def forget_connection(self) -> None:
        if self._connection is not None:
            self._connection._force_close()  # noqa: SLF001 - close() would send COM_QUIT, and end our parent's session after a fork
            self._connection = None

    def unreachable(self, error: BaseException) -> DatabaseUnreachable:
        return DatabaseUnreachable(f"the {self.name} is away ({error}): nothing is lost, the next run tries again")

    def pause_before_reconnect(self, attempt: int) -> None:
        time.sleep(0.05 * 4**attempt)  # 0.05, 0.2, 0.8 s: a restart of a small server takes less

    def _connect(self) -> Any:
        import pymysql
        from pymysql.constants import CLIENT, FIELD_TYPE

        # Times as the text they are: as_time reads it in a tenth of what the driver's own conversion takes, and knows zero dates.
        plain = {kind: convert for kind, convert in pymysql.converters.conversions.items() if kind not in (FIELD_TYPE.TIMESTAMP, FIELD_TYPE.DATETIME)}
        options = {
            "conv": plain, "charset": "utf8mb4", "autocommit": None, "client_flag": CLIENT.FOUND_ROWS, "init_command": SESSION,
            "connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT, "write_timeout": READ_TIMEOUT, **self.options,
        }  # fmt: skip
        # A unix socket and loopback never leave the host: TLS there costs a context (20 ms of CPU) and protects nothing.
        local = "unix_socket" in options or options.get("host") in ("127.0.0.1", "::1")
        explicit = any(name.startswith("ssl") for name in options)
        try:
            if local and not explicit:
                try:
                    return pymysql.connect(**options, ssl_disabled=True)
                except (RuntimeError, pymysql.err.OperationalError) as error:
                    # caching_sha2_password without a cached login, or require_secure_transport: both want TLS after all
                    if not isinstance(error, RuntimeError) and error.args[0] not in (2061, 3159, 1835):
                        raise
            return pymysql.connect(**options)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot log in to the {self.name}: {error}: run `pip install 'pymysql[rsa]'`") from error
        except pymysql.err.Error as error:
            raise self._ours(error, connecting=True) from error
        except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
            raise ConfigurationError(f"ASYNCSEND_DATABASE_URL cannot be used ({error}): write mysql://user:password@localhost/database") from error

    def _execute(self, sql: str, params: Params) -> tuple[list[tuple[Any, ...]], int]:
        import pymysql

        statement, params = bind(_translation(sql), params, self.prefix, "%({})s")
        for attempt in range(20):
            if self._connection is None:
                self._connection = self._connect()
            try:
                with self._connection.cursor() as cursor:
                    if len(params) > QUICKER_FROM:
                        text = self._written(cursor, statement, params)
                        self._check_packet(cursor, params, text)
                        matched = cursor.execute(text)
                    else:
                        self._check_packet(cursor, params, statement, params)
                        matched = cursor.execute(statement, params)
                    return list(cursor.fetchall()), matched
            except pymysql.err.Error as error:
                code = error.args[0] if error.args else 0
                if code in CONFLICTS and not self._in_transaction():
                    # A lock that was waited for in vain (1205) has cost seconds already; a deadlock costs none.
                    if attempt < (1 if code == LOCK_WAIT else 19):
                        time.sleep(0.005 + 0.010 * (attempt % 3))
                        continue
                    raise DatabaseUnreachable(f"the {self.name} is locked by another session ({error}): the next run tries again") from error
                raise self._ours(error) from error
        raise AssertionError("unreachable: the loop above returns or raises")

    def _written(self, cursor: Any, statement: str, params: Params) -> str:
        """The statement with its values, letter for letter as the driver writes it; its way to escape text takes ten times as long."""
        if self._connection.server_status & NO_BACKSLASH_ESCAPES:
            return str(cursor.mogrify(statement, params))
        return statement % {name: quoted(value) if isinstance(value, str) else cursor.mogrify("%s", (value,)) for name, value in params.items()}

    def _check_packet(self, cursor: Any, params: Params, statement: str, unwritten: Params | None = None) -> None:
        """InvalidJob for a statement no packet of this server can hold: it would hang up in the middle, as if it were away."""
        if sum(len(value) for value in params.values() if isinstance(value, str)) < SMALLEST_PACKET // 4:
            return
        size = len(cursor.mogrify(statement, unwritten).encode("utf-8", "replace"))
        cursor.execute("SELECT @@max_allowed_packet")
        limit = cursor.fetchall()[0][0]
        if size >= limit:
            raise InvalidJob(f"the row takes {size:,} bytes, the server's max_allowed_packet is {limit:,}: put large content in a file, or ask your host for 16M")

    def _in_transaction(self) -> bool:
        """Whether a conflict hit inside BEGIN…COMMIT: then the whole transaction must be rolled back and done again."""
        # SERVER_STATUS_IN_TRANS of the last OK packet (MySQL internals manual, "Status Flags"); 1205 keeps the transaction open.
        return bool(self._connection.server_status & 1)

    def _ours(self, error: pymysql.err.Error, *, connecting: bool = False) -> Exception:
        """What a driver's error means for us; its text never holds a password."""
        import pymysql

        code = error.args[0] if error.args else 0
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        if code == 1062:
            return Duplicate(text)
        if code in (1060, 1061):  # duplicate column, duplicate key: MySQL knows no ADD … IF NOT EXISTS
            return AlreadyThere(text)
        if code in MISFITS:
            return BadRow(f"{code}: {text}")
        if code in CONFLICTS:
            return ConnectionLost(f"conflict {code} inside a transaction: it is rolled back and done again")
        if connecting and code == 2003 and "Name or service" in text:
            return DatabaseUnreachable(f"the {self.name} was not found ({code}: {text}): check the host in ASYNCSEND_DATABASE_URL")
        if code in AWAY or (connecting and code in LOST):
            return DatabaseUnreachable(f"the {self.name} does not answer ({code}: {text}): nothing is lost, the next run tries again")
        if code in LOST or isinstance(error, pymysql.err.InterfaceError):
            return ConnectionLost(f"{code}: {text}")
        if code in BLOCKED:
            return DatabaseUnreachable(f"the {self.name} takes no writes ({code}: {text}): free space, or wait until it is writable again")
        if code == 1665:
            return ConfigurationError(
                f"the {self.name} writes its binary log by statement, which allows no READ COMMITTED ({code}):"
                " ask your host for binlog_format = MIXED or ROW, or for transaction isolation REPEATABLE-READ"
            )
        if code in DENIED:
            return ConfigurationError(f"the {self.name} refuses us ({code}: {text}): check user, password and rights in ASYNCSEND_DATABASE_URL")
        if code in MISSING:
            missing = ConfigurationError(
                f"the tables of asyncsend are not in the {self.name} ({text}): run `asyncsend init`, or paste schema.sql into phpMyAdmin"
            )
            missing.missing_table = code == 1146  # type: ignore[attr-defined]
            return missing
        if code in (1153, 1301):
            return InvalidJob(f"the row is larger than the server's max_allowed_packet ({text}): put large content in a file")
        return DatabaseUnreachable(f"the {self.name} answered {code}: {text}: run `asyncsend doctor`; the next run tries again")

    def _session_facts(self) -> str:
        return ", @@session.time_zone, @@session.sql_mode, @@session.autocommit, @@session.character_set_connection"

    def _assert_session(self, facts: tuple[Any, ...]) -> None:
        zone, mode, autocommit, charset = (str(fact) for fact in facts)
        if zone != "+00:00" or "STRICT_TRANS_TABLES" not in mode or autocommit != "1" or charset != "utf8mb4":
            raise ConfigurationError(
                f"the session is not what was asked for (time_zone {zone}, sql_mode {mode}, autocommit {autocommit}, charset {charset}):"
                " a proxy or init_connect changes it; connect to the database directly"
            )

    def _adding(self, columns: Iterable[str]) -> str:
        # VALUES() is deprecated since MySQL 8.0.20, and the only word for it that 5.6 and MariaDB know as well.
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{name} = {name} + VALUES({name})" for name in columns)

    @resolved
    def facts(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in (
            "version", "version_comment", "innodb_flush_log_at_trx_commit", "sync_binlog", "binlog_format", "max_allowed_packet", "global.wait_timeout",
            "global.sql_mode", "global.time_zone", "system_time_zone", "transaction_isolation", "tx_isolation", "read_only", "max_user_connections",
        ):  # fmt: skip
            try:
                found[name] = str(self._rows(f"SELECT @@{name}")[0][0])
            except AsyncsendError:
                continue  # not every server has every variable
        found["now"] = str(self._rows("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0])
        found["engines"] = ", ".join(sorted({str(engine) for _, engine in self._tables()}))
        found["tables"] = ", ".join(sorted(table for table, _ in self._tables()))
        return found

    @resolved
    def tables(self) -> set[str]:
        return {table for table, _ in self._tables()}

    def _tables(self) -> list[tuple[str, str]]:
        rows = self._rows(
            "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE :like",
            like=self.prefix.replace("_", r"\_") + "%",
        )
        return [(str(table), str(engine)) for table, engine in rows]


_translated: dict[str, str] = {}
_long: dict[str, str] = {}


def _translation(sql: str) -> str:
    """The statement for PyMySQL. Of the long ones, with many rows, only the last few are kept: chunks of a bulk insert are alike."""
    known = _translated.get(sql) or _long.get(sql)
    if known is None:
        known = in_mysql(sql)
        if len(sql) < 1500 and len(_translated) < 200:
            _translated[sql] = known
        elif len(sql) >= 1500:
            if len(_long) == 4:
                del _long[next(iter(_long))]
            _long[sql] = known
    return known


def quoted(text: str) -> str:
    """Text as a literal of MySQL, for a session in which a backslash escapes; the same as PyMySQL writes it."""
    for letter, escaped in _ESCAPES if not text.isalnum() else ():
        text = text.replace(letter, escaped)
    return f"'{text}'"


# The backslash first. Only it and the quote must be escaped; the others are, by whoever speaks to MySQL (manual, "mysql_real_escape_string_quote()").
_ESCAPES = (("\\", "\\\\"), ("\0", "\\0"), ("\n", "\\n"), ("\r", "\\r"), ("\x1a", "\\Z"), ('"', '\\"'), ("'", "\\'"))


def connect_options(url: str) -> dict[str, Any]:
    """
    PyMySQL's arguments for a URL: `mysql://user:pass@host:port/db`, `localhost` by its socket as PHP does, WordPress's
    `host:/path/to.sock`, `?unix_socket=…`, `?read_default_file=~/.my.cnf`. ConfigurationError says how to write it.
    """
    split = urlsplit(url)
    advice = "write mysql://user:password@localhost/database, with @ : / # in the password as %40 %3A %2F %23"
    if split.fragment:
        raise ConfigurationError(f"ASYNCSEND_DATABASE_URL holds a bare #: {advice}")
    query = {name: values[-1] for name, values in parse_qs(split.query).items()}
    login, _, address = split.netloc.rpartition("@")
    user, has_password, password = login.partition(":")
    options: dict[str, Any] = {}
    if user:
        options["user"] = unquote(user)
    if has_password:
        options["password"] = unquote(password)
    path = split.path
    host, has_port, port = address.rpartition(":") if not address.startswith("[") or "]:" in address else (address, "", "")
    if not has_port:
        host, port = address, ""
    if has_port and not port and ".sock" in path:  # WordPress writes localhost:/path/to/mysql.sock
        socket_path, _, path = path.partition(".sock")
        query.setdefault("unix_socket", socket_path + ".sock")
    elif port and not port.isdecimal():
        raise ConfigurationError(f"ASYNCSEND_DATABASE_URL has {port!r} where the port belongs: {advice}")
    host = unquote(host).strip("[]")
    default_file = query.pop("read_default_file", None)
    if default_file:
        default_file = os.path.expanduser(default_file)
        if not os.access(default_file, os.R_OK):
            raise ConfigurationError(f"ASYNCSEND_DATABASE_URL names {default_file}, which cannot be read: create it, or write user and password in the URL")
        options["read_default_file"] = default_file
    database = unquote(path.strip("/"))
    if database:
        options["database"] = database
    elif not default_file:
        raise ConfigurationError(f"ASYNCSEND_DATABASE_URL names no database: {advice}")
    socket_path = query.pop("unix_socket", "")
    if not socket_path and host in ("", "localhost") and not port and not default_file:
        socket_path = next((path for path in (os.environ.get("MYSQL_UNIX_PORT"), *SOCKETS) if path and os.path.exists(path)), "")
    if socket_path:
        options["unix_socket"] = socket_path
    elif host or not default_file:
        options["host"] = "127.0.0.1" if host in ("", "localhost") else host
    if port:
        options["port"] = int(port)
    for name in ("ssl_ca", "ssl_cert", "ssl_key"):
        if name in query:
            options[name] = query.pop(name)
    if query:
        raise ConfigurationError(f"ASYNCSEND_DATABASE_URL has the option {next(iter(query))!r}: only unix_socket, read_default_file, ssl_ca, ssl_cert, ssl_key are known")
    return options
