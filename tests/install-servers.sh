#!/bin/sh
# The real parts of the tests, from Debian: a MariaDB server, Postfix's smtp-sink, PHP with MySQL, cron; faketime speeds
# cron up, strace kills at a system call. With the word `peers` also what other queues need in `make bench`: Redis and PostgreSQL. No service is started. Without root it says exactly what to install, and fails only where it matters (CI).
set -eu
missing=
need() { # need COMMAND PACKAGE...
    command=$1; shift
    PATH=$PATH:/usr/sbin command -v "$command" >/dev/null 2>&1 || missing="$missing $*"
}
need mariadbd mariadb-server-core mariadb-client-core
need smtp-sink postfix
need cron cron
need php php-cli
php -m 2>/dev/null | grep -qi '^mysqli$' || missing="$missing php-mysql"
php -m 2>/dev/null | grep -qi '^pdo_sqlite$' || missing="$missing php-sqlite3"
need openssl openssl
need unshare util-linux
need strace strace
[ -n "$(find /usr/lib -name libfaketimeMT.so.1 2>/dev/null | head -n 1)" ] || missing="$missing faketime"
if [ "${1:-}" = peers ]; then
    need redis-server redis-server
    [ -n "$(find /usr/lib/postgresql -name postgres -path '*/bin/*' 2>/dev/null | head -n 1)" ] || missing="$missing postgresql"
fi
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests want these Debian packages, and this system has no apt-get:$missing" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
if [ "$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo=sudo; else
    echo "The tests want packages that only root can install. Run:" >&2
    echo "    sudo apt-get install --no-install-recommends$missing" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
# Postfix and cron come with services that must not start here: policy-rc.d says no to invoke-rc.d (man invoke-rc.d).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
echo "Installing$missing"
$sudo apt-get update -qq
echo 'postfix postfix/main_mailer_type select No configuration' | $sudo debconf-set-selections || true
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
