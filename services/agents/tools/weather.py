"""Tool: weather at a place and time, from a provider or from what an order's context says."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field
from waymesh.gps.v1.location_pb2 import Location
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_ARGUMENTS
from waymesh.route.v1.route_service_pb2 import GetOrderRequest

from services.agents.tools.desk import Desk
from services.agents.tools.orders import learn
from services.agents.tools.places import AnyPlace, location
from services.agents.tools.signature import OrderId
from services.mesh import json_codec
from services.mesh.errors import FieldViolation, InvalidArgument, MeshError


async def weather(
    desk: Desk,
    place: Annotated[AnyPlace | None, Field(description="Where; null: at the dropoff of order_id.")] = None,
    order_id: Annotated[
        OrderId | None, Field(description="An order whose weather is wanted, or null.")
    ] = None,
    in_minutes: Annotated[
        float | None, Field(description="Minutes from now; null: now.", ge=0, le=7200)
    ] = None,
) -> dict[str, Any]:
    """Weather at a place, or at an order's dropoff: the condition and, where a provider tells them,
    temperature and wind. Says so when it is not known."""
    where = None if place is None else location(place)
    if where is None and (place is not None or order_id is None):
        raise InvalidArgument(
            "the arguments of weather are wrong",
            reason=ERROR_REASON_TOOL_ARGUMENTS,
            metadata={"tool": "weather"},
            violations=[FieldViolation("place", "name a place within ±90 and ±180 degrees, or an order")],
        )
    told_by_order = None
    if order_id is not None:
        desk.open_order(order_id)
        answer = await desk.route.GetOrder(GetOrderRequest(order_id=order_id))
        learn(desk, answer)
        where = where or answer.order.dropoff
        if answer.order.context.HasField("weather"):
            told_by_order = json_codec.to_dict(answer.order.context)["weather"]
    missing = "no weather provider is set up"
    if desk.weather is not None and where is not None:
        try:
            found = await _observed(desk, where, in_minutes or 0.0)
        except MeshError:
            missing = "the weather provider did not answer"
        else:
            if found is not None:
                return found
            missing = "the weather provider knows nothing of that time"
    if told_by_order is not None:
        return {"known": True, "condition": told_by_order, "source": "order", "note": missing}
    return {"known": False, "why": missing}


async def _observed(desk: Desk, where: Location, in_minutes: float) -> dict[str, Any] | None:
    assert desk.weather is not None
    now = desk.now()
    found = await desk.weather.at(where.lat, where.lon, now + timedelta(minutes=in_minutes), now)
    if found is None:
        return None
    told: dict[str, Any] = {
        "known": True,
        "condition": found.condition,
        "source": "forecast" if found.forecast else "observation",
        "at": found.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if found.temperature_c is not None:
        told["temperature_c"] = found.temperature_c
    if found.wind_mps is not None:
        told["wind_kph"] = found.wind_mps * 3.6
    return told
