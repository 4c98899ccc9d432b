"""Tool: travel times between two places, by vehicle and time of departure, and what traffic makes of them."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesRequest, GetTravelTimesResponse
from waymesh.gps.v1.location_pb2 import Location
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_ARGUMENTS

from services.agents.tools.desk import Desk, degraded
from services.agents.tools.places import AnyPlace, location
from services.agents.tools.signature import Part
from services.mesh.errors import FieldViolation, InvalidArgument

Vehicle = Literal["walking", "bicycle", "electric_scooter", "scooter", "motorcycle", "car"]

# Local time by the sun at which roads are as free as they get.
_FREE_HOUR: Final = 3
_DEGREES_PER_HOUR: Final = 15.0
_DEFAULT: Final[Vehicle] = "motorcycle"


class RouteOption(Part):
    """One way of going there."""

    vehicle: Vehicle | None = Field(default=None, description="How the courier moves; null: motorcycle.")
    departure_in_minutes: float | None = Field(
        default=None, description="Minutes from now until departure; null: now.", ge=0, le=10_080
    )


@dataclass(frozen=True, slots=True)
class _Way:
    duration_s: int
    distance_m: int
    answer: GetTravelTimesResponse


async def get_traffic_data(
    desk: Desk,
    origin: Annotated[AnyPlace, Field(description="Where the way begins.")],
    destination: Annotated[AnyPlace, Field(description="Where it ends.")],
    route_options: Annotated[
        list[RouteOption],
        Field(description="Ways of going there to compare; empty: by motorcycle, now.", max_length=6),
    ],
) -> dict[str, Any]:
    """Travel time, distance and speed between two places, for each vehicle and departure asked for, with the
    factor by which traffic makes it longer where that is known."""
    start, end = _point(desk, origin, "origin"), _point(desk, destination, "destination")
    options = route_options or [RouteOption()]
    told = await asyncio.gather(*(_option(desk, start, end, option) for option in options))
    result: dict[str, Any] = {"options": [option for option, _ in told]}
    for _, answer in told:
        if answer.HasField("degradation"):
            result["degradation"] = degraded(answer.degradation)
    return result


async def _option(
    desk: Desk, start: Location, end: Location, option: RouteOption
) -> tuple[dict[str, Any], GetTravelTimesResponse]:
    vehicle = option.vehicle or _DEFAULT
    departure = desk.now() + timedelta(minutes=option.departure_in_minutes or 0.0)
    now, free = await asyncio.gather(
        _way(desk, start, end, vehicle, departure),
        _way(desk, start, end, vehicle, _free_flow(departure, start.lon)),
    )
    told: dict[str, Any] = {
        "vehicle": vehicle,
        "departure_time": departure.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_s": now.duration_s,
        "duration_minutes": now.duration_s / 60,
        "distance_m": now.distance_m,
        "distance_km": now.distance_m / 1000,
    }
    if now.duration_s:
        told["speed_kph"] = now.distance_m / now.duration_s * 3.6
    # Times that do not change with the hour know nothing of traffic: then there is no factor to tell.
    told["traffic_known"] = now.duration_s != free.duration_s
    if told["traffic_known"] and free.duration_s:
        told |= {"free_flow_duration_s": free.duration_s, "traffic_factor": now.duration_s / free.duration_s}
    return told, now.answer


async def _way(desk: Desk, start: Location, end: Location, vehicle: str, departure: datetime) -> _Way:
    at = Timestamp()
    at.FromDatetime(departure)
    answer = await desk.eta.GetTravelTimes(
        GetTravelTimesRequest(
            origins=[start],
            destinations=[end],
            vehicle_type=VehicleType.Value(f"VEHICLE_TYPE_{vehicle.upper()}"),
            departure_time=at,
        )
    )
    return _Way(answer.durations_s[0], answer.distances_m[0], answer)


def _free_flow(departure: datetime, lon: float) -> datetime:
    """The next small hour of the morning at a longitude (degrees)."""
    local = departure + timedelta(hours=lon / _DEGREES_PER_HOUR)
    free = local.replace(hour=_FREE_HOUR, minute=0, second=0, microsecond=0)
    return departure + (free - local) % timedelta(days=1)


def _point(desk: Desk, place: Any, argument: str) -> Location:
    found = location(place)
    if found is None:
        raise InvalidArgument(
            f"the arguments of {desk.tool} are wrong",
            reason=ERROR_REASON_TOOL_ARGUMENTS,
            metadata={"tool": desk.tool},
            violations=[
                FieldViolation(argument, "latitude must be within ±90, longitude within ±180 degrees")
            ],
        )
    return found
