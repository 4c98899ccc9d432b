"""The couriers worth weighing for each order: the nearest of those with the skills and the room. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.roads.great_circle import great_circle_m
from services.route.fleet import CourierState, OrderWork
from services.route.limits import DETOUR, SPEED_KPH


def shortlist(
    orders: Sequence[OrderWork], couriers: Sequence[CourierState], size: int
) -> dict[str, list[str]]:
    """By order_id the driver_ids of the able couriers who could be there first, at most `size`."""
    found: dict[str, list[str]] = {order.order_id: [] for order in orders}
    able = [courier for courier in couriers if courier.room]
    if not able:
        return found
    lat = np.array([courier.position.lat for courier in able])
    lon = np.array([courier.position.lon for courier in able])
    speed = np.array([SPEED_KPH[courier.vehicle] / 3.6 for courier in able])
    capacity = np.array([courier.capacity for courier in able])
    reach = np.array([courier.limits.max_length_m for courier in able])
    skilled: dict[frozenset[str], NDArray[np.bool_]] = {}
    for order in orders:
        has = skilled.get(order.skills)
        if has is None:
            has = np.array([order.skills <= courier.skills for courier in able])
            skilled[order.skills] = has
        there = np.array(order.pickup.lat), np.array(order.pickup.lon)
        metres = great_circle_m(lat, lon, *there) * DETOUR
        seconds = np.where(has & (capacity >= order.size) & (metres <= reach), metres / speed, np.inf)
        count = min(size, len(able))
        nearest = np.argpartition(seconds, count - 1)[:count]
        nearest = nearest[np.lexsort((nearest, seconds[nearest]))]
        found[order.order_id] = [able[i].driver_id for i in nearest if np.isfinite(seconds[i])]
    return found
