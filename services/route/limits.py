"""What a route may be at most, and how fast each vehicle goes when nobody knows better. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from services.roads import usual


class Vehicle(IntEnum):
    """How a courier moves; the numbers are those of waymesh.gps.v1.VehicleType."""

    UNKNOWN = 0
    WALKING = 1
    BICYCLE = 2
    ELECTRIC_SCOOTER = 3
    SCOOTER = 4
    MOTORCYCLE = 5
    CAR = 6


# Length of a route by vehicle, in metres. An unknown vehicle is taken for a motorcycle, as eta does.
MAX_LENGTH_M: Final[Mapping[Vehicle, int]] = {
    Vehicle.UNKNOWN: 50_000,
    Vehicle.WALKING: 5_000,
    Vehicle.BICYCLE: 15_000,
    Vehicle.ELECTRIC_SCOOTER: 25_000,
    Vehicle.SCOOTER: 25_000,
    Vehicle.MOTORCYCLE: 50_000,
    Vehicle.CAR: 50_000,
}

# By vehicle, km/h. Used only when eta has no travel times to give.
SPEED_KPH: Final[Mapping[Vehicle, float]] = {vehicle: usual.SPEED_KPH[vehicle] for vehicle in Vehicle}
DETOUR: Final = usual.DETOUR

DEFAULT_CAPACITY: Final = 4.0
DEFAULT_ORDER_SIZE: Final = 1.0
MAX_ORDERS: Final = 4
# Orders of one courier that are still planned exactly, in tens of milliseconds.
MAX_PLANNED: Final = 6

# Stands for "no limit" in seconds and metres: far above any day or planet.
UNLIMITED: Final = 10**12


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one route. Times in seconds, lengths in metres."""

    max_on_board: int = MAX_ORDERS
    capacity: float = DEFAULT_CAPACITY
    max_duration_s: int = 90 * 60
    max_length_m: int = 50_000
    max_food_wait_s: int = 30 * 60
    pickup_service_s: int = 120
    dropoff_service_s: int = 120


@lru_cache(maxsize=1024)  # asked for each courier at each allocation; few differ
def default_limits(vehicle: Vehicle, capacity: float = 0.0) -> Limits:
    """The default limits of a vehicle; capacity in units of order size, 0 means the default of 4."""
    return Limits(capacity=capacity or DEFAULT_CAPACITY, max_length_m=MAX_LENGTH_M[vehicle])


def relaxed(limits: Limits) -> Limits:
    """The same without the limits that a route under way may already have broken: time, length, food wait.

    What is on board must be brought somewhere, however late; room on board stays a physical fact.
    """
    return Limits(
        max_on_board=limits.max_on_board,
        capacity=limits.capacity,
        max_duration_s=UNLIMITED,
        max_length_m=UNLIMITED,
        max_food_wait_s=UNLIMITED,
        pickup_service_s=limits.pickup_service_s,
        dropoff_service_s=limits.dropoff_service_s,
    )
