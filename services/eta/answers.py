"""From cases to the predictions that are shown."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.feedback.v1.delivery_pb2 import LegKind

from services.eta import predict, spread
from services.eta.cases import Case, trips_of
from services.eta.couriers import NEVER
from services.eta.fixes import MAX_SECONDS, MIN_SECONDS
from services.eta.learning import Learned
from services.eta.predict import Estimate, Phase
from services.eta.steady import held
from services.roads.great_circle import Floats

_US_PER_MIN: Final = 60e6
_LEG_KINDS: Final = (
    LegKind.LEG_KIND_ASSIGN,
    LegKind.LEG_KIND_TO_PICKUP,
    LegKind.LEG_KIND_WAIT,
    LegKind.LEG_KIND_TO_DESTINATION,
    LegKind.LEG_KIND_HANDOVER,
)


def stamp(at_us: int) -> Timestamp:
    """A time from µs since 1970, as far as RFC 3339 can write it."""
    seconds, rest = divmod(at_us, 1_000_000)
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        return Timestamp(seconds=min(max(seconds, MIN_SECONDS), MAX_SECONDS))
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def answer(cases: Sequence[Case], learned: Learned, *, chained: bool = True) -> list[EtaPrediction]:
    """Predict every case, in one go.

    Chained cases of one order must stand in the order of their times: each is held to the one before it.
    """
    if not cases:
        return []
    estimate = predict.estimate(trips_of(cases, learned), learned)
    pickup_min, delivery_min = _steadied(cases, estimate, chained=chained)
    tables = _Tables(cases, estimate, pickup_min, delivery_min)
    version = learned.version
    return [_message(row, case, estimate, tables, version) for row, case in enumerate(cases)]


def _steadied(cases: Sequence[Case], estimate: Estimate, *, chained: bool) -> tuple[Floats, Floats]:
    """The minutes to show for each case, to pickup and to handover."""
    pickups, deliveries = estimate.pickup_min.tolist(), estimate.delivery_min.tolist()
    shown: dict[str, tuple[int, int]] = {}
    for row, case in enumerate(cases):
        key = case.order.order_id
        before = shown.get(key, (case.shown_pickup_us, case.shown_delivery_us))
        if case.fresh or case.phase == Phase.DONE:
            before = NEVER, NEVER
        delivery = held(before[1], case.as_of_us, deliveries[row])
        pickup = pickups[row]
        if case.phase < Phase.TO_DESTINATION:
            pickup = min(held(before[0], case.as_of_us, pickup), delivery)
        pickups[row], deliveries[row] = pickup, delivery
        if chained:
            shown[key] = (
                case.as_of_us + round(pickup * _US_PER_MIN),
                case.as_of_us + round(delivery * _US_PER_MIN),
            )
    return np.array(pickups), np.array(deliveries)


class _Tables:
    """Distributions moved to the minutes that are shown, and what follows from them."""

    def __init__(
        self, cases: Sequence[Case], estimate: Estimate, pickup_min: Floats, delivery_min: Floats
    ) -> None:
        delivery = _moved(estimate.delivery_table, estimate.delivery_min, delivery_min)
        pickup = np.minimum(_moved(estimate.pickup_table, estimate.pickup_min, pickup_min), delivery)
        self.pickup_min = pickup_min.tolist()
        self.delivery_min = delivery_min.tolist()
        self.pickup = [spread.quantile(pickup, level).tolist() for level in (0.1, 0.9)]
        self.delivery = [spread.quantile(delivery, level).tolist() for level in (0.1, 0.9)]
        self.confidence = predict.confidence(delivery, delivery_min).tolist()
        as_of = np.array([case.as_of_us for case in cases], dtype=np.float64)
        ends = np.array([(case.order.earliest_us, case.order.latest_us) for case in cases], dtype=np.float64)
        minutes = np.where(ends == NEVER, np.nan, (ends - as_of[:, None]) / _US_PER_MIN)
        self.promised = [not (math.isnan(early) and math.isnan(late)) for early, late in minutes.tolist()]
        self.promise = predict.promise(delivery, minutes[:, 0], minutes[:, 1]).tolist()
        self.legs = _legs(estimate.legs_min, pickup_min, delivery_min).tolist()
        self.legs_m = estimate.legs_m.tolist()
        steadiness = (delivery_min - estimate.delivery_min)[:, None]
        factors = np.concatenate([estimate.factors_min, steadiness], axis=1)
        # The pickup is held steady by itself.
        factors[:, predict.PICKUP_CORRECTION] += pickup_min - estimate.pickup_min
        factors[:, predict.CORRECTION] -= pickup_min - estimate.pickup_min
        self.factors = factors.tolist()
        self.base = estimate.base_min.tolist()


def _moved(table: predict.Table, median_min: Floats, shown_min: Floats) -> predict.Table:
    """A distribution stretched so that its median is the shown one."""
    share = np.where(median_min > 1e-9, shown_min / np.maximum(median_min, 1e-9), 1.0)
    return np.asarray(table * share[:, None])


def _legs(estimated_min: predict.Table, pickup_min: Floats, delivery_min: Floats) -> predict.Table:
    """Legs stretched to what is shown: those up to the pickup add up to its median, all of them to that of
    the handover.
    """
    legs = estimated_min.copy()
    ends = (
        (slice(0, predict.WAIT + 1), pickup_min),
        (slice(predict.WAIT + 1, None), delivery_min - pickup_min),
    )
    for part, shown_min in ends:
        total = estimated_min[:, part].sum(axis=1)
        legs[:, part] *= np.where(total > 1e-9, shown_min / np.maximum(total, 1e-9), 1.0)[:, None]
    return legs


_FACTOR_NAMES: Final = (*predict.FACTORS, predict.STEADINESS)


def _message(row: int, case: Case, estimate: Estimate, tables: _Tables, version: str) -> EtaPrediction:
    as_of_us = case.as_of_us
    order = case.order
    if case.phase == Phase.DONE:
        return _done(case, version)
    delivery = tables.delivery_min[row]
    factors = [
        Factor(name=name, minutes=minutes)
        for name, minutes in zip(_FACTOR_NAMES, tables.factors[row], strict=True)
        if minutes
    ]
    factors.sort(key=lambda factor: -abs(factor.minutes))
    prediction = EtaPrediction(
        order_id=order.order_id,
        driver_id=case.driver_id,
        delivery_eta=stamp(as_of_us + round(delivery * _US_PER_MIN)),
        confidence=tables.confidence[row],
        factors=factors,
        timestamp=stamp(as_of_us),
        delivery_eta_minutes=delivery,
        delivery=Quantiles(
            p10_minutes=min(tables.delivery[0][row], delivery),
            p50_minutes=delivery,
            p90_minutes=max(tables.delivery[1][row], delivery),
        ),
        legs=[
            Leg(kind=kind, minutes=minutes, distance_m=way_m)
            for kind, minutes, way_m in zip(_LEG_KINDS, tables.legs[row], tables.legs_m[row], strict=True)
            if minutes > 0
        ],
        model_version=version,
        base_minutes=tables.base[row],
    )
    if tables.promised[row]:
        prediction.promise_probability = tables.promise[row]
    if case.phase < Phase.TO_DESTINATION:
        pickup = tables.pickup_min[row]
        prediction.pickup_eta.CopyFrom(stamp(as_of_us + round(pickup * _US_PER_MIN)))
        prediction.pickup_eta_minutes = pickup
        prediction.pickup.CopyFrom(
            Quantiles(
                p10_minutes=min(tables.pickup[0][row], pickup),
                p50_minutes=pickup,
                p90_minutes=max(tables.pickup[1][row], pickup),
            )
        )
    elif case.picked_up_us != NEVER:
        prediction.pickup_eta.CopyFrom(stamp(case.picked_up_us))
    return prediction


def _done(case: Case, version: str) -> EtaPrediction:
    """What is left to say when the order has been handed over."""
    order = case.order
    at_us = case.delivered_us if case.delivered_us != NEVER else case.as_of_us
    prediction = EtaPrediction(
        order_id=order.order_id,
        driver_id=case.driver_id,
        delivery_eta=stamp(at_us),
        confidence=1.0,
        timestamp=stamp(case.as_of_us),
        delivery=Quantiles(),
        model_version=version,
    )
    if case.picked_up_us != NEVER:
        prediction.pickup_eta.CopyFrom(stamp(case.picked_up_us))
    if order.earliest_us != NEVER or order.latest_us != NEVER:
        early = order.earliest_us != NEVER and at_us < order.earliest_us
        late = order.latest_us != NEVER and at_us > order.latest_us
        prediction.promise_probability = 0.0 if early or late else 1.0
    return prediction
