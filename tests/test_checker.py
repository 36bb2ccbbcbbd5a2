"""The torture's checker finds what it is there to find: each sentence is a history with one fault in it, beside one without."""

import pytest
from checker import Death, Event, History, Job, Row, check

KILL = Death("kill-run", 10.0)


def history(*effects, jobs=None, rows=None, deaths=(), starts=(), **others) -> History:
    """Job `a`, a task of 2 ms, accepted and done; effects are (key, process, at)."""
    made = [Event(*effect) for effect in effects]
    return History(jobs or {"a": Job("mark", 0.002)}, [Event(*start) for start in starts], made, list(deaths), rows or {"a": Row("done", 1)}, **others)


def test_a_history_without_a_fault_breaks_nothing():
    verdict = check(history(("a", "p1", 1.0), starts=[("a", "p1", 0.9)]))
    assert verdict.broken() == {}
    assert (verdict.jobs, verdict.acknowledged, verdict.effects, verdict.duplicated) == (1, 1, 1, 0)


@pytest.mark.parametrize("rows", [{}, {"a": Row("done", 1)}])
def test_an_accepted_job_without_effect_or_row_is_lost(rows):
    made = history(rows={"b": Row("done")}, jobs={"a": Job("mark")})
    made.rows = rows
    assert check(made).broken() == {"lost": 1}


@pytest.mark.parametrize(("task", "row"), [("mark", Row("dead", 0, 3, "crash-loop")), ("once", Row("held", 1, 0, "unknown"))])
def test_a_job_that_says_why_it_did_not_go_is_not_lost(task, row):
    assert check(history(jobs={"a": Job(task)}, rows={"a": row})).broken() == {}


@pytest.mark.parametrize(("task", "row"), [("mark", Row("held", 1, 0, "unknown")), ("once", Row("held", 0, 0, "unknown-task")), ("mark", Row("cancelled"))])
def test_a_job_that_is_held_or_cancelled_for_no_good_reason_was_charged_wrongly(task, row):
    assert check(history(jobs={"a": Job(task)}, rows={"a": row})).broken() == {"charged_wrongly": 1}


def test_a_job_that_is_dead_of_anything_but_three_deaths_was_charged_wrongly():
    assert check(history(rows={"a": Row("dead", 0, 2, "crash-loop")})).broken() == {"charged_wrongly": 1}
    assert check(history(rows={"a": Row("dead", 5, 0, "max-attempts")})).broken() == {"charged_wrongly": 1}


def test_a_job_whose_commit_was_never_answered_may_be_there_or_not():
    assert check(history(jobs={"a": Job("mark", accepted=None)}, rows={"b": Row("done")})).broken() == {}
    assert check(history(("a", "p1", 1.0), jobs={"a": Job("mark", accepted=None)})).recovered == 1


def test_an_effect_nobody_asked_for_is_unexpected():
    assert check(history(("a", "p1", 1.0), ("ghost", "p1", 2.0))).broken() == {"unexpected": 1}
    assert check(history(("a", "p1", 1.0), jobs={"a": Job("mark", accepted=False)})).broken() == {"unexpected": 1}


@pytest.mark.parametrize("state", ["ready", "running"])
def test_a_job_that_is_not_finished_after_the_drain_is_stuck(state):
    assert check(history(("a", "p1", 1.0), rows={"a": Row(state, 1)})).broken() == {"stuck": 1}


def test_a_repeat_without_a_death_is_unexplained():
    verdict = check(history(("a", "p1", 1.0), ("a", "p2", 2.0), rows={"a": Row("done", 2)}))
    assert verdict.broken() == {"unexplained": 1}
    assert (verdict.duplicated, verdict.most_duplicates_of_one_job) == (1, 1)


def test_a_repeat_of_the_last_thing_a_killed_process_did_is_explained():
    verdict = check(history(("a", "p1", 9.9), ("a", "p2", 11.0), deaths=[KILL]))
    assert verdict.broken() == {}
    assert (verdict.duplicated, verdict.by_kills, verdict.by_kills_1ms, verdict.by_death) == (1, 1, 1, {"kill-run": 1})


def test_a_repeat_of_something_a_killed_process_had_gone_on_from_is_unexplained():
    jobs, rows = {"a": Job("mark"), "b": Job("mark")}, {"a": Row("done", 2), "b": Row("done", 1)}
    assert check(history(("a", "p1", 9.8), ("b", "p1", 9.9), ("a", "p2", 11.0), jobs=jobs, rows=rows, deaths=[KILL])).broken() == {"unexplained": 1}


def test_a_repeat_of_what_was_done_after_the_only_death_is_unexplained():
    assert check(history(("a", "p1", 10.5), ("a", "p2", 11.0), deaths=[KILL])).broken() == {"unexplained": 1}


def test_a_repeat_of_what_a_run_did_that_ended_in_order_is_not_explained_by_the_death_of_a_later_one():
    assert check(history(("a", "p1", 8.0), ("a", "p2", 11.0), deaths=[KILL._replace(since=9.0)])).broken() == {"unexplained": 1}
    assert check(history(("a", "p1", 8.0), ("a", "p2", 11.0), deaths=[KILL._replace(since=7.0)])).broken() == {}


def test_a_mail_that_a_busy_sink_wrote_down_late_belongs_to_the_run_whose_worker_sent_it():
    run = Death("kill-run", 10.0, since=8.0)
    assert check(history(("a", "7@8.5", 10.4), ("a", "9@11.0", 11.5), deaths=[run])).broken() == {}
    assert check(history(("a", "7@7.5", 10.0), ("a", "9@11.0", 11.5), deaths=[run])).broken() == {"unexplained": 1}
    assert check(history(("a", "7@10.5", 10.6), ("a", "9@11.0", 11.5), deaths=[run])).broken() == {"unexplained": 1}


def test_more_repeats_than_were_in_flight_are_named_also_where_each_alone_is_explained():
    jobs, rows = {"a": Job("mark"), "b": Job("mark")}, {"a": Row("done", 1), "b": Row("done", 1)}
    twice = [("a", "p1", 9.8), ("b", "p2", 9.9), ("a", "p3", 11.0), ("b", "p3", 11.1)]
    assert check(history(*twice, jobs=jobs, rows=rows, deaths=[KILL])).broken() == {"beyond_in_flight": 1}
    assert check(history(*twice, jobs=jobs, rows=rows, deaths=[KILL._replace(most=2)])).broken() == {}


def test_a_repeat_of_an_at_most_once_job_is_named_also_where_a_death_explains_it():
    assert check(history(("a", "p1", 9.9), ("a", "p2", 11.0), jobs={"a": Job("once")}, deaths=[KILL])).broken() == {"at_most_once_repeats": 1}


def test_the_death_of_one_worker_explains_nothing_that_another_did():
    death = Death("kill-worker", 10.0, processes=frozenset({"p1"}))
    assert check(history(("a", "p1", 9.9), ("a", "p2", 11.0), deaths=[death])).broken() == {}
    assert check(history(("a", "p3", 9.9), ("a", "p2", 11.0), deaths=[death])).broken() == {"unexplained": 1}


FREEZE = Death("freeze", 10.0, 1, 12.0, frozenset({7}), frozenset({"p1"}))


def test_what_stood_in_a_frozen_run_s_journal_may_be_repeated_and_no_more():
    effects = [("a", "p1", 9.8), ("a", "p2", 11.5)]
    late = check(history(*effects, deaths=[FREEZE], rows={"a": Row("done", 1, id=7)}))
    assert (late.broken(), late.unsettled_at_takeover) == ({}, 1)
    assert check(history(*effects, deaths=[FREEZE], rows={"a": Row("done", 1, id=8)})).broken() == {"unexplained": 1}


def test_a_job_frozen_between_its_effect_and_its_note_was_in_flight_and_a_second_one_was_not():
    rows = {"a": Row("done", 1, id=8), "b": Row("done", 1, id=9)}
    effects = [("a", "p1", 9.999), ("a", "p2", 11.5)]
    assert check(history(*effects, deaths=[FREEZE], rows=rows)).broken() == {}
    both = [*effects, ("b", "p1", 9.998), ("b", "p2", 11.6)]
    assert check(history(*both, jobs={"a": Job("mark"), "b": Job("mark")}, deaths=[FREEZE], rows=rows)).broken() == {"beyond_in_flight": 1}


def test_a_frozen_run_may_end_what_it_was_in_the_middle_of_and_begin_nothing():
    assert check(history(("a", "p2", 11.5), ("a", "p1", 12.1), deaths=[FREEZE])).broken() == {}
    assert check(history(("a", "p1", 12.2), ("a", "p2", 12.3), deaths=[FREEZE])).broken() == {}
    assert check(history(("a", "p3", 12.2), ("a", "p2", 12.3), deaths=[FREEZE])).broken() == {"unexplained": 1}
    jobs, rows = {"a": Job("mark"), "b": Job("mark")}, {"a": Row("done", 1), "b": Row("done", 1)}
    assert check(history(("a", "p1", 12.1), ("b", "p1", 12.2), jobs=jobs, rows=rows, deaths=[FREEZE])).broken() == {"after_takeover": 1}


def test_a_job_that_begins_again_before_it_ended_overlaps_itself():
    starts = [("a", "p1", 1.0), ("a", "p2", 1.5)]
    made = history(("a", "p1", 2.0), starts=starts, rows={"a": Row("done", 2)})
    assert check(made).broken() == {"overlap": 1}
    assert check(history(("a", "p1", 1.4), starts=starts, rows={"a": Row("done", 2)})).overlap == 0


def test_a_job_that_failed_twice_and_came_back_to_the_first_worker_does_not_overlap_itself():
    starts = [("a", "p1", 1.0), ("a", "p2", 1.5), ("a", "p1", 2.0)]
    assert check(history(("a", "p1", 2.5), starts=starts, rows={"a": Row("done", 3)})).broken() == {}


def test_a_start_that_nobody_charged_is_charged_wrongly():
    starts = [("a", "p1", 1.0), ("a", "p2", 11.0)]
    assert check(history(("a", "p2", 11.1), starts=starts, rows={"a": Row("done", 1)})).broken() == {"charged_wrongly": 1}
    assert check(history(("a", "p2", 11.1), starts=starts, rows={"a": Row("done", 1, 1)})).broken() == {}
    assert check(history(("a", "p2", 11.1), starts=starts, deaths=[FREEZE])).broken() == {}
    killed = Death("kill-worker", 1.1, processes=frozenset({"p1"}))
    assert check(history(("a", "p2", 11.1), starts=starts, deaths=[killed])).broken() == {"charged_wrongly": 1}


def test_more_crashes_charged_at_a_recovery_than_jobs_were_in_flight_are_charged_wrongly():
    assert check(history(("a", "p1", 1.0), crashes_charged=[(1, 1), (3, 2)])).broken() == {"charged_wrongly": 1}
