"""Travel times and distances between the few places of one problem. Pure.

Three makers: a matrix from the request, a plane (straight lines and one speed), and what eta answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, ceil, cos, radians, sin, sqrt
from typing import Final

from services.route.limits import DETOUR, SPEED_KPH, Vehicle

# IUGG mean radius.
EARTH_RADIUS_M: Final = 6_371_008.8

Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A point, WGS 84 degrees."""

    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Travel:
    """Square tables: `seconds[i][j]` and `metres[i][j]` from place i to place j. Place 0 is the start."""

    seconds: Table
    metres: Table


class MatrixSizeError(ValueError):
    """A matrix does not fit the places."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"expected {expected} values, found {found}")
        self.expected = expected
        self.found = found


def distance_m(a: Place, b: Place) -> float:
    """Great-circle distance in metres (haversine)."""
    lat_a, lat_b = radians(a.lat), radians(b.lat)
    h = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin(radians(b.lon - a.lon) / 2) ** 2
    return 2 * EARTH_RADIUS_M * asin(sqrt(min(1.0, h)))


def plane(places: Sequence[Place], speed_kph: float, detour: float = 1.0) -> Travel:
    """Straight lines times `detour`, at `speed_kph` above 0. Rounded up, so that no leg is free."""
    metres_per_s = speed_kph / 3.6
    n = len(places)
    points = [(radians(p.lat), radians(p.lon), cos(radians(p.lat))) for p in places]
    metres = [[0] * n for _ in places]
    seconds = [[0] * n for _ in places]
    # The inner loop of every allocation: straight lines are the same both ways, so half the table is enough.
    for i, (lat_a, lon_a, cos_a) in enumerate(points):
        for j in range(i + 1, n):
            lat_b, lon_b, cos_b = points[j]
            h = sin((lat_b - lat_a) / 2) ** 2 + cos_a * cos_b * sin((lon_b - lon_a) / 2) ** 2
            if h > 0.0:
                way = ceil(2 * EARTH_RADIUS_M * asin(sqrt(min(1.0, h))) * detour)
                metres[i][j] = metres[j][i] = way
                seconds[i][j] = seconds[j][i] = ceil(way / metres_per_s)
    return Travel(tuple(map(tuple, seconds)), tuple(map(tuple, metres)))


def fallback(places: Sequence[Place], vehicle: Vehicle) -> Travel:
    """What holds when eta does not answer: great circle, default detour and the vehicle's usual speed."""
    return plane(places, SPEED_KPH[vehicle], DETOUR)


def table(values: Sequence[int], n: int) -> Table:
    """n × n values, row by row, as a table. Raises MatrixSizeError."""
    if len(values) != n * n:
        raise MatrixSizeError(n * n, len(values))
    return tuple(tuple(values[i * n : (i + 1) * n]) for i in range(n))


def matrix(durations_s: Sequence[int], distances_m: Sequence[int], places: Sequence[Place]) -> Travel:
    """Tables given row by row; without distances, straight lines. Raises MatrixSizeError."""
    n = len(places)
    seconds = table(durations_s, n)
    if distances_m:
        return Travel(seconds, table(distances_m, n))
    return Travel(seconds, tuple(tuple(ceil(distance_m(a, b)) for b in places) for a in places))
