"""Statements about channels, and about what a run learns of them: written in the transaction that writes what became of the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncsend.store.connection import WHILE_OURS, SqlConnection, as_text, as_time, resolved, storable
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncsend.channels import Channel
    from asyncsend.outcome import Outcome
    from asyncsend.quotas import Window
    from asyncsend.store.rows import StoppedChannel

_COLUMNS = "name, failures, stops, UNIX_TIMESTAMP(stopped_until) - UNIX_TIMESTAMP(NOW(6)), reason, failed_at, UNIX_TIMESTAMP(NOW(6)), UNIX_TIMESTAMP(refused_at)"
_KEPT = 30 * 86400  # seconds for which failures of a channel that nobody takes any more are remembered


class ChannelStatements(SqlConnection):
    """The part of the store that knows channels."""

    most_failed: Window | None = None  # how many mails may fail in which time, where that is not the usual; the run says it

    @resolved
    def channels(self) -> list[Channel]:
        return self._channels("1 = 1")

    @resolved
    def stopped_channels(self) -> list[StoppedChannel]:
        from asyncsend.store.rows import StoppedChannel

        rows = self._rows("SELECT name, stopped_until, reason FROM asyncsend_channels WHERE stopped_until > NOW(6) ORDER BY name")
        return [StoppedChannel(str(as_text(row[0])), as_time(row[1]), as_text(row[2]) or "") for row in rows]

    @resolved
    def resume_channel(self, name: str) -> bool:
        return name.isascii() and (self._write("DELETE FROM asyncsend_channels WHERE name = :name", name=name) > 0 or self.repeating)

    @resolved
    def wake(self, ids: Sequence[int], reason: str) -> int:
        return self._write(
            "UPDATE asyncsend_jobs /*by key*/ SET run_at = NOW(6) WHERE id IN :ids AND state = 'ready' AND reason = :reason AND run_at > NOW(6)", ids=sorted(ids), reason=reason
        )

    def _channels(self, where: str, **params: str) -> list[Channel]:
        from asyncsend.channels import SPARED, Channel

        rows = self._rows(f"SELECT {_COLUMNS} FROM asyncsend_channels WHERE {where}", **params)
        return [
            Channel(
                str(as_text(row[0])), row[1], row[2], None if row[3] is None else float(row[3]), as_text(row[4]), tuple(max(0.0, float(row[6]) - float(at)) for at in (as_text(row[5]) or "").split()),
                None if row[7] is None or row[6] - row[7] >= SPARED else float(row[6] - row[7]),
            )
            for row in rows
        ]  # fmt: skip

    def _after(self, channel: Channel, outcome: Outcome) -> Channel:
        from asyncsend.channels import EMAIL, after

        most = self.most_failed if channel.name == EMAIL else None
        return after(channel._replace(failed=tuple(ago for ago in channel.failed if most and ago < most.seconds)), outcome, most)

    def _hear(self, outcomes: Sequence[Outcome], owner: str | None) -> tuple[Channel, ...]:
        """Write what these outcomes, in their order, say of channels and subscriptions; the channels that were stopped or opened by it. Inside a transaction."""
        from asyncsend.channels import Channel

        for outcome in outcomes:
            if outcome.gone is not None:
                self._write(
                    f"UPDATE asyncsend_subscriptions SET disabled_at = NOW(6), reason = :reason WHERE name = :name AND disabled_at IS NULL{WHILE_OURS}",
                    name=outcome.gone, reason=printable(storable(outcome.error) or "", 250), owner=owner,
                )  # fmt: skip
        names = {f"name{position}": name for position, name in enumerate(sorted({outcome.channel for outcome in outcomes if outcome.channel}))}
        if not names:
            return ()
        before = {row.name: row for row in self._channels(f"name IN ({', '.join(':' + name for name in names)})", **names)}
        now = dict(before)
        for outcome in outcomes:
            if outcome.channel:
                now[outcome.channel] = self._after(now.get(outcome.channel) or Channel(outcome.channel), outcome)
        turned = []
        for name, channel in sorted(now.items()):
            was = before.get(name) or Channel(name)
            if channel == was:
                continue
            self._save(channel, owner)
            if channel.left != was.left:
                turned.append(channel)
        return tuple(turned)

    def _save(self, channel: Channel, owner: str | None) -> None:
        if channel.sound and channel.refused is None:
            self._write(f"DELETE FROM asyncsend_channels WHERE name = :name{WHILE_OURS}", name=channel.name, owner=owner)
            return
        [[now]] = self._rows("SELECT UNIX_TIMESTAMP(NOW(6))") if channel.failed else [[0]]
        failed_at = " ".join(f"{float(now) - ago:.3f}" for ago in channel.failed) or None
        values = {**channel._asdict(), "reason": storable(channel.reason), "failed": failed_at, "owner": owner}
        refused = "FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :refused)"
        until = "FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :left)"
        if not self._write(
            f"UPDATE asyncsend_channels SET failures = :failures, stops = :stops, stopped_until = {until}, reason = :reason, failed_at = :failed, refused_at = {refused}, changed_at = NOW(6) WHERE name = :name{WHILE_OURS}",
            **values,
        ):
            self._write(
                "INSERT INTO asyncsend_channels (name, failures, stops, stopped_until, reason, failed_at, refused_at, changed_at)"
                f" SELECT :name, :failures, :stops, {until}, :reason, :failed, {refused}, NOW(6) FROM asyncsend_status WHERE :owner IS NULL OR owner = :owner LIMIT 1",
                **values,
            )
            self._write(f"DELETE FROM asyncsend_channels WHERE changed_at < FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) - :kept){WHILE_OURS}", kept=_KEPT, owner=owner)
