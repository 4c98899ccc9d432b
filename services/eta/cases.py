"""One order to be predicted, and many of them as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from waymesh.order.v1.context_pb2 import DeliveryContext

from services.eta.couriers import NEVER
from services.eta.learning import Learned
from services.eta.orders import KnownOrder
from services.eta.predict import Phase, Trips
from services.mesh.tenancy import tenant_of

_NOWHERE: Final = (float("nan"), float("nan"))


@dataclass(slots=True)
class Case:
    """What is known about one order at one time. Times are µs since 1970, NEVER if not known."""

    order: KnownOrder
    driver_id: str
    phase: Phase
    as_of_us: int
    here: tuple[float, float] = _NOWHERE
    """Where the courier is, degrees; NaN if not known."""
    run_m: float = 0.0
    run_s: float = 0.0
    """The courier's way and time of late."""
    vehicle: int = 0
    traffic: int = 0
    since_us: int = NEVER
    picked_up_us: int = NEVER
    delivered_us: int = NEVER
    shown_pickup_us: int = NEVER
    shown_delivery_us: int = NEVER
    """Times of the prediction before, to be held as long as nothing changes."""
    fresh: bool = True
    """The evidence changed in kind (a new stage): nothing is held."""
    context: DeliveryContext | None = None
    """What the asker knows; goes before what the order says."""


def trips_of(cases: Sequence[Case], learned: Learned) -> Trips:
    """Cases as columns."""
    usual = [_usual(case, learned) for case in cases]

    def ints(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(values, dtype=np.int64)

    here = np.array([case.here for case in cases], dtype=np.float64)
    pickup = np.array([case.order.pickup for case in cases], dtype=np.float64)
    dropoff = np.array([case.order.dropoff for case in cases], dtype=np.float64)
    minutes = np.array([four[:4] for four in usual], dtype=np.float64)
    contexts = [_merged(case) for case in cases]
    return Trips(
        phase=ints([case.phase for case in cases]),
        as_of_us=ints([case.as_of_us for case in cases]),
        here_lat=here[:, 0],
        here_lon=here[:, 1],
        pickup_lat=pickup[:, 0],
        pickup_lon=pickup[:, 1],
        dropoff_lat=dropoff[:, 0],
        dropoff_lon=dropoff[:, 1],
        placed_us=ints([case.order.placed_us for case in cases]),
        ready_us=ints([case.order.ready_us for case in cases]),
        picked_up_us=ints([case.picked_up_us for case in cases]),
        since_us=ints([case.since_us for case in cases]),
        run_m=np.array([case.run_m for case in cases], dtype=np.float64),
        run_s=np.array([case.run_s for case in cases], dtype=np.float64),
        vehicle=ints([three[0] for three in contexts]),
        traffic=ints([three[1] for three in contexts]),
        weather=ints([three[2] for three in contexts]),
        batch_size=ints([three[3] for three in contexts]),
        assign_min=minutes[:, 0],
        prep_min=minutes[:, 1],
        dwell_min=minutes[:, 2],
        handover_min=minutes[:, 3],
        tenant=[tenant_of(case.order.order_id) for case in cases],
    )


def _merged(case: Case) -> tuple[int, int, int, int]:
    """Vehicle, traffic, weather and batch size: the asker's word, then what was observed, then the
    order's.
    """
    asked, told = case.context, case.order.context
    vehicle = case.vehicle or told.vehicle_type
    traffic = case.traffic or told.traffic_density
    weather = told.weather
    batch = told.batch_size
    if asked is not None:
        vehicle = asked.vehicle_type or vehicle
        traffic = asked.traffic_density or traffic
        weather = asked.weather or weather
        batch = asked.batch_size or batch
    return vehicle, traffic, weather, batch or 1


def _usual(case: Case, learned: Learned) -> tuple[float, float, float, float]:
    asked = case.context
    merchant, area = case.order.merchant_id, case.order.area
    if asked is not None:
        merchant, area = asked.merchant_id or merchant, asked.area or area
    tenant = tenant_of(case.order.order_id)
    return (
        learned.usual("assign", tenant=tenant, merchant=merchant, area=area),
        learned.usual("prep", tenant=tenant, merchant=merchant, area=area),
        learned.usual("dwell", tenant=tenant, merchant=merchant, area=area),
        learned.usual("handover", tenant=tenant, merchant=merchant, area=area),
    )
