"""How fast couriers get on, door to door over the straight way."""

import random
from dataclasses import dataclass
from typing import Final

from waymesh.gps.v1.vehicle_pb2 import VehicleType


@dataclass(frozen=True, slots=True)
class Pace:
    """Mean and spread of the speed of a leg, km/h, stops at lights included."""

    mean_kph: float
    spread_kph: float

    def draw(self, rng: random.Random) -> float:
        """Speed of one leg; never below a third of the mean."""
        return max(self.mean_kph / 3, rng.gauss(self.mean_kph, self.spread_kph))


# Means of urban trips: walking and cycling as in door-to-door studies, motor vehicles as city averages at
# day.
PACES: Final = {
    VehicleType.VEHICLE_TYPE_WALKING: Pace(4.8, 0.5),
    VehicleType.VEHICLE_TYPE_BICYCLE: Pace(14.0, 2.0),
    VehicleType.VEHICLE_TYPE_ELECTRIC_SCOOTER: Pace(15.0, 2.0),
    VehicleType.VEHICLE_TYPE_SCOOTER: Pace(24.0, 4.0),
    VehicleType.VEHICLE_TYPE_MOTORCYCLE: Pace(28.0, 5.0),
    VehicleType.VEHICLE_TYPE_CAR: Pace(22.0, 5.0),
}
# What a small fleet in a city drives, most often first.
FLEET_MIX: Final = (
    VehicleType.VEHICLE_TYPE_MOTORCYCLE,
    VehicleType.VEHICLE_TYPE_BICYCLE,
    VehicleType.VEHICLE_TYPE_SCOOTER,
    VehicleType.VEHICLE_TYPE_MOTORCYCLE,
    VehicleType.VEHICLE_TYPE_CAR,
    VehicleType.VEHICLE_TYPE_ELECTRIC_SCOOTER,
)
