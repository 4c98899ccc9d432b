"""Whose fixes move an order, by the rule that route has too: its own courier's only. An order without one is
taken by a known courier who says to be under way with it.

What is said of an order that nobody knows yet, or of a free one by a courier whom nobody knows, is kept until
more is known; of several who say so, the last counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from waymesh.gps.v1.gps_pb2 import TripStage

from services.eta.fixes import Fixes, Ints
from services.eta.orders import KnownOrder, OrderBook
from services.eta.tracks import Track


@dataclass(slots=True)
class Own:
    """Fixes of a batch by whether they are told by the order's own courier."""

    rows: list[int] = field(default_factory=list)
    """Places of those that are, or may turn out to be."""
    strangers: list[int] = field(default_factory=list)
    """Places of those that are not."""


def believed(order: KnownOrder, driver_id: str, book: OrderBook) -> bool:
    """Whether what a courier says of an order holds, if it is under way with it."""
    if order.driver_id:
        return order.driver_id == driver_id
    return book.courier(driver_id) is not None


def own_fixes(fixes: Fixes, rows: Ints, tracks: Mapping[str, Track], book: OrderBook) -> Own:
    """Which fixes move their orders, `rows` being those that name one, as they came. Tracks that another
    courier has made begin anew.
    """
    found = Own()
    holders: dict[str, str] = {}
    # Who told of each order last; and up to where in `rows` what was told before is another's.
    tellers: dict[str, str] = {}
    begins: dict[str, int] = {}
    for row in rows.tolist():
        order_id, driver_id = fixes.order_id[row], fixes.driver_id[row]
        if order_id not in holders:
            holders[order_id] = _holder(order_id, tracks, book)
            known = tracks.get(order_id)
            tellers[order_id] = known.driver_id if known is not None else ""
        holder = holders[order_id]
        if holder not in ("", driver_id):
            found.strangers.append(row)
            continue
        if not holder and _takes(fixes, row, book):
            holders[order_id] = driver_id
        if tellers[order_id] != driver_id:
            tellers[order_id] = driver_id
            begins[order_id] = row
        found.rows.append(row)
    if begins:
        for order_id in begins:
            track = tracks.get(order_id)
            if track is not None and track.driver_id:
                track.restart(tellers[order_id])
        found.rows = [row for row in found.rows if row >= begins.get(fixes.order_id[row], 0)]
    return found


def _holder(order_id: str, tracks: Mapping[str, Track], book: OrderBook) -> str:
    """The order's own courier, empty if it has none or is not known."""
    order, track = book.order(order_id), tracks.get(order_id)
    if order is None:
        return ""
    if not order.driver_id and track is not None and track.stage >= TripStage.TRIP_STAGE_TO_PICKUP:
        return track.driver_id if believed(order, track.driver_id, book) else ""
    return order.driver_id


def _takes(fixes: Fixes, row: int, book: OrderBook) -> bool:
    """Whether a fix says that a known courier is under way with a free order."""
    order = book.order(fixes.order_id[row])
    under_way = fixes.stage[row] >= TripStage.TRIP_STAGE_TO_PICKUP
    return order is not None and bool(under_way) and believed(order, fixes.driver_id[row], book)
