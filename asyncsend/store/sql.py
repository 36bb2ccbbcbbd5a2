"""Every statement about jobs and queues that both databases share, whole, in the method that runs it (connection.py says in which words)."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncsend.errors import ConfigurationError
from asyncsend.outcome import FINISHED, Outcome, Settlement, State, hold
from asyncsend.store import CLAIMED_PAYLOAD, Settled
from asyncsend.store.alerts import AlertStatements
from asyncsend.store.attempts import is_told
from asyncsend.store.channels import ChannelStatements
from asyncsend.store.connection import (
    WHILE_OURS,
    AlreadyThere,
    BadRow,
    Duplicate,
    as_hex,
    as_text,
    as_time,
    resolved,
    statements,
    storable,
)
from asyncsend.store.people import PeopleStatements
from asyncsend.store.quotas import QuotaStatements
from asyncsend.store.retention import RetentionStatements
from asyncsend.store.runs import RunStatements
from asyncsend.store.schedules import ScheduleStatements
from asyncsend.store.suppressions import SuppressionStatements
from asyncsend.store.topics import TopicStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from asyncsend.config import Limits
    from asyncsend.job import Job, NewJob
    from asyncsend.store.lines import Lines
MIXED = 30.0  # seconds at most; replies.AGAIN is longer, so that those that were refused come last


class PartlyWritten(Exception):
    """Some of a group was written before: which, has to be asked. Never leaves the store."""


class Candidate(NamedTuple):
    """A due job, its keys as the row has them."""

    id: int
    order_key: Any
    concurrency_key: Any


class _Choice:
    """What one claim has chosen so far."""

    def __init__(self, limit_of: Callable[[str], int | None], owner: str | None, enough: Callable[[], bool]) -> None:
        self.limit_of, self.owner, self.enough = limit_of, owner, enough
        self.ids: list[int] = []
        self.lines: Lines | None = None  # made where the first key is met


class SqlStore(RunStatements, RetentionStatements, ScheduleStatements, TopicStatements, ChannelStatements, QuotaStatements, AlertStatements, SuppressionStatements, PeopleStatements):
    """The shared half of both stores. A subclass connects, executes and names its errors."""

    begins = False  # whether the next claim is the first of a run

    # schema
    @resolved
    def schema_version(self) -> int | None:
        try:
            return self._rows("SELECT MAX(version) FROM asyncsend_schema")[0][0]  # type: ignore[no-any-return]
        except ConfigurationError as error:
            if getattr(error, "missing_table", False):
                return None
            raise

    def apply(self, version: int, ddl: str) -> None:
        for statement in statements(ddl):
            with suppress(AlreadyThere):  # an earlier try was cut short after this statement
                self._write(statement)
        if self.schema_version() != version:
            raise ConfigurationError(f"migration {version} ran, but its version row is missing: run `asyncsend init` again")

    # enqueue
    @resolved
    def insert(self, jobs: Sequence[NewJob], there: set[str] | None = None, max_depth: Limits = ()) -> list[str]:
        from asyncsend.store.insert import insert_rows, refuse_full

        if not self.repeating:  # else they may be there already
            refuse_full(lambda sql, params: self._execute(sql, params)[0], jobs, max_depth)
        if len(jobs) == 1:  # one statement is its own transaction
            return insert_rows(lambda sql, params: self._execute(sql, params)[0], jobs, there)
        with self._transaction():
            return insert_rows(lambda sql, params: self._execute(sql, params)[0], jobs, there)

    # the queues, and what is in them
    @resolved
    def pauses(self) -> dict[str, datetime | None]:
        rows = self._rows("SELECT queue, paused_until FROM asyncsend_pauses WHERE paused_until IS NULL OR paused_until > NOW(6)")
        return {queue: as_time(until) for queue, until in rows}

    @resolved
    def ready_queues(self) -> list[str]:
        return self.queues_now()

    def queues_now(self) -> list[str]:
        """The same, for whoever is inside a transaction: not asked again where the connection was lost, for then all of it must be."""
        # A loose index scan by hand: one short range per queue, whatever the optimizer believes of the table. GROUP BY is
        # only as quick while the statistics are fresh: measured 0.3 ms, and 280 to 560 ms after a million jobs came in.
        names: list[str] = []
        rows = self._rows("SELECT queue FROM asyncsend_jobs WHERE state = 'ready' ORDER BY queue LIMIT 1")
        while rows:
            names.append(rows[0][0])
            rows = self._rows("SELECT queue FROM asyncsend_jobs WHERE state = 'ready' AND queue > :queue ORDER BY queue LIMIT 1", queue=names[-1])
        return names

    @resolved
    def claim(
        self,
        queues: Iterable[str],
        limit: int,
        token: str,
        run_id: int,
        owner: str | None = None,
        *,
        reserve: Iterable[tuple[Sequence[str], int]] = (),
        limit_of: Callable[[str], int | None] = lambda _key: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Job]:
        choice = _Choice(limit_of, owner, enough)
        wanted = choice.ids
        again = self.repeating  # what `enough` and `limit_of` ask forgets it
        if not (again and self._rows("SELECT id FROM asyncsend_jobs WHERE state = 'running' AND token = :token LIMIT 1", token=bytes.fromhex(token))):
            if self.aside and self.begins:
                from asyncsend.store.lines import look_again

                look_again(self, limit_of, int(token[:12], 16), owner)
            self.begins = False
            for names, share in reserve:
                most = min(limit, len(wanted) + share)
                for queue in names:
                    wanted += self._candidates(queue, most - len(wanted), choice)
            for queue in queues:
                wanted += self._candidates(queue, limit - len(wanted), choice)
                if len(wanted) >= limit:
                    break
        if wanted:
            # By primary key, with the state checked again: locks exactly these rows, under any isolation level, so no
            # producer's INSERT waits or deadlocks, and a server without SKIP LOCKED serves as well.
            self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'running', token = :token, run_id = :run_id WHERE id IN :ids AND state = 'ready'"
                f"{WHILE_OURS}",
                token=bytes.fromhex(token), run_id=run_id, ids=sorted(wanted), owner=owner,
            )  # fmt: skip
        # What carries the fresh token is ours, also when the reply of an earlier try was lost: then only the token says which. Else by primary
        # key: the index of the state is full of what jobs before these have left in it, until the server clears that away.
        chosen = "/*by key*/ WHERE id IN :ids AND" if wanted and not again else "WHERE"
        rows = self._rows(
            "SELECT id, uid, task, CASE WHEN LENGTH(payload) <= :inline THEN payload END, queue, priority, run_at, expires_at, max_attempts,"
            " timeout_seconds, attempts, crashes, created_at, CASE WHEN expires_at IS NULL THEN NULL ELSE NOW(6) END, batch_id,"
            f" order_key, concurrency_key, reason FROM asyncsend_jobs {chosen} state = 'running' AND token = :token",
            token=bytes.fromhex(token), inline=CLAIMED_PAYLOAD, ids=sorted(wanted),
        )  # fmt: skip
        if not rows:
            return []
        from asyncsend.store.jobs import claimed

        order = {job_id: position for position, job_id in enumerate(wanted)}
        return sorted((claimed(row, token, run_id) for row in rows), key=lambda job: order.get(job.id, -1))

    def _candidates(self, queue: str, limit: int, choice: _Choice) -> list[int]:
        """Ids of due jobs of one queue that may start, read without a lock: one short range per priority, the highest first."""
        ids: list[int] = []
        for priority in self._priorities(queue, "") if limit > 0 else ():
            ids += self._may_start(queue, priority, limit - len(ids), choice)
            if len(ids) >= limit:
                break
        return ids

    def _may_start(self, queue: str, priority: int, limit: int, choice: _Choice) -> list[int]:
        look = limit + len(choice.ids)
        while True:
            due = self._due(queue, "", priority, look)
            found = [one for one in due if one.id not in choice.ids] if choice.ids else due
            if not any(one.order_key or one.concurrency_key for one in found):
                return [one.id for one in found[:limit]]
            from asyncsend.store.lines import LOOK, Lines

            choice.lines = choice.lines or Lines(self, choice.limit_of, choice.owner)
            free, waiting, room = choice.lines.sort_out(found, limit)
            full = len(due) == look  # there may be more behind those that have to wait
            if len(free) < limit and full and look < LOOK:
                look = LOOK + len(choice.ids)
                continue
            if len(free) < limit and full:
                if choice.lines.stand_aside(waiting) and not choice.enough() and not free:
                    continue
            elif len(free) < limit and room and self.aside is not False and choice.lines.call(queue, room):
                continue
            choice.lines.choose(free)
            return [one.id for one in free]

    def _priorities(self, queue: str, lane: Any) -> Iterator[int]:
        """Those of the ready jobs, the highest first."""
        priority = 40000  # above every SMALLINT
        while rows := self._rows(
            "SELECT priority FROM asyncsend_jobs /*to claim*/ WHERE state = 'ready' AND queue = :queue AND lane = :lane AND priority < :priority ORDER BY priority DESC LIMIT 1",
            queue=queue, lane=lane, priority=priority,
        ):  # fmt: skip
            priority = rows[0][0]
            yield priority

    def _due(self, queue: str, lane: Any, priority: int, limit: int) -> list[Candidate]:
        rows = self._rows(
            "SELECT id, order_key, concurrency_key FROM asyncsend_jobs /*to claim*/ WHERE state = 'ready' AND queue = :queue AND lane = :lane AND priority = :priority"
            " AND (run_at IS NULL OR run_at <= NOW(6)) ORDER BY run_at, id LIMIT :limit",
            queue=queue, lane=lane, priority=priority, limit=limit,
        )  # fmt: skip
        return [Candidate(*row) for row in rows]

    def due(self, queue: str, lane: Any, limit: int) -> list[Candidate]:
        """The first due jobs of a lane, without a look at whether they may start."""
        found: list[Candidate] = []
        for priority in self._priorities(queue, lane):
            found += self._due(queue, lane, priority, limit - len(found))
            if len(found) >= limit:
                break
        return found

    @resolved
    def payload(self, job_id: int, token: str) -> str | None:
        rows = self._rows(
            "SELECT SUBSTR(payload, 1, 4194305) FROM asyncsend_jobs WHERE id = :id AND state = 'running' AND token = :token",
            id=job_id, token=bytes.fromhex(token),
        )  # fmt: skip
        return as_text(rows[0][0]) if rows else None

    @resolved
    def running(self, limit: int) -> list[Job]:
        rows = self._rows(
            "SELECT id, uid, task, token, run_id, attempts, crashes, started_at, queue, reason FROM asyncsend_jobs WHERE state = 'running' ORDER BY id LIMIT :limit",
            limit=limit,
        )
        from asyncsend.store.jobs import left_over

        return [left_over(row) for row in rows]

    @resolved
    def mark_started(self, job_id: int, token: str, hold: bool = True, owner: str | None = None) -> bool:
        return (
            self._write(
                "UPDATE asyncsend_jobs /*by key*/ SET started_at = NOW(6), reason = CASE WHEN :hold = 1 THEN 'started-once' ELSE reason END"
                " WHERE id = :id AND state = 'running' AND token = :token"
                f"{WHILE_OURS}",
                id=job_id, token=bytes.fromhex(token), hold=int(hold), owner=owner,
            )
            == 1
        )  # fmt: skip

    @resolved
    def settle(self, settlements: Sequence[Settlement], *, owner: str | None = None, rescue: bool = False) -> Settled:
        if not settlements:
            return Settled(0)
        try:
            try:
                with self._transaction():
                    return self._settle(settlements, owner, rescue, exactly=any(one.task is None for one in settlements))
            except PartlyWritten:
                with self._transaction():
                    return self._settle(settlements, owner, rescue, exactly=True)
        except (Duplicate, BadRow) as error:
            if len(settlements) > 1:  # one row must not keep the others from being written
                parts = [self.settle([settlement], owner=owner, rescue=rescue) for settlement in settlements]
                return Settled(
                    sum(part.accepted for part in parts), tuple(job_id for part in parts for job_id in part.late), tuple(one for part in parts for one in part.channels)
                )
            with self._transaction():
                return self._set_aside(settlements[0], owner, str(error))

    def _let_next(self, ids: Sequence[int], owner: str | None = None) -> None:
        if self.aside is not False:
            from asyncsend.store.lines import let_next

            let_next(self, ids, owner)

    def _set_aside(self, settlement: Settlement, owner: str | None, error: str) -> Settled:
        """Held, by the smallest UPDATE there is: what the outcome wanted to write cannot stand in this row."""
        words = f"the outcome ({settlement.outcome.verb}) cannot be written into this row ({error}): somebody changed it by hand; correct it, then `asyncsend release`"
        [settlement] = self._open_claims([settlement], rescue=False) or [settlement]
        matched = self._write(
            "UPDATE asyncsend_jobs /*by key*/ SET state = 'held', reason = 'bad-row', error = :error WHERE id = :id AND state = 'running' AND token = :token"
            f"{WHILE_OURS}",
            id=settlement.job_id, token=bytes.fromhex(settlement.token), owner=owner, error=words,
        )  # fmt: skip
        if not matched:
            return self._sort_out_late([settlement])
        aside = settlement._replace(outcome=hold("bad-row", words)._replace(seconds=settlement.outcome.seconds))
        self._record([aside])
        self._learn_suppressions([settlement], owner)
        self._count([aside], [])
        self._let_next([settlement.job_id], owner)
        if self.metered:
            self._used([settlement])
        return Settled(1, channels=self._hear([settlement.outcome], owner) if _teaches(settlement) else ())

    def _open_claims(self, settlements: Sequence[Settlement], rescue: bool) -> list[Settlement]:
        """Those whose claim still stands, with queue and task as the row has them; nobody else changes these rows before our COMMIT."""
        rows = self._rows(
            "SELECT id, token, queue, task FROM asyncsend_jobs /*by key*/ WHERE id IN :ids AND state = 'running' /*as it is now*/",
            ids=sorted(one.job_id for one in settlements),
        )
        there = {row[0]: row[1:] for row in rows}
        return [
            one._replace(queue=there[one.job_id][1], task=there[one.job_id][2])
            for one in settlements
            if one.job_id in there and (as_hex(there[one.job_id][0]) == one.token or (rescue and there[one.job_id][0] is None))
        ]

    def _settle(self, settlements: Sequence[Settlement], owner: str | None, rescue: bool, exactly: bool) -> Settled:
        """
        Write and count, in the caller's transaction. Counted is what these very statements change: a replay finds some of it written, and counted, before.

        PartlyWritten if a group was; with `exactly` it is asked first which claims still stand.
        """
        # Plain successes and releases go by the group, and so do those whose time has not come; everything that carries words of its own by itself.
        groups: dict[tuple[str, str, Outcome | None], list[Settlement]] = {}
        singles: list[Settlement] = []
        for settlement in self._open_claims(settlements, rescue) if exactly else settlements:
            kind = _group_of(settlement.outcome)
            if kind and not rescue:
                groups.setdefault((kind, settlement.token, settlement.outcome if kind == "snooze" else None), []).append(settlement)
            else:
                singles.append(settlement)
        written: list[Settlement] = []
        remarkable: list[Settlement] = []  # of which there is more to write than that they are done
        for (kind, token, outcome), group in sorted(groups.items(), key=lambda item: item[1][0].job_id):
            ids = [one.job_id for one in group]
            matched = self._put_off(outcome, token, ids, owner) if outcome else self._settle_group(kind, token, ids, owner)
            if matched == len(group):
                written += group
                remarkable += group if kind != "finish" else ()
            elif matched:
                raise PartlyWritten
        alone = [one for one in sorted(singles, key=lambda one: one.job_id) if self._settle_one(one, owner, rescue)]
        written += alone
        remarkable += alone
        settled = Settled(len(written)) if len(written) == len(settlements) else self._sort_out_late(settlements, rescue=rescue)
        if told := [one for one in remarkable if is_told(one.outcome)]:
            self._record(told)
        there = {one.job_id for one in remarkable}
        heard = [one.outcome for one in settlements if one.job_id in there and _teaches(one)]  # in the order in which it happened
        channels = self._hear(heard, owner) if heard else ()
        if suppressing := [one for one in remarkable if one.outcome.suppress]:
            self._learn_suppressions(suppressing, owner)
        # Late ones are not fenced: that a run came too late is what they say. Not in a repeat, whose first try may have counted them.
        late = {} if self.repeating and not written else dict.fromkeys(settled.late, True)
        self._count(written, [one for one in settlements if one.job_id in late and one.task is not None])
        if written:
            self._let_next([one.job_id for one in written], owner)
            if self.metered:
                self._used(written)
        return settled._replace(channels=channels)

    def _settle_group(self, kind: str, token: str, ids: list[int], owner: str | None) -> int:
        if kind == "finish":
            return self._write(
                # The slot is in three indexes; where no key of the job is in them, changing it is a quarter of what the server does here.
                "UPDATE asyncsend_jobs /*by key*/ SET state = 'done', attempts = attempts + 1, finished_at = NOW(6),"
                " unique_slot = CASE WHEN unique_key IS NULL AND order_key IS NULL AND batch_id IS NULL THEN unique_slot END,"
                " reason = NULL, error = NULL WHERE id IN :ids AND state = 'running' AND token = :token"
                f"{WHILE_OURS}",
                ids=sorted(ids), token=bytes.fromhex(token), owner=owner,
            )  # fmt: skip
        return self._write(
            "UPDATE asyncsend_jobs /*by key*/ SET state = 'ready', started_at = NULL, reason = CASE WHEN reason = 'started-once' THEN NULL ELSE reason END"
            " WHERE id IN :ids AND state = 'running' AND token = :token"
            f"{WHILE_OURS}",
            ids=sorted(ids), token=bytes.fromhex(token), owner=owner,
        )  # fmt: skip

    def _put_off(self, outcome: Outcome, token: str, ids: list[int], owner: str | None) -> int:
        """Those that were never begun, for their time had not come. What waits for a channel comes back in another order: whoever stopped it is not followed by its like again."""
        from asyncsend.channels import BREAKER, REFUSED_ONCE

        return self._write(
            "UPDATE asyncsend_jobs /*by key*/ SET state = 'ready', run_at = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :delay + :mixed * ((id % 65536 * 40503) % 65536) / 65536), started_at = NULL,"
            " reason = CASE WHEN reason = :once THEN reason ELSE :reason END, error = :error WHERE id IN :ids AND state = 'running' AND token = :token"
            f"{WHILE_OURS}",
            ids=sorted(ids), token=bytes.fromhex(token), delay=outcome.delay, reason=outcome.reason, error=storable(outcome.error), once=REFUSED_ONCE, owner=owner,
            mixed=min(MIXED, outcome.delay / 10) if outcome.reason == BREAKER else 0.0,
        )  # fmt: skip

    def _settle_one(self, settlement: Settlement, owner: str | None, rescue: bool) -> int:
        outcome = settlement.outcome
        finished = outcome.state in FINISHED
        return self._write(
            "UPDATE asyncsend_jobs /*by key*/ SET state = :state, attempts = attempts + :charged, crashes = crashes + :crashed,"
            " run_at = CASE WHEN :move = 1 THEN FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :delay) ELSE run_at END,"
            " started_at = CASE WHEN :state = 'ready' THEN NULL ELSE started_at END,"
            " finished_at = CASE WHEN :finished = 1 THEN NOW(6) ELSE NULL END, unique_slot = CASE WHEN :finished = 1 THEN NULL ELSE 0 END,"
            " reason = :reason, error = :error, result = :result, token = CASE WHEN :rescue = 1 THEN NULL ELSE token END"
            " WHERE id = :id AND state = 'running' AND (token = :token OR (:rescue = 1 AND token IS NULL))"
            f"{WHILE_OURS}",
            id=settlement.job_id, token=bytes.fromhex(settlement.token), state=outcome.state.value, charged=int(outcome.charged),
            crashed=int(outcome.crashed), move=int(outcome.state is State.READY and outcome.verb != "release"), delay=outcome.delay,
            finished=int(finished), reason=outcome.reason, error=storable(outcome.error), result=storable(outcome.result), rescue=int(rescue), owner=owner,
        )  # fmt: skip

    def _sort_out_late(self, settlements: Sequence[Settlement], *, rescue: bool = False) -> Settled:
        """
        Rows our token still marks, in the state their outcome wanted, were written by an earlier try of this very call; the others are late.

        So is one that somebody cancelled by hand while it ran: its token is still there, but the outcome is not what stands in the row.
        """
        by_id = {settlement.job_id: settlement for settlement in settlements}
        rows = self._rows("SELECT id, state, token, reason FROM asyncsend_jobs WHERE id IN :ids", ids=sorted(by_id))
        ours = {
            job_id
            for job_id, state, token, reason in rows
            if (as_hex(token) == by_id[job_id].token or (rescue and token is None))
            and (state == by_id[job_id].outcome.state or (state == State.HELD and as_text(reason) == "bad-row"))
        }
        late = tuple(job_id for job_id in sorted(by_id) if job_id not in ours)
        return Settled(len(by_id) - len(late), late)


def _teaches(settlement: Settlement) -> bool:
    return settlement.outcome.channel is not None or settlement.outcome.gone is not None


def _group_of(outcome: Outcome) -> str | None:
    if outcome.verb == "finish" and outcome.result is None and outcome.channel is None and outcome.gone is None and outcome.suppress is None:
        return "finish"
    if outcome.verb == "release" and not outcome.crashed and outcome.reason is None:
        return "release"
    if outcome.verb == "snooze" and not is_told(outcome):
        return "snooze"
    return None
