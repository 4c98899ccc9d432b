"""Intervals that held too often come in, those that did not reach out, and both only so far."""

import numpy as np
import pytest
from eta_fleet import START_S
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome

from services.eta.learning import Learned
from services.eta.reach import Reach
from services.eta.spread import AFTER_PICKUP, BEFORE_PICKUP, quantile

QUANTILES = np.array([-3.0, -1.0, 0.0, 2.0, 8.0])
NEAR = np.array([0.0, 0.0, 1.0])


def judged(actual: float, times: int = 2000) -> Reach:
    reach = Reach(2, 3)
    for _ in range(times):
        reach.learn(1, NEAR, 10.0, 20.0, actual)
    return reach


@pytest.mark.parametrize(("actual", "below", "above"), [(15.0, 0.5, 0.5), (5.0, 2.0, 0.5), (30.0, 0.5, 2.0)])
def test_each_end_follows_its_own_misses(actual: float, below: float, above: float) -> None:
    expected = [-3 * below, -below, 0.0, 2 * above, 8 * above]
    assert judged(actual).stretched(1, 2, QUANTILES, 0.0) == pytest.approx(expected)
    for group, place in ((0, 2), (1, 1)):
        assert judged(actual).stretched(group, place, QUANTILES, 0.0).tolist() == QUANTILES.tolist()


def test_one_miss_in_ten_at_each_end_is_as_it_should_be() -> None:
    reach = Reach(1, 3)
    for number in range(5000):
        reach.learn(0, NEAR, 10.0, 20.0, {0: 5.0, 5: 25.0}.get(number % 10, 15.0))
    assert reach.stretched(0, 2, QUANTILES, 0.0) == pytest.approx(QUANTILES, rel=0.05)


def test_no_single_trip_matters() -> None:
    assert judged(30.0, times=10).stretched(1, 2, QUANTILES, 0.0)[-1] < 8 * 1.25


def outcome(number: int, actual_min: float, p90_min: float) -> DeliveryOutcome:
    made = DeliveryOutcome(outcome_id=f"outcome_{number}", order_id=f"order_{number}", p50_minutes=20)
    made.p10_minutes, made.p90_minutes, made.actual_minutes = 10, p90_min, actual_min
    made.predicted_at.seconds = START_S
    made.delivered_at.seconds = START_S + round(actual_min * 60)
    return made


def taught(p90_min: float) -> Learned:
    """The same deliveries by intervals that were too short or too long."""
    random, learned = np.random.default_rng(2), Learned()
    actual = 20 * np.exp(random.normal(0, 0.3, size=400))
    learned.learn(outcome(number, minutes, p90_min) for number, minutes in enumerate(actual.tolist()))
    return learned


def p90(learned: Learned, group: int = BEFORE_PICKUP) -> float:
    return float(quantile(learned.spread.minutes(np.array([group]), np.array([20.0])), 0.9)[0])


def test_what_was_missed_reaches_further_and_the_median_stays() -> None:
    short, long = taught(p90_min=21), taught(p90_min=200)
    assert p90(short) > 1.3 * p90(long)
    assert p90(short, AFTER_PICKUP) == pytest.approx(p90(Learned(), AFTER_PICKUP))
    medians = [
        quantile(one.spread.minutes(np.array([BEFORE_PICKUP]), np.array([20.0])), 0.5)
        for one in (short, long)
    ]
    np.testing.assert_allclose(*medians, rtol=0.02)


def test_the_reach_survives_a_restart_and_is_not_asked_of_older_states() -> None:
    learned = taught(p90_min=21)
    dumped = learned.dump()
    assert p90(Learned.restore(dumped)) == pytest.approx(p90(learned), rel=1e-3)
    del dumped["reach"]
    assert p90(Learned.restore(dumped)) < p90(learned)
