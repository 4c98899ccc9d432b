"""In which order recorded fixes are sent, and which of them twice or late."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.sim.traces import Floats, Ints, Trace

# A repeat follows its original by up to so many fixes of the same courier.
_REPEAT_WITHIN: Final = 20


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to send, in this order: row `row` of trace `trace`, due `due_s` seconds after the start."""

    trace: Ints
    row: Ints
    due_s: Floats
    duplicates: int
    """Entries that repeat an earlier one."""
    disordered: int
    """Entries that come behind a later fix of their courier."""

    def __len__(self) -> int:
        return len(self.trace)


def plan(
    traces: Sequence[Trace], *, side_by_side: int, duplicates: float, disorder: float, seed: int
) -> Schedule:
    """Plays `side_by_side` traces at a time; as one ends, the next begins. The same seed gives the same
    schedule.

    `duplicates` and `disorder` are shares of all fixes. A disordered fix changes places with its successor,
    which has a later time, so exactly one fix comes late for each; the first and last fix of a trace stay
    where they are.
    """
    random = np.random.default_rng(seed)
    sizes = np.array([len(trace) for trace in traces], dtype=np.int64)
    total = int(sizes.sum())
    trace = np.repeat(np.arange(len(traces)), sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    row = np.arange(total) - first
    at_us = np.concatenate([trace.at_us for trace in traces])

    swapped = _choose_swaps(at_us, row, sizes[trace], round(disorder * total), random)
    row[swapped], row[swapped + 1] = row[swapped + 1], row[swapped]

    start_s = np.repeat(_starts(traces, side_by_side), sizes)
    due_s = start_s + (at_us - at_us[first]) / 1e6

    repeated = np.sort(random.choice(total, size=min(round(duplicates * total), total), replace=False))
    last = first[repeated] + sizes[trace[repeated]] - 1
    behind = np.minimum(repeated + random.integers(1, _REPEAT_WITHIN + 1, size=len(repeated)), last)

    place = np.concatenate([np.arange(total, dtype=np.float64), behind + 0.5])
    due_s = np.concatenate([due_s, due_s[behind]])
    order = np.lexsort((place, due_s))
    return Schedule(
        trace=np.concatenate([trace, trace[repeated]])[order],
        row=np.concatenate([row, row[repeated]])[order],
        due_s=due_s[order],
        duplicates=len(repeated),
        disordered=len(swapped),
    )


def _choose_swaps(at_us: Ints, row: Ints, size: Ints, wanted: int, random: np.random.Generator) -> Ints:
    """Places i that change with i + 1, both inside their trace and strictly apart in time, no place used
    twice.
    """
    inside = (row >= 1) & (row + 1 <= size - 2)
    later = np.zeros(len(at_us), dtype=np.bool_)
    later[:-1] = at_us[:-1] < at_us[1:]
    candidates = np.flatnonzero(inside & later)
    used: set[int] = set()
    for place in random.permutation(candidates).tolist():
        if len(used) >= 2 * wanted:
            break
        if place not in used and place + 1 not in used:
            used.update((place, place + 1))
    places = np.array(sorted(used), dtype=np.int64)
    return places[::2]


def _starts(traces: Sequence[Trace], side_by_side: int) -> Floats:
    """When each trace begins, seconds, if at most so many run at a time."""
    ends = [0.0] * min(side_by_side, len(traces))
    starts = np.empty(len(traces))
    for number, trace in enumerate(traces):
        starts[number] = heapq.heappop(ends)
        heapq.heappush(ends, starts[number] + (int(trace.at_us[-1]) - int(trace.at_us[0])) / 1e6)
    return starts
