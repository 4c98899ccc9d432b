"""Predictions against what happened, once an order has been handed over."""

import uuid
from collections.abc import Sequence
from typing import Final

import numpy as np
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind, LegOutcome
from waymesh.gps.v1.location_pb2 import Location

from services.eta.answers import stamp
from services.eta.couriers import NEVER
from services.eta.learning import (
    FOOD_WAIT_MINUTES,
    OVERDUE,
    PICKUP_P10_MINUTES,
    PICKUP_P90_MINUTES,
    RAW_MINUTES,
    RAW_PICKUP_MINUTES,
    STANDS_FOR,
)
from services.eta.orders import KnownOrder, micros
from services.eta.predict import CORRECTION, FACTORS, PICKUP_CORRECTION, STEADINESS
from services.eta.progress import overdue
from services.eta.spread import NODES_MIN
from services.eta.tracks import Track
from services.mesh.tenancy import qualify, tenant_of
from services.roads.great_circle import great_circle_m

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "outcomes.eta.waymesh")

_US_PER_MIN: Final = 60e6
_PICKUP_CORRECTION: Final = FACTORS[PICKUP_CORRECTION]
_LEARNED: Final = (FACTORS[CORRECTION], _PICKUP_CORRECTION, STEADINESS)
_MIDDLES: Final = (NODES_MIN[1:] + NODES_MIN[:-1]) / 2


def chosen(predictions: Sequence[EtaPrediction], delivered_us: int) -> list[tuple[EtaPrediction, float]]:
    """Those to be scored and how many each stands for: two of each range of predicted minutes.

    Before and after pickup are ranges apart. Scoring every one would flood the record with near repeats.
    """
    ranges: dict[tuple[bool, int], list[EtaPrediction]] = {}
    for prediction in sorted(predictions, key=lambda one: micros(one.timestamp)):
        if micros(prediction.timestamp) < delivered_us:
            place = int(np.searchsorted(_MIDDLES, prediction.delivery_eta_minutes))
            ranges.setdefault((prediction.HasField("pickup"), place), []).append(prediction)
    picked = []
    for alike in ranges.values():
        places = sorted({len(alike) // 4, len(alike) * 3 // 4})
        picked += [(alike[place], len(alike) / len(places)) for place in places]
    return picked


def raw_minutes(prediction: EtaPrediction) -> float:
    """The estimate before what was learned of its errors and before it was held steady."""
    return prediction.base_minutes + sum(
        factor.minutes for factor in prediction.factors if factor.name not in _LEARNED
    )


def raw_pickup_minutes(prediction: EtaPrediction) -> float:
    """The same of the pickup; only before it."""
    corrected = (factor.minutes for factor in prediction.factors if factor.name == _PICKUP_CORRECTION)
    return max(prediction.pickup.p50_minutes - sum(corrected), 0.0)


def outcomes_of(
    order: KnownOrder, track: Track, vehicle: int, predictions: Sequence[EtaPrediction]
) -> list[DeliveryOutcome]:
    """One outcome for each chosen prediction. Sent again they are the same, by their ids too."""
    tenant = tenant_of(order.order_id)
    actual = _actual_legs(order, track)
    pickup, dropoff = np.array(order.pickup), np.array(order.dropoff)
    straight_m = great_circle_m(pickup[:1], pickup[1:], dropoff[:1], dropoff[1:])
    food_wait = _span_min(track.at_pickup_us, order.ready_us)
    result = []
    for prediction, stands_for in chosen(predictions, track.delivered_us):
        predicted_us = micros(prediction.timestamp)
        outcome = DeliveryOutcome(
            outcome_id=qualify(tenant, str(uuid.uuid5(NAMESPACE, f"{order.order_id}|{predicted_us}"))),
            order_id=order.order_id,
            driver_id=track.driver_id,
            predicted_at=prediction.timestamp,
            delivered_at=stamp(track.delivered_us),
            p10_minutes=prediction.delivery.p10_minutes,
            p50_minutes=prediction.delivery.p50_minutes,
            p90_minutes=prediction.delivery.p90_minutes,
            actual_minutes=(track.delivered_us - predicted_us) / _US_PER_MIN,
            confidence=prediction.confidence,
            model_version=prediction.model_version,
            legs=_legs(actual, prediction),
            context=order.context,
            pickup=Location(lat=order.pickup[0], lon=order.pickup[1]),
            dropoff=Location(lat=order.dropoff[0], lon=order.dropoff[1]),
        )
        if track.picked_up_us != NEVER:
            # Fixes come in any order: what was handed over had been picked up by then.
            outcome.picked_up_at.CopyFrom(stamp(min(track.picked_up_us, track.delivered_us)))
        context = outcome.context
        if vehicle and not context.HasField("vehicle_type"):
            context.vehicle_type = vehicle  # type: ignore[assignment] # the store's number of the enum
        if order.merchant_id and not context.HasField("merchant_id"):
            context.merchant_id = order.merchant_id
        if track.picked_up_us != NEVER:
            carried_min = np.array([(predicted_us - track.picked_up_us) / _US_PER_MIN])
            kind = np.array([context.vehicle_type])
            context.numbers[OVERDUE] = float(overdue(straight_m, kind, carried_min)[0])
        context.numbers[RAW_MINUTES] = raw_minutes(prediction)
        context.numbers[STANDS_FOR] = stands_for
        if prediction.HasField("pickup"):
            context.numbers[RAW_PICKUP_MINUTES] = raw_pickup_minutes(prediction)
            context.numbers[PICKUP_P10_MINUTES] = prediction.pickup.p10_minutes
            context.numbers[PICKUP_P90_MINUTES] = prediction.pickup.p90_minutes
        if food_wait is not None:
            context.numbers[FOOD_WAIT_MINUTES] = food_wait
        result.append(outcome)
    return result


def _actual_legs(order: KnownOrder, track: Track) -> dict[int, LegOutcome]:
    """What each leg took, as far as the fixes tell."""
    pickup_lat, pickup_lon = (np.array([degrees]) for degrees in order.pickup)
    approach_m = float(
        great_circle_m(np.array([track.start_lat]), np.array([track.start_lon]), pickup_lat, pickup_lon)[0]
    )
    carry_m = float(
        great_circle_m(pickup_lat, pickup_lon, np.array([order.dropoff[0]]), np.array([order.dropoff[1]]))[0]
    )
    arrived_us = track.at_pickup_us if track.at_pickup_us != NEVER else track.picked_up_us
    at_door_us = track.at_destination_us if track.at_destination_us != NEVER else track.delivered_us
    legs: dict[int, LegOutcome] = {
        LegKind.LEG_KIND_ASSIGN: LegOutcome(actual_minutes=_span_min(order.placed_us, track.to_pickup_us)),
        LegKind.LEG_KIND_TO_PICKUP: LegOutcome(actual_minutes=_span_min(track.to_pickup_us, arrived_us)),
        LegKind.LEG_KIND_WAIT: LegOutcome(actual_minutes=_span_min(track.at_pickup_us, track.picked_up_us)),
        LegKind.LEG_KIND_TO_DESTINATION: LegOutcome(
            actual_minutes=_span_min(track.picked_up_us, at_door_us), distance_m=carry_m
        ),
        LegKind.LEG_KIND_HANDOVER: LegOutcome(
            actual_minutes=_span_min(track.at_destination_us, track.delivered_us)
        ),
    }
    if approach_m == approach_m:
        legs[LegKind.LEG_KIND_TO_PICKUP].distance_m = approach_m
    if track.approach_m > 0:
        legs[LegKind.LEG_KIND_TO_PICKUP].travelled_m = track.approach_m
    if track.carry_m > 0:
        legs[LegKind.LEG_KIND_TO_DESTINATION].travelled_m = track.carry_m
    for kind, leg in legs.items():
        leg.kind = kind  # type: ignore[assignment] # the keys are values of the enum
    return legs


def _legs(actual: dict[int, LegOutcome], prediction: EtaPrediction) -> list[LegOutcome]:
    predicted: dict[int, float] = {leg.kind: leg.minutes for leg in prediction.legs}
    legs = []
    for kind, known in actual.items():
        leg = LegOutcome()
        leg.CopyFrom(known)
        if kind in predicted:
            leg.predicted_minutes = predicted[kind]
        if leg.HasField("predicted_minutes") or leg.HasField("actual_minutes"):
            legs.append(leg)
    return legs


def _span_min(start_us: int, end_us: int) -> float | None:
    """Minutes between two times; None if one is not known or they are the wrong way round."""
    if start_us == NEVER or end_us == NEVER or end_us < start_us:
        return None
    return (end_us - start_us) / _US_PER_MIN
