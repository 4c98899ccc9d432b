"""How far predictions were off, and how often what happened lay between P10 and P90, for Prometheus."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome

from services.eta.orders import micros

_MINUTES: Final = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0)
STAGES: Final = ("before_pickup", "after_pickup")
DIRECTIONS: Final = ("early", "late")
INTERVALS: Final = ("early", "within", "late")


class Accuracy:
    """Counts each scored prediction that feedback has taken in as new, so that sums over replicas hold."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._error = Histogram(
            "waymesh_eta_error_minutes",
            "Distance between the median of a prediction and the handover, by the side it fell on",
            ["stage", "direction"],
            buckets=_MINUTES,
            registry=registry,
        )
        self._intervals = Counter(
            "waymesh_eta_outcomes",
            "Scored predictions, by where the handover fell: before P10, within P10 to P90, after P90",
            ["stage", "interval"],
            registry=registry,
        )
        for stage in STAGES:  # a rate needs to have seen them at 0
            for direction in DIRECTIONS:
                self._error.labels(stage, direction)
            for interval in INTERVALS:
                self._intervals.labels(stage, interval)

    def scored(self, outcome: DeliveryOutcome) -> None:
        """One prediction against what happened."""
        carried = outcome.HasField("picked_up_at") and micros(outcome.picked_up_at) <= micros(
            outcome.predicted_at
        )
        stage = STAGES[carried]
        off = outcome.actual_minutes - outcome.p50_minutes
        self._error.labels(stage, DIRECTIONS[off > 0]).observe(abs(off))
        if outcome.actual_minutes < outcome.p10_minutes:
            interval = "early"
        else:
            interval = "late" if outcome.actual_minutes > outcome.p90_minutes else "within"
        self._intervals.labels(stage, interval).inc()
