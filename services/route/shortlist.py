"""The couriers worth weighing for each order: the nearest of those with the skills and the room. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.route.fleet import CourierState, OrderWork
from services.route.limits import DETOUR, SPEED_KPH
from services.route.travel import EARTH_RADIUS_M


def shortlist(
    orders: Sequence[OrderWork], couriers: Sequence[CourierState], size: int
) -> dict[str, list[str]]:
    """By order_id the driver_ids of the able couriers who could be there first, at most `size`."""
    found: dict[str, list[str]] = {order.order_id: [] for order in orders}
    able = [courier for courier in couriers if courier.room]
    if not able:
        return found
    lat = np.radians([courier.position.lat for courier in able])
    lon = np.radians([courier.position.lon for courier in able])
    speed = np.array([SPEED_KPH[courier.vehicle] / 3.6 for courier in able])
    capacity = np.array([courier.capacity for courier in able])
    reach = np.array([courier.limits.max_length_m for courier in able])
    skilled: dict[frozenset[str], NDArray[np.bool_]] = {}
    for order in orders:
        has = skilled.get(order.skills)
        if has is None:
            has = np.array([order.skills <= courier.skills for courier in able])
            skilled[order.skills] = has
        metres = _metres(lat, lon, order.pickup.lat, order.pickup.lon) * DETOUR
        seconds = np.where(has & (capacity >= order.size) & (metres <= reach), metres / speed, np.inf)
        count = min(size, len(able))
        nearest = np.argpartition(seconds, count - 1)[:count]
        nearest = nearest[np.lexsort((nearest, seconds[nearest]))]
        found[order.order_id] = [able[i].driver_id for i in nearest if np.isfinite(seconds[i])]
    return found


def _metres(
    lat: NDArray[np.float64], lon: NDArray[np.float64], to_lat: float, to_lon: float
) -> NDArray[np.float64]:
    there_lat, there_lon = np.radians(to_lat), np.radians(to_lon)
    h = (
        np.sin((lat - there_lat) / 2) ** 2
        + np.cos(lat) * np.cos(there_lat) * np.sin((lon - there_lon) / 2) ** 2
    )
    metres: NDArray[np.float64] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(1.0, h)))
    return metres
