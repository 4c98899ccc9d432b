"""Messages of the services as tools tell them: few fields, units in the names, strangers' ids left out."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Quantiles
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.order_pb2 import Order, OrderStatus
from waymesh.route.v1.allocation_pb2 import Allocation
from waymesh.route.v1.route_pb2 import RoutePlan, Stop, StopKind

from services.agents.tools import untrusted
from services.agents.tools.scope import Scope, is_plain_id
from services.agents.tools.sentences import engine_text
from services.mesh import json_codec

_MAX_SECONDS: Final = 253402300799


def when(time: Timestamp) -> str | None:
    """A time as RFC 3339 to the second; None outside the years 1 to 9999."""
    if not -62135596800 <= time.seconds <= _MAX_SECONDS:
        return None
    # strftime leaves out the zeros of early years.
    return datetime.fromtimestamp(time.seconds, UTC).isoformat().removesuffix("+00:00") + "Z"


def label(enum: Any, value: int, prefix: str) -> str:
    """A value of an enum as contracts write it; `unspecified` for those of newer peers."""
    try:
        name: str = enum.Name(value)
    except ValueError:
        return "unspecified"
    return name.removeprefix(prefix).lower()


def place(location: Location) -> dict[str, float]:
    """A place in degrees."""
    return {"lat": round(location.lat, 6), "lon": round(location.lon, 6)}


def order(one: Order, scope: Scope) -> dict[str, Any]:
    """An order that the run may see."""
    told: dict[str, Any] = {
        "order_id": scope.shown_order(one.order_id),
        "status": label(OrderStatus, one.status, "ORDER_STATUS_"),
        "pickup": place(one.pickup),
        "dropoff": place(one.dropoff),
        "placed_at": when(one.placed_at),
        "item_lines": len(one.items),
        "priority": one.priority,
    }
    for name in ("ready_at", "picked_up_at", "delivered_at"):
        if one.HasField(name):
            told[name] = when(getattr(one, name))
    window = one.promised_window
    if window.HasField("earliest"):
        told["promised_earliest"] = when(window.earliest)
    if window.HasField("latest"):
        told["promised_latest"] = when(window.latest)
    if one.driver_id:
        told["driver_id"] = scope.shown_driver(one.driver_id)
    if one.size:
        told["size"] = one.size
    context = json_codec.to_dict(one.context)
    known = {name: context[name] for name in _CONTEXT if one.context.HasField(name)}
    if known:
        told["context"] = known
    if is_plain_id(one.merchant.merchant_id):
        told["merchant_id"] = one.merchant.merchant_id
    if is_plain_id(one.context.area):
        told["area"] = one.context.area
    return told | untrusted.texts(
        merchant_name=one.merchant.name,
        items=[item.name for item in one.items],
        required_skills=one.required_skills,
        labels=one.context.labels,
        cancel_reason=one.cancel_reason,
        area="" if is_plain_id(one.context.area) else one.context.area,
    )


_CONTEXT: Final = (
    "weather",
    "traffic_density",
    "vehicle_type",
    "courier_rating",
    "batch_size",
    "item_count",
    "couriers_on_shift",
    "couriers_busy",
    "open_orders",
    "is_holiday",
)


def allocation(one: Allocation, scope: Scope) -> dict[str, Any]:
    """Who carries an order, and why. Runners-up have no names: nobody asked for them."""
    ids = {other.driver_id for other in one.alternative_drivers}
    told: dict[str, Any] = {
        "order_id": scope.shown_order(one.order_id),
        "assigned_driver_id": scope.shown_driver(one.assigned_driver_id),
        "allocation_score": one.allocation_score,
        "allocation_score_out_of": 100,
        "engine_text": [said for each in one.reasoning if (said := engine_text(each, ids))],
        "runners_up": [{"score": other.score} for other in one.alternative_drivers],
    }
    if one.HasField("estimated_pickup_time"):
        told["estimated_pickup_time"] = when(one.estimated_pickup_time)
    return told


def stops(made: Iterable[Stop], scope: Scope) -> list[dict[str, Any]]:
    """Stops in their order."""
    return [
        {
            "order_id": scope.shown_order(stop.order_id),
            "kind": "pickup" if stop.kind == StopKind.STOP_KIND_PICKUP else "dropoff",
            "time": when(stop.time),
            "wait_minutes": stop.wait_minutes,
            "lateness_minutes": stop.lateness_minutes,
            "distance_m": stop.distance_m,
        }
        for stop in made
    ]


def plan(one: RoutePlan) -> dict[str, Any]:
    """What a plan takes, without its stops."""
    return {
        "duration_minutes": one.duration_minutes,
        "distance_m": one.distance_m,
        "lateness_minutes": one.lateness_minutes,
        "food_wait_minutes": one.food_wait_minutes,
    }


def prediction(one: EtaPrediction, scope: Scope) -> dict[str, Any]:
    """When an order arrives, and what makes it so."""
    told: dict[str, Any] = {
        "order_id": scope.shown_order(one.order_id),
        "delivery_eta": when(one.delivery_eta),
        "delivery_eta_minutes": one.delivery_eta_minutes,
        "confidence": one.confidence,
        "delivery": _quantiles(one.delivery),
        "factors": [{"name": each.name, "minutes": each.minutes} for each in one.factors],
        "legs": [
            {
                "kind": label(LegKind, leg.kind, "LEG_KIND_"),
                "minutes": leg.minutes,
                "distance_m": leg.distance_m,
            }
            for leg in one.legs
        ],
        "base_minutes": one.base_minutes,
    }
    if one.HasField("timestamp"):
        told["timestamp"] = when(one.timestamp)
    if one.driver_id:
        told["driver_id"] = scope.shown_driver(one.driver_id)
    if one.HasField("pickup_eta"):
        told["pickup_eta"] = when(one.pickup_eta)
    if one.HasField("pickup_eta_minutes"):
        told |= {"pickup_eta_minutes": one.pickup_eta_minutes, "pickup": _quantiles(one.pickup)}
    if one.HasField("promise_probability"):
        told["promise_probability"] = one.promise_probability
    return told


def _quantiles(one: Quantiles) -> dict[str, float]:
    return {"p10_minutes": one.p10_minutes, "p50_minutes": one.p50_minutes, "p90_minutes": one.p90_minutes}
