"""
What a history of jobs, effects and deaths says about the promises. Pure: no database, no process, no clock.

The words are those of Jepsen's total-queue checker (jepsen.checker, `total-queue`) where it has them: lost, unexpected, duplicated,
recovered. The others are ours: a repeat is explained only if it was the last thing its process did before something killed or
froze that process; whatever was finished before, the journal knew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

WAKING = 5.0  # seconds in which a frozen run, woken up, finds out that it is late and ends
SLACK = 0.03  # seconds between the death of a run and that of its workers, and between an effect and its note in the journal


class Job(NamedTuple):
    """What a producer asked for."""

    task: str
    seconds: float = 0.0
    accepted: bool | None = True  # COMMIT returned; None: its reply was lost


class Event(NamedTuple):
    """Something a task or a sink saw; `process` is the worker's pid, with @ and when it was born where a witness knows that."""

    key: str
    process: str
    at: float

    @property
    def belongs(self) -> float:
        """A moment of the run that this was an effect of: a busy sink writes down late what it took, so it is when its process was born."""
        return float(self.process.partition("@")[2] or self.at)


class Death(NamedTuple):
    """What befell a run or a worker. `most` is how many jobs it may leave in doubt; a frozen run lives on at `until`, after another took over."""

    kind: str
    at: float
    most: int = 1
    until: float | None = None
    noted: frozenset[int] = frozenset()  # ids of the jobs whose results stood in a frozen run's journal, which the other host cannot read
    processes: frozenset[str] = frozenset()  # who died or froze; empty: every process of the run
    since: float = 0.0  # when the run was started: what an earlier one did, which ended in order, is not this death's doing

    def may_explain(self, first: Event, second: Event) -> bool:
        """Whether this may be what a repeat is due to; of several, the first is."""
        if self.until is not None:
            return any(event.process in self.processes and event.at <= self.until + WAKING for event in (first, second))
        return first.process in self.processes if self.processes else self.since <= first.belongs <= self.at + SLACK


class Row(NamedTuple):
    """How a job stands in the table at the end."""

    state: str
    attempts: int = 0
    crashes: int = 0
    reason: str | None = None
    id: int = 0


@dataclass
class History:
    """Everything that happened, each list from its own witness."""

    jobs: dict[str, Job] = field(default_factory=dict)
    starts: list[Event] = field(default_factory=list)  # a task's first line
    effects: list[Event] = field(default_factory=list)  # a task's last line; a mail or request the sink accepted
    deaths: list[Death] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    crashes_charged: list[tuple[int, int]] = field(default_factory=list)  # of each recovery: how many, and how many at most


@dataclass
class Verdict:
    """The figures. Each of `BROKEN` must be 0."""

    jobs: int = 0
    acknowledged: int = 0
    effects: int = 0
    lost: int = 0  # accepted, and neither an effect nor a row that says why not
    stuck: int = 0  # ready or running after the drain
    unexpected: int = 0  # an effect of a job nobody asked for
    recovered: int = 0  # its COMMIT's reply was lost, and it had its effect
    duplicated: int = 0  # effects beyond the first, over all jobs
    most_duplicates_of_one_job: int = 0
    by_kills: int = 0  # repeats due to a killed run
    by_kills_1ms: int = 0  # of them, those of tasks that take 1 ms or longer and have their effect at their end
    unexplained: int = 0  # repeats that no death explains
    beyond_in_flight: int = 0  # repeats of one death beyond the jobs that were in flight
    after_takeover: int = 0  # effects of frozen runs after they woke up, beyond the jobs they were in the middle of
    unsettled_at_takeover: int = 0  # repeats of what a frozen run had finished and not yet written: it is in the other host's journal
    overlap: int = 0  # a job begun again before its first execution ended
    at_most_once_repeats: int = 0
    held: int = 0
    dead: int = 0
    charged_wrongly: int = 0  # begun more often than charged; or more crashes charged at a recovery than jobs were in flight
    uncharged_starts: int = 0
    by_death: dict[str, int] = field(default_factory=dict)  # repeats, by what they are due to
    remarks: list[str] = field(default_factory=list)  # what to look at when a figure is not 0

    BROKEN = ("lost", "stuck", "unexpected", "unexplained", "beyond_in_flight", "after_takeover", "overlap", "at_most_once_repeats", "charged_wrongly")

    def broken(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.BROKEN if getattr(self, name)}


def check(history: History) -> Verdict:
    """The verdict over a history that was drained and read to its end."""
    verdict = Verdict(jobs=len(history.jobs), effects=len(history.effects))
    seen = defaultdict(list)
    for event in sorted(history.effects, key=lambda one: one.at):
        seen[event.key].append(event)
    verdict.unexpected = sum(1 for key in seen if key not in history.jobs or history.jobs[key].accepted is False)
    for key, job in history.jobs.items():
        row, effects = history.rows.get(key), len(seen[key])
        verdict.acknowledged += job.accepted is True
        verdict.recovered += job.accepted is None and effects > 0
        verdict.held += row is not None and row.state == "held"
        verdict.dead += row is not None and row.state == "dead"
        verdict.stuck += row is not None and row.state in ("ready", "running")
        verdict.lost += job.accepted is True and (row is None or (effects == 0 and row.state == "done"))
        verdict.duplicated += max(0, effects - 1)
        verdict.most_duplicates_of_one_job = max(verdict.most_duplicates_of_one_job, effects - 1)
        verdict.at_most_once_repeats += max(0, effects - 1) if job.task == "once" else 0
    _explain(history, seen, verdict)
    _look_for_overlap(history, verdict)
    _look_at_charges(history, verdict)
    return verdict


def _explain(history: History, seen: dict[str, list[Event]], verdict: Verdict) -> None:
    last: dict[str, Event] = {}
    for event in sorted(history.effects, key=lambda one: one.at):
        last[event.process] = event
    deaths = sorted(history.deaths, key=lambda one: one.at)
    blamed: Counter[int] = Counter()
    which: dict[int, list[str]] = defaultdict(list)
    for events in seen.values():
        for first, second in pairwise(events):
            position = next((number for number, death in enumerate(deaths) if death.may_explain(first, second)), None)
            death = deaths[position] if position is not None else None
            said = f"{first.key} by {first.process} at {first.at:.4f}, again by {second.process} at {second.at:.4f}"
            unexplained = verdict.unexplained
            if position is not None:
                which[position].append(said)
            if death is None or position is None:
                verdict.unexplained += 1
            elif death.until is None:
                # Its process went on after it? Then the journal knew that it was finished.
                is_last = last[first.process] is first
                verdict.unexplained += not is_last
                blamed[position] += is_last
                verdict.by_kills += is_last and not death.processes
                job = history.jobs.get(first.key)
                verdict.by_kills_1ms += is_last and not death.processes and job is not None and job.task == "mark" and job.seconds >= 0.001
            elif first.process in death.processes or second.process in death.processes:
                noted = history.rows[first.key].id in death.noted
                since = death.at if noted else death.at - SLACK  # frozen between an effect and its note
                in_the_middle = any(event.process in death.processes and event.at > since for event in (first, second))
                blamed[position] += in_the_middle
                verdict.unsettled_at_takeover += not in_the_middle and noted
                verdict.unexplained += not in_the_middle and not noted
            else:
                verdict.unexplained += 1
            if verdict.unexplained > unexplained:
                verdict.remarks.append(f"unexplained: {said}; {death}")
    for position, number in blamed.items():
        verdict.by_death[deaths[position].kind] = verdict.by_death.get(deaths[position].kind, 0) + number
        verdict.beyond_in_flight += max(0, number - deaths[position].most)
        if number > deaths[position].most:
            verdict.remarks.append(f"beyond in flight: {deaths[position]}: {'; '.join(which[position])}")
    for death in deaths:
        if death.until is not None:
            woken = sum(1 for event in history.effects if event.process in death.processes and death.until - SLACK <= event.at <= death.until + WAKING)
            verdict.after_takeover += max(0, woken - death.most)


def _look_for_overlap(history: History, verdict: Verdict) -> None:
    """Only of tasks, which say when they begin: a job that began again, in another process, before its first execution had its effect."""
    begun, ended = defaultdict(list), defaultdict(list)
    for event in sorted(history.starts, key=lambda one: one.at):
        begun[event.key].append(event)
    for event in sorted(history.effects, key=lambda one: one.at):
        ended[event.key, event.process].append(event.at)
    frozen = _frozen(history)
    for key, events in begun.items():
        for first, second in pairwise(events):
            # Of that very execution: one that failed may come to the same process again.
            again = min((one.at for one in events if one.process == first.process and one.at > first.at), default=float("inf"))
            end = next((at for at in ended[key, first.process] if first.at <= at < again), None)
            if end is not None and second.at < end and first.process != second.process and first.process not in frozen:
                verdict.overlap += 1
                verdict.remarks.append(f"overlap: {key} begun by {first.process} at {first.at:.4f}, ended at {end:.4f}, begun by {second.process} at {second.at:.4f}")


def _look_at_charges(history: History, verdict: Verdict) -> None:
    frozen = _frozen(history)  # the other host cannot know what they had begun
    begun = Counter(event.key for event in history.starts if event.process not in frozen)
    for key, times in begun.items():
        row = history.rows.get(key)
        if row is not None and row.state != "cancelled":
            verdict.uncharged_starts += max(0, times - row.attempts - row.crashes - (row.state == "held"))
    given_up = [key for key, row in history.rows.items() if not _rightly(row, history.jobs.get(key))]
    verdict.remarks += [f"given up: {key} {history.rows[key]}" for key in given_up]
    verdict.charged_wrongly = len(given_up) + verdict.uncharged_starts + sum(max(0, charged - most) for charged, most in history.crashes_charged)


def _rightly(row: Row, job: Job | None) -> bool:
    """Whether a job may stand like this: dead only of three deaths, held only if in doubt and at most once; nobody cancels any."""
    if row.state == "dead":
        return (row.reason, row.crashes) == ("crash-loop", 3)
    if row.state == "held":
        return row.reason == "unknown" and job is not None and job.task == "once"
    return row.state != "cancelled"


def _frozen(history: History) -> frozenset[str]:
    """Who lived on after another host took over; a killed worker did not, and what it had begun stands in the journal."""
    return frozenset().union(*(death.processes for death in history.deaths if death.until is not None))
