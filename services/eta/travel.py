"""Travel times between places, as far as great circles can tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from waymesh.gps.v1.location_pb2 import Location
from waymesh.gps.v1.vehicle_pb2 import VehicleType

from services.eta import priors
from services.eta.learning import Learned
from services.roads.great_circle import great_circle_m

Matrix = NDArray[np.uint32]


def matrix(
    origins: Sequence[Location], destinations: Sequence[Location], vehicle: int, learned: Learned
) -> tuple[Matrix, Matrix]:
    """Seconds and metres from each origin (row) to each destination (column)."""
    kind = vehicle or VehicleType.VEHICLE_TYPE_MOTORCYCLE
    start = np.array([(place.lat, place.lon) for place in origins])
    end = np.array([(place.lat, place.lon) for place in destinations])
    straight = great_circle_m(start[:, :1], start[:, 1:], end[:, 0], end[:, 1])
    # To the same place there is no way round the block.
    way = np.where(straight > 0, straight * learned.detour()[kind] + priors.WAY_OFFSET_M, 0.0)
    seconds = way / learned.speed_mps()[kind]
    return np.rint(seconds).astype(np.uint32), np.rint(way).astype(np.uint32)
