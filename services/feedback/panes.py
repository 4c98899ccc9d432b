"""Panes: the pieces of time that windows are put together from, one per agent, with what came in them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics, ErrorTypeCount
from waymesh.feedback.v1.outcome_pb2 import OutcomeStatus, Severity

from services.feedback.metrics_columns import ABSENT, Columns, Floats
from services.feedback.percentiles import Values, percentiles

# Error types that a window lists.
ERROR_TYPES: Final = 50
# Error types that a pane tells apart; what a hostile caller makes up beyond that is counted as others.
APART: Final = 1_000

_SHARES: Final = (0.5, 0.95, 0.99)
_NONE: Final = np.empty(0, dtype=np.float64)
_SUMS: Final = ("average_latency_ms", "cost_estimate", "average_workflow_ms")
_STATUSES: Final = len(OutcomeStatus.keys())
_SUCCESS, _FAILURE, _PARTIAL, _TIMEOUT, _CANCELLED = (
    OutcomeStatus.OUTCOME_STATUS_SUCCESS,
    OutcomeStatus.OUTCOME_STATUS_FAILURE,
    OutcomeStatus.OUTCOME_STATUS_PARTIAL,
    OutcomeStatus.OUTCOME_STATUS_TIMEOUT,
    OutcomeStatus.OUTCOME_STATUS_CANCELLED,
)


class Span(NamedTuple):
    """A workflow: time of its newest outcome, first start and last end of them all. Unix microseconds."""

    newest: int
    started: int
    ended: int

    def with_one(self, at: int, started: int, ended: int) -> "Span":
        """After one more outcome."""
        return Span(
            max(self.newest, at),
            started if self.started == ABSENT or ABSENT != started < self.started else self.started,
            max(self.ended, ended),
        )

    @property
    def ms(self) -> float | None:
        """Its time in milliseconds; None if no outcome told of a start or none of an end."""
        if ABSENT in (self.started, self.ended):
            return None
        return (self.ended - self.started) / 1000


@dataclass(slots=True, eq=False)
class Pane:
    """What came of one agent, or of all together, in one pane."""

    statuses: list[int]
    failed: int
    """Failures and timeouts that are errors: what the failure rate counts."""
    errors: int
    latency_ms: float
    tokens: int
    cost: float
    error_types: Counter[str]
    other_types: int
    """Outcomes with an error type that found no place among the others."""
    over: list[int]
    """How many took longer than each of the limits that `fill` is told."""
    latencies: Values

    @classmethod
    def empty(cls, limits: int = 0) -> "Pane":
        """One that counts by so many limits."""
        return cls([0] * _STATUSES, 0, 0, 0.0, 0, 0.0, Counter(), 0, [0] * limits, Values())


class Workflows:
    """The workflows whose newest outcome lies in one pane, and their times.

    Of those that hardly go on any more it keeps the times alone, a fiftieth of what it takes to know whose
    they are. Who finds that one of them goes on after all must say what its time was.
    """

    __slots__ = ("_gone", "_settled", "_sorted", "_times", "_untimed")

    def __init__(self) -> None:
        # By workflow; nan: none of its outcomes tells of a start, or none of an end.
        self._times: dict[str, float] = {}
        self._sorted: Floats | None = None
        # Sorted times of settled ones, those among them that are there no longer, and how many have none.
        self._settled: Floats = _NONE
        self._gone: list[float] = []
        self._untimed = 0

    def __len__(self) -> int:
        return len(self._times) + len(self._settled) - len(self._gone) + self._untimed

    def __contains__(self, workflow_id: str) -> bool:
        """Whether it is one of those that are not settled."""
        return workflow_id in self._times

    def put(self, workflow_id: str, span: Span) -> None:
        """Adds it, or sets its time anew."""
        ms = span.ms
        self._times[workflow_id] = np.nan if ms is None else ms
        self._sorted = None

    def remove(self, workflow_id: str, span: Span) -> None:
        """Takes it out, of which `span` was put: its newest outcome or its time is another now."""
        self._sorted = None
        if self._times.pop(workflow_id, None) is None:
            ms = span.ms
            if ms is None:
                self._untimed -= 1
            else:
                self._gone.append(ms)

    def settle(self) -> Sequence[str]:
        """Keeps the times alone; the workflows whose they were."""
        known, times = list(self._times), self.sorted()
        self._untimed += len(known) - (len(times) - len(self._settled))
        self._settled, self._times = times, {}
        return known

    def ids(self) -> Iterable[str]:
        """The workflows that are not settled."""
        return self._times

    def sorted(self) -> Floats:
        """The times there are, in milliseconds."""
        if self._sorted is None:
            # Those that are not there come last.
            times = np.sort(np.fromiter(self._times.values(), np.float64, len(self._times)))
            times = times[: int(times.searchsorted(np.nan))]
            settled = self._still_settled()
            self._sorted = np.sort(np.concatenate((settled, times))) if len(settled) else times
        return self._sorted

    def _still_settled(self) -> Floats:
        if self._gone:
            gone = np.sort(self._gone)
            # Of equal ones as many as are gone.
            places = self._settled.searchsorted(gone) + np.arange(len(gone)) - gone.searchsorted(gone)
            self._settled = np.delete(self._settled, places)
            self._gone = []
        return self._settled


def fill(
    panes: Sequence[Pane], place: NDArray[np.intp], columns: Columns, limits: Sequence[float] = ()
) -> None:
    """Adds each outcome to the pane at its place in `panes`. `limits` are latencies in milliseconds."""
    count = len(panes)
    statuses = np.bincount(place * _STATUSES + columns.status, minlength=count * _STATUSES)
    bad = columns.severity >= Severity.SEVERITY_ERROR
    errors = np.bincount(place, bad, count).tolist()
    failed = np.bincount(place, bad & np.isin(columns.status, (_FAILURE, _TIMEOUT)), count).tolist()
    latencies = np.bincount(place, columns.latency_ms, count).tolist()
    tokens = np.bincount(place, columns.tokens_used, count).tolist()
    costs = np.bincount(place, columns.cost_estimate, count).tolist()
    over = [np.bincount(place, columns.latency_ms > limit, count).tolist() for limit in limits]
    if count == 1:
        order, ends = columns.latency_ms, [len(columns)]
    else:
        order = columns.latency_ms[np.argsort(place, kind="stable")]
        ends = np.cumsum(np.bincount(place, minlength=count)).tolist()
    start = 0
    for n, (pane, by_status) in enumerate(zip(panes, statuses.reshape(count, -1).tolist(), strict=True)):
        pane.statuses = [a + b for a, b in zip(pane.statuses, by_status, strict=True)]
        pane.failed += int(failed[n])
        pane.errors += int(errors[n])
        pane.latency_ms += latencies[n]
        pane.tokens += int(tokens[n])
        pane.cost += costs[n]
        pane.over = [int(a + more[n]) for a, more in zip(pane.over, over, strict=True)]
        pane.latencies.add(order[start : ends[n]])
        start = ends[n]
    for n, error_type in enumerate(columns.error_type):
        if not error_type:
            continue
        pane = panes[place[n]]
        if error_type in pane.error_types or len(pane.error_types) < APART:
            pane.error_types[error_type] += 1
        else:
            pane.other_types += 1


def metrics(panes: Sequence[Pane]) -> AgentMetrics:
    """The panes, which hold one outcome at least, as one; what names the window is not set."""
    by_status = [sum(each) for each in zip(*(pane.statuses for pane in panes), strict=True)]
    outcomes = sum(by_status)
    errors = sum(pane.errors for pane in panes)
    runs = [run for pane in panes for run in pane.latencies.runs()]
    p50, p95, p99 = percentiles(runs, _SHARES)
    found = AgentMetrics(
        outcomes=outcomes,
        successes=by_status[_SUCCESS],
        failures=by_status[_FAILURE],
        timeouts=by_status[_TIMEOUT],
        partial=by_status[_PARTIAL],
        cancelled=by_status[_CANCELLED],
        errors=errors,
        success_rate=by_status[_SUCCESS] / outcomes,
        failure_rate=sum(pane.failed for pane in panes) / outcomes,
        error_rate=errors / outcomes,
        average_latency_ms=sum(pane.latency_ms for pane in panes) / outcomes,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        tokens_used=sum(pane.tokens for pane in panes),
        cost_estimate=sum(pane.cost for pane in panes),
    )
    types: Counter[str] = Counter()
    for pane in panes:
        types.update(pane.error_types)
    if types:
        listed = sorted(types.items(), key=lambda one: (-one[1], one[0]))[:ERROR_TYPES]
        found.error_types.extend(ErrorTypeCount(error_type=name, count=count) for name, count in listed)
        others = sum(pane.other_types for pane in panes)
        found.other_error_types = types.total() - sum(count for _, count in listed) + others
    return found


def add_workflows(found: AgentMetrics, panes: Sequence[Workflows]) -> None:
    """Sets what is told of the workflows of a window of all agents together."""
    found.workflows = sum(len(pane) for pane in panes)
    runs = [times for pane in panes if len(times := pane.sorted())]
    count = sum(len(times) for times in runs)
    if count:
        p50, p95, p99 = percentiles(runs, _SHARES)
        found.average_workflow_ms = sum(float(times.sum()) for times in runs) / count
        found.p50_workflow_ms, found.p95_workflow_ms, found.p99_workflow_ms = p50, p95, p99


def same(one: AgentMetrics, other: AgentMetrics) -> bool:
    """Whether both tell the same of one window, but for sums of floats added up in another order."""
    for name in _SUMS:
        if not math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-9):
            return False
    plain = []
    for each in (one, other):
        told = AgentMetrics()
        told.CopyFrom(each)
        told.ClearField("metrics_id")
        told.ClearField("revision")
        told.ClearField("average_latency_ms")
        told.ClearField("cost_estimate")
        told.ClearField("average_workflow_ms")
        plain.append(told)
    return plain[0] == plain[1]
