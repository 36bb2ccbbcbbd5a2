"""Statements about addresses that nothing more is sent to: looked up as jobs are claimed, and added in the transaction that writes what became of one."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from asyncsend.store.connection import Duplicate, SqlConnection, as_text, as_time, resolved, storable
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncsend.outcome import Settlement
    from asyncsend.store.rows import Suppression

LOOK_AGAIN = 5.0  # seconds for which an empty table is believed to be empty still
PAGE = 500  # rows, or addresses, of a statement
_COLUMNS = "kind, address, list, reason, source, since"
_CHOSEN = (
    "(:address IS NULL OR address = :address) AND (:list IS NULL OR list = :list) AND (:reason IS NULL OR reason = :reason)"
    " AND (:since IS NULL OR since >= FROM_UNIXTIME(:since))"
)


class SuppressionStatements(SqlConnection):
    """The part of the store that knows suppressions."""

    empty_until: float | None = 0.0  # of the monotonic clock; None: there are some

    @resolved
    def has_suppressions(self) -> bool:
        if self.empty_until is not None and time.monotonic() >= self.empty_until:
            found = self._rows("SELECT 1 FROM asyncsend_suppressions LIMIT 1")
            self.empty_until = None if found else time.monotonic() + LOOK_AGAIN
        return self.empty_until is None

    @resolved
    def suppressions_of(self, addresses: Iterable[str]) -> list[Suppression]:
        wanted = sorted(address for address in addresses if address.isascii())
        return [one for start in range(0, len(wanted), PAGE) for one in self._suppressions_of(wanted[start : start + PAGE])]

    def _suppressions_of(self, addresses: Sequence[str]) -> list[Suppression]:
        params = {f"address{number}": address for number, address in enumerate(addresses)}
        names = ", ".join(f":{name}" for name in params)
        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_suppressions /*by key*/ WHERE kind IN ('email', 'sms') AND address IN ({names})", **params)
        return [_suppression(row) for row in rows]

    @resolved
    def suppress(self, wanted: Sequence[Suppression]) -> int:
        added = 0
        for start in range(0, len(wanted), PAGE):
            page = {(one.kind, one.address.lower(), one.list, one.reason): one for one in wanted[start : start + PAGE]}
            with self._transaction():
                there = {(one.kind, one.address.lower(), one.list, one.reason) for one in self._suppressions_of([one.address for one in page.values()])}
                added += self._put_suppressions([one for key, one in page.items() if key not in there])
        self.empty_until = 0.0
        return added

    def _learn_suppressions(self, settlements: Iterable[Settlement], owner: str | None) -> None:
        """Add what these outcomes say of their addresses, inside the transaction that has settled them."""
        from asyncsend.store.rows import Suppression

        for job_id, _, outcome, *_ in settlements:
            address = outcome.address
            if outcome.suppress and address and address.isascii() and len(address) <= 254:  # a sender may report anything; this may keep no outcome from being written
                said = printable(storable(f"job {job_id}: {outcome.error}") or "", 190)
                self._put_suppression(Suppression("email" if "@" in address else "sms", address, "", outcome.suppress[:16], said), owner)
                self.empty_until = 0.0

    def _put_suppressions(self, rows: Sequence[Suppression]) -> int:
        """All in one statement, and one by one where somebody adds the same just now."""
        if not rows:
            return 0
        values = ", ".join(f"(:kind{n}, :address{n}, :list{n}, :reason{n}, :source{n}, COALESCE(FROM_UNIXTIME(:since{n}), NOW(6)))" for n in range(len(rows)))
        params = {f"{name}{n}": value for n, one in enumerate(rows) for name, value in _values(one).items()}
        try:
            return self._write(f"INSERT INTO asyncsend_suppressions ({_COLUMNS}) VALUES {values}", **params)
        except Duplicate:
            return sum(self._put_suppression(one, None) for one in rows)

    def _put_suppression(self, one: Suppression, owner: str | None) -> int:
        with contextlib.suppress(Duplicate):  # there already; only this statement is undone by it
            return self._write(
                f"INSERT INTO asyncsend_suppressions ({_COLUMNS}) SELECT :kind, :address, :list, :reason, :source, COALESCE(FROM_UNIXTIME(:since), NOW(6))"
                " FROM asyncsend_status WHERE :owner IS NULL OR owner = :owner LIMIT 1",
                **_values(one), owner=owner,
            )  # fmt: skip
        return 0

    def suppressions(self, **chosen: Any) -> Iterator[Suppression]:
        for kind in ("email", "sms"):
            last: Suppression | None = None
            while page := self._suppressions(kind, last, _filters(**chosen)):
                yield from page
                last = page[-1]

    @resolved
    def _suppressions(self, kind: str, last: Suppression | None, chosen: dict[str, Any]) -> list[Suppression]:
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM asyncsend_suppressions /*by key*/ WHERE kind = :kind AND address >= :a"
            f" AND (address > :a OR list > :l OR (list = :l AND reason > :r)) AND {_CHOSEN} ORDER BY address, list, reason LIMIT {PAGE}",
            kind=kind, a=last.address if last else "", l=last.list if last else "", r=last.reason if last else "", **chosen,
        )  # fmt: skip
        return [_suppression(row) for row in rows]

    @resolved
    def count_suppressions(self, **chosen: Any) -> int:
        return int(self._rows(f"SELECT COUNT(*) FROM asyncsend_suppressions WHERE {_CHOSEN}", **_filters(**chosen))[0][0])

    @resolved
    def unsuppress(self, **chosen: Any) -> int:
        return self._write(f"DELETE FROM asyncsend_suppressions WHERE {_CHOSEN}", **_filters(**chosen))


def _filters(*, address: str | None = None, of_list: str | None = None, reason: str | None = None, since: float | None = None) -> dict[str, Any]:
    return {"address": address, "list": of_list, "reason": reason, "since": since}


def _values(one: Suppression) -> dict[str, Any]:
    return {**one._asdict(), "address": one.address.lower(), "source": storable(one.source), "since": one.since.timestamp() if one.since else None}


def _suppression(row: tuple[Any, ...]) -> Suppression:
    from asyncsend.store.rows import Suppression

    kind, address, of_list, reason, source, since = row
    return Suppression(str(as_text(kind)), str(as_text(address)), as_text(of_list) or "", as_text(reason) or "", as_text(source), as_time(since))
