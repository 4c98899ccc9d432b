"""The demo: a simulated fleet at work in a running mesh, through the public stubs alone."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.gps.v1.gps_pb2 import TripStage
from waymesh.order.v1.events_pb2 import Cancellation
from waymesh.order.v1.order_pb2 import OrderStatus
from waymesh.route.v1 import route_service_pb2_grpc
from waymesh.route.v1.route_pb2 import StopKind
from waymesh.route.v1.route_service_pb2 import (
    AllocateDriversRequest,
    CancelOrderRequest,
    GetOrderRequest,
    OptimizeRouteRequest,
    UpsertCouriersRequest,
    UpsertOrdersRequest,
)

from services.sim.accuracy import Accuracy, Forecast
from services.sim.channels import channel
from services.sim.courier import Call, Sighting, SimCourier
from services.sim.demand import Demand
from services.sim.fleet import Fleet
from services.sim.gps_stream import GpsSender, passing
from services.sim.latency import Latencies
from services.sim.watch import PredictionWatch
from services.sim.wording import Wording

Answer = TypeVar("Answer")

NAME: Final = "demo"
_TICK_S: Final = 0.25
_ASK_S: Final = 0.5
_CALL_S: Final = 5.0
_GO_HOME_S: Final = 2.0
_BATCH: Final = 1000
# Couriers are on shift for so long at a time: those of a fleet that was killed go home by themselves,
# seconds.
_SHIFT_S: Final = 60.0
_SHIFT_RENEWED_S: Final = 20.0
# A fast day is behind the clock for so long, real seconds.
_BEHIND_FOR_S: Final = 8 * 3600.0
# What is sent and not yet predicted from is forgotten after so many: not every fix is worth a prediction.
_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Figures:
    """How the demo stands."""

    couriers_free: int
    couriers_busy: int
    waiting: int
    assigned: int
    carried: int
    delivered: int
    accuracy: Accuracy
    gps: Latencies
    """From sending fixes to their acknowledgement."""
    prediction: Latencies
    """From sending a fix to the prediction made of it."""
    allocation: Latencies
    """From placing an order to knowing its courier."""
    trouble: str


@dataclass(slots=True)
class _Open:
    demand: Demand
    asked_at: float
    status: OrderStatus.ValueType = OrderStatus.ORDER_STATUS_PLACED


class Demo:
    """Runs until it is cancelled. `speed`: simulated seconds per second; `started`: the clock's time then,
    epoch s.

    The mesh does not believe fixes from the future, so a day that runs faster than the clock begins far
    enough in the past. Should it catch up after all, it goes on at the clock's own pace.
    """

    def __init__(self, *, couriers: int, speed: float, seed: int, started: float) -> None:
        self._fleet = Fleet(couriers, seed)
        self._speed = speed
        self._lead_s = max(speed - 1, 0) * _BEHIND_FOR_S
        self._began = time.monotonic()
        self._words = Wording(
            f"{NAME}-{uuid.uuid4().hex[:6]}", started - self._lead_s, ready_is_told=speed == 1
        )
        self._orders: dict[str, _Open] = {}
        self._revision = 0
        self._replan: set[str] = set()
        self._accuracy = Accuracy()
        self._allocation = Latencies()
        self._prediction = Latencies()
        self._gps = Latencies()
        self._sent_at: dict[tuple[str, int], float] = {}
        self._delivered = 0
        self._trouble = ""

    async def run(
        self, eta_target: str, route_target: str, every_s: float, show: Callable[[Figures], None]
    ) -> None:
        """Plays the day and shows the figures every so often. Raises grpc.aio.AioRpcError if it is
        refused.
        """
        async with (
            channel(eta_target) as eta_channel,
            channel(route_target) as route_channel,
        ):
            eta = eta_service_pb2_grpc.EtaServiceStub(eta_channel)
            route = route_service_pb2_grpc.RouteServiceStub(route_channel)
            await self._cancel_leftovers(route)
            await self._shift(route)
            watch = PredictionWatch(eta, self._predicted)
            await watch.start()
            sender = GpsSender(eta)
            self._gps = sender.latencies
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._live(route, sender))
                    tasks.create_task(self._follow(route))
                    tasks.create_task(self._renew_shifts(route))
                    tasks.create_task(self._show(every_s, show))
            except* grpc.aio.AioRpcError as group:
                raise group.exceptions[0] from None
            finally:
                await sender.close()
                await watch.close()
                await self._go_home(route)

    @property
    def _now_s(self) -> float:
        """Simulated seconds since the day began."""
        passed_s = time.monotonic() - self._began
        return min(passed_s * self._speed, passed_s + self._lead_s)

    async def _cancel_leftovers(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        """Orders of a fleet that was killed would wait for ever, and be given to this one."""
        dry = await route.AllocateDrivers(
            AllocateDriversRequest(dry_run=True), timeout=_CALL_S, wait_for_ready=True
        )
        waiting = [*(one.order_id for one in dry.unallocated), *(one.order_id for one in dry.allocations)]
        await self._cancel(route, [order_id for order_id in waiting if order_id.startswith(f"{NAME}-")])

    async def _cancel(
        self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", order_ids: Sequence[str]
    ) -> None:
        for order_id in order_ids:
            cancellation = Cancellation(order_id=order_id, reason="the demo has ended")
            with contextlib.suppress(grpc.aio.AioRpcError):  # picked up meanwhile
                await route.CancelOrder(CancelOrderRequest(cancellation=cancellation), timeout=_CALL_S)

    async def _shift(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", *, on: bool = True) -> None:
        self._revision += 1
        until = time.time() + _SHIFT_S if on else None
        couriers = [
            self._words.courier(courier, self._revision, self._now_s, shift_until=until)
            for courier in self._fleet.couriers.values()
        ]
        await self._try(route.UpsertCouriers(UpsertCouriersRequest(couriers=couriers), timeout=_CALL_S))

    async def _renew_shifts(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        while True:
            await asyncio.sleep(_SHIFT_RENEWED_S)
            await self._shift(route)

    async def _go_home(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        """Leaves nothing behind that a later fleet would stumble over, if the mesh still listens."""
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_GO_HOME_S):
                await self._shift(route, on=False)
                await self._cancel(route, [*self._orders])

    async def _live(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", sender: GpsSender) -> None:
        unplaced: list[Demand] = []
        while True:
            step = self._fleet.advance(self._now_s)
            unplaced += step.placed
            if unplaced and await self._place(route, unplaced):
                unplaced = []
            sightings = step.sightings
            for start in range(0, len(sightings), _BATCH):
                part = sightings[start : start + _BATCH]
                for courier, sighting in part:
                    self._remember(courier, sighting)
                await sender.send([self._words.fix(courier, sighting) for courier, sighting in part])
            for _, sighting in sightings:
                self._note(sighting)
            await asyncio.sleep(_TICK_S)

    async def _place(
        self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", placed: Sequence[Demand]
    ) -> bool:
        now = time.monotonic()
        request = UpsertOrdersRequest(orders=[self._words.order(one) for one in placed])
        if await self._try(route.UpsertOrders(request, timeout=_CALL_S)) is None:
            return False
        for one in placed:
            self._orders[self._words.order_id(one)] = _Open(one, now)
        return True

    async def _follow(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        """Learns whom waiting orders were given to, and in which order couriers had best make their stops."""
        while True:
            waiting = [
                order_id
                for order_id, one in self._orders.items()
                if one.status == OrderStatus.ORDER_STATUS_PLACED
            ]
            await asyncio.gather(*(self._ask(route, order_id) for order_id in waiting))
            couriers, self._replan = self._replan, set()
            await asyncio.gather(*(self._ask_for_plan(route, driver_id) for driver_id in couriers))
            await asyncio.sleep(_ASK_S)

    async def _ask(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", order_id: str) -> None:
        answer = await self._try(route.GetOrder(GetOrderRequest(order_id=order_id), timeout=_CALL_S))
        driver_id = answer.order.driver_id if answer is not None else ""
        courier = self._fleet.couriers.get(self._words.unnamed(driver_id))
        if courier is None:
            return
        one = self._orders[order_id]
        one.status = OrderStatus.ORDER_STATUS_ASSIGNED
        self._allocation.add(time.monotonic() - one.asked_at)
        courier.assign(order_id, one.demand)
        if courier.orders > 1:
            self._replan.add(courier.driver_id)

    async def _ask_for_plan(
        self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", driver_id: str
    ) -> None:
        request = OptimizeRouteRequest(driver_id=self._words.named(driver_id))
        answer = await self._try(route.OptimizeRoute(request, timeout=_CALL_S))
        if answer is not None:
            plan = [Call(stop.order_id, stop.kind == StopKind.STOP_KIND_PICKUP) for stop in answer.plan.stops]
            self._fleet.couriers[driver_id].follow(plan)

    async def _show(self, every_s: float, show: Callable[[Figures], None]) -> None:
        while True:
            await asyncio.sleep(every_s)
            show(self._figures())

    async def _try(self, call: Awaitable[Answer]) -> Answer | None:
        """The answer, or None while the service is away or will not: the demo goes on through restarts."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise
            if not passing(error) or not self._trouble:
                self._trouble = f"{error.code().name}: {error.details()}"
            return None

    def _remember(self, courier: SimCourier, sighting: Sighting) -> None:
        """When a fix is sent, until a prediction is made of it."""
        key = self._words.named(courier.driver_id), self._words.at_us(sighting.at_s)
        self._sent_at[key] = time.monotonic()
        if len(self._sent_at) > _REMEMBERED:
            del self._sent_at[next(iter(self._sent_at))]

    def _note(self, sighting: Sighting) -> None:
        """Follows orders by what the couriers do."""
        one = self._orders.get(sighting.order_id)
        if one is None:
            return
        if sighting.stage == TripStage.TRIP_STAGE_TO_DESTINATION:
            one.status = OrderStatus.ORDER_STATUS_PICKED_UP
        elif sighting.stage == TripStage.TRIP_STAGE_DELIVERED:
            del self._orders[sighting.order_id]
            self._delivered += 1
            self._accuracy.delivered(sighting.order_id, self._words.at_us(sighting.at_s))

    def _predicted(self, prediction: EtaPrediction) -> None:
        if not self._words.is_ours(prediction.order_id):
            return
        at_us = prediction.timestamp.ToMicroseconds()
        sent_at = self._sent_at.pop((prediction.driver_id, at_us), None)
        if sent_at is not None:
            self._prediction.add(time.monotonic() - sent_at)
        minutes = prediction.delivery
        self._accuracy.predicted(
            prediction.order_id,
            Forecast(at_us, minutes.p10_minutes, minutes.p50_minutes, minutes.p90_minutes),
        )

    def _figures(self) -> Figures:
        stages = self._fleet.stages()
        free = stages[TripStage.TRIP_STAGE_IDLE]
        statuses = Counter(one.status for one in self._orders.values())
        trouble, self._trouble = self._trouble, ""
        return Figures(
            couriers_free=free,
            couriers_busy=len(self._fleet.couriers) - free,
            waiting=statuses[OrderStatus.ORDER_STATUS_PLACED],
            assigned=statuses[OrderStatus.ORDER_STATUS_ASSIGNED],
            carried=statuses[OrderStatus.ORDER_STATUS_PICKED_UP],
            delivered=self._delivered,
            accuracy=self._accuracy,
            gps=self._gps,
            prediction=self._prediction,
            allocation=self._allocation,
            trouble=trouble,
        )
