"""Tool: how long a described delivery takes, as the prediction engine of eta sees it.

The engine knows orders with places, not distances, and levels of traffic, not factors. So an order is
described whose way is as long as asked (scaled by the engine's own idea of how much longer a way is than the
straight line), once for each level of traffic; the answer is the one whose way the engine slows down by the
factor nearest to the one asked for. Every minute told is the engine's, for a case it was asked about.
"""

import math
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field
from waymesh.eta.v1.eta_pb2 import EtaPrediction, EtaQuery
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaRequest
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesRequest
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.gps.v1.gps_pb2 import TrafficDensity
from waymesh.gps.v1.location_pb2 import Location
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.order.v1.context_pb2 import DeliveryContext, Weather
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.agents.tools.desk import Desk, degraded
from services.mesh.errors import from_status

Conditions = Literal["clear", "cloudy", "fog", "windy", "rain", "storm", "snow", "sandstorm"]

# Mean radius of the Earth (IUGG), as the engine's great circles have it, in metres.
_EARTH_M: Final = 6_371_008.8
_LEVELS: Final = ("light", "moderate", "heavy", "severe")
_VEHICLE: Final = VehicleType.VEHICLE_TYPE_MOTORCYCLE
_CARRIED: Final = frozenset({LegKind.LEG_KIND_TO_DESTINATION})


@dataclass(frozen=True, slots=True)
class _Case:
    level: str
    prediction: EtaPrediction
    slowed: float
    """Minutes under way, in those without traffic."""


async def calculate_delivery_time(
    desk: Desk,
    distance_km: Annotated[
        float, Field(description="Way from pickup to dropoff in kilometres.", gt=0, le=200)
    ],
    traffic_factor: Annotated[
        float | None,
        Field(
            description="How many times longer traffic makes the way, 1 being usual; null: usual.",
            ge=0.5,
            le=5,
        ),
    ] = None,
    weather_conditions: Annotated[
        Conditions | None, Field(description="Weather at the time; null: not known.")
    ] = None,
    driver_performance: Annotated[
        float | None, Field(description="The courier's rating, 0 to 5 stars; null: not known.", ge=0, le=5)
    ] = None,
) -> dict[str, Any]:
    """Minutes from pickup to handover for a distance, as the prediction engine gives them, with P10/P50/P90
    and what traffic and weather add; and the minutes from placing such an order to its handover."""
    here, there, degradation = await _places(desk, distance_km * 1000)
    levels = ("", *_LEVELS) if traffic_factor is not None else ("",)
    carried = [_query(desk, here, there, level, weather_conditions, driver_performance) for level in levels]
    unrated = _query(desk, here, there, "", weather_conditions, None)
    predicted = await _predict(desk, [*carried, unrated])
    case = _nearest(levels, predicted, traffic_factor)
    placed_query = _query(desk, here, there, case.level, weather_conditions, driver_performance, placed=True)
    (placed,) = await _predict(desk, [placed_query])
    told: dict[str, Any] = {
        "delivery_minutes": case.prediction.delivery_eta_minutes,
        "delivery": _quantiles(case.prediction),
        "confidence": case.prediction.confidence,
        "factors": [{"name": one.name, "minutes": one.minutes} for one in case.prediction.factors],
        "base_minutes": case.prediction.base_minutes,
        "from_placement_minutes": placed.delivery_eta_minutes,
        "from_placement": _quantiles(placed),
        "traffic_level": case.level or "usual",
    }
    if case.level:
        told["traffic_factor"] = case.slowed
    same = predicted[0].delivery_eta_minutes == predicted[-1].delivery_eta_minutes
    if driver_performance is not None and same:
        told["not_taken_into_account"] = ["driver_performance"]
    if degradation is not None:
        told["degradation"] = degradation
    return told


async def _places(desk: Desk, way_m: float) -> tuple[Location, Location, dict[str, str] | None]:
    """Two places on the equator that are, for the engine, that far apart by road."""
    here = Location(lat=0.0, lon=0.0)
    straight = Location(lat=0.0, lon=math.degrees(way_m / _EARTH_M))
    half = Location(lat=0.0, lon=straight.lon / 2)
    answer = await desk.eta.GetTravelTimes(
        GetTravelTimesRequest(origins=[here], destinations=[half, straight], vehicle_type=_VEHICLE)
    )
    near_m, far_m = answer.distances_m
    # A way is a share of the straight line and some metres besides: two of them give both.
    per_m = (far_m - near_m) / (way_m / 2)
    besides_m = 2 * near_m - far_m
    wanted_m = max((way_m - besides_m) / per_m, 1.0) if per_m > 0 else way_m
    there = Location(lat=0.0, lon=math.degrees(wanted_m / _EARTH_M))
    return here, there, degraded(answer.degradation) if answer.HasField("degradation") else None


def _query(
    desk: Desk,
    here: Location,
    there: Location,
    level: str,
    weather: str | None,
    rating: float | None,
    *,
    placed: bool = False,
) -> EtaQuery:
    now = Timestamp()
    now.FromDatetime(desk.now())
    context = DeliveryContext(vehicle_type=_VEHICLE)
    if level:
        context.traffic_density = TrafficDensity.Value(f"TRAFFIC_DENSITY_{level.upper()}")
    if weather is not None:
        context.weather = Weather.Value(f"WEATHER_{weather.upper()}")
    if rating is not None:
        context.courier_rating = rating
    order = Order(
        # No order has this id, so nothing that is known of one comes in.
        order_id=f"described-{uuid.uuid4().hex}",
        revision=1,
        status=OrderStatus.ORDER_STATUS_PLACED if placed else OrderStatus.ORDER_STATUS_PICKED_UP,
        pickup=here,
        dropoff=there,
        placed_at=now,
    )
    if placed:
        return EtaQuery(order=order, context=context, as_of=now)
    order.picked_up_at.CopyFrom(now)
    return EtaQuery(order=order, context=context, as_of=now, courier_location=here)


async def _predict(desk: Desk, queries: list[EtaQuery]) -> list[EtaPrediction]:
    answer = await desk.eta.BatchPredictEta(BatchPredictEtaRequest(queries=queries))
    for result in answer.results:
        if result.HasField("error"):
            raise from_status(result.error)
    return [result.prediction for result in answer.results]


def _nearest(levels: tuple[str, ...], predicted: list[EtaPrediction], factor: float | None) -> _Case:
    """The case whose way the engine makes longest or shortest by nearly the factor asked for."""
    cases = [_Case(level, one, _slowed(one)) for level, one in zip(levels, predicted, strict=False)]
    if factor is None:
        return cases[0]
    return min(cases, key=lambda case: abs(math.log(case.slowed / factor)))


def _slowed(one: EtaPrediction) -> float:
    """How many times longer the engine's traffic factor makes the way."""
    usual = sum(leg.minutes for leg in one.legs if leg.kind in _CARRIED)
    added = sum(factor.minutes for factor in one.factors if factor.name == "traffic")
    without = usual - added
    return usual / without if without > 0 and usual > 0 else 1.0


def _quantiles(one: EtaPrediction) -> dict[str, float]:
    quantiles = one.delivery
    return {
        "p10_minutes": quantiles.p10_minutes,
        "p50_minutes": quantiles.p50_minutes,
        "p90_minutes": quantiles.p90_minutes,
    }
