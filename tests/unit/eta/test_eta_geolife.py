"""Real traces through the pure middle: every injected fault is found, nothing else is made up."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderEvent

from services.eta import rules
from services.eta.advance import advance
from services.eta.answers import answer
from services.eta.cleaning import LOCATION_JUMP, OUT_OF_ORDER, SPEED_ANOMALY
from services.eta.couriers import CourierTable
from services.eta.fixes import columns_of
from services.eta.identity import hash_contents, hash_ids, identify
from services.eta.learning import Learned
from services.eta.orders import OrderBook, micros
from services.eta.scoring import outcomes_of
from services.eta.seen import SeenFixes, repeats
from services.eta.tracks import Track
from services.sim import schedule
from services.sim.recording import Recording
from services.sim.traces import read_traces
from tests.examples import examples

FOLDER = os.environ.get("WAYMESH_BENCH_DATA")
SAMPLE = Path(FOLDER or "") / "gps" / "geolife_sample.csv.gz"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        FOLDER is None or not SAMPLE.exists(), reason="WAYMESH_BENCH_DATA names no folder with GPS traces"
    ),
]


class Middle:
    """What eta does with fixes, without a store. What it delivers is learned at once, or never."""

    def __init__(self, book: OrderBook, *, learns: bool = True) -> None:
        self.book = book
        self._learns = learns
        self.seen, self.couriers, self.learned = SeenFixes(), CourierTable(), Learned()
        self.tracks: dict[str, Track] = {}
        self.fixes = self.duplicates = self.conflicts = 0
        self.flags: dict[int, int] = {OUT_OF_ORDER: 0, SPEED_ANOMALY: 0, LOCATION_JUMP: 0}
        self.forecasts: list[tuple[str, int, float, float, float, float]] = []
        self.delivered: dict[str, int] = {}
        self._by_order: dict[str, list] = {}

    def take(self, events: list[GpsEvent]) -> None:
        fixes = columns_of(events)
        assert not rules.faults(fixes, events)
        ids, contents = hash_ids(identify(events)), hash_contents(events)
        duplicate, conflict = repeats(self.seen, ids, contents)
        new = np.flatnonzero(~duplicate & ~conflict)
        self.seen.add(ids[new], contents[new])
        self.duplicates += int(duplicate.sum())
        self.conflicts += int(conflict.sum())
        fixes = fixes.take(new)
        self.couriers.load({}, self.couriers.missing(fixes.driver_id))
        moved = advance(fixes, self.couriers, self.tracks, self.book)
        self.fixes += len(fixes)
        for flag in self.flags:
            self.flags[flag] += int(np.count_nonzero(moved.cleaned.flags & flag))
        for prediction in answer(moved.cases, self.learned):
            self.tracks[prediction.order_id].shown_delivery_us = micros(prediction.delivery_eta)
            self._by_order.setdefault(prediction.order_id, []).append(prediction)
            quantiles = prediction.delivery
            self.forecasts.append(
                (
                    prediction.order_id,
                    micros(prediction.timestamp),
                    quantiles.p10_minutes,
                    quantiles.p50_minutes,
                    quantiles.p90_minutes,
                    prediction.confidence,
                )
            )
        for track in moved.delivered:
            order = self.book.order(track.order_id)
            assert order is not None
            self.delivered[track.order_id] = track.delivered_us
            if self._learns:
                self.learned.learn(outcomes_of(order, track, 0, self._by_order[track.order_id]))

    def forecast_table(self) -> np.ndarray:
        """Minutes left, P10, P50, P90 and confidence of each forecast made before the handover."""
        return np.array(
            [
                ((self.delivered[order_id] - at_us) / 6e7, *forecast)
                for order_id, at_us, *forecast in self.forecasts
                if at_us < self.delivered[order_id]
            ]
        ).T


@pytest.mark.parametrize("learns", [False, True])
def test_intervals_hold_from_the_first_delivery_on(learns: bool) -> None:
    every = max(1, 100 // examples(100))
    traces = read_traces(SAMPLE)[::every]
    plan = schedule.plan(traces, side_by_side=128 // every, duplicates=0, disorder=0, seed=1)
    recording = Recording(traces, "test")
    book = OrderBook()
    book.apply(OrderEvent(order=order) for order in recording.orders())
    middle = Middle(book, learns=learns)
    for start in range(0, len(plan), 1000):
        middle.take(recording.events(plan, start, min(start + 1000, len(plan))))
    left, low, mid, high, confidence = middle.forecast_table()
    held = (low <= left) & (left <= high)
    assert 0.72 < held.mean() < 0.88
    for shortest, longest in itertools.pairwise((0, 5, 10, 20, 40, 1000)):
        alike = (shortest <= mid) & (mid < longest)
        assert held[alike].mean() > 0.65
    within = (np.abs(left - mid) <= 5).mean()
    assert abs(within - confidence.mean()) < 0.1


def test_real_traces_with_injected_faults_are_counted_exactly_and_predicted_with_known_spread() -> None:
    traces = read_traces(SAMPLE)
    plan = schedule.plan(traces, side_by_side=20, duplicates=0.01, disorder=0.01, seed=5)
    recording = Recording(traces, "test")
    book = OrderBook()
    book.apply(OrderEvent(order=order) for order in recording.orders())
    middle = Middle(book)
    for start in range(0, len(plan), 1000):
        middle.take(recording.events(plan, start, min(start + 1000, len(plan))))

    assert middle.fixes == 217_653
    assert (middle.duplicates, middle.conflicts) == (plan.duplicates, 0)
    assert middle.flags[OUT_OF_ORDER] == plan.disordered
    assert middle.flags[SPEED_ANOMALY] == 146
    assert middle.flags[LOCATION_JUMP] < 200
    assert middle.delivered == recording.delivered_us

    left, low, mid, high, confidence = middle.forecast_table()
    half = len(left) // 2
    held = ((low <= left) & (left <= high))[half:].mean()
    assert 0.6 < held < 0.95
    within = (np.abs(left - mid) <= 5)[half:].mean()
    assert abs(within - confidence[half:].mean()) < 0.15
    assert np.abs(left - mid)[half:].mean() < np.abs(left - np.median(left[:half]))[half:].mean()
