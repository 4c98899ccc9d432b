"""A histogram of call times by method and code that costs a call two additions.

prometheus_client's own Histogram takes a lock and walks all buckets on every observation; a process of the
mesh has one event loop, so neither is needed here.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Times:
    """Observations of one method and code."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        # One more than the bounds: the last holds what is above them all.
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """A bucket's bound is part of it, as Prometheus has it (`le`)."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds


class CallTimes(Collector):
    """One metric family with the labels of go-grpc-prometheus."""

    _LABELS = ("grpc_service", "grpc_method", "grpc_code")

    def __init__(self, name: str, documentation: str, bounds_s: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds_s)
        self._times: dict[tuple[str, str, str], Times] = {}

    def of(self, service: str, method: str, code: str) -> Times:
        """Where to observe; keep it, it is the same for the same labels."""
        key = (service, method, code)
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = Times(self._bounds)
        return times

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The family without samples."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._LABELS)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family as of now."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._LABELS)
        names = [*(str(floatToGoString(bound)) for bound in self._bounds), "+Inf"]  # type: ignore[no-untyped-call]  # prometheus_client
        for labels, times in self._times.items():
            total = 0
            buckets = []
            for name, count in zip(names, times.counts, strict=True):
                total += count
                buckets.append((name, float(total)))
            family.add_metric(list(labels), buckets, times.sum_s)
        yield family
