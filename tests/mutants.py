"""
The product with one rule of the protocol taken out: each of these must be noticed by the simulation or the state machine.

A mutant replaces a piece of text in the source of a function, for as long as its context lasts; it fails if the text is not there.
"""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from asyncsend import run, status, workers
from asyncsend.store.lines import Lines
from asyncsend.store.runs import RunStatements
from asyncsend.store.sql import SqlStore

_SAME_TOKEN = "and (as_hex(there[one.job_id][0]) == one.token or (rescue and there[one.job_id][0] is None))"  # of what a replay may write
_FENCE_OF_ONE = "(token = :token OR (:rescue = 1 AND token IS NULL))"


@contextmanager
def changed(owner, name: str, *changes: tuple[str, str]):
    """The function `name` of a class or a module with these texts replaced."""
    function = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert old in source, f"{name} holds no {old!r}: correct the mutant"
        source = source.replace(old, new)
    module = sys.modules[function.__module__]
    made: dict = {}
    flags = __future__.annotations.compiler_flag
    exec(compile(source, f"<mutant of {name}>", "exec", flags), vars(module), made)
    with patch.object(owner, name, made[name]):
        yield


# name: (owner, function, (old, new), …), …
MUTANTS = {
    "no-fence": (
        (SqlStore, "_settle_group", (" AND token = :token", "")),
        (SqlStore, "_settle_one", (_FENCE_OF_ONE, "1 = 1")),
        (SqlStore, "_open_claims", (_SAME_TOKEN, "")),
    ),
    "settle-without-owner": (
        (SqlStore, "_settle_group", ('f"{WHILE_OURS}"', '""')),
        (SqlStore, "_settle_one", ('f"{WHILE_OURS}"', '""')),
    ),
    "claim-without-owner": ((SqlStore, "claim", ('f"{WHILE_OURS}"', '""')),),
    "claim-without-state": ((SqlStore, "claim", ("IN :ids AND state = 'ready'\"", 'IN :ids"')),),
    "settle-without-state": (
        (SqlStore, "_settle_group", (" AND state = 'running'", "")),
        (SqlStore, "_settle_one", (" AND state = 'running'", "")),
        (SqlStore, "_open_claims", (" AND state = 'running'", "")),
    ),
    "charge-at-claim": (
        (SqlStore, "claim", ("SET state = 'running',", "SET state = 'running', attempts = attempts + 1,")),
        (SqlStore, "_settle_group", ("attempts = attempts + 1, ", "")),
        (SqlStore, "_settle_one", ("attempts = attempts + :charged", "attempts = attempts + 0 * :charged")),
    ),
    "settle-by-id-only": (
        (SqlStore, "_settle_group", (" AND state = 'running' AND token = :token", ""), ('f"{WHILE_OURS}"', '""')),
        (SqlStore, "_settle_one", (f" AND state = 'running' AND {_FENCE_OF_ONE}", ""), ('f"{WHILE_OURS}"', '""')),
        (SqlStore, "_open_claims", (_SAME_TOKEN, ""), (" AND state = 'running'", "")),
    ),
    "lease-not-renewed": ((RunStatements, "beat", (", lease_until = FROM_UNIXTIME(UNIX_TIMESTAMP(NOW(6)) + :lease)", "")),),
    "rescue-of-a-living-run": (
        (status, "take", ("if seen.alive and seen.lock_id != lock_id:", "if False:")),
        (RunStatements, "take", ("lease_until < NOW(6)", "1 = 1")),
    ),
    "take-without-generation": (
        (RunStatements, "take", ("generation = :generation", "1 = 1"), ("owner IS NULL OR lease_until < NOW(6) OR lock_id = :lock_id", "1 = 1")),
    ),
    "journal-cleared-before-the-settle": (
        (run._Minute, "_settle", ("for start in", "if self.journal:\n        self.journal.clear()\n    for start in")),
    ),
    "journal-not-replayed": ((run._Minute, "recover", ("replayed = [", "replayed = [] and [")),),
    "start-mark-not-committed": ((SqlStore, "mark_started", ("self._write(", "1 or self._write(")),),
    "crash-uncharged": ((run._Minute, "_rescue", ("in started", "in ()")),),
    "order-not-asked": ((Lines, "sort_out", ("one.id in behind or ", "")),),
    "limit-not-counted": ((Lines, "sort_out", ("running[key] >= most", "False")),),
    "effect-after-the-lease": ((workers.Workers, "called_back", (" or boot_clock() >= valid_until", "")),),
}  # fmt: skip


@contextmanager
def mutant(name: str):
    with ExitStack() as stack:
        for owner, function, *changes in MUTANTS[name]:
            stack.enter_context(changed(owner, function, *changes))
        yield
