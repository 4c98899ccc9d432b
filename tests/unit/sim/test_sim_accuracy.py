"""Scores of predicted arrival times."""

import pytest

from services.sim.accuracy import Accuracy, Forecast
from services.sim.latency import Latencies

MINUTE_US = 60_000_000


def test_forecasts_are_scored_before_and_after_the_handover_is_known() -> None:
    accuracy = Accuracy()
    accuracy.predicted("o", Forecast(0, 8, 10, 12))
    assert accuracy.overall() is None
    accuracy.delivered("o", 11 * MINUTE_US)
    accuracy.predicted("o", Forecast(5 * MINUTE_US, 7, 8, 9))
    overall = accuracy.overall()
    assert overall is not None
    assert overall.count == 2
    assert overall.mae_minutes == pytest.approx(1.5)  # 1 under and 2 over
    assert overall.bias_minutes == pytest.approx(0.5)
    assert overall.coverage == 0.5
    assert overall.width_minutes == pytest.approx(3)


def test_forecasts_are_told_apart_by_the_time_that_was_left() -> None:
    accuracy = Accuracy()
    accuracy.delivered("o", 100 * MINUTE_US)
    for left in (1, 4.9, 5, 61):
        accuracy.predicted("o", Forecast(round((100 - left) * MINUTE_US), 0, left, 100))
    assert [(score.label, score.count) for score in accuracy.by_remaining_time()] == [
        ("0-5 min", 2),
        ("5-10 min", 1),
        ("over 60 min", 1),
    ]


def test_what_is_said_at_the_handover_is_no_forecast() -> None:
    accuracy = Accuracy()
    accuracy.delivered("o", MINUTE_US)
    accuracy.predicted("o", Forecast(MINUTE_US, 0, 0, 0))
    assert accuracy.overall() is None


def test_latencies_have_quantiles_of_the_newest() -> None:
    latencies = Latencies()
    assert latencies.quantile_ms(0.5) is None
    for number in range(1, 101):
        latencies.add(number / 1000)
    assert latencies.quantile_ms(0.5) == pytest.approx(51)
    assert latencies.quantile_ms(0.99) == pytest.approx(100)
    assert latencies.count == 100


def test_buckets_by_predicted_time_hold_what_was_promised_there() -> None:
    accuracy = Accuracy()
    accuracy.delivered("order_1", 30 * 60_000_000)
    for minutes in (3.0, 4.0, 12.0, 70.0):
        accuracy.predicted("order_1", Forecast(0, minutes / 2, minutes, 40.0))
    found = {score.label: (score.count, score.coverage) for score in accuracy.by_predicted_time()}
    assert found == {"0-5 min": (2, 1.0), "10-20 min": (1, 1.0), "over 60 min": (1, 0.0)}
