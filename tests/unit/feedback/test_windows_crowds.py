"""Thousands of agents: what alerts are judged by is never behind, and memory has its bounds."""

import dataclasses
import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.board import latency_limits
from services.feedback.metrics_columns import ABSENT, Columns
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.panes import APART
from services.feedback.windows import AHEAD, TOGETHER, Windows
from tests.examples import examples

NOON = 1_767_225_600 * SECOND
SPECS = parse_windows("60s,300s/60s")
METRICS = (
    "failure_rate", "error_rate", "average_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms",
)  # fmt: skip
LIMIT = 2_000.0
ALL = 10**15


def columns(
    agents: Sequence[str],
    *,
    at: Sequence[int] | int = NOON,
    bad: Sequence[bool] | bool = False,
    latency_ms: Sequence[float] | float = 1.0,
    error_types: Sequence[str] | None = None,
) -> Columns:
    count = len(agents)

    def ints(value: object) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=np.int64), count).copy()

    bads = np.broadcast_to(np.asarray(bad), count)
    return Columns(
        np.arange(1, count + 1), ints(at), ints(NOON), ints(np.where(bads, 2, 1)),
        ints(np.where(bads, 3, 1)), np.broadcast_to(np.asarray(latency_ms, dtype=np.float64), count).copy(),
        ints(0), np.zeros(count), ints(ABSENT), ints(ABSENT), agents, error_types or [""] * count,
        [""] * count,
    )  # fmt: skip


def test_one_bad_agent_among_a_thousand_is_seen_with_the_flush_that_takes_its_outcomes_in() -> None:
    windows = Windows(SPECS, 600 * SECOND, limits=[LIMIT])
    crowd = [f"agent-{n}" for n in range(1_000)] * 5
    for _ in range(3):
        windows.add(columns(crowd), {}, NOON)
        windows.flush(NOON, cost=0)
    windows.add(columns([*crowd, *["bad"] * 30], bad=[False] * 5_000 + [True] * 30), {}, NOON)
    windows.add(columns(["slow"] * 30, latency_ms=LIMIT + 1), {}, NOON)
    windows.flush(NOON, cost=0)
    assert windows.figures("300s/60s", "failure_rate", 0.1, ()) == {"bad": (1.0, 30)}
    assert windows.figures("300s/60s", "p95_latency_ms", LIMIT, ()) == {"slow": (LIMIT + 1, 30)}


def test_what_alerts_look_at_follows_the_window_that_goes_on() -> None:
    windows = Windows(SPECS, 600 * SECOND, limits=[LIMIT])
    windows.add(columns(["bad"] * 30, bad=True), {}, NOON)
    windows.flush(NOON)
    assert windows.figures("60s", "failure_rate", 0.1, ()) == {"bad": (1.0, 30)}
    windows.flush(NOON + 60 * SECOND)
    assert windows.figures("60s", "failure_rate", 0.1, ["bad"]) == {}
    assert windows.figures("300s/60s", "failure_rate", 0.1, ()) == {"bad": (1.0, 30)}
    windows.flush(NOON + 300 * SECOND)
    assert windows.figures("300s/60s", "failure_rate", 0.1, ["bad"]) == {}
    assert windows.figures("1s", "failure_rate", 0.1, ["bad"]) == {}


outcomes = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 299),
    st.booleans(),
    st.sampled_from([0.0, 1.5, LIMIT, LIMIT + 0.1, 9_000.0]),
)


@settings(deadline=None)
@given(
    st.lists(st.lists(outcomes, min_size=1, max_size=40), min_size=1, max_size=4),
    st.sampled_from(METRICS),
    st.sampled_from([0.0, 0.1, 0.5, 1.5, LIMIT, 9_000.0]),
    st.sets(st.sampled_from(["a", "b", "d"])),
)
def test_what_alerts_look_at_is_what_windows_tell(
    batches: list[list[tuple[str, int, bool, float]]], metric: str, above: float, asked: set[str]
) -> None:
    now = NOON + 299 * SECOND
    # It is right without the limits as well.
    for limits in ((), (LIMIT,), (0.1, LIMIT, 9_000.0)):
        windows = Windows(SPECS, 600 * SECOND, limits=limits)
        told = {}
        for batch in batches:
            agents, seconds, bad, latency_ms = zip(*batch, strict=True)
            at = [NOON + n * SECOND for n in seconds]
            windows.add(columns(agents, at=at, bad=bad, latency_ms=latency_ms), {}, now)
            for one in windows.flush(now, cost=ALL):
                if one.window == "300s/60s" and one.window_start.seconds * SECOND == NOON:
                    told[one.agent_name] = one
            found = windows.figures("300s/60s", metric, above, asked)
            assert found == {
                agent: (getattr(one, metric), one.outcomes)
                for agent, one in told.items()
                if agent and (agent in asked or getattr(one, metric) > above)
            }


def test_limits_are_the_thresholds_of_percentiles() -> None:
    assert latency_limits({"p95_latency_ms": [7.0, 5.0], "p50_latency_ms": [5.0], "failure_rate": [0.1]}) == (
        5.0,
        7.0,
    )


def test_agents_beyond_the_bound_count_for_all_together_only() -> None:
    windows = Windows(SPECS, 600 * SECOND, agents=2)
    windows.add(columns(["a", "b", "c", "a", "d"]), {}, NOON)
    windows.add(columns(["c", "b"]), {}, NOON)
    made = {one.agent_name: one.outcomes for one in windows.flush(NOON, cost=ALL)}
    assert made == {TOGETHER: 7, "a": 2, "b": 2}
    assert windows.crowded == 3
    # Another pane has room of its own, until there are too many panes in all.
    windows.add(columns(["c"], at=NOON + 60 * SECOND), {}, NOON)
    assert "c" in {one.agent_name for one in windows.flush(NOON, cost=ALL)}
    for n in range(2, 100):
        windows.add(columns(["a", "b"], at=NOON + n * 60 * SECOND), {}, NOON)
    agents = [one.agent_name for one in windows.flush(NOON, cost=ALL) if one.window == "60s"]
    assert agents.count(TOGETHER) == 98
    assert agents.count("a") < 20


def test_memory_of_a_crowd_is_free_again_when_its_time_is_over() -> None:
    windows = Windows(SPECS, 600 * SECOND, agents=2)
    for minute in range(0, 200, 20):
        at = NOON + minute * 60 * SECOND
        some = columns(["a", "b", "c"], at=at)
        windows.add(dataclasses.replace(some, stored_at=some.at), {}, at)
        made = {one.agent_name for one in windows.flush(at, cost=ALL) if not one.revision}
        assert made == {TOGETHER, "a", "b"}


def test_memory_of_what_is_over_is_free_at_once(request: pytest.FixtureRequest) -> None:
    gc.disable()
    request.addfinalizer(gc.enable)
    windows = Windows(SPECS, 600 * SECOND)
    for minute in range(60):
        at = NOON + minute * 60 * SECOND
        some = columns(["a"], at=at)
        windows.add(dataclasses.replace(some, stored_at=some.at), {}, at)
        windows.flush(at, cost=ALL, closing=ALL)
        if minute == 0:
            [first] = windows._panes[at]["a"].latencies.runs()
            held = weakref.ref(first)
            del first
    assert held() is None


def test_outcomes_stamped_far_ahead_are_in_no_window() -> None:
    windows = Windows(SPECS, 600 * SECOND)
    windows.add(columns(["a", "a"], at=[NOON + AHEAD, NOON + AHEAD + 1]), {}, NOON)
    assert windows.too_late == 1
    assert {one.outcomes for one in windows.flush(NOON, cost=ALL)} == {1}
    windows.add(columns(["a"], at=253_402_300_799 * SECOND), {}, NOON)
    assert windows.too_late == 2
    assert not windows.flush(NOON, cost=ALL)


def test_error_types_beyond_the_bound_are_counted_as_others() -> None:
    windows = Windows(SPECS, 600 * SECOND)
    types = [f"type-{n}" for n in range(2 * APART)]
    windows.add(columns(["a"] * len(types), error_types=types), {}, NOON)
    windows.add(columns(["a"] * 2, error_types=["type-7", "new"]), {}, NOON)
    for one in windows.flush(NOON, cost=ALL):
        assert (one.error_types[0].error_type, one.error_types[0].count) == ("type-7", 2)
        assert len(one.error_types) == 50
        assert sum(each.count for each in one.error_types) + one.other_error_types == len(types) + 2


def test_closed_windows_come_before_open_ones_and_none_is_forgotten() -> None:
    windows = Windows(SPECS, 600 * SECOND)
    agents = [f"agent-{n}" for n in range(50)]
    windows.add(columns(agents), {}, NOON)
    windows.add(columns(agents, at=NOON + 60 * SECOND), {}, NOON)
    windows.flush(NOON, cost=0)
    later = NOON + 62 * SECOND
    revisions = []
    while windows.due(later):
        revisions.append(
            [(one.window, one.revision) for one in windows.flush(later, closing=10**6, cost=10**6)]
        )
    assert revisions[0][0][1] == 1
    published = [one for tick in revisions for one in tick if one[1]]
    assert len(published) == 2 * 51
    assert all(revision == 1 for _, revision in published)
    # Each of the 60s window that goes on and of six hopping ones, less the one that has closed, too.
    assert sum(map(len, revisions)) == 51 * (1 + 1 + 6)


def test_a_closed_window_is_right_again_a_quarter_of_a_second_after_late_outcomes() -> None:
    windows = Windows(SPECS, 600 * SECOND)
    windows.add(columns(["a"] * 38), {}, NOON)
    windows.flush(NOON)
    closed = NOON + 62 * SECOND
    assert {(one.outcomes, one.revision) for one in windows.flush(closed) if one.window == "60s"} == {(38, 1)}
    windows.add(columns(["a"] * 12), {}, closed)
    assert not [one for one in windows.flush(closed + 200_000) if one.window == "60s"]
    found = {(one.outcomes, one.revision) for one in windows.flush(closed + 250_000) if one.window == "60s"}
    assert found == {(50, 2)}


def test_what_is_let_go_of_changes_no_window() -> None:
    """One agent is told apart; outcomes come up to nine minutes late, to windows closed long ago."""
    let_go = {0: 0, ALL: 0}

    def published(batches: Sequence[Sequence[tuple[str, int]]], rest: int) -> list[AgentMetrics]:
        windows = Windows(SPECS, 600 * SECOND, agents=1, rest=rest)
        found = []
        for minute, batch in enumerate(batches):
            now = NOON + minute * 60 * SECOND
            at = [now, *(now - late * 60 * SECOND for _, late in batch)]
            slow = [float(minute), *(float(100 * minute + n) for n in range(len(batch)))]
            some = columns(["a", *(agent for agent, _ in batch)], at=at, latency_ms=slow)
            windows.add(dataclasses.replace(some, stored_at=np.full(len(at), now)), {}, now)
            found += windows.flush(now, cost=ALL, closing=ALL)
            together = [pane[TOGETHER].latencies for pane in windows._panes.values()]
            let_go[rest] += sum(one._elsewhere is not None for one in together)
        return found

    late = st.tuples(st.sampled_from("aaab"), st.integers(0, 9))

    @settings(deadline=None, max_examples=examples(60))
    @given(st.lists(st.lists(late, max_size=4), min_size=8, max_size=24))
    def check(batches: list[list[tuple[str, int]]]) -> None:
        assert published(batches, 0) == published(batches, ALL)

    check()
    assert let_go[0] > let_go[ALL] == 0
