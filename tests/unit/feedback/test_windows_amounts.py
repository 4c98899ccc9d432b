"""Whatever amounts are stored, windows tell finite ones."""

import math

import numpy as np
import pytest
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.metrics_columns import ABSENT, MOST_COST, MOST_MS, Columns
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.windows import Windows

NOW = 1_767_225_600 * SECOND
SPECS = parse_windows("60s,300s/60s")


def columns(
    amounts: list[float], *, agent: str = "agent", at: int = NOW, status: int = 1, severity: int = 1
) -> Columns:
    """Outcomes whose latency and cost are these."""
    count = len(amounts)

    def ints(value: int) -> np.ndarray:
        return np.full(count, value, dtype=np.int64)

    floats = np.array(amounts, dtype=np.float64)
    return Columns(
        np.arange(1, count + 1), ints(at), ints(NOW), ints(status), ints(severity), floats, ints(2**32 - 1),
        floats, ints(NOW - SECOND), ints(ABSENT), [agent] * count, [""] * count, [""] * count,
    )  # fmt: skip


def doubles(metrics: AgentMetrics) -> list[float]:
    return [value for _, value in metrics.ListFields() if isinstance(value, float)]


@pytest.mark.parametrize(
    "amounts",
    [[1.7e308] * 25, [math.inf] * 3, [-math.inf, math.inf], [math.nan] * 2, [MOST_MS] * 1000, [1.0, 1e300]],
)
def test_no_amount_makes_a_figure_that_is_not_finite(amounts: list[float]) -> None:
    windows = Windows(SPECS, 600 * SECOND)
    for _ in range(3):
        windows.add(columns(amounts), {}, NOW)
    made = windows.flush(NOW)
    assert made
    for one in made:
        assert all(math.isfinite(value) and value >= 0 for value in doubles(one)), one
        assert one.p99_latency_ms <= MOST_MS
        assert one.cost_estimate <= MOST_COST * one.outcomes


@pytest.mark.parametrize(
    ("status", "severity", "rate"), [(2, 2, 0), (4, 2, 0), (2, 3, 1), (4, 4, 1), (1, 3, 0), (5, 3, 0)]
)
def test_the_failure_rate_counts_failures_that_are_errors(status: int, severity: int, rate: float) -> None:
    windows = Windows(SPECS, 600 * SECOND)
    windows.add(columns([1.0] * 4, status=status, severity=severity), {}, NOW)
    for one in windows.flush(NOW):
        assert one.failure_rate == rate
        assert one.failures + one.timeouts == (4 if status in (2, 4) else 0)
