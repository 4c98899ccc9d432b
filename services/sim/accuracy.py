"""Predicted arrival times against what happened, by how much time was left."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Upper ends of the buckets of remaining time, minutes; the last bucket is open.
BUCKETS_MINUTES: Final = (5.0, 10.0, 20.0, 40.0, 60.0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """One prediction of a handover, minutes from `at_us` (µs since 1970)."""

    at_us: int
    p10_minutes: float
    p50_minutes: float
    p90_minutes: float


@dataclass(frozen=True, slots=True)
class BucketScore:
    """How the predictions of one bucket did. Errors are predicted minus actual, minutes."""

    label: str
    count: int
    mae_minutes: float
    bias_minutes: float
    coverage: float
    """Share of actual times between P10 and P90; 0.8 if the quantiles are true."""
    width_minutes: float
    """Mean of P90 - P10."""


class Accuracy:
    """Collects forecasts per order and scores them once the order's handover is known."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[Forecast]] = defaultdict(list)
        self._delivered_us: dict[str, int] = {}
        # Remaining minutes, error, covered, width; one entry per scored forecast.
        self._scored: list[tuple[float, float, bool, float]] = []

    def predicted(self, order_id: str, forecast: Forecast) -> None:
        """Takes a forecast, before or after the handover is known."""
        delivered_us = self._delivered_us.get(order_id)
        if delivered_us is None:
            self._waiting[order_id].append(forecast)
        else:
            self._score(forecast, delivered_us)

    def delivered(self, order_id: str, at_us: int) -> None:
        """The order's handover, µs since 1970: scores every forecast made before it."""
        self._delivered_us[order_id] = at_us
        for forecast in self._waiting.pop(order_id, ()):
            self._score(forecast, at_us)

    @property
    def orders(self) -> int:
        """Orders whose handover is known."""
        return len(self._delivered_us)

    def overall(self) -> BucketScore | None:
        """All scored forecasts as one bucket; None without any."""
        return _summary("all", self._scored) if self._scored else None

    def by_remaining_time(self) -> list[BucketScore]:
        """The buckets that hold something, shortest time first."""
        return self._by(lambda remaining, _: remaining)

    def by_predicted_time(self) -> list[BucketScore]:
        """The same by the minutes that were predicted: what P10 and P90 promise holds here, whereas an actual
        time that was long is one that few predictions reached.
        """
        return self._by(lambda remaining, error: remaining + error)

    def _by(self, minutes: Callable[[float, float], float]) -> list[BucketScore]:
        scores = []
        low = 0.0
        for high in (*BUCKETS_MINUTES, float("inf")):
            entries = [entry for entry in self._scored if low <= minutes(entry[0], entry[1]) < high]
            label = f"{low:g}-{high:g} min" if high != float("inf") else f"over {low:g} min"
            if entries:
                scores.append(_summary(label, entries))
            low = high
        return scores

    def _score(self, forecast: Forecast, delivered_us: int) -> None:
        actual = (delivered_us - forecast.at_us) / 60e6
        if actual <= 0:  # made at the handover or after it: nothing was predicted
            return
        covered = forecast.p10_minutes <= actual <= forecast.p90_minutes
        width = forecast.p90_minutes - forecast.p10_minutes
        self._scored.append((actual, forecast.p50_minutes - actual, covered, width))


def _summary(label: str, entries: list[tuple[float, float, bool, float]]) -> BucketScore:
    count = len(entries)
    return BucketScore(
        label=label,
        count=count,
        mae_minutes=sum(abs(error) for _, error, _, _ in entries) / count,
        bias_minutes=sum(error for _, error, _, _ in entries) / count,
        coverage=sum(covered for _, _, covered, _ in entries) / count,
        width_minutes=sum(width for _, _, _, width in entries) / count,
    )
