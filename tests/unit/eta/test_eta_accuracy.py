"""What Prometheus is told of predictions against what happened."""

import pytest
from prometheus_client import CollectorRegistry
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome

from services.eta.accuracy import Accuracy


def _outcome(actual: float, *, carried: bool = False) -> DeliveryOutcome:
    """Predicted 20 minutes, 15 to 25."""
    outcome = DeliveryOutcome(p10_minutes=15, p50_minutes=20, p90_minutes=25, actual_minutes=actual)
    outcome.predicted_at.FromSeconds(1_000)
    outcome.picked_up_at.FromSeconds(900 if carried else 1_100)
    return outcome


@pytest.mark.parametrize(
    ("actual", "interval"), [(14.9, "early"), (15, "within"), (25, "within"), (25.1, "late")]
)
def test_each_falls_before_within_or_after_its_interval(actual: float, interval: str) -> None:
    registry = CollectorRegistry()
    Accuracy(registry).scored(_outcome(actual))
    labels = {"stage": "before_pickup", "interval": interval}
    assert registry.get_sample_value("waymesh_eta_outcomes_total", labels) == 1


@pytest.mark.parametrize(("actual", "direction", "error"), [(13, "early", 7), (28, "late", 8)])
def test_the_error_is_told_in_minutes_on_the_side_it_fell(
    actual: float, direction: str, error: float
) -> None:
    registry = CollectorRegistry()
    Accuracy(registry).scored(_outcome(actual))
    labels = {"stage": "before_pickup", "direction": direction}
    assert registry.get_sample_value("waymesh_eta_error_minutes_sum", labels) == error


def test_predictions_made_while_the_order_is_carried_are_told_apart() -> None:
    registry = CollectorRegistry()
    Accuracy(registry).scored(_outcome(20, carried=True))
    labels = {"stage": "after_pickup", "interval": "within"}
    assert registry.get_sample_value("waymesh_eta_outcomes_total", labels) == 1
