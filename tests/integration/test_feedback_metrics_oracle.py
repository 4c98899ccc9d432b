"""Windows of random streams, with outcomes late and out of order, are what plain SQL makes of the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from feedback_metrics_rig import Event, compare, content, oracle
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.metrics_columns import ABSENT, Columns
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.panes import Span
from services.feedback.windows import Windows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BASE = 1_767_225_600 * SECOND
SPECS = parse_windows("2s,6s/2s")
LATENESS = 7 * SECOND
# The clock counts batches.
PAUSE = 2
STREAMS = 20
EXAMPLES = 100
TYPES = ("", "", "", "ValueError", "TimeoutError", "Ärger", "z")
# Agents and workflows of the default tenant and of others, of the same names; some look like another's.
OWNERS = ("", "", "", "acme/", "rival/", "rival/acme/")


@dataclass
class Stream:
    """Outcomes in the order of their numbers, where batches end, and where the windows are made anew."""

    events: list[Event]
    cuts: list[int]
    restarts: frozenset[int]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    count = draw(st.integers(1, 24))
    # One draw an outcome keeps thousands of streams affordable; the digits of the number are its fields.
    events, stored_at = [], BASE
    for number, code in enumerate(draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count)), 1):
        # Small numbers, of which there are many, are to differ in all their digits.
        code = code * 0x9E3779B97F4A7C15 % 2**62

        def digit(base: int) -> int:
            nonlocal code
            code, found = divmod(code, base)
            return found

        # Mostly forward; the clock of arrival may go back a little.
        stored_at += (-1_500_000, 0, 1, 250_000, 1_000_000, 2_500_000, 9_000_000)[digit(7)]
        # On time, late, too late, ahead; on borders, too.
        offset = (
            0,
            0,
            -1,
            -300_000,
            -2_000_000,
            -5_000_001,
            -7_000_000,
            -12_000_000,
            -40_000_000,
            3_000_000,
            86_400_000_001,
        )
        at = stored_at + offset[digit(11)]
        if digit(4) == 0:
            at = at // SECOND * SECOND
        started = None if digit(5) == 0 else at - digit(4) * 1_234_567
        ended = None if digit(5) == 0 else max(at - digit(2) * 3, started or 0)
        owner, workflow = OWNERS[digit(len(OWNERS))], ("", "w1", "w2", "w3")[digit(4)]
        events.append(
            Event(
                number, stored_at, at, f"{owner}agent-{digit(3)}", 1 + digit(5), 1 + digit(4),
                workflow and owner + workflow,
                (1.5, 2.25, 1000 / 3, 0.1, 0.0, 12.0)[digit(6)] * (1 + digit(5)),
                TYPES[digit(7)], digit(1000) * 4_000_000, digit(100) / 7, started, ended,
            )
        )  # fmt: skip
    marks = draw(st.integers(0, 2 ** (2 * count)))
    cuts = [n for n in range(1, count) if marks >> n & 1]
    return Stream(events, [*cuts, count], frozenset(n for n in cuts if marks >> (count + n) & 1))


def columns(events: Sequence[Event]) -> Columns:
    def ints(values: Iterable[int | None]) -> Any:
        return np.array([ABSENT if value is None else value for value in values], dtype=np.int64)

    by_name = {name: [getattr(event, name) for event in events] for name in Event._fields}
    floats = {name: np.array(by_name[name], dtype=np.float64) for name in ("latency_ms", "cost_estimate")}
    texts = {name: by_name[name] for name in ("agent_name", "error_type", "workflow_id")}
    rest = {name: ints(by_name[name]) for name in Event._fields if name not in {*floats, *texts}}
    return Columns(**floats, **texts, **rest)


@dataclass
class Kept:
    """What the store holds of one stream: the outcomes, which of them came too late, the windows. `rest` is
    that of the engine: workflows become strangers at once, or hardly ever."""

    rest: int
    seen: list[Event] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    too_late: int = 0
    watermark: int = 0
    windows: dict[tuple[str, int, str], AgentMetrics] = field(default_factory=dict)

    def workflows(self, ids: Sequence[str], before: float = math.inf, read: int = 0) -> dict[str, Span]:
        """As metrics_store.workflows."""
        found: dict[str, Span] = {}
        for one in self.seen:
            there = one.at < before or one.number <= read
            if one.workflow_id in ids and one.number not in self.late and there:
                times = (one.at, *(ABSENT if t is None else t for t in (one.started, one.ended)))
                span = found.get(one.workflow_id)
                found[one.workflow_id] = Span(*times) if span is None else span.with_one(*times)
        return found

    def windows_again(self, now: int) -> Windows:
        """As Leader makes them of what is stored."""
        made = Windows(SPECS, LATENESS, pause=PAUSE)
        made.watermark = self.watermark
        kept_from, final_to = made.kept_from, made.final_to
        made = Windows(SPECS, LATENESS, pause=PAUSE, rest=self.rest)
        again = [event for event in self.seen if event.at >= kept_from]
        read = 0
        for start in range(0, len(again), 5):
            some = columns(again[start : start + 5])
            made.add(some, self.workflows(made.strangers(some), before=kept_from, read=read), now)
            read = int(some.number[-1])
        stored = [one for one in self.windows.values() if one.window_end.seconds * SECOND > final_to]
        made.restore(self.watermark, self.too_late, stored, now)
        return made


def run(stream: Stream) -> tuple[Kept, list[AgentMetrics]]:
    """The windows at the end, and what was published, in order. The clock stands long before them."""
    kept, published = Kept((0, 60 * SECOND)[len(stream.events) % 2]), []
    windows = Windows(SPECS, LATENESS, pause=PAUSE, rest=kept.rest)

    def flush(now: int) -> None:
        for one in windows.flush(now):
            kept.windows[one.window, one.window_start.seconds, one.agent_name] = one
            if one.revision:
                published.append(one)

    start = 0
    for now, end in enumerate(stream.cuts):
        batch = columns(stream.events[start:end])
        known = kept.workflows(windows.strangers(batch))
        kept.late.update(windows.add(batch, known, now))
        flush(now)
        kept.seen += stream.events[start:end]
        kept.watermark, kept.too_late = windows.watermark, windows.too_late
        if end in stream.restarts:
            windows = kept.windows_again(now)
        start = end
    # What waits for its correction.
    flush(len(stream.cuts) + PAUSE)
    return kept, published


def test_windows_of_2000_random_streams_are_what_sql_makes_of_them(postgres_dsn: str) -> None:
    with asyncio.Runner() as runner:
        context = oracle(postgres_dsn, SPECS, LATENESS)
        sql = runner.run(context.__aenter__())

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(streams(), min_size=STREAMS, max_size=STREAMS))
        def check(some: list[Stream]) -> None:
            expected = runner.run(sql.windows([stream.events for stream in some]))
            too_late = runner.run(sql.too_late())
            for place, stream in enumerate(some):
                kept, published = run(stream)
                assert kept.windows.keys() == expected[place].keys()
                for key, window in kept.windows.items():
                    compare(expected[place][key], window)
                assert kept.too_late == too_late[place]
                check_publication(kept, published)

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


def check_publication(kept: Kept, published: Sequence[AgentMetrics]) -> None:
    """Each revision once, in order, each for a change; the last one is what is stored."""
    last: dict[tuple[str, int, str], AgentMetrics] = {}
    for one in published:
        key = one.window, one.window_start.seconds, one.agent_name
        before = last.get(key)
        assert one.revision == (before.revision if before is not None else 0) + 1
        if before is not None:
            assert content(one) != content(before)
        last[key] = one
    assert last == {key: one for key, one in kept.windows.items() if one.revision}
    for one in kept.windows.values():
        assert (one.revision > 0) == (one.window_end.seconds * SECOND <= kept.watermark)


def test_the_streams_hold_what_they_are_for() -> None:
    """Late, too late and ahead, workflows that move, restarts: nothing of it is left to luck alone."""
    seen = {
        "late": 0,
        "too late": 0,
        "corrections": 0,
        "restarts": 0,
        "batches": 0,
        "of the mesh": 0,
        "alone": 0,
    }

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(streams())
    def look(stream: Stream) -> None:
        kept, published = run(stream)
        seen["too late"] += kept.too_late
        seen["corrections"] += sum(one.revision > 1 for one in published)
        seen["restarts"] += len(stream.restarts)
        seen["batches"] += len(stream.cuts)
        of_mesh = {key[:2] for key in kept.windows if key[2] == "*/"}
        seen["of the mesh"] += len(of_mesh)
        seen["alone"] += sum(not key[2] and key[:2] not in of_mesh for key in kept.windows)
        marks = np.maximum.accumulate([min(one.at, one.stored_at) for one in stream.events])
        seen["late"] += sum(one.at < mark for one, mark in zip(stream.events, marks, strict=True))

    look()
    assert all(seen.values()), seen
