"""Travel times and distances between the few places of one problem. Pure.

Three makers: a matrix from the request, a plane (straight lines and one speed), and what eta answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from services.roads import great_circle
from services.route.limits import DETOUR, SPEED_KPH, Vehicle

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
    """Great-circle distance in metres."""
    return great_circle.distances_m(((a.lat, a.lon), (b.lat, b.lon)))[0][1]


def plane(places: Sequence[Place], speed_kph: float, detour: float = 1.0) -> Travel:
    """Straight lines times `detour`, at `speed_kph` above 0. Rounded up, so that no leg is free."""
    metres_per_s = speed_kph / 3.6
    lines = great_circle.distances_m([(place.lat, place.lon) for place in places])
    metres, seconds = ([[0] * len(places) for _ in places] for _ in range(2))
    # The same both ways, and made for every route that an allocation weighs: half the table is enough.
    for i, row in enumerate(lines):
        for j in range(i):
            way = ceil(row[j] * detour)
            metres[i][j] = metres[j][i] = way
            seconds[i][j] = seconds[j][i] = ceil(way / metres_per_s)
    return Travel(tuple(map(tuple, seconds)), tuple(map(tuple, metres)))


def fallback(places: Sequence[Place], vehicle: Vehicle) -> Travel:
    """What holds when eta does not answer: great circle, default detour and the vehicle's usual speed.

    An unknown vehicle is taken for a motorcycle, as eta's travel times take it.
    """
    return plane(places, SPEED_KPH[vehicle or Vehicle.MOTORCYCLE], DETOUR)


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
    lines = great_circle.distances_m([(place.lat, place.lon) for place in places])
    return Travel(seconds, tuple(tuple([ceil(line) for line in row]) for row in lines))
