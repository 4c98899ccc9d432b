"""A city as a plane: straight ways between points a few kilometres apart."""

import math
from dataclasses import dataclass
from typing import Final

_METRES_PER_DEGREE: Final = 111_195.0  # of latitude, on a sphere of the IUGG mean radius


@dataclass(frozen=True, slots=True)
class Point:
    """A place, WGS 84 degrees."""

    lat: float
    lon: float

    def moved(self, north_m: float, east_m: float) -> "Point":
        """The place so many metres away."""
        scale = _METRES_PER_DEGREE * math.cos(math.radians(self.lat))
        return Point(self.lat + north_m / _METRES_PER_DEGREE, self.lon + east_m / scale)

    def distance_m(self, other: "Point") -> float:
        """Straight way to another place; equirectangular, right to a few centimetres within a city."""
        middle = math.radians((self.lat + other.lat) / 2)
        north = (other.lat - self.lat) * _METRES_PER_DEGREE
        east = (other.lon - self.lon) * _METRES_PER_DEGREE * math.cos(middle)
        return math.hypot(north, east)

    def toward(self, other: "Point", way_m: float) -> "Point":
        """The place after `way_m` of the straight way to another, at most that place itself."""
        whole = self.distance_m(other)
        if way_m >= whole:
            return other
        share = way_m / whole
        return Point(self.lat + (other.lat - self.lat) * share, self.lon + (other.lon - self.lon) * share)
