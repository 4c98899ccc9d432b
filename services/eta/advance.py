"""A batch of fixes moves couriers and orders on, and says which orders are to be predicted.

Fixes of a thousand couriers are taken in as columns; Python walks only over what is rare: changes of stage
and the fixes a prediction is made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from waymesh.gps.v1.gps_pb2 import TripStage

from services.eta.cases import Case
from services.eta.cleaning import Cleaned, Segments, clean
from services.eta.couriers import NEVER, CourierTable
from services.eta.fixes import Bools, Fixes, Ints
from services.eta.holders import believed, own_fixes
from services.eta.orders import KnownOrder, OrderBook
from services.eta.predict import Phase
from services.eta.tracks import Track, phase_of
from services.roads.great_circle import Floats

# The courier's pace is the way and time of about this long, older ones fading.
PACE_S: Final = 600.0
# After a longer silence nobody knows what the courier did, so it does not count for the pace.
_PACE_GAP_S: Final = 600.0
_FADED: Final = 1e-9
# Standing still says nothing new about the arrival.
MOVING_KPH: Final = 5.0
_MOVING: Final = (TripStage.TRIP_STAGE_TO_PICKUP, TripStage.TRIP_STAGE_TO_DESTINATION)
# One prediction per order and batch is enough when batches are short. One that spans more time gets one a
# minute, so that what is recorded of a trip does not depend on how its fixes were packed.
_EVERY_US: Final = 60_000_000


@dataclass(slots=True)
class Advance:
    """What a batch changed."""

    cleaned: Cleaned
    couriers: list[str]
    """Couriers whose row changed."""
    tracks: list[Track]
    """Orders whose track changed."""
    cases: list[Case] = field(default_factory=list)
    """Orders to be predicted; those of one order in the order of their times."""
    delivered: list[Track] = field(default_factory=list)
    """Orders that were handed over in this batch."""
    strangers: list[int] = field(default_factory=list)
    """Places of fixes that tell of another courier's order, and move nothing."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """The courier's state right after each fix; for fixes out of order without meaning."""

    here_lat: Floats
    here_lon: Floats
    run_m: Floats
    run_s: Floats


def advance(fixes: Fixes, couriers: CourierTable, tracks: dict[str, Track], book: OrderBook) -> Advance:
    """Take in fixes that came once and keep the rules. Every courier must have its row, known tracks be
    loaded.
    """
    if not len(fixes):
        nothing = np.empty(0)
        empty = Cleaned(
            flags=np.empty(0, dtype=np.int64),
            in_order=np.empty(0, dtype=np.bool_),
            vehicle=np.empty(0, dtype=np.int64),
            gap_s=nothing,
            hop_m=nothing,
            odd=np.empty(0, dtype=np.bool_),
        )
        return Advance(cleaned=empty, couriers=[], tracks=[])
    rows, courier = np.unique(couriers.rows_of(fixes.driver_id), return_inverse=True)
    known = couriers.get(rows)
    names = _names(fixes.driver_id, courier, len(rows))
    for place in np.flatnonzero(known["vehicle"] == 0).tolist():
        told = book.courier(names[place])
        known["vehicle"][place] = told.vehicle if told is not None else 0
    cleaned = clean(fixes, courier, known)
    as_of = _follow(fixes, cleaned, courier, known)
    couriers.set(rows, known)
    result = Advance(cleaned=cleaned, couriers=names, tracks=[])
    _move_orders(fixes, cleaned, as_of, tracks, book, result)
    return result


def _names(driver_id: Sequence[str], courier: Ints, count: int) -> list[str]:
    first = np.empty(count, dtype=np.int64)
    first[courier[::-1]] = np.arange(len(courier))[::-1]
    return [driver_id[row] for row in first.tolist()]


def _follow(fixes: Fixes, cleaned: Cleaned, courier: Ints, known: NDArray[np.void]) -> AsOf:
    """Bring the couriers' rows in `known` up to date; gives their state after each fix."""
    count, total = len(known), len(fixes)
    rows = Segments.of(courier).order
    rows = rows[cleaned.in_order[rows]]
    code = courier[rows]
    # Each courier's own row leads its fixes.
    together = np.argsort(np.concatenate([np.arange(count), code]), kind="stable")
    is_fix = together >= count
    places = rows[together[is_fix] - count]
    ends = np.append(np.flatnonzero(~is_fix)[1:], len(together)) - 1

    usable = np.concatenate([np.ones(count, dtype=np.bool_), cleaned.usable[rows]])[together]
    lat = np.concatenate([known["usable_lat"], fixes.lat[rows]])[together]
    lon = np.concatenate([known["usable_lon"], fixes.lon[rows]])[together]
    at_us = np.concatenate([known["usable_us"], fixes.at_us[rows]])[together]
    from_place = np.maximum.accumulate(np.where(usable, np.arange(len(together)), 0))
    lat, lon, at_us = lat[from_place], lon[from_place], at_us[from_place]

    gap = cleaned.gap_s[rows]
    counts = ~np.isnan(cleaned.hop_m[rows]) & (gap <= _PACE_GAP_S)
    keep = np.concatenate([np.zeros(count), np.exp(-np.nan_to_num(gap, nan=np.inf) / PACE_S)])[together]
    runs = _faded_sums(
        keep,
        np.stack(
            [
                np.concatenate([known["run_m"], np.where(counts, cleaned.hop_m[rows], 0.0)])[together],
                np.concatenate([known["run_s"], np.where(counts, gap, 0.0)])[together],
            ]
        ),
    )

    known["usable_us"], known["usable_lat"], known["usable_lon"] = at_us[ends], lat[ends], lon[ends]
    known["run_m"], known["run_s"] = runs[0][ends], runs[1][ends]
    _keep_last_two(fixes, cleaned, rows, code, known)
    # The newest to arrive tells the vehicle, in order or not.
    arrived = _last_of(courier, count)
    known["vehicle"] = np.where(arrived >= 0, cleaned.vehicle[arrived], known["vehicle"])

    def back(values: Floats) -> Floats:
        result = np.full(total, np.nan)
        result[places] = values[is_fix]
        return result

    return AsOf(back(lat), back(lon), back(runs[0]), back(runs[1]))


def _faded_sums(keep: Floats, added: NDArray[np.float64]) -> NDArray[np.float64]:
    """s[i] = keep[i] · s[i - 1] + added[i] along the last axis, by doubling (Hillis & Steele 1986)."""
    keep, sums = keep.copy(), added.copy()
    step = 1
    while step < len(keep) and (keep[step:] > _FADED).any():
        sums[:, step:] = sums[:, step:] + keep[step:] * sums[:, :-step]
        keep[step:] = keep[step:] * keep[:-step]
        keep[:step] = 0.0
        step *= 2
    return sums


def _keep_last_two(fixes: Fixes, cleaned: Cleaned, rows: Ints, code: Ints, known: NDArray[np.void]) -> None:
    """The two newest fixes in order of each courier; `rows` are theirs, courier by courier, `code` the
    couriers.
    """
    starts = (
        np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]])) if len(code) else np.empty(0, int)
    )
    ends = np.append(starts[1:], len(code)) - 1
    who = code[ends] if len(code) else np.empty(0, int)
    last = rows[ends] if len(code) else np.empty(0, int)
    alone = ends == starts
    before = rows[np.maximum(ends - 1, 0)] if len(code) else last
    for name, column in (("us", fixes.at_us), ("lat", fixes.lat), ("lon", fixes.lon)):
        known[f"prev_{name}"][who] = np.where(alone, known[f"last_{name}"][who], column[before])
        known[f"last_{name}"][who] = column[last]
    known["last_odd"][who] = cleaned.odd[last]
    known["stage"][who] = fixes.stage[last]
    known["traffic"][who] = fixes.traffic[last]


def _last_of(code: Ints, count: int) -> Ints:
    """Place of the last occurrence of each code, -1 if there is none."""
    last = np.full(count, -1, dtype=np.int64)
    last[code] = np.arange(len(code))
    return last


def _move_orders(
    fixes: Fixes,
    cleaned: Cleaned,
    as_of: AsOf,
    tracks: dict[str, Track],
    book: OrderBook,
    result: Advance,
) -> None:
    """Walk the orders' changes of stage and prediction points."""
    rows = np.array([row for row, order in enumerate(fixes.order_id) if order], dtype=np.int64)
    own_fix = own_fixes(fixes, rows[cleaned.in_order[rows]], tracks, book)
    result.strangers = own_fix.strangers
    rows = np.array(own_fix.rows, dtype=np.int64)
    if not len(rows):
        return
    numbers: dict[str, int] = {}
    code = np.array(
        [numbers.setdefault(fixes.order_id[row], len(numbers)) for row in rows.tolist()], dtype=np.int64
    )
    own = [_track(order_id, tracks) for order_id in numbers]
    by_order = np.argsort(code, kind="stable")
    rows, code = rows[by_order], code[by_order]
    starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))

    stage = fixes.stage[rows]
    before = np.concatenate([[0], stage[:-1]])
    before[starts] = [track.stage for track in own]
    changed = stage != before
    points = changed | _thinned(fixes, rows, code, stage)
    for place in np.flatnonzero(points).tolist():
        _point(
            own[int(code[place])], int(rows[place]), bool(changed[place]), fixes, cleaned, as_of, book, result
        )

    _add_ways(own, code, stage, cleaned.hop_m[rows])
    ends = np.append(starts[1:], len(code)) - 1
    for track, end in zip(own, ends.tolist(), strict=True):
        track.driver_id = fixes.driver_id[int(rows[end])]
        track.last_us = int(fixes.at_us[rows[end]])
    result.tracks = own


def _track(order_id: str, tracks: dict[str, Track]) -> Track:
    track = tracks.get(order_id)
    if track is None:
        track = tracks[order_id] = Track(order_id=order_id, driver_id="")
    return track


def _thinned(fixes: Fixes, rows: Ints, code: Ints, stage: Ints) -> Bools:
    """True at the last fix of each minute and order from which the rule wants a prediction."""
    wanted = np.isin(stage, _MOVING) & (fixes.speed_kph[rows] > MOVING_KPH)
    places = np.flatnonzero(wanted)
    minute = fixes.at_us[rows[places]] // _EVERY_US
    same = (code[places][1:] == code[places][:-1]) & (minute[1:] == minute[:-1])
    points = np.zeros(len(rows), dtype=np.bool_)
    points[places[np.append(~same, True)[: len(places)]]] = True
    return points


def _point(
    track: Track,
    row: int,
    changed: bool,
    fixes: Fixes,
    cleaned: Cleaned,
    as_of: AsOf,
    book: OrderBook,
    result: Advance,
) -> None:
    """One fix at which an order changes its stage or is to be predicted."""
    if track.over:
        return
    at_us = int(fixes.at_us[row])
    here = (float(as_of.here_lat[row]), float(as_of.here_lon[row]))
    if changed:
        track.enter(int(fixes.stage[row]), at_us, here)
    order = book.order(track.order_id)
    if order is None or not believed(order, fixes.driver_id[row], book):
        track.awaiting = True
        return
    if changed and track.stage == TripStage.TRIP_STAGE_DELIVERED:
        result.delivered.append(track)
    if order.cancelled:
        return
    track.awaiting = False
    if order.handed_over and not track.over and order.delivered_us <= at_us:
        # The status counts from its own time on: fixes before it were those of an order under way.
        track.end(order.delivered_us)
        result.delivered.append(track)
    result.cases.append(
        case_of(
            order,
            track,
            driver_id=fixes.driver_id[row],
            at_us=at_us,
            here=here,
            run=(float(as_of.run_m[row]), float(as_of.run_s[row])),
            vehicle=int(cleaned.vehicle[row]),
            traffic=int(fixes.traffic[row]),
            fresh=changed,
        )
    )


def case_of(
    order: KnownOrder,
    track: Track,
    *,
    driver_id: str,
    at_us: int,
    here: tuple[float, float],
    run: tuple[float, float],
    vehicle: int,
    traffic: int,
    fresh: bool,
) -> Case:
    """An order under way as something to be predicted."""
    phase = phase_of(order, track, at_us)
    picked_up_us = track.picked_up_us if track.picked_up_us != NEVER else order.picked_up_us
    return Case(
        order=order,
        driver_id=driver_id,
        phase=phase,
        as_of_us=at_us,
        here=here,
        run_m=run[0],
        run_s=run[1],
        vehicle=vehicle,
        traffic=traffic,
        since_us=track.stage_us,
        picked_up_us=picked_up_us,
        delivered_us=track.delivered_us if track.over else order.delivered_us,
        shown_pickup_us=track.shown_pickup_us,
        shown_delivery_us=track.shown_delivery_us,
        fresh=fresh or phase == Phase.DONE,
    )


def _add_ways(tracks: Sequence[Track], code: Ints, stage: Ints, hop_m: Floats) -> None:
    """Add the metres travelled to each order's legs; standing at a place does not count, positions wander."""
    ways = np.nan_to_num(hop_m)
    approach = np.bincount(
        code, np.where(stage == TripStage.TRIP_STAGE_TO_PICKUP, ways, 0.0), minlength=len(tracks)
    )
    carrying = np.isin(stage, (TripStage.TRIP_STAGE_TO_DESTINATION, TripStage.TRIP_STAGE_DELIVERED))
    carry = np.bincount(code, np.where(carrying, ways, 0.0), minlength=len(tracks))
    for track, approach_m, carry_m in zip(tracks, approach.tolist(), carry.tolist(), strict=True):
        track.approach_m += approach_m
        track.carry_m += carry_m
