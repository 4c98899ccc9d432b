"""What is sent twice or late, and that nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sim import schedule
from services.sim.schedule import Schedule
from services.sim.traces import Trace
from tests.examples import examples


def a_trace(number: int, steps_s: list[int]) -> Trace:
    at_us = np.cumsum([1_224_000_000 + number * 10_000, *steps_s]) * 1_000_000
    zeros = np.zeros(len(at_us))
    return Trace("p", number, at_us.astype(np.int64), zeros, zeros, zeros, np.arange(len(at_us)))


TRACES = st.lists(
    st.lists(st.integers(0, 300), min_size=0, max_size=40).map(lambda steps: steps), min_size=1, max_size=12
).map(lambda all_steps: [a_trace(number, steps) for number, steps in enumerate(all_steps)])


def judged(traces: list[Trace], plan: Schedule) -> tuple[int, int, int]:
    """(fixes, duplicates, late ones) as a reader who knows nothing of the injection would count them."""
    seen: set[tuple[int, int]] = set()
    newest: dict[int, int] = {}
    duplicates = late = 0
    for trace, row in zip(plan.trace.tolist(), plan.row.tolist(), strict=True):
        if (trace, row) in seen:
            duplicates += 1
            continue
        seen.add((trace, row))
        at_us = int(traces[trace].at_us[row])
        late += at_us < newest.get(trace, at_us)
        newest[trace] = max(at_us, newest.get(trace, at_us))
    return len(seen), duplicates, late


@settings(max_examples=examples(200), deadline=None)
@given(TRACES, st.integers(1, 20), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.sampled_from([0.0, 0.01, 0.3]))
def test_exactly_the_injected_fixes_are_repeated_or_late(
    traces: list[Trace], side_by_side: int, duplicates: float, disorder: float
) -> None:
    plan = schedule.plan(traces, side_by_side=side_by_side, duplicates=duplicates, disorder=disorder, seed=7)
    total = sum(map(len, traces))
    assert judged(traces, plan) == (total, plan.duplicates, plan.disordered)
    assert plan.duplicates == round(duplicates * total)
    assert plan.disordered <= round(disorder * total)


@settings(max_examples=examples(100), deadline=None)
@given(TRACES, st.integers(1, 20))
def test_first_and_last_fix_of_a_trace_stay_first_and_last(traces: list[Trace], side_by_side: int) -> None:
    plan = schedule.plan(traces, side_by_side=side_by_side, duplicates=0, disorder=0.3, seed=3)
    for number, trace in enumerate(traces):
        rows = plan.row[plan.trace == number]
        assert rows[0] == 0
        assert rows[-1] == len(trace) - 1


@settings(max_examples=examples(100), deadline=None)
@given(TRACES, st.integers(1, 20))
def test_times_never_go_back_and_no_more_traces_than_asked_run_side_by_side(
    traces: list[Trace], side_by_side: int
) -> None:
    plan = schedule.plan(traces, side_by_side=side_by_side, duplicates=0.1, disorder=0.1, seed=3)
    assert (np.diff(plan.due_s) >= 0).all()
    spans = [
        (plan.due_s[plan.trace == number].min(), plan.due_s[plan.trace == number].max())
        for number in range(len(traces))
    ]
    for start, _ in spans:
        assert sum(begin <= start < end for begin, end in spans) <= side_by_side


def test_the_same_seed_gives_the_same_schedule() -> None:
    traces = [a_trace(number, [5] * 50) for number in range(5)]
    first, again, other = (
        schedule.plan(traces, side_by_side=3, duplicates=0.1, disorder=0.1, seed=seed) for seed in (1, 1, 2)
    )
    assert (first.trace == again.trace).all()
    assert (first.row == again.row).all()
    assert not (first.row == other.row).all()


@pytest.mark.parametrize("disorder", [0.01, 0.1])
def test_long_traces_give_all_the_disorder_asked_for(disorder: float) -> None:
    traces = [a_trace(number, [1] * 1000) for number in range(4)]
    plan = schedule.plan(traces, side_by_side=4, duplicates=0, disorder=disorder, seed=1)
    assert plan.disordered == round(disorder * 4004)
