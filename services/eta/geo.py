"""Distances on the sphere, as columns."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Mean radius R1 of the IUGG, metres.
EARTH_RADIUS_M: Final = 6_371_008.8


def great_circle_m(lat_a: Floats, lon_a: Floats, lat_b: Floats, lon_b: Floats) -> Floats:
    """Great-circle distance in metres between points in degrees; shapes broadcast, NaN stays NaN.

    Haversine formula (Sinnott 1984), which keeps its precision at short distances.
    """
    phi_a, phi_b = np.radians(lat_a), np.radians(lat_b)
    half_lat = np.sin((phi_b - phi_a) / 2)
    half_lon = np.sin(np.radians(lon_b - lon_a) / 2)
    chord = half_lat * half_lat + np.cos(phi_a) * np.cos(phi_b) * half_lon * half_lon
    return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(chord, 1.0))), dtype=np.float64)
