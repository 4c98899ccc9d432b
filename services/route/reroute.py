"""Looking again at the stops of couriers under way: in heavy traffic, off the planned way, with a new order.

Wishes are kept in memory only: they come from fixes, and the next fix brings the wish again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1 import route_pb2

from services.mesh import logs
from services.mesh.events import EventBus
from services.mesh.request_id import serving
from services.mesh.store import Store
from services.route import announce, explain, store, store_plans
from services.route.bodies import from_body
from services.route.eta_client import EtaClient
from services.route.fleet import jobs, places
from services.route.limits import MAX_PLANNED, Vehicle, default_limits, relaxed
from services.route.plan_rows import plan_write
from services.route.planner import Task, changes, recommendation
from services.route.settings import RouteSettings
from services.route.stops import Problem, solve, walk
from services.route.store import StoredPlan
from services.route.translate import calls_of, order_work, position_of
from services.route.travel import Place

_log = logging.getLogger(__name__)

# Couriers whose last look is remembered; the oldest are forgotten.
_REMEMBERED = 100_000


class _Wish(NamedTuple):
    cause: str
    seen: Place | None
    request_id: str
    """Empty if several requests lie behind it, or none."""


class Rerouter:
    """Plans the stops of single couriers again, each at most once per `reroute_gap_s` for the same cause."""

    def __init__(
        self,
        database: Store,
        bus: EventBus,
        eta: EtaClient,
        settings: RouteSettings,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._bus = bus
        self._eta = eta
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._wishes: dict[str, _Wish] = {}
        self._looked: dict[str, float] = {}
        self._wanted = asyncio.Event()

    def wish(self, driver_id: str, cause: str, *, at_once: bool = False, seen: Place | None = None) -> None:
        """Look at this courier's stops again because of `cause`.

        `seen` is where the courier is, if the caller knows it from a fix that may not be stored yet.
        Traffic and deviation last, so they count once per gap; a change of orders counts `at_once`.
        """
        now = self._monotonic()
        if not at_once and now - self._looked.get(driver_id, -1e9) < self._settings.reroute_gap_s:
            return
        if len(self._looked) >= _REMEMBERED:
            self._looked.pop(next(iter(self._looked)))
        self._looked.pop(driver_id, None)
        self._looked[driver_id] = now
        request_id = logs.request_id.get()
        earlier = self._wishes.get(driver_id)
        if earlier is not None:
            cause, seen = earlier.cause, seen or earlier.seen
            request_id = request_id if request_id == earlier.request_id else ""
        self._wishes[driver_id] = _Wish(cause, seen, request_id)
        self._wanted.set()

    async def run(self) -> None:
        """Works off wishes until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._wishes:
                driver_id, wish = next(iter(self._wishes.items()))
                del self._wishes[driver_id]
                with serving(wish.request_id):
                    await self.look(driver_id, wish.cause, wish.seen)

    async def look(self, driver_id: str, cause: str, seen: Place | None = None) -> bool:
        """Plans a courier's stops anew and publishes the result if it is better; whether it did."""
        task, before = await self._task(driver_id, seen)
        if task is None:
            return False
        now = self._clock()
        travel, _ = await self._eta.travel(places(task.start, task.orders), task.vehicle, now)
        problem = Problem(travel, jobs(task.orders, now), task.limits)
        best = solve(problem)
        if best is None:
            _log.warning("no route for a courier with too much on board", extra={"driver_id": driver_id})
            return False
        original = walk(problem, task.original)
        better = before is not None and changes(best, original) and self._pays(original.cost - best.cost)
        kept = best if better or before is None else original
        async with self._database.transaction() as conn:
            rows = {row.order_id: row.revision for row in await store.carried(conn, [driver_id])}
            present = await store_plans.plan(conn, driver_id, lock=True)
            if rows != {order.order_id: order.revision for order in task.orders} or present != before:
                return False  # changed meanwhile; whoever changed it wishes for another look
            await store_plans.write_plans(conn, [plan_write(driver_id, task.start, task.orders, kept, now)])
            if not better:
                return False
            reason = f"{cause}: {explain.better_route(original, best) or 'a better order of stops'}"
            version = 1 + (before.version if before is not None else 0)
            optimization = recommendation(task, best, original, reason, now)
            await self._bus.publish(conn, [announce.rerouted(optimization, version)])
        return True

    def _pays(self, saved: int) -> bool:
        """Whether a change is worth telling a courier; `saved` in units of stops.Weights."""
        return saved >= self._settings.reroute_saving_s * 100

    async def _task(self, driver_id: str, seen: Place | None) -> tuple[Task | None, StoredPlan | None]:
        """What there is to plan; None if there is no choice to be made (fewer than two orders)."""
        async with self._database.pool.acquire() as conn:
            rows = await store.carried(conn, [driver_id])
            before = await store_plans.plan(conn, driver_id)
            if not rows:
                if before is not None:
                    await store_plans.drop_plan(conn, driver_id)
                return None, None
            if not 2 <= len(rows) <= MAX_PLANNED:
                return None, None
            body, fix = await store.courier(conn, driver_id)
        courier = Courier(driver_id=driver_id)
        if body is not None:
            courier = from_body(Courier, body, driver_id)
        known = position_of(courier, fix)
        start = seen or (known[0] if known is not None else None)
        if start is None:
            return None, None
        orders = tuple(order_work(from_body(Order, row.body, row.order_id)) for row in rows)
        vehicle = Vehicle(courier.vehicle_type)
        plan = route_pb2.RoutePlan()
        if before is not None:
            plan = from_body(route_pb2.RoutePlan, before.body, driver_id)
        return (
            Task(
                driver_id,
                start,
                self._clock(),
                vehicle,
                orders,
                # What is on board has to be brought somewhere, whatever limits are broken by now.
                relaxed(default_limits(vehicle, courier.capacity)),
                tuple(calls_of(plan, orders)),
            ),
            before,
        )
