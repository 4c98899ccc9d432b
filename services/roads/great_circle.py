"""Distances on the sphere by the haversine formula (Sinnott 1984), precise when they are short too.

Twice, as columns and as plain numbers: for the few places of one route numpy costs more than it saves.
"""

from collections.abc import Sequence
from math import asin, cos, radians, sin, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Mean radius R1 of the IUGG, metres.
EARTH_RADIUS_M: Final = 6_371_008.8


def great_circle_m(lat_a: Floats, lon_a: Floats, lat_b: Floats, lon_b: Floats) -> Floats:
    """Great-circle distance in metres between points in degrees; shapes broadcast, NaN stays NaN."""
    phi_a, phi_b = np.radians(lat_a), np.radians(lat_b)
    half_lat = np.sin((phi_b - phi_a) / 2)
    half_lon = np.sin(np.radians(lon_b - lon_a) / 2)
    chord = half_lat * half_lat + np.cos(phi_a) * np.cos(phi_b) * half_lon * half_lon
    return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(chord, 1.0))), dtype=np.float64)


def distances_m(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Great-circle distances in metres, each to each, between a few points (latitude, longitude; degrees)."""
    table = [[0.0] * len(points) for _ in points]
    known = [(radians(lat), radians(lon), cos(radians(lat))) for lat, lon in points]
    # The inner loop of every allocation: a line is the same both ways, so half the table is enough.
    for i, (lat_a, lon_a, cos_a) in enumerate(known):
        row = table[i]
        for j in range(i + 1, len(known)):
            lat_b, lon_b, cos_b = known[j]
            chord = sin((lat_b - lat_a) / 2) ** 2 + cos_a * cos_b * sin((lon_b - lon_a) / 2) ** 2
            if chord > 0.0:
                row[j] = table[j][i] = 2 * EARTH_RADIUS_M * asin(sqrt(min(1.0, chord)))
    return table
