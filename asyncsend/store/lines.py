"""
Every statement about order keys and concurrency keys: who may start, who stands aside, and who steps forward.

What decides is asked anew at each claim: the running jobs, and the unfinished ones before a job of the same order key. A lane
only keeps those that have to wait out of the way, so that no claim walks past a million of them: `o` and the order key, or
`c` and the concurrency key. Whoever leaves a line lets the next of its lane step forward, in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from asyncsend.store.connection import WHILE_OURS, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncsend.store.sql import Candidate, SqlStore

LOOK = 500  # candidates looked at in one go, once some of them have to wait
LANES = 100  # lanes of a queue that a run looks at when it begins; from a random place on, where there are more


class Lines:
    """Who of the candidates of one claim may start. `limit_of` says how many of a concurrency key may; None: as many as there are."""

    def __init__(self, store: SqlStore, limit_of: Callable[[str], int | None], owner: str | None) -> None:
        self.store, self.limit_of, self.owner = store, limit_of, owner
        self.orders: set[Any] = set()  # keys of the jobs this claim has chosen
        self.chosen: Counter[Any] = Counter()  # and how many of each concurrency key
        self.called: set[tuple[str, Any]] = set()  # queues and concurrency keys whose lane was told that there is room

    def sort_out(self, found: Sequence[Candidate], limit: int) -> tuple[list[Candidate], dict[str, list[int]], dict[Any, int]]:
        """At most `limit` that may start; the ids of those that may not, by what they wait for; how many more each limited concurrency key takes."""
        orders, running, behind = self._asked([one.id for one in found if one.order_key])
        orders |= self.orders
        running += self.chosen
        free: list[Candidate] = []
        waiting: dict[str, list[int]] = {"o": [], "c": []}
        limits: dict[Any, int] = {}
        for one in found:
            key = one.concurrency_key
            most = self.limit_of(as_text(key) or "") if key else None
            if most is not None:
                limits[key] = most
            if one.order_key and (one.id in behind or one.order_key in orders):
                waiting["o"].append(one.id)
            elif most is not None and running[key] >= most:
                waiting["c"].append(one.id)
            elif len(free) < limit:
                free.append(one)
                running[key] += 1
                orders.add(one.order_key)
        return free, waiting, {key: most - running[key] for key, most in limits.items() if most > running[key]}

    def choose(self, free: Iterable[Candidate]) -> None:
        """These are claimed."""
        for one in free:
            self.orders.add(one.order_key)
            self.chosen[one.concurrency_key] += 1

    def _asked(self, ids: list[int]) -> tuple[set[Any], Counter[Any], set[int]]:
        """The order keys of what is running, how many of each concurrency key are, and which of `ids` have an unfinished job of their order key before them."""
        # Not EXISTS: MySQL 8 and later make a join of that, and read every job before.
        rows = self.store._rows(
            "SELECT 0, order_key, concurrency_key FROM asyncsend_jobs /*to claim*/ WHERE state = 'running' AND (order_key > '' OR concurrency_key > '')"
            " UNION ALL SELECT one.id, NULL, NULL FROM asyncsend_jobs one WHERE one.id IN :ids AND (SELECT earlier.id FROM asyncsend_jobs earlier /*in order*/"
            " WHERE earlier.unique_slot = 0 AND earlier.order_key = one.order_key AND earlier.id < one.id AND earlier.state IN ('ready', 'running', 'held') LIMIT 1) > 0",
            ids=ids or [0],
        )  # fmt: skip
        return {row[1] for row in rows if row[1]}, Counter(row[2] for row in rows if row[2]), {row[0] for row in rows if row[0]}

    def call(self, queue: str, room: dict[Any, int]) -> int:
        """Where a limited key would take more, those of its lane in this queue step forward, once a claim; how many."""
        lanes = {_lane("c", key): more for key, more in room.items() if (queue, key) not in self.called}
        self.called |= {(queue, key) for key in room}
        return step_forward(self.store, lanes, self.owner, [queue]) if lanes else 0

    def stand_aside(self, waiting: dict[str, list[int]]) -> int:
        """Out of the way of the claim, each into the lane of what it waits for; how many, none if the status row is no longer ours."""
        moved = 0
        if not self.store.aside:
            # Before the first, so that a run that dies between the two leaves a mark too many, never one too few.
            self.store._write("UPDATE asyncsend_status SET aside = 1 WHERE owner = :owner OR :owner IS NULL", owner=self.owner)
            self.store.aside = True
        if waiting["o"]:
            moved += self.store._write(
                "UPDATE asyncsend_jobs /*by key*/ SET lane = CONCAT('o', order_key) WHERE id IN :ids AND state = 'ready'"
                f"{WHILE_OURS}",
                ids=sorted(waiting["o"]), owner=self.owner,
            )  # fmt: skip
        if waiting["c"]:
            moved += self.store._write(
                "UPDATE asyncsend_jobs /*by key*/ SET lane = CONCAT('c', concurrency_key) WHERE id IN :ids AND state = 'ready'"
                f"{WHILE_OURS}",
                ids=sorted(waiting["c"]), owner=self.owner,
            )  # fmt: skip
        return moved


def step_forward(store: SqlStore, lanes: dict[Any, int], owner: str | None, queues: Sequence[str]) -> int:
    """The first of each of these lanes (of a concurrency key so many of each queue) is a candidate again; how many there were."""
    ids: list[int] = []
    for lane, most in lanes.items():
        if _is_order(lane):
            first = store._rows(
                "SELECT id, lane FROM asyncsend_jobs /*in order*/ WHERE unique_slot = 0 AND order_key = :order_key AND state = 'ready' ORDER BY id LIMIT 1", order_key=lane[1:]
            )
            ids += [row[0] for row in first if row[1]]
        else:
            ids += [one.id for queue in queues for one in store.due(queue, lane, most)]
    if not ids:
        return 0
    return store._write(f"UPDATE asyncsend_jobs /*by key*/ SET lane = '' WHERE id IN :ids AND state = 'ready' AND lane > ''{WHILE_OURS}", ids=sorted(ids), owner=owner)


def let_next(store: SqlStore, ids: Sequence[int], owner: str | None = None) -> None:
    """The next one behind each of these jobs, which were just settled or cancelled, in the caller's transaction."""
    rows = store._rows(
        "SELECT order_key, concurrency_key, COUNT(*) FROM asyncsend_jobs /*by key*/ WHERE id IN :ids AND (order_key > '' OR concurrency_key > '') GROUP BY order_key, concurrency_key",
        ids=sorted(ids),
    )
    lanes: Counter[Any] = Counter()
    for order_key, concurrency_key, jobs in rows:
        for letter, key in (("o", order_key), ("c", concurrency_key)):
            if key:
                lanes[_lane(letter, key)] += jobs
    if lanes:
        step_forward(store, lanes, owner, [] if all(map(_is_order, lanes)) else store.queues_now())


def look_again(store: SqlStore, limit_of: Callable[[str], int | None], place: int, owner: str | None) -> None:
    """What somebody changed by hand, or by another limit: the first ones of the lanes step forward, and are judged anew."""
    newest = store._rows("SELECT MAX(id) FROM asyncsend_jobs")[0][0] or 0
    somewhere = store._rows("SELECT lane FROM asyncsend_jobs /*by key*/ WHERE id >= :id ORDER BY id LIMIT 1", id=place % (newest + 1))
    queues, lanes = store.queues_now(), {}
    for queue in queues:
        for first in (*(row[0] for row in somewhere if row[0]), ""):
            after = first
            for _ in range(LANES):
                rows = store._rows(
                    "SELECT lane FROM asyncsend_jobs /*to claim*/ WHERE state = 'ready' AND queue = :queue AND lane > :lane ORDER BY lane LIMIT 1", queue=queue, lane=after
                )
                if not rows:
                    break
                after = rows[0][0]
                most = limit_of(as_text(after[1:]) or "")
                lanes[after] = LOOK if most is None else most
    if lanes:
        step_forward(store, lanes, owner, queues)
    else:
        store._write("UPDATE asyncsend_status SET aside = 0 WHERE owner = :owner OR :owner IS NULL", owner=owner)
        store.aside = False


def _is_order(lane: Any) -> bool:
    return lane[:1] in ("o", b"o")


def _lane(letter: str, key: Any) -> Any:
    return letter.encode() + key if isinstance(key, bytes) else letter + key
