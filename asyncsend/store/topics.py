"""Statements about subscriptions. Secrets leave this room by `endpoints` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncsend.errors import Conflict
from asyncsend.store.connection import WHILE_OURS, Duplicate, SqlConnection, as_text, as_time, resolved
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncsend.store.insert import Rows
    from asyncsend.store.rows import Consumer, Subscription

_COLUMNS = "name, topic, task, queue, payload, url, secrets, disabled_at, reason, created_at"
MOST_SECRETS = 5  # of one subscription


def consumers_of(rows: Rows, topic: str) -> tuple[list[Consumer], float]:
    """Those that may want this topic, for the caller to look closer, and the database's seconds since 1970. Reads no secret and no address: a page may have no right to them."""
    from asyncsend.store.rows import Consumer

    found = rows(
        "SELECT name, topic, task, queue, payload, UNIX_TIMESTAMP(NOW(6)) FROM asyncsend_subscriptions"
        " WHERE disabled_at IS NULL AND (topic = :topic OR topic LIKE :star OR topic LIKE :hash) ORDER BY name",
        {"topic": topic, "star": "%*%", "hash": "%#%"},
    )
    return [Consumer(str(as_text(row[0])), str(as_text(row[1])), row[2], row[3], as_text(row[4])) for row in found], float(found[0][5]) if found else 0.0


class TopicStatements(SqlConnection):
    """The part of the store that knows subscriptions."""

    @resolved
    def consumers(self, topic: str) -> tuple[list[Consumer], float]:
        return consumers_of(lambda sql, params: self._execute(sql, params)[0], topic)

    @resolved
    def subscriptions(self) -> list[Subscription]:
        from asyncsend.store.rows import Subscription

        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_subscriptions ORDER BY topic, name")
        return [
            Subscription(
                str(as_text(row[0])), str(as_text(row[1])), row[2], row[3], as_text(row[4]), as_text(row[5]), len((as_text(row[6]) or "").split()),
                as_time(row[7]), as_text(row[8]), as_time(row[9]),
            )
            for row in rows
        ]  # fmt: skip

    @resolved
    def save_subscription(self, wanted: Subscription, secret: str | None, drop_old: bool) -> None:
        values: dict[str, Any] = {"name": wanted.name, "topic": wanted.topic, "task": wanted.task, "queue": wanted.queue, "payload": wanted.payload, "url": wanted.url}
        with self._transaction():
            found = self._rows("SELECT topic, task, secrets FROM asyncsend_subscriptions WHERE name = :name", name=wanted.name)
            if not found:
                try:
                    self._write(
                        "INSERT INTO asyncsend_subscriptions (name, topic, task, queue, payload, url, secrets) VALUES (:name, :topic, :task, :queue, :payload, :url, :secret)",
                        **values, secret=secret,
                    )  # fmt: skip
                except Duplicate:
                    raise Conflict(f"somebody makes a subscription {printable(wanted.name, 60)} just now: look with `asyncsend topics`") from None
                return
            if (as_text(found[0][0]), as_text(found[0][1])) != (wanted.topic, wanted.task):
                raise Conflict(f"there is another subscription {wanted.name}, for another topic or task: choose another --name, or unsubscribe it first")
            old = (as_text(found[0][2]) or "").split()
            secrets = [*([secret] if secret else []), *(one for one in old if one != secret)]
            self._write(
                "UPDATE asyncsend_subscriptions SET queue = :queue, payload = :payload, url = :url, secrets = :secrets, disabled_at = NULL, reason = NULL WHERE name = :name",
                **values, secrets=" ".join(secrets[: 1 if drop_old else MOST_SECRETS]) or None,
            )  # fmt: skip

    @resolved
    def remove_subscription(self, name: str) -> bool:
        return self._write("DELETE FROM asyncsend_subscriptions WHERE name = :name", name=name) > 0 or self.repeating

    @resolved
    def endpoints(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        wanted = {f"name{position}": name for position, name in enumerate(sorted(name for name in names if name.isascii()))}
        if not wanted:
            return {}
        rows = self._rows(
            f"SELECT name, url, secrets, disabled_at, reason FROM asyncsend_subscriptions WHERE url IS NOT NULL AND name IN ({', '.join(':' + one for one in wanted)})", **wanted
        )
        return {
            str(as_text(row[0])): {
                "url": as_text(row[1]), "secrets": (as_text(row[2]) or "").split(), "disabled": (as_text(row[4]) or "it is disabled") if row[3] is not None else None,
            }
            for row in rows
        }  # fmt: skip

    @resolved
    def cancel_all(self, ids: Sequence[int], reason: str, error: str, owner: str | None = None) -> int:
        with self._transaction():
            cancelled = self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'cancelled', finished_at = NOW(6), unique_slot = NULL, lane = '', reason = :reason, error = :error"
                f" WHERE id IN :ids AND state IN ('ready', 'held'){WHILE_OURS}",
                ids=sorted(ids), reason=reason, error=error, owner=owner,
            )  # fmt: skip
            self._let_next(ids, owner)
        return cancelled
